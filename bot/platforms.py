"""The adapters that the settings ask for. Platform SDKs are extras: they are imported only where a token wants them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import TYPE_CHECKING

from pydantic import SecretStr

from adapters.absence import CatchUp
from adapters.access import Access, parse_entries
from adapters.base import Adapter, AdapterError, Finding
from adapters.web import WebAdapter
from bot.config import Settings

if TYPE_CHECKING:
    from adapters.discord import DiscordAdapter
    from adapters.slack import SlackAdapter


def platform_adapters(settings: Settings) -> list[Adapter]:
    """The web page, and each platform that has a token. Raises AdapterError when a platform's package is missing."""
    slack = _slack_adapter(settings) if settings.has_slack else None
    adapters: list[Adapter] = [_web_adapter(settings, slack)]
    if settings.discord_token is not None:
        adapters.append(_discord_adapter(settings, settings.discord_token))
    if slack is not None:
        adapters.append(slack)
    return adapters


async def check_platforms(settings: Settings) -> AsyncIterator[Finding]:
    """What the platforms say to the tokens that are set."""
    if settings.discord_token is not None:
        try:
            from adapters.discord import checks as discord_checks
        except ModuleNotFoundError:
            yield Finding("Discord", False, _missing_package("discord"))
        else:
            token = settings.discord_token.get_secret_value()
            async for finding in discord_checks.check(
                token, api_url=settings.discord_api_url, gateway_url=settings.discord_gateway_url
            ):
                yield finding
    if settings.has_slack:
        try:
            from adapters.slack import checks as slack_checks
        except ModuleNotFoundError:
            yield Finding("Slack", False, _missing_package("slack"))
        else:
            has_several = settings.slack_client_id is not None
            bot_token = None if has_several else _secret(settings.slack_bot_token)
            app_token = _secret(settings.slack_app_token) if settings.slack_mode == "socket" else None
            async for finding in slack_checks.check(bot_token, app_token, api_url=settings.slack_api_url):
                yield finding


async def setup_steps(settings: Settings, platform: str, *, is_agent: bool) -> str:
    """How to bring the bot to a platform, for somebody who has done nothing yet. Needs no extra package."""
    if platform == "slack":
        from adapters.slack import setup as slack_setup

        return slack_setup.setup_steps(mode=settings.slack_mode, is_agent=is_agent)
    from adapters.discord import setup as discord_setup

    application_id = remark = None
    if settings.discord_token is not None:
        token = settings.discord_token.get_secret_value()
        try:
            application_id = await discord_setup.application_id(token, settings.discord_api_url)
        except discord_setup.ApplicationUnknown as unknown:
            remark = str(unknown)
    return discord_setup.setup_steps(application_id, remark)


def _web_adapter(settings: Settings, slack: SlackAdapter | None) -> WebAdapter:
    return WebAdapter(
        settings.web_host,
        settings.web_port,
        _secret(settings.web_token),
        max_image_bytes=settings.max_image_bytes,
        more_routes=() if slack is None else slack.routes(),
    )


def _discord_adapter(settings: Settings, token: SecretStr) -> DiscordAdapter:
    try:
        from adapters.discord import DiscordAdapter
    except ModuleNotFoundError as error:
        raise AdapterError(_missing_package("discord")) from error
    return DiscordAdapter(
        token.get_secret_value(),
        api_url=settings.discord_api_url,
        gateway_url=settings.discord_gateway_url,
        access=Access(parse_entries(settings.discord_allow), parse_entries(settings.discord_deny)),
        catch_up=_catch_up(settings),
    )


def _slack_adapter(settings: Settings) -> SlackAdapter:
    try:
        from adapters.slack import SlackAdapter
    except ModuleNotFoundError as error:
        raise AdapterError(_missing_package("slack")) from error
    return SlackAdapter(
        _secret(settings.slack_bot_token),
        _secret(settings.slack_app_token),
        api_url=settings.slack_api_url,
        mode=settings.slack_mode,
        signing_secret=_secret(settings.slack_signing_secret),
        client_id=settings.slack_client_id,
        client_secret=_secret(settings.slack_client_secret),
        database_url=settings.store_url,
        access=Access(parse_entries(settings.slack_allow), parse_entries(settings.slack_deny)),
        catch_up=_catch_up(settings),
        max_image_bytes=settings.max_image_bytes,
    )


def _catch_up(settings: Settings) -> CatchUp:
    return CatchUp(timedelta(hours=settings.catch_up_hours), settings.catch_up_messages)


def _secret(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


def _missing_package(name: str) -> str:
    return (
        f"A {name.capitalize()} token is set, but the package for it is not installed. "
        f"`make install` adds it now that the token is there; elsewhere it is pip install 'threadsight[{name}]'."
    )
