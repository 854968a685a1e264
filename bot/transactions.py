"""Transactions over the database, for `bot/store.py`.

One that cannot begin (another program's lock, a server that is being restarted) is tried again for some seconds. What does not pass
is a StoreError, and is logged once until it is over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from bot.database import Database, StoreError, explain, for_writing

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 10.0
_FIRST_WAIT_SECONDS = 0.1  # doubled from try to try
_ERRORS = (SQLAlchemyError, OSError, StoreError)


class Transactions:
    """Reads share the database; writes of this process come one after another. Transactions that cannot begin are tried again for
    `patience_seconds`."""

    def __init__(self, database: Database, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._database = database
        self._engine = database.engine
        self._patience_seconds = patience_seconds
        self._write_lock = asyncio.Lock()
        self._troubles: dict[str, str] = {}  # what was logged and is not over, by what failed: read, begin, write

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncSession]:
        """A transaction that only reads. Raises StoreError."""
        async with AsyncExitStack() as stack:
            with _Told(self, "read"):
                session = await self._begin(self._engine, nullcontext(), self._patience_seconds, stack)
                yield session

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncSession]:
        """A transaction that writes, and is committed at the end. Raises StoreError; then nothing of it is kept, unless the answer
        to the commit was lost."""
        async with AsyncExitStack() as stack:
            with _Told(self, "begin"):
                session = await self._begin_writing(self._patience_seconds, stack)
            with _Told(self, "write"):
                yield session
                await session.commit()

    async def check(self) -> None:
        """Begin to write, and write nothing: whether the database is locked, away, deleted or replaced. Raises StoreError."""
        async with AsyncExitStack() as stack:
            with _Told(self, "begin"):
                await self._begin_writing(0, stack)

    async def _begin_writing(self, patience_seconds: float, stack: AsyncExitStack) -> AsyncSession:
        return await self._begin(for_writing(self._engine), self._write_lock, patience_seconds, stack, is_checked=True)

    async def _begin(
        self,
        engine: AsyncEngine,
        lock: AbstractAsyncContextManager[object],
        patience_seconds: float,
        stack: AsyncExitStack,
        *,
        is_checked: bool = False,
    ) -> AsyncSession:
        """Begin a transaction that ends with `stack`. The lock is free while it waits to try again. `is_checked`: only if the
        database's file is still the one that was opened."""
        clock = asyncio.get_running_loop().time
        deadline, wait = clock() + patience_seconds, _FIRST_WAIT_SECONDS
        while True:
            try:
                async with AsyncExitStack() as attempt:
                    await attempt.enter_async_context(lock)
                    if is_checked:
                        await asyncio.to_thread(self._database.check_file)
                    session = await attempt.enter_async_context(AsyncSession(engine, expire_on_commit=False))
                    await session.connection()
                    stack.push_async_exit(attempt.pop_all())
                    return session
            except _ERRORS as error:
                trouble = explain(error, self._database.where)
                if trouble is None or not trouble.may_pass or clock() >= deadline:
                    raise
            await asyncio.sleep(wait)
            wait *= 2

    def begin_trouble(self, kind: str, sentence: str) -> None:
        """Log what is wrong, once. `kind` is what failed."""
        if sentence not in self._troubles.values():
            log.error("%s", sentence)
        self._troubles[kind] = sentence

    def end_trouble(self, kind: str) -> None:
        """Something of this kind succeeded: log that the trouble is over, once all of it is."""
        if self._troubles.pop(kind, None) is not None and not self._troubles:
            log.warning("The database %s can be used again.", self._database.where)

    def explain(self, error: BaseException) -> StoreError | None:
        """What an error of this database means to the operator; None if it is not the database's state that is wrong."""
        return explain(error, self._database.where)


class _Told:
    """A context that makes the database's errors StoreErrors, and has them logged; at its end the trouble is over."""

    def __init__(self, transactions: Transactions, kind: str) -> None:
        self._transactions, self._kind = transactions, kind

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            self._transactions.end_trouble(self._kind)
        elif isinstance(error, _ERRORS) and (trouble := self._transactions.explain(error)):
            self._transactions.begin_trouble(self._kind, str(trouble))
            raise trouble from None
