"""What will be written, decided before a byte is: a pure function of sources, facts and config."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tfrecord_tools import order, schema
from tfrecord_tools.errors import UserError
from tfrecord_tools.scan import SPLITS, Rejected, Sources
from tfrecord_tools.survey import Facts

FORMAT_VERSION = 1  # Raised when the same sources and config would give other bytes.
DEFAULT_VALIDATION_FRACTION = 0.2
MIN_SHARD_BYTES, MAX_SHARD_BYTES = 16 << 20, 150 << 20
DEFAULT_SHARDS = 64  # Many enough to read in parallel, if they are not too small.
_MIN_SHARD_BYTES_ALLOWED = 1 << 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """What the user decides about the dataset.

    Attributes:
        classes: Class names in label order; others are left out. None: all, sorted.
        validation_fraction: Share of the images that become the validation split, in 0..1, where the
            source has no splits of its own. None: 0.2.
        test_fraction: Likewise for the test split. None: 0.
        seed: Decides which images go to which split, and their order in the shards.
        shards: Number of shards over all splits. None: by bytes.
        shard_bytes: Aimed size of a shard in bytes. None: total / 64, within 16..150 MiB.
        max_bad: Largest share of files that may be rejected, in 0..1.
    """

    classes: Sequence[str] | None = None
    validation_fraction: float | None = None
    test_fraction: float | None = None
    seed: int = 0
    shards: int | None = None
    shard_bytes: int | None = None
    max_bad: float = 0.05

    def __post_init__(self) -> None:
        for name in ("validation_fraction", "test_fraction", "max_bad"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise UserError(f"--{name}={value}: a share between 0 and 1 is expected.")
        if sum(self.fractions) >= 1:
            raise UserError(
                f"--validation_fraction={self.fractions[0]} and --test_fraction={self.fractions[1]}"
                " leave nothing to train on: together they must be below 1."
            )
        if self.classes is not None and len(self.classes) < 2:
            raise UserError(f"--classes={','.join(self.classes)}: at least two class names, separated by commas.")
        if self.shards is not None and self.shard_bytes is not None:
            raise UserError("--shards and --shard_bytes exclude each other: give one.")
        if self.shards is not None and self.shards < 1:
            raise UserError(f"--shards={self.shards}: at least 1.")
        if self.shard_bytes is not None and self.shard_bytes < _MIN_SHARD_BYTES_ALLOWED:
            raise UserError(
                f"--shard_bytes={self.shard_bytes}: bytes are meant, at least {_MIN_SHARD_BYTES_ALLOWED:,}."
            )

    def output_settings(self) -> dict[str, Any]:
        """The settings that the output depends on, for its record and its digest."""
        names = [field.name for field in dataclasses.fields(PlanConfig)]
        names.remove("max_bad")  # It decides whether there is a dataset, not what is in it.
        settings = {name: getattr(self, name) for name in names}
        return settings | {"classes": self.classes and list(self.classes)}  # As JSON gives it back.

    @property
    def fractions(self) -> tuple[float, float]:
        """The shares of validation and test, defaults filled in."""
        validation = DEFAULT_VALIDATION_FRACTION if self.validation_fraction is None else self.validation_fraction
        return validation, self.test_fraction or 0.0


@dataclasses.dataclass(frozen=True)
class Shard:
    """A contiguous range of the plan's rows: one file."""

    split: str
    number: int  # Within the split.
    of: int
    start: int
    stop: int

    def file_name(self, dataset: str) -> str:
        """TensorFlow Datasets' name of the shard."""
        return f"{dataset}-{self.split}.tfrecord-{self.number:05d}-of-{self.of:05d}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """The records in the order in which they are written. Columns run over records.

    Attributes:
        name: The dataset's name, a lower-case identifier.
        class_names: A label is an index into it.
        config: The plan's config as a JSON-able dict.
        numbers: i64[n], the file in `Sources` and `Facts`.
        labels: i32[n].
        splits: i8[n], index into `SPLITS`; ascending.
        lengths: i64[n], bytes of each serialized example, without the frame.
        shards: In the order of the rows.
        rejected: Every file that does not become a record.
        digest: Hex; equal digests mean equal output, byte for byte under the same versions of Pillow and pyarrow.
    """

    name: str
    class_names: tuple[str, ...]
    config: dict[str, Any]
    numbers: np.ndarray
    labels: np.ndarray
    splits: np.ndarray
    lengths: np.ndarray
    shards: tuple[Shard, ...]
    rejected: tuple[Rejected, ...]
    digest: str

    @property
    def bytes(self) -> int:
        """The size of all shards together."""
        return int(self.lengths.sum()) + schema.FRAME_BYTES * len(self.lengths)

    def counts(self) -> dict[str, np.ndarray]:
        """Split name -> i64[classes], records of each class, for the splits that have any."""
        classes = len(self.class_names)
        table = np.bincount(self.splits.astype(np.int64) * classes + self.labels, minlength=len(SPLITS) * classes)
        return {s: row for s, row in zip(SPLITS, table.reshape(len(SPLITS), classes)) if row.any()}


def plan(sources: Sources, facts: Facts, config: PlanConfig, name: str) -> Plan:
    """Decides everything about the output.

    Raises:
        UserError: Too many bad files, a class without images where it needs some, or contradicting config.
    """
    check_fractions(sources, config)
    rejected = tuple(
        sorted(
            [*sources.rejected, *(Rejected(path=sources.paths[i], reason=r) for i, r in facts.reasons.items())],
            key=lambda r: r.path,
        )
    )
    check_rejected(rejected, len(sources) + len(sources.rejected), config.max_bad)
    sound = np.ones(len(sources), bool)
    sound[list(facts.reasons)] = False
    numbers = np.flatnonzero(sound)
    if not len(numbers):
        first = rejected[0]
        raise UserError(
            f"{sources.root}: none of {len(rejected):,} files can be a record: {first.path}: {first.reason}."
            " Is --src right?"
        )
    hashes = content_hashes(facts.table["sha256"][numbers])
    splits = _splits(sources, numbers, hashes, config)
    # Rows in hash order: classes are mixed, so that also a plain sequential reader gets mixed batches.
    # lexsort is stable and `numbers` ascends, so that duplicates stay in the order of their paths.
    rows = np.lexsort((order.mix(config.seed, 0, hashes), splits))
    numbers, splits = numbers[rows], splits[rows]
    labels = sources.labels[numbers]
    _check_classes(sources, labels, splits, config)
    path_bytes = np.array([len(sources.paths[i].encode()) for i in numbers.tolist()], np.int64)
    lengths = schema.example_bytes(facts.table["size"][numbers], path_bytes, labels)
    shards = tuple(_shards(splits, lengths + schema.FRAME_BYTES, config))
    settings = config.output_settings() | {"name": name, "format_version": FORMAT_VERSION}
    if not sources.has_splits:  # Given or by default: the same.
        settings |= dict(zip(("validation_fraction", "test_fraction"), config.fractions))
    columns = (facts.table["sha256"][numbers], labels, splits)
    return Plan(
        name=name,
        class_names=sources.class_names,
        config=settings,
        numbers=numbers,
        labels=labels,
        splits=splits,
        lengths=lengths,
        shards=shards,
        rejected=rejected,
        digest=_digest(settings, sources, numbers, columns, shards, rejected),
    )


def dataset_name(source: str) -> str:
    """Makes a name that TensorFlow Datasets takes, [a-z][a-z0-9_]*, of a directory's name."""
    name = re.sub(r"[^a-z0-9]+", "_", source.lower()).strip("_")
    return name if name[:1].isalpha() else f"images_{name}".rstrip("_")


