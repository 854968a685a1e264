"""`threadsight setup discord` and `threadsight doctor`, typed as their users type them, over a loopback Discord."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from adapters.discord.setup import WRONG_TOKEN, invite_link
from tests.e2e.dictated_model import DictatedModel
from tests.e2e.discord_program import TIMEOUT_SECONDS
from tests.loopbacks.discord.payloads import APPLICATION, TOKEN
from tests.loopbacks.discord.server import DiscordLoopback
from tests.program import PROGRAM, environment

pytestmark = pytest.mark.whole_program

ALL_BUT_THREADS = (1 << 10) | (1 << 11) | (1 << 16) | (1 << 38)


async def run(folder: Path, discord: DiscordLoopback, *arguments: str, token: str = TOKEN) -> tuple[int | None, str]:
    """The exit status, and all that was said. The model is somewhere else, so that no start waits for one."""
    urls = {"THREADSIGHT_DISCORD_API_URL": discord.api_url, "THREADSIGHT_DISCORD_GATEWAY_URL": discord.gateway_url}
    async with DictatedModel() as model:
        program = await asyncio.create_subprocess_exec(
            *PROGRAM,
            *arguments,
            cwd=folder,
            env=environment(folder, DISCORD_TOKEN=token, THREADSIGHT_ENGINE_URL=model.url, **urls),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(TIMEOUT_SECONDS):
            said, _ = await program.communicate()
    assert token not in said.decode()
    return program.returncode, said.decode()


async def test_the_steps_have_the_invite_link_with_exactly_the_permissions_needed(tmp_path: Path) -> None:
    async with DiscordLoopback().serving() as discord:
        status, said = await run(tmp_path, discord, "setup", "discord")
        assert status == 0
        assert invite_link(str(APPLICATION)) in said
        assert "permissions=309237713920&" in said  # see, send, read back, open threads, send in them
        assert "PROBLEM" not in said


async def test_a_wrong_token_is_told_by_every_command(tmp_path: Path) -> None:
    async with DiscordLoopback().serving() as discord:
        status, said = await run(tmp_path, discord, "setup", "discord", token="a-token-of-yesterday")
        assert (status, f"PROBLEM: {WRONG_TOKEN}" in said) == (0, True)
        assert invite_link("APPLICATION_ID") in said
        status, said = await run(tmp_path, discord, "doctor", token="a-token-of-yesterday")
        assert (status, f"PROBLEM Discord: {WRONG_TOKEN}" in said) == (1, True)
        status, said = await run(tmp_path, discord, "run", token="a-token-of-yesterday")
        assert status == 1
        assert said.splitlines()[-1] == f"threadsight: {WRONG_TOKEN}"


async def test_the_doctor_tells_a_missing_intent_and_a_missing_permission_apart(tmp_path: Path) -> None:
    async with DiscordLoopback(flags=0).serving() as discord:
        assert _problems(await run(tmp_path, discord, "doctor")) == ["Discord intent"]
    async with DiscordLoopback(permissions=ALL_BUT_THREADS).serving() as discord:
        status, said = await run(tmp_path, discord, "doctor")
        assert _problems((status, said)) == ["Discord server"]
        assert "the bot lacks Create Public Threads" in said
    async with DiscordLoopback().serving() as discord:
        status, said = await run(tmp_path, discord, "doctor")
        assert (status, "PROBLEM" in said) == (0, False)


def _problems(ended: tuple[int | None, str]) -> list[str]:
    status, said = ended
    assert status == 1
    return [line[8:].partition(":")[0] for line in said.splitlines() if line.startswith("PROBLEM")]
