"""Tests of the augmentation: ranges that are kept and used, and draws that depend on nothing but the seed and step."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tfrecord_tools.augment import augment_batch
from tfrecord_tools.augment_config import PRESETS, AugmentConfig
from tfrecord_tools.errors import UserError

SIDE = 41
CENTRE = (SIDE - 1) / 2


def augmented(images: np.ndarray, config: AugmentConfig, seed: int = 0, step: int = 0) -> np.ndarray:
    result = augment_batch(tf.constant(images), config, seed, tf.constant(step, tf.int64))
    assert result.dtype == tf.uint8
    assert result.shape == images.shape
    return result.numpy()


def noise(count: int = 4, side: int = SIDE) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)


def dots(count: int, *places: tuple[int, int]) -> np.ndarray:
    """Black images with a white spot of 3x3 pixels at each (y, x)."""
    images = np.zeros((count, SIDE, SIDE, 3), np.uint8)
    for y, x in places:
        images[:, y - 1 : y + 2, x - 1 : x + 2] = 255
    return images


def centres(images: np.ndarray) -> np.ndarray:
    """f64[b 2], y and x of the centre of brightness."""
    bright = images[..., 0].astype(float)
    mass = bright.sum((1, 2))
    y = (bright.sum(2) * np.arange(SIDE)).sum(1) / mass
    x = (bright.sum(1) * np.arange(SIDE)).sum(1) / mass
    return np.stack([y, x], -1)


ALL = AugmentConfig(
    rotation_range=30,
    width_shift_range=0.1,
    height_shift_range=0.2,
    zoom_range=0.2,
    horizontal_flip=True,
    vertical_flip=True,
)


# --- Draws ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [ALL, *PRESETS.values()], ids=["all", *PRESETS])
def test_same_seed_and_step_give_the_same(config: AugmentConfig) -> None:
    first = augmented(noise(), config, seed=3, step=5)
    augmented(noise(), config, seed=3, step=6)  # Calls between do not matter.
    np.testing.assert_array_equal(augmented(noise(), config, seed=3, step=5), first)


def test_nothing_changes_nothing() -> None:
    np.testing.assert_array_equal(augmented(noise(), AugmentConfig()), noise())


def test_other_steps_and_seeds_give_others() -> None:
    same = np.broadcast_to(noise(1), (1, SIDE, SIDE, 3))
    results = [augmented(same, ALL, seed, step).tobytes() for seed in range(3) for step in range(3)]
    assert len(set(results)) == 9


def test_images_of_a_batch_are_changed_differently() -> None:
    same = np.repeat(noise(1), 8, 0)
    assert len({image.tobytes() for image in augmented(same, ALL)}) == 8


def test_eager_and_in_a_pipeline_are_equal() -> None:
    config = AugmentConfig(horizontal_flip=True, vertical_flip=True)  # Warps may round differently, flips may not.
    data = tf.data.Dataset.range(6).map(lambda step: augment_batch(tf.constant(noise(8)), config, 3, step), 2)
    for step, images in enumerate(data):
        np.testing.assert_array_equal(images, augmented(noise(8), config, 3, step))


def test_warps_eager_and_in_a_pipeline_differ_by_rounding_at_most() -> None:
    data = tf.data.Dataset.range(3).map(lambda step: augment_batch(tf.constant(noise(8)), ALL, 3, step), 2)
    for step, images in enumerate(data):
        difference = np.abs(images.numpy().astype(int) - augmented(noise(8), ALL, 3, step))
        assert np.mean(difference > 1) < 0.001


def test_pipelines_are_equal_whatever_their_parallelism() -> None:
    def run(parallel: int) -> list[bytes]:
        data = tf.data.Dataset.range(12).map(lambda step: augment_batch(tf.constant(noise(4)), ALL, 3, step), parallel)
        return [images.numpy().tobytes() for images in data]

    assert run(1) == run(4) == run(2)


# --- Ranges --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        (AugmentConfig(width_shift_range=0.2), (0.0, 0.2)),
        (AugmentConfig(height_shift_range=0.1), (0.1, 0.0)),
        (AugmentConfig(width_shift_range=0.3, height_shift_range=0.1), (0.1, 0.3)),
    ],
)
def test_shifts(config: AugmentConfig, limit: tuple[float, float]) -> None:
    shifts = centres(augmented(dots(300, (20, 20)), config)) - 20
    for axis, share in enumerate(limit):
        pixels = share * SIDE
        assert np.abs(shifts[:, axis]).max() <= pixels + 0.1
        if pixels:
            assert shifts[:, axis].max() > 0.9 * pixels  # The range is used, to both sides ...
            assert shifts[:, axis].min() < -0.9 * pixels
            assert np.std(shifts[:, axis]) == pytest.approx(pixels / np.sqrt(3), rel=0.15)  # ... and evenly.
    if all(limit):
        assert abs(np.corrcoef(shifts.T)[0, 1]) < 0.3  # Drawn independently.


@pytest.mark.parametrize("degrees", [10.0, 90.0, 180.0])
def test_rotation(degrees: float) -> None:
    y, x = centres(augmented(dots(300, (20, 34)), AugmentConfig(rotation_range=degrees))).T - CENTRE
    assert np.hypot(y, x) == pytest.approx(14, abs=0.6)  # About the centre.
    angles = np.degrees(np.arctan2(y, x))
    assert np.abs(angles).max() <= degrees + 1.5
    assert angles.max() > 0.9 * degrees
    assert angles.min() < -0.9 * degrees


def test_zoom() -> None:
    config = AugmentConfig(zoom_range=0.3)
    wide = dots(300, (20, 27))
    tall = dots(300, (27, 20))
    x = centres(augmented(wide, config))[:, 1] - CENTRE
    y = centres(augmented(tall, config))[:, 0] - CENTRE
    for distance in (x, y):
        scale = 7 / distance  # Keras: a factor above 0 shows more of the picture, hence smaller.
        assert scale.min() >= 0.7 - 0.03
        assert scale.max() <= 1.3 + 0.03
        assert scale.min() < 0.75
        assert scale.max() > 1.25
    assert abs(np.corrcoef(x, y)[0, 1]) < 0.3  # Width and height independently; the same draws for both calls.


@pytest.mark.parametrize(
    ("config", "axes"),
    [
        (AugmentConfig(horizontal_flip=True), {"x"}),
        (AugmentConfig(vertical_flip=True), {"y"}),
        (AugmentConfig(horizontal_flip=True, vertical_flip=True), {"x", "y"}),
    ],
)
def test_flips(config: AugmentConfig, axes: set[str]) -> None:
    flipped = centres(augmented(dots(400, (10, 10)), config)) > CENTRE
    assert 140 < flipped[:, 1].sum() < 260 if "x" in axes else not flipped[:, 1].any()
    assert 140 < flipped[:, 0].sum() < 260 if "y" in axes else not flipped[:, 0].any()
    if len(axes) == 2:
        counts = np.bincount(flipped @ [1, 2], minlength=4)
        assert counts.min() > 60  # Each of the four as often: the two are drawn independently.


def test_flip_loses_nothing() -> None:
    images = noise(20)
    both = AugmentConfig(horizontal_flip=True, vertical_flip=True)
    for before, after in zip(images, augmented(images, both)):
        ways = [before, before[::-1], before[:, ::-1], before[::-1, ::-1]]
        assert any(np.array_equal(after, way) for way in ways)


def test_edges_are_repeated_outwards() -> None:
    white = np.full((50, SIDE, SIDE, 3), 255, np.uint8)
    assert augmented(white, ALL).min() == 255  # No black corners.
    assert augmented(np.zeros_like(white), ALL).max() == 0


def test_colours_stay_apart_and_in_range() -> None:
    images = np.zeros((4, SIDE, SIDE, 3), np.uint8)
    images[...] = (255, 0, 128)
    np.testing.assert_array_equal(augmented(images, ALL), images)


def test_batches_of_any_size() -> None:
    for count, side in ((1, 5), (3, 64)):
        assert augmented(noise(count, side), ALL).shape == (count, side, side, 3)


# --- Settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rotation_range": -1}, r"rotation_range=-1: degrees within 0\.\.180 are expected\."),
        ({"rotation_range": 181}, r"rotation_range=181: degrees"),
        ({"width_shift_range": 1.0}, r"width_shift_range=1\.0: a share within 0\.\.1 is expected\."),
        ({"height_shift_range": -0.1}, r"height_shift_range=-0\.1: a share"),
        ({"zoom_range": 20}, r"zoom_range=20: a share"),  # Per cent were meant.
        ({"zoom_range": float("nan")}, r"zoom_range=nan: a share"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        AugmentConfig(**settings)


def test_none_is_false_and_all_else_true() -> None:
    assert not AugmentConfig()
    assert not PRESETS["none"]
    assert AugmentConfig(vertical_flip=True)
    assert all(PRESETS[name] for name in PRESETS if name != "none")


def test_presets_of_the_document() -> None:
    """The numbers of the notes that this project grew from."""
    assert PRESETS["document"] == AugmentConfig(
        rotation_range=90,
        width_shift_range=0.2,
        height_shift_range=0.2,
        zoom_range=0.2,
        horizontal_flip=True,
        vertical_flip=True,
    )
    assert PRESETS["document_transfer"] == AugmentConfig(
        rotation_range=90,
        width_shift_range=0.1,
        height_shift_range=0.1,
        zoom_range=0.2,
        horizontal_flip=True,
        vertical_flip=True,
    )
