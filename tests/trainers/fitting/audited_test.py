"""Tests of the records of an audit: features of all splits, decisions, facts that the index lacks."""

from __future__ import annotations

import csv
import errno
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from image_sources import break_image, converted, flip, with_splits

from tfrecord_tools import dataset
from tfrecord_tools.adopt import AdoptConfig, adopt
from tfrecord_tools.decoding.geometry import Geometry
from tfrecord_tools.errors import UserError
from tfrecord_tools.images import appearance
from tfrecord_tools.layout import index
from tfrecord_tools.records import Dataset
from trainers.fitting import audited, facts_cache
from trainers.fitting.audited import Audited
from trainers.fitting.extraction import Extraction

COUNT = 30  # 20 training records and 10 validation records.


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    workspace = tmp_path_factory.mktemp("audited")
    converted(with_splits(workspace / "src", train=10, validation=5), workspace / "out")
    return workspace


def adopted(workspace: Path, out: Path) -> Dataset:
    """Adopt the records of the dataset. The index of the new dataset has no facts."""
    (out.parent / "theirs").mkdir()
    for shard in (workspace / "out").glob("*.tfrecord-*"):
        (out.parent / "theirs" / shard.name).write_bytes(shard.read_bytes())
    adopt(AdoptConfig(records=str(out.parent / "theirs"), out=str(out), workers=1), lambda line: None)
    return dataset.open(out)


def colors(images: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tf.cast(images, tf.float32), [1, 2])


def extraction(compute: Callable[[tf.Tensor], tf.Tensor] = colors) -> Extraction:
    return Extraction(
        source="--features_from=runs/x", compute=compute, width=3, key={}, geometry=Geometry.of(16), batch_size=4
    )


def gather(data: Dataset, directory: Path, log: Callable[[str], object] = print) -> Audited:
    return audited.gather(data, extraction(), str(directory), log)


def test_features_of_all_splits_follow_each_other(workspace, tmp_path):
    data = dataset.open(workspace / "out")
    records = gather(data, tmp_path)
    batches = [dataset.eval_batches(data.records(name), batch_size=4, image_size=16) for name in data.splits]
    expected = np.concatenate([colors(images).numpy() for batch in batches for images, _ in batch])
    np.testing.assert_allclose(records.inputs.features, expected, rtol=1e-5)
    assert records.inputs.features.shape == (COUNT, 3)
    assert not [path.name for path in tmp_path.iterdir() if path.is_file()]  # The joined file is deleted at once.


def test_a_full_disk_is_reported_before_the_features_are_joined(workspace, tmp_path, monkeypatch):
    data = dataset.open(workspace / "out")
    gather(data, tmp_path)  # The features of each split are saved.

    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left on device") as error:
        gather(data, tmp_path)
    assert Path(str(error.value.filename)).parent == tmp_path
    assert not [path.name for path in tmp_path.iterdir() if path.is_file()]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(value, workspace, tmp_path):
    data = dataset.open(workspace / "out")
    records = data.records("train")
    red = extraction().features(records, tmp_path / "finite").values[:, 0]
    limit = np.sort(red)[-3]
    first = int(np.flatnonzero(red >= limit)[0])

    def broken(images: tf.Tensor) -> tf.Tensor:
        features = colors(images)
        return tf.where(features[:, :1] >= limit, value, features)

    for _ in range(2):  # They are refused again when they are read from the disk.
        with pytest.raises(UserError) as error:
            extraction(broken).features(records, tmp_path, lambda line: None)
        assert str(error.value) == (
            f"--features_from=runs/x: 3 of 20 records of train have features that are not finite numbers,"
            f" for example train record {first}, {records.paths[first]}. All features must be finite. Pass"
            " another network."
        )


def test_decisions_of_earlier_reviews_are_matched_by_the_bytes_of_the_files(workspace, tmp_path):
    known = dataset.open(workspace / "out").records("validation").source_sha256[3].tobytes().hex()
    with open(tmp_path / "decisions.csv", "w", newline="") as file:
        csv.writer(file).writerows([("sha256", "decision"), (known, "keep"), ("0" * 64, "drop")])
    converted(workspace / "src", tmp_path / "out", decisions=str(tmp_path / "decisions.csv"))
    records = gather(dataset.open(tmp_path / "out"), tmp_path / "features")
    rows = np.flatnonzero(records.inputs.decided).tolist()
    assert [records.sha256[row] for row in rows] == [known]
    assert {sha256: decision.decision for sha256, decision in records.decided.items()} == {known: "keep"}


