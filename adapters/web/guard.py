"""Who may use the page, and what a browser may do with the responses.

* On a loopback address the Host header must be a loopback name, or the public address's: another name that resolves here is DNS
  rebinding.
* A request from another site's page is refused (Fetch metadata and Origin), including WebSockets. The public address's pages are
  ours, whatever Host a proxy sends; nothing that a proxy adds (X-Forwarded-For and the like) is believed, since anybody can.
* With a token, everything but the page's static files needs a cookie, which a browser gets for the token. The cookie is a keyed
  hash, so it survives a restart and becomes invalid with the token.
* No response contains a traceback.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
import traceback
from collections.abc import Awaitable, Callable

from aiohttp import web

from adapters.address import is_loopback
from adapters.web.origin import origin_of, origin_of_host, path_of

logger = logging.getLogger(__name__)

COOKIE = "threadsight"
COOKIE_SECONDS = 90 * 24 * 3600
MAX_GUESSES = 10
GUESS_RECOVERY_SECONDS = 6.0
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
    """The request cannot be served; the message is a sentence for the person at the page."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class GuessLimit:
    """Limits wrong tokens over all visitors: `MAX_GUESSES` in a row, then one every `GUESS_RECOVERY_SECONDS`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._num_left = float(MAX_GUESSES)
        self._at = clock()

    def is_spent(self) -> bool:
        """Whether there is no guess left just now."""
        now = self._clock()
        self._num_left = min(MAX_GUESSES, self._num_left + (now - self._at) / GUESS_RECOVERY_SECONDS)
        self._at = now
        return self._num_left < 1

    def count_wrong(self) -> None:
        """Take one guess away."""
        self._num_left -= 1


class Guard:
    """`token` None lets everybody in. `public_url` is the address that people use from outside. Requests for `others_paths` are not
    looked at."""

    def __init__(
        self,
        token: str | None,
        *,
        only_loopback_names: bool,
        public_url: str | None = None,
        others_paths: frozenset[str] = frozenset(),
    ) -> None:
        self._token = token.encode() if token else None
        self._pass = hmac.new(self._token, b"threadsight web", hashlib.sha256).hexdigest() if self._token else ""
        self._only_loopback_names = only_loopback_names
        self._public = None if public_url is None else origin_of(public_url)
        self._public_path = "/" if public_url is None else path_of(public_url)
        self._others_paths = others_paths
        self._guesses = GuessLimit()

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Add the routes for signing in."""
        router.add_get("/api/session", self._session)
        router.add_post("/api/session", self._sign_in)

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let a request through, or answer it with `{"error": sentence}`; every error of a handler becomes one too."""
        try:
            if request.path not in self._others_paths:
                self._check(request)
            return await handler(request)
        except Refused as refused:
            return web.json_response({"error": str(refused)}, status=refused.status)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            return web.json_response({"error": _sentence(error.status)}, status=error.status)
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

    def _check(self, request: web.Request) -> None:
        if self._only_loopback_names and not self._is_known_name(request.host):
            raise Refused(
                421,
                "This address is for this machine only. Open the page as it was printed at the start; "
                "the address of a proxy before it belongs into THREADSIGHT_PUBLIC_URL.",
            )
        is_page = request.method in ("GET", "HEAD") and request.path == "/"
        if not is_page and self._is_from_another_site(request):
            raise Refused(403, "Another site's page may not use this one.")
        if request.path not in OPEN_PATHS and not request.path.startswith("/static/") and not self._is_signed_in(request):
            raise Refused(401, "Please enter the token first.")

    def _is_signed_in(self, request: web.Request) -> bool:
        return self._token is None or hmac.compare_digest(request.cookies.get(COOKIE, "").encode(), self._pass.encode())

    async def _session(self, request: web.Request) -> web.Response:
        return web.json_response({"is_signed_in": self._is_signed_in(request)})

    async def _sign_in(self, request: web.Request) -> web.Response:
        if self._token is None:
            return web.json_response({"is_signed_in": True})
        if self._guesses.is_spent():
            raise Refused(429, "Too many wrong tokens. Please wait a minute and try again.")
        try:
            guess = (await request.json())["token"].strip().encode()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Refused(400, "Please enter the token.") from error
        if not hmac.compare_digest(hashlib.sha256(guess).digest(), hashlib.sha256(self._token).digest()):
            self._guesses.count_wrong()
            raise Refused(403, "That is not the right token.")
        response = web.json_response({"is_signed_in": True})
        is_public = self._is_public(request)
        response.set_cookie(
            COOKIE,
            self._pass,
            max_age=COOKIE_SECONDS,
            httponly=True,
            samesite="Strict",
            secure=is_public and self._public is not None and self._public.scheme == "https",
            path=self._public_path if is_public else "/",
        )
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
        return self._public is not None and origin_of_host(request.host, self._public.scheme) == self._public

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
        return page != origin_of_host(request.host, page.scheme)


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
