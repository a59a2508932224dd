"""A training from a dataset directory to a run directory, as every trainer does it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.util
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfrecord_tools.augment_config import PRESETS
from tfrecord_tools.base import words
from tfrecord_tools.errors import UserError, named, one_line, refusal
from tfrecord_tools.records import Dataset, Records
from trainers import checkpoint, run_directory
from trainers.checkpoint import Checkpointer, DivergedError
from trainers.devices import cluster, device, multi_worker
from trainers.fit import Task, compile_model, fit, try_optimizer
from trainers.fitting import bottleneck, features_cache, inputs
from trainers.fitting.throughput import Pace
from trainers.models import inference, model_file, networks
from trainers.models.networks import Classifier
from trainers.recipes import Phase, Recipe, TrainConfig
from trainers.results import predictions, report

# Images that features are computed of at once: on two cores MobileNetV2 takes 1.3 times as long for one among 32 as for
# one among 8, which stay in the processor's caches; a GPU wants many.
_EXTRACTED_AT_ONCE = {"CPU": 8, "GPU": 64}
_ANSWERED_AT_ONCE = 1024
# What TensorFlow tells in the other processes of a job when one of them is gone.
_WORKER_GONE = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
)
_CLIPPING = ("clipnorm", "clipvalue", "global_clipnorm")
_SHARED = "It must lie on storage that all workers share."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """Everything that a training is made of.

    Attributes:
        trainer: Its name.
        data: What to train on.
        splits: Its records.
        recipe: The model and its phases.
        config: The rest.
        found: The device.
        classifier: The model.
        info: What its file will say of it.
        steps: As many batches as hold the training images once.
    """

    trainer: str
    data: Dataset
    splits: inputs.Splits
    recipe: Recipe
    config: TrainConfig
    found: device.Device
    classifier: Classifier
    info: model_file.ModelInfo
    steps: int

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return len(self.data.class_names)


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
    place = cluster.from_environment() if config.strategy == "multi_worker" else cluster.Cluster()
    splits = inputs.split(data, config, place.shard)
    with _explained(splits, recipe, config):
        found = device.set_up(
            precision=config.precision,
            seed=config.seed,
            deterministic=config.deterministic,
            strategy=_strategy(recipe, config),
            cluster=place,
        )
        _check(splits, recipe, config, found)
        settings = _settings(data, recipe, config, flags, found)
        run = Path(str(config.run))
        metrics = _results(config.run, settings, found)
        if metrics is not None:
            print(f"run: {run} is finished already; pass another --run to train once more")
        else:
            training = _prepared(trainer, data, splits, recipe, config, found)
            _print_plan(training)
            with _opened(training, settings) as run:
                print(f"run: {run}", flush=True)
                metrics = _results(str(run), settings, found)  # Another process may just have finished it.
                if metrics is None:
                    metrics = _train_in(run, training)
                found.barrier()
    if found.chief:
        _print_results(run, metrics)
    return metrics


@contextlib.contextmanager
def _explained(splits: inputs.Splits, recipe: Recipe, config: TrainConfig) -> Iterator[None]:
    """Makes a UserError of what the user can mend."""
    try:
        yield
    except tf.errors.OpError as error:
        damage = splits.train.damage or splits.validation_share.damage or splits.validation.damage
        if damage:
            raise UserError(damage) from error
        if config.deterministic and "determinis" in str(error.message):
            raise UserError(
                f"--deterministic: TensorFlow has no reproducible form of an operation: {one_line(error)}. Remove the"
                " flag, with another --run, or train another model."
            ) from error
        if isinstance(error, tf.errors.ResourceExhaustedError):
            raise UserError(
                f"the memory of the device is too small: pass a smaller --batch_size than {recipe.batch_size} or a"
                f" smaller --image_size than {recipe.model.size}, with another --run."
            ) from error
        if isinstance(error, _WORKER_GONE) and config.strategy == "multi_worker":
            raise UserError(
                f"the job has come apart: {one_line(error)}. If another worker is gone, its own output says why."
                " Start all of them again with the same commands: they continue from the last checkpoint."
            ) from error
        raise
    except OSError as error:
        raise UserError(f"{refusal(error)}. Mend the cause and run the same command again: it continues.") from error


def _results(run: str | None, settings: run_directory.Settings, found: device.Device) -> dict[str, Any] | None:
    """The results of a finished run, in other workers than the chief {}; None if it is not finished.

    The chief's view holds for all of a job: shared storage may show the others a file late.
    """
    metrics = run_directory.results(run, settings) if found.chief else {}
    return metrics if found.all_gather(metrics is not None)[0] else None


def _prepared(
    trainer: str, data: Dataset, splits: inputs.Splits, recipe: Recipe, config: TrainConfig, found: device.Device
) -> Training:
    with found.scope():
        classifier = networks.build(recipe.model, len(data.class_names))
    steps = max(1, round(len(splits.train) / recipe.batch_size))
    for phase in recipe.phases:  # What is wrong with them is told before anything slow is done.
        classifier.set_trainable(phase.trainable)
        try_optimizer(phase, phase.epochs * (phase.steps_per_epoch or steps))
    return Training(
        trainer=trainer,
        data=data,
        splits=splits,
        recipe=recipe,
        config=config,
        found=found,
        classifier=classifier,
        info=model_file.describe(data, image_size=recipe.model.size, crop=recipe.crop, trainer=trainer),
        steps=steps,
    )


@contextlib.contextmanager
def _opened(training: Training, settings: run_directory.Settings) -> Iterator[Path]:
    """The run directory, which the chief holds and makes, and the others use when it is there."""
    config, found = training.config, training.found
    if found.chief:
        with run_directory.opened(config.run, settings, training.trainer) as run:
            found.barrier()
            yield run
        return
    found.barrier()
    run = Path(str(config.run))
    if not run_directory.appears(run):
        raise UserError(
            f"--run={run}: worker {found.cluster.worker} does not see what the chief has made there. {_SHARED}"
        )
    run_directory.results(str(run), settings)  # Tells where this worker was given other flags.
    yield run


def _train_in(run: Path, training: Training) -> dict[str, Any]:
    """Fits, saves, judges and reports; each of these goes on or is repeated when a process before was killed in it.

    Returns:
        The content of metrics.json; {} in a worker that is not the chief.
    """
    recipe, config, found = training.recipe, training.config, training.found

    def write_history(rows: Sequence[checkpoint.Row]) -> None:
        if found.chief:
            run_directory.write_history(run, rows)

    checkpointer = Checkpointer(
        run / run_directory.CHECKPOINT, every=config.checkpoint_every, on_epoch=write_history, writes=found.chief
    )
    done = checkpointer.position.global_step
    if len(set(found.all_gather(done))) > 1:
        raise UserError(f"--run={run}: the workers find different checkpoints there. {_SHARED}")
    if done:
        print(f"resumed: {words.number(done, 'step is', 'steps are')} done", flush=True)
    pace = Pace(recipe.batch_size, config.deterministic)
    task = (_features_task if recipe.from_features else _pixels_task)(training, pace)
    write_history(checkpointer.rows)  # The checkpoint may be older than the file, or a moment younger.
    # Keras says so of every dataset that does not know its length: a corrupt record would be left out of this one.
    warnings.filterwarnings("ignore", "Your input ran out of data")

    def callbacks(phase: Phase) -> list[keras.callbacks.Callback]:
        if not config.tensorboard or not found.chief:
            return [pace]
        # One of its runs each: Keras counts epochs from 0 in every phase.
        return [pace, keras.callbacks.TensorBoard(run / run_directory.TENSORBOARD / phase.name, write_graph=False)]

    verbose = (1 if sys.stdout.isatty() else 2) if found.chief else 0
    try:
        fit(task, recipe.phases, checkpointer, callbacks=callbacks, verbose=verbose)
    except DivergedError as error:
        raise UserError(_diverged(run, training, task, error)) from error
    return _judged(run, training, task, checkpointer) if found.chief else {}


def _judged(run: Path, training: Training, task: Task, checkpointer: Checkpointer) -> dict[str, Any]:
    """Saves the model, judges and reports; returns the content of metrics.json."""
    recipe, splits, info = training.recipe, training.splits, training.info
    # What is judged is what is kept: the float32 copy of the whole, not what was trained in whatever precision.
    model = networks.rebuild_float32(training.classifier, recipe.model, training.classes)
    compile_model(model, optimizer="sgd", jit_compile=False)  # For who loads it and evaluates.
    model_file.save(model, info, run / run_directory.MODEL)
    if task.answers:
        predicted = predictions.of_outputs(info, splits.validation, *task.answers())
    else:
        predicted = predictions.of_records(model, info, splits.validation)
    steps, seconds = checkpointer.position.global_step, task.seconds + checkpointer.seconds
    metrics = predictions.summary(predicted) | {
        "split": splits.validation_name,
        "note": "The choices of this training were made on this split: expect somewhat less on new images.",
        "count": len(predicted),
        "corrupt": [*splits.train.corrupt.values(), *splits.validation.corrupt.values()],
        "steps": steps,
        "seconds": round(seconds, 1),
        "images_per_second": statistics.median(row["images_per_second"] for row in checkpointer.rows),
        "parameters": model.count_params(),
        "model_bytes": (run / run_directory.MODEL).stat().st_size,
        "latency_ms": _latency_ms(model, recipe.model.size),
    }
    report.write(run, model=model, info=info, records=splits.validation, predicted=predicted, metrics=metrics, run=run)
    run_directory.finish(run, metrics)
    return metrics


def _diverged(run: Path, training: Training, task: Task, error: DivergedError) -> str:
    """Names the batch whose loss is no number, and the one before it, whose step made the weights."""
    batches = [
        f"the batch of step {step:,}: {inputs.describe_records(training.splits.train, task.batch_numbers(step))}"
        for step in range(max(error.step - 1, 0), error.step + 1)
    ]
    clipping = "" if training.found.replicas > 1 else ", or with --optimizer_kwargs=global_clipnorm=1"
    return (
        f"--run={run}: step {error.step:,}: the loss or a weight is not a number any more; {'; '.join(batches)}."
        f" The checkpoint of step {error.saved:,} is kept. Train anew with a lower"
        f" --learning_rate{clipping}; look at these images if it happens at them again."
    )


def _pixels_task(training: Training, pace: Pace) -> Task:
    """The whole model is fitted to images."""
    recipe, config, train, found = training.recipe, training.config, training.splits.train, training.found
    began = time.monotonic()
    cache = inputs.cached(train, recipe, config)
    seconds = time.monotonic() - began
    if config.probe:
        print(bottleneck.verdict(train, recipe, training.classes, cache, training.found), flush=True)
    batches = inputs.train_batches(train, recipe, config, cache, training.classes, found.cluster.shard)
    validation = inputs.eval_batches(training.splits.validation_share, recipe, training.classes)
    return Task(
        model=_fitted(training.classifier.model, found),
        set_trainable=training.classifier.set_trainable,
        batches=lambda step: found.distributed(pace.measured(batches(step)), recipe.batch_size),
        batch_numbers=lambda step: inputs.batch_numbers(train, recipe, config, step),
        validation=found.distributed(validation, recipe.batch_size),
        seconds=seconds,
        sync_moving_statistics=_averager(training),
        **_common(training),
    )


def _features_task(training: Training, pace: Pace) -> Task:
    """The head alone is fitted, to what the backbone makes of the images; its layers are those of the whole model."""
    recipe, config, classifier, found = training.recipe, training.config, training.classifier, training.found
    classifier.set_trainable("head")
    with found.scope():
        extractor, head = networks.split(classifier.model)
    compute = inference.compiled(extractor, found.jit_compile)

    def features(records: Records) -> features_cache.Features:
        return features_cache.load_or_extract(
            records,
            compute,
            width=extractor.output_shape[-1],
            key=_features_key(training),
            directory=Path(config.features),
            image_size=recipe.model.size,
            crop=recipe.crop,
            batch_size=_EXTRACTED_AT_ONCE["CPU" if found.name == "CPU" else "GPU"],
        )

    def with_targets(data: tf.data.Dataset) -> tf.data.Dataset:
        return data.map(lambda values, labels: (values, inputs.targets(labels, training.classes)))

    if not found.chief:
        found.barrier()  # The chief computes them for all.
    train, validation = features(training.splits.train), features(training.splits.validation)
    if found.chief:
        found.barrier()
    weighted = inputs.weighing(training.splits.train, recipe, training.classes)

    def batches(step: int) -> Any:
        data = with_targets(train.shuffled(recipe.batch_size, config.seed, step, found.cluster.shard)).map(weighted)
        return found.distributed(pace.measured(data), recipe.batch_size)

    def answers() -> tuple[np.ndarray, np.ndarray]:
        outputs = [head(values, training=False).numpy() for values, _ in validation.in_order(_ANSWERED_AT_ONCE)]
        return np.concatenate(outputs), validation.sound

    return Task(
        model=_fitted(head, found),
        set_trainable=lambda rule: None,  # It has no other layers.
        batches=batches,
        batch_numbers=lambda step: train.batch_numbers(recipe.batch_size, config.seed, step),
        validation=found.distributed(
            with_targets(validation.in_order(recipe.batch_size, found.cluster.shard)), recipe.batch_size
        ),
        seconds=train.seconds + validation.seconds,
        # In half precision the model that is kept, which is of float32, would answer otherwise.
        answers=answers if found.precision == "float32" else None,
        **_common(training),
    )


def _fitted(model: keras.Model, found: device.Device) -> keras.Model:
    if found.replicas == 1:
        return model
    with found.scope():
        return multi_worker.for_several(model, found.cluster.workers)


def _averager(training: Training) -> Callable[[], None]:
    """Averages the moving statistics of all devices; their mean is the same however often it is taken."""
    if all(phase.trainable != "scratch" for phase in training.recipe.phases):  # They do not move.
        return lambda: None
    return training.found.averager(networks.moving_statistics(training.classifier.base))


def _common(training: Training) -> dict[str, Any]:
    recipe = training.recipe
    return {
        "steps_per_epoch": training.steps,
        "blended": bool(recipe.mixup or recipe.cutmix or recipe.label_smoothing),
        "early_stopping": recipe.early_stopping,
        "jit_compile": training.found.jit_compile,
        "scope": training.found.scope,
    }


def _features_key(training: Training) -> dict[str, Any]:
    """All that the features of a record depend on."""
    recipe, config = training.recipe, training.config
    names = ("backbone", "backbone_kwargs", "scaling", "pooling")
    initial: Any = config.seed if recipe.model.weights == "none" else recipe.model.weights
    return {name: getattr(recipe.model, name) for name in names} | {
        "dataset": training.data.digest,
        "image_size": recipe.model.size,
        "crop": recipe.crop,
        "weights": _weights(recipe) or initial,
        "environment": _environment(training.found),
    }


def _check(splits: inputs.Splits, recipe: Recipe, config: TrainConfig, found: device.Device) -> None:
    inputs.check_cache(splits.train, recipe, config)
    if config.tensorboard and not importlib.util.find_spec("tensorboard"):
        raise UserError("--tensorboard: TensorBoard is not installed; do: pip install tensorboard")
    if recipe.class_weights == config.order == "balanced":
        raise UserError(
            "--order=balanced and --class_weights=balanced: each makes up for rare classes, both would twice. Pass one."
        )
    if recipe.from_features and config.order != "shuffled":
        raise UserError(f"--order={config.order}: features are read shuffled.")
    _check_devices(recipe, found)
    if recipe.batch_size % found.replicas:
        raise UserError(
            f"--batch_size={recipe.batch_size}: {found.replicas} devices cannot share it equally. Pass a multiple of"
            f" {found.replicas}, or --strategy=none."
        )


def _strategy(recipe: Recipe, config: TrainConfig) -> str:
    """What spreads the training; accumulated gradients Keras 3.15 cannot spread, not even over one device."""
    if any(phase.accumulated_steps > 1 for phase in recipe.phases):
        if config.strategy == "auto":
            return "none"
        if config.strategy != "none":
            raise UserError(
                f"--strategy={config.strategy}: Keras accumulates no gradients under a strategy. Pass --strategy=none,"
                " or a larger --batch_size in place of gradient_accumulation_steps."
            )
    return config.strategy


def _check_devices(recipe: Recipe, found: device.Device) -> None:
    clipping = sorted({name for phase in recipe.phases for name in phase.optimizer_kwargs if name in _CLIPPING})
    if clipping and found.replicas > 1:
        raise UserError(
            f"--optimizer_kwargs={clipping[0]}: Keras clips what each of {found.replicas} devices finds, before that is"
            " added up, which is another clipping than on one. Pass --strategy=none, or leave it out."
        )


def _print_plan(training: Training) -> None:
    data, recipe, splits = training.data, training.recipe, training.splits
    print(
        f"data: {data.directory} ({data.name}), {words.number(len(data.class_names), 'class')}:"
        f" {named(data.class_names)}"
    )
    print(f"      {len(splits.train):,} to train on, {len(splits.validation):,} to validate: {splits.validation_name}")
    print(f"device: {training.found}")
    print(
        f"model: {networks.describe(recipe.model)}, {recipe.model.size} px, weights {recipe.model.weights}, "
        f"{training.classifier.model.count_params():,} parameters; "
        f"an epoch is {_epoch(training.steps, recipe.batch_size, len(splits.train))}"
    )


def _epoch(steps: int, batch_size: int, images: int) -> str:
    """Says what an epoch sees: batches are whole, so that it is rarely each image once."""
    shown = f"{words.number(steps, 'step')} of {words.number(batch_size, 'image')}"
    if steps * batch_size == images:
        return f"{shown}, each of the {images:,} once"
    return f"{shown}, {steps * batch_size / images:.3g} times the {images:,} there are"


def _settings(
    data: Dataset, recipe: Recipe, config: TrainConfig, flags: dict[str, Any], found: device.Device
) -> dict[str, dict[str, Any]]:
    return {
        "flags": flags
        | {name: getattr(config, name) for name in ("seed", "deterministic", "precision", "order")}
        | ({"block": config.block} if config.order == "blocks" else {})
        | ({"records_sha256": _sha256(config.records)} if config.records else {}),
        "recipe": dataclasses.asdict(recipe) | {"augment": dataclasses.asdict(PRESETS[recipe.augment])},
        "weights": _weights(recipe),
        "dataset": {"digest": data.digest, "name": data.name, "classes": data.class_names, "splits": dict(data.splits)},
        "environment": _environment(found),
        # What has no say in the results.
        "other": {"tfrecords": os.fspath(data.directory), "checkpoint_every": config.checkpoint_every},
    }


def _environment(found: device.Device) -> dict[str, Any]:
    """What results depend on in their last bits."""
    return run_directory.versions() | {
        name: getattr(found, name) for name in ("name", "precision", "jit_compile", "replicas")
    }


def _weights(recipe: Recipe) -> dict[str, str]:
    """The hash of the weights file, if they come from one."""
    weights = recipe.model.weights
    return {} if weights in ("imagenet", "none") else {"sha256": _sha256(weights)}


def _sha256(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _latency_ms(model: keras.Model, size: int) -> float:
    """Milliseconds that one image takes, the median of twenty; traced beforehand."""
    predict = inference.compiled(model)
    image = tf.constant(np.zeros((1, size, size, 3), np.uint8))
    taken = []
    for _ in range(23):
        began = time.perf_counter()
        predict(image).numpy()
        taken.append(time.perf_counter() - began)
    return round(statistics.median(taken[3:]) * 1000, 2)


def _print_results(run: Path, metrics: dict[str, Any]) -> None:
    scores = ", ".join(f"{name} {metrics[name]:.4f}" for name in ("accuracy", "auc", "loss") if name in metrics)
    print(f"{scores} on {words.number(metrics['count'], 'image')}: {metrics['split']}, which choices were made on")
    if metrics["corrupt"]:
        print(f"corrupt: {words.number(len(metrics['corrupt']), 'record')}, named in {run_directory.METRICS}")
    print(f"results: {run}/ with {', '.join(sorted(path.name for path in run.iterdir()))}")
