"""What people can do besides writing messages: buttons, the shortcut, /threadsight, !words in threads, and the app's home."""

from __future__ import annotations

import html
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import aiohttp

from adapters.base import Author, IncomingMessage, ThreadHandler, ThreadKey
from adapters.bounded import BoundedSet
from adapters.commands import COMMANDS, Command, CommandName, help_lines
from adapters.conversations.dispatcher import NOT_ALLOWED, Dispatcher
from adapters.post import Post
from adapters.slack.blocks import CONFIRM_ACTIONS, Block, confirmation_blocks, plain, read_value
from adapters.slack.destination import Destination
from adapters.slack.setup import COMMAND
from adapters.slack.surface import SlackSurface
from adapters.slack.translate import WORDS, Translator, message_id
from adapters.slack.workspaces import Refused, Workspace, Workspaces, translated_errors
from adapters.surface import Control, DestinationGone, TryLater

log = logging.getLogger(__name__)

PLATFORM = "slack"
ASK_VIEW = "threadsight_ask"
_QUESTION, _IMAGES = "question", "pictures"
_MAX_FILES = 10
_NOT_HERE = "I am not a member of this channel. Invite me with /invite and ask again, or send me a direct message."
_COMMANDS_BY_NAME = {command.name: command for command in COMMANDS}
_SLASHES = {command.name.value: command for command in COMMANDS if not command.is_about_chat}


def _forms_of(command: Command) -> list[str]:
    words = [word for word, meant in WORDS.items() if meant is command]
    return words + [f"{COMMAND} {word}" for word, meant in _SLASHES.items() if meant is command]


HELP = (
    "Post a picture and mention me in the same message: I answer in its thread, and every reply there goes on with the chat, "
    "without a mention. You can also send me a direct message, or choose “Ask about this image” from a message's menu. "
    "Edit a question and I answer it again; delete it and I forget it.\n"
    f"{help_lines(COMMANDS, _forms_of)}\n"
    f"What begins with ! is for threads and direct messages, {COMMAND} for everywhere else."
)

Body = Mapping[str, Any]
Respond = Callable[..., Awaitable[Any]]
"""Bolt's function that answers an interaction at its response_url
(https://docs.slack.dev/interactivity/handling-user-interaction)."""


