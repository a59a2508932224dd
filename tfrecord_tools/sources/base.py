"""The two parts of a source: a store that reads files, and a listing of the files in the store."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np

from tfrecord_tools.images import preparation
from tfrecord_tools.layout.dataset_files import Rejected

MAX_FILE_BYTES = preparation.MAX_IMAGE_BYTES  # A record cannot store a larger image, so reading stops at this size.
IGNORED = frozenset({"thumbs.db", "__macosx", "desktop.ini"})
SPAN = np.dtype([("offset", "<i8"), ("stored", "<i8"), ("size", "<i8"), ("crc", "<u4")])
NOT_UTF8 = "the name is not valid UTF-8: rename it"


@dataclasses.dataclass(frozen=True)
class Content:
    """The content of one file.

    Attributes:
        data: The bytes, at most `MAX_FILE_BYTES` + 1.
        size: The size of the file in bytes. Together with `mtime_ns` it shows whether the file changed after listing.
        mtime_ns: The time of the last change in nanoseconds since the epoch.
    """

    data: bytes
    size: int
    mtime_ns: int


class ReadError(Exception):
    """A file cannot be read. The message is the reason, printed after `path: `."""


class Store(Protocol):
    """Random access to the files of a source. Stores can be pickled."""

    def read(self, path: str, span: np.void) -> Content:
        """Read one file.

        Args:
            path: The path in the listing.
            span: The file's row of `Listing.spans`.

        Raises:
            OSError, ReadError: The file cannot be read.
        """


@dataclasses.dataclass(frozen=True)
class Files:
    """Some files of a store, passed to a worker.

    Attributes:
        store: Reads the files.
        paths: The path of each file.
        spans: The rows of `Listing.spans` for these files.
    """

    store: Store
    paths: list[str]
    spans: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, number: int) -> Content:
        """Read file `number`. Raises the same errors as `Store.read`."""
        return self.store.read(self.paths[number], self.spans[number])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listing:
    """The files in a store, one column per property, sorted by the parts of their paths.

    Attributes:
        store: Reads the files.
        paths: Paths with `/` as separator, valid UTF-8.
        spans: Data that the store needs to read each file. Archives and CSVs of pixels: `SPAN`[n], its position in the
            archive or CSV. Object stores: `object_store.OBJECT`[n]. Parquet files: `parquet_images.ROW`[n].
            Tar files of webdataset: `webdataset_tars.MEMBER`[n].
            Directories: unused zeros.
        sizes: i64[n] in bytes.
        mtimes_ns: i64[n] in nanoseconds since the epoch.
        rejected: Files that cannot become records. Damage inside a file is found later, when it is read.
        labels: Class names, if the store itself has them (a CSV of pixels). None: it has none.
        notes: How the store was read, for the user.
        top: The one directory that contains all files of an archive, with a trailing `/`. `paths` do not include it.
            "": there is no such directory.
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
        """Return a listing of the files `numbers`, i64[k], in this order, with a new list of rejected files."""
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
    """Whether a file or directory with this name is ignored."""
    return name.startswith(".") or name.lower() in IGNORED


def is_utf8(name: str) -> bool:
    """Whether a name from the operating system is valid UTF-8."""
    return name.isascii() or not any("\ud800" <= c <= "\udfff" for c in name)


def printable(name: str) -> str:
    """Return a name that can be printed and stored. Bytes that are not UTF-8 become `\\xNN`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
