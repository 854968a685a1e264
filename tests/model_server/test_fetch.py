from __future__ import annotations

import asyncio
import gzip
import ipaddress
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from model_server.errors import ImageError
from model_server.fetch import fetch_image_url, is_public_address

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def anywhere(address: object) -> bool:
    return True


def only(text: str) -> Callable[[object], bool]:
    return lambda address: str(address) == text


class FixedResolver(AbstractResolver):
    """Answers every name with the next of the given answers: an address, or several with spaces between them."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = list(addresses)
        self.asked: list[str] = []

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        self.asked.append(host)
        answer = self.addresses.pop(0) if len(self.addresses) > 1 else self.addresses[0]
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in answer.split()
        ]

    async def close(self) -> None:
        pass


@pytest.fixture
async def server() -> AsyncIterator[tuple[str, list[str]]]:
    """A server at 127.0.0.1 with some bad manners, and the paths that it was asked for."""
    asked: list[str] = []
    never = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        match request.path:
            case "/picture":
                return web.Response(body=b"bytes")
            case "/headers":
                return web.json_response(dict(request.headers))
            case "/cookie":
                raise web.HTTPFound("headers", headers={"Set-Cookie": "who=me"})
            case "/compressed":
                return web.Response(body=gzip.compress(b"bytes"), headers={"Content-Encoding": "gzip"})
            case "/located":
                return web.Response(body=b"bytes", headers={"Location": "missing"})
            case "/nowhere":
                return web.Response(status=302)
            case "/missing":
                raise web.HTTPNotFound
            case "/loop":
                raise web.HTTPFound("/loop")
            case "/relative":
                raise web.HTTPFound("picture")
            case "/inside":
                raise web.HTTPFound(request.query["to"])
            case "/slow":
                await never.wait()
            case "/endless":
                response = web.StreamResponse()
                await response.prepare(request)
                while True:
                    await response.write(b"x" * 4096)
        raise web.HTTPBadRequest

    runner = web.AppRunner(web.Application(), shutdown_timeout=1)
    runner.app.router.add_get("/{path:.*}", answer)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    yield f"http://127.0.0.1:{port}", asked
    never.set()
    await runner.cleanup()


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254",
        "100.64.0.1", "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255",
        "::", "::1", "fe80::1", "fc00::1", "fd12::1", "fec0::1", "ff02::1", "2001:db8::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "2002:7f00:1::", "64:ff9b::7f00:1", "64:ff9b::a00:1",
        "2001:0:808:808::f5ff:fffe",
        "192.0.0.8", "192.0.0.192", "192.88.99.1", "168.63.129.16", "::ffff:168.63.129.16", "64:ff9b::c000:c0",
        "64:ff9b:1::808:808", "5f00::1", "3fff::1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public_address(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "93.184.216.34",
        "168.63.129.17",
        "192.0.1.1",
        "2606:4700::1111",
        "::ffff:8.8.8.8",
        "64:ff9b::808:808",
        "2001:0:808:808::f7f7:f7f7",
    ],
)
def test_addresses_that_are_public(address: str) -> None:
    assert is_public_address(ipaddress.ip_address(address))


async def refusal(url: str, **options: object) -> str:
    with pytest.raises(ImageError) as caught:
        await fetch_image_url(url, **options)  # type: ignore[arg-type]
    return caught.value.reason


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "localhost", "127。0。0。1"])
async def test_this_machine_under_any_name_is_refused(server: tuple[str, list[str]], host: str) -> None:
    base, asked = server
    port = base.rpartition(":")[2]
    assert "private or local" in await refusal(f"http://{host}:{port}/picture")
    assert asked == []


@pytest.mark.parametrize(
    "host",
    [
        "127.1",
        "2130706433",
        "0177.0.0.1",
        "0x7f.1",
        "0x7f000001",
        "0",
        "127.0.0.1.",
        "0X7F.0.0.1.",
        "1.2.3.4.5",
        "134744072",
        "a.0x",
    ],
)
async def test_an_address_in_an_unusual_spelling_is_refused_before_anybody_is_asked(
    server: tuple[str, list[str]], host: str
) -> None:
    """aiohttp takes some of them for addresses, which it does not show to the resolver, and the system takes others."""
    base, asked = server
    resolver = FixedResolver("127.0.0.1")
    url = f"http://{host}:{base.rpartition(':')[2]}/picture"
    assert "written in a way" in await refusal(url, is_allowed=anywhere, resolver=resolver)
    assert asked == resolver.asked == []


async def test_a_name_that_resolves_to_a_private_address_is_refused() -> None:
    assert "private or local" in await refusal("http://pictures.example/cat.png", resolver=FixedResolver("10.0.0.7"))
    assert "private or local" in await refusal("http://pictures.example/cat.png", resolver=FixedResolver("::ffff:10.0.0.7"))


@pytest.mark.parametrize("addresses", ["127.0.0.1 127.0.0.2", "127.0.0.2 127.0.0.1", "127.0.0.1 ::1"])
async def test_a_name_with_one_private_address_among_others_is_refused(server: tuple[str, list[str]], addresses: str) -> None:
    """Which of them is connected to is not ours to choose, and the next try may take another one."""
    base, asked = server
    url = base.replace("127.0.0.1", "both.example") + "/picture"
    reason = await refusal(url, is_allowed=only("127.0.0.1"), resolver=FixedResolver(addresses))
    assert "private or local" in reason
    assert asked == []


async def test_the_connection_goes_to_the_address_that_was_checked(server: tuple[str, list[str]]) -> None:
    """A second look-up, which could give another answer, does not happen."""
    base, asked = server
    resolver = FixedResolver("127.0.0.1", "127.0.0.99")
    url = base.replace("127.0.0.1", "rebinding.example") + "/picture"
    assert await fetch_image_url(url, is_allowed=only("127.0.0.1"), resolver=resolver) == b"bytes"
    assert resolver.asked == ["rebinding.example"]
    assert "private or local" in await refusal(url, is_allowed=only("127.0.0.1"), resolver=resolver)
    assert asked == ["/picture"]


async def test_redirects_are_followed_and_checked(server: tuple[str, list[str]]) -> None:
    base, asked = server
    assert await fetch_image_url(f"{base}/relative", is_allowed=anywhere) == b"bytes"
    for inside in ("http://127.0.0.2/picture", "http://[::1]/", "http://169.254.169.254/latest/meta-data"):
        assert "private or local" in await refusal(f"{base}/inside?to={inside}", is_allowed=only("127.0.0.1"))
    resolver = FixedResolver("10.1.1.1")
    inside = "http://intranet.example/"
    assert "private or local" in await refusal(f"{base}/inside?to={inside}", is_allowed=only("127.0.0.1"), resolver=resolver)
    for other in ("file:///etc/passwd", "ftp://example.com/x", "gopher://example.com"):
        assert "only http" in await refusal(f"{base}/inside?to={other}", is_allowed=anywhere)
    assert "too often" in await refusal(f"{base}/loop", is_allowed=anywhere)
    assert asked.count("/loop") == 6


async def test_only_a_redirect_leads_elsewhere(server: tuple[str, list[str]]) -> None:
    base, _ = server
    assert await fetch_image_url(f"{base}/located", is_allowed=anywhere) == b"bytes"
    assert "status 302" in await refusal(f"{base}/nowhere", is_allowed=anywhere)


async def test_what_is_said_about_us(server: tuple[str, list[str]]) -> None:
    base, _ = server
    headers = json.loads(await fetch_image_url(f"{base}/cookie", is_allowed=anywhere))
    assert headers == {
        "Host": base.removeprefix("http://"),
        "User-Agent": "Threadsight",
        "Accept": "image/*",
        "Accept-Encoding": "identity",
    }


async def test_a_compressed_answer_is_not_blown_up(server: tuple[str, list[str]]) -> None:
    base, _ = server
    assert (await fetch_image_url(f"{base}/compressed", is_allowed=anywhere)).startswith(b"\x1f\x8b")


async def test_everything_is_bounded(server: tuple[str, list[str]]) -> None:
    base, _ = server
    assert await fetch_image_url(f"{base}/picture", is_allowed=anywhere, max_bytes=5) == b"bytes"
    assert "larger" in await refusal(f"{base}/picture", is_allowed=anywhere, max_bytes=4)
    assert "larger" in await refusal(f"{base}/endless", is_allowed=anywhere, max_bytes=100_000)
    assert "too long" in await refusal(f"{base}/slow", is_allowed=anywhere, timeout_seconds=0.05)
    assert "404" in await refusal(f"{base}/missing", is_allowed=anywhere)


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://a.example/cat.png", "cat.png", "http://", "//x", "http://[", "data:,", ""]
)
async def test_only_http(url: str) -> None:
    assert await refusal(url)


async def test_links_with_credentials_are_refused_and_secrets_are_not_repeated() -> None:
    with pytest.raises(ImageError) as caught:
        await fetch_image_url("https://me:hunter2@example.com/cat.png?token=hunter3")
    assert "hunter" not in str(caught.value)
    assert "example.com/cat.png" in str(caught.value)
