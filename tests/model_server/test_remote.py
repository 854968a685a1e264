"""The remote engine against a server that does what the test says."""

from __future__ import annotations

import asyncio
import base64
import logging
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from model_server.errors import EngineFailed, ModelLoadError, ModelServerError, QueueFull
from model_server.images import read_image
from model_server.loop import InferenceLoop
from model_server.remote.connection import RemoteServer
from model_server.remote.engine import open_remote
from model_server.remote.refusals import AWAY, BROKEN_OFF, BUSY, NOT_UNDERSTOOD
from model_server.types import ChatRequest, Delta, Finished, FinishReason, Message, Role, StreamEvent
from tests.images import red_circle
from tests.model_server.scripted_server import (
    GOOD,
    HELLO,
    KEY,
    TIMEOUT_SECONDS,
    USAGE,
    Handler,
    Server,
    answers,
    ask,
    chunk,
    drops,
    streams,
    text_of,
)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    started = Server()
    await started.start()
    yield started
    await started.stop()


@pytest.fixture
async def connect(server: Server) -> AsyncIterator[Callable[..., Awaitable[InferenceLoop]]]:
    async with AsyncExitStack() as stack:

        async def open_one(url: str | None = None, delays: Sequence[float] = (0, 0, 0), **options: Any) -> InferenceLoop:
            loop = await open_remote(RemoteServer(url or server.url, KEY, **options), retry_delays_seconds=delays)
            stack.push_async_callback(loop.close)
            return loop

        yield open_one


# --- what is asked, and what comes back


async def test_a_chat_goes_there_and_the_answer_comes_back(server: Server, connect: Callable[..., Any]) -> None:
    loop = await connect()
    assert (loop.capabilities.model_name, loop.capabilities.context_length) == ("first", 2000)
    image = read_image(red_circle(), "circle.png")
    chat = (Message(Role.USER, "What?", (image,)), Message(Role.ASSISTANT, "Red.", token_ids=(1, 2)), Message(Role.USER, "Why?"))
    events = await ask(loop, chat, max_new_tokens=5, temperature=0.0, top_k=3)
    end = events[-1]
    assert isinstance(end, Finished)
    assert text_of(events) == end.text == "Good day"
    assert (end.reason, end.token_ids) == (FinishReason.STOP, ())
    assert (end.usage.num_prompt_tokens, end.usage.num_cached_tokens, end.usage.num_completion_tokens) == (9, 4, 2)
    [body] = server.asked
    url = f"data:image/png;base64,{base64.b64encode(image.data).decode()}"
    assert body.pop("messages") == [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": "Red."},
        {"role": "user", "content": "Why?"},
    ]
    expected = {"model": "first", "max_tokens": 5, "temperature": 0.0, "top_k": 3, "stream": True}
    assert body == {**expected, "stream_options": {"include_usage": True}}
    assert server.authorizations == [f"Bearer {KEY}"]


async def test_our_own_settings_win_over_what_the_server_lists(server: Server, connect: Callable[..., Any]) -> None:
    loop = await connect(model="second", context_length=3000, max_images_per_chat=4)
    assert (loop.capabilities.model_name, loop.capabilities.context_length) == ("second", 3000)
    assert loop.capabilities.max_images_per_chat == 4
    assert (await connect(model="second")).capabilities.context_length == 4096


@pytest.mark.parametrize("models", [answers(500), answers(404)])
async def test_a_server_that_lists_nothing_is_asked_for_the_named_model(
    server: Server, connect: Callable[..., Any], models: Handler
) -> None:
    server.models = models
    assert text_of(await ask(await connect(model="named"))) == "Good day"
    assert server.asked[0]["model"] == "named"
    with pytest.raises(ModelLoadError, match="cannot be used"):
        await connect()


async def test_what_is_no_model_server_is_told_at_the_start(server: Server, connect: Callable[..., Any]) -> None:
    for models in (streams("<html>"), answers(401)):
        server.models = models
        with pytest.raises(ModelLoadError, match="cannot be used"):
            await connect(model="named")
    server.models, server.entries = None, []
    with pytest.raises(ModelLoadError, match="cannot be used"):
        await connect()


