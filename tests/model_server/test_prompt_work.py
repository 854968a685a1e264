"""How much work a prompt is: it grows with the chat and no faster, and the ids are those of the obvious way."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_server.checkpoints.loading import Checkpoint, load_checkpoint
from model_server.prompt import PromptTemplate, _last_word
from model_server.types import Image, Message, Role
from tests.model_server.slow_prompts import SlowPromptTemplate
from tests.model_server.small_families import FAMILIES, MISTRAL_TEMPLATE, write_checkpoint

# Templates that write a message differently by where it is, as some in the field do.
ONLY_THE_LAST_ANSWER_OPEN = (
    "{{ bos_token }}{% for m in messages %}{% for part in m.content %}{{ '<image>' if part.type == 'image' else part.text }}"
    "{% endfor %}{% if m.role == 'assistant' and loop.index0 < messages | length - 2 %}{{ eos_token }}{% endif %} {% endfor %}"
)
LAST_QUESTION_MARKED = (
    "{{ bos_token }}{% for m in messages %}{% if loop.last %}Now: {% endif %}{% for part in m.content %}"
    "{{ '<image>' if part.type == 'image' else part.text }}{% endfor %} {{ eos_token }}{% endfor %}"
)
FIRST_PICTURE_SPOKEN_OF = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }}{% if messages[0].content | length > 1 %} of it{% endif %}:  "
    "{% for part in m.content %}{{ '<image>' if part.type == 'image' else part.text }}{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
ODD = [ONLY_THE_LAST_ANSWER_OPEN, LAST_QUESTION_MARKED, FIRST_PICTURE_SPOKEN_OF, MISTRAL_TEMPLATE]
TEXTS = st.one_of(st.text(max_size=12), st.sampled_from(["red", " how many? ", "\ue0001\ue001", "</s> <image>", "a\n \n", ""]))


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory, checkpoint: Checkpoint) -> dict[str, PromptTemplate]:
    made = {"llava": checkpoint.template}
    for name in FAMILIES:
        folder: Path = tmp_path_factory.mktemp(name)
        write_checkpoint(name, folder)
        made[name] = load_checkpoint(str(folder)).template
    return made | {f"odd {number}": PromptTemplate(checkpoint.tokenizer, template) for number, template in enumerate(ODD)}


@pytest.fixture(scope="session")
def red(image: Callable[..., Image]) -> Image:
    return image("red")


def slow(template: PromptTemplate) -> PromptTemplate:
    same = copy.copy(template)
    same.__class__ = SlowPromptTemplate
    return same


@st.composite
def exchanges(draw: st.DrawFn) -> list[tuple[str, int, str, str]]:
    """Questions with their number of pictures, answers, and whether the answers' ids are known: not, in part, with their end."""
    number_of_pictures = st.sampled_from([0, 0, 0, 1, 2])
    known = st.sampled_from(["no", "ids", "end"])
    return draw(st.lists(st.tuples(TEXTS, number_of_pictures, TEXTS, known), min_size=1, max_size=9))


@pytest.mark.parametrize("name", ["llava", *FAMILIES, *(f"odd {number}" for number in range(len(ODD)))])
@given(exchanges(), TEXTS, st.one_of(st.none(), TEXTS))
def test_the_ids_are_those_of_the_obvious_way(
    templates: dict[str, PromptTemplate],
    red: Image,
    name: str,
    said: list[tuple[str, int, str, str]],
    last: str,
    system: str | None,
) -> None:
    template = templates[name]
    tokenizer: Any = template._tokenizer
    chat: list[Message] = []
    for question, num_pictures, answer, known in said:
        ids = tuple(tokenizer.encode(answer, add_special_tokens=False, split_special_tokens=True))
        ids += (tokenizer.eos_token_id,) if known == "end" else ()
        chat.append(Message(Role.USER, question, (red,) * num_pictures))
        chat.append(Message(Role.ASSISTANT, answer, token_ids=None if known == "no" else ids))
    chat.append(Message(Role.USER, last))
    assert template.encode(chat, system) == slow(template).encode(chat, system)


class Counted:
    """A tokenizer without added tokens that counts the characters it encodes."""

    def __init__(self, plain: Any) -> None:
        self._plain = plain
        self.num_characters = 0

    def encode(self, text: str, **options: Any) -> Any:
        self.num_characters += len(text)
        return self._plain.encode(text, **options)


def work(template: PromptTemplate, num_exchanges: int, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """The messages that are rendered, and the characters that are encoded, for a chat that was never seen."""
    chat = []
    for number in range(num_exchanges):
        chat += [Message(Role.USER, f"q{number}"), Message(Role.ASSISTANT, f"a{number}")]
    fresh = copy.copy(template)
    fresh.__init__(template._tokenizer, template._chat_template)  # type: ignore[misc]
    num_rendered = 0
    render = type(template._tokenizer).apply_chat_template

    def counting(tokenizer: Any, conversation: list[Any], *args: Any, **options: Any) -> Any:
        nonlocal num_rendered
        num_rendered += len(conversation)
        return render(tokenizer, conversation, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(type(template._tokenizer), "apply_chat_template", counting)
        plain = Counted(fresh._plain)
        patch.setattr(fresh, "_plain", plain)
        fresh.encode([*chat, Message(Role.USER, "q")])
    return num_rendered, plain.num_characters


@pytest.mark.parametrize("chat_template", [None, *ODD])
def test_a_chat_of_thousands_of_messages_is_rendered_once(
    checkpoint: Checkpoint, chat_template: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = PromptTemplate(checkpoint.tokenizer, chat_template)
    few, many = (work(template, num_exchanges, monkeypatch) for num_exchanges in (100, 1_000))
    assert few[0] <= 201 + 30
    assert many[0] <= 2_001 + 30
    assert many[1] <= 12 * few[1]  # the numbers in it have a digit more


def test_one_endless_word_is_read_once(checkpoint: Checkpoint) -> None:
    """Looking for its beginning from each of its letters would be 10**12 steps."""
    question, answer = Message(Role.USER, "a" * 1_000_000 + " " * 1_000_000 + "b"), Message(Role.ASSISTANT, "red")
    ids = checkpoint.template.encode([question, answer, Message(Role.USER, "how many?")]).parts[0]
    assert isinstance(ids, tuple)
    assert len(ids) > 1_000_000


@given(st.text(alphabet=" \n\t\x1f\u3000\xa0ab\ue000", max_size=12))
def test_the_last_word_is_the_last_word_with_the_spaces_behind_it(text: str) -> None:
    found = re.search(r"\S*\s*\Z", text)
    assert found is not None
    assert _last_word(text) == found[0]
