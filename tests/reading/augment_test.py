"""Tests of augmentation: equality with ImageDataGenerator, ranges, and reproducibility."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from PIL import Image

from tfrecord_tools import order
from tfrecord_tools.augment_config import FILL_MODES, PRESETS, AugmentConfig
from tfrecord_tools.augmentation.augment import (
    Colors,
    Draws,
    Moves,
    affine,
    augment,
    color_matrices,
    draw_colors,
    draw_moves,
    means,
    recolor,
    warp,
)
from tfrecord_tools.errors import UserError

SIDE = 41
CENTER = (SIDE - 1) / 2


def keys(count: int, seed: int = 0, epoch: int = 0) -> np.ndarray:
    return order.hash64(seed, epoch, np.arange(count)).view(np.int64)


def augmented(
    images: np.ndarray, config: AugmentConfig, seed: int = 0, epoch: int = 0, jit: bool = False
) -> np.ndarray:
    result = augment(tf.constant(images), tf.constant(keys(len(images), seed, epoch)), config, jit)
    assert result.dtype == tf.uint8
    assert result.shape == images.shape
    return result.numpy()


def noise(count: int = 4, side: int = SIDE) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)


def dots(count: int, *places: tuple[int, int]) -> np.ndarray:
    """Return black images with a white spot of 3 x 3 pixels at each (y, x)."""
    images = np.zeros((count, SIDE, SIDE, 3), np.uint8)
    for y, x in places:
        images[:, y - 1 : y + 2, x - 1 : x + 2] = 255
    return images


def centers(images: np.ndarray) -> np.ndarray:
    """Return the center of brightness of each image, f64[b 2], as (y, x)."""
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


# --- Parity with ImageDataGenerator ---------------------------------------------------------------------------------


def photo(side: int = 64) -> np.ndarray:
    """Return an image, u8[side side 3], that is smooth with some edges, like a photograph."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    pixels = np.array(image)
    pixels[10:20, 30:50] = (250, 20, 60)
    return pixels


def generator(**settings: Any) -> Any:
    return tf.keras.preprocessing.image.ImageDataGenerator(**settings)


STILL = {"theta": 0.0, "tx": 0.0, "ty": 0.0, "shear": 0.0, "zx": 1.0, "zy": 1.0}
CHANGES = [
    {"theta": 30.0}, {"theta": -135.0}, {"theta": 7.0}, {"tx": 9.3}, {"ty": -11.8}, {"shear": 20.0}, {"zx": 0.7},
    {"zx": 1.4, "zy": 1.2}, {"zy": 0.5}, {"flip_horizontal": True}, {"flip_vertical": True},
    {"theta": 40.0, "tx": 5.5, "ty": -3.2, "shear": -12.0, "zx": 0.8, "zy": 1.3, "flip_horizontal": True},
    {"theta": -77.0, "tx": -8.0, "ty": 6.1, "shear": 15.0, "zx": 1.2, "zy": 0.9, "flip_vertical": True},
]  # fmt: skip


@pytest.mark.parametrize("fill_mode", FILL_MODES)
@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_warp_equals_image_data_generator(change: dict[str, float], fill_mode: str) -> None:
    image = photo()
    expected = generator(fill_mode=fill_mode, cval=90).apply_transform(image.astype(np.float32), STILL | change)
    given = STILL | {key: value for key, value in change.items() if not key.startswith("flip")}
    flips = [-1.0 if change.get(f"flip_{axis}") else 1.0 for axis in ("horizontal", "vertical")]
    moves = Moves(*(tf.constant([value], tf.float64) for value in (*given.values(), *flips)))
    moved = warp(tf.constant(image[None]), affine(moves, image.shape[:2]), fill_mode, 90).numpy()[0]
    assert np.mean(np.abs(moved - expected) <= 1) >= 0.99


@pytest.mark.parametrize("side", [63, 64])
def test_flips_keep_all_pixels(side: int) -> None:
    image = photo(side)
    for flip_x, flip_y in ((1, 1), (-1, 1), (1, -1), (-1, -1)):
        still = Moves(*(tf.constant([float(v)], tf.float64) for v in (*STILL.values(), flip_x, flip_y)))
        moved = warp(tf.constant(image[None]), affine(still, (side, side)), "constant", 7).numpy()[0]
        np.testing.assert_array_equal(moved, image[::flip_y, ::flip_x])


def test_images_that_are_not_square() -> None:
    """Keras's generator swaps the centers of height and width of such images, so it cannot be compared."""
    image = photo()[:40]
    half = Moves(*(tf.constant([float(v)], tf.float64) for v in (180, 0, 0, 0, 1, 1, 1, 1)))
    moved = warp(tf.constant(image[None]), affine(half, (40, 64)), "nearest").numpy()[0]
    np.testing.assert_array_equal(moved, image[::-1, ::-1])


