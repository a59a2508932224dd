"""The two tasks of trainers: fit the whole model to images, or fit its head to features."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfrecord_tools.base import graphs
from trainers.devices import multi_worker
from trainers.devices.device import Device
from trainers.fit import Task
from trainers.fitting import bottleneck, extraction, features_cache, inputs
from trainers.fitting.features_cache import Features
from trainers.fitting.setup import Training
from trainers.fitting.throughput import Throughput
from trainers.models import networks

_PREDICTION_BATCH = 1024  # Rows of features in a call of the head.


def make_task(training: Training, throughput: Throughput, log: Callable[[str], object]) -> Task:
    """Make the task of a training. This decodes the cached images or computes the features.

    Args:
        training: The training.
        throughput: Measures how long the training waits for its batches.
        log: Receives the lines for the user.
    """
    make = _features_task if training.recipe.from_features else _images_task
    return make(training, throughput, log)


def _images_task(training: Training, throughput: Throughput, log: Callable[[str], object]) -> Task:
    recipe, config, device, train = training.recipe, training.config, training.device, training.splits.train
    compiled = training.classifier.compiled
    start = time.monotonic()
    cache = inputs.cached(train, recipe, config, log)
    seconds = time.monotonic() - start
    if config.probe:
        log(bottleneck.verdict(train, recipe, training.class_count, cache, device))
    batches = inputs.train_batches(train, recipe, config, cache, training.data.class_names, device.cluster.shard)
    validation = inputs.eval_batches(training.splits.validation_share, recipe, training.class_count)
    return Task(
        model=_on_devices(training.classifier.model, device),
        set_trainable=training.classifier.set_trainable,
        batches=lambda step: device.distributed(throughput.measured(batches(step)), recipe.batch_size),
        batch_numbers=lambda step: inputs.batch_numbers(train, recipe, config, step),
        validation=device.distributed(validation, recipe.batch_size),
        steps_per_epoch=training.steps,
        blended=recipe.blended,
        early_stopping=recipe.early_stopping,
        jit_compile=device.jit_compile,
        loss=compiled.loss if compiled else None,
        optimizer=compiled.optimizer if compiled else None,
        scope=device.scope,
        seconds=seconds,
        sync_moving_statistics=_averager(training),
    )


def _features_task(training: Training, throughput: Throughput, log: Callable[[str], object]) -> Task:
    """Make the task that fits the head to features. The head shares its layers with the whole model."""
    recipe, seed, device = training.recipe, training.config.seed, training.device
    training.classifier.set_trainable("head")
    with device.scope():
        extractor, head = networks.split(training.classifier.model)
    train, validation = _features(training, extractor, log)
    eval_batches = _with_targets(validation.in_order(recipe.batch_size, device.cluster.shard), training.class_count)
    return Task(
        model=_on_devices(head, device),
        set_trainable=lambda rule: None,  # All layers of the head are trained in every phase.
        batches=lambda step: device.distributed(
            throughput.measured(_feature_batches(training, train, step)), recipe.batch_size
        ),
        batch_numbers=lambda step: train.batch_numbers(recipe.batch_size, seed, step),
        validation=device.distributed(eval_batches, recipe.batch_size),
        # The saved model is float32. In half precision, the fitted head would give other predictions.
        answers=(lambda: _outputs(head, validation)) if device.precision == "float32" else None,
        steps_per_epoch=training.steps,
        blended=recipe.blended,
        early_stopping=recipe.early_stopping,
        jit_compile=device.jit_compile,
        scope=device.scope,
        seconds=train.seconds + validation.seconds,
    )


def _features(training: Training, extractor: keras.Model, log: Callable[[str], object]) -> tuple[Features, Features]:
    """Return the features of the training and validation records. The chief computes them for all workers."""
    device = training.device
    if not device.chief:
        device.barrier()
    inherited = training.config.init_from is not None
    backbone = extraction.of_recipe(
        extractor,
        training.data,
        training.recipe,
        training.config.seed,
        device,
        inherited=inherited,
        engine=training.config.engine,
    )
    splits = training.splits
    sources = splits.whole or (splits.train, splits.validation)
    features = [backbone.features(records, training.config.features, log) for records in sources]
    if device.chief:
        device.barrier()
    if not splits.whole:
        return features[0], features[1]
    whole = list(zip(sources, features))
    return features_cache.select(whole, splits.train), features_cache.select(whole, splits.validation)


def _feature_batches(training: Training, features: Features, step: int) -> tf.data.Dataset:
    """Return the endless training batches from a step on: (features, targets[, weights])."""
    recipe, shard = training.recipe, training.device.cluster.shard
    batches = features.shuffled(recipe.batch_size, training.config.seed, step, shard)
    weighted = inputs.weighing(training.splits.train, recipe, training.data.class_names)
    return _with_targets(batches, training.class_count).map(graphs.plain(weighted))


def _with_targets(batches: tf.data.Dataset, class_count: int) -> tf.data.Dataset:
    return batches.map(graphs.plain(lambda values, labels: (values, inputs.targets(labels, class_count))))


def _outputs(head: keras.Model, features: Features) -> tuple[np.ndarray, np.ndarray]:
    """Return the outputs of the head for all valid records, and the numbers of these records."""
    batches = features.in_order(_PREDICTION_BATCH)
    return np.concatenate([head(values, training=False).numpy() for values, _ in batches]), features.valid


def _on_devices(model: keras.Model, device: Device) -> keras.Model:
    if device.replicas == 1:
        return model
    with device.scope():
        return multi_worker.for_several(model, device.cluster.workers)


def _averager(training: Training) -> Callable[[], Any]:
    """Return a function that averages the moving statistics over all devices. It may be called repeatedly."""
    if all(phase.trainable != "scratch" for phase in training.recipe.phases):  # Frozen statistics do not change.
        return lambda: None
    return training.device.averager(networks.moving_statistics(training.classifier.base))
