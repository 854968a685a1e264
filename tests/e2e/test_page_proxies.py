"""The page in a real Chromium, by https through the real nginx and Caddy, as docs/operating.md says to set them up."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest
from playwright.async_api import Browser, Page, expect

from adapters.base import AnswerText
from adapters.web.tabs import HEARTBEAT_SECONDS
from tests.chat_handler import MemoryChatHandler, draw_image
from tests.e2e.conftest import DESKTOP, Site
from tests.e2e.page_proxy import NAME, free_port, nginx_in_a_folder, printed, proxy
from tests.e2e.test_page import answers, ask, drop, show_image

pytestmark = pytest.mark.asyncio(loop_scope="session")

TOKEN = "correct horse battery staple"
NGINX_READ_SECONDS = 60  # its default for a connection that says nothing
CONFIGURATIONS: dict[str, tuple[str, Callable[[], str], str]] = {
    "Caddy": ("caddy", lambda: printed("caddyfile")[0], ""),
    "Caddy, in a folder": ("caddy", lambda: printed("caddyfile")[1], "threadsight/"),
    "nginx": ("nginx", lambda: printed("nginx")[0], ""),
    "nginx, in a folder": ("nginx", nginx_in_a_folder, "threadsight/"),
    "nginx, with its own Host": ("nginx", lambda: printed("nginx")[0].replace("proxy_set_header Host $host;", ""), ""),
}


@contextlib.asynccontextmanager
async def behind(kind: str, configuration: str, folder: str, tmp_path: Path, browser: Browser) -> AsyncIterator[tuple[Site, Page]]:
    """The page's server behind a proxy, and a tab that has been opened there and has not signed in."""
    port = free_port()
    public_url = f"https://{NAME}:{port}/{folder}"
    site = Site(MemoryChatHandler(), browser, token=TOKEN, public_url=public_url, url=public_url)
    await site.start()
    try:
        async with proxy(kind, configuration, tmp_path, port, site.port):
            context = await browser.new_context(viewport=DESKTOP, ignore_https_errors=True)
            try:
                yield site, await site.open_tab(context)
            finally:
                await context.close()
    finally:
        await site.close()


async def sign_in(page: Page) -> None:
    await page.get_by_label("Token").fill(TOKEN)
    await page.get_by_label("Token").press("Enter")
    await expect(page.locator("#sign-in")).to_be_hidden()


@pytest.mark.parametrize("name", CONFIGURATIONS)
async def test_the_page_works_through_a_proxy(browser: Browser, tmp_path: Path, name: str) -> None:
    kind, configuration, folder = CONFIGURATIONS[name]
    async with behind(kind, configuration(), folder, tmp_path, browser) as (site, page):
        await sign_in(page)
        [cookie] = await page.context.cookies()
        assert (cookie["secure"], cookie["sameSite"], cookie["path"]) == (True, "Strict", f"/{folder}")
        picture = draw_image() + bytes(3_000_000)  # above what nginx takes unless told otherwise
        await drop(page, data=picture)
        await ask(page, "What do you see?")
        answer = await site.handler.next_answer()
        await answer.add(AnswerText("I see"))
        await expect(answers(page)).to_have_text("I see")  # before it has ended
        await answer.add(AnswerText(" a circle."))
        await site.handler.end(answer)
        await expect(answers(page)).to_have_text("I see a circle.")
        chat = await site.handler.read_chat(site.thread_of(page))
        assert chat is not None
        assert await site.handler.read_image(chat.key, chat.turns[0].image_ids[0]) == (picture, "image/png")
        await page.reload()
        await expect(answers(page)).to_have_text("I see a circle.")
        image = page.get_by_alt_text("The picture of this chat")
        assert await image.evaluate("image => image.decode().then(() => image.naturalWidth)") == 320
        await ask(page, "And now?")
        await expect(page.get_by_role("button", name="Stop the answer")).to_be_enabled()
        await page.get_by_role("button", name="Stop the answer").click()
        await (await site.handler.next_answer()).is_stop_wanted.wait()
        assert site.complaints == []


async def test_no_other_name_and_no_other_site_gets_through(browser: Browser, tmp_path: Path) -> None:
    async with behind("nginx", printed("nginx")[0], "", tmp_path, browser) as (site, _):
        address = f"https://127.0.0.1:{site.url.rstrip('/').rpartition(':')[2]}/api/session"
        async with aiohttp.ClientSession() as session:
            for headers, status in (({"Host": "evil.example"}, 421), ({"Host": NAME, "Origin": "https://evil.example"}, 403)):
                async with session.get(address, headers=headers, ssl=False) as response:
                    assert response.status == status


async def test_a_file_that_the_proxy_does_not_take_is_told(browser: Browser, tmp_path: Path) -> None:
    small = printed("nginx")[0].replace("client_max_body_size 100m;", "")
    async with behind("nginx", small, "", tmp_path, browser) as (site, page):
        await sign_in(page)
        await drop(page, data=draw_image() + bytes(3_000_000))
        await ask(page, "What do you see?")
        await expect(page.locator(".answer-error")).to_have_text(
            "The proxy before this page does not take a file as large as this one."
        )
        assert site.handler.messages == []


@pytest.mark.parametrize("kind", ["nginx", "caddy"])
async def test_a_question_that_meets_a_restart_is_asked_after_it(browser: Browser, tmp_path: Path, kind: str) -> None:
    """The proxy answers 502 then; without it the browser would find nobody there."""
    configuration = printed("nginx" if kind == "nginx" else "caddyfile")[0]
    async with behind(kind, configuration, "", tmp_path, browser) as (site, page):
        await sign_in(page)
        await show_image(site, page)
        await site.stop()
        await ask(page, "And what colour is it?")
        await expect(page.locator(".answer-error:visible")).to_contain_text("I will try again by myself")
        await site.start()
        await site.handler.answer_next("Red.")
        await expect(answers(page)).to_have_text(["I see a red circle.", "Red."])
        assert [message.text for message in site.handler.messages] == ["What do you see?", "And what colour is it?"]


async def test_the_page_is_heard_of_before_a_proxy_gives_it_up() -> None:
    assert HEARTBEAT_SECONDS < NGINX_READ_SECONDS / 2
