"""Measures passages that were read before: `python -m assistant.evaluation.measure_prefilled OUT.jsonl [--limit 40] [--ways WAY …] [--lora FOLDER]`.

Rows of reading-dev (below MATTONI_DATA), three passages of the row's article, the right one last; the host's plain weights, greedy, 32
tokens. Every way of using passages that were read apart (`assistant/evaluation/prefilled.py`) answers the same token ids
beside a fresh reading of all, which is the baseline. Then the time to the first token of some 2,000 tokens of passages, in turn,
medians of three. A LoRA acts on all ways alike. Answers are kept in OUT, so that what was answered once is not asked again; one JSON
object is printed.
"""

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mattoni.torchvision_ops  # noqa: F401  (before transformers)

import torch
from torch import Tensor

from assistant.evaluation.prefilled import (
    KeyValues,
    beside,
    compute,
    decode,
    first_of_each,
    in_place,
    most_changed,
    path_likelihoods,
    read,
    read_behind,
)
from assistant.host.composition import compose, composed
from assistant.host.host import Host, load_host
from assistant.host.prompt import ASK_PASSAGES, Turn, build_prompt, opening
from assistant.host.rotary import frequencies_of
from mattoni.errors import MattoniError, run_command
from mattoni.injections import Text
from mattoni.lines import json_rows
from mattoni.metrics import bootstrap, f1, paired_difference, paired_ratio
from mattoni.paths import training_data
from task_bricks.lora import read_lora

FRESH = "fresh"
_PASSAGES, _MOST = 3, 32
_TIMED_TOKENS, _TIMES = 2000, 3


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description="Measures passages that were read before.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--limit", type=int, default=40)
    parser.add_argument("--skip", type=int, default=0, help="so many of the first rows")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--lora", type=Path)
    parser.add_argument("--dtype", default="auto")
    given = parser.parse_args()
    rows, articles = reading_rows(given.skip, given.limit)
    host = load_host(dtype=given.dtype)
    composition = compose(host, [read_lora(given.lora)] if given.lora else [])
    with torch.inference_mode(), composed(host, composition):
        scores = measure(host, rows, articles, given.out, given.ways)
        report = figures(scores) | {"first token": first_token(host, rows[0]["question"], articles, given.ways)}
    print(json.dumps(report, indent=2))
    return 0


def reading_rows(skip: int, limit: int) -> tuple[list[dict[str, Any]], dict[str, list[dict[str, str]]]]:
    """So many rows of reading-dev behind the first `skip`, and the passages of all articles by title. Raises MattoniError for none."""
    data = training_data() / "text"
    articles: dict[str, list[dict[str, str]]] = {}
    for row in json_rows(data / "reading-passages-dev.jsonl"):
        articles.setdefault(row.value["title"], []).append(row.value)
    rows = [row.value for row in json_rows(data / "reading-dev.jsonl")][skip:][:limit]
    if not rows:
        raise MattoniError("There is nothing to ask: give --limit a number above 0.")
    return rows, articles


@dataclass(frozen=True)
class Asked:
    """A prompt in token ids: what all prompts begin with, the passages, and the tail; the question ends `after` before it ends."""

    beginning: tuple[int, ...]
    passages: tuple[tuple[int, ...], ...]
    tail: tuple[int, ...]
    question: int
    after: int

    @property
    def ids(self) -> list[int]:
        """All of it."""
        return [*self.beginning, *(i for passage in self.passages for i in passage), *self.tail]


@dataclass(frozen=True, eq=False)
class Ready:
    """A prompt whose answer can begin: keys and values, the answer's first position, and the last token's logits."""

    held: KeyValues
    position: int
    logits: Tensor  # (1, vocabulary)


def ask(host: Host, passages: Sequence[dict[str, str]], question: str) -> Asked:
    """The prompt of passages, each under its article's name, and a question about them."""
    texts = [*(f"{p['title']}:\n{p['text']}\n\n" for p in passages), ASK_PASSAGES, question]
    prompt = build_prompt(host.tokenizer, [*opening(host), Turn("user", tuple(map(Text, texts)))])
    pieces = [piece for piece in prompt.pieces if isinstance(piece, tuple)]
    beginning, *read_before = pieces[: 1 + len(passages)]
    tail, asked, after = pieces[1 + len(passages) :]
    return Asked(beginning, tuple(read_before), (*tail, *asked, *after), len(asked), len(after))


