"""The whole program, run as its users run it, on a Discord server: over restarts, kills and absences, with commands and buttons."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.discord_program import (
    COLOUR,
    ME,
    MIDDLE,
    NUMBER,
    ONE,
    PLACE,
    RED,
    TIMEOUT_SECONDS,
    answered,
    ask,
    end,
    ended,
    program,
    seen,
    thread_of,
)
from tests.images import red_circle
from tests.loopbacks.discord.payloads import GUILD, Payload, user_payload
from tests.loopbacks.discord.server import DiscordLoopback

pytestmark = pytest.mark.whole_program


@pytest.fixture
async def discord() -> AsyncIterator[DiscordLoopback]:
    async with DiscordLoopback().serving() as loopback:
        yield loopback


async def test_a_chat_about_a_picture_goes_on_after_a_restart(tmp_path: Path, discord: DiscordLoopback) -> None:
    general = discord.add_channel()
    async with program(tmp_path, discord) as running:
        asked = await ask(discord, general)
        thread = thread_of(asked)
        await answered(discord, thread, RED)
        assert discord.channels[thread]["name"] == COLOUR
        await discord.post(thread, PLACE)
        await answered(discord, thread, RED, MIDDLE)
        await end(running)
    discord.files.clear()  # the picture comes from the bot's own memory
    async with program(tmp_path, discord) as running:
        await discord.post(thread, NUMBER)
        await answered(discord, thread, RED, MIDDLE, ONE)
        await end(running)
    assert seen(discord, general) == []


async def test_commands_and_buttons_work_after_a_restart(tmp_path: Path, discord: DiscordLoopback) -> None:
    general = discord.add_channel()
    async with program(tmp_path, discord) as running:
        asked = await ask(discord, general)
        thread = thread_of(asked)
        await answered(discord, thread, RED)
        await command_ask(discord, general, COLOUR)
        await answered(discord, general, RED)
        await end(running)
    async with program(tmp_path, discord) as running:
        assert len(discord.commands) == 1  # Discord knows them
        [shown] = discord.bots(thread)
        await press(discord, shown, "regenerate")
        await discord.wait_for(lambda: discord.history[int(shown["id"])].count(RED) > 1, TIMEOUT_SECONDS)
        await answered(discord, thread, RED)
        thanks = await discord.reply_to(await press(discord, shown, "helpful"))
        assert thanks["content"] == "Thank you, I wrote that down."
        [reply] = discord.bots(general)
        await discord.post(general, PLACE, message_reference=reference_to(reply), referenced_message=reply, type=19)
        await answered(discord, general, RED, MIDDLE)
        await command_ask(discord, general, NUMBER)
        await answered(discord, general, RED, MIDDLE, ONE)
        await end(running)


async def test_a_kill_in_the_middle_of_an_answer_costs_nothing_and_doubles_nothing(
    tmp_path: Path, discord: DiscordLoopback
) -> None:
    general = discord.add_channel()
    messages = r"/channels/\d+/messages"
    async with program(tmp_path, discord) as running:
        is_posted, may_be_posted = discord.hold("POST", messages)
        posting = thread_of(await ask(discord, general))
        await is_posted.wait()  # Discord has the first words, and the program does not know it yet
        is_edited, _ = discord.hold("PATCH", rf"{messages}/\d+")
        editing = thread_of(await ask(discord, general))
        await is_edited.wait()
        [begun] = discord.bots(editing)
        assert not ended(discord, editing)
        is_opened, may_be_opened = discord.hold("POST", rf"{messages}/\d+/threads")
        opening = thread_of(await ask(discord, general))
        await is_opened.wait()
        await end(running, signal.SIGKILL)
    may_be_posted.set()
    may_be_opened.set()
    await discord.wait_for(lambda: seen(discord, posting) and opening in discord.channels)
    async with program(tmp_path, discord) as running:
        for thread in (posting, editing, opening):
            await answered(discord, thread, RED)
        assert discord.bots(editing)[0]["id"] == begun["id"]
        await discord.post(opening, PLACE)
        await answered(discord, opening, RED, MIDDLE)
        await end(running)


async def test_what_was_asked_while_it_was_away_is_answered_once_and_without_a_flood(
    tmp_path: Path, discord: DiscordLoopback
) -> None:
    general, other = discord.add_channel(), discord.add_channel("other")
    async with program(tmp_path, discord) as running:
        thread = thread_of(await ask(discord, general))
        await answered(discord, thread, RED)
        await end(running, signal.SIGKILL)
    for _ in range(3):
        missed_too_many = discord.people_say(other, f"{ME} {COLOUR}", attachments=[discord.add_file("a.png", red_circle())])
    missed = discord.people_say(general, f"{ME} Where is the circle?", attachments=[discord.add_file("b.png", red_circle())])
    discord.people_say(thread, NUMBER)
    discord.people_say(general, "Nobody asked the bot this.")
    discord.people_say(general, f"{ME} Two bots shall not talk with each other.", user_payload(5, "other bot", bot=True))
    async with program(tmp_path, discord, THREADSIGHT_CATCH_UP_MESSAGES="3") as running:
        await answered(discord, thread_of(missed), MIDDLE)
        await answered(discord, thread, RED, ONE)
        await answered(discord, thread_of(missed_too_many), RED)
        await discord.dispatch("MESSAGE_CREATE", missed)  # the gateway has it too
        again = thread_of(await ask(discord, general))
        await answered(discord, again, RED)
        await end(running)
    answers = {channel: seen(discord, channel) for channel in discord.channels if seen(discord, channel)}
    assert answers == {thread: [RED, ONE], thread_of(missed): [MIDDLE], thread_of(missed_too_many): [RED], again: [RED]}


async def test_questions_that_change_vanish_or_have_no_usable_picture(tmp_path: Path, discord: DiscordLoopback) -> None:
    general = discord.add_channel()
    async with program(tmp_path, discord):
        asked = await ask(discord, general)
        thread = thread_of(asked)
        await answered(discord, thread, RED)
        follow_up = await discord.post(thread, PLACE)
        await answered(discord, thread, RED, MIDDLE)
        await discord.edit(follow_up, content=NUMBER)
        await answered(discord, thread, RED, ONE)
        await discord.delete(follow_up)
        await answered(discord, thread, RED)

        words = discord.add_file("notes.png", b"This is no picture at all.")
        await discord.post(thread, f"{ME} And this?", attachments=[words])
        await discord.wait_for(lambda: len(seen(discord, thread)) == 2, TIMEOUT_SECONDS)
        assert "notes.png" in seen(discord, thread)[1]
        both = thread_of(await ask(discord, general, attachments=[words, discord.add_file("circle.png", red_circle())]))
        await discord.wait_for(lambda: ended(discord, both), TIMEOUT_SECONDS)
        [shown] = seen(discord, both)
        assert shown.startswith(f"{RED}\n-# ")
        assert "notes.png" in shown
        assert "This is about circle.png." in shown


async def command_ask(discord: DiscordLoopback, channel: int, question: str) -> None:
    file = discord.add_file("circle.png", red_circle())
    options = [{"name": "image", "type": 11, "value": file["id"]}, {"name": "question", "type": 3, "value": question}]
    await discord.command("ask", channel, data={"options": options, "resolved": {"attachments": {file["id"]: file}}})


async def press(discord: DiscordLoopback, message: Payload, name: str) -> int:
    ids = [button["custom_id"] for row in message["components"] for button in row["components"]]
    return await discord.click(message, next(id_ for id_ in ids if id_.startswith(f"threadsight:{name}:")))


def reference_to(message: Payload) -> Payload:
    return {"type": 0, "message_id": message["id"], "channel_id": message["channel_id"], "guild_id": str(GUILD)}
