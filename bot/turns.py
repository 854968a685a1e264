"""A turn as the rest of the bot sees it: one row of `turns` with its thread, detached from the database."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from adapters.base import AnswerStatus, PlatformTurn, ThreadKey, TurnView
from bot.schema import TurnRow


@dataclass(frozen=True, slots=True)
class StoredTurn:
    """One row of `turns` with its thread. A refused turn was never sent to the model; its `error` says why."""

    turn_id: int
    key: ThreadKey
    message_id: str
    author_id: str
    destination: str
    reply_ids: tuple[str, ...]
    question: str
    answer: str
    token_ids: tuple[int, ...] | None
    status: AnswerStatus
    notices: tuple[str, ...]
    error: str | None
    is_start: bool
    is_refused: bool
    num_attempts: int
    image_ids: tuple[str, ...]
    created_at: datetime

    @property
    def platform_turn(self) -> PlatformTurn:
        return PlatformTurn(self.turn_id, self.key, self.message_id, self.author_id, self.destination, self.reply_ids)

    def view(self) -> TurnView:
        return TurnView(
            turn_id=self.turn_id,
            question=self.question,
            answer=self.answer,
            status=self.status,
            notices=self.notices,
            error=self.error,
            image_ids=self.image_ids,
            created_at=self.created_at,
        )


def stored_turn(row: TurnRow) -> StoredTurn:
    """The turn of this row, whose chat, pictures and replies must be loaded."""
    return StoredTurn(
        turn_id=row.id,
        key=ThreadKey(row.chat.platform, row.chat.workspace, row.chat.channel, row.chat.thread),
        message_id=row.message_id,
        author_id=row.author_id,
        destination=row.destination,
        reply_ids=tuple(reply.message_id for reply in row.replies),
        question=row.question,
        answer=row.answer,
        token_ids=None if row.token_ids is None else tuple(row.token_ids),
        status=AnswerStatus(row.status),
        notices=tuple(row.notices),
        error=row.error,
        is_start=row.is_start,
        is_refused=row.is_refused,
        num_attempts=row.num_attempts,
        image_ids=tuple(link.image_sha256 for link in row.image_links),
        created_at=row.created_at,
    )
