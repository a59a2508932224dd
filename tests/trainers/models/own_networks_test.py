"""Tests of networks of the user: functions, Keras files, presets, whole models and described models."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from image_sources import REPOSITORY

import trainers
from tfrecord_tools.errors import UserError
from trainers import backbones, recipes
from trainers.models import inference, keras_files, model_file, networks
from trainers.models import layers as rules
from trainers.recipes import ModelConfig

VIT = ModelConfig(backbone="own_nets:vit", image_size=16)
BRANCHES = ModelConfig(backbone=f"{REPOSITORY}/tests/helpers/own_nets.py:branches", image_size=16, scaling="unit")

# Functions with one mistake each.
BAD = """
import keras

def images(shape):
    return keras.Input(shape)

def none(input_shape):
    return None

def no_arguments():
    return None

def fails(input_shape):
    raise ValueError("too small")

def two_inputs(input_shape):
    x, y = images(input_shape), keras.Input((4,))
    return keras.Model([x, y], keras.layers.Conv2D(2, 3)(x))

def two_outputs(input_shape):
    x = images(input_shape)
    return keras.Model(x, [keras.layers.Conv2D(2, 3, name="left")(x), keras.layers.Flatten(name="right")(x)])

def gray(input_shape):
    x = images((16, 16, 1))
    return keras.Model(x, keras.layers.Conv2D(2, 3)(x))

def other_size(input_shape):
    x = images((24, 24, 3))
    return keras.Model(x, keras.layers.Conv2D(2, 3)(x))

def video(input_shape):
    x = images(input_shape)
    return keras.Model(x, keras.layers.Reshape((4, 4, 16, 3))(x))

def whole_numbers(input_shape):
    x = keras.Input(input_shape, dtype="uint8")
    return keras.Model(x, keras.layers.Conv2D(2, 3)(keras.layers.Rescaling(1 / 255)(x)))

class Unregistered(keras.layers.Layer):
    def call(self, x):
        return x

def unregistered(input_shape):
    x = images(input_shape)
    return keras.Model(x, Unregistered()(x))

@keras.saving.register_keras_serializable("bad")
class Forgets(keras.layers.Layer):
    def __init__(self, factor=1, **more):
        super().__init__(**more)
        self.factor = factor

    def call(self, x):
        return x * self.factor

    def get_config(self):
        return super().get_config()

def forgets(input_shape):
    x = images(input_shape)
    return keras.Model(x, Forgets(factor=2)(x))

@keras.saving.register_keras_serializable("bad")
class Rigid(keras.layers.Layer):
    def __init__(self):
        super().__init__()

    def call(self, x):
        return x

def scaled(input_shape):
    x = images(input_shape)
    return keras.Model(x, keras.layers.Lambda(lambda y: y / 255, name="scale")(keras.layers.Conv2D(2, 3)(x)))

def rigid(input_shape):
    x = images(input_shape)
    return keras.Model(x, Rigid()(x))

def conv_only(input_shape):
    x = images(input_shape)
    y = keras.layers.Conv2D(2, 3, padding="same", name="one")(x)
    return keras.Model(x, keras.layers.Conv2D(2, 3, padding="same", name="two")(y))

def vector(input_shape, units=3, activation=None):
    x = images(input_shape)
    y = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(2, 3, strides=2, name="conv")(x))
    return keras.Model(x, keras.layers.Dense(units, activation, name="last")(y))

def model(input_shape, classes, units=None, activation="softmax", loss=None, **more):
    made = vector(input_shape, units or classes, activation)
    if loss:
        made.compile("sgd", loss, **more)
    return made

def logits_loss(input_shape, classes):
    return model(input_shape, classes, loss=keras.losses.CategoricalCrossentropy(from_logits=True))

def frozen(input_shape, classes):
    made = model(input_shape, classes)
    made.trainable = False
    return made

@keras.saving.register_keras_serializable("bad")
class OwnStep(keras.Model):
    def train_step(self, data):
        return {}

def own_step(input_shape, classes):
    made = vector(input_shape, classes, "softmax")
    return OwnStep(made.inputs, made.outputs)
