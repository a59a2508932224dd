"""The flags that trainers share, and their way into configs; without TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from tfrecord_tools.augment_config import PRESETS
from tfrecord_tools.base import command, usage
from tfrecord_tools.errors import UserError
from tfrecord_tools.records import open_dataset
from trainers import backbones, recipes
from trainers.recipes import ModelConfig, Recipe, TrainConfig

flags.disclaim_key_flags()  # The flags belong to the trainer that has them defined, and stand in its --help.

FLAGS = flags.FLAGS
INTERRUPTED = "interrupted: the same command continues from here"

# Flags that replace a number of every phase, and of the recipe; by the names of their fields.
_PHASE = ("optimizer", "schedule", "warmup_steps", "patience")
_RECIPE = ("batch_size", "crop", "augment", "label_smoothing", "mixup", "cutmix", "class_weights", "early_stopping")


def define_training_flags(trainer: str) -> None:
    """Defines what every trainer takes: from where, to where, and what of its recipe to replace.

    Args:
        trainer: Its name in `recipes.RECIPES`.
    """
    flags.DEFINE_enum(
        "recipe",
        "default",
        [*recipes.RECIPES[trainer], "document"],
        "default: the best known recipe; reference: the numbers of the notes that this project grew from; document: the"
        " former name of reference.",
    )
    usage.define_path("tfrecords", None, "The dataset directory, as tfrecord_tools.convert wrote it.")
    usage.define_path(
        "run", None, "The run directory; by default an unfinished one of the same settings, or a fresh one, in runs/."
    )
    usage.define_path("records", None, "A file with the numbers of the training records to use: text or Parquet.")
    flags.DEFINE_float(
        "crop", None, "Share of the shorter side whose central square is taken; 0 stretches; by default the recipe's."
    )
    flags.DEFINE_integer("seed", TrainConfig.seed, "Of everything random.")
    flags.DEFINE_boolean("deterministic", TrainConfig.deterministic, "Reproducible operations only: slower on GPUs.")
    flags.DEFINE_integer(
        "checkpoint_every", TrainConfig.checkpoint_every, "Steps between checkpoints; 0: at the end of epochs alone."
    )
    flags.DEFINE_enum(
        "precision", TrainConfig.precision, ["auto", *recipes.PRECISIONS], "Of the steps; auto: what suits the device."
    )
    flags.DEFINE_enum(
        "strategy",
        TrainConfig.strategy,
        recipes.STRATEGIES,
        "mirrored: all GPUs share each batch; auto: if there are; multi_worker: those of all processes in TF_CONFIG.",
    )
    flags.DEFINE_boolean("tensorboard", TrainConfig.tensorboard, "Write the history for TensorBoard too.")
    _define_recipe_flags()
    if not recipes.reads_features(trainer):
        _define_image_flags()


def _define_recipe_flags() -> None:
    flags.DEFINE_integer("batch_size", None, "Images a step; by default the recipe's, as all that follows.")
    flags.DEFINE_list("epochs", None, "Epochs of each phase, as in 5,8 (0 leaves it out).")
    flags.DEFINE_list("learning_rate", None, "Of each phase, as in 3e-3,3e-4.")
    flags.DEFINE_string("optimizer", None, "Name of a Keras optimizer, such as adam, adamw, sgd or rmsprop.")
    flags.DEFINE_string(
        "optimizer_kwargs",
        None,
        "Its arguments, as in weight_decay=1e-4,global_clipnorm=1,use_ema=True,gradient_accumulation_steps=4.",
    )
    flags.DEFINE_enum("schedule", None, recipes.SCHEDULES, "Of the learning rate.")
    flags.DEFINE_integer("warmup_steps", None, "In which the learning rate grows from 0, in front of a cosine.")
    flags.DEFINE_integer("patience", None, "Epochs without an improvement, for --schedule=plateau.")
    flags.DEFINE_integer("early_stopping", None, "End a phase, with its best weights, after so many such epochs.")
    flags.DEFINE_float("label_smoothing", None, "Share of each target that is spread over all classes.")
    flags.DEFINE_enum("class_weights", None, recipes.CLASS_WEIGHTS, "balanced: errors on rare classes count more.")


def _define_image_flags() -> None:
    flags.DEFINE_enum("augment", None, list(PRESETS), "How images are changed at random.")
    flags.DEFINE_float("mixup", None, "Share of the images that are blended with another one.")
    flags.DEFINE_float("cutmix", None, "Share of the images that get a piece of another one.")
    flags.DEFINE_enum("cache", TrainConfig.cache, recipes.CACHES, "Keep decoded images in memory; auto: if they fit.")
    flags.DEFINE_integer("cache_mb", TrainConfig.cache_mb, "The most that these may take, in MB.")
    flags.DEFINE_enum("order", TrainConfig.order, recipes.ORDERS, "balanced: all classes alike; blocks: slow storage.")
    flags.DEFINE_integer("block", TrainConfig.block, "Neighbouring records in a block, for --order=blocks.")
    flags.DEFINE_boolean("probe", TrainConfig.probe, "First measure what binds, the input or the model.")


def define_model_flags(weights: str = ModelConfig.weights) -> None:
    """Defines the choice of a backbone, with the weights that it has by default."""
    flags.DEFINE_string(
        "backbone", None, f"The network; by default the recipe's. One of {', '.join(backbones.BACKBONES)}."
    )
    flags.DEFINE_string("backbone_kwargs", "", "Arguments of its constructor, as in alpha=0.25,minimalistic=True.")
    usage.define_path("weights", weights, "imagenet, none, or a .h5 or .weights.h5 file without top.")
    flags.DEFINE_integer("image_size", None, "Height and width of its input in pixels; by default its own.")


def train(trainer: str, argv: Sequence[str], tfrecords: str | None = None, **how: Any) -> None:
    """Does what the flags say: the main of every trainer.

    Args:
        trainer: Its name.
        argv: As `main` got it.
        tfrecords: The dataset directory; None: the value of --tfrecords.
        **how: Further arguments of its recipe.

    Raises:
        UserError: A flag's value is not allowed, or what `training.train` raises.
    """
    command.no_arguments(argv)
    tfrecords = tfrecords or FLAGS.tfrecords
    if not tfrecords:
        raise UserError(
            "--tfrecords is missing: the dataset to train on. Pass the --out of python -m tfrecord_tools.convert."
        )
    if "block" in FLAGS and FLAGS["block"].present and FLAGS.order != "blocks":
        raise UserError(f"--block={FLAGS.block}: it has a meaning with --order=blocks alone.")
    config = command.from_flags(TrainConfig, tfrecords=tfrecords)
    name = recipes.current_name(FLAGS.recipe)
    chosen = recipe(recipes.RECIPES[trainer][name], **how)
    data = open_dataset(config.tfrecords)
    if chosen.model.weights == "none" and trainer != "scratch":
        anew = chosen.phases[0].trainable == "scratch"
        what = "so that everything is trained from scratch" if anew else "the backbone is a random one"
        command.say(f"weights none: there is nothing to transfer, {what}")

    from trainers import training  # Here, since it takes seconds to import TensorFlow: a wrong flag is told at once.

    training.train(trainer, data, chosen, config, {"recipe": name} | in_effect(chosen), command.say)


def recipe(make: Callable[..., Recipe], **how: Any) -> Recipe:
    """Makes a recipe with the flags in place of its numbers where they are given.

    Raises:
        UserError: A flag's value is not allowed.
    """
    backbones.check_weights(FLAGS.weights)
    model = {"backbone_kwargs": backbones.parse_kwargs("backbone_kwargs", FLAGS.backbone_kwargs)}
    model |= _given("backbone", "weights", "image_size")
    phase: dict[str, Any] = _given(*_PHASE)
    if FLAGS.optimizer_kwargs is not None:
        phase["optimizer_kwargs"] = backbones.parse_kwargs(
            "optimizer_kwargs", FLAGS.optimizer_kwargs, "weight_decay=1e-4,global_clipnorm=1"
        )
    return recipes.override(
        make(**model, **how),
        epochs=_numbers("epochs", int),
        learning_rate=_numbers("learning_rate", float),
        phase=phase,
        **_given("unfreeze", *_RECIPE),
    )


def in_effect(recipe: Recipe) -> dict[str, Any]:
    """The shared flags that decide a training's result, with the values that hold where a flag was not given."""
    model = {name: getattr(recipe.model, name) for name in ("backbone", "backbone_kwargs", "weights")}
    return model | {
        "image_size": recipe.model.size,
        "epochs": {phase.name: phase.epochs for phase in recipe.phases},
        "learning_rate": {phase.name: phase.learning_rate for phase in recipe.phases},
        **{name: getattr(recipe, name) for name in _RECIPE},
    }


def _given(*names: str) -> dict[str, Any]:
    """The flags among these that this trainer has and that were given."""
    return {name: FLAGS[name].value for name in names if name in FLAGS and FLAGS[name].value is not None}


def _numbers(name: str, kind: type[int] | type[float]) -> list[Any] | None:
    values = FLAGS[name].value
    try:
        return None if values is None else [kind(value) for value in values]
    except ValueError:
        example = "whole numbers, as in 5,8," if kind is int else "numbers, as in 3e-3,3e-4,"
        raise UserError(f"--{name}={','.join(values)}: {example} are expected.") from None
