"""Rows of a task as tables have them: CSV, TSV, or columns parted by semicolons. Knows nothing of tasks."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from mattoni.errors import MattoniError
from mattoni.lines import JsonRow, json_rows, read_text

TABLES = (".csv", ".tsv")
_SEPARATORS = ",;\t|"
_LONGEST_CELL = 1 << 20
# Columns as people name them, and the keys that a row has. What stands under the first of a key that is there counts.
_NAMES = {
    "instruction": ("instruction", "task"),
    "input": ("input", "context"),
    "question": ("question", "prompt", "text", "message", "sentence", "source", "query"),
    "answers": ("answers", "answer", "output", "completion", "response", "label", "target", "result"),
    "id": ("id",),
}


def rows_of(path: Path, advice: str) -> Iterator[JsonRow]:
    """The rows of a table, as the objects that a file of JSON lines would hold; of any other file, its JSON lines.

    Raises MattoniError where the columns are not known.
    """
    names = path.name.removesuffix(".gz")
    yield from _table(path, advice) if names.casefold().endswith(TABLES) else json_rows(path, advice=advice)


def _table(path: Path, advice: str) -> Iterator[JsonRow]:
    text = read_text(path, advice).lstrip("\ufeff")
    head = text.split("\n", 1)[0]
    separator = max(_SEPARATORS, key=head.count)
    csv.field_size_limit(_LONGEST_CELL)
    try:
        lines = list(csv.reader(io.StringIO(text), delimiter=separator, strict=True))
    except csv.Error as problem:
        raise MattoniError(f"{path.name} is no table that can be read ({problem}): {advice}") from problem
    if not lines:
        return
    keys = _keys(lines[0], path.name)
    for number, cells in enumerate(lines[1:], 1):
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(lines[0]):
            raise MattoniError(
                f"{path.name}, row {number}: {len(cells)} cells under {len(lines[0])} columns: put quotes around a cell "
                "that holds a separator."
            )
        yield JsonRow(number, "row", {key: cells[place] for key, place in keys.items()})


def _keys(head: list[str], name: str) -> dict[str, int]:
    """Which column each key of a row stands in."""
    columns = [cell.strip().casefold() for cell in head]
    found = {
        key: columns.index(known)
        for key, names in _NAMES.items()
        if (known := next((n for n in names if n in columns), None)) is not None
    }
    if "input" in found and "instruction" not in found and "question" not in found:
        found["question"] = found.pop("input")
    if "instruction" in found and "input" not in found and "question" in found:
        found["input"] = found.pop("question")
    if "answers" not in found or not {"question", "instruction"} & found.keys():
        told = ", ".join(f"'{cell}'" for cell in head[:6])
        raise MattoniError(
            f"{name}: the columns {told} are not known: call what is asked 'question' and what is to be answered 'answer'."
        )
    return found
