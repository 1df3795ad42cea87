"""A second, smaller host for the bricks that were trained with it and that the assistant's own host lacks.

A skill is a low-rank change of one host's weights, and soft tokens are of one host's words: neither says anything to another.
Until somebody trains the variant, the turn that wants such a brick goes to the host that it was made for, whole: what came with the
message is looked at by that host's bricks, and the conversation goes on with the assistant's own. Which hosts borrow, from whom, and
which skills they do better by themselves, the catalogue says (README, "For more, use a larger host").
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from assistant.host.engine_choice import LOCAL
from assistant.host.engines import make_engine
from assistant.host.host import Host
from assistant.host.job import Engine
from assistant.host.matrices import Weights
from assistant.registry import Bricks, Registry
from assistant.turn.loaded import OfAnotherHost
from assistant.turn.prepare import Preparation, Prepared, Routed, Watcher
from assistant.turn.request import Exchange, Message, Request
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

    @property
    def names(self) -> frozenset[str]:
        """The bricks that may take part."""
        return frozenset(brick.name for brick in self.bricks.usable)


Borrows = Callable[[], Answering]


class Lender:
    """Loads the smaller host when a turn first needs it. May be used by several threads."""

    def __init__(
        self,
        identity: HostIdentity,
        load: Callable[[], Host],
        except_for: frozenset[str],
        beside: Preparation,
        weights: Weights = "auto",
    ) -> None:
        """identity    of the host that is lent, known before it is loaded
        except_for  skills that are not borrowed
        beside      the preparation of the assistant's own host
        """
        self._identity, self._load, self._beside, self._weights = identity, load, beside, weights
        self._except_for = except_for
        self._opened: tuple[Preparation, Engine] | None = None
        self._opening = threading.Lock()

    def beside(self, own: Bricks, registry: Registry) -> Bricks:
        """The bricks of the assistant's own host, with those that it borrows."""
        return own.borrowing(registry.scan(self._identity), self._except_for)

    def answering(self, registry: Registry) -> Answering:
        """The host, loaded, with its bricks. Raises MattoniError where it cannot be loaded."""
        with self._opening:
            if self._opened is None:
                host = self._load()
                engine = make_engine(host, LOCAL, self._weights)
                self._opened = (Preparation(host, beside=self._beside), engine)
        return Answering(*self._opened, registry.scan(self._identity))

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


@dataclass(frozen=True)
class Ready:
    """A turn that is ready to be decoded, and by whom."""

    routed: Routed
    prepared: Prepared
    answering: Answering
    borrowed: frozenset[str] = frozenset()  # the bricks for which another host answers


def make_ready(
    answering: Answering, request: Request, trace: Trace, borrows: Borrows | None, watcher: Watcher
) -> Ready:
    """Prepare a turn, on the host that its bricks were trained with.

    A skill is known by the plan. That a borrowed brick is to look at a picture, of this message or of an earlier one that stands in
    the prompt, is known when it is asked. Raises Stopped, and MattoniError.
    """
    routed = answering.preparation.plan(request, answering.bricks, trace, watcher)
    wanted = routed.borrowed
    if borrows is None or not wanted:
        try:
            return Ready(routed, routed.prepare(), answering)
        except OfAnotherHost as elsewhere:
            if borrows is None:
                raise
            wanted = frozenset({elsewhere.name})
    theirs = _borrowed_by(answering, borrows, watcher)
    if (lent := _lent(request, wanted, theirs, watcher)) is not None:
        return Ready(lent, lent.prepare(), theirs, wanted)
    own = replace(answering, bricks=answering.bricks.without_borrowed())
    asked = replace(request, choices=request.choices.among(own.names))
    here = own.preparation.plan(asked, own.bricks, Trace(), watcher)
    return Ready(here, here.prepare(), own)


def read_history(
    own: Answering, messages: Sequence[Message], choices: Choices, borrows: Borrows | None, watcher: Watcher
) -> tuple[Exchange, ...]:
    """A history as exchanges, read by the other host where a borrowed brick is to look at something. Raises as `make_ready` does."""
    try:
        return own.preparation.exchanges(messages, choices, own.bricks, watcher)
    except OfAnotherHost:
        if borrows is None:
            raise
    theirs = _borrowed_by(own, borrows, watcher)
    return theirs.preparation.exchanges(messages, choices.among(theirs.names), theirs.bricks, watcher)


def _borrowed_by(own: Answering, borrows: Borrows, watcher: Watcher) -> Answering:
    """The other host with those bricks of its own that are seen here: what the user may not have takes no part there either."""
    watcher.progress("loading another host")
    theirs = borrows()
    if watcher.stopping():
        raise Stopped
    return replace(theirs, bricks=theirs.bricks.among(own.names))


def _lent(request: Request, wanted: frozenset[str], theirs: Answering, watcher: Watcher) -> Routed | None:
    """A turn that wants borrowed bricks, routed by the host that they were trained with.

    None where that host would choose none of these skills, or where the user chose by hand what there is not for it, and none of them.
    """
    names, by_hand = theirs.names, _by_hand(request.choices)
    if not (by_hand <= names or by_hand & wanted):
        return None
    trace = Trace()
    if lacking := sorted(by_hand - names):
        told = (
            f"{', '.join(lacking)} took no part: {theirs.preparation.host.name} answered, which has no variant of it."
        )
        trace.notices.append(Notice("left-out", told))
    # Token ids of earlier answers are of another vocabulary.
    past = tuple(replace(exchange, token_ids=None) for exchange in request.past)
    asked = replace(request, past=past, choices=request.choices.among(names))
    routed = theirs.preparation.plan(asked, theirs.bricks, trace, watcher)
    skills = {name for name in wanted if theirs.bricks.get(name).card.kind == "task"}
    return routed if not skills or skills & {one.name for one in routed.skills} else None


def _by_hand(choices: Choices) -> frozenset[str]:
    """The bricks that the user switched on."""
    on = {name for name, choice in choices.bricks.items() if choice.state == "on"}
    return frozenset(on | ({choices.vision} if choices.vision is not None else set()))
