"""Cutting answers into messages: for any text, any limit and any chunking."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from adapters.text.markdown import MIN_PAGE_CHARS, heal, literal, split_pages
from adapters.text.tables import AlignedTable

_PARSER = MarkdownIt("commonmark")
FENCE = r"[`~]{3,}[ \t]*(?:py\b|c\+\+ title=x|text\b)?"

words = st.text(st.sampled_from("ab .,!?*_éñ日🙂👩‍💻\u200d\ufe0f e\u0301"), min_size=1, max_size=40)
prose = st.lists(words, min_size=1, max_size=6).map(" ".join)
code_lines = st.lists(
    st.text(st.sampled_from("ab =()~`_ \t"), max_size=30).filter(lambda line: not re.search(r"`{3}|^\s*~{3}", line)), max_size=8
)


@st.composite
def code_block(draw: st.DrawFn) -> str:
    marker = draw(st.sampled_from("`~")) * draw(st.integers(3, 6))
    info = draw(st.sampled_from(["", "py", "c++ title=x", " text"]))
    lines = draw(code_lines)
    inner = draw(st.sampled_from(["", "``", "~~ ~", "# not a heading"]))
    end = draw(st.sampled_from([f"\n{marker}\n", f"\n{marker}{marker[0]}  \n", ""]))
    return f"{marker}{info}\n" + "\n".join([*lines, inner]) + end


line_ends = st.sampled_from(["\n", "\n\n", "\r\n", "\r\n\r\n", "\n\n\n\n"])
cells = st.text(st.sampled_from("ab |\\`*日é👩‍💻🙂:"), max_size=12)


@st.composite
def table(draw: st.DrawFn) -> str:
    num_columns = draw(st.integers(1, 4))
    rows = draw(st.lists(st.lists(cells, min_size=1, max_size=5), max_size=12))
    columns = [draw(st.sampled_from(["---", ":--", "-:", ":-:"])) for _ in range(num_columns)]
    lead = draw(st.sampled_from(["", "", "> ", "  "]))
    lines = [" | ".join(f"c{number}" for number in range(num_columns)), "|".join(columns), *(" | ".join(row) for row in rows)]
    return "\n".join(f"{lead}| {line} |" for line in lines) + draw(st.sampled_from(["", "\n"]))


@st.composite
def nested_block(draw: st.DrawFn) -> str:
    """A code block in a list, a quote, or behind other words in its line."""
    lead = draw(st.sampled_from(["- ", "1. ", "  - ", "    ", "> ", "> - ", "Use this: ", "> Use: "]))
    rest = ("> " if ">" in lead else "") + " " * (len(lead.strip(">")) if lead.strip()[0:1] in "-1" else 0)
    lines = draw(st.lists(st.text(st.sampled_from("ab =() "), max_size=30), max_size=8))
    end = draw(st.sampled_from(["```", "``` and so on", "x = 1```"]))
    return "\n".join([f"{lead}```py", *(rest + line for line in lines), rest + end])


texts = st.lists(
    st.tuples(prose | code_block() | table() | nested_block() | st.text(max_size=60), line_ends).map("".join), max_size=12
).map("".join)
limits = st.integers(MIN_PAGE_CHARS, 200)


def unified(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def code_of(text: str) -> str:
    """The contents of all fenced blocks at the outermost level; line ends are left out, for a cut may have to add one."""
    fences = [token for token in _PARSER.parse(text) if token.type == "fence" and token.level == 0]
    return "".join(token.content for token in fences).replace("\n", "")


def is_open(page: str) -> bool:
    return heal(page) != page


@given(texts, limits, st.booleans(), st.booleans())
def test_no_page_is_over_the_limit_or_blank_and_every_one_is_balanced(
    text: str, limit: int, has_tables: bool, is_whole: bool
) -> None:
    pages = split_pages(text, limit, has_tables=has_tables, is_whole=is_whole)
    for page in pages:
        assert page.strip()
        assert len(heal(page)) <= limit
    assert not any(is_open(page) for page in pages[:-1])


@given(texts, limits)
def test_nothing_is_lost_and_nothing_doubled(text: str, limit: int) -> None:
    """Each character comes once and in order, but for white space and the marks of quotes, fences and tables."""
    assume(not re.search(rf"{FENCE}[^\n`~]*\S", re.sub(f"{FENCE} and so on", "", unified(text))))  # is that a language or code?

    def essence(piece: str) -> str:
        return re.sub(r"c[0-3](?!\w)|[\s>`~|:-]+", "", re.sub(FENCE, "", piece))

    shown = "".join(map(essence, split_pages(text, limit)))
    assert shown == essence(unified(text)) or has_long_marker_line(text, limit)


def has_long_marker_line(text: str, limit: int) -> bool:
    """A line with a marker that is longer than a page cannot be told from text that looks like one after the cut."""
    return any(re.match(r" {0,3}(`{3,}|~{3,})", line) and len(line) > limit // 4 for line in unified(text).split("\n"))


@given(st.lists(prose.map(lambda p: p.replace("`", "")) | code_block(), min_size=1, max_size=8).map("\n\n".join), limits)
def test_code_is_code_on_every_page(text: str, limit: int) -> None:
    """Judged by a parser that is not ours."""
    assert "".join(code_of(heal(page)) for page in split_pages(text, limit)) == code_of(heal(unified(text)))


@given(texts, limits, st.booleans(), st.booleans(), st.data())
def test_a_full_page_never_changes_again(text: str, limit: int, has_tables: bool, is_whole: bool, data: st.DataObject) -> None:
    pages = split_pages(text, limit, has_tables=has_tables, is_whole=is_whole)
    length = data.draw(st.integers(0, len(text)))
    earlier = split_pages(text[:length], limit, has_tables=has_tables)
    assert earlier[:-1] == pages[: max(0, len(earlier) - 1)]


def test_cuts_are_where_a_reader_would_make_them() -> None:
    paragraph = "The cat sits on the mat. " * 4
    assert split_pages(f"{paragraph}\n\n{paragraph}\n\n{paragraph}", 250) == [f"{paragraph}\n\n{paragraph}\n\n", paragraph]
    first, second = split_pages("One sentence is here. " * 20, 300)
    assert first.endswith("here. ")
    assert second.startswith("One")
    assert "".join(split_pages("x" * 1_000, 100)) == "x" * 1_000


def test_a_long_line_after_a_short_one_is_cut_behind_a_sentence() -> None:
    first, _ = split_pages("x" * 130 + "\n" + "One sentence is here. " * 20, 310)
    assert first.endswith("here. ")
    assert len(first) == 131 + 7 * 22


@pytest.mark.parametrize("num_lines", range(20, 45))
@pytest.mark.parametrize("after", ["", "\n", "\nThat is all."])
def test_no_page_opens_a_code_block_only_to_close_it(num_lines: int, after: str) -> None:
    pages = split_pages("```py\n" + "x = 1\n" * num_lines + "```" + after, 200)
    assert not [page for page in pages if page.startswith("```py\n```")]
    assert "".join(pages).count("x = 1\n") == num_lines


@pytest.mark.parametrize("leading", ["## The next part\n\n", "### Next\n", "1.\n", "- \n", "## Code\n```py\nx = 1\n"])
def test_what_leads_to_something_stands_on_the_same_page(leading: str) -> None:
    before = "word " * 30 + "\n\n"
    first, second = split_pages(f"{before}{leading}" + "word " * 40, 260)
    assert first == before
    assert second.startswith(leading)


def test_a_marker_is_not_parted_from_the_text_of_its_item() -> None:
    first, second = split_pages("a" * 45 + "\n\n1. " + "b" * 45 + " " + "c" * 30, 118)
    assert first.endswith("1. " + "b" * 45 + " ")
    assert second == "c" * 30


def test_a_block_goes_to_the_next_page_as_a_whole_when_the_page_is_full_enough() -> None:
    before, code = "word " * 30, "```py\n" + "x = 1\n" * 20 + "```\n"
    assert split_pages(f"{before}\n{code}", 200) == [f"{before}\n", code]


def test_a_long_block_is_closed_and_opened_again() -> None:
    first, second = split_pages("```py\n" + "x = 1\n" * 40 + "```\nThat is all.", 200)
    assert first.startswith("```py\nx = 1\n")
    assert first.endswith("x = 1\n```")
    assert second.startswith("```py\nx = 1\n")
    assert second.endswith("```\nThat is all.")


def test_an_open_block_is_healed() -> None:
    assert heal("Look:\n```py\nx = 1") == "Look:\n```py\nx = 1\n```"
    assert heal("~~~~\n```\n") == "~~~~\n```\n~~~~"
    assert heal("`a` and ```b```") == "`a` and ```b```"
    assert heal("```\n``` X\n") == "```\n``` X\n```"  # only spaces may stand behind a closing marker
    assert heal("```\n``` \t\n") == "```\n``` \t\n"


def test_line_ends_are_unified() -> None:
    assert split_pages("a\rb\r\nc\n", MIN_PAGE_CHARS) == ["a\nb\nc\n"]


def test_too_small_a_limit_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="too short"):
        split_pages("x", 10)


def test_a_long_table_is_not_laid_out_anew_for_each_of_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """All platforms share one event loop, so the work grows with the text and not with its square."""
    texts: list[str] = []
    text = AlignedTable.text

    def counted(table: AlignedTable, beginning: str = "") -> str:
        texts.append(text(table, beginning))
        return texts[-1]

    monkeypatch.setattr(AlignedTable, "text", counted)
    pages = split_pages("| a | b |\n|---|---|\n" + "| xx | yyy |\n" * 1_000, 2_000, has_tables=False)
    assert len(texts) <= 2 * len(pages)


@pytest.mark.parametrize(
    ("sentence", "right"),
    [
        ("I could not use IMG_2024_01.jpg: it is gone.", "I could not use IMG_2024_01.jpg: it is gone."),
        ("a__b__c.png **x** ~~y~~ ||z||", "a\\__b\\__c.png \\*\\*x\\*\\* \\~~y\\~~ \\||z\\||"),
        ("```.png and ```.png", "\\`\\`\\`.png and \\`\\`\\`.png"),
        ("[free](http://evil.example)", "[free] (http://evil.example)"),
        ("<@1> <!channel> 3 < 4", "\\<@1> \\<!channel> 3 < 4"),
        ("\\*x*", "\\\\\\*x\\*"),
        ("two\nlines", "two lines"),
    ],
)
def test_a_sentence_that_quotes_a_name_has_no_markup(sentence: str, right: str) -> None:
    assert literal(sentence) == right
