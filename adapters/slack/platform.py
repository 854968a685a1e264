"""Slack's platform description. Slack's packages are imported only inside these functions."""

from __future__ import annotations

from collections.abc import AsyncIterator

from adapters.access import Access, parse_entries
from adapters.base import Adapter, Finding
from adapters.platform import Host, PlatformDescription
from adapters.settings import secret
from adapters.slack.settings import SlackSettings

_AGENT = "agent"


def _make(settings: SlackSettings, host: Host) -> Adapter:
    from adapters.slack.app import SlackAdapter

    adapter = SlackAdapter(
        secret(settings.bot_token),
        secret(settings.app_token),
        api_url=settings.api_url,
        mode=settings.mode,
        signing_secret=secret(settings.signing_secret),
        client_id=settings.client_id,
        client_secret=secret(settings.client_secret),
        database_url=host.database_url,
        access=Access(parse_entries(settings.allow), parse_entries(settings.deny)),
        catch_up=host.catch_up,
        proxy_for=host.proxy_for,
    )
    host.page_routes.extend(adapter.routes())
    return adapter


async def _check(settings: SlackSettings, host: Host) -> AsyncIterator[Finding]:
    from adapters.slack.checks import check

    bot_token = secret(settings.bot_token) if settings.client_id is None else None
    app_token = secret(settings.app_token) if settings.mode == "socket" else None
    async for finding in check(bot_token, app_token, api_url=settings.api_url, proxy_for=host.proxy_for):
        yield finding


async def _setup_steps(settings: SlackSettings, host: Host, flags: frozenset[str]) -> str:
    from adapters.slack.setup import setup_steps

    return setup_steps(mode=settings.mode, is_agent=_AGENT in flags)


PLATFORM = PlatformDescription(
    name="slack",
    title="Slack",
    settings=SlackSettings,
    make=_make,
    check=_check,
    setup_steps=_setup_steps,
    setup_flags={_AGENT: "declare the app an agent, with a Stop button of Slack's own"},
    extra="slack",
)