def fresh(host: Host, asked: Asked) -> Ready:
    """All of it read now."""
    held, logits = read(host.model, asked.ids)
    return Ready(held, held.columns, logits[:, -1])


def _behind(
    host: Host, asked: Asked, held: KeyValues, again: Tensor | None = None, position: int | None = None
) -> Ready:
    """The tail, and the columns of `again`, computed behind passages that lie side by side.

    position  the tail's first; None: its column
    """
    n = len(asked.tail)
    grown = held.grown(n)
    tail = torch.arange(held.columns, grown.columns)
    ids = torch.tensor([asked.tail])
    if again is not None:
        ids = torch.cat((torch.tensor([asked.ids])[:, again], ids), dim=1)
        logits = compute(host.model, grown, ids, torch.cat((again, tail)))
        return Ready(grown, grown.columns, logits[:, -1])
    begin = held.columns if position is None else position
    logits = compute(host.model, grown, ids, tail, begin + torch.arange(n)[None])
    return Ready(grown, begin + n, logits[:, -1])


@dataclass(frozen=True)
class Apart:
    """What was read before the question is known."""

    beginning: KeyValues
    passages: list[KeyValues]

    @property
    def lengths(self) -> list[int]:
        """Columns of each passage."""
        return [passage.columns for passage in self.passages]


Way = Callable[[Host, Asked, Apart], Ready]


def side_by_side(host: Host, asked: Asked, apart: Apart) -> Ready:
    """Keys turned into their places, nothing computed again (TurboRAG without its training)."""
    return _behind(host, asked, in_place(apart.beginning, apart.passages, frequencies_of(host.model)))


def first_again(count: int) -> Way:
    """The first tokens of each passage computed again (EPIC)."""

    def way(host: Host, asked: Asked, apart: Apart) -> Ready:
        held = in_place(apart.beginning, apart.passages, frequencies_of(host.model))
        return _behind(host, asked, held, first_of_each(len(asked.beginning), apart.lengths, count))

    return way


def changed_again(share: float) -> Way:
    """The tokens whose values in the second layer differ most computed again (CacheBlend)."""

    def way(host: Host, asked: Asked, apart: Apart) -> Ready:
        held = in_place(apart.beginning, apart.passages, frequencies_of(host.model))
        ids = asked.ids[: held.columns]
        return _behind(host, asked, held, most_changed(host.model, held, ids, len(asked.beginning), share))

    return way


def parallel(sharpness: float = 1.0) -> Way:
    """All passages at the same positions (Parallel Context Windows); their keys made longer (the temperature of APE, 3.2)."""

    def way(host: Host, asked: Asked, apart: Apart) -> Ready:
        passages = [KeyValues(p.keys * sharpness, p.values) for p in apart.passages]
        held = beside((apart.beginning, *passages))
        return _behind(host, asked, held, position=apart.beginning.columns + max(apart.lengths))

    return way


def superposed(most: int) -> Way:
    """Only the passages behind which the question is likeliest, in their order (Superposition Prompting, 3.2 and 3.3)."""

    def way(host: Host, asked: Asked, apart: Apart) -> Ready:
        likelihoods = path_likelihoods(
            host.model, apart.beginning, apart.passages, asked.tail[: len(asked.tail) - asked.after], asked.question
        )
        chosen = sorted(likelihoods.topk(min(most, len(apart.passages))).indices.tolist())
        held = in_place(apart.beginning, [apart.passages[i] for i in chosen], frequencies_of(host.model))
        return _behind(host, asked, held)

    return way


WAYS: dict[str, Way] = {
    "side by side": side_by_side,
    "first 12 again": first_again(12),
    "first 24 again": first_again(24),
    "changed 15 % again": changed_again(0.15),
    "parallel": parallel(),
    "parallel, sharper": parallel(1.1),
    "likeliest alone": superposed(1),
    "likeliest two": superposed(2),
}


def read_before(host: Host, asked: Asked) -> Apart:
    """The passages, each read behind the beginning alone."""
    beginning, _ = read(host.model, asked.beginning)
    return Apart(beginning, [read_behind(host.model, beginning, passage) for passage in asked.passages])


