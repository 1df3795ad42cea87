"""Unpacks zips and tars that may come from anybody: no path out of the folder, no bomb, and no link is ever made.

A link inside an archive that leads to another of its files (the Hub's own cache consists of such) becomes a copy of that file.
"""

import posixpath
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import IO

from mattoni.errors import MattoniError

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
MOST_FILES = 20_000
MOST_BYTES = 4 * 1024**3
_CHUNK = 1 << 20


@dataclass(frozen=True)
class _Entry:
    """A file of an archive: where it says it belongs, and how its bytes are read."""

    path: PurePosixPath
    open: Callable[[], IO[bytes]]


_DAMAGED = (zipfile.BadZipFile, zipfile.LargeZipFile, tarfile.TarError, EOFError, zlib.error, LZMAError)


def is_archive(path: Path) -> bool:
    """Whether the file's contents are those of a zip or a tar, packed or not; also where they are cut short."""
    try:
        return zipfile.is_zipfile(path) or tarfile.is_tarfile(path)
    except (*_DAMAGED, OSError):
        return True  # it begins as a packed file does


def without_suffix(name: str) -> str:
    """The name of an archive without what says that it is one."""
    return next((name[: -len(s)] for s in sorted(SUFFIXES, key=len, reverse=True) if name.lower().endswith(s)), name)


def unpack(archive: Path, folder: Path, wanted: Callable[[PurePosixPath], bool]) -> None:
    """Write the wanted files of an archive into `folder`, at the places they have in it.

    Raises MattoniError with one sentence for an archive that is damaged, encrypted, too large, or leads out of the folder.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                _write(list(_in_zip(opened, archive.name)), archive.name, folder, wanted)
        else:
            with tarfile.open(archive) as tar:
                _write(list(_in_tar(tar, archive.name)), archive.name, folder, wanted)
    except _DAMAGED as problem:
        raise MattoniError(f"{archive.name} is damaged: make or copy it again.") from problem
    except (NotImplementedError, RuntimeError) as problem:
        raise MattoniError(f"{archive.name} is damaged or encrypted: make it again, without a password.") from problem
    except OSError as problem:
        raise MattoniError(
            f"{archive.name} cannot be unpacked ({problem.strerror or problem}): copy it again, or free some space."
        ) from problem


def _in_zip(opened: zipfile.ZipFile, archive: str) -> Iterator[_Entry]:
    entries = [entry for entry in opened.infolist() if not entry.is_dir()]
    _check_size(archive, len(entries), sum(entry.file_size for entry in entries))
    for entry in entries:
        path = _safe_path(entry.filename, archive)
        target = entry
        if stat.S_ISLNK(entry.external_attr >> 16):
            inside = posixpath.normpath(path.parent / opened.read(entry)[:4096].decode("utf-8", "replace"))
            if inside not in opened.NameToInfo:
                raise MattoniError(f"{archive}: '{entry.filename}' is a link out of it; pack the files themselves.")
            target = opened.NameToInfo[inside]
        yield _Entry(path, lambda target=target: opened.open(target))  # type: ignore[misc]


def _in_tar(tar: tarfile.TarFile, archive: str) -> Iterator[_Entry]:
    members: list[tarfile.TarInfo] = []
    size = 0
    for member in tar:  # reads the archive through: what it unpacks to is counted before more of it is read
        size += member.size
        _check_size(archive, len(members), size)
        members.append(member)
    for member in members:
        path = _safe_path(member.name, archive)
        if member.isfile() or member.issym() or member.islnk():
            yield _Entry(path, lambda member=member: _open_member(tar, member, archive))  # type: ignore[misc]


def _open_member(tar: tarfile.TarFile, member: tarfile.TarInfo, archive: str) -> IO[bytes]:
    try:
        opened = tar.extractfile(member)  # follows a link to another member, and nowhere else
    except (KeyError, RecursionError) as problem:
        raise MattoniError(f"{archive}: '{member.name}' is a link out of it; pack the files themselves.") from problem
    if opened is None:
        raise MattoniError(f"{archive}: '{member.name}' is no file; pack the files themselves.")
    return opened


def _check_size(archive: str, files: int, size: int) -> None:
    if files > MOST_FILES:
        raise MattoniError(f"{archive} holds more than {MOST_FILES:,} files: pack only those that are needed.")
    if size > MOST_BYTES:
        raise MattoniError(
            f"{archive} unpacks to more than {MOST_BYTES >> 30} GB: unpack it yourself and name the folder in it."
        )


def _safe_path(name: str, archive: str) -> PurePosixPath:
    """The entry's place, or MattoniError for one that leads out of the folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", name):
        raise MattoniError(f"{archive}: '{name}' leads out of the folder; this archive is not safe to unpack.")
    return path


def _write(entries: list[_Entry], archive: str, folder: Path, wanted: Callable[[PurePosixPath], bool]) -> None:
    """Write the wanted entries, counting what really comes out: a header can lie about the size."""
    left = MOST_BYTES
    for entry in entries:
        if not wanted(entry.path):
            continue
        target = folder.joinpath(*entry.path.parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        with entry.open() as source, target.open("wb") as file:
            while chunk := source.read(_CHUNK):
                left -= len(chunk)
                _check_size(archive, 0, MOST_BYTES - left)
                file.write(chunk)
