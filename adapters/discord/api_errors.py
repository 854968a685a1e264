"""Translates Discord's errors into those of `adapters.surface`: gone for good, or try later.

discord.py waits on 429 and repeats 500, 502 and 504 by itself; 503, a reset connection and everything else arrives here. Codes:
https://discord.com/developers/docs/topics/opcodes-and-status-codes#json.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator

import aiohttp
import discord

from adapters.surface import DestinationGone, TryLater

log = logging.getLogger(__name__)

CALL_SECONDS = 90.0  # discord.py's own repeats take up to 25 s, and a rate limit up to 30 s
TOO_MANY_EDITS = 30046  # for a message that is older than an hour
_GONE = frozenset({50083, 160005})  # archived, locked
INVALID_FORM, EMPTY_MESSAGE = 50035, 50006
_ABOUT_CONTENT = frozenset({INVALID_FORM, EMPTY_MESSAGE, 200000, 200001, 240000})  # with those of a server's moderation and links
_INTERACTION_TOKEN = re.compile(r"(/(?:webhooks|interactions)/\d+/)[^/\s?]+")


class NotTaken(DestinationGone):
    """Discord takes no message with this content. `code` is its code for why."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code


class CannotEdit(Exception):
    """Discord takes no more edits of this old message for now."""


@contextlib.asynccontextmanager
async def translated_errors() -> AsyncIterator[None]:
    """A context for calls of Discord's API. Turns its errors into DestinationGone, TryLater or CannotEdit."""
    try:
        async with asyncio.timeout(CALL_SECONDS):
            yield
    except discord.RateLimited as error:
        raise TryLater(error.retry_after) from error
    except discord.HTTPException as error:
        if error.status == 429 or error.status >= 500:
            raise TryLater from error
        if error.code == TOO_MANY_EDITS:
            raise CannotEdit from error
        if error.status not in (401, 403, 404) and error.code not in _GONE:
            log.error("Discord did not take what I sent (status %d, code %d).", error.status, error.code)
        if error.status == 400 and error.code in _ABOUT_CONTENT:
            raise NotTaken(error.code) from error
        raise DestinationGone from error
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise TryLater from error
    except RuntimeError as error:
        if "closed" not in str(error):
            raise
        raise TryLater from error  # the session was closed meanwhile: the program is stopping or restarting the client


class QuietLog(logging.Filter):
    """Removes interactions' tokens from discord.py's log, and the tracebacks of errors that it handles by itself."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.CRITICAL:
            record.exc_info, record.exc_text = None, None
        record.msg, record.args = _INTERACTION_TOKEN.sub(r"\1…", record.getMessage()), ()
        return True


def quiet_log() -> None:
    """Install the filter. May be called more than once."""
    logging.getLogger("discord").setLevel(logging.INFO)  # at DEBUG it writes whole messages
    for name in ("discord.client", "discord.gateway", "discord.http", "discord.shard", "discord.state", "discord.webhook.async"):
        logger = logging.getLogger(name)
        if not any(isinstance(each, QuietLog) for each in logger.filters):
            logger.addFilter(QuietLog())
