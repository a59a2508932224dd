"""The end of a training: save the model, evaluate it on the validation split and write the report."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfrecord_tools.base import words
from trainers import run_directory
from trainers.checkpoint import Checkpointer
from trainers.fit import Task, compile_model
from trainers.fitting.setup import Training
from trainers.models import model_file, networks
from trainers.results import pictures, predictions, report, views
from trainers.results.predictions import Predictions
from trainers.results.views import Predictor
from trainers.run_directory import Metrics

_LATENCY_WARM_UP, _LATENCY_CALLS = 3, 20
_NOTE = f"{predictions.MAY_BE_CHOSEN_ON} {predictions.ON_NEW_IMAGES}"


def judge(
    run: Path, training: Training, task: Task, checkpointer: Checkpointer, log: Callable[[str], object] = print
) -> Metrics:
    """Save the model, evaluate it and write the report.

    The accuracy is logged before the findings of the report. The file metrics.json is written last: it marks
    the run as finished.

    Args:
        run: The run directory.
        training: The parts of the training.
        task: The finished task.
        checkpointer: The checkpointer of the training, with its history.
        log: Receives the lines for the user.

    Returns:
        The content of metrics.json.
    """
    info, validation = training.info, training.splits.validation
    # The saved model is evaluated. It is float32, even if the training had another precision.
    model = networks.rebuild_float32(training.classifier, training.recipe.model, training.class_count)
    compile_model(model, optimizer="sgd", jit_compile=False)  # For users who load the model and evaluate it.
    model_file.save(model, info, run / run_directory.MODEL, training.recipe.model.codes)
    predictor = views.predictor(model)
    if task.answers:
        predicted = predictions.of_outputs(info, validation, *task.answers())
    else:
        predicted = predictions.of_records(predictor, info, validation)
    metrics = _metrics(run, training, predictor, predicted, task.seconds + checkpointer.seconds, checkpointer)
    log_scores(metrics, log)
    report.write(
        run,
        model=model,
        info=info,
        pictures=pictures.of_records(info, validation, predicted),
        predicted=predicted,
        metrics=metrics,
        run=run,
        log=log,
    )
    run_directory.finish(run, metrics)
    return metrics


def log_scores(metrics: Metrics, log: Callable[[str], object]) -> None:
    """Log the scores of a training in one line, and the number of corrupt records if there are any."""
    scores = ", ".join(f"{name} {metrics[name]:.4f}" for name in ("accuracy", "auc", "loss") if name in metrics)
    images = words.number(metrics["count"], "image")
    log(f"{scores} on the {images} of {metrics['split']}. {predictions.ON_NEW_IMAGES}")
    if "recall" in metrics:  # Runs of earlier releases do not have it.
        log(predictions.by_class_line(metrics))
    if "without_issues" in metrics:
        log(predictions.without_issues_line(metrics))
    if metrics["corrupt"]:
        log(f"corrupt: {words.number(len(metrics['corrupt']), 'record')}, listed in {run_directory.METRICS}")


def _metrics(
    run: Path,
    training: Training,
    predictor: Predictor,
    predicted: Predictions,
    seconds: float,
    checkpointer: Checkpointer,
) -> Metrics:
    splits = training.splits
    return {
        **predictions.summary(predicted),
        **predictions.without_issues(predicted, splits.doubts),
        "split": splits.validation_name,
        "note": _NOTE,
        "count": len(predicted),
        "corrupt": [*splits.train.corrupt.values(), *splits.validation.corrupt.values()],
        "steps": checkpointer.position.global_step,
        "seconds": round(seconds, 1),
        "images_per_second": statistics.median(row["images_per_second"] for row in checkpointer.rows),
        "parameters": training.classifier.model.count_params(),
        "model_bytes": (run / run_directory.MODEL).stat().st_size,
        "latency_ms": _latency_ms(predictor, training.recipe.model.input_shape),
    }


def _latency_ms(predictor: Predictor, input_shape: tuple[int, int, int]) -> float:
    """Return the median time of a prediction for one image, in milliseconds."""
    image = tf.constant(np.zeros((1, *input_shape), np.uint8))
    seconds = []
    for _ in range(_LATENCY_WARM_UP + _LATENCY_CALLS):
        start = time.perf_counter()
        predictor.compute(image).numpy()
        seconds.append(time.perf_counter() - start)
    return round(statistics.median(seconds[_LATENCY_WARM_UP:]) * 1000, 2)
