"""Writes an answer on Discord: in a channel, in a thread, or as the reply to a command, with the interaction's token.

A new message has a nonce, which stays the same until Discord has confirmed the message, so that a repeated attempt creates no
second one (https://discord.com/developers/docs/resources/message#create-message, enforce_nonce). The nonce of an answer's first
message is always the same: a program that was killed before the confirmation finds the message again, if it restarts within a few
minutes.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any, cast

import discord

from adapters.discord.api_errors import INVALID_FORM, CannotEdit, NotTaken, translated_errors
from adapters.discord.buttons import custom_ids, view_of
from adapters.discord.code_blocks import with_code_blocks
from adapters.discord.destination import Destination
from adapters.surface import DestinationGone, Page, TooLong, TryLater
from adapters.text.markdown import heal, literal

MAX_MESSAGE_CHARS = 2_000
CANNOT_REPLY = 160002  # because the bot may not read the message history
MAX_ALT_TEXT_CHARS = 1_024  # Discord's limit for a picture's description
HINT = "To go on, mention me or reply to me: I do not see other messages here."
_ORIGINAL = "@original"
MAX_FOLLOW_UPS = 5  # after the first, where only the person installed the app (interactions/receiving-and-responding)
CUT = "My answer is longer, but Discord lets me write no more messages here. Ask me for the rest, or for a shorter answer."
NOT_TAKEN = "Discord does not take my answer in this form. “Regenerate”, or other words in the question, may help."
NOT_ALLOWED_HERE = "The rules of this server's moderation do not let my answer through."
_LEAST_PAGE_CHARS = 500
_CUT_ID = "cut"  # the reply id of pages that are not shown
_HINT_ROOM, _CUT_ROOM = len(HINT) + 8, len(CUT) + 8
_ENDLESS = 1_000_000
_SENTENCE_END = re.compile(r"[.!?…](?=\s)")
_OLD_EDIT_SECONDS = 60.0

Clock = Callable[[], float]


def original_id(interaction_id: int) -> str:
    """The reply id of Discord's placeholder while a command is being answered ("... is thinking"), until the first edit."""
    return f"{_ORIGINAL}:{interaction_id}"


def render(page: Page, *, hint: str | None = None) -> str:
    """The page as a message's content. Our own sentences are under the text, in small print."""
    text = with_code_blocks(heal(page.text) if page.is_open else page.text).rstrip()
    sentences = [sentence for sentence in (page.status, *page.notices, hint) if sentence]
    small = [f"-# {literal(sentence)}" for sentence in sentences]
    return "\n".join([text, *small] if text else small or ["…"])[:MAX_MESSAGE_CHARS]


def cut_at_sentence(text: str, max_chars: int) -> str:
    """Shorten a text to `max_chars` characters: whole sentences, or whole words if the first sentence is too long."""
    text = text.strip()
    if len(text) <= max_chars:
        return text
    ends = [match.end() for match in _SENTENCE_END.finditer(text, 0, max_chars + 1) if match.end() <= max_chars]
    if ends:
        return text[: ends[-1]]
    room = text[: max_chars - 2]
    return (room.rpartition(" ")[0] or room) + " …"


