"""Classifiers: uint8 pixels -> scaling -> a backbone -> a head -> probabilities.

Built of Keras's own layers alone, so that `keras.models.load_model` reads a saved one without this package.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import h5py
import keras

from tfrecord_tools.base import words
from tfrecord_tools.errors import UserError, one_line
from trainers import backbones
from trainers.recipes import ModelConfig

# keras/src/applications/imagenet_utils.py: means and deviations over ImageNet, in RGB order.
_TORCH_MEAN = (0.485, 0.456, 0.406)
_TORCH_DEVIATION = (0.229, 0.224, 0.225)
_CAFFE_MEAN = (123.68, 116.779, 103.939)
# Constructor arguments that are decided here, not by --backbone_kwargs.
_RESERVED = {"include_top", "include_preprocessing", "weights", "input_tensor", "input_shape", "pooling"} | {
    "classes",
    "classifier_activation",
    "name",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classifier:
    """A model and the part of it that came with weights.

    Attributes:
        model: u8[b h w 3] in 0..255 -> f32[b 1], the probability of class 1, for two classes; else
            f32[b classes], probabilities that add up to 1.
        base: The backbone, one nested layer of `model`.
        drop_rates: Name of each layer of `base` that drops at random -> its rate as built.
    """

    model: keras.Model
    base: keras.Model
    drop_rates: dict[str, float]

    def set_trainable(self, rule: str) -> None:
        """Sets what the next `compile` trains; the head always is.

        What is frozen also behaves as in inference: its BatchNormalization keeps its statistics (by itself,
        once frozen) and its random layers drop nothing, which would only blur the features that the head sees.

        Args:
            rule: As in `Phase.trainable`.

        Raises:
            UserError: A pattern that matches no layer, or a number below 1.
        """
        layers = self.base.layers
        trained = chosen_layers(self.base, rule)
        begin = layers.index(trained[0]) if trained else len(layers)
        self.base.trainable = bool(trained)  # Passed on to every layer, nested ones too.
        for i, layer in enumerate(layers):
            layer.trainable = layer in trained
            if layer.name in self.drop_rates:
                _set_drop_rate(layer, self.drop_rates[layer.name] if i > begin else 0.0)
        if rule != "scratch":
            for layer in _batch_norms(self.base):
                layer.trainable = False  # keras#20285: calling the base with training=False does not do it.


def build(config: ModelConfig, class_count: int) -> Classifier:
    """Builds a classifier under Keras's global dtype policy, and loads the backbone's weights.

    Args:
        config: What to build.
        class_count: How many classes the labels have.

    Raises:
        UserError: One class, an argument that the backbone refuses, or weights that do not fit it.
    """
    if class_count < 2:
        raise UserError(f"the dataset has {class_count} class: a training has nothing to learn; at least 2 are needed.")
    base = _build_base(config)
    pixels = keras.Input((config.size, config.size, 3), dtype="uint8", name="pixels")
    x = scale(pixels, config.scaling or backbones.find(config.backbone).scaling)
    x = base(x)
    flat = config.pooling == "flatten"
    x = keras.layers.Flatten(name="flatten")(x) if flat else keras.layers.GlobalAveragePooling2D(name="pool")(x)
    if config.hidden:
        x = keras.layers.Dense(config.hidden, activation="relu", name="hidden")(x)
    x = keras.layers.Dropout(config.dropout, name="dropout")(x)
    # Probabilities and the loss lose too much in half precision, whatever the policy.
    if class_count == 2:
        x = keras.layers.Dense(1, activation="sigmoid", dtype="float32", name="probability")(x)
    else:
        x = keras.layers.Dense(class_count, activation="softmax", dtype="float32", name="probabilities")(x)
    model = keras.Model(pixels, x, name="classifier")
    return Classifier(model=model, base=base, drop_rates=dict(_drop_rates(base)))


def moving_statistics(model: keras.Model) -> list[keras.Variable]:
    """What training changes in a model but no gradient does: the means and variances of its BatchNormalization."""
    return [variable for layer in _batch_norms(model) for variable in (layer.moving_mean, layer.moving_variance)]


def split(model: keras.Model) -> tuple[keras.Model, keras.Model]:
    """Cuts a classifier behind its pooling; the parts have its layers, so that training one of them trains it.

    Returns:
        u8[b h w 3] -> features f[b c], and f32[b c] -> what the classifier puts out.
    """
    names = [layer.name for layer in model.layers]
    cut = next(i for i, name in enumerate(names) if name in ("pool", "flatten"))
    features = model.layers[cut].output
    x = top_input = keras.Input(features.shape[1:], name="features")
    for layer in model.layers[cut + 1 :]:
        x = layer(x)
    return keras.Model(model.input, features, name="extractor"), keras.Model(top_input, x, name="head")


def rebuild_float32(classifier: Classifier, config: ModelConfig, class_count: int) -> keras.Model:
    """Copies a classifier into a float32 model, all of it trainable, whatever policy it was trained under."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        copy = build(dataclasses.replace(config, weights="none"), class_count).model
    finally:
        keras.config.set_dtype_policy(policy)
    copy.set_weights(classifier.model.get_weights())
    return copy


