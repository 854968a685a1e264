"""Several workspaces: each installs the app by itself (OAuth), and slack_sdk's own stores keep the tokens in our database."""

from __future__ import annotations

from collections.abc import Sequence

from slack_bolt.oauth.async_oauth_settings import AsyncOAuthSettings
from slack_sdk.oauth.installation_store.sqlalchemy import AsyncSQLAlchemyInstallationStore
from slack_sdk.oauth.state_store.sqlalchemy import AsyncSQLAlchemyOAuthStateStore
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from adapters.slack.setup import INSTALL_PATH, REDIRECT_PATH, scopes
from adapters.slack.workspaces import sdk_log

STATE_SECONDS = 600


class Installations:
    """The tables are slack_sdk's (slack_bots, slack_installations, slack_oauth_states) and are made when they are missing."""

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
