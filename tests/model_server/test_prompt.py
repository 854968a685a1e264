from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_server.checkpoints.loading import Checkpoint
from model_server.prompt import SYSTEM, Prompt, PromptTemplate
from model_server.types import Image, Message, Role


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
