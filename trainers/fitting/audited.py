"""All records of a dataset for an audit: features, labels, hashes and facts, one row per record."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tfrecord_tools.images import appearance
from tfrecord_tools.layout import decisions, duplicates, index, splitting
from tfrecord_tools.records import Dataset, Records
from trainers.auditing.issues import Issue, ListedIssue
from trainers.auditing.scoring import Inputs
from trainers.fitting.extraction import Extraction
from trainers.fitting.features_cache import Features

if TYPE_CHECKING:
    import pyarrow as pa

_COLUMNS = ("path", "source_sha256", "group", "height", "width")
_FACTS = appearance.FACTS.names or ()
_BLOCK = 4096  # Rows that are copied or decoded at once.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Audited:
    """The valid records of all splits, in the order of the splits and of their records.

    Attributes:
        inputs: The arrays that are audited.
        records: The records of each split, in the order of `inputs.split_names`.
        numbers: i64[n], number of each record among the records of its split.
        sha256: Hash of each source file, in hexadecimal.
    """

    inputs: Inputs
    records: Sequence[Records]
    numbers: np.ndarray
    sha256: Sequence[str]

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
                reason=issue.reason,
            )
            for issue in found
            for row in [issue.record]
        ]


def gather(data: Dataset, extraction: Extraction, directory: str, log: Callable[[str], object] = print) -> Audited:
    """Compute the features of all splits, and read what the index knows about their records.

    Corrupt records are left out. Facts that the index does not have are computed from the images.

    Args:
        data: The dataset.
        extraction: The network.
        directory: Directory for features, as in `Extraction.features`.
        log: Receives the lines for the user.

    Raises:
        UserError: As in `Extraction.features`.
    """
    names = [name for name, count in data.splits.items() if count]
    opened = [data.records(name) for name in names]
    features = [extraction.features(records, directory, log) for records in opened]
    table = _table(data, [records.rows[own.valid] for records, own in zip(opened, features)], names)
    sha256 = index.hashes(table, "source_sha256")
    hashes, decided = [row.tobytes().hex() for row in sha256], decisions.of_dataset(data.directory)
    groups = table.column("group").to_numpy()
    numbers = np.concatenate([own.valid for own in features])
    splits = np.repeat(np.arange(len(names), dtype=np.int8), [len(own.valid) for own in features])
    inputs = Inputs(
        features=_joined(features),
        labels=np.concatenate([own.labels[own.valid] for own in features]),
        splits=splits,
        units=splitting.split_keys(sha256, groups),
        contents=duplicates.first_of(sha256),
        facts=_facts(table, opened, splits, numbers),
        height=table.column("height").to_numpy(),
        width=table.column("width").to_numpy(),
        class_names=data.class_names,
        split_names=tuple(names),
        paths=table.column("path").to_pylist(),
        decided=np.array([name in decided for name in hashes], bool),
        dataset=f"--tfrecords={data.directory}",
    )
    return Audited(inputs=inputs, records=opened, numbers=numbers, sha256=hashes)


def _table(data: Dataset, rows: Sequence[np.ndarray], splits: Sequence[str]) -> pa.Table:
    """Return columns of the index for rows i64[k] of each split, one split after the other."""
    import pyarrow as pa

    path = data.directory / index.FILE_NAME
    known = set(index.columns(path))
    names = [*_COLUMNS, *(name for name in _FACTS if name in known)]
    parts = [index.read(path, names, split).take(own) for split, own in zip(splits, rows)]
    return pa.concat_tables(parts).combine_chunks()


def _joined(features: Sequence[Features]) -> np.ndarray:
    """Return the features of the valid records of all splits, f32[n c].

    Several splits are copied to a temporary file, which is deleted at the end of the process. A million records of
    1,280 features have 5 GB.
    """
    if len(features) == 1 and len(features[0].valid) == len(features[0].values):
        return features[0].values
    count, width = sum(len(own.valid) for own in features), features[0].values.shape[1]
    with tempfile.TemporaryFile() as file:  # The memory map keeps the deleted file.
        joined = np.memmap(file, np.float32, "w+", shape=(count, width))
    start = 0
    for own in features:
        for first in range(0, len(own.valid), _BLOCK):
            rows = own.valid[first : first + _BLOCK]
            joined[start : start + len(rows)] = own.values[rows]
            start += len(rows)
    return joined


def _facts(table: pa.Table, opened: Sequence[Records], splits: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Return the facts of all records, `appearance.FACTS`[n]."""
    facts = np.full(len(table), np.array(appearance.UNKNOWN, appearance.FACTS))
    for name in _FACTS:
        if name in table.column_names:
            facts[name] = table.column(name).to_numpy()
    unknown = np.flatnonzero(np.isnan(facts["brightness"]))
    for first in range(0, len(unknown), _BLOCK):
        rows = unknown[first : first + _BLOCK]
        images = [opened[splits[row]][int(numbers[row])]["image"] for row in rows]
        size = opened[0].raw_size
        facts[rows] = appearance.facts_of(images, [(size, size)] * len(rows) if size else None)
    return facts
