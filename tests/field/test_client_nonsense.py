"""What nobody should send to `threadsight serve`: every field with every kind of value, huge bodies, requests that are no HTTP."""

from __future__ import annotations

import asyncio
import json
import logging
import tracemalloc
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_server.serve.refusal import BadRequest
from model_server.serve.request import CompletionRequest, read_body, read_request
from model_server.types import Message
from tests.model_server.served import DATA_URL, TIMEOUT_SECONDS, serving
from tests.model_server.worded_engine import WordedEngine

JSON_BODY = {"Content-Type": "application/json"}
HELLO = [{"role": "user", "content": "Hi"}]


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Any]]:
    async with serving() as start:
        yield start


# --- every field with every kind of value: an answer, or a sentence that names the field

TEXT = st.text(st.characters(exclude_categories=()), max_size=6)  # with halves of characters
ODD: list[object] = [
    float("nan"),
    float("inf"),
    1e308,
    10**30,
    -1,
    0,
    1,
    True,
    None,
    "",
    [],
    {},
    "0.5",
    "\ud83d",
    "\0",
    2**63,
    [[]],
]
VALUE = st.recursive(
    st.sampled_from(ODD) | TEXT | st.integers() | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=4,
)
URL = st.sampled_from([DATA_URL, "data:,", "data:image/png;base64,%", "http://[", "http://127.0.0.1:1/", "x:y", "//a", ""])
PARTS: list[dict[str, Any]] = [
    {"type": "text", "text": "Hi"},
    {"type": "refusal", "refusal": "No."},
    {"type": "input_image", "image_url": DATA_URL},
]
FIELDS = [
    *("model", "stream", "stream_options", "temperature", "top_p", "max_tokens", "max_completion_tokens", "max_output_tokens"),
    *("top_k", "seed", "stop", "n", "logprobs", "tools", "tool_choice", "response_format", "text", "reasoning", "include"),
    *("instructions", "truncation", "metadata", "logit_bias", "messages", "input", "min_p", "zz"),
]


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, bytes]:
    """A path and a body, which would be right but for at most three places."""
    odd = draw(st.integers(0, 3))
    parts = [dict(draw(st.sampled_from(PARTS))) for _ in range(draw(st.integers(0, 3)))]
    message: dict[str, Any] = {
        "role": draw(st.sampled_from(["user", "assistant", "system"])),
        "content": draw(TEXT) if odd else parts,
    }
    chat: list[Any] = [message, *HELLO]
    path, name = draw(st.sampled_from([("/v1/chat/completions", "messages"), ("/v1/responses", "input")]))
    body: dict[str, Any] = {"model": "worded", name: chat}
    for _ in range(odd):
        match draw(st.sampled_from(["field", "field", "message", "part", "url", "item"])):
            case "field":
                body[draw(st.sampled_from(FIELDS))] = draw(VALUE)
            case "message":
                message[draw(st.sampled_from(["role", "content", "name", "type", "refusal", "id", "tool_calls"]))] = draw(VALUE)
            case "part":
                part = dict(draw(st.sampled_from(PARTS)))
                part[draw(st.sampled_from(["type", "text", "refusal", "image_url", "detail", "file_id"]))] = draw(VALUE)
                message["content"] = [part]
            case "url":
                message["content"] = [{"type": "image_url", "image_url": {"url": draw(URL)}}]
            case "item":
                chat.insert(0, draw(VALUE))
    return path, json.dumps(body).encode(draw(st.sampled_from(["utf-8", "utf-8", "utf-16"])))


FOR_PROGRAMMERS = ("instance of", "discriminator", "tag", "parse", "validation", "dictionary", "literal", "finite", "None")


@settings(max_examples=25, deadline=None)
@given(st.lists(requests(), min_size=1, max_size=20))
def test_whatever_is_sent_is_answered_or_refused_in_a_sentence(asked: list[tuple[str, bytes]]) -> None:
    mistakes: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: mistakes.append(record.getMessage())  # type: ignore[method-assign]

    async def ask() -> None:
        engine = WordedEngine(max_images_per_chat=2)
        async with serving() as start:
            served = await start(engine, api_key=None)
            for path, body in asked:
                status, _, answer = await served.send("POST", path, body, JSON_BODY)
                assert status in (200, 400, 404), answer
                if status != 200:
                    error = answer["error"]
                    assert error["param"] is not None
                    assert error["message"].endswith(".")
                    assert not any(word in error["message"] for word in FOR_PROGRAMMERS)
        for messages in engine.asked:
            for message in messages:
                message.text.encode()  # no tokenizer takes halves of characters

    logging.getLogger().addHandler(handler)
    try:
        asyncio.run(ask())
    finally:
        logging.getLogger().removeHandler(handler)
    assert mistakes == []


# --- sizes

NUM_ITEMS = 300_000
MANY = {
    "messages": b'{"model":"m","messages":[%b{"role":"user"}]}' % (b'{"role":"user"},' * NUM_ITEMS),
    "nonsense": b'{"model":"m","messages":[%b5]}' % (b"5," * NUM_ITEMS),
    "parts": b'{"model":"m","messages":[{"role":"user","content":[%b""]}]}' % (b'"",' * NUM_ITEMS),
    "parts of nonsense": b'{"model":"m","messages":[{"role":"user","content":[%b5]}]}' % (b"5," * NUM_ITEMS),
    "stop strings": b'{"model":"m","messages":[{"role":"user"}],"stop":[%b5]}' % (b"5," * NUM_ITEMS),
}


