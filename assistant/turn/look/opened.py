"""What the families of files share: limits, what opening gives, and what is said where it fails."""

from dataclasses import dataclass

from PIL import Image

from mattoni.inputs import Attachment, Page

Told = tuple[str, str]  # a notice's code, and a sentence that lacks its beginning, the attachment's name

DAMAGED = "is damaged and cannot be opened: save it again or send another copy."
LOCKED = "is locked with a password: save it without one."
SEND_PART = "send the part that matters."


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
    unpacked_bytes: int = 300_000_000  # of an office file, an e-book: pictures and all
    markup_bytes: int = 40_000_000  # of it in XML, which takes ten times as much memory once it is parsed


class Refused(Exception):
    """Why an attachment cannot be used and what to do: the end of a sentence that begins with its name."""


@dataclass(frozen=True)
class Opened:
    """A file's contents: a picture, or pages (sheets, slides, chapters); and the files that it brings with it."""

    what: Image.Image | tuple[Page, ...]
    told: tuple[Told, ...] = ()
    within: tuple[Attachment, ...] = ()


def pages_of(texts: list[str], total: int | None = None, called: str = "pages") -> Opened:
    """A page per text; of `total` pages that there are, the others were left out."""
    pages = tuple(Page(number, text) for number, text in enumerate(texts, start=1))
    if total is None or total <= len(texts):
        return Opened(pages)
    return Opened(pages, (too_many(total, len(texts), called),))


def too_many(total: int, read: int, called: str) -> Told:
    """A notice for pages beyond the limit."""
    return "truncated", f"has {total} {called}; only the first {read} are read: {SEND_PART}"
