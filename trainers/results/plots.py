"""The plots of a report: drawn once, as a PNG file on white and as SVG that a page recolors by its style."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from trainers.results import scores
from trainers.results.predictions import Predictions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Of the page in the light; the style of report.html puts the page's variables of these names in their place.
COLORS = {"text": "#1c2228", "muted": "#59636e", "line": "#dde1e6", "bar": "#4a78ab", "other": "#c2571a"}
_STYLE = {
    "svg.fonttype": "none",  # Text stays text, in the page's font.
    "svg.hashsalt": "tfrecord_tools",  # Else the names of its parts differ at each run.
    "font.size": 10,
    "axes.facecolor": "none",
    "axes.edgecolor": COLORS["line"],
    "axes.labelcolor": COLORS["muted"],
    "axes.titlesize": 11,
    "axes.titlecolor": COLORS["text"],
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": COLORS["line"],
    "xtick.color": COLORS["line"],
    "ytick.color": COLORS["line"],
    "xtick.labelcolor": COLORS["muted"],
    "ytick.labelcolor": COLORS["muted"],
    "text.color": COLORS["text"],
    "legend.frameon": False,
    "lines.linewidth": 2,
    "lines.markersize": 4,
}
_MORE_FONTS = (
    "Noto Sans CJK JP", "Noto Sans CJK KR", "Noto Sans CJK SC", "Noto Sans KR", "Noto Sans JP", "Noto Sans SC",
    "Source Han Sans", "NanumGothic", "WenQuanYi Zen Hei", "Apple SD Gothic Neo", "Hiragino Sans", "PingFang SC",
    "Malgun Gothic", "Yu Gothic", "Microsoft YaHei", "Arial Unicode MS", "Noto Sans Devanagari", "Noto Sans Thai",
)  # fmt: skip
_SIZE = (4.7, 3.2)  # Inches.
_POINTS_PER_INCH = 72  # In matplotlib's SVG.
_PIXELS_PER_INCH = 104  # At most, on the page: letters are then as large as its smaller text.
NAMES = frozenset(
    {"accuracy", "loss", "throughput", "confusion", "calibration", "probabilities", "roc", "precision_recall"}
)
_NAMED = 30  # Classes that an axis names.
_COUNTED = 12  # Classes whose cells say their count.
_LONGEST_NAME = 16

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Plot:
    """A plot.

    Attributes:
        png: The bytes of a file.
        svg: An element, in `COLORS`.
        told: In words, for who does not see it.
    """

    png: bytes
    svg: str
    told: str


def draw(predictions: Predictions, threshold: float, history: Sequence[Row]) -> dict[str, Plot]:
    """Draws what there is to see: name -> plot.

    Args:
        predictions: With labels.
        threshold: Of two classes, that of the decision.
        history: The rows of history.csv, numbers as floats; empty where it is not known.
    """
    import matplotlib

    with matplotlib.rc_context({**_STYLE, "font.family": _fonts()}), _noted():
        figures = _of_training(history) | _of_predictions(predictions, threshold)
        for figure in figures.values():
            _lay_out(figure)
        return {
            name: Plot(png=_png(figure), svg=_svg(figure, name), told=figure.get_label())
            for name, figure in figures.items()
        }


def _fonts() -> list[str]:
    """matplotlib's own font, and behind it those that are here of such as have the letters that it lacks."""
    from matplotlib import font_manager

    here = set(font_manager.get_font_names())
    return ["DejaVu Sans", *(name for name in _MORE_FONTS if name in here)]


