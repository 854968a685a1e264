"""`python -m tests.loopbacks.discord`: a loopback Discord to try the bot by hand."""

from __future__ import annotations

import sys

from tests.loopbacks.command import main
from tests.loopbacks.discord.view import open_to_people

sys.exit(main("discord", open_to_people))
