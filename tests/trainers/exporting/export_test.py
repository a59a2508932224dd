"""Tests of `python -m trainers.export`: an exported model gives the outputs of the Keras model."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import keras
import numpy as np
import pytest
import tensorflow as tf
from foreign_records import example, write
from image_sources import break_image, contents, converted, flip, image, run, tree

import trainers
from tfrecord_tools import dataset
from tfrecord_tools.adopt import AdoptConfig, adopt
from tfrecord_tools.decoding.reference import decode_pixels
from tfrecord_tools.errors import UserError
from trainers.exporting import export_model, writers
from trainers.exporting.export_model import ModelExportConfig, export
from trainers.models import model_file
from trainers.models.model_file import ModelInfo

SIZE, CROP = 24, 0.8
TWO, FIVE = ("cats", "dogs"), ("ants", "bees", "cats", "dogs", "élans")
IMAGES = [
    image("a", size=(40, 31)),
    image("b", size=(24, 24)),  # Exactly the input size.
    image("c", size=(9, 14)),  # Smaller than the input size.
    image("d", size=(400, 300)),  # Decoded at half scale.
    image("e", "PNG", size=(50, 61)),
    image("f", "GIF", size=(33, 30)),
    image("g", "BMP", size=(20, 30), mode="L"),
]
NEEDS = {"litert": "ai_edge_litert", "onnx": "tf2onnx"}


def needs(name: str) -> pytest.MarkDecorator:
    module = NEEDS[name]
    missing = importlib.util.find_spec(module) is None
    return pytest.mark.skipif(missing, reason=f"{module} is not installed (pip install 'tfrecord-tools[{name}]')")


def classifier(classes: int) -> keras.Model:
    """Make a network with random weights that gives different outputs for different images."""
    keras.utils.set_random_seed(classes)
    pixels = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 127.5, -1)(pixels)
    x = keras.layers.Normalization(mean=[0.1, 0.2, 0.3], variance=[0.9, 0.8, 0.7])(x)  # EfficientNet has this layer.
    x = keras.layers.Conv2D(32, 5, strides=2, activation="relu")(x)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dropout(0.5)(x)
    features = keras.layers.Dense(64, activation="relu")(x)
    head = keras.layers.Dense(1 if classes == 2 else classes, "sigmoid" if classes == 2 else "softmax")
    model = keras.Model(pixels, head(features))
    logits = keras.Model(pixels, features)(decoded(IMAGES)).numpy() @ head.kernel.numpy()
    scale = 2 / logits.std(0)
    head.kernel.assign(head.kernel * scale)
    head.bias.assign(-logits.mean(0) * scale)
    return model


def decoded(images: list[bytes]) -> np.ndarray:
    """Decode images one by one to u8[n h w 3]."""
    return np.stack([decode_pixels(tf.constant(data), SIZE, CROP).numpy() for data in images])


def saved(directory: Path, model: keras.Model, classes: tuple[str, ...], **info: Any) -> Path:
    directory.mkdir()
    path = directory / "model.keras"
    model_file.save(model, ModelInfo(classes=classes, image_size=SIZE, crop=CROP, **info), path)
    return directory


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the runs "two" and "five" and the dataset "out" of `IMAGES`."""
    workspace = tmp_path_factory.mktemp("workspace")
    saved(workspace / "two", classifier(2), TWO)
    saved(workspace / "five", classifier(5), FIVE)
    for number, data in enumerate(IMAGES):
        for split in ("train", "validation"):
            path = workspace / f"images/{split}/{TWO[number % 2]}/{number}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    converted(workspace / "images", workspace / "out")
    tree(workspace / "pets", {"cats": 20, "dogs": 20})
    return workspace


def with_records(workspace: Path, directory: Path, **settings: Any) -> ModelExportConfig:
    """Return settings that export the run of two classes and compare it on the dataset in `directory`."""
    run, tfrecords, out = str(workspace / "two"), str(directory / "out"), str(directory / "export")
    return ModelExportConfig(run=run, tfrecords=tfrecords, out=out, **settings)


