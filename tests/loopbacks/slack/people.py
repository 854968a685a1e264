"""People's actions in the loopback Slack, and the events and payloads that Slack sends the app for them.

How one post reaches an app varies in reality (see `How`); https://docs.slack.dev/reference/events/app_mention and message.
"""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from aiohttp import web

from tests.loopbacks.slack.delivery import Deliveries, Delivery
from tests.loopbacks.slack.payloads import (
    FileForm,
    changed_event,
    click_body,
    deleted_event,
    event_body,
    file_object,
    interaction_body,
    mention_event,
    message_event,
    message_object,
    shortcut_body,
    slash_body,
    tombstone_event,
)
from tests.loopbacks.slack.reading_blocks import clickables, mentioned
from tests.loopbacks.slack.state import (
    CHANNEL_TYPE,
    HISTORY_SCOPE,
    Channel,
    File,
    FileFault,
    Json,
    Message,
    SlackState,
    Team,
    User,
    View,
)

How = Literal[
    "normal",  # message, then app_mention if the bot is mentioned outside of direct messages
    "reversed",  # app_mention first
    "mention_only",  # as on Enterprise Grid (hermes-agent issue 12193)
    "message_only",  # a mention posted together with a file (bolt-python issue 925)
    "mention_without_files",  # app_mention, without the files; then message with them (hermes-agent pull request 77141)
    "mention_without_files_only",  # app_mention, without the files, and nothing else
    "thin_files",  # both, with only the ids of the files
    "check_file_info",  # both, with files as in Slack Connect
    "doubled",  # both, each twice with the same event_id
    "held",  # nothing; `tell` sends the events later
]
_FORMS: dict[str, FileForm] = {"thin_files": "thin", "check_file_info": "check_file_info", "mention_without_files_only": "none"}
_SUBSCRIPTION = {"channel": "message.channels", "private": "message.groups", "im": "message.im", "mpim": "message.mpim"}
MAX_RESPONSES = 5  # to one response_url


@dataclass
class _ResponsePlace:
    delivery: Delivery
    channel: Channel
    user: User
    message: Message | None = None  # whose button was pressed


