"""What the doctor finds, and that it changes nothing."""

from __future__ import annotations

import errno
import io
import os
import shutil
import socket
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from adapters.base import Finding
from adapters.web.settings import WebSettings
from bot.config import Settings
from bot.database_file import lock
from bot.doctor import examine
from bot.store import Store
from tests.llava_7b import llava_7b_config
from tests.model_server.scripted_server import Server, answers
from tests.program import PROGRAM, environment


async def findings(folder: Path, **settings: object) -> dict[str, Finding]:
    web = WebSettings.model_validate({"port": settings.pop("web_port", 0)})
    whole = Settings.model_validate({"data_dir": folder / "data", "platforms": {"web": web}, **settings})
    return {finding.what: finding async for finding in examine(whole)}


async def test_a_new_installation_is_well_and_stays_as_it_is(tmp_path: Path) -> None:
    found = await findings(tmp_path)
    assert list(found) == ["Data", "Database", "Model", "Web page"]
    assert all(finding.is_good for finding in found.values())
    assert "will be made" in found["Database"].sentence
    assert "tiny: weights 12" in found["Model"].sentence
    assert not Path.exists(tmp_path / "data")


async def test_a_database_that_is_there_is_opened(tmp_path: Path) -> None:
    store = await Store.open(f"sqlite+aiosqlite:///{tmp_path / 'data' / 'threadsight.db'}")
    await store.close()
    assert (await findings(tmp_path))["Database"].sentence.endswith("threadsight.db can be opened.")


async def test_a_damaged_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "threadsight.db").write_bytes(b"no database" * 1000)
    found = (await findings(tmp_path))["Database"]
    assert not found.is_good
    assert "is damaged: it is no database" in found.sentence
    assert "backup" in found.sentence


async def test_a_database_that_was_cut_off_is_told(tmp_path: Path) -> None:
    path = tmp_path / "data" / "threadsight.db"
    store = await Store.open(f"sqlite+aiosqlite:///{path}")
    await store.close()
    with path.open("r+b") as file:
        file.truncate(8192)
    found = (await findings(tmp_path))["Database"]
    assert not found.is_good
    assert "is damaged" in found.sentence


async def test_a_database_that_is_missing_under_a_running_program_is_told(tmp_path: Path) -> None:
    path = tmp_path / "data" / "threadsight.db"
    store = await Store.open(f"sqlite+aiosqlite:///{path}")
    with closing(lock(tmp_path / "data") or io.BytesIO()):
        assert (await findings(tmp_path))["Database"].is_good
        path.unlink()
        found = (await findings(tmp_path))["Database"]
        assert not found.is_good
        assert "was deleted while threadsight uses it" in found.sentence
    await store.close()
    assert "will be made" in (await findings(tmp_path))["Database"].sentence


@pytest.mark.parametrize("name", ["a#b", "with spaces & ümlaut"])
async def test_the_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name / "data" / "threadsight.db"
    await (await Store.open(f"sqlite+aiosqlite:///{path}")).close()
    assert path.stat().st_size > 0
    assert (await findings(tmp_path / name))["Database"].sentence == f"{path} can be opened."


async def test_a_disk_with_little_room_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await (await Store.open(f"sqlite+aiosqlite:///{tmp_path / 'data' / 'threadsight.db'}")).close()
    monkeypatch.setattr("bot.doctor.shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 10**6, 10**6))
    found = await findings(tmp_path)
    assert not found["Data"].is_good
    assert not found["Database"].is_good
    assert "has 1 MB left" in found["Database"].sentence


async def test_a_data_folder_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    found = await findings(tmp_path)
    assert not found["Data"].is_good
    assert "is a file, not a folder" in found["Data"].sentence
    assert "THREADSIGHT_DATA_DIR" in found["Data"].sentence
    assert not found["Database"].is_good


async def test_a_data_folder_that_belongs_to_somebody_else_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, real = tmp_path / "data", os.stat
    data.mkdir()

    def stat(path: Any, **options: Any) -> os.stat_result:  # root may look everywhere
        if str(path).startswith(f"{data}{os.sep}"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path, **options)

    monkeypatch.setattr(os, "stat", stat)
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(data))
    found = await findings(tmp_path)
    assert "cannot be written" in found["Data"].sentence
    assert "threadsight.db cannot be looked at: Permission denied. Give" in found["Database"].sentence
    assert f"{data} cannot be written" in (await findings(data / "inside"))["Data"].sentence


async def test_a_database_that_can_have_no_such_name_is_told(tmp_path: Path) -> None:
    found = (await findings(tmp_path, database_url=f"sqlite:///{tmp_path}/{'a' * 300}"))["Database"]
    assert not found.is_good
    assert "cannot be looked at: File name too long" in found.sentence


