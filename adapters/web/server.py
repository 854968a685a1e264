"""The web adapter: starts the server, and stops it only after the tabs were told.

The page is in `static/`, its actions in `api.py`, the updates of tabs in `tabs.py`, and access control in `guard.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aiohttp import web

from adapters.address import is_loopback
from adapters.base import AdapterError, ThreadHandler
from adapters.web.api import Api
from adapters.web.connections import IDLE_SECONDS, BoundedSite, Connections, quiet_log
from adapters.web.files import StaticFiles
from adapters.web.guard import Guard
from adapters.web.networks import IPNetwork
from adapters.web.sessions import Sessions
from adapters.web.settings import is_reached_from_outside
from adapters.web.tabs import Tabs
from adapters.web.visitors import Visitors

DEFAULT_MAX_IMAGE_BYTES = 32 * 2**20
_SIGNED_OUT = "sessions that were ended"
LINGERING_SECONDS = 5.0  # for the rest of a body that is not wanted
SHUTDOWN_SECONDS = 3.0  # for running requests; tabs reconnect by themselves


class WebAddressError(AdapterError):
    """The server cannot listen on the address."""


class WebAdapter:
    """Serves the page on one address; `public_url` is where people open it, if a proxy is before it.

    Everybody who opens the page must enter `token`; it may be None only if nobody else can (otherwise ValueError). A picture
    above `max_image_bytes` is refused and not kept. `trusted_proxies` are believed who a visitor is. `started` is set when `url` is
    known; port 0 takes a free port. `more_routes`, as they are at the start, are served on the same address for other adapters,
    which authenticate their requests.
    """

    name = "web"

    def __init__(
        self,
        host: str,
        port: int,
        token: str | None,
        *,
        public_url: str | None = None,
        trusted_proxies: Sequence[IPNetwork] = (),
        max_image_bytes: int = DEFAULT_MAX_IMAGE_BYTES,
        more_routes: Sequence[web.RouteDef] = (),
    ) -> None:
        token = token.strip() if token else None
        if not token and (is_reached_from_outside(public_url) or not is_loopback(host)):
            raise ValueError(
                f"The page would be open to everybody who can reach {public_url or host or 'this machine'}. "
                "Set a token that visitors must enter, or listen on 127.0.0.1."
            )
        self._host = host
        self._port = port
        self._token = token or None
        self._public_url = public_url
        self._visitors = Visitors(trusted_proxies)
        self._own_url: str | None = None
        self._max_image_bytes = max_image_bytes
        self._more_routes = more_routes
        self.started = asyncio.Event()
        self.where = ""
        self.remarks: tuple[str, ...] = ()

    @property
    def url(self) -> str | None:
        """The page's address on this machine, with a slash at its end; None before it is served."""
        return self._own_url

    async def run(self, handler: ThreadHandler) -> None:
        """Serve until cancelled. Raises `WebAddressError` if the address is in use or not this machine's."""
        tabs = Tabs(handler)
        sessions = await self._open_sessions(handler)
        others_paths = frozenset(route.path for route in self._more_routes)
        guard = Guard(
            sessions,
            only_loopback_names=is_loopback(self._host),
            public_url=self._public_url,
            visitors=self._visitors,
            others_paths=others_paths,
        )
        if sessions is not None:

            async def sign_out(session_id: str) -> None:
                await handler.write_note(self.name, _SIGNED_OUT, sessions.ended)
                await tabs.close_session(session_id)

            guard.when_signed_out(sign_out)
        connections = Connections(lambda request: guard.is_open(request.path))
        app = web.Application(middlewares=[guard.middleware, connections.watch])
        app.on_response_prepare.append(guard.add_headers)
        app.on_shutdown.append(lambda _: tabs.close())
        (await asyncio.to_thread(StaticFiles)).add_routes(app.router)
        app.add_routes(self._more_routes)
        guard.add_routes(app.router)
        Api(handler, tabs, self._max_image_bytes, self._visitors).add_routes(app.router)

        runner = web.AppRunner(
            app,
            access_log=None,
            shutdown_timeout=SHUTDOWN_SECONDS,
            keepalive_timeout=IDLE_SECONDS,
            lingering_time=LINGERING_SECONDS,
            logger=quiet_log("adapters.web.http"),
        )
        await runner.setup()
        try:
            site = BoundedSite(runner, self._host, self._port, connections)
            try:
                await site.start()
            except OSError as error:
                raise WebAddressError(
                    f"Cannot serve the page on {self._host}, port {self._port}: {error.strerror or error}. "
                    "Is the program running already? Choose another port, or 0 for any free one."
                ) from error
            port = runner.addresses[0][1]
            self._own_url = f"http://{_name_in_url(self._host)}:{port}/"
            self.where = self._own_url if self._public_url is None else f"{self._public_url}, here {self._own_url}"
            self.started.set()
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    async def _open_sessions(self, handler: ThreadHandler) -> Sessions | None:
        if self._token is None:
            return None
        return Sessions(self._token, await handler.read_note(self.name, _SIGNED_OUT) or "")


def _name_in_url(host: str) -> str:
    if host in ("", "0.0.0.0", "::"):
        return "localhost"
    return f"[{host}]" if ":" in host else host
