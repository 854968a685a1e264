"""Start-up and shutdown: puts the parts together, and takes them apart in the right order.

Until the model is loaded nothing is going on, and a signal may simply end the program. From then on the first SIGINT or SIGTERM
lets running answers finish for a while and leaves the others to be answered after the restart; a second one hurries. When the
model's loop or an adapter fails, the program ends with an error: whoever started it can then start it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from adapters.base import Adapter
from adapters.web import WebAdapter
from bot.chats import Chats
from bot.config import Settings
from bot.database import StoreError
from bot.model import LocalModel
from bot.pictures import FetchLink, PictureReader, fetch_public_link
from bot.store import Store
from bot.writer import AnswerWriter

log = logging.getLogger(__name__)

OpenModel = Callable[[Settings], Awaitable[LocalModel]]
Tell = Callable[[str], None]


async def open_model(settings: Settings) -> LocalModel:
    """Load the model and start its loop. Raises ModelLoadError."""

    def import_local() -> Callable[..., Awaitable[LocalModel]]:
        from model_server.local import open_local  # imports torch, which takes seconds

        return open_local

    open_local = await asyncio.to_thread(import_local)
    return await open_local(settings.model, quantization=settings.quantization, max_queue=settings.max_queue)


@contextlib.asynccontextmanager
async def open_chats(
    settings: Settings,
    store_url: str,
    *,
    hurry: asyncio.Event | None = None,
    open_model: OpenModel = open_model,
    fetch_link: FetchLink = fetch_public_link,
) -> AsyncIterator[tuple[Chats, LocalModel]]:
    """The store, the model and the chats over both; at the end running answers get `settings.shutdown_grace_seconds`."""
    store = await Store.open(store_url)
    try:
        model = await open_model(settings)
        try:
            writer = AnswerWriter(store, model, settings.max_new_tokens, settings.temperature)
            chats = Chats(store, model, PictureReader(settings.max_picture_bytes, fetch_link), writer)
            try:
                yield chats, model
            finally:
                num_left = await chats.close(settings.shutdown_grace_seconds, hurry)
                if num_left:
                    log.info("%d questions are left to be answered after the restart.", num_left)
        finally:
            await model.close()
    finally:
        await store.close()


async def run(
    settings: Settings,
    tell: Tell,
    *,
    open_model: OpenModel = open_model,
    adapters: Sequence[Adapter] | None = None,
    stop: asyncio.Event | None = None,
) -> None:
    """`threadsight run`: serve until a signal (or `stop`) says otherwise. Raises what made it end too early, as a group."""
    stop, hurry = stop or asyncio.Event(), asyncio.Event()
    if adapters is None:
        adapters = [_web_adapter(settings)]
    chats_over_store = open_chats(settings, settings.store_url, hurry=hurry, open_model=open_model)
    async with _only_one(settings.data_dir), chats_over_store as (chats, model):
        with _on_signals(stop, hurry):
            num_resumed = await chats.resume()
            if num_resumed:
                tell(f"Answering what was left open: {num_resumed} question{'' if num_resumed == 1 else 's'}.")
            try:
                async with asyncio.TaskGroup() as tasks:
                    helpers = [tasks.create_task(model.wait_failed())]
                    helpers += [tasks.create_task(adapter.run(chats)) for adapter in adapters]
                    helpers += [
                        tasks.create_task(_announce(adapter, tell)) for adapter in adapters if isinstance(adapter, WebAdapter)
                    ]
                    if settings.retention_days:
                        helpers.append(tasks.create_task(chats.purge_forever(settings.retention_days)))
                    await stop.wait()
                    tell("Stopping: running answers may finish. Press Ctrl-C again to stop at once.")
                    await chats.close(settings.shutdown_grace_seconds, hurry)  # while the adapters still show what is written
                    for helper in helpers:
                        helper.cancel()
            except BaseException:
                await chats.close(0)  # nobody is left to see an answer finish
                raise


@contextlib.asynccontextmanager
async def passing_chats(settings: Settings, *, open_model: OpenModel = open_model) -> AsyncIterator[Chats]:
    """Chats that leave no trace, for the terminal: their database lies in a folder that is deleted at the end."""
    model = await open_model(settings)  # first, so that nothing lies around yet when somebody gets tired of waiting

    async def loaded(_: Settings) -> LocalModel:
        return model

    in_passing = settings.model_copy(update={"shutdown_grace_seconds": 0.0})
    with tempfile.TemporaryDirectory(prefix="threadsight-") as folder:
        url = f"sqlite+aiosqlite:///{Path(folder) / 'chats.db'}"
        async with open_chats(in_passing, url, open_model=loaded) as (chats, _):
            yield chats


def _web_adapter(settings: Settings) -> WebAdapter:
    token = None if settings.web_token is None else settings.web_token.get_secret_value()
    return WebAdapter(settings.web_host, settings.web_port, token, max_picture_bytes=settings.max_picture_bytes)


async def _announce(adapter: WebAdapter, tell: Tell) -> None:
    await adapter.started.wait()
    tell(f"Threadsight is ready: {adapter.url}")


@contextlib.asynccontextmanager
async def _only_one(data_dir: Path) -> AsyncIterator[None]:
    """A second program over the same data would answer the same open questions. The lock goes with the process."""

    def lock() -> IO[bytes]:
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
            file = (data_dir / "lock").open("wb")
        except OSError as error:
            raise StoreError(f"The data folder {data_dir} cannot be made or written: {error.strerror}.") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise StoreError(f"Another threadsight is running over the data folder {data_dir}.") from None
        return file

    file = await asyncio.to_thread(lock)
    try:
        yield
    finally:
        file.close()


@contextlib.contextmanager
def _on_signals(stop: asyncio.Event, hurry: asyncio.Event) -> Iterator[None]:
    def on_signal() -> None:
        (hurry if stop.is_set() else stop).set()

    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        loop.add_signal_handler(number, on_signal)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
