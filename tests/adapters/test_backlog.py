"""Posts that do not fit, fail or are missed are found again, and the mark of what was seen waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from adapters.backoff import MAX_TRIES
from adapters.base import Attachment, ThreadKey
from adapters.conversations.absence import CatchUp, Missed
from adapters.conversations.dispatcher import Dispatcher
from adapters.conversations.pace import Pace
from adapters.conversations.read_back import TOO_MANY_AT_ONCE
from adapters.post import Post
from adapters.surface import DestinationGone, TryLater
from tests.adapters.memory_platform import MemoryPlatform, post
from tests.adapters.test_mailbox import empty
from tests.chat_handler import TIMEOUT_SECONDS, MemoryChatHandler


class Away:
    """A dispatcher in front of a platform that can be read back, and that has been connected once."""

    def __init__(self, **options: Any) -> None:
        self.platform, self.handler = MemoryPlatform(), MemoryChatHandler()
        self.dispatcher = Dispatcher(self.platform, self.handler, Pace(0.0, 1e6), **options)
        self.written = self.platform.written
        self.num_read_back = self.num_answered = 0

    async def online(self) -> None:
        await self.dispatcher.online(self.read_missed)

    async def read_missed(self, since: datetime) -> Missed:
        self.num_read_back += 1
        return Missed([each for each in self.written if each.sent_at >= since])

    def write(self, message_id: str, text: str = "What is this?", **fields: Any) -> Post:
        """Somebody mentions us in the thread `t`; it is delivered."""
        whole = post(message_id, text, **{"thread": "t", "is_mention": True, **fields})
        self.written.append(whole)
        self.dispatcher.posted(whole)
        return whole

    async def asked(self, *message_ids: str) -> None:
        """Until these messages, and no others, were put to the bot in this order; their answers end at once."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while self.num_answered < len(message_ids):
                await self.handler.answer_next("Yes.")
                self.num_answered += 1
        assert [message.message_id for message in self.handler.messages] == list(message_ids)

    async def settled(self) -> None:
        if len(self.dispatcher._mailboxes):
            await empty(self.dispatcher._mailboxes)

    async def read_back(self) -> None:
        """Until nothing is read back any more of what was left."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await asyncio.gather(*self.dispatcher._read_back._tasks._running)

    async def mark(self) -> datetime:
        """What is written down now."""
        self.dispatcher.offline()
        written, write_note = asyncio.Event(), self.handler.write_note

        async def note(platform: str, name: str, text: str) -> None:
            await write_note(platform, name, text)
            written.set()

        self.handler.write_note = note  # type: ignore[method-assign]
        self.dispatcher.resumed()
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await written.wait()
        self.handler.write_note = write_note  # type: ignore[method-assign]
        return datetime.fromisoformat(self.handler.notes["memory", "seen_until"])


def slow(gate: asyncio.Event) -> Callable[[], Awaitable[Sequence[Attachment]]]:
    async def attachments() -> Sequence[Attachment]:
        await gate.wait()
        return ()

    return attachments


async def test_what_does_not_fit_is_told_left_and_answered_in_its_order(caplog: pytest.LogCaptureFixture) -> None:
    away, gate = Away(max_posts=2), asyncio.Event()
    await away.online()
    first = away.write("1", attachments=slow(gate))
    for number in range(2, 7):
        away.write(str(number))
    assert await away.mark() == first.sent_at
    await away.platform.wait_for(lambda: bool(away.platform.shown.get("c/t")))
    shown = away.platform.shown["c/t"].values()
    assert [page.notices for page in shown] == [(TOO_MANY_AT_ONCE,)]  # once, not for each
    gate.set()
    await away.asked("1", "2", "3", "4", "5", "6")
    await away.settled()
    await away.read_back()
    assert away.num_read_back == 0  # only this conversation, not the whole platform
    assert "could not be dealt with" not in caplog.text
    await away.dispatcher.close()
    assert await away.mark() > away.written[-1].sent_at


async def test_what_comes_while_posts_are_left_waits_behind_them() -> None:
    away, gate = Away(max_posts=1), asyncio.Event()
    await away.online()
    away.write("1", attachments=slow(gate))
    away.write("2")
    gate.set()
    await away.asked("1")
    away.write("3")  # there is room again, but "2" is still to be read back
    await away.asked("1", "2", "3")
    await away.dispatcher.close()


async def test_what_is_left_is_read_back_again_when_the_platform_could_not_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.backoff.FIRST_SECONDS", 0.0)
    away, gate, read_on = Away(max_posts=1), asyncio.Event(), MemoryPlatform.read_on
    away.platform.read_faults += [OSError("away"), TryLater(0.001)]

    async def break_off(platform: MemoryPlatform, post: Post, until: datetime) -> AsyncGenerator[Post, None]:
        async for each in read_on(platform, post, until):
            yield each
            if each.message_id == "3" and not has_broken:
                has_broken.append(True)
                raise TryLater

    has_broken: list[bool] = []
    monkeypatch.setattr(MemoryPlatform, "read_on", break_off)
    await away.online()
    for number in range(1, 7):
        away.write(str(number), attachments=slow(gate))
    gate.set()
    await away.asked("1", "2", "3", "4", "5", "6")
    assert not away.platform.read_faults
    assert has_broken
    await away.dispatcher.close()


async def test_what_is_left_and_gone_from_the_platform_is_let_go() -> None:
    away, gate = Away(max_posts=1), asyncio.Event()
    await away.online()
    for number in range(1, 6):
        away.write(str(number), attachments=slow(gate))
    for message_id in ("2", "4"):
        away.written[:] = [each for each in away.written if each.message_id != message_id]
    gate.set()
    await away.asked("1", "3", "5")
    await away.read_back()
    assert await away.mark() > away.written[-1].sent_at
    await away.dispatcher.close()


async def test_what_is_left_in_a_place_that_is_gone_is_let_go() -> None:
    away, gate = Away(max_posts=1), asyncio.Event()
    await away.online()
    first = away.write("1", attachments=slow(gate))
    away.write("2")
    away.platform.read_faults.append(DestinationGone())
    gate.set()
    await away.asked("1")
    await away.read_back()
    assert await away.mark() > first.sent_at
    await away.dispatcher.close()


async def test_nobody_is_told_where_we_have_no_business(caplog: pytest.LogCaptureFixture) -> None:
    away, gate = Away(max_posts=1), asyncio.Event()
    await away.online()

    async def complete() -> Post:
        await gate.wait()
        return post("1", thread="t")

    away.write("1", is_mention=False, complete=complete)
    for number in range(2, 5):
        away.write(str(number), is_mention=False)
    assert caplog.text.count("more messages than I can take") == 1
    gate.set()
    await away.dispatcher.close()
    assert not away.platform.shown
    assert not away.handler.messages


async def test_a_post_whose_fault_does_not_pass_is_looked_for_at_the_next_connection(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("adapters.backoff.FIRST_SECONDS", 0.0)
    away, num_tries, words = Away(), 0, "secret"
    await away.online()
    find_message = away.handler.find_message

    async def fail(*_: object) -> None:
        nonlocal num_tries
        num_tries += 1
        raise OSError(words)

    away.handler.find_message = fail  # type: ignore[assignment, method-assign]
    lost = away.write("1")
    await empty(away.dispatcher._mailboxes)
    away.handler.find_message = find_message  # type: ignore[method-assign]
    assert num_tries == MAX_TRIES
    assert "OSError" in caplog.text
    assert "secret" not in caplog.text
    assert await away.mark() == lost.sent_at
    coming = asyncio.create_task(away.online())
    await away.asked("1")
    await coming
    assert await away.mark() > lost.sent_at
    await away.dispatcher.close()


async def test_a_catch_up_that_fails_is_made_up_for_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.backoff.FIRST_SECONDS", 0.0)
    away = Away()
    await away.online()
    await away.mark()
    away.dispatcher.offline()
    away.written.append(post("1", thread="t", is_mention=True))
    read_missed = away.read_missed

    async def fail(since: datetime) -> Missed:
        raise OSError("the platform is away")

    away.read_missed = fail  # type: ignore[method-assign]
    with pytest.raises(OSError, match="away"):
        await away.online()
    assert await away.mark() < away.written[0].sent_at
    away.read_missed = read_missed  # type: ignore[method-assign]
    coming = asyncio.create_task(away.online())
    await away.asked("1")
    await coming
    await away.dispatcher.close()


async def test_a_reply_that_comes_while_its_beginning_is_still_made_up_for_is_answered() -> None:
    away = Away()
    await away.online()
    await away.mark()
    away.dispatcher.offline()
    away.written.append(post("1", thread="t", is_mention=True))
    gate, read_missed = asyncio.Event(), away.read_missed

    async def slowly(since: datetime) -> Missed:
        missed = await read_missed(since)
        await gate.wait()
        return missed

    away.read_missed = slowly  # type: ignore[method-assign]
    coming = asyncio.create_task(away.online())
    await asyncio.sleep(0)
    away.dispatcher.posted(post("2", "And its size?", thread="t"))
    gate.set()
    await away.asked("1", "2")
    await coming
    await away.dispatcher.close()


async def test_what_was_forgotten_on_purpose_is_not_made_up_for() -> None:
    away = Away()
    await away.online()
    away.write("1")
    await away.asked("1")
    await away.settled()
    assert "deleted your question" in await away.dispatcher.forget("u-ann", datetime.now(UTC))
    away.write("2")
    await away.asked("1", "2")
    await away.settled()
    assert "I have forgotten this chat" in await away.dispatcher.reset(ThreadKey("memory", "w", "c", "t"), datetime.now(UTC))
    await away.mark()
    again = Dispatcher(away.platform, away.handler, Pace(0.0, 1e6))  # whose mark reaches back a little
    await again.online(away.read_missed)
    await again.close()
    assert len(away.handler.messages) == 2
    await away.dispatcher.close()


async def test_a_part_that_cannot_be_read_back_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("adapters.backoff.FIRST_SECONDS", 0.0)
    away = Away(catch_up=CatchUp(max_posts=1))
    await away.online()
    await away.mark()
    away.dispatcher.offline()
    away.written += [post(str(number), thread=f"t{number}", is_mention=True) for number in (1, 2, 3)]
    parts = [Missed(away.written[:2], is_complete=False), Missed(away.written)]

    async def in_parts(since: datetime) -> Missed:
        return parts.pop(0)

    away.read_missed = in_parts  # type: ignore[method-assign]
    coming = asyncio.create_task(away.online())
    await away.asked("2", "3")  # not "1", which was too many the first time
    await coming
    assert parts == []
    await away.dispatcher.close()


async def test_a_platform_that_never_tells_all_keeps_the_mark_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.backoff.FIRST_SECONDS", 0.0)
    away = Away()
    await away.online()
    before = await away.mark()
    away.dispatcher.offline()

    async def never(since: datetime) -> Missed:
        return Missed(is_complete=False)

    away.read_missed = never  # type: ignore[method-assign]
    with pytest.raises(TryLater):
        await away.online()
    assert await away.mark() <= before
    await away.dispatcher.close()
