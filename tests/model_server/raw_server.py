"""A model server of bare sockets, for answers that no HTTP library would send."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable

from model_server.loop import InferenceLoop
from model_server.remote.connection import RemoteServer
from model_server.remote.engine import open_remote

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
MODELS = json.dumps({"data": [{"id": "llava", "max_model_len": 2000}]}).encode()


def response(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """A response of known length."""
    return head(*headers, f"Content-Length: {len(body)}", status=status) + body


def head(*headers: str, status: str = "200 OK", version: str = "1.1") -> bytes:
    """The beginning of a response."""
    return "\r\n".join([f"HTTP/{version} {status}", "Content-Type: text/event-stream", *headers, "", ""]).encode()


def chunked(parts: list[bytes], *headers: str, end: bytes = b"0\r\n\r\n") -> bytes:
    """A response in parts, with its end."""
    return head(*headers, "Transfer-Encoding: chunked") + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + end


def says(*answers: bytes, then_closes: bool = False) -> Script:
    """Answers the questions of a connection with these bytes in turn; then closes it, as after the first with `then_closes`."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await read_request(reader)
            writer.write(answer)
            await writer.drain()
            if then_closes:
                return
        await reader.read()

    return talk


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """The head of a request whose body has been read too."""
    told = await reader.readuntil(b"\r\n\r\n")
    if length := re.search(rb"(?i)content-length: (\d+)", told):
        await reader.readexactly(int(length[1]))
    return told


class RawServer:
    """Lists its models on connections of their own, and talks on the other ones as the script says."""

    def __init__(self, script: Script, models: Script) -> None:
        self._script, self._models = script, models
        self._tasks: set[asyncio.Task[None]] = set()
        self.num_asked_connections = 0
        self.url = ""

    def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        task = asyncio.create_task(self._talk(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                is_question = await reader.readexactly(4) == b"POST"
                self.num_asked_connections += is_question
                await (self._script if is_question else self._models)(reader, writer)
        finally:
            writer.close()

    async def stop(self) -> None:
        """End all connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


LISTS = says(response(MODELS, "Connection: close"), then_closes=True)


@contextlib.asynccontextmanager
async def raw(script: Script, models: Script = LISTS) -> AsyncIterator[RawServer]:
    """A server that is there. `models` answers the question for its list, on each connection for that."""
    told = RawServer(script, models)
    async with await asyncio.start_server(told.take, "127.0.0.1", 0, limit=2**26) as server:
        told.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        try:
            yield told
        finally:
            await told.stop()


@contextlib.asynccontextmanager
async def asking(url: str) -> AsyncIterator[InferenceLoop]:
    """A loop in front of that server, which asks again without a delay."""
    loop = await open_remote(RemoteServer(url), retry_delays_seconds=(0, 0, 0, 0))
    try:
        yield loop
    finally:
        await loop.close()
