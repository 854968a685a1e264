"""Fixtures: stores (SQLite always, PostgreSQL if its server can be started), and the bot over a scripted model."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from adapters.base import ThreadHandler
from bot.chats import Chats
from bot.images import ImageReader
from bot.store import Store
from bot.thread_chats import ThreadChats
from bot.writer import AnswerWriter
from tests.bot.doubles import Links, ScriptedModel
from tests.bot.handler_drivers import BotDriver, Driver, MemoryDriver


def _find_binaries() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).parent if on_path else None


@dataclass
class PostgresServer:
    """A server of its own, which a test may stop and start again. `url` has no database name."""

    url: str
    _control: list[str]
    _options: list[str]
    _run: dict[str, Any]

    def start(self) -> None:
        subprocess.run([*self._control, *self._options, "start"], **self._run)

    def stop(self) -> None:
        subprocess.run([*self._control, "-m", "immediate", "stop"], **self._run)


@contextlib.contextmanager
def _postgres_server() -> Iterator[PostgresServer]:
    binaries = _find_binaries()
    if binaries is None:
        if os.environ.get("CI") == "true":
            pytest.fail("PostgreSQL must be installed where CI=true")
        pytest.skip("PostgreSQL is not installed")
    as_owner: list[str] = []
    with tempfile.TemporaryDirectory(prefix="threadsight-postgres-") as folder:
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            owner = pwd.getpwnam("postgres")
            os.chown(folder, owner.pw_uid, owner.pw_gid)
            as_owner = ["setpriv", f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        data = f"{folder}/data"
        run: dict[str, Any] = {"check": True, "cwd": folder, "stdout": subprocess.DEVNULL, "timeout": 120}
        subprocess.run([*as_owner, str(binaries / "initdb"), "-D", data, "-U", "tester", "-A", "trust", "-N", "-E", "UTF8"], **run)
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
        control = [*as_owner, str(binaries / "pg_ctl"), "-D", data, "-w"]
        server = PostgresServer(f"postgresql://tester@127.0.0.1:{port}", control, ["-l", f"{folder}/log", "-o", options], run)
        server.start()
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a fresh server, without a database name."""
    with _postgres_server() as server:
        yield server.url


@pytest.fixture
def own_postgres_server() -> Iterator[PostgresServer]:
    """A server that nobody else uses, running; the test leaves it so."""
    with _postgres_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
async def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    if request.param == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path / 'sub' / 'chats.db'}"
        return
    server: str = request.getfixturevalue("postgres_server")
    name = f"t{uuid.uuid4().hex}"
    connection = await asyncpg.connect(f"{server}/postgres")
    try:
        await connection.execute(f"CREATE DATABASE {name}")
        yield f"{server}/{name}".replace("postgresql://", "postgresql+asyncpg://")
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await connection.close()


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[Store]:
    opened = await Store.open(store_url)
    yield opened
    await opened.close()


@pytest.fixture
async def sqlite_store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await Store.open(f"sqlite+aiosqlite:///{tmp_path / 'chats.db'}")
    yield opened
    await opened.close()


@pytest.fixture
def model() -> ScriptedModel:
    return ScriptedModel()


@pytest.fixture
def links() -> Links:
    return Links()


@pytest.fixture
async def new_chats(sqlite_store: Store, links: Links) -> AsyncIterator[Callable[..., Chats]]:
    """Makes the bot over one store, as a fresh start of the program does."""
    made: list[Chats] = []

    def make(model: ScriptedModel, **options: Any) -> Chats:
        reader = ImageReader(1_000_000, links.fetch)
        made.append(Chats(sqlite_store, model, reader, AnswerWriter(sqlite_store, model, **options)))
        return made[-1]

    yield make
    for chats in made:
        await chats.close(0)
        assert chats._unanswered == {}
        assert chats._accepting == {}
        assert chats._tasks == set()
        assert len(chats._locks) == 0


@pytest.fixture
async def new_threads(sqlite_store: Store, links: Links) -> AsyncIterator[Callable[..., ThreadChats]]:
    """Makes the bot over one store, as a fresh start of the program does."""
    made: list[ThreadChats] = []

    def make(model: ScriptedModel, **options: Any) -> ThreadChats:
        writer = AnswerWriter(sqlite_store, model)
        made.append(ThreadChats(sqlite_store, model, ImageReader(1_000_000, links.fetch), writer, **options))
        return made[-1]

    yield make
    for chats in made:
        await chats.close(0)


@pytest.fixture
def chats(new_chats: Callable[..., Chats], model: ScriptedModel) -> Chats:
    return new_chats(model)


@pytest.fixture(params=["bot", "memory"])
async def driver(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Driver]:
    if request.param == "memory":
        yield MemoryDriver()
        return
    store = await Store.open(f"sqlite+aiosqlite:///{tmp_path / 'chats.db'}")
    made = BotDriver(store)
    yield made
    await made.handler.close(0)
    await store.close()


@pytest.fixture
def handler(driver: Driver) -> ThreadHandler:
    return driver.handler
