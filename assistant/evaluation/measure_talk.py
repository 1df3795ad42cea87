"""Measures conversations on dev: `python -m assistant.evaluation.measure_talk OUT [PART …] [--limit 200]`

chat        plain messages: how many answers go round in circles, and how many end at their longest allowed length
receipts    second and third questions about a receipt: the same, and the dates that are right
second      a photograph described after another one in the same conversation, and alone: CIDEr-D, and the one by the other
compare     how often *compare-pictures* is chosen: in turns about one picture though two were sent (to be 2 % at most), and
            in turns about both (95 % at least), with both pictures in the message, with one, with none
knowledge   totals and dates of receipts with five knowledge bricks that have nothing to do with them, and without: points,
            in pairs, and in how many of the turns such a brick took part

Greedy, with the shipped bricks, and 95 % intervals over rows. Without a part, all of them. OUT gets rows, pictures and a line per
answer, as it comes, so that a run can be stopped, gone on with, and widened by a larger limit: name a new folder for each
state of the code or of the bricks. Prints one JSON object. Needs MATTONI_DATA.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from assistant.assistant import Assistant
from assistant.evaluation.asking import Earlier, Row, ask_missing, asking, read_rows, shipped_assistant
from assistant.evaluation.looping import goes_round
from assistant.evaluation.rows import receipt_fields, write_rows
from assistant.host.host import Host, load_host
from assistant.host.sampling import Sampling
from assistant.turn.route import Choices
from mattoni.errors import MattoniError, run_command
from mattoni.inputs import Attachment
from mattoni.metrics import bootstrap, paired_difference, paired_ratio
from mattoni.paths import training_data

Figures = dict[str, Any]
Lines = Sequence[Mapping[str, Any]]

SKILL = "compare-pictures"
_AT_ONCE = 8  # rows that are decoded together
_CAPTION_TOKENS, _AMOUNT_TOKENS, _ROUTED_TOKENS = 40, 24, 1


class Talk:
    """Asks sets of rows once each and keeps the answers in a folder."""

    def __init__(self, host: Host, out: Path, limit: int, max_tokens: int) -> None:
        self.host, self.out, self.limit, self.max_tokens = host, out, limit, max_tokens

    def rows(self, name: str) -> list[Row]:
        """The first rows of a set of `assistant.evaluation.rows`, written when they are first wanted."""
        path = self.out / name / "rows.jsonl"
        if not path.is_file():
            write_rows(name, self.out / name, training_data())
        return read_rows(path, self.limit)

    def assistant(self, home: str = "home") -> Assistant:
        """One with the shipped bricks and those of the home, a folder beside the answers."""
        return shipped_assistant(self.out / home, self.host)

    def ask(self, assistant: Assistant, label: str, folder: str, rows: Sequence[Row], max_tokens: int) -> Lines:
        """Ask rows whose files lie in a set's folder, but for those that have an answer under the label, and score all."""
        sampling = Sampling(temperature=0.0, max_tokens=max_tokens, seed=0)
        ask = asking(assistant, Choices(), sampling)
        return ask_missing(rows, self.out / folder, ask, self.out / f"{label}.answers.jsonl", _AT_ONCE)


def share(found: Sequence[bool]) -> Figures:
    """In per cent, with its interval."""
    values = [100.0 * value for value in found]
    low, high = bootstrap(values)
    return {
        "percent": round(sum(values) / len(values), 2),
        "low": round(low, 2),
        "high": round(high, 2),
        "n": len(found),
    }


def looping(lines: Lines) -> Figures:
    return {
        "looping": share([goes_round(line["answer"]) for line in lines]),
        "ended at its longest": share([_told(line, "length") for line in lines]),
        "looping rows": [line["id"] for line in lines if goes_round(line["answer"])],
    }


def _told(line: Mapping[str, Any], code: str) -> bool:
    return any(notice["code"] == code for notice in line["trace"].get("notices", ()))


def _used(line: Mapping[str, Any], *, name: str = "", kind: str = "") -> bool:
    return any(brick["name"] == name or brick["kind"] == kind for brick in line["trace"].get("bricks", ()))


