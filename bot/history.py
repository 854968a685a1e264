"""Fitting a chat into the context window.

Rules: the oldest turns are left out first, as a whole; the newest question and every picture always stay (a picture of a turn that
is left out moves to the oldest question that stays); no more turns are left out than necessary.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from model_server.errors import PromptTooLong
from model_server.types import Image, Message, Role


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question with its pictures, and its answer; the newest question has none yet."""

    question: str
    images: tuple[Image, ...] = ()
    answer: str | None = None
    token_ids: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class FittedHistory:
    """The messages that fit into the model's context, how many older ones were left out, and their size in tokens."""

    messages: tuple[Message, ...]
    num_dropped: int
    num_tokens: int


CountTokens = Callable[[Sequence[Message]], Awaitable[int]]


async def fit_history(exchanges: Sequence[Exchange], max_tokens: int, num_prompt_tokens: CountTokens) -> FittedHistory:
    """Keep as many of the newest exchanges as fit into a prompt of `max_tokens` tokens.

    The last exchange is the open question. Raises PromptTooLong if not even that one fits.
    """

    async def drop(num_dropped: int) -> FittedHistory:
        messages = to_messages(exchanges, num_dropped)
        return FittedHistory(messages, num_dropped, await num_prompt_tokens(messages))

    whole = await drop(0)
    if whole.num_tokens <= max_tokens:
        return whole
    best = await drop(len(exchanges) - 1)
    if best.num_tokens > max_tokens:
        raise PromptTooLong(best.num_tokens, max_tokens)
    low, high = 1, best.num_dropped  # dropping `high` fits, dropping `low - 1` does not
    while low < high:
        middle = await drop((low + high) // 2)
        if middle.num_tokens <= max_tokens:
            best, high = middle, middle.num_dropped
        else:
            low = middle.num_dropped + 1
    return best


def to_messages(exchanges: Sequence[Exchange], num_dropped: int) -> tuple[Message, ...]:
    """Alternating messages without the oldest `num_dropped` exchanges, whose pictures move to the first remaining question."""
    images = tuple(image for exchange in exchanges[:num_dropped] for image in exchange.images)
    messages = []
    for exchange in exchanges[num_dropped:]:
        messages.append(Message(Role.USER, exchange.question, images + exchange.images))
        images = ()
        if exchange.answer is not None:
            messages.append(Message(Role.ASSISTANT, exchange.answer, token_ids=exchange.token_ids))
    return tuple(messages)
