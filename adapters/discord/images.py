"""The places of pictures in a Discord message: attachments, forwarded messages, stickers, components, and embeds of links.

Only a file's bytes decide what it is; neither its name nor the type that Discord gives is used here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import discord

from adapters.base import Attachment, AttachmentError
from adapters.discord.files import NO_LONGER_THERE, Downloads, Expired
from adapters.text.links import has_link

_IMAGE_EMBEDS = frozenset({"image", "gifv"})  # a direct link to a picture; every other kind is the preview of a page

Reread = Callable[[], Awaitable[discord.Message | None]]


@dataclass(frozen=True, slots=True)
class Source:
    """Something that may be a picture. `id` identifies it when the message is read again. `reason`: why it cannot be one.
    `is_likely`: Discord does not say that it is something else, such as a text."""

    id: str
    name: str
    address: str
    size: int | None = None
    link: str | None = None
    reason: str | None = None
    is_likely: bool = True


def sources_in(message: discord.Message, *, with_previews: bool) -> tuple[Source, ...]:
    """A message's possible pictures, in the order shown. `with_previews`: also the pictures that Discord shows for links to
    pages."""
    found = [_attached(attachment) for attachment in message.attachments]
    for snapshot in message.message_snapshots:
        found += [_attached(attachment) for attachment in snapshot.attachments]
        found += [_sticker(sticker) for sticker in snapshot.stickers]
        found += _in_components(snapshot.components, snapshot.attachments, "forwarded ")
        found += _embedded(snapshot.embeds, with_previews=True)
    found += [_sticker(sticker) for sticker in message.stickers]
    found += _in_components(message.components, message.attachments)
    found += _embedded(message.embeds, with_previews=with_previews)
    return tuple(found)


def has_unresolved_link(message: discord.Message) -> bool:
    """Whether the message has only a link, whose embed Discord may not have added yet."""
    is_suppressed = message.flags.suppress_embeds
    return not (message.embeds or message.attachments or message.stickers or is_suppressed) and has_link(message.content)


def attachments_of(sources: Iterable[Source], downloads: Downloads, reread: Reread | None) -> tuple[Attachment, ...]:
    """Make attachments. `reread` reads their message again, for new URLs."""
    return tuple(
        Attachment(source.name, _fetcher(source, downloads, reread), source.size, source.link)
        for source in sources
        if source.reason is not None or downloads.is_discords(source.address)
    )


def unusable(name: str, reason: str) -> Attachment:
    """An attachment that cannot be used; the answer names it with the reason."""

    async def fetch(max_bytes: int) -> bytes:
        raise AttachmentError(reason)

    return Attachment(name, fetch)


def _fetcher(source: Source, downloads: Downloads, reread: Reread | None) -> Callable[[int], Awaitable[bytes]]:
    async def fetch(max_bytes: int) -> bytes:
        if source.reason is not None:
            raise AttachmentError(source.reason)
        try:
            return await downloads.fetch(source.address, max_bytes)
        except Expired:
            message = None if reread is None else await reread()
        fresh = () if message is None else sources_in(message, with_previews=True)
        again = next((each for each in fresh if each.id == source.id), None)
        if again is None:
            raise AttachmentError(NO_LONGER_THERE)
        try:
            return await downloads.fetch(again.address, max_bytes)
        except Expired:
            raise AttachmentError(NO_LONGER_THERE) from None

    return fetch


def _attached(attachment: discord.Attachment) -> Source:
    is_likely = _is_likely(attachment.content_type)
    return Source(f"attachment {attachment.id}", attachment.filename, attachment.url, attachment.size, is_likely=is_likely)


def _is_likely(media_type: str | None) -> bool:
    return not media_type or media_type.startswith(("image/", "application/octet-stream"))


def _sticker(sticker: discord.StickerItem) -> Source:
    name = f"the sticker “{sticker.name}”"
    is_lottie = sticker.format is discord.StickerFormatType.lottie
    reason = "it is drawn by a program (Lottie), not a picture" if is_lottie else None
    return Source(f"sticker {sticker.id}", name, sticker.url, reason=reason)


def _in_components(components: Iterable[object], attached: Iterable[discord.Attachment], lead: str = "") -> list[Source]:
    """What a program's message shows in components (https://discord.com/developers/docs/components/reference), beyond its
    attachments: galleries, thumbnails and files, also within sections and containers. `lead` is for the ids."""
    found: list[Source] = []
    known = {attachment.id for attachment in attached}
    for number, media in enumerate(_media_in(components)):
        name, size = "the embedded picture", None
        if isinstance(media, discord.FileComponent):
            name, size, media = media.name or name, media.size, media.media
        if media.attachment_id in known:
            continue
        is_likely = _is_likely(media.content_type)
        found.append(Source(f"{lead}component {number}", name, media.proxy_url or media.url, size, is_likely=is_likely))
    return found


def _media_in(components: Iterable[object]) -> Iterator[discord.UnfurledMediaItem | discord.FileComponent]:
    for component in components:
        match component:
            case discord.MediaGalleryComponent():
                yield from (item.media for item in component.items)
            case discord.ThumbnailComponent():
                yield component.media
            case discord.FileComponent():
                yield component
            case discord.SectionComponent():
                yield from _media_in([component.accessory])
            case discord.Container():
                yield from _media_in(component.children)


def _embedded(embeds: Sequence[discord.Embed], *, with_previews: bool) -> list[Source]:
    found = []
    for index, embed in enumerate(embeds):
        if embed.type not in _IMAGE_EMBEDS and not with_previews:
            continue
        shown = embed.image if embed.image.proxy_url else embed.thumbnail
        if shown.proxy_url:
            name = "the linked picture" if embed.url else "the embedded picture"
            found.append(Source(f"embed {index}", name, shown.proxy_url, link=embed.url))
    return found
