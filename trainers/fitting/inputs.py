"""What a training reads: the records of its splits, their order, the images kept in memory, and its batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfrecord_tools import dataset, mix
from tfrecord_tools.augment_config import PRESETS
from tfrecord_tools.base import graphs, words
from tfrecord_tools.dataset import Batch
from tfrecord_tools.errors import UserError, named
from tfrecord_tools.order import Balanced, Blocks, Order, Shuffled
from tfrecord_tools.records import Dataset, Records, read_numbers
from trainers.recipes import Recipe, TrainConfig

Shard = tuple[int, int]  # (i, w): the i-th of w slices.

HELD_OUT = 0.2  # Of the training images, where the dataset has no validation split.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Splits:
    """What is learned from and what is looked at.

    Attributes:
        train: Records to learn from.
        validation: Records that choices are made on.
        validation_name: What these are, in words.
        validation_share: Those of them that this process judges in training.
    """

    train: Records
    validation: Records
    validation_name: str
    validation_share: Records


def split(data: Dataset, config: TrainConfig, shard: Shard = (0, 1), log: Callable[[str], object] = print) -> Splits:
    """Takes the dataset's own validation split, else holds some of the training images out.

    Raises:
        UserError: There is nothing to learn, to learn from, or to validate on.
    """
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
        log(f"--records={config.records}: {len(train):,} of {data.splits['train']:,} training records")
    if data.splits.get("validation"):
        return _splits(data, train, data.records("validation"), "the validation split", shard, log)
    rest, held_out = train.hold_out(HELD_OUT)  # The same images whatever --seed: runs can be compared.
    if not len(rest) or not len(held_out):
        raise UserError(
            f"--tfrecords={data.directory}: {words.number(len(train), 'training image is', 'training images are')}"
            f" too few to hold some out for validation."
        )
    log(f"no validation split: {len(held_out):,} of {len(train):,} training images are held out, by their content")
    return _splits(data, rest, held_out, "held out of the train split", shard, log)


def _splits(
    data: Dataset, train: Records, validation: Records, name: str, shard: Shard, log: Callable[[str], object]
) -> Splits:
    names = data.class_names
    counts = {
        what: np.bincount(records.labels, minlength=len(names))
        for what, records in (("training", train), ("validation", validation))
    }
    if np.count_nonzero(counts["training"]) < 2:
        raise UserError(
            f"--tfrecords={data.directory}: all {len(train):,} training images are of one class,"
            f" {names[int(counts['training'].argmax())]!r}: there is nothing to learn. At least two need some there."
        )
    for what, count in counts.items():
        absent = [names[label] for label in np.flatnonzero(count == 0)]
        if absent:
            log(f"no {what} images of {len(absent):,} of {len(names):,} classes: {named(absent)}")
    index, workers = shard
    if len(validation) < workers:
        raise UserError(
            f"{words.number(len(validation), 'validation image is', 'validation images are')} fewer than the"
            f" {workers} workers, of which each needs one. Start fewer, or make the dataset anew by"
            " python -m tfrecord_tools.convert with a larger --validation_fraction."
        )
    own = validation if workers == 1 else validation.select(np.arange(index, len(validation), workers))
    return Splits(train=train, validation=validation, validation_name=name, validation_share=own)


def order(records: Records, config: TrainConfig) -> Order:
    """The order of training."""
    if config.order == "balanced":
        return Balanced(records.labels, config.seed)
    if config.order == "blocks":
        return Blocks(len(records), config.seed, config.block)
    return Shuffled(len(records), config.seed)


def check_cache(records: Records, recipe: Recipe, config: TrainConfig) -> None:
    """Raises UserError if --cache=memory is more than is allowed."""
    needed = len(records) * recipe.model.size**2 * 3
    if config.cache == "memory" and needed > config.cache_mb * 1_000_000:
        raise UserError(
            f"--cache=memory: {words.number(len(records), 'image')} of {recipe.model.size} px take"
            f" {needed / 1e6:,.0f} MB,"
            f" more than --cache_mb={config.cache_mb}. Raise it, or leave --cache out."
        )


def cached(
    records: Records, recipe: Recipe, config: TrainConfig, log: Callable[[str], object] = print
) -> dataset.Cache | None:
    """The decoded images where they are to be kept in memory."""
    if config.cache == "off" or (config.cache == "auto" and sum(phase.epochs for phase in recipe.phases) < 2):
        return None
    budget = config.cache_mb * 1_000_000
    cache = dataset.cache_pixels(records, image_size=recipe.model.size, crop=recipe.crop, budget_bytes=budget)
    if cache is not None:
        log(f"cache: {words.number(len(records), 'decoded image')}, {cache.pixels.nbytes / 1e6:,.0f} MB")
    return cache


def train_batches(
    records: Records,
    recipe: Recipe,
    config: TrainConfig,
    cache: dataset.Cache | None,
    classes: int,
    shard: Shard = (0, 1),
) -> Callable[[int], tf.data.Dataset]:
    """Makes the stream of a training: first step -> endless batches (u8[b h w 3], targets[, weights]) from it on."""
    weighted = weighing(records, recipe, classes)

    @graphs.plain
    def finish(batch: Batch) -> tuple[tf.Tensor, ...]:
        images, blended = batch.images, targets(batch.labels, classes)
        if recipe.mixup:
            images, blended = mix.mixup(images, blended, batch.keys, recipe.mixup)
        if recipe.cutmix:
            images, blended = mix.cutmix(images, blended, batch.keys, recipe.cutmix)
        return weighted(images, blended)

    def batches(start_step: int) -> tf.data.Dataset:
        data = dataset.train_stream(
            records,
            batch_size=recipe.batch_size,
            image_size=recipe.model.size,
            crop=recipe.crop,
            seed=config.seed,
            start_step=start_step,
            shard=shard,
            order=order(records, config),
            augment=PRESETS[recipe.augment],
            cache=cache,
        )
        return data.map(finish, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)

    return batches


def eval_batches(records: Records, recipe: Recipe, classes: int) -> tf.data.Dataset:
    """All records once, in order: (u8[b h w 3], targets); corrupt ones are left out."""
    return dataset.eval_stream(
        records,
        batch_size=recipe.batch_size,
        image_size=recipe.model.size,
        crop=recipe.crop,
        select=lambda batch: (batch.images, targets(batch.labels, classes)),
    )


def targets(labels: tf.Tensor, classes: int) -> tf.Tensor:
    """What a model of so many classes should put out for labels i64[b]: f32[b 1] for two, else one-hot f32[b k]."""
    return tf.cast(labels, tf.float32)[:, None] if classes == 2 else tf.one_hot(labels, classes)


def smoothed(values: tf.Tensor, share: float) -> tf.Tensor:
    """Spreads a share of what `targets` returns over all classes; in training alone, so that losses stay comparable."""
    classes = max(2, values.shape[-1])
    return values * (1 - share) + share / classes


def weighing(records: Records, recipe: Recipe, classes: int) -> Callable[[Any, tf.Tensor], tuple[Any, ...]]:
    """Makes the last step of a training's input: (images, targets) -> (images, smoothed targets[, weights f32[b]]).

    The weights are those of the errors: of each class n / (classes * n of the class), scikit-learn's "balanced"; of a
    blend those of its classes, by their shares.
    """
    counts = np.bincount(records.labels, minlength=classes)
    of_class = np.where(counts, len(records) / (classes * np.maximum(counts, 1)), 1.0).astype(np.float32)

    def weighted(images: Any, values: tf.Tensor) -> tuple[Any, ...]:
        final = smoothed(values, recipe.label_smoothing)
        if recipe.class_weights == "none":
            return images, final
        shares = tf.concat([1 - values, values], axis=1) if classes == 2 else values
        return images, final, tf.linalg.matvec(shares, of_class)

    return weighted


def batch_numbers(records: Records, recipe: Recipe, config: TrainConfig, step: int) -> np.ndarray:
    """The numbers of the records in a batch of the training, i64[b]; what stands in for corrupt ones included."""
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
    """Names records: for errors that their content may explain."""
    paths = records.paths
    return ", ".join(f"{number} ({paths[number]})" for number in numbers.tolist())
