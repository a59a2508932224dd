"""Cut the head off a classifier: find the layer that returns the features in a Keras model."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

import keras

from tfrecord_tools.errors import UserError, named

_PROBABILITIES = ("sigmoid", "softmax")


def at_layer(model: keras.Model, name: str, source: str) -> keras.Model:
    """Return the part of a model up to a layer. The layer may be inside a nested functional model.

    Args:
        model: The model.
        name: Name of the layer. The output of its last call is used.
        source: The flag that names the model, with its value, for errors.

    Raises:
        UserError: There is no such layer.
    """
    found = _up_to(model, name)
    if found is not None:
        return found
    names = [layer.name for layer in _layers(model)]
    near = difflib.get_close_matches(name, names, 3)
    hint = f"Did you mean {' or '.join(near)}?" if near else f"Its last layers are {named(names[-10:])}."
    raise UserError(f"--backbone_kwargs=layer={name!r}: {source} has no layer of this name. {hint}")


def without_head(model: keras.Model, source: str) -> keras.Model:
    """Return the part of a model in front of its head, or the model itself if it has no head.

    A head is a Dense layer with sigmoid or softmax at the end, with the Dropout in front of it. The activation may also
    be a layer of its own. The head may be inside a functional model that is the last layer.

    Args:
        model: The model, with one output.
        source: The flag that names the model, with its value, for errors.

    Raises:
        UserError: It is not clear whether the last layer is a head.
    """
    tensor = model.outputs[0]
    layer = _layer(tensor)
    if type(layer).__name__ == "GetItem":  # `describe_model` adds it to choose one of two outputs.
        tensor = _input(tensor)
        layer = _layer(tensor)
    if _is_graph(layer):
        inner = without_head(layer, source)
        return model if inner is layer else _model(model, inner(_input(tensor)))
    activation = _activation(layer)
    if isinstance(layer, keras.layers.Dense):
        if activation in _PROBABILITIES:
            return _before(model, tensor)
        if activation == "linear":
            raise UserError(
                f"{source}: its last layer {layer.name} is a Dense layer without an activation. It may be a head"
                f" that returns logits, or a part of the features. {_choices(layer.name, _layer(_input(tensor)).name)}"
            )
        return model
    if activation in _PROBABILITIES:
        dense = _layer(_input(tensor))
        if not isinstance(dense, keras.layers.Dense):
            raise UserError(
                f"{source}: its last layer {layer.name} is a {activation}, but {dense.name} before it is not a Dense"
                f" layer, so the head cannot be found. {_choices(layer.name, dense.name)}"
            )
        return _before(model, _input(tensor))
    return model


def _choices(last: str, before: str) -> str:
    """Return advice: the flags for the outputs of the last layer, and of the layer before it."""
    return (
        f"To use its outputs as features, pass --backbone_kwargs=\"layer='{last}'\". To use those of the layer before"
        f" it, pass --backbone_kwargs=\"layer='{before}'\"."
    )


def _before(model: keras.Model, tensor: Any) -> keras.Model:
    """Return the part of a model in front of the Dense layer that makes a tensor, and of its Dropout."""
    tensor = _input(tensor)
    while isinstance(_layer(tensor), keras.layers.Dropout):
        tensor = _input(tensor)
    return _model(model, tensor)


def _up_to(model: keras.Model, name: str) -> keras.Model | None:
    for layer in model.layers:
        nodes = layer._inbound_nodes
        if layer.name == name and nodes:
            return _model(model, nodes[-1].outputs[0])
        if _is_graph(layer) and (inner := _up_to(layer, name)) is not None:
            return _model(model, inner(nodes[-1].input_tensors[0]))
    return None


def _layers(model: keras.Model) -> Iterator[keras.Layer]:
    for layer in model.layers:
        if _is_graph(layer):
            yield from _layers(layer)
        else:
            yield layer


def _model(model: keras.Model, tensor: Any) -> keras.Model:
    """Return the part of a model up to a tensor."""
    inputs = model.inputs[0] if len(model.inputs) == 1 else model.inputs
    return keras.Model(inputs, tensor, name=model.name)


def _is_graph(layer: Any) -> bool:
    return isinstance(layer, keras.Model) and getattr(layer, "inputs", None) is not None


def _activation(layer: Any) -> str:
    """Return the name of the activation of a layer; "" if it has none."""
    if isinstance(layer, keras.layers.Softmax):
        return "softmax"
    return getattr(getattr(layer, "activation", None), "__name__", "")


def _node(tensor: Any) -> Any:
    history = tensor._keras_history
    return history.operation._inbound_nodes[history.node_index]


def _layer(tensor: Any) -> Any:
    """Return the layer or the operation that makes a symbolic tensor."""
    return tensor._keras_history.operation


def _input(tensor: Any) -> Any:
    """Return the first input of the layer that makes a symbolic tensor."""
    return _node(tensor).input_tensors[0]
