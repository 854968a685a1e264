"""The socket to Slack (Socket Mode): slack_sdk keeps it open; this module watches whether it is."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable

import aiohttp
from slack_bolt.adapter.socket_mode.async_handler import AsyncSocketModeHandler
from slack_bolt.async_app import AsyncApp

from adapters.proxies import ProxyFor, no_proxy
from adapters.slack.workspaces import web_client

PING_SECONDS = 5.0  # after four pings without an answer slack_sdk reconnects
LOOK_SECONDS = 3.0
SOCKET_ADDRESS = "wss://wss-primary.slack.com/"  # Slack tells the whole address only when it is asked for it


class Socket:
    """A Socket Mode connection. `on_connected` is called for every new one, `on_disconnected` when there is none for a while."""

    def __init__(
        self,
        bolt: AsyncApp,
        app_token: str,
        api_url: str | None,
        on_connected: Callable[[], None],
        on_disconnected: Callable[[], None],
        proxy_for: ProxyFor = no_proxy,
    ) -> None:
        self._handler = AsyncSocketModeHandler(
            bolt,
            app_token,
            web_client=web_client(app_token, api_url, proxy_for),
            proxy=proxy_for(api_url or SOCKET_ADDRESS),
            ping_interval=PING_SECONDS,
        )
        self._on_connected = on_connected
        self._on_disconnected = on_disconnected
        self._greeted = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None
        self._handler.client.on_message_listeners.append(self._on_frame)

    async def connect(self) -> None:
        """Connect. Returns when Slack has sent its hello frame."""
        self._watch = asyncio.create_task(self._watch_over())
        await self._handler.connect_async()  # type: ignore[no-untyped-call]
        await self._greeted.wait()

    async def close(self) -> None:
        """Close the connection, and wait until the SDK's tasks have ended."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        await self._handler.close_async()  # type: ignore[no-untyped-call]
        client = self._handler.client
        # close_async() cancels these tasks without waiting for them
        tasks = [client.message_processor, client.current_session_monitor, client.message_receiver]
        await asyncio.gather(*(task for task in tasks if task is not None), return_exceptions=True)

    async def _on_frame(self, message: aiohttp.WSMessage) -> None:
        with contextlib.suppress(ValueError):
            if json.loads(message.data).get("type") == "hello":
                self._greeted.set()
                self._on_connected()

    async def _watch_over(self) -> None:
        """Watch the connection: slack_sdk does not report that it broke, and keeps retrying a single-use URL."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if not await self._handler.client.is_connected():
                self._handler.client.wss_uri = None  # so that it asks for a new URL before it retries
                self._on_disconnected()
