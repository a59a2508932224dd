"""Change training images at random, as an `AugmentConfig` says.

Each image has a key, a whole number that is the seed of its random numbers. The result depends only on the images, the
keys and the config. Every bit of it is the same for any batch size, with XLA or without it, and in a graph. All
geometric changes are applied as one affine warp, and all color changes as one matrix. The warp uses integers, because
floats would be rounded differently with another batch size, with XLA, or in a graph.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfrecord_tools.augment_config import AugmentConfig
from tfrecord_tools.errors import UserError

# The number 1 in 16.16 fixed point: a whole number that counts 1/65536. Coordinates and color factors use it.
_ONE = 1 << 16
_GRAY = (0.299, 0.587, 0.114)  # Weights of ITU-R BT.601, as in Pillow and TensorFlow.
_GOLDEN = 0x9E3779B97F4A7C15
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_MAX_SIDE = 8192  # Limit of 16.16 coordinates in 32 bits.
Change = Callable[[tf.Tensor, "Draws", AugmentConfig], tf.Tensor]


class Moves(NamedTuple):
    """Geometric changes of each image, named as in `ImageDataGenerator.apply_transform`; all f64[b].

    Attributes:
        theta: Rotation in degrees.
        tx: Shift along the width in pixels.
        ty: Shift along the height in pixels.
        shear: Shear in degrees.
        zx: Zoom factor along the width. Above 1: a larger part of the scene is shown.
        zy: Zoom factor along the height.
        flip_x: -1: flipped left-right. 1: not flipped.
        flip_y: -1: flipped top-bottom. 1: not flipped.
    """

    theta: tf.Tensor
    tx: tf.Tensor
    ty: tf.Tensor
    shear: tf.Tensor
    zx: tf.Tensor
    zy: tf.Tensor
    flip_x: tf.Tensor
    flip_y: tf.Tensor


class Colors(NamedTuple):
    """Color changes of each image; all f64[b].

    Attributes:
        shift: Levels added to all channels.
        brightness: Factor for all values.
        contrast: Factor for the difference from the image's mean.
        saturation: Factor for the difference from the pixel's gray.
    """

    shift: tf.Tensor
    brightness: tf.Tensor
    contrast: tf.Tensor
    saturation: tf.Tensor


def augment(images: tf.Tensor, keys: tf.Tensor, config: AugmentConfig, jit: bool = True) -> tf.Tensor:
    """Change each image at random; its key decides how.

    Args:
        images: u8[b h w c], c 1 or 3.
        keys: Integers, i64[b], such as `order.hash64(seed, epoch, record)`.
        config: The changes and their ranges.
        jit: Compile with XLA, which gives the same result three times as fast.

    Returns:
        u8[b h w c].

    Raises:
        UserError: The height or width is unknown or above 8,192, or the numbers of images and keys differ.
    """
    images, state = tf.convert_to_tensor(images), state_of(keys, images)
    if None in images.shape[1:]:
        raise UserError(
            f"images of shape {images.shape}: height and width must be known. Resize the images to one size first."
        )
    changes = {_move: config.moves, _recolor: config.recolors, _erase: config.erasing > 0}
    for change, enabled in changes.items():
        if enabled:
            images = _compiled(change, config, jit, tuple(images.shape))(images, state)
    return images


def state_of(keys: Any, images: Any) -> tf.Tensor:
    """Return u64[b], the initial state of the random numbers of each image.

    Raises:
        UserError: The numbers of images and keys differ.
    """
    keys = tf.cast(keys, tf.int64)
    if not keys.shape.is_compatible_with(images.shape[:1]):
        raise UserError(f"keys of shape {keys.shape} for images of shape {images.shape}: must be one key per image.")
    return tf.bitcast(keys, tf.uint64)


def keys_of(seed: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Return keys i64[count] from one seed: u32[2] or i32[2], as Keras's `SeedGenerator` returns it."""
    halves = tf.bitcast(tf.cast(seed, tf.int64), tf.uint64)
    state = tf.bitwise.bitwise_xor(tf.bitwise.left_shift(halves[0], _u64(32)), halves[1])
    return tf.bitcast(_finalized(state + tf.cast(tf.range(count), tf.uint64) * _u64(_GOLDEN)), tf.int64)


