"""The conversations that both sides have, and their timing.

Each chat has its own picture and a few turns; each turn's answer is part of the next turn's prompt.
"""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import assert_never

import numpy as np
from PIL import Image as PilImage

from model_server.images import read_image
from model_server.loop import InferenceLoop
from model_server.types import ChatRequest, Delta, Finished, Image, Message, Queued, Role, SamplingParams

QUESTIONS = (
    "Please describe this picture for somebody who cannot see it, the most important thing first, in a few short sentences.",
    "What is in the background, how far away does it seem to be, and which colours does it have?",
    "Is there anything in this picture that you would not expect to see in a place like this one, and why?",
    "What could have happened just before, and what do you think is going to happen next?",
)
_TICK_SECONDS = 0.005


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer. `token_times` are times on `time.perf_counter` in seconds, one for each token of the answer."""

    asked_at: float
    token_times: tuple[float, ...]
    token_ids: tuple[int, ...]
    num_tokens: int
    num_cached_tokens: int = 0

    @property
    def first_token_seconds(self) -> float:
        return self.token_times[0] - self.asked_at


@dataclass(slots=True)
class Chat:
    """One simulated person's chat about a picture, with what each turn took."""

    image: Image
    messages: list[Message] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)

    def ask(self) -> tuple[Message, ...]:
        """The prompt of the next turn."""
        images = () if self.messages else (self.image,)
        self.messages.append(Message(Role.USER, QUESTIONS[len(self.turns) % len(QUESTIONS)], images))
        return tuple(self.messages)

    def answer(self, text: str, turn: Turn) -> None:
        self.messages.append(Message(Role.ASSISTANT, text, token_ids=turn.token_ids or None))
        self.turns.append(turn)

    def about(self, image: Image) -> Chat:
        """The same chat about another picture: of the same length, with nothing of it in the engine's cache."""
        first = Message(Role.USER, self.messages[0].text, (image,))
        return Chat(image, [first, *self.messages[1:]], list(self.turns))


def make_chats(num_chats: int, seed: int) -> list[Chat]:
    """Make chats with pictures: 640 x 480 pixels, soft patches of colour, JPEG. The same `seed` gives the same pictures."""
    return [Chat(_image(seed * 1000 + number)) for number in range(num_chats)]


def _image(seed: int) -> Image:
    patches = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    PilImage.fromarray(patches).resize((640, 480), PilImage.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
    return read_image(buffer.getvalue(), f"picture {seed}")


async def converse(loop: InferenceLoop, chat: Chat, num_turns: int, num_new_tokens: int, on_turn: Callable[[], None]) -> None:
    """Ask `num_turns` questions, each after the answer to the one before. Raises a `ModelServerError`."""
    for _ in range(num_turns):
        request = ChatRequest("bench", chat.ask(), SamplingParams(num_new_tokens, temperature=0))
        asked_at = time.perf_counter()
        times: list[float] = []
        finished: Finished | None = None
        async for event in loop.submit(request):
            match event:
                case Queued():
                    pass
                case Delta():
                    times += [time.perf_counter()] * max(1, len(event.token_ids))
                case Finished():
                    finished = event
                case _ as never:
                    assert_never(never)
        assert finished is not None
        times = times or [time.perf_counter()]
        turn = Turn(
            asked_at, tuple(times), finished.token_ids, finished.usage.num_completion_tokens, finished.usage.num_cached_tokens
        )
        chat.answer(finished.text, turn)
        on_turn()


async def converse_all(
    loop: InferenceLoop, chats: Iterable[Chat], num_turns: int, num_new_tokens: int, on_turn: Callable[[], None]
) -> float:
    """Have all chats at the same time. Returns the duration in seconds."""
    start = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for chat in chats:
            tasks.create_task(converse(loop, chat, num_turns, num_new_tokens, on_turn))
    return time.perf_counter() - start


@dataclass(slots=True)
class Stall:
    """The longest time, in seconds, in which the event loop ran nothing else."""

    longest_seconds: float = 0.0


@asynccontextmanager
async def watch_event_loop() -> AsyncIterator[Stall]:
    """Measure the longest time in which the event loop ran nothing else. Yields the measurement, which is updated meanwhile."""
    stall = Stall()
    asleep_since = time.perf_counter()

    def look() -> None:
        stall.longest_seconds = max(stall.longest_seconds, time.perf_counter() - asleep_since - _TICK_SECONDS)

    async def tick() -> None:
        nonlocal asleep_since
        while True:
            asleep_since = time.perf_counter()
            await asyncio.sleep(_TICK_SECONDS)
            look()

    ticking = asyncio.create_task(tick())
    try:
        yield stall
    finally:
        look()  # a stall may still be going on
        ticking.cancel()
