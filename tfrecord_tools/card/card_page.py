"""Write the report card of a dataset: a page with its content, its problems and what to do about them."""

from __future__ import annotations

import dataclasses
import itertools
import math
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from absl import flags

from tfrecord_tools.base import files, page, rules, words
from tfrecord_tools.base.rules import Finding, Rule
from tfrecord_tools.card.statistics import Thumbnail
from tfrecord_tools.layout.dataset_files import (
    CARD,
    ClassEntry,
    Colors,
    ConvertJson,
    DuplicateCounts,
    DuplicateKind,
    Histogram,
    Look,
    NearCounts,
    NoteEntry,
    class_records,
)
from tfrecord_tools.layout.duplicates import HARMS

_TINY = 32  # Pixels of the shorter side. Networks for photographs recognize little in smaller images.
_CLASSES_LISTED = 50  # If a dataset has more classes, only the largest and the smallest classes are listed.
_CLASSES_AT_ENDS = 20  # Number of the largest classes and of the smallest classes in such a list.
_CLASSES_OPEN = 12  # Classes with samples that are visible without a click.
_PATHS = 6  # Paths shown for each set of identical files.
_AXIS_PARTS = 4  # Intervals between the labels of an axis.
_ON_CONSOLE = ("duplicates", "near_duplicates")  # The console shows findings of these sections below the class table.
# Kinds of notes that are shown as they are, since they need no attention. `_RULES` and `_noted` cover the other kinds.
_ABOUT_SOURCE = ("source", "decisions", "raw")
_CHANGES = {
    "repaired": "a missing end, or foreign bytes within the file, were repaired",
    "turned": "rotated upright by the EXIF orientation",
    "converted": "converted to another type or color mode (8 bits, opaque)",
    "resized": "resized as --resize says",
    "stripped": "EXIF, XMP and IPTC were removed, as --strip_metadata says; the pixels are the same",
}
_DUPLICATES: dict[DuplicateKind, str] = {
    "conflicts": "With different labels",
    "leaks": "In several splits, with the same label",
    "copies": "Within one split, with the same label",
}
_EXTREMES = {  # Kind -> name of the value, and how it is written.
    "darkest": ("brightness", "{:.0f}"),
    "brightest": ("brightness", "{:.0f}"),
    "blurriest": ("sharpness", "{:.2f}"),
    "flattest": ("share of one gray", "{:.0%}"),
    "oddest shapes": ("longer / shorter side", "{:.2f}"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Cell:
    """The images of a class in a split: number, share of the split, length of the bar (None: no bar)."""

    images: int
    share: str
    part: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Row:
    """A row of the class table. If the row sums up several classes, `label` is None."""

    label: int | None
    name: str
    cells: list[_Cell]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Bar:
    """A bar of a plot with 100 x 100 units. Position and size are numbers written as text."""

    x: str
    y: str
    width: str
    height: str
    text: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Histogram:
    """A plot with labeled axes. It has no bars if all values are equal.

    Attributes:
        title: The quantity that is counted.
        low: Smallest value.
        median: Median.
        high: Largest value.
        median_position: Position of the median on the axis, in percent.
        highest: Number of images in the highest bar.
        images: Number of all images.
        bars: Bars.
        edges: Position (in percent) and text of each label of the axis.
    """

    title: str
    low: str
    median: str
    high: str
    median_position: str = ""
    highest: int = 0
    images: int = 0
    bars: Sequence[_Bar] = ()
    edges: Sequence[tuple[str, str]] = ()


def _counted(noun: str, count: Callable[[ConvertJson], int]) -> Callable[[ConvertJson], dict[str, str] | None]:
    """Return a `Rule.condition`: the count must be above 0. It fills {count} with the number and `noun`."""
    return lambda facts: {"count": words.number(number, noun)} if (number := count(facts)) else None


def _same(
    section: Literal["duplicates", "near_duplicates"], kind: DuplicateKind, dropped: bool
) -> Callable[[ConvertJson], int]:
    """Return a function that counts the duplicates or near-duplicates of a kind.

    Args:
        section: The name of the flag and of its part of `convert.json`.
        kind: The kind.
        dropped: True: the function returns 0 unless the flag is "drop". False: it returns 0 if the flag is "drop".
    """
    return lambda facts: facts[section][kind] if (facts["config"].get(section) == "drop") == dropped else 0


def _examples(kind: DuplicateKind) -> Callable[[ConvertJson], list[str]]:
    """Return a function that names one file of each set of identical files."""
    return lambda facts: [same[0]["path"] for same in facts["duplicates"]["examples"][kind]]


def _near_examples(kind: DuplicateKind) -> Callable[[ConvertJson], list[str]]:
    """Return a function that names two images of each group of near-duplicates that is shown."""
    return lambda facts: [one["path"] for same in facts["near_duplicates"]["examples"][kind] for one in same[:2]]


def _undecoded(facts: ConvertJson) -> int:
    images = facts["images"]
    return images["look"]["unknown"] if images["verified"] == "header" else 0


def _absent(facts: ConvertJson) -> dict[str, str] | None:
    absent = {split: sum(not class_records(entry, split) for entry in facts["classes"]) for split in facts["splits"]}
    where = ", ".join(f"{count:,} in {split}" for split, count in absent.items() if count)
    return {"where": where} if where else None


def _imbalanced(facts: ConvertJson) -> dict[str, str] | None:
    split = next(iter(facts["splits"]))
    sizes = [size for entry in facts["classes"] if (size := class_records(entry, split))]
    ratio = rules.imbalance(sizes)
    return {"ratio": ratio, "split": split} if ratio else None


def _tiny(facts: ConvertJson) -> dict[str, str] | None:
    side = facts["images"]["shorter_side"]
    if side["min"] >= _TINY:
        return None
    count = sum(count for edge, count in zip(side["edges"], side["counts"]) if edge < _TINY)
    return {"most": f"{count:,}", "least": _pixels(side["min"])}


def _faint(facts: ConvertJson) -> dict[str, str] | None:
    look = facts["images"]["look"]
    counts = {"nearly black": look["dark"], "nearly white": look["bright"], "nearly one gray": look["flat"]}
    which = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    return {"which": which} if which else None


_RULES: tuple[Rule[ConvertJson], ...] = (
    Rule(
        name="conflicts",
        level="problem",
        section="duplicates",
        condition=_counted("file", _same("duplicates", "conflicts", dropped=False)),
        title="{count} with different labels",
        text=f"Identical files are in several classes, so {HARMS['conflicts']}.",
        advice="Decide which class is right and delete the other files from the source, or leave all of them out with"
        " `--duplicates=drop`.",
        examples=_examples("conflicts"),
    ),
    Rule(
        name="leaks",
        level="problem",
        section="duplicates",
        condition=_counted("file", _same("duplicates", "leaks", dropped=False)),
        title="{count} in several splits",
        text=f"{words.sentence(HARMS['leaks'])}.",
        advice="Delete the copies from the source, or pass `--duplicates=drop`. The flag keeps one copy of each image."
        " This is a copy in test, if there is one. If not, it is a copy in validation.",
        examples=_examples("leaks"),
    ),
    Rule(
        name="near_conflicts",
        level="check",
        section="near_duplicates",
        condition=_counted("image", _same("near_duplicates", "conflicts", dropped=False)),
        title="{count} with different labels look alike",
        text="Copies of one picture with other bytes are in several classes, or the pictures are only similar.",
        advice="Look at these images below and correct the labels that are wrong.",
        examples=_near_examples("conflicts"),
    ),
    Rule(
        name="near_leaks",
        level="check",
        section="near_duplicates",
        condition=_counted("image", _same("near_duplicates", "leaks", dropped=False)),
        title="{count} in several splits look alike",
        text=f"If these images are copies, {HARMS['leaks']}.",
        advice="Remove the split directories from the source, so that `convert` makes the split, and pass"
        " `--near_duplicates=group`: all copies are then in one split. Or pass `--near_duplicates=drop`. The flag"
        " stores only one copy. This is a copy in test, if there is one. If not, it is a copy in validation.",
        examples=_near_examples("leaks"),
    ),
    Rule(
        name="groups",
        level="check",
        section="classes",
        condition=_counted("group", lambda facts: facts["duplicates"]["groups_in_several_splits"]),
        title="{count} in several splits",
        text="Images of one group are similar, so the scores are better than they will be on new groups.",
        advice="Move each group to one split of the source. Or remove the split directories from the source: the"
        " automatic split keeps each group of `--group_regex` together.",
    ),
    Rule(
        name="conflicts_dropped",
        level="check",
        section="duplicates",
        condition=_counted("file", _same("duplicates", "conflicts", dropped=True)),
        title="{count} with different labels, left out",
        text="Identical files are in several classes. `--duplicates=drop` stored none of them.",
        advice="Decide which class is right and delete the other files from the source.",
        examples=_examples("conflicts"),
    ),
    Rule(
        name="near_conflicts_dropped",
        level="check",
        section="near_duplicates",
        condition=_counted("image", _same("near_duplicates", "conflicts", dropped=True)),
        title="{count} with different labels looked alike before some were left out",
        text="`--near_duplicates=drop` stored one image of each group. It may be the one with the wrong label.",
        advice="Look at these images below, and correct the labels that are wrong in the source.",
        examples=_near_examples("conflicts"),
    ),
    Rule(
        name="skipped",
        level="check",
        section="files",
        condition=_counted("file", lambda facts: 0 if facts["config"]["repair"] else facts["files"]["skipped"]),
        title="{count} skipped",
        text="These files are not in the dataset.",
        advice="Look at the reasons in `rejected.csv` and replace the images that you need."
        " `--on_bad_image=repair` repairs some damaged images.",
    ),
    Rule(
        name="unrepaired",
        level="check",
        section="files",
        condition=_counted("file", lambda facts: facts["files"]["skipped"] if facts["config"]["repair"] else 0),
        title="{count} skipped",
        text="These files are not in the dataset, because they could not be repaired.",
        advice="Look at the reasons in `rejected.csv` and replace the images that you need.",
    ),
    Rule(
        name="absent",
        level="check",
        section="classes",
        condition=_absent,
        title="Classes without images: {where}",
        text="A split without images of a class says nothing about this class.",
        advice="Add images of the class, or list the classes to use with `--classes`.",
    ),
    Rule(
        name="not_compared",
        level="note",
        section="near_duplicates",
        condition=_counted("image", _undecoded),
        title="{count} not decoded",
        text="It is not known whether these images are damaged, black, or near-duplicates of others.",
        advice="Convert again with `--verify=full --overwrite`.",
    ),
    Rule(
        name="imbalance",
        level="check",
        section="classes",
        condition=_imbalanced,
        title="Imbalanced classes: {ratio} images in {split}",
        text="Accuracy over all images hides mistakes in small classes.",
        advice="Look at the recall of each class. Add images of the small classes, or train with"
        " `python -m trainers.finetune --class_weights=balanced`.",
    ),
    Rule(
        name="repaired",
        level="note",
        section="files",
        condition=_counted("file", lambda facts: facts["files"]["repaired"]),
        title="{count} repaired",
        text="A part of each of these images may be lost. `rejected.csv` says how much.",
        advice="`--on_bad_image=skip` leaves these files out.",
    ),
    Rule(
        name="faint",
        level="note",
        section="look",
        condition=_faint,
        title="Images that show hardly anything: {which}",
        text="These images may be damaged or empty, or they may be in the dataset by mistake.",
        advice="Look at the most extreme images below and remove those that you do not want from the source.",
    ),
    Rule(
        name="tiny",
        level="note",
        section="images",
        condition=_tiny,
        title=f"Tiny images: up to {{most}} with a side below {_TINY} px, the smallest {{least}}",
        text="Delete icons and thumbnails that are among photographs by mistake.",
        advice=f"If all images are meant to be small, train at their size, for example with"
        f" `python -m trainers.scratch --image_size={_TINY}`.",
    ),
)


def write(
    directory: Path,
    facts: ConvertJson,
    thumbnails: Sequence[Thumbnail],
    pictures: Mapping[str, bytes],
    log: Callable[[str], object] = lambda line: None,
) -> None:
    """Write `card.html` completely or not at all.

    Args:
        directory: Directory to write to.
        facts: Content of `convert.json`.
        thumbnails: Samples of each class.
        pictures: Path -> small JPEG, for files that the facts name.
        log: Called with a line for each finding. Duplicates and notes on images are left out, since the console shows
            them below the class table.
    """
    with files.atomic(directory / CARD) as file:
        file.write(render(facts, thumbnails, pictures).encode())
    findings = [finding for finding in rules.found(_RULES, facts) if finding.section not in _ON_CONSOLE]
    for line in rules.lines(rules.worst_first(findings)):
        log(line)


def render(facts: ConvertJson, thumbnails: Sequence[Thumbnail], pictures: Mapping[str, bytes] = {}) -> str:
    """Return the page as HTML. The page has no scripts and loads nothing. Equal arguments give equal HTML."""
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
        decided=facts.get("decided"),
        findings=rules.worst_first([*rules.found(_RULES, facts), *_noted(facts["notes"])]),
        source_notes=[note for note in facts["notes"] if note["kind"] in _ABOUT_SOURCE],
        classes=_classes(facts),
        at_ends=_CLASSES_AT_ENDS,
        samples=_samples(facts["classes"], thumbnails),
        histograms=[
            _histogram("Shorter side", images["shorter_side"], _pixels),
            _histogram("Longer side", images["longer_side"], _pixels),
            _histogram("Width / height", images["aspect"], "{:.2f}".format),
            _histogram("File size", images["bytes"], words.size),
        ],
        types=_types(images["source_types"], images["types"]),
        changes=[[name, f"{count:,}", _CHANGES[name]] for name, count in images["changes"].items() if count],
        reasons=_reasons(facts),
        duplicates=_shown_duplicates(facts["duplicates"]) if facts["duplicates"]["files"] else [],
        near_duplicates=_shown_duplicates(facts["near_duplicates"]) if facts["near_duplicates"]["files"] else [],
        extremes=_extremes(images["look"]),
        colors=_colors(images["colors"]),
        flags=_flags(facts["config"] | {"verify": images["verified"]}),
    )


def _noted(notes: Sequence[NoteEntry]) -> Iterator[Finding]:
    """Yield a finding for each note that is about images."""
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


def _classes(facts: ConvertJson) -> list[_Row]:
    """Return the rows of the class table. If there are many classes, the middle ones share one row."""
    classes, records = facts["classes"], {name: split["records"] for name, split in facts["splits"].items()}
    highest = {split: max(class_records(entry, split) for entry in classes) for split in records}

    def counts_of(entry: ClassEntry) -> dict[str, int]:
        return {split: class_records(entry, split) for split in records}

    def row(label: int | None, name: str, counts: Mapping[str, int]) -> _Row:
        cells = [
            _Cell(
                images=counts[split],
                share=_share(counts[split] / total),
                part=counts[split] / highest[split] if label is not None and highest[split] else None,
            )
            for split, total in records.items()
        ]
        return _Row(label=label, name=name, cells=cells)

    def rows(entries: Sequence[ClassEntry]) -> list[_Row]:
        return [row(entry["label"], entry["name"], counts_of(entry)) for entry in entries]

    if len(classes) <= _CLASSES_LISTED:
        return rows(classes)
    ordered = sorted(classes, key=lambda entry: (-sum(counts_of(entry).values()), entry["label"]))
    middle = ordered[_CLASSES_AT_ENDS:-_CLASSES_AT_ENDS]
    sums = {split: sum(class_records(entry, split) for entry in middle) for split in records}
    between = row(None, f"{words.number(len(middle), 'class')} between these", sums)
    return [*rows(ordered[:_CLASSES_AT_ENDS]), between, *rows(ordered[-_CLASSES_AT_ENDS:])]


def _share(part: float) -> str:
    return "<0.1%" if 0 < part < 0.0005 else f"{part:.1%}"


def _samples(classes: Sequence[ClassEntry], thumbnails: Sequence[Thumbnail]) -> list[tuple[str, list[Thumbnail]]]:
    """Return the name and the thumbnails of each class that has thumbnails."""
    groups = itertools.groupby(thumbnails, key=lambda thumbnail: thumbnail.label)
    return [(classes[label]["name"], list(group)) for label, group in groups]


def _histogram(title: str, histogram: Histogram, written: Callable[[float], str]) -> _Histogram:
    low, median, high = histogram["min"], histogram["median"], histogram["max"]
    plain = _Histogram(title=title, low=written(low), median=written(median), high=written(high))
    if low == high:
        return plain
    return dataclasses.replace(
        plain,
        median_position=f"{100 * math.log(median / low) / math.log(high / low):.2f}",
        highest=max(histogram["counts"]),
        images=sum(histogram["counts"]),
        bars=_bars(histogram, written),
        edges=_axis_labels(histogram, written),
    )


def _axis_labels(histogram: Histogram, written: Callable[[float], str]) -> list[tuple[str, str]]:
    """Return position and text of each label of an axis. A text that would appear twice is shown once."""
    bins = len(histogram["counts"])
    positions = {}
    for i in range(0, bins + 1, max(1, bins // _AXIS_PARTS)):
        text = written(histogram["edges"][i])
        if text not in positions or i == bins:
            positions[text] = f"{100 * i / bins:.2f}"
    return [(position, text) for text, position in positions.items()]


def _bars(histogram: Histogram, written: Callable[[float], str]) -> list[_Bar]:
    """Return the bars, each with its edges and its count as text."""
    counts, edges = histogram["counts"], [written(edge) for edge in histogram["edges"]]
    width, highest, bars = 100 / len(counts), max(counts), []
    for i, count in enumerate(counts):
        height = max(1.5, 100 * count / highest) if count else 0  # A bar of one image must be visible, too.
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


def _types(source: Mapping[str, int], stored: Mapping[str, int]) -> list[list[str]]:
    return [[name, f"{source.get(name, 0):,}", f"{stored.get(name, 0):,}"] for name in {**source, **stored}]


def _reasons(facts: ConvertJson) -> list[list[str]]:
    """Return why files were skipped or repaired. The last row sums up reasons not in convert.json."""
    counts, reasons = facts["files"], facts["reasons"]
    rows = [[reason["reason"], reason["done"], f"{reason['files']:,}"] for reason in reasons]
    rest = counts["skipped"] + counts["repaired"] - sum(reason["files"] for reason in reasons)
    return [*rows, ["Other reasons", "", f"{rest:,}"]] if rest else rows


def _extremes(look: Look) -> list[dict[str, Any]]:
    """Return each kind of extreme with its images and the values as text."""
    return [
        {
            "title": kind.capitalize(),
            "value": _EXTREMES[kind][0],
            "images": [(one["path"], _EXTREMES[kind][1].format(one["value"])) for one in found],
        }
        for kind, found in look["extremes"].items()
    ]


def _shown_duplicates(duplicates: DuplicateCounts | NearCounts) -> list[dict[str, Any]]:
    """Return each kind of duplicates with its examples."""
    return [
        {
            "title": title,
            "files": duplicates[kind],
            "by_label": kind == "conflicts",
            "examples": list(zip(duplicates["examples"][kind], duplicates["sizes"][kind])),
            "others": duplicates[kind] - sum(duplicates["sizes"][kind]),
        }
        for kind, title in _DUPLICATES.items()
        if duplicates[kind]
    ]


def _colors(colors: Colors) -> dict[str, Any]:
    """Return mean and standard deviation of the channels, in 0..255 and in 0..1."""
    channels = zip(("Red", "Green", "Blue"), colors["mean"], colors["std"])
    return {
        "channels": [[name, f"{m:.2f}", f"{s:.2f}", f"{m / 255:.4f}", f"{s / 255:.4f}"] for name, m, s in channels],
        "mean": [round(value / 255, 4) for value in colors["mean"]],
        "std": [round(value / 255, 4) for value in colors["std"]],
    }


def _flags(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the settings as flags. Settings without a value, the name and the format version are left out."""
    for name, value in config.items():
        if name == "repair":
            yield f"--on_bad_image={'repair' if value else 'skip'}"
        elif isinstance(value, bool):
            yield f"--{'' if value else 'no'}{name}"
        elif value is not None and name not in ("name", "format_version"):
            text = flags.CsvListSerializer(",").serialize(value) if isinstance(value, list) else str(value)
            yield f"--{name}={shlex.quote(text)}"


def _pixels(length: float) -> str:
    return f"{length:,.0f} px"
