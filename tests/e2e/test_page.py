"""The page in a real Chromium: what a person does with it. Answers are written by the test, when it wants them."""

from __future__ import annotations

import base64
import re

import pytest
from playwright.async_api import Locator, Page, expect

from adapters.base import AnswerStatus, AnswerText, Notice, Waiting
from tests.chat_handler import draw_image
from tests.e2e.conftest import Site

pytestmark = pytest.mark.asyncio(loop_scope="session")

DROP = """([target, base64, name, type]) => {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, {type}));
  const node = document.querySelector(target);
  for (const kind of ["dragenter", "dragover", "drop"])
    node.dispatchEvent(new DragEvent(kind, {dataTransfer: transfer, bubbles: true, cancelable: true}));
}"""
PASTE = """(base64) => {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], "pasted.png", {type: "image/png"}));
  document.dispatchEvent(new ClipboardEvent("paste", {clipboardData: transfer, bubbles: true, cancelable: true}));
}"""


async def drop(page: Page, *, name: str = "shapes.png", data: bytes | None = None) -> None:
    encoded = base64.b64encode(draw_image() if data is None else data).decode()
    await page.evaluate(DROP, ["#main", encoded, name, "image/png"])


async def ask(page: Page, question: str) -> None:
    await page.get_by_label("Your question").fill(question)
    await page.get_by_label("Your question").press("Enter")


def answers(page: Page) -> Locator:
    return page.locator(".answer-text:visible")


async def show_image(site: Site, page: Page, answer: str = "I see a red circle.") -> None:
    await drop(page)
    await ask(page, "What do you see?")
    await site.handler.answer_next(answer)
    await expect(answers(page)).to_have_text([answer])


async def test_drop_a_picture_ask_and_watch_the_answer_arrive(site: Site) -> None:
    page = await site.open()
    await expect(page.get_by_role("heading", name="Show me a picture")).to_be_visible()
    await drop(page)
    await expect(page.get_by_text("shapes.png")).to_be_visible()
    await ask(page, "What do you see?")
    answer = await site.handler.next_answer()
    await answer.add(Waiting(3, None, is_loading=True))
    await expect(page.locator(".answer-state")).to_have_text("The model was asleep and is being loaded…")
    await answer.add(Waiting(3, 40.0))
    await expect(page.locator(".answer-state")).to_have_text("Number 3 in the queue, about 40 seconds…")
    await answer.add(Waiting(1, None))
    await expect(page.locator(".answer-state")).to_have_text("You are next…")
    await answer.add(AnswerText("I see a **red** "))
    await expect(answers(page)).to_have_text("I see a red")
    await expect(page.get_by_role("button", name="Stop the answer")).to_be_enabled()
    assert await page.locator("#announcer").text_content() == "You are next…"  # no reader hears half an answer
    await answer.add(Notice("Older turns were left out."), AnswerText("circle."))
    await site.handler.end(answer)
    await expect(answers(page)).to_have_text("I see a red circle.")
    await expect(page.locator(".answer-text strong")).to_have_text("red")
    await expect(page.locator("#announcer")).to_have_text("Answer: I see a **red** circle.")
    await expect(page.get_by_text("Older turns were left out.", exact=True)).to_be_visible()
    await expect(page.get_by_role("button", name="Send")).to_be_visible()
    image = page.get_by_alt_text("The picture of this chat")
    await expect(image).to_have_attribute("src", re.compile("^api/chats/.*/pictures/"))
    assert await image.evaluate("image => image.decode().then(() => image.naturalWidth)") == 320
    message = site.handler.messages[0]
    assert (message.text, message.attachments[0].name) == ("What do you see?", "shapes.png")