@pytest.mark.parametrize("body", MANY.values(), ids=MANY)
def test_a_body_of_very_many_things_is_refused_before_it_takes_much_memory(body: bytes) -> None:
    content = read_body(body)
    tracemalloc.start()
    try:
        with pytest.raises(BadRequest) as caught:
            read_request(content, CompletionRequest)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.param in ("messages", "stop", "stop.0")
    assert peak < 8 * 2**20  # hundreds of bytes for each thing, once


async def test_as_many_messages_as_fit_are_one_chat(serve: Callable[..., Any]) -> None:
    engine = WordedEngine()
    engine.capabilities = replace(engine.capabilities, context_length=10**6)
    chat = [*HELLO, *[{"role": "assistant", "content": "a"}] * 9000, *HELLO]
    status, _, answer = await (await serve(engine, api_key=None)).send("POST", "/v1/chat/completions", *asking(messages=chat))
    assert status == 200, answer
    assert [len(message.text) for message in engine.asked[0]] == [2, 3 * 9000 - 2, 2]


class Counting(WordedEngine):
    """Remembers how long the texts are that it has counted."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: list[int] = []

    def num_prompt_tokens(self, messages: Sequence[Message], system: str | None = None) -> int:
        self.counted.append(sum(len(message.text) for message in messages))
        return super().num_prompt_tokens(messages, system)


async def test_a_text_that_cannot_fit_is_refused_without_counting_its_tokens(serve: Callable[..., Any]) -> None:
    """Megabytes take a tokenizer minutes, in which it holds up everybody."""
    engine = Counting()
    chat = [{"role": "user", "content": "a" * 1_000_000}]
    status, _, answer = await (await serve(engine, api_key=None)).send("POST", "/v1/chat/completions", *asking(messages=chat))
    assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")
    assert engine.counted == []


def asking(**fields: object) -> tuple[bytes, dict[str, str]]:
    """The body and the headers of a question."""
    return json.dumps({"model": "worded", **fields}).encode(), JSON_BODY


# --- requests that are hardly HTTP


async def exchange(served: Any, sent: bytes) -> bytes:
    """All that the server says to these bytes until it closes the connection."""
    address = urlsplit(served.server.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    async with asyncio.timeout(TIMEOUT_SECONDS):
        writer.write(sent)
        said = await reader.read()
        writer.close()
        await writer.wait_closed()
    return said


def post(head: str, body: bytes | None = None) -> bytes:
    """A question with these headers."""
    body = asking(messages=HELLO)[0] if body is None else body
    return f"POST /v1/chat/completions {head}\r\nContent-Length: {len(body)}\r\n".encode() + (
        b"Content-Type: application/json\r\n\r\n" + body
    )


@pytest.mark.parametrize(
    ("sent", "right"),
    [
        (post("HTTP/1.1\r\nConnection: close\r\nHost: localhost"), 200),
        (post("HTTP/1.1\r\nConnection: close\r\nHost: [::1]:80"), 200),
        (post("HTTP/1.0"), 200),  # from this machine, by a program: browsers always name the host
        (post("HTTP/1.1\r\nConnection: close\r\nHost: evil.example"), 421),
        (post("HTTP/1.1\r\nConnection: close\r\nHost: ["), 400),
        (post("HTTP/1.1\r\nConnection: close\r\nHost: a]b"), 400),
        (post("HTTP/1.1\r\nConnection: close\r\nHost: "), 421),
        (post("HTTP/1.1\r\nConnection: close\r\nHost: \N{LATIN SMALL LETTER U WITH DIAERESIS}"), 421),
    ],
)
async def test_only_this_machine_may_ask_without_a_key(
    serve: Callable[..., Any], caplog: pytest.LogCaptureFixture, sent: bytes, right: int
) -> None:
    said = await exchange(await serve(api_key=None), sent)
    assert int(said.split()[1]) == right
    assert right != 421 or b"localhost" in said
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


SECRET = "hunter2-and-more"


@pytest.mark.parametrize(
    "sent",
    [
        post(f"HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {SECRET}{'x' * 10_000}"),
        f"GET /{SECRET}{'x' * 10_000} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(),
        post("HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked", SECRET.encode()),
        post("HTTP/1.1\r\nHost: localhost\r\n" + "".join(f"X-{number}: {SECRET}\r\n" for number in range(300))),
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + SECRET.encode(),
        f"GET http://[{SECRET} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(),
        f"{SECRET} / HTTP/1.1\r\n\r\n".encode(),
        b"\x16\x03\x01\x00\xf4\x01\x00\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_a_line_at_debug_level_that_quotes_nothing(
    serve: Callable[..., Any], caplog: pytest.LogCaptureFixture, sent: bytes
) -> None:
    caplog.set_level(logging.DEBUG)
    said = await exchange(await serve(), sent)
    assert said.startswith(b"HTTP/1.0 400 ")
    ours = [record for record in caplog.records if record.name.startswith(("model_server", "aiohttp"))]
    assert [record.levelno for record in ours if record.levelno > logging.DEBUG] == []
    assert SECRET not in caplog.text


async def test_questions_one_after_the_other_on_one_connection_before_any_is_answered(serve: Callable[..., Any]) -> None:
    engine = WordedEngine()
    sent = post("HTTP/1.1\r\nHost: localhost") * 2 + post("HTTP/1.1\r\nHost: localhost\r\nConnection: close")
    said = await exchange(await serve(engine, api_key=None), sent)
    assert said.count(b"HTTP/1.1 200 OK") == said.count(b"one two three four five") == len(engine.asked) == 3
