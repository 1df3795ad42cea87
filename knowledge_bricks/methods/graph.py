"""Triples whose entities a message names, put before the question like passages (`knowledge_bricks/graph.py`)."""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import NonNegativeInt
from torch import Tensor

from knowledge_bricks.graph import TRIPLES, Graph, read_triples
from mattoni.cache import RecentlyUsed
from mattoni.methods import Method, Parts
from mattoni.runtime import Asked, BrickFiles, BrickRuntime, HostView, Injected, TextEmbedder
from mattoni.trace import Candidate, Citation

# Nearness of a message to "What is the RELATION?" from which that is asked for. Chosen on countries-train, where 95 % of the
# messages come as near to a relation, and chat-train; docs/experiments.md.
THRESHOLD = 0.25
_MOST = 2  # relations that are told in a turn
# How far behind the nearest the second may be to be told too: of 160 questions of countries-train as many are answered as if it
# always were, in a quarter of which two are told.
_BEHIND = 0.08


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
        if not self._graph.entities(asked.question):
            return Injected(is_empty=True)
        assert asked.embedder is not None
        embedder = asked.embedder()
        found = self._graph.ask(asked.question, lambda text, phrases: self._near(embedder, text, phrases), -1.0)
        threshold = THRESHOLD if self.brick.threshold is None else self.brick.threshold
        near = [k for k in found if k.score >= max(threshold, found[0].score - _BEHIND)][:_MOST]
        return Injected(
            citations=tuple(Citation(name, self.brick.parts.source, k.place, k.score, k.sentence) for k in near),
            score=Candidate(name, "knowledge", found[0].score, threshold, "message") if found else None,
            is_empty=not near,
        )

    def _near(self, embedder: TextEmbedder, text: str, phrases: Sequence[str]) -> Tensor:
        vectors = self._phrases.get(embedder.digest, lambda: embedder.embed(phrases))
        return torch.mv(vectors, embedder.embed([text])[0])


def _load(brick: BrickFiles, host: HostView) -> GraphRuntime:
    content = (brick.folder / TRIPLES).read_text(encoding="utf-8")
    return GraphRuntime(brick, Graph(read_triples(content, f"{brick.name}/{TRIPLES}")))


METHODS = (Method("graph", GraphParts, _load, accepts=frozenset({"text"}), chosen_by="itself"),)
