"""Triples whose entities a message names, put before the question like passages (`knowledge_bricks/graph.py`)."""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import NonNegativeInt
from torch import Tensor
from torch.nn import functional

from knowledge_bricks.graph import TRIPLES, Graph, read_triples
from mattoni.cache import RecentlyUsed
from mattoni.methods import Method, Parts
from mattoni.runtime import Asked, BrickFiles, BrickRuntime, HostView, Injected
from mattoni.trace import Candidate, Citation

# Nearness of a message to a relation from which that is asked for: all of countries-train come so near, and of 13 messages of
# chat-train that name a country 5; docs/experiments.md.
THRESHOLD = 0.2
_MOST = 2  # entities of which something is told in a turn
# How one asks for a relation. Their mean finds the right one for 95.5 % of countries-train, the first alone for 90.0, the second for 95.7.
_ASKED = ("What is the {}?", "Which {}?")


class GraphParts(Parts):
    """What a card says of such a brick."""

    method: Literal["graph"]
    triples: NonNegativeInt = 0
    source: str = ""  # the file that it was made from


class GraphRuntime(BrickRuntime):
    """A graph, and the vectors of its relations' words."""

    def __init__(self, brick: BrickFiles, graph: Graph) -> None:
        super().__init__(brick)
        self._graph = graph
        self._phrases: RecentlyUsed[Tensor] = RecentlyUsed(2)

    def inject(self, asked: Asked) -> Injected:
        """What the graph knows of the message's entities, by the relations that it asks for."""
        name = self.brick.name
        found = self._graph.ask(asked.question, lambda text, relations: self._near(asked, text, relations), -1.0)
        threshold = THRESHOLD if self.brick.threshold is None else self.brick.threshold
        # Of each entity the nearest relation alone: a small host takes what stands beside the right one.
        nearest = {one.entity: one for one in reversed(found) if one.score >= threshold}
        near = sorted(nearest.values(), key=lambda one: one.score, reverse=True)[:_MOST]
        return Injected(
            citations=tuple(Citation(name, self.brick.parts.source, k.place, k.score, k.sentence) for k in near),
            score=Candidate(name, "knowledge", found[0].score, threshold, "message") if found else None,
            is_empty=not near,
        )

    def _near(self, asked: Asked, text: str, relations: Sequence[str]) -> Tensor:
        # Only now, as most messages name no entity: the embedder may not be loaded yet.
        assert asked.embedder is not None
        embedder = asked.embedder()

        def phrases() -> Tensor:
            ways = [embedder.embed([way.format(relation) for relation in relations]) for way in _ASKED]
            return functional.normalize(torch.stack(ways).sum(dim=0), dim=1)

        return torch.mv(self._phrases.get(embedder.digest, phrases), embedder.embed([text])[0])


def _load(brick: BrickFiles, host: HostView) -> GraphRuntime:
    content = (brick.folder / TRIPLES).read_text(encoding="utf-8")
    return GraphRuntime(brick, Graph(read_triples(content, f"{brick.name}/{TRIPLES}")))


METHODS = (Method("graph", GraphParts, _load, accepts=frozenset({"text"}), chosen_by="itself"),)
