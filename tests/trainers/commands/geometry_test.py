"""Trainings on images of other shapes and with own augmentations, from flags to exported models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_sources import converted, tree
from PIL import Image, ImageDraw

import trainers
from tfrecord_tools.augment_config import PRESETS, AugmentConfig
from tfrecord_tools.base.options import checked
from tfrecord_tools.decoding import decoder
from tfrecord_tools.decoding.geometry import Geometry
from tfrecord_tools.errors import UserError
from tfrecord_tools.records import open_dataset
from trainers import run_directory, training_options
from trainers.fitting import settings
from trainers.run import Run

MINE = "def darker(images, keys):\n    return images - images // {}\n"
WIDE = Geometry.of((16, 40), fit="pad")
SHORT: dict[str, Any] = {"backbone_kwargs": {"filters": (4, 8)}, "batch_size": 8, "epochs": 1}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = tmp_path_factory.mktemp("geometry")
    converted(tree(workspace / "src", {"left": 12, "right": 12}), workspace / "out")
    (workspace / "mine.py").write_text(MINE.format(3))
    return workspace


def options(workspace: Path) -> dict[str, Any]:
    augment = f"{workspace}/mine.py:darker"
    return SHORT | {"tfrecords": workspace / "out", "image_size": "16x40", "fit": "pad", "augment": augment}


@pytest.fixture(scope="module")
def trained(workspace: Path) -> tuple[Run, list[str]]:
    """Return a training on padded images that are not squares, and its lines."""
    lines: list[str] = []
    run = trainers.scratch(run=workspace / "run", log=lines.append, **options(workspace))
    return run, lines


def test_the_geometry_and_the_function_are_kept_with_the_run(trained: tuple[Run, list[str]], workspace: Path) -> None:
    run, lines = trained
    assert run.info.geometry == WIDE
    assert run.model.input_shape == (None, 16, 40, 3)
    assert any(", 16x40 px, weights none" in line for line in lines)
    assert not any(line.startswith("note: ") for line in lines)  # A function may not mirror, and nothing is cut.
    flags = run.settings["flags"]
    augment = f"{workspace}/mine.py:darker"
    assert (flags["image_size"], flags["fit"], flags["crop"], flags["augment"]) == ("16x40", "pad", 0.0, augment)
    recipe = run.settings["recipe"]
    assert (recipe["crop"], recipe["fit"], recipe["model"]["image_size"]) == (0.0, "pad", [16, 40])
    assert recipe["augment"]["function"] == augment
    assert len(recipe["augment"]["sha256"]) == 64
    report = " ".join((run.path / "report.html").read_text().split())
    assert "16x40 px, pad" in report
    assert "--image_size=16x40" in report


def test_a_changed_function_is_another_training(trained: tuple[Run, list[str]], workspace: Path) -> None:
    lines: list[str] = []
    trainers.scratch(run=trained[0].path, log=lines.append, **options(workspace))
    assert any("is finished already" in line for line in lines)
    (workspace / "mine.py").write_text(MINE.format(4))
    with pytest.raises(
        UserError, match=r"was started with other settings: recipe\.augment\.sha256 was '\w+', is now '\w+'"
    ):
        trainers.scratch(run=trained[0].path, **options(workspace))
    (workspace / "mine.py").write_text(MINE.format(3))


def test_files_are_prepared_as_the_records_were(trained: tuple[Run, list[str]], workspace: Path) -> None:
    run, _ = trained
    paths = sorted((workspace / "src/left").iterdir())[:3]
    pixels = np.stack([decoder.decode(path.read_bytes(), WIDE) for path in paths])
    expected = run.model(pixels).numpy()[:, 0]
    np.testing.assert_allclose(run.predict(paths).probabilities[:, 1], expected, rtol=1e-5)
    evaluation = run.evaluate(workspace / "out", split="train", out=workspace / "evaluation")
    records = open_dataset(workspace / "out").records("train")
    pixels = np.stack([decoder.decode(records[n]["image"], WIDE) for n in range(len(records))])
    accuracy = ((run.model(pixels).numpy()[:, 0] >= 0.5) == records.labels).mean()
    assert evaluation.metrics["accuracy"] == pytest.approx(accuracy)


@pytest.mark.slow
def test_exported_models_decode_the_same(trained: tuple[Run, list[str]], workspace: Path) -> None:
    for values in ({}, {"format": "litert"}):
        exported = trained[0].export(tfrecords=str(workspace / "out"), **values)
        facts = json.loads((exported.directory / "export.json").read_text())
        assert (facts["image_size"], facts["fit"], facts["crop"]) == ([16, 40], "pad", 0.0)
        assert exported.check.difference < 1e-4


@pytest.mark.slow
def test_an_audit_uses_the_geometry_of_the_run(trained: tuple[Run, list[str]], workspace: Path) -> None:
    found = trainers.audit(
        tfrecords=workspace / "out",
        features_from=trained[0].path,
        features=workspace / "features",
        out=workspace / "audit",
        log=lambda line: None,
    )
    assert len(found.probabilities) == 24
    keys = [json.loads(path.read_text())["key"] for path in (workspace / "features").glob("*/about.json")]
    assert {(str(key["image_size"]), key["fit"]) for key in keys} == {("[16, 40]", "pad")}


# --- Settings ------------------------------------------------------------------------------------------------------


def recipe_settings(trainer: str = "finetune", **values: Any) -> dict[str, Any]:
    recipe = training_options.recipe(trainer, values)
    return {"flags": training_options.in_effect(recipe), "recipe": settings._values(recipe)}


def test_settings_of_squares_are_those_of_before() -> None:
    """A training that an earlier version began is continued: neither names nor values differ."""
    made = recipe_settings()
    assert "fit" not in made["flags"]
    assert "fit" not in made["recipe"]
    assert (made["flags"]["image_size"], made["flags"]["crop"], made["flags"]["augment"]) == (224, 0.875, "standard")
    assert list(made["flags"])[:5] == ["backbone", "backbone_kwargs", "weights", "image_size", "epochs"]
    assert made["recipe"]["augment"]["rotation_range"] == 15
    assert (made["recipe"]["crop"], made["recipe"]["model"]["image_size"]) == (0.875, None)


def test_an_unfinished_run_of_an_earlier_version_continues(tmp_path: Path) -> None:
    before = json.loads(json.dumps(recipe_settings(augment="reference", crop=0.5)))
    run_directory.write_json(tmp_path / "settings.json", before)
    now = recipe_settings(augment="document", crop=0.5, fit="crop")
    assert run_directory.differences(tmp_path, now, ("flags", "recipe")) == []
    assert run_directory.differences(tmp_path, recipe_settings(augment="reference", fit="pad"), ("flags",)) == [
        "--crop was 0.5, is now 0.0",
        "--fit was None, is now 'pad'",
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"fit": "stretch"}, {"crop": 0.0}),
        ({"fit": "crop", "crop": 0.5}, {"crop": 0.5}),
        ({"image_size": "64x64"}, {"image_size": 64}),
        ({"image_size": "64x32"}, {"image_size": (64, 32)}),
        ({"augment": "standard,rotation_range=15"}, {"augment": "standard"}),
        ({"recipe": "reference", "fit": "crop"}, {"recipe": "reference", "crop": 1.0}),
    ],
    ids=str,
)
def test_equal_trainings_have_equal_settings(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert recipe_settings(**one) == recipe_settings(**other)


def mirrored(images: Any, keys: Any) -> Any:
    return images[:, :, ::-1]


@pytest.mark.parametrize(
    ("augment", "name", "values"),
    [
        (AugmentConfig(rotation_range=5), "none,rotation_range=5", {"rotation_range": 5, "horizontal_flip": False}),
        (PRESETS["strong"], "strong", {"erasing": 0.25}),
        (mirrored, f"{__name__}:mirrored", {"function": f"{__name__}:mirrored"}),
    ],
    ids=["config", "preset", "function"],
)
def test_augmentations_of_python_have_names(augment: Any, name: str, values: dict[str, Any]) -> None:
    made = recipe_settings("frozen", **checked(training_options.OPTIONS["frozen"], {"augment": augment}))
    assert made["flags"]["augment"] == name
    assert made["recipe"]["augment"].items() >= values.items()
    json.dumps(made)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fit": "pad", "crop": 0.5}, "--crop=0.5 with --fit=pad: only --fit=crop cuts a part out of the image."),
        (
            {"fit": "crop", "crop": 0.0},
            "--crop=0 with --fit=crop: --crop must be above 0 and at most 1. Pass another --crop, or --fit=stretch.",
        ),
        ({"image_size": (0, 5)}, "--image_size=0x5: must be at least 1 pixel."),
        ({"augment": "standards"}, "--augment=standards: must be the name of a preset (none, "),
        ({"augment": "nowhere.py:f"}, "--augment=nowhere.py:f: nowhere.py does not exist."),
    ],
)
def test_errors_name_the_flags(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        training_options.recipe("finetune", values)
    assert str(error.value).startswith(message)


# --- What each note is for ----------------------------------------------------------------------------------------


def arrow(right: bool, random: np.random.Generator) -> Image.Image:
    """Draw an arrow of random size, position and colors, to the right or to the left."""
    picture = Image.new("RGB", (48, 48), tuple(random.integers(120, 256, 3).tolist()))
    x, y, length, head = (random.integers(*span) for span in ((6, 14), (14, 34), (20, 28), (5, 9)))
    points: Sequence[Any] = [(x, y - 1), (x + length, y - 1), (x + length, y + 2), (x, y + 2)]
    tip = [(x + length, y - head), (x + length + head, y), (x + length, y + head)]
    drawing, color = ImageDraw.Draw(picture), tuple(random.integers(0, 100, 3).tolist())
    drawing.polygon(points, color)
    drawing.polygon(tip, color)
    return picture if right else picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def strip(ripe: bool, random: np.random.Generator) -> Image.Image:
    """Draw a wide image with a red or a green fruit at its left or right end, and noise elsewhere."""
    picture = Image.fromarray(random.integers(100, 156, (32, 128, 3), np.uint8))
    x, y = int(random.choice([random.integers(2, 14), random.integers(92, 104)])), int(random.integers(2, 10))
    strong, weak = random.integers(160, 256), random.integers(0, 100)
    color = (strong, weak, weak) if ripe else (weak, strong, weak)
    ImageDraw.Draw(picture).ellipse((x, y, x + 20, y + 20), tuple(map(int, color)))
    return picture


def drawn(root: Path, classes: dict[str, Any], draw: Any, train: int, validation: int) -> Path:
    random = np.random.default_rng(0)
    for split, count in (("train", train), ("validation", validation)):
        for name, kind in classes.items():
            (root / f"src/{split}/{name}").mkdir(parents=True)
            for number in range(count):
                draw(kind, random).save(root / f"src/{split}/{name}/{number}.png")
    converted(root / "src", root / "out")
    return root / "out"


def accuracy(out: Path, run: Path, **values: Any) -> tuple[float, list[str]]:
    """Return the accuracy of a training, and its lines that begin with "note:"."""
    lines: list[str] = []
    given = {"epochs": 15, "learning_rate": 3e-3, "batch_size": 16, "image_size": 48} | values
    trained = trainers.scratch(tfrecords=out, run=run, log=lines.append, **given)
    return trained.metrics["accuracy"], [line for line in lines if line.startswith("note: ")]


@pytest.mark.slow
def test_arrows_need_an_augmentation_without_mirroring(tmp_path: Path) -> None:
    out = drawn(tmp_path, {"left": False, "right": True}, arrow, train=100, validation=50)
    mirrored, lines = accuracy(out, tmp_path / "mirrored")
    assert lines == [
        "note: --augment=standard mirrors images, but the names of these classes suggest that a mirrored image is of"
        " another class: left, right. If this is true, pass --augment=standard,horizontal_flip=False"
    ]
    still, lines = accuracy(out, tmp_path / "still", augment="standard,horizontal_flip=False")
    assert lines == []
    assert mirrored < 0.8
    assert still >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize(
    "values",
    [{"fit": "pad"}, {"fit": "stretch"}, {"image_size": "24x96"}, {"fit": "pad", "image_size": "32x128"}],
    ids=["pad", "stretch", "wide", "as suggested"],
)
def test_wide_images_need_their_sides(values: dict[str, Any], tmp_path: Path) -> None:
    out = drawn(tmp_path, {"ripe": True, "unripe": False}, strip, train=60, validation=30)
    cut, lines = accuracy(out, tmp_path / "cut", epochs=8)
    assert lines == [
        "note: 100% of the images lose more than a third of their area, because they are cropped to the aspect ratio"
        " of the model's input. --crop=0.875 removes another 23% of every image. To keep the whole image, pass"
        " --fit=pad or --fit=stretch. 100% of the images have about the same shape, so also pass --image_size=32x128"
    ]
    whole, lines = accuracy(out, tmp_path / "whole", **{"epochs": 12} | values)
    assert lines == []
    assert cut < 0.8
    assert whole >= 0.95
