"""The web adapter over real HTTP: what it accepts, what it refuses, and what tabs are told."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import pytest
import yarl
from hypothesis import given
from hypothesis import strategies as st

from adapters.base import Answer, AnswerStatus, AnswerText, Author, ChatView, IncomingMessage, ThreadKey, Waiting
from adapters.web import WebAdapter, WebAddressError
from adapters.web.guard import MAX_GUESSES, GuessLimit
from adapters.web.server import is_loopback
from adapters.web.uploads import clean_file_name, format_size
from tests.chat_handler import TIMEOUT_SECONDS, MemoryChatHandler, draw_picture

THREAD = "a" * 32
KEY = ThreadKey("web", "local", "page", THREAD)
TOKEN = "correct horse battery staple"


@asynccontextmanager
async def serving(handler: MemoryChatHandler, *, token: str | None = None, **options: Any) -> AsyncIterator[aiohttp.ClientSession]:
    adapter = WebAdapter("127.0.0.1", 0, token, **options)
    task = asyncio.create_task(adapter.run(handler))
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await adapter.started.wait()
        assert adapter.url is not None
        jar = aiohttp.CookieJar(unsafe=True)  # cookies of an address without a name
        async with aiohttp.ClientSession(adapter.url, cookie_jar=jar) as client:
            yield client
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def handler() -> MemoryChatHandler:
    return MemoryChatHandler()


@pytest.fixture
async def client(handler: MemoryChatHandler) -> AsyncIterator[aiohttp.ClientSession]:
    async with serving(handler) as client:
        yield client


def form(
    text: str = "What is it?", *, message_id: str = "m" * 20, data: bytes | None = None, name: str = "a.png"
) -> aiohttp.FormData:
    fields = aiohttp.FormData(default_to_multipart=True)
    fields.add_field("message_id", message_id)
    fields.add_field("text", text)
    if data is not None:
        fields.add_field("picture", data, filename=name, content_type="image/png")
    return fields


async def ask(client: aiohttp.ClientSession, fields: aiohttp.FormData, thread: str = THREAD) -> tuple[int, Any]:
    async with client.post(f"/api/chats/{thread}/messages", data=fields) as response:
        return response.status, await response.json()


class TabReader:
    def __init__(self, connection: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = connection

    async def watch(self, thread: str | None) -> None:
        await self.socket.send_json({"watch": thread})

    async def next(self, kind: str) -> dict[str, Any]:
        """The next message of a kind; others are passed over."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while True:
                message: dict[str, Any] = await self.socket.receive_json()
                if message["type"] == kind:
                    return message


@asynccontextmanager
async def open_tab(client: aiohttp.ClientSession, thread: str | None = None) -> AsyncIterator[TabReader]:
    async with client.ws_connect("/api/tab") as connection:
        tab = TabReader(connection)
        if thread is not None:
            await tab.watch(thread)
        yield tab


# -- asking and listening


async def test_a_question_reaches_the_chat_with_its_picture(client: aiohttp.ClientSession, handler: MemoryChatHandler) -> None:
    status, body = await ask(client, form("What is it?", data=draw_picture(), name="shapes.png"))
    assert (status, body) == (202, {"turn_id": 1})
    message = handler.messages[0]
    assert (message.key, message.message_id, message.text) == (KEY, "m" * 20, "What is it?")
    assert [(item.name, item.size) for item in message.attachments] == [("shapes.png", len(draw_picture()))]
    assert await message.attachments[0].fetch(10**7) == draw_picture()


async def test_a_repeated_message_is_answered_once(client: aiohttp.ClientSession, handler: MemoryChatHandler) -> None:
    first = await ask(client, form(data=draw_picture()))
    second = await ask(client, form(data=draw_picture()))
    assert first == second
    chat = await handler.read_chat(KEY)
    assert chat is not None
    assert len(chat.turns) == 1


