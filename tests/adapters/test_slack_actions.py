"""Buttons, the shortcut, /threadsight, words in threads and the home, over the wire."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from adapters.access import Access, parse_entries
from adapters.base import AnswerText, Waiting
from adapters.slack.actions import HELP
from tests.adapters.slack_loopback import BOT, Message, SlackLoopback
from tests.adapters.slack_world import slack_world
from tests.chat_handler import MemoryChatHandler, draw_picture

CHANNEL, DIRECT = "C1", "D1"


async def ask(slack: SlackLoopback, channel: str = CHANNEL) -> Message:
    file = slack.upload("a.png", draw_picture())
    message = slack.people_say(channel, f"<@{BOT}> What is this?", files=[file], subtype="file_share")
    await slack.tell_message(channel, message)
    return message


async def answered(slack: SlackLoopback, handler: MemoryChatHandler, channel: str = CHANNEL) -> tuple[Message, Message, int]:
    question = await ask(slack, channel)
    answer = await handler.answer_next("A circle.")
    await handler.wait_delivered(answer.turn_id)
    assert answer.turn_id is not None
    return question, slack.thread(channel, question["ts"])[0], answer.turn_id


def buttons(message: Message) -> dict[str, dict[str, Any]]:
    """What can be pressed under a message, by its value's word."""
    found = {}
    for block in message.get("blocks") or ():
        for element in block.get("elements") or ():
            for part in (element, element.get("positive_button") or {}, element.get("negative_button") or {}):
                if "value" in part:
                    action = {"type": element["type"], "action_id": element["action_id"], "value": part["value"]}
                    found[part["value"].partition(":")[0]] = action
    return found


async def press(slack: SlackLoopback, message: Message, control: str, user: str = "U1") -> None:
    action = buttons(message)[control]
    at = {"thread_ts": message["thread_ts"], "ts": message["ts"]}
    await slack.interact("block_actions", actions=[action], channel={"id": CHANNEL}, message=at, user={"id": user}, container={})


async def test_a_long_wait_shows_where_it_stands_and_can_be_stopped() -> None:
    async with slack_world() as (slack, handler):
        question = await ask(slack)
        answer = await handler.next_answer()
        await answer.add(Waiting(3, 20.0))
        (waiting,) = await slack.wait_for(lambda: slack.thread(CHANNEL, question["ts"]))
        assert waiting["blocks"][0]["type"] == "context"
        assert set(buttons(waiting)) == {"stop"}
        await answer.add(AnswerText("A red"))
        beside, stream = await slack.wait_for(lambda: len(t := slack.thread(CHANNEL, question["ts"])) == 2 and t)
        assert stream["markdown_text"] == "A red"
        await slack.wait_for(lambda: "writing" in str(beside["blocks"]))
        await press(slack, beside, "stop", user="U2")
        await slack.wait_for(lambda: [sent["text"] for sent in slack.ephemeral])
        assert "Only the person who asked" in slack.ephemeral[0]["text"]
        assert not answer.is_stop_wanted.is_set()
        await press(slack, beside, "stop")
        await asyncio.wait_for(answer.is_stop_wanted.wait(), 5)
        await handler.end(answer)
        place = await handler.wait_delivered(answer.turn_id)
        (shown,) = slack.thread(CHANNEL, question["ts"])
        assert shown["markdown_text"] == "A red"
        assert place.reply_ids == (f"{CHANNEL}:{shown['ts']}",)


async def test_a_long_stream_gets_a_stop_button_that_goes_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.slack.surface.STOP_AFTER_SECONDS", 0.0)
    async with slack_world() as (slack, handler):
        question = await ask(slack)
        answer = await handler.next_answer()
        await answer.add(AnswerText("A "))
        await slack.wait_for(lambda: slack.thread(CHANNEL, question["ts"]))
        await answer.add(AnswerText("red "))
        await slack.wait_for(lambda: len(t := slack.thread(CHANNEL, question["ts"])) == 2 and set(buttons(t[1])) == {"stop"})
        await answer.add(AnswerText("circle."))
        await handler.end(answer)
        await handler.wait_delivered(answer.turn_id)
        assert [message["markdown_text"] for message in slack.thread(CHANNEL, question["ts"])] == ["A red circle."]


