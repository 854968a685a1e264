"""Who may use the page, and what a browser may do with the responses.

* On a loopback address the Host header must be a loopback name, or the public address's: another name that resolves here is DNS
  rebinding.
* A request from another site's page is refused (Fetch metadata and Origin), including WebSockets. The public address's pages are
  ours, whatever Host a proxy sends; nothing that a proxy adds (X-Forwarded-Proto and the like) is believed, since anybody can,
  except the visitor's address from the proxies that the operator has named.
* With a token, everything but the page's static files needs a session (`sessions.py`), which a browser gets for the token. An
  address that has tried too many tokens is not listened to for a while; sessions and other addresses do not notice.
* No response contains a traceback, and what a client gets wrong is not logged as our mistake.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
import traceback
from collections.abc import Awaitable, Callable

from aiohttp import web

from adapters.address import is_loopback
from adapters.web.origin import origin_of, origin_of_host, path_of
from adapters.web.sessions import SESSION_SECONDS, Guesses, Sessions
from adapters.web.visitors import Visitors

logger = logging.getLogger(__name__)

COOKIE = "threadsight"
SESSION = web.RequestKey("SESSION", str)  # the id of a request's session, where a token is asked for
BODY_SECONDS = 10.0  # for a body that comes before we know whose it is
MAX_BODY_BYTES = 2**20
MAX_SIGN_IN_BYTES = 4096
_WEB_ORIGIN = re.compile(r"https?://.", re.IGNORECASE)
OPEN_PATHS = frozenset({"/", "/api/session"})
PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Refused(Exception):
    """The request cannot be served; the message is a sentence for the person at the page. `retry_seconds`: when it may be again."""

    def __init__(self, status: int, sentence: str, retry_seconds: float | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.retry_seconds = retry_seconds


class Guard:
    """`sessions` None lets everybody in. `public_url` is the address that people use from outside.

    Requests for `others_paths` are not looked at, only read."""

    def __init__(
        self,
        sessions: Sessions | None,
        *,
        only_loopback_names: bool,
        public_url: str | None = None,
        visitors: Visitors | None = None,
        others_paths: frozenset[str] = frozenset(),
    ) -> None:
        self._sessions = sessions
        self._only_loopback_names = only_loopback_names
        self._public = None if public_url is None else origin_of(public_url)
        self._public_path = "/" if public_url is None else path_of(public_url)
        self._visitors = visitors or Visitors()
        self._others_paths = others_paths
        self._guesses = Guesses()
        self._on_sign_out: list[Callable[[str], Awaitable[None]]] = []

    def when_signed_out(self, act: Callable[[str], Awaitable[None]]) -> None:
        """Have `act` called with the id of each session that somebody ends."""
        self._on_sign_out.append(act)

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Add the routes for signing in and out."""
        router.add_get("/api/session", self._session)
        router.add_post("/api/session", self._sign_in)
        router.add_delete("/api/session", self._sign_out)

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let a request through, or answer it with `{"error": sentence}`; every error of a handler becomes one too."""
        try:
            if request.path in self._others_paths:
                await read_body(request, MAX_BODY_BYTES)  # kept by the request: its own handler finds it there
            else:
                self._check(request)
            return await handler(request)
        except Refused as refused:
            response = web.json_response({"error": str(refused)}, status=refused.status)
            if refused.retry_seconds is not None:
                response.headers["Retry-After"] = str(math.ceil(refused.retry_seconds))
            if refused.status == 408:
                response.force_close()
            return response
        except web.HTTPException as error:
            if error.status < 400:
                raise
            return web.json_response({"error": _sentence(error.status)}, status=error.status)
        except web.RequestPayloadError:
            request.content.feed_eof()  # aiohttp would read on, and log the same error as if it were ours
            response = web.json_response({"error": _sentence(400)}, status=400)
            response.force_close()
            return response
        except ConnectionError:
            return web.Response(status=400)  # nobody gets it: the client has left
        except Exception as error:
            # The exception's message may quote a question or a query: only its type and traceback are logged.
            place = "".join(traceback.format_tb(error.__traceback__))
            logger.error("%s in %s %s\n%s", type(error).__name__, request.method, request.match_info.handler.__name__, place)
            return web.json_response({"error": _sentence(500)}, status=500)

    async def add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        """Add what a browser may do with a response; for aiohttp's `on_response_prepare`."""
        if request.path in self._others_paths:
            return
        for name, value in PAGE_HEADERS.items():
            response.headers.setdefault(name, value)
        # Always revalidated, so that an update of the program is visible at once; an unchanged file is a 304.
        response.headers.setdefault("Cache-Control", "no-store" if request.path.startswith("/api/") else "no-cache")

    def is_open(self, path: str) -> bool:
        """Whether everybody may ask for this, so that a request for it says nothing about who asks."""
        return path in OPEN_PATHS or path in self._others_paths or path.startswith("/static/")

    def _check(self, request: web.Request) -> None:
        origin = request.headers.get("Origin", "")
        if origin_of_host(_host(request), "http") is None or (_WEB_ORIGIN.match(origin) and origin_of(origin) is None):
            raise Refused(400, _sentence(400))
        if self._only_loopback_names and not self._is_known_name(_host(request)):
            raise Refused(
                421,
                "This address is for this machine only. Open the page as it was printed at the start; "
                "the address of a proxy before it belongs into THREADSIGHT_PUBLIC_URL.",
            )
        is_page = request.method in ("GET", "HEAD") and request.path == "/"
        if not is_page and self._is_from_another_site(request):
            raise Refused(403, "Another site's page may not use this one.")
        if not self.is_open(request.path) and not self._is_signed_in(request):
            raise Refused(401, "Please enter the token first.")

    def _is_signed_in(self, request: web.Request) -> bool:
        if self._sessions is None:
            return True
        session_id = self._sessions.find(request.cookies.get(COOKIE, ""))
        if session_id is not None:
            request[SESSION] = session_id
        return session_id is not None

    async def _session(self, request: web.Request) -> web.Response:
        is_signed_in = self._is_signed_in(request)
        return web.json_response({"is_signed_in": is_signed_in, "can_sign_out": is_signed_in and self._sessions is not None})

    async def _sign_in(self, request: web.Request) -> web.Response:
        if self._sessions is None:
            return web.json_response({"is_signed_in": True})
        visitor = self._visitors.visitor_of(request)
        # Counted before anything is awaited: many guesses that are sent together are still many.
        if wait_seconds := self._guesses.take(visitor):
            raise Refused(429, "Too many wrong tokens. Please wait a minute and try again.", wait_seconds)
        try:
            guess = json.loads(await read_body(request, MAX_SIGN_IN_BYTES))["token"].strip()
            is_right = self._sessions.is_token(guess)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            self._guesses.give_back(visitor)
            raise Refused(400, "Please enter the token.") from error
        if not is_right:
            logger.warning("A wrong token for the web page from %s, %d of late.", visitor, self._guesses.num_wrong(visitor))
            raise Refused(403, "That is not the right token.")
        self._guesses.give_back(visitor)
        response = web.json_response({"is_signed_in": True})
        is_public = self._is_public(request)
        response.set_cookie(
            COOKIE,
            self._sessions.begin(),
            max_age=SESSION_SECONDS,
            httponly=True,
            samesite="Strict",
            secure=is_public and self._public is not None and self._public.scheme == "https",
            path=self._public_path if is_public else "/",
        )
        return response

    async def _sign_out(self, request: web.Request) -> web.Response:
        session_id = None if self._sessions is None else self._sessions.end(request.cookies.get(COOKIE, ""))
        if session_id is not None:
            for act in self._on_sign_out:
                await act(session_id)
        response = web.Response(status=204)
        response.del_cookie(COOKIE, path=self._public_path if self._is_public(request) else "/")
        return response

    def _is_known_name(self, host: str) -> bool:
        """Whether a Host header names this machine, or the public address, whatever the port: another port is no other machine."""
        named = origin_of_host(host, "http")
        if named is None:
            return False
        is_public = self._public is not None and named.host == self._public.host
        return is_public or named.host.endswith(".localhost") or is_loopback(named.host)

    def _is_public(self, request: web.Request) -> bool:
        """Whether the page was opened at the public address. The proxy there may send that as Host or not."""
        origin = request.headers.get("Origin")
        return self._has_public_host(request) if origin is None else self._public is not None and origin_of(origin) == self._public

    def _has_public_host(self, request: web.Request) -> bool:
        return self._public is not None and origin_of_host(_host(request), self._public.scheme) == self._public

    def _is_from_another_site(self, request: web.Request) -> bool:
        """Whether another site's page made the request. Browsers say so; other programs do not, but they have no user's cookie."""
        if request.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
            return True
        origin = request.headers.get("Origin")
        if origin is None or self._is_public(request):
            return False
        page = origin_of(origin)
        if page is None or self._has_public_host(request):
            return True  # the public address by http instead of https may be anybody's page
        # The scheme is the page's: behind a proxy that speaks TLS it is not the one by which the request came.
        return page != origin_of_host(_host(request), page.scheme)


async def read_body(request: web.Request, max_bytes: int) -> bytes:
    """Read a small body, which the request then keeps. Raises `Refused` if it is too large or too slow."""
    if (request.content_length or 0) > max_bytes:
        raise Refused(413, _sentence(413))
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await request.read()
    except TimeoutError as error:
        raise Refused(408, "The request did not arrive whole. Please try again.") from error


def _host(request: web.Request) -> str:
    """The Host header. (`request.host` asks DNS for this machine's name if there is none.)"""
    return request.headers.get("Host", "")


def _sentence(status: int) -> str:
    match status:
        case 404:
            return "There is nothing here."
        case 405:
            return "That cannot be done here."
        case 413:
            return "That is too large."
        case 500:
            return "Something went wrong on our side. Please try again."
        case _:
            return "That request could not be understood."
