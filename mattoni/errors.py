"""The one exception that a person gets to read, and how a command ends with it."""

import sys
from collections.abc import Callable
from typing import NoReturn


class MattoniError(Exception):
    """One sentence: what is wrong, where, and what to do. Shown as it is, on the page and in the terminal."""

    exit_code = 1  # of a command that ends with it


class Interrupted(MattoniError):
    """Somebody stopped the work with a signal; what was done is kept, and the sentence says how to go on."""

    def __init__(self, sentence: str, signal: int) -> None:
        super().__init__(sentence)
        self.exit_code = 128 + signal  # as a shell says it


def went_wrong_inside() -> MattoniError:
    """What a person is told about a fault of ours; the log has the rest."""
    return MattoniError("Something inside went wrong: ask again, or start with --debug to see it.")


def shutting_down() -> MattoniError:
    """What a person is told who asks while the assistant ends."""
    return MattoniError("The assistant is shutting down: start it again.")


def run_command(main: Callable[[], int | None]) -> NoReturn:
    """Run the `main` of a command and leave the process: what it returns, or one sentence and that sentence's status."""
    try:
        sys.exit(main())
    except MattoniError as problem:
        print(problem, file=sys.stderr)
        sys.exit(problem.exit_code)
