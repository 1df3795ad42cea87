"""From OpenAI's messages to the assistant's: words, and what came with them. Opens nothing, decides nothing."""

import base64
import binascii
import hashlib
import json
import mimetypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from assistant.turn.look.names import clean_name
from assistant.turn.request import Message
from mattoni.inputs import Attachment
from server.problems import ApiError
from server.wire import AudioPart, FilePart, ImagePart, Part, TextPart, WireMessage

MOST_ATTACHMENTS = 32

Fetch = Callable[[str], Attachment]


@dataclass(frozen=True)
class Talk:
    """A conversation as `Assistant.complete` takes it."""

    system: str
    messages: tuple[Message, ...]

    def conversation(self, user: str, choices: str) -> str:
        """What tells it from others, as the history is the caller's and has no name: whose it is, which bricks are asked
        for, and how it begins.

        Two that are alike in these are taken for one, which costs nothing but that one finds fewer keys and values of its own.
        """
        first = self.messages[0]
        files = [hashlib.sha256(one.content).hexdigest() for one in first.attachments]
        said = json.dumps([user, choices, self.system, first.text, files])
        return f"api-{hashlib.sha256(said.encode()).hexdigest()}"


def talk_of(messages: Sequence[WireMessage], fetch: Fetch | None, hears: bool) -> Talk:
    """The conversation. What a system or developer message says stands at its beginning, wherever it was sent.

    fetch  gets what has an address; None: addresses are refused
    hears  whether a brick reads recordings

    Raises ApiError for what cannot be decoded.
    """
    system = "\n\n".join(_words(m) for m in messages if m.role in ("system", "developer"))
    count = sum(not isinstance(part, TextPart) for message in messages for part in _parts(message))
    if count > MOST_ATTACHMENTS:
        raise ApiError(
            400, f"The messages bring {count} files, and at most {MOST_ATTACHMENTS} are taken: leave some out."
        )
    said: list[Message] = []
    number = 0
    for place, message in enumerate(messages):
        if message.role in ("system", "developer"):
            continue
        files = []
        for part in _parts(message):
            if not isinstance(part, TextPart):
                number += 1
                files.append(_attachment(part, number, f"messages.{place}.content", fetch, hears))
        role = "user" if message.role == "user" else "assistant"
        said.append(Message("user" if role == "user" else "assistant", _words(message), tuple(files)))
    if not said:
        raise ApiError(400, "There is no message of a user's: add one.", param="messages")
    return Talk(system, tuple(said))


def _parts(message: WireMessage) -> Sequence[Part]:
    return message.content if isinstance(message.content, list) else ()


def _words(message: WireMessage) -> str:
    if isinstance(message.content, str):
        return message.content
    return "\n".join(part.text for part in _parts(message) if isinstance(part, TextPart))


def _attachment(
    part: ImagePart | FilePart | AudioPart, number: int, where: str, fetch: Fetch | None, hears: bool
) -> Attachment:
    match part:
        case ImagePart():
            url = part.image_url if isinstance(part.image_url, str) else part.image_url.url
            return _from_url(url, f"image-{number}", f"{where}.image_url", fetch)
        case FilePart():
            data, name = part.file.file_data, part.file.filename
            if data is None:
                raise ApiError(
                    400, f"{where}.file: files are not kept here: send the file itself as file_data.", param=where
                )
            found = _from_url(data, f"file-{number}", f"{where}.file", fetch) if ":" in data[:64] else None
            content = found.content if found is not None else _decoded(data, f"{where}.file")
            return Attachment(clean_name(name or (found.name if found else f"file-{number}")), content)
        case AudioPart():
            if not hears:
                raise ApiError(
                    400, f"{where}.input_audio: no installed brick reads recordings: leave it out.", param=where
                )
            name = clean_name(f"audio-{number}.{part.input_audio.format}")
            return Attachment(name, _decoded(part.input_audio.data, f"{where}.input_audio"))


def _from_url(url: str, name: str, where: str, fetch: Fetch | None) -> Attachment:
    """What a data URL holds (RFC 2397), or what lies at an address."""
    scheme = url[:16].partition(":")[0].lower()
    if scheme == "data":
        head, comma, data = url[5:].partition(",")
        if not comma:
            raise ApiError(
                400, f"{where}: a data URL is data:TYPE;base64,BYTES, and this one has no comma.", param=where
            )
        kind, *options = (piece.strip().lower() for piece in head[:200].split(";"))
        ending = mimetypes.guess_extension(kind) or ""
        content = _decoded(data, where) if "base64" in options else unquote_to_bytes(data)
        return Attachment(clean_name(name + ending), content)
    if scheme not in ("http", "https"):
        raise ApiError(
            400, f"{where}: this is neither a data URL nor an address: send data:TYPE;base64,BYTES.", param=where
        )
    if fetch is None:
        raise ApiError(
            400,
            f"{where}: this server fetches nothing (--allow-urls): send the file itself as a data URL.",
            code="invalid_url",
            param=where,
        )
    found = fetch(url)
    return Attachment(clean_name(found.name), found.content)


def _decoded(data: str, where: str) -> bytes:
    try:
        content = base64.b64decode("".join(data.split()), validate=True)
    except (binascii.Error, ValueError) as problem:
        raise ApiError(400, f"{where}: this is no base64: encode the file's bytes.", param=where) from problem
    if not content:
        raise ApiError(400, f"{where}: the file is empty: send its bytes.", param=where)
    return content
