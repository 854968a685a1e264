"""Methods that read: auth, apps, conversations, users, files, team, oauth."""

from __future__ import annotations

from tests.loopbacks.slack.methods import MethodCall, method
from tests.loopbacks.slack.payloads import file_object, listed_message
from tests.loopbacks.slack.state import HISTORY_SCOPE, READ_SCOPE, Channel, ChannelKind, Json, Message, SlackError

_KINDS: dict[str, ChannelKind] = {"public_channel": "channel", "private_channel": "private", "im": "im", "mpim": "mpim"}


@method("api.test", token="none")
def api_test(call: MethodCall) -> Json:
    if "error" in call.arguments:
        raise SlackError(str(call.arguments["error"]))
    return {"args": call.arguments}


@method("auth.test")
def auth_test(call: MethodCall) -> Json:
    team = call.team
    return {
        "url": f"https://{team.name.lower()}.slack.com/",
        "team": team.name,
        "user": call.state.users[team.bot_user_id].name,
        "team_id": team.id,
        "user_id": team.bot_user_id,
        "bot_id": team.bot_id,
        "is_enterprise_install": False,
    }


@method("apps.connections.open", token="app")
def open_connection(call: MethodCall) -> Json:
    return {"url": call.new_socket_url()}


@method("auth.revoke")
def revoke(call: MethodCall) -> Json:
    if not call.is_true("test"):
        call.team.is_installed = False
    return {"revoked": not call.is_true("test")}


@method("oauth.v2.access", token="none")
def oauth_access(call: MethodCall) -> Json:
    state = call.state
    if (call.arguments.get("client_id"), call.arguments.get("client_secret")) != (state.client_id, state.client_secret):
        raise SlackError("bad_client_secret")
    team = state.oauth_codes.pop(str(call.arguments.get("code")), None)
    if team is None:
        raise SlackError("invalid_code")
    team.is_installed = True
    installer = next((user for user in state.users.values() if user.team is team and not user.is_bot), None)
    return {
        "access_token": team.bot_token,
        "token_type": "bot",
        "scope": ",".join(sorted(team.scopes)),
        "bot_user_id": team.bot_user_id,
        "app_id": state.app_id,
        "team": {"id": team.id, "name": team.name},
        "enterprise": None,
        "is_enterprise_install": False,
        "authed_user": {"id": "USLACKBOT" if installer is None else installer.id},
    }


@method("team.info", "team:read")
def team_info(call: MethodCall) -> Json:
    team = call.team
    return {"team": {"id": team.id, "name": team.name, "domain": team.name.lower(), "email_domain": "", "icon": {}}}


# -- conversations ---------------------------------------------------------------------------------------------------------


def _channel_object(channel: Channel) -> Json:
    found: Json = {"id": channel.id, "created": 1, "is_archived": channel.is_archived, "context_team_id": channel.team.id}
    found |= {"is_im": channel.kind == "im", "is_org_shared": False, "is_mpim": channel.kind == "mpim"}
    if channel.kind == "im":
        return found | {"user": channel.members[0].id}
    kinds = {"is_channel": True, "is_group": channel.kind == "private", "is_private": channel.kind != "channel"}
    return found | kinds | {"name": channel.name, "is_member": channel.is_bot_member, "is_general": False, "is_shared": False}


@method("conversations.info")
def info(call: MethodCall) -> Json:
    channel = call.state.channels.get(call.text("channel"))
    if channel is None or channel.team is not call.team or (channel.kind != "channel" and not channel.is_bot_member):
        raise SlackError("channel_not_found")
    call.need(READ_SCOPE[channel.kind])
    return {"channel": _channel_object(channel)}


@method("conversations.open", "im:write", "chat:write")
def open_direct(call: MethodCall) -> Json:
    users = [call.state.users.get(id_) for id_ in call.text("users").split(",")]
    if len(users) != 1 or users[0] is None:
        raise SlackError("user_not_found")
    return {"channel": {"id": call.state.direct_channel(users[0]).id}}


