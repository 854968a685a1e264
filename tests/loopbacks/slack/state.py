"""The data of the loopback Slack: teams, people, channels, messages, files, views; and the record of calls.

Plain data with the rules that all its users share. Times of day are Slack's `ts` (seconds since 1970 with six decimals, unique);
durations are seconds on the monotonic clock.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from tests.loopbacks.slack.reading_blocks import alerts, block_texts, clickables

ChannelKind = Literal["channel", "private", "im", "mpim"]
FileFault = Literal["404", "403", "cut", "truncated", "slow", "endless", "sign_in"]
StreamState = Literal["live", "done", "expired", "stopped_by_user"]
Json = dict[str, Any]
T = TypeVar("T")

HISTORY_SCOPE = {"channel": "channels:history", "private": "groups:history", "im": "im:history", "mpim": "mpim:history"}
READ_SCOPE = {"channel": "channels:read", "private": "groups:read", "im": "im:read", "mpim": "mpim:read"}
CHANNEL_TYPE = {"channel": "channel", "private": "group", "im": "im", "mpim": "mpim"}
SCOPES = frozenset({"app_mentions:read", "chat:write", "commands", "files:read", "reactions:write", "users:read", "team:read"}) | {
    *HISTORY_SCOPE.values(),
    *READ_SCOPE.values(),
}


class SlackError(Exception):
    """Slack's response {"ok": false, "error": word}, with further keys if there are any."""

    def __init__(self, word: str, **more: Any) -> None:
        super().__init__(word)
        self.word = word
        self.more = more


@dataclass(eq=False)
class Team:
    id: str
    name: str
    bot_token: str
    bot_user_id: str
    bot_id: str
    scopes: set[str] = field(default_factory=lambda: set(SCOPES))
    is_installed: bool = True


@dataclass(eq=False)
class User:
    id: str
    name: str
    team: Team
    is_admin: bool = False
    is_bot: bool = False


@dataclass(eq=False)
class File:
    """`mode`: hosted, external, tombstone, hidden_by_limit. `announced_size`: the size that Slack gives, by default the true
    one."""

    id: str
    name: str
    data: bytes
    user: User
    url: str
    mimetype: str = "image/png"
    mode: str = "hosted"
    fault: FileFault | None = None
    announced_size: int | None = None
    num_downloads: int = 0


@dataclass(eq=False)
class Message:
    """`text`, `markdown` (markdown_text or the stream so far) and `blocks` are as sent; `shown` is what people see."""

    channel: Channel
    ts: str
    user: User
    text: str = ""
    thread_ts: str | None = None
    markdown: str = ""
    blocks: list[Json] = field(default_factory=list)
    files: list[File] = field(default_factory=list)
    subtype: str | None = None
    edited_ts: str | None = None
    is_deleted: bool = False
    only_for: User | None = None  # ephemeral
    stream: StreamState | None = None
    stream_started_at: float = 0.0
    reactions: set[str] = field(default_factory=set)
    history: list[str] = field(default_factory=list)  # all texts that were shown, oldest first

    @property
    def is_reply(self) -> bool:
        return self.thread_ts is not None and self.thread_ts != self.ts

    @property
    def shown(self) -> str:
        """The words that a person sees: with blocks, `text` is only a fallback (for notifications) and is not shown."""
        words = [self.markdown, *block_texts(self.blocks)] if self.markdown or self.blocks else [self.text]
        return "\n".join(word for word in words if word)

    @property
    def buttons(self) -> list[tuple[str, str, str]]:
        """(action_id, label, value) of everything that can be clicked."""
        return [(action["action_id"], label, action.get("value", "")) for action, label in clickables(self.blocks)]


@dataclass(eq=False)
class Channel:
    id: str
    name: str
    kind: ChannelKind
    team: Team
    members: list[User] = field(default_factory=list)
    is_bot_member: bool = True
    is_archived: bool = False
    messages: dict[str, Message] = field(default_factory=dict)  # by ts; without ephemeral and deleted ones

    def thread(self, ts: str) -> list[Message]:
        """The root, if it exists, and its replies."""
        return [m for m in self.messages.values() if m.ts == ts or m.thread_ts == ts]


@dataclass(frozen=True)
class Call:
    """One call of the Web API. `error` is Slack's word, "HTTP 500" or "reset"; None if it was ok. `at`: monotonic seconds."""

    method: str
    arguments: Json
    token: str
    error: str | None
    at: float


@dataclass(frozen=True)
class Broadcast:
    """A message of the bot that notified people: `what` is "<!channel>" and the like, or a mention such as "<@U00000001>"."""

    message: Message
    what: str


@dataclass(eq=False)
class View:
    id: str
    user: User
    view: Json
    hash: str


