"""Commands, message menus and buttons on Discord, through the unmodified discord.py."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from adapters.access import Access, parse_entries
from adapters.base import AnswerText, ThreadKey
from adapters.commands import COMMANDS, CommandName
from adapters.conversations.dispatcher import NOT_ALLOWED, ONLY_ASKER
from adapters.discord.actions import (
    ALT_TEXT_QUESTION,
    MODAL_LOST,
    NO_IMAGE_HERE,
    NOTHING_TO_RESET,
    SOMETHING_WRONG,
)
from adapters.discord.destination import Destination, parse_destination
from adapters.discord.surface import CUT, MAX_ALT_TEXT_CHARS, MAX_FOLLOW_UPS, DiscordSurface
from adapters.surface import DestinationGone, Page
from tests.adapters.discord_world import World, world
from tests.chat_handler import TIMEOUT_SECONDS, draw_image
from tests.loopbacks.discord.payloads import ANN, GUILD, Payload, user_payload

SUPPRESS_EMBEDS, EPHEMERAL = 1 << 2, 1 << 6
BOB = user_payload(5, "bob")


async def _ask(w: World, question: str = "What is this?", **more: Any) -> int:
    """/ask with a picture."""
    file = w.image()
    options = [{"name": "image", "type": 11, "value": file["id"]}, {"name": "question", "type": 3, "value": question}]
    data = {"options": options, "resolved": {"attachments": {file["id"]: file}}}
    return await w.discord.command("ask", w.channel, data=data, **more)


async def _menu(w: World, name: str, target: Payload) -> int:
    data = {"target_id": target["id"], "resolved": {"messages": {target["id"]: target}}}
    return await w.discord.command(name, w.channel, kind=3, data=data)


async def _button(w: World, message: Payload, word: str, **more: Any) -> int:
    ids = [button["custom_id"] for row in message["components"] for button in row["components"]]
    return await w.discord.click(message, next(id_ for id_ in ids if id_.startswith(f"threadsight:{word}")), **more)


async def _open_modal(w: World, target: Payload) -> Payload:
    return w.discord.callbacks[await _menu(w, "Ask about this image", target)]


async def _send_modal(w: World, modal: Payload, text: str, *, channel: int | None = None) -> int:
    label = modal["data"]["components"][0]
    components = [{**label, "component": {**label["component"], "value": text}}]
    data = {"custom_id": modal["data"]["custom_id"], "components": components}
    return await w.discord.interact(5, data, channel or w.channel)


# --- questions


async def test_ask_is_answered_where_it_was_asked_and_goes_on_by_replies() -> None:
    async with world() as w:
        interaction = await _ask(w)
        assert w.discord.callbacks[interaction]["type"] == 5  # "… is thinking"
        await w.answered("A red circle.")
        [shown] = w.discord.bots(w.channel)
        assert shown["content"] == "A red circle."
        reference = {"type": 0, "message_id": shown["id"], "channel_id": str(w.channel), "guild_id": str(GUILD)}
        await w.discord.post(w.channel, "Its colour?", message_reference=reference, referenced_message=shown, type=19)
        await w.answered("Red.")
        key = ThreadKey("discord", str(GUILD), str(w.channel), str(interaction))
        assert [(message.key, message.text) for message in w.handler.messages] == [(key, "What is this?"), (key, "Its colour?")]
        assert await w.handler.messages[0].attachments[0].fetch(10**7) == draw_image()


async def test_an_answer_to_a_command_mentions_nobody_and_its_links_do_not_unfurl() -> None:
    async with world() as w:
        await _ask(w)
        await w.answered("See https://example.com, @everyone. " * 100)
        edits, more = w.discord.called("PATCH", r"/webhooks/.*"), w.discord.called("POST", r"/webhooks/.*")
        assert {body["flags"] for body in [*edits, *more]} == {SUPPRESS_EMBEDS}
        assert [body["allowed_mentions"]["parse"] for body in [*edits, *more]] == [[]] * (len(edits) + len(more))


async def test_ask_about_this_image_asks_for_the_question_first() -> None:
    async with world() as w:
        target = w.discord.people_say(w.channel, "Look!", BOB, attachments=[w.image("bobs.png")])
        modal = await _open_modal(w, target)
        assert (modal["type"], modal["data"]["title"]) == (9, "Ask about this image")
        await _send_modal(w, modal, "Whose is it?")
        await w.answered("Bob's.")
        assert w.texts(w.channel) == ["Bob's."]
        [message] = w.handler.messages
        assert (message.text, [attachment.name for attachment in message.attachments]) == ("Whose is it?", ["bobs.png"])


async def test_a_window_that_is_open_over_a_restart_is_understood() -> None:
    async with world() as w:
        target = w.discord.people_say(w.channel, "Look!", BOB, attachments=[w.image("bobs.png")])
        other = w.discord.people_say(w.channel, "Look!", BOB, attachments=[w.image("other.png")])
        modal, lost = await _open_modal(w, target), await _open_modal(w, other)
        await w.restart()
        await _send_modal(w, modal, "Whose is it?")
        await w.answered("Bob's.")
        assert w.texts(w.channel)[-1] == "Bob's."
        [message] = w.handler.messages
        assert (message.text, [attachment.name for attachment in message.attachments]) == ("Whose is it?", ["bobs.png"])
        await w.discord.delete(other)
        await _send_modal(w, lost, "And this?")
        await w.discord.wait_for(lambda: w.texts(w.channel)[-1] == MODAL_LOST)


async def test_a_window_does_not_read_messages_of_other_channels() -> None:
    async with world() as w:
        target = w.discord.people_say(w.channel, "Look!", BOB, attachments=[w.image("bobs.png")])
        modal = await _open_modal(w, target)
        await w.restart()
        elsewhere = w.discord.add_channel("elsewhere")
        await _send_modal(w, modal, "Whose is it?", channel=elsewhere)
        await w.discord.wait_for(lambda: MODAL_LOST in w.texts(elsewhere))
        assert w.handler.messages == []


async def test_describe_image_gives_short_alt_text_to_the_person_alone() -> None:
    async with world() as w:
        target = w.discord.people_say(w.channel, "Look!", BOB, attachments=[w.image("bobs.png")])
        interaction = await _menu(w, "Describe image", target)
        assert w.discord.callbacks[interaction]["data"]["flags"] == EPHEMERAL
        await w.answered("A red circle is on the left. " * 60)
        shown = await w.discord.reply_to(interaction)
        assert 900 < len(shown["content"]) <= MAX_ALT_TEXT_CHARS
        assert shown["content"].endswith("left.")
        assert not shown["components"]
        assert [message.text for message in w.handler.messages] == [ALT_TEXT_QUESTION]


@pytest.mark.parametrize("name", ["Ask about this image", "Describe image"])
async def test_a_message_without_a_picture_is_told_at_once(name: str) -> None:
    async with world() as w:
        target = w.discord.people_say(w.channel, "No picture", BOB)
        shown = w.discord.callbacks[await _menu(w, name, target)]
        assert (shown["data"]["content"], shown["data"]["flags"]) == (NO_IMAGE_HERE, EPHEMERAL)
        assert w.handler.messages == []


async def test_a_command_is_answered_after_a_restart_too() -> None:
    async with world() as w:
        await _ask(w)
        answer = await w.handler.next_answer()
        async with asyncio.timeout(TIMEOUT_SECONDS), w.handler.changed:
            await w.handler.changed.wait_for(lambda: w.handler.platform_turns[answer.turn_id or 0].reply_ids)
        await w.restart()
        await answer.add(AnswerText("A red circle."))
        await w.handler.end(answer)
        await w.handler.wait_delivered(answer.turn_id)
        assert w.texts(w.channel) == ["A red circle."]


# --- when an interaction's token is dead


async def test_after_its_token_an_answer_goes_on_in_the_channel_where_the_bot_is_a_member() -> None:
    async with world() as w:
        destination = Destination(str(GUILD), str(w.channel), application="111", token="dead", token_until=100.0)
        surface = DiscordSurface(w.adapter._connected, destination, clock=lambda: 101.0)
        moved_to = await surface.edit("@original:1", Page("A red circle."))
        assert [message["id"] for message in w.discord.bots(w.channel)] == [moved_to]
        stranger = Destination("9", "8", application="111", token="dead", token_until=100.0, is_member=False)
        with pytest.raises(DestinationGone):
            await DiscordSurface(w.adapter._connected, stranger, clock=lambda: 101.0).post(Page("A red circle."))


async def test_where_nothing_leads_any_more_regenerate_says_so() -> None:
    async with world() as w:
        await _ask(w, authorizing_integration_owners={"1": str(ANN)})  # the person installed the app, the server did not
        answer = await w.answered("A red circle.")
        assert answer.turn_id is not None
        turn = w.handler.platform_turns[answer.turn_id]
        late = replace(parse_destination(turn.destination), token_until=1.0)
        w.handler.platform_turns[answer.turn_id] = replace(turn, destination=str(late))
        [shown] = w.discord.bots(w.channel)
        pressed = await _button(w, shown, "regenerate")
        assert (await w.discord.reply_to(pressed))["content"] == "I cannot write there any more."


async def test_where_only_the_person_installed_the_app_a_long_answer_says_that_it_is_cut() -> None:
    """There Discord takes five messages after the first."""
    async with world() as w:
        interaction = await _ask(w, authorizing_integration_owners={"1": str(ANN)})
        words = [f"{number}." for number in range(6_000)]
        answer = await w.answered(" ".join(words))
        shown = w.discord.bots(w.channel)
        assert len(shown) == 1 + MAX_FOLLOW_UPS
        assert len(w.discord.followups[interaction]) == 1 + MAX_FOLLOW_UPS
        *_, last = [message["content"] for message in shown]
        assert last.endswith(f"\n-# {CUT}")
        text = " ".join(message["content"].removesuffix(f"\n-# {CUT}") for message in shown)
        assert text.split() == words[: len(text.split())]
        assert len(text) > 10_000
        await w.discord.wait_for(lambda: f"regenerate:{answer.turn_id}" in str(shown[-1]["components"]))
        await _button(w, shown[-1], "regenerate")
        await w.answered("Short.")
        assert w.texts(w.channel) == ["Short."]


async def test_where_the_bot_is_a_member_a_long_answer_is_not_cut() -> None:
    async with world() as w:
        await _ask(w)
        words = [f"{number}." for number in range(6_000)]
        await w.answered(" ".join(words))
        assert " ".join(w.texts(w.channel)).split() == words


# --- buttons


async def test_stop_is_for_the_asker_and_moderators() -> None:
    async with world() as w:
        asked = await w.ask()
        answer = await w.handler.next_answer()
        await answer.add(AnswerText("A red"))
        [shown] = await w.discord.wait_for(lambda: w.discord.bots(int(asked["id"])))
        refused = await _button(w, shown, "stop", user=BOB)
        assert (await w.discord.reply_to(refused))["content"] == ONLY_ASKER
        assert not answer.is_stop_wanted.is_set()
        await _button(w, shown, "stop", user=BOB, rights=1 << 13)
        await answer.is_stop_wanted.wait()


async def test_buttons_work_after_a_restart() -> None:
    async with world() as w:
        asked = await w.ask()
        answer = await w.answered("A red circle.")
        [shown] = w.discord.bots(int(asked["id"]))
        await w.restart()
        rated = await _button(w, shown, "helpful", user=BOB)
        assert (await w.discord.reply_to(rated))["content"] == "Thank you, I wrote that down."
        assert w.handler.ratings == {(answer.turn_id, "5"): True}
        await _button(w, shown, "regenerate")
        await w.handler.answer_next("It is a circle.")
        await w.discord.wait_for(lambda: shown["content"] == "It is a circle.")


async def test_regenerate_wakes_an_archived_thread() -> None:
    async with world() as w:
        asked = await w.ask()
        await w.answered()
        thread = w.discord.channels[int(asked["id"])]
        thread["thread_metadata"]["archived"] = True
        await w.discord.dispatch("THREAD_UPDATE", thread)
        [shown] = w.discord.bots(int(asked["id"]))
        await _button(w, shown, "regenerate")
        await w.handler.answer_next("Again.")
        await w.discord.wait_for(lambda: shown["content"] == "Again.")
        assert thread["thread_metadata"]["archived"] is False


# --- the rest


async def _told(w: World, name: str, channel: int | None = None) -> str:
    shown = w.discord.callbacks[await w.discord.command(name, channel or w.channel)]
    assert shown["data"]["flags"] & EPHEMERAL
    return str(shown["data"]["content"])


async def test_reset_forgets_the_chat_of_the_thread_alone() -> None:
    async with world() as w:
        asked = await w.ask()
        await w.answered()
        assert await _told(w, "reset") == NOTHING_TO_RESET
        assert (await _told(w, "reset", int(asked["id"]))).startswith("I have forgotten this chat.")
        chat = await w.handler.read_chat(w.handler.messages[0].key)
        assert chat is not None
        assert chat.turns == ()


async def test_quota_and_help() -> None:
    async with world() as w:
        await w.ask()
        await w.answered()
        assert await _told(w, "quota") == "You have asked 1 question in the last 24 hours. There is no limit here."
        shown = await _told(w, "help")
        assert "every message there goes on" in shown
        assert [line for line in shown.splitlines() if line.startswith("•")] == [
            f"• `/{command.name}`: {command.description}" for command in COMMANDS
        ]
        assert len(shown) <= 2_000


async def test_forget_asks_before_it_deletes() -> None:
    async with world() as w:
        await w.ask()
        await w.answered()
        interaction = await w.discord.command("forget", w.channel)
        asking = await w.discord.reply_to(interaction)
        confirmation = next(command.confirmation for command in COMMANDS if command.name is CommandName.FORGET)
        assert confirmation is not None
        assert asking["content"] == confirmation.question
        [[button]] = [row["components"] for row in asking["components"]]
        assert (button["label"], button["style"], button["custom_id"]) == (confirmation.button, 4, "threadsight:forget")
        assert asking["flags"] & EPHEMERAL
        assert w.handler.platform_turns
        await w.restart()
        await _button(w, asking, "forget")
        await w.discord.wait_for(lambda: asking["content"].startswith("Done: I have deleted your question"))
        assert not w.handler.platform_turns
        assert not asking["components"]


async def test_access_lists_hold_for_commands_too() -> None:
    async with world(access=Access(deny=parse_entries(f"user:{ANN}"))) as w:
        assert await _told(w, "help") == NOT_ALLOWED
        shown = w.discord.callbacks[await _ask(w)]
        assert shown["data"]["content"] == NOT_ALLOWED
        assert w.handler.messages == []


async def test_commands_are_told_to_discord_only_when_they_changed() -> None:
    async with world() as w:
        await w.restart()
        [commands] = w.discord.commands
        told = [(command["name"], command.get("description", "")) for command in commands]
        menus = [("Ask about this image", ""), ("Describe image", "")]
        assert told == [*((command.name.value, command.description) for command in COMMANDS), *menus]
        assert all(command["integration_types"] == [0, 1] and command["contexts"] == [0, 1, 2] for command in commands)
        w.handler.notes["discord", "commands"] = "of an earlier version"
        await w.restart()
        assert len(w.discord.commands) == 2


def test_a_reply_place_keeps_its_token() -> None:
    destination = Destination(str(GUILD), "1", application="111", token="secret", token_until=5.0, is_alt_text=True)
    assert parse_destination(str(destination)) == destination


async def test_a_button_that_fails_says_so(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    async def broken(turn_id: int) -> None:
        raise RuntimeError("the database is away")

    async with world() as w:
        asked = await w.ask()
        await w.answered()
        [shown] = w.discord.bots(int(asked["id"]))
        monkeypatch.setattr(w.handler, "find_turn", broken)
        pressed = await _button(w, shown, "helpful")
        assert (await w.discord.reply_to(pressed))["content"] == SOMETHING_WRONG
        assert "could not be dealt with" in caplog.text