async def test_the_chat_goes_on_and_a_new_picture_starts_a_new_one(site: Site) -> None:
    page = await site.open()
    await show_image(site, page)
    await ask(page, "What colour is it?")
    await site.handler.answer_next("Red.")
    await expect(answers(page)).to_have_text(["I see a red circle.", "Red."])
    first, second = site.handler.messages
    assert first.key == second.key == site.thread_of(page)
    await page.evaluate(PASTE, base64.b64encode(draw_image()).decode())
    await expect(page.get_by_text("Starts a new chat")).to_be_visible()
    await ask(page, "And this?")
    await site.handler.answer_next("A square.")
    await expect(answers(page)).to_have_text(["A square."])
    assert site.thread_of(page) != first.key
    await expect(page.locator(".chat-title")).to_have_text(["And this?", "What do you see?"])
    await page.go_back()
    await expect(answers(page)).to_have_text(["I see a red circle.", "Red."])


async def test_choose_a_file_and_send_it_without_a_question(site: Site) -> None:
    page = await site.open()
    async with page.expect_file_chooser() as chooser:
        await page.locator("#drop-zone").click()
    await (await chooser.value).set_files({"name": "a.png", "mimeType": "image/png", "buffer": draw_image()})
    await page.get_by_role("button", name="Send").click()
    await site.handler.answer_next("A circle.")
    await expect(answers(page)).to_have_text(["A circle."])
    await expect(page.locator(".question-text")).to_have_text("Describe the picture.")


async def test_shapes_are_drawn_for_who_has_no_picture(site: Site) -> None:
    page = await site.open()
    await page.get_by_role("button", name="Draw some shapes for me").click()
    await expect(page.get_by_text("shapes.png")).to_be_visible()
    await page.get_by_role("button", name="How many shapes are there?").click()
    await page.get_by_role("button", name="Send").click()
    await site.handler.answer_next("Two.")
    await expect(answers(page)).to_have_text(["Two."])
    assert (await site.handler.messages[0].attachments[0].fetch(10**7)).startswith(b"\x89PNG")


@pytest.mark.parametrize("by_key", [False, True])
async def test_stop_keeps_what_was_written(site: Site, by_key: bool) -> None:
    page = await site.open()
    await drop(page)
    await ask(page, "Describe it")
    answer = await site.handler.next_answer()
    await answer.add(AnswerText("I see a"))
    await expect(answers(page)).to_have_text(["I see a"])
    if by_key:
        await page.keyboard.press("Escape")
    else:
        await page.get_by_role("button", name="Stop the answer").click()
    await answer.is_stop_wanted.wait()
    await site.handler.end(answer, AnswerStatus.STOPPED)
    await expect(page.locator(".answer-state")).to_have_text("Stopped")
    await expect(answers(page)).to_have_text(["I see a"])


async def test_regenerate_replaces_the_answer(site: Site) -> None:
    page = await site.open()
    await show_image(site, page)
    await page.get_by_role("button", name="Regenerate").click()
    answer = await site.handler.next_answer()
    await answer.add(AnswerText("A red"))
    await expect(answers(page)).to_have_text(["A red"])
    await answer.add(AnswerText(" disc."))
    await site.handler.end(answer)
    await expect(answers(page)).to_have_text(["A red disc."])


async def test_a_reload_in_the_middle_goes_on_showing_the_answer(site: Site) -> None:
    page = await site.open()
    await drop(page)
    await ask(page, "Describe it")
    answer = await site.handler.next_answer()
    await answer.add(AnswerText("I see "))
    await expect(answers(page)).to_have_text(["I see"])
    await page.reload()
    await expect(answers(page)).to_have_text(["I see"])
    await expect(page.get_by_alt_text("The picture of this chat")).to_be_visible()
    await answer.add(AnswerText("a circle."))
    await site.handler.end(answer)
    await expect(answers(page)).to_have_text(["I see a circle."])


async def test_a_second_tab_follows(site: Site) -> None:
    page = await site.open()
    await show_image(site, page)
    other = await site.open_tab(page.context)
    await expect(other.locator(".chat-title")).to_have_text(["What do you see?"])
    await other.locator(".chat-link").click()
    await expect(answers(other)).to_have_text(["I see a red circle."])
    await ask(page, "Where is it?")
    answer = await site.handler.next_answer()
    await answer.add(AnswerText("At the"))
    for tab in (page, other):
        await expect(answers(tab)).to_have_text(["I see a red circle.", "At the"])
    await answer.add(AnswerText(" top."))
    await site.handler.end(answer)
    for tab in (page, other):
        await expect(answers(tab)).to_have_text(["I see a red circle.", "At the top."])


