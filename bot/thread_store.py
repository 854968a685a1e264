"""Stored data about platforms that keep the messages themselves: which messages show answers, who asked, ratings, adapters'
notes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Select, delete, insert, or_, select, update

from adapters.base import AnswerStatus, ThreadKey
from bot.schema import ChatRow, NoteRow, RatingRow, ReplyRow, TurnRow
from bot.store import Store, delete_orphans, delete_turns, image_ids_of, is_thread
from bot.turns import StoredTurn


class ThreadStore:
    """More methods on a `Store`'s database. Every change is one transaction under the store's lock."""

    def __init__(self, store: Store) -> None:
        self._store = store

    # -- replies -----------------------------------------------------------------------------------------------------------

    async def find_message(self, platform: str, workspace: str, message_id: str) -> StoredTurn | None:
        """The turn whose question or answer this message is; None if there is none."""
        turn = await self._store.find_turn(platform, workspace, message_id)
        if turn is not None:
            return turn
        query = select(TurnRow).join(ReplyRow).where(ReplyRow.message_id == message_id)
        turns = await self._store.turns(query.where(TurnRow.platform == platform, TurnRow.workspace == workspace))
        return max(turns, key=lambda turn: turn.turn_id, default=None)

    async def set_reply(self, turn_id: int, reply_ids: Sequence[str], *, is_delivered: bool) -> None:
        async with self._store.writing() as session:
            turn = await session.get(TurnRow, turn_id)
            if turn is None:
                return
            turn.is_delivered = is_delivered
            if [reply.message_id for reply in turn.replies] != list(reply_ids):
                await session.execute(delete(ReplyRow).where(ReplyRow.turn_id == turn_id))
                for position, message_id in enumerate(reply_ids):
                    await session.execute(insert(ReplyRow).values(turn_id=turn_id, position=position, message_id=message_id))

    async def set_undelivered(self, turn_id: int) -> None:
        """Mark a turn as undelivered: its answer will be written again."""
        async with self._store.writing() as session:
            await session.execute(update(TurnRow).where(TurnRow.id == turn_id).values(is_delivered=False))

    async def undelivered(self, platform: str, since: datetime) -> list[StoredTurn]:
        """The undelivered turns that are pending or ended since then, oldest first."""
        is_recent = or_(TurnRow.status == AnswerStatus.PENDING, TurnRow.finished_at >= since)
        query = select(TurnRow).where(TurnRow.platform == platform, ~TurnRow.is_delivered, is_recent)
        return await self._store.turns(query.order_by(TurnRow.id))

    # -- chats -------------------------------------------------------------------------------------------------------------

    async def has_chat(self, key: ThreadKey) -> bool:
        async with self._store.reading() as session:
            return await session.scalar(select(ChatRow.id).where(is_thread(key))) is not None

    async def latest_chat(self, platform: str, workspace: str, channel: str) -> ThreadKey | None:
        query = select(ChatRow).where(ChatRow.platform == platform, ChatRow.workspace == workspace, ChatRow.channel == channel)
        async with self._store.reading() as session:
            row = await session.scalar(query.order_by(ChatRow.updated_at.desc(), ChatRow.id.desc()).limit(1))
            return None if row is None else ThreadKey(row.platform, row.workspace, row.channel, row.thread)

    async def chats_in(self, platform: str, workspace: str, room: str) -> list[ThreadKey]:
        """The chats whose thread or channel is `room`."""
        is_there = or_(ChatRow.thread == room, ChatRow.channel == room)
        async with self._store.reading() as session:
            rows = await session.scalars(
                select(ChatRow).where(ChatRow.platform == platform, ChatRow.workspace == workspace, is_there)
            )
            return [ThreadKey(row.platform, row.workspace, row.channel, row.thread) for row in rows]

    async def empty_chat(self, key: ThreadKey) -> bool:
        """Delete a chat's turns and keep the chat."""
        async with self._store.writing() as session:
            chat_id = await session.scalar(select(ChatRow.id).where(is_thread(key)))
            if chat_id is None:
                return False
            orphans = await image_ids_of(session, TurnRow.chat_id == chat_id)
            await session.execute(delete(TurnRow).where(TurnRow.chat_id == chat_id))
            await session.execute(update(ChatRow).where(ChatRow.id == chat_id).values(title=""))
            await delete_orphans(session, orphans)
            return True

    # -- people ------------------------------------------------------------------------------------------------------------

    async def asked_since(self, platform: str, author_id: str, since: datetime) -> list[tuple[int, datetime]]:
        """The ids and times of a person's turns that did not fail, oldest first."""
        query = select(TurnRow.id, TurnRow.created_at).where(TurnRow.platform == platform, TurnRow.author_id == author_id)
        is_counted = TurnRow.created_at > since, TurnRow.status != AnswerStatus.FAILED
        async with self._store.reading() as session:
            rows = await session.execute(query.where(*is_counted).order_by(TurnRow.id))
            return [(turn_id, created_at) for turn_id, created_at in rows]

    async def turns_of(self, platform: str, author_id: str) -> list[StoredTurn]:
        return await self._store.turns(_turns_of(platform, author_id))

    async def forget(self, platform: str, author_id: str) -> int:
        """Delete a person's turns and ratings, and the chats that are empty then. Returns how many turns."""
        async with self._store.writing() as session:
            turns = list(await session.scalars(_turns_of(platform, author_id)))
            of_platform = select(TurnRow.id).where(TurnRow.platform == platform)
            await session.execute(delete(RatingRow).where(RatingRow.author_id == author_id, RatingRow.turn_id.in_(of_platform)))
            await delete_turns(session, turns)
            return len(turns)

    async def rate(self, turn_id: int, author_id: str, *, is_helpful: bool) -> bool:
        async with self._store.writing() as session:
            if await session.get(TurnRow, turn_id) is None:
                return False
            await session.execute(delete(RatingRow).where(RatingRow.turn_id == turn_id, RatingRow.author_id == author_id))
            await session.execute(insert(RatingRow).values(turn_id=turn_id, author_id=author_id, is_helpful=is_helpful))
            return True

    # -- notes -------------------------------------------------------------------------------------------------------------

    async def read_note(self, platform: str, name: str) -> str | None:
        async with self._store.reading() as session:
            return await session.scalar(select(NoteRow.text).where(NoteRow.platform == platform, NoteRow.name == name))

    async def write_note(self, platform: str, name: str, text: str) -> None:
        async with self._store.writing() as session:
            await session.merge(NoteRow(platform=platform, name=name, text=text))


def _turns_of(platform: str, author_id: str) -> Select[TurnRow]:
    return select(TurnRow).where(TurnRow.platform == platform, TurnRow.author_id == author_id).order_by(TurnRow.id)
