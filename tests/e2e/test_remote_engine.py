"""The bot with its model behind a URL: on our own server, on one that is not ours, and on one that dies."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from adapters.base import AnswerStatus, AnswerText
from bot.app import OpenModel, open_chats, open_model
from bot.chats import Chats
from bot.config import Settings
from model_server.checkpoints.loading import TINY_PATH
from model_server.loop import InferenceLoop
from model_server.remote.connection import RemoteServer
from model_server.remote.engine import open_remote
from tests.bot.doubles import ask, attachment, end_of, message, text_of, thread
from tests.images import red_circle
from tests.program import PROGRAM, ROOT, environment, process

pytestmark = pytest.mark.whole_program

TIMEOUT_SECONDS = 120
KEY = "sixteen-characters-or-more"

needs_tiny = pytest.mark.skipif(not TINY_PATH.is_dir(), reason="the bundled model is not there")


@asynccontextmanager
async def bot(folder: Path, *, open_model: OpenModel = open_model, **settings: object) -> AsyncIterator[Chats]:
    values = {"data_dir": folder, "temperature": 0.0, "shutdown_grace_seconds": 0.0, **settings}
    opened = Settings.model_validate(values)
    async with open_chats(opened, f"sqlite+aiosqlite:///{folder / 'chats.db'}", open_model=open_model) as (chats, _):
        yield chats


async def talk(chats: Chats) -> None:
    """Two turns about a picture, the second of which needs the first."""
    first = await ask(chats, "What colour is the circle?", attachment(red_circle()))
    assert end_of(first).status is AnswerStatus.COMPLETE, end_of(first)
    assert "red" in text_of(first).lower()
    second = await ask(chats, "How many shapes are there?")
    assert end_of(second).status is AnswerStatus.COMPLETE, end_of(second)
    assert "one" in text_of(second).lower()
    view = await chats.read_chat(thread())
    assert view is not None
    assert [turn.answer for turn in view.turns] == [text_of(first), text_of(second)]


@needs_tiny
async def test_our_own_server(tmp_path: Path) -> None:
    settings = {"THREADSIGHT_SERVE_PORT": "0", "THREADSIGHT_SERVE_API_KEY": KEY}
    address = r"(?<=Threadsight serves tiny at )http://127\.0\.0\.1:\d+/v1(?=\n)"
    async with process(*PROGRAM, "serve", folder=tmp_path, ready=address, **settings) as (server, url):
        async with bot(tmp_path, engine_url=url, engine_api_key=KEY) as chats:
            await talk(chats)
        (tmp_path / "circle.png").write_bytes(red_circle())
        asked = await asyncio.create_subprocess_exec(
            *(*PROGRAM, "chat", "circle.png", "what colour is the circle?"),
            cwd=tmp_path,
            env=environment(tmp_path, THREADSIGHT_ENGINE_URL=url, THREADSIGHT_ENGINE_API_KEY=KEY),
            stdout=asyncio.subprocess.PIPE,
        )
        printed, _ = await asyncio.wait_for(asked.communicate(), TIMEOUT_SECONDS)
        assert asked.returncode == 0
        assert "red" in printed.decode().lower()
        async with aiohttp.ClientSession() as http, http.get(url + "/models") as response:
            assert response.status == 401
        server.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(server.wait(), TIMEOUT_SECONDS) == 0


@needs_tiny
async def test_a_server_that_is_not_ours(tmp_path: Path) -> None:
    """`transformers serve`: it lists no models here, ends without [DONE], and sends its usage with the last piece."""
    command = (
        Path(sys.executable).parent / "transformers",
        "serve",
        TINY_PATH,
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--device",
        "cpu",
    )
    address = r"(?<=running on )http://127\.0\.0\.1:\d+"
    async with (
        process(*command, folder=tmp_path, ready=address, HF_HOME=str(tmp_path / "hub")) as (_, url),
        bot(tmp_path, engine_url=f"{url}/v1", engine_model=str(TINY_PATH)) as chats,
    ):
        await talk(chats)


async def test_a_server_that_dies_in_the_middle_and_comes_back(tmp_path: Path) -> None:
    program = (sys.executable, "-m", "tests.e2e.held_server")
    address = r"http://127\.0\.0\.1:(\d+)/v1"
    async with process(*program, "0", "2", folder=ROOT, ready=address) as (server, url):
        port = url.split(":")[-1].removesuffix("/v1")

        async def open_hurried(_: Settings) -> InferenceLoop:
            return await open_remote(RemoteServer(url, context_length=4096), retry_delays_seconds=(0,))

        async with bot(tmp_path, open_model=open_hurried) as chats:
            answer = await chats.handle(message("What is this?", attachment(red_circle())))
            async with asyncio.timeout(TIMEOUT_SECONDS):
                seen = []
                async for event in answer.events():
                    seen.append(event)
                    if isinstance(event, AnswerText) and text_of(seen) == "one two":
                        server.kill()
            assert end_of(seen).status is AnswerStatus.FAILED
            assert end_of(seen).error == "The model server broke off in the middle of the answer. Please ask again."
            assert text_of(seen) == "one two"

            away = await ask(chats, "And now?")
            assert end_of(away).error == "The model server cannot be reached right now. Please ask again in a little while."

            async with process(*program, port, "-1", folder=ROOT, ready=address):
                again = await ask(chats, "And now?")
                assert (end_of(again).status, text_of(again)) == (AnswerStatus.COMPLETE, "one two three four five")


def test_with_a_url_no_model_library_is_loaded(tmp_path: Path) -> None:
    """And the program starts although nobody listens there."""
    code = """
import asyncio, sys
from bot.app import open_model
from bot.config import load_settings

async def main():
    model = await open_model(load_settings(None))
    await model.close()

asyncio.run(main())
print(*sorted({"torch", "transformers", "tokenizers"} & set(sys.modules)), "done")
"""
    settings = environment(tmp_path, THREADSIGHT_ENGINE_URL="http://127.0.0.1:9/v1")
    done = subprocess.run([sys.executable, "-c", code], env=settings, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["done"]), done.stderr
