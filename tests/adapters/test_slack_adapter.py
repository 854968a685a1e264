"""The Slack adapter, with the unmodified slack_bolt and slack_sdk, against a loopback Slack: questions in, answers out."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest

from adapters.base import AnswerText, AttachmentError, IncomingMessage, Notice
from adapters.slack import SlackAdapter
from tests.adapters.slack_loopback import BOT, TEAM, SlackLoopback
from tests.adapters.slack_world import CHANNEL, DIRECT, ask, block_types, has_more_calls, running, words
from tests.chat_handler import MemoryChatHandler, draw_picture

OUTSIDE = "it lies outside of Slack, where I cannot read it; please upload it here"


@pytest.fixture(autouse=True)
def no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slack's rate limits are another test's."""
    monkeypatch.setattr("adapters.slack.app.CHANNEL_SECONDS", 0.0)
    monkeypatch.setattr("adapters.slack.app.WRITES_PER_SECOND", 1000.0)


@pytest.fixture
async def slack() -> AsyncIterator[SlackLoopback]:
    async with SlackLoopback().serving() as slack:
        yield slack


@pytest.fixture
def handler() -> MemoryChatHandler:
    return MemoryChatHandler()


@pytest.fixture
async def adapter(slack: SlackLoopback, handler: MemoryChatHandler) -> AsyncIterator[SlackAdapter]:
    async with running(slack, handler) as adapter:
        yield adapter


async def looked_back(handler: MemoryChatHandler, index: int) -> list[str]:
    """The names of the pictures that were near by."""
    look_back = handler.messages[index].look_back
    assert look_back is not None
    return [attachment.name for attachment in await look_back()]


async def test_it_says_where_it_is(adapter: SlackAdapter) -> None:
    assert adapter.where == "Slack, as @threadsight in Team"
    assert adapter.remarks == ()


@pytest.mark.usefixtures("adapter")
async def test_a_mention_with_a_picture_is_answered_in_its_thread(slack: SlackLoopback, handler: MemoryChatHandler) -> None:
    question = await ask(slack)
    answer = await handler.next_answer()
    await answer.add(AnswerText("A red "))
    await slack.wait_for(lambda: [words(m) for m in slack.thread(CHANNEL, question["ts"])] == ["A red "])
    await answer.add(AnswerText("circle."), Notice("I left something out."))
    await handler.end(answer)
    place = await handler.wait_delivered(answer.turn_id)

    (shown,) = slack.thread(CHANNEL, question["ts"])
    assert words(shown) == "A red circle."
    assert block_types(shown) == ["context", "context_actions", "actions"]
    assert not shown["is_streaming"]
    assert place.reply_ids == (f"{CHANNEL}:{shown['ts']}",)
    (asked,) = handler.messages
    assert (asked.text, asked.key.workspace, asked.key.channel, asked.key.thread) == (
        "What is this?",
        TEAM,
        CHANNEL,
        question["ts"],
    )
    assert asked.message_id == f"{CHANNEL}:{question['ts']}"
    (start,) = slack.called("chat.startStream")
    assert (start["recipient_user_id"], start["recipient_team_id"]) == ("U1", TEAM)


@pytest.mark.usefixtures("adapter")
async def test_a_reply_in_the_thread_goes_on_without_a_mention(slack: SlackLoopback, handler: MemoryChatHandler) -> None:
    question = await ask(slack)
    await handler.answer_next("A circle.")
    reply = slack.people_say(CHANNEL, "And the other?", thread_ts=question["ts"])
    await slack.tell_message(CHANNEL, reply)
    second = await handler.answer_next("A square.")
    await handler.wait_delivered(second.turn_id)
    assert handler.messages[0].key == handler.messages[1].key
    assert [words(m) for m in slack.thread(CHANNEL, question["ts"])] == ["A circle.", "A square."]


@pytest.mark.usefixtures("adapter")
async def test_what_is_not_for_us_is_left_alone_and_acknowledged(slack: SlackLoopback, handler: MemoryChatHandler) -> None:
    await slack.tell_message(CHANNEL, slack.people_say(CHANNEL, "hello all"))
    await slack.tell_message(CHANNEL, slack.people_say(CHANNEL, f"<@{BOT}> from a bot", bot_id="B7", subtype="bot_message"))
    for kind in ("file_shared", "channel_archive", "reaction_added", "assistant_thread_started"):
        await slack.tell({"type": kind, "channel": CHANNEL})
    question = await ask(slack)
    await handler.answer_next("Yes.")
    assert [message.message_id for message in handler.messages] == [f"{CHANNEL}:{question['ts']}"]


