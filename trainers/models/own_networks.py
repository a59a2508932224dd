"""Networks of the user: made by a function, read from a Keras file, or a preset of KerasHub.

Before a network is used, it is copied through its configuration, as when a model is saved and loaded. So a layer that
cannot be saved is reported before the training, and not after it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from tfrecord_tools.base import sizes, user_code, words
from tfrecord_tools.errors import UserError, one_line
from trainers import backbones
from trainers.models import cutting, keras_files, layers
from trainers.recipes import ModelConfig

# Names of the layers that a trainer puts around a network.
_TAKEN = frozenset(
    {"classifier", "dropout", "flatten", "hidden", "pixels", "pool", "probabilities", "probability", "scaling"}
)
# Methods of a model that a training with this package does not call.
_OWN_METHODS = ("train_step", "test_step", "fit", "compute_loss", "compute_metrics", "make_train_function")
_TOLERANCES = {"float32": 1e-3}  # Largest relative difference of a copy's outputs.
_TOLERANCE = 0.1  # In half precision.
_TRIED = 8  # Images on which a model is tried.

Shape = tuple[int, int, int]  # Height, width, 3.


@dataclasses.dataclass(frozen=True)
class Compiled:
    """The loss and the optimizer of a compiled model. The optimizer has no variables yet."""

    loss: Any
    optimizer: keras.optimizers.Optimizer


def build(config: ModelConfig, flag: str = "backbone") -> keras.Model:
    """Build a network without a head.

    Args:
        config: Settings of the model. `backbone` is one of `backbones.FORMS`.
        flag: Name of the flag that chooses the backbone, for errors.

    Returns:
        A functional or sequential model: images b h w 3 -> features b c, b n c or b h w c.

    Raises:
        UserError: The network cannot be made, read, saved or loaded, or its inputs or outputs are not allowed.
    """
    name, shape = config.backbone, config.input_shape
    source = f"--{flag}={name}"
    if backbones.is_file(name):
        made = _of_file(config, source, flag)
    elif name.startswith(backbones.KERAS_HUB):
        made = _of_hub(config, source)
    else:
        made = _made(name, flag, config.backbone_kwargs, input_shape=shape)
    made = _as_graph(made, shape, source)
    _check_inputs(made, config, source)
    _check_features(made, source)
    is_random = backbones.is_file(name) and config.weights == backbones.NONE
    return _checked_copy(made, shape, source, is_random)


def whole(config: ModelConfig, class_count: int) -> tuple[keras.Model, Compiled | None]:
    """Make a whole classifier, including its head, with a function of the user.

    Args:
        config: Settings of the model, with `model`.
        class_count: Number of classes, at least 2.

    Returns:
        A functional or sequential model: images b h w 3 -> probabilities f[b 1] or f[b classes]; and its loss and
        optimizer if the function has compiled it.

    Raises:
        UserError: The model cannot be made, saved or loaded. Or its inputs or outputs are not allowed, it has its own
            method for a training step, or its loss does not fit the targets.
    """
    name, flag = config.network
    source, shape = f"--{flag}={name}", config.input_shape
    made = _made(name, flag, config.backbone_kwargs, input_shape=shape, classes=class_count)
    _check_methods(made, source)
    compiled = _compiled(made, class_count, source) if made.compiled else None
    graph = _as_graph(made, shape, source)
    _check_inputs(graph, config, source)
    _check_probabilities(graph, shape, class_count, source)
    if not graph.trainable_variables:
        raise UserError(f"{source}: no layer of the model is trainable. Set trainable = True for some layers.")
    return _checked_copy(graph, shape, source), compiled


def copied(model: keras.Model, shape: Shape | None = None) -> keras.Model:
    """Copy a model through its configuration, without its weights, under Keras's global dtype policy.

    Args:
        model: A functional or sequential model, or a backbone of KerasHub.
        shape: Shape of the images for a model that takes images of any size.
    """
    config = _with_policy(model.get_config(), keras.config.dtype_policy().name)
    if "name" in config:
        config["name"] = free_name(config["name"])
    if shape is not None:
        _fix_shape(config, shape)
    # If a file was imported twice, other classes than the classes of this model may be registered now.
    kinds = {type(layer) for layer in (model, *layers.all_layers(model))}
    with keras.saving.custom_object_scope({keras.saving.get_registered_name(kind): kind for kind in kinds}):
        copy = type(model).from_config(config)
    for old, new in zip(layers.all_layers(model), layers.all_layers(copy), strict=True):
        if old.trainable != new.trainable:
            new.trainable = old.trainable  # Keras also sets the layers inside, which come later in this loop.
    return copy


def free_name(name: str) -> str:
    """Return the name of a network, changed if a layer around the network has the same one."""
    return f"{name}_network" if name in _TAKEN else name


# --- Sources of networks ---------------------------------------------------------------------------------------------


def _made(name: str, flag: str, kwargs: Mapping[str, Any], **arguments: Any) -> keras.Model:
    """Call a function of the user."""
    source, function = f"--{flag}={name}", user_code.function(name, f"--{flag}=")
    _check_arguments(function, source, kwargs, arguments)
    try:
        with user_code.importable(user_code.code_of(name)):  # The function may import modules, too.
            made = function(*arguments.values(), **kwargs)
    except UserError:
        raise
    except Exception as error:  # The code of the user can raise anything.
        given = ", ".join(f"{argument}={value}" for argument, value in arguments.items())
        line = user_code.line_of(error, user_code.code_of(name))
        raise UserError(
            f"{source}: fails with {given}: {type(error).__name__}: {one_line(error, 'all')}{line}. Correct the"
            " function, or change --image_size or --backbone_kwargs."
        ) from error
    if not isinstance(made, keras.Model):
        raise UserError(f"{source}: returns {type(made).__name__}, but must return a keras.Model.")
    return made


def _check_arguments(
    function: Callable[..., Any], source: str, kwargs: Mapping[str, Any], arguments: Mapping[str, Any]
) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # Some functions in C have no signature.
        return
    name = getattr(function, "__name__", "function")
    try:
        signature.bind(*arguments.values(), **kwargs)
    except TypeError as error:
        raise UserError(
            f"{source}: cannot be called: {error}. The function is {name}{signature}, but it must take"
            f" {' and '.join(arguments)}. Pass other arguments in --backbone_kwargs."
        ) from error


def _of_file(config: ModelConfig, source: str, flag: str) -> keras.Model:
    """Read a network from a Keras file, and cut off its head."""
    path = backbones.file_of(config.backbone, flag)
    keras_files.metadata(path)  # Raises UserError if the file is damaged.
    model = keras_files.load(path, config.custom_objects or (), source)
    kwargs = dict(config.backbone_kwargs)
    layer = kwargs.pop("layer", None)
    if kwargs:
        raise UserError(
            f"--backbone_kwargs={next(iter(kwargs))}=...: is not allowed for a network in a file. Allowed arguments:"
            " layer."
        )
    if getattr(model, "outputs", None) is None:  # A model with its own `call` has no graph to cut.
        return model
    if layer is not None:
        return cutting.at_layer(model, str(layer), source)
    if len(model.outputs) > 1:
        raise UserError(
            f"{source}: has {_several_outputs(model)}. Pass the name of the layer with the features, as in"
            f" --backbone_kwargs=\"layer='{model.output_names[0]}'\"."
        )
    return cutting.without_head(model, source)


def _of_hub(config: ModelConfig, source: str) -> keras.Model:
    """Make the backbone of a preset of KerasHub."""
    try:
        import keras_hub
    except ImportError as error:
        raise UserError(
            f"{source}: KerasHub cannot be imported: {one_line(error)}. Run pip install 'tfrecord-tools[hub]'."
        ) from error
    preset, shape = config.backbone.removeprefix(backbones.KERAS_HUB), config.input_shape

    def of_preset(load_weights: bool, **more: Any) -> keras.Model:
        return keras_hub.models.Backbone.from_preset(preset, load_weights, **{**more, **config.backbone_kwargs})

    has_weights = config.weights == backbones.OWN
    try:
        made = of_preset(load_weights=False)
        height_width = tuple(made.inputs[0].shape[1:3])
        # A network for images of any size gets a fixed size, so that its stages are known.
        more = {"image_shape": shape} if None in height_width or (not has_weights and height_width != shape[:2]) else {}
        if has_weights or more:
            made = of_preset(has_weights, **more)
    except Exception as error:  # KerasHub and the libraries that download raise errors of many types.
        raise UserError(
            f"{source}: KerasHub cannot load this preset: {one_line(error, 'all')}. Pass the name or the directory of a"
            " preset."
        ) from error
    return made if config.scaling is not None else _with_scaling(made, preset, source)


def _with_scaling(model: keras.Model, preset: str, source: str) -> keras.Model:
    """Put the scaling of a preset in front of its backbone, which does not scale pixels itself."""
    import keras_hub

    try:
        converter = keras_hub.layers.ImageConverter.from_preset(preset)
    except Exception as error:
        raise UserError(
            f"{source}: the preset does not say how it scales pixels ({one_line(error)}). Pass --scaling, one of"
            f" {', '.join(backbones.SCALINGS)}."
        ) from error
    scale, offset = (1.0 if converter.scale is None else converter.scale, converter.offset or 0.0)
    images = keras.Input(model.inputs[0].shape[1:], name="images")
    x = keras.layers.Rescaling(scale, offset, dtype="float32", name="preset_scaling")(images)
    return keras.Model(images, model(x), name=f"{model.name}_scaled")


def _as_graph(model: keras.Model, shape: Shape, source: str) -> keras.Model:
    """Return a functional model. A model with its own `call` becomes its only layer."""
    if isinstance(model, keras.Sequential) and not model.built:
        with _explained(source, "cannot be built"):
            model.build((None, *shape))
    if getattr(model, "inputs", None) is not None:
        return model
    images = keras.Input(shape, name="images")
    with _explained(source, f"cannot be called with images of shape {shape}"):
        return keras.Model(images, model(images), name=f"{model.name}_graph")


# --- Checks ----------------------------------------------------------------------------------------------------------


def _check_inputs(model: keras.Model, config: ModelConfig, source: str) -> None:
    if len(model.inputs) != 1:
        names = ", ".join(tensor.name for tensor in model.inputs)
        raise UserError(f"{source}: has {len(model.inputs)} inputs ({names}). It must take images only.")
    expected, shape = config.input_shape, tuple(model.inputs[0].shape[1:])
    if len(shape) != 3 or shape[2] != 3:
        raise UserError(f"{source}: takes inputs of shape {shape}. It must take images of shape (height, width, 3).")
    if any(side not in (None, own) for side, own in zip(shape, expected)):
        allowed = sizes.text(sizes.parse([side or own for side, own in zip(shape[:2], expected)]))
        raise UserError(
            f"--image_size={sizes.text(config.size)}: {source} takes images of {shape[0]} x {shape[1]} pixels. Pass"
            f" --image_size={allowed}."
        )
    dtype = model.inputs[0].dtype
    if config.scaling not in (None, backbones.OWN) and "float" not in dtype:
        raise UserError(
            f"--scaling={config.scaling}: {source} takes whole numbers ({dtype}) and scales them itself. Remove"
            " --scaling."
        )


def _check_features(model: keras.Model, source: str) -> None:
    if len(model.outputs) != 1:
        raise UserError(f"{source}: has {_several_outputs(model)}. It must return one tensor of features.")
    shape = model.outputs[0].shape
    if len(shape) not in (2, 3, 4) or shape[-1] is None:
        raise UserError(
            f"{source}: returns features of shape {tuple(shape)}. They must be a map (batch, height, width, channels),"
            " a sequence (batch, positions, channels) or a vector (batch, channels)."
        )


def _several_outputs(model: keras.Model) -> str:
    shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in zip(model.output_names, model.outputs))
    return f"{words.number(len(model.outputs), 'output')}: {shapes}"


def _check_methods(model: keras.Model, source: str) -> None:
    own = [name for name in _OWN_METHODS if getattr(type(model), name) is not getattr(keras.Model, name)]
    if own:
        raise UserError(
            f"{source}: {type(model).__name__} has its own {' and '.join(own)}. Trainers do not call"
            " such methods: with them, an interrupted training could not continue exactly. Pass the loss to"
            " compile, call add_loss in a layer, or train with fit.Task (docs/trainers.md)."
        )


def _check_probabilities(model: keras.Model, shape: Shape, class_count: int, source: str) -> None:
    count = 1 if class_count == 2 else class_count
    outputs = [tuple(tensor.shape) for tensor in model.outputs]
    if outputs != [(None, count)]:
        what = "the probability of the second class" if count == 1 else "a probability for each class"
        raise UserError(
            f"{source}: returns {', '.join(map(str, outputs))} for {class_count} classes. It must return one tensor of"
            f" shape (None, {count}): {what}."
        )
    if not returns_probabilities(model, shape):
        activation = "sigmoid" if count == 1 else "softmax"
        raise UserError(
            f"{source}: does not return probabilities. End the model with activation={activation!r}, and use a loss"
            " without from_logits."
        )


def returns_probabilities(model: keras.Model, shape: Shape) -> bool:
    """Return whether a model returns probabilities f[b c] for noise. If c > 1, their sum must be 1."""
    if cutting.returns_logits(model):
        return False  # Logits of a new network may be small.
    values = np.asarray(model(_images(shape), training=False), np.float32)
    sums = values.sum(1) if values.shape[1] > 1 else np.ones(1)
    return bool(values.min() >= 0 and values.max() <= 1 and np.abs(sums - 1).max() < 0.02)


def _compiled(model: keras.Model, class_count: int, source: str) -> Compiled:
    """Return the loss of a compiled model, and a new optimizer with the same settings."""
    loss = model.loss
    if isinstance(loss, (list, tuple, dict)) and len(loss) == 1:
        loss = next(iter(loss.values() if isinstance(loss, dict) else loss))
    if loss is None or isinstance(loss, (list, tuple, dict)):
        count = words.number(len(loss or ()), "loss", "losses")
        raise UserError(f"{source}: is compiled with {count}. Compile the model with one loss, or do not compile it.")
    name = str(getattr(loss, "name", None) or getattr(loss, "__name__", loss))
    problem = _loss_problem(loss, name, class_count)
    if problem:
        raise UserError(f"{source}: its loss {name} {problem}")
    optimizer = model.optimizer
    inner = getattr(optimizer, "inner_optimizer", optimizer)  # Keras adds a LossScaleOptimizer again.
    try:
        fresh = type(inner).from_config(inner.get_config())
    except Exception as error:  # The optimizer may be code of the user.
        raise UserError(f"{source}: its optimizer cannot be copied: {one_line(error, 'all')}.") from error
    return Compiled(loss=loss, optimizer=fresh)


def _loss_problem(loss: Any, name: str, class_count: int) -> str:
    """Return why a loss does not fit the targets and the probabilities; "" if it does."""
    right = "binary_crossentropy" if class_count == 2 else "categorical_crossentropy"
    if "sparse" in name.lower():
        return (
            f"needs whole numbers as labels, but the targets are float32 of shape (batch, {_width(class_count)}). Use"
            f" {right}."
        )
    if "categorical" in name.lower() and class_count == 2:
        return f"is always 0 here: for two classes, the model has one output. Use {right}."
    if getattr(loss, "from_logits", False):
        return "takes logits, but the model must return probabilities. Use from_logits=False."
    width = _width(class_count)
    targets = np.eye(max(width, 2), dtype=np.float32)[:2, -width:]
    try:
        value = np.asarray(keras.losses.get(loss)(targets, np.full_like(targets, 1 / class_count)))
    except Exception as error:  # noqa: BLE001  The loss may be code of the user.
        return (
            f"fails for targets (float32 of shape (batch, {width})): {one_line(error, 'all')}. Use {right}, or"
            " correct the loss."
        )
    return (
        ""
        if np.isfinite(value).all()
        else f"is not finite for targets (float32 of shape (batch, {width})). Use {right}, or correct the loss."
    )


def _width(class_count: int) -> int:
    return 1 if class_count == 2 else class_count


def _images(shape: Shape) -> np.ndarray:
    """Return noise f32[b h w 3] in 0..255."""
    return np.random.default_rng(0).uniform(0, 255, (_TRIED, *shape)).astype(np.float32)


@contextlib.contextmanager
def _explained(source: str, problem: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # The layers may be code of the user.
        raise UserError(f"{source}: {problem}: {one_line(error, 'all')}.") from error


# --- The copy --------------------------------------------------------------------------------------------------------


def _checked_copy(model: keras.Model, shape: Shape, source: str, is_random: bool = False) -> keras.Model:
    """Copy a model as it would be saved and loaded, and compare both.

    Args:
        model: The model.
        shape: Shape of the images.
        source: The flag that names the model, with its value, for errors.
        is_random: Whether the copy gets random weights instead of those of the model.
    """
    _check_registered(model, source)
    try:
        copy = copied(model, shape)
        if not is_random:
            copy.set_weights(model.get_weights())
    except Exception as error:  # The layers may be code of the user.
        for layer in layers.all_layers(model):
            if isinstance(layer, keras.layers.Lambda):
                raise UserError(
                    f"{source}: cannot be saved and loaded, because the layer {layer.name} is a Lambda layer. For"
                    " safety, Keras does not load the code of such a layer from a file. Replace the layer by operations"
                    " such as x / 255, by a layer of Keras such as Rescaling, or by a layer class of your own."
                ) from error
        reason = one_line(error, "all").split(" Full object config: ")[0]
        raise UserError(
            f"{source}: cannot be saved and loaded: {reason}. In each custom layer, get_config must return all"
            " arguments of __init__, and __init__ must call super().__init__(**kwargs)."
        ) from error
    if not is_random:
        _check_same(model, copy, shape, source)
    return copy


def _check_registered(model: keras.Model, source: str) -> None:
    for layer in (model, *layers.all_layers(model)):
        kind = type(layer)
        package = kind.__module__.partition(".")[0]
        if package not in ("keras", "keras_hub") and ">" not in keras.saving.get_registered_name(kind):
            raise UserError(
                f"{source}: the class {kind.__name__} is not registered, so a saved model could not be loaded. Write"
                ' @keras.saving.register_keras_serializable("mine") above the class.'
            )


def _check_same(model: keras.Model, copy: keras.Model, shape: Shape, source: str) -> None:
    images = _images(shape)[:2]
    expected, values = (np.asarray(one(images, training=False), np.float32) for one in (model, copy))
    largest, tolerance = np.abs(expected).max(), _TOLERANCES.get(keras.config.dtype_policy().name, _TOLERANCE)
    if np.isfinite(expected).all() and np.abs(values - expected).max() > tolerance * largest:
        raise UserError(
            f"{source}: the model was copied with get_config, and the copy returns other values than the model. A"
            " saved and loaded model would have the same problem. Let get_config of each custom layer return all"
            " arguments of its __init__."
        )


def _with_policy(config: Any, policy: str) -> Any:
    """Replace the dtype policies of layers in a configuration.

    If some layers have a mixed policy, only these layers get the new policy, because the others need float32. If no
    layer has a mixed policy, all float32 layers get the new policy.
    """
    names = set(_policies(config))
    old = {name for name in names if name.startswith("mixed_")} or {"float32"}
    return _replaced(config, old, policy)


def _policies(config: Any) -> Iterator[str]:
    if isinstance(config, Mapping):
        if config.get("class_name") == "DTypePolicy":
            yield config["config"]["name"]
        for value in config.values():
            yield from _policies(value)
    elif isinstance(config, (list, tuple)):
        for value in config:
            yield from _policies(value)


def _replaced(config: Any, old: set[str], policy: str) -> Any:
    if isinstance(config, Mapping):
        if config.get("class_name") == "DTypePolicy" and config["config"]["name"] in old:
            return {**config, "config": {"name": policy}}
        return {name: _replaced(value, old, policy) for name, value in config.items()}
    if isinstance(config, (list, tuple)):
        values = [_replaced(value, old, policy) for value in config]
        return tuple(values) if isinstance(config, tuple) else values
    return config


def _fix_shape(config: dict[str, Any], shape: Shape) -> None:
    """Give inputs for images of any size a fixed size, so that all layers have outputs of a fixed size."""
    for layer in config.get("layers", ()):
        sides = layer["config"].get("batch_shape", ()) if layer["class_name"] == "InputLayer" else ()
        if None in tuple(sides)[1:]:
            layer["config"]["batch_shape"] = (None, *shape)
    for name in ("image_shape", "build_input_shape"):
        if None in tuple(config.get(name) or ())[name == "build_input_shape" :]:
            config[name] = shape if name == "image_shape" else (None, *shape)
