"""What model servers really send, each line with what the bot makes of it. A name before a reason is a server that does this."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from model_server.errors import EngineFailed
from model_server.images import read_image
from model_server.remote.refusals import BROKEN_OFF, FILTERED
from model_server.types import Finished, FinishReason, Message, Role, StreamEvent
from tests.images import red_circle
from tests.model_server.scripted_server import (
    GOOD,
    USAGE,
    Server,
    ask,
    chunk,
    data,
    event,
    sends,
    streams,
    text_of,
    whole,
)

DONE = "data: [DONE]\n\n"
STOP, LENGTH, FILTER, TOOL = FinishReason.STOP, FinishReason.LENGTH, FinishReason.FILTERED, FinishReason.TOOL_CALL


def without(name: str) -> dict[str, object]:
    return {key: value for key, value in USAGE.items() if key != name}


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    started = Server()
    started.entries = [{"id": "llava", "max_model_len": 2000}]
    await started.start()
    yield started
    await started.stop()


def end_of(events: list[StreamEvent]) -> Finished:
    assert isinstance(events[-1], Finished)
    return events[-1]


# --- what is optional never costs a finished answer: each of these is the answer "Good day", complete, asked once


@pytest.mark.parametrize(
    ("events", "why"),
    [
        ((chunk("Good"), "data: null\n\n", chunk(" day", "stop")), "null is nothing"),
        ((chunk("Good"), "data:\n\n", "data: \n\n", chunk(" day", "stop")), "an empty event is nothing"),
        (("data: {}\n\n", data({"choices": None}), data({"choices": [None]}), *GOOD), "nor is one without choices"),
        ((data({"choices": [], "prompt_filter_results": [{"prompt_index": 0}]}), *GOOD), "Azure: its filter's verdict first"),
        ((": OPENROUTER PROCESSING\n\n", *GOOD), "OpenRouter: a comment"),
        (("\ufeff" + GOOD[0], *GOOD[1:]), "a byte order mark"),
        (("event: ping\n", 'data: {"type": "ping"}\n\n', "retry: 100\n\n", *GOOD), "what keeps the connection alive"),
        ((event(None), event({"role": "assistant", "content": None}), chunk("Good day"), event(None, "stop")), "a null delta"),
        ((event({"content": "Good"}, ""), event({"content": " day"}, ""), event({}, "stop")), "Ollama: '' is no reason yet"),
        ((event({"content": "Good"}, ""), event({"content": " day"}, ""), DONE), "GenieX: never another one; [DONE] is the end"),
        (
            (event({"content": "Good"}, "null"), event({"content": " day"}, "none"), chunk(reason="stop")),
            "DashScope: null as a word",
        ),
        ((chunk("Good day"), DONE), "no reason at all; [DONE] is the end"),
        ((chunk("Good day"), chunk(reason="eos_token"), DONE), "TGI's word for the end"),
        ((chunk("Good day"), event({}, "stop_sequence")), "another one"),
        ((chunk("Good day"), event({}, "end_turn")), "another one"),
        (
            (data({"choices": [{"delta": {"content": "Good day"}, "finish_reason": {"type": "stop", "matched": 2}}]}),),
            "SGLang: an object",
        ),
        ((chunk("Good"), chunk(" day", "stop"), data({"choices": [], "usage": {"total_tokens": 3}})), "usage without its fields"),
        (
            (chunk("Good", usage={}), chunk(" day", usage=None), chunk(reason="stop", usage={"prompt_tokens": None})),
            "usage of nulls",
        ),
        ((chunk("Good", usage=[1]), chunk(" day", usage="x"), chunk(reason="stop", usage=3)), "usage of another kind"),
        ((chunk("Good day", "stop"), data({"choices": None, "usage": without("prompt_tokens")})), "choices: null beside usage"),
        ((chunk("Good day", "stop"), "data: {nonsense\n\n"), "what cannot be read after the end"),
        ((chunk("Good day", "stop"), data({"error": {"message": "no usage"}})), "an error after the end"),
        ((data({"choices": [{"message": {"content": "Good day"}, "finish_reason": "stop"}]}),), "message in place of delta"),
        (
            tuple(
                data({"choices": [{"delta": {"content": new}, "message": {"content": all_}, "finish_reason": reason}]})
                for new, all_, reason in (("Good", "Good", None), (" day", "Good day", None), ("", "Good day", "stop"))
            ),
            "Perplexity: delta, and the whole so far beside it",
        ),
        ((data({"choices": [{"text": "Good "}]}), data({"choices": [{"text": "day", "finish_reason": "stop"}]})), "text alone"),
        ((event({"content": [{"type": "text", "text": "Good"}, {"type": "text", "text": " day"}]}, "stop"),), "parts"),
        (
            (
                event({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}]}),
                event({"content": [{"type": "text", "text": "Good day"}]}, "stop"),
            ),
            "Mistral: thinking as a part",
        ),
        ((event({"content": [{"type": "image", "url": "x"}, "Good", {"type": "output_text", "text": " day"}]}, "stop"),), "mixed"),
        ((event({"content": {"type": "text", "text": "Good day"}}, "stop"),), "one part without a list"),
        ((event({"content": None, "refusal": "Good day"}, "stop"),), "OpenAI: a refusal is an answer in words"),
        ((event({"reasoning_content": "Hm."}), event({"reasoning": "Hm."}), *GOOD), "DeepSeek, vLLM: thinking in its own field"),
        (
            (chunk("Good day", "stop", x_groq={"usage": USAGE}, timings={"prompt_n": 1}, system_fingerprint=None),),
            "Groq, llama.cpp",
        ),
        (
            (data({"choices": [{"delta": {"content": "Good day"}, "logprobs": {"content": None}, "finish_reason": "stop"}]}),),
            "fields that nobody asked for",
        ),
        (
            ('data: {"choices": [{"delta": {"content": "Good\\u0000 d"}}]}\n\n', chunk("ay", "stop")),
            "NUL, which PostgreSQL does not take",
        ),
        (
            (
                data({"choices": [{"index": 0, "delta": {"content": "Good"}}]}),
                data({"choices": [{"index": 1, "delta": {"content": "Bad"}}]}),
                data({"choices": [{"index": 1, "delta": {"content": "Bad"}}, {"index": 0, "delta": {"content": " day"}}]}),
                data({"choices": [{"index": 1, "delta": {}, "finish_reason": "length"}]}),
                data({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}),
            ),
            "two answers, though one was asked for",
        ),
        ((data({"choices": [{"index": 1, "delta": {"content": "Good day"}, "finish_reason": "stop"}]}),), "counted from 1"),
        ((chunk("Good"), chunk(" day", "stop"), chunk(" day", "stop"), DONE), "the last event twice"),
        ((chunk("Good", "stop"), chunk(" day", "stop")), "a reason in every event"),
        ((chunk("Good"), chunk(reason="stop"), chunk(" day"), DONE), "the reason before the last word"),
        ((event({"content": "Good day"}), event({"content": False}, "stop")), "PHP: false for nothing"),
        (
            (event({"role": "assistant", "content": "Good"}), event({"role": "assistant", "content": " day"}, "stop")),
            "the role in every event",
        ),
        (
            (event({"content": "Good day", "images": [{"image_url": {"url": "x"}}], "audio": {"data": "x"}}, "stop"),),
            "OpenRouter: a picture beside it",
        ),
        ((json.dumps(whole("Good day")),), "one object where events were asked for"),
        ((json.dumps(whole("Good day"), indent=2),), "the same over many lines"),
        ((json.dumps(whole("Good day", None)),), "one object is complete without a reason"),
        ((json.dumps(whole([{"type": "text", "text": "Good day"}])),), "one object with parts"),
    ],
)
async def test_a_finished_answer_is_shown(server: Server, events: tuple[str, ...], why: str) -> None:
    server.handlers = [streams(*events)]
    end = end_of(await ask(await server.connect()))
    assert (end.text, end.reason, len(server.asked)) == ("Good day", STOP, 1), why


@pytest.mark.parametrize("status", [200, 201])
async def test_one_object_as_json_is_the_answer(server: Server, status: int) -> None:
    """Some gateways ignore `stream`; some say 201, Created."""
    server.handlers = [sends(whole("Good day"), status)]
    end = end_of(await ask(await server.connect()))
    assert (end.text, end.reason, len(server.asked)) == ("Good day", STOP, 1)
    assert (end.usage.num_prompt_tokens, end.usage.num_completion_tokens) == (9, 2)


async def test_a_number_is_a_word(server: Server) -> None:
    """From a gateway in a language that makes numbers of what looks like one."""
    server.handlers = [streams(event({"content": 3}), event({"content": "%"}, "stop"))]
    assert text_of(await ask(await server.connect())) == "3%"


@pytest.mark.parametrize("ends", [True, False])
async def test_an_answer_without_an_end_is_cut(server: Server, caplog: pytest.LogCaptureFixture, ends: bool) -> None:
    """A server that ignores how long an answer may be, and a model that repeats itself."""
    server.handlers = [streams(*[chunk("Ha! ")] * 1000, *([chunk(reason="stop")] if ends else []), until=asyncio.Event())]
    end = end_of(await ask(await server.connect(), max_new_tokens=10))
    assert end.reason is LENGTH
    assert end.text.startswith("Ha! Ha! ")
    assert 600 < len(end.text) < 700
    assert "ignores how long" in caplog.text


async def test_one_long_object_is_the_answer(server: Server) -> None:
    server.handlers = [sends(whole("Good day", logprobs="x" * 1_500_000))]
    assert text_of(await ask(await server.connect())) == "Good day"


async def test_a_character_in_two_escapes_is_one(server: Server) -> None:
    """A server in JavaScript may cut its text between them."""
    server.handlers = [streams(chunk("A \ud83d"), chunk("\ude00!"), chunk(" \ude00"), chunk("\ud83d", "stop"))]
    assert text_of(await ask(await server.connect())) == "A \N{GRINNING FACE}! \N{REPLACEMENT CHARACTER}"


async def test_a_finished_answer_does_not_wait_for_the_connection_to_end(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model_server.remote.connection._AFTER_END_SECONDS", 0.05)
    server.handlers = [streams(chunk("Good day", "stop"), until=asyncio.Event())]
    assert end_of(await ask(await server.connect())).text == "Good day"


@pytest.mark.parametrize("prompt_tokens", [10**9, 2000])
async def test_an_impossible_count_does_not_make_later_questions_too_long(server: Server, prompt_tokens: int) -> None:
    question = (Message(Role.USER, "What?", (read_image(red_circle(), "circle.png"),)),)
    server.handlers = [streams(chunk("Red", "stop", usage={"prompt_tokens": prompt_tokens, "completion_tokens": 1}))]
    loop = await server.connect()
    for _ in range(2):
        assert text_of(await ask(loop, question)) == "Red"


# --- what is not whole is not shown as whole, and its cause is told


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ((chunk("Good day"), event({}, "length")), LENGTH),
        ((chunk("Good day"), event({}, "model_length")), LENGTH),  # Mistral
        ((chunk("Good day"), event({}, "MAX_TOKENS")), LENGTH),  # Gemini
        ((chunk("Good day"), event({}, "content_filter")), FILTER),
        ((chunk("Good day"), event({}, "content_filter: RECITATION")), FILTER),  # Gemini
        ((chunk("Good day"), event({}, "sensitive")), FILTER),  # GLM
        ((chunk("Good day"), event({"tool_calls": [{"index": 0}]}), event({}, "tool_calls")), TOOL),
        ((chunk("Good day"), event({"tool_calls": [{"index": 0}]}), event({}, "stop")), TOOL),  # Ollama
        ((chunk("Good day"), event({}, "function_call")), TOOL),
        ((json.dumps(whole("Good day", "content_filter")),), FILTER),
    ],
)
async def test_a_cut_answer_says_what_cut_it(server: Server, events: tuple[str, ...], reason: FinishReason) -> None:
    server.handlers = [streams(*events)]
    end = end_of(await ask(await server.connect()))
    assert (end.text, end.reason) == ("Good day", reason)


@pytest.mark.parametrize(
    ("events", "sentence"),
    [
        ((event({}, "content_filter"), DONE), FILTERED),
        ((event({"reasoning_content": "Hm."}), event({}, "length"), DONE), "The model thought until the longest length"),
        ((chunk("<think>Hm"), event({}, "length"), DONE), "The model thought until the longest length"),
        ((event({}, "length"), DONE), "The model reached the longest length"),
        ((event({"tool_calls": [{"index": 0}]}), event({}, "tool_calls"), DONE), "The model wanted to use a tool"),
        ((event({"tool_calls": [{"index": 0}]}), event({}, "stop"), DONE), "The model wanted to use a tool"),
        ((event({"reasoning": "Hm."}), event({}, "stop"), DONE), "The model has thought about it, but given no answer."),
        ((chunk("<think>Hm"), event({}, "stop"), DONE), "The model has thought about it, but given no answer."),
        ((event({}, "stop"), DONE), "The model has given no answer."),
        ((DONE,), "The model has given no answer."),
        ((json.dumps(whole("")),), "The model has given no answer."),
        ((json.dumps(whole(None, "content_filter")),), FILTERED),
    ],
)
async def test_an_answer_without_a_word_says_why(server: Server, events: tuple[str, ...], sentence: str) -> None:
    server.handlers = [streams(*events)]
    with pytest.raises(EngineFailed) as caught:
        await ask(await server.connect())
    assert str(caught.value).startswith(sentence)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "events",
    [
        (event({"content": "Good"}, ""), event({"content": " d"}, "")),  # a connection that is cut
        (chunk("Good"), event({}, "error")),  # OpenRouter
        (chunk("Good"), event({}, "network_error")),  # GLM
        (chunk("Good"), event({}, "insufficient_system_resource")),  # DeepSeek
    ],
)
async def test_an_answer_that_broke_off_says_so(server: Server, events: tuple[str, ...]) -> None:
    server.handlers = [streams(*events, then_breaks=True)]
    with pytest.raises(EngineFailed) as caught:
        await ask(await server.connect())
    assert str(caught.value) == BROKEN_OFF
    assert len(server.asked) == 1


# --- thinking aloud is not shown, and not kept


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (("<think>", "Hm, a circle.", "</think>", "\n\nRed."), "Red."),
        (("<thi", "nk>Hm</th", "ink>", " \n", "Red."), "Red."),
        (("<think>Hm</think>Red.",), "Red."),
        (("\n<think>\n\n</think>\n\nRed.",), "Red."),
        (("</think>\n\nRed.",), "Red."),  # of a template that opens and closes it
        (("<think>Hm</think><think>Hm</think>Red.",), "Red."),
        (("<thinking>Hm</thinking>Red.",), "Red."),
        (("<thought>Hm</thought>Red.",), "Red."),  # Gemini
        (("[THINK]Hm[/THINK]Red.",), "Red."),  # Magistral
        (("◁think▷Hm◁/think▷Red.",), "Red."),  # Kimi-VL
        (("<|channel>thought\nHm<channel|>Red.",), "Red."),  # Gemma 4
        (("<", "b>", "Red."), "<b>Red."),
        (("<thin", "g>"), "<thing>"),
        (("<thi",), "<thi"),
        (("The mark <think> opens, </think> closes.",), "The mark <think> opens, </think> closes."),
        (("  Red.",), "  Red."),
    ],
)
@pytest.mark.parametrize("is_whole", [False, True])
async def test_thinking_is_not_shown(server: Server, pieces: tuple[str, ...], text: str, is_whole: bool) -> None:
    server.handlers = [sends(whole("".join(pieces))) if is_whole else streams(*map(chunk, pieces), chunk(reason="stop"))]
    events = await ask(await server.connect())
    assert text_of(events) == end_of(events).text == text


async def test_thinking_that_begins_in_the_prompt_is_hidden_from_the_next_answer_on(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """Qwen3-VL-Thinking on vLLM without a reasoning parser: the opening mark is never sent."""
    thought = (chunk("Hm, a circle."), chunk("\n</thi"), chunk("nk>\n\nRed."), chunk(reason="stop"))
    server.handlers = [
        streams(*thought),
        streams(*thought),
        streams(chunk("Hm, a"), chunk(reason="length")),
        streams(*GOOD),
        streams(chunk("Good")),
    ]
    loop = await server.connect()
    assert text_of(await ask(loop)) == "Hm, a circle.\n</think>\n\nRed."  # too late to take back
    assert "without a mark at the beginning" in caplog.text
    assert text_of(await ask(loop)) == "Red."
    with pytest.raises(EngineFailed, match="thought until the longest length"):
        await ask(loop)
    assert text_of(await ask(loop)) == "Good day"  # it did not think: nothing is lost
    with pytest.raises(EngineFailed, match="in the middle"):
        await ask(loop)  # and is shown as it comes again


@pytest.mark.parametrize("quoted", ["```\n<think>\nHm\n</think>\n```", "<think>\n</think>\nor\n</think>\n"])
async def test_marks_that_a_model_explains_teach_nothing(server: Server, quoted: str) -> None:
    """Once the next answers were held back after such a one, and shown without their beginning."""
    server.handlers = [streams(*map(chunk, f"It is:\n{quoted}"), chunk(reason="stop"))]
    loop = await server.connect()
    for _ in range(2):
        assert text_of(await ask(loop)) == f"It is:\n{quoted}"


async def test_thinking_from_an_earlier_version_is_not_sent_back(server: Server) -> None:
    chat = (Message(Role.USER, "What?"), Message(Role.ASSISTANT, "<think>Hm</think>\n\nRed."), Message(Role.USER, "<think>?"))
    await ask(await server.connect(), chat)
    assert [message["content"] for message in server.asked[0]["messages"]] == ["What?", "Red.", "<think>?"]
