"""The objects of a dataset that a conversion writes into a bucket.

Each object is created under the condition that it does not exist. An object that exists is compared, and never replaced
or deleted. So two conversions into one place cannot harm each other, and readers never see an object change.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import operator
from collections.abc import Callable, Iterator
from pathlib import Path

from tfrecord_tools.errors import UserError
from tfrecord_tools.remote import store as stores
from tfrecord_tools.remote import whole
from tfrecord_tools.remote.interface import RANGE_BYTES, Attempts, Changed, Exists, Missing, Object, Patience, Store

PATIENCE = Patience()
LARGEST = 5 * 10**9  # Bytes of an upload. obstore sends an object with a condition in one request, and S3 limits that.
_READS = 5  # A part that differs is read again, because its bytes may have been damaged on their way.
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

    def read(self, name: str) -> bytes:
        """Return the bytes of a small object, checked as in `whole.fetch`.

        Raises:
            Missing: The object does not exist.
            Changed: The object was replaced while it was read.
        """
        store = self.store
        with io.BytesIO() as file:
            whole.fetch(store, store.head(name), file)
            return file.getvalue()

    def is_beside(self, url: str) -> bool:
        """Return whether the store can copy objects below another URL without sending their bytes here."""
        return stores.open_common(url, self.url, PATIENCE) is not None

    def copy_from(self, url: str, version: Object, name: str) -> bool:
        """Create an object as a copy of another one in the same store. The bytes do not come to this machine.

        Args:
            url: URL of the object to copy.
            version: The version to copy.
            name: Name of the copy.

        Returns:
            False: the other object is in another store. Nothing was done.

        Raises:
            Exists: The object exists.
            Changed: The other object is not, or was not for all of the time, the version to copy.
        """
        directory, _, other = url.rpartition("/")
        common = stores.open_common(directory, self.url, PATIENCE)
        if common is None:
            return False
        store, source, destination = common
        path = f"{source}/{other}".lstrip("/")
        # A copy has no condition on its source. A version that is there before and after the copy is what was copied.
        _check_version(store, path, version, f"Nothing was copied to {self.url}.")
        store.copy(path, f"{destination}/{name}".lstrip("/"), True)
        after = f"{self.url}/{name} may be a copy of the wrong version. Delete this object."
        _check_version(store, path, version, after)
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
            if right_part(read, start, start + len(part), functools.partial(operator.eq, part)) is None:
                return False
            start += len(part)
        return True


def right_part(read: Read, start: int, end: int, check: Callable[[memoryview], bool]) -> memoryview | None:
    """Return a part of an object; None if it has not the right bytes.

    Args:
        read: Function that reads a part.
        start: First byte of the part.
        end: Byte after the last one.
        check: Function that returns whether the bytes are right. They are read again if it returns False.
    """
    return next(filter(check, (read(start, end) for _ in range(_READS))), None)


def _check_version(store: Store, path: str, version: Object, remedy: str) -> None:
    found = store.head(path)
    if (found.size, found.tag) != (version.size, version.tag):
        raise Changed(
            f"{store.url}/{path}: was changed while --update_from read its dataset. {remedy} When the dataset no longer"
            " changes, run the command with --restart."
        )


def _parts(data: bytes | Path) -> Iterator[bytes]:
    with io.BytesIO(data) if isinstance(data, bytes) else open(data, "rb") as file:
        yield from iter(lambda: file.read(RANGE_BYTES), b"")
