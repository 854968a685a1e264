"""The unmodified slack_bolt on the loopback Slack's sockets and request URL: events, acknowledgements, retries, reconnections."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest
from aiohttp import web
from slack_bolt.async_app import AsyncApp
from slack_bolt.request.async_request import AsyncBoltRequest
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient

from tests.loopbacks.slack.bolt_bot import Bot
from tests.loopbacks.slack.http_mode import Forgery
from tests.loopbacks.slack.people import How
from tests.loopbacks.slack.server import SlackServer
from tests.loopbacks.slack.state import Channel, User

IMAGE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 64


# -- events ----------------------------------------------------------------------------------------------------------------


async def test_a_mention_comes_as_two_events_of_one_post_and_is_acknowledged(
    slack: SlackServer, bot: Bot, ann: User, general: Channel
) -> None:
    post = await slack.post(general, ann, f"{slack.mention} what is this?", [("a.png", IMAGE)])
    first, second = await bot.next(), await bot.next()
    await slack.settle()

    assert (first["type"], second["type"]) == ("message", "app_mention")
    assert first["subtype"] == "file_share"
    assert first["ts"] == second["ts"] == post.ts
    assert first["event_id"] != second["event_id"]
    assert first["files"][0]["id"] == second["files"][0]["id"] == post.files[0].id
    assert all(delivery.is_acknowledged and delivery.num_tries == 1 for delivery in slack.deliveries.all)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("reversed", [("app_mention", "full"), ("message", "full")]),
        ("mention_only", [("app_mention", "full")]),
        ("message_only", [("message", "full")]),
        ("mention_without_files", [("app_mention", None), ("message", "full")]),
        ("mention_without_files_only", [("app_mention", None)]),
        ("thin_files", [("message", "thin"), ("app_mention", "thin")]),
        ("check_file_info", [("message", "check"), ("app_mention", "check")]),
        ("held", []),
    ],
)
async def test_a_post_can_reach_the_app_in_every_way_that_was_seen(
    slack: SlackServer, ann: User, general: Channel, how: How, expected: list[tuple[str, str | None]]
) -> None:
    def form(event: dict[str, Any]) -> str | None:
        file = event.get("files", [{}])[0]
        if not file:
            return None
        return "thin" if file.keys() == {"id"} else "check" if file.get("file_access") == "check_file_info" else "full"

    await slack.post(general, ann, f"{slack.mention} what?", [("a.png", IMAGE)], how=how)
    assert [(delivery.event["type"], form(delivery.event)) for delivery in slack.deliveries.all] == expected


async def test_doubled_events_have_one_event_id(slack: SlackServer, bot: Bot, ann: User, general: Channel) -> None:
    await slack.post(general, ann, f"{slack.mention} what?", how="doubled")
    ids = [(await bot.next())["event_id"] for _ in range(4)]
    assert sorted(ids) == sorted([*set(ids), *set(ids)])
    assert len(set(ids)) == 2


async def test_direct_messages_bring_no_app_mention(slack: SlackServer, bot: Bot, ann: User) -> None:
    await slack.post(slack.direct(ann), ann, f"{slack.mention} hello")
    assert (await bot.next())["channel_type"] == "im"
    assert len(slack.deliveries.all) == 1


async def test_an_edited_mention_comes_again_with_a_new_event_id(slack: SlackServer, bot: Bot, ann: User, general: Channel) -> None:
    post = await slack.post(general, ann, "what is this?")
    await bot.next()
    await slack.edit(post, f"{slack.mention} what is this?")
    changed, mention = await bot.next(), await bot.next()
    assert changed["subtype"] == "message_changed"
    assert changed["previous_message"]["text"] == "what is this?"
    assert mention["type"] == "app_mention"
    assert mention["edited"]["user"] == ann.id
    assert mention["ts"] == post.ts


async def test_a_deleted_root_with_replies_becomes_a_tombstone(slack: SlackServer, bot: Bot, ann: User, general: Channel) -> None:
    root = await slack.post(general, ann, "root")
    reply = await slack.post(general, ann, "reply", thread_ts=root.ts)
    await bot.next()
    assert (await bot.next())["parent_user_id"] == ann.id
    await slack.delete(reply)
    assert (await bot.next())["deleted_ts"] == reply.ts
    await slack.post(general, ann, "reply", thread_ts=root.ts)
    await bot.next()
    await slack.delete(root)
    assert (await bot.next())["message"]["subtype"] == "tombstone"
    assert slack.messages(general)[0].text == "This message was deleted."


async def test_what_the_app_may_not_read_does_not_come(slack: SlackServer, ann: User, general: Channel) -> None:
    slack.scopes.remove("channels:history")
    await slack.post(general, ann, "hello")
    outside = slack.add_channel("outside", is_bot_member=False)
    await slack.post(outside, ann, f"{slack.mention} hello")
    assert slack.deliveries.all == []


async def test_the_bots_own_messages_come_as_events_that_bolt_drops(
    slack: SlackServer, bot: Bot, ann: User, general: Channel
) -> None:
    await bot.client.chat_postMessage(channel=general.id, text="hello")
    await slack.settle()
    assert [delivery.event["bot_id"] for delivery in slack.deliveries.all] == [slack.bot_id]
    await slack.post(general, ann, "hello, bot")
    assert (await bot.next())["text"] == "hello, bot"


# -- Socket Mode -----------------------------------------------------------------------------------------------------------


async def test_what_no_listener_takes_comes_four_times(slack: SlackServer, bot: Bot, ann: User, general: Channel) -> None:
    slack.deliveries.ack_seconds, slack.deliveries.retry_seconds = 0.05, (0.0, 0.0, 0.0)
    slack.subscriptions.add("file_shared")
    tries: list[tuple[int, str, str]] = []

    async def on_request(client: Any, request: Any) -> None:
        if request.payload["event"]["type"] == "file_shared":
            tries.append((request.retry_attempt, request.retry_reason, request.payload["event_id"]))
            await slack.state.changed()

    bot.handler.client.socket_mode_request_listeners.append(on_request)
    await slack.post(general, ann, "look", [("a.png", IMAGE)])
    await slack.settle()
    await slack.wait_for(lambda: len(tries) == 4)
    shared = next(delivery for delivery in slack.deliveries.all if delivery.event["type"] == "file_shared")
    assert shared.is_given_up
    assert shared.num_tries == 4
    assert sorted(attempt for attempt, _, _ in tries) == [0, 1, 2, 3]
    assert sorted(reason for _, reason, _ in tries) == ["", "timeout", "timeout", "timeout"]
    assert {event_id for _, _, event_id in tries} == {shared.body["event_id"]}


async def test_a_dropped_connection_is_made_anew(slack: SlackServer, ann: User, general: Channel) -> None:
    async with Bot(slack, ping_seconds=0.2) as bot:
        slack.socket.drop()
        await slack.post(general, ann, "are you there?")
        assert (await bot.next())["text"] == "are you there?"
    assert len(slack.socket.connections) >= 2


async def test_what_was_on_its_way_when_the_connection_broke_comes_again(
    slack: SlackServer, client: AsyncWebClient, ann: User, general: Channel
) -> None:
    async def connect(session: aiohttp.ClientSession) -> aiohttp.ClientWebSocketResponse:
        socket = await session.ws_connect((await client.apps_connections_open(app_token=slack.app_token))["url"])
        assert (await socket.receive_json(timeout=10))["type"] == "hello"
        return socket

    async with aiohttp.ClientSession() as session:
        socket = await connect(session)
        await slack.post(general, ann, "are you there?")
        first = await socket.receive_json(timeout=10)
        slack.socket.drop()
        socket = await connect(session)
        again = await socket.receive_json(timeout=10)
        await socket.send_json({"envelope_id": again["envelope_id"]})
        await slack.settle()
    assert (first["retry_attempt"], again["retry_attempt"], again["retry_reason"]) == (0, 1, "connection_failed")
    assert first["payload"] == again["payload"]
    assert slack.deliveries.all[0].is_acknowledged


@pytest.mark.parametrize("reason", ["warning", "refresh_requested"])
async def test_a_disconnect_frame_makes_a_new_connection(
    slack: SlackServer, bot: Bot, ann: User, general: Channel, reason: Any
) -> None:
    await slack.socket.disconnect(reason)
    await slack.post(general, ann, "are you there?")
    assert (await bot.next())["text"] == "are you there?"
    assert len(slack.socket.connections) == 2
    await slack.settle()
    assert [delivery.num_tries for delivery in slack.deliveries.all] == [1]


async def test_pings_are_echoed_and_a_dead_link_is_noticed(slack: SlackServer) -> None:
    async with Bot(slack, ping_seconds=0.2):
        await slack.wait_for(lambda: any(connection.num_pings >= 2 for connection in slack.socket.connections))
        slack.socket.answers_pings = False
        num_connections = len(slack.socket.connections)
        await slack.wait_for(lambda: len(slack.socket.connections) > num_connections)


async def test_of_several_connections_one_gets_each_event(slack: SlackServer, bot: Bot, ann: User, general: Channel) -> None:
    async with Bot(slack) as second:
        for number in range(4):
            await slack.post(general, ann, str(number))
        seen = [(await bot.next())["text"] for _ in range(2)] + [(await second.next())["text"] for _ in range(2)]
    assert sorted(seen) == ["0", "1", "2", "3"]


async def test_a_socket_address_is_good_once_and_for_the_app_token_only(slack: SlackServer, client: AsyncWebClient) -> None:
    with pytest.raises(SlackApiError, match="not_allowed_token_type"):
        await client.apps_connections_open(app_token=slack.bot_token)
    url = (await client.apps_connections_open(app_token=slack.app_token))["url"]
    async with aiohttp.ClientSession() as session:
        async with session.ws_connect(url) as socket:
            assert (await socket.receive_json())["connection_info"] == {"app_id": slack.app_id}
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await session.ws_connect(url)


async def test_there_are_ten_connections_at_most(slack: SlackServer, client: AsyncWebClient) -> None:
    async with aiohttp.ClientSession() as session:
        urls = [(await client.apps_connections_open(app_token=slack.app_token))["url"] for _ in range(11)]
        sockets = [await session.ws_connect(url) for url in urls]
        first = [await socket.receive_json(timeout=10) for socket in sockets]
    assert [frame.get("num_connections") for frame in first[:10]] == list(range(1, 11))
    assert (first[10]["type"], first[10]["reason"]) == ("disconnect", "too_many_websockets")


# -- what people do --------------------------------------------------------------------------------------------------------


async def test_buttons_shortcuts_commands_and_views_go_there_and_back(
    slack: SlackServer, bot: Bot, ann: User, general: Channel
) -> None:
    clicked: list[tuple[str, str]] = []

    async def on_click(ack: Any, action: dict[str, Any], body: dict[str, Any]) -> None:
        await ack()
        clicked.append((action["value"], body["message"]["ts"]))

    async def on_shortcut(ack: Any, body: dict[str, Any], client: AsyncWebClient) -> None:
        await ack()
        element = {"type": "plain_text_input", "action_id": "words"}
        blocks = [{"type": "input", "block_id": "question", "label": {"type": "plain_text", "text": "What?"}, "element": element}]
        title, submit = {"type": "plain_text", "text": "Ask"}, {"type": "plain_text", "text": "Go"}
        view = {"type": "modal", "callback_id": "ask", "title": title, "submit": submit, "blocks": blocks}
        await client.views_open(trigger_id=body["trigger_id"], view=view)

    async def on_view(ack: Any, view: dict[str, Any]) -> None:
        words = view["state"]["values"]["question"]["words"]["value"]
        await ack(response_action="errors", errors={"question": f"not {words}"})

    async def on_command(ack: Any, respond: Any, command: dict[str, Any]) -> None:
        await ack("at once")
        await respond(text=f"later: {command['text']}")

    bot.app.action("rate")(on_click)
    bot.app.shortcut("ask_about")(on_shortcut)
    bot.app.view("ask")(on_view)
    bot.app.command("/threadsight")(on_command)
    labels = {"positive_button": ("Good", "1"), "negative_button": ("Bad", "0")}
    choices = {name: {"text": {"type": "plain_text", "text": text}, "value": value} for name, (text, value) in labels.items()}
    blocks = [{"type": "context_actions", "elements": [{"type": "feedback_buttons", "action_id": "rate"} | choices]}]
    await bot.client.chat_postMessage(channel=general.id, text="rate me", blocks=blocks)
    message = slack.answers(general)[0]
    assert message.buttons == [("rate", "Good", "1"), ("rate", "Bad", "0")]

    assert (await slack.click(ann, message, "rate", "0")).is_acknowledged
    await slack.wait_for(lambda: clicked)
    assert clicked == [("0", message.ts)]
    with pytest.raises(LookupError):
        await slack.click(ann, message, "rate", "2")

    post = await slack.post(general, ann, "look")
    assert (await slack.shortcut(ann, "ask_about", post)).is_acknowledged
    view = (await slack.wait_for(lambda: slack.views))[0]
    assert view.user is ann
    sent = await slack.submit_view(ann, view, {"question": "nonsense"})
    assert sent.answer == {"response_action": "errors", "errors": {"question": "not nonsense"}}

    command = await slack.slash(ann, general, "/threadsight", "quota")
    assert command.answer == {"text": "at once"}
    await slack.wait_for(lambda: command.responses)
    assert sorted(message.text for message in slack.ephemeral if message.only_for is ann) == ["at once", "later: quota"]


async def test_an_ephemeral_message_is_pressed_by_its_person_alone_and_can_be_replaced(
    slack: SlackServer, bot: Bot, ann: User, general: Channel
) -> None:
    async def on_yes(ack: Any, respond: Any) -> None:
        await ack()
        await respond(text="Done.", replace_original=True)

    bot.app.action("yes")(on_yes)
    button = {"type": "button", "action_id": "yes", "text": {"type": "plain_text", "text": "Yes"}}
    blocks = [{"type": "actions", "elements": [button]}]
    general.members.append(ann)
    await bot.client.chat_postEphemeral(channel=general.id, user=ann.id, text="Sure?", blocks=blocks)
    (asking,) = slack.ephemeral
    with pytest.raises(LookupError):
        await slack.click(slack.add_user("bob"), asking, "yes")
    await slack.click(ann, asking, "yes")
    await slack.wait_for(lambda: asking.shown == "Done.")
    assert (asking.buttons, slack.ephemeral) == ([], [asking])


async def test_home_native_stop_and_leaving_come_as_events(slack: SlackServer, bot: Bot, ann: User, general: Channel) -> None:
    slack.state.is_agent = True
    await slack.open_home(ann)
    opened = await bot.next()
    assert (opened["type"], opened["tab"], opened["user"]) == ("app_home_opened", "home", ann.id)
    root = await slack.post(general, ann, "hello")
    await bot.next()
    recipient: dict[str, Any] = {"recipient_user_id": ann.id, "recipient_team_id": slack.team_id}
    stream = await bot.client.chat_startStream(channel=general.id, thread_ts=root.ts, markdown_text="Once", **recipient)
    await slack.stop_session(ann, general, root.ts)
    assert (await bot.next())["streaming_message_ts"] == [stream["ts"]]
    with pytest.raises(SlackApiError, match="stopped_by_user"):
        await bot.client.chat_appendStream(channel=general.id, ts=stream["ts"], markdown_text=" upon")
    await slack.kick_bot(general)
    assert (await bot.next())["type"] == "channel_left"


# -- HTTP ------------------------------------------------------------------------------------------------------------------


async def test_over_http_requests_are_signed_and_come_again_when_refused(slack: SlackServer, ann: User, general: Channel) -> None:
    slack.deliveries.retry_seconds = (0.0, 0.0, 0.0)
    client = AsyncWebClient(token=slack.bot_token, base_url=slack.api_url)
    bolt = AsyncApp(client=client, signing_secret=slack.signing_secret)
    seen: list[dict[str, Any]] = []
    headers: list[dict[str, str]] = []

    async def on_message(event: dict[str, Any]) -> None:
        seen.append(event)
        await slack.state.changed()

    async def serve(request: web.Request) -> web.Response:
        headers.append(dict(request.headers))
        answer = await bolt.async_dispatch(AsyncBoltRequest(body=await request.text(), headers=dict(request.headers)))
        return web.Response(status=answer.status, body=answer.body, headers=answer.first_headers())

    async def on_command(ack: Any, command: dict[str, Any]) -> None:
        await ack(f"{command['user_name']}: {command['text']}")

    bolt.event("message")(on_message)
    bolt.command("/threadsight")(on_command)
    site = web.Application()
    site.router.add_post("/slack/events", serve)
    runner = web.AppRunner(site, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        way = slack.deliver_http(f"http://127.0.0.1:{runner.addresses[0][1]}/slack/events")
        assert await way.verify_url()
        await slack.post(general, ann, "by HTTP")
        await slack.wait_for(lambda: seen)
        await slack.settle()
        assert [event["text"] for event in seen] == ["by HTTP"]
        assert (await slack.slash(ann, general, "/threadsight", "quota & more")).answer == {"text": "ann: quota & more"}
        forgeries: list[Forgery] = ["wrong_signature", "old_timestamp", "no_signature"]
        for forgery in forgeries:
            headers.clear()
            way.forgery = forgery
            await slack.post(general, ann, forgery)
            await slack.settle()
            assert way.statuses[-4:] == [401] * 4
            assert [header.get("X-Slack-Retry-Num") for header in headers] == [None, "1", "2", "3"]
            assert headers[1]["X-Slack-Retry-Reason"] == "http_error"
        assert len(seen) == 1
    finally:
        await runner.cleanup()
