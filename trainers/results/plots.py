"""The plots of a report, each as a PNG file on white and as SVG in the colors of the page."""

from __future__ import annotations

import dataclasses
import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tfrecord_tools.errors import named
from trainers.results import scores
from trainers.results.predictions import Predictions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The colors of the page in light mode. report.html replaces each color by its CSS variable of the same name.
COLORS = {"text": "#1c2228", "muted": "#59636e", "line": "#dde1e6", "bar": "#4a78ab", "other": "#c2571a"}
_STYLE = {
    "svg.fonttype": "none",  # Letters are not converted to curves, so the page shows them in its own font.
    "svg.hashsalt": "tfrecord_tools",  # Without a fixed salt, the identifiers in the SVG differ in each run.
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
_FONT = "DejaVu Sans"  # Comes with matplotlib.
_BOXES = "Last Resort"  # Such fonts draw a box for every letter. matplotlib has one, and macOS another.
_SIZE = (4.7, 3.2)  # Inches.
_POINTS_PER_INCH = 72  # Unit of matplotlib's SVG.
# Largest scale of a plot on the page. At this scale, letters are as large as the small text of the page.
_PIXELS_PER_INCH = 104
NAMES = frozenset(
    {"accuracy", "loss", "throughput", "confusion", "calibration", "probabilities", "roc", "precision_recall"}
)
_NAMED = 30  # With more classes, the axes of the confusion matrix show no names.
_COUNTED = 12  # With more classes, the cells of the confusion matrix show no counts.
_LONGEST_NAME = 16

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Plot:
    """A plot.

    Attributes:
        png: Content of the PNG file.
        svg: SVG element in the colors `COLORS`.
        alternative: Text for readers who cannot see the plot.
    """

    png: bytes
    svg: str
    alternative: str


def draw(
    predictions: Predictions, threshold: float, history: Sequence[Row], log: Callable[[str], object] = print
) -> dict[str, Plot]:
    """Draw all plots for which there is data.

    Args:
        predictions: Predictions with labels.
        threshold: The second of two classes is predicted if its probability is at least this number.
        history: The rows of history.csv with numbers as floats. Empty if there is no such file.
        log: Receives a line if no installed font has some letters of the class names.

    Returns:
        Name -> plot. The names are in `NAMES`.
    """
    import matplotlib

    phases = {row["phase"] for row in history if "phase" in row}
    fonts, missing = _fonts("".join((*predictions.classes, *phases)))
    if missing:
        log(
            f"note: no installed font has these letters of the class names: {named(missing)}. plots/*.png shows boxes"
            " instead. Install such a font, for example Noto Sans. report.html uses the fonts of the browser and may"
            " show them."
        )
    with matplotlib.rc_context({**_STYLE, "font.family": fonts}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # The note reports the letters.
        figures = _of_training(history) | _of_predictions(predictions, threshold)
        for figure in figures.values():
            _lay_out(figure)
        return {
            name: Plot(png=_png(figure), svg=_svg(figure, name), alternative=figure.get_label())
            for name, figure in figures.items()
        }


def _fonts(text: str) -> tuple[list[str], list[str]]:
    """Return fonts for a text, with matplotlib's own font first, and the letters that no font has."""
    from matplotlib import font_manager

    fonts = [_FONT]
    missing = {letter for letter in text if letter.isprintable()} - _letters(font_manager.findfont(_FONT))
    for font in sorted(font_manager.fontManager.ttflist, key=lambda font: (font.weight != 400, font.name)):
        if not missing:
            break
        if font.style == "normal" and _BOXES not in font.name and (letters := missing & _letters(font.fname)):
            fonts.append(font.name)
            missing -= letters
    return fonts, sorted(missing)


def _letters(path: str) -> set[str]:
    """Return the letters that a font has."""
    from matplotlib.ft2font import FT2Font

    return set(map(chr, FT2Font(path).get_charmap()))


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
        figures["roc"] = _roc(labels, second)
        figures["precision_recall"] = _precision_recall(labels, second, classes[1])
    return figures


def _curves(rows: Sequence[Row], name: str) -> Figure:
    """Draw a metric over the epochs of all phases, for training and for validation.

    Args:
        rows: The rows of history.csv, numbers as floats.
        name: "loss" or "accuracy".
    """
    axes = _axes(name.capitalize(), "epoch", "")
    epochs = np.arange(1, len(rows) + 1)
    for column, label, color in ((name, "training", "muted"), (f"val_{name}", "validation", "bar")):
        axes.plot(epochs, [row[column] for row in rows], "o-", label=label, color=COLORS[color])
    axes.margins(y=0.15)  # Leaves space for the names of the phases below the curves.
    _mark_phases(axes, rows)
    axes.legend()
    last = f"{rows[-1][name]:.4f} in training, {rows[-1][f'val_{name}']:.4f} in validation"
    axes.figure.set_label(f"{name.capitalize()} over the epochs, at the end {last}")
    return axes.figure


def _throughput(rows: Sequence[Row]) -> Figure:
    """Draw images/s, and the share of the time that the model waited for its input, over the epochs."""
    axes = _axes("Images/s", "epoch", "")
    epochs = np.arange(1, len(rows) + 1)
    rates = [row["images_per_second"] for row in rows]
    axes.plot(epochs, rates, "o-", color=COLORS["bar"], label="images/s")
    axes.set_ylim(0, 1.1 * max(rates) or 1)
    if "data_wait" in rows[0]:
        waits = axes.twinx()
        waits.grid(visible=False)
        waits.set_ylim(0, 110)
        waits.set_yticks(range(0, 101, 20))
        waits.set_ylabel("waiting for input (%)")
        waits.plot(
            epochs, [100 * row["data_wait"] for row in rows], "s--", color=COLORS["other"], label="waiting for input"
        )
        axes.figure.legend(handles=[*axes.lines, *waits.lines], loc="outside lower center", ncols=2)
    _mark_phases(axes, rows)
    axes.figure.set_label(f"Images/s over the epochs, at the end {rates[-1]:,.0f}")
    return axes.figure


def _roc(labels: np.ndarray, probabilities: np.ndarray) -> Figure:
    """Draw the ROC curve of the second of two classes."""
    curve = scores.roc(labels, probabilities)
    axes = _axes(f"ROC, area {curve.area:.4f}", "false positive rate", "recall (true positive rate)", unit=True)
    axes.plot([0, 1], [0, 1], "--", color=COLORS["muted"], linewidth=1)
    # Points are joined by straight lines, because the area is computed in the same way.
    axes.plot(curve.x, curve.y, color=COLORS["bar"])
    return axes.figure


def _precision_recall(labels: np.ndarray, probabilities: np.ndarray, positive: str) -> Figure:
    """Draw precision over recall of the second of two classes. The dashed line is a model that guesses."""
    curve = scores.precision_recall(labels, probabilities)
    axes = _axes(f"{_short(positive)}, average precision {curve.area:.4f}", "recall", "precision", unit=True)
    axes.figure.set_label(f"Precision over recall of {positive}, average precision {curve.area:.4f}")
    axes.axhline(labels.mean(), linestyle="--", color=COLORS["muted"], linewidth=1)
    axes.plot(curve.x, curve.y, color=COLORS["bar"], drawstyle="steps-pre")
    return axes.figure


def _separation(
    labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str], threshold: float, best: float
) -> Figure:
    """Draw a histogram of the probability of the second class, for the images of each of two classes."""
    from matplotlib.ticker import LogLocator, NullLocator

    first, second = map(_short, classes)
    axes = _axes("Probabilities by true class", f"probability of {second}", "images")
    bins = np.linspace(0, 1, 2 * scores.BINS + 1)
    parts = [probabilities[labels == label] for label in (0, 1)]
    counts, *_ = axes.hist(parts, bins, label=[first, second], color=[COLORS["other"], COLORS["bar"]], log=True)
    axes.axvline(threshold, color=COLORS["text"], linewidth=1.5, label=f"threshold {threshold:g}")
    axes.axvline(best, color=COLORS["text"], linewidth=1.5, linestyle=":", label=f"best here {best:.3f}")
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0.7)  # Below 1, so that a bar of one image is visible.
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if np.max(counts) < 200 else (1,)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.figure.legend(loc="outside lower center", ncols=2)
    axes.figure.set_label(
        f"Histogram of the probability of {classes[1]}, for images of {classes[0]} and of {classes[1]};"
        f" threshold {threshold:g}, best here {best:.3f}"
    )
    return axes.figure


