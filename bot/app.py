"""Start-up and shutdown: connects the parts, and closes them in the right order.

Until the model is loaded, a signal may simply end the program. Afterwards the first SIGINT or SIGTERM gives running answers some
time to finish and leaves the others to be answered after the restart; a second one shortens that. If the model's loop or an adapter
fails, the program ends with an error, so that a service manager can restart it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import IO, Any

from adapters.base import Adapter, AnnouncedAdapter
from adapters.conversations.absence import CatchUp
from adapters.platform import Host
from bot.config import Settings
from bot.database import StoreError
from bot.database_file import lock, make_private
from bot.images import FetchLink, ImageReader, fetch_public_link
from bot.limits import Limits
from bot.model import LocalModel
from bot.platforms import platform_adapters
from bot.store import Store
from bot.thread_chats import ThreadChats
from bot.writer import AnswerWriter
from model_server.loop import InferenceLoop
from model_server.remote.connection import RemoteServer

log = logging.getLogger(__name__)

OpenModel = Callable[[Settings], Awaitable[LocalModel]]
Tell = Callable[[str], None]


async def open_model(settings: Settings) -> LocalModel:
    """Open the model that the settings name: on this machine, or behind a URL. Raises ModelLoadError."""
    return await (open_local_model(settings) if settings.engine_url is None else _open_remote_model(settings, settings.engine_url))


async def open_local_model(settings: Settings) -> InferenceLoop:
    """Load the model and start its loop. Raises ModelLoadError."""

    def import_local() -> Callable[..., Awaitable[InferenceLoop]]:
        from model_server.local import open_local  # imports torch, which takes seconds

        return open_local

    open_local = await asyncio.to_thread(import_local)
    return await open_local(
        settings.model,
        revision=settings.model_revision,
        quantization=settings.quantization,
        max_queue=settings.max_queue,
        idle_unload_seconds=settings.idle_unload_seconds,
    )


async def _open_remote_model(settings: Settings, url: str) -> InferenceLoop:
    """Open the model behind a URL. An unreachable server does not prevent the start. Raises ModelLoadError."""
    from model_server.remote.engine import open_remote

    return await open_remote(remote_server(settings, url), max_queue=settings.max_queue)


def remote_server(settings: Settings, url: str) -> RemoteServer:
    """The settings of the model server at `url`."""
    api_key = None if settings.engine_api_key is None else settings.engine_api_key.get_secret_value()
    return RemoteServer(
        url,
        api_key,
        settings.engine_model,
        settings.engine_context_length,
        settings.engine_max_images,
        proxy=settings.proxies.for_url(url),
    )


@contextlib.asynccontextmanager
async def open_chats(
    settings: Settings,
    store_url: str,
    *,
    hurry: asyncio.Event | None = None,
    open_model: OpenModel = open_model,
    fetch_link: FetchLink | None = None,
) -> AsyncIterator[tuple[ThreadChats, LocalModel]]:
    """A context with the store, the model and the chats. At its end running answers get `settings.shutdown_grace_seconds` to
    finish, or less once `hurry` is set."""
    store = await Store.open(store_url)
    try:
        await store.claim()
        model = await open_model(settings)
        try:
            writer = AnswerWriter(store, model, settings.max_new_tokens, settings.temperature)
            through_proxy = partial(fetch_public_link, proxy_for=settings.proxies.for_url)
            images = ImageReader(settings.max_image_bytes, fetch_link or through_proxy)
            chats = ThreadChats(store, model, images, writer, _limits(settings))
            try:
                yield chats, model
            finally:
                await chats.close(settings.shutdown_grace_seconds, hurry)
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
    """`threadsight run`: serve until a signal or `stop`. Raises the errors that ended it early, as an exception group."""
    stop, hurry = stop or asyncio.Event(), asyncio.Event()
    if adapters is None:
        adapters = platform_adapters(settings.platforms, host_of(settings))
    chats_over_store = open_chats(settings, settings.store_url, hurry=hurry, open_model=open_model)
    async with _only_one(settings.data_dir), chats_over_store as (chats, model):
        with _on_signals(stop, hurry):
            num_resumed = await chats.resume()
            if num_resumed:
                tell(f"Answering what was left open: {_questions(num_resumed)}.")
            try:
                async with asyncio.TaskGroup() as tasks:
                    helpers = [tasks.create_task(model.wait_failed()), tasks.create_task(chats.watch_store())]
                    helpers += [tasks.create_task(adapter.run(chats)) for adapter in adapters]
                    announced = [adapter for adapter in adapters if isinstance(adapter, AnnouncedAdapter)]
                    helpers += [tasks.create_task(_announce(adapter, tell)) for adapter in announced]
                    if settings.retention_days:
                        helpers.append(tasks.create_task(chats.purge_forever(settings.retention_days)))
                    await stop.wait()
                    tell("Stopping: running answers may finish. Press Ctrl-C again to stop at once.")
                    # While the adapters can still show the answers.
                    num_left = await chats.close(settings.shutdown_grace_seconds, hurry)
                    if num_left:
                        tell(f"Left open, to be answered after the next start: {_questions(num_left)}.")
                    for helper in helpers:
                        helper.cancel()
            except BaseException:
                await chats.close(0)  # no adapter is left to show an answer
                raise


async def serve(settings: Settings, tell: Tell, *, stop: asyncio.Event | None = None) -> None:
    """`threadsight serve`: serve only the model over HTTP, until a signal or `stop`.

    Always the model on this machine, even if an engine URL is set: a bot with the same settings may use this server as its engine.
    Raises ModelLoadError, ServeAddressError, or EngineFailed.
    """
    from model_server.serve.server import CompletionServer, fetch_public_image

    stop, hurry = stop or asyncio.Event(), asyncio.Event()
    model = await open_local_model(settings)
    server = CompletionServer(
        model,
        settings.serve_host,
        settings.serve_port,
        None if settings.serve_api_key is None else settings.serve_api_key.get_secret_value(),
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        max_image_bytes=settings.max_image_bytes,
        fetch=partial(fetch_public_image, proxy_for=settings.proxies.for_url),
    )
    try:
        await server.start()
        with _on_signals(stop, hurry):
            tell(f"Threadsight serves {model.capabilities.model_name} at {server.url}")
            await _first_of(stop.wait(), model.wait_failed())
            tell("Stopping: running answers may finish. Press Ctrl-C again to stop at once.")
            await _first_of(server.drain(settings.shutdown_grace_seconds), hurry.wait())
    finally:
        await model.close()  # first, so that requests that still wait get an error
        await server.close()


async def _first_of(*works: Coroutine[Any, Any, object]) -> None:
    """Wait until the first one ends, and cancel the others. Raises its error."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()


