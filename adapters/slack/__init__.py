"""Slack. What lies in `setup.py` works without Slack's packages; everything else needs the extra `slack`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adapters.slack.app import SlackAdapter

__all__ = ["SlackAdapter"]


def __getattr__(name: str) -> object:
    if name == "SlackAdapter":
        from adapters.slack.app import SlackAdapter

        return SlackAdapter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
