"""Anthropic's form of the same: `/v1/messages`, translated into a chat and back. Decides nothing, and opens nothing."""

import base64
import json
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from assistant.turn.ticket import Ticket
from server import answers
from server.problems import ApiError
from server.turns import Turn
from server.wire import MOST_MESSAGES, ChatRequest, LoraScale, TextPart, Wire

PATH = "/v1/messages"


class Source(Wire):
    """Where a picture's or a document's bytes are."""

    type: Literal["base64", "url", "text"]
    media_type: str = ""
    data: str = ""
    url: str = ""


class FileBlock(Wire):
    """A picture or a document."""

    type: Literal["image", "document"]
    source: Source
    title: str | None = None


Block = Annotated[TextPart | FileBlock, Field(discriminator="type")]


class AnthropicMessage(Wire):
    """One message."""

    role: Literal["user", "assistant"]
    content: str | list[Block]


class MessagesRequest(Wire):
    """A body of `/v1/messages`; `bricks` and `lora` as in a chat."""

    model: str | None = None
    messages: list[AnthropicMessage] = Field(min_length=1, max_length=MOST_MESSAGES)
    max_tokens: int = Field(ge=1)
    system: str | list[TextPart] | None = None
    stop_sequences: list[str] | None = None
    stream: bool | None = False
    temperature: float | None = Field(None, ge=0, le=1)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=0, le=1_000_000)
    bricks: dict[str, float | str] | list[str] | None = None
    lora: list[LoraScale] | None = None
    tools: Any = None
    tool_choice: Any = None


def chat_of(asked: MessagesRequest) -> ChatRequest:
    """The same as a chat. Raises pydantic's ValidationError, and ApiError for what cannot be translated."""
    told = asked.model_dump(exclude={"messages", "system", "stop_sequences", "tools", "tool_choice"})
    system = asked.system if isinstance(asked.system, str) else "\n\n".join(part.text for part in asked.system or ())
    said = [{"role": "system", "content": system}] if system.strip() else []
    messages = [{"role": message.role, "content": _content(message.content)} for message in asked.messages]
    more = {"stop": asked.stop_sequences or None, "tools": asked.tools or None}
    return ChatRequest.model_validate({**told, "messages": [*said, *messages], **more})


def _content(content: str | list[Block]) -> str | list[dict[str, Any]]:
    return content if isinstance(content, str) else [_part(block) for block in content]


def _part(block: TextPart | FileBlock) -> dict[str, Any]:
    if isinstance(block, TextPart):
        return block.model_dump()
    source = block.source
    url = source.url if source.type == "url" else f"data:{source.media_type};base64,{source.data}"
    if source.type == "text":
        url = "data:text/plain;base64," + base64.b64encode(source.data.encode()).decode()
    if block.type == "image":
        return {"type": "image_url", "image_url": {"url": url}}
    if source.type == "url":
        raise ApiError(400, "A document is sent as base64 or text: addresses are for pictures.", param="messages")
    return {"type": "file", "file": {"filename": block.title, "file_data": url}}


def message(head: answers.Head, tickets: Sequence[Ticket]) -> dict[str, Any]:
    """A whole answer."""
    (ticket,) = tickets
    text = ticket.text or answers.unspoken(ticket)
    told = _message(head, [{"type": "text", "text": text}], _usage(ticket))
    return {**told, **_ending(ticket), "mattoni": answers.trace(ticket)}


async def events(head: answers.Head, turns: Sequence[Turn], with_usage: bool) -> AsyncIterator[str]:
    """A stream: the message begins, its one block grows, and how it ended, with the trace."""
    (turn,) = turns
    ticket = turn.ticket
    yield _event("message_start", message=_message(head, [], {"input_tokens": 0, "output_tokens": 0}))
    yield _event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    try:
        async for piece in turn.pieces():
            yield _event("content_block_delta", index=0, delta={"type": "text_delta", "text": piece})
    except ApiError as problem:
        yield _event("error", error=problem.body["error"])
        return
    if not ticket.text and (said := answers.unspoken(ticket)):
        yield _event("content_block_delta", index=0, delta={"type": "text_delta", "text": said})
    yield _event("content_block_stop", index=0)
    yield _event("message_delta", delta=_ending(ticket), usage=_usage(ticket), mattoni=answers.trace(ticket))
    yield _event("message_stop")


def _message(head: answers.Head, content: list[dict[str, str]], usage: dict[str, int]) -> dict[str, Any]:
    told = {"id": f"msg_{head.id[9:]}", "type": "message", "role": "assistant", "model": head.model}
    return {**told, "content": content, "stop_reason": None, "stop_sequence": None, "usage": usage}


def _ending(ticket: Ticket) -> dict[str, Any]:
    finish = ticket.trace.finish if ticket.trace is not None else ""
    reasons = {"length": "max_tokens", "stop-string": "stop_sequence"}
    return {"stop_reason": reasons.get(finish, "end_turn"), "stop_sequence": None}


def _usage(ticket: Ticket) -> dict[str, int]:
    told = answers.usage([ticket])
    cached = told["prompt_tokens_details"]["cached_tokens"]
    return {
        "input_tokens": told["prompt_tokens"] - cached,
        "cache_read_input_tokens": cached,
        "output_tokens": told["completion_tokens"],
    }


def _event(kind: str, **told: Any) -> str:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **told}, ensure_ascii=False)}\n\n"
