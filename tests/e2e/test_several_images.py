"""Several pictures in one chat, and pictures that join in a later turn: through the store, to a model that takes them."""

from __future__ import annotations

from pathlib import Path

from adapters.base import AnswerStatus
from bot.chats import Chats
from bot.images import ImageReader
from bot.store import Store
from bot.writer import AnswerWriter
from model_server.checkpoints.loading import load_checkpoint
from model_server.images import read_image
from model_server.loop import InferenceLoop
from model_server.packed.engine import PackedEngine
from model_server.types import Message, Role
from tests.bot.doubles import ask, attachment, end_of, notices_of, png, thread
from tests.model_server.small_families import Reference, write_checkpoint

MAX_NEW_TOKENS = 6


async def test_several_pictures_join_one_chat_and_outlive_a_restart(tmp_path: Path) -> None:
    folder = tmp_path / "smolvlm"
    folder.mkdir()
    write_checkpoint("smolvlm", folder)
    files = [png("red", (64, 40)), png("blue", (30, 90)), png("green", (50, 50))]
    red, blue, green = (read_image(data, "picture.png") for data in files)
    turns = [("which one is red?", (red, blue)), ("and this?", (green,)), ("how many?", ())]
    for question, images in turns:  # each turn meets a program that has just been started
        store = await Store.open(f"sqlite+aiosqlite:///{tmp_path / 'chats.db'}")
        loop = InferenceLoop(PackedEngine(load_checkpoint(str(folder))))
        await loop.start()
        writer = AnswerWriter(store, loop, max_new_tokens=MAX_NEW_TOKENS, temperature=0)
        chats = Chats(store, loop, ImageReader(1_000_000), writer)
        events = await ask(chats, question, *(attachment(image.data) for image in images))
        assert end_of(events).status is AnswerStatus.COMPLETE
        assert "new chat" not in " ".join(notices_of(events))
        await chats.close(0)
        stored = await store.read_turns(thread())
        await loop.close()
        await store.close()
    reference = Reference.of(folder)
    messages: list[Message] = []
    for (question, images), turn in zip(turns, stored, strict=True):
        messages.append(Message(Role.USER, question, images))
        assert turn.token_ids == reference.answer(messages, MAX_NEW_TOKENS)
        messages.append(Message(Role.ASSISTANT, turn.answer or "", token_ids=turn.token_ids))
