"""Tests of the Keras layer in models, pipelines and saved files, under every dtype policy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfrecord_tools.augment_config import PRESETS, AugmentConfig
from tfrecord_tools.augment_layer import RandomAugment
from tfrecord_tools.augmentation.augment import augment
from tfrecord_tools.errors import UserError

KEYS = np.arange(4)
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 20, 24, 3), np.uint8)
EXPECTED = augment(tf.constant(IMAGES), tf.constant(KEYS), PRESETS["strong"]).numpy()


@pytest.fixture(params=["float32", "mixed_float16", "mixed_bfloat16"])
def policy(request: pytest.FixtureRequest) -> Iterator[str]:
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(request.param)
    yield request.param
    keras.mixed_precision.set_global_policy(before)


def test_layer_equals_augment() -> None:
    np.testing.assert_array_equal(RandomAugment(PRESETS["strong"])(IMAGES, KEYS, training=True), EXPECTED)


def test_floats_keep_their_values_under_every_policy(policy: str) -> None:
    layer = RandomAugment(PRESETS["strong"])
    for scale in (255.0, 1.0):
        layer = RandomAugment(PRESETS["strong"], scale=scale)
        images = IMAGES.astype(np.float32) * (scale / 255)
        changed = layer(images, KEYS, training=True)
        assert changed.dtype == tf.float32
        np.testing.assert_allclose(changed, EXPECTED.astype(np.float32) * (scale / 255), rtol=1e-6)
        np.testing.assert_array_equal(
            layer(images, KEYS, training=False), images
        )  # 201.3 is not rounded to an integer.


def test_one_image() -> None:
    changed = RandomAugment(PRESETS["strong"])(IMAGES[2], KEYS[2], training=True)
    np.testing.assert_array_equal(changed, EXPECTED[2])


@pytest.mark.slow
def test_unknown_batch_size_and_pipeline() -> None:
    layer = RandomAugment(PRESETS["strong"])
    function = tf.function(
        lambda images, keys: layer(images, keys, training=True),
        input_signature=[tf.TensorSpec([None, 20, 24, 3], tf.uint8), tf.TensorSpec([None], tf.int64)],
    )
    for count in (4, 1, 3):
        np.testing.assert_array_equal(function(IMAGES[:count], KEYS[:count]), EXPECTED[:count])
    data = tf.data.Dataset.from_tensor_slices((IMAGES, KEYS)).batch(3)
    data = data.map(lambda images, keys: layer(images, keys, training=True), 2)
    np.testing.assert_array_equal(np.concatenate(list(data.as_numpy_iterator())), EXPECTED)


def test_calls_without_keys_differ() -> None:
    layers = [RandomAugment(rotation_range=90, seed=seed) for seed in (1, 1, 2)]
    first, again, other = ([layer(IMAGES, training=True).numpy().tobytes() for _ in range(2)] for layer in layers)
    assert first == again
    assert first[0] != first[1]
    assert first[0] != other[0]
    same = layers[0](np.repeat(IMAGES[:1], 4, 0), training=True).numpy()
    assert len({image.tobytes() for image in same}) == 4


def test_without_training_nothing_changes() -> None:
    layer = RandomAugment(PRESETS["strong"])
    np.testing.assert_array_equal(layer(IMAGES, KEYS), IMAGES)
    model = keras.Sequential([keras.Input((20, 24, 3)), layer])
    np.testing.assert_array_equal(model.predict(IMAGES.astype(np.float32), verbose=0), IMAGES)


def test_saved_in_a_model(tmp_path: Path) -> None:
    model = keras.Sequential(
        [
            keras.Input((20, 24, 3)),
            RandomAugment(zoom_range=(0.8, 1.1), fill_mode="reflect", scale=1.0, seed=5, name="augment"),
            keras.layers.Conv2D(2, 3),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(1),
        ]
    )
    model.compile("sgd", "mse", jit_compile=False)
    model.fit(IMAGES / 255, np.zeros(4), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    layer = loaded.get_layer("augment")
    assert layer.config == AugmentConfig(zoom_range=(0.8, 1.1), fill_mode="reflect")
    assert (layer.scale, layer.seed) == (1.0, 5)
    np.testing.assert_array_equal(loaded.predict(IMAGES / 255, verbose=0), model.predict(IMAGES / 255, verbose=0))
    loaded.fit(IMAGES / 255, np.zeros(4), verbose=0)


def test_config_and_settings_exclude_each_other() -> None:
    with pytest.raises(UserError, match=r"RandomAugment: use either config or erasing, cval, not both\."):
        RandomAugment(AugmentConfig(), erasing=0.5, cval=3)


def test_errors() -> None:
    layer = RandomAugment(PRESETS["strong"])
    message = r"keys of shape \(1,\) for images of shape \(4, 20, 24, 3\): must be one key per image"
    with pytest.raises(UserError, match=message):
        layer(IMAGES, KEYS[:1], training=True)
    with pytest.raises(UserError, match=r"scale=0: must be above 0\. scale is the value of white in float images\."):
        RandomAugment(scale=0)
    np.testing.assert_array_equal(layer(IMAGES, KEYS.astype(np.int32), training=True), EXPECTED)