@pytest.mark.usefixtures("adapter")
@pytest.mark.parametrize("kinds", [["app_mention", "message"], ["message"], ["message", "message", "app_mention", "app_mention"]])
async def test_a_question_is_answered_once_however_it_is_told(
    slack: SlackLoopback, handler: MemoryChatHandler, kinds: list[str]
) -> None:
    file = slack.upload("a.png", draw_picture())
    message = slack.people_say(CHANNEL, f"<@{BOT}> look", files=[file], subtype="file_share")
    for kind in kinds:
        told = message if kind == "message" else {**message, "files": [], "subtype": None}
        await slack.tell_message(CHANNEL, told, kind)
    answer = await handler.answer_next("Once.")
    await handler.wait_delivered(answer.turn_id)
    (asked,) = handler.messages
    assert [attachment.name for attachment in asked.attachments] == ["a.png"]
    assert len(slack.thread(CHANNEL, message["ts"])) == 1


@pytest.mark.usefixtures("adapter")
async def test_a_mention_told_without_its_file_is_looked_up(slack: SlackLoopback, handler: MemoryChatHandler) -> None:
    message = slack.people_say(CHANNEL, f"<@{BOT}> look", files=[slack.upload("a.png", draw_picture())], subtype="file_share")
    await slack.tell_message(CHANNEL, {**message, "files": []}, "app_mention")
    await handler.answer_next("Seen.")
    assert [attachment.name for attachment in handler.messages[0].attachments] == ["a.png"]


@pytest.mark.usefixtures("adapter")
async def test_a_thin_file_is_looked_up(slack: SlackLoopback, handler: MemoryChatHandler) -> None:
    file = slack.upload("a.png", draw_picture())
    await ask(slack, files=[{"id": file["id"], "file_access": "check_file_info"}])
    await handler.answer_next("Seen.")
    (attachment,) = handler.messages[0].attachments
    assert (attachment.name, await attachment.fetch(10**6)) == ("a.png", draw_picture())


@pytest.mark.usefixtures("adapter")
@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"mode": "tombstone"}, "it was deleted"),
        ({"mode": "hidden_by_limit"}, "Slack hides it because this workspace has reached its storage limit"),
        ({"is_external": True}, "it lies outside of Slack, where I cannot read it; please upload it here"),
        (
            {"url_private_download": "https://evil.example/a.png"},
            "it lies outside of Slack, where I cannot read it; please upload it here",
        ),
    ],
)
async def test_a_file_that_cannot_be_read_has_its_reason(
    slack: SlackLoopback, handler: MemoryChatHandler, more: dict[str, Any], reason: str
) -> None:
    question = await ask(slack, files=[slack.upload("a.png", draw_picture(), **more)])
    shown = await slack.wait_for(lambda: slack.thread(CHANNEL, question["ts"]))
    assert words(shown[0]) == f"I could not use a.png: {reason}."
    with pytest.raises(AttachmentError):
        await handler.messages[0].attachments[0].fetch(10**6)


@pytest.mark.usefixtures("adapter")
async def test_a_direct_message_finds_the_earlier_picture(slack: SlackLoopback, handler: MemoryChatHandler) -> None:
    slack.people_say(DIRECT, "look at this", files=[slack.upload("old.png", draw_picture())], subtype="file_share")
    message = slack.people_say(DIRECT, "What is in it?")
    await slack.tell_message(DIRECT, message)
    answer = await handler.answer_next("A circle.")
    await handler.wait_delivered(answer.turn_id)
    assert handler.messages[0].key.thread == message["ts"]
    assert await looked_back(handler, 0) == ["old.png"]
    assert [words(m) for m in slack.thread(DIRECT, message["ts"])] == ["A circle."]

    another = slack.people_say(DIRECT, "And how big is it?")  # a thread of its own, which finds the same picture
    await slack.tell_message(DIRECT, another)
    await handler.answer_next("Small.")
    assert handler.messages[1].key.thread == another["ts"]
    assert await looked_back(handler, 1) == ["old.png"]


