"""The bricks that are loaded, by the digest of their contents. Knows no kind of brick."""

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from assistant.host.catalogue import fetch_source
from assistant.host.wheels import Unavailable
from assistant.registry import Brick
from mattoni.cache import RecentlyUsed
from mattoni.card import brick_digest, read_card
from mattoni.errors import MattoniError
from mattoni.methods import method_of
from mattoni.runtime import BrickRuntime, HostView

# The largest shipped brick takes 60 MB in memory with what it keeps.
_MOST = 16
_TRY_AGAIN_S = 60.0


class OfAnotherHost(MattoniError):
    """A brick was asked that answers with another host than this one."""

    def __init__(self, name: str) -> None:
        super().__init__(f"'{name}' was made for another host, which does not answer here: switch it to Auto.")
        self.name = name


class LoadedBricks:
    """Loads bricks when they are first asked. May be used by several threads."""

    def __init__(self, host: HostView, beside: "LoadedBricks | None" = None) -> None:
        """beside  those of another host: bricks that go with every host are loaded there, and no folder changes under either"""
        self._host, self._beside = host, beside
        self._loaded: RecentlyUsed[BrickRuntime] = RecentlyUsed(_MOST)
        self._loading: AbstractContextManager[object] = threading.RLock() if beside is None else beside._loading
        self._unavailable: dict[str, tuple[float, Unavailable]] = {}

    def get(self, brick: Brick) -> BrickRuntime:
        """The brick, loaded. Raises MattoniError when it is damaged, does not fit the host, or has changed since it was found.

        Raises OfAnotherHost for one that is borrowed: the turn is that host's.
        """
        if brick.borrowed:
            raise OfAnotherHost(brick.name)
        if self._beside is not None and brick.card.host is None:
            return self._beside.get(brick)

        def load() -> BrickRuntime:
            with self._loading:
                # Under its digest nothing else may ever be kept: the folder may have been replaced since it was scanned.
                now = read_card(brick.folder).for_each_host() if brick.folder.is_dir() else ()
                if brick.digest not in map(brick_digest, now):
                    raise MattoniError(f"'{brick.name}' was changed or removed while this message waited: ask again.")
                self._fetch(brick)
                return method_of(brick.parts).load(brick, self._host)

        return self._loaded.get(brick.digest, load)

    def _fetch(self, brick: Brick) -> None:
        """Fetch what the brick needs. Without a network that takes long to fail: it is not tried at every picture."""
        when, problem = self._unavailable.get(brick.digest, (0.0, None))
        if problem is not None and time.monotonic() - when < _TRY_AGAIN_S:
            raise problem
        try:
            for source in brick.parts.sources:
                fetch_source(source)
        except Unavailable as problem:
            self._unavailable[brick.digest] = (time.monotonic(), problem)
            raise

    def between_loads(self, change: Callable[[], None]) -> None:
        """Change brick folders while none of them is being read."""
        with self._loading:
            change()

    def clear(self) -> None:
        """Drop all bricks and everything that they made."""
        self._loaded.drop(lambda digest: True)

    def unload(self, digests: frozenset[str]) -> None:
        """Drop these bricks and everything that they made."""
        self._loaded.drop(lambda digest: digest in digests)

    def unload_named(self, names: frozenset[str]) -> None:
        """Drop what is loaded of the bricks of these names, also of states that were replaced since."""
        self.unload(frozenset(runtime.brick.digest for runtime in self._loaded.values() if runtime.brick.name in names))

    def forget(self, contents: frozenset[str]) -> None:
        """Let every brick drop what it made of these contents."""
        for runtime in self._loaded.values():
            runtime.forget(contents)
