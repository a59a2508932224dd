"""File names of a dataset, and types for the content of `convert.json` (keys: docs/format.md)."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict, cast

CONVERT_JSON = "convert.json"
CLAIM = "convert.claim.json"  # Only in a bucket, until a conversion into it is complete.
CARD = "card.html"
DuplicateKind = Literal["conflicts", "leaks", "copies"]


class _Class(TypedDict):
    label: int
    name: str


class ClassEntry(_Class, total=False):
    """A class, with its number of records in each split of the dataset."""

    train: int
    validation: int
    test: int


class SplitEntry(TypedDict):
    """A split: its number of records, without those left out of the dataset, and its number of files."""

    records: int
    shards: int


class KeysEntry(TypedDict):
    """Names of the features of adopted records (`schema.Keys`)."""

    image: str
    label: str
    path: str
    label_offset: int


class Versions(TypedDict):
    """Versions of the packages that the bytes of a dataset depend on."""

    tfrecord_tools: str
    pillow: str
    pyarrow: str


class NoteEntry(TypedDict):
    """A note below the class table on the console (`notes.Note`); examples are paths."""

    kind: str
    text: str
    advice: str
    level: str
    images: int
    examples: list[str]


class Histogram(TypedDict):
    """Smallest, median and largest value, and counts between logarithmically spaced edges."""

    min: float
    median: float
    max: float
    edges: list[float]
    counts: list[int]


class Colors(TypedDict):
    """Mean and standard deviation of red, green and blue (0..255), from a sample of the records."""

    sampled: int
    undecodable: int
    mean: list[float]
    std: list[float]


class _Verified(TypedDict):
    verified: str  # "full" or "header".


class Shown(TypedDict):
    """An image with an extreme value, for example of brightness."""

    path: str
    value: float


class Look(TypedDict):
    """Numbers of images by their look (`images.appearance`), and kind -> the most extreme images."""

    unknown: int
    gray: int
    dark: int
    bright: int
    flat: int
    extremes: dict[str, list[Shown]]


class Images(_Verified, total=False):
    """The stored images. Adopted datasets have only `verified`. Each dict is name -> number of images."""

    source_types: dict[str, int]
    types: dict[str, int]
    changes: dict[str, int]
    findings: dict[str, int]
    shorter_side: Histogram
    longer_side: Histogram
    aspect: Histogram
    bytes: Histogram
    colors: Colors
    look: Look


class Files(TypedDict):
    """Numbers of files in `rejected.csv`."""

    skipped: int
    repaired: int
    dropped: int


class Reason(TypedDict):
    """A reason in `rejected.csv`, without the numbers in it, and the number of files with this reason."""

    done: str
    reason: str
    files: int


DuplicateFile = TypedDict("DuplicateFile", {"path": str, "class": str, "split": str})  # Split "": dropped.
Relabelled = TypedDict("Relabelled", {"from": str, "to": str, "images": int})


class _DecisionEntry(TypedDict):
    sha256: str
    decision: Literal["label", "drop", "keep", "both", "none"]
    label: str
    path: str


class DecisionEntry(_DecisionEntry, total=False):
    """A decision about an image (`decisions.Decision`). The label is "" unless the decision is "label"."""

    twin_sha256: str  # Only for a pair of images.


class _DecidedCounts(TypedDict):
    """Numbers of images by decision. `absent`: decisions about images that the source does not have."""

    relabeled: int
    dropped: int
    kept: int
    unchanged: int  # The images had the label of the decision already.
    absent: int


class DecidedCounts(_DecidedCounts, total=False):
    """The same numbers, and the number of pairs of images that are kept, if there are any."""

    pairs: int


class DuplicateCounts(TypedDict):
    """Files with the same bytes as another file.

    Examples: for each kind, lists of identical files, each with up to 100 files. Sizes: the number of files of each.
    """

    copies: int
    leaks: int
    conflicts: int
    files: int
    groups_in_several_splits: int
    examples: dict[str, list[list[DuplicateFile]]]
    sizes: dict[str, list[int]]


class NearCounts(TypedDict):
    """Images that look like another image with other bytes. `DuplicateCounts` explains examples and sizes."""

    distance: int
    copies: int
    leaks: int
    conflicts: int
    files: int
    groups: int
    chains: int
    longest_chain: int
    examples: dict[str, list[list[DuplicateFile]]]
    sizes: dict[str, list[int]]


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
    """The first keys of `convert.json`: the dataset as a whole."""

    keys: KeysEntry


class Report(TypedDict, total=False):
    """The keys of `convert.json` about the images; adopted datasets have only `images` and the decisions."""

    images: Images
    files: Files
    reasons: list[Reason]
    duplicates: DuplicateCounts
    near_duplicates: NearCounts
    notes: list[NoteEntry]
    relabelled: list[Relabelled]
    decisions: list[DecisionEntry]
    decided: DecidedCounts


class ConvertJson(Counts, Report):
    """The content of `convert.json`; the keys of `Report` are missing if a conversion is only planned."""

    versions: Versions


def class_entry(label: int, name: str, records: Mapping[str, int]) -> ClassEntry:
    """Return the entry of a class; `records`: split -> number of records."""
    return cast(ClassEntry, {"label": label, "name": name, **records})


def class_records(entry: ClassEntry, split: str) -> int:
    """Return the number of records of a class in a split."""
    return cast(Mapping[str, int], entry)[split]


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file of the dataset: a contiguous range of its records."""

    split: str
    number: int  # Index within the split.
    of: int  # Number of shards of the split.
    start: int
    stop: int
    link: str = ""  # The file of the previous dataset that holds exactly these records.

    def file_name(self, dataset: str) -> str:
        """Return TensorFlow Datasets' name of the shard."""
        return shard_name(dataset, self.split, self.number, self.of)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rejected:
    """A file that does not become a record, or that is repaired first.

    Attributes:
        path: Path relative to the source.
        reason: The defect.
        done: "skipped", "repaired" or "dropped".
    """

    path: str
    reason: str
    done: str = "skipped"


def shard_name(dataset: str, split: str, number: int, of: int, file_format: str = "tfrecord") -> str:
    """Return TensorFlow Datasets' name of a split's shard."""
    return f"{dataset}-{split}.{file_format}-{number:05d}-of-{of:05d}"


def dataset_name(source: str) -> str:
    """Turn a directory's name into one that TensorFlow Datasets accepts: [a-z][a-z0-9_]*."""
    name = re.sub(r"[^a-z0-9]+", "_", source.lower()).strip("_")
    return name if name[:1].isalpha() else f"images_{name}".rstrip("_")


def claim_began(claim: Mapping[str, Any]) -> str:
    """Return when and where the conversion of a claim began, for messages.

    Raises:
        KeyError: The claim is damaged.
    """
    return f"{claim['began']} on {claim['host']} (process {claim['process']})"


def partial_of(out: Path) -> Path:
    """Return the directory in which a conversion to `out` keeps its unfinished files."""
    named = (
        out if out.name not in ("", "..") else out.resolve()
    )  # The path "." has no name to which a suffix can be added.
    return named.parent / f"{named.name}.partial"


def read(directory: Path) -> ConvertJson:
    """Read `convert.json` of the dataset in `directory`."""
    contents: ConvertJson = json.loads((directory / CONVERT_JSON).read_text("utf-8"))
    return contents
