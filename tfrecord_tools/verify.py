"""Proves a dataset whole: every checksum, every hash, index against shards, counts, and that TensorFlow decodes all.

python -m tfrecord_tools.verify out/ names shard and record of whatever is wrong and then exits with 1.
The same image in several splits is reported too, but is no damage.
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
from typing import Any

import numpy as np
from absl import flags

from tfrecord_tools.base import command, files, words, workers
from tfrecord_tools.base.progress import Progress
from tfrecord_tools.errors import UserError, one_line
from tfrecord_tools.layout import dataset_files, digest, duplicates, index, metadata, schema
from tfrecord_tools.layout.dataset_files import ConvertJson, Rejected
from tfrecord_tools.layout.schema import Keys
from tfrecord_tools.records import Dataset, open_dataset

_SHOWN = 20
_SHARD_NAME = re.compile(r"\.tfrecord-\d+-of-\d+$")


@dataclasses.dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """What is verified.

    Attributes:
        directory: The dataset.
        decode: Decode every image in TensorFlow.
        workers: Number of processes. None: one a processor.
    """

    directory: str
    decode: bool = True
    workers: int | None = None

    def __post_init__(self) -> None:
        workers.check_count(self.workers)


@dataclasses.dataclass(frozen=True)
class _Job:
    directory: Path
    dataset: str
    group: int
    of: dict[str, int]  # Split -> its number of shards.
    keys: Keys
    decode: bool


@dataclasses.dataclass(frozen=True)
class _Verified:
    shard: str
    records: int
    problems: list[str]


def verify(config: VerifyConfig, log: Callable[[str], object] = print) -> list[str]:
    """Verifies a dataset.

    Args:
        config: Which.
        log: Takes each line of the report.

    Returns:
        What is wrong, a line each, with file, record and source path; empty if nothing is.

    Raises:
        UserError: There is no dataset, or nothing of it can be read.
    """
    data = open_dataset(config.directory)
    facts = dataset_files.read(data.directory)
    table = index.read(data.directory / index.FILE_NAME, digest.DIGESTED)
    problems = list(_check_metadata(data, facts, table))
    jobs = [
        _Job(data.directory, data.name, group, dict(data.shards), data.keys, config.decode)
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
            f"{data.directory}: {words.number(len(table), 'record')} in"
            f" {words.number(len(jobs), 'shard is', 'shards are')} sound; {how}"
        )
    return problems


def _check_metadata(data: Dataset, facts: ConvertJson, table: Any) -> Iterator[str]:
    """Yields in what the files beside the shards contradict each other or the index, or that one is damaged."""
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
        except OSError as error:
            yield f"{name}: cannot be read: {error.strerror}"
        except (ValueError, KeyError, TypeError, IndexError, csv.Error) as error:
            yield f"{name}: damaged ({error})"
    expected = {dataset_files.shard_name(data.name, s, i, of) for s, of in data.shards.items() for i in range(of)}
    for name in sorted(set(filter(_SHARD_NAME.search, os.listdir(data.directory))) - expected):
        yield f"{name}: a shard that does not belong to this dataset; readers of a file pattern would take it in"


def _check_counts(data: Dataset, facts: ConvertJson, table: Any) -> Iterator[str]:
    splits = np.array(table.column("split").to_pylist())
    labels = table.column("label").to_numpy()
    for split, count in data.splits.items():
        found = int(((splits == split) & (labels != index.LEFT_OUT)).sum())
        if found != count:
            yield f"{index.FILE_NAME}: {words.number(found, 'row')} of {split}, and convert.json says {count:,}"
        for entry in facts["classes"]:
            found = int(((splits == split) & (labels == entry["label"])).sum())
            expected = dataset_files.class_records(entry, split)
            if found != expected:
                said = f"and convert.json says {expected:,}"
                yield f"{index.FILE_NAME}: {found:,} rows of {split} are of the class {entry['name']!r}, {said}"


def _check_class_names(data: Dataset) -> Iterator[str]:
    name = metadata.labels_file(data.keys)
    names = (data.directory / name).read_text("utf-8").removesuffix("\n").split("\n")
    if tuple(names[data.keys.label_offset :]) != data.class_names:
        yield f"{name}: other class names than in convert.json"


def _check_features(data: Dataset) -> Iterator[str]:
    described = json.loads((data.directory / "features.json").read_text("utf-8"))
    count = int(described["featuresDict"]["features"][data.keys.label]["classLabel"]["numClasses"])
    count -= data.keys.label_offset
    if count != len(data.class_names):
        yield f"features.json: {words.number(count, 'class')}, and convert.json has {len(data.class_names):,}"


def _check_dataset_info(data: Dataset, table: Any) -> Iterator[str]:
    rows = Counter(table.column("split").to_pylist())
    described = json.loads((data.directory / "dataset_info.json").read_text("utf-8"))
    for split in described["splits"]:
        lengths = [int(length) for length in split["shardLengths"]]
        if sum(lengths) != rows[split["name"]] or len(lengths) != data.shards.get(split["name"]):
            yield f"dataset_info.json: other numbers of records or shards of {split['name']} than in {index.FILE_NAME}"


def _check_digest(data: Dataset, facts: ConvertJson, table: Any) -> Iterator[str]:
    if _digest(data, facts, table) != data.digest:
        yield "convert.json: the digest is not that of records.parquet, rejected.csv and the settings"


def _check_changed(data: Dataset) -> Iterator[str]:
    path = data.directory / index.FILE_NAME
    if "findings" not in index.columns(path):
        return  # Of an earlier version, which wrote no such file.
    with open(data.directory / metadata.CHANGED, newline="", encoding="utf-8") as file:
        expected = itertools.chain([[*metadata.CHANGED_COLUMNS]], metadata.changed_rows(path))
        if any(row != right for row, right in itertools.zip_longest(csv.reader(file), expected)):
            yield f"{metadata.CHANGED}: other files or changes than in {index.FILE_NAME}"


def _digest(data: Dataset, facts: ConvertJson, table: Any) -> str:
    """What the digest must be by the index, `rejected.csv` and the settings."""
    with open(data.directory / "rejected.csv", newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        if next(reader, None) != [field.name for field in dataclasses.fields(Rejected)]:
            raise ValueError("no header")
        rejected = [Rejected(path=path, reason=reason, done=done) for path, reason, done in reader]
    return digest.digest_of_index(facts["config"], data.class_names, rejected, data.shards, table)


def _verify_shard(job: _Job) -> _Verified:
    rows = index.read_group(job.directory / index.FILE_NAME, job.group).to_pylist()
    split = rows[0]["split"]
    name = dataset_files.shard_name(job.dataset, split, rows[0]["shard"], job.of[split])
    problems: list[str] = []
    try:
        with open(job.directory / name, "rb") as file:
            problems += _check_layout(rows, os.fstat(file.fileno()).st_size)
            for number, row in enumerate(rows):
                framed = files.read_at(file.fileno(), row["length"] + schema.FRAME_BYTES, row["offset"])
                if reason := _check_record(framed, row, index.place(name, row["offset"]), job):
                    problems.append(f"record {number:,} at byte {row['offset']:,}, {row['path']}: {reason}")
    except OSError as error:
        problems.append(f"cannot be read: {error.strerror}")
    return _Verified(name, len(rows), [f"{name}: {problem}" for problem in problems])


def _check_layout(rows: Sequence[dict[str, Any]], size: int) -> Iterator[str]:
    end = 0
    for number, row in enumerate(rows):
        if row["offset"] != end:
            yield f"record {number:,} is said to start at byte {row['offset']:,}, the one before it ends at {end:,}"
        end = row["offset"] + row["length"] + schema.FRAME_BYTES
    if size != end:
        yield f"has {size:,} bytes and should have {end:,}"


def _check_record(framed: bytes, row: dict[str, Any], place: str, job: _Job) -> str:
    """Returns what is wrong with a record; "" if nothing is."""
    data = schema.unframe(framed)
    if data is None:
        return "wrong checksum or length"
    if row["label"] == index.LEFT_OUT:
        return ""
    try:
        example = schema.decode_example(data, job.keys)
    except (IndexError, KeyError, ValueError):
        return "its checksum is right, but it is no example as the directory's convert.json describes them"
    if hashlib.sha256(example["image"]).digest() != row["sha256"]:
        return "the image has another sha256 than the index says"
    for name, value in {"label": example["label"], "path": example["path"] or place}.items():
        if value != row[name]:
            return f"its {name} is {value!r}, and the index says {row[name]!r}"
    if row["type"] == "RAW":
        right = len(example["image"]) == row["height"] * row["width"] * 3
        return "" if right else "not as many pixels as the index says"
    return _check_decodes(example["image"], (row["height"], row["width"])) if job.decode else ""


def _check_decodes(encoded: bytes, size: tuple[int, int]) -> str:
    with _quiet():
        import tensorflow as tf  # In the worker only: the driver starts at once.

        try:
            with tf.device("CPU"):
                pixels = tf.io.decode_image(encoded, channels=3, expand_animations=False)
        except tf.errors.InvalidArgumentError as error:
            return f"TensorFlow does not decode it: {one_line(error)}"
    shape = tuple(pixels.shape)
    return "" if shape == (*size, 3) else f"decodes to {shape}, and the index says {size[0]} x {size[1]} pixels"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what TensorFlow and libjpeg write to the terminal away from it; what is wrong comes as an exception."""
    terminal, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        os.close(nowhere)


