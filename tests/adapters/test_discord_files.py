"""Downloads from Discord's hosts: from a real server on this machine that misbehaves as told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web

from adapters.base import AttachmentError
from adapters.discord.files import Downloads, Expired

MAX_BYTES = 100_000
IMAGE = b"\x89PNG" + bytes(5_000)

Fetch = Callable[[str], Awaitable[bytes]]


async def _whole(request: web.Request) -> web.Response:
    return web.Response(body=IMAGE)


async def _large(request: web.Request) -> web.Response:
    return web.Response(body=bytes(MAX_BYTES + 1))


async def _larger(request: web.Request) -> web.Response:
    return web.Response(body=bytes(2_000_000))


async def _endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    try:
        while True:
            await response.write(bytes(65_536))
    except (ConnectionError, asyncio.CancelledError):
        return response


async def _stalled(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "5000"})
    await response.prepare(request)
    await response.write(bytes(100))
    await request.app[RELEASED].wait()
    return response


async def _cut(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "5000"})
    await response.prepare(request)
    await response.write(bytes(100))
    assert request.transport is not None
    request.transport.close()
    return response


async def _moved(request: web.Request) -> web.Response:
    raise web.HTTPFound("http://169.254.169.254/secret")


async def _unmoved(request: web.Request) -> web.Response:
    return web.Response(status=304)


async def _nearby(request: web.Request) -> web.Response:
    raise web.HTTPFound("/whole")


async def _gone(request: web.Request) -> web.Response:
    return web.Response(status=404)


async def _broken(request: web.Request) -> web.Response:
    return web.Response(status=500)


RELEASED = web.AppKey("released", asyncio.Event)
ROUTES = {
    "/whole": _whole,
    "/large": _large,
    "/larger": _larger,
    "/endless": _endless,
    "/stalled": _stalled,
    "/cut": _cut,
    "/moved": _moved,
    "/unmoved": _unmoved,
    "/nearby": _nearby,
    "/gone": _gone,
    "/broken": _broken,
}


@pytest.fixture
async def fetch() -> AsyncIterator[Fetch]:
    app = web.Application()
    app[RELEASED] = asyncio.Event()
    for path, handler in ROUTES.items():
        app.router.add_get(path, handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    async with aiohttp.ClientSession() as session:
        downloads = Downloads(session, f"http://127.0.0.1:{port}/api/v10", stall_seconds=0.2)

        async def fetch(path: str) -> bytes:
            return await downloads.fetch(path if "://" in path else f"http://127.0.0.1:{port}{path}", MAX_BYTES)

        yield fetch
        app[RELEASED].set()
    await runner.cleanup()


@pytest.mark.parametrize("path", ["/whole", "/nearby"])
async def test_a_whole_picture_arrives(fetch: Fetch, path: str) -> None:
    assert await fetch(path) == IMAGE


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/large", "it has more than 100 kB, and I take at most 100 kB"),
        ("/larger", "it has 2 MB, and I take at most 100 kB"),
        ("/endless", "it has more than 100 kB, and I take at most 100 kB"),
        ("/stalled", "the download took too long"),
        ("/cut", "the download broke off"),
        ("/moved", "it lies outside of Discord"),
        ("/unmoved", "Discord answered with the error 304"),
        ("/broken", "Discord answered with the error 500"),
        ("http://127.0.0.1:1/elsewhere", "it lies outside of Discord"),
        ("https://cdn.discordapp.com.example.org/x.png", "it lies outside of Discord"),
        ("http://cdn.discordapp.com/x.png", "it lies outside of Discord"),
        ("file:///etc/passwd", "it lies outside of Discord"),
    ],
)
async def test_what_goes_wrong_is_a_reason(fetch: Fetch, path: str, reason: str) -> None:
    with pytest.raises(AttachmentError, match=reason):
        await fetch(path)


async def test_an_expired_address_is_told_from_a_broken_one(fetch: Fetch) -> None:
    with pytest.raises(Expired):
        await fetch("/gone")


async def test_only_discords_hosts_are_asked() -> None:
    async with aiohttp.ClientSession() as session:
        downloads = Downloads(session, None)
        assert downloads.is_discords("https://cdn.discordapp.com/attachments/1/2/a.png?ex=1")
        assert downloads.is_discords("https://media.discordapp.net/stickers/1.gif")
        assert downloads.is_discords("https://images-ext-1.discordapp.net/external/x/https/example.org/a.png")
        assert not downloads.is_discords("https://evil.example/images-ext-1.discordapp.net/a.png")
        assert not downloads.is_discords("https://images-ext-1.discordapp.net.evil.example/a.png")
        assert not downloads.is_discords("not an address")
