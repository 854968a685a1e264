"""An unmodified Bolt app with a socket to the loopback Slack. It records what reaches its listeners."""

from __future__ import annotations

import asyncio
from typing import Any

from slack_bolt.adapter.socket_mode.async_handler import AsyncSocketModeHandler
from slack_bolt.async_app import AsyncApp
from slack_sdk.web.async_client import AsyncWebClient

from tests.loopbacks.slack.server import SlackServer


class Bot:
    def __init__(self, slack: SlackServer, *, ping_seconds: float = 2.0) -> None:
        self._slack = slack
        self.seen: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.app = AsyncApp(client=AsyncWebClient(token=slack.bot_token, base_url=slack.api_url))
        self.client = self.app.client
        web = AsyncWebClient(token=slack.app_token, base_url=slack.api_url)
        self.handler = AsyncSocketModeHandler(self.app, slack.app_token, web_client=web, ping_interval=ping_seconds)

        async def note(event: dict[str, Any], body: dict[str, Any]) -> None:
            self.seen.put_nowait({**event, "event_id": body["event_id"]})

        for kind in ("message", "app_mention", "app_home_opened", "agent_session_stopped", "channel_left"):
            self.app.event(kind)(note)

    async def next(self) -> dict[str, Any]:
        async with asyncio.timeout(10):
            return await self.seen.get()

    async def __aenter__(self) -> Bot:
        num_open = len(self._slack.socket.open_connections)
        await self.handler.connect_async()  # type: ignore[no-untyped-call]
        await self._slack.wait_for(lambda: len(self._slack.socket.open_connections) > num_open)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.handler.close_async()  # type: ignore[no-untyped-call]
        client = self.handler.client  # close_async cancels these tasks without waiting for them
        tasks = [client.message_processor, client.current_session_monitor, client.message_receiver]
        await asyncio.gather(*(task for task in tasks if task is not None), return_exceptions=True)
