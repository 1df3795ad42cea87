"""What every request passes first: its key, its size, its count. Pure ASGI: a middleware on streams would hold them up.

A body is taken as a whole before anything looks into it, so one that is too large ends there, and one without a key is not read.
"""

import asyncio
from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.keys import Keys
from server.metrics import Metrics
from server.problems import ApiError

# Takes files as a form does; everything else is JSON.
_FORMS = frozenset({"/v1/audio/transcriptions"})
# Whoever looks after the server asks these, without a key.
_OPEN = frozenset({"/health", "/openapi.json", "/docs"})
_BODY_S = 60.0


class Gate:
    """Lets a request in with `scope["state"]["key"]` (None where no keys are needed), or answers it."""

    def __init__(
        self, app: ASGIApp, keys: Keys | None, metrics: Metrics, most_bytes: int, most_bytes_together: int
    ) -> None:
        self.app, self._keys, self._metrics, self._most = app, keys, metrics, most_bytes
        self._room = most_bytes_together  # for the bodies of all requests that are here

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, body = 500, bytearray()

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            try:
                await self._admit(scope, receive, body)
            except ApiError as problem:
                await problem.response()(scope, receive, watched)
                return
            await self.app(scope, _replayed(bytes(body), receive), watched)
        finally:
            self._room += len(body)
            route = scope.get("route")
            self._metrics.requests.labels(getattr(route, "path", "other"), str(status)).inc()

    async def _admit(self, scope: Scope, receive: Receive, body: bytearray) -> None:
        headers = {name.lower(): value for name, value in scope["headers"]}
        scope.setdefault("state", {})["key"] = None
        if scope["path"] not in _OPEN and self._keys is not None:
            # Anthropic's clients have a header of their own for it.
            by_name = b"Bearer " + headers[b"x-api-key"] if b"x-api-key" in headers else b""
            key = self._keys.key_of((headers.get(b"authorization") or by_name).decode("latin-1"))
            scope["state"]["key"] = key
            if scope["method"] == "POST":
                self._keys.admit(key)
        if scope["method"] != "POST":
            return
        _check_kind(scope["path"], headers)
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._most:
            raise self._too_large()
        try:
            async with asyncio.timeout(_BODY_S):
                await self._read(receive, body)
        except TimeoutError as problem:
            raise ApiError(408, f"The body did not come within {_BODY_S:.0f} s: send it again.") from problem

    async def _read(self, receive: Receive, body: bytearray) -> None:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ApiError(400, "The connection ended before the body did: send it again.")
            piece = message.get("body", b"")
            body += piece
            self._room -= len(piece)
            if len(body) > self._most:
                raise self._too_large()
            if self._room < 0:
                said = "The server holds as much of what was sent as it can: send it again in a minute."
                raise ApiError(503, said, retry_s=60)
            if not message.get("more_body", False):
                return

    def _too_large(self) -> ApiError:
        return ApiError(413, f"The body is larger than {self._most / 1e6:g} MB: send less, or smaller pictures.")


def _check_kind(path: str, headers: Mapping[bytes, bytes]) -> None:
    """Raise ApiError for a body of another kind. A page of any site can make a browser send text or a form here, and no
    JSON without asking first (CORS); with a form it says where it comes from."""
    kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
    if path not in _FORMS:
        if kind != b"application/json":
            raise ApiError(415, "The body must be JSON: send it with 'Content-Type: application/json'.")
        return
    if kind != b"multipart/form-data":
        raise ApiError(415, "The body must be a form with a file: send it as 'multipart/form-data'.")
    origin = headers.get(b"origin")
    if origin is not None and origin.partition(b"://")[2] != headers.get(b"host"):
        raise ApiError(403, "Pages of other sites may not send files here: send them from a program.")


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The body once, and then whatever the connection tells."""
    told = False

    async def replay() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