"""


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("code") / "bad.py"
    path.write_text(BAD)
    return path


def noise(size: int, count: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


# --- Functions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "more", "message"),
    [
        ("none", {}, "SOURCE: returns NoneType, but must return a keras.Model."),
        (
            "no_arguments",
            {},
            "SOURCE: cannot be called: too many positional arguments. The function is no_arguments(),",
        ),
        ("vector", {"backbone_kwargs": {"deep": 1}}, "SOURCE: cannot be called: got an unexpected keyword argument 'd"),
        ("fails", {}, "SOURCE: fails with input_shape=(16, 16, 3): ValueError: too small (line 14). Correct the f"),
        ("two_inputs", {}, "SOURCE: has 2 inputs ("),
        ("two_outputs", {}, "SOURCE: has 2 outputs: left (None, 14, 14, 2), right (None, 768). It must return one ten"),
        ("gray", {}, "SOURCE: takes inputs of shape (16, 16, 1). It must take images of shape (height, width, 3)."),
        ("other_size", {}, "--image_size=16: SOURCE takes images of 24 x 24 pixels. Pass --image_size=24."),
        ("video", {}, "SOURCE: returns features of shape (None, 4, 4, 16, 3). They must be a map (batch, height, wid"),
        ("whole_numbers", {"scaling": "tf"}, "--scaling=tf: SOURCE takes whole numbers (uint8) and scales them itself"),
        (
            "unregistered",
            {},
            "SOURCE: the class Unregistered is not registered, so a saved model could not be loaded. ",
        ),
        (
            "forgets",
            {},
            "SOURCE: the model was copied with get_config, and the copy returns other values than the model. A",
        ),
        ("rigid", {}, "SOURCE: cannot be saved and loaded: "),
        ("scaled", {}, "SOURCE: cannot be saved and loaded, because the layer scale is a Lambda layer. For safety, "),
    ],
)
def test_functions_with_a_mistake_are_reported(function: str, more: dict[str, Any], message: str, bad: Path) -> None:
    name = f"{bad}:{function}"
    with pytest.raises(UserError) as error:
        networks.build(ModelConfig(backbone=name, image_size=16, **more), 2)
    assert str(error.value).startswith(message.replace("SOURCE", f"--backbone={name}"))


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("config", [VIT, BRANCHES], ids=["transformer", "branches"])
def test_saved_model_is_float32_and_gives_the_outputs_of_the_trained_one(
    config: ModelConfig, policy: str, tmp_path: Path
) -> None:
    keras.config.set_dtype_policy(policy)
    classifier = networks.build(config, 3)
    assert classifier.model.output.dtype == "float32"
    classifier.set_trainable("head")  # It switches random layers off, but not in the saved copy.
    copy = networks.rebuild_float32(classifier, config, 3)
    assert {layer.compute_dtype for layer in rules.all_layers(copy)} == {"float32"}
    assert all(getattr(one.layer, one.attribute) for one in rules.random_layers(copy))
    info = model_file.ModelInfo(classes=("a", "b", "c"), image_size=16)
    model_file.save(copy, info, tmp_path / "model.keras", config.codes)
    loaded, _ = model_file.load(tmp_path / "model.keras")
    images = noise(16, 5)
    expected = np.asarray(classifier.model(images, training=False))
    np.testing.assert_allclose(loaded(images), expected, atol=1e-6 if policy == "float32" else 3e-2)
    np.testing.assert_allclose(inference.compiled(loaded)(images), loaded(images), atol=1e-6)


def test_a_vector_and_a_sequence_are_pooled(bad: Path) -> None:
    sequence = networks.build(VIT, 2).model
    extractor, head = networks.split(sequence)
    features = sequence.get_layer("vit")(sequence.get_layer("scaling")(noise(16)))
    assert features.shape == (2, 5, 8)  # Four patches and a class token.
    np.testing.assert_allclose(extractor(noise(16)), np.mean(features, 1), atol=1e-6)
    vector = networks.build(ModelConfig(backbone=f"{bad}:vector", image_size=16), 2).model
    assert networks.split(vector)[0].output_shape == (None, 3)
    assert head.output_shape == (None, 1)


# --- Rules of trained layers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "rule", "trained"),
    [
        (VIT, "head", []),
        (VIT, "2", ["block1", "norm"]),
        (VIT, "block1", ["block1"]),
        (VIT, "mlp", ["block0/mlp", "block1/mlp"]),  # Layers inside of others.
        (VIT, "all", ["patches", "positions", "block0", "block1", "norm"]),
        (BRANCHES, "last_stage", ["last"]),
        (BRANCHES, "3", ["inner_conv", "shared", "last"]),  # A layer of a nested model counts like the others.
        (BRANCHES, "inner", ["inner_conv"]),
        (BRANCHES, "scratch", ["stem", "inner_conv", "inner_norm", "shared", "last"]),
    ],
)
def test_only_layers_of_the_rule_change(config: ModelConfig, rule: str, trained: list[str]) -> None:
    classifier = networks.build(config, 2)
    classifier.set_trainable("all")  # The next rule starts from other settings.
    classifier.set_trainable(rule)
    classifier.model.compile(optimizer=keras.optimizers.SGD(1.0), loss="binary_crossentropy", run_eagerly=True)
    before = [weight.numpy() for weight in classifier.base.weights]
    for _ in range(3):
        classifier.model.train_on_batch(noise(16, 8), np.arange(8) % 3 == 0)
    changed = [w for w, old in zip(classifier.base.weights, before) if not np.array_equal(w, old)]
    layers = list(rules.all_layers(classifier.base))
    expected = {
        id(weight)
        for names in (name.split("/") for name in trained)  # A layer, or one inside of another.
        for outer in layers
        if outer.name == names[0]
        for layer in ([outer] if len(names) == 1 else rules.all_layers(outer))
        if layer.name == names[-1]
        for weight in layer.weights
        if not weight.path.endswith("key/bias")  # It does not change attention.
    }
    assert {id(weight) for weight in changed if not weight.path.endswith("key/bias")} == expected


def test_random_layers_inside_of_others_drop_nothing_in_the_frozen_part() -> None:
    classifier = networks.build(VIT, 2)

    def active() -> list[bool]:
        return [one.layer.rate > 0 for one in classifier.random_layers]  # Attention and drop of two blocks.

    for rule, expected in (("head", [0, 0, 0, 0]), ("block1", [0, 0, 1, 1]), ("1", [0, 0, 0, 0]), ("all", [1] * 4)):
        classifier.set_trainable(rule)
        assert active() == [bool(one) for one in expected], rule


def test_a_network_of_one_resolution_has_no_last_stage(bad: Path) -> None:
    advice = (
        "Pass --unfreeze=N for the last N layers, a regular expression for names of layers (including layers inside"
        " other layers), or --unfreeze=all."
    )
    for name, model, last in (
        ("own_nets:vit", "vit", "positions, block0, block1, norm"),
        (f"{bad}:conv_only", "functional", "one, two"),
    ):
        classifier = networks.build(ModelConfig(backbone=name, image_size=16), 2)
        with pytest.raises(UserError) as error:
            classifier.set_trainable("last_stage")
        message = re.sub(r"functional_\d+", "functional", str(error.value))
        assert message == (
            f"--unfreeze=last_stage: {model} has no last stage, because all its layers have the same resolution. The"
            f" last layers are {last}. {advice}"
        )


# --- Keras files -----------------------------------------------------------------------------------------------------


def conv(x: Any) -> Any:
    return keras.layers.Conv2D(4, 3, strides=2, activation="relu", name="conv")(x)


def with_dense(**head: Any) -> Callable[[Any], Any]:
    def build(x: Any) -> Any:
        x = keras.layers.Dropout(0.1)(keras.layers.GlobalAveragePooling2D(name="pooled")(conv(x)))
        return keras.layers.Dense(name="head", **head)(x)

    return build


def softmax_alone(x: Any) -> Any:
    return keras.layers.Softmax(name="soft")(with_dense(units=5)(x))


def convolutional(x: Any) -> Any:
    return keras.layers.Activation("softmax", name="soft")(keras.layers.GlobalAveragePooling2D(name="pooled")(conv(x)))


def nested(x: Any) -> Any:
    inner = keras.Input(x.shape[1:])
    return keras.Model(inner, with_dense(units=5, activation="softmax")(inner), name="inner")(x)


def in_float32(x: Any) -> Any:
    """End as Keras's guide to mixed precision recommends."""
    return keras.layers.Activation("linear", dtype="float32")(with_dense(units=5, activation="softmax")(x))


def by_operation(x: Any) -> Any:
    return keras.layers.Reshape((5, 1))(keras.ops.softmax(keras.layers.Flatten()(with_dense(units=5)(x))))


def by_function(x: Any) -> Any:
    return keras.ops.cast(keras.activations.sigmoid(with_dense(units=1)(x)), "float32")


def two_nested(x: Any) -> Any:
    inner = keras.Input(x.shape[1:])
    maps = conv(inner)
    pooled = keras.layers.GlobalAveragePooling2D(name="pooled")(maps)
    both = keras.Model(inner, [maps, keras.layers.Dense(5, activation="softmax")(pooled)], name="inner")
    return both(x)[1]


def gated(x: Any) -> Any:
    maps = conv(x)
    return keras.layers.Multiply(name="gated")([maps, keras.activations.sigmoid(maps)])


def mean_of_two(x: Any) -> Any:
    pooled = keras.layers.GlobalAveragePooling2D(name="pooled")(conv(x))
    heads = [keras.layers.Dense(5, activation="softmax", name=name)(pooled) for name in ("left", "right")]
    return keras.layers.Average(name="mean")(heads)


def linear_in_float32(x: Any) -> Any:
    return keras.layers.Activation("linear", dtype="float32", name="last")(with_dense(units=5)(x))