@contextlib.contextmanager
def _noted() -> Iterator[None]:
    """Makes one line of matplotlib's warnings of each letter that no font has."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    told = [str(one.message) for one in caught]
    if any("missing from" in message for message in told):
        print(
            "note: no font here has all letters of the class names: some are boxes in the PNG files of the plots."
            f" Install one such as {_MORE_FONTS[0]}; report.html has them all."
        )
    for message in told:
        if "missing from" not in message:
            warnings.warn(message, stacklevel=3)


def _of_training(history: Sequence[Row]) -> dict[str, Figure]:
    figures = {name: _curves(history, name) for name in ("accuracy", "loss") if history and f"val_{name}" in history[0]}
    if history and "images_per_second" in history[0]:
        figures["throughput"] = _throughput(history)
    return figures


def _of_predictions(predictions: Predictions, threshold: float) -> dict[str, Figure]:
    labels, classes = predictions.truth, predictions.classes
    right = predictions.predicted == labels
    counts = scores.confusion(labels, predictions.predicted, len(classes))
    figures = {"confusion": _confusion(counts, classes)}
    figures["calibration"] = _reliability(scores.reliability(predictions.confidence, right))
    if len(classes) == 2 and len(np.unique(labels)) == 2:
        second = predictions.probabilities[:, 1]
        best = scores.best_threshold(labels, second).value
        figures["probabilities"] = _separation(labels, second, classes, threshold, best)
        figures["roc"] = _roc(labels, second, classes[1])
        figures["precision_recall"] = _precision_recall(labels, second, classes[1])
    return figures


def _curves(rows: Sequence[Row], name: str) -> Figure:
    """A metric over the epochs of all phases, training and validation; a line where a phase begins.

    Args:
        rows: Of history.csv, numbers as floats.
        name: "loss" or "accuracy".
    """
    axes = _axes(name.capitalize(), "epoch", "")
    epochs = np.arange(1, len(rows) + 1)
    for column, label, color in ((name, "training", "muted"), (f"val_{name}", "validation", "bar")):
        axes.plot(epochs, [row[column] for row in rows], "o-", label=label, color=COLORS[color])
    axes.margins(y=0.15)  # Room for the names of the phases, below the curves.
    _phases(axes, rows)
    axes.legend()
    last = f"{rows[-1][name]:.4f} in training, {rows[-1][f'val_{name}']:.4f} in validation"
    axes.figure.set_label(f"{name.capitalize()} over the epochs, at the end {last}")
    return axes.figure


def _throughput(rows: Sequence[Row]) -> Figure:
    """Images a second, and the share of the time that the model waited for its input, over the epochs."""
    axes = _axes("Images a second", "epoch", "")
    epochs = np.arange(1, len(rows) + 1)
    axes.plot(epochs, [row["images_per_second"] for row in rows], "o-", color=COLORS["bar"], label="images a second")
    axes.set_ylim(bottom=0)
    if "data_wait" in rows[0]:
        waits = axes.twinx()
        waits.grid(visible=False)
        waits.set_ylim(0, 100)
        waits.set_ylabel("waiting for input, %")
        waits.plot(
            epochs, [100 * row["data_wait"] for row in rows], "s--", color=COLORS["other"], label="waiting for input"
        )
        axes.legend(handles=[*axes.lines, *waits.lines])
    _phases(axes, rows)
    axes.figure.set_label(f"Images a second over the epochs, at the end {rows[-1]['images_per_second']:,.0f}")
    return axes.figure


def _roc(labels: np.ndarray, probabilities: np.ndarray, positive: str) -> Figure:
    """The ROC curve of the second of two classes."""
    curve = scores.roc(labels, probabilities)
    axes = _axes(f"ROC, area {curve.area:.4f}", "false positive rate", f"share of {_short(positive)} found", unit=True)
    axes.plot([0, 1], [0, 1], "--", color=COLORS["muted"], linewidth=1)
    axes.plot(curve.x, curve.y, color=COLORS["bar"])  # Straight, as its area is computed.
    return axes.figure


def _precision_recall(labels: np.ndarray, probabilities: np.ndarray, positive: str) -> Figure:
    """Precision over recall of the second of two classes; the dashed line is what chance gives."""
    curve = scores.precision_recall(labels, probabilities)
    axes = _axes(
        f"Precision and recall, average precision {curve.area:.4f}",
        f"share of {_short(positive)} found",
        f"share of {_short(positive)} among the found",
        unit=True,
    )
    axes.axhline(labels.mean(), linestyle="--", color=COLORS["muted"], linewidth=1)
    axes.plot(curve.x, curve.y, color=COLORS["bar"], drawstyle="steps-pre")
    return axes.figure


def _separation(
    labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str], threshold: float, best: float
) -> Figure:
    """How the probability of the second class is distributed among the images of each of two classes."""
    first, second = map(_short, classes)
    axes = _axes("Probabilities of each class's images", f"probability of {second}", "images")
    bins = np.linspace(0, 1, 2 * scores.BINS + 1)
    parts = [probabilities[labels == label] for label in (0, 1)]
    axes.hist(parts, bins, label=[first, second], color=[COLORS["other"], COLORS["bar"]], log=True)
    axes.axvline(threshold, color=COLORS["text"], linewidth=1.5, label=f"threshold {threshold:g}")
    axes.axvline(best, color=COLORS["text"], linewidth=1.5, linestyle=":", label=f"best here {best:.3f}")
    axes.set_xlim(0, 1)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.figure.legend(loc="outside lower center", ncols=2)
    axes.figure.set_label(
        f"How the probability of {classes[1]} is distributed among images of {classes[0]} and of {classes[1]};"
        f" threshold {threshold:g}, best here {best:.3f}"
    )
    return axes.figure


def _reliability(found: scores.Reliability) -> Figure:
    """How often predictions of a confidence are right, and how many there are of it."""
    from matplotlib.figure import Figure

    figure = Figure(_SIZE, layout="constrained")
    above, below = figure.subplots(2, sharex=True, height_ratios=[3, 1])
    edges = np.linspace(0, 1, scores.BINS + 1)
    some = found.count > 0
    figure.set_label(f"Calibration, expected error {found.error:.4f}")
    above.set_title(figure.get_label())
    above.plot([0, 1], [0, 1], "--", color=COLORS["muted"], linewidth=1)
    above.plot(found.confidence[some], found.accuracy[some], "o-", color=COLORS["bar"])
    for mean, share, count in zip(found.confidence[some], found.accuracy[some], found.count[some]):
        interval = scores.wilson(round(share * count), int(count))
        above.plot([mean, mean], [interval.low, interval.high], color=COLORS["bar"], linewidth=1)
    above.set(ylabel="share that is right", xlim=(0, 1), ylim=(0, 1.02))
    below.bar(edges[:-1], found.count, 1 / scores.BINS, align="edge", color=COLORS["bar"], edgecolor="none")
    below.set(xlabel="confidence: probability of what is predicted", ylabel="images")
    return figure


def _confusion(counts: np.ndarray, classes: Sequence[str]) -> Figure:
    """The confusion matrix: the stronger a cell, the larger its share of the true class."""
    from matplotlib.figure import Figure

    many = len(classes)
    side = min(max(2.8, 0.55 * many + 1.4), 9.0)
    figure = Figure((side + 0.6, side), layout="constrained")
    axes = figure.subplots()
    figure.set_label(f"Confusion matrix: {np.trace(counts):,} of {counts.sum():,} images on its diagonal")
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    cells = np.zeros((*shares.shape, 4))
    cells[..., :3] = [int(COLORS["bar"][i : i + 2], 16) / 255 for i in (1, 3, 5)]
    cells[..., 3] = 0.75 * shares  # One colour, more or less of it: right on light and on dark.
    axes.imshow(cells, interpolation="none")  # In the page a pixel a cell, however many: "nearest" leaves rows out.
    axes.grid(visible=False)
    axes.set(xlabel="predicted", ylabel="true")
    if many <= _NAMED:
        names = [_short(name) for name in classes]
        axes.set_xticks(range(many), names, rotation=0 if many <= 4 else 90)
        axes.set_yticks(range(many), names)
    if many <= _COUNTED:
        for row, column in np.ndindex(counts.shape):
            axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center")
    return figure


def _lay_out(figure: Figure) -> None:
    """Finds the places of all parts once. Otherwise each of both files repeats that, which takes as long as drawing."""
    figure.get_layout_engine().execute(figure)
    figure.set_layout_engine("none")


# Both are written by the canvases: `Figure.savefig` draws everything once more before it draws.


def _png(figure: Figure) -> bytes:
    """The plot on white."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set(dpi=144, facecolor="white")
    stream = io.BytesIO()
    FigureCanvasAgg(figure).print_png(stream, metadata={"Software": None})
    return stream.getvalue()


