"""The page's text in a real Chromium: each paragraph runs in its own direction, as the browser has laid it out."""

from __future__ import annotations

import pytest
from playwright.async_api import Locator, Page, expect

from adapters.base import AnswerText
from tests.e2e.conftest import Site
from tests.e2e.test_page import answers, ask, drop, show_image

pytestmark = pytest.mark.asyncio(loop_scope="session")

ARABIC = "هناك دائرة حمراء."
HEBREW = "יש עיגול אדום."
ENGLISH = "There is a red circle."

FULL_STOP = """(node, line) => {
  const texts = document.createTreeWalker(node, NodeFilter.SHOW_TEXT);
  const place = (found, at) => {
    const range = document.createRange();
    range.setStart(found, at);
    range.setEnd(found, at + 1);
    return range.getBoundingClientRect().x;
  };
  while (texts.nextNode()) {
    const at = texts.currentNode.data.indexOf(line);
    if (at >= 0) return place(texts.currentNode, at + line.length - 1) < place(texts.currentNode, at) ? "left" : "right";
  }
}"""
"""On which side of a line its full stop is drawn. It has no direction of its own, so it shows that of its paragraph."""


async def full_stop(node: Locator, line: str) -> str:
    found = await node.evaluate(FULL_STOP, line)
    assert isinstance(found, str), f"{line} is not there"
    return found


async def direction(node: Locator) -> str:
    return str(await node.evaluate("node => getComputedStyle(node).direction"))


async def answered(site: Site, page: Page, answer: str) -> Locator:
    await ask(page, "And now?")
    await site.handler.answer_next(answer)
    await expect(page.get_by_role("button", name="Regenerate")).to_be_visible()
    return answers(page).last


@pytest.mark.parametrize(
    ("answer", "line", "side"),
    [
        (ARABIC, ARABIC, "left"),
        (HEBREW, HEBREW, "left"),
        (ENGLISH, ENGLISH, "right"),
        (f"{ENGLISH}\n\n{ARABIC}", ARABIC, "left"),
        (f"{ENGLISH}\n\n{ARABIC}", ENGLISH, "right"),
        (f"{ENGLISH}\n{HEBREW}", HEBREW, "left"),  # two lines of one paragraph
        (f"{HEBREW}\n{ENGLISH}", ENGLISH, "right"),
        (f"## {ARABIC}", ARABIC, "left"),
        (f"- {ENGLISH}\n- {ARABIC}", ARABIC, "left"),
        (f"- {ENGLISH}\n- {ARABIC}", ENGLISH, "right"),
        (f"1. {HEBREW}", HEBREW, "left"),
        (f"**{HEBREW}**", HEBREW, "left"),
        (f"`print(1)` {HEBREW}", HEBREW, "left"),  # code says nothing about the words around it
        (f"123, 😀: {HEBREW}", HEBREW, "left"),  # nor do digits and signs
    ],
)
async def test_each_paragraph_has_its_own_direction(site: Site, answer: str, line: str, side: str) -> None:
    page = await site.open()
    await show_image(site, page, "Yes")
    assert await full_stop(await answered(site, page, answer), line) == side


async def test_code_is_left_to_right_wherever_it_is(site: Site) -> None:
    page = await site.open()
    await show_image(site, page, "Yes")
    last = await answered(site, page, f"{HEBREW} `x = f(1).` {HEBREW}\n\n```py\nif x:\n    return 'שלום'.\n```")
    assert await full_stop(last.locator("p code"), "x = f(1).") == "right"
    assert await direction(last.locator("pre")) == "ltr"
    assert await direction(last.locator("p")) == "rtl"


async def test_a_lists_marks_are_where_its_text_begins_and_inside_the_bubble(site: Site) -> None:
    page = await site.open()
    await show_image(site, page, "Yes")
    last = await answered(site, page, f"- {ARABIC}\n- {ARABIC}")
    item = last.locator("li").first
    assert await direction(item) == "rtl"
    bubble, text = await last.bounding_box(), await item.bounding_box()
    assert bubble is not None
    assert text is not None
    assert bubble["x"] + bubble["width"] - text["x"] - text["width"] >= 20  # the mark is outside of the item's own box


async def test_questions_titles_and_the_field_too(site: Site) -> None:
    page = await site.open()
    field = page.get_by_label("Your question")
    assert await direction(field) == "ltr"
    await drop(page, name="דוח.png")
    await field.fill(HEBREW)
    assert await direction(field) == "rtl"
    assert await direction(page.locator("#chosen-name")) == "rtl"
    await field.press("Enter")
    await site.handler.answer_next(HEBREW)
    await expect(answers(page)).to_have_text([HEBREW])
    assert await full_stop(page.locator(".question"), HEBREW) == "left"
    for title in (page.locator("#title"), page.locator(".chat-title")):
        assert await direction(title) == "rtl"
    await ask(page, f"{ENGLISH}\n{ARABIC}")
    await site.handler.answer_next(ENGLISH)
    await expect(answers(page)).to_have_text([HEBREW, ENGLISH])
    assert await full_stop(page.locator(".question").last, ARABIC) == "left"
    assert await full_stop(page.locator(".question").last, ENGLISH) == "right"
    await page.get_by_role("button", name="Delete the chat").click()
    assert await direction(page.locator("#confirm-name")) == "rtl"
    assert await direction(page.locator("#confirm-delete p")) == "ltr"


async def test_an_answer_that_is_being_written_turns_as_soon_as_it_says_so(site: Site) -> None:
    page = await site.open()
    await show_image(site, page, "Yes")
    await ask(page, "And now?")
    answer = await site.handler.next_answer()
    await answer.add(AnswerText("1. "))
    await answer.add(AnswerText(HEBREW))
    await expect(answers(page).last.locator("li")).to_have_text(HEBREW)
    assert await full_stop(answers(page).last, HEBREW) == "left"
    await site.handler.end(answer)


GROWTH = """async () => {
  const { renderMarkdown } = await import(new URL("static/markdown.js", location.href));
  const pieces = [
    " ", "\\t", "a", "1", "#", "*", "**", "`", "-", ".", "_", "~",
    "\\u2028", "**a ", "*a ", "`a", "``a```", "- ", "1. ", "# ",
  ];
  const seconds = (text) => {
    const began = performance.now();
    renderMarkdown(text);
    return (performance.now() - began) / 1000;
  };
  const slow = [];
  for (const piece of pieces)
    for (const beginning of ["", "# ", "# x", "- ", "1. ", "*", "**a", "`", "```\\n"])
      for (const end of ["", "x", " x", "#", "\\u2028", "\\u2028x"]) {
        const text = (length) => beginning + piece.repeat(length / piece.length) + end;
        const least = (length) => Math.min(seconds(text(length)), seconds(text(length)));
        // A quadratic pattern takes a hundred times as long for ten times the text.
        if (seconds(text(30_000)) > 0.1 && least(30_000) > 50 * Math.max(0.002, least(3_000)))
          slow.push([beginning, piece, end]);
        if (slow.length === 3) return slow;
      }
  return slow;
}"""


async def test_no_text_of_a_model_freezes_the_tab(site: Site) -> None:
    page = await site.open()
    assert await page.evaluate(GROWTH) == []


async def test_marks_that_belong_together_are_found(site: Site) -> None:
    page = await site.open()
    await show_image(site, page, "Yes")
    last = await answered(site, page, "# A `b` ##\n\n## C#  \n\n``a`b`` and ```c`\n\n#   ")
    assert await last.locator(".heading").all_text_contents() == ["A b", "C", ""]
    assert await last.locator("code").all_text_contents() == ["b"]
