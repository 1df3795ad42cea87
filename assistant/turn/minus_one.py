"""A turn, and the same turn without each of its bricks: what each one did to the answer.

Leave-one-out, as occlusion in Zeiler and Fergus 2014 (arXiv:1311.2901, section 4): beside the answer itself, which may stay the
same by chance or change by one word, how likely the first answer is without the brick. Knows no kind of brick.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from assistant.host.job import Engine
from assistant.registry import Bricks
from assistant.turn.answer import Outcome, answer, job_of
from assistant.turn.lender import Answering, Borrows, make_ready
from assistant.turn.prepare import Watcher
from assistant.turn.request import Request
from assistant.turn.ticket import Ticket
from mattoni.trace import Trace


@dataclass(frozen=True)
class Without:
    """The turn without one brick."""

    brick: str
    kind: str
    answer: str
    is_changed: bool
    log_probability: float | None  # of the whole turn's answer, in nats a token; None where the host was not asked
    moved: float | None  # that, less the whole turn's own: below 0 the brick had made the answer likelier
    bricks: tuple[str, ...]  # who took part


@dataclass(frozen=True)
class MinusOne:
    """A turn with all of its bricks, and without each."""

    answer: str
    log_probability: float | None  # in nats a token
    without: tuple[Without, ...]
    trace: Trace

    def to_json(self) -> dict[str, Any]:
        """Answer, trace and table as plain values."""
        table = [asdict(one) for one in self.without]
        return {
            "answer": self.answer,
            "trace": self.trace.to_json(),
            "log_probability": self.log_probability,
            "minus_one": table,
        }


def minus_one(
    answering: Answering,
    request: Request,
    told: Callable[[str], object] = lambda brick: None,
    borrows: Borrows | None = None,
) -> MinusOne:
    """Answer a request with all bricks that it takes, then without each; nothing is kept of any of these turns.

    A brick's place is taken by no other: only those of the whole turn may take part. All turns have one seed, and the host of
    the whole turn.

    told     the brick that is left out next; "" for the whole turn
    borrows  as in `answer`

    Raises MattoniError where the whole turn fails.
    """
    request = replace(request, conversation="")
    told("")
    if borrows is not None:
        ready = make_ready(answering, request, Trace(), borrows, Watcher())
        answering, request = ready.answering, ready.routed.given
    whole, trace, said = _run(answering, request)
    request = replace(
        request, sampling=request.sampling.model_copy(update={"seed": trace.seed}), answer_anyway=bool(whole.said)
    )
    likely = _log_probability(answering.engine, whole, whole.said)
    kinds = {used.name: used.kind for used in trace.bricks}
    without: list[Without] = []
    for name, kind in kinds.items():
        told(name)
        left = Bricks(tuple(b for b in answering.bricks.usable if b.name in kinds and b.name != name), ())
        asked = replace(request, choices=request.choices.among({brick.name for brick in left.usable}))
        outcome, own, answered = _run(replace(answering, bricks=left), asked)
        now = _log_probability(answering.engine, outcome, whole.said)
        moved = None if now is None or likely is None else now - likely
        took_part = tuple(dict.fromkeys(used.name for used in own.bricks))
        without.append(Without(name, kind, answered, answered != said, now, moved, took_part))
    return MinusOne(said, likely, tuple(without), trace)


def _run(answering: Answering, request: Request) -> tuple[Outcome, Trace, str]:
    """One turn to its end; its text, or the notices where the host was not asked."""
    ticket = Ticket("")
    outcome = answer(answering, request, ticket, lambda: None)
    assert ticket.trace is not None
    text = ticket.text if outcome.prepared is not None else " ".join(n.text for n in ticket.trace.notices)
    return outcome, ticket.trace, text


def _log_probability(engine: Engine, outcome: Outcome, said: tuple[int, ...]) -> float | None:
    """How likely an answer is to what a turn prepared: the mean over its tokens of ln p."""
    if outcome.prepared is None or not said:
        return None
    stream = engine.generate(replace(job_of(outcome.prepared), forced=said))
    for _ in stream:
        pass
    found = stream.log_probabilities
    return sum(found) / len(found) if found else None
