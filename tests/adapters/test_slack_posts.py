"""What belongs to one post, however Slack tells of it: its files, its edits, its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, get_args

import pytest

from adapters.base import AnswerText, AttachmentError, IncomingMessage
from tests.adapters.slack_world import IMAGE, SlackWorld, slack_world, within
from tests.loopbacks.slack.payloads import file_object, mention_event, message_event
from tests.loopbacks.slack.people import How

OUTSIDE = "it lies outside of Slack, where I cannot read it; please upload it here"


@pytest.fixture
async def world() -> AsyncIterator[SlackWorld]:
    async with slack_world() as world:
        yield world


@pytest.mark.parametrize("how", get_args(How))
async def test_a_post_is_one_question_with_its_picture_however_it_is_told(world: SlackWorld, how: How) -> None:
    question = await world.ask(how=how)
    if how == "held":
        await world.slack.tell(question)
    answer = await world.handler.answer_next("A circle.")
    await world.handler.wait_delivered(answer.turn_id)
    await world.slack.settle()
    (asked,) = world.handler.messages
    assert [await attachment.fetch(10**6) for attachment in asked.attachments] == [IMAGE[1]]
    assert [attachment.name for attachment in asked.attachments] == ["a.png"]
    assert world.texts(question) == ["A circle."]


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("tombstone", "it was deleted"),
        ("hidden_by_limit", "Slack hides it because this workspace has reached its storage limit"),
        ("external", OUTSIDE),
        ("elsewhere", OUTSIDE),
    ],
)
async def test_a_file_that_cannot_be_read_has_its_reason(world: SlackWorld, mode: str, reason: str) -> None:
    file = world.slack.add_file(world.ann, *IMAGE, mode="hosted" if mode == "elsewhere" else mode)
    if mode == "elsewhere":
        file.url = "https://evil.example/a.png"
    question = await world.ask(files=[file])
    (shown,) = await world.slack.wait_for(lambda: world.slack.answers(world.general, question.ts))
    name = "the file" if mode in ("tombstone", "hidden_by_limit") else "a.png"  # Slack does not tell the name of what is gone
    assert f"I could not use {name}: {reason}." in shown.shown
    with pytest.raises(AttachmentError):
        await world.handler.messages[0].attachments[0].fetch(10**6)


async def test_a_changed_question_is_asked_again_and_a_mention_again_is_no_second_question(world: SlackWorld) -> None:
    question, _, _ = await world.answered()
    await world.slack.edit(question, f"{world.slack.mention} Which colour?")
    second = await world.handler.next_answer()
    await second.add(AnswerText("Red."))
    await world.handler.end(second)
    await world.slack.wait_for(lambda: world.texts(question) == ["Red."])
    await world.slack.settle()
    await world.handler.wait_delivered(second.turn_id)
    assert [message.text for message in world.handler.messages] == ["What is this?", "Which colour?"]
    assert [attachment.name for attachment in world.handler.messages[1].attachments] == ["a.png"]


async def test_a_changed_mention_keeps_its_picture(world: SlackWorld) -> None:
    question, _, _ = await world.answered()
    question.text, question.edited_ts = f"{world.slack.mention} Which colour?", world.slack.state.new_ts()
    world.slack.publish(world.general, mention_event(question, "none"))
    second = await world.handler.next_answer()
    await world.handler.end(second)
    assert [message.text for message in world.handler.messages] == ["What is this?", "Which colour?"]
    assert [attachment.name for attachment in world.handler.messages[1].attachments] == ["a.png"]


async def test_a_mention_that_an_edit_added_is_answered(world: SlackWorld) -> None:
    post = await world.slack.post(world.general, world.ann, "look", [IMAGE])
    await world.slack.settle()
    await world.slack.edit(post, f"{world.slack.mention} look")
    answer = await world.handler.answer_next("A circle.")
    await world.handler.wait_delivered(answer.turn_id)
    await world.slack.settle()
    assert len(world.handler.messages) == 1


async def test_files_that_are_told_late_make_the_question_anew(world: SlackWorld) -> None:
    slack = world.slack
    question = await world.ask(how="held")
    file = question.files.pop()
    await slack.tell(question)
    answer = await world.handler.answer_next("What?")
    await world.handler.wait_delivered(answer.turn_id)
    edits: asyncio.Queue[IncomingMessage] = asyncio.Queue()
    world.handler.ask_again = edits.put  # type: ignore[method-assign,assignment]
    question.files.append(file)
    slack.publish(world.general, message_event(question))
    asked_again = await within(edits.get())
    assert [attachment.name for attachment in asked_again.attachments] == ["a.png"]


async def test_a_shared_message_and_a_linked_file_bring_their_pictures(world: SlackWorld) -> None:
    slack = world.slack
    shared, linked = (slack.add_file(world.ann, name, IMAGE[1]) for name in ("shared.png", "linked.png"))
    link = f"https://team.slack.com/files/{world.ann.id}/{linked.id}/linked.png"
    post = await slack.post(world.general, world.ann, f"{slack.mention} both? <{link}>", how="held")
    share: dict[str, Any] = {"attachments": [{"is_share": True, "files": [file_object(shared)]}]}
    slack.publish(world.general, message_event(post) | share)
    slack.publish(world.general, mention_event(post) | share)
    await world.handler.answer_next("Yes.")
    assert [(a.name, a.link) for a in world.handler.messages[0].attachments] == [("shared.png", None), ("linked.png", link)]


async def test_a_deleted_question_takes_its_answer_along(world: SlackWorld) -> None:
    question, _, _ = await world.answered()
    await world.slack.delete(question)  # a tombstone, for the answer stands below it
    await world.slack.wait_for(lambda: not world.slack.answers(world.general, question.ts))
    assert world.handler.platform_turns == {}


async def test_a_reply_that_is_deleted_takes_its_answer_along(world: SlackWorld) -> None:
    question, _, _ = await world.answered()
    reply = await world.slack.post(world.general, world.ann, "And the other?", thread_ts=question.ts)
    second = await world.handler.answer_next("A square.")
    await world.handler.wait_delivered(second.turn_id)
    await world.slack.delete(reply)
    await world.slack.wait_for(lambda: world.texts(question) == ["A circle."])
    assert len(world.handler.platform_turns) == 1


async def test_a_channel_that_we_left_is_forgotten(world: SlackWorld) -> None:
    rooms: asyncio.Queue[tuple[str, ...]] = asyncio.Queue()

    async def delete_room(*room: str) -> int:
        await rooms.put(room)
        return 1

    world.handler.delete_room = delete_room  # type: ignore[method-assign,assignment]
    await world.slack.kick_bot(world.general)
    assert await within(rooms.get()) == ("slack", world.slack.team_id, world.general.id)
