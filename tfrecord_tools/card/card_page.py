"""The report card of a dataset: one page that shows what is in it, whether to trust it, and what to do."""

from __future__ import annotations

import base64
import itertools
import math
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from tfrecord_tools.base import files, page, words
from tfrecord_tools.card.statistics import Thumbnail
from tfrecord_tools.conversion.notes import sentence

CARD = "card.html"
_TEMPLATE = "card_template.html"
_TINY = 32  # Pixels of the shorter side; below, networks for photographs see little.
_IMBALANCE = 10  # Largest class by smallest one, from which on accuracy says little.
_CLASSES_LISTED, _CLASSES_AT_ENDS = 50, 20  # Classes that are all listed; of more, so many largest and smallest ones.
_CLASSES_OPEN = 12  # Of which the samples are seen at once.
_PATHS = 6  # Of files with the same bytes.
_AXIS_PARTS = 4  # Between labels.


class _Advice(NamedTuple):
    """How grave a finding is, the section that says more, and what to do."""

    level: str
    section: str
    text: str


_ADVICE = {  # The worst first.
    "conflicts": _Advice(
        "problem",
        "duplicates",
        "The same bytes lie in several classes, and a network is taught all of them. Decide which one is right and"
        " delete the other files from the source; <code>--duplicates=drop</code> leaves all of them out.",
    ),
    "leaks": _Advice(
        "problem",
        "duplicates",
        "Scores on images that were trained on are too good. Delete the copies from the source, or pass"
        " <code>--duplicates=drop</code>, which keeps each in one split only: test before validation before train.",
    ),
    "groups": _Advice(
        "check",
        "classes",
        "Images of one group are alike, so scores are better than they will be on new groups. Move each group to one"
        " split of the source, or give the source without splits: they are then made by group.",
    ),
    "conflicts_dropped": _Advice(
        "check",
        "duplicates",
        "The same bytes lie in several classes, and none of these files became a record. Decide which class is right"
        " and delete the other files from the source.",
    ),
    "skipped": _Advice(
        "check",
        "files",
        "They are not in the dataset. Look at the reasons; if these are images that you need, mend or replace them."
        " <code>--on_bad_image=repair</code> mends what can be.",
    ),
    "absent": _Advice(
        "check",
        "classes",
        "A split says nothing of a class that it lacks. Add images of it, unless it is meant so.",
    ),
    "imbalance": _Advice(
        "check",
        "classes",
        "Accuracy over all images hides how small classes fare. Look at each class, weight the loss by class, or add"
        " images of the small ones.",
    ),
    "repaired": _Advice(
        "note",
        "files",
        "A part of each may be lost, <code>rejected.csv</code> says how much. <code>--on_bad_image=skip</code> leaves"
        " them out.",
    ),
    "tiny": _Advice(
        "note",
        "images",
        "Icons and thumbnails among photographs are best deleted. If all images are meant to be small, train at their"
        " size.",
    ),
}
_LEVELS = ("problem", "check", "note")  # The worst first.
_ABOUT_SOURCE = ("source", "raw")  # Kinds of notes that need no attention; `_ADVICE` covers those of no finding.
_FLAG = re.compile(r"(--[a-z_]+(?:=[^\s;,)]*(?:,[^\s;)]+)?)?)")
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


def write(
    directory: Path, facts: Mapping[str, Any], thumbnails: Sequence[Thumbnail], pictures: Mapping[str, bytes]
) -> None:
    """Writes `card.html`, whole or not at all.

    Args:
        directory: Where to.
        facts: What `convert.json` says.
        thumbnails: Images to show of each class.
        pictures: Path -> a small JPEG, of files that the facts name.
    """
    with files.atomic(directory / CARD) as file:
        file.write(render(facts, thumbnails, pictures).encode())


