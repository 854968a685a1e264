"""Discord. What lies in `setup.py` works without discord.py; everything else needs the extra `discord`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adapters.discord.app import DiscordAdapter

__all__ = ["DiscordAdapter"]


def __getattr__(name: str) -> object:
    if name == "DiscordAdapter":
        from adapters.discord.app import DiscordAdapter

        return DiscordAdapter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
