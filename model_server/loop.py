"""The one inference loop: a bounded queue in front of the engine.

A request that cannot be answered is refused at once: the queue is full, the prompt can never fit, or the loop shuts down. Others
wait in order of arrival until fewer than `max_running` run and the cache has room for the whole answer, so that a running answer is
never evicted. When the engine breaks, all waiting and running requests fail at once, and `wait_failed` raises. After a while
without requests the model may be unloaded; the next request waits until it is loaded again, and its listener is told. Call all
methods on one event loop's thread; blocking work runs in other threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Never

from model_server.engine import Engine, EngineOutput
from model_server.errors import EngineFailed, ModelServerError, PromptTooLong, QueueFull, RequestRefused, ShuttingDown
from model_server.stream import TokenStream
from model_server.types import ChatRequest, FinishReason, Message, ModelCapabilities, Queued

_log = logging.getLogger(__name__)
_MAX_CHARACTERS_PER_TOKEN = 24  # a text longer than context length * this cannot fit, and is not tokenized
_NEWEST_WEIGHT = 0.3  # weight of the last answer's duration in the moving average that estimates the wait
_FAILED = "Something went wrong in the model. Please try again."
_SHUTTING_DOWN = "I am shutting down right now. Please try again in a moment."


@dataclass(slots=True, eq=False)
class _Job:
    engine_id: str  # unlike request_id, never used twice
    request: ChatRequest
    stream: TokenStream
    cost: int
    started_at: float = 0.0
    is_in_engine: bool = False


class InferenceLoop:
    """Queues requests for an engine. Use: `await start()`, then `submit`, then `await drain(...)` and `await close()`.

    At most `max_queue` requests wait and `max_running` run. After `idle_unload_seconds` without requests the model is unloaded (0:
    never).
    """

    def __init__(self, engine: Engine, *, max_queue: int = 64, max_running: int = 16, idle_unload_seconds: float = 0) -> None:
        self._engine = engine
        self._max_queue = max_queue
        self._max_running = max_running
        self._idle_unload_seconds = idle_unload_seconds  # 0: the model stays loaded
        self._waiting: deque[_Job] = deque()
        self._running: dict[str, _Job] = {}
        self._numbers = itertools.count()
        self._mean_seconds: float | None = None
        self._is_accepting = False
        self._is_loaded = False
        self._is_closed = False
        self._failure: EngineFailed | None = None
        self._has_failed = asyncio.Event()
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._has_work = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._sleeper: asyncio.Task[None] | None = None
        self._beside = ThreadPoolExecutor(1, "threadsight-beside-the-engine")  # one thread: starting, adding, unloading take turns

    @property
    def capabilities(self) -> ModelCapabilities:
        return self._engine.capabilities

    @property
    def num_waiting(self) -> int:
        """Number of requests in the queue."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Number of requests that are being answered."""
        return len(self._running)

    @property
    def is_loaded(self) -> bool:
        """Whether the model is in memory. False while it is unloaded or being loaded."""
        return self._is_loaded

    async def start(self) -> None:
        """Load the model and accept requests. Raises `ModelLoadError`."""
        await self._load()
        self._is_accepting = True
        if self._idle_unload_seconds:
            self._sleeper = asyncio.create_task(self._sleep_when_idle())

    async def _load(self) -> None:
        loop = asyncio.get_running_loop()

        def from_engine(outputs: list[EngineOutput]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._take, outputs)

        def on_failure(error: BaseException) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._fail, error)

        await loop.run_in_executor(self._beside, self._engine.start, from_engine, on_failure)
        self._is_loaded = True

    async def num_prompt_tokens(self, messages: Sequence[Message], system: str | None = None) -> int:
        """Length of a chat's prompt in tokens, pictures and system text included. The answer needs room in the context, too.

        Raises ValueError unless the roles alternate and the last message is the user's; `RequestRefused` for a picture that the
        model cannot take.
        """
        return await asyncio.to_thread(self._engine.num_prompt_tokens, messages, system)

    def check_size(self, messages: Sequence[Message], system: str | None = None) -> None:
        """Refuse what cannot fit however its tokens are counted, which takes long for a long text. Raises `RequestRefused`."""
        capabilities = self.capabilities
        num_images = sum(len(message.images) for message in messages)
        if num_images > capabilities.max_images_per_chat:
            raise RequestRefused(f"I can look at {capabilities.max_images_per_chat} picture(s) in a chat, not {num_images}.")
        num_characters = len(system or "") + sum(len(message.text) for message in messages)
        if num_characters > capabilities.context_length * _MAX_CHARACTERS_PER_TOKEN:
            raise PromptTooLong(num_characters // 4, capabilities.context_length - 1)

    def submit(self, request: ChatRequest) -> TokenStream:
        """Queue a request and return its stream at once. `max_new_tokens` may be lowered to what fits the context and the cache.

        Raises `QueueFull`, `PromptTooLong`, `ShuttingDown`, another `RequestRefused`, or `EngineFailed`.
        """
        if self._failure is not None:
            raise self._failure
        if not self._is_accepting:
            raise ShuttingDown(_SHUTTING_DOWN)
        num_tokens, max_new_tokens, cost = self._measure(request)
        if len(self._waiting) >= self._max_queue:
            raise QueueFull("I am very busy right now, and my queue is full. Please try again in a little while.")
        request = replace(request, sampling=replace(request.sampling, max_new_tokens=max_new_tokens))
        stream = TokenStream(request.request_id, num_tokens, lambda: self._cancel(job))
        job = _Job(f"{next(self._numbers)}", request, stream, cost)
        self._waiting.append(job)
        self._is_idle.clear()
        self._has_work.set()
        self._advance()
        return stream

    async def drain(self, timeout_seconds: float) -> bool:
        """Accept no more requests, refuse the waiting ones, and let the running ones finish. Returns whether all did in time."""
        self._is_accepting = False
        while self._waiting:
            self._waiting.popleft().stream.fail(ShuttingDown(_SHUTTING_DOWN))
        self._advance()
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._is_idle.wait()
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Stop the engine now: waiting and running requests fail with `ShuttingDown`. Safe to call twice."""
        if self._is_closed:
            return
        self._is_closed = True
        self._is_accepting = False
        self._end_all(ShuttingDown(_SHUTTING_DOWN))
        if self._sleeper is not None:
            self._sleeper.cancel()
            self._tasks.add(self._sleeper)
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.get_running_loop().run_in_executor(self._beside, self._engine.stop)
        await asyncio.to_thread(self._beside.shutdown)  # a lingering thread would keep the engine in memory

    async def wait_failed(self) -> Never:
        """Wait until the engine breaks, then raise `EngineFailed`."""
        await self._has_failed.wait()
        assert self._failure is not None
        raise self._failure

    def _measure(self, request: ChatRequest) -> tuple[int, int, int]:
        """Returns prompt tokens, most tokens of the answer, cache cost. Raises `RequestRefused` for what can never be answered."""
        capabilities = self.capabilities
        self.check_size(request.messages, request.system)
        max_prompt = capabilities.context_length - 1
        num_tokens = self._engine.num_prompt_tokens(request.messages, request.system)
        if num_tokens > max_prompt:
            raise PromptTooLong(num_tokens, max_prompt)
        max_new_tokens = min(request.sampling.max_new_tokens, capabilities.context_length - num_tokens)
        capacity = self._engine.cache_capacity
        # A small cache may shorten the answer, but not to nothing.
        while max_new_tokens > 1 and self._engine.cache_cost(num_tokens, max_new_tokens) > capacity:
            max_new_tokens //= 2
        cost = self._engine.cache_cost(num_tokens, max_new_tokens)
        if cost > capacity:
            raise PromptTooLong(num_tokens, num_tokens * capacity // cost)
        return num_tokens, max_new_tokens, cost

    def _advance(self) -> None:
        """Start the requests that can run, and tell the others their positions."""
        while self._is_loaded and self._waiting and len(self._running) < self._max_running:
            free = self._engine.cache_capacity - sum(job.cost for job in self._running.values())
            if self._waiting[0].cost > free:
                break
            self._begin(self._waiting.popleft())
        for position, job in enumerate(self._waiting, 1):
            job.stream.put_queued(Queued(position, self._estimate(position), is_loading=not self._is_loaded))
        if not self._waiting and not self._running:
            self._is_idle.set()

    async def _sleep_when_idle(self) -> None:
        try:
            while True:
                await self._unload_once()
        except Exception as error:
            self._fail(error)

    async def _unload_once(self) -> None:
        """Wait until there was no request for long enough, unload the model, and load it again for the next request."""
        await self._is_idle.wait()
        self._has_work.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._idle_unload_seconds):
                await self._has_work.wait()
        if self._waiting or self._running:
            return
        self._is_loaded = False
        await asyncio.get_running_loop().run_in_executor(self._beside, self._engine.unload)
        _log.info("Nobody asked for %g seconds: the model was unloaded.", self._idle_unload_seconds)
        while not self._is_loaded:
            await self._wake()

    async def _wake(self) -> None:
        """Wait for a request, then load the model. If that fails, all waiting requests fail, and the next one tries again."""
        while not self._waiting:
            self._has_work.clear()
            await self._has_work.wait()
        try:
            await self._load()
        except ModelServerError as error:
            _log.error("the model could not be loaded again: %s", error)
            self._end_all(EngineFailed("The model could not be loaded again. Please try again later."))
        else:
            self._advance()

    def _estimate(self, position: int) -> float | None:
        return None if self._mean_seconds is None else self._mean_seconds * position / self._max_running

    def _begin(self, job: _Job) -> None:
        job.stream.put_queued(None)
        job.started_at = asyncio.get_running_loop().time()
        self._running[job.engine_id] = job
        task = asyncio.create_task(self._add(job))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _add(self, job: _Job) -> None:
        def add() -> bool:
            if job.stream.is_ended:
                return False
            self._engine.add(job.engine_id, job.request.messages, job.request.sampling, job.request.system)
            return True

        try:
            job.is_in_engine = await asyncio.get_running_loop().run_in_executor(self._beside, add)
        except Exception as error:
            _log.error("a request could not be started: %s", type(error).__name__)
            job.stream.fail(error if isinstance(error, ModelServerError) else EngineFailed(_FAILED))
        if job.stream.is_ended:  # failed or cancelled in the meantime
            if job.is_in_engine:
                self._engine.cancel(job.engine_id)
            self._leave(job)

    def _take(self, outputs: list[EngineOutput]) -> None:
        for output in outputs:
            job = self._running.get(output.request_id)
            if job is None or job.stream.is_ended:
                continue
            if output.error is not None:
                _log.error("the engine failed one request")
                job.stream.fail(output.error if isinstance(output.error, ModelServerError) else EngineFailed(_FAILED))
                self._leave(job)
                continue
            job.stream.put_text(output.text, output.token_ids, output.num_cached_tokens)
            if output.finish_reason is not None:
                self._learn(asyncio.get_running_loop().time() - job.started_at)
                job.stream.finish(output.finish_reason, output.usage)
                self._leave(job)

    def _learn(self, seconds: float) -> None:
        mean = self._mean_seconds
        self._mean_seconds = seconds if mean is None else mean + _NEWEST_WEIGHT * (seconds - mean)

    def _cancel(self, job: _Job) -> None:
        job.stream.finish(FinishReason.CANCELLED)
        if job in self._waiting:
            self._waiting.remove(job)
            self._advance()
        elif job.is_in_engine:
            self._engine.cancel(job.engine_id)
            self._leave(job)
        # otherwise its pictures are being encoded: _add notices that the stream has ended

    def _leave(self, job: _Job) -> None:
        if self._running.pop(job.engine_id, None) is not None:
            self._advance()

    def _fail(self, error: BaseException) -> None:
        _log.critical("the engine broke: %s: %s", type(error).__name__, error)
        self._is_accepting = False
        self._failure = EngineFailed("The model has stopped working. The program has to be started again.")
        self._end_all(self._failure)
        self._has_failed.set()

    def _end_all(self, error: ModelServerError) -> None:
        jobs = [*self._waiting, *self._running.values()]
        self._waiting.clear()
        for job in jobs:
            job.stream.fail(error)
            if job.is_in_engine:
                self._engine.cancel(job.engine_id)
                self._running.pop(job.engine_id, None)
        if not self._running:
            self._is_idle.set()