def render(facts: Mapping[str, Any], thumbnails: Sequence[Thumbnail], pictures: Mapping[str, bytes] = {}) -> str:
    """Returns the page as HTML: the same for the same facts, without scripts, complete without a network."""
    images = facts["images"]
    return page.fill(
        "tfrecord_tools",
        _TEMPLATE,
        name=page.text(facts["name"]),
        overview=_overview(facts),
        verdict=_verdict(_findings(facts), facts["notes"], pictures),
        notes=_source_notes(facts["notes"]),
        classes=_classes(facts),
        samples=_samples(facts["classes"], thumbnails),
        histograms="".join(
            [
                _histogram("Shorter side", images["shorter_side"], _pixels),
                _histogram("Longer side", images["longer_side"], _pixels),
                _histogram("Width by height", images["aspect"], "{:.2f}".format),
                _histogram("Size in bytes", images["bytes"], _size),
            ]
        ),
        types=_types(images),
        changes=_changes(images["changes"]),
        files=_files(facts),
        duplicates=_duplicates(facts["duplicates"], pictures),
        colors=_colors(images["colors"]),
        settings="\n".join(map(page.text, _flags(facts["config"] | {"verify": facts["images"]["verified"]}))),
        versions=page.table(["Package", "Version"], (map(page.text, row) for row in facts["versions"].items())),
        digest=page.text(facts["digest"]),
    )


def _overview(facts: Mapping[str, Any]) -> str:
    values = {
        "Records": f"{facts['records']:,}",
        "Classes": f"{len(facts['classes']):,}",
        **{f"In {name}": f"{split['records']:,}" for name, split in facts["splits"].items()},
        "Size": _size(facts["bytes"]),
        "Digest": f"<code>{page.text(facts['digest'][:12])}</code>",
    }
    return "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in values.items())


def _findings(facts: Mapping[str, Any]) -> dict[str, str]:
    """What needs attention: key in `_ADVICE` -> what was found, in its order."""
    found = _counted(facts) | _seen_in_classes(facts["classes"], list(facts["splits"]))
    side = facts["images"]["shorter_side"]
    if side["min"] < _TINY:
        most = sum(count for edge, count in zip(side["edges"], side["counts"]) if edge < _TINY)
        found["tiny"] = f"Tiny images: up to {most:,} with a side below {_TINY} px, the smallest {_pixels(side['min'])}"
    return {name: found[name] for name in _ADVICE if name in found}


def _counted(facts: Mapping[str, Any]) -> dict[str, str]:
    same, done = facts["duplicates"], facts["files"]
    dropped = facts["config"]["duplicates"] == "drop"
    counts = {
        "conflicts": (not dropped and same["conflicts"], "file", "with different labels"),
        "conflicts_dropped": (dropped and same["conflicts"], "file", "with different labels, left out"),
        "leaks": (not dropped and same["leaks"], "file", "in several splits"),
        "groups": (same["groups_in_several_splits"], "group", "in several splits"),
        "skipped": (done["skipped"], "file", "skipped"),
        "repaired": (done["repaired"], "file", "repaired"),
    }
    return {name: f"{words.number(count, what)} {how}" for name, (count, what, how) in counts.items() if count}


def _seen_in_classes(classes: Sequence[Mapping[str, Any]], splits: Sequence[str]) -> dict[str, str]:
    found = {}
    absent = {split: sum(not row[split] for row in classes) for split in splits}
    if any(absent.values()):
        where = ", ".join(f"{count:,} in {split}" for split, count in absent.items() if count)
        found["absent"] = f"Classes without images: {where}"
    sizes = [row[splits[0]] for row in classes if row[splits[0]]]
    if max(sizes) >= _IMBALANCE * min(sizes):
        found["imbalance"] = (
            f"Unequal classes: from {min(sizes):,} to {words.number(max(sizes), 'image')} in {splits[0]}"
        )
    return found


def _verdict(found: Mapping[str, str], notes: Sequence[Mapping[str, Any]], pictures: Mapping[str, bytes]) -> str:
    """A list of findings with advice, the worst first, or that there is none."""
    items = [(_ADVICE[name].level, _finding(name, text)) for name, text in found.items()]
    items += [(note["level"], _noted(note, pictures)) for note in notes if note["images"]]
    items.sort(key=lambda item: _LEVELS.index(item[0]))
    if not items:
        return (
            '<section class="verdict good"><h2>Nothing to worry about</h2><p>No file stands under two labels or in two'
            " splits, no file was skipped or repaired, no image lost anything in the conversion, no class is absent"
            " from a split or far smaller than another, and no image is tiny.</p></section>"
        )
    needs = "thing needs" if len(items) == 1 else "things need"
    return (
        f'<section class="verdict {items[0][0]}"><h2>{len(items)} {needs} attention</h2>'
        f'<ul class="findings">{"".join(item for _, item in items)}</ul>'
        '<p class="aside">Once the source is mended, the same command with <code>--update</code> brings the dataset up'
        " to date; with other flags, <code>--overwrite</code> makes it anew.</p></section>"
    )


