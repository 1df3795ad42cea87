"""Conversations as documents to take away: Markdown to read, JSON for programs. Knows nothing of where they are kept."""

import json
import time
from collections.abc import Sequence

from assistant.conversations.records import Conversation, StoredMessage


def as_markdown(conversation: Conversation, messages: Sequence[StoredMessage]) -> str:
    """The conversation as a Markdown document; attachments by name."""
    day = time.strftime("%Y-%m-%d %H:%M", time.localtime(conversation.created))
    parts = [f"# {conversation.title}", f"*{day}, exported from Mattoni*"]
    for message in messages:
        parts.append(f"## {'You' if message.role == 'user' else 'Mattoni'}")
        parts += [f"Attached: {attached.name}" for attached in message.attachments]
        parts.append(message.text or "*(nothing said)*")
        if message.status in ("stopped", "failed"):
            parts.append(f"*({message.status}{': ' + message.error if message.error else ''})*")
        if bricks := (message.trace or {}).get("bricks"):
            parts.append("Bricks: " + ", ".join(str(brick.get("name")) for brick in bricks))
    return "\n\n".join(parts) + "\n"


def as_json(conversation: Conversation, messages: Sequence[StoredMessage]) -> str:
    """The conversation as a JSON object: title, times, messages with attachments (name, digest) and traces."""
    told = [
        {
            "role": message.role,
            "text": message.text,
            "status": message.status,
            "error": message.error,
            "created": message.created,
            "attachments": [vars(attached) for attached in message.attachments],
            "trace": message.trace,
        }
        for message in messages
    ]
    return json.dumps({**vars(conversation), "messages": told}, ensure_ascii=False, indent=2) + "\n"
