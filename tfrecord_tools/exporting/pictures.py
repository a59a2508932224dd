"""The records of a dataset as encoded images, with what is known about them."""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from PIL import Image

from tfrecord_tools.foreign.example_parser import image_type
from tfrecord_tools.layout import index, splitting
from tfrecord_tools.layout.splitting import NO_GROUP
from tfrecord_tools.records import Dataset, Records

SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"), "PNG": (".png",), "GIF": (".gif",), "BMP": (".bmp",),
    "WEBP": (".webp",),
}  # fmt: skip
Counts = Counter[tuple[str, int]]  # (split, label) -> images.


class Picture(NamedTuple):
    """A record to export.

    Attributes:
        split: Name of the split.
        number: Number of the record in the split.
        label: Label of the record.
        class_name: Name of the class.
        path: Path of the source file.
        image: The encoded image.
        kind: Format of the image: JPEG, PNG, GIF, BMP or WEBP.
        group: Text that is equal for the images of a group (see `splitting.group_name`). "": the image has no group.
        source_sha256: SHA-256 of the source file, in hexadecimal digits.
    """

    split: str
    number: int
    label: int
    class_name: str
    path: str
    image: bytes
    kind: str
    group: str = ""
    source_sha256: str = ""

    @property
    def suffix(self) -> str:
        """The usual ending of files of this format, such as `.jpg`."""
        return SUFFIXES[self.kind][0]


class Sink(Protocol):
    """Writes pictures in the format of another library."""

    def writer(self, root: Path) -> contextlib.AbstractContextManager[Callable[[Picture], None]]:
        """Return a context that gives a function, which writes a picture below `root`.

        Pictures must come split by split. The files are complete when the context ends.
        """

    def count(self, root: Path) -> Counts:
        """Read the files below `root` again, and count their images per split and label."""

    def notes(self, out: Path) -> Iterator[str]:
        """Yield lines for the user about the complete export in `out`."""


def pictures(data: Dataset) -> Iterator[Picture]:
    """Yield all records, split by split. Only one record is in memory at once.

    If the dataset is in a bucket, the next records are fetched to its cache in the meantime. Each is fetched once.
    """
    for split in data.splits:
        records = data.records(split)
        groups, hashes = _known(data, split, records)
        reading = records.plan()
        for number in range(len(records)):
            with reading(number):
                record = records[number]
            image = record["image"] if data.raw_size is None else _png(record["image"], data.raw_size)
            yield Picture(
                split=split,
                number=number,
                label=record["label"],
                class_name=data.class_names[record["label"]],
                path=record["path"],
                image=image,
                kind=image_type(image) or "JPEG",
                group=groups[number],
                source_sha256=hashes[number],
            )


def filled_splits(data: Dataset) -> dict[str, int]:
    """Return split -> number of records, for the splits that get files: those with records."""
    return {split: count for split, count in data.splits.items() if count}


def has_groups(data: Dataset) -> bool:
    """Whether an image of the dataset has a group."""
    column = index.read(data.directory / index.FILE_NAME, ["group"]).column("group")
    return any(bool((chunk.to_numpy() != NO_GROUP).any()) for chunk in column.chunks)


class _Texts:
    """Values that are turned into text when they are asked for, since there may be millions."""

    def __init__(self, count: int, text: Callable[[int], str]):
        self._count, self._text = count, text

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> str:
        return self._text(number)


def _known(data: Dataset, split: str, records: Records) -> tuple[_Texts, _Texts]:
    """Return the group and the hash of the source file of each record."""
    table = index.read(data.directory / index.FILE_NAME, ["group", "source_sha256"], split)
    groups = table.column("group").to_numpy()[records.rows]
    hashes = index.hashes(table, "source_sha256")[records.rows]
    return (
        _Texts(len(records), lambda number: splitting.group_name(int(groups[number]))),
        _Texts(len(records), lambda number: hashes[number].tobytes().hex()),
    )


def _png(pixels: bytes, side: int) -> bytes:
    stream = io.BytesIO()
    Image.frombytes("RGB", (side, side), pixels).save(stream, "PNG")
    return stream.getvalue()
