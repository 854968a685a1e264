"""The commands and message menus, and their registration with Discord: only when they changed, because it is rate-limited."""

from __future__ import annotations

import hashlib
import json
import logging
from typing import Any

import discord
from discord import app_commands

from adapters.base import ThreadHandler
from adapters.commands import COMMANDS, Command
from adapters.discord.actions import PLATFORM, Actions
from adapters.discord.buttons import Interaction

log = logging.getLogger(__name__)

_NOTE = "commands"
_INSTALLS = app_commands.AppInstallationType(guild=True, user=True)
_CONTEXTS = app_commands.AppCommandContext(guild=True, dm_channel=True, private_channel=True)


class Commands(app_commands.CommandTree[discord.Client]):
    """The slash commands and the entries of the message menu, as Discord registers them."""

    def __init__(self, client: discord.Client, actions: Actions) -> None:
        super().__init__(client, allowed_installs=_INSTALLS, allowed_contexts=_CONTEXTS)
        self._actions = actions
        _declare(self, actions)

    async def interaction_check(self, interaction: Interaction, /) -> bool:
        return await self._actions.is_allowed(interaction)

    async def on_error(self, interaction: Interaction, error: app_commands.AppCommandError, /) -> None:
        await self._actions.report(interaction, error.__cause__ or error)


def _declare(tree: Commands, actions: Actions) -> None:
    for command in COMMANDS:
        callback = _asking(actions) if command.has_form else _carrying_out(actions, command)
        tree.command(name=command.name.value, description=command.description)(callback)

    @tree.context_menu(name="Ask about this image")
    async def ask_about_message(interaction: Interaction, message: discord.Message) -> None:
        await actions.ask_about_message(interaction, message)

    @tree.context_menu(name="Describe image")
    async def describe(interaction: Interaction, message: discord.Message) -> None:
        await actions.describe(interaction, message)


def _asking(actions: Actions) -> Any:
    @app_commands.describe(image="The picture", question="What you want to know; without it I describe the picture")
    async def ask(interaction: Interaction, image: discord.Attachment, question: app_commands.Range[str, 0, 2_000] = "") -> None:
        await actions.ask_about_file(interaction, image, question)

    return ask


def _carrying_out(actions: Actions, command: Command) -> Any:
    async def carry_out(interaction: Interaction) -> None:
        await actions.carry_out(interaction, command)

    return carry_out


async def sync(tree: Commands, handler: ThreadHandler, application_id: int) -> None:
    """Register the commands with Discord unless they are registered already. Raises discord.py's errors."""
    payload = json.dumps([command.to_dict(tree) for command in tree.get_commands()], sort_keys=True)
    state = f"{application_id} {hashlib.sha256(payload.encode()).hexdigest()}"
    if await handler.read_note(PLATFORM, _NOTE) == state:
        return
    await tree.sync()
    await handler.write_note(PLATFORM, _NOTE, state)
    log.info("Told Discord about my commands.")