async def test_the_page_comes_back_by_itself_after_a_restart_and_sends_what_was_left(site: Site) -> None:
    page = await site.open()
    await show_image(site, page)
    await site.stop()
    await expect(page.get_by_text("The connection is lost. Trying again…")).to_be_visible()
    await ask(page, "Where is it?")
    await expect(page.get_by_text("Not sent: the connection broke off.")).to_be_visible()
    site.complaints.clear()  # the browser logs each attempt that failed
    await site.start()
    await expect(page.get_by_text("Connected again.")).to_be_visible()
    await site.handler.answer_next("At the top.")
    await expect(answers(page)).to_have_text(["I see a red circle.", "At the top."])
    assert [message.text for message in site.handler.messages] == ["What do you see?", "Where is it?"]
    site.complaints = [complaint for complaint in site.complaints if "ERR_CONNECTION_REFUSED" not in complaint]


async def test_delete_asks_first(site: Site) -> None:
    page = await site.open()
    await show_image(site, page)
    key = site.thread_of(page)
    await page.locator(".chat").hover()
    await page.get_by_role("button", name="Delete the chat What do you see?").click()
    await page.get_by_role("button", name="Keep it").click()
    assert await site.handler.read_chat(key) is not None
    await page.get_by_role("button", name="Delete the chat What do you see?").click()
    await page.get_by_role("button", name="Delete", exact=True).click()
    await expect(page.get_by_text("Your chats will be listed here.")).to_be_visible()
    await expect(page.get_by_role("heading", name="Show me a picture")).to_be_visible()
    assert await site.handler.read_chat(key) is None


# -- what goes wrong


async def test_a_file_that_is_no_picture_gets_its_sentence(site: Site) -> None:
    page = await site.open()
    await drop(page, name="notes.png", data=b"no picture")
    await ask(page, "What is this?")
    await expect(page.locator(".answer-error")).to_contain_text("I could not use notes.png: it is not")
    await expect(page.get_by_role("button", name="Regenerate")).to_be_hidden()


async def test_a_full_queue_is_told_and_the_question_can_be_sent_again(site: Site) -> None:
    page = await site.open()
    site.handler.next_refusal = "I am busy: the queue is full."
    await drop(page)
    await ask(page, "What is this?")
    await expect(page.locator(".answer-error")).to_have_text("I am busy: the queue is full.")
    await page.get_by_role("button", name="Send again").click()
    answer = await site.handler.next_answer()
    await site.handler.take_back(answer, "Now the queue is full again.")  # met after it was stored
    await expect(page.locator(".answer-error")).to_have_text("Now the queue is full again.")
    await page.get_by_role("button", name="Send again").click()
    await site.handler.answer_next("A circle.")
    await expect(answers(page)).to_have_text(["A circle."])
    await expect(page.locator(".turn")).to_have_count(1)
    assert len({message.message_id for message in site.handler.messages}) == 3


async def test_a_picture_that_the_browser_cannot_show_is_told_in_words(site: Site) -> None:
    page = await site.open()
    await show_image(site, page)
    await expect(page.get_by_alt_text("The picture of this chat")).to_be_visible()
    heic = b"\0\0\0\x18ftypheic, and the rest is nothing that Chromium could decode"
    await page.route("**/pictures/*", lambda route: route.fulfill(body=heic, content_type="image/heic"))
    await page.reload()
    await expect(page.get_by_alt_text("This browser cannot show this kind of picture.")).to_be_visible()


async def test_a_failed_answer_says_why_and_can_be_asked_for_again(site: Site) -> None:
    page = await site.open()
    await show_image(site, page)
    await ask(page, "Where?")
    await site.handler.end(await site.handler.next_answer(), AnswerStatus.FAILED, "The model broke.")
    await expect(page.locator(".answer-error:visible")).to_have_text(["The model broke."])
    await page.get_by_role("button", name="Regenerate").click()
    await site.handler.answer_next("At the top.")
    await expect(answers(page)).to_have_text(["I see a red circle.", "At the top."])
    await expect(page.locator(".answer-error:visible")).to_have_count(0)


