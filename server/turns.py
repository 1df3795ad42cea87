"""A ticket as a coroutine sees it: its pieces as they come, its end, and that nobody waits for it any more."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from time import perf_counter

from assistant.turn.ticket import Ticket
from server.problems import ApiError


class Turn:
    """One answer of a request. Made on the event loop, which must go on: nothing here blocks.

    first  told the seconds to the first words
    ended  told the ticket and the seconds to its end, once, on the worker's thread, whether or not anybody still listens
    """

    def __init__(
        self, ticket: Ticket, begun: float, first: Callable[[float], object], ended: Callable[[Ticket, float], object]
    ) -> None:
        self.ticket = ticket
        self._changed = asyncio.Event()
        loop = asyncio.get_running_loop()
        is_told = {"first": False, "end": False}

        def told() -> None:
            if ticket.text and not is_told["first"]:
                is_told["first"] = True
                first(perf_counter() - begun)
            if ticket.finished and not is_told["end"]:
                is_told["end"] = True
                ended(ticket, perf_counter() - begun)
            # A loop that is closed has nobody who listens, and the turn must end all the same.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._changed.set)

        ticket.tells(told)

    async def begin(self) -> None:
        """Wait for the first words, or the end."""
        while not self.ticket.text and not self.ticket.finished:
            await self._wait()

    async def end(self) -> None:
        """Wait for the end. Raises ApiError where the turn failed."""
        while not self.ticket.finished:
            await self._wait()
        self.check()

    async def pieces(self) -> AsyncIterator[str]:
        """The answer's text as it comes. Raises ApiError where the turn fails."""
        shown = 0
        while True:
            finished = self.ticket.finished  # before the text, so that nothing is said in between
            text = self.ticket.text
            if len(text) > shown:
                yield text[shown:]
                shown = len(text)
            elif finished:
                self.check()
                return
            else:
                await self._wait()

    def check(self) -> None:
        """Raise ApiError where the turn failed: 500 where something inside did, 400 where what was asked is not possible."""
        if self.ticket.status == "failed":
            raise ApiError(500 if self.ticket.broken else 400, self.ticket.error or "The turn failed: ask again.")

    def stop(self) -> None:
        """Nobody waits for it any more."""
        if not self.ticket.finished:
            self.ticket.stop()

    async def _wait(self) -> None:
        await self._changed.wait()
        self._changed.clear()
