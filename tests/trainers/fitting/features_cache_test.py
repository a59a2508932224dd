"""Features are computed once, go on after a kill, and are what the extractor makes of each record."""

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
from tfrecord_tools.errors import UserError
from tfrecord_tools.records import Records
from trainers.fitting import features_cache
from trainers.fitting.features_cache import Features

SIZE = 16


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("features")
    converted(with_splits(place / "src", train=20, validation=5), place / "out")
    return place / "out"


class Extractor:
    """The mean of each colour; counts the images it has seen."""

    def __init__(self, stop_after: int = 10**9):
        self.seen = 0
        self._stop_after = stop_after
        self._lock = threading.Lock()  # It is asked from several threads.

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        with self._lock:
            self.seen += int(tf.math.count_nonzero(tf.reduce_any(images > 0, [1, 2, 3])))  # Without what fills up.
            if self.seen > self._stop_after:
                raise KeyboardInterrupt
        return tf.reduce_mean(tf.cast(images, tf.float32), [1, 2])


def load(records: Records, extractor: Extractor, place: Path, **key: object) -> Features:
    return features_cache.load_or_extract(
        records, extractor, width=3, key={"a": 1} | key, directory=place, image_size=SIZE, crop=0.0, batch_size=4
    )


def expected(records: Records) -> np.ndarray:
    images = [images for images, _ in dataset.eval_batches(records, batch_size=7, image_size=SIZE)]
    return np.concatenate(images).astype(np.float32).mean((1, 2))


def test_rows_are_those_of_the_index_and_a_second_call_computes_nothing(out, tmp_path, capsys):
    records, extractor = dataset.open(out).records("train"), Extractor()
    features = load(records, extractor, tmp_path)
    np.testing.assert_allclose(features.values, expected(records), rtol=1e-5)
    assert extractor.seen == len(records) == 40
    said = capsys.readouterr().out
    assert "features: 40 computed in " in said
    assert "features: train, 40 x 3, 0 MB in " in said

    np.testing.assert_array_equal(load(records, extractor, tmp_path).values, features.values)
    assert extractor.seen == 40
    assert "computed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("records", "key"),
    [
        (lambda data: data.records("validation"), {}),  # another split
        (lambda data: data.records("train").select(np.arange(3, 30)), {}),  # some of them
        (lambda data: data.records("train"), {"a": 2}),  # another network
    ],
    ids=["split", "records", "key"],
)
def test_what_differs_lies_elsewhere(records, key, out, tmp_path):
    data = dataset.open(out)
    load(data.records("train"), Extractor(), tmp_path)
    extractor = Extractor()
    chosen = records(data)
    np.testing.assert_allclose(load(chosen, extractor, tmp_path, **key).values, expected(chosen), rtol=1e-5)
    assert extractor.seen == len(chosen)


def test_a_stopped_extraction_goes_on(out, tmp_path, monkeypatch):
    monkeypatch.setattr(features_cache, "_SAVED_EVERY", 8)
    records = dataset.open(out).records("train")
    with pytest.raises(KeyboardInterrupt):
        load(records, Extractor(stop_after=30), tmp_path)
    extractor = Extractor()
    np.testing.assert_allclose(load(records, extractor, tmp_path).values, expected(records), rtol=1e-5)
    assert extractor.seen == 40 - 24  # Three parts of eight were saved.


def test_batches_are_permutations_from_any_step(out, tmp_path):
    records = dataset.open(out).records("train")
    features = load(records, Extractor(), tmp_path)

    def epoch(start_step: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
        return list(itertools.islice(features.shuffled(8, seed, start_step).as_numpy_iterator(), 5))

    values, labels = (np.concatenate(part) for part in zip(*epoch(0)))
    places = [int(np.flatnonzero((features.values == row).all(1))[0]) for row in values]
    assert sorted(places) == list(range(40))
    np.testing.assert_array_equal(labels, records.labels[places])
    np.testing.assert_array_equal(epoch(2)[0][0], epoch(0)[2][0])
    assert not np.array_equal(epoch(0, seed=1)[0][0], epoch(0)[0][0])
    assert not np.array_equal(np.concatenate([batch for batch, _ in epoch(5)]), values)  # The next epoch.

    in_order = list(features.in_order(16).as_numpy_iterator())
    assert [len(batch) for batch, _ in in_order] == [16, 16, 8]
    np.testing.assert_array_equal(np.concatenate([batch for batch, _ in in_order]), features.values)


def flip_one(copy: Path, number: int) -> None:
    flip(next(copy.glob("*train*")), int(dataset.open(copy).records("train")._offset[number]) + 40)


@pytest.mark.parametrize("damage", [flip_one, break_image], ids=["corrupt", "no image"])
def test_corrupt_records_are_left_out_now_and_later(damage, out, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    damage(copy, 7)
    for _ in range(2):
        records = dataset.open(copy).records("train")
        features = load(records, Extractor(), tmp_path / "features")
        assert list(records.corrupt) == [7]
        assert features.valid.tolist() == [*range(7), *range(8, 40)]
        seen = np.concatenate([values for values, _ in features.in_order(16).as_numpy_iterator()])
        assert len(seen) == 39
        assert seen.any(1).all()


def test_a_split_of_corrupt_records_is_told(out, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    for number in (3, 4):
        flip_one(copy, number)
    records = dataset.open(copy).records("train").select(np.array([3, 4]))
    for _ in range(2):  # Computed; opened.
        with pytest.raises(UserError, match=r"^all 2 records of train are corrupt, for example .*: train record 3, "):
            load(records, Extractor(), tmp_path / "features")


def test_features_of_a_record_that_is_sound_again_are_not_missing_for_ever(out, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    shard = next(copy.glob("*train*"))
    place = int(dataset.open(copy).records("train")._offset[7]) + 40
    flip(shard, place)
    load(dataset.open(copy).records("train"), Extractor(), tmp_path / "features")
    flip(shard, place)
    with pytest.raises(UserError, match=r"was computed when train record 7, .* was corrupt, but now it is valid\."):
        load(dataset.open(copy).records("train"), Extractor(), tmp_path / "features")


def test_what_is_damaged_or_at_work_is_told(out, tmp_path):
    records = dataset.open(out).records("train")
    load(records, Extractor(), tmp_path)
    (place,) = tmp_path.iterdir()
    about = (place / "about.json").read_text()
    (place / "about.json").write_text("{}")
    with pytest.raises(UserError, match=r"is damaged \('corrupt'\)\. Delete it, and the features are computed again\."):
        load(records, Extractor(), tmp_path)
    (place / "about.json").write_text(about)
    (place / "features.npy").write_bytes(b"cut")
    with pytest.raises(UserError, match=r"is damaged \(.*\)\. Delete it, and the features are computed again\."):
        load(records, Extractor(), tmp_path)
    assert json.loads(about)["key"] | {"rows": ""} == {"a": 1, "rows": "", "split": "train"}

    (place / "about.json").unlink()
    files_lock_seconds = files._LOCK_SECONDS
    files._LOCK_SECONDS = 0.1
    try:
        with (
            files.lock(place / "lock", ""),
            pytest.raises(UserError, match=r"another process computes these features\. Wait until it ends\."),
        ):
            load(records, Extractor(), tmp_path)
    finally:
        files._LOCK_SECONDS = files_lock_seconds