class People:
    """`subscriptions`: the app's bot events. `echoes_own`: the bot's own messages and edits cause events too, as on Slack."""

    def __init__(self, state: SlackState, deliveries: Deliveries) -> None:
        self.state = state
        self.deliveries = deliveries
        self.subscriptions = (
            {*_SUBSCRIPTION.values(), "app_mention", "app_home_opened", "agent_session_stopped"}
            | {
                "app_uninstalled",
                "tokens_revoked",
            }
            | {f"{kind}_{what}" for kind in ("channel", "group") for what in ("left", "deleted", "archive")}
        )
        self.echoes_own = True
        self.api_url = ""
        self._response_places: dict[str, _ResponsePlace] = {}

    def add_file(
        self,
        user: User,
        name: str,
        data: bytes,
        *,
        mode: str = "hosted",
        fault: FileFault | None = None,
        announced_size: int | None = None,
    ) -> File:
        """Make a file for `post` or `submit_view`. `mode`: hosted, external, tombstone, hidden_by_limit. `fault`: 404 and 403; cut
        (half of the picture in a complete response), truncated (the connection breaks), slow (the second half never comes),
        endless, sign_in (Slack's HTML page). `announced_size` is the size in bytes that Slack gives, None the true one."""
        id_ = self.state.new_id("F")
        url = f"{self.api_url.removesuffix('api/')}files-pri/{id_}/{name}"
        mimetype = mimetypes.guess_type(name)[0] or "application/octet-stream"
        file = File(id_, name, data, user, url, mimetype, mode, fault, announced_size)
        self.state.files[id_] = file
        return file

    # -- events ------------------------------------------------------------------------------------------------------------

    def publish(self, channel: Channel, event: Json, *, times: int = 1) -> list[Delivery]:
        """Send an event of the channel `times` times with one event_id, if the app may get it."""
        kind, team = event["type"], channel.team
        is_own = event.get("bot_id") == team.bot_id or event.get("message", {}).get("bot_id") == team.bot_id
        if kind == "message":
            is_due = _SUBSCRIPTION[channel.kind] in self.subscriptions and HISTORY_SCOPE[channel.kind] in team.scopes
        else:
            is_due = kind in self.subscriptions and (kind != "app_mention" or "app_mentions:read" in team.scopes)
        is_there = (channel.is_bot_member or kind.endswith("_left")) and team.is_installed
        if not (is_due and is_there) or (is_own and not self.echoes_own):
            return []
        body = event_body(self.state, team, event)
        return [self.deliveries.start("events_api", body) for _ in range(times)]

    async def post(
        self,
        channel: Channel,
        user: User,
        text: str,
        files: Sequence[tuple[str, bytes] | File] = (),
        *,
        thread_ts: str | None = None,
        how: How = "normal",
        is_broadcast: bool = False,
    ) -> Message:
        """A person posts. `text` is as Slack stores it: mentions are <@ID>, and & < > are escaped. Does not wait for the app."""
        if user not in channel.members:
            channel.members.append(user)
        kept = [file if isinstance(file, File) else self.add_file(user, *file) for file in files]
        subtype = "thread_broadcast" if is_broadcast else "file_share" if kept else None
        message = Message(channel, self.state.new_ts(), user, text, thread_ts, files=kept, subtype=subtype)
        self.state.add_message(message)
        await self.tell(message, how)
        return message

    async def tell(self, message: Message, how: How = "normal") -> list[Delivery]:
        """Send the events of an existing message."""
        form = _FORMS.get(how, "full")
        message_form: FileForm = "full" if how == "mention_without_files" else form
        mention_form: FileForm = "none" if how == "mention_without_files" else form
        events = [message_event(message, message_form)]
        channel = message.channel
        if channel.kind != "im" and channel.team.bot_user_id in mentioned(message.text):
            events.append(mention_event(message, mention_form))
        if how in ("reversed", "mention_without_files"):
            events.reverse()
        dropped = {"mention_only": "message", "mention_without_files_only": "message", "message_only": "app_mention"}.get(how)
        sent: list[Delivery] = []
        for event in events if how != "held" else []:
            if event["type"] != dropped:
                sent += self.publish(channel, event, times=2 if how == "doubled" else 1)
        for file in message.files if how != "held" else []:
            shared = {"type": "file_shared", "file_id": file.id, "user_id": file.user.id, "file": {"id": file.id}}
            sent += self.publish(channel, shared | {"channel_id": channel.id, "event_ts": self.state.new_ts()})
        await self.state.changed()
        return sent

    async def edit(self, message: Message, text: str, *, fires_mention: bool = True) -> None:
        """Edit a message: message_changed, and if the text mentions the bot, app_mention with a new event_id and `edited`."""
        before = message_object(message)
        message.text, message.edited_ts = text, self.state.new_ts()
        self.state.show(message)
        self.publish(message.channel, changed_event(message, before, message.edited_ts))
        if fires_mention and message.channel.kind != "im" and message.channel.team.bot_user_id in mentioned(text):
            self.publish(message.channel, mention_event(message))
        await self.state.changed()

    async def delete(self, message: Message) -> None:
        """Delete a message: message_deleted, or message_changed to a tombstone if it has replies."""
        channel, before, at = message.channel, message_object(message), self.state.new_ts()
        has_replies = len(channel.thread(message.ts)) > 1
        message.is_deleted = True
        if has_replies:
            self.publish(channel, tombstone_event(message, before, at))
            message.text, message.subtype, message.files = "This message was deleted.", "tombstone", []
        else:
            del channel.messages[message.ts]
            self.publish(channel, deleted_event(message, before, at))
        await self.state.changed()

    async def kick_bot(self, channel: Channel) -> None:
        channel.is_bot_member = False
        await self._happen(channel, "left")

    async def archive(self, channel: Channel) -> None:
        channel.is_archived = True
        await self._happen(channel, "archive")

    async def delete_channel(self, channel: Channel) -> None:
        await self._happen(channel, "deleted")
        del self.state.channels[channel.id]

    async def _happen(self, channel: Channel, what: str) -> None:
        kind = "group" if CHANNEL_TYPE[channel.kind] == "group" else "channel"
        self.publish(channel, {"type": f"{kind}_{what}", "channel": channel.id, "event_ts": self.state.new_ts()})
        await self.state.changed()

    async def uninstall(self, team: Team) -> None:
        """Remove the app from the workspace: its token becomes invalid, and two events are sent."""
        team.is_installed = False
        events = {"type": "tokens_revoked", "tokens": {"oauth": [], "bot": [team.bot_user_id]}}, {"type": "app_uninstalled"}
        for event in (event for event in events if event["type"] in self.subscriptions):
            self.deliveries.start("events_api", event_body(self.state, team, event | {"event_ts": self.state.new_ts()}))
        await self.state.changed()

    async def open_home(self, user: User, tab: Literal["home", "messages"] = "home") -> None:
        channel = self.state.direct_channel(user)
        event = {"type": "app_home_opened", "user": user.id, "channel": channel.id, "tab": tab, "event_ts": self.state.new_ts()}
        known = [view.view for view in self.state.views if view.user is user and view.view["type"] == "home"]
        self.publish(channel, event | ({"view": known[-1]} if known else {}))
        await self.state.changed()

    async def stop_session(self, user: User, channel: Channel, thread_ts: str) -> None:
        """Press Slack's own Stop, which an agent app has (`state.is_agent`): its streams in the thread end."""
        if not self.state.is_agent:
            raise LookupError("Slack offers no Stop for an app that is no agent: state.is_agent must be set")
        live = [message for message in channel.thread(thread_ts) if message.stream == "live"]
        for message in live:
            message.stream = "stopped_by_user"
        event = {"type": "agent_session_stopped", "channel": channel.id, "thread_ts": thread_ts, "user": user.id}
        self.publish(channel, event | {"streaming_message_ts": [m.ts for m in live], "event_ts": self.state.new_ts()})
        await self.state.changed()

    # -- interactions: these return when the app has acknowledged, or after the last attempt ------------------------------

    async def click(self, user: User, message: Message, action_id: str, value: str | None = None) -> Delivery:
        """Press a button of the message; `value` selects one if several have the same action_id."""
        known = [action for action, _ in clickables(message.blocks) if action["action_id"] == action_id]
        chosen = [action for action in known if value in (None, action.get("value", ""))]
        if not chosen:
            raise LookupError(f"there is no button {action_id} {value or ''} in this message, only {message.buttons}")
        url = self._new_response_url()
        if message.only_for not in (None, user):
            raise LookupError("this message is for somebody else alone")
        body = click_body(self.state, user, message, chosen[0], url)
        return await self._interact("interactive", body, message.channel, user, message)

    async def shortcut(self, user: User, callback_id: str, message: Message) -> Delivery:
        """Use a message shortcut, from the message's menu."""
        body = shortcut_body(self.state, user, callback_id, message, self._new_response_url())
        return await self._interact("interactive", body, message.channel, user)

    async def slash(self, user: User, channel: Channel, command: str, text: str = "") -> Delivery:
        body = slash_body(self.state, user, channel, command, text, self._new_response_url())
        return await self._interact("slash_commands", body, channel, user)

    async def submit_view(self, user: User, view: View, answers: Mapping[str, str | Sequence[File]]) -> Delivery:
        """Submit a modal. `answers`: a text or files for each input's block id."""
        values: dict[str, Any] = {}
        for block in view.view["blocks"]:
            if block["type"] == "input" and block["block_id"] in answers:
                element, answer = block["element"], answers[block["block_id"]]
                filled = {"value": answer} if isinstance(answer, str) else {"files": [file_object(file) for file in answer]}
                values[block["block_id"]] = {element["action_id"]: {"type": element["type"]} | filled}
        body = interaction_body(self.state, "view_submission", user)
        body |= {"view": view.view | {"state": {"values": values}}, "response_urls": []}
        return await self._interact("interactive", body, self.state.direct_channel(user), user)

    async def _interact(
        self,
        kind: Literal["interactive", "slash_commands"],
        body: Json,
        channel: Channel,
        user: User,
        message: Message | None = None,
    ) -> Delivery:
        delivery = self.deliveries.start(kind, body)
        if "response_url" in body:
            self._response_places[body["response_url"].rpartition("/")[2]] = _ResponsePlace(delivery, channel, user, message)
        await self.state.wait_for(lambda: delivery.is_finished, 2 * self.deliveries.ack_seconds + 1)
        if kind == "slash_commands" and delivery.answer is not None:
            self._show_response(_ResponsePlace(delivery, channel, user), delivery.answer)
        return delivery

    def _new_response_url(self) -> str:
        return f"{self.api_url.removesuffix('api/')}response/{self.state.new_id('R')}"

    async def serve_response(self, request: web.Request) -> web.Response:
        """Serve a response_url. The response is recorded in `Delivery.responses` and shown, to one person unless response_type is
        in_channel; with replace_original it replaces the message whose button was pressed."""
        place = self._response_places.get(request.match_info["id"])
        if place is None or len(place.delivery.responses) >= MAX_RESPONSES:
            return web.json_response({"ok": False, "error": "used_url"}, status=404)
        payload = await request.json()
        place.delivery.responses.append(payload)
        self._show_response(place, payload)
        await self.state.changed()
        return web.Response(text="ok")

    def _show_response(self, place: _ResponsePlace, payload: Json) -> None:
        text, blocks = payload.get("text", ""), payload.get("blocks") or []
        if payload.get("replace_original") and place.message is not None:
            place.message.text, place.message.blocks = text, blocks
            self.state.show(place.message)
        elif text or blocks:
            bot = self.state.users[place.user.team.bot_user_id]
            only_for = None if payload.get("response_type") == "in_channel" else place.user
            self.state.add_message(Message(place.channel, self.state.new_ts(), bot, text, blocks=blocks, only_for=only_for))
