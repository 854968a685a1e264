"""The responses of our HTTP server: OpenAI's chat completions, whole or in chunks, and its error objects.

Format: https://platform.openai.com/docs/api-reference/chat/object and /chat-streaming.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, assert_never

from model_server.errors import ImageError, ModelServerError, PromptTooLong, QueueFull, RequestRefused, ShuttingDown
from model_server.serve.request import BadRequest
from model_server.types import FinishReason, Usage

RETRY_AFTER_SECONDS = 5


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
        held, self._held = self._held, ""
        return held


def _overlap(text: str, string: str) -> int:
    """Length of the longest end of the text that is a beginning of the string, in characters."""
    return next((n for n in range(min(len(string) - 1, len(text)), 0, -1) if text.endswith(string[:n])), 0)


@dataclass(frozen=True, slots=True)
class Completion:
    """Makes the response objects of one answer."""

    completion_id: str
    model: str
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, text: str, finish_reason: str, usage: Usage) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
        return {**self._head("chat.completion"), "choices": [choice], "usage": _usage(usage)}

    def chunk(self, delta: dict[str, str], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return event({**self._head("chat.completion.chunk"), "choices": [choice]})

    def usage_chunk(self, usage: Usage) -> bytes:
        return event({**self._head("chat.completion.chunk"), "choices": [], "usage": _usage(usage)})

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.completion_id, "object": kind, "created": self.created, "model": self.model}


def event(content: dict[str, Any]) -> bytes:
    """Encode a server-sent event (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""
    return b"data: " + json.dumps(content).encode() + b"\n\n"


def finish_reason_name(reason: FinishReason) -> str:
    match reason:
        case FinishReason.LENGTH | FinishReason.FILTERED:
            return reason.value
        case FinishReason.STOP | FinishReason.CANCELLED | FinishReason.TOOL_CALL:  # there is no tool call in the answer
            return "stop"
        case _ as never:
            assert_never(never)


def error_object(sentence: str, kind: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": sentence, "type": kind, "param": param, "code": code}}


def describe_error(error: ModelServerError | BadRequest) -> tuple[int, dict[str, Any], dict[str, str]]:
    """HTTP status, body and headers for an error that has a sentence."""
    sentence = str(error)
    later = {"Retry-After": str(RETRY_AFTER_SECONDS)}
    match error:
        case BadRequest():
            return error.status, error_object(sentence, "invalid_request_error", error.param, error.code), {}
        case QueueFull():
            return 429, error_object(sentence, "rate_limit_error", code="queue_full"), later
        case ShuttingDown():
            return 503, error_object(sentence, "server_error", code="shutting_down"), later
        case PromptTooLong():
            return 400, error_object(sentence, "invalid_request_error", "messages", "context_length_exceeded"), {}
        case ImageError():
            return 400, error_object(sentence, "invalid_request_error", "messages", "invalid_image"), {}
        case RequestRefused():
            return 400, error_object(sentence, "invalid_request_error"), {}
        case _:
            return 500, error_object(sentence, "server_error"), {}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.num_prompt_tokens,
        "completion_tokens": usage.num_completion_tokens,
        "total_tokens": usage.num_prompt_tokens + usage.num_completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.num_cached_tokens},
    }
