"""Functions of the user as augmentation: exact from any step, and refused where they could not be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from image_sources import converted, with_splits

from tfrecord_tools import dataset
from tfrecord_tools.augment_config import PRESETS, AugmentConfig
from tfrecord_tools.augment_layer import RandomAugment
from tfrecord_tools.augmentation import changes
from tfrecord_tools.augmentation.augment import augment as augmented
from tfrecord_tools.errors import UserError
from tfrecord_tools.records import Records

SHAPE = (4, 6, 10, 3)
IMAGES = tf.constant(np.random.default_rng(0).integers(0, 256, SHAPE), tf.uint8)
KEYS = tf.constant([3, 1, -4, 1 << 60], tf.int64)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Records:
    root = tmp_path_factory.mktemp("changes")
    converted(with_splits(root / "pets"), root / "out")
    return dataset.open(root / "out").records("train")


def darker(images: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
    """Multiply each image by a factor from 0.5 to 1, which its key decides."""
    seeds = tf.stack([keys, tf.zeros_like(keys)], 1)
    factors = tf.map_fn(
        lambda seed: tf.random.stateless_uniform([], seed, 0.5, 1.0), seeds, fn_output_signature=tf.float32
    )
    return tf.saturate_cast(tf.cast(images, tf.float32) * factors[:, None, None, None], tf.uint8)


def by_if(images: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
    if keys[0] % 2 == 0:  # AutoGraph rewrites this.
        images = images[:, ::-1]
    return images


def with_numpy(images: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
    return tf.numpy_function(lambda pixels, keys: 255 - pixels, [images, keys], tf.uint8)


LAYER = RandomAugment(horizontal_flip=True)


def by_layer(images: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
    return LAYER(images, keys=keys, training=True)


def first_half_flipped(images: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
    return tf.concat([images[:2, :, ::-1], images[2:]], 0)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda images, keys: images // 2, IMAGES // 2),
        (by_if, IMAGES),
        (with_numpy, 255 - IMAGES),
        (first_half_flipped, tf.concat([IMAGES[:2, :, ::-1], IMAGES[2:]], 0)),
        (by_layer, augmented(IMAGES, KEYS, AugmentConfig(horizontal_flip=True))),
    ],
    ids=["lambda", "if", "numpy", "batch", "layer"],
)
def test_functions_change_batches(function: Any, expected: tf.Tensor) -> None:
    np.testing.assert_array_equal(changes.of(function, SHAPE)(IMAGES, KEYS), expected)


@pytest.mark.parametrize("augment", ["strong", PRESETS["strong"]], ids=["text", "config"])
def test_configs_change_batches(augment: Any) -> None:
    expected = augmented(IMAGES, KEYS, PRESETS["strong"])
    np.testing.assert_array_equal(changes.of(augment, SHAPE, jit=False)(IMAGES, KEYS), expected)


def stream(records: Records, steps: int, **settings: Any) -> list[bytes]:
    defaults: dict[str, Any] = {"batch_size": 4, "image_size": (6, 10), "seed": 0, "augment": darker, "endless": True}
    data = dataset.train_batches(records, **defaults | settings)
    assert data.element_spec[0].shape.as_list()[1:] == [6, 10, 3]
    return [batch[0].numpy().tobytes() for batch in data.take(steps)]


def test_the_stream_is_exact_from_any_step_and_for_any_worker(records: Records) -> None:
    whole = stream(records, 6)
    assert stream(records, 3, start_step=3) == whole[3:]
    assert stream(records, 6, parallel=1) == whole
    halves = [stream(records, 6, shard=(i, 2)) for i in range(2)]
    assert [first + second for first, second in zip(*halves)] == whole
    assert whole != stream(records, 6, augment="none")
    assert whole != stream(records, 6, seed=1)


def draws(images: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
    return images // tf.cast(tf.random.uniform([], 1, 3, tf.int32), tf.uint8)


GENERATOR = tf.random.Generator.from_seed(1)


def draws_from_a_generator(images: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
    return images // tf.cast(GENERATOR.uniform([], 1, 3, tf.int32), tf.uint8)


FLIP = keras.layers.RandomFlip()


def draws_from_keras(images: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
    return tf.cast(FLIP(images, training=True), tf.uint8)


def draws_inside(images: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
    return tf.map_fn(lambda image: tf.image.random_flip_left_right(image), images)


WITH_STATE = (
    r"so the random numbers of the function do not depend only on the keys \(one whole number per image\)\. An"
    " interrupted training could then not be"
)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (draws, f"changes_test:draws: uses the operation RandomUniformInt, {WITH_STATE}"),
        (draws_from_a_generator, f"draws_from_a_generator: uses the operation \\w+, {WITH_STATE}"),
        (draws_from_keras, f"draws_from_keras: uses the operation \\w+, {WITH_STATE}"),
        (draws_inside, f"draws_inside: uses the operation RandomUniform, {WITH_STATE}"),
        (
            lambda images, keys: tf.cast(images, tf.float32) / 255,
            r"<lambda>: must return images of type uint8 and shape \(4, 6, 10, 3\) with values 0 to 255, like the"
            r" images that it gets\. The function returns a tensor of type float32 and shape \(4, 6, 10, 3\)\. For"
            r" floats, use tf\.saturate_cast\(images, tf\.uint8\) at the end\.",
        ),
        (
            lambda images, keys: images[:, :3],
            r"must return images of type uint8 and shape \(4, 6, 10, 3\) .* of type uint8 and shape \(4, 3, 10, 3\)",
        ),
        (
            lambda images, keys: None,
            r"must return one tensor of images of type uint8 and shape \(4, 6, 10, 3\)\. The function returns None\.",
        ),
        (
            lambda images, keys: (images, keys),
            r"must return one tensor of images of type uint8 and shape \(4, 6, 10, 3\)\. The function returns \(",
        ),
        (
            lambda images: images,
            r"fails for images of type uint8 and shape \(4, 6, 10, 3\) and keys of type int64 and shape \(4,\):"
            r" TypeError: .*takes 1 positional argument",
        ),
        (
            lambda images, keys: images @ keys,
            r"fails for images of type uint8 and shape \(4, 6, 10, 3\) and keys of type int64 and shape \(4,\): ",
        ),
    ],
)  # fmt: skip
def test_functions_that_cannot_be_used(function: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        changes.of(function, SHAPE)
    assert str(error.value).startswith("augment=")
    assert "\n" not in str(error.value)


def test_files_of_functions(records: Records, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def inverted(images, keys):\n    return 255 - images\n")
    inverted = stream(records, 2, augment=f"{path}:inverted")
    assert [bytes(255 - np.frombuffer(batch, np.uint8)) for batch in inverted] == stream(records, 2, augment="none")
