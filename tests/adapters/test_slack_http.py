"""Slack over HTTP on the page's server: signed requests, and workspaces that install the app by themselves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from adapters.base import AdapterError
from adapters.slack.app import SlackAdapter
from adapters.slack.oauth import open_installations
from adapters.web.server import WebAdapter
from tests.adapters.slack_install import ask_slack, come_back, install
from tests.adapters.slack_world import IMAGE, without_rest, words
from tests.chat_handler import TIMEOUT_SECONDS, MemoryChatHandler
from tests.loopbacks.slack.http_mode import Forgery
from tests.loopbacks.slack.server import SlackServer

# slack_sdk 3.47 uses aiohttp's BasicAuth
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:slack_sdk")


@contextlib.asynccontextmanager
async def serving(adapter: SlackAdapter, handler: MemoryChatHandler) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    """The adapter behind the page's server, whose own token strangers lack: a stranger's client, and the request URL."""
    page = WebAdapter("127.0.0.1", 0, "page-token", more_routes=adapter.routes())
    runs = [asyncio.create_task(page.run(handler)), asyncio.create_task(adapter.run(handler))]
    try:
        with without_rest():
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await page.started.wait()
                await adapter.started.wait()
            async with aiohttp.ClientSession(page.where, cookie_jar=aiohttp.DummyCookieJar()) as client:
                yield client, f"{page.where}slack/events"
    finally:
        for run in runs:
            run.cancel()
        await asyncio.gather(*runs, return_exceptions=True)


@pytest.fixture
async def slack() -> AsyncIterator[SlackServer]:
    async with SlackServer() as slack:
        yield slack


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path / 'chats.db'}"


def http_adapter(slack: SlackServer, bot_token: str | None = None, **settings: Any) -> SlackAdapter:
    return SlackAdapter(bot_token, None, api_url=slack.api_url, mode="http", signing_secret=slack.signing_secret, **settings)


def oauth_adapter(slack: SlackServer, database_url: str) -> SlackAdapter:
    return http_adapter(slack, client_id=slack.state.client_id, client_secret=slack.state.client_secret, database_url=database_url)


async def test_signed_requests_are_answered_and_others_are_not(slack: SlackServer) -> None:
    handler, ann, general = MemoryChatHandler(), slack.add_user("ann"), slack.add_channel("general")
    slack.deliveries.retry_seconds = ()
    async with serving(http_adapter(slack, slack.bot_token), handler) as (_, url):
        way = slack.deliver_http(url)
        assert await way.verify_url()
        forgeries: tuple[Forgery, ...] = ("wrong_signature", "old_timestamp", "no_signature")
        for way.forgery in forgeries:
            await slack.post(general, ann, f"{slack.mention} What is this?", [IMAGE])
            await slack.settle()
        assert set(way.statuses) == {401}
        assert handler.messages == []
        way.forgery = None
        post = await slack.post(general, ann, f"{slack.mention} What is this?", [IMAGE], how="doubled")
        answer = await handler.answer_next("A circle.")
        await handler.wait_delivered(answer.turn_id)
        await slack.settle()
        assert set(way.statuses[-4:]) == {200}
        assert [words(message) for message in slack.answers(general, post.ts)] == ["A circle."]
        assert len(handler.messages) == 1


async def test_the_pages_own_routes_stay_guarded(slack: SlackServer) -> None:
    async with serving(http_adapter(slack, slack.bot_token), MemoryChatHandler()) as (client, _):
        for path in (
            "/api/chats",
            "/slack/",
            "/slack/events/",
            "/slack/elsewhere",
            "/slack/install",
            "/slack/events/../../api/chats",
        ):
            async with client.get(path) as response:
                assert response.status == 401, path
        async with client.post("/slack/events/..%2f..%2fapi/chats", json={}) as response:
            assert response.status == 401


def test_a_socket_needs_no_routes() -> None:
    assert SlackAdapter("xoxb-1", "xapp-1").routes() == []


async def test_a_workspace_installs_the_app_and_is_served_also_after_a_restart(slack: SlackServer, database_url: str) -> None:
    handler = MemoryChatHandler()
    async with serving(oauth_adapter(slack, database_url), handler) as (client, url):
        slack.deliver_http(url)
        _, asked = await ask_slack(client)
        assert "files:read" in asked["scope"][0]
        assert await come_back(client, slack.new_oauth_code(slack.team), asked["state"][0], None) == 400  # another browser
        await install(client, slack, slack.team)
        ann, general = slack.add_user("ann"), slack.add_channel("general")
        post = await slack.post(general, ann, f"{slack.mention} What is this?", [IMAGE])
        answer = await handler.answer_next("A circle.")
        await handler.wait_delivered(answer.turn_id)
        assert [words(message) for message in slack.answers(general, post.ts)] == ["A circle."]
        await slack.settle()

    handler.delivered.clear()
    before = len(slack.called("chat.update"))
    async with serving(oauth_adapter(slack, database_url), handler):  # nothing has arrived yet: the token is in the database
        await slack.wait_for(lambda: len(slack.called("chat.update")) > before)


async def test_a_workspace_that_removes_the_app_is_forgotten(slack: SlackServer, database_url: str) -> None:
    handler, ann, general = MemoryChatHandler(), slack.add_user("ann"), slack.add_channel("general")
    slack.deliveries.retry_seconds = ()
    async with open_installations(slack.state.client_id, slack.state.client_secret, database_url) as installations:
        async with serving(oauth_adapter(slack, database_url), handler) as (client, url):
            slack.deliver_http(url)
            await install(client, slack, slack.team)
            await slack.uninstall(slack.team)
            await slack.settle()
            async with asyncio.timeout(TIMEOUT_SECONDS):
                while await installations.team_ids():  # noqa: ASYNC110 - the database tells nobody
                    await asyncio.sleep(0)
            await install(client, slack, slack.team)
            await slack.post(general, ann, f"{slack.mention} What is this?", [IMAGE])
            answer = await handler.answer_next("A circle.")
            await handler.wait_delivered(answer.turn_id)
            await slack.settle()
        assert await installations.team_ids() == [slack.team_id]


async def test_late_news_of_a_removal_does_not_undo_a_new_installation(slack: SlackServer, database_url: str) -> None:
    async with open_installations(slack.state.client_id, slack.state.client_secret, database_url) as installations:
        async with serving(oauth_adapter(slack, database_url), MemoryChatHandler()) as (client, url):
            slack.deliver_http(url)
            await install(client, slack, slack.team)
            await slack.uninstall(slack.team)
            slack.team.is_installed = True
            await slack.settle()
            await slack.wait_for(lambda: len(slack.called("auth.test")) >= 3)  # at the installation, and for both events
        assert await installations.team_ids() == [slack.team_id]


async def test_several_workspaces_need_a_database(slack: SlackServer) -> None:
    with pytest.raises(AdapterError, match="database"):
        await http_adapter(slack, client_id="c", client_secret="s").run(MemoryChatHandler())
