"""A whole turn: prepared, decoded and told, token by token, to whoever waits. Knows nothing of where conversations are kept.

answer ─▶ Preparation.prepare ─▶ Engine.generate ─▶ the ticket, and the trace
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from assistant.host.job import Engine, Job, Stream
from assistant.turn.lender import Answering, Borrows, make_ready
from assistant.turn.prepare import Prepared, Watcher
from assistant.turn.request import Request
from assistant.turn.sparsity import parameters_used
from assistant.turn.ticket import Status, Ticket
from assistant.turn.twofold import quoted
from mattoni.records import Record
from mattoni.trace import Notice, Trace
from mattoni.untrusted import encode_untrusted


@dataclass(frozen=True)
class Outcome:
    """How a turn ended, and what must be kept to rebuild its prompt later."""

    status: Status
    records: tuple[Record, ...]
    token_ids: tuple[int, ...] = ()
    prepared: Prepared | None = None  # what was decoded; None where the host was not asked
    said: tuple[int, ...] = ()  # the host's own part of the token ids
    vocabulary: str = ""  # digest of the one that the token ids are of


def answer(
    answering: Answering, request: Request, ticket: Ticket, told: Callable[[], None], borrows: Borrows | None = None
) -> Outcome:
    """Answer one message into the ticket. `told` is called after each piece, on this thread: the engine waits for nobody.

    borrows  gives the host that bricks are borrowed from, for a turn that wants one

    Raises Stopped when the ticket is stopped before the host is asked, and MattoniError.
    """
    watcher = Watcher(ticket.enter, lambda: ticket.is_stopping)
    ticket.trace = Trace()
    ready = make_ready(answering, request, ticket.trace, borrows, watcher)
    trace = ticket.trace = ready.routed.trace
    prepared, answering, borrowed = ready.prepared, ready.answering, ready.borrowed
    host = answering.preparation.host
    if prepared.written is None:
        return Outcome("done", prepared.records)
    answered = _answered if prepared.then is None else _answered_twice
    outcome = answered(prepared, answering.engine, host.tokenizer, ticket, trace, told)
    whose = f"; {host.name} answered, which it was trained with"
    trace.bricks = [
        replace(used, reason=used.reason + whose) if used.name in borrowed else used for used in trace.bricks
    ]
    trace.parameters = parameters_used(host, answering.bricks, {used.name for used in trace.bricks})
    # After the answer: nobody waits for it.
    with trace.stage("attention"):
        trace.attention.extend(prepared.explain())
    return replace(outcome, vocabulary=host.identity.vocabulary)


def job_of(prepared: Prepared) -> Job:
    """What an engine decodes."""
    assert prepared.written is not None
    request = prepared.request
    return Job(prepared.written.prompt, prepared.injections, request.sampling, prepared.seed, request.conversation)


def _answered(
    prepared: Prepared, engine: Engine, tokenizer: Any, ticket: Ticket, trace: Trace, told: Callable[[], None]
) -> Outcome:
    """What the host says, and what the turn's skills add."""
    outcome = _decode(prepared, engine, ticket, trace, told)
    # Behind a form there is no room for it.
    if outcome.status == "done" and prepared.request.sampling.json_schema is None:
        outcome = _finish(prepared, outcome, tokenizer, ticket, trace, told)
    return outcome


def _answered_twice(
    prepared: Prepared, engine: Engine, tokenizer: Any, ticket: Ticket, trace: Trace, told: Callable[[], None]
) -> Outcome:
    """What a skill makes of the answer to the first half of a message, which nobody is shown."""
    assert prepared.then is not None
    ticket.enter("answering")
    draft = Ticket("")
    ticket.stops(draft.stop)
    first = _answered(prepared, engine, tokenizer, draft, trace, lambda: None)
    second = prepared.then(draft.text) if first.status == "done" and draft.text.strip() else None
    if second is None:
        ticket.say(draft.text)
        told()
        return first
    if second.around is not None:
        outcome = _filled(second.parts, second.around, engine, tokenizer, ticket, trace, told)
    else:
        outcome = _answered(second.parts[0], engine, tokenizer, ticket, trace, told)
    return replace(outcome, records=prepared.records)


def _filled(
    parts: Sequence[Prepared],
    around: Sequence[str],
    engine: Engine,
    tokenizer: Any,
    ticket: Ticket,
    trace: Trace,
    told: Callable[[], None],
) -> Outcome:
    """A form with what the host says of each of its texts, which it decodes side by side."""
    streams = [engine.generate(job_of(part)) for part in parts]
    try:
        for before, part, stream in zip(around, parts, streams, strict=False):
            ticket.say(before)
            draft = Ticket("")
            ticket.stops(draft.stop)
            outcome = _told(part, stream, draft, trace, lambda: None)
            ticket.say(quoted(draft.text))
            told()
            if outcome.status == "stopped":
                break
        else:
            ticket.say(around[-1])
            told()
    finally:
        for stream in streams:
            stream.stop()
    return replace(outcome, token_ids=tuple(encode_untrusted(tokenizer, ticket.text)), said=())


def _decode(prepared: Prepared, engine: Engine, ticket: Ticket, trace: Trace, told: Callable[[], None]) -> Outcome:
    ticket.enter("answering")
    return _told(prepared, engine.generate(job_of(prepared)), ticket, trace, told)


def _told(prepared: Prepared, stream: Stream, ticket: Ticket, trace: Trace, told: Callable[[], None]) -> Outcome:
    ticket.stops(stream.stop)
    pieces = iter(stream)
    with trace.stage("first token"):
        piece = next(pieces, None)
    with trace.stage("generate"):
        while piece is not None:
            ticket.scores.extend(piece.scores)
            ticket.say(piece.text)
            told()
            piece = next(pieces, None)
    usage = stream.usage
    for name, count in (("prompt", usage.prompt), ("reused", usage.reused), ("new", usage.new)):
        trace.tokens[name] += count  # a turn may be decoded twice
    trace.engine, trace.finish = stream.engine, stream.finished
    del ticket.scores[len(stream.ids) :]
    if stream.finished == "repeats":
        ticket.keep(stream.text)
    trace.notices.extend(stream.notices)
    notice = _NOTICES.get(stream.finished)
    if notice is not None:
        trace.notices.append(notice)
    status: Status = "stopped" if stream.finished == "stopped" else "done"
    return Outcome(status, prepared.records, tuple(stream.ids), prepared, tuple(stream.ids))


def _finish(
    prepared: Prepared, outcome: Outcome, tokenizer: Any, ticket: Ticket, trace: Trace, told: Callable[[], None]
) -> Outcome:
    """Put what the turn's skills add behind the host's words: for whoever reads, and for the next turn's prompt."""
    added = ""
    for finished in prepared.finish(ticket.text):
        added += finished.text
        trace.finished.extend(finished.described)
        trace.notices.extend(finished.notices)
    if not added:
        return outcome
    ticket.say(added)
    told()
    return replace(outcome, token_ids=(*outcome.token_ids, *encode_untrusted(tokenizer, added)))


_NOTICES = {
    "length": Notice("length", "The answer reached its longest allowed length: raise max tokens, or say 'go on'."),
    "repeats": Notice("repeats", "The answer began to go round in circles and was ended: ask again in other words."),
}
