"""What the families of files share: limits, what opening gives, and what is said where it fails."""

import builtins
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from PIL import Image

from mattoni.inputs import Attachment, Page, Samples
from mattoni.kinds import kind_of

Told = tuple[str, str]  # a notice's code, and a sentence that lacks its beginning, the attachment's name

DAMAGED = "is damaged and cannot be opened: save it again or send another copy."
LOCKED = "is locked with a password: save it without one."
SEND_PART = "send the part that matters."


@dataclass(frozen=True)
class Limits:
    """What one turn may cost."""

    bytes: int = 50_000_000
    sound_bytes: int = 200_000_000  # of recordings and films, which are large for what is in them
    pictures: int = 10
    documents: int = 10
    recordings: int = 10
    seconds: float = 2 * 3600.0  # of a recording: a quarter of an hour's work for one core
    pixels: int = 64_000_000  # above today's phone cameras; 256 MB when decoded with transparency
    kept_pixels: int = 2048 * 2048
    pages: int = 50
    characters: int = 1_000_000
    unpacked_bytes: int = 300_000_000  # of an office file, an e-book: pictures and all
    markup_bytes: int = 40_000_000  # of it in XML, which takes ten times as much memory once it is parsed

    def most_bytes(self, head: builtins.bytes) -> int:
        """Of a file of this kind, by how it begins."""
        return self.sound_bytes if kind_of(head) in ("sound", "film") else self.bytes


class Refused(Exception):
    """Why an attachment cannot be used and what to do: the end of a sentence that begins with its name."""


@dataclass(frozen=True)
class Track:
    """The sound of a recording or a film; decoded when it is asked for, block by block."""

    seconds: float
    blocks: Callable[[], Iterator[Samples]]
    is_film: bool = False


@dataclass(frozen=True)
class Opened:
    """A file's contents: a picture, pages (sheets, slides, chapters) or sound; and the files that it brings with it."""

    what: Image.Image | tuple[Page, ...] | Track
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