def expected(run_directory: Path, images: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels u8[n h w 3] and the probabilities f32[n classes] of the run's model."""
    pixels = decoded(images)
    probabilities = keras.models.load_model(run_directory / "model.keras").predict(pixels, verbose=0)
    if probabilities.shape[1] == 1:
        probabilities = np.concatenate([1 - probabilities, probabilities], 1)
    assert np.ptp(probabilities, 0).min() > 0.2  # Otherwise, equal outputs would show nothing.
    return pixels, probabilities


def of_litert(directory: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Run a LiteRT file with the older API, which finds inputs and outputs by index."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(directory / "model.tflite"))
    interpreter.allocate_tensors()
    (input_,), (output,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert (input_["shape"].tolist(), input_["dtype"]) == ([1, SIZE, SIZE, 3], np.uint8)

    def predict(images: np.ndarray) -> np.ndarray:
        probabilities = []
        for pixels in images:
            interpreter.set_tensor(input_["index"], pixels[None])
            interpreter.invoke()
            probabilities.append(interpreter.get_tensor(output["index"])[0])
        return np.stack(probabilities)

    return predict


def of_onnx(directory: Path) -> Callable[[np.ndarray], np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(directory / "model.onnx")
    return lambda images: session.run(None, {"pixels": images})[0]


@pytest.mark.parametrize(("name", "classes"), [("two", TWO), ("five", FIVE)])
def test_saved_model_classifies_encoded_images_and_pixels(workspace: Path, name: str, classes: tuple[str, ...]) -> None:
    out = export(ModelExportConfig(run=str(workspace / name))).directory
    assert out == workspace / name / "export/saved_model"
    signatures = tf.saved_model.load(str(out)).signatures
    assert set(signatures) == {"serving_default", "pixels", "classes"}
    assert [text.decode() for text in signatures["classes"]()["classes"].numpy()] == list(classes)

    pixels, probabilities = expected(workspace / name, IMAGES)
    for count in (len(IMAGES), 1):  # Any batch size.
        from_bytes = signatures["serving_default"](image_bytes=tf.constant(IMAGES[:count]))
        from_pixels = signatures["pixels"](pixels=tf.constant(pixels[:count]))
        for answer in (from_bytes, from_pixels):
            np.testing.assert_allclose(answer["probabilities"], probabilities[:count], atol=1e-5)
            labels = probabilities[:count].argmax(1)
            np.testing.assert_array_equal(answer["label"], labels)
            assert answer["label"].dtype == tf.int64
            assert [text.decode() for text in answer["class"].numpy()] == [classes[label] for label in labels]


def test_saved_model_uses_the_threshold(workspace: Path, tmp_path: Path) -> None:
    _, probabilities = expected(workspace / "two", IMAGES)
    threshold = float(np.median(probabilities[:, 1]))  # Equal to the probability of one image.
    run_directory = saved(tmp_path / "run", classifier(2), TWO, threshold=threshold)
    for config in (
        ModelExportConfig(run=str(run_directory / "model.keras")),  # A model file instead of a run directory.
        ModelExportConfig(run=str(workspace / "two"), threshold=threshold, out=str(tmp_path / "given")),
    ):
        out = export(config).directory
        answer = tf.saved_model.load(str(out)).signatures["serving_default"](image_bytes=tf.constant(IMAGES))
        labels = answer["label"].numpy()
        np.testing.assert_array_equal(labels, answer["probabilities"].numpy()[:, 1] >= np.float32(threshold))
        assert set(labels.tolist()) == {0, 1}
        assert json.loads((out / "export.json").read_text())["threshold"] == threshold


@pytest.mark.parametrize(
    ("name", "settings", "load", "tolerance"),
    [
        pytest.param("two", {"format": "onnx"}, of_onnx, 1e-3, marks=needs("onnx")),
        pytest.param("five", {"format": "onnx"}, of_onnx, 1e-3, marks=needs("onnx")),
        pytest.param("two", {"format": "litert"}, of_litert, 1e-3, marks=needs("litert")),
        pytest.param("five", {"format": "litert"}, of_litert, 1e-3, marks=needs("litert")),
        pytest.param("five", {"format": "litert", "quantize": "float16"}, of_litert, 0.05, marks=needs("litert")),
        pytest.param("two", {"format": "litert", "quantize": "int8"}, of_litert, 0.3, marks=needs("litert")),
    ],
)
def test_all_formats_give_the_outputs_of_the_keras_model(
    workspace: Path,
    name: str,
    settings: dict[str, Any],
    load: Callable[[Path], Callable[[np.ndarray], np.ndarray]],
    tolerance: float,
) -> None:
    # A share of 3 % cannot be checked on seven images.
    tolerant: dict[str, Any] = {"tolerance": 0.5} if "quantize" in settings else {}
    config = ModelExportConfig(run=str(workspace / name), tfrecords=str(workspace / "out"), **(settings | tolerant))
    exported = export(config)
    pixels, probabilities = expected(workspace / name, IMAGES)
    answers = load(exported.directory)(pixels)
    assert answers.dtype == np.float32
    np.testing.assert_allclose(answers, probabilities, atol=tolerance)

    classes = {"two": TWO, "five": FIVE}[name]
    assert (exported.directory / "labels.txt").read_text(encoding="utf-8").splitlines() == list(classes)
    facts = json.loads((exported.directory / "export.json").read_text())
    assert facts["classes"] == list(classes)
    assert (facts["image_size"], facts["crop"], facts["format"]) == (SIZE, CROP, settings["format"])
    validation = dataset.open(workspace / "out").records("validation")
    assert facts["check"]["images"] == "records of validation"
    assert facts["check"]["count"] == len(validation)
    assert facts["check"]["difference"] == exported.check.difference <= tolerance
    assert facts["check"]["range"] > 0.2


@needs("litert")
def test_quantized_model_is_smaller_and_calibrated(workspace: Path, tmp_path: Path) -> None:
    def size(quantize: str) -> int:
        config = ModelExportConfig(
            run=str(workspace / "two"), format="litert", quantize=quantize, tfrecords=str(workspace / "out"), samples=4,
            tolerance=1.0, out=str(tmp_path / quantize),
        )  # fmt: skip
        assert export(config).check.count == 4
        return (tmp_path / quantize / "model.tflite").stat().st_size

    assert size("float16") < size("none")
    from ai_edge_litert.interpreter import Interpreter

    size("int8")
    details = Interpreter(str(tmp_path / "int8/model.tflite")).get_tensor_details()
    # Activations are int8, too.
    assert any(tensor["dtype"] == np.int8 and tensor["shape"].tolist()[:1] == [1] for tensor in details)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "torch"}, "--format=torch: must be one of saved_model, litert, onnx."),
        ({"quantize": "int4", "format": "litert"}, "--quantize=int4: must be one of none, float16, int8."),
        ({"quantize": "int8"}, "--quantize=int8 with --format=saved_model: only --format=litert can be quantized."),
        (
            {"quantize": "int8", "format": "litert"},
            "--quantize=int8: needs images for calibration, but --tfrecords is missing. Pass the dataset of the"
            " training as --tfrecords.",
        ),
        ({"samples": 0}, "--samples=0: must be at least 1."),
        ({"tolerance": -0.1}, "--tolerance=-0.1: must be from 0 to 1."),
        ({"tfrecords": "nowhere"}, "nowhere: does not exist."),
        ({"run": "nowhere"}, "--run=nowhere: does not exist."),
        ({"out": "taken"}, "--out=taken: exists already. Pass --overwrite to replace it, or another --out."),
        (
            {"out": "taken", "overwrite": True},  # A mistyped flag must not delete somebody's directory.
            "--out=taken: is not the directory of an export (it has no export.json), so --overwrite does not replace"
            " this directory. Pass another --out.",
        ),
        (
            {"out": "taken/file/out"},
            "--out=taken/file/out: cannot be written (taken/file: File exists). Correct the cause, or pass another",
        ),
    ],
)
def test_errors_leave_no_files(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/file").write_text("precious")
    with pytest.raises(UserError) as error:
        export(ModelExportConfig(**({"run": str(workspace / "two"), "out": "new"} | settings)))
    assert str(error.value).startswith(message)
    assert contents(tmp_path) == {"taken/file": b"precious"}
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("format", "module", "message"),
    [
        (
            "litert",
            "ai_edge_litert",
            "--format=litert: ai_edge_litert must be installed. Run pip install 'tfrecord-tools[litert]'.",
        ),
        (
            "onnx",
            "tf2onnx",
            "--format=onnx: tf2onnx must be installed. Run pip install 'tfrecord-tools[onnx]'.",
        ),
    ],
)
def test_missing_package_is_named(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, format: str, module: str, message: str
) -> None:
    if format == "onnx":
        pytest.importorskip("onnxruntime")
    monkeypatch.setitem(sys.modules, module, None)  # Python then refuses to import the module.
    with pytest.raises(UserError) as error:
        export(ModelExportConfig(run=str(workspace / "two"), format=format))
    assert str(error.value) == message


