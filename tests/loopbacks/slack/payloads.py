"""Slack's JSON: messages, files and events.

Keys and types are those of https://docs.slack.dev/reference and of payloads that were logged from Slack (the tests compare them if
these are available).
"""

from __future__ import annotations

import time
from typing import Literal

from tests.loopbacks.slack.rich_text import rich_text
from tests.loopbacks.slack.state import CHANNEL_TYPE, Channel, File, Json, Message, SlackState, Team, User

FileForm = Literal["full", "thin", "check_file_info", "none"]
VERIFICATION_TOKEN = "verification-token"
_FILE_TYPES = {f"image/{name}": (name, name.upper()) for name in ("png", "jpeg", "gif", "webp")}


def file_object(file: File, form: FileForm = "full") -> Json:
    """https://docs.slack.dev/reference/objects/file-object"""
    if form == "thin":
        return {"id": file.id}
    if form == "check_file_info":  # Slack Connect: everything else must be looked up
        return {"id": file.id, "created": 0, "timestamp": 0, "user": "", "mode": "file_access", "file_access": "check_file_info"}
    if file.mode in ("tombstone", "hidden_by_limit"):
        return {"id": file.id, "mode": file.mode}
    created = int(time.time())
    kind, pretty_kind = _FILE_TYPES.get(file.mimetype, ("binary", "Binary"))
    is_external = file.mode == "external"
    link = "https://drive.example.com/" + file.id
    addresses = {"url_private": link} if is_external else {"url_private": file.url, "url_private_download": file.url}
    return {
        "id": file.id,
        "created": created,
        "timestamp": created,
        "name": file.name,
        "title": file.name,
        "mimetype": file.mimetype,
        "filetype": kind,
        "pretty_type": pretty_kind,
        "user": file.user.id,
        "user_team": file.user.team.id,
        "editable": False,
        "size": len(file.data) if file.announced_size is None else file.announced_size,
        "mode": file.mode,
        "is_external": is_external,
        "external_type": "gdrive" if is_external else "",
        "is_public": True,
        "public_url_shared": False,
        "display_as_bot": False,
        "username": "",
        **addresses,
        "permalink": f"https://loopback.slack.com/files/{file.user.id}/{file.id}",
        "media_display_type": "unknown",
        "has_rich_preview": False,
        "file_access": "visible",
    }


def message_object(message: Message, form: FileForm = "full") -> Json:
    """A message as conversations.history, conversations.replies and the events show it; the channel is left out."""
    team = message.channel.team
    found: Json = {"type": "message", "user": message.user.id, "text": message.text or message.markdown, "ts": message.ts}
    if message.subtype is not None:
        found["subtype"] = message.subtype
    if message.subtype != "file_share":
        found["team"] = message.user.team.id
    if message.user.is_bot:
        found |= {"bot_id": team.bot_id, "blocks": message.blocks, "bot_profile": _bot_profile(team)}
    else:
        found["blocks"] = rich_text(message.text) if message.text else []
        if message.subtype is None:
            found["client_msg_id"] = f"00000000-0000-4000-8000-{message.ts.replace('.', '')[-12:]}"
    if message.files and form != "none":
        found |= {"files": [file_object(file, form) for file in message.files], "upload": False, "display_as_bot": False}
    if message.thread_ts is not None:
        found["thread_ts"] = message.thread_ts
        root = message.channel.messages.get(message.thread_ts)
        if message.is_reply and root is not None:
            found["parent_user_id"] = root.user.id
    if message.edited_ts is not None:
        found["edited"] = {"user": message.user.id, "ts": message.edited_ts}
    return found


def listed_message(message: Message) -> Json:
    """A message as listings show it: with its thread's data and reactions."""
    found = message_object(message)
    replies = [m for m in message.channel.thread(message.ts) if m.ts != message.ts]
    if replies:
        users = list(dict.fromkeys(reply.user.id for reply in replies))
        found |= {"thread_ts": message.ts, "reply_count": len(replies), "latest_reply": replies[-1].ts, "subscribed": False}
        found |= {"reply_users": users, "reply_users_count": len(users), "is_locked": False}
    if message.reactions:
        bot = message.channel.team.bot_user_id
        found["reactions"] = [{"name": name, "users": [bot], "count": 1} for name in sorted(message.reactions)]
    return found


def _bot_profile(team: Team) -> Json:
    icons = {f"image_{size}": f"https://loopback.slack.com/{size}.png" for size in (36, 48, 72)}
    return {"id": team.bot_id, "deleted": False, "name": "Threadsight", "updated": 1, "icons": icons, "team_id": team.id}


# -- events ----------------------------------------------------------------------------------------------------------------


def message_event(message: Message, form: FileForm = "full") -> Json:
    """https://docs.slack.dev/reference/events/message"""
    event = message_object(message, form) | _place(message.channel) | {"event_ts": message.ts}
    if form == "none" and event.get("subtype") == "file_share":
        del event["subtype"]
    return event


