"""The one exception that a person gets to read."""


class MattoniError(Exception):
    """One sentence: what is wrong, where, and what to do. Shown as it is, on the page and in the terminal."""

    exit_code = 1  # of a command that ends with it


class Interrupted(MattoniError):
    """Somebody stopped the work with a signal; what was done is kept, and the sentence says how to go on."""

    def __init__(self, sentence: str, signal: int) -> None:
        super().__init__(sentence)
        self.exit_code = 128 + signal  # as a shell says it
