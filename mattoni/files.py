"""Whole files or none: hashing, and writing under a temporary name with fsync and rename."""

import glob
import hashlib
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mattoni.errors import MattoniError

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".pickle")  # reading one can run code


def is_pickle(path: Path) -> bool:
    """Whether a file's name says that it is pickled."""
    return path.suffix.lower() in PICKLES


def pickles_in(folder: Path) -> list[str]:
    """Names of the pickled files of a folder, for a sentence why there is nothing to read."""
    return sorted(path.name for path in folder.iterdir() if is_pickle(path))


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def plain_name(name: str) -> str:
    """A sent file's name as one that can be written anywhere, its ending kept."""
    return re.sub(r"[^\w. -]", "_", Path(name).name)[-100:].lstrip(".") or "file"


def _cannot_write(path: Path, problem: OSError) -> MattoniError:
    return MattoniError(
        f"Cannot write {path} ({problem.strerror or problem}): free some space or choose another folder."
    )


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it takes `path`'s place, on failure nothing changes."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
    except OSError as problem:
        raise MattoniError(
            f"Cannot write in {path.parent} ({problem.strerror}): free some space or choose another folder."
        ) from problem
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as problem:
        raise _cannot_write(path, problem) from problem
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file as a whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write a UTF-8 text file as a whole or not at all."""
    write_bytes(path, content.encode())


def replace_folder(
    target: Path, fill: Callable[[Path], None], publish: Callable[[Callable[[], None]], object] = lambda swap: swap()
) -> None:
    """Let `fill` write a fresh folder, then put it in `target`'s place; a failure leaves `target` as it was.

    publish  calls the step that others notice, at a time when nobody uses `target`

    Raises MattoniError when the disk is full or the place cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    except OSError as problem:
        raise _cannot_write(target, problem) from problem
    try:
        fill(fresh)
        publish(lambda: _swap(target, fresh))
    except OSError as problem:
        raise _cannot_write(target, problem) from problem
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _swap(target: Path, fresh: Path) -> None:
    """Put `fresh` in `target`'s place and remove what was there."""
    if not target.exists():
        os.replace(fresh, target)
        return
    old = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.old."))
    os.replace(target, old / "old")
    os.replace(fresh, target)
    shutil.rmtree(old, ignore_errors=True)


def remove_folder(target: Path) -> None:
    """Remove a folder, and what a killed `replace_folder` left beside it. Raises MattoniError when something stays."""
    try:
        # A renamed folder is gone for every reader at once; deleting file by file takes a while. Needs no free space.
        os.replace(target, target.with_name(f".{target.name}.removed-{secrets.token_hex(4)}"))
        for leftover in target.parent.glob(f".{glob.escape(target.name)}.*"):
            shutil.rmtree(leftover)
    except OSError as problem:
        raise MattoniError(f"Cannot remove {target} ({problem.strerror}): remove it by hand.") from problem
