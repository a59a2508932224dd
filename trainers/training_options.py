"""The options of the trainers, and `train`, which trains with them. TensorFlow is imported only then.

The function `trainers.finetune(tfrecords="out", epochs=[5, 10])` and the command `python -m trainers.finetune
--tfrecords=out --epochs=5,10` both use this module. So they give the same weights, and one can continue a run of the
other. TensorFlow is imported only when a training starts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypedDict

from tfrecord_tools.augmentation import named
from tfrecord_tools.augmentation.named import Augment
from tfrecord_tools.base import cache_options, options, sizes, user_code
from tfrecord_tools.base.files import StrPath
from tfrecord_tools.base.options import Option
from tfrecord_tools.decoding.geometry import FITS, Geometry
from tfrecord_tools.errors import UserError
from tfrecord_tools.records import open_dataset
from trainers import backbones, recipes
from trainers.auditing.issues import KINDS
from trainers.fitting import parents
from trainers.models import engines
from trainers.recipes import Recipe, TrainConfig
from trainers.tracking.logbook import TRACKERS

# Options with the names of fields. `_PHASE`: fields of `Phase`; the option sets the field in all phases. `_RECIPE`:
# fields of `Recipe`. `_MODEL`: fields of `ModelConfig`.
_PHASE = ("optimizer", "optimizer_kwargs", "schedule", "warmup_steps", "patience")
_RECIPE = ("batch_size", "crop", "augment", "label_smoothing", "mixup", "cutmix", "class_weights", "early_stopping")
_FIT = ("fit",)  # Also a field of `Recipe`, but settings.json has it only if it is "pad" (see `Geometry.stored`).
_MODEL = ("model", "backbone", "backbone_kwargs", "custom_objects", "weights", "scaling", "image_size")
INTERRUPTED = "interrupted: run the same command again to continue"
_SETTINGS = frozenset(field.name for field in dataclasses.fields(TrainConfig))


# --- Types for editors and type checkers. A test compares them with the tables. --------------------------------------


# A function that receives the lines for the user, names of experiment trackers, or several of both.
Log: TypeAlias = str | Callable[[str], object] | Sequence[str | Callable[[str], object]]


class TrainingOptions(TypedDict, total=False):
    """Options that all trainers have."""

    recipe: str
    tfrecords: StrPath
    cache_dir: StrPath
    cache_bytes: int
    run: StrPath
    init_from: StrPath
    more_epochs: int
    records: StrPath
    fold: int
    audit: StrPath
    drop_issues: Sequence[str]
    crop: float
    fit: str
    seed: int
    deterministic: bool
    checkpoint_every: int
    precision: str
    strategy: str
    log: Log
    log_group: str
    tensorboard: bool
    batch_size: int
    epochs: int | Sequence[int]
    learning_rate: float | Sequence[float]
    optimizer: str
    optimizer_kwargs: Mapping[str, Any]
    schedule: str
    warmup_steps: int
    patience: int
    early_stopping: int
    label_smoothing: float
    class_weights: str | Mapping[str, float]
    backbone: StrPath | Callable[..., Any]
    backbone_kwargs: Mapping[str, Any]
    custom_objects: Sequence[str]
    weights: StrPath
    scaling: str
    image_size: int | str | tuple[int, int]


class ImageOptions(TrainingOptions, total=False):
    """Options of the trainers that read images in every epoch."""

    augment: Augment
    mixup: float
    cutmix: float
    cache: str
    cache_mb: int
    order: str
    block: int
    probe: bool


class ScratchOptions(ImageOptions, total=False):
    """Options of `trainers.scratch`."""

    csv: StrPath
    model: StrPath | Callable[..., Any]


class FinetuneOptions(ImageOptions, total=False):
    """Options of `trainers.finetune`."""

    unfreeze: str


class FeaturesOptions(TrainingOptions, total=False):
    """Options of `trainers.features`."""

    head: str
    features: StrPath
    engine: str


# --- The tables ------------------------------------------------------------------------------------------------------

FIT_HELP = (
    "How images are fitted into --image_size. crop: the center of the image is used; pad: the whole image is used, and"
    " the rest is filled with gray; stretch: the whole image is stretched."
)
_TRAINING = (
    Option(
        "tfrecords",
        "path",
        "Directory of the dataset, as written by tfrecord_tools.convert, or its URL in a bucket, such as"
        " s3://bucket/pets.",
    ),
    *cache_options.OPTIONS,
    Option(
        "run",
        "path",
        "Run directory. Default: an unfinished run with the same settings in runs/ is continued. If there is no such"
        " run, a new run is started in runs/.",
        written=True,
    ),
    Option(
        "init_from",
        "path",
        "Run directory or .keras file of an earlier training. The new training uses the same network and"
        " starts with its trained weights. Do not pass --weights. If the classes differ, the classification layers"
        " start with random weights.",
    ),
    Option(
        "more_epochs",
        "integer",
        "Number N of epochs that are added to a finished run. Pass the finished run with --run. A new run with the"
        " same settings is made in the directory RUN-moreN. The new run starts with the weights, the optimizer state"
        " and the history of the finished run.",
    ),
    Option(
        "records",
        "path",
        "File (text or Parquet) with the numbers of the training records to use. The first record has the number 0."
        " With --fold, the file must be a table (CSV or Parquet) with the columns 'split', 'record' and 'fold'."
        " Default: all training records.",
    ),
    Option(
        "fold",
        "integer",
        "Number of the fold to validate on. The table of folds is the file of --records. The records of all other"
        " folds are used for training. Default: the splits of the dataset are used.",
    ),
    Option(
        "audit",
        "path",
        "Directory of an audit of the dataset, written by trainers.audit. The report also shows the accuracy on the"
        " images without issues. Default: the audit of this dataset in audits/, if there is such an audit.",
    ),
    Option(
        "drop_issues",
        "names",
        "Kinds of issues, for example label,off_topic. A training image is left out if the audit lists such an issue"
        f" for the image, with a score of at least 0.5. The kinds are {', '.join(KINDS)}. Default: all images are"
        " used.",
        default=[],
    ),
    Option(
        "crop",
        "number",
        "Size of the central square that is cut from each image: 0.875 means 0.875 times the shorter side of the"
        " image. If --image_size is not square, a rectangle with the aspect ratio of --image_size is cut. 0: the whole"
        " image is stretched. Default: the value of the recipe (--recipe), listed in docs/trainers.md.",
    ),
    Option("fit", "text", f"{FIT_HELP} Default: stretch if --crop is 0, else crop.", choices=FITS),
    Option(
        "seed",
        "integer",
        "Seed of all random numbers: image order, augmentation, dropout, initial weights.",
        default=TrainConfig.seed,
    ),
    Option(
        "deterministic",
        "switch",
        "Use only operations with reproducible results. The training is then slower on GPUs.",
        default=TrainConfig.deterministic,
    ),
    Option(
        "checkpoint_every",
        "integer",
        "Number of steps between two checkpoints. 0: a checkpoint is saved only at the end of each epoch.",
        default=TrainConfig.checkpoint_every,
    ),
    Option(
        "precision",
        "text",
        "Keras dtype policy for training. auto: mixed precision on GPUs that support it, else float32.",
        default=TrainConfig.precision,
        choices=("auto", *recipes.PRECISIONS),
    ),
    Option(
        "strategy",
        "text",
        "Devices to train on. none: one device; mirrored: all GPUs of this machine, and each GPU gets a part of each"
        " batch; auto: mirrored if there is a GPU, else none; multi_worker: all devices of the processes that the"
        " environment variable TF_CONFIG lists.",
        default=TrainConfig.strategy,
        choices=recipes.STRATEGIES,
    ),
    Option(
        "log",
        "outputs",
        "Experiment trackers that get settings, metrics and report: tensorboard, mlflow, wandb (Weights & Biases), or"
        " several, as in mlflow,wandb. In Python, log can also be a function that gets the lines that the command"
        " prints, or a list of trackers and functions. Default: no tracker, and the lines are printed.",
        default=[],
        choices=tuple(TRACKERS),
    ),
    Option(
        "log_group",
        "text",
        "Name of a group of runs in the trackers of --log. Weights & Biases shows the runs of a group together. MLflow"
        " stores the name as the tag tfrecord_tools.group. Default: the run belongs to no group.",
    ),
    Option(
        "tensorboard",
        "switch",
        "Short form of --log=tensorboard.",
        default=TrainConfig.tensorboard,
    ),
    Option(
        "batch_size",
        "integer",
        "Number of images per step, on all devices together. Default: the value of the recipe (--recipe), listed in"
        " docs/trainers.md.",
    ),
    Option(
        "epochs",
        "integers",
        "Number of epochs of each phase, as in 5,8. finetune has two phases, and all other trainers have one phase. 0:"
        " the phase is skipped. Default: the value of the recipe (--recipe), listed in docs/trainers.md.",
    ),
    Option(
        "learning_rate",
        "numbers",
        "Learning rate of each phase, as in 3e-3,3e-4. With --warmup_steps, this is the learning rate after the"
        " warm-up. Default: the value of the recipe (--recipe), listed in docs/trainers.md.",
    ),
    Option(
        "optimizer",
        "text",
        "Name of a Keras optimizer, for example adam, adamw, sgd or rmsprop. Default: the value of the recipe"
        " (--recipe), listed in docs/trainers.md.",
    ),
    Option(
        "optimizer_kwargs",
        "arguments",
        "Arguments of the optimizer, as in"
        " weight_decay=1e-4,global_clipnorm=1,use_ema=True,gradient_accumulation_steps=4. Default: the arguments of"
        " the recipe (--recipe), listed in docs/trainers.md.",
        example="weight_decay=1e-4,global_clipnorm=1",
    ),
    Option(
        "schedule",
        "text",
        "Learning rate schedule. constant: the learning rate stays the same; cosine: it falls to 0 by the end of the"
        " phase; plateau: it is divided by 10 when the validation loss stops falling. Default: the value of the recipe"
        " (--recipe), listed in docs/trainers.md.",
        choices=recipes.SCHEDULES,
    ),
    Option(
        "warmup_steps",
        "integer",
        "Number of steps in which the learning rate rises from 0 to --learning_rate. Needs --schedule=cosine. Default:"
        " 0, which means no warm-up.",
    ),
    Option(
        "patience",
        "integer",
        "Number of epochs. If the validation loss does not fall for this number of epochs, the learning rate is"
        " divided by 10. Needs --schedule=plateau. Default: 3.",
    ),
    Option(
        "early_stopping",
        "integer",
        "Number of epochs. If the validation loss does not fall for this number of epochs, the phase ends, and the"
        " weights of its best epoch are restored. Default: 0, which means that no phase ends early.",
    ),
    Option(
        "label_smoothing",
        "number",
        "Fraction of each target that is spread evenly over all classes. The fraction is at least 0 and less than 1."
        " Default: the value of the recipe (--recipe), listed in docs/trainers.md.",
    ),
    Option(
        "class_weights",
        "weights",
        "Weight of each class in the loss. Pairs as in cats:1,dogs:3 give each class its own weight. balanced: classes"
        " with fewer images get larger weights (the inverse of their frequency). none: all classes have the same"
        " weight. Default: none.",
        choices=recipes.CLASS_WEIGHTS,
        example="cats:1,dogs:3",
    ),
)
_IMAGES = (
    Option(
        "augment",
        "augmentation",
        f"Random changes of the training images: {named.FORMS}. The function takes a batch of images and one random"
        " number (key) per image. It returns the changed images. Default: the value of the recipe (--recipe), listed"
        " in docs/trainers.md.",
    ),
    Option("mixup", "number", "Fraction of the images that are blended with another image, from 0 to 1. Default: 0."),
    Option(
        "cutmix",
        "number",
        "Fraction of the images that get a piece of another image, from 0 to 1. Default: 0.",
    ),
    Option(
        "cache",
        "text",
        "memory: keep decoded training images in memory; off: decode the training images in every epoch; auto: use"
        " memory if there are several epochs and the decoded images fit into --cache_mb, else off.",
        default=TrainConfig.cache,
        choices=recipes.CACHES,
    ),
    Option("cache_mb", "integer", "Memory limit for decoded training images, in MB.", default=TrainConfig.cache_mb),
    Option(
        "order",
        "text",
        "Order of the training images. shuffled: random order; balanced: random order in which all classes occur"
        " equally often; blocks: random order of blocks of neighboring records, which is faster on slow storage.",
        default=TrainConfig.order,
        choices=recipes.ORDERS,
    ),
    Option(
        "block", "integer", "Number of neighboring records per block. Needs --order=blocks.", default=TrainConfig.block
    ),
    Option(
        "probe",
        "switch",
        "Before training, measure how fast images are read and how fast the model trains, and print which of the two is"
        " slower.",
        default=TrainConfig.probe,
    ),
)


def _recipe_option(trainer: str) -> Option:
    return Option(
        "recipe",
        "text",
        "Recipe: the values of the flags that you do not pass, listed in docs/trainers.md. default: the recipe with"
        " the best results; reference: the settings of the article on which this project is based; document: old name"
        " of reference.",
        default="default",
        choices=(*recipes.RECIPES[trainer], "document"),
    )


BACKBONE_KWARGS = Option(
    "backbone_kwargs",
    "arguments",
    "Arguments of the function that creates the network, as in alpha=0.25,minimalistic=True. For a network in a .keras"
    " file, layer='NAME' chooses the layer that computes the features.",
    default="",
    example="alpha=0.25,minimalistic=True",
)
CUSTOM_OBJECTS = Option(
    "custom_objects",
    "names",
    "Python modules and files that register the custom layers of a .keras file, as in mine.layers or layers.py. The"
    " code in the modules and files is run. Default: only Keras's own layers can be loaded.",
    default=[],
)
SCALING = Option(
    "scaling",
    "text",
    "How pixel values from 0 to 255 are scaled for the network. own: they are not scaled, because the network itself"
    " scales them; unit: scaled to 0..1; tf: scaled to -1..1; torch: scaled with the mean and the standard deviation"
    " of ImageNet; caffe: changed to BGR, then minus the mean of ImageNet. Default: for a network of Keras, the"
    " scaling that it needs; for your own network, own.",
    choices=backbones.SCALINGS,
)
_WEIGHTS = (
    "Weights with which the network starts. imagenet: weights that Keras downloads; none: random weights; own: the"
    " weights that your own network already has; FILE: the path of a .h5 or .weights.h5 file for the network without"
    " its classification layers."
)


def _model_options(weights: str) -> tuple[Option, ...]:
    """Return the options that choose a backbone; `weights` is the default of its weights."""
    return (
        Option(
            "backbone",
            "function",
            f"Network without its classification layers: a name, or a network of your own ({backbones.FORMS}). The"
            " function takes input_shape and returns a keras.Model. Default: the value of the recipe (--recipe),"
            f" listed in docs/trainers.md. The names are {', '.join(backbones.BACKBONES)}.",
            hint="Pass further arguments of the function as backbone_kwargs. If the network exists already, save it"
            " with network.save('network.keras'), and pass the path of this file.",
        ),
        BACKBONE_KWARGS,
        CUSTOM_OBJECTS,
        Option("weights", "path", f"{_WEIGHTS} For a network of your own, the default is own.", default=weights),
        SCALING,
        Option(
            "image_size",
            "size",
            "Height and width of the network's input in pixels: one number for a square, or HEIGHTxWIDTH as in 96x256."
            " Default: the size in the recipe (--recipe). If the recipe has no size, the default is the size for which"
            " the backbone was trained.",
        ),
    )


_OWN: Mapping[str, tuple[Option, ...]] = {
    "scratch": (
        Option(
            "csv",
            "path",
            "Directory with CSV files of pixel values, one file per split (train.csv, ...), as written by"
            " tfrecord_tools.to_csv. Pass either --csv or --tfrecords.",
        ),
        Option(
            "model",
            "function",
            f"Function of yours that makes the whole classifier: {user_code.FORMS}. The function takes input_shape and"
            " classes, and returns a keras.Model. If this model is compiled, its loss and its optimizer are used."
            " Default: the classifier is the network of --backbone with new classification layers.",
            hint="Pass further arguments of the function as backbone_kwargs.",
        ),
    ),
    "features": (
        Option(
            "head",
            "text",
            "Classification layers (the head). dense: a hidden layer with 256 units, and the output layer; linear:"
            " only the output layer, which is a logistic regression.",
            default="dense",
            choices=("dense", "linear"),
        ),
        Option(
            "features",
            "path",
            "Directory for saved features. Later trainings on the same images read the saved features from this"
            " directory.",
            default=TrainConfig.features,
            written=True,
        ),
        engines.OPTION,
    ),
    "frozen": (),
    "finetune": (
        Option(
            "unfreeze",
            "text",
            "Layers of the backbone that the second phase trains. last_stage: the last layers, with outputs of the"
            " smallest height and width; all: all layers; N (a number): the last N layers with weights; a regular"
            " expression: the layers with matching names. BatchNormalization layers stay frozen, except with"
            " --weights=none. Default: last_stage.",
        ),
    ),
}


def _options_of(trainer: str) -> tuple[Option, ...]:
    images = () if recipes.reads_features(trainer) else _IMAGES
    weights = backbones.NONE if trainer == "scratch" else backbones.IMAGENET
    return (_recipe_option(trainer), *_TRAINING, *images, *_model_options(weights), *_OWN[trainer])


# Trainer -> its options.
OPTIONS: Mapping[str, tuple[Option, ...]] = {trainer: _options_of(trainer) for trainer in recipes.RECIPES}


# --- A training ------------------------------------------------------------------------------------------------------


def train(trainer: str, given: Mapping[str, Any], log: Callable[[str], object] = print) -> Path:
    """Train with options.

    Args:
        trainer: Name of the trainer, a key of `OPTIONS`.
        given: Option -> value. Options that are not given are missing.
        log: Receives the lines for the user, unless the option `log` has a function.

    Returns:
        The run directory.

    Raises:
        TypeError: An option does not exist.
        UserError: A value is not allowed, or the training failed in a way that the user can correct.
    """
    values, log = _with_trackers(options.checked(OPTIONS[trainer], given), log)
    values, made = _with_csv(values, log) if "csv" in values else (values, {})
    values = _of_finished_run(trainer, values) if "more_epochs" in values else values
    if "tfrecords" not in values:
        raise UserError(
            "--tfrecords is missing. Pass the directory of the dataset, as written by python -m tfrecord_tools.convert."
        )
    config = TrainConfig(**{name: value for name, value in values.items() if name in _SETTINGS})
    engines.check(config.engine)
    if "block" in values and config.order != "blocks":
        raise UserError(f"--block={config.block}: only --order=blocks uses it. Add --order=blocks, or remove --block.")
    chosen, flags = _recipe_and_flags(trainer, values, made)
    data = open_dataset(config.tfrecords, cache_dir=config.cache_dir, cache_bytes=config.cache_bytes)
    if chosen.model.weights == backbones.NONE and trainer != "scratch" and config.init_from is None:
        if chosen.phases[0].trainable == "scratch":
            log("--weights=none: there are no pretrained weights, so the whole network is trained from scratch")
        else:
            log("--weights=none: the backbone has random weights and is not pretrained")
    if chosen.model.weights == backbones.OWN and chosen.model.model is None and "weights" not in values:
        log(
            f"--weights=own: the training starts with the weights of {chosen.model.backbone}. If these weights are"
            " random, pass --weights=none"
        )

    from trainers import training  # Imported late: wrong flags are reported without waiting for TensorFlow.

    return training.train(trainer, data, chosen, config, flags, log)


def _with_trackers(
    values: dict[str, Any], log: Callable[[str], object]
) -> tuple[dict[str, Any], Callable[[str], object]]:
    """Return the values with only trackers in `log`, and the function that receives the lines."""
    outputs = values.get("log", [])
    functions = [one for one in outputs if callable(one)] or [log]

    def to_all(line: str) -> None:
        for function in functions:
            function(line)

    return values | {"log": [one for one in outputs if not callable(one)]}, to_all


def _of_finished_run(trainer: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a training that adds epochs to a run: those of the run, then the given ones."""
    named = "init_from" if "init_from" in values else "run"
    if named not in values:
        raise UserError(
            f"--more_epochs={values['more_epochs']}: --run is missing. Pass the run directory of the finished run that"
            " you want to train further."
        )
    run = parents.find(values[named], named).parent
    if (trained := parents.trainer_of(run)) != trainer:
        raise UserError(
            f"--{named}={values[named]}: was trained by trainers.{trained}. Only that trainer can train it further. Run"
            f" python -m trainers.{trained} --run={run} --more_epochs={values['more_epochs']}."
        )
    parents.check_records(run, values)
    fresh = {} if named == "init_from" else {"run": f"{run}-more{values['more_epochs']}"}
    return {**parents.config_of(run), **values, **fresh, "init_from": str(run)}


