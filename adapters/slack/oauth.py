"""Several workspaces: each installs the app by itself (OAuth), and slack_sdk's stores keep the tokens in our database."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence

from slack_bolt.oauth.async_oauth_settings import AsyncOAuthSettings
from slack_sdk.oauth.installation_store import Bot
from slack_sdk.oauth.installation_store.sqlalchemy import AsyncSQLAlchemyInstallationStore, SQLAlchemyInstallationStore
from slack_sdk.oauth.state_store.sqlalchemy import AsyncSQLAlchemyOAuthStateStore
from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from adapters.slack.setup import INSTALL_PATH, REDIRECT_PATH, scopes
from adapters.slack.workspaces import sdk_log

STATE_SECONDS = 600


class Installations:
    """The stored installations. The tables are slack_sdk's (slack_bots, slack_installations, slack_oauth_states), created if
    missing."""

    def __init__(self, client_id: str, client_secret: str, engine: AsyncEngine) -> None:
        self._client_id = client_id
        self.store = AsyncSQLAlchemyInstallationStore(client_id=client_id, engine=engine, logger=sdk_log)
        self._states = AsyncSQLAlchemyOAuthStateStore(expiration_seconds=STATE_SECONDS, engine=engine, logger=sdk_log)
        self._engine = engine
        self.settings = AsyncOAuthSettings(
            client_id=client_id,
            client_secret=client_secret,
            scopes=scopes(),
            install_path=INSTALL_PATH,
            redirect_uri_path=REDIRECT_PATH,
            installation_store=self.store,
            installation_store_bot_only=True,
            state_store=self._states,
            state_expiration_seconds=STATE_SECONDS,
            logger=sdk_log,
        )

    async def create_tables(self) -> None:
        await self.store.create_tables()  # type: ignore[no-untyped-call]
        await self._states.create_tables()  # type: ignore[no-untyped-call]

    async def team_ids(self) -> Sequence[str]:
        bots = self.store.bots.c
        query = select(bots.team_id).where(bots.client_id == self._client_id, bots.team_id.is_not(None)).distinct()
        async with self._engine.connect() as connection:
            return list((await connection.scalars(query)).all())

    async def find(self, team_id: str) -> Bot | None:
        """The newest installation in this workspace, None if there is none. It may be an organization's, which slack_sdk's own
        method would have to know."""
        bots = self.store.bots.c
        query = (
            select(self.store.bots)
            .where(bots.client_id == self._client_id, bots.team_id == team_id, bots.bot_token.is_not(None))
            .order_by(bots.installed_at.desc())
            .limit(1)
        )
        async with self._engine.connect() as connection:
            row = (await connection.execute(query)).mappings().first()
        return None if row is None else SQLAlchemyInstallationStore.build_bot_entity(row)

    async def forget(self, team_id: str) -> None:
        """Delete the tokens of this workspace, from which the app was removed."""
        async with self._engine.begin() as connection:
            for table in (self.store.bots, self.store.installations):
                await connection.execute(delete(table).where(table.c.client_id == self._client_id, table.c.team_id == team_id))


@contextlib.asynccontextmanager
async def open_installations(client_id: str, client_secret: str, database_url: str) -> AsyncIterator[Installations]:
    """Open the stores. `database_url` is an SQLAlchemy URL with an asyncio driver."""
    engine = create_async_engine(database_url, hide_parameters=True)  # the parameters are tokens
    try:
        installations = Installations(client_id, client_secret, engine)
        await installations.create_tables()
        yield installations
    finally:
        await engine.dispose()
