"""Sixteen people with a picture each, three turns each, all at once: through the page's server, the store and the bundled model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp

from model_server.tiny.dialogue import EVERYTHING, Spec, tell
from model_server.tiny.draw import COLOURS, SHAPES, Background, Scene, Thing
from tests.e2e.whole_program import ask, png, running_program

NUM_CHATS = 16
TICK_SECONDS = 0.002


def scene_of(number: int) -> Scene:
    """Every chat has a thing of its own: no two share shape and colour."""
    names = list(COLOURS)[:-1]  # a white thing needs another background
    shape, colour = SHAPES[number % len(SHAPES)], names[number % len(names)]
    row, column = divmod(number % 9, 3)
    thing = Thing(shape, colour, COLOURS[colour][0], (2 * column + 1) / 6, (2 * row + 1) / 6, 0.15, 0.0, 3 * row + column)
    return Scene(1.0, 1.0, Background("plain", ((255, 255, 255),), 0), (thing,))


async def talk(url: str, number: int, scene: Scene, image: bytes) -> list[tuple[str, str]]:
    """What was said, and what is right, for three turns about one picture."""
    thread = f"{number:032x}"
    spec = Spec(scene.things[0].shape)
    async with aiohttp.ClientSession(url) as client, client.ws_connect("/api/tab") as tab:
        await tab.send_json({"watch": thread})
        return [
            (await ask(client, tab, thread, f"What colour is the {spec.shape}?", image), tell(scene, spec, "colour")),
            (await ask(client, tab, thread, "and where is it", None), tell(scene, spec, "position")),
            (await ask(client, tab, thread, "how many shapes are there?", None), tell(scene, EVERYTHING, "count")),
        ]


async def test_sixteen_chats_at_once_are_all_answered_rightly(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    longest_stall = 0.0
    scenes = [scene_of(number) for number in range(NUM_CHATS)]
    images = [png(scene) for scene in scenes]  # not while the stalls are watched: these are the users' machines' work

    async def watch_for_stalls() -> None:
        nonlocal longest_stall
        before = time.perf_counter()
        while True:
            await asyncio.sleep(TICK_SECONDS)  # not to wait for anything: to see how late it ends
            now = time.perf_counter()
            longest_stall, before = max(longest_stall, now - before - TICK_SECONDS), now

    async with running_program(tmp_path) as url:
        watcher = asyncio.create_task(watch_for_stalls())
        talks = await asyncio.gather(*(talk(url, number, scenes[number], images[number]) for number in range(NUM_CHATS)))
        watcher.cancel()
    wrong = [(number, said, right) for number, turns in enumerate(talks) for said, right in turns if said != right]
    assert wrong == []
    record_property("longest_stall_ms", round(1000 * longest_stall, 1))
    print(f"{3 * NUM_CHATS} answers; the event loop's longest stall: {1000 * longest_stall:.1f} ms")