def mention_event(message: Message, form: FileForm = "full") -> Json:
    """https://docs.slack.dev/reference/events/app_mention: no subtype and no kind of channel."""
    event = message_object(message, form) | {"type": "app_mention", "channel": message.channel.id, "event_ts": message.ts}
    event["team"] = message.user.team.id
    for key in ("subtype", "parent_user_id"):
        event.pop(key, None)
    if message.edited_ts is not None:
        event["event_ts"] = message.edited_ts
    return event


def changed_event(message: Message, before: Json, at: str) -> Json:
    now: Json = listed_message(message) | {"source_team": message.user.team.id, "user_team": message.user.team.id}
    for key in ("reply_users", "reactions"):
        now.pop(key, None)
    return _hidden_event(message, "message_changed", at) | {"message": now, "previous_message": before}


def deleted_event(message: Message, before: Json, at: str) -> Json:
    return _hidden_event(message, "message_deleted", at) | {"deleted_ts": message.ts, "previous_message": before}


def tombstone_event(message: Message, before: Json, at: str) -> Json:
    """Sent instead of a deletion if there are replies: the message becomes a placeholder."""
    now = {"type": "message", "subtype": "tombstone", "text": "This message was deleted.", "user": "USLACKBOT", "hidden": True}
    now |= {"ts": message.ts, "thread_ts": message.ts}
    return _hidden_event(message, "message_changed", at) | {"message": now, "previous_message": before}


def _hidden_event(message: Message, subtype: str, at: str) -> Json:
    return {"type": "message", "subtype": subtype, "hidden": True, "ts": at, "event_ts": at} | _place(message.channel)


def _place(channel: Channel) -> Json:
    return {"channel": channel.id, "channel_type": CHANNEL_TYPE[channel.kind]}


def event_body(state: SlackState, team: Team, event: Json) -> Json:
    """The envelope of an event (https://docs.slack.dev/apis/events-api): the same in Socket Mode and over HTTP."""
    authorization = {
        "enterprise_id": None,
        "team_id": team.id,
        "user_id": team.bot_user_id,
        "is_bot": True,
        "is_enterprise_install": False,
    }
    return {
        "token": VERIFICATION_TOKEN,
        "team_id": team.id,
        "api_app_id": state.app_id,
        "event": event,
        "type": "event_callback",
        "event_id": state.new_id("Ev"),
        "event_time": int(time.time()),
        "authorizations": [authorization],
        "is_ext_shared_channel": False,
        "event_context": f"4-{state.new_id('ctx')}",
    }


# -- what people do --------------------------------------------------------------------------------------------------------


def interaction_body(state: SlackState, kind: str, user: User) -> Json:
    """What block_actions, message_action and view_submission have in common."""
    return {
        "type": kind,
        "team": {"id": user.team.id, "domain": user.team.name.lower()},
        "user": {"id": user.id, "username": user.name, "name": user.name, "team_id": user.team.id},
        "api_app_id": state.app_id,
        "token": VERIFICATION_TOKEN,
        "trigger_id": state.new_trigger(user),
        "enterprise": None,
        "is_enterprise_install": False,
    }


def click_body(state: SlackState, user: User, message: Message, action: Json, response_url: str) -> Json:
    container: Json = {
        "type": "message",
        "message_ts": message.ts,
        "channel_id": message.channel.id,
        "is_ephemeral": message.only_for is not None,
    }
    if message.thread_ts is not None:
        container["thread_ts"] = message.thread_ts
    about_message = {} if message.only_for is not None else {"message": message_object(message)}  # Slack stores no ephemeral ones
    return interaction_body(state, "block_actions", user) | {
        "container": container,
        "channel": {"id": message.channel.id, "name": message.channel.name},
        **about_message,
        "state": {"values": {}},
        "response_url": response_url,
        "actions": [action | {"action_ts": state.new_ts()}],
    }


def shortcut_body(state: SlackState, user: User, callback_id: str, message: Message, response_url: str) -> Json:
    return interaction_body(state, "message_action", user) | {
        "callback_id": callback_id,
        "message_ts": message.ts,
        "channel": {"id": message.channel.id, "name": message.channel.name},
        "message": listed_message(message),
        "response_url": response_url,
        "action_ts": state.new_ts(),
    }


def slash_body(state: SlackState, user: User, channel: Channel, command: str, text: str, response_url: str) -> Json:
    return {
        "token": VERIFICATION_TOKEN,
        "team_id": user.team.id,
        "team_domain": user.team.name.lower(),
        "channel_id": channel.id,
        "channel_name": channel.name,
        "user_id": user.id,
        "user_name": user.name,
        "command": command,
        "text": text,
        "api_app_id": state.app_id,
        "is_enterprise_install": "false",
        "response_url": response_url,
        "trigger_id": state.new_trigger(user),
    }
