"""The report card of a dataset: one page that shows what is in it, whether to trust it, and what to do."""

from __future__ import annotations

import dataclasses
import itertools
import math
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from tfrecord_tools.base import files, page, rules, words
from tfrecord_tools.base.rules import Finding, Rule
from tfrecord_tools.card.statistics import Thumbnail

CARD = "card.html"
_TINY = 32  # Pixels of the shorter side; below, networks for photographs see little.
_IMBALANCE = 10  # Largest class by smallest one, from which on accuracy says little.
_CLASSES_LISTED, _CLASSES_AT_ENDS = 50, 20  # Classes that are all listed; of more, so many largest and smallest ones.
_CLASSES_OPEN = 12  # Of which the samples are seen at once.
_PATHS = 6  # Of files with the same bytes.
_AXIS_PARTS = 4  # Between labels.
_ABOUT_SOURCE = ("source", "raw")  # Kinds of notes that need no attention; `_RULES` covers those of no finding.
_CHANGES = {
    "repaired": "a lost end or junk in between was mended",
    "turned": "upright, as EXIF says",
    "converted": "to another type or color mode: of 8 bits, opaque",
    "resized": "as --resize says",
    "stripped": "EXIF, XMP and IPTC were removed, as --strip_metadata says; the pixels are the same",
}
_DUPLICATES = {
    "conflicts": "With different labels",
    "leaks": "In several splits, under one label",
    "copies": "Within one split, under one label",
}
Facts = Mapping[str, Any]  # What `convert.json` says.


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Cell:
    """The images of a class in a split: number, share of the split, part of the largest class (None: no bar)."""

    images: int
    share: str
    part: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Row:
    """A row of the table of classes; the one that sums up several classes has no label."""

    label: int | None
    name: str
    cells: list[_Cell]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Bar:
    """A bar in a square of 100, positions as they are written."""

    x: str
    y: str
    width: str
    height: str
    text: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Histogram:
    """A plot with labelled axes; without bars where all values are the same.

    Attributes:
        title: What is counted.
        low: Least value.
        median: Median.
        high: Greatest value.
        place: Position of the median on the axis, in percent.
        highest: Number of images of the longest bar.
        images: Number of all images.
        bars: Bars.
        edges: Positions of the labels of the axis, in percent, and their texts.
    """

    title: str
    low: str
    median: str
    high: str
    place: str = ""
    highest: int = 0
    images: int = 0
    bars: Sequence[_Bar] = ()
    edges: Sequence[tuple[str, str]] = ()


def _counted(what: str, count: Callable[[Facts], int]) -> Callable[[Facts], dict[str, str] | None]:
    """Return the condition that there are some; its value `count` says how many."""
    return lambda facts: {"count": words.number(some, what)} if (some := count(facts)) else None


def _duplicates(kind: str, dropped: bool) -> Callable[[Facts], int]:
    """Return what counts duplicates of a kind, of a dataset that leaves them out or does not."""
    return lambda facts: facts["duplicates"][kind] if (facts["config"]["duplicates"] == "drop") == dropped else 0


def _absent(facts: Facts) -> dict[str, str] | None:
    absent = {split: sum(not row[split] for row in facts["classes"]) for split in facts["splits"]}
    where = ", ".join(f"{count:,} in {split}" for split, count in absent.items() if count)
    return {"where": where} if where else None


def _unequal(facts: Facts) -> dict[str, str] | None:
    first = next(iter(facts["splits"]))
    sizes = [row[first] for row in facts["classes"] if row[first]]
    unequal = max(sizes) >= _IMBALANCE * min(sizes)
    return {"least": f"{min(sizes):,}", "most": words.number(max(sizes), "image"), "split": first} if unequal else None


def _tiny(facts: Facts) -> dict[str, str] | None:
    side = facts["images"]["shorter_side"]
    if side["min"] >= _TINY:
        return None
    count = sum(count for edge, count in zip(side["edges"], side["counts"]) if edge < _TINY)
    return {"most": f"{count:,}", "least": _pixels(side["min"])}


