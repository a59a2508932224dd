"""Notes for the user about a conversion, the same in the console, convert.json and the report card."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from tfrecord_tools.base import words
from tfrecord_tools.conversion import copies
from tfrecord_tools.conversion.plan import Plan
from tfrecord_tools.conversion.survey import TYPES, Columns, Facts
from tfrecord_tools.errors import named
from tfrecord_tools.images import levels
from tfrecord_tools.layout import duplicates
from tfrecord_tools.layout.dataset_files import NoteEntry
from tfrecord_tools.layout.duplicates import Duplicates
from tfrecord_tools.layout.findings import FINDINGS
from tfrecord_tools.sources.scan import Sources

_EXAMPLES = 8  # Number of images that the report card (card.html) shows for a note.
_LEVELS = 1 << 16  # Levels of a 16-bit image.
_NARROW = 4  # If an image uses less than a quarter of all levels, its content is hard to see.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Note:
    """A fact about a conversion, and advice for the user.

    Attributes:
        kind: "source", "decisions", "raw", "duplicates", "near_duplicates", "splits", a kind of `findings.FINDINGS`, or
            "narrow" for images with more than 8 bits that use few of their levels.
        text: The fact, without a period at the end.
        advice: The advice, without a period at the end; "" if there is none.
        level: "check" or "note", as in `findings.Trait`.
        heading: Word in front of the note on the console: "note", "check" or "problem".
        images: Number of images that the note is about; 0 if it is not about single images.
        examples: File numbers of some of the images.
    """

    kind: str
    text: str
    advice: str = ""
    level: str = "note"
    heading: str = "note"
    images: int = 0
    examples: tuple[int, ...] = ()

    def line(self) -> str:
        """Return the note as the console prints it."""
        return f"{self.text}. {words.sentence(self.advice)}" if self.advice else self.text

    def as_json(self, sources: Sources) -> NoteEntry:
        """Return the note as convert.json holds it."""
        return {
            "kind": self.kind,
            "text": self.text,
            "advice": self.advice,
            "level": self.level,
            "images": self.images,
            "examples": [sources.paths[number] for number in self.examples],
        }


def of(plan: Plan, sources: Sources, facts: Facts) -> list[Note]:
    """Return all notes about a conversion, in the order in which they are shown."""
    notes = [Note(kind="source", text=text) for text in sources.notes]
    notes += [Note(kind="decisions", text=text) for text in _decisions(plan)]
    notes += _raw(plan, facts)
    notes += _duplicates(plan.duplicates, sources, plan.config["duplicates"])
    notes += _near_duplicates(plan, sources)
    notes += [Note(kind="splits", text=text) for text in _splits(plan, sources)]
    return notes + list(_findings(plan, facts))


def _decisions(plan: Plan) -> Iterator[str]:
    yield from plan.decided.notes()
    kept = plan.near_duplicates.kept
    if kept and plan.config.get("near_duplicates") == "drop":
        yield (
            f"{kept:,} images look alike. --near_duplicates=drop does not drop these images, because decisions keep"
            " them"
        )


def _raw(plan: Plan, facts: Facts) -> Iterator[Note]:
    table = facts.of(plan.rows.numbers)
    files = int(table["size"].sum())
    if (table["type"] == TYPES.index("RAW")).any():
        text = f"raw pixels take {plan.bytes / files:.1f} times as much space as the files ({words.size(files, 'MB')})"
        yield Note(kind="raw", text=text, advice="--store=jpeg takes less space")


def _duplicates(same: Duplicates, sources: Sources, mode: str) -> Iterator[Note]:
    if not same.files:
        return
    kinds = [kind for kind in reversed(duplicates.KINDS) if same.counts[kind]]
    worst = same.examples[kinds[0]][0]
    text = f"{same.files:,} files have the same bytes as another file ({copies.counted(same)}), such as "
    harms: list[str] = []
    advice = ""
    if mode == "keep":
        harms = [words.sentence(duplicates.HARMS[kind]) for kind in kinds if kind in duplicates.HARMS]
        advice = "--duplicates=drop keeps one of the equal files, or none if their labels differ"
    elif same.counts["conflicts"]:
        advice = (
            "--duplicates=drop left out all equal files with different labels. Delete the files that are in the wrong"
            " class"
        )
    yield Note(
        kind="duplicates",
        text=text + ", ".join(sources.paths[i] for i in worst[:2]),
        heading="problem" if harms else "check" if advice else "note",
        advice=". ".join([*harms, advice] if advice else harms),
    )


def _near_duplicates(plan: Plan, sources: Sources) -> Iterator[Note]:
    """Yield a note about images that look alike, with advice if they can harm a training."""
    near = plan.near_duplicates
    same, mode = near.images, plan.config.get("near_duplicates", "keep")
    if not same.files:
        return
    kinds = [kind for kind in reversed(duplicates.KINDS) if same.counts[kind]]
    worst = ", ".join(sources.paths[i] for i in same.examples[kinds[0]][0][:2])
    text = f"{same.files:,} images look like another image ({copies.counted(same)}), such as {worst}"
    if near.chains:
        chains = words.number(near.chains, "group is a chain", "groups are chains")
        text += (
            f"; {chains}: A looks like B, and B looks like C, but A does not look like C. The longest chain has"
            f" {near.longest:,} images"
        )
    advice = []
    if same.counts["leaks"] and mode != "drop":
        own = (
            "remove the copies from one split of --src, or pass --near_duplicates=drop. The flag keeps one image of"
            " each group: an image of test if the group has one, and if not, an image of validation"
        )
        made = (
            "--near_duplicates=group puts similar images into the same split. --near_duplicates=drop stores only the"
            " largest of them"
        )
        advice = [own if sources.has_splits else made]
    if same.counts["conflicts"]:
        advice.append("look at the pictures in card.html and correct the labels that are wrong")
    level = "check" if advice else "note"
    joined = ". ".join(map(words.sentence, advice))
    yield Note(kind="near_duplicates", text=text, advice=joined, heading=level, level=level)


def _splits(plan: Plan, sources: Sources) -> Iterator[str]:
    """Yield notes about empty classes, a missing validation split and groups in several splits."""
    counts = plan.counts()
    if not sources.has_splits:
        for split in list(counts)[1:]:
            absent = [name for name, count in zip(plan.class_names, counts[split]) if not count]
            if absent:
                what = "class has no image" if len(absent) == 1 else "classes have no images"
                why = "too few images, or their groups have more images of another class"
                yield f"{len(absent):,} {what} in {split} ({why}): {named(absent)}"
    elif list(counts) == ["train"]:
        yield (
            "the source has only a train split. --validation_fraction=0.2 makes a validation split. Without a"
            " validation split, trainers use a fifth of the images for validation"
        )
    if plan.group_leaks:
        yield f"{plan.group_leaks:,} groups have images in several of the source's own splits"


def _findings(plan: Plan, facts: Facts) -> Iterator[Note]:
    table = facts.of(plan.rows.numbers)
    masks = table["findings"]
    for i, (kind, finding) in enumerate(FINDINGS.items()):
        rows = np.flatnonzero(masks >> i & 1)
        if not len(rows):
            continue
        if kind == "deep":
            yield from _deep(plan, table, rows)
        elif kind == "gps":
            text = f"{len(rows):,} of {words.number(len(table), 'image')} carry GPS positions"
            yield _note(plan, rows, kind, text=text, advice=finding.advice)
        else:
            text = _agreeing(f"{{count}} {finding.text}", len(rows))
            yield _note(plan, rows, kind, text=text, advice=finding.advice)


def _deep(plan: Plan, table: Columns, rows: np.ndarray) -> Iterator[Note]:
    """Yield notes about images with more than 8 bits per channel."""
    depth_range = plan.config.get("depth_range")
    lowest, highest = table["lowest"][rows].astype(np.float64), table["highest"][rows].astype(np.float64)
    if depth_range is not None:
        yield _mapped(plan, rows, lowest, highest, depth_range)
        return
    narrow = highest - lowest + 1 < _LEVELS / _NARROW
    if narrow.any():
        low, high = int(lowest[narrow].min()), int(highest[narrow].max())
        seen = "nearly black" if high < _LEVELS / _NARROW else "nearly uniform"
        count = int(narrow.sum())
        share = (high - low + 1) / _LEVELS
        text = (
            f"{_agreeing('{count} {have}', count)} 16-bit gray levels but {'uses' if count == 1 else 'use'} only the"
            f" levels {low:,} to {high:,} ({_percent(share)} of all levels), so the records look {seen}"
        )
        span = f"--depth_range={low},{max(high, low + 1)} or " if share < 1 / _NARROW else ""
        yield _note(plan, rows[narrow], "narrow", level="check", text=text, advice=f"pass {span}--depth_range=auto")
    if not narrow.all():
        count = int((~narrow).sum())
        text = f"{_agreeing('{count} {have}', count)} 16-bit levels, and only the upper 8 bits of each level are kept"
        advice = "--depth_range=auto maps the levels that each image uses to 8 bits instead"
        yield _note(plan, rows[~narrow], "deep", text=text, advice=advice)


def _mapped(plan: Plan, rows: np.ndarray, lowest: np.ndarray, highest: np.ndarray, depth_range: str) -> Note:
    low, high = levels.written(lowest.min()), levels.written(highest.max())
    text = (
        f"{_agreeing('{count} {have}', len(rows))} levels of more than 8 bits ({low} to {high}), which"
        f" --depth_range={depth_range} maps to 8 bits"
    )
    limits = levels.parse_range(depth_range)
    if limits is None:
        text += ". Each image is mapped with its own lowest and highest level"
        return _note(plan, rows, "deep", text=text, advice="--depth_range=LO,HI keeps levels comparable between images")
    outside = int(((lowest < limits[0]) | (highest > limits[1])).sum())
    if not outside:
        return _note(plan, rows, "deep", text=text)
    text += f"; {outside:,} of these images have levels outside this range. Such levels become black or white"
    advice = f"--depth_range={levels.written(lowest.min(), '')},{levels.written(highest.max(), '')} includes all levels"
    return _note(plan, rows, "deep", text=text, advice=advice)


def _note(plan: Plan, rows: np.ndarray, kind: str, text: str, advice: str = "", level: str = "") -> Note:
    return Note(
        kind=kind,
        level=level or FINDINGS[kind].level,
        text=text,
        advice=advice,
        images=len(rows),
        examples=tuple(plan.rows.numbers[rows[:_EXAMPLES]].tolist()),
    )


def _agreeing(text: str, count: int) -> str:
    """Fill in the number of images and the verb forms that agree with it."""
    forms = {"have": "has", "are": "is"} if count == 1 else {"have": "have", "are": "are"}
    return text.format(count=words.number(count, "image"), **forms)


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 else "less than 1%"
