"""Links in a text, and the limits of what is looked at."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.base import Attachment
from bot.images import MAX_CANDIDATES, ImageReader, join_names, without_links
from tests.bot.doubles import attachment, image, png


@given(st.lists(st.sampled_from(["https://a.org/1.png", "https://a.org/1.png?x", "what", "is", "this?"]), max_size=8))
def test_only_the_used_links_leave_the_text(words: list[str]) -> None:
    left = without_links(" ".join(words), ["https://a.org/1.png?x"])
    assert left.split() == [word for word in words if word != "https://a.org/1.png?x"]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("https://a.org/1.png，这是什么", "，这是什么"),
        ("What is <https://a.org/1.png> for?", "What is for?"),
        ("Why?\nhttps://a.org/1.png\n\n    if x:\n        y  = 1", "Why?\n\n\n    if x:\n        y  = 1"),
        ("https://a.org/1.png https://a.org/1.png", ""),
        (" " * 50_000 + "https://a.org/1.png", ""),
    ],
)
def test_all_but_the_used_link_stays_as_it_was(text: str, left: str) -> None:
    assert without_links(text, ["https://a.org/1.png"]) == left


def test_a_text_without_used_links_stays_as_it_was() -> None:
    assert without_links("two\n\nparagraphs", []) == "two\n\nparagraphs"


def test_a_used_link_leaves_the_white_space_of_code_alone() -> None:
    code = "```\nif x:\n    y  = 1\n```"
    assert without_links(f"see <https://a.org/1.png>  here\n{code}", ["https://a.org/1.png"]) == f"see here\n{code}"


async def test_no_more_than_the_wanted_pictures_are_fetched() -> None:
    reader = ImageReader(1_000_000)
    unfetchable = attachment("must not be asked for", "second.png")
    found = await reader.read(reader.candidates("", [attachment(png(), "first.png"), unfetchable], has_image=False), 1)
    assert [drawn for _, drawn in found.used] == [image("red")]
    assert (found.failures, found.unread) == ((), ("second.png",))


async def test_a_heap_of_files_is_looked_at_in_part_only_and_that_is_told() -> None:
    reader = ImageReader(1_000_000)
    heap = [attachment(b"", f"{number}.png") for number in range(50)]
    found = await reader.read(reader.candidates("", heap, has_image=False), 1)
    assert len(found.failures) == MAX_CANDIDATES + 1
    assert "first 10 of the 50" in found.failures[0]


def test_names_are_joined_as_people_do() -> None:
    assert join_names(["a"]) == "a"
    assert join_names(["a", "b", "c"]) == "a, b and c"


async def test_slow_hosts_hold_up_nobody_elses_pictures() -> None:
    gate = asyncio.Event()

    async def fetch_slowly(max_bytes: int) -> bytes:
        await gate.wait()
        return png("red")

    reader = ImageReader(20_000_000)
    slow = [asyncio.create_task(reader.read([Attachment("slow.png", fetch_slowly)], 1)) for _ in range(5)]
    async with asyncio.timeout(10):
        quick = await reader.read([attachment(png("blue"))], 1)
        assert len(quick.used) == 1
        gate.set()
        assert [len(read.used) for read in await asyncio.gather(*slow)] == [1] * 5
