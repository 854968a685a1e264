"""Each conversation has its mailbox: in order, none waits for another, nothing is lost; and the mark waits for what is open."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from adapters.absence import CatchUp, Missed
from adapters.base import Attachment, ThreadKey
from adapters.dispatcher import TOO_MANY_AT_ONCE, Dispatcher
from adapters.mailbox import Conversation, Mailboxes
from adapters.pace import Pace
from adapters.post import Post
from adapters.surface import TryLater
from tests.adapters.memory_platform import MemoryPlatform, post
from tests.chat_handler import TIMEOUT_SECONDS, MemoryChatHandler

HERE, THERE = ("w", "here"), ("w", "there")


def noting(told: list[str], name: str, until: asyncio.Event | None = None) -> Callable[[], Coroutine[Any, Any, None]]:
    async def step() -> None:
        if until is not None:
            await until.wait()
        told.append(name)

    return step


async def empty(mailboxes: Mailboxes, *conversations: Conversation) -> None:
    """Until these mailboxes have gone away; without names, all."""
    there = mailboxes._mailboxes
    workers = [there[conversation].worker for conversation in conversations or tuple(there)]
    async with asyncio.timeout(TIMEOUT_SECONDS):
        await asyncio.wait({worker for worker in workers if worker is not None})


# --- mailboxes alone


async def test_steps_keep_their_order_and_conversations_do_not_wait_for_each_other() -> None:
    mailboxes, told, gate = Mailboxes(), list[str](), asyncio.Event()
    for name in ("1", "2"):
        mailboxes.put(HERE, noting(told, f"here {name}", gate if name == "1" else None))
        mailboxes.put(THERE, noting(told, f"there {name}"))
    await empty(mailboxes, THERE)
    assert told == ["there 1", "there 2"]
    gate.set()
    await empty(mailboxes)
    assert told[2:] == ["here 1", "here 2"]


async def test_a_step_that_fails_does_not_keep_the_next_one_back(caplog: pytest.LogCaptureFixture) -> None:
    mailboxes, told = Mailboxes(), list[str]()

    async def fail() -> None:
        raise ValueError("something secret")

    mailboxes.put(HERE, fail)
    mailboxes.put(HERE, noting(told, "next"))
    await empty(mailboxes)
    assert told == ["next"]
    assert "could not be dealt with" in caplog.text


async def test_a_full_mailbox_refuses_posts_and_takes_everything_else() -> None:
    idle: list[object] = []
    mailboxes, told, gate = Mailboxes(max_posts=2, on_idle=idle.append), list[str](), asyncio.Event()
    taken = [mailboxes.put(HERE, noting(told, str(n), gate), is_bounded=True) for n in range(4)]
    assert taken == [True, True, False, False]
    assert mailboxes.put(HERE, noting(told, "deletion"))
    assert mailboxes.put(THERE, noting(told, "elsewhere"), is_bounded=True)
    gate.set()
    await empty(mailboxes)
    assert told == ["0", "1", "deletion", "elsewhere"]
    assert set(idle) == {HERE, THERE}
    assert not len(mailboxes)


async def test_whoever_runs_something_in_a_mailbox_gets_its_result_or_its_error() -> None:
    mailboxes, told = Mailboxes(), list[str]()
    mailboxes.put(HERE, noting(told, "before"))

    async def count() -> int:
        return len(told)

    async def fail() -> int:
        raise LookupError

    assert await mailboxes.run(HERE, count) == 1
    with pytest.raises(LookupError):
        await mailboxes.run(HERE, fail)
    assert await mailboxes.run(HERE, count) == 1


async def test_closing_lets_the_running_step_end_and_begins_no_other() -> None:
    mailboxes, told, gate = Mailboxes(), list[str](), asyncio.Event()
    mailboxes.put(HERE, noting(told, "running", gate))
    mailboxes.put(HERE, noting(told, "never"))
    mailboxes.put(THERE, noting(told, "stuck", asyncio.Event()))
    await asyncio.sleep(0)
    waiting = asyncio.create_task(mailboxes.run(HERE, noting(told, "nor this")))
    await asyncio.sleep(0)
    closing = asyncio.create_task(mailboxes.close(0.05))
    await asyncio.sleep(0)
    gate.set()
    await asyncio.wait_for(closing, TIMEOUT_SECONDS)
    assert told == ["running"]
    assert not len(mailboxes)
    for late in (waiting, mailboxes.run(THERE, noting(told, "too late"))):
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(late, TIMEOUT_SECONDS)


# --- the dispatcher over them


@dataclass(eq=False)
class Written:
    """A message, and what has become of it according to the rules. Its look-up lasts until `gate` is set."""

    id: str
    conversation: str
    text: str
    gate: asyncio.Event
    is_gate_before_routing: bool
    newest_text: str = ""
    is_edit_waiting: bool = False
    is_deleted: bool = False
    has_begun_when_deleted: bool = False


Op = tuple[str, Written]


@dataclass
class Expected:
    """What a conversation must have come to: its operations in their order, of which none overtakes another."""

    waiting: list[Op] = field(default_factory=list)
    questions: dict[str, str] = field(default_factory=dict)  # by message, in the order in which they were accepted
    asked: list[str] = field(default_factory=list)  # the messages that ever reached the bot

    def go_on(self) -> None:
        while self.waiting:
            what, message = self.waiting[0]
            if what == "post" and not self.is_over(message):
                if not message.gate.is_set():
                    return
                self.questions[message.id] = message.text
                self.asked.append(message.id)
            elif what == "edit":
                message.is_edit_waiting = False
                if message.id in self.questions:
                    self.questions[message.id] = message.newest_text
            elif what == "delete":
                self.questions.pop(message.id, None)
            self.waiting.pop(0)

    def is_over(self, message: Written) -> bool:
        """Whether a delivery of it has nothing to do, not even a look-up."""
        is_refused = message.is_deleted and not message.has_begun_when_deleted
        has_to_look_first = message.is_gate_before_routing and not message.gate.is_set()
        return (message.id in self.asked or is_refused) and not has_to_look_first


class Conversations(RuleBasedStateMachine):
    """Posts, edits, deletions and look-ups of any length, in any interleaving, in several conversations."""

    messages = Bundle("messages")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.platform, self.handler = MemoryPlatform(), MemoryChatHandler()
        self.dispatcher = Dispatcher(self.platform, self.handler, Pace(0.0, 1e6))
        self.expected: dict[str, Expected] = {}
        self.num_messages = 0

    def teardown(self) -> None:
        async def end() -> None:
            await self.dispatcher.close(0)

        self.loop.run_until_complete(end())
        self.loop.close()

    # -- what happens

    @rule(target=messages, conversation=st.sampled_from("ABC"), is_slow=st.booleans(), is_gate_before_routing=st.booleans())
    def write(self, conversation: str, is_slow: bool, is_gate_before_routing: bool) -> Written:
        self.num_messages += 1
        id_ = str(self.num_messages)
        message = Written(id_, conversation, f"question {id_}", asyncio.Event(), is_gate_before_routing)
        if not is_slow:
            message.gate.set()
        self._deliver(message)
        return message

    @rule(message=messages)
    def deliver_again(self, message: Written) -> None:
        self._deliver(message)

    @rule(message=messages, number=st.integers(1, 3))
    def edit(self, message: Written, number: int) -> None:
        message.newest_text = f"{message.text}, version {number}"
        self._do(lambda: self.dispatcher.edited(self._post(message, message.newest_text, is_mention=False)))
        if not message.is_edit_waiting:
            message.is_edit_waiting = True
            self._expect(message).waiting.append(("edit", message))

    @rule(message=messages)
    def delete(self, message: Written) -> None:
        expected = self._expect(message)
        expected.go_on()
        if not message.is_deleted:
            is_at_work = expected.waiting[:1] == [("post", message)] and message.id not in expected.asked
            message.has_begun_when_deleted = is_at_work and not message.is_gate_before_routing
        message.is_deleted = True
        self._do(lambda: self.dispatcher.deleted("w", message.id))
        expected.waiting.append(("delete", message))

    @rule(message=messages)
    def end_look_up(self, message: Written) -> None:
        self._do(message.gate.set)

    # -- what must be so

    @invariant()
    def everything_that_can_be_done_is_done_and_nothing_else(self) -> None:
        for expected in self.expected.values():
            expected.go_on()
        wanted = {name: expected.questions for name, expected in self.expected.items() if expected.questions}

        async def settle() -> None:
            for _ in range(500):
                await asyncio.sleep(0)
                if self._accepted() == wanted:
                    break

        self.loop.run_until_complete(settle())
        accepted = self._accepted()
        assert accepted == wanted
        assert {name: list(questions) for name, questions in accepted.items()} == {name: list(q) for name, q in wanted.items()}
        for name, expected in self.expected.items():
            ids = [message.message_id for message in self.handler.messages if message.key.thread == name]
            assert list(dict.fromkeys(ids)) == expected.asked

    def _accepted(self) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = {}
        for turn_id in sorted(self.handler.platform_turns):
            turn = self.handler.platform_turns[turn_id]
            assert turn.message_id not in found.setdefault(turn.key.thread, {})
            found[turn.key.thread][turn.message_id] = self.handler._turns[turn_id].question
        return found

    def _deliver(self, message: Written) -> None:
        self._do(lambda: self.dispatcher.posted(self._post(message, message.text)))
        self._expect(message).waiting.append(("post", message))

    def _expect(self, message: Written) -> Expected:
        return self.expected.setdefault(message.conversation, Expected())

    def _post(self, message: Written, text: str, *, is_mention: bool = True) -> Post:
        async def attachments() -> Sequence[Attachment]:
            if not message.is_gate_before_routing:
                await message.gate.wait()
            return ()

        whole = post(message.id, text, thread=message.conversation, is_mention=is_mention, attachments=attachments)
        if not is_mention:
            return replace(whole, attachments=_nothing)

        async def complete() -> Post:
            if message.is_gate_before_routing:
                await message.gate.wait()
            return whole

        return replace(whole, complete=complete)

    def _do(self, act: Callable[[], None]) -> None:
        async def run() -> None:
            act()

        self.loop.run_until_complete(run())


async def _nothing() -> Sequence[Attachment]:
    return ()


TestConversations = Conversations.TestCase
TestConversations.settings = settings(max_examples=60, stateful_step_count=30)


# --- a full mailbox, and the mark of what was seen


class Away:
    """A dispatcher in front of a platform that can be read back, and that has been connected once."""

    def __init__(self, **options: Any) -> None:
        self.platform, self.handler = MemoryPlatform(), MemoryChatHandler()
        self.dispatcher = Dispatcher(self.platform, self.handler, Pace(0.0, 1e6), **options)
        self.written: list[Post] = []
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
    assert away.num_read_back == 1
    await away.settled()
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
    away, gate, failures = Away(max_posts=1), asyncio.Event(), [OSError("away"), OSError("away")]
    read_missed = away.read_missed

    async def fail_twice(since: datetime) -> Missed:
        if failures:
            raise failures.pop()
        return Missed((await read_missed(since)).posts[:2])  # and not all at once

    away.read_missed = fail_twice  # type: ignore[method-assign]
    await away.online()
    for number in range(1, 5):
        away.write(str(number), attachments=slow(gate))
    gate.set()
    await away.asked("1", "2", "3", "4")
    assert not failures
    await away.dispatcher.close()


async def test_what_is_left_and_gone_from_the_platform_is_let_go(caplog: pytest.LogCaptureFixture) -> None:
    away, gate = Away(max_posts=1), asyncio.Event()
    await away.online()
    away.write("1", attachments=slow(gate))
    away.write("2")
    del away.written[1]
    gate.set()
    await away.asked("1")
    await away.settled()
    await asyncio.wait_for(asyncio.gather(*away.dispatcher._tasks._running), TIMEOUT_SECONDS)
    await away.dispatcher.close()
    assert "1 messages on memory that were left are gone" in caplog.text
    assert await away.mark() > away.written[0].sent_at


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


async def test_a_post_whose_step_failed_is_looked_for_again(caplog: pytest.LogCaptureFixture) -> None:
    away = Away()
    await away.online()
    find_message = away.handler.find_message

    async def fail(*_: object) -> None:
        raise OSError("the database is away")

    away.handler.find_message = fail  # type: ignore[assignment, method-assign]
    lost = away.write("1")
    await empty(away.dispatcher._mailboxes)
    away.handler.find_message = find_message  # type: ignore[method-assign]
    assert await away.mark() == lost.sent_at
    coming = asyncio.create_task(away.online())
    await away.asked("1")
    await coming
    assert await away.mark() > lost.sent_at
    await away.dispatcher.close()


async def test_a_catch_up_that_fails_is_made_up_for_by_the_next() -> None:
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
    await empty(away.dispatcher._mailboxes)
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
    assert "deleted your question" in await away.dispatcher.forget("u-ann")
    away.write("2")
    await away.asked("1", "2")
    await away.settled()
    assert "I have forgotten this chat" in await away.dispatcher.reset(ThreadKey("memory", "w", "c", "t"))
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
