"""What is answered when a request cannot be: OpenAI's error objects, each with a sentence for the person who can act on it."""

from __future__ import annotations

from typing import Any

from model_server.errors import ImageError, ModelServerError, PromptTooLong, QueueFull, RequestRefused, ShuttingDown

RETRY_AFTER_SECONDS = 5


class BadRequest(Exception):
    """The client can correct this request. `param` names the part of the request."""

    def __init__(self, sentence: str, param: str | None = None, code: str | None = None, status: int = 400) -> None:
        super().__init__(sentence)
        self.param = param
        self.code = code
        self.status = status


def error_object(sentence: str, kind: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """OpenAI's error object; `kind` is its type."""
    return {"error": {"message": sentence, "type": kind, "param": param, "code": code}}


def describe_error(error: ModelServerError | BadRequest, chat_param: str) -> tuple[int, dict[str, Any], dict[str, str]]:
    """HTTP status, body and headers for an error that has a sentence. `chat_param` is what the request calls its chat."""
    sentence = str(error)
    later = {"Retry-After": str(RETRY_AFTER_SECONDS)}
    match error:
        case BadRequest():
            headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}
            return error.status, error_object(sentence, "invalid_request_error", error.param, error.code), headers
        case QueueFull():
            return 429, error_object(sentence, "rate_limit_error", code="queue_full"), later
        case ShuttingDown():
            return 503, error_object(sentence, "server_error", code="shutting_down"), later
        case PromptTooLong():
            return 400, error_object(sentence, "invalid_request_error", chat_param, "context_length_exceeded"), {}
        case ImageError():
            return 400, error_object(sentence, "invalid_request_error", chat_param, "invalid_image"), {}
        case RequestRefused():
            return 400, error_object(sentence, "invalid_request_error"), {}
        case _:
            return 500, error_object(sentence, "server_error"), {}