def _reliability(reliability: scores.Reliability) -> Figure:
    """Draw the accuracy of predictions over their confidence. A histogram below it shows their number."""
    from matplotlib.figure import Figure

    figure = Figure(_SIZE, layout="constrained")
    above, below = figure.subplots(2, sharex=True, height_ratios=[3, 1])
    edges = np.linspace(0, 1, scores.BINS + 1)
    used = reliability.count > 0
    figure.set_label(f"Calibration, expected error {reliability.error:.1%}")
    above.set_title(figure.get_label())
    above.plot([0, 1], [0, 1], "--", color=COLORS["muted"], linewidth=1)
    above.plot(reliability.confidence[used], reliability.accuracy[used], "o-", color=COLORS["bar"])
    bins = zip(reliability.confidence[used], reliability.accuracy[used], reliability.count[used])
    for mean, share, count in bins:
        interval = scores.wilson(round(share * count), int(count))
        above.plot([mean, mean], [interval.low, interval.high], color=COLORS["bar"], linewidth=1)
    above.set(ylabel="proportion of right predictions", xlim=(0, 1), ylim=(0, 1.02))
    below.bar(edges[:-1], reliability.count, 1 / scores.BINS, align="edge", color=COLORS["bar"], edgecolor="none")
    below.yaxis.get_major_locator().set_params(integer=True)
    below.set(xlabel="confidence: probability of the prediction", ylabel="images")
    return figure


