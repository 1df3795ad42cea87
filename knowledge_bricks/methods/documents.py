"""Documents as passages that are looked up on every message and put before the question (`knowledge_bricks/documents.py`)."""

from typing import Literal

from pydantic import NonNegativeInt

from knowledge_bricks.documents import Documents, Hit, load_documents
from knowledge_bricks.passages import Passage
from mattoni.errors import MattoniError
from mattoni.methods import Method, Parts
from mattoni.runtime import Asked, BrickFiles, BrickRuntime, HostView, Injected
from mattoni.trace import Candidate, Citation

PASSAGES_PER_TURN = 3


class DocumentsParts(Parts):
    """What a card says of such a brick."""

    method: Literal["documents"]
    documents: NonNegativeInt = 0
    passages: NonNegativeInt = 0
    embedder: str = ""  # digest of the text embedder that made the passages' vectors
    search_ms: float = 0.0  # what a search took where it was made
    watch: str = ""  # the folder whose files these are, which is looked at before every turn

    @property
    def costs(self) -> tuple[str, ...]:
        """What it holds, and what a message pays for it."""
        documents, passages = (_counted(self.documents, "document"), _counted(self.passages, "passage"))
        return (documents, passages, *([f"{self.search_ms:.2g} ms a search"] if self.search_ms else ()))

    @property
    def given_away(self) -> "DocumentsParts":
        """Nobody else has the folder that is watched here."""
        return self.model_copy(update={"watch": ""})


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


class DocumentsRuntime(BrickRuntime):
    """Opened documents, ready to be searched."""

    def __init__(self, brick: BrickFiles, documents: Documents) -> None:
        super().__init__(brick)
        self._documents = documents

    def passages(self, document: str) -> list[Passage]:
        """The passages of one document, in reading order."""
        return self._documents.of(document)

    def inject(self, asked: Asked) -> Injected:
        """The passages that answer the message best; none where the best is not near enough."""
        assert asked.embedder is not None
        embedder, name = asked.embedder(), self.brick.name
        if self.brick.parts.embedder != embedder.digest:
            raise MattoniError(f"{name} was made with another text embedder: remove it and add its documents again.")
        threshold = self.brick.threshold
        if threshold is None:
            raise MattoniError(
                f"{name}/brick.yaml: routes is missing, and with it the threshold; add these documents again."
            )
        hits = self._documents.search(embedder.embed([asked.question])[0], asked.question, PASSAGES_PER_TURN)
        near = hits if hits[0].score >= threshold else []
        return Injected(
            citations=tuple(_citation(name, hit) for hit in near),
            score=Candidate(name, "knowledge", hits[0].score, threshold, "message"),
            is_empty=not near,
        )


def _citation(brick: str, hit: Hit) -> Citation:
    return Citation(brick, hit.passage.document, hit.passage.place, hit.score, hit.passage.text)


def _load(brick: BrickFiles, host: HostView) -> DocumentsRuntime:
    return DocumentsRuntime(brick, load_documents(brick.folder))


METHODS = (Method("documents", DocumentsParts, _load, accepts=frozenset({"text"}), chosen_by="itself"),)
