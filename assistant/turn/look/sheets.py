"""Reads XLSX with openpyxl: a table for each sheet, with numbers as the sheet shows them. Computes and fetches nothing."""

import datetime
import io
import re

import openpyxl
from openpyxl.cell.cell import Cell
from openpyxl.worksheet.worksheet import Worksheet

from assistant.turn.look.markdown_tables import markdown_table
from assistant.turn.look.opened import Limits, Opened, Refused, pages_of
from assistant.turn.look.zips import Archive

_SHEETS = "xl/worksheets/"
_FORMULA = re.compile(rb"<f[ >]")
_CURRENCY = re.compile(r"\[\$([^\]-]+)[^\]]*\]|([$€£¥])")


def open_xlsx(archive: Archive, limits: Limits) -> Opened:
    """A page for each sheet that is shown: its name, then the table. A formula that was never computed stands as it is."""
    source = io.BytesIO(archive.content)
    book = openpyxl.load_workbook(source, data_only=True, keep_links=False)
    shown = [sheet for sheet in book.worksheets if sheet.sheet_state == "visible"]
    computed = not any(_FORMULA.search(archive.zip.read(name)) for name in archive.names if name.startswith(_SHEETS))
    formulas = None if computed else openpyxl.load_workbook(source, keep_links=False)
    texts = []
    for sheet in shown[: limits.pages]:
        rows = _rows(sheet)
        if formulas is not None:
            _add_formulas(rows, formulas[sheet.title])
        table = markdown_table(rows)
        texts.append(f"{sheet.title}\n\n{table}" if table else "")
    if not any(texts):
        raise Refused("holds no text: send a file that does.")
    return pages_of(texts, len(shown), "sheets")


def _rows(sheet: Worksheet) -> list[list[str]]:
    """All cells of a sheet as they are shown, a merged cell's text in each cell that it covers."""
    rows = [[_shown(cell) for cell in row] for row in sheet.iter_rows()]
    for merged in sheet.merged_cells.ranges:
        top, left = merged.min_row - sheet.min_row, merged.min_col - sheet.min_column
        for row in rows[top : merged.max_row - sheet.min_row + 1]:
            row[left : left + merged.size["columns"]] = [rows[top][left]] * len(
                row[left : left + merged.size["columns"]]
            )
    return rows


def _add_formulas(rows: list[list[str]], sheet: Worksheet) -> None:
    """Put a formula where the file holds no value of it, as programs other than Excel leave it."""
    for row, cells in zip(rows, sheet.iter_rows(), strict=False):
        for place, cell in enumerate(cells[: len(row)]):
            if not row[place] and isinstance(cell.value, str) and cell.value.startswith("="):
                row[place] = cell.value


def _shown(cell: Cell) -> str:
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
