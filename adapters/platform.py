"""A platform's description, from which the program reads everything that it has to know about it.

A description is in the platform's folder (`adapters/discord/platform.py`) and named by one line in `bot/platforms.py`. It can be
imported without the platform's package, which its functions import when they are called.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from adapters.base import Adapter, Finding
from adapters.conversations.absence import CatchUp
from adapters.proxies import ProxyFor, no_proxy
from adapters.settings import PlatformSettings

if TYPE_CHECKING:
    from aiohttp import web

S = TypeVar("S", bound=PlatformSettings)


@dataclass(frozen=True, slots=True)
class Host:
    """What the program provides to every adapter.

    `database_url` is an SQLAlchemy URL with an asyncio driver, for an adapter's own tables. An adapter that receives HTTP requests
    adds to `page_routes`; they are served on the web page's address, and the adapter that adds them must authenticate the requests.
    `proxy_for` says by which proxy an address outside is reached.
    """

    catch_up: CatchUp
    max_image_bytes: int
    database_url: str = field(repr=False)
    page_routes: list[web.RouteDef] = field(default_factory=list, repr=False)
    proxy_for: ProxyFor = field(default=no_proxy, repr=False)


@dataclass(frozen=True, slots=True)
class PlatformDescription(Generic[S]):
    """`name` identifies it in commands, variables and the database; `title` is its name for people.

    `make` raises AdapterError if it cannot be served. `check` yields for `threadsight doctor` what a start would find.
    `setup_steps` is for a person who begins from nothing, and needs no extra package; it gets the flags of `setup_flags` that were
    given (`--agent` is "agent"; the values are their `--help` texts). `extra` is the pip extra with the package.
    """

    name: str
    title: str
    settings: type[S]
    make: Callable[[S, Host], Adapter]
    check: Callable[[S, Host], AsyncIterator[Finding]]
    setup_steps: Callable[[S, Host, frozenset[str]], Awaitable[str]] | None = None
    setup_flags: Mapping[str, str] = field(default_factory=dict)
    extra: str | None = None
