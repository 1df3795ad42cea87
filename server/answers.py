"""Answers in OpenAI's shapes, with the trace under `mattoni`. Pure: tickets in, dictionaries out."""

import json
import math
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from assistant.host.job import Score
from assistant.turn.ticket import Ticket

# How an answer ended, as OpenAI says it; `mattoni.finish` says which of them it was.
_REASONS = {"length": "length"}
DONE = "data: [DONE]\n\n"


@dataclass(frozen=True)
class Head:
    """What all pieces of a response say."""

    model: str
    fingerprint: str
    spell: Callable[[int], bytes] | None = None  # a token's bytes, where log probabilities were asked for
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def shaped(self, kind: str, **told: Any) -> dict[str, Any]:
        """A response, or a piece of one."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            **told,
        }


def completion(head: Head, tickets: Sequence[Ticket]) -> dict[str, Any]:
    """A whole response; with several answers each choice has its own trace, and the response the first one's."""
    several = len(tickets) > 1
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": ticket.text or unspoken(ticket), "refusal": None},
            "logprobs": _logprobs(head, ticket.scores),
            "finish_reason": reason(ticket),
            **({"mattoni": trace(ticket)} if several else {}),
        }
        for index, ticket in enumerate(tickets)
    ]
    return head.shaped("chat.completion", choices=choices, usage=usage(tickets), mattoni=trace(tickets[0]))


def chunk(
    head: Head, index: int, delta: dict[str, str], ticket: Ticket | None = None, scores: Sequence[Score] = ()
) -> dict[str, Any]:
    """A piece of a stream; with a ticket the last of its answer, which says how it ended and brings the trace."""
    ended = {"mattoni": trace(ticket)} if ticket is not None else {}
    logprobs = _logprobs(head, scores) if scores else None
    choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason(ticket) if ticket else None}
    return head.shaped("chat.completion.chunk", choices=[choice], **ended)


def usage_chunk(head: Head, tickets: Sequence[Ticket]) -> dict[str, Any]:
    """The last piece of a stream that was asked for its usage."""
    return head.shaped("chat.completion.chunk", choices=[], usage=usage(tickets), mattoni=trace(tickets[0]))


def _logprobs(head: Head, scores: Sequence[Score]) -> dict[str, Any] | None:
    spell = head.spell
    if spell is None:
        return None

    def token(id: int, logprob: float) -> dict[str, Any]:
        spelled = spell(id)
        # A token that the host would never say: OpenAI's floor, as JSON knows no infinity.
        value = max(logprob, -9999.0)
        return {"token": spelled.decode("utf-8", "replace"), "logprob": value, "bytes": list(spelled)}

    content = [
        {**token(one.id, one.logprob), "top_logprobs": [token(*other) for other in one.likeliest]} for one in scores
    ]
    return {"content": content, "refusal": None}


def event(told: dict[str, Any]) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(told, ensure_ascii=False)}\n\n"


def reason(ticket: Ticket) -> str:
    """OpenAI's `finish_reason`."""
    return _REASONS.get(ticket.trace.finish if ticket.trace is not None else "", "stop")


def usage(tickets: Sequence[Ticket]) -> dict[str, Any]:
    """Tokens of the prompt, which all answers share, and of the answers."""
    taken = [ticket.trace.tokens for ticket in tickets if ticket.trace is not None]
    prompt = max((tokens["prompt"] for tokens in taken), default=0)
    new = sum(tokens["new"] for tokens in taken)
    reused = max((tokens["reused"] for tokens in taken), default=0)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": new,
        "total_tokens": prompt + new,
        "prompt_tokens_details": {"cached_tokens": reused},
    }


def unspoken(ticket: Ticket) -> str:
    """What is said where the host was not asked: the notices, as a picture that is missing has no other way to be told."""
    found = ticket.trace
    return "" if found is None or found.finish else " ".join(notice.text for notice in found.notices)


def trace(ticket: Ticket) -> dict[str, Any]:
    """What really ran, fit for JSON."""
    told: dict[str, Any] = _plain(ticket.trace.to_json()) if ticket.trace is not None else {}
    return told


def _plain(value: Any) -> Any:
    """The value without infinities, which JSON has no word for."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {key: _plain(one) for key, one in value.items()}
        case list() | tuple():
            return [_plain(one) for one in value]
    return value
