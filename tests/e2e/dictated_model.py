"""An OpenAI-compatible server whose answers the test writes word by word, so that it can act in the middle of one."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import web

TIMEOUT_SECONDS = 60.0


class Asked:
    """One answer that is being written. `hung_up` is set when the program closes the connection."""

    def __init__(self, question: str, num_images: int) -> None:
        self.question = question
        self.num_images = num_images
        self.hung_up = asyncio.Event()
        self._pieces: asyncio.Queue[str | None] = asyncio.Queue()

    def say(self, text: str) -> None:
        self._pieces.put_nowait(text)

    def end(self, text: str = "") -> None:
        self._pieces.put_nowait(text)
        self._pieces.put_nowait(None)

    async def next_piece(self) -> str | None:
        return await self._pieces.get()


class DictatedModel:
    """`url` is for THREADSIGHT_ENGINE_URL."""

    def __init__(self) -> None:
        self.url = ""
        self._asked: asyncio.Queue[Asked] = asyncio.Queue()
        self._runner: web.AppRunner | None = None

    async def next(self) -> Asked:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            return await self._asked.get()

    async def __aenter__(self) -> DictatedModel:
        app = web.Application(client_max_size=2**26)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._complete)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _models(self, _request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "dictated", "max_model_len": 8192}]})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        messages = (await request.json())["messages"]
        asked = Asked(*_read(messages[-1]["content"]))
        self._asked.put_nowait(asked)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        try:
            await response.prepare(request)
            while (piece := await asked.next_piece()) is not None:
                await response.write(_event({"content": piece}, None))
            await response.write(_event({}, "stop") + b"data: [DONE]\n\n")
        except (asyncio.CancelledError, ConnectionError):
            asked.hung_up.set()
            raise
        return response


def _read(content: str | list[dict[str, Any]]) -> tuple[str, int]:
    if isinstance(content, str):
        return content, 0
    texts = [part["text"] for part in content if part["type"] == "text"]
    return " ".join(texts), len(content) - len(texts)


def _event(delta: dict[str, str], reason: str | None) -> bytes:
    chunk = {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
    return f"data: {json.dumps(chunk)}\n\n".encode()
