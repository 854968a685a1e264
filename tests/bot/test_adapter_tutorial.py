"""docs/writing-an-adapter.md: its code, taken from the page as it is printed, is a platform that the real program serves."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import adapters
from bot import app
from bot.config import PREFIX, Settings, load_settings, variables
from bot.doctor import examine
from bot.platforms import PLATFORMS
from tests.bot.doubles import ScriptedModel, png, questions

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/writing-an-adapter.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
CODE = "".join(block if block.startswith('"""') else f"\n{block}" if block.startswith(" ") else f"\n\n{block}" for block in BLOCKS)
TIMEOUT_SECONDS = 30.0


@pytest.fixture
def whiteboard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """The page's module, in its folder and with its one line; a whiteboard with one room is set up."""
    folder = tmp_path / "adapters" / "whiteboard"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text('"""A whiteboard."""\n', "utf-8")
    (folder / "platform.py").write_text(CODE, "utf-8")
    monkeypatch.setattr(adapters, "__path__", [*adapters.__path__, str(tmp_path / "adapters")])
    module = importlib.import_module("adapters.whiteboard.platform")
    monkeypatch.setattr("bot.platforms.PLATFORMS", (*PLATFORMS, module.PLATFORM))
    for name in list(os.environ):
        if name.startswith((PREFIX, "DISCORD_", "SLACK_")):
            monkeypatch.delenv(name)
    for name, value in {"WHITEBOARD_BOARD": "office", "DATA_DIR": str(tmp_path / "data"), "WEB_PORT": "0"}.items():
        monkeypatch.setenv(f"{PREFIX}{name}", value)
    module.WHITEBOARDS["office"] = module.Whiteboard("office", {"hall"})
    yield module
    for name in [name for name in sys.modules if name.startswith("adapters.whiteboard")]:
        del sys.modules[name]
    with contextlib.suppress(AttributeError):
        del adapters.whiteboard  # type: ignore[attr-defined]