def check_rejected(rejected: Sequence[Rejected], total: int, max_bad: float) -> None:
    """Raises UserError if more than the share `max_bad` of all files is bad."""
    if len(rejected) > max_bad * total:
        examples = "".join(f"\n  {r.path}: {r.reason}" for r in rejected[:3])
        raise UserError(
            f"{len(rejected):,} of {total:,} files cannot be records, more than --max_bad={max_bad:g} allows:{examples}"
            "\nIs --src right? Mend or remove the files, or allow more with --max_bad."
        )


def check_fractions(sources: Sources, config: PlanConfig) -> None:
    """Raises UserError if splits are asked for that the source has already; needs no survey."""
    for flag in ("validation_fraction", "test_fraction"):
        if sources.has_splits and getattr(config, flag) is not None:
            raise UserError(
                f"--{flag}={getattr(config, flag)}: {sources.root} has splits of its own, which are kept."
                " Leave the flag out."
            )


def choose_splits(hashes: np.ndarray, fractions: tuple[float, float], seed: int, purpose: int = 1) -> np.ndarray:
    """Returns i8[n], index into `SPLITS`, by content alone: an image keeps its side when others come.

    Args:
        hashes: u64[n] of the content.
        fractions: The shares of validation and test, in expectation.
        seed: Another seed gives another, independent choice.
        purpose: Likewise: what was divided for one purpose is divided anew for another. Not 0, which orders the rows.
    """
    validation, test = fractions
    draws = order.mix(seed, purpose, hashes) / 2.0**64  # In 0..1.
    return np.select([draws < validation, draws < validation + test], [1, 2], 0).astype(np.int8)