def _finding(name: str, text: str) -> str:
    advice = _ADVICE[name]
    head = f'<a href="#{advice.section}">{page.text(text)}</a>'
    return _item(name, advice.level, f"{head}<p>{advice.text}</p>")


def _noted(note: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """A note on images, with some of them to look at."""
    shown = [path for path in note["examples"] if path in pictures]
    sheet = "".join(f"<li>{_picture(pictures[path], path)}</li>" for path in shown)
    more = f'<p class="aside">{len(shown):,} of them:</p>' if len(shown) < note["images"] else ""
    return _item(
        note["kind"],
        note["level"],
        f"<strong>{_with_flags(note['text'])}</strong>"
        + (f"<p>{_with_flags(sentence(note['advice']))}</p>" if note["advice"] else "")
        + (f'{more}<ul class="sheet">{sheet}</ul>' if shown else ""),
    )


def _item(name: str, level: str, content: str) -> str:
    return (
        f'<li class="{level}" id="finding-{name}"><span class="level">{level.capitalize()}</span>'
        f"<div>{content}</div></li>"
    )


def _source_notes(notes: Sequence[Mapping[str, Any]]) -> str:
    """How the source was understood, as the console says it."""
    texts = [note for note in notes if note["kind"] in _ABOUT_SOURCE]
    if not texts:
        return ""
    items = "".join(
        f"<li>{_with_flags(note['text'])}{'. ' * bool(note['advice'])}{_with_flags(sentence(note['advice']))}</li>"
        for note in texts
    )
    return f'<section id="notes"><h2>How the source was read</h2><ul class="notes">{items}</ul></section>'


def _with_flags(text: str) -> str:
    """Escapes a text; flags that can be copied stand out."""
    parts = enumerate(_FLAG.split(text))
    return "".join(f"<code>{page.text(part)}</code>" if i % 2 else page.text(part) for i, part in parts)


def _picture(jpeg: bytes, path: str) -> str:
    shown = page.text(path)
    return f'<img src="{_data(jpeg)}" alt="{shown}" title="{shown}">'


def _data(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def _classes(facts: Mapping[str, Any]) -> str:
    """The table of classes, with a bar for each split; the middle of many classes is one row."""
    classes, splits = facts["classes"], list(facts["splits"])
    records = {split: facts["splits"][split]["records"] for split in splits}
    highest = {split: max(row[split] for row in classes) for split in splits}

    def line(row: Mapping[str, Any]) -> list[str]:
        return [_class_name(row), *(_share(row[split], records[split], highest[split]) for split in splits)]

    rows, note = [line(row) for row in classes], ""
    if len(classes) > _CLASSES_LISTED:
        ordered = sorted(classes, key=lambda row: (-sum(row[split] for split in splits), row["label"]))
        middle = ordered[_CLASSES_AT_ENDS:-_CLASSES_AT_ENDS]
        sums = (_share(sum(row[split] for row in middle), records[split], 0) for split in splits)
        rows = [line(row) for row in ordered[:_CLASSES_AT_ENDS] + ordered[-_CLASSES_AT_ENDS:]]
        rows.insert(_CLASSES_AT_ENDS, [f"{words.number(len(middle), 'class')} between these", *sums])
        note = (
            f'<p class="aside">The {_CLASSES_AT_ENDS} largest and the {_CLASSES_AT_ENDS} smallest of {len(classes):,}'
            " classes; <code>convert.json</code> lists all.</p>"
        )
    rows.append(["All", *(f"{count:,}" for count in records.values())])
    return note + page.table(["Class", *splits], rows, kind="classes")


def _class_name(row: Mapping[str, Any]) -> str:
    name = page.text(row["name"])
    return f'<span class="class"><small>{row["label"]}</small><span class="name" title="{name}">{name}</span></span>'


def _share(count: int, of: int, highest: int) -> str:
    """A count, its share, and a bar that is full at `highest`; no bar if that is 0."""
    bar = f'<span class="bar"><i style="width:{100 * count / highest:.1f}%"></i></span>' if highest else ""
    share = "&lt;0.1%" if 0 < count / of < 0.0005 else f"{count / of:.1%}"
    return f'<span class="share"><span>{count:,}</span> <small>{share}</small></span>{bar}'


def _samples(classes: Sequence[Mapping[str, Any]], thumbnails: Sequence[Thumbnail]) -> str:
    sheets = []
    for label, group in itertools.groupby(thumbnails, key=lambda thumbnail: thumbnail.label):
        name = page.text(classes[label]["name"])
        images = "".join(_thumbnail(thumbnail, name) for thumbnail in group)
        sheets.append(f'<h3 class="name" title="{name}">{name}</h3><ul class="sheet">{images}</ul>')
    which = f"{len(sheets):,} of {len(classes):,} classes" if len(sheets) < len(classes) else "each class"
    note = f'<p class="aside">A few images of {which} as stored. Point at one to see its path.</p>'
    shown, folded = "".join(sheets[:_CLASSES_OPEN]), "".join(sheets[_CLASSES_OPEN:])
    if folded:
        folded = f"<details><summary>{len(sheets) - _CLASSES_OPEN:,} more</summary>{folded}</details>"
    return note + shown + folded if sheets else "<p>None.</p>"


def _thumbnail(thumbnail: Thumbnail, name: str) -> str:
    path, split = page.text(thumbnail.path), page.text(thumbnail.split)
    return (
        f'<li><img src="{_data(thumbnail.jpeg)}" alt="{name}, {split}: {path}" title="{path}"><span>{split}</span></li>'
    )


def _histogram(title: str, facts: Mapping[str, Any], written: Callable[[float], str]) -> str:
    """A figure with labelled axes; a sentence where all values are the same."""
    low, median, high = (written(facts[key]) for key in ("min", "median", "max"))
    heading = f"<figcaption><h3>{title}</h3></figcaption>"
    if facts["min"] == facts["max"]:
        return f"<figure>{heading}<p>{low} in every image.</p></figure>"
    bins, highest = len(facts["counts"]), max(facts["counts"])
    place = 100 * math.log(facts["median"] / facts["min"]) / math.log(facts["max"] / facts["min"])
    edges = "".join(
        f'<span style="left:{100 * i / bins:.2f}%">{written(facts["edges"][i])}</span>'
        for i in range(0, bins + 1, max(1, bins // _AXIS_PARTS))
    )
    described = f"{title} of {words.number(sum(facts['counts']), 'image')}: {low} to {high}, median {median}"
    return (
        f'<figure>{heading}<div class="plot"><div class="axis">'
        f'<span style="left:{place:.2f}%;transform:translateX(-{place:.2f}%)">median {median}</span></div>'
        f'<div class="counts"><span>{highest:,}</span><span>0</span></div>'
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img"><title>{described}</title>'
        f'{_bars(facts, highest, written)}<line x1="{place:.2f}" x2="{place:.2f}" y1="0" y2="100"/></svg>'
        f'<div class="axis edges">{edges}</div></div></figure>'
    )


def _bars(facts: Mapping[str, Any], highest: int, written: Callable[[float], str]) -> str:
    """The bars in a square of 100; each one's title says its edges and count."""
    width = 100 / len(facts["counts"])
    bars = []
    for i, count in enumerate(facts["counts"]):
        height = max(1.5, 100 * count / highest) if count else 0  # A single image can be seen.
        text = f"{written(facts['edges'][i])} to {written(facts['edges'][i + 1])}: {words.number(count, 'image')}"
        bars.append(
            f'<rect x="{(i + 0.05) * width:.2f}" y="{100 - height:.2f}" width="{0.9 * width:.2f}"'
            f' height="{height:.2f}"><title>{text}</title></rect>'
        )
    return "".join(bars)


def _types(images: Mapping[str, Any]) -> str:
    found, stored = images["source_types"], images["types"]
    names = {**found, **stored}
    rows = ([page.text(name), f"{found.get(name, 0):,}", f"{stored.get(name, 0):,}"] for name in names)
    return page.table(["Type", "Found", "Stored"], rows, numbers=(1, 2))


def _changes(changes: Mapping[str, int]) -> str:
    rows = [[name, f"{count:,}", _CHANGES[name]] for name, count in changes.items() if count]
    if not rows:
        return "<p>Nothing: the bytes of every file are stored as they are.</p>"
    return page.table(["Change", "Images", "How"], rows, numbers=(1,))


def _files(facts: Mapping[str, Any]) -> str:
    """What became of the files, and why."""
    counts, reasons = facts["files"], facts["reasons"]
    stored = f"{facts['records']:,} stored" + f", of these {counts['repaired']:,} repaired" * (counts["repaired"] > 0)
    text = f"<p>{stored}; {counts['skipped']:,} skipped: no sound images; {counts['dropped']:,} dropped: copies.</p>"
    rows = [[page.text(reason["reason"]), reason["done"], f"{reason['files']:,}"] for reason in reasons]
    rest = counts["skipped"] + counts["repaired"] - sum(reason["files"] for reason in reasons)
    if rest:
        rows.append(["Other reasons", "", f"{rest:,}"])
    return text + (
        page.table(["Reason (N: a number)", "Done", "Files"], rows, numbers=(2,), kind="reasons") if rows else ""
    )


def _duplicates(found: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """Counts of files with the bytes of another, with some of them to look at."""
    if not found["files"]:
        return "<p>No two files have the same bytes.</p>"
    kinds = {kind: title for kind, title in _DUPLICATES.items() if found[kind]}
    text = (
        f"<p>{found['files']:,} files have the same bytes as another file; <code>--duplicates</code> decides which are"
        " kept.</p>"
    )
    table = page.table(
        ["The same bytes", "Files"], ([t, f"{found[kind]:,}"] for kind, t in kinds.items()), numbers=(1,)
    )
    return (
        text
        + table
        + "".join(
            f"<h3>{title}</h3>{_sets(found['examples'][kind], found[kind], pictures, kind == 'conflicts')}"
            for kind, title in kinds.items()
        )
    )


def _sets(
    examples: Sequence[Sequence[Mapping[str, str]]], count: int, pictures: Mapping[str, bytes], side_by_side: bool
) -> str:
    """A list of contents, each with its files; `count` is of all files."""
    items = [f"<li>{(_labels if side_by_side else _places)(same, pictures)}</li>" for same in examples]
    rest = count - sum(len(same) for same in examples)
    if rest > 0:
        items.append(f"<li><small>and {words.number(rest, 'more file')}</small></li>")
    return f'<ul class="{"pairs" if side_by_side else "sets"}">{"".join(items)}</ul>'


def _labels(same: Sequence[Mapping[str, str]], pictures: Mapping[str, bytes]) -> str:
    """Files with the same bytes side by side, each with its class."""
    figures = "".join(
        f"<figure>{_picture(pictures[file['path']], file['path']) if file['path'] in pictures else ''}"
        f'<figcaption><strong class="name">{page.text(file["class"])}</strong>'
        f"<small>{page.text(file['split'] or 'left out')}</small><code>{page.text(file['path'])}</code></figcaption>"
        "</figure>"
        for file in same[:_PATHS]
    )
    return figures + _more(same)


def _places(same: Sequence[Mapping[str, str]], pictures: Mapping[str, bytes]) -> str:
    """One picture, and where it lies."""
    first = next((file["path"] for file in same if file["path"] in pictures), None)
    picture = _picture(pictures[first], first) if first is not None else ""
    paths = "".join(f"<code>{page.text(file['path'])}</code>" for file in same[:_PATHS])
    return f"{picture}<div>{paths}{_more(same)}</div>"


def _more(same: Sequence[object]) -> str:
    return f"<small>and {len(same) - _PATHS:,} more</small>" if len(same) > _PATHS else ""


def _colors(colors: Mapping[str, Any]) -> str:
    """Mean and standard deviation of the channels, to read and to paste."""
    channels = list(zip(("Red", "Green", "Blue"), colors["mean"], colors["std"]))
    rows = ([name, f"{m:.2f}", f"{s:.2f}", f"{m / 255:.4f}", f"{s / 255:.4f}"] for name, m, s in channels)
    mean, std = ([round(value / 255, 4) for value in colors[key]] for key in ("mean", "std"))
    sampled = words.number(colors["sampled"], "image")
    return (
        f'<p class="aside">Of {sampled}, evenly over all splits; each counts the same.</p>'
        f"{page.table(['Channel', 'Mean', 'Std', 'Mean / 255', 'Std / 255'], rows, numbers=(1, 2, 3, 4))}"
        f"<pre># Pixels in 0..255\nmean = {colors['mean']}\nstd = {colors['std']}</pre>"
        f"<pre># Pixels in 0..1, after Rescaling(1 / 255) or ToTensor()\nmean = {mean}\nstd = {std}</pre>"
    )


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


def _size(count: float) -> str:
    for unit, scale in {"GB": 1e9, "MB": 1e6, "kB": 1e3}.items():
        if count >= scale:
            return f"{count / scale:,.1f} {unit}"
    return f"{count:,.0f} B"
