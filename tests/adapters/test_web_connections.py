"""Connections of people whom nobody knows, over real sockets: how many there may be, how long, and who gives way to whom."""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from adapters.web import connections
from tests.adapters.web_client import THREAD, ask, form, open_tab, serving
from tests.chat_handler import TIMEOUT_SECONDS, MemoryChatHandler

ROOT = Path(__file__).resolve().parents[2]
MAX = 8
HALF = b"GET / HTTP/1.1\r\nHost: local"
TOKEN = "correct horse battery staple"


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "max_connections", lambda: MAX)
    monkeypatch.setattr(connections, "LOOK_SECONDS", 0.02)


def port_of(client: aiohttp.ClientSession) -> int:
    assert client._base_url is not None
    assert client._base_url.port is not None
    return client._base_url.port


class Peer:
    """Somebody who has sent something and waits."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def is_dropped(self) -> bool:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            try:
                return await self.reader.read() == b""
            except ConnectionError:
                return True


@asynccontextmanager
async def peers(port: int, num: int, data: bytes) -> AsyncIterator[Sequence[Peer]]:
    found = []
    for _ in range(num):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(data)
        found.append(Peer(reader, writer))
    try:
        yield found
    finally:
        for peer in found:
            peer.writer.transport.abort()


async def test_half_a_request_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch, handler: MemoryChatHandler) -> None:
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.1)
    async with serving(handler) as client, open_tab(client) as tab, peers(port_of(client), 3, HALF) as silent:
        async with peers(port_of(client), 1, b"") as mute:
            assert all([await peer.is_dropped() for peer in [*silent, *mute]])
        await ask(client, form())
        assert (await tab.next("listed"))["thread"] == THREAD  # it has been open for longer than that


async def test_half_open_connections_give_way_and_those_in_use_stay(handler: MemoryChatHandler) -> None:
    async with (
        serving(handler, token=TOKEN) as client,
        client.post("/api/session", json={"token": TOKEN}),
        open_tab(client) as tab,
        peers(port_of(client), 300, HALF) as silent,
    ):
        assert await silent[0].is_dropped()
        assert (await ask(client, form()))[0] == 202
        assert (await tab.next("listed"))["thread"] == THREAD
        stalled = b"POST /api/session HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"
        async with peers(port_of(client), 20, stalled), client.get("/api/session") as response:
            assert (await response.json())["is_signed_in"] is True  # strangers' bodies hold no place either


async def test_when_all_are_in_use_the_next_one_is_told_so(handler: MemoryChatHandler, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(handler) as client:
        tabs = [await client.ws_connect("/api/tab") for _ in range(MAX)]
        async with asyncio.timeout(TIMEOUT_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port_of(client))
            assert (await reader.readline()).split()[1] == b"503"
        writer.close()
        assert "connections are in use" in caplog.text
        await tabs.pop().close()
        async with client.get("/api/session") as response:
            assert response.status == 200
        for tab in tabs:
            await tab.close()


async def test_who_takes_nothing_of_a_response_is_dropped(monkeypatch: pytest.MonkeyPatch, handler: MemoryChatHandler) -> None:
    monkeypatch.setattr(connections, "STALL_SECONDS", 0.2)
    ask_much = b"GET /static/app.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2000
    async with serving(handler) as client, peers(port_of(client), 1, b"") as (greedy,):
        greedy.writer.transport.pause_reading()  # type: ignore[attr-defined]
        greedy.writer.write(ask_much)
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while not greedy.writer.transport.is_closing():
                await asyncio.sleep(0.01)  # the transport learns of it when it writes
                greedy.writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")


async def test_what_is_no_http_is_one_line(handler: MemoryChatHandler, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with serving(handler) as client, peers(port_of(client), 1, b"GET / HTTP/1.1\r\nHost localhost\r\n\r\n") as (peer,):
        async with asyncio.timeout(TIMEOUT_SECONDS):
            assert (await peer.reader.readline()).split()[1] == b"400"
    lines = [record for record in caplog.records if "could not be read" in record.getMessage()]
    assert [(line.levelname, line.exc_info) for line in lines] == [("DEBUG", None)]


def test_the_limit_leaves_most_descriptors_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for soft, num in ((64, 16), (1024, 256), (8, 4), (1_000_000, 512), (resource.RLIM_INFINITY, 512)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, soft=soft: (soft, soft))
        assert connections.max_connections() == num


def test_the_page_and_the_model_server_keep_their_connections_alike() -> None:
    ours, other = (ROOT / folder / "connections.py" for folder in ("adapters/web", "model_server/serve"))
    assert ours.read_text() == other.read_text()
