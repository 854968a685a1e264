"""The tables. A change here needs a migration in `migrations/`; a test compares the two.

A chat row is one thread of a platform. A turn with a picture that does not fit into the chat any more has `is_start` set: the model
sees only the turns from the newest such turn on, while the thread keeps all of them. Pictures are separate rows, with the SHA-256
of their bytes as the key, so that one picture in many turns is stored once. If the platform keeps the messages, a turn has its
answer's destination, the messages that show it (`replies`), and whether all of it is known to be shown.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

RowId = BigInteger().with_variant(Integer(), "sqlite")  # SQLite assigns ids only if the type is INTEGER


class CleanText(TypeDecorator[str]):
    """Text without characters that a database cannot store: PostgreSQL refuses NUL, and UTF-8 has no lone surrogates."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else clean(value)


class UtcTime(TypeDecorator[datetime]):
    """Timezone-aware times, stored in UTC; SQLite loses the zone, so it is added again."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def clean(text: str) -> str:
    """Text that every database can store: without NUL and without lone surrogates."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")


class Row(DeclarativeBase):
    """The base of all tables."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {str: CleanText(), datetime: UtcTime()}  # noqa: RUF012 - as SQLAlchemy declares it


class ChatRow(Row):
    """One chat: a thread or direct message on a platform, or one of the page's chats."""

    __tablename__ = "chats"
    __table_args__ = (UniqueConstraint("platform", "workspace", "channel", "thread"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    platform: Mapped[str]
    workspace: Mapped[str]
    channel: Mapped[str]
    thread: Mapped[str]
    title: Mapped[str]
    updated_at: Mapped[datetime] = mapped_column(index=True)


class TurnRow(Row):
    """One question with its answer."""

    __tablename__ = "turns"
    __table_args__ = (
        UniqueConstraint("platform", "workspace", "message_id"),
        Index(None, "chat_id", "id"),
        Index(None, "platform", "author_id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    chat_id: Mapped[int] = mapped_column(ForeignKey("chats.id", ondelete="CASCADE"))
    platform: Mapped[str]
    workspace: Mapped[str]
    message_id: Mapped[str]
    author_id: Mapped[str]
    destination: Mapped[str] = mapped_column("reply_place")  # the column's name since its first version
    is_delivered: Mapped[bool]
    is_start: Mapped[bool]
    is_refused: Mapped[bool]
    question: Mapped[str]
    answer: Mapped[str]
    token_ids: Mapped[Any] = mapped_column(JSON(none_as_null=True), nullable=True)
    status: Mapped[str] = mapped_column(index=True)
    notices: Mapped[Any] = mapped_column(JSON, nullable=False)
    error: Mapped[str | None]
    num_attempts: Mapped[int]
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]

    chat: Mapped[ChatRow] = relationship(lazy="joined", innerjoin=True)
    image_links: Mapped[list[TurnImageRow]] = relationship(lazy="selectin", order_by="TurnImageRow.position", passive_deletes=True)
    replies: Mapped[list[ReplyRow]] = relationship(lazy="selectin", order_by="ReplyRow.position", passive_deletes=True)


class ImageRow(Row):
    """A picture's file; one row, however often the picture was sent."""

    __tablename__ = "images"

    sha256: Mapped[str] = mapped_column(primary_key=True)
    data: Mapped[bytes] = mapped_column(LargeBinary)
    media_type: Mapped[str]
    width: Mapped[int]
    height: Mapped[int]


class TurnImageRow(Row):
    """Which pictures came with a question, in order."""

    __tablename__ = "turn_images"

    turn_id: Mapped[int] = mapped_column(RowId, ForeignKey("turns.id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    image_sha256: Mapped[str] = mapped_column(ForeignKey("images.sha256"), index=True)


class ReplyRow(Row):
    """The messages that show an answer on its platform, in order."""

    __tablename__ = "replies"

    turn_id: Mapped[int] = mapped_column(RowId, ForeignKey("turns.id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    message_id: Mapped[str] = mapped_column(index=True)


class RatingRow(Row):
    """What one person thinks of an answer."""

    __tablename__ = "ratings"

    turn_id: Mapped[int] = mapped_column(RowId, ForeignKey("turns.id", ondelete="CASCADE"), primary_key=True)
    author_id: Mapped[str] = mapped_column(primary_key=True)
    is_helpful: Mapped[bool]


class NoteRow(Row):
    """A note that an adapter stores for itself."""

    __tablename__ = "notes"

    platform: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    text: Mapped[str]
