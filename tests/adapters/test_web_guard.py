"""Who may use the page: host names, other sites, the token."""

from __future__ import annotations

import socket

import aiohttp
import pytest
import yarl

from adapters.address import is_loopback
from adapters.web.server import WebAdapter, WebAddressError
from tests.adapters.web_client import THREAD, ask, form, serving
from tests.chat_handler import MemoryChatHandler

TOKEN = "correct horse battery staple"


async def test_the_page_allows_nothing_but_its_own_files(client: aiohttp.ClientSession) -> None:
    for path in ("/", "/static/app.js", "/static/style.css", "/api/session", "/nothing"):
        async with client.get(path) as response:
            policy = response.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert response.headers["Referrer-Policy"] == "no-referrer"
            assert "Access-Control-Allow-Origin" not in response.headers


@pytest.mark.parametrize("path", ["/static/../server.py", "/static/%2e%2e/server.py", "/static/..%2fserver.py", "/static/"])
async def test_no_other_file_is_served(client: aiohttp.ClientSession, path: str) -> None:
    async with client.get(yarl.URL(path, encoded=True)) as response:
        assert response.status in (403, 404)
        assert "aiohttp" not in (await response.text())


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "", "localhost.evil.example"])
async def test_a_foreign_host_name_is_refused_on_loopback(client: aiohttp.ClientSession, host: str) -> None:
    async with client.get("/api/session", headers={"Host": host}) as response:
        assert response.status in (400, 421)


@pytest.mark.parametrize("host", ["localhost", "localhost:9", "127.0.0.1:8080", "[::1]:8080", "chat.localhost"])
async def test_names_of_this_machine_are_accepted(client: aiohttp.ClientSession, host: str) -> None:
    async with client.get("/api/session", headers={"Host": host}) as response:
        assert response.status == 200


FOREIGN = [{"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}]


@pytest.mark.parametrize("headers", FOREIGN)
async def test_another_sites_page_may_do_nothing(
    client: aiohttp.ClientSession, handler: MemoryChatHandler, headers: dict[str, str]
) -> None:
    async with client.post(f"/api/chats/{THREAD}/messages", data=form(), headers=headers) as response:
        assert response.status == 403
    async with client.delete(f"/api/chats/{THREAD}", headers=headers) as response:
        assert response.status == 403
    with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
        await client.ws_connect("/api/tab", headers=headers)
    async with client.get(f"/api/chats/{THREAD}/pictures/{'e' * 64}", headers=headers) as response:
        assert response.status == 403
    assert handler.messages == []


async def test_a_token_is_asked_for_once(handler: MemoryChatHandler) -> None:
    async with serving(handler, token=TOKEN) as client:
        async with client.get("/") as response:
            assert response.status == 200
        for method, path in (("POST", "messages"), ("POST", "stop"), ("POST", "regenerate"), ("GET", f"pictures/{'e' * 64}")):
            async with client.request(method, f"/api/chats/{THREAD}/{path}") as response:
                assert response.status == 401
        with pytest.raises(aiohttp.WSServerHandshakeError, match="401"):
            await client.ws_connect("/api/tab")
        async with client.post("/api/session", json={"token": "wrong"}) as response:
            assert (response.status, await response.json()) == (403, {"error": "That is not the right token."})
        async with client.post("/api/session", json={"token": TOKEN}) as response:
            cookie = response.headers["Set-Cookie"]
            assert "HttpOnly" in cookie
            assert "SameSite=Strict" in cookie
            assert TOKEN not in cookie
        assert (await ask(client, form()))[0] == 202
        passes = {cookie.key: cookie.value for cookie in client.cookie_jar}
    async with serving(MemoryChatHandler(), token=TOKEN) as restarted, restarted.get("/api/session", cookies=passes) as response:
        assert (await response.json()) == {"is_signed_in": True, "can_sign_out": True}
    async with (
        serving(MemoryChatHandler(), token="another " + TOKEN) as other,
        other.get("/api/session", cookies=passes) as response,
    ):
        assert (await response.json()) == {"is_signed_in": False, "can_sign_out": False}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "", "chat.example"])
@pytest.mark.parametrize("token", [None, "", "  "])
def test_an_open_address_demands_a_token(host: str, token: str | None) -> None:
    with pytest.raises(ValueError, match="Set a token"):
        WebAdapter(host, 0, token)
    assert not is_loopback(host)
    WebAdapter(host, 0, TOKEN)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_needs_no_token(host: str) -> None:
    assert is_loopback(host)
    assert WebAdapter(host, 0, None).name == "web"


async def test_a_taken_port_is_told_in_a_sentence(handler: MemoryChatHandler) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(WebAddressError, match=f"port {port}.*Choose another port"):
            await WebAdapter("127.0.0.1", port, None).run(handler)
