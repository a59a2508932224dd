"""The flags that trainers share, and their way into configs; without TensorFlow."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from absl import flags

from tfrecord_tools import command
from tfrecord_tools.augment_config import PRESETS
from tfrecord_tools.errors import UserError
from trainers import backbones, recipes
from trainers.recipes import ModelConfig, Recipe, TrainConfig

# TensorFlow's errors are shown, not its remarks on the processor; to be set before it is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

flags.disclaim_key_flags()  # The flags belong to the trainer that has them defined, and stand in its --help.

FLAGS = flags.FLAGS


def define_training_flags() -> None:
    """Defines what every trainer takes: from where, to where, and what of its recipe to replace."""
    flags.DEFINE_string("tfrecords", None, "The dataset directory, as tfrecord_tools.convert wrote it.")
    flags.DEFINE_string(
        "run", None, "The run directory; by default an unfinished one of the same settings, or a fresh one, in runs/."
    )
    flags.DEFINE_integer("batch_size", None, "Images a step; by default the recipe's.")
    flags.DEFINE_float(
        "crop", None, "Share of the shorter side whose central square is taken; 0 stretches; by default the recipe's."
    )
    flags.DEFINE_list("epochs", None, "Epochs of each phase, as in 5,8 (0 leaves it out); by default the recipe's.")
    flags.DEFINE_enum("augment", None, list(PRESETS), "The augmentation; by default the recipe's.")
    flags.DEFINE_integer("seed", TrainConfig.seed, "Of everything random.")
    flags.DEFINE_boolean("deterministic", TrainConfig.deterministic, "Reproducible operations only: slower on GPUs.")
    flags.DEFINE_integer(
        "checkpoint_every", TrainConfig.checkpoint_every, "Steps between checkpoints; 0: at the end of epochs alone."
    )
    flags.DEFINE_enum(
        "precision", TrainConfig.precision, ["auto", *recipes.PRECISIONS], "Of the steps; auto: what suits the device."
    )
    flags.DEFINE_enum("cache", TrainConfig.cache, recipes.CACHES, "Keep decoded images in memory; auto: if they fit.")
    flags.DEFINE_integer("cache_mb", TrainConfig.cache_mb, "The most that these may take, in MB.")
    flags.DEFINE_enum("order", TrainConfig.order, recipes.ORDERS, "balanced: all classes alike; blocks: slow storage.")
    flags.DEFINE_integer("block", TrainConfig.block, "Neighbouring records in a block, for --order=blocks.")
    flags.DEFINE_string("records", None, "A file with the numbers of the training records to use: text or Parquet.")
    flags.DEFINE_boolean("probe", TrainConfig.probe, "First measure what binds, the input or the model.")


def define_model_flags() -> None:
    """Defines the choice of a backbone."""
    flags.DEFINE_string(
        "backbone", None, f"The pretrained model; by default the recipe's. One of {', '.join(backbones.BACKBONES)}."
    )
    flags.DEFINE_string("backbone_kwargs", "", "Arguments of its constructor, as in alpha=0.25,minimalistic=True.")
    flags.DEFINE_string("weights", ModelConfig.weights, "imagenet, none, or a .h5 or .weights.h5 file without top.")
    flags.DEFINE_integer("image_size", None, "Height and width of its input in pixels; by default its own.")


def train_config() -> TrainConfig:
    """Reads the flags of a training.

    Raises:
        UserError: No dataset is given.
    """
    if not FLAGS.tfrecords:
        raise UserError(
            "--tfrecords is missing: the dataset to train on. Pass the --out of python -m tfrecord_tools.convert."
        )
    return command.from_flags(TrainConfig)


def recipe(make: Callable[..., Recipe]) -> Recipe:
    """Makes a recipe with the flags in place of its numbers where they are given.

    Raises:
        UserError: A flag's value is not allowed.
    """
    backbones.check_weights(FLAGS.weights)
    model = {"backbone_kwargs": backbones.parse_kwargs(FLAGS.backbone_kwargs)} | {
        name: FLAGS[name].value for name in ("backbone", "weights", "image_size") if FLAGS[name].value is not None
    }
    return recipes.override(
        make(**model), batch_size=FLAGS.batch_size, crop=FLAGS.crop, augment=FLAGS.augment, epochs=_epochs()
    )


def in_effect(recipe: Recipe) -> dict[str, Any]:
    """The shared flags that decide a training's result, with the values that hold where a flag was not given."""
    model = {name: getattr(recipe.model, name) for name in ("backbone", "backbone_kwargs", "weights")}
    return model | {
        "image_size": recipe.model.size,
        "batch_size": recipe.batch_size,
        "crop": recipe.crop,
        "epochs": {phase.name: phase.epochs for phase in recipe.phases},
        "augment": recipe.augment,
    }


def _epochs() -> list[int] | None:
    try:
        return None if FLAGS.epochs is None else [int(count) for count in FLAGS.epochs]
    except ValueError:
        raise UserError(f"--epochs={','.join(FLAGS.epochs)}: whole numbers, as in 5,8, are expected.") from None
