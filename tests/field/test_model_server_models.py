"""How model servers list their models, and what becomes of those. A name behind a line is a server that does this."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from bot.config import Settings
from bot.doctor import examine
from model_server.errors import EngineFailed, ModelLoadError
from tests.model_server.scripted_server import GOOD, TIMEOUT_SECONDS, Server, answers, ask, chunk, data, sends, streams, text_of

PAGE = "<!doctype html><html><body>Sign in</body></html>"


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    started = Server()
    started.entries = [{"id": "llava", "max_model_len": 2000}]
    await started.start()
    yield started
    await started.stop()


# --- which model

EMBEDDING = {"id": "nomic-embed-text"}
LLAVA = {"id": "llava"}


@pytest.mark.parametrize(
    ("listed", "used", "others"),
    [
        ({"data": [EMBEDDING, LLAVA]}, "llava", ["nomic-embed-text"]),
        ({"data": [{"id": "bge-reranker-v2-m3"}, {"id": "whisper-1"}, {"id": "tts-1"}, LLAVA]}, "llava", ["whisper-1"]),
        ({"data": [{"id": "e5", "type": "embeddings"}, {"id": "qwen", "type": "vlm"}]}, "qwen", ["e5"]),  # LM Studio
        ({"data": [{"id": "m", "type": "image"}, {"id": "b", "type": "chat"}]}, "b", ["m"]),  # Together
        ({"data": [{"id": "m", "task": "embed"}, {"id": "b", "task": "generate"}]}, "b", ["m"]),
        ({"data": [{"id": "o", "capabilities": {"completion_chat": False, "ocr": True}}, LLAVA]}, "llava", ["o"]),  # Mistral
        (
            {
                "data": [
                    {"id": "text", "capabilities": {"completion_chat": True, "vision": False}},
                    {"id": "pixtral", "capabilities": {"completion_chat": True, "vision": True}},
                ]
            },
            "pixtral",
            ["text"],
        ),
        ({"data": [{"id": "a", "capabilities": ["embedding"]}, {"id": "b", "capabilities": ["tool_use"]}]}, "b", ["a"]),
        (
            {"data": [{"id": "a", "capabilities": ["completion"]}, {"id": "b", "capabilities": ["completion", "multimodal"]}]},
            "b",
            ["a"],
        ),
        (
            {"data": [{"id": "a", "architecture": None}, {"id": "b", "architecture": {"input_modalities": ["text", "image"]}}]},
            "b",
            ["a"],
        ),
        ([LLAVA, {"id": "other"}], "llava", ["other"]),
        (["llava", "other"], "llava", ["other"]),
        ({"models": [{"name": "llava"}]}, "llava", []),
        ({"data": [None, 7, {}, LLAVA]}, "llava", []),
        ({"data": [{"id": "clip-embed"}]}, "clip-embed", []),  # nothing else is there
    ],
)
async def test_the_model_that_is_used_is_told(
    server: Server,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    listed: object,
    used: str,
    others: list[str],
) -> None:
    server.models = sends(listed)
    caplog.set_level(logging.INFO)
    assert (await server.connect()).capabilities.model_name == used
    assert f"answers with the model {used}." in caplog.text
    found = await doctor(server, tmp_path)
    assert found.startswith(f"{server.url} answers with the model {used}.")
    assert ("THREADSIGHT_ENGINE_MODEL" in found) == bool(others)
    for other in others:
        assert other in caplog.text
        assert other in found


GONE = answers(404, {"message": "The model `llava` does not exist."})


async def test_a_server_that_was_restarted_with_another_model_is_asked_for_that(server: Server) -> None:
    server.handlers = [streams(*GOOD), GONE, streams(*GOOD)]
    loop = await server.connect()
    await ask(loop)
    server.entries = [{"id": "pixtral", "max_model_len": 3000}]
    assert text_of(await ask(loop)) == "Good day"
    assert [body["model"] for body in server.asked] == ["llava", "llava", "pixtral"]
    assert (loop.capabilities.model_name, loop.capabilities.context_length) == ("pixtral", 3000)


async def test_an_answer_that_has_begun_is_not_asked_for_again(server: Server) -> None:
    """A gateway that loses its model in the middle."""
    server.handlers = [streams(chunk("Good"), data({"error": {"code": 404, "message": "model llava not found"}})), streams(*GOOD)]
    loop = await server.connect()
    server.entries = [{"id": "pixtral"}]
    with pytest.raises(EngineFailed, match="does not have the model"):
        await ask(loop)
    assert len(server.asked) == 1


async def test_what_another_model_did_not_take_is_asked_again(server: Server) -> None:
    server.handlers = [answers(400, {"message": "Unknown field", "param": "top_k"}), streams(*GOOD), GONE, streams(*GOOD)]
    loop = await server.connect()
    await ask(loop, top_k=3)
    server.entries = [{"id": "pixtral"}]
    await ask(loop, top_k=3)
    assert ["top_k" in body for body in server.asked] == [True, False, False, True]


@pytest.mark.parametrize("model", ["llava", None])
async def test_a_model_that_is_listed_and_not_there_is_asked_for_once(server: Server, model: str | None) -> None:
    server.handlers = [GONE]
    with pytest.raises(EngineFailed, match="does not have the model"):
        await ask(await server.connect(model=model))
    assert len(server.asked) == 1


async def test_a_server_that_changes_its_model_all_the_time_is_left(server: Server) -> None:
    async def another(request: web.Request) -> web.StreamResponse:
        server.entries = [{"id": f"model-{len(server.asked)}"}]
        return await GONE(request)

    server.handlers = [another]
    with pytest.raises(EngineFailed, match="does not have the model"):
        await ask(await server.connect())
    assert len(server.asked) == 5


async def test_five_thousand_models_are_told_in_one_line(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    server.entries = [{"id": f"model-{number}", "description": "x" * 500} for number in range(5000)]
    assert (await server.connect()).capabilities.model_name == "model-0"
    assert "lists 5000 models" in caplog.text
    assert len(caplog.text) < 500


@pytest.mark.parametrize("listed", [{"object": "list", "data": None}, {"object": "list"}, {"data": []}, []])
async def test_a_server_without_a_model_says_so(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture, listed: object
) -> None:
    server.models = sends(listed)
    with pytest.raises(ModelLoadError):
        await server.connect()
    assert "lists no model" in caplog.text
    assert "lists no model" in await doctor(server, tmp_path)


@pytest.mark.parametrize(
    ("listed", "sentence"),
    [
        ({"error": {"message": "no", "code": 401}}, "does not let me in"),
        ([{"error": {"message": "API key not valid.", "code": 400}}], "does not let me in"),
        (PAGE, "cannot read"),
        ({"status": "ok"}, "cannot read"),
    ],
)
async def test_what_is_no_list_is_told_as_what_it_is(server: Server, tmp_path: Path, listed: object, sentence: str) -> None:
    server.models = sends(listed)
    assert sentence in await doctor(server, tmp_path)


@pytest.mark.parametrize(
    ("more", "context_length"),
    [
        ({"max_model_len": 3000}, 3000),
        ({"max_model_len": None, "context_length": 3000}, 3000),  # OpenRouter, Together
        ({"context_window": 3000}, 3000),  # Groq
        ({"max_context_length": 3000}, 3000),  # Mistral
        ({"meta": {"n_ctx": 3000, "n_ctx_train": 131072}}, 3000),  # llama.cpp
        ({"meta": {"n_ctx_train": 131072}}, 4096),  # what it was trained with is not what it runs with
        ({"max_model_len": "many", "meta": None}, 4096),
    ],
)
async def test_the_context_length_is_read_where_it_is(server: Server, more: dict[str, object], context_length: int) -> None:
    server.entries = [{"id": "llava", **more}]
    assert (await server.connect()).capabilities.context_length == context_length


async def test_names_cannot_write_into_the_terminal(server: Server, tmp_path: Path) -> None:
    server.entries = [{"id": "llava\x1b[2J" + "x" * 1000}]
    found = await doctor(server, tmp_path)
    assert "llava?[2J" in found
    assert len(found) < 300


async def doctor(server: Server, folder: Path) -> str:
    settings = Settings.model_validate({"data_dir": folder, "engine_url": server.url, "platforms": {}})
    async with asyncio.timeout(TIMEOUT_SECONDS):
        return next(finding.sentence for finding in [found async for found in examine(settings)] if finding.what == "Model server")
