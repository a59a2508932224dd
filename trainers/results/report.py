"""The report of a model on a split: one page with how it was trained, how good it is, where it errs, and what to do."""

from __future__ import annotations

import base64
import csv
import dataclasses
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from tfrecord_tools.base import files, page, words
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
_TEMPLATE = "report_template.html"
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
    sections = {
        "training": ("Training", _training(facts)),
        "decisions": ("Decisions", _decisions(facts)),
        "threshold": ("Threshold", _threshold(facts)),
        "calibration": ("Calibration", _calibration(facts)),
        "mistakes": ("Worst mistakes", _worst(facts)),
        "settings": ("Settings", _settings(facts)),
    }
    shown = {name: section for name, section in sections.items() if section[1]}
    return page.fill(
        "trainers",
        _TEMPLATE,
        title=page.text(f"{facts.info.trainer} on {facts.info.dataset_name}"),
        subtitle=page.text(f"judged on {facts.metrics['split']}"),
        overview=_overview(facts),
        findings=_findings(facts),
        contents="".join(f'<li><a href="#{name}">{title}</a></li>' for name, (title, _) in shown.items()),
        sections="".join(
            f'<section id="{name}"><h2>{title}</h2>{content}</section>' for name, (title, content) in shown.items()
        ),
    )


def _overview(facts: Facts) -> str:
    metrics = facts.metrics
    low, high = metrics["accuracy_interval"]
    values = {
        "Accuracy": f'{metrics["accuracy"]:.1%} <span class="range">{100 * low:.1f} to {100 * high:.1f} %</span>',
        **({"AUC": f"{metrics['auc']:.4f}"} if "auc" in metrics else {}),
        "Loss": f"{metrics['loss']:.4f}",
        "Calibration error": f"{metrics['calibration_error']:.1%}",
        "Images": f"{len(facts.predictions):,}",
        "Classes": f"{len(facts.info.classes):,}",
    }
    return "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in values.items())


def _findings(facts: Facts) -> str:
    """What is to be known before a figure is believed, and what is worth doing."""
    items = "".join(
        f'<li class="{level}"><span class="level">{level.capitalize()}</span>'
        f'<div><a href="#{section}">{title}</a><p>{text}</p></div></li>'
        for level, section, title, text in _found(facts)
    )
    level = "check" if '<li class="check">' in items else "note"
    return f'<section class="verdict {level}"><h2>What to know</h2><ul class="findings">{items}</ul></section>'


def _found(facts: Facts) -> Iterator[tuple[str, str, str, str]]:
    """Yields level, section, title and text of each finding as HTML, the gravest first."""
    metrics, predicted = facts.metrics, facts.predictions
    wrong = _wrong(predicted)
    sure = int((predicted.confidence[wrong] >= _SURE).sum())
    low, high = metrics["accuracy_interval"]
    confidence = float(predicted.confidence.mean())
    if sure:
        # Of a model that is too sure, many of them are its own.
        own = ", or the model too sure, as it is on the whole" if confidence > high else ""
        yield (
            "check",
            "mistakes",
            f"{words.number(sure, 'label')} contradicted with {_SURE:.0%} or more",
            f"They may be wrong{own}. Go through <code>suspects.csv</code> from the top, append the lines whose column"
            " <code>label</code> is right to a file of their own, and pass that file to"
            " <code>python -m tfrecord_tools.convert --relabel</code>.",
        )
    weak = _weakest(predicted)
    if weak is not None:
        name, recall = page.text(predicted.classes[weak[0]]), weak[1]
        yield (
            "check",
            "decisions",
            f"Class {name}: {recall:.1%} of its images are found",
            f"That is clearly less than of all images. {_help_for_a_class(facts.info.trainer)}",
        )
    waits = [row["data_wait"] for row in facts.history if "data_wait" in row]
    if waits and np.mean(waits) >= _WAITING:
        yield (
            "check",
            "training",
            f"The model waited for its input {np.mean(waits):.0%} of the time",
            _help_for_input(facts.info.trainer),
        )
    # Of few images the error is large by chance; the mean confidence lies outside of the interval by chance rarely.
    if metrics["calibration_error"] >= _MISCALIBRATED and not low <= confidence <= high:
        yield (
            "check",
            "calibration",
            f"The model is {'surer' if confidence > high else 'less sure'} than it is right",
            f"On average it is {confidence:.1%} confident, and {metrics['accuracy']:.1%} are right:"
            " do not take its probabilities at their word.",
        )
    if metrics["corrupt"]:
        yield (
            "check",
            "settings",
            f"{words.number(len(metrics['corrupt']), 'record')} corrupt and left out",
            f"Such as {page.text(metrics['corrupt'][0])}",
        )
    yield (
        "note",
        "decisions",
        f"Accuracy lies between {100 * low:.1f} and {100 * high:.1f} %",
        f"That is what {words.number(len(predicted), 'image')} can tell (95 % interval, Wilson); a difference of two"
        f" models within it may be chance. {page.text(metrics['note'])}",
    )


