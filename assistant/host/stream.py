"""An answer that an engine's thread writes and one other thread iterates. Knows no engine."""

import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

from assistant.host.answer_text import Answer
from assistant.host.job import Finish, Piece, Usage
from mattoni.errors import MattoniError
from mattoni.trace import Notice


class AnswerStream:
    """See `assistant.host.job.Stream`."""

    def __init__(self, engine: str) -> None:
        self.engine = engine
        self.began_s = time.perf_counter()
        self._pieces: queue.SimpleQueue[Piece | MattoniError | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        self.finished: Finish = "length"
        self.usage = Usage()
        self.text = ""
        self.ids: list[int] = []
        self.log_probabilities: list[float] = []
        self.notices: list[Notice] = []

    def __iter__(self) -> Iterator[Piece]:
        try:
            yield from self._each()
        finally:
            # Nobody reads on, be it at the end or in the middle.
            self.stop()

    def _each(self) -> Iterator[Piece]:
        while (piece := self._pieces.get()) is not None:
            if isinstance(piece, MattoniError):
                raise piece
            yield piece

    def stop(self) -> None:
        """End it within one token; from any thread."""
        self._stop.set()

    @property
    def is_stopping(self) -> bool:
        """Whether somebody asked it to stop."""
        return self._stop.is_set()

    @property
    def so_far_ms(self) -> float:
        """Milliseconds since it was begun."""
        return (time.perf_counter() - self.began_s) * 1000

    def put(self, piece: Piece) -> None:
        """Hand on what came (the engine's thread only)."""
        self._pieces.put(piece)

    def finish(self, answer: Answer, ended: Finish | None, usage: Usage, problem: MattoniError | None = None) -> None:
        """Say how it ended (the engine's thread only).

        ended  None: it was stopped
        usage  without what is known of the answer itself
        """
        rest = answer.rest()
        if rest and problem is None:
            self.put(Piece(rest, ()))
        if ended is not None:
            answer.over()
        self.finished = answer.ended or ended or "stopped"
        self.text, self.ids = answer.kept()
        self.usage = replace(usage, new=len(answer.said), total_ms=self.so_far_ms)
        self.end(problem)

    def end(self, problem: MattoniError | None = None) -> None:
        """Say that nothing more comes (the engine's thread only)."""
        if problem is not None:
            self._pieces.put(problem)
        self._pieces.put(None)
