"""How a platform describes itself. The program reads everything that it has to know of one from its description.

A description lies in the platform's folder (`adapters/discord/platform.py`) and is named by one line, in `bot/platforms.py`. It can
be imported without the platform's package, which its functions import when they are called.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from adapters.absence import CatchUp
from adapters.base import Adapter, Finding
from adapters.settings import PlatformSettings

if TYPE_CHECKING:
    from aiohttp import web

S = TypeVar("S", bound=PlatformSettings)


@dataclass(frozen=True, slots=True)
class Host:
    """What the program gives to every adapter.

    `database_url` is SQLAlchemy's, with an asyncio driver, for what an adapter keeps in tables of its own. An adapter that is asked
    over HTTP adds to `page_routes`; they are served on the page's address, and whoever adds them checks the requests.
    """

    catch_up: CatchUp
    max_image_bytes: int
    database_url: str = field(repr=False)
    page_routes: list[web.RouteDef] = field(default_factory=list, repr=False)


@dataclass(frozen=True, slots=True)
class PlatformDescription(Generic[S]):
    """`name` is its word in commands, variables and the database, `title` what people call it.

    `make` raises AdapterError when it cannot be served. `check` says for `threadsight doctor` what a start would meet.
    `setup_steps` is for somebody who has done nothing yet, and needs no extra package; it gets the flags of `setup_flags` that
    were given (`--agent` is "agent"; the values say in `--help` what they are for). `extra` is the extra with the package.
    """

    name: str
    title: str
    settings: type[S]
    make: Callable[[S, Host], Adapter]
    check: Callable[[S], AsyncIterator[Finding]]
    setup_steps: Callable[[S, frozenset[str]], Awaitable[str]] | None = None
    setup_flags: Mapping[str, str] = field(default_factory=dict)
    extra: str | None = None
