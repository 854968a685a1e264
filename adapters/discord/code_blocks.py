"""Code blocks as Discord knows them.

Discord takes three backticks for a fence wherever they are, and no other fence; the language has to be a single word.
"""

from __future__ import annotations

import re

from adapters.text.fences import is_closed_by
from adapters.text.markdown import code_in

_THREE_OR_MORE = re.compile(r"`{3,}")
_LANGUAGE = re.compile(r"[A-Za-z0-9+#._-]*")


def with_code_blocks(page: str) -> str:
    """The page with fences that Discord takes, not longer than before.

    Every third backtick in a row within a code block becomes a similar character, so that they do not end it.
    """
    lines = []
    for line, before, after in code_in(page):
        if before is None and after is not None:
            lead, language = line[: line.index(after.marker)], _LANGUAGE.match(after.info)
            line = f"{lead}```{language[0] if language else ''}\n"
        elif before is not None and after is None and is_closed_by(before, line):
            line = line.replace(before.marker[0] * (line.count(before.marker[0])), "```")
        elif before is not None:
            line = _THREE_OR_MORE.sub(lambda run: ("``\u02cb" * len(run[0]))[: len(run[0])], line)
        lines.append(line)
    return "".join(lines)
