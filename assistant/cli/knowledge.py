"""`mattoni knowledge`: documents that the assistant looks things up in."""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from assistant.bricks.folders import files_in, read_attachment
from assistant.cli.given import given_path
from assistant.cli.opening import opened, remove, scanned
from assistant.cli.terminal import printable, show_table
from mattoni.errors import MattoniError

if TYPE_CHECKING:
    from mattoni.inputs import Attachment

_TOLD = 10  # files that were passed over, by name

app = typer.Typer(help="Documents that the assistant looks things up in.", no_args_is_help=True)


@app.command("add")
def knowledge_add(
    name: Annotated[str, typer.Argument(help="What to call it.")],
    files: Annotated[
        list[str], typer.Argument(help="Text, Markdown, HTML or PDF; or a folder, with what is in its folders.")
    ],
    update: Annotated[
        bool, typer.Option("--update", help="Replace these files in the brick, or add them to it.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Look at the folder again before every turn, and read what has changed.")
    ] = False,
) -> None:
    """Make a knowledge brick from documents, or update one: only files whose contents have changed are read.

    What cannot be read in a folder is passed over, and told. After a kill the same command goes on.
    """
    paths = [given_path(file) for file in files]
    if watch and not (len(paths) == 1 and paths[0].is_dir()):
        raise MattoniError("--watch is for one folder: name it alone.")
    left = _PassedOver()
    documents = [_documents(path, left) for path in paths]
    has_folder = any(path.is_dir() for path in paths)
    with opened() as assistant:
        try:
            card = assistant.add_knowledge(
                name,
                chain.from_iterable(documents),
                update,
                left.files.append if has_folder else None,
                paths[0].resolve() if watch else None,
            )
        finally:
            left.tell()
    print(f"{card.name}, version {card.version}: {card.summary}")


@dataclass
class _PassedOver:
    """What of folders was not read: a sentence for each file or folder, and how many hidden ones."""

    files: list[str] = field(default_factory=list)
    hidden: int = 0

    def tell(self) -> None:
        """Print how much it is, and the first ones by name."""
        if self.files:
            print(f"! {len(self.files)} passed over:", file=sys.stderr)
        for sentence in self.files[:_TOLD]:
            print(printable(f"  {sentence}"), file=sys.stderr)
        if len(self.files) > _TOLD:
            print(f"  and {len(self.files) - _TOLD} more.", file=sys.stderr)
        if self.hidden:
            things = "file or folder was" if self.hidden == 1 else "files and folders were"
            print(f"! {self.hidden} hidden {things} not looked into.", file=sys.stderr)


def _documents(path: Path, left: _PassedOver) -> "Iterable[Attachment]":
    """A file, read at once so that a wrong path is told before a host is loaded; or the files of a folder, one by one."""
    return _in_folder(path, left) if path.is_dir() else [read_attachment(path)]


def _in_folder(folder: Path, left: _PassedOver) -> "Iterator[Attachment]":
    """The files of a folder, called by their paths in it."""
    found = files_in(folder)
    left.hidden += found.hidden
    left.files += [f"{closed} may not be read." for closed in found.closed]
    for file in found.files:
        try:
            yield read_attachment(file, file.relative_to(folder).as_posix())
        except MattoniError as problem:
            left.files.append(str(problem))


@app.command("list")
def knowledge_list() -> None:
    """The knowledge bricks."""
    cells = [[b.name, str(b.card.version), b.card.summary] for b in scanned().usable if b.card.kind == "knowledge"]
    show_table(["name", "version", "what"], cells)


@app.command("documents")
def knowledge_documents(name: str) -> None:
    """The documents of a knowledge brick, and how many passages each makes."""
    from collections import Counter

    from knowledge_bricks.documents import load_documents

    brick = scanned().get(name)
    if brick.parts.method != "documents":
        raise MattoniError(f"'{name}' holds no documents: `mattoni bricks show {name}` says what it is.")
    counted = Counter(passage.document for passage in load_documents(brick.folder).passages)
    show_table(["document", "passages"], [[document, str(number)] for document, number in counted.items()])


@app.command("sync")
def knowledge_sync(
    name: str,
    stop: Annotated[bool, typer.Option("--stop", help="Stop watching: leave it as it is now.")] = False,
) -> None:
    """Make a knowledge brick what its watched folder holds now, as happens before every turn."""
    left = _PassedOver()
    with opened() as assistant:
        if stop:
            print(f"{assistant.stop_watching(name).name} watches no folder any more.")
            return
        card = assistant.sync(name, left.files.append)
    left.tell()
    print(f"{card.name}, version {card.version}: {card.summary}" if card else f"{name} is as its folder is.")


@app.command("remove")
def knowledge_remove(
    name: str,
    documents: Annotated[
        list[str] | None, typer.Argument(help="Only these documents. Default: the whole brick.")
    ] = None,
) -> None:
    """Delete a knowledge brick, or documents of it, with every byte; of documents also from older versions."""
    if documents:
        with opened() as assistant:
            card = assistant.drop_documents(name, documents)
        print(f"{card.name}, version {card.version}: {card.summary}")
        return
    if scanned().get(name).card.kind != "knowledge":
        raise MattoniError(f"'{name}' is no knowledge brick: use `mattoni bricks remove {name}`.")
    remove(name)
