"""Whatever Slack does to the running program in the middle of an answer, people see the whole of it, once.

The program is a process of its own, with its model behind a URL, so that the test says when which word comes.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.dictated_model import Asked, DictatedModel
from tests.e2e.test_slack_program import end, program
from tests.images import red_circle
from tests.loopbacks.slack.server import SlackServer
from tests.loopbacks.slack.state import Channel, Message, User

pytestmark = pytest.mark.whole_program

IMAGE = ("circle.png", red_circle())
BEGINNING, REST = "There is ", "a red circle in the middle."
WITHIN_SECONDS = 30.0


@dataclass
class World:
    """Every question stands in a channel of its own, whose pace nothing has slowed down."""

    slack: SlackServer
    model: DictatedModel
    ann: User
    folder: Path

    def program(self) -> AbstractAsyncContextManager[tuple[asyncio.subprocess.Process, str]]:
        return program(self.folder, self.slack, THREADSIGHT_ENGINE_URL=self.model.url, THREADSIGHT_SHUTDOWN_GRACE_SECONDS="0")

    async def ask(self, name: str) -> tuple[Message, Asked]:
        channel = self.slack.add_channel(name)
        post = await self.slack.post(channel, self.ann, f"{self.slack.mention} What is in {name}?", [IMAGE])
        asked = await self.model.next()
        assert (asked.question, asked.num_images) == (f"What is in {name}?", 1)
        return post, asked

    async def begin(self, name: str) -> tuple[Message, Asked]:
        """A question, and an answer of which the beginning is being streamed."""
        post, asked = await self.ask(name)
        asked.say(BEGINNING)
        await self.wait(post, lambda: [answer.markdown for answer in self.answers(post)] == [BEGINNING])
        return post, asked

    def answers(self, post: Message) -> list[Message]:
        return self.slack.answers(post.channel, post.ts)

    async def see(self, post: Message, *texts: str, beside: str | None = None) -> None:
        """Until these are the answers below it, each complete, and nothing beside them but perhaps one sentence."""

        def is_so() -> bool:
            answers = [answer for answer in self.answers(post) if answer.shown != beside]
            are_whole = all(answer.stream != "live" and answer.buttons for answer in answers)
            return are_whole and [_words(answer) for answer in answers] == list(texts)

        await self.wait(post, is_so)

    async def wait(self, post: Message, is_so: Callable[[], bool]) -> None:
        try:
            await self.slack.wait_for(is_so, WITHIN_SECONDS)
        except TimeoutError:
            shown = [(answer.stream, answer.shown) for answer in self.answers(post)]
            calls = [(call.method, call.error) for call in self.slack.calls[-10:]]
            raise AssertionError(f"{post.channel.name}: {shown} after {calls}") from None

    def errors(self, method: str) -> list[str | None]:
        return [call.error for call in self.slack.called(method) if call.error]


def _words(message: Message) -> str:
    return message.markdown or "".join(str(block["text"]) for block in message.blocks if block["type"] == "markdown")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with SlackServer() as slack, DictatedModel() as model:
        yield World(slack, model, slack.add_user("ann"), tmp_path)


async def test_streams_and_calls_that_fail(world: World) -> None:
    async with world.program() as (running, _):
        await _a_stream_lives_two_seconds(world)
        for method in ("chat.appendStream", "chat.stopStream"):
            await _call_fails(world, method, lambda method: world.slack.faults.fail_next(method, status=429, retry_after_seconds=1))
            await _call_fails(world, method, lambda method: world.slack.faults.fail_next(method, status=503))
            await _call_fails(world, method, lambda method: world.slack.faults.fail_next(method, is_reset=True))
            await _call_fails(world, method, lambda method: world.slack.faults.fail_next(method, is_reset=True, is_done=True))
        await _updates_fail(world)
        await end(running)
    assert world.slack.broadcasts == []


async def _a_stream_lives_two_seconds(world: World) -> None:
    world.slack.stream_seconds = 2
    post, asked = await world.begin("two seconds")
    words = [f"Word {number} of a long answer. " for number in range(60)]
    for number, word in enumerate(words):
        asked.say(word)
        if number % 15 == 0:  # each is written about a second after the one before
            await world.slack.wait_for(lambda: word.strip() in world.answers(post)[0].shown, WITHIN_SECONDS)  # noqa: B023
    asked.end()
    await world.see(post, BEGINNING + "".join(words))
    assert "message_not_in_streaming_state" in world.errors("chat.appendStream") + world.errors("chat.stopStream")
    world.slack.stream_seconds = 300


async def _call_fails(world: World, method: str, fail: Callable[[str], None]) -> None:
    num_errors = len(world.errors(method))
    post, asked = await world.begin(f"{method} {len(world.slack.calls)}")
    fail(method)
    asked.say(REST)
    await world.slack.wait_for(lambda: REST in world.answers(post)[0].shown, WITHIN_SECONDS)
    asked.end()
    await world.see(post, BEGINNING + REST)
    assert len(world.errors(method)) == num_errors + 1


async def _updates_fail(world: World) -> None:
    """What ends a broken stream goes wrong itself, again and again."""
    post, asked = await world.begin("updates")
    faults = world.slack.faults
    faults.fail_next("chat.stopStream", error="message_not_in_streaming_state")
    faults.fail_next("chat.update", status=429, retry_after_seconds=1)
    faults.fail_next("chat.update", status=502)
    faults.fail_next("chat.update", is_reset=True, is_done=True)
    await world.slack.expire_streams()
    asked.end(REST)
    await world.see(post, BEGINNING + REST)
    assert {"HTTP 429", "HTTP 502", "reset"} <= set(world.errors("chat.update"))


async def test_sockets_and_places_that_go(world: World) -> None:
    async with world.program() as (running, _):
        await _socket_is_given_up(world)
        await _socket_breaks(world)
        await _acknowledgement_is_late(world)
        await _place_goes(world, "removed", world.slack.kick_bot)
        await _place_goes(world, "archived", world.slack.archive)
        await _question_changes(world)
        await _question_goes(world)
        post, asked = await world.begin("after all")
        asked.end(REST)
        await world.see(post, BEGINNING + REST)
        await end(running)
    assert world.slack.broadcasts == []


async def _socket_is_given_up(world: World) -> None:
    post, asked = await world.begin("given up")
    await world.slack.socket.disconnect("refresh_requested")
    asked.end(REST)
    await world.see(post, BEGINNING + REST)
    await world.slack.post(post.channel, world.ann, "And what else?", thread_ts=post.ts)
    (await world.model.next()).end("Nothing.")
    await world.see(post, BEGINNING + REST, "Nothing.")


async def _socket_breaks(world: World) -> None:
    post, asked = await world.begin("broken")
    world.slack.socket.drop()
    await world.slack.post(post.channel, world.ann, "And what else?", thread_ts=post.ts)  # while nobody listens
    asked.end(REST)
    (await world.model.next()).end("Nothing.")
    await world.see(post, BEGINNING + REST, "Nothing.")


async def _acknowledgement_is_late(world: World) -> None:
    """Slack has given up waiting before anybody could answer, and tells it again."""
    deliveries = world.slack.deliveries
    await world.slack.settle()
    deliveries.ack_seconds, num_before = 0.0001, len(deliveries.all)
    post, asked = await world.begin("late")
    deliveries.ack_seconds = 3.0
    asked.end(REST)
    await world.see(post, BEGINNING + REST)
    assert any(delivery.num_tries > 1 for delivery in deliveries.all[num_before:])


async def _place_goes(world: World, name: str, go: Callable[[Channel], Awaitable[object]]) -> None:
    post, asked = await world.begin(name)
    await go(post.channel)
    asked.say(REST)
    async with asyncio.timeout(WITHIN_SECONDS):
        await asked.hung_up.wait()
    (shown,) = world.answers(post)
    assert _words(shown) == BEGINNING


async def _question_changes(world: World) -> None:
    post, asked = await world.begin("changed")
    await world.slack.edit(post, f"{world.slack.mention} How many are there?")
    again = await world.model.next()
    assert (again.question, again.num_images) == ("How many are there?", 1)
    async with asyncio.timeout(WITHIN_SECONDS):
        await asked.hung_up.wait()
    again.end("One.")
    await world.see(post, "One.")


async def _question_goes(world: World) -> None:
    post, asked = await world.begin("deleted")
    await world.slack.delete(post)
    async with asyncio.timeout(WITHIN_SECONDS):
        await asked.hung_up.wait()
    await world.see(post)


async def test_a_program_that_ends_in_the_middle_finishes_the_same_message_after_its_restart(world: World) -> None:
    asked_to_end = [signal.SIGTERM, signal.SIGKILL]
    post: Message | None = None
    for number in asked_to_end:
        async with world.program() as (running, _):
            if post is not None:
                await _finish(world, post)
            post, asked = await world.begin(number.name)
            asked.say("a ")  # what follows the beginning is written after it was noted where the beginning stands
            await world.wait(post, lambda: f"{BEGINNING}a " in world.answers(post)[0].shown)  # noqa: B023 - awaited at once
            await end(running, number)
    assert post is not None
    async with world.program() as (running, _):
        await _finish(world, post)
        await end(running)
    assert world.slack.broadcasts == []


async def _finish(world: World, post: Message) -> None:
    """What was left open is asked anew, and stands in the message that was begun."""
    (begun,) = world.answers(post)
    assert BEGINNING in begun.shown
    (await world.model.next()).end(BEGINNING + REST)
    await world.see(post, BEGINNING + REST)
    assert world.answers(post) == [begun]
