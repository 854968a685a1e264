"""The pieces of an answer, from the objects that a model server sends.

What an object lacks, or has in another form than is usual, is passed over where the answer can do without it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable
from dataclasses import dataclass
from typing import Any

from model_server.errors import EngineFailed
from model_server.remote.events import ErrorInAnswer, read_events, unreadable
from model_server.remote.refusals import BROKEN_OFF, Refusal
from model_server.remote.thinking import ThinkingFilter
from model_server.types import FinishReason, Usage

_LENGTH = ("length", "model_length", "max_length", "max_tokens", "max_output_tokens")
_FILTERED = ("sensitive", "safety", "recitation", "prohibited_content", "blocklist", "spii", "refusal")
_BROKEN = ("error", "abort", "aborted", "network_error", "insufficient_system_resource", "timeout", "cancelled")
_THOUGHTS = ("reasoning_content", "reasoning", "reasoning_details", "thinking")


@dataclass(frozen=True, slots=True)
class Piece:
    """The content of one event of an answer; None or empty for what it does not have. `has_thinking`: the model has thought, which
    is not shown."""

    text: str = ""
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    has_thinking: bool = False


async def read_pieces(chunks: AsyncIterable[bytes], thinking: ThinkingFilter | None = None) -> AsyncGenerator[Piece, None]:
    """Yields the pieces of an answer until its end, however that is marked; one of them has a finish reason unless it broke off.

    Raises `ErrorInAnswer` when the server reports an error, and for what is no answer.
    """
    answer = _Answer(thinking or ThinkingFilter())
    try:
        async for event in read_events(chunks):
            yield answer.end() if event is None else answer.take(event)
    except (ValueError, TypeError, AttributeError, KeyError, IndexError, RecursionError):
        raise unreadable() from None


class _Answer:
    """What is known of an answer while its events come."""

    def __init__(self, thinking: ThinkingFilter) -> None:
        self._thinking = thinking
        self._has_deltas = self._has_tool_call = self._has_ended = False
        self._half = ""  # of a character, which some servers split into two escapes of JSON
        self._index: object = None  # of the choice that is our answer
        self._last: dict[str, Any] | None = None  # the event that ended an answer whose text had begun before

    def take(self, event: dict[str, Any]) -> Piece:
        usage = _usage(event)
        choice = self._choice(event.get("choices"))
        if choice is None or (event == self._last and self._has_ended):  # some gateways send the last event twice
            return Piece(usage=usage)
        has_begun = self._has_deltas
        part, text = self._said(choice)
        self._has_tool_call |= bool(part.get("tool_calls") or part.get("function_call"))
        reason = _finish_reason(choice.get("finish_reason"))
        if reason is FinishReason.STOP and self._has_tool_call:
            reason = FinishReason.TOOL_CALL
        text = self._thinking.feed(self._whole_characters(text))
        if reason is not None and not self._has_ended:
            self._has_ended = True
            self._last = event if has_begun else None
            text += self._thinking.end(is_cut=reason is FinishReason.LENGTH)
        has_thinking = self._thinking.has_thinking or any(part.get(name) for name in _THOUGHTS)
        return Piece(text, reason, usage, has_thinking)

    def end(self) -> Piece:
        """The piece for a server's word that this was all. It is one even without a finish reason, which some never give."""
        if self._has_ended:
            return Piece()
        text = self._thinking.end(is_cut=False)
        reason = FinishReason.TOOL_CALL if self._has_tool_call else FinishReason.STOP
        return Piece(text, reason, has_thinking=self._thinking.has_thinking)

    def _whole_characters(self, text: str) -> str:
        """The text without what no store takes: halves of characters, and NUL."""
        text, self._half = self._half + text, ""
        if "\ud800" <= text[-1:] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        return text.replace("\0", "").encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")

    def _choice(self, choices: Any) -> dict[str, Any] | None:
        """The part of an event that belongs to our answer: some servers give several answers though one is wanted. Raises
        ValueError."""
        if choices and not isinstance(choices, list):
            raise ValueError("not a list of choices")
        ours = list(filter(None, choices or []))
        if self._index is None and ours:
            indices = [choice.get("index") for choice in ours]
            self._index = 0 if 0 in indices else indices[0]
        return next((choice for choice in ours if choice.get("index") in (None, self._index)), None)

    def _said(self, choice: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """The part of a choice that has its words, and these. A `message` beside deltas repeats the whole."""
        delta, message = choice.get("delta"), choice.get("message")
        if delta:
            text = _text(delta.get("content")) or _text(delta.get("refusal"))
            self._has_deltas |= bool(text)
            if text or not message:
                return delta, text
        if message and not self._has_deltas:
            return message, _text(message.get("content")) or _text(message.get("refusal"))
        return {}, "" if delta or message else _text(choice.get("text"))


def _text(content: object) -> str:
    """The text of a message's content: a string, or parts, of which those that are no text are passed over."""
    match content:
        case None | bool():
            return ""
        case str():
            return content
        case int() | float():  # from a language that makes numbers of what looks like one
            return str(content)
        case list():
            return "".join(map(_text, content))
        case {"type": "text" | "output_text" | None, "text": text} | {"text": str(text)}:
            return _text(text)
        case {"type": str()}:  # a picture, or thinking
            return ""
    raise ValueError("not an answer")


def _finish_reason(reason: object) -> FinishReason | None:
    """What a finish reason means. Servers have names of their own, and several that mean none yet. Raises `ErrorInAnswer`."""
    if isinstance(reason, dict):
        reason = reason.get("type")
    if not isinstance(reason, str):
        return FinishReason.STOP if reason else None
    name = reason.strip().lower()
    if name in ("", "null", "none"):
        return None
    if name in _BROKEN:
        raise ErrorInAnswer(Refusal(EngineFailed(BROKEN_OFF), "it broke off by itself"))
    if name in _LENGTH:
        return FinishReason.LENGTH
    if "tool" in name or "function" in name:
        return FinishReason.TOOL_CALL
    if "filter" in name or name in _FILTERED:
        return FinishReason.FILTERED
    return FinishReason.STOP


def _usage(event: dict[str, Any]) -> Usage | None:
    """The token counts of an event; None unless both are there."""
    other = event.get("x_groq")
    for usage in (event.get("usage"), other.get("usage") if isinstance(other, dict) else None):
        if isinstance(usage, dict):
            prompt, completion = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
            if prompt is not None and completion is not None:
                details = usage.get("prompt_tokens_details")
                cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else None
                return Usage(prompt, cached or 0, completion)
    return None


def _count(number: object) -> int | None:
    return number if isinstance(number, int) and not isinstance(number, bool) and number >= 0 else None
