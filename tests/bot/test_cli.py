"""The command line's sentences and exit statuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bot.cli import _fail, _first, _say
from bot.database import StoreError
from model_server.errors import ModelLoadError

ROOT = Path(__file__).parents[2]


def _run(folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("THREADSIGHT_")},
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "THREADSIGHT_DATA_DIR": str(folder / "data"),
        **settings,
    }
    command = [sys.executable, "-m", "bot", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_version_and_help(tmp_path: Path) -> None:
    assert _run(tmp_path, "--version").stdout.startswith("threadsight ")
    shown = _run(tmp_path, "--help").stdout
    assert "run" in shown
    assert "chat" in shown


@pytest.mark.parametrize("arguments", [(), ("dance",), ("chat",), ("run", "--nonsense")])
def test_a_wrong_call_is_status_2(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = _run(tmp_path, *arguments)
    assert done.returncode == 2
    assert "usage: threadsight" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("arguments", [("setup", "slack"), ("doctor",)])
def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """As with `threadsight doctor | head -1`."""
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "THREADSIGHT_DATA_DIR": str(tmp_path / "data")}
    with os.fdopen(writing, "wb") as nobody:
        command = [sys.executable, "-m", "bot", *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, stdout=nobody, stderr=subprocess.PIPE, timeout=120, check=False
        )
    assert (done.returncode, done.stderr) == (1, b"")


def test_the_program_goes_on_when_nobody_reads_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as nobody:
        monkeypatch.setattr(sys, "stdout", nobody)
        _say("Threadsight is ready.")
        _say("Stopping.")


def test_wrong_settings_are_status_2_with_all_their_sentences(tmp_path: Path) -> None:
    done = _run(tmp_path, "run", THREADSIGHT_WEB_PORT="abc", THREADSIGHT_WEB_HOST="0.0.0.0")
    assert done.returncode == 2
    assert [line.split()[1] for line in done.stderr.splitlines()] == ["THREADSIGHT_WEB_PORT", "THREADSIGHT_WEB_TOKEN"]
    assert "Traceback" not in done.stderr


def test_a_missing_picture_is_told_before_a_model_is_loaded(tmp_path: Path) -> None:
    done = _run(tmp_path, "chat", "none.png", "What?")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "threadsight: There is no file none.png.\n")


@pytest.mark.whole_program
def test_a_model_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    done = _run(tmp_path, "run", THREADSIGHT_MODEL=str(tmp_path / "no model here"), DISCORD_TOKEN="hunter2")
    assert done.returncode == 1
    assert "hunter2" not in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("threadsight: ")


def test_a_database_that_cannot_be_opened_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where a folder should be")
    done = _run(tmp_path, "run")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "cannot be made" in done.stderr.splitlines()[-1]


def test_the_cause_is_found_in_groups_and_strangers_go_to_the_log(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    group = ExceptionGroup("outer", [ExceptionGroup("inner", [StoreError("The database is gone.")])])
    assert _fail(_first(group)) == 1
    assert _fail(ModelLoadError("No such model.")) == 1
    assert capsys.readouterr().err == "threadsight: The database is gone.\nthreadsight: No such model.\n"
    assert caplog.records == []
    assert _fail(RuntimeError("a bug")) == 1
    assert "a bug" not in capsys.readouterr().err
    assert "a bug" in caplog.text