def _help_for_a_class(trainer: str) -> str:
    """What to do about a class that is not found."""
    balanced = advice.command(trainer, "--order=balanced", "--class_weights=balanced")
    anew = f", or train with <code>{balanced}</code>" if balanced else ""
    return f"Look at the mistakes of this class, add images of it{anew}."


def _help_for_input(trainer: str) -> str:
    """What to do about an input that the model waits for."""
    smaller = "<code>python -m tfrecord_tools.convert --resize=N</code> makes records that decode faster"
    if probe := advice.command(trainer, "--probe"):
        once = advice.command(trainer, "--cache=memory")
        return (
            f"<code>{probe}</code> measures which of the two binds. {smaller}; <code>{once}</code> decodes each image"
            " only once."
        )
    if fewer := advice.command(trainer, "--batch_size=N"):
        return f"Steps on features are short; <code>{fewer}</code> with a larger N makes fewer and longer ones."
    return f"{smaller}."


def _training(facts: Facts) -> str:
    """Curves, and what a second was spent on."""
    names = [name for name in ("accuracy", "loss", "throughput") if name in facts.plots]
    if not names:
        return ""
    metrics = facts.metrics
    speed = ""
    if "images_per_second" in metrics:
        speed = (
            f" It took {metrics['seconds']:,.0f} s for {words.number(metrics['steps'], 'step')}, validation and saving"
            f" included; steps alone made {metrics['images_per_second']:,.0f} images a second."
        )
    waits = [row["data_wait"] for row in facts.history if "data_wait" in row]
    waited = f" The model waited for its input {np.mean(waits):.0%} of the time." if waits else ""
    return (
        f'<p class="aside">One point an epoch; a dotted line begins a phase.{speed}{waited}</p>{_plots(facts, *names)}'
    )


def _decisions(facts: Facts) -> str:
    """Confusion matrix and the rates of each class."""
    predicted = facts.predictions
    counts = scores.confusion(predicted.truth, predicted.predicted, len(predicted.classes))
    rates = scores.per_class(counts)
    order = np.arange(len(counts))
    note = (
        '<p class="aside">Recall: of the images of a class, the share that is found. Precision: of the images that are'
        " said to be of it, the share that is.</p>"
    )
    if len(order) > _CLASSES_LISTED:
        order = np.argsort(np.nan_to_num(rates.f1, nan=2.0), kind="stable")[:_CLASSES_LISTED]
        note += f'<p class="aside">The {_CLASSES_LISTED} worst of {len(counts):,} classes.</p>'
    rows = (
        [
            f'<span class="name">{page.text(predicted.classes[i])}</span>',
            f"{rates.count[i]:,}",
            *(_rate(value[i]) for value in (rates.recall, rates.precision, rates.f1)),
        ]
        for i in order.tolist()
    )
    table = page.table(["Class", "Images", "Recall", "Precision", "F1"], rows, numbers=(1,), kind="rates")
    return f"{note}{table}{_plots(facts, 'confusion')}{_pairs(counts, predicted.classes)}"


def _pairs(counts: np.ndarray, classes: Sequence[str]) -> str:
    """Which classes are taken for which, the most frequent first; of two classes, the matrix says it."""
    if len(classes) == 2:
        return ""
    off = counts - np.diag(np.diag(counts))
    order = np.argsort(-off, axis=None, kind="stable")[:_PAIRS_LISTED]
    pairs = [(true, said) for true, said in zip(*np.unravel_index(order, off.shape)) if off[true, said]]
    if not pairs:
        return ""
    rows = ([page.text(classes[true]), page.text(classes[said]), f"{off[true, said]:,}"] for true, said in pairs)
    return "<h3>Most often confused</h3>" + page.table(["True", "Predicted", "Images"], rows, numbers=(2,))


