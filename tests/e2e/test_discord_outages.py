"""What breaks at Discord during an answer of the whole program, and what people saw in the end. One program for all of it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.e2e.discord_program import (
    COLOUR,
    ME,
    MIDDLE,
    PLACE,
    RED,
    TIMEOUT_SECONDS,
    answered,
    ask,
    ended,
    program,
    seen,
    thread_of,
)
from tests.images import red_circle
from tests.loopbacks.discord.payloads import Payload
from tests.loopbacks.discord.server import DiscordLoopback

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.whole_program,
]
EDIT = r"/channels/{}/messages/\d+"


class Place:
    """A Discord with one channel, and the program there."""

    def __init__(self, discord: DiscordLoopback, program: asyncio.subprocess.Process, general: int) -> None:
        self.discord = discord
        self.program = program
        self.general = general
        self.minute: asyncio.Task[None]  # while everything else goes on, one thread may not be written in

    async def ask(self, **more: Any) -> Payload:
        return await ask(self.discord, self.general, **more)

    async def begun(self) -> tuple[int, asyncio.Event]:
        """A thread in which Discord is about to write an answer's first words, and what lets it."""
        question = self.discord.people_say(
            self.general, f"{ME} {COLOUR}", attachments=[self.discord.add_file("circle.png", red_circle())]
        )
        thread = thread_of(question)
        is_posted, may_be_posted = self.discord.hold("POST", rf"/channels/{thread}/messages")
        await self.discord.dispatch("MESSAGE_CREATE", question)
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await is_posted.wait()
        return thread, may_be_posted

    async def see_refused(self, *faults: Any) -> None:
        """Edits of an answer go wrong like this; then the whole answer stands, and the chat goes on."""
        thread, may_be_posted = await self.begun()
        self.discord.fail("PATCH", EDIT.format(thread), *faults)
        may_be_posted.set()
        await answered(self.discord, thread, RED, seconds=TIMEOUT_SECONDS + 60)
        assert not any(left for _, path, left in self.discord.faults if str(thread) in path.pattern)  # all of them happened
        await self.discord.post(thread, PLACE)
        await answered(self.discord, thread, RED, MIDDLE)
        said = self.discord.history[int(self.discord.bots(thread)[0]["id"])]
        assert all(text.startswith("-# ") or RED.startswith(text.partition("\n")[0]) for text in said)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    async with DiscordLoopback().serving() as discord:
        general = discord.add_channel()
        async with program(tmp_path_factory.mktemp("faults"), discord) as running:
            place = Place(discord, running, general)
            place.minute = asyncio.create_task(place.see_refused(("429", 60.0, False)))
            yield place


REFUSALS: dict[str, tuple[Any, ...]] = {
    "429": (("429", 1.0, False), ("429", 1.0, False)),
    "429 for all": (("429", 1.0, True),),
    "500": (500, 500),
    "502 and 504": (502, 504),
    "503": (503, 503),
    "reset": ("reset", "reset"),
    "done, then reset": ("done, then reset",),
}


async def test_the_whole_answer_stands_after_every_refusal(place: Place) -> None:
    await asyncio.gather(*(place.see_refused(*faults) for faults in REFUSALS.values()))


async def test_a_message_that_was_refused_is_posted_once(place: Place) -> None:
    discord = place.discord
    discord.fail("POST", r"/channels/\d+/messages", "done, then reset", 503, ("429", 0.5, False), 500, "reset")
    await answered(discord, thread_of(await place.ask()), RED)


async def test_pictures_that_do_not_arrive_are_named_and_nothing_is_said_about_them(place: Place) -> None:
    discord = place.discord

    async def see(name: str, *faults: Any) -> str:
        image = discord.add_file(name, red_circle())
        discord.fail("GET", rf"/cdn/\d+/{name}", *faults)
        thread = thread_of(await place.ask(attachments=[image]))
        await discord.wait_for(lambda: ended(discord, thread), TIMEOUT_SECONDS)
        [shown] = seen(discord, thread)
        assert name in shown
        assert RED not in shown
        return shown

    never = ("hold", asyncio.Event(), asyncio.Event())
    shown = await asyncio.gather(
        see("gone.png", 404, 404),
        see("denied.png", 403, 403),
        see("broken.png", 500),
        see("cut.png", ("cut", 100)),
        see("slow.png", never),
    )
    reasons = "no longer there", "no longer there", "the error 500", "the download broke off", "the download took too long"
    for text, reason in zip(shown, reasons, strict=True):
        assert reason in text


