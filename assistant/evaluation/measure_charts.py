"""Measures an image brick on drawn charts: `python -m assistant.measure_charts CHARTS OUT [--vision chart] [--limit 200]`

CHARTS is a folder of `python -m modality_bricks.charts --split dev`, whose styles no training draws. Each kind of question
(kind, count, highest, lowest, trend) is asked greedily on the real path, OCR and all, of the first `--limit` charts that it
can be asked of. Beside each score stand the same with another chart's picture, and the bare host with what OCR reads on the
right one (`--vision document`). Without `--vision`, the router chooses. OUT keeps a line per answer, as it comes: asked
again, a stopped run goes on. Prints one JSON object, with 95 % intervals over rows.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from assistant.assistant import Assistant
from assistant.evaluation.asking import (
    Reply,
    Row,
    asking,
    kept_replies,
    read_rows,
    reply_and_keep,
    report,
    shuffled_pictures,
)
from assistant.host.sampling import Sampling
from assistant.turn.route import Choices
from mattoni.errors import MattoniError

ASKED = ("kind", "count", "highest", "lowest", "trend")
READER = "document"
_TOKENS = 16


def measure(
    assistant: Assistant, charts: Path, out: Path, vision: str | None, limit: int, conditions: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Scores by what is asked and condition, and by which bricks the brick's own rows were seen."""
    sets = {asked: read_rows(charts / f"eval-{asked}.jsonl", limit) for asked in ASKED}
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, Any]] = {asked: {} for asked in ASKED}
    for condition in conditions:
        rows = [row for some in sets.values() for row in some]
        if condition == "shuffled":
            rows = shuffled_pictures(rows)
        choices = Choices(vision=READER if condition == "read" else vision)
        said = _ask(assistant, sorted(rows, key=lambda row: row.pictures), charts, choices, out / f"{condition}.jsonl")
        for asked, some in sets.items():
            summary, _ = report([(row, said[row.id]) for row in some])
            found[asked][condition] = summary["scores"]["accuracy"] | {"bricks": summary["bricks"]}
    return found


def _ask(assistant: Assistant, rows: Sequence[Row], folder: Path, choices: Choices, path: Path) -> dict[str, Reply]:
    """The replies by row; those in the file are not asked for again."""
    said = kept_replies(path)
    ask = asking(assistant, choices, Sampling(temperature=0.0, max_tokens=_TOKENS))
    said |= reply_and_keep([row for row in rows if row.asked not in said], folder, ask, path)
    return {row.id: said[row.asked] for row in rows}


def main() -> int:
    """Command line of `python -m assistant.measure_charts`."""
    parser = argparse.ArgumentParser(
        prog="python -m assistant.measure_charts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("charts", type=Path, help="a folder of drawn charts")
    parser.add_argument("out", type=Path, help="a folder for the answers; a new one for each state of the brick")
    parser.add_argument("--vision", help="the image brick for every picture; default: the router chooses")
    parser.add_argument("--limit", type=int, default=200, help="only the first rows of each kind of question")
    parser.add_argument(
        "--only", nargs="+", choices=("brick", "shuffled", "read"), default=["brick", "shuffled", "read"]
    )
    given = parser.parse_args()
    try:
        with closing(Assistant.open()) as assistant:
            found = measure(assistant, given.charts, given.out, given.vision, given.limit, given.only)
    except MattoniError as problem:
        print(problem, file=sys.stderr)
        return 1
    print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
