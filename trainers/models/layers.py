"""Choose the layers of a network that a phase trains, and switch its random layers, such as Dropout."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import keras

from tfrecord_tools.base import words
from tfrecord_tools.errors import UserError

# Names of the attribute with the strength of a random layer, also in classes of other packages. At 0, the layer changes
# nothing.
_STRENGTHS = ("drop_path_rate", "drop_rate", "drop_prob", "rate")
_RANDOM_NAME = re.compile(r"drop|stochastic_?depth", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class RandomLayer:
    """A layer that changes its inputs at random in training.

    Attributes:
        layer: The layer.
        attribute: Name of the attribute with its strength.
        strength: Value of the attribute with which the network was built.
    """

    layer: keras.Layer
    attribute: str
    strength: float

    def switch(self, on: bool) -> None:
        """Give the layer its strength (on), or 0 (off)."""
        setattr(self.layer, self.attribute, self.strength if on else 0.0)


def random_layers(base: keras.Model) -> list[RandomLayer]:
    """Find the layers that drop values or add noise at random. Layers inside other layers are included."""
    found = ((layer, _strength(layer)) for layer in leaves(base))
    return [RandomLayer(layer, name, getattr(layer, name)) for layer, name in found if name]


@contextlib.contextmanager
def all_random(random: Sequence[RandomLayer]) -> Iterator[None]:
    """Give random layers their original strengths within a `with` block, such as to copy the network."""
    before = [getattr(one.layer, one.attribute) for one in random]
    for one in random:
        one.switch(True)
    try:
        yield
    finally:
        for one, value in zip(random, before, strict=True):
            setattr(one.layer, one.attribute, value)


def _strength(layer: keras.Layer) -> str:
    if isinstance(layer, (keras.layers.Dropout, keras.layers.GaussianDropout, keras.layers.AlphaDropout)):
        return "rate"
    if isinstance(layer, keras.layers.GaussianNoise):
        return "stddev"
    if not _RANDOM_NAME.search(type(layer).__name__):
        return ""
    return next((name for name in _STRENGTHS if isinstance(getattr(layer, name, None), (int, float))), "")


def set_trainable(base: keras.Model, rule: str, random: Sequence[RandomLayer]) -> None:
    """Set the layers of a network that are trained after the next `compile`.

    Frozen layers behave as in inference: BatchNormalization keeps its statistics, and random layers in front of the
    first trained layer are switched off, because they would only make the head's inputs noisy.

    Args:
        base: The network.
        rule: A value of `Phase.trainable`.
        random: Result of `random_layers` when the network was built.

    Raises:
        UserError: The rule matches no layer, or is a number that is too small or too large.
    """
    trained = {id(layer) for layer in chosen_layers(base, rule)}
    _mark(base, trained)
    order = list(leaves(base))
    begin, inside = _first_trained(base, order, trained)
    position = {id(layer): i for i, layer in enumerate(order)}
    for one in random:
        i = position[id(one.layer)]
        one.switch(i > begin or (inside and i == begin))
    if rule != "scratch":
        for layer in batch_norms(base):
            layer.trainable = False  # keras#20285: calling the base with training=False is not enough.


def _mark(layer: keras.Layer, trained: Collection[int]) -> bool:
    """Make the layers with these ids trainable, and freeze all others. Return whether `layer` has any."""
    if id(layer) in trained:
        _set_deeply(layer, True)
        return True
    children = list(_children(layer))
    _set_deeply(layer, any(_holds(child, trained) for child in children))
    if layer.trainable:
        for child in children:
            _mark(child, trained)
        inner = {id(variable) for child in children for variable in child.variables}
        for variable in layer.variables:  # Variables of the layer itself belong to no trained layer.
            if id(variable) not in inner:
                variable.trainable = False
    return bool(layer.trainable)


def _set_deeply(layer: keras.Layer, value: bool) -> None:
    """Set `trainable` of a layer, of its variables and of all layers in it."""
    layer.trainable = not value  # Setting the present value would be ignored.
    layer.trainable = value


def _holds(layer: keras.Layer, trained: Collection[int]) -> bool:
    return id(layer) in trained or any(_holds(child, trained) for child in _children(layer))


def _first_trained(base: keras.Model, order: Sequence[keras.Layer], trained: Collection[int]) -> tuple[int, bool]:
    """Return the index in `order` of the first trained leaf, and whether it is inside a trained layer."""
    of_trained = {id(leaf): id(leaf) in trained for leaf in order if id(leaf) in trained}
    for layer in all_layers(base):
        if id(layer) in trained:
            of_trained |= {id(leaf): id(leaf) in trained for leaf in leaves(layer)}
    for i, leaf in enumerate(order):
        if id(leaf) in of_trained:
            return i, not of_trained[id(leaf)]
    return len(order), False


def batch_norms(layer: keras.Layer) -> Iterator[keras.layers.BatchNormalization]:
    """Yield all BatchNormalization layers in a layer. Layers inside other layers are included."""
    return (inner for inner in all_layers(layer) if isinstance(inner, keras.layers.BatchNormalization))


def leaves(layer: keras.Layer) -> Iterator[keras.Layer]:
    """Yield the layers in a layer that have no layers inside; the layer itself if it has none inside."""
    children = list(_children(layer))
    if not children:
        yield layer
    for child in children:
        yield from leaves(child)


def inner_layers(base: keras.Model) -> list[keras.Layer]:
    """Return the layers of a network in their order, including the layers of its functional models.

    The functional models themselves are left out. Layers made of layers, and sequential models, count as one layer.
    """
    result: list[keras.Layer] = []
    for layer in base.layers:
        result += inner_layers(layer) if is_functional(layer) else [layer]
    return result


def is_functional(layer: Any) -> bool:
    """Return whether a layer is a model with a graph of layers, and not sequential."""
    is_graph = isinstance(layer, keras.Model) and not isinstance(layer, keras.Sequential)
    return is_graph and getattr(layer, "inputs", None) is not None


def chosen_layers(base: keras.Model, rule: str) -> list[keras.Layer]:
    """Find the layers of a backbone that a rule names.

    Args:
        base: The backbone.
        rule: "head": no layers. "last_stage": see `last_stage`. "all", "scratch": all layers. A number N: the last N
            layers that have weights and are not BatchNormalization. Anything else is a regular expression: all layers
            with a name in which it is found. If there are no such layers, layers inside other layers are searched, too.

    Raises:
        UserError: No layer fits the rule.
    """
    if rule == "head":
        return []
    if rule == "last_stage":
        return last_stage(base)
    layers = inner_layers(base)
    if rule in ("all", "scratch"):
        return layers
    if rule.isdecimal():
        weighted = [layer for layer in layers if _is_weighted(layer)]
        if not 0 < int(rule) <= len(weighted):
            raise UserError(
                f"--unfreeze={rule}: {base.name} has {words.number(len(weighted), 'layer')} with weights. --unfreeze"
                f" must be a number from 1 to {len(weighted)}."
            )
        return weighted[-int(rule) :]
    return _matching(base, layers, rule)


def _matching(base: keras.Model, layers: Sequence[keras.Layer], rule: str) -> list[keras.Layer]:
    try:
        pattern = re.compile(rule)
    except re.error as error:
        raise UserError(f"--unfreeze={rule}: is not a regular expression: {error}.") from error
    for candidates in (layers, list(all_layers(base))):
        chosen = [layer for layer in candidates if pattern.search(layer.name)]
        if any(_is_weighted(layer) for layer in chosen):
            return chosen
    raise UserError(
        f"--unfreeze={rule}: does not match a layer of {base.name} that has weights. {_last_names(layers)} Pass a"
        " regular expression, a number of layers from the end, last_stage or all."
    )


def last_stage(base: keras.Model) -> list[keras.Layer]:
    """Find the layers with weights at the backbone's last resolution.

    These are block5_conv1 to block5_conv3 of VGG16, and conv_dw_12 to conv_pw_13 of MobileNet. A position is a pixel of
    a feature map or an element of a sequence. The search goes backward from the last layer, and stops at the first
    layer with weights that has more positions than the last stage. A layer without positions (squeeze-and-excite,
    dense) belongs to the stage around it. A layer that is made of other layers (a ConvNeXt block) counts as one layer.

    Raises:
        UserError: All layers have the same resolution, as in many transformers, or a layer has no fixed size.
    """
    weighted = [layer for layer in inner_layers(base) if layer.weights]
    areas = [_area(layer) for layer in weighted]
    if None in areas:
        raise UserError(
            f"--unfreeze=last_stage: {weighted[areas.index(None)].name} of {base.name} has outputs without a fixed"
            f" size, so the last stage of the network cannot be found. {_instead(weighted)}"
        )
    area = next((area for area in reversed(areas) if area), 0)
    begin = next((i for i in range(len(areas), 0, -1) if (areas[i - 1] or 0) > area), 0)
    stage = weighted[begin:]
    if not begin and sum(map(_is_weighted, stage)) > 1:
        raise UserError(
            f"--unfreeze=last_stage: {base.name} has no last stage, because all its layers have the same resolution."
            f" {_instead(weighted)}"
        )
    return stage


def _instead(weighted: Sequence[keras.Layer]) -> str:
    """Return what to pass instead of last_stage."""
    return (
        f"{_last_names(weighted)} Pass --unfreeze=N for the last N layers, a regular expression for names of layers"
        " (including layers inside other layers), or --unfreeze=all."
    )


def _last_names(layers: Sequence[keras.Layer]) -> str:
    names = [layer.name for layer in layers if _is_weighted(layer)][-4:]
    last = next((layer for layer in reversed(layers) if _is_weighted(layer)), None)
    inner = [] if last is None else [child.name for child in _children(last) if child.weights][-4:]
    more = f" The last layers inside of {names[-1]} are {', '.join(inner)}." if len(inner) > 1 else ""
    return f"The last layers are {', '.join(names)}.{more}"


def _is_weighted(layer: keras.Layer) -> bool:
    return bool(layer.weights) and not isinstance(layer, keras.layers.BatchNormalization)


def _area(layer: keras.Layer) -> int | None:
    """Return the number of positions in a layer's output; 0 without positions, None if it is not fixed.

    A map b h w c has h * w positions, and a sequence b n c has n.
    """
    outputs = [tensor for node in layer._inbound_nodes[-1:] for tensor in keras.tree.flatten(node.outputs)]
    shape = outputs[0].shape[1:-1] if outputs else ()
    if any(side is None for side in shape):
        return None
    area = 1
    for side in shape:
        area *= side
    return area if shape else 0


def _children(layer: keras.Layer) -> Iterator[keras.Layer]:
    """Yield the layers directly in a layer, in their order."""
    if isinstance(layer, keras.Model):
        yield from layer.layers
    else:
        yield from layer._flatten_layers(include_self=False, recursive=False)


def all_layers(layer: keras.Layer) -> Iterator[keras.Layer]:
    """Yield all layers in a layer, at any depth, each in front of those in it."""
    for child in _children(layer):
        yield child
        yield from all_layers(child)