async def test_the_status_is_shown_while_nothing_is_written() -> None:
    async with slack_world() as (slack, handler):
        question = await ask(slack)
        answer = await handler.next_answer()
        await slack.wait_for(lambda: slack.called("assistant.threads.setStatus"))
        (status,) = slack.called("assistant.threads.setStatus")
        assert (status["channel_id"], status["thread_ts"]) == (CHANNEL, question["ts"])
        await handler.end(answer)
        await handler.wait_delivered(answer.turn_id)


async def test_an_answer_is_written_anew_and_rated() -> None:
    async with slack_world() as (slack, handler):
        question, shown, turn_id = await answered(slack, handler)
        assert set(buttons(shown)) == {"helpful", "not_helpful", "regenerate"}
        await press(slack, shown, "not_helpful", user="U5")
        await slack.wait_for(lambda: slack.ephemeral)
        assert handler.ratings == {(turn_id, "U5"): False}
        await press(slack, shown, "regenerate")
        answer = await handler.next_answer()
        handler.delivered.clear()
        await answer.add(AnswerText("A square."))
        await handler.end(answer)
        await handler.wait_delivered(turn_id)
        (again,) = slack.thread(CHANNEL, question["ts"])
        assert [block["text"] for block in again["blocks"] if block["type"] == "markdown"] == ["A square."]


async def test_somebody_who_runs_the_workspace_may_press_others_buttons() -> None:
    async with slack_world() as (slack, handler):
        slack.admins.add("U9")
        _, shown, _ = await answered(slack, handler)
        await press(slack, shown, "regenerate", user="U9")
        await handler.answer_next("Again.")
        await press(slack, shown, "regenerate", user="U8")
        (told,) = await slack.wait_for(lambda: slack.ephemeral)
        assert (told["user"], told["thread_ts"]) == ("U8", shown["thread_ts"])


async def test_native_stop_stops_the_answer() -> None:
    async with slack_world() as (slack, handler):
        question = await ask(slack)
        answer = await handler.next_answer()
        stop = {"type": "agent_session_stopped", "channel": CHANNEL, "thread_ts": question["ts"], "user": "U1"}
        await slack.tell(stop)
        await asyncio.wait_for(answer.is_stop_wanted.wait(), 5)
        await slack.wait_for(lambda: slack.called("agents.sessions.setStatus"))
        assert slack.called("agents.sessions.setStatus")[0]["status"] == "active"
        await handler.end(answer)


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("!help", "mention me in the same message"),
        ("!quota", "You have asked 1 question"),
        ("!reset", "I have forgotten this chat"),
        ("!Forget ", "I have deleted your question"),
    ],
)
async def test_words_in_a_thread_are_for_one_person_and_no_question(word: str, says: str) -> None:
    async with slack_world() as (slack, handler):
        question, _, _ = await answered(slack, handler)
        said = slack.people_say(CHANNEL, word, thread_ts=question["ts"])
        await slack.tell_message(CHANNEL, said)
        await slack.tell_message(CHANNEL, said)  # told twice, done once
        (told,) = await slack.wait_for(lambda: slack.ephemeral)
        assert says in told["text"]
        assert (told["user"], told["thread_ts"]) == ("U1", question["ts"])
        assert len(handler.messages) == 1


async def test_words_elsewhere_are_nobodys_business() -> None:
    async with slack_world() as (slack, handler):
        await slack.tell_message(CHANNEL, slack.people_say(CHANNEL, "!forget"))
        await answered(slack, handler)
        assert slack.ephemeral == []


async def test_words_in_a_direct_message_are_answered_there() -> None:
    async with slack_world() as (slack, _):
        await slack.tell_message(DIRECT, slack.people_say(DIRECT, "!help"))
        (told,) = await slack.wait_for(lambda: [m for m in slack.messages[DIRECT] if m["user"] == BOT])
        assert "mention me" in told["text"]


