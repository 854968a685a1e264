"""Stored chats, in SQL: SQLite in WAL mode, or PostgreSQL.

Rules: a question is stored (PENDING) before it is answered, and its answer in one transaction when it has ended. A picture is
stored once, and deleted with the last turn that has it. All writers of the process take one lock, so that a picture is never
deleted while another task is about to refer to it; no other process may write to the same database.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, Select, and_, delete, func, insert, select, true, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from adapters.base import AnswerStatus, ChatView, ThreadKey, TurnView
from bot.database import ClaimedError, Database, StoreError, claim_database, is_claimed, open_database
from bot.schema import ChatRow, ImageRow, TurnImageRow, TurnRow, clean
from bot.transactions import PATIENCE_SECONDS, Transactions
from bot.turns import StoredTurn, stored_turn
from model_server.types import Image

_TITLE_LENGTH = 60
_MAX_LISTED_CHATS = 1_000


class Store(Transactions):
    """The database. Reads share it; writes of this process come one after another. Close it at the end."""

    def __init__(self, database: Database, patience_seconds: float = PATIENCE_SECONDS) -> None:
        """Use `await Store.open(url)`."""
        super().__init__(database, patience_seconds)
        self._claim: AsyncConnection | None = None

    @classmethod
    async def open(cls, url: str, patience_seconds: float = PATIENCE_SECONDS) -> Store:
        """Connect to the database and migrate its tables. A transaction that cannot begin is tried again for `patience_seconds`.
        Raises StoreError."""
        return cls(await open_database(url), patience_seconds)

    async def claim(self) -> None:
        """Lock the database against other programs until `close`. Raises ClaimedError if another one has it."""
        self._claim = await claim_database(self._database)

    async def watch(self, interval_seconds: float = 5.0) -> None:
        """Check the database every `interval_seconds`, until cancelled: the log says at once when it cannot be used.

        A claim that was lost because its server was restarted is taken again. Raises ClaimedError if another program has it now.
        """
        while True:
            try:
                await self.check()
                if self._claim is not None and not await is_claimed(self._claim):
                    await self._claim_again(self._claim)
            except ClaimedError:
                raise
            except StoreError:
                pass  # it is logged, and looked at again
            await asyncio.sleep(interval_seconds)

    async def _claim_again(self, lost: AsyncConnection) -> None:
        with contextlib.suppress(SQLAlchemyError, OSError):
            await lost.close()
        await self.claim()

    async def close(self) -> None:
        """Close all connections."""
        if self._claim is not None:
            await self._claim.close()
        await self._engine.dispose()

    # -- turns -------------------------------------------------------------------------------------------------------------

    async def add_turn(
        self,
        key: ThreadKey,
        message_id: str,
        question: str,
        *,
        author_id: str = "local",
        destination: str = "",
        images: Sequence[Image] = (),
        is_start: bool = False,
        notices: Sequence[str] = (),
        refusal: str | None = None,
    ) -> StoredTurn:
        """Store a question, its pictures, and its chat if that is new. The turn is PENDING, or FAILED if there is a `refusal`.

        A message that is stored already is not stored again: its turn is returned.
        """
        now = datetime.now(UTC)
        async with self.writing() as session:
            known = select(TurnRow).where(is_message(key.platform, key.workspace, message_id))
            if turn := await session.scalar(known):
                return stored_turn(turn)
            chat = await session.scalar(select(ChatRow).where(is_thread(key)))
            if chat is None:
                chat = ChatRow(platform=key.platform, workspace=key.workspace, channel=key.channel, thread=key.thread)
                session.add(chat)
            chat.title, chat.updated_at = chat.title or shorten(question), now
            turn = TurnRow(
                chat=chat,
                platform=key.platform,
                workspace=key.workspace,
                message_id=message_id,
                author_id=author_id,
                destination=destination,
                is_delivered=False,
                is_start=is_start,
                is_refused=refusal is not None,
                question=question,
                answer="",
                token_ids=None,
                status=AnswerStatus.PENDING if refusal is None else AnswerStatus.FAILED,
                notices=[clean(notice) for notice in notices],
                error=refusal,
                num_attempts=0,
                created_at=now,
                finished_at=None if refusal is None else now,
            )
            session.add(turn)
            await session.flush()
            await _add_images(session, turn.id, images)
            await session.refresh(turn)
            return stored_turn(turn)

    async def replace_question(
        self,
        turn_id: int,
        question: str,
        *,
        images: Sequence[Image] = (),
        is_start: bool = False,
        notices: Sequence[str] = (),
        refusal: str | None = None,
    ) -> StoredTurn | None:
        """Replace a turn's question and delete its answer. Returns the new turn; None if the turn was deleted."""
        now = datetime.now(UTC)
        async with self.writing() as session:
            turn = await session.get(TurnRow, turn_id)
            if turn is None:
                return None
            orphans = await image_ids_of(session, TurnRow.id == turn_id)
            await session.execute(delete(TurnImageRow).where(TurnImageRow.turn_id == turn_id))
            await _add_images(session, turn_id, images)
            await delete_orphans(session, orphans)
            turn.question, turn.answer, turn.token_ids, turn.error = question, "", None, refusal
            turn.is_start, turn.is_refused, turn.is_delivered = is_start, refusal is not None, False
            turn.status = AnswerStatus.PENDING if refusal is None else AnswerStatus.FAILED
            turn.notices, turn.num_attempts = [clean(notice) for notice in notices], 0
            turn.finished_at = None if refusal is None else now
            turn.chat.updated_at = now
            await session.flush()
            await settle_chats(session, [turn.chat_id])
            await session.refresh(turn)
            return stored_turn(turn)

    async def finish_turn(
        self,
        turn_id: int,
        status: AnswerStatus,
        *,
        answer: str = "",
        token_ids: Sequence[int] | None = None,
        notices: Sequence[str] = (),
        error: str | None = None,
        is_refused: bool = False,
    ) -> None:
        """Store how a turn ended, in one transaction. Does nothing if the turn was deleted meanwhile."""
        now = datetime.now(UTC)
        async with self.writing() as session:
            turn = await session.get(TurnRow, turn_id)
            if turn is None:
                return
            turn.status, turn.answer, turn.error, turn.is_refused = status, answer, error, is_refused
            turn.token_ids = None if token_ids is None else list(token_ids)
            turn.notices = [clean(notice) for notice in notices]
            turn.finished_at = turn.chat.updated_at = now

    async def drop_turn(self, turn_id: int) -> None:
        """Delete a turn, its pictures, and its chat if that is empty now."""
        async with self.writing() as session:
            if turn := await session.get(TurnRow, turn_id):
                await delete_turns(session, [turn])

    async def count_attempt(self, turn_id: int) -> None:
        """Count one more attempt to answer a turn after a restart."""
        async with self.writing() as session:
            await session.execute(update(TurnRow).where(TurnRow.id == turn_id).values(num_attempts=TurnRow.num_attempts + 1))

    async def find_turn(self, platform: str, workspace: str, message_id: str) -> StoredTurn | None:
        """The turn whose question this message is; None if there is none."""
        turns = await self.turns(select(TurnRow).where(is_message(platform, workspace, message_id)))
        return turns[0] if turns else None

    async def get_turn(self, turn_id: int) -> StoredTurn | None:
        """The turn with this id; None if it was deleted."""
        turns = await self.turns(select(TurnRow).where(TurnRow.id == turn_id))
        return turns[0] if turns else None

    async def pending_turns(self) -> list[StoredTurn]:
        """The accepted turns without an answer, oldest first."""
        return await self.turns(select(TurnRow).where(TurnRow.status == AnswerStatus.PENDING).order_by(TurnRow.id))

    async def read_turns(self, key: ThreadKey) -> list[StoredTurn]:
        """Every turn of a thread, oldest first."""
        return await self.turns(select(TurnRow).join(TurnRow.chat).where(is_thread(key)).order_by(TurnRow.id))

    async def turns_since_start(self, turn: StoredTurn) -> list[StoredTurn]:
        """The turns that the model may see for this one: from the newest start on, oldest first, up to itself."""
        start = _newest_start(turn.key, TurnRow.id <= turn.turn_id)
        query = select(TurnRow).join(TurnRow.chat).where(is_thread(turn.key), TurnRow.id <= turn.turn_id, TurnRow.id >= start)
        return await self.turns(query.order_by(TurnRow.id))

    async def last_turn(self, key: ThreadKey) -> StoredTurn | None:
        """A thread's newest turn; None if there is none."""
        query = select(TurnRow).join(TurnRow.chat).where(is_thread(key)).order_by(TurnRow.id.desc()).limit(1)
        turns = await self.turns(query)
        return turns[0] if turns else None

    async def images_in_chat(self, key: ThreadKey, before_turn_id: int | None = None) -> set[str]:
        """SHA-256 of the pictures that the model sees in a thread: those since the newest start. `before_turn_id`: as they were
        before that turn."""
        is_before = true() if before_turn_id is None else TurnRow.id < before_turn_id
        query = select(TurnImageRow.image_sha256).join(TurnRow).join(TurnRow.chat)
        async with self.reading() as session:
            is_seen = is_thread(key), is_before, TurnRow.id >= _newest_start(key, is_before)
            return set(await session.scalars(query.where(*is_seen).distinct()))

    async def turns(self, query: Select[TurnRow]) -> list[StoredTurn]:
        """The turns that a query finds, in its order."""
        async with self.reading() as session:
            return [stored_turn(turn) for turn in await session.scalars(query)]

    # -- chats and pictures ------------------------------------------------------------------------------------------------

    async def list_chats(self, platform: str, workspace: str) -> list[ChatView]:
        """The newest chats of a workspace, newest first, without their turns; at most 1,000."""
        query = select(ChatRow).where(ChatRow.platform == platform, ChatRow.workspace == workspace)
        async with self.reading() as session:
            rows = await session.scalars(query.order_by(ChatRow.updated_at.desc(), ChatRow.id.desc()).limit(_MAX_LISTED_CHATS))
            return [_chat_view(row) for row in rows]

    async def read_chat(self, key: ThreadKey) -> ChatView | None:
        """A thread's chat with all its turns, oldest first; None if there is none."""
        async with self.reading() as session:
            chat = await session.scalar(select(ChatRow).where(is_thread(key)))
            if chat is None:
                return None
            turns = await session.scalars(select(TurnRow).where(TurnRow.chat_id == chat.id).order_by(TurnRow.id))
            return _chat_view(chat, tuple(stored_turn(turn).view() for turn in turns))

    async def delete_chat(self, key: ThreadKey) -> bool:
        """Delete a thread's chat with everything in it. Returns False if there was none."""
        async with self.writing() as session:
            chat_id = await session.scalar(select(ChatRow.id).where(is_thread(key)))
            if chat_id is not None:
                await delete_chats(session, [chat_id])
            return chat_id is not None

    async def purge(self, untouched_since: datetime) -> int:
        """Delete the chats that are unchanged since then and have no pending turn. Returns how many."""
        waits = select(TurnRow.id).where(TurnRow.chat_id == ChatRow.id, TurnRow.status == AnswerStatus.PENDING)
        async with self.writing() as session:
            query = select(ChatRow.id).where(ChatRow.updated_at < untouched_since, ~waits.exists())
            chat_ids = list(await session.scalars(query))
            await delete_chats(session, chat_ids)
            return len(chat_ids)

    async def read_image(self, key: ThreadKey, sha256: str) -> Image | None:
        """A picture of this thread; None if no turn of the thread has it."""
        shown = select(TurnImageRow).join(TurnRow).join(ChatRow).where(is_thread(key), TurnImageRow.image_sha256 == sha256)
        async with self.reading() as session:
            if await session.scalar(shown.limit(1)) is None:
                return None
            row = await session.get_one(ImageRow, sha256)
            # Rows are only made from images that model_server.images.read_image has checked.
            return Image(data=row.data, media_type=row.media_type, sha256=row.sha256, width=row.width, height=row.height)


