"""Prompts: turns a chat into token ids with pictures between them.

LLaVA-1.5 gets the prompt that it was trained with (conv_vicuna_v1; haotian-liu/LLaVA c121f04):

    <s>SYSTEM USER: <image>\\nQ1 ASSISTANT: A1</s>USER: Q2 ASSISTANT:

A request's own system text replaces SYSTEM.

Every other model gets its own chat template, with the system text as its system message; if the template refuses that, leaves it
out, or renders it as another role's message, it goes before the first question. A template is rendered with markers in place of the
messages' texts, and each stretch between special tokens is encoded separately. So a longer chat's prompt starts with exactly the
ids of the shorter one's, an answer's ids are those that the model generated (kept, never re-encoded), and what people write never
becomes a special token: a question that contains "</s>" or "<image>" is ordinary text.

The work grows with the length of the chat, and no faster: the template is rendered once for the whole chat, and for short chats
that have the surroundings of an answer.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

from model_server.detokenizer import decode
from model_server.types import Image, Message, Role

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
IMAGE_PLACEHOLDER = "<image>"
VICUNA = (
    "{{ bos_token }}{% if messages and messages[0].role == 'system' %}{{ messages[0].content[0].text }}{% else %}"
    + SYSTEM
    + "{% endif %} {% for message in messages %}{% if message.role == 'user' %}USER: "
    "{% for part in message.content %}{{ '<image>\n' if part.type == 'image' else part.text }}{% endfor %} ASSISTANT:"
    "{% elif message.role == 'assistant' %} {{ message.content[0].text }}{{ eos_token }}{% endif %}{% endfor %}"
)
_MAX_KEPT_LENGTH = 8192  # characters; a few huge questions must not fill the memory
_MARK = re.compile("\ue000([0-9]+|system)\ue001")  # marks a message's text in a rendered template
_SYSTEM_MARK = "\ue000system\ue001"
_AFTER_SPECIAL = "\ufdd0\ufdd1"  # replaces any special token before a stretch of text; noncharacters, which nobody writes
_AFTER_WORD = "a"
_NUM_AROUND = 3  # messages before an answer that decide what its template writes there: a question, an answer, its own question

_Shape = tuple[tuple[Role, int], ...]  # each message's role and number of pictures


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids with pictures between them, in order. The last part is always ids, which may be empty."""

    parts: tuple[tuple[int, ...] | Image, ...]

    @property
    def images(self) -> tuple[Image, ...]:
        """All pictures, in order; one that occurs twice is there twice."""
        return tuple(part for part in self.parts if isinstance(part, Image))

    @property
    def num_text_tokens(self) -> int:
        """Number of ids, pictures not counted."""
        return sum(len(part) for part in self.parts if not isinstance(part, Image))


