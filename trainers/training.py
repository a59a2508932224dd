"""A training from a dataset directory to a run directory, as every trainer does it."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tfrecord_tools import dataset, files
from tfrecord_tools.augment_config import PRESETS
from tfrecord_tools.errors import UserError
from tfrecord_tools.order import Balanced, Blocks, Order, Shuffled
from tfrecord_tools.records import Dataset, Records, read_numbers
from trainers import device, models, probe, run_directory
from trainers.checkpoint import Checkpointer
from trainers.fit import Task, compile_model, fit
from trainers.recipes import Recipe, TrainConfig

HELD_OUT = 0.2  # Of the training images, where the dataset has no validation split.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Splits:
    """What is learned from and what is looked at.

    Attributes:
        train: Records to learn from.
        validation: Records that choices are made on.
        validation_name: What these are, in words.
    """

    train: Records
    validation: Records
    validation_name: str


def train(trainer: str, data: Dataset, recipe: Recipe, config: TrainConfig, flags: dict[str, Any]) -> dict[str, Any]:
    """Trains as the recipe says, or goes on where an earlier process was stopped, and prints where the results lie.

    Args:
        trainer: Its name.
        data: What to train on.
        recipe: The model and its phases.
        config: The rest.
        flags: What the user may choose, flag name -> value in effect; a run keeps to it.

    Returns:
        The content of metrics.json.

    Raises:
        UserError: What the user can mend; no run directory has been made then.
    """
    run_directory.check(config.run)
    splits = _split(data, config)
    found = device.set_up(precision=config.precision, seed=config.seed, deterministic=config.deterministic)
    _check_cache(splits.train, recipe, config)
    settings = _settings(data, recipe, config, flags, found)
    metrics = run_directory.results(config.run, settings)
    if metrics is not None:
        print(f"run: {config.run} is finished already; pass another --run to train once more")
        _print_results(Path(str(config.run)), metrics)
        return metrics
    classifier = models.build(recipe.model, len(data.class_names))
    steps = max(1, round(len(splits.train) / recipe.batch_size))
    print(f"data: {data.directory} ({data.name}), {len(data.class_names)} classes: {', '.join(data.class_names)}")
    print(f"      {len(splits.train):,} to train on, {len(splits.validation):,} to validate: {splits.validation_name}")
    print(f"device: {found}")
    print(
        f"model: {models.describe(recipe.model)}, {recipe.model.size} px, weights {recipe.model.weights}, "
        f"{classifier.model.count_params():,} parameters; {steps} steps of {recipe.batch_size} images see each once"
    )
    try:
        with run_directory.opened(config.run, settings, trainer) as run:
            print(f"run: {run}", flush=True)
            metrics = run_directory.results(str(run), settings)  # Another process may just have finished it.
            if metrics is None:
                metrics = _train_in(run, data, splits, recipe, config, classifier, steps, found)
    except tf.errors.OpError as error:
        damage = splits.train.damage or splits.validation.damage
        if not damage:
            raise
        raise UserError(damage) from error
    except OSError as error:
        what = f"{error.filename}: " if error.filename else ""
        raise UserError(
            f"{what}{error.strerror or error}. Mend the cause and run the same command again: it continues."
        ) from error
    _print_results(run, metrics)
    return metrics


def _train_in(
    run: Path,
    data: Dataset,
    splits: Splits,
    recipe: Recipe,
    config: TrainConfig,
    classifier: models.Classifier,
    steps: int,
    found: device.Device,
) -> dict[str, Any]:
    """Fits, evaluates and saves; each of these goes on or is repeated when the process before was killed in it."""
    batch_size, image_size, crop = recipe.batch_size, recipe.model.size, recipe.crop
    validation = dataset.eval_batches(splits.validation, batch_size=batch_size, image_size=image_size, crop=crop)
    cache = _cached(splits.train, recipe, config)
    batches = functools.partial(
        dataset.train_batches,
        splits.train,
        batch_size=batch_size,
        image_size=image_size,
        crop=crop,
        seed=config.seed,
        order=_order(splits.train, config),
        augment=PRESETS[recipe.augment],
        cache=cache,
    )
    if config.probe:
        print(probe.verdict(splits.train, recipe, len(data.class_names), cache, found), flush=True)
    task = Task(
        model=classifier.model,
        set_trainable=classifier.set_trainable,
        batches=lambda step: batches(start_step=step),
        validation=validation,
        steps_per_epoch=steps,
        jit_compile=found.jit_compile,
    )
    write_history = functools.partial(run_directory.write_history, run)
    checkpointer = Checkpointer(run / run_directory.CHECKPOINT, every=config.checkpoint_every, on_epoch=write_history)
    if checkpointer.position.global_step:
        print(f"resumed: {checkpointer.position.global_step:,} steps are done", flush=True)
    write_history(checkpointer.rows)  # The checkpoint may be older than the file, or a moment younger.
    # Keras says so of every dataset that does not know its length: a corrupt record would be left out of this one.
    warnings.filterwarnings("ignore", "Your input ran out of data")
    verbose = 1 if sys.stdout.isatty() else 2
    fit(task, recipe.phases, checkpointer, verbose=verbose)
    # What is judged is what is kept: the float32 copy, not the model in the precision of the training.
    model = models.rebuild_float32(classifier, recipe.model, len(data.class_names))
    compile_model(model, optimizer="sgd", jit_compile=found.jit_compile)
    scores = model.evaluate(validation, verbose=0, return_dict=True)
    _save_model(model, run / run_directory.MODEL)
    metrics = scores | {
        "split": splits.validation_name,
        "note": "The choices of this training were made on this split: expect somewhat less on new images.",
        "count": len(splits.validation) - len(splits.validation.corrupt),
        "corrupt": [*splits.train.corrupt.values(), *splits.validation.corrupt.values()],
        "steps": checkpointer.position.global_step,
        "seconds": round(checkpointer.seconds, 1),
        "images_per_second": round(checkpointer.position.global_step * recipe.batch_size / checkpointer.seconds, 1),
    }
    run_directory.finish(run, metrics)
    return metrics


def _split(data: Dataset, config: TrainConfig) -> Splits:
    """Takes the dataset's own validation split, else holds some of the training images out."""
    if len(data.class_names) < 2:
        raise UserError(
            f"--tfrecords={data.directory}: one class, {data.class_names[0]!r}: a training has nothing to learn. "
            "Convert a directory with a subdirectory for each of two classes or more."
        )
    if not data.splits.get("train"):
        raise UserError(f"--tfrecords={data.directory}: no images to train on: its splits are {dict(data.splits)}.")
    train = data.records("train")
    if config.records:
        train = train.select(read_numbers(config.records, len(train)))
        print(f"--records={config.records}: {len(train):,} of {data.splits['train']:,} training records")
    if data.splits.get("validation"):
        return Splits(train=train, validation=data.records("validation"), validation_name="the validation split")
    rest, held_out = train.hold_out(HELD_OUT)  # The same images whatever --seed: runs can be compared.
    if not len(rest) or not len(held_out):
        raise UserError(
            f"--tfrecords={data.directory}: {len(train)} training images are too few to hold some out for validation."
        )
    print(f"no validation split: {len(held_out):,} of {len(train):,} training images are held out, by their content")
    return Splits(train=rest, validation=held_out, validation_name="held out of the train split")


