"""The whole program with the bundled model, seen through its page: ask, reload, restart, ask on.

With PAGE_SCREENSHOT=docs/page.png the page is photographed for the README.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from model_server.checkpoints.loading import TINY_PATH
from tests.chat_handler import draw_image
from tests.program import PROGRAM, environment

ROOT = Path(__file__).parents[2]
START_SECONDS = 120
STOP_SECONDS = 60

pytestmark = [
    pytest.mark.whole_program,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.skipif(not TINY_PATH.is_dir(), reason="the bundled model is not there"),
]


@asynccontextmanager
async def running_program(folder: Path) -> AsyncIterator[str]:
    """`threadsight run` over the data in `folder`; yields its page's address, and ends it as a service manager would."""
    with (folder / "program.log").open("ab") as log:
        program = await asyncio.create_subprocess_exec(
            *PROGRAM, "run", cwd=folder, env=environment(folder), stdout=asyncio.subprocess.PIPE, stderr=log
        )
        assert program.stdout is not None
        try:
            async with asyncio.timeout(START_SECONDS):
                line = b""
                while b"http://" not in line:
                    line = await program.stdout.readline()
                    assert line, "the program ended before its page was ready"
            yield line.decode().split()[-1]
            program.send_signal(signal.SIGTERM)
            async with asyncio.timeout(STOP_SECONDS):
                await program.communicate()
            assert program.returncode == 0
        finally:
            if program.returncode is None:
                program.kill()
                await program.communicate()


async def test_ask_reload_restart_and_ask_on(browser: Browser, tmp_path: Path) -> None:
    context = await browser.new_context(viewport={"width": 1280, "height": 860}, device_scale_factor=2)
    page = await context.new_page()
    page.set_default_timeout(30_000)
    answers = page.locator(".answer-text:visible")
    question = page.get_by_label("Your question")
    async with running_program(tmp_path) as url:
        await page.goto(url)
        await page.set_input_files("#file", {"name": "shapes.png", "mimeType": "image/png", "buffer": draw_image((400, 300))})
        await question.fill("What colour is the circle?")
        await question.press("Enter")
        await expect(page.get_by_role("button", name="Regenerate")).to_be_visible(timeout=60_000)
        await expect(answers).to_contain_text(["red"], ignore_case=True)
        said = await answers.all_inner_texts()
        await page.reload()
        await expect(answers).to_have_text(said)
        place = page.url.removeprefix(url)
    async with running_program(tmp_path) as url:
        await page.goto(url + place)
        await expect(answers).to_have_text(said)
        await expect(page.get_by_alt_text("The picture of this chat")).to_be_visible()
        await question.fill("And how many shapes are there?")
        await question.press("Enter")
        await expect(answers).to_have_count(2)
        await expect(page.get_by_role("button", name="Regenerate")).to_be_visible(timeout=60_000)
        await expect(answers.last).to_contain_text("two", ignore_case=True)
        if target := os.environ.get("PAGE_SCREENSHOT"):
            (ROOT / target).parent.mkdir(parents=True, exist_ok=True)
            await page.screenshot(path=ROOT / target)
    await context.close()
