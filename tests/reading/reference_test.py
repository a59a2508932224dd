"""Tests of the reference decoder in TensorFlow, eager and in tf.data."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tensorflow as tf
from image_sources import image
from PIL import Image

from tfrecord_tools.decoding.reference import decode_pixels


def flat(color: tuple[int, ...], mode: str = "RGB", kind: str = "PNG", size: tuple[int, int] = (30, 20)) -> bytes:
    encoded = io.BytesIO()
    Image.new(mode, size, color if len(color) > 1 else color[0]).save(encoded, kind)
    return encoded.getvalue()


@pytest.mark.parametrize(
    ("data", "color"),
    [
        (flat((10, 200, 30)), (10, 200, 30)),
        (flat((7,), "L"), (7, 7, 7)),  # Gray becomes RGB.
        (flat((10, 200, 30, 255), "RGBA"), (10, 200, 30)),
        (flat((1,), "1"), (255, 255, 255)),
        (flat((10, 200, 30), kind="BMP"), (10, 200, 30)),
        (flat((0, 0, 0), kind="GIF"), (0, 0, 0)),
    ],
)
def test_colors(data: bytes, color: tuple[int, int, int]) -> None:
    pixels = decode_pixels(tf.constant(data), 8)
    assert pixels.dtype == tf.uint8
    assert pixels.shape == (8, 8, 3)
    np.testing.assert_array_equal(pixels, np.broadcast_to(np.array(color, np.uint8), (8, 8, 3)))


def test_jpeg_of_one_color() -> None:
    pixels = decode_pixels(tf.constant(flat((10, 200, 30), kind="JPEG")), 8).numpy().astype(int)
    assert np.abs(pixels - [10, 200, 30]).max() <= 3


@pytest.mark.parametrize("size", [(5, 40), (40, 5), (1, 1), (16, 16)])
def test_any_size_becomes_a_square(size: tuple[int, int]) -> None:
    assert decode_pixels(tf.constant(image(1, "PNG", size=size)), 16).shape == (16, 16, 3)


def test_same_size_is_unchanged() -> None:
    data = image(1, "PNG", size=(16, 16))
    with Image.open(io.BytesIO(data)) as opened:
        np.testing.assert_array_equal(decode_pixels(tf.constant(data), 16), np.asarray(opened))


def test_height_and_width_are_not_swapped() -> None:
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:10] = 255  # White in the upper half.
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG")
    square = decode_pixels(tf.constant(encoded.getvalue()), 10).numpy()
    assert square[:4].min() == 255
    assert square[6:].max() == 0


def test_shrinking_averages_pixels() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::8] = 255
    encoded = io.BytesIO()
    Image.fromarray(stripes).save(encoded, "PNG")
    small = decode_pixels(tf.constant(encoded.getvalue()), 8).numpy().astype(int)
    assert small[:, 1:-1].min() > 8  # The average is 255 / 8. Sampling without a filter would miss the lines.


def test_eager_and_in_a_pipeline_are_equal() -> None:
    images = [image(i, kind, size=(31, 22)) for i in range(4) for kind in ("JPEG", "PNG")]
    data = tf.data.Dataset.from_tensor_slices(images).map(
        lambda encoded: decode_pixels(encoded, 13), num_parallel_calls=2
    )
    assert data.element_spec.shape == (13, 13, 3)  # XLA needs a static shape.
    for encoded, pixels in zip(images, data):
        np.testing.assert_array_equal(pixels, decode_pixels(tf.constant(encoded), 13))


def test_bytes_that_are_not_an_image() -> None:
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode_pixels(tf.constant(b"<html>"), 8)


@pytest.mark.parametrize(
    ("size", "crop", "box"),
    [
        ((40, 20), 1.0, (10, 0, 30, 20)),  # The crop has the length of the shorter side.
        ((20, 40), 1.0, (0, 10, 20, 30)),
        ((40, 20), 0.5, (15, 5, 25, 15)),
        ((41, 20), 0.5, (15, 5, 25, 15)),  # An odd rest of pixels goes to the end.
        ((3, 9), 0.1, (1, 4, 2, 5)),  # At least one pixel.
    ],
)
def test_crop_takes_the_central_square(size: tuple[int, int], crop: float, box: tuple[int, int, int, int]) -> None:
    data = image(1, "PNG", size=size)
    with Image.open(io.BytesIO(data)) as opened:
        expected = np.asarray(opened.crop(box))
    side = box[2] - box[0]
    np.testing.assert_array_equal(decode_pixels(tf.constant(data), side, crop), expected)


@pytest.mark.parametrize("size", [(12, 9), (16, 16), (40, 30)], ids=["enlarged", "as it is", "shrunk"])
def test_constant_bytes_in_a_function(size: tuple[int, int]) -> None:
    """TensorFlow folds such constants when it builds the graph."""
    encoded = image("constant", size=size)
    function = tf.function(lambda: decode_pixels(tf.constant(encoded), 16))
    np.testing.assert_array_equal(function(), decode_pixels(tf.constant(encoded), 16))
