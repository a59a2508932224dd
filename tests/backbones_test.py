"""Names and arguments of backbones, and recipes: all that is checked before TensorFlow is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tfrecord_tools.augment_config import PRESETS, AugmentConfig
from tfrecord_tools.errors import UserError
from trainers import backbones, recipes


def test_nothing_here_imports_tensorflow():
    code = (
        "import sys, trainers.cli, trainers.finetune; sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vgg16", "--backbone=vgg16: unknown; did you mean VGG16 or VGG19? --help lists all 40."),
        (
            "ResNet5",
            "--backbone=ResNet5: unknown; did you mean ResNet50 or ResNet152 or ResNet50V2? --help lists all 40.",
        ),
        ("AlexNet", "--backbone=AlexNet: unknown; did you mean MobileNet? --help lists all 40."),
        ("???", "--backbone=???: unknown; nothing comes near it. --help lists all 40."),
    ],
)
def test_an_unknown_backbone_is_refused_and_near_ones_are_named(name, message):
    with pytest.raises(UserError) as error:
        recipes.default(backbone=name)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("text", "kwargs"),
    [
        ("", {}),
        ("alpha=0.25", {"alpha": 0.25}),
        ("alpha=0.25, minimalistic=True", {"alpha": 0.25, "minimalistic": True}),
        ("shape=(1, 2),name='a,b'", {"shape": (1, 2), "name": "a,b"}),  # Commas within values.
    ],
)
def test_parse_kwargs(text, kwargs):
    assert backbones.parse_kwargs(text) == kwargs


@pytest.mark.parametrize(
    "text",
    [
        "alpha",  # no value
        "alpha=",  # empty value
        "alpha=a",  # no literal
        "alpha=print(1)",  # nothing is called
        "0.25",  # no name
        "**{'alpha': 1}",  # no name either
        "alpha=1,alpha=2",  # twice
        "alpha=1) or (1",  # not one call
    ],
)
def test_parse_kwargs_refuses(text):
    with pytest.raises(UserError) as error:
        backbones.parse_kwargs(text)
    assert str(error.value).startswith(
        f"--backbone_kwargs={text}: not understood; name=value pairs with Python literals are"
    )


def test_document_recipe_has_the_numbers_of_the_notes():
    recipe = recipes.document()
    assert recipe.model == recipes.ModelConfig(
        backbone="VGG16", image_size=150, scaling="unit", head="document", dropout=0.6, weights="imagenet"
    )
    common = {"optimizer": "rmsprop", "schedule": "constant", "epochs": 10, "steps_per_epoch": 100}
    assert recipe.phases == (
        recipes.Phase(name="head", trainable="head", learning_rate=1e-2, **common),
        recipes.Phase(name="finetune", trainable="last_stage", learning_rate=1e-5, **common),
    )
    assert (recipe.batch_size, recipe.crop) == (20, 0.0)  # The whole image, stretched.
    assert PRESETS[recipe.augment] == AugmentConfig(
        rotation_range=90,
        width_shift_range=0.1,
        height_shift_range=0.1,
        zoom_range=0.2,
        horizontal_flip=True,
        vertical_flip=True,
    )


def test_default_recipe_trains_everything_where_there_is_nothing_to_transfer():
    assert [phase.trainable for phase in recipes.default().phases] == ["head", "last_stage"]
    assert [phase.trainable for phase in recipes.default(weights="none").phases] == ["all"]


def test_override():
    recipe = recipes.override(recipes.document(backbone="VGG19"), batch_size=8, augment="none", epochs=[0, 3])
    assert (recipe.batch_size, recipe.augment) == (8, "none")
    assert [(phase.name, phase.epochs) for phase in recipe.phases] == [("finetune", 3)]
    assert recipe.model.backbone == "VGG19"
    assert recipes.override(recipes.default()) == recipes.default()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": [3]}, "--epochs=3: one number for each phase of the recipe is expected: head, finetune."),
        ({"epochs": [0, 0]}, "--epochs=0,0: numbers from 0 on are expected, and not all 0."),
        ({"epochs": [3, -1]}, "--epochs=3,-1: numbers from 0 on are expected, and not all 0."),
        ({"batch_size": 0}, "--batch_size=0: at least 1 image is needed."),
    ],
)
def test_override_refuses(values, message):
    with pytest.raises(UserError) as error:
        recipes.override(recipes.default(), **values)
    assert str(error.value) == message