def shorten(text: str) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= _TITLE_LENGTH else line[: _TITLE_LENGTH - 1].rstrip() + "…"


def is_thread(key: ThreadKey) -> ColumnElement[bool]:
    """The condition for the chat's row."""
    return and_(
        ChatRow.platform == key.platform,
        ChatRow.workspace == key.workspace,
        ChatRow.channel == key.channel,
        ChatRow.thread == key.thread,
    )


def is_message(platform: str, workspace: str, message_id: str) -> ColumnElement[bool]:
    """The condition for the row of the turn whose question this message is."""
    return and_(TurnRow.platform == platform, TurnRow.workspace == workspace, TurnRow.message_id == message_id)


def _newest_start(key: ThreadKey, condition: ColumnElement[bool]) -> ColumnElement[int]:
    """The id of the thread's newest turn that starts a chat and meets the condition; 0 if none does."""
    query = select(func.max(TurnRow.id)).join(TurnRow.chat).where(is_thread(key), TurnRow.is_start, condition)
    return func.coalesce(query.scalar_subquery(), 0)


async def _add_images(session: AsyncSession, turn_id: int, images: Sequence[Image]) -> None:
    for position, image in enumerate(images):
        known = await session.scalar(select(ImageRow.sha256).where(ImageRow.sha256 == image.sha256))
        if known is None:
            row = {"data": image.data, "media_type": image.media_type, "width": image.width, "height": image.height}
            await session.execute(insert(ImageRow).values(sha256=image.sha256, **row))
        link = {"turn_id": turn_id, "position": position, "image_sha256": image.sha256}
        await session.execute(insert(TurnImageRow).values(**link))


