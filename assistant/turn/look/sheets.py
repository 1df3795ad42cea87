"""Reads XLSX with openpyxl: a table for each sheet, with numbers as the sheet shows them. Computes and fetches nothing."""

import datetime
import io
import re

import openpyxl
from openpyxl import Workbook
from openpyxl.cell.read_only import ReadOnlyCell
from openpyxl.utils.cell import range_boundaries
from openpyxl.worksheet._read_only import ReadOnlyWorksheet

from assistant.turn.look.markdown_tables import markdown_table
from assistant.turn.look.opened import Limits, Opened, pages_of
from assistant.turn.look.zips import Archive

_SHEETS = "xl/worksheets/"
_MERGED = re.compile(rb'<(?:\w+:)?mergeCell\s[^>]*?ref="([A-Z]+\d+:[A-Z]+\d+)"')
_MOST_MERGED = 10_000  # cells that one text is repeated in
_FORMULA = re.compile(rb"<f[ >]")
_CURRENCY = re.compile(r"\[\$([^\]-]+)[^\]]*\]|([$€£¥])")


def open_xlsx(archive: Archive, limits: Limits) -> Opened:
    """A page for each sheet that is shown: its name, then the table. A formula that was never computed stands as it is."""
    book = _loaded(archive, data_only=True)
    shown = [sheet for sheet in book.worksheets if sheet.sheet_state == "visible"]
    computed = not any(_FORMULA.search(archive.zip.read(name)) for name in archive.names if name.startswith(_SHEETS))
    formulas = None if computed else _loaded(archive, data_only=False)
    texts = []
    for sheet in shown[: limits.pages]:
        rows = _rows(sheet, limits.characters)
        if formulas is not None:
            _add_formulas(rows, formulas[sheet.title])
        # Known to read-only sheets only: where in the zip they stand.
        _spread_merged(rows, archive.zip.read(sheet._worksheet_path))
        table = markdown_table(rows)
        texts.append(f"{sheet.title}\n\n{table}" if table else "")
    return pages_of(texts, len(shown), "sheets")


def _loaded(archive: Archive, data_only: bool) -> Workbook:
    """Read-only: row by row, since one merged range or a cell in the last row makes openpyxl keep millions of cells."""
    return openpyxl.load_workbook(io.BytesIO(archive.content), read_only=True, data_only=data_only, keep_links=False)


def _rows(sheet: ReadOnlyWorksheet, characters: int) -> list[list[str]]:
    """The cells of a sheet as they are shown, up to so many characters; nothing for empty cells at a row's end."""
    sheet.reset_dimensions()  # what a file says of them is often wrong
    rows: list[list[str]] = []
    for row in sheet.iter_rows():
        cells = [_shown(cell) for cell in row]
        while cells and not cells[-1]:
            cells.pop()
        rows.append(cells)
        characters -= sum(map(len, cells))
        if characters < 0:
            break
    return rows


def _spread_merged(rows: list[list[str]], markup: bytes) -> None:
    """Put a merged cell's text in each cell that it covers, as far as there are other cells in these rows and columns."""
    width = max(map(len, rows), default=0)
    for reference in _MERGED.findall(markup):
        left, top, right, bottom = range_boundaries(reference.decode())
        if top > len(rows) or left > len(rows[top - 1]):
            continue
        text, below, end = rows[top - 1][left - 1], rows[top - 1 : bottom], min(right, width)
        if len(below) * (end - left + 1) > _MOST_MERGED:
            continue
        for row in below:
            row += [""] * (end - len(row))
            row[left - 1 : end] = [text] * (end - left + 1)


def _add_formulas(rows: list[list[str]], sheet: ReadOnlyWorksheet) -> None:
    """Put a formula where the file holds no value of it, as programs other than Excel leave it."""
    sheet.reset_dimensions()
    for row, cells in zip(rows, sheet.iter_rows(), strict=False):
        for place, cell in enumerate(cells):
            if isinstance(cell.value, str) and cell.value.startswith("=") and not "".join(row[place : place + 1]):
                row += [""] * (place + 1 - len(row))
                row[place] = cell.value


def _shown(cell: ReadOnlyCell) -> str:
    """A value in the cell's own number format, as far as that says percent, a currency, decimals or a day."""
    value = cell.value
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, datetime.datetime):
        return str(value).removesuffix(" 00:00:00")
    if not isinstance(value, int | float):
        return str(value)
    kind = str(cell.number_format or "General").split(";")[0]
    decimals = re.search(r"0\.(0+)", kind)
    if "%" in kind:
        return f"{value:.{len(decimals.group(1)) if decimals else 0}%}"
    if decimals:
        number = f"{value:,.{len(decimals.group(1))}f}" if "#,##" in kind else f"{value:.{len(decimals.group(1))}f}"
    else:
        number = f"{value:.12g}" if abs(value) < 1e15 else str(value)
    currency = _CURRENCY.search(kind)
    if currency is None:
        return number
    sign = currency.group(1) or currency.group(2)
    return f"{sign}{number}" if currency.start() < kind.find("0") else f"{number} {sign}"