_RULES: tuple[Rule[Facts], ...] = (
    Rule(
        name="conflicts",
        level="problem",
        section="duplicates",
        condition=_counted("file", _duplicates("conflicts", dropped=False)),
        title="{count} with different labels",
        text="The same bytes lie in several classes, and a network is taught all of them.",
        advice="Decide which one is right and delete the other files from the source; `--duplicates=drop` leaves all of"
        " them out.",
    ),
    Rule(
        name="leaks",
        level="problem",
        section="duplicates",
        condition=_counted("file", _duplicates("leaks", dropped=False)),
        title="{count} in several splits",
        text="Scores on images that were trained on are too good.",
        advice="Delete the copies from the source, or pass `--duplicates=drop`, which keeps each in one split only:"
        " test before validation before train.",
    ),
    Rule(
        name="groups",
        level="check",
        section="classes",
        condition=_counted("group", lambda facts: facts["duplicates"]["groups_in_several_splits"]),
        title="{count} in several splits",
        text="Images of one group are alike, so scores are better than they will be on new groups.",
        advice="Move each group to one split of the source, or give the source without splits: they are then made by"
        " group.",
    ),
    Rule(
        name="conflicts_dropped",
        level="check",
        section="duplicates",
        condition=_counted("file", _duplicates("conflicts", dropped=True)),
        title="{count} with different labels, left out",
        text="The same bytes lie in several classes, and none of these files became a record.",
        advice="Decide which class is right and delete the other files from the source.",
    ),
    Rule(
        name="skipped",
        level="check",
        section="files",
        condition=_counted("file", lambda facts: facts["files"]["skipped"]),
        title="{count} skipped",
        text="They are not in the dataset.",
        advice="Look at the reasons; if these are images that you need, mend or replace them."
        " `--on_bad_image=repair` mends what can be.",
    ),
    Rule(
        name="absent",
        level="check",
        section="classes",
        condition=_absent,
        title="Classes without images: {where}",
        text="A split says nothing of a class that it lacks.",
        advice="Add images of it, unless it is meant so.",
    ),
    Rule(
        name="imbalance",
        level="check",
        section="classes",
        condition=_unequal,
        title="Unequal classes: from {least} to {most} in {split}",
        text="Accuracy over all images hides how small classes fare.",
        advice="Look at each class, weight the loss by class, or add images of the small ones.",
    ),
    Rule(
        name="repaired",
        level="note",
        section="files",
        condition=_counted("file", lambda facts: facts["files"]["repaired"]),
        title="{count} repaired",
        text="A part of each may be lost, `rejected.csv` says how much.",
        advice="`--on_bad_image=skip` leaves them out.",
    ),
    Rule(
        name="tiny",
        level="note",
        section="images",
        condition=_tiny,
        title=f"Tiny images: up to {{most}} with a side below {_TINY} px, the smallest {{least}}",
        text="Icons and thumbnails among photographs are best deleted.",
        advice="If all images are meant to be small, train at their size.",
    ),
)


def write(directory: Path, facts: Facts, thumbnails: Sequence[Thumbnail], pictures: Mapping[str, bytes]) -> None:
    """Writes `card.html`, whole or not at all.

    Args:
        directory: Where to.
        facts: What `convert.json` says.
        thumbnails: Images to show of each class.
        pictures: Path -> a small JPEG, of files that the facts name.
    """
    with files.atomic(directory / CARD) as file:
        file.write(render(facts, thumbnails, pictures).encode())


def render(facts: Facts, thumbnails: Sequence[Thumbnail], pictures: Mapping[str, bytes] = {}) -> str:
    """Returns the page as HTML: the same for the same facts, without scripts, complete without a network."""
    images = facts["images"]
    return page.render(
        "tfrecord_tools.card",
        "card.html",
        heading=facts["name"],
        kind="report card",
        facts=facts,
        pictures=pictures,
        most_paths=_PATHS,
        most_open=_CLASSES_OPEN,
        findings=rules.worst_first([*rules.found(_RULES, facts), *_noted(facts["notes"])]),
        source_notes=[note for note in facts["notes"] if note["kind"] in _ABOUT_SOURCE],
        classes=_classes(facts),
        at_ends=_CLASSES_AT_ENDS,
        samples=_samples(facts["classes"], thumbnails),
        histograms=[
            _histogram("Shorter side", images["shorter_side"], _pixels),
            _histogram("Longer side", images["longer_side"], _pixels),
            _histogram("Width by height", images["aspect"], "{:.2f}".format),
            _histogram("Size in bytes", images["bytes"], words.size),
        ],
        types=_types(images["source_types"], images["types"]),
        changes=[[name, f"{count:,}", _CHANGES[name]] for name, count in images["changes"].items() if count],
        reasons=_reasons(facts),
        duplicates=_shown_duplicates(facts["duplicates"]) if facts["duplicates"]["files"] else [],
        colors=_colors(images["colors"]),
        flags=_flags(facts["config"] | {"verify": images["verified"]}),
    )