def test_a_kept_pair_is_known_and_confirms_no_label(workspace, tmp_path):
    hashes = [row.tobytes().hex() for row in dataset.open(workspace / "out").records("validation").source_sha256]
    with open(tmp_path / "decisions.csv", "w", newline="") as file:
        rows = [("sha256", "decision", "twin_sha256"), (hashes[3], "both", hashes[1]), (hashes[2], "both", "0" * 64)]
        csv.writer(file).writerows(rows)
    converted(workspace / "src", tmp_path / "out", decisions=str(tmp_path / "decisions.csv"))
    records = gather(dataset.open(tmp_path / "out"), tmp_path / "features")
    assert not records.inputs.decided.any()
    assert [sorted(records.sha256[row] for row in pair) for pair in records.inputs.kept_pairs] == [
        sorted([hashes[1], hashes[3]])
    ]
    assert [(one.decision, one.key) for one in records.decided.values()] == [("both", " ".join(sorted(hashes[1:4:2])))]


def test_facts_of_adopted_records_are_computed_once(workspace, tmp_path, monkeypatch):
    calls: list[int] = []
    original = appearance.facts_of
    lock = threading.Lock()

    def counted(images: Sequence[bytes], shapes: Any = None) -> np.ndarray:
        with lock:
            calls.append(len(images))
        return original(images, shapes)

    monkeypatch.setattr(appearance, "facts_of", counted)
    data = adopted(workspace, tmp_path / "out")
    lines: list[str] = []
    facts = gather(data, tmp_path / "features", lines.append).inputs.facts
    assert sorted(calls) == [4, 10, 16]  # 20 and 10 records. A thread holds 16 images.
    assert [line.split(", and kept in")[0] for line in lines if line.startswith("facts: ")] == [
        "facts: computed from the pixels of 20 images of train",
        "facts: computed from the pixels of 10 images of validation",
    ]
    table = index.read(workspace / "out" / index.FILE_NAME, ("split", "path", *index.LOOK))
    order = np.argsort(table.column("path").to_numpy())
    paths = gather(data, tmp_path / "features").inputs.paths
    for name in index.LOOK:
        np.testing.assert_array_equal(facts[name][np.argsort(paths)], table.column(name).to_numpy()[order])
    assert len(calls) == 3  # The second call has read them.


@pytest.mark.parametrize("damage", ["corrupt", "not an image"])
def test_a_record_without_a_readable_image_has_unknown_facts(damage, workspace, tmp_path):
    converted(workspace / "src", tmp_path / "out")
    records = dataset.open(tmp_path / "out").records("train")
    if damage == "corrupt":
        flip(next((tmp_path / "out").glob("*train*")), records._frame(7)[2] + 40)
    else:
        break_image(tmp_path / "out", 7)
    facts = facts_cache.load_or_compute(records, "digest", tmp_path / "features", lambda line: None)
    assert np.flatnonzero(np.isnan(facts["brightness"])).tolist() == [7]
    # A corrupt record may be repaired, so its facts are not kept.
    assert len(list((tmp_path / "features").glob("*/facts.npy"))) == (damage != "corrupt")


def test_facts_of_other_records_or_datasets_have_another_file(workspace, tmp_path):
    records = dataset.open(workspace / "out").records("train")
    facts = facts_cache.load_or_compute(records, "a", tmp_path)
    some = facts_cache.load_or_compute(records.select(np.array([4, 2])), "a", tmp_path)
    np.testing.assert_array_equal(some, facts[[4, 2]])
    facts_cache.load_or_compute(records, "b", tmp_path)
    assert len(list(tmp_path.glob("*/facts.npy"))) == 3


@pytest.mark.parametrize("content", [b"", b"cut"])
def test_damaged_facts_are_reported(content, workspace, tmp_path):
    records = dataset.open(workspace / "out").records("train")
    facts_cache.load_or_compute(records, "a", tmp_path)
    (path,) = tmp_path.glob("*/facts.npy")
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        facts_cache.load_or_compute(records, "a", tmp_path)
    assert str(error.value).startswith(f"{path}: is damaged (")
    assert str(error.value).endswith("). Delete it, and the facts are computed again.")