@pytest.mark.usefixtures("adapter")
async def test_a_mention_in_a_thread_uses_the_picture_at_its_root(slack: SlackLoopback, handler: MemoryChatHandler) -> None:
    root = slack.people_say(CHANNEL, "my cat", files=[slack.upload("cat.png", draw_picture())], subtype="file_share")
    mention = slack.people_say(CHANNEL, f"<@{BOT}> who is it?", thread_ts=root["ts"])
    await slack.tell_message(CHANNEL, mention)
    await slack.tell_message(CHANNEL, mention, "app_mention")
    await handler.answer_next("A cat.")
    assert handler.messages[0].key.thread == root["ts"]
    assert await looked_back(handler, 0) == ["cat.png"]


@pytest.mark.usefixtures("adapter")
async def test_a_changed_question_is_asked_again_and_a_mention_again_is_no_second_question(
    slack: SlackLoopback, handler: MemoryChatHandler
) -> None:
    question = await ask(slack)
    first = await handler.answer_next("A circle.")
    await handler.wait_delivered(first.turn_id)
    changed = {**question, "text": f"<@{BOT}> Which colour?", "edited": {"user": "U1", "ts": "1.1"}}
    await slack.tell(
        {"type": "message", "subtype": "message_changed", "channel": CHANNEL, "message": changed, "previous_message": question}
    )
    second = await handler.next_answer()
    await second.add(AnswerText("Red."))
    await handler.end(second)
    await slack.wait_for(lambda: [words(m) for m in slack.thread(CHANNEL, question["ts"])] == ["Red."])
    assert [message.text for message in handler.messages] == ["What is this?", "Which colour?"]


@pytest.mark.usefixtures("adapter")
async def test_a_changed_mention_keeps_its_picture(slack: SlackLoopback, handler: MemoryChatHandler) -> None:
    question = await ask(slack)
    first = await handler.answer_next("A circle.")
    await handler.wait_delivered(first.turn_id)
    question |= {"text": f"<@{BOT}> Which colour?", "edited": {"user": "U1", "ts": "1.1"}}
    await slack.tell_message(CHANNEL, {**question, "files": []}, "app_mention")
    second = await handler.next_answer()
    await handler.end(second)
    assert [message.text for message in handler.messages] == ["What is this?", "Which colour?"]
    assert [attachment.name for attachment in handler.messages[1].attachments] == ["a.png"]


@pytest.mark.usefixtures("adapter")
async def test_a_mention_that_an_edit_added_is_answered(slack: SlackLoopback, handler: MemoryChatHandler) -> None:
    message = slack.people_say(CHANNEL, "look", files=[slack.upload("a.png", draw_picture())], subtype="file_share")
    await slack.tell_message(CHANNEL, message)
    changed = {**message, "text": f"<@{BOT}> look", "edited": {"user": "U1", "ts": "1.1"}}
    event = {"type": "message", "subtype": "message_changed", "message": changed, "previous_message": message}
    await slack.tell({**event, "channel": CHANNEL})
    await slack.tell_message(CHANNEL, changed, "app_mention")
    answer = await handler.answer_next("A circle.")
    await handler.wait_delivered(answer.turn_id)
    assert len(handler.messages) == 1


@pytest.mark.usefixtures("adapter")
async def test_files_that_are_told_late_make_the_question_anew(slack: SlackLoopback, handler: MemoryChatHandler) -> None:
    message = slack.people_say(CHANNEL, f"<@{BOT}> look", subtype="file_share")
    await slack.tell_message(CHANNEL, message)
    await slack.tell_message(CHANNEL, message, "app_mention")
    answer = await handler.answer_next("What?")
    await handler.wait_delivered(answer.turn_id)
    edits: asyncio.Queue[IncomingMessage] = asyncio.Queue()
    handler.ask_again = edits.put  # type: ignore[method-assign,assignment]
    await slack.tell_message(CHANNEL, {**message, "files": [slack.upload("a.png", draw_picture())]})
    asked_again = await asyncio.wait_for(edits.get(), 5)
    assert [attachment.name for attachment in asked_again.attachments] == ["a.png"]


@pytest.mark.usefixtures("adapter")
async def test_a_shared_message_and_a_linked_file_bring_their_pictures(slack: SlackLoopback, handler: MemoryChatHandler) -> None:
    shared, linked = slack.upload("shared.png", draw_picture()), slack.upload("linked.png", draw_picture())
    link = f"https://team.slack.com/files/U1/{linked['id']}/linked.png"
    message = slack.people_say(CHANNEL, f"<@{BOT}> both? <{link}>", attachments=[{"is_share": True, "files": [shared]}])
    await slack.tell_message(CHANNEL, message)
    await slack.tell_message(CHANNEL, message, "app_mention")
    await handler.answer_next("Yes.")
    assert [(a.name, a.link) for a in handler.messages[0].attachments] == [("shared.png", None), ("linked.png", link)]