def _recipe_and_flags(
    trainer: str, values: Mapping[str, Any], made: Mapping[str, Any]
) -> tuple[Recipe, dict[str, Any]]:
    """Return the recipe of a training, and its flags for settings.json.

    With --more_epochs, the recipe is the recipe of the finished run. If options of the recipe are given, too, the
    recipe is made from them. Later, it is compared with the recipe of the run.
    """
    if "more_epochs" in values and not values.keys() - _SETTINGS - {"csv"}:
        run = Path(values["init_from"])
        return parents.recipe_of(run), parents.flags_of(run)
    chosen = recipe(trainer, values, **made)
    return chosen, {"recipe": _name(values)} | in_effect(chosen)


def _name(values: Mapping[str, Any]) -> str:
    return recipes.current_name(values.get("recipe", "default"))


def _with_csv(values: dict[str, Any], log: Callable[[str], object]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Convert CSVs of pixels to a dataset. Return the values with the new dataset, and its image size."""
    from trainers.fitting import csv_dataset

    tfrecords, size = csv_dataset.as_dataset(values["csv"], values.get("tfrecords"), log)
    made = {} if "image_size" in values or _name(values) == "reference" else {"image_size": size}
    return values | {"tfrecords": tfrecords}, made


def recipe(trainer: str, values: Mapping[str, Any], **more: Any) -> Recipe:
    """Make the recipe of a trainer. The values of options replace those of the recipe.

    Args:
        trainer: Name of the trainer.
        values: Option -> checked value.
        **more: Further arguments of the function that makes the recipe.

    Raises:
        UserError: A value is not allowed.
    """
    name, model = _name(values), _model_values(values)
    if "weights" in values:
        backbones.check_weights(values["weights"])
    if "model" in values:
        _check_model(name, values)
    if "head" in values:
        more["head"] = values["head"]
    if trainer == "scratch" and name == "reference":
        more["augmented"] = named.name_of(values.get("augment", "none"), "--augment=") != "none"
    _check_crop_and_fit(values)
    inherits = "init_from" in values and "more_epochs" not in values
    model = _inherited_network(values, model) if inherits else model
    more = {argument: value for argument, value in more.items() if argument not in model}
    made = recipes.RECIPES[trainer][name](**model, **more)
    if inherits:  # The recipe was made for pretrained weights. They come from the run.
        made = dataclasses.replace(made, model=made.model.without_weights())
    return recipes.override(
        made,
        epochs=values.get("epochs"),
        learning_rate=values.get("learning_rate"),
        phase=_some(values, _PHASE),
        unfreeze=values.get("unfreeze"),
        **_some(values, _RECIPE + _FIT),
    )


def _check_model(name: str, values: Mapping[str, Any]) -> None:
    """Raise UserError if --model is given together with options of a backbone or of another recipe."""
    shown = f"--model={values['model']}"
    if not user_code.is_named(values["model"]):
        raise UserError(f"{shown}: must be {user_code.FORMS}. The function must return the whole model.")
    if name != "default":
        raise UserError(f"{shown} with --recipe={name}: this recipe has its own network. Remove one of the two.")
    if "backbone" in values:
        raise UserError(
            f"{shown} with --backbone={values['backbone']}: --model is the whole network. Remove one of the two."
        )


def _model_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the given values that are fields of `ModelConfig`."""
    given = _some(values, _MODEL)
    if "custom_objects" in given:
        given["custom_objects"] = tuple(given["custom_objects"]) or None
    return given


def _inherited_network(values: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the network of another run. Given settings replace them.

    If --backbone names another network, the settings of the run are left out. A later comparison of the two networks
    then reports the error.
    """
    if "weights" in values:
        raise UserError(
            f"--weights={values['weights']} and --init_from={values['init_from']}: only one of these flags is"
            " allowed. Remove the other flag."
        )
    path = parents.find(values["init_from"])
    network = parents.network_of(path)
    if given.get("backbone", network.get("backbone")) != network.get("backbone"):
        network = {}
    if "head" in values:
        network = {name: value for name, value in network.items() if name not in ("hidden", "dropout")}
    arguments = {**network.get("backbone_kwargs", {}), **given.get("backbone_kwargs", {})}
    chosen = {**network, **given, "backbone_kwargs": arguments}
    # A placeholder, so that the recipe is made as for pretrained weights.
    is_own = chosen.get("model") is not None or backbones.is_own(chosen.get("backbone", ""))
    return chosen | {"weights": backbones.OWN if is_own else str(path)}


def _check_crop_and_fit(values: Mapping[str, Any]) -> None:
    """Raise UserError if --crop and --fit are both given and contradict each other."""
    if "crop" not in values or "fit" not in values:
        return
    Geometry.of(1, values["crop"], values["fit"], "--")
    if values["fit"] == "crop" and not values["crop"]:
        raise UserError(
            "--crop=0 with --fit=crop: --crop must be above 0 and at most 1. Pass another --crop, or --fit=stretch."
        )


def in_effect(recipe: Recipe) -> dict[str, Any]:
    """Return the settings of a recipe as the training uses them, for settings.json."""
    names = ("backbone" if recipe.model.model is None else "model", "backbone_kwargs", "weights")
    size = recipe.model.size
    return {
        **{name: getattr(recipe.model, name) for name in names},
        "image_size": size if isinstance(size, int) else sizes.text(size),
        "epochs": {phase.name: phase.epochs for phase in recipe.phases},
        "learning_rate": {phase.name: phase.learning_rate for phase in recipe.phases},
        **{name: getattr(recipe, name) for name in _RECIPE},
        "augment": named.name_of(recipe.augment),
        **{name: value for name, value in recipe.geometry.stored().items() if name != "image_size"},
    }


def _some(values: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: values[name] for name in names if name in values}