async def test_an_address_that_has_expired_is_asked_for_once_more(place: Place) -> None:
    place.discord.fail("GET", r"/cdn/.*", 404)
    await answered(place.discord, thread_of(await place.ask()), RED)
    assert not place.discord.faults[-1][2]


@pytest.mark.parametrize("how", ["dropped", "told to reconnect", "begun anew"])
async def test_the_connection_breaks_during_an_answer(place: Place, how: str) -> None:
    discord = place.discord
    num_sessions = len(discord.identities)
    thread, may_be_posted = await place.begun()
    if how == "begun anew":
        discord.can_resume = False
    await (discord.ask_to_reconnect() if how == "told to reconnect" else discord.drop())
    missed = discord.people_say(thread, PLACE)
    other = discord.people_say(place.general, f"{ME} {COLOUR}", attachments=[discord.add_file("circle.png", red_circle())])
    if how != "begun anew":  # then a resumed session is told
        await discord.dispatch("MESSAGE_CREATE", missed)
        await discord.dispatch("MESSAGE_CREATE", other)
    may_be_posted.set()
    await answered(discord, thread, RED, MIDDLE)
    await answered(discord, thread_of(other), RED)
    assert len(discord.identities) == num_sessions + (how == "begun anew")
    discord.can_resume = True


async def test_events_that_come_twice_and_in_another_order(place: Place) -> None:
    discord = place.discord
    file = discord.add_file("circle.png", red_circle())
    question = discord.people_say(place.general, f"{ME} {COLOUR}", attachments=[file])
    deleted = discord.people_say(place.general, f"{ME} {COLOUR}", attachments=[file])
    await discord.delete(deleted)
    for message in (question, question, deleted):
        await discord.dispatch("MESSAGE_CREATE", message)
    await answered(discord, thread_of(question), RED)
    follow_up = await discord.post(thread_of(question), PLACE)
    await discord.dispatch("MESSAGE_CREATE", question)
    await discord.dispatch("MESSAGE_CREATE", follow_up)
    await answered(discord, thread_of(question), RED, MIDDLE)
    assert thread_of(deleted) not in discord.channels
    assert len(discord.called("POST", rf"/channels/{place.general}/messages/{question['id']}/threads")) == 1


@pytest.mark.parametrize("what", ["message", "thread", "archived", "locked"])
async def test_its_place_goes_during_an_answer(place: Place, what: str) -> None:
    """Nothing more is written there, nothing is said anywhere else, and everybody else goes on."""
    discord = place.discord
    thread, may_be_posted = await place.begun()
    is_edited, may_be_edited = discord.hold("PATCH", EDIT.format(thread))
    may_be_posted.set()
    async with asyncio.timeout(TIMEOUT_SECONDS):
        await is_edited.wait()
    match what:
        case "message":
            await discord.delete(discord.bots(thread)[0])
        case "thread":
            gone = discord.channels.pop(thread)
            await discord.dispatch("THREAD_DELETE", {key: gone[key] for key in ("id", "guild_id", "parent_id", "type")})
        case _:
            discord.channels[thread]["thread_metadata"][what] = True
    before, num_calls = seen(discord, thread), len(discord.calls)
    may_be_edited.set()
    await answered(discord, thread_of(await place.ask()), RED)
    assert seen(discord, thread) == before
    assert [call for call in discord.calls[num_calls:] if str(thread) in call[1]] == []


@pytest.mark.parametrize("code", [50001, 50013], ids=["access", "permission"])
async def test_the_right_to_write_goes_during_an_answer(place: Place, code: int) -> None:
    discord = place.discord
    thread, may_be_posted = await place.begun()
    discord.fail("PATCH", EDIT.format(thread), (403, code))
    may_be_posted.set()
    await answered(discord, thread_of(await place.ask()), RED)
    assert not discord.faults[-1][2]
    assert len(seen(discord, thread)) == 1
    assert ended(discord, thread) == []
    assert len(discord.called("PATCH", EDIT.format(thread))) == 1


async def test_a_thread_that_is_refused_for_a_minute_is_answered_after_it_and_holds_up_nobody(place: Place) -> None:
    """It began before all the other tests, and went through what they did."""
    await place.minute


async def test_sigterm_during_an_answer_lets_it_end(place: Place) -> None:
    """The last of these tests: it ends the program."""
    thread, may_be_posted = await place.begun()
    place.program.send_signal(signal.SIGTERM)
    may_be_posted.set()
    await answered(place.discord, thread, RED)
    async with asyncio.timeout(TIMEOUT_SECONDS):
        assert await place.program.wait() == 0
