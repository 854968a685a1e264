"""Our HTTP server, asked by OpenAI's own client, unmodified."""

from __future__ import annotations

import asyncio
import base64
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_server.checkpoints.loading import TINY_PATH
from model_server.errors import EngineFailed, ImageError
from model_server.local import open_local
from model_server.loop import InferenceLoop
from model_server.serve.answer import StopStrings
from model_server.serve.known_answers import KnownAnswers
from model_server.serve.server import CompletionServer, ServeAddressError
from model_server.types import Message, Role
from tests.model_server.served import DATA_URL, KEY, RED_CIRCLE, TIMEOUT_SECONDS, about, collected, serving, text_of
from tests.model_server.worded_engine import WordedEngine


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Any]]:
    async with serving() as start:
        yield start


# --- with the bundled model


@pytest.mark.skipif(not TINY_PATH.is_dir(), reason="the bundled model is not there")
async def test_the_bundled_model_answers_whole_and_streamed_and_turn_two_is_cached(serve: Callable[..., Any]) -> None:
    served = await serve(model=await open_local("tiny", max_running=2))
    [model] = (await served.client.models.list()).data
    assert (model.id, model.max_model_len) == ("tiny", served.model.capabilities.context_length)
    assert (await served.client.models.retrieve("tiny")).id == "tiny"

    question = about(DATA_URL, "What colour is the circle?")
    whole = await served.ask(question, temperature=0, max_tokens=30)
    answer = whole.choices[0].message.content
    assert "red" in answer.lower()
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage.prompt_tokens > served.model.capabilities.num_image_tokens
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens

    stream = await served.ask(
        question, temperature=0, max_tokens=30, stream=True, stream_options={"include_usage": True}, model="tiny"
    )
    chunks = await collected(stream)
    assert text_of(chunks) == answer
    assert len(chunks) > 3
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + ["stop"]
    assert (chunks[-1].choices, chunks[-1].usage.completion_tokens) == ([], whole.usage.completion_tokens)

    turn_two = [question, {"role": "assistant", "content": answer}, {"role": "user", "content": "And where is it?"}]
    second = await served.ask(*turn_two, temperature=0, max_tokens=30)
    # All full pages of turn one, answer included: the ids are those that were generated.
    known = whole.usage.prompt_tokens + whole.usage.completion_tokens
    assert known - 16 <= second.usage.prompt_tokens_details.cached_tokens < second.usage.prompt_tokens


async def test_a_seed_gives_the_same_answer_alone_and_in_a_crowd(serve: Callable[..., Any], random_llava: Path) -> None:
    served = await serve(model=await open_local(str(random_llava), max_running=8))

    async def ask(seed: int | None, question: str = "What is it?") -> str:
        answer = await served.ask(about(DATA_URL, question), seed=seed, temperature=0.9, max_tokens=30)
        return str(answer.choices[0].message.content)

    alone = {seed: await ask(seed) for seed in (1, 2, 3)}
    assert len(set(alone.values())) == 3
    crowd = await asyncio.gather(ask(None), ask(3), ask(4, "Something longer, for another prompt?"), ask(1), ask(2), ask(1))
    assert [crowd[1], *crowd[3:]] == [alone[3], alone[1], alone[2], alone[1]]


# --- the request


async def test_who_says_what(serve: Callable[..., Any]) -> None:
    engine = WordedEngine(max_images_per_chat=2)
    served = await serve(engine)
    await served.ask(
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": "Be kind."},
        about(DATA_URL, "First?"),
        {"role": "user", "content": [{"type": "text", "text": "Please."}]},
        {"role": "assistant", "content": " One. "},
        {"role": "developer", "content": "Now be verbose."},
        about(DATA_URL, "Second?"),
    )
    first, answer, second = engine.asked[0]
    assert (first.role, first.text, len(first.images)) == (Role.USER, "First?\n\nPlease.", 1)
    assert engine.systems == ["Be brief.\n\nBe kind."]
    assert (answer.role, answer.text) == (Role.ASSISTANT, " One. ")
    assert (second.role, second.text, len(second.images)) == (Role.USER, "Now be verbose.\n\nSecond?", 1)
    assert first.images[0].data == RED_CIRCLE


