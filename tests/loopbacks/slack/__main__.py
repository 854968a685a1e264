"""`python -m tests.loopbacks.slack`: a loopback Slack to try the bot by hand."""

from __future__ import annotations

import sys

from tests.loopbacks.command import main
from tests.loopbacks.slack.view import open_to_people

sys.exit(main("slack", open_to_people))