async def test_a_folder_in_the_place_of_the_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "data" / "threadsight.db").mkdir(parents=True)
    found = (await findings(tmp_path))["Database"]
    assert not found.is_good
    assert "threadsight.db is no file" in found.sentence


async def test_a_database_of_a_newer_version_is_told(tmp_path: Path) -> None:
    path = tmp_path / "data" / "threadsight.db"
    await (await Store.open(f"sqlite+aiosqlite:///{path}")).close()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    found = (await findings(tmp_path))["Database"]
    assert not found.is_good
    assert "was made by a newer version of this program; please upgrade" in found.sentence


async def test_a_database_of_an_older_version_is_no_problem(tmp_path: Path) -> None:
    path = tmp_path / "data" / "threadsight.db"
    await (await Store.open(f"sqlite+aiosqlite:///{path}")).close()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
    assert (await findings(tmp_path))["Database"].is_good


async def test_a_database_server_that_is_away_is_told_without_its_password(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    found = (await findings(tmp_path, database_url=f"postgresql://me:hunter2@127.0.0.1:{port}/chats"))["Database"]
    assert not found.is_good
    assert f"me:***@127.0.0.1:{port}/chats cannot be reached" in found.sentence


async def test_a_model_that_does_not_fit_is_told_before_it_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llava_7b_config().save_pretrained(tmp_path / "llava")  # no weights: they would not be looked at
    monkeypatch.setattr("model_server.checkpoints.loading.free_memory", lambda: 8 * 10**9)
    found = (await findings(tmp_path, model=str(tmp_path / "llava")))["Model"]
    assert not found.is_good
    assert "llava does not fit" in found.sentence
    assert "THREADSIGHT_QUANTIZATION" in found.sentence
    monkeypatch.setattr("model_server.checkpoints.loading.free_memory", lambda: 80 * 10**9)
    assert (await findings(tmp_path, model=str(tmp_path / "llava")))["Model"].is_good


async def test_a_model_that_is_not_there_is_told(tmp_path: Path) -> None:
    found = (await findings(tmp_path, model=str(tmp_path / "nothing")))["Model"]
    assert not found.is_good
    assert "nothing" in found.sentence


async def test_a_package_that_is_missing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await findings(tmp_path, quantization="8bit"))["Model"].is_good
    monkeypatch.setattr("model_server.checkpoints.quantization.is_available", lambda: False)
    found = (await findings(tmp_path, quantization="8bit"))["Model"]
    assert not found.is_good
    assert "extra `quantization`" in found.sentence
    assert (await findings(tmp_path, quantization="auto"))["Model"].is_good


async def test_a_model_server_that_is_away_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    found = await findings(tmp_path, engine_url=f"http://127.0.0.1:{port}/v1")
    assert "Model" not in found
    assert not found["Model server"].is_good
    about_it = found["Model server"].sentence
    assert about_it.endswith("cannot be reached right now. Is the server running, and THREADSIGHT_ENGINE_URL right?")


async def test_whoever_runs_the_bot_is_not_asked_to_tell_whoever_runs_it(tmp_path: Path) -> None:
    server = Server()
    await server.start()
    try:
        server.models = answers(401)
        sentence = (await findings(tmp_path, engine_url=server.url))["Model server"].sentence
    finally:
        await server.stop()
    assert "does not let me in" in sentence
    assert "Please tell" not in sentence


async def test_a_taken_port_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        found = (await findings(tmp_path, web_port=taken.getsockname()[1]))["Web page"]
    assert not found.is_good
    assert "THREADSIGHT_WEB_PORT" in found.sentence


@pytest.mark.whole_program
@pytest.mark.parametrize(("port", "status", "last"), [("0", 0, "can be started."), ("1", 1, "see to the problems above.")])
def test_the_command_says_so_and_tells_it_by_its_status(tmp_path: Path, port: str, status: int, last: str) -> None:
    url = {} if status == 0 else {"THREADSIGHT_ENGINE_URL": f"http://127.0.0.1:{port}/v1"}
    done = subprocess.run(
        [*PROGRAM, "doctor"],
        cwd=tmp_path,
        env=environment(tmp_path, **url),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert done.stdout.splitlines()[-1].endswith(last)
    assert [line[:8].strip() for line in done.stdout.splitlines()[:3]] == ["ok", "ok", "ok" if status == 0 else "PROBLEM"]


def test_an_old_name_is_told_and_is_no_problem(tmp_path: Path) -> None:
    old = environment(tmp_path, THREADSIGHT_MAX_PICTURE_BYTES="2000", THREADSIGHT_WEB_PORT="0")
    done = subprocess.run([*PROGRAM, "doctor"], cwd=tmp_path, env=old, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "ok      Settings: THREADSIGHT_MAX_PICTURE_BYTES is called THREADSIGHT_MAX_IMAGE_BYTES now" in done.stdout
