"""Opens files of plain text: notes and programs as they are; web pages, tables, notebooks and mail as what they are."""

import csv
import io
from typing import Literal

from assistant.turn.look import mail, notebooks
from assistant.turn.look.html import html_text, is_html
from assistant.turn.look.markdown_tables import markdown_table
from assistant.turn.look.names import ending_of
from assistant.turn.look.opened import Limits, Opened, Refused, pages_of
from mattoni.charsets import decoded

_NO_CONTROLS = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
_DELIMITERS = {"csv": ",;\t|", "tsv": "\t", "tab": "\t"}
_FEWEST_ROWS, _FEWEST_COLUMNS = 3, 2


def open_text(name: str, content: bytes, limits: Limits) -> Opened:
    """Raises Refused where it is no text after all."""
    text = decoded(content)
    if text is None:
        raise Refused("is of an unknown kind: send a picture, a recording, a PDF, an office file or a text file.")
    if mail.is_mail(content):
        return mail.open_mail(content, limits)
    text = plain(text)
    if is_html(text):
        return pages_of([html_text(text)])
    cells = notebooks.cells_of(text)
    if cells is not None:
        return pages_of(["\n\n".join(cells)])
    return pages_of([_table(text, ending_of(name)) or text])


def plain(text: str) -> str:
    """One kind of line end, and no control characters but tabs."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n")
    return lines.translate(_NO_CONTROLS).strip().removeprefix("\ufeff")


def _table(text: str, ending: str) -> str:
    """A table as Markdown; empty for what is none. Tabs are asked for more than commas where the name says nothing.

    The name only says which delimiters to try: each row must have as many cells as the first.
    """
    # In a log, quotes are part of what was said.
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if ending in _DELIMITERS else csv.QUOTE_NONE
    for delimiter in _DELIMITERS.get(ending, "\t"):
        if delimiter not in text.partition("\n")[0]:
            continue
        try:
            lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, quoting=quoting)
            rows = [row for row in lines if any(row)]
        except csv.Error:
            continue
        columns = max(map(len, rows))
        short = sum(len(row) != len(rows[0]) for row in rows)
        if ending in _DELIMITERS and columns >= _FEWEST_COLUMNS and short <= len(rows) / 5:
            return markdown_table(rows)
        if columns >= _FEWEST_COLUMNS and len(rows) >= _FEWEST_ROWS and not short and all(row[0] for row in rows):
            return markdown_table(rows)
    return ""
