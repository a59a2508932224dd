"""Tests of --engine: the outputs of OpenVINO, its kept features, resumed runs and errors."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny_backbone
from image_sources import converted, with_splits

import trainers
from tfrecord_tools.errors import UserError
from trainers.models import engines, networks
from trainers.recipes import ModelConfig

HAS_OPENVINO = importlib.util.find_spec("openvino") is not None and not tf.config.list_physical_devices("GPU")
needs_openvino = pytest.mark.skipif(not HAS_OPENVINO, reason="needs OpenVINO and a machine without a GPU")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = tmp_path_factory.mktemp("engines")
    tiny_backbone.save_weights(workspace / "w.weights.h5")
    converted(with_splits(workspace / "src", train=16, validation=6), workspace / "out")
    return workspace


def small_network() -> keras.Model:
    keras.utils.set_random_seed(0)
    return networks.build(ModelConfig(**tiny_backbone.MODEL, weights="none"), 3).model


def pixels(count: int, size: int = 32) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, size, size, 3), np.uint8)


def train(workspace: Path, place: Path, engine: str, **more: Any) -> trainers.Run:
    return trainers.features(
        tfrecords=workspace / "out",
        run=place / "run",
        features=place / "kept",
        backbone="CNN",
        backbone_kwargs=tiny_backbone.MODEL["backbone_kwargs"],
        image_size=32,
        weights=workspace / "w.weights.h5",
        epochs=1,
        engine=engine,
        **more,
    )


def keys(place: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text())["key"] for path in sorted(place.glob("kept/*/about.json"))]


@needs_openvino
@pytest.mark.parametrize("count", [1, 4, 7])
def test_openvino_agrees_with_tensorflow(count):
    model, images = small_network(), pixels(count)

    outputs = engines.compiled(model, "openvino")(images)

    assert (outputs.dtype, outputs.shape) == (np.float32, (count, 3))
    np.testing.assert_allclose(outputs, engines.compiled(model, "auto")(images), atol=1e-5)
    assert np.ptp(outputs, axis=0).max() > 0 or count == 1


@needs_openvino
def test_the_batch_and_the_thread_do_not_change_the_bits():
    compute, images = engines.compiled(small_network(), "openvino"), pixels(24)
    whole = compute(images)
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(compute, np.split(images, 8)))
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@needs_openvino
@pytest.mark.slow
@pytest.mark.parametrize("name", ["MobileNetV2", "EfficientNetB0"])
def test_networks_of_keras_agree(name):
    keras.utils.set_random_seed(0)
    model = networks.split(networks.build(ModelConfig(backbone=name, image_size=64, weights="none"), 2).model)[0]
    expected = np.asarray(engines.compiled(model, "tensorflow")(pixels(5, 64)))
    np.testing.assert_allclose(
        engines.compiled(model, "openvino")(pixels(5, 64)), expected, atol=1e-4 * np.abs(expected).max()
    )


@needs_openvino
def test_other_outputs_are_an_error(monkeypatch):
    monkeypatch.setattr(engines, "TOLERANCE", -1.0)
    with pytest.raises(UserError) as caught:
        engines.compiled(small_network(), "openvino", source="--run=r")(pixels(1))
    text = str(caught.value)
    assert text.startswith(
        "--engine=openvino: OpenVINO computes other outputs than TensorFlow for --run=r: the difference is "
    )
    assert re.search(r", and at most -\S+ is allowed\. Pass --engine=tensorflow\.$", text)


@needs_openvino
def test_a_network_with_python_code_is_an_error():
    class Python(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return tf.ensure_shape(tf.numpy_function(lambda values: values, [x], tf.float32), x.shape)

    inputs = keras.Input((8, 8, 3), dtype="uint8")
    x = Python()(keras.layers.Rescaling(1 / 255)(inputs))
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    with pytest.raises(UserError) as caught:
        engines.compiled(model, "openvino", source="--backbone=mine.py:net")(pixels(1, 8))
    assert str(caught.value).startswith("--engine=openvino: OpenVINO cannot convert --backbone=mine.py:net: ")
    assert str(caught.value).endswith(". Pass --engine=tensorflow.")


@needs_openvino
def test_features_and_predict_use_the_engine(workspace, tmp_path):
    run = train(workspace, tmp_path, "openvino")

    assert run.settings["flags"]["engine"] == "openvino"
    assert run.settings["environment"]["openvino"] == engines.version()
    assert all(key["engine"].startswith("openvino ") for key in keys(tmp_path))
    lines: list[str] = []
    train(workspace, tmp_path, "openvino", log=lines.append)
    assert lines[0].startswith(f"run: {tmp_path / 'run'} is finished already.")
    files = sorted((workspace / "src").rglob("*.jpg"))[:5]
    plain, fast = (
        trainers.predict(run=tmp_path / "run", images=files, engine=engine) for engine in ("auto", "openvino")
    )
    np.testing.assert_allclose(fast.probabilities, plain.probabilities, atol=1e-5)


@needs_openvino
def test_a_run_continues_only_with_its_engine(workspace, tmp_path):
    train(workspace, tmp_path, "openvino")
    (tmp_path / "run/metrics.json").unlink()
    with pytest.raises(UserError, match="engine"):
        train(workspace, tmp_path, "tensorflow")
    train(workspace, tmp_path, "openvino")
    assert (tmp_path / "run/metrics.json").exists()


def test_tensorflow_keeps_settings_and_features(workspace, tmp_path):
    run = train(workspace, tmp_path, "auto")
    assert "engine" not in run.settings["flags"]
    assert len(keys(tmp_path)) == 2
    assert not any("engine" in key for key in keys(tmp_path))
    lines: list[str] = []
    shutil.rmtree(tmp_path / "run")
    train(workspace, tmp_path, "tensorflow", log=lines.append)
    assert not any("computed" in line for line in lines)


@pytest.mark.parametrize(
    "start",
    [
        lambda place: trainers.features(tfrecords=place / "out", engine="openvino"),
        lambda place: trainers.audit(tfrecords=place / "out", engine="openvino"),
        lambda place: trainers.predict(run=place, images=[place], engine="openvino"),
    ],
    ids=["features", "audit", "predict"],
)
def test_a_missing_package_is_named(start, workspace, monkeypatch):
    monkeypatch.setattr(engines, "version", lambda: "")
    with pytest.raises(UserError) as caught:
        start(workspace)
    assert str(caught.value) == (
        "--engine=openvino: OpenVINO is not installed. Run pip install 'tfrecord-tools[openvino]', or remove --engine."
    )


def test_an_unknown_engine_is_named():
    with pytest.raises(UserError, match=r"^--engine=fast: must be one of auto, tensorflow, openvino\."):
        engines.check("fast")


def test_a_gpu_is_an_error(monkeypatch):
    monkeypatch.setattr(engines, "check", lambda engine: None)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["GPU"])
    with pytest.raises(UserError) as caught:
        engines.compiled(small_network(), "openvino")
    assert str(caught.value) == (
        "--engine=openvino: computes on CPUs only, but this machine has a GPU. Remove --engine."
    )
