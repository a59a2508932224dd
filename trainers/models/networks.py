"""Build classifiers: uint8 pixels -> scaling -> backbone -> head -> probabilities.

Classifiers have only Keras's own layers. So `keras.models.load_model` can load a saved classifier without this package.
Only networks of the user may have other layers.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import h5py
import keras
import numpy as np

from tfrecord_tools.base import sizes
from tfrecord_tools.errors import UserError, one_line
from trainers import backbones
from trainers.models import cutting, keras_files, layers, own_networks
from trainers.models.layers import RandomLayer
from trainers.models.own_networks import Compiled
from trainers.recipes import ModelConfig

# Means and standard deviations of ImageNet in RGB order, from keras/src/applications/imagenet_utils.py.
_TORCH_MEAN = (0.485, 0.456, 0.406)
_TORCH_DEVIATION = (0.229, 0.224, 0.225)
_CAFFE_MEAN = (123.68, 116.779, 103.939)
# Constructor arguments that this module sets. They are not allowed in --backbone_kwargs.
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
        base: The backbone, which is a nested model in `model`. With --model, the whole model of the user.
        random_layers: The layers of `base` that change their inputs at random.
        is_whole: Whether `base` is a whole model of the user (--model). Then no rule changes which layers are trained.
        compiled: The loss and the optimizer of a whole model. None if it is not compiled.
    """

    model: keras.Model
    base: keras.Model
    random_layers: Sequence[RandomLayer] = ()
    is_whole: bool = False
    compiled: Compiled | None = None

    def set_trainable(self, rule: str) -> None:
        """Set the layers that are trained after the next `compile`. The head is always trained.

        Args:
            rule: A value of `Phase.trainable`.

        Raises:
            UserError: As in `layers.set_trainable`.
        """
        if not self.is_whole:
            layers.set_trainable(self.base, rule, self.random_layers)


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
        raise UserError(f"the dataset has {class_count} class. Training needs at least 2 classes.")
    if config.model is not None:
        whole, compiled = own_networks.whole(config, class_count)
        return Classifier(model=_assembled(whole, config, class_count), base=whole, is_whole=True, compiled=compiled)
    base = _build_base(config, flag)
    model = _assembled(base, config, class_count)
    return Classifier(model=model, base=base, random_layers=layers.random_layers(base))


def _assembled(base: keras.Model, config: ModelConfig, class_count: int) -> keras.Model:
    """Build a classifier from a backbone: scaling before it, and the head after it."""
    pixels = keras.Input(config.input_shape, dtype="uint8", name="pixels")
    x = scale(pixels, config.scaling or backbones.find(*config.network).scaling)
    x = base(x)
    if config.model is None:
        x = _pooled(x, config.pooling)
        if config.hidden:
            x = keras.layers.Dense(config.hidden, activation="relu", name="hidden")(x)
        x = keras.layers.Dropout(config.dropout, name="dropout")(x)
        # Outputs are always float32: probabilities and the loss lose too much precision in half precision.
        if class_count == 2:
            x = keras.layers.Dense(1, activation="sigmoid", dtype="float32", name="probability")(x)
        else:
            x = keras.layers.Dense(class_count, activation="softmax", dtype="float32", name="probabilities")(x)
    elif x.dtype != "float32":
        x = keras.layers.Activation("linear", dtype="float32", name="probabilities")(x)
    return keras.Model(pixels, x, name="classifier")


def _pooled(x: Any, pooling: str) -> Any:
    """Pool the outputs of a backbone to features f[b c].

    The outputs are a map b h w c, a sequence b n c, or a vector b c.
    """
    if pooling == "flatten" or len(x.shape) == 2:
        return keras.layers.Flatten(name="flatten")(x)
    if len(x.shape) == 3:
        return keras.layers.GlobalAveragePooling1D(name="pool")(x)
    return keras.layers.GlobalAveragePooling2D(name="pool")(x)


