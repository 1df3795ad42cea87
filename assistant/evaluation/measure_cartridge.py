"""Measures a cartridge on questions about its text: `python -m assistant.evaluation.measure_cartridge BRICK ROWS.jsonl OUT.jsonl [LIMIT] [SKILL]`.

BRICK is a cartridge's folder; the text lies beside the rows, under their name and `.txt`, as in cartridge-dev. Beside the cartridge stand
the whole text in the prompt and the bare host, on the same questions, greedy, at most 32 tokens; and how many of the questions and of
chat-dev's messages (below MATTONI_DATA) Auto would choose it for. Answers are kept in OUT, so that what was answered once is not asked again;
one JSON object is printed. With a SKILL it tells instead what that costs the cartridge: how much less likely the right answers become while it is on.
"""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from assistant.bricks.skills_on import skills_on
from assistant.host.catalogue import BUILTIN_EMBEDDER, fetch
from assistant.host.embedder import Embedder
from assistant.host.host import Host, load_host
from assistant.host.job import Job, answers_of
from assistant.host.local import LocalEngine
from assistant.host.prompt import ASK_TEXT, Prompt, Turn, build_prompt, opening
from assistant.host.sampling import Sampling
from knowledge_bricks.cartridge import read_cartridge
from mattoni.card import brick_digest, read_card
from mattoni.errors import MattoniError, run_command
from mattoni.injections import Other, Prefix, Text
from mattoni.keys import load_keys, nearest
from mattoni.lines import json_rows, read_text
from mattoni.metrics import bootstrap, f1, paired_difference
from mattoni.paths import training_data


def main() -> int:
    """Print the figures."""
    if len(sys.argv) not in (4, 5, 6):
        raise MattoniError(
            "Give a cartridge's folder, rows, a file for the answers, and perhaps how many rows and a skill."
        )
    brick, rows, out = map(Path, sys.argv[1:4])
    limit = int(sys.argv[4]) if len(sys.argv) > 4 else None
    if len(sys.argv) > 5:
        print(json.dumps({"beside a skill": beside_skill(load_host(), brick, rows, sys.argv[5], limit)}, indent=2))
        return 0
    embedder = Embedder(fetch(BUILTIN_EMBEDDER))
    chat = [row.value["text"] for row in json_rows(training_data() / "text" / "chat-dev.jsonl")]
    report = {"reach the threshold": routed(brick, rows, chat, embedder.embed)}
    print(json.dumps(report | measure(load_host(), brick, rows, out, limit), indent=2))
    return 0


def routed(brick: Path, rows: Path, chat: Sequence[str], embed: Callable[[list[str]], Tensor]) -> dict[str, Any]:
    """Of the questions, and of messages that have nothing to do with the text, the share for which Auto would choose it."""
    routes = read_card(brick).routes
    if routes is None:
        raise MattoniError(
            f"{brick.name} has no routing keys: only the user switches it on, and there is nothing to measure."
        )
    keys = load_keys(brick / routes.keys)
    asked = [row.value["question"] for row in json_rows(rows)]
    found = {}
    for name, texts in (("questions", asked), ("chat", list(chat))):
        reaches = nearest(embed(texts), keys) >= routes.threshold
        found[name] = {"n": len(texts), "share": float(reaches.float().mean())}
    return found


def measure(host: Host, brick: Path, rows: Path, out: Path, limit: int | None = None) -> dict[str, Any]:
    """F1 of the cartridge, of the whole text in the prompt and of the bare host, and the bytes of keys and values of the first two."""
    asked = [row.value for row in json_rows(rows)][:limit]
    text = read_text(rows.with_suffix(".txt")).strip()
    prefix = _prefix(host, brick)

    def in_context(question: str) -> Prompt:
        return _prompt(host, f"{text}\n\n", f"{ASK_TEXT}{question}")

    def alone(question: str) -> Prompt:
        return _prompt(host, question)

    ways = {
        # Another cartridge must not find this one's answers.
        "cartridge": _Way(f"cartridge {prefix.digest[:19]}", alone, (prefix,)),
        "bare": _Way("bare", alone),
        # One after the other, as each goes on from the keys and values of the text that the first has read.
        "in context": _Way("in context", in_context, together=1, conversation="text"),
    }
    engine = LocalEngine(host)
    try:
        scores = {name: _scores(engine, way, asked, out) for name, way in ways.items()}
    finally:
        engine.close()
    layers, heads, width = host.key_shape
    bytes_each = 2 * layers * heads * width * host.dtype.itemsize
    tokens = len(in_context("")) - len(alone(""))
    mean, low, high = paired_difference(scores["cartridge"], scores["in context"])
    return {
        "n": len(asked),
        "F1": {way: {"mean": sum(s) / len(s), "interval": bootstrap(s)} for way, s in scores.items()},
        "cartridge less in context": {"mean": mean, "interval": (low, high)},
        "share of in context": sum(scores["cartridge"]) / max(1e-9, sum(scores["in context"])),
        "bytes of keys and values": {"cartridge": prefix.length * bytes_each, "in context": tokens * bytes_each},
        "times fewer": tokens / prefix.length,
    }


