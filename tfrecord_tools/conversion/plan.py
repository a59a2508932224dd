"""Plan a dataset before anything is written.

A `Plan` lists the records with their order, split and shard. It depends only on the sources, the facts that the
inspection found about each file, and the settings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfrecord_tools import order
from tfrecord_tools.base import words
from tfrecord_tools.conversion import check_classes, copies, decide, near, shards
from tfrecord_tools.conversion.check_classes import Loss
from tfrecord_tools.conversion.decide import Decided
from tfrecord_tools.conversion.near import Alike, NearDuplicates
from tfrecord_tools.conversion.plan_config import PlanConfig, check_fractions
from tfrecord_tools.conversion.previous import Previous
from tfrecord_tools.conversion.rejected import check_rejected, rejected_files
from tfrecord_tools.conversion.rows import Rows
from tfrecord_tools.conversion.survey import Facts
from tfrecord_tools.errors import UserError
from tfrecord_tools.layout import duplicates, schema
from tfrecord_tools.layout.dataset_files import Rejected, Shard
from tfrecord_tools.layout.decisions import Decisions
from tfrecord_tools.layout.digest import digest_of
from tfrecord_tools.layout.duplicates import Duplicates
from tfrecord_tools.layout.split_names import SPLITS
from tfrecord_tools.layout.splitting import NO_GROUP, choose_splits, content_hashes, split_keys
from tfrecord_tools.sources.scan import Sources

FORMAT_VERSION = 4  # Increase this number if the same sources and settings now give other bytes.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """The records of a dataset, in the order in which they are written.

    Attributes:
        name: The dataset's name, a lower-case identifier.
        class_names: The class table. A label is an index into it.
        config: The settings that the output depends on, as a JSON-able dict.
        rows: The records, sorted by split.
        shards: The shards, in the order of the rows.
        rejected: Every file that was skipped, dropped or repaired.
        decided: Labels and dropped files after the user's decisions.
        duplicates: The count of files with the same bytes as another file, and the indices of some of them. Files that
            were dropped for this reason are included.
        near_duplicates: The count of images that look like another image, and the indices of some of them.
        group_leaks: Number of groups (see `group_regex`) with images in several of the source's own splits.
        digest: Hexadecimal digest. Equal digests mean the same records in the same order. The files have the same
            bytes only with the same versions of Pillow and pyarrow.
    """

    name: str
    class_names: tuple[str, ...]
    config: dict[str, Any]
    rows: Rows
    shards: tuple[Shard, ...]
    rejected: tuple[Rejected, ...]
    decided: Decided
    duplicates: Duplicates
    near_duplicates: NearDuplicates
    group_leaks: int
    digest: str

    @property
    def bytes(self) -> int:
        """The size of all shards together, in bytes."""
        return int(self.rows.frame_bytes.sum())

    def counts(self) -> dict[str, np.ndarray]:
        """Return split name -> i64[classes], the number of records per class. Empty splits are left out."""
        classes = len(self.class_names)
        cells = self.rows.splits.astype(np.int64) * classes + self.rows.labels
        table = np.bincount(cells, minlength=len(SPLITS) * classes)
        return {s: row for s, row in zip(SPLITS, table.reshape(len(SPLITS), classes)) if row.any()}


def make_plan(
    sources: Sources,
    facts: Facts,
    config: PlanConfig,
    name: str,
    settings: Mapping[str, Any],
    previous: Previous | None = None,
    made: Decisions = Decisions(),
) -> Plan:
    """Decide which records are written, in which order, split and shard.

    Args:
        sources: The source files.
        facts: The facts about the source files.
        config: The user's choices.
        name: The dataset's name.
        settings: All settings that the stored bytes depend on, including `config.plan_settings()`. They become part of
            the plan.
        previous: The dataset to update. Unchanged records keep their split and order; new images go to new shards.
            None: a new dataset is created.
        made: The decisions about images. Splits and duplicates are computed with the corrected labels.

    Raises:
        UserError: Too many files are bad, a class has no image in train, or the settings or decisions contradict the
            source.
    """
    check_fractions(sources, config)
    bad = [*sources.rejected, *rejected_files(sources, facts.reasons)]
    check_rejected(bad, len(sources) + len(sources.rejected), config.max_bad)
    table = (sources.class_names, sources.labels) if previous is None else previous.class_table(sources)
    fixed_classes = previous is not None or settings.get("classes") is not None
    decided = decide.apply(made, sources, facts, table, fixed_classes)
    class_names = decided.class_names
    rows = _valid(sources, facts, decided, bad)
    bad += decided.rejected(sources)
    sha256 = facts.table["source_sha256"][rows.numbers]
    if previous is not None:
        rows = dataclasses.replace(rows, previous=previous.unchanged(rows, sha256, sources))
    first = duplicates.first_of(sha256)
    alike = near.look_for(rows, first, facts, config.near_distance)
    rows = _with_splits(rows, sha256, alike, sources, config, previous)
    same = copies.find(rows, first)
    kept = near.count(rows.take(np.isin(rows.numbers, decided.alike)), facts, config.near_distance)
    similar = near.find(rows, alike, facts, config.near_distance, kept)
    if config.duplicates == "fail":
        copies.refuse(same, sources)
    rows, dropped, losses = _without_copies(rows, first, sources, facts, config, decided)
    bad += dropped
    rows = rows.take(_order(rows, config.seed))
    check_classes.check(sources, class_names, rows, decided, losses, previous is not None)
    bad += rejected_files(sources, facts.repaired, "repaired")
    settings = _settings(settings, name, sources, config)
    cut, rejected = tuple(shards.cut(rows, config, previous)), tuple(sorted(bad, key=lambda r: (r.path, r.done)))
    return Plan(
        name=name,
        class_names=class_names,
        config=settings,
        rows=rows,
        shards=cut,
        rejected=rejected,
        decided=decided,
        duplicates=same,
        near_duplicates=similar,
        group_leaks=_group_leaks(sources.groups[rows.numbers], rows.splits),
        digest=_digest(settings, class_names, cut, rejected, rows, sources, facts),
    )


def _valid(sources: Sources, facts: Facts, decided: Decided, bad: Sequence[Rejected]) -> Rows:
    """Return the table of the files that can be records, in the order of their paths.

    Raises:
        UserError: There is no such file.
    """
    valid = np.ones(len(sources), bool)
    valid[list(facts.reasons)] = False
    numbers = np.flatnonzero(valid)
    if not len(numbers):
        first_bad = min(bad, key=lambda r: r.path)
        raise UserError(
            f"{sources.root}: none of {words.number(len(bad), 'file')} can be converted. The first one is"
            f" {first_bad.path}: {first_bad.reason}. Is --src right?"
        )
    numbers = np.setdiff1d(numbers, decided.dropped, assume_unique=True)
    labels = decided.labels
    path_bytes = np.array([len(sources.paths[number].encode()) for number in numbers.tolist()], np.int64)
    return Rows(
        numbers=numbers,
        labels=labels[numbers],
        splits=sources.splits[numbers],
        groups=sources.groups[numbers],
        hashes=content_hashes(facts.table["source_sha256"])[numbers],
        lengths=schema.example_bytes(facts.table["bytes"][numbers], path_bytes, labels[numbers]),
        previous=np.full(len(numbers), -1),
    )


def _with_splits(
    rows: Rows, sha256: np.ndarray, alike: Alike, sources: Sources, config: PlanConfig, previous: Previous | None
) -> Rows:
    """Return the rows with their splits. With --near_duplicates=group, near-duplicates also become groups.

    Unchanged records keep their split, with one exception. If near-duplicates are grouped, a new image may look like
    records of several splits. Then all these records move to new shards of one split: that of the record
    with the first path in sorted order.
    """
    keys = split_keys(sha256, rows.groups)
    if config.near_duplicates != "keep":
        keys = duplicates.joined(keys, alike.keys)
    if not sources.has_splits:
        fixed = None if previous is None else previous.sides(rows.hashes)
        splits = choose_splits(keys, rows.labels, config.fractions, config.seed, fixed=fixed)
        rows = dataclasses.replace(rows, splits=_previous_splits(rows, previous, splits))
        if config.near_duplicates == "group":
            moved = (rows.splits != splits) & np.isin(keys, keys[alike.near])
            rows = dataclasses.replace(
                rows, splits=np.where(moved, splits, rows.splits), previous=np.where(moved, -1, rows.previous)
            )
    elif previous is not None:
        rows = dataclasses.replace(rows, splits=_previous_splits(rows, previous, rows.splits))
    return near.grouped(rows, keys, alike) if config.near_duplicates == "group" else rows


def _previous_splits(rows: Rows, previous: Previous | None, splits: np.ndarray) -> np.ndarray:
    """Return i8[n]: the earlier split of each unchanged record, and the split in `splits` of the others."""
    if previous is None or rows.is_new.all():
        return splits
    return np.where(rows.is_new, splits, previous.splits[rows.previous])


def _without_copies(
    rows: Rows, first: np.ndarray, sources: Sources, facts: Facts, config: PlanConfig, decided: Decided
) -> tuple[Rows, list[Rejected], list[Loss]]:
    """Leave out duplicates and near-duplicates, as the flags say.

    Returns:
        The other rows, an entry for each row that is left out, and the training images that each flag leaves out.
    """
    rejected, losses = list[Rejected](), list[Loss]()

    def without(dropped: np.ndarray, entries: list[Rejected], flag: str) -> Rows:
        rejected.extend(entries)
        losses.append(Loss(flag, rows.labels[dropped & (rows.splits == 0)]))
        return rows.take(~dropped)

    if config.duplicates == "drop":
        kept = np.isin(rows.numbers, decided.kept)
        rows = without(*copies.drop(rows, first, kept, sources), "--duplicates=drop")
    if config.near_duplicates == "drop":
        kept = np.isin(rows.numbers, decided.alike)
        rows = without(*near.drop(rows, facts, kept, sources, config.near_distance), "--near_duplicates=drop")
    return rows, rejected, losses


def _order(rows: Rows, seed: int) -> np.ndarray:
    """Return i64[n], the order of the rows, sorted by split.

    In each split, the unchanged records come first in their old order. The new records follow, sorted by a hash. The
    hash mixes the classes, so that a sequential reader gets mixed batches. Duplicates stay in the order of their paths:
    files are numbered in this order, and lexsort is stable.
    """
    ranks = np.where(rows.is_new, order.hash64(seed, 0, rows.hashes), rows.previous.astype(np.uint64))
    return np.lexsort((ranks, rows.is_new, rows.splits))


def _settings(settings: Mapping[str, Any], name: str, sources: Sources, config: PlanConfig) -> dict[str, Any]:
    """Return all settings that the output depends on, with the default fractions filled in."""
    fractions = {} if sources.has_splits else dict(zip(("validation_fraction", "test_fraction"), config.fractions))
    return {**settings, "name": name, "format_version": FORMAT_VERSION, **fractions}


def _group_leaks(groups: np.ndarray, splits: np.ndarray) -> int:
    """Return the number of the source's groups with images in several splits."""
    pairs = np.stack([groups, splits.astype(np.uint64)])[:, groups != NO_GROUP]
    return int((np.unique(np.unique(pairs, axis=1)[0], return_counts=True)[1] > 1).sum())


def _digest(
    settings: Mapping[str, Any],
    class_names: Sequence[str],
    cut: Sequence[Shard],
    rejected: Sequence[Rejected],
    rows: Rows,
    sources: Sources,
    facts: Facts,
) -> str:
    hashes = (facts.table[name][rows.numbers] for name in ("source_sha256", "sha256"))
    columns = (*hashes, rows.labels, rows.splits, rows.groups)
    paths = (sources.paths[number] for number in rows.numbers.tolist())
    return digest_of(settings, class_names, cut, rejected, columns, paths)
