"""The page of a loopback platform, by what its server says: the same for Discord and Slack, and no bot is there."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from slack_sdk.web.async_client import AsyncWebClient

from tests.images import red_circle
from tests.loopbacks.command import Opened
from tests.loopbacks.discord.view import open_to_people as open_discord
from tests.loopbacks.slack.view import open_to_people as open_slack
from tests.program import process

HTML = "<img src=x onerror=alert(1)> & <!channel> *a* @ann"
TIMEOUT_SECONDS = 10

Seen = dict[str, Any]


class Visitor:
    """Uses a page's server as the page does, as one of its people."""

    def __init__(self, client: aiohttp.ClientSession, people: list[dict[str, str]]) -> None:
        self.client = client
        self.ann, self.bob = (person["id"] for person in people)

    async def seen(self, person: str | None = None) -> Seen:
        async with self.client.get("/view/seen", params={"person": person or self.ann}) as response:
            assert response.status == 200
            return dict(await response.json())

    async def rooms(self, person: str | None = None) -> list[Seen]:
        return list((await self.seen(person))["rooms"])

    async def messages(self) -> list[Seen]:
        return list((await self.rooms())[0]["messages"])

    async def post(self, text: str, *, person: str | None = None, room: str | None = None, **more: Any) -> tuple[int, str]:
        """The status, and what was wrong. `file`: name and content."""
        form = aiohttp.FormData(default_to_multipart=True, quote_fields=False)
        if file := more.pop("file", None):
            form.add_field("file", file[1], filename=file[0])
        fields = {"person": person or self.ann, "room": room or (await self.rooms())[0]["id"], "text": text, **more}
        for name, value in fields.items():
            form.add_field(name, value)
        async with self.client.post("/view/post", data=form) as response:
            return response.status, (await response.json()).get("error", "")

    async def change(self, what: str, message: Seen, *, person: str | None = None, **more: str) -> tuple[int, str]:
        asked = {"person": person or self.ann, "room": message["room"], "message": message["id"], **more}
        async with self.client.post(f"/view/{what}", json=asked) as response:
            return response.status, (await response.json()).get("error", "")


@pytest.fixture(params=[open_discord, open_slack], ids=["discord", "slack"])
async def visitor(request: pytest.FixtureRequest) -> AsyncIterator[Visitor]:
    opening: Callable[[], AbstractAsyncContextManager[Opened]] = request.param
    async with opening() as opened, aiohttp.ClientSession(opened.page) as client, client.get("/view/people") as people:
        yield Visitor(client, await people.json())


async def test_a_message_with_a_picture_is_seen_as_it_was_written(visitor: Visitor) -> None:
    assert await visitor.post(HTML, file=("a #1?.png", red_circle())) == (201, "")
    [message] = await visitor.messages()
    assert (message["author"], message["text"], message["is_own"], message["is_bot"]) == ("ann", HTML, True, False)
    [file] = message["files"]
    assert (file["name"], file["is_image"]) == ("a_1_.png", True)
    async with visitor.client.get(f"/view/files/{file['id']}") as response:
        assert (response.status, response.content_type, await response.read()) == (200, "image/png", red_circle())
        assert "sandbox" in response.headers["Content-Security-Policy"]


async def test_no_file_can_be_a_page(visitor: Visitor) -> None:
    for name in ("a.html", "a.svg"):
        assert await visitor.post("", file=(name, b"<script>alert(1)</script>")) == (201, "")
    for message in await visitor.messages():
        async with visitor.client.get(f"/view/files/{message['files'][0]['id']}") as response:
            assert response.content_type == "application/octet-stream"
            assert response.headers["Content-Disposition"].startswith("attachment")
            assert response.headers["X-Content-Type-Options"] == "nosniff"


async def test_one_changes_only_what_is_ones_own(visitor: Visitor) -> None:
    await visitor.post("first")
    await visitor.post("second", person=visitor.bob)
    first, second = await visitor.messages()
    for what, more in (("edit", {"text": "mine now"}), ("delete", {})):
        status, sentence = await visitor.change(what, second, **more)
        assert status == 400
        assert "somebody else's" in sentence or "not yours" in sentence
    assert await visitor.change("edit", first, text="changed") == (200, "")
    assert await visitor.change("delete", second, person=visitor.bob) == (200, "")
    assert [(each["text"], each["is_edited"]) for each in await visitor.messages()] == [("changed", True)]
    assert (await visitor.change("delete", second, person=visitor.bob))[1] == "This message is gone."


async def test_direct_messages_are_seen_by_one_person(visitor: Visitor) -> None:
    [mine] = [room["id"] for room in await visitor.rooms() if "directly" in room["name"]]
    [theirs] = [room["id"] for room in await visitor.rooms(visitor.bob) if "directly" in room["name"]]
    assert mine != theirs
    assert await visitor.post("hello", room=mine) == (201, "")
    assert (await visitor.post("hello", room=theirs))[0] == 400


