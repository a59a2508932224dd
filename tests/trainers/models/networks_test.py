"""Tests of classifiers: scaling, trained layers, weights files, and rejected settings."""

from __future__ import annotations

import importlib
import subprocess
import sys

import h5py
import keras
import numpy as np
import pytest
from image_sources import save_fitted

from tfrecord_tools.errors import UserError
from trainers import backbones, recipes
from trainers.models import inheritance, networks
from trainers.models import layers as rules
from trainers.recipes import ModelConfig

SMALL = ModelConfig(backbone="MobileNet", backbone_kwargs={"alpha": 0.25}, weights="none", image_size=32)
# Sizes near the smallest of each backbone, so that all 40 can be built.
KERAS_BACKBONES = [name for name in backbones.BACKBONES if name != backbones.CNN]
SMALLEST = {"Xception": 71, "InceptionV3": 75, "InceptionResNetV2": 75}


@pytest.fixture(autouse=True)
def _clean():
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy("float32")


def pixels(size: int, count: int = 2) -> np.ndarray:
    """Return images of coarse patches of color. Noise in single pixels would give similar outputs."""
    patches = np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), np.uint8)
    patches[0, 0, :2] = [[0, 0, 0], [255, 255, 255]]
    side = -(-size // 4)
    return patches.repeat(side, axis=1).repeat(side, axis=2)[:, :size, :size]


def preprocess_input(name: str, images: np.ndarray) -> np.ndarray:
    """Call the function of the backbone's module on floats, since it overflows on uint8."""
    module = sys.modules[getattr(keras.applications, name).__module__]
    return module.preprocess_input(images.astype(np.float32))


def settle(classifier: networks.Classifier) -> None:
    """Make every layer affect the output, also BatchNormalization and the branches of ConvNeXt.

    Without it, BatchNormalization makes the outputs of random layers fade to 0. Branches of ConvNeXt are scaled by
    1e-6, so that their gradients are below half of float32's resolution at gamma = 1 and would not change it.
    """
    for layer in classifier.base.layers:
        if type(layer).__name__ == "LayerScale":  # Keras does not export it.
            layer.gamma.assign(keras.ops.ones_like(layer.gamma))
    norms = [layer for layer in classifier.base.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for layer in norms:
        layer.momentum = 0.0
    size, scaling = classifier.model.input_shape[1], classifier.model.get_layer("scaling")
    classifier.base(scaling(pixels(size, 8)), training=True)


def test_all_backbones_of_keras_are_in_the_table():
    assert sorted(KERAS_BACKBONES) == sorted(name for name in dir(keras.applications) if name[0].isupper())


@pytest.mark.parametrize("name", KERAS_BACKBONES)
def test_scaling_equals_preprocess_input(name):
    images = pixels(8)
    scaled = networks.scale(images, backbones.find(name).scaling)
    assert scaled.dtype == "float32"
    np.testing.assert_allclose(scaled, preprocess_input(name, images), rtol=1e-6, atol=1e-6)


def check_saved_equals_preprocess_input_and_base(config: ModelConfig, tmp_path, shallow: bool):
    classifier = networks.build(config, 2)
    settle(classifier)
    classifier.model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    images = pixels(config.input_shape[0])
    given = preprocess_input(config.backbone, images)
    scaled = networks.scale(images, backbones.find(config.backbone).scaling)
    np.testing.assert_allclose(scaled, given, rtol=1e-6, atol=1e-6)
    # All models run eagerly, and deep ones get our own scaled pixels: with random weights, the deepest networks amplify
    # a change of the last bit (Keras's own base, as a graph and eagerly: a difference of 0.9 for EfficientNetV2S).
    features = np.array(keras.Model(loaded.input, loaded.get_layer("pool").output)(images, training=False))
    expected = np.mean(classifier.base(given if shallow else scaled, training=False), axis=(1, 2))
    scale = np.abs(expected).max()
    assert np.ptp(expected, axis=0).max() > 0.01 * scale  # The features depend on the image.
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize(
    "config",
    [
        SMALL,  # "tf"
        ModelConfig(backbone="VGG16", weights="none", image_size=32),  # "caffe": reversed channels
        ModelConfig(backbone="MobileNetV3Small", weights="none", image_size=32),  # "own"
    ],
    ids=lambda config: config.backbone,
)
def test_saved_model_equals_preprocess_input_and_base(config, tmp_path):
    check_saved_equals_preprocess_input_and_base(config, tmp_path, shallow=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", KERAS_BACKBONES)
def test_every_saved_model_equals_preprocess_input_and_base(name, tmp_path):
    config = ModelConfig(backbone=name, weights="none", image_size=SMALLEST.get(name, 32))
    check_saved_equals_preprocess_input_and_base(config, tmp_path, shallow=False)


def build_wide(name: str) -> networks.Classifier:
    """Build a network for images of its smallest height and twice this width."""
    side = SMALLEST.get(name, 32)
    return networks.build(ModelConfig(backbone=name, weights="none", image_size=(side, 2 * side)), 3)


@pytest.mark.parametrize("name", ["MobileNetV2", "EfficientNetV2B0"])
def test_inputs_need_not_be_squares(name):
    classifier = build_wide(name)
    assert classifier.model.input_shape == (None, 32, 64, 3)
    assert classifier.base.output_shape[1:3] == (1, 2)
    assert classifier.model(np.zeros((1, 32, 64, 3), np.uint8)).shape == (1, 3)
    extractor, head = networks.split(classifier.model)
    assert extractor.output_shape[1] == head.input_shape[1]
    assert rules.last_stage(classifier.base)


@pytest.mark.slow
@pytest.mark.parametrize("name", KERAS_BACKBONES)
def test_no_backbone_needs_squares(name):
    height, width = build_wide(name).base.output_shape[1:3]
    assert (height >= 1, width > height) == (True, True)


@pytest.mark.slow
@pytest.mark.parametrize("name", KERAS_BACKBONES)
def test_default_size_is_that_of_the_imagenet_model(name):
    if name.startswith("MobileNetV3"):
        pytest.skip("takes any size; 224 by its documentation")
    model = getattr(keras.applications, name)(weights=None)
    assert model.input_shape[1:3] == (backbones.find(name).image_size,) * 2


def test_saved_model_loads_without_this_package(tmp_path):
    networks.build(ModelConfig(backbone="VGG16", weights="none", image_size=32), 3).model.save(tmp_path / "model.keras")
    code = "import keras, sys; keras.models.load_model('model.keras'); sys.exit('trainers' in sys.modules)"
    subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, check=True, timeout=120)


@pytest.mark.parametrize(
    ("classes", "shape", "activation"), [(2, (None, 1), "sigmoid"), (3, (None, 3), "softmax")], ids=["two", "three"]
)
def test_output_depends_on_the_number_of_classes(classes, shape, activation):
    model = networks.build(SMALL, classes).model
    assert model.output_shape == shape
    assert model.layers[-1].activation.__name__ == activation
    assert model.input.dtype == "uint8"


def test_scratch_reference_recipe_builds_the_reference_network():
    classifier = networks.build(recipes.scratch_reference().model, 2)
    layers = [*classifier.model.layers[:2], *classifier.base.layers[1:], *classifier.model.layers[3:]]
    assert [(layer.name, layer.output.shape[1:], layer.count_params()) for layer in layers] == [
        ("pixels", (150, 150, 3), 0),
        ("scaling", (150, 150, 3), 0),
        ("conv1", (148, 148, 32), 3 * 3 * 3 * 32 + 32),
        ("relu1", (148, 148, 32), 0),
        ("pool1", (74, 74, 32), 0),
        ("conv2", (72, 72, 64), 3 * 3 * 32 * 64 + 64),
        ("relu2", (72, 72, 64), 0),
        ("pool2", (36, 36, 64), 0),
        ("conv3", (34, 34, 128), 3 * 3 * 64 * 128 + 128),
        ("relu3", (34, 34, 128), 0),
        ("pool3", (17, 17, 128), 0),
        ("flatten", (17 * 17 * 128,), 0),
        ("dropout", (17 * 17 * 128,), 0),
        ("probability", (1,), 17 * 17 * 128 + 1),
    ]
    assert classifier.model.get_layer("dropout").rate == 0.5
    assert classifier.model.get_layer("scaling").scale == 1 / 255


def test_cnn_with_other_filters():
    config = ModelConfig(
        backbone="CNN",
        backbone_kwargs={"filters": (4, 8), "batch_norm": True},
        image_size=32,
        weights="none",
    )
    names = [layer.name for layer in networks.build(config, 2).base.layers if layer.weights]
    assert names == ["conv1", "conv1_bn", "conv2", "conv2_bn"]


@pytest.mark.parametrize(
    ("rule", "names"),
    [
        ("head", []),
        ("1", ["conv_pw_13"]),  # BatchNormalization is not counted.
        ("3", ["conv_pw_12", "conv_dw_13", "conv_pw_13"]),
        ("conv_dw_1$", ["conv_dw_1"]),
    ],
)
def test_layers_are_chosen_by_rules(rule, names):
    base = networks.build(ModelConfig(backbone="MobileNet", weights="none", image_size=32), 2).base
    assert [layer.name for layer in rules.chosen_layers(base, rule)] == names


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (
            "block9",
            "--unfreeze=block9: does not match a layer of mobilenet_1.00_32 that has weights. The last layers are ",
        ),
        ("0", "--unfreeze=0: mobilenet_1.00_32 has 27 layers with weights. --unfreeze must be a number from 1 to 27."),
        (
            "28",
            "--unfreeze=28: mobilenet_1.00_32 has 27 layers with weights. --unfreeze must be a number from 1 to 27.",
        ),
        ("_bn$", "--unfreeze=_bn$: does not match a layer of"),  # BatchNormalization stays frozen.
        ("pad", "--unfreeze=pad: does not match a layer of"),  # Layers with this name have no weights.
        ("(", "--unfreeze=(: is not a regular expression: missing ), unterminated subpattern"),
    ],
)
def test_rules_without_layers_are_reported(rule, message):
    base = networks.build(ModelConfig(backbone="MobileNet", weights="none", image_size=32), 2).base
    with pytest.raises(UserError) as error:
        rules.chosen_layers(base, rule)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(("pooling", "hidden"), [("average", 0), ("flatten", 16)])
def test_parts_of_a_split_model_give_the_outputs_of_the_whole(pooling, hidden):
    config = ModelConfig(backbone="MobileNet", weights="none", image_size=32, pooling=pooling, hidden=hidden)
    model = networks.build(config, 3).model
    extractor, head = networks.split(model)
    images = pixels(32)
    np.testing.assert_allclose(head(extractor(images)), model(images), rtol=1e-6)
    assert extractor.output_shape == (None, 1024)
    assert {id(w) for w in head.weights} | {id(w) for w in extractor.weights} == {id(w) for w in model.weights}


def test_finetune_reference_recipe_builds_the_reference_model():
    classifier = networks.build(recipes.finetune_reference(weights="none").model, 2)
    assert [(layer.name, layer.count_params()) for layer in classifier.model.layers if layer.name != "get_item"] == [
        ("pixels", 0),
        ("scaling", 0),
        ("vgg16", 14_714_688),
        ("flatten", 0),
        ("hidden", 4 * 4 * 512 * 256 + 256),
        ("dropout", 0),
        ("probability", 257),
    ]
    scaling, dropout = classifier.model.get_layer("scaling"), classifier.model.get_layer("dropout")
    assert (scaling.scale, scaling.offset, dropout.rate) == (1 / 255, 0.0, 0.6)
    assert classifier.model.input_shape == (None, 150, 150, 3)
    classifier.set_trainable("head")
    assert not classifier.base.trainable_weights
    classifier.set_trainable("last_stage")
    trained = [layer.name for layer in classifier.base.layers if layer.trainable_weights]
    assert trained == ["block5_conv1", "block5_conv2", "block5_conv3"]


@pytest.mark.parametrize(
    ("config", "first", "last", "count"),
    [
        (ModelConfig(backbone="VGG16"), "block5_conv1", "block5_conv3", 3),
        (ModelConfig(backbone="VGG19"), "block5_conv1", "block5_conv4", 4),
        (ModelConfig(backbone="MobileNet"), "conv_dw_12", "conv_pw_13_bn", 8),
        (ModelConfig(backbone="ResNet50"), "conv5_block1_1_conv", "conv5_block3_3_bn", 20),  # branches
        (ModelConfig(backbone="EfficientNetB0"), "block6a_dwconv", "top_bn", 40),  # squeeze-and-excite: no positions
        (
            ModelConfig(backbone="ConvNeXtTiny"),
            "convnext_tiny_downsampling_block_2",
            "layer_normalization",
            17,
        ),  # nested
    ],
    ids=lambda value: getattr(value, "backbone", None),
)
def test_last_stage(config, first, last, count):
    base = getattr(keras.applications, config.backbone)(weights=None, include_top=False, input_shape=(64, 64, 3))
    stage = [layer.name for layer in rules.last_stage(base)]
    assert (stage[0], stage[-1], len(stage)) == (first, last, count)


@pytest.mark.parametrize("rule", ["head", "last_stage", "all", "scratch", "2"])
@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        ModelConfig(backbone="MobileNetV3Small", backbone_kwargs={"minimalistic": True}, weights="none", image_size=32),
    ],
    ids=lambda config: config.backbone,
)
def test_phase_changes_only_the_weights_of_its_layers(config, rule):
    classifier = networks.build(config, 2)
    settle(classifier)
    classifier.set_trainable(rule)
    classifier.model.compile(optimizer=keras.optimizers.SGD(1.0), loss="binary_crossentropy", run_eagerly=True)
    before = {id(weight): weight.numpy() for weight in classifier.model.weights}
    for _ in range(2):
        classifier.model.train_on_batch(pixels(config.size, 8), np.arange(8) % 3 == 0)
    changed = {id(w) for w in classifier.model.weights if not np.array_equal(w, before[id(w)])}

    base = rules.chosen_layers(classifier.base, rule)
    trained = [layer for layer in base if rule == "scratch" or not isinstance(layer, keras.layers.BatchNormalization)]
    layers = [*trained, classifier.model.get_layer("probability")]
    assert changed == {id(weight) for layer in layers for weight in layer.weights}  # Weights include moving statistics.


@pytest.mark.slow
@pytest.mark.parametrize("name", KERAS_BACKBONES)
def test_last_stage_of_every_backbone_is_trained(name):
    """All other weights stay unchanged, and so do the moving statistics of the last stage."""
    config = ModelConfig(backbone=name, weights="none", image_size=SMALLEST.get(name, 32))
    test_phase_changes_only_the_weights_of_its_layers(config, "last_stage")


def test_frozen_layers_drop_nothing():
    classifier = networks.build(ModelConfig(backbone="EfficientNetB0", weights="none", image_size=32), 2)
    rates = {one.layer.name: one.strength for one in classifier.random_layers}
    assert len(rates) == 9

    def now() -> dict[str, float]:
        return {layer.name: layer.rate for layer in classifier.base.layers if layer.name in rates}

    classifier.set_trainable("head")
    assert set(now().values()) == {0.0}
    classifier.set_trainable("last_stage")
    active = {name for name, rate in now().items() if rate}
    assert active == {"block6b_drop", "block6c_drop", "block6d_drop"}
    classifier.set_trainable("all")
    assert now() == rates


@pytest.mark.parametrize("weights", ["imagenet", pytest.param("w.weights.h5", marks=pytest.mark.slow)])
def test_the_saved_model_of_efficientnet_is_the_trained_one(weights, tmp_path, monkeypatch):
    """Keras gives it a second scaling with ImageNet weights only, and copies the weights of Normalization."""
    monkeypatch.chdir(tmp_path)
    settings = {"include_top": False, "input_shape": (32, 32, 3)}
    trained = keras.applications.EfficientNetB0(weights=None, **settings)
    normalization = next(layer for layer in trained.layers if isinstance(layer, keras.layers.Normalization))
    normalization.set_weights([np.array([0.5, 0.4, 0.3]), np.array([0.05, 0.04, 0.06]), np.array(0)])
    normalization.finalize_state()
    save_fitted(trained, tmp_path / "w.weights.h5", lowest=0)
    files = importlib.import_module("keras.src.applications.efficientnet").file_utils
    monkeypatch.setattr(files, "get_file", lambda *given, **named: str(tmp_path / "w.weights.h5"))
    by_keras = keras.applications.EfficientNetB0(weights=weights, **settings)

    config = ModelConfig(backbone="EfficientNetB0", weights=weights, image_size=32)
    classifier = networks.build(config, 2)
    images = pixels(32)
    expected = by_keras(images.astype(np.float32)).numpy().mean((1, 2))
    assert np.ptp(expected, axis=0).max() > 0.01
    copy = networks.rebuild_float32(classifier, config, 2)
    copy.save(tmp_path / "model.keras")
    other = networks.build(ModelConfig(backbone="EfficientNetB0", weights="none", image_size=32), 2)
    assert inheritance.take(other, copy, same_classes=True) == ""
    for model in (classifier.model, copy, keras.models.load_model(tmp_path / "model.keras"), other.model):
        features = networks.split(model)[0](images).numpy()
        np.testing.assert_allclose(features, expected, atol=1e-4 * np.abs(expected).max())


def test_mixed_precision_scales_and_ends_in_float32():
    keras.config.set_dtype_policy("mixed_bfloat16")
    config = ModelConfig(backbone="EfficientNetV2B0", weights="none", image_size=32)
    classifier = networks.build(config, 2)
    scaling = [layer for layer in classifier.base.layers if "normalization" in layer.name or "rescaling" in layer.name]
    probe = keras.Model(classifier.base.input, scaling[1].output)
    images = pixels(32)
    exact = (images / 255.0 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(probe(networks.scale(images, "own")), exact, atol=1e-5)
    assert classifier.base.get_layer("top_conv").compute_dtype == "bfloat16"
    assert classifier.model.output.dtype == "float32"

    copy = networks.rebuild_float32(classifier, config, 2)
    assert keras.config.dtype_policy().name == "mixed_bfloat16"
    layers = [layer for layer in copy.layers + copy.layers[2].layers if layer.weights]
    assert {layer.compute_dtype for layer in layers} == {"float32"}
    np.testing.assert_allclose(copy(images), classifier.model(images), atol=0.02)


class TestWeights:
    """Tests of weights files: the right one is loaded, and all others are rejected."""

    @pytest.fixture
    def base(self):
        return keras.applications.MobileNet(alpha=0.25, weights=None, include_top=False, input_shape=(64, 64, 3))

    @pytest.mark.parametrize("name", ["new.weights.h5", "old.h5"])
    def test_both_formats_are_loaded(self, base, tmp_path, name):
        file = str(tmp_path / name)
        (base.save_weights if name.startswith("new") else base.save)(file)
        loaded = networks.build(ModelConfig(**{**vars(SMALL), "weights": file}), 2).base
        for weight, expected in zip(loaded.weights, base.weights, strict=True):
            np.testing.assert_array_equal(weight, expected)

    @pytest.mark.parametrize("name", ["new.weights.h5", "old.h5"])
    @pytest.mark.parametrize(
        ("other", "message"),
        [
            (
                {"alpha": 0.5, "include_top": False},
                "The file has 135 arrays, and the backbone has 135. Only in the file: (1, 1, 512, 512), ",
            ),
            (
                {"alpha": 0.25, "include_top": True},  # In the new format, Keras's own loader accepts this file.
                "The file has 137 arrays, and the backbone has 135. "
                "Only in the file: (1, 1, 256, 1000), (1000,). Only in the backbone: none. ",
            ),
        ],
        ids=["wider", "with top"],
    )
    def test_another_architecture_is_rejected(self, tmp_path, name, other, message):
        model = keras.applications.MobileNet(weights=None, input_shape=(64, 64, 3), **other)
        file = str(tmp_path / name)
        (model.save_weights if name.startswith("new") else model.save)(file)
        with pytest.raises(UserError) as error:
            networks.build(ModelConfig(**{**vars(SMALL), "weights": file}), 2)
        assert (
            f"--weights={file}: does not fit MobileNet(alpha=0.25). The file must contain the weights of this"
            f" backbone without the head (include_top=False). {message}"
        ) in str(error.value)
        assert str(error.value).endswith(
            "Pass a weights file of this backbone that was saved without the head, or set --backbone and"
            " --backbone_kwargs to the network from which this file was saved."
        )

    def test_same_arrays_in_other_layers_are_rejected(self, base, tmp_path):
        file = tmp_path / "turned.h5"
        base.save(file)
        with h5py.File(file, "a") as stored:
            names = stored["model_weights"].attrs["layer_names"]
            stored["model_weights"].attrs["layer_names"] = names[::-1]
        with pytest.raises(UserError, match=r"does not fit MobileNet\(alpha=0.25\): (Weight count|Shape) mismatch"):
            networks.build(ModelConfig(**{**vars(SMALL), "weights": str(file)}), 2)

    def test_other_files_are_rejected(self, tmp_path):
        file = tmp_path / "page.h5"
        file.write_text("<html>")
        for weights, message in {
            str(file): f"--weights={file}: is not a readable HDF5 file: ",
            "nowhere.h5": "--weights=nowhere.h5: does not exist.",
            "w.zip": "--weights=w.zip: must be imagenet, none, or the path of a .h5 or .weights.h5 file.",
        }.items():
            with pytest.raises(UserError) as error:
                networks.build(ModelConfig(**{**vars(SMALL), "weights": weights}), 2)
            assert str(error.value).startswith(message)

    def test_failed_download_is_reported_with_alternatives(self, monkeypatch):
        def get_file(name, url, **kwargs):
            raise Exception(f"URL fetch failure on {url}: None -- unreachable")  # As keras.utils.get_file does.

        monkeypatch.setattr("keras.src.applications.mobilenet.file_utils.get_file", get_file)
        config = ModelConfig(backbone="MobileNet", image_size=128)
        with pytest.raises(
            UserError, match="--weights=imagenet: the weights of MobileNet could not be downloaded"
        ) as error:
            networks.build(config, 2)
        assert "mobilenet_1_0_128_tf_no_top.h5: None -- unreachable." in str(error.value)
        assert "pass --weights=FILE" in str(error.value)


@pytest.mark.parametrize(
    ("config", "classes", "message"),
    [
        (SMALL, 1, "the dataset has 1 class. Training needs at least 2 classes."),
        (
            ModelConfig(backbone="VGG16", weights="none", image_size=20),
            2,
            "--image_size=20: Keras rejects this size for VGG16: Input size must be at least 32x32; ",
        ),
        (
            ModelConfig(backbone="Xception", weights="none", image_size=64),
            2,
            "--image_size=64: Keras rejects this size for Xception: Input size must be at least 71x71; ",
        ),
        (
            ModelConfig(backbone="VGG16", weights="none", image_size=(64, 20)),  # One side is too small.
            2,
            "--image_size=64x20: Keras rejects this size for VGG16: Input size must be at least 32x32; ",
        ),
        (
            ModelConfig(backbone="CNN", weights="none", image_size=(8, 64)),
            2,
            "--image_size=8x64: Keras rejects this size for CNN: ",
        ),
        (
            ModelConfig(backbone="MobileNet", backbone_kwargs={"beta": 1}, weights="none"),
            2,
            "--backbone_kwargs=beta=...: is not allowed for MobileNet. Allowed arguments: alpha, depth_multiplier,"
            " dropout.",
        ),
        (
            ModelConfig(backbone="VGG16", backbone_kwargs={"pooling": "avg"}, weights="none"),
            2,
            "--backbone_kwargs=pooling=...: is not allowed for VGG16. Allowed arguments: none.",
        ),
        (
            ModelConfig(backbone="MobileNet", backbone_kwargs={"alpha": 0.3}, weights="imagenet"),
            2,
            "--image_size=224: Keras rejects this size for MobileNet(alpha=0.3): If imagenet weights are being loaded, "
            "alpha can be one of",
        ),
    ],
    ids=[
        "one class",
        "small",
        "smaller than Xception takes",
        "small height",
        "small for convolutions",
        "unknown argument",
        "reserved argument",
        "bad value",
    ],
)
def test_unsuitable_settings_are_rejected(config, classes, message):
    with pytest.raises(UserError) as error:
        networks.build(config, classes)
    assert str(error.value).startswith(message)
