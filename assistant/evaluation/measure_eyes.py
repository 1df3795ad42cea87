"""Measures an image brick on dev: `python -m assistant.measure_eyes OUT [PART …] [--vision photo] [--limit 200]`

naming     "What is in the picture?" of Tiny ImageNet tiles: the class is named in the first 12 words and no other is
captions   "Describe the photo." of Flickr8k: CIDEr-D of five references, and how many captions differ
wordings   twenty other wordings of both questions, which no training reads, by the score of the first wording
plain      questions on a passage, alone and after a picture in the same conversation: what the picture costs, in points
pairs      "Which picture shows a …, the first or the second?" of tiles that are each named right alone
daquar     questions about rooms; with `--blind NAME`, over that brick, which was trained without seeing: points

Greedy, with 95 % intervals over rows, and the same with shuffled pictures beside naming, captions and daquar. Without a part,
all of them. Without `--vision`, the router chooses. OUT gets rows, pictures and a line per answer, as it comes: what was
asked of the same bricks is not asked again, so a run can be stopped, gone on with, and widened by a larger limit. Prints one
JSON object. Needs MATTONI_DATA.
"""

import argparse
import json
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from assistant.assistant import Assistant
from assistant.evaluation.asking import Row, ask_missing, asking, read_rows, shuffled_pictures
from assistant.evaluation.rows import write_rows
from assistant.host.sampling import Sampling
from assistant.turn.route import Choices
from mattoni.errors import MattoniError
from mattoni.files import write_text
from mattoni.metrics import paired_difference, paired_ratio
from mattoni.paths import training_data
from modality_bricks.training.pairs import in_sentence

Figures = dict[str, Any]
Lines = list[dict[str, Any]]

# Each at least as long as what counts: twelve words, a caption, a sentence.
_TOKENS: Mapping[str | None, int] = {"named": 24, "cider": 40, "exact": 16, "contains": 40, "accuracy": 16}


class Measure:
    """Asks sets of rows once each and keeps the answers in a folder."""

    def __init__(self, assistant: Assistant, out: Path, vision: str | None, limit: int, blind: str | None) -> None:
        self.assistant, self.out, self.vision, self.limit, self.blind = assistant, out, vision, limit, blind
        bricks = {brick.name: brick.digest for brick in assistant.bricks().usable if brick.card.kind == "modality"}
        note = json.dumps([assistant.host.name, vision, bricks], indent=1)
        path = out / "asked.json"
        if path.is_file() and path.read_text(encoding="utf-8") != note:
            raise MattoniError(f"{out} holds answers of another host or other image bricks: name a new folder.")
        write_text(path, note)

    def rows(self, name: str) -> list[Row]:
        """The first rows of a set of `assistant.evaluation.rows`, written when they are first wanted."""
        path = self.out / name / "rows.jsonl"
        if not path.is_file():
            write_rows(name, self.out / name, training_data())
        return read_rows(path, self.limit)

    def ask(self, name: str, shuffled: bool = False, vision: str | None = None) -> Lines:
        """Ask a set, or find its answers."""
        rows = self.rows(name)
        variant = [vision] if vision else []
        return self.ask_rows(".".join([name, *variant, *(["shuffled"] if shuffled else [])]), name,
                             shuffled_pictures(rows) if shuffled else rows, vision)  # fmt: skip

    def ask_rows(self, label: str, folder: str, rows: Sequence[Row], vision: str | None = None) -> Lines:
        """Ask rows whose files lie in a set's folder, but for those that have an answer under the label, and score all."""
        ask = asking(
            self.assistant,
            Choices(vision=vision or self.vision),
            Sampling(temperature=0.0, max_tokens=_TOKENS[rows[0].metric]),
        )
        return ask_missing(rows, self.out / folder, ask, self.out / f"{label}.answers.jsonl")


def scores(lines: Lines) -> list[float]:
    return [line["score"] for line in lines]


def figure(lines: Lines) -> Figures:
    """The mean score with its interval, and how many answers differ."""
    mean, low, high = paired_difference(scores(lines), [0.0] * len(lines))
    return _rounded(score=mean, low=low, high=high) | {
        "n": len(lines),
        "distinct": len({line["answer"] for line in lines}),
    }


def _rounded(**values: float) -> Figures:
    return {name: round(value, 4) for name, value in values.items()}


def _difference(lines: Lines, others: Lines) -> Figures:
    """Points of the first over the second, in pairs."""
    values = paired_difference(scores(lines), scores(others))
    return _rounded(**dict(zip(("points", "low", "high"), (100 * value for value in values), strict=True)))


def _ratio(lines: Lines, others: Lines) -> Figures:
    return _rounded(**dict(zip(("ratio", "low", "high"), paired_ratio(scores(lines), scores(others)), strict=True)))


# Parts


