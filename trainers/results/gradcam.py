"""Grad-CAM: which places of an image speak for a class, of any classifier whose layers keep places up to some point."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

_BATCH_SIZE = 4  # The gradient keeps the output of every layer: of VGG16 at 224 px, 0.1 GB an image.


def heatmaps(model: keras.Model, images: np.ndarray, classes: np.ndarray) -> np.ndarray | None:
    """Says where the evidence for a class lies.

    The features of the last layer that has places, times the gradient of the class's logit there, summed over
    channels; what speaks against the class is cut off. For a head that pools, this is Grad-CAM. For one that
    flattens, a channel counts differently from place to place, and Grad-CAM's mean over them would hide it.

    Args:
        model: u8[b h w 3] -> f32[b 1] or f32[b classes], probabilities.
        images: u8[b h w 3].
        classes: i64[b], the class asked about.

    Returns:
        f32[b h' w'] in 0..1, in the resolution of that layer: 1 at the strongest place of an image, all 0 where
        nothing speaks for the class. None if the model has no such layer.
    """
    parts = [slice(i, i + _BATCH_SIZE) for i in range(0, len(images), _BATCH_SIZE)]
    maps = [heat for part in parts if (heat := _heat(model, images[part], classes[part])) is not None]
    return np.concatenate(maps) if maps else None


def overlaid(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Lays a heat map over an image.

    Args:
        image: u8[h w 3].
        heat: f32[h' w'] in 0..1.

    Returns:
        u8[h w 3], the image in grey, from blue over yellow to red where the heat is.
    """
    import matplotlib

    large = tf.image.resize(heat[..., None], image.shape[:2]).numpy()[..., 0]
    colors = matplotlib.colormaps["turbo"](large)[..., :3] * 255
    grey = image @ np.array([0.299, 0.587, 0.114])
    share = 0.25 + 0.4 * large[..., None]  # Of the colour: what is cold shows the image.
    return np.round((1 - share) * grey[..., None] + share * colors).astype(np.uint8)


def _heat(model: keras.Model, images: np.ndarray, classes: np.ndarray) -> np.ndarray | None:
    with tf.GradientTape() as tape, _recorded(model) as calls:
        pixels = tf.constant(images)
        model(pixels, training=False)
        last, penultimate, _ = calls[-1]
        logits = _before_activation(last, penultimate)
        if logits.shape[1] == 1:  # That of the second class; the first's is its negative.
            logits = tf.concat([-logits, logits], 1)
        scores = tf.gather(logits, classes, batch_dims=1)
    features = next((output for _, _, output in reversed(calls) if _has_places(output)), None)
    if features is None:
        return None
    heat = tf.nn.relu(tf.reduce_sum(features * tape.gradient(scores, features), -1))
    return tf.math.divide_no_nan(heat, tf.reduce_max(heat, [1, 2], keepdims=True)).numpy()


@contextlib.contextmanager
def _recorded(model: keras.Model) -> Iterator[list[tuple[keras.Layer, Any, Any]]]:
    """Records the calls of all layers, nested ones too, in their order: layer, first input, output.

    Cutting the model's graph would not do: the tensors within a nested model are not those of the outer graph.
    """
    calls: list[tuple[keras.Layer, Any, Any]] = []

    def recorded(layer: keras.Layer) -> Any:
        call = layer.call

        def run(*args: Any, **kwargs: Any) -> Any:
            output = call(*args, **kwargs)
            calls.append((layer, args[0], output))
            return output

        return run

    layers = [layer for layer in _leaves(model) if not isinstance(layer, keras.layers.InputLayer)]
    for layer in layers:
        layer.call = recorded(layer)
    try:
        yield calls
    finally:
        for layer in layers:
            del layer.call  # The method of its class shows again.


def _leaves(model: keras.Model) -> Iterator[keras.Layer]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _leaves(layer)
        else:
            yield layer


def _has_places(output: Any) -> bool:
    """Whether it is f[b h w c] of more than one place."""
    return output.dtype.is_floating and output.shape.rank == 4 and output.shape[1] * output.shape[2] > 1


def _before_activation(layer: keras.Layer, x: tf.Tensor) -> tf.Tensor:
    """What the last layer puts out before its sigmoid or softmax, which are flat where a model is sure."""
    if isinstance(layer, keras.layers.Dense):
        x = tf.matmul(tf.cast(x, layer.kernel.dtype), layer.kernel)
        return x if layer.bias is None else x + layer.bias
    return x if isinstance(layer, (keras.layers.Activation, keras.layers.Softmax)) else layer.call(x)
