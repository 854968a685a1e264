"""What comes over the wire from model servers, gateways and proxies before them: lines, chunks, encodings, connections."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib

import pytest

from model_server.errors import EngineFailed, ModelLoadError
from model_server.remote.refusals import BROKEN_OFF, NO_WORD, NOT_UNDERSTOOD
from model_server.types import Finished
from tests.model_server.raw_server import Script, asking, chunked, head, raw, read_request, response, says
from tests.model_server.scripted_server import GOOD, USAGE, ask, chunk, data, whole

ANSWER = "".join(GOOD).encode()
CUT = "".join(GOOD[:2]).encode()  # without its end


def flushed() -> list[bytes]:
    squeeze = zlib.compressobj(wbits=31)
    return [*(squeeze.compress(event.encode()) + squeeze.flush(zlib.Z_SYNC_FLUSH) for event in GOOD), squeeze.flush()]


def over_many_lines(prefix: str) -> bytes:
    """The events as Java's frameworks write objects over many lines; without the prefix, as a careless program does."""
    written = []
    for event in GOOD[:4]:
        lines = json.dumps(json.loads(event.removeprefix("data: ")), indent=1).splitlines()
        written.append("data: " + f"\n{prefix}".join(lines) + "\n\n")
    return "".join(written).encode() + b"data: [DONE]\n\n"


# --- each of these is the answer "Good day", asked once

WHOLE: dict[str, bytes] = {
    "every byte in a chunk of its own": chunked([bytes([byte]) for byte in ANSWER]),
    "lines that end in CR": response(ANSWER.replace(b"\n", b"\r")),
    "lines that end in CR, in single bytes": chunked([bytes([byte]) for byte in ANSWER.replace(b"\n", b"\r")]),
    "lines that end in CR LF, in single bytes": chunked([bytes([byte]) for byte in ANSWER.replace(b"\n", b"\r\n")]),
    "objects over many lines": response(over_many_lines("data: ")),
    "objects over many lines, in CR LF": response(over_many_lines("data:").replace(b"\n", b"\r\n")),
    "objects over many lines without the field's name": response(over_many_lines("")),
    "no empty lines": response(ANSWER.replace(b"\n\n", b"\n")),
    "ids, retries and names": response(ANSWER.replace(b"data:", b"id: 3\nretry: 5\nevent: message\ndata:")),
    "words that keep the connection alive": response(b"data: ping\n\n" + ANSWER.replace(b"\n\n", b'\n\ndata: "alive"\n\n')),
    "[DONE] in quotes": response(CUT + b'data: "[DONE]"\n\n'),
    "[DONE] without a line's end": response(CUT + b"data: [DONE]"),
    "an object without a line's end": response(CUT + chunk("", "stop", usage=USAGE).strip().encode()),
    "a line of 10 MB": response((chunk("Good", logprobs="x" * 10_000_000) + "".join(GOOD[1:])).encode()),
    "a line of 10 MB after the end": response((chunk("Good day", "stop", usage=USAGE) + data("x" * 10_000_000)).encode()),
    "a line of 20 MB after the end": response((chunk("Good day", "stop", usage=USAGE) + data("x" * 20_000_000)).encode()),
    "one object of 10 MB": response(json.dumps(whole("Good day", logprobs="x" * 10_000_000)).encode()),
    "gzip": response(gzip.compress(ANSWER), "Content-Encoding: gzip"),
    "gzip in pieces": chunked(flushed(), "Content-Encoding: gzip"),
    "gzip without its end": head("Content-Encoding: gzip", version="1.0") + gzip.compress(ANSWER)[:-6],
    "deflate": response(zlib.compress(ANSWER), "Content-Encoding: deflate"),
    "deflate without its head": response(zlib.compress(ANSWER, wbits=-15), "Content-Encoding: deflate"),
    "HTTP/1.0": head(version="1.0") + ANSWER,
    "until the connection is closed": head("Connection: close") + ANSWER,
    "chunks that are cut after the answer": chunked([ANSWER], end=b"5\r\nab"),
    "after 100": b"HTTP/1.1 100 Continue\r\n\r\n" + response(ANSWER),
    "after 103": b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + response(ANSWER),
    "a header of 50 kB": response(ANSWER, "X-Trace: " + "a" * 50_000),
    "a header that is no ASCII": response(ANSWER, "X-Name: grüße"),
}


