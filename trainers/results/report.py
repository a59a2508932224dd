"""The report of a model on a split: one page with how it was trained, how good it is, where it errs, and what to do."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from tfrecord_tools.base import files, page, rules, words
from tfrecord_tools.base.rules import Finding, Rule
from tfrecord_tools.records import Records
from trainers import run_directory
from trainers.models.model_file import ModelInfo
from trainers.results import advice, plots, predictions, scores
from trainers.results.plots import Plot
from trainers.results.predictions import Predictions

if TYPE_CHECKING:
    import keras

REPORT = "report.html"
PLOTS = "plots"
_MISTAKES = 24  # Shown.
_CLASSES_LISTED = 50
_PAIRS_LISTED = 10
_THUMBNAIL_PIXELS = 160
_SURE = 0.9  # Of a mistake that may well be a wrong label.
_MISCALIBRATED = 0.05  # The error of calibration from which on it matters.
_WAITING = 0.2  # Share of the time, from which on the input is what to mend.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mistake:
    """An image whose label the model contradicts.

    Attributes:
        number: Of it in the predictions.
        image: JPEG, what the model saw of it.
        heat: JPEG, the same with what speaks for the prediction; None where the model keeps no places.
    """

    number: int
    image: bytes
    heat: bytes | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """What the page is made of.

    Attributes:
        info: Of the model.
        predictions: With labels.
        metrics: As in metrics.json: the `predictions.summary`, `split` and `note`, and what else is known.
        settings: As in settings.json; empty where it is not known.
        history: The rows of history.csv, numbers as floats; likewise.
        plots: As of `plots.draw`.
        mistakes: The worst first.
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
    records: Records,
    predicted: Predictions,
    metrics: Mapping[str, Any],
    run: Path | None,
) -> None:
    """Writes report.html, predictions.csv, suspects.csv and plots/*.png, each whole or not at all.

    Args:
        directory: Where to; it is there.
        model: What was asked.
        info: What it says of itself.
        records: What it was asked about.
        predicted: What it said, as of `predictions.of_records`.
        metrics: As in `Facts`.
        run: The run directory, whose history and settings are shown; None where it is not known.
    """
    predictions.write(directory, predicted)
    history = read_history(run / run_directory.HISTORY) if run else []
    drawn = plots.draw(predicted, info.threshold, history)
    (directory / PLOTS).mkdir(exist_ok=True)
    for name, plot in drawn.items():
        _write(directory / PLOTS / f"{name}.png", plot.png)
    for name in plots.NAMES - drawn.keys():  # Those of an earlier report.
        (directory / PLOTS / f"{name}.png").unlink(missing_ok=True)
    facts = Facts(
        info=info,
        predictions=predicted,
        metrics=metrics,
        settings=run_directory.read_settings(run) if run else {},
        history=history,
        plots=drawn,
        mistakes=_mistakes(model, info, records, predicted),
    )
    _write(directory / REPORT, render(facts).encode())


def read_history(path: Path) -> list[dict[str, Any]]:
    """Reads history.csv, numbers as floats; no rows if it is not there."""
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return [
            {name: value if name == "phase" else float(value) for name, value in row.items()}
            for row in csv.DictReader(file)
        ]


def render(facts: Facts) -> str:
    """Returns the page as HTML: without scripts, complete without a network."""
    predicted = facts.predictions
    counts = scores.confusion(predicted.truth, predicted.predicted, len(predicted.classes))
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
        curves=[name for name in ("accuracy", "loss", "throughput") if name in facts.plots],
        waited=_waited(facts),
        rates=_rates(counts, predicted.classes),
        pairs=_pairs(counts, predicted.classes),
        threshold=_best_threshold(facts),
        wrong=len(_wrong(predicted)),
        mistakes=[_shown(predicted, one) for one in facts.mistakes],
        subject=_subject(facts),
        flags=[f"--{name}={_value(value)}" for name, value in facts.settings.get("flags", {}).items()],
        environment={**facts.info.versions, **facts.settings.get("environment", {})},
    )


def findings(facts: Facts) -> list[Finding]:
    """What is to be known before a figure is believed, and what is worth doing; the worst first."""
    return rules.worst_first(rules.found(_RULES, facts))


def _contradicted(facts: Facts) -> dict[str, Any] | None:
    predicted = facts.predictions
    sure = int((predicted.confidence[_wrong(predicted)] >= _SURE).sum())
    if not sure:
        return None
    # Of a model that is too sure, many of them are its own.
    too_sure = float(predicted.confidence.mean()) > facts.metrics["accuracy_interval"][1]
    own = ", or the model too sure, as it is on the whole" if too_sure else ""
    return {"labels": words.number(sure, "label"), "own": own}