@functools.cache
def _compiled(
    change: Change, config: AugmentConfig, jit: bool, shape: tuple[int | None, ...]
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Compile one change for one shape.

    Each change is compiled separately, since XLA would otherwise compute the warp once for each color channel. Each
    shape has its own function, since TensorFlow warns about functions that are traced for many shapes.
    """
    return tf.function(lambda images, state: change(images, Draws(state), config), jit_compile=jit, autograph=False)


def _move(images: tf.Tensor, draw: Draws, config: AugmentConfig) -> tf.Tensor:
    size = images.shape[1:3]
    return warp(images, affine(draw_moves(draw, size, config), size), config.fill_mode, round(config.cval))


def _recolor(images: tf.Tensor, draw: Draws, config: AugmentConfig) -> tf.Tensor:
    colors = draw_colors(draw, config)
    return recolor(images, color_matrices(colors, means(images) if config.contrast_range else colors.shift * 0))


class Draws:
    """Uniform random numbers for each key: output n of the generator splitmix64, with the key as its seed.

    n is the index of a number. Each kind of change has its own n, so that switching one change off does not affect the
    others.
    """

    def __init__(self, keys: tf.Tensor):
        self._keys = keys

    def __call__(self, number: int, low: float = 0.0, high: float = 1.0) -> tf.Tensor:
        """Return f64[b] in low..high, the random numbers with index `number`."""
        state = _finalized(self._keys + _u64(_GOLDEN * (number + 1)))
        unit = tf.cast(tf.bitwise.right_shift(state, _u64(11)), tf.float64) * (1 / (1 << 53))
        return low + unit * (high - low)

    def sign(self, number: int, enabled: bool) -> tf.Tensor:
        """Return f64[b]: -1 or 1 with equal probability if `enabled`, else 1."""
        return tf.where(self(number) < (0.5 if enabled else 0.0), tf.constant(-1.0, tf.float64), 1.0)


def draw_moves(draw: Draws, size: tuple[int, int], config: AugmentConfig) -> Moves:
    """Draw random geometric changes as `ImageDataGenerator.get_random_transform` does.

    Args:
        draw: Random numbers of the images.
        size: Height and width of the images.
        config: The changes and their ranges.
    """
    height, width = size
    across = config.width_shift_range * (width if config.width_shift_range < 1 else 1)
    down = config.height_shift_range * (height if config.height_shift_range < 1 else 1)
    return Moves(
        theta=draw(0, -config.rotation_range, config.rotation_range),
        tx=draw(1, -across, across),
        ty=draw(2, -down, down),
        shear=draw(3, -config.shear_range, config.shear_range),
        zx=draw(4, *config.zoom_factors),
        zy=draw(5, *config.zoom_factors),
        flip_x=draw.sign(6, config.horizontal_flip),
        flip_y=draw.sign(7, config.vertical_flip),
    )


def draw_colors(draw: Draws, config: AugmentConfig) -> Colors:
    """Draw random color changes."""
    return Colors(
        shift=draw(8, -config.channel_shift_range, config.channel_shift_range),
        brightness=draw(9, *(config.brightness_range or (1, 1))),
        contrast=draw(10, *(config.contrast_range or (1, 1))),
        saturation=draw(11, *(config.saturation_range or (1, 1))),
    )


def affine(moves: Moves, size: tuple[int, int]) -> tf.Tensor:
    """Combine rotation, shift, shear, zoom and flips about the center, as `apply_transform` does.

    Args:
        moves: Geometric changes.
        size: Height and width of the images.

    Returns:
        i32[b 2 3] in 16.16 fixed point. It maps a pixel (x, y, 1) of the result to (x, y) in the source.
    """
    height, width = size
    sin, cos = _sin_cos(moves.theta)
    shear_sin, shear_cos = _sin_cos(moves.shear)
    x_scale, y_scale = moves.zx * moves.flip_x, moves.zy * moves.flip_y
    rows = []
    for across, down, center in ((cos, -sin, (width - 1) / 2), (sin, cos, (height - 1) / 2)):
        by_x = tf.round(across * x_scale * _ONE)
        by_y = tf.round((down * shear_cos - across * shear_sin) * y_scale * _ONE)
        shift = (across * moves.tx + down * moves.ty + center) * _ONE
        # Uses the rounded factors, so that rounding errors are symmetric about the center.
        rows.append([by_x, by_y, tf.round(shift - by_x * ((width - 1) / 2) - by_y * ((height - 1) / 2))])
    return tf.cast(tf.stack([tf.stack(row, -1) for row in rows], 1), tf.int32)


def warp(images: tf.Tensor, matrices: tf.Tensor, fill_mode: str, cval: int = 0) -> tf.Tensor:
    """Apply affine transforms to images, with bilinear interpolation and weights of 8 bits.

    Args:
        images: u8[b h w c], sides up to 8,192.
        matrices: i32[b 2 3] from `affine`.
        fill_mode: One of `FILL_MODES`.
        cval: Value of pixels outside the image for fill mode "constant", 0..255.

    Returns:
        u8[b h w c].

    Raises:
        UserError: A side is longer than 8,192 pixels.
    """
    height, width, channels = images.shape[1:]
    if max(height, width) > _MAX_SIDE:
        raise UserError(f"images of {height} x {width} pixels: each side must be at most {_MAX_SIDE:,}.")
    columns, rows = tf.range(width), tf.range(height)[:, None]
    by_x, by_y, offset = (matrices[:, :, i, None, None] for i in range(3))
    x, y = tf.unstack(by_x * columns + by_y * rows + offset + _ONE // 512, axis=1)  # i32[b h w]
    inner_x, inner_y = _folded(x, width, fill_mode), _folded(y, height, fill_mode)
    # One more column and row, so that every pixel has a neighbor. The weight of the new pixels is 0.
    flat = tf.reshape(tf.pad(images, [[0, 0], [0, 1], [0, 1], [0, 0]]), [-1, (height + 1) * (width + 1), channels])
    index = tf.bitwise.right_shift(inner_y, 16) * (width + 1) + tf.bitwise.right_shift(inner_x, 16)
    a, b, c, d = (tf.cast(tf.gather(flat, index + i, batch_dims=1), tf.int32) for i in (0, 1, width + 1, width + 2))
    x_weight, y_weight = (tf.bitwise.right_shift(i, 8)[..., None] & 255 for i in (inner_x, inner_y))
    above, below = a * (256 - x_weight) + b * x_weight, c * (256 - x_weight) + d * x_weight
    mixed = tf.bitwise.right_shift(above * (256 - y_weight) + below * y_weight + _ONE // 2, 16)
    moved = tf.cast(mixed, tf.uint8)
    if fill_mode == "constant":
        inside = _inside(x, width) & _inside(y, height)
        moved = tf.where(inside[..., None], moved, tf.constant(cval, tf.uint8))
    return moved


def _inside(coordinate: tf.Tensor, side: int) -> tf.Tensor:
    return (coordinate >= 0) & (coordinate < (side - 1) * _ONE + _ONE // 256)


def _folded(coordinate: tf.Tensor, side: int, fill_mode: str) -> tf.Tensor:
    """Map a 16.16 coordinate into 0..side-1, extending the image as scipy's `affine_transform` does."""
    last = (side - 1) * _ONE
    if fill_mode == "wrap":  # The first and the last pixel are at the same place.
        coordinate = tf.where(_inside(coordinate, side), coordinate, coordinate % max(1, last))
    if fill_mode == "reflect":  # Mirrored at the border, half a pixel outside the centers of the outer pixels.
        shifted = (coordinate + _ONE // 2) % (2 * side * _ONE)
        coordinate = tf.minimum(shifted, 2 * side * _ONE - shifted) - _ONE // 2
    return tf.clip_by_value(coordinate, 0, last)


def means(images: tf.Tensor) -> tf.Tensor:
    """Return f64[b], the exact mean of each image of u8[b h w c], computed with integers."""
    rows = tf.reduce_sum(tf.cast(images, tf.int32), axis=[2, 3])
    return tf.cast(tf.reduce_sum(tf.cast(rows, tf.int64), axis=1), tf.float64) / math.prod(images.shape[1:])


def color_matrices(colors: Colors, about: tf.Tensor) -> tf.Tensor:
    """Combine saturation, contrast, shift and brightness into one matrix per image.

    Args:
        colors: Color changes.
        about: f64[b], gray level that stays the same when the contrast changes.

    Returns:
        i32[b 3 4] in 16.16 fixed point, to be multiplied with a pixel (r, g, b, 1).
    """
    own = colors.saturation * colors.contrast * colors.brightness
    mixed = (1 - colors.saturation) * colors.contrast * colors.brightness
    added = ((1 - colors.contrast) * about + colors.shift) * colors.brightness
    rows = [tf.stack([mixed * gray + own * (i == j) for j, gray in enumerate(_GRAY)] + [added], -1) for i in range(3)]
    return tf.cast(tf.round(tf.stack(rows, 1) * _ONE), tf.int32)


def recolor(images: tf.Tensor, matrices: tf.Tensor) -> tf.Tensor:
    """Multiply each pixel of u8[b h w c] with i32[b 3 4] from `color_matrices` and clip to 0..255."""
    values = tf.cast(images, tf.int32)
    factors = matrices[:, None, None]
    if images.shape[-1] == 1:
        result = [values[..., 0] * tf.reduce_sum(factors[..., 0, :3], -1) + factors[..., 0, 3]]
    else:
        result = [sum(values[..., j] * factors[..., i, j] for j in range(3)) + factors[..., i, 3] for i in range(3)]
    rounded = tf.bitwise.right_shift(tf.stack(result, -1) + _ONE // 2, 16)
    return tf.cast(tf.clip_by_value(rounded, 0, 255), tf.uint8)


def _erase(images: tf.Tensor, draw: Draws, config: AugmentConfig) -> tf.Tensor:
    """Fill a rectangle in each image of u8[b h w c], with an aspect ratio from 1:3 to 3:1."""
    height, width = images.shape[1:3]
    area, ratio = draw(13, *config.erasing_area), draw(14, 1.0, 3.0)
    ratio = tf.where(draw(15) < 0.5, ratio, 1 / ratio)
    fractions = (tf.sqrt(area * ratio), height), (tf.sqrt(area / ratio), width)
    lengths = [tf.minimum(tf.round(fraction * side), side) for fraction, side in fractions]
    erased = rectangles(draw, 16, lengths, (height, width)) & (draw(12) < config.erasing)[:, None, None]
    return tf.where(erased[..., None], tf.constant(round(config.cval), tf.uint8), images)


def rectangles(draw: Draws, number: int, lengths: Sequence[tf.Tensor], size: tuple[int, int]) -> tf.Tensor:
    """Return bool[b h w], true in one rectangle at a random position in each image.

    Args:
        draw: Random numbers of the images.
        number: Index of the random number for the top of the rectangle; `number` + 1 gives the left side.
        lengths: Height and width of the rectangles in whole pixels, f64[b] each.
        size: Height and width of the images.
    """
    inside = []
    for axis, (length, side) in enumerate(zip(lengths, size)):
        start = tf.floor(draw(number + axis) * (side - length + 1))
        positions = tf.range(side, dtype=tf.float64)
        inside.append((positions >= start[:, None]) & (positions < (start + length)[:, None]))
    return inside[0][:, :, None] & inside[1][:, None, :]


def _sin_cos(degrees: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Compute sine and cosine as series in f64. The last bit of `tf.sin` depends on the batch size."""
    quadrant = tf.round(degrees / 90)
    angle = (degrees - 90 * quadrant) * (math.pi / 180)  # Within 45 degrees, ten terms are exact.
    square = angle * angle
    sin = cos = tf.zeros_like(angle)
    for term in range(9, -1, -1):
        sin = sin * square + (-1) ** term / math.factorial(2 * term + 1)
        cos = cos * square + (-1) ** term / math.factorial(2 * term)
    sin = sin * angle
    turns = tf.cast(quadrant, tf.int32) % 4
    for turn in range(1, 4):
        sin, cos = tf.where(turns >= turn, cos, sin), tf.where(turns >= turn, -sin, cos)
    return sin, cos


def _finalized(state: tf.Tensor) -> tf.Tensor:
    """Apply splitmix64's mixing, as in `order`."""
    for shift, factor in _MIX:
        state = tf.bitwise.bitwise_xor(state, tf.bitwise.right_shift(state, _u64(shift))) * _u64(factor)
    return tf.bitwise.bitwise_xor(state, tf.bitwise.right_shift(state, _u64(31)))


def _u64(value: int) -> tf.Tensor:
    """Return a constant modulo 2**64, since a graph treats Python integers above 2**63 in another way."""
    return tf.constant(np.uint64(value % (1 << 64)))