def content_hashes(sha256: np.ndarray) -> np.ndarray:
    """The first eight bytes of u8[n 32], as u64[n]."""
    return np.ascontiguousarray(sha256[:, :8]).view("<u8")[:, 0]


def _splits(sources: Sources, numbers: np.ndarray, hashes: np.ndarray, config: PlanConfig) -> np.ndarray:
    if not sources.has_splits:
        return choose_splits(hashes, config.fractions, config.seed)
    return sources.splits[numbers]


def _check_classes(sources: Sources, labels: np.ndarray, splits: np.ndarray, config: PlanConfig) -> None:
    """Refuses a class that is empty where it must not be: in train, and in every split that we make."""
    if sources.has_splits:
        needed = ["train"] if (sources.splits == 0).any() else []
    else:
        shares = dict(zip(SPLITS, (1.0, *config.fractions)))
        needed = [split for split in SPLITS if shares[split] > 0]
    for split in needed:
        counts = np.bincount(labels[splits == SPLITS.index(split)], minlength=len(sources.class_names))
        for label in np.flatnonzero(counts == 0):
            total = int((labels == label).sum())
            raise UserError(
                f"the class {sources.class_names[label]!r} has no image in the {split} split ({total:,} sound in all)."
                " Add images or leave the class out with --classes"
                + (
                    "."
                    if sources.has_splits
                    else f"; or change --{split}_fraction, or --seed."
                    if split != "train"
                    else "."
                )
            )


def _shards(splits: np.ndarray, sizes: np.ndarray, config: PlanConfig) -> Iterator[Shard]:
    """Cuts each split into shards of about equal bytes; `sizes` are framed."""
    present = np.unique(splits)
    bounds = np.searchsorted(splits, [present, present + 1]).T
    split_bytes = np.array([sizes[start:stop].sum() for start, stop in bounds])
    counts = _shard_counts(split_bytes, bounds[:, 1] - bounds[:, 0], config)
    for split, (start, stop), of in zip(present, bounds, counts):
        cuts = start + _cuts(sizes[start:stop], int(of))
        for number in range(of):
            yield Shard(SPLITS[split], number, int(of), int(cuts[number]), int(cuts[number + 1]))


def _shard_counts(split_bytes: np.ndarray, split_records: np.ndarray, config: PlanConfig) -> np.ndarray:
    """Returns i64[splits], the number of shards of each split."""
    total = int(split_bytes.sum())
    if config.shards is not None:
        if config.shards < len(split_bytes):
            raise UserError(f"--shards={config.shards}: there are {len(split_bytes)} splits, and each needs a shard.")
        if config.shards > split_records.sum():
            raise UserError(f"--shards={config.shards}: there are {split_records.sum():,} records. Ask for fewer.")
        counts = np.ones(len(split_bytes), np.int64)
        while counts.sum() < config.shards:  # The next one goes where shards are largest and records enough.
            counts[np.argmax(np.where(counts < split_records, split_bytes / counts, -np.inf))] += 1
        return counts
    aim = config.shard_bytes or min(max(total // DEFAULT_SHARDS, MIN_SHARD_BYTES), MAX_SHARD_BYTES)
    return np.minimum(-(-split_bytes // aim), split_records)


def _cuts(sizes: np.ndarray, shards: int) -> np.ndarray:
    """Returns i64[shards + 1], ascending from 0 to n: near equal bytes, and no shard empty."""
    ends = np.cumsum(sizes)
    targets = ends[-1] * np.arange(1, shards) / shards
    inner = np.searchsorted(ends, targets) + 1
    steps = np.arange(1, shards)
    inner = np.maximum.accumulate(np.maximum(inner, steps) - steps) + steps  # At least one record each ...
    inner = np.minimum(inner, len(sizes) - shards + steps)  # ... and one left for each that follows.
    return np.concatenate([[0], inner, [len(sizes)]]).astype(np.int64)


def _digest(
    settings: dict[str, Any],
    sources: Sources,
    numbers: np.ndarray,
    columns: tuple[np.ndarray, ...],
    shards: tuple[Shard, ...],
    rejected: tuple[Rejected, ...],
) -> str:
    """Hashes everything that the output depends on."""
    digest = hashlib.sha256()
    cuts = [dataclasses.astuple(shard) for shard in shards]
    bad = [dataclasses.astuple(r) for r in rejected]
    digest.update(json.dumps([settings, sources.class_names, cuts, bad], sort_keys=True).encode())
    for column in columns:
        digest.update(np.ascontiguousarray(column).tobytes())
    for number in numbers.tolist():
        digest.update(sources.paths[number].encode() + b"\0")
    return digest.hexdigest()
