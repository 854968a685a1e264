"""The messages that show answers on their platforms, who asked, ratings, and adapters' notes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

row_id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add what platforms with threads need."""
    never_again = {"sqlite_autoincrement": True}  # SQLite copies the table, and would otherwise reuse ids
    # All earlier turns were asked by the owner on the page, and were shown there.
    with op.batch_alter_table("turns", table_kwargs=never_again) as turns:
        turns.add_column(sa.Column("author_id", sa.Text(), nullable=False, server_default="local"))
        turns.add_column(sa.Column("reply_place", sa.Text(), nullable=False, server_default=""))
        turns.add_column(sa.Column("is_delivered", sa.Boolean(), nullable=False, server_default=sa.true()))
    with op.batch_alter_table("turns", table_kwargs=never_again) as turns:
        for name in ("author_id", "reply_place", "is_delivered"):
            turns.alter_column(name, server_default=None)
        turns.create_index("ix_turns_platform_author_id", ["platform", "author_id"])
    op.create_table(
        "replies",
        sa.Column("turn_id", row_id, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("turn_id", "position", name="pk_replies"),
        sa.ForeignKeyConstraint(["turn_id"], ["turns.id"], name="fk_replies_turn_id", ondelete="CASCADE"),
    )
    op.create_index("ix_replies_message_id", "replies", ["message_id"])
    op.create_table(
        "ratings",
        sa.Column("turn_id", row_id, nullable=False),
        sa.Column("author_id", sa.Text(), nullable=False),
        sa.Column("is_helpful", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("turn_id", "author_id", name="pk_ratings"),
        sa.ForeignKeyConstraint(["turn_id"], ["turns.id"], name="fk_ratings_turn_id", ondelete="CASCADE"),
    )
    op.create_table(
        "notes",
        sa.Column("platform", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("platform", "name", name="pk_notes"),
    )