async def test_every_tab_gets_the_answer_and_a_late_one_gets_the_text_so_far(
    client: aiohttp.ClientSession, handler: MemoryChatHandler
) -> None:
    async with open_tab(client, THREAD) as early, open_tab(client) as elsewhere:
        assert (await early.next("chat"))["chat"] is None
        assert (await elsewhere.next("chats"))["chats"] == []
        await ask(client, form(data=draw_picture()))
        started = await early.next("chat")
        assert (started["is_running"], started["running_turn_id"]) == (True, 1)
        assert [chat["thread"] for chat in (await elsewhere.next("chats"))["chats"]] == [THREAD]

        answer = await handler.next_answer()
        await answer.add(Waiting(2, 3.5), AnswerText("A red "))
        assert await early.next("waiting") == {"type": "waiting", "thread": THREAD, "position": 2, "estimated_wait_seconds": 3.5}
        assert (await early.next("text"))["text"] == "A red "
        async with open_tab(client, THREAD) as late:
            assert (await late.next("chat"))["is_running"] is True
            assert (await late.next("text"))["text"] == "A red "
            await answer.add(AnswerText("circle."))
            await handler.end(answer)
            for tab in (early, late):
                assert (await tab.next("text"))["text"] == "circle."
                assert (await tab.next("ended"))["status"] == "complete"
                after = await tab.next("chat")
                assert after["is_running"] is False
                assert after["chat"]["turns"][0]["answer"] == "A red circle."


async def test_an_answer_that_begins_by_itself_after_a_restart_is_found(handler: MemoryChatHandler) -> None:
    await handler.handle(IncomingMessage(KEY, "m" * 20, Author("local", "You"), "What is it?"))
    answer = handler._running.pop(KEY)  # written down, and not being answered yet
    async with serving(handler) as client, open_tab(client, THREAD) as tab:
        first = await tab.next("chat")
        assert (first["is_running"], first["chat"]["turns"][0]["status"]) == (False, "pending")
        handler._running[KEY] = answer
        await handler.answer_next("A circle.")
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while (await tab.next("chat"))["chat"]["turns"][0]["answer"] != "A circle.":
                pass


async def test_stop_reaches_the_running_answer(client: aiohttp.ClientSession, handler: MemoryChatHandler) -> None:
    await ask(client, form())
    answer = await handler.next_answer()
    async with client.post(f"/api/chats/{THREAD}/stop") as response:
        assert response.status == 204
    assert answer.is_stop_wanted.is_set()
    await handler.end(answer, AnswerStatus.STOPPED)
    async with client.post(f"/api/chats/{THREAD}/stop") as response:
        assert response.status == 204  # it has ended meanwhile: nothing to say about that


async def test_regenerate_answers_again(client: aiohttp.ClientSession, handler: MemoryChatHandler) -> None:
    async with client.post(f"/api/chats/{THREAD}/regenerate") as response:
        assert (response.status, "no question" in (await response.json())["error"]) == (409, True)
    await ask(client, form())
    await handler.answer_next("One.")
    async with client.post(f"/api/chats/{THREAD}/regenerate") as response:
        assert (response.status, await response.json()) == (202, {"turn_id": 1})
    await handler.answer_next("Two.")
    chat = await handler.read_chat(KEY)
    assert chat is not None
    assert [turn.answer for turn in chat.turns] == ["Two."]


async def test_a_refusal_of_which_nothing_is_stored_is_told_in_the_response(
    client: aiohttp.ClientSession, handler: MemoryChatHandler
) -> None:
    handler.next_refusal = "The queue is full just now."
    assert await ask(client, form()) == (200, {"turn_id": None, "notices": [], "error": "The queue is full just now."})


