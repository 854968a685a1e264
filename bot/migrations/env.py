"""Alembic's entry. It only works with an open connection from `bot.database`."""

from __future__ import annotations

from alembic import context

from bot.schema import Row

context.configure(connection=context.config.attributes["connection"], target_metadata=Row.metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
