"""Notes at the start of a training: mirrored classes, and images that lose much of their area."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from image_sources import converted, image

from tfrecord_tools.augment_config import AugmentConfig
from tfrecord_tools.decoding.geometry import Geometry
from tfrecord_tools.records import Dataset, open_dataset
from trainers import recipes, training_options
from trainers.fitting import notes
from trainers.recipes import Recipe

PHOTO, SQUARE, WIDE, HIGH = (12, 9), (10, 10), (40, 12), (8, 40)  # Width and height.


def made(directory: Path, classes: Sequence[str], sizes: Sequence[tuple[int, int]]) -> Dataset:
    """Return a dataset with an image of each size in each class."""
    for name in classes:
        for split in ("train", "validation"):
            (directory / "src" / split / name).mkdir(parents=True)
            for number, size in enumerate(sizes):
                key = f"{split}{name}{number}"
                (directory / f"src/{split}/{name}/{number}.png").write_bytes(image(key, "PNG", size=size))
    converted(directory / "src", directory / "out")
    return open_dataset(directory / "out")


@pytest.fixture(scope="module")
def arrows(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return made(tmp_path_factory.mktemp("arrows"), ["arrow_left", "arrow_right", "none"], [PHOTO])


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Return a dataset: 2 of 8 images per class are wide or high."""
    return made(tmp_path_factory.mktemp("mixed"), ["cats", "dogs"], [PHOTO] * 5 + [SQUARE, WIDE, HIGH])


def lines(data: Dataset, recipe: Recipe) -> list[str]:
    return notes.lines(recipe, data, data.records("train"))


def recipe_of(trainer: str = "finetune", **values: Any) -> Recipe:
    return training_options.recipe(trainer, values)


@pytest.mark.parametrize(
    ("recipe", "shown", "flag"),
    [
        (recipe_of(), "standard", "standard,horizontal_flip=False"),
        (recipe_of(augment="strong"), "strong", "strong,horizontal_flip=False"),
        (
            recipe_of(augment="standard,rotation_range=5"),
            "standard,rotation_range=5",
            "standard,rotation_range=5,horizontal_flip=False",
        ),
        (
            recipe_of(recipe="reference"),  # Both ways to mirror are turned off.
            "reference_transfer",
            "reference_transfer,horizontal_flip=False,vertical_flip=False",
        ),
        (
            dataclasses.replace(recipe_of(), augment=AugmentConfig(zoom_range=(0.8, 1.1), vertical_flip=True)),
            "none,zoom_range=(0.8,1.1),vertical_flip=True",
            "'none,zoom_range=(0.8,1.1)'",  # Quoted for a shell.
        ),
    ],
    ids=["default", "strong", "changed", "both", "config"],
)
def test_mirrored_classes_are_named_with_the_flag(recipe: Recipe, shown: str, flag: str, arrows: Dataset) -> None:
    assert lines(arrows, recipe) == [
        f"note: --augment={shown} mirrors images, but the names of these classes suggest that a mirrored image is of"
        f" another class: arrow_left, arrow_right. If this is true, pass --augment={flag}"
    ]
    # With the flag, there is no note.
    again = dataclasses.replace(recipe, augment=flag.strip("'"))
    assert lines(arrows, again) == []


def own(images: Any, keys: Any) -> Any:
    return images


def test_without_mirroring_or_such_names_there_is_no_note(arrows: Dataset, mixed: Dataset) -> None:
    for values in ({"augment": "none"}, {"augment": "standard,horizontal_flip=False"}, {"augment": own}):
        assert lines(arrows, recipe_of(**values)) == []
    assert lines(arrows, recipe_of("features")) == []  # Features are computed from unchanged images.
    assert not any("mirrors" in line for line in lines(mixed, recipe_of()))


CUT = (
    "note: {share} of the images lose more than a third of their area, because they are cropped to the aspect ratio of"
    " the model's input.{more} To keep the whole image, pass --fit=pad or --fit=stretch"
)
OF_CROP = " --crop=0.875 removes another 23% of every image."  # 1 - 0.875 ** 2 of what the shape leaves.


@pytest.mark.parametrize("trainer", ["scratch", "features", "frozen", "finetune"])
def test_images_that_lose_much_of_their_area_are_counted(trainer: str, mixed: Dataset) -> None:
    assert lines(mixed, recipe_of(trainer)) == [CUT.format(share="25%", more=OF_CROP)]


@pytest.mark.parametrize(
    ("values", "share", "more"),
    [
        ({"crop": 1.0}, "25%", ""),  # Only the shape counts.
        ({"crop": 0.5}, "25%", " --crop=0.5 removes another 75% of every image."),
        ({"image_size": (12, 40)}, "88%", OF_CROP),  # The wide images fit.
        ({"image_size": (9, 12)}, "25%", OF_CROP),
        ({"recipe": "reference"}, "", ""),  # The whole image is stretched.
        ({"crop": 0.0}, "", ""),
        ({"fit": "pad"}, "", ""),
        ({"fit": "stretch"}, "", ""),
        ({"fit": "crop"}, "", ""),  # The user wants it.
    ],
    ids=str,
)
def test_geometries_that_lose_it(values: dict[str, Any], share: str, more: str, mixed: Dataset) -> None:
    assert lines(mixed, recipe_of(**values)) == ([CUT.format(share=share, more=more)] if share else [])


@pytest.mark.parametrize(
    ("sizes", "image_size", "suggested"),
    [
        ([(320, 64)] * 3, 96, "64x320"),
        ([(50, 10)] * 3, 224, "128x640"),  # The input does not depend on the size of the images.
        ([(30, 60)] * 3, 160, "256x128"),  # High images.
        ([(320, 64)] * 9 + [(64, 320)], 96, "64x320"),
        ([(40, 10), (40, 9), (40, 11)], (64, 64), "32x128"),
        ([(320, 64)] * 8 + [(64, 320)] * 2, 96, ""),  # No common shape.
    ],
    ids=str,
)
def test_a_common_shape_is_suggested(sizes: Any, image_size: Any, suggested: str, tmp_path: Path) -> None:
    data = made(tmp_path, ["cats", "dogs"], sizes)
    (line,) = lines(data, recipe_of("features", image_size=image_size))
    end = line.partition("pass --fit=pad or --fit=stretch")[2]
    if not suggested:
        assert end == ""
        return
    assert end.startswith(". ")
    assert end.endswith(f"% of the images have about the same shape, so also pass --image_size={suggested}")
    assert lines(data, recipe_of("features", image_size=suggested, fit="pad")) == []


def test_few_images_are_not_mentioned(tmp_path: Path) -> None:
    data = made(tmp_path, ["cats", "dogs"], [PHOTO] * 9 + [WIDE])
    assert notes.share_cut(data.records("train"), Geometry.of(8, 0.875)) == 0.1
    assert lines(data, recipe_of()) == []


def test_usual_photographs_are_not_mentioned(tmp_path: Path) -> None:
    data = made(tmp_path, ["cats", "dogs"], [(30, 20), (40, 30), (20, 30)])  # 3:2 loses just a third.
    assert lines(data, recipe_of()) == []


def test_recipes_of_python(mixed: Dataset) -> None:
    recipe = recipes.override(recipes.finetune(), fit="pad", augment=AugmentConfig(horizontal_flip=True))
    assert lines(mixed, recipe) == []
