"""Keys and values of conversations between their turns. Knows nothing of hosts or how they are computed."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from assistant.host.activation import Place
from assistant.host.decoder import KeyValues

ReadPlace = tuple[str, Place]  # what stood at a position, behind the key of the composition that it was read with


@dataclass
class ReadSoFar:
    """Keys and values of a prompt and its answer, with what they were computed from, position by position.

    front  positions of a prefix, which come before all places
    """

    places: list[ReadPlace]
    key_values: KeyValues
    front: int = 0

    def cut(self, length: int) -> None:
        """Forget all places from `length` on."""
        self.key_values.crop(self.front + length)
        del self.places[length:]

    def beginning(self, length: int) -> "ReadSoFar":
        """A copy of the first places."""
        return ReadSoFar(self.places[:length], self.key_values.copy(self.front + length), self.front)


class IdleKeyValues:
    """Keys and values of conversations whose turn has ended, by (conversation, last composition), within a budget of bytes."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget = budget_bytes
        self._kept: OrderedDict[tuple[str, str], ReadSoFar] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def memory_bytes(self) -> int:
        """Bytes that they take."""
        with self._lock:
            return self._bytes()

    def take(self, conversation: str, places: Sequence[ReadPlace]) -> ReadSoFar | None:
        """What is kept of a conversation that begins most like these places, cut to what they have in common; None: nothing does.

        It is removed, since whoever takes it changes it. Where more of it would be lost than is used, it stays, and a
        copy of its beginning is given: a skill that reads one message alone must not cost the host its history.
        """
        with self._lock:
            found = [
                (common_prefix(read.places, places), key) for key, read in self._kept.items() if key[0] == conversation
            ]
            shared, key = max(found, default=(0, ("", "")))
            if not shared:
                return None
            read = self._kept[key]
            if len(read.places) - shared > shared:
                return read.beginning(shared)
            del self._kept[key]
        read.cut(shared)
        return read

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


def common_prefix(old: Sequence[ReadPlace], new: Sequence[ReadPlace]) -> int:
    """Length of the longest common beginning."""
    return next((n for n, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
