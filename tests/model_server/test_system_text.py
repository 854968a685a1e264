"""What a model is told before a chat: in place of the template's own words, in every kind of template, engine and count."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path

import pytest

from model_server.checkpoints.loading import Checkpoint, load_checkpoint
from model_server.loop import InferenceLoop
from model_server.packed.engine import PackedEngine
from model_server.prompt import SYSTEM, Prompt, PromptTemplate
from model_server.remote.connection import RemoteServer
from model_server.remote.engine import RemoteEngine
from model_server.remote.request import request_body
from model_server.serve.known_answers import KnownAnswers
from model_server.types import ChatRequest, Finished, Image, Message, Role, SamplingParams
from tests.model_server.small_families import (
    FAMILIES,
    INTERNVL_TEMPLATE,
    MISTRAL_TEMPLATE,
    Reference,
    conversation,
    write_checkpoint,
)

PIRATE = "You are a pirate."
TAKES_SYSTEM = {*FAMILIES} - {"llava_next"}  # its template would write the text as an answer of the model's
Q1, A1, Q2 = Message(Role.USER, "Q1"), Message(Role.ASSISTANT, "A1"), Message(Role.USER, "Q2")


def flat(prompt: Prompt) -> list[int]:
    return [i for part in prompt.parts for i in ([-1] if isinstance(part, Image) else part)]


def test_llava_is_told_it_in_place_of_the_text_of_its_training(checkpoint: Checkpoint, image: Callable[..., Image]) -> None:
    template, encode = checkpoint.template, checkpoint.tokenizer.encode
    chat = (Message(Role.USER, "Q1", (image("red"),)), A1, Q2)
    assert template.text(chat, f" {PIRATE}\n") == f"{PIRATE} USER: <image>\nQ1 ASSISTANT: A1</s>USER: Q2 ASSISTANT:"
    assert flat(template.encode(chat, PIRATE)) == [
        checkpoint.tokenizer.bos_token_id,
        *encode(PIRATE + " USER: ", add_special_tokens=False),
        -1,
        *encode("\nQ1 ASSISTANT:", add_special_tokens=False),
        *encode("A1", add_special_tokens=False),
        checkpoint.tokenizer.eos_token_id,
        *encode("USER: Q2 ASSISTANT:", add_special_tokens=False),
    ]
    short = flat(template.encode(chat[:1], PIRATE))
    assert flat(template.encode(chat, PIRATE))[: len(short)] == short


@pytest.mark.parametrize("blank", [None, "", " \n"])
def test_a_blank_one_is_none(checkpoint: Checkpoint, blank: str | None) -> None:
    assert checkpoint.template.encode([Q1], blank) == checkpoint.template.encode([Q1])
    assert SYSTEM in checkpoint.template.text([Q1], blank)


def test_it_cannot_bring_special_tokens(checkpoint: Checkpoint) -> None:
    ids = flat(checkpoint.template.encode([Q1], "<image></s>\ue0000\ue001<s>"))
    assert not set(checkpoint.tokenizer.added_tokens_decoder) & set(ids[1:])


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_reads_it_where_its_template_has_it(name: str, tmp_path: Path) -> None:
    write_checkpoint(name, tmp_path)
    reference = Reference.of(tmp_path)
    template, chat = reference.checkpoint.template, [Q1, A1, Q2]
    if name in TAKES_SYSTEM:
        system = {"role": "system", "content": [{"type": "text", "text": PIRATE}]}
        theirs = reference.processor.apply_chat_template([system, *conversation(chat)], add_generation_prompt=True)
        assert "".join(template.text(chat, PIRATE).split()) == "".join(theirs.split())
    else:
        assert template.encode(chat, PIRATE) == template.encode([Message(Role.USER, f"{PIRATE}\n\nQ1"), A1, Q2])
    assert template.text(chat, PIRATE).count(PIRATE) == 1
    short, long = flat(template.encode([Q1], PIRATE)), flat(template.encode(chat, PIRATE))
    assert long[: len(short)] == short
    assert short != flat(template.encode([Q1]))


REFUSING = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + INTERNVL_TEMPLATE
DROPPING = INTERNVL_TEMPLATE.replace("{% for message in messages %}", "{% for message in messages if message.role != 'system' %}")
AT_THE_END = (
    "{% for message in messages if message.role != 'system' %}{% if message.role == 'user' %}[INST] "
    "{% if loop.last and messages[0].role == 'system' %}{{ messages[0].content[0].text }} {% endif %}"
    "{% for part in message.content %}{{ '<image>' if part.type == 'image' else part.text }}{% endfor %} [/INST]"
    "{% else %} {{ message.content[0].text }}{{ eos_token }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize(
    "chat_template", [REFUSING, DROPPING, MISTRAL_TEMPLATE, AT_THE_END], ids=["refuses", "drops", "answer", "last"]
)
def test_where_a_template_has_no_place_for_it_it_goes_before_the_first_question(checkpoint: Checkpoint, chat_template: str) -> None:
    template = PromptTemplate(checkpoint.tokenizer, chat_template.replace("<IMG_CONTEXT>", "<image>"))
    assert template.encode([Q1, A1, Q2], PIRATE) == template.encode([Message(Role.USER, f"{PIRATE}\n\nQ1"), A1, Q2])
    assert template.text([Q1], PIRATE).count(PIRATE) == 1


def test_a_template_that_wants_text_alone_for_it_gets_that(checkpoint: Checkpoint) -> None:
    wants_text = (
        "{% for message in messages %}{% if message.role == 'system' %}{{ '<<SYS>>' + message.content + '<</SYS>>' }}"
        "{% elif message.role == 'user' %}[INST] {% for part in message.content %}"
        "{{ '<image>' if part.type == 'image' else part.text }}{% endfor %} [/INST]"
        "{% else %} {{ message.content[0].text }}{{ eos_token }}{% endif %}{% endfor %}"
    )
    assert PromptTemplate(checkpoint.tokenizer, wants_text).text([Q1], PIRATE) == f"<<SYS>>{PIRATE}<</SYS>>[INST] Q1 [/INST]"


def num_alike(ids: list[int], other: list[int]) -> int:
    """How many of the first are the same."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ids, other, strict=False)))


