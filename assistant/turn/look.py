"""Opens what a user sent: pictures, PDFs and text files, inside limits. The only module that does.

A kind is told by the content, never by the file's name. What cannot be opened becomes a notice and the rest goes on;
every item is made from its own bytes alone. Knows nothing of bricks, prompts or OCR.
"""

import hashlib
import io
import logging
import threading
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import charset_normalizer
import numpy as np
import pypdfium2 as pdfium
from lxml import etree  # type: ignore[import-untyped]
from lxml import html as lxml_html
from PIL import Image, ImageOps
from pypdfium2 import raw as pdfium_raw

from mattoni.inputs import Attachment, Document, Looked, Page, Picture
from mattoni.trace import Notice

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What one turn may cost."""

    bytes: int = 50_000_000
    pictures: int = 10
    documents: int = 10
    pixels: int = 64_000_000  # above today's phone cameras; 256 MB when decoded with transparency
    kept_pixels: int = 2048 * 2048
    pages: int = 50
    characters: int = 1_000_000


_Told = tuple[str, str]  # a notice's code, and a sentence that lacks its beginning, the attachment's name
_SEND_PART = "send the part that matters."
_DAMAGED = "is damaged and cannot be opened: save it again or send another copy."


class _Refused(Exception):
    """Why an attachment cannot be used and what to do: the end of a sentence that begins with its name."""


# Formats that people send. EPS is missing because Pillow hands it to Ghostscript, the rare ones because fewer is safer.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "ICO", "MPO")
_PICTURE_STARTS = (
    b"\x89PNG",
    b"\xff\xd8\xff",
    b"GIF8",
    b"BM",
    b"II*\0",
    b"MM\0*",
    b"\0\0\1\0",
    b"\xff\x4f\xff\x51",
    b"\0\0\0\x0cjP",
)
_OTHER_KINDS = (
    (b"PK\x03\x04", "is an office file or a zip, which is not read: save it as PDF or send the files in it."),
    (b"\xd0\xcf\x11\xe0", "is an old office file, which is not read: save it as PDF."),
    (b"{\\rtf", "is an RTF file, which is not read: save it as PDF or plain text."),
    (b"%!PS", "is a PostScript file, which is not read: save it as PDF."),
)
# A scan's own text counts from this many letters and digits on; archives and machines stamp less than that on each page.
_STAMP_LETTERS = 150
_SCAN_COVERS = 0.5
# pdfium may be used by one thread at a time.
_PDFIUM = threading.Lock()


def clean_name(name: str, length: int = 80) -> str:
    """A file name fit to be shown and put in a prompt: no folders, no control marks; short, its ending kept."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    words = ("".join(c for c in word if not unicodedata.category(c).startswith("C")) for word in last.split())
    short = " ".join(word for word in words if word)
    if len(short) > length:
        short = short[: length - 11] + "…" + short[-10:]
    return short or "attachment"


def look(attachments: Sequence[Attachment], limits: Limits = Limits()) -> Looked:  # noqa: B008 - frozen
    """Open every attachment inside the limits. Never raises for what a user sent: each failure is a notice."""
    items: list[Picture | Document] = []
    notices: list[Notice] = []
    left_out: dict[str, int] = {"pictures": 0, "documents": 0}
    most = {"pictures": limits.pictures, "documents": limits.documents}
    count = dict.fromkeys(left_out, 0)
    for attachment in attachments:
        name = clean_name(attachment.name)
        kind = "pictures" if _is_picture(attachment.content) else "documents"
        if count[kind] == most[kind]:
            left_out[kind] += 1
            continue
        try:
            item, told = _open(name, attachment.content, limits)
        except _Refused as refusal:
            notices.append(Notice("refused", f"{name} {refusal}"))
            continue
        except Exception as problem:
            # Decoders of foreign bytes raise whatever they like; the other attachments and the question go on.
            LOG.debug("cannot open an attachment", exc_info=problem)
            notices.append(Notice("refused", f"{name} {_DAMAGED}"))
            continue
        count[kind] += 1
        items.append(item)
        notices.extend(Notice(code, f"{name} {text}") for code, text in told)
    for kind, number in left_out.items():
        if number:
            used = f"Only the first {most[kind]} {kind} of a message are used"
            notices.append(Notice("truncated", f"{used}; {number} more were left out: send them in the next message."))
    return Looked(tuple(items), tuple(notices))


def _is_picture(content: bytes) -> bool:
    webp_or_avif = content[8:12] == b"WEBP" or content[4:12] in (b"ftypavif", b"ftypavis")
    return webp_or_avif or content.startswith(_PICTURE_STARTS)


