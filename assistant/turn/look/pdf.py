"""Opens PDFs with pdfium: each page's own text in reading order, with what was filled in, or the page to be read."""

import ctypes
import threading
import unicodedata
from collections.abc import Iterator, Sequence
from functools import partial

import pypdfium2 as pdfium
from PIL import Image
from pypdfium2 import raw as pdfium_raw

from assistant.turn.look.opened import LOCKED, Limits, Opened, Refused, Told, too_many
from assistant.turn.look.text_files import plain
from mattoni.inputs import Page
from modality_bricks.reading_order import Line, blocks_of, rows_of, text_in_reading_order

# A scan's own text counts from this many letters and digits on; archives and machines stamp less than that on each page.
_STAMP_LETTERS = 150
_SCAN_COVERS = 0.5
# Words nearer than this part of their height stand in one line; between columns there is more.
_WORD_GAP = 0.6
# With this share of lines stored right before the next one, the order of the file is the order of reading.
_IN_ORDER = 0.8
_MOST_BOXES = 3000
# pdfium may be used by one thread at a time.
_PDFIUM = threading.Lock()


def open_pdf(content: bytes, limits: Limits) -> Opened:
    """Pages with their own text, or to be rendered; at most `limits.pages` of them."""
    with _PDFIUM:
        try:
            pdf = pdfium.PdfDocument(content)
        except pdfium.PdfiumError as problem:
            if problem.err_code == pdfium_raw.FPDF_ERR_PASSWORD:
                raise Refused(LOCKED) from problem
            raise
        try:
            _show_forms(pdf)
            count = len(pdf)
            texts = [_own_text(pdf, index) for index in range(min(count, limits.pages))]
        finally:
            pdf.close()
    told: tuple[Told, ...] = (too_many(count, limits.pages, "pages"),) if count > limits.pages else ()
    pages = [
        Page(index + 1, text, partial(_render, content, index, limits.kept_pixels) if text is None else None)
        for index, text in enumerate(texts)
    ]
    return Opened(tuple(pages), told)


def _show_forms(pdf: pdfium.PdfDocument) -> None:
    """So that fields have values and are drawn. This build of pdfium has no JavaScript, so forms cannot run any."""
    if pdf.get_formtype() != pdfium_raw.FORMTYPE_NONE:
        pdf.init_forms()


def _own_text(pdf: pdfium.PdfDocument, index: int) -> str | None:
    """A page's own text; None where it must be read from its picture instead.

    That is a page without text, with nothing but marks that its fonts do not map to letters, or with a scan that bears
    no more than a stamp or a page number of its own. A scan with a layer of text keeps that text.
    """
    page = pdf[index]
    try:
        textpage = page.get_textpage()
        try:
            text = plain(textpage.get_text_bounded())
            letters = sum(c.isalnum() for c in text)
            unmapped = sum(c == "\ufffd" or unicodedata.category(c) == "Co" for c in text)
            if letters <= unmapped or (letters < _STAMP_LETTERS and _is_scan(page)):
                return None
            return _in_reading_order(page, textpage, list(_filled_in(pdf, page))) or text
        finally:
            textpage.close()
    finally:
        page.close()


def _in_reading_order(page: pdfium.PdfPage, textpage: pdfium.PdfTextPage, filled_in: Sequence[Line]) -> str:
    """The page's text by where it stands; empty where it is stored in the order of reading, with nothing filled in."""
    count = textpage.count_rects()
    if count > _MOST_BOXES or page.get_rotation():
        return "\n".join([plain(textpage.get_text_bounded()), *(line.text for line in filled_in)]) if filled_in else ""
    lines = _joined_words([_line(page, textpage, *textpage.get_rect(i)) for i in range(count)])
    if not filled_in:
        blocks = blocks_of(lines)
        stored = {id(line): place for place, line in enumerate(lines)}
        order = [stored[id(line)] for block in blocks for row in block for line in row]
        kept = sum(second == first + 1 for first, second in zip(order, order[1:], strict=False))
        if len(blocks) < 2 or kept >= _IN_ORDER * (len(order) - 1):
            return ""
    return plain(text_in_reading_order([*lines, *filled_in]))


def _line(
    page: pdfium.PdfPage, textpage: pdfium.PdfTextPage, left: float, bottom: float, right: float, top: float
) -> Line:
    text = plain(textpage.get_text_bounded(left, bottom, right, top)).replace("\n", " ")
    return _placed(page, text, left, bottom, right, top)


def _placed(page: pdfium.PdfPage, text: str, left: float, bottom: float, right: float, top: float) -> Line:
    """A text and its place, counted from the top as in pictures."""
    up, down = page.get_height() - top, page.get_height() - bottom
    return Line(text, ((left, up), (right, up), (right, down), (left, down)), 1.0)


