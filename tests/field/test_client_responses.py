"""What clients of `threadsight serve` send to /v1/responses, and what is right. The `ai` package asks there by default."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import openai
import pytest

from model_server.checkpoints.loading import TINY_PATH
from model_server.errors import EngineFailed
from model_server.local import open_local
from tests.model_server.served import DATA_URL, KEY, TIMEOUT_SECONDS, about, collected, serving
from tests.model_server.worded_engine import WordedEngine

HELLO = [{"role": "user", "content": "Hi"}]
COUNT = "one two three four five"


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Any]]:
    async with serving() as start:
        yield start


async def test_a_response_whole(serve: Callable[..., Any]) -> None:
    engine = WordedEngine()
    served = await serve(engine)
    response = await served.respond("Count", instructions="Be brief.", temperature=0.5, top_p=0.9, metadata={"a": "b"})
    assert response.output_text == COUNT
    assert (response.status, response.error, response.incomplete_details) == ("completed", None, None)
    assert (response.temperature, response.top_p, response.metadata) == (0.5, 0.9, {"a": "b"})
    usage = response.usage
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (1, 5, 6)
    assert usage.input_tokens_details.cached_tokens == 3
    assert engine.systems == ["Be brief."]
    [sampling] = engine.sampling
    assert (sampling.temperature, sampling.top_p) == (0.5, 0.9)


async def test_a_response_in_pieces(serve: Callable[..., Any]) -> None:
    served = await serve()
    events = await collected(await served.respond("Count", stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert set(kinds[4:-4]) == {"response.output_text.delta"}
    assert "".join(event.delta for event in events[4:-4]) == COUNT
    assert events[-1].response.output_text == events[-4].text == COUNT
    assert events[-1].response.usage.output_tokens == 5


async def test_the_sdk_s_own_reading_of_the_pieces(serve: Callable[..., Any]) -> None:
    """It checks that each piece belongs to what was announced."""
    served = await serve()
    async with asyncio.timeout(TIMEOUT_SECONDS), served.client.responses.stream(model="worded", input="Count") as stream:
        final = await stream.get_final_response()
    assert final.output_text == COUNT


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_response_that_is_cut_off_says_so(serve: Callable[..., Any], is_streamed: bool) -> None:
    served = await serve()
    answer = await served.respond("Count", max_output_tokens=2, stream=is_streamed)
    if is_streamed:
        last = (await collected(answer))[-1]
        assert last.type == "response.incomplete"
        answer = last.response
    assert (answer.output_text, answer.status, answer.incomplete_details.reason) == ("one two", "incomplete", "max_output_tokens")
    assert answer.output[0].status == "incomplete"


async def test_a_response_that_fails(serve: Callable[..., Any]) -> None:
    engine = WordedEngine(hold_after=2)
    engine.error = EngineFailed("Something broke.")
    served = await serve(engine)
    last = (await collected(await served.respond("Count", stream=True)))[-1]
    assert (last.type, last.response.status, last.response.error.message) == ("response.failed", "failed", "Something broke.")
    with pytest.raises(openai.InternalServerError, match=r"Something broke\."):
        await served.respond("Count")


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("way", ["the output itself", "its text", "its name"])
async def test_the_next_turn(serve: Callable[..., Any], way: str, is_streamed: bool) -> None:
    """The `ai` package gives back an answer's name in place of its text. The ids of the answer are found again, too."""
    engine = WordedEngine()
    served = await serve(engine)
    answer = await served.respond(HELLO, stream=is_streamed)
    if is_streamed:
        answer = (await collected(answer))[-1].response
    [item] = answer.output
    said = {
        "the output itself": item.model_dump(),
        "its text": {"role": "assistant", "content": [{"type": "output_text", "text": answer.output_text}]},
        "its name": {"type": "item_reference", "id": item.id},
    }
    await served.respond([*HELLO, said[way], {"role": "user", "content": "And?"}])
    first, second, third = engine.asked[1]
    assert (first.text, second.text, third.text) == ("Hi", COUNT, "And?")
    assert second.token_ids == (0, 1, 2, 3, 4)


UNSUPPORTED, UNKNOWN = "unsupported_parameter", "unknown_parameter"


