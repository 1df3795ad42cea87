"""A second, smaller host for the skills that were trained with it and that the assistant's own host lacks.

A skill is a low-rank change of one host's weights and says nothing to another's. Until somebody trains its variant, the turn that
wants it goes to the host that it was made for, whole: what came with the message is looked at by that host's bricks, and the
conversation goes on with the assistant's own. Which hosts borrow, from whom, the catalogue says: those that were measured to do
these tasks worse by themselves (README, "For more, use a larger host").
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from assistant.host.engine_choice import LOCAL
from assistant.host.engines import make_engine
from assistant.host.host import Host
from assistant.host.job import Engine
from assistant.host.matrices import Weights
from assistant.registry import Bricks, Registry
from assistant.turn.prepare import Preparation
from mattoni.card import HostIdentity


@dataclass(frozen=True)
class Answering:
    """A host that answers: what prepares its turns, what decodes them, and the bricks as they are for it."""

    preparation: Preparation
    engine: Engine
    bricks: Bricks


class Lender:
    """Loads the smaller host when a turn first needs it. May be used by several threads."""

    def __init__(
        self, identity: HostIdentity, load: Callable[[], Host], beside: Preparation, weights: Weights = "auto"
    ) -> None:
        """identity  of the host that is lent, known before it is loaded
        beside    the preparation of the assistant's own host
        """
        self._identity, self._load, self._beside, self._weights = identity, load, beside, weights
        self._opened: tuple[Preparation, Engine] | None = None
        self._opening = threading.Lock()

    def bricks(self, registry: Registry) -> Bricks:
        """The bricks as they are for the host that is lent."""
        return registry.scan(self._identity)

    def answering(self, registry: Registry) -> Answering:
        """The host, loaded, with its bricks. Raises MattoniError where it cannot be loaded."""
        with self._opening:
            if self._opened is None:
                host = self._load()
                engine = make_engine(host, LOCAL, self._weights)
                self._opened = (Preparation(host, beside=self._beside), engine)
        return Answering(*self._opened, self.bricks(registry))

    def host_named(self, name: str) -> Host | None:
        """The host, if it is loaded and called so."""
        host = self._opened[0].host if self._opened is not None else None
        return host if host is not None and host.name == name else None

    def forget(self, conversation: str, contents: frozenset[str]) -> None:
        """Drop what was kept of a conversation and made of these attachments."""
        if self._opened is not None:
            preparation, engine = self._opened
            engine.forget(conversation)
            preparation.forget(contents)

    def clear(self, bricks: frozenset[str] | None = None) -> None:
        """Drop what was computed for idle conversations, and what was loaded of bricks of these names; None: all of them."""
        if self._opened is not None:
            preparation, engine = self._opened
            engine.clear()
            if bricks is None:
                preparation.forget_everything()
            else:
                preparation.forget_bricks(bricks)

    def close(self) -> None:
        """End the engine, if it was begun."""
        if self._opened is not None:
            self._opened[1].close()