def _open(name: str, content: bytes, limits: Limits) -> tuple[Picture | Document, list[_Told]]:
    if not content:
        raise _Refused("is empty: send it again.")
    if len(content) > limits.bytes:
        megabytes = f"{len(content) / 1e6:.0f} MB large, and at most {limits.bytes / 1e6:.0f} MB are read"
        raise _Refused(f"is {megabytes}: send a smaller version or a part of it.")
    digest = hashlib.sha256(content).hexdigest()
    if _is_picture(content):
        image, told = _picture(content, limits)
        return Picture(digest, name, image), told
    for start, why in _OTHER_KINDS:
        if content.startswith(start):
            raise _Refused(why)
    if content[4:8] == b"ftyp" and content[8:12] in (b"heic", b"heix", b"mif1", b"msf1", b"hevc"):
        raise _Refused("is a HEIC picture, which is not read: save it as JPEG.")
    if content.lstrip().startswith(b"%PDF-") or (b"%PDF-" in content[:1024] and _text(content) is None):
        pages, told = _pdf_pages(content, limits)
        return Document(digest, name, pages), told
    text = _text(content)
    if text is None:
        raise _Refused("is of an unknown kind: send a picture, a PDF or a text file.")
    return _text_document(digest, name, text, limits)


# Pictures


def _picture(content: bytes, limits: Limits) -> tuple[Image.Image, list[_Told]]:
    """Decode the first frame, upright and in RGB; the pixel limit is checked on the header, before decoding."""
    try:
        opened = Image.open(io.BytesIO(content), formats=_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as bomb:
        raise _Refused(_too_many_pixels(limits)) from bomb
    if opened.width * opened.height > limits.pixels:
        raise _Refused(_too_many_pixels(limits))
    frames = getattr(opened, "n_frames", 1)
    # A phone's MPO holds the same view twice; that is no animation.
    animated = frames > 1 and opened.format != "MPO"
    advice = f"has {frames} frames; only the first is looked at: send the others as pictures of their own."
    # Lets the JPEG decoder skip detail that would be thrown away below.
    side = int(limits.kept_pixels**0.5)
    opened.draft(None, (side, side))
    opened.load()
    image = _rgb(_upright(opened))
    factor = (limits.kept_pixels / (image.width * image.height)) ** 0.5
    if factor < 1:
        size = (max(1, int(image.width * factor)), max(1, int(image.height * factor)))
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    return image, [("first-frame", advice)] if animated else []


def _upright(image: Image.Image) -> Image.Image:
    """Turned as the camera's EXIF data say; damaged EXIF data do not make a picture unusable."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception as problem:
        LOG.debug("EXIF data ignored", exc_info=problem)
        return image


def _too_many_pixels(limits: Limits) -> str:
    return f"has more than {limits.pixels / 1e6:.0f} million pixels: send a smaller version."


def _rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB from any mode: transparency becomes white, wider greys are scaled to 8 bits, not clipped."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image).astype(np.float32) / 257).round().astype(np.uint8))
    elif image.mode in ("I", "F"):
        values = np.nan_to_num(np.asarray(image, dtype=np.float64))
        low, high = values.min(), values.max()
        image = Image.fromarray(((values - low) * (255 / max(high - low, 1e-9))).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


# PDF


def _pdf_pages(content: bytes, limits: Limits) -> tuple[tuple[Page, ...], list[_Told]]:
    """Pages with their own text, or to be rendered; at most `limits.pages` of them and `limits.characters` of text."""
    with _PDFIUM:
        try:
            pdf = pdfium.PdfDocument(content)
        except pdfium.PdfiumError as problem:
            if problem.err_code == pdfium_raw.FPDF_ERR_PASSWORD:
                raise _Refused("is locked with a password: save it without one.") from problem
            raise
        try:
            count = len(pdf)
            texts = [_own_text(pdf, i) for i in range(min(count, limits.pages))]
        finally:
            pdf.close()
    told: list[_Told] = []
    if count > limits.pages:
        told.append(("truncated", f"has {count} pages; only the first {limits.pages} are read: {_SEND_PART}"))
    pages: list[Page] = []
    left = limits.characters
    for index, text in enumerate(texts):
        if text is not None and len(text) > left:
            told.append(("truncated", f"is too long; only its first {index} pages are read: {_SEND_PART}"))
            break
        left -= len(text or "")
        render = partial(_render, content, index, limits.kept_pixels) if text is None else None
        pages.append(Page(index + 1, text, render))
    return tuple(pages), told


def _own_text(pdf: pdfium.PdfDocument, index: int) -> str | None:
    """A page's own text; None where it must be read from its picture instead.

    That is a page without text, with nothing but marks that its fonts do not map to letters, or with a scan that bears
    no more than a stamp or a page number of its own. A scan with a layer of text keeps that text.
    """
    page = pdf[index]
    try:
        textpage = page.get_textpage()
        try:
            text = textpage.get_text_bounded()
        finally:
            textpage.close()
        text = _plain(text)
        letters = sum(c.isalnum() for c in text)
        unmapped = sum(c == "\ufffd" or unicodedata.category(c) == "Co" for c in text)
        if letters <= unmapped or (letters < _STAMP_LETTERS and _is_scan(page)):
            return None
        return text
    finally:
        page.close()


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
            page = pdf[index]
            width, height = page.get_size()
            scale = min(dpi / 72, (kept_pixels / max(width * height, 1.0)) ** 0.5)
            image: Image.Image = page.render(scale=scale).to_pil().convert("RGB")
            page.close()
        finally:
            pdf.close()
    return image


# Text files


def _text(content: bytes) -> str | None:
    """Bytes as text: by byte order mark, as UTF-8, else by the likeliest older charset; None for what is no text."""
    for mark, charset in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if content.startswith(mark):
            return _plain(content.decode(charset, errors="replace"))
    control = sum(content[:4096].count(byte) for byte in range(32) if byte not in b"\t\n\v\f\r\x1b")
    if b"\0" in content or control > len(content[:4096]) / 20:
        return None
    try:
        return _plain(content.decode())
    except UnicodeDecodeError:
        pass
    # With few letters above ASCII the detector guesses wildly: "short é" in Latin-1 became Cyrillic.
    sample = content[:65536]
    if sum(byte > 127 for byte in sample) < 0.3 * len(sample):
        return _plain(content.decode("cp1252", errors="replace"))
    best = charset_normalizer.from_bytes(sample, cp_isolation=_CHARSETS).best()
    return None if best is None else _plain(content.decode(best.encoding, errors="replace"))


_CHARSETS = "cp1252 cp1251 koi8_r shift_jis euc_jp gb18030 big5 euc_kr cp1253 cp1255 cp1256".split()


_NO_CONTROLS = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def _plain(text: str) -> str:
    """One kind of line end, and no control characters but tabs."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n")
    return lines.translate(_NO_CONTROLS).strip()