@contextlib.asynccontextmanager
async def passing_chats(settings: Settings, *, open_model: OpenModel = open_model) -> AsyncIterator[ThreadChats]:
    """Temporary chats for the terminal: their database is in a folder that is deleted at the end."""
    model = await open_model(settings)  # first, so that an interruption while loading leaves no folder behind

    async def loaded(_: Settings) -> LocalModel:
        return model

    in_passing = settings.model_copy(update={"shutdown_grace_seconds": 0.0})
    with tempfile.TemporaryDirectory(prefix="threadsight-") as folder:
        url = f"sqlite+aiosqlite:///{Path(folder) / 'chats.db'}"
        async with open_chats(in_passing, url, open_model=loaded) as (chats, _):
            yield chats


def host_of(settings: Settings) -> Host:
    """What the program provides to the platforms' adapters."""
    catch_up = CatchUp(timedelta(hours=settings.catch_up_hours), settings.catch_up_messages)
    return Host(catch_up, settings.max_image_bytes, settings.store_url, proxy_for=settings.proxies.for_url)


def _limits(settings: Settings) -> Limits:
    per_role = {role_id: number or None for role_id, number in settings.role_limits.items()}
    return Limits(settings.questions_per_day or None, per_role, settings.waiting_per_person)


def _questions(number: int) -> str:
    return f"{number} question{'' if number == 1 else 's'}"


async def _announce(adapter: AnnouncedAdapter, tell: Tell) -> None:
    await adapter.started.wait()
    tell(f"Threadsight is ready: {adapter.where}")
    for remark in adapter.remarks:
        log.warning("%s", remark)


@contextlib.asynccontextmanager
async def _only_one(data_dir: Path) -> AsyncIterator[None]:
    """A lock on the data folder: a second program would answer the same open questions. It is released when the process ends."""

    def take() -> IO[bytes]:
        try:
            data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not make_private(data_dir, 0o700):
                log.warning(
                    "Others on this machine may look into %s: it is another user's folder, or meant for everybody.", data_dir
                )
            file = lock(data_dir)
            make_private(data_dir / "lock", 0o600)
        except (FileExistsError, NotADirectoryError):
            raise StoreError(f"The data folder {data_dir} cannot be made: a file is in its place.") from None
        except OSError as error:
            raise StoreError(f"The data folder {data_dir} cannot be made or written: {error.strerror}.") from None
        if file is None:
            raise StoreError(f"Another threadsight is running over the data folder {data_dir}.")
        return file

    file = await asyncio.to_thread(take)
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
