"""Messages that may or may not exist: Slack may have written them although its response was lost.

Before anything is sent again, they are looked for in the thread, among our messages that are not known yet.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

from adapters.bounded import BoundedSet
from adapters.slack.destination import Destination
from adapters.slack.workspaces import CALL_SECONDS, Refused, Unknown, Workspace, translated_errors

_CLOCK_SKEW_SECONDS = 30.0
_NUM_LOOKED_AT = 100

Message = Mapping[str, Any]


class UnconfirmedMessages:
    """The unconfirmed messages of one answer. The `find_` methods raise DestinationGone or TryLater, and can then be called
    again."""

    def __init__(self, destination: Destination, posted: BoundedSet[str]) -> None:
        self._destination = destination
        self._posted = posted
        self._answer_sent_at: float | None = None  # seconds since 1970, as in Slack's ts
        self._stop: tuple[str, float] | None = None  # the button's value, and when it was sent

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """A context for a call that writes a message of the answer."""
        sent_at = time.time()
        try:
            yield
        except Unknown:
            self._answer_sent_at = min(sent_at, self._answer_sent_at or sent_at)
            raise

    def note_stop(self, value: str) -> None:
        """The message with this Stop button may exist."""
        self._stop = value, time.time() - CALL_SECONDS

    async def find_answer(self, workspace: Workspace) -> str | None:
        """The ts of the unconfirmed message, to use instead of a second one; None if it does not exist."""
        if self._answer_sent_at is None:
            return None
        stop_value = None if self._stop is None else self._stop[0]
        unheard_of = await self._unheard_of(workspace, self._answer_sent_at)
        self._answer_sent_at = None
        return next((str(message["ts"]) for message in unheard_of if not _has_button(message, stop_value)), None)

    async def find_stop(self, workspace: Workspace) -> str | None:
        """The ts of the unconfirmed message with the Stop button, which must be deleted at the end; None if it does not exist."""
        if self._stop is None:
            return None
        value, sent_at = self._stop
        unheard_of = await self._unheard_of(workspace, sent_at)
        self._stop = None
        return next((str(message["ts"]) for message in unheard_of if _has_button(message, value)), None)

    async def _unheard_of(self, workspace: Workspace, since: float) -> list[Message]:
        oldest = since - _CLOCK_SKEW_SECONDS
        messages: list[Message] = []
        with contextlib.suppress(Refused):
            async with translated_errors():
                response = await workspace.client.conversations_replies(
                    channel=self._destination.channel, ts=self._destination.thread, oldest=f"{oldest:.6f}", limit=_NUM_LOOKED_AT
                )
                messages = list(response.get("messages") or ())
        return [
            message
            for message in messages
            if float(message["ts"]) >= oldest
            and message.get("user") == workspace.bot_user_id
            and f"{self._destination.workspace}/{self._destination.channel}:{message['ts']}" not in self._posted
        ]


def _has_button(message: Message, value: str | None) -> bool:
    elements = (element for block in message.get("blocks") or () for element in block.get("elements") or ())
    return value is not None and any(element.get("value") == value for element in elements)
