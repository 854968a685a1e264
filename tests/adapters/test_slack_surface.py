"""What one answer's place sends to Slack, and when; the clock is the test's."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from adapters.bounded import BoundedSet
from adapters.slack.destination import Destination
from adapters.slack.surface import STATUS_SECONDS, UPDATE_SECONDS, SlackSurface
from adapters.slack.workspaces import Workspaces
from adapters.surface import Control, DestinationGone, Page, TryLater
from tests.loopbacks.slack.server import SlackServer
from tests.loopbacks.slack.state import Channel


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def slack() -> AsyncIterator[SlackServer]:
    async with SlackServer() as slack:
        yield slack


@pytest.fixture
def channel(slack: SlackServer) -> Channel:
    return slack.add_channel("general")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def surface(slack: SlackServer, channel: Channel, clock: Clock) -> SlackSurface:
    ann = slack.add_user("ann")
    root = await slack.post(channel, ann, "look", how="held")
    workspaces = Workspaces(slack.api_url)
    workspaces.learn(slack.team_id, slack.bot_user_id, slack.bot_token)
    return SlackSurface(Destination(slack.team_id, channel.id, root.ts, ann.id), workspaces, BoundedSet(10), clock)


def statuses(slack: SlackServer) -> list[str]:
    return [status for _, _, status in slack.state.status_history]


async def test_the_status_is_kept_alive_until_the_end(slack: SlackServer, surface: SlackSurface, clock: Clock) -> None:
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


async def test_the_status_is_not_worth_an_error(slack: SlackServer, surface: SlackSurface) -> None:
    slack.faults.fail_next("assistant.threads.setStatus", error="missing_scope")
    await surface.show_typing()


async def test_updates_of_what_changes_again_keep_slacks_pace(
    slack: SlackServer, channel: Channel, surface: SlackSurface, clock: Clock
) -> None:
    slack.faults.fail_next("chat.startStream", error="unknown_method")
    reply_id = await surface.post(Page("One", is_open=True))
    await surface.edit(reply_id, Page("One two", is_open=True))
    clock.now += 1
    with pytest.raises(TryLater) as later:
        await surface.edit(reply_id, Page("One two three", is_open=True))
    assert later.value.retry_after_seconds == UPDATE_SECONDS - 1
    assert len(slack.called("chat.update")) == 1
    clock.now += UPDATE_SECONDS - 1
    await surface.edit(reply_id, Page("One two three four", is_open=True))
    await surface.edit(reply_id, Page("One two three four five"))  # the last one never gives way
    assert len(slack.called("chat.update")) == 3
    (_, message) = channel.messages.values()
    assert message.shown == "One two three four five"


async def test_a_short_stream_needs_no_stop_button(channel: Channel, surface: SlackSurface, clock: Clock) -> None:
    page = Page("One", controls=(Control.STOP,), turn_id=1, is_open=True)
    reply_id = await surface.post(page)
    assert await surface.edit(reply_id, Page("One two", controls=(Control.STOP,), turn_id=1, is_open=True)) is None
    assert len(channel.messages) == 2
    clock.now += 60
    moved = await surface.edit(reply_id, Page("One two three", controls=(Control.STOP,), turn_id=1, is_open=True))
    assert moved is not None
    assert len(channel.messages) == 3
    await surface.delete(moved)
    assert len(channel.messages) == 1
    await surface.delete(moved)  # gone already


@pytest.mark.parametrize("num_more", [0, 2])
async def test_a_stop_button_of_which_nothing_was_heard_goes_at_the_end_too(
    slack: SlackServer, channel: Channel, surface: SlackSurface, clock: Clock, num_more: int
) -> None:
    def page(text: str) -> Page:
        return Page(text, controls=(Control.STOP,), turn_id=1, is_open=True)

    reply_id = await surface.post(page("One"))
    clock.now += 60
    slack.faults.fail_next("chat.postMessage", is_reset=True, is_done=True)
    assert await surface.edit(reply_id, page("One two")) is None
    assert len(channel.messages) == 3  # the question, the answer, and the button
    for number in range(num_more):
        reply_id = await surface.edit(reply_id, page("One two" + " more" * (number + 1))) or reply_id
        assert len(channel.messages) == 3
    await surface.edit(reply_id, Page("One two more more."))
    (_, message) = channel.messages.values()
    assert message.shown == "One two more more."


async def test_a_text_that_does_not_go_on_is_written_anew(channel: Channel, surface: SlackSurface) -> None:
    reply_id = await surface.post(Page("One two three", is_open=True))
    await surface.edit(reply_id, Page("One two"))
    (_, message) = channel.messages.values()
    assert message.stream == "done"
    assert message.blocks == [{"type": "markdown", "text": "One two"}]
    await surface.edit(reply_id, Page("One two three"))
    assert message.blocks == [{"type": "markdown", "text": "One two three"}]


async def test_links_are_not_unfolded(slack: SlackServer, surface: SlackSurface) -> None:
    await surface.post(Page("https://example.com"))
    (sent,) = slack.called("chat.postMessage")
    assert str(sent.arguments["unfurl_links"]).lower() in ("false", "0")
    assert str(sent.arguments["unfurl_media"]).lower() in ("false", "0")


async def test_a_workspace_that_is_unknown_is_no_place(slack: SlackServer) -> None:
    surface = SlackSurface(Destination("T9", "C1", "1.1", "U1"), Workspaces(slack.api_url), BoundedSet(10))
    with pytest.raises(DestinationGone):
        await surface.post(Page("Hello"))
