"""Writes an answer in a thread on Slack.

Text is streamed (chat.startStream, appendStream, stopStream) as long as it only grows and the stream is alive. Slack ends a stream
after about five minutes, and it is lost in a restart: then chat.update writes the whole text. A stream can have no button before
its end, so a separate small message has the Stop button meanwhile and is deleted at the end; it is part of the reply id
(`channel:ts+ts`), so that it is found after a restart. A page that only says where the question waits is an ordinary message, which
becomes that small message when the text begins.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

from adapters.bounded import BoundedSet
from adapters.slack.blocks import Layout, foot_blocks, page_blocks, value_of
from adapters.slack.destination import Destination
from adapters.slack.markup import fallback, harmless
from adapters.slack.unconfirmed import UnconfirmedMessages
from adapters.slack.workspaces import Refused, Unknown, Workspace, Workspaces, translated_errors
from adapters.surface import Control, DestinationGone, Page, TooLong, TryLater

log = logging.getLogger(__name__)

MAX_PAGE_CHARS = 8_000  # Slack allows 12,000 per call and block, and `harmless` may make it 1.5 times as long
STATUS_SECONDS = 60.0  # Slack removes a status after two minutes
STOP_AFTER_SECONDS = 2.0  # a short answer ends before anybody can press Stop
UPDATE_SECONDS = 3.0  # chat.update is limited to 50 a minute per workspace
_STATUS = "is looking at it …"
_WRITING = "I am writing …"
_LEAST_PAGE_CHARS = 1_000
NOT_TAKEN = "Slack does not take my answer in any form. “Regenerate”, or other words in the question, may help."
# Whatever else Slack refuses a message for, a plainer or shorter one may be taken: the words for that are many and change.
_FORBIDDEN = frozenset(
    {
        *(
            "missing_scope",
            "not_allowed_token_type",
            "no_permission",
            "org_login_required",
            "ekm_access_denied",
            "two_factor_setup_required",
        ),
        *(
            "team_access_not_granted",
            "enterprise_is_restricted",
            "not_authorized",
            "as_user_not_supported",
            "message_limit_exceeded",
        ),
        *("token_expired", "messages_tab_disabled", "slack_connect_blocked_file_type", "access_denied", "method_deprecated"),
    }
)
_STREAMING = frozenset({"streaming_state_conflict", "message_in_streaming_state", "cant_update_streaming_message"})


@dataclass(slots=True)
class _Stream:
    sent: str
    started_at: float
    is_alive: bool = True


class SlackSurface:
    """Writes an answer at `destination`. `clock` is monotonic, in seconds. `posted` has the messages known to be ours."""

    has_tables = True

    def __init__(
        self, destination: Destination, workspaces: Workspaces, posted: BoundedSet[str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.channel = f"{destination.workspace}/{destination.channel}"
        self.max_page_chars = MAX_PAGE_CHARS
        self._destination = destination
        self._workspaces = workspaces
        self._posted = posted
        self._clock = clock
        self._streams: dict[str, _Stream] = {}
        self._waiting: set[str] = set()
        self._updated_at: dict[str, float] = {}
        self._status_until: float | None = None
        self._unconfirmed = UnconfirmedMessages(destination, posted)
        self._can_stream = True
        self._layouts: dict[str, Layout] = {}  # those in which Slack took each message, if not the nicest

    async def show_typing(self) -> None:
        """Set a status under the thread. Slack removes it at the next message or after two minutes."""
        if self._status_until is not None and self._clock() < self._status_until:
            return
        self._status_until = self._clock() + STATUS_SECONDS
        await self._set_status(_STATUS)

    async def post(self, page: Page) -> str:
        """Write a new message, as a stream if its text goes on. Returns its reply id."""
        workspace = await self._workspaces.find(self._destination.workspace)
        ts = await self._found(self._unconfirmed.find_answer(workspace))
        if ts is not None:
            await self._update(workspace, ts, page)
        elif page.is_open and page.text.strip() and self._can_stream:
            ts = await self._start_stream(workspace, page)
        if ts is None:
            ts = await self._send(workspace, page)
        if page.is_open and not page.text.strip():
            self._waiting.add(ts)
        if not page.is_open:
            await self._clear_status()
        return self._reply_id(ts)

    async def edit(self, reply_id: str, page: Page) -> str | None:
        """Change a message, by its stream if that is possible. Returns the reply id if it has changed."""
        workspace = await self._workspaces.find(self._destination.workspace)
        ts, stop_ts = self._parts(reply_id)
        self._posted.add(f"{self.channel}:{ts}")  # perhaps posted by an earlier run of the program
        stop_ts = stop_ts or await self._found(self._unconfirmed.find_stop(workspace))
        if ts in self._waiting and page.is_open and page.text.strip() and self._can_stream:
            stream_ts = await self._found(self._unconfirmed.find_answer(workspace)) or await self._start_stream(workspace, page)
            if stream_ts is not None:
                self._waiting.discard(ts)
                await self._offer_stop(workspace, page, ts)
                return self._reply_id(stream_ts, ts)
        stream = self._streams.get(ts)
        if stream is None or not stream.is_alive or not await self._stream(workspace, ts, stream, page):
            await self._update(workspace, ts, page)
            stream = None
        if page.is_open and stream is not None:
            is_long = self._clock() - stream.started_at >= STOP_AFTER_SECONDS
            if stop_ts is None and is_long and Control.STOP in page.controls:
                stop_ts = await self._offer_stop(workspace, page)
        elif stop_ts is not None:
            await self._delete(workspace, stop_ts)
            stop_ts = None
        if not page.is_open:
            self._streams.pop(ts, None)
            self._waiting.discard(ts)
            await self._clear_status()
        changed = self._reply_id(ts, stop_ts)
        return changed if changed != reply_id else None

    async def delete(self, reply_id: str) -> None:
        """Delete a message and the Stop button beside it, if they still exist."""
        workspace = await self._workspaces.find(self._destination.workspace)
        for ts in self._parts(reply_id):
            if ts is not None:
                await self._delete(workspace, ts)

    # -- streams -----------------------------------------------------------------------------------------------------------

    async def _start_stream(self, workspace: Workspace, page: Page) -> str | None:
        """Start a stream. Returns its message's ts; None if streams are not possible here."""
        text = harmless(page.text)
        try:
            with self._unconfirmed.watching():
                async with translated_errors():
                    response = await workspace.writing.chat_startStream(
                        channel=self._destination.channel,
                        thread_ts=self._destination.thread,
                        markdown_text=text,
                        recipient_user_id=self._destination.user or None,
                        recipient_team_id=self._destination.workspace,
                    )
        except Refused as error:
            log.info("Slack takes no stream here (%s); the answer is written by updates.", error.word)
            self._can_stream = False
            return None
        ts = self._remember(response["ts"])
        self._streams[ts] = _Stream(text, self._clock())
        return ts

    async def _stream(self, workspace: Workspace, ts: str, stream: _Stream, page: Page) -> bool:
        """Append the new text. Returns False if the stream can no longer show the page."""
        text = harmless(page.text)
        if text.startswith(stream.sent) and not (page.is_open and page.status):
            rest = text[len(stream.sent) :]
        elif not page.is_open and stream.sent.startswith(text) and not stream.sent[len(text) :].strip():
            rest = ""  # only spaces at the end were dropped
        else:
            await self._end_stream(workspace, ts)
            stream.is_alive = False
            return False
        if page.is_open and not rest:
            return True
        stream.is_alive = False  # until the call is known to have succeeded
        here: dict[str, Any] = {"channel": self._destination.channel, "ts": ts}
        try:
            async with translated_errors():
                if page.is_open:
                    await workspace.writing.chat_appendStream(**here, markdown_text=rest)
                else:
                    await workspace.writing.chat_stopStream(**here, markdown_text=rest or None, blocks=foot_blocks(page) or None)
        except Refused as error:
            log.info("A stream on Slack has ended early (%s); the answer goes on by updates.", error.word)
            return False
        except Unknown:
            raise
        except TryLater:
            stream.is_alive = True
            raise
        stream.sent, stream.is_alive = stream.sent + rest, page.is_open
        return True

    async def _end_stream(self, workspace: Workspace, ts: str) -> None:
        with contextlib.suppress(Refused):  # it has ended already
            async with translated_errors():
                await workspace.client.chat_stopStream(channel=self._destination.channel, ts=ts)

    async def _offer_stop(self, workspace: Workspace, page: Page, ts: str | None = None) -> str | None:
        """Show a Stop button beside the stream, in the message `ts` or a new one. Errors are ignored: the answer works without
        it."""
        beside = Page("", status=_WRITING, controls=(Control.STOP,), turn_id=page.turn_id)
        try:
            if ts is not None:
                await self._write(workspace.client.chat_update, beside, ts=ts)
                return ts
            return await self._send(workspace, beside, is_answer=False)
        except Unknown:
            if ts is None and page.turn_id is not None:
                self._unconfirmed.note_stop(value_of(Control.STOP, page.turn_id))
        except (DestinationGone, TryLater, Refused):
            pass
        return None

    # -- messages ----------------------------------------------------------------------------------------------------------

    async def _send(self, workspace: Workspace, page: Page, *, is_answer: bool = True) -> str:
        with self._unconfirmed.watching() if is_answer else contextlib.nullcontext():
            response = await self._write(workspace.writing.chat_postMessage, page, thread_ts=self._destination.thread)
        return self._remember(response["ts"])

    async def _update(self, workspace: Workspace, ts: str, page: Page) -> None:
        """Write the whole page. If it will change again and the last write was just now, the write is postponed."""
        if page.is_open and ts in self._updated_at:
            seconds_left = self._updated_at[ts] + UPDATE_SECONDS - self._clock()
            if seconds_left > 0:
                raise TryLater(seconds_left)
        self._updated_at[ts] = self._clock()
        try:
            await self._write(workspace.client.chat_update, page, ts=ts)
        except _StillStreaming:
            await self._end_stream(workspace, ts)
            await self._write(workspace.client.chat_update, page, ts=ts)

    async def _write(self, call: Callable[..., Any], page: Page, **where: str) -> Any:
        """Write a message in the nicest layout that Slack takes. Raises TooLong if it takes none of a long page."""
        here: dict[str, Any] = {"channel": self._destination.channel, **where}
        if "thread_ts" in where:
            here |= {"unfurl_links": False, "unfurl_media": False}
        written = await self._in_any_layout(call, page, here)
        if written is None and self.max_page_chars > _LEAST_PAGE_CHARS and len(page.text) > _LEAST_PAGE_CHARS:
            self.max_page_chars = max(_LEAST_PAGE_CHARS, min(self.max_page_chars, len(page.text)) // 2)
            raise TooLong
        if written is None and page.text:
            written = await self._in_any_layout(call, replace(page, text="", status=None, notices=(NOT_TAKEN, *page.notices)), here)
        if written is None:
            log.error("Slack does not take an answer in any layout.")
            raise DestinationGone
        return written

    async def _in_any_layout(self, call: Callable[..., Any], page: Page, here: dict[str, Any]) -> Any:
        """Slack's response; None if it refused all layouts."""
        words = fallback(page.text or page.status or " ".join(page.notices) or "…")
        known = self._layouts.get(str(here.get("ts")), Layout.MARKDOWN)
        for layout in (each for each in Layout if each >= known):
            try:
                async with translated_errors():
                    response = await call(**here, text=words, blocks=page_blocks(page, layout))
            except Refused as error:
                if error.word in _STREAMING:
                    raise _StillStreaming from error
                if error.word in _FORBIDDEN:
                    log.error("Slack does not let me write an answer: %s.", error.word)
                    raise DestinationGone from error
                log.warning("Slack did not take an answer's layout (%s); a plainer one is tried.", error.word)
            else:
                if layout is not Layout.MARKDOWN:
                    self._layouts[str(response["ts"])] = layout
                return response
        return None

    async def _delete(self, workspace: Workspace, ts: str) -> None:
        with contextlib.suppress(DestinationGone, Refused):
            async with translated_errors():
                await workspace.client.chat_delete(channel=self._destination.channel, ts=ts)

    # -- status ------------------------------------------------------------------------------------------------------------

    async def _clear_status(self) -> None:
        if self._status_until is not None:
            self._status_until = None
            with contextlib.suppress(DestinationGone, TryLater):
                await self._set_status("")

    async def _set_status(self, status: str) -> None:
        workspace = await self._workspaces.find(self._destination.workspace)
        with contextlib.suppress(DestinationGone, TryLater, Refused):  # optional: not every workspace supports it
            async with translated_errors():
                await workspace.client.assistant_threads_setStatus(
                    channel_id=self._destination.channel, thread_ts=self._destination.thread, status=status
                )

    # -- ids ---------------------------------------------------------------------------------------------------------------

    async def _found(self, finding: Awaitable[str | None]) -> str | None:
        ts = await finding
        return None if ts is None else self._remember(ts)

    def _remember(self, ts: str) -> str:
        self._posted.add(f"{self.channel}:{ts}")
        self._status_until = None  # a new message has taken it away
        return ts

    def _reply_id(self, ts: str, stop_ts: str | None = None) -> str:
        return f"{self._destination.channel}:{ts}" + (f"+{stop_ts}" if stop_ts else "")

    @staticmethod
    def _parts(reply_id: str) -> tuple[str, str | None]:
        ts, _, stop_ts = reply_id.rpartition(":")[2].partition("+")
        return ts, stop_ts or None


class _StillStreaming(TryLater):
    """The message is a stream that an earlier run of the program started."""
