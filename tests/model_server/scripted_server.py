"""A model server that does what the test says, and questions to it."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from aiohttp import web

from model_server.loop import InferenceLoop
from model_server.remote.connection import RemoteServer
from model_server.remote.engine import open_remote
from model_server.types import ChatRequest, Delta, Message, Role, SamplingParams, StreamEvent

TIMEOUT_SECONDS = 20
KEY = "sk-hunter2"
HELLO = (Message(Role.USER, "Hello"),)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def chunk(text: str | None = None, reason: str | None = None, **more: object) -> str:
    delta = {} if text is None else {"content": text}
    return "data: " + json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": reason}], **more}) + "\n\n"


USAGE = {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}
GOOD = (
    chunk("Good"),
    chunk(" day"),
    chunk(reason="stop"),
    f"data: {json.dumps({'choices': [], 'usage': USAGE})}\n\n",
    "data: [DONE]\n\n",
)


def event(delta: object, reason: object = None) -> str:
    """An event with this delta."""
    return data({"choices": [{"delta": delta, "finish_reason": reason}]})


def data(content: object) -> str:
    """An event of any content."""
    return f"data: {json.dumps(content)}\n\n"


def whole(content: object, reason: str | None = "stop", **more: object) -> dict[str, Any]:
    """A whole answer in one object."""
    message = {"role": "assistant", "content": content}
    choices = [{"index": 0, "message": message, "finish_reason": reason}]
    return {"object": "chat.completion", "choices": choices, "usage": USAGE, **more}


def streams(*events: str, then_breaks: bool = False, until: asyncio.Event | None = None) -> Handler:
    """Sends events; then ends, or breaks the connection, or waits."""

    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event in events:
            await response.write(event.encode())
        if until is not None:
            try:
                await asyncio.Event().wait()
            finally:
                until.set()
        if then_breaks:
            assert request.transport is not None
            request.transport.abort()
        return response

    return handle


def answers(status: int, error: object = None, **headers: str) -> Handler:
    return sends({"error": error}, status, **headers)


def sends(body: object, status: int = 200, **headers: str) -> Handler:
    """Sends one body: an object as JSON, a string as a page."""

    async def handle(request: web.Request) -> web.StreamResponse:
        if isinstance(body, str):
            return web.Response(text=body, content_type="text/html", status=status, headers=headers)
        return web.json_response(body, status=status, headers=headers)

    return handle


async def drops(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


class Server:
    """Answers with the given handlers in turn, then with the last one; keeps what it was asked."""

    def __init__(self) -> None:
        self.handlers: list[Handler] = [streams(*GOOD)]
        self.models: Handler | None = None  # in place of a good list
        self.entries: list[dict[str, object]] = [{"id": "first", "max_model_len": 2000}, {"id": "second"}]
        self.asked: list[dict[str, Any]] = []
        self.authorizations: list[str | None] = []
        self.port = 0
        self._runner: web.AppRunner | None = None
        self._loops: list[InferenceLoop] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def start(self, certificate: ssl.SSLContext | None = None) -> None:
        app = web.Application(client_max_size=2**26)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._complete)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=certificate).start()
        self.port = self._runner.addresses[0][1]

    async def connect(self, **options: Any) -> InferenceLoop:
        """A loop in front of this server, which asks again without a delay, and is closed when the server stops."""
        self._loops.append(await open_remote(RemoteServer(self.url, **options), retry_delays_seconds=(0, 0, 0, 0)))
        return self._loops[-1]

    async def stop(self) -> None:
        for loop in self._loops:
            await loop.close()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _models(self, request: web.Request) -> web.StreamResponse:
        if self.models is not None:
            return await self.models(request)
        return web.json_response({"object": "list", "data": self.entries})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        self.authorizations.append(request.headers.get("Authorization"))
        self.asked.append(await request.json())
        handler = self.handlers.pop(0) if len(self.handlers) > 1 else self.handlers[0]
        return await handler(request)


async def ask(loop: InferenceLoop, messages: Sequence[Message] = HELLO, **sampling: Any) -> list[StreamEvent]:
    async with asyncio.timeout(TIMEOUT_SECONDS):
        stream = loop.submit(ChatRequest("r", tuple(messages), SamplingParams(**sampling)))
        return [event async for event in stream]


def text_of(events: list[StreamEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))
