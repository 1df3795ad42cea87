"""Work that nobody waits for any more once the client has left. Knows no endpoint."""

import asyncio
from collections.abc import Awaitable
from typing import Any

from fastapi import Request

GONE = 499  # as nginx says it: the client left; nobody reads it


async def unless_gone(request: Request, work: Awaitable[Any]) -> bool:
    """Wait for the work, unless the client leaves first: then False. What the work raises is raised."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            return False
        await working
        return True
    finally:
        working.cancel()
        leaving.cancel()
