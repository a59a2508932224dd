"""The machine and the versions, in one line."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import tfrecord_tools

_OWN = ("tensorflow", "keras", "numpy", "simplejpeg", "pillow")


def processor() -> str:
    """Return the name of the processor."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def description(versions: Mapping[str, str]) -> str:
    """Return one line: processor, cores, system, versions of this package, its libraries, and the peers.

    Args:
        versions: Title of a peer -> its version.
    """
    own = ", ".join(f"{name} {metadata.version(name)}" for name in _OWN)
    peers = "; ".join(f"{title} {version}" for title, version in versions.items())
    return (
        f"Machine: {processor()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}."
        f" Versions: this package {tfrecord_tools.__version__}, Python {platform.python_version()}, {own}"
        f"{f'; {peers}' if peers else ''}."
    )


def load() -> str:
    """Return the mean number of running processes in the last minute."""
    return f"{os.getloadavg()[0]:.1f}"
