"""Fixtures: a loopback Slack with a channel and a person, and clients for it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from slack_sdk.web.async_client import AsyncWebClient

from tests.loopbacks.slack.bolt_bot import Bot
from tests.loopbacks.slack.server import SlackServer
from tests.loopbacks.slack.state import Channel, User


@pytest.fixture
async def slack() -> AsyncIterator[SlackServer]:
    async with SlackServer() as server:
        yield server


@pytest.fixture
async def bot(slack: SlackServer) -> AsyncIterator[Bot]:
    async with Bot(slack) as bot:
        yield bot


@pytest.fixture
def ann(slack: SlackServer) -> User:
    return slack.add_user("ann")


@pytest.fixture
def general(slack: SlackServer) -> Channel:
    return slack.add_channel("general")


@pytest.fixture
async def client(slack: SlackServer) -> AsyncWebClient:
    return AsyncWebClient(token=slack.bot_token, base_url=slack.api_url)