class SlackState:
    def __init__(self) -> None:
        self.teams: dict[str, Team] = {}
        self.users: dict[str, User] = {}
        self.channels: dict[str, Channel] = {}
        self.files: dict[str, File] = {}
        self.views: list[View] = []  # every view that was opened, published or updated, in order
        self.ephemeral: list[Message] = []
        self.broadcasts: list[Broadcast] = []
        self.calls: list[Call] = []
        self.statuses: dict[tuple[str, str], str] = {}  # (channel id, thread ts) -> status under the thread
        self.status_history: list[tuple[str, str, str]] = []
        self.sessions: dict[tuple[str, str], str] = {}  # (channel id, thread ts) -> agent session's status
        self.triggers: dict[str, tuple[User, float]] = {}  # id -> who clicked, when
        self.oauth_codes: dict[str, Team] = {}
        self.app_id = "A00000001"
        self.app_token = "xapp-1-A00000001-loopback"
        self.client_id, self.client_secret = "100.200", "client-secret"
        self.is_agent = False
        self.stream_seconds = 300.0
        self.trigger_seconds = 3.0
        self._numbers = itertools.count(1)
        self._last_microseconds = 0
        self.num_changes = 0
        self._condition = asyncio.Condition()

    async def changed(self) -> None:
        async with self._condition:
            self.num_changes += 1
            self._condition.notify_all()

    async def wait_for(self, look: Callable[[], T], within_seconds: float | None) -> T:
        """Call `look` after every change until its result is true, and return that. Raises TimeoutError."""
        async with asyncio.timeout(within_seconds), self._condition:
            return await self._condition.wait_for(look)

    def new_id(self, prefix: str) -> str:
        return f"{prefix}{next(self._numbers):08d}"

    def new_ts(self) -> str:
        """The current time as a unique `ts`."""
        self._last_microseconds = max(time.time_ns() // 1000, self._last_microseconds + 1)
        return f"{self._last_microseconds // 10**6}.{self._last_microseconds % 10**6:06d}"

    # -- finding, as a bot sees it -----------------------------------------------------------------------------------------

    def channel_for(self, team: Team, id_: object, *, to_write: bool = False) -> Channel:
        """A channel that the bot of `team` is in. A user's id means the direct messages with this person."""
        channel = self.channels.get(str(id_)) or self._direct_channel(str(id_))
        if channel is None or channel.team is not team:
            raise SlackError("channel_not_found")
        if not channel.is_bot_member:
            raise SlackError("not_in_channel" if channel.kind == "channel" else "channel_not_found")
        if to_write and channel.is_archived:
            raise SlackError("is_archived")
        return channel

    def _direct_channel(self, user_id: str) -> Channel | None:
        user = self.users.get(user_id)
        return None if user is None else self.direct_channel(user)

    def direct_channel(self, user: User) -> Channel:
        found = next((c for c in self.channels.values() if c.kind == "im" and c.members == [user]), None)
        if found is None:
            found = Channel(self.new_id("D"), "directmessage", "im", user.team, [user])
            self.channels[found.id] = found
        return found

    def own_message(self, channel: Channel, ts: object, error: str) -> Message:
        """The bot's own message; its stream is ended first if it has expired. Raises SlackError `error` for another author's."""
        self._expire_old_streams()
        message = channel.messages.get(str(ts))
        if message is None:
            raise SlackError("message_not_found")
        if message.user.id != channel.team.bot_user_id:
            raise SlackError(error)
        return message

    # -- messages ----------------------------------------------------------------------------------------------------------

    def add_message(self, message: Message) -> Message:
        if message.only_for is not None:
            self.ephemeral.append(message)
        else:
            message.channel.messages[message.ts] = message
        if message.user.is_bot and message.thread_ts is not None:
            self.statuses.pop((message.channel.id, message.thread_ts), None)
        self.show(message)
        return message

    def show(self, message: Message) -> None:
        """Record what people see now, and whom it notifies."""
        if not message.history or message.history[-1] != message.shown:
            message.history.append(message.shown)
        if not message.user.is_bot:
            return
        texts = [message.text, message.markdown, *block_texts(message.blocks, with_plain=False)]
        for what in (what for text in texts for what in alerts(text)):
            if not any(known.message is message and known.what == what for known in self.broadcasts):
                self.broadcasts.append(Broadcast(message, what))

    def _expire_old_streams(self) -> None:
        """Slack ends a stream some time after its start, appends or not (python-slack-sdk issue 1859)."""
        for channel in self.channels.values():
            for message in channel.messages.values():
                if message.stream == "live" and time.monotonic() - message.stream_started_at >= self.stream_seconds:
                    message.stream = "expired"

    # -- triggers ----------------------------------------------------------------------------------------------------------

    def new_trigger(self, user: User) -> str:
        trigger = f"{next(self._numbers)}.{user.team.id}.trigger"
        self.triggers[trigger] = user, time.monotonic()
        return trigger

    def use_trigger(self, trigger: object) -> User:
        """https://docs.slack.dev/reference/methods/views.open: a trigger is valid once, within three seconds."""
        if str(trigger) not in self.triggers:
            raise SlackError("invalid_trigger_id")
        user, at = self.triggers[str(trigger)]
        if at < 0:
            raise SlackError("exchanged_trigger_id")
        if time.monotonic() - at > self.trigger_seconds:
            raise SlackError("expired_trigger_id")
        self.triggers[str(trigger)] = user, -1.0
        return user