def saved(path: Path, build: Callable[[Any], Any], size: int | None = 16, **more: Any) -> Path:
    images = keras.Input((size, size, 3), name="images")
    keras.Model(images, build(images), **more).save(path)
    return path


@pytest.mark.parametrize(
    ("build", "layer", "shape"),
    [
        (conv, None, (None, 7, 7, 4)),  # Without a head.
        (with_dense(units=5, activation="softmax"), None, (None, 4)),
        (with_dense(units=1, activation="sigmoid"), None, (None, 4)),
        (with_dense(units=5, activation="relu"), None, (None, 5)),  # A layer of features.
        (with_dense(units=5), "pooled", (None, 4)),
        (with_dense(units=5), "head", (None, 5)),
        (softmax_alone, None, (None, 4)),
        (nested, None, (None, 4)),
        (nested, "conv", (None, 7, 7, 4)),
        (convolutional, "pooled", (None, 4)),
        (in_float32, None, (None, 4)),
        (by_operation, None, (None, 4)),
        (by_function, None, (None, 4)),
        (two_nested, None, (None, 4)),
        (gated, None, (None, 7, 7, 4)),  # These are features.
        (mean_of_two, "mean", (None, 5)),
    ],
)
def test_a_network_in_a_file_loses_its_head(build: Any, layer: str | None, shape: Any, tmp_path: Path) -> None:
    path = saved(tmp_path / "net.keras", build)
    config = ModelConfig(backbone=str(path), backbone_kwargs={"layer": layer} if layer else {})
    assert (config.size, config.weights) == (16, "own")
    base = networks.build(config, 2).base
    assert base.output_shape == shape
    stored = keras.models.load_model(path)
    kernel = next(one for one in rules.all_layers(stored) if one.name == "conv").kernel
    own = next(one for one in rules.all_layers(base) if one.name == "conv").kernel
    np.testing.assert_array_equal(own, kernel)
    random = networks.build(dataclasses.replace(config, weights="none"), 2).base
    assert not np.array_equal(next(one for one in rules.all_layers(random) if one.name == "conv").kernel, kernel)


@pytest.mark.parametrize(
    ("build", "kwargs", "message"),
    [
        (
            with_dense(units=5),
            {},
            "--backbone=PATH: its last layer head is a Dense layer without an activation. This layer is either"
            " a head that returns logits, or a part of the features. To use the outputs of head as features, pass"
            " --backbone_kwargs=\"layer='head'\". To use the outputs of dropout, the layer before it, pass"
            " --backbone_kwargs=\"layer='dropout'\".",
        ),
        (
            convolutional,
            {},
            "--backbone=PATH: its last layer soft is a softmax, but pooled before it is not a Dense layer, so the head"
            " cannot be found. To use the outputs of soft as features, pass --backbone_kwargs=",
        ),
        (
            mean_of_two,
            {},
            "--backbone=PATH: layer right returns probabilities, but the later layer mean changes them. So it is not"
            " clear where the head begins. To use the outputs of mean as features, pass"
            " --backbone_kwargs=\"layer='mean'\". To use the outputs of left, the layer before it, pass"
            " --backbone_kwargs=\"layer='left'\".",
        ),
        (
            linear_in_float32,
            {},
            "--backbone=PATH: its last layer head is a Dense layer without an activation.",
        ),
        (
            lambda x: [conv(x), keras.layers.Flatten(name="flat")(x)],
            {},
            "--backbone=PATH: has 2 outputs: conv (None, 7, 7, 4), flat (None, 768). Pass the name of the layer with"
            " the features, as in --backbone_kwargs=\"layer='conv'\".",
        ),
        (conv, {"layer": "cov"}, "--backbone_kwargs=layer='cov': --backbone=PATH has no layer of this name. Did you"),
        (conv, {"alpha": 1}, "--backbone_kwargs=alpha=...: is not allowed for a network in a file. Allowed arguments:"),
    ],
)
def test_a_file_with_an_unclear_head_is_reported(build: Any, kwargs: Any, message: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "net.keras", build)
    with pytest.raises(UserError) as error:
        networks.build(ModelConfig(backbone=str(path), backbone_kwargs=kwargs), 2)
    shown = re.sub(r"dropout_\d+", "dropout", str(error.value)).replace(str(path), "PATH")
    assert shown.startswith(message)


def test_a_file_for_images_of_any_size_gets_a_size(tmp_path: Path) -> None:
    path = saved(
        tmp_path / "net.keras", lambda x: keras.layers.Conv2D(4, 3, strides=2, name="last")(conv(x)), size=None
    )
    classifier = networks.build(ModelConfig(backbone=str(path), image_size=32), 2)
    assert classifier.base.output_shape == (None, 7, 7, 4)
    assert [layer.name for layer in rules.last_stage(classifier.base)] == ["last"]
    assert ModelConfig(backbone=str(path)).size == 224


def test_a_model_of_a_trainer_is_a_backbone_again(tmp_path: Path) -> None:
    info = model_file.ModelInfo(classes=("a", "b"), image_size=32)
    first = networks.build(
        ModelConfig(backbone="MobileNet", backbone_kwargs={"alpha": 0.25}, weights="none", image_size=32), 2
    )
    model_file.save(first.model, info, tmp_path / "model.keras")
    classifier = networks.build(ModelConfig(backbone=str(tmp_path / "model.keras")), 3)
    assert rules.last_stage(classifier.base)[0].name == "conv_dw_12"  # Inside of a nested model.
    expected = networks.split(first.model)[0](noise(32))
    np.testing.assert_allclose(networks.split(classifier.model)[0](noise(32)), expected, atol=1e-5)


def test_the_settings_have_the_hash_of_the_file(tmp_path: Path) -> None:
    path = saved(tmp_path / "net.keras", conv)
    first = backbones.hashes(str(path))
    assert first == {f"sha256 of {path}": backbones.sha256(path)}
    keras.utils.set_random_seed(1)
    saved(path, conv)  # Other weights.
    assert backbones.hashes(str(path)) != first
    name = f"{REPOSITORY}/tests/helpers/own_nets.py"
    assert backbones.hashes(f"{name}:vit") == {f"sha256 of {name}:vit": backbones.sha256(name)}
    assert backbones.hashes("own_nets:vit") == {"sha256 of own_nets:vit": backbones.sha256(name)}
    assert backbones.hashes("VGG16") == {}


def test_a_damaged_or_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^--backbone=nowhere\.keras: does not exist\. Pass the path of a \.keras file"
    ):
        ModelConfig(backbone="nowhere.keras")
    (tmp_path / "cut.keras").write_bytes(saved(tmp_path / "net.keras", conv).read_bytes()[:500])
    with pytest.raises(UserError, match=r"cut\.keras: is cut off, damaged or not a \.keras file"):
        networks.build(ModelConfig(backbone=str(tmp_path / "cut.keras")), 2)


# --- Custom layers ---------------------------------------------------------------------------------------------------


def test_a_file_with_custom_layers_is_loaded_only_with_their_code(tmp_path: Path) -> None:
    code = tmp_path / "mine.py"
    code.write_text(
        "import keras\n@keras.saving.register_keras_serializable('test_of_code')\nclass Twice(keras.layers.Layer):\n"
        "    def call(self, x):\n        return 2 * x\n"
    )
    keras_files.user_code.run(str(code), "--custom_objects=")
    twice = keras.saving.get_registered_object("test_of_code>Twice")
    path = saved(tmp_path / "net.keras", lambda x: twice()(conv(x)))
    info = model_file.ModelInfo(classes=("a", "b"), image_size=16)
    images = keras.Input((16, 16, 3), dtype="uint8")
    head = keras.layers.Dense(1, activation="sigmoid")(keras.layers.Flatten()(twice()(conv(images))))
    model_file.save(keras.Model(images, head), info, tmp_path / "model.keras", [str(code)])
    del keras.saving.get_custom_objects()["test_of_code>Twice"]  # As in another program.

    what = "has custom layers or functions (test_of_code>Twice)"
    with pytest.raises(UserError) as error:
        networks.build(ModelConfig(backbone=str(path)), 2)
    assert str(error.value) == (
        f"--backbone={path}: {what}. A model file has the names of Python modules. For safety, these modules are not"
        " imported automatically. Pass --custom_objects=MODULE or FILE.py, the code that registers these layers or"
        " functions. In Python, import this code first."
    )
    with pytest.raises(UserError) as error:
        model_file.load(tmp_path / "model.keras")
    assert (
        f" {what}. A model file has the names of Python modules. For safety, these modules are not imported"
        f" automatically. Pass --custom_objects={code},"
        " the " in str(error.value)
    )
    with pytest.raises(UserError) as error:
        model_file.load(tmp_path / "model.keras", custom_objects=["own_nets"])
    assert f"--custom_objects=own_nets: {tmp_path}/model.keras {what}, and the code in --custom_objects" in str(
        error.value
    )
    code.write_text(code.read_text() + "\n")  # It has run before, and must run again.
    assert model_file.load(tmp_path / "model.keras", custom_objects=[str(code)])[0].output_shape == (None, 1)
    assert networks.build(ModelConfig(backbone=str(path), custom_objects=(str(code),)), 2).base.output_shape[-1] == 4


