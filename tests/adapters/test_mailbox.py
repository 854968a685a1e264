"""Each conversation has its mailbox: in order, none waits for another, nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from adapters.base import Attachment
from adapters.conversations.dispatcher import Dispatcher
from adapters.conversations.mailbox import Conversation, Mailboxes
from adapters.conversations.pace import Pace
from adapters.post import Post
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
    mailboxes, told, gate = Mailboxes(max_posts=2), list[str](), asyncio.Event()
    taken = [mailboxes.put(HERE, noting(told, str(n), gate), is_post=True) for n in range(4)]
    assert taken == [True, True, False, False]
    assert mailboxes.put(HERE, noting(told, "deletion"))
    assert mailboxes.put(THERE, noting(told, "elsewhere"), is_post=True)
    gate.set()
    await empty(mailboxes)
    assert told == ["0", "1", "deletion", "elsewhere"]
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
