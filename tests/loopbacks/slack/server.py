"""A loopback Slack on 127.0.0.1 for the unmodified slack_bolt and slack_sdk: Web API, Socket Mode, Events API over HTTP, files.

    async with SlackServer() as slack:
        app = AsyncApp(client=AsyncWebClient(token=slack.bot_token, base_url=slack.api_url))
        web = AsyncWebClient(token=slack.app_token, base_url=slack.api_url)
        await AsyncSocketModeHandler(app, slack.app_token, web_client=web).connect_async()
        ann, general = slack.add_user("ann"), slack.add_channel("general")
        post = await slack.post(general, ann, f"{slack.mention} what is this?", [("a.png", picture)])
        await slack.wait_for(lambda: slack.answers(general, post.ts))

What people do (post, edit, delete, click, shortcut, slash, submit_view, open_home, stop_session ...) is in `people.People`, what is
stored is in `state`. `slack.faults` makes calls fail, `slack.limits` counts and enforces rate limits, `slack.socket` is Socket Mode
(disconnect, drop, answers_pings), `slack.deliveries` has every payload with its attempts (ack_seconds, retry_seconds).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import aiohttp
from aiohttp import web

from tests.loopbacks.slack.delivery import Deliveries
from tests.loopbacks.slack.faults import Faults, RateLimits
from tests.loopbacks.slack.files import FileServer
from tests.loopbacks.slack.http_mode import SIGNING_SECRET, HttpMode
from tests.loopbacks.slack.people import People
from tests.loopbacks.slack.socket_mode import SocketMode
from tests.loopbacks.slack.state import (
    Broadcast,
    Call,
    Channel,
    ChannelKind,
    Message,
    SlackState,
    Team,
    User,
    View,
)
from tests.loopbacks.slack.web_api import WebApi

T = TypeVar("T")
TIMEOUT_SECONDS = 10.0


class SlackServer(People):
    """One app, installed at first in one team. Ids and tokens of this team are attributes."""

    def __init__(self) -> None:
        state = SlackState()
        self.socket = SocketMode(state)
        super().__init__(state, Deliveries(self.socket, state.changed))
        self._api = WebApi(state, self.publish, self._new_socket_url)
        self._files = FileServer(state)
        self._runner: web.AppRunner | None = None
        self._session: aiohttp.ClientSession | None = None
        self.port = 0  # 0 takes a free one
        self.more_routes: list[web.RouteDef] = []  # beside Slack's own
        self.team = self.add_team("Loopback")

    async def __aenter__(self) -> SlackServer:
        app = web.Application()
        app.router.add_route("*", "/api/{method}", self._api.serve)
        app.router.add_get("/link/", self.socket.serve)
        app.router.add_get("/files-pri/{id}/{name}", self._files.serve)
        app.router.add_post("/response/{id}", self.serve_response)
        app.add_routes(self.more_routes)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.api_url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/api/"
        self._session = aiohttp.ClientSession()
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._runner is not None
        assert self._session is not None
        await self.deliveries.close()
        self._files.closing.set()
        await self.socket.close()
        await self._session.close()
        await self._runner.cleanup()

    def _new_socket_url(self) -> str:
        return self.api_url.removesuffix("/api/").replace("http:", "ws:") + self.socket.new_path()

    # -- what there is -----------------------------------------------------------------------------------------------------

    def add_team(self, name: str) -> Team:
        """Add another workspace, with its own bot and token; `new_oauth_code` installs the app in it."""
        id_, bot_id = self.state.new_id("T"), self.state.new_id("U")
        team = Team(id_, name, f"xoxb-{id_}-loopback", bot_id, self.state.new_id("B"))
        self.state.teams[team.id] = team
        self.state.users[bot_id] = User(bot_id, "threadsight", team, is_bot=True)
        return team

    def new_oauth_code(self, team: Team) -> str:
        """The code that Slack returns when a person has allowed the app; valid for one oauth.v2.access."""
        code = self.state.new_id("code")
        self.state.oauth_codes[code] = team
        return code

    def add_user(self, name: str, *, is_admin: bool = False, team: Team | None = None) -> User:
        user = User(self.state.new_id("U"), name, team or self.team, is_admin)
        self.state.users[user.id] = user
        return user

    def add_channel(
        self,
        name: str,
        *,
        kind: ChannelKind = "channel",
        members: Iterable[User] = (),
        is_bot_member: bool = True,
        team: Team | None = None,
    ) -> Channel:
        """Add a channel. For direct messages with the bot use `direct`."""
        channel = Channel(self.state.new_id("C"), name, kind, team or self.team, list(members), is_bot_member)
        self.state.channels[channel.id] = channel
        return channel

    def direct(self, user: User) -> Channel:
        """The direct messages between this person and the bot."""
        return self.state.direct_channel(user)

    # -- the app as Slack knows it -----------------------------------------------------------------------------------------

    @property
    def bot_token(self) -> str:
        return self.team.bot_token

    @property
    def app_token(self) -> str:
        return self.state.app_token

    @property
    def signing_secret(self) -> str:
        return SIGNING_SECRET

    @property
    def team_id(self) -> str:
        return self.team.id

    @property
    def bot_user_id(self) -> str:
        return self.team.bot_user_id

    @property
    def bot_id(self) -> str:
        return self.team.bot_id

    @property
    def app_id(self) -> str:
        return self.state.app_id

    @property
    def mention(self) -> str:
        """What people write to mention the bot."""
        return f"<@{self.bot_user_id}>"

    @property
    def scopes(self) -> set[str]:
        """The bot token's scopes; a test may change them."""
        return self.team.scopes

    def deliver_http(self, url: str) -> HttpMode:
        """Deliver everything to the app's request URL from now on. The result can forge signatures and verify the URL."""
        assert self._session is not None
        way = HttpMode(url, self._session)
        self.deliveries.way = way
        return way

    # -- what can be seen --------------------------------------------------------------------------------------------------

    @property
    def faults(self) -> Faults:
        return self._api.faults

    @property
    def limits(self) -> RateLimits:
        return self._api.limits

    @property
    def calls(self) -> list[Call]:
        return self.state.calls

    @property
    def ephemeral(self) -> list[Message]:
        return self.state.ephemeral

    @property
    def broadcasts(self) -> list[Broadcast]:
        """Whom the bot's messages notified: everybody in a channel, or a person who was mentioned."""
        return self.state.broadcasts

    @property
    def views(self) -> list[View]:
        """Every view that the app opened, published or updated, oldest first."""
        return self.state.views

    def called(self, method: str) -> list[Call]:
        return [call for call in self.calls if call.method == method]

    def messages(self, channel: Channel, thread_ts: str | None = None) -> list[Message]:
        """A thread with its root, or the messages of the channel outside threads; oldest first."""
        if thread_ts is not None:
            return channel.thread(thread_ts)
        return [message for message in channel.messages.values() if not message.is_reply or message.subtype == "thread_broadcast"]

    def answers(self, channel: Channel, thread_ts: str | None = None) -> list[Message]:
        """The bot's messages there."""
        return [message for message in self.messages(channel, thread_ts) if message.user.is_bot]

    def status(self, channel: Channel, thread_ts: str) -> str:
        """The status under the thread; empty if there is none."""
        return self.state.statuses.get((channel.id, thread_ts), "")

    @property
    def stream_seconds(self) -> float:
        """How long a stream lives after its start, with or without appends."""
        return self.state.stream_seconds

    @stream_seconds.setter
    def stream_seconds(self, seconds: float) -> None:
        self.state.stream_seconds = seconds

    async def expire_streams(self) -> None:
        """End all streams now, as Slack does after about five minutes."""
        for channel in self.state.channels.values():
            for message in channel.messages.values():
                if message.stream == "live":
                    message.stream = "expired"
        await self.state.changed()

    async def wait_for(self, look: Callable[[], T], within_seconds: float = TIMEOUT_SECONDS) -> T:
        """Call `look` after every change until its result is true, and return that. Raises TimeoutError."""
        return await self.state.wait_for(look, within_seconds)

    async def settle(self, within_seconds: float = TIMEOUT_SECONDS) -> None:
        """Wait until every payload was acknowledged, or given up."""
        await self.wait_for(lambda: all(delivery.is_finished for delivery in self.deliveries.all), within_seconds)
