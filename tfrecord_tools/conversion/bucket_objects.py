"""The objects of a dataset that a conversion writes into a bucket.

Each object is created under the condition that it does not exist. An object that exists is compared, and never replaced
or deleted. So two conversions into one place cannot harm each other, and readers never see an object change.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Iterator
from pathlib import Path

from tfrecord_tools.base import files
from tfrecord_tools.errors import UserError
from tfrecord_tools.remote import store as stores
from tfrecord_tools.remote.interface import Attempts, Exists, Missing, Object, Patience, Store

PATIENCE = Patience()
LARGEST = 5 * 10**9  # Bytes of an object that S3 creates with one request. Only such a request can have a condition.
_RANGE = 16 << 20  # Bytes of an object that are in memory at once.
Read = Callable[[int, int], memoryview]  # (start, end) -> the bytes of an object.


@dataclasses.dataclass(frozen=True)
class BucketObjects:
    """The objects below a URL. It can be pickled, for workers.

    Attributes:
        url: For example `s3://bucket/pets`.
    """

    url: str

    @property
    def store(self) -> Store:
        return stores.open_store(self.url, PATIENCE)

    def find(self, name: str) -> Object | None:
        """Return size and version of an object; None if it does not exist."""
        try:
            return self.store.head(name)
        except Missing:
            return None

    def put(self, name: str, data: bytes | Path) -> Object:
        """Create an object. If it exists with the same bytes, it is not written again.

        Raises:
            UserError: The object exists with other bytes.
        """
        return self.create(name, lambda: self.store.put(name, data, create=True), lambda found: self._has(found, data))

    def create(self, name: str, write: Callable[[], object], is_ours: Callable[[Object], bool]) -> Object:
        """Create an object by a function that fails if the object exists. Then compare the existing object.

        An existing object has the right bytes if the answer of an earlier attempt was lost, if another machine began
        this conversion, or if another conversion writes the same dataset.

        Args:
            name: Name of the object.
            write: Function that creates the object, or raises `Exists`. It may return the object.
            is_ours: Function that returns whether an existing object has the right bytes.

        Raises:
            UserError: The object exists with other bytes.
        """
        attempts = Attempts(PATIENCE)
        while True:
            try:
                written = write()
                return written if isinstance(written, Object) else self.store.head(name)
            except Exists:
                found = self.find(name)
                if found is not None:
                    return self.checked(found, is_ours)
                if attempts.are_over:
                    raise
            attempts.wait()  # Another request creates the object just now, or somebody has deleted it.

    def checked(self, found: Object, is_ours: Callable[[Object], bool]) -> Object:
        """Return an object that exists.

        Raises:
            UserError: The object has other bytes than this conversion writes.
        """
        if is_ours(found):
            return found
        raise UserError(
            f"{self.url}/{found.path}: exists already, with other content than this conversion writes. Another"
            " conversion writes or wrote there. Nothing there was changed. Choose another --out, or delete all objects"
            f" below {self.url} if nobody needs them."
        )

    def copy_from(self, url: str, name: str) -> bool:
        """Create an object as a copy of another one in the same store. The bytes do not come to this machine.

        Returns:
            False: the other object is in another store. Nothing was done.

        Raises:
            Exists: The object exists.
        """
        directory, _, other = url.rpartition("/")
        common = stores.open_common(directory, self.url, PATIENCE)
        if common is None:
            return False
        store, source, destination = common
        store.copy(f"{source}/{other}".lstrip("/"), f"{destination}/{name}".lstrip("/"), True)
        return True

    def reader(self, found: Object) -> Read:
        """Return a function that reads parts of this version of an object."""
        store = self.store
        return lambda start, end: store.get(found.path, start, end, found.tag)

    def _has(self, found: Object, data: bytes | Path) -> bool:
        if found.size != (data.stat().st_size if isinstance(data, Path) else len(data)):
            return False
        read, start = self.reader(found), 0
        for part in _parts(data):
            if read(start, start + len(part)) != part:
                return False
            start += len(part)
        return True


def _parts(data: bytes | Path) -> Iterator[bytes]:
    with io.BytesIO(data) if isinstance(data, bytes) else open(data, "rb") as file:
        yield from iter(lambda: file.read(_RANGE), b"")


def fetch(url: str, path: Path) -> None:
    """Copy an object to a file, which appears when it is complete.

    Raises:
        UserError: The object does not exist, cannot be read, or is replaced during the copy.
    """
    directory, _, name = url.rpartition("/")
    objects = BucketObjects(directory)
    found = objects.store.head(name)
    read = objects.reader(found)
    with files.atomic(path) as file:
        for start in range(0, found.size, _RANGE):
            file.write(read(start, min(start + _RANGE, found.size)))
