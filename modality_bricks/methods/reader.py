"""Reads pictures and pages: RapidOCR's models, as they come in its wheel (`modality_bricks/ocr.py`). No training."""

import hashlib
import threading
from typing import Literal

from PIL import Image

from mattoni.cache import RecentlyUsed
from mattoni.injections import Text
from mattoni.inputs import Document, document_text
from mattoni.methods import Method, Parts
from mattoni.records import Read
from mattoni.runtime import Asked, BrickFiles, BrickRuntime, GivenDocument, GivenPicture, HostView, Injected, Stopped
from mattoni.trace import Notice
from modality_bricks.ocr import Line, Reader, text_in_reading_order


class ReaderParts(Parts):
    """What a card says of such a brick."""

    method: Literal["reader"]
    models: Literal["rapidocr"]


class ReaderRuntime(BrickRuntime):
    """OCR, and the lines that it found on the pictures and pages read last."""

    def __init__(self, brick: BrickFiles) -> None:
        super().__init__(brick)
        self._lines: RecentlyUsed[list[Line]] = RecentlyUsed(256)
        self._reader: Reader | None = None
        self._loading = threading.Lock()
        self._pages: dict[str, set[str]] = {}  # of each document read, the pages that it had to be read from

    def inject(self, asked: Asked) -> Injected:
        """The text of a picture or a document, in reading order."""
        if isinstance(asked.given, GivenDocument):
            return self._document(asked.given.document, asked)
        assert isinstance(asked.given, GivenPicture)
        return self._picture(asked.given, asked)

    def lines(self, picture: GivenPicture) -> list[Line]:
        """The boxes of text on a picture."""
        return self._lines.get(picture.digest, lambda: self.reader.read(picture.open()))

    def forget(self, digests: frozenset[str]) -> None:
        """Drop what was read of these contents."""
        pages = set().union(*(self._pages.pop(digest, set()) for digest in digests))
        self._lines.drop(lambda key: key in digests or key in pages)

    @property
    def reader(self) -> Reader:
        """The OCR models, loaded at first use."""
        with self._loading:
            if self._reader is None:
                self._reader = Reader()
            return self._reader

    def _picture(self, picture: GivenPicture, asked: Asked) -> Injected:
        with asked.stage("read"):
            text = text_in_reading_order(self.lines(picture)).strip()
        return Injected(
            segments=_segments(text),
            record=Read(picture.name, picture.digest, self.brick.name, text, "picture"),
            described=(f"sequence: text of {picture.name} by {self.brick.name}",) if text else (),
            is_empty=not text,
        )

    def _document(self, document: Document, asked: Asked) -> Injected:
        pages = []
        with asked.stage("read"):
            for page in document_text(document, lambda image: self._page(image, document)):
                # The texts of the pages so far are kept: asked again, reading goes on where it was stopped.
                if asked.stopping():
                    raise Stopped
                pages.append(page)
                if page.read and page.number < len(document.pages):
                    asked.progress(f"reading {document.name}, page {page.number + 1} of {len(document.pages)}")
        text = "\n\n".join(page.text for page in pages if page.text.strip())
        by_ocr = sum(page.read for page in pages)
        nothing = Notice("no-text", f"No text was found in {document.name}.")
        return Injected(
            segments=_segments(text),
            record=Read(document.name, document.digest, self.brick.name, text),
            described=(f"sequence: text of {document.name} by {self.brick.name}",),
            reason=f"{document.name}: {len(pages)} page(s), {by_ocr} by OCR",
            notices=() if text else (nothing,),
        )

    def _page(self, image: Image.Image, document: Document) -> str:
        """The text on a rendered page; its pixels stand for it, since pages are rendered anew from the same bytes."""
        digest = hashlib.sha256(image.tobytes()).hexdigest()
        self._pages.setdefault(document.digest, set()).add(digest)
        return text_in_reading_order(self.lines(GivenPicture(document.name, digest, lambda: image)))


def _segments(text: str) -> tuple[Text, ...]:
    return (Text(f"{text}\n\n"),) if text else ()


def _load(brick: BrickFiles, host: HostView) -> ReaderRuntime:
    return ReaderRuntime(brick)


METHODS = (Method("reader", ReaderParts, _load, accepts=frozenset({"picture", "page"})),)
