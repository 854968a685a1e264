"""Runs an adapter in its own task."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from adapters.base import AnnouncedAdapter, ThreadHandler
from tests.chat_handler import TIMEOUT_SECONDS


@contextlib.asynccontextmanager
async def started(adapter: AnnouncedAdapter, handler: ThreadHandler) -> AsyncIterator[None]:
    """Yields when people can use it. Raises the error that keeps it from starting."""
    run = asyncio.create_task(adapter.run(handler))
    ready = asyncio.create_task(adapter.started.wait())
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await asyncio.wait({run, ready}, return_when=asyncio.FIRST_COMPLETED)
        if run.done():
            run.result()
        yield
    finally:
        ready.cancel()
        run.cancel()
        await asyncio.gather(run, ready, return_exceptions=True)
