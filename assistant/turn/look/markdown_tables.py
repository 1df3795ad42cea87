"""Writes tables as Markdown, in which a small model keeps numbers with their labels. Knows nothing of files."""

from collections.abc import Sequence

Cells = Sequence[Sequence[str]]

_MOST_CELLS = 5_000_000


def markdown_table(rows: Cells) -> str:
    """A Markdown table whose first row is its head, without empty rows and columns; lines above it that span all of it.

    A row in which one text fills every column (a merged title) is a line of its own above or below. Of one column there
    is no table, but lines.
    """
    square = _square(rows)
    if not square:
        return ""
    if len(square[0]) == 1:
        return "\n".join(row[0] for row in square)
    parts: list[str] = []
    table: list[list[str]] = []
    for row in square:
        if len({*row}) == 1 and (len(row) > 2 or not table):
            parts += _written(table)
            table = []
            parts.append(row[0])
        else:
            table.append(row)
    return "\n".join(parts + _written(table))


def spread(cells: Sequence[tuple[int, int, int, int, str]]) -> list[list[str]]:
    """Rows of cells given as (row, column, rows spanned, columns spanned, text): a merged cell's text in all that it covers."""
    if not cells:
        return []
    height = max(row + down for row, _, down, _, _ in cells)
    width = max(column + across for _, column, _, across, _ in cells)
    grid = [[""] * width for _ in range(height)]
    for row, column, down, across, text in cells:
        for y in range(row, row + down):
            grid[y][column : column + across] = [text] * across
    return grid


def _square(rows: Cells) -> list[list[str]]:
    """Cells on one line each, in rows of the same length, without rows and columns that hold nothing."""
    lines = [[" ".join(cell.split()) for cell in row] for row in rows]
    lines = [row for row in lines if any(row)]
    used = sorted({column for row in lines for column, cell in enumerate(row) if cell})
    # No one draws a table so large; a sheet with a word in each row and in a column of its own would fill the memory.
    used = used[: max(1, _MOST_CELLS // max(len(lines), 1))]
    return [[row[column] if column < len(row) else "" for column in used] for row in lines]


def _written(table: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table]
    if len(lines) > 1:
        lines.insert(1, "|" + " --- |" * len(table[0]))
    return lines
