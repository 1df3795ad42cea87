"""Finds and reads the files that documents are made of. Knows nothing of what is in them."""

import os
import shlex
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mattoni.errors import MattoniError

if TYPE_CHECKING:
    from mattoni.inputs import Attachment


@dataclass(frozen=True)
class FoundFiles:
    """The files of a folder, in order, and what was passed over in it."""

    files: tuple[Path, ...]
    hidden: int
    closed: tuple[str, ...]  # folders that may not be read


def files_in(folder: Path) -> FoundFiles:
    """The files of a folder and of those in it, hidden ones apart; links to folders are not followed."""
    files: list[Path] = []
    hidden = 0
    closed: list[str] = []
    for place, folders, names in os.walk(folder, onerror=lambda problem: closed.append(str(problem.filename))):
        hidden += sum(_is_hidden(name) for name in (*folders, *names))
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        files += (Path(place, name) for name in sorted(names) if not _is_hidden(name))
    return FoundFiles(tuple(files), hidden, tuple(closed))


def _is_hidden(name: str) -> bool:
    # What systems leave beside documents without a point before it.
    return name.startswith((".", "~$")) or name in ("__MACOSX", "Thumbs.db", "desktop.ini")


def read_attachment(path: Path, name: str | None = None) -> "Attachment":
    """A file's bytes, under its own name or another. Raises MattoniError when it cannot be read."""
    from assistant.turn.look import Limits
    from mattoni.inputs import Attachment

    try:
        if path.is_dir():
            raise MattoniError(
                f"{path} is a folder: name the files in it, or look things up in all of them after "
                f"`mattoni knowledge add NAME {shlex.quote(str(path))}`."
            )
        found = path.stat()
        if stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode):
            raise MattoniError(f"{path} is a device, which has no end: name a file.")
        if found.st_size > (most := Limits().most_bytes(_head(path))):
            # Before it is read: a film of some gigabytes would fill the memory first.
            megabytes = f"{found.st_size / 1e6:.0f} MB large, and at most {most / 1e6:.0f} MB are read"
            raise MattoniError(f"{path} is {megabytes}: send a smaller version or a part of it.")
        return Attachment(name or path.name, path.read_bytes())
    except OSError as problem:
        raise MattoniError(f"{path} cannot be read ({problem.strerror}): check the path.") from problem
    except ValueError as problem:  # a name that no disk can hold
        raise MattoniError(f"{str(path)[:80]!r} cannot be read ({problem}): check the path.") from problem


def _head(path: Path) -> bytes:
    """So many bytes as tell a file's kind."""
    with path.open("rb") as file:
        return file.read(65_536)
