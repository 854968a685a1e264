"""Chats on Discord through the unmodified discord.py: where they begin, how they go on, and what ends them."""

from __future__ import annotations

import asyncio

import pytest

from adapters.access import Access, parse_entries
from adapters.base import AnswerText, ThreadKey
from adapters.discord.surface import HINT
from tests.adapters.discord_world import ME, world
from tests.chat_handler import TIMEOUT_SECONDS
from tests.loopbacks.discord.payloads import ANN, BOT, GUILD, Payload, user_payload


async def test_a_mention_with_a_picture_opens_a_thread_that_goes_on_without_mentions() -> None:
    async with world() as w:
        asked = await w.ask(f"{ME} What is *this*?")
        await w.answered("A red circle.")
        thread = int(asked["id"])
        assert w.discord.channels[thread]["name"] == "What is this ?"
        assert w.texts(thread) == ["A red circle."]
        assert w.texts(w.channel) == []
        await w.discord.post(thread, "And its colour?")
        await w.answered("Red.")
        assert w.texts(thread) == ["A red circle.", "Red."]
        key = ThreadKey("discord", str(GUILD), str(w.channel), str(thread))
        assert [(message.key, message.text) for message in w.handler.messages] == [
            (key, "What is *this*?"),
            (key, "And its colour?"),
        ]
        assert len(w.handler.messages[0].attachments) == 1


async def test_what_the_bot_writes_rings_nobody_and_shows_no_previews() -> None:
    async with world() as w:
        asked = await w.ask()
        await w.answered("@everyone <@444> https://example.org")
        [body] = w.discord.called("POST", f"/channels/{asked['id']}/messages")
        assert body["allowed_mentions"] == {"parse": [], "replied_user": True}
        assert body["flags"] & 4
        assert body["enforce_nonce"] is True


async def test_text_is_streamed_and_ends_with_buttons() -> None:
    async with world() as w:
        asked = await w.ask()
        answer = await w.handler.next_answer()
        await answer.add(AnswerText("A red"))
        thread = int(asked["id"])
        [shown] = await w.discord.wait_for(lambda: w.discord.bots(thread))
        assert (shown["content"], _labels(shown)) == ("A red", ["Stop"])
        assert set(w.discord.typed_in) == {thread}
        await answer.add(AnswerText(" circle."))
        await w.handler.end(answer)
        await w.handler.wait_delivered(answer.turn_id)
        assert (shown["content"], _labels(shown)) == ("A red circle.", ["Regenerate", "👍", "👎"])


# --- in place


async def test_a_direct_message_is_answered_in_place_and_goes_on() -> None:
    async with world() as w:
        direct = w.discord.add_direct()
        asked = await w.ask("What is this?", direct)
        await w.answered("A red circle.")
        [shown] = w.discord.bots(direct)
        assert shown["message_reference"]["message_id"] == asked["id"]
        await w.discord.post(direct, "And its colour?")
        await w.answered("Red.")
        keys = [message.key for message in w.handler.messages]
        assert keys == [ThreadKey("discord", "dm", str(direct), asked["id"])] * 2


@pytest.mark.parametrize("is_forum", [True, False])
async def test_in_somebody_elses_thread_it_answers_in_place_and_follows_the_reply_chain(is_forum: bool) -> None:
    async with world() as w:
        parent = w.discord.add_channel("forum", 15) if is_forum else w.channel
        if is_forum:
            await w.discord.dispatch("CHANNEL_CREATE", w.discord.channels[parent])
        thread = w.discord.add_thread(parent, ANN)
        await w.discord.dispatch("THREAD_CREATE", w.discord.channels[thread])
        asked = await w.ask(channel=thread)
        await w.answered("A red circle.")
        [shown] = w.discord.bots(thread)
        assert shown["message_reference"]["message_id"] == asked["id"]
        await w.discord.post(thread, "I think so too.")  # said to others
        await w.discord.post(thread, "Its colour?", message_reference=_reference(shown), referenced_message=shown, type=19)
        await w.answered("Red.")
        assert [message.text for message in w.handler.messages] == ["What is this?", "Its colour?"]
        assert {message.key.thread for message in w.handler.messages} == {asked["id"]}


async def test_without_the_right_to_open_threads_it_answers_in_the_channel() -> None:
    async with world(permissions=(1 << 10) | (1 << 11) | (1 << 16)) as w:
        await w.ask()
        await w.answered()
        assert w.texts(w.channel) == ["A red circle."]
        assert not w.discord.called("POST", ".*/threads")


async def test_where_it_may_not_write_the_person_is_told_directly() -> None:
    async with world(permissions=(1 << 10) | (1 << 16)) as w:
        await w.ask()
        [direct] = await w.discord.wait_for(lambda: [id_ for id_, each in w.discord.channels.items() if each["type"] == 1])
        await w.discord.wait_for(lambda: w.texts(direct))
        assert w.texts(direct) == [
            f"I saw your question in <#{w.channel}>, but I may not write there. Somebody who runs the server can allow it, "
            "or ask me here."
        ]
        assert w.handler.messages == []


