"""Finds the newest picture before a message: in its thread, or in its direct message with us.

Slack lists a thread from its beginning, so that the newest picture is known only when all of the thread up to the message was read.
What is read is bounded. Where that is not enough, a newer picture may be unseen: then none is used, and the person is told why.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from adapters.base import Attachment
from adapters.slack.files import unusable
from adapters.slack.workspaces import Refused, Workspace, translated_errors
from adapters.surface import DestinationGone, TryLater

MESSAGES_PER_PAGE = 200
MAX_THREAD_PAGES = 10
MAX_DIRECT_PAGES = 3
LOOK_BACK_SECONDS = 45.0  # with the pauses that Slack asks for
_NAME = "an earlier picture"
_AGAIN = "Please post the picture again with your question"
_TOO_LONG = f"there are more messages here than I can read back, and I did not get to the newest picture. {_AGAIN}"
_NO_ANSWER = f"Slack did not show me all of the messages before yours, so that I may have missed the newest picture. {_AGAIN}"
_NO_RIGHT = f"Slack does not let me read the messages before yours. {_AGAIN}"

Event = Mapping[str, Any]


class _NotAllRead(Exception):
    """Why not all messages before the question could be read, as the rest of a sentence for the person."""


class Earlier:
    """`attachments` makes the attachments of a message."""

    def __init__(self, attachments: Callable[[Workspace, Event], Awaitable[Sequence[Attachment]]]) -> None:
        self._attachments = attachments

    async def newest_picture(
        self, workspace: Workspace, channel: str, ts: str, thread_ts: str | None, *, is_direct: bool
    ) -> Sequence[Attachment]:
        """The pictures of the newest message before `ts` that has any; empty if there is none. `thread_ts`: its thread, if any.

        If that cannot be known, an attachment that says why. Raises nothing.
        """
        try:
            async with asyncio.timeout(LOOK_BACK_SECONDS):
                found = None
                if thread_ts is not None:
                    found = await self._in_thread(workspace, channel, thread_ts, ts)
                if found is None and is_direct:
                    found = await self._in_direct_message(workspace, channel, ts)
                return () if found is None else await self._attachments(workspace, _shown_by(found))
        except _NotAllRead as error:
            return (unusable(_NAME, str(error)),)
        except TimeoutError:
            return (unusable(_NAME, _NO_ANSWER),)

    async def _in_thread(self, workspace: Workspace, channel: str, thread_ts: str, ts: str) -> Event | None:
        newest, cursor = None, ""
        for _ in range(MAX_THREAD_PAGES):
            page, cursor = await _page(
                workspace.client.conversations_replies, channel=channel, ts=thread_ts, latest=ts, cursor=cursor or None
            )
            newest = max(filter(None, [newest, _newest(page, workspace, ts)]), key=_time_of, default=None)
            if not cursor:
                return newest
        raise _NotAllRead(_TOO_LONG)

    async def _in_direct_message(self, workspace: Workspace, channel: str, ts: str) -> Event | None:
        """Slack lists these from the newest on, so that the first that is found is the one."""
        cursor = ""
        for _ in range(MAX_DIRECT_PAGES):
            page, cursor = await _page(workspace.client.conversations_history, channel=channel, latest=ts, cursor=cursor or None)
            found = _newest(page, workspace, ts)
            if found is not None or not cursor:
                return found
        raise _NotAllRead(_TOO_LONG)


async def _page(method: Callable[..., Awaitable[Any]], **arguments: Any) -> tuple[list[Event], str]:
    """One page of messages, and the cursor of the next; empty if there is none. Raises _NotAllRead."""
    try:
        async with translated_errors():
            response = await method(**arguments, inclusive=True, limit=MESSAGES_PER_PAGE)
    except (DestinationGone, Refused):
        raise _NotAllRead(_NO_RIGHT) from None
    except TryLater:
        raise _NotAllRead(_NO_ANSWER) from None
    cursor = str((response.get("response_metadata") or {}).get("next_cursor") or "")
    if response.get("has_more") and not cursor:
        raise _NotAllRead(_TOO_LONG)
    return list(response.get("messages") or ()), cursor


def _newest(messages: Sequence[Event], workspace: Workspace, ts: str) -> Event | None:
    """The newest of the messages before `ts` that may have a picture, and is not ours."""
    before = (each for each in messages if _time_of(each) < float(ts) and each.get("user") != workspace.bot_user_id)
    return max((each for each in before if _has_picture(each)), key=_time_of, default=None)


def _time_of(message: Event) -> float:
    return float(message["ts"])


def _has_picture(message: Event) -> bool:
    return any(map(_may_be_picture, _files_in(message)))


def _files_in(message: Event) -> list[Event]:
    files = list(message.get("files") or ())
    for shared in message.get("attachments") or ():
        files += shared.get("files") or ()
    return files


def _may_be_picture(file: Event) -> bool:
    """Whether Slack does not say that it is something else. A deleted file counts: perhaps it was the one that is meant."""
    kind = str(file.get("mimetype") or "")
    return not kind or kind.startswith(("image/", "application/octet-stream", "binary/"))


def _shown_by(message: Event) -> Event:
    return {"files": [file for file in _files_in(message) if _may_be_picture(file)]}