def _shared_images(table: Any) -> Iterator[str]:
    """Yields a line for each kind of image that several records have."""
    splits = np.unique(table.column("split").to_pylist(), return_inverse=True)[1].reshape(-1)
    first = duplicates.first_of(index.hashes(table, "sha256"))
    found = duplicates.find(first, table.column("label").to_numpy(), splits)
    what = {"conflicts": "with another label", "leaks": "in another split"}
    for kind, meaning in what.items():
        if found.counts[kind]:
            paths = ", ".join(table.column("path").take(found.examples[kind][0]).to_pylist()[:2])
            records = words.number(found.counts[kind], "record has", "records have")
            yield f"note: {records} the image of a record {meaning}, such as {paths}"


def define_flags() -> None:
    flags.DEFINE_bool("decode", VerifyConfig.decode, "Decode every image in TensorFlow.")
    flags.DEFINE_integer("workers", None, "Processes. Default: one a processor.")


def main(argv: Sequence[str]) -> None:
    directory = command.one_argument(argv, "a dataset's directory, as in python -m tfrecord_tools.verify out/,")
    problems = verify(command.from_flags(VerifyConfig, directory=directory))
    if problems:
        shown = "".join(f"\n  {problem}" for problem in problems[:_SHOWN])
        more = f"\n  and {len(problems) - _SHOWN:,} more" if len(problems) > _SHOWN else ""
        raise UserError(
            f"{directory}: {words.number(len(problems), 'problem')} found:{shown}{more}\nCopy or convert it again."
        )


if __name__ == "__main__":
    define_flags()
    command.run(main, arguments="DIRECTORY")
