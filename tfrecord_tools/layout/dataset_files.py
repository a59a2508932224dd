"""The names of a dataset's files, and the content of `convert.json` as types (docs/format.md lists the keys)."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict, cast

CONVERT_JSON = "convert.json"
DuplicateKind = Literal["conflicts", "leaks", "copies"]


class _Class(TypedDict):
    label: int
    name: str


class ClassEntry(_Class, total=False):
    """A class, with the number of its records in each split that the dataset has."""

    train: int
    validation: int
    test: int


class SplitEntry(TypedDict):
    """A split: its records, without those left out, and its files."""

    records: int
    shards: int


class KeysEntry(TypedDict):
    """The names under which adopted records hold what (`schema.Keys`)."""

    image: str
    label: str
    path: str
    label_offset: int


class Versions(TypedDict):
    """Versions of the packages that decide the bytes of a dataset."""

    tfrecord_tools: str
    pillow: str
    pyarrow: str


class NoteEntry(TypedDict):
    """A line below the class table of the console (`notes.Note`); examples are paths."""

    kind: str
    text: str
    advice: str
    level: str
    images: int
    examples: list[str]


class Histogram(TypedDict):
    """Least, median and greatest value, and counts between edges that are evenly spaced in the logarithm."""

    min: float
    median: float
    max: float
    edges: list[float]
    counts: list[int]


class Colors(TypedDict):
    """Mean and standard deviation of red, green and blue in 0..255, over a sample of the records."""

    sampled: int
    undecodable: int
    mean: list[float]
    std: list[float]


class _Verified(TypedDict):
    verified: str  # "full" or "header".


class Images(_Verified, total=False):
    """The stored images; of an adopted dataset only `verified`. Counts are by name."""

    source_types: dict[str, int]
    types: dict[str, int]
    changes: dict[str, int]
    findings: dict[str, int]
    shorter_side: Histogram
    longer_side: Histogram
    aspect: Histogram
    bytes: Histogram
    colors: Colors


class Files(TypedDict):
    """Numbers of the files in `rejected.csv`."""

    skipped: int
    repaired: int
    dropped: int


class Reason(TypedDict):
    """A reason in `rejected.csv`, without its numbers, and its files."""

    done: str
    reason: str
    files: int


DuplicateFile = TypedDict("DuplicateFile", {"path": str, "class": str, "split": str})  # No split: "", it was dropped.
Relabelled = TypedDict("Relabelled", {"from": str, "to": str, "images": int})


class DuplicateCounts(TypedDict):
    """Files with the same bytes as another file; examples by kind are contents, each with its files."""

    copies: int
    leaks: int
    conflicts: int
    files: int
    groups_in_several_splits: int
    examples: dict[str, list[list[DuplicateFile]]]


class _Counts(TypedDict):
    digest: str
    name: str
    config: dict[str, Any]
    classes: list[ClassEntry]
    splits: dict[str, SplitEntry]
    records: int
    bytes: int
    rejected: int


class Counts(_Counts, total=False):
    """The first keys of `convert.json`: what the dataset is, without its images."""

    keys: KeysEntry


class Report(TypedDict, total=False):
    """What `convert.json` says of the images; of an adopted dataset only `images`."""

    images: Images
    files: Files
    reasons: list[Reason]
    duplicates: DuplicateCounts
    notes: list[NoteEntry]
    relabelled: list[Relabelled]


class ConvertJson(Counts, Report):
    """The content of `convert.json`; the report is missing where a conversion is only planned."""

    versions: Versions


def class_entry(label: int, name: str, records: Mapping[str, int]) -> ClassEntry:
    """Return the entry of a class with its `records`, split -> number."""
    return cast(ClassEntry, {"label": label, "name": name, **records})


def class_records(entry: ClassEntry, split: str) -> int:
    """Return the number of records of a class in a split."""
    return cast(Mapping[str, int], entry)[split]


@dataclasses.dataclass(frozen=True)
class Shard:
    """A contiguous range of the dataset's records: one file."""

    split: str
    number: int  # Within the split.
    of: int
    start: int
    stop: int
    link: str = ""  # The file of the previous dataset that holds just these records.

    def file_name(self, dataset: str) -> str:
        """Return TensorFlow Datasets' name of the shard."""
        return shard_name(dataset, self.split, self.number, self.of)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rejected:
    """A file that does not become a record, or is repaired first.

    Attributes:
        path: Relative to the source.
        reason: What is wrong with the file.
        done: "skipped", "repaired" or "dropped".
    """

    path: str
    reason: str
    done: str = "skipped"


def shard_name(dataset: str, split: str, number: int, of: int) -> str:
    """Return TensorFlow Datasets' name of a split's shard."""
    return f"{dataset}-{split}.tfrecord-{number:05d}-of-{of:05d}"


def dataset_name(source: str) -> str:
    """Make a name that TensorFlow Datasets accepts, [a-z][a-z0-9_]*, of a directory's name."""
    name = re.sub(r"[^a-z0-9]+", "_", source.lower()).strip("_")
    return name if name[:1].isalpha() else f"images_{name}".rstrip("_")


def partial_of(out: Path) -> Path:
    """Return the directory in which a conversion into `out` keeps its unfinished state."""
    named = out if out.name not in ("", "..") else out.resolve()  # "." has no name to add to.
    return named.parent / f"{named.name}.partial"


def read(directory: Path) -> ConvertJson:
    """Return the content of `convert.json` of the dataset in `directory`."""
    contents: ConvertJson = json.loads((directory / CONVERT_JSON).read_text("utf-8"))
    return contents
