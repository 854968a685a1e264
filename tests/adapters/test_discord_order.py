"""On Discord too, look-ups keep what is said in one conversation in its order, and hold up nobody else."""

from __future__ import annotations

from functools import partialmethod

import pytest

from adapters.conversations.dispatcher import Dispatcher
from tests.adapters.discord_world import ME, World, world
from tests.adapters.test_discord_images import embed
from tests.loopbacks.discord.payloads import Payload

LINK = "https://example.org/cat"


async def _resolve(w: World, message: Payload) -> None:
    """Discord has looked at the message's link."""
    await w.discord.edit(message, is_real=False, embeds=[embed(w, "image")])


async def test_a_direct_message_waits_for_the_link_in_the_one_before_it_and_nobody_else_does() -> None:
    async with world(embed_seconds=60.0) as w:
        direct = w.discord.add_direct()
        slow = await w.discord.post(direct, f"What is {LINK}")
        await w.discord.post(direct, "And its colour?")
        await w.ask(f"{ME} And here?")
        await w.answered("A star.")
        assert [message.text for message in w.handler.messages] == ["And here?"]
        await _resolve(w, slow)
        await w.answered("A cat.")
        await w.answered("Grey.")
        assert [message.text for message in w.handler.messages][1:] == [f"What is {LINK}", "And its colour?"]


async def test_a_reply_in_the_new_thread_waits_for_the_link_in_its_beginning() -> None:
    async with world(embed_seconds=60.0) as w:
        asked = await w.ask(f"{ME} What is {LINK}", attachments=[])
        thread = int(asked["id"])
        await w.discord.wait_for(lambda: thread in w.discord.channels)
        await w.discord.post(thread, "And its colour?")
        await _resolve(w, asked)
        await w.answered("A cat.")
        await w.answered("Grey.")
        assert [message.text for message in w.handler.messages] == [f"What is {LINK}", "And its colour?"]
        assert w.texts(thread) == ["A cat.", "Grey."]


async def test_a_question_that_is_deleted_while_its_link_is_looked_at_is_forgotten() -> None:
    async with world(embed_seconds=60.0) as w:
        asked = await w.ask(f"{ME} What is {LINK}", attachments=[])
        thread = int(asked["id"])
        await w.discord.wait_for(lambda: thread in w.discord.channels)
        await w.discord.delete(asked)
        await _resolve(w, asked)
        await w.handler.next_answer()
        await w.discord.post(direct := w.discord.add_direct(), "Hello?", attachments=[w.image()])
        await w.answered("A star.")
        assert [turn.key.channel for turn in w.handler.platform_turns.values()] == [str(direct)]
        assert w.texts(thread) == []


@pytest.mark.parametrize(("is_direct", "fault"), [(True, 503), (False, None)])
async def test_of_a_full_conversation_all_is_read_back_page_by_page(
    monkeypatch: pytest.MonkeyPatch, is_direct: bool, fault: int | None
) -> None:
    monkeypatch.setattr("adapters.backoff.FIRST_SECONDS", 0.0)
    monkeypatch.setattr("adapters.discord.catch_up.MAX_MESSAGES", 2)
    monkeypatch.setattr(Dispatcher, "__init__", partialmethod(Dispatcher.__init__, max_posts=1))
    async with world(embed_seconds=60.0) as w:
        room = w.discord.add_direct() if is_direct else int((await w.ask())["id"])
        if not is_direct:
            await w.answered("A cat.")
        num_before = len(w.handler.messages)
        slow = await w.discord.post(room, f"{ME} Number 0 {LINK}")
        for number in range(1, 4):
            await w.discord.post(room, f"Number {number}")
        if fault is not None:
            w.discord.fail("GET", f"/channels/{room}/messages", fault)
        await _resolve(w, slow)
        for _ in range(4):
            await w.answered("Yes.")
        texts = [message.text for message in w.handler.messages][num_before:]
        assert texts == [f"Number 0 {LINK}", *(f"Number {number}" for number in range(1, 4))]
