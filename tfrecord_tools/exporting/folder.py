"""Write pictures to folders SPLIT/CLASS, which `convert` reads."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tfrecord_tools.errors import as_flag
from tfrecord_tools.exporting.pictures import SUFFIXES, Counts, Picture
from tfrecord_tools.layout.split_names import split_named
from tfrecord_tools.records import Dataset

_IMAGE_SUFFIXES = {suffix for suffixes in SUFFIXES.values() for suffix in suffixes} | {".tif", ".tiff"}


class Folder:
    """Folders split/class/image, which `convert` reads."""

    def __init__(self, data: Dataset, shard_bytes: int | None):
        self._directories = _distinct([_file_name(name) for name in data.class_names])

    @contextlib.contextmanager
    def writer(self, root: Path) -> Iterator[Callable[[Picture], None]]:
        """Yield a function that writes a picture below `root`."""

        def write(picture: Picture) -> None:
            path = root / picture.split / self._directories[picture.label] / relative(picture)
            stem, number = path.stem, 1
            while path.exists():  # Different sources may have equal names.
                number += 1
                path = path.with_name(f"{stem}-{number}{path.suffix}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture.image)

        yield write

    def count(self, root: Path) -> Counts:
        """Count the written files per split and label."""
        counts = Counts()
        for split in root.iterdir():
            for label, name in enumerate(self._directories):
                count = sum(len(names) for _, _, names in os.walk(split / name))
                counts.update({(split.name, label): count} if count else {})
        return counts

    def notes(self, out: Path) -> Iterator[str]:
        """Yield the command that converts the folders into the same records."""
        names = self._directories
        classes = [] if names == sorted(names) else [as_flag("classes", names)]
        yield " ".join(
            ["to convert them back: python -m tfrecord_tools.convert", shlex.quote(f"--src={out}"), *classes]
        )


def relative(picture: Picture) -> Path:
    """Return the source path without split and class, with the suffix of the stored format."""
    parts = [_file_name(part) for part in picture.path.split("/") if part not in ("", ".", "..")]
    if len(parts) > 1 and split_named(parts[0]) == picture.split:
        parts = parts[1:]
    if len(parts) > 1 and parts[0] == _file_name(picture.class_name):
        parts = parts[1:]
    stem, suffix = os.path.splitext(parts[-1])
    if suffix.lower() not in SUFFIXES[picture.kind]:
        stem = stem if suffix.lower() in _IMAGE_SUFFIXES else parts[-1]
        suffix = picture.suffix
    return Path(*parts[:-1], stem + suffix)


def _file_name(text: str) -> str:
    """Return a text as the name of a file or directory that is not hidden, so that `convert` reads it."""
    name = text.replace("/", "_").replace("\0", "_")
    return f"_{name[1:]}" if name.startswith(".") else name


def _distinct(names: Sequence[str]) -> list[str]:
    """Append a number to names that occur more than once."""
    times, taken, distinct = Counter(names), set(names), list[str]()
    for number, name in enumerate(names):
        if times[name] > 1:
            name = f"{name}-{number}"
            while name in taken:
                name += "-"
            taken.add(name)
        distinct.append(name)
    return distinct
