"""Opens the database: SQLite in WAL mode, or PostgreSQL; every start migrates its tables. Says what is wrong when it fails."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import alembic.command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, event, func, make_url, select
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from bot.database_file import identity, make_private_file, opened_as, sqlite_path

_CLAIM = int.from_bytes(b"thread-s")  # an advisory lock's number that no other program is likely to use
_MAX_CHECKED_BYTES = 256 * 2**20  # a larger file would delay the start by seconds; `doctor` reads any
_CONNECT_SECONDS = 10.0

# What SQLite's result codes (https://www.sqlite.org/rescode.html) mean to the operator; and whether it may pass by itself.
_SQLITE: dict[int, tuple[str, bool]] = {
    5: ("is locked by another program. Please close that one", True),
    6: ("is locked by another program. Please close that one", True),
    8: ("can only be read. Please give this user the right to write it and its folder", False),
    10: ("cannot be read or written: its disk reports an error, or a quota is used up", True),
    11: ("is damaged. Please stop me, put a backup in its place, or move it away", False),
    13: ("has no room left. Please free some on its disk", False),
    14: ("cannot be opened. Please give this user the right to read and write it and its folder", True),
    26: ("is damaged: it is no database. Please stop me, put a backup in its place, or move it away", False),
}
# The same for PostgreSQL's (https://www.postgresql.org/docs/current/errcodes-appendix.html), by their beginnings.
_POSTGRESQL: dict[str, tuple[str, bool]] = {
    "08": ("cannot be reached", True),
    "25006": ("can only be read", True),
    "28": ("does not let this user in. Please correct its address or the user's rights", False),
    "3D": ("does not exist any more", False),
    "42P01": ("has lost its tables. Please stop me, put a backup in its place, and start me again", False),
    "42501": ("does not give this user the rights that I need", False),
    "53100": ("has no room left. Please free some on its disk", False),
    "53": ("has too much to do to answer", True),
    "55": ("is busy with something else", True),
    "57": ("is being stopped or started", True),
    "58": ("reports an error of its disk", True),
    "XX": ("is damaged", False),
}
NO_POSTGRESQL = (
    "A package for PostgreSQL is not installed. `make install` adds it now that THREADSIGHT_DATABASE_URL names one; "
    "without make it is pip install '.[postgres]' in Threadsight's folder."
)
_MOVED = "was deleted or replaced while I use it. Please stop me, put the right file in its place, and start me again"


class StoreError(Exception):
    """The database cannot be used. The message is a sentence for the operator, without the URL's password.

    `may_pass`: it may be over in a moment, without anybody's help.
    """

    def __init__(self, sentence: str, *, may_pass: bool = False) -> None:
        super().__init__(sentence)
        self.may_pass = may_pass


class ClaimedError(StoreError):
    """Another program uses the database."""


@dataclass(frozen=True, slots=True)
class Database:
    """An open database. `where` names it to the operator; `path` and `file_identity` are those of SQLite's file."""

    engine: AsyncEngine
    where: str
    path: Path | None = None
    file_identity: tuple[int, int] | None = None

    def check_file(self) -> None:
        """Raise StoreError unless SQLite's file is the one that was opened: what is written to a deleted one is lost. Blocks."""
        if self.path is not None and identity(self.path) != self.file_identity:
            raise StoreError(f"The database {self.where} {_MOVED}.", may_pass=False)


async def open_database(url: str) -> Database:
    """Connect to the database and migrate its tables. `url` is SQLAlchemy's, with an asyncio driver. Raises StoreError.

    SQLite's files become readable for their owner only.
    """
    parsed = make_url(url)
    is_sqlite = parsed.drivername.startswith("sqlite")
    path = sqlite_path(parsed)
    where = str(parsed.database if is_sqlite else parsed.render_as_string(hide_password=True))
    try:
        if path is not None:
            await asyncio.to_thread(make_private_file, path)
            parsed = opened_as(parsed, path, "rw")
        # A connection to SQLite is a thread, and starting one blocks the event loop: so a small pool, which does not grow.
        pool: dict[str, Any] = {"pool_size": 4, "max_overflow": 0}
        if not is_sqlite:
            pool = {"pool_pre_ping": True, "connect_args": {"timeout": _CONNECT_SECONDS}}
        engine = create_async_engine(parsed, hide_parameters=True, **pool)  # no message text in errors
    except ModuleNotFoundError:
        raise StoreError(NO_POSTGRESQL) from None
    except OSError as error:
        raise StoreError(f"The database {where} cannot be made: {error.strerror}.") from None
    if is_sqlite:
        event.listen(engine.sync_engine, "connect", _set_up_sqlite)
        event.listen(engine.sync_engine, "begin", _begin_sqlite)
    try:
        async with for_writing(engine).begin() as connection:
            await connection.run_sync(_migrate)
            if path is not None and await asyncio.to_thread(_is_small, path):
                await connection.run_sync(_check, where)
    except CommandError:
        await engine.dispose()
        raise _newer(where) from None
    except StoreError:
        await engine.dispose()
        raise
    except (SQLAlchemyError, OSError) as error:
        await engine.dispose()
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        trouble = explain(error, where)
        raise trouble or StoreError(f"The database {where} cannot be opened: {reason}.") from None
    return Database(engine, where, path, None if path is None else await asyncio.to_thread(identity, path))