@pytest.mark.parametrize(
    "events",
    [
        (": a comment\n\n", chunk(""), chunk("Good day"), chunk(reason="stop")),  # no [DONE]
        (chunk("Good day", "stop", usage=USAGE),),
        ("event: message\r\n", chunk("Good day").replace("\n", "\r\n"), "id: 7\r\n", chunk(reason="length")),
        (chunk("Good day"), chunk(reason="stop"), "data: [DONE]\n\n", "nobody reads this"),
        ('data: {"choices": [{"delta": {"role": "assistant", "content": null}}]}\n\n', chunk("Good day"), chunk(reason="eos")),
    ],
)
async def test_servers_end_their_answers_in_many_ways(server: Server, connect: Callable[..., Any], events: tuple[str, ...]) -> None:
    server.handlers = [streams(*events)]
    loop = await connect()
    assert text_of(await ask(loop)) == "Good day"
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("events", "sentence"),
    [
        (("data: {nonsense\n\n",), NOT_UNDERSTOOD),
        (('data: {"choices": [7]}\n\n',), NOT_UNDERSTOOD),
        (('data: ["x"]\n\n',), NOT_UNDERSTOOD),
        ((chunk("a"), chunk(reason="abort")), BROKEN_OFF),
        (("data: " + "x" * 300_000 + "\n\n",), NOT_UNDERSTOOD),
        ((chunk("a"),), BROKEN_OFF),
        ((chunk("a"), 'data: {"error": "CUDA error"}\n\n'), "The model server could not answer this."),
        (('data: {"error": {"message": "maximum context length is 5", "code": 400}}\n\n',), "This is too long for me."),
    ],
)
async def test_an_answer_that_is_none_fails_with_a_sentence(
    server: Server, connect: Callable[..., Any], events: tuple[str, ...], sentence: str
) -> None:
    server.handlers = [streams(*events)]
    loop = await connect()
    with pytest.raises(ModelServerError) as caught:
        await ask(loop)
    assert str(caught.value).startswith(sentence)
    assert len(server.asked) == 1
    server.handlers = [streams(*GOOD)]
    assert text_of(await ask(loop)) == "Good day"  # the others go on


async def test_the_guess_of_a_picture_s_tokens_is_corrected(server: Server, connect: Callable[..., Any]) -> None:
    usage = {"prompt_tokens": 1500, "completion_tokens": 1}
    server.handlers = [streams(chunk("a", "stop", usage=usage))]
    loop = await connect()
    question = (Message(Role.USER, "What?", (read_image(red_circle(), "circle.png"),)),)
    before = await loop.num_prompt_tokens(question)
    assert 576 < before < 600
    await ask(loop, question)
    assert await loop.num_prompt_tokens(question) == 1500


# --- away, busy, back again


async def test_before_the_first_word_it_is_asked_again(server: Server, connect: Callable[..., Any]) -> None:
    nothing_said = streams(": hello\n\n", chunk(""), then_breaks=True)
    server.handlers = [answers(503, **{"Retry-After": "0"}), drops, nothing_said, streams(*GOOD)]
    loop = await connect()
    assert text_of(await ask(loop)) == "Good day"
    assert len(server.asked) == 4
    assert all(body == server.asked[0] for body in server.asked)


async def test_after_the_first_word_never(server: Server, connect: Callable[..., Any]) -> None:
    server.handlers = [streams(chunk("Good"), then_breaks=True), streams(*GOOD)]
    loop = await connect()
    seen: list[StreamEvent] = []
    async with asyncio.timeout(TIMEOUT_SECONDS):
        stream = loop.submit(ChatRequest("r", HELLO))
        with pytest.raises(EngineFailed, match="broke off"):
            seen += [event async for event in stream]
    assert len(server.asked) == 1
    assert text_of(await ask(loop)) == "Good day"


@pytest.mark.parametrize(
    ("handler", "kind", "sentence"),
    [
        (answers(429), QueueFull, BUSY),
        (answers(502), EngineFailed, AWAY),
        (answers(503), EngineFailed, AWAY),
        (drops, EngineFailed, AWAY),
    ],
)
async def test_it_is_not_asked_for_ever(
    server: Server, connect: Callable[..., Any], handler: Handler, kind: type[ModelServerError], sentence: str
) -> None:
    server.handlers = [handler]
    loop = await connect()
    with pytest.raises(kind) as caught:
        await ask(loop)
    assert (type(caught.value), str(caught.value)) == (kind, sentence)
    assert len(server.asked) == 4  # once, and once after each of the three delays


