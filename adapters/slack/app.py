"""The Slack adapter: signs in, listens (Socket Mode or HTTP), and passes events to its parts; the dispatcher decides.

Everything is acknowledged at once, and the work is done in our own tasks. Events that the app subscribes to but does not need are
acknowledged too; otherwise Slack would send each four times.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import datetime
from functools import partial
from typing import Any, Literal

import aiohttp
from aiohttp import web
from slack_bolt.adapter.aiohttp import to_aiohttp_response, to_bolt_request
from slack_bolt.async_app import AsyncApp

from adapters.access import Access
from adapters.backoff import until_reached
from adapters.base import AdapterError, ThreadHandler, ThreadKey, TokenError
from adapters.bounded import BoundedSet
from adapters.conversations.absence import CatchUp, Missed
from adapters.conversations.dispatcher import Dispatcher
from adapters.conversations.pace import Pace
from adapters.post import Post
from adapters.proxies import ProxyFor, no_proxy
from adapters.slack.actions import PLATFORM, Actions
from adapters.slack.catch_up import read_missed, read_on
from adapters.slack.checks import INSTALL_AGAIN, about_scope, open_connection, sign_in
from adapters.slack.connection import Socket
from adapters.slack.destination import Destination, parse_destination
from adapters.slack.events import Events
from adapters.slack.files import Files
from adapters.slack.listeners import add_listeners
from adapters.slack.oauth import Installations, open_installations
from adapters.slack.setup import EVENTS_PATH, INSTALL_PATH, REDIRECT_PATH
from adapters.slack.surface import SlackSurface
from adapters.slack.translate import Translator
from adapters.slack.workspaces import FromMemory, Workspace, Workspaces, sdk_log, web_client
from adapters.surface import DestinationGone, Surface, TryLater
from adapters.tasks import Tasks

log = logging.getLogger(__name__)

FINISH_SECONDS = 1.0  # for what arrived last
CHANNEL_SECONDS = 1.0  # chat.postMessage: about one a second in each channel
WRITES_PER_SECOND = 1.6  # chat.appendStream: 100 in a minute
_MAX_POSTED = 10_000  # messages known to be ours, to distinguish one whose confirmation was lost
_NEEDED_SCOPES = frozenset({"app_mentions:read", "chat:write"})


class SlackAdapter:
    """One app on Slack.

    With `bot_token` it serves one workspace; with `client_id`, `client_secret` and `database_url` (where the tokens are stored) all
    that install it. `api_url` replaces Slack's Web API; `proxy_for` says by which proxy an address is reached. `routes()` must be
    served by the page's server, in http mode and for installing. `run` raises AdapterError if a token is wrong or an essential
    scope is missing.
    """

    name = PLATFORM

    def __init__(
        self,
        bot_token: str | None,
        app_token: str | None,
        *,
        api_url: str | None = None,
        mode: Literal["socket", "http"] = "socket",
        signing_secret: str | None = None,
        client_id: str | None = None,
        client_secret: str | None = None,
        database_url: str | None = None,
        access: Access | None = None,
        catch_up: CatchUp | None = None,
        proxy_for: ProxyFor = no_proxy,
    ) -> None:
        self._bot_token = bot_token
        self._app_token = app_token
        self._api_url = api_url
        self._mode = mode
        self._signing_secret = signing_secret or ""
        self._oauth = (client_id, client_secret) if client_id and client_secret else None
        self._database_url = database_url
        self._access = access or Access()
        self._catch_up = catch_up or CatchUp()
        self.started = asyncio.Event()
        self.where = ""
        self.remarks: tuple[str, ...] = ()
        self._proxy_for = proxy_for
        self._workspaces = Workspaces(api_url, proxy_for=proxy_for)
        self._posted: BoundedSet[str] = BoundedSet(_MAX_POSTED)
        self._actions: Actions | None = None
        self._translator: Translator | None = None
        self._tasks = Tasks("Slack")
        self._removing = asyncio.Lock()
        self._bolt: AsyncApp | None = None

    # -- the dispatcher's Platform -----------------------------------------------------------------------------------------------

    async def start(self, post: Post) -> tuple[ThreadKey, str]:
        destination = self._destination(post)
        return ThreadKey(PLATFORM, destination.workspace, destination.channel, destination.thread), str(destination)

    def destination(self, post: Post) -> str:
        return str(self._destination(post))

    def surface(self, destination: str) -> Surface:
        return SlackSurface(parse_destination(destination), self._workspaces, self._posted)

    async def run_command(self, post: Post) -> None:
        if self._actions is not None:
            await self._actions.run_word(post)

    async def read_on(self, post: Post, until: datetime) -> AsyncGenerator[Post, None]:
        if self._translator is None:
            raise TryLater
        workspace = await self._workspaces.find(post.workspace)
        async with contextlib.aclosing(read_on(workspace, self._translator, post, until)) as posts:
            async for each in posts:
                yield each

    @staticmethod
    def _destination(post: Post) -> Destination:
        return Destination(post.workspace, post.channel, post.thread or post.message_id.rpartition(":")[2], post.author.id)

    # -- serving -----------------------------------------------------------------------------------------------------------

    def routes(self) -> list[web.RouteDef]:
        """The HTTP routes for Slack and for people who install the app. Bolt checks the signatures."""
        routes = [web.post(EVENTS_PATH, self._on_request)] if self._mode == "http" else []
        if self._oauth is not None:
            routes += [web.get(INSTALL_PATH, self._on_install), web.get(REDIRECT_PATH, self._on_installed)]
        return routes

    async def run(self, handler: ThreadHandler) -> None:
        async with aiohttp.ClientSession() as session, self._open_installations() as installations:
            if installations is None:
                await self._sign_in()
            else:
                self._workspaces = Workspaces(self._api_url, installations.find, self._proxy_for)
                self.where = "Slack, in every workspace that installs me"
            if self._mode == "socket":
                await until_reached(lambda: open_connection(self._app_token or "", self._api_url, self._proxy_for), "Slack")
            pace = Pace(CHANNEL_SECONDS, WRITES_PER_SECOND)
            dispatcher = Dispatcher(self, handler, pace, access=self._access, catch_up=self._catch_up)
            translator = self._translator = Translator(Files(session, self._api_url, proxy_for=self._proxy_for))
            dispatcher.offline()  # until we are connected, messages may be missed
            try:
                async with self._listening(dispatcher, handler, translator, installations) as connect:
                    await connect()
                    self.started.set()
                    await asyncio.Event().wait()
            finally:
                await self._finish(dispatcher)

    async def _finish(self, dispatcher: Dispatcher) -> None:
        self._bolt = None
        await self._tasks.aclose(FINISH_SECONDS)  # a task that is cancelled in a database call leaks the connection's thread
        await dispatcher.close()

    @contextlib.asynccontextmanager
    async def _listening(
        self, dispatcher: Dispatcher, handler: ThreadHandler, translator: Translator, installations: Installations | None
    ) -> AsyncIterator[Any]:
        """Yields a function that connects; events then arrive until the context ends."""
        actions = self._actions = Actions(dispatcher, handler, translator, self._workspaces, self._posted)
        events = Events(dispatcher, translator, self._workspaces)
        bolt = self._bolt = AsyncApp(
            name="threadsight",
            client=web_client(None, self._api_url, self._proxy_for),
            authorize=FromMemory(self._workspaces),  # type: ignore[arg-type]  # its annotation is narrower than its code
            signing_secret=self._signing_secret,
            oauth_settings=None if installations is None else installations.settings,
            request_verification_enabled=self._mode == "http",
            attaching_conversation_kwargs_enabled=False,  # our listeners do not use them, and it fails on some events
            logger=sdk_log,
        )
        add_listeners(bolt, events, actions, self._workspace, partial(self._removed_from, installations), self._tasks.begin)

        def on_connected() -> None:
            self._tasks.begin(dispatcher.online(partial(self._read_missed, translator, installations)))

        if self._mode == "http":

            async def connect() -> None:
                on_connected()

            yield connect
        else:
            socket = Socket(bolt, self._app_token or "", self._api_url, on_connected, dispatcher.offline, self._proxy_for)
            try:
                yield socket.connect
            finally:
                await socket.close()

    async def _removed_from(self, installations: Installations | None, team_id: str) -> None:
        """Forget a workspace's token if Slack rejects it. If not, the event is older than a new installation."""
        if installations is None:
            return
        async with self._removing:  # Slack sends two events, and the second must not undo a new installation
            bot = await installations.find(team_id)
            if bot is None or bot.bot_token is None:
                return
            try:
                await sign_in(bot.bot_token, self._api_url, self._proxy_for)
            except TokenError:
                await installations.forget(team_id)
                self._workspaces.forget(team_id)
                log.info("The app was removed from a workspace on Slack; its token is forgotten.")

    def _workspace(self, context: Any) -> Workspace:
        """The workspace in which we are installed, also if the channel belongs to another one."""
        if self._workspaces.only is not None:
            return self._workspaces.only
        authorized = context.authorize_result
        return self._workspaces.learn(str(authorized.team_id or context.team_id), authorized.bot_user_id, authorized.bot_token)

    async def _on_request(self, request: web.Request) -> web.Response:
        if self._bolt is None:
            return web.Response(status=503)
        return await to_aiohttp_response(await self._bolt.async_dispatch(await to_bolt_request(request)))

    async def _on_install(self, request: web.Request) -> web.Response:
        flow = None if self._bolt is None else self._bolt.oauth_flow
        if flow is None:
            return web.Response(status=503)
        return await to_aiohttp_response(await flow.handle_installation(await to_bolt_request(request)))

    async def _on_installed(self, request: web.Request) -> web.Response:
        flow = None if self._bolt is None else self._bolt.oauth_flow
        if flow is None:
            return web.Response(status=503)
        response = await to_aiohttp_response(await flow.handle_callback(await to_bolt_request(request)))
        self._workspaces.forget_tokens()  # a new installation has a new token
        return response

    # -- starting ----------------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _open_installations(self) -> AsyncIterator[Installations | None]:
        if self._oauth is None:
            yield None
        elif self._database_url is None:
            raise AdapterError("Several Slack workspaces need a database for their tokens.")
        else:
            async with open_installations(*self._oauth, self._database_url) as installations:
                yield installations

    async def _sign_in(self) -> None:
        """Check the tokens, with retries while Slack cannot be reached. Raises AdapterError."""
        if self._bot_token is None:
            raise AdapterError("Slack needs SLACK_BOT_TOKEN, or SLACK_CLIENT_ID and SLACK_CLIENT_SECRET for several workspaces.")
        found = await until_reached(lambda: sign_in(self._bot_token or "", self._api_url, self._proxy_for), "Slack")
        needed = sorted(_NEEDED_SCOPES & set(found.missing_scopes))
        if needed:
            raise AdapterError(" ".join([*(about_scope(scope) for scope in needed), INSTALL_AGAIN]))
        self.remarks = tuple(f"Slack: {about_scope(scope)} {INSTALL_AGAIN}" for scope in found.missing_scopes)
        self.where = f"Slack, as @{found.bot_name} in {found.team_name}"
        self._workspaces.only = self._workspaces.learn(found.team_id, found.bot_user_id, self._bot_token)

    async def _read_missed(self, translator: Translator, installations: Installations | None, since: datetime) -> Missed:
        only = self._workspaces.only
        workspaces = [] if only is None else [only]
        if installations is not None:
            for team_id in await installations.team_ids():
                with contextlib.suppress(DestinationGone):
                    workspaces.append(await self._workspaces.find(team_id))
        missed = await asyncio.gather(*(read_missed(workspace, translator, since) for workspace in workspaces))
        return Missed([post for each in missed for post in each.posts], all(each.is_complete for each in missed))
