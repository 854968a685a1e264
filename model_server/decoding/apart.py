"""Decodes in a process of its own, whose memory the system bounds.

The header of a TIFF, an AVIF or a HEIC does not say how much memory its decoder will take: a tile or a frame inside may be larger
than the picture. (On macOS the system does not hold the bound; there what the header says is checked alone.) What such decoders
print does not reach anybody, and one that crashes takes nothing along.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import warnings

from PIL import AvifImagePlugin
from PIL import Image as PilImage

from model_server.decoding.budget import DECODING
from model_server.decoding.decode import MAX_MEMORY_BYTES, Refused, decode

APART = frozenset({"TIFF", "AVIF", "HEIF"})
_TIMEOUT_SECONDS = 60
_NOT_IN_BOUNDS = "it takes more memory or time than I give to one picture. Please send it smaller, or as JPEG."
_PROGRAM = "import sys; sys.path[:] = {path!r}; from model_server.decoding.apart import main; main({kind!r}, {max_pixels})"


def decode_apart(data: bytes, kind: str, max_pixels: int) -> PilImage.Image:
    """As `decode`, in a process of its own. Blocks for a tenth of a second more, and while others decode."""
    with DECODING.room(MAX_MEMORY_BYTES):  # what it takes is known to nobody
        return _decode_apart(data, kind, max_pixels)


def _decode_apart(data: bytes, kind: str, max_pixels: int) -> PilImage.Image:
    program = _PROGRAM.format(path=sys.path, kind=kind, max_pixels=max_pixels)
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", program],
            input=data,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_TIMEOUT_SECONDS,
            start_new_session=True,  # an interrupt from the keyboard is for us
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Refused(_NOT_IN_BOUNDS) from error
    except OSError as error:  # the machine is out of memory or processes
        raise Refused("it could not be decoded just now. Please try again.") from error
    head, _, pixels = done.stdout.partition(b"\n")
    if done.returncode or not head:
        raise Refused(_NOT_IN_BOUNDS)
    answer = json.loads(head)
    if "reason" in answer:
        raise Refused(answer["reason"])
    del done, head
    return PilImage.frombytes("RGB", tuple(answer["size"]), pixels)


def main(kind: str, max_pixels: int) -> None:
    """The other process: reads a file from standard input, writes a line of JSON, and the pixels as RGB."""
    warnings.simplefilter("ignore")
    AvifImagePlugin.DEFAULT_MAX_THREADS = 2
    data = sys.stdin.buffer.read()
    _bound_memory()
    try:
        rgb = decode(data, kind, max_pixels)
    except Refused as refused:
        sys.stdout.write(json.dumps({"reason": str(refused)}) + "\n")
        return
    sys.stdout.write(json.dumps({"size": rgb.size}) + "\n")
    sys.stdout.flush()
    sys.stdout.buffer.write(rgb.tobytes())


def _bound_memory() -> None:
    """What is there already, and `MAX_MEMORY_BYTES` more: of memory that is written to (Linux, RLIMIT_DATA)."""
    resource.setrlimit(resource.RLIMIT_CPU, (_TIMEOUT_SECONDS, _TIMEOUT_SECONDS))
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            num_pages = int(file.read().split()[5])
    except OSError:
        return
    limit = num_pages * os.sysconf("SC_PAGE_SIZE") + MAX_MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
