"""Alembic's entry. The store hands over an open connection (`bot.database`); there is no other way in."""

from __future__ import annotations

from alembic import context

from bot.schema import Row

context.configure(connection=context.config.attributes["connection"], target_metadata=Row.metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
