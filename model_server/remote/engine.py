"""An engine on another machine, behind the same `Engine` interface; `InferenceLoop` keeps the queue, limits and cancelling.

* Until an answer's first word arrives, an unreachable or busy server is asked again a few times, with growing delays; afterwards
  never, because the listener would get the beginning twice. What it refuses is told at once, unless it refuses an optional field of
  the request: then it is asked without it, now and from then on.
* An unreachable server does not break the engine: requests fail meanwhile, and no restart is needed.
* Cancelling closes the connection, which makes such servers stop.

There are no token ids here. A prompt's length is a cautious estimate, corrected by the server's own counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from functools import partial

from model_server.decoding.budget import aside
from model_server.engine import EngineOutput, OnFailure, OnOutputs
from model_server.errors import EngineFailed, ModelLoadError, ModelServerError, PromptTooLong
from model_server.loop import InferenceLoop
from model_server.remote.connection import Connection, FieldsRefused, NotYet, RemoteServer
from model_server.remote.listing import ServedModel
from model_server.remote.pieces import Piece
from model_server.remote.refusals import NOT_UNDERSTOOD, NoModel
from model_server.remote.request import optional_fields, request_body
from model_server.types import FinishReason, Message, ModelCapabilities, SamplingParams, Usage

DEFAULT_CONTEXT_LENGTH = 4096  # LLaVA-1.5's
DEFAULT_IMAGE_TOKENS = 576  # LLaVA-1.5's
MAX_RUNNING = 256  # what a cluster batches at a time; other requests wait here, where their queue position is shown
RETRY_DELAYS_SECONDS = (0.5, 1.0, 2.0, 4.0)
_MAX_RETRY_AFTER_SECONDS = 30.0  # whoever asked is not kept waiting longer
_BYTES_PER_TOKEN = 3  # of UTF-8; English has about four
_MAX_CHARACTERS_PER_TOKEN = 64  # a longer answer is from a server that ignores how long it may be
_TOKENS_PER_MESSAGE = 8  # for what a template adds around each

_log = logging.getLogger(__name__)


class RemoteEngine:
    """`Engine` that asks `server`. Create it on the event loop that it will use, which also calls its callbacks."""

    def __init__(self, server: RemoteServer, retry_delays_seconds: Sequence[float] = RETRY_DELAYS_SECONDS) -> None:
        self._server = server
        self._connection = Connection(server)
        self._retry_delays_seconds = retry_delays_seconds
        self._loop = asyncio.get_running_loop()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._has_learned = False  # whether the server's model is known
        self._told: ServedModel | None = None  # what was last logged of it
        self._left_out: frozenset[str] = frozenset()  # the fields that the server does not take
        self._stated_context_length: int | None = None  # by its errors, in tokens
        self._capabilities = ModelCapabilities(
            model_name=server.model or "",
            context_length=server.context_length or DEFAULT_CONTEXT_LENGTH,
            num_image_tokens=DEFAULT_IMAGE_TOKENS,
            max_images_per_chat=server.max_images_per_chat,
        )
        self._on_outputs: OnOutputs = lambda outputs: None

    @property
    def capabilities(self) -> ModelCapabilities:
        return self._capabilities

    @property
    def cache_capacity(self) -> int:
        return 0  # the server manages its cache

    def cache_cost(self, num_prompt_tokens: int, max_new_tokens: int) -> int:
        return 0

    def start(self, on_outputs: OnOutputs, on_failure: OnFailure) -> None:
        """Connect. An unreachable server is tried again at the next request; a reachable one that cannot be used raises
        `ModelLoadError`."""
        self._on_outputs = on_outputs
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()

    def num_prompt_tokens(self, messages: Sequence[Message], system: str | None = None) -> int:
        return _num_text_tokens(messages, system) + _num_images(messages) * self._capabilities.num_image_tokens

    def add(self, request_id: str, messages: Sequence[Message], sampling: SamplingParams, system: str | None = None) -> None:
        def begin() -> None:
            task = self._loop.create_task(self._answer(request_id, messages, sampling, system))
            self._tasks[request_id] = task
            task.add_done_callback(lambda _: self._tasks.pop(request_id))

        self._loop.call_soon_threadsafe(begin)

    def cancel(self, request_id: str) -> None:
        def cancel() -> None:
            if task := self._tasks.get(request_id):
                task.cancel()

        self._loop.call_soon_threadsafe(cancel)

    def unload(self) -> None:
        """Does nothing: the model is elsewhere."""

    def stop(self) -> None:
        if not self._loop.is_closed():
            asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()

    async def _open(self) -> None:
        try:
            await self._learn()
        except NotYet:
            _log.warning("The model server at %s is not there yet. Questions are answered when it is.", self._connection.url)
        except ModelServerError as error:
            raise ModelLoadError(f"The model server at {self._connection.url} cannot be used; the log says why.") from error

    async def _close(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._connection.close()

    async def _learn(self) -> None:
        served = await self._connection.served_model()
        self._tell(served)
        if served.name != self._capabilities.model_name:  # what was learned of another one is forgotten
            self._stated_context_length = None
            self._left_out = frozenset()
            self._connection.forget_thinking()
            self._capabilities = replace(self._capabilities, num_image_tokens=DEFAULT_IMAGE_TOKENS)
        context_length = self._server.context_length or served.context_length or DEFAULT_CONTEXT_LENGTH
        context_length = min(context_length, self._stated_context_length or context_length)
        self._capabilities = replace(self._capabilities, model_name=served.name, context_length=context_length)
        self._has_learned = True

    def _tell(self, served: ServedModel) -> None:
        """Log which model is used, when that is new."""
        if served == self._told:
            return
        self._told = served
        _log.info("The model server at %s answers with the model %s.", self._connection.url, served.shown_name)
        if served.others:
            _log.warning(
                "The model server at %s lists %d models. The settings name none, so %s is used. They can name another: %s.",
                *(self._connection.url, len(served.others) + 1, served.shown_name, served.shown_others),
            )

    async def _answer(self, request_id: str, messages: Sequence[Message], sampling: SamplingParams, system: str | None) -> None:
        reason: FinishReason | None = None
        usage: Usage | None = None
        num_characters = 0
        try:
            async with contextlib.aclosing(self._pieces(messages, sampling, system)) as pieces:
                async for piece in pieces:
                    reason, usage = piece.finish_reason or reason, piece.usage or usage
                    if piece.text:
                        self._on_outputs([EngineOutput(request_id, piece.text)])
                    num_characters += len(piece.text)
                    if num_characters > sampling.max_new_tokens * _MAX_CHARACTERS_PER_TOKEN:
                        _log.warning("The model server at %s ignores how long an answer may be: it was cut.", self._connection.url)
                        reason = FinishReason.LENGTH
                        break
        except ModelServerError as error:
            self._has_learned = False  # a restarted server may have another model
            if isinstance(error, PromptTooLong):
                self._correct_context_length(error)
            self._on_outputs([EngineOutput(request_id, error=error)])
        except Exception as error:
            _log.error("A request to the model server failed: %s", type(error).__name__)
            self._on_outputs([EngineOutput(request_id, error=EngineFailed(NOT_UNDERSTOOD))])
        else:
            if usage is not None:
                self._correct_guess(messages, system, usage)
            self._on_outputs([EngineOutput(request_id, finish_reason=reason, usage=usage)])

    async def _pieces(
        self, messages: Sequence[Message], sampling: SamplingParams, system: str | None
    ) -> AsyncGenerator[Piece, None]:
        """The pieces of the answer, with retries before the first."""
        delays = iter(self._retry_delays_seconds)
        left_out = self._left_out
        has_text = False
        while True:
            optional = optional_fields(sampling, left_out)
            try:
                if not self._has_learned:
                    await self._learn()
                body = await aside(partial(request_body, self._capabilities.model_name, messages, optional, system))
                async with contextlib.aclosing(self._connection.answer(body)) as pieces:
                    async for piece in pieces:
                        self._leave_out(left_out)
                        has_text = has_text or bool(piece.text)
                        yield piece
                return
            except NoModel:
                if has_text or next(delays, None) is None or not await self._has_another_model():
                    raise
                left_out = self._left_out
            except FieldsRefused as refused:
                suspects = refused.refusal.fields & optional.keys()
                if not suspects:
                    _log.error("The model server at %s refused a question: %s.", self._connection.url, refused.refusal.advice)
                    raise refused.refusal.error from None
                left_out |= suspects
            except NotYet as not_yet:
                delay = next(delays, None)
                if delay is None or not_yet.after_seconds > _MAX_RETRY_AFTER_SECONDS:
                    raise not_yet.error from None
                await asyncio.sleep(max(delay, not_yet.after_seconds))

    async def _has_another_model(self) -> bool:
        """Whether the server, restarted since, lists another model than the one that it was asked for, which it does not have."""
        earlier = self._capabilities.model_name
        with contextlib.suppress(NotYet, ModelServerError):
            await self._learn()
        return self._capabilities.model_name != earlier

    def _leave_out(self, fields: frozenset[str]) -> None:
        """Remember the fields without which the server has just begun to answer."""
        if fields - self._left_out:
            self._left_out |= fields
            names = ", ".join(sorted(fields))
            _log.warning("The model server at %s does not take %s: it is asked without.", self._connection.url, names)

    def _correct_guess(self, messages: Sequence[Message], system: str | None, usage: Usage) -> None:
        """Learn from the server's count how many tokens a picture takes. A count that goes beyond the context is no measure: one
        of the two is wrong, and nothing would fit any more."""
        num_images = _num_images(messages)
        if num_images and usage.num_prompt_tokens < self._capabilities.context_length:
            seen = math.ceil((usage.num_prompt_tokens - _num_text_tokens(messages, system)) / num_images)
            if seen > self._capabilities.num_image_tokens:
                self._capabilities = replace(self._capabilities, num_image_tokens=seen)

    def _correct_context_length(self, error: PromptTooLong) -> None:
        """Believe a server that says how little it takes, so that the next questions leave out enough of their chats."""
        if 0 < error.max_tokens < self._capabilities.context_length:
            _log.warning(
                "The model server at %s takes %d tokens, not %d.",
                *(self._connection.url, error.max_tokens, self._capabilities.context_length),
            )
            self._stated_context_length = error.max_tokens
            self._capabilities = replace(self._capabilities, context_length=error.max_tokens)


async def open_remote(
    server: RemoteServer,
    *,
    max_queue: int = 64,
    max_running: int = MAX_RUNNING,
    retry_delays_seconds: Sequence[float] = RETRY_DELAYS_SECONDS,
) -> InferenceLoop:
    """Start a loop in front of `server`, which need not be reachable yet. Raises `ModelLoadError` when it is, but cannot be used.

    The caller closes the loop.
    """
    loop = InferenceLoop(RemoteEngine(server, retry_delays_seconds), max_queue=max_queue, max_running=max_running)
    try:
        await loop.start()
    except BaseException:
        await loop.close()
        raise
    return loop


def _num_images(messages: Sequence[Message]) -> int:
    return sum(len(message.images) for message in messages)


def _num_text_tokens(messages: Sequence[Message], system: str | None) -> int:
    texts = [*([system] if system else []), *(message.text for message in messages)]
    num_bytes = sum(len(text.encode(errors="replace")) for text in texts)
    return math.ceil(num_bytes / _BYTES_PER_TOKEN) + _TOKENS_PER_MESSAGE * len(texts)