@pytest.mark.parametrize("name", ["theta", "tx", "ty", "shear", "zx", "zy"])
def test_distributions_equal_image_data_generator(name: str) -> None:
    settings: dict[str, Any] = {
        "rotation_range": 40, "width_shift_range": 0.2, "height_shift_range": 0.2, "shear_range": 15, "zoom_range": 0.3,
    }  # fmt: skip
    theirs = generator(**settings)
    np.random.seed(0)  # The range of the draws.
    expected = [theirs.get_random_transform((64, 64, 3))[name] for _ in range(10_000)]
    drawn = draw_moves(Draws(tf.bitcast(keys(10_000), tf.uint64)), (64, 64), AugmentConfig(**settings))
    assert scipy.stats.ks_2samp(getattr(drawn, name).numpy(), expected).pvalue > 0.001


def test_draws_are_uniform_and_independent() -> None:
    draw = Draws(tf.bitcast(keys(10_000), tf.uint64))
    columns = np.array([draw(number).numpy() for number in range(18)])
    assert all(scipy.stats.kstest(column, "uniform").pvalue > 1e-4 for column in columns)
    assert np.abs(np.corrcoef(columns) - np.eye(18)).max() < 0.05


# --- The same bits --------------------------------------------------------------------------------------------------


QUICK = {("strong", "reflect"), ("standard", "constant")}  # The other combinations take two minutes.


@pytest.mark.parametrize(
    ("preset", "fill_mode"),
    [
        pytest.param(preset, mode, marks=() if (preset, mode) in QUICK else pytest.mark.slow)
        for preset in PRESETS
        for mode in FILL_MODES
    ],
)
def test_eager_graph_xla_and_batch_size_are_equal(preset: str, fill_mode: str) -> None:
    config, images, given = dataclasses.replace(PRESETS[preset], fill_mode=fill_mode), noise(20), keys(20)
    expected = augmented(images, config)
    np.testing.assert_array_equal(augmented(images, config, jit=True), expected)
    for size in (1, 7):
        parts = [augment(images[i : i + size], given[i : i + size], config) for i in range(0, 20, size)]
        np.testing.assert_array_equal(tf.concat(parts, 0), expected)
    tf.config.run_functions_eagerly(True)
    try:
        np.testing.assert_array_equal(augmented(images, config), expected)
    finally:
        tf.config.run_functions_eagerly(False)


def test_bits_are_pinned() -> None:
    """A training that is resumed with a new version must get the same draws."""
    assert [int(augmented(noise(3), PRESETS[name]).astype(np.int64).sum()) for name in ("document", "strong")] == PINNED


PINNED = [1930519, 1715415]


def test_result_depends_on_keys_alone() -> None:
    assert np.array_equal(augmented(noise(), ALL, 3, 5), augmented(noise(), ALL, 3, 5))
    same = np.repeat(noise(1), 8, 0)
    results = {
        image.tobytes() for seed in range(3) for epoch in range(3) for image in augmented(same, ALL, seed, epoch)
    }
    assert len(results) == 72


def test_empty_config_changes_nothing() -> None:
    np.testing.assert_array_equal(augmented(noise(), AugmentConfig()), noise())


def test_settings_do_not_change_the_draws_of_others() -> None:
    flips = AugmentConfig(horizontal_flip=True)
    colored = dataclasses.replace(flips, brightness_range=(0.5, 0.5))
    np.testing.assert_allclose(augmented(noise(), colored), augmented(noise(), flips) / 2, atol=0.51)


# --- Colors and erasing ---------------------------------------------------------------------------------------------


def recolored(image: np.ndarray, **colors: float) -> np.ndarray:
    given = {"shift": 0.0, "brightness": 1.0, "contrast": 1.0, "saturation": 1.0} | colors
    images = tf.constant(image[None])
    return recolor(
        images, color_matrices(Colors(**{k: tf.constant([v], tf.float64) for k, v in given.items()}), means(images))
    ).numpy()[0]


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.5])
def test_colors_equal_pillow_and_tensorflow(factor: float) -> None:
    image = photo()
    values = image.astype(np.float64)
    gray = (values @ [0.299, 0.587, 0.114])[..., None]
    expected = {
        "brightness": values * factor,
        "contrast": (values - values.mean()) * factor + values.mean(),
        "saturation": (values - gray) * factor + gray,
    }
    for name, result in expected.items():
        np.testing.assert_allclose(recolored(image, **{name: factor}), np.clip(result, 0, 255), atol=0.51)
    np.testing.assert_allclose(recolored(image, shift=-30.0), np.clip(values - 30, 0, 255), atol=0.51)