def beside_skill(host: Host, brick: Path, rows: Path, skill: str, limit: int | None = None) -> dict[str, Any]:
    """What the cartridge gives the right answers, in nats a token, alone and while a skill is on, and what of it the skill takes.

    How likely an answer is tells more than whether it is said: the built-in host says few.
    """
    asked = [row.value for row in json_rows(rows)][:limit]
    prefix = _prefix(host, brick)
    found: dict[str, list[float]] = {}
    engine = LocalEngine(host)
    try:
        for name, others in {"": (), f" with {skill}": tuple(skills_on([skill], host))}.items():
            for way, injections in {"bare": (), "cartridge": (prefix,)}.items():
                found[way + name] = [_likelihood(engine, host, row, (*injections, *others)) for row in asked]
                print(f"{way}{name}: {len(asked)} answers weighed", file=sys.stderr, flush=True)
    finally:
        engine.close()
    gains = [
        [one - other for one, other in zip(found[f"cartridge{name}"], found[f"bare{name}"], strict=True)]
        for name in ("", f" with {skill}")
    ]
    mean, low, high = paired_difference(gains[1], gains[0])
    return {
        "n": len(asked),
        "nats a token": {way: {"mean": sum(s) / len(s), "interval": bootstrap(s)} for way, s in found.items()},
        "gain": [sum(one) / len(one) for one in gains],
        "gain with the skill less without": {"mean": mean, "interval": (low, high)},
    }


def _prefix(host: Host, brick: Path) -> Prefix:
    return Prefix(brick.name, brick_digest(read_card(brick)), read_cartridge(brick, host.key_shape, host.name))


def _likelihood(engine: LocalEngine, host: Host, row: dict[str, Any], injections: tuple[Other, ...]) -> float:
    """ln p a token of a row's first answer."""
    said = tuple(host.tokenizer.encode(row["answers"][0], add_special_tokens=False))
    stream = engine.generate(Job(_prompt(host, row["question"]), injections, Sampling(temperature=0), 0, forced=said))
    for _ in stream:
        pass
    return sum(stream.log_probabilities) / len(stream.log_probabilities)


def _prompt(host: Host, *texts: str) -> Prompt:
    return build_prompt(host.tokenizer, [*opening(host), Turn("user", tuple(map(Text, texts)))])


@dataclass(frozen=True)
class _Way:
    """One way to ask the questions."""

    name: str  # its answers are kept under
    prompt: Callable[[str], Prompt]
    injections: tuple[Other, ...] = ()
    together: int = 16
    conversation: str = ""


def _scores(engine: LocalEngine, way: _Way, rows: Sequence[dict[str, Any]], out: Path) -> list[float]:
    """Token F1 of each row; answers that are kept are not asked for again."""
    found = [row.value for row in json_rows(out)] if out.exists() else []
    kept = {one["id"]: one["answer"] for one in found if one["way"] == way.name}
    left = [row for row in rows if row["id"] not in kept]
    for begin in range(0, len(left), way.together):
        some = left[begin : begin + way.together]
        answers = _answers(engine, way, [row["question"] for row in some])
        with out.open("a", encoding="utf-8") as file:
            for row, answer in zip(some, answers, strict=True):
                kept[row["id"]] = answer
                file.write(json.dumps({"way": way.name, "id": row["id"], "answer": answer}) + "\n")
        print(f"{way.name}: {len(kept)} of {len(rows)}", file=sys.stderr, flush=True)
    return [f1(kept[row["id"]], row["answers"]) for row in rows]


def _answers(engine: LocalEngine, way: _Way, questions: Sequence[str]) -> list[str]:
    """Greedy answers, decoded together."""
    sampling = Sampling(temperature=0, max_tokens=32)
    jobs = [Job(way.prompt(question), way.injections, sampling, 0, way.conversation) for question in questions]
    return answers_of(engine, jobs)


if __name__ == "__main__":
    run_command(main)
