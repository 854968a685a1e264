"""How clients of `threadsight serve` reach it, and leave: bodies, addresses, keys, pages of other sites, connections that end."""

from __future__ import annotations

import gzip
import json
import logging
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from tests.model_server.served import KEY, serving
from tests.model_server.worded_engine import WordedEngine

HEADERS = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
HELLO = [{"role": "user", "content": "Hi"}]


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Any]]:
    async with serving() as start:
        yield start


# --- bodies

BODY = json.dumps({"model": "worded", "messages": [{"role": "user", "content": "Grüße"}]}, ensure_ascii=False)
BODIES: list[tuple[str, bytes, dict[str, str], int]] = [
    ("as it should be", BODY.encode(), {}, 200),
    ("with a byte-order mark", b"\xef\xbb\xbf" + BODY.encode(), {}, 200),
    ("in the charset that it declares", BODY.encode("latin-1"), {"Content-Type": "application/json; charset=ISO-8859-1"}, 200),
    ("in UTF-16", BODY.encode("utf-16"), {"Content-Type": "application/json; charset=utf-16"}, 200),
    ("in a charset that it hides", BODY.encode("latin-1"), {}, 400),
    ("in a charset that there is not", BODY.encode(), {"Content-Type": "application/json; charset=x-klingon"}, 400),
    ("compressed", gzip.compress(BODY.encode()), {"Content-Encoding": "gzip"}, 200),
    ("said to be compressed", BODY.encode(), {"Content-Encoding": "gzip"}, 400),
    ("compressed and cut off", gzip.compress(BODY.encode())[:-12], {"Content-Encoding": "gzip"}, 400),
    ("a bomb", gzip.compress(b" " * 2**27), {"Content-Encoding": "gzip"}, 413),
    ("announced with Expect", BODY.encode(), {"Expect": "100-continue"}, 200),
    ("as text, with the key", BODY.encode(), {"Content-Type": "text/plain"}, 200),
    ("as curl -d sends it, with the key", BODY.encode(), {"Content-Type": "application/x-www-form-urlencoded"}, 200),
    ("nothing", b"", {}, 400),
    ("a list", b"[]", {}, 400),
    ("half of one", BODY.encode()[:-5], {}, 400),
    ("too deep", b"[" * 100_000, {}, 400),
]


@pytest.mark.parametrize(("body", "headers", "right"), [case[1:] for case in BODIES], ids=[case[0] for case in BODIES])
async def test_a_body(
    serve: Callable[..., Any], caplog: pytest.LogCaptureFixture, body: bytes, headers: dict[str, str], right: int
) -> None:
    engine = WordedEngine()
    served = await serve(engine, max_image_bytes=1000)
    status, _, answer = await served.send("POST", "/v1/chat/completions", body, {**HEADERS, **headers})
    assert status == right, answer
    assert [asked[0].text for asked in engine.asked] == (["Grüße"] if right == 200 else [])
    assert right == 200 or answer["error"]["message"].endswith(".")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_without_a_key_a_body_must_be_declared_as_json(serve: Callable[..., Any]) -> None:
    served = await serve(api_key=None)
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=a", ""):
        status, _, answer = await served.send("POST", "/v1/chat/completions", BODY.encode(), {"Content-Type": kind})
        assert status == 415
        assert "application/json" in answer["error"]["message"]


# --- addresses

ADDRESSES = [
    ("POST", "/v1/chat/completions/", 200, "a slash too many"),
    ("POST", "/chat/completions", 200, "a base URL without /v1"),
    ("POST", "/v1/v1/chat/completions", 200, "/v1 added to a base URL that has it"),
    ("POST", "//v1//chat/completions", 200, "a base URL with a slash at its end"),
    ("POST", "/v1/responses/", 200, "the other request"),
    ("POST", "/responses", 200, "the other request without /v1"),
    ("GET", "/v1/models", 200, ""),
    ("GET", "/v1/models/", 200, ""),
    ("GET", "/models", 200, ""),
    ("HEAD", "/v1/models", 200, "whether somebody is there"),
    ("GET", "/v1/models/worded", 200, ""),
    ("GET", "/v1/models/worded/", 200, ""),
    ("GET", "/v1/models/other", 404, "model_not_found"),
    ("GET", "/health", 200, ""),
    ("HEAD", "/health", 200, ""),
    ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
    ("POST", "/v1/models", 405, "method_not_allowed"),
    ("PUT", "/v1/responses", 405, "method_not_allowed"),
    ("GET", "/", 404, "unknown_url"),
    ("GET", "/v1", 404, "unknown_url"),
    ("POST", "/v1", 404, "unknown_url"),
    ("POST", "/v1/completions", 404, "unknown_url"),
    ("POST", "/v1/embeddings", 404, "unknown_url"),
    ("POST", "/v1/messages", 404, "unknown_url"),
    ("POST", "/v1/audio/speech", 404, "unknown_url"),
    ("POST", "/api/chat", 404, "unknown_url"),
    ("GET", "/api/tags", 404, "unknown_url"),
    ("GET", "/v1/responses/resp_1", 404, "unknown_url"),
    ("GET", "/v1/chat/completions/chatcmpl-1", 404, "unknown_url"),
]


