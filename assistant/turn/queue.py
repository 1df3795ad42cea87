"""Turns of several conversations side by side, and the rest in a fair queue. Knows nothing of what a turn does.

Conversations take turns: whoever has waited longest goes next, and a conversation with three questions in the queue does not
keep the others waiting for all three. Of one conversation one turn runs at a time.
"""

import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable

from assistant.turn.ticket import Status, Ticket
from mattoni.errors import MattoniError, shutting_down, went_wrong_inside

LOG = logging.getLogger(__name__)
# Turns that are prepared or decoded at once: as many rows as a batch takes without slowing one another.
WORKERS = 8

Run = Callable[[Ticket], Status]


class TurnQueue:
    """Workers that run turns, each from its preparation to its last token."""

    def __init__(self, workers: int = WORKERS) -> None:
        # Conversations in the order in which their next turn comes, each with its waiting turns.
        self._waiting: OrderedDict[str, deque[tuple[Ticket, Run]]] = OrderedDict()
        self._running: dict[str, Ticket] = {}
        self._changed = threading.Condition()
        self._closing = False
        self._most = workers
        self._threads: list[threading.Thread] = []

    def submit(self, conversation: str, run: Run) -> Ticket:
        """Queue a turn. `run(ticket)` is called on a worker's thread and returns how it ended."""
        ticket = Ticket(conversation, self._place)
        with self._changed:
            if self._closing:
                raise shutting_down()
            self._waiting.setdefault(conversation, deque()).append((ticket, run))
            # A thread as it is needed: a command that asks one thing needs one.
            if len(self._running) + len(self._waiting) > len(self._threads) < self._most:
                name = f"mattoni-turn-{len(self._threads) + 1}"
                self._threads.append(threading.Thread(target=self._work, name=name, daemon=True))
                self._threads[-1].start()
            self._changed.notify_all()
        return ticket

    @property
    def load(self) -> tuple[int, int]:
        """How many turns run, and how many wait."""
        with self._changed:
            return len(self._running), sum(map(len, self._waiting.values()))

    def close(self, timeout_s: float = 30.0) -> None:
        """Stop what runs, leave the rest unanswered, and end the threads."""
        with self._changed:
            self._closing = True
            tickets = [ticket for turns in self._waiting.values() for ticket, _ in turns] + [*self._running.values()]
            self._changed.notify_all()
        for ticket in tickets:
            ticket.stop()
        for thread in self._threads:
            thread.join(timeout_s)

    def _place(self, ticket: Ticket) -> int:
        """How many turns go before this one, itself counted."""
        with self._changed:
            queues = list(self._waiting.items())
            for index, (_, turns) in enumerate(queues):
                for depth, (other, _) in enumerate(turns):
                    if other is ticket:
                        # Round by round: every conversation has given `depth` turns, those in front one more.
                        before = sum(min(len(q), depth + (i < index)) for i, (_, q) in enumerate(queues) if i != index)
                        return before + depth + 1
        return 0

    def _next(self) -> tuple[str, Ticket, Run] | None:
        """The next turn of a conversation that is not being answered; None when all is over."""
        with self._changed:
            while True:
                conversation = next((name for name in self._waiting if name not in self._running), None)
                if conversation is not None:
                    turns = self._waiting.pop(conversation)
                    ticket, run = turns.popleft()
                    if turns:
                        self._waiting[conversation] = turns
                    self._running[conversation] = ticket
                    return conversation, ticket, run
                if self._closing and not self._waiting:
                    return None
                self._changed.wait()

    def _work(self) -> None:
        while (job := self._next()) is not None:
            conversation, ticket, run = job
            status, error, broken = self._outcome(ticket, run)
            with self._changed:
                del self._running[conversation]
                self._changed.notify_all()
            ticket.end(status, error, broken)

    @staticmethod
    def _outcome(ticket: Ticket, run: Run) -> tuple[Status, str | None, bool]:
        try:
            return run(ticket), None, False
        except MattoniError as problem:
            return "failed", str(problem), False
        except Exception:
            # One broken turn must not take the worker, and with it somebody else's turn, down.
            LOG.exception("a turn failed")
            return "failed", str(went_wrong_inside()), True
