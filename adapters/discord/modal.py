"""The modal in which somebody writes the question about a message's picture.

It stays open as long as that person likes, so its id says which message it is about: what is written there is understood after a
restart too.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import discord

from adapters.base import Attachment

if TYPE_CHECKING:
    from adapters.discord.actions import Actions, Interaction

# "window" is what earlier versions called it, and modals stay open over an upgrade.
_ID = re.compile(r"threadsight:window:(?P<message>\d{1,20}):[0-9a-f]{8}")
_OPEN_SECONDS = 3_600.0  # afterwards the message is read once more


class QuestionModal(discord.ui.Modal):
    def __init__(self, actions: Actions, message: discord.Message, images: Sequence[Attachment]) -> None:
        custom_id = f"threadsight:window:{message.id}:{secrets.token_hex(4)}"
        super().__init__(title="Ask about this image", timeout=_OPEN_SECONDS, custom_id=custom_id)
        self._actions = actions
        self._images = images
        self._question: discord.ui.TextInput[QuestionModal] = discord.ui.TextInput(
            style=discord.TextStyle.paragraph, required=False, max_length=2_000, placeholder="What is in this picture?"
        )
        self.add_item(discord.ui.Label(text="Your question", component=self._question))

    async def on_submit(self, interaction: Interaction, /) -> None:
        if await self._actions.is_allowed(interaction):
            await self._actions.ask(interaction, self._images, self._question.value)

    async def on_error(self, interaction: Interaction, error: Exception, /) -> None:  # type: ignore[override] # as in Modal
        await self._actions.report(interaction, error)

    async def on_timeout(self) -> None:
        self._actions.open_modals.discard(self.custom_id)


def message_of(custom_id: str) -> int | None:
    """The message that a modal is about; None when it is not ours. It is in the channel where the modal was opened."""
    match = _ID.fullmatch(custom_id)
    return None if match is None else int(match["message"])


def question_in(data: Any) -> str:
    """What was written into a modal (https://discord.com/developers/docs/components/reference#label)."""
    for label in data.get("components") or ():
        component = label.get("component") or {}
        if isinstance(component.get("value"), str):
            return str(component["value"])
    return ""
