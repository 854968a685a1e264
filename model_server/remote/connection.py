"""One request to a model server. Errors that are worth another try are `NotYet`, or `FieldsRefused`.

A server's error is reported twice: to the person who asked by the exception, and to the operator in the log. No proxy is used but
the given one, redirects are not followed, and certificates are checked, so that the key goes to the given address only.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import email.utils
import io
import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import assert_never

import aiohttp

from model_server.errors import EngineFailed, ModelServerError
from model_server.remote.events import ErrorInAnswer
from model_server.remote.listing import ListedModel, ServedModel, choose, printable, read_models
from model_server.remote.pieces import Piece, read_pieces
from model_server.remote.refusals import (
    AWAY,
    BROKEN_OFF,
    FILTERED,
    NO_WORD,
    NOT_UNDERSTOOD,
    SILENT,
    TELL,
    Refusal,
    error_in_body,
    refusal,
)
from model_server.remote.thinking import ThinkingFilter
from model_server.types import FinishReason

_CONNECT_SECONDS = 10.0
_SILENCE_SECONDS = 300.0  # a busy server sends nothing before the first word
_AFTER_END_SECONDS = 5.0  # how long a finished answer is kept waiting for its token counts
_LIST_SECONDS = 20.0  # for the list of models, which needs no model
_ERROR_SECONDS = 5.0  # for the words of an error, whose status is known
_IDLE_CONNECTION_SECONDS = 15.0
_MAX_ERROR_BYTES = 2**20
_MAX_HEADER_BYTES = 2**16  # gateways send long ones
_MAX_LIST_BYTES = 2**24  # services list hundreds of models with all that can be said of them

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RemoteServer:
    """Where the model is. `model` None is the first that the server lists and that can answer. `context_length`, in tokens, None is
    what the server says, or 4096. `proxy` is the URL of the proxy by which it is reached, with its password."""

    url: str  # ends in /v1 at most servers
    api_key: str | None = field(default=None, repr=False)
    model: str | None = None
    context_length: int | None = None
    max_images_per_chat: int = 1
    proxy: str | None = field(default=None, repr=False)


class NotYet(Exception):
    """Nothing of the answer has arrived, so it is safe to try again, not before `after_seconds`. `error` is the error to raise if
    no try helps."""

    def __init__(self, error: ModelServerError, after_seconds: float = 0.0) -> None:
        super().__init__(str(error))
        self.error = error
        self.after_seconds = after_seconds


class FieldsRefused(Exception):
    """The server may take the request without one of `refusal.fields`; `refusal.error` is the error to raise if none is in it."""

    def __init__(self, refused: Refusal) -> None:
        super().__init__(refused.advice)
        self.refusal = refused


class Connection:
    """An HTTP session with the server. Create it on the event loop that uses it."""

    def __init__(self, server: RemoteServer) -> None:
        self._server = server
        self.url = server.url.rstrip("/").removesuffix("/chat/completions").rstrip("/")  # some copy the whole address
        self._starts_thinking = False  # the model's answers begin within its thinking, without a mark
        self._why_away: str | None = None  # as the log has it
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_CONNECTION_SECONDS),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_SILENCE_SECONDS),
            headers={"Authorization": f"Bearer {server.api_key}"} if server.api_key else {},
            cookie_jar=aiohttp.DummyCookieJar(),
            proxy=server.proxy,
            max_line_size=_MAX_HEADER_BYTES,
            max_field_size=_MAX_HEADER_BYTES,
        )

    async def close(self) -> None:
        """Close the session, and with it whatever answers still come."""
        await self._session.close()

    def forget_thinking(self) -> None:
        """The next answers are another model's."""
        self._starts_thinking = False

    async def served_model(self) -> ServedModel:
        """Find the model to ask for. Raises `NotYet` or a `ModelServerError`.

        A model that the settings name need not be in the server's list: some servers list nothing.
        """
        name = self._server.model
        try:
            async with asyncio.timeout(_LIST_SECONDS), self._request("GET", "/models", may_fail=name is not None) as response:
                models = self._models(await _read(response, _MAX_LIST_BYTES)) if _is_good(response) else []
        except (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError):
            raise NotYet(EngineFailed(AWAY)) from None
        except TimeoutError:
            _log.warning("The model server at %s does not list its models within %.0f seconds.", self.url, _LIST_SECONDS)
            raise NotYet(EngineFailed(SILENT)) from None
        served = choose(models, name)
        if served is not None:
            return served
        if name is None:
            _log.error("The model server at %s lists no model.", self.url)
            raise EngineFailed(f"The model server lists no model. {TELL}")
        _log.warning("The model server at %s does not list the model %s; it is asked for nevertheless.", self.url, printable(name))
        return ServedModel(name, None)

    def _models(self, body: bytes) -> list[ListedModel]:
        try:
            return read_models(body)
        except ValueError:
            status = error_in_body(body)
            refused = None if status is None else refusal(status, body)
        if refused is None:
            _log.error("What is at %s does not answer like a model server.", self.url)
            raise EngineFailed(NOT_UNDERSTOOD)
        _log.error("The model server at %s reported an error in place of its models: %s.", self.url, refused.advice)
        raise NotYet(refused.error) if refused.is_temporary else refused.error

    async def answer(self, body: bytes) -> AsyncGenerator[Piece, None]:
        """Stream an answer. Raises `NotYet` or `FieldsRefused` before the first text, and a `ModelServerError` at any time.

        Once the answer has a finish reason, nothing that follows can cost it. The consumer awaits nothing between two pieces: the
        timeout would reach it there.
        """
        thinking = ThinkingFilter(starts_open=self._starts_thinking)
        is_taken = has_text = has_thinking = False
        reason: FinishReason | None = None
        clock = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(None) as patience, self._request("POST", "/chat/completions", body) as response:
                is_taken = True
                async for piece in read_pieces(response.content.iter_any(), thinking):
                    has_text, has_thinking = has_text or bool(piece.text.strip()), has_thinking or piece.has_thinking
                    reason = piece.finish_reason or reason
                    if piece.finish_reason is not None or (reason is not None and piece.text):
                        patience.reschedule(clock.time() + _AFTER_END_SECONDS)
                    yield piece
        except ErrorInAnswer as error:
            if reason is None:
                self._raise_reported(error.refusal, has_text=has_text)
        except ModelServerError:
            if reason is None:
                raise
        except aiohttp.ClientPayloadError as error:
            if reason is None and not has_text and "content-encoding" in str(error):
                _log.error("The model server at %s says that its answer is compressed, and it is not so.", self.url)
                raise EngineFailed(NOT_UNDERSTOOD) from None
        except (aiohttp.ClientConnectionError, TimeoutError):
            pass
        self._learn_thinking(thinking)
        if reason is None:
            if not has_text:
                _log.warning("The model server at %s broke off before the first word of an answer.", self.url)
                raise NotYet(EngineFailed(NO_WORD if is_taken else AWAY))
            _log.error("The model server at %s broke off in the middle of an answer.", self.url)
            raise EngineFailed(BROKEN_OFF)
        if not has_text:
            sentence, advice = _wordless(reason, has_thinking=has_thinking)
            _log.error("The model server at %s gave an answer without a word: %s.", self.url, advice)
            raise EngineFailed(sentence)

    def _raise_reported(self, refused: Refusal, *, has_text: bool) -> None:
        _log.error("The model server at %s ended an answer with an error: %s.", self.url, refused.advice)
        if not refused.is_temporary:
            raise refused.error from None
        raise EngineFailed(BROKEN_OFF) if has_text else NotYet(refused.error) from None

    def _learn_thinking(self, thinking: ThinkingFilter) -> None:
        if thinking.is_unopened and not self._starts_thinking:
            _log.warning(
                "The model server at %s sends what its model thinks as a part of the answer, without a mark at the beginning. One "
                "answer was shown with it; in the next ones it is hidden. A server with a reasoning parser takes it out by itself.",
                self.url,
            )
        if thinking.is_unopened != thinking.starts_open:  # an answer that began before this was learned changes nothing
            self._starts_thinking = thinking.is_unopened

    def _note_away(self, sentence: str | None) -> None:
        """Log why the server cannot be reached, and that it can be again (None): once each, however many questions try it."""
        if sentence is not None and sentence != self._why_away:
            _log.warning("%s", sentence)
        elif sentence is None and self._why_away is not None:
            _log.warning("The model server at %s can be reached again.", self.url)
        self._why_away = sentence

    @contextlib.asynccontextmanager
    async def _request(
        self, method: str, path: str, body: bytes | None = None, *, may_fail: bool = False
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Yields the response, its body unread. Raises `NotYet`, `FieldsRefused` or a `ModelServerError`, after logging what the
        operator can do about it.

        With `may_fail`, responses with other statuses are yielded too, except temporary ones and refused keys.
        """
        headers = {} if body is None else {"Content-Type": "application/json"}
        url = self.url + path
        data = None if body is None else io.BytesIO(body)  # sent in pieces, so that pictures do not hold up the event loop
        try:
            async with self._session.request(method, url, data=data, headers=headers, allow_redirects=False) as response:
                self._note_away(None)
                if not _is_good(response):
                    refused = refusal(response.status, await _read_error(response))
                    if body is not None and refused.fields:
                        raise FieldsRefused(refused)
                    if refused.is_temporary:
                        _log.warning(
                            "The model server at %s answered with status %d: %s.", self.url, response.status, refused.advice
                        )
                        raise NotYet(refused.error, _seconds(response.headers.get("Retry-After", "")))
                    if not may_fail or response.status in (401, 403):
                        _log.error("The model server at %s answered with status %d: %s.", self.url, response.status, refused.advice)
                        raise refused.error
                yield response
        except aiohttp.ClientConnectorCertificateError:
            _log.error("The certificate of the model server at %s is not trusted.", self.url)
            raise EngineFailed(AWAY) from None
        except aiohttp.ClientProxyConnectionError:
            self._note_away(f"The proxy before the model server at {self.url} cannot be reached.")
            raise NotYet(EngineFailed(AWAY)) from None
        except aiohttp.ClientHttpProxyError as error:
            self._note_away(f"The proxy did not connect to the model server at {self.url}: it answered with status {error.status}.")
            raise NotYet(EngineFailed(AWAY)) from None
        except aiohttp.ClientSSLError:
            _log.error("The model server at %s does not speak TLS: does its address begin with http:// ?", self.url)
            raise EngineFailed(AWAY) from None
        except aiohttp.ClientResponseError as error:
            # What follows the colon may quote the server.
            _log.error("What is at %s does not speak HTTP as it is usual: %s.", self.url, error.message.partition(":")[0])
            raise EngineFailed(NOT_UNDERSTOOD) from None
        except aiohttp.ClientConnectorError as error:
            self._note_away(f"The model server at {self.url} cannot be reached: {error.strerror or 'no connection'}.")
            raise NotYet(EngineFailed(AWAY)) from None
        except aiohttp.SocketTimeoutError:
            _log.error("The model server at %s said nothing for %.0f seconds.", self.url, _SILENCE_SECONDS)
            raise EngineFailed(SILENT) from None


def _is_good(response: aiohttp.ClientResponse) -> bool:
    return 200 <= response.status < 300


def _wordless(reason: FinishReason, *, has_thinking: bool) -> tuple[str, str]:
    """Why a finished answer has no text: for the person who asked, and for the operator."""
    match reason:
        case FinishReason.FILTERED:
            return FILTERED, "its content filter held it back"
        case FinishReason.TOOL_CALL:
            return "The model wanted to use a tool, and it has none here. Please ask in another way.", "it is a call of a tool"
        case FinishReason.LENGTH:
            did = "thought until the longest length of an answer was reached" if has_thinking else "reached the longest length"
            advice = "let answers be longer, or turn the model's thinking off"
            return f"The model {did}, and has not said a word. {TELL}", advice
        case FinishReason.STOP | FinishReason.CANCELLED:
            did = "has thought about it, but" if has_thinking else "has"
            return f"The model {did} given no answer. Please ask again, in other words.", "see its own log"
        case _ as never:
            assert_never(never)


async def _read(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    try:
        return await response.content.readexactly(max_bytes)
    except asyncio.IncompleteReadError as error:
        return error.partial


async def _read_error(response: aiohttp.ClientResponse) -> bytes:
    """As much of an error's words as comes soon: its status alone says a lot."""
    body = bytearray()
    with contextlib.suppress(aiohttp.ClientError, TimeoutError):
        async with asyncio.timeout(_ERROR_SECONDS):
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) >= _MAX_ERROR_BYTES:
                    break
    return bytes(body)


def _seconds(retry_after: str) -> float:
    """The seconds in a Retry-After header, which may also be a date; 0 if there is none or it cannot be read."""
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            then = email.utils.parsedate_to_datetime(retry_after)
        except ValueError:
            return 0.0
        if then.tzinfo is None:
            then = then.replace(tzinfo=datetime.UTC)
        seconds = (then - datetime.datetime.now(datetime.UTC)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0
