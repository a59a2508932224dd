"""Views of test-time augmentation: which ones there are, and the mean of their probabilities."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tfrecord_tools.decoding import decoder
from tfrecord_tools.decoding.geometry import Box
from trainers.results import views

SIZE = 16


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """Return a model of two classes that looks at the first pixel only."""
    inputs = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    first = keras.layers.Cropping2D(((0, SIZE - 1), (0, SIZE - 1)))(keras.layers.Rescaling(1 / 255)(inputs))
    outputs = keras.layers.Dense(1, activation="sigmoid")(keras.layers.Flatten()(first))
    return keras.Model(inputs, outputs)


@pytest.mark.parametrize(
    ("tta", "count"), [((), 1), (("mirror",), 2), (("crops",), 5), (("mirror", "crops"), 10), (("crops", "mirror"), 10)]
)
def test_number_of_views(tta: tuple[str, ...], count: int, pixels: np.ndarray) -> None:
    made = list(views.views(pixels, tta))
    assert len(made) == views.count(tta) == count
    assert {(view.shape, view.dtype) for view in made} == {(pixels.shape, np.dtype(np.uint8))}
    np.testing.assert_array_equal(made[0], pixels)


def test_mirror_images(pixels: np.ndarray) -> None:
    _, mirrored = views.views(pixels, ["mirror"])
    np.testing.assert_array_equal(mirrored, np.stack([np.fliplr(image) for image in pixels]))
    crops = list(views.views(pixels, ["crops"]))
    both = list(views.views(pixels, ["mirror", "crops"]))
    for i, crop in enumerate(crops):
        np.testing.assert_array_equal(both[2 * i], crop)
        np.testing.assert_array_equal(both[2 * i + 1], crop[:, :, ::-1])


def test_corners_are_enlarged() -> None:
    """Each quarter of the image has one gray level. A corner crop has more of its own quarter."""
    image = np.repeat(np.repeat(np.array([[10, 60], [110, 160]], np.uint8), 8, 0), 8, 1)[None, :, :, None]
    _, *corners = views.views(np.repeat(image, 3, 3), ["crops"])
    means = [int(corner.mean().round()) for corner in corners]
    expected = [(8 * a + 6 * b) / 14 for a, b in ((0, 50), (50, 0))]
    down = [(8 * a + 6 * b) / 14 for a, b in ((0, 100), (100, 0))]
    assert means == pytest.approx([10 + x + y for y in down for x in expected], abs=1)
    assert [int(corner[0, y, x, 0]) for corner in corners for y in (0, -1) for x in (0, -1)] == [10, 60, 110, 160] * 4


def test_views_of_images_that_are_not_square() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (2, 12, 32, 3), np.uint8)
    made = list(views.views(pixels, ["mirror", "crops"]))
    assert [view.shape for view in made] == [pixels.shape] * 10
    corner = decoder.resized(pixels[1], (12, 32), Box(2, 4, 10, 28))  # The last one, without its mirror image.
    np.testing.assert_array_equal(made[8][1], corner)


def test_probabilities_are_the_mean_over_the_views(pixels: np.ndarray, model: keras.Model) -> None:
    single = views.predictor(model)
    for tta in (["mirror"], ["crops"], ["crops", "mirror"]):
        averaged = views.predictor(model, tta)
        expected = np.mean([single(np.ascontiguousarray(view)) for view in views.views(pixels, tta)], axis=0)
        np.testing.assert_allclose(averaged(pixels), expected, atol=1e-6)
        assert abs(averaged(pixels) - single(pixels)).max() > 1e-3
    assert views.predictor(model, ["crops", "mirror", "mirror"]).tta == ("mirror", "crops")


def test_without_views_the_output_is_that_of_the_model(pixels: np.ndarray, model: keras.Model) -> None:
    probabilities = views.predictor(model)(pixels)
    np.testing.assert_allclose(probabilities[:, 1:], np.asarray(model(pixels)), atol=1e-6)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("tta", "classes", "lines"),
    [
        ((), ("left", "right"), []),
        (("mirror",), ("cats", "dogs"), ["tta: 2 views (mirror): the model computes each image twice"]),
        (("crops",), ("left", "right"), ["tta: 5 views (crops): the model computes each image 5 times"]),
        (
            ("mirror", "crops"),
            ("left", "right", "none"),
            [
                "tta: 10 views (mirror, crops): the model computes each image 10 times",
                "note: --tta=mirror,crops mirrors images, but the names of these classes suggest that a mirrored"
                " image is of another class: left, right. If this is true, leave out mirror",
            ],
        ),
    ],
)
def test_cost_and_classes_that_mirroring_may_change(
    tta: tuple[str, ...], classes: tuple[str, ...], lines: list[str]
) -> None:
    assert list(views.notes(tta, classes)) == lines
