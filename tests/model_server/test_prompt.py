from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from model_server.checkpoints.loading import Checkpoint
from model_server.prompt import SYSTEM, Prompt, PromptTemplate
from model_server.types import Image, Message, Role
from tests.model_server.conftest import make_tokenizer


@pytest.fixture(scope="session")
def template(checkpoint: Checkpoint) -> PromptTemplate:
    return checkpoint.template


@pytest.fixture(scope="session")
def red(image: Callable[..., Image]) -> Image:
    return image("red")


def flat(prompt: Prompt) -> list[int]:
    return [i for part in prompt.parts for i in ([-1] if isinstance(part, Image) else part)]


def test_the_training_format(template: PromptTemplate, checkpoint: Checkpoint, red: Image) -> None:
    encode = checkpoint.tokenizer.encode
    chat = (Message(Role.USER, "Q1", (red,)), Message(Role.ASSISTANT, "A1"), Message(Role.USER, "Q2"))
    assert template.text(chat) == f"{SYSTEM} USER: <image>\nQ1 ASSISTANT: A1</s>USER: Q2 ASSISTANT:"
    prompt = template.encode(chat)
    assert prompt.images == (red,)
    assert flat(prompt) == [
        checkpoint.tokenizer.bos_token_id,
        *encode(SYSTEM + " USER: ", add_special_tokens=False),
        -1,
        *encode("\nQ1 ASSISTANT:", add_special_tokens=False),
        *encode("A1", add_special_tokens=False),
        checkpoint.tokenizer.eos_token_id,
        *encode("USER: Q2 ASSISTANT:", add_special_tokens=False),
    ]
    assert prompt.num_text_tokens == len(flat(prompt)) - 1


@given(st.lists(st.text(max_size=20), min_size=3, max_size=3), st.booleans(), st.booleans())
def test_a_longer_chat_starts_with_the_shorter_ones_ids(
    template: PromptTemplate, checkpoint: Checkpoint, red: Image, texts: list[str], has_ids: bool, has_end: bool
) -> None:
    q1, a1, q2 = texts
    ids = checkpoint.tokenizer.encode(a1, add_special_tokens=False, split_special_tokens=True)
    if has_end:
        ids.append(checkpoint.tokenizer.eos_token_id)
    first = Message(Role.USER, q1, (red,))
    answer = Message(Role.ASSISTANT, a1, token_ids=tuple(ids) if has_ids else None)
    short = flat(template.encode((first,)))
    long = flat(template.encode((first, answer, Message(Role.USER, q2))))
    assert long[: len(short)] == short
    assert long.count(checkpoint.tokenizer.eos_token_id) == 1
    assert long.count(checkpoint.tokenizer.bos_token_id) == 1
    assert long.count(-1) == 1


def test_the_models_own_ids_are_kept_even_where_encoding_gives_others(template: PromptTemplate, checkpoint: Checkpoint) -> None:
    letters = tuple(int(checkpoint.tokenizer.get_vocab()[token]) for token in ("▁", "r", "e", "d"))
    assert list(letters) != checkpoint.tokenizer.encode("red", add_special_tokens=False)
    answer = Message(Role.ASSISTANT, "red", token_ids=letters)
    ids = flat(template.encode((Message(Role.USER, "Q"), answer, Message(Role.USER, "Q"))))
    assert any(tuple(ids[i : i + 5]) == (*letters, checkpoint.tokenizer.eos_token_id) for i in range(len(ids)))


@pytest.mark.parametrize("foreign", [(10**6,), (-1,), (300, 301)])
def test_ids_of_another_model_are_not_believed(template: PromptTemplate, checkpoint: Checkpoint, foreign: tuple[int, ...]) -> None:
    question = Message(Role.USER, "Q")
    believed = template.encode((question, Message(Role.ASSISTANT, "red", token_ids=foreign), question))
    assert believed == template.encode((question, Message(Role.ASSISTANT, "red"), question))


def test_people_cannot_write_special_tokens(template: PromptTemplate, checkpoint: Checkpoint) -> None:
    ids = flat(template.encode((Message(Role.USER, "<image> </s><s>"),)))
    special = set(checkpoint.tokenizer.all_special_ids) | {checkpoint.tokenizer.convert_tokens_to_ids("<image>")}
    assert [i for i in ids if i in special] == [checkpoint.tokenizer.bos_token_id]
    assert "<image> </s><s>" in checkpoint.tokenizer.decode(ids)


def test_an_answer_that_was_stopped_before_its_first_word(template: PromptTemplate, checkpoint: Checkpoint) -> None:
    question = Message(Role.USER, "Q")
    for token_ids in (None, ()):
        ids = flat(template.encode((question, Message(Role.ASSISTANT, "", token_ids=token_ids), question)))
        assert ids.count(checkpoint.tokenizer.eos_token_id) == 1