@pytest.mark.parametrize(
    "text",
    [
        "<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script>",
        "[click](javascript:document.title='broken') ![x](http://example.invalid/x.png)",
        "`<svg onload=document.title='broken'>`\n\n```\n</code><script>document.title='broken'</script>\n```",
    ],
)
async def test_what_a_model_writes_stays_text(site: Site, text: str) -> None:
    page = await site.open()
    await drop(page, name="<img src=x onerror=document.title='broken'>.png")
    await expect(page.locator("#chosen-name")).to_have_text("<img src=x onerror=document.title='broken'>.png")
    await ask(page, text)
    answer = await site.handler.next_answer()
    await answer.add(Notice(text), AnswerText(text))
    await site.handler.end(answer, AnswerStatus.COMPLETE)
    await expect(page.get_by_role("button", name="Regenerate")).to_be_visible()
    await expect(page.locator(".question-text")).to_have_text(text, use_inner_text=True)
    await expect(page.locator(".notices li")).to_have_text(text)
    assert (
        await page.locator(":is(.turn, .chats, .topbar) :is(script, iframe, a:not(.chat-link), [onerror], [onload])").count() == 0
    )
    assert await page.locator(".answer img").count() == 0
    assert "broken" not in (await page.title()).split(" · ")[-1]
    assert await page.title() != "broken"


async def test_markdown_is_shown_plainly(site: Site) -> None:
    page = await site.open()
    await show_image(site, page, "Things")
    await ask(page, "List them")
    await site.handler.answer_next("# Two\n\n- a *red* circle\n- 2 * 3 * 4\n\n3. `x < y`\n\n```py\nprint(1)\n```\nlast **open")
    last = answers(page).last
    await expect(last.locator("li")).to_have_text(["a red circle", "2 * 3 * 4", "x < y"])
    await expect(last.locator("em")).to_have_text(["red"])
    await expect(last.locator("ol")).to_have_attribute("start", "3")
    await expect(last.locator("pre")).to_have_text("print(1)")
    await expect(last.locator("p").last).to_have_text("last **open")


# -- everybody


async def test_keyboard_alone_is_enough(site: Site) -> None:
    page = await site.open()
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to the question")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.get_by_label("Your question")).to_be_focused()
    for _ in range(20):
        await page.keyboard.press("Shift+Tab")
        if await page.evaluate("document.activeElement.id") == "draw":
            break
    outline = await page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    await page.keyboard.press("Enter")
    await expect(page.get_by_label("Your question")).to_be_focused()
    await page.keyboard.type("One line")
    await page.keyboard.press("Shift+Enter")
    await page.keyboard.type("and another")
    await page.keyboard.press("Enter")
    await site.handler.answer_next("Yes.")
    await expect(answers(page)).to_have_text(["Yes."])
    assert site.handler.messages[0].text == "One line\nand another"
    await expect(page.get_by_label("Your question")).to_be_focused()


async def test_a_phone_has_a_drawer_and_nothing_is_cut_off(site: Site) -> None:
    page = await site.open(viewport={"width": 360, "height": 700}, is_phone=True)
    await show_image(site, page, "A very long word: " + "x" * 300)
    assert await page.evaluate("document.documentElement.scrollWidth") == 360
    assert await page.get_by_label("Your question").evaluate("node => parseFloat(getComputedStyle(node).fontSize)") >= 16
    await expect(page.locator("#sidebar")).to_be_hidden()
    await page.get_by_role("button", name="Show the list of chats").tap()
    await expect(page.get_by_role("link", name="What do you see?")).to_be_visible()
    await expect(page.get_by_role("button", name="Close the list of chats")).to_be_focused()
    await page.keyboard.press("Escape")
    await expect(page.locator("#sidebar")).to_be_hidden()
    await page.get_by_role("button", name="New chat").tap()
    await expect(page.get_by_role("heading", name="Show me a picture")).to_be_visible()


