"""What people give as the name of a file: a path, what a terminal writes when a file is dropped on it, an address.

Nothing is fetched and nothing is opened here.
"""

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote_to_bytes

from mattoni.errors import MattoniError

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://|data:", re.IGNORECASE)  # two letters at least: C:\ is a drive
_FILE = re.compile(r"file:(?://(localhost|[^/]*))?(/.*)", re.IGNORECASE | re.DOTALL)
# A word as shells write one: in quotes, or with a backslash before what would end it.
_WORD = r"""(?:'[^']*'|"(?:\\.|[^"\\])*"|\\.|[^\s'"\\])+"""
_FIRST = re.compile(rf"\s*({_WORD})(?=\s|$)", re.ASCII)
_BEGINNING = re.compile(r"(?:^|(?<=\s))(?=\S)", re.ASCII)
_LAST = re.compile(rf"({_WORD})\s*$", re.ASCII)
# What is dropped is written whole; a word alone is a word.
_WHOLE = ("/", "~/", "./", "../", "file:")


def given_path(text: str) -> Path:
    """The path that is meant: as it stands, else without the quotes, backslashes, `file://` or `~` around it.

    Raises MattoniError for the address of something that is not on this machine.
    """
    text = text.strip()
    if is_there(Path(text)):
        return Path(text)
    words = _shell_words(text)
    return _plain_path(words[0] if len(words) == 1 else text)


def given_paths(text: str) -> list[Path]:
    """The paths in a line that names nothing else: one with blanks in it, or several as a terminal writes them."""
    text = text.strip()
    if is_there(one := given_path(text)):
        return [one]
    return [_plain_path(word) for word in _shell_words(text)] or [one]


def split_line(line: str) -> tuple[list[Path], str]:
    """The files that were dropped at the beginning or the end of a line, and the words beside them.

    Only what is written as a whole path, and is there, counts as a file.
    """
    if _is_whole(line) and is_there(whole := given_path(line)):
        return [whole], ""
    first: list[Path] = []
    while (found := _FIRST.match(line)) and (path := _dropped(found[1])):
        first.append(path)
        line = line[found.end() :]
    last: list[Path] = []
    while ending := _last_file(line):
        start, path = ending
        last.insert(0, path)
        line = line[:start]
    return first + last, line.strip()


def _last_file(line: str) -> tuple[int, Path] | None:
    """Where the file begins that a line ends with; an apostrophe before it may have opened no quotation."""
    for beginning in _BEGINNING.finditer(line):
        start = beginning.start()
        word = _LAST.match(line, start) if _is_whole(line[start : start + 8]) else None
        if word is not None and (path := _dropped(word[1])):
            return start, path
    return None


def is_path(line: str) -> bool:
    """Whether a line that begins like a command is a path: to a file that is not there, or nothing would be asked."""
    return "/" in line[1:].split(" ")[0]


def _plain_path(text: str) -> Path:
    if address := _FILE.fullmatch(text):
        if (machine := address[1] or "localhost") != "localhost":
            raise MattoniError(f"{text} is on another machine ({machine}): copy the file to this one.")
        # What browsers escape is unescaped; '#' and '?' are escaped there and part of a name here.
        named = os.fsdecode(unquote_to_bytes(address[2]))
        return Path(named.lstrip("/") if os.name == "nt" else named)
    if _ADDRESS.match(text):
        raise MattoniError(
            f"{text[:80]} is an address, and Mattoni fetches nothing: download it and give the file's path."
        )
    path = Path(text)
    try:
        return path if is_there(path) else path.expanduser()
    except RuntimeError:  # nobody is called what stands behind '~'
        return path


def _shell_words(text: str) -> Sequence[str]:
    """The words as a shell parts them; none where a quote is left open."""
    reader = shlex.shlex(text, posix=True)
    reader.whitespace_split, reader.commenters = True, ""
    if os.name == "nt":
        reader.escape = ""  # there a backslash stands between folders
    try:
        return list(reader)
    except ValueError:
        return []


def _is_whole(text: str) -> bool:
    return text.lstrip("'\" ").startswith(_WHOLE) or re.match(r"['\"]?[A-Za-z]:[\\/]", text) is not None


def _dropped(word: str) -> Path | None:
    if not _is_whole(word):
        return None
    path = given_path(word)
    return path if is_there(path) and path.is_file() else None


def is_there(path: Path) -> bool:
    """Whether there is a file or folder of that name; a name that no disk can hold names none."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