def _mean(lines: Lines) -> Figures:
    scores = [line["score"] for line in lines if line["score"] is not None]
    low, high = bootstrap(scores)
    return {
        "score": round(sum(scores) / len(scores), 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "n": len(scores),
    }


# Parts


def chat(talk: Talk) -> Figures:
    with closing(talk.assistant()) as assistant:
        return looping(talk.ask(assistant, "chat", "chat", talk.rows("chat"), talk.max_tokens))


def receipts(talk: Talk) -> Figures:
    rows = talk.rows("receipt-followups")
    with closing(talk.assistant()) as assistant:
        lines = talk.ask(assistant, "receipt-followups", "receipt-followups", rows, talk.max_tokens)
    return looping(lines) | {"dates": _mean(lines)}


def second(talk: Talk) -> Figures:
    rows = talk.rows("second-photo")
    alone = [row.model_copy(update={"before": ()}) for row in rows]
    with closing(talk.assistant()) as assistant:
        after = talk.ask(assistant, "second-photo", "second-photo", rows, _CAPTION_TOKENS)
        lines = talk.ask(assistant, "photo-alone", "second-photo", alone, _CAPTION_TOKENS)
    ratio = paired_ratio([line["score"] for line in after], [line["score"] for line in lines])
    return {
        "second": _mean(after) | {"distinct": len({line["answer"] for line in after})},
        "alone": _mean(lines) | {"distinct": len({line["answer"] for line in lines})},
        "second by alone": dict(zip(("ratio", "low", "high"), (round(value, 3) for value in ratio), strict=True)),
        SKILL: share([_used(line, name=SKILL) for line in after]),
    }


def compare(talk: Talk) -> Figures:
    photos = [str(row.image) for row in talk.rows("second-photo")]
    sets = {"one picture": about_one(_picture_questions(), photos), "two pictures": about_two(two_pictures(), photos)}
    found: Figures = {}
    with closing(talk.assistant()) as assistant:
        for about, rows in sets.items():
            lines = talk.ask(assistant, f"compare-{about.split()[0]}", "second-photo", rows, _ROUTED_TOKENS)
            sent = [sum(earlier.image is not None for earlier in row.before) for row in rows]
            found[about] = share([_used(line, name=SKILL) for line in lines])
            for number, place in enumerate(("both in the message", "one in the message", "none in the message")):
                chosen = [_used(line, name=SKILL) for line, count in zip(lines, sent, strict=True) if count == number]
                if chosen:
                    found[about][place] = share(chosen)
            wanted = about == "two pictures"
            found[about]["wrong"] = [
                row.message for row, line in zip(rows, lines, strict=True) if _used(line, name=SKILL) != wanted
            ]
    return found


def _picture_questions() -> list[str]:
    """Messages that ask about one picture."""
    path = training_data() / "text" / "picture-questions-dev.jsonl"
    texts = [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]
    return [text for text in texts if "second pic" not in text]


def two_pictures() -> list[str]:
    """Forty messages that ask about two pictures, which no key was made from."""
    found: list[str] = json.loads((Path(__file__).parent / "two_pictures.json").read_text(encoding="utf-8"))
    return found


_SEE = "Describe the photo."


def about_one(messages: Sequence[str], photos: Sequence[str]) -> list[Row]:
    """Each message once: with a photograph after another one, and in turn after two of them."""
    rows = []
    for number, message in enumerate(messages):
        first, other = photos[number % len(photos)], photos[(number + 1) % len(photos)]
        earlier, own = ((first,), other) if number % 2 == 0 else ((first, other), None)
        before = tuple(Earlier(question=_SEE, image=image) for image in earlier)
        rows.append(Row(id=f"one-{number:03}", question=message, image=own, before=before))
    return rows


def about_two(messages: Sequence[str], photos: Sequence[str]) -> list[Row]:
    """Each message three times: with two photographs, with one after another one, and after two of them."""
    rows = []
    for number, message in enumerate(messages):
        pair = (photos[number % len(photos)], photos[(number + 1) % len(photos)])
        for earlier in range(3):
            before = tuple(Earlier(question=_SEE, image=image) for image in pair[:earlier])
            rows.append(Row(id=f"two-{number:03}-{earlier}", question=message, images=pair[earlier:], before=before))
    return rows


def knowledge(talk: Talk) -> Figures:
    """Of the same rows, with the library and without."""
    rows = _totals_and_dates(talk.rows("receipts"))
    found: dict[str, Lines] = {}
    for home, bricks in (("home", {}), ("library", unrelated_knowledge(training_data()))):
        with closing(talk.assistant(home)) as assistant:
            there = {brick.name for brick in assistant.bricks().usable}
            for name, files in bricks.items():
                if name not in there:
                    assistant.add_knowledge(name, files)
            found[home] = talk.ask(assistant, f"receipts-{home}", "receipts", rows, _AMOUNT_TOKENS)
    figures: Figures = {}
    for asked in ("total", "date"):
        without, with_them = ([line for line in lines if line["id"].endswith(asked)] for lines in found.values())
        points = paired_difference([line["score"] for line in with_them], [line["score"] for line in without])
        figures[asked] = {
            "without": _mean(without),
            "with": _mean(with_them),
            "points": dict(zip(("points", "low", "high"), (round(100 * p, 2) for p in points), strict=True)),
            "knowledge took part": share([_used(line, kind="knowledge") for line in with_them]),
            "other answers": sum(a["answer"] != b["answer"] for a, b in zip(without, with_them, strict=True)),
        }
    return figures


def _totals_and_dates(rows: Sequence[Row]) -> list[Row]:
    """Each receipt's total, and its date where it has one."""
    fields = receipt_fields(training_data(), "dev")
    found = []
    for row in rows:
        found.append(row.model_copy(update={"id": f"{row.id}-total"}))
        if date := fields[row.id]["date"].strip():
            asks = {"id": f"{row.id}-date", "question": "What is the date?", "answers": (date,)}
            found.append(row.model_copy(update=asks))
    return found


def unrelated_knowledge(data: Path) -> dict[str, list[Attachment]]:
    """Five knowledge bricks as people have them: bills of other shops, passages on this and that, three long articles."""
    text = data / "text"
    bills = [json.loads(line) for line in _lines(data / "vision" / "receipts-text-train.jsonl")[:20]]
    passages = [json.loads(line) for line in _lines(text / "reading-passages-dev.jsonl")[:60]]
    articles = sorted((text / "cartridge-dev").glob("*.txt"))
    return {
        "bills": [Attachment(f"bill{n}.txt", "\n".join(bill["lines"]).encode()) for n, bill in enumerate(bills)],
        "passages": [Attachment(f"{p['passage_id']}.txt", f"{p['title']}\n\n{p['text']}".encode()) for p in passages],
    } | {f"about-{path.stem}": [Attachment(path.name, path.read_bytes())] for path in articles[:3]}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split("\n")[:-1]
    except OSError as problem:
        raise MattoniError(f"{path} cannot be read ({problem.strerror}): check MATTONI_DATA.") from problem


PARTS: Mapping[str, Callable[[Talk], Figures]] = {
    "chat": chat,
    "receipts": receipts,
    "second": second,
    "compare": compare,
    "knowledge": knowledge,
}


def main() -> None:
    """Command line of `python -m assistant.evaluation.measure_talk`."""
    parser = argparse.ArgumentParser(
        prog="python -m assistant.evaluation.measure_talk",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path, help="a folder for rows and answers")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--limit", type=int, default=200, help="only the first rows of each set")
    parser.add_argument("--max-tokens", type=int, default=512, help="of answers that may loop")
    parser.add_argument("--host", default="builtin")
    given = parser.parse_args()
    unknown = [part for part in given.parts if part not in PARTS]
    if unknown:
        raise MattoniError(f"There is no part '{unknown[0]}' (known: {', '.join(PARTS)}).")
    given.out.mkdir(parents=True, exist_ok=True)
    talk = Talk(load_host(given.host), given.out, given.limit, given.max_tokens)
    print(json.dumps({part: PARTS[part](talk) for part in given.parts or PARTS}, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    run_command(main)
