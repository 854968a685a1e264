"""The loopback Slack as people see it: a workspace with two channels, threads, and direct messages with the bot."""

from __future__ import annotations

import html
import re
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

from tests.loopbacks.command import Opened
from tests.loopbacks.slack.delivery import Delivery
from tests.loopbacks.slack.server import SlackServer
from tests.loopbacks.slack.state import Channel, Message, User
from tests.loopbacks.view import Button, Draft, Person, Refused, Room, Seen, Sent, Shown, View, is_shown

PEOPLE = ("ann", "bob")
BOT_NAME = "threadsight"
CHANNELS = ("general", "pictures")
MAX_CHARS = 40_000


@asynccontextmanager
async def open_to_people(port: int = 0) -> AsyncIterator[Opened]:
    """A loopback Slack with its page, for people and for a bot that is started with the settings."""
    slack = SlackServer()
    slack.port = port
    slack.limits.is_enforced = True
    people = [slack.add_user(name, is_admin=name == PEOPLE[0]) for name in PEOPLE]
    for name in CHANNELS:
        slack.add_channel(name, members=people)
    for user in people:
        slack.direct(user)
    slack.more_routes = View(SlackPlatform(slack, people)).routes()
    async with slack:
        settings = {
            "SLACK_BOT_TOKEN": slack.bot_token,
            "SLACK_APP_TOKEN": slack.app_token,
            "THREADSIGHT_SLACK_API_URL": slack.api_url,
        }
        yield Opened("Slack", slack.api_url.removesuffix("api/"), settings)


