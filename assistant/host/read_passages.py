"""Keys and values of passages that were read apart, kept for whoever reads the same again: in memory, and on disk for the next start.

What a key stands for is the caller's affair. Knows nothing of hosts or of how they are computed.
"""

import logging
import os
import threading
from collections import OrderedDict
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mattoni.errors import MattoniError
from mattoni.files import replacing
from mattoni.paths import cache_folder

LOG = logging.getLogger(__name__)
_TENSOR, _ENDING = "key_values", ".safetensors"
# Some 11,000 tokens of the built-in host in bf16, and 40,000.
_BYTES, _BYTES_ON_DISK = 256_000_000, 1_000_000_000


class ReadPassages:
    """Tensors by key, within a budget of bytes in memory and another on disk; those used last stay. From any thread.

    folder  where they are kept beyond this process, which others may share; None: nowhere
    """

    def __init__(self, memory_bytes: int = _BYTES, folder: Path | None = None, disk_bytes: int = 0) -> None:
        self._most, self._folder, self._most_on_disk = memory_bytes, folder, disk_bytes
        self._kept: OrderedDict[str, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def of_this_machine(cls) -> "ReadPassages":
        """Those that outlive a process, in the cache folder; several processes share it."""
        return cls(folder=cache_folder() / "passages", disk_bytes=_BYTES_ON_DISK)

    @property
    def memory_bytes(self) -> int:
        """Bytes that they take in memory."""
        with self._lock:
            return sum(kept.nbytes for kept in self._kept.values())

    def get(self, key: str) -> Tensor | None:
        """What is kept under a key; None: nothing."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        found = self._from_disk(key)
        if found is not None:
            self._remember(key, found)
        return found

    def keep(self, key: str, key_values: Tensor) -> None:
        """Keep it as the latest; the oldest leave when a budget is spent."""
        self._remember(key, key_values)
        if self._folder is None or key_values.nbytes > self._most_on_disk:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with replacing(self._folder / f"{key}{_ENDING}") as fresh:
                save_file({_TENSOR: key_values.cpu().contiguous()}, fresh)
            self._make_room()
        except (OSError, MattoniError) as problem:
            # A convenience: an answer must not fail for it.
            LOG.warning("a passage that was read is not kept on disk: %s", problem)

    def free(self) -> None:
        """Let go of what is in memory."""
        with self._lock:
            self._kept.clear()

    def clear(self) -> None:
        """Drop all, on disk too."""
        self.free()
        for path in self._files():
            path.unlink(missing_ok=True)

    def _remember(self, key: str, key_values: Tensor) -> None:
        with self._lock:
            self._kept[key] = key_values
            self._kept.move_to_end(key)
            while self._kept and sum(kept.nbytes for kept in self._kept.values()) > self._most:
                self._kept.popitem(last=False)

    def _from_disk(self, key: str) -> Tensor | None:
        if self._folder is None:
            return None
        path = self._folder / f"{key}{_ENDING}"
        try:
            found = load_file(path)[_TENSOR]
            os.utime(path)  # used just now: it leaves last
            return found
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, KeyError):
            # Half a file, or none of ours: it is read anew.
            path.unlink(missing_ok=True)
            return None

    def _files(self) -> list[Path]:
        return list(self._folder.glob(f"*{_ENDING}")) if self._folder is not None else []

    def _make_room(self) -> None:
        """Remove the files used longest ago, down to the budget. Another process may do the same."""
        sizes: list[tuple[float, int, Path]] = []
        for path in self._files():
            try:
                found = path.stat()
            except FileNotFoundError:
                continue
            sizes.append((found.st_mtime, found.st_size, path))
        spent = sum(size for _, size, _ in sizes)
        for _, size, path in sorted(sizes):
            if spent <= self._most_on_disk:
                return
            path.unlink(missing_ok=True)
            spent -= size