@needs("litert")
def test_export_with_too_large_difference_is_not_written(workspace: Path, tmp_path: Path) -> None:
    config: dict[str, Any] = {"run": str(workspace / "five"), "format": "litert", "out": str(tmp_path / "out")}
    before = export(ModelExportConfig(**config)).check
    old = contents(tmp_path)
    with pytest.raises(
        UserError,
        match=r"^litert-float16: the exported model differs too much from the Keras model, and nothing was written:"
        r" the probabilities of 32 generated images",
    ) as error:
        export(ModelExportConfig(**config, quantize="float16", tolerance=before.difference / 2, overwrite=True))
    assert str(error.value).endswith("another class. If this difference is acceptable, pass a larger --tolerance.")
    assert contents(tmp_path) == old  # The old export is complete, and there is no part of the new one.


@pytest.mark.parametrize(
    ("settings", "answers", "message"),
    [
        (
            {},
            [[0.1, 0.9], [0.6, 0.4]],
            r"at most 0\.1 \(1e-05 is allowed\)\. For comparison: between these images, .* 0\.00% of the images get"
            r" another class\. If this difference is acceptable,",
        ),
        ({"tolerance": 0.05}, [[0.1, 0.9], [0.6, 0.4]], r"at most 0\.1 \(0\.05 is allowed\)\."),
        # No comparison with NaN is true.
        ({}, [[0.0, 1.0], [0.6, np.nan]], r"differ from those of the Keras model by at most nan"),
        (
            {"format": "litert", "quantize": "int8", "tfrecords": "out"},
            [[0.0, 1.0], [0.4, 0.6]],
            r"written: 50\.00% of 2 images get the same class .* \(at least 97\.00% is required\)\. .* by up to 0\.2,"
            r" because int8 stores .* 256 steps\. .*\. Calibrate on more images \(--samples\), use"
            r" --quantize=float16, or pass a larger --tolerance\.",
        ),
    ],
)
def test_comparison(settings: dict[str, Any], answers: list[list[float]], message: str) -> None:
    config = ModelExportConfig(run="run", **settings)
    info = ModelInfo(classes=TWO, image_size=SIZE)
    right = np.array([[0.0, 1.0], [0.6, 0.4]])
    assert export_model._compare(config, info, "images", right, [right]).difference == 0
    with pytest.raises(UserError, match=message):
        export_model._compare(config, info, "images", right, [right, np.array(answers)])  # The worst signature counts.


