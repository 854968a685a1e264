"""The adapter against the strict loopback Slack: scopes, Block Kit's limits, and every way in which Slack may tell of a post."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import get_args

import pytest

from adapters.base import AnswerText, Notice, Waiting
from adapters.slack import SlackAdapter
from tests.chat_handler import TIMEOUT_SECONDS, MemoryChatHandler, draw_picture
from tests.slack_server.people import How
from tests.slack_server.server import SlackServer

PICTURE = ("a.png", draw_picture())


@contextlib.asynccontextmanager
async def world() -> AsyncIterator[tuple[SlackServer, MemoryChatHandler]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("adapters.slack.app.CHANNEL_SECONDS", 0.0)
        patch.setattr("adapters.slack.app.WRITES_PER_SECOND", 1000.0)
        patch.setattr("adapters.reply._FIRST_WAIT_SECONDS", 0.01)
        handler = MemoryChatHandler()
        async with SlackServer() as slack:
            adapter = SlackAdapter(slack.bot_token, slack.app_token, api_url=slack.api_url)
            run = asyncio.create_task(adapter.run(handler))
            try:
                async with asyncio.timeout(TIMEOUT_SECONDS):
                    await adapter.started.wait()
                yield slack, handler
            finally:
                run.cancel()
                await asyncio.gather(run, return_exceptions=True)


@pytest.mark.parametrize("how", get_args(How))
async def test_a_post_is_one_question_with_its_picture_however_it_is_told(how: How) -> None:
    async with world() as (slack, handler):
        ann, channel = slack.add_user("ann"), slack.add_channel("general")
        post = await slack.post(channel, ann, f"{slack.mention} What is this?", [PICTURE], how=how)
        if how == "held":
            await slack.tell(post)
        answer = await handler.answer_next("A circle.")
        await handler.wait_delivered(answer.turn_id)
        await slack.settle()
        (asked,) = handler.messages
        assert [await attachment.fetch(10**6) for attachment in asked.attachments] == [PICTURE[1]]
        (shown,) = slack.answers(channel, post.ts)
        assert shown.markdown == "A circle." or "A circle." in shown.shown
        assert slack.broadcasts == []


async def test_waiting_stream_stop_button_and_notices_pass_slacks_rules() -> None:
    async with world() as (slack, handler):
        ann, channel = slack.add_user("ann"), slack.add_channel("general")
        post = await slack.post(channel, ann, f"{slack.mention} What is this?", [PICTURE])
        answer = await handler.next_answer()
        await answer.add(Waiting(3, 20.0))
        (waiting,) = await slack.wait_for(lambda: slack.answers(channel, post.ts))
        await answer.add(AnswerText("<!channel> <@" + ann.id + "> a "), Notice("One thing: <!here>"))
        await slack.wait_for(lambda: len(slack.answers(channel, post.ts)) == 2)
        await slack.click(ann, waiting, "threadsight_stop")
        await asyncio.wait_for(answer.is_stop_wanted.wait(), TIMEOUT_SECONDS)
        await handler.end(answer)
        await handler.wait_delivered(answer.turn_id)
        (shown,) = slack.answers(channel, post.ts)
        assert {label for _, label, _ in shown.buttons} == {"Helpful", "Not helpful", "Regenerate"}
        assert slack.broadcasts == []
        refused = [(call.method, call.error) for call in slack.calls if call.error]
        assert refused == []


async def test_a_stream_that_slack_ends_still_ends_in_the_whole_text() -> None:
    async with world() as (slack, handler):
        ann, channel = slack.add_user("ann"), slack.add_channel("general")
        post = await slack.post(channel, ann, f"{slack.mention} What is this?", [PICTURE])
        answer = await handler.next_answer()
        await answer.add(AnswerText("One. "))
        await slack.wait_for(lambda: slack.answers(channel, post.ts))
        await slack.expire_streams()
        await answer.add(AnswerText("Two. "))
        await slack.wait_for(lambda: "Two." in slack.answers(channel, post.ts)[0].shown)
        await answer.add(AnswerText("Three."))
        await handler.end(answer)
        await handler.wait_delivered(answer.turn_id)
        (shown,) = slack.answers(channel, post.ts)
        assert "One. Two. Three." in shown.shown


async def test_windows_and_home_pass_slacks_rules() -> None:
    async with world() as (slack, handler):
        ann, channel = slack.add_user("ann"), slack.add_channel("general")
        post = await slack.post(channel, ann, "my cat", [PICTURE])
        await slack.shortcut(ann, "threadsight_ask_about_image", post)
        (view,) = await slack.wait_for(lambda: slack.views)
        await slack.submit_view(ann, view, {"question": "Who is it?"})
        answer = await handler.answer_next("A cat.")
        await handler.wait_delivered(answer.turn_id)
        assert "A cat." in slack.answers(channel, post.ts)[0].shown
        await slack.slash(ann, channel, "/threadsight", "ask")
        await slack.wait_for(lambda: len(slack.views) == 2)
        await slack.open_home(ann)
        await slack.wait_for(lambda: len(slack.views) == 3)
        asked = await slack.slash(ann, channel, "/threadsight", "quota")
        await slack.wait_for(lambda: asked.responses)
        assert [call for call in slack.calls if call.error] == []


async def test_a_direct_message() -> None:
    async with world() as (slack, handler):
        ann = slack.add_user("ann")
        direct = slack.direct(ann)
        post = await slack.post(direct, ann, "What is this?", [PICTURE])
        answer = await handler.answer_next("A circle.")
        await handler.wait_delivered(answer.turn_id)
        assert "A circle." in slack.answers(direct, post.ts)[0].shown


async def test_a_deleted_question_with_its_answer_below_takes_it_along() -> None:
    async with world() as (slack, handler):
        ann, channel = slack.add_user("ann"), slack.add_channel("general")
        post = await slack.post(channel, ann, f"{slack.mention} What is this?", [PICTURE])
        answer = await handler.answer_next("A circle.")
        await handler.wait_delivered(answer.turn_id)
        await slack.delete(post)  # Slack leaves a tombstone
        await slack.wait_for(lambda: not slack.answers(channel, post.ts))
        assert handler.places == {}


async def test_an_edit_is_answered_once_in_the_same_message() -> None:
    async with world() as (slack, handler):
        ann, channel = slack.add_user("ann"), slack.add_channel("general")
        post = await slack.post(channel, ann, f"{slack.mention} What is this?", [PICTURE])
        first = await handler.answer_next("A circle.")
        await handler.wait_delivered(first.turn_id)
        await slack.edit(post, f"{slack.mention} Which colour?")
        second = await handler.next_answer()
        await second.add(AnswerText("Red."))
        await handler.end(second)
        await slack.wait_for(lambda: ["Red." in message.shown for message in slack.answers(channel, post.ts)] == [True])
        await slack.settle()
        await handler.wait_delivered(second.turn_id)
        assert [message.text for message in handler.messages] == ["What is this?", "Which colour?"]
        assert [attachment.name for attachment in handler.messages[1].attachments] == ["a.png"]
