"""Opens the database: SQLite in WAL mode, or PostgreSQL; every start migrates its tables."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import alembic.command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, event, func, make_url, select
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

_CLAIM = int.from_bytes(b"thread-s")  # an advisory lock's number that no other program is likely to use


class StoreError(Exception):
    """The database cannot be opened. The message is a sentence for the operator, without the URL's password."""


async def open_database(url: str) -> AsyncEngine:
    """Connect to the database and migrate its tables. `url` is SQLAlchemy's, with an asyncio driver. Raises StoreError."""
    parsed = make_url(url)
    is_sqlite = parsed.drivername.startswith("sqlite")
    where = parsed.database if is_sqlite else parsed.render_as_string(hide_password=True)
    try:
        if is_sqlite:
            await asyncio.to_thread(Path(parsed.database or "").parent.mkdir, parents=True, exist_ok=True)
        # A connection to SQLite is a thread, and starting one blocks the event loop: so a small pool, which does not grow.
        pool: dict[str, Any] = {"pool_size": 4, "max_overflow": 0} if is_sqlite else {"pool_pre_ping": True}
        engine = create_async_engine(url, hide_parameters=True, **pool)  # no message text in errors
    except ModuleNotFoundError:
        raise StoreError("PostgreSQL needs one more package: pip install 'threadsight[postgres]'.") from None
    except OSError as error:
        raise StoreError(f"The folder of the database {where} cannot be made: {error.strerror}.") from None
    if is_sqlite:
        event.listen(engine.sync_engine, "connect", _set_up_sqlite)
        event.listen(engine.sync_engine, "begin", _begin_sqlite)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(_migrate)
    except CommandError:
        await engine.dispose()
        raise StoreError(f"The database {where} was made by a newer version of this program; please upgrade.") from None
    except (SQLAlchemyError, OSError) as error:
        await engine.dispose()
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise StoreError(f"The database {where} cannot be opened: {reason}.") from None
    return engine


async def claim_database(engine: AsyncEngine) -> AsyncConnection | None:
    """Lock a PostgreSQL database until the returned connection is closed: another program would answer the same open questions.
    None for SQLite, whose folder is locked instead. Raises StoreError if another program has the database."""
    if engine.dialect.name != "postgresql":
        return None
    connection = await (await engine.connect()).execution_options(isolation_level="AUTOCOMMIT")  # so that no transaction stays open
    if await connection.scalar(select(func.pg_try_advisory_lock(_CLAIM))):
        return connection
    await connection.close()
    where = engine.url.render_as_string(hide_password=True)
    raise StoreError(f"Another threadsight is running over the database {where}.")


def _migrate(connection: Connection) -> None:
    """Migrate within the connection's transaction: if the program is killed here, the tables are unchanged."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    config.attributes["connection"] = connection
    alembic.command.upgrade(config, "head")


def _set_up_sqlite(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    # Python's sqlite3 begins transactions late, and none around DDL; so `_begin_sqlite` begins them instead.
    # https://docs.sqlalchemy.org/en/20/dialects/sqlite.html#pysqlite-serializable
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=10000", "secure_delete=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")