@pytest.mark.parametrize("is_dark", [False, True])
async def test_words_stand_out_from_their_ground(site: Site, is_dark: bool) -> None:
    page = await site.open(is_dark=is_dark)
    await show_image(site, page)
    await ask(page, "Where?")
    answer = await site.handler.next_answer()
    await answer.add(Notice("A notice."), AnswerText("`code`"))
    await site.handler.end(answer, AnswerStatus.FAILED, "An error.")
    await expect(page.locator(".answer-error:visible")).to_have_text(["An error."])
    assert (await page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 20, 27)") is is_dark
    pale = await page.evaluate(CONTRAST)
    assert pale == []


async def test_every_control_has_a_name_and_every_picture_an_alt_text(site: Site) -> None:
    page = await site.open()
    await show_image(site, page)
    await drop(page)
    await expect(page.get_by_role("button", name="Remove the picture")).to_be_visible()
    nameless = await page.evaluate(
        """() => [...document.querySelectorAll("button, a, input, textarea")].filter((node) => {
             const label = node.labels?.[0]?.textContent ?? "";
             return !(node.getAttribute("aria-label") || label.trim() || node.textContent.trim());
           }).map((node) => node.outerHTML)"""
    )
    assert nameless == []
    assert await page.locator("img:not([alt])").count() == 0
    for landmark in ("main", "navigation", "banner"):
        await expect(page.get_by_role(landmark)).to_have_count(1)
    assert await page.evaluate(
        "[...document.querySelectorAll('[id]')].length === new Set([...document.querySelectorAll('[id]')].map(n => n.id)).size"
    )
    assert await page.locator("html").get_attribute("lang") == "en"


async def test_less_motion_means_none(site: Site) -> None:
    page = await site.open()
    await page.emulate_media(reduced_motion="reduce")
    await drop(page)
    await ask(page, "Describe it")
    answer = await site.handler.next_answer()
    await expect(page.locator(".answer-state")).to_have_text("Looking…")
    assert await page.evaluate("document.getAnimations().length") == 0
    await site.handler.end(answer)


async def test_a_token_opens_the_page_once(site: Site) -> None:
    await site.stop()
    site.token = "correct horse battery"
    await site.start()
    page = await site.open()
    await expect(page.get_by_role("heading", name="Welcome to Threadsight")).to_be_visible()
    await page.get_by_label("Token").fill("wrong")
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_text("That is not the right token.")).to_be_visible()
    await page.get_by_label("Token").fill(site.token)
    await page.get_by_label("Token").press("Enter")
    await show_image(site, page)
    await page.reload()
    await expect(answers(page)).to_have_text(["I see a red circle."])
    site.complaints = [complaint for complaint in site.complaints if "403" not in complaint]  # logged by the browser


async def test_signing_out_forgets_the_chats_in_every_tab(site: Site) -> None:
    await site.stop()
    site.token = "correct horse battery"
    await site.start()
    page = await site.open()
    await page.get_by_label("Token").fill(site.token)
    await page.get_by_label("Token").press("Enter")
    await show_image(site, page)
    other = await site.open_tab(page.context, page.url.removeprefix(site.url))
    await expect(answers(other)).to_have_text(["I see a red circle."])
    await page.get_by_role("button", name="Sign out").click()
    for tab in (page, other):
        await expect(tab.get_by_role("heading", name="Welcome to Threadsight")).to_be_visible()
        await expect(tab.locator(".turn")).to_have_count(0)
        await expect(tab.locator(".chat")).to_have_count(0)
    await other.get_by_label("Token").fill(site.token)
    await other.get_by_label("Token").press("Enter")
    await expect(answers(other)).to_have_text(["I see a red circle."])


CONTRAST = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = (colour) => {
    const [r, g, b] = colour.map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const colour = rgba(getComputedStyle(node).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255, 255];
  };
  const pale = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !node.checkVisibility()) continue;
    const [a, b] = [luminance(rgba(getComputedStyle(node).color)), luminance(ground(node))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) pale.push(`${walker.currentNode.textContent.trim()}: ${ratio.toFixed(2)}`);
  }
  return pale;
}"""
