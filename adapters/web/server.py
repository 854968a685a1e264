"""The web adapter: starts the server, and stops it without leaving a tab in the dark.

The page lies in `static/`, the actions are in `api.py`, what tabs are told in `tabs.py`, and who may ask at all in `guard.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from aiohttp import web

from adapters.address import is_loopback
from adapters.base import AdapterError, ChatHandler
from adapters.web.api import Api
from adapters.web.guard import Guard
from adapters.web.tabs import Tabs

STATIC_FOLDER = Path(__file__).parent / "static"
DEFAULT_MAX_IMAGE_BYTES = 32 * 2**20
SHUTDOWN_SECONDS = 3.0  # for requests that are under way; tabs connect again by themselves


class WebAddressError(AdapterError):
    """The address cannot be listened on."""


class WebAdapter:
    """Serves the page on one address.

    `token` is demanded from everybody who opens the page; it may be None on a loopback address only (ValueError). A picture above
    `max_image_bytes` is refused without being kept in memory. `started` is set once `url` is known; with port 0 the system
    chooses a free port. `more_routes`, as they are when it starts, are served on the same address for others, who check their
    requests themselves.
    """

    name = "web"

    def __init__(
        self,
        host: str,
        port: int,
        token: str | None,
        *,
        max_image_bytes: int = DEFAULT_MAX_IMAGE_BYTES,
        more_routes: Sequence[web.RouteDef] = (),
    ) -> None:
        token = token.strip() if token else None
        if not token and not is_loopback(host):
            raise ValueError(
                f"The page would be open to everybody who can reach {host or 'this machine'}. "
                "Set a token that visitors must enter, or listen on 127.0.0.1."
            )
        self._host = host
        self._port = port
        self._token = token or None
        self._max_image_bytes = max_image_bytes
        self._more_routes = more_routes
        self.started = asyncio.Event()
        self.where = ""
        self.remarks: tuple[str, ...] = ()

    @property
    def url(self) -> str | None:
        return self.where or None

    async def run(self, handler: ChatHandler) -> None:
        """Serve until cancelled. Raises `WebAddressError` when the address is taken or not this machine's."""
        tabs = Tabs(handler)
        others_paths = frozenset(route.path for route in self._more_routes)
        guard = Guard(self._token, only_loopback_names=is_loopback(self._host), others_paths=others_paths)
        app = web.Application(middlewares=[guard.middleware])
        app.on_response_prepare.append(guard.add_headers)
        app.on_shutdown.append(lambda _: tabs.close())
        app.router.add_get("/", _index)
        app.router.add_static("/static", STATIC_FOLDER)
        app.add_routes(self._more_routes)
        guard.add_routes(app.router)
        Api(handler, tabs, self._max_image_bytes).add_routes(app.router)

        runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
        await runner.setup()
        try:
            site = web.TCPSite(runner, self._host, self._port)
            try:
                await site.start()
            except OSError as error:
                raise WebAddressError(
                    f"Cannot serve the page on {self._host}, port {self._port}: {error.strerror or error}. "
                    "Is the program running already? Choose another port, or 0 for any free one."
                ) from error
            port = runner.addresses[0][1]
            self.where = f"http://{_name_in_url(self._host)}:{port}/"
            self.started.set()
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()


def _name_in_url(host: str) -> str:
    if host in ("", "0.0.0.0", "::"):
        return "localhost"
    return f"[{host}]" if ":" in host else host


async def _index(_request: web.Request) -> web.FileResponse:
    return web.FileResponse(STATIC_FOLDER / "index.html")
