"""`threadsight doctor`: checks everything that a start needs, and says what to do about problems. It changes nothing.

Each check yields a `Finding` with one sentence; a bad one says what the operator can do.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
from sqlalchemy import make_url, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine

from adapters.base import Finding
from bot.app import host_of, remote_server
from bot.config import Settings
from bot.database import NO_POSTGRESQL, StoreError, check_version, explain
from bot.database_file import is_in_use, opened_as, sqlite_path
from bot.platforms import check_platforms
from bot.proxies import Proxies, Proxy
from model_server.errors import ModelServerError
from model_server.remote.connection import Connection, NotYet
from model_server.remote.refusals import LATER, TELL

_PROBE = "https://threadsight.invalid/"  # a name that never exists: a proxy asks for its password before it looks it up
_PROBE_SECONDS = 10.0
_ENOUGH_BYTES = 1_000_000_000  # free disk space in the data folder


async def examine(settings: Settings) -> AsyncIterator[Finding]:
    """Yields the findings as they are made."""
    yield await asyncio.to_thread(_data_folder, settings.data_dir)
    yield await _database(settings.store_url, settings.data_dir)
    async for finding in check_proxies(settings.proxies):
        yield finding
    if settings.engine_url is None:
        yield await asyncio.to_thread(_local_model, settings)
    else:
        yield await _remote_model(settings, settings.engine_url)
    async for finding in check_platforms(settings.platforms, host_of(settings)):
        yield finding
    for sentence in settings.renamed:
        yield Finding("Settings", True, sentence)
    for remark in settings.remarks:
        yield Finding("Settings", False, remark)


def _data_folder(folder: Path) -> Finding:
    # os.path's functions: pathlib's raise PermissionError, up to Python 3.11, for what is in a folder of somebody else.
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if os.path.exists(parent))
    if not os.path.isdir(there):
        return Finding("Data", False, f"{there} is a file, not a folder. Move it away, or set THREADSIGHT_DATA_DIR.")
    if not os.access(there, os.W_OK | os.X_OK):
        return Finding("Data", False, f"{there} cannot be written. Give this user the right to, or set THREADSIGHT_DATA_DIR.")
    num_free = shutil.disk_usage(there).free
    sentence = f"{folder} can be written; {num_free / 1e9:.1f} GB are free."
    if num_free < _ENOUGH_BYTES:
        return Finding("Data", False, f"{sentence} That is little: chats keep their pictures. Free some, or set a retention.")
    return Finding("Data", True, sentence)


async def _database(store_url: str, data_dir: Path) -> Finding:
    url = make_url(store_url)
    path = await asyncio.to_thread(sqlite_path, url)
    if path is not None:
        if seen := await asyncio.to_thread(_seen_of_file, path, data_dir):
            return seen
        url = opened_as(url, path, "ro")
    where = str(path) if path else url.render_as_string(hide_password=True)
    try:
        engine = create_async_engine(url, hide_parameters=True)
        try:
            async with engine.connect() as connection:
                answer = await connection.scalar(text("PRAGMA quick_check" if path else "SELECT 'ok'"))
                if answer == "ok":
                    await connection.run_sync(check_version, where)
        finally:
            await engine.dispose()
    except ModuleNotFoundError:
        return Finding("Database", False, NO_POSTGRESQL)
    except (StoreError, SQLAlchemyError, OSError) as error:
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        return Finding("Database", False, str(explain(error, where) or f"{where} cannot be opened: {reason}."))
    if answer != "ok":
        return Finding("Database", False, f"{where} is damaged: {answer}. Put a backup in its place, or move it away.")
    return Finding("Database", True, f"{where} can be opened.")


def _seen_of_file(path: Path, data_dir: Path) -> Finding | None:
    """The finding if there is one without opening the file: that it will be made, or what is wrong with it."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if is_in_use(data_dir):
            sentence = f"{path} was deleted while threadsight uses it. Stop it, put the file back, and start it again."
            return Finding("Database", False, sentence)
        return Finding("Database", True, f"{path} will be made at the first start.")
    except OSError as error:
        advice = "Give this user the right to use its folder, or name another one."
        return Finding("Database", False, f"{path} cannot be looked at: {error.strerror}. {advice}")
    if not stat.S_ISREG(mode):
        return Finding("Database", False, f"{path} is no file. Move it away, or put a backup in its place.")
    if not os.access(path, os.R_OK | os.W_OK):
        return Finding("Database", False, f"{path} can only be read. Give this user the right to write it.")
    num_free = shutil.disk_usage(path).free
    if num_free < _ENOUGH_BYTES // 10:
        return Finding("Database", False, f"{path} has {num_free / 1e6:.0f} MB left on its disk. Free some.")
    return None


def _local_model(settings: Settings) -> Finding:
    from model_server.checkpoints.loading import check_fit  # imports torch, which takes seconds

    try:
        plan = check_fit(settings.model, revision=settings.model_revision, quantization=settings.quantization)
    except ModelServerError as error:
        return Finding("Model", False, str(error))
    advice = "" if plan.fits else " Try THREADSIGHT_QUANTIZATION=auto, a smaller model, or THREADSIGHT_ENGINE_URL."
    return Finding("Model", plan.fits, f"{plan}{advice}")


async def _remote_model(settings: Settings, url: str) -> Finding:
    connection = Connection(remote_server(settings, url))
    try:
        served = await connection.served_model()
    except NotYet as error:
        reason = _without_request(error.error)
        return Finding("Model server", False, f"{url}: {reason} Is the server running, and THREADSIGHT_ENGINE_URL right?")
    except ModelServerError as error:
        return Finding("Model server", False, f"{url}: {_without_request(error)}")
    finally:
        await connection.close()
    sentence = f"{url} answers with the model {served.shown_name}."
    if served.others:
        sentence += f" It also lists {served.shown_others}; THREADSIGHT_ENGINE_MODEL chooses."
    return Finding("Model server", True, sentence)


def _without_request(error: ModelServerError) -> str:
    """The error's sentence without what it asks people in a chat to do."""
    return str(error).removesuffix(TELL).removesuffix(LATER).rstrip()


async def check_proxies(proxies: Proxies) -> AsyncIterator[Finding]:
    """Yields which proxies are used, and whether they answer and let us in."""
    if proxies.sentence is not None:
        yield Finding("Proxy", True, proxies.sentence)
    for proxy in proxies.used:
        problem = await _problem(proxy)
        if problem is not None:
            yield Finding("Proxy", False, f"{proxy.variable}: {problem}")


async def _problem(proxy: Proxy) -> str | None:
    timeout = aiohttp.ClientTimeout(total=_PROBE_SECONDS)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(_PROBE, proxy=proxy.url):
            return None
    except aiohttp.ClientHttpProxyError as error:
        if error.status == 407:
            return f"{proxy.shown} does not take the user name and password in it, or wants some."
        return None  # it cannot find the name, of course
    except aiohttp.ClientSSLError:
        return f"{proxy.shown} has no certificate that this machine trusts, or speaks no TLS."
    except (aiohttp.ClientConnectorError, TimeoutError):
        return f"nothing answers at {proxy.shown}."
    except (aiohttp.ClientError, ValueError, OSError):
        return f"what answers at {proxy.shown} is not a proxy."
