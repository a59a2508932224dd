"""Verify that a dataset is complete and undamaged.

python -m tfrecord_tools.verify out/ checks all checksums, hashes and counts. It compares the index (records.parquet)
with the shards (TFRecord files), and decodes every image in TensorFlow. If there are problems, it prints the first 20
with shard and record, and the exit code is 1. Images that are in several splits, or have several labels, are reported
too, but are not counted as problems.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import hashlib
import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

from tfrecord_tools.base import cache_options, command, files, words, workers
from tfrecord_tools.base.progress import Progress
from tfrecord_tools.errors import UserError, one_line
from tfrecord_tools.layout import dataset_files, decisions, digest, duplicates, index, metadata, schema
from tfrecord_tools.layout.dataset_files import ConvertJson, Rejected
from tfrecord_tools.layout.schema import Keys
from tfrecord_tools.records import Dataset, open_dataset
from tfrecord_tools.remote.interface import Changed, Missing

if TYPE_CHECKING:
    from tfrecord_tools.remote.opening import Bucket

_SHOWN = 20
_SHARD_NAME = re.compile(r"\.tfrecord-\d+-of-\d+$")


@dataclasses.dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """Settings of `verify`.

    Attributes:
        directory: The dataset directory.
        cache_dir: As in `records.open_dataset`. Only the index is kept there: shards are read once, in parts.
        decode: Decode every image in TensorFlow.
        workers: Number of processes. None: one per processor.
    """

    directory: str
    cache_dir: str | None = None
    decode: bool = True
    workers: int | None = None

    def __post_init__(self) -> None:
        workers.check_count(self.workers)


@dataclasses.dataclass(frozen=True)
class _Job:
    directory: Path
    dataset: str
    group: int
    shards: dict[str, int]  # Split -> number of shards.
    keys: Keys
    decode: bool
    bucket: Bucket | None
    decided: dict[bytes, int]  # Hash of the source file -> label in the index, for records with another label.


@dataclasses.dataclass(frozen=True)
class _Verified:
    shard: str
    records: int
    problems: list[str]


def verify(config: VerifyConfig, log: Callable[[str], object] = print) -> list[str]:
    """Verify a dataset.

    Args:
        config: The dataset, and how to verify it.
        log: Called with each line of the report.

    Returns:
        One line per problem, with file, record and source path. Empty if there is no problem.

    Raises:
        UserError: The dataset does not exist, or its index cannot be read.
    """
    data = open_dataset(config.directory, cache_dir=config.cache_dir)
    facts = dataset_files.read(data.directory)
    table = index.read(data.directory / index.FILE_NAME, digest.DIGESTED)
    problems = list(_check_metadata(data, facts, table))
    decided = _decided(data, facts)
    jobs = [
        _Job(data.directory, data.name, group, dict(data.shards), data.keys, config.decode, data.bucket, decided)
        for group in range(index.groups(data.directory / index.FILE_NAME))
    ]
    with workers.pool(config.workers) as pool, Progress("verify", len(table)) as progress:
        for verified in pool.map(_verify_shard, jobs):
            problems += verified.problems
            progress(verified.records)
    for line in _shared_images(table):
        log(line)
    if not problems:
        how = "every image decodes in TensorFlow" if config.decode else "images were not decoded"
        log(
            f"{data.location}: {words.number(len(table), 'record')} in"
            f" {words.number(len(jobs), 'shard is', 'shards are')} valid; {how}"
        )
    return problems


def _decided(data: Dataset, facts: ConvertJson) -> dict[bytes, int]:
    """Return source hash -> label in the index, for adopted records with another stored label."""
    if not facts["config"].get("adopted") or facts["config"].get("rewritten"):
        return {}
    label_of = {name: label for label, name in enumerate(data.class_names)}
    made = decisions.of_dataset(data.directory).values()
    return {bytes.fromhex(one.sha256): label_of.get(one.label, -1) for one in made if one.decision == "label"}


def _check_metadata(data: Dataset, facts: ConvertJson, table: Any) -> Iterator[str]:
    """Yield a line for each file that is damaged or differs from the index, except shards."""
    checks: dict[str, Callable[[], Iterator[str]]] = {
        index.FILE_NAME: lambda: _check_counts(data, facts, table),
        metadata.labels_file(data.keys): lambda: _check_class_names(data),
        "features.json": lambda: _check_features(data),
        "dataset_info.json": lambda: _check_dataset_info(data, table),
        "rejected.csv": lambda: _check_digest(data, facts, table),
        metadata.CHANGED: lambda: _check_changed(data),
    }
    for name, check in checks.items():
        try:
            yield from check()
        except Missing:
            yield f"{name}: does not exist"
        except OSError as error:
            yield f"{name}: cannot be read: {error.strerror}"
        except (ValueError, KeyError, TypeError, IndexError, csv.Error) as error:
            yield f"{name}: damaged ({error})"
    expected = {dataset_files.shard_name(data.name, s, i, n) for s, n in data.shards.items() for i in range(n)}
    present = os.listdir(data.directory) if data.bucket is None else data.bucket.objects
    for name in sorted(set(filter(_SHARD_NAME.search, present)) - expected):
        yield (
            f"{name}: a shard that does not belong to this dataset. A program that reads all files with such names"
            " would read this shard too. Delete the shard"
        )


def _check_counts(data: Dataset, facts: ConvertJson, table: Any) -> Iterator[str]:
    by_split: dict[str, dict[int, int]] = {split: {} for split in data.splits}  # Label -> number of rows.
    for row in index.counts(table).to_pylist():
        by_split.setdefault(row["split"], {})[row["label"]] = row["count_all"]
    for split, count in data.splits.items():
        rows_of = by_split[split]
        rows = sum(number for label, number in rows_of.items() if label != index.LEFT_OUT)
        if rows != count:
            yield f"{index.FILE_NAME}: has {words.number(rows, 'row')} of {split}, but convert.json has {count:,}"
        for entry in facts["classes"]:
            rows = rows_of.get(entry["label"], 0)
            expected = dataset_files.class_records(entry, split)
            if rows != expected:
                yield (
                    f"{index.FILE_NAME}: has {words.number(rows, 'row')} of {split} in class {entry['name']!r}, but"
                    f" convert.json has {expected:,}"
                )


def _check_class_names(data: Dataset) -> Iterator[str]:
    name = metadata.labels_file(data.keys)
    names = data.file(name).read_text("utf-8").removesuffix("\n").split("\n")
    if tuple(names[data.keys.label_offset :]) != data.class_names:
        yield f"{name}: the class names differ from those in convert.json"


def _check_features(data: Dataset) -> Iterator[str]:
    described = json.loads(data.file("features.json").read_text("utf-8"))
    count = int(described["featuresDict"]["features"][data.keys.label]["classLabel"]["numClasses"])
    count -= data.keys.label_offset
    if count != len(data.class_names):
        yield f"features.json: has {words.number(count, 'class')}, but convert.json has {len(data.class_names):,}"


def _check_dataset_info(data: Dataset, table: Any) -> Iterator[str]:
    rows = Counter(table.column("split").to_pylist())
    described = json.loads(data.file("dataset_info.json").read_text("utf-8"))
    for split in described["splits"]:
        lengths = [int(length) for length in split["shardLengths"]]
        if sum(lengths) != rows[split["name"]] or len(lengths) != data.shards.get(split["name"]):
            yield (
                f"dataset_info.json: the number of records or shards of {split['name']} differs from {index.FILE_NAME}"
            )


def _check_digest(data: Dataset, facts: ConvertJson, table: Any) -> Iterator[str]:
    if _digest(data, facts, table) != data.digest:
        yield (
            "convert.json: the digest (checksum of the dataset) does not match records.parquet, rejected.csv and the"
            " settings"
        )


def _check_changed(data: Dataset) -> Iterator[str]:
    path = data.directory / index.FILE_NAME
    if "findings" not in index.columns(path):
        return  # The dataset is from an earlier version, which did not write this file.
    with open(data.file(metadata.CHANGED), newline="", encoding="utf-8") as file:
        expected = itertools.chain([[*metadata.CHANGED_COLUMNS]], metadata.changed_rows(path))
        if any(row != right for row, right in itertools.zip_longest(csv.reader(file), expected)):
            yield f"{metadata.CHANGED}: the files or changes differ from those in {index.FILE_NAME}"


def _digest(data: Dataset, facts: ConvertJson, table: Any) -> str:
    """Compute the digest from the index, `rejected.csv` and the settings."""
    with open(data.file("rejected.csv"), newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        if next(reader, None) != [field.name for field in dataclasses.fields(Rejected)]:
            raise ValueError("the header is missing")
        rejected = [Rejected(path=path, reason=reason, done=done) for path, reason, done in reader]
    return digest.digest_of_index(facts["config"], data.class_names, rejected, data.shards, table)


def _verify_shard(job: _Job) -> _Verified:
    rows = index.read_group(job.directory / index.FILE_NAME, job.group).to_pylist()
    split = rows[0]["split"]
    name = dataset_files.shard_name(job.dataset, split, rows[0]["shard"], job.shards[split])
    problems: list[str] = []
    try:
        with _shard(job, name) as (size, read):
            problems += _check_layout(rows, size)
            for number, row in enumerate(rows):
                framed = read(row["length"] + schema.FRAME_BYTES, row["offset"])
                if reason := _check_record(framed, row, index.place(name, row["offset"]), job):
                    problems.append(f"record {number:,} at byte {row['offset']:,}, {row['path']}: {reason}")
    except (Missing, Changed) as error:
        problems.append(f"cannot be read: {error}")
    except OSError as error:
        problems.append(f"cannot be read: {error.strerror}")
    return _Verified(name, len(rows), [f"{name}: {problem}" for problem in problems])


@contextlib.contextmanager
def _shard(job: _Job, name: str) -> Iterator[tuple[int, Callable[[int, int], bytes]]]:
    """Yield the size of a shard, and a function that reads a number of bytes at an offset."""
    if job.bucket is not None:
        yield job.bucket.in_parts(name)
        return
    with open(job.directory / name, "rb") as file:
        yield os.fstat(file.fileno()).st_size, lambda size, offset: files.read_at(file.fileno(), size, offset)


def _check_layout(rows: Sequence[dict[str, Any]], size: int) -> Iterator[str]:
    end = 0
    for number, row in enumerate(rows):
        if row["offset"] != end:
            yield (
                f"record {number:,} must start at byte {end:,}, where the record before it ends, but the index has"
                f" {row['offset']:,}"
            )
        end = row["offset"] + row["length"] + schema.FRAME_BYTES
    if size != end:
        yield f"has {size:,} bytes and should have {end:,}"


def _check_record(framed: bytes, row: dict[str, Any], location: str, job: _Job) -> str:
    """Return the problem of a record, or "" if there is none."""
    data = schema.unframe(framed)
    if data is None:
        return "wrong checksum or length"
    if row["label"] == index.LEFT_OUT:
        return ""
    try:
        example = schema.decode_example(data, job.keys)
    except (IndexError, KeyError, ValueError):
        return "the checksum is right, but the content is not a tf.train.Example with the features in convert.json"
    if hashlib.sha256(example["image"]).digest() != row["sha256"]:
        return "the sha256 of the image differs from the index"
    label = job.decided.get(row["source_sha256"], example["label"])
    for name, value in {"label": label, "path": example["path"] or location}.items():
        if value != row[name]:
            return f"the {name} is {value!r}, but the index has {row[name]!r}"
    if row["type"] == "RAW":
        matches = len(example["image"]) == row["height"] * row["width"] * 3
        return "" if matches else "the number of pixels differs from the index"
    return _check_decodes(example["image"], (row["height"], row["width"])) if job.decode else ""


def _check_decodes(encoded: bytes, size: tuple[int, int]) -> str:
    with _quiet():
        import tensorflow as tf  # Imported in the workers only, so that the command starts quickly.

        try:
            with tf.device("CPU"):
                pixels = tf.io.decode_image(encoded, channels=3, expand_animations=False)
        except tf.errors.InvalidArgumentError as error:
            return f"TensorFlow cannot decode it: {one_line(error)}"
    shape = tuple(pixels.shape)
    return "" if shape == (*size, 3) else f"decodes to {shape}, but the index has {size[0]} x {size[1]} pixels"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide the messages that TensorFlow and libjpeg write to the terminal. Errors still raise."""
    terminal, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        os.close(nowhere)


