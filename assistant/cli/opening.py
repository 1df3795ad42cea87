"""Opens the assistant, or only its bricks, for a command."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from assistant.cli.terminal import printable
from assistant.host.engine_choice import LOCAL, EngineChoice

if TYPE_CHECKING:
    from assistant.assistant import Assistant
    from assistant.host.matrices import Weights
    from assistant.turn.route import Choices


@contextmanager
def opened(
    host: str = "builtin",
    device: str = "auto",
    dtype: str = "auto",
    quantise: Literal["4bit"] | None = None,
    give_way: bool = False,
    weights: "Weights" = "auto",
    engine: EngineChoice = LOCAL,
) -> "Iterator[Assistant]":
    """The assistant, ready to be asked; closed in the end. `give_way`: as in `Assistant.open`."""
    from rich.console import Console

    with Console(stderr=True).status("Loading the host …"):
        from transformers.utils import logging

        from assistant.assistant import Assistant

        logging.disable_progress_bar()
        assistant = Assistant.open(host, device, dtype, quantise, give_way=give_way, weights=weights, engine=engine)
    if assistant.host.reason:
        print(printable(assistant.host.reason), file=sys.stderr)
    if engine != LOCAL:
        print(printable(f"Engine: {assistant.engine.name} at {assistant.engine.device}"), file=sys.stderr)
    if weights != "auto":
        print(printable(f"Weights: {assistant.engine.weights}"), file=sys.stderr)
    try:
        yield assistant
    finally:
        assistant.close()


def check_names(choices: "Choices") -> None:
    """Raise MattoniError when a brick of that name is not there: before a host is loaded."""
    bricks = scanned()
    for name in choices.names:
        bricks.get(name)


def scanned(host: Any = None) -> Any:
    """The bricks as they are now, fitted to a host or, without one, whatever their host."""
    from assistant.registry import Registry
    from mattoni.paths import brick_folders

    return Registry(brick_folders()).scan(host)


def remove(name: str) -> None:
    with opened() as assistant:
        assistant.remove_brick(name)
    print(f"{name} is gone.")
