"""Tests of model files: Keras reads them, and their content is not trusted."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from image_sources import converted, flip, with_splits

from tfrecord_tools import dataset
from tfrecord_tools.decoding.geometry import Geometry
from tfrecord_tools.errors import UserError
from tfrecord_tools.images.preparation import ImageConfig
from trainers.models import model_file
from trainers.models.model_file import ModelInfo

INFO = ModelInfo(classes=("cats", "dogs"), image_size=8, crop=0.875, trainer="finetune", dataset_digest="12ab")


def small_model(
    classes: int = 2, layer: keras.Layer | None = None, shape: tuple[int, int, int] = (8, 8, 3)
) -> keras.Model:
    pixels = keras.Input(shape, dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(pixels)
    x = keras.layers.Conv2D(4, 3)(x)
    if layer:
        x = layer(x)
    x = keras.layers.Flatten()(x)
    return keras.Model(pixels, keras.layers.Dense(1 if classes == 2 else classes, activation="sigmoid")(x))


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "model.keras"
    keras.utils.set_random_seed(0)
    model_file.save(small_model(), INFO, path)
    return path


def changed(saved: Path, path: Path, change: Callable[[dict[str, bytes]], Mapping[str, bytes]]) -> Path:
    """Write the archive with changed members."""
    with zipfile.ZipFile(saved) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in change(members).items():
            archive.writestr(name, data)
    return path


def test_saved_model_is_loaded_and_no_other_file_is_left(saved):
    model, info = model_file.load(saved)
    assert info == INFO
    assert info.versions["keras"] == keras.__version__
    assert [path.name for path in saved.parent.iterdir()] == ["model.keras"]
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
    by_keras = keras.models.load_model(saved)  # Keras reads it without this package.
    np.testing.assert_array_equal(model.predict(images, verbose=0), by_keras.predict(images, verbose=0))


def description(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        found: dict[str, Any] = json.loads(archive.read("metadata.json"))["classifier"]
    return found


def test_squares_are_written_as_before_so_that_older_versions_read_them(saved):
    written = description(saved)
    assert (written["format"], written["image_size"], written["crop"]) == (1, 8, 0.875)
    assert written.keys() == {field.name for field in dataclasses.fields(ModelInfo)} - {"fit"} | {"format"}


@pytest.mark.parametrize(
    ("image_size", "crop", "fit", "written"),
    [
        ((8, 12), 0.5, None, {"format": 2, "image_size": [8, 12], "crop": 0.5}),
        ((8, 12), 0.0, None, {"format": 2, "image_size": [8, 12], "crop": 0.0}),
        (8, 0.0, "pad", {"format": 2, "image_size": 8, "crop": 0.0, "fit": "pad"}),
        ((12, 8), 0.0, "pad", {"format": 2, "image_size": [12, 8], "crop": 0.0, "fit": "pad"}),
        (8, 0.0, "stretch", {"format": 1, "image_size": 8, "crop": 0.0}),  # Older versions can read it.
        (8, 0.0, "crop", {"format": 1, "image_size": 8, "crop": 1.0}),
    ],
)
def test_every_geometry_is_kept(image_size, crop, fit, written, tmp_path):
    info = ModelInfo(classes=("a", "b"), image_size=image_size, crop=crop, fit=fit)
    path = tmp_path / "model.keras"
    model_file.save(small_model(shape=info.geometry.shape), info, path)
    found = description(path)
    assert {name: found[name] for name in written} == written
    assert ("fit" in found) == ("fit" in written)
    model, again = model_file.load(path)
    assert again.geometry == info.geometry
    assert model.input_shape == (None, *info.geometry.shape)


def test_save_replaces_the_file_completely_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "model.keras"
    path.write_bytes(b"old")

    def broken(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model_file.shutil, "copyfileobj", broken)
    with pytest.raises(OSError, match="No space"):
        model_file.save(small_model(), INFO, path)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("model.keras", b"old")]


def test_save_keeps_all_other_files(tmp_path):
    (tmp_path / "unfinished.keras").write_bytes(b"a model of the user")
    model_file.save(small_model(), INFO, tmp_path / "model.keras")
    assert (tmp_path / "unfinished.keras").read_bytes() == b"a model of the user"
    assert {path.name for path in tmp_path.iterdir()} == {"model.keras", "unfinished.keras"}


def test_description_has_the_preparation_of_the_images(tmp_path):
    settings: dict[str, Any] = {"resize": 16, "resize_mode": "exact", "store": "raw", "upscale": True}
    out = tmp_path / "out"
    converted(with_splits(tmp_path / "pets"), out, **settings)
    data = dataset.open(out)
    info = model_file.describe(data, image_size=8, crop=0.5, trainer="scratch")
    assert (info.classes, info.dataset_name, info.dataset_digest) == (("cats", "dogs"), "pets", data.digest)
    assert info.image_config() == ImageConfig(**settings)
    assert info.raw_size == data.raw_size == 16
    wide = model_file.describe(data, image_size=Geometry.of((8, 12), fit="pad"), trainer="scratch")
    assert (wide.image_size, wide.crop, wide.fit) == ((8, 12), 0.0, "pad")
    assert INFO.image_config() == ImageConfig()
    assert INFO.raw_size is None


def without(name: str) -> Callable[[dict[str, bytes]], Mapping[str, bytes]]:
    return lambda members: {key: data for key, data in members.items() if key != name}


def with_info(**values: object) -> Callable[[dict[str, bytes]], Mapping[str, bytes]]:
    def change(members: dict[str, bytes]) -> Mapping[str, bytes]:
        info = json.loads(members["metadata.json"])["classifier"]
        return members | {"metadata.json": json.dumps({"classifier": {**info, **values}}).encode()}

    return change


def with_config(old: str, new: str) -> Callable[[dict[str, bytes]], Mapping[str, bytes]]:
    def change(members: dict[str, bytes]) -> Mapping[str, bytes]:
        config = members["config.json"].decode()
        assert old in config
        return members | {"config.json": config.replace(old, new).encode()}

    return change


def with_metadata(data: bytes) -> Callable[[dict[str, bytes]], Mapping[str, bytes]]:
    return lambda members: members | {"metadata.json": data}


def with_layer(layer: keras.Layer) -> Callable[[dict[str, bytes]], Mapping[str, bytes]]:
    config = json.dumps(keras.saving.serialize_keras_object(layer)).encode()
    return lambda members: members | {"config.json": config}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("config.json"), "this file has no config.json. Replace this file by an undamaged copy"),
        (without("metadata.json"), "this file has no metadata.json. Replace this file by an undamaged copy"),
        (without("model.weights.h5"), "this file has no model.weights.h5. Replace this file by an undamaged copy"),
        (
            with_metadata(b"{}"),
            "the class names and image settings are missing in the metadata.json of this file",
        ),  # As Keras writes it.
        (with_metadata(b"{"), "metadata.json in this file is damaged: "),
        (with_metadata(b"3"), "metadata.json in this file is damaged: "),
        (
            with_metadata(b'{"classifier": []}'),
            "metadata.json in this file is damaged: its classifier is not a JSON object",
        ),
        (with_metadata(b" " * ((1 << 24) + 1)), "metadata.json in this file is larger than 16,777,216 bytes."),
        # This text would clear the terminal.
        (with_info(classes=["a", "b\x1b[2J"]), r"'b\x1b[2J' is not a line of printable text"),
        (with_info(classes=["a", "b\n"]), r"'b\n' is not a line of printable text"),  # Two lines in labels.txt.
        (with_info(classes=["a", "b\udcff"]), r"'b\udcff' is not a line of printable text"),  # Not valid in UTF-8.
        (with_info(trainer=["a"]), "['a'] is not a line of printable text"),
        (with_info(versions=["a"]), "versions are ['a'], but must be a JSON object"),
        (with_info(versions={"a": 1}), "1 is not a line of printable text"),
        (with_info(format=3), "its format is not known. Perhaps a newer version"),
        (with_info(classes=["a"]), "classes are ['a'], but must be two or more distinct names"),
        (with_info(classes=["a", "a"]), "classes are ['a', 'a'], but must be two"),
        (with_info(classes=[1, 2]), "classes are [1, 2], but must be two"),
        (with_info(classes=None), "metadata.json in this file is damaged: "),
        (with_info(image_size="8"), "image_size is '8', but must be one or two whole numbers"),
        (with_info(image_size=[8, "8"]), "image_size is (8, '8'), but must be one or two whole numbers of at least 1"),
        (
            with_info(image_size=[8, 8, 3]),
            "image_size is (8, 8, 3), but must be one or two whole numbers of at least 1",
        ),
        (with_info(image_size=[]), "image_size is (), but must be one or two whole numbers of at least 1"),
        (with_info(image_size=[8, 9]), "describes the shapes (None, 8, 9, 3) -> (None, 1)"),
        (with_info(fit="fill"), "geometry: fit=fill: must be one of crop, pad, stretch."),
        (with_info(fit="pad"), "geometry: crop=0.875 with fit=pad: only fit=crop cuts a part out of the image."),
        (with_info(crop=3), "crop is 3, but must be from 0 to 1"),
        (with_info(threshold="high"), "metadata.json in this file is damaged: "),
        (with_info(images={"quality": 1000}), "images: --quality=1000"),
        (with_info(images={"other": 1}), "metadata.json in this file is damaged: "),
        (with_info(other=1), "metadata.json in this file is damaged: "),
        # Malicious changes of Keras's members:
        (with_config('"Conv2D"', '"Lambda"'), "Keras cannot load this model: "),
        (
            with_config('"keras.layers", "class_name": "Conv2D"', '"os", "class_name": "system"'),
            "Keras cannot load this model: ",
        ),
        (lambda members: members | {"config.json": b"{}"}, "Keras cannot load this model: "),
        (with_layer(keras.layers.Dense(2)), "Keras cannot load this model: the file has a Dense, not a model"),
        (with_layer(keras.Sequential([keras.layers.Dense(2)])), ": "),  # A model without shapes: any error is right.
        (lambda members: members | {"model.weights.h5": b"\x89HDF\r\n\x1a\n"}, "Keras cannot load this model: "),
        # Members of two different models:
        (
            with_info(classes=["a", "b", "c"]),
            "the model has the shapes (None, 8, 8, 3) -> (None, 1), but metadata.json in this file describes the"
            " shapes",
        ),
        (with_info(image_size=9), "describes the shapes (None, 9, 9, 3) -> (None, 1)"),
    ],
)
def test_changed_contents_are_rejected(change, message, saved, tmp_path):
    path = changed(saved, tmp_path / "other.keras", change)
    with pytest.raises(UserError) as error:
        model_file.load(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)


@pytest.mark.parametrize("share", [0.001, 0.3, 0.6, 0.9, 0.999])
def test_flipped_byte_or_cut_is_detected(share, saved, tmp_path):
    data = saved.read_bytes()
    position = int(share * len(data))
    cut, flipped = tmp_path / "cut.keras", tmp_path / "flipped.keras"
    cut.write_bytes(data[:position])
    with pytest.raises(UserError, match=f"{cut}: is cut off, damaged or not a .keras file"):
        model_file.load(cut)
    flipped.write_bytes(data)
    flip(flipped, position)
    try:
        model, info = model_file.load(flipped)
    except UserError as error:
        assert str(error).startswith(f"{flipped}: ")  # noqa: PT017  Some bytes of a zip archive have no meaning.
        return
    assert info == INFO
    for weight, expected in zip(model.get_weights(), model_file.load(saved)[0].get_weights()):
        np.testing.assert_array_equal(weight, expected)


def test_every_flipped_byte_of_the_weights_is_detected(saved, tmp_path):
    with zipfile.ZipFile(saved) as archive:
        member = archive.getinfo("model.weights.h5")
    path = tmp_path / "flipped.keras"
    for position in range(member.header_offset + 60, member.header_offset + member.file_size, member.file_size // 20):
        path.write_bytes(saved.read_bytes())
        flip(path, position)
        with pytest.raises(UserError, match=r"model\.weights\.h5 in this file is damaged"):
            model_file.read_info(path)


def test_lambda_is_rejected_and_not_run(tmp_path):
    trace = tmp_path / "ran"
    name = str(trace)
    layer = keras.layers.Lambda(lambda x: (open(name, "w").close(), x)[1], output_shape=(6, 6, 4))
    path = tmp_path / "model.keras"
    model_file.save(small_model(layer=layer), INFO, path)
    trace.unlink(missing_ok=True)
    with pytest.raises(UserError, match=r"Keras cannot load this model: .*Lambda"):
        model_file.load(path)
    assert not trace.exists()
    keras.models.load_model(path, safe_mode=False)(np.zeros((1, 8, 8, 3), np.uint8))
    assert trace.exists()  # Without the check, the Lambda would have run.


def test_other_files_are_rejected(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.keras: cannot be read: No such file or directory\."):
        model_file.load(tmp_path / "nowhere.keras")
    (tmp_path / "text.keras").write_text("text")
    with pytest.raises(UserError, match=r"is cut off, damaged or not a \.keras file"):
        model_file.load(tmp_path / "text.keras")


def test_model_of_a_run_is_found(saved, tmp_path):
    assert model_file.find(str(saved)) == saved
    assert model_file.find(str(saved.parent)) == saved
    with pytest.raises(UserError, match=r"is not a run directory, since it has no model\.keras\."):
        model_file.find(str(tmp_path))
    (tmp_path / "settings.json").write_text("{}")
    with pytest.raises(UserError, match="the training is unfinished"):
        model_file.find(str(tmp_path))
    (tmp_path / "m.bak").write_bytes(saved.read_bytes())
    with pytest.raises(UserError, match=r"--run=.*m\.bak: is not a \.keras file\."):
        model_file.find(str(tmp_path / "m.bak"))
    with pytest.raises(UserError, match=r"--run=nowhere: does not exist"):
        model_file.find("nowhere")
    with pytest.raises(UserError, match=r"^--features_from=nowhere: does not exist\. "):
        model_file.find("nowhere", "features_from")


@pytest.mark.parametrize("values", [{"classes": ("a",)}, {"image_size": 0}, {"crop": -0.1}, {"threshold": 2}])
def test_wrong_values_are_rejected(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        dataclasses.replace(INFO, **values)


def test_members_are_only_those_of_keras_and_errors_of_the_machine_are_raised(saved, tmp_path, monkeypatch):
    with zipfile.ZipFile(saved) as archive:
        # With more members, Keras would unpack the archive.
        assert sorted(archive.namelist()) == ["config.json", "metadata.json", "model.weights.h5"]

    def full(*args: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keras.models, "load_model", full)
    with pytest.raises(OSError, match="No space left"):
        model_file.load(saved)


@pytest.mark.parametrize(
    ("classes", "threshold", "message"),
    [
        (("a", "b"), 0.0, "--threshold=0: must be above 0 and below 1."),
        (("a", "b"), 1.0, "--threshold=1: must be above 0 and below 1."),
        (("a", "b"), float("nan"), "--threshold=nan: must be above 0 and below 1."),
        (("a", "b", "c"), 0.3, "--threshold=0.3: applies to two-class models only. This model has 3 classes."),
    ],
)
def test_threshold_is_checked(classes, threshold, message):
    info = dataclasses.replace(INFO, classes=classes)
    assert model_file.with_threshold(info, None) == info
    assert model_file.with_threshold(INFO, 0.3).threshold == 0.3
    with pytest.raises(UserError) as error:
        model_file.with_threshold(info, threshold)
    assert str(error.value).startswith(message)
