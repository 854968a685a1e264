"""The unmodified slack_sdk on the loopback Slack's Web API and files: limits, streams, errors, faults."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import aiohttp
import pytest
from slack_sdk.errors import SlackApiError
from slack_sdk.http_retry.builtin_async_handlers import AsyncRateLimitErrorRetryHandler
from slack_sdk.web.async_client import AsyncWebClient

from tests.loopbacks.slack.files import SIGN_IN_PAGE
from tests.loopbacks.slack.server import SlackServer
from tests.loopbacks.slack.state import Channel, FileFault, Message, User

IMAGE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 64
Blocks = list[dict[str, Any]]


async def word_of(call: Awaitable[Any]) -> str:
    with pytest.raises(SlackApiError) as caught:
        await call
    return str(caught.value.response["error"])


@pytest.fixture
async def root(slack: SlackServer, ann: User, general: Channel) -> Message:
    return await slack.post(general, ann, "what is this?")


def recipient(slack: SlackServer, user: User) -> dict[str, Any]:
    return {"recipient_user_id": user.id, "recipient_team_id": slack.team_id}


# -- streams ---------------------------------------------------------------------------------------------------------------


async def test_a_stream_grows_and_ends_with_blocks(
    slack: SlackServer, client: AsyncWebClient, ann: User, general: Channel, root: Message
) -> None:
    await client.assistant_threads_setStatus(channel_id=general.id, thread_ts=root.ts, status="is looking …")
    assert slack.status(general, root.ts) == "is looking …"
    stream = await client.chat_stream(buffer_size=4, channel=general.id, thread_ts=root.ts, **recipient(slack, ann))
    await stream.append(markdown_text="A red ")
    assert slack.status(general, root.ts) == ""
    await stream.append(markdown_text="circle")
    await stream.stop(markdown_text=".", blocks=[{"type": "divider"}])
    [answer] = slack.answers(general, root.ts)
    assert answer.history == ["A red ", "A red circle", "A red circle."]
    assert (answer.stream, answer.blocks) == ("done", [{"type": "divider"}])
    late = client.chat_appendStream(channel=general.id, ts=answer.ts, markdown_text="!")
    assert await word_of(late) == "message_not_in_streaming_state"


@pytest.mark.parametrize("is_by_time", [False, True])
async def test_a_stream_expires_while_text_flows_and_an_update_finishes_it(
    slack: SlackServer, client: AsyncWebClient, ann: User, general: Channel, root: Message, is_by_time: bool
) -> None:
    started = await client.chat_startStream(channel=general.id, thread_ts=root.ts, markdown_text="A red", **recipient(slack, ann))
    here: dict[str, Any] = {"channel": general.id, "ts": started["ts"]}
    await client.chat_appendStream(**here, markdown_text=" circle")
    assert await word_of(client.chat_update(**here, markdown_text="no")) == "streaming_state_conflict"
    if is_by_time:
        slack.stream_seconds = 0.0
    else:
        await slack.expire_streams()
    assert await word_of(client.chat_appendStream(**here, markdown_text=" on")) == "message_not_in_streaming_state"
    assert await word_of(client.chat_stopStream(**here)) == "message_not_in_streaming_state"
    assert slack.answers(general, root.ts)[0].shown == "A red circle"
    await client.chat_update(**here, markdown_text="A red circle on white")
    assert slack.answers(general, root.ts)[0].history == ["A red", "A red circle", "A red circle on white"]


async def test_what_streams_demand(slack: SlackServer, client: AsyncWebClient, ann: User, general: Channel, root: Message) -> None:
    to_ann = recipient(slack, ann)
    assert await word_of(client.chat_startStream(channel=general.id, thread_ts=root.ts)) == "missing_recipient_team_id"
    nowhere = client.chat_startStream(channel=general.id, thread_ts="1.000000", **to_ann)
    assert await word_of(nowhere) == "thread_not_found"
    too_long = client.chat_startStream(channel=general.id, thread_ts=root.ts, markdown_text="x" * 12_001, **to_ann)
    assert await word_of(too_long) == "msg_too_long"
    direct = slack.direct(ann)
    post = await slack.post(direct, ann, "hello")
    assert (await client.chat_startStream(channel=direct.id, thread_ts=post.ts, markdown_text="hi"))["ok"]
    of_ann = client.chat_appendStream(channel=general.id, ts=root.ts, markdown_text="x")
    assert await word_of(of_ann) == "message_not_owned_by_app"


async def test_an_alert_is_seen_even_when_it_comes_in_two_parts(
    slack: SlackServer, client: AsyncWebClient, ann: User, general: Channel, root: Message
) -> None:
    stream = await client.chat_stream(buffer_size=1, channel=general.id, thread_ts=root.ts, **recipient(slack, ann))
    await stream.append(markdown_text="Hello <!chan")
    assert slack.broadcasts == []
    await stream.append(markdown_text="nel>")
    await client.chat_postMessage(channel=general.id, text=f"&lt;!here&gt; <@{ann.id}>")
    await client.chat_postMessage(channel=general.id, text="@here")
    await client.chat_postMessage(channel=general.id, text="@everyone", link_names=True)
    assert [broadcast.what for broadcast in slack.broadcasts] == ["<!channel>", f"<@{ann.id}>", "@everyone"]


# -- messages --------------------------------------------------------------------------------------------------------------


def section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text}}


def button(value: str, label: str = "Stop") -> dict[str, Any]:
    text = {"type": "plain_text", "text": label}
    return {"type": "actions", "elements": [{"type": "button", "action_id": "stop", "text": text, "value": value}]}


@pytest.mark.parametrize(
    ("blocks", "word"),
    [
        ([section("x" * 3_001)], "invalid_blocks"),
        ([section("")], "invalid_blocks"),
        ([section("x")] * 51, "invalid_blocks"),
        ([button("x" * 2_001)], "invalid_blocks"),
        ([button("x", "x" * 76)], "invalid_blocks"),
        ([{"type": "context_actions", "elements": [{"type": "button"}]}], "invalid_blocks"),
        ([{"type": "context_actions", "elements": []}], "invalid_blocks"),
        ([{"type": "nonsense"}], "invalid_blocks"),
        ([{"type": "header", "text": {"type": "mrkdwn", "text": "x"}}], "invalid_blocks"),
        ([{"type": "markdown", "text": "x" * 6_001}] * 2, "msg_blocks_too_long"),
        (["x"], "invalid_blocks_format"),
    ],
)
async def test_blocks_that_break_the_limits_are_refused(
    client: AsyncWebClient, general: Channel, blocks: Blocks, word: str
) -> None:
    assert await word_of(client.chat_postMessage(channel=general.id, text="x", blocks=blocks)) == word


async def test_blocks_at_their_limits_are_taken(slack: SlackServer, client: AsyncWebClient, general: Channel) -> None:
    blocks = [section("x" * 3_000), {"type": "markdown", "text": "y" * 12_000}, button("z" * 2_000, "l" * 75)]
    await client.chat_postMessage(channel=general.id, text="fallback", blocks=blocks)
    assert slack.answers(general)[0].shown == "x" * 3_000 + "\n" + "y" * 12_000


async def test_errors_have_slacks_words(
    slack: SlackServer, client: AsyncWebClient, ann: User, general: Channel, root: Message
) -> None:
    here: dict[str, Any] = {"channel": general.id}
    assert await word_of(client.chat_update(**here, ts=root.ts, text="x")) == "cant_update_message"
    assert await word_of(client.chat_update(**here, ts="1.000000", text="x")) == "message_not_found"
    assert await word_of(client.api_call("chat.postMessage", json=here)) == "no_text"
    assert await word_of(client.chat_postMessage(channel="C0", text="x")) == "channel_not_found"
    assert await word_of(client.api_call("chat.nonsense")) == "unknown_method"
    assert await word_of(AsyncWebClient(token="xoxb-other", base_url=slack.api_url).auth_test()) == "invalid_auth"
    sent = await client.chat_postMessage(**here, text="x" * 5_000)
    assert await word_of(client.chat_update(**here, ts=sent["ts"], text="x" * 4_001)) == "msg_too_long"
    outside = slack.add_channel("outside", is_bot_member=False)
    assert await word_of(client.chat_postMessage(channel=outside.id, text="x")) == "not_in_channel"
    await slack.archive(general)
    assert await word_of(client.chat_postMessage(**here, text="x")) == "is_archived"
    slack.scopes.remove("chat:write")
    with pytest.raises(SlackApiError) as caught:
        await client.chat_postMessage(**here, text="x")
    assert (caught.value.response["error"], caught.value.response["needed"]) == ("missing_scope", "chat:write")
    assert "chat:write" not in caught.value.response["provided"].split(",")


async def test_scopes_are_told_with_every_answer(slack: SlackServer, client: AsyncWebClient) -> None:
    response = await client.auth_test()
    told = next(value for name, value in response.headers.items() if name.lower() == "x-oauth-scopes")
    assert set(told.split(",")) == slack.scopes
    assert (response["team_id"], response["user_id"], response["bot_id"]) == (slack.team_id, slack.bot_user_id, slack.bot_id)
    assert slack.calls[-1].token == slack.bot_token


async def test_history_and_threads_are_read_in_pages(
    slack: SlackServer, client: AsyncWebClient, ann: User, general: Channel, root: Message
) -> None:
    replies = [await slack.post(general, ann, str(number), thread_ts=root.ts) for number in range(3)]
    later = await slack.post(general, ann, "later")
    history = await client.conversations_history(channel=general.id)
    assert [message["ts"] for message in history["messages"]] == [later.ts, root.ts]
    assert history["messages"][1]["latest_reply"] == replies[-1].ts
    only = await client.conversations_history(channel=general.id, latest=root.ts, inclusive=True, limit=1)
    assert [message["ts"] for message in only["messages"]] == [root.ts]
    pages = await client.conversations_replies(channel=general.id, ts=root.ts, limit=3)
    seen = [[message["text"] for message in page["messages"]] async for page in pages]
    assert seen == [["what is this?", "0", "1"], ["2"]]
    since = await client.conversations_replies(channel=general.id, ts=root.ts, oldest=replies[1].ts)
    assert [message["text"] for message in since["messages"]] == ["what is this?", "2"]
    slack.add_channel("secret", kind="private", is_bot_member=False)
    mine = await client.users_conversations(types="public_channel,private_channel")
    assert [channel["id"] for channel in mine["channels"]] == [general.id]


async def test_a_trigger_is_good_once_and_not_for_long(slack: SlackServer, client: AsyncWebClient, ann: User) -> None:
    view = {"type": "modal", "title": {"type": "plain_text", "text": "Ask"}, "blocks": [section("x")]}
    trigger = slack.state.new_trigger(ann)
    await client.views_open(trigger_id=trigger, view=view)
    assert await word_of(client.views_open(trigger_id=trigger, view=view)) == "exchanged_trigger_id"
    slack.state.trigger_seconds = 0.0
    assert await word_of(client.views_open(trigger_id=slack.state.new_trigger(ann), view=view)) == "expired_trigger_id"
    view["title"] = {"type": "plain_text", "text": "x" * 25}
    assert await word_of(client.views_open(trigger_id=slack.state.new_trigger(ann), view=view)) == "invalid_arguments"


@pytest.mark.filterwarnings("ignore:BasicAuth is deprecated:DeprecationWarning")  # slack_sdk uses it
async def test_another_workspace_is_installed_by_oauth(slack: SlackServer, general: Channel) -> None:
    team = slack.add_team("Elsewhere")
    code = slack.new_oauth_code(team)
    account = {"client_id": slack.state.client_id, "client_secret": slack.state.client_secret, "code": code}
    answer = await AsyncWebClient(base_url=slack.api_url).oauth_v2_access(**account)
    elsewhere = AsyncWebClient(token=answer["access_token"], base_url=slack.api_url)
    assert (await elsewhere.auth_test())["team_id"] == answer["team"]["id"] == team.id != slack.team_id
    assert await word_of(elsewhere.chat_postMessage(channel=general.id, text="x")) == "channel_not_found"
    assert await word_of(AsyncWebClient(base_url=slack.api_url).oauth_v2_access(**account)) == "invalid_code"
    await elsewhere.auth_revoke()
    assert await word_of(elsewhere.auth_test()) == "token_revoked"


# -- faults ----------------------------------------------------------------------------------------------------------------


async def test_the_retry_handler_waits_as_long_as_it_is_told(
    slack: SlackServer, client: AsyncWebClient, general: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    slack.faults.fail_next("chat.postMessage", status=429, retry_after_seconds=7)
    assert await word_of(client.chat_postMessage(channel=general.id, text="lost")) == "ratelimited"
    waited: list[float] = []

    async def wait(seconds: float) -> None:
        waited.append(seconds)

    client.retry_handlers.append(AsyncRateLimitErrorRetryHandler(max_retry_count=2))
    monkeypatch.setattr("slack_sdk.http_retry.builtin_async_handlers.asyncio.sleep", wait)
    slack.faults.fail_next("chat.postMessage", status=429, retry_after_seconds=7, times=2)
    await client.chat_postMessage(channel=general.id, text="hello")
    assert [int(seconds) for seconds in waited] == [7, 7]
    assert [message.text for message in slack.answers(general)] == ["hello"]
    assert [call.error for call in slack.called("chat.postMessage")] == ["HTTP 429"] * 3 + [None]


async def test_server_errors_resets_and_lost_answers(slack: SlackServer, client: AsyncWebClient, general: Channel) -> None:
    client.retry_handlers.clear()
    slack.faults.fail_next("chat.postMessage", status=500)
    with pytest.raises(SlackApiError) as caught:
        await client.chat_postMessage(channel=general.id, text="1")
    assert caught.value.response.status_code == 500
    slack.faults.fail_next("chat.postMessage", is_reset=True)
    with pytest.raises(aiohttp.ClientError):
        await client.chat_postMessage(channel=general.id, text="2")
    assert slack.answers(general) == []
    slack.faults.fail_next("chat.postMessage", is_reset=True, is_done=True)
    with pytest.raises(aiohttp.ClientError):
        await client.chat_postMessage(channel=general.id, text="3")
    slack.faults.fail_next("*", error="fatal_error")
    assert await word_of(client.auth_test()) == "fatal_error"
    assert [message.text for message in slack.answers(general)] == ["3"]


async def test_a_call_can_be_held(slack: SlackServer, client: AsyncWebClient, general: Channel) -> None:
    hold = slack.faults.hold_next("chat.postMessage")
    call = asyncio.ensure_future(client.chat_postMessage(channel=general.id, text="hello"))
    async with asyncio.timeout(10):
        await hold.arrived.wait()
        assert slack.answers(general) == []
        hold.release()
        await call
    assert [message.text for message in slack.answers(general)] == ["hello"]


async def test_rate_limits_are_counted_and_enforced_when_wanted(
    slack: SlackServer, client: AsyncWebClient, general: Channel
) -> None:
    sent = await client.chat_postMessage(channel=general.id, text="0")
    for number in range(51):
        await client.chat_update(channel=general.id, ts=sent["ts"], text=str(number))
    assert [violation.method for violation in slack.limits.violations] == ["chat.update"]
    slack.limits.is_enforced = True
    assert await word_of(client.chat_update(channel=general.id, ts=sent["ts"], text="late")) == "ratelimited"
    other = slack.add_channel("other")
    await client.chat_postMessage(channel=other.id, text="1")
    with pytest.raises(SlackApiError) as caught:
        await client.chat_postMessage(channel=other.id, text="2")
    assert caught.value.response.headers["Retry-After"] in ("1", "2")


# -- files -----------------------------------------------------------------------------------------------------------------


async def download(url: str, token: str, max_bytes: int = 10**6) -> tuple[int, str, bytes]:
    data = bytearray()
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as session, session.get(url) as response:
        async for chunk in response.content.iter_any():
            data += chunk
            if len(data) > max_bytes:
                break
        return response.status, response.content_type, bytes(data)


async def test_files_need_the_bearer_and_the_right_to_read(
    slack: SlackServer, client: AsyncWebClient, ann: User, general: Channel
) -> None:
    post = await slack.post(general, ann, "", [("a.png", IMAGE)], how="thin_files")
    file = (await client.files_info(file=post.files[0].id))["file"]
    assert (file["name"], file["size"], file["mimetype"]) == ("a.png", len(IMAGE), "image/png")
    url = file["url_private_download"]
    assert await download(url, slack.bot_token) == (200, "image/png", IMAGE)
    sign_in = (200, "text/html", SIGN_IN_PAGE.encode())
    assert await download(url, "xoxb-other") == sign_in
    slack.scopes.remove("files:read")
    assert await download(url, slack.bot_token) == sign_in
    assert await word_of(client.files_info(file=post.files[0].id)) == "missing_scope"


@pytest.mark.parametrize(("fault", "status"), [("404", 404), ("403", 403), ("cut", 200), ("sign_in", 200), ("endless", 200)])
async def test_files_that_come_wrong(slack: SlackServer, ann: User, fault: FileFault, status: int) -> None:
    file = slack.add_file(ann, "a.png", IMAGE, fault=fault)
    found, _, data = await download(file.url, slack.bot_token)
    assert found == status
    half = IMAGE[: len(IMAGE) // 2]
    assert fault != "cut" or data == half
    assert fault != "sign_in" or data == SIGN_IN_PAGE.encode()
    assert fault != "endless" or (len(data) > 10**6 and data.startswith(half))


async def test_a_download_that_breaks_off(slack: SlackServer, ann: User) -> None:
    file = slack.add_file(ann, "a.png", IMAGE, fault="truncated")
    with pytest.raises(aiohttp.ClientPayloadError):
        await download(file.url, slack.bot_token)


async def test_a_download_that_never_ends(slack: SlackServer, ann: User) -> None:
    file = slack.add_file(ann, "a.png", IMAGE, fault="slow")
    headers, half = {"Authorization": f"Bearer {slack.bot_token}"}, len(IMAGE) // 2
    async with aiohttp.ClientSession(headers=headers) as session, session.get(file.url) as response:
        assert response.content_length == len(IMAGE)
        assert await response.content.readexactly(half) == IMAGE[:half]
        assert not response.content.is_eof()
        assert response.content.total_bytes == half


async def test_files_that_are_not_there(slack: SlackServer, client: AsyncWebClient, ann: User, general: Channel) -> None:
    gone = slack.add_file(ann, "gone.png", IMAGE, mode="tombstone")
    outside = slack.add_file(ann, "outside.png", IMAGE, mode="external")
    large = slack.add_file(ann, "large.png", IMAGE, announced_size=10)
    hidden = slack.add_file(ann, "hidden.png", IMAGE, mode="hidden_by_limit")
    await slack.post(general, ann, "look", [gone, outside, large, hidden])
    files = slack.deliveries.all[0].event["files"]
    assert [file["mode"] for file in files] == ["tombstone", "external", "hosted", "hidden_by_limit"]
    assert files[1]["is_external"]
    assert "url_private_download" not in files[1]
    assert files[2]["size"] == 10
    assert await word_of(client.files_info(file=gone.id)) == "file_deleted"
