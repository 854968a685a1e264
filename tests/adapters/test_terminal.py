"""The terminal, with lines instead of a keyboard and a text buffer instead of a screen."""

from __future__ import annotations

import asyncio
import io
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from rich.console import Console

from adapters.base import (
    Answer,
    AnswerEvent,
    AnswerStatus,
    AnswerText,
    AttachmentError,
    ChatView,
    Ended,
    IncomingMessage,
    Notice,
    ThreadKey,
    Waiting,
)
from adapters.terminal import TerminalAdapter, _prompt, ask_once, image_problem, printable
from adapters.text.phrases import waiting_sentence

DONE = Ended(AnswerStatus.COMPLETE)


class RecordedAnswer:
    def __init__(self, key: ThreadKey, events: Sequence[AnswerEvent], *, until_stopped: bool = False) -> None:
        self._key, self._events, self._until_stopped = key, events, until_stopped
        self.stopped = asyncio.Event()

    @property
    def key(self) -> ThreadKey:
        return self._key

    @property
    def turn_id(self) -> int | None:
        return 1

    async def events(self) -> AsyncIterator[AnswerEvent]:
        for event in self._events:
            yield event
        if self._until_stopped:
            os.kill(os.getpid(), signal.SIGINT)  # the person presses Ctrl-C in the middle of the answer
            await asyncio.wait_for(self.stopped.wait(), 20)
            yield Ended(AnswerStatus.STOPPED)

    def stop(self) -> None:
        self.stopped.set()


class RecordingHandler:
    """A ChatHandler that answers everything with the same events."""

    def __init__(self, *events: AnswerEvent, until_stopped: bool = False) -> None:
        self.events, self.until_stopped = events, until_stopped
        self.messages: list[IncomingMessage] = []
        self.regenerated: list[ThreadKey] = []

    async def handle(self, message: IncomingMessage) -> Answer:
        self.messages.append(message)
        return RecordedAnswer(message.key, self.events, until_stopped=self.until_stopped)

    async def regenerate(self, key: ThreadKey) -> Answer | None:
        self.regenerated.append(key)
        return RecordedAnswer(key, self.events) if self.messages else None

    def running_answer(self, key: ThreadKey) -> Answer | None:
        return None

    async def list_chats(self, platform: str, workspace: str) -> Sequence[ChatView]:
        return ()

    async def read_chat(self, key: ThreadKey) -> ChatView | None:
        return None

    async def delete_chat(self, key: ThreadKey) -> bool:
        return False

    async def read_image(self, key: ThreadKey, sha256: str) -> tuple[bytes, str] | None:
        return None


def typed(*lines: str) -> Callable[[], Awaitable[str]]:
    left = list(lines)

    async def read_line() -> str:
        if not left:
            raise EOFError
        return left.pop(0)

    return read_line


async def talk(handler: RecordingHandler, image: str, *lines: str) -> str:
    screen = io.StringIO()
    async with asyncio.timeout(20):
        await TerminalAdapter(image, console=Console(file=screen, highlight=False), read_line=typed(*lines)).run(handler)
    return screen.getvalue()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "a picture.png"
    path.write_bytes(b"bytes")
    return path


async def test_the_picture_goes_out_with_the_first_question_only(image: Path) -> None:
    handler = RecordingHandler(Waiting(1, None), Notice("A notice."), AnswerText("It is "), AnswerText("[red]red[/red]."), DONE)
    screen = await talk(handler, str(image), "What is it?", "And now?")
    first, second = handler.messages
    assert (first.text, second.text) == ("What is it?", "And now?")
    assert [item.name for item in first.attachments] == ["a picture.png"]
    assert await first.attachments[0].fetch(100) == b"bytes"
    assert second.attachments == ()
    assert first.key == second.key
    assert screen.count("It is [red]red[/red].\n") == 2  # not taken for markup
    assert "A notice." in screen


async def test_an_empty_line_asks_about_a_new_picture_and_is_nothing_otherwise(image: Path) -> None:
    handler = RecordingHandler(DONE)
    await talk(handler, str(image), "", "", "  ")
    assert [message.text for message in handler.messages] == [""]


