"""One request to a model server. Errors that are worth another try are `NotYet`.

A server's error is reported twice: to the person who asked by the exception, and to the operator in the log. No proxy is used but
the given one, redirects are not followed, and certificates are checked, so that the key goes to the given address only.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field

import aiohttp

from model_server.errors import EngineFailed, ModelServerError, QueueFull
from model_server.remote.protocol import (
    AWAY,
    BROKEN_OFF,
    BUSY,
    NOT_UNDERSTOOD,
    TELL,
    Piece,
    ServedModel,
    read_models,
    read_pieces,
    refusal,
)

_CONNECT_SECONDS = 10.0
_SILENCE_SECONDS = 300.0  # a busy server sends nothing before the first word
_IDLE_CONNECTION_SECONDS = 15.0
_LATER = (429, 502, 503, 504)  # temporary statuses
_MAX_ANSWER_BYTES = 2**20  # for errors and the list of models

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RemoteServer:
    """Where the model is. `model` None is the first that the server lists. `context_length`, in tokens, None is what the server
    says, or 4096. `proxy` is the URL of the proxy by which it is reached, with its password."""

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


class Connection:
    """An HTTP session with the server. Create it on the event loop that uses it."""

    def __init__(self, server: RemoteServer) -> None:
        self._server = server
        self.url = server.url.rstrip("/")
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_CONNECTION_SECONDS),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_SILENCE_SECONDS),
            headers={"Authorization": f"Bearer {server.api_key}"} if server.api_key else {},
            cookie_jar=aiohttp.DummyCookieJar(),
            proxy=server.proxy,
        )

    async def close(self) -> None:
        """Close the session and its connections."""
        await self._session.close()

    async def served_model(self) -> ServedModel:
        """Find the model to ask for. Raises `NotYet` or a `ModelServerError`.

        A model that the settings name need not be in the server's list: some servers list nothing.
        """
        name = self._server.model
        try:
            async with self._request("GET", "/models", may_fail=name is not None) as response:
                models = read_models(await _read(response)) if response.status == 200 else []
        except (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError):
            raise NotYet(EngineFailed(AWAY)) from None
        except ValueError:
            _log.error("What is at %s does not answer like a model server.", self.url)
            raise EngineFailed(NOT_UNDERSTOOD) from None
        served = next((model for model in models if name in (None, model.name)), None)
        if served is not None:
            return served
        if name is None:
            _log.error("The model server at %s lists no model.", self.url)
            raise EngineFailed(f"The model server has no model. {TELL}")
        _log.warning("The model server at %s does not list the model %s; it is asked for nevertheless.", self.url, name)
        return ServedModel(name, None)

    async def answer(self, body: bytes) -> AsyncGenerator[Piece, None]:
        """Stream an answer. Raises `NotYet` before the first text, and a `ModelServerError` after it."""
        has_text = has_ended = False
        try:
            async with self._request("POST", "/chat/completions", body) as response:
                async for piece in read_pieces(response.content):
                    has_text, has_ended = has_text or bool(piece.text), has_ended or piece.finish_reason is not None
                    yield piece
        except (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError):
            pass
        if has_ended:
            return  # if the connection broke here, only the token counts are missing
        if not has_text:
            raise NotYet(EngineFailed(AWAY))
        _log.error("The model server at %s broke off in the middle of an answer.", self.url)
        raise EngineFailed(BROKEN_OFF)

    @contextlib.asynccontextmanager
    async def _request(
        self, method: str, path: str, body: bytes | None = None, *, may_fail: bool = False
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Yields the response, its body unread. Raises `NotYet` or a `ModelServerError`, after logging what the operator can do
        about it.

        With `may_fail`, responses with other statuses are yielded too, except temporary ones and refused keys.
        """
        headers = {} if body is None else {"Content-Type": "application/json"}
        url = self.url + path
        try:
            async with self._session.request(method, url, data=body, headers=headers, allow_redirects=False) as response:
                if response.status in _LATER:
                    _log.warning("The model server at %s answered with status %d.", self.url, response.status)
                    error = QueueFull(BUSY) if response.status == 429 else EngineFailed(AWAY)
                    raise NotYet(error, _seconds(response.headers.get("Retry-After", "")))
                if response.status != 200 and (not may_fail or response.status in (401, 403)):
                    refused = refusal(response.status, await _read(response))
                    _log.error("The model server at %s answered with status %d: %s.", self.url, response.status, refused.advice)
                    raise refused.error
                yield response
        except aiohttp.ClientSSLError:
            _log.error("The certificate of the model server at %s is not trusted.", self.url)
            raise EngineFailed(AWAY) from None
        except aiohttp.ClientProxyConnectionError:
            _log.warning("The proxy before the model server at %s cannot be reached.", self.url)
            raise NotYet(EngineFailed(AWAY)) from None
        except aiohttp.ClientHttpProxyError as error:
            _log.warning("The proxy did not connect to the model server at %s: it answered with status %d.", self.url, error.status)
            raise NotYet(EngineFailed(AWAY)) from None
        except aiohttp.ClientConnectorError as error:
            _log.warning("The model server at %s cannot be reached: %s", self.url, error.strerror or "no connection")
            raise NotYet(EngineFailed(AWAY)) from None
        except aiohttp.SocketTimeoutError:
            _log.error("The model server at %s said nothing for %.0f seconds.", self.url, _SILENCE_SECONDS)
            raise EngineFailed(AWAY) from None


async def _read(response: aiohttp.ClientResponse) -> bytes:
    try:
        return await response.content.readexactly(_MAX_ANSWER_BYTES)
    except asyncio.IncompleteReadError as error:
        return error.partial


def _seconds(retry_after: str) -> float:
    return float(retry_after) if retry_after.isdecimal() else 0.0  # the header may be a date instead