def _svg(figure: Figure, name: str) -> str:
    """The plot as an element of a page; `name` tells its parts from those of other plots."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    figure.set(facecolor="none")
    stream = io.StringIO()
    FigureCanvasSVG(figure).print_svg(stream, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = stream.getvalue()
    content = text[text.index(">", text.index("<svg")) + 1 :].replace("xlink:href", "href")
    content = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", content)
    width, height = figure.get_size_inches()
    points, pixels = f"{width * _POINTS_PER_INCH:g} {height * _POINTS_PER_INCH:g}", f"{width * _PIXELS_PER_INCH:.0f}"
    return f'<svg viewBox="0 0 {points}" style="max-width:{pixels}px">{content}'


def _axes(title: str, x: str, y: str, unit: bool = False) -> Axes:
    """New axes; with `unit`, both run from 0 to 1."""
    from matplotlib.figure import Figure  # Not pyplot, which keeps what is drawn and looks for a screen.

    axes = Figure(_SIZE, layout="constrained").subplots()
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.figure.set_label(title)
    if unit:
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
    return axes


def _phases(axes: Axes, rows: Sequence[Row]) -> None:
    """Marks where each phase begins, with its name above."""
    axes.xaxis.get_major_locator().set_params(integer=True)
    names = [row["phase"] for row in rows]
    for i, name in enumerate(names):
        if i == 0 or names[i - 1] != name:
            axes.axvline(i + 0.5, color=COLORS["muted"], linewidth=1, linestyle=":")
            axes.annotate(
                _short(name), (i + 0.5, 0), (3, 3), ("data", "axes fraction"), "offset points", color=COLORS["muted"]
            )


def _short(name: str) -> str:
    """A class's name for an axis; matplotlib would take what stands between two dollars for a formula."""
    shown = name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
    return shown.replace("$", r"\$")
