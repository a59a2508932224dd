"""Files in a bucket, such as the TFRecords at s3://bucket/pets.

The files are read once, in parts. No copy of them is kept.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import io
from collections.abc import Callable, Sequence
from typing import Any

from tfrecord_tools.errors import UserError
from tfrecord_tools.foreign import tfrecord_files
from tfrecord_tools.foreign.tfrecord_files import Group, RemoteFile
from tfrecord_tools.remote import opening
from tfrecord_tools.remote.interface import SHORT, Denied, Missing, Object, Store
from tfrecord_tools.remote.store import open_store

_HEAD = 4096  # Bytes that are fetched to find out what a file is.
_FIRST, _MOST = 1 << 18, 8 << 20  # Bytes of the first and of later requests.
_REQUESTS = 16  # At once, for the heads of many files.
_EXPECTED = "Pass the URL of a TFRecord file, or of a directory with such files."


class BucketFile:
    """A file in a bucket.

    Attributes:
        name: Name of the file, without its directory.
        parent: URL of the directory of the file.
        size: Size of the file in bytes.
    """

    def __init__(self, store: Store, found: Object):
        self._store, self._found = store, found
        self.size = found.size
        self._url = f"{store.url}/{found.path}"
        self.parent, _, self.name = self._url.rpartition("/")

    def __str__(self) -> str:
        return self._url

    @functools.cached_property
    def head(self) -> memoryview:
        """The first bytes of the file."""
        return self.get(0, min(self.size, _HEAD))

    def get(self, start: int, end: int) -> memoryview:
        """Return the bytes from `start` to `end`. The file must be the version that was listed."""
        return self._store.get(self._found.path, start, end, self._found.tag) if start < end else memoryview(b"")

    def content(self) -> bytes:
        """Return the whole content of a small file."""
        return bytes(self.get(0, self.size))

    def open(self) -> io.RawIOBase:
        """Return a stream of the content. One part of at most 8 MiB is in memory at once."""
        return _Parts(self)


class _Parts(io.RawIOBase):
    def __init__(self, file: BucketFile):
        self._file = file
        self._part, self._end, self._next = memoryview(b""), 0, _FIRST

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._part:
            self._fetch()
        count = min(len(buffer), len(self._part))
        buffer[:count] = self._part[:count]
        self._part = self._part[count:]
        return count

    def _fetch(self) -> None:
        if not self._end:
            self._part = self._file.head
        else:
            self._part = self._file.get(self._end, min(self._end + self._next, self._file.size))
            self._next = min(4 * self._next, _MOST)
        self._end += len(self._part)


def listed(url: str) -> tuple[list[BucketFile], bool]:
    """Return the files at a URL.

    Args:
        url: URL of a directory or of a file.

    Returns:
        For a directory: its files, also those below it, and True. For a file: all files in its directory, or the file
        alone if the store cannot list, and False.

    Raises:
        UserError: There is nothing at this URL, or the store cannot be read.
    """
    url = url.rstrip("/")
    store, denied = open_store(url, SHORT), None
    for find_all in (opening.list_objects, _of_dataset):
        try:
            if found := find_all(store):
                return _as_files(url, found), True
        except Denied as error:  # A file may be readable although its directory cannot be listed.
            denied = denied or error
    return _beside(url, denied), False


def _of_dataset(store: Store) -> list[Object]:
    """Return the files of a dataset of this package, by the names that its convert.json has."""
    try:
        return list(opening.objects_of(store).values())
    except Missing:
        return []


def _beside(url: str, denied: Denied | None) -> list[BucketFile]:
    """Return the file at a URL and, if the store can list them, the other files in its directory.

    Args:
        url: The URL, without a slash at its end.
        denied: The error of listing the URL as a directory. If there is no file, it is raised.
    """
    directory, _, name = url.rpartition("/")
    if directory.endswith("/"):  # A bucket, or a server.
        raise denied or UserError(f"{url}: no file was found. {_EXPECTED}")
    store = open_store(directory, SHORT)
    try:
        found = store.head(name)
    except Missing as error:
        raise denied or UserError(f"{url}: does not exist. {_EXPECTED}") from error
    with contextlib.suppress(Denied):
        return _as_files(directory, opening.list_objects(store, below=False) or [found])
    return _as_files(directory, [found])


def _as_files(url: str, found: Sequence[Object]) -> list[BucketFile]:
    store = open_store(url, opening.PATIENCE)
    return [BucketFile(store, one) for one in sorted(found, key=lambda one: one.path)]


def find(url: str, files: Sequence[BucketFile], on_damage: Callable[[str], object]) -> list[Group[RemoteFile]]:
    """Find TFRecord files: the file at a URL, or those in the directory at the URL.

    Args:
        url: The URL, without a slash at its end.
        files: The files that `listed` has returned for this URL.
        on_damage: As in `tfrecord_files.find`.

    Raises:
        UserError: There are no TFRecords.
    """
    alone = next((file for file in files if str(file) == url), None)
    if alone is not None:
        return [Group(alone.name, tfrecord_files.compression(alone), [alone])]
    own: list[RemoteFile] = [file for file in files if file.parent == url and not file.name.startswith(".")]
    with concurrent.futures.ThreadPoolExecutor(_REQUESTS) as pool:
        list(pool.map(lambda file: file.head, own))
    groups = tfrecord_files.grouped(own, on_damage)
    if not groups:
        below = [file for file in files if file.parent != url and tfrecord_files.NAMES.search(file.name)]
        raise tfrecord_files.no_file(url, below)
    return groups
