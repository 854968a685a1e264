"""FIELD: the page's text. What people write around a link, and where the link ends.

The links are found in one place (adapters/text/links.py) for the page, the terminal, Slack and Discord.
"""

from __future__ import annotations

import pytest

from adapters.discord.threads import thread_name
from adapters.slack.markup import to_plain
from adapters.text.links import find_links
from bot.images import ImageReader, without_links

PICTURE = "https://site.example/pic.png"

ENDS = [
    ("看 https://site.example/pic.png，这是什么", "the full-width comma is no part of it"),
    ("https://site.example/pic.png。", "nor the ideographic full stop"),
    ("https://site.example/pic.png、それと", "nor the Japanese comma"),
    ("https://site.example/pic.png？", "nor the full-width question mark"),
    ("https://site.example/pic.png：看", "nor the full-width colon"),
    ("（https://site.example/pic.png）", "nor full-width brackets"),
    ("【https://site.example/pic.png】看", "nor lenticular brackets"),
    ("「https://site.example/pic.png」と", "nor corner brackets"),
    ("《https://site.example/pic.png》", "nor a title's brackets"),
    ("https://site.example/pic.png\u3000これ", "nor the ideographic space"),
    ("看https://site.example/pic.png这是什么", "nor Chinese without a space"),
    ("https://site.example/pic.pngは何ですか", "nor Japanese"),
    ("https://site.example/pic.png를 봐", "nor a Korean particle"),
    ("https://site.example/pic.pngคืออะไร", "nor Thai, which has no spaces"),
    ("https://site.example/pic.png,这是什么", "nor Chinese after a narrow comma"),
    ("https://site.example/pic.png(这是什么)", "nor after a narrow bracket"),
    ("https://site.example/pic.png؟", "the Arabic question mark"),
    ("https://site.example/pic.png، ما هذا", "the Arabic comma"),
    ("https://site.example/pic.png। क्या है", "the danda"),
    ("„https://site.example/pic.png“", "German quotation marks"),
    ("«https://site.example/pic.png»", "French ones"),
    ("“https://site.example/pic.png”, she said", "English ones"),
    ("https://site.example/pic.png…", "an ellipsis"),
    ("https://site.example/pic.png😀", "an emoji"),
    ("https://site.example/pic.png\u200b and", "a zero-width space"),
    ("\u2067https://site.example/pic.png\u2069", "what isolates a direction"),
    ("https://site.example/pic.png.", "a full stop"),
    ("(see https://site.example/pic.png)", "a bracket that was opened before"),
    ("(see https://site.example/pic.png).", "and the full stop after it"),
    ("(https://site.example/pic.png)and", "and a word after it"),
    ("**https://site.example/pic.png**", "bold"),
    ("*https://site.example/pic.png*。", "italic"),
    ("~~https://site.example/pic.png~~", "struck out"),
    ("`https://site.example/pic.png`", "code"),
    ("<https://site.example/pic.png>，", "angle brackets"),
    ("[look](https://site.example/pic.png)", "a Markdown link"),
    ("[look](https://site.example/pic.png 'title')", "with a title"),
]


@pytest.mark.parametrize(("text", "why"), ENDS, ids=[why for _, why in ENDS])
def test_a_link_ends_before_what_is_no_part_of_it(text: str, why: str) -> None:
    assert find_links(text) == [PICTURE], why


WHOLE = [
    ("https://de.example/wiki/Käse_(Schnitt).jpg", "letters with marks, and brackets of its own"),
    ("https://zh.example/wiki/File:大熊猫.jpg", "Chinese in its path"),
    ("https://zh.example/水_(化学)", "and in brackets there"),
    ("https://zh.example/搜索?q=猫&n=1", "and in its query"),
    ("https://例え.jp/猫.png", "a host in its own letters"),
    ("https://www.例え.テスト:8443/", "with a port"),
    ("https://пример.рф/фото.png", "Cyrillic"),
    ("https://site.example/a,b;c=d/e!f/g~h/i@2x.png", "ASCII punctuation inside"),
    ("https://web.example/web/2020/https://site.example/pic.png", "a link inside a link"),
    ("https://site.example/e\u0301te\u0301.png", "combining marks"),
]


@pytest.mark.parametrize(("link", "why"), WHOLE, ids=[why for _, why in WHOLE])
def test_what_belongs_to_a_link_stays_in_it(link: str, why: str) -> None:
    for text in (link, f"看 {link}。", f"({link})", f"<{link}>", f"**{link}**"):
        assert find_links(text) == [link], why


SEVERAL = [
    "https://a.example/1.png，https://b.example/2.png",
    "https://a.example/1.png、https://b.example/2.png。",
    "https://a.example/1.png,https://b.example/2.png",
    "https://a.example/1.png和https://b.example/2.png",
    "[https://a.example/1.png](https://b.example/2.png)",
    "<https://a.example/1.png><https://b.example/2.png>",
]


@pytest.mark.parametrize("text", SEVERAL)
def test_the_next_link_is_not_swallowed(text: str) -> None:
    assert find_links(text) == ["https://a.example/1.png", "https://b.example/2.png"]


def test_a_link_in_angle_brackets_is_taken_as_it_is() -> None:
    """So writes whoever knows better, and so the terminal hands on the link of its command line."""
    assert find_links("<https://site.example/图片，一张.png>") == ["https://site.example/图片，一张.png"]
    assert find_links("<https://site.example/a.>") == ["https://site.example/a."]


@pytest.mark.parametrize(
    "text", ["javascript:alert(1)", "data:image/png;base64,AAAA", "file:///etc/passwd", "https://", "site.example/a.png"]
)
def test_nothing_else_is_a_link(text: str) -> None:
    assert find_links(text) == []


def test_the_picture_is_looked_for_where_the_link_leads() -> None:
    [candidate] = ImageReader(1_000_000).candidates(f"看 {PICTURE}，这是什么", [], has_image=True)
    assert (candidate.link, candidate.name) == (PICTURE, "site.example/pic.png")


def test_the_question_beside_the_link_reaches_the_model() -> None:
    assert without_links(f"{PICTURE}，这是什么", find_links(f"{PICTURE}，这是什么")) == "，这是什么"


def test_slack_may_take_the_text_into_the_link_too() -> None:
    assert find_links(to_plain(f"<@U1> <{PICTURE}，这是什么>", "U1")) == [PICTURE]


def test_a_thread_on_discord_is_called_by_the_question_beside_the_link() -> None:
    assert thread_name(f"{PICTURE}，这是什么") == "，这是什么"
    assert thread_name(f"<{PICTURE}>这是什么") == "这是什么"