@pytest.mark.parametrize(
    "given",
    [
        {"tools": [], "tool_choice": "auto", "parallel_tool_calls": False, "max_tool_calls": None},
        {"text": {"format": {"type": "text"}, "verbosity": "medium"}, "reasoning": {"effort": None, "summary": None}},
        {"reasoning": {"effort": "none"}, "truncation": "disabled", "top_logprobs": 0, "include": []},
        {"include": ["reasoning.encrypted_content"], "store": True, "background": False, "previous_response_id": None},
        {"max_output_tokens": 0, "user": "ada", "prompt_cache_key": "a", "service_tier": "default"},
    ],
)
async def test_a_parameter_is_taken(serve: Callable[..., Any], given: dict[str, Any]) -> None:
    response = await (await serve()).respond("Count", **given)
    assert (response.output_text, response.store) == (COUNT, False)


@pytest.mark.parametrize(
    ("given", "param", "code"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools", UNSUPPORTED),
        ({"text": {"format": {"type": "json_object"}}}, "text.format", UNSUPPORTED),
        ({"text": {"verbosity": "low"}}, "text.verbosity", UNSUPPORTED),
        ({"reasoning": {"effort": "high"}}, "reasoning.effort", UNSUPPORTED),
        ({"truncation": "auto"}, "truncation", UNSUPPORTED),
        ({"previous_response_id": "resp_1"}, "previous_response_id", UNSUPPORTED),
        ({"conversation": "conv_1"}, "conversation", UNSUPPORTED),
        ({"prompt": {"id": "pmpt_1"}}, "prompt", UNSUPPORTED),
        ({"background": True}, "background", UNSUPPORTED),
        ({"include": ["message.output_text.logprobs"]}, "include", UNSUPPORTED),
        ({"stop": ["a"]}, "stop", UNKNOWN),
        ({"max_output_tokens": -3}, "max_output_tokens", None),
        ({"input": [*HELLO, {"type": "function_call_output", "call_id": "1", "output": "4"}]}, "input.1.type", None),
        ({"input": [*HELLO, {"type": "reasoning", "id": "rs_1", "summary": []}]}, "input.1.type", None),
        ({"input": [*HELLO, {"type": "item_reference", "id": "msg_1"}, *HELLO]}, "input.1.id", "item_not_found"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "1"}]}]}, "input.0.content.0", None),
        ({"input": [about(DATA_URL, "?"), about(DATA_URL, "?")]}, "input", None),
        ({"input": [about("data:image/png;base64,?", "?")]}, "input", "invalid_image"),
        ({"input": "word " * 200}, "input", "context_length_exceeded"),
        ({"input": []}, "input", None),
        ({"input": 5}, "input", None),
    ],
)
async def test_a_parameter_is_refused_by_name(
    serve: Callable[..., Any], given: dict[str, Any], param: str, code: str | None
) -> None:
    engine = WordedEngine()
    served = await serve(engine)
    body = json.dumps({"model": "worded", "input": "Hi", **given}).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    status, _, answer = await served.send("POST", "/v1/responses", body, headers)
    assert status == 400, answer
    assert (answer["error"]["param"], answer["error"]["code"]) == (param, code)
    assert answer["error"]["message"].endswith(".")
    assert engine.asked == []


# --- with the bundled model


@pytest.mark.skipif(not TINY_PATH.is_dir(), reason="the bundled model is not there")
async def test_the_bundled_model_responds_about_a_picture(serve: Callable[..., Any]) -> None:
    served = await serve(model=await open_local("tiny", max_running=2))
    seen = {"type": "input_image", "image_url": DATA_URL, "detail": "auto"}
    chat: list[Any] = [{"role": "user", "content": [seen, {"type": "input_text", "text": "What colour is the circle?"}]}]
    response = await served.respond(chat, temperature=0)
    assert "red" in response.output_text
    chat += [*response.output, {"role": "user", "content": "What shape is it?"}]
    second = await served.respond(chat, temperature=0)
    assert "circle" in second.output_text
    assert second.usage.input_tokens_details.cached_tokens >= response.usage.input_tokens
