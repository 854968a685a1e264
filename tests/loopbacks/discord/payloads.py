"""Discord's objects as JSON, as far as discord.py reads them (https://discord.com/developers/docs/resources)."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import Any

Payload = dict[str, Any]

TOKEN = "bot-token"
APPLICATION, BOT, GUILD, ANN = 111, 222, 333, 444
ARCHIVED = 50083
_ERRORS = {
    0: "401: Unauthorized",
    10003: "Unknown Channel",
    10008: "Unknown Message",
    10015: "Unknown Webhook",
    50001: "Missing Access",
    50013: "Missing Permissions",
    50035: "Invalid Form Body",
    ARCHIVED: "Thread is archived",
    160004: "A thread has already been created for this message",
    160005: "Thread is locked",
}
WHEN = "2026-11-01T10:00:00+00:00"


def error_text(code: int) -> str:
    return _ERRORS.get(code, "error")


def user_payload(id_: int = ANN, name: str = "ann", *, bot: bool = False) -> Payload:
    return {
        "id": str(id_),
        "username": name,
        "discriminator": "0",
        "avatar": None,
        "global_name": None,
        "bot": bot,
        "flags": 0,
        "public_flags": 0,
        "primary_guild": None,
    }


def application_payload(flags: int) -> Payload:
    return {
        "id": str(APPLICATION),
        "name": "Threadsight",
        "icon": None,
        "description": "",
        "bot_public": True,
        "bot_require_code_grant": False,
        "summary": "",
        "verify_key": "",
        "flags": flags,
        "flags_new": str(flags),
        "team": None,
        "owner": user_payload(),
        "type": None,
        "redirect_uris": [],
        "interactions_endpoint_url": None,
        "role_connections_verification_url": None,
        "approximate_guild_count": 1,
        "approximate_user_install_count": 0,
        "approximate_user_authorization_count": 0,
        "explicit_content_filter": 0,
        "eligible_oauth2_scopes": [],
    }


def channel_payload(id_: int, name: str, kind: int) -> Payload:
    return {
        "id": str(id_),
        "guild_id": str(GUILD),
        "type": kind,
        "name": name,
        "position": 0,
        "permission_overwrites": [],
        "nsfw": False,
        "parent_id": None,
        "last_message_id": None,
        "flags": 0,
        **({"available_tags": []} if kind == 15 else {}),
    }


def thread_payload(id_: int, parent: int, owner: int, name: str) -> Payload:
    return {
        "id": str(id_),
        "guild_id": str(GUILD),
        "type": 11,
        "name": name,
        "parent_id": str(parent),
        "owner_id": str(owner),
        "message_count": 0,
        "total_message_sent": 0,
        "member_count": 1,
        "flags": 0,
        "last_message_id": None,
        "thread_metadata": {"archived": False, "auto_archive_duration": 1440, "archive_timestamp": WHEN, "locked": False},
    }


def guild_payload(channels: list[Payload], permissions: int) -> Payload:
    everyone = {"id": str(GUILD), "name": "@everyone", "color": 0, "colors": {"primary_color": 0}, "permissions": str(permissions)}
    everyone |= {"position": 0, "hoist": False, "managed": False, "mentionable": False, "flags": 0}
    is_thread = {id(each): each["type"] in (10, 11, 12) for each in channels}
    return {
        "id": str(GUILD),
        "name": "Guild",
        "owner_id": str(ANN),
        "roles": [everyone],
        "emojis": [],
        "features": [],
        "members": [{"user": user_payload(BOT, "sight", bot=True), "roles": [], "flags": 0, "joined_at": WHEN}],
        "member_count": 2,
        "channels": [each for each in channels if "guild_id" in each and not is_thread[id(each)]],
        "threads": [each for each in channels if is_thread[id(each)] and not each["thread_metadata"]["archived"]],
        "large": False,
        "unavailable": False,
    }


def message_payload(id_: int, channel: int, text: str, author: Payload, **more: Any) -> Payload:
    return {
        "id": str(id_),
        "channel_id": str(channel),
        "author": author,
        "content": text,
        "timestamp": datetime.now(UTC).isoformat(),
        "edited_timestamp": None,
        "tts": False,
        "mention_everyone": False,
        "mentions": [],
        "mention_roles": [],
        "attachments": [],
        "embeds": [],
        "components": [],
        "pinned": False,
        "type": 0,
        "flags": 0,
        **more,
    }


def with_ids(components: list[Payload]) -> list[Payload]:
    """Add ids to components: Discord numbers the components of a message, also nested ones."""
    numbers = itertools.count(1)

    def numbered(component: Payload) -> Payload:
        inner = {"components": [numbered(each) for each in component["components"]]} if "components" in component else {}
        return {"id": next(numbers), **component, **inner}

    return [numbered(component) for component in components]
