"""`make corpus`: other people's picture files through the intake, each in a process of its own, beside ImageMagick.

The files are those that packages bring along in their source archives, which pip downloads into .work/corpus. The report says how
many were taken, what was refused and why, what looks different from ImageMagick's picture by more than 4 of 255 (both made small,
on the same ground), the slowest, and the greatest memory. Without ImageMagick (`convert`) nothing is compared. No test: it needs a
network, and half an hour.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing.pool
import re
import resource
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image as PilImage
from PIL import ImageChops, ImageCms, ImageStat

from model_server.decoding.kinds import kind_of
from model_server.errors import ImageError
from model_server.images import read_image, to_pil

FOLDER = Path(".work/corpus")
PACKAGES = ("pillow", "pillow-heif", "scikit-image", "imageio", "wand", "filetype", "imagesize", "piexif", "puremagic", "imagehash")
NO_PICTURES = re.compile(
    r"\.(py|pyx|pyi|pxd|c|h|rst|md|txt|build|in|ini|cfg|toml|sh|np[yz]|typed|ya?ml|inc|ttf|icc|json|po|lut|gpl)$"
)
MOST_DIFFERENT = 4.0  # of 255
GROUNDS = ("white", "black", "gray(128)")
SIDE = 32
TIMEOUT_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Found:
    """What became of one file. `difference` is the mean over the small picture, of 255; None if nothing was compared."""

    name: str
    kind: str
    reason: str
    seconds: float
    memory_bytes: int
    difference: float | None = None


def download(packages: tuple[str, ...]) -> None:
    """The newest source archives, unless they are there."""
    archives = FOLDER / "sdists"
    archives.mkdir(parents=True, exist_ok=True)
    for package in packages:
        names = {path.name.lower().replace("_", "-") for path in archives.iterdir()}
        if not any(name.startswith(f"{package}-") and name[len(package) + 1].isdigit() for name in names):
            print(f"Downloading {package} ...", file=sys.stderr, flush=True)
            command = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "-q",
                "--no-deps",
                "--no-binary",
                package,
                "-d",
                str(archives),
                package,
            ]
            subprocess.run(command, check=False)
    for archive in archives.iterdir():
        target = FOLDER / "files" / archive.name
        if target.exists():
            continue
        if archive.name.endswith(".zip"):
            with zipfile.ZipFile(archive) as zipped:
                zipped.extractall(target)
        elif archive.name.endswith(".tar.gz"):
            with tarfile.open(archive) as tar:
                tar.extractall(target, filter="data")


def look_at(path: Path) -> Found:
    """Read one file in this process, which must be a fresh one: its peak memory is the file's."""
    data = path.read_bytes()
    before, began = _peak_bytes(), time.monotonic()
    reason, difference = "", None
    try:
        image = read_image(data, path.name)
    except ImageError as error:
        reason = error.reason
    seconds, memory = time.monotonic() - began, _peak_bytes() - before
    if not reason and shutil.which("convert"):
        difference = compared(path, to_pil(image))
    return Found(str(path), kind_of(data) or path.suffix, reason, seconds, memory, difference)


def compared(path: Path, ours: PilImage.Image) -> float | None:
    """The mean difference from ImageMagick's picture, on that ground where they are most alike. None if it cannot read the file."""
    profile = FOLDER / "srgb.icc"
    found = []
    small = ours.resize((SIDE, SIDE), PilImage.Resampling.BOX)
    for ground in GROUNDS:
        command = ["convert", f"{path}[0]", "-auto-orient", "-profile", str(profile), "-background", ground, "-alpha", "remove"]
        command += ["-colorspace", "sRGB", "-depth", "8", "ppm:-"]
        done = subprocess.run(command, capture_output=True, check=False, timeout=TIMEOUT_SECONDS)
        try:
            theirs = PilImage.open(io.BytesIO(done.stdout), formats=["PPM"]).convert("RGB")
        except OSError:
            return None
        theirs = theirs.resize((SIDE, SIDE), PilImage.Resampling.BOX)
        found.append(sum(ImageStat.Stat(ImageChops.difference(small, theirs)).mean) / 3)
        if found[-1] <= MOST_DIFFERENT:
            break
    return min(found)


def _peak_bytes() -> int:
    """This process's peak memory, or a finished child's if that was greater. (ru_maxrss alone would begin at the parent's.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    own = int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
    return max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)


def _run(path: Path) -> Found:
    command = [sys.executable, "-m", "tests.field.corpus", "--one", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=TIMEOUT_SECONDS, text=True)
    except subprocess.TimeoutExpired:
        return Found(str(path), path.suffix, "HANGS", TIMEOUT_SECONDS, 0)
    if done.stderr.strip():
        return Found(str(path), path.suffix, f"WRITES ON STANDARD ERROR: {done.stderr.strip()[-200:]}", 0, 0)
    if done.returncode:
        return Found(str(path), path.suffix, f"CRASHES: {done.returncode}", 0, 0)
    return Found(**json.loads(done.stdout))


def report(found: list[Found]) -> None:
    """Print the tables."""
    taken = [one for one in found if not one.reason]
    checked = [one for one in taken if one.difference is not None]
    print(f"{len(found)} files: {len(taken)} taken, {len(found) - len(taken)} refused; {len(checked)} compared with ImageMagick")
    print("\ntaken, by format:", ", ".join(f"{kind} {number}" for kind, number in Counter(one.kind for one in taken).most_common()))
    print("\nrefused:")
    for reason, number in Counter(one.reason for one in found if one.reason).most_common():
        names = [Path(one.name).name for one in found if one.reason == reason]
        print(f"{number:5} {reason}\n        {', '.join(names[:60])}")
    different = sorted(((one.difference or 0, one.name) for one in checked if (one.difference or 0) > MOST_DIFFERENT), reverse=True)
    print(f"\ndifferent by more than {MOST_DIFFERENT:g} of 255: {len(different)}")
    for difference, name in different:
        print(f"{difference:7.1f} {name}")
    print("\nslowest:")
    for one in sorted(found, key=lambda one: -one.seconds)[:8]:
        print(f"{one.seconds:7.2f} s {one.name}")
    print("\nmost memory above the start:")
    for one in sorted(found, key=lambda one: -one.memory_bytes)[:8]:
        print(f"{one.memory_bytes / 1e6:7.0f} MB {one.name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("packages", nargs="*", default=PACKAGES, help="whose source archives to look at")
    arguments: Any = parser.parse_args()
    if arguments.one:
        print(json.dumps(asdict(look_at(arguments.one))))
        return
    download(tuple(arguments.packages))
    (FOLDER / "srgb.icc").write_bytes(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    paths = [path for path in sorted((FOLDER / "files").rglob("*")) if path.is_file() and not path.is_symlink()]
    paths = [path for path in paths if path.suffix and not NO_PICTURES.search(path.name.lower())]
    found = []
    with multiprocessing.pool.ThreadPool(2) as pool:
        for one in pool.imap_unordered(_run, paths):
            found.append(one)
            print(f"\r{len(found)} of {len(paths)}", end="", file=sys.stderr, flush=True)
    report(found)


if __name__ == "__main__":
    main()
