"""Whether a vLLM server says what the local engine says: `python -m assistant.evaluation.same_tokens --url URL OUT`

The same jobs, prepared once with the shipped bricks, are decoded greedily by both, one after the other: in turn a text (chat), a
photograph, a text with one skill or a mix of two, and a photograph with the like. Prints one JSON object: how many answers have
the same tokens, how many tokens stand before the first that differs, and of each answer that differs that place, both tokens
and the *margin*: how much likelier the engine that went on found its own token there, in nats. Beside it the *noise*: how far
apart the engines' log probabilities of the same token lie where they still agree. What differs at a margin below twice the 99th
percentile of the noise is a tie that rounding decides; the rest is counted as unexplained.

Both round alike only with one dtype: `--dtype float32` with a server of `--dtype float32` leaves next to no noise, and so shows whether
anything but rounding differs. OUT gets the rows, and a line for each turn as it comes, so that a run can be stopped, gone on with and
widened: name a new folder for each state of the code, of the bricks or of the server. Needs MATTONI_DATA.
"""

import argparse
import itertools
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from assistant.evaluation.asking import Row, attachments_of, read_rows, write_lines
from assistant.evaluation.rows import write_rows
from assistant.host.engines import KEY
from assistant.host.host import Host, load_host
from assistant.host.job import Engine, Job, Score
from assistant.host.local import LocalEngine
from assistant.host.sampling import Sampling
from assistant.host.vllm import VllmEngine
from assistant.host.vllm_wire import has_soft_tokens
from assistant.registry import Registry
from assistant.turn.answer import job_of
from assistant.turn.prepare import Preparation, Watcher
from assistant.turn.request import Request
from assistant.turn.route import Choice, Choices
from mattoni.errors import MattoniError, run_command
from mattoni.injections import LowRank
from mattoni.lines import json_rows
from mattoni.paths import shipped_models, training_data
from mattoni.trace import Trace

KINDS = ("text", "photo", "skill", "photo with skill")
_PHOTO = "photo"
_LIKELIEST = 5
# Rows of these sets in turn, with these skills and their strengths.
_SKILLS: tuple[tuple[str, Mapping[str, float]], ...] = (
    ("translation-de", {"english-german": 1.0}),
    ("translation-fr", {"english-french": 0.8}),
    ("sentiment", {"sentiment": 1.0}),
    ("translation-de", {"english-german": 0.7, "sentiment": 0.4}),
)


@dataclass(frozen=True)
class Turn:
    """A job, and what it is one of."""

    id: str
    kind: str
    job: Job


@dataclass(frozen=True)
class Said:
    """An engine's answer: its tokens, and how likely it found each."""

    scores: tuple[Score, ...]

    @property
    def ids(self) -> list[int]:
        """Its tokens, also those that are cut off where it goes round in circles: which is alike wherever they are."""
        return [score.id for score in self.scores]


class Rows:
    """Sets of rows, written when they are first wanted."""

    def __init__(self, out: Path) -> None:
        self._out = out

    def of(self, name: str) -> tuple[list[Row], Path]:
        """The rows of a set, and the folder that its pictures lie in."""
        folder = self._out / name
        if not folder.is_dir():
            write_rows(name, folder, training_data())
        return read_rows(folder / "rows.jsonl"), folder


def requests(rows: Rows, sampling: Sampling) -> Iterator[tuple[str, str, Request]]:
    """Kind, id and request of each turn, one kind after the other."""
    photos, folder = rows.of("flickr8k")
    texts, _ = rows.of("chat")
    skilled = itertools.cycle(_SKILLS)
    places = itertools.count()
    for text, plain, other in zip(texts, photos[::2], photos[1::2], strict=False):
        yield "text", text.id, Request(text.message, choices=Choices(no_bricks=True), sampling=sampling)
        yield "photo", plain.id, _about_photo(plain, folder, {}, sampling)
        name, strengths = next(skilled)
        row = rows.of(name)[0][next(places)]
        yield "skill", row.id, Request(row.message, choices=_choices(None, strengths), sampling=sampling)
        yield "photo with skill", other.id, _about_photo(other, folder, strengths, sampling)


def _about_photo(row: Row, folder: Path, strengths: Mapping[str, float], sampling: Sampling) -> Request:
    return Request(row.message, attachments_of(row, folder), _choices(_PHOTO, strengths), sampling)


def _choices(vision: str | None, strengths: Mapping[str, float]) -> Choices:
    bricks = {name: Choice("on", strength) for name, strength in strengths.items()}
    if vision is not None:
        bricks[vision] = Choice("on")
    return Choices(vision=vision, bricks=bricks, others="off")


def turns(host: Host, rows: Rows, n: int, max_tokens: int) -> list[Turn]:
    """The first n turns as jobs. Raises MattoniError where one is not what it is to be."""
    preparation, bricks = Preparation(host), Registry([shipped_models() / "bricks"]).scan(host)
    found: list[Turn] = []
    sampling = Sampling(max_tokens=max_tokens, seed=0, logprobs=_LIKELIEST)
    for kind, name, request in itertools.islice(requests(rows, sampling), n):
        prepared = preparation.prepare(request, bricks, Trace(), Watcher())
        if prepared.written is None:
            raise MattoniError(f"{name}: the host is not asked in this turn: look at it with `mattoni ask`.")
        job = job_of(prepared)
        is_skilled = any(isinstance(injection, LowRank) for injection in job.injections)
        if (has_soft_tokens(job.prompt), is_skilled) != ("photo" in kind, "skill" in kind):
            raise MattoniError(
                f"{name}: this turn is none of '{kind}' with these bricks: look at it with `mattoni ask`."
            )
        found.append(Turn(name, kind, job))
    return found


