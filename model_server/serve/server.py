"""Serves the model over HTTP, for any client of OpenAI's protocol.

* Without a key only requests from this machine are accepted, and only under a loopback name: another name that resolves here is DNS
  rebinding. With a key, everything but /health requires it. A request must declare JSON as its content type, which another site's
  page cannot do.
* When a client disconnects, its answer stops within a step, streamed or not.
* Errors are OpenAI's error objects with a sentence in them; no response contains a traceback.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import logging
import time
import traceback
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, assert_never
from urllib.parse import urlsplit

from aiohttp import web

from model_server.errors import ModelServerError
from model_server.fetch import fetch_image_url
from model_server.loop import InferenceLoop
from model_server.serve.answer import Completion, StopStrings, describe_error, error_object, event, finish_reason_name
from model_server.serve.request import BadRequest, CompletionRequest, FetchImage, KnownAnswers, read_messages, read_request
from model_server.stream import TokenStream
from model_server.types import ChatRequest, Delta, Finished, Queued

_log = logging.getLogger(__name__)
_MAX_TEXT_BYTES = 2**20
_MAX_BODY_BYTES = 128 * 2**20
_FLUSH_SECONDS = 5.0  # for answers that are being sent when the server closes
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ServeAddressError(ModelServerError):
    """The server cannot listen on the address. The message is for the operator."""


async def fetch_public_image(url: str, max_bytes: int) -> bytes:
    return await fetch_image_url(url, max_bytes=max_bytes)


class CompletionServer:
    """Serves `model`. Close the model before this.

    `api_key` may be None on a loopback address only (otherwise ValueError). `max_new_tokens` and `temperature` are the defaults for
    requests. `max_image_bytes` limits each picture's file.
    """

    def __init__(
        self,
        model: InferenceLoop,
        host: str,
        port: int,
        api_key: str | None = None,
        *,
        max_new_tokens: int = 512,
        temperature: float = 0.2,
        max_image_bytes: int = 20_000_000,
        fetch: FetchImage = fetch_public_image,
    ) -> None:
        if not api_key and not _is_loopback(host):
            raise ValueError("Without an API key the model would be open to everybody who can reach this machine.")
        self._model = model
        self._host, self._port = host, port
        self._key = hashlib.sha256(api_key.encode()).digest() if api_key else None
        self._max_new_tokens, self._temperature = max_new_tokens, temperature
        self._max_image_bytes, self._fetch = max_image_bytes, fetch
        self._known_answers = KnownAnswers()
        self._is_draining = False
        self._started_at = int(time.time())
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def start(self) -> None:
        """Listen and set `url`; port 0 takes a free port. Raises `ServeAddressError`."""
        num_images = self._model.capabilities.max_images_per_chat
        max_body_bytes = min(_MAX_TEXT_BYTES + num_images * self._max_image_bytes * 4 // 3, _MAX_BODY_BYTES)
        app = web.Application(middlewares=[self._guard], client_max_size=max_body_bytes)
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/v1/models/{name:.+}", self._one_model)
        app.router.add_post("/v1/chat/completions", self._complete)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=_FLUSH_SECONDS)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise ServeAddressError(
                f"Cannot serve the model on {self._host}, port {self._port}: {error.strerror or error}. "
                "Choose another port, or 0 for any free one."
            ) from error
        name = "localhost" if self._host in ("", "0.0.0.0", "::") else f"[{self._host}]" if ":" in self._host else self._host
        self.url = f"http://{name}:{self._runner.addresses[0][1]}/v1"

    async def drain(self, timeout_seconds: float) -> bool:
        """Refuse new and waiting requests, and let running answers finish. Returns whether they did in time."""
        self._is_draining = True
        return await self._model.drain(timeout_seconds)

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    @web.middleware
    async def _guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        try:
            self._check(request)
            return await handler(request)
        except (ModelServerError, BadRequest) as error:
            status, body, headers = describe_error(error)
            return web.json_response(body, status=status, headers=headers)
        except web.HTTPException as error:
            sentence = "That is too large." if error.status == 413 else f"{error.reason}."
            return web.json_response(error_object(sentence, "invalid_request_error"), status=error.status)
        except ConnectionResetError:
            raise  # the client has disconnected
        except Exception as error:
            # The exception's message may quote a question: only its type and traceback are logged.
            place = "".join(traceback.format_tb(error.__traceback__))
            _log.error("%s in %s %s\n%s", type(error).__name__, request.method, request.path, place)
            body = error_object("Something went wrong on our side. Please try again.", "server_error")
            return web.json_response(body, status=500)

    def _check(self, request: web.Request) -> None:
        if self._key is None:
            if not _is_loopback(urlsplit(f"//{request.host}").hostname or ""):
                raise BadRequest("This address is for this machine only.", status=421)
        elif request.path != "/health":
            kind, _, key = request.headers.get("Authorization", "").partition(" ")
            given = hashlib.sha256(key.strip().encode(errors="surrogateescape")).digest()
            if kind.lower() != "bearer" or not hmac.compare_digest(given, self._key):
                raise BadRequest("The API key is missing or wrong.", code="invalid_api_key", status=401)
        if request.method == "POST" and request.content_type != "application/json":
            raise BadRequest("The Content-Type must be application/json.", status=415)

    async def _health(self, _: web.Request) -> web.Response:
        status = "shutting down" if self._is_draining else "ok"
        return web.json_response({"status": status}, status=503 if self._is_draining else 200)

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [self._describe_model()]})

    async def _one_model(self, request: web.Request) -> web.Response:
        self._check_model(request.match_info["name"])
        return web.json_response(self._describe_model())

    def _describe_model(self) -> dict[str, Any]:
        capabilities = self._model.capabilities
        return {
            "id": capabilities.model_name,
            "object": "model",
            "created": self._started_at,
            "owned_by": "threadsight",
            "max_model_len": capabilities.context_length,  # as vLLM and SGLang name it
        }

    def _check_model(self, name: str) -> None:
        if name != self._model.capabilities.model_name:
            sentence = f"This server has the model {self._model.capabilities.model_name} only."
            raise BadRequest(sentence, "model", "model_not_found", status=404)

    async def _complete(self, http: web.Request) -> web.StreamResponse:
        request = await asyncio.to_thread(read_request, await http.read())
        self._check_model(request.model)
        max_images = self._model.capabilities.max_images_per_chat
        messages, system = await read_messages(request, self._fetch, self._max_image_bytes, max_images)
        completion = Completion(f"chatcmpl-{uuid.uuid4().hex}", request.model)
        sampling = request.sampling(self._max_new_tokens, self._temperature)
        chat = ChatRequest(completion.completion_id, self._known_answers.restore(messages, system), sampling, system)
        async with self._model.submit(chat) as stream:
            if request.stream:
                return await _Streamed(http, request, completion).send(stream, lambda end: self._remember(chat, end))
            stops = StopStrings(request.stop_strings)
            text = ""
            async for news in stream:
                match news:
                    case Queued():
                        pass
                    case Delta():
                        text += stops.add(news.text)
                        if stops.is_found:
                            stream.cancel()
                    case Finished():
                        self._remember(chat, news)
                        reason = "stop" if stops.is_found else finish_reason_name(news.reason)
                        return web.json_response(completion.whole(text + stops.flush(), reason, news.usage))
                    case _ as never:
                        assert_never(never)
        raise AssertionError("a stream ends with Finished or raises")

    def _remember(self, chat: ChatRequest, end: Finished) -> None:
        self._known_answers.remember(chat.messages, end.text, end.token_ids, chat.system)


class _Streamed:
    """An answer as server-sent events. The response's head is sent with the first event, so that a refusal before it has its own
    status."""

    def __init__(self, http: web.Request, request: CompletionRequest, completion: Completion) -> None:
        self._http, self._request, self._completion = http, request, completion
        self._stops = StopStrings(request.stop_strings)
        self._response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        )

    async def send(self, stream: TokenStream, on_end: Callable[[Finished], None]) -> web.StreamResponse:
        try:
            async for news in stream:
                await self._begin()
                match news:
                    case Queued():  # a comment, so that proxies do not time out; people may read it
                        await self._response.write(f": waiting, place {news.position}\n\n".encode())
                    case Delta():
                        await self._write(self._stops.add(news.text))
                        if self._stops.is_found:
                            stream.cancel()
                    case Finished():
                        on_end(news)
                        await self._end(news)
                    case _ as never:
                        assert_never(never)
        except ModelServerError as error:
            if not self._response.prepared:
                raise
            await self._response.write(event(describe_error(error)[1]))
        await self._response.write_eof()
        return self._response

    async def _begin(self) -> None:
        if not self._response.prepared:
            await self._response.prepare(self._http)
            await self._response.write(self._completion.chunk({"role": "assistant", "content": ""}))

    async def _write(self, text: str) -> None:
        if text:
            await self._response.write(self._completion.chunk({"content": text}))

    async def _end(self, end: Finished) -> None:
        await self._write(self._stops.flush())
        reason = "stop" if self._stops.is_found else finish_reason_name(end.reason)
        await self._response.write(self._completion.chunk({}, reason))
        if self._request.has_usage_chunk:
            await self._response.write(self._completion.usage_chunk(end.usage))
        await self._response.write(b"data: [DONE]\n\n")


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
