"""A real Chromium, and the page served to it. Page tests run in the session's event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, ViewportSize, async_playwright, expect

from adapters.base import ThreadKey
from adapters.web.server import WebAdapter
from tests.chat_handler import MemoryChatHandler

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP home.example 127.0.0.1",
]
DESKTOP: ViewportSize = {"width": 1280, "height": 860}
EXPECT_SECONDS = 15

expect.set_options(timeout=EXPECT_SECONDS * 1000)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    path = next((found for name in CHROMIUM_NAMES if (found := shutil.which(name))), None)
    if path is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no Chromium was found, and here the page must be tested")
        pytest.skip("no Chromium on this machine")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=CHROMIUM_ARGUMENTS)
        yield browser
        await browser.close()


@dataclass
class Site:
    """The page's server, which a test may restart on the same port, and browser pages whose errors are recorded."""

    handler: MemoryChatHandler
    browser: Browser
    token: str | None = None
    public_url: str | None = None
    url: str = ""
    port: int = 0
    complaints: list[str] = field(default_factory=list)
    _task: asyncio.Task[None] | None = None
    _contexts: list[BrowserContext] = field(default_factory=list)

    async def start(self) -> None:
        adapter = WebAdapter("127.0.0.1", self.port, self.token, public_url=self.public_url)
        self._task = asyncio.create_task(adapter.run(self.handler))
        async with asyncio.timeout(EXPECT_SECONDS):
            await adapter.started.wait()
        assert adapter.url is not None
        if self.public_url is None:
            self.url = adapter.url
        self.port = int(adapter.url.rstrip("/").rpartition(":")[2])

    async def stop(self) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def open(
        self, path: str = "", *, viewport: ViewportSize = DESKTOP, is_dark: bool = False, is_phone: bool = False
    ) -> Page:
        """Open a tab in a new browser profile."""
        context = await self.browser.new_context(
            viewport=viewport, color_scheme="dark" if is_dark else "light", has_touch=is_phone, is_mobile=is_phone
        )
        self._contexts.append(context)
        return await self.open_tab(context, path)

    async def open_tab(self, context: BrowserContext, path: str = "") -> Page:
        page = await context.new_page()
        page.on("pageerror", lambda error: self.complaints.append(f"script error: {error}\n{error.stack}"))
        page.on("console", lambda entry: self.complaints.append(entry.text) if entry.type == "error" else None)
        page.on("request", lambda request: self._note_request(request.url))
        await page.goto(self.url + path)
        return page

    def thread_of(self, page: Page) -> ThreadKey:
        return ThreadKey("web", "local", "page", page.url.rpartition("#/")[2])

    def _note_request(self, url: str) -> None:
        origin = "/".join(self.url.split("/")[:3])
        if not url.startswith((self.url, f"blob:{origin}/", "ws" + self.url.removeprefix("http"))):
            self.complaints.append(f"foreign request: {url}")

    async def close(self) -> None:
        for context in self._contexts:
            await context.close()
        await self.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def site(browser: Browser) -> AsyncIterator[Site]:
    """Fails the test on a script error, a violation of the content security policy, or a request to another host."""
    site = Site(MemoryChatHandler(), browser)
    await site.start()
    yield site
    await site.close()
    assert site.complaints == []