async def test_commands(image: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.png"
    other.write_bytes(b"other")
    handler = RecordingHandler(DONE)
    screen = await talk(
        handler,
        str(image),
        "/again",
        "/help",
        "/dance",
        "First?",
        "/again",
        "/new",
        "/new nowhere.png",
        f"/new '{other}'",
        "Second?",
        "/quit",
        "Never?",
    )
    assert [message.text for message in handler.messages] == ["First?", "Second?"]
    assert handler.messages[0].key != handler.messages[1].key
    assert await handler.messages[1].attachments[0].fetch(100) == b"other"
    assert len(handler.regenerated) == 2
    for sentence in (
        "There is no question to answer again yet.",
        "/new PATH",
        "I do not know /dance.",
        "Which picture?",
        "There is no file nowhere.png.",
    ):
        assert sentence in screen


async def test_a_question_may_begin_with_a_path(image: Path) -> None:
    handler = RecordingHandler(DONE)
    await talk(handler, str(image), "/etc/passwd is a file?")
    assert [message.text for message in handler.messages] == ["/etc/passwd is a file?"]


async def test_ctrl_c_stops_the_answer_and_not_the_program(image: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    handler = RecordingHandler(AnswerText("Once upon"), until_stopped=True)
    screen = await talk(handler, str(image), "Tell me!", "Again!")
    assert screen.count("Once upon\n(stopped)\n") == 2
    assert len(handler.messages) == 2
    assert signal.getsignal(signal.SIGINT) is before


async def test_errors_are_shown_as_sentences(image: Path) -> None:
    screen = await talk(RecordingHandler(Ended(AnswerStatus.FAILED, "I could not use it.")), str(image), "?")
    assert "I could not use it.\n" in screen


async def test_a_real_prompt_takes_lines_and_ends_at_ctrl_d() -> None:
    with create_pipe_input() as keyboard, create_app_session(input=keyboard, output=DummyOutput()):
        read_line = _prompt()
        keyboard.send_text("What is it?\r")
        async with asyncio.timeout(20):
            assert await read_line() == "What is it?"
            keyboard.send_text("\x04")
            with pytest.raises(EOFError):
                await read_line()
            keyboard.send_text("\x03")
            with pytest.raises(KeyboardInterrupt):
                await read_line()


# -- one question -----------------------------------------------------------------------------------------------------------


async def test_one_question_prints_only_the_answer(image: Path) -> None:
    out, err = io.StringIO(), io.StringIO()
    handler = RecordingHandler(Waiting(2, 3.0), Notice("A notice."), AnswerText("It is\x1b[2J "), AnswerText("red."), DONE)
    assert await ask_once(handler, str(image), "What?", out, err)
    assert out.getvalue() == "It is[2J red.\n"
    assert err.getvalue() == "A notice.\n"


async def test_one_question_that_fails_says_why_elsewhere(image: Path) -> None:
    out, err = io.StringIO(), io.StringIO()
    assert not await ask_once(RecordingHandler(Ended(AnswerStatus.FAILED, "No.")), str(image), "What?", out, err)
    assert (out.getvalue(), err.getvalue()) == ("", "No.\n")


async def test_a_link_travels_in_the_text() -> None:
    handler = RecordingHandler(DONE)
    await ask_once(handler, "https://example.org/a.png", "What?", io.StringIO(), io.StringIO())
    assert handler.messages[0].text == "What? <https://example.org/a.png>"
    assert handler.messages[0].attachments == ()


# -- paths ------------------------------------------------------------------------------------------------------------------


async def test_files_that_cannot_be_read(image: Path, tmp_path: Path) -> None:
    assert image_problem(str(image)) is None
    assert image_problem("https://example.org/a.png") is None
    assert "is a folder" in str(image_problem(str(tmp_path)))
    assert "There is no file" in str(image_problem(str(tmp_path / "none.png")))
    for other in ("ftp://example.org/a.png", "file:///a.png"):
        assert "http:// or https:// only" in str(image_problem(other))
    assert "Which picture?" in str(image_problem(" "))
    assert "\x1b" not in str(image_problem("\x1b[2Jnone.png"))
    assert "not a path" in str(image_problem("a" * 5_000))
    handler = RecordingHandler(DONE)
    await talk(handler, str(image), "?")
    [file] = handler.messages[0].attachments
    with pytest.raises(AttachmentError, match="more than"):
        await file.fetch(4)
    await asyncio.to_thread(image.unlink)
    with pytest.raises(AttachmentError, match="no such file"):
        await file.fetch(100)


@given(st.text())
def test_nothing_printable_can_steer_a_terminal(text: str) -> None:
    shown = printable(text + "\x1b]0;title\x07\x9b2J\r\u202e")
    assert not any((ord(c) < 32 and c not in "\n\t") or 0x7F <= ord(c) < 0xA0 for c in shown)
    assert "\u202e" not in shown
    assert printable(shown) == shown


def test_waiting_is_told_in_words() -> None:
    assert waiting_sentence(Waiting(1, None)) == "You are next …"
    assert waiting_sentence(Waiting(1, None, is_loading=True)) == "The model was asleep and is being loaded …"
    assert waiting_sentence(Waiting(4, 12.4)) == "You are number 4 in the queue, about 12 seconds …"


@pytest.mark.parametrize("text", ["می\u200cخواهم", "👩\u200d💻", "שלום.", "一枚の絵"])
def test_what_people_write_reaches_the_terminal_whole(text: str) -> None:
    assert printable(text) == text
