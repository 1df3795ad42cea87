"""Documents as knowledge bricks: adding them, finding what a message asks for, showing it to the host.

Knows nothing of the engine, of pages or of how a prompt is encoded.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from assistant.host.embedder import Embedder
from assistant.registry import Brick
from assistant.turn.look import Limits, clean_name, look
from knowledge_bricks.documents import Documents, Hit, answer_threshold, build_documents, load_documents
from knowledge_bricks.passages import DocumentText, PageText
from mattoni.card import CARD, BrickCard, Routes, describe_files, read_card, write_card
from mattoni.errors import MattoniError
from mattoni.files import replace_folder
from mattoni.inputs import Attachment, Document, Picture, document_text
from mattoni.keys import KEYS
from mattoni.paths import brick_folders
from mattoni.trace import Candidate, Citation, Notice, UsedBrick

PASSAGES_PER_TURN = 3
# More than in a message: these files are read once, not in the middle of a conversation.
_LIMITS = Limits(pages=2_000, characters=20_000_000)
_LONGEST_NAME = 64

ReadImage = Callable[[Image.Image], str]


# Adding


def add_knowledge(
    name: str,
    files: Iterable[Attachment],
    folder: Path,
    *,
    embedder: Embedder,
    read: ReadImage | None,
    update: bool = False,
    passed_over: Callable[[str], object] | None = None,
    publish: Callable[[Callable[[], None]], object] = lambda swap: swap(),
) -> BrickCard:
    """Make the knowledge brick `name` in `folder` from documents; all of it or nothing.

    files         taken one by one, so that a large folder is never in memory as a whole; a name may be a path in it
    read          OCR for pages and pictures without text of their own; None where no reader is installed
    update        the brick is there already: documents of the same name are replaced, the others stay, the version goes up
    passed_over   told the sentence of each file that cannot be read, and the rest goes on; None: one such file refuses all
    publish       calls the last step, which puts the brick in its place, at a time when no turn looks things up

    Raises MattoniError for a bad or taken name, and when a file cannot be read or holds no text.
    """
    target = folder / name
    previous = _brick_to_update(name, target) if update else None
    if previous is None:
        _check_new_name(name, folder)
    documents, limits = _read_documents(files, read, passed_over)
    kept = None
    if previous is not None:
        _check_embedder(previous, embedder)
        kept = load_documents(target).without({document.name for document in documents})

    def fill(fresh: Path) -> None:
        passages = build_documents(documents, embedder.embed, fresh, kept)
        names = list(dict.fromkeys(passage.document for passage in passages))
        write_card(_card(name, names, len(passages), fresh, embedder, previous, limits), fresh)

    def put(swap: Callable[[], None]) -> None:
        if (previous is not None) != target.is_dir():
            raise MattoniError(f"'{name}' was added or removed while these documents were read: try again.")
        swap()

    replace_folder(target, fill, lambda swap: publish(lambda: put(swap)))
    return read_card(target)


def _check_new_name(name: str, folder: Path) -> None:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name) or len(name) > _LONGEST_NAME:
        proposal = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:_LONGEST_NAME] or "my-documents"
        raise MattoniError(
            f"'{name}' cannot be a brick's name: use lower-case letters, digits and hyphens, such as '{proposal}'."
        )
    if (folder / name / CARD).is_file() and read_card(folder / name).kind == "knowledge":
        raise MattoniError(
            f"There is knowledge called '{name}' already: to replace files in it or add more, use `mattoni knowledge "
            f"add {name} FILES --update`; else choose another name, or remove it first."
        )
    if any((parent / name).exists() for parent in (folder, *brick_folders())):
        raise MattoniError(f"There is a brick called '{name}' already: choose another name, or remove that one first.")


def _brick_to_update(name: str, target: Path) -> BrickCard:
    if not target.is_dir():
        raise MattoniError(f"There is no knowledge of yours called '{name}' to update: add it first.")
    card = read_card(target)
    if card.kind != "knowledge":
        raise MattoniError(f"'{name}' is a {card.kind} brick, not knowledge: choose another name.")
    return card


def _check_embedder(card: BrickCard, embedder: Embedder) -> None:
    if card.parts.get("embedder") != embedder.digest:
        raise MattoniError(f"{card.name} was made with another text embedder: remove it and add its documents again.")


def _read_documents(
    files: Iterable[Attachment], read: ReadImage | None, passed_over: Callable[[str], object] | None
) -> tuple[list[DocumentText], str]:
    """The files' text, and what was left out of it. One bad file refuses all, unless whoever adds them is told of each."""
    documents: dict[str, DocumentText] = {}
    digests: set[str] = set()
    told: list[str] = []
    for file in files:
        try:
            item, notices = _opened(file)
            if item.digest in digests:
                continue
            name = _unused(item.name, documents)
            documents[name] = DocumentText(name, tuple(_pages(item, read)))
        except MattoniError as problem:
            if passed_over is None:
                raise
            passed_over(str(problem))
            continue
        digests.add(item.digest)
        told += notices
    if not documents:
        raise MattoniError("There are no files to add: choose some documents.")
    return list(documents.values()), " ".join(told)


def _opened(file: Attachment) -> tuple[Document | Picture, list[str]]:
    """A file as it is looked at, under its path where it has one, and what was left out of it."""
    looked = look([file], _LIMITS)
    for notice in looked.notices:
        if notice.code == "refused":
            raise MattoniError(notice.text)
    (item,) = looked.items
    name = "/".join(clean_name(part) for part in file.name.split("/") if part)
    return replace(item, name=name or item.name), [notice.text for notice in looked.notices]