class PromptTemplate:
    """A chat template for one tokenizer. Thread-safe.

    `chat_template` is Jinja as in tokenizer_config.json; None is LLaVA-1.5's conv_vicuna_v1. `image_token` is what the template
    writes for a picture. `eos_ids` are ids that end an answer, in addition to the tokenizer's own. Raises ValueError for a
    tokenizer or template that cannot be used. Format: https://huggingface.co/docs/transformers/chat_templating.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        chat_template: str | None = None,
        *,
        image_token: str = IMAGE_PLACEHOLDER,
        eos_ids: Iterable[int] = (),
    ) -> None:
        if tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer has no end-of-sequence token")
        if chat_template is None and tokenizer.bos_token_id is None:
            raise ValueError("the tokenizer has no beginning-of-sequence token")
        self._tokenizer = tokenizer
        self._chat_template = chat_template or VICUNA
        self._image_token = image_token
        self._eos_ids = {int(tokenizer.eos_token_id), *eos_ids}
        # LLaVA-1.5 encodes text after a special token like the beginning of a text (its tokenizer's "legacy" mode).
        self._after_special = _AFTER_SPECIAL if chat_template else ""
        self._added = {token.content: (index, token) for index, token in tokenizer.added_tokens_decoder.items()}
        longest_first = sorted({*self._added, image_token}, key=len, reverse=True)
        self._special = re.compile("|".join(re.escape(content) for content in longest_first))
        self._special_ids = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._special_ids -= {tokenizer.unk_token_id}  # people may write unknown characters
        self._plain = _without_added_tokens(tokenizer)
        # What the tokenizer puts before every text.
        self._opening_ids = [i for i in tokenizer.encode("") if i == tokenizer.bos_token_id]
        # Every turn repeats all earlier segments, so only the new ones are encoded.
        self._opening = lru_cache(maxsize=512)(self._opening_gaps)
        self._encode_short = lru_cache(maxsize=2048)(self._encode_text)
        self._can_keep = lru_cache(maxsize=512)(self._spells)
        probe = (Message(Role.USER, "a"), Message(Role.ASSISTANT, "b"), Message(Role.USER, "c"))
        rendered = self._render(_shape(probe)) + self._render(((Role.USER, 1),))
        if _MARK.findall(rendered) != ["0", "1", "2", "0"] or rendered.count(image_token) != 1:
            raise ValueError("the chat template does not write each text and each picture once, in order")
        self._takes_system = False
        for is_list in (True, False):  # content as a list of parts, or as text: templates older than pictures take only text
            self._system_content: Any = [{"type": "text", "text": _SYSTEM_MARK}] if is_list else _SYSTEM_MARK
            if self._writes_system(_shape(probe)) and self._writes_system(((Role.USER, 1),)):
                self._takes_system = True
                break

    def text(self, messages: Sequence[Message], system: str | None = None) -> str:
        """The prompt as text, with an image token for each picture. For people to read, not for the model."""
        messages, system = self._placed(messages, system)
        rendered = self._render(_shape(messages), system is not None)
        if self._chat_template == VICUNA:
            rendered = rendered.removeprefix(str(self._tokenizer.bos_token))
        return _MARK.sub(lambda mark: (system or "") if mark[1] == "system" else messages[int(mark[1])].text.strip(), rendered)

    def encode(self, messages: Sequence[Message], system: str | None = None) -> Prompt:
        """Encode a chat that the model will continue. A blank `system` is the same as None: the template's own text, if any.

        Raises ValueError unless user and assistant alternate and the last message is the user's.
        """
        _check_order(messages)
        messages, system = self._placed(messages, system)
        images = iter([image for message in messages for image in message.images])
        parts: list[tuple[int, ...] | Image] = []
        rendered = self._render(_shape(messages), system is not None)
        ids: list[int] = [] if rendered.startswith(str(self._tokenizer.bos_token)) else [*self._opening_ids]
        for piece in self._pieces(rendered, messages, system):
            if piece is None:
                parts += [tuple(ids), next(images)]
                ids = []
            else:
                ids += piece
        return Prompt((*parts, tuple(ids)))

    def _placed(self, messages: Sequence[Message], system: str | None) -> tuple[Sequence[Message], str | None]:
        """The chat and the system text; or, if the template takes no system text, the chat with it before the first question, and
        None."""
        system = (system or "").strip() or None
        if system is None or self._takes_system or not messages:
            return messages, system
        return (replace(messages[0], text=f"{system}\n\n{messages[0].text}"), *messages[1:]), None

    def _pieces(self, rendered: str, messages: Sequence[Message], system: str | None) -> Iterator[tuple[int, ...] | None]:
        """The prompt in order: ids, or None for a picture."""
        shape, gaps, num_texts = _shape(messages), _gaps(rendered), 0
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
            num_texts += 1
            if match[1] == "system":
                text += system or ""
                continue
            message, number = messages[int(match[1])], int(match[1])
            written = message.text.strip()
            # An answer goes where it was generated: after the end of that turn's prompt. Templates may put other spaces there.
            spaces = self._spaces_before(gaps, num_texts, shape, number, system is not None)
            if spaces is None:
                text += written
                continue
            here, there = spaces
            text = text.removesuffix(here) + there
            yield self._encode(context, text)
            if message.token_ids is not None and self._can_keep(message.token_ids, written):
                yield _without_end(message.token_ids, self._eos_ids)
            elif written:
                space = here.removeprefix(there) if here.startswith(there) else ""
                yield self._encode(_last_word(text), space + written)
            context, text = _AFTER_WORD, ""
        rest = rendered[start:]
        yield self._encode(context, text + (rest.lstrip() if is_trimmed else rest))

    def _spaces_before(self, gaps: Sequence[str], end: int, shape: _Shape, number: int, has_system: bool) -> tuple[str, str] | None:
        """The spaces before the answer `number`: in this prompt, where `gaps[:end]` are before it, and in the prompt that it
        answered. None for a question, and if the two prompts differ in more than that."""
        if shape[number][0] is not Role.ASSISTANT:
            return None
        # Rendering each answer's whole prompt would be work that grows with the square of the chat. A template writes a message by
        # what is around it and by how the chat begins, so what is between these two is left out.
        is_whole = number <= 2 + _NUM_AROUND
        opening = self._opening(shape[:number] if is_whole else shape[:2] + shape[number - _NUM_AROUND : number], has_system)
        *earlier, here = gaps[:end] if is_whole else gaps[end - 1 - _NUM_AROUND : end]
        there = opening[-1]
        if earlier != (opening[:-1] if is_whole else opening[-1 - _NUM_AROUND : -1]) or here.rstrip() != there.rstrip():
            return None
        return here[len(here.rstrip()) :], there[len(there.rstrip()) :]

    def _opening_gaps(self, shape: _Shape, has_system: bool) -> list[str]:
        return _gaps(self._render(shape, has_system))

    def _writes_system(self, shape: _Shape) -> bool:
        """Whether the template writes a system message once, before all others, and not like a message of another role."""
        try:
            rendered = self._render(shape, True)
        except (TemplateError, TypeError):
            return False
        marks = ["system", *(str(number) for number in range(len(shape)))]
        if _MARK.findall(rendered) != marks or "'type'" in rendered:  # "'type'": it wanted a text and got a list
            return False
        for role in Role:
            with contextlib.suppress(TemplateError, TypeError):
                if self._render(shape, True, str(role)) == rendered:
                    return False
        return True

    def _render(self, shape: _Shape, has_system: bool = False, system_role: str = "system") -> str:
        chat: list[Any] = [{"role": system_role, "content": self._system_content}] if has_system else []
        for number, (role, num_images) in enumerate(shape):
            text = {"type": "text", "text": f"\ue000{number}\ue001"}
            chat.append({"role": str(role), "content": [*({"type": "image"} for _ in range(num_images)), text]})
        rendered = self._tokenizer.apply_chat_template(
            chat, chat_template=self._chat_template, tokenize=False, add_generation_prompt=bool(shape) and shape[-1][0] is Role.USER
        )
        assert isinstance(rendered, str)
        return rendered

    def _encode(self, context: str, text: str) -> tuple[int, ...]:
        if not text:
            return ()
        return self._encode_short(context, text) if len(text) <= _MAX_KEPT_LENGTH else self._encode_text(context, text)

    def _encode_text(self, context: str, text: str) -> tuple[int, ...]:
        """The ids of `text` when it follows `context`. None of them is a special token's."""
        text = text.replace(_AFTER_SPECIAL, "")
        before = self._plain.encode(context, add_special_tokens=False).ids
        both = self._plain.encode(context + text, add_special_tokens=False).ids
        if both[: len(before)] != before:
            before, both = [], self._plain.encode(text, add_special_tokens=False).ids
        ids = both[len(before) :]
        if len(text) > 1 and not self._special_ids.isdisjoint(ids):  # some vocabularies have special tokens as ordinary ones
            return tuple(i for character in text for i in self._encode_text(self._after_special, character))
        return tuple(ids)

    def _spells(self, token_ids: Sequence[int], text: str) -> bool:
        """Whether the ids decode to the text. If not, they came from another tokenizer, or may even be a picture's."""
        ids = list(token_ids)
        image, _ = self._added.get(self._image_token, (None, None))
        num_known = len(self._tokenizer)
        if image in ids or not self._eos_ids.isdisjoint(ids[:-1]) or not all(0 <= i < num_known for i in ids):
            return False
        return decode(self._tokenizer, ids).strip() == text


def _without_added_tokens(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state.update(added_tokens=[], truncation=None, padding=None)
    plain = Tokenizer.from_str(json.dumps(state))
    plain.add_tokens([AddedToken(_AFTER_SPECIAL, normalized=False)])
    return plain


def _without_end(ids: tuple[int, ...], eos_ids: set[int]) -> tuple[int, ...]:
    return ids[:-1] if ids and ids[-1] in eos_ids else ids


def _gaps(rendered: str) -> list[str]:
    """What a template wrote before each text, and after the last one."""
    return _MARK.split(rendered)[::2]


def _last_word(text: str) -> str:
    """The last word, with the spaces behind it."""
    words = text.rsplit(maxsplit=1)
    return text[len(text.rstrip()) - len(words[-1]) :] if words else text


def _shape(messages: Sequence[Message]) -> _Shape:
    return tuple((message.role, len(message.images)) for message in messages)


def _check_order(messages: Sequence[Message]) -> None:
    expected = (Role.USER, Role.ASSISTANT)
    if len(messages) % 2 != 1 or any(message.role is not expected[i % 2] for i, message in enumerate(messages)):
        raise ValueError("a chat alternates between user and assistant, and its last message is the user's")
