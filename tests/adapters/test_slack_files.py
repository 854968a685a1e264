"""Downloads: with the token to Slack alone, bounded, and every failure with its reason."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from adapters.base import Attachment, AttachmentError
from adapters.slack.files import Files, name_of
from adapters.slack.workspaces import Workspaces
from tests.chat_handler import draw_image

IMAGE = draw_image()
SIGN_IN = "<!DOCTYPE html><html>Sign in</html>"
Handler = Callable[[web.Request], Any]


class FileHost:
    """A server whose one address does what the test says."""

    def __init__(self) -> None:
        self.do: Handler = lambda request: web.Response(body=IMAGE)
        self.tokens: list[str | None] = []
        self.url = ""
        self.is_over = asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.tokens.append(request.headers.get("Authorization"))
        response = self.do(request)
        return response if isinstance(response, web.StreamResponse) else await response


@pytest.fixture
async def host() -> AsyncIterator[FileHost]:
    async for host in serve():
        yield host


@pytest.fixture
async def other_host() -> AsyncIterator[FileHost]:
    async for host in serve():
        yield host


async def serve() -> AsyncIterator[FileHost]:
    host = FileHost()
    app = web.Application()
    app.router.add_get("/{path:.*}", host.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    try:
        yield host
    finally:
        host.is_over.set()
        await runner.cleanup()


async def fetch(host: FileHost, url: str, max_bytes: int = 10**6, seconds: float = 10.0) -> bytes:
    workspace = Workspaces(host.url + "api/").learn("T1", "UBOT", "xoxb-secret")
    async with aiohttp.ClientSession() as session:
        files = Files(session, host.url + "api/", download_seconds=seconds)
        file = {"id": "F1", "name": "a.png", "url_private_download": url}
        (attachment,) = await files.attachments(workspace, [file])
        assert isinstance(attachment, Attachment)
        return await attachment.fetch(max_bytes)


async def reason(host: FileHost, url: str, **limits: Any) -> str:
    with pytest.raises(AttachmentError) as caught:
        await fetch(host, url, **limits)
    assert "secret" not in str(caught.value)
    assert url not in str(caught.value)
    return str(caught.value)


async def test_a_picture_is_downloaded_with_the_token(host: FileHost) -> None:
    assert await fetch(host, host.url + "a.png") == IMAGE
    assert host.tokens == ["Bearer xoxb-secret"]


@pytest.mark.parametrize("content_type", ["text/html", "image/png"])
async def test_a_sign_in_page_is_a_missing_right(host: FileHost, content_type: str) -> None:
    host.do = lambda request: web.Response(text=SIGN_IN, content_type=content_type)
    assert "files:read" in await reason(host, host.url + "a.png")


@pytest.mark.parametrize(
    ("mimetype", "right"),
    [
        ("text/html", None),
        ("application/xhtml+xml", None),
        ("application/vnd.slack-docs", "it is a canvas or a list of Slack's, not a picture; please upload the picture itself"),
        ("image/png", "files:read"),
        ("text/plain", "files:read"),
    ],
)
async def test_what_a_person_uploaded_as_a_page_is_no_missing_right(host: FileHost, mimetype: str, right: str | None) -> None:
    host.do = lambda request: web.Response(text=SIGN_IN, content_type="text/html")
    workspace = Workspaces(host.url + "api/").learn("T1", "UBOT", "xoxb-secret")
    async with aiohttp.ClientSession() as session:
        files = Files(session, host.url + "api/")
        file = {"id": "F1", "name": "a", "mimetype": mimetype, "url_private_download": host.url + "a"}
        (attachment,) = await files.attachments(workspace, [file])
        if right is None:
            assert await attachment.fetch(10**6) == SIGN_IN.encode()
            return
        with pytest.raises(AttachmentError) as caught:
            await attachment.fetch(10**6)
        assert right in str(caught.value)


@pytest.mark.parametrize(
    ("status", "says"),
    [(404, "it is no longer there"), (403, "files:read"), (500, "Slack answered with the error 500")],
)
async def test_an_error_has_its_reason(host: FileHost, status: int, says: str) -> None:
    host.do = lambda request: web.Response(status=status)
    assert says in await reason(host, host.url + "a.png")


async def test_too_large_is_noticed_by_what_is_said_and_by_what_comes(host: FileHost) -> None:
    assert await reason(host, host.url + "a.png", max_bytes=1_000) == "it has more than 1 kB, and I take at most 1 kB"

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        while not host.is_over.is_set():
            await response.write(b"x" * 65536)
        return response

    host.do = endless
    assert await reason(host, host.url + "a.png", max_bytes=2_000_000) == "it has more than 2 MB, and I take at most 2 MB"


async def test_a_download_that_breaks_off_is_told(host: FileHost) -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b"x" * 10)
        assert request.transport is not None
        request.transport.abort()
        return response

    host.do = cut
    assert await reason(host, host.url + "a.png") in ("the download broke off", "I could not reach Slack to download it")


async def test_a_download_that_does_not_end_is_given_up(host: FileHost) -> None:
    async def slow(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await host.is_over.wait()
        return response

    host.do = slow
    assert await reason(host, host.url + "a.png", seconds=0.05) == "the download took too long"


async def test_the_token_does_not_follow_to_another_host(host: FileHost, other_host: FileHost) -> None:
    host.do = lambda request: web.Response(status=302, headers={"Location": other_host.url + "a.png"})
    assert "outside of Slack" in await reason(host, host.url + "a.png")
    assert other_host.tokens == []


async def test_the_token_follows_on_the_same_host_but_not_for_ever(host: FileHost) -> None:
    host.do = lambda request: (
        web.Response(body=IMAGE) if request.path == "/b.png" else web.Response(status=302, headers={"Location": "/b.png"})
    )
    assert await fetch(host, host.url + "a.png") == IMAGE
    host.do = lambda request: web.Response(status=302, headers={"Location": "/b.png"})
    assert await reason(host, host.url + "a.png") == "Slack sent me in circles"


@pytest.mark.parametrize(
    "url",
    ["http://files.slack.com/a.png", "https://slack.com.evil.example/a", "https://evilslack.com/a", "file:///etc/passwd", "a.png"],
)
async def test_the_token_goes_to_slack_alone(host: FileHost, url: str) -> None:
    assert "outside of Slack" in await reason(host, url)


async def test_nobody_there_is_told(host: FileHost) -> None:
    def hang_up(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    host.do = hang_up
    assert await reason(host, host.url + "a.png") == "I could not reach Slack to download it"


@pytest.mark.parametrize(
    ("file", "name"),
    [({"name": "a\n\u202eb.png"}, "ab.png"), ({"title": "cat"}, "cat"), ({}, "the file"), ({"name": "x" * 300}, "x" * 100)],
)
def test_a_name_can_stand_in_a_sentence(file: dict[str, str], name: str) -> None:
    assert name_of(file) == name
