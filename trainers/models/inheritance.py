"""Give a new classifier the weights of a trained one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import keras
import numpy as np

from trainers.models import networks
from trainers.models.networks import Classifier

# Settings of layers that do not change what equal weights compute: names, types, and what only training uses. Sizes of
# images are not compared, either, since the image size of a body may change.
_OTHER = re.compile(
    r"name|module|registered_name|build_config|autocast|dtype|trainable|quantization_config"
    r"|\w+_(initializer|regularizer|constraint)|seed|init_values|(renorm_)?momentum|renorm_clipping|synchronized"
    r"|rate|stddev|\w*drop\w*|(\w+_)?shape|image_size|height|width"
)
_SIZES_OF = (keras.layers.ZeroPadding2D, "padding"), (keras.layers.Cropping2D, "cropping")
_WITH_SIZE = ("BroadcastTo", "Reshape", "Resize")  # Operations with the size of an image.
_Layers = Sequence[Any]  # Layers, and operations that are not layers, such as `x * 2`.


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
        return "the classes are different"
    if _difference(head, old_head):
        return "the layers of the head are different"
    _copy(old_head, head)
    return ""


def _parts(model: keras.Model) -> tuple[_Layers, _Layers]:
    """Return the layers of the body (scaling of pixels and backbone), and the layers of the head.

    If the user gave a whole model, there are no layers after a backbone. In this case, the last layer with weights is
    the head.
    """
    layers = [layer for layer in _layers(model) if not _is_cast(layer)]
    end = next((i for i, layer in enumerate(layers, 1) if isinstance(layer, keras.Model)), len(layers))
    if end == len(layers):
        layers = list(_flat(layers))
        end = max((i for i, layer in enumerate(layers) if getattr(layer, "weights", ())), default=len(layers))
    return layers[:end], layers[end:]


def _is_cast(layer: Any) -> bool:
    """Return whether a layer only casts the outputs of a whole model that was trained in half precision."""
    is_linear = isinstance(layer, keras.layers.Activation) and layer.get_config()["activation"] == "linear"
    return is_linear and layer.name == "probabilities"


def _layers(model: keras.Model) -> list[Any]:
    steps = getattr(model, "operations", model.layers)  # Sequential models have only layers.
    return [step for step in steps if not isinstance(step, keras.layers.InputLayer)]


def _flat(layers: _Layers) -> Iterator[Any]:
    """Yield layers, and the layers of nested models instead of these models."""
    for layer in layers:
        yield from _flat(_layers(layer)) if isinstance(layer, keras.Model) else [layer]


def _copy(sources: _Layers, targets: _Layers) -> None:
    for source, target in zip(sources, targets, strict=True):
        if getattr(source, "weights", ()):
            networks.set_weights(target, source.get_weights())


def _difference(new: _Layers, old: _Layers) -> str:
    """Describe the first difference of two sequences of layers; "" if there is none."""
    for position, pair in enumerate(zip_longest(map(_described, _flat(new)), map(_described, _flat(old))), 1):
        if pair[0] != pair[1]:
            mine, theirs = (_text(one, other) for one, other in (pair, pair[::-1]))
            return f"layer {position} is {theirs} in the run, and {mine} in this training"
    return ""


def _text(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> str:
    """Return the kind of a layer, and what differs from another one."""
    if one is None:
        return "missing"
    same_kind = other is not None and one["kind"] == other["kind"]
    settings = {name: value for name, value in one["settings"].items() if same_kind and value != _setting(other, name)}
    return " ".join(
        [one["kind"], *([json.dumps(settings)] if settings else []), *([str(one["shapes"])] if one["shapes"] else [])]
    )


def _setting(described: Mapping[str, Any] | None, name: str) -> Any:
    return described["settings"].get(name) if described else None


def _described(layer: Any) -> dict[str, Any]:
    """Return the kind, the settings and the shapes of the weights of a layer."""
    if isinstance(layer, keras.Layer):
        settings = dict(layer.get_config())
    elif type(layer).__name__ in _WITH_SIZE:
        settings = {}
    else:  # Such as `x * 2`, with the 2.
        arguments = layer._inbound_nodes[0].arguments
        settings = layer.get_config() | {"values": [arguments.args, arguments.kwargs]}
    for kind, name in _SIZES_OF:
        if isinstance(layer, kind):
            del settings[name]
    return {
        "kind": type(layer).__name__,
        "settings": json.loads(json.dumps(_essential(settings), default=_plain)),
        "shapes": [tuple(weight.shape) for weight in getattr(layer, "weights", ())],
    }


def _essential(config: Any) -> Any:
    """Return a configuration without the settings that do not matter, also in configurations within it."""
    if isinstance(config, Mapping):
        return {name: _essential(value) for name, value in config.items() if not _OTHER.fullmatch(str(name))}
    return [_essential(one) for one in config] if isinstance(config, (list, tuple)) else config


def _plain(value: Any) -> Any:
    """Return a JSON value for one that is none. For most objects, it is their class."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return repr(value) if isinstance(value, (slice, type(...))) else type(value).__name__
