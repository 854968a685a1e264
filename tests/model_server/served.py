"""Our HTTP server over an engine, and OpenAI's own client of it, for tests."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import openai

from model_server.loop import InferenceLoop
from model_server.serve.server import CompletionServer
from tests.images import red_circle
from tests.model_server.worded_engine import WordedEngine

KEY = "a key of sixteen characters or more"
TIMEOUT_SECONDS = 60

RED_CIRCLE = red_circle()
DATA_URL = f"data:image/png;base64,{base64.b64encode(RED_CIRCLE).decode()}"


def about(url: str, text: str) -> dict[str, Any]:
    """A question about a picture."""
    return {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]}


class Served:
    """One server over one engine, and a client of it."""

    def __init__(self, model: InferenceLoop, server: CompletionServer, client: openai.AsyncOpenAI) -> None:
        self.model, self.server, self.client = model, server, client

    async def ask(self, *messages: Any, **options: Any) -> Any:
        """The answer, or the stream of its chunks."""
        options = {"model": self.model.capabilities.model_name, **options}
        async with asyncio.timeout(TIMEOUT_SECONDS):
            return await self.client.chat.completions.create(messages=list(messages), **options)

    async def respond(self, chat: Any, **options: Any) -> Any:
        """The same in OpenAI's newer words."""
        options = {"model": self.model.capabilities.model_name, **options}
        async with asyncio.timeout(TIMEOUT_SECONDS):
            return await self.client.responses.create(input=chat, **options)

    async def post(self, **headers: str) -> tuple[int, Any]:
        """Ask without a client, with these headers. Gives the status and the body."""
        body = b'{"model": "worded", "messages": [{"role": "user", "content": "Hi"}]}'
        status, _, answer = await self.send("POST", "/v1/chat/completions", body, {"Content-Type": "application/json", **headers})
        return status, answer

    async def send(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], Any]:
        """Status, headers and body of any request. The body is None where it is not JSON."""
        async with aiohttp.ClientSession() as http, asyncio.timeout(TIMEOUT_SECONDS):
            url = self.server.url.removesuffix("/v1") + path
            async with http.request(method, url, data=body, headers=headers) as response:
                is_json = response.content_type == "application/json" and method != "HEAD"
                return response.status, dict(response.headers), await response.json() if is_json else None


@asynccontextmanager
async def serving() -> AsyncIterator[Callable[..., Any]]:
    """Gives a function that puts a server before an engine; `model` is one that is open already."""
    async with AsyncExitStack() as stack:

        async def start(
            engine: WordedEngine | None = None, *, model: InferenceLoop | None = None, max_queue: int = 4, **options: Any
        ) -> Served:
            if model is None:
                model = InferenceLoop(engine or WordedEngine(), max_queue=max_queue, max_running=1)
                await model.start()
            server = CompletionServer(model, "127.0.0.1", 0, options.pop("api_key", KEY), **options)
            await server.start()
            client = openai.AsyncOpenAI(base_url=server.url, api_key=KEY, max_retries=0)
            stack.push_async_callback(server.close)
            stack.push_async_callback(model.close)  # in the order of the program: the model first
            stack.push_async_callback(client.close)
            return Served(model, server, client)

        yield start


async def collected(stream: Any) -> list[Any]:
    """All events of a stream."""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        return [event async for event in stream]


def text_of(chunks: list[Any]) -> str:
    """The text of a streamed chat completion."""
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
