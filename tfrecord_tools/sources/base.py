"""What a source of files is: a store that reads them, and a listing of what is in it."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np

from tfrecord_tools.images import preparation
from tfrecord_tools.layout.dataset_files import Rejected

MAX_FILE_BYTES = preparation.MAX_IMAGE_BYTES  # What an example cannot hold is not read further.
IGNORED = frozenset({"thumbs.db", "__macosx", "desktop.ini"})
SPAN = np.dtype([("offset", "<i8"), ("stored", "<i8"), ("size", "<i8"), ("crc", "<u4")])
NOT_UTF8 = "the name is not valid UTF-8: rename it"


@dataclasses.dataclass(frozen=True)
class Content:
    """What was read: the bytes, and the size and mtime in ns by which a change since the listing is seen."""

    data: bytes
    size: int
    mtime_ns: int


class ReadError(Exception):
    """Why a member cannot be read, in words that follow `path: `."""


class Store(Protocol):
    """Random access to the files of a source; picklable."""

    def read(self, path: str, span: np.void) -> Content:
        """Reads one file.

        Raises:
            OSError, ReadError: It cannot be read.
        """


@dataclasses.dataclass(frozen=True)
class Files:
    """Some files of a store, as a worker gets them.

    Attributes:
        store: Reads the files.
        paths: The path of each file.
        spans: As in `Listing`.
    """

    store: Store
    paths: list[str]
    spans: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, number: int) -> Content:
        """Read one file; raises what `Store.read` does."""
        return self.store.read(self.paths[number], self.spans[number])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listing:
    """What is in a store. Columns run over files, sorted by the parts of their paths.

    Attributes:
        store: Reads them.
        paths: With `/`, valid UTF-8.
        spans: What the store needs to read each, beside its path: SPAN[n], where in the store's file it lies; nothing
            for directories; `object_store.OBJECT`[n] for objects.
        sizes: i64[n] in bytes.
        mtimes_ns: i64[n] in nanoseconds since the epoch.
        rejected: What cannot be a record, known without opening it.
        labels: The class names that the store itself gives, as a CSV of pixels does; None else.
        notes: What the user should know of how the store was understood.
        top: The directory that contains everything in an archive, with a `/`, which the paths lack; "" without one.
    """

    store: Store
    paths: list[str]
    spans: np.ndarray
    sizes: np.ndarray
    mtimes_ns: np.ndarray
    rejected: list[Rejected]
    labels: list[str] | None = None
    notes: tuple[str, ...] = ()
    top: str = ""

    def take(self, numbers: np.ndarray, rejected: list[Rejected]) -> Listing:
        """Return the files with these numbers, i64[k], in this order, and other rejected ones."""
        return dataclasses.replace(
            self,
            paths=[self.paths[i] for i in numbers.tolist()],
            spans=self.spans[numbers],
            sizes=self.sizes[numbers],
            mtimes_ns=self.mtimes_ns[numbers],
            rejected=rejected,
            labels=None if self.labels is None else [self.labels[i] for i in numbers.tolist()],
        )


def is_litter(name: str) -> bool:
    """Whether a file or directory of this name is passed over."""
    return name.startswith(".") or name.lower() in IGNORED


def is_utf8(name: str) -> bool:
    """Whether a name as the system gives it was valid UTF-8."""
    return name.isascii() or not any("\ud800" <= c <= "\udfff" for c in name)


def printable(name: str) -> str:
    """A name that can be printed and stored: bytes that are not UTF-8 appear as `\\xNN`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
