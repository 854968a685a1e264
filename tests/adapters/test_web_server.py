"""The web adapter over real HTTP: what it accepts, what it refuses, and what tabs are told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.base import Answer, AnswerStatus, AnswerText, Author, ChatView, IncomingMessage, ThreadKey, Waiting
from adapters.sizes import format_size
from adapters.web.uploads import clean_file_name
from tests.adapters.web_client import KEY, THREAD, ask, form, open_tab, serving
from tests.chat_handler import TIMEOUT_SECONDS, MemoryChatHandler, draw_image

# -- asking and listening


async def test_a_question_reaches_the_chat_with_its_picture(client: aiohttp.ClientSession, handler: MemoryChatHandler) -> None:
    status, body = await ask(client, form("What is it?", data=draw_image(), name="shapes.png"))
    assert (status, body) == (202, {"turn_id": 1})
    message = handler.messages[0]
    assert (message.key, message.message_id, message.text) == (KEY, "m" * 20, "What is it?")
    assert [(item.name, item.size) for item in message.attachments] == [("shapes.png", len(draw_image()))]
    assert await message.attachments[0].fetch(10**7) == draw_image()


async def test_a_repeated_message_is_answered_once(client: aiohttp.ClientSession, handler: MemoryChatHandler) -> None:
    first = await ask(client, form(data=draw_image()))
    second = await ask(client, form(data=draw_image()))
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
        await ask(client, form(data=draw_image()))
        started = await early.next("chat")
        assert (started["is_running"], started["running_turn_id"]) == (True, 1)
        assert (await elsewhere.next("listed"))["chat"]["thread"] == THREAD

        answer = await handler.next_answer()
        await answer.add(Waiting(2, 3.5))
        waiting = {"type": "waiting", "thread": THREAD, "position": 2, "estimated_wait_seconds": 3.5, "is_loading": False}
        assert await early.next("waiting") == waiting
        await answer.add(AnswerText("A red "))
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


async def test_an_answer_that_begins_by_itself_after_a_restart_is_found(
    handler: MemoryChatHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    await handler.handle(IncomingMessage(KEY, "m" * 20, Author("local", "You"), "What is it?"))
    async with serving(handler) as client, open_tab(client, THREAD) as tab:
        with monkeypatch.context() as patch:
            patch.setattr(handler, "running_answer", lambda key: None)  # written down, and not being answered yet
            first = await tab.next("chat")
        assert (first["is_running"], first["chat"]["turns"][0]["status"]) == (False, "pending")
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
    assert chat.turns[0].error == "I could not use big.png: it has 100 MB, and I take at most 20 MB."


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
    handler.add_image(KEY, "e" * 64, draw_image(), "image/png")
    async with client.get(f"/api/chats/{THREAD}/pictures/{'f' * 64}") as response:
        assert response.content_type == "application/octet-stream"
        assert response.headers["Content-Disposition"] == "attachment"
    async with client.get(f"/api/chats/{THREAD}/pictures/{'e' * 64}") as response:
        assert (response.content_type, await response.read()) == ("image/png", draw_image())
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
        etag = response.headers["ETag"]
    async with client.get(f"/api/chats/{THREAD}/pictures/{'e' * 64}", headers={"If-None-Match": etag}) as response:
        assert response.status == 304
    async with client.get(f"/api/chats/{'b' * 32}/pictures/{'e' * 64}") as response:
        assert response.status == 404  # only within its own chat


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
