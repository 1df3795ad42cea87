"""Makes knowledge bricks of documents, keeps them up to date, and forgets what a removed one said. Knows nothing of turns."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from assistant.bricks.folders import files_in, read_attachment
from assistant.bricks.lifecycle import check_free
from assistant.bricks.reading import ReadImage, Reading, Workbench, path_name
from assistant.bricks.watching import FolderState, watched_folder
from assistant.host.embedder import Embedder
from knowledge_bricks.documents import Documents, answer_threshold, load_documents, write_documents
from knowledge_bricks.methods.documents import DocumentsParts
from knowledge_bricks.passages import Passage
from knowledge_bricks.sources import Source, read_sources, write_sources
from mattoni.card import CARD, BrickCard, Routes, check_name, describe_files, read_card, write_card
from mattoni.errors import MattoniError
from mattoni.files import replace_folder
from mattoni.inputs import Attachment
from mattoni.keys import KEYS
from mattoni.versions import next_version, replace_brick

PASSAGES_PER_TURN = 3
_TOLD = 10  # files of which the card says what was left out

Publish = Callable[[Callable[[], None]], object]


def _at_once(swap: Callable[[], None]) -> None:
    swap()


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
    publish: Publish = _at_once,
    watch: Path | None = None,
) -> BrickCard:
    """Make the knowledge brick `name` in `folder` from documents; all of it or nothing.

    files         taken one by one, so that a large folder is never in memory as a whole; a name may be a path in it
    read          OCR for pages and pictures without text of their own; None where no reader is installed
    update        the brick is there already: files of the same name are replaced where their contents changed, the others
                  stay; what it was before is kept as an older version
    passed_over   told the sentence of each file that cannot be read, and the rest goes on; None: one such file refuses all
    publish       calls the last step, which puts the brick in its place, at a time when no turn looks things up
    watch         the folder that these are the files of: `follow` keeps the brick as the folder is

    A call that was killed is gone on with by the same call: what was read is not read again.

    Raises MattoniError for a bad or taken name, and when a file cannot be read or holds no text.
    """
    before = _Before(folder / name, _brick_to_update(name, folder / name) if update else None)
    if before.card is None:
        _check_new_name(name, folder)
    else:
        _check_embedder(before.card, embedder)
    bench = Workbench(folder / f".{name}.reading", embedder.digest)
    try:
        reading = _read(files, before, bench, embedder, read, passed_over)
        if not reading.found:
            raise MattoniError("There are no files to add: choose some documents.")
        if before.card is not None and not reading.sources and watch is None:
            return before.card
        card = _put(before, reading, frozenset(), embedder.digest, publish, watch)
    except MattoniError:
        # Nothing of what was refused stays; after a kill it does, and is gone on with.
        bench.clear()
        raise
    bench.clear()
    return card


def drop_documents(name: str, documents: Sequence[str], folder: Path, publish: Publish = _at_once) -> BrickCard:
    """Take documents out of a knowledge brick, and out of its older versions, which go with them.

    Raises MattoniError for a document that is not there, and for the last ones.
    """
    before = _Before(folder / name, _brick_to_update(name, folder / name))
    assert before.card is not None and before.documents is not None
    there = {passage.document for passage in before.documents.passages}
    if missing := [document for document in documents if document not in there]:
        raise MattoniError(
            f"'{name}' holds no document '{missing[0]}': `mattoni knowledge documents {name}` lists those that it holds."
        )
    if there <= set(documents):
        raise MattoniError(f"These are all the documents of '{name}': remove the brick itself.")
    if watch := watched_folder(before.card):
        raise MattoniError(
            f"'{name}' is what {watch} holds: remove the file there, or stop watching first "
            f"(`mattoni knowledge sync {name} --stop`)."
        )
    bench = Workbench(folder / f".{name}.reading", "")
    return _put(before, Reading(bench, _nothing, None, {}, before.old), frozenset(documents), "", publish, None)


def _nothing(texts: list[str]) -> Tensor:
    raise AssertionError("nothing is embedded")


# Watching


def follow(
    name: str,
    folder: Path,
    state: FolderState,
    *,
    embedder: Embedder,
    read: ReadImage | None,
    publish: Publish = _at_once,
    passed_over: Callable[[str], object] = lambda sentence: None,
) -> BrickCard | None:
    """Make a brick what its watched folder holds now: only files that are new or changed are read. None: nothing changed.

    A brick that is watched keeps no older versions, so that what was deleted in the folder is in no file. A folder that is
    gone or empty, as a drive that is not there, takes nothing away.
    """
    before = _Before(folder / name, _brick_to_update(name, folder / name))
    assert before.card is not None
    watch = watched_folder(before.card)
    if watch is None:
        raise MattoniError(f"'{name}' watches no folder: `mattoni knowledge add {name} FOLDER --update --watch`.")
    _check_embedder(before.card, embedder)
    files = {path_name(path.relative_to(watch).as_posix()): path for path in files_in(watch).files}
    if not files:
        return None
    gone = before.sources.keys() - files.keys()
    changed = {key for key in files.keys() & before.sources.keys() if _differs(files[key], before.sources[key], state)}
    # The copy of a file that is not what it was is read in its place.
    copies = {key for key, source in before.sources.items() if source.copy_of in gone | changed}
    new = {key: path for key, path in files.items() if key not in before.sources or key in changed | copies}
    if not new and not gone:
        return None
    bench = Workbench(folder / f".{name}.reading", embedder.digest)
    reading = _read(
        _attachments(new, watch, passed_over), before.without_files(gone | copies), bench, embedder, read, passed_over
    )
    dropped = frozenset(document for key in gone for document in before.sources[key].documents)
    if not reading.sources and not gone:
        bench.clear()
        return None
    card = _put(before, reading, dropped, embedder.digest, publish, watch, gone)
    bench.clear()
    return card


def _differs(path: Path, source: Source, state: FolderState) -> bool:
    digest = state.digest(path)
    return bool(digest) and digest != source.sha256


def _attachments(files: Mapping[str, Path], folder: Path, passed_over: Callable[[str], object]) -> Iterable[Attachment]:
    for path in files.values():
        try:
            yield read_attachment(path, path.relative_to(folder).as_posix())
        except MattoniError as problem:
            passed_over(str(problem))


def stop_watching(name: str, folder: Path, publish: Publish = _at_once) -> BrickCard:
    """Leave a brick as it is now, whatever happens in the folder that it was made of."""
    before = _Before(folder / name, _brick_to_update(name, folder / name))
    assert before.card is not None
    bench = Workbench(folder / f".{name}.reading", "")
    return _put(before, Reading(bench, _nothing, None, {}, before.old), frozenset(), "", publish, None)


# Writing


@dataclass(frozen=True)
class _Before:
    """What is there already: the card, the passages and the files that they came from; nothing of a new brick."""

    target: Path
    card: BrickCard | None

    @cached_property
    def documents(self) -> Documents | None:
        return load_documents(self.target) if self.card is not None else None

    @cached_property
    def sources(self) -> dict[str, Source]:
        """Of a brick that does not say, each document is a file of unknown contents."""
        if self.documents is None:
            return {}
        names = dict.fromkeys(passage.document for passage in self.documents.passages)
        return read_sources(self.target) or {name: Source("", 0, (name,)) for name in names}

    def without_files(self, names: Iterable[str]) -> "_Before":
        """The same, as if these files had not been there."""
        left = _Before(self.target, self.card)
        left.__dict__["sources"] = {name: source for name, source in self.sources.items() if name not in set(names)}
        return left

    def old(self, document: str) -> Iterable[tuple[Passage, Tensor]]:
        """The passages of a document that is there, and their vectors."""
        if self.documents is None:
            return
        for row, passage in enumerate(self.documents.passages):
            if passage.document == document:
                yield passage, self.documents.vectors[row]


def _read(
    files: Iterable[Attachment],
    before: _Before,
    bench: Workbench,
    embedder: Embedder,
    read: ReadImage | None,
    passed_over: Callable[[str], object] | None,
) -> Reading:
    reading = Reading(bench, embedder.embed_passages, read, before.sources, before.old)
    reading.take(files, passed_over)
    return reading


def _put(
    before: _Before,
    reading: Reading,
    dropped: frozenset[str],
    embedder: str,
    publish: Publish,
    watch: Path | None,
    gone: Iterable[str] = (),
) -> BrickCard:
    """Write the brick anew and put it in its place.

    dropped  documents that are taken out, and with them the older versions
    gone     files that are there no longer
    """
    target, previous = before.target, before.card
    read_anew = {name for name, source in reading.sources.items() if not source.is_bad}
    replaced = {document for name in read_anew & before.sources.keys() for document in before.sources[name].documents}
    kept = before.documents.without(dropped | replaced) if before.documents is not None else None
    left = {name: source for name, source in before.sources.items() if name not in set(gone)} | reading.sources
    sources = _without_documents(left, dropped)
    passages = [*(kept.passages if kept else ()), *reading.passages]
    vectors = torch.cat([*([kept.vectors] if kept else ()), *reading.vectors]) if passages else torch.zeros(0, 1)

    def fill(fresh: Path) -> None:
        write_documents(passages, vectors, fresh)
        write_sources(sources, fresh)
        parts = DocumentsParts(
            method="documents",
            documents=len({passage.document for passage in passages}),
            passages=len(passages),
            embedder=embedder or getattr(previous.parts if previous else None, "embedder", ""),
            search_ms=load_documents(fresh).search_ms(),
            watch=str(watch) if watch else "",
        )
        version = next_version(target) if previous else 1
        write_card(_card(target.name, passages, sources, parts, version, fresh), fresh)

    def put(swap: Callable[[], None]) -> None:
        if (previous is not None) != target.is_dir():
            raise MattoniError(f"'{target.name}' was added or removed while these documents were read: try again.")
        swap()

    put_in_place = replace_folder if dropped or watch else replace_brick
    put_in_place(target, fill, lambda swap: publish(lambda: put(swap)))
    return read_card(target)


def _without_documents(sources: Mapping[str, Source], dropped: frozenset[str]) -> dict[str, Source]:
    """The files of which something is left, and the copies of those."""
    left = {
        name: replace(source, documents=tuple(d for d in source.documents if d not in dropped))
        for name, source in sources.items()
        if not source.documents or not dropped.issuperset(source.documents)
    }
    return {name: source for name, source in left.items() if not source.copy_of or source.copy_of in left}


def _check_new_name(name: str, folder: Path) -> None:
    check_name(name)
    if (folder / name / CARD).is_file() and read_card(folder / name).kind == "knowledge":
        raise MattoniError(
            f"There is knowledge called '{name}' already: to replace files in it or add more, use `mattoni knowledge "
            f"add {name} FILES --update`; else choose another name, or remove it first."
        )
    check_free(name, folder)


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


def _card(
    name: str,
    passages: Sequence[Passage],
    sources: Mapping[str, Source],
    parts: DocumentsParts,
    version: int,
    folder: Path,
) -> BrickCard:
    documents = list(dict.fromkeys(passage.document for passage in passages))
    counted = f"{len(documents)} document{'s' if len(documents) > 1 else ''}"
    told = [source.told for source in sources.values() if source.told]
    more = [f"And {len(told) - _TOLD} more files of which something was left out."] if len(told) > _TOLD else []
    return BrickCard(
        schema=1,
        name=name,
        version=version,
        kind="knowledge",
        title=name.replace("-", " ").capitalize(),
        summary=f"Answers from {counted}: {', '.join(documents[:3])}{' and others' if len(documents) > 3 else ''}.",
        injects=("sequence",),
        routes=Routes(space="text", keys=KEYS, threshold=answer_threshold(len(passages))),
        files=describe_files(folder),
        parts=parts,
        licence="that of the documents",
        limits=" ".join([*told[:_TOLD], *more])
        or "Finds passages of English text by meaning and by words; it does not count, compare or sum up.",
    )


# Removing


def without_passages(trace: dict[str, Any], brick: str, documents: Sequence[str] | None = None) -> dict[str, Any]:
    """A stored trace in which the passages of a removed brick, or of some of its documents, have lost their text."""
    citations = [
        {**citation, "text": ""}
        if citation["brick"] == brick and (documents is None or citation["document"] in documents)
        else citation
        for citation in trace.get("citations", ())
    ]
    return {**trace, "citations": citations} if citations else trace
