"""What people can do besides writing messages: commands, message menus, buttons.

Discord needs a first response within three seconds, so every action is acknowledged before it begins. Refusals are shown to the
person only.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import discord

from adapters.base import Attachment, IncomingMessage, ThreadHandler, ThreadKey
from adapters.commands import COMMANDS, Command, CommandName, help_lines
from adapters.conversations.dispatcher import NOT_ALLOWED, Dispatcher
from adapters.discord.api_errors import CannotEdit, translated_errors
from adapters.discord.buttons import ConfirmButton, Interaction
from adapters.discord.destination import DIRECT, TOKEN_SECONDS, Destination
from adapters.discord.files import Downloads
from adapters.discord.images import Source, attachments_of
from adapters.discord.modal import QuestionModal, message_of, question_in
from adapters.discord.surface import DiscordSurface, original_id
from adapters.discord.translate import Translator, author_of
from adapters.surface import Control, DestinationGone, TryLater

log = logging.getLogger(__name__)

PLATFORM = "discord"
ALT_TEXT_QUESTION = "Describe this picture for somebody who cannot see it, in one or two plain sentences."
NO_IMAGE_HERE = "I see no picture in this message. Choose a message that has one."
NOTHING_TO_RESET = "There is no chat of ours here. Use /reset in the thread or the direct message in which we chat."
MODAL_LOST = "I was away while you wrote, and cannot read that message any more. Please choose it again."
SOMETHING_WRONG = "Something went wrong on my side. Please try again."
_HELP = (
    "Post a picture and mention me in the same message: I answer in a thread, and {follow}. You can also reply to a picture and "
    "mention me, send me a direct message, use `/ask`, or choose “Apps > Ask about this image” from a message's menu. "
    "“Apps > Describe image” gives alt text that only you see. Edit a question and I answer it again; delete it and I forget it.\n"
    + help_lines(COMMANDS, lambda command: [f"/{command.name}"])
)
_FOLLOW_ALL = "every message there goes on with the chat, without a mention"
_FOLLOW_MENTIONS = "when you reply to me or mention me there, the chat goes on (I do not see other messages)"


class Actions:
    """What members do besides writing messages: commands, entries of the message menu, buttons."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        handler: ThreadHandler,
        translator: Translator,
        downloads: Downloads,
        client: Callable[[], discord.Client],
        *,
        has_content: bool,
    ) -> None:
        self._dispatcher = dispatcher
        self._handler = handler
        self._translator = translator
        self._downloads = downloads
        self._client = client
        self.open_modals: set[str] = set()
        self._help = _HELP.format(follow=_FOLLOW_ALL if has_content else _FOLLOW_MENTIONS)

    async def is_allowed(self, interaction: Interaction) -> bool:
        """Whether the person may use the bot there. If not, tells the person."""
        channel = interaction.channel
        places = {str(interaction.channel_id)}
        if isinstance(channel, discord.Thread):
            places.add(str(channel.parent_id))
            channel = channel.parent
        if (category_id := getattr(channel, "category_id", None)) is not None:
            places.add(str(category_id))
        person, is_direct = author_of(interaction.user), interaction.guild_id is None
        is_allowed = self._dispatcher.is_allowed(person, _workspace(interaction), places, is_direct=is_direct)
        if not is_allowed:
            await self.tell(interaction, NOT_ALLOWED)
        return is_allowed

    async def tell(self, interaction: Interaction, sentence: str, view: discord.ui.View | None = None) -> None:
        """Show a sentence to this person only."""
        with contextlib.suppress(DestinationGone, TryLater, CannotEdit):
            async with translated_errors():
                if interaction.response.is_done():
                    await interaction.followup.send(sentence, ephemeral=True)
                elif view is None:
                    await interaction.response.send_message(sentence, ephemeral=True)
                else:
                    await interaction.response.send_message(sentence, ephemeral=True, view=view)

    async def report(self, interaction: Interaction, error: BaseException) -> None:
        """An action failed: tell the person, and log it unless it is Discord's fault."""
        if isinstance(error, DestinationGone | TryLater | CannotEdit):
            log.info("A command on Discord could not be answered: Discord did not take it, or it took too long.")
        else:
            log.error("A command on Discord could not be dealt with.", exc_info=error)
        await self.tell(interaction, SOMETHING_WRONG)

    # -- questions ---------------------------------------------------------------------------------------------------------

    async def ask_about_file(self, interaction: Interaction, image: discord.Attachment, question: str) -> None:
        source = Source(f"attachment {image.id}", image.filename, image.url, image.size)
        await self.ask(interaction, attachments_of([source], self._downloads, None), question)

    async def ask(
        self, interaction: Interaction, attachments: Sequence[Attachment], question: str, *, is_alt_text: bool = False
    ) -> None:
        """Answer as the reply to the command; this begins a chat, which people continue by replying to it."""
        async with translated_errors():
            await interaction.response.defer(ephemeral=is_alt_text, thinking=True)
        await self._answer(interaction, attachments, question, is_alt_text=is_alt_text)

    async def _answer(
        self, interaction: Interaction, attachments: Sequence[Attachment], question: str, *, is_alt_text: bool = False
    ) -> None:
        destination = Destination(
            guild=_workspace(interaction),
            channel=str(interaction.channel_id),
            application=str(interaction.application_id),
            token=interaction.token,
            token_until=interaction.created_at.timestamp() + TOKEN_SECONDS,
            is_member=not is_alt_text and _is_member(interaction),
            is_alt_text=is_alt_text,
        )
        key = ThreadKey(PLATFORM, destination.guild, destination.channel, str(interaction.id))
        message = IncomingMessage(
            key, str(interaction.id), author_of(interaction.user), question, tuple(attachments), None, str(destination)
        )
        conversation = destination.guild, str(interaction.id)
        await self._dispatcher.ask(
            conversation, message, DiscordSurface(self._client, destination), reply_ids=(original_id(interaction.id),)
        )

    async def ask_about_message(self, interaction: Interaction, message: discord.Message) -> None:
        """Open a modal that asks for the question."""
        images = self._translator.images_of(message)
        if not images:
            return await self.tell(interaction, NO_IMAGE_HERE)
        modal = QuestionModal(self, message, images)
        self.open_modals.add(modal.custom_id)
        async with translated_errors():
            await interaction.response.send_modal(modal)
        return None

    async def on_modal(self, interaction: Interaction) -> None:
        """Handle a submitted modal that was opened before a restart or long ago, and is only known by its id."""
        data: Any = interaction.data or {}
        custom_id = str(data.get("custom_id"))
        message_id = message_of(custom_id)
        if message_id is None or custom_id in self.open_modals:
            self.open_modals.discard(custom_id)
            return
        if not await self.is_allowed(interaction):
            return
        async with translated_errors():
            await interaction.response.defer(thinking=True)
        message = await self._translator.read(interaction.channel_id or 0, interaction.guild_id, message_id)
        images = () if message is None else self._translator.images_of(message)
        if images:
            await self._answer(interaction, images, question_in(data))
        else:
            await self.tell(interaction, MODAL_LOST)

    async def describe(self, interaction: Interaction, message: discord.Message) -> None:
        images = self._translator.images_of(message)
        if not images:
            return await self.tell(interaction, NO_IMAGE_HERE)
        return await self.ask(interaction, images, ALT_TEXT_QUESTION, is_alt_text=True)

    # -- the rest ----------------------------------------------------------------------------------------------------------

    async def reported(self, interaction: Interaction, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:
            await self.report(interaction, error)

    async def button(self, interaction: Interaction, control: Control, turn_id: int) -> None:
        if not await self.is_allowed(interaction):
            return
        async with translated_errors():
            await interaction.response.defer()
        channel = interaction.channel
        if control is Control.REGENERATE and isinstance(channel, discord.Thread) and channel.archived and not channel.locked:
            async with translated_errors():
                await channel.edit(archived=False)
        person, is_moderator = author_of(interaction.user), interaction.permissions.manage_messages
        sentence = await self._dispatcher.press(control, turn_id, person, is_moderator=is_moderator)
        if sentence is not None:
            await self.tell(interaction, sentence)

    async def carry_out(self, interaction: Interaction, command: Command) -> None:
        """Carry out a command without a form, after a confirmation if it needs one."""
        if command.confirmation is None:
            await self.tell(interaction, await self._done(interaction, command.name))
        else:
            view = discord.ui.View(timeout=None)
            view.add_item(ConfirmButton(command.name))
            await self.tell(interaction, command.confirmation.question, view)

    async def confirmed(self, interaction: Interaction, name: CommandName) -> None:
        async with translated_errors():
            await interaction.response.defer()
        sentence = await self._done(interaction, name)
        async with translated_errors():
            await interaction.edit_original_response(content=sentence, view=None)

    async def _done(self, interaction: Interaction, name: CommandName) -> str:
        """Carry out the command. Returns what to tell the person."""
        match name:
            case CommandName.RESET:
                return await self._reset(interaction)
            case CommandName.QUOTA:
                return await self._dispatcher.quota(_workspace(interaction), author_of(interaction.user))
            case CommandName.FORGET:
                return await self._dispatcher.forget(str(interaction.user.id), interaction.created_at)
            case CommandName.HELP:
                return self._help
            case CommandName.ASK:
                raise AssertionError("a question is asked in its form")

    async def _reset(self, interaction: Interaction) -> str:
        channel = interaction.channel
        workspace, room = _workspace(interaction), str(interaction.channel_id)
        key = None
        if isinstance(channel, discord.Thread):
            key = ThreadKey(PLATFORM, workspace, str(channel.parent_id), room)
            key = key if await self._handler.has_chat(key) else None
        if key is None and (isinstance(channel, discord.Thread) or interaction.guild_id is None):
            key = await self._handler.latest_chat(PLATFORM, workspace, room)
        return NOTHING_TO_RESET if key is None else await self._dispatcher.reset(key, interaction.created_at)


def _workspace(interaction: Interaction) -> str:
    return DIRECT if interaction.guild_id is None else str(interaction.guild_id)


def _is_member(interaction: Interaction) -> bool:
    """Whether we can write there without the interaction's token."""
    if interaction.guild_id is None:
        return interaction.context.dm_channel
    rights = interaction.app_permissions
    may_send = rights.send_messages_in_threads if isinstance(interaction.channel, discord.Thread) else rights.send_messages
    return interaction.is_guild_integration() and may_send