@pytest.mark.parametrize("sent", WHOLE.values(), ids=WHOLE)
async def test_an_answer_comes_whole(sent: bytes) -> None:
    async with raw(says(sent, then_closes=True)) as server, asking(server.url) as loop:
        *_, end = await ask(loop)
    assert isinstance(end, Finished)
    assert (end.text, server.num_asked_connections) == ("Good day", 1)
    assert end.usage.num_completion_tokens in (2, 0)


async def test_bytes_that_are_no_utf8_cost_no_more_than_themselves() -> None:
    """A server that cuts its text into tokens of bytes."""
    broken = chunk("Good * day").encode().replace(b"*", b"\xe2\x82") + chunk("!\t", "stop").replace("\\t", "\t").encode()
    async with raw(says(response(broken))) as server, asking(server.url) as loop:
        *_, end = await ask(loop)
    assert isinstance(end, Finished)
    assert end.text == "Good � day!\t"


# --- connections


@pytest.mark.parametrize(
    ("script", "num_connections"),
    [
        (says(*[response(ANSWER)] * 3), 1),
        (says(response(ANSWER), then_closes=True), 3),  # although it promises to keep it
    ],
)
async def test_one_question_after_the_other(script: Script, num_connections: int) -> None:
    async with raw(script) as server, asking(server.url) as loop:
        for _ in range(3):
            *_, end = await ask(loop)
            assert isinstance(end, Finished)
            assert end.text == "Good day"
    assert server.num_asked_connections == num_connections


async def test_a_kept_connection_that_closes_at_the_question_is_asked_again_once() -> None:
    num_lost = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal num_lost
        await read_request(reader)
        writer.write(response(ANSWER))
        await read_request(reader)
        num_lost += 1  # the second question on it is never answered

    async with raw(talk) as server, asking(server.url) as loop:
        for _ in range(2):
            *_, end = await ask(loop)
            assert isinstance(end, Finished)
            assert end.text == "Good day"
    assert (num_lost, server.num_asked_connections) == (1, 2)


async def test_events_that_go_on_for_ever_after_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model_server.remote.connection._AFTER_END_SECONDS", 0.2)
    sent_after = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent_after
        await read_request(reader)
        writer.write(chunked([chunk("Good day", "stop").encode()], end=b""))
        while True:
            writer.write(chunked([data({"choices": []}).encode()], end=b"").partition(b"\r\n\r\n")[2])
            await writer.drain()
            sent_after += 1
            await asyncio.sleep(0.01)

    async with raw(talk) as server, asking(server.url) as loop:
        *_, end = await ask(loop)
    assert isinstance(end, Finished)
    assert end.text == "Good day"
    assert sent_after > 1


# --- what is no answer is told as what it is, once


