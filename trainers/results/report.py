"""The report of a model: one page with its accuracy, its mistakes, how it was trained and what to do."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from tfrecord_tools.base import files, options, page, rules, words
from tfrecord_tools.base.rules import Finding, Rule
from tfrecord_tools.errors import named
from trainers import run_directory
from trainers.fitting import notes
from trainers.models.model_file import ModelInfo
from trainers.results import advice, plots, predictions, scores, views
from trainers.results.pictures import Pictures
from trainers.results.plots import Plot
from trainers.results.predictions import Predictions

if TYPE_CHECKING:
    import keras

REPORT = "report.html"
PLOTS = "plots"
_MISTAKES = 24  # Mistakes shown.
_CLASSES_LISTED = 50
_CLASSES_BESIDE = 8  # With more classes, the confusion matrix takes the whole width.
_PAIRS_LISTED = 10
_THUMBNAIL_PIXELS = 160
_SURE = 0.9  # If the confidence of a mistake is at least this, its label may be wrong.
_MISCALIBRATED = 0.05  # Smaller calibration errors are not reported.
_WAITING = 0.2  # If the model waits for its input for at least this share of the time, the input should be improved.
_OVERFITTED = 1.1  # If the last validation loss is this many times the lowest one, the model is overfitted.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mistake:
    """An image with a label that differs from the prediction.

    Attributes:
        number: Index of the image in the predictions.
        image: JPEG of the model's input.
        heat: JPEG of the model's input with the evidence for the prediction in red. None if the model has no feature
            maps.
    """

    number: int
    image: bytes
    heat: bytes | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """The content of a report.

    Attributes:
        info: The description of the model.
        predictions: The predictions, with labels.
        metrics: The content of metrics.json: `predictions.summary`, `split`, `note` and further values.
        settings: The content of settings.json. Empty if there is no such file.
        history: The rows of history.csv with numbers as floats. Empty if there is no such file.
        plots: The plots, as `plots.draw` returns them.
        mistakes: Some of the worst mistakes, worst first.
    """

    info: ModelInfo
    predictions: Predictions
    metrics: Mapping[str, Any]
    settings: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    plots: Mapping[str, Plot]
    mistakes: Sequence[Mistake]


def write(
    directory: Path,
    *,
    model: keras.Model,
    info: ModelInfo,
    pictures: Pictures,
    predicted: Predictions,
    metrics: Mapping[str, Any],
    run: Path | None,
    log: Callable[[str], object] = print,
) -> None:
    """Write report.html, predictions.csv, suspects.csv and plots/*.png, each completely or not at all.

    Args:
        directory: An existing directory to write to.
        model: The model.
        info: The description of the model.
        pictures: The input of the model for each prediction.
        predicted: The predictions, with labels.
        metrics: The content of metrics.json, see `Facts`.
        run: The run directory with the history and the settings. None: the report shows neither.
        log: Receives a line for each finding of level "problem" or "check".
    """
    predictions.write(directory, predicted)
    history = read_history(run / run_directory.HISTORY) if run else []
    drawn = plots.draw(predicted, info.threshold, history, log)
    (directory / PLOTS).mkdir(exist_ok=True)
    for name, plot in drawn.items():
        _write(directory / PLOTS / f"{name}.png", plot.png)
    for name in plots.NAMES - drawn.keys():  # An earlier report may have left these plots.
        (directory / PLOTS / f"{name}.png").unlink(missing_ok=True)
    facts = Facts(
        info=info,
        predictions=predicted,
        metrics=metrics,
        settings=run_directory.read_settings(run) if run else {},
        history=history,
        plots=drawn,
        mistakes=_mistakes(model, pictures, predicted),
    )
    _write(directory / REPORT, render(facts).encode())
    for line in rules.lines(findings(facts)):
        log(line)


def written(run: Path) -> list[Path]:
    """Return the files of a finished run that experiment trackers store: report, plots and tables."""
    names = (REPORT, run_directory.HISTORY, run_directory.METRICS, run_directory.SETTINGS)
    return [path for name in names if (path := run / name).exists()] + sorted((run / PLOTS).glob("*.png"))


def read_history(path: Path) -> list[dict[str, Any]]:
    """Read the rows of history.csv with numbers as floats. If the file does not exist, return no rows."""
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return [
            {name: value if name == "phase" else float(value) for name, value in row.items()}
            for row in csv.DictReader(file)
        ]


def render(facts: Facts) -> str:
    """Return the page as HTML. It has no scripts and loads nothing."""
    predicted = facts.predictions
    counts = _confusion(predicted)
    return page.render(
        "trainers.results",
        "report.html",
        heading=f"{facts.info.trainer} on {facts.info.dataset_name}",
        kind="report",
        facts=facts,
        metrics=facts.metrics,
        images=len(predicted),
        colors=plots.COLORS,
        findings=findings(facts),
        curves=[name for name in ("accuracy", "loss") if name in facts.plots],
        blending=_blending(facts),
        waited=_waited(facts),
        rates=_rates(counts, predicted.classes),
        present=int(np.count_nonzero(counts.sum(1))),
        pairs=_pairs(counts, predicted.classes),
        beside=len(predicted.classes) <= _CLASSES_BESIDE,
        threshold=_best_threshold(facts),
        wrong=len(_wrong(predicted)),
        mistakes=[_shown(predicted, mistake) for mistake in facts.mistakes],
        subject=_subject(facts),
        flags=[f"--{name}={_value(name, value)}" for name, value in facts.settings.get("flags", {}).items()],
        environment={**facts.info.versions, **facts.settings.get("environment", {})},
    )


def findings(facts: Facts) -> list[Finding]:
    """Return what a reader should know before using the numbers, and what to improve. The worst is first."""
    return rules.worst_first(rules.found(_RULES, facts))


def _guessed(facts: Facts) -> dict[str, Any] | None:
    guess = _guess(facts)
    return guess if guess and guess["accuracy"] <= guess["share"] else None


def _perhaps_guessed(facts: Facts) -> dict[str, Any] | None:
    guess = _guess(facts)
    low = facts.metrics["accuracy_interval"][0]
    return guess if guess and low <= guess["share"] < guess["accuracy"] else None


def _guess(facts: Facts) -> dict[str, Any] | None:
    """Return the accuracy of always guessing the largest class. None if all images are of one class."""
    counts = _confusion(facts.predictions).sum(1)
    if np.count_nonzero(counts) == 1:
        return None
    largest = int(counts.argmax())
    return {
        "name": facts.predictions.classes[largest],
        "share": float(counts[largest] / counts.sum()),
        "accuracy": facts.metrics["accuracy"],
        "rate": _or(", for example `{command}`", advice.command(facts.info.trainer, "--learning_rate=RATE")),
    }


def _or(text: str, command: str) -> str:
    """Return a text as HTML, with a command inserted; "" if there is no command."""
    return page.marked(text, command=command) if command else ""


def _contradicted(facts: Facts) -> dict[str, Any] | None:
    predicted = facts.predictions
    sure = int((predicted.confidence[_wrong(predicted)] >= _SURE).sum())
    if not sure:
        return None
    too_sure = float(predicted.confidence.mean()) > facts.metrics["accuracy_interval"][1]
    cause = (
        "The labels may be wrong, or the model may be too confident in general."
        if too_sure
        else "These labels may be wrong."
    )
    return {"labels": words.number(sure, "label"), "cause": cause}


def _weak_class(facts: Facts) -> dict[str, Any] | None:
    weak = _weakest(facts.predictions)
    if weak is None:
        return None
    name, recall = facts.predictions.classes[weak[0]], weak[1]
    balanced = advice.command(facts.info.trainer, "--order=balanced", "--class_weights=balanced")
    return {"name": name, "recall": f"{recall:.1%}", "balanced": _or(", or train with `{command}`", balanced)}


def _imbalanced(facts: Facts) -> dict[str, Any] | None:
    sizes = [int(size) for size in _confusion(facts.predictions).sum(1) if size]
    ratio = rules.imbalance(sizes)
    if not ratio:
        return None
    balanced = advice.command(facts.info.trainer, "--class_weights=balanced")
    return {
        "ratio": ratio,
        "balanced_accuracy": f"{facts.metrics['balanced_accuracy']:.1%}",
        "balanced": _or(", or train with `{command}`", balanced),
    }


def _overfitted(facts: Facts) -> dict[str, Any] | None:
    rows = facts.history
    if not rows or "val_loss" not in rows[0] or facts.settings.get("recipe", {}).get("early_stopping"):
        return None  # Early stopping restores the weights of the best epoch.
    losses = [row["val_loss"] for row in rows]
    best = int(np.argmin(losses))
    if losses[-1] < _OVERFITTED * losses[best] or rows[-1]["loss"] >= rows[best]["loss"]:
        return None
    return {
        "epoch": best + 1,
        "lowest": f"{losses[best]:.4f}",
        "last": f"{losses[-1]:.4f}",
        "stopped": _or(" Train with `{command}`.", advice.command(facts.info.trainer, "--early_stopping=3")),
    }


def _waits(facts: Facts) -> dict[str, Any] | None:
    waited = _waited(facts)
    if waited is None or waited < _WAITING:
        return None
    return {"waited": f"{waited:.0%}", "help": _help_for_input(facts.info.trainer)}


def _help_for_input(trainer: str) -> str:
    """Return advice on how to make the input of a trainer faster."""
    smaller = "`python -m tfrecord_tools.convert --resize=N` makes records that decode faster"
    if probe := advice.command(trainer, "--probe"):
        once = advice.command(trainer, "--cache=memory")
        text = f"`{{probe}}` measures the input and the model. {smaller}. `{{once}}` decodes each image only once."
        return page.marked(text, probe=probe, once=once)
    if fewer := advice.command(trainer, "--batch_size=N"):
        text = (
            "Each step on features is short, so the model often waits for the next batch. `{fewer}` with a larger N"
            " makes fewer and longer steps."
        )
        return page.marked(text, fewer=fewer)
    return page.marked(f"{smaller}.")


def _miscalibrated(facts: Facts) -> dict[str, Any] | None:
    low, high = facts.metrics["accuracy_interval"]
    confidence = float(facts.predictions.confidence.mean())
    # With few images, the calibration error is often large by chance. So there is a second condition: the mean
    # confidence is outside the interval of the accuracy. This rarely happens by chance.
    if facts.metrics["calibration_error"] < _MISCALIBRATED or low <= confidence <= high:
        return None
    too_sure = confidence > high
    smoothing = advice.command(facts.info.trainer, f"--label_smoothing={0.1 if too_sure else 0}")
    return {
        "how": "more" if too_sure else "less",
        "confidence": f"{confidence:.1%}",
        "accuracy": f"{facts.metrics['accuracy']:.1%}",
        "smoothing": _or(" `{command}` may help.", smoothing),
    }


def _mirrored(facts: Facts) -> dict[str, Any] | None:
    augment = facts.settings.get("recipe", {}).get("augment")
    mirrored = notes.may_be_mirrored(augment, facts.info.classes) if isinstance(augment, Mapping) else None
    if mirrored is None:
        return None
    command = advice.command(facts.info.trainer, mirrored.flag)
    return {"names": named(mirrored.names), "still": _or(" Train with `{command}`.", command)}


def _corrupt(facts: Facts) -> dict[str, Any] | None:
    corrupt = facts.metrics["corrupt"]
    return {"records": words.number(len(corrupt), "record"), "first": corrupt[0]} if corrupt else None


def _unreadable(facts: Facts) -> dict[str, Any] | None:
    unreadable = facts.metrics.get("unreadable")
    if not unreadable:
        return None
    return {"files": words.number(len(unreadable), "file"), "first": unreadable[0]}


def _absent(facts: Facts) -> dict[str, Any] | None:
    count = len(facts.predictions.classes)
    absent = [name for name, rate in facts.metrics["recall"].items() if rate is None]
    return {"absent": f"{len(absent):,} of {count:,} classes", "names": named(absent)} if absent else None


def _interval(facts: Facts) -> dict[str, Any]:
    low, high = facts.metrics["accuracy_interval"]
    images = words.number(len(facts.predictions), "image")
    return {"low": f"{low:.1%}", "high": f"{high:.1%}", "images": images, "note": facts.metrics["note"]}


def _audited(facts: Facts) -> dict[str, Any] | None:
    part = facts.metrics.get("without_issues")
    if not part or not part["left_out"]:
        return None
    low, high = part["accuracy_interval"]
    images = words.number(part["left_out"], "image")
    return {"low": f"{low:.1%}", "high": f"{high:.1%}", "images": images, "accuracy": f"{part['accuracy']:.1%}"}


_RULES: tuple[Rule[Facts], ...] = (
    Rule(
        name="guessed",
        level="problem",
        section="decisions",
        condition=_guessed,
        title="No better than always guessing {name}, the largest class",
        text="The accuracy is {accuracy:.1%}, and {share:.1%} of the images are {name}.",
        advice="Look at the labels and at the training curves. Then train with more epochs or with another learning"
        " rate{rate}.",
    ),
    Rule(
        name="perhaps_guessed",
        level="check",
        section="decisions",
        condition=_perhaps_guessed,
        title="Not clearly better than always guessing {name}, the largest class",
        text="The accuracy is {accuracy:.1%}, and {share:.1%} of the images are {name}. With this number of images, the"
        " difference may be chance.",
        advice="Evaluate on more images, or train with more epochs or with another learning rate{rate}.",
    ),
    Rule(
        name="contradicted",
        level="check",
        section="mistakes",
        condition=_contradicted,
        title=f"The model disagrees with {{labels}} and is at least {_SURE:.0%} sure",
        text="{cause}",
        advice="Go through `suspects.csv` from the top, and write a word into the column `decision`: `label` if"
        " `predicted_label` is right, `drop` to leave the image out, `keep` if `given_label` is right. Pass the"
        " file to `python -m tfrecord_tools.convert --update --decisions`.",
    ),
    Rule(
        name="imbalance",
        level="check",
        section="decisions",
        condition=_imbalanced,
        title="Imbalanced classes: {ratio} images, balanced accuracy {balanced_accuracy}",
        text="Accuracy hides mistakes in small classes. Balanced accuracy is the mean recall of all classes.",
        advice="Add images of the small classes{balanced}.",
    ),
    Rule(
        name="weak_class",
        level="check",
        section="decisions",
        condition=_weak_class,
        title="Class {name}: recall {recall}",
        text="This recall is clearly below the accuracy over all images.",
        advice="Look at the mistakes of this class. Add images of this class{balanced}.",
    ),
    Rule(
        name="overfitted",
        level="check",
        section="training",
        condition=_overfitted,
        title="Overfitted since epoch {epoch}",
        text="The validation loss was lowest in epoch {epoch} ({lowest}). At the end, the validation loss was {last},"
        " although the training loss had fallen further.",
        advice="{stopped} More images or stronger augmentation also help.",
    ),
    Rule(
        name="waits",
        level="check",
        section="speed",
        condition=_waits,
        title="The model waited for its input {waited} of the time",
        text="{help}",
    ),
    Rule(
        name="miscalibrated",
        level="check",
        section="calibration",
        condition=_miscalibrated,
        title="The model is {how} confident than accurate",
        text="The mean confidence is {confidence}, and {accuracy} of the predictions are right. Do not trust the"
        " probabilities of this model.",
        advice="{smoothing}",
    ),
    Rule(
        name="mirrored",
        level="check",
        section="settings",
        condition=_mirrored,
        title="Mirrored images may be of another class: {names}",
        text="The augmentation mirrored the training images, but the class names suggest that this changes the class.",
        advice="Look at some images.{still}",
    ),
    Rule(
        name="corrupt",
        level="check",
        section="settings",
        condition=_corrupt,
        title="{records} corrupt and left out",
        text="For example {first}.",
        advice="Write the dataset again with `python -m tfrecord_tools.convert --overwrite`.",
    ),
    Rule(
        name="unreadable",
        level="check",
        section="settings",
        condition=_unreadable,
        title="{files} unreadable and left out",
        text="For example {first}.",
    ),
    Rule(
        name="absent",
        level="note",
        section="decisions",
        condition=_absent,
        title="Without images: {absent}",
        text="There are no images of {names}. The rates per class and their means leave these classes out.",
    ),
    Rule(
        name="interval",
        level="note",
        section="decisions",
        condition=_interval,
        title="The accuracy is between {low} and {high}",
        text="This is the 95% interval (Wilson) for {images}. If the accuracy of another model is also inside this"
        " interval, the difference may be chance. {note}",
    ),
    Rule(
        name="audited",
        level="note",
        section="decisions",
        condition=_audited,
        title="Without {images} that the audit doubts, the accuracy is {accuracy} ({low} to {high})",
        text="The audit judges labels with another model. Some of the doubtful images are only difficult. Without"
        " these images, the accuracy is a little too high.",
        advice="Review the doubtful images with `python -m trainers.audit`, and correct their labels.",
    ),
)


def _waited(facts: Facts) -> float | None:
    """Return the share of the time that the model waited for its input. None if it is not known."""
    waits = [row["data_wait"] for row in facts.history if "data_wait" in row]
    return float(np.mean(waits)) if waits else None


def _blending(facts: Facts) -> str:
    """Return why the training loss and the validation loss cannot be compared. Return "" if they can."""
    recipe = facts.settings.get("recipe", {})
    smoothing = recipe.get("label_smoothing")
    causes = [f"label smoothing {smoothing:g}"] if smoothing else []
    causes += [name for key, name in (("mixup", "MixUp"), ("cutmix", "CutMix")) if recipe.get(key)]
    if not causes:
        return ""
    text = f"The training loss is computed with {' and '.join(causes)}, and the validation loss is computed without."
    if smoothing:
        text += (
            f" Even if every prediction is right, the training loss stays above {_least_loss(facts, smoothing):.2f}."
        )
    return text


def _least_loss(facts: Facts, smoothing: float) -> float:
    """Return the lowest possible cross-entropy of smoothed targets."""
    classes = len(facts.info.classes)
    other = smoothing / classes
    own = 1 - smoothing + other
    return -own * math.log(own) - (classes - 1) * other * math.log(other)


def _rates(counts: np.ndarray, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return recall, precision and F1 of each class with images; the precision is None if it is undefined.

    If there are more than `_CLASSES_LISTED` classes, return only those with the lowest F1.
    """
    rates = scores.per_class(counts)
    order = np.flatnonzero(rates.count)
    if len(order) > _CLASSES_LISTED:
        order = order[np.argsort(rates.f1[order], kind="stable")[:_CLASSES_LISTED]]
    columns = np.stack([rates.recall, rates.precision, rates.f1], 1)
    return [
        {
            "name": classes[i],
            "images": int(rates.count[i]),
            "rates": [None if np.isnan(value) else float(value) for value in columns[i]],
        }
        for i in order.tolist()
    ]


def _pairs(counts: np.ndarray, classes: Sequence[str]) -> list[list[str]]:
    """Return the most frequent confusions: label, prediction, count. With two classes, return none."""
    if len(classes) == 2:
        return []
    mistakes = counts - np.diag(np.diag(counts))
    order = np.argsort(-mistakes, axis=None, kind="stable")[:_PAIRS_LISTED]
    pairs = zip(*np.unravel_index(order, mistakes.shape))
    return [
        [classes[label], classes[predicted], f"{mistakes[label, predicted]:,}"]
        for label, predicted in pairs
        if mistakes[label, predicted]
    ]


def _best_threshold(facts: Facts) -> scores.Threshold | None:
    """Return the threshold with the highest accuracy on these images. None if there is no ROC curve."""
    predicted = facts.predictions
    return scores.best_threshold(predicted.truth, predicted.probabilities[:, 1]) if "roc" in facts.plots else None


def _shown(predicted: Predictions, mistake: Mistake) -> dict[str, Any]:
    """Return a mistake as the page shows it."""
    i, rows = mistake.number, predicted.records
    split = "" if predicted.splits is None else predicted.splits[i]
    return {
        "image": mistake.image,
        "heat": mistake.heat,
        "label": predicted.classes[predicted.truth[i]],
        "predicted": predicted.classes[predicted.predicted[i]],
        "path": predicted.paths[i],
        "confidence": _percent(predicted.confidence[i]),
        "record": "" if rows is None else f"{split} record {rows[i]:,}".lstrip(),
    }


def _subject(facts: Facts) -> list[tuple[str, str]]:
    """Return the rows of the table "Data and model"."""
    info, metrics = facts.info, facts.metrics
    return [
        ("Evaluated split", metrics["split"]),
        *_origin(facts.settings),
        ("Trained on", info.dataset_name),
        ("Checksum of the training dataset", info.dataset_digest),
        *([("Evaluated on", metrics["dataset"])] if "dataset" in metrics else []),
        *([("Checksum of the evaluated dataset", metrics["digest"])] if "digest" in metrics else []),
        *([("Class map", options.pairs_text(metrics["class_map"], "="))] if "class_map" in metrics else []),
        *([("Views of each image", views.named(metrics["tta"]))] if "tta" in metrics else []),
        ("Image size", str(info.geometry)),
        ("Input of the model", info.pixels),
    ]


def _origin(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the rows about the run from which the training started. If there is none, return no rows."""
    parent = settings.get("parent")
    if not parent:
        return []
    more = [("Further epochs", f"{parent['more_epochs']:,}")] if "more_epochs" in parent else []
    return [
        ("Weights at the start", settings["other"]["weights"]),
        ("SHA-256 of these weights", parent["weights_sha256"]),
        *more,
    ]


def _mistakes(model: keras.Model, pictures: Pictures, predicted: Predictions) -> list[Mistake]:
    """Return the worst mistakes, each with the model's input and the evidence for the prediction."""
    wrong = set(_wrong(predicted).tolist())
    worst = [i for i in predictions.ranked(predicted).tolist() if i in wrong][:_MISTAKES]
    shown = [(number, image) for number, image in zip(worst, pictures(worst)) if image is not None]
    if not shown:
        return []
    from trainers.results import gradcam

    worst, images = [number for number, _ in shown], np.stack([image for _, image in shown])
    heat = gradcam.heatmaps(model, images, predicted.predicted[worst])
    return [
        Mistake(
            number=number,
            image=_jpeg(image),
            heat=None if heat is None else _jpeg(gradcam.overlaid(image, heat[i])),
        )
        for i, (number, image) in enumerate(zip(worst, images))
    ]


def _weakest(predicted: Predictions) -> tuple[int, float] | None:
    """Return the weakest class and its recall. None if no recall is clearly below the accuracy.

    Each class has a confidence interval of its recall. The interval of the weakest class has the lowest upper end.
    """
    counts = _confusion(predicted)
    rates = scores.per_class(counts)
    # With a probability of 95 %, all true recalls are within their intervals.
    highs = [scores.wilson(int(hits), int(n), len(counts)).high for hits, n in zip(np.diag(counts), rates.count)]
    worst = int(np.argmin(highs))
    return (worst, float(rates.recall[worst])) if highs[worst] < np.diag(counts).sum() / len(predicted) else None


def _confusion(predicted: Predictions) -> np.ndarray:
    return scores.confusion(predicted.truth, predicted.predicted, len(predicted.classes))


def _wrong(predicted: Predictions) -> np.ndarray:
    return np.flatnonzero(predicted.predicted != predicted.truth)


def _percent(value: float) -> str:
    """Return a probability as a percentage. At 0.9995 or more, it is ">99.9%" and not "100.0%"."""
    return f"{value:.1%}" if value < 0.9995 else ">99.9%"


def _value(name: str, value: Any) -> str:
    if isinstance(value, Mapping):
        if name == "class_weights":
            return options.pairs_text(value, ":")
        return ",".join(f"{name}={item}" for name, item in value.items())
    return str(value)


def _jpeg(pixels: np.ndarray) -> bytes:
    """Encode u8[h w 3] as a JPEG thumbnail."""
    image = Image.fromarray(pixels)
    image.thumbnail((_THUMBNAIL_PIXELS, _THUMBNAIL_PIXELS))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=85)
    return stream.getvalue()


def _write(path: Path, data: bytes) -> None:
    with files.atomic(path) as file:
        file.write(data)
