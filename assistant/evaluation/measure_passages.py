"""Measures passages as the engine reads them: `python -m assistant.evaluation.measure_passages OUT.jsonl [--limit 100] [--skill NAME|FOLDER]`.

Rows of reading-dev (below MATTONI_DATA), three passages of the row's article, the right one last, as a turn puts them; greedy, 32
tokens. Each is answered from the whole prompt read afresh, from passages that were read apart and kept, and from the right passage alone
as an attached text; with the bare host, and with a skill that answers from passages, where one is named. Then the time to the first token behind some 2,000 tokens of passages
that were read before, beside a fresh reading, in turn, medians of three. Answers are kept in OUT, so that what was answered once is
not asked again; one JSON object is printed.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import mattoni.torchvision_ops  # noqa: F401  (before transformers)

from assistant.bricks.skills_on import skills_on
from assistant.evaluation.measure_prefilled import reading_rows, three_passages
from assistant.host.host import Host, load_host
from assistant.host.job import Job, answers_of
from assistant.host.local import LocalEngine
from assistant.host.prompt import ASK_TEXT, Turn, build_prompt, opening
from assistant.host.sampling import Sampling
from assistant.turn.passages import knowledge_segments
from mattoni.errors import run_command
from mattoni.injections import Other, Text
from mattoni.lines import json_rows
from mattoni.metrics import bootstrap, f1, paired_difference, paired_ratio
from mattoni.trace import Citation
from task_bricks.lora import read_lora

WHOLE, APART, ATTACHED = "whole", "apart", "attached"
_TOGETHER, _MOST = 8, 32
_TIMED_TOKENS, _TIMES = 2000, 3


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description="Measures passages as the engine reads them.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--skip", type=int, default=0, help="so many of the first rows")
    parser.add_argument("--skill", default="", help="a skill that is here, or a PEFT folder")
    parser.add_argument("--skill-alone", action="store_true", help="not the bare host as well")
    given = parser.parse_args()
    rows, articles = reading_rows(given.skip, given.limit)
    host = load_host()
    with_bricks: dict[str, tuple[Other, ...]] = {} if given.skill_alone else {"bare": ()}
    if given.skill:
        folder = Path(given.skill)
        with_bricks["skill"] = (read_lora(folder),) if folder.is_dir() else tuple(skills_on([given.skill], host))
    with closing(LocalEngine(host)) as engine:
        scores = {
            f"{name}, {way}": answered(engine, host, rows, articles, bricks, way, given.out, f"{name}, {way}")
            for name, bricks in with_bricks.items()
            for way in (WHOLE, APART, ATTACHED)
        }
        seconds = first_token(engine, host, rows[0]["question"], articles, list(with_bricks.values())[-1])
        print(json.dumps(figures(scores) | {"weights": engine.info.weights, "first token": seconds}, indent=2))
    return 0


def job_of(host: Host, passages: Sequence[dict[str, str]], question: str, bricks: Sequence[Other], way: str) -> Job:
    """The turn of passages, the best last, and a question about them, or of the best alone as an attached text."""
    citations = [Citation("reading", p["title"], "passage 1", 1.0, p["text"]) for p in reversed(passages)]
    attached = (Text(f"{passages[-1]['text']}\n\n"), Text(ASK_TEXT))
    read = attached if way == ATTACHED else knowledge_segments(citations)
    turn = Turn("user", (*read, Text(question)))
    prompt = build_prompt(host.tokenizer, [*opening(host), turn])
    sampling = Sampling(temperature=0, max_tokens=_MOST)
    return Job(prompt if way == APART else prompt.whole, tuple(bricks), sampling, seed=0)


def answered(
    engine: LocalEngine,
    host: Host,
    rows: Sequence[dict[str, Any]],
    articles: dict[str, list[dict[str, str]]],
    bricks: Sequence[Other],
    way: str,
    out: Path,
    name: str,
) -> list[float]:
    """F1 of each row; an answer that is kept is not asked for again."""
    lines = [line.value for line in json_rows(out)] if out.exists() else []
    kept = {line["id"]: line["answer"] for line in lines if line["way"] == name}
    missing = [row for row in rows if row["id"] not in kept]
    for begin in range(0, len(missing), _TOGETHER):
        some = missing[begin : begin + _TOGETHER]
        jobs = [job_of(host, three_passages(row, articles), row["question"], bricks, way) for row in some]
        for row, answer in zip(some, answers_of(engine, jobs), strict=True):
            kept[row["id"]] = answer
            with out.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"way": name, "id": row["id"], "answer": answer}) + "\n")
        print(f"{name}: {len(kept)}", file=sys.stderr, flush=True)
    return [f1(kept[row["id"]], row["answers"]) for row in rows]


def figures(scores: dict[str, list[float]]) -> dict[str, Any]:
    """F1 of each way, in pairs beside the whole prompt's with the same bricks, and beside the same way's without them."""
    first, told = next(iter(scores)), {}
    for name, some in scores.items():
        told[name] = {"F1": sum(some) / len(some), "interval": bootstrap(some)}
        bricks, _, way = name.partition(", ")
        beside = {f"by {WHOLE}": f"{bricks}, {WHOLE}"} if way == APART else {}
        beside |= {f"by {first.partition(', ')[0]}": f"{first.partition(', ')[0]}, {way}"}
        for label, other in beside.items():
            if other != name:
                told[name][label] = paired_ratio(some, scores[other])
                told[name][f"less{label.removeprefix('by')}"] = paired_difference(some, scores[other])
    return {"n": len(scores[first]), "ways": told}


def first_token(
    engine: LocalEngine,
    host: Host,
    question: str,
    articles: dict[str, list[dict[str, str]]],
    bricks: Sequence[Other],
) -> dict[str, Any]:
    """Milliseconds to the first token behind some 2,000 tokens of passages: medians, the ways in turn."""
    every = [passage for title in sorted(articles) for passage in articles[title]]
    count = 1
    while sum(map(len, job_of(host, every[:count], question, bricks, APART).prompt.apart.values())) < _TIMED_TOKENS:
        count += 1
    apart, whole = (job_of(host, every[:count], question, bricks, way) for way in (APART, WHOLE))
    took: dict[str, list[float]] = {APART: [], WHOLE: []}
    for place in range(_TIMES + 1):
        for way, asked in ((APART, apart), (WHOLE, whole)):
            stream = engine.generate(replace(asked, sampling=Sampling(temperature=0, max_tokens=1)))
            for _ in stream:
                pass
            if place:  # the first time they are read
                took[way].append(stream.usage.first_token_ms)
    medians = {way: statistics.median(some) for way, some in took.items()}
    return {
        "passages": count,
        "tokens": len(apart.prompt),
        "ms": medians,
        "times sooner": medians[WHOLE] / medians[APART],
    }


if __name__ == "__main__":
    run_command(main)
