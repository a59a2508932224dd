"""Classifiers: uint8 pixels -> scaling -> backbone -> head -> probabilities.

They consist only of Keras's own layers, so that `keras.models.load_model` reads saved ones without this package.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import h5py
import keras
import numpy as np

from tfrecord_tools.base import sizes, words
from tfrecord_tools.errors import UserError, one_line
from trainers import backbones
from trainers.recipes import ModelConfig

# Means and standard deviations of ImageNet in RGB order, from keras/src/applications/imagenet_utils.py.
_TORCH_MEAN = (0.485, 0.456, 0.406)
_TORCH_DEVIATION = (0.229, 0.224, 0.225)
_CAFFE_MEAN = (123.68, 116.779, 103.939)
# Constructor arguments that this module sets, so that --backbone_kwargs may not.
_RESERVED = {"include_top", "include_preprocessing", "weights", "input_tensor", "input_shape", "pooling"} | {
    "classes",
    "classifier_activation",
    "name",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classifier:
    """A model and its backbone.

    Attributes:
        model: For two classes u8[b h w 3] in 0..255 -> f32[b 1], the probability of class 1. For more classes
            u8[b h w 3] -> f32[b classes], probabilities that add up to 1.
        base: The backbone, one nested layer of `model`.
        drop_rates: Drop rate of each layer of `base` that drops at random, by layer name.
    """

    model: keras.Model
    base: keras.Model
    drop_rates: dict[str, float]

    def set_trainable(self, rule: str) -> None:
        """Set the layers that are trained after the next `compile`. The head is always trained.

        Frozen layers behave as in inference: BatchNormalization keeps its statistics, and random layers in front of
        the first trained layer drop nothing, since that would only make the head's inputs noisy.

        Args:
            rule: A value of `Phase.trainable`.

        Raises:
            UserError: The rule matches no layer, or is a number that is too small or too large.
        """
        layers = self.base.layers
        trained = chosen_layers(self.base, rule)
        begin = layers.index(trained[0]) if trained else len(layers)
        self.base.trainable = bool(trained)  # Keras sets it for all layers, even nested ones.
        for i, layer in enumerate(layers):
            layer.trainable = layer in trained
            if layer.name in self.drop_rates:
                _set_drop_rate(layer, self.drop_rates[layer.name] if i > begin else 0.0)
        if rule != "scratch":
            for layer in _batch_norms(self.base):
                layer.trainable = False  # keras#20285: calling the base with training=False is not enough.


def build(config: ModelConfig, class_count: int, flag: str = "backbone") -> Classifier:
    """Build a classifier under Keras's global dtype policy and load the backbone's weights.

    Args:
        config: Settings of the model.
        class_count: Number of classes, at least 2.
        flag: Name of the flag that chooses the backbone, for errors.

    Raises:
        UserError: There is only one class, the backbone rejects an argument, or the weights do not fit.
    """
    if class_count < 2:
        raise UserError(f"the dataset has {class_count} class. Training needs at least 2.")
    base = _build_base(config, flag)
    pixels = keras.Input(config.input_shape, dtype="uint8", name="pixels")
    x = scale(pixels, config.scaling or backbones.find(config.backbone).scaling)
    x = base(x)
    flat = config.pooling == "flatten"
    x = keras.layers.Flatten(name="flatten")(x) if flat else keras.layers.GlobalAveragePooling2D(name="pool")(x)
    if config.hidden:
        x = keras.layers.Dense(config.hidden, activation="relu", name="hidden")(x)
    x = keras.layers.Dropout(config.dropout, name="dropout")(x)
    # Outputs are always float32: probabilities and the loss lose too much precision in half precision.
    if class_count == 2:
        x = keras.layers.Dense(1, activation="sigmoid", dtype="float32", name="probability")(x)
    else:
        x = keras.layers.Dense(class_count, activation="softmax", dtype="float32", name="probabilities")(x)
    model = keras.Model(pixels, x, name="classifier")
    return Classifier(model=model, base=base, drop_rates=dict(_drop_rates(base)))


def moving_statistics(model: keras.Model) -> list[keras.Variable]:
    """Return the means and variances of BatchNormalization, which training changes without a gradient."""
    return [variable for layer in _batch_norms(model) for variable in (layer.moving_mean, layer.moving_variance)]


def split(model: keras.Model) -> tuple[keras.Model, keras.Model]:
    """Split a classifier behind its pooling.

    Both parts share the layers of the classifier, so that training a part trains the classifier.

    Returns:
        Two models: u8[b h w 3] -> features f[b c], and features f32[b c] -> outputs of the classifier.
    """
    names = [layer.name for layer in model.layers]
    cut = next(i for i, name in enumerate(names) if name in ("pool", "flatten"))
    features = model.layers[cut].output
    x = top_input = keras.Input(features.shape[1:], name="features")
    for layer in model.layers[cut + 1 :]:
        x = layer(x)
    return keras.Model(model.input, features, name="extractor"), keras.Model(top_input, x, name="head")


def rebuild_float32(classifier: Classifier, config: ModelConfig, class_count: int) -> keras.Model:
    """Copy a classifier to a float32 model with all layers trainable, whatever its dtype policy is."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        copy = build(dataclasses.replace(config, weights="none"), class_count).model
    finally:
        keras.config.set_dtype_policy(policy)
    set_weights(copy, classifier.model.get_weights())
    return copy


