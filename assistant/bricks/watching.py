"""Folders whose files are knowledge: looked at before every turn. Knows nothing of how files are read."""

import logging
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from assistant.bricks.folders import files_in
from assistant.registry import Brick
from knowledge_bricks.methods.documents import DocumentsParts
from mattoni.card import BrickCard
from mattoni.errors import MattoniError
from mattoni.files import sha256_of

LOG = logging.getLogger(__name__)

_WAIT_S = 2.0  # a few changed pages are read and embedded in that time; more are there in a later turn


class FolderState:
    """The digests of a folder's files, each computed once for a state of the file."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[tuple[int, int], str]] = {}

    def digest(self, path: Path) -> str:
        """sha256 of the file's bytes; empty where it cannot be read."""
        try:
            found = path.stat()
            stamp = (found.st_size, found.st_mtime_ns)
            known = self._known.get(path)
            if known is None or known[0] != stamp:
                known = self._known[path] = (stamp, sha256_of(path))
        except OSError:
            return ""
        return known[1]


def watched_folder(card: BrickCard) -> Path | None:
    """The folder that a brick's documents come from and that is looked at before every turn."""
    return Path(card.parts.watch) if isinstance(card.parts, DocumentsParts) and card.parts.watch else None


def stamp_of(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of a folder's files: the same while nothing changes in it. A thousand files take 10 ms."""
    found = []
    for path in files_in(folder).files:
        try:
            state = path.stat()
        except OSError:
            continue  # removed this moment
        found.append((str(path), state.st_size, state.st_mtime_ns))
    return tuple(found)


class WatchedFolders:
    """Has bricks brought up to date whose folders have changed. May be asked by several threads."""

    def __init__(self, sync: Callable[[str], object]) -> None:
        """sync  brings the brick of a name up to date; raises MattoniError"""
        self._sync = sync
        self._seen: dict[str, object] = {}  # by brick: what its folder looked like when it was last read
        self._lock = threading.Lock()
        self._running: threading.Thread | None = None

    def look(self, bricks: Iterable[Brick]) -> bool:
        """See whether a folder has changed, and read what is new. A turn waits a moment for that, and not for long.

        Returns whether bricks may be others than before.
        """
        with self._lock:
            if self._running is not None and self._running.is_alive():
                return False
            folders = {brick.name: watch for brick in bricks if (watch := watched_folder(brick.card))}
            stamps = {name: stamp_of(folder) for name, folder in folders.items()}
            changed = {name: stamp for name, stamp in stamps.items() if stamp != self._seen.get(name)}
            if not changed:
                return False
            running = self._running = threading.Thread(
                target=self._bring_up_to_date, args=(changed,), name="mattoni-folders", daemon=True
            )
            running.start()
        running.join(_WAIT_S)
        return True

    def _bring_up_to_date(self, changed: dict[str, object]) -> None:
        for name, stamp in changed.items():
            try:
                self._sync(name)
            except MattoniError as problem:
                LOG.warning("%s", problem)  # the turn goes on with what was read before
            self._seen[name] = stamp
