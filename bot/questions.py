"""Turns a message into a question: its text, the usable pictures, and notices about the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass

from adapters.base import IncomingMessage
from bot.images import ImageReader, ReadImages, join_names, without_links
from bot.schema import clean
from bot.writer import NO_IMAGE
from model_server.types import Image, ModelCapabilities

DEFAULT_QUESTION = "Describe the picture."
NEW_CHAT = "This is a new picture, so I started a new chat about it: I no longer look at what was said before."


@dataclass(frozen=True, slots=True)
class Question:
    """What is stored of a message. `refusal` says why the model is not asked (None: it is); `has_failures`: a picture cannot be
    used."""

    question: str
    images: Sequence[Image]
    is_start: bool
    notices: Sequence[str]
    refusal: str | None
    has_failures: bool


class QuestionReader:
    """Makes a question for the model from a message, its pictures and the chat's earlier turns."""

    def __init__(self, found: ImageReader, capabilities: Callable[[], ModelCapabilities]) -> None:
        """`capabilities` returns those of the model that will be asked; a remote server's may change."""
        self._images = found
        self._capabilities = capabilities

    async def read(self, message: IncomingMessage, known: Set[str]) -> Question:
        """Read a message, with its usable pictures, as the next turn of a chat that has the pictures `known` (SHA-256)."""
        candidates = self._images.candidates(message.text, message.attachments, has_image=bool(known))
        if not candidates and not known and message.look_back is not None:
            candidates = self._images.candidates("", await message.look_back(), has_image=False)
        max_images = self._capabilities().max_images_per_chat
        found = await self._images.read(candidates, max_images)
        text = without_links(clean(message.text), [c.link for c, _ in found.used if c.link is not None]).strip()
        refusal = None
        if candidates and not found.used:
            refusal = " ".join(found.failures)
        elif not candidates and not known:
            refusal = NO_IMAGE
        images = [image for _, image in found.used if image.sha256 not in known]  # a picture that the chat has already is not new
        starts_new_chat = bool(images) and len(known) + len(images) > max_images
        if starts_new_chat:
            images = [image for _, image in found.used]
        return Question(
            text or DEFAULT_QUESTION,
            images=images,
            is_start=bool(images) and (starts_new_chat or not known),
            notices=() if refusal else _notices(found, max_images, starts_new_chat=starts_new_chat and bool(known)),
            refusal=refusal,
            has_failures=bool(found.failures),
        )


def _notices(found: ReadImages, max_images: int, *, starts_new_chat: bool) -> list[str]:
    notices = list(found.failures)
    if found.unread:
        used = join_names([candidate.name for candidate, _ in found.used])
        limit = "one picture at a time here" if max_images == 1 else f"up to {max_images} pictures in a chat"
        notices.append(f"I look at {limit}: this is about {used}, and I did not look at {join_names(found.unread)}.")
    elif found.used and found.failures:
        notices.append(f"This is about {join_names([candidate.name for candidate, _ in found.used])}.")
    if starts_new_chat:
        notices.append(NEW_CHAT)
    return notices