def set_weights(layer: keras.Layer, values: Sequence[np.ndarray]) -> None:
    """Set the weights of a layer or a model.

    Keras's Normalization computes with copies of its weights, which Keras's `set_weights` does not renew.
    """
    layer.set_weights(values)
    for inner in (layer, *_nested(layer)):
        if isinstance(inner, keras.layers.Normalization) and inner.input_mean is None:
            inner.finalize_state()


def scale(pixels: Any, scaling: str) -> Any:
    """Scale pixels as a backbone expects them, always in float32.

    Pixels are converted to float32 first, since Keras's `preprocess_input` overflows on uint8.

    Args:
        pixels: u8[b h w 3] in 0..255, symbolic or not.
        scaling: A value of `ModelConfig.scaling`.

    Returns:
        f32[b h w 3], equal to the `preprocess_input` of the backbone's module to 1e-6 of its range.
    """
    factors, offsets = {
        "own": (1.0, 0.0),
        "unit": (1 / 255, 0.0),
        "tf": (1 / 127.5, -1.0),
        "torch": (
            [1 / (255 * deviation) for deviation in _TORCH_DEVIATION],
            [-mean / deviation for mean, deviation in zip(_TORCH_MEAN, _TORCH_DEVIATION, strict=True)],
        ),
        "caffe": (1.0, [-mean for mean in _CAFFE_MEAN]),
    }[scaling]
    x = keras.layers.Rescaling(factors, offsets, dtype="float32", name="scaling")(pixels)
    return x[..., ::-1] if scaling == "caffe" else x  # RGB -> BGR


def chosen_layers(base: keras.Model, rule: str) -> list[keras.Layer]:
    """Find the layers of a backbone that a rule names.

    Args:
        base: The backbone.
        rule: "head": no layers. "last_stage": see `last_stage`. "all", "scratch": all layers. A number N: the last N
            layers that have weights and are not BatchNormalization. Anything else is a regular expression: all layers
            with a name in which it is found.

    Raises:
        UserError: No layer fits the rule.
    """
    if rule == "head":
        return []
    if rule == "last_stage":
        return last_stage(base)
    if rule in ("all", "scratch"):
        return list(base.layers)
    weighted = [
        layer for layer in base.layers if layer.weights and not isinstance(layer, keras.layers.BatchNormalization)
    ]
    if rule.isdecimal():
        if not 0 < int(rule) <= len(weighted):
            raise UserError(
                f"--unfreeze={rule}: {base.name} has {words.number(len(weighted), 'layer')} with weights. --unfreeze"
                f" must be a number from 1 to {len(weighted)}."
            )
        return weighted[-int(rule) :]
    try:
        chosen = [layer for layer in base.layers if re.search(rule, layer.name)]
    except re.error as error:
        raise UserError(f"--unfreeze={rule}: is not a regular expression: {error}.") from error
    if not any(layer in weighted for layer in chosen):
        names = ", ".join(layer.name for layer in weighted[-4:])
        raise UserError(
            f"--unfreeze={rule}: matches no layer with weights of {base.name}. The last layers are {names}. Pass a"
            " regular expression, a number of layers from the end, last_stage or all."
        )
    return chosen


