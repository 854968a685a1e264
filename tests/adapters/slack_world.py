"""The Slack adapter, running over a chat handler in memory and a loopback Slack."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from adapters.base import AnswerText
from adapters.slack.app import SlackAdapter
from tests.adapters.running_adapter import started
from tests.chat_handler import TIMEOUT_SECONDS, MemoryChatHandler, WrittenAnswer, draw_image
from tests.loopbacks.slack.people import How
from tests.loopbacks.slack.server import SlackServer
from tests.loopbacks.slack.state import Channel, File, Message, User

IMAGE = ("a.png", draw_image())


@dataclass
class SlackWorld:
    """A workspace that begins with one person and one channel; `adapter` runs in it."""

    slack: SlackServer
    handler: MemoryChatHandler
    ann: User
    general: Channel
    adapter: SlackAdapter
    stop: Callable[[], Awaitable[None]]  # stops the adapter, not the loopback Slack
    image: bytes = IMAGE[1]

    async def ask(
        self,
        text: str = "What is this?",
        files: Sequence[tuple[str, bytes] | File] = (IMAGE,),
        *,
        how: How = "normal",
        thread_ts: str | None = None,
    ) -> Message:
        """Ann mentions the bot in the channel."""
        return await self.slack.post(self.general, self.ann, f"{self.slack.mention} {text}", files, how=how, thread_ts=thread_ts)

    async def answered(self, text: str = "A circle.") -> tuple[Message, Message, WrittenAnswer]:
        """Ask and answer. Returns the question, the message below it, and the answer, once all of it is shown."""
        question = await self.ask()
        answer = await self.handler.answer_next(text)
        await self.handler.wait_delivered(answer.turn_id)
        (shown,) = self.slack.answers(self.general, question.ts)
        return question, shown, answer

    async def begun(self, text: str = "One. ") -> tuple[Message, WrittenAnswer]:
        """Ask. Returns the question, and its answer, of which the beginning is shown."""
        question = await self.ask()
        answer = await self.handler.next_answer()
        await answer.add(AnswerText(text))
        await self.slack.wait_for(lambda: self.texts(question) == [text])
        return question, answer

    def texts(self, question: Message) -> list[str]:
        """The model's text that people see below a question, message by message."""
        return [words(message) for message in self.slack.answers(question.channel, question.thread_ts or question.ts)]

    async def called(self, method: str, number: int = 1) -> None:
        """Wait until a method was called `number` times."""
        await self.slack.wait_for(lambda: len(self.slack.called(method)) >= number)


@contextlib.asynccontextmanager
async def running(slack: SlackServer, handler: MemoryChatHandler, **settings: Any) -> AsyncIterator[SlackAdapter]:
    """The adapter, connected to the loopback Slack."""
    adapter = SlackAdapter(slack.bot_token, slack.app_token, api_url=slack.api_url, **settings)
    async with started(adapter, handler):
        yield adapter


@contextlib.contextmanager
def without_rest() -> Iterator[None]:
    """Without Slack's rate limits, which other tests cover, and without long waits before a retry."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("adapters.slack.app.CHANNEL_SECONDS", 0.0)
        patch.setattr("adapters.slack.app.WRITES_PER_SECOND", 1000.0)
        patch.setattr("adapters.conversations.reply._FIRST_WAIT_SECONDS", 0.01)
        yield


@contextlib.asynccontextmanager
async def slack_world(**settings: Any) -> AsyncIterator[SlackWorld]:
    with without_rest():
        handler = MemoryChatHandler()
        async with SlackServer() as slack:
            ann, general = slack.add_user("ann"), slack.add_channel("general")
            async with contextlib.AsyncExitStack() as stack:
                adapter = await stack.enter_async_context(running(slack, handler, **settings))
                yield SlackWorld(slack, handler, ann, general, adapter, stack.aclose)


def words(message: Message) -> str:
    """The model's text that people see in one of our messages."""
    texts = (block["text"] if block["type"] == "markdown" else block["text"]["text"] for block in message.blocks if "text" in block)
    return message.markdown or "".join(texts)


def block_types(message: Message) -> list[str]:
    return [block["type"] for block in message.blocks]


def labels(message: Message) -> set[str]:
    """The labels of the buttons under a message."""
    return {label for _, label, _ in message.buttons}


async def within(wait: Awaitable[Any]) -> Any:
    async with asyncio.timeout(TIMEOUT_SECONDS):
        return await wait
