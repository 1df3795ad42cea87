"""Figures that took long to measure, in a file by what they were measured of: an interrupted call measures none twice."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mattoni.files import write_text


class Kept:
    """A JSON file of figures. `stamp` says what all of them depend on; others of the file are left alone."""

    def __init__(self, file: Path, stamp: str) -> None:
        self._file, self._stamp = file, stamp
        try:
            kept = json.loads(file.read_text(encoding="utf-8"))
            self._kept: dict[str, Any] = kept if isinstance(kept, dict) else {}
        except (OSError, ValueError):
            self._kept = {}

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, name: str, measure: Callable[[], Any]) -> Any:
        """A figure, measured now where it was not before. What is measured must survive JSON."""
        key = hashlib.sha256(f"{self._stamp}\n{name}".encode()).hexdigest()
        if key not in self._kept:
            self._kept[key] = measure()
            write_text(self._file, json.dumps(self._kept))
        return self._kept[key]
