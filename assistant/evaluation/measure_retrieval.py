"""Measures how well documents are found: `python -m assistant.evaluation.measure_retrieval` prints one JSON object.

Needs MATTONI_DATA. Every passage of reading-passages-dev is a document of one brick, built and searched as a user's
would be. Beside the search stand its two halves, dense vectors alone and BM25 alone.
"""

import json
import math
import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from assistant.bricks.knowledge import add_knowledge
from assistant.host.catalogue import BUILTIN_EMBEDDER, fetch
from assistant.host.embedder import Embedder
from assistant.registry import Brick, Registry
from knowledge_bricks.documents import Documents, load_documents, searched_text
from knowledge_bricks.methods.documents import PASSAGES_PER_TURN, DocumentsRuntime
from mattoni.inputs import Attachment
from mattoni.lines import json_rows
from mattoni.paths import training_data
from mattoni.runtime import Asked
from mattoni.trace import Citation

_TOPS = (1, 3, 5)
# What no document here answers; the first was used to choose the threshold.
_UNANSWERED = ("chat-train", "chat-dev", "plain-lookalikes-dev", "picture-questions-dev")


def main() -> None:
    """Print the figures."""
    print(json.dumps(measure(training_data() / "text", Embedder(fetch(BUILTIN_EMBEDDER))), indent=2))


def measure(data: Path, embedder: Embedder) -> dict[str, Any]:
    """All figures, as shares of 1, with the number of questions behind each."""
    questions = _lines(data / "reading-dev.jsonl")
    texts = [row["question"] for row in questions]
    right = [f"{row['passage_id']}.txt" for row in questions]
    with tempfile.TemporaryDirectory() as scratch:
        passages = [
            Attachment(f"{row['passage_id']}.txt", f"{row['title']}\n\n{row['text']}".encode())
            for row in _lines(data / "reading-passages-dev.jsonl")
        ]
        brick = _brick("reading", passages, Path(scratch), embedder)
        documents = load_documents(brick.folder)
        vectors = embedder.embed(texts)
        reading = {
            "n": len(questions),
            "documents": len(passages),
            "passages": len(documents.passages),
            "cited": _cited(brick, texts, right, embedder),
            "among the first": {
                "search": _tops(documents, _searched(documents, texts, vectors), right),
                "dense alone": _tops(documents, (vectors @ documents.vectors.T).argsort(dim=1, descending=True), right),
                "BM25 alone": _tops(documents, bm25(documents, texts).argsort(dim=1, descending=True), right),
            },
        }
        articles = sorted((data / "cartridge-dev").glob("*.txt"))
        long = _brick("long", [Attachment(a.name, a.read_bytes()) for a in articles], Path(scratch), embedder)
        asked = [row["question"] for a in articles for row in _lines(a.with_suffix(".jsonl"))]
        return {
            "reading-dev": reading,
            "threshold": {
                "reading's brick": _threshold(brick),
                "the brick of three long documents": _threshold(long),
                "answered questions that get passages": {
                    "reading-dev": _share_with_passages(brick, texts, embedder),
                    "cartridge-dev, three long documents": _share_with_passages(long, asked, embedder),
                },
                "messages that get none": {
                    name: _share_without(brick, [row["text"] for row in _lines(data / f"{name}.jsonl")], embedder)
                    for name in _UNANSWERED
                },
                "cartridge-dev's questions that get none from reading's passages": _share_without(
                    brick, asked, embedder
                ),
                "reading-dev's questions that get none from cartridge's documents": _share_without(
                    long, texts, embedder
                ),
            },
        }


def bm25(documents: Documents, texts: Sequence[str], k1: float = 1.5, b: float = 0.75) -> Tensor:
    """Scores of plain BM25 with Lucene's inverse document frequency (Robertson & Zaragoza 2009): (texts, passages)."""
    bags = [Counter(re.findall(r"\w+", searched_text(passage).casefold())) for passage in documents.passages]
    lengths = torch.tensor([bag.total() for bag in bags], dtype=torch.float32)
    norm = k1 * (1 - b + b * lengths / lengths.mean())
    scores = torch.zeros(len(texts), len(bags))
    for row, text in enumerate(texts):
        for word in re.findall(r"\w+", text.casefold()):
            counts = torch.tensor([bag[word] for bag in bags], dtype=torch.float32)
            found = int((counts > 0).sum())
            scores[row] += math.log1p((len(bags) - found + 0.5) / (found + 0.5)) * counts / (counts + norm)
    return scores


def _lines(path: Path) -> list[dict[str, Any]]:
    return [row.value for row in json_rows(path)]


def _brick(name: str, files: Sequence[Attachment], folder: Path, embedder: Embedder) -> Brick:
    add_knowledge(name, files, folder, embedder=embedder, read=None)
    return Registry([folder]).scan().get(name)


def _threshold(brick: Brick) -> float | None:
    return brick.card.routes.threshold if brick.card.routes else None


def _searched(documents: Documents, texts: Sequence[str], vectors: Tensor) -> list[list[int]]:
    rows = {passage: row for row, passage in enumerate(documents.passages)}
    hits = [documents.search(v, text, max(_TOPS)) for v, text in zip(vectors, texts, strict=True)]
    return [[rows[hit.passage] for hit in found] for found in hits]


def _tops(documents: Documents, ranked: Tensor | list[list[int]], right: Sequence[str]) -> dict[str, float]:
    """Share of questions whose passage is among the first ranked rows."""
    named = [[documents.passages[int(row)].document for row in rows[: max(_TOPS)]] for rows in ranked]
    return {str(k): _share([name in names[:k] for names, name in zip(named, right, strict=True)]) for k in _TOPS}


def _cited(brick: Brick, texts: Sequence[str], right: Sequence[str], embedder: Embedder) -> dict[str, float]:
    """The right passage is among those that a turn would cite, threshold and all."""
    found = [_found(brick, text, embedder) for text in texts]
    share = _share([name in [c.document for c in cited] for cited, name in zip(found, right, strict=True)])
    return {f"the right passage among {PASSAGES_PER_TURN}": share}


def _share_with_passages(brick: Brick, texts: Sequence[str], embedder: Embedder) -> dict[str, float]:
    return {"n": len(texts), "share": _share([bool(_found(brick, text, embedder)) for text in texts])}


def _opened(brick: Brick) -> DocumentsRuntime:
    return DocumentsRuntime(brick, _documents(brick.folder, brick.digest))


@cache
def _documents(folder: Path, digest: str) -> Documents:
    """Read once, as in the assistant; a card cannot be a key."""
    return load_documents(folder)


def _found(brick: Brick, text: str, embedder: Embedder) -> tuple[Citation, ...]:
    """What a turn would cite."""
    return _opened(brick).inject(Asked(text, embedder=lambda: embedder)).citations


def _share_without(brick: Brick, texts: Sequence[str], embedder: Embedder) -> dict[str, float]:
    found = _share_with_passages(brick, texts, embedder)
    return {"n": len(texts), "share": round(1 - found["share"], 4)}


def _share(values: Sequence[bool]) -> float:
    return round(sum(values) / len(values), 4)


if __name__ == "__main__":
    main()
