"""Define the flags of all trainers, and make a recipe and settings of them. Does not need TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from tfrecord_tools.augment_config import FORMER_NAMES, PRESETS
from tfrecord_tools.base import command, usage
from tfrecord_tools.errors import UserError
from tfrecord_tools.records import open_dataset
from trainers import backbones, recipes
from trainers.auditing.issues import KINDS
from trainers.recipes import ModelConfig, Recipe, TrainConfig

# With this call, absl counts the flags as flags of the trainer, and the trainer's --help lists them.
flags.disclaim_key_flags()

FLAGS = flags.FLAGS
INTERRUPTED = "interrupted: run the same command again to continue"

# Each flag here has the same name as a field. `_PHASE`: fields of `Phase`; the flag changes all phases.
# `_RECIPE`: fields of `Recipe`.
_PHASE = ("optimizer", "schedule", "warmup_steps", "patience")
_RECIPE = ("batch_size", "crop", "augment", "label_smoothing", "mixup", "cutmix", "class_weights", "early_stopping")


def define_training_flags(trainer: str) -> None:
    """Define the flags that every trainer has.

    Args:
        trainer: Name of the trainer, a key of `recipes.RECIPES`.
    """
    flags.DEFINE_enum(
        "recipe",
        "default",
        [*recipes.RECIPES[trainer], "document"],
        "default: the recipe with the best results; reference: the settings of the article on which this project is"
        " based; document: old name of reference.",
    )
    usage.define_path("tfrecords", None, "Directory of the dataset: the --out of tfrecord_tools.convert.")
    usage.define_path(
        "run",
        None,
        "Run directory. Default: an unfinished run in runs/ with the same settings is continued. If there is none, a"
        " new run is started in runs/.",
    )
    usage.define_path(
        "records",
        None,
        "File (text or Parquet) with the numbers of the training records to use. The first record is 0. Default: all"
        " training records.",
    )
    usage.define_path(
        "audit",
        None,
        "Directory of an audit of the dataset, written by trainers.audit. The report also shows the accuracy on the"
        " images without issues. Default: audits/NAME-DIGEST, if it exists.",
    )
    flags.DEFINE_list(
        "drop_issues",
        [],
        "Kinds of issues, as in label,off_topic. Training images with such an issue and a score of at least 0.5 in the"
        f" audit are left out. Kinds: {', '.join(KINDS)}. Default: all images are used.",
    )
    flags.DEFINE_float(
        "crop",
        None,
        "A square is cut from the middle of each image. With 0.875, the side of the square is 0.875 of the shorter side"
        " of the image. 0: stretch the whole image to a square. Default: see the recipe.",
    )
    flags.DEFINE_integer(
        "seed", TrainConfig.seed, "Seed of all random numbers: image order, augmentation, dropout, first weights."
    )
    flags.DEFINE_boolean(
        "deterministic",
        TrainConfig.deterministic,
        "Use only operations with reproducible results. Slower on GPUs.",
    )
    flags.DEFINE_integer(
        "checkpoint_every",
        TrainConfig.checkpoint_every,
        "Steps between checkpoints. 0: save only at the end of each epoch.",
    )
    flags.DEFINE_enum(
        "precision",
        TrainConfig.precision,
        ["auto", *recipes.PRECISIONS],
        "Keras dtype policy for training. auto: mixed precision on GPUs that support it, else float32.",
    )
    flags.DEFINE_enum(
        "strategy",
        TrainConfig.strategy,
        recipes.STRATEGIES,
        "Devices to train on. none: one device; mirrored: all GPUs of this machine, each GPU gets a part of each batch;"
        " auto: mirrored if there is a GPU, else none; multi_worker: all devices of the processes listed in TF_CONFIG.",
    )
    flags.DEFINE_boolean("tensorboard", TrainConfig.tensorboard, "Also write the history for TensorBoard.")
    _define_recipe_flags()
    if not recipes.reads_features(trainer):
        _define_image_flags()


def _define_recipe_flags() -> None:
    flags.DEFINE_integer("batch_size", None, "Images per step, over all devices. Default: see the recipe.")
    flags.DEFINE_list(
        "epochs",
        None,
        "Epochs of each phase, as in 5,8. finetune has two phases, the other trainers have one. 0: skip the phase."
        " Default: see the recipe.",
    )
    flags.DEFINE_list(
        "learning_rate",
        None,
        "Learning rate of each phase, as in 3e-3,3e-4. If there is a warm-up, this is the rate after it. Default: see"
        " the recipe.",
    )
    flags.DEFINE_string(
        "optimizer", None, "Name of a Keras optimizer: adam, adamw, sgd, rmsprop, ... Default: see the recipe."
    )
    flags.DEFINE_string(
        "optimizer_kwargs",
        None,
        "Arguments of the optimizer, as in"
        " weight_decay=1e-4,global_clipnorm=1,use_ema=True,gradient_accumulation_steps=4. Default: see the recipe.",
    )
    flags.DEFINE_enum(
        "schedule",
        None,
        recipes.SCHEDULES,
        "Learning rate schedule. cosine: falls to 0 by the end of the phase; plateau: divided by 10 when the validation"
        " loss stops falling. Default: see the recipe.",
    )
    flags.DEFINE_integer(
        "warmup_steps",
        None,
        "Steps over which the learning rate rises from 0. Needs --schedule=cosine. Default: see the recipe.",
    )
    flags.DEFINE_integer(
        "patience",
        None,
        "If the validation loss does not fall for this many epochs, divide the learning rate by 10. Needs"
        " --schedule=plateau. Default: see the recipe.",
    )
    flags.DEFINE_integer(
        "early_stopping",
        None,
        "If the validation loss does not fall for this many epochs, end the phase and restore the weights of its best"
        " epoch. 0: never. Default: see the recipe.",
    )
    flags.DEFINE_float(
        "label_smoothing",
        None,
        "Share of each target that is spread evenly over all classes, at least 0 and less than 1. Default: see the"
        " recipe.",
    )
    flags.DEFINE_enum(
        "class_weights",
        None,
        recipes.CLASS_WEIGHTS,
        "balanced: weight each image in the loss by the inverse frequency of its class. Default: see the recipe.",
    )


def _define_image_flags() -> None:
    flags.DEFINE_enum(
        "augment",
        None,
        [*PRESETS, *FORMER_NAMES],
        "Preset of random changes to the training images. document, document_transfer: old names of reference,"
        " reference_transfer. Default: see the recipe.",
    )
    flags.DEFINE_float(
        "mixup", None, "Share of the images that are blended with another image, 0 to 1. Default: see the recipe."
    )
    flags.DEFINE_float(
        "cutmix", None, "Share of the images that get a piece of another image, 0 to 1. Default: see the recipe."
    )
    flags.DEFINE_enum(
        "cache",
        TrainConfig.cache,
        recipes.CACHES,
        "memory: keep decoded training images in memory; off: decode them in every epoch; auto: memory if there are"
        " several epochs and the images fit into --cache_mb.",
    )
    flags.DEFINE_integer("cache_mb", TrainConfig.cache_mb, "Memory limit for decoded training images, in MB.")
    flags.DEFINE_enum(
        "order",
        TrainConfig.order,
        recipes.ORDERS,
        "Order of the training images. shuffled: random; balanced: random, all classes equally often; blocks: random"
        " blocks of neighboring records, for slow storage.",
    )
    flags.DEFINE_integer("block", TrainConfig.block, "Records per block. Needs --order=blocks.")
    flags.DEFINE_boolean(
        "probe",
        TrainConfig.probe,
        "Before training, measure the speed of the input and of the model and print which of them is slower.",
    )


def define_model_flags(weights: str = ModelConfig.weights) -> None:
    """Define the flags that choose a backbone.

    Args:
        weights: Default of --weights.
    """
    flags.DEFINE_string(
        "backbone",
        None,
        f"Network without its head. One of {', '.join(backbones.BACKBONES)}. Default: see the recipe.",
    )
    flags.DEFINE_string(
        "backbone_kwargs", "", "Arguments of the backbone's Keras constructor, as in alpha=0.25,minimalistic=True."
    )
    usage.define_path(
        "weights",
        weights,
        "Weights with which the backbone starts. imagenet: downloaded by Keras; none: random; or the path of a .h5 or"
        " .weights.h5 file without the top layers.",
    )
    flags.DEFINE_integer(
        "image_size",
        None,
        "Height and width of the network's input in pixels. Default: the size in the recipe. If the recipe has none,"
        " the size of the backbone.",
    )


def train(trainer: str, argv: Sequence[str], tfrecords: str | None = None, **options: Any) -> None:
    """Train with the settings of the flags. The main function of every trainer calls this function.

    Args:
        trainer: Name of the trainer, a key of `recipes.RECIPES`.
        argv: Arguments of `main`.
        tfrecords: Dataset directory. If None, the value of --tfrecords.
        **options: Further arguments of the function that makes the recipe.

    Raises:
        UserError: A flag has a value that is not allowed, or `training.train` raises it.
    """
    command.no_arguments(argv)
    tfrecords = tfrecords or FLAGS.tfrecords
    if not tfrecords:
        raise UserError(
            "--tfrecords is missing: the dataset to train on. Pass the --out of python -m tfrecord_tools.convert."
        )
    if "block" in FLAGS and FLAGS["block"].present and FLAGS.order != "blocks":
        raise UserError(f"--block={FLAGS.block}: only --order=blocks uses it. Add --order=blocks, or remove --block.")
    config = command.from_flags(TrainConfig, tfrecords=tfrecords)
    name = recipes.current_name(FLAGS.recipe)
    chosen = recipe(recipes.RECIPES[trainer][name], **options)
    data = open_dataset(config.tfrecords)
    if chosen.model.weights == "none" and trainer != "scratch":
        if chosen.phases[0].trainable == "scratch":
            command.say("--weights=none: there are no pretrained weights, so the whole network is trained from scratch")
        else:
            command.say("--weights=none: the backbone has random weights and is not pretrained")

    from trainers import training  # Imported late: wrong flags are reported without waiting for TensorFlow.

    training.train(trainer, data, chosen, config, {"recipe": name} | in_effect(chosen), command.say)


def recipe(make: Callable[..., Recipe], **options: Any) -> Recipe:
    """Make a recipe and replace its values with those of the flags that were given.

    Args:
        make: Function that makes the recipe, such as `recipes.finetune`.
        **options: Further arguments of `make`.

    Raises:
        UserError: A flag has a value that is not allowed.
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
        make(**model, **options),
        epochs=_numbers("epochs", int),
        learning_rate=_numbers("learning_rate", float),
        phase=phase,
        **_given("unfreeze", *_RECIPE),
    )


def in_effect(recipe: Recipe) -> dict[str, Any]:
    """Return the settings of a recipe that --recipe and flags choose, as the training uses them."""
    model = {name: getattr(recipe.model, name) for name in ("backbone", "backbone_kwargs", "weights")}
    return model | {
        "image_size": recipe.model.size,
        "epochs": {phase.name: phase.epochs for phase in recipe.phases},
        "learning_rate": {phase.name: phase.learning_rate for phase in recipe.phases},
        **{name: getattr(recipe, name) for name in _RECIPE},
    }


def _given(*names: str) -> dict[str, Any]:
    """Return the values of the flags with these names, without flags that are undefined or not given."""
    return {name: FLAGS[name].value for name in names if name in FLAGS and FLAGS[name].value is not None}


def _numbers(name: str, kind: type[int] | type[float]) -> list[Any] | None:
    values = FLAGS[name].value
    try:
        return None if values is None else [kind(value) for value in values]
    except ValueError:
        example = "whole numbers, as in 5,8" if kind is int else "numbers, as in 3e-3,3e-4"
        raise UserError(f"--{name}={','.join(values)}: must be {example}.") from None