class Person:
    """Ann at a whiteboard."""

    def __init__(self, board: Any) -> None:
        self.board = board
        self._changed = asyncio.Event()
        board.watchers.append(lambda happening: self._changed.set())

    def writes(self, text: str, under: str | None = None, picture: bytes | None = None) -> str:
        return str(self.board.write("hall", "ann", text, under, picture).id)

    def sees(self, under: str) -> list[str]:
        """What the bot has written under a note."""
        return [note.text for note in self.board.notes.values() if (note.author, note.under) == ("threadsight", under)]

    async def waits(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while not is_so():
                self._changed.clear()
                await self._changed.wait()

    async def presses(self, control: str, under: str) -> None:
        """As soon as there is such a button."""

        def found() -> list[tuple[str, str]]:
            notes = [note for note in self.board.notes.values() if note.under == under]
            return [(note.id, button) for note in notes for button in note.buttons if button.startswith(f"{control}:")]

        await self.waits(lambda: bool(found()))
        [(note_id, button)] = found()
        self.board.press(note_id, "ann", button)


@contextlib.asynccontextmanager
async def running(model: ScriptedModel) -> AsyncIterator[None]:
    """The whole program, from its settings on, over this model."""
    told: asyncio.Queue[str] = asyncio.Queue()
    stop = asyncio.Event()

    async def open_model(_: Settings) -> ScriptedModel:
        return model

    program = asyncio.create_task(app.run(load_settings(None), told.put_nowait, open_model=open_model, stop=stop))
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while "whiteboard office" not in await told.get():
            pass
    try:
        yield
    finally:
        stop.set()
        await program


async def test_a_mention_with_a_picture_is_answered_in_its_place_and_goes_on_without_one(whiteboard: Any) -> None:
    model, ann = ScriptedModel(), Person(whiteboard.WHITEBOARDS["office"])
    async with running(model):
        ann.writes("Nothing for a bot.")
        top = ann.writes("@threadsight what is this?", picture=png())
        await ann.waits(lambda: ann.sees(top) == ["Answer to: what is this?"])
        ann.writes("And its colour?", under=top)
        await ann.waits(lambda: len(ann.sees(top)) == 2 and ann.sees(top)[1] == "Answer to: And its colour?")
    assert [questions(request) for request in model.requests] == [["what is this?"], ["what is this?", "And its colour?"]]
    assert [len(request.messages[0].images) for request in model.requests] == [1, 1]


async def test_stop_stops(whiteboard: Any) -> None:
    model, ann = ScriptedModel(), Person(whiteboard.WHITEBOARDS["office"])
    model.gate = asyncio.Event()  # which stays closed: the answer ends at "Answer" unless it is stopped
    async with running(model):
        top = ann.writes("@threadsight what is this?", picture=png())
        await ann.presses("stop", top)
        await ann.waits(lambda: ann.sees(top) == ["Answer\n(stopped)"])
    assert model.streams[0].is_cancelled


async def test_an_edited_question_is_asked_again_and_a_deleted_one_disappears(whiteboard: Any) -> None:
    model, ann = ScriptedModel(), Person(whiteboard.WHITEBOARDS["office"])
    async with running(model):
        top = ann.writes("@threadsight what is this?", picture=png())
        await ann.waits(lambda: ann.sees(top) == ["Answer to: what is this?"])
        ann.board.change(top, "@threadsight what was this?")
        await ann.waits(lambda: ann.sees(top) == ["Answer to: what was this?"])
        ann.board.erase(top)
        await ann.waits(lambda: ann.sees(top) == [])


async def test_what_was_missed_is_answered_after_a_restart_once(whiteboard: Any) -> None:
    model, ann = ScriptedModel(), Person(whiteboard.WHITEBOARDS["office"])
    async with running(model):
        top = ann.writes("@threadsight what is this?", picture=png())
        await ann.waits(lambda: ann.sees(top) == ["Answer to: what is this?"])
    assert len(ann.board.watchers) == 1  # only ann is left
    ann.writes("And its colour?", under=top)
    other = ann.writes("@threadsight and this?", picture=png("blue"))
    async with running(model):
        await ann.waits(lambda: len(ann.sees(top)) == 2 and ann.sees(other) == ["Answer to: and this?"])
        await ann.waits(lambda: ann.sees(top) == ["Answer to: what is this?", "Answer to: And its colour?"])
    assert len(model.requests) == 3


async def test_its_words_are_carried_out(whiteboard: Any) -> None:
    model, ann = ScriptedModel(), Person(whiteboard.WHITEBOARDS["office"])
    async with running(model):
        top = ann.writes("@threadsight what is this?", picture=png())
        await ann.waits(lambda: ann.sees(top) == ["Answer to: what is this?"])
        for word in ("!quota", "!help", "!reset"):
            ann.writes(word, under=top)
        ann.writes("@threadsight and this?", under=top)  # behind them in their conversation
        await ann.waits(lambda: len(ann.sees(top)) == 2)
    quota, help_, reset = (sentence for person, sentence in ann.board.whispers if person == "ann")
    assert quota.startswith("You have asked 1 question in")
    assert help_.splitlines()[0].startswith("• `!reset`: ")
    assert reset.startswith("I have forgotten this chat.")


async def test_who_may_not_use_it_can_neither_ask_nor_press(whiteboard: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}WHITEBOARD_DENY", "user:bob")
    model, board = ScriptedModel(), whiteboard.WHITEBOARDS["office"]
    ann = Person(board)
    async with running(model):
        top = ann.writes("@threadsight what is this?", picture=png())
        await ann.waits(lambda: ann.sees(top) == ["Answer to: what is this?"])
        board.write("hall", "bob", "@threadsight and its colour?", top)
        [reply] = [note for note in board.notes.values() if note.author == "threadsight"]
        board.press(reply.id, "bob", reply.buttons[-1])
        ann.writes("And its size?", under=top)  # behind bob's in their conversation
        await ann.waits(lambda: ann.sees(top)[1:] == ["Answer to: And its size?"])
    assert board.whispers == [("bob", whiteboard.NOT_ALLOWED)]
    assert len(model.requests) == 2


async def test_its_surface_raises_what_a_surface_may_raise(whiteboard: Any) -> None:
    board = whiteboard.WHITEBOARDS["office"]
    page, surface = whiteboard.Page("Red."), whiteboard.WhiteboardSurface(board, "hall", "n0")
    reply_id = await surface.post(page)
    board.is_reachable = False
    for attempt in (surface.post(page), surface.edit(reply_id, page)):
        with pytest.raises(whiteboard.TryLater):
            await attempt
    board.is_reachable = True
    await surface.delete(reply_id)
    await surface.delete(reply_id)  # does nothing
    with pytest.raises(whiteboard.DestinationGone):
        await surface.edit(reply_id, page)
    board.rooms.clear()
    with pytest.raises(whiteboard.DestinationGone):
        await surface.post(page)


async def test_its_description_is_all_that_the_program_needs(whiteboard: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {finding.what: finding async for finding in examine(load_settings(None))}
    assert found["Whiteboard"].is_good
    monkeypatch.setenv(f"{PREFIX}WHITEBOARD_BOARD", "nowhere")
    with pytest.raises(Exception, match="no whiteboard called 'nowhere'"):
        await app.run(load_settings(None), print)


@pytest.mark.usefixtures("whiteboard")
def test_the_page_names_the_settings_that_the_platform_has() -> None:
    named = set(re.findall(rf"{PREFIX}WHITEBOARD_[A-Z_]+", PAGE))
    assert f"{PREFIX}WHITEBOARD_BOARD" in named
    assert named <= {variable.name for variable in variables()}


def test_its_code_has_the_types_that_it_says_and_our_style(tmp_path: Path) -> None:
    file = tmp_path / "whiteboard_platform.py"
    file.write_text(CODE, "utf-8")
    config = str(ROOT / "pyproject.toml")
    for command in (
        ["mypy", "--config-file", config],
        ["ruff", "check", "--no-cache", "--config", config, "--ignore", "D"],  # the page's prose describes it
        ["ruff", "format", "--check", "--no-cache", "--config", config],
    ):
        result = subprocess.run(
            [sys.executable, "-m", *command, str(file)], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
        )
        assert result.returncode == 0, result.stdout + result.stderr
