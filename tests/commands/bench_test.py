"""Tests of bench: the measurement, the bottleneck and the remedy."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from fake_clock import Clock
from image_sources import converted, image, run, with_splits
from PIL import Image

from tfrecord_tools import bench, dataset
from tfrecord_tools.bench import BenchConfig, Stage
from tfrecord_tools.decoding.geometry import Geometry
from tfrecord_tools.decoding.reference import decode_pixels
from tfrecord_tools.errors import UserError
from tfrecord_tools.images.preparation import ImageConfig, prepare

READ, DECODE, AUGMENT = Stage("reading", 20_000), Stage("decoding", 2000), Stage("augmenting", 1500)


@pytest.mark.parametrize(
    ("stages", "model_rate", "expected"),
    [
        (
            [READ, DECODE, AUGMENT],
            None,
            "bottleneck: decoding takes 68% of the time. The input gives 1,500 images/s. --cache=memory of"
            " trainers.finetune, trainers.frozen and trainers.scratch keeps all decoded images in 77 MB; or python -m"
            " tfrecord_tools.convert --resize=183 --resize_mode=center_crop makes records that decode faster.",
        ),
        (
            [Stage("reading", 20_000), Stage("augmenting", 4000)],
            None,
            "bottleneck: augmenting takes 80% of the time. The input gives 4,000 images/s.",
        ),
        (
            [Stage("reading", 900), Stage("decoding", 800)],
            None,
            "bottleneck: reading takes 89% of the time. The input gives 800 images/s. Use a faster",
        ),
        (
            [READ, DECODE],
            4000.0,
            "bottleneck: decoding takes 90% of the time. The input gives 2,000 images/s, 50% of the model's own speed.",
        ),
        ([READ, DECODE], 200.0, "bottleneck: the model, with 200 images/s. The input is 10.0 times as fast."),
        ([READ, DECODE], 2100.0, "bottleneck: the model, with 2,100 images/s. The input is about as fast."),
    ],
)
def test_verdict(stages: list[Stage], model_rate: float | None, expected: str) -> None:
    assert bench.verdict(stages, 1000, Geometry.of(160, 0.875), model_rate).startswith(expected)


def test_too_large_cache_is_not_advised() -> None:
    advice = bench.verdict([READ, DECODE], 10_000_000, Geometry.of(160))
    assert "--cache" not in advice
    assert "python -m tfrecord_tools.convert --resize=160 --resize_mode=exact makes" in advice


def test_advice_names_the_flag_of_the_cache() -> None:
    advice = bench.verdict([READ, DECODE], 1000, Geometry.of(160), in_memory="--cache=memory")
    assert "images/s. --cache=memory keeps all decoded images in 77 MB; or" in advice


def test_advised_records_are_not_resized_again() -> None:
    for crop, mode in ((0.875, "center_crop"), (0.0, "exact")):
        side = round(160 / crop) if crop else 160
        data = prepare(image(1, size=(400, 300)), ImageConfig(store="png", resize=side, resize_mode=mode)).data
        advice = bench.verdict([READ, DECODE], 10, Geometry.of(160, crop))
        assert f"--resize={side} --resize_mode={mode}" in advice
        pixels = np.asarray(Image.open(io.BytesIO(data)))
        start = (side - 160) // 2
        expected = pixels[start : start + 160, start : start + 160]
        np.testing.assert_array_equal(decode_pixels(tf.constant(data), 160, crop), expected)


@pytest.mark.parametrize(
    ("geometry", "advised"),
    [
        (Geometry.of(160, fit="pad"), "--resize=160 --resize_mode=longer"),
        (Geometry.of((96, 256), fit="pad"), "--resize=256 --resize_mode=longer"),
        (Geometry.of((96, 256), 0.5), "--resize=512 --resize_mode=shorter"),
        (Geometry.of((96, 256)), "--resize=256 --resize_mode=shorter"),
    ],
    ids=str,
)
def test_advised_records_have_enough_pixels(geometry: Geometry, advised: str) -> None:
    advice = bench.verdict([READ, DECODE], 1000, geometry)
    assert f"{advised} makes records that decode faster" in advice
    for width, height in ((900, 300), (300, 900), (500, 500)):
        side, mode = advised.removeprefix("--resize=").split(" --resize_mode=")
        shrink = int(side) / (max(width, height) if mode == "longer" else min(width, height))
        stored = round(height * shrink), round(width * shrink)
        part, place = geometry.part(*stored), geometry.place(*stored)
        assert part.height >= place.height, stored
        assert part.width >= place.width, stored


def test_rate_equals_that_of_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(bench, "time", clock)

    def slow() -> Iterator[int]:
        while True:
            clock.sleep(0.01)
            yield 0

    assert bench.rate(slow(), batch_size=10, seconds=0.5) == pytest.approx(1000)


def test_stages_of_a_dataset(tmp_path: Path) -> None:
    converted(with_splits(tmp_path / "pets"), tmp_path / "out")
    records = dataset.open(tmp_path / "out").records("train")
    config = BenchConfig(tfrecords="", image_size=16, batch_size=4, augment="standard", seconds=0.1)
    assert [s.name for s in bench.measure(records, config)] == ["reading", "decoding", "augmenting"]
    still = BenchConfig(tfrecords="", image_size=16, crop=0.0, batch_size=4, augment="none", seconds=0.1)
    (stage,) = bench.measure(records, still, dataset.cache_pixels(records, image_size=16))
    assert stage.name == "reading from memory"
    assert np.isfinite(stage.rate)
    wide = BenchConfig(tfrecords="", image_size=(8, 16), fit="pad", batch_size=4, augment="none", seconds=0.1)
    (stage,) = bench.measure(records, wide, dataset.cache_pixels(records, image_size=(8, 16), fit="pad"))
    assert stage.name == "reading from memory"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seconds": 0}, "--seconds=0: must be above 0."),
        ({"image_size": 0}, "--image_size=0: must be at least 1."),
        ({"crop": 2.0}, "--crop=2.0: must be between 0 and 1."),
        ({"fit": "fill"}, "--fit=fill: must be one of crop, pad, stretch."),
        (
            {"augment": "strongs"},
            "--augment=strongs: must be the name of a preset (none, reference, reference_transfer, ",
        ),
    ],
)
def test_errors_name_the_flag(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        BenchConfig(tfrecords="", **settings)
    assert str(error.value).startswith(message)


def test_command(tmp_path: Path) -> None:
    converted(with_splits(tmp_path / "pets"), tmp_path / "out")
    ended = run("tfrecord_tools.bench", "out", "--image_size=16", "--batch_size=4", "--seconds=0.2", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert "records of train, 16 px, batches of 4" in lines[0]
    assert [line.split()[0] for line in lines[1:4]] == ["reading", "+", "+"]
    assert lines[4].startswith("bottleneck: ")
    ended = run("tfrecord_tools.bench", cwd=tmp_path)
    assert (
        ended.returncode,
        ended.stderr.startswith("error: no argument was given. Pass the directory of one dataset"),
    ) == (1, True)
