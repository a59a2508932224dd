"""Tests of the values of the recipes, and of replacing them."""

from __future__ import annotations

from typing import Any

import pytest

from tfrecord_tools.augment_config import PRESETS, AugmentConfig
from tfrecord_tools.errors import UserError
from trainers import recipes
from trainers.recipes import ModelConfig, Phase

VGG16: dict[str, Any] = {"backbone": "VGG16", "image_size": 150, "scaling": "unit", "pooling": "flatten", "hidden": 256}
HEAD: dict[str, Any] = {"name": "head", "trainable": "head", "optimizer": "rmsprop", "learning_rate": 1e-2}
MOVES: dict[str, Any] = {"rotation_range": 90, "zoom_range": 0.2, "horizontal_flip": True, "vertical_flip": True}


@pytest.mark.parametrize(
    ("recipe", "model", "phases", "augment"),
    [
        (  # Section 2.
            recipes.scratch_reference(),
            ModelConfig(backbone="CNN", image_size=150, scaling="unit", pooling="flatten", dropout=0.5, weights="none"),
            [Phase(name="scratch", trainable="scratch", learning_rate=1e-4, epochs=50, steps_per_epoch=100)],
            AugmentConfig(),
        ),
        (  # Section 3.
            recipes.scratch_reference(augmented=True),
            recipes.scratch_reference().model,
            [Phase(name="scratch", trainable="scratch", learning_rate=1e-4, epochs=100, steps_per_epoch=100)],
            AugmentConfig(width_shift_range=0.2, height_shift_range=0.2, **MOVES),
        ),
        (  # Section 4.1. The original has 700 steps of 20 images, which are all 14,000.
            recipes.features_reference(),
            ModelConfig(**VGG16, dropout=0.5),
            [Phase(**HEAD, epochs=30)],
            AugmentConfig(),
        ),
        (  # Section 4.2.(1).
            recipes.frozen_reference(),
            ModelConfig(**VGG16, dropout=0.6),
            [Phase(**HEAD, epochs=30, steps_per_epoch=100)],
            AugmentConfig(width_shift_range=0.1, height_shift_range=0.1, **MOVES),
        ),
        (  # Section 4.2.(2).
            recipes.finetune_reference(),
            ModelConfig(**VGG16, dropout=0.6),
            [
                Phase(**HEAD, epochs=10, steps_per_epoch=100),
                Phase(
                    **(HEAD | {"name": "finetune", "trainable": "last_stage", "learning_rate": 1e-5}),
                    epochs=10,
                    steps_per_epoch=100,
                ),
            ],
            AugmentConfig(width_shift_range=0.1, height_shift_range=0.1, **MOVES),
        ),
    ],
    ids=["scratch", "augmented", "features", "frozen", "finetune"],
)
def test_reference_recipes_have_the_original_values(recipe, model, phases, augment):
    assert recipe.model == model
    assert list(recipe.phases) == phases
    assert PRESETS[recipe.augment] == augment
    assert (recipe.batch_size, recipe.crop) == (20, 0.0)  # The whole image is stretched.
    assert recipe.from_features == (recipe == recipes.features_reference())
    assert {phase.optimizer for phase in recipe.phases} <= {"adam", "rmsprop"}  # With Keras's default arguments.


def test_default_recipe_without_pretrained_weights_trains_all_layers():
    assert [phase.trainable for phase in recipes.finetune().phases] == ["head", "last_stage"]
    from_scratch = recipes.finetune(weights="none")
    assert [phase.trainable for phase in from_scratch.phases] == ["scratch"]
    assert from_scratch == recipes.scratch(backbone="MobileNetV2")


def test_default_backbone_can_be_named():
    assert recipes.scratch(backbone="CNN") == recipes.scratch()


