"""The bot's commands: one table, from which every platform makes its commands and its help.

A command does the same on every platform, and the dispatcher carries it out (`reset`, `quota`, `forget`). A command that deletes
something for good has a confirmation; a reset has none, because it only restarts one chat, visibly for everybody there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum


class CommandName(StrEnum):
    """The commands of every platform, as people write them."""

    ASK = "ask"
    RESET = "reset"
    QUOTA = "quota"
    FORGET = "forget"
    HELP = "help"


@dataclass(frozen=True, slots=True)
class Confirmation:
    """A question that only the person sees; nothing happens before that person presses the button."""

    question: str
    button: str


@dataclass(frozen=True, slots=True)
class Command:
    """`description` is one line, of at most 100 characters (Discord's limit).

    `is_about_chat`: it applies to the chat where it is given. `has_form`: it needs more than its name, such as a picture.
    """

    name: CommandName
    description: str
    is_about_chat: bool = False
    has_form: bool = False
    confirmation: Confirmation | None = None


COMMANDS = (
    Command(CommandName.ASK, "Ask about a picture", has_form=True),
    Command(CommandName.RESET, "Forget the chat in this thread or direct message", is_about_chat=True),
    Command(CommandName.QUOTA, "See how much you have asked, and what is left"),
    Command(
        CommandName.FORGET,
        "Delete everything that I have stored about you",
        confirmation=Confirmation(
            "I would delete all that I have stored about you, here and wherever else you have asked me on this platform: your "
            "questions with their pictures and answers. The messages stay; they are yours to delete.",
            "Delete all of it",
        ),
    ),
    Command(CommandName.HELP, "What I can do"),
)
CONFIRMED = tuple(command for command in COMMANDS if command.confirmation is not None)


def help_lines(commands: Iterable[Command], forms_of: Callable[[Command], Sequence[str]]) -> str:
    """One line of help for each command. `forms_of` returns what people can type for it."""
    return "\n".join(f"• {' or '.join(f'`{form}`' for form in forms_of(command))}: {command.description}" for command in commands)
