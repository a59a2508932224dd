"""The rows of the table, and the figure of each row."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

Turn = Mapping[str, Mapping[str, float]]  # Photographs -> the figures of one measurement.


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        name: Short name, as in --rows.
        title: Text in the table, with the unit.
        figure: Computes the figure of a turn.
        less_is_better: Whether a smaller figure is better, as for seconds.
        digits: Digits after the decimal point.
    """

    name: str
    title: str
    figure: Callable[[Turn], float]
    less_is_better: bool = False
    digits: int = 0

    def text(self, value: float) -> str:
        return "too short to measure" if math.isnan(value) else f"{value:,.{self.digits}f}"

    def ratio(self, ours: float, theirs: float) -> float:
        """Return how many times as good ours is. Above 1, ours is better."""
        return theirs / ours if self.less_is_better else ours / theirs


@dataclasses.dataclass(frozen=True)
class Group:
    """Rows that one measurement gives together.

    Attributes:
        row: The row of the scripts.
        rows: The rows of the table.
        photos: The photographs that are measured, one process for each: "photos", "many" (each photograph several
            times) or "squares" (squares of the target size).
        warm_up: Whether a first measurement is not counted, because it writes files and fills caches.
    """

    row: str
    rows: tuple[Row, ...]
    photos: tuple[str, ...] = ("photos",)
    warm_up: bool = True


def _of(photos: str, key: str, factor: float = 1) -> Callable[[Turn], float]:
    return lambda turn: turn[photos][key] * factor


def _steady(turn: Turn) -> float:
    """Return the images/s without the start: the additional images divided by the additional seconds.

    The result is NaN if the larger measurement was not longer, as with very few images.
    """
    few, many = turn["photos"], turn["many"]
    if "images_per_second" in many:  # A limit has no start.
        return many["images_per_second"]
    seconds = many["seconds"] - few["seconds"]
    return (many["images"] - few["images"]) / seconds if seconds > 0 else math.nan


def _whole(turn: Turn) -> float:
    return turn["many"]["images"] / turn["many"]["seconds"]


def _rate(name: str, title: str, photos: str = "photos") -> Group:
    row = Row(name, f"{title}, images/s", _of(photos, "images_per_second"))
    return Group(name, (row,), (photos,))


GROUPS = (
    Group(
        "convert",
        (
            Row("convert", "converting in steady state, images/s", _steady),
            Row("convert_whole", "converting, the whole command, images/s", _whole),
            Row("memory", "memory of converting: the largest process, MB", _of("many", "peak", 1e-6), True),
            Row("disk", "bytes on disk for each byte of the files", lambda turn: turn["many"]["share"], True, 3),
        ),
        ("photos", "many"),
        warm_up=False,
    ),
    _rate("plain", "reading"),
    _rate("augmented", "reading with augmentation (rotation, shift, zoom, flip)"),
    _rate("jpeg", "reading prepared JPEGs of the target size", "squares"),
    _rate("raw", "reading prepared raw pixels of the target size", "squares"),
    Group(
        "random", (Row("random", "bytes of records in random order, records/s", _of("photos", "images_per_second")),)
    ),
    Group(
        "sequence", (Row("sequence", "bytes of records in sequence, records/s", _of("photos", "images_per_second")),)
    ),
    Group("first", (Row("first", "first batch, from the start of the process, s", _of("photos", "seconds"), True, 2),)),
    Group("resume", (Row("resume", "first batch at a later step, the same, s", _of("photos", "seconds"), True, 2),)),
    Group(
        "features",
        (
            Row("features", "features of MobileNetV2, images/s", _of("photos", "images_per_second")),
            Row("folder", "from a folder to a classifier, whole commands, s", _of("photos", "seconds"), True, 1),
            Row("accuracy", "accuracy of this classifier, %", _of("photos", "accuracy"), digits=1),
        ),
        warm_up=False,
    ),
    _rate("predict", "predicting many files"),
    Group(
        "predict_one", (Row("predict_one", "predicting one file, whole command, s", _of("photos", "seconds"), True, 2),)
    ),
)
ROWS = tuple(row for group in GROUPS for row in group.rows)
