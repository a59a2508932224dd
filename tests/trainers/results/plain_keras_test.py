"""The printed programs of plain Keras are run, without this package."""

from __future__ import annotations

import dataclasses
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

from trainers.models import model_file
from trainers.models.model_file import ModelInfo
from trainers.results import image_files, plain_keras, predictions, views

SIZE = 16
MANY = tuple(f"class {number}, with a long name" for number in range(9))
# Class names, and fields of `ModelInfo`.
CASES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "two": (("it's a cat", "dögs"), {"crop": 0.875}),
    "two, stretched": (("cats", "dogs"), {"crop": 0.0}),
    "two with long names": (("c" * 60, "d" * 60), {"crop": 0.875}),
    "two, with a threshold": (("cats", "dogs"), {"crop": 0.5, "threshold": 0.999}),
    "three": (("ants", "bees", "cats"), {"crop": 1.0}),
    "nine": (MANY, {"crop": 0.875}),
    "adopted": (("cats", "dogs"), {"crop": 0.875, "images": {}}),
    "wide": (("cats", "dogs"), {"crop": 0.875, "image_size": (SIZE, 2 * SIZE)}),
    "padded": (("cats", "dogs"), {"fit": "pad"}),
    "custom": (("cats", "dogs"), {"crop": 0.875}),
}
LAYERS = """
import keras


@keras.saving.register_keras_serializable("plain_keras_test")
class Same(keras.layers.Layer):
    def call(self, x):
        return x
"""
# Runs each program in its directory, and saves what it has read.
RUNNER = """
import os, sys
for directory in sys.argv[1:]:
    os.chdir(directory)
    names = {}
    exec(open("program.py", encoding="utf-8").read(), names)
    import numpy
    numpy.save("photo.npy", numpy.asarray(names["photo"]))
assert not {"tfrecord_tools", "trainers"} & set(sys.modules), "the package was imported"
"""


def model(classes: int, width: int, last: Any = lambda x: x) -> keras.Model:
    """Return a model that asks whether the upper half is redder than the lower half, which turns change."""
    pixels = keras.Input((SIZE, width, 3), dtype="uint8")
    count = 1 if classes == 2 else classes
    dense = keras.layers.Dense(count, activation="sigmoid" if count == 1 else "softmax")
    network = keras.Model(pixels, last(dense(keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(pixels)))))
    kernel = np.zeros((SIZE, width, 3, count), np.float32)
    kernel[: SIZE // 2, :, 0, -1], kernel[SIZE // 2 :, :, 0, -1] = 0.1, -0.1
    bias = np.linspace(-1, 0, count, dtype=np.float32) - 3 * (np.arange(count) == count - 1)
    dense.set_weights([kernel.reshape(-1, count), bias])
    return network


def photo(path: Path, upper: str, lower: str, orientation: int) -> None:
    """Write a photograph with a gray frame; it is upright after a turn by its EXIF orientation."""
    pixels = np.full((120, 160, 3), 128, np.uint8)
    pixels[15:60, 25:135], pixels[60:105, 25:135] = (
        [200, 30, 30] if color == "red" else [30, 30, 30] for color in (upper, lower)
    )
    turns = {1: lambda image: image, 6: lambda image: image.transpose(Image.Transpose.ROTATE_90)}
    exif = Image.Exif()
    exif[0x0112] = orientation
    turns[orientation](Image.fromarray(pixels)).save(path, quality=95, exif=exif)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a directory for each case: model, photograph, program and printed lines."""
    place = tmp_path_factory.mktemp("programs")
    for name, (classes, fields) in CASES.items():
        directory = place / name
        directory.mkdir()
        info = ModelInfo(classes=classes, **{"image_size": SIZE} | fields)
        codes, last = [], lambda x: x
        if name == "custom":
            (directory / "layers.py").write_text(LAYERS)
            codes, last = ["layers.py"], runpy.run_path(str(directory / "layers.py"))["Same"]()
        model_file.save(model(len(classes), info.geometry.width, last), info, directory / "model.keras", codes)
        photo(directory / "photo.jpg", "red", "black", orientation=1 if name == "adopted" else 6)
        lines = plain_keras.block(Path("model.keras"), info, codes)
        (directory / "program.py").write_text("\n".join(line[2:] for line in lines[1:]), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, *(str(place / name) for name in CASES)],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONIOENCODING": "utf-8"},
        capture_output=True, text=True, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (place / "out.txt").write_text(done.stdout, encoding="utf-8")
    return place


@pytest.mark.parametrize("name", CASES)
def test_the_program_sees_and_says_the_same_as_predict(name: str, programs: Path) -> None:
    printed = (programs / "out.txt").read_text(encoding="utf-8").splitlines()[list(CASES).index(name)]
    network, info = model_file.load(programs / name / "model.keras")
    pixels = image_files.decode_file((programs / name / "photo.jpg").read_bytes(), info)
    assert isinstance(pixels, np.ndarray)
    probabilities = views.both_classes(network(pixels[None]).numpy())
    assert printed == info.classes[int(predictions.decide(probabilities, info.threshold)[0])]
    if name not in ("padded", "two, with a threshold"):
        assert printed == info.classes[-1]  # Pictures that are not turned upright get another class.
    difference = np.abs(np.load(programs / name / "photo.npy").astype(int) - pixels)
    assert difference.mean() < 2  # JPEGs are decoded at a smaller scale by `predict`.


def test_lines_are_short(programs: Path) -> None:
    for name in CASES:
        lines = (programs / name / "program.py").read_text(encoding="utf-8").splitlines()
        assert 4 <= len(lines) <= 6
        assert max(map(len, lines)) <= 98


def test_a_note_names_what_predict_does_beyond_the_program() -> None:
    images = dict(ModelInfo(classes=("a", "b"), image_size=SIZE).images) | {"resize": 48}
    info = ModelInfo(classes=("a", "b"), image_size=SIZE, images=images)
    assert plain_keras.block(Path("model.keras"), info)[0] == (
        "to classify a picture with Keras alone (trainers.predict also applies --resize=48 of the dataset):"
    )
    assert plain_keras.block(Path("m.keras"), dataclasses.replace(info, images={}))[1] == "  import keras"


def test_the_file_says_what_the_output_means(programs: Path) -> None:
    import zipfile

    for name, meaning in {
        "two": "probability of dögs (class 1); 1 - it is the probability of it's a cat (class 0)",
        "three": "probabilities of the 3 classes, in the order of the classes; their sum is 1",
    }.items():
        with zipfile.ZipFile(programs / name / "model.keras") as archive:
            metadata = json.loads(archive.read("metadata.json"))
        assert metadata["outputs"] == model_file.read_info(programs / name / "model.keras").outputs == meaning
        assert "outputs" not in metadata["classifier"]  # Earlier releases refuse keys that they do not know.
