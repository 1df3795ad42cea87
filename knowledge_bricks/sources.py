"""Which files a brick of documents was made of, by their contents. Knows nothing of how files are read."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from mattoni.errors import MattoniError
from mattoni.files import write_text

SOURCES = "sources.json"


@dataclass(frozen=True)
class Source:
    """A file, and what was made of it: a mail is several documents, a copy of another file none."""

    sha256: str
    bytes: int
    documents: tuple[str, ...] = ()
    told: str = ""  # what was left out of it, or why it could not be read
    copy_of: str = ""
    is_bad: bool = False  # it could not be read: what it said earlier stays


def read_sources(folder: Path) -> dict[str, Source]:
    """The files by name; none for a brick from before they were written down. Raises MattoniError when damaged."""
    path = folder / SOURCES
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return {name: Source(**{**one, "documents": tuple(one["documents"])}) for name, one in values.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as problem:
        raise MattoniError(f"{folder.name}/{SOURCES} is damaged: add these documents again.") from problem


def write_sources(sources: Mapping[str, Source], folder: Path) -> None:
    """Write them beside the card."""
    values = {name: asdict(source) for name, source in sorted(sources.items())}
    write_text(folder / SOURCES, json.dumps(values, ensure_ascii=False, indent=0))