def _unused(name: str, taken: Iterable[str]) -> str:
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


def _card(
    name: str,
    documents: Sequence[str],
    passages: int,
    folder: Path,
    embedder: Embedder,
    previous: BrickCard | None,
    limits: str,
) -> BrickCard:
    counted = f"{len(documents)} document{'s' if len(documents) > 1 else ''}"
    return BrickCard(
        schema=1,
        name=name,
        version=previous.version + 1 if previous else 1,
        kind="knowledge",
        title=name.replace("-", " ").capitalize(),
        summary=f"Answers from {counted}: {', '.join(documents[:3])}{' and others' if len(documents) > 3 else ''}.",
        injects=("sequence",),
        routes=Routes(space="text", keys=KEYS, threshold=answer_threshold(passages)),
        files=describe_files(folder),
        parts={"search": "documents", "documents": len(documents), "passages": passages, "embedder": embedder.digest},
        licence="that of the documents",
        limits=limits
        or "Finds passages of English text by meaning and by words; it does not count, compare or sum up.",
    )


# Finding


@dataclass(frozen=True)
class Found:
    """The passages for one message, and how every brick that was searched did."""

    citations: tuple[Citation, ...] = ()
    used: tuple[UsedBrick, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    notices: tuple[Notice, ...] = ()


class Library:
    """Opened knowledge bricks, kept by the digest of their contents. Used by the engine's thread only."""

    def __init__(self) -> None:
        self._opened: dict[str, tuple[Path, Documents]] = {}

    def find(self, bricks: Sequence[Brick], question: str, embedder: Embedder, k: int = PASSAGES_PER_TURN) -> Found:
        """The `k` passages of all `bricks` together that answer the question best; none when no brick answers it.

        A brick that cannot be searched is a notice and the others go on.
        """
        self._forget_removed()
        if not bricks or not question.strip():
            return Found()
        vector = embedder.embed([question])[0]
        near: list[tuple[Brick, Hit]] = []
        candidates: list[Candidate] = []
        notices: list[Notice] = []
        for brick in bricks:
            try:
                _check_embedder(brick.card, embedder)
                threshold = _threshold(brick)
                hits = self._open(brick).search(vector, question, k)
            except MattoniError as problem:
                notices.append(Notice("refused", str(problem)))
                continue
            best = hits[0].score
            candidates.append(Candidate(brick.name, brick.card.kind, best, threshold, "message"))
            if best >= threshold:
                near.extend((brick, hit) for hit in hits)
        near = sorted(near, key=lambda pair: pair[1].score, reverse=True)[:k]
        by_brick = [(brick, [hit for owner, hit in near if owner is brick]) for brick in bricks]
        return Found(
            tuple(_citation(brick, hit) for brick, hit in near),
            tuple(_used(brick, hits) for brick, hits in by_brick if hits),
            tuple(candidates),
            tuple(notices),
        )

    def forget(self, digest: str) -> None:
        """Drop the brick of that digest."""
        self._opened.pop(digest, None)

    def _open(self, brick: Brick) -> Documents:
        if brick.digest not in self._opened:
            documents = load_documents(brick.folder)
            # An update leaves another digest in the same folder: what it replaced is not kept.
            self._opened = {d: kept for d, kept in self._opened.items() if kept[0] != brick.folder}
            self._opened[brick.digest] = (brick.folder, documents)
        return self._opened[brick.digest][1]

    def _forget_removed(self) -> None:
        self._opened = {digest: kept for digest, kept in self._opened.items() if kept[0].is_dir()}


def _threshold(brick: Brick) -> float:
    if brick.card.routes is None:
        raise MattoniError(
            f"{brick.name}/{CARD}: routes is missing, and with it the threshold; add these documents again."
        )
    return brick.card.routes.threshold


def _citation(brick: Brick, hit: Hit) -> Citation:
    return Citation(brick.name, hit.passage.document, hit.passage.place, hit.score, hit.passage.text)


def _used(brick: Brick, hits: Sequence[Hit]) -> UsedBrick:
    places = ", ".join(f"{hit.passage.document} ({hit.passage.place})" for hit in hits)
    score = hits[0].score
    return UsedBrick(brick.name, brick.card.version, brick.card.kind, 1.0, score, _threshold(brick), f"found {places}")


# Showing


def knowledge_block(citations: Sequence[Citation]) -> str:
    """The passages as they stand before the question, numbered as they are cited; empty when there are none.

    The best one stands last and the instruction behind it: a small host uses what is nearest to the question.
    Chosen on 100 questions of reading-dev; docs/experiments.md, "How passages are put to the host".
    """
    if not citations:
        return ""
    passages = [f"[{n}] {c.document}, {c.place}:\n{c.text}" for n, c in enumerate(citations, start=1)]
    return "\n\n".join([*reversed(passages), "Answer this question from the passages above, in a few words:"])


# Removing


def without_passages(trace: dict[str, Any], brick: str) -> dict[str, Any]:
    """A stored trace in which the passages of a removed brick have lost their text."""
    citations = [
        {**citation, "text": ""} if citation["brick"] == brick else citation for citation in trace.get("citations", ())
    ]
    return {**trace, "citations": citations} if citations else trace
