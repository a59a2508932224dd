"""Tests of raw pixels that are read straight into an array."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_sources import converted, draw, flip, frame, rewrite

from tfrecord_tools import dataset
from tfrecord_tools.layout import schema, shard_files
from tfrecord_tools.order import Shuffled
from tfrecord_tools.records import Records, open_dataset

SIDE = 8
BYTES = SIDE * SIDE * 3
COUNT = 9


RAW: dict[str, Any] = {"store": "raw", "resize": SIDE, "resize_mode": "exact"}


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dataset in two shards. `out` is a copy to damage."""
    place = tmp_path_factory.mktemp("raw")
    for number in range(COUNT):
        draw(place / "images" / ("cats", "dogs")[number % 2] / f"{'long ' * (number % 3)}{number}.png")
    converted(place / "images", place / "out", validation_fraction=0.0, shards=2, **RAW)
    return place / "out"


@pytest.fixture
def out(valid: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(valid, tmp_path / "out"))


def read(records: Records, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    pixels = np.full((len(numbers), SIDE, SIDE, 3), 7, np.uint8)
    return records.read_pixels(numbers, pixels), pixels


def stored(records: Records, number: int) -> np.ndarray:
    return np.frombuffer(records[number]["image"], np.uint8).reshape(SIDE, SIDE, 3)


def test_the_pixels_are_those_of_the_records(out: Path) -> None:
    records = open_dataset(out).records("train")
    numbers = np.array([4, 0, 8, 4, 1, 7])
    valid, pixels = read(records, numbers)
    assert valid.all()
    for number, image in zip(numbers.tolist(), pixels):
        np.testing.assert_array_equal(image, stored(records, number))
    chosen = records.select([5, 2])
    np.testing.assert_array_equal(read(chosen, np.array([1, 0]))[1], [stored(records, 2), stored(records, 5)])


def test_damage_anywhere_in_a_frame_is_noticed(out: Path) -> None:
    records = open_dataset(out).records("train")
    shard, offset, size = frame(records, 3)
    start = len(schema.start_of_frame(size, BYTES))
    places = [*range(start + 4), *range(start + BYTES - 2, size), size // 2]
    for at in places:
        flip(shard, offset + at)
        valid, pixels = read(records, np.arange(COUNT))
        assert valid.tolist() == [number != 3 for number in range(COUNT)], at
        np.testing.assert_array_equal(pixels[4], stored(records, 4))
        flip(shard, offset + at)
    assert read(records, np.arange(COUNT))[0].all()


def test_a_short_shard_and_a_shard_that_cannot_be_read(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = open_dataset(out).records("train")
    last = max(range(COUNT), key=lambda number: frame(records, number)[:2])
    shard, offset, size = frame(records, last)
    os.truncate(shard, offset + size - 1)
    assert read(records, np.arange(COUNT))[0].tolist() == [number != last for number in range(COUNT)]

    def refuse(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(shard_files.files, "read_into", refuse)
    assert not read(records, np.arange(COUNT))[0].any()


def test_a_record_of_another_writer_is_left_to_visit(out: Path) -> None:
    """The checksums are right, but the features have another order, so the image starts elsewhere."""
    records = open_dataset(out).records("train")
    start = len(schema.start_of_frame(frame(records, 2)[2], BYTES)) - schema.HEADER_BYTES
    entry = start - len(schema._before(b"image", schema._BYTES_LIST, BYTES))  # Start of the feature `image`.
    expected = stored(records, 2)
    rewrite(out, 2, lambda example: example[:entry] + example[start + BYTES :] + example[entry : start + BYTES])
    assert read(records, np.array([1, 2, 3]))[0].tolist() == [True, False, True]
    fetch = dataset.fetch_decoded(records, dataset.Geometry.of(SIDE))
    images = np.empty((3, SIDE, SIDE, 3), np.uint8)
    assert fetch(np.array([1, 2, 3]), images).all()
    np.testing.assert_array_equal(images[1], expected)


@pytest.mark.parametrize(
    ("settings", "is_straight"),
    [
        pytest.param({}, True, id="as stored"),
        pytest.param({"fit": "pad"}, True, id="nothing to pad"),
        pytest.param({"crop": 1.0}, True, id="nothing to crop"),
        pytest.param({"crop": 0.5}, False, id="cropped"),
        pytest.param({"image_size": SIDE // 2}, False, id="smaller"),
        pytest.param({"image_size": (SIDE, SIDE + 1)}, False, id="wider"),
    ],
)
def test_batches_are_the_same_as_those_of_visit(
    settings: dict[str, Any], is_straight: bool, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = open_dataset(out).records("train")
    calls: list[int] = []
    read_pixels = Records.read_pixels

    def counted(self: Records, numbers: np.ndarray, *arguments: Any) -> np.ndarray:
        calls.append(len(numbers))
        return read_pixels(self, numbers, *arguments)

    def batches() -> list[bytes]:
        data = dataset.train_batches(records, **{"batch_size": 4, "image_size": SIDE, "seed": 0} | settings)
        return [images.numpy().tobytes() for _ in range(2) for images, _ in data]

    monkeypatch.setattr(Records, "read_pixels", counted)
    straight = batches()
    assert (sum(calls) > 0) == is_straight
    monkeypatch.setattr(Records, "read_pixels", lambda _, numbers, *others: np.zeros(len(numbers), bool))
    assert batches() == straight


def test_a_corrupt_record_is_replaced_and_reported_once(out: Path, caplog: pytest.LogCaptureFixture) -> None:
    records = open_dataset(out).records("train")
    shard, offset, size = frame(records, 3)
    flip(shard, offset + size // 2)
    data = dataset.train_batches(records, batch_size=COUNT, image_size=SIDE, seed=0, with_numbers=True)
    for epoch in range(2):
        ((images, _, numbers),) = data
        order = Shuffled(COUNT, 0)[epoch * COUNT + np.arange(COUNT)]
        np.testing.assert_array_equal(order[order != 3], numbers.numpy()[order != 3])
        assert 3 not in numbers.numpy()
        for number, image in zip(numbers.numpy().tolist(), images.numpy()):
            np.testing.assert_array_equal(image, stored(records, number))
    assert list(records.corrupt) == [3]
    assert caplog.text.count("is corrupt") == 1
    flip(shard, offset + size // 2)  # A record that was reported stays left out.
    assert not records.read_pixels(np.array([3]), np.empty((1, SIDE, SIDE, 3), np.uint8))[0]


def test_reading_ends_before_the_next_record(out: Path) -> None:
    records = open_dataset(out).records("train")
    calls: list[int] = []

    def check() -> None:
        calls.append(len(calls))
        if len(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        records.read_pixels(np.arange(COUNT), np.empty((COUNT, SIDE, SIDE, 3), np.uint8), check)
    assert calls == [0, 1, 2]


@pytest.mark.parametrize("number", [COUNT, -COUNT - 1])
def test_a_number_that_does_not_exist(out: Path, number: int) -> None:
    with pytest.raises(IndexError, match=f"^record {number} does not exist: there are {COUNT} records$"):
        open_dataset(out).records("train").read_pixels(np.array([0, number]), np.empty((2, SIDE, SIDE, 3), np.uint8))


@pytest.mark.parametrize(
    "pixels",
    [
        np.empty((2, 3, SIDE, SIDE), np.uint8).transpose(0, 2, 3, 1),
        np.empty((2, SIDE, SIDE, 3), np.float32),
        np.empty((3, SIDE, SIDE, 3), np.uint8),
    ],
    ids=["not contiguous", "float32", "another length"],
)
def test_an_array_that_cannot_be_filled(pixels: np.ndarray, out: Path) -> None:
    with pytest.raises(ValueError, match=r"^pixels must be a C-contiguous array of uint8 with an image for each"):
        open_dataset(out).records("train").read_pixels(np.array([0, 1]), pixels)


def test_pickled_records(out: Path) -> None:
    records = open_dataset(out).records("train")
    read(records, np.arange(COUNT))  # It opens files, which are not pickled.
    valid, pixels = read(pickle.loads(pickle.dumps(records)), np.array([1, 0]))
    assert valid.all()
    np.testing.assert_array_equal(pixels, [stored(records, 1), stored(records, 0)])


def test_records_of_several_splits(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        for number in range(3):
            draw(tmp_path / "images" / split / ("cats", "dogs")[number % 2] / f"{number}.png")
    out = tmp_path / "out"
    converted(tmp_path / "images", out, **RAW)
    records = open_dataset(out).records("validation", "train")
    valid, pixels = read(records, np.array([5, -1, 0]))
    assert valid.all()
    np.testing.assert_array_equal(pixels, [stored(records, number) for number in (5, 5, 0)])
    images = [image for images, _ in dataset.eval_batches(records, batch_size=4, image_size=SIDE) for image in images]
    np.testing.assert_array_equal(images, [stored(records, number) for number in range(6)])


def test_an_unreadable_shard_is_reported(out: Path) -> None:
    records = open_dataset(out).records("train")
    shard, _, _ = frame(records, 0)
    lost = [number for number in range(COUNT) if frame(records, number)[0] == shard]
    shard.unlink()
    images = list(dataset.eval_batches(records, batch_size=COUNT, image_size=SIDE, with_numbers=True))
    np.testing.assert_array_equal(images[0][2], [number for number in range(COUNT) if number not in lost])
    assert sorted(records.corrupt) == lost
    assert "No such file or directory" in records.corrupt[0]


def test_a_dataset_in_a_bucket(out: Path, tmp_path: Path) -> None:
    records = open_dataset(f"file://{out}", cache_dir=tmp_path / "cache").records("train")
    assert not read(records, np.arange(COUNT))[0].any()
    ((images, _),) = dataset.eval_batches(records, batch_size=COUNT, image_size=SIDE)
    np.testing.assert_array_equal(images, [stored(records, number) for number in range(COUNT)])
