"""Compute features of images once, and keep them on disk: an array per split, a row per record."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import tensorflow as tf

from tfrecord_tools import dataset, order
from tfrecord_tools.base import files, graphs, python_calls, workers
from tfrecord_tools.base.progress import Progress
from tfrecord_tools.decoding.geometry import Geometry
from tfrecord_tools.errors import UserError
from tfrecord_tools.records import Records

_VALUES, _ABOUT, _PROGRESS = "features.npy", "about.json", "progress.json"
_AT_ONCE = 2  # Batches that are computed at once, so that small layers of one run beside large layers of the other.
_BLOCK = 4_096  # Rows that are read at once.
_SAVED_EVERY = 2_000  # Records. A computation that is killed repeats at most this number.


@dataclasses.dataclass(frozen=True)
class Features:
    """The features of the valid records of a split.

    Attributes:
        values: f32[n c], one row per record in the order of the index, mapped from disk. For a fold, a `Gathered`,
            which can only be indexed with rows and has a shape.
        labels: i64[n].
        valid: i64[k], the rows of valid records, at least one. Rows of corrupt records are zeros.
        seconds: Time that the computation of the features took, perhaps in an earlier process.
    """

    values: np.ndarray
    labels: np.ndarray
    valid: np.ndarray
    seconds: float = 0.0

    def shuffled(
        self, batch_size: int, seed: int, start_step: int = 0, shard: tuple[int, int] = (0, 1)
    ) -> tf.data.Dataset:
        """Return endless shuffled batches (f32[b c], i64[b]) of features and labels.

        Batch k depends only on the seed and k. Every epoch has another order.

        Args:
            batch_size: Rows per batch, over all workers.
            seed: Seed of the order.
            start_step: Number of the first batch.
            shard: As in `dataset.train_batches`.
        """
        numbers = self._batches(batch_size, seed, shard)
        return self._gather(tf.data.Dataset.counter(start_step), numbers, batch_size // shard[1])

    def not_finite(self) -> np.ndarray:
        """Return i64[m], the valid rows with a value that is NaN or infinite. All values are read."""
        blocks = (self.valid[start : start + _BLOCK] for start in range(0, len(self.valid), _BLOCK))
        return np.concatenate([rows[~np.isfinite(self.values[rows]).all(1)] for rows in blocks])

    def batch_numbers(self, batch_size: int, seed: int, step: int) -> np.ndarray:
        """Return the record numbers i64[b] of a batch of `shuffled`."""
        return self._batches(batch_size, seed, (0, 1))(step)

    def _batches(self, batch_size: int, seed: int, shard: tuple[int, int]) -> Callable[[Any], np.ndarray]:
        # All batches share one order: it permutes thousands of positions at once and keeps them.
        shuffled = order.Shuffled(len(self.valid), seed)
        return lambda step: self.valid[shuffled[order.batch_positions(int(step), batch_size, shard)]]

    def in_order(self, batch_size: int, shard: tuple[int, int] = (0, 1)) -> tf.data.Dataset:
        """Return batches (f32[b c], i64[b]) of a worker's valid records in order. The last may be smaller."""
        index, workers = shard
        own = self.valid[index::workers]
        starts = tf.data.Dataset.range(0, len(own), batch_size)
        return self._gather(starts, lambda start: own[start : start + batch_size], None)

    def _gather(
        self, positions: tf.data.Dataset, choose: Callable[[np.ndarray], np.ndarray], rows: int | None
    ) -> tf.data.Dataset:
        def gather(position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            chosen = choose(position)
            return self.values[chosen], self.labels[chosen]

        @graphs.plain
        def as_tensors(position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            values, labels = python_calls.numpy_function(gather, [position], (tf.float32, tf.int64))
            return tf.ensure_shape(values, [rows, self.values.shape[1]]), tf.ensure_shape(labels, [rows])

        return python_calls.without_autotune(positions.map(as_tensors)).prefetch(tf.data.AUTOTUNE)


class Gathered:
    """Some rows of several arrays, f32[n c], which are read only when they are needed."""

    def __init__(self, arrays: Sequence[np.ndarray], rows: np.ndarray) -> None:
        """Choose the rows.

        Args:
            arrays: Arrays f32[. c].
            rows: i64[n], rows of all arrays, one array after the other.
        """
        self._arrays, self._rows = arrays, rows
        self._starts = np.cumsum([0, *map(len, arrays)])
        self.shape = (len(rows), arrays[0].shape[1])

    def __getitem__(self, numbers: np.ndarray) -> np.ndarray:
        """Return the rows with these numbers, f32[k c]."""
        rows = self._rows[numbers]
        values = np.empty((len(rows), self.shape[1]), np.float32)
        for array, start in zip(self._arrays, self._starts):
            own = (rows >= start) & (rows < start + len(array))
            values[own] = array[rows[own] - start]
        return values


def select(whole: Sequence[tuple[Records, Features]], records: Records) -> Features:
    """Return the features of some records of several splits.

    Args:
        whole: All records and features of each split of `records`.
        records: The records. The corrupt ones are added to `records.corrupt`.

    Raises:
        UserError: All records are corrupt.
    """
    rows = _rows(whole, records)
    ends = np.cumsum([len(part) for part, _ in whole])
    valid = np.concatenate([features.valid + end - len(part) for (part, features), end in zip(whole, ends)])
    corrupt = {
        int(end) - len(part) + number: message
        for (part, _), end in zip(whole, ends)
        for number, message in part.corrupt.items()
    }
    is_valid = np.isin(rows, valid)
    records.corrupt |= {number: corrupt[int(rows[number])] for number in np.flatnonzero(~is_valid).tolist()}
    if not is_valid.any():
        raise UserError(
            f"all {len(records):,} records of {records.split} are corrupt, for example {records.corrupt[0]}"
        )
    seconds = sum(features.seconds for _, features in whole) * len(records) / int(ends[-1])
    arrays = [np.asarray(features.values) for _, features in whole]
    return Features(cast("np.ndarray", Gathered(arrays, rows)), records.labels, np.flatnonzero(is_valid), seconds)


def _rows(whole: Sequence[tuple[Records, Features]], records: Records) -> np.ndarray:
    """Return i64[n], the row of each record in the features of all splits, one split after the other."""
    splits, numbers = records.places
    rows, start = np.empty(len(records), np.int64), 0
    for part, _ in whole:
        own = np.array(splits) == part.split
        rows[own] = start + np.searchsorted(part.rows, numbers[own])
        start += len(part)
    return rows


def load_or_extract(
    records: Records,
    extractor: Callable[[tf.Tensor], Any],
    *,
    width: int,
    key: Mapping[str, Any],
    directory: Path,
    geometry: Geometry,
    batch_size: int,
    log: Callable[[str], object] = print,
) -> Features:
    """Read the features of records from disk, and compute those that are missing.

    A computation that was killed continues where it stopped.

    Args:
        records: The records of a split.
        extractor: Function u8[b h w 3] -> f32[b c].
        width: Number of features, c.
        key: JSON values that determine the features together with the records, such as the network.
        directory: Directory for features. Each key has its own subdirectory.
        geometry: How images become the input of the network.
        batch_size: Images in a call of `extractor`.
        log: Receives the lines for the user.

    Raises:
        UserError: Another process computes the same features, the files are damaged, or all records are corrupt.
    """
    key = key_of(records, key)
    folder = folder_of(directory, key)
    if not (folder / _ABOUT).exists():
        folder.mkdir(parents=True, exist_ok=True)
        with files.lock(folder / "lock", f"{folder}: another process computes these features. Wait until it ends."):
            if not (folder / _ABOUT).exists():
                _extract(records, extractor, width, key, folder, geometry, batch_size, log)
    return _open(records, width, folder, geometry, log)


def key_of(records: Records, key: Mapping[str, Any]) -> dict[str, Any]:
    """Return `key` with the records added. All values must be JSON values."""
    return {**key, "rows": hashlib.sha256(records.rows.tobytes()).hexdigest(), "split": records.split}


def folder_of(directory: Path, key: Mapping[str, Any]) -> Path:
    """Return the subdirectory for a key that `key_of` has returned."""
    return directory / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


def _open(records: Records, width: int, folder: Path, geometry: Geometry, log: Callable[[str], object]) -> Features:
    try:
        about = json.loads((folder / _ABOUT).read_text())
        values = np.load(folder / _VALUES, mmap_mode="r")
        if values.shape != (len(records), width):
            raise ValueError(f"its shape is {values.shape}")
        known, seconds = [int(number) for number in about["corrupt"]], float(about["seconds"])
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise UserError(f"{folder}: is damaged ({error}). Delete it, and the features are computed again.") from error
    rows, megabytes = f"{values.shape[0]:,} x {width:,}", values.nbytes / 1e6
    log(f"features: {records.split}, {rows}, {megabytes:,.0f} MB in {folder}")
    fetch, image = dataset.fetch_decoded(records, geometry), np.empty((1, *geometry.shape), np.uint8)
    # Reading a record that is still corrupt reports it again.
    repaired = next((number for number in known if fetch(np.array([number]), image)[0]), None)
    if repaired is not None:
        raise UserError(
            f"{folder}: these features were computed when {records.describe(repaired)} was corrupt. Now this"
            " record is valid. Delete this directory, and the features are computed again."
        )
    valid = np.setdiff1d(np.arange(len(records)), np.array(known, np.int64))
    if not len(valid):
        raise UserError(
            f"all {len(records):,} records of {records.split} are corrupt, for example {records.corrupt[0]}"
        )
    return Features(values, records.labels, valid, seconds)


def _extract(
    records: Records,
    extractor: Callable[[tf.Tensor], Any],
    width: int,
    key: Mapping[str, Any],
    folder: Path,
    geometry: Geometry,
    batch_size: int,
    log: Callable[[str], object],
) -> None:
    count = len(records)
    done, records_corrupt, before = _read_progress(folder)
    values = np.lib.format.open_memmap(
        folder / _VALUES, mode="r+" if done else "w+", dtype=np.float32, shape=None if done else (count, width)
    )
    if not done:  # Disk space is reserved now. Otherwise, a full disk would cause a bus error during the computation.
        with open(folder / _VALUES, "r+b") as file:
            files.allocate(file, file.seek(0, os.SEEK_END))
    began = time.monotonic()
    with Progress("features", count) as progress:
        progress.skip(done)
        for start in range(done, count, _SAVED_EVERY):
            end = min(start + _SAVED_EVERY, count)
            part = records.select(np.arange(start, end))
            batches = dataset.eval_stream(part, batch_size=batch_size, image_size=geometry)
            try:
                for numbers, rows in _compute(extractor, batches, batch_size):
                    values[start + numbers] = rows
                    progress(len(numbers))
            except tf.errors.OpError as error:
                raise UserError(part.failure or str(error)) from error
            records_corrupt |= {start + number: message for number, message in part.corrupt.items()}
            values.flush()
            seconds = before + time.monotonic() - began
            _write(folder / _PROGRESS, {"done": end, "corrupt": records_corrupt, "seconds": seconds})
    seconds = time.monotonic() - began
    _write(folder / _ABOUT, {"key": key, "corrupt": records_corrupt, "seconds": before + seconds})
    (folder / _PROGRESS).unlink(missing_ok=True)
    log(f"features: {count - done:,} computed in {seconds:,.1f} s, {(count - done) / seconds:,.1f} images/s")


def _compute(
    extractor: Callable[[tf.Tensor], Any], batches: tf.data.Dataset, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (record numbers i64[b], features f32[b c]) of batches. Some batches are computed at once.

    Smaller batches are filled up to the full size, because oneDNN, cuDNN or XLA would compile each new size, which
    takes a second or more.
    """

    def compute(batch: dataset.Batch) -> tuple[np.ndarray, np.ndarray]:
        count = len(batch.numbers)
        missing = batch_size - count
        full = tf.pad(batch.images, [[0, missing], [0, 0], [0, 0], [0, 0]]) if missing else batch.images
        return batch.numbers.numpy(), np.asarray(extractor(full))[:count]

    return workers.in_threads(compute, batches, _AT_ONCE, _AT_ONCE)


def _read_progress(folder: Path) -> tuple[int, dict[int, str], float]:
    """Return the number of records that are done, the corrupt ones among them, and the seconds they took."""
    try:
        progress = json.loads((folder / _PROGRESS).read_text())
    except FileNotFoundError:
        return 0, {}, 0.0
    corrupt = {int(number): message for number, message in progress["corrupt"].items()}
    return progress["done"], corrupt, progress["seconds"]


def _write(path: Path, value: Mapping[str, Any]) -> None:
    with files.atomic(path) as file:
        file.write(json.dumps(value, indent=2).encode())
