"""Signing in and out over real sockets: guesses are counted before they are looked at, per address, and sessions can be ended."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from adapters.web.networks import parse_networks
from adapters.web.sessions import GUESS_RECOVERY_SECONDS, MAX_ADDRESSES, MAX_GUESSES, SESSION_SECONDS, Guesses, Sessions
from adapters.web.visitors import Visitors
from tests.adapters.web_client import THREAD, ask, form, open_tab, serving
from tests.chat_handler import TIMEOUT_SECONDS, MemoryChatHandler

TOKEN = "correct horse battery staple"
PROXY = parse_networks("127.0.0.1")


async def sign_in(client: aiohttp.ClientSession, token: str = TOKEN, **headers: str) -> aiohttp.ClientResponse:
    async with client.post(
        "/api/session", json={"token": token}, headers={k.replace("_", "-"): v for k, v in headers.items()}
    ) as done:
        await done.read()
        return done


async def test_three_hundred_guesses_at_once_are_ten_and_lock_nobody_out_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[str] = []
    is_token = Sessions.is_token

    def counted(self: Sessions, guess: str) -> bool:
        looked_at.append(guess)
        return is_token(self, guess)

    monkeypatch.setattr(Sessions, "is_token", counted)
    async with serving(MemoryChatHandler(), token=TOKEN) as client:
        done = await asyncio.gather(*(sign_in(client, f"guess {number}") for number in range(300)))
        statuses = [response.status for response in done]
        assert (len(looked_at), statuses.count(403)) == (MAX_GUESSES, MAX_GUESSES)
        waits = [float(response.headers["Retry-After"]) for response in done if response.status == 429]
        assert len(waits) == 300 - MAX_GUESSES
        assert 1 <= max(waits) <= GUESS_RECOVERY_SECONDS  # the others were not counted
        assert (await sign_in(client)).status == 429  # unevaluated: also the right one
        assert len(looked_at) == MAX_GUESSES


async def test_a_locked_address_locks_no_other_one_and_no_session() -> None:
    async with serving(MemoryChatHandler(), token=TOKEN, trusted_proxies=PROXY) as client:
        assert (await sign_in(client, X_Forwarded_For="203.0.113.1")).status == 200
        for _ in range(MAX_GUESSES + 1):
            wrong = await sign_in(client, "a guess", X_Forwarded_For="203.0.113.1")
        assert wrong.status == 429
        assert (await sign_in(client, X_Forwarded_For="203.0.113.1")).status == 429
        assert (await sign_in(client, X_Forwarded_For="203.0.113.2")).status == 200
        assert (await ask(client, form()))[0] == 202  # with the session from before


async def test_nobody_but_a_known_proxy_is_believed() -> None:
    async with serving(MemoryChatHandler(), token=TOKEN) as client:
        for number in range(MAX_GUESSES):
            assert (await sign_in(client, "a guess", X_Forwarded_For=f"203.0.113.{number}")).status == 403
        assert (await sign_in(client, "a guess", X_Forwarded_For="203.0.113.99")).status == 429


async def test_a_wrong_token_is_logged_without_the_token(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(MemoryChatHandler(), token=TOKEN) as client:
        for _ in range(2):
            await sign_in(client, "my secret guess")
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert lines == [f"A wrong token for the web page from 127.0.0.1, {number} of late." for number in (1, 2)]
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"3", b'{"token": 3}', b'{"token": "\\ud800"}', b"[" * 4000, b"\xff", b'{"token": null}']
)
async def test_what_is_no_guess_is_refused_and_not_counted(body: bytes) -> None:
    async with serving(MemoryChatHandler(), token=TOKEN) as client:
        for _ in range(MAX_GUESSES + 1):
            async with client.post("/api/session", data=body) as response:
                assert (response.status, await response.json()) == (400, {"error": "Please enter the token."})


async def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.web.guard.BODY_SECONDS", 0.05)
    async with serving(MemoryChatHandler(), token=TOKEN) as client:
        port = client._base_url.port  # type: ignore[union-attr]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b'POST /api/session HTTP/1.1\r\nHost: localhost\r\nContent-Length: 30\r\n\r\n{"tok')
        async with asyncio.timeout(TIMEOUT_SECONDS):
            assert (await reader.readline()).split()[1] == b"408"
        writer.close()
        await writer.wait_closed()


async def test_signing_out_ends_the_session_everywhere_and_for_good() -> None:
    handler = MemoryChatHandler()
    async with serving(handler, token=TOKEN) as client:
        await sign_in(client)
        passes = {cookie.key: cookie.value for cookie in client.cookie_jar}
        async with aiohttp.ClientSession(client._base_url, cookie_jar=aiohttp.CookieJar(unsafe=True)) as elsewhere:
            await sign_in(elsewhere)
            async with open_tab(client) as mine, open_tab(elsewhere, THREAD) as others:
                await mine.next("chats")
                await others.next("chat")
                async with client.delete("/api/session") as response:
                    assert response.status == 204
                async with asyncio.timeout(TIMEOUT_SECONDS):
                    closed = await mine.socket.receive()
                assert (closed.type, closed.data) == (aiohttp.WSMsgType.CLOSE, aiohttp.WSCloseCode.POLICY_VIOLATION)
                assert (await ask(elsewhere, form()))[0] == 202
                assert (await others.next("chat"))["is_running"] is True
        assert [cookie.key for cookie in client.cookie_jar] == []
        async with client.get("/api/session", cookies=passes) as response:  # a copy of the cookie is worth nothing
            assert (await response.json())["is_signed_in"] is False
    async with serving(handler, token=TOKEN) as restarted, restarted.get("/api/session", cookies=passes) as response:
        assert (await response.json())["is_signed_in"] is False


async def test_without_a_token_there_is_nothing_to_sign_out_of(client: aiohttp.ClientSession) -> None:
    async with client.get("/api/session") as response:
        assert await response.json() == {"is_signed_in": True, "can_sign_out": False}
    async with client.delete("/api/session") as response:
        assert response.status == 204


# -- the parts


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def test_guesses_come_back_with_time() -> None:
    clock = Clock()
    guesses = Guesses(clock)
    assert [guesses.take("a") for _ in range(MAX_GUESSES)] == [0.0] * MAX_GUESSES
    assert [guesses.take("a") for _ in range(300)] == [GUESS_RECOVERY_SECONDS] * 300
    assert guesses.take("b") == 0
    clock.now += GUESS_RECOVERY_SECONDS + 0.01
    assert guesses.take("a") == 0
    assert guesses.take("a") > 0
    guesses.give_back("a")
    assert guesses.take("a") == 0


def test_the_addresses_that_are_remembered_are_bounded() -> None:
    guesses = Guesses(Clock())
    for number in range(MAX_ADDRESSES + 50):
        guesses.take(str(number))
    assert len(guesses._left) == MAX_ADDRESSES


def test_a_session_belongs_to_its_token_ends_with_time_and_can_be_ended() -> None:
    clock = Clock()
    sessions = Sessions(TOKEN, clock=clock)
    one, two = sessions.begin(), sessions.begin()
    assert sessions.find(one) != sessions.find(two)
    assert Sessions("another token", clock=clock).find(one) is None
    assert sessions.end(one) is not None
    assert sessions.end(one) is None
    again = Sessions(TOKEN, sessions.ended, clock)
    assert (again.find(one), again.find(two) is None) == (None, False)
    clock.now += SESSION_SECONDS
    assert again.find(two) is None
    assert again.ended == ""


@given(st.text(), st.integers(0, 200))
def test_no_other_cookie_is_a_session(text: str, place: int) -> None:
    sessions = Sessions(TOKEN)
    cookie = sessions.begin()
    assert sessions.find(text) is None
    changed = cookie[: place % len(cookie)] + text + cookie[place % len(cookie) + len(text) :]
    assert (sessions.find(changed) is not None) == (changed == cookie)


def visitor(remote: str, forwarded: list[str], trusted: str) -> str:
    headers = CIMultiDict([("X-Forwarded-For", value) for value in forwarded])
    request = make_mocked_request("GET", "/", headers=headers).clone(remote=remote)
    return Visitors(parse_networks(trusted)).visitor_of(request)


@pytest.mark.parametrize(
    ("remote", "forwarded", "trusted", "right"),
    [
        ("203.0.113.5", [], "", "203.0.113.5"),
        ("203.0.113.5", ["198.51.100.1"], "", "203.0.113.5"),  # anybody can say so
        ("10.0.0.1", ["198.51.100.1"], "10.0.0.0/8", "198.51.100.1"),
        ("10.0.0.1", ["192.0.2.9, 198.51.100.1"], "10.0.0.0/8", "198.51.100.1"),  # the first was invented by the visitor
        ("10.0.0.1", ["192.0.2.9", "198.51.100.1, 10.0.0.2"], "10.0.0.0/8", "198.51.100.1"),  # two proxies, two headers
        ("10.0.0.1", ["198.51.100.1:4711"], "10.0.0.0/8", "198.51.100.1"),  # Azure adds the port
        ("10.0.0.1", ["[2001:db8:1:2::3]:4711"], "10.0.0.0/8", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:aaaa::1", [], "", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:bbbb::9", [], "", "2001:db8:1:2::/64"),  # the same customer
        ("::ffff:203.0.113.5", [], "", "203.0.113.5"),  # a socket for both protocols
        ("::ffff:10.0.0.1", ["198.51.100.1"], "10.0.0.0/8", "198.51.100.1"),
        ("fe80::1%eth0", [], "", "fe80::/64"),
        ("10.0.0.1", ["unknown"], "10.0.0.0/8", "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.0/8", "10.0.0.1"),
        ("", [], "", "an unknown address"),  # a Unix socket
    ],
)
def test_who_a_visitor_is(remote: str, forwarded: list[str], trusted: str, right: str) -> None:
    assert visitor(remote, forwarded, trusted) == right


@given(st.lists(st.text(max_size=40), max_size=4))
def test_odd_forwarding_is_survived(forwarded: list[str]) -> None:
    assert visitor("10.0.0.1", [value.replace("\r", "").replace("\n", "") for value in forwarded], "10.0.0.1")


@pytest.mark.parametrize("text", ["10.0.0.0/33", "localhost", "10.0.0.1/8", "1.2.3", "*"])
def test_what_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="neither an address nor a network"):
        parse_networks(text)


def test_networks_are_read() -> None:
    assert parse_networks(" 127.0.0.1, fd00::/8 ,") == (ipaddress.ip_network("127.0.0.1"), ipaddress.ip_network("fd00::/8"))
    assert parse_networks("") == ()


# -- requests that no browser makes


async def answer_to(port: int, request: bytes) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    async with asyncio.timeout(TIMEOUT_SECONDS):
        head = await reader.readuntil(b"\r\n")
        rest = b"" if request.startswith(b"HEAD") else await reader.read(4000)
    writer.close()
    return int(head.split()[1]), rest


ODD = [
    (b"GET / HTTP/1.1\r\nHost: [\r\n\r\n", 400),
    (b"GET /api/session HTTP/1.1\r\nHost: [::1\r\n\r\n", 400),
    (b"GET /api/session HTTP/1.1\r\nHost: \xff\r\n\r\n", 400),
    (b"GET /api/session HTTP/1.1\r\nHost: localhost:99999\r\n\r\n", 400),
    (b"GET /api/session HTTP/1.0\r\n\r\n", 400),
    (b"GET /api/session HTTP/1.1\r\nHost: localhost\r\nOrigin: http://[\r\n\r\n", 400),
    (b"GET /api/session HTTP/1.1\r\nHost: localhost\r\nOrigin: \xc3\xa9\r\n\r\n", 403),
    (b"GET /api/session HTTP/1.1\r\nHost: localhost\r\nCookie: threadsight=\xff\xfe\r\n\r\n", 200),
    (b'GET /api/session HTTP/1.1\r\nHost: localhost\r\nCookie: threadsight="; =;; $\r\n\r\n', 200),
    (b"GET http://[/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    (b"CONNECT [ HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    (b"GET /%zz%ff%00 HTTP/1.1\r\nHost: localhost\r\n\r\n", 401),
    (b"GET /static/%00 HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    (b"GET /static/" + b"a" * 3000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    (b"POST /api/session HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd", 400),
    (
        b'POST /api/session HTTP/1.1\r\nHost: localhost\r\nContent-Type: a;charset="x"\r\nContent-Length: 13\r\n\r\n{"token":"a"}',
        403,
    ),
    (b"GET / HTTP/1.1\r\nHost localhost\r\n\r\n", 400),
    (b"\x16\x03\x01\x02\x00", 400),
]


@pytest.mark.parametrize(("request_bytes", "status"), ODD)
async def test_an_odd_request_gets_its_status_and_no_traceback(
    request_bytes: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(MemoryChatHandler(), token=TOKEN) as client:
        got, _ = await answer_to(client._base_url.port, request_bytes.replace(b"\r\nHost", b"\r\nConnection: close\r\nHost", 1))  # type: ignore[union-attr, arg-type]
    assert got == status
    assert "Traceback" not in caplog.text
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


HEADER = st.sampled_from(
    ["Host", "Origin", "Cookie", "X-Forwarded-For", "Sec-Fetch-Site", "Content-Type", "Range", "If-None-Match"]
)
VALUE = st.one_of(
    st.text("[]:/@%.,;=\"' \t\\aà0-٣\x7f", max_size=20).map(lambda text: text.encode()),
    st.binary(max_size=20).map(lambda data: data.translate(None, b"\r\n\0")),
    st.sampled_from([b"http://[", b"[", b"threadsight=", b"localhost:0", b"multipart/form-data; boundary=\xff", b"bytes=9-1"]),
)
PATH = st.one_of(
    st.sampled_from(["/", "/api/session", "/api/tab", "/static/app.js", f"/api/chats/{THREAD}/messages"]),
    st.text("/%.aà?#[]0f:@\\", max_size=20).map(lambda text: "/" + text),
)


def test_no_request_is_our_mistake(caplog: pytest.LogCaptureFixture) -> None:
    """Random paths and headers over one server's real sockets: no answer is a 500, and nothing is logged as an error."""

    async def run(examples: list[tuple[str, str, list[tuple[str, bytes]], bytes]]) -> None:
        async with serving(MemoryChatHandler(), token=TOKEN) as client:
            for method, path, headers, body in examples:
                lines = [f"{method} {path} HTTP/1.1".encode(), b"Connection: close", b"Content-Length: %d" % len(body)]
                lines += [f"{name}: ".encode() + value for name, value in headers]
                if not any(name == "Host" for name, _ in headers):
                    lines.append(b"Host: localhost")
                status, _ = await answer_to(client._base_url.port, b"\r\n".join([*lines, b"", body]))  # type: ignore[union-attr, arg-type]
                assert status < 500, (method, path, headers, body)

    example = st.tuples(
        st.sampled_from(["GET", "POST", "HEAD", "DELETE", "OPTIONS"]),
        PATH,
        st.lists(st.tuples(HEADER, VALUE), max_size=3),
        st.one_of(st.just(b""), st.binary(max_size=30), st.just(b'{"token": "a"}')),
    )

    @given(st.lists(example, min_size=5, max_size=10))
    def all_are_answered(examples: list[Any]) -> None:
        asyncio.run(run(examples))

    all_are_answered()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []
