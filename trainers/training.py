"""Train a model, evaluate it, and write the results to a run directory. All trainers call `train`."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfrecord_tools.base import console, sizes, words
from tfrecord_tools.errors import UserError, one_line, refusal
from tfrecord_tools.records import Dataset
from trainers import checkpoint, run_directory
from trainers.checkpoint import Checkpointer, DivergedError
from trainers.devices import cluster
from trainers.devices import device as devices
from trainers.devices.device import Device
from trainers.fit import Task, fit
from trainers.fitting import inputs, notes, parents, setup, tasks
from trainers.fitting.bucket import BucketTraffic
from trainers.fitting.settings import settings_of
from trainers.fitting.setup import Training
from trainers.fitting.throughput import Throughput
from trainers.recipes import Recipe, TrainConfig
from trainers.results import judging, plain_keras, report
from trainers.run_directory import Metrics, Settings
from trainers.tracking import logbook
from trainers.tracking.logbook import Logbook

# If a worker process ends, TensorFlow raises one of these errors in the other workers.
_WORKER_GONE = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
)
_SHARED = "--run must be on storage that all workers share."


def train(
    trainer: str,
    data: Dataset,
    recipe: Recipe,
    config: TrainConfig,
    flags: Mapping[str, Any] = {},
    log: Callable[[str], object] = print,
) -> Path:
    """Train with a recipe, or continue a training that was interrupted.

    Args:
        trainer: Name of the trainer.
        data: The dataset.
        recipe: The model and its phases.
        config: Settings that are not part of the recipe.
        flags: Flag name -> value that the training uses, for settings.json. An unfinished run is only continued if the
            values are the same.
        log: Receives the lines for the user.

    Returns:
        The run directory.

    Raises:
        UserError: An error that the user can correct. If it is raised before the training starts, no run directory is
            made.
    """
    run_directory.check(config.run)
    workers = cluster.from_environment() if config.strategy == "multi_worker" else cluster.Cluster()
    if workers.worker == 0:
        logbook.check(config.trackers)
    splits = inputs.split(data, config, workers.shard, log)
    with _explained(splits, recipe, config):
        device = devices.set_up(
            precision=config.precision,
            seed=config.seed,
            deterministic=config.deterministic,
            strategy=setup.strategy(recipe, config),
            cluster=workers,
            log=log,
        )
        setup.check(data, splits, recipe, config, device)
        parent = parents.load(config, recipe)
        settings = settings_of(data, splits, recipe, config, flags, device, parent)
        if parent and parent.state:
            recipe, settings = parents.continued(recipe, settings, parent, log)
        run = Path(str(config.run))
        metrics = _results(config.run, settings, device)
        usage: list[str] = []
        if metrics is not None:
            _log_finished(run, metrics, config, device, log)
        else:
            training = setup.prepare(trainer, data, splits, recipe, config, device, parent)
            if parent:
                settings["other"]["weights"] = training.weights
            del parent  # The model would fill memory during the training.
            run = _train(training, settings, log)
            if not console.in_notebook():  # In a notebook, the `Run` that is returned predicts.
                usage = plain_keras.block(run / run_directory.MODEL, training.info, recipe.model.libraries)
    if device.chief:
        for line in (f"results: {run}/ with {', '.join(sorted(path.name for path in run.iterdir()))}", *usage):
            log(line)
    return run


def _log_finished(
    run: Path, metrics: Metrics, config: TrainConfig, device: Device, log: Callable[[str], object]
) -> None:
    """Log the scores of a finished run. The trackers receive what they do not have yet."""
    more = "To train this model further, add --more_epochs=N. To train a new model, pass another --run"
    log(f"run: {run} is finished already. {more}")
    if device.chief:
        judging.log_scores(metrics, log)
    with _logged(run, config, device, log) as book:
        book.log(report.read_history(run / run_directory.HISTORY))
        book.finish(metrics, report.written(run))


def _train(training: Training, settings: Settings, log: Callable[[str], object]) -> Path:
    """Train in a new or unfinished run directory. Return the directory."""
    for line in (*setup.describe(training), *notes.lines(training.recipe, training.data, training.splits.train)):
        log(line)
    with _opened(training, settings, log) as run:
        log(f"run: {run}")
        metrics = _results(str(run), settings, training.device)  # Another process may have finished the run just now.
        if metrics is None:
            with _logged(run, training.config, training.device, log) as book:
                _train_in(run, training, book, log)
        elif training.device.chief:
            judging.log_scores(metrics, log)
        training.device.barrier()
    return run


def _results(run: str | None, settings: Settings, device: Device) -> Metrics | None:
    """Read the results of a run. None if the run is not finished. {} in workers that are not the chief.

    Only the chief (worker 0) reads the results, because the other workers may see a file on shared storage late.
    """
    metrics = run_directory.results(run, settings) if device.chief else {}
    return metrics if device.all_gather(metrics is not None)[0] else None


@contextlib.contextmanager
def _opened(training: Training, settings: Settings, log: Callable[[str], object]) -> Iterator[Path]:
    """Open the run directory. The chief makes and locks it. The other workers wait until they see it."""
    config, device = training.config, training.device
    if device.chief:
        with run_directory.opened(config.run, settings, training.trainer, log) as run:
            device.barrier()
            yield run
        return
    device.barrier()
    run = Path(str(config.run))
    if not run_directory.appears(run):
        raise UserError(
            f"--run={run}: worker {device.cluster.worker} cannot see the directory that worker 0 has made. {_SHARED}"
        )
    run_directory.results(str(run), settings)  # Raises UserError if this worker has other flags.
    yield run


def _train_in(run: Path, training: Training, book: Logbook, log: Callable[[str], object]) -> None:
    """Train. The chief then saves and evaluates the model. After an interruption, the next call continues."""
    recipe, chief = training.recipe, training.device.chief
    checkpointer = _checkpointer(run, training, book, log)
    throughput = Throughput(recipe.batch_size, training.config.deterministic)
    traffic = BucketTraffic(training.splits, log)
    task = tasks.make_task(training, throughput, log)
    # Keras warns about every dataset with an unknown length. It is unknown here because corrupt records are left out.
    warnings.filterwarnings("ignore", "Your input ran out of data")

    verbose = console.bar_verbosity() if chief else 0
    try:
        fit(task, recipe.phases, checkpointer, callbacks=lambda phase: [throughput, traffic], verbose=verbose, log=log)
    except DivergedError as error:
        raise UserError(_diverged(run, training, task, error)) from error
    if chief:
        book.finish(judging.judge(run, training, task, checkpointer, log), report.written(run))


def _logged(
    run: Path, config: TrainConfig, device: Device, log: Callable[[str], object]
) -> contextlib.AbstractContextManager[Logbook]:
    """Open the runs of a training in its experiment trackers. Only the chief logs."""
    trackers = config.trackers if device.chief else ()
    return logbook.opened(trackers, run, run_directory.read_settings(run), config.log_group, log)


def _checkpointer(run: Path, training: Training, book: Logbook, log: Callable[[str], object]) -> Checkpointer:
    """Read the checkpoint of a run and write the history that belongs to it."""
    device = training.device

    def write_history(rows: Sequence[checkpoint.Row]) -> None:
        if device.chief:
            run_directory.write_history(run, rows)

    checkpointer = Checkpointer(
        run / run_directory.CHECKPOINT,
        every=training.config.checkpoint_every,
        on_epoch=write_history,
        on_save=book.log,
        writes=device.chief,
        start=training.start,
        end=run / run_directory.OPTIMIZER,
    )
    done = checkpointer.position.global_step
    if len(set(device.all_gather(done))) > 1:
        raise UserError(f"--run={run}: the workers read different checkpoints. {_SHARED}")
    if done:
        begun = 0 if training.start is None else training.start.position.global_step
        how = "resumed" if done > begun else f"continues with the weights {training.weights}"
        log(f"{how}: {words.number(done, 'step is', 'steps are')} done")
    write_history(checkpointer.rows)  # The history file may be a little newer or older than the checkpoint.
    book.log(checkpointer.rows)
    return checkpointer


def _diverged(run: Path, training: Training, task: Task, error: DivergedError) -> str:
    """Return an error message that lists the records of two batches.

    They are the batch with the bad loss and the batch before it, which was the last one that changed the weights.
    """
    batches = [
        f"the batch of step {step:,}: {inputs.describe_records(training.splits.train, task.batch_numbers(step))}"
        for step in range(max(error.step - 1, 0), error.step + 1)
    ]
    clipping = "" if training.device.replicas > 1 else ", or with --optimizer_kwargs=global_clipnorm=1"
    return (
        f"--run={run}: step {error.step:,}: the loss or a weight is NaN or infinite. Records of the last two batches:"
        f" {'; '.join(batches)}. The checkpoint of step {error.saved:,} is kept. Train again with a lower"
        f" --learning_rate{clipping}. If the error comes back at the same images, check these images."
    )


@contextlib.contextmanager
def _explained(splits: inputs.Splits, recipe: Recipe, config: TrainConfig) -> Iterator[None]:
    """Raise UserError for errors that the user can correct."""
    try:
        yield
    except tf.errors.OpError as error:
        explanation = _explanation(error, splits, recipe, config)
        if explanation is None:
            raise
        raise UserError(explanation) from error
    except OSError as error:
        raise UserError(f"{refusal(error)}. Correct the cause and run the same command again to continue.") from error


def _explanation(error: tf.errors.OpError, splits: inputs.Splits, recipe: Recipe, config: TrainConfig) -> str | None:
    """Return the message for the user, or None if the user cannot correct the cause."""
    if failure := splits.train.failure or splits.validation_share.failure or splits.validation.failure:
        return failure
    if config.deterministic and "determinis" in str(error.message):
        return (
            f"--deterministic: TensorFlow has no reproducible version of an operation in this model: {one_line(error)}."
            " Remove --deterministic and pass another --run, or train another model."
        )
    if isinstance(error, tf.errors.ResourceExhaustedError):
        return (
            f"the memory of the device is too small. Pass a --batch_size below {recipe.batch_size}, or an --image_size"
            f" below {sizes.text(recipe.model.size)}. Also pass another --run."
        )
    if isinstance(error, _WORKER_GONE) and config.strategy == "multi_worker":
        return (
            f"the connection between the workers is lost: {one_line(error)}. If another worker has ended, look at the"
            " error in the output of that worker. Run the same command on all workers again to continue from the last"
            " checkpoint."
        )
    return None
