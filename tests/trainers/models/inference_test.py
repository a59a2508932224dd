"""Tests of compiled models: their outputs, and the weights they use."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainers.models import inference, networks
from trainers.recipes import ModelConfig


@pytest.fixture(autouse=True)
def _float32():
    yield
    keras.config.set_dtype_policy("float32")


def variables_in(function: tf.types.experimental.PolymorphicFunction) -> int:
    return len(function.get_concrete_function().variables)


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="constants are only used on CPUs")
@pytest.mark.parametrize(
    ("config", "classes", "policy"),
    [
        pytest.param(
            ModelConfig(backbone="MobileNetV2", image_size=32, weights="none"), 2, "float32", marks=pytest.mark.slow
        ),
        (ModelConfig(backbone="MobileNetV2", image_size=32, weights="none"), 2, "mixed_bfloat16"),  # Weights are cast.
        pytest.param(  # This network has nested layers.
            ModelConfig(backbone="ConvNeXtTiny", image_size=32, weights="none"), 3, "float32", marks=pytest.mark.slow
        ),
        (ModelConfig(backbone="EfficientNetB0", image_size=32, weights="none"), 3, "float32"),  # It has other state.
    ],
    ids=lambda value: getattr(value, "backbone", value),
)
def test_constants_give_the_outputs_of_variables(config, classes, policy, monkeypatch):
    keras.config.set_dtype_policy(policy)
    keras.utils.set_random_seed(0)
    model = networks.build(config, classes).model
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)

    monkeypatch.setattr(inference, "_MOST_CONSTANTS", 100_000_000)
    constant = inference.compiled(model)
    monkeypatch.setattr(inference, "_MOST_CONSTANTS", 0)
    variable = inference.compiled(model)

    assert variables_in(constant) == 0
    assert variables_in(variable) > 100
    assert constant(images).dtype == tf.float32
    np.testing.assert_allclose(constant(images), variable(images), atol=2e-6 if policy == "float32" else 2e-2)
    np.testing.assert_allclose(constant(images[:2]), constant(images)[:2], atol=2e-6 if policy == "float32" else 2e-2)


def test_weights_are_those_at_compilation():
    model = networks.build(ModelConfig(backbone="CNN", image_size=32, weights="none"), 2).model
    images = np.full((1, 32, 32, 3), 200, np.uint8)
    before = inference.compiled(model)
    expected = model(images, training=False).numpy()
    model.set_weights([weight + 0.1 for weight in model.get_weights()])
    np.testing.assert_allclose(before(images), expected, atol=1e-6)
    assert abs(model(images, training=False).numpy() - expected) > 0.01
