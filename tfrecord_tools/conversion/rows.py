"""The table of images that the steps of planning pass on. Each step returns a new table."""

from __future__ import annotations

import dataclasses

import numpy as np

from tfrecord_tools.layout import schema
from tfrecord_tools.layout.split_names import SPLITS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
    """Columns over images, one row per image.

    Attributes:
        numbers: i64[n], the file number in `Sources` and `Facts`.
        labels: i32[n], index into the class table.
        splits: i8[n], index into `SPLITS`.
        groups: u64[n], hash of the image's group; `NO_GROUP` if the image has no group.
        hashes: u64[n], hash of the source file's content.
        lengths: i64[n], size of the serialized example in bytes, without the record's frame.
        previous: i64[n], the row in the dataset that is updated; -1 if the image is new or changed.
    """

    numbers: np.ndarray
    labels: np.ndarray
    splits: np.ndarray
    groups: np.ndarray
    hashes: np.ndarray
    lengths: np.ndarray
    previous: np.ndarray

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, rows: np.ndarray | slice) -> Rows:
        """Return these rows, in the order given."""
        return Rows(**{name: column[rows] for name, column in vars(self).items()})

    @property
    def is_new(self) -> np.ndarray:
        """bool[n], whether the image is new or changed."""
        return self.previous < 0

    @property
    def preference(self) -> np.ndarray:
        """i64[n], a number for each image. If only one of several images is stored, the smallest number wins.

        Unchanged records come before other images, so that their shards stay as they are. Test comes before validation,
        and validation before train, so that the splits that score a model lose no image.
        """
        return np.where(self.is_new, 2 * len(SPLITS), len(SPLITS)) - self.splits

    @property
    def frame_bytes(self) -> np.ndarray:
        """i64[n], size of each record in its shard, in bytes."""
        return self.lengths + schema.FRAME_BYTES
