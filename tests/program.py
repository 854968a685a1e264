"""Starts the program for a test as users do: in a separate process, with only the given settings."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
START_SECONDS = 180
PROGRAM = (sys.executable, "-m", "bot")
SETTINGS = ("THREADSIGHT_", "DISCORD_", "SLACK_")  # what names of settings begin with


def environment(folder: Path, **settings: str) -> dict[str, str]:
    """The environment: the program's data is in `folder`; `settings` are further variables."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)},
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "THREADSIGHT_DATA_DIR": str(folder / "data"),
        "THREADSIGHT_WEB_PORT": "0",
        **settings,
    }


@asynccontextmanager
async def process(
    *command: str | Path, folder: Path, ready: str, **settings: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """Start a program. Yields it and the match once its output matches `ready`."""
    running = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env=environment(folder, **settings),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert running.stdout is not None
    reading: asyncio.Task[bytes] | None = None
    try:
        said = ""
        async with asyncio.timeout(START_SECONDS):
            while not (found := re.search(ready, said)):
                line = await running.stdout.readline()
                assert line, f"the program ended before it was ready: {said}"
                said += line.decode()
        reading = asyncio.create_task(running.stdout.read())  # a full pipe would block it
        yield running, found[0]
    except Exception as error:  # a test that fails shows what the program had to say
        if running.returncode is None:
            running.kill()
        rest = b"" if reading is None else await reading
        error.add_note(f"The program said: {said}{rest.decode(errors='replace')[-10_000:]}")
        raise
    finally:
        if running.returncode is None:
            running.kill()
        await running.wait()
    await reading
