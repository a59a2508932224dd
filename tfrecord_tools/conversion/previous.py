"""The dataset that `convert --update` updates, and which of its records, splits and shards stay."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from tfrecord_tools.conversion.rows import Rows
from tfrecord_tools.layout.splitting import FREE, content_hashes
from tfrecord_tools.sources.scan import Sources


@dataclasses.dataclass(frozen=True, kw_only=True)
class Previous:
    """The dataset that is updated. Each array has one row per record, in the order of the index.

    Attributes:
        address: Directory or URL of the dataset, for messages.
        class_names: The dataset's class table. An update keeps these labels.
        paths: The source path of each record.
        source_sha256: u8[n 32], the hash of the source file's content.
        labels: i32[n], index into `class_names`.
        splits: i8[n], index into `SPLITS`.
        shards: i32[n], the number of the shard within its split.
        files: (index of the split, number of the shard) -> file name.
    """

    address: str
    class_names: tuple[str, ...]
    paths: Sequence[str]
    source_sha256: np.ndarray
    labels: np.ndarray
    splits: np.ndarray
    shards: np.ndarray
    files: Mapping[tuple[int, int], str]

    def rows(self, paths: Iterable[str]) -> np.ndarray:
        """Return i64[n], the row of each path; -1 where the path is new."""
        row_of = {path: row for row, path in enumerate(self.paths)}
        return np.array([row_of.get(path, -1) for path in paths], np.int64)

    def class_table(self, sources: Sources) -> tuple[tuple[str, ...], np.ndarray]:
        """Return the class table with new classes at the end, and the label i32[n] of each source file."""
        label_of = {name: label for label, name in enumerate(self.class_names)}
        for name in sources.class_names:
            label_of.setdefault(name, len(label_of))
        return tuple(label_of), np.array([label_of[name] for name in sources.class_names], np.int32)[sources.labels]

    def unchanged(self, rows: Rows, sha256: np.ndarray, sources: Sources) -> np.ndarray:
        """Return i64[n], the row in this dataset of each unchanged image; -1 for new and changed images.

        An image is unchanged if its path, content and label are the same. If the source has splits, the split must also
        be the same.
        """
        known = self.rows(sources.paths[number] for number in rows.numbers.tolist())
        if not len(self.paths):
            return known
        same = (known >= 0) & (rows.labels == self.labels[known])
        same &= (sha256 == self.source_sha256[known]).all(axis=1)
        if sources.has_splits:
            same &= rows.splits == self.splits[known]
        return np.where(same, known, -1)

    def sides(self, hashes: np.ndarray) -> np.ndarray:
        """Return i8[n], the split of the record with the same content, or `FREE` if there is no such record."""
        known, rows = np.unique(content_hashes(self.source_sha256), return_index=True)
        if not len(known):
            return np.full(len(hashes), FREE, np.int8)
        nearest = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
        return np.where(known[nearest] == hashes, self.splits[rows[nearest]], FREE).astype(np.int8)

    def whole_shards(self, split: int, rows: np.ndarray) -> tuple[np.ndarray, list[str]]:
        """Find the shards that some rows of a split come from.

        Args:
            split: Index into `SPLITS`.
            rows: i64[k], ascending.

        Returns:
            i64[shards], the position in `rows` at which each shard starts, and the file name of each shard. The file of
            such a shard can be linked. The name is "" if `rows` has not all records of the shard; then the shard must
            be written again.
        """
        numbers, starts, counts = np.unique(self.shards[rows], return_index=True, return_counts=True)
        totals = np.bincount(self.shards[self.splits == split])
        links = [self.files[split, n] if k == totals[n] else "" for n, k in zip(numbers.tolist(), counts.tolist())]
        return starts, links
