"""Cut the head off a classifier: find the layer that returns the features in a Keras model."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from tfrecord_tools.errors import UserError, named

# Activations and operations of Keras that make probabilities, in lower case without "_".
_PROBABILITIES = ("sigmoid", "softmax", "hardsigmoid", "logsigmoid", "logsoftmax", "sparsemax")
# Layers and operations of Keras that keep the values of their inputs, or some of the values.
_KEEPING = ("Cast", "ExpandDims", "Flatten", "GetItem", "Identity", "Reshape", "Squeeze")
# Layers that return logits if their inputs are logits.
_AFFINE = ("BatchNormalization", "Dropout", "GlobalAveragePooling1D", "GlobalAveragePooling2D", "Rescaling")
# Operations that multiply inputs. One input may be a gate: factors from 0 to 1, made by a sigmoid or softmax that is
# not the head.
_GATES = ("Multiply", "Dot", "Einsum", "Matmul")


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
    hint = f"Did you mean {' or '.join(near)}?" if near else f"The last layers of the network are {named(names[-10:])}."
    raise UserError(f"--backbone_kwargs=layer={name!r}: {source} has no layer of this name. {hint}")


def without_head(model: keras.Model, source: str) -> keras.Model:
    """Return the part of a model in front of its head, or the model itself if it has no head.

    A head is a Dense layer with sigmoid or softmax at the end, and the Dropout in front of this layer. The activation
    can be a separate layer or operation. Layers that only change shape or type may follow. The head may be inside a
    functional model that is the last layer.

    Args:
        model: The model, with one output.
        source: The flag that names the model, with its value, for errors.

    Raises:
        UserError: It is not clear what the head is.
    """
    tensor = model.outputs[0]
    while _keeps(_layer(tensor)):  # For example, `describe_model` adds a GetItem that chooses one of two outputs.
        tensor = _input(tensor)
    layer = _layer(tensor)
    if _is_graph(layer):
        part = layer if len(layer.outputs) == 1 else _model(layer, _inside(tensor))
        inner = without_head(part, source)
        given = _node(tensor).input_tensors
        return model if inner is part else _model(model, inner(given[0] if len(given) == 1 else given))
    activation = _activation(layer)
    if isinstance(layer, keras.layers.Dense):
        if activation in _PROBABILITIES:
            return _before(model, tensor)
        if activation == "linear":
            raise UserError(
                f"{source}: its last layer {layer.name} is a Dense layer without an activation. This layer is"
                f" either a head that returns logits, or a part of the features. {_choices(tensor)}"
            )
        return model
    if activation in _PROBABILITIES:
        tensor = _input(tensor)
        while _keeps(_layer(tensor)):
            tensor = _input(tensor)
        dense = _layer(tensor)
        if not isinstance(dense, keras.layers.Dense):
            raise UserError(
                f"{source}: its last layer {layer.name} is a {activation}, but {dense.name} before it is not a Dense"
                f" layer, so the head cannot be found. {_choices(model.outputs[0])}"
            )
        return _before(model, tensor)
    if (name := _last_probabilities(tensor)) is not None:
        raise UserError(
            f"{source}: layer {name} returns probabilities, but the later layer {layer.name} changes them. So it is not"
            f" clear where the head begins. {_choices(tensor)}"
        )
    return model


def returns_logits(model: keras.Model) -> bool:
    """Return whether the outputs of a model are surely those of a layer without an activation."""
    layer = _last_layer(model, _AFFINE)
    return isinstance(layer, keras.Layer) and bool(layer.weights) and _activation(layer) == "linear"


def has_activation(model: keras.Model) -> bool:
    """Return whether the outputs of a model are surely those of a sigmoid or a softmax."""
    return _activation(_last_layer(model)) in ("sigmoid", "softmax")


def _last_layer(model: keras.Model, passed: Sequence[str] = ()) -> Any:
    """Return the last layer or operation that changes values and is not one of `passed`.

    It may be inside a nested model.
    """
    tensor = model.outputs[0]
    while True:
        layer = _layer(tensor)
        if _is_graph(layer):
            tensor = _inside(tensor)
        elif _keeps(layer) or _is_of_keras(layer, passed):
            tensor = _input(tensor)
        else:
            return layer


def _last_probabilities(tensor: Any) -> str | None:
    """Return the name of a layer that makes probabilities after the last layer with weights.

    None: there is no such layer.
    """
    waiting, seen = [tensor], set()
    while waiting:
        tensor = waiting.pop()
        layer = _layer(tensor)
        if id(tensor) in seen or _is_of_keras(layer, _GATES):
            continue
        seen.add(id(tensor))
        if _activation(layer) in _PROBABILITIES:
            return str(layer.name)
        if _is_graph(layer):
            waiting.append(_inside(tensor))
        elif not getattr(layer, "weights", ()):
            waiting.extend(_node(tensor).input_tensors)
    return None


def _choices(tensor: Any) -> str:
    """Return advice: the flags for the outputs of the last layer, and of the layer before it."""
    tensor = _of_layer(tensor)
    last = _layer(tensor).name
    if not _node(tensor).input_tensors:
        return f"To use the outputs of {last} as features, pass --backbone_kwargs=\"layer='{last}'\"."
    before = _layer(_of_layer(_input(tensor))).name
    return (
        f"To use the outputs of {last} as features, pass --backbone_kwargs=\"layer='{last}'\". To use the outputs of"
        f" {before}, the layer before it, pass --backbone_kwargs=\"layer='{before}'\"."
    )


def _of_layer(tensor: Any) -> Any:
    """Go back from a tensor to the nearest tensor that a layer makes, not an operation.

    Operations are not in `model.layers`, so a flag cannot name them.
    """
    while not isinstance(_layer(tensor), keras.Layer):
        tensor = _input(tensor)
    return tensor


def _before(model: keras.Model, tensor: Any) -> keras.Model:
    """Return the part of a model in front of its last Dense layer, which makes `tensor`.

    Dropout layers directly before it are cut off, too.
    """
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


def _is_of_keras(layer: Any, names: Sequence[str]) -> bool:
    """Return whether a layer or an operation is one of Keras with one of these class names."""
    return type(layer).__name__ in names and type(layer).__module__.partition(".")[0] == "keras"


def _keeps(layer: Any) -> bool:
    """Return whether a layer or an operation does not change values."""
    is_linear = isinstance(layer, keras.layers.Activation) and _activation(layer) == "linear"
    return is_linear or _is_of_keras(layer, _KEEPING)


def _activation(layer: Any) -> str:
    """Return the activation of a layer or an operation, written as in `_PROBABILITIES`; "" if none."""
    own = getattr(getattr(layer, "activation", None), "__name__", "")
    kind = type(layer).__name__
    if not own and kind.lower() in _PROBABILITIES and _is_of_keras(layer, [kind]):
        return kind.lower()
    return str(own).replace("_", "").lower()


def _inside(tensor: Any) -> Any:
    """Return the tensor inside a nested model that corresponds to `tensor`, an output of the nested model."""
    history = tensor._keras_history
    return history.operation.outputs[history.tensor_index]


def _node(tensor: Any) -> Any:
    history = tensor._keras_history
    return history.operation._inbound_nodes[history.node_index]


def _layer(tensor: Any) -> Any:
    """Return the layer or the operation that makes a symbolic tensor."""
    return tensor._keras_history.operation


def _input(tensor: Any) -> Any:
    """Return the first input of the layer that makes a symbolic tensor."""
    return _node(tensor).input_tensors[0]