class SlackPlatform:
    """A thread is a room whose id is its channel's and its root's ts."""

    def __init__(self, slack: SlackServer, people: list[User]) -> None:
        self._slack = slack
        self._people = {user.id: user for user in people}

    # -- what is seen ------------------------------------------------------------------------------------------------------

    @property
    def people(self) -> list[Person]:
        return [Person(user.id, user.name) for user in self._people.values()]

    def seen_by(self, person: str) -> Seen:
        user = self._person(person)
        rooms = []
        for channel in self._slack.state.channels.values():
            if _may_see(channel, user):
                rooms.append(self._channel_room(channel, user))
                rooms += [self._thread_room(channel, root, user) for root in self._slack.messages(channel) if not root.is_reply]
        return Seen(
            platform="Slack",
            bot=BOT_NAME,
            is_bot_here=bool(self._slack.socket.open_connections),
            has_references=False,
            people=self.people,
            rooms=rooms,
        )

    def _channel_room(self, channel: Channel, user: User) -> Room:
        name = f"@{BOT_NAME}, directly" if channel.kind == "im" else f"# {channel.name}"
        messages = self._slack.messages(channel) + self._private(channel, None, user)
        return Room(channel.id, name, None, True, "", self._shown_in_order(messages, user))

    def _thread_room(self, channel: Channel, root: Message, user: User) -> Room:
        replies = self._slack.messages(channel, root.ts)
        private = self._private(channel, root.ts, user)
        status = self._slack.status(channel, root.ts)
        return Room(
            id=f"{channel.id}/{root.ts}",
            name=self._read(root.shown).removeprefix(f"@{BOT_NAME}").strip()[:80] or "a picture",
            parent=channel.id,
            is_listed=len(replies) + len(private) > 1,
            status=f"{BOT_NAME} {status}" if status else "",
            messages=self._shown_in_order(replies + private, user),
        )

    def _private(self, channel: Channel, thread_ts: str | None, user: User) -> list[Message]:
        return [
            each
            for each in self._slack.ephemeral
            if each.only_for is user and each.channel is channel and (each.thread_ts if each.is_reply else None) == thread_ts
        ]

    def _shown_in_order(self, messages: list[Message], user: User) -> list[Shown]:
        return [self._shown(each, user) for each in sorted(messages, key=lambda message: message.ts)]

    def _shown(self, message: Message, user: User) -> Shown:
        can_be_answered = message.only_for is None
        return Shown(
            id=message.ts,
            room=message.channel.id,
            author=message.user.name,
            text=self._read(message.shown),
            files=[Sent(file.id, file.name, is_shown(file.name)) for file in message.files],
            buttons=[Button(f"{action_id} {value}", label) for action_id, label, value in message.buttons],
            is_bot=message.user.is_bot,
            is_own=message.user is user and message.subtype != "tombstone",
            is_edited=message.edited_ts is not None and not message.user.is_bot,
            is_private=message.only_for is not None,
            is_being_written=message.stream == "live",
            thread=f"{message.channel.id}/{message.thread_ts or message.ts}" if can_be_answered else None,
            num_replies=0 if message.is_reply else len(message.channel.thread(message.ts)) - 1,
        )

    def file(self, id_: str) -> tuple[str, bytes] | None:
        found = self._slack.state.files.get(id_)
        return None if found is None else (found.name, found.data)

    async def changed_since(self, version: int) -> int:
        state = self._slack.state
        await state.wait_for(lambda: state.num_changes != version, None)
        return state.num_changes

    # -- what people do ----------------------------------------------------------------------------------------------------

    async def post(self, person: str, draft: Draft) -> str:
        user = self._person(person)
        channel, thread_ts = self._place(draft.room, user)
        if len(draft.text) > MAX_CHARS:
            raise Refused(f"A message on Slack has {MAX_CHARS} characters at most.")
        if draft.text.startswith("/"):
            return await self._command(user, channel, draft.text)
        message = await self._slack.post(channel, user, self._written(draft.text), draft.files, thread_ts=thread_ts)
        return message.ts

    async def edit(self, person: str, room: str, message: str, text: str) -> None:
        await self._slack.edit(self._own(person, room, message), self._written(text))

    async def delete(self, person: str, room: str, message: str) -> None:
        await self._slack.delete(self._own(person, room, message))

    async def press(self, person: str, room: str, message: str, button: str) -> None:
        user = self._person(person)
        pressed = self._message(room, message, user)
        for action_id, _, value in pressed.buttons:
            if button == f"{action_id} {value}":
                break
        else:
            raise Refused("This button is gone.")
        await self._interact(user, self._slack.click(user, pressed, action_id, value))

    async def _command(self, user: User, channel: Channel, text: str) -> str:
        command, _, rest = text.partition(" ")
        await self._interact(user, self._slack.slash(user, channel, command, rest.strip()))
        return ""

    async def _interact(self, user: User, doing: Awaitable[Delivery]) -> None:
        num_views = len(self._slack.views)
        try:
            delivery = await doing
        except TimeoutError:
            delivery = None
        await self._slack.state.changed()
        if delivery is None or not delivery.is_acknowledged:
            raise Refused(f"{BOT_NAME} did not react. Is it running?")
        if any(view.user is user for view in self._slack.views[num_views:]):
            raise Refused(f"{BOT_NAME} opened a form, and this page has none: post a picture and mention it instead.")

    def _person(self, id_: str) -> User:
        if id_ not in self._people:
            raise Refused("There is no such person here.")
        return self._people[id_]

    def _place(self, room: str, user: User) -> tuple[Channel, str | None]:
        id_, _, thread_ts = room.partition("/")
        channel = self._slack.state.channels.get(id_)
        if channel is None or not _may_see(channel, user) or (thread_ts and thread_ts not in channel.messages):
            raise Refused("There is no such place here.")
        return channel, thread_ts or None

    def _message(self, room: str, message: str, user: User) -> Message:
        channel, _ = self._place(room, user)
        private = {each.ts: each for each in self._slack.ephemeral if each.only_for is user and each.channel is channel}
        found = channel.messages.get(message) or private.get(message)
        if found is None:
            raise Refused("This message is gone.")
        return found

    def _own(self, person: str, room: str, message: str) -> Message:
        user = self._person(person)
        found = self._message(room, message, user)
        if found.user is not user or found.subtype == "tombstone":
            raise Refused("This message is not yours to change.")
        return found

    def _names(self) -> dict[str, str]:
        return {self._slack.bot_user_id: BOT_NAME, **{id_: user.name for id_, user in self._people.items()}}

    def _read(self, text: str) -> str:
        """Marks become what Slack shows in their place (https://docs.slack.dev/messaging/formatting-message-text)."""
        names = self._names()
        text = re.sub(r"<@(\w+)(?:\|[^>]*)?>", lambda match: f"@{names.get(match[1], 'somebody')}", text)
        text = re.sub(r"<(https?://[^|>]+)(?:\|([^>]*))?>", lambda match: match[2] or match[1], text)
        return html.unescape(text)

    def _written(self, text: str) -> str:
        """As Slack keeps what people type."""
        ids = {name: id_ for id_, name in self._names().items()}
        escaped = html.escape(text, quote=False)
        return re.sub(rf"@({'|'.join(ids)})\b", lambda match: f"<@{ids[match[1]]}>", escaped)


def _may_see(channel: Channel, user: User) -> bool:
    return channel.kind != "im" or channel.members == [user]
