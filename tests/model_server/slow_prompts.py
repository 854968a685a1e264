"""Prompts made in the obvious way, whose work grows with the square of the chat: what `PromptTemplate` has to equal.

Every answer's own prompt is rendered whole, and compared with the beginning of the whole chat's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from model_server.prompt import _AFTER_WORD, _MARK, PromptTemplate, _shape, _without_end
from model_server.types import Message, Role

_LAST_WORD = re.compile(r"\S*\s*\Z")


class SlowPromptTemplate(PromptTemplate):
    """Differs from its base in how it finds the place of an answer."""

    def _pieces(self, rendered: str, messages: Sequence[Message], system: str | None) -> Iterator[tuple[int, ...] | None]:
        context, text, start = "", "", 0
        is_trimmed = False
        for match in re.finditer(f"{_MARK.pattern}|{self._special.pattern}", rendered):
            before, start = rendered[start : match.start()], match.end()
            text += before.lstrip() if is_trimmed else before
            is_trimmed = False
            if not match[1]:
                index, token = self._added.get(match[0], (None, None))
                if token is not None and token.lstrip:
                    text = text.rstrip()
                yield self._encode(context, text)
                context, text = self._after_special, ""
                is_trimmed = token is not None and token.rstrip
                if match[0] == self._image_token:
                    yield None
                elif index is not None:
                    yield (index,)
                continue
            if match[1] == "system":
                text += system or ""
                continue
            message, number = messages[int(match[1])], int(match[1])
            written = message.text.strip()
            opening = self._render(_shape(messages[:number]), system is not None) if message.role is Role.ASSISTANT else ""
            stem, head = opening.rstrip(), rendered[: match.start()]
            if not stem or not head.startswith(stem) or head[len(stem) :].strip():
                text += written
                continue
            text = text.removesuffix(head[len(stem) :]) + opening[len(stem) :]
            yield self._encode(context, text)
            if message.token_ids is not None and self._can_keep(message.token_ids, written):
                yield _without_end(message.token_ids, self._eos_ids)
            elif written:
                last_word = _LAST_WORD.search(text)
                space = head.removeprefix(opening) if head.startswith(opening) else ""
                yield self._encode(last_word[0] if last_word else "", space + written)
            context, text = _AFTER_WORD, ""
        rest = rendered[start:]
        yield self._encode(context, text + (rest.lstrip() if is_trimmed else rest))