async def test_delete_removes_the_chat_and_tells_the_tabs(client: aiohttp.ClientSession, handler: MemoryChatHandler) -> None:
    await ask(client, form())
    await handler.answer_next("Yes.")
    async with open_tab(client, THREAD) as tab:
        assert (await tab.next("chat"))["chat"] is not None
        async with client.delete(f"/api/chats/{THREAD}") as response:
            assert response.status == 204
        assert (await tab.next("chat"))["chat"] is None
    async with client.delete(f"/api/chats/{THREAD}") as response:
        assert response.status == 404


async def test_tabs_are_closed_when_the_server_stops(handler: MemoryChatHandler) -> None:
    async with serving(handler) as client:
        connection = await client.ws_connect("/api/tab")
        await connection.receive_json()
        serving_tasks = [task for task in asyncio.all_tasks() if "WebAdapter.run" in repr(task)]
        serving_tasks[0].cancel()
        async with asyncio.timeout(TIMEOUT_SECONDS):
            closed = await connection.receive()
        assert (closed.type, connection.close_code) == (aiohttp.WSMsgType.CLOSE, aiohttp.WSCloseCode.GOING_AWAY)


async def test_nonsense_from_a_tab_is_ignored(client: aiohttp.ClientSession) -> None:
    async with open_tab(client) as tab:
        for nonsense in ("{", "[]", '{"watch": 3}', '{"watch": "../x"}', "null"):
            await tab.socket.send_str(nonsense)
        await tab.watch(THREAD)
        assert (await tab.next("chat"))["thread"] == THREAD


# -- uploads


async def test_a_hundred_megabytes_get_a_sentence(client: aiohttp.ClientSession, handler: MemoryChatHandler) -> None:
    async def stream() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield bytes(10**6)

    boundary = "x" * 30
    start = "".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{rest}\r\n\r\n{value}'
        for name, rest, value in (("message_id", "", "m" * 20 + "\r\n"), ("picture", '; filename="big.png"', ""))
    )

    async def body() -> AsyncIterator[bytes]:
        yield start.encode()
        async for chunk in stream():
            yield chunk
        yield f"\r\n--{boundary}--\r\n".encode()

    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    async with client.post(f"/api/chats/{THREAD}/messages", data=body(), headers=headers) as response:
        assert (response.status, await response.json()) == (202, {"turn_id": 1})
    chat = await handler.read_chat(KEY)
    assert chat is not None
    assert chat.turns[0].error == "I could not use big.png: it is 100 MB, and I can take pictures of up to 20 MB."


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        (form(message_id="short"), 400, "proper id"),
        (form(message_id="spaces are not allowed"), 400, "proper id"),
        (form("x" * 300_000), 413, "fewer words"),
    ],
)
async def test_a_bad_form_gets_a_sentence(
    client: aiohttp.ClientSession, handler: MemoryChatHandler, fields: aiohttp.FormData, status: int, words: str
) -> None:
    got, body = await ask(client, fields)
    assert got == status
    assert words in body["error"]
    assert handler.messages == []


@pytest.mark.parametrize("content_type", ["text/plain", "multipart/form-data", "multipart/form-data; boundary=b"])
async def test_a_body_that_is_no_form_gets_a_sentence(client: aiohttp.ClientSession, content_type: str) -> None:
    path = f"/api/chats/{THREAD}/messages"
    async with client.post(path, data=b"--b\r\nhalf", headers={"Content-Type": content_type}) as response:
        assert response.status in (400, 415)
        assert (await response.json())["error"].endswith(".")


async def test_too_many_pictures_are_refused(client: aiohttp.ClientSession, handler: MemoryChatHandler) -> None:
    fields = form()
    for index in range(9):
        fields.add_field("picture", b"x", filename=f"{index}.png")
    status, body = await ask(client, fields)
    assert (status, body["error"]) == (400, "Please send at most 8 pictures at a time.")
    assert handler.messages == []


@given(st.text())
def test_a_file_name_is_made_fit_for_a_sentence(name: str) -> None:
    cleaned = clean_file_name(name)
    assert 1 <= len(cleaned) <= 100
    assert all(character.isprintable() or character.isspace() for character in cleaned)
    assert not set("/\\\n\r\t\x00\x1b\u202e\u2066") & set(cleaned)