def test_color_changes_are_applied_in_order() -> None:
    image = photo() // 2 + 60  # Values are not clipped between the changes.
    step = recolored(recolored(recolored(image, saturation=0.7), contrast=0.8), brightness=1.1)
    np.testing.assert_allclose(recolored(image, saturation=0.7, contrast=0.8, brightness=1.1), step, atol=2)


def test_colors_of_gray_images() -> None:
    image = photo()[..., :1]
    rgb = np.repeat(image, 3, -1)
    change = {"brightness": 1.2, "contrast": 0.7, "saturation": 0.4, "shift": 5.0}
    np.testing.assert_allclose(recolored(image, **change), recolored(rgb, **change)[..., :1], atol=1)


def test_ranges_of_colors() -> None:
    config = AugmentConfig(channel_shift_range=20, brightness_range=(0.5, 1.5), saturation_range=(0, 2))
    drawn = draw_colors(Draws(tf.bitcast(keys(2000), tf.uint64)), config)
    for values, low, high in ((drawn.shift, -20, 20), (drawn.brightness, 0.5, 1.5), (drawn.saturation, 0, 2)):
        assert scipy.stats.kstest(values.numpy(), "uniform", (low, high - low)).pvalue > 1e-4
    assert np.all(drawn.contrast.numpy() == 1)


def test_erasing() -> None:
    config = AugmentConfig(erasing=0.3, erasing_area=(0.1, 0.3), cval=9)
    images = np.full((400, SIDE, SIDE, 3), 200, np.uint8)
    areas = []
    for image in augmented(images, config):
        rows, columns = np.nonzero((image == 9).all(-1))
        if len(rows):
            height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
            assert len(rows) == height * width  # The erased pixels form one rectangle.
            areas.append(height * width / SIDE**2)
    assert 85 < len(areas) < 155
    assert 0.08 < min(areas) < 0.13
    assert 0.25 < max(areas) < 0.33


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
    shifts = centers(augmented(dots(300, (20, 20)), config)) - 20
    for axis, share in enumerate(limit):
        pixels = share * SIDE
        assert np.abs(shifts[:, axis]).max() <= pixels + 0.1
        if pixels:
            assert shifts[:, axis].max() > 0.9 * pixels  # Shifts use the full range to both sides ...
            assert shifts[:, axis].min() < -0.9 * pixels
            assert np.std(shifts[:, axis]) == pytest.approx(pixels / np.sqrt(3), rel=0.15)  # ... and are uniform.
    if all(limit):
        assert abs(np.corrcoef(shifts.T)[0, 1]) < 0.3  # x and y are drawn independently.


@pytest.mark.parametrize("degrees", [10.0, 90.0, 180.0])
def test_rotation(degrees: float) -> None:
    y, x = centers(augmented(dots(300, (20, 34)), AugmentConfig(rotation_range=degrees))).T - CENTER
    assert np.hypot(y, x) == pytest.approx(14, abs=0.6)  # The rotation is about the center.
    angles = np.degrees(np.arctan2(y, x))
    assert np.abs(angles).max() <= degrees + 1.5
    assert angles.max() > 0.9 * degrees
    assert angles.min() < -0.9 * degrees


def test_zoom() -> None:
    config = AugmentConfig(zoom_range=0.3)
    wide = dots(300, (20, 27))
    tall = dots(300, (27, 20))
    x = centers(augmented(wide, config))[:, 1] - CENTER
    y = centers(augmented(tall, config))[:, 0] - CENTER
    for distance in (x, y):
        scale = 7 / distance  # As in Keras, a factor above 1 shows more of the image, and everything in it smaller.
        assert scale.min() >= 0.7 - 0.03
        assert scale.max() <= 1.3 + 0.03
        assert scale.min() < 0.75
        assert scale.max() > 1.25
    assert (
        abs(np.corrcoef(x, y)[0, 1]) < 0.3
    )  # Width and height are drawn independently, and both calls have the same draws.


@pytest.mark.parametrize(
    ("config", "axes"),
    [
        (AugmentConfig(horizontal_flip=True), {"x"}),
        (AugmentConfig(vertical_flip=True), {"y"}),
        (AugmentConfig(horizontal_flip=True, vertical_flip=True), {"x", "y"}),
    ],
)
def test_flips(config: AugmentConfig, axes: set[str]) -> None:
    flipped = centers(augmented(dots(400, (10, 10)), config)) > CENTER
    assert 140 < flipped[:, 1].sum() < 260 if "x" in axes else not flipped[:, 1].any()
    assert 140 < flipped[:, 0].sum() < 260 if "y" in axes else not flipped[:, 0].any()
    if len(axes) == 2:
        counts = np.bincount(flipped @ [1, 2], minlength=4)
        assert counts.min() > 60  # The four combinations are equally frequent, because the two flips are independent.


