"""Assign records to folds for cross-validation, and write and read the file of folds.

The file is a CSV or Parquet file with the columns split, record and fold. The column record is the number of the record
in its split, as in predictions.csv. A training with --fold=2 validates on the records of fold 2, and trains on all
other records of the file. This module does not need TensorFlow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tfrecord_tools.base import tables, tabular, words
from tfrecord_tools.errors import UserError, named
from tfrecord_tools.layout import index, near_duplicates, splitting
from tfrecord_tools.records import Dataset, Records
from trainers.auditing import folding

if TYPE_CHECKING:
    import pyarrow as pa

SPLITS = ("train", "validation")  # The test split is kept for the final evaluation of the chosen model.
FEWEST = 2
_NEEDED = ("split", "record", "fold")
# For each record, at most this number of images with a similar perceptual hash is used. Images with a white background
# may have thousands.
_PAIRS_OF_HASH = 32
_HASH_BITS = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Folds:
    """Records, each in one fold.

    Attributes:
        records: The records, the training split first.
        folds: i64[n], number of the fold of each record, from 1.
        units: i64[n], the unit of each record, from 0. A unit is a set of records that must stay in one fold, such as
            copies of an image. If the file has no units, each record is a unit of its own.
    """

    records: Records
    folds: np.ndarray
    units: np.ndarray

    @property
    def numbers(self) -> list[int]:
        """The numbers of the folds, in ascending order."""
        return [int(number) for number in np.unique(self.folds)]

    def divided(self, fold: int) -> tuple[Records, Records]:
        """Return the records to train on, and those of a fold to validate on."""
        own = self.folds == fold
        return self.records.select(np.flatnonzero(~own)), self.records.select(np.flatnonzero(own))


def splits_of(data: Dataset) -> tuple[str, ...]:
    """Return those of `SPLITS` that have records in a dataset."""
    return tuple(split for split in SPLITS if data.splits.get(split))


def assign(
    data: Dataset, count: int, seed: int, directory: Path, log: Callable[[str], object] = print
) -> tuple[Folds, list[str]]:
    """Assign the records of the training and validation split to folds.

    Copies of an image, records of a group and near-duplicates form a unit. A unit stays in one fold. Each class has
    nearly the same number of units in every fold: the numbers differ by at most one. The folds depend only on the
        images and the arguments.

    Args:
        data: The dataset.
        count: Number of folds, at least 2.
        seed: Another seed gives other folds.
        directory: Directory for features. Hashes that are not in the index are computed and saved there.
        log: Receives the lines for the user.

    Returns:
        The folds, and lines for the user about units that are too large and classes that some folds do not have.

    Raises:
        UserError: There are no records, or fewer units than folds.
    """
    given = f"--tfrecords={data.location}"
    splits = splits_of(data)
    if not splits:
        raise UserError(
            f"{given}: has no images for cross-validation; its splits are {dict(data.splits)}. Convert images with a"
            " train or validation split."
        )
    records = data.records(*splits)
    keys, is_cut = _keys(data, records, len(records) // count, directory, log)
    names, units = np.unique(keys, return_inverse=True)
    if len(names) < count:
        raise UserError(
            f"--folds={count}: the {words.number(len(records), 'record')} of {records.split} form"
            f" {words.number(len(names), 'group')} of images that must stay together. Each fold needs at least one"
            f" group. Pass --folds={len(names)} or less, or convert more images."
        )
    folds = Folds(records=records, folds=folding.assign(keys, records.labels, count, seed) + 1, units=units.reshape(-1))
    return folds, list(_notes(data, folds, count, is_cut))


def _keys(
    data: Dataset, records: Records, most: int, directory: Path, log: Callable[[str], object]
) -> tuple[np.ndarray, bool]:
    """Return a key for each record, u64[n], and whether a chain of near-duplicates was cut.

    In a chain, each image is a near-duplicate of the next one. A chain that is too long for a fold is cut. Records with
    the same key must stay in one fold.
    """
    table = records.indexed("source_sha256", "group")
    given = splitting.split_keys(index.hashes(table, "source_sha256"), table.column("group").to_numpy())
    hashes = _hashes(data, records, directory, log)
    pairs = near_duplicates.pairs(hashes, near_duplicates.DEFAULT_DISTANCE, _PAIRS_OF_HASH)
    differing = near_duplicates.distances(hashes[pairs[:, 0]], hashes[pairs[:, 1]])
    joined = folding.joined(given, pairs, 1 - differing / _HASH_BITS, most)
    # The key of a unit depends on its images, and not on the other units.
    _, units = np.unique(joined, return_inverse=True)
    least = np.full(units.max(initial=0) + 1, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(least, units.reshape(-1), given)
    return least[units.reshape(-1)], bool((joined[pairs[:, 0]] != joined[pairs[:, 1]]).any())


def _hashes(data: Dataset, records: Records, directory: Path, log: Callable[[str], object]) -> np.ndarray:
    """Return the perceptual hash of each record, u64[n]. Missing hashes are computed and saved."""
    table = records.indexed("phash", "brightness")
    hashes = np.array(table.column("phash").to_numpy(), np.uint64)
    missing = np.isnan(table.column("brightness").to_numpy())
    if missing.any():
        from trainers.fitting import facts_cache  # Imported late, because it loads TensorFlow.

        splits = np.array(records.places[0])
        for split in records.splits:  # An audit saves its hashes per split. They are used again.
            own = np.flatnonzero(missing & (splits == split))
            if len(own):
                chosen = data.records(split).select(own - np.flatnonzero(splits == split)[0])
                hashes[own] = facts_cache.load_or_compute(chosen, data.digest, directory, log)["phash"]
    return hashes


def _notes(data: Dataset, folds: Folds, count: int, is_cut: bool) -> Iterator[str]:
    labels, total = folds.records.labels, len(folds.records)
    largest = int(np.bincount(folds.units).max())
    if largest * count > total:
        yield (
            f"{largest:,} of {total:,} images are copies or near-duplicates of each other, or belong to one group. They"
            " stay in one fold, which is larger than the others."
        )
    if is_cut:
        yield (
            f"more than {total // count:,} images form a chain, in which each image is a near-duplicate of the next"
            " one. The chain was cut between its least similar images, so some images are validated by a model that"
            " was trained on their near-duplicates."
        )
    is_present = np.zeros((len(data.class_names), count), bool)
    is_present[labels, np.unique(folds.folds, return_inverse=True)[1].reshape(-1)] = True
    present = is_present.sum(axis=1)
    once = [repr(data.class_names[label]) for label in np.flatnonzero(present == 1)]
    some = [repr(data.class_names[label]) for label in np.flatnonzero((present > 1) & (present < count))]
    if len(once) == 1:
        yield (
            f"all images of class {once[0]} are in one fold. The model that is validated on this fold is trained"
            " without images of this class."
        )
    elif once:
        yield (
            f"each of {len(once):,} classes has all its images in one fold: {named(once)}. The model that is validated"
            " on that fold is trained without images of the class."
        )
    if len(some) == 1:
        (folds_of_class,) = present[(present > 1) & (present < count)].tolist()
        yield (
            f"class {some[0]} has images in {folds_of_class:,} of {count:,} folds. In the other folds, this class is"
            " not evaluated."
        )
    elif some:
        yield (
            f"{len(some):,} classes do not have images in all {count:,} folds: {named(some)}. A class is not evaluated"
            " in a fold without its images."
        )


def write(path: Path, folds: Folds, class_names: Sequence[str]) -> None:
    """Write the file of folds, with the columns split, record, fold, unit, path and label."""
    splits, numbers = folds.records.places
    columns = (splits, numbers.tolist(), folds.folds.tolist(), folds.units.tolist(), folds.records.paths)
    labels = [class_names[label] for label in folds.records.labels.tolist()]
    names = (*_NEEDED, "unit", "path", "label")
    tabular.write_csv(path, names, (dict(zip(names, row)) for row in zip(*columns, labels)))


def is_table(path: str) -> bool:
    """Return whether a file is a table of folds, and not a list of record numbers.

    A table of folds has a column "fold".
    """
    try:
        if path.endswith(".parquet"):
            return "fold" in index.columns(Path(path))
        with open(path, encoding="utf-8-sig") as file:
            return "fold" in file.readline()
    except (OSError, ValueError):  # Errors of pyarrow and of decoding are ValueErrors.
        return False


def read(path: str, data: Dataset) -> Folds:
    """Read a file of folds.

    Raises:
        UserError: The file cannot be read, lacks a column, or has a row that is not a record of the dataset.
    """
    given = f"--records={path}"
    table, _ = tables.read(path, known=_NEEDED)
    missing = [name for name in _NEEDED if name not in table.column_names]
    if missing:
        raise UserError(
            f"{given}: has no column {missing[0]!r}. With --fold, the file must be a table with the columns"
            f" {', '.join(_NEEDED)}, such as the file folds.csv that python -m trainers.compare --folds=5 writes."
        )
    splits = tables.texts(table, "split")
    foreign = sorted(set(splits) - set(splits_of(data)))
    if foreign:
        raise UserError(
            f"{given}: {foreign[0]!r} is not a split for cross-validation. Allowed splits:"
            f" {', '.join(splits_of(data))}. The test split is kept for the final evaluation."
        )
    records = data.records(*[split for split in SPLITS if split in set(splits)])
    chosen = records.select(_positions(given, records, splits, _integers(given, table, "record")))
    units = _integers(given, table, "unit") if "unit" in table.column_names else np.arange(len(chosen))
    return Folds(records=chosen, folds=_integers(given, table, "fold"), units=units)


def _integers(given: str, table: pa.Table, column: str) -> np.ndarray:
    texts = tables.texts(table, column)
    try:
        return np.array([int(text) for text in texts], np.int64)
    except ValueError as error:
        wrong = next(text for text in texts if not text.removeprefix("-").isdecimal())
        raise UserError(
            f"{given}: {wrong!r} in the column {column!r} is not a whole number. Correct the row."
        ) from error


def _positions(given: str, records: Records, splits: Sequence[str], numbers: np.ndarray) -> np.ndarray:
    """Return i64[k], for each row of the file, the position of its record in `records`."""
    names, own = records.places
    position_of = {place: position for position, place in enumerate(zip(names, own.tolist()))}
    places = list(zip(splits, numbers.tolist()))
    wrong = next((place for place in places if place not in position_of), None)
    if wrong:
        raise UserError(
            f"{given}: record {wrong[1]:,} of the split {wrong[0]} does not exist. Perhaps the file was made for"
            " another dataset. Make the file again with python -m trainers.compare --folds."
        )
    if len(set(places)) < len(places):
        raise UserError(f"{given}: a record is in two rows. Each record may be in one row only.")
    return np.array([position_of[place] for place in places], np.int64)