@pytest.mark.parametrize("text", ["", "x" * 40_001, "/nothing"])
async def test_what_cannot_be_posted_is_refused_with_a_sentence(visitor: Visitor, text: str) -> None:
    if text.startswith("/") and (await visitor.seen())["platform"] == "Slack":
        pytest.skip("Slack waits for the app's answer to any command")
    status, sentence = await visitor.post(text)
    assert status == 400
    assert re.fullmatch(r"[A-Z].*\.", sentence)
    assert await visitor.messages() == []


async def test_too_large_a_file_is_refused(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.loopbacks.view.MAX_UPLOAD_BYTES", 1_000_000)
    assert await visitor.post("", file=("a.png", b"\0" * 999_000)) == (201, "")
    assert await visitor.post("", file=("a.png", b"\0" * 1_000_001)) == (400, "A message may have 1 MB at most.")


@pytest.mark.parametrize("changes", [{"person": "nobody"}, {"room": "nowhere"}, {"room": "999/1"}])
async def test_nobody_and_nowhere_are_refused(visitor: Visitor, changes: dict[str, str]) -> None:
    assert (await visitor.post("hello", **changes))[0] == 400
    await visitor.post("hello")
    [message] = await visitor.messages()
    assert (await visitor.change("edit", {**message, **changes}, text="x", **changes))[0] == 400
    assert (await visitor.change("press", {**message, **changes}, button="x", **changes))[0] == 400


async def test_a_button_without_a_value_can_be_pressed() -> None:
    """As that which confirms !forget. No bot is there, so that the press itself is all that can be told."""
    async with open_slack() as opened, aiohttp.ClientSession(opened.page) as client, client.get("/view/people") as people:
        visitor = Visitor(client, await people.json())
        button = {"type": "button", "action_id": "forget", "text": {"type": "plain_text", "text": "Delete all of it"}}
        bot = AsyncWebClient(opened.settings["SLACK_BOT_TOKEN"], opened.settings["THREADSIGHT_SLACK_API_URL"])
        await bot.chat_postEphemeral(
            channel=(await visitor.rooms())[0]["id"],
            user=visitor.ann,
            text="Sure?",
            blocks=[{"type": "actions", "elements": [button]}],
        )
        [message] = await visitor.messages()
        pressed = await visitor.change("press", message, button=message["buttons"][0]["id"])
        assert pressed == (400, "threadsight did not react. Is it running?")


@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}])
@pytest.mark.parametrize("path", ["", "view/seen", "view/live", "view/people", "view/view.js"])
async def test_other_sites_get_nothing(visitor: Visitor, path: str, headers: dict[str, str]) -> None:
    async with visitor.client.get(f"/{path}", params={"person": visitor.ann}, headers=headers) as response:
        assert response.status == 403
    async with visitor.client.post("/view/delete", json={}, headers=headers) as response:
        assert response.status == 403


async def test_the_page_is_told_of_every_change(visitor: Visitor) -> None:
    async with asyncio.timeout(TIMEOUT_SECONDS), visitor.client.ws_connect(f"/view/live?person={visitor.ann}") as live:
        assert (await live.receive_json())["rooms"][0]["messages"] == []
        await visitor.post("hello")
        while not (messages := (await live.receive_json())["rooms"][0]["messages"]):
            pass
        await visitor.change("edit", messages[0], text="good morning")
        while (await live.receive_json())["rooms"][0]["messages"][0]["text"] != "good morning":
            pass


async def test_the_page_and_what_it_loads_are_there(visitor: Visitor) -> None:
    async with visitor.client.get("/") as response:
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        page = await response.text()
    for address in re.findall(r'(?:src|href)="(/[^"]+)"', page):
        async with visitor.client.get(address) as response:
            assert response.status == 200
    async with visitor.client.get("/view/server.js") as response:
        assert response.status == 404


@pytest.mark.parametrize(("platform", "token"), [("discord", "DISCORD_TOKEN"), ("slack", "SLACK_BOT_TOKEN")])
async def test_one_command_starts_it_and_ends_at_ctrl_c(platform: str, token: str, tmp_path: Path) -> None:
    command = (sys.executable, "-m", f"tests.loopbacks.{platform}")
    async with process(*command, folder=tmp_path, ready=r"(?s)(http://\S+)\n.*API_URL=\S+\n") as (running, said):
        settings = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
        assert token in {*settings, "SLACK_BOT_TOKEN"}
        address = re.search(r"http://127\.0\.0\.1:(\d+)/", said)
        assert address is not None
        async with aiohttp.ClientSession() as client, client.get(address[0]) as response:
            assert response.status == 200
        async with process(*command, "--port", address[1], folder=tmp_path, ready="cannot be used") as (second, _):
            assert await second.wait() == 1
        running.send_signal(signal.SIGINT)
        assert await running.wait() == 0
