"""The modal in which a person writes a question about a message's picture.

It may stay open for any time, so its id contains the message's id: it still works after a restart.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from typing import Any, Protocol

import discord

from adapters.base import Attachment
from adapters.discord.buttons import Interaction

# Earlier versions called it "window", and a modal may stay open during an upgrade.
_ID = re.compile(r"threadsight:window:(?P<message>\d{1,20}):[0-9a-f]{8}")
_OPEN_SECONDS = 3_600.0  # afterwards the message is read again


class QuestionHandler(Protocol):
    """Handles submitted questions. `open_modals` are the ids of the modals that this process has opened."""

    open_modals: set[str]

    async def is_allowed(self, interaction: Interaction) -> bool: ...

    async def ask(self, interaction: Interaction, attachments: Sequence[Attachment], question: str) -> None: ...

    async def report(self, interaction: Interaction, error: BaseException) -> None: ...


class QuestionModal(discord.ui.Modal):
    """The window that asks for a question about a message's pictures."""

    def __init__(self, handler: QuestionHandler, message: discord.Message, images: Sequence[Attachment]) -> None:
        custom_id = f"threadsight:window:{message.id}:{secrets.token_hex(4)}"
        super().__init__(title="Ask about this image", timeout=_OPEN_SECONDS, custom_id=custom_id)
        self._handler = handler
        self._images = images
        self._question: discord.ui.TextInput[QuestionModal] = discord.ui.TextInput(
            style=discord.TextStyle.paragraph, required=False, max_length=2_000, placeholder="What is in this picture?"
        )
        self.add_item(discord.ui.Label(text="Your question", component=self._question))

    async def on_submit(self, interaction: Interaction, /) -> None:
        if await self._handler.is_allowed(interaction):
            await self._handler.ask(interaction, self._images, self._question.value)

    async def on_error(self, interaction: Interaction, error: Exception, /) -> None:  # type: ignore[override] # as in Modal
        await self._handler.report(interaction, error)

    async def on_timeout(self) -> None:
        self._handler.open_modals.discard(self.custom_id)


def message_of(custom_id: str) -> int | None:
    """The id of the message that a modal is about, in the channel where it was opened; None if the modal is not ours."""
    match = _ID.fullmatch(custom_id)
    return None if match is None else int(match["message"])


def question_in(data: Any) -> str:
    """The text of a submitted modal (https://discord.com/developers/docs/components/reference#label)."""
    for label in data.get("components") or ():
        component = label.get("component") or {}
        if isinstance(component.get("value"), str):
            return str(component["value"])
    return ""
