"""Reads files into passages with their vectors. Knows nothing of cards.

What is done is kept file by file until the brick is in its place, so that a killed run goes on where it was.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from assistant.turn.look import Limits, clean_name, look
from knowledge_bricks.documents import searched_text
from knowledge_bricks.passages import DocumentText, PageText, Passage, split_document
from knowledge_bricks.sources import Source
from mattoni.errors import MattoniError
from mattoni.files import write_bytes
from mattoni.inputs import Attachment, Document, Picture, Sound, document_text

# More than in a message: these files are read once, not in the middle of a conversation.
_LIMITS = Limits(pages=2_000, characters=20_000_000)
_TOGETHER = 64  # passages that are embedded at once

ReadImage = Callable[[Image.Image], str]
Embed = Callable[[list[str]], Tensor]


@dataclass(frozen=True)
class Made:
    """What was made of one file; vectors are (passages, width)."""

    source: Source
    passages: tuple[Passage, ...]
    vectors: Tensor


class Workbench:
    """What was made so far for a brick that is not in its place yet, a file for each, by contents."""

    def __init__(self, folder: Path, embedder: str) -> None:
        """embedder  digest of what makes the vectors"""
        self.folder, self._embedder = folder, embedder

    def find(self, name: str, sha256: str) -> Made | None:
        """What was made of a file of that name and contents; None where nothing was, or it is damaged."""
        path = self._path(name, sha256)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as kept:
                said = json.loads(kept.metadata()["made"])
                source = Source(**{**said["source"], "documents": tuple(said["source"]["documents"])})
                return Made(source, tuple(Passage(**one) for one in said["passages"]), kept.get_tensor("vectors"))
        except (SafetensorError, OSError, ValueError, KeyError, TypeError):
            return None  # a file that the disk lost: it is read once more

    def keep(self, name: str, made: Made) -> None:
        """Keep what was made of a file."""
        said = {"source": asdict(made.source), "passages": [asdict(passage) for passage in made.passages]}
        content = save({"vectors": made.vectors.contiguous()}, {"made": json.dumps(said)})
        write_bytes(self._path(name, made.source.sha256), content)

    def clear(self) -> None:
        """Forget everything."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, name: str, sha256: str) -> Path:
        key = hashlib.sha256("\n".join((self._embedder, name, sha256)).encode("utf-8", "replace")).hexdigest()
        return self.folder / f"{key}.safetensors"