class DiscordSurface:
    """Writes an answer at `destination`. `clock` returns seconds since 1970."""

    has_tables = False

    def __init__(self, client: Callable[[], discord.Client], destination: Destination, *, clock: Clock = time.time) -> None:
        """`client` returns the one that is signed in now, which may change while an answer is written."""
        self.channel = destination.channel
        self.max_page_chars = MAX_MESSAGE_CHARS - (_HINT_ROOM if destination.has_hint else 0)
        if destination.is_alt_text:
            self.max_page_chars = _ENDLESS  # one message, which shows the beginning
        elif destination.token and not destination.is_member:
            self.max_page_chars -= _CUT_ROOM
        self._client = client
        self._destination = destination
        self._clock = clock
        self._follow_ups: dict[str, Page] = {}  # written with the token by this surface
        self._nonce: str | None = None
        self._has_replied = False
        self._has_begun = False  # the next message is not the answer's first

    async def show_typing(self) -> None:
        """Show that we are typing; a command shows it by itself."""
        if not self._has_token():
            async with _writing():
                await self._messages().typing()

    async def post(self, page: Page) -> str:
        """Write a new message, with the interaction's token while that is valid. Returns its id."""
        try:
            return await self._post(page)
        except NotTaken as error:
            return await self._post(self._plainer(page, error))

    async def edit(self, reply_id: str, page: Page) -> str | None:
        """Change a message. Returns the new id of a page that had to move to another one."""
        try:
            return await self._edit(reply_id, page)
        except NotTaken as error:
            return await self._edit(reply_id, self._plainer(page, error))

    async def delete(self, reply_id: str) -> None:
        """Delete a message, if it still exists."""
        if reply_id == _CUT_ID:
            return
        self._follow_ups.pop(reply_id, None)
        try:
            if self._has_token():
                webhook, name = self._webhook(), _ORIGINAL if reply_id.startswith(_ORIGINAL) else reply_id
                async with _writing():
                    await webhook.delete_message(cast(int, name))
            elif not reply_id.startswith(_ORIGINAL):
                async with _writing():
                    await self._partial(reply_id).delete()
        except DestinationGone:
            pass

    # -- inside ------------------------------------------------------------------------------------------------------------

    async def _post(self, page: Page) -> str:
        if self._has_token():
            return await self._follow_up(page)
        is_first = not self._has_begun and page.turn_id is not None
        is_repeated = self._nonce is not None or is_first
        self._nonce = self._nonce or (self._first_nonce(page.turn_id) if is_first else secrets.token_hex(12))
        self._has_begun = True
        content = self._render(page)
        async with _writing():
            message = await self._send(content, page, self._nonce)
        self._nonce, self._has_replied = None, True
        if is_repeated and not _is_shown(message, content, page):  # an earlier attempt succeeded, with less text
            await self.edit(str(message.id), page)
        return str(message.id)

    async def _edit(self, reply_id: str, page: Page) -> str | None:
        self._has_begun = True
        is_original = reply_id.startswith(_ORIGINAL)
        if self._has_token():
            if reply_id == _CUT_ID:
                await self._cut(page)
                return None
            if not is_original:
                self._follow_ups[reply_id] = page
            message_id = await self._edit_with_token(_ORIGINAL if is_original else reply_id, page)
            return message_id if is_original else None
        if is_original:
            return await self.post(page)
        try:
            async with translated_errors():
                await self._partial(reply_id).edit(content=self._render(page), view=view_of(page))
        except CannotEdit:
            moved_to = await self.post(page)
            await self.delete(reply_id)
            return moved_to
        return None

    def _plainer(self, page: Page, error: NotTaken) -> Page:
        """What to show instead of a page that Discord does not take. Raises TooLong if shorter pages may be taken."""
        if error.code == INVALID_FORM and len(page.text) > _LEAST_PAGE_CHARS and self.max_page_chars < _ENDLESS:
            self.max_page_chars = max(_LEAST_PAGE_CHARS, min(self.max_page_chars, len(page.text)) // 2)
            raise TooLong from error
        if not page.text:
            raise error
        sentence = NOT_ALLOWED_HERE if error.code in (200000, 200001) else NOT_TAKEN
        return replace(page, text="", status=None, notices=(sentence, *page.notices))

    def _render(self, page: Page) -> str:
        if self._destination.is_alt_text:
            page = replace(page, text=cut_at_sentence(page.text, MAX_ALT_TEXT_CHARS), controls=())
        is_last = not page.is_open and bool(page.controls or page.notices)
        return render(page, hint=HINT if self._destination.has_hint and is_last else None)

    async def _send(self, content: str, page: Page, nonce: str) -> discord.Message:
        messages, more = self._messages(), _with_view(page)
        if self._destination.reply_to and not self._has_replied:
            reply_to = int(self._destination.reply_to)
            reference = discord.MessageReference(message_id=reply_to, channel_id=messages.id, fail_if_not_exists=False)
            try:
                return await messages.send(content, nonce=nonce, suppress_embeds=True, reference=reference, **more)
            except discord.HTTPException as error:
                if error.code != CANNOT_REPLY:
                    raise
        return await messages.send(content, nonce=nonce, suppress_embeds=True, **more)

    async def _follow_up(self, page: Page) -> str:
        if len(self._follow_ups) >= MAX_FOLLOW_UPS and not self._destination.is_member:
            await self._cut(page)
            return _CUT_ID
        webhook = self._webhook()
        async with _writing():
            message = await webhook.send(self._render(page), wait=True, suppress_embeds=True, **_with_view(page))
        self._follow_ups[str(message.id)] = page
        return str(message.id)

    async def _cut(self, page: Page) -> None:
        """Show in the last possible message that there is more text, with the buttons of `page`, which is not shown."""
        if not self._follow_ups:
            return
        reply_id, last = list(self._follow_ups.items())[-1]
        await self.edit(reply_id, replace(last, notices=(CUT,), controls=page.controls, turn_id=page.turn_id, is_open=False))

    async def _edit_with_token(self, name: str, page: Page) -> str:
        """Edit with the interaction's token. Returns the message's id. discord.py's own method cannot set flags, which prevent link
        previews."""
        view = None if self._destination.is_alt_text else view_of(page)
        route = discord.http.Route(
            "PATCH",
            "/webhooks/{webhook_id}/{webhook_token}/messages/" + name,
            webhook_id=self._destination.application,
            webhook_token=self._destination.token,
        )
        payload = {
            "content": self._render(page),
            "components": [] if view is None else view.to_components(),
            "flags": discord.MessageFlags(suppress_embeds=True).value,
            "allowed_mentions": discord.AllowedMentions.none().to_dict(),
        }
        async with _writing():
            message = await self._client().http.request(route, json=payload)
        return str(message["id"])

    def _first_nonce(self, turn_id: int | None) -> str:
        """The nonce of the answer's first message. It includes the question's id, because another database may reuse the turn's
        id."""
        return hashlib.blake2b(f"{self._destination} {turn_id}".encode(), digest_size=12).hexdigest()

    def _has_token(self) -> bool:
        return self._destination.has_token(self._clock())

    def _webhook(self) -> discord.Webhook:
        webhook = discord.Webhook.partial(int(self._destination.application), self._destination.token, client=self._client())
        webhook.type = discord.WebhookType.application
        return webhook

    def _messages(self) -> discord.PartialMessageable:
        guild_id = int(self._destination.guild) if self._destination.guild.isdecimal() else None
        return self._client().get_partial_messageable(int(self._destination.channel), guild_id=guild_id)

    def _partial(self, reply_id: str) -> discord.PartialMessage:
        return self._messages().get_partial_message(int(reply_id))


@contextlib.asynccontextmanager
async def _writing() -> AsyncIterator[None]:
    try:
        async with translated_errors():
            yield
    except CannotEdit as error:
        raise TryLater(_OLD_EDIT_SECONDS) from error


def _is_shown(message: discord.Message, content: str, page: Page) -> bool:
    rows = [row for row in message.components if isinstance(row, discord.ActionRow)]
    shown = [child.custom_id for row in rows for child in row.children]
    return message.content == content and shown == custom_ids(page)


def _with_view(page: Page) -> dict[str, Any]:
    view = view_of(page)
    return {} if view is None else {"view": view}
