"""The database's file: lost, damaged, of somebody else, on a full disk; and that nobody else may read it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from adapters.base import AnswerStatus, Ended
from bot.app import _only_one
from bot.chats import NOT_KEPT
from bot.database import StoreError
from bot.store import Store
from bot.thread_chats import ThreadChats
from bot.thread_store import ThreadStore
from tests.bot.doubles import RED, ScriptedModel, ask, attachment, end_of, thread
from tests.bot.faults import TIMEOUT, full, locked, logged, over


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chats.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[Store]:
    """One that does not try a second time, so that each fault shows."""
    opened = await Store.open(f"sqlite+aiosqlite:///{path}", patience_seconds=0)
    yield opened
    await opened.close()


@pytest.fixture
def model() -> ScriptedModel:
    return ScriptedModel()


@pytest.fixture
async def chats(store: Store, model: ScriptedModel, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ThreadChats]:
    monkeypatch.setattr("bot.writer._SECONDS_BETWEEN_TRIES", 0.001)
    monkeypatch.setattr("bot.writer._MAX_SECONDS_BETWEEN_STORING", 0.01)
    made = over(store, model)
    yield made
    await made.close(0)


def move(path: Path, to: Path) -> None:
    path.replace(to)


def write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def exists(path: Path) -> bool:
    return path.exists()


def cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def damage(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(os.urandom(3 * 4096))


def fill(path: Path) -> None:
    """Write until the disk is full."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while file.write(b"x" * 4096):
            pass


# -- a file that is lost, damaged or read-only --------------------------------------------------------------------------------


@pytest.mark.parametrize("is_replaced", [False, True])
async def test_a_file_that_is_deleted_or_replaced_is_noticed_before_anything_is_written(
    chats: ThreadChats, store: Store, path: Path, is_replaced: bool, caplog: pytest.LogCaptureFixture
) -> None:
    await ask(chats, "What is this?", attachment(RED))
    moved = path.with_name("moved.db")
    move(path, moved)
    if is_replaced:
        write(path, b"another file")
    for number in range(3):
        assert end_of(await ask(chats, "And this?", message_id=f"m{number}")) == Ended(AnswerStatus.FAILED, NOT_KEPT)
    assert exists(path) == is_replaced  # no empty database in its place
    [sentence] = logged(caplog)
    assert sentence.startswith(f"The database {path} was deleted or replaced while I use it. Please stop me")
    move(moved, path)
    assert end_of(await ask(chats, "And this?", message_id="m0")) == Ended(AnswerStatus.COMPLETE)
    assert "can be used again" in logged(caplog)[-1]


