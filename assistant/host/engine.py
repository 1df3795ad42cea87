"""One thread owns the host; turns wait in a fair queue. Knows nothing of what a turn does.

A person's turn is a `Ticket` that any thread may read, wait for or stop. Conversations take turns: whoever has waited
longest goes next, and a conversation with three questions in the queue does not keep the others waiting for all three.
"""

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Literal

from mattoni.errors import MattoniError
from mattoni.trace import Trace

LOG = logging.getLogger(__name__)
Status = Literal["waiting", "running", "done", "stopped", "failed"]
_FINAL = ("done", "stopped", "failed")


class Ticket:
    """One turn as it is seen from outside: its place in the queue, the answer so far, and how it ended."""

    def __init__(self, conversation: str, place_of: "Callable[[Ticket], int]") -> None:
        self.conversation = conversation
        self.status: Status = "waiting"
        self.text = ""
        self.stage = "waiting"
        self.trace: Trace | None = None
        self.error: str | None = None
        self.message: int | None = None  # id of the stored answer
        self._place_of = place_of
        self._stop = threading.Event()
        self._changed = threading.Condition()

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

    def _beyond(self, shown: int, timeout_s: float | None) -> tuple[str, bool]:
        """The answer once it is longer than `shown`, or whatever it is when the turn or the time has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self.finished or len(self.text) > shown, timeout_s)
            return self.text, self.finished

    def say(self, piece: str) -> None:
        """Add to the answer (the engine's thread only)."""
        with self._changed:
            self.text += piece
            self._changed.notify_all()

    def enter(self, stage: str) -> None:
        """Say what is being done now (the engine's thread only)."""
        with self._changed:
            self.status, self.stage = "running", stage
            self._changed.notify_all()

    def end(self, status: Status, error: str | None = None) -> None:
        """Say how it ended (the engine's thread only)."""
        with self._changed:
            self.status, self.error, self.stage = status, error, status
            self._changed.notify_all()


Run = Callable[[Ticket], Status]


class Engine:
    """A thread that runs turns one after the other; the only one that touches the host."""

    def __init__(self) -> None:
        # Conversations in the order in which their next turn comes, each with its waiting turns.
        self._waiting: OrderedDict[str, deque[tuple[Ticket, Run]]] = OrderedDict()
        self._running: Ticket | None = None
        self._lock = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="mattoni-engine", daemon=True)
        self._thread.start()

    def submit(self, conversation: str, run: Run) -> Ticket:
        """Queue a turn. `run(ticket)` is called on the engine's thread and returns how it ended."""
        ticket = Ticket(conversation, self._place)
        with self._lock:
            if self._closing:
                raise MattoniError("The assistant is shutting down: start it again.")
            self._waiting.setdefault(conversation, deque()).append((ticket, run))
            self._lock.notify_all()
        return ticket

    def close(self, timeout_s: float = 30.0) -> None:
        """Stop what runs, leave the rest unanswered, and end the thread."""
        with self._lock:
            self._closing = True
            for turns in self._waiting.values():
                for ticket, _ in turns:
                    ticket.stop()
            if self._running is not None:
                self._running.stop()
            self._lock.notify_all()
        self._thread.join(timeout_s)

    def _place(self, ticket: Ticket) -> int:
        """How many turns go before this one, itself counted."""
        with self._lock:
            queues = list(self._waiting.items())
            for index, (_, turns) in enumerate(queues):
                for depth, (other, _) in enumerate(turns):
                    if other is ticket:
                        # Round by round: every conversation has given `depth` turns, those in front one more.
                        before = sum(min(len(q), depth + (i < index)) for i, (_, q) in enumerate(queues) if i != index)
                        return before + depth + 1
        return 0

    def _next(self) -> tuple[Ticket, Run] | None:
        with self._lock:
            self._running = None
            self._lock.wait_for(lambda: self._waiting or self._closing)
            if not self._waiting:
                return None
            conversation, turns = self._waiting.popitem(last=False)
            ticket, run = turns.popleft()
            if turns:
                self._waiting[conversation] = turns
            self._running = ticket
            return ticket, run

    def _work(self) -> None:
        while (job := self._next()) is not None:
            ticket, run = job
            try:
                ticket.end(run(ticket))
            except MattoniError as problem:
                ticket.end("failed", str(problem))
            except Exception:
                # One broken turn must not take the engine, and with it everybody else's, down.
                LOG.exception("a turn failed")
                ticket.end(
                    "failed",
                    "Something inside went wrong: ask again, or start with --debug to see it.",
                )


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
