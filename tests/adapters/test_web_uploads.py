"""Uploads over real sockets: who stalls in the middle holds up nobody else, and not for ever."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import IO

import aiohttp
import pytest

from adapters.web import api, uploads
from adapters.web.shares import Shares
from tests.adapters.web_client import KEY, THREAD, ask, form, serving
from tests.chat_handler import TIMEOUT_SECONDS, MemoryChatHandler, draw_image

BOUNDARY = b"x" * 20
LARGE = bytes(uploads.MEMORY_BYTES + 3 * uploads.CHUNK_BYTES)


def part(name: str, value: bytes, rest: str = "") -> bytes:
    return b'--%s\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n' % (BOUNDARY, name.encode(), rest.encode(), value)


class Upload:
    """A question whose sender decides when it goes on."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def begin(cls, client: aiohttp.ClientSession, number: int, picture: bytes = b"", cookie: str = "") -> Upload:
        """Send the head, and without its end the form."""
        assert client._base_url is not None
        reader, writer = await asyncio.open_connection("127.0.0.1", client._base_url.port)
        head = f"POST /api/chats/{number:032}/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000000\r\n"
        head += f"Cookie: {cookie}\r\nContent-Type: multipart/form-data; boundary={BOUNDARY.decode()}\r\n\r\n"
        writer.write(head.encode())
        if picture:
            writer.write(part("message_id", f"{number:020}".encode()) + part("picture", picture, '; filename="a.png"')[:-2])
        return cls(reader, writer)

    async def status(self) -> int:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            return int((await self._reader.readline()).split()[1])

    def close(self) -> None:
        self._writer.transport.abort()


@pytest.mark.parametrize("picture", [b"", LARGE], ids=["after their heads", "in their pictures"])
async def test_uploads_that_stall_hold_up_no_question(picture: bytes, handler: MemoryChatHandler) -> None:
    async with serving(handler) as client:
        stalled = [await Upload.begin(client, number, picture) for number in range(api.MAX_UPLOADS + 8)]
        async with asyncio.timeout(TIMEOUT_SECONDS):
            assert (await ask(client, form(data=draw_image())))[0] == 202
        for upload in stalled:
            upload.close()


async def test_an_upload_that_stops_gets_a_sentence(monkeypatch: pytest.MonkeyPatch, handler: MemoryChatHandler) -> None:
    monkeypatch.setattr(uploads, "IDLE_SECONDS", 0.1)
    async with serving(handler) as client:
        for picture in (b"", LARGE):
            upload = await Upload.begin(client, 1, picture)
            assert await upload.status() == 408
            upload.close()
    assert handler.messages == []


async def test_an_upload_that_only_trickles_ends_too(monkeypatch: pytest.MonkeyPatch, handler: MemoryChatHandler) -> None:
    monkeypatch.setattr(uploads, "TOTAL_SECONDS", 0.2)
    async with serving(handler) as client:
        upload = await Upload.begin(client, 1, LARGE)

        async def trickle() -> None:
            while True:
                upload._writer.write(b"x")
                await asyncio.sleep(0.01)  # what a slow sender does

        sending = asyncio.create_task(trickle())
        assert await upload.status() == 408
        sending.cancel()
        upload.close()


async def test_one_persons_stalled_uploads_hold_up_no_other_persons_large_ones(
    monkeypatch: pytest.MonkeyPatch, handler: MemoryChatHandler
) -> None:
    token = "correct horse battery staple"
    opened: list[IO[bytes]] = []
    is_full = asyncio.Event()

    def open_file() -> IO[bytes]:
        opened.append(tempfile.TemporaryFile())  # noqa: SIM115 (the upload closes it)
        if len(opened) == api.MAX_UPLOADS_EACH:
            loop.call_soon_threadsafe(is_full.set)
        return opened[-1]

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(uploads, "tempfile", SimpleNamespace(TemporaryFile=open_file))
    async with serving(handler, token=token) as client, AsyncExitStack() as stack:
        people = []
        for _ in range(2):
            assert client._base_url is not None
            jar = aiohttp.CookieJar(unsafe=True)
            person = await stack.enter_async_context(aiohttp.ClientSession(client._base_url, cookie_jar=jar))
            async with person.post("/api/session", json={"token": token}):
                people.append(person)

        cookie = "; ".join(f"{cookie.key}={cookie.value}" for cookie in people[0].cookie_jar)
        stalled = [await Upload.begin(client, number, LARGE, cookie) for number in range(api.MAX_UPLOADS * 2)]
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await is_full.wait()
            status, _ = await ask(people[1], form(data=LARGE))
        assert (status, len(opened)) == (202, api.MAX_UPLOADS_EACH + 1)
        for upload in stalled:
            upload.close()


async def test_a_large_picture_arrives_whole_and_the_files_are_closed(handler: MemoryChatHandler) -> None:
    image = draw_image() + LARGE  # what follows a PNG's end is nothing to its readers
    async with serving(handler) as client:
        assert (await ask(client, form(data=image)))[0] == 202
        chat = await handler.read_chat(KEY)
        assert chat is not None
        assert chat.turns[0].error is None
        async with client.get(f"/api/chats/{THREAD}/pictures/{chat.turns[0].image_ids[0]}") as response:
            assert len(await response.read()) == len(image)
    with pytest.raises(Exception, match="the upload broke off"):
        await handler.messages[0].attachments[0].fetch(10**7)


async def test_who_waits_for_their_own_share_takes_no_place_of_others() -> None:
    shares = Shares(3, 2)
    entered: list[str] = []
    goes_on, is_in = asyncio.Event(), asyncio.Event()

    async def use(person: str) -> None:
        async with shares.of(person).place():
            entered.append(person)
            if person == "b":
                is_in.set()
            await goes_on.wait()

    greedy = [asyncio.create_task(use("a")) for _ in range(5)]
    other = asyncio.create_task(use("b"))
    async with asyncio.timeout(TIMEOUT_SECONDS):
        await is_in.wait()
        assert entered == ["a", "a", "b"]
        goes_on.set()
        await asyncio.gather(*greedy, other)
    assert len(entered) == 6
    assert len(shares._shares) == 0
