"""Pictures of a Slack message, downloaded with the bot's token, which is sent to Slack's own hosts only.

Without permission for a file, Slack answers with status 200 and a sign-in page; the error says so.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping
from typing import Any

import aiohttp
from yarl import URL

from adapters.base import Attachment, AttachmentError
from adapters.downloads import DOWNLOAD_SECONDS, Downloader, same_origin
from adapters.proxies import ProxyFor, no_proxy
from adapters.slack.workspaces import Refused, Workspace, translated_errors
from adapters.surface import DestinationGone, TryLater

_SIGN_IN_PAGE = re.compile(rb"\s*(<!doctype html|<html)", re.IGNORECASE)
_NO_RIGHT = (
    "Slack did not let me read it: I lack the right to read files here. Whoever installed me can add the scope files:read and "
    "install me again"
)
_DOCUMENT = "it is a canvas or a list of Slack's, not a picture; please upload the picture itself"
_HTML = frozenset({"text/html", "application/xhtml+xml"})
_REASONS = {
    "tombstone": "it was deleted",
    "hidden_by_limit": "Slack hides it because this workspace has reached its storage limit",
    "external": "it lies outside of Slack, where I cannot read it; please upload it here",
    "file_not_found": "it is no longer there",
    "file_deleted": "it was deleted",
    "not_visible": "Slack does not show it to me",
    "missing_scope": _NO_RIGHT,
}

Event = Mapping[str, Any]


class Files:
    """Turns Slack's file objects (https://docs.slack.dev/reference/objects/file-object) into attachments. The token is also sent to
    `api_url`'s host."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        api_url: str | None,
        *,
        proxy_for: ProxyFor = no_proxy,
        download_seconds: float = DOWNLOAD_SECONDS,
    ) -> None:
        self._api = None if api_url is None else URL(api_url)
        self._downloader = Downloader(
            session,
            "Slack",
            self._is_slacks,
            outside=_REASONS["external"],
            refusal=_refusal,
            proxy_for=proxy_for,
            download_seconds=download_seconds,
        )

    async def attachments(self, workspace: Workspace, files: Iterable[Event]) -> tuple[Attachment, ...]:
        """Make one attachment per file, in order. Incomplete file objects are looked up."""
        return tuple(await asyncio.gather(*(self._attachment(workspace, file) for file in files)))

    async def _attachment(self, workspace: Workspace, file: Event) -> Attachment:
        if is_thin(file) and file.get("id"):
            try:
                async with translated_errors():
                    file = (await workspace.client.files_info(file=file["id"])).get("file") or file
            except Refused as error:
                return unusable(name_of(file), _REASONS.get(error.word, f"Slack does not show it to me ({error.word})"))
            except (DestinationGone, TryLater):
                return unusable(name_of(file), "Slack did not answer when I asked for it")
        mode = "external" if file.get("is_external") else str(file.get("mode") or "")
        if mode in _REASONS:
            return unusable(name_of(file), _REASONS[mode])
        kind = str(file.get("mimetype") or "")
        if kind.startswith("application/vnd.slack"):
            return unusable(name_of(file), _DOCUMENT)
        address = file.get("url_private_download") or file.get("url_private")
        if not address:
            return unusable(name_of(file), "Slack does not show it to me")

        async def fetch(max_bytes: int) -> bytes:
            return await self._fetch(workspace.token, str(address), max_bytes, is_html=kind in _HTML)

        size = file.get("size")
        return Attachment(name_of(file), fetch, size if isinstance(size, int) else None)

    async def _fetch(self, token: str, address: str, max_bytes: int, *, is_html: bool) -> bytes:
        """`is_html`: the file itself is a web page, which cannot be told from Slack's sign-in page."""
        found = await self._downloader.fetch(address, max_bytes, {"Authorization": f"Bearer {token}"})
        if is_html:
            return found.data
        if found.content_type == "text/html" or _SIGN_IN_PAGE.match(found.data):
            raise AttachmentError(_NO_RIGHT)
        return found.data

    def _is_slacks(self, url: URL) -> bool:
        if self._api is not None and same_origin(url, self._api):
            return True
        host = url.host or ""
        return url.scheme == "https" and (host == "slack.com" or host.endswith(".slack.com"))


def _refusal(status: int) -> AttachmentError | None:
    if status in (401, 403):
        return AttachmentError(_NO_RIGHT)
    return AttachmentError(_REASONS["file_not_found"]) if status in (404, 410) else None


def is_thin(file: Event) -> bool:
    """Whether a file object is incomplete: only an id, or a file of another organization (Slack Connect)."""
    if file.get("mode") in ("tombstone", "hidden_by_limit"):
        return False
    return file.get("file_access") == "check_file_info" or not (file.get("url_private_download") or file.get("url_private"))


def name_of(file: Event) -> str:
    """The file's name, safe to show in a sentence."""
    name = str(file.get("name") or file.get("title") or "")
    printable = "".join(character for character in name if character.isprintable())[:100].strip()
    return printable or "the file"


def unusable(name: str, reason: str) -> Attachment:
    """An attachment that cannot be used; the answer names it with the reason, the rest of a sentence."""

    async def fetch(max_bytes: int) -> bytes:
        raise AttachmentError(reason)

    return Attachment(name, fetch)
