"""Each way in which Discord breaks during an answer, and what the user sees in the end, through the unmodified discord.py."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest

from adapters.base import AnswerText
from adapters.discord.destination import Destination
from adapters.discord.surface import DiscordSurface
from adapters.surface import Control, Page
from tests.adapters.discord_world import ME, World, skip_identify_wait, world
from tests.chat_handler import WrittenAnswer
from tests.loopbacks.discord.payloads import ARCHIVED, GUILD, TOKEN

POST, EDIT = r"/channels/\d+/messages", r"/channels/\d+/messages/\d+"


async def _begun(w: World) -> tuple[int, WrittenAnswer]:
    """A question whose answer has begun to stand in its thread."""
    asked = await w.ask()
    answer = await w.handler.next_answer()
    await answer.add(AnswerText("A red"))
    thread = int(asked["id"])
    await w.discord.wait_for(lambda: w.texts(thread))
    return thread, answer


async def _finished(w: World, answer: WrittenAnswer, rest: str = " circle.") -> None:
    await answer.add(AnswerText(rest))
    await w.handler.end(answer)
    await w.handler.wait_delivered(answer.turn_id)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.conversations.reply._FIRST_WAIT_SECONDS", 0.01)


@pytest.mark.parametrize(
    "fault",
    [("429", 0.05, False), ("429", 0.05, True), ("429", 60.0, False), 503, "reset", "done, then reset"],
    ids=["429 of a channel", "429 of everything", "429 for long", "503", "reset", "done, then reset"],
)
async def test_the_final_text_stands_when_edits_fail(fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.conversations.pace.Pace.hold", lambda *_: None)  # not to wait for what Discord asks
    async with world() as w:
        thread, answer = await _begun(w)
        w.discord.fail("PATCH", EDIT, fault, fault)
        await _finished(w, answer)
        assert w.texts(thread) == ["A red circle."]


@pytest.mark.parametrize(
    "fault", [("429", 0.05, False), 503, "reset", "done, then reset"], ids=["429", "503", "reset", "done, then reset"]
)
async def test_a_message_is_posted_once_whatever_happens_to_the_attempts(fault: Any) -> None:
    async with world() as w:
        w.discord.fail("POST", POST, fault, fault)
        asked = await w.ask()
        answer = await w.handler.next_answer()
        await _finished(w, answer, "A red circle.")
        assert w.texts(int(asked["id"])) == ["A red circle."]


@pytest.mark.parametrize("fault", [500, 502, 504])
async def test_what_discord_py_repeats_by_itself_arrives_too(fault: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async def at_once(seconds: float) -> None:
        return None

    async with world() as w:
        thread, answer = await _begun(w)
        w.discord.fail("PATCH", EDIT, fault, fault)
        monkeypatch.setattr("discord.http.asyncio.sleep", at_once)
        await _finished(w, answer)
        monkeypatch.undo()
        assert w.texts(thread) == ["A red circle."]


@pytest.mark.parametrize(
    "fault",
    [(404, 10008), (404, 10003), (403, 50001), (403, 50013), (400, ARCHIVED), (400, 160005)],
    ids=["message gone", "thread gone", "no access", "no permission", "archived", "locked"],
)
async def test_when_its_place_is_gone_an_answer_ends_quietly(fault: Any, caplog: pytest.LogCaptureFixture) -> None:
    async with world() as w:
        thread, answer = await _begun(w)
        w.discord.fail("PATCH", EDIT, fault)
        await answer.add(AnswerText(" circle"))
        await answer.is_stop_wanted.wait()
        await w.handler.wait_delivered(answer.turn_id)
        assert w.texts(thread) == ["A red"]
        assert [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")] == []
        await w.ask()
        await w.answered("Another answer.")  # everybody else goes on


async def test_a_first_message_that_an_earlier_run_did_not_hear_of_is_found_again() -> None:
    begun = Page("A red", controls=(Control.STOP,), turn_id=7, is_open=True)
    whole = Page("A red circle.", controls=(Control.REGENERATE,), turn_id=7)
    async with world() as w:
        w.discord.limits.seconds = 0.5  # how fast it may write is not looked at here

        def surface() -> DiscordSurface:
            return DiscordSurface(w.adapter._connected, Destination(str(GUILD), str(w.channel)))

        first = await surface().post(begun)
        again = surface()
        assert await again.post(whole) == first
        [shown] = w.discord.bots(w.channel)
        assert shown["content"] == "A red circle."
        assert "regenerate:7" in str(shown["components"])
        assert await surface().post(replace(whole, controls=())) == first
        assert shown["components"] == []  # though the text was the same
        goes_on = surface()
        await goes_on.edit(first, whole)
        ids = [await again.post(whole), await goes_on.post(whole), await surface().post(replace(whole, turn_id=8))]
        assert len({first, *ids}) == 4  # second messages, and another answer's first


async def test_where_it_may_not_reply_it_writes_without_reply() -> None:
    async with world(permissions=(1 << 10) | (1 << 11)) as w:
        w.discord.fail("POST", POST, (403, 160002))
        await w.ask()
        await w.answered()
        assert w.texts(w.channel) == ["A red circle."]


async def test_an_old_message_that_takes_no_more_edits_is_replaced() -> None:
    async with world() as w:
        thread, answer = await _begun(w)
        [old] = w.discord.bots(thread)
        w.discord.fail("PATCH", EDIT, (400, 30046))
        await _finished(w, answer)
        [shown] = w.discord.bots(thread)
        assert shown["content"] == "A red circle."
        assert shown["id"] != old["id"]
        assert w.handler.platform_turns[answer.turn_id or 0].reply_ids == (shown["id"],)


async def test_a_thread_that_is_locked_or_may_not_be_written_in_any_more() -> None:
    async with world() as w:
        thread, answer = await _begun(w)
        w.discord.channels[thread]["thread_metadata"]["locked"] = True
        await answer.add(AnswerText(" circle"))
        await answer.is_stop_wanted.wait()
        _, other = await _begun(w)
        w.discord.permissions = 0
        await other.add(AnswerText(" circle"))
        await other.is_stop_wanted.wait()


@pytest.mark.parametrize("how", ["closed", "told to reconnect"])
async def test_a_broken_connection_is_resumed_and_what_was_said_meanwhile_is_answered(how: str) -> None:
    async with world() as w:
        thread, answer = await _begun(w)
        await (w.discord.drop() if how == "closed" else w.discord.ask_to_reconnect())
        asked = w.discord.people_say(thread, "And its colour?")
        await w.discord.dispatch("MESSAGE_CREATE", asked)
        await _finished(w, answer)
        await w.answered("Red.")
        assert w.texts(thread) == ["A red circle.", "Red."]
        assert len(w.discord.identities) == 1


async def test_a_question_that_is_deleted_before_it_arrives_is_not_answered() -> None:
    async with world() as w:
        deleted = w.discord.people_say(w.channel, f"{ME} Never mind", attachments=[w.image()])
        await w.discord.delete(deleted)
        await w.discord.dispatch("MESSAGE_CREATE", deleted)
        await w.ask(f"{ME} This one")
        await w.answered()
        assert [message.text for message in w.handler.messages] == ["This one"]


async def test_a_session_that_cannot_be_resumed_is_begun_anew_and_what_was_missed_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    skip_identify_wait(monkeypatch)
    async with world() as w:
        thread, answer = await _begun(w)
        await _finished(w, answer)
        w.discord.can_resume = False
        await w.discord.drop()
        w.discord.people_say(thread, "And its colour?")
        await w.answered("Red.")
        assert w.texts(thread) == ["A red circle.", "Red."]
        assert len(w.discord.identities) == 2


async def test_a_message_before_its_thread_is_known_is_understood() -> None:
    async with world() as w:
        asked = await w.ask()
        await w.answered()
        thread = w.discord.channels[int(asked["id"])]
        archived = {**thread, "thread_metadata": {**thread["thread_metadata"], "archived": True}}
        await w.discord.dispatch("THREAD_UPDATE", archived)  # discord.py forgets it
        await w.discord.post(int(asked["id"]), "And its colour?")
        await w.answered("Red.")
        assert {message.key.channel for message in w.handler.messages} == {str(w.channel)}


async def test_no_address_or_token_gets_into_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with world() as w:
        file = w.image("secret.png")
        options = [{"name": "image", "type": 11, "value": file["id"]}]
        data = {"options": options, "resolved": {"attachments": {file["id"]: file}}}
        w.discord.fail("PATCH", r"/webhooks/.*", ("429", 0.01, False))
        w.discord.files.clear()
        await w.discord.command("ask", w.channel, data=data)
        await w.discord.wait_for(lambda: any("no longer there" in text for text in w.texts(w.channel)))
        await w.ask(f"{ME} Nobody else shall read this", attachments=[file])
        await w.discord.wait_for(lambda: len(w.handler.messages) == 2)
        texts = [
            record.getMessage() for record in caplog.records if record.name.split(".")[0] in ("adapters", "discord", "aiohttp")
        ]
        assert not [text for text in texts if "token-" in text or TOKEN in text or file["url"] in text or "Nobody else" in text]


async def test_many_threads_at_once_each_get_their_own_answer() -> None:
    async with world() as w:
        asked = [await w.ask(f"{ME} Question {number}") for number in range(30)]
        answers = [await w.handler.next_answer() for _ in asked]
        for answer in answers:
            await answer.add(AnswerText("An answer in "))
        for answer in answers:
            await answer.add(AnswerText(answer.key.thread))
            await w.handler.end(answer)
        for answer in answers:
            await w.handler.wait_delivered(answer.turn_id)
        assert [w.texts(int(message["id"])) for message in asked] == [[f"An answer in {message['id']}"] for message in asked]


async def test_an_intent_that_is_taken_away_while_it_runs_costs_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    skip_identify_wait(monkeypatch)
    async with world() as w:
        thread, answer = await _begun(w)
        w.discord.can_resume, w.discord.close_code = False, 4014
        await w.discord.drop()
        await w.discord.wait_for(lambda: len(w.discord.identities) == 3)
        assert w.discord.identities[-1]["intents"] & (1 << 15) == 0
        await _finished(w, answer)
        assert w.texts(thread) == ["A red circle."]
