"""What Slack says to tokens and scopes, told to the person who runs the program: each for itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from adapters.base import AdapterError, Finding
from adapters.slack.app import SlackAdapter
from adapters.slack.checks import check
from adapters.slack.setup import SCOPES
from tests.adapters.slack_world import running
from tests.chat_handler import MemoryChatHandler
from tests.loopbacks.slack.server import SlackServer


@pytest.fixture
async def slack() -> AsyncIterator[SlackServer]:
    async with SlackServer() as slack:
        yield slack


async def findings(slack: SlackServer, bot_token: str = "", app_token: str | None = "") -> Sequence[Finding]:
    """Of the right tokens, unless others are given."""
    app_token = slack.app_token if app_token == "" else app_token
    return [finding async for finding in check(bot_token or slack.bot_token, app_token, api_url=slack.api_url)]


async def test_all_is_well(slack: SlackServer) -> None:
    found = await findings(slack)
    assert [finding.is_good for finding in found] == [True, True, True]
    assert "@threadsight in Loopback" in found[0].sentence


async def test_each_wrong_token_is_told_apart(slack: SlackServer) -> None:
    bad_bot = await findings(slack, bot_token="xoxb-wrong")
    bad_app = await findings(slack, app_token="xapp-wrong")
    assert [(finding.is_good, "SLACK_BOT_TOKEN" in finding.sentence) for finding in bad_bot] == [(False, True), (True, False)]
    assert [finding.is_good for finding in bad_app] == [True, True, False]
    assert "SLACK_APP_TOKEN" in bad_app[2].sentence


async def test_a_persons_token_is_no_bots(slack: SlackServer) -> None:
    slack.team.bot_id = ""  # Slack names no bot then
    found = await findings(slack, app_token=None)
    assert [finding.is_good for finding in found] == [False]
    assert "xoxb-" in found[0].sentence


async def test_each_missing_scope_is_named(slack: SlackServer) -> None:
    slack.team.scopes -= {"files:read", "im:history"}
    bad = [finding.sentence for finding in await findings(slack) if not finding.is_good]
    assert len(bad) == 2
    assert "files:read" in bad[0]
    assert "cannot look at pictures" in bad[0]
    assert "im:history" in bad[1]


async def test_an_app_token_without_its_scope_is_told(slack: SlackServer) -> None:
    slack.faults.fail_next("apps.connections.open", error="missing_scope")
    assert "connections:write" in (await findings(slack))[-1].sentence


async def test_nobody_there_is_told() -> None:
    async with SlackServer() as slack:
        pass
    for found in await findings(slack, app_token=None):
        assert not found.is_good
        assert "could not be reached" in found.sentence


async def test_an_error_of_slacks_own_is_not_the_tokens(slack: SlackServer) -> None:
    slack.faults.fail_next("auth.test", error="internal_error")
    (found,) = await findings(slack, app_token=None)
    assert "could not be reached" in found.sentence


async def test_an_address_that_is_not_slacks_is_told(slack: SlackServer) -> None:
    slack.faults.fail_next("auth.test", status=404)
    (found,) = await findings(slack, app_token=None)
    assert "HTTP 404" in found.sentence


async def test_of_several_workspaces_the_app_token_alone_is_checked(slack: SlackServer) -> None:
    found = [finding async for finding in check(None, slack.app_token, api_url=slack.api_url)]
    assert [finding.is_good for finding in found] == [True, True]
    assert "/slack/install" in found[0].sentence
    assert not slack.called("auth.test")


async def test_missing_rights_are_remarks_at_the_start(slack: SlackServer) -> None:
    slack.team.scopes -= {"files:read"}
    async with running(slack, MemoryChatHandler()) as adapter:
        (remark,) = adapter.remarks
    assert "files:read" in remark


async def test_a_token_in_the_environment_is_nothing_to_warn_of(
    slack: SlackServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SLACK_BOT_TOKEN", slack.bot_token)  # which the SDK reads by itself
    async with running(slack, MemoryChatHandler()):
        pass
    assert "token" not in caplog.text


async def test_a_socket_that_cannot_be_opened_at_first_is_tried_again(
    slack: SlackServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With another address, for each is good for one try; and none of them is written down."""
    monkeypatch.setattr("adapters.slack.connection.PING_SECONDS", 0.2)  # slack_sdk rests so long
    monkeypatch.setattr("adapters.slack.connection.LOOK_SECONDS", 0.01)
    new_path, num_paths = slack.socket.new_path, 0

    def one_bad_path() -> str:
        nonlocal num_paths
        num_paths += 1
        return "/link/?ticket=bad" if num_paths == 2 else new_path()  # the first is the check's

    monkeypatch.setattr(slack.socket, "new_path", one_bad_path)
    async with running(slack, MemoryChatHandler()) as adapter:
        assert adapter.started.is_set()
    assert num_paths >= 3
    assert "Failed to connect" in caplog.text
    assert "ticket" not in caplog.text


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"bot_token": "xoxb-wrong"}, "SLACK_BOT_TOKEN"),
        ({"app_token": "xapp-wrong"}, "SLACK_APP_TOKEN"),
        ({}, "chat:write"),
    ],
)
async def test_what_cannot_work_ends_the_start_with_a_sentence(slack: SlackServer, wrong: dict[str, Any], says: str) -> None:
    slack.team.scopes = set(SCOPES) if wrong else {"files:read"}
    tokens = {"bot_token": slack.bot_token, "app_token": slack.app_token} | wrong
    with pytest.raises(AdapterError, match=says):
        await SlackAdapter(**tokens, api_url=slack.api_url).run(MemoryChatHandler())
