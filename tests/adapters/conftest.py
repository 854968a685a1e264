"""Fixtures: a chat handler in memory, and the web adapter over it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.adapters.web_client import serving
from tests.chat_handler import MemoryChatHandler


@pytest.fixture
def handler() -> MemoryChatHandler:
    return MemoryChatHandler()


@pytest.fixture
async def client(handler: MemoryChatHandler) -> AsyncIterator[aiohttp.ClientSession]:
    async with serving(handler) as client:
        yield client
