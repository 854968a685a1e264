"""The tokens of workspaces on Slack, on every database that the store supports."""

from __future__ import annotations

import time

import pytest
from slack_sdk.oauth.installation_store import Installation

from adapters.slack.oauth import open_installations

pytestmark = pytest.mark.usefixtures("store")  # which is in the same database, and is opened before


def installation(team_id: str, token: str, enterprise_id: str | None = None) -> Installation:
    return Installation(
        app_id="A1",
        enterprise_id=enterprise_id,
        team_id=team_id,
        user_id="U1",
        bot_token=token,
        bot_id="B1",
        bot_user_id="UBOT",
        bot_scopes=["chat:write"],
        installed_at=time.time(),
    )


async def test_a_token_is_kept_found_replaced_and_forgotten(store_url: str) -> None:
    async with open_installations("client", "secret", store_url) as installations:
        await installations.store.async_save(installation("T1", "xoxb-1"))
        await installations.store.async_save(installation("T2", "xoxb-2", enterprise_id="E1"))
        await installations.store.async_save(installation("T1", "xoxb-3"))
    async with open_installations("client", "secret", store_url) as installations:  # after a restart
        assert sorted(await installations.team_ids()) == ["T1", "T2"]
        tokens = {}
        for team_id in ("T1", "T2", "T3"):
            bot = await installations.find(team_id)
            tokens[team_id] = None if bot is None else bot.bot_token
        assert tokens == {"T1": "xoxb-3", "T2": "xoxb-2", "T3": None}
        await installations.forget("T1")
        assert await installations.find("T1") is None
        assert await installations.store.async_find_installation(enterprise_id=None, team_id="T1") is None
        assert list(await installations.team_ids()) == ["T2"]


async def test_a_state_is_good_once(store_url: str) -> None:
    async with open_installations("client", "secret", store_url) as installations:
        states = installations.settings.state_store
        state = await states.async_issue()
        assert await states.async_consume(state)
        assert not await states.async_consume(state)
        assert not await states.async_consume("made up")
