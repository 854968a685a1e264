"""The whole program in several Slack workspaces, which install it by themselves through the page's server."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.adapters.slack_install import install
from tests.e2e.dictated_model import DictatedModel
from tests.e2e.test_slack_program import answer, end, program
from tests.images import red_circle
from tests.loopbacks.slack.server import SlackServer
from tests.loopbacks.slack.state import Channel, Message, Team, User

pytestmark = pytest.mark.whole_program

BOTH_READY = r"(?s)ready: http\S+.*ready: Slack[^\n]*|ready: Slack.*ready: http\S+(?=\n)"
WEB_TOKEN = "sixteen-characters-or-more"
IMAGE = ("circle.png", red_circle())


@pytest.fixture
async def slack() -> AsyncIterator[SlackServer]:
    async with SlackServer() as server:
        yield server


@pytest.fixture
async def model() -> AsyncIterator[DictatedModel]:
    async with DictatedModel() as model:
        yield model


async def ask(slack: SlackServer, model: DictatedModel, team: Team, channel: Channel, person: User) -> Message:
    """A question in a workspace, which is answered there with the workspace's name."""
    post = await slack.post(channel, person, f"<@{team.bot_user_id}> What is there?", [IMAGE])
    (await model.next()).end(f"A circle, seen in {team.name}.")
    await answer(slack, channel, post.ts, f"A circle, seen in {team.name}.")
    return post


@pytest.mark.parametrize("mode", ["http", "socket"])
async def test_workspaces_install_it_and_each_has_its_own_answers_also_after_a_restart(
    tmp_path: Path, slack: SlackServer, model: DictatedModel, mode: str
) -> None:
    slack.deliveries.retry_seconds = ()
    second = slack.add_team("Second")
    ann, bob = slack.add_user("ann"), slack.add_user("bob", team=second)
    here, there = slack.add_channel("here"), slack.add_channel("there", team=second)
    settings = {
        "SLACK_BOT_TOKEN": "",
        "SLACK_CLIENT_ID": slack.state.client_id,
        "SLACK_CLIENT_SECRET": slack.state.client_secret,
        "SLACK_SIGNING_SECRET": slack.signing_secret,
        "THREADSIGHT_SLACK_MODE": mode,
        "THREADSIGHT_WEB_TOKEN": WEB_TOKEN,
        "THREADSIGHT_ENGINE_URL": model.url,
    }
    async with program(tmp_path, slack, BOTH_READY, **settings) as (running, said):
        async with aiohttp.ClientSession(address(said), cookie_jar=aiohttp.DummyCookieJar()) as stranger:
            for team in (slack.team, second):
                await install(stranger, slack, team)
            await only_slacks_paths_are_open(stranger)
        if mode == "http":
            await forged_events_are_refused(slack, address(said), here, ann)
        await ask(slack, model, slack.team, here, ann)
        post = await ask(slack, model, second, there, bob)
        await end(running)
    async with program(tmp_path, slack, BOTH_READY, **settings) as (running, said):
        if mode == "http":
            slack.deliver_http(f"{address(said)}slack/events")
        await slack.post(there, bob, "And what else?", thread_ts=post.ts)
        (await model.next()).end("Nothing else.")
        await answer(slack, there, post.ts, "Nothing else.")
        await end(running)
    assert len(slack.answers(there, post.ts)) == 2
    assert slack.broadcasts == []


def address(said: str) -> str:
    found = re.search(r"http\S+", said)
    assert found is not None
    return found[0]


async def only_slacks_paths_are_open(stranger: aiohttp.ClientSession) -> None:
    statuses = {}
    for path in ("/api/chats", "/slack/elsewhere", "/slack/events"):
        async with stranger.post(path, json={}) as response:
            statuses[path] = response.status
    assert statuses["/api/chats"] == 401
    assert statuses["/slack/elsewhere"] == 401
    assert statuses["/slack/events"] == 401  # unsigned; by socket there is no such path


async def forged_events_are_refused(slack: SlackServer, url: str, channel: Channel, person: User) -> None:
    """Nothing is asked of the model, which the next question would show."""
    way = slack.deliver_http(f"{url}slack/events")
    way.forgery = "wrong_signature"
    await slack.post(channel, person, f"{slack.mention} Forged?", [IMAGE])
    await slack.settle()
    assert set(way.statuses) == {401}
    way.forgery = None
