"""What Slack's errors mean to the rest of the program."""

from __future__ import annotations

import aiohttp
import pytest
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_slack_response import AsyncSlackResponse

from adapters.slack.destination import Destination, parse_destination
from adapters.slack.workspaces import Refused, Unknown, translated_errors, web_client
from adapters.surface import DestinationGone, TryLater


def error(word: str | None, status: int = 200, **headers: str) -> SlackApiError:
    response = AsyncSlackResponse(
        client=web_client("xoxb-1", None),
        http_verb="POST",
        api_url="https://slack.com/api/x",
        req_args={},
        data={} if word is None else {"ok": False, "error": word},
        headers=headers,
        status_code=status,
    )
    return SlackApiError("no", response)  # type: ignore[no-untyped-call]


async def raised_by(failure: Exception) -> BaseException:
    with pytest.raises((DestinationGone, TryLater, Refused)) as caught:
        async with translated_errors():
            raise failure
    return caught.value


@pytest.mark.parametrize("word", ["channel_not_found", "not_in_channel", "is_archived", "message_not_found", "thread_not_found"])
async def test_a_place_that_is_gone(word: str) -> None:
    assert isinstance(await raised_by(error(word)), DestinationGone)


async def test_a_rate_limit_says_how_long() -> None:
    later = await raised_by(error("ratelimited", 429, **{"Retry-After": "60"}))
    assert isinstance(later, TryLater)
    assert not isinstance(later, Unknown)  # nothing was done
    assert later.retry_after_seconds == 60.0


@pytest.mark.parametrize("word", [None, "internal_error"])
async def test_what_slack_may_have_done_all_the_same(word: str | None) -> None:
    assert isinstance(await raised_by(error(word, 503 if word is None else 200)), Unknown)


@pytest.mark.parametrize("failure", [aiohttp.ServerDisconnectedError(), TimeoutError()])
async def test_what_may_have_been_done_before_the_connection_broke(failure: Exception) -> None:
    assert isinstance(await raised_by(failure), Unknown)


async def test_anything_else_keeps_its_word() -> None:
    refused = await raised_by(error("invalid_blocks"))
    assert isinstance(refused, Refused)
    assert refused.word == "invalid_blocks"


def test_a_place_is_read_as_it_was_written() -> None:
    destination = Destination("T1", "C1", "1.1", "U1")
    assert parse_destination(str(destination)) == destination


@pytest.mark.parametrize("text", ["", "{}", "[1]", "[1,2,3,4,5]", "null", "x"])
def test_no_place_is_told(text: str) -> None:
    with pytest.raises(DestinationGone):
        parse_destination(text)
