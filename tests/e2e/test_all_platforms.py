"""One process on Discord, on Slack and with its page at once: twenty threads on each, every answer in its own place."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import aiohttp
import pytest

from model_server.tiny.dialogue import Spec, tell
from model_server.tiny.draw import Scene
from tests.e2e.test_crowd import scene_of
from tests.e2e.whole_program import ask, png
from tests.loopbacks.discord.payloads import BOT, TOKEN
from tests.loopbacks.discord.server import DiscordLoopback
from tests.loopbacks.slack.server import SlackServer
from tests.program import PROGRAM, process

pytestmark = pytest.mark.whole_program

NUM_THREADS = 20  # on each platform
TIMEOUT_SECONDS = 240
READY = r"(?s)(?=.*is ready: http)(?=.*is ready: Discord)(?=.*is ready: Slack).*"


class Talk:
    """Two turns about a picture that no other thread has."""

    def __init__(self, number: int) -> None:
        self.scene: Scene = scene_of(number)
        self.image = png(self.scene)
        spec = Spec(self.scene.things[0].shape)
        self.questions = f"What colour is the {spec.shape}?", "and where is it"
        self.answers = [tell(self.scene, spec, "colour"), tell(self.scene, spec, "position")]


async def talk_on_discord(discord: DiscordLoopback, channel: int, talk: Talk) -> list[str]:
    image = discord.add_file("drawing.png", talk.image)
    first = await discord.post(channel, f"<@{BOT}> {talk.questions[0]}", attachments=[image])
    thread = int(first["id"])

    def ended() -> list[str]:
        """What the bot's messages say that have their buttons, but for Stop."""
        messages = [each for each in discord.bots(thread) if "regenerate" in str(each.get("components"))]
        return [message["content"] for message in messages]

    async def answered(num_answers: int) -> None:
        async with asyncio.timeout(TIMEOUT_SECONDS), discord._changed:
            await discord._changed.wait_for(lambda: len(ended()) == num_answers)

    await answered(1)
    await discord.post(thread, talk.questions[1])
    await answered(2)
    return ended()


async def talk_on_slack(slack: SlackServer, name: str, talk: Talk) -> list[str]:
    channel, person = slack.add_channel(name), slack.add_user(name)
    first = await slack.post(channel, person, f"{slack.mention} {talk.questions[0]}", [("drawing.png", talk.image)])

    def ended() -> list[str]:
        answers = slack.answers(channel, first.ts)
        return [each.markdown or each.shown for each in answers if each.stream != "live" and "regenerate" in str(each.blocks)]

    await slack.wait_for(lambda: len(ended()) == 1, TIMEOUT_SECONDS)
    await slack.post(channel, person, talk.questions[1], thread_ts=first.ts)
    await slack.wait_for(lambda: len(ended()) == 2, TIMEOUT_SECONDS)
    return ended()


async def talk_on_page(url: str, number: int, talk: Talk) -> list[str]:
    thread = f"{number:032x}"
    async with aiohttp.ClientSession(url) as client, client.ws_connect("/api/tab") as tab:
        await tab.send_json({"watch": thread})
        return [
            await ask(client, tab, thread, talk.questions[0], talk.image),
            await ask(client, tab, thread, talk.questions[1]),
        ]


async def test_every_answer_is_in_its_own_place(tmp_path: Path) -> None:
    talks = [Talk(number) for number in range(3 * NUM_THREADS)]
    async with DiscordLoopback().serving() as discord, SlackServer() as slack:
        channel = discord.add_channel()
        program = process(
            *PROGRAM,
            "run",
            folder=tmp_path,
            ready=READY,
            DISCORD_TOKEN=TOKEN,
            THREADSIGHT_DISCORD_API_URL=discord.api_url,
            THREADSIGHT_DISCORD_GATEWAY_URL=discord.gateway_url,
            SLACK_BOT_TOKEN=slack.bot_token,
            SLACK_APP_TOKEN=slack.app_token,
            THREADSIGHT_SLACK_API_URL=slack.api_url,
            THREADSIGHT_TEMPERATURE="0",
            THREADSIGHT_WAITING_PER_PERSON="100",
        )
        async with program as (_, said):
            found = re.search(r"http://\S+", said)
            assert found is not None
            answers = await asyncio.gather(
                *(talk_on_discord(discord, channel, talk) for talk in talks[:NUM_THREADS]),
                *(talk_on_slack(slack, f"c{n}", talk) for n, talk in enumerate(talks[NUM_THREADS : 2 * NUM_THREADS])),
                *(talk_on_page(found[0], n, talk) for n, talk in enumerate(talks[2 * NUM_THREADS :])),
            )
        assert answers == [talk.answers for talk in talks]
        assert not slack.broadcasts
