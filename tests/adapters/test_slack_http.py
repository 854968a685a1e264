"""Slack over HTTP on the page's server: signed requests, and workspaces that install the app by themselves."""

from __future__ import annotations

import asyncio
import contextlib
import html
import json
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest
from slack_sdk.signature import SignatureVerifier
from sqlalchemy.ext.asyncio import create_async_engine

from adapters.base import AdapterError
from adapters.slack import SlackAdapter
from adapters.web import WebAdapter
from tests.adapters.slack_loopback import BOT, BOT_TOKEN, SlackLoopback
from tests.chat_handler import TIMEOUT_SECONDS, MemoryChatHandler, draw_picture

SECRET, CHANNEL = "signing-secret", "C1"


@contextlib.asynccontextmanager
async def serving(adapter: SlackAdapter, handler: MemoryChatHandler) -> AsyncIterator[aiohttp.ClientSession]:
    """The adapter behind the page's server, whose own token strangers lack."""
    page = WebAdapter("127.0.0.1", 0, "page-token", more_routes=adapter.routes())
    runs = [asyncio.create_task(page.run(handler)), asyncio.create_task(adapter.run(handler))]
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await page.started.wait()
            await adapter.started.wait()
        jar = aiohttp.DummyCookieJar()
        async with aiohttp.ClientSession(page.where, cookie_jar=jar) as client:
            yield client
    finally:
        for run in runs:
            run.cancel()
        await asyncio.gather(*runs, return_exceptions=True)


@pytest.fixture
async def slack() -> AsyncIterator[SlackLoopback]:
    async with SlackLoopback().serving() as slack:
        yield slack


async def send(client: aiohttp.ClientSession, body: dict[str, Any], secret: str = SECRET, age_seconds: int = 0) -> tuple[int, str]:
    text, timestamp = json.dumps(body), str(int(time.time()) - age_seconds)
    signature = SignatureVerifier(secret).generate_signature(timestamp=timestamp, body=text)
    headers = {
        "Content-Type": "application/json",
        "X-Slack-Request-Timestamp": timestamp,
        "X-Slack-Signature": signature or "",
    }
    async with client.post("/slack/events", data=text, headers=headers) as response:
        return response.status, await response.text()


def mention(slack: SlackLoopback) -> tuple[str, dict[str, Any]]:
    file = slack.upload("a.png", draw_picture())
    message = slack.people_say(CHANNEL, f"<@{BOT}> What is this?", files=[file], subtype="file_share")
    return message["ts"], slack.envelope({**message, "channel": CHANNEL, "channel_type": "channel"})


async def test_signed_requests_are_answered_and_others_are_not(slack: SlackLoopback) -> None:
    handler = MemoryChatHandler()
    adapter = SlackAdapter(BOT_TOKEN, None, api_url=slack.api_url, mode="http", signing_secret=SECRET)
    async with serving(adapter, handler) as client:
        assert await send(client, {"type": "url_verification", "challenge": "c"}) == (200, '{"challenge": "c"}')
        ts, event = mention(slack)
        assert (await send(client, event, secret="wrong"))[0] == 401
        assert (await send(client, event, age_seconds=3600))[0] == 401
        assert handler.messages == []
        assert (await send(client, event))[0] == 200
        assert (await send(client, event))[0] == 200  # Slack sends it again when we were slow
        answer = await handler.answer_next("A circle.")
        await handler.wait_delivered(answer.turn_id)
        assert len(slack.thread(CHANNEL, ts)) == 1
        assert len(handler.messages) == 1


def test_a_socket_needs_no_routes() -> None:
    assert SlackAdapter(BOT_TOKEN, "xapp-1").routes() == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning:slack_sdk")  # slack_sdk 3.47 uses aiohttp's BasicAuth
async def test_a_workspace_installs_the_app_and_is_served_also_after_a_restart(slack: SlackLoopback, tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'chats.db'}")

    def adapter() -> SlackAdapter:
        return SlackAdapter(
            None,
            None,
            api_url=slack.api_url,
            mode="http",
            signing_secret=SECRET,
            client_id="client",
            client_secret="secret",
            engine=engine,
        )

    try:
        handler = MemoryChatHandler()
        async with serving(adapter(), handler) as client:
            async with client.get("/slack/install") as response:
                assert response.status == 200
                cookie = response.headers["Set-Cookie"].partition(";")[0]
                page = await response.text()
            link = re.search(r'https://slack.com/oauth/v2/authorize[^"]*', page)
            assert link is not None
            asked = parse_qs(urlsplit(html.unescape(link[0])).query)
            assert asked["client_id"] == ["client"]
            assert "files:read" in asked["scope"][0]
            redirect = {"code": "code", "state": asked["state"][0]}
            async with client.get("/slack/oauth_redirect", params=redirect) as response:
                assert response.status == 400  # another browser
            async with client.get("/slack/oauth_redirect", params=redirect, headers={"Cookie": cookie}) as response:
                assert response.status == 200
            _, event = mention(slack)
            assert (await send(client, event))[0] == 200
            answer = await handler.answer_next("A circle.")
            await handler.wait_delivered(answer.turn_id)

        handler.delivered.clear()
        before = len(slack.called("chat.update"))
        async with serving(adapter(), handler):  # nothing has arrived yet: the token comes from the database
            await slack.wait_for(lambda: len(slack.called("chat.update")) > before)
    finally:
        await engine.dispose()


async def test_several_workspaces_need_a_database(slack: SlackLoopback) -> None:
    adapter = SlackAdapter(None, None, api_url=slack.api_url, mode="http", client_id="c", client_secret="s")
    with pytest.raises(AdapterError, match="database"):
        await adapter.run(MemoryChatHandler())
