"""All records of a dataset for an audit: features, labels, hashes and facts, one row per record."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tfrecord_tools.base import files
from tfrecord_tools.images import appearance
from tfrecord_tools.layout import decisions, duplicates, index, splitting
from tfrecord_tools.layout.decisions import Decision
from tfrecord_tools.records import Dataset, Records
from trainers.auditing.issues import Issue, ListedIssue
from trainers.auditing.scoring import Inputs
from trainers.fitting import facts_cache
from trainers.fitting.extraction import Extraction
from trainers.fitting.features_cache import Features

if TYPE_CHECKING:
    import pyarrow as pa

_COLUMNS = ("path", "source_sha256", "group", "height", "width")
_FACTS = appearance.FACTS.names or ()
_BLOCK = 4096  # Rows that are copied at once.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Audited:
    """The valid records of all splits, in the order of the splits and of their records.

    Attributes:
        inputs: The arrays that are audited.
        records: The records of each split, in the order of `inputs.split_names`.
        numbers: i64[n], number of each record among the records of its split.
        sha256: Hash of each source file, in hexadecimal.
        decided: Key -> decision of an earlier review, for the records and pairs of records that have one.
    """

    inputs: Inputs
    records: Sequence[Records]
    numbers: np.ndarray
    sha256: Sequence[str]
    decided: Mapping[str, Decision]

    def image(self, row: int) -> bytes | np.ndarray:
        """Return the stored image of a row of `inputs`: encoded, or raw pixels u8[h w 3].

        Raises:
            CorruptRecord: The stored bytes are damaged.
        """
        records = self.records[self.inputs.splits[row]]
        image: bytes = records[int(self.numbers[row])]["image"]
        size = records.raw_size
        return np.frombuffer(image, np.uint8).reshape(size, size, 3) if size else image

    def listed(self, found: Sequence[Issue]) -> list[ListedIssue]:
        """Return issues with names instead of numbers, as rows of issues.csv."""
        inputs = self.inputs
        names = inputs.class_names
        return [
            ListedIssue(
                kind=issue.kind,
                rank=issue.rank,
                score=issue.score,
                split=inputs.split_names[inputs.splits[row]],
                record=int(self.records[inputs.splits[row]].rows[self.numbers[row]]),
                path=inputs.paths[row],
                sha256=self.sha256[row],
                given_label=names[inputs.labels[row]],
                proposed_label="" if issue.proposed is None else names[issue.proposed],
                twin="" if issue.twin is None else inputs.paths[issue.twin],
                twin_sha256="" if issue.twin is None else self.sha256[issue.twin],
                reason=issue.reason,
            )
            for issue in found
            for row in [issue.record]
        ]


def gather(data: Dataset, extraction: Extraction, directory: str, log: Callable[[str], object] = print) -> Audited:
    """Compute the features of all splits, and read what the index knows about their records.

    Corrupt records are left out. Facts that the index does not have are computed from the images and saved.

    Args:
        data: The dataset.
        extraction: The network.
        directory: Directory for features, as in `Extraction.features`, and for facts.
        log: Receives the lines for the user.

    Raises:
        UserError: As in `Extraction.features` and `facts_cache.load_or_compute`.
        OSError: The disk is full.
    """
    names = [name for name, count in data.splits.items() if count]
    opened = [data.records(name) for name in names]
    features = [extraction.features(records, directory, log) for records in opened]
    table = _table(data, [records.rows[own.valid] for records, own in zip(opened, features)], names)
    sha256 = index.hashes(table, "source_sha256")
    groups = table.column("group").to_numpy()
    numbers = np.concatenate([own.valid for own in features])
    splits = np.repeat(np.arange(len(names), dtype=np.int8), [len(own.valid) for own in features])
    stored = decisions.of_dataset(data.directory)
    decided, pairs = dict(decisions.matches(stored, sha256)), list(decisions.pairs(stored, sha256))
    is_decided = np.zeros(len(sha256), bool)
    is_decided[list(decided)] = True
    contents = duplicates.first_of(sha256)
    inputs = Inputs(
        features=_joined(features, Path(directory)),
        labels=np.concatenate([own.labels[own.valid] for own in features]),
        splits=splits,
        units=splitting.split_keys(sha256, groups),
        contents=contents,
        facts=_facts(table, opened, splits, numbers, data.digest, Path(directory), log),
        height=table.column("height").to_numpy(),
        width=table.column("width").to_numpy(),
        class_names=data.class_names,
        split_names=tuple(names),
        paths=table.column("path").to_pylist(),
        decided=is_decided,
        dataset=f"--tfrecords={data.location}",
        kept_pairs=contents[np.array([(one[0], other[0]) for one, other, _ in pairs], np.int64).reshape(-1, 2)],
    )
    return Audited(
        inputs=inputs,
        records=opened,
        numbers=numbers,
        sha256=[row.tobytes().hex() for row in sha256],
        decided={one.key: one for one in (*decided.values(), *(pair[-1] for pair in pairs))},
    )


def _table(data: Dataset, rows: Sequence[np.ndarray], splits: Sequence[str]) -> pa.Table:
    """Return columns of the index for rows i64[k] of each split, one split after the other."""
    import pyarrow as pa

    path = data.directory / index.FILE_NAME
    parts = [index.read(path, (*_COLUMNS, *_FACTS), split).take(own) for split, own in zip(splits, rows)]
    return pa.concat_tables(parts).combine_chunks()


def _joined(features: Sequence[Features], directory: Path) -> np.ndarray:
    """Return the features of the valid records of all splits, f32[n c].

    The features of several splits are copied to a file in `directory`, because a million records with 1,280 features
    have 5 GB. The file is deleted at once, but its disk space is free again only when the array is no longer used.

    Raises:
        OSError: The disk is full.
    """
    if len(features) == 1 and len(features[0].valid) == len(features[0].values):
        return features[0].values
    count, width = sum(len(own.valid) for own in features), features[0].values.shape[1]
    with tempfile.NamedTemporaryFile(dir=directory, prefix="joined-", suffix=".tmp") as file:
        # Disk space is reserved now. Otherwise, a full disk would cause a bus error while the rows are copied.
        files.allocate(file.file, count * width * np.dtype(np.float32).itemsize)
        joined = np.memmap(file.file, np.float32, "r+", shape=(count, width))  # It keeps the data of the deleted file.
    start = 0
    for own in features:
        for first in range(0, len(own.valid), _BLOCK):
            rows = own.valid[first : first + _BLOCK]
            joined[start : start + len(rows)] = own.values[rows]
            start += len(rows)
    return joined


def _facts(
    table: pa.Table,
    opened: Sequence[Records],
    splits: np.ndarray,
    numbers: np.ndarray,
    digest: str,
    directory: Path,
    log: Callable[[str], object],
) -> np.ndarray:
    """Return the facts of all records, `appearance.FACTS`[n]."""
    facts = np.zeros(len(table), appearance.FACTS)
    for name in _FACTS:
        facts[name] = table.column(name).to_numpy()
    for split, records in enumerate(opened):
        rows = np.flatnonzero((splits == split) & np.isnan(facts["brightness"]))
        if len(rows):
            facts[rows] = facts_cache.load_or_compute(records.select(numbers[rows]), digest, directory, log)
    return facts
