"""Who may use the page when a proxy is before it: THREADSIGHT_PUBLIC_URL is the page's own address, and nothing else becomes so."""

from __future__ import annotations

import aiohttp
import pytest

from adapters.conversations.absence import CatchUp
from adapters.platform import Host
from adapters.web.platform import PLATFORM
from adapters.web.server import WebAdapter
from adapters.web.settings import WebSettings
from bot.config import SettingsError, load_settings
from tests.adapters.running_adapter import started
from tests.adapters.web_client import serving
from tests.chat_handler import MemoryChatHandler

TOKEN = "correct horse battery staple"
PUBLIC = "https://home.example/"
HOST = Host(CatchUp(), 1_000_000, "")


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("home.example", "https://home.example"),  # the Host is handed on
        ("home.example:443", "https://home.example"),
        ("HOME.example", "https://home.example"),
        ("home.example.", "https://home.example"),
        ("home.example", "https://home.example:443"),
        ("home.example", "https://Home.Example."),
        ("home.example:8443", "https://home.example"),  # a port that was mapped on the way
        ("127.0.0.1:8080", "https://home.example"),  # the Host is the proxy's own, as nginx does unless told otherwise
        ("localhost", "https://home.example"),
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),  # and without the proxy, on this machine
        ("localhost", "http://localhost:80"),
        ("localhost:80", "http://localhost"),
    ],
)
async def test_the_public_address_is_the_pages_own(handler: MemoryChatHandler, host: str, origin: str) -> None:
    async with serving(handler, token=TOKEN, public_url=PUBLIC) as client:
        headers = {"Host": host, "Origin": origin}
        async with client.post("/api/session", json={"token": TOKEN}, headers=headers) as response:
            assert response.status == 200, await response.text()
            cookie = response.headers["Set-Cookie"].partition(";")[0]
        async with client.ws_connect("/api/tab", headers={**headers, "Cookie": cookie}) as socket:
            assert (await socket.receive_json())["type"] == "chats"


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("evil.example", None, 421),  # DNS rebinding
        ("evil.example", "http://evil.example", 421),
        ("evil.example", "https://home.example", 421),
        ("home.example.evil.example", None, 421),
        ("evilhome.example", None, 421),
        ("home.example@evil.example", None, 400),
        ("evil.example/home.example", None, 400),
        ("[", None, 400),
        ("home.example:x", None, 400),
        ("home.example", "https://evil.example", 403),
        ("home.example", "http://home.example", 403),  # whoever is on the way can make a page at the address without TLS
        ("home.example", "http://home.example:443", 403),
        ("home.example", "https://home.example:8443", 403),
        ("127.0.0.1:8080", "http://home.example", 403),
        ("127.0.0.1:8080", "http://127.0.0.1:9", 403),
        ("home.example", "null", 403),
        ("home.example", "https://", 403),
        ("home.example", "http://[", 400),
        ("home.example", "", 403),
        ("home.example", "file://", 403),
    ],
)
async def test_with_a_public_address_all_others_stay_out(
    handler: MemoryChatHandler, host: str, origin: str | None, status: int
) -> None:
    headers = {"Host": host} if origin is None else {"Host": host, "Origin": origin}
    async with serving(handler, token=TOKEN, public_url=PUBLIC) as client:
        async with client.post("/api/session", json={"token": TOKEN}, headers=headers) as response:
            assert response.status == status
            assert (await response.json())["error"]
        with pytest.raises(aiohttp.WSServerHandshakeError, match=str(status)):
            await client.ws_connect("/api/tab", headers=headers)


async def test_what_a_proxy_says_about_the_page_is_not_believed(handler: MemoryChatHandler) -> None:
    forged = {"X-Forwarded-Host": "home.example", "X-Forwarded-Proto": "https", "Forwarded": "host=home.example"}
    async with (
        serving(handler, token=TOKEN, public_url=PUBLIC) as client,
        client.get("/api/session", headers={"Host": "evil.example", **forged}) as response,
    ):
        assert response.status == 421
        assert "THREADSIGHT_PUBLIC_URL" in (await response.json())["error"]


@pytest.mark.parametrize("fetch_site", ["cross-site", "same-site"])
async def test_a_foreign_sites_request_through_the_proxy_is_refused(handler: MemoryChatHandler, fetch_site: str) -> None:
    headers = {"Host": "home.example", "Sec-Fetch-Site": fetch_site, "Origin": "https://home.example"}
    async with (
        serving(handler, token=TOKEN, public_url=PUBLIC) as client,
        client.post("/api/session", json={"token": TOKEN}, headers=headers) as response,
    ):
        assert response.status == 403