def test_sizes_are_told_in_words() -> None:
    assert [format_size(n) for n in (0, 1500, 20_000_000, 1_250_000)] == ["1 kB", "2 kB", "20 MB", "1.2 MB"]


# -- pictures


async def test_a_picture_is_served_as_a_picture_and_nothing_else(client: aiohttp.ClientSession, handler: MemoryChatHandler) -> None:
    handler.add_image(KEY, "f" * 64, b"<script>alert(1)</script>", "text/html")
    handler.add_image(KEY, "e" * 64, draw_picture(), "image/png")
    async with client.get(f"/api/chats/{THREAD}/pictures/{'f' * 64}") as response:
        assert response.content_type == "application/octet-stream"
        assert response.headers["Content-Disposition"] == "attachment"
    async with client.get(f"/api/chats/{THREAD}/pictures/{'e' * 64}") as response:
        assert (response.content_type, await response.read()) == ("image/png", draw_picture())
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
        etag = response.headers["ETag"]
    async with client.get(f"/api/chats/{THREAD}/pictures/{'e' * 64}", headers={"If-None-Match": etag}) as response:
        assert response.status == 304
    async with client.get(f"/api/chats/{'b' * 32}/pictures/{'e' * 64}") as response:
        assert response.status == 404  # only within its own chat


# -- who may ask


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
        assert (await response.json()) == {"is_signed_in": True}
    async with (
        serving(MemoryChatHandler(), token="another " + TOKEN) as other,
        other.get("/api/session", cookies=passes) as response,
    ):
        assert (await response.json()) == {"is_signed_in": False}


async def test_guesses_are_bounded(handler: MemoryChatHandler) -> None:
    async with serving(handler, token=TOKEN) as client:
        statuses = []
        for _ in range(MAX_GUESSES + 2):
            async with client.post("/api/session", json={"token": "guess"}) as response:
                statuses.append(response.status)
        assert statuses[:MAX_GUESSES] == [403] * MAX_GUESSES
        assert 429 in statuses[MAX_GUESSES:]
        async with client.post("/api/session", data=b"{") as response:
            assert response.status in (400, 429)


def test_guesses_come_back_with_time() -> None:
    now = 0.0
    limit = GuessLimit(lambda: now)
    for _ in range(MAX_GUESSES):
        assert not limit.is_spent()
        limit.count_wrong()
    assert limit.is_spent()
    now = 6.5
    assert not limit.is_spent()
    limit.count_wrong()
    assert limit.is_spent()


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


# -- when something breaks


QUOTED = "secret question text"


class BrokenHandler(MemoryChatHandler):
    async def regenerate(self, key: ThreadKey) -> Answer | None:
        raise RuntimeError(QUOTED)

    async def read_chat(self, key: ThreadKey) -> ChatView | None:
        raise RuntimeError(QUOTED)


async def test_a_fault_inside_shows_no_traceback_and_logs_no_text(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(BrokenHandler()) as client:
        async with client.post(f"/api/chats/{THREAD}/regenerate") as response:
            body = await response.text()
            assert (response.status, json.loads(body)) == (500, {"error": "Something went wrong on our side. Please try again."})
        async with open_tab(client, THREAD) as tab, asyncio.timeout(TIMEOUT_SECONDS):
            while (message := await tab.socket.receive()).type is aiohttp.WSMsgType.TEXT:
                pass
            assert message.data == aiohttp.WSCloseCode.INTERNAL_ERROR
    assert "RuntimeError" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize("thread", ["short", "A" * 32, "a" * 65, "a" * 31 + "%2F"])
async def test_a_thread_id_that_no_page_makes_is_refused(client: aiohttp.ClientSession, thread: str) -> None:
    async with client.post(f"/api/chats/{thread}/stop") as response:
        assert response.status == 404
