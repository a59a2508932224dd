"""The cost of each hot path: instructions, or the time divided by that of a fixed computation."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np

from benchmarks.hot_paths import MARK, HotPath, hot_paths
from benchmarks.side_by_side import machine
from tfrecord_tools.errors import UserError

_PACKAGES = ("numpy", "pillow", "pyarrow", "simplejpeg", "google-crc32c", "cykooz.resizer")
_ROUNDS = 60
_TOTALS = re.compile(r"^totals: (\d+)", re.MULTILINE)


def instructions(directory: Path) -> dict[str, float]:
    """Return the instructions per call of each hot path.

    Callgrind counts them. The same code gives the same number to about 0.1 %.

    Raises:
        UserError: Callgrind failed.
    """
    out = directory / "callgrind"
    words = ["valgrind", "--tool=callgrind", f"--dump-before={MARK}", f"--callgrind-out-file={out}"]
    words += [sys.executable, "-m", "benchmarks.hot_paths", str(directory)]
    environment = {**os.environ, "PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"valgrind failed with exit code {done.returncode}: {done.stderr[-500:]}")
    paths = hot_paths(directory)
    dumps = sorted(directory.glob("callgrind.*"), key=lambda path: int(path.suffix[1:]))
    return per_call(paths, [dump.read_text() for dump in dumps])


def per_call(paths: Sequence[HotPath], dumps: Sequence[str]) -> dict[str, float]:
    """Return the instructions per call of each hot path.

    Args:
        paths: The hot paths, in the order in which they were run.
        dumps: The files that Callgrind wrote. Dump 2 i + 1, counted from 0, has the instructions of path i.

    Raises:
        UserError: The number of dumps is wrong, because something else called the marking function.
    """
    if len(dumps) != 2 * len(paths):
        raise UserError(f"{MARK} was called {len(dumps)} times, not {2 * len(paths)} times. Nothing else may call it.")
    totals = [int(_TOTALS.findall(dump)[-1]) for dump in dumps[1::2]]
    return {path.name: total / path.calls for path, total in zip(paths, totals)}


def times(directory: Path, rounds: int = _ROUNDS) -> dict[str, float]:
    """Return the time per call of each hot path, divided by the time of `yardstick`.

    Both are the shortest of many rounds, in which all of them take turns.
    """
    runs: dict[str, Callable[[], object]] = {"": yardstick}
    paths = hot_paths(directory)
    runs |= {path.name: path.run for path in paths}
    shortest = dict.fromkeys(runs, float("inf"))
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            shortest[name] = min(shortest[name], time.perf_counter() - start)
    return {path.name: shortest[path.name] / path.calls / shortest[""] for path in paths}


def yardstick() -> int:
    """Compute something that never changes: about 10 ms of zlib, NumPy and Python."""
    numbers = np.arange(100_000, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    data = np.sort(numbers >> np.uint64(40)).tobytes()
    return len(zlib.compress(data[:100_000], 6)) + sum(range(50_000))


def has_callgrind() -> bool:
    return shutil.which("valgrind") is not None


def environment(of_time: bool) -> str:
    """Return what the cost depends on, besides the code: versions, and for times the processor."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in _PACKAGES if _is_installed(name))
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{machine.processor() if of_time else platform.machine()}, {python}, {versions}"


def _is_installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True
