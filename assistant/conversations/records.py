"""What is kept of a conversation, as values. Knows nothing of where or how it is kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Role = Literal["user", "assistant"]
Status = Literal["running", "done", "stopped", "failed"]
AttachmentKind = Literal["picture", "document", "sound", "film"]

_TITLE_LENGTH = 48


class Sent(Protocol):
    """What a user attached: a name and its bytes."""

    @property
    def name(self) -> str: ...
    @property
    def content(self) -> bytes: ...


@dataclass(frozen=True)
class Attached:
    """An attachment of a stored message; its bytes are `ConversationStore.content(digest)`."""

    digest: str
    name: str
    kind: AttachmentKind
    bytes: int


@dataclass(frozen=True)
class StoredMessage:
    """One question or answer. `segments`, `token_ids` and `trace` are JSON of whoever wrote them, never looked into here."""

    id: int
    conversation: str
    role: Role
    text: str
    status: Status
    created: float
    attachments: tuple[Attached, ...] = ()
    error: str | None = None
    segments: Any = None
    token_ids: list[int] | None = None
    trace: dict[str, Any] | None = None


@dataclass(frozen=True)
class Conversation:
    """A line of the list of conversations."""

    id: str
    title: str
    created: float
    updated: float


@dataclass(frozen=True)
class Counts:
    """How much is kept. bytes_elsewhere: on a server, beside what lies in the data folder."""

    conversations: int
    messages: int
    bytes_elsewhere: int


def title_from(text: str, names: Sequence[str] = ()) -> str:
    """A title for a conversation that nobody has named: the beginning of its first question."""
    words = " ".join(text.split()) or (names[0] if names else "") or "New conversation"
    return words if len(words) <= _TITLE_LENGTH else words[: _TITLE_LENGTH - 1].rstrip() + "…"