@pytest.mark.slow
def test_export_is_replaced(workspace: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(ModelExportConfig(run=str(workspace / "two"), out=str(out)))
    (tmp_path / "out.tmp").mkdir()
    (tmp_path / "out.tmp/mine").write_text("precious")  # Files of others must stay.
    export(ModelExportConfig(run=str(workspace / "five"), out=str(out), overwrite=True))
    assert (out / "labels.txt").read_text(encoding="utf-8").splitlines() == list(FIVE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.tmp"]
    assert (tmp_path / "out.tmp/mine").read_text() == "precious"
    assert out.stat().st_mode == (tmp_path / "out.tmp").stat().st_mode  # Other users may read it.


@pytest.mark.slow
def test_first_of_two_simultaneous_exports_stays(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ModelExportConfig(run=str(workspace / "two"), out=str(tmp_path / "out"))
    original = export_model._write

    def overtaken(*arguments: Any) -> export_model.Check:
        monkeypatch.setattr(export_model, "_write", original)
        export(dataclasses.replace(config, run=str(workspace / "five")))
        return original(*arguments)

    monkeypatch.setattr(export_model, "_write", overtaken)
    with pytest.raises(UserError, match=r"--out=.*/out: exists already\. Pass --overwrite to replace it"):
        export(config)
    assert (tmp_path / "out/labels.txt").read_text(encoding="utf-8").splitlines() == list(FIVE)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_comparison_is_with_the_model_as_loaded(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error in the layers that the export adds to the model is detected, too."""

    def swapped(model: keras.Model, info: ModelInfo) -> keras.Model:
        pixels = keras.Input((SIZE, SIZE, 3), dtype="uint8", name="pixels")
        first = model(pixels)
        return keras.Model(pixels, {"probabilities": keras.layers.Concatenate()([first, 1 - first])})

    monkeypatch.setattr(writers, "with_names", swapped)
    with pytest.raises(
        UserError, match=r"^saved_model: .* differs too much from the Keras model, and nothing was written"
    ):
        export(ModelExportConfig(run=str(workspace / "two"), out=str(tmp_path / "made/for/it")))
    assert list(tmp_path.iterdir()) == []  # The directories made for the export are removed.


@pytest.mark.parametrize(
    "settings",
    [{}, pytest.param({"format": "litert", "quantize": "int8", "tolerance": 1.0}, marks=needs("litert"))],
)
def test_adopted_records_are_read_with_their_own_feature_names(
    workspace: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    records = [example({"jpeg": data, "class": number % 2}) for number, data in enumerate(IMAGES)]
    write(tmp_path / "theirs/train-00000-of-00001", records)
    adopt(AdoptConfig(records=str(tmp_path / "theirs"), out=str(tmp_path / "out"), workers=1), lambda line: None)
    check = export(with_records(workspace, tmp_path, **settings)).check
    assert (check.images, check.count) == ("records of train", len(IMAGES))


@needs("litert")
def test_model_that_cannot_be_converted(tmp_path: Path) -> None:
    pixels = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 300)(pixels))
    x = keras.ops.erfinv(x)  # LiteRT has no such operation.
    run_directory = saved(tmp_path / "run", keras.Model(pixels, keras.layers.Dense(1, "sigmoid")(x)), TWO)
    with pytest.raises(UserError, match=r"^--format=litert: cannot convert this model: .*Pass another"):
        export(ModelExportConfig(run=str(run_directory), format="litert"))
    assert [path.name for path in run_directory.rglob("*") if path.is_file()] == ["model.keras"]


def test_records_of_raw_pixels(workspace: Path, tmp_path: Path) -> None:
    converted(workspace / "pets", tmp_path / "out", store="raw", resize=8, resize_mode="exact")
    check = export(with_records(workspace, tmp_path, samples=5)).check
    assert (check.images, check.count) == ("records of validation", 5)
    records = dataset.open(tmp_path / "out").records("validation")
    pixels = [decode_pixels(tf.constant(records[n]["image"]), SIZE, CROP, records.raw_size).numpy() for n in range(5)]
    signature = tf.saved_model.load(str(tmp_path / "export")).signatures["pixels"]
    answers = signature(pixels=tf.constant(np.stack(pixels)))["probabilities"].numpy()
    assert check.range == pytest.approx(np.ptp(answers, 0).max(), abs=1e-5)  # The comparison used these records.


def test_corrupt_records_and_no_validation_split(workspace: Path, tmp_path: Path) -> None:
    converted(workspace / "pets", tmp_path / "out", validation_fraction=0.0)
    (shard,) = (tmp_path / "out").glob("*.tfrecord-*")
    flip(shard, 40)
    break_image(tmp_path / "out", 3)
    check = export(with_records(workspace, tmp_path)).check
    assert (check.images, check.count) == ("records of train", 38)


def test_python_takes_the_same_values_as_the_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[ModelExportConfig] = []
    monkeypatch.setattr(export_model, "export", seen.append)
    texts: dict[str, Any] = {"custom_objects": "layers.py", "samples": "7", "threshold": "0.5", "tfrecords": "out"}
    trainers.export(run="~/model.keras", **texts)
    path = str(Path.home() / "model.keras")
    expected = ModelExportConfig(run=path, custom_objects=["layers.py"], samples=7, threshold=0.5, tfrecords="out")
    assert seen == [expected]
    with pytest.raises(
        UserError, match=r"^--samples=7: only --tfrecords uses it\. Add --tfrecords, or remove --samples"
    ):
        trainers.export(run="model.keras", samples=7)
    with pytest.raises(UserError, match=r"^--samples=1\.5: must be a whole number\.$"):
        trainers.export(run="model.keras", samples=cast(int, 1.5))


def test_command(workspace: Path, tmp_path: Path) -> None:
    images = dict(ModelInfo(classes=TWO, image_size=SIZE).images) | {"resize": 48}
    resized = saved(tmp_path / "run", classifier(2), TWO, images=images)
    done = run("trainers.export", f"--run={resized}", "--out=new", f"--tfrecords={workspace / 'out'}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "export: new/ with assets, export.json, fingerprint.pb, labels.txt, saved_model.pb, variables"
    assert lines[1].startswith(
        "check: the probabilities of 7 records of validation differ from those of the Keras model by at most "
    )
    assert lines[2:] == [
        "note: the training images were prepared with --resize=48. Prepare new images in the same way: with"
        " tfrecord_tools.images.prepare, which trainers.predict also uses"
    ]
    for flags, message in [
        (
            (),
            "error: --run is missing. Pass the run directory of a trainer or the .keras file of the model to export.\n",
        ),
        ((f"--run={resized}", "--out=new"), "error: --out=new: exists already."),
        (("more",), "error: unexpected argument 'more'"),
    ]:
        done = run("trainers.export", *flags, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(message)  # TensorFlow was not imported: it would print other lines first.