def scale(pixels: Any, scaling: str) -> Any:
    """Scales pixels as a backbone expects them.

    Cast to float32 comes first: `preprocess_input` itself wraps modulo 256 on uint8. Always computed in float32.

    Args:
        pixels: u8[b h w 3] in 0..255, symbolic or not.
        scaling: As in `ModelConfig.scaling`.

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
    """Finds the layers of a backbone that a rule names.

    Args:
        base: The backbone.
        rule: "head": none of it; "last_stage": see there; "all" and "scratch": all; a number: the last so many that
            have weights and are not BatchNormalization; else a regular expression: those in whose name it is found.

    Raises:
        UserError: No layer is named so.
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
                f"--unfreeze={rule}: {base.name} has {words.number(len(weighted), 'layer')} with weights; 1 to so many."
            )
        return weighted[-int(rule) :]
    try:
        chosen = [layer for layer in base.layers if re.search(rule, layer.name)]
    except re.error as error:
        raise UserError(f"--unfreeze={rule}: not a regular expression: {error}.") from error
    if not any(layer in weighted for layer in chosen):
        names = ", ".join(layer.name for layer in weighted[-4:])
        raise UserError(
            f"--unfreeze={rule}: no layer with weights of {base.name} has a name like that; the last are {names}."
            " A regular expression, a number of layers from the end, last_stage or all is expected."
        )
    return chosen