def last_stage(base: keras.Model) -> list[keras.Layer]:
    """Find the layers with weights at the backbone's last resolution.

    These are block5_conv1 to block5_conv3 of VGG16, and conv_dw_12 to conv_pw_13 of MobileNet. The search starts at
    the last layer and goes back to the first layer with weights that has a larger output. A layer without positions
    (squeeze-and-excite) belongs to the stage around it. A layer made of layers (a ConvNeXt block) counts as one.
    """
    weighted = [layer for layer in base.layers if layer.weights]
    area = _area(weighted[-1])
    stage: list[keras.Layer] = []
    for layer in reversed(weighted):
        if _area(layer) > area:
            break
        stage.insert(0, layer)
    return stage


def _area(layer: keras.Layer) -> int:
    """Return the number of positions in a layer's output: height * width, or 1 if it is not an image."""
    height_width = layer.output.shape[1:-1]
    return int(height_width[0] * height_width[1]) if len(height_width) == 2 else 1


def _build_base(config: ModelConfig, flag: str) -> keras.Model:
    """Build the backbone without its top layers, and load its weights."""
    fixed: dict[str, Any] = {"input_shape": config.input_shape}
    if config.backbone == backbones.CNN:
        constructor = cnn
    else:
        constructor = getattr(keras.applications, config.backbone)
        fixed |= {"include_top": False, "weights": "imagenet" if config.weights == "imagenet" else None}
    allowed = [name for name in inspect.signature(constructor).parameters if name not in _RESERVED]
    for name in config.backbone_kwargs:
        if name not in allowed:
            raise UserError(
                f"--backbone_kwargs={name}=...: is not allowed for {config.backbone}. Allowed arguments:"
                f" {', '.join(allowed) or 'none'}."
            )
    try:
        base = constructor(**fixed, **config.backbone_kwargs)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"--image_size={sizes.text(config.size)}: Keras rejects it for {describe(config)}:"
            f" {one_line(error, 'all')}."
            " Change --image_size or --backbone_kwargs."
        ) from error
    except Exception as error:  # keras.utils.get_file raises errors of many types when a download fails.
        if config.weights != "imagenet":
            raise
        raise UserError(
            f"--weights=imagenet: the weights of {describe(config)} could not be downloaded: {one_line(error, 'all')}."
            " Download the weights file with another program and pass --weights=FILE,"
            " or pass --weights=none to train from scratch."
        ) from error
    plain = fixed | {"weights": None}
    base = _with_one_scaling(base, functools.partial(constructor, **plain, **config.backbone_kwargs))
    _scale_in_float32(base)
    if config.batch_norm_momentum is not None:
        for layer in _batch_norms(base):
            layer.momentum = config.batch_norm_momentum
    if config.weights not in ("imagenet", "none"):
        load_weights(base, config, flag)
    return base


def _with_one_scaling(base: keras.Model, build_plain: Callable[[], keras.Model]) -> keras.Model:
    """Return a backbone with the layers that it has without ImageNet weights.

    With these weights, Keras gives EfficientNetB0 to B7 a second Rescaling behind the Normalization. The scale becomes
    a part of the variance, so that a network that is built without these weights can have the same outputs.
    """
    more = [layer for layer in base.layers if isinstance(layer, keras.layers.Rescaling)][1:]
    if not more:
        return base
    plain = build_plain()
    plain.set_weights(base.get_weights())
    normalization = next(layer for layer in plain.layers if isinstance(layer, keras.layers.Normalization))
    for layer in more:
        normalization.adapt_variance.assign(normalization.adapt_variance / np.square(np.float32(layer.scale)))
    normalization.finalize_state()
    return plain


def cnn(
    input_shape: tuple[int, int, int],
    filters: Sequence[int] = (32, 64, 128),
    batch_norm: bool = False,
    padding: str = "valid",
) -> keras.Model:
    """Build the network of the reference recipe, section 2, without its top layers.

    Args:
        input_shape: Height, width, channels.
        filters: Number of filters of each 3 x 3 convolution. A ReLU and 2 x 2 max pooling follow each of them.
        batch_norm: Whether there is a BatchNormalization in front of each ReLU. The reference has none.
        padding: "valid", as in the reference, or "same", with which small images allow more convolutions.
    """
    x = pixels = keras.Input(input_shape)
    for i, count in enumerate(filters, 1):
        x = keras.layers.Conv2D(count, 3, padding=padding, use_bias=not batch_norm, name=f"conv{i}")(x)
        if batch_norm:
            x = keras.layers.BatchNormalization(name=f"conv{i}_bn")(x)
        x = keras.layers.ReLU(name=f"relu{i}")(x)
        x = keras.layers.MaxPooling2D(name=f"pool{i}")(x)
    return keras.Model(pixels, x, name="cnn")


