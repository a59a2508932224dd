"""Grad-CAM: heat maps of the evidence for a class, for any classifier with feature maps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

_BATCH_SIZE = 8  # Keras keeps the outputs of all layers during a call: 0.06 GB per image for VGG16 at 224 px.


class _Call(NamedTuple):
    """A call of a layer, with its first input and its output."""

    layer: keras.Layer
    x: Any
    output: Any


def heatmaps(model: keras.Model, images: np.ndarray, classes: np.ndarray) -> np.ndarray | None:
    """Return heat maps that show where images have evidence for a class.

    The heat is the product of the last feature maps and the gradient of the class's logit, summed over channels.
    Negative values become 0. For a head that pools, this is Grad-CAM. For a head that flattens, the weight of a channel
    depends on the position. Grad-CAM would hide that, because it averages over positions.

    Args:
        model: Classifier u8[b h w 3] -> probabilities f32[b 1] or f32[b classes].
        images: u8[b h w 3].
        classes: i64[b], a class for each image.

    Returns:
        f32[b h' w'] in 0..1, in the resolution of the feature maps. The maximum of each image is 1, or 0 if there is no
        evidence for the class. None if the last outputs with positions are not feature maps b h w c, but a sequence, as
        in a transformer, or if no class depends on these maps.
    """
    parts = [slice(i, i + _BATCH_SIZE) for i in range(0, len(images), _BATCH_SIZE)]
    maps = [heat for part in parts if (heat := _heat(model, images[part], classes[part])) is not None]
    return np.concatenate(maps) if maps else None


def overlaid(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Blend a heat map with an image.

    Args:
        image: u8[h w 3].
        heat: f32[h' w'] in 0..1.

    Returns:
        u8[h w 3], the image in gray with the heat from blue over yellow to red.
    """
    import matplotlib

    large = tf.image.resize(heat[..., None], image.shape[:2]).numpy()[..., 0]
    colors = matplotlib.colormaps["turbo"](large)[..., :3] * 255
    gray = image @ np.array([0.299, 0.587, 0.114])
    share = (
        0.25 + 0.4 * large[..., None]
    )  # Share of the color: low where the heat is low, so that the image is visible there.
    return np.round((1 - share) * gray[..., None] + share * colors).astype(np.uint8)


def _heat(model: keras.Model, images: np.ndarray, classes: np.ndarray) -> np.ndarray | None:
    with tf.GradientTape(watch_accessed_variables=False) as tape, _recorded(model, tape) as calls:
        pixels = tf.constant(images)
        model(pixels, training=False)
        logits = _logits(calls)
        if logits.shape[1] == 1:  # The logit of the second class. The logit of the first is its negative.
            logits = tf.concat([-logits, logits], 1)
        scores = tf.gather(logits, classes, batch_dims=1)
    features = calls[0].output
    if not _has_positions(features) or features.shape.rank != 4:
        return None
    gradient = tape.gradient(scores, features)
    if gradient is None:  # The class does not depend on this layer.
        return None
    heat = tf.nn.relu(tf.reduce_sum(features * gradient, -1))
    return tf.math.divide_no_nan(heat, tf.reduce_max(heat, [1, 2], keepdims=True)).numpy()


@contextlib.contextmanager
def _recorded(model: keras.Model, tape: tf.GradientTape) -> Iterator[list[_Call]]:
    """Record the calls of layers, also of nested models, in their order, from the last map or sequence on.

    The tape records the same part of the model. Recording the whole backbone would take twice the time, because the
    gradient then goes through all its layers. If no layer returns a map or a sequence, all calls are recorded.

    A second Keras model with more outputs would not work, because the outer graph has no tensors of nested models.
    """
    calls: list[_Call] = []

    def recorded(layer: keras.Layer) -> Any:
        call = layer.call

        def run(*args: Any, **kwargs: Any) -> Any:
            output = call(*args, **kwargs)
            if _has_positions(output):  # Perhaps the last one, so everything before it is dropped.
                calls.clear()
                tape.reset()
                tape.watch(output)
            calls.append(_Call(layer, args[0] if args else next(iter(kwargs.values())), output))
            return output

        return run

    layers = [layer for layer in _leaves(model) if not isinstance(layer, keras.layers.InputLayer)]
    for layer in layers:
        layer.call = recorded(layer)
    try:
        yield calls
    finally:
        for layer in layers:
            del layer.call  # The method of the class is visible again.


def _leaves(model: keras.Model) -> Iterator[keras.Layer]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _leaves(layer)
        else:
            yield layer


def _has_positions(output: Any) -> bool:
    """Return whether an output is a map f[b h w c] or a sequence f[b n c] with more than one position."""
    if not isinstance(output, tf.Tensor) or not output.dtype.is_floating or output.shape.rank not in (3, 4):
        return False
    return bool(np.prod(output.shape[1:-1]) > 1)


def _logits(calls: list[_Call]) -> tf.Tensor:
    """Return the outputs of a model before their sigmoid or softmax, f[b 1] or f[b classes].

    Layers after the sigmoid or softmax are left out: a cast to float32, or the choice of one of two probabilities.
    """
    for layer, x, output in reversed(calls):
        activation = getattr(getattr(layer, "activation", None), "__name__", "")
        if activation in ("sigmoid", "softmax") or isinstance(layer, keras.layers.Softmax):
            return _before_activation(layer, x)
        if _has_positions(output):
            break
    last, penultimate, _ = calls[-1]
    return _before_activation(last, penultimate)


def _before_activation(layer: keras.Layer, x: tf.Tensor) -> tf.Tensor:
    """Return the output of the last layer before its sigmoid or softmax.

    Near 0 and 1, the gradients of a sigmoid or softmax are too small.
    """
    if isinstance(layer, keras.layers.Dense):
        x = tf.matmul(tf.cast(x, layer.kernel.dtype), layer.kernel)
        return x if layer.bias is None else x + layer.bias
    return x if isinstance(layer, (keras.layers.Activation, keras.layers.Softmax)) else layer.call(x)
