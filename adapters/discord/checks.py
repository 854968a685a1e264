"""Checks the token with Discord: before every start, and for `threadsight doctor`.

The calls: https://discord.com/developers/docs/resources/application#get-current-application (flags),
https://discord.com/developers/docs/events/gateway#get-gateway-bot and /users/@me/guilds, which has our permissions in each guild.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import discord
from yarl import URL

from adapters.base import Finding, TokenError
from adapters.discord.setup import API_URL, PORTAL, WRONG_TOKEN, invite_link, is_token, missing_permissions
from adapters.proxies import ProxyFor, no_proxy
from adapters.surface import TryLater

_CONTENT_FLAGS = (
    discord.ApplicationFlags.gateway_message_content.flag | discord.ApplicationFlags.gateway_message_content_limited.flag
)
_TIMEOUT = aiohttp.ClientTimeout(total=20)
NO_CONTENT = (
    "The Message Content Intent is off, so I only see messages that mention me or reply to me. "
    f"Switch it on at {PORTAL}, under “Bot”, “Privileged Gateway Intents”, and start me again."
)


@dataclass(frozen=True, slots=True)
class SignIn:
    """What the token belongs to. `num_shards`: how many connections Discord recommends."""

    application_id: str
    bot_name: str
    has_content: bool
    num_shards: int


@contextlib.asynccontextmanager
async def _asking(token: str, proxy: str | None) -> AsyncIterator[aiohttp.ClientSession]:
    if not is_token(token):
        raise TokenError(WRONG_TOKEN)
    try:
        headers = {"Authorization": f"Bot {token.strip()}"}
        async with aiohttp.ClientSession(timeout=_TIMEOUT, headers=headers, proxy=proxy) as session:
            yield session
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError, TypeError) as error:
        raise TryLater from error  # perhaps something other than Discord answers


async def sign_in(token: str, api_url: str | None, proxy_for: ProxyFor = no_proxy) -> SignIn:
    """Ask Discord what the token belongs to. Raises TokenError, or TryLater if Discord cannot be reached."""
    async with _asking(token, proxy_for(api_url or API_URL)) as session:
        user = await _get(session, api_url, "/users/@me")
        application = await _get(session, api_url, "/oauth2/applications/@me")
        gateway = await _get(session, api_url, "/gateway/bot")
        return SignIn(
            application_id=str(application["id"]),
            bot_name=str(user.get("username") or "Threadsight"),
            has_content=bool(int(application.get("flags") or 0) & _CONTENT_FLAGS),
            num_shards=int(gateway.get("shards") or 1),
        )


async def check(
    token: str, *, api_url: str | None = None, gateway_url: str | None = None, proxy_for: ProxyFor = no_proxy
) -> AsyncIterator[Finding]:
    """Yields a finding for each thing that a start needs. The URLs replace Discord's own."""
    try:
        found = await sign_in(token, api_url, proxy_for)
        async with _asking(token, proxy_for(api_url or API_URL)) as session:
            guilds = await _get(session, api_url, "/users/@me/guilds")
            is_open = gateway_url is None or await _can_connect(session, gateway_url)
    except TokenError as error:
        yield Finding("Discord", False, str(error))
        return
    except TryLater:
        yield Finding("Discord", False, "Discord could not be reached. Is this machine online?")
        return
    yield Finding("Discord", True, f"The bot's token works: {found.bot_name}.")
    if not is_open:
        yield Finding("Discord gateway", False, "Nothing answers at THREADSIGHT_DISCORD_GATEWAY_URL.")
    good = "The Message Content Intent is on."
    yield Finding("Discord intent", found.has_content, good if found.has_content else NO_CONTENT)
    link = invite_link(found.application_id)
    if not guilds:
        yield Finding("Discord servers", False, f"The bot is on no server yet. Invite it: {link}")
    for guild in guilds:
        yield _about_guild(guild, link)


def _about_guild(guild: dict[str, Any], link: str) -> Finding:
    name = str(guild.get("name") or guild.get("id"))
    missing = missing_permissions(int(guild.get("permissions") or 0))
    if not missing:
        return Finding("Discord server", True, f"{name}: the bot has every permission it needs (single channels may differ).")
    lacks = "; ".join(f"{permission.name} (without it {permission.without})" for permission in missing)
    return Finding("Discord server", False, f"{name}: the bot lacks {lacks}. Grant that to its role, or invite it again: {link}")


async def _can_connect(session: aiohttp.ClientSession, gateway_url: str) -> bool:
    try:
        async with asyncio.timeout(10), session.ws_connect(URL(gateway_url).with_query(v=10, encoding="json")):
            return True
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
        return False


async def _get(session: aiohttp.ClientSession, api_url: str | None, path: str) -> Any:
    async with session.get(f"{(api_url or API_URL).rstrip('/')}{path}") as response:
        if response.status == 401:
            raise TokenError(WRONG_TOKEN)
        if response.status == 429:
            raise TryLater(float(response.headers.get("Retry-After") or 5))
        if response.status == 403:
            raise TokenError("Discord does not let the bot in (status 403). Perhaps this address is blocked, or the bot is.")
        if response.status != 200:
            raise TryLater
        return await response.json()