def _shared_images(table: Any) -> Iterator[str]:
    """Yield a line on images that have several labels, and one on images that are in several splits."""
    table = table.filter(table.column("label").to_numpy() != index.LEFT_OUT)
    splits = np.unique(table.column("split").to_pylist(), return_inverse=True)[1].reshape(-1)
    first = duplicates.first_of(index.hashes(table, "sha256"))
    matches = duplicates.find(first, table.column("label").to_numpy(), splits)
    meanings = {"conflicts": "with another label", "leaks": "in another split"}
    for kind, meaning in meanings.items():
        if matches.counts[kind]:
            paths = ", ".join(table.column("path").take(matches.examples[kind][0]).to_pylist()[:2])
            records = words.number(matches.counts[kind], "record has", "records have")
            yield f"note: {records} the same image as a record {meaning}, for example {paths}"


def define_flags() -> None:
    cache_options.CACHE_DIR.define()
    flags.DEFINE_bool("decode", VerifyConfig.decode, "Decode every image with TensorFlow.")
    flags.DEFINE_integer("workers", None, "Number of worker processes. Default: one process per processor.")


def main(argv: Sequence[str]) -> None:
    directory = command.one_argument(argv, "the directory of one dataset, as in python -m tfrecord_tools.verify out/")
    problems = verify(command.from_flags(VerifyConfig, directory=directory))
    if problems:
        shown = "".join(f"\n  {problem}" for problem in problems[:_SHOWN])
        more = f"\n  and {len(problems) - _SHOWN:,} more" if len(problems) > _SHOWN else ""
        raise UserError(
            f"{directory}: {words.number(len(problems), 'problem')} found:{shown}{more}\nConvert the images"
            " again, or copy the dataset again from an undamaged copy."
        )


if __name__ == "__main__":
    define_flags()
    command.run(main, arguments="DIRECTORY")
