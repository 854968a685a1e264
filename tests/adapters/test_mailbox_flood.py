"""Full mailboxes, faults and absences in any interleaving: in the end everything was asked once, in its order, as it reads now."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from adapters.base import Attachment
from adapters.conversations.absence import CatchUp, Missed
from adapters.conversations.dispatcher import Dispatcher
from adapters.conversations.pace import Pace
from adapters.post import Post
from adapters.surface import TryLater
from tests.adapters.memory_platform import MemoryPlatform, post
from tests.chat_handler import MemoryChatHandler

MAX_POSTS, MAX_IN_ALL = 2, 5


@dataclass(eq=False)
class Message:
    id: str
    conversation: str
    sent_at: datetime
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    num_faults: int = 0  # of its look-up
    text: str = ""
    is_deleted: bool = False
    was_delivered: bool = False


class Flood(RuleBasedStateMachine):
    """Two messages fit into a mailbox and five into all; answers end as soon as they can."""

    messages = Bundle("messages")

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr("adapters.backoff.FIRST_SECONDS", 0.0)
        self.loop = asyncio.new_event_loop()
        self.platform, self.handler = MemoryPlatform(), MemoryChatHandler()
        self.dispatcher = Dispatcher(
            self.platform,
            self.handler,
            Pace(0.0, 1e6),
            catch_up=CatchUp(max_posts=1_000),
            max_posts=MAX_POSTS,
            max_in_all=MAX_IN_ALL,
        )
        self.written: list[Message] = []
        self.num_database_faults = 0
        self.is_online = True
        self.has_order = True
        self.coming: list[asyncio.Task[None]] = []
        for name in ("find_message", "has_chat", "retract", "ask_again"):
            setattr(self.handler, name, self._failing(getattr(self.handler, name)))
        self._run(self.dispatcher.online(self._read_missed))

    def teardown(self) -> None:
        for message in self.written:
            message.gate.set()
        self.num_database_faults = 0
        self.platform.read_faults.clear()
        if not self.is_online:
            self.come_back()
        self._run(self._rest())
        self._check()
        self._run(self.dispatcher.close(0))
        self.loop.close()
        self.patch.undo()

    # -- what happens

    @rule(target=messages, conversation=st.sampled_from("ABC"), is_slow=st.booleans(), num_faults=st.integers(0, 2))
    def write(self, conversation: str, is_slow: bool, num_faults: int) -> Message:
        number = len(self.written)
        message = Message(str(number), conversation, datetime.now(UTC) + timedelta(microseconds=number), num_faults=num_faults)
        message.text = f"question {number}"
        if not is_slow:
            message.gate.set()
        self.written.append(message)
        self.platform.written.append(self._post(message))
        if self.is_online:
            message.was_delivered = True
            self._do(lambda: self.dispatcher.posted(self._post(message)))
        return message

    @rule(message=messages)
    def deliver_again(self, message: Message) -> None:
        if self.is_online and message.was_delivered and not message.is_deleted:
            self._do(lambda: self.dispatcher.posted(self._post(message)))

    @rule(message=messages, number=st.integers(1, 3))
    def edit(self, message: Message, number: int) -> None:
        if self.is_online and not message.is_deleted:
            message.text = f"question {message.id}, version {number}"
            self.platform.written[:] = [
                self._post(message) if each.message_id == message.id else each for each in self.platform.written
            ]
            self._do(lambda: self.dispatcher.edited(self._post(message)))

    @rule(message=messages)
    def delete(self, message: Message) -> None:
        if self.is_online and not message.is_deleted:
            message.is_deleted = True
            self.platform.written[:] = [each for each in self.platform.written if each.message_id != message.id]
            self._do(lambda: self.dispatcher.deleted("w", message.id))

    @rule(message=messages)
    def end_look_up(self, message: Message) -> None:
        self._do(message.gate.set)

    @rule(num=st.integers(1, 3))
    def break_database(self, num: int) -> None:
        self.num_database_faults = num

    @rule(num=st.integers(1, 3))
    def break_reading(self, num: int) -> None:
        self.platform.read_faults += [TryLater()] * num

    @rule()
    def go_away(self) -> None:
        if not all(task.done() for task in self.coming):
            self.has_order = False  # away again before it was made up for: all is answered, but perhaps not in its order
        self.is_online = False
        self._do(self.dispatcher.offline)

    @rule()
    def come_back(self) -> None:
        self.is_online = True
        self._do(lambda: self.coming.append(self.loop.create_task(self.dispatcher.online(self._read_missed))))

    @rule(num_turns=st.integers(1, 40))
    def go_on(self, num_turns: int) -> None:
        self._run(self._turns(num_turns))

    # -- what must be so

    @invariant()
    def what_waits_is_bounded(self) -> None:
        assert len(self.dispatcher._backlog._open) <= MAX_IN_ALL
        for left in self.dispatcher._backlog._left.values():
            assert len(left.spans) <= 1

    def _check(self) -> None:
        questions = {turn.message_id: self.handler._turns[turn.turn_id].question for turn in self.handler.platform_turns.values()}
        assert questions == {message.id: message.text for message in self.written if not message.is_deleted}
        assert len(questions) == len(self.handler.platform_turns)
        for conversation in "ABC" if self.has_order else "":
            asked = [message.message_id for message in self.handler.messages if message.key.thread == conversation]
            in_order = [message.id for message in self.written if message.id in asked and message.conversation == conversation]
            assert list(dict.fromkeys(asked)) == in_order
        assert self.dispatcher._backlog.oldest() is None
        assert not self.dispatcher._newest_edits

    # -- inside

    async def _rest(self) -> None:
        """Until nothing is going on any more."""
        for _ in range(2_000):
            await self._turns(10)
            is_reading = bool(self.dispatcher._read_back._tasks._running) or not all(task.done() for task in self.coming)
            if not is_reading and not len(self.dispatcher._mailboxes):
                break
        for task in self.coming:
            task.result()

    async def _turns(self, num: int) -> None:
        for _ in range(num):
            await asyncio.sleep(0)
            while not self.handler._new_answers.empty():
                answer = self.handler._new_answers.get_nowait()
                if answer.ended is None:
                    await self.handler.end(answer)

    async def _read_missed(self, since: datetime) -> Missed:
        await asyncio.sleep(0)
        there = list(self.platform.written)
        await asyncio.sleep(0)
        return Missed(there)

    def _failing(self, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def fail(*arguments: Any) -> Any:
            if self.num_database_faults:
                self.num_database_faults -= 1
                raise OSError("the database is away")
            return await call(*arguments)

        return fail

    def _post(self, message: Message) -> Post:
        text = message.text

        async def attachments() -> Sequence[Attachment]:
            await message.gate.wait()
            if message.num_faults:
                message.num_faults -= 1
                raise TryLater
            return ()

        whole = post(message.id, text, thread=message.conversation, is_mention=True, attachments=attachments)
        return replace(whole, sent_at=message.sent_at)

    def _do(self, act: Callable[[], object]) -> None:
        async def run() -> None:
            act()

        self._run(run())

    def _run(self, work: Any) -> None:
        self.loop.run_until_complete(work)


TestFlood = Flood.TestCase
TestFlood.settings = settings(max_examples=60, stateful_step_count=30)
