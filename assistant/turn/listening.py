"""What the recordings of a message became, before anything is decided: what is said in them may be the message itself. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mattoni.inputs import Sound
from mattoni.records import Seen, spoken_words
from mattoni.runtime import Injected

# Longer than that nobody talks to an assistant: it is a lecture, a meeting, a call, and what it says is read like a text.
LONGEST_MESSAGE_S = 120.0


def are_message(sounds: Sequence[Sound], text: str) -> bool:
    """Whether recordings are the message: they come without a written one, are no films, and no longer than one talks."""
    return (
        not text.strip() and not any(s.is_film for s in sounds) and sum(s.seconds for s in sounds) <= LONGEST_MESSAGE_S
    )


@dataclass(frozen=True)
class HeardSounds:
    """What the brick that listens made of each recording, by the digest of its bytes."""

    found: Mapping[str, Injected] = field(default_factory=dict)

    @property
    def message(self) -> str:
        """What was said, where that is the message."""
        return spoken_words(injected.record for injected in self.found.values() if injected.record is not None)

    @property
    def are_asked_about(self) -> bool:
        """Whether there is something that the message is about: a text, or a sound that somebody heard."""
        return any(
            isinstance(i.record, Seen) or (i.record is not None and i.record.is_text) for i in self.found.values()
        )
