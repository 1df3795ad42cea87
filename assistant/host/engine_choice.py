"""Which engine decodes, as an option or a page's arguments say it. Light: imports no torch."""

from dataclasses import dataclass

from mattoni.errors import MattoniError

NAMES = ("local", "vllm")


@dataclass(frozen=True)
class EngineChoice:
    """Which engine decodes.

    name      one of NAMES
    url       of a server that runs already
    fallback  whether the local engine decodes what that server cannot

    Raises MattoniError where these do not go together.
    """

    name: str = "local"
    url: str = ""
    fallback: bool = True

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise MattoniError(f"--engine {self.name}: there is no such engine; choose one of {', '.join(NAMES)}.")
        if self.name == "vllm" and not self.url:
            raise MattoniError("--engine vllm needs --url: say where `vllm serve` runs, as http://127.0.0.1:8000.")
        if self.name == "local" and self.url:
            raise MattoniError(f"--url {self.url} is where another engine runs: say which, as --engine vllm.")


LOCAL = EngineChoice()
