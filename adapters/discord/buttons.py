"""The buttons under an answer. What they mean stands in their ids, so that they work after a restart and a week later."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Self, cast

import discord

from adapters.surface import Control, Page

if TYPE_CHECKING:
    from adapters.discord.client import ThreadsightClient

_LOOKS: dict[Control, tuple[str | None, str | None]] = {  # label, emoji
    Control.STOP: ("Stop", None),
    Control.REGENERATE: ("Regenerate", None),
    Control.HELPFUL: (None, "👍"),
    Control.NOT_HELPFUL: (None, "👎"),
}
_CONTROLS = "|".join(Control)


class AnswerButton(
    discord.ui.DynamicItem[discord.ui.Button[discord.ui.View]],
    template=rf"threadsight:(?P<control>{_CONTROLS}):(?P<turn_id>\d{{1,18}})",
):
    def __init__(self, control: Control, turn_id: int) -> None:
        label, emoji = _LOOKS[control]
        super().__init__(discord.ui.Button(label=label, emoji=emoji, custom_id=_custom_id(control, turn_id)))
        self._control = control
        self._turn_id = turn_id

    @classmethod
    async def from_custom_id(
        cls, interaction: discord.Interaction[discord.Client], item: discord.ui.Item[discord.ui.View], match: re.Match[str], /
    ) -> Self:
        return cls(Control(match["control"]), int(match["turn_id"]))

    async def callback(self, interaction: discord.Interaction[discord.Client]) -> None:
        actions = cast("ThreadsightClient", interaction.client).actions
        await actions.reported(interaction, actions.button(interaction, self._control, self._turn_id))


class ForgetButton(discord.ui.DynamicItem[discord.ui.Button[discord.ui.View]], template=r"threadsight:forget"):
    """Under the question whether all should be deleted; only who asked sees it."""

    def __init__(self) -> None:
        button: discord.ui.Button[discord.ui.View] = discord.ui.Button(
            label="Delete all of it", style=discord.ButtonStyle.danger, custom_id="threadsight:forget"
        )
        super().__init__(button)

    @classmethod
    async def from_custom_id(
        cls, interaction: discord.Interaction[discord.Client], item: discord.ui.Item[discord.ui.View], match: re.Match[str], /
    ) -> Self:
        return cls()

    async def callback(self, interaction: discord.Interaction[discord.Client]) -> None:
        actions = cast("ThreadsightClient", interaction.client).actions
        await actions.reported(interaction, actions.forget(interaction))


def _custom_id(control: Control, turn_id: int) -> str:
    return f"threadsight:{control}:{turn_id}"


def custom_ids(page: Page) -> list[str | None]:
    """What the page's buttons are called on Discord, in their order."""
    return [] if page.turn_id is None else [_custom_id(control, page.turn_id) for control in page.controls]


def view_of(page: Page) -> discord.ui.View | None:
    """A page's buttons; None takes away what was there."""
    if page.turn_id is None or not page.controls:
        return None
    view = discord.ui.View(timeout=None)
    for control in page.controls:
        view.add_item(AnswerButton(control, page.turn_id))
    return view
