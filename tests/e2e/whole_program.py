"""Runs the whole program with the bundled model in the test's event loop, and asks through its page's server."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from adapters.web.settings import WebSettings
from bot.app import run
from bot.config import Settings
from model_server.tiny.draw import Scene, draw

TIMEOUT_SECONDS = 120


def png(scene: Scene) -> bytes:
    file = io.BytesIO()
    draw(scene, 256).save(file, "PNG")
    return file.getvalue()


@asynccontextmanager
async def running_program(folder: Path, **settings: Any) -> AsyncIterator[str]:
    """The whole program in this event loop, so that its stalls can be measured. Yields the page's URL."""
    whole = Settings.model_validate({"data_dir": folder, "platforms": {"web": WebSettings(port=0)}, "temperature": 0.0, **settings})
    said: asyncio.Queue[str] = asyncio.Queue()
    stop = asyncio.Event()
    program = asyncio.create_task(run(whole, said.put_nowait, stop=stop))
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            line = await said.get()
        yield line.split()[-1]
    finally:
        stop.set()
        await program


async def ask(
    client: aiohttp.ClientSession,
    tab: aiohttp.ClientWebSocketResponse,
    thread: str,
    text: str,
    image: bytes | None = None,
    told: list[dict[str, Any]] | None = None,
) -> str:
    """Ask. Returns the answer as a tab that watches the thread gets it; the tab's messages are appended to `told`."""
    fields = aiohttp.FormData(default_to_multipart=True)
    fields.add_field("message_id", f"{thread[-2:]}-{len(text)}-{text.encode().hex()[:40]}")
    fields.add_field("text", text)
    if image is not None:
        fields.add_field("picture", image, filename="drawing.png", content_type="image/png")
    async with client.post(f"/api/chats/{thread}/messages", data=fields) as response:
        assert response.status == 202, await response.text()
        turn_id = (await response.json())["turn_id"]
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while True:
            message: dict[str, Any] = await tab.receive_json()
            if told is not None:
                told.append(message)
            turns = (message.get("chat") or {}).get("turns") or []
            if message["type"] == "chat" and turns and turns[-1]["turn_id"] == turn_id and turns[-1]["status"] != "pending":
                assert turns[-1]["status"] == "complete"
                answer: str = turns[-1]["answer"]
                return answer
