"""What an attachment became, as it is kept with its message. Knows nothing of how it was looked at or where it is kept.

Frozen values; JSON only where the store writes, in the form that it has had from the beginning.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from mattoni.errors import MattoniError


@dataclass(frozen=True)
class Seen:
    """A thing that a brick turned into soft tokens: the brick makes them again, from the same bytes, in every later turn."""

    name: str
    digest: str  # sha256 of its bytes
    brick: str
    findings: Mapping[str, Any] = field(default_factory=dict)  # what else the brick found and wants back; plain values
    source: Literal["picture", "sound"] = "picture"


@dataclass(frozen=True)
class Read:
    """A thing that a brick turned into text."""

    name: str
    digest: str
    brick: str
    text: str  # all that was read
    source: Literal["picture", "document", "sound"] = "document"
    shown: str | None = None  # what of the text stood in the prompt; None: all of it
    recalled: bool = False  # passages of an earlier message's document, asked for again
    asked: bool = False  # the question behind it came with an instruction
    spoken: bool = False  # it is the message itself, not something that a message is about

    @property
    def is_text(self) -> bool:
        """Whether it is a text that a message is about."""
        return bool(self.text) and not self.spoken

    @property
    def in_prompt(self) -> str:
        """What of the text stands in the prompt, beside the message."""
        if self.spoken:
            return ""
        return self.text if self.shown is None else self.shown

    def showing(self, text: str) -> "Read":
        """The same with only `text` in the prompt."""
        return replace(self, shown=text)


Record = Seen | Read


def is_picture(record: Record) -> bool:
    """Whether it was a picture, seen or read."""
    return record.source == "picture"


def spoken_words(records: Iterable[Record]) -> str:
    """The message that these recordings are; empty where none of them is one."""
    return "\n".join(record.text for record in records if isinstance(record, Read) and record.spoken)


def to_json(record: Record) -> dict[str, Any]:
    """Plain values for the store; what is as usual is left out."""
    if isinstance(record, Seen):
        return {"name": record.name, record.source: record.digest, "brick": record.brick, **record.findings}
    values: dict[str, Any] = {
        "name": record.name,
        record.source: record.digest,
        "brick": record.brick,
        "text": record.text,
    }
    extras = {
        "shown": record.shown,
        "recalled": record.recalled or None,
        "asked": record.asked or None,
        "spoken": record.spoken or None,
    }
    return values | {name: value for name, value in extras.items() if value is not None}


def from_json(values: Mapping[str, Any]) -> Record:
    """The record of plain values. Raises MattoniError where they are none."""
    rest = dict(values)
    try:
        name, brick = str(rest.pop("name")), str(rest.pop("brick", ""))
        if "text" not in rest:
            kind: Literal["picture", "sound"] = "sound" if "sound" in rest else "picture"
            return Seen(name, str(rest.pop(kind)), brick, rest, kind)
        source = next(s for s in ("picture", "document", "sound") if s in rest)
    except (KeyError, StopIteration) as problem:
        raise MattoniError(
            "A message of this conversation is damaged in the store: go on in a new conversation."
        ) from problem
    return Read(
        name,
        str(rest[source]),
        brick,
        str(rest["text"]),
        source,
        rest.get("shown"),
        bool(rest.get("recalled")),
        bool(rest.get("asked")),
        bool(rest.get("spoken")),
    )
