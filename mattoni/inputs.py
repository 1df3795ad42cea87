"""What a user sends, before and after it was opened. Knows nothing of how it is opened (`assistant/turn/look`)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mattoni.kinds import Kind
from mattoni.trace import Notice

# Of every recording as it is heard: one channel, float32 between -1 and 1.
SAMPLE_RATE_HZ = 16_000
Samples = NDArray[np.float32]

# Above this ratio of height to width a picture is a strip, such as a screenshot that was scrolled: no camera or screen
# is that shape (a telephone's is 2.2).
TALL = 2.6
# A piece of a strip is about that high for its width: a screen.
_PIECE = 1.6


@dataclass(frozen=True)
class Attachment:
    """A file as it was uploaded."""

    name: str
    content: bytes


@dataclass(frozen=True)
class Picture:
    """A decoded picture: RGB, upright, on a ground that contrasts where it was transparent, within `Limits`."""

    digest: str
    name: str
    image: Image.Image

    @property
    def aspect(self) -> float:
        """Height for each pixel of width."""
        return self.image.height / self.image.width

    @property
    def is_tall(self) -> bool:
        """Whether it is a strip: to be read or looked at piece by piece, since squeezed into a square nothing is seen."""
        return self.aspect > TALL

    def pieces(self) -> list[Image.Image]:
        """The picture, or the pieces of a strip from top to bottom, cut where there is least to be cut."""
        if not self.is_tall:
            return [self.image]
        return [self.image.crop((0, top, self.image.width, bottom)) for top, bottom in cuts(self.image, _PIECE)]


def cuts(image: Image.Image, aspect: float, shortest: int = 0) -> list[tuple[int, int]]:
    """Tops and bottoms of pieces at most `aspect` times as high as wide (or `shortest`), cut where rows are blankest."""
    longest = max(int(aspect * image.width), shortest, 2)
    if image.height <= longest:
        return [(0, image.height)]
    unrest = np.asarray(image.convert("L"), np.float32).std(axis=1)
    found = [0]
    while image.height - found[-1] > longest:
        first = found[-1] + longest // 2
        found.append(first + int(unrest[first : found[-1] + longest].argmin()))
    found.append(image.height)
    return list(zip(found[:-1], found[1:], strict=True))


@dataclass(frozen=True)
class Page:
    """A page with its own text, or one to be read: `image` renders it anew each time, so long scans cost no memory."""

    number: int
    text: str | None
    render: Callable[[], Image.Image] | None = field(default=None, repr=False, compare=False)

    @property
    def image(self) -> Image.Image | None:
        return self.render() if self.render else None


@dataclass(frozen=True)
class Document:
    """Whatever has text: its pages, sheets, slides or chapters; a file without any, such as a mail, is one page."""

    digest: str
    name: str
    pages: tuple[Page, ...]


@dataclass(frozen=True)
class Sound:
    """A recording, or the sound track of a film: `blocks` decodes it anew each time, so long ones cost no memory."""

    digest: str
    name: str
    seconds: float
    is_film: bool = False
    blocks: Callable[[], Iterator[Samples]] = field(default=lambda: iter(()), repr=False, compare=False)


@dataclass(frozen=True)
class RefusedFile:
    """What could not be used, and what kind of file it is: a question about it is about that kind."""

    name: str
    kind: Kind


@dataclass(frozen=True)
class Looked:
    """What could be opened, in the order sent, a sentence about the rest, and what that was."""

    items: tuple[Picture | Document | Sound, ...]
    notices: tuple[Notice, ...]
    refused: tuple[RefusedFile, ...] = ()


@dataclass(frozen=True)
class PageText:
    """The text of a page; `read` says that it came from its picture."""

    number: int
    text: str
    read: bool


def document_text(document: Document, read: Callable[[Image.Image], str]) -> Iterator[PageText]:
    """The pages' text, one by one: their own, else what `read` (OCR) finds on the rendered page."""
    for page in document.pages:
        image = page.image if page.text is None else None
        text = page.text if image is None else read(image)
        yield PageText(page.number, text or "", image is not None)
