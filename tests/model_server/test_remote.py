"""The remote engine against a server that does what the test says, and what the errors of real servers mean."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from PIL import Image as PilImage

from model_server.errors import EngineFailed, ModelLoadError, ModelServerError, PromptTooLong, QueueFull
from model_server.images import read_image
from model_server.loop import InferenceLoop
from model_server.remote.connection import RemoteServer
from model_server.remote.engine import open_remote
from model_server.remote.protocol import AWAY, BROKEN_OFF, BUSY, NOT_UNDERSTOOD, read_models, refusal, request_body
from model_server.types import ChatRequest, Delta, Finished, FinishReason, Image, Message, Role, SamplingParams, StreamEvent

TIMEOUT_SECONDS = 20
KEY = "sk-hunter2"
HELLO = (Message(Role.USER, "Hello"),)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def picture(kind: str = "PNG", mode: str = "RGB", size: tuple[int, int] = (6, 4), **options: Any) -> Image:
    buffer = io.BytesIO()
    PilImage.new(mode, size, "red" if mode.startswith("RGB") else 1000).save(buffer, kind, **options)
    return read_image(buffer.getvalue(), f"picture.{kind.lower()}")


def chunk(text: str | None = None, reason: str | None = None, **more: object) -> str:
    delta = {} if text is None else {"content": text}
    return "data: " + json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": reason}], **more}) + "\n\n"


USAGE = {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}
GOOD = (
    chunk("Good"),
    chunk(" day"),
    chunk(reason="stop"),
    f"data: {json.dumps({'choices': [], 'usage': USAGE})}\n\n",
    "data: [DONE]\n\n",
)


def streams(*events: str, then_breaks: bool = False, until: asyncio.Event | None = None) -> Handler:
    """Sends events; then ends, or breaks the connection, or waits."""

    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event in events:
            await response.write(event.encode())
        if until is not None:
            try:
                await asyncio.Event().wait()
            finally:
                until.set()
        if then_breaks:
            assert request.transport is not None
            request.transport.abort()
        return response

    return handle


def answers(status: int, error: object = None, **headers: str) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        return web.json_response({"error": error}, status=status, headers=headers)

    return handle


async def drops(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


class Server:
    """Answers with the given handlers in turn, then with the last one; keeps what it was asked."""

    def __init__(self) -> None:
        self.handlers: list[Handler] = [streams(*GOOD)]
        self.models: Handler | None = None  # in place of a good list
        self.entries: list[dict[str, object]] = [{"id": "first", "max_model_len": 2000}, {"id": "second"}]
        self.asked: list[dict[str, Any]] = []
        self.authorizations: list[str | None] = []
        self.port = 0
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def start(self, certificate: ssl.SSLContext | None = None) -> None:
        app = web.Application(client_max_size=2**26)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._complete)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=certificate).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _models(self, request: web.Request) -> web.StreamResponse:
        if self.models is not None:
            return await self.models(request)
        return web.json_response({"object": "list", "data": self.entries})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        self.authorizations.append(request.headers.get("Authorization"))
        self.asked.append(await request.json())
        handler = self.handlers.pop(0) if len(self.handlers) > 1 else self.handlers[0]
        return await handler(request)


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


async def ask(loop: InferenceLoop, messages: Sequence[Message] = HELLO, **sampling: Any) -> list[StreamEvent]:
    async with asyncio.timeout(TIMEOUT_SECONDS):
        stream = loop.submit(ChatRequest("r", tuple(messages), SamplingParams(**sampling)))
        return [event async for event in stream]


def text_of(events: list[StreamEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


# --- what is asked, and what comes back


async def test_a_chat_goes_there_and_the_answer_comes_back(server: Server, connect: Callable[..., Any]) -> None:
    loop = await connect()
    assert (loop.capabilities.model_name, loop.capabilities.context_length) == ("first", 2000)
    image = picture()
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
        ((chunk("a"), chunk(reason="abort")), NOT_UNDERSTOOD),
        (("data: " + "x" * 300_000 + "\n\n",), NOT_UNDERSTOOD),
        ((chunk("a"), "data: [DONE]\n\n"), BROKEN_OFF),
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
    question = (Message(Role.USER, "What?", (picture(),)),)
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
        assert loop.capabilities.context_length == 2000
        assert late.asked[0]["model"] == "first"
        # Dies, and comes back with another model.
        late.handlers = [answers(404, {"message": "no such model"}), streams(*GOOD)]
        late.entries = [{"id": "another", "max_model_len": 3000}]
        with pytest.raises(EngineFailed, match="does not have the model"):
            await ask(loop)
        assert text_of(await ask(loop)) == "Good day"
        assert late.asked[-1]["model"] == "another"
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


# What servers say, in the words that their users have reported or close to them.
VLLM_TOO_LONG = {
    "object": "error",
    "message": "This model's maximum context length is 4096 tokens. However, you requested 5120 tokens (4608 in the messages, "
    "512 in the completion). Please reduce the length of the messages or completion.",
    "type": "BadRequestError",
    "param": None,
    "code": 400,
}
VLLM_PICTURES_TOO_LONG = {
    "message": "The prompt (total length 25938) is too long to fit into the model (context length 4096). Make sure that "
    "`max_model_len` is no smaller than the number of text tokens plus multimodal tokens. For image inputs, the number of image "
    "tokens depends on the number of images, and possibly their aspect ratios as well."
}
LLAMA_CPP_TOO_LONG = {
    "code": 400,
    "message": "the request exceeds the available context size. try increasing the context size or enable context shift",
    "type": "exceed_context_size_error",
    "n_prompt_tokens": 14429,
    "n_ctx": 8192,
}
OPENAI_TOO_LONG = {"message": "Too many.", "type": "invalid_request_error", "param": "messages", "code": "context_length_exceeded"}
LLAMA_CPP_NO_PICTURES = {"code": 500, "message": "image input is not supported by this server", "type": "server_error"}


@pytest.mark.parametrize(
    ("status", "body", "kind", "sentence", "advice"),
    [
        (400, VLLM_TOO_LONG, PromptTooLong, "This is too long for me. Please ask in fewer words.", "longer than"),
        (
            400,
            {"object": "error", "message": "max_tokens must be at least 1, got -186."},
            PromptTooLong,
            "This is too",
            "longer than",
        ),
        (400, {"error": VLLM_PICTURES_TOO_LONG}, PromptTooLong, "This is too long", "longer than"),
        (400, {"error": LLAMA_CPP_TOO_LONG}, PromptTooLong, "This is too long", "longer than"),
        (400, {"error": OPENAI_TOO_LONG}, PromptTooLong, "This is too long", "longer than"),
        (
            500,
            {"error": LLAMA_CPP_NO_PICTURES},
            EngineFailed,
            "The model behind me cannot look at this picture.",
            "takes no pictures",
        ),
        (
            400,
            {"error": {"message": "At most 0 image(s) may be provided in one prompt."}},
            EngineFailed,
            "The model behind",
            "fewer",
        ),
        (401, {"error": "no"}, EngineFailed, "The model server does not let me in.", "key"),
        (403, {}, EngineFailed, "The model server does not let me in.", "key"),
        (404, {"detail": "Not Found"}, EngineFailed, "The model server does not have the model", "/v1"),
        (400, {"detail": [{"msg": "Field required"}]}, EngineFailed, "The model server could not answer this.", "log"),
        (418, "tea", EngineFailed, "The model server could not answer this.", "log"),
    ],
)
def test_errors_become_sentences(status: int, body: object, kind: type[Exception], sentence: str, advice: str) -> None:
    refused = refusal(status, json.dumps(body).encode())
    assert type(refused.error) is kind
    assert str(refused.error).startswith(sentence)
    assert advice in refused.advice


def test_an_error_that_is_no_json_is_one_too() -> None:
    assert isinstance(refusal(500, b"<html>").error, EngineFailed)
    for body in (b"", b"[]", b'{"data": [1]}', b'{"data": [{}]}', b"<html>"):
        with pytest.raises(ValueError, match=r".*"):
            read_models(body)


# --- pictures that every server can read


def sent(image: Image) -> tuple[str, bytes]:
    [message] = json.loads(request_body("m", [Message(Role.USER, "?", (image,))], SamplingParams()))["messages"]
    head, _, data = message["content"][0]["image_url"]["url"].partition(",")
    return head, base64.b64decode(data)


@pytest.mark.parametrize("image", [picture("JPEG"), picture("PNG"), picture("PNG", "L")], ids=["jpeg", "png", "grey"])
def test_a_plain_picture_goes_as_it_came(image: Image) -> None:
    assert sent(image) == (f"data:{image.media_type};base64", image.data)


def turned() -> Image:
    exif = PilImage.Exif()
    exif[0x0112] = 6
    return picture("JPEG", exif=exif)


@pytest.mark.parametrize(
    ("image", "media_type", "size"),
    [
        (turned(), "image/jpeg", (4, 6)),
        (picture("WEBP"), "image/jpeg", (6, 4)),
        (picture("HEIF"), "image/jpeg", (6, 4)),
        (picture("AVIF"), "image/jpeg", (6, 4)),
        (picture("PNG", "RGBA"), "image/png", (6, 4)),
        (picture("PNG", "I;16"), "image/png", (6, 4)),
        (picture("GIF"), "image/png", (6, 4)),
        (picture("TIFF"), "image/png", (6, 4)),
    ],
    ids=["turned", "webp", "heic", "avif", "transparent", "16 bit", "gif", "tiff"],
)
def test_any_other_picture_is_sent_as_we_see_it(image: Image, media_type: str, size: tuple[int, int]) -> None:
    head, data = sent(image)
    assert head == f"data:{media_type};base64"
    pil = PilImage.open(io.BytesIO(data))
    assert (pil.size, pil.mode, PilImage.MIME[pil.format or ""]) == (size, "RGB", media_type)
    assert pil.getexif().get(0x0112, 1) == 1
