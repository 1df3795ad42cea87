"""Asks each attachment what it is and hands it to the module of its family. Knows nothing of bricks, prompts or OCR.

A kind is told by the content, never by the file's name. What cannot be opened becomes a notice and the rest goes on;
every item is made from its own bytes alone.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from assistant.turn.look import (
    ebook,
    old_office,
    opendocument,
    pdf,
    pictures,
    rtf,
    sheets,
    slides,
    sounds,
    svg,
    text_files,
    word,
    zips,
)
from assistant.turn.look.names import clean_name, promised_kind
from assistant.turn.look.opened import DAMAGED, SEND_PART, Limits, Opened, Refused, Told, Track
from mattoni.inputs import Attachment, Document, Looked, Picture, RefusedFile, Sound
from mattoni.kinds import Format, Kind, format_of, kind_of
from mattoni.trace import Notice

LOG = logging.getLogger(__name__)

_MOST_NESTED = 3  # a mail in a mail in a mail
_REFUSED_KINDS = {
    "postscript": "is a PostScript file, which is not read: save it as PDF.",
    "unknown": "is of an unknown kind: send a picture, a recording, a PDF, an office file or a text file.",
}
_CALLED = {"picture": "a picture", "sound": "a sound recording", "document": "a document", "film": "a film"}


@dataclass
class _Found:
    """What was opened so far, in the order sent, and how many of each kind were left out."""

    items: list[Picture | Document | Sound] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    refused: list[RefusedFile] = field(default_factory=list)
    used: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)


def look(attachments: Sequence[Attachment], limits: Limits = Limits()) -> Looked:  # noqa: B008 - frozen
    """Open every attachment inside the limits. Never raises for what a user sent: each failure is a notice."""
    found = _Found()
    for attachment in attachments:
        _look_at(replace(attachment, name=clean_name(attachment.name)), limits, found)
    for kind, number in found.left_out.items():
        used = f"Only the first {_most(kind, limits)} {kind} of a message are used"
        found.notices.append(
            Notice("truncated", f"{used}; {number} more were left out: send them in the next message.")
        )
    return Looked(tuple(found.items), tuple(found.notices), tuple(found.refused))


def _look_at(attachment: Attachment, limits: Limits, found: _Found, depth: int = 0) -> None:
    """Open one attachment, and what is attached to it, and add them to what was found."""
    name, content = attachment.name, attachment.content
    kind = kind_of(content)
    counted = _COUNTED.get(kind, "documents")
    if found.used[counted] == _most(counted, limits):
        found.left_out[counted] += 1
        return
    try:
        opened = _limited(_open(name, content, limits), limits)
    except Refused as refusal:
        found.notices.append(Notice("refused", f"{name} {refusal}"))
        found.refused.append(RefusedFile(name, kind if content else promised_kind(name) or "document"))
        return
    except Exception as problem:
        # Decoders of foreign bytes raise whatever they like; the other attachments and the question go on.
        LOG.debug("cannot open an attachment", exc_info=problem)
        found.notices.append(Notice("refused", f"{name} {DAMAGED}"))
        found.refused.append(RefusedFile(name, kind))
        return
    found.used[counted] += 1
    digest = hashlib.sha256(content).hexdigest()
    found.items.append(_item(digest, name, opened))
    found.notices.extend(Notice(code, f"{name} {text}") for code, text in (*_misnamed(name, content), *opened.told))
    for inner in opened.within:
        if depth < _MOST_NESTED:
            _look_at(
                Attachment(f"{clean_name(inner.name, 50)} (in {clean_name(name, 24)})", inner.content),
                limits,
                found,
                depth + 1,
            )


def _item(digest: str, name: str, opened: Opened) -> Picture | Document | Sound:
    match opened.what:
        case tuple(pages):
            return Document(digest, name, pages)
        case Track(seconds, blocks, is_film):
            return Sound(digest, name, seconds, is_film, blocks)
        case image:
            return Picture(digest, name, image)


_COUNTED: dict[Kind, str] = {"picture": "pictures", "sound": "recordings", "film": "recordings"}


def _most(kind: str, limits: Limits) -> int:
    return {"pictures": limits.pictures, "recordings": limits.recordings}.get(kind, limits.documents)


def _open(name: str, content: bytes, limits: Limits) -> Opened:
    if not content:
        raise Refused("is empty: send it again.")
    if len(content) > (most := limits.most_bytes(content)):
        megabytes = f"{len(content) / 1e6:.0f} MB large, and at most {most / 1e6:.0f} MB are read"
        raise Refused(f"is {megabytes}: send a smaller version or a part of it.")
    found = format_of(content)
    kind = kind_of(content)
    if found in _REFUSED_KINDS:
        raise Refused(_REFUSED_KINDS[found])
    if kind in ("sound", "film"):
        return sounds.open_sound(content, limits)
    if found == "zip":
        archive = zips.checked(content, limits)
        if archive.holds not in _PACKED:
            raise Refused("is a zip, which is not read: send the files in it.")
        return _PACKED[archive.holds](archive, limits)
    if found == "text":
        return text_files.open_text(name, content, limits)
    return _OPENERS.get(found, pictures.open_picture)(content, limits)


_OPENERS: dict[Format, Callable[[bytes, Limits], Opened]] = {
    "pdf": pdf.open_pdf,
    "svg": svg.open_svg,
    "rtf": rtf.open_rtf,
    "ole": old_office.open_ole,
}
_PACKED: dict[str | None, Callable[[zips.Archive, Limits], Opened]] = {
    "docx": word.open_docx,
    "xlsx": sheets.open_xlsx,
    "pptx": slides.open_pptx,
    "odt": opendocument.open_odt,
    "ods": opendocument.open_ods,
    "odp": opendocument.open_odp,
    "epub": ebook.open_epub,
}


def _misnamed(name: str, content: bytes) -> list[Told]:
    """A sentence where the name's ending promises another kind of file; the content counts all the same."""
    promised, kind = promised_kind(name), kind_of(content)
    is_text = format_of(content) == "text"
    if promised is None or not (is_text or promised != kind):
        return []
    if {promised, kind} == {"sound", "film"}:  # containers for both: a browser records a voice as WebM
        return []
    what = "a text file" if is_text else _CALLED[kind]
    return [("misnamed", f"is {what}, whatever its name says, and was opened as one.")]


def _limited(opened: Opened, limits: Limits) -> Opened:
    """Its pages up to the limit of characters."""
    if not isinstance(opened.what, tuple):
        return opened
    if not any(page.render or (page.text or "").strip() for page in opened.what) and not opened.within:
        raise Refused("holds no text: send a file that does.")
    left, kept = limits.characters, 0
    for page in opened.what:
        if len(page.text or "") > left:
            break
        left -= len(page.text or "")
        kept += 1
    if kept == len(opened.what):
        return opened
    pages, until = opened.what[:kept], f"{kept} pages"
    if not kept:
        pages, until = (replace(opened.what[0], text=(opened.what[0].text or "")[:left]),), f"{left:,} characters"
    told = ("truncated", f"is too long; only its first {until} are read: {SEND_PART}")
    return replace(opened, what=pages, told=(*opened.told, told))