async def test_sampling_is_the_client_s_or_the_server_s(serve: Callable[..., Any]) -> None:
    engine = WordedEngine()
    served = await serve(engine, max_new_tokens=7, temperature=0.5)
    hello = {"role": "user", "content": "Hello"}
    await served.ask(hello)
    cut = await served.ask(hello, max_tokens=2, temperature=0, top_p=0.9, extra_body={"top_k": 5}, seed=1, user="ada")
    assert [cut.choices[0].message.content, cut.choices[0].finish_reason] == ["one two", "length"]
    await served.ask(hello, max_completion_tokens=3, max_tokens=9, extra_body={"top_k": -1})
    chosen = [(s.max_new_tokens, s.temperature, s.top_p, s.top_k) for s in engine.sampling]
    assert chosen == [(7, 0.5, 1.0, 0), (2, 0.0, 0.9, 5), (3, 0.5, 1.0, 0)]


@pytest.mark.parametrize(
    ("options", "param", "code"),
    [
        ({"n": 2}, "n", "unsupported_parameter"),
        ({"logprobs": True}, "logprobs", "unsupported_parameter"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "unsupported_parameter"),
        ({"response_format": {"type": "json_object"}}, "response_format", "unsupported_parameter"),
        ({"presence_penalty": 0.5}, "presence_penalty", "unsupported_parameter"),
        ({"seed": 2**63}, "seed", None),
        ({"temperature": 3}, "temperature", None),
        ({"max_tokens": -3}, "max_tokens", None),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop", None),
        ({"messages": []}, "messages", None),
        ({"messages": [{"role": "tool", "content": "hunter2"}]}, "messages.0.role", None),
        ({"messages": [{"role": "assistant", "content": "hunter2"}]}, "messages", None),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "hunter2"}]}, "messages", None),
        ({"messages": [{"role": "user", "content": [{"type": "video_url"}]}]}, "messages.0.content.0", None),
        ({"messages": [about(DATA_URL, "?"), about(DATA_URL, "?")]}, "messages", None),
        ({"messages": [about("data:image/png;base64,?", "?")]}, "messages", "invalid_image"),
        ({"messages": [about("data:image/png,x", "?")]}, "messages", "invalid_image"),
        ({"messages": [about("data:image/png;base64,aGVsbG8=", "?")]}, "messages", "invalid_image"),
        ({"messages": [about("http://127.0.0.1:1/inside.png", "?")]}, "messages", "invalid_image"),
        ({"messages": [about("file:///etc/passwd", "?")]}, "messages", "invalid_image"),
        ({"messages": [{"role": "user", "content": "word " * 200}]}, "messages", "context_length_exceeded"),
    ],
)
async def test_what_cannot_be_done_is_said(
    serve: Callable[..., Any], options: dict[str, Any], param: str, code: str | None
) -> None:
    engine = WordedEngine()
    served = await serve(engine)
    with pytest.raises(openai.BadRequestError) as caught:
        await served.client.chat.completions.create(
            **{"model": "worded", "messages": [{"role": "user", "content": "Hi"}], **options}
        )
    assert (caught.value.param, caught.value.code) == (param, code)
    body = caught.value.body
    assert isinstance(body, dict)
    assert body["message"].endswith(".")
    assert "hunter2" not in body["message"]
    assert engine.asked == []


async def test_values_that_change_nothing_are_taken(serve: Callable[..., Any]) -> None:
    served = await serve()
    await served.ask(
        {"role": "user", "content": "Hi"}, n=1, logprobs=False, tools=[], tool_choice="none", response_format={"type": "text"}
    )


