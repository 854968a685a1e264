"""Clients of `threadsight serve` that stop in the middle, over real sockets, and heads that no client sends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from model_server.serve import connections, receiving
from tests.model_server.served import KEY, serving
from tests.model_server.worded_engine import WordedEngine

TIMEOUT_SECONDS = 10.0
HALF = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\n"


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Any]]:
    async with serving() as start:
        yield start


def port_of(served: Any) -> int:
    return int(served.server.url.removesuffix("/v1").rpartition(":")[2])


async def begin(port: int, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    return reader, writer


async def status_of(reader: asyncio.StreamReader) -> int:
    async with asyncio.timeout(TIMEOUT_SECONDS):
        line = await reader.readline()
    return int(line.split()[1]) if line else 0


async def test_a_head_that_stops_is_dropped(serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.1)
    monkeypatch.setattr(connections, "LOOK_SECONDS", 0.02)
    served = await serve(WordedEngine())
    reader, writer = await begin(port_of(served), HALF % KEY.encode())
    assert await status_of(reader) == 0
    writer.close()


@pytest.mark.parametrize("name", ["IDLE_SECONDS", "TOTAL_SECONDS"])
async def test_a_body_that_stops_is_told_so(serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(receiving, name, 0.1)
    served = await serve(WordedEngine())
    reader, writer = await begin(port_of(served), HALF % KEY.encode() + b"Content-Length: 500\r\n\r\n{")
    assert await status_of(reader) == 408
    writer.close()


async def test_half_open_connections_give_way(serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "max_connections", lambda: 8)
    served = await serve(WordedEngine())
    silent = [await begin(port_of(served), HALF % b"nobody's") for _ in range(300)]
    assert await status_of(silent[0][0]) == 0
    status, answer = await served.post(Authorization=f"Bearer {KEY}")
    assert status == 200, answer
    for _, writer in silent:
        writer.transport.abort()


@pytest.mark.parametrize("host", [b"[", b"[::1", b"\xff]", b"a:b:c["])
@pytest.mark.parametrize("path", [b"/v1/models", b"/health", b"/nothing"])
async def test_an_odd_host_is_the_clients_mistake(
    serve: Callable[..., Any], caplog: pytest.LogCaptureFixture, host: bytes, path: bytes
) -> None:
    served = await serve(WordedEngine())
    reader, writer = await begin(port_of(served), b"GET %s HTTP/1.1\r\nHost: %s\r\n\r\n" % (path, host))
    assert 400 <= await status_of(reader) < 500
    writer.close()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
