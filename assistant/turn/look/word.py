"""Reads DOCX: python-docx opens the package, and this walks through all of its text, in order."""

import io
import re
from collections.abc import Iterator

from docx.document import Document as WordDocument
from docx.opc.constants import CONTENT_TYPE
from docx.opc.part import PartFactory
from docx.oxml.ns import qn
from docx.package import Package
from docx.parts.document import DocumentPart
from lxml import etree  # type: ignore[import-untyped]

from assistant.turn.look.markdown_tables import markdown_table, spread
from assistant.turn.look.opened import Limits, Opened, pages_of
from assistant.turn.look.pasted import pasted_pages
from assistant.turn.look.zips import Archive

_W14 = "{http://schemas.microsoft.com/office/word/2010/wordml}"
_BREAKS = {qn("w:tab"): "\t", qn("w:br"): "\n", qn("w:cr"): "\n", qn("w:noBreakHyphen"): "-"}
# Text that was deleted, and the second copy of a drawing that Word keeps for older programs.
_SKIPPED = {
    qn("w:del"),
    qn("w:moveFrom"),
    qn("w:pPr"),
    qn("w:rPr"),
    "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback",
}
# Word's other kinds are built the same; python-docx alone refuses them. Their macros are never looked at.
for _kind in ("ms-word.document.macroEnabled", "ms-word.template.macroEnabledTemplate"):
    PartFactory.part_type_for[f"application/vnd.{_kind}.main+xml"] = DocumentPart
PartFactory.part_type_for[CONTENT_TYPE.WML_DOCUMENT_MAIN.replace("document.main", "template.main")] = DocumentPart
_NOTES = {"footnotes": "footnote", "endnotes": "endnote", "comments": "comment"}


def open_docx(archive: Archive, limits: Limits) -> Opened:
    """One page, since a DOCX has none of its own: headers, body, notes, footers. Scans pasted into it are pages to be read.

    python-docx's `paragraph.text` passes over content controls, insertions and text boxes, and takes a minute for the
    styles of a long document; its parts are walked through instead.
    """
    document = _document(archive)
    styles = {style.style_id: style.name or "" for style in document.styles}
    body = _blocks(document.element.body, styles)
    if not body and (pages := pasted_pages(archive, "word/media/", limits)):
        return pages
    around: dict[str, list[str]] = {"header": [], "footer": []}
    notes: list[str] = []
    for part in document.part.package.iter_parts():
        kind = re.sub(r"\d*\.xml$", "", str(part.partname).rsplit("/", 1)[-1])
        element = getattr(part, "element", None)
        if element is None and kind in _NOTES:
            element = archive.parsed(str(part.partname).lstrip("/"))
        if element is None:
            continue
        if kind in around:
            around[kind] += [text for text in _blocks(element, {}) if text not in around[kind]]
        elif kind in _NOTES:
            notes += [f"[{_NOTES[kind]}] {text}" for note in element for text in _blocks(note, {})]
    return pages_of(["\n".join((*around["header"], *body, *notes, *around["footer"]))])


def _document(archive: Archive) -> WordDocument:
    main = Package.open(io.BytesIO(archive.content)).main_document_part
    assert isinstance(main, DocumentPart)
    document: WordDocument = main.document
    return document


def _blocks(parent: etree._Element, styles: dict[str, str]) -> list[str]:
    """Paragraphs and tables below an element, in order, each a text; what has none is left out."""
    blocks: list[str] = []
    for child in parent:
        if child.tag == qn("w:p"):
            text = _paragraph(child, styles)
        elif child.tag == qn("w:tbl"):
            text = _table(child)
        elif child.tag in _SKIPPED:
            continue
        else:
            blocks += _blocks(child, styles)
            continue
        if text.strip():
            blocks.append(text)
    return blocks


def _paragraph(paragraph: etree._Element, styles: dict[str, str]) -> str:
    boxes: list[str] = []
    text = "".join(_runs(paragraph, boxes)).strip()
    style = paragraph.find(f"{qn('w:pPr')}/{qn('w:pStyle')}")
    name = styles.get(style.get(qn("w:val"), ""), "") if style is not None else ""
    if text and name.startswith(("Heading", "Title")):
        level = int(name[-1]) if name[-1].isdigit() else 1
        text = f"{'#' * level} {text}"
    elif text and (name.startswith("List") or paragraph.find(f"{qn('w:pPr')}/{qn('w:numPr')}") is not None):
        text = f"- {text}"
    return "\n".join(part for part in (text, *boxes) if part)


def _runs(element: etree._Element, boxes: list[str]) -> Iterator[str]:
    """The text below an element, but for text boxes, which go to `boxes`."""
    for child in element:
        if child.tag == qn("w:t") or child.tag.endswith("/math}t"):
            yield child.text or ""
        elif child.tag in _BREAKS:
            yield _BREAKS[child.tag]
        elif child.tag == f"{_W14}checkbox":
            checked = child.find(f"{_W14}checked")
            yield "[x] " if checked is not None and checked.get(f"{_W14}val") in ("1", "true") else "[ ] "
        elif child.tag == qn("w:txbxContent"):
            boxes.extend(_blocks(child, {}))
        elif child.tag not in _SKIPPED and isinstance(child.tag, str):
            yield from _runs(child, boxes)


def _table(table: etree._Element) -> str:
    """As Markdown; a cell merged downwards repeats its text, so that each row says what it is about."""
    cells: list[tuple[int, int, int, int, str]] = []
    above: dict[int, str] = {}
    for y, row in enumerate(table.iter(qn("w:tr"))):
        x = 0
        for cell in row.iter(qn("w:tc")):
            properties = cell.find(qn("w:tcPr"))
            across = _attribute(properties, "w:gridSpan", "1")
            merged = properties.find(qn("w:vMerge")) if properties is not None else None
            goes_on = merged is not None and merged.get(qn("w:val"), "continue") == "continue"
            text = above.get(x, "") if goes_on else " ".join(_blocks(cell, {}))
            above[x] = text
            width = int(across) if across.isdigit() else 1
            cells.append((y, x, 1, width, text))
            x += width
    return markdown_table(spread(cells))


def _attribute(properties: etree._Element | None, name: str, default: str) -> str:
    found = properties.find(qn(name)) if properties is not None else None
    return str(found.get(qn("w:val"), default)) if found is not None else default
