"""chat.startStream, appendStream, stopStream; the status of a thread and of an agent's session.

A stream ends by itself `stream_seconds` after its start, with or without appends, and its message keeps its text (python-slack-sdk
issue 1859); chat.update can still change it.
"""

from __future__ import annotations

import time

from tests.loopbacks.slack.block_kit import MAX_MARKDOWN_CHARS, check_blocks, check_markdown
from tests.loopbacks.slack.methods import MethodCall, method
from tests.loopbacks.slack.payloads import changed_event, message_event, message_object
from tests.loopbacks.slack.state import Channel, Json, Message, SlackError

_CHUNK_TYPES = frozenset({"markdown_text", "task_update", "plan_update", "blocks"})
_SESSION_STATES = frozenset({"active", "processing", "suspended", "closed"})
_MAX_TITLE_CHARS = 200
_MAX_LOADING_MESSAGES = 10


def _markdown(call: MethodCall) -> str:
    """The text of markdown_text or of chunks. Both together are an error."""
    markdown, chunks = str(call.arguments.get("markdown_text") or ""), call.arguments.get("chunks")
    if markdown and chunks:
        raise SlackError("cannot_provide_both_markdown_text_and_chunks")
    if chunks is not None:
        if not isinstance(chunks, list) or any(chunk.get("type") not in _CHUNK_TYPES for chunk in chunks):
            raise SlackError("invalid_chunks")
        markdown = "".join(chunk["text"] for chunk in chunks if chunk["type"] == "markdown_text")
    if len(markdown) > MAX_MARKDOWN_CHARS:
        raise SlackError("msg_too_long")
    return markdown


def _live_stream(call: MethodCall) -> Message:
    channel = call.channel(to_write=True)
    message = call.state.own_message(channel, call.text("ts"), "message_not_owned_by_app")
    if message.stream == "stopped_by_user":
        raise SlackError("stopped_by_user")
    if message.stream != "live":
        raise SlackError("message_not_in_streaming_state")
    return message


@method("chat.startStream", "chat:write")
def start_stream(call: MethodCall) -> Json:
    channel = call.channel(to_write=True)
    root = channel.messages.get(call.text("thread_ts"))
    if root is None:
        raise SlackError("thread_not_found")
    if channel.kind != "im":
        for name in ("recipient_team_id", "recipient_user_id"):
            if not call.arguments.get(name):
                raise SlackError(f"missing_{name}")
        if call.arguments["recipient_user_id"] not in call.state.users:
            raise SlackError("user_not_found")
    markdown = _markdown(call)
    check_markdown(markdown)
    bot = call.state.users[call.team.bot_user_id]
    message = Message(channel, call.state.new_ts(), bot, "", root.thread_ts or root.ts, markdown)
    message.stream, message.stream_started_at = "live", time.monotonic()
    call.state.add_message(message)
    call.publish(channel, message_event(message))
    return {"channel": channel.id, "ts": message.ts}


@method("chat.appendStream", "chat:write")
def append_stream(call: MethodCall) -> Json:
    message = _live_stream(call)
    markdown = _markdown(call)
    if not markdown and not call.arguments.get("chunks"):
        raise SlackError("no_text")
    check_markdown(message.markdown + markdown)
    message.markdown += markdown
    call.state.show(message)
    return {"channel": message.channel.id, "ts": message.ts}


@method("chat.stopStream", "chat:write")
def stop_stream(call: MethodCall) -> Json:
    message = _live_stream(call)
    markdown, blocks = _markdown(call), call.arguments.get("blocks") or []
    check_markdown(message.markdown + markdown)
    check_blocks(blocks)
    before = message_object(message)
    message.markdown += markdown
    message.blocks = blocks
    message.stream = "done"
    call.state.show(message)
    call.publish(message.channel, changed_event(message, before, call.state.new_ts()))
    return {"channel": message.channel.id, "ts": message.ts, "message": message_object(message)}


# -- status ----------------------------------------------------------------------------------------------------------------


def _place(call: MethodCall) -> tuple[Channel, str]:
    channel, thread_ts = call.channel(name="channel_id"), call.text("thread_ts")
    if thread_ts not in channel.messages:
        raise SlackError("thread_not_found")
    return channel, thread_ts


@method("assistant.threads.setStatus", "chat:write", "assistant:write")
def set_status(call: MethodCall) -> Json:
    channel, thread_ts = _place(call)
    if len(call.arguments.get("loading_messages") or ()) > _MAX_LOADING_MESSAGES:
        raise SlackError("invalid_arguments")
    status = str(call.arguments.get("status") or "")
    call.state.status_history.append((channel.id, thread_ts, status))
    if status:
        call.state.statuses[channel.id, thread_ts] = status
    else:
        call.state.statuses.pop((channel.id, thread_ts), None)
    return {}


@method("agents.sessions.setStatus", "chat:write", "assistant:write")
def set_session_status(call: MethodCall) -> Json:
    if not call.state.is_agent:
        raise SlackError("not_authorized")
    channel, thread_ts = _place(call)
    status, title = call.text("status"), str(call.arguments.get("title") or "")
    if status not in _SESSION_STATES or len(title) > _MAX_TITLE_CHARS:
        raise SlackError("invalid_arguments")
    call.state.sessions[channel.id, thread_ts] = status
    return {}
