"""Text files as people have them: with a byte-order mark, in UTF-16, packed; rows of JSON, one a line or as one list.

Only a line feed ends a line of JSON: `str.splitlines` also cuts at U+2028, U+0085 and others, which may stand inside its strings.
"""

import codecs
import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mattoni.errors import MattoniError

# The longer marks first: that of UTF-32 begins as that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class JsonRow(NamedTuple):
    """One value of a file, and where it stands: `number` counts from 1, `unit` is what is counted, "line" or "row"."""

    number: int
    unit: str
    value: Any


BadLine = Callable[[int, str], None]  # hears the number of a line that is not JSON, and why


def decode(content: bytes) -> str:
    """UTF-8, with a byte-order mark or without, or what another mark says. Raises UnicodeDecodeError."""
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    return content.decode(encoding)


def read_text(path: Path, advice: str = "check the file.") -> str:
    """The text of a file, a `.gz` unpacked, each line ended by a line feed. Raises MattoniError, which ends in `advice`."""
    try:
        content = path.read_bytes()
        text = decode(gzip.decompress(content) if path.suffix == ".gz" else content)
    except UnicodeDecodeError as problem:
        raise MattoniError(f"{path.name} cannot be read as UTF-8 text: {advice}") from problem
    except (OSError, EOFError, zlib.error) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise MattoniError(f"{path.name} cannot be read ({reason}): {advice}") from problem
    return text.replace("\r\n", "\n").replace("\r", "\n")


def json_rows(path: Path, bad: BadLine | None = None, advice: str = "check the file.") -> Iterator[JsonRow]:
    """The values of a JSON lines file, or of one that holds one JSON list; empty lines are passed over. Read as they are asked for.

    bad     hears of each line that is not JSON, which is then left out; None: the first one raises
    advice  what to do about a file that cannot be read, the end of a sentence
    """
    text = read_text(path, advice)
    whole = _whole(text, path)
    if whole is not None:
        yield from (JsonRow(number, "row", value) for number, value in enumerate(whole, 1))
        return
    for number, line in enumerate(text.split("\n"), 1):
        line = line.lstrip("\ufeff")  # of a file that others were put behind one another into
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as problem:
            if bad is None:
                says = f"{path.name}, row {number}: this is not JSON ({problem}); write one object per line."
                raise MattoniError(says) from problem
            bad(number, str(problem))
        else:
            yield JsonRow(number, "line", value)


def _whole(text: str, path: Path) -> list[Any] | None:
    """The list that a file is as a whole; None if it is lines. Raises MattoniError where it is neither."""
    start = text.lstrip()
    if not start.startswith("[") and path.suffix != ".json":
        return None
    first = start.split("\n", 1)[0]
    try:
        value = json.loads(text)
    except ValueError as problem:
        if _is_json(first):
            return None
        raise MattoniError(f"{path.name} is not JSON ({problem}): check the file.") from problem
    if not isinstance(value, list):
        raise MattoniError(f"{path.name} must be a JSON list of rows, or hold one JSON object a line.")
    # A lone list in a file of lines is a row that is no object, and is told as such.
    return None if value and _is_json(first) and not any(isinstance(entry, dict) for entry in value) else value


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def read_messages(path: Path) -> list[str]:
    r"""Messages of a text file: one a line, `\n` for a line break, empty lines and those that begin with # left out."""
    lines = read_text(path, "put the list of messages beside the recipe.").split("\n")
    messages = [line.strip().replace("\\n", "\n") for line in lines if line.strip() and not line.startswith("#")]
    if not messages:
        raise MattoniError(f"{path.name} holds no messages: write one a line.")
    return messages
