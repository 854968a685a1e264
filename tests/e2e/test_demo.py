"""`make demo`: what a person without tokens gets to see, asked over the pages' own addresses and in a real Chromium."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from playwright.async_api import Browser, Page, ViewportSize, expect

from tests.images import red_circle
from tests.loopbacks.command import Opened
from tests.loopbacks.discord.view import open_to_people as open_discord
from tests.loopbacks.slack.view import open_to_people as open_slack
from tests.program import process

READY = r"(?s)(?=.*is ready: (http\S+))(?=.*loopback Discord: (http\S+))(?=.*loopback Slack: (http\S+)).*"
TIMEOUT_SECONDS = 60
RED = "The circle is red."


async def thread_with_answer(live: aiohttp.ClientWebSocketResponse) -> dict[str, Any]:
    """The first thread, once it holds a question and an answer that has its buttons (and nothing more about the waiting)."""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while True:
            threads = [room for room in (await live.receive_json())["rooms"] if room["parent"]]
            messages = threads[0]["messages"] if threads else []
            if len(messages) == 2 and "Regenerate" in str(messages[1]["buttons"]):
                return dict(threads[0])


async def ask_for_the_colour(page: str) -> None:
    async with aiohttp.ClientSession(page) as client, client.get("/view/people") as people:
        ann, bob = (person["id"] for person in await people.json())
        async with client.ws_connect(f"/view/live?person={ann}") as live:
            first = await live.receive_json()
            form = aiohttp.FormData()
            form.add_field("file", red_circle(), filename="circle.png")
            text = f"@{first['bot']} What colour is the circle?"
            for name, value in {"person": ann, "room": first["rooms"][0]["id"], "text": text}.items():
                form.add_field(name, value)
            async with client.post("/view/post", data=form) as response:
                assert response.status == 201
            thread = await thread_with_answer(live)
            asked, answer = thread["messages"]
            assert (asked["text"], [file["name"] for file in asked["files"]]) == (text, ["circle.png"])
            assert (answer["text"], answer["is_bot"]) == (RED, True)
            helpful = next(button["id"] for button in answer["buttons"] if button["label"] in ("Helpful", "👍"))
            press = {"person": ann, "room": answer["room"], "message": answer["id"], "button": helpful}
            async with client.post("/view/press", json=press) as response:
                assert response.status == 200
            async with asyncio.timeout(TIMEOUT_SECONDS):
                while "Thank you" not in str(await live.receive_json()):
                    pass
        async with client.get("/view/seen", params={"person": bob}) as response:
            assert RED in (seen := await response.text())
            assert "Thank you" not in seen  # only who pressed is told


@pytest.mark.whole_program
async def test_the_demo_answers_on_both_platforms_and_ends_cleanly(tmp_path: Path) -> None:
    async with process(sys.executable, "-m", "tests.demo", folder=tmp_path, ready=READY) as (demo, said):
        found = re.search(READY, said)
        assert found is not None
        own, discord, slack = found.groups()
        async with aiohttp.ClientSession() as client, client.get(own) as response:
            assert response.status == 200
        await asyncio.gather(ask_for_the_colour(discord), ask_for_the_colour(slack))
        demo.send_signal(signal.SIGTERM)
        async with asyncio.timeout(TIMEOUT_SECONDS):
            assert await demo.wait() == 0
        async with aiohttp.ClientSession() as client:
            for address in (own, discord, slack):
                with pytest.raises(aiohttp.ClientConnectorError):
                    await client.get(address)


# -- the pages -------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def opened_page(browser: Browser, address: str, viewport: ViewportSize) -> AsyncIterator[Page]:
    """It must not run into a script error, a violated content security policy, or another host."""
    complaints: list[str] = []
    context = await browser.new_context(viewport=viewport)
    page = await context.new_page()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda entry: complaints.append(entry.text) if entry.type == "error" else None)
    page.on("request", lambda request: None if request.url.startswith((address, "data:")) else complaints.append(request.url))
    await page.goto(address)
    try:
        yield page
        assert complaints == []
    finally:
        await context.close()


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize(
    "viewport", [ViewportSize(width=1100, height=700), ViewportSize(width=360, height=640)], ids=["wide", "phone"]
)
@pytest.mark.parametrize("opening", [open_discord, open_slack], ids=["discord", "slack"])
async def test_a_page_can_be_used(
    browser: Browser, opening: Callable[[], AbstractAsyncContextManager[Opened]], viewport: ViewportSize
) -> None:
    async with opening() as opened, opened_page(browser, opened.page, viewport) as page:
        await expect(page.get_by_text("is not connected")).to_be_visible()
        await page.locator("#file").set_input_files({"name": "circle.png", "mimeType": "image/png", "buffer": red_circle()})
        await page.locator("#mention").click()
        box = page.get_by_label("Message", exact=True)
        await box.press_sequentially("<b>is</b> `it` **red**?")
        await box.press("Enter")
        message = page.locator("#messages .text")
        await expect(message).to_contain_text("<b>is</b> it red?")
        await expect(message.locator("strong")).to_have_text("red")
        await expect(message.locator(".name")).to_have_text(re.compile("^@"))
        image = page.get_by_alt_text("circle.png")
        assert await image.evaluate("image => image.decode().then(() => image.naturalWidth)") == 256
        await expect(page.locator("#chosen")).to_be_empty()
        await page.get_by_role("button", name="Edit").click()
        await box.fill("changed")
        await box.press("Enter")
        await expect(message).to_have_text("changed")
        await expect(page.get_by_text("edited", exact=True)).to_be_visible()
        width = await page.evaluate("document.documentElement.scrollWidth")
        assert width <= viewport["width"]
        await page.get_by_role("button", name="directly").click()
        await expect(message).to_have_count(0)
        await page.get_by_role("button", name="# general").click()
        await page.get_by_label("You are").select_option("bob")
        await expect(page.get_by_role("button", name="Delete")).to_have_count(0)
        await page.get_by_label("You are").select_option("ann")
        await page.get_by_role("button", name="Delete").click()
        await expect(page.get_by_text("Nothing has been written here yet.")).to_be_visible()


@pytest.mark.asyncio(loop_scope="session")
async def test_a_thread_is_a_place_of_its_own(browser: Browser) -> None:
    async with open_slack() as opened, opened_page(browser, opened.page, ViewportSize(width=1100, height=700)) as page:
        box = page.get_by_label("Message", exact=True)
        for text in ("first", "second"):
            await box.fill(text)
            await box.press("Enter")
            await expect(page.locator("#messages .text").last).to_have_text(text)
        await page.get_by_role("button", name="Reply in thread").first.click()
        await box.fill("about the first")
        await box.press("Enter")
        await expect(page.locator("#messages .text")).to_have_text(["first", "about the first"])
        await page.get_by_role("button", name="Back").click()
        await expect(page.locator("#messages .text")).to_have_text(["first", "second"])
        await page.get_by_role("button", name="1 in the thread").click()
        await expect(page.locator("#messages .text")).to_have_text(["first", "about the first"])