def _check_cache(records: Records, recipe: Recipe, config: TrainConfig) -> None:
    needed = len(records) * recipe.model.size**2 * 3
    if config.cache == "memory" and needed > config.cache_mb * 1_000_000:
        raise UserError(
            f"--cache=memory: {len(records):,} images of {recipe.model.size} px take {needed / 1e6:,.0f} MB,"
            f" more than --cache_mb={config.cache_mb}. Raise it, or leave --cache out."
        )


def _cached(records: Records, recipe: Recipe, config: TrainConfig) -> dataset.Cache | None:
    """The decoded images where they are to be kept in memory."""
    if config.cache == "off" or (config.cache == "auto" and sum(phase.epochs for phase in recipe.phases) < 2):
        return None
    budget = config.cache_mb * 1_000_000
    cache = dataset.cache_pixels(records, image_size=recipe.model.size, crop=recipe.crop, budget_bytes=budget)
    if cache is not None:
        print(f"cache: {len(records):,} decoded images, {cache.pixels.nbytes / 1e6:,.0f} MB", flush=True)
    return cache


def _order(records: Records, config: TrainConfig) -> Order:
    if config.order == "balanced":
        return Balanced(records.labels, config.seed)
    if config.order == "blocks":
        return Blocks(len(records), config.seed, config.block)
    return Shuffled(len(records), config.seed)


def _settings(
    data: Dataset, recipe: Recipe, config: TrainConfig, flags: dict[str, Any], found: device.Device
) -> dict[str, dict[str, Any]]:
    weights = recipe.model.weights
    return {
        "flags": flags
        | {name: getattr(config, name) for name in ("seed", "deterministic", "precision", "order")}
        | ({"block": config.block} if config.order == "blocks" else {})
        | ({"records_sha256": _sha256(config.records)} if config.records else {}),
        "recipe": dataclasses.asdict(recipe) | {"augment": dataclasses.asdict(PRESETS[recipe.augment])},
        "weights": {} if weights in ("imagenet", "none") else {"sha256": _sha256(weights)},
        "dataset": {"digest": data.digest, "name": data.name, "classes": data.class_names, "splits": dict(data.splits)},
        "environment": run_directory.versions() | dataclasses.asdict(found),
        # What has no say in the results.
        "other": {"tfrecords": os.fspath(data.directory), "checkpoint_every": config.checkpoint_every},
    }


def _sha256(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _save_model(model: keras.Model, path: Path) -> None:
    temporary = path.with_stem("unfinished")  # Keras insists on the suffix.
    model.save(temporary)
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
    files.sync_directory(path.parent)


def _print_results(run: Path, metrics: dict[str, Any]) -> None:
    scores = ", ".join(f"{name} {metrics[name]:.4f}" for name in ("accuracy", "auc", "loss") if name in metrics)
    print(f"{scores} on {metrics['count']:,} images: {metrics['split']}, which choices were made on")
    if metrics["corrupt"]:
        print(f"corrupt: {len(metrics['corrupt']):,} records, named in {run_directory.METRICS}")
    print(f"results: {run}/ with {', '.join(sorted(path.name for path in run.iterdir()))}")
