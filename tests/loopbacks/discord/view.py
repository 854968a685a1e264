"""The loopback Discord as people see it: a server with two channels, threads, and direct messages with the bot."""

from __future__ import annotations

import mimetypes
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.loopbacks.command import Opened
from tests.loopbacks.discord.payloads import ANN, BOT, GUILD, TOKEN, Payload, user_payload
from tests.loopbacks.discord.server import DiscordLoopback
from tests.loopbacks.view import Button, Draft, Person, Refused, Room, Seen, Sent, Shown, View, is_shown

PEOPLE = {str(id_): user_payload(id_, name) for id_, name in ((ANN, "ann"), (555, "bob"))}
BOT_NAME = "sight"
CHANNELS = ("general", "pictures")
MAX_CHARS = 2_000
_THREADS = (10, 11, 12)
_DIRECT = 1
_REPLY = 19
_ONLY_FOR_ONE = 1 << 6
_SLOW = f"{BOT_NAME} did not react. Is it running?"


@asynccontextmanager
async def open_to_people(port: int = 0) -> AsyncIterator[Opened]:
    """A loopback Discord with its page, for people and for a bot that is started with the settings."""
    discord = DiscordLoopback(port=port)
    discord.limits.is_enforced = True
    for name in CHANNELS:
        discord.add_channel(name)
    for id_ in PEOPLE:
        discord.add_direct(int(id_))
    discord.more_routes = View(DiscordPlatform(discord)).routes()
    async with discord.serving():
        settings = {
            "DISCORD_TOKEN": TOKEN,
            "THREADSIGHT_DISCORD_API_URL": discord.api_url,
            "THREADSIGHT_DISCORD_GATEWAY_URL": discord.gateway_url,
        }
        yield Opened("Discord", f"{discord.url}/", settings)


