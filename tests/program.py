"""How a test starts the program: as its users do, in a process of its own, with nothing but the given settings."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROGRAM = (sys.executable, "-m", "bot")


def environment(folder: Path, **settings: str) -> dict[str, str]:
    """The program's data lie in `folder`; `settings` are further variables of the environment."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("THREADSIGHT_")},
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "THREADSIGHT_DATA_DIR": str(folder / "data"),
        "THREADSIGHT_WEB_PORT": "0",
        **settings,
    }
