"""The bench in its smallest form: complete, its numbers consistent, the same answers on both sides."""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from aiohttp import web

from bot.cli import main
from model_server.bench import command
from model_server.bench.command import BenchError, add_arguments
from model_server.bench.conversation import make_chats, watch_event_loop
from model_server.bench.machine import memory_bandwidth
from model_server.bench.tutorial import Tutorial, never_end
from model_server.checkpoints.loading import Checkpoint, load_checkpoint
from model_server.errors import ModelLoadError, RequestRefused
from model_server.images import to_pil

SMALL = ("--random-weights", "bench-tiny", "--quick", "--chats", "1,3", "--turns", "2", "--new-tokens", "5")


def options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(arguments)


async def run(*arguments: str) -> int:
    return await command.run(options(*arguments), model="tiny", quantization="none")


async def test_the_numbers_are_complete_and_consistent(capsys: pytest.CaptureFixture[str]) -> None:
    assert await run(*SMALL, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["subject"]["model"] == "bench-tiny (random weights)"
    assert report["subject"]["dtype"] == "float32"
    assert report["subject"]["num_image_tokens"] == 16
    assert report["machine"]["torch_version"] == torch.__version__
    assert report["machine"]["processor"]
    assert report["memory_bytes_per_second"] > 0
    assert report["peak_memory_bytes"] > report["subject"]["weight_bytes"]
    assert [row["num_chats"] for row in report["throughput"]] == [1, 3]
    for row in report["throughput"]:
        assert row["num_tokens"] == row["num_chats"] * 2 * 5  # as asked for, and no answer ended by itself
        assert row["num_equal_turns"] == row["num_compared_turns"] == 2  # --quick measures one chat of the tutorial's
        assert row["ratio"] == pytest.approx(row["tutorial_seconds"] / row["seconds"])
        assert row["ratio"] == pytest.approx(row["tokens_per_second"] / row["tutorial_tokens_per_second"])
        assert row["longest_stall_seconds"] > 0
        assert row["server_seconds"] is None
    for row in report["decoding"]:
        assert row["share_of_limit"] == pytest.approx(row["tokens_per_second"] / row["limit_tokens_per_second"])
        assert row["limit_tokens_per_second"] > 0
    first = report["first_token"]
    assert first["ratio"] == pytest.approx(first["tutorial_second_turn_seconds"] / first["second_turn_seconds"])
    assert all(seconds > 0 for seconds in first.values())


class OpenAIServer:
    """A small server of the kind; every answer is three words. Keeps what it was asked."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "other", "object": "model"}, {"id": "far", "object": "model"}]})

    async def complete(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.json())
        self.keys.add(request.headers.get("Authorization"))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for word in ("one", " two", " three"):
            await self._send(response, {"choices": [{"index": 0, "delta": {"content": word}}]})
        await self._send(response, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        usage = {"prompt_tokens": 30, "completion_tokens": 3, "total_tokens": 33}
        await self._send(response, {"choices": [], "usage": usage})
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _send(self, response: web.StreamResponse, event: dict[str, Any]) -> None:
        await response.write(f"data: {json.dumps(event)}\n\n".encode())


@pytest.fixture
async def server() -> AsyncIterator[tuple[OpenAIServer, str]]:
    openai = OpenAIServer()
    app = web.Application(client_max_size=2**24)
    app.add_routes([web.get("/v1/models", openai.models), web.post("/v1/chat/completions", openai.complete)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield openai, f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    await runner.cleanup()


async def test_a_server_has_the_same_conversations(server: tuple[OpenAIServer, str], capsys: pytest.CaptureFixture[str]) -> None:
    openai, url = server
    assert await run(*SMALL, "--chats", "2", "--against", url, "--against-model", "far") == 0
    shown = capsys.readouterr().out
    assert "far at http://127.0.0.1" in shown
    assert "server, tokens/s" in shown
    assert len(openai.bodies) == 2 * 2
    assert openai.keys == {None}  # no key of ours goes to a server that was only named here
    for body in openai.bodies:
        assert (body["model"], body["max_tokens"], body["temperature"], body["stream"]) == ("far", 5, 0, True)
        image = next(part for part in body["messages"][0]["content"] if part["type"] == "image_url")
        data = base64.b64decode(image["image_url"]["url"].partition(",")[2])
        assert data.startswith(b"\xff\xd8")
    assert sorted(len(body["messages"]) for body in openai.bodies) == [1, 1, 3, 3]
    assert all(body["messages"][1]["content"] == "one two three" for body in openai.bodies if len(body["messages"]) == 3)


async def test_tables_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert await run(*SMALL, "--chats", "2") == 0
    shown = capsys.readouterr().out
    for piece in ("bench-tiny", "16 image tokens", "plain way", "turn 2, not cached", "share of the limit", "Peak memory"):
        assert piece in shown


def test_an_answer_never_ends_by_itself(random_llava: Path) -> None:
    """Here all ids but one would be an end, and so would be nearly every first token."""
    checkpoint = load_checkpoint(str(random_llava))
    last = len(checkpoint.tokenizer) - 2  # the one behind it is <image>
    checkpoint = replace(checkpoint, eos_ids=tuple(range(last)))
    never_end(checkpoint)
    turn = Tutorial(checkpoint).answer(make_chats(1, 0)[0].ask(), 6)
    assert turn.token_ids == (last,) * 6
    assert len(turn.token_times) == 6


def test_both_sides_use_the_same_weights(checkpoint: Checkpoint) -> None:
    tutorial = Tutorial(checkpoint)
    twin = tutorial._checkpoint.model
    assert twin is not checkpoint.model
    own = {name: tensor.data_ptr() for name, tensor in checkpoint.model.named_parameters()}
    assert {name: tensor.data_ptr() for name, tensor in twin.named_parameters()} == own


def test_each_chat_has_a_picture_of_its_own_and_a_repeat_has_the_same() -> None:
    first, again, other = make_chats(3, 1), make_chats(3, 1), make_chats(3, 2)
    images = [chat.image.sha256 for chat in first]
    assert len({*images, *(chat.image.sha256 for chat in other)}) == 6
    assert [chat.image.sha256 for chat in again] == images
    assert to_pil(first[0].image).size == (640, 480)


async def test_an_event_loop_that_stands_still_is_seen() -> None:
    async with watch_event_loop() as stall:
        while not stall.longest_seconds:  # noqa: ASYNC110  # until it has begun to look
            await asyncio.sleep(0)
        time.sleep(0.2)  # noqa: ASYNC251  # this is the stall
    assert stall.longest_seconds >= 0.15


def test_bandwidth_is_measured() -> None:
    assert memory_bandwidth(torch.device("cpu")) > 1e6


@pytest.mark.parametrize(
    "arguments",
    [
        ("--chats", "0"),
        ("--chats", "1,two"),
        ("--chats", ""),
        ("--turns", "-1"),
        ("--new-tokens", "0"),
        ("--model", "tiny", "--random-weights", "bench-58m"),
        ("--random-weights", "gpt"),
    ],
)
def test_a_wrong_option_is_told(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        options(*arguments)
    assert caught.value.code == 2
    assert "error: argument" in capsys.readouterr().err


def test_numbers_of_chats_are_put_in_order() -> None:
    assert options("--chats", "8,1,8").chats == (1, 8)


async def test_a_large_model_without_a_gpu_wants_a_yes() -> None:
    with pytest.raises(ModelLoadError, match=r"no GPU, and llava-1\.5-7b has 28 GB .* --yes"):
        await run("--random-weights", "llava-1.5-7b")


async def test_a_chat_that_is_too_long_for_the_model_is_refused() -> None:
    with pytest.raises(RequestRefused, match="fewer --turns"):
        await run("--random-weights", "bench-tiny", "--turns", "9", "--new-tokens", "60")


async def test_a_model_of_nobody_is_refused() -> None:
    with pytest.raises(BenchError, match="--against"):
        await run("--against-model", "far")


def test_the_command_line_knows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "--against-model", "far"]) == 1
    assert "--against-model needs --against" in capsys.readouterr().err
