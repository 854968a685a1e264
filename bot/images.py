"""The pictures of one message: attached files, then links in its text.

Rules: a picture that cannot be downloaded, decoded or used is named with the reason, and never counts as seen; nothing larger than
the limit is downloaded; decoding happens off the event loop, within the budget of the whole process; names are untrusted and are
cleaned before they are shown.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from urllib.parse import urlsplit

from adapters.base import Attachment, AttachmentError
from adapters.proxies import ProxyFor, no_proxy
from adapters.sizes import check_size
from adapters.text.links import find_links
from model_server.decoding.budget import aside
from model_server.errors import ImageError
from model_server.fetch import fetch_image_url
from model_server.images import clean_name, read_image
from model_server.types import Image

log = logging.getLogger(__name__)

MAX_CANDIDATES = 10
_FETCH_TIMEOUT_SECONDS = 60.0
_IMAGE_SUFFIX = re.compile(r"\.(png|jpe?g|jfif|webp|gif|heic|heif|avif|bmp|tiff?)$", re.IGNORECASE)

FetchLink = Callable[[str, int], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class ReadImages:
    """The result of reading attachments: `used` in order, a sentence for each that failed, and the names of those that were not
    needed."""

    used: tuple[tuple[Attachment, Image], ...] = ()
    failures: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()


async def fetch_public_link(url: str, max_bytes: int, *, proxy_for: ProxyFor = no_proxy) -> bytes:
    """Download at most `max_bytes`, from public addresses only. Raises ImageError."""
    return await fetch_image_url(url, max_bytes=max_bytes, proxy_for=proxy_for)


class ImageReader:
    """Reads the pictures of messages, of at most `max_bytes` each. `fetch_link` downloads what is behind a link, and raises
    ImageError."""

    def __init__(self, max_bytes: int, fetch_link: FetchLink = fetch_public_link) -> None:
        self._max_bytes = max_bytes
        self._fetch_link = fetch_link

    def candidates(self, text: str, attachments: Sequence[Attachment], *, has_image: bool) -> list[Attachment]:
        """Attachments, and links that end like a picture's file name; other links only if there is no picture yet."""
        found = [replace(item, name=clean_name(item.name)) for item in attachments]
        resolved = {item.link for item in attachments}
        links = [link for link in dict.fromkeys(find_links(text)) if link not in resolved]
        images = [link for link in links if _IMAGE_SUFFIX.search(urlsplit(link).path)]
        if not images and not attachments and not has_image:
            images = links
        found += [Attachment(_link_name(link), self._fetcher(link), link=link) for link in images]
        return found

    async def read(self, candidates: Sequence[Attachment], num_wanted: int) -> ReadImages:
        """Try the candidates in order until `num_wanted` pictures are usable."""
        used: list[tuple[Attachment, Image]] = []
        failures: list[str] = []
        considered = candidates[:MAX_CANDIDATES]
        if len(candidates) > MAX_CANDIDATES:
            failures.append(f"I looked at the first {MAX_CANDIDATES} of the {len(candidates)} files only.")
        for index, candidate in enumerate(considered):
            if len(used) == num_wanted:
                return ReadImages(tuple(used), tuple(failures), tuple(rest.name for rest in considered[index:]))
            try:
                used.append((candidate, await self._read_one(candidate)))
            except ImageError as error:
                failures.append(str(error))
        return ReadImages(tuple(used), tuple(failures))

    async def _read_one(self, candidate: Attachment) -> Image:
        """Read one picture. Turns every error into ImageError."""
        try:
            check_size(candidate.size, self._max_bytes)
            async with asyncio.timeout(_FETCH_TIMEOUT_SECONDS):
                data = await candidate.fetch(self._max_bytes)
        except ImageError:
            raise
        except AttachmentError as error:
            raise ImageError(candidate.name, f"{error}".rstrip(".") + ".") from None
        except TimeoutError:
            raise ImageError(candidate.name, "it took too long to download.") from None
        except Exception as error:  # without its text, which may contain a signed link
            log.error("A picture could not be fetched: %s", type(error).__name__)
            raise ImageError(candidate.name, "it could not be downloaded.") from None
        return await aside(partial(read_image, data, candidate.name, max_bytes=self._max_bytes))

    def _fetcher(self, link: str) -> Callable[[int], Awaitable[bytes]]:
        async def fetch(max_bytes: int) -> bytes:
            return await self._fetch_link(link, max_bytes)

        return fetch


def without_links(text: str, links: Sequence[str]) -> str:
    """The text without these links, whose pictures are attached now. All else stays as it was written."""
    for link in sorted(links, key=len, reverse=True):
        first, *others = text.replace(f"<{link}>", link).split(link)
        text = first
        for piece in others:
            left, right = text.rstrip(" \t"), piece.lstrip(" \t")
            is_at_edge = not left or left.endswith("\n") or not right or right.startswith("\n")
            text = f"{left}{'' if is_at_edge else ' '}{right}"
    return text.strip() if links else text


def join_names(names: Sequence[str]) -> str:
    """One or more names as a part of a sentence."""
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def _link_name(link: str) -> str:
    parts = urlsplit(link)
    return clean_name(f"{parts.hostname}{parts.path}")
