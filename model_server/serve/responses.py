"""OpenAI's other request, a response: the same chat in other words. Nothing is kept of it but the texts of the latest answers.

Format: https://platform.openai.com/docs/api-reference/responses/create, /responses/object and /responses-streaming.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field

from model_server.serve.answer import event
from model_server.serve.messages import ChatMessage
from model_server.serve.parameters import UNSUPPORTED_IN_RESPONSES
from model_server.serve.refusal import BadRequest
from model_server.serve.request import GenerationRequest, NumTokens
from model_server.types import FinishReason, SamplingParams, Usage


def _as_items(value: object) -> object:
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


class ResponseRequest(GenerationRequest):
    """A checked request for a response; make it with `read_request`, after `resolve_references`."""

    chat_param = "input"
    unsupported = UNSUPPORTED_IN_RESPONSES

    input: Annotated[list[ChatMessage], Field(min_length=1), BeforeValidator(_as_items)]
    instructions: str | None = None
    max_output_tokens: NumTokens = None

    @property
    def chat(self) -> list[ChatMessage]:
        first = [] if self.instructions is None else [{"role": "system", "content": self.instructions}]
        return [*map(ChatMessage.model_validate, first), *self.input]

    def sampling(self, max_new_tokens: int, temperature: float) -> SamplingParams:
        return super().sampling(self.max_output_tokens or max_new_tokens, temperature)

    def check(self) -> Self:
        for number, message in enumerate(self.input):
            message.check_notes(f"input.{number}")
        return super().check()


def resolve_references(content: dict[str, Any], find_text: Callable[[str], str | None]) -> dict[str, Any]:
    """The request with our earlier answers in place of their names, which the `ai` package sends instead of them.

    Raises `BadRequest` for an answer that is not known any more."""
    items = content.get("input")
    if not isinstance(items, list):
        return content
    resolved = []
    for number, item in enumerate(items):
        if isinstance(item, dict) and item.get("type") == "item_reference":
            text = find_text(str(item.get("id")))
            if text is None:
                sentence = "I do not remember that answer any more. Send its text (in the `ai` package: with `store: false`)."
                raise BadRequest(sentence, f"input.{number}.id", "item_not_found")
            item = {"role": "assistant", "content": text}
        resolved.append(item)
    return {**content, "input": resolved}


class ResponseForm:
    """Writes one answer as a response."""

    def __init__(self, answer_id: str, request: ResponseRequest, sampling: SamplingParams) -> None:
        self.answer_id = f"resp_{answer_id}"
        self.message_id = f"msg_{answer_id}"
        self._num_events = 0
        self._fixed: dict[str, Any] = {
            "id": self.answer_id,
            "object": "response",
            "created_at": int(time.time()),
            "model": request.model,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "metadata": (request.model_extra or {}).get("metadata") or {},
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "text": {"format": {"type": "text"}},
            "truncation": "disabled",
            "background": False,
            "store": False,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
        }

    def whole(self, text: str, reason: FinishReason, usage: Usage) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        cut_by = {FinishReason.LENGTH: "max_output_tokens", FinishReason.FILTERED: "content_filter"}.get(reason)
        status = "completed" if cut_by is None else "incomplete"
        details = None if cut_by is None else {"reason": cut_by}
        return self._response(status, [self._message(status, text)], incomplete_details=details, usage=_usage(usage))

    def beginning(self) -> bytes:
        """The response and its one message, still empty."""
        message = {**self._message("in_progress", ""), "content": []}
        return (
            self._event("response.created", response=self._response("in_progress", []))
            + self._event("response.in_progress", response=self._response("in_progress", []))
            + self._event("response.output_item.added", output_index=0, item=message)
            + self._event("response.content_part.added", **self._place(), part=_text_part(""))
        )

    def piece(self, text: str) -> bytes:
        """A piece of the message's text."""
        return self._event("response.output_text.delta", **self._place(), delta=text, logprobs=[])

    def end(self, text: str, reason: FinishReason, usage: Usage) -> bytes:
        """The whole text, once in each of the places where clients look for it."""
        response = self.whole(text, reason, usage)
        return (
            self._event("response.output_text.done", **self._place(), text=text, logprobs=[])
            + self._event("response.content_part.done", **self._place(), part=_text_part(text))
            + self._event("response.output_item.done", output_index=0, item=response["output"][0])
            + self._event(f"response.{response['status']}", response=response)
        )

    def failure(self, body: dict[str, Any]) -> bytes:
        """The response, failed."""
        error = {"code": "server_error", "message": body["error"]["message"]}
        return self._event("response.failed", response=self._response("failed", [], error=error))

    def _response(self, status: str, output: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        nothing = {"error": None, "incomplete_details": None, "usage": None}
        return {**self._fixed, "status": status, "output": output, **nothing, **more}

    def _message(self, status: str, text: str) -> dict[str, Any]:
        head = {"id": self.message_id, "type": "message", "role": "assistant", "status": status}
        return {**head, "content": [_text_part(text)]}

    def _place(self) -> dict[str, Any]:
        return {"item_id": self.message_id, "output_index": 0, "content_index": 0}

    def _event(self, kind: str, **content: Any) -> bytes:
        number, self._num_events = self._num_events, self._num_events + 1
        return event({"type": kind, "sequence_number": number, **content}, kind)


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.num_prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.num_cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.num_completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.num_prompt_tokens + usage.num_completion_tokens,
    }
