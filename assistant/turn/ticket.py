"""One turn as it is seen from outside: its place in the queue, the answer so far, and how it ended."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Literal

from assistant.host.job import Score
from mattoni.trace import Trace

Status = Literal["waiting", "running", "done", "stopped", "failed"]
_FINAL = ("done", "stopped", "failed")


class Ticket:
    """What whoever asked holds. Any thread may read it, wait for it or stop it; one worker writes it."""

    def __init__(self, conversation: str, place_of: "Callable[[Ticket], int]" = lambda ticket: 0) -> None:
        self.conversation = conversation
        self.status: Status = "waiting"
        self.text = ""
        self.stage = "waiting"
        self.scores: list[Score] = []  # of the answer's tokens, where the sampling asks for them
        self.trace: Trace | None = None
        self.error: str | None = None
        self.broken = False  # failed by something inside, not by what was asked
        self._place_of = place_of
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._on_stop: Callable[[], None] | None = None
        self._on_change: Callable[[], None] | None = None

    @property
    def place(self) -> int:
        """0: running or finished; 1: next; and so on."""
        return self._place_of(self) if self.status == "waiting" else 0

    @property
    def finished(self) -> bool:
        """Whether nothing more will change."""
        return self.status in _FINAL

    @property
    def is_stopping(self) -> bool:
        """Whether somebody has asked it to stop."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Ask the turn to end; it does so within one token and keeps what was said."""
        self._stop.set()
        if self._on_stop is not None:
            self._on_stop()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the turn has ended; False when the time ran out first."""
        with self._changed:
            return self._changed.wait_for(lambda: self.finished, timeout_s)

    def changes(self, timeout_s: float | None = None) -> Iterator[str]:
        """The answer's text piece by piece as it comes; ends with the turn, or after `timeout_s` without a change."""
        shown = 0
        while True:
            text, finished = self._beyond(shown, timeout_s)
            if len(text) > shown:
                yield text[shown:]
                shown = len(text)
            elif finished or timeout_s is not None:
                return

    def tells(self, told: Callable[[], None]) -> None:
        """Have `told` called after each change, on the worker's thread: for those who must not block. Called once at once."""
        with self._changed:
            self._on_change = told
        told()

    def _beyond(self, shown: int, timeout_s: float | None) -> tuple[str, bool]:
        """The answer once it is longer than `shown`, or whatever it is when the turn or the time has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self.finished or len(self.text) > shown, timeout_s)
            return self.text, self.finished

    # The worker's side

    def stops(self, stop: Callable[[], None]) -> None:
        """Have `stop` called when somebody stops the turn; at once, if they have."""
        self._on_stop = stop
        if self.is_stopping:
            stop()

    def say(self, piece: str) -> None:
        """Add to the answer."""
        with self._changed:
            self.text += piece
            self._tell()

    def keep(self, text: str) -> None:
        """Replace the answer by what is kept of it: a beginning, where the rest only said the same again."""
        with self._changed:
            self.text = text
            self._changed.notify_all()

    def enter(self, stage: str) -> None:
        """Say what is being done now."""
        with self._changed:
            self.status, self.stage = "running", stage
            self._tell()

    def end(self, status: Status, error: str | None = None, broken: bool = False) -> None:
        """Say how it ended."""
        with self._changed:
            self.status, self.error, self.broken, self.stage = status, error, broken, status
            self._tell()

    def _tell(self) -> None:
        self._changed.notify_all()
        if self._on_change is not None:
            self._on_change()


class Pace:
    """True at most once every `seconds`: for work that need not be done for each token."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._last = seconds, time.monotonic()

    def due(self) -> bool:
        """Whether it is time again."""
        now = time.monotonic()
        if now - self._last < self._seconds:
            return False
        self._last = now
        return True
