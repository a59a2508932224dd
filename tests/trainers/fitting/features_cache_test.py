"""Tests of the feature cache: computed once, resumed after a kill, equal to the extractor's outputs."""

from __future__ import annotations

import itertools
import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from image_sources import break_image, converted, flip, with_splits

from tfrecord_tools import dataset
from tfrecord_tools.base import files
from tfrecord_tools.decoding.geometry import Geometry
from tfrecord_tools.errors import UserError
from tfrecord_tools.records import Records
from trainers.fitting import features_cache
from trainers.fitting.features_cache import Features

SIZE = 16


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    workspace = tmp_path_factory.mktemp("features")
    converted(with_splits(workspace / "src", train=20, validation=5), workspace / "out")
    return workspace / "out"


class Extractor:
    """Extractor that returns the mean of each color and counts the images it has seen."""

    def __init__(self, stop_after: int = 10**9):
        self.seen = 0
        self._stop_after = stop_after
        self._lock = threading.Lock()  # Several threads call it.

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        with self._lock:
            # Black images that fill up a batch are not counted.
            self.seen += int(tf.math.count_nonzero(tf.reduce_any(images > 0, [1, 2, 3])))
            if self.seen > self._stop_after:
                raise KeyboardInterrupt
        return tf.reduce_mean(tf.cast(images, tf.float32), [1, 2])


def load(records: Records, extractor: Extractor, directory: Path, **key: object) -> Features:
    return features_cache.load_or_extract(
        records, extractor, width=3, key={"a": 1} | key, directory=directory, geometry=Geometry.of(SIZE), batch_size=4
    )


def expected(records: Records) -> np.ndarray:
    images = [images for images, _ in dataset.eval_batches(records, batch_size=7, image_size=SIZE)]
    return np.concatenate(images).astype(np.float32).mean((1, 2))


def test_rows_follow_the_index_and_a_second_call_computes_nothing(out, tmp_path, capsys):
    records, extractor = dataset.open(out).records("train"), Extractor()
    features = load(records, extractor, tmp_path)
    np.testing.assert_allclose(features.values, expected(records), rtol=1e-5)
    assert extractor.seen == len(records) == 40
    output = capsys.readouterr().out
    assert "features: 40 computed in " in output
    assert "features: train, 40 x 3, 0 MB in " in output

    np.testing.assert_array_equal(load(records, extractor, tmp_path).values, features.values)
    assert extractor.seen == 40
    assert "computed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("records", "key"),
    [
        (lambda data: data.records("validation"), {}),  # Another split.
        (lambda data: data.records("train").select(np.arange(3, 30)), {}),  # Some records of the split.
        (lambda data: data.records("train"), {"a": 2}),  # Another network.
    ],
    ids=["split", "records", "key"],
)
def test_other_records_or_keys_have_another_directory(records, key, out, tmp_path):
    data = dataset.open(out)
    load(data.records("train"), Extractor(), tmp_path)
    extractor = Extractor()
    chosen = records(data)
    np.testing.assert_allclose(load(chosen, extractor, tmp_path, **key).values, expected(chosen), rtol=1e-5)
    assert extractor.seen == len(chosen)


def test_stopped_computation_continues(out, tmp_path, monkeypatch):
    monkeypatch.setattr(features_cache, "_SAVED_EVERY", 8)
    records = dataset.open(out).records("train")
    with pytest.raises(KeyboardInterrupt):
        load(records, Extractor(stop_after=30), tmp_path)
    extractor = Extractor()
    np.testing.assert_allclose(load(records, extractor, tmp_path).values, expected(records), rtol=1e-5)
    assert extractor.seen == 40 - 24  # Three parts of eight records were saved.


