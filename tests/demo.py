"""`make demo`: the program as its users run it, on a loopback Discord and a loopback Slack, for people who have no tokens."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from pathlib import Path

from tests.loopbacks.discord.view import open_to_people as open_discord
from tests.loopbacks.slack.view import open_to_people as open_slack
from tests.program import PROGRAM, environment

READY = "Threadsight is ready: "


async def demo() -> int:
    """The program's exit status, and 0 if it was stopped before it was ready."""
    with tempfile.TemporaryDirectory(prefix="threadsight-demo-") as folder:
        async with open_discord() as discord, open_slack() as slack:
            program = await asyncio.create_subprocess_exec(
                *PROGRAM,
                "run",
                cwd=folder,  # so that no .env is read
                env=environment(Path(folder), **discord.settings, **slack.settings),
                stdout=asyncio.subprocess.PIPE,
                start_new_session=True,  # Ctrl-C reaches it through us, and only once
            )

            def stop() -> None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(program.pid, signal.SIGTERM)  # not program.terminate(): it may take away the status that wait() wants

            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, stop)
            try:
                await _tell(program, {"Discord": discord.page, "Slack": slack.page})
            finally:
                stop()  # also when nobody reads what we print
                status = await program.wait()
    return 0 if status == -signal.SIGTERM else abs(status)


async def _tell(program: asyncio.subprocess.Process, pages: dict[str, str]) -> None:
    """Hand on what the program prints until it ends, and say where to go once it is ready for a place."""
    assert program.stdout is not None
    async for line in program.stdout:
        said = line.decode(errors="replace").rstrip()
        print(said, flush=True)
        for platform, page in pages.items():
            if said.startswith(f"{READY}{platform}"):
                print(f"Write to it on the loopback {platform}: {page}", flush=True)


def main() -> int:
    print("Starting a loopback Discord, a loopback Slack, and Threadsight with its bundled model. Ctrl-C ends all.", flush=True)
    return asyncio.run(demo())


if __name__ == "__main__":
    sys.exit(main())
