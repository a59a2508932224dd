"""Functions that the benchmarks share: they create images and measure processes."""

from __future__ import annotations

import dataclasses
import io
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tfrecord_tools.errors import UserError

CONVERT = (sys.executable, "-m", "tfrecord_tools.convert")
TO_CSV = (sys.executable, "-m", "tfrecord_tools.to_csv")


@dataclasses.dataclass(frozen=True)
class Finished:
    """A finished process: exit code, wall time in seconds and peak resident memory in bytes."""

    exit_code: int
    seconds: float
    peak_bytes: int


def make_images(directory: Path, count: int, size: int = 32, equal: bool = False) -> None:
    """Write `count` JPEGs of `size` x `size` pixels in two class directories.

    The images differ only in a comment segment (JPEG marker COM) with their number, so only one is encoded. If `equal`
    is true, all files have the same number in this segment.
    """
    noise = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG")
    start, rest = buffer.getvalue()[:2], buffer.getvalue()[2:]
    for number in range(count):
        name = ("cats", "dogs")[number % 2]
        # Directories with equal names in both classes could themselves be the classes.
        folder = directory / name / f"{name}-{number // 2000:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        comment = b"\xff\xfe\x00\x0a%08d" % (0 if equal else number)
        (folder / f"{number:08d}.jpg").write_bytes(start + comment + rest)


def copy_photos(photos: Path, directory: Path, times: int) -> int:
    """Copy each image of split/class/image `times` times; return the number of files."""
    count = 0
    for path in sorted(photos.rglob("*.jpg")):
        folder = directory / path.parent.relative_to(photos)
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(times):
            shutil.copy(path, folder / f"{number:02d}_{path.name}")
            count += 1
    return count


def run(command: Sequence[str], quiet: bool = True) -> Finished:
    """Run a command and wait until it ends."""
    start = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL if quiet else None,
        stderr=subprocess.DEVNULL if quiet else None,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return Finished(process.returncode, time.perf_counter() - start, usage.ru_maxrss * 1024)


def raw_options(side: int) -> list[str]:
    """Return the flags of `convert` for raw pixels, u8[side side 3]."""
    return ["--store=raw", f"--resize={side}", "--resize_mode=exact"]


def convert(*options: str) -> None:
    """Run `convert` with these flags.

    Raises:
        UserError: The conversion failed.
    """
    finished = run([*CONVERT, *options])
    if finished.exit_code:
        raise UserError(f"convert {' '.join(options)} failed with exit code {finished.exit_code}")


def output(module: str, *arguments: str) -> str:
    """Run a module as a command; return what it prints.

    Raises:
        UserError: The command failed.
    """
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    words = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise UserError(f"{module} failed: {done.stderr}")
    return done.stdout


def peak_bytes() -> int:
    """Return the peak memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def contents(directory: Path) -> dict[str, bytes]:
    """Return the content of all files below a directory, by relative path."""
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}
