"""Which engine decodes, as an option or a page's arguments say it. Light: imports no torch."""

import re
from dataclasses import dataclass
from importlib.util import find_spec

from mattoni.errors import MattoniError

NAMES = ("local", "vllm")


@dataclass(frozen=True)
class EngineChoice:
    """Which engine decodes.

    name      one of NAMES
    url       of a server that runs already
    fallback  whether the local engine decodes what that server cannot
    replicas  in how many processes the local engine runs, "2", or from how few to how many, "1-4"; "": in this one

    Raises MattoniError where these do not go together, or what they need is not installed.
    """

    name: str = "local"
    url: str = ""
    fallback: bool = True
    replicas: str = ""

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise MattoniError(f"--engine {self.name}: there is no such engine; choose one of {', '.join(NAMES)}.")
        if self.name == "vllm" and not self.url:
            raise MattoniError("--engine vllm needs --url: say where `vllm serve` runs, as http://127.0.0.1:8000.")
        if self.name == "local" and self.url:
            raise MattoniError(f"--url {self.url} is where another engine runs: say which, as --engine vllm.")
        if not self.replicas:
            return
        least, most = self.least_and_most
        if not 1 <= least <= most:
            raise MattoniError(
                f"--replicas {self.replicas}: say how many processes decode, as 2, or how few and how many, as 1-4."
            )
        if self.name != "local":
            raise MattoniError(
                f"--replicas are of the local engine, and --engine {self.name} decodes elsewhere: leave one out."
            )
        if find_spec("ray") is None:
            raise MattoniError('--replicas needs Ray Serve, which is not installed: pip install "mattoni[ray]".')

    @property
    def least_and_most(self) -> tuple[int, int]:
        """How few replicas there are, and how many; (0, 0) where that is not said."""
        found = re.fullmatch(r"\s*(\d{1,4})\s*(?:-\s*(\d{1,4})\s*)?", self.replicas, re.ASCII)
        return (int(found[1]), int(found[2] or found[1])) if found else (0, 0)


LOCAL = EngineChoice()
