"""How many connections a server keeps, and for how long, while it does not know who is at the other end.

* There is a limit, far enough below the limit of descriptors. At it a new connection takes the place of the oldest one whose
  request has not been let in: one that is half open, idle, or asks for what everybody gets. If all are let in, the new one gets a
  503.
* A connection has `HEADER_SECONDS` for its first request, and is dropped when it has taken nothing of a response for
  `STALL_SECONDS`. Bodies are timed where they are read.
* A request that is not HTTP is one short line in the log.

The same file is in `adapters/web` and `model_server/serve`, which may not import each other; a test compares them.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from aiohttp import web
from aiohttp.http import HttpProcessingError

MAX_CONNECTIONS = 512
HEADER_SECONDS = 20.0
IDLE_SECONDS = 180.0  # between requests: longer than proxies keep their connections (Caddy: two minutes)
STALL_SECONDS = 60.0
LOOK_SECONDS = 1.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = logging.getLogger(__name__)


def max_connections() -> int:
    """How many connections there may be: a quarter of the descriptors that this process may have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else max(4, min(MAX_CONNECTIONS, soft // 4))


@dataclass(slots=True)
class _Connection:
    since: float  # its beginning, or the end of its last request
    moved_at: float  # when it last took something, or had nothing to take
    is_made: bool = False
    has_asked: bool = False
    is_let_in: bool = False
    num_unsent: int = 0  # bytes


class Connections:
    """A server's connections. Add `watch` behind the middleware that decides who is let in; `is_open` says what everybody gets."""

    def __init__(self, is_open: Callable[[web.Request], bool]) -> None:
        self._is_open = is_open
        self.max_num = max_connections()
        self._open: dict[web.RequestHandler, _Connection] = {}

    @web.middleware
    async def watch(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Keep the request's connection while it is answered."""
        connection = self._open.get(request.protocol)
        if connection is None:
            return await handler(request)
        connection.has_asked = True
        connection.is_let_in = not self._is_open(request)
        try:
            return await handler(request)
        finally:
            connection.is_let_in = False
            connection.since = asyncio.get_running_loop().time()

    def accept(self, server: web.Server) -> asyncio.BaseProtocol:
        """The protocol of a new connection."""
        now = asyncio.get_running_loop().time()
        if len(self._open) >= self.max_num:
            self.look(now)
        if len(self._open) >= self.max_num and not self._push_out():
            log.warning("All %d connections are in use: a new one was refused.", self.max_num)
            return _Refusal()
        protocol = server()
        self._open[protocol] = _Connection(now, now)
        return protocol

    def look(self, now: float) -> None:
        """Forget the connections that are gone, and drop those that have had their time."""
        for protocol, connection in list(self._open.items()):
            transport = protocol.transport
            if transport is None:  # gone, unless it is too new to have one
                if connection.is_made or now - connection.since > LOOK_SECONDS:
                    del self._open[protocol]
                continue
            connection.is_made = True
            num_unsent = transport.get_write_buffer_size()
            if num_unsent == 0 or num_unsent < connection.num_unsent:
                connection.moved_at = now
            connection.num_unsent = num_unsent
            is_silent = not connection.has_asked and now - connection.since > HEADER_SECONDS
            if is_silent or now - connection.moved_at > STALL_SECONDS:
                transport.abort()
                del self._open[protocol]

    def _push_out(self) -> bool:
        """Drop the oldest connection that is not let in, one that takes a response last of all. Returns whether there was one."""
        others = [(c.num_unsent > 0, c.since, p) for p, c in self._open.items() if p.transport is not None and not c.is_let_in]
        if not others:
            return False
        *_, protocol = min(others, key=lambda other: other[:2])
        if protocol.transport is not None:
            protocol.transport.abort()
        del self._open[protocol]
        return True


class BoundedSite(web.BaseSite):
    """Listens on TCP, with a limit on connections. Make the runner with `quiet_log` as its logger."""

    def __init__(self, runner: web.BaseRunner, host: str, port: int, connections: Connections) -> None:
        super().__init__(runner, backlog=min(128, max(2, connections.max_num // 2)))
        self._host, self._port, self._connections = host, port, connections
        self._looking: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """The address."""
        return f"http://{self._host}:{self._port}"

    async def start(self) -> None:
        """Listen. Raises OSError."""
        await super().start()
        server = self._runner.server
        assert isinstance(server, web.Server)
        self._server = await asyncio.get_running_loop().create_server(
            lambda: self._connections.accept(server), self._host, self._port, backlog=self._backlog
        )
        self._looking = asyncio.create_task(self._look())

    async def stop(self) -> None:
        """Listen no more."""
        if self._looking is not None:
            self._looking.cancel()
            with suppress(asyncio.CancelledError):
                await self._looking
        await super().stop()

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self._connections.look(loop.time())


class _Refusal(asyncio.Protocol):
    """Says that there is no room, and closes the connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Answer before anything was asked."""
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        transport.close()


def quiet_log(name: str) -> logging.Logger:
    """A logger for a runner: what is no HTTP is the client's mistake, and one line."""
    logger = logging.getLogger(name)
    if not any(isinstance(known, _ClientsMistakes) for known in logger.filters):
        logger.addFilter(_ClientsMistakes())
    return logger


class _ClientsMistakes(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        """Let everything through, but the traceback of a request that cannot be read."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError):
            record.exc_info = record.exc_text = None
            record.levelno, record.levelname = logging.DEBUG, "DEBUG"
            record.msg, record.args = "A request could not be read: %s", (type(error).__name__,)
            return logging.getLogger(record.name).isEnabledFor(logging.DEBUG)
        return True