@pytest.mark.usefixtures("adapter")
async def test_a_deleted_question_takes_its_answer_along(slack: SlackLoopback, handler: MemoryChatHandler) -> None:
    question = await ask(slack)
    answer = await handler.answer_next("A circle.")
    await handler.wait_delivered(answer.turn_id)
    await slack.tell({"type": "message", "subtype": "message_deleted", "channel": CHANNEL, "deleted_ts": question["ts"]})
    await slack.wait_for(lambda: not slack.thread(CHANNEL, question["ts"]))
    assert handler.places == {}


@pytest.mark.usefixtures("adapter")
async def test_a_model_mentions_nobody(slack: SlackLoopback, handler: MemoryChatHandler) -> None:
    question = await ask(slack)
    answer = await handler.next_answer()
    for piece in ("Hey <", "!channel> and <@", "U1> and <!he", "re>"):
        await answer.add(AnswerText(piece))
        await slack.wait_for(lambda: slack.thread(CHANNEL, question["ts"]))
    await handler.end(answer)
    await handler.wait_delivered(answer.turn_id)
    shown = slack.thread(CHANNEL, question["ts"])[0]
    assert words(shown).replace("\u200b", "") == "Hey <!channel> and <@U1> and <!here>"
    assert not [call for call in slack.calls if call[0].startswith("chat.") and re.search("<[!@]", str(call[1]))]
    assert "<!" not in words(shown)
    assert "<@" not in words(shown)


@pytest.mark.usefixtures("adapter")
async def test_a_long_answer_goes_on_in_another_message(slack: SlackLoopback, handler: MemoryChatHandler) -> None:
    question = await ask(slack)
    answer = await handler.next_answer()
    sentences = [f"This is sentence {number} of the answer. " + ("\n\n" if number % 7 == 0 else "") for number in range(500)]
    for start in range(0, 500, 50):
        await answer.add(AnswerText("".join(sentences[start : start + 50])))
        before = len(slack.calls)
        await slack.wait_for(partial(has_more_calls, slack, before))
    await handler.end(answer)
    await handler.wait_delivered(answer.turn_id)
    shown = slack.thread(CHANNEL, question["ts"])
    assert len(shown) == 3
    assert all(len(words(message)) <= 8_000 for message in shown)
    assert "".join("".join(words(message) for message in shown).split()) == "".join("".join(sentences).split())
    assert [block_types(message)[-1:] == ["actions"] for message in shown] == [False, False, True]
    assert not any(message.get("is_streaming") for message in shown)


@pytest.mark.usefixtures("adapter")
async def test_twenty_threads_at_once_have_each_their_own_answer(slack: SlackLoopback, handler: MemoryChatHandler) -> None:
    questions = [await ask(slack, f"<@{BOT}> number {number}?") for number in range(20)]
    answers = [await handler.next_answer() for _ in questions]
    texts = {message.key: message.text for message in handler.messages}
    for piece in ("You asked ", "about "):
        await asyncio.gather(*(answer.add(AnswerText(piece)) for answer in answers))
    for answer in answers:
        await answer.add(AnswerText(texts[answer.key]))
        await handler.end(answer)
    for answer in answers:
        await handler.wait_delivered(answer.turn_id)
    for number, question in enumerate(questions):
        assert [words(m) for m in slack.thread(CHANNEL, question["ts"])] == [f"You asked about number {number}?"]


@pytest.mark.usefixtures("adapter")
async def test_a_channel_that_we_left_is_forgotten(slack: SlackLoopback, handler: MemoryChatHandler) -> None:
    rooms: asyncio.Queue[tuple[str, ...]] = asyncio.Queue()

    async def delete_room(*room: str) -> int:
        await rooms.put(room)
        return 1

    handler.delete_room = delete_room  # type: ignore[method-assign,assignment]
    await slack.tell({"type": "channel_left", "channel": "C9", "actor_id": "U1"})
    assert await asyncio.wait_for(rooms.get(), 5) == ("slack", TEAM, "C9")
