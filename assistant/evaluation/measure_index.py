"""Measures knowledge at size: `python -m assistant.evaluation.measure_index [--vectors 1000000] [--pages 1000]` prints one JSON object.

vectors  a search among so many: each a mixture of two texts' vectors, one of them among the ten texts nearest to the other, with
         a little noise; the questions are other texts. Milliseconds of the index alone, and recall@10 beside comparing all
pages    how many pages a second become a brick: pages of 1,800 characters of passages, as plain text files

Needs MATTONI_DATA and, for a million vectors, 6 GB.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from assistant.bricks.knowledge import add_knowledge
from assistant.host.catalogue import BUILTIN_EMBEDDER, fetch
from assistant.host.embedder import Embedder
from knowledge_bricks.vector_index import VectorIndex, make_cells
from mattoni.errors import run_command
from mattoni.inputs import Attachment
from mattoni.lines import json_rows
from mattoni.paths import training_data

_TEXTS = ("chat-train", "reading-passages-dev", "functions-dev")
_QUESTIONS, _NEAREST, _NOISE, _PAGE = 200, 10, 0.2, 1800

Vectors = NDArray[np.float32]


def many_vectors(real: Vectors, count: int, seed: int) -> Vectors:
    """So many unit vectors like the real ones: (count, width)."""
    random = np.random.default_rng(seed)
    near = np.argsort(-(real @ real.T), axis=1)[:, 1 : _NEAREST + 1]
    first = random.integers(len(real), size=count)
    second = near[first, random.integers(near.shape[1], size=count)]
    share = random.random((count, 1), dtype=np.float32)
    made: Vectors = share * real[first] + (1 - share) * real[second]
    made += _NOISE / np.sqrt(real.shape[1]) * random.standard_normal(made.shape, dtype=np.float32)
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    return made


def measure_search(vectors: Vectors, questions: Vectors, k: int = 10) -> dict[str, Any]:
    """Milliseconds of one search, and what of the `k` nearest it finds, beside comparing all."""
    start = time.perf_counter()
    cells = make_cells(vectors)
    made = time.perf_counter() - start
    index = VectorIndex(vectors, cells)
    taken, exact, found = [], [], []
    for question in questions:
        start = time.perf_counter()
        near = index.nearest(question, k)
        taken.append(1000 * (time.perf_counter() - start))
        start = time.perf_counter()
        right = np.argpartition(-(vectors @ question), k)[:k]
        exact.append(1000 * (time.perf_counter() - start))
        found.append(len(set(near) & set(right)) / k)
    return {
        "vectors": len(vectors),
        "questions": len(questions),
        f"recall@{k}": round(float(np.mean(found)), 4),
        "ms": {"median": round(float(np.median(taken)), 2), "95th of 100": round(float(np.quantile(taken, 0.95)), 2)},
        "ms of comparing all": round(float(np.median(exact)), 1),
        "seconds to make": round(made, 1),
    }


def measure_pages(texts: Sequence[str], count: int, embedder: Embedder) -> dict[str, Any]:
    """Pages a second, from plain text files to a brick that can be asked."""
    whole = "\n\n".join(texts)
    pages = [whole[start : start + _PAGE] for start in range(0, len(whole) - _PAGE, _PAGE)]
    files = [
        Attachment(f"page-{n}.txt", f"Page {n}\n\n{page}".encode())
        for n, page in enumerate(islice(cycle(pages), count))
    ]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        add_knowledge("pages", files, Path(folder), embedder=embedder, read=None)
        taken = time.perf_counter() - start
    return {
        "pages": count,
        "characters a page": _PAGE,
        "seconds": round(taken, 1),
        "pages a second": round(count / taken, 1),
    }


def main() -> None:
    """Command line of `python -m assistant.evaluation.measure_index`."""
    parser = argparse.ArgumentParser(
        prog="python -m assistant.evaluation.measure_index",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--pages", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    data, embedder = training_data() / "text", Embedder(fetch(BUILTIN_EMBEDDER))
    texts = {name: [row.value["text"] for row in json_rows(data / f"{name}.jsonl")] for name in _TEXTS}
    report: dict[str, Any] = {"seed": given.seed, "threads": torch.get_num_threads()}
    if given.pages:
        report["pages"] = measure_pages(texts["reading-passages-dev"], given.pages, embedder)
    if given.vectors:
        real = embedder.embed([text[:400] for part in texts.values() for text in part]).numpy()
        asked = [row.value["question"] for row in json_rows(data / "reading-dev.jsonl")]
        questions = embedder.embed(asked[:_QUESTIONS]).numpy()
        report["search"] = measure_search(many_vectors(real, given.vectors, given.seed), questions)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    run_command(main)
