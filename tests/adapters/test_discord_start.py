"""Starting on Discord: tokens, intents, shards, what was missed; and what `threadsight doctor` says about it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from adapters.base import AdapterError, AnswerStatus, AnswerText, Finding
from adapters.conversations.absence import CatchUp
from adapters.discord.checks import NO_CONTENT, check
from adapters.discord.setup import WRONG_TOKEN, ApplicationUnknown, application_id, invite_link
from tests.adapters.discord_world import ME, running, skip_identify_wait, world
from tests.chat_handler import MemoryChatHandler
from tests.loopbacks.discord.payloads import APPLICATION, TOKEN
from tests.loopbacks.discord.server import DiscordLoopback

# --- signing in


async def test_it_says_where_it_is() -> None:
    async with world() as w:
        assert w.adapter.where == "Discord, as sight, in 1 server"
        assert w.adapter.remarks == ()


async def test_a_wrong_token_is_told_in_a_sentence() -> None:
    async with DiscordLoopback().serving() as discord:
        with pytest.raises(AdapterError, match="Discord does not take DISCORD_TOKEN"):
            async with running(discord, MemoryChatHandler(), token="wrong"):
                raise AssertionError("it started")


@pytest.mark.parametrize(("code", "sentence"), [(4004, "does not take DISCORD_TOKEN"), (4013, "Please install a newer version")])
async def test_what_the_gateway_does_not_take_is_told_in_a_sentence(code: int, sentence: str) -> None:
    async with DiscordLoopback(close_code=code).serving() as discord:
        with pytest.raises(AdapterError, match=sentence):
            async with running(discord, MemoryChatHandler()):
                raise AssertionError("it started")


async def test_an_intent_that_is_refused_after_all_is_done_without() -> None:
    async with world(close_code=4014) as w:
        assert [bool(identity["intents"] & (1 << 15)) for identity in w.discord.identities] == [True, False]
        assert w.adapter.remarks == (f"Discord: {NO_CONTENT}",)
        asked = await w.ask()
        await w.answered("A red circle.")
        assert w.texts(int(asked["id"]))[0].startswith("A red circle.\n-# To go on, mention me")


async def test_without_the_intent_and_without_a_server_it_says_so() -> None:
    async with world(flags=0, has_guild=False) as w:
        assert w.adapter.remarks == (
            f"Discord: {NO_CONTENT}",
            f"Discord: I am on no server yet. Invite me: {invite_link(str(APPLICATION))}",
        )


async def test_it_waits_until_discord_can_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    async with DiscordLoopback().serving() as discord:
        discord.fail("GET", "/users/@me", 503, ("429", 0.01, False))
        sleep = asyncio.sleep
        monkeypatch.setattr("adapters.discord.app.asyncio.sleep", lambda seconds: sleep(0))
        async with running(discord, MemoryChatHandler()) as adapter:
            assert adapter.started.is_set()


async def test_commands_that_discord_does_not_take_stop_nothing() -> None:
    async with DiscordLoopback().serving() as discord:
        discord.fail("PUT", r"/applications/\d+/commands", 503)
        async with running(discord, MemoryChatHandler()) as adapter:
            [remark] = adapter.remarks
            assert remark.startswith("Discord: Discord did not take my commands")


async def test_with_two_shards_it_still_answers_once(monkeypatch: pytest.MonkeyPatch) -> None:
    skip_identify_wait(monkeypatch)
    async with world(num_shards=2) as w:
        assert sorted(identity["shard"] for identity in w.discord.identities) == [[0, 2], [1, 2]]
        asked = await w.ask()
        await w.answered()
        assert w.texts(int(asked["id"])) == ["A red circle."]
        w.discord.can_resume = False
        await w.discord.drop(shard=0)
        w.discord.people_say(w.channel, f"{ME} Missed", attachments=[w.image()])
        await w.answered("Caught up.")
        assert len(w.discord.identities) == 3


# --- having been away


async def test_an_answer_that_was_being_written_goes_on_in_the_same_message() -> None:
    async with world() as w:
        asked = await w.ask()
        answer = await w.handler.next_answer()
        await answer.add(AnswerText("A red"))
        thread = int(asked["id"])
        await w.discord.wait_for(lambda: w.texts(thread))
        await w.restart()
        await answer.add(AnswerText(" circle."))
        await w.handler.end(answer)
        await w.handler.wait_delivered(answer.turn_id)
        assert w.texts(thread) == ["A red circle."]


async def test_what_was_missed_is_answered_once_after_the_return() -> None:
    async with world() as w:
        direct, asked = w.discord.add_direct(), await w.ask()
        await w.answered("A red circle.")
        await w.ask("What is this?", direct)
        await w.answered("A red circle.")
        await w.stop()
        w.discord.people_say(w.channel, f"{ME} A mention", attachments=[w.image()])
        w.discord.people_say(w.channel, "Nothing for the bot")
        w.discord.people_say(int(asked["id"]), "In its thread")
        w.discord.people_say(direct, "Directly")
        await w.start()
        for _ in range(3):
            await w.answered("Yes.")
        await w.restart()
        await w.ask(f"{ME} The last")
        await w.answered("Yes.")
        assert sorted(message.text for message in w.handler.messages[2:]) == ["A mention", "Directly", "In its thread", "The last"]


async def test_what_cannot_be_read_back_at_once_is_read_back_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.backoff.FIRST_SECONDS", 0.0)
    async with world() as w:
        await w.ask()
        await w.answered("A red circle.")
        await w.stop()
        w.discord.people_say(w.channel, f"{ME} A mention", attachments=[w.image()])
        w.discord.fail("GET", rf"/channels/{w.channel}/messages", 503)
        await w.start()
        await w.answered("Yes.")
        assert [message.text for message in w.handler.messages][1:] == ["A mention"]


async def test_what_was_missed_in_a_thread_that_was_archived_meanwhile_is_answered() -> None:
    async with world() as w:
        asked, other = await w.ask(), await w.ask()
        for _ in range(2):
            await w.answered("A red circle.")
        await w.stop()
        w.discord.people_say(int(asked["id"]), "In its thread")
        for thread in (asked, other):
            w.discord.channels[int(thread["id"])]["thread_metadata"]["archived"] = True
        await w.start()
        await w.answered("Yes.")
        assert w.texts(int(asked["id"])) == ["A red circle.", "Yes."]
        assert w.discord.called("GET", rf"/channels/{other['id']}/messages") == []


async def test_what_was_missed_too_long_ago_or_before_the_first_start_is_left_alone() -> None:
    async with DiscordLoopback().serving() as discord:
        handler, channel = MemoryChatHandler(), discord.add_channel()
        discord.people_say(channel, f"{ME} Before the bot came")
        async with running(discord, handler):
            pass
        handler.notes["discord", "seen_until"] = (datetime.now(UTC) - timedelta(days=2)).isoformat()
        async with running(discord, handler, catch_up=CatchUp(max_age=timedelta(0))):
            asked = await discord.post(channel, f"{ME} Now")
            await handler.answer_next("Yes.")
            await discord.wait_for(lambda: discord.bots(int(asked["id"])))
        assert [message.text for message in handler.messages] == ["Now"]


async def test_a_program_that_goes_down_leaves_its_answer_for_the_next_start() -> None:
    async with world() as w:
        asked = await w.ask()
        answer = await w.handler.next_answer()
        await answer.add(AnswerText("A red"))
        await w.discord.wait_for(lambda: w.texts(int(asked["id"])))
        await w.handler.end(answer, AnswerStatus.PENDING)
        await w.restart()
        assert await w.handler.undelivered("discord")


# --- the doctor


async def _findings(discord: DiscordLoopback, token: str = TOKEN, **more: str) -> list[Finding]:
    return [each async for each in check(token, api_url=discord.api_url, gateway_url=more.get("gateway_url", discord.gateway_url))]


async def test_the_doctor_finds_nothing_wrong() -> None:
    async with DiscordLoopback().serving() as discord:
        findings = await _findings(discord)
        assert [(each.what, each.is_good) for each in findings] == [
            ("Discord", True),
            ("Discord intent", True),
            ("Discord server", True),
        ]


async def test_the_doctor_tells_the_faults_apart() -> None:
    async with DiscordLoopback(flags=0, permissions=(1 << 10) | (1 << 11)).serving() as discord:
        assert [each.sentence for each in await _findings(discord, "wrong")] == [WRONG_TOKEN]
        assert [each.sentence for each in await _findings(discord, "wrong\n token")] == [WRONG_TOKEN]
        bad = {each.what: each.sentence for each in await _findings(discord, gateway_url="ws://127.0.0.1:1/") if not each.is_good}
        assert set(bad) == {"Discord gateway", "Discord intent", "Discord server"}
        assert bad["Discord intent"] == NO_CONTENT
        for name in ("Read Message History", "Create Public Threads", "Send Messages in Threads"):
            assert name in bad["Discord server"]
        assert "View Channels" not in bad["Discord server"]


async def test_the_doctor_says_that_there_is_no_server_or_no_network() -> None:
    async with DiscordLoopback(has_guild=False).serving() as discord:
        assert invite_link(str(APPLICATION)) in (await _findings(discord))[-1].sentence
        assert await application_id(TOKEN, discord.api_url) == str(APPLICATION)
        for wrong in ("wrong", "wrong\n token"):
            with pytest.raises(ApplicationUnknown, match="Discord does not take DISCORD_TOKEN"):
                await application_id(wrong, discord.api_url)
        for fault in (500, ("429", "soon", False)):
            discord.fail("GET", "/users/@me", fault)
            assert [each.sentence for each in await _findings(discord)] == ["Discord could not be reached. Is this machine online?"]
    with pytest.raises(ApplicationUnknown, match="online"):
        await application_id(TOKEN, discord.api_url)
