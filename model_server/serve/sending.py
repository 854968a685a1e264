"""Sends one answer to its client, whole or in pieces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import assert_never

from aiohttp import web

from model_server.errors import ModelServerError
from model_server.serve.answer import AnswerForm, StopStrings
from model_server.serve.refusal import describe_error
from model_server.stream import TokenStream
from model_server.types import Delta, Finished, FinishReason, Queued


class Answering:
    """An answer on its way: follows the stream, and ends it at a stop string.

    `on_end` is called before the end is sent, with what the model said and the text that the client gets.
    """

    def __init__(
        self, stream: TokenStream, form: AnswerForm, stop_strings: Sequence[str], on_end: Callable[[Finished, str], None]
    ) -> None:
        self._stream, self._form, self._on_end = stream, form, on_end
        self._stops = StopStrings(stop_strings)
        self._texts: list[str] = []

    async def send_whole(self) -> web.Response:
        """Wait for the end, and make one response of all. Raises `ModelServerError`."""
        async for news in self._stream:
            match news:
                case Queued():
                    pass
                case Delta():
                    self._take(news.text)
                case Finished():
                    self._finish(news)
                    return web.json_response(self._form.whole(self._text, self._reason(news), news.usage))
                case _ as never:
                    assert_never(never)
        raise AssertionError("a stream ends with Finished or raises")

    async def send_events(self, http: web.Request) -> web.StreamResponse:
        """Send server-sent events. The response's head goes with the first one, so that a refusal before it has its own status.

        Raises `ModelServerError` before that, and ConnectionError when the client has left."""
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        )
        try:
            async for news in self._stream:
                if not response.prepared:
                    await response.prepare(http)
                    await response.write(self._form.beginning())
                match news:
                    case Queued():  # a comment, so that proxies do not time out; people may read it
                        await response.write(f": waiting, place {news.position}\n\n".encode())
                    case Delta():
                        if text := self._take(news.text):
                            await response.write(self._form.piece(text))
                    case Finished():
                        if text := self._finish(news):
                            await response.write(self._form.piece(text))
                        await response.write(self._form.end(self._text, self._reason(news), news.usage))
                    case _ as never:
                        assert_never(never)
        except ModelServerError as error:
            if not response.prepared:
                raise
            await response.write(self._form.failure(describe_error(error, "messages")[1]))
        await response.write_eof()
        return response

    @property
    def _text(self) -> str:
        return "".join(self._texts)

    def _take(self, piece: str) -> str:
        """Take a piece from the model. Returns what may be sent of it."""
        text = self._stops.add(piece)
        self._texts.append(text)
        if self._stops.is_found:
            self._stream.cancel()
        return text

    def _finish(self, end: Finished) -> str:
        """Take the end. Returns what was held back."""
        self._texts.append(self._stops.flush())
        self._on_end(end, self._text)
        return self._texts[-1]

    def _reason(self, end: Finished) -> FinishReason:
        return FinishReason.STOP if self._stops.is_found else end.reason