async def test_the_log_says_so_even_if_nobody_asks(store: Store, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    said: asyncio.Queue[str] = asyncio.Queue()

    class Hearing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.put_nowait(record.getMessage())

    handler = Hearing()
    logging.getLogger("bot.transactions").addHandler(handler)
    watching = asyncio.create_task(store.watch(0.05))
    try:
        async with asyncio.timeout(TIMEOUT):
            move(path, path.with_name("moved.db"))
            assert "was deleted or replaced" in await said.get()
            move(path.with_name("moved.db"), path)
            assert "can be used again" in await said.get()
            lock = locked(path)
            await asyncio.to_thread(lock.__enter__)  # which waits for the one who watches
            assert "is locked" in await said.get()
            lock.__exit__(None, None, None)
            assert "can be used again" in await said.get()
        with full(store):
            await asyncio.gather(ThreadStore(store).write_note("test", "x", "y" * 200_000), return_exceptions=True)
            await store.read_turns(thread())
            async with asyncio.timeout(TIMEOUT):
                assert "has no room left" in await said.get()
        assert said.empty()  # that one can begin to write is not the end of a full disk
        await ThreadStore(store).write_note("test", "x", "y")
        async with asyncio.timeout(TIMEOUT):
            assert "can be used again" in await said.get()
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        logging.getLogger("bot.transactions").removeHandler(handler)


async def test_a_file_that_is_cut_off_is_told_at_the_start_and_while_it_is_used(
    store: Store, chats: ThreadChats, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await ask(chats, "What is this?", attachment(RED))
    async with store._engine.connect() as connection:
        await connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    await store._engine.dispose()  # new connections, without what the old ones remember of the file
    cut_off(path)
    assert end_of(await ask(chats, "And this?")) == Ended(AnswerStatus.FAILED, NOT_KEPT)
    assert "is damaged" in logged(caplog)[-1]
    with pytest.raises(StoreError, match=r"is damaged\. Please stop me, put a backup in its place"):
        await Store.open(f"sqlite+aiosqlite:///{path}")


async def test_pages_that_are_damaged_are_told_at_the_start(store: Store, path: Path) -> None:
    for number in range(200):
        await store.add_turn(thread(), f"m{number}", "What is this? " * 20)
    await store.close()
    damage(path)
    with pytest.raises(StoreError, match="is damaged"):
        await Store.open(f"sqlite+aiosqlite:///{path}")


@pytest.mark.parametrize(("mode", "sentence"), [(0o444, "can only be read"), (0o000, "cannot be opened")])
def test_a_file_of_another_user_is_told_at_the_start(mode: int, sentence: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chats.db"
        assert opened_by_nobody(path) == ""  # root's own process: everything is imported now
        for name in modes(path.parent):
            (path.parent / name).chmod(mode)
        Path(folder).chmod(0o755)
        said = opened_by_nobody(path, is_nobody=True)
    assert said.startswith(f"The database {path} {sentence}. Please give this user the right to")


def opened_by_nobody(path: Path, *, is_nobody: bool = False) -> str:
    """Open the database, as another user if we may be one. Returns the error."""

    async def open_it() -> str:
        try:
            await (await Store.open(f"sqlite+aiosqlite:///{path}")).close()
        except StoreError as error:
            return str(error)
        return ""

    if not is_nobody or os.geteuid() != 0:
        return asyncio.run(open_it())
    said, saying = os.pipe()
    if not (child := os.fork()):
        os.setuid(65534)
        os.write(saying, asyncio.run(open_it()).encode() or b"nothing")
        os._exit(0)
    os.close(saying)
    with os.fdopen(said) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return text


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let us mount a small disk")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


async def test_a_disk_that_is_really_full(small_disk: Path) -> None:
    store = await Store.open(f"sqlite+aiosqlite:///{small_disk / 'chats.db'}")
    notes = ThreadStore(store)
    with pytest.raises(StoreError, match="has no room left"):
        await notes.write_note("test", "x", "y" * 2_000_000)
    await notes.write_note("test", "x", "y")
    assert await notes.read_note("test", "x") == "y"
    await store.close()
    fill(small_disk / "more")
    with pytest.raises(StoreError, match=r"has no room left|its disk reports an error|cannot be made"):
        await Store.open(f"sqlite+aiosqlite:///{small_disk / 'new.db'}")


# -- who may read it ----------------------------------------------------------------------------------------------------------


def modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


async def test_only_the_owner_may_read_the_database(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "chats.db"
    store = await Store.open(f"sqlite+aiosqlite:///{path}")
    await store.add_turn(thread(), "m1", "?")
    assert modes(path.parent) == {"chats.db": 0o600, "chats.db-wal": 0o600, "chats.db-shm": 0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    for name in modes(path.parent):  # as an earlier version left them
        (path.parent / name).chmod(0o644)
    again = await Store.open(f"sqlite+aiosqlite:///{path}")
    assert modes(path.parent) == {"chats.db": 0o600, "chats.db-wal": 0o600, "chats.db-shm": 0o600}
    await again.close()
    await store.close()


async def test_only_the_owner_may_look_into_the_data_folder(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for _ in range(2):  # one that is new, and one that an earlier version left open to everybody
        async with _only_one(folder):
            assert modes(tmp_path) == {"data": 0o700}
            assert modes(folder) == {"lock": 0o600}
        open_to_all(folder)


def open_to_all(folder: Path) -> None:
    folder.chmod(0o755)
    (folder / "lock").chmod(0o644)


async def test_a_folder_that_is_meant_for_everybody_stays_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "tmp"
    folder.mkdir()
    folder.chmod(0o1777)
    async with _only_one(folder):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o1777
    assert f"Others on this machine may look into {folder}" in caplog.text