# --- Whole models ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "classes", "kwargs", "message"),
    [
        (
            "model",
            2,
            {},
            "SOURCE: returns (None, 2) for 2 classes. It must return one tensor of shape (None, 1): the pro",
        ),
        (
            "model",
            3,
            {"units": 4},
            "SOURCE: returns (None, 4) for 3 classes. It must return one tensor of shape (None, ",
        ),
        (
            "model",
            3,
            {"activation": None},
            "SOURCE: does not return probabilities. End the model with activation='softm",
        ),
        (
            "model",
            3,
            {"activation": "relu"},
            "SOURCE: does not return probabilities. End the model with activation='so",
        ),
        (
            "model",
            3,
            {"loss": "sparse_categorical_crossentropy"},
            "SOURCE: its loss sparse_categorical_crossentropy needs whole numbers as labels, but the targets are"
            " float32 of shape (batch, 3). Use categorical_crossentropy.",
        ),
        (
            "model",
            2,
            {"units": 1, "activation": "sigmoid", "loss": "categorical_crossentropy"},
            "SOURCE: its loss categorical_crossentropy is always 0 here: for two classes, the model has one output.",
        ),
        (
            "model",
            3,
            {"loss": ["mse", "mse"]},
            "SOURCE: is compiled with 2 losses. Compile the model with one loss, or ",
        ),
        (
            "logits_loss",
            3,
            {},
            "SOURCE: its loss categorical_crossentropy takes logits, but the model must return prob",
        ),
        (
            "own_step",
            3,
            {},
            "SOURCE: OwnStep has its own train_step. Trainers do not call such methods: with them, an ",
        ),
        (
            "frozen",
            3,
            {},
            "SOURCE: no layer of the model is trainable. Set trainable = True for some layers.",
        ),
        ("vector", 3, {}, "SOURCE: does not return probabilities. End the model with activation='softmax', and use a "),
    ],
)
def test_whole_models_with_a_mistake_are_reported(
    function: str, classes: int, kwargs: dict[str, Any], message: str, bad: Path
) -> None:
    with pytest.raises(UserError) as error:
        networks.build(ModelConfig(model=f"{bad}:{function}", image_size=16, backbone_kwargs=kwargs), classes)
    assert str(error.value).startswith(message.replace("SOURCE", f"--model={bad}:{function}"))


def test_a_compiled_model_keeps_its_loss_and_a_new_optimizer() -> None:
    config = ModelConfig(model="own_nets:compiled", image_size=16)
    classifier = networks.build(config, 2)
    assert classifier.compiled is not None
    assert classifier.compiled.loss.name == "binary_focal_crossentropy"
    assert type(classifier.compiled.optimizer) is keras.optimizers.AdamW
    assert classifier.compiled.optimizer.use_ema
    assert not classifier.compiled.optimizer.built
    assert networks.build(ModelConfig(model="own_nets:classifier", image_size=16), 2).compiled is None
    features = networks.extractor(classifier.model, "--features_from=x")
    assert features.output_shape == (None, 4)
    keras.config.set_dtype_policy("mixed_bfloat16")
    half = networks.build(config, 3)
    assert half.model.output.dtype == "float32"
    assert networks.rebuild_float32(half, config, 3).layers[-1].compute_dtype == "float32"


# --- Described models ------------------------------------------------------------------------------------------------


def foreign(path: Path, classes: int, activation: str | None, scaling: bool = True) -> Path:
    def build(x: Any) -> Any:
        x = keras.layers.Rescaling(1 / 127.5, -1)(x) if scaling else x
        x = keras.layers.GlobalAveragePooling2D()(conv(x))
        return keras.layers.Dense(classes, activation=activation, name="head")(x)

    return saved(path, build)