async def image_ids_of(session: AsyncSession, condition: ColumnElement[bool]) -> list[str]:
    """The hashes of the pictures of the turns that meet the condition, each once."""
    query = select(TurnImageRow.image_sha256).join(TurnRow).where(condition).distinct()
    return list(await session.scalars(query))


async def delete_turns(session: AsyncSession, turns: Sequence[TurnRow]) -> None:
    """Delete these turns, oldest first, and the pictures and chats that are not used any more."""
    turn_ids, chat_ids = [turn.id for turn in turns], {turn.chat_id for turn in turns}
    for turn in turns:
        if turn.is_start:
            await _pass_start_on(session, turn)
    await session.flush()
    orphans = await image_ids_of(session, TurnRow.id.in_(turn_ids))
    await session.execute(delete(TurnRow).where(TurnRow.id.in_(turn_ids)))
    await settle_chats(session, sorted(chat_ids))
    await delete_orphans(session, orphans)


async def _pass_start_on(session: AsyncSession, turn: TurnRow) -> None:
    """Move `is_start` to the next turn: turns about a deleted picture must not become turns about the picture before it."""
    later = select(TurnRow).where(TurnRow.chat_id == turn.chat_id, TurnRow.id > turn.id)
    if following := await session.scalar(later.order_by(TurnRow.id).limit(1)):
        following.is_start = True