class DiscordPlatform:
    def __init__(self, discord: DiscordLoopback) -> None:
        self._discord = discord

    # -- what is seen ------------------------------------------------------------------------------------------------------

    @property
    def people(self) -> list[Person]:
        return [Person(id_, user["username"]) for id_, user in PEOPLE.items()]

    def seen_by(self, person: str) -> Seen:
        _person(person)
        rooms = [self._room(id_, person) for id_, channel in self._discord.channels.items() if _may_see(channel, person)]
        return Seen(
            platform="Discord",
            bot=BOT_NAME,
            is_bot_here=bool(self._discord.gateway.links),
            has_references=True,
            people=self.people,
            rooms=rooms,
        )

    def _room(self, id_: int, person: str) -> Room:
        channel = self._discord.channels[id_]
        is_thread = channel["type"] in _THREADS
        messages = [message for _, message in sorted(self._discord.messages[id_].items())]
        if is_thread and (starter := self._discord.messages[int(channel["parent_id"])].get(id_)):
            messages.insert(0, starter)  # a thread shows the message that it was opened on
        private = self._private_messages()
        return Room(
            id=str(id_),
            name=f"@{BOT_NAME}, directly" if channel["type"] == _DIRECT else "# " * (not is_thread) + channel["name"],
            parent=channel["parent_id"] if is_thread else None,
            is_listed=True,
            status="",
            messages=[self._shown(each, person) for each in messages if private.get(each["id"], person) == person],
        )

    def _private_messages(self) -> dict[str, str]:
        """Who alone sees a message: whoever pressed or called what it answers."""
        return {
            str(message): _who(interaction)["id"]
            for interaction in self._discord.interactions.values()
            for message in self._discord.followups[int(interaction["id"])]
            if self._flags(int(interaction["channel_id"]), message) & _ONLY_FOR_ONE
        }

    def _flags(self, channel: int, message: int) -> int:
        return int(self._discord.messages[channel].get(message, {}).get("flags", 0))

    def _shown(self, message: Payload, person: str) -> Shown:
        thread = self._discord.channels.get(int(message["id"]))
        author = message["author"]
        replied_to = message.get("referenced_message") or {}
        if (reference := message.get("message_reference")) and not replied_to:
            known = self._discord.messages[int(reference.get("channel_id") or message["channel_id"])]
            replied_to = known.get(int(reference["message_id"]), {})
        return Shown(
            id=message["id"],
            room=message["channel_id"],
            author=author["username"],
            text=_read(message["content"]) or ("" if message["attachments"] else "…"),
            files=[Sent(each["id"], each["filename"], is_shown(each["filename"])) for each in message["attachments"]],
            buttons=[Button(each["custom_id"], _label(each)) for row in message["components"] for each in row["components"]],
            is_bot=author["id"] == str(BOT),
            is_own=author["id"] == person,
            is_edited=message["edited_timestamp"] is not None,
            is_private=bool(message["flags"] & _ONLY_FOR_ONE),
            is_being_written=False,
            thread=None if thread is None else thread["id"],
            num_replies=0 if thread is None else len(self._discord.messages[int(thread["id"])]),
            answers=_read(replied_to["content"])[:80] if replied_to else None,
        )

    def file(self, id_: str) -> tuple[str, bytes] | None:
        found = ((path, data) for path, data in self._discord.files.items() if path.startswith(f"/cdn/{id_}/"))
        return next(((path.rpartition("/")[2], data) for path, data in found), None)

    async def changed_since(self, version: int) -> int:
        await self._discord.wait_for(lambda: self._discord.num_changes != version, None)
        return self._discord.num_changes

    # -- what people do ----------------------------------------------------------------------------------------------------

    async def post(self, person: str, draft: Draft) -> str:
        author, channel = _person(person), self._channel(draft.room, person)
        if len(draft.text) > MAX_CHARS:
            raise Refused(f"A message on Discord has {MAX_CHARS} characters at most.")
        files = [self._file(name, data) for name, data in draft.files]
        if draft.text.startswith("/"):
            return await self._command(author, channel, draft.text, files)
        more: Payload = {"attachments": files}
        if draft.replies_to is not None:
            target = self._message(draft.room, draft.replies_to)
            reference = {"type": 0, "message_id": target["id"], "channel_id": str(channel), "guild_id": str(GUILD)}
            more |= {"type": _REPLY, "message_reference": reference, "referenced_message": target}
        message = await self._discord.post(channel, _written(draft.text), author, **more)
        await self._discord.changed()
        return str(message["id"])

    async def edit(self, person: str, room: str, message: str, text: str) -> None:
        mine, content = self._own(person, room, message), _written(text)
        mentions = [user_payload(BOT, BOT_NAME, bot=True)] if f"<@{BOT}>" in content else []
        await self._discord.edit(mine, content=content, mentions=mentions)
        await self._discord.changed()

    async def delete(self, person: str, room: str, message: str) -> None:
        await self._discord.delete(self._own(person, room, message))
        await self._discord.changed()

    async def press(self, person: str, room: str, message: str, button: str) -> None:
        pressed, user = self._message(room, message), _person(person)
        if button not in [each["custom_id"] for row in pressed["components"] for each in row["components"]]:
            raise Refused("This button is gone.")
        try:
            await self._discord.click(pressed, button, user=user)
        except TimeoutError:
            raise Refused(_SLOW) from None

    async def _command(self, user: Payload, channel: int, text: str, files: list[Payload]) -> str:
        """A slash command, with the text and the files as its options in the order in which the bot declared them."""
        name, _, rest = text[1:].partition(" ")
        commands = {each["name"]: each for each in (self._discord.commands or [[]])[-1] if each.get("type", 1) == 1}
        if name not in commands:
            raise Refused(f"The bot's commands are: {', '.join(f'/{each}' for each in commands) or 'none yet'}.")
        values = {11: [each["id"] for each in files], 3: [rest] if rest.strip() else []}
        options = []
        for option in commands[name].get("options", []):
            if values.get(option["type"]):
                options.append({"name": option["name"], "type": option["type"], "value": values[option["type"]].pop(0)})
            elif option.get("required"):
                raise Refused(f"/{name} needs: {option['description']}.")
        data = {"options": options, "resolved": {"attachments": {each["id"]: each for each in files}}}
        try:
            return str(await self._discord.command(name, channel, data=data, user=user))
        except TimeoutError:
            raise Refused(_SLOW) from None

    def _file(self, name: str, data: bytes) -> Payload:
        kind = mimetypes.guess_type(name)[0]
        return self._discord.add_file(name, data) | ({"content_type": kind} if kind else {})

    def _channel(self, room: str, person: str) -> int:
        if not room.isdecimal() or not _may_see(self._discord.channels.get(int(room), {}), person):
            raise Refused("There is no such place here.")
        return int(room)

    def _message(self, room: str, message: str) -> Payload:
        found = self._discord.messages.get(int(room), {}).get(int(message)) if room.isdecimal() and message.isdecimal() else None
        if found is None:
            raise Refused("This message is gone.")
        return found

    def _own(self, person: str, room: str, message: str) -> Payload:
        found = self._message(room, message)
        if found["author"]["id"] != person:
            raise Refused("This message is somebody else's.")
        return found


def _person(id_: str) -> Payload:
    if id_ not in PEOPLE:
        raise Refused("There is no such person here.")
    return PEOPLE[id_]


def _who(interaction: Payload) -> Payload:
    found: Payload = interaction.get("user") or interaction["member"]["user"]
    return found


def _may_see(channel: Payload, person: str) -> bool:
    return "guild_id" in channel or any(user["id"] == person for user in channel.get("recipients", ()))


def _label(button: Payload) -> str:
    return str(button.get("label") or (button.get("emoji") or {}).get("name") or "?")


def _names() -> dict[str, str]:
    return {str(BOT): BOT_NAME, **{id_: user["username"] for id_, user in PEOPLE.items()}}


def _read(content: str) -> str:
    return re.sub(r"<@!?(\d+)>", lambda match: f"@{_names().get(match[1], 'somebody')}", content)


def _written(text: str) -> str:
    ids = {name: id_ for id_, name in _names().items()}
    return re.sub(rf"@({'|'.join(ids)})\b", lambda match: f"<@{ids[match[1]]}>", text)