@pytest.mark.parametrize(("method", "path", "right", "code"), ADDRESSES, ids=[f"{case[0]} {case[1]}" for case in ADDRESSES])
async def test_an_address(serve: Callable[..., Any], method: str, path: str, right: int, code: str) -> None:
    body = json.dumps({"model": "worded", "messages": HELLO} if "responses" not in path else {"model": "worded", "input": "Hi"})
    status, headers, answer = await (await serve()).send(method, path, body.encode() if method == "POST" else None, HEADERS)
    assert status == right, answer
    if right >= 400:
        assert answer["error"]["code"] == code
    if code == "unknown_url":
        assert "/v1/chat/completions" in answer["error"]["message"]
    if right == 405:
        assert headers["Allow"] in answer["error"]["message"]


async def test_a_key_in_another_place_is_refused_with_the_right_one_named(serve: Callable[..., Any]) -> None:
    served = await serve()
    for headers in ({"api-key": KEY}, {"x-api-key": KEY}, {"Authorization": KEY}, {"Authorization": f"Basic {KEY}"}, {}):
        status, answered, answer = await served.send("GET", "/v1/models", headers=headers)
        assert (status, answered["WWW-Authenticate"]) == (401, "Bearer")
        assert "Authorization: Bearer" in answer["error"]["message"]


async def test_a_page_of_another_site_may_ask_with_the_key_alone(serve: Callable[..., Any]) -> None:
    asking = {"Origin": "https://chat.example", "Access-Control-Request-Headers": "authorization,x-stainless-os"}
    asking["Access-Control-Request-Method"] = "POST"
    served = await serve()
    status, headers, _ = await served.send("OPTIONS", "/v1/chat/completions", headers=asking)
    assert (status, headers["Access-Control-Allow-Origin"]) == (204, "*")
    assert headers["Access-Control-Allow-Headers"] == "authorization,x-stainless-os"
    for key, right in ((KEY, 200), ("wrong", 401)):
        body = json.dumps({"model": "worded", "messages": HELLO, "stream": True}).encode()
        page = {**HEADERS, "Authorization": f"Bearer {key}", "Origin": "https://chat.example"}
        status, headers, _ = await served.send("POST", "/v1/chat/completions", body, page)
        assert (status, headers["Access-Control-Allow-Origin"]) == (right, "*")
    open_server = await serve(api_key=None)
    status, headers, answer = await open_server.send("OPTIONS", "/v1/chat/completions", headers=asking)
    assert (status, "API key" in answer["error"]["message"]) == (403, True)
    _, models, _ = await open_server.send("GET", "/v1/models", headers={"Origin": "https://chat.example"})
    assert "Access-Control-Allow-Origin" not in headers | models


# --- clients that leave


class AbruptClient:
    """A client without manners: its connection is reset, at once, when it leaves."""

    def __init__(self, url: str, body: bytes, num_bytes: int | None = None) -> None:
        port = int(url.removesuffix("/v1").rpartition(":")[2])
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self._socket.sendall(head.encode() + body[:num_bytes])

    def half_close(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    def leave(self) -> None:
        self._socket.close()


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.DEBUG, "model_server"):
        yield caplog
    for record in caplog.records:
        assert record.levelno < logging.WARNING
        assert record.exc_info is None or not record.name.startswith("model_server")


@pytest.mark.parametrize("is_streamed", [True, False])
@pytest.mark.parametrize("num_pieces", [0, 3])
async def test_a_client_that_leaves_is_a_line_at_debug_level(
    serve: Callable[..., Any], quiet: pytest.LogCaptureFixture, is_streamed: bool, num_pieces: int
) -> None:
    """With pieces: they are written in the moment between the reset and our hearing of it, which once made a traceback."""
    engine = WordedEngine(hold_after=1)
    served = await serve(engine)
    client = AbruptClient(served.server.url, json.dumps({"model": "worded", "messages": HELLO, "stream": is_streamed}).encode())
    await engine.held.wait()
    client.leave()
    for number in range(num_pieces):
        engine.write(f"piece {number}")
    await engine.cancelled.wait()
    assert served.model.num_running == 0
    await served.server.close()  # when all its handlers have ended
    ours = [record for record in quiet.records if record.name.startswith("model_server.serve")]
    assert [(record.levelname, "has left" in record.message) for record in ours] == [("DEBUG", True)]


@pytest.mark.parametrize("is_reset", [True, False])
async def test_a_client_that_sends_half_a_request(
    serve: Callable[..., Any], quiet: pytest.LogCaptureFixture, is_reset: bool
) -> None:
    served = await serve()
    client = AbruptClient(served.server.url, json.dumps({"model": "worded", "messages": HELLO}).encode(), num_bytes=9)
    if is_reset:
        client.leave()
    else:
        client.half_close()
    assert (await served.ask(*HELLO)).choices  # others are served
    await served.server.close()
    client.leave()