def _text_document(digest: str, name: str, text: str, limits: Limits) -> tuple[Document, list[_Told]]:
    start = text[:2048].lower()
    if "<svg" in start and start.lstrip().startswith(("<svg", "<?xml", "<!doctype svg", "<!--")):
        raise _Refused("is an SVG drawing, which is not read: save it as PNG.")
    if start.lstrip().startswith(("<!doctype html", "<html", "<head", "<body")) or "<html" in start:
        text = html_text(text)
    if not text:
        raise _Refused("holds no text: send a file that does.")
    told: list[_Told] = []
    if len(text) > limits.characters:
        text = text[: limits.characters]
        told.append(("truncated", f"is too long; only its first {len(text):,} characters are read: {_SEND_PART}"))
    return Document(digest, name, (Page(1, text),)), told


_UNSEEN = {"script", "style", "noscript", "template", "head", "iframe", "object", "svg", "canvas"}
_BLOCKS = set(
    "p div section article header footer main nav aside ul ol li dl dt dd table tr br hr pre blockquote h1 h2 h3 h4 h5 "
    "h6 figure figcaption form title".split()
)


def html_text(markup: str) -> str:
    """What a reader of the page sees: title and text, a block per line, tabs between cells; scripts dropped."""
    # As bytes, because lxml refuses a str that declares a charset of its own.
    parser = lxml_html.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True)
    root = lxml_html.document_fromstring(markup.encode(), parser=parser)
    parts: list[str] = []
    title = root.findtext(".//title")
    if title:
        parts.append(title.strip() + "\n")
    walk = etree.iterwalk(root, events=("start", "end"))
    for event, element in walk:
        tag = element.tag
        if event == "start":
            if tag in _UNSEEN or "hidden" in element.attrib:
                walk.skip_subtree()
                continue
            parts.append("\n- " if tag == "li" else "\n" if tag in _BLOCKS else "\t" if tag in ("td", "th") else "")
            parts.append(_folded(element.text))
        else:
            parts.append("\n" if tag in _BLOCKS else "")
            parts.append(_folded(element.tail))
    lines = (" ".join(line.split(" ")).strip() for line in "".join(parts).split("\n"))
    return "\n".join(line for line in lines if line and line != "-")


def _folded(text: str | None) -> str:
    """Line ends and runs of blanks as one blank, as a browser shows them."""
    if not text:
        return ""
    inner = " ".join(text.split())
    return (" " if text[0].isspace() else "") + inner + (" " if inner and text[-1].isspace() else "")