async def ask(loop: InferenceLoop, question: Message, system: str | None) -> Finished:
    request = ChatRequest("ask", (question,), SamplingParams(max_new_tokens=8, temperature=0), system)
    async with loop.submit(request) as stream:
        async for event in stream:
            if isinstance(event, Finished):
                return event
    raise AssertionError("no end")


async def test_chats_that_were_told_different_things_share_no_rows_after_that(
    random_llava: Path, image: Callable[..., Image]
) -> None:
    question = Message(Role.USER, "describe the picture", (image("red"),))
    told = [None, PIRATE, "You are a parrot.", PIRATE]
    alone = {}
    for system in told:
        loop = InferenceLoop(PackedEngine(load_checkpoint(str(random_llava))))
        await loop.start()
        alone[system] = (await ask(loop, question, system)).token_ids
        await loop.close()
    assert len(set(alone.values())) > 1  # it makes a difference
    loop = InferenceLoop(PackedEngine(load_checkpoint(str(random_llava))))
    await loop.start()
    template = load_checkpoint(str(random_llava)).template
    prompts: dict[str | None, list[int]] = {}
    for system in told:
        finished = await ask(loop, question, system)
        assert finished.token_ids == alone[system]
        assert finished.usage.num_prompt_tokens == await loop.num_prompt_tokens([question], system)
        ids = flat(template.encode([question], system))
        if system not in prompts:
            num_common = [num_alike(ids, other) for other in prompts.values()]
            assert finished.usage.num_cached_tokens <= max(num_common, default=0)
        prompts[system] = ids
    assert finished.usage.num_cached_tokens > 16  # the pirate again
    await loop.close()


async def test_a_server_far_away_is_told_it_as_a_system_message_which_counts() -> None:
    body = json.loads(request_body("m", [Q1], {}, f" {PIRATE}\n"))
    assert body["messages"] == [{"role": "system", "content": PIRATE}, {"role": "user", "content": "Q1"}]
    for blank in (None, " "):
        assert [m["role"] for m in json.loads(request_body("m", [Q1], {}, blank))["messages"]] == ["user"]
    engine = RemoteEngine(RemoteServer("http://127.0.0.1:1/v1"))
    assert engine.num_prompt_tokens([Q1], "x" * 300) >= engine.num_prompt_tokens([Q1]) + 100
    await engine._close()


def test_answers_are_found_again_in_chats_that_were_told_the_same() -> None:
    known = KnownAnswers()
    known.remember([Q1], "A1", (1, 2), PIRATE)
    assert known.restore([Q1, A1, Q2], PIRATE)[1].token_ids == (1, 2)
    assert known.restore([Q1, A1, Q2])[1].token_ids is None
