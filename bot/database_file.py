"""The file of an SQLite database: private to its owner, never made by accident, and noticed when it is not the same any more."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from pathlib import Path
from typing import IO
from urllib.parse import quote

from sqlalchemy import URL

_BESIDE = ("", "-wal", "-shm", "-journal")  # what SQLite keeps, with the mode of the database itself where it makes it anew


def sqlite_path(url: URL) -> Path | None:
    """The absolute path of an SQLite database. None for one in memory, one named by a URI, and PostgreSQL."""
    if not url.drivername.startswith("sqlite") or url.database in (None, "", ":memory:") or str(url.database).startswith("file:"):
        return None
    return Path(str(url.database)).absolute()


def opened_as(url: URL, path: Path, mode: str) -> URL:
    """The URL that opens the file `path` with `mode` (rw or ro), and makes no new one: a database that was deleted would come back
    empty."""
    return url.set(database=f"file:{quote(str(path))}", query={**url.query, "mode": mode, "uri": "true"})


def make_private_file(path: Path) -> None:
    """Make the database's file if there is none, with its folder, and let only its owner read and write it. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    for name in _BESIDE:
        beside = path.with_name(path.name + name)
        if beside.is_file():
            make_private(beside, 0o600)


def make_private(path: Path, mode: int) -> bool:
    """Take away the rights of others than the owner. Returns whether they have none now: not if somebody else owns the file, nor
    for a folder that is meant for everybody, such as /tmp. Raises FileNotFoundError."""
    now = stat.S_IMODE(path.stat().st_mode)
    if now == mode:
        return True
    if now & stat.S_ISVTX or path.parent == path:
        return False
    try:
        path.chmod(mode)
    except FileNotFoundError:
        raise
    except OSError:
        return False
    return True


def identity(path: Path) -> tuple[int, int] | None:
    """What tells the file from one that is put in its place: device and inode. None if there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def lock(data_dir: Path) -> IO[bytes] | None:
    """Lock the data folder until the returned file is closed, or the process ends. None if another program has it.

    Raises OSError.
    """
    file = (data_dir / "lock").open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


def is_in_use(data_dir: Path) -> bool:
    """Whether a program runs over this data folder. Changes nothing."""
    try:
        with (data_dir / "lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