def _confusion(counts: np.ndarray, classes: Sequence[str]) -> Figure:
    """Draw the confusion matrix. A cell with a larger share of its true class has a stronger color."""
    from matplotlib.figure import Figure

    many = len(classes)
    side = min(max(_SIZE[1], 0.55 * many + 1.4), 9.0)
    figure = Figure((side + 0.6, side), layout="constrained")
    axes = figure.subplots()
    figure.set_label(f"Confusion matrix: {np.trace(counts):,} of {counts.sum():,} images on its diagonal")
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    cells = np.zeros((*shares.shape, 4))
    cells[..., :3] = [int(COLORS["bar"][i : i + 2], 16) / 255 for i in (1, 3, 5)]
    cells[..., 3] = 0.75 * shares  # A single color with varying transparency suits light and dark pages.
    axes.imshow(cells, interpolation="none")  # The page gets one pixel per cell. With "nearest", rows would be missing.
    axes.grid(visible=False)
    axes.set(title="Confusion matrix", xlabel="predicted", ylabel="true")
    if many <= _NAMED:
        names = [_short(name) for name in classes]
        axes.set_xticks(range(many), names, rotation=0 if many <= 4 else 90)
        axes.set_yticks(range(many), names)
    if many <= _COUNTED:
        for row, column in np.ndindex(counts.shape):
            axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center")
    return figure


def _lay_out(figure: Figure) -> None:
    """Compute the layout once for both files, because it takes as long as drawing."""
    figure.get_layout_engine().execute(figure)
    figure.set_layout_engine("none")


# `_png` and `_svg` use the canvases, because `Figure.savefig` would draw everything one more time.


def _png(figure: Figure) -> bytes:
    """Return the plot as PNG on white."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set(dpi=144, facecolor="white")
    stream = io.BytesIO()
    FigureCanvasAgg(figure).print_png(stream, metadata={"Software": None})
    return stream.getvalue()


def _svg(figure: Figure, name: str) -> str:
    """Return the plot as an element of a page. The prefix `name` makes its identifiers unique on the page."""
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
    """Return new axes. With `unit`, both axes go from 0 to 1."""
    from matplotlib.figure import Figure  # pyplot is not used: it keeps all figures and looks for a screen.

    axes = Figure(_SIZE, layout="constrained").subplots()
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.figure.set_label(title)
    if unit:
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
    return axes


def _mark_phases(axes: Axes, rows: Sequence[Row]) -> None:
    """Draw a dotted line with the name of the phase where a phase begins."""
    axes.xaxis.get_major_locator().set_params(integer=True)
    names = [row["phase"] for row in rows]
    for i, name in enumerate(names):
        if i == 0 or names[i - 1] != name:
            axes.axvline(i + 0.5, color=COLORS["muted"], linewidth=1, linestyle=":")
            axes.annotate(
                _short(name), (i + 0.5, 0), (3, 3), ("data", "axes fraction"), "offset points", color=COLORS["muted"]
            )


def _short(name: str) -> str:
    """Return a name for an axis, shortened.

    Dollars are escaped, because matplotlib would read the text between two dollars as a formula.
    """
    shown = name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
    return shown.replace("$", r"\$")
