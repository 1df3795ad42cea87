"""What a user sends, before and after it was opened. Knows nothing of how it is opened (`assistant/turn/look.py`)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from PIL import Image

from mattoni.trace import Notice


@dataclass(frozen=True)
class Attachment:
    """A file as it was uploaded."""

    name: str
    content: bytes


@dataclass(frozen=True)
class Picture:
    """A decoded picture: RGB, upright, on white where it was transparent, at most `Limits.kept_pixels` large."""

    digest: str
    name: str
    image: Image.Image


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
    """A PDF, or a text, Markdown or HTML file (one page)."""

    digest: str
    name: str
    pages: tuple[Page, ...]


@dataclass(frozen=True)
class Looked:
    """What could be opened, in the order sent, and a sentence about the rest."""

    items: tuple[Picture | Document, ...]
    notices: tuple[Notice, ...]


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