def measure(
    host: Host,
    rows: Sequence[dict[str, Any]],
    articles: dict[str, list[dict[str, str]]],
    out: Path,
    names: Sequence[str],
) -> dict[str, list[float]]:
    """F1 of each row by way, the fresh reading first; an answer that is kept is not asked for again."""
    kept: dict[str, dict[str, str]] = {}
    for line in json_rows(out) if out.exists() else []:
        kept.setdefault(line.value["id"], {}).update(line.value["answers"])
    for count, row in enumerate(rows, start=1):
        missing = [name for name in (FRESH, *names) if name not in kept.get(row["id"], {})]
        if not missing:
            continue
        answers = answer(host, three_passages(row, articles), row["question"], missing)
        kept.setdefault(row["id"], {}).update(answers)
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"id": row["id"], "answers": answers}) + "\n")
        print(f"{count} of {len(rows)}", file=sys.stderr, flush=True)
    return {name: [f1(kept[row["id"]][name], row["answers"]) for row in rows] for name in (FRESH, *names)}


def three_passages(row: dict[str, Any], articles: dict[str, list[dict[str, str]]]) -> list[dict[str, str]]:
    """Two other passages of the row's article, always the same, and the right one."""
    article = articles[row["title"]]
    others = [passage for passage in article if passage["passage_id"] != row["passage_id"]]
    (right,) = (passage for passage in article if passage["passage_id"] == row["passage_id"])
    return [*random.Random(row["id"]).sample(others, _PASSAGES - 1), right]


def answer(host: Host, passages: Sequence[dict[str, str]], question: str, names: Sequence[str]) -> dict[str, str]:
    """Each way's answer, decoded together."""
    asked = ask(host, passages, question)
    apart = read_before(host, asked)
    ready = [fresh(host, asked) if name == FRESH else WAYS[name](host, asked, apart) for name in names]
    logits = torch.cat([one.logits for one in ready])
    held, positions = [one.held for one in ready], [one.position for one in ready]
    said = decode(host.model, held, positions, logits, host.stop_ids, _MOST)
    return {
        name: str(host.tokenizer.decode(ids, skip_special_tokens=True)) for name, ids in zip(names, said, strict=True)
    }


def figures(scores: dict[str, list[float]]) -> dict[str, Any]:
    """F1 of each way, and beside the fresh reading the difference and the ratio, in pairs."""
    told = {}
    for way, some in scores.items():
        told[way] = {"F1": sum(some) / len(some), "interval": bootstrap(some)}
        if way != FRESH:
            told[way]["less fresh"] = paired_difference(some, scores[FRESH])
            told[way]["by fresh"] = paired_ratio(some, scores[FRESH])
    return {"n": len(scores[FRESH]), "ways": told}


def first_token(
    host: Host, question: str, articles: dict[str, list[dict[str, str]]], names: Sequence[str]
) -> dict[str, Any]:
    """Seconds to the first token's logits behind some 2,000 tokens of passages: medians, the ways in turn."""
    every = [passage for title in sorted(articles) for passage in articles[title]]
    count = 1
    while sum(map(len, ask(host, every[:count], question).passages)) < _TIMED_TOKENS:
        count += 1
    asked = ask(host, every[:count], question)
    apart = read_before(host, asked)
    seconds: dict[str, list[float]] = {name: [] for name in (FRESH, *names)}
    for _ in range(_TIMES):
        with _timed(seconds[FRESH]):
            fresh(host, asked)
        for name in names:
            with _timed(seconds[name]):
                WAYS[name](host, asked, apart)
    medians = {way: statistics.median(some) for way, some in seconds.items()}
    sooner = {way: medians[FRESH] / some for way, some in medians.items() if way != FRESH}
    tokens = {"passages": count, "tokens": len(asked.ids), "tail": len(asked.tail)}
    return tokens | {"process seconds": medians, "times sooner": sooner}


@contextmanager
def _timed(into: list[float]) -> Iterator[None]:
    """The process's own seconds: others have the machine too, and one thread computes."""
    began = time.process_time()
    yield
    into.append(time.process_time() - began)


if __name__ == "__main__":
    run_command(main)
