"""Keeps what was made last, by content. Knows nothing of what it keeps."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class RecentlyUsed(Generic[Value]):
    """The values used last, made on demand. Keys hash contents (digests), never names. May be used by several threads."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: OrderedDict[Hashable, Value] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value kept under `key`, else a new one from `make()`."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        # Not under the lock: what takes a second to make must not hold up those who find theirs.
        value = make()
        with self._lock:
            value = self._values.setdefault(key, value)
            self._values.move_to_end(key)
            while len(self._values) > self._size:
                self._values.popitem(last=False)
            return value

    def __len__(self) -> int:
        return len(self._values)

    def values(self) -> list[Value]:
        """All that is kept, the oldest first."""
        with self._lock:
            return list(self._values.values())

    def drop(self, unwanted: Callable[[Hashable], bool]) -> None:
        """Forget the values under all keys for which `unwanted(key)` holds."""
        with self._lock:
            for key in [key for key in self._values if unwanted(key)]:
                del self._values[key]
