"""Give a new classifier the weights of a trained one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

import keras

from trainers.models import networks
from trainers.models.networks import Classifier

# Two layers with equal weights compute different outputs if one of these settings differs. The padding of ZeroPadding2D
# is not compared, because it depends on the image size.
_ESSENTIAL = ("activation", "dilation_rate", "groups", "offset", "padding", "pool_size", "scale", "strides")
_Layers = Sequence[keras.Layer]


class OtherNetworkError(Exception):
    """Two classifiers have different networks. The message describes the first difference."""


def take(classifier: Classifier, parent: keras.Model, same_classes: bool) -> str:
    """Set the weights of a classifier to those of a trained model with the same network.

    The body is everything before the head. It may have another input size. The weights of the head are only used if
    both heads have the same classes and the same layers.

    Args:
        classifier: The classifier.
        parent: The trained model.
        same_classes: Whether the classes of both have the same names and the same order.

    Returns:
        The reason why the head keeps its initial weights; "" if all weights were set.

    Raises:
        OtherNetworkError: The bodies differ.
    """
    body, head = _parts(classifier.model)
    old_body, old_head = _parts(parent)
    if difference := _difference(body, old_body):
        raise OtherNetworkError(difference)
    _copy(old_body, body)
    if not same_classes:
        return "its classes are different"
    if _difference(head, old_head):
        return "its layers are different"
    _copy(old_head, head)
    return ""


def _parts(model: keras.Model) -> tuple[_Layers, _Layers]:
    """Return the layers of the body (scaling of pixels and backbone), and the layers of the head.

    A whole model of the user has no layers behind a backbone. The last layer with weights is then the head.
    """
    layers = _layers(model)
    end = next((i for i, layer in enumerate(layers, 1) if isinstance(layer, keras.Model)), len(layers))
    if end == len(layers):
        layers = list(_flat(layers))
        end = max((i for i, layer in enumerate(layers) if layer.weights), default=len(layers))
    return layers[:end], layers[end:]


def _layers(model: keras.Model) -> list[keras.Layer]:
    return [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]


def _flat(layers: _Layers) -> Iterator[keras.Layer]:
    """Yield layers, and the layers of nested models instead of these models."""
    for layer in layers:
        yield from _flat(_layers(layer)) if isinstance(layer, keras.Model) else [layer]


def _copy(sources: _Layers, targets: _Layers) -> None:
    for source, target in zip(sources, targets, strict=True):
        networks.set_weights(target, source.get_weights())


def _difference(new: _Layers, old: _Layers) -> str:
    """Describe the first difference of two sequences of layers; "" if there is none."""
    for position, (mine, theirs) in enumerate(zip_longest(_described(new), _described(old)), 1):
        if mine != theirs:
            return f"layer {position} is {theirs or 'missing'} in the run, and {mine or 'missing'} here"
    return ""


def _described(layers: _Layers) -> Iterator[str]:
    """Yield a description of each layer: its kind, its essential settings and the shapes of its weights."""
    for layer in _flat(layers):
        settings: dict[str, Any] = layer.get_config()
        if isinstance(layer, keras.layers.ZeroPadding2D):
            settings.pop("padding")
        essential = {name: settings[name] for name in _ESSENTIAL if name in settings}
        shapes = [tuple(weight.shape) for weight in layer.weights]
        yield f"{type(layer).__name__} {json.dumps(essential, default=str)} {shapes}".replace(" {}", "").replace(
            " []", ""
        )