def last_stage(base: keras.Model) -> list[keras.Layer]:
    """Finds the layers with weights that work at the backbone's final resolution.

    Walks back from the end, as far as no weights are met that put out a larger image: for VGG16 these are block5_conv1
    to block5_conv3, for MobileNet conv_dw_12 to conv_pw_13. Layers without positions (squeeze-and-excite) belong
    to the stage they stand in; a layer made of layers (ConvNeXt's blocks) counts as one.
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
    """How many positions a layer puts out: height * width of its image, 1 without one."""
    height_width = layer.output.shape[1:-1]
    return int(height_width[0] * height_width[1]) if len(height_width) == 2 else 1


def _build_base(config: ModelConfig) -> keras.Model:
    """Builds the backbone without its top and gives it its weights."""
    fixed: dict[str, Any] = {"input_shape": (config.size, config.size, 3)}
    if config.backbone == backbones.CNN:
        constructor = cnn
    else:
        constructor = getattr(keras.applications, config.backbone)
        fixed |= {"include_top": False, "weights": "imagenet" if config.weights == "imagenet" else None}
    allowed = [name for name in inspect.signature(constructor).parameters if name not in _RESERVED]
    for name in config.backbone_kwargs:
        if name not in allowed:
            takes = f"it takes {', '.join(allowed)}" if allowed else "it takes none"
            raise UserError(f"--backbone_kwargs={name}=...: {config.backbone} has no such argument; {takes}.")
    try:
        base = constructor(**fixed, **config.backbone_kwargs)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{describe(config)} at --image_size={config.size}: refused by Keras: {one_line(error, 'all')}."
            " Change --image_size or --backbone_kwargs."
        ) from error
    except Exception as error:  # What keras.utils.get_file raises when a download fails is no narrower.
        if config.weights != "imagenet":
            raise
        raise UserError(
            f"--weights=imagenet: the weights of {describe(config)} could not be downloaded: {one_line(error, 'all')}."
            " Download that file elsewhere and pass --weights=FILE, or pass --weights=none to train from scratch."
        ) from error
    _scale_in_float32(base)
    if config.batch_norm_momentum is not None:
        for layer in _batch_norms(base):
            layer.momentum = config.batch_norm_momentum
    if config.weights not in ("imagenet", "none"):
        load_weights(base, config)
    return base


def cnn(
    input_shape: tuple[int, int, int],
    filters: Sequence[int] = (32, 64, 128),
    batch_norm: bool = False,
    padding: str = "valid",
) -> keras.Model:
    """Builds the network of the notes, section 2, without its top.

    Args:
        input_shape: Height, width, channels.
        filters: Of each of the 3 x 3 convolutions; each is followed by a ReLU and halved by its maximum.
        batch_norm: Whether to normalize in front of each ReLU, which the notes do not.
        padding: "valid", as theirs, or "same": small images then have more stages.
    """
    x = pixels = keras.Input(input_shape)
    for i, count in enumerate(filters, 1):
        x = keras.layers.Conv2D(count, 3, padding=padding, use_bias=not batch_norm, name=f"conv{i}")(x)
        if batch_norm:
            x = keras.layers.BatchNormalization(name=f"conv{i}_bn")(x)
        x = keras.layers.ReLU(name=f"relu{i}")(x)
        x = keras.layers.MaxPooling2D(name=f"pool{i}")(x)
    return keras.Model(pixels, x, name="cnn")


def load_weights(base: keras.Model, config: ModelConfig) -> None:
    """Loads a weights file of exactly this architecture, without top.

    Keras ignores what a `.weights.h5` file holds beyond the model; here each array must have its place.

    Raises:
        UserError: No such file, not a weights file, or of another architecture.
    """
    path = config.weights
    backbones.check_weights(path)
    try:
        with h5py.File(path) as file:
            stored = Counter(_stored_shapes(file))
    except OSError as error:
        raise UserError(f"--weights={path}: not a readable HDF5 file: {one_line(error, 'all')}.") from error
    expected = Counter(tuple(weight.shape) for weight in base.weights)
    if stored != expected:
        raise UserError(
            f"--weights={path}: not the weights of {describe(config)} without its top: "
            f"the file holds {stored.total()} arrays, the backbone {expected.total()}; "
            f"only in the file: {_some(stored - expected)}; only in the backbone: {_some(expected - stored)}. "
            "Pass the file of this architecture, or its --backbone and --backbone_kwargs."
        )
    try:
        base.load_weights(path)
    except (ValueError, KeyError) as error:
        raise UserError(
            f"--weights={path}: not the weights of {describe(config)}: {one_line(error, 'all')}."
        ) from error


def describe(config: ModelConfig) -> str:
    """The backbone as a call: `MobileNet(alpha=0.25)`."""
    arguments = ", ".join(f"{name}={value!r}" for name, value in config.backbone_kwargs.items())
    return f"{config.backbone}({arguments})" if arguments else config.backbone


def _scale_in_float32(base: keras.Model) -> None:
    """Keeps the scaling that a backbone brings along in float32 under mixed policies."""
    for layer in base.layers:
        if isinstance(layer, (keras.layers.Rescaling, keras.layers.Normalization)):
            layer.dtype_policy = keras.DTypePolicy("float32")
            if isinstance(layer, keras.layers.Normalization):  # Its constants were rounded when it was built.
                if layer.input_mean is None:
                    layer.finalize_state()
                else:
                    layer.build(layer.input.shape)


def _stored_shapes(file: h5py.File) -> list[tuple[int, ...]]:
    """The shapes of all weights in a file, of either format; optimizers and seed generators left out."""
    shapes: list[tuple[int, ...]] = []

    def visit(name: str, item: Any) -> None:
        other = name.startswith(("optimizer", "optimizer_weights")) or "seed_generator" in name
        if isinstance(item, h5py.Dataset) and not other:
            shapes.append(tuple(item.shape))

    file.visititems(visit)
    return shapes


def _batch_norms(layer: keras.Layer) -> Iterator[keras.layers.BatchNormalization]:
    for inner in getattr(layer, "layers", ()):
        if isinstance(inner, keras.layers.BatchNormalization):
            yield inner
        yield from _batch_norms(inner)


def _drop_rates(base: keras.Model) -> Iterator[tuple[str, float]]:
    for layer in base.layers:
        if isinstance(layer, keras.layers.Dropout):
            yield layer.name, layer.rate
        elif type(layer).__name__ == "StochasticDepth":  # ConvNeXt's, not exported by Keras.
            yield layer.name, layer.drop_path_rate


def _set_drop_rate(layer: keras.Layer, rate: float) -> None:
    setattr(layer, "rate" if isinstance(layer, keras.layers.Dropout) else "drop_path_rate", rate)


def _some(shapes: Counter[tuple[int, ...]]) -> str:
    """The largest shapes, which tell the most."""
    largest = sorted(shapes.items(), key=lambda item: math.prod(item[0]), reverse=True)[:3]
    named = [f"{shape}" if count == 1 else f"{count} x {shape}" for shape, count in largest]
    return ", ".join(named + ["..."] * (len(shapes) > 3)) or "none"
