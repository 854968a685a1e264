"""What model servers refuse, and how; and how they list their models. A name behind a line is a server that does this."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from adapters.base import AnswerStatus, Notice
from bot.app import open_chats
from bot.chats import Chats
from bot.config import Settings
from bot.writer import CUT_NOTICE, FILTERED_NOTICE, TOOL_NOTICE
from model_server.errors import EngineFailed, ModelServerError, PromptTooLong, QueueFull
from model_server.remote.refusals import AWAY, BROKEN_OFF, BUSY, FILTERED, LOADING, NO_WORD, NOT_UNDERSTOOD, SILENT
from tests.bot import doubles
from tests.bot.doubles import attachment, thread
from tests.images import red_circle
from tests.model_server.scripted_server import (
    GOOD,
    TIMEOUT_SECONDS,
    Handler,
    Server,
    answers,
    ask,
    chunk,
    data,
    sends,
    streams,
    text_of,
    whole,
)

PAGE = "<!doctype html><html><body>Sign in</body></html>"


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    started = Server()
    started.entries = [{"id": "llava", "max_model_len": 2000}]
    await started.start()
    yield started
    await started.stop()


# --- a cause that is known is told, once

LOST = "The model server could not answer this."
OVERLOADED = {"error": {"code": 502, "message": "Provider disconnected"}}


@pytest.mark.parametrize(
    ("handler", "kind", "sentence", "num_asked"),
    [
        (sends({"error": {"message": "CUDA error", "code": 500}}), EngineFailed, LOST, 1),
        (sends({"error": "CUDA error"}), EngineFailed, LOST, 1),
        (sends([{"error": {"code": 401, "message": "no"}}]), EngineFailed, "The model server does not let me in.", 1),  # Gemini
        (sends({"object": "error", "message": "maximum context length is 4096 tokens"}), PromptTooLong, "This is too long", 1),
        (sends({"detail": [{"msg": "the prompt is too long"}]}), PromptTooLong, "This is too long", 1),
        (sends({"message": "Unauthorized", "code": 401}), EngineFailed, "The model server does not let me in.", 1),
        (sends({"error": {"code": 429, "message": "Rate limited"}}), QueueFull, BUSY, 5),  # OpenRouter
        (
            sends({"error": {"code": 402, "message": "Insufficient credits"}}),
            EngineFailed,
            "The account at the model server has no credit left.",
            1,
        ),
        (
            sends({"choices": None, "base_resp": {"status_code": 1004, "status_msg": "login fail"}}),
            EngineFailed,
            "The model server does not let me in.",
            1,
        ),  # MiniMax
        (sends({"base_resp": {"status_code": 1039, "status_msg": "token limit"}}), PromptTooLong, "This is too long", 1),
        (sends({"base_resp": {"status_code": 1026, "status_msg": "input new_sensitive"}}), EngineFailed, FILTERED, 1),
        (sends({"code": 429, "msg": "Too many requests", "data": None}), QueueFull, BUSY, 5),  # gateways in Java
        (sends({"success": False, "errorCode": "X", "errorMsg": "Server exploded"}), EngineFailed, LOST, 1),
        (sends(PAGE), EngineFailed, NOT_UNDERSTOOD, 1),
        (sends({"status": "ok"}), EngineFailed, "The model has given no answer.", 1),
        (streams(data(OVERLOADED)), EngineFailed, AWAY, 5),
        (streams(chunk("Good"), data({**OVERLOADED, "choices": [{"finish_reason": "error"}]})), EngineFailed, BROKEN_OFF, 1),
        (streams(data({"choices": [{"error": OVERLOADED["error"], "finish_reason": "error"}]})), EngineFailed, AWAY, 5),
        (streams("event: error\n", data({"message": "the prompt is too long"})), PromptTooLong, "This is too long", 1),
        (streams('error: {"message": "context size exceeded"}\n\n'), PromptTooLong, "This is too long", 1),  # llama.cpp
        (streams(chunk("Good"), '{"error": "an unknown error"}\n'), EngineFailed, LOST, 1),  # Ollama
        (
            streams('data:{"error":"CUDA out of memory","error_type":"generation"}\n\n'),
            EngineFailed,
            "The model server has run out",
            1,
        ),
        (streams(data({"text": "**NETWORK ERROR**", "error_code": 50001})), EngineFailed, LOST, 1),  # FastChat
        (streams(chunk("Good"), data({"x_groq": {"error": "over capacity"}, "choices": []})), EngineFailed, LOST, 1),  # Groq
        (streams(then_breaks=True), EngineFailed, NO_WORD, 5),
        (
            answers(503, {"message": "Loading model", "type": "unavailable_error", "code": 503}),
            EngineFailed,
            LOADING,
            5,
        ),  # llama.cpp
        (answers(503, "server busy, please try again. maximum pending requests exceeded"), QueueFull, BUSY, 5),  # Ollama
        (answers(529, {"type": "overloaded_error"}), QueueFull, BUSY, 5),
        (
            answers(429, {"code": "insufficient_quota"}),
            EngineFailed,
            "The account at the model server has no credit left.",
            1,
        ),  # OpenAI
        (answers(429, {"message": "Rate limit reached"}, **{"Retry-After": "3600"}), QueueFull, BUSY, 1),
        (answers(429, {}, **{"Retry-After": "Fri, 31 Dec 2099 23:59:59 GMT"}), QueueFull, BUSY, 1),
        (answers(429, {}, **{"Retry-After": "0.001"}), QueueFull, BUSY, 5),
        (answers(429, {}, **{"Retry-After": "soon"}), QueueFull, BUSY, 5),
        (answers(400, {"code": "content_filter"}), EngineFailed, FILTERED, 1),  # Azure
        (
            answers(404, {"message": 'model "llava" not found, try pulling it first'}),
            EngineFailed,
            "The model server does not have",
            1,
        ),
        (answers(413), EngineFailed, "The model server does not take a request as large", 1),
    ],
)
async def test_an_error_is_told_as_what_it_is(
    server: Server, handler: Handler, kind: type[ModelServerError], sentence: str, num_asked: int
) -> None:
    server.handlers = [handler]
    with pytest.raises(kind) as caught:
        await ask(await server.connect())
    assert str(caught.value).startswith(sentence)
    assert len(server.asked) == num_asked


@pytest.mark.parametrize("said", [[], [chunk("Good")]])
async def test_a_server_that_falls_silent_is_told_as_that(server: Server, monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    monkeypatch.setattr("model_server.remote.connection._SILENCE_SECONDS", 0.2)
    server.handlers = [streams(*said, until=asyncio.Event())]
    with pytest.raises(EngineFailed) as caught:
        await ask(await server.connect())
    assert str(caught.value) == SILENT
    assert len(server.asked) == 1


async def test_a_server_that_says_how_little_it_takes_is_believed(server: Server) -> None:
    stated = {
        "type": "exceed_context_size_error",
        "message": "exceeds the available context size",
        "n_prompt_tokens": 900,
        "n_ctx": 800,
    }
    server.handlers = [answers(400, stated), streams(*GOOD)]
    loop = await server.connect()
    with pytest.raises(PromptTooLong):
        await ask(loop)
    assert loop.capabilities.context_length == 800
    assert text_of(await ask(loop)) == "Good day"
    assert loop.capabilities.context_length == 800  # although the list still says 2000
    assert len(server.asked) == 2


@asynccontextmanager
async def chats_at(server: Server, folder: Path) -> AsyncIterator[Chats]:
    settings = Settings.model_validate({"data_dir": folder, "engine_url": server.url, "max_new_tokens": 50})
    async with open_chats(settings, f"sqlite+aiosqlite:///{folder / 'chats.db'}") as (chats, _):
        yield chats


async def test_a_chat_that_is_too_long_for_the_server_goes_on_with_fewer_turns(server: Server, tmp_path: Path) -> None:
    """Nobody who asks in a few words is told to ask in fewer."""
    stated = {"message": "This model's maximum context length is 900 tokens."}
    server.handlers = [streams(chunk("word " * 150, "stop")), answers(400, stated), streams(*GOOD)]
    async with asyncio.timeout(TIMEOUT_SECONDS), chats_at(server, tmp_path) as chats:
        await doubles.ask(chats, "What is this?", attachment(red_circle()))
        second = await doubles.ask(chats, "And now?")
    assert (doubles.text_of(second), doubles.end_of(second).status) == ("Good day", AnswerStatus.COMPLETE)
    assert [len(body["messages"]) for body in server.asked] == [1, 3, 1]
    assert any(isinstance(event, Notice) and "grown long" in event.text for event in second)


@pytest.mark.parametrize(
    ("reason", "notice"), [("content_filter", FILTERED_NOTICE), ("tool_calls", TOOL_NOTICE), ("length", CUT_NOTICE), ("stop", None)]
)
async def test_people_see_what_cut_an_answer(server: Server, tmp_path: Path, reason: str, notice: str | None) -> None:
    server.handlers = [streams(chunk("Good day"), chunk(reason=reason))]
    async with asyncio.timeout(TIMEOUT_SECONDS), chats_at(server, tmp_path) as chats:
        events = await doubles.ask(chats, "What is this?", attachment(red_circle()))
        view = await chats.read_chat(thread())
    assert (doubles.text_of(events), doubles.end_of(events).status) == ("Good day", AnswerStatus.COMPLETE)
    assert [event.text for event in events if isinstance(event, Notice)] == ([] if notice is None else [notice])
    assert view is not None
    assert view.turns[0].answer == "Good day"


# --- what a server does not take is left out, and that is remembered


def refuses(*fields: str, status: int = 400, says: Callable[[str], object] = lambda name: f"Unknown field: {name}") -> Handler:
    """Refuses the first of these fields that it is sent."""

    async def handle(request: Any) -> Any:
        body = await request.json()
        refused = next((name for name in fields if name in body), None)
        return await (streams(*GOOD) if refused is None else answers(status, says(refused)))(request)

    return handle


def no_reason(name: str) -> object:
    return "Bad Request"


def pydantic(name: str) -> object:
    return {
        "detail": [{"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs are not permitted", "input": "image"}]
    }


@pytest.mark.parametrize(
    ("handler", "num_asked", "left_out"),
    [
        (refuses("stream_options"), 2, {"stream_options"}),
        (refuses("stream_options", status=422), 2, {"stream_options"}),
        (refuses("stream_options", status=422, says=pydantic), 2, {"stream_options"}),
        (refuses("stream_options", says=no_reason), 2, {"stream_options", "top_k"}),  # the rarest
        (refuses("stream_options", status=500, says=lambda name: f"unexpected keyword argument '{name}'"), 2, {"stream_options"}),
        (refuses("max_tokens", says=lambda name: f"Use 'max_completion_tokens' instead of '{name}'."), 2, {"max_tokens"}),  # OpenAI
        (refuses("max_tokens", "max_completion_tokens"), 3, {"max_tokens", "max_completion_tokens"}),
        (refuses("temperature", says=lambda name: f"'{name}' does not support 0.2 with this model."), 2, {"temperature"}),  # OpenAI
        (refuses("temperature", "stream_options"), 3, {"temperature", "stream_options"}),
        (refuses("top_k", says=lambda name: {"message": "Unrecognized", "param": name}), 2, {"top_k"}),
    ],
)
async def test_a_field_that_is_refused_is_left_out(server: Server, handler: Handler, num_asked: int, left_out: set[str]) -> None:
    server.handlers = [handler]
    loop = await server.connect()
    assert text_of(await ask(loop, top_k=3)) == "Good day"
    assert len(server.asked) == num_asked
    assert not left_out & server.asked[-1].keys()
    assert text_of(await ask(loop, top_k=3)) == "Good day"
    assert len(server.asked) == num_asked + 1  # remembered
    kept = {"max_tokens", "temperature", "stream", "stream_options", "top_k"} - left_out
    assert kept <= server.asked[-1].keys()


async def test_max_tokens_goes_by_its_newer_name(server: Server) -> None:
    server.handlers = [refuses("max_tokens")]
    await ask(await server.connect(), max_new_tokens=7)
    assert [body.get("max_tokens") for body in server.asked] == [7, None]
    assert server.asked[-1]["max_completion_tokens"] == 7


async def test_a_server_that_cannot_stream_is_asked_for_the_whole(server: Server) -> None:
    server.handlers = [answers(400, {"message": "Streaming is off.", "param": "stream"}), sends(whole("Good day"))]
    assert text_of(await ask(await server.connect())) == "Good day"
    assert not {"stream", "stream_options"} & server.asked[-1].keys()


async def test_a_question_that_stays_refused_is_asked_once_more_and_nothing_is_remembered(server: Server) -> None:
    server.handlers = [answers(400, "Bad Request"), answers(400, "Bad Request"), streams(*GOOD)]
    loop = await server.connect()
    with pytest.raises(EngineFailed, match="could not answer this"):
        await ask(loop)
    assert len(server.asked) == 2
    await ask(loop)
    assert "stream_options" in server.asked[-1]