async def settle_chats(session: AsyncSession, chat_ids: Sequence[int]) -> None:
    """Update the titles of chats to their first questions, and delete chats without turns."""
    for chat_id in chat_ids:
        first = select(TurnRow.question).where(TurnRow.chat_id == chat_id).order_by(TurnRow.id).limit(1)
        question = await session.scalar(first)
        if question is None:
            await session.execute(delete(ChatRow).where(ChatRow.id == chat_id))
        else:
            await session.execute(update(ChatRow).where(ChatRow.id == chat_id).values(title=shorten(question)))


async def delete_chats(session: AsyncSession, chat_ids: Sequence[int]) -> None:
    """Delete these chats with their turns, and the pictures that no other chat uses."""
    for chat_id in chat_ids:
        orphans = await image_ids_of(session, TurnRow.chat_id == chat_id)
        await session.execute(delete(ChatRow).where(ChatRow.id == chat_id))
        await delete_orphans(session, orphans)


async def delete_orphans(session: AsyncSession, image_ids: Sequence[str]) -> None:
    """Delete those of these pictures that no turn uses any more."""
    for sha256 in image_ids:
        is_shown = select(TurnImageRow.turn_id).where(TurnImageRow.image_sha256 == sha256).exists()
        await session.execute(delete(ImageRow).where(ImageRow.sha256 == sha256, ~is_shown))


def _chat_view(row: ChatRow, turns: tuple[TurnView, ...] = ()) -> ChatView:
    key = ThreadKey(row.platform, row.workspace, row.channel, row.thread)
    return ChatView(key=key, title=row.title, updated_at=row.updated_at, turns=turns)
