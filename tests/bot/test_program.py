"""The whole program with the bundled model, as somebody types it."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from adapters.base import AnswerStatus
from bot.store import Store
from model_server.checkpoints.loading import TINY_PATH
from model_server.images import read_image
from tests.bot.doubles import thread
from tests.images import red_circle
from tests.program import PROGRAM, environment

QUESTION = "what colour is the circle?"

pytestmark = [pytest.mark.whole_program, pytest.mark.skipif(not TINY_PATH.is_dir(), reason="the bundled model is not there")]


def _start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [*PROGRAM, *arguments],
        cwd=folder,
        env=environment(folder),
        stdin=subprocess.DEVNULL,
        stdout=pipe,
        stderr=pipe,
        text=True,
    )


def test_one_question_prints_only_the_answer(tmp_path: Path) -> None:
    (tmp_path / "circle.png").write_bytes(red_circle())
    with _start(tmp_path, "chat", "circle.png", QUESTION) as program:
        out, err = program.communicate(timeout=120)
    assert program.returncode == 0, err
    assert out.count("\n") == 1
    assert "red" in out.lower()
    assert not (tmp_path / "data").exists()  # a chat in the terminal leaves no trace


def test_a_chat_that_is_ended_from_outside_leaves_no_trace(tmp_path: Path) -> None:
    (tmp_path / "circle.png").write_bytes(red_circle())
    (tmp_path / "passing").mkdir()
    with subprocess.Popen(
        [*PROGRAM, "chat", "circle.png"],
        cwd=tmp_path,
        env=environment(tmp_path, TMPDIR=str(tmp_path / "passing")),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as program:
        assert program.stdout is not None
        assert program.stdout.read(1)  # it greets when the chat is ready
        assert list((tmp_path / "passing").glob("threadsight-*"))
        program.send_signal(signal.SIGTERM)
        program.wait(timeout=120)  # its input stays open: the end of that would end the chat too
    assert program.returncode in (0, 130)  # by where the signal met it: while it waited for a line, or within asyncio
    assert not list((tmp_path / "passing").glob("threadsight-*"))


def test_a_file_that_is_no_picture_is_told_and_the_model_is_not_asked(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    with _start(tmp_path, "chat", "notes.txt", QUESTION) as program:
        out, err = program.communicate(timeout=120)
    assert (program.returncode, out) == (1, "")
    assert err.splitlines()[-1].startswith("I could not use notes.txt: it is not a picture")
    assert "Traceback" not in err


async def test_a_question_that_was_left_open_is_answered_at_the_next_start(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'data' / 'threadsight.db'}"
    store = await Store.open(url)
    await store.add_turn(thread(), "m1", QUESTION, images=[read_image(red_circle(), "circle.png")], is_start=True)
    await store.close()

    with _start(tmp_path, "run") as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "Answering what was left open: 1 question.\n"
        assert program.stdout.readline().startswith("Threadsight is ready: http://127.0.0.1:")
        program.send_signal(signal.SIGTERM)  # lets the answer finish
        _, err = program.communicate(timeout=120)
    assert program.returncode == 0, err
    assert "Traceback" not in err

    store = await Store.open(url)
    [turn] = await store.read_turns(thread())
    await store.close()
    assert turn.status is AnswerStatus.COMPLETE
    assert "red" in turn.answer.lower()
    assert turn.token_ids
