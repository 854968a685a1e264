"""Allow and deny lists."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.access import Access, parse_entries
from adapters.base import Author

ANN = Author("7", "ann", frozenset({"70", "71"}))


def may(
    allow: str = "", deny: str = "", *, workspace: str = "1", channels: tuple[str, ...] = ("2", "3"), is_direct: bool = False
) -> bool:
    return Access(parse_entries(allow), parse_entries(deny)).is_allowed(ANN, workspace, channels, is_direct=is_direct)


@pytest.mark.parametrize(
    ("allow", "deny", "is_allowed"),
    [
        ("", "", True),
        ("guild:1", "", True),
        ("team:1, channel:9", "", True),
        ("guild:8", "", False),
        ("channel:3", "", True),
        ("role:71", "", True),
        ("role:72 user:7", "", True),
        ("role:72", "", False),
        ("guild:1 role:72", "", False),
        ("guild:8 role:70", "", False),
        ("guild:1 role:70", "", True),
        ("", "user:7", False),
        ("", "role:70", False),
        ("", "channel:2", False),
        ("user:7", "guild:1", False),
        ("dm", "", False),
        ("", "dm", True),
    ],
)
def test_who_may(allow: str, deny: str, is_allowed: bool) -> None:
    assert may(allow, deny) is is_allowed


def test_direct_messages_are_a_place() -> None:
    assert may("dm", is_direct=True)
    assert not may(deny="dm", is_direct=True)
    assert not may("guild:5", workspace="dm", is_direct=True)
    assert may("user:7", workspace="dm", is_direct=True)


@pytest.mark.parametrize("text", ["1234", "guild", "guild:", "server:1", "user 7"])
def test_a_slip_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"write guild:ID"):
        parse_entries(text)


entries = st.frozensets(
    st.tuples(st.sampled_from(["workspace", "channel", "role", "user"]), st.sampled_from(["1", "2", "7", "70", "99"]))
    | st.just(("dm", ""))
)


@given(entries, entries, st.booleans())
def test_deny_wins_and_an_added_denial_never_opens(
    allow: frozenset[tuple[str, str]], deny: frozenset[tuple[str, str]], is_direct: bool
) -> None:
    whole = Access(allow, deny).is_allowed(ANN, "1", ("2",), is_direct=is_direct)
    assert not whole or Access(allow).is_allowed(ANN, "1", ("2",), is_direct=is_direct)
    assert not Access(allow, deny | {("user", "7")}).is_allowed(ANN, "1", ("2",), is_direct=is_direct)
