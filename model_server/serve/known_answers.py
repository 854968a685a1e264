"""What we remember of our latest answers. Clients send an answer's text back, or only its name."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Generic, TypeVar

from model_server.types import Message, Role

_MAX_ANSWERS = 1024
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class _Latest(OrderedDict[_Key, _Value], Generic[_Key, _Value]):
    """The entries that were set last."""

    def __init__(self, max_entries: int) -> None:
        super().__init__()
        self._max_entries = max_entries

    def __setitem__(self, key: _Key, value: _Value) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        if len(self) > self._max_entries:
            self.popitem(last=False)


class KnownAnswers:
    """The token ids of the latest answers, by the chat that each one belongs to, and their texts by their names.

    Token ids let the next turn start with exactly the cached tokens: only speed depends on them.
    """

    def __init__(self, max_answers: int = _MAX_ANSWERS) -> None:
        self._token_ids: _Latest[bytes, tuple[int, ...]] = _Latest(max_answers)
        self._texts: _Latest[str, str] = _Latest(max_answers)

    def remember(self, messages: Sequence[Message], text: str, token_ids: tuple[int, ...], system: str | None = None) -> None:
        """Keep the ids of the answer to a chat."""
        *_, key = _keys([*messages, Message(Role.ASSISTANT, text)], system)
        self._token_ids[key] = token_ids

    def restore(self, messages: Sequence[Message], system: str | None = None) -> tuple[Message, ...]:
        """The same chat, with the ids of those of its answers that are known."""
        return tuple(
            replace(message, token_ids=self._token_ids.get(key)) if message.role is Role.ASSISTANT else message
            for message, key in zip(messages, _keys(messages, system), strict=True)
        )

    def remember_text(self, name: str, text: str) -> None:
        """Keep the text that a client got under this name."""
        self._texts[name] = text

    def text(self, name: str) -> str | None:
        """The text that was given under this name, or None."""
        return self._texts.get(name)


def _keys(messages: Sequence[Message], system: str | None) -> Iterator[bytes]:
    """For every message, a key of the chat up to it."""
    so_far = hashlib.sha256(repr(system).encode(errors="backslashreplace"))
    for message in messages:
        content: list[Any] = [message.role.value, message.text.strip(), [image.sha256 for image in message.images]]
        so_far.update(repr(content).encode(errors="backslashreplace"))
        yield so_far.digest()