def for_writing(engine: AsyncEngine) -> AsyncEngine:
    """The same engine, whose transactions take SQLite's lock at once. One that begins by reading could not write any more once
    somebody else has written meanwhile, however long it waits."""
    return engine.execution_options(sqlite_begin="BEGIN IMMEDIATE")


def explain(error: BaseException, where: str) -> StoreError | None:
    """What an error of the database means to the operator. None if it is not the database's state that is wrong."""
    if isinstance(error, StoreError):
        return error
    if isinstance(error, OSError):
        return StoreError(f"The database {where} cannot be reached: {error.strerror or type(error).__name__}.", may_pass=True)
    if isinstance(error, PoolTimeoutError):
        return StoreError(f"The database {where} has too much to do to answer.", may_pass=True)
    if not isinstance(error, DBAPIError):
        return None
    original = error.orig
    code = getattr(original, "sqlite_errorcode", None)
    if code is not None:
        if "no such table" in str(original):
            return StoreError(f"The database {where} {_MOVED}.")
        known = _SQLITE.get(code & 0xFF)
    else:
        state = str(getattr(original, "sqlstate", None) or "")
        known = next((_POSTGRESQL[state[:n]] for n in (5, 2) if state[:n] in _POSTGRESQL), None)
        if known is None and error.connection_invalidated:
            known = _POSTGRESQL["08"]
    if known is not None:
        return StoreError(f"The database {where} {known[0]}.", may_pass=known[1])
    if isinstance(error, (IntegrityError, ProgrammingError, DataError)):
        return None
    # Not the error's own text, which may quote what was to be stored.
    name = getattr(original, "sqlite_errorname", None) or getattr(original, "sqlstate", None) or type(original).__name__
    return StoreError(f"The database {where} reports an error that I do not know ({name}).", may_pass=True)


async def claim_database(database: Database) -> AsyncConnection | None:
    """Lock a PostgreSQL database until the returned connection is closed: another program would answer the same open questions.
    None for SQLite, whose folder is locked instead. Raises ClaimedError if another program has the database, or StoreError."""
    engine = database.engine
    if engine.dialect.name != "postgresql":
        return None
    async with AsyncExitStack() as stack:
        try:
            connection = await stack.enter_async_context(engine.connect())
            await connection.execution_options(isolation_level="AUTOCOMMIT")  # so that no transaction stays open
            is_ours = await connection.scalar(select(func.pg_try_advisory_lock(_CLAIM)))
        except (SQLAlchemyError, OSError) as error:
            trouble = explain(error, database.where)
            if trouble is None:
                raise
            raise trouble from None
        if is_ours:
            stack.pop_all()
            return connection
    raise ClaimedError(f"Another threadsight is running over the database {database.where}.")


async def is_claimed(claim: AsyncConnection) -> bool:
    """Whether the connection of a claim is alive; with it the claim ends."""
    try:
        await claim.scalar(select(1))
    except (SQLAlchemyError, OSError):
        return False
    return True


def _is_small(path: Path) -> bool:
    return path.stat().st_size <= _MAX_CHECKED_BYTES


def _check(connection: Connection, where: str) -> None:
    if connection.exec_driver_sql("PRAGMA quick_check(1)").scalar() != "ok":
        raise StoreError(f"The database {where} {_SQLITE[11][0]}.")


def check_version(connection: Connection, where: str) -> None:
    """Raise StoreError if the tables are those of a newer version of this program. Changes nothing."""
    revisions = MigrationContext.configure(connection).get_current_heads()
    try:
        ScriptDirectory.from_config(_migrations()).get_revisions(revisions)
    except CommandError:
        raise _newer(where) from None


def _newer(where: str) -> StoreError:
    return StoreError(f"The database {where} was made by a newer version of this program; please upgrade.")


def _migrate(connection: Connection) -> None:
    """Migrate within the connection's transaction: if the program is killed here, the tables are unchanged."""
    config = _migrations()
    config.attributes["connection"] = connection
    alembic.command.upgrade(config, "head")


def _migrations() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    return config


def _set_up_sqlite(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    # Python's sqlite3 begins transactions late, and none around DDL; so `_begin_sqlite` begins them instead.
    # https://docs.sqlalchemy.org/en/20/dialects/sqlite.html#pysqlite-serializable
    connection.isolation_level = None
    cursor = connection.cursor()
    # Who waits longer than `busy_timeout` for another program's lock tries again (bot/transactions.py).
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=1000", "secure_delete=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("sqlite_begin", "BEGIN"))
