"""Summarize TFRecord files: count the types and values in all records, and inspect the values of some."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from tfrecord_tools.foreign import example_parser
from tfrecord_tools.foreign.example_parser import Feature, Seen
from tfrecord_tools.foreign.tfrecord_files import Group

EXAMPLE, SEQUENCE, OTHER = "tf.train.Example", "tf.train.SequenceExample", "not a tf.train.Example"
FEATURES, LISTS = "features", "lists"  # Parts of a record.
_LOOKED_STEPS = 8  # Only the first steps of a list are inspected.
_DTYPES = {"bytes": "tf.string", "int64": "tf.int64", "float": "tf.float32"}


class FileFacts(NamedTuple):
    """The number of valid records in a file, and its size on disk in bytes."""

    records: int
    bytes: int


class Key(NamedTuple):
    """The key of a column.

    Attributes:
        part: `FEATURES` (an Example, or the context of a SequenceExample) or `LISTS` (of a SequenceExample).
        name: The feature's name.
        type: "bytes", "int64" or "float".
    """

    part: str
    name: str
    type: str


@dataclasses.dataclass
class Column:
    """A summary of one feature.

    Attributes:
        records: Number of records that have the feature.
        lengths: Smallest and largest number of values per record, or per step in `LISTS`.
        steps: Smallest and largest number of steps; None outside `LISTS`.
        seen: Summaries of the values in the inspected records.
    """

    records: int = 0
    lengths: tuple[int, int] | None = None
    steps: tuple[int, int] | None = None
    seen: list[Seen] = dataclasses.field(default_factory=list)

    def count(self, lengths: Sequence[int], in_steps: bool = False) -> None:
        """Add a record. `lengths` has its number of values, or the number of values of each step of a list."""
        self.records += 1
        self.lengths = _widened(self.lengths, lengths)
        if in_steps:
            self.steps = _widened(self.steps, [len(lengths)])


@dataclasses.dataclass(kw_only=True)
class Contents:
    """A summary of a group of files.

    Attributes:
        group: The files.
        files: The facts of each file, in the order of the files.
        kinds: `EXAMPLE`, `SEQUENCE` or `OTHER` -> number of records of this kind.
        looked: Number of records that `look` has inspected.
        columns: The summary of each feature.
    """

    group: Group[Any]
    files: list[FileFacts] = dataclasses.field(default_factory=list)
    kinds: Counter[str] = dataclasses.field(default_factory=Counter)
    looked: int = 0
    columns: dict[Key, Column] = dataclasses.field(default_factory=dict)

    @property
    def parsed(self) -> int:
        """The number of records that have features."""
        return self.kinds[EXAMPLE] + self.kinds[SEQUENCE]

    def count(self, serialized: bytes) -> None:
        """Add a record's types and numbers of values."""
        counts = example_parser.counts(serialized)
        if counts is None:
            self._parse(serialized, closely=False)
            return
        self.kinds[EXAMPLE] += 1
        for name, (kind, length) in counts.items():
            if kind:  # All parsers treat a feature without a list as missing.
                self._column(FEATURES, name, kind).count([length])

    def look(self, serialized: bytes) -> dict[str, Feature]:
        """Add a record and inspect its values; return its features, and the first step of each list."""
        self.looked += 1
        return self._parse(serialized, closely=True)

    def _parse(self, serialized: bytes, closely: bool) -> dict[str, Feature]:
        example = example_parser.parse(serialized)
        features, lists = (
            (example, {}) if example is not None else example_parser.parse_sequence(serialized) or ({}, {})
        )
        kind = EXAMPLE if example is not None else SEQUENCE if features or lists else OTHER
        self.kinds[kind] += 1
        for name, feature in features.items():
            if feature.type:
                column = self._column(FEATURES, name, feature.type)
                column.count([len(feature.values)])
                if closely:
                    column.seen.append(example_parser.look(feature))
        for name, steps in lists.items():
            self._count_steps(name, steps, closely)
        return features | {name: steps[0] for name, steps in lists.items() if steps}

    def _count_steps(self, name: str, steps: Sequence[Feature], closely: bool) -> None:
        for kind in sorted({step.type for step in steps} - {""}):
            column = self._column(LISTS, name, kind)
            column.count([len(step.values) if step.type == kind else 0 for step in steps], in_steps=True)
            if closely:
                column.seen += [example_parser.look(step) for step in steps[:_LOOKED_STEPS] if step.type == kind]

    def _column(self, part: str, name: str, kind: str) -> Column:
        return self.columns.setdefault(Key(part, name, kind), Column())

    def specifications(self, part: str) -> dict[str, str]:
        """Return the `tf.io` specification of each feature of a part, except features of several types."""
        columns = sorted((key, column) for key, column in self.columns.items() if key.part == part)
        types = Counter(key.name for key, _ in columns)
        return {key.name: self._specification(key, column) for key, column in columns if types[key.name] == 1}

    def _specification(self, key: Key, column: Column) -> str:
        least, most = column.lengths or (0, 0)
        missing = key.part == FEATURES and column.records < self.parsed
        if missing or least < most or most == 0:  # FixedLenFeature treats a feature without values as missing.
            return f"tf.io.RaggedFeature({_DTYPES[key.type]})"
        shape = [most] if most > 1 else []
        if key.part == LISTS:
            return f"tf.io.FixedLenSequenceFeature({shape}, {_DTYPES[key.type]}, allow_missing=True)"
        return f"tf.io.FixedLenFeature({shape}, {_DTYPES[key.type]})"

    def images(self, part: str = FEATURES) -> dict[str, bool]:
        """Return each feature with one image per record -> whether all images could be decoded."""
        return {
            key.name: column.records == len(column.seen) and all(s.images and s.images[0].size for s in column.seen)
            for key, column in sorted(self.columns.items(), key=lambda item: item[0])
            if key.part == part
            and are_images(column.seen)
            and "FixedLen" in self._specification(key, column)
            and column.lengths == (1, 1)
        }


def are_images(seen: Sequence[Seen]) -> bool:
    """Return whether most values are images."""
    return 2 * sum(len(s.images) for s in seen) > sum(s.length for s in seen)


def _widened(bounds: tuple[int, int] | None, values: Sequence[int]) -> tuple[int, int] | None:
    for value in values:
        if bounds is None:
            bounds = (value, value)
        elif not bounds[0] <= value <= bounds[1]:
            bounds = (min(bounds[0], value), max(bounds[1], value))
    return bounds