def _weak_class(facts: Facts) -> dict[str, Any] | None:
    weak = _weakest(facts.predictions)
    if weak is None:
        return None
    name, recall = facts.predictions.classes[weak[0]], weak[1]
    balanced = advice.command(facts.info.trainer, "--order=balanced", "--class_weights=balanced")
    anew = page.marked(", or train with `{command}`", command=balanced) if balanced else ""
    return {"name": name, "recall": f"{recall:.1%}", "anew": anew}


def _waits(facts: Facts) -> dict[str, Any] | None:
    waited = _waited(facts)
    if waited is None or waited < _WAITING:
        return None
    return {"waited": f"{waited:.0%}", "help": _help_for_input(facts.info.trainer)}


def _help_for_input(trainer: str) -> str:
    """What to do about an input that the model waits for."""
    smaller = "`python -m tfrecord_tools.convert --resize=N` makes records that decode faster"
    if probe := advice.command(trainer, "--probe"):
        once = advice.command(trainer, "--cache=memory")
        text = f"`{{probe}}` measures which of the two binds. {smaller}; `{{once}}` decodes each image only once."
        return page.marked(text, probe=probe, once=once)
    if fewer := advice.command(trainer, "--batch_size=N"):
        text = "Steps on features are short; `{fewer}` with a larger N makes fewer and longer ones."
        return page.marked(text, fewer=fewer)
    return page.marked(f"{smaller}.")


def _miscalibrated(facts: Facts) -> dict[str, Any] | None:
    low, high = facts.metrics["accuracy_interval"]
    confidence = float(facts.predictions.confidence.mean())
    # Of few images the error is large by chance; the mean confidence lies outside of the interval by chance rarely.
    if facts.metrics["calibration_error"] < _MISCALIBRATED or low <= confidence <= high:
        return None
    how = "surer" if confidence > high else "less sure"
    return {"how": how, "confidence": f"{confidence:.1%}", "accuracy": f"{facts.metrics['accuracy']:.1%}"}


def _corrupt(facts: Facts) -> dict[str, Any] | None:
    corrupt = facts.metrics["corrupt"]
    return {"records": words.number(len(corrupt), "record"), "first": corrupt[0]} if corrupt else None


def _interval(facts: Facts) -> dict[str, Any]:
    low, high = facts.metrics["accuracy_interval"]
    images = words.number(len(facts.predictions), "image")
    return {"low": f"{100 * low:.1f}", "high": f"{100 * high:.1f}", "images": images, "note": facts.metrics["note"]}


_RULES: tuple[Rule[Facts], ...] = (
    Rule(
        name="contradicted",
        level="check",
        section="mistakes",
        condition=_contradicted,
        title=f"{{labels}} contradicted with {_SURE:.0%} or more",
        text="They may be wrong{own}.",
        advice="Go through `suspects.csv` from the top, append the lines whose column `predicted_label` is right to a"
        " file of their own, and pass that file to `python -m tfrecord_tools.convert --relabel`.",
    ),
    Rule(
        name="weak_class",
        level="check",
        section="decisions",
        condition=_weak_class,
        title="Class {name}: {recall} of its images are found",
        text="That is clearly less than of all images.",
        advice="Look at the mistakes of this class, add images of it{anew}.",
    ),
    Rule(
        name="waits",
        level="check",
        section="training",
        condition=_waits,
        title="The model waited for its input {waited} of the time",
        text="{help}",
    ),
    Rule(
        name="miscalibrated",
        level="check",
        section="calibration",
        condition=_miscalibrated,
        title="The model is {how} than it is right",
        text="On average it is {confidence} confident, and {accuracy} are right: do not take its probabilities at their"
        " word.",
    ),
    Rule(
        name="corrupt",
        level="check",
        section="settings",
        condition=_corrupt,
        title="{records} corrupt and left out",
        text="Such as {first}",
    ),
    Rule(
        name="interval",
        level="note",
        section="decisions",
        condition=_interval,
        title="Accuracy lies between {low} and {high} %",
        text="That is what {images} can tell (95 % interval, Wilson); a difference of two models within it may be"
        " chance. {note}",
    ),
)


def _waited(facts: Facts) -> float | None:
    """The share of the time that the model waited for its input; None where it is not known."""
    waits = [row["data_wait"] for row in facts.history if "data_wait" in row]
    return float(np.mean(waits)) if waits else None