@method("conversations.members")
def members(call: MethodCall) -> Json:
    channel = call.channel()
    call.need(READ_SCOPE[channel.kind])
    bots = [call.team.bot_user_id] if channel.is_bot_member else []
    return {"members": [user.id for user in channel.members] + bots, "response_metadata": {"next_cursor": ""}}


@method("users.conversations")
def conversations(call: MethodCall) -> Json:
    words = str(call.arguments.get("types") or "public_channel").split(",")
    if not set(words) <= _KINDS.keys():
        raise SlackError("invalid_types")
    kinds = [_KINDS[word] for word in words]
    for kind in kinds:
        call.need(READ_SCOPE[kind])
    found = [
        channel
        for channel in call.state.channels.values()
        if channel.team is call.team
        and channel.kind in kinds
        and channel.is_bot_member
        and not (channel.is_archived and call.is_true("exclude_archived"))
    ]
    start, limit = call.number("cursor", 0), call.number("limit", 100)
    page, cursor = found[start : start + limit], str(start + limit) if start + limit < len(found) else ""
    return {"channels": [_channel_object(channel) for channel in page], "response_metadata": {"next_cursor": cursor}}


def _page(call: MethodCall, messages: list[Message], default_limit: int) -> Json:
    """One page of messages, which are in the order of the response."""
    start, limit = call.number("cursor", 0), call.number("limit", default_limit)
    has_more = start + limit < len(messages)
    more = {"response_metadata": {"next_cursor": str(start + limit)}} if has_more else {}
    return {"messages": [listed_message(message) for message in messages[start : start + limit]], "has_more": has_more} | more


def _between(call: MethodCall, messages: list[Message]) -> list[Message]:
    """The messages after `oldest` and before `latest`; with `inclusive` also those at these times."""
    oldest, latest = str(call.arguments.get("oldest") or "0"), str(call.arguments.get("latest") or "9999999999")
    ends = {float(oldest), float(latest)} if call.is_true("inclusive") else set()
    return [m for m in messages if float(oldest) < float(m.ts) < float(latest) or float(m.ts) in ends]


@method("conversations.history")
def history(call: MethodCall) -> Json:
    channel = call.channel()
    call.need(HISTORY_SCOPE[channel.kind])
    top = [m for m in channel.messages.values() if not m.is_reply or m.subtype == "thread_broadcast"]
    return _page(call, sorted(_between(call, top), key=lambda m: float(m.ts), reverse=True), 100) | {"pin_count": 0}


@method("conversations.replies")
def replies(call: MethodCall) -> Json:
    channel = call.channel()
    call.need(HISTORY_SCOPE[channel.kind])
    root = channel.messages.get(call.text("ts"))
    if root is None:
        raise SlackError("thread_not_found")
    below = [m for m in channel.thread(root.ts) if m is not root]  # none, if it is itself a reply
    return _page(call, [root, *sorted(_between(call, below), key=lambda m: float(m.ts))], 1_000)


# -- users and files -------------------------------------------------------------------------------------------------------


@method("users.info", "users:read")
def user_info(call: MethodCall) -> Json:
    user = call.state.users.get(call.text("user"))
    if user is None:
        raise SlackError("user_not_found")
    profile = {"real_name": user.name, "display_name": user.name, "real_name_normalized": user.name, "team": user.team.id}
    return {
        "user": {
            "id": user.id,
            "team_id": user.team.id,
            "name": user.name,
            "deleted": False,
            "real_name": user.name,
            "tz": "Europe/Berlin",
            "tz_offset": 3600,
            "profile": profile,
            "is_admin": user.is_admin,
            "is_owner": False,
            "is_primary_owner": False,
            "is_restricted": False,
            "is_ultra_restricted": False,
            "is_bot": user.is_bot,
            "is_app_user": False,
            "updated": 1,
        }
    }


@method("files.info", "files:read")
def file_info(call: MethodCall) -> Json:
    file = call.state.files.get(call.text("file"))
    if file is None or file.user.team is not call.team:
        raise SlackError("file_not_found")
    if file.mode == "tombstone":
        raise SlackError("file_deleted")
    return {"file": file_object(file), "comments": []}