def naming(measure: Measure) -> Figures:
    return _with_shuffled(measure, "tinyimagenet")


def captions(measure: Measure) -> Figures:
    return _with_shuffled(measure, "flickr8k")


def _with_shuffled(measure: Measure, name: str) -> Figures:
    return figure(measure.ask(name)) | {"shuffled": figure(measure.ask(name, shuffled=True))}


def wordings(measure: Measure) -> Figures:
    """By the score of the first wording of the same pictures."""
    found: Figures = {}
    for name in ("tinyimagenet", "flickr8k"):
        lines = measure.ask(name)
        others = measure.ask_rows(f"{name}.wordings", name, in_other_words(measure.rows(name)))
        found[name] = figure(others) | {"first wording": figure(lines)["score"], "kept": _ratio(others, lines)}
    return found


def other_wordings() -> dict[str | None, list[str]]:
    """Of the questions that training knows, twenty wordings each that it does not."""
    found: dict[str | None, list[str]] = json.loads(
        (Path(__file__).parent / "other_wordings.json").read_text(encoding="utf-8")
    )
    return found


def in_other_words(rows: Sequence[Row]) -> list[Row]:
    """The rows, each asked in the next of the other wordings of its question."""
    wordings = other_wordings()
    return [
        row.model_copy(update={"question": wordings[row.question][number % len(wordings[row.question])]})
        for number, row in enumerate(rows)
    ]


def plain(measure: Measure) -> Figures:
    alone, after = measure.ask("plain"), measure.ask("plain-after-picture")
    return {"alone": figure(alone), "after a picture": figure(after), "difference": _difference(after, alone)}


def pairs(measure: Measure) -> Figures:
    """Of the tiles that `naming` found right, each beside the next one of another class."""
    answered = {line["id"]: line for line in measure.ask("tinyimagenet")}
    right = [row for row in measure.rows("tinyimagenet") if answered[row.id]["score"] == 1]
    rows = paired_rows(right)
    if not rows:
        raise MattoniError("pairs: fewer than two classes were named right, so there is no pair: raise --limit.")
    lines = measure.ask_rows("pairs", "tinyimagenet", rows)
    return figure(lines) | {"named right alone": len(right)}


def paired_rows(right: Sequence[Row], seed: int = 0) -> list[Row]:
    """Which of two pictures shows the one's thing? Each row once the asked one; first and second are right as often."""
    order = list(right)
    random.Random(seed).shuffle(order)
    rows: list[Row] = []
    for number, row in enumerate(order):
        others = [
            other for other in (*order[number + 1 :], *order[:number]) if not set(other.answers) & set(row.answers)
        ]
        if not others:
            continue
        shown, answer = ((row, others[0]), "first") if len(rows) % 2 == 0 else ((others[0], row), "second")
        rows.append(
            Row(
                id=f"pair-{row.id}",
                question=f"Which picture shows {in_sentence(row.answers[0])}, the first or the second?",
                images=tuple(picture for part in shown for picture in part.pictures),
                answers=(answer,),
                metric="accuracy",
            )
        )
    return rows[: len(rows) // 2 * 2]


def daquar(measure: Measure) -> Figures:
    found = _with_shuffled(measure, "daquar")
    lines = measure.ask("daquar")
    found["over shuffled"] = _difference(lines, measure.ask("daquar", shuffled=True))
    if measure.blind is not None:
        blind = measure.ask("daquar", vision=measure.blind)
        found |= {"blind": figure(blind), "over blind": _difference(lines, blind)}
    return found


PARTS: Mapping[str, Callable[[Measure], Figures]] = {
    "naming": naming,
    "captions": captions,
    "wordings": wordings,
    "plain": plain,
    "pairs": pairs,
    "daquar": daquar,
}


def main() -> int:
    """Command line of `python -m assistant.measure_eyes`."""
    parser = argparse.ArgumentParser(
        prog="python -m assistant.measure_eyes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path, help="a folder for rows and answers")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--vision", help="the image brick for every picture; default: the router chooses")
    parser.add_argument("--blind", help="the image brick that was trained blind, for daquar")
    parser.add_argument("--limit", type=int, default=200, help="only the first rows of each set")
    arguments = parser.parse_args()
    try:
        unknown = [part for part in arguments.parts if part not in PARTS]
        if unknown:
            raise MattoniError(f"There is no part '{unknown[0]}' (known: {', '.join(PARTS)}).")
        with closing(Assistant.open()) as assistant:
            names = [name for name in (arguments.vision, arguments.blind) if name is not None]
            for name in names:
                assistant.bricks().get(name)
            measure = Measure(assistant, arguments.out, arguments.vision, arguments.limit, arguments.blind)
            print(json.dumps({part: PARTS[part](measure) for part in arguments.parts or PARTS}, indent=1))
    except MattoniError as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
