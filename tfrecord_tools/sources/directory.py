"""Read images from a directory."""

from __future__ import annotations

import dataclasses
import os
import stat
from array import array

import numpy as np

from tfrecord_tools.base import files
from tfrecord_tools.errors import UserError
from tfrecord_tools.layout.dataset_files import Rejected
from tfrecord_tools.sources.base import (
    MAX_FILE_BYTES,
    NOT_UTF8,
    SPAN,
    Content,
    Listing,
    Store,
    is_litter,
    is_utf8,
    printable,
)


@dataclasses.dataclass(frozen=True)
class Directory:
    """Reads the files below a directory. It is a `Store`: a place from which images are read."""

    root: str

    def read(self, path: str, span: np.void) -> Content:
        descriptor = files.open_descriptor(os.path.join(self.root, path))
        try:
            status = os.fstat(descriptor)
            data = _read(descriptor, min(status.st_size, MAX_FILE_BYTES))
        finally:
            os.close(descriptor)
        return Content(data, status.st_size, status.st_mtime_ns)


def _read(descriptor: int, size: int) -> bytes:
    """Read a file of `size` bytes, and one more byte if the file grew. Usually, one system call is enough."""
    data = os.read(descriptor, size + 1)
    while len(data) < size and (more := os.read(descriptor, size + 1 - len(data))):
        data += more
    return data


def list_directory(root: str, strict: bool) -> Listing:
    """List the files below a directory.

    Args:
        root: The directory.
        strict: If True, a subdirectory that cannot be listed raises a `UserError`. If False, it is rejected.
    """
    columns = _Columns()
    _walk(root, "", frozenset(), columns, strict)
    return columns.listing(Directory(root))


def stat_files(root: str, paths: list[str]) -> Listing:
    """List the given files of a directory without walking through it. Missing files are rejected."""
    columns = _Columns()
    for path in paths:
        try:
            columns.add(path, os.stat(os.path.join(root, path)))
        except OSError as error:
            columns.reject(path, f"listed in the manifest, but not found: {error.strerror}")
        except ValueError as error:
            columns.reject(path, f"listed in the manifest, but not a valid file name: {error}")
    return columns.listing(Directory(root))


class _Columns:
    """Columns that grow during a listing. They are compact, since there may be many millions of rows."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.sizes = array("q")
        self.mtimes_ns = array("q")
        self.rejected: list[Rejected] = []

    def add(self, path: str, status: os.stat_result) -> None:
        if not is_utf8(path):
            self.reject(path, NOT_UTF8)
        elif not stat.S_ISREG(status.st_mode):
            is_directory = stat.S_ISDIR(status.st_mode)
            self.reject(path, "a directory, not a file" if is_directory else "neither a file nor a directory")
        else:
            self.paths.append(path)
            self.sizes.append(status.st_size)
            self.mtimes_ns.append(status.st_mtime_ns)

    def reject(self, path: str, reason: str) -> None:
        self.rejected.append(Rejected(path=printable(path), reason=reason))

    def listing(self, store: Store) -> Listing:
        return Listing(
            store=store,
            paths=self.paths,
            spans=np.broadcast_to(np.zeros(1, SPAN), len(self.paths)),
            sizes=np.array(self.sizes, np.int64),
            mtimes_ns=np.array(self.mtimes_ns, np.int64),
            rejected=self.rejected,
        )


def _walk(root: str, directory: str, ancestors: frozenset[tuple[int, int]], columns: _Columns, strict: bool) -> None:
    """Add the files below `directory` to `columns`, sorted by name."""
    status = os.stat(os.path.join(root, directory))
    identity = status.st_dev, status.st_ino
    if identity in ancestors:
        columns.reject(directory, "a link to a directory that contains this link")
        return
    try:
        children = entries(root, directory)
    except UserError as error:
        if strict or not directory:
            raise
        columns.reject(directory, f"cannot be listed: {getattr(error.__cause__, 'strerror', error)}")
        return
    for entry in children:
        path = f"{directory}/{entry.name}" if directory else entry.name
        try:
            status = entry.stat()
        except OSError as error:  # The link points to itself, or to a file that does not exist.
            columns.reject(path, f"cannot be followed: {error.strerror}")
            continue
        if stat.S_ISDIR(status.st_mode):
            _walk(root, path, ancestors | {identity}, columns, strict)
        else:
            columns.add(path, status)


def entries(root: str, directory: str) -> list[os.DirEntry[str]]:
    """Return the entries of a directory sorted by name, without hidden files and system files."""
    path = os.path.join(root, directory)
    try:
        with os.scandir(path) as children:
            visible = [entry for entry in children if not is_litter(entry.name)]
    except OSError as error:
        raise UserError(
            f"{printable(path)}: the files in this directory cannot be listed: {error.strerror}. Make the directory"
            " readable, or move it out of --src."
        ) from error
    return sorted(visible, key=lambda entry: entry.name)
