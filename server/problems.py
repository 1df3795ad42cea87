"""What a client is told when something does not work: OpenAI's shape, with one sentence. Knows no endpoint."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.responses import JSONResponse


class ApiError(Exception):
    """A status, one sentence, and what OpenAI's clients read beside it."""

    def __init__(
        self,
        status: int,
        sentence: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_s: int | None = None,
    ) -> None:
        super().__init__(sentence)
        self.status, self.code, self.param, self.retry_s = status, code, param, retry_s

    @property
    def body(self) -> dict[str, Any]:
        """As OpenAI writes it. Half a pair of UTF-16, which JSON can bring and UTF-8 cannot say, becomes a question mark."""
        kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
        kind = "server_error" if self.status >= 500 else kinds.get(self.status, "invalid_request_error")
        told = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": {key: _sayable(value) for key, value in told.items()}}

    def response(self, as_anthropic: bool = False) -> JSONResponse:
        """The answer to the client. Anthropic's says beside the error that it is one."""
        headers = {} if self.retry_s is None else {"Retry-After": str(self.retry_s)}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse({**({"type": "error"} if as_anthropic else {}), **self.body}, self.status, headers)


def _sayable(text: str | None) -> str | None:
    return None if text is None else text.encode("utf-8", "replace").decode("utf-8")


def of_validation(errors: Sequence[Mapping[str, Any]]) -> ApiError:
    """The one mistake of a body that says most: of a union's branches, the one that came farthest."""
    worst = max(errors, key=lambda error: len(error["loc"]))
    # pydantic names the branches of a union too ("list[...]", "str"), which no client has written.
    places = [str(place) for place in worst["loc"] if place != "body" and not _is_branch(place)]
    where = ".".join(places)
    said = str(worst["msg"]).rstrip(".")
    if worst["type"] == "json_invalid":
        return ApiError(400, f"The body is no JSON ({said}): send a JSON object.")
    return ApiError(400, f"{where or 'The body'}: {said[:1].lower()}{said[1:]}.", param=where or None)


def _is_branch(place: Any) -> bool:
    return isinstance(place, str) and (place in _BRANCHES or "[" in place or place[:1].isupper())


_BRANCHES = frozenset({"str", "float", "int", "bool"})
