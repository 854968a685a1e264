"""What one answer's place sends to Slack, and when; the clock is the test's."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from adapters.slack.place import Place, Posted
from adapters.slack.surface import STATUS_SECONDS, UPDATE_SECONDS, SlackSurface
from adapters.slack.workspaces import Workspaces
from adapters.surface import Control, Page, PlaceGone
from tests.adapters.slack_loopback import BOT, BOT_TOKEN, TEAM, SlackLoopback

CHANNEL = "C1"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def slack() -> AsyncIterator[SlackLoopback]:
    async with SlackLoopback().serving() as slack:
        yield slack


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def surface(slack: SlackLoopback, clock: Clock) -> SlackSurface:
    root = slack.people_say(CHANNEL, "look")
    workspaces = Workspaces(slack.api_url)
    workspaces.learn(TEAM, BOT, BOT_TOKEN)
    return SlackSurface(Place(TEAM, CHANNEL, root["ts"], "U1"), workspaces, Posted(), clock)


def statuses(slack: SlackLoopback) -> list[str]:
    return [call["status"] for call in slack.called("assistant.threads.setStatus")]


async def test_the_status_is_kept_alive_until_the_end(slack: SlackLoopback, surface: SlackSurface, clock: Clock) -> None:
    await surface.show_typing()
    await surface.show_typing()
    assert len(statuses(slack)) == 1
    clock.now += STATUS_SECONDS + 1
    await surface.show_typing()
    assert len(statuses(slack)) == 2
    reply_id = await surface.post(Page("", status="You are third.", is_open=True))
    await surface.show_typing()  # the message has taken the status away
    assert len(statuses(slack)) == 3
    await surface.edit(reply_id, Page("Done."))
    assert statuses(slack)[-1] == ""
    await surface.edit(reply_id, Page("Done!"))
    assert len(statuses(slack)) == 4


async def test_the_status_is_not_worth_an_error(slack: SlackLoopback, surface: SlackSurface) -> None:
    slack.fail("assistant.threads.setStatus", "missing_scope")
    await surface.show_typing()


async def test_updates_of_what_changes_again_keep_slacks_pace(slack: SlackLoopback, surface: SlackSurface, clock: Clock) -> None:
    slack.fail("chat.startStream", "unknown_method")
    reply_id = await surface.post(Page("One", is_open=True))
    for text in ("One two", "One two three"):
        await surface.edit(reply_id, Page(text, is_open=True))
    assert len(slack.called("chat.update")) == 1
    clock.now += UPDATE_SECONDS
    await surface.edit(reply_id, Page("One two three four", is_open=True))
    await surface.edit(reply_id, Page("One two three four five"))  # the last one never gives way
    assert len(slack.called("chat.update")) == 3
    (block, *_) = slack.messages[CHANNEL][-1]["blocks"]
    assert block["text"] == "One two three four five"


async def test_a_short_stream_needs_no_stop_button(slack: SlackLoopback, surface: SlackSurface, clock: Clock) -> None:
    page = Page("One", controls=(Control.STOP,), turn_id=1, is_open=True)
    reply_id = await surface.post(page)
    assert await surface.edit(reply_id, Page("One two", controls=(Control.STOP,), turn_id=1, is_open=True)) is None
    assert len(slack.messages[CHANNEL]) == 2
    clock.now += 60
    moved = await surface.edit(reply_id, Page("One two three", controls=(Control.STOP,), turn_id=1, is_open=True))
    assert moved is not None
    assert len(slack.messages[CHANNEL]) == 3
    await surface.delete(moved)
    assert len(slack.messages[CHANNEL]) == 1
    await surface.delete(moved)  # gone already


async def test_a_text_that_does_not_go_on_is_written_anew(slack: SlackLoopback, surface: SlackSurface) -> None:
    reply_id = await surface.post(Page("One two three", is_open=True))
    await surface.edit(reply_id, Page("One two"))
    shown = slack.messages[CHANNEL][-1]
    assert not shown["is_streaming"]
    assert shown["blocks"] == [{"type": "markdown", "text": "One two"}]
    await surface.edit(reply_id, Page("One two three"))
    assert shown["blocks"] == [{"type": "markdown", "text": "One two three"}]


async def test_links_are_not_unfolded(slack: SlackLoopback, surface: SlackSurface) -> None:
    await surface.post(Page("https://example.com"))
    (sent,) = slack.called("chat.postMessage")
    assert str(sent["unfurl_links"]).lower() in ("false", "0")
    assert str(sent["unfurl_media"]).lower() in ("false", "0")


async def test_a_workspace_that_is_unknown_is_no_place(slack: SlackLoopback) -> None:
    surface = SlackSurface(Place("T9", CHANNEL, "1.1", "U1"), Workspaces(slack.api_url), Posted())
    with pytest.raises(PlaceGone):
        await surface.post(Page("Hello"))
