"""The bundled model leaves the memory when nobody asks, and comes back with the chat in mind."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from pathlib import Path

import aiohttp
import pytest
from transformers import LlavaForConditionalGeneration

from tests.e2e.whole_program import TIMEOUT_SECONDS, ask, running_program
from tests.images import red_circle

THREAD = "f" * 32


class Unloaded(logging.Handler):
    """Set when the log says that the model has left."""

    def __init__(self) -> None:
        super().__init__()
        self.event = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if "was unloaded" in record.getMessage():
            self.event.set()


def models() -> weakref.WeakSet[LlavaForConditionalGeneration]:
    return weakref.WeakSet(thing for thing in gc.get_objects() if type(thing) is LlavaForConditionalGeneration)


async def test_it_leaves_and_comes_back_for_the_next_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = models()
    unloaded = Unloaded()
    log = logging.getLogger("model_server.loop")
    log.addHandler(unloaded)
    monkeypatch.setattr(log, "level", logging.INFO)
    try:
        async with (
            running_program(tmp_path, idle_unload_seconds=0.5) as url,
            aiohttp.ClientSession(url) as client,
            client.ws_connect("/api/tab") as tab,
        ):
            await tab.send_json({"watch": THREAD})
            assert await ask(client, tab, THREAD, "What colour is the circle?", red_circle()) == "The circle is red."
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await unloaded.event.wait()
            assert len(models() - others) == 0
            told: list[dict[str, object]] = []
            assert await ask(client, tab, THREAD, "and where is it", told=told) == "The circle is in the middle."
            assert any(message["type"] == "waiting" and message["is_loading"] for message in told)
            assert len(models() - others) == 1
    finally:
        log.removeHandler(unloaded)
