"""What clients of `threadsight serve` send, and what is right: FIELD's section 5, each line with its kin.

`make clients` asks with ten clients themselves; here are their requests, and everything else that the protocol lets others send.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import quote

import pytest

from tests.model_server.served import DATA_URL, KEY, RED_CIRCLE, serving
from tests.model_server.worded_engine import WordedEngine

BASE64 = base64.b64encode(RED_CIRCLE).decode()
HEADERS = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
HELLO = [{"role": "user", "content": "Hi"}]


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Any]]:
    async with serving() as start:
        yield start


async def post(served: Any, body: Any, path: str = "/v1/chat/completions") -> tuple[int, Any]:
    status, _, answer = await served.send("POST", path, json.dumps({"model": "worded", **body}).encode(), HEADERS)
    return status, answer


def picture(image_url: object, kind: str = "image_url", **more: object) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": kind, "image_url": image_url, **more}, {"type": "text", "text": "What?"}]}]


# --- pictures: one picture, in every spelling that reaches a server

PADDED = RED_CIRCLE + b"\0" * ((4 - len(RED_CIRCLE)) % 3)  # a PNG may end in anything; this one's base64 needs padding
LETTERS = base64.b64encode(PADDED).decode()
PICTURES = [
    ({"url": DATA_URL}, "as OpenAI has it"),
    (DATA_URL, "a plain string: LangChain, Mistral's API"),
    ({"url": f"data:image/png;base64,{LETTERS.rstrip('=')}"}, "without padding"),
    ({"url": f"data:image/png;base64,{base64.urlsafe_b64encode(PADDED).decode()}"}, "in the alphabet for URLs"),
    ({"url": f"data:image/png;base64,{base64.encodebytes(PADDED).decode()}"}, "in lines, as the base64 command writes"),
    ({"url": f"data:image/png;base64, {LETTERS}\r\n"}, "spaces around it"),
    ({"url": f"data:image/png;base64,{quote(LETTERS, safe='')}"}, "percent-encoded, as JavaScript's encodeURIComponent does"),
    ({"url": f"DATA:IMAGE/PNG;BASE64,{LETTERS}"}, "upper case"),
    ({"url": f"data:image/png;charset=utf-8;base64,{LETTERS}"}, "a charset"),
    ({"url": f"data:image/png;name=a.png; base64,{LETTERS}"}, "a name, and a space"),
    ({"url": f"data:;base64,{LETTERS}"}, "no type"),
    ({"url": f"data:image/jpg;base64,{LETTERS}"}, "a type that does not exist, and is not the picture's"),
    ({"url": LETTERS}, "no data: at all, as OpenAI's reference allows and Ollama wants"),
    ({"url": DATA_URL, "detail": "low"}, "detail: this model has one resolution, and most examples send it"),
    ({"url": DATA_URL, "detail": "original"}, "detail, newest value"),
    ({"url": DATA_URL, "detail": None, "format": "image/png"}, "litellm's own note beside it"),
]


@pytest.mark.parametrize("image_url", [case[0] for case in PICTURES], ids=[case[1] for case in PICTURES])
async def test_a_picture_arrives(serve: Callable[..., Any], image_url: object) -> None:
    engine = WordedEngine()
    status, answer = await post(await serve(engine), {"messages": picture(image_url)})
    assert status == 200, answer
    [[question]] = engine.asked
    assert question.images[0].data in (RED_CIRCLE, PADDED)


async def test_a_picture_arrives_in_the_words_of_responses(serve: Callable[..., Any]) -> None:
    engine = WordedEngine()
    served = await serve(engine)
    for body, path in [
        ({"messages": picture(DATA_URL, "input_image", detail="auto")}, "/v1/chat/completions"),
        ({"input": picture(DATA_URL, "input_image", detail="auto", file_id=None)}, "/v1/responses"),
        ({"input": picture({"url": DATA_URL})}, "/v1/responses"),
    ]:
        assert (await post(served, body, path))[0] == 200
    assert [asked[0].images[0].data for asked in engine.asked] == [RED_CIRCLE] * 3


# --- messages: who says what to the model

PARTS = [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}]
ECHO: dict[str, object] = {"refusal": None, "annotations": [], "audio": None, "function_call": None, "tool_calls": None}
CHATS: list[tuple[str, list[Any], list[tuple[str, str]], str | None]] = [
    ("a string", HELLO, [("user", "Hi")], None),
    ("bare strings in a list", [{"role": "user", "content": ["Hi", "there"]}], [("user", "Hi\nthere")], None),
    ("one part without its list", [{"role": "user", "content": PARTS[0]}], [("user", "One.")], None),
    ("several parts", [{"role": "user", "content": PARTS}], [("user", "One.\nTwo.")], None),
    ("parts of Responses", [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}], [("user", "Hi")], None),
    ("an empty list", [{"role": "user", "content": []}], [("user", "")], None),
    (
        "an answer given back as the SDK's model_dump() has it",
        [*HELLO, {"role": "assistant", "content": "Yes?", **ECHO}, *HELLO],
        [("user", "Hi"), ("assistant", "Yes?"), ("user", "Hi")],
        None,
    ),
    (
        "reasoning of another server, given back",
        [*HELLO, {"role": "assistant", "content": "Yes?", "reasoning_content": "Hm."}, *HELLO],
        [("user", "Hi"), ("assistant", "Yes?"), ("user", "Hi")],
        None,
    ),
    (
        "an answer of null",
        [*HELLO, {"role": "assistant", "content": None}, *HELLO],
        [("user", "Hi"), ("assistant", ""), ("user", "Hi")],
        None,
    ),
    (
        "a refusal, in either place",
        [
            *HELLO,
            {"role": "assistant", "content": None, "refusal": "No."},
            *HELLO,
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "Never."}]},
            *HELLO,
        ],
        [("user", "Hi"), ("assistant", "No."), ("user", "Hi"), ("assistant", "Never."), ("user", "Hi")],
        None,
    ),
    (
        "two answers in a row",
        [*HELLO, {"role": "assistant", "content": "One."}, {"role": "assistant", "content": "Two."}, *HELLO],
        [("user", "Hi"), ("assistant", "One.\n\nTwo."), ("user", "Hi")],
        None,
    ),
    (
        "two questions in a row",
        [*HELLO, {"role": "user", "content": "You?"}],
        [("user", "Hi\n\nYou?")],
        None,
    ),
    (
        "a greeting before the first question",
        [{"role": "system", "content": "Be kind."}, {"role": "assistant", "content": "Hello!"}, *HELLO],
        [("user", ""), ("assistant", "Hello!"), ("user", "Hi")],
        "Be kind.",
    ),
    (
        "system text in the middle, between two answers too",
        [
            *HELLO,
            {"role": "assistant", "content": "A"},
            {"role": "system", "content": "S"},
            {"role": "assistant", "content": "B"},
            *HELLO,
        ],
        [("user", "Hi"), ("assistant", "A"), ("user", "S"), ("assistant", "B"), ("user", "Hi")],
        None,
    ),
    (
        "system text at the end",
        [*HELLO, {"role": "developer", "content": "Be brief."}],
        [("user", "Hi\n\nBe brief.")],
        None,
    ),
    ("one name: frameworks name everybody", [{**HELLO[0], "name": "user"}], [("user", "Hi")], None),
    (
        "two names: the model must know who is who",
        [{**HELLO[0], "name": "Ada"}, {"role": "user", "content": "Ho", "name": "Bo"}],
        [("user", "Ada: Hi\n\nBo: Ho")],
        None,
    ),
    ("half an emoji, as JavaScript cuts", [{"role": "user", "content": "a\ud83d"}], [("user", "a\ufffd")], None),
    ("a whole emoji, escaped", [{"role": "user", "content": "a😀"}], [("user", "a😀")], None),
]


@pytest.mark.parametrize(("chat", "told", "system"), [case[1:] for case in CHATS], ids=[case[0] for case in CHATS])
async def test_the_model_is_told(
    serve: Callable[..., Any], chat: list[Any], told: list[tuple[str, str]], system: str | None
) -> None:
    for path, field in [("/v1/chat/completions", "messages"), ("/v1/responses", "input")]:
        engine = WordedEngine()
        status, answer = await post(await serve(engine), {field: chat}, path)
        assert status == 200, answer
        assert [(message.role.value, message.text) for message in engine.asked[0]] == told
        assert engine.systems == [system]


# --- parameters that are taken: the value, and what the engine gets

NOTHING: dict[str, Any] = {}
TAKEN: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"max_tokens": -1}, NOTHING, "llama.cpp's and Ollama's word for unset"),
    ({"max_tokens": -2}, NOTHING, "Ollama's for as much as fits"),
    ({"max_tokens": 0}, NOTHING, "an empty field in a form"),
    ({"max_completion_tokens": 0, "max_tokens": 3}, {"max_new_tokens": 3}, "the newer name unset, the older one set"),
    ({"max_completion_tokens": 4, "max_tokens": 3}, {"max_new_tokens": 4}, "the newer name counts"),
    ({"max_tokens": None, "stop": None, "seed": None, "top_p": None, "temperature": None}, NOTHING, "null is unset"),
    ({"seed": 7, "temperature": 0.7}, {"seed": 7, "temperature": 0.7}, "a seed with a temperature"),
    ({"seed": 0}, {"seed": 0}, "zero is a seed"),
    ({"seed": -1}, {"seed": None}, "-1 is any"),
    ({"top_p": 0}, {"top_p": 1e-9}, "0 is the likeliest token alone"),
    ({"top_k": -1}, {"top_k": 0}, "vLLM's word for all"),
    ({"stop": []}, NOTHING, "no stop strings"),
    ({"stop": ""}, NOTHING, "an empty field of a form"),
    ({"stop": [""]}, NOTHING, "JavaScript: ''.split(',')"),
    ({"n": 1, "logprobs": False, "top_logprobs": 0, "logit_bias": {}}, NOTHING, "defaults"),
    ({"presence_penalty": 0, "frequency_penalty": 0.0, "repetition_penalty": 1.0, "min_p": 0.0}, NOTHING, "defaults"),
    ({"tools": [], "tool_choice": "auto", "parallel_tool_calls": True}, NOTHING, "no tools"),
    ({"tools": None, "tool_choice": "none", "functions": [], "function_call": "none"}, NOTHING, "no tools, older names"),
    ({"response_format": {"type": "text"}, "modalities": ["text"], "audio": None, "prediction": None}, NOTHING, "text"),
    ({"reasoning_effort": None, "verbosity": "medium", "web_search_options": None}, NOTHING, "defaults"),
    (
        {"user": "ada", "metadata": {"a": "b"}, "store": True, "service_tier": "auto", "safety_identifier": "a"},
        NOTHING,
        "of OpenAI's own service",
    ),
    ({"prompt_cache_key": "a", "prompt_cache_retention": "24h", "prompt_cache_options": {"mode": "implicit"}}, NOTHING, "as well"),
    ({"stream_options": None}, NOTHING, "null"),
    ({"stream_options": {"include_usage": True, "include_obfuscation": False}}, NOTHING, "with no stream"),
    ({"ignore_eos": False, "min_tokens": 0, "skip_special_tokens": True, "guided_json": None}, NOTHING, "vLLM's defaults"),
    ({"add_generation_prompt": True, "continue_final_message": False, "chat_template_kwargs": {}}, NOTHING, "vLLM's defaults"),
]


@pytest.mark.parametrize(("given", "sampled"), [case[:2] for case in TAKEN], ids=[f"{case[0]}: {case[2]}" for case in TAKEN])
async def test_a_parameter_is_taken(serve: Callable[..., Any], given: dict[str, Any], sampled: dict[str, Any]) -> None:
    engine = WordedEngine()
    status, answer = await post(await serve(engine, max_new_tokens=20), {"messages": HELLO, **given})
    assert status == 200, answer
    defaults = {"max_new_tokens": 20, "temperature": 0.2, "top_p": 1.0, "top_k": 0, "seed": None}
    assert {name: getattr(engine.sampling[0], name) for name in defaults} == {**defaults, **sampled}


# --- what is refused, by name

TOOL = {"type": "function", "function": {"name": "f"}}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
UNSUPPORTED, UNKNOWN = "unsupported_parameter", "unknown_parameter"
REFUSED: list[tuple[dict[str, Any], str, str | None]] = [
    ({"n": 2}, "n", UNSUPPORTED),
    ({"logprobs": True}, "logprobs", UNSUPPORTED),
    ({"top_logprobs": 3}, "top_logprobs", UNSUPPORTED),
    ({"logit_bias": {"50256": -100}}, "logit_bias", UNSUPPORTED),
    ({"presence_penalty": 0.1}, "presence_penalty", UNSUPPORTED),
    ({"frequency_penalty": -0.1}, "frequency_penalty", UNSUPPORTED),
    ({"repetition_penalty": 1.1}, "repetition_penalty", UNSUPPORTED),
    ({"min_p": 0.05}, "min_p", UNSUPPORTED),
    ({"tools": [TOOL]}, "tools", UNSUPPORTED),
    ({"tool_choice": "required"}, "tool_choice", UNSUPPORTED),
    ({"functions": [{"name": "f"}]}, "functions", UNSUPPORTED),
    ({"response_format": {"type": "json_object"}}, "response_format", UNSUPPORTED),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}}, "response_format", UNSUPPORTED),
    ({"modalities": ["text", "audio"]}, "modalities", UNSUPPORTED),
    ({"audio": {"voice": "alloy", "format": "wav"}}, "audio", UNSUPPORTED),
    ({"prediction": {"type": "content", "content": "a"}}, "prediction", UNSUPPORTED),
    ({"web_search_options": {"search_context_size": "low"}}, "web_search_options", UNSUPPORTED),
    ({"reasoning_effort": "high"}, "reasoning_effort", UNSUPPORTED),
    ({"verbosity": "low"}, "verbosity", UNSUPPORTED),
    ({"moderation": {"model": "a"}}, "moderation", UNSUPPORTED),
    ({"stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation", UNSUPPORTED),
    ({"stream_options": {"sparkles": True}}, "stream_options.sparkles", UNKNOWN),
    ({"continue_final_message": True}, "continue_final_message", UNSUPPORTED),
    ({"guided_json": {"type": "object"}}, "guided_json", UNKNOWN),
    ({"stop_token_ids": [2]}, "stop_token_ids", UNKNOWN),
    ({"chat_template_kwargs": {"enable_thinking": True}}, "chat_template_kwargs", UNKNOWN),
    ({"keep_alive": "5m"}, "keep_alive", UNKNOWN),
    ({"x" * 1000: 1}, "x" * 64, UNKNOWN),
    ({"max_tokens": -3}, "max_tokens", None),
    ({"seed": 2**63}, "seed", None),
    ({"seed": "lucky"}, "seed", None),
    ({"temperature": -0.1}, "temperature", None),
    ({"top_p": 1.1}, "top_p", None),
    ({"stop": 5}, "stop", None),
    ({"stop": [5]}, "stop.0", None),
    ({"messages": [*HELLO, {"role": "tool", "content": "4", "tool_call_id": "1"}]}, "messages.1.role", None),
    ({"messages": [*HELLO, {"role": "function", "content": "4", "name": "f"}]}, "messages.1.role", None),
    ({"messages": [*HELLO, {"role": "assistant", "content": None, "tool_calls": [CALL]}]}, "messages.1.tool_calls", UNSUPPORTED),
    ({"messages": [*HELLO, {"role": "assistant", "audio": {"id": "1"}}]}, "messages.1.audio", UNSUPPORTED),
    ({"messages": [{**HELLO[0], "images": [BASE64]}]}, "messages.0.images", UNKNOWN),
    ({"messages": [*HELLO, {**picture(DATA_URL)[0], "role": "assistant"}, *HELLO]}, "messages.1.content", UNSUPPORTED),
    ({"messages": [*HELLO, {"role": "assistant", "content": "I see"}]}, "messages", None),
    ({"messages": [{"role": "system", "content": "Be kind."}]}, "messages", None),
    ({"messages": "Hi"}, "messages", None),
    ({"messages": ["Hi"]}, "messages.0", None),
    ({"messages": [{"role": "user", "content": [5]}]}, "messages.0.content.0", None),
    ({"messages": picture({"url": DATA_URL, "detail": "huge"})}, "messages.0.content.0.image_url.detail", None),
    ({"messages": picture({"url": DATA_URL, "crop": [0, 0, 1, 1]})}, "messages.0.content.0.image_url.crop", UNKNOWN),
    ({"messages": picture(DATA_URL, min_pixels=9)}, "messages.0.content.0.min_pixels", UNKNOWN),
    ({"messages": picture(None, "input_image", file_id="file-1")}, "messages.0.content.0.image_url", None),
    ({"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]}, "messages.0.content.0", None),
    ({"messages": [{"role": "user", "content": [{"type": "file", "file": {}}]}]}, "messages.0.content.0", None),
    ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "messages.0.content.0", None),
    ({"messages": [{"role": "user", "content": [{"text": "Hi"}]}]}, "messages.0.content.0", None),
    ({"messages": picture("data:image/png;base64,A")}, "messages", "invalid_image"),
    ({"messages": picture("data:image/png;base64,")}, "messages", "invalid_image"),
    ({"messages": picture(f"data:image/png;base64,{DATA_URL}")}, "messages", "invalid_image"),
    ({"messages": picture(f"data:image/png;base64,b'{BASE64}'")}, "messages", "invalid_image"),
    ({"messages": picture("data:image/png;base64")}, "messages", "invalid_image"),
    ({"messages": picture("pictures/circle.png")}, "messages", "invalid_image"),
    ({"messages": picture("blob:http://localhost/1")}, "messages", "invalid_image"),
    ({"messages": picture("")}, "messages", "invalid_image"),
]


@pytest.mark.parametrize(("given", "param", "code"), REFUSED, ids=[f"{json.dumps(case[0])[:80]}" for case in REFUSED])
async def test_a_parameter_is_refused_by_name(
    serve: Callable[..., Any], given: dict[str, Any], param: str, code: str | None
) -> None:
    engine = WordedEngine()
    status, answer = await post(await serve(engine), {"messages": HELLO, **given})
    assert status == 400, answer
    error = answer["error"]
    assert (error["param"], error["code"], error["type"]) == (param, code, "invalid_request_error")
    assert error["message"].endswith(".")
    assert "instance of" not in error["message"]  # pydantic's words are about Python
    assert engine.asked == []
