"""Start and end of the program: in this process with doubles, and in processes of their own that are ended the hard way."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import aiohttp
import pytest

from adapters.base import AnswerStatus, ChatHandler
from adapters.web.server import WebAddressError
from adapters.web.settings import WebSettings
from bot.app import run
from bot.config import Settings
from bot.database import StoreError
from bot.store import Store
from bot.turns import StoredTurn
from model_server.errors import EngineFailed
from tests.bot.doubles import ScriptedModel, attachment, message, png, thread

ROOT = Path(__file__).parents[2]


def _settings(folder: Path, *, web_port: int = 0, **more: object) -> Settings:
    web = WebSettings(port=web_port)
    return Settings.model_validate({"data_dir": folder, "platforms": {"web": web}, "shutdown_grace_seconds": 20.0, **more})


class Asking:
    """An adapter that hands one message over and then stays."""

    name = "asking"

    def __init__(self) -> None:
        self.has_asked = asyncio.Event()

    async def run(self, handler: ChatHandler) -> None:
        await handler.handle(message("What is this?", attachment(png())))
        self.has_asked.set()
        await asyncio.Event().wait()


class Failing:
    name = "failing"

    async def run(self, handler: ChatHandler) -> None:
        raise RuntimeError("The platform threw us out.")


async def _turns(folder: Path) -> list[StoredTurn]:
    store = await Store.open(f"sqlite+aiosqlite:///{folder / 'threadsight.db'}")
    try:
        return await store.read_turns(thread())
    finally:
        await store.close()


async def test_the_page_is_served_and_its_address_told(tmp_path: Path) -> None:
    told: asyncio.Queue[str] = asyncio.Queue()
    stop, model = asyncio.Event(), ScriptedModel()

    async def open_model(_: Settings) -> ScriptedModel:
        return model

    async with asyncio.timeout(30):
        running = asyncio.create_task(run(_settings(tmp_path), told.put_nowait, open_model=open_model, stop=stop))
        url = (await told.get()).removeprefix("Threadsight is ready: ")
        async with aiohttp.ClientSession() as client, client.get(url) as response:
            assert response.status == 200
        stop.set()
        await running
    assert model.is_closed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_lets_the_running_answer_finish(tmp_path: Path, number: signal.Signals) -> None:
    model, adapter = ScriptedModel(), Asking()
    model.gate = asyncio.Event()
    told: asyncio.Queue[str] = asyncio.Queue()

    async def open_model(_: Settings) -> ScriptedModel:
        return model

    async with asyncio.timeout(30):
        running = asyncio.create_task(run(_settings(tmp_path), told.put_nowait, open_model=open_model, adapters=[adapter]))
        await adapter.has_asked.wait()
        os.kill(os.getpid(), number)
        assert "Stopping" in await told.get()
        model.gate.set()
        await running
    [turn] = await _turns(tmp_path)
    assert (turn.status, turn.answer) == (AnswerStatus.COMPLETE, "Answer to: What is this?")


async def test_a_second_signal_hurries_and_leaves_the_answer_for_later(tmp_path: Path) -> None:
    model, adapter = ScriptedModel(), Asking()
    model.gate = asyncio.Event()
    told: asyncio.Queue[str] = asyncio.Queue()

    async def open_model(_: Settings) -> ScriptedModel:
        return model

    settings = _settings(tmp_path, shutdown_grace_seconds=3_600.0)
    async with asyncio.timeout(30):
        running = asyncio.create_task(run(settings, told.put_nowait, open_model=open_model, adapters=[adapter]))
        await adapter.has_asked.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        assert "Stopping" in await told.get()
        os.kill(os.getpid(), signal.SIGTERM)
        await running
        assert await told.get() == "Left open, to be answered after the next start: 1 question."
    [turn] = await _turns(tmp_path)
    assert (turn.status, turn.answer) == (AnswerStatus.PENDING, "")


async def test_the_program_ends_when_the_model_dies(tmp_path: Path) -> None:
    model, adapter = ScriptedModel(), Asking()

    async def open_model(_: Settings) -> ScriptedModel:
        return model

    async with asyncio.timeout(30):
        running = asyncio.create_task(run(_settings(tmp_path), print, open_model=open_model, adapters=[adapter]))
        await adapter.has_asked.wait()
        assert model.broken is not None
        model.broken.set_exception(EngineFailed("The model has stopped working."))
        with pytest.raises(ExceptionGroup) as caught:
            await running
    assert caught.group_contains(EngineFailed)
    assert model.is_closed


async def test_the_program_ends_when_an_adapter_fails(tmp_path: Path) -> None:
    async def open_model(_: Settings) -> ScriptedModel:
        return ScriptedModel()

    async with asyncio.timeout(30):
        with pytest.raises(ExceptionGroup) as caught:
            await run(_settings(tmp_path), print, open_model=open_model, adapters=[Failing()])
        assert caught.group_contains(RuntimeError, match="threw us out")

        with socket.create_server(("127.0.0.1", 0)) as taken:
            with pytest.raises(ExceptionGroup) as caught:
                await run(_settings(tmp_path, web_port=taken.getsockname()[1]), print, open_model=open_model)
            assert caught.group_contains(WebAddressError)


@pytest.mark.parametrize("inside", ["", "folder"])
async def test_a_file_in_the_place_of_the_data_folder_is_told(tmp_path: Path, inside: str) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(StoreError, match=r"data folder .*data\S* cannot be made: a file is in its place"):
        await run(_settings(tmp_path / "data" / inside), print, adapters=[])


async def test_a_second_program_over_the_same_data_is_refused(tmp_path: Path) -> None:
    adapter, stop = Asking(), asyncio.Event()

    async def open_model(_: Settings) -> ScriptedModel:
        return ScriptedModel()

    async with asyncio.timeout(30):
        first = asyncio.create_task(run(_settings(tmp_path), print, open_model=open_model, adapters=[adapter], stop=stop))
        await adapter.has_asked.wait()
        with pytest.raises(StoreError, match="Another threadsight"):
            await run(_settings(tmp_path), print, open_model=open_model, adapters=[Asking()])
        stop.set()
        await first


async def _program(folder: Path, num_free: int, message_id: str, **settings: str) -> asyncio.subprocess.Process:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("THREADSIGHT_")},
        "THREADSIGHT_DATA_DIR": str(folder),
        "PYTHONPATH": str(ROOT),
        **settings,
    }
    arguments = [sys.executable, "-m", "tests.bot.killable_program", str(num_free), message_id]
    return await asyncio.create_subprocess_exec(*arguments, cwd=ROOT, env=environment, stdout=asyncio.subprocess.PIPE)


async def _line(program: asyncio.subprocess.Process) -> str:
    assert program.stdout is not None
    return (await asyncio.wait_for(program.stdout.readline(), 60)).decode().strip()


async def test_a_killed_program_answers_after_the_restart_exactly_once(tmp_path: Path) -> None:
    killed = await _program(tmp_path, 2, "m1")
    assert (await _line(killed)).startswith("text Answer")
    killed.kill()
    assert await killed.wait() == -signal.SIGKILL
    [turn] = await _turns(tmp_path)
    assert (turn.status, turn.answer, turn.token_ids) == (AnswerStatus.PENDING, "", None)  # no half row

    restarted = await _program(tmp_path, -1, "")
    while not (line := await _line(restarted)).startswith("ended"):
        assert line.startswith("text")
    assert line == "ended complete"
    restarted.send_signal(signal.SIGTERM)
    assert await _line(restarted) == "requests 1"
    assert await restarted.wait() == 0
    [turn] = await _turns(tmp_path)
    assert (turn.status, turn.answer) == (AnswerStatus.COMPLETE, "Answer to: What is this?")

    once_more = await _program(tmp_path, -1, "")
    assert await _line(once_more) == "nothing to do"
    once_more.send_signal(signal.SIGTERM)
    assert await _line(once_more) == "requests 0"
    assert await once_more.wait() == 0


@pytest.mark.parametrize("num_words", [-1, 2])
async def test_what_a_killed_program_did_not_deliver_is_delivered_after_the_restart_once(tmp_path: Path, num_words: int) -> None:
    """Whether the answer had ended (-1) or not when it was killed."""
    killed = await _program(tmp_path, num_words, "m1")
    assert (await _line(killed)).startswith("text Answer")
    while num_words < 0 and not (await _line(killed)).startswith("ended"):
        pass
    killed.kill()
    await killed.wait()
    for expected in (["delivered Answer to: What is this?", "all is delivered"], ["all is delivered"]):
        restarted = await _program(tmp_path, -1, "deliver")
        assert [await _line(restarted) for _ in expected] == expected
        restarted.kill()
        await restarted.wait()


async def test_sigterm_in_the_middle_of_an_answer_leaves_no_half_row(tmp_path: Path) -> None:
    program = await _program(tmp_path, 2, "m1", THREADSIGHT_SHUTDOWN_GRACE_SECONDS="0")
    assert (await _line(program)).startswith("text Answer")
    program.send_signal(signal.SIGTERM)
    lines = [await _line(program) for _ in range(2)]
    while not lines[-1].startswith("requests"):
        lines.append(await _line(program))
    assert await program.wait() == 0
    assert "ended pending" in lines
    [turn] = await _turns(tmp_path)
    assert (turn.status, turn.answer, turn.token_ids) == (AnswerStatus.PENDING, "", None)
