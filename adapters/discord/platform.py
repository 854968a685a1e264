"""Discord's platform description. discord.py is imported only inside these functions."""

from __future__ import annotations

from collections.abc import AsyncIterator

from adapters.access import Access, parse_entries
from adapters.base import Adapter, Finding
from adapters.discord.settings import DiscordSettings
from adapters.platform import Host, PlatformDescription
from adapters.settings import secret


def _make(settings: DiscordSettings, host: Host) -> Adapter:
    from adapters.discord.app import DiscordAdapter

    return DiscordAdapter(
        secret(settings.token) or "",
        api_url=settings.api_url,
        gateway_url=settings.gateway_url,
        access=Access(parse_entries(settings.allow), parse_entries(settings.deny)),
        catch_up=host.catch_up,
        proxy_for=host.proxy_for,
    )


async def _check(settings: DiscordSettings, host: Host) -> AsyncIterator[Finding]:
    from adapters.discord.checks import check

    token, proxy_for = secret(settings.token) or "", host.proxy_for
    async for finding in check(token, api_url=settings.api_url, gateway_url=settings.gateway_url, proxy_for=proxy_for):
        yield finding


async def _setup_steps(settings: DiscordSettings, host: Host, flags: frozenset[str]) -> str:
    from adapters.discord.setup import ApplicationUnknown, application_id, setup_steps

    token = secret(settings.token)
    if token is None:
        return setup_steps(None)
    try:
        return setup_steps(await application_id(token, settings.api_url, host.proxy_for))
    except ApplicationUnknown as unknown:
        return setup_steps(None, str(unknown))


PLATFORM = PlatformDescription(
    name="discord",
    title="Discord",
    settings=DiscordSettings,
    make=_make,
    check=_check,
    setup_steps=_setup_steps,
    extra="discord",
)
