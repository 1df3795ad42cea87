"""Makes knowledge bricks of documents, and forgets what a removed one said. Knows nothing of turns."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from assistant.host.embedder import Embedder
from assistant.turn.look import Limits, clean_name, look
from knowledge_bricks.documents import answer_threshold, build_documents, load_documents
from knowledge_bricks.methods.documents import DocumentsParts
from knowledge_bricks.passages import DocumentText, PageText
from mattoni.card import CARD, BrickCard, Routes, check_name, describe_files, read_card, write_card
from mattoni.errors import MattoniError
from mattoni.files import replace_folder
from mattoni.inputs import Attachment, Document, Picture, Sound, document_text
from mattoni.keys import KEYS
from mattoni.paths import brick_folders

PASSAGES_PER_TURN = 3
# More than in a message: these files are read once, not in the middle of a conversation.
_LIMITS = Limits(pages=2_000, characters=20_000_000)

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
    check_name(name)
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
    if not isinstance(card.parts, DocumentsParts):
        raise MattoniError(f"'{name}' holds no documents but {card.parts.method}: choose another name.")
    return card


def _check_embedder(card: BrickCard, embedder: Embedder) -> None:
    if getattr(card.parts, "embedder", None) != embedder.digest:
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
    if isinstance(item, Sound):
        raise MattoniError(
            f"{item.name} is a recording, and knowledge is made of documents: add what is said in it as text."
        )
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
        parts=DocumentsParts(method="documents", documents=len(documents), passages=passages, embedder=embedder.digest),
        licence="that of the documents",
        limits=limits
        or "Finds passages of English text by meaning and by words; it does not count, compare or sum up.",
    )


# Removing


def without_passages(trace: dict[str, Any], brick: str) -> dict[str, Any]:
    """A stored trace in which the passages of a removed brick have lost their text."""
    citations = [
        {**citation, "text": ""} if citation["brick"] == brick else citation for citation in trace.get("citations", ())
    ]
    return {**trace, "citations": citations} if citations else trace