def _joined_words(lines: Sequence[Line]) -> list[Line]:
    """Lines of text from pieces of them, in the order in which their first pieces are stored."""
    place = {id(line): number for number, line in enumerate(lines)}
    joined: list[tuple[int, Line]] = []
    for row in rows_of([line for line in lines if line.text]):
        first, last = 0, row[0]
        for end, line in enumerate([*row[1:], None], start=1):
            if line is not None:
                gap, height = line.box[0][0] - last.box[1][0], last.box[3][1] - last.box[0][1]
                if gap < _WORD_GAP * height:
                    last = line
                    continue
            pieces = row[first:end]
            joined.append((min(place[id(piece)] for piece in pieces), _union(pieces)))
            if line is not None:
                first, last = end, line
    return [line for _, line in sorted(joined, key=lambda item: item[0])]


def _union(pieces: Sequence[Line]) -> Line:
    xs, ys = [x for piece in pieces for x, _ in piece.box], [y for piece in pieces for _, y in piece.box]
    corners = ((min(xs), min(ys)), (max(xs), min(ys)), (max(xs), max(ys)), (min(xs), max(ys)))
    return Line(" ".join(piece.text for piece in pieces), corners, 1.0)


def _filled_in(pdf: pdfium.PdfDocument, page: pdfium.PdfPage) -> Iterator[Line]:
    """What stands in the fields of a form, and notes that were typed onto the page, each where it is seen."""
    for number in range(pdfium_raw.FPDFPage_GetAnnotCount(page)):
        annotation = pdfium_raw.FPDFPage_GetAnnot(page, number)
        try:
            text = _annotated(pdf, annotation)
            place = pdfium_raw.FS_RECTF()
            if text and pdfium_raw.FPDFAnnot_GetRect(annotation, place):
                yield _placed(page, text, place.left, place.bottom, place.right, place.top)
        finally:
            pdfium_raw.FPDFPage_CloseAnnot(annotation)


def _annotated(pdf: pdfium.PdfDocument, annotation: object) -> str:
    kind = pdfium_raw.FPDFAnnot_GetSubtype(annotation)
    if kind == pdfium_raw.FPDF_ANNOT_FREETEXT:
        return _string(partial(pdfium_raw.FPDFAnnot_GetStringValue, annotation, b"Contents"))
    if kind != pdfium_raw.FPDF_ANNOT_WIDGET or pdf.formenv is None:
        return ""
    form = pdf.formenv
    field = pdfium_raw.FPDFAnnot_GetFormFieldType(form, annotation)
    if field in (pdfium_raw.FPDF_FORMFIELD_CHECKBOX, pdfium_raw.FPDF_FORMFIELD_RADIOBUTTON):
        return "[x]" if pdfium_raw.FPDFAnnot_IsChecked(form, annotation) else "[ ]"
    if field in (
        pdfium_raw.FPDF_FORMFIELD_TEXTFIELD,
        pdfium_raw.FPDF_FORMFIELD_COMBOBOX,
        pdfium_raw.FPDF_FORMFIELD_LISTBOX,
    ):
        return _string(partial(pdfium_raw.FPDFAnnot_GetFormFieldValue, form, annotation))
    return ""


def _string(get: partial[int]) -> str:
    """A string of pdfium's, which says its length in bytes when it is asked without a place to put it (UTF-16)."""
    length = get(None, 0)
    buffer = ctypes.create_string_buffer(length)
    get(ctypes.cast(buffer, ctypes.POINTER(pdfium_raw.FPDF_WCHAR)), length)
    return " ".join(buffer.raw[: max(length - 2, 0)].decode("utf-16-le", "replace").split())


def _is_scan(page: pdfium.PdfPage) -> bool:
    """Whether one picture covers most of the page."""
    width, height = page.get_size()
    for picture in page.get_objects(filter=[pdfium_raw.FPDF_PAGEOBJ_IMAGE]):
        left, bottom, right, top = picture.get_bounds()
        across, down = min(right, width) - max(left, 0), min(top, height) - max(bottom, 0)
        if across > 0 and down > 0 and across * down > _SCAN_COVERS * width * height:
            return True
    return False


def _render(content: bytes, index: int, kept_pixels: int, dpi: int = 200) -> Image.Image:
    """A page as a picture at 200 dpi, or less where that would be more than `kept_pixels`."""
    with _PDFIUM:
        pdf = pdfium.PdfDocument(content)
        try:
            _show_forms(pdf)
            page = pdf[index]
            width, height = page.get_size()
            scale = min(dpi / 72, (kept_pixels / max(width * height, 1.0)) ** 0.5)
            image: Image.Image = page.render(scale=scale).to_pil().convert("RGB")
            page.close()
        finally:
            pdf.close()
    return image
