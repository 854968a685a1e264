"""Faults of an SQLite database, as real as they can be had on any machine."""

from __future__ import annotations

import contextlib
import resource
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from bot.images import ImageReader
from bot.store import Store
from bot.thread_chats import ThreadChats
from bot.writer import AnswerWriter
from tests.bot.doubles import Links, ScriptedModel

TIMEOUT = 60


def over(store: Store, model: ScriptedModel) -> ThreadChats:
    return ThreadChats(store, model, ImageReader(1_000_000, Links().fetch), AnswerWriter(store, model))


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another program writes meanwhile."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


@contextlib.contextmanager
def full(store: Store) -> Iterator[None]:
    """The database may have no page more: SQLite says what it says on a full disk."""
    with _pragma(store, "max_page_count", "1", "1000000"):  # it is never less than the database has
        yield


@contextlib.contextmanager
def read_only(store: Store) -> Iterator[None]:
    """SQLite refuses to write, with the code for files that cannot be written."""
    with _pragma(store, "query_only", "ON", "OFF"):
        yield


@contextlib.contextmanager
def _pragma(store: Store, name: str, value: str, afterwards: str) -> Iterator[None]:
    now = value

    def set_it(connection: Any, *_: object) -> None:
        connection.cursor().execute(f"PRAGMA {name} = {now}")

    sa.event.listen(store._engine.sync_engine, "checkout", set_it)
    try:
        yield
    finally:
        now = afterwards


@contextlib.contextmanager
def quota_used_up(path: Path) -> Iterator[None]:
    """No file may grow beyond the size of the database's journal: as with a quota, writing fails with another code than on a full
    disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = max(name.stat().st_size for name in (path, path.with_name(path.name + "-wal")))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


FAULTS = ["locked", "full", "read only", "quota"]


@contextlib.contextmanager
def faulty(fault: str, store: Store, path: Path) -> Iterator[None]:
    made = {"locked": lambda: locked(path), "full": lambda: full(store), "read only": lambda: read_only(store)}
    with made.get(fault, lambda: quota_used_up(path))():
        yield


SENTENCES = {
    "locked": "is locked by another program",
    "full": "has no room left",
    "read only": "can only be read",
    "quota": "a quota is used up",
}


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "bot.transactions"]