def test_arguments_of_the_same_optimizer_are_inherited():
    recipe = recipes.scratch(backbone="VGG16")
    more = recipes.override(recipe, phase={"optimizer_kwargs": {"global_clipnorm": 1}})
    assert more.phases[0].optimizer_kwargs == {"momentum": 0.9, "nesterov": True, "global_clipnorm": 1}
    assert recipes.override(recipe, phase={"optimizer": "SGD"}).phases[0].optimizer_kwargs["nesterov"]
    other = recipes.override(recipe, phase={"optimizer": "adam"})
    assert other.phases[0].optimizer_kwargs == {}


@pytest.mark.parametrize(
    ("backbone", "scaling"),
    [("VGG19", "unit"), ("EfficientNetB0", None), ("ConvNeXtTiny", None)],  # The last two scale by themselves.
)
def test_reference_scaling_is_not_added_to_networks_that_scale(backbone, scaling):
    made = [
        recipes.features_reference(backbone=backbone),
        recipes.frozen_reference(backbone=backbone),
        recipes.finetune_reference(backbone=backbone),
        recipes.scratch_reference(backbone=backbone),
    ]
    assert [recipe.model.scaling for recipe in made] == [scaling] * 4
    assert recipes.features_reference(backbone=backbone, scaling="tf").model.scaling == "tf"  # A given value is used.


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_are_those_of_numpy(seed):
    with pytest.raises(UserError) as error:
        recipes.TrainConfig(tfrecords="out", seed=seed)
    assert str(error.value) == f"--seed={seed}: must be from 0 to 4294967295."


@pytest.mark.parametrize("values", [{"augment": "standard"}, {"mixup": 0.1}, {"cutmix": 0.1}])
def test_features_need_unchanged_images(values):
    with pytest.raises(
        UserError, match=r"features are computed once, from unchanged images\. Use augment=none, mixup=0 and cutmix=0\."
    ):
        recipes.override(recipes.features(), **values)


@pytest.mark.parametrize(
    "model",
    [{"backbone": "CNN"}, {"backbone": "CNN", "dropout": 0.1, "batch_norm_momentum": 0.5}, {"backbone": "VGG16"}],
)
def test_finetune_without_weights_is_scratch(model):
    recipe = recipes.finetune(weights="none", **model)
    assert recipe == recipes.scratch(**model)
    expected = {"image_size": 96, "pooling": "flatten", "dropout": 0.5} if model["backbone"] == "CNN" else {}
    expected |= {"batch_norm_momentum": 0.9} | model
    assert {name: getattr(recipe.model, name) for name in expected} == expected
    assert recipes.finetune(weights="none").model.backbone == "MobileNetV2"


@pytest.mark.parametrize("init_from", ["runs/pets", "runs/pets/model.keras", "./runs/../runs/pets/"])
def test_a_training_does_not_replace_the_run_that_it_starts_with(init_from):
    with pytest.raises(
        UserError, match=r"^--init_from=\S+: is also the run directory of the new training \(--run=runs/"
    ):
        recipes.TrainConfig(tfrecords="out", run="runs/pets", init_from=init_from)
    recipes.TrainConfig(tfrecords="out", run="runs/pets2", init_from=init_from)


def test_a_function_that_augments_has_no_values_of_its_own():
    with pytest.raises(UserError, match=r"^augment=<function .*>: must be a function at the top level of a module"):
        recipes.override(recipes.finetune(), augment=lambda images, keys: images)


def test_old_names_of_recipes_and_presets_are_accepted():
    with pytest.warns(DeprecationWarning, match=r"recipes\.scratch_document is now recipes\.scratch_reference\."):
        assert recipes.scratch_document() == recipes.scratch_reference()
    assert recipes.current_name("document") == "reference"
    for old, name in {"document": "reference", "document_transfer": "reference_transfer"}.items():
        assert PRESETS[old] == PRESETS[name]
        assert old not in PRESETS  # Lists of presets do not have the old names.
        assert recipes.Recipe(model=ModelConfig(), phases=(), augment=old).augment == name
    with pytest.raises(KeyError):
        PRESETS["documents"]
    with pytest.raises(AttributeError, match="has no attribute 'compare_document'"):
        _ = recipes.compare_document