@pytest.mark.parametrize(
    ("public_url", "origin", "attributes"),
    [
        ("https://home.example", "https://home.example", {"Secure", "Path=/"}),
        ("https://home.example/threadsight", "https://home.example", {"Secure", "Path=/threadsight/"}),
        ("https://home.example/threadsight/", "http://localhost:8080", {"Path=/"}),
        ("http://home.example", "http://home.example", {"Path=/"}),
        ("https://[2001:DB8:0::1]:8443/", "https://[2001:db8::1]:8443", {"Secure", "Path=/"}),
        ("https://bücher.example/", "https://xn--bcher-kva.example", {"Secure", "Path=/"}),
    ],
)
@pytest.mark.parametrize("host", [None, "127.0.0.1:8080"])
async def test_the_cookie_is_for_the_page_alone(
    handler: MemoryChatHandler, public_url: str, origin: str, attributes: set[str], host: str | None
) -> None:
    is_here = origin == "http://localhost:8080"
    headers = {"Origin": origin, "Host": host if host and not is_here else origin.partition("//")[2]}
    async with (
        serving(handler, token=TOKEN, public_url=public_url) as client,
        client.post("/api/session", json={"token": TOKEN}, headers=headers) as response,
    ):
        assert response.status == 200
        told = set(response.headers["Set-Cookie"].split("; "))
        assert told >= attributes | {"HttpOnly", "SameSite=Strict"}
        assert ("Secure" in told) is ("Secure" in attributes)


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("a.example:443", "https://a.example", 200),
        ("a.example", "https://a.example:443", 200),
        ("A.example.", "http://a.example:80", 200),
        ("a.example:80", "https://a.example", 403),
    ],
)
async def test_default_ports_are_equal_to_none_on_an_open_address(
    handler: MemoryChatHandler, monkeypatch: pytest.MonkeyPatch, host: str, origin: str, status: int
) -> None:
    """Without a public address, and with a proxy that hands the Host on."""
    monkeypatch.setattr("adapters.web.server.is_loopback", lambda _: False)
    headers = {"Host": host, "Origin": origin}
    async with (
        serving(handler, token=TOKEN) as client,
        client.post("/api/session", json={"token": TOKEN}, headers=headers) as response,
    ):
        assert response.status == status


@pytest.mark.parametrize("token", [None, "", " "])
def test_a_public_address_demands_a_token(token: str | None) -> None:
    with pytest.raises(ValueError, match="Set a token"):
        WebAdapter("127.0.0.1", 0, token, public_url=PUBLIC)
    WebAdapter("127.0.0.1", 0, token, public_url="https://localhost:8443/")


async def test_the_public_address_is_told_at_the_start(handler: MemoryChatHandler) -> None:
    adapter = WebAdapter("127.0.0.1", 0, TOKEN, public_url=PUBLIC)
    async with started(adapter, handler):
        assert adapter.where == f"{PUBLIC}, here {adapter.url}"
        assert adapter.url is not None
        assert adapter.url.startswith("http://127.0.0.1:")


# -- its setting


@pytest.mark.parametrize(
    "value",
    [
        "home.example",
        "https://",
        "https:///x",
        "ftp://home.example",
        "wss://home.example",
        "https://ho me.example",
        "https://*.example",
        "https://home.example:99999",
        "https://home.example:0",
        "https://me:pw@home.example",
        "https://home.example/?a=b",
        "https://home.example/#a",
        "https://[::1",
        "https://home.example,https://b.example",
    ],
)
def test_a_wrong_public_address_is_refused_by_name(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THREADSIGHT_PUBLIC_URL", value)
    monkeypatch.setenv("THREADSIGHT_WEB_TOKEN", TOKEN)
    with pytest.raises(SettingsError) as caught:
        load_settings(None)
    [problem] = caught.value.problems
    assert problem.startswith("THREADSIGHT_PUBLIC_URL ")
    assert "pw" not in problem


def test_a_public_address_without_a_token_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THREADSIGHT_PUBLIC_URL", "https://home.example")
    with pytest.raises(SettingsError) as caught:
        load_settings(None)
    assert caught.value.problems == [
        "THREADSIGHT_WEB_TOKEN must be set when THREADSIGHT_PUBLIC_URL is set, because others can then reach the page."
    ]


async def test_the_setting_reaches_the_page(handler: MemoryChatHandler) -> None:
    settings = WebSettings.model_validate({"public_url": "https://home.example", "token": TOKEN, "port": 0})
    adapter = PLATFORM.make(settings, HOST)
    assert isinstance(adapter, WebAdapter)
    async with started(adapter, handler), aiohttp.ClientSession(adapter.url) as client:
        async with client.get("/api/session", headers={"Host": "home.example", "Origin": "https://home.example"}) as response:
            assert response.status == 200
        async with client.get("/api/session", headers={"Host": "other.example"}) as response:
            assert response.status == 421


async def test_doctor_names_the_public_address() -> None:
    settings = WebSettings.model_validate({"public_url": "https://home.example", "token": TOKEN, "port": 0})
    found = [finding.sentence async for finding in PLATFORM.check(settings, HOST)]
    assert any("https://home.example" in sentence for sentence in found)