def _rates(counts: np.ndarray, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rates of each class, None where there are none; of many classes, those of the worst."""
    rates = scores.per_class(counts)
    order = np.arange(len(counts))
    if len(order) > _CLASSES_LISTED:
        order = np.argsort(np.nan_to_num(rates.f1, nan=2.0), kind="stable")[:_CLASSES_LISTED]
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
    """Which classes are taken for which, the most frequent first; of two classes, the matrix says it."""
    if len(classes) == 2:
        return []
    off = counts - np.diag(np.diag(counts))
    order = np.argsort(-off, axis=None, kind="stable")[:_PAIRS_LISTED]
    pairs = zip(*np.unravel_index(order, off.shape))
    return [[classes[true], classes[said], f"{off[true, said]:,}"] for true, said in pairs if off[true, said]]


def _best_threshold(facts: Facts) -> scores.Threshold | None:
    """The threshold with which most of these images would be right; None where there are no curves over thresholds."""
    predicted = facts.predictions
    return scores.best_threshold(predicted.truth, predicted.probabilities[:, 1]) if "roc" in facts.plots else None


def _shown(predicted: Predictions, one: Mistake) -> dict[str, Any]:
    """A mistake with what the page says of it."""
    i, rows = one.number, predicted.records
    return {
        "image": one.image,
        "heat": one.heat,
        "true": predicted.classes[predicted.truth[i]],
        "said": predicted.classes[predicted.predicted[i]],
        "path": predicted.paths[i],
        "confidence": _percent(predicted.confidence[i]),
        "record": None if rows is None else int(rows[i]),
    }


def _subject(facts: Facts) -> list[tuple[str, str]]:
    """What was judged, on what."""
    info, metrics = facts.info, facts.metrics
    return [
        ("Split judged", metrics["split"]),
        ("Trained on", info.dataset_name),
        ("Digest of that dataset", info.dataset_digest),
        *([("Judged on", metrics["dataset"])] if "dataset" in metrics else []),
        *([("Digest of that", metrics["digest"])] if "digest" in metrics else []),
        ("Image size", f"{info.image_size} px, crop {info.crop:g}"),
        ("The model takes", info.pixels),
    ]


def _mistakes(model: keras.Model, info: ModelInfo, records: Records, predicted: Predictions) -> list[Mistake]:
    """Decodes the worst mistakes anew, as the model saw them, and asks it what speaks for its answer."""
    wrong = set(_wrong(predicted).tolist())
    worst = [i for i in predictions.ranked(predicted).tolist() if i in wrong][:_MISTAKES]
    if not worst:
        return []
    from tfrecord_tools import dataset
    from trainers.results import gradcam

    position_of = {row: position for position, row in enumerate(records.rows.tolist())}
    rows = np.asarray(predicted.records)[worst]
    chosen = records.select(np.array([position_of[row] for row in rows.tolist()]))
    batches = dataset.eval_batches(chosen, batch_size=_MISTAKES, image_size=info.image_size, crop=info.crop)
    images = next(iter(batches))[0].numpy()
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
    """Of the classes whose recall lies clearly below the accuracy, the one that surely lies lowest, and its recall."""
    counts = scores.confusion(predicted.truth, predicted.predicted, len(predicted.classes))
    rates = scores.per_class(counts)
    # All at once: of a hundred intervals of 95 % each, five miss by chance.
    highs = [scores.wilson(int(hits), int(n), len(counts)).high for hits, n in zip(np.diag(counts), rates.count)]
    worst = int(np.argmin(highs))
    return (worst, float(rates.recall[worst])) if highs[worst] < np.diag(counts).sum() / len(predicted) else None


def _wrong(predicted: Predictions) -> np.ndarray:
    return np.flatnonzero(predicted.predicted != predicted.truth)


def _percent(value: float) -> str:
    """A probability; near 1, with as many digits as it takes to tell it from that."""
    return f"{100 * value:.1f} %" if value < 0.9995 else "99.9+ %"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ",".join(f"{name}={item}" for name, item in value.items())
    return str(value)


def _jpeg(pixels: np.ndarray) -> bytes:
    """Encodes u8[h w 3], made smaller where it is large."""
    image = Image.fromarray(pixels)
    image.thumbnail((_THUMBNAIL_PIXELS, _THUMBNAIL_PIXELS))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=85)
    return stream.getvalue()


def _write(path: Path, data: bytes) -> None:
    with files.atomic(path) as file:
        file.write(data)