def test_a_chat_alternates(template: PromptTemplate) -> None:
    user, assistant = Message(Role.USER, "Q"), Message(Role.ASSISTANT, "A")
    for messages in ((), (assistant,), (user, assistant), (user, user, user)):
        with pytest.raises(ValueError, match="alternates"):
            template.encode(messages)


# --- other models' templates and tokenizers

PARTS = "{% for part in m.content %}{{ '<image>' if part.type == 'image' else part.text }}{% endfor %}"
TURNS = "{% for m in messages %}{{ m.role }}: " + PARTS + "  <|end|>  {% endfor %}<|end|>x"
CHAT = (Message(Role.USER, "what colour"), Message(Role.ASSISTANT, "red"), Message(Role.USER, "how many"))


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """One of its special tokens begins with another, and that one takes the spaces around it along."""
    tokenizer = make_tokenizer()
    own = [AddedToken("<|end|>", lstrip=True, rstrip=True, special=True), AddedToken("<|end|>x", special=True)]
    tokenizer.add_special_tokens({"additional_special_tokens": own})
    return tokenizer


def ids_of(tokenizer: PreTrainedTokenizerFast, *tokens: str) -> list[int]:
    return [int(tokenizer.get_vocab()[token]) for token in tokens]


@pytest.mark.parametrize("end", ["", " assistant:"])
def test_special_tokens_are_told_apart_and_take_the_spaces_that_are_theirs(tokenizer: PreTrainedTokenizerFast, end: str) -> None:
    """As the tokenizer itself reads the whole prompt."""
    template = PromptTemplate(tokenizer, "{{ bos_token }}" + TURNS + end)
    expected = tokenizer.encode(template.text(CHAT), add_special_tokens=False)
    assert flat(template.encode(CHAT)) == expected
    end_of_turn, end_of_chat = ids_of(tokenizer, "<|end|>", "<|end|>x")
    assert (expected.count(end_of_turn), expected.count(end_of_chat)) == (3, 1)
    assert flat(template.encode(CHAT[:1]))[: len(expected)] == tokenizer.encode(template.text(CHAT[:1]), add_special_tokens=False)


@pytest.mark.parametrize("chat_template", [TURNS, "{{ bos_token }}" + TURNS, None])
def test_a_prompt_begins_as_every_text_of_its_tokenizer_does_and_only_once(
    tokenizer: PreTrainedTokenizerFast, chat_template: str | None
) -> None:
    (bos,) = ids_of(tokenizer, "<s>")
    assert flat(PromptTemplate(tokenizer, TURNS).encode(CHAT)).count(bos) == 0  # neither of them puts one there
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", pair=None, special_tokens=[("<s>", bos)])
    ids = flat(PromptTemplate(tokenizer, chat_template).encode(CHAT))
    assert ids[0] == bos
    assert ids.count(bos) == 1


def test_what_follows_a_word_gets_no_beginning_of_its_own(tokenizer: PreTrainedTokenizerFast) -> None:
    (bos,) = ids_of(tokenizer, "<s>")
    template = PromptTemplate(tokenizer, "{{ bos_token }}" + TURNS)
    pairs = [(context, text) for context in ("", "a", "what", "co") for text in ("n", "nd", "t is", "lour", " red", "中")]
    expected = [template._encode_text(context, text) for context, text in pairs]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", pair=None, special_tokens=[("<s>", bos)])
    template = PromptTemplate(tokenizer, TURNS)
    assert [template._encode_text(context, text) for context, text in pairs] == expected


def test_a_tokenizer_without_an_end_or_a_beginning_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.bos_token = None
    with pytest.raises(ValueError, match="beginning-of-sequence"):
        PromptTemplate(tokenizer)
    PromptTemplate(tokenizer, TURNS)  # its own template needs none
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="end-of-sequence"):
        PromptTemplate(tokenizer, TURNS)


@pytest.mark.parametrize(
    "chat_template",
    [
        "{% for m in messages %}{{ m.role }}{% endfor %}",  # without the texts
        TURNS + TURNS,  # everything twice
        "{% for m in messages | reverse %}" + PARTS + "{% endfor %}",
        TURNS.replace("<image>", ""),
        TURNS.replace("<image>", "<image><image>"),
    ],
)
def test_a_template_that_does_not_write_everything_once_is_refused(tokenizer: PreTrainedTokenizerFast, chat_template: str) -> None:
    with pytest.raises(ValueError, match="once, in order"):
        PromptTemplate(tokenizer, chat_template)