@dataclass
class Reading:
    """Files that are read one after the other: those that are new or changed, and what was made of them.

    had      what the brick was made of before: files with the same contents are left alone
    old      the passages of a document that is there already, and their vectors
    """

    bench: Workbench
    embed: Embed
    read: ReadImage | None
    had: Mapping[str, Source]
    old: Callable[[str], Iterable[tuple[Passage, Tensor]]]
    sources: dict[str, Source] = field(default_factory=dict)
    passages: list[Passage] = field(default_factory=list)
    vectors: list[Tensor] = field(default_factory=list)
    found: int = 0  # files that could be read, or that are there already
    _waiting: list[tuple[str, Source, list[Passage]]] = field(default_factory=list)

    def take(self, files: Iterable[Attachment], passed_over: Callable[[str], object] | None) -> None:
        """Read files. One that cannot be read refuses all, unless `passed_over` is told why.

        Raises MattoniError.
        """
        seen: set[str] = set()
        for file in files:
            key = unused(path_name(file.name), seen)
            seen.add(key)
            try:
                self._take(key, file)
            except MattoniError as problem:
                if passed_over is None:
                    raise
                passed_over(str(problem))
                # What an earlier state of it said stays: a file that is being written now is whole later.
                before = self.had[key].documents if key in self.had else ()
                self.sources[key] = Source(_sha256(file), len(file.content), before, str(problem), is_bad=True)
        self._flush()

    def _take(self, key: str, file: Attachment) -> None:
        sha256 = _sha256(file)
        before = self.had.get(key)
        if before is not None and before.sha256 == sha256 and not before.is_bad:
            self.found += 1
            return
        if twin := self._twin(key, sha256):
            self.sources[key] = Source(sha256, len(file.content), copy_of=twin)
            self.found += 1
            return
        if made := self.bench.find(key, sha256):
            self._add(key, made)
            return
        documents, told = self._opened(key, file)
        passages = [passage for document in documents for passage in split_document(document)]
        source = Source(sha256, len(file.content), tuple(document.name for document in documents), told)
        self.sources[key] = source
        self._waiting.append((key, source, passages))
        if sum(len(waiting) for _, _, waiting in self._waiting) >= _TOGETHER:
            self._flush()

    def _twin(self, key: str, sha256: str) -> str:
        """Another file with these contents: a copy is found once, not twice among three passages."""
        there = {**self.had, **self.sources}
        return next((name for name, one in there.items() if name != key and one.sha256 == sha256 and one.documents), "")

    def _opened(self, key: str, file: Attachment) -> tuple[list[DocumentText], str]:
        """The texts in a file, and what was left out of it: more than one where a mail brings others."""
        looked = look([replace(file, name=key)], _LIMITS)
        refused = next((notice for notice in looked.notices if notice.code == "refused"), None)
        if refused is not None and not looked.items:
            raise MattoniError(refused.text)
        if isinstance(looked.items[0], Sound):
            raise MattoniError(
                f"{key} is a recording, and knowledge is made of documents: add what is said in it as text."
            )
        taken = {name for other, one in {**self.had, **self.sources}.items() if other != key for name in one.documents}
        documents: list[DocumentText] = []
        for number, item in enumerate(looked.items):
            if isinstance(item, Sound):
                continue  # attached to a mail
            try:
                pages = _pages(item if number else replace(item, name=key), self.read)
            except MattoniError:
                if number == 0:
                    raise
                continue  # a picture in a mail's signature holds no text
            documents.append(DocumentText(unused(item.name if number else key, taken), tuple(pages)))
            taken.add(documents[-1].name)
        return documents, " ".join(notice.text for notice in looked.notices)

    def _flush(self) -> None:
        """Embed what waits, all but the passages that were there before, and keep it."""
        known = {
            searched_text(passage): vector
            for key, _, _ in self._waiting
            for name in (self.had[key].documents if key in self.had else ())
            for passage, vector in self.old(name)
        }
        texts = [searched_text(passage) for _, _, passages in self._waiting for passage in passages]
        new = [text for text in dict.fromkeys(texts) if text not in known]
        if new:
            known |= dict(zip(new, self.embed(new), strict=True))
        for key, source, passages in self._waiting:
            vectors = torch.stack([known[searched_text(passage)] for passage in passages])
            made = Made(source, tuple(passages), vectors)
            self.bench.keep(key, made)
            self._add(key, made)
        self._waiting.clear()

    def _add(self, key: str, made: Made) -> None:
        self.sources[key] = made.source
        self.passages += made.passages
        self.vectors.append(made.vectors)
        self.found += 1


def _sha256(file: Attachment) -> str:
    return hashlib.sha256(file.content).hexdigest()


def path_name(name: str) -> str:
    """A file's name, or its path in a folder, as it is shown."""
    return "/".join(clean_name(part) for part in name.split("/") if part) or clean_name(name)


def unused(name: str, taken: Iterable[str]) -> str:
    """The name, or with a number where another document has it: two `notes.txt` are two documents."""
    path, number = Path(name), 2
    while name in taken:
        name, number = f"{path.stem} ({number}){path.suffix}", number + 1
    return name


def _pages(item: Document | Picture, read: ReadImage | None) -> list[PageText]:
    """Raises MattoniError when no page holds text."""

    def read_image(image: Image.Image) -> str:
        if read is None:
            raise MattoniError(
                f"{item.name} is a scan, and no brick that reads is installed: add text files or a reader."
            )
        return read(image)

    if isinstance(item, Picture):
        pages = [PageText(1, read_image(item.image))]
    else:
        pages = [PageText(page.number, page.text) for page in document_text(item, read_image)]
    if not any(page.text.strip() for page in pages):
        raise MattoniError(f"{item.name} holds no text that can be read: leave it out or add another copy.")
    return pages
