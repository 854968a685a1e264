"""The Slack adapter, with the unmodified slack_bolt and slack_sdk, against a loopback Slack: questions in, answers out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import pytest

from adapters.base import AnswerText, Notice, Waiting
from tests.adapters.slack_world import IMAGE, SlackWorld, block_types, labels, slack_world, within, words
from tests.loopbacks.slack.payloads import message_event
from tests.loopbacks.slack.state import ChannelKind


@pytest.fixture
async def world() -> AsyncIterator[SlackWorld]:
    async with slack_world() as world:
        yield world


async def looked_back(world: SlackWorld, index: int) -> list[str]:
    """The names of the pictures that were near by."""
    look_back = world.handler.messages[index].look_back
    assert look_back is not None
    return [attachment.name for attachment in await look_back()]


async def test_it_says_where_it_is(world: SlackWorld) -> None:
    assert world.adapter.where == "Slack, as @threadsight in Loopback"
    assert world.adapter.remarks == ()


async def test_a_mention_with_a_picture_is_answered_in_its_thread(world: SlackWorld) -> None:
    slack = world.slack
    question, answer = await world.begun("A red ")
    await answer.add(AnswerText("circle."), Notice("I left something out."))
    await world.handler.end(answer)
    destination = await world.handler.wait_delivered(answer.turn_id)

    (shown,) = slack.answers(world.general, question.ts)
    assert words(shown) == "A red circle."
    assert block_types(shown) == ["context", "context_actions", "actions"]
    assert shown.stream == "done"
    assert destination.reply_ids == (f"{world.general.id}:{shown.ts}",)
    (asked,) = world.handler.messages
    key = asked.key
    assert (asked.text, key.workspace, key.channel, key.thread) == (
        "What is this?",
        slack.team_id,
        world.general.id,
        question.ts,
    )
    assert asked.message_id == f"{world.general.id}:{question.ts}"
    (start,) = slack.called("chat.startStream")
    assert (start.arguments["recipient_user_id"], start.arguments["recipient_team_id"]) == (world.ann.id, slack.team_id)


async def test_a_reply_in_the_thread_goes_on_without_a_mention(world: SlackWorld) -> None:
    question, _, _ = await world.answered()
    await world.slack.post(world.general, world.ann, "And the other?", thread_ts=question.ts)
    second = await world.handler.answer_next("A square.")
    await world.handler.wait_delivered(second.turn_id)
    assert world.handler.messages[0].key == world.handler.messages[1].key
    assert world.texts(question) == ["A circle.", "A square."]


async def test_what_is_not_for_us_is_left_alone_and_acknowledged(world: SlackWorld) -> None:
    slack, general = world.slack, world.general
    kinds = ("file_shared", "channel_archive", "reaction_added", "assistant_thread_started")
    slack.subscriptions |= set(kinds)
    await slack.post(general, world.ann, "hello all")
    by_a_bot = await slack.post(general, world.ann, f"{slack.mention} from a bot", how="held")
    slack.publish(general, message_event(by_a_bot) | {"bot_id": "B7", "subtype": "bot_message"})
    for kind in kinds:
        slack.publish(general, {"type": kind, "channel": general.id})
    await slack.settle()
    question = await world.ask()
    await world.handler.answer_next("Yes.")
    assert [message.message_id for message in world.handler.messages] == [f"{general.id}:{question.ts}"]
    await slack.settle()
    assert {delivery.num_tries for delivery in slack.deliveries.all} == {1}


async def test_of_what_is_not_for_us_nothing_is_looked_up(world: SlackWorld) -> None:
    slack = world.slack
    link = "<https://loopback.slack.com/files/U1/F00000009/a.png>"
    post = await slack.post(world.general, world.ann, f"hello all {link}", [IMAGE], how="thin_files")
    await slack.settle()
    await slack.edit(post, f"hello everybody {link}")
    await slack.settle()
    await world.answered()
    looks = {call.method for call in slack.calls} & {"files.info", "conversations.history", "conversations.replies"}
    assert looks == set()


async def test_a_direct_message_finds_the_earlier_picture(world: SlackWorld) -> None:
    slack, direct = world.slack, world.slack.direct(world.ann)
    await slack.post(direct, world.ann, "look at this", [("old.png", IMAGE[1])], how="held")
    message = await slack.post(direct, world.ann, "What is in it?")
    answer = await world.handler.answer_next("A circle.")
    await world.handler.wait_delivered(answer.turn_id)
    assert world.handler.messages[0].key.thread == message.ts
    assert await looked_back(world, 0) == ["old.png"]
    assert world.texts(message) == ["A circle."]

    another = await slack.post(direct, world.ann, "And how big is it?")  # a thread of its own, which finds the same picture
    await world.handler.answer_next("Small.")
    assert world.handler.messages[1].key.thread == another.ts
    assert await looked_back(world, 1) == ["old.png"]


@pytest.mark.parametrize("kind", ["mpim", "private"])
async def test_a_group_is_answered_when_it_mentions_the_bot_with_all_its_pictures(world: SlackWorld, kind: ChannelKind) -> None:
    slack, bob = world.slack, world.slack.add_user("bob")
    group = slack.add_channel("group", kind=kind, members=[world.ann, bob])
    await slack.post(group, bob, "Nothing for the bot.", [IMAGE])
    files = [("one.png", IMAGE[1]), ("two.png", IMAGE[1])]
    question = await slack.post(group, world.ann, f"{slack.mention} What are these?", files)
    first = await world.handler.answer_next("Circles.")
    await world.handler.wait_delivered(first.turn_id)
    await slack.post(group, bob, "How many?", thread_ts=question.ts)
    second = await world.handler.answer_next("Two.")
    await world.handler.wait_delivered(second.turn_id)
    assert world.texts(question) == ["Circles.", "Two."]
    asked, followed = world.handler.messages
    assert [attachment.name for attachment in asked.attachments] == ["one.png", "two.png"]
    assert (followed.key, followed.author.id) == (asked.key, bob.id)


async def test_a_mention_in_a_thread_uses_the_picture_at_its_root(world: SlackWorld) -> None:
    root = await world.slack.post(world.general, world.ann, "my cat", [("cat.png", IMAGE[1])])
    await world.ask("who is it?", [], thread_ts=root.ts)
    await world.handler.answer_next("A cat.")
    assert world.handler.messages[0].key.thread == root.ts
    assert await looked_back(world, 0) == ["cat.png"]


async def test_waiting_stream_stop_button_and_notices_pass_slacks_rules(world: SlackWorld) -> None:
    slack, ann = world.slack, world.ann
    question = await world.ask()
    answer = await world.handler.next_answer()
    await answer.add(Waiting(3, 20.0))
    (waiting,) = await slack.wait_for(lambda: slack.answers(world.general, question.ts))
    await answer.add(AnswerText(f"<!channel> <@{ann.id}> a "), Notice("One thing: <!here>"))
    await slack.wait_for(lambda: len(slack.answers(world.general, question.ts)) == 2)
    await slack.click(ann, waiting, "threadsight_stop")
    await within(answer.is_stop_wanted.wait())
    await world.handler.end(answer)
    await world.handler.wait_delivered(answer.turn_id)
    (shown,) = slack.answers(world.general, question.ts)
    assert labels(shown) == {"Helpful", "Not helpful", "Regenerate"}
    assert slack.broadcasts == []
    assert [(call.method, call.error) for call in slack.calls if call.error] == []


async def test_a_model_mentions_nobody(world: SlackWorld) -> None:
    question = await world.ask()
    answer = await world.handler.next_answer()
    for piece in ("Hey <", "!channel> and <@", "U1> and <!he", "re>"):
        num_calls = len(world.slack.calls)
        await answer.add(AnswerText(piece))
        await world.slack.wait_for(partial(has_more_calls, world, num_calls))
    await world.handler.end(answer)
    await world.handler.wait_delivered(answer.turn_id)
    (shown,) = world.texts(question)
    assert shown.replace("\u200b", "") == "Hey <!channel> and <@U1> and <!here>"
    assert "<!" not in shown
    assert "<@" not in shown
    assert world.slack.broadcasts == []


async def test_a_long_answer_goes_on_in_another_message(world: SlackWorld) -> None:
    question = await world.ask()
    answer = await world.handler.next_answer()
    sentences = [f"This is sentence {number} of the answer. " + ("\n\n" if number % 7 == 0 else "") for number in range(500)]
    for start in range(0, 500, 50):
        num_calls = len(world.slack.calls)
        await answer.add(AnswerText("".join(sentences[start : start + 50])))
        await world.slack.wait_for(partial(has_more_calls, world, num_calls))
    await world.handler.end(answer)
    await world.handler.wait_delivered(answer.turn_id)
    shown = world.slack.answers(world.general, question.ts)
    assert len(shown) == 3
    assert all(len(text) <= 8_000 for text in world.texts(question))
    assert "".join("".join(world.texts(question)).split()) == "".join("".join(sentences).split())
    assert [block_types(message)[-1:] == ["actions"] for message in shown] == [False, False, True]
    assert not any(message.stream == "live" for message in shown)


async def test_twenty_threads_at_once_have_each_their_own_answer(world: SlackWorld) -> None:
    questions = [await world.ask(f"number {number}?") for number in range(20)]
    answers = [await world.handler.next_answer() for _ in questions]
    texts = {message.key: message.text for message in world.handler.messages}
    for piece in ("You asked ", "about "):
        await asyncio.gather(*(answer.add(AnswerText(piece)) for answer in answers))
    for answer in answers:
        await answer.add(AnswerText(texts[answer.key]))
        await world.handler.end(answer)
    for answer in answers:
        await world.handler.wait_delivered(answer.turn_id)
    for number, question in enumerate(questions):
        assert world.texts(question) == [f"You asked about number {number}?"]


def has_more_calls(world: SlackWorld, num_calls: int) -> bool:
    return len(world.slack.calls) > num_calls
