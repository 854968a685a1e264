"""What the errors of model servers mean, whether they come as a status or inside an answer.

A server's words are read here, but never shown or logged, because some servers quote the question in them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from model_server.errors import EngineFailed, ModelServerError, PromptTooLong, QueueFull

TELL = "Please tell the person who runs me."
LATER = "Please ask again in a little while."
AWAY = f"The model server cannot be reached right now. {LATER}"
BUSY = f"The model server is very busy right now. {LATER}"
LOADING = f"The model is still being loaded. {LATER}"
NO_WORD = f"The model server took the question and then broke off. {LATER}"
SILENT = f"The model server has been silent for too long. {LATER}"
BROKEN_OFF = "The model server broke off in the middle of the answer. Please ask again."
NOT_UNDERSTOOD = f"The model server gave an answer that I cannot read. {TELL}"
FILTERED = "The model server's content filter does not let this through. Please ask in another way, or about another picture."

OPTIONAL_FIELDS = ("stream_options", "stream", "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "seed")
_RARE_FIELDS = frozenset({"stream_options", "top_k", "seed"})  # those that the oldest form of the protocol lacks
_MAX_CHARACTERS = 20_000  # of an error, that are looked at
_QUOTES = ("input", "ctx", "inputs", "messages", "prompt")  # where a server's error has what it was asked
# Where servers and gateways have an error that is all they answer; the last one is MiniMax's.
_WHOLE_ERRORS = ("detail", "errors", "message", "msg", "error_msg", "errorMsg", "errorMessage", "base_resp")
_TEMPORARY = (408, 425, 429, 502, 503, 504, 529)
_MIN_CONTEXT = 512  # what is less is no context length of a model that looks at pictures

# Servers phrase everything differently; these are parts of their messages.
_TOO_LONG = re.compile(
    r"context[ _-]?(length|size|window|overflow)|context the overflows|exceed_context"
    r"|max(imum)?[ _](model|prompt|input|sequence|seq)[ _]len|max_tokens must be at least 1"
    r"|(?<!took )(?<!taking )\btoo long|too many (input |prompt )?tokens|input is too large to process|\brequest too large"
    r"|range of input length|exceeds? (the )?max(imum)?( allowed| input| prompt)? length|model token limit"
    r"|(input|prompt)\w{0,20}\W.{0,40}tokens?\b.{0,80}(must be|exceed|greater than|too large)|must have less than \d+ tokens"
    r"|input token count|tokens in the (prompt|messages) .{0,20}exceed|status_code 1039"
    r"|超长|(prompt|输入|文本|内容|消息|上下文).{0,20}(过长|过大|超过|超出)",  # Zhipu, and gateways before others
    re.IGNORECASE | re.DOTALL,
)
# Where they give their context's length, the surest place first: some give the prompt's beside it.
_STATED_CONTEXT = [
    re.compile(rf"{place}(?: is| of| only|:|\s|\()*(\d{{3,8}})\b", re.IGNORECASE)
    for place in (
        r"\bn_ctx",
        r"max_(?:seq|model)_len",
        r"maximum (?:context|model|prompt) length",
        r"context[ _](?:length|size|window)",
    )
]
_FILTER = re.compile(
    r"content[ _-]?(filter|policy|management)|moderation|\bflagged\b|data_?inspection|inappropriate content"
    r"|safety (system|setting|filter|polic)|new_sensitive|敏感|不安全|违规|违禁",  # MiniMax; Zhipu, Baidu
    re.IGNORECASE,
)
_NO_CREDIT = re.compile(
    r"insufficient[ _](user[ _])?(quota|balance|credit|fund)|payment required|欠费|余额|额度.{0,6}(不足|用尽|用完)", re.IGNORECASE
)
_KEY = re.compile(
    r"(invalid|incorrect|wrong|missing|expired|no|unauthorized)\b.{0,20}\bapi[ _-]?key|api[ _-]?key\b.{0,20}not valid"
    r"|\blogin fail|(无效|错误|过期).{0,6}(令牌|密钥)|(令牌|密钥|api ?key).{0,6}(无效|错误|过期|不正确)",
    re.IGNORECASE,
)
_LOADING = re.compile(r"\bloading\b|still being loaded|warming up|starting up|\bcold start", re.IGNORECASE)
_BUSY = re.compile(
    r"rate.?limit|too many requests|overloaded|\bbusy\b|queue (is )?full|at capacity|pending requests|繁忙|过载|饱和|并发数过高",
    re.IGNORECASE,
)
_NO_MEMORY = re.compile(r"out of memory|insufficient memory|not enough memory|more system memory", re.IGNORECASE)
_NO_MODEL = re.compile(
    r"model\b.{0,100}(not found|not exist|n.t exist|not a valid|not available)|(unknown|invalid|no such|unsupported|valid) model\b"
    r"|no models? (is |are )?(currently )?loaded|model_?not_?(found|exist)|invalid_model|模型.{0,40}不存在|不存在.{0,6}模型",
    re.IGNORECASE | re.DOTALL,
)
_NO_IMAGES = re.compile(
    r"\bimage|\bpictures?\b|\bvision\b|multi-?modal|mmproj|content must be a (valid )?string|content.{0,40}valid string",
    re.IGNORECASE,
)


class NoModel(EngineFailed):
    """The server does not have the model that it was asked for. It may have another one by now."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What an error means. `error` is for the person who asked, `advice` for the operator.

    `is_temporary`: the same question may be answered a little later. `fields`: optional fields of the request that may be the
    reason, so that it can be asked once more without them.
    """

    error: ModelServerError
    advice: str
    is_temporary: bool = False
    fields: frozenset[str] = frozenset()


def refusal(status: int, body: bytes) -> Refusal:
    """Interpret an error response, or an error inside an answer: its HTTP status (or the code that it gives for one) and its
    text."""
    words = _error_words(body)
    if 300 <= status < 400:
        return Refusal(EngineFailed(AWAY), "it redirects, and the API key is not sent elsewhere: give the address that it leads to")
    if status != 429 and _TOO_LONG.search(words):
        advice = "the chat is longer than its model's context: set the engine's context length to what it is"
        return Refusal(PromptTooLong(max_tokens=_stated_context(words)), advice)
    if _FILTER.search(words):
        return Refusal(EngineFailed(FILTERED), "its content filter refuses this question")
    if status == 402 or _NO_CREDIT.search(words):
        return Refusal(
            EngineFailed(f"The account at the model server has no credit left. {TELL}"), "the API key's account has to be paid for"
        )
    if status in (401, 403) or _KEY.search(words):
        return Refusal(EngineFailed(f"The model server does not let me in. {TELL}"), "it refuses the API key")
    if status in _TEMPORARY or (status >= 500 and _LOADING.search(words)):
        return _temporary(status, words)
    if _NO_MODEL.search(words):
        return _no_model()
    unexplained = _unexplained(status, words)
    if status in (400, 422) or status >= 500:
        named = frozenset(name for name in OPTIONAL_FIELDS if re.search(rf"(?<![\w-]){name}(?![\w-])", words))
        rare = _RARE_FIELDS if status in (400, 422) and not _NO_IMAGES.search(words) else frozenset()
        return Refusal(unexplained.error, unexplained.advice, fields=named or rare)
    return unexplained


def _no_model() -> Refusal:
    sentence = f"The model server does not have the model that I was told to use. {TELL}"
    return Refusal(NoModel(sentence), "it does not know the model, or the address lacks a part such as /v1")


def _temporary(status: int, words: str) -> Refusal:
    if _LOADING.search(words):
        return Refusal(EngineFailed(LOADING), "it is loading its model", is_temporary=True)
    if status in (429, 529) or _BUSY.search(words):
        return Refusal(QueueFull(BUSY), "it is busy, or limits how often it is asked", is_temporary=True)
    return Refusal(EngineFailed(AWAY), "it, or what it is behind, is not there for now", is_temporary=True)


def _unexplained(status: int, words: str) -> Refusal:
    """What is left when no cause is known that asking in another way could remedy."""
    if _NO_IMAGES.search(words):
        sentence = f"The model behind me cannot look at this picture. {TELL}"
        return Refusal(EngineFailed(sentence), "its model takes no pictures, or fewer than the chat has, or not of this kind")
    if status in (404, 405):
        return _no_model()
    if _NO_MEMORY.search(words):
        return Refusal(EngineFailed(f"The model server has run out of memory. {LATER}"), "its memory, or its GPU's, is full")
    if status == 413:
        sentence = f"The model server does not take a request as large as this one with its picture. {TELL}"
        return Refusal(EngineFailed(sentence), "it, or a proxy before it, limits the size of requests: allow for larger ones")
    return Refusal(EngineFailed(f"The model server could not answer this. {TELL}"), "see its own log")


def error_in(event: dict[str, Any], *, is_whole: bool = False, is_marked: bool = False) -> int | None:
    """The status of the error that an event of an answer reports, 500 if it gives none; None if it reports no error.

    `is_whole`: it is the whole answer. `is_marked`: the server has sent it as an error, so that it needs no error's field.
    """
    choices = event.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    groq = event.get("x_groq")
    error = event.get("error") or choice.get("error") or (groq.get("error") if isinstance(groq, dict) else None)
    if not (
        is_marked
        or (any(error.values()) if isinstance(error, dict) else error)
        or "error" in (event.get("object"), event.get("type"))
        or event.get("error_code")  # FastChat
        or (is_whole and not choices and any(event.get(name) for name in _WHOLE_ERRORS))
    ):
        return None
    places = [error if isinstance(error, dict) else {}, event]
    for code in (place.get(name) for place in places for name in ("code", "status", "status_code", "http_status", "httpStatus")):
        if str(code).isdecimal() and 400 <= int(str(code)) < 600:
            return int(str(code))
    return 500


def error_in_body(body: bytes) -> int | None:
    """As `error_in`, of a whole body that need not be JSON."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if isinstance(answer, list) and answer:  # as Gemini wraps its errors
        answer = answer[0]
    return error_in(answer, is_whole=True) if isinstance(answer, dict) else None


def _error_words(body: bytes) -> str:
    """All texts of an error in JSON, or what is said in plain text; not those of a web page."""
    text = body[: 2**20].decode(errors="replace").strip()
    try:
        words = " ".join(_texts(json.loads(text)))
    except (ValueError, RecursionError):
        words = "" if text.startswith("<") else text
    return words[:_MAX_CHARACTERS]


def _texts(value: object, name: str = "") -> Iterator[str]:
    match value:
        case str():
            yield value
        case bool() | None:
            pass
        case int():
            yield f"{name} {value}"
        case list():
            for part in value:
                yield from _texts(part)
        case dict():
            for key, part in value.items():
                if key not in _QUOTES:
                    yield from _texts(part, key)


def _stated_context(words: str) -> int:
    """The context length in tokens that an error gives; 0 if none."""
    stated = next((found for place in _STATED_CONTEXT if (found := place.search(words))), None)
    return int(stated[1]) if stated and int(stated[1]) >= _MIN_CONTEXT else 0
