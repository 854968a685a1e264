"""Serves the model over HTTP, for any client of OpenAI's protocol: chat completions and responses.

When a client disconnects, its answer stops within a step, streamed or not. Who may ask: `door.py`.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from typing import Any

from aiohttp import web

from model_server.errors import ModelServerError
from model_server.fetch import ProxyFor, fetch_image_url, no_proxy
from model_server.loop import InferenceLoop
from model_server.serve.answer import AnswerForm, Completion
from model_server.serve.connections import IDLE_SECONDS, BoundedSite, Connections, quiet_log
from model_server.serve.door import Door, is_loopback
from model_server.serve.image_url import FetchImage
from model_server.serve.known_answers import KnownAnswers
from model_server.serve.messages import read_messages
from model_server.serve.receiving import receive
from model_server.serve.refusal import BadRequest
from model_server.serve.request import CompletionRequest, GenerationRequest, read_body, read_request
from model_server.serve.responses import ResponseForm, ResponseRequest, resolve_references
from model_server.serve.sending import Answering
from model_server.types import ChatRequest, Finished

_MAX_TEXT_BYTES = 2**20
_MAX_BODY_BYTES = 128 * 2**20
_FLUSH_SECONDS = 5.0  # for answers that are being sent when the server closes
_BASE = "/{base:/*(?:v1/+)*}"  # whether a client was told to add /v1, not to, or twice
_END = "{end:/*}"


class ServeAddressError(ModelServerError):
    """The server cannot listen on the address. The message is for the operator."""


async def fetch_public_image(url: str, max_bytes: int, *, proxy_for: ProxyFor = no_proxy) -> bytes:
    """Download at most `max_bytes`, from public addresses only. Raises `ImageError`."""
    return await fetch_image_url(url, max_bytes=max_bytes, proxy_for=proxy_for)


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
        if not api_key and not is_loopback(host):
            raise ValueError("Without an API key the model would be open to everybody who can reach this machine.")
        self._model = model
        self._host, self._port = host, port
        self._door = Door(api_key)
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
        # Base64 with line breaks takes a little more than 4/3.
        max_body_bytes = min(_MAX_TEXT_BYTES + num_images * self._max_image_bytes * 7 // 5, _MAX_BODY_BYTES)
        connections = Connections(lambda request: request.path == "/health")
        app = web.Application(middlewares=[self._door.guard, connections.watch], client_max_size=max_body_bytes)
        app.on_response_prepare.append(self._door.allow_pages)
        app.router.add_get("/health", self._health)
        app.router.add_get(f"{_BASE}models{_END}", self._models)
        app.router.add_get(f"{_BASE}models/{{name:.*[^/]}}{_END}", self._one_model)
        app.router.add_post(f"{_BASE}chat/completions{_END}", self._complete)
        app.router.add_post(f"{_BASE}responses{_END}", self._respond)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=_FLUSH_SECONDS,
            keepalive_timeout=IDLE_SECONDS,
            logger=quiet_log("model_server.serve.http"),
        )
        await self._runner.setup()
        try:
            await BoundedSite(self._runner, self._host, self._port, connections).start()
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
        """Stop listening; what still runs is cut off."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _health(self, _: web.Request) -> web.Response:
        status = "shutting down" if self._is_draining else "ok"
        return web.json_response({"status": status}, status=503 if self._is_draining else 200)

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [self._describe_model()]})

    async def _one_model(self, http: web.Request) -> web.Response:
        self._check_model(http.match_info["name"])
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
        content = await asyncio.to_thread(read_body, await receive(http), http.charset)
        request = await asyncio.to_thread(read_request, content, CompletionRequest)
        form = Completion(f"chatcmpl-{uuid.uuid4().hex}", request.model, request.has_usage_chunk)
        return await self._answer(http, request, form)

    async def _respond(self, http: web.Request) -> web.StreamResponse:
        content = await asyncio.to_thread(read_body, await receive(http), http.charset)
        content = resolve_references(content, self._known_answers.text)
        request = await asyncio.to_thread(read_request, content, ResponseRequest)
        form = ResponseForm(uuid.uuid4().hex, request, request.sampling(self._max_new_tokens, self._temperature))
        return await self._answer(http, request, form, lambda text: self._known_answers.remember_text(form.message_id, text))

    async def _answer(
        self, http: web.Request, request: GenerationRequest, form: AnswerForm, on_text: Callable[[str], None] = lambda text: None
    ) -> web.StreamResponse:
        """Ask the model and send what it answers; `on_text` gets that text before its end is sent."""
        self._check_model(request.model)
        max_images = self._model.capabilities.max_images_per_chat
        messages, system = await read_messages(request.chat, self._fetch, self._max_image_bytes, max_images, request.chat_param)
        sampling = request.sampling(self._max_new_tokens, self._temperature)
        chat = ChatRequest(form.answer_id, self._known_answers.restore(messages, system), sampling, system)

        def remember(end: Finished, text: str) -> None:
            self._known_answers.remember(chat.messages, end.text, end.token_ids, chat.system)
            on_text(text)

        async with self._model.submit(chat) as stream:
            answering = Answering(stream, form, request.stop_strings, remember)
            return await (answering.send_events(http) if request.stream else answering.send_whole())
