"""Rows that hold a talk: LLaVA's and ShareGPT's `conversations` (from, value), OpenAI's and Qwen's `messages` (role, content)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_KEYS = ("conversations", "messages", "conversation")
_ROLES = {
    "user": ("human", "user", "prompter"),
    "assistant": ("gpt", "assistant", "chatgpt", "model", "bot", "bing", "bard"),
    "system": ("system", "developer"),
}
_ROLE_OF = {name: role for role, names in _ROLES.items() for name in names}
# Where a picture stands among the words: LLaVA's, Qwen-VL's first and its later form, Phi's.
_NAMED_PICTURE = re.compile(r"(?:Picture \d+:\s*)?<img>(.*?)</img>", re.DOTALL)
_PICTURE_MARK = re.compile(r"<image>|<\|image(?:_\d+|_pad)?\|>|<\|vision_(?:start|end)\|>|<image_\d+>")


@dataclass(frozen=True)
class Said:
    """One message: `user`, `assistant`, `system` or another role; its words without marks; pictures named among them."""

    role: str
    text: str
    pictures: tuple[str, ...] = ()
    shows: bool = False  # whether a picture stands among its words


def has_talk(row: Mapping[str, Any]) -> bool:
    """Whether the row is a talk."""
    return any(row.get(key) is not None for key in _KEYS)


def talk_of(row: Mapping[str, Any]) -> list[Said]:
    """The messages of a row. Raises ValueError, the end of a sentence, where they are not such messages."""
    key = next(key for key in _KEYS if row.get(key) is not None)
    messages = row[key]
    if not isinstance(messages, list):
        raise ValueError(f"{key} must be a list of messages")
    return [_said(message, key) for message in messages]


def _said(message: object, key: str) -> Said:
    if isinstance(message, Mapping):
        role = message.get("from", message.get("role"))
        content = next((message[name] for name in ("value", "content", "text") if message.get(name) is not None), None)
        if isinstance(role, str) and content is not None:
            text, pictures, shows = _words(content)
            return Said(_ROLE_OF.get(role.strip().lower(), role.strip().lower()), text, pictures, shows)
    raise ValueError(f"each message of {key} needs from and value, or role and content")


def _words(content: object) -> tuple[str, tuple[str, ...], bool]:
    """The words of a message, the pictures that it names, and whether it shows one. A list holds typed parts."""
    pictures: list[str] = []
    if isinstance(content, list):
        texts = []
        shows = False
        for part in content:
            if isinstance(part, str):
                texts.append(part)
            elif isinstance(part, Mapping) and "image" in str(part.get("type", "")):
                shows = True
                named = part.get("image") or part.get("image_url") or part.get("path")
                named = named.get("url") if isinstance(named, Mapping) else named
                pictures += [named] if isinstance(named, str) else []
            elif isinstance(part, Mapping):
                texts.append(str(part.get("text") or ""))
        text = "\n".join(texts)
    else:
        text, shows = str(content), False
    pictures += [name.strip() for name in _NAMED_PICTURE.findall(text)]
    marked = _NAMED_PICTURE.sub("<image>", text)
    pieces = _PICTURE_MARK.split(marked)
    return " ".join(p.strip() for p in pieces if p.strip()), tuple(pictures), shows or len(pieces) > 1


def exchanges(talk: list[Said]) -> list[tuple[str, str]]:
    """What the user said, and what the assistant answered to it."""
    pairs = zip(talk, talk[1:], strict=False)
    return [(q.text, a.text) for q, a in pairs if q.role == "user" and a.role == "assistant"]
