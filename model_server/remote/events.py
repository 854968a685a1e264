"""The objects that a model server sends for an answer: in server-sent events, in lines of JSON, or one alone.

Events: https://html.spec.whatwg.org/multipage/server-sent-events.html. Many servers forget the empty line after an event, so that a
line whose object is whole counts as one.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterable, Iterator
from typing import Any

from model_server.errors import EngineFailed
from model_server.remote.refusals import NOT_UNDERSTOOD, Refusal, error_in, refusal

_FIELDS = (b"", b"data", b"event", b"id", b"retry", b"error")  # of a server-sent event; llama.cpp had its errors in `error`
_MAX_BYTES = 2**24  # of a line, and of an object over many lines
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_DONE = (b"[DONE]", b'"[DONE]"', b"[done]")


class ErrorInAnswer(Exception):
    """What comes in place of the rest of an answer is an error that the server reports, or nothing that could be read."""

    def __init__(self, refused: Refusal) -> None:
        super().__init__(refused.advice)
        self.refusal = refused


async def read_events(chunks: AsyncIterable[bytes]) -> AsyncGenerator[dict[str, Any] | None, None]:
    """Yields the objects of an answer, and None where the server says that this was all, or one object was the whole answer.

    `chunks` may be cut anywhere. Raises `ErrorInAnswer` for an error that the server reports, and for what cannot be read."""
    lines, events = _Lines(), _Events()
    async for chunk in chunks:
        for line in lines.feed(chunk):
            for event in events.take(line):
                yield event
                if event is None:
                    return
    rest = lines.rest()
    for event in [*(events.take(rest) if rest else []), *events.end()]:
        yield event


class _Lines:
    """Joins chunks and splits them into lines, which end with CR, LF or both."""

    def __init__(self) -> None:
        self._held: list[bytes] = []
        self._num_held = 0
        self._was_return = False  # the last line ended with CR

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        for line in chunk.splitlines(keepends=True):
            self._held.append(line)
            self._num_held += len(line)
            if self._num_held > _MAX_BYTES:
                raise unreadable("a line of its answer is longer than 16 MB")
            if line.endswith((b"\n", b"\r")):
                # Between a CR and an LF that come apart there is no line.
                if not (line == b"\n" and len(self._held) == 1 and self._was_return):
                    yield self.rest()
                self._was_return = line.endswith(b"\r")
                self._held.clear()
                self._num_held = 0

    def rest(self) -> bytes:
        """What has come of a line that has not ended."""
        return b"".join(self._held)


class _Events:
    """What the lines say. `take` and `end` give the objects that are complete, and None for the end of the answer."""

    def __init__(self) -> None:
        self._data = bytearray()  # of an event whose object goes over many lines
        self._document = bytearray()  # lines that belong to no event: an object, in one line or in many, or what is no answer
        self._num_events = self._num_objects = 0
        self._is_marked = self._is_strange = False

    def take(self, line: bytes) -> list[dict[str, Any] | None]:
        line = line.strip().removeprefix(_BYTE_ORDER_MARK)
        name, _, data = line.partition(b":")
        data = data.strip()
        if not line:
            return self._end_event()
        if name == b"event":
            self._is_marked = data == b"error"
        elif name in (b"data", b"error"):
            self._num_events += 1
            return self._take_data(data, is_marked=self._is_marked or name == b"error")
        elif name in _FIELDS:
            pass
        elif self._data:  # the rest of an object, without the field's name
            self._hold(line)
        elif line.startswith(b"{") and line.endswith(b"}") and not self._document:
            return [self._object(_parse(line), line, is_whole=self._num_events == 0)]
        elif len(self._document) <= _MAX_BYTES:
            self._document += line + b"\n"
        return []

    def end(self) -> list[dict[str, Any] | None]:
        """The connection has ended. An event that was cut off by that is none."""
        events: list[dict[str, Any] | None] = []
        if self._data and _parse(self._data) is not None:
            events += self._end_event()
        if self._num_events:
            if self._is_strange and not self._num_objects:
                raise unreadable()
            return events
        if self._document:
            events.append(self._object(_parse(self._document), bytes(self._document), is_whole=True))
        return [*events, None] if self._num_objects == 1 else events

    def _take_data(self, data: bytes, *, is_marked: bool) -> list[dict[str, Any] | None]:
        if self._data:
            self._hold(data)
            return []
        if data in _DONE:
            return [None]
        if data in (b"", b"null"):
            return []
        parsed = _parse(data)
        if parsed is None and data.startswith(b"{"):
            self._hold(data)
            return []
        if not isinstance(parsed, dict) and not is_marked and not data.startswith(b"<"):
            self._is_strange = True  # a word that keeps the connection alive
            return []
        return [self._object(parsed, data, is_marked=is_marked)]

    def _hold(self, data: bytes) -> None:
        self._data += data + b"\n"
        if len(self._data) > _MAX_BYTES:
            raise unreadable("an event of its answer is longer than 16 MB")

    def _end_event(self) -> list[dict[str, Any] | None]:
        data, is_marked = bytes(self._data), self._is_marked
        self._data.clear()
        self._is_marked = False
        return [self._object(_parse(data), data, is_marked=is_marked)] if data else []

    def _object(self, parsed: object, data: bytes, *, is_whole: bool = False, is_marked: bool = False) -> dict[str, Any]:
        """The object of an event, or of a whole answer. Raises `ErrorInAnswer` also for the error that it is."""
        if data.startswith(b"<"):
            advice = "it is a web page: the address may lack a part such as /v1"
            raise ErrorInAnswer(Refusal(EngineFailed(NOT_UNDERSTOOD), advice))
        if is_whole and isinstance(parsed, list) and parsed:  # as Gemini wraps its errors
            parsed = parsed[0]
        if isinstance(parsed, dict):
            status = error_in(parsed, is_whole=is_whole, is_marked=is_marked)
        elif is_marked:
            status = 500
        else:
            raise unreadable()
        if status is not None:
            raise ErrorInAnswer(refusal(status, data))
        assert isinstance(parsed, dict)
        self._num_objects += 1
        return parsed


def unreadable(why: str = "this is no chat completion") -> ErrorInAnswer:
    """The error for what is no answer; `why` is for the operator."""
    return ErrorInAnswer(Refusal(EngineFailed(NOT_UNDERSTOOD), why))


def _parse(data: bytes | bytearray) -> object:
    """JSON, even with raw tabs in its texts, or with bytes that are no UTF-8. None if it is none."""
    try:
        return json.loads(data.decode(errors="replace"), strict=False)
    except (ValueError, RecursionError):
        return None
