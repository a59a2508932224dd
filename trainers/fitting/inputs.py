"""The input of a training: the records of its splits, their order, cached images, and batches."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfrecord_tools import dataset, mix
from tfrecord_tools.base import graphs, options, sizes, words, workers
from tfrecord_tools.dataset import Batch
from tfrecord_tools.errors import UserError, named
from tfrecord_tools.order import Balanced, Blocks, Order, Shuffled
from tfrecord_tools.records import Dataset, Records, read_numbers
from trainers.auditing import audit_files, issues
from trainers.auditing.audit_files import Doubts
from trainers.fitting import folds
from trainers.recipes import Recipe, TrainConfig

Shard = tuple[int, int]  # (i, n): this worker is number i of n, from 0.

HELD_OUT = 0.2  # Share of the training images that are held out if the dataset has no validation split.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dropped:
    """Training records that were left out because of their issues.

    Attributes:
        sha256: Hash of the hashes of their source files, in hexadecimal.
        as_before: Whether earlier versions of this package would leave out the same records. For them, a near-duplicate
            was a copy of an image in another split. Now it is a copy of a validation image of this training.
    """

    sha256: str
    as_before: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Splits:
    """The records for training and validation.

    Attributes:
        train: Records to train on.
        validation: Records to validate on.
        validation_name: Description of the validation records.
        validation_share: Validation records that this worker evaluates during training.
        whole: With --fold, all records of every split that the table of folds names, one entry per split. The features
            of these records are computed once for all folds. (): there is no --fold.
        doubts: The open issues of the dataset's audit. None: the dataset has no audit.
        dropped: The training records that --drop_issues has left out. None: the flag is not given.
    """

    train: Records
    validation: Records
    validation_name: str
    validation_share: Records
    whole: tuple[Records, ...] = ()
    doubts: Doubts | None = None
    dropped: Dropped | None = None


def split(data: Dataset, config: TrainConfig, shard: Shard = (0, 1), log: Callable[[str], object] = print) -> Splits:
    """Return the training records and validation records of a dataset.

    With --fold, the records come from a file of folds. Without a validation split, some of the training images are held
    out. The held-out images are the same with and without --drop_issues.

    Raises:
        UserError: There is only one class, there are too few images for training or validation, or --audit is not an
            audit of this dataset.
    """
    doubts = audit_files.find(data, config.audit, log)
    return dataclasses.replace(_split(data, config, doubts, shard, log), doubts=doubts)


def _split(
    data: Dataset, config: TrainConfig, doubts: Doubts | None, shard: Shard, log: Callable[[str], object]
) -> Splits:
    if len(data.class_names) < 2:
        raise UserError(
            f"--tfrecords={data.location}: has only one class, {data.class_names[0]!r}. Training needs at least two"
            " classes. Convert a directory with a subdirectory for each class."
        )
    whole: tuple[Records, ...] = ()
    if config.fold is not None:
        train, validation, name = _fold(data, config, config.fold, log)
        whole = tuple(data.records(split) for split in train.splits)
    else:
        train, validation, name = _of_splits(data, config, log)
    dropped = None
    if config.drop_issues:
        train, dropped = _without_issues(data, train, validation, config, doubts, log)
    return dataclasses.replace(_splits(data, train, validation, name, shard, log), whole=whole, dropped=dropped)


def _fold(data: Dataset, config: TrainConfig, fold: int, log: Callable[[str], object]) -> tuple[Records, Records, str]:
    """Return the training records, the records of the fold for validation, and a description."""
    chosen = folds.read(str(config.records), data)
    train, validation = chosen.divided(fold)
    name = f"fold {fold} of {len(chosen.numbers)}"
    if not len(train) or not len(validation):
        numbers = named(list(map(str, chosen.numbers)))
        raise UserError(
            f"--fold={fold}: there are no records to {'train' if not len(train) else 'validate'} on. The folds in"
            f" {config.records} are {numbers}. Pass the number of one of these folds. The file must have at least two"
            " folds."
        )
    log(f"--records={config.records} --fold={fold}: {name}, records of {chosen.records.split}")
    return train, validation, name


def _of_splits(data: Dataset, config: TrainConfig, log: Callable[[str], object]) -> tuple[Records, Records, str]:
    """Return the training records, the validation records, and a description of the validation records.

    Without a validation split, the validation records are held-out images of the training split.
    """
    if not data.splits.get("train"):
        raise UserError(
            f"--tfrecords={data.location}: has no training images; its splits are {dict(data.splits)}. Convert images"
            " with a train split."
        )
    train = data.records("train")
    if config.records:
        if folds.is_table(config.records):
            raise UserError(
                f"--records={config.records}: is a table of folds, and --fold is missing. Pass the number of the fold"
                " to validate on, such as --fold=1."
            )
        train = train.select(read_numbers(config.records, len(train)))
        log(f"--records={config.records}: {len(train):,} of {data.splits['train']:,} training records")
    if data.splits.get("validation"):
        return train, data.records("validation"), "the validation split"
    return *_hold_out(data, train, log), "a held-out part of the train split"


def _hold_out(data: Dataset, train: Records, log: Callable[[str], object]) -> tuple[Records, Records]:
    """Return the images to train on and the held-out images."""
    rest, held_out = train.hold_out(HELD_OUT)  # The images do not depend on --seed, so that runs can be compared.
    if not len(rest) or not len(held_out):
        raise UserError(
            f"--tfrecords={data.location}: {words.number(len(train), 'training image is', 'training images are')}"
            " too few. The dataset has no validation split, so some training images must be held out for validation."
            " Convert more images, or images with a validation split."
        )
    log(
        f"no validation split: {len(held_out):,} of {len(train):,} training images are held out, chosen by the hashes"
        " of their files"
    )
    return rest, held_out


def _without_issues(
    data: Dataset,
    train: Records,
    validation: Records,
    config: TrainConfig,
    doubts: Doubts | None,
    log: Callable[[str], object],
) -> tuple[Records, Dropped]:
    """Return the training records without issues of the kinds in --drop_issues, and what was left out."""
    given = f"--drop_issues={','.join(config.drop_issues)}"
    if doubts is None:
        raise UserError(
            f"{given}: the dataset has no audit in {audit_files.default(data)}. Run python -m trainers.audit"
            f" --tfrecords={data.location}, or pass the directory of an audit as --audit."
        )
    evaluated = [validation, *([data.records("test")] if data.splits.get("test") else [])]
    doubted = doubts.to_leave_out(train, evaluated, config.drop_issues)
    if doubted.all():
        raise UserError(
            f"{given}: all {len(train):,} training records have an issue of these kinds, so no record is left for the"
            " training. Pass fewer kinds."
        )
    log(
        f"{given}: leaves out {int(doubted.sum()):,} of {words.number(len(train), 'training record')}, because of"
        f" their issues in {doubts.directory / issues.CSV}"
    )
    as_before = bool((doubted == doubts.of(train, config.drop_issues)).all())
    return train.select(np.flatnonzero(~doubted)), Dropped(
        sha256=_digest(train.source_sha256[doubted]), as_before=as_before
    )


def _digest(sha256: np.ndarray) -> str:
    """Return one hash of the hashes u8[n 32], in hexadecimal. The order of the rows does not matter."""
    return hashlib.sha256(b"".join(sorted(row.tobytes() for row in sha256))).hexdigest()


def _splits(
    data: Dataset, train: Records, validation: Records, name: str, shard: Shard, log: Callable[[str], object]
) -> Splits:
    names = data.class_names
    counts = {
        split_name: np.bincount(records.labels, minlength=len(names))
        for split_name, records in (("training", train), ("validation", validation))
    }
    if np.count_nonzero(counts["training"]) < 2:
        raise UserError(
            f"--tfrecords={data.location}: all {len(train):,} training images are of one class,"
            f" {names[int(counts['training'].argmax())]!r}. Training needs images of at least two classes."
        )
    for split_name, count in counts.items():
        absent = [names[label] for label in np.flatnonzero(count == 0)]
        if absent:
            log(f"classes without {split_name} images ({len(absent):,} of {len(names):,}): {named(absent)}")
    index, workers = shard
    if len(validation) < workers:
        raise UserError(
            f"{words.number(len(validation), 'validation image is', 'validation images are')} too few for"
            f" {workers} workers: each worker needs at least one. Start fewer workers, or convert the dataset again"
            " with python -m tfrecord_tools.convert and a larger --validation_fraction."
        )
    own = validation if workers == 1 else validation.select(np.arange(index, len(validation), workers))
    return Splits(train=train, validation=validation, validation_name=name, validation_share=own)


def order(records: Records, config: TrainConfig) -> Order:
    """Return the order of the training records."""
    if config.order == "balanced":
        return Balanced(records.labels, config.seed)
    if config.order == "blocks":
        return Blocks(len(records), config.seed, config.block)
    return Shuffled(len(records), config.seed)


def check_cache(records: Records, recipe: Recipe, config: TrainConfig) -> None:
    """Raise UserError if --cache=memory needs more memory than --cache_mb allows."""
    needed = len(records) * math.prod(recipe.geometry.shape)
    if config.cache == "memory" and needed > config.cache_mb * 1_000_000:
        raise UserError(
            f"--cache=memory: {words.number(len(records), 'image')} of {sizes.text(recipe.model.size)} px need"
            f" {needed / 1e6:,.0f} MB, but --cache_mb={config.cache_mb} allows less. Pass a larger --cache_mb, or"
            " remove --cache."
        )


def cached(
    records: Records, recipe: Recipe, config: TrainConfig, log: Callable[[str], object] = print
) -> dataset.Cache | None:
    """Return the decoded images if `config` keeps them in memory. None: images are decoded in each epoch."""
    if config.cache == "off" or (config.cache == "auto" and sum(phase.epochs for phase in recipe.phases) < 2):
        return None
    budget = config.cache_mb * 1_000_000
    cache = dataset.cache_pixels(records, image_size=recipe.geometry, budget_bytes=budget)
    if cache is not None:
        log(f"cache: {words.number(len(records), 'decoded image')}, {cache.pixels.nbytes / 1e6:,.0f} MB")
    return cache


def train_batches(
    records: Records,
    recipe: Recipe,
    config: TrainConfig,
    cache: dataset.Cache | None,
    class_names: Sequence[str],
    shard: Shard = (0, 1),
) -> Callable[[int], tf.data.Dataset]:
    """Make the input of a training.

    Returns:
        A function. It takes a step, and returns the endless batches (u8[b h w 3], targets[, weights f32[b]]) that begin
        at this step.
    """
    weighted = weighing(records, recipe, class_names)

    @graphs.plain
    def finish(batch: Batch) -> tuple[tf.Tensor, ...]:
        images, blended = batch.images, targets(batch.labels, len(class_names))
        if recipe.mixup:
            images, blended = mix.mixup(images, blended, batch.keys, recipe.mixup)
        if recipe.cutmix:
            images, blended = mix.cutmix(images, blended, batch.keys, recipe.cutmix)
        return weighted(images, blended)

    def batches(start_step: int) -> tf.data.Dataset:
        data = dataset.train_stream(
            records,
            batch_size=recipe.batch_size,
            image_size=recipe.geometry,
            seed=config.seed,
            start_step=start_step,
            shard=shard,
            order=order(records, config),
            augment=recipe.augment,
            cache=cache,
        )
        return data.map(finish, workers.default_workers()).prefetch(tf.data.AUTOTUNE)

    return batches


def eval_batches(records: Records, recipe: Recipe, classes: int) -> tf.data.Dataset:
    """Return all records once, in order, as batches (u8[b h w 3], targets). Corrupt records are left out."""
    return dataset.eval_stream(
        records,
        batch_size=recipe.batch_size,
        image_size=recipe.geometry,
        select=lambda batch: (batch.images, targets(batch.labels, classes)),
    )


def targets(labels: tf.Tensor, classes: int) -> tf.Tensor:
    """Return the targets of labels i64[b]: f32[b 1] for two classes, else one-hot f32[b classes]."""
    return tf.cast(labels, tf.float32)[:, None] if classes == 2 else tf.one_hot(labels, classes)


def smoothed(values: tf.Tensor, share: float) -> tf.Tensor:
    """Spread a share of the targets evenly over all classes. Use it only for training targets."""
    classes = max(2, values.shape[-1])
    return values * (1 - share) + share / classes


def class_weights(records: Records, recipe: Recipe, class_names: Sequence[str]) -> np.ndarray | None:
    """Return the weight of each class, f32[classes]. None: the images have no weights.

    With "balanced", it is records / (classes * records of the class), as in scikit-learn.

    Raises:
        UserError: A class has no weight, or a weight is for a class that does not exist.
    """
    given = recipe.class_weights
    if given == "none":
        return None
    if not isinstance(given, str):
        _check_names(given, class_names)
        return np.array([given[name] for name in class_names], np.float32)
    counts = np.bincount(records.labels, minlength=len(class_names))
    return np.where(counts, len(records) / (len(class_names) * np.maximum(counts, 1)), 1.0).astype(np.float32)


def _check_names(weights: Mapping[str, float], class_names: Sequence[str]) -> None:
    shown = f"--class_weights={options.pairs_text(weights, ':')}"
    classes = f"The classes are {named(class_names)}"
    unknown = [name for name in weights if name not in class_names]
    if unknown:
        near = difflib.get_close_matches(unknown[0], class_names, 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UserError(f"{shown}: {unknown[0]!r} is not a class of the dataset. {classes}.{hint}")
    missing = [name for name in class_names if name not in weights]
    if missing:
        raise UserError(f"{shown}: there is no weight for {named(missing)}. {classes}. Pass a weight for each class.")


def weighing(
    records: Records, recipe: Recipe, class_names: Sequence[str]
) -> Callable[[Any, tf.Tensor], tuple[Any, ...]]:
    """Make the last step of the input: (images, targets) -> (images, smoothed targets[, weights]).

    The weight of an image is the weight of its class. For an image that MixUp or CutMix has blended, the weight is the
    mean over its classes, weighted by their shares of the image.
    """
    of_class = class_weights(records, recipe, class_names)

    def weighted(images: Any, values: tf.Tensor) -> tuple[Any, ...]:
        final = smoothed(values, recipe.label_smoothing)
        if of_class is None:
            return images, final
        shares = tf.concat([1 - values, values], axis=1) if len(class_names) == 2 else values
        return images, final, tf.linalg.matvec(shares, of_class)

    return weighted


def batch_numbers(records: Records, recipe: Recipe, config: TrainConfig, step: int) -> np.ndarray:
    """Return the record numbers i64[b] of a training batch, after the replacement of corrupt records."""
    stream = dataset.train_stream(
        records,
        batch_size=recipe.batch_size,
        image_size=1,
        seed=config.seed,
        start_step=step,
        order=order(records, config),
    )
    numbers: np.ndarray = next(iter(stream)).numbers.numpy()
    return numbers


def describe_records(records: Records, numbers: np.ndarray) -> str:
    """List records with their paths, for errors that their images may have caused."""
    paths = records.paths
    return ", ".join(f"{number} ({paths[number]})" for number in numbers.tolist())
