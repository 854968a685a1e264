"""One answer, streamed to one listener.

A slow listener costs a bounded amount of memory: pending pieces of text are joined, and only the latest queue position is kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType

from model_server.types import Delta, Finished, FinishReason, Queued, StreamEvent, Usage


class TokenStream:
    """An async iterator over `Queued` events, then `Delta` events, then one `Finished`.

    Iterating raises a `ModelServerError` when the answer fails. `num_prompt_tokens` (0 until counted) and `on_cancel` come from the
    inference loop.

    Leaving it as a context manager cancels the answer. Use it on the event loop's thread only.
    """

    def __init__(self, request_id: str, num_prompt_tokens: int, on_cancel: Callable[[], None]) -> None:
        self.request_id = request_id
        self._num_prompt_tokens = num_prompt_tokens
        self._num_cached_tokens = 0
        self._on_cancel = on_cancel
        self._text: list[str] = []
        self._token_ids: list[int] = []
        self._queued: Queued | None = None
        self._next_delta = (0, 0)  # handed out so far: pieces of text, ids
        self._end: Finished | BaseException | None = None
        self._is_exhausted = False
        self._news = asyncio.Event()

    @property
    def is_ended(self) -> bool:
        """Whether the answer has finished or failed, even if the listener has not read its end yet."""
        return self._end is not None

    def cancel(self) -> None:
        """Stop the answer. The iterator yields the text so far, then `Finished` with reason CANCELLED. Does nothing after the
        end."""
        if self._end is None:
            self._on_cancel()

    def __aiter__(self) -> TokenStream:
        return self

    async def __anext__(self) -> StreamEvent:
        while True:
            self._news.clear()
            if self._next_delta != (len(self._text), len(self._token_ids)):
                return self._take_delta()
            if self._queued is not None:
                queued, self._queued = self._queued, None
                return queued
            if self._is_exhausted:
                raise StopAsyncIteration
            if self._end is not None:
                self._is_exhausted = True
                if isinstance(self._end, BaseException):
                    raise self._end
                return self._end
            await self._news.wait()

    async def __aenter__(self) -> TokenStream:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.cancel()

    def _take_delta(self) -> Delta:
        num_texts, num_ids = self._next_delta
        self._next_delta = (len(self._text), len(self._token_ids))
        self._queued = None
        return Delta("".join(self._text[num_texts:]), tuple(self._token_ids[num_ids:]))

    # Called by the inference loop.

    def put_num_prompt_tokens(self, num_prompt_tokens: int) -> None:
        """Set the length of the prompt in tokens, once it is counted."""
        self._num_prompt_tokens = num_prompt_tokens

    def put_queued(self, queued: Queued | None) -> None:
        """Set the newest queue position; None when the request leaves the queue."""
        if self._end is None and queued is not None:
            self._queued = queued
            self._news.set()
        elif queued is None:
            self._queued = None

    def put_text(self, text: str, token_ids: tuple[int, ...], num_cached_tokens: int) -> None:
        """Append text and its ids. Ignored after the end, as is `finish` or `fail`."""
        if self._end is None:
            self._text.append(text)
            self._token_ids += token_ids
            self._num_cached_tokens = num_cached_tokens
            self._news.set()

    def finish(self, reason: FinishReason, usage: Usage | None = None) -> None:
        """End the answer. `usage` None is counted from the ids."""
        if self._end is None:
            usage = usage or Usage(self._num_prompt_tokens, self._num_cached_tokens, len(self._token_ids))
            self._end = Finished(reason, "".join(self._text), tuple(self._token_ids), usage)
            self._news.set()

    def fail(self, error: BaseException) -> None:
        """End the answer with an error, which iterating raises after the text so far."""
        if self._end is None:
            self._end = error
            self._news.set()