def test_the_line_of_the_error_makes_a_foreign_model_usable(tmp_path: Path) -> None:
    path = foreign(tmp_path / "theirs.keras", 2, "softmax")
    with pytest.raises(UserError) as error:
        trainers.predict(run=path, images=noise(20))
    described = tmp_path / "theirs-described.keras"
    line = (
        f"import trainers; trainers.describe_model('{path}', out='{described}', classes=['cats', 'dogs'],"
        " image_size=16, crop=0.0, scaling='own')"
    )
    assert str(error.value) == (
        f"{path}: the class names and image settings are missing in the metadata.json of this file. In Python, write"
        f" a copy of the model with them. Use your own values in this command: {line}"
    )
    exec(line, {})
    answers = trainers.predict(run=described, images=noise(16))
    expected = keras.models.load_model(path)(noise(16).astype(np.float32))
    assert answers.classes == ("cats", "dogs")
    np.testing.assert_allclose(answers.probabilities, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("count", "activation", "scaling", "more"),
    [
        (1, "sigmoid", True, {}),
        (3, "softmax", True, {}),
        (3, None, True, {"logits": True}),
        (1, None, True, {"logits": True}),
        (3, "softmax", False, {"scaling": "tf"}),
    ],
)
def test_outputs_of_described_models(
    count: int, activation: str | None, scaling: bool, more: dict[str, Any], tmp_path: Path
) -> None:
    path = foreign(tmp_path / "theirs.keras", count, activation, scaling)
    names = ("a", "b", "c")[: max(count, 2)]
    out = trainers.describe_model(path, out=tmp_path / "ours.keras", classes=names, crop=0.5, threshold=0.4, **more)
    model, info = model_file.load(out)
    assert (info.classes, info.image_size, info.crop, info.threshold) == (names, 16, 0.5, 0.4)
    x = noise(16).astype(np.float32)
    expected = np.asarray(keras.models.load_model(path)(x if scaling else x / 127.5 - 1))
    if activation is None:
        expected = np.asarray(keras.ops.sigmoid(expected) if count == 1 else keras.ops.softmax(expected))
    np.testing.assert_allclose(model(noise(16)), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["pixels", "scaling", "probabilities"])
def test_a_described_model_may_have_any_name(name: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "theirs.keras", with_dense(units=3), name=name)
    out = trainers.describe_model(path, out=tmp_path / "ours.keras", classes=["a", "b", "c"], logits=True, scaling="tf")
    x = noise(16).astype(np.float32)
    expected = keras.ops.softmax(keras.models.load_model(path)(x / 127.5 - 1))
    np.testing.assert_allclose(model_file.load(out)[0](noise(16)), expected, atol=1e-5)


