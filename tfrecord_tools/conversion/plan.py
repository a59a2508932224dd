"""What will be written, decided before a byte is: a pure function of sources, facts and config."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfrecord_tools import order
from tfrecord_tools.base import words
from tfrecord_tools.conversion.survey import Facts
from tfrecord_tools.errors import UserError, named
from tfrecord_tools.layout import duplicates, schema
from tfrecord_tools.layout.duplicates import Duplicates
from tfrecord_tools.layout.splits import SPLITS
from tfrecord_tools.layout.splitting import FREE, NO_GROUP, choose_splits, content_hashes, split_keys
from tfrecord_tools.sources.layouts import TO_BE_SPLIT
from tfrecord_tools.sources.scan import Sources
from tfrecord_tools.sources.stores import Rejected

FORMAT_VERSION = 4  # Raised when the same sources and config would give other bytes.
DEFAULT_VALIDATION_FRACTION = 0.2
MIN_SHARD_BYTES, MAX_SHARD_BYTES = 16 << 20, 150 << 20
DEFAULT_SHARDS = 64  # Many enough to read in parallel, if they are not too small.
_MIN_SHARD_BYTES_ALLOWED = 1 << 10
DUPLICATES = ("keep", "drop", "fail")
_SHOWN = 5  # Files named on the screen.


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """What the user decides about the dataset.

    Attributes:
        validation_fraction: Share of each class that becomes the validation split, in 0..1, if the source has no
            splits of its own. None: 0.2.
        test_fraction: Share of each class that becomes the test split, in 0..1. None: 0.
        seed: Another seed gives another automatic split and another order in the shards.
        shards: Number of shards over all splits. None: by bytes.
        shard_bytes: Aimed size of a shard in bytes. None: total / 64, within 16..150 MiB.
        max_bad: Largest share of files that may be rejected, in 0..1.
        duplicates: Of files with the same bytes, "keep" takes all, "drop" one (none, if their labels differ), and
            "fail" stops.
    """

    validation_fraction: float | None = None
    test_fraction: float | None = None
    seed: int = 0
    shards: int | None = None
    shard_bytes: int | None = None
    max_bad: float = 0.05
    duplicates: str = "keep"

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
        if self.duplicates not in DUPLICATES:
            raise UserError(f"--duplicates={self.duplicates}: one of {', '.join(DUPLICATES)} is expected.")
        if self.shards is not None and self.shard_bytes is not None:
            raise UserError("--shards and --shard_bytes exclude each other: give one.")
        if self.shards is not None and self.shards < 1:
            raise UserError(f"--shards={self.shards}: at least 1.")
        if self.shard_bytes is not None and self.shard_bytes < _MIN_SHARD_BYTES_ALLOWED:
            raise UserError(
                f"--shard_bytes={self.shard_bytes}: bytes are meant, at least {_MIN_SHARD_BYTES_ALLOWED:,}."
            )

    def plan_settings(self) -> dict[str, Any]:
        """The settings that the output depends on; `max_bad` decides only whether there is any."""
        names = [field.name for field in dataclasses.fields(PlanConfig) if field.name != "max_bad"]
        return {name: getattr(self, name) for name in names}

    @property
    def fractions(self) -> tuple[float, float]:
        """The shares of validation and test, defaults filled in."""
        validation = DEFAULT_VALIDATION_FRACTION if self.validation_fraction is None else self.validation_fraction
        return validation, self.test_fraction or 0.0

    @property
    def made_splits(self) -> list[str]:
        """The splits that are made of a source without its own."""
        shares = (1.0, *self.fractions)
        return [split for split, share in zip(SPLITS, shares) if share > 0]


def shard_name(dataset: str, split: str, number: int, of: int) -> str:
    """TensorFlow Datasets' name of a split's shard."""
    return f"{dataset}-{split}.tfrecord-{number:05d}-of-{of:05d}"


@dataclasses.dataclass(frozen=True)
class Shard:
    """A contiguous range of the plan's rows: one file."""

    split: str
    number: int  # Within the split.
    of: int
    start: int
    stop: int
    link: str = ""  # The file of the previous dataset that holds just these records.

    def file_name(self, dataset: str) -> str:
        """TensorFlow Datasets' name of the shard."""
        return shard_name(dataset, self.split, self.number, self.of)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Previous:
    """The dataset that is updated. Columns run over its records, in the order of its index.

    Attributes:
        directory: Where it lies.
        class_names: Its class table; these labels stay.
        paths: Of the sources.
        source_sha256: u8[n 32].
        labels: i32[n].
        splits: i8[n], index into `SPLITS`.
        shards: i32[n], the number of the shard within its split.
        files: (split, number of shard) -> file name.
    """

    directory: Path
    class_names: tuple[str, ...]
    paths: Sequence[str]
    source_sha256: np.ndarray
    labels: np.ndarray
    splits: np.ndarray
    shards: np.ndarray
    files: Mapping[tuple[int, int], str]

    def rows(self, paths: Iterable[str]) -> np.ndarray:
        """Returns i64[n], the row of each path; -1 where it is new."""
        row_of = {path: row for row, path in enumerate(self.paths)}
        return np.array([row_of.get(path, -1) for path in paths], np.int64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """The records in the order in which they are written. Columns run over records.

    Attributes:
        name: The dataset's name, a lower-case identifier.
        class_names: A label is an index into it.
        config: What the output depends on, as a JSON-able dict.
        numbers: i64[n], the file in `Sources` and `Facts`.
        labels: i32[n].
        splits: i8[n], index into `SPLITS`; ascending.
        lengths: i64[n], bytes of each serialized example, without the frame.
        shards: In the order of the rows.
        rejected: Every file that does not become a record, or not as it was.
        duplicates: Of the sound files, by number; before any was dropped.
        group_leaks: Groups that the source itself has put into several splits.
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
    duplicates: Duplicates
    group_leaks: int
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


def plan(
    sources: Sources,
    facts: Facts,
    config: PlanConfig,
    name: str,
    settings: Mapping[str, Any],
    previous: Previous | None = None,
) -> Plan:
    """Decides everything about the output.

    Args:
        sources: The files.
        facts: What is in them.
        config: The user's decisions.
        name: Of the dataset.
        settings: All that the stored bytes depend on, `config.plan_settings()` among it; becomes part of the plan.
        previous: The dataset to update: its records keep split and place, what is new follows in shards of its own.

    Raises:
        UserError: Too many bad files, a class without images where it needs some, or contradicting config.
    """
    check_fractions(sources, config)
    bad = [*sources.rejected, *(Rejected(path=sources.paths[i], reason=r) for i, r in facts.reasons.items())]
    check_rejected(bad, len(sources) + len(sources.rejected), config.max_bad)
    sound = np.ones(len(sources), bool)
    sound[list(facts.reasons)] = False
    numbers = np.flatnonzero(sound)
    if not len(numbers):
        first_bad = min(bad, key=lambda r: r.path)
        raise UserError(
            f"{sources.root}: none of {words.number(len(bad), 'file')} can be a record: {first_bad.path}:"
            f" {first_bad.reason}."
            " Is --src right?"
        )
    class_names, labels = _classes(sources, previous)
    labels = labels[numbers]
    old_rows = _old_rows(sources, facts, numbers, labels, previous)
    sha256 = facts.table["source_sha256"][numbers]
    hashes, first = content_hashes(sha256), duplicates.first_of(sha256)
    splits = sources.splits[numbers]
    if not sources.has_splits:
        keys = split_keys(sha256, sources.groups[numbers])
        fixed = None if previous is None else _previous_sides(hashes, previous)
        splits = choose_splits(keys, labels, config.fractions, config.seed, fixed=fixed)
    if previous is not None:
        splits = np.where(old_rows >= 0, previous.splits[old_rows], splits)
    found = _in_files(duplicates.find(first, labels, splits), numbers)
    kept = np.arange(len(numbers))
    if config.duplicates != "keep":
        dropped = duplicates.to_drop(first, labels, np.where(old_rows >= 0, 0, len(SPLITS) - splits))
        if config.duplicates == "fail":
            _refuse_duplicates(found, sources)
        bad += _dropped(sources, numbers, first, labels, np.flatnonzero(dropped))
        kept = np.flatnonzero(~dropped)
    # Rows in hash order: classes are mixed, so that also a plain sequential reader gets mixed batches.
    # lexsort is stable and `numbers` ascends, so that duplicates stay in the order of their paths.
    is_new = old_rows[kept] < 0
    ranks = np.where(is_new, order.mix(config.seed, 0, hashes[kept]), old_rows[kept].astype(np.uint64))
    rows = kept[np.lexsort((ranks, is_new, splits[kept]))]
    numbers, labels, splits, old_rows = numbers[rows], labels[rows], splits[rows], old_rows[rows]
    _check_classes(sources, class_names, labels, splits, previous is not None)
    path_bytes = np.array([len(sources.paths[i].encode()) for i in numbers.tolist()], np.int64)
    lengths = schema.example_bytes(facts.table["bytes"][numbers], path_bytes, labels)
    shards = tuple(_shards(splits, lengths + schema.FRAME_BYTES, old_rows, config, previous))
    bad += [Rejected(path=sources.paths[i], reason=r, done="repaired") for i, r in facts.repaired.items()]
    rejected = tuple(sorted(bad, key=lambda r: (r.path, r.done)))
    settings = {**settings, "name": name, "format_version": FORMAT_VERSION}
    if not sources.has_splits:  # Given or by default: the same.
        settings |= dict(zip(("validation_fraction", "test_fraction"), config.fractions))
    groups = sources.groups[numbers]
    columns = (facts.table["source_sha256"][numbers], facts.table["sha256"][numbers], labels, splits, groups)
    return Plan(
        name=name,
        class_names=class_names,
        config=settings,
        numbers=numbers,
        labels=labels,
        splits=splits,
        lengths=lengths,
        shards=shards,
        rejected=rejected,
        duplicates=found,
        group_leaks=_group_leaks(groups, splits),
        digest=digest_of(
            settings, class_names, shards, rejected, columns, (sources.paths[i] for i in numbers.tolist())
        ),
    )


def digest_of(
    settings: Mapping[str, Any],
    class_names: Sequence[str],
    shards: Sequence[Shard],
    rejected: Sequence[Rejected],
    columns: Sequence[np.ndarray],
    paths: Iterable[str],
) -> str:
    """Hashes everything that the output depends on.

    Args:
        settings: `Plan.config`.
        class_names: In the order of the labels.
        shards: In the order of the rows.
        rejected: Every file that is no record, or not as it was.
        columns: Over records: u8[n 32] sha256 of the sources and of what is stored, i32[n] labels, i8[n] splits,
            u64[n] groups.
        paths: Of the records.
    """
    digest = hashlib.sha256()
    cuts = [(s.split, s.number, s.of, s.start, s.stop) for s in shards]  # Linked or written: the same bytes.
    bad = [dataclasses.astuple(r) for r in rejected]
    digest.update(json.dumps([settings, class_names, cuts, bad], sort_keys=True).encode())
    for column in columns:
        digest.update(np.ascontiguousarray(column).tobytes())
    for path in paths:
        digest.update(path.encode() + b"\0")
    return digest.hexdigest()


def split_notes(decided: Plan, sources: Sources) -> Iterator[str]:
    """Yield what the user should know of the splits: classes that an automatic split could not divide, torn groups."""
    counts = decided.counts()
    if not sources.has_splits:
        for split in list(counts)[1:]:
            absent = [name for name, count in zip(decided.class_names, counts[split]) if not count]
            if absent:
                what = "class has no image" if len(absent) == 1 else "classes have no images"
                why = "too few images, or groups that count for another class"
                yield f"{len(absent):,} {what} in {split} ({why}): {named(absent)}"
    elif list(counts) == ["train"]:
        yield (
            "the source has a train split only: --validation_fraction=0.2 makes a validation split of it, else trainers"
            " hold out a fifth"
        )
    if decided.group_leaks:
        yield f"{decided.group_leaks:,} groups lie in several of the source's own splits"


def dataset_name(source: str) -> str:
    """Makes a name that TensorFlow Datasets takes, [a-z][a-z0-9_]*, of a directory's name."""
    name = re.sub(r"[^a-z0-9]+", "_", source.lower()).strip("_")
    return name if name[:1].isalpha() else f"images_{name}".rstrip("_")


def check_rejected(rejected: Sequence[Rejected], total: int, max_bad: float) -> None:
    """Raises UserError if more than the share `max_bad` of all files is bad."""
    if len(rejected) > max_bad * total:
        examples = "".join(f"\n  {r.path}: {r.reason}" for r in rejected[:3])
        raise UserError(
            f"{len(rejected):,} of {words.number(total, 'file')} cannot be records, more than --max_bad={max_bad:g}"
            f" allows:{examples}"
            "\nIs --src right? Mend or remove the files, or allow more with --max_bad."
        )


def listed(rejected: Sequence[Rejected]) -> Iterator[str]:
    """Yields lines for the screen: the first of these files, and how many more there are."""
    for one in rejected[:_SHOWN]:
        yield f"  {one.done}: {one.path}: {one.reason}"
    if len(rejected) > _SHOWN:
        yield f"  and {words.number(len(rejected) - _SHOWN, 'more such file')}"


def divided(sources: Sources, config: PlanConfig) -> Sources:
    """Return the sources to be split automatically, if they have a train split only and a fraction is given.

    Raises:
        UserError: Splits are asked for that the source has already.
    """
    asked = config.validation_fraction is not None or config.test_fraction is not None
    if sources.has_splits and asked and not sources.splits.any():
        splits = np.full_like(sources.splits, TO_BE_SPLIT)
        return dataclasses.replace(sources, splits=splits, has_splits=False)
    check_fractions(sources, config)
    return sources


def check_fractions(sources: Sources, config: PlanConfig) -> None:
    """Raises UserError if splits are asked for that the source has already; needs no survey."""
    for flag in ("validation_fraction", "test_fraction"):
        if sources.has_splits and getattr(config, flag) is not None:
            raise UserError(
                f"--{flag}={getattr(config, flag)}: {sources.root} has splits of its own, which are kept."
                " Leave the flag out."
            )


def _classes(sources: Sources, previous: Previous | None) -> tuple[tuple[str, ...], np.ndarray]:
    """Returns the class table, old labels first, and the labels i32[n] of the sources in it."""
    if previous is None:
        return sources.class_names, sources.labels
    names = (*previous.class_names, *(name for name in sources.class_names if name not in previous.class_names))
    return names, np.array([names.index(name) for name in sources.class_names], np.int32)[sources.labels]


def _old_rows(
    sources: Sources, facts: Facts, numbers: np.ndarray, labels: np.ndarray, previous: Previous | None
) -> np.ndarray:
    """Returns i64[n], the previous dataset's row of each image that is unchanged: path, content, label, given split."""
    if previous is None:
        return np.full(len(numbers), -1)
    rows = previous.rows(sources.paths[i] for i in numbers.tolist())
    if not len(previous.paths):
        return rows
    same = (rows >= 0) & (labels == previous.labels[rows])
    same &= (facts.table["source_sha256"][numbers] == previous.source_sha256[rows]).all(axis=1)
    if sources.has_splits:
        same &= sources.splits[numbers] == previous.splits[rows]
    return np.where(same, rows, -1)


def _previous_sides(hashes: np.ndarray, previous: Previous) -> np.ndarray:
    """Return i8[n], the split in which the previous dataset has the same content, `FREE` where it has not."""
    known, rows = np.unique(content_hashes(previous.source_sha256), return_index=True)
    if not len(known):
        return np.full(len(hashes), FREE, np.int8)
    nearest = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
    return np.where(known[nearest] == hashes, previous.splits[rows[nearest]], FREE).astype(np.int8)


def _group_leaks(groups: np.ndarray, splits: np.ndarray) -> int:
    """The number of groups that lie in several splits."""
    pairs = np.unique(np.stack([groups, splits.astype(np.uint64)])[:, groups != NO_GROUP], axis=1)
    return int((np.unique(pairs[0], return_counts=True)[1] > 1).sum())


def _in_files(found: Duplicates, numbers: np.ndarray) -> Duplicates:
    """The same with the numbers of files instead of places."""
    examples = {kind: [numbers[places].tolist() for places in sets] for kind, sets in found.examples.items()}
    return dataclasses.replace(found, examples=examples)


def _refuse_duplicates(found: Duplicates, sources: Sources) -> None:
    for kind in reversed(duplicates.KINDS):
        if found.counts[kind]:
            paths = ", ".join(sources.paths[i] for i in found.examples[kind][0])
            counts = ", ".join(f"{found.counts[k]:,} {what}" for k, what in duplicates.KINDS.items() if found.counts[k])
            raise UserError(
                f"--duplicates=fail: {found.files:,} files have the same bytes as another file ({counts}), such as"
                f" {paths}."
                " Remove them, or pass --duplicates=drop or keep."
            )


def _dropped(
    sources: Sources, numbers: np.ndarray, first: np.ndarray, labels: np.ndarray, dropped: np.ndarray
) -> Iterator[Rejected]:
    """Says of each place `dropped` which other file has the same bytes, one with another label if there is one."""
    for place, same in zip(dropped.tolist(), duplicates.places(first, first[dropped])):
        differing = same[labels[same] != labels[place]]
        other = sources.paths[int(numbers[(differing if len(differing) else same[same != place])[0]])]
        what = "the same bytes, under another label, as" if len(differing) else "the same bytes as"
        yield Rejected(path=sources.paths[int(numbers[place])], reason=f"{what} {other}", done="dropped")


def _check_classes(
    sources: Sources, class_names: Sequence[str], labels: np.ndarray, splits: np.ndarray, updating: bool
) -> None:
    """Refuse a class without an image in train; the source's own splits may be without train."""
    train = splits == 0
    if sources.has_splits and not train.any():
        return
    counts = np.bincount(labels[train], minlength=len(class_names))
    for label in np.flatnonzero(counts == 0).tolist():
        total = int((labels == label).sum())
        remedy = "Add images of it, or list the other classes in --classes to leave it out."
        if updating:
            remedy = "An update keeps every class. Bring the images back, or convert again with --overwrite."
        raise UserError(
            f"the class {class_names[label]!r} has no valid image in the train split ({total:,} in all splits)."
            f" {remedy}"
        )


def _shards(
    splits: np.ndarray, sizes: np.ndarray, old_rows: np.ndarray, config: PlanConfig, previous: Previous | None
) -> Iterator[Shard]:
    """Cuts each split into its old shards and new ones of about equal bytes; `sizes` are framed."""
    present = np.unique(splits)
    bounds = np.searchsorted(splits, [present, present + 1]).T
    first_new = np.array([start + int((old_rows[start:stop] >= 0).sum()) for start, stop in bounds])
    new_bytes = np.array([sizes[start:stop].sum() for start, (_, stop) in zip(first_new, bounds)])
    counts = _shard_counts(new_bytes, bounds[:, 1] - first_new, int(sizes.sum()), config, previous is not None)
    for split, (start, stop), new, count in zip(present.tolist(), bounds, first_new, counts):
        links: list[str] = []
        edges = [np.empty(0, np.int64)]
        if previous is not None:
            shards, starts, kept = np.unique(
                previous.shards[old_rows[start:new]], return_index=True, return_counts=True
            )
            whole = np.bincount(previous.shards[previous.splits == split])
            # An old shard of which all records are kept is that file; others are written anew.
            links = [previous.files[split, s] if k == whole[s] else "" for s, k in zip(shards.tolist(), kept.tolist())]
            edges.append(start + starts)
        if count:
            edges.append(new + _cuts(sizes[new:stop], int(count))[:-1])
        cuts = np.concatenate([*edges, [stop]]).tolist()
        of = len(cuts) - 1
        for number in range(of):
            link = links[number] if number < len(links) else ""
            yield Shard(SPLITS[split], number, of, int(cuts[number]), int(cuts[number + 1]), link)


def _shard_counts(
    split_bytes: np.ndarray, split_records: np.ndarray, total: int, config: PlanConfig, updating: bool
) -> np.ndarray:
    """Returns i64[splits], the number of new shards of each split; a wanted number counts for whole datasets only."""
    if config.shards is not None and not updating:
        if config.shards < len(split_bytes):
            raise UserError(
                f"--shards={config.shards}: there are {words.number(len(split_bytes), 'split')},"
                " and each needs a shard."
            )
        if config.shards > split_records.sum():
            raise UserError(f"--shards={config.shards}: there are {split_records.sum():,} records. Ask for fewer.")
        # After one each, the next one goes where shards are largest and records enough, and so on; all at once.
        more = np.minimum(split_records, config.shards) - 1
        largest = np.concatenate([size / np.arange(1, count + 1) for size, count in zip(split_bytes, more)])
        chosen = np.argsort(-largest, kind="stable")[: config.shards - len(split_bytes)]
        return 1 + np.bincount(np.repeat(np.arange(len(more)), more)[chosen], minlength=len(more))
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