async def command(slack: SlackLoopback, text: str, channel: str = CHANNEL) -> None:
    await slack.send(
        "slash_commands",
        {
            "command": "/threadsight",
            "text": text,
            "team_id": "T1",
            "channel_id": channel,
            "user_id": "U1",
            "user_name": "ann",
            "trigger_id": "t",
            "response_url": slack.api_url.replace("/api/", "/response"),
        },
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [("", HELP[:30]), ("help", HELP[:30]), ("quota", "You have asked 0 questions"), ("forget", "I have nothing stored about you.")],
)
async def test_the_command_answers_one_person(text: str, says: str) -> None:
    async with slack_world() as (slack, _):
        await command(slack, text)
        (response,) = await slack.wait_for(lambda: slack.responses)
        assert says in response["text"]
        assert response["response_type"] == "ephemeral"


async def test_a_question_by_command_gets_a_thread_of_its_own() -> None:
    async with slack_world() as (slack, handler):
        await command(slack, "ask")
        (view,) = await slack.wait_for(lambda: slack.views)
        assert [block["element"]["type"] for block in view["blocks"]] == ["file_input", "plain_text_input"]
        file = slack.upload("a.png", draw_picture())
        values = {"pictures": {"pictures": {"files": [file]}}, "question": {"question": {"value": "What <!here> is it?"}}}
        await slack.interact("view_submission", view={**view, "id": "V7", "state": {"values": values}})
        answer = await handler.answer_next("A circle.")
        await handler.wait_delivered(answer.turn_id)
        root, shown = slack.messages[CHANNEL]
        assert root["text"] == "<@U1> asks: What &lt;!here&gt; is it?"
        assert shown["thread_ts"] == root["ts"]
        assert (handler.messages[0].text, handler.messages[0].key.thread) == ("What <!here> is it?", root["ts"])
        assert await handler.messages[0].attachments[0].fetch(10**6) == draw_picture()


async def test_the_command_says_where_it_cannot_write() -> None:
    async with slack_world() as (slack, _):
        await command(slack, "ask", channel="CNOT")
        (response,) = await slack.wait_for(lambda: slack.responses)
        assert "I am not a member of this channel" in response["text"]


async def test_the_shortcut_asks_about_a_message_in_its_thread() -> None:
    async with slack_world() as (slack, handler):
        file = slack.upload("cat.png", draw_picture())
        message = slack.people_say(CHANNEL, "my cat", files=[file], subtype="file_share")
        shortcut = {"callback_id": "threadsight_ask_about_image", "channel": {"id": CHANNEL}, "message": message}
        await slack.interact("message_action", **shortcut)
        (view,) = await slack.wait_for(lambda: slack.views)
        assert json.loads(view["private_metadata"])["files"] == [file["id"]]
        values = {"question": {"question": {"value": "Who is it?"}}}
        await slack.interact("view_submission", view={**view, "id": "V7", "state": {"values": values}})
        answer = await handler.answer_next("A cat.")
        await handler.wait_delivered(answer.turn_id)
        (asked,) = handler.messages
        assert (asked.text, asked.key.thread, asked.attachments[0].name) == ("Who is it?", message["ts"], "cat.png")
        assert len(slack.thread(CHANNEL, message["ts"])) == 1


async def test_the_shortcut_says_when_there_is_no_picture() -> None:
    async with slack_world() as (slack, _):
        message = slack.people_say(CHANNEL, "no cat")
        shortcut = {"callback_id": "threadsight_ask_about_image", "channel": {"id": CHANNEL}, "message": message}
        await slack.interact("message_action", **shortcut)
        (view,) = await slack.wait_for(lambda: slack.views)
        assert "I see no picture" in str(view["blocks"])
        assert "submit" not in view


async def test_the_home_tells_how_to_and_the_quota() -> None:
    async with slack_world() as (slack, _):
        await slack.tell({"type": "app_home_opened", "user": "U1", "channel": DIRECT, "tab": "messages"})
        await slack.tell({"type": "app_home_opened", "user": "U1", "channel": DIRECT, "tab": "home"})
        (home,) = await slack.wait_for(lambda: slack.views)
        assert "mention me" in str(home)
        assert "You have asked 0 questions" in str(home)


async def test_who_is_not_allowed_is_told_so_where_they_press() -> None:
    async with slack_world(access=Access(deny=parse_entries("user:U1"))) as (slack, handler):
        await ask(slack)
        await command(slack, "quota")
        (response,) = await slack.wait_for(lambda: slack.responses)
        assert response["text"] == "I am not set up to answer here."
        assert handler.messages == []