def test_batches_are_permutations_and_start_at_any_step(out, tmp_path):
    records = dataset.open(out).records("train")
    features = load(records, Extractor(), tmp_path)

    def epoch(start_step: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
        return list(itertools.islice(features.shuffled(8, seed, start_step).as_numpy_iterator(), 5))

    values, labels = (np.concatenate(part) for part in zip(*epoch(0)))
    rows = [int(np.flatnonzero((features.values == row).all(1))[0]) for row in values]
    assert sorted(rows) == list(range(40))
    np.testing.assert_array_equal(labels, records.labels[rows])
    np.testing.assert_array_equal(epoch(2)[0][0], epoch(0)[2][0])
    assert not np.array_equal(epoch(0, seed=1)[0][0], epoch(0)[0][0])
    assert not np.array_equal(np.concatenate([batch for batch, _ in epoch(5)]), values)  # The next epoch.

    in_order = list(features.in_order(16).as_numpy_iterator())
    assert [len(batch) for batch, _ in in_order] == [16, 16, 8]
    np.testing.assert_array_equal(np.concatenate([batch for batch, _ in in_order]), features.values)


def flip_one(copy: Path, number: int) -> None:
    flip(next(copy.glob("*train*")), dataset.open(copy).records("train")._frame(number)[2] + 40)


@pytest.mark.parametrize("damage", [flip_one, break_image], ids=["corrupt", "not an image"])
def test_corrupt_records_are_left_out_in_every_call(damage, out, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    damage(copy, 7)
    for _ in range(2):
        records = dataset.open(copy).records("train")
        features = load(records, Extractor(), tmp_path / "features")
        assert list(records.corrupt) == [7]
        assert features.valid.tolist() == [*range(7), *range(8, 40)]
        values = np.concatenate([values for values, _ in features.in_order(16).as_numpy_iterator()])
        assert len(values) == 39
        assert values.any(1).all()


def test_split_of_corrupt_records_is_reported(out, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    for number in (3, 4):
        flip_one(copy, number)
    records = dataset.open(copy).records("train").select(np.array([3, 4]))
    for _ in range(2):  # The first call computes the features, the second one opens them.
        with pytest.raises(UserError, match=r"^all 2 records of train are corrupt, for example .*: train record 3, "):
            load(records, Extractor(), tmp_path / "features")


def test_features_are_computed_again_when_a_record_is_valid_again(out, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    shard = next(copy.glob("*train*"))
    offset = dataset.open(copy).records("train")._frame(7)[2] + 40
    flip(shard, offset)
    load(dataset.open(copy).records("train"), Extractor(), tmp_path / "features")
    flip(shard, offset)
    with pytest.raises(
        UserError,
        match=r"these features were computed when train record 7, .* was corrupt\. Now this record is valid\.",
    ):
        load(dataset.open(copy).records("train"), Extractor(), tmp_path / "features")


def test_damaged_or_locked_features_are_reported(out, tmp_path):
    records = dataset.open(out).records("train")
    load(records, Extractor(), tmp_path)
    (folder,) = tmp_path.iterdir()
    about = (folder / "about.json").read_text()
    (folder / "about.json").write_text("{}")
    with pytest.raises(UserError, match=r"is damaged \('corrupt'\)\. Delete it, and the features are computed again\."):
        load(records, Extractor(), tmp_path)
    (folder / "about.json").write_text(about)
    (folder / "features.npy").write_bytes(b"cut")
    with pytest.raises(UserError, match=r"is damaged \(.*\)\. Delete it, and the features are computed again\."):
        load(records, Extractor(), tmp_path)
    assert json.loads(about)["key"] | {"rows": ""} == {"a": 1, "rows": "", "split": "train"}

    (folder / "about.json").unlink()
    files_lock_seconds = files._LOCK_SECONDS
    files._LOCK_SECONDS = 0.1
    try:
        with (
            files.lock(folder / "lock", ""),
            pytest.raises(UserError, match=r"another process computes these features\. Wait until it ends\."),
        ):
            load(records, Extractor(), tmp_path)
    finally:
        files._LOCK_SECONDS = files_lock_seconds


def test_features_of_a_fold_are_rows_of_whole_splits(out, tmp_path):
    data, extractor = dataset.open(out), Extractor()
    whole = [
        (records, load(records, extractor, tmp_path)) for records in (data.records("train"), data.records("validation"))
    ]
    chosen = data.records("train", "validation").select(np.array([44, 3, 39, 40, 0, 49]))
    features = features_cache.select(whole, chosen)
    assert extractor.seen == 50  # Nothing is computed twice.
    np.testing.assert_allclose(features.values[np.arange(6)], expected(chosen), rtol=1e-5)
    np.testing.assert_allclose(features.values[np.array([5, 1])], expected(chosen)[[5, 1]], rtol=1e-5)
    assert (features.values.shape, features.labels.tolist()) == ((6, 3), chosen.labels.tolist())
    assert features.valid.tolist() == list(range(6))
    batches = [values for values, _ in features.in_order(4)]
    np.testing.assert_allclose(np.concatenate(batches), expected(chosen), rtol=1e-5)
    values, labels = next(iter(features.shuffled(4, seed=0)))
    numbers = features.batch_numbers(4, 0, 0)
    np.testing.assert_allclose(values, expected(chosen)[numbers], rtol=1e-5)
    assert labels.numpy().tolist() == chosen.labels[numbers].tolist()


def test_corrupt_records_of_a_fold(out, tmp_path):
    copy = shutil.copytree(out, tmp_path / "out")
    break_image(copy, 3)
    data = dataset.open(copy)
    train, validation = data.records("train"), data.records("validation")
    whole = [(records, load(records, Extractor(), tmp_path / "features")) for records in (train, validation)]
    chosen = data.records("train", "validation").select(np.array([41, 3, 2]))
    features = features_cache.select(whole, chosen)
    assert features.valid.tolist() == [0, 2]
    assert chosen.corrupt == {1: train.corrupt[3]}
    with pytest.raises(UserError, match=r"^all 1 records of train\+validation are corrupt, for example train record 3"):
        features_cache.select(whole, chosen.select(np.array([1])))