@pytest.mark.parametrize("fault", [503, "reset", "done, then reset"])
async def test_when_it_is_unknown_whether_a_thread_was_opened_there_is_one_in_the_end(
    fault: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.backoff.FIRST_SECONDS", 0.01)
    async with world() as w:
        w.discord.fail("POST", ".*/threads", fault)
        asked = await w.ask()
        await w.answered()
        assert w.texts(int(asked["id"])) == ["A red circle."]
        assert w.texts(w.channel) == []


async def test_when_discord_wants_no_more_threads_for_now_it_answers_in_the_channel() -> None:
    async with world() as w:
        w.discord.fail("POST", ".*/threads", ("429", 60.0, False))
        await w.ask()
        await w.answered()
        assert w.texts(w.channel) == ["A red circle."]


async def test_a_thread_that_the_message_has_already_is_used() -> None:
    async with world() as w:
        asked = w.discord.people_say(w.channel, f"{ME} What?", attachments=[w.image()])
        w.discord.add_thread(w.channel, BOT, id=asked["id"])
        await w.discord.dispatch("MESSAGE_CREATE", asked)
        await w.answered()
        assert w.texts(int(asked["id"])) == ["A red circle."]


# --- what is not for it


async def test_a_message_that_is_delivered_twice_is_answered_once() -> None:
    async with world() as w:
        asked = await w.ask()
        await w.discord.dispatch("MESSAGE_CREATE", asked)
        await w.answered()
        await w.ask(f"{ME} Another?")
        await w.answered()
        assert [message.text for message in w.handler.messages] == ["What is this?", "Another?"]


@pytest.mark.parametrize(
    "more",
    [
        {"author": user_payload(5, "robot", bot=True)},
        {"webhook_id": "77"},
        {"type": 6},  # Discord says that somebody pinned a message
        {"type": 21},  # a thread shows the message on which it stands
        {"flags": 1 << 13},  # a voice message
    ],
)
async def test_bots_webhooks_discord_itself_and_voice_are_ignored(more: Payload) -> None:
    async with world() as w:
        await w.ask(**more)
        await w.ask(f"{ME} A person asks.")
        await w.answered()
        assert [message.text for message in w.handler.messages] == ["A person asks."]


async def test_access_lists_decide_who_is_answered() -> None:
    async with world(access=Access(deny=parse_entries(f"user:{ANN}"))) as w:
        await w.ask()
        await w.ask(f"{ME} May I?", author=user_payload(5, "bob"))
        await w.answered()
        assert [message.author.name for message in w.handler.messages] == ["bob"]


# --- afterwards


async def test_an_edited_question_is_answered_anew_in_the_same_message() -> None:
    async with world() as w:
        asked = await w.ask()
        await w.answered("A red circle.")
        await w.discord.edit(asked, is_real=False, embeds=[])
        await w.discord.edit(asked, content=f"{ME} What colour is this?")
        await w.handler.answer_next("Red.")
        await w.discord.wait_for(lambda: w.texts(int(asked["id"])) == ["Red."])
        assert [message.text for message in w.handler.messages] == ["What is this?", "What colour is this?"]


async def test_a_deleted_question_is_cancelled_and_its_answer_taken_away() -> None:
    async with world() as w:
        asked = await w.ask()
        answer = await w.handler.next_answer()
        await answer.add(AnswerText("A red"))
        thread = int(asked["id"])
        await w.discord.wait_for(lambda: w.discord.bots(thread))
        await w.discord.delete(asked)
        await w.discord.wait_for(lambda: not w.discord.bots(thread))
        assert await w.handler.find_message("discord", str(GUILD), asked["id"]) is None


async def test_a_deleted_thread_and_a_deleted_channel_are_forgotten() -> None:
    async with world() as w:
        asked = await w.ask()
        await w.answered()
        gone = {"id": asked["id"], "guild_id": str(GUILD), "parent_id": str(w.channel), "type": 11}
        await w.discord.dispatch("THREAD_DELETE", gone)
        await w.discord.dispatch("CHANNEL_DELETE", w.discord.channels[w.channel])
        async with asyncio.timeout(TIMEOUT_SECONDS):
            rooms = {await w.handler.rooms_gone.get(), await w.handler.rooms_gone.get()}
        assert rooms == {asked["id"], str(w.channel)}
        assert not await w.handler.has_chat(ThreadKey("discord", str(GUILD), str(w.channel), asked["id"]))


async def test_long_answers_go_on_in_a_next_message() -> None:
    async with world() as w:
        asked = await w.ask()
        words = " ".join(f"word{number}" for number in range(500))
        await w.answered(words)
        texts = w.texts(int(asked["id"]))
        assert len(texts) > 1
        assert " ".join(" ".join(texts).split()) == words
        assert [bool(_labels(message)) for message in w.discord.bots(int(asked["id"]))] == [False] * (len(texts) - 1) + [True]


# --- without the message-content intent


async def test_without_the_intent_it_goes_on_by_mentions_and_says_so() -> None:
    async with world(flags=0) as w:
        assert w.discord.identities[0]["intents"] & (1 << 15) == 0
        asked = await w.ask()
        await w.answered("A red circle.")
        thread = int(asked["id"])
        assert w.texts(thread) == [f"A red circle.\n-# {HINT}"]
        await w.discord.post(thread, "")  # so an ordinary message looks without the intent
        await w.discord.post(thread, f"{ME} Its colour?")
        await w.answered("Red.")
        assert [message.text for message in w.handler.messages] == ["What is this?", "Its colour?"]
        assert w.texts(thread)[1] == "Red."


def _reference(message: Payload) -> Payload:
    return {"type": 0, "message_id": message["id"], "channel_id": message["channel_id"], "guild_id": str(GUILD)}


def _labels(message: Payload) -> list[str]:
    rows = message["components"]
    return [button.get("label") or button["emoji"]["name"] for row in rows for button in row["components"]]