def load_weights(base: keras.Model, config: ModelConfig, flag: str) -> None:
    """Load a weights file of exactly this architecture, without top layers.

    Keras ignores additional arrays in a `.weights.h5` file. This function does not: the shapes of all arrays must fit.

    Raises:
        UserError: The file does not exist, is not a weights file, or belongs to another architecture.
    """
    path = config.weights
    backbones.check_weights(path)
    try:
        with h5py.File(path) as file:
            stored = Counter(_stored_shapes(file))
    except OSError as error:
        raise UserError(f"--weights={path}: is not a readable HDF5 file: {one_line(error, 'all')}.") from error
    expected = Counter(tuple(weight.shape) for weight in base.weights)
    if stored != expected:
        raise UserError(
            f"--weights={path}: is not a weights file of {describe(config)} without top layers: "
            f"the file holds {stored.total()} arrays, the backbone {expected.total()}; "
            f"only in the file: {_largest(stored - expected)}; only in the backbone: {_largest(expected - stored)}. "
            f"Pass the file of this architecture, or its --{flag} and --backbone_kwargs."
        )
    try:
        base.load_weights(path)
    except (ValueError, KeyError) as error:
        raise UserError(
            f"--weights={path}: is not a weights file of {describe(config)}: {one_line(error, 'all')}."
        ) from error


def describe(config: ModelConfig) -> str:
    """Return the backbone as a call, such as `MobileNet(alpha=0.25)`."""
    arguments = ", ".join(f"{name}={value!r}" for name, value in config.backbone_kwargs.items())
    return f"{config.backbone}({arguments})" if arguments else config.backbone


def _scale_in_float32(base: keras.Model) -> None:
    """Keep the scaling layers of a backbone in float32 under mixed dtype policies."""
    for layer in base.layers:
        if isinstance(layer, (keras.layers.Rescaling, keras.layers.Normalization)):
            layer.dtype_policy = keras.DTypePolicy("float32")
            # The constants of this layer were rounded when it was built, so it is built again.
            if isinstance(layer, keras.layers.Normalization):
                if layer.input_mean is None:
                    layer.finalize_state()
                else:
                    layer.build(layer.input.shape)


def _stored_shapes(file: h5py.File) -> list[tuple[int, ...]]:
    """Return the shapes of all weights in a file of either format, without optimizers and seed generators."""
    shapes: list[tuple[int, ...]] = []

    def visit(name: str, item: Any) -> None:
        other = name.startswith(("optimizer", "optimizer_weights")) or "seed_generator" in name
        if isinstance(item, h5py.Dataset) and not other:
            shapes.append(tuple(item.shape))

    file.visititems(visit)
    return shapes


def _nested(layer: keras.Layer) -> Iterator[keras.Layer]:
    for inner in getattr(layer, "layers", ()):
        yield inner
        yield from _nested(inner)


def _batch_norms(layer: keras.Layer) -> Iterator[keras.layers.BatchNormalization]:
    return (inner for inner in _nested(layer) if isinstance(inner, keras.layers.BatchNormalization))


def _drop_rates(base: keras.Model) -> Iterator[tuple[str, float]]:
    for layer in base.layers:
        if isinstance(layer, keras.layers.Dropout):
            yield layer.name, layer.rate
        elif type(layer).__name__ == "StochasticDepth":  # A layer of ConvNeXt that Keras does not export.
            yield layer.name, layer.drop_path_rate


def _set_drop_rate(layer: keras.Layer, rate: float) -> None:
    setattr(layer, "rate" if isinstance(layer, keras.layers.Dropout) else "drop_path_rate", rate)


def _largest(shapes: Counter[tuple[int, ...]]) -> str:
    """Describe the largest shapes, which are the most informative."""
    largest = sorted(shapes.items(), key=lambda item: math.prod(item[0]), reverse=True)[:3]
    named = [f"{shape}" if count == 1 else f"{count} x {shape}" for shape, count in largest]
    return ", ".join(named + ["..."] * (len(shapes) > 3)) or "none"
