"""The table of commands, of which the platforms make theirs."""

from __future__ import annotations

import pytest

from adapters.commands import COMMANDS, CONFIRMED, Command, CommandName, help_lines


def test_every_command_is_in_the_table_once() -> None:
    assert [command.name for command in COMMANDS] == list(CommandName)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_a_description_is_a_line_that_discord_takes(command: Command) -> None:
    assert 1 <= len(command.description) <= 100
    assert "\n" not in command.description


def test_what_deletes_everything_asks_first() -> None:
    assert [command.name for command in CONFIRMED] == [CommandName.FORGET]


def test_help_says_what_is_typed_for_each() -> None:
    ask, reset, *_ = COMMANDS
    assert help_lines([ask, reset], lambda command: [f"/{command.name}", f"!{command.name}"]) == (
        "• `/ask` or `!ask`: Ask about a picture\n• `/reset` or `!reset`: Forget the chat in this thread or direct message"
    )