@pytest.mark.parametrize(
    ("sent", "sentence", "num_asked", "logged"),
    [
        (response(ANSWER, "Content-Encoding: br"), NOT_UNDERSTOOD, 1, "Can not decode content-encoding"),
        (response(ANSWER, "Content-Encoding: gzip"), NOT_UNDERSTOOD, 1, "compressed"),
        (b"SSH-2.0-OpenSSH_9\r\n", NOT_UNDERSTOOD, 1, "does not speak HTTP"),
        (response(ANSWER, "Content-Length: 3"), NOT_UNDERSTOOD, 1, "does not speak HTTP"),
        (response(ANSWER, "X-A: " + "a" * 100_000), NOT_UNDERSTOOD, 1, "does not speak HTTP"),
        (response(data("x" * 20_000_000).encode()), NOT_UNDERSTOOD, 1, "16 MB"),
        (response(b"data: nonsense\n\n" * 3), NOT_UNDERSTOOD, 1, "no chat completion"),
        (response(CUT + b"data: {nonsense\n\n" + ANSWER), NOT_UNDERSTOOD, 1, "no chat completion"),
        (head("Connection: close") + CUT + b'data: {"choices": [{', BROKEN_OFF, 1, "in the middle"),
        (chunked([CUT], end=b"5\r\nab"), BROKEN_OFF, 1, "in the middle"),
        (response(b""), NO_WORD, 5, "before the first word"),
        (head("Content-Length: 9", status="401 No") + b"{", "The model server does not let me in.", 1, "key"),
        (response(b"no", "Content-Encoding: gzip", status="401 No"), "The model server does not let me in.", 1, "key"),
    ],
)
async def test_what_is_no_answer(caplog: pytest.LogCaptureFixture, sent: bytes, sentence: str, num_asked: int, logged: str) -> None:
    async with raw(says(sent, then_closes=True)) as server, asking(server.url) as loop:
        with pytest.raises(EngineFailed) as caught:
            await ask(loop)
    assert str(caught.value).startswith(sentence)
    assert server.num_asked_connections == num_asked
    assert logged in caplog.text
    assert not [record for record in caplog.records if record.exc_info]


async def test_the_words_of_an_error_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model_server.remote.connection._ERROR_SECONDS", 0.05)
    async with raw(says(head("Content-Length: 9", status="401 No"))) as server, asking(server.url) as loop:
        with pytest.raises(EngineFailed, match="does not let me in"):
            await ask(loop)


@pytest.mark.parametrize("size", [100, 10_000_000])
async def test_a_server_that_answers_before_it_has_read_the_question(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """nginx, when a picture is larger than it lets through."""
    monkeypatch.setattr("model_server.remote.engine.request_body", lambda *asked: b"x" * size)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(response(b"", "Connection: close", status="413 Request Entity Too Large"))

    async with raw(talk) as server, asking(server.url) as loop:
        with pytest.raises(EngineFailed, match="as large as this one"):
            await ask(loop)
    assert server.num_asked_connections == 1


@pytest.mark.parametrize(
    ("models", "logged"),
    [
        (b"SSH-2.0-OpenSSH_9\r\n", "does not speak HTTP as it is usual: Bad status line."),
        (b"\x15\x03\x01\x00\x02\x02\x46", "does not speak HTTP as it is usual: Bad status line."),  # https, asked with http
        (response(b"{}", "Content-Encoding: br"), "does not speak HTTP as it is usual: Can not decode content-encoding."),
    ],
)
async def test_what_does_not_speak_http_is_told_at_the_start(caplog: pytest.LogCaptureFixture, models: bytes, logged: str) -> None:
    async with raw(says(), says(models, then_closes=True)) as server:
        with pytest.raises(ModelLoadError, match="the log says why"):
            async with asking(server.url):
                pass
    assert logged in caplog.text


async def test_http_where_https_is_asked_for_is_no_matter_of_certificates(caplog: pytest.LogCaptureFixture) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(response(b"", status="400 Bad Request"))

    async with raw(refuse, refuse) as server:
        with pytest.raises(ModelLoadError, match="the log says why"):
            async with asking(server.url.replace("http:", "https:")):
                pass
    assert "does not speak TLS" in caplog.text
    assert "certificate" not in caplog.text.lower()


async def test_a_server_that_never_lists_its_models_does_not_hold_up_the_start(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("model_server.remote.connection._LIST_SECONDS", 0.05)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with asyncio.timeout(20), raw(says(), talk) as server, asking(server.url):
        assert "does not list its models" in caplog.text


async def test_the_address_of_the_questions_themselves_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    async with raw(says(response(ANSWER))) as server, asking(server.url + "/chat/completions/") as loop:
        *_, end = await ask(loop)
    assert isinstance(end, Finished)
