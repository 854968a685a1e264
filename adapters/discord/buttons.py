"""Buttons under answers and questions. Their ids contain their meaning, so that they work after a restart and a week later.

The client's `actions` carries them out; a button looks it up there when it is pressed.
"""

from __future__ import annotations

import re
from collections.abc import Coroutine
from typing import Any, Protocol, Self, cast

import discord

from adapters.commands import CONFIRMED, CommandName
from adapters.surface import Control, Page

Interaction = discord.Interaction[discord.Client]

_LOOKS: dict[Control, tuple[str | None, str | None]] = {  # label, emoji
    Control.STOP: ("Stop", None),
    Control.REGENERATE: ("Regenerate", None),
    Control.HELPFUL: (None, "👍"),
    Control.NOT_HELPFUL: (None, "👎"),
}
_CONTROLS = "|".join(Control)
_CONFIRMATIONS = {command.name: command.confirmation for command in CONFIRMED if command.confirmation is not None}


class PressHandler(Protocol):
    """Handles pressed buttons."""

    async def reported(self, interaction: Interaction, work: Coroutine[Any, Any, None]) -> None:
        """Run `work`, and tell the person if it fails."""

    async def button(self, interaction: Interaction, control: Control, turn_id: int) -> None: ...

    async def confirmed(self, interaction: Interaction, name: CommandName) -> None: ...


class _Client(Protocol):
    actions: PressHandler


def _press_handler(interaction: Interaction) -> PressHandler:
    return cast("_Client", interaction.client).actions


class AnswerButton(
    discord.ui.DynamicItem[discord.ui.Button[discord.ui.View]],
    template=rf"threadsight:(?P<control>{_CONTROLS}):(?P<turn_id>\d{{1,18}})",
):
    """A button below an answer. Its custom id names its meaning and the turn, so it works after a restart too."""

    def __init__(self, control: Control, turn_id: int) -> None:
        label, emoji = _LOOKS[control]
        super().__init__(discord.ui.Button(label=label, emoji=emoji, custom_id=_custom_id(control, turn_id)))
        self._control = control
        self._turn_id = turn_id

    @classmethod
    async def from_custom_id(
        cls, interaction: Interaction, item: discord.ui.Item[discord.ui.View], match: re.Match[str], /
    ) -> Self:
        return cls(Control(match["control"]), int(match["turn_id"]))

    async def callback(self, interaction: Interaction) -> None:
        handler = _press_handler(interaction)
        await handler.reported(interaction, handler.button(interaction, self._control, self._turn_id))


class ConfirmButton(
    discord.ui.DynamicItem[discord.ui.Button[discord.ui.View]], template=rf"threadsight:(?P<name>{'|'.join(_CONFIRMATIONS)})"
):
    """The button that confirms a command; only the person who gave the command sees it."""

    def __init__(self, name: CommandName) -> None:
        label, style = _CONFIRMATIONS[name].button, discord.ButtonStyle.danger
        super().__init__(discord.ui.Button(label=label, style=style, custom_id=f"threadsight:{name}"))
        self._name = name

    @classmethod
    async def from_custom_id(
        cls, interaction: Interaction, item: discord.ui.Item[discord.ui.View], match: re.Match[str], /
    ) -> Self:
        return cls(CommandName(match["name"]))

    async def callback(self, interaction: Interaction) -> None:
        handler = _press_handler(interaction)
        await handler.reported(interaction, handler.confirmed(interaction, self._name))


def _custom_id(control: Control, turn_id: int) -> str:
    return f"threadsight:{control}:{turn_id}"


def custom_ids(page: Page) -> list[str | None]:
    """The custom ids of the page's buttons, in order."""
    return [] if page.turn_id is None else [_custom_id(control, page.turn_id) for control in page.controls]


def view_of(page: Page) -> discord.ui.View | None:
    """A page's buttons; None removes existing ones."""
    if page.turn_id is None or not page.controls:
        return None
    view = discord.ui.View(timeout=None)
    for control in page.controls:
        view.add_item(AnswerButton(control, page.turn_id))
    return view
