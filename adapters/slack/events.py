"""Slack's events about messages and channels, merged and passed to the dispatcher at once; nothing is awaited here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from adapters.base import Attachment
from adapters.conversations.dispatcher import Dispatcher
from adapters.post import Post, asked_once
from adapters.slack.markup import has_mention
from adapters.slack.merge import Merger, News, PostId
from adapters.slack.translate import Translator, is_automatic, message_id, read_message
from adapters.slack.workspaces import Workspace, Workspaces
from adapters.surface import DestinationGone

Event = Mapping[str, Any]


class Events:
    """Slack's events about messages and channels, handed to the dispatcher."""

    def __init__(self, dispatcher: Dispatcher, translator: Translator, workspaces: Workspaces) -> None:
        self._dispatcher = dispatcher
        self._translator = translator
        self._workspaces = workspaces
        self._merger = Merger(self._look_up)

    def message(self, workspace: Workspace, event: Event) -> None:
        """Handle an event `message` or `app_mention`."""
        channel, subtype = str(event.get("channel") or ""), event.get("subtype")
        if subtype == "message_deleted":
            self._dispatcher.deleted(workspace.id, message_id(channel, str(event.get("deleted_ts"))))
        elif subtype == "message_changed":
            self._changed(workspace, channel, event)
        elif is_automatic(event, workspace.bot_user_id):
            return
        elif event.get("edited"):
            self._edited(workspace, channel, event)
        else:
            self._written(workspace, channel, event)

    def left(self, workspace: Workspace, event: Event) -> None:
        """Handle an event that a channel was deleted or that we were removed from it."""
        self._dispatcher.room_gone(workspace.id, str(event.get("channel") or ""))

    def _written(self, workspace: Workspace, channel: str, event: Event) -> None:
        is_mention = _is_mention(workspace, event)
        record, news = self._merger.add((workspace.id, channel, str(event["ts"])), event, is_mention=is_mention)
        if news is News.NOTHING:
            return
        post = self._translator.post(workspace, channel, record.event, is_mention=record.is_mention)
        if news is News.MORE:
            self._dispatcher.edited(post)  # this event adds pictures or a mention
            return

        async def complete() -> Post:
            await self._merger.complete(record)
            return self._translator.post(workspace, channel, record.event, is_mention=record.is_mention)

        self._dispatcher.posted(replace(post, complete=complete))

    def _changed(self, workspace: Workspace, channel: str, event: Event) -> None:
        message, before = event.get("message") or {}, event.get("previous_message") or {}
        if message.get("subtype") == "tombstone":  # a deleted message with replies
            self._dispatcher.deleted(workspace.id, message_id(channel, str(message.get("ts"))))
        elif not is_automatic(message, workspace.bot_user_id) and message.get("text") != before.get("text"):
            self._edited(workspace, channel, {**message, "channel_type": event.get("channel_type")})

    def _edited(self, workspace: Workspace, channel: str, event: Event) -> None:
        """Handle an edit. It arrives as message_changed and, if it mentions us, also as a new app_mention, which may lack the
        files."""
        if event.get("channel_type") is None:
            event = {name: value for name, value in event.items() if name != "channel_type"}
        self._merger.edited((workspace.id, channel, str(event["ts"])), event)
        post = self._translator.post(workspace, channel, event, is_mention=_is_mention(workspace, event))

        async def attachments() -> tuple[Attachment, ...]:
            whole = (
                event if event.get("files") else await read_message(workspace, channel, str(event["ts"]), event.get("thread_ts"))
            )
            return await self._translator.attachments(workspace, whole or event)

        self._dispatcher.edited(replace(post, attachments=asked_once(attachments)))

    async def _look_up(self, id_: PostId, event: Event) -> Event | None:
        workspace_id, channel, ts = id_
        try:
            workspace = await self._workspaces.find(workspace_id)
        except DestinationGone:
            return None
        return await read_message(workspace, channel, ts, event.get("thread_ts"))


def _is_mention(workspace: Workspace, event: Event) -> bool:
    return event.get("type") == "app_mention" or has_mention(str(event.get("text")), workspace.bot_user_id)
