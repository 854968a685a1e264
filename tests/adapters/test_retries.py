"""What fails because something is away is tried again in its place, and done once; what came after it waits, others do not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest

from adapters.base import Attachment, IncomingMessage, ThreadKey
from adapters.conversations.dispatcher import Dispatcher
from adapters.conversations.pace import Pace
from adapters.post import Post
from adapters.surface import TryLater
from tests.adapters.memory_platform import MemoryPlatform, post
from tests.adapters.test_backlog import Away
from tests.adapters.test_mailbox_hostile import until
from tests.chat_handler import TIMEOUT_SECONDS


@pytest.fixture
async def away(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Away]:
    """Online, and nothing waits for long before it is tried again."""
    monkeypatch.setattr("adapters.backoff.FIRST_SECONDS", 0.0)
    made = Away()
    await made.online()
    yield made
    await made.dispatcher.close(0)


class Fault:
    """What is called fails as long as `is_there`; each call is counted."""

    def __init__(self, there: object, name: str, error: Exception | None = None) -> None:
        self.is_there, self.num_calls = True, 0
        self._error = error or OSError("the database is away")
        self._call: Callable[..., Awaitable[Any]] = getattr(there, name)
        setattr(there, name, self)

    async def __call__(self, *arguments: Any) -> Any:
        self.num_calls += 1
        if self.is_there:
            raise self._error
        return await self._call(*arguments)

    async def wait(self, num_calls: int) -> None:
        await until(lambda: self.num_calls >= num_calls)


async def test_what_comes_after_a_post_that_fails_waits_and_others_do_not(away: Away) -> None:
    has_chat, is_away = away.handler.has_chat, True

    async def fail_here(key: ThreadKey) -> bool:
        if is_away and key.thread == "t":
            raise OSError("the database is away")
        return await has_chat(key)

    away.handler.has_chat = fail_here  # type: ignore[method-assign]
    away.write("1")
    away.write("2", "And?", is_mention=False)
    away.write("elsewhere", thread="x")
    await away.asked("elsewhere")
    is_away = False
    await away.asked("elsewhere", "1", "2")
    assert away.num_read_back == 0  # without another connection


@pytest.mark.parametrize("error", [TryLater(), TryLater(0.001), TimeoutError(), RuntimeError("closed")], ids=repr)
async def test_a_look_up_that_fails_is_made_again(away: Away, error: Exception) -> None:
    errors = [error, error]

    async def attachments() -> Sequence[Attachment]:
        if errors:
            raise errors.pop()
        return ()

    away.write("1", attachments=attachments)
    await away.asked("1")
    await away.settled()
    assert not errors
    assert away.dispatcher._backlog.oldest() is None


async def test_an_error_of_our_own_is_not_made_again_and_again(away: Away) -> None:
    fault = Fault(away.handler, "find_message", TypeError("a mistake"))
    lost = away.write("1")
    await away.settled()
    assert fault.num_calls == 1
    assert away.dispatcher._backlog.oldest() == lost.sent_at


async def test_a_chat_whose_beginning_failed_in_the_middle_is_begun_once(away: Away, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    start = MemoryPlatform.start

    async def note(platform: MemoryPlatform, begin: Post) -> tuple[ThreadKey, str]:
        started.append(begin.message_id)
        return await start(platform, begin)

    monkeypatch.setattr(MemoryPlatform, "start", note)
    errors = [TryLater()]

    async def attachments() -> Sequence[Attachment]:
        if errors:
            raise errors.pop()
        return ()

    away.write("1", thread=None, attachments=attachments)
    away.dispatcher.posted(away.written[0])
    await away.asked("1")
    await away.settled()
    assert started == ["1", "1"]  # the platform says that the thread exists
    assert list(away.handler._touched) == [ThreadKey("memory", "w", "c", "1")]


async def test_an_edit_that_fails_is_made_again_with_the_newest_text(away: Away) -> None:
    away.write("1")
    await away.asked("1")
    fault = Fault(away.handler, "find_message")
    away.dispatcher.edited(post("1", "How large?", thread="t", is_mention=True))
    await fault.wait(2)
    away.dispatcher.edited(post("1", "How small?", thread="t", is_mention=True))
    away.write("2")
    fault.is_there = False
    await until(lambda: len(away.handler.messages) == 3)
    assert [message.text for message in away.handler.messages] == ["What is this?", "How small?", "What is this?"]
    assert not away.dispatcher._newest_edits


async def test_an_edit_that_comes_while_one_is_made_is_made_too(away: Away) -> None:
    away.write("1")
    await away.asked("1")
    gate, has_begun, ask_again = asyncio.Event(), asyncio.Event(), away.handler.ask_again

    async def slowly(message: IncomingMessage) -> Any:
        has_begun.set()
        await gate.wait()
        return await ask_again(message)

    away.handler.ask_again = slowly  # type: ignore[method-assign]
    away.dispatcher.edited(post("1", "How large?", thread="t", is_mention=True))
    await asyncio.wait_for(has_begun.wait(), TIMEOUT_SECONDS)
    away.dispatcher.edited(post("1", "How small?", thread="t", is_mention=True))
    gate.set()
    await until(lambda: away.handler.messages[-1].text == "How small?")


async def test_an_edit_that_was_given_up_does_not_stop_the_next(away: Away) -> None:
    away.write("1")
    await away.asked("1")
    fault = Fault(away.handler, "find_message")
    away.dispatcher.edited(post("1", "How large?", thread="t", is_mention=True))
    await away.settled()
    fault.is_there = False
    away.dispatcher.edited(post("1", "How small?", thread="t", is_mention=True))
    await until(lambda: away.handler.messages[-1].text == "How small?")


async def test_a_mention_added_by_an_edit_that_was_given_up_is_looked_for_again(away: Away) -> None:
    fault = Fault(away.handler, "find_message")
    changed = post("1", thread="t", is_mention=True)
    away.dispatcher.edited(changed)
    await away.settled()
    assert away.dispatcher._backlog.oldest() == changed.sent_at
    fault.is_there = False


async def test_a_deletion_that_fails_is_made_again(away: Away) -> None:
    away.write("1")
    await away.asked("1")
    fault = Fault(away.handler, "retract")
    away.dispatcher.deleted("w", "1")
    await fault.wait(3)
    fault.is_there = False
    await away.platform.wait_for(lambda: away.platform.texts("c/t") == [])
    assert not away.handler.platform_turns


async def test_a_room_that_could_not_be_deleted_is_deleted_later(away: Away) -> None:
    away.write("1")
    await away.asked("1")
    fault = Fault(away.handler, "delete_room")
    away.dispatcher.room_gone("w", "t")
    await fault.wait(2)
    fault.is_there = False
    await until(lambda: not away.handler._touched)


async def test_a_command_that_fails_is_carried_out_later_and_once(away: Away) -> None:
    fault = Fault(away.platform, "run_command", TryLater())
    word = away.write("1", "!help", is_command=True)
    away.dispatcher.posted(word)
    await fault.wait(2)
    fault.is_there = False
    await away.settled()
    assert away.platform.commands == [word]


async def test_a_message_that_is_deleted_while_it_is_tried_again_is_given_up(away: Away) -> None:
    fault = Fault(away.handler, "has_chat")
    away.write("1")
    away.write("2")
    await fault.wait(2)
    away.dispatcher.deleted("w", "1")
    fault.is_there = False
    await away.asked("2")


async def test_closing_does_not_wait_for_the_next_try_and_leaves_it_for_the_next_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.backoff.FIRST_SECONDS", 3_600.0)
    away = Away()
    await away.online()
    fault = Fault(away.handler, "has_chat")
    lost = away.write("1")
    away.write("2")
    await fault.wait(1)
    assert await away.mark() == lost.sent_at
    await asyncio.wait_for(away.dispatcher.close(3_600.0), TIMEOUT_SECONDS)
    assert away.dispatcher._backlog.oldest() == lost.sent_at
    fault.is_there = False
    away.dispatcher = Dispatcher(away.platform, away.handler, Pace(0.0, 1e6))
    coming = asyncio.create_task(away.online())
    await away.asked("1", "2")
    await coming
    await away.dispatcher.close()
