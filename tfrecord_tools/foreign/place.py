"""A TFRecord file or a directory of such files, on this machine or in a bucket."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tfrecord_tools.base import files
from tfrecord_tools.foreign import tfrecord_files
from tfrecord_tools.foreign.tfrecord_files import Group


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """TFRecord files and their directory.

    Attributes:
        title: The path or the URL, for messages.
        groups: The TFRecord files.
        is_directory: Whether `title` is the directory, and not a file in it.
        directory: Path of the directory. For a URL, the path that a copy would have in the working directory.
        names: Names of all files in the directory.
        read: Returns the content of a small file in the directory.
        is_remote: Whether the files are in a bucket.
    """

    title: str
    groups: Sequence[Group[Any]]
    is_directory: bool
    directory: Path
    names: Sequence[str]
    read: Callable[[str], bytes]
    is_remote: bool = False


def find(path: str, on_damage: Callable[[str], object]) -> Place:
    """Find TFRecord files.

    Args:
        path: A file, a directory, or the URL of one.
        on_damage: As in `tfrecord_files.find`.

    Raises:
        UserError: There are no TFRecords, or a bucket cannot be read.
    """
    return _in_bucket(path.rstrip("/"), on_damage) if files.is_url(path) else _on_this_machine(Path(path), on_damage)


def _on_this_machine(path: Path, on_damage: Callable[[str], object]) -> Place:
    groups = tfrecord_files.find(path, on_damage)
    directory = path if path.is_dir() else path.parent
    return Place(
        title=str(path),
        groups=groups,
        is_directory=path.is_dir(),
        directory=directory,
        names=os.listdir(directory),
        read=lambda name: (directory / name).read_bytes(),
    )


def _in_bucket(url: str, on_damage: Callable[[str], object]) -> Place:
    from tfrecord_tools.foreign import bucket_files  # Imported here, because files on this machine do not need it.

    listed, is_directory = bucket_files.listed(url)
    groups = bucket_files.find(url, listed, on_damage)
    directory = url if is_directory else url.rpartition("/")[0]
    beside = {file.name: file for file in listed if file.parent == directory}
    return Place(
        title=url,
        groups=groups,
        is_directory=is_directory,
        directory=Path(url.rpartition("/")[2]) if is_directory else Path(),
        names=list(beside),
        read=lambda name: beside[name].content(),
        is_remote=True,
    )
