"""Everything that a turn depends on, as one value. Knows nothing of what is made of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from assistant.host.sampling import Sampling
from assistant.turn.route import Choices
from mattoni.inputs import Attachment
from mattoni.records import Read, Record, Seen, is_picture, spoken_words


@dataclass(frozen=True)
class Message:
    """A message of a history that whoever asks keeps: what was said, and what came with it."""

    role: Literal["user", "assistant"]
    text: str
    attachments: tuple[Attachment, ...] = ()


@dataclass(frozen=True)
class Exchange:
    """An earlier question and its answer; `records` is what its attachments became."""

    question: str
    records: tuple[Record, ...]
    answer: str
    token_ids: tuple[int, ...] | None

    @property
    def asked(self) -> str:
        """The question, or what stands for one that was left out."""
        return self.question if self.question.strip() else unwritten_question(self.records)

    @property
    def brought(self) -> tuple[Record, ...]:
        """What came with the question; a recording that was the question itself is none of it."""
        return tuple(record for record in self.records if not (isinstance(record, Read) and record.spoken))

    @property
    def is_about_sights(self) -> bool:
        """Whether it is about pictures alone that were seen: a text that was read stays with what was said of it.

        The words on a picture that was seen too are a part of what was seen.
        """
        seen = {record.digest for record in self.records if isinstance(record, Seen)}
        return bool(self.brought) and all(record.digest in seen for record in self.brought)


def unwritten_question(records: Sequence[Record]) -> str:
    """The question of a message without text: what its recordings say, else what somebody who sends something wants to know."""
    if words := spoken_words(records):
        return words
    if any(isinstance(record, Seen) and is_picture(record) for record in records):
        return "Describe the picture."
    if any(isinstance(record, Seen) for record in records):
        return "What is to be heard?"
    return "What is this text about? Answer in one sentence." if records else ""


@dataclass(frozen=True)
class Request:
    """One message, and the conversation that it belongs to."""

    text: str
    attachments: tuple[Attachment, ...] = ()
    choices: Choices = Choices()
    sampling: Sampling = Sampling()
    past: tuple[Exchange, ...] = ()
    conversation: str = ""  # under which keys and values are kept; empty: they are not
    content: Callable[[str], bytes] = lambda digest: b""  # bytes of an earlier attachment
    system: str = ""  # what the conversation begins with; empty: what the host's own do
    answer_anyway: bool = False  # also where the message seems to miss its picture
