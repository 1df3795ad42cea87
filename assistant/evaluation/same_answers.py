"""Compares two files of answers word for word: `python -m assistant.evaluation.same_answers BEFORE AFTER`

BEFORE and AFTER are what `mattoni eval … --out FILE` kept of the same rows. Prints one JSON object: how many answers are the
same, and of each that is not both answers, both scores, and the bricks that took part where those differ too. Ends with status 1
when any differs. Names of bricks and notices are compared as well; times and scores of the router are not.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mattoni.errors import MattoniError, run_command

Line = Mapping[str, Any]


def read_lines(path: Path) -> dict[str, Line]:
    """The answers of a file by their row's id."""
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
        return {line["id"]: line for line in lines}
    except OSError as problem:
        raise MattoniError(f"{path} cannot be read ({problem.strerror}): check the path.") from problem
    except (ValueError, KeyError, TypeError) as problem:
        raise MattoniError(f"{path} is no file of `mattoni eval … --out`: name one.") from problem


def compare(before: Mapping[str, Line], after: Mapping[str, Line]) -> dict[str, Any]:
    """What differs, in the order of the rows. Raises MattoniError where the files share no row."""
    shared = [row for row in before if row in after]
    if not shared:
        raise MattoniError("The two files have no row in common: compare answers to the same rows.")
    differing = [
        _difference(row, before[row], after[row]) for row in shared if before[row]["answer"] != after[row]["answer"]
    ]
    told_otherwise = [
        row
        for row in shared
        if any(_names(before[row], key) != _names(after[row], key) for key in ("bricks", "notices"))
    ]
    return {
        "n": len(shared),
        "same": len(shared) - len(differing),
        "only before": sorted(set(before) - set(after)),
        "only after": sorted(set(after) - set(before)),
        "other bricks or notices": told_otherwise,
        "differences": differing,
    }


def _difference(row: str, before: Line, after: Line) -> dict[str, Any]:
    found = {"id": row, "before": before["answer"], "after": after["answer"]}
    if before["score"] != after["score"]:
        found["scores"] = [before["score"], after["score"]]
    for key in ("bricks", "notices"):
        if (names := _names(before, key)) != (others := _names(after, key)):
            found[key] = [names, others]
    return found


def _names(line: Line, key: str) -> Sequence[str]:
    return [entry["name" if key == "bricks" else "code"] for entry in line["trace"].get(key, ())]


def main() -> int:
    """Command line of `python -m assistant.evaluation.same_answers`."""
    parser = argparse.ArgumentParser(
        prog="python -m assistant.evaluation.same_answers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    given = parser.parse_args()
    found = compare(read_lines(given.before), read_lines(given.after))
    print(json.dumps(found, indent=1, ensure_ascii=False))
    return 0 if found["same"] == found["n"] and not found["only before"] and not found["only after"] else 1


if __name__ == "__main__":
    run_command(main)
