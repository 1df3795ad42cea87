"""A second, smaller host for the skills that were trained with it and that the assistant's own host lacks.

A skill is a low-rank change of one host's weights and says nothing to another's. Until somebody trains its variant, the turn that
wants it goes to the host that it was made for, whole: what came with the message is looked at by that host's bricks, and the
conversation goes on with the assistant's own. Which hosts borrow, from whom, the catalogue says: those that were measured to do
these tasks worse by themselves (README, "For more, use a larger host").
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from assistant.host.engine_choice import LOCAL
from assistant.host.engines import make_engine
from assistant.host.host import Host
from assistant.host.job import Engine
from assistant.host.matrices import Weights
from assistant.registry import Bricks, Registry
from assistant.turn.prepare import Preparation, Routed, Watcher
from assistant.turn.request import Request
from assistant.turn.route import Choices
from mattoni.card import HostIdentity
from mattoni.runtime import Stopped
from mattoni.trace import Notice, Trace


@dataclass(frozen=True)
class Answering:
    """A host that answers: what prepares its turns, what decodes them, and the bricks as they are for it."""

    preparation: Preparation
    engine: Engine
    bricks: Bricks


Borrows = Callable[[], Answering]


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


def lent(
    own: Answering, request: Request, routed: Routed, borrows: Borrows, watcher: Watcher
) -> tuple[Routed, Answering]:
    """A turn that wants borrowed skills, routed anew: by the host that they were trained with, or by this one without them.

    It stays here where that host would not choose any of them, and where the user chose by hand what there is not for it, and
    none of them. Raises Stopped, and MattoniError where that host cannot be loaded.
    """
    watcher.progress("loading another host")
    theirs = borrows()
    if watcher.stopping():
        raise Stopped
    # What the user does not see here, or may not have, takes no part there.
    theirs = replace(theirs, bricks=theirs.bricks.among({brick.name for brick in own.bricks.usable}))
    names, by_hand = {brick.name for brick in theirs.bricks.usable}, _by_hand(request.choices)
    if by_hand <= names or by_hand & routed.borrowed:
        trace = Trace()
        if lacking := sorted(by_hand - names):
            told = f"{', '.join(lacking)} took no part: {theirs.preparation.host.name} answered, which has no variant of it."
            trace.notices.append(Notice("left-out", told))
        # Token ids of earlier answers are of another vocabulary.
        past = tuple(replace(exchange, token_ids=None) for exchange in request.past)
        asked = replace(request, past=past, choices=request.choices.among(names))
        again = theirs.preparation.plan(asked, theirs.bricks, trace, watcher)
        if routed.borrowed & {one.name for one in again.skills}:
            return again, theirs
    off = {name: replace(request.choices.of(name), state="off") for name in routed.borrowed}
    asked = replace(request, choices=replace(request.choices, bricks={**request.choices.bricks, **off}))
    return own.preparation.plan(asked, own.bricks, Trace(), watcher), own


def _by_hand(choices: Choices) -> frozenset[str]:
    """The bricks that the user switched on."""
    on = {name for name, choice in choices.bricks.items() if choice.state == "on"}
    return frozenset(on | ({choices.vision} if choices.vision is not None else set()))