async def test_a_server_that_is_away_at_the_start_is_used_when_it_is_there(
    connect: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    late = Server()
    await late.start()  # only to find a free port
    await late.stop()
    loop = await connect(late.url)
    assert "is not there yet" in caplog.text
    assert loop.capabilities.context_length == 4096
    with pytest.raises(EngineFailed) as caught:
        await ask(loop)
    assert str(caught.value) == AWAY
    await late.start()
    try:
        assert text_of(await ask(loop)) == "Good day"
        about_it = [record.getMessage().partition(late.url)[2] for record in caplog.records if "reached" in record.getMessage()]
        assert [sentence.partition(":")[0] for sentence in about_it] == [" cannot be reached", " can be reached again."]
        assert loop.capabilities.context_length == 2000
        assert late.asked[0]["model"] == "first"
        # Dies, and comes back with another model.
        late.handlers = [answers(404, {"message": "no such model"}), streams(*GOOD)]
        late.entries = [{"id": "another", "max_model_len": 3000}]
        assert text_of(await ask(loop)) == "Good day"
        assert [body["model"] for body in late.asked] == ["first", "first", "another"]
    finally:
        await late.stop()


async def test_cancelling_closes_the_connection(server: Server, connect: Callable[..., Any]) -> None:
    left = asyncio.Event()
    server.handlers = [streams(chunk("Good"), until=left)]
    loop = await connect()
    async with asyncio.timeout(TIMEOUT_SECONDS):
        stream = loop.submit(ChatRequest("r", HELLO))
        async for event in stream:
            if isinstance(event, Delta):
                stream.cancel()
            if isinstance(event, Finished):
                assert (event.reason, event.text) == (FinishReason.CANCELLED, "Good")
        await left.wait()
    assert loop.num_running == 0


async def test_closing_ends_what_runs(server: Server) -> None:
    left = asyncio.Event()
    server.handlers = [streams(chunk("Good"), until=left)]
    loop = await open_remote(RemoteServer(server.url))
    async with asyncio.timeout(TIMEOUT_SECONDS):
        stream = loop.submit(ChatRequest("r", HELLO))
        while not isinstance(await anext(stream), Delta):
            pass
        await loop.close()
        await loop.close()
        await left.wait()
        with pytest.raises(ModelServerError, match="shutting down"):
            await anext(stream)


# --- refused


async def test_a_wrong_key_is_told_at_the_start_and_later(
    server: Server, connect: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    loop = await connect()
    server.handlers = [answers(401, {"message": f"Incorrect API key provided: {KEY}"})]
    with pytest.raises(EngineFailed, match="does not let me in"):
        await ask(loop)
    assert len(server.asked) == 1
    server.models = answers(401)
    with pytest.raises(ModelLoadError):
        await connect(model="named")
    told = [
        record.getMessage()
        for record in caplog.records
        if record.levelno == logging.ERROR and "refuses the API key" in record.getMessage()
    ]
    assert len(told) == 2
    assert KEY not in caplog.text
    assert KEY not in repr(RemoteServer(server.url, KEY))


async def test_the_key_does_not_follow_a_redirect(
    server: Server, connect: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    other = Server()
    await other.start()
    try:
        server.handlers = [answers(307, Location=f"{other.url}/chat/completions")]
        with pytest.raises(EngineFailed):
            await ask(await connect())
        assert (len(server.asked), other.asked) == (1, [])
        assert "redirects" in caplog.text
    finally:
        await other.stop()


@pytest.fixture
def certificate(tmp_path: Path) -> ssl.SSLContext:
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    make = "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1 -keyout key -out cert"
    subprocess.run(["openssl", *make.split()], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    return context


async def test_a_certificate_that_nobody_vouches_for_is_not_trusted(
    certificate: ssl.SSLContext, connect: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    other = Server()
    await other.start(certificate)
    try:
        with pytest.raises(ModelLoadError):
            await connect(other.url.replace("http:", "https:"))
        assert "certificate" in caplog.text
        assert other.asked == []
    finally:
        await other.stop()


async def test_proxies_of_the_environment_are_not_used(
    server: Server, connect: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert text_of(await ask(await connect())) == "Good day"
