"""Fetch a whole object, and check that its bytes arrived unchanged.

Records have checksums. The index and the other files of a dataset have none, and a wrong byte in the index could be a
wrong label. S3 gives the MD5 sum of most objects as their tag. All other objects are fetched until two copies are
equal.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import IO

from tfrecord_tools.errors import UserError
from tfrecord_tools.remote.interface import RANGE_BYTES, Object, Store

_ATTEMPTS = 5
_MD5 = re.compile(r'"?([0-9a-f]{32})(?:-(\d+))?"?')
_PARTS = tuple(count << 20 for count in (5, 8, 10, 15, 16, 25, 32, 50, 64, 100, 128))  # Sizes in use for uploads.


def fetch(store: Store, found: Object, file: IO[bytes]) -> None:
    """Write the bytes of an object to an empty file.

    Args:
        store: The store.
        found: The version of the object to fetch.
        file: The file. It must be seekable.

    Raises:
        UserError: The object was changed, the store cannot be reached, or the bytes arrive changed each time.
    """
    earlier: set[bytes] = set()
    for _ in range(_ATTEMPTS):
        file.seek(0)
        sums = _Sums(found)
        for start in range(0, found.size, RANGE_BYTES):
            data = store.get(found.path, start, min(found.size, start + RANGE_BYTES), found.tag)
            sums.add(data)
            file.write(data)
        if sums.fit or sums.whole in earlier:
            return
        earlier.add(sums.whole)
    raise UserError(
        f"{store.url}/{found.path}: arrived with different bytes in each of {_ATTEMPTS} attempts. Something between"
        " this machine and the store changes bytes. Check the network and its proxies, and run the same command again."
    )


def is_sum_of(found: Object, data: memoryview) -> bool | None:
    """Return whether a tag is the MD5 sum of bytes, as S3 makes it. None: the tag is not a sum."""
    sums = _Sums(found)
    if not sums.are_known:
        return None
    sums.add(data)
    return sums.fit


class _Sums:
    """MD5 sums of the bytes so far, as S3 would make them from one upload or from parts."""

    def __init__(self, found: Object):
        known = _MD5.fullmatch(found.tag)
        self._wanted: str = known[1] if known else ""
        count: str | None = known[2] if known else None
        sizes = [size for size in _PARTS if count and -(-found.size // size) == int(count)]
        self._parts = [_PartSums(size) for size in sizes]
        self._whole = hashlib.md5(usedforsecurity=False)

    def add(self, data: memoryview) -> None:
        self._whole.update(data)
        for parts in self._parts:
            parts.add(data)

    @property
    def are_known(self) -> bool:
        """Whether the tag of the object can be one of the sums."""
        return bool(self._wanted)

    @property
    def whole(self) -> bytes:
        return self._whole.digest()

    @property
    def fit(self) -> bool:
        """Whether the tag of the object is one of the sums."""
        sums: Sequence[str] = [self.whole.hex(), *(parts.sum for parts in self._parts)]
        return self._wanted in sums


class _PartSums:
    """The sum that S3 gives to an object that was uploaded in parts: the MD5 sum of the sums of the parts."""

    def __init__(self, size: int):
        self._size, self._room = size, size
        self._part, self._sums = hashlib.md5(usedforsecurity=False), b""

    def add(self, data: memoryview) -> None:
        while len(data):
            self._part.update(data[: self._room])
            taken = min(self._room, len(data))
            data, self._room = data[taken:], self._room - taken
            if not self._room:
                self._end_part()

    def _end_part(self) -> None:
        self._sums += self._part.digest()
        self._part, self._room = hashlib.md5(usedforsecurity=False), self._size

    @property
    def sum(self) -> str:
        last = self._part.digest() if self._room < self._size else b""
        return hashlib.md5(self._sums + last, usedforsecurity=False).hexdigest()
