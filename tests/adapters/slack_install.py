"""A person who installs the app in a workspace, in a browser: /slack/install, Slack's question, /slack/oauth_redirect."""

from __future__ import annotations

import html
import re
from urllib.parse import parse_qs, urlsplit

import aiohttp

from tests.loopbacks.slack.server import SlackServer
from tests.loopbacks.slack.state import Team


async def ask_slack(client: aiohttp.ClientSession) -> tuple[str, dict[str, list[str]]]:
    """Open the first page. Returns its cookie, and the query of its link to Slack."""
    async with client.get("/slack/install") as response:
        assert response.status == 200
        cookie = response.headers["Set-Cookie"].partition(";")[0]
        page = await response.text()
    link = re.search(r'https://slack.com/oauth/v2/authorize[^"]*', page)
    assert link is not None
    return cookie, parse_qs(urlsplit(html.unescape(link[0])).query)


async def come_back(client: aiohttp.ClientSession, code: str, state: str, cookie: str | None) -> int:
    """Open the page to which Slack redirects a person who has allowed the app. Returns its status."""
    headers = {} if cookie is None else {"Cookie": cookie}
    async with client.get("/slack/oauth_redirect", params={"code": code, "state": state}, headers=headers) as response:
        return response.status


async def install(client: aiohttp.ClientSession, slack: SlackServer, team: Team) -> None:
    cookie, asked = await ask_slack(client)
    assert asked["client_id"] == [slack.state.client_id]
    assert await come_back(client, slack.new_oauth_code(team), asked["state"][0], cookie) == 200