def decode(engine: Engine, job: Job) -> Said:
    """An engine's answer. Raises MattoniError where another engine gave it."""
    stream = engine.generate(job)
    scores = tuple(score for piece in stream for score in piece.scores)
    if stream.engine != engine.info.name:
        raise MattoniError(f"{engine.info.name} did not answer: {' '.join(n.text for n in stream.notices)}")
    return Said(scores)


def compared(local: Engine, remote: Engine, asked: Sequence[Turn], path: Path) -> list[tuple[Said, Said]]:
    """Both answers to each turn. A turn that has a line in the file is not asked again; the others get one."""
    kept = {(line["id"], line["kind"]): line for line in _lines(path)}
    answers: list[tuple[Said, Said]] = []
    for number, turn in enumerate(asked, 1):
        line = kept.get((turn.id, turn.kind))
        if line is None:
            answers.append((decode(local, turn.job), decode(remote, turn.job)))
            told = {
                "id": turn.id,
                "kind": turn.kind,
                **dict(zip(("local", "vllm"), map(asdict, answers[-1]), strict=True)),
            }
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(told) + "\n")
        else:
            answers.append((_said(line["local"]), _said(line["vllm"])))
        print(f"\r{number} of {len(asked)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return answers


def _lines(path: Path) -> list[dict[str, Any]]:
    """Those of an earlier run; one that a stop cut short is taken out."""
    if not path.is_file():
        return []
    lines = [row.value for row in json_rows(path, lambda number, why: None)]
    write_lines(path, lines)
    return lines


def _said(told: Mapping[str, Any]) -> Said:
    return Said(tuple(Score(s["id"], s["logprob"], tuple((i, p) for i, p in s["likeliest"])) for s in told["scores"]))


def first_difference(one: Sequence[int], other: Sequence[int]) -> int | None:
    """The place of the first token that differs, or that only one answer has; None: there is none."""
    if list(one) == list(other):
        return None
    pairs = zip(one, other, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def margin(local: Said, remote: Said, place: int, ends: frozenset[int]) -> tuple[float | None, str]:
    """How much likelier an engine that went on found its own token than the other's, the larger one of both, and who said so.

    None: the other's token is not among the likeliest. An answer that has ended chose one of `ends`.
    """
    found: list[tuple[float, str]] = []
    for name, own, other in (("local", local, remote), ("vllm", remote, local)):
        if place >= len(own.scores):
            continue  # it ended here, and tells nothing of that token
        score = own.scores[place]
        wanted = {other.ids[place]} if place < len(other.ids) else ends
        likely = [value for token, value in score.likeliest if token in wanted]
        if not likely:
            return None, name
        found.append((score.logprob - max(likely), name))
    return max(found)


def noise(answers: Sequence[tuple[Said, Said]]) -> list[float]:
    """How far apart the log probabilities of the same token are, at all places before the first difference."""
    return [
        abs(a.logprob - b.logprob)
        for one, other in answers
        for a, b in itertools.takewhile(
            lambda pair: pair[0].id == pair[1].id, zip(one.scores, other.scores, strict=False)
        )
    ]


def report(host: Host, asked: Sequence[Turn], answers: Sequence[tuple[Said, Said]]) -> dict[str, Any]:
    """What is printed."""
    places = [first_difference(local.ids, remote.ids) for local, remote in answers]
    apart = noise(answers)
    p99 = float(np.quantile(apart, 0.99)) if apart else 0.0
    differences = []
    for turn, (local, remote), place in zip(asked, answers, places, strict=True):
        if place is None:
            continue
        nats, by = margin(local, remote, place, host.stop_ids)
        differences.append(
            {
                "id": turn.id,
                "kind": turn.kind,
                "place": place,
                "local": _shown(host, local.ids, place),
                "vllm": _shown(host, remote.ids, place),
                "margin": None if nats is None else round(nats, 4),
                "by": by,
                "is_rounding": nats is not None and nats <= 2 * p99,
            }
        )
    same = {kind: [p is None for t, p in zip(asked, places, strict=True) if t.kind == kind] for kind in KINDS}
    return {
        "n": len(asked),
        "same": sum(place is None for place in places),
        "percent": round(100 * sum(place is None for place in places) / len(asked), 1),
        "by kind": {kind: f"{sum(found)} of {len(found)}" for kind, found in same.items()},
        "tokens": sum(len(local.ids) for local, _ in answers),
        "tokens before a difference": len(apart),
        "noise in nats": {"median": round(median(apart), 4), "p99": round(p99, 4)} if apart else {},
        "unexplained": sum(not one["is_rounding"] for one in differences),
        "differences": differences,
    }


def _shown(host: Host, ids: Sequence[int], place: int) -> str:
    return str(host.tokenizer.decode([ids[place]])) if place < len(ids) else "(the end)"


def main() -> None:
    """Command line of `python -m assistant.evaluation.same_tokens`."""
    parser = argparse.ArgumentParser(
        prog="python -m assistant.evaluation.same_tokens",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path, help="a folder for rows and answers")
    parser.add_argument("--url", required=True, help="where `vllm serve` runs")
    parser.add_argument("--n", type=int, default=200, help="turns")
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--host", default="builtin")
    parser.add_argument("--dtype", default="auto")
    given = parser.parse_args()
    host = load_host(given.host, dtype=given.dtype)
    local, remote = LocalEngine(host, weights="bf16"), VllmEngine(host, given.url, key=os.environ.get(KEY, ""))
    with closing(local), closing(remote):
        asked = turns(host, Rows(given.out / "rows"), given.n, given.max_tokens)
        answers = compared(local, remote, asked, given.out / "answers.jsonl")
    print(json.dumps(report(host, asked, answers), indent=1, ensure_ascii=False))


if __name__ == "__main__":
    run_command(main)
