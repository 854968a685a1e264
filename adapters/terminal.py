"""The terminal: a chat about a picture.

Rules: text from the model, a file name or an error is printed without control characters, so that it cannot control the terminal.
For a single question, the answer goes to standard output and everything else to standard error. Ctrl-C stops the answer that is
being written, and ends the program only at the prompt.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import sys
import threading
import unicodedata
import uuid
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TextIO, assert_never

from prompt_toolkit import PromptSession
from prompt_toolkit.formatted_text import HTML
from rich.console import Console
from rich.text import Text

from adapters.base import (
    Answer,
    AnswerStatus,
    AnswerText,
    Attachment,
    AttachmentError,
    Author,
    ChatHandler,
    Ended,
    IncomingMessage,
    Notice,
    ThreadKey,
    Waiting,
)
from adapters.sizes import check_size
from adapters.text.phrases import waiting_sentence

HELP = """\
Type a question and press Enter.
  /new PATH   look at another picture
  /again      answer the last question again
  /help       show this
  /quit       leave (Ctrl-D does too)
Ctrl-C stops the answer that is being written."""

ReadLine = Callable[[], Awaitable[str]]
"""Waits for one line. Raises EOFError or KeyboardInterrupt when the person leaves."""


class TerminalAdapter:
    """A chat until the person leaves. `image` is a path or an http(s) link, as for `ask_once`."""

    name = "terminal"

    def __init__(self, image: str, *, console: Console | None = None, read_line: ReadLine | None = None) -> None:
        self._image: str | None = image  # sent with the next question
        self._console = console or Console(highlight=False)
        self._read_line = read_line or (_prompt() if sys.stdin.isatty() else _read_stdin)
        self._key = _new_key()
        self._is_in_line = False  # whether the last thing printed was a piece of an answer

    async def run(self, handler: ChatHandler) -> None:
        """Ask and answer until the person leaves."""
        self._say(f"Ask me about {self._image}. /help shows what else you can type.", "dim")
        while True:
            try:
                line = (await self._read_line()).strip()
            except (EOFError, KeyboardInterrupt):
                return
            command, _, rest = line.partition(" ")
            match command:
                case "/quit" | "/exit":
                    return
                case "/help":
                    self._say(HELP)
                case "/new":
                    self._look_at(rest.strip().strip("'\""))
                case "/again":
                    answer = await handler.regenerate(self._key)
                    if answer is None:
                        self._say("There is no question to answer again yet.", "yellow")
                    else:
                        await self._show(answer)
                case _ if command.startswith("/") and command[1:].isalpha():
                    self._say(f"I do not know {command}. /help shows what you can type.", "yellow")
                case "" if self._image is None:
                    pass
                case _:
                    image, self._image = self._image, None
                    await self._show(await handler.handle(_message(self._key, line, image)))

    def _look_at(self, image: str) -> None:
        problem = image_problem(image) if image else "Which picture? Type /new and its path."
        if problem is None:
            self._image, self._key = image, _new_key()
            self._say(f"Now ask me about {image}.", "dim")
        else:
            self._say(problem, "yellow")

    async def _show(self, answer: Answer) -> None:
        with _on_ctrl_c(answer.stop), self._console.status("Looking …") as status:
            async for event in answer.events():
                match event:
                    case Waiting():
                        status.update(waiting_sentence(event))
                    case Notice():
                        self._say(event.text, "dim")
                    case AnswerText():
                        status.stop()
                        self._console.print(Text(printable(event.text)), end="", soft_wrap=True)
                        self._is_in_line = True
                    case Ended():
                        status.stop()
                        self._say_end(event)
                    case _ as never:
                        assert_never(never)

    def _say_end(self, ended: Ended) -> None:
        match ended.status:
            case AnswerStatus.COMPLETE:
                self._end_line()
            case AnswerStatus.STOPPED:
                self._say("(stopped)", "dim")
            case AnswerStatus.FAILED | AnswerStatus.PENDING:
                self._say(ended.error or "There is no answer yet.", "yellow")
            case _ as never:
                assert_never(never)

    def _end_line(self) -> None:
        if self._is_in_line:
            self._console.print()
        self._is_in_line = False

    def _say(self, text: str, style: str = "") -> None:
        self._end_line()
        self._console.print(Text(printable(text), style=style), soft_wrap=True)


async def ask_once(handler: ChatHandler, image: str, question: str, out: TextIO, err: TextIO) -> bool:
    """Ask one question. Prints only the answer on `out`, notices and errors on `err`. Returns whether the answer is complete."""
    answer = await handler.handle(_message(_new_key(), question, image))
    ended: Ended | None = None
    remarks: list[str] = []  # printed at the end, so that they are not in the middle of the answer when both go to one screen
    has_text = False
    with _on_ctrl_c(answer.stop):
        async for event in answer.events():
            match event:
                case Waiting():
                    pass
                case Notice():
                    remarks.append(event.text)
                case AnswerText():
                    has_text = True
                    print(printable(event.text), end="", file=out, flush=True)
                case Ended():
                    ended = event
                case _ as never:
                    assert_never(never)
    if has_text:
        print(file=out, flush=True)
    is_complete = ended is not None and ended.status is AnswerStatus.COMPLETE
    if ended is not None and not is_complete:
        remarks.append(ended.error or ("Stopped." if ended.status is AnswerStatus.STOPPED else "There is no answer yet."))
    for remark in remarks:
        print(printable(remark), file=err, flush=True)
    return is_complete


def image_problem(image: str) -> str | None:
    """Why a path cannot be a picture, as a sentence; None if it may be one, or is a link."""
    if is_link(image):
        return None
    if not image.strip():
        return "Which picture? Please name its file or its http(s) link."
    try:
        path = Path(image).expanduser()
        if path.is_dir():
            return f"{printable(image)} is a folder, not a picture."
        if path.exists():
            return None
        is_other_link = re.match(r"[a-z][a-z0-9+.-]*://", image.lower()) is not None
        advice = " Of links I follow those with http:// or https:// only." if is_other_link else ""
        return f"There is no file {printable(image)}.{advice}"
    except (OSError, ValueError, RuntimeError):
        return f"{printable(image)} is not a path that I can read."


def is_link(image: str) -> bool:
    """Whether a picture is named by an http(s) link instead of a path."""
    return image.lower().startswith(("http://", "https://"))


def printable(text: str) -> str:
    """Make text safe for a terminal: no control, direction-changing or unassigned characters except line breaks and tabs. The two
    joiners stay: emoji are made with one, and Persian words with the other."""
    return "".join(c for c in text if c in "\n\t\u200c\u200d" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn"))


def _new_key() -> ThreadKey:
    return ThreadKey("terminal", "local", "terminal", uuid.uuid4().hex)


def _message(key: ThreadKey, question: str, image: str | None) -> IncomingMessage:
    attachments: tuple[Attachment, ...] = ()
    if image is not None and is_link(image):
        question = f"{question} <{image}>"  # so that it is taken as it is
    elif image is not None:
        path = Path(image).expanduser()
        attachments = (Attachment(path.name, lambda max_bytes: asyncio.to_thread(_read_file, path, max_bytes)),)
    return IncomingMessage(key, uuid.uuid4().hex, Author("local", "you"), question, attachments)


def _read_file(path: Path, max_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except FileNotFoundError:
        raise AttachmentError("there is no such file") from None
    except PermissionError:
        raise AttachmentError("I may not read it") from None
    except OSError as error:
        raise AttachmentError(f"it cannot be read ({error.strerror})") from None
    check_size(len(data), max_bytes, is_all=False)
    return data


def _prompt() -> ReadLine:
    session: PromptSession[str] = PromptSession(HTML("<ansicyan>› </ansicyan>"))
    return session.prompt_async


async def _read_stdin() -> str:
    """Read a line of an input that is no terminal. The program can end meanwhile: a thread of asyncio's own, or one that holds the
    lock of `sys.stdin`, would not let it as long as the input stays open."""
    loop = asyncio.get_running_loop()
    line: asyncio.Future[bytes] = loop.create_future()

    def take(data: bytes) -> None:
        if not line.done():
            line.set_result(data)

    def read() -> None:
        with open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as unbuffered:
            data = unbuffered.readline()
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(take, data)

    threading.Thread(target=read, daemon=True).start()
    if not (data := await line):
        raise EOFError
    return data.decode(sys.stdin.encoding, "replace")


@contextlib.contextmanager
def _on_ctrl_c(stop: Callable[[], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    earlier = signal.getsignal(signal.SIGINT)
    try:
        loop.add_signal_handler(signal.SIGINT, stop)
    except (NotImplementedError, RuntimeError, ValueError):  # not the main thread, or a system without signal handlers
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, earlier)
