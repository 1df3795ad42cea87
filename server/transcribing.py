"""Transcriptions: a recording is heard, and what was heard is told in OpenAI's forms: JSON, text, subtitles with times."""

import asyncio
import re
import threading
from collections.abc import Sequence
from typing import Any, Literal

from fastapi import Request, UploadFile
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.concurrency import run_in_threadpool

from assistant.assistant import Assistant
from assistant.turn.look import clean_name
from assistant.turn.route import Choice, Choices
from mattoni.inputs import Attachment
from mattoni.runtime import Injected, Said, Stopped
from mattoni.untrusted import encode_untrusted
from server.keys import Key
from server.leaving import unless_gone
from server.naming import Names
from server.problems import ApiError

Form = Literal["json", "text", "verbose_json", "srt", "vtt"]
# A recogniser hears one window at a time; a second recording is opened and looked through meanwhile.
_AT_ONCE = 2
_LANGUAGE = re.compile(r"[a-z]{2,3}")


class Transcriber:
    """Hears recordings, a few at a time, and no longer than somebody waits."""

    def __init__(self, assistant: Assistant, names: Names, most_waiting: int) -> None:
        self._assistant, self._names, self._most = assistant, names, most_waiting
        self._room, self._waiting = asyncio.Semaphore(_AT_ONCE), 0

    async def hear(self, request: Request, file: UploadFile, model: str | None, language: str) -> Injected | None:
        """What is said in a file; None where the client left meanwhile. Raises ApiError, and MattoniError for the file."""
        if language and not _LANGUAGE.fullmatch(language):
            raise ApiError(400, "language: write it as ISO 639-1 does, such as 'en' or 'de'.", param="language")
        if self._waiting >= self._most:
            raise ApiError(503, f"{self._most} recordings wait already: ask again in a minute.", retry_s=60)
        key: Key | None = request.state.key
        choices = await run_in_threadpool(self._choices, model, key.bricks if key is not None else None)
        recording = Attachment(clean_name(file.filename or "recording"), await file.read())
        if not recording.content:
            raise ApiError(400, "The file is empty: send a recording.", param="file")
        left, found = threading.Event(), list[Injected]()

        def work() -> None:
            try:
                found.append(self._assistant.transcribe(recording, choices, language, left.is_set))
            except Stopped:
                pass  # the client left, and reads nothing

        async def in_turn() -> None:
            async with self._room:
                await run_in_threadpool(work)

        self._waiting += 1
        try:
            await unless_gone(request, in_turn())
        finally:
            left.set()
            self._waiting -= 1
        return found[0] if found else None

    def tokens(self, heard: Injected) -> int:
        """What was heard, in tokens of the host: what a key's limit counts."""
        assert heard.heard is not None
        return len(encode_untrusted(self._assistant.host.tokenizer, heard.heard.text))

    def _choices(self, model: str | None, allowed: frozenset[str] | None) -> Choices:
        """Which brick listens. Raises ApiError: 400 where none does, 403 where the key may use none of them, 404."""
        able = [brick.name for brick in self._assistant.bricks().usable if brick.accepts("sound")]
        named = self._names.check_listener(model, able)
        if not able:
            raise ApiError(400, "No installed brick listens to recordings: add one to this server.", param="model")
        wanted = [named] if named is not None else able
        may = [name for name in wanted if allowed is None or name in allowed]
        if not may:
            said = f"This key may not use the brick '{wanted[0]}', which listens: ask whoever runs this server."
            raise ApiError(403, said, code="brick_not_allowed")
        return Choices(bricks={name: Choice("on" if name == may[0] else "off") for name in able})


def refuse_more_than_words(
    prompt: str | None, temperature: float, stream: bool, granularities: Sequence[str], include: Sequence[str]
) -> None:
    """Raise ApiError for the first field that asks for something which is not done, rather than pass over it."""
    asked = {
        "prompt": bool(prompt and prompt.strip()),
        "temperature": temperature != 0,
        "stream": stream,
        "timestamp_granularities": any(one != "segment" for one in granularities),
        "include": bool(include),
    }
    for name, is_asked in asked.items():
        if is_asked:
            said = f"{name} is not supported by this server's transcriptions: leave it out."
            raise ApiError(400, said, code="unsupported_parameter", param=name)


def transcription(heard: Injected, form: Form) -> Response:
    """The answer. Raises ApiError where somebody speaks in a language that no model here knows."""
    assert heard.heard is not None
    told, notices = heard.heard, [notice.text for notice in heard.notices]
    if not heard.said and any(notice.code == "unknown-language" for notice in heard.notices):
        raise ApiError(400, notices[0], param="file")
    match form:
        case "text":
            return PlainTextResponse(f"{told.text}\n")
        case "srt":
            return PlainTextResponse(srt(heard.said), media_type="application/x-subrip")
        case "vtt":
            return PlainTextResponse(vtt(heard.said), media_type="text/vtt")
    body: dict[str, Any] = {"text": told.text}
    if form == "verbose_json":
        segments = [{"id": n, "start": s.start, "end": s.end, "text": s.text} for n, s in enumerate(heard.said)]
        body |= {"task": "transcribe", "language": told.language, "duration": told.seconds, "segments": segments}
    usage = {"type": "duration", "seconds": round(told.seconds)}
    return JSONResponse({**body, "usage": usage, "mattoni": {"brick": told.brick, "notices": notices}})


def srt(said: Sequence[Said]) -> str:
    """Subtitles as SubRip writes them."""
    cues = (f"{n}\n{_clock(s.start, ',')} --> {_clock(s.end, ',')}\n{s.text}\n" for n, s in enumerate(said, start=1))
    return "\n".join(cues)


def vtt(said: Sequence[Said]) -> str:
    """Subtitles as WebVTT writes them."""
    cues = (f"{_clock(s.start, '.')} --> {_clock(s.end, '.')}\n{s.text}\n" for s in said)
    return "\n".join(("WEBVTT\n", *cues))


def _clock(seconds: float, mark: str) -> str:
    """00:01:02,345"""
    whole, thousandths = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}{mark}{thousandths:03}"