def moving_statistics(model: keras.Model) -> list[keras.Variable]:
    """Return the means and variances of BatchNormalization, which training changes without a gradient."""
    return [variable for layer in layers.batch_norms(model) for variable in (layer.moving_mean, layer.moving_variance)]


def split(model: keras.Model) -> tuple[keras.Model, keras.Model]:
    """Split a classifier after its pooling layer.

    Both parts share the layers of the classifier. So training a part also trains the classifier.

    Returns:
        Two models: u8[b h w 3] -> features f[b c], and features f32[b c] -> outputs of the classifier.
    """
    cut = _pooling_layer(model)
    if cut is None:
        raise ValueError(f"{model.name} has no layer named pool or flatten")
    features = model.layers[cut].output
    x = top_input = keras.Input(features.shape[1:], name="features")
    for layer in model.layers[cut + 1 :]:
        x = layer(x)
    return keras.Model(model.input, features, name="extractor"), keras.Model(top_input, x, name="head")


def extractor(model: keras.Model, source: str) -> keras.Model:
    """Return the part of any classifier before its head: u8[b h w 3] -> features f[b c].

    Args:
        model: A classifier of a trainer, or a model of the user.
        source: The flag that names the model, with its value, for errors.

    Raises:
        UserError: The model does not end with a head that can be found.
    """
    if _pooling_layer(model) is not None:
        return split(model)[0]
    features = cutting.without_head(model, source)
    if features is model:
        raise UserError(
            f"{source}: does not end with a Dense layer, so its features cannot be found. Pass another network."
        )
    return keras.Model(features.inputs, _pooled(features.outputs[0], "average"), name="extractor")


def _pooling_layer(model: keras.Model) -> int | None:
    """Return the index in `model.layers` of the pooling layer; None if no trainer built the model."""
    names = [layer.name for layer in model.layers]
    return next((i for i, name in enumerate(names) if name in ("pool", "flatten")), None)


def rebuild_float32(classifier: Classifier, config: ModelConfig, class_count: int) -> keras.Model:
    """Copy a classifier to a float32 model with all layers trainable, whatever its dtype policy is."""
    with keras_files.dtype_policy("float32"):
        if config.is_known:
            copy = build(config.without_weights(), class_count).model
        else:  # A function of the user is not called again, since it may read weights or take long.
            with layers.all_random(classifier.random_layers):
                copy = _assembled(own_networks.copied(classifier.base), config, class_count)
            copy.trainable = True
    set_weights(copy, classifier.model.get_weights())
    return copy


def set_weights(layer: keras.Layer, values: Sequence[np.ndarray]) -> None:
    """Set the weights of a layer or a model.

    Keras's Normalization computes with copies of its weights. Keras's `set_weights` does not update these copies, so
    they are updated here.
    """
    layer.set_weights(values)
    for inner in (layer, *layers.all_layers(layer)):
        if isinstance(inner, keras.layers.Normalization) and inner.input_mean is None:
            inner.finalize_state()


def scale(pixels: Any, scaling: str) -> Any:
    """Scale pixels as a backbone expects them, always in float32.

    Pixels are converted to float32 first, since Keras's `preprocess_input` overflows on uint8.

    Args:
        pixels: u8[b h w 3] in 0..255, symbolic or not.
        scaling: A value of `ModelConfig.scaling`.

    Returns:
        f32[b h w 3]. It differs from `preprocess_input` of the backbone's module by at most 1e-6 of the range.
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


def _build_base(config: ModelConfig, flag: str) -> keras.Model:
    """Build the backbone (without a head), and load its weights."""
    base = _build_known(config, flag) if config.is_known else own_networks.build(config, flag)
    _scale_in_float32(base)
    if config.batch_norm_momentum is not None:
        for layer in layers.batch_norms(base):
            layer.momentum = config.batch_norm_momentum
    if config.weights not in (backbones.IMAGENET, backbones.NONE, backbones.OWN):
        load_weights(base, config, flag)
    return base


def _build_known(config: ModelConfig, flag: str) -> keras.Model:
    """Build a backbone of Keras, with ImageNet's weights or random weights."""
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
            f"--image_size={sizes.text(config.size)}: Keras rejects this size for {describe(config)}:"
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
    return _with_one_scaling(
        base, functools.partial(constructor, **fixed | {"weights": None}, **config.backbone_kwargs)
    )