@pytest.mark.parametrize("is_last", [True, False])
def test_small_logits_of_one_output_are_not_probabilities(is_last: bool, tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        pooled = keras.layers.GlobalAveragePooling2D()(conv(x))
        x = keras.layers.Dense(1, kernel_initializer="zeros", bias_initializer=keras.initializers.Constant(0.4))(pooled)
        return x if is_last else keras.layers.Activation("linear", dtype="float32")(keras.layers.Reshape((1,))(x))

    path = saved(tmp_path / "theirs.keras", build)
    out = tmp_path / "ours.keras"
    with pytest.raises(UserError, match=r"theirs.keras: does not return probabilities. If it returns logits, pass log"):
        trainers.describe_model(path, out=out, classes=["a", "b"])
    trainers.describe_model(path, out=out, classes=["a", "b"], logits=True)
    answers = trainers.predict(run=out, images=noise(16))
    np.testing.assert_allclose(answers.probabilities[:, 1], 1 / (1 + np.exp(-0.4)), atol=1e-5)
    assert set(answers.names) == {"b"}
    texts: dict[str, Any] = {"classes": "a,b", "image_size": "16x16", "custom_objects": "own_nets"}
    trainers.describe_model(path, out=out, logits=True, **texts)
    assert model_file.read_info(out).classes == ("a", "b")
    out.rename(tmp_path / "model.keras")
    assert trainers.load(tmp_path, custom_objects="own_nets,layers.py").custom_objects == ("own_nets", "layers.py")


@pytest.mark.parametrize(
    ("count", "activation", "more", "message"),
    [
        (
            3,
            "softmax",
            {},
            "PATH: returns (None, 3) for 2 classes, but must return (None, 2) or (None, 1). Pass the na",
        ),
        (2, None, {}, "PATH: does not return probabilities. If it returns logits, pass logits=True."),
        (
            2,
            "softmax",
            {"classes": ["a", "a"]},
            "PATH: classes are ['a', 'a'], but must be two or more distinct names.",
        ),
        (3, "softmax", {"classes": ["a", "b", "c"], "logits": True}, "PATH: returns probabilities. Remove logits=True"),
        (2, "softmax", {"scaling": "none"}, "scaling=none: must be one of own, unit, tf, torch, caffe."),
        (2, "softmax", {"image_size": 24}, "PATH: cannot be called with images of 24 x 24 pixels."),
        (2, "softmax", {"out": "no/ours.keras"}, "out=no/ours.keras: the folder no does not exist. Create it first."),
        (
            2,
            "softmax",
            {"out": "PATH"},
            "out=PATH: must be a .keras file, and not the file of the given model. Pass the name of a new file.",
        ),
    ],
)
def test_models_that_cannot_be_described(
    count: int, activation: str | None, more: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = foreign(tmp_path / "theirs.keras", count, activation)
    values = {"out": str(tmp_path / "ours.keras"), "classes": ["a", "b"]} | more
    values["out"] = values["out"].replace("PATH", str(path))
    with pytest.raises(UserError) as error:
        trainers.describe_model(path, **values)
    assert str(error.value).startswith(message.replace("PATH", str(path)))
    assert not (tmp_path / "ours.keras").exists()


# --- Settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"weights": "own"},
            "--weights=own: is only for your own network with weights. MobileNetV2 is created without weights. Pass",
        ),
        (
            {"backbone": "own_nets:vit", "weights": "imagenet"},
            "--weights=imagenet: own_nets:vit has no ImageNet weights. Pass --weights=own (the weights that the ",
        ),
        (
            {"model": "own_nets:compiled", "weights": "none"},
            "--weights=none with --model=own_nets:compiled: the functi",
        ),
        ({"scaling": "torhc"}, "--scaling=torhc: must be one of own, unit, tf, torch, caffe."),
        (
            {"backbone": "nets/no.py:vit"},
            "--backbone=nets/no.py:vit: nets/no.py does not exist. Pass MODULE:FUNCTION or",
        ),
        (
            {"model": "nets/no.py:vit"},
            "--model=nets/no.py:vit: nets/no.py does not exist. Pass MODULE:FUNCTION or FILE",
        ),
    ],
)
def test_settings_that_do_not_fit_are_reported(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        ModelConfig(**values)
    assert str(error.value).startswith(message)


def test_recipes_of_own_networks() -> None:
    assert recipes.finetune(backbone="own_nets:vit").model.weights == "own"
    assert [phase.name for phase in recipes.finetune(backbone="own_nets:vit", weights="none").phases] == ["scratch"]
    assert recipes.scratch(backbone="own_nets:vit").model.weights == "none"
    assert recipes.features_reference(backbone="own_nets:vit").model.scaling is None  # The network scales by itself.
    assert recipes.scratch(model="own_nets:compiled").phases[0].name == "model"
    assert (VIT.codes, ModelConfig().codes) == (("own_nets",), ())
    assert BRANCHES.codes == (f"{REPOSITORY}/tests/helpers/own_nets.py",)


# --- KerasHub --------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(importlib.util.find_spec("keras_hub") is not None, reason="KerasHub is installed")
def test_missing_keras_hub_is_reported() -> None:
    with pytest.raises(UserError) as error:
        ModelConfig(backbone="keras_hub:vit_base_patch16_224_imagenet")
    assert str(error.value) == (
        "--backbone=keras_hub:vit_base_patch16_224_imagenet: KerasHub is not installed. Run pip install"
        " 'tfrecord-tools[hub]'."
    )


@pytest.mark.interop
def test_presets_of_keras_hub(tmp_path: Path) -> None:
    """A preset is a directory, as KerasHub downloads it."""
    hub = pytest.importorskip("keras_hub")
    from keras_hub.src.models.vit.vit_image_converter import ViTImageConverter

    small = {"patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 16, "dropout_rate": 0.1}
    backbone = hub.models.ViTBackbone(image_shape=(16, 16, 3), **small)
    backbone.save_to_preset(tmp_path / "vit")
    name = f"keras_hub:{tmp_path}/vit"
    with pytest.raises(UserError, match=r"the preset does not say how it scales pixels .* Pass --scaling, one of own"):
        networks.build(ModelConfig(backbone=name, image_size=16), 2)
    ViTImageConverter(image_size=(16, 16), scale=[1 / 127.5] * 3, offset=[-1.0] * 3).save_to_preset(tmp_path / "vit")
    config = ModelConfig(backbone=name, image_size=16)
    classifier = networks.build(config, 2)
    features = networks.split(classifier.model)[0](noise(16))
    expected = np.mean(backbone(noise(16) / 127.5 - 1), axis=1)
    np.testing.assert_allclose(features, expected, atol=1e-5)
    classifier.set_trainable("transformer_block_2")
    assert len(classifier.base.trainable_variables) == 16
    networks.rebuild_float32(classifier, config, 2).save(tmp_path / "model.keras")
    assert backbones.hashes(name).keys() == {"keras_hub"}
    with pytest.raises(UserError, match=r"^--image_size=224: --backbone=.* takes images of 16 x 16 pixels\. Pass --im"):
        networks.build(ModelConfig(backbone=name), 2)
    assert networks.build(ModelConfig(backbone=name, image_size=24, weights="none"), 2).base.output_shape == (
        None,
        10,
        8,
    )
    with pytest.raises(
        UserError, match=r"^--backbone=keras_hub:no_such_preset: KerasHub cannot load this preset: Unknown"
    ):
        networks.build(ModelConfig(backbone="keras_hub:no_such_preset"), 2)