def test_random_flips_keep_all_pixels() -> None:
    images = noise(20)
    both = AugmentConfig(horizontal_flip=True, vertical_flip=True)
    for before, after in zip(images, augmented(images, both)):
        ways = [before, before[::-1], before[:, ::-1], before[::-1, ::-1]]
        assert any(np.array_equal(after, way) for way in ways)


def test_nearest_fill_repeats_the_edges() -> None:
    white = np.full((50, SIDE, SIDE, 3), 255, np.uint8)
    assert augmented(white, ALL).min() == 255  # The corners are not black.
    assert augmented(np.zeros_like(white), ALL).max() == 0


def test_colors_stay_in_range() -> None:
    images = np.zeros((4, SIDE, SIDE, 3), np.uint8)
    images[...] = (255, 0, 128)
    np.testing.assert_array_equal(augmented(images, ALL), images)


def test_batches_of_any_size() -> None:
    for count, side in ((1, 5), (3, 64)):
        assert augmented(noise(count, side), ALL).shape == (count, side, side, 3)


# --- Settings ------------------------------------------------------------------------------------------------------


def test_numbers_of_numpy_are_those_of_python() -> None:
    given: dict[str, Any] = {"rotation_range": np.int64(5), "cval": np.float32(3), "zoom_range": np.float32(0.25)}
    config = AugmentConfig(**given | {"horizontal_flip": np.bool_(True)})
    assert config == AugmentConfig(rotation_range=5, cval=3, zoom_range=0.25, horizontal_flip=True)
    assert json.loads(json.dumps(dataclasses.asdict(config)))["zoom_range"] == 0.25


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rotation_range": -1}, r"rotation_range=-1: must be degrees from 0 to 180\."),
        ({"rotation_range": 181}, r"rotation_range=181: must be degrees"),
        ({"fill_mode": "mirror"}, r"fill_mode='mirror': must be one of nearest, constant, reflect, wrap\."),
        (
            {"zoom_range": (1.2, 0.8)},
            r"zoom_range=\(1\.2, 0\.8\): must be two numbers from 0 to 100\. The first number must not be larger",
        ),
        ({"zoom_range": (0, 1)}, r"zoom_range=\(0\.0, 1\.0\): both zoom factors must be above 0\."),
        ({"brightness_range": (0.5,)}, r"brightness_range=\(0\.5,\): must be two numbers"),
        ({"erasing": 25}, r"erasing=25: must be a probability from 0 to 1\."),
        ({"cval": 300}, r"cval=300: must be a gray level from 0 to 255\."),
        ({"rotation_range": (1, 2)}, r"rotation_range=\(1, 2\): must be degrees"),
        ({"height_shift_range": -0.1}, r"height_shift_range=-0\.1: must be a fraction"),
        ({"zoom_range": 20}, r"zoom_range=20: must be a fraction"),  # The user meant percent.
        ({"zoom_range": float("nan")}, r"zoom_range=nan: must be a fraction"),
    ],
)
def test_errors_name_the_setting(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        AugmentConfig(**settings)


def test_shifts_in_pixels() -> None:
    shifts = centers(augmented(dots(300, (20, 20)), AugmentConfig(width_shift_range=5)))[:, 1] - 20
    assert 4.5 < np.abs(shifts).max() <= 5.1


def test_settings_from_json() -> None:
    settings: dict[str, Any] = {"zoom_range": [0.8, 1.2], "brightness_range": [0.5, 1.5]}
    config = AugmentConfig(**settings)
    assert config == AugmentConfig(zoom_range=(0.8, 1.2), brightness_range=(0.5, 1.5))
    assert hash(config)


def test_bool_is_false_only_without_changes() -> None:
    assert not AugmentConfig()
    assert not PRESETS["none"]
    assert AugmentConfig(vertical_flip=True)
    assert all(PRESETS[name] for name in PRESETS if name != "none")


def test_presets_of_the_reference_recipe() -> None:
    """The presets have the numbers of the reference recipe."""
    assert PRESETS["reference"] == AugmentConfig(
        rotation_range=90,
        width_shift_range=0.2,
        height_shift_range=0.2,
        zoom_range=0.2,
        horizontal_flip=True,
        vertical_flip=True,
    )
    assert PRESETS["reference_transfer"] == AugmentConfig(
        rotation_range=90,
        width_shift_range=0.1,
        height_shift_range=0.1,
        zoom_range=0.2,
        horizontal_flip=True,
        vertical_flip=True,
    )
