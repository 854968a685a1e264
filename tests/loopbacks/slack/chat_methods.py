"""chat.postMessage, postEphemeral, update, delete; reactions; views (https://docs.slack.dev/reference/methods)."""

from __future__ import annotations

import re
from typing import Any

from tests.loopbacks.slack.block_kit import MAX_MARKDOWN_CHARS, check_blocks, check_markdown, check_view
from tests.loopbacks.slack.methods import MethodCall, method
from tests.loopbacks.slack.payloads import changed_event, deleted_event, message_event, message_object
from tests.loopbacks.slack.state import Broadcast, Json, Message, SlackError, User, View

MAX_TEXT_CHARS = 40_000
MAX_UPDATE_CHARS = 4_000  # chat.update refuses more in `text`, where chat.postMessage cuts at 40,000


def _content(call: MethodCall) -> tuple[str, str, list[Json]]:
    """The call's text, markdown_text and blocks, checked."""
    text, markdown = str(call.arguments.get("text") or ""), str(call.arguments.get("markdown_text") or "")
    blocks: Any = call.arguments.get("blocks") or []
    if markdown and (text or blocks):
        raise SlackError("markdown_text_conflict")
    if len(markdown) > MAX_MARKDOWN_CHARS:
        raise SlackError("msg_too_long")
    check_markdown(markdown)
    check_blocks(blocks)
    if not (text or markdown or blocks or call.arguments.get("attachments")):
        raise SlackError("no_text")
    return text[:MAX_TEXT_CHARS], markdown, blocks


def _bot(call: MethodCall) -> User:
    return call.state.users[call.team.bot_user_id]


def _thread(call: MethodCall, channel_messages: dict[str, Message]) -> str | None:
    thread_ts = call.arguments.get("thread_ts")
    if thread_ts is None:
        return None
    root = channel_messages.get(str(thread_ts))
    if root is None:
        raise SlackError("thread_not_found")
    return str(root.thread_ts or root.ts)


def _note_linked_names(call: MethodCall, message: Message) -> None:
    """With parse=full or link_names, plain names notify people as well."""
    if call.arguments.get("parse") == "full" or call.is_true("link_names"):
        for what in re.findall(r"@(?:channel|here|everyone)\b", message.text):
            call.state.broadcasts.append(Broadcast(message, what))


@method("chat.postMessage", "chat:write")
def post_message(call: MethodCall) -> Json:
    channel = call.channel(to_write=True)
    text, markdown, blocks = _content(call)
    thread_ts = _thread(call, channel.messages)
    subtype = "thread_broadcast" if thread_ts is not None and call.is_true("reply_broadcast") else None
    message = Message(channel, call.state.new_ts(), _bot(call), text, thread_ts, markdown, blocks, subtype=subtype)
    call.state.add_message(message)
    _note_linked_names(call, message)
    call.publish(channel, message_event(message))
    return {"channel": channel.id, "ts": message.ts, "message": message_object(message)}


@method("chat.postEphemeral", "chat:write")
def post_ephemeral(call: MethodCall) -> Json:
    channel, user = call.channel(to_write=True), call.state.users.get(call.text("user"))
    if user is None or user not in channel.members:
        raise SlackError("user_not_in_channel")
    text, markdown, blocks = _content(call)
    ts, thread_ts = call.state.new_ts(), call.arguments.get("thread_ts")
    call.state.add_message(Message(channel, ts, _bot(call), text, thread_ts, markdown, blocks, only_for=user))
    return {"message_ts": ts}


@method("chat.update", "chat:write")
def update(call: MethodCall) -> Json:
    channel = call.channel(to_write=True)
    message = call.state.own_message(channel, call.text("ts"), "cant_update_message")
    if message.stream == "live":
        raise SlackError("streaming_state_conflict")
    if len(str(call.arguments.get("text") or "")) > MAX_UPDATE_CHARS:
        raise SlackError("msg_too_long")
    before = message_object(message)
    text, markdown, blocks = _content(call)
    if text and "blocks" not in call.arguments:
        blocks = []
    message.text, message.markdown, message.blocks = text, markdown, blocks
    message.edited_ts = call.state.new_ts()
    call.state.show(message)
    call.publish(channel, changed_event(message, before, message.edited_ts))
    return {"channel": channel.id, "ts": message.ts, "text": text, "message": message_object(message)}


@method("chat.delete", "chat:write")
def delete(call: MethodCall) -> Json:
    channel = call.channel(to_write=True)
    message = call.state.own_message(channel, call.text("ts"), "cant_delete_message")
    before = message_object(message)
    del channel.messages[message.ts]
    message.is_deleted = True
    call.publish(channel, deleted_event(message, before, call.state.new_ts()))
    return {"channel": channel.id, "ts": message.ts}


@method("reactions.add", "reactions:write")
def add_reaction(call: MethodCall) -> Json:
    message = call.channel().messages.get(call.text("timestamp"))
    if message is None:
        raise SlackError("message_not_found")
    if call.text("name") in message.reactions:
        raise SlackError("already_reacted")
    message.reactions.add(call.text("name"))
    return {}


@method("reactions.remove", "reactions:write")
def remove_reaction(call: MethodCall) -> Json:
    message = call.channel().messages.get(call.text("timestamp"))
    if message is None:
        raise SlackError("message_not_found")
    if call.text("name") not in message.reactions:
        raise SlackError("no_reaction")
    message.reactions.remove(call.text("name"))
    return {}


# -- views -----------------------------------------------------------------------------------------------------------------


def _keep(call: MethodCall, user: User, id_: str) -> Json:
    given = call.arguments["view"]
    view = {
        "id": id_,
        "team_id": call.team.id,
        "type": given["type"],
        "blocks": given["blocks"],
        "private_metadata": given.get("private_metadata", ""),
        "callback_id": given.get("callback_id", ""),
        "state": {"values": {}},
        "hash": call.state.new_id("hash"),
        "clear_on_close": False,
        "notify_on_close": False,
        "close": given.get("close"),
        "submit": given.get("submit"),
        "previous_view_id": None,
        "root_view_id": id_,
        "app_id": call.state.app_id,
        "external_id": given.get("external_id", ""),
        "app_installed_team_id": call.team.id,
        "bot_id": call.team.bot_id,
    } | ({"title": given["title"]} if "title" in given else {})
    call.state.views.append(View(id_, user, view, view["hash"]))
    return {"view": view}


@method("views.open")
def open_view(call: MethodCall) -> Json:
    check_view(call.arguments.get("view"))
    user = call.state.use_trigger(call.arguments.get("trigger_id"))
    return _keep(call, user, call.state.new_id("V"))


@method("views.update")
def update_view(call: MethodCall) -> Json:
    check_view(call.arguments.get("view"))
    known = [view for view in call.state.views if view.id == call.arguments.get("view_id")]
    if not known:
        raise SlackError("not_found")
    if call.arguments.get("hash") not in (None, known[-1].hash):
        raise SlackError("hash_conflict")
    return _keep(call, known[-1].user, known[-1].id)


@method("views.publish")
def publish_view(call: MethodCall) -> Json:
    check_view(call.arguments.get("view"))
    user = call.state.users.get(call.text("user_id"))
    if user is None or user.team is not call.team:
        raise SlackError("user_not_found")
    known = [view for view in call.state.views if view.user is user and view.view["type"] == "home"]
    return _keep(call, user, known[-1].id if known else call.state.new_id("V"))
