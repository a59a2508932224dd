"""Grad-CAM on drawn scenes, each with an object on a plain background, so that the evidence is known."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from trainers.results import gradcam

SIZE, OBJECT = 128, 40
COLORS = {0: (230, 40, 40), 1: (40, 220, 40), 2: (40, 40, 230)}  # The color of an object is its class.


def scenes(classes: list[int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return gray images u8[n SIZE SIZE 3] with a colored square, and its masks bool[n SIZE SIZE]."""
    random = np.random.default_rng(seed)
    images = np.full((len(classes), SIZE, SIZE, 3), 128, np.uint8)
    masks = np.zeros(images.shape[:3], bool)
    for image, mask, label in zip(images, masks, classes):
        top, left = random.integers(0, SIZE - OBJECT, 2)
        image[top : top + OBJECT, left : left + OBJECT] = COLORS[label]
        mask[top : top + OBJECT, left : left + OBJECT] = True
    return images, masks


def by_hand(head: str, classes: int) -> keras.Model:
    """Return a model of the three colors, with the excess of red, green and blue as features."""
    pixels = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(pixels)
    x = keras.layers.Conv2D(3, 4, strides=4, activation="relu", name="surplus")(x)
    if head == "nested":
        inner = keras.Sequential([keras.Input(x.shape[1:]), keras.layers.MaxPooling2D(2)])
        inner.add(keras.layers.GlobalAveragePooling2D())
        x = inner(x)
    else:
        x = keras.layers.Flatten()(x) if head == "flatten" else keras.layers.GlobalAveragePooling2D()(x)
    if head == "activation":
        x = keras.layers.Activation("softmax")(keras.layers.Dense(classes, name="head")(x))
    elif classes == 2:
        x = keras.layers.Dense(1, activation="sigmoid", name="head")(x)
    else:
        x = keras.layers.Dense(classes, activation="softmax", name="head")(x)
    model = keras.Model(pixels, x)
    kernel = np.zeros((4, 4, 3, 3), np.float32)
    for color in range(3):
        kernel[..., color] = (np.eye(3)[color] - 0.5 * (1 - np.eye(3)[color])) / 16
    model.get_layer("surplus").set_weights([kernel, np.zeros(3)])
    weights = np.eye(3, classes) * 200 if model.output_shape[1] > 1 else np.array([[-200], [200], [0]])
    if head == "flatten":
        weights = np.tile(weights, (SIZE // 4 * SIZE // 4, 1)) / 50
    model.get_layer("head").set_weights([weights, np.zeros(weights.shape[1])])
    return model


def share_inside(heat: np.ndarray, mask: np.ndarray) -> float:
    """Return the share of the heat that lies on the object or within a cell of its edge."""
    cell = SIZE // heat.shape[0]
    near = mask.reshape(len(heat), cell, len(heat), cell).any((1, 3))
    return float(heat[near].sum() / heat.sum())


@pytest.mark.parametrize(
    ("head", "classes"),
    [("pool", 2), ("pool", 3), ("flatten", 2), ("flatten", 3), ("nested", 2), ("nested", 3), ("activation", 3)],
)
def test_heat_lies_on_the_object(head, classes):
    model = by_hand(head, classes)
    labels = [0, 1, 2][:classes] * 3
    images, masks = scenes(labels)
    output = np.asarray(model(images))
    predicted = (output[:, 0] >= 0.5).astype(int) if classes == 2 else output.argmax(1)
    assert predicted.tolist() == labels
    assert np.abs(output - 0.5).min() > 0.49  # The gradient of such probabilities is nearly 0.
    heat = gradcam.heatmaps(model, images, predicted)
    assert heat is not None
    assert heat.shape[1:] == ((16, 16) if head == "nested" else (32, 32))
    assert (heat.min(), heat.max((1, 2)).tolist()) == (0, [1] * len(labels))
    assert min(map(share_inside, heat, masks)) > 0.95


def test_heat_lies_on_the_object_of_the_given_class():
    images, masks = scenes([0])
    images[0, :OBJECT, :OBJECT], masks[0] = COLORS[0], False
    images[0, -OBJECT:, -OBJECT:] = COLORS[1]
    masks[0, -OBJECT:, -OBJECT:] = True
    model = by_hand("pool", 3)
    green = gradcam.heatmaps(model, images, np.array([1]))
    blue = gradcam.heatmaps(model, images, np.array([2]))
    assert green is not None
    assert blue is not None
    assert share_inside(green[0], masks[0]) > 0.95
    assert blue.max() == 0  # There is no evidence for blue.


@pytest.mark.parametrize(("classes", "pooling"), [(2, None), (3, "avg")], ids=["feature maps", "pooled"])
def test_backbone_of_keras(classes, pooling):
    """All features are evidence for class 1, and they are 0 on the gray background for all weights."""
    keras.utils.set_random_seed(0)
    base = keras.applications.VGG16(weights=None, include_top=False, input_shape=(SIZE, SIZE, 3), pooling=pooling)
    pixels = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    x = base(keras.layers.Rescaling(1 / 128, -1)(pixels))
    x = x if pooling else keras.layers.GlobalAveragePooling2D()(x)
    kind = {"units": 1, "activation": "sigmoid"} if classes == 2 else {"units": 3, "activation": "softmax"}
    model = keras.Model(pixels, keras.layers.Dense(name="head", use_bias=False, **kind)(x))
    kernel = np.ones((512, 1)) if classes == 2 else np.tile([-1, 1, 0], (512, 1))
    model.get_layer("head").set_weights([kernel])
    images, masks = scenes([0, 1, 2])
    heat = gradcam.heatmaps(model, images, np.ones(3, int))
    assert heat is not None
    assert heat.shape == (3, 4, 4)
    areas = masks.reshape(3, 4, 32, 4, 32).sum((2, 4))
    assert all(area[np.unravel_index(cell.argmax(), (4, 4))] > 0 for area, cell in zip(areas, heat))
    against = gradcam.heatmaps(model, images[:1], np.zeros(1, int))
    assert against is not None
    assert against.max() == 0


def test_heat_depends_neither_on_other_images_nor_on_frozen_layers():
    model = by_hand("nested", 3)
    images, _ = scenes([0, 1, 2] * 4)
    classes = np.array([0, 1, 2] * 4)
    together = gradcam.heatmaps(model, images, classes)
    model.trainable = False
    assert together is not None
    for i, heat in enumerate(together):
        alone = gradcam.heatmaps(model, images[i : i + 1], classes[i : i + 1])
        assert alone is not None
        np.testing.assert_allclose(heat, alone[0], atol=1e-5)


def test_layers_are_unchanged():
    model = by_hand("nested", 2)
    images, _ = scenes([0, 1])
    before = np.asarray(model(images))
    gradcam.heatmaps(model, images, np.array([0, 1]))
    assert all("call" not in vars(layer) for layer in model.layers)
    np.testing.assert_array_equal(np.asarray(model(images)), before)


def test_model_without_feature_maps_has_no_heat():
    pixels = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    x = keras.layers.Dense(3, activation="softmax")(keras.layers.Flatten()(pixels))
    assert gradcam.heatmaps(keras.Model(pixels, x), scenes([0])[0], np.array([0])) is None


def test_sequence_of_positions_has_no_heat():
    pixels = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    x = keras.layers.Conv2D(4, 16, strides=16)(keras.layers.Rescaling(1 / 255)(pixels))
    x = keras.layers.LayerNormalization()(keras.layers.Reshape((-1, 4))(x))
    x = keras.layers.Dense(3, activation="softmax")(keras.layers.GlobalAveragePooling1D()(x))
    assert gradcam.heatmaps(keras.Model(pixels, x), scenes([0])[0], np.array([0])) is None


def test_one_of_two_probabilities_has_the_heat_of_its_logit():
    """`describe_model` makes such models."""
    pixels = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    model = keras.Model(pixels, by_hand("pool", 3)(pixels))
    two = keras.layers.Dense(2, activation="softmax", kernel_initializer="identity", name="two")
    inner = keras.Model(model.inputs[0], two(model.outputs[0][:, :2] * 20))
    chosen = keras.Model(pixels, inner(pixels)[:, 1:])
    images, masks = scenes([0, 1])
    heat = gradcam.heatmaps(chosen, images, np.array([0, 1]))
    assert heat is not None
    assert min(map(share_inside, heat, masks)) > 0.9


def test_overlay_is_red_where_the_heat_is():
    image = np.full((32, 32, 3), 100, np.uint8)
    heat = np.zeros((4, 4), np.float32)
    heat[0, 0] = 1
    laid = gradcam.overlaid(image, heat).astype(int)
    assert laid.shape == (32, 32, 3)
    assert laid[2, 2, 0] > laid[2, 2, 2] + 50  # Red.
    assert laid[30, 30, 2] > laid[30, 30, 0]  # Blue.
