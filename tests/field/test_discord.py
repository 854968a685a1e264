"""What Discord sends and shows: cases from the field. Each has what came, what is right, and why."""

from __future__ import annotations

import pytest

from tests.adapters.discord_world import ME, world
from tests.loopbacks.discord.payloads import user_payload

CODE = "def f(x):\n    if x:\n        return 1\n\n    return 0"
BOB = user_payload(5, "bob")

QUESTIONS = [
    (f"{ME} What?\n```py\n{CODE}\n```", f"What?\n```py\n{CODE}\n```", "a block behind a line"),
    (f"```py\n{CODE}\n``` {ME} why?", f"```py\n{CODE}\n``` why?", "words behind a block"),
    (f"{ME}\n\n    indented\n\tless", "    indented\n\tless", "indented code without a fence"),
    (f"{ME} is `a  b` right?", "is `a  b` right?", "spaces in code in a line"),
    (f"{ME} one  two\n   three", "one  two\n   three", "spaces between words"),
    (f"{ME} `<@5>` is <@5>", "`<@5>` is @bob", "what looks like a mention in code is none"),
    (f"{ME} ```\n<@5> <:wave:7>\n``` <:wave:7>", "```\n<@5> <:wave:7>\n``` :wave:", "nor in a block"),
    (f"{ME} ``a ` <@5>`` <@5>", "``a ` <@5>`` @bob", "nor in code with a backtick"),
    (f"{ME} \\`<@5>\\`", "\\`@bob\\`", "an escaped backtick begins no code"),
    (f"hey  {ME}  look", "hey look", "the mention of us in a line"),
    (f"look {ME}", "look", "the mention of us at the end"),
]


@pytest.mark.parametrize(("written", "right"), [case[:2] for case in QUESTIONS], ids=[case[2] for case in QUESTIONS])
async def test_a_question_is_read_as_it_was_written(written: str, right: str) -> None:
    async with world() as w:
        await w.ask(written, mentions=[BOB])
        await w.answered()
        assert [message.text for message in w.handler.messages] == [right]
