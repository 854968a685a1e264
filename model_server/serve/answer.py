"""The responses of our HTTP server: OpenAI's chat completions, whole or in chunks.

Format: https://platform.openai.com/docs/api-reference/chat/object and /chat-streaming.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, assert_never

from model_server.types import FinishReason, Usage


class AnswerForm(Protocol):
    """How one answer is written down, for a protocol. Its methods return server-sent events, except `whole`."""

    @property
    def answer_id(self) -> str:
        """A name that no other answer has."""

    def whole(self, text: str, reason: FinishReason, usage: Usage) -> dict[str, Any]:
        """The body of an answer that is not streamed."""

    def beginning(self) -> bytes:
        """Sent before the first piece, or before the first word about a place in the queue."""

    def piece(self, text: str) -> bytes:
        """Sent for every piece of text."""

    def end(self, text: str, reason: FinishReason, usage: Usage) -> bytes:
        """Sent after the last piece. `text` is the whole answer."""

    def failure(self, body: dict[str, Any]) -> bytes:
        """Sent in place of what is missing. `body` is an error object."""


class StopStrings:
    """Ends a text before the first of some strings, which may be split over several pieces.

    The end of a piece is held back while it may begin such a string. Once `is_found`, `add` and `flush` return "".
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = strings
        self._held = ""
        self.is_found = False

    def add(self, text: str) -> str:
        """Add a piece. Returns the text that may be sent now."""
        if self.is_found:
            return ""
        text = self._held + text
        found = [at for string in self._strings if (at := text.find(string)) >= 0]
        if found:
            self.is_found, self._held = True, ""
            return text[: min(found)]
        num_held = max((_overlap(text, string) for string in self._strings), default=0)
        self._held = text[len(text) - num_held :]
        return text[: len(text) - num_held]

    def flush(self) -> str:
        """End the text. Returns what was held back."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, string: str) -> int:
    """Length of the longest end of the text that is a beginning of the string, in characters."""
    return next((n for n in range(min(len(string) - 1, len(text)), 0, -1) if text.endswith(string[:n])), 0)


@dataclass(frozen=True, slots=True)
class Completion:
    """Writes one answer as a chat completion."""

    answer_id: str
    model: str
    has_usage_chunk: bool = False
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, text: str, reason: FinishReason, usage: Usage) -> dict[str, Any]:
        """The completion with its one choice."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish_reason_name(reason)}
        return {**self._head("chat.completion"), "choices": [choice], "usage": _usage(usage)}

    def beginning(self) -> bytes:
        """The role."""
        return self._chunk({"role": "assistant", "content": ""})

    def piece(self, text: str) -> bytes:
        """A chunk of text."""
        return self._chunk({"content": text})

    def end(self, text: str, reason: FinishReason, usage: Usage) -> bytes:
        """The finish reason, then the token counts if they are wanted."""
        last = self._chunk({}, _finish_reason_name(reason))
        if self.has_usage_chunk:
            last += event({**self._head("chat.completion.chunk"), "choices": [], "usage": _usage(usage)})
        return last + b"data: [DONE]\n\n"

    def failure(self, body: dict[str, Any]) -> bytes:
        """The error, which OpenAI's clients raise."""
        return event(body)

    def _chunk(self, delta: dict[str, str], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return event({**self._head("chat.completion.chunk"), "choices": [choice]})

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.answer_id, "object": kind, "created": self.created, "model": self.model}


def event(content: dict[str, Any], name: str | None = None) -> bytes:
    """Encode a server-sent event (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""
    head = b"" if name is None else b"event: " + name.encode() + b"\n"
    return head + b"data: " + json.dumps(content).encode() + b"\n\n"


def _finish_reason_name(reason: FinishReason) -> str:
    match reason:
        case FinishReason.LENGTH | FinishReason.FILTERED:
            return reason.value
        case FinishReason.STOP | FinishReason.CANCELLED | FinishReason.TOOL_CALL:  # there is no tool call in the answer
            return "stop"
        case _ as never:
            assert_never(never)


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.num_prompt_tokens,
        "completion_tokens": usage.num_completion_tokens,
        "total_tokens": usage.num_prompt_tokens + usage.num_completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.num_cached_tokens},
    }
