"""Links in a text: properties. What ends a link, case by case, is in tests/field/test_page_links.py."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.text.links import MAX_LINK_CHARS, drop_links, find_links, has_link


@pytest.mark.parametrize(
    ("text", "links"),
    [
        ("Look: https://example.org/a.png.", ["https://example.org/a.png"]),
        ("(https://example.org/a.png)", ["https://example.org/a.png"]),
        ("https://example.org/a_(b).png!", ["https://example.org/a_(b).png"]),
        ("[cat](http://example.org/cat.jpg)", ["http://example.org/cat.jpg"]),
        ("<https://example.org/a.png|cat>", ["https://example.org/a.png"]),
        ("HTTPS://EXAMPLE.org/A.PNG?x=1#y", ["HTTPS://EXAMPLE.org/A.PNG?x=1#y"]),
        ("http://[2001:db8::1]:8080/a.png", ["http://[2001:db8::1]:8080/a.png"]),
        ("ftp://example.org/a.png file:///etc/passwd https:// http://[ javascript:alert(1) no link", []),
    ],
)
def test_links_are_found_without_the_sentence_around_them(text: str, links: list[str]) -> None:
    assert find_links(text) == links
    assert has_link(text) == bool(links)


@given(st.text(), st.text())
def test_links_never_crash_and_are_part_of_the_text(before: str, after: str) -> None:
    text = f"{before} http://x{after}"
    assert all(link in text for link in find_links(text))
    assert len(drop_links(text)) <= len(text) + 1


@given(st.lists(st.sampled_from(["https://a.org/1.png", "https://b.org/", "what", "这是什么", "，", ",", " "]), max_size=12))
def test_every_link_starts_where_one_begins(pieces: list[str]) -> None:
    text = "".join(pieces)
    assert all(link.lower().startswith("http") for link in find_links(text))
    assert has_link(text) == any(piece.startswith("http") for piece in pieces)


def test_an_endless_link_is_cut() -> None:
    assert len(find_links("https://a.org/" + "x" * 10_000)[0]) <= MAX_LINK_CHARS + len("https://")


def test_links_and_their_angle_brackets_leave_the_text() -> None:
    assert drop_links("see <https://a.org/1.png> and https://b.org.").split() == ["see", "and", "."]