class Actions:
    """What members do besides writing messages: buttons, shortcuts, slash commands, the App Home."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        handler: ThreadHandler,
        translator: Translator,
        workspaces: Workspaces,
        posted: BoundedSet[str],
    ) -> None:
        self._dispatcher = dispatcher
        self._handler = handler
        self._translator = translator
        self._workspaces = workspaces
        self._posted = posted

    # -- in threads --------------------------------------------------------------------------------------------------------

    async def run_word(self, post: Post) -> None:
        """Carry out one of our !words, in one of our threads or in a message to us."""
        command = WORDS[post.text.strip().lower()]
        key = ThreadKey(PLATFORM, post.workspace, post.channel, post.thread or post.message_id.rpartition(":")[2])
        workspace = await self._workspaces.find(post.workspace)
        if command.is_about_chat and post.thread is None and post.is_direct:
            key = await self._handler.latest_chat(PLATFORM, post.workspace, post.channel) or key
        blocks = confirmation_blocks(command)
        sentence = await self._done(command.name, key, post.author, post.sent_at) if blocks is None else _question_of(command)
        await self._tell(workspace, post.channel, post.author.id, post.thread, sentence, blocks)

    async def confirmed(self, workspace: Workspace, body: Body, respond: Respond) -> None:
        """Carry out a command whose confirmation button was pressed. The result replaces the question."""
        name = CONFIRM_ACTIONS.get(str((body.get("actions") or [{}])[0].get("action_id") or ""))
        if name is None:
            return
        container, person = body.get("container") or {}, _person(body)
        channel = str((body.get("channel") or {}).get("id") or container.get("channel_id") or "")
        thread = str(container.get("thread_ts") or "")
        sentence = await self._done(name, ThreadKey(PLATFORM, workspace.id, channel, thread), person, _pressed_at(body))
        try:
            is_told = (await respond(text=html.escape(sentence, quote=False), replace_original=True)).status_code == 200
        except (aiohttp.ClientError, OSError, TimeoutError):
            is_told = False
        if not is_told:
            await self._tell(workspace, channel, person.id, thread or None, sentence)

    async def _done(self, name: CommandName, key: ThreadKey, person: Author, at: datetime) -> str:
        """Carry out a command, on the chat `key` if it is about a chat; it was given `at` that time. Returns what to tell the
        person."""
        match name:
            case CommandName.RESET:
                return await self._dispatcher.reset(key, at)
            case CommandName.QUOTA:
                return await self._dispatcher.quota(key.workspace, person)
            case CommandName.FORGET:
                return await self._dispatcher.forget(person.id, at)
            case CommandName.HELP:
                return HELP
            case CommandName.ASK:
                raise AssertionError("a question is asked in its form")

    async def button(self, workspace: Workspace, body: Body) -> None:
        """Carry out a button under an answer: Stop, Regenerate, or a rating."""
        chosen = read_value(str((body.get("actions") or [{}])[0].get("value") or ""))
        container = body.get("container") or {}
        channel = str((body.get("channel") or {}).get("id") or container.get("channel_id") or "")
        if chosen is None or not channel:
            return
        control, turn_id = chosen
        person = _person(body)
        if self._is_allowed(workspace, person, channel):
            needs_right = control in (Control.STOP, Control.REGENERATE)
            is_moderator = needs_right and await workspace.is_admin(person.id)
            sentence = await self._dispatcher.press(control, turn_id, person, is_moderator=is_moderator)
        else:
            sentence = NOT_ALLOWED
        if sentence is not None:
            thread = (body.get("message") or {}).get("thread_ts") or container.get("thread_ts")
            await self._tell(workspace, channel, person.id, thread, sentence)

    async def native_stop(self, workspace: Workspace, event: Body) -> None:
        """Handle Slack's own Stop button, which an app has if it is declared an agent."""
        channel, thread = str(event.get("channel") or ""), str(event.get("thread_ts") or "")
        person = Author(str(event.get("user") or ""), "")
        answer = self._handler.running_answer(ThreadKey(PLATFORM, workspace.id, channel, thread))
        if answer is not None and answer.turn_id is not None:
            is_moderator = await workspace.is_admin(person.id)
            sentence = await self._dispatcher.press(Control.STOP, answer.turn_id, person, is_moderator=is_moderator)
            if sentence is not None:
                await self._tell(workspace, channel, person.id, thread, sentence)
        try:
            async with translated_errors():
                await workspace.client.agents_sessions_setStatus(channel_id=channel, thread_ts=thread, status="active")
        except (DestinationGone, TryLater, Refused):
            log.info("Slack did not take the end of an agent's session.")

    # -- questions by shortcut and command ---------------------------------------------------------------------------------

    async def open_question(self, workspace: Workspace, body: Body) -> None:
        """Handle the shortcut on a message: open a modal that asks for the question."""
        message, channel, person = body.get("message") or {}, str((body.get("channel") or {}).get("id") or ""), _person(body)
        files = list(message.get("files") or ())
        for shared in message.get("attachments") or ():
            files += shared.get("files") or ()
        what = {
            "channel": channel,
            "thread": message.get("thread_ts") or message.get("ts"),
            "files": [str(file.get("id")) for file in files[:_MAX_FILES]],
        }
        refusal = await self._refusal(workspace, person, channel)
        if refusal is None and not files:
            refusal = "I see no picture in this message. Choose a message that has one."
        await self._open_view(workspace, body, what, refusal, asks_for_files=False)

    async def command(self, workspace: Workspace, body: Body, respond: Respond) -> None:
        """Handle /threadsight. The response is shown to the person only."""
        channel = str(body.get("channel_id") or "")
        person = Author(str(body.get("user_id") or ""), str(body.get("user_name") or ""))
        command = _SLASHES.get(str(body.get("text") or "").strip().lower(), _COMMANDS_BY_NAME[CommandName.HELP])
        blocks: list[Block] | None = None
        if not self._is_allowed(workspace, person, channel):
            sentence: str | None = NOT_ALLOWED
        elif command.name is CommandName.ASK:
            sentence = await self._refusal(workspace, person, channel)
            if sentence is None:
                what: Body = {"channel": channel, "thread": None, "files": []}
                await self._open_view(workspace, body, what, None, asks_for_files=True)
        elif (blocks := confirmation_blocks(command)) is not None:
            sentence = _question_of(command)
        else:
            sentence = await self._done(command.name, ThreadKey(PLATFORM, workspace.id, channel, ""), person, datetime.now(UTC))
        if sentence is not None:
            await respond(text=html.escape(sentence, quote=False), blocks=blocks, response_type="ephemeral")

    async def answer_question(self, workspace: Workspace, body: Body) -> None:
        """Handle a submitted modal: ask in the message's thread, or in a new thread."""
        view, person = body["view"], _person(body)
        what = json.loads(view["private_metadata"])
        values = view["state"]["values"]
        text = str(((values.get(_QUESTION) or {}).get(_QUESTION) or {}).get("value") or "")
        files = list(((values.get(_IMAGES) or {}).get(_IMAGES) or {}).get("files") or ())
        files += [{"id": file_id, "name": "the picture"} for file_id in what["files"]]
        channel, thread = str(what["channel"]), what["thread"]
        if not self._is_allowed(workspace, person, channel):
            return
        try:
            if thread is None:
                async with translated_errors():
                    words = f"<@{person.id}> asks: {html.escape(text, quote=False) or 'What is in this image?'}"
                    root = await workspace.writing.chat_postMessage(
                        channel=channel, text=words, unfurl_links=False, unfurl_media=False, parse="none"
                    )
                thread = str(root["ts"])
                self._posted.add(f"{workspace.id}/{channel}:{thread}")
            destination = Destination(workspace.id, channel, str(thread), person.id)
            uploaded = {"files": [file for file in files if file.get("id")]}
            key = ThreadKey(PLATFORM, workspace.id, channel, str(thread))
            id_ = message_id(channel, str(view["id"]))
            message = IncomingMessage(key, id_, person, text, destination=str(destination))
            conversation = workspace.id, channel if channel.startswith("D") else message_id(channel, str(thread))
            surface = SlackSurface(destination, self._workspaces, self._posted)
            await self._dispatcher.ask(
                conversation, message, surface, attachments=lambda: self._translator.attachments(workspace, uploaded)
            )
        except (DestinationGone, TryLater, Refused):
            log.info("A question on Slack could not be answered in its place.")
            await self._tell(workspace, channel, person.id, None, "I could not write there. Am I still a member of this channel?")

    async def show_home(self, workspace: Workspace, user_id: str) -> None:
        quota = await self._dispatcher.quota(workspace.id, Author(user_id, user_id))
        view = {
            "type": "home",
            "blocks": [
                {"type": "header", "text": plain("Chat about pictures")},
                {"type": "section", "text": {"type": "mrkdwn", "text": HELP}},
                {"type": "divider"},
                {"type": "section", "text": plain(quota)},
            ],
        }
        try:
            async with translated_errors():
                await workspace.client.views_publish(user_id=user_id, view=view)
        except (DestinationGone, TryLater, Refused) as error:
            log.info("The home on Slack could not be shown (%s).", error or type(error).__name__)

    # -- inside ------------------------------------------------------------------------------------------------------------

    def _is_allowed(self, workspace: Workspace, person: Author, channel: str) -> bool:
        return self._dispatcher.is_allowed(person, workspace.id, {channel}, is_direct=channel.startswith("D"))

    async def _refusal(self, workspace: Workspace, person: Author, channel: str) -> str | None:
        if not self._is_allowed(workspace, person, channel):
            return NOT_ALLOWED
        try:
            async with translated_errors():
                found = (await workspace.client.conversations_info(channel=channel)).get("channel") or {}
        except (DestinationGone, Refused):
            return _NOT_HERE
        except TryLater:
            return None  # we find out when we write
        return None if found.get("is_member") or found.get("is_im") or found.get("is_mpim") else _NOT_HERE

    async def _open_view(self, workspace: Workspace, body: Body, what: Body, refusal: str | None, *, asks_for_files: bool) -> None:
        view: dict[str, Any] = {
            "type": "modal",
            "callback_id": ASK_VIEW,
            "private_metadata": json.dumps(what),
            "title": plain("Ask about an image"),
            "close": plain("Close"),
        }
        if refusal is not None:
            view["blocks"] = [{"type": "section", "text": plain(refusal)}]
        else:
            view |= {"submit": plain("Ask"), "blocks": _question_blocks(asks_for_files=asks_for_files)}
        try:
            async with translated_errors():
                await workspace.writing.views_open(trigger_id=str(body["trigger_id"]), view=view)
        except (DestinationGone, TryLater, Refused) as error:
            log.warning("A modal on Slack could not be opened (%s).", error or type(error).__name__)

    async def _tell(
        self,
        workspace: Workspace,
        channel: str,
        user_id: str,
        thread: str | None,
        sentence: str,
        blocks: list[Block] | None = None,
    ) -> None:
        """Show a sentence to this person only; in a direct message, as an ordinary message. `blocks` are shown instead of the
        sentence."""
        text = html.escape(sentence, quote=False)
        try:
            async with translated_errors():
                if channel.startswith("D"):
                    sent = await workspace.writing.chat_postMessage(channel=channel, thread_ts=thread, text=text, blocks=blocks)
                    self._posted.add(f"{workspace.id}/{channel}:{sent['ts']}")
                else:
                    await workspace.writing.chat_postEphemeral(
                        channel=channel, user=user_id, thread_ts=thread, text=text, blocks=blocks
                    )
        except (DestinationGone, TryLater, Refused) as error:
            log.info("A sentence for one person on Slack could not be sent (%s).", error or type(error).__name__)


def _pressed_at(body: Body) -> datetime:
    """When a button was pressed, by Slack's clock."""
    try:
        return datetime.fromtimestamp(float((body.get("actions") or [{}])[0]["action_ts"]), UTC)
    except (LookupError, TypeError, ValueError, OverflowError):
        return datetime.now(UTC)


def _question_of(command: Command) -> str:
    return "" if command.confirmation is None else command.confirmation.question


def _person(body: Body) -> Author:
    user = body.get("user") or {}
    return Author(str(user.get("id") or ""), str(user.get("name") or user.get("username") or user.get("id") or ""))


def _question_blocks(*, asks_for_files: bool) -> list[dict[str, Any]]:
    question = {
        "type": "input",
        "block_id": _QUESTION,
        "optional": True,
        "label": plain("Your question"),
        "element": {
            "type": "plain_text_input",
            "action_id": _QUESTION,
            "multiline": True,
            "max_length": 3000,
            "placeholder": plain("What is in this picture?"),
        },
    }
    if not asks_for_files:
        return [question]
    images = {
        "type": "input",
        "block_id": _IMAGES,
        "label": plain("Picture"),
        "element": {"type": "file_input", "action_id": _IMAGES, "max_files": _MAX_FILES},
    }
    return [images, question]
