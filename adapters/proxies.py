"""By which proxy an adapter reaches an address. The program decides that for all of them (HTTPS_PROXY, NO_PROXY)."""

from __future__ import annotations

from collections.abc import Callable

ProxyFor = Callable[[str], str | None]
"""From the URL that is wanted to the URL of the proxy, with its password; None is a direct connection."""


def no_proxy(_url: str) -> None:
    """A `ProxyFor` for a machine that reaches everything directly."""
    return