def _with_one_scaling(base: keras.Model, build_plain: Callable[[], keras.Model]) -> keras.Model:
    """Return a backbone with the layers that it has without ImageNet weights.

    With ImageNet weights, Keras gives EfficientNetB0 to B7 a second Rescaling after the Normalization. A network that
    is built without these weights does not have this layer. So the scale of this layer is moved into the variance of
    the Normalization, and the outputs stay the same.
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
    """Build the network of the reference recipe, section 2, without its head.

    Args:
        input_shape: Height, width, channels.
        filters: Number of filters of each 3 x 3 convolution. A ReLU and 2 x 2 max pooling follow each of them.
        batch_norm: Whether there is a BatchNormalization before each ReLU. The reference recipe has none.
        padding: "valid", as in the reference recipe, or "same". With "same", small images allow more convolutions.
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
    """Load a weights file of exactly this architecture, without a head.

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
            f"--weights={path}: does not fit {describe(config)}. The file must contain the weights of this backbone"
            f" without the head (include_top=False). The file has {stored.total()} arrays, and the backbone has"
            f" {expected.total()}. Only in the file: {_largest(stored - expected)}. Only in the backbone:"
            f" {_largest(expected - stored)}. Pass a weights file of this backbone that was saved without the head,"
            f" or set --{flag} and --backbone_kwargs to the network from which this file was saved."
        )
    try:
        base.load_weights(path)
    except (ValueError, KeyError) as error:
        raise UserError(f"--weights={path}: does not fit {describe(config)}: {one_line(error, 'all')}.") from error


def describe(config: ModelConfig) -> str:
    """Return the backbone as a call, such as `MobileNet(alpha=0.25)`."""
    arguments = ", ".join(f"{name}={value!r}" for name, value in config.backbone_kwargs.items())
    name, _ = config.network
    return f"{name}({arguments})" if arguments else name


def _scale_in_float32(base: keras.Model) -> None:
    """Keep the scaling layers of a backbone in float32 under mixed dtype policies."""
    for layer in layers.inner_layers(base):
        if isinstance(layer, (keras.layers.Rescaling, keras.layers.Normalization)):
            layer.dtype_policy = keras.DTypePolicy("float32")
            # The constants of this layer were rounded when it was built, so it is built again.
            if isinstance(layer, keras.layers.Normalization):
                if layer.input_mean is None:
                    layer.finalize_state()
                else:
                    layer.build(layer.input.shape)


def _stored_shapes(file: h5py.File) -> list[tuple[int, ...]]:
    """Return the shapes of all weights in a .h5 or .weights.h5 file, without optimizers and seeds."""
    shapes: list[tuple[int, ...]] = []

    def visit(name: str, item: Any) -> None:
        other = name.startswith(("optimizer", "optimizer_weights")) or "seed_generator" in name
        if isinstance(item, h5py.Dataset) and not other:
            shapes.append(tuple(item.shape))

    file.visititems(visit)
    return shapes


def _largest(shapes: Counter[tuple[int, ...]]) -> str:
    """Describe the largest shapes, which are the most informative."""
    largest = sorted(shapes.items(), key=lambda item: math.prod(item[0]), reverse=True)[:3]
    named = [f"{shape}" if count == 1 else f"{count} x {shape}" for shape, count in largest]
    return ", ".join(named + ["..."] * (len(shapes) > 3)) or "none"
