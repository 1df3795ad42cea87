"""Keys and values of conversations between their turns. Knows nothing of hosts or how they are computed."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from assistant.host.decoder import KeyValues

Place = int | tuple[str, int]  # what stands at a position: a token id, or a soft token's (digest, index)


@dataclass
class ReadSoFar:
    """Keys and values of a prompt and its answer, with what they were computed from, position by position."""

    places: list[Place]
    key_values: KeyValues


class IdleKeyValues:
    """Keys and values of conversations whose turn has ended, by (conversation, composition), within a budget of bytes."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget = budget_bytes
        self._kept: OrderedDict[tuple[str, str], ReadSoFar] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def memory_bytes(self) -> int:
        """Bytes that they take."""
        with self._lock:
            return self._bytes()

    def take(self, conversation: str, composition: str) -> ReadSoFar | None:
        """Remove and return what is kept; whoever takes it changes it."""
        with self._lock:
            return self._kept.pop((conversation, composition), None)

    def keep(self, conversation: str, composition: str, read: ReadSoFar) -> None:
        """Keep it as the latest; the oldest leave when the budget is spent."""
        read.key_values.trim()
        with self._lock:
            self._kept[(conversation, composition)] = read
            while self._kept and self._bytes() > self._budget:
                self._kept.popitem(last=False)

    def forget(self, conversation: str) -> None:
        """Drop all that is kept of a conversation."""
        with self._lock:
            for key in [key for key in self._kept if key[0] == conversation]:
                del self._kept[key]

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            self._kept.clear()

    def _bytes(self) -> int:
        return sum(read.key_values.memory_bytes for read in self._kept.values())


def common_prefix(old: Sequence[Place], new: Sequence[Place]) -> int:
    """Length of the longest common beginning."""
    return next((n for n, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