def _threshold(facts: Facts) -> str:
    """Curves over all thresholds, of two classes."""
    predicted = facts.predictions
    if "roc" not in facts.plots:
        return ""
    best = scores.best_threshold(predicted.truth, predicted.probabilities[:, 1])
    name = page.text(predicted.classes[1])
    return (
        f'<p class="aside">An image is said to be of {name} from a probability of {facts.info.threshold:g} on. Of these'
        f" images most, {best.accuracy:.1%}, would be right with <code>--threshold={best.value:.6g}</code> of"
        " <code>trainers.evaluate</code>, <code>trainers.predict</code> and <code>trainers.export</code>; chosen on"
        f" them, it promises less on others.</p>{_plots(facts, 'roc', 'precision_recall', 'probabilities')}"
    )


def _calibration(facts: Facts) -> str:
    return (
        '<p class="aside">On the dashed line, of what is said with a confidence of 80 %, 80 % are right; below it, the'
        " model is too sure. Upright lines are 95 % intervals. The expected calibration error is the mean distance,"
        f" here {facts.metrics['calibration_error']:.1%}.</p>{_plots(facts, 'calibration')}"
    )


def _worst(facts: Facts) -> str:
    """The surest mistakes, with what the model looked at."""
    count = len(_wrong(facts.predictions))
    if not count:
        return f"<p>None of {words.number(len(facts.predictions), 'image')} was mistaken.</p>"
    heat = ", and beside it where the evidence for the prediction lies (Grad-CAM: red much, blue none)"
    note = (
        f'<p class="aside">{words.number(count, "mistake")}, the {len(facts.mistakes)} surest of them shown: what the'
        f" model saw{heat if facts.mistakes[0].heat else ''}. <code>predictions.csv</code> has all predictions,"
        " <code>suspects.csv</code> ranks all labels by how wrong they look.</p>"
    )
    return note + f'<ul class="mistakes">{"".join(_mistake(facts.predictions, one) for one in facts.mistakes)}</ul>'


def _mistake(predicted: Predictions, one: Mistake) -> str:
    i, rows = one.number, predicted.records
    true, said = (page.text(predicted.classes[which[i]]) for which in (predicted.truth, predicted.predicted))
    path = page.text(predicted.paths[i])
    images = _image(one.image, f"{true} taken for {said}: {path}")
    if one.heat:
        images += _image(one.heat, f"Evidence for {said}")
    record = "" if rows is None else f"<br><small>record {rows[i]:,}</small>"
    return (
        f'<li><div class="pair">{images}</div><p><b>{true}</b>, said to be <b>{said}</b> with'
        f" {_percent(predicted.confidence[i])}<br><code>{path}</code>{record}</p></li>"
    )


def _settings(facts: Facts) -> str:
    info, metrics, settings = facts.info, facts.metrics, facts.settings
    flags = "\n".join(page.text(f"--{name}={_value(value)}") for name, value in settings.get("flags", {}).items())
    where = {
        "Split judged": metrics["split"],
        "Trained on": info.dataset_name,
        "Digest of that dataset": info.dataset_digest,
        **({"Judged on": metrics["dataset"]} if "dataset" in metrics else {}),
        **({"Digest of that": metrics["digest"]} if "digest" in metrics else {}),
        "Image size": f"{info.image_size} px, crop {info.crop:g}",
        "The model takes": info.pixels,
    }
    environment = {**info.versions, **settings.get("environment", {})}
    table = page.table(
        ["What", "Value"], ([name, page.text(str(value))] for name, value in where.items()), kind="settings"
    )
    parts = [
        f"<h3>Data and model</h3>{table}",
        f"<h3>Settings</h3><pre>{flags}</pre>" if flags else "",
        "<h3>Environment</h3>"
        + page.table(["What", "Version"], ([page.text(n), page.text(str(v))] for n, v in environment.items())),
        f'<p class="aside">All plots lie as PNG files in <code>{PLOTS}/</code>.</p>',
    ]
    return "".join(parts)


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


def _plots(facts: Facts, *names: str) -> str:
    drawn = [facts.plots[name] for name in names]
    figures = "".join(f'<figure role="img" aria-label="{page.text(one.told)}">{one.svg}</figure>' for one in drawn)
    return f'<div class="plots">{figures}</div>'


def _rate(value: float) -> str:
    """A share with a bar."""
    if np.isnan(value):
        return '<span class="share"><small>none</small></span>'
    bar = f'<span class="bar"><i style="width:{100 * value:.1f}%"></i></span>'
    return f'<span class="share"><span>{value:.1%}</span></span>{bar}'


def _percent(value: float) -> str:
    """A probability; near 1, with as many digits as it takes to tell it from that."""
    return f"{100 * value:.1f} %" if value < 0.9995 else "99.9+ %"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ",".join(f"{name}={item}" for name, item in value.items())
    return str(value)


def _image(jpeg: bytes, described: str) -> str:
    return f'<img src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}" alt="{described}">'


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
