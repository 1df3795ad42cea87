"""What the models of this server are called: the host, the host with a brick, the embedder. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from assistant.host.catalogue import BUILTIN_EMBEDDER, BUILTIN_HOST
from assistant.registry import Bricks
from server.problems import ApiError


@dataclass(frozen=True)
class Names:
    """The names that the host answers to; the first is the one that is told."""

    host: tuple[str, ...]
    embedder: str = BUILTIN_EMBEDDER

    @classmethod
    def of(cls, host: str) -> "Names":
        """The host's own name; the smallest one is called `builtin` too."""
        return cls(("builtin", host) if host == BUILTIN_HOST else (host,))

    def bricks_in(self, model: str | None) -> tuple[str, ...] | None:
        """The bricks behind the host's name; None where none are named. Raises ApiError (404) for another model."""
        for name in self.host:
            if model in (None, "", name):
                return None
            if model is not None and model.startswith(f"{name}+"):
                return tuple(part for part in model.removeprefix(f"{name}+").split("+") if part)
        raise self._unknown(model)

    def check_embedder(self, model: str | None) -> None:
        """Raise ApiError (404) where another embedder is asked for."""
        if model not in (None, "", self.embedder):
            raise self._unknown(model, [self.embedder])

    def check_listener(self, model: str | None, listening: Iterable[str]) -> str | None:
        """The brick of these that a transcription asks for by name; None: whichever. Raises ApiError (404).

        `whisper-1` is what OpenAI calls its own, and what many clients cannot be told to leave out.
        """
        named = {f"{host}+{brick}": brick for host in self.host for brick in listening}
        named |= {brick: brick for brick in listening}
        if model in (None, "", "whisper-1", *self.host):
            return None
        if model not in named:
            raise self._unknown(model, ["whisper-1", *named])
        return named[model or ""]

    def listed(self, bricks: Bricks, created: int, allowed: frozenset[str] | None) -> list[dict[str, Any]]:
        """OpenAI's list of models."""
        host = self.host[0]
        usable = [brick.card for brick in bricks.usable if allowed is None or brick.name in allowed]
        told: list[tuple[str, dict[str, Any]]] = [(host, {"kind": "host"})]
        for card in usable:
            about = {"kind": card.kind, "brick": card.name, "version": card.version, "title": card.title}
            told.append((f"{host}+{card.name}", about | {"summary": card.summary, "limits": card.limits}))
        told.append((self.embedder, {"kind": "embedder"}))
        return [
            {"id": name, "object": "model", "created": created, "owned_by": "mattoni", "mattoni": about}
            for name, about in told
        ]

    def _unknown(self, model: str | None, known: Iterable[str] | None = None) -> ApiError:
        names = ", ".join(known or [*self.host, f"{self.host[0]}+BRICK"])
        return ApiError(
            404,
            f"There is no model '{(model or '')[:80]}' (there are: {names}).",
            code="model_not_found",
            param="model",
        )