def test_heads():
    assert (recipes.features(head="linear").model.hidden, recipes.features(head="dense").model.hidden) == (0, 256)


def test_override():
    recipe = recipes.override(
        recipes.finetune_reference(backbone="VGG19"),
        batch_size=8,
        augment="none",
        epochs=[0, 3],
        learning_rate=[1e-3, 1e-4],
        unfreeze="block5",
        phase={"optimizer": "sgd", "schedule": None},
        mixup=0.5,
        cutmix=None,
    )
    assert (recipe.batch_size, recipe.augment, recipe.mixup, recipe.cutmix) == (8, "none", 0.5, 0.0)
    (phase,) = recipe.phases
    assert (phase.name, phase.epochs, phase.learning_rate, phase.trainable) == ("finetune", 3, 1e-4, "block5")
    assert (phase.optimizer, phase.schedule) == ("sgd", "constant")
    assert recipe.model.backbone == "VGG19"
    assert recipes.override(recipes.finetune()) == recipes.finetune()
    both = recipes.override(recipes.finetune(), unfreeze="all")
    assert [phase.trainable for phase in both.phases] == ["head", "all"]  # Only the second phase changes.


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": [3]}, "--epochs=3: the recipe has 2 phases (head, finetune). Pass one number for each phase."),
        ({"epochs": [0, 0]}, "--epochs=0,0: each number must be 0 or more, and at least one must be above 0."),
        ({"epochs": [3, -1]}, "--epochs=3,-1: each number must be 0 or more, and at least one must be above 0."),
        (
            {"learning_rate": [0.1]},
            "--learning_rate=0.1: the recipe has 2 phases (head, finetune). Pass one number for each phase.",
        ),
        ({"learning_rate": [0.1, 0.0]}, "--learning_rate=0: must be a number above 0."),
        ({"learning_rate": [0.1, float("nan")]}, "--learning_rate=nan: must be a number above 0."),
        (
            {"unfreeze": "scratch"},  # This value would train BatchNormalization, too.
            "--unfreeze=scratch: must be last_stage, all, a number or a regular expression.",
        ),
        ({"batch_size": 0}, "--batch_size=0: must be at least 1 image."),
        (
            {"crop": 1.5},
            "--crop=1.5: must be between 0 and 1. It is the side of the central square divided by the image's shorter"
            " side. 0 stretches the whole image.",
        ),
        ({"mixup": 1.5}, "--mixup=1.5: must be a proportion of the images, from 0 to 1."),
        ({"cutmix": -1.0}, "--cutmix=-1.0: must be a proportion of the images, from 0 to 1."),
        ({"label_smoothing": 1.0}, "--label_smoothing=1.0: must be at least 0 and below 1."),
        ({"early_stopping": -1}, "--early_stopping=-1: must be 0 or more."),
        (
            {"phase": {"schedule": "constant", "warmup_steps": 5}},
            "--warmup_steps=5 with --schedule=constant: only --schedule=cosine has a warm-up. Pass --schedule=cosine,"
            " or remove --warmup_steps.",
        ),
        ({"phase": {"schedule": "cosine", "warmup_steps": -1}}, "--warmup_steps=-1: must be 0 or more."),
        ({"phase": {"schedule": "plateau", "patience": 0}}, "--patience=0: must be at least 1 epoch."),
        (
            {"phase": {"patience": 2}},
            "--patience=2: only --schedule=plateau uses it. Add --schedule=plateau, or remove --patience.",
        ),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(value),
)
def test_override_rejects(values, message):
    with pytest.raises(UserError) as error:
        recipes.override(recipes.finetune(), **values)
    assert str(error.value) == message


def test_there_are_no_imagenet_weights_of_the_notes_network():
    with pytest.raises(UserError) as error:
        ModelConfig(backbone="CNN")
    assert str(error.value) == (
        "--weights=imagenet: CNN has no ImageNet weights. Pass --weights=none or the path of a weights file."
    )
