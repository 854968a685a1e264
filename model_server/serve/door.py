"""Who may ask the server, and what those hear who cannot be answered.

* Without a key only requests from this machine are accepted, and only under a loopback name: another name that resolves here is DNS
  rebinding. A request must then declare JSON as its content type, which another site's page cannot do.
* With a key, everything but /health requires it, and pages of other sites may ask too: no browser adds the key by itself.
* Errors are OpenAI's error objects with a sentence in them; no response contains a traceback.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import logging
import traceback
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from aiohttp import web

from model_server.errors import ModelServerError
from model_server.serve.refusal import BadRequest, describe_error, error_object

_log = logging.getLogger(__name__)
_ADDRESSES = "POST /v1/chat/completions, POST /v1/responses, GET /v1/models and GET /health"
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Door:
    """The server's middleware and its headers for pages of other sites. `api_key` may be None."""

    def __init__(self, api_key: str | None) -> None:
        self._key = hashlib.sha256(api_key.encode()).digest() if api_key else None

    @web.middleware
    async def guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Let a request in, and turn errors into responses."""
        try:
            self._check(request)
            return self._preflight(request) if request.method == "OPTIONS" else await handler(request)
        except asyncio.CancelledError:
            if request.transport is None:
                _say_left(request)
            raise
        except ConnectionError:
            _say_left(request)
            if request.transport is not None:
                request.transport.abort()
            return web.Response()  # nobody gets it; raised further, it would be logged as our mistake
        except (ModelServerError, BadRequest) as error:
            status, body, headers = describe_error(
                error, "input" if request.path.rstrip("/").endswith("/responses") else "messages"
            )
            response = web.json_response(body, status=status, headers=headers)
            if status == 408:
                response.force_close()
            return response
        except web.HTTPException as error:
            return _explain(error)
        except web.RequestPayloadError:
            request.content.feed_eof()  # aiohttp would read on, and log the same error as if it were ours
            response = _refused("The body is not what its Content-Length, Transfer-Encoding and Content-Encoding announce.", 400)
            response.force_close()
            return response
        except Exception as error:
            # The exception's message may quote a question: only its type and traceback are logged.
            place = "".join(traceback.format_tb(error.__traceback__))
            _log.error("%s in %s %s\n%s", type(error).__name__, request.method, request.path, place)
            body = error_object("Something went wrong on our side. Please try again.", "server_error")
            return web.json_response(body, status=500)

    async def allow_pages(self, http: web.Request, response: web.StreamResponse) -> None:
        """Let a page of another site read a response that it got with the key."""
        if self._key is not None and "Origin" in http.headers:
            response.headers["Access-Control-Allow-Origin"] = "*"
            response.headers["Access-Control-Expose-Headers"] = "Retry-After"

    def _check(self, http: web.Request) -> None:
        try:
            # `http.host` may ask DNS who we are. A browser always names the host, so who does not is a program of this machine.
            host = urlsplit(f"//{http.headers.get('Host', 'localhost')}").hostname or ""
        except ValueError:
            raise BadRequest("The Host header is not a host.") from None
        if self._key is None:
            if not is_loopback(host):
                sentence = "Without an API key this server is for this machine only. Ask it under the name localhost or 127.0.0.1."
                raise BadRequest(sentence, status=421)
            if http.method == "POST" and http.content_type != "application/json":
                raise BadRequest("The Content-Type must be application/json.", status=415)
        elif http.path != "/health" and http.method != "OPTIONS":  # browsers ask without the key whether they may send it
            kind, _, key = http.headers.get("Authorization", "").partition(" ")
            given = hashlib.sha256(key.strip().encode(errors="surrogateescape")).digest()
            if kind.lower() != "bearer" or not hmac.compare_digest(given, self._key):
                sentence = "The API key is missing or wrong. Send it as: Authorization: Bearer KEY."
                raise BadRequest(sentence, code="invalid_api_key", status=401)

    def _preflight(self, http: web.Request) -> web.Response:
        if self._key is None:
            raise BadRequest("A page of another site may ask this server only when it has an API key.", status=403)
        allowed = {
            "Access-Control-Allow-Methods": "GET, POST",
            "Access-Control-Allow-Headers": http.headers.get("Access-Control-Request-Headers", "Authorization, Content-Type"),
            "Access-Control-Max-Age": "600",
        }
        return web.Response(status=204, headers=allowed)


def is_loopback(host: str) -> bool:
    """Whether the name or address means this machine, without asking DNS."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _explain(error: web.HTTPException) -> web.Response:
    match error:
        case web.HTTPNotFound():
            return _refused(f"There is nothing at this address. This server has {_ADDRESSES}.", 404, "unknown_url")
        case web.HTTPMethodNotAllowed():
            methods = ", ".join(sorted(error.allowed_methods))
            response = _refused(f"This address takes {methods}. This server has {_ADDRESSES}.", 405, "method_not_allowed")
            response.headers["Allow"] = methods
            return response
        case web.HTTPRequestEntityTooLarge():
            return _refused("That is too large.", 413)
        case _:
            return _refused(f"{error.reason}.", error.status)


def _refused(sentence: str, status: int, code: str | None = None) -> web.Response:
    return web.json_response(error_object(sentence, "invalid_request_error", code=code), status=status)


def _say_left(http: web.Request) -> None:
    _log.debug("The client of %s %s has left.", http.method, http.path)