async def test_a_picture_behind_a_link_is_fetched(serve: Callable[..., Any]) -> None:
    async def fetch(url: str, max_bytes: int) -> bytes:
        if url != "https://example.com/circle.png":
            raise ImageError("that link", "the server answered with status 404.")
        return RED_CIRCLE

    engine = WordedEngine()
    served = await serve(engine, fetch=fetch)
    await served.ask(about("https://example.com/circle.png", "What?"))
    assert engine.asked[0][0].images[0].data == RED_CIRCLE
    with pytest.raises(openai.BadRequestError, match="status 404"):
        await served.ask(about("https://example.com/other.png", "What?"))


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_the_ids_of_an_answer_come_back_with_its_text(serve: Callable[..., Any], is_streamed: bool) -> None:
    engine = WordedEngine()
    served = await serve(engine)
    answer = await served.ask({"role": "user", "content": "Count"}, stream=is_streamed)
    text = text_of(await collected(answer)) if is_streamed else answer.choices[0].message.content
    for said in (text, text + " six"):
        turn_two = ({"role": "user", "content": "Count"}, {"role": "assistant", "content": said}, {"role": "user", "content": "On"})
        await served.ask(*turn_two)
    assert [asked[1].token_ids for asked in engine.asked[1:]] == [(0, 1, 2, 3, 4), None]


# --- the answer


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_stop_strings_end_the_answer_and_free_the_engine(serve: Callable[..., Any], is_streamed: bool) -> None:
    engine = WordedEngine(hold_after=4)
    served = await serve(engine)
    answer = await served.ask({"role": "user", "content": "Count"}, stop=["o thr", "zzz"], stream=is_streamed)
    if is_streamed:
        chunks = await collected(answer)
        text, reason = text_of(chunks), chunks[-1].choices[0].finish_reason
    else:
        text, reason = answer.choices[0].message.content, answer.choices[0].finish_reason
    assert (text, reason) == ("one tw", "stop")
    async with asyncio.timeout(TIMEOUT_SECONDS):
        await engine.cancelled.wait()
    assert served.model.num_running == 0


@given(st.text("abc", max_size=20), st.lists(st.text("abc", min_size=1, max_size=4), max_size=4), st.data())
def test_stop_strings_do_not_mind_how_the_text_is_cut(text: str, strings: list[str], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    stops = StopStrings(strings)
    shown = "".join([*map(stops.add, pieces), stops.flush()])
    found = [at for string in strings if (at := text.find(string)) >= 0]
    assert stops.is_found == bool(found)
    # Whichever string is complete first ends the text: that may be a later, shorter one.
    assert text.startswith(shown)
    assert not any(string in shown for string in strings)
    if not found:
        assert shown == text


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_client_that_leaves_frees_the_engine(serve: Callable[..., Any], is_streamed: bool) -> None:
    engine = WordedEngine(hold_after=2)
    served = await serve(engine)
    asking = asyncio.create_task(served.ask({"role": "user", "content": "Count"}, stream=is_streamed))
    async with asyncio.timeout(TIMEOUT_SECONDS):
        await engine.held.wait()
        if is_streamed:
            stream = await asking
            assert (await anext(stream)).choices[0].delta.role == "assistant"
            await stream.close()
        else:
            asking.cancel()
        await engine.cancelled.wait()
    assert served.model.num_running == 0


async def test_an_answer_that_fails_is_an_error_in_the_stream(serve: Callable[..., Any]) -> None:
    engine = WordedEngine(hold_after=2)
    engine.error = EngineFailed("Something broke.")
    served = await serve(engine)
    stream = await served.ask({"role": "user", "content": "Count"}, stream=True)
    assert (await anext(stream)).choices[0].delta.role == "assistant"
    with pytest.raises(openai.APIError, match=r"Something broke\."):
        await collected(stream)


async def test_an_answer_that_fails_is_status_500(serve: Callable[..., Any]) -> None:
    engine = WordedEngine()
    engine.error = "out of memory at 0x7f"
    served = await serve(engine)
    with pytest.raises(openai.InternalServerError) as caught:
        await served.ask({"role": "user", "content": "Count"})
    assert caught.value.status_code == 500
    assert "0x7f" not in str(caught.value)


# --- the door


async def test_wrong_names_and_keys(serve: Callable[..., Any]) -> None:
    served = await serve()
    with pytest.raises(openai.NotFoundError) as caught:
        await served.ask({"role": "user", "content": "Hi"}, model="gpt")
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        await served.client.models.retrieve("gpt")
    with pytest.raises(openai.AuthenticationError) as refused:
        await served.client.with_options(api_key="wrong").models.list()
    assert refused.value.code == "invalid_api_key"
    assert (await served.post())[0] == 401
    async with aiohttp.ClientSession() as http, http.get(served.server.url.replace("/v1", "/health")) as response:
        assert (response.status, await response.json()) == (200, {"status": "ok"})
    async with aiohttp.ClientSession() as http, http.get(served.server.url.replace("/v1", "/nothing")) as response:
        assert response.status == 401
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as http,
        http.get(served.server.url + "/nothing") as response,
    ):
        assert (response.status, (await response.json())["error"]["code"]) == (404, "unknown_url")


