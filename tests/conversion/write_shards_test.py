"""Tests of writing a shard: its content, and that it is complete or missing."""

from __future__ import annotations

import dataclasses
import hashlib
import pickle
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from image_sources import contents, draw, flip, scanned, with_splits

from tfrecord_tools.base import workers
from tfrecord_tools.conversion import write_shards as write_module
from tfrecord_tools.conversion.plan import Plan, make_plan
from tfrecord_tools.conversion.plan_config import PlanConfig
from tfrecord_tools.conversion.survey import Facts, survey
from tfrecord_tools.conversion.write_shards import ShardJob, shard_job, write_shard
from tfrecord_tools.errors import UserError
from tfrecord_tools.images.preparation import ImageConfig
from tfrecord_tools.layout import index, schema
from tfrecord_tools.sources.base import Content
from tfrecord_tools.sources.directory import Directory
from tfrecord_tools.sources.scan import Sources


@dataclasses.dataclass
class Case:
    sources: Sources
    facts: Facts
    decided: Plan
    jobs: list[ShardJob]


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """Return a source of 16 images and the jobs of its three shards."""
    sources = scanned(with_splits(tmp_path / "src"))
    facts = survey(sources, workers.Pool(None, 1))
    decided = make_plan(sources, facts, PlanConfig(shards=3), "pets", {})
    out = tmp_path / "out"
    out.mkdir()
    jobs = [
        shard_job(
            shard, decided, sources, facts, ImageConfig(), out / shard.file_name("pets"), out / f"{number}.parquet"
        )
        for number, shard in enumerate(decided.shards)
    ]
    return Case(sources, facts, decided, jobs)


def test_shard_holds_the_planned_rows_in_order(case: Case) -> None:
    for job in case.jobs:
        assert write_shard(job) == job.shard.stop - job.shard.start
        records = list(tf.data.TFRecordDataset(str(job.shard_path)).as_numpy_iterator())
        numbers = case.decided.rows.numbers[job.shard.start : job.shard.stop]
        assert len(records) == len(numbers)
        for number, record in zip(numbers, records):
            path = case.sources.paths[number]
            image = (Path(case.sources.root) / path).read_bytes()
            assert schema.decode_example(record) == {
                "image": image,
                "path": path,
                "label": case.sources.labels[number],
            }


def test_index_part_locates_each_record(case: Case) -> None:
    job = case.jobs[1]
    write_shard(job)
    rows = pq.read_table(job.index_path).to_pylist()
    data = job.shard_path.read_bytes()
    assert rows[0]["offset"] == 0
    assert sum(row["length"] + schema.FRAME_BYTES for row in rows) == len(data)
    for row in rows:
        framed = data[row["offset"] : row["offset"] + row["length"] + schema.FRAME_BYTES]
        example = schema.decode_example(schema.unframe(framed) or b"")
        assert (row["path"], row["label"]) == (example["path"], example["label"])
        assert row["sha256"] == hashlib.sha256(example["image"]).digest()
        assert (row["height"], row["width"]) == (9, 12)
        assert row["type"] == ("PNG" if row["path"].endswith("png") else "JPEG")
        assert (row["split"], row["shard"]) == (job.shard.split, job.shard.number)


def test_writing_again_gives_the_same_files(case: Case) -> None:
    for job in case.jobs:
        write_shard(job)
    first = contents(case.jobs[0].shard_path.parent)
    for job in reversed(case.jobs):
        write_shard(job)
    assert contents(case.jobs[0].shard_path.parent) == first
    assert len(first) == 6


def test_job_can_be_pickled(case: Case) -> None:
    write_shard(pickle.loads(pickle.dumps(case.jobs[0])))
    assert case.jobs[0].index_path.exists()


@pytest.mark.parametrize("change", ["longer", "flipped byte", "another image"])
def test_changed_source_is_an_error(case: Case, change: str) -> None:
    job = case.jobs[0]
    path = Path(job.files.store.root) / job.files.paths[-1]
    if change == "longer":
        path.write_bytes(path.read_bytes() + b"x")
    elif change == "flipped byte":
        flip(path, 50)
    else:
        draw(path, key="another")
    message = (
        rf"{job.files.paths[-1]}: the file has changed since it was inspected\. .* run the command with --restart\."
    )
    with pytest.raises(UserError, match=message):
        write_shard(job)
    assert contents(job.shard_path.parent) == {}


def test_missing_source_is_an_error(case: Case) -> None:
    job = case.jobs[0]
    (Path(job.files.store.root) / job.files.paths[1]).unlink()
    message = (
        rf"{job.files.paths[1]}: the file was inspected, but can no longer be read: No such file or directory\."
        r" Restore it and run the same command again, or pass --restart"
    )
    with pytest.raises(UserError, match=message):
        write_shard(job)
    assert contents(job.shard_path.parent) == {}


def test_index_part_is_written_last(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the index part exists, the shard is complete."""
    job = case.jobs[0]

    def fail(path: Path, columns: object) -> None:
        assert job.shard_path.exists()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write_module.index, "write_part", fail)
    with pytest.raises(OSError, match="No space left"):
        write_shard(job)
    assert list(contents(job.shard_path.parent)) == [job.shard_path.name]


def test_wrong_lengths_are_not_indexed(case: Case) -> None:
    rows = case.jobs[0].rows
    job = dataclasses.replace(case.jobs[0], rows=dataclasses.replace(rows, lengths=rows.lengths + 1))
    with pytest.raises(RuntimeError, match="please report"):
        write_shard(job)
    assert not job.index_path.exists()


def test_joined_index_has_one_row_group_per_shard(case: Case, tmp_path: Path) -> None:
    for job in case.jobs:
        write_shard(job)
    path = tmp_path / index.FILE_NAME
    index.join_parts([job.index_path for job in case.jobs], path)
    joined = pq.ParquetFile(path)
    assert [joined.metadata.row_group(i).num_rows for i in range(joined.num_row_groups)] == [
        len(job.files.paths) for job in case.jobs
    ]
    paths = [case.sources.paths[number] for number in case.decided.rows.numbers]
    assert joined.read().column("path").to_pylist() == paths
    validation = index.read(path, ["path", "split"], "validation")
    assert validation.column("path").to_pylist() == paths[10:]
    assert set(validation.column("split").to_pylist()) == {"validation"}
    assert not list(tmp_path.glob("*.tmp"))


def test_interrupted_write_leaves_no_files(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = Directory.read

    def interrupt(self: Directory, path: str, span: np.void) -> Content:
        if len(read) == 3:
            raise KeyboardInterrupt
        read.append(path)
        return original(self, path, span)

    monkeypatch.setattr(Directory, "read", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_shard(case.jobs[0])
    assert contents(case.jobs[0].shard_path.parent) == {}
