"""Reads the OpenDocument formats (ISO/IEC 26300): ODT, ODS and ODP, whose cells hold what is shown."""

from collections.abc import Iterator

from lxml import etree  # type: ignore[import-untyped]

from assistant.turn.look.markdown_tables import markdown_table
from assistant.turn.look.opened import DAMAGED, SEND_PART, Limits, Opened, Refused, pages_of
from assistant.turn.look.pasted import pasted_pages
from assistant.turn.look.zips import Archive

_OASIS = "urn:oasis:names:tc:opendocument:xmlns:"
_TEXT, _TABLE, _DRAW, _OFFICE = (f"{{{_OASIS}{name}:1.0}}" for name in ("text", "table", "drawing", "office"))
_PRESENTATION = f"{{{_OASIS}presentation:1.0}}"
_SKIPPED = {f"{_TEXT}tracked-changes", f"{_OFFICE}forms", f"{_TEXT}sequence-decls", f"{_OFFICE}annotation-end"}
# Programs fill a sheet up with as many empty cells as it may have.
_MOST_REPEATED = 1000
_MOST_SPANNED = 100
_MOST_CELLS = 2_000_000


def open_odt(archive: Archive, limits: Limits) -> Opened:
    """One page: headings, paragraphs, lists and tables, in order."""
    blocks = list(_blocks(_body(archive, "text")))
    if not blocks and (pages := pasted_pages(archive, "Pictures/", limits)):
        return pages
    return pages_of(["\n".join(blocks)])


def open_ods(archive: Archive, limits: Limits) -> Opened:
    """A page for each sheet: its name, then the table."""
    sheets = list(_body(archive, "spreadsheet").iterchildren(f"{_TABLE}table"))
    texts = [
        f"{sheet.get(f'{_TABLE}name', '')}\n\n{table}" for sheet in sheets[: limits.pages] if (table := _table(sheet))
    ]
    return pages_of(texts, len(texts) + max(0, len(sheets) - limits.pages), "sheets")


def open_odp(archive: Archive, limits: Limits) -> Opened:
    """A page for each slide."""
    slides = list(_body(archive, "presentation").iterchildren(f"{_DRAW}page"))
    texts = ["\n".join(_blocks(slide)) for slide in slides[: limits.pages]]
    if not any(texts) and (pages := pasted_pages(archive, "Pictures/", limits)):
        return pages
    return pages_of(texts, len(slides), "slides")


def _body(archive: Archive, kind: str) -> etree._Element:
    content = archive.parsed("content.xml")
    body = content.find(f"{_OFFICE}body/{_OFFICE}{kind}") if content is not None else None
    if body is None:
        raise Refused(DAMAGED)
    return body


def _blocks(parent: etree._Element, mark: str = "") -> Iterator[str]:
    """Texts of headings, paragraphs and tables below an element; `mark` stands before the first of a list's item."""
    for child in parent:
        if child.tag in _SKIPPED or not isinstance(child.tag, str):
            continue
        if child.tag in (f"{_TEXT}p", f"{_TEXT}h"):
            text = "".join(_characters(child)).strip()
            level = child.get(f"{_TEXT}outline-level", "1") if child.tag == f"{_TEXT}h" else "0"
            if text:
                yield f"{'#' * int(level)} {text}" if level != "0" else mark + text
                mark = ""
            # Frames with text of their own stand inside a paragraph.
            for box in child.iter(f"{_DRAW}text-box"):
                yield from _blocks(box)
        elif child.tag == f"{_TABLE}table":
            if table := _table(child):
                yield table
        elif child.tag == f"{_TEXT}list-item":
            yield from _blocks(child, "- ")
        elif child.tag == f"{_PRESENTATION}notes":
            notes = " ".join(_blocks(child)).strip()
            if notes:
                yield f"Notes: {notes}"
        else:
            yield from _blocks(child, mark)


def _characters(element: etree._Element) -> Iterator[str]:
    yield element.text or ""
    for child in element:
        if child.tag == f"{_TEXT}s":
            yield " " * min(int(child.get(f"{_TEXT}c", "1")), _MOST_REPEATED)
        elif child.tag == f"{_TEXT}tab":
            yield "\t"
        elif child.tag == f"{_TEXT}line-break":
            yield "\n"
        elif child.tag == f"{_TEXT}note":
            yield f" [{' '.join(''.join(_characters(child)).split())}] "
        elif isinstance(child.tag, str) and child.tag != f"{_DRAW}frame":
            yield from _characters(child)
        yield child.tail or ""


def _table(table: etree._Element) -> str:
    rows: list[list[str]] = []
    merged: dict[tuple[int, int], str] = {}
    for row in table.iter(f"{_TABLE}table-row"):
        cells: list[str] = []
        for cell in row.iterchildren(f"{_TABLE}table-cell", f"{_TABLE}covered-table-cell"):
            text = " ".join(_blocks(cell))
            if len(merged) > _MOST_CELLS:
                raise Refused(f"holds a table of too many cells: {SEND_PART}")
            for _ in range(_repeated(cell, "columns")):
                here = (len(rows), len(cells))
                for y in range(_spanned(cell, "rows")):
                    for x in range(_spanned(cell, "columns")):
                        merged.setdefault((here[0] + y, here[1] + x), merged.get(here, text))
                cells.append(merged[here])
        if any(cells):
            rows += [list(cells) for _ in range(_repeated(row, "rows"))]
        else:
            rows.append([])
    return markdown_table(rows)


def _repeated(element: etree._Element, what: str) -> int:
    return min(int(element.get(f"{_TABLE}number-{what}-repeated", "1")), _MOST_REPEATED)


def _spanned(cell: etree._Element, what: str) -> int:
    return min(int(cell.get(f"{_TABLE}number-{what}-spanned", "1")), _MOST_SPANNED)