async def test_without_a_key_only_this_machine_gets_in(serve: Callable[..., Any]) -> None:
    served = await serve(api_key=None)
    assert (await served.post())[0] == 200
    assert (await served.post(Host="evil.example"))[0] == 421
    assert (await served.post(**{"Content-Type": "text/plain"}))[0] == 415
    with pytest.raises(ValueError, match="API key"):
        CompletionServer(served.model, "0.0.0.0", 0)


async def test_a_body_that_is_too_large_is_refused(serve: Callable[..., Any]) -> None:
    engine = WordedEngine()
    served = await serve(engine, max_image_bytes=1000)
    with pytest.raises(openai.APIStatusError) as caught:
        await served.ask({"role": "user", "content": "a" * 2_000_000})
    assert (caught.value.status_code, caught.value.message.count("too large")) == (413, 1)
    with pytest.raises(openai.BadRequestError, match="I could not use picture 1"):
        await served.ask(about("data:;base64," + base64.b64encode(bytes(2000)).decode(), "?"))
    assert engine.asked == []


async def test_a_full_queue_and_a_shutdown_say_when_to_come_again(serve: Callable[..., Any]) -> None:
    engine = WordedEngine(hold_after=1)
    served = await serve(engine, max_queue=1)
    first = asyncio.create_task(served.ask({"role": "user", "content": "one"}))
    async with asyncio.timeout(TIMEOUT_SECONDS):
        await engine.held.wait()
        waiting = await served.ask({"role": "user", "content": "two"}, stream=True)
        with pytest.raises(openai.RateLimitError) as full:
            await served.ask({"role": "user", "content": "three"})
        assert full.value.response.headers["Retry-After"] == "5"
        draining = asyncio.create_task(served.server.drain(TIMEOUT_SECONDS))
        with pytest.raises(openai.APIError, match="shutting down"):
            await collected(waiting)
        with pytest.raises(openai.InternalServerError) as shut:
            await served.ask({"role": "user", "content": "four"})
        assert (shut.value.status_code, shut.value.code) == (503, "shutting_down")
        async with aiohttp.ClientSession() as http, http.get(served.server.url.replace("/v1", "/health")) as response:
            assert response.status == 503
        first.cancel()
        assert await draining


async def test_an_address_that_is_taken_is_a_sentence() -> None:
    model = InferenceLoop(WordedEngine())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = CompletionServer(model, "127.0.0.1", taken.getsockname()[1])
        with pytest.raises(ServeAddressError, match="Cannot serve the model on"):
            await server.start()
    await model.close()


# --- answers found again

_QUESTION, _ANSWER = Message(Role.USER, "What?"), Message(Role.ASSISTANT, "That.")


def test_ids_are_found_for_the_same_chat_only() -> None:
    known = KnownAnswers(max_answers=2)
    known.remember([_QUESTION], "That. ", (1, 2))
    [_, found, _] = known.restore([_QUESTION, _ANSWER, Message(Role.USER, "Why?")])
    assert (found.text, found.token_ids) == ("That.", (1, 2))
    assert known.restore([Message(Role.USER, "Who?"), _ANSWER, _QUESTION])[1].token_ids is None
    assert known.restore([_QUESTION, Message(Role.ASSISTANT, "Not that."), _QUESTION])[1].token_ids is None
    known.remember([Message(Role.USER, "a")], "b", (3,))
    known.remember([Message(Role.USER, "c")], "d", (4,))
    assert known.restore([_QUESTION, _ANSWER, _QUESTION])[1].token_ids is None  # the oldest is forgotten
