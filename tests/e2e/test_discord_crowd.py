"""Fifty threads at once on Discord, through the whole program, under Discord's own limit of writes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from model_server.tiny.dialogue import EVERYTHING, Spec, tell
from tests.e2e.discord_program import NUMBER, PLACE, answered, ask, program, thread_of
from tests.e2e.test_crowd import scene_of
from tests.e2e.whole_program import png
from tests.loopbacks.discord.payloads import Payload
from tests.loopbacks.discord.server import DiscordLoopback

pytestmark = pytest.mark.whole_program

NUM_THREADS = 50


async def test_fifty_threads_at_once_are_answered_in_order_each_in_its_place(tmp_path: Path) -> None:
    scenes = [scene_of(number) for number in range(NUM_THREADS)]
    images = [png(scene) for scene in scenes]
    async with DiscordLoopback().serving() as discord:
        discord.limits.is_enforced = True
        general = discord.add_channel()

        async def talk(number: int) -> Payload:
            """One question, and when it is answered two more at once."""
            scene, spec = scenes[number], Spec(scenes[number].things[0].shape)
            image = discord.add_file(f"{number}.png", images[number])
            question = await ask(discord, general, f"What colour is the {spec.shape}?", attachments=[image])
            thread, colour = thread_of(question), tell(scene, spec, "colour")
            await answered(discord, thread, colour, seconds=240)
            await discord.post(thread, PLACE)
            await discord.post(thread, NUMBER)
            place, count = tell(scene, spec, "position"), tell(scene, EVERYTHING, "count")
            await answered(discord, thread, colour, place, count, seconds=240)
            return question

        async with program(tmp_path, discord):
            questions = await asyncio.gather(*(talk(number) for number in range(NUM_THREADS)))
        assert {channel for channel, _ in discord.limits.writes} == {thread_of(question) for question in questions}
        assert discord.limits.violations == []
