"""INTERIM."""

from dataclasses import dataclass
from typing import Any, Protocol

from assistant.host.generation import Sampling
from assistant.host.prompt import Prompt
from mattoni.injections import Gate, LowRank, Prefix


@dataclass(frozen=True, eq=False)
class Job:
    prompt: Prompt
    injections: tuple[LowRank | Prefix | Gate, ...]
    sampling: Sampling
    seed: int
    conversation: str = ""


class Engine(Protocol):
    def generate(self, job: Job) -> Any: ...
    def forget(self, conversation: str) -> None: ...
    def clear(self) -> None: ...
    def close(self) -> None: ...