def _noted(notes: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Yield what notes on images say."""
    for note in notes:
        if note["images"]:
            yield Finding(
                name=note["kind"],
                level=note["level"],
                title=page.with_flags(note["text"]),
                text=page.with_flags(words.sentence(note["advice"])),
                images=note["images"],
                examples=tuple(note["examples"]),
            )


def _classes(facts: Facts) -> list[_Row]:
    """Return the rows of the table of classes; the middle of many classes is one row."""
    classes, records = facts["classes"], {name: split["records"] for name, split in facts["splits"].items()}
    highest = {split: max(row[split] for row in classes) for split in records}

    def row(label: int | None, name: str, counts: Mapping[str, int]) -> _Row:
        cells = [
            _Cell(
                images=counts[split],
                share=_share(counts[split] / of),
                part=counts[split] / highest[split] if label is not None and highest[split] else None,
            )
            for split, of in records.items()
        ]
        return _Row(label=label, name=name, cells=cells)

    def rows(some: Sequence[Mapping[str, Any]]) -> list[_Row]:
        return [row(one["label"], one["name"], one) for one in some]

    if len(classes) <= _CLASSES_LISTED:
        return rows(classes)
    ordered = sorted(classes, key=lambda one: (-sum(one[split] for split in records), one["label"]))
    middle = ordered[_CLASSES_AT_ENDS:-_CLASSES_AT_ENDS]
    sums = {split: sum(one[split] for one in middle) for split in records}
    between = row(None, f"{words.number(len(middle), 'class')} between these", sums)
    return [*rows(ordered[:_CLASSES_AT_ENDS]), between, *rows(ordered[-_CLASSES_AT_ENDS:])]


def _share(part: float) -> str:
    return "<0.1%" if 0 < part < 0.0005 else f"{part:.1%}"


def _samples(
    classes: Sequence[Mapping[str, Any]], thumbnails: Sequence[Thumbnail]
) -> list[tuple[str, list[Thumbnail]]]:
    """Return the name and the thumbnails of each class that has some."""
    groups = itertools.groupby(thumbnails, key=lambda thumbnail: thumbnail.label)
    return [(classes[label]["name"], list(group)) for label, group in groups]


def _histogram(title: str, facts: Facts, written: Callable[[float], str]) -> _Histogram:
    low, median, high = (facts[key] for key in ("min", "median", "max"))
    plain = _Histogram(title=title, low=written(low), median=written(median), high=written(high))
    if low == high:
        return plain
    bins = len(facts["counts"])
    return dataclasses.replace(
        plain,
        place=f"{100 * math.log(median / low) / math.log(high / low):.2f}",
        highest=max(facts["counts"]),
        images=sum(facts["counts"]),
        bars=_bars(facts, written),
        edges=[
            (f"{100 * i / bins:.2f}", written(facts["edges"][i]))
            for i in range(0, bins + 1, max(1, bins // _AXIS_PARTS))
        ],
    )


def _bars(facts: Facts, written: Callable[[float], str]) -> list[_Bar]:
    """Return the bars, each with a text that says its edges and count."""
    counts, edges = facts["counts"], [written(edge) for edge in facts["edges"]]
    width, highest, bars = 100 / len(counts), max(counts), []
    for i, count in enumerate(counts):
        height = max(1.5, 100 * count / highest) if count else 0  # A single image can be seen.
        bars.append(
            _Bar(
                x=f"{(i + 0.05) * width:.2f}",
                y=f"{100 - height:.2f}",
                width=f"{0.9 * width:.2f}",
                height=f"{height:.2f}",
                text=f"{edges[i]} to {edges[i + 1]}: {words.number(count, 'image')}",
            )
        )
    return bars


def _types(found: Mapping[str, int], stored: Mapping[str, int]) -> list[list[str]]:
    return [[name, f"{found.get(name, 0):,}", f"{stored.get(name, 0):,}"] for name in {**found, **stored}]


def _reasons(facts: Facts) -> list[list[str]]:
    """Return why files are no records as they are, with a row for the reasons that convert.json does not list."""
    counts, reasons = facts["files"], facts["reasons"]
    rows = [[reason["reason"], reason["done"], f"{reason['files']:,}"] for reason in reasons]
    rest = counts["skipped"] + counts["repaired"] - sum(reason["files"] for reason in reasons)
    return [*rows, ["Other reasons", "", f"{rest:,}"]] if rest else rows


def _shown_duplicates(found: Facts) -> list[dict[str, Any]]:
    """Return each kind of duplicates, with some of them to look at."""
    return [
        {
            "title": title,
            "files": found[kind],
            "by_label": kind == "conflicts",
            "examples": found["examples"][kind],
            "others": found[kind] - sum(len(same) for same in found["examples"][kind]),
        }
        for kind, title in _DUPLICATES.items()
        if found[kind]
    ]


def _colors(colors: Facts) -> dict[str, Any]:
    """Return mean and standard deviation of the channels, in 0..255 and in 0..1."""
    channels = zip(("Red", "Green", "Blue"), colors["mean"], colors["std"])
    return {
        "channels": [[name, f"{m:.2f}", f"{s:.2f}", f"{m / 255:.4f}", f"{s / 255:.4f}"] for name, m, s in channels],
        **{key: [round(value / 255, 4) for value in colors[key]] for key in ("mean", "std")},
    }


def _flags(config: Mapping[str, Any]) -> Iterator[str]:
    """The settings as they are typed; name and format are no flags, and what is not set has no value."""
    for name, value in config.items():
        if name == "repair":
            yield f"--on_bad_image={'repair' if value else 'skip'}"
        elif isinstance(value, bool):
            yield f"--{'' if value else 'no'}{name}"
        elif value is not None and name not in ("name", "format_version"):
            text = flags.CsvListSerializer(",").serialize(value) if isinstance(value, list) else str(value)
            yield f"--{name}={shlex.quote(text)}"


def _pixels(length: float) -> str:
    return f"{length:,.1f}".removesuffix(".0") + " px"
