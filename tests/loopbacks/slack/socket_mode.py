"""Socket Mode: hello, pings, envelopes and their acknowledgements, disconnect frames.

https://docs.slack.dev/apis/events-api/using-socket-mode There may be several connections; each payload goes to one of them, in
turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from typing import Literal

from aiohttp import WSMsgType, web

from tests.loopbacks.slack.delivery import Delivery, NotAcknowledged
from tests.loopbacks.slack.state import Json, SlackState

DisconnectReason = Literal["warning", "refresh_requested", "link_disabled", "too_many_websockets"]
MAX_CONNECTIONS = 10
_CLOSE_SECONDS = 0.5


class Connection:
    def __init__(self, stream: web.WebSocketResponse, transport: asyncio.Transport) -> None:
        self.stream = stream
        self.transport = transport
        self.is_open = True  # for payloads; False after a disconnect frame
        self.num_pings = 0
        self.waiting: dict[str, asyncio.Future[Json | None]] = {}  # by envelope


class SocketMode:
    """`answers_pings = False`: the client sees a dead connection. `frames`: all frames of clients, except pings."""

    def __init__(self, state: SlackState) -> None:
        self._state = state
        self._tickets: set[str] = set()
        self._turn = 0
        self.connections: list[Connection] = []  # including closed ones, oldest first
        self.answers_pings = True
        self.frames: list[Json] = []

    @property
    def open_connections(self) -> list[Connection]:
        return [connection for connection in self.connections if connection.is_open]

    def new_path(self) -> str:
        """A path that is valid for one connection."""
        ticket = self._state.new_id("ticket")
        self._tickets.add(ticket)
        return f"/link/?ticket={ticket}&app_id={self._state.app_id}"

    async def serve(self, request: web.Request) -> web.StreamResponse:
        ticket = request.query.get("ticket", "")
        if ticket not in self._tickets:
            return web.Response(status=403, text="the ticket was used or never given out")
        self._tickets.remove(ticket)
        stream = web.WebSocketResponse(autoping=False, timeout=_CLOSE_SECONDS)
        await stream.prepare(request)
        assert isinstance(request.transport, asyncio.Transport)
        connection = Connection(stream, request.transport)
        if len(self.open_connections) >= MAX_CONNECTIONS:
            await stream.send_json(_disconnect_frame("too_many_websockets"))
            await stream.close()
            return stream
        await stream.send_json(
            {
                "type": "hello",
                "num_connections": len(self.open_connections) + 1,
                "debug_info": {"host": "applink-loopback", "build_number": 1, "approximate_connection_time": 18060},
                "connection_info": {"app_id": self._state.app_id},
            }
        )
        self.connections.append(connection)
        await self._state.changed()
        try:
            await stream.ping(b"Ping from applink-loopback")
            async for frame in stream:
                await self._take(connection, frame.type, frame.data)
        except ConnectionError:
            pass  # the connection was dropped
        finally:
            connection.is_open = False
            for future in connection.waiting.values():
                if not future.done():
                    future.set_exception(NotAcknowledged("connection_failed"))
            await self._state.changed()
        return stream

    async def _take(self, connection: Connection, kind: WSMsgType, data: bytes | bytearray | str) -> None:
        if kind is WSMsgType.PING and not isinstance(data, str):
            connection.num_pings += 1
            if self.answers_pings:
                await connection.stream.pong(bytes(data))
        elif kind is WSMsgType.TEXT:
            frame = json.loads(data)
            self.frames.append(frame)
            future = connection.waiting.get(frame.get("envelope_id", ""))
            if future is not None and not future.done():
                future.set_result(frame.get("payload"))
        await self._state.changed()

    async def bring(self, delivery: Delivery, within_seconds: float) -> Json | None:
        try:
            await self._state.wait_for(lambda: bool(self.open_connections), within_seconds)
        except TimeoutError:
            raise NotAcknowledged("connection_failed") from None
        self._turn += 1
        connection = self.open_connections[self._turn % len(self.open_connections)]
        envelope: Json = {
            "envelope_id": self._state.new_id("envelope-"),
            "type": delivery.kind,
            "payload": delivery.body,
            "accepts_response_payload": delivery.kind != "events_api",
        }
        if delivery.kind == "events_api":
            reason = delivery.retry_reasons[-1] if delivery.retry_reasons else ""
            envelope |= {"retry_attempt": delivery.num_tries - 1, "retry_reason": reason}
        future: asyncio.Future[Json | None] = asyncio.get_running_loop().create_future()
        connection.waiting[envelope["envelope_id"]] = future
        try:
            async with asyncio.timeout(within_seconds):
                await connection.stream.send_json(envelope)
                return await future
        except TimeoutError:
            raise NotAcknowledged("timeout") from None
        except ConnectionError:
            raise NotAcknowledged("connection_failed") from None
        finally:
            del connection.waiting[envelope["envelope_id"]]

    async def disconnect(self, reason: DisconnectReason) -> None:
        """Tell all clients to reconnect. The connections get nothing more, and stay open until the clients close them."""
        for connection in self.open_connections:
            connection.is_open = False
            await connection.stream.send_json(_disconnect_frame(reason))
        await self._state.changed()

    def drop(self) -> None:
        """Reset all connections, as in a network failure."""
        for connection in self.connections:
            if not connection.stream.closed:
                connection.is_open = False
                reset(connection.transport)

    async def close(self) -> None:
        for connection in self.connections:
            with contextlib.suppress(ConnectionError):
                await connection.stream.close()


def _disconnect_frame(reason: DisconnectReason) -> Json:
    return {"type": "disconnect", "reason": reason, "debug_info": {"host": "applink-loopback"}}


def reset(transport: asyncio.Transport) -> None:
    """End the connection with a TCP reset, without a close frame."""
    connected = transport.get_extra_info("socket")
    if connected is not None:
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
