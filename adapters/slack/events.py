"""What Slack tells of messages and places, put together and handed to the dispatcher."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from weakref import WeakValueDictionary

from adapters.base import ThreadHandler
from adapters.dispatcher import Dispatcher
from adapters.slack.actions import PLATFORM, Actions
from adapters.slack.markup import has_mention
from adapters.slack.merge import Merger, PostId, Record
from adapters.slack.translate import Translator, is_automatic, message_id, read_message
from adapters.slack.workspaces import Workspace, Workspaces
from adapters.surface import DestinationGone

log = logging.getLogger(__name__)

Event = Mapping[str, Any]


class Events:
    def __init__(
        self, dispatcher: Dispatcher, handler: ThreadHandler, translator: Translator, workspaces: Workspaces, actions: Actions
    ) -> None:
        self._dispatcher = dispatcher
        self._handler = handler
        self._translator = translator
        self._workspaces = workspaces
        self._actions = actions
        self._merger = Merger(self._deliver, self._look_up)
        self._edits: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def message(self, workspace: Workspace, event: Event) -> None:
        """Events `message` and `app_mention`."""
        channel, subtype = str(event.get("channel") or ""), event.get("subtype")
        if subtype == "message_deleted":
            await self._dispatcher.on_delete(workspace.id, message_id(channel, str(event.get("deleted_ts"))))
        elif subtype == "message_changed":
            await self._changed(workspace, channel, event)
        elif is_automatic(event, workspace.bot_user_id):
            return
        elif event.get("edited"):
            await self._edited(workspace, channel, event)
        else:
            is_mention = event.get("type") == "app_mention" or has_mention(str(event.get("text")), workspace.bot_user_id)
            await self._merger.take((workspace.id, channel, str(event["ts"])), event, is_mention=is_mention)

    async def left(self, workspace: Workspace, event: Event) -> None:
        """A channel was deleted, or we are no longer in it."""
        await self._dispatcher.on_room_gone(workspace.id, str(event.get("channel") or ""))

    async def _changed(self, workspace: Workspace, channel: str, event: Event) -> None:
        message, before = event.get("message") or {}, event.get("previous_message") or {}
        if message.get("subtype") == "tombstone":  # a deleted message that has replies
            await self._dispatcher.on_delete(workspace.id, message_id(channel, str(message.get("ts"))))
        elif not is_automatic(message, workspace.bot_user_id) and message.get("text") != before.get("text"):
            await self._edited(workspace, channel, {**message, "channel_type": event.get("channel_type")})

    async def _edited(self, workspace: Workspace, channel: str, event: Event) -> None:
        """An edit comes as message_changed and, when it mentions us, as a new app_mention, which may lack the files."""
        if event.get("channel_type") is None:
            event = {name: value for name, value in event.items() if name != "channel_type"}
        is_mention = event.get("type") == "app_mention" or has_mention(str(event.get("text")), workspace.bot_user_id)
        post = self._translator.post(workspace, channel, event, is_mention=is_mention)
        is_known = await self._handler.find_message(PLATFORM, workspace.id, post.message_id) is not None
        if not is_known and not await self._dispatcher.concerns_us(post):
            return
        if not event.get("files"):
            event = await read_message(workspace, channel, str(event["ts"]), event.get("thread_ts")) or event
            is_mention = is_mention or has_mention(str(event.get("text")), workspace.bot_user_id)
            post = self._translator.post(workspace, channel, event, is_mention=is_mention)
        post = replace(post, attachments=await self._translator.attachments(workspace, event))
        lock = self._edits.setdefault((workspace.id, post.message_id), asyncio.Lock())
        async with lock:  # the second event of one edit finds the question changed already
            await self._dispatcher.on_edit(post)

    async def _deliver(self, record: Record, is_late: bool) -> None:
        workspace_id, channel, _ = record.id
        workspace = await self._workspaces.find(workspace_id)
        post = self._translator.post(workspace, channel, record.event, is_mention=record.is_mention)
        is_known = await self._handler.find_message(PLATFORM, workspace_id, post.message_id) is not None
        if is_known and not is_late:
            return
        if not is_known and (await self._actions.take_word(post) or not await self._dispatcher.concerns_us(post)):
            return
        post = replace(post, attachments=await self._translator.attachments(workspace, record.event))
        await (self._dispatcher.on_edit(post) if is_known else self._dispatcher.on_post(post))  # it has more pictures than we knew

    async def _look_up(self, id_: PostId, event: Event) -> Event | None:
        workspace_id, channel, ts = id_
        try:
            workspace = await self._workspaces.find(workspace_id)
        except DestinationGone:
            return None
        return await read_message(workspace, channel, ts, event.get("thread_ts"))
