"""Show the contents of any TFRecord file, and print Python code that reads it.

    python -m tfrecord_tools.show FILE_OR_DIRECTORY_OR_URL [--grid=out.png] [--records=1000]

The report lists the files with their records and bytes, the features with types, lengths and some values, the class
names if they are known, and Python code that reads the records. --grid draws the first images with their labels.
All records are read and their checksums are verified. Types and lengths come from all records. Values and images come
from N records (--records=N), the first ones of each file. Only one record is in memory at a time. TensorFlow is not
needed. Files in a bucket, as in s3://bucket/pets, are fetched once, in parts of up to 8 MiB. No copy of them is kept.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import glob
import itertools
import json
import math
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from tfrecord_tools.base import command, tabular, usage, words
from tfrecord_tools.base.files import atomic, check_local
from tfrecord_tools.errors import UserError
from tfrecord_tools.foreign import example_parser, place, tfrecord_files
from tfrecord_tools.foreign.contents import FEATURES, LISTS, OTHER, SEQUENCE, Contents, FileFacts, are_images
from tfrecord_tools.foreign.example_parser import Feature, Seen
from tfrecord_tools.foreign.place import Place
from tfrecord_tools.foreign.tfrecord_files import Group
from tfrecord_tools.layout import dataset_files, decisions

ClassNames = Mapping[str, Sequence[str]]  # Feature -> name by label.
_WIDTH = 100  # Characters. Longer lines are cut.
_SHOWN_FILES, _SHOWN_VALUES, _SHOWN_DAMAGE = 8, 4, 10
_SHOWN_CHARACTERS, _SHOWN_BYTES = 24, 8  # Longer values are cut.
_ACROSS, _MAX_PICTURES = 6, 24  # Contact sheet: columns, images.
_CELL, _GAP, _TEXT = 160, 14, 15  # Pixels.


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShowConfig:
    """Settings of `show`.

    Attributes:
        path: A TFRecord file, a directory of TFRecord files, or the URL of one, such as s3://bucket/pets.
        records: Show values and decode images of this many records. The number is divided equally between the files,
            and the first records of each file are used. Types and lengths come from all records.
        grid: PNG file to write with the first images. None: no file.
    """

    path: str
    records: int = 1000
    grid: str | None = None

    def __post_init__(self) -> None:
        if self.records < 1:
            raise UserError(f"--records={self.records}: must be at least 1.")
        check_local("grid", self.grid)
        if self.grid is not None and not self.grid.lower().endswith(".png"):
            raise UserError(f"--grid={self.grid}: must be the name of a PNG file, for example grid.png.")


def show(config: ShowConfig, log: Callable[[str], object] = print) -> None:
    """Report the contents of `config.path`.

    Args:
        config: All settings.
        log: Called with each line of the report.

    Raises:
        UserError: `path` is not a TFRecord, or is damaged, or has no image for `grid`. In the last two cases the report
            is printed first. Or a bucket cannot be read.
    """
    damage: list[str] = []
    shown = place.find(config.path, damage.append)
    contents = [Contents(group=group) for group in shown.groups]
    class_names = _class_names(shown)
    pictures: list[tuple[Image.Image, str]] = []
    for example in _read(contents, config.records, damage.append):
        if config.grid and len(pictures) < _MAX_PICTURES:
            pictures.extend(_pictures(example, class_names))
    facts = (_files(shown, contents), _features(contents, class_names), _decisions(shown, damage.append))
    for line in itertools.chain(*facts, _code(shown, contents)):
        log(line)
    if config.grid and pictures:
        title = f"{shown.title}: the first {words.number(len(pictures), 'image')}"
        _save(_contact_sheet(title, pictures), config.grid)
        log(f"\n{config.grid}: {words.number(len(pictures), 'image')}")
    if damage:
        more = [f"and {len(damage) - _SHOWN_DAMAGE:,} more"] if len(damage) > _SHOWN_DAMAGE else []
        raise UserError(
            "\n  ".join([f"{shown.title} is damaged:", *damage[:_SHOWN_DAMAGE], *more])
            + "\nThe report shows everything that can be read. Copy the file again from an undamaged copy, or write it"
            " again."
        )
    if config.grid and not pictures:
        raise UserError(f"--grid={config.grid}: {_no_image(contents)}")


def _no_image(contents: Sequence[Contents]) -> str:
    """Return the message for records without an image."""
    looked, total = (sum(counts) for counts in zip(*((c.looked, c.kinds.total()) for c in contents)))
    if looked == total:
        return f"there is no image in {words.number(total, 'record')}. Remove --grid."
    return f"there is no image in the first {words.number(looked, 'record')}. Remove --grid, or use a larger --records."


def _read(contents: Sequence[Contents], records: int, damage: Callable[[str], object]) -> Iterator[dict[str, Feature]]:
    """Read all records of all files into `contents`, and yield the features of the first `records`."""
    files = [(content, path) for content in contents for path in content.group.paths]
    for i, (content, path) in enumerate(tqdm(files, "read", unit=" files", delay=1, leave=False, disable=None)):
        share = records * (i + 1) // len(files) - records * i // len(files)
        count = 0
        for count, data in enumerate(tfrecord_files.read(path, content.group.compression, damage), 1):
            if count <= share:
                yield content.look(data)
            else:
                content.count(data)
        content.files.append(FileFacts(count, tfrecord_files.size_of(path)))


def _class_names(shown: Place) -> ClassNames:
    """Read the class names that TensorFlow Datasets stores, for example in label.labels.txt for `label`."""
    ending = ".labels.txt"
    return {
        name.removesuffix(ending): _lines(shown.read(name).decode("utf-8", "replace"))
        for name in sorted(shown.names)
        if name.endswith(ending)
    }


def _lines(text: str) -> list[str]:
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n")


def _files(shown: Place, contents: Sequence[Contents]) -> Iterator[str]:
    """Yield the table of files. Each group of files has one line, and below it one line per file.

    For many files, one line with the smallest and the largest values replaces the lines of the files.
    """
    files = [facts for content in contents for facts in content.files]
    records, size = map(sum, zip(*files))
    yield f"{shown.title}: {words.number(records, 'record')} in {words.number(len(files), 'file')}, {size:,} bytes"
    rows = [["files", "records", "bytes", "compression"]]
    for content in contents:
        group, columns = content.group, list(zip(*content.files))
        missing = f"  ({group.missing:,} missing)" if group.missing > 0 and shown.is_directory else ""
        rows.append([group.name + missing, *(f"{sum(column):,}" for column in columns), group.compression or "none"])
        if 1 < len(group.paths) <= _SHOWN_FILES:
            rows += [[f"  {p.name}", f"{f.records:,}", f"{f.bytes:,}", ""] for p, f in zip(group.paths, content.files)]
        elif len(group.paths) > 1:
            rows.append([f"  each of {len(group.paths):,} files", *map(_span, columns), ""])
    yield from ("", *_table(rows, numbers=(1, 2)))


def _features(contents: Sequence[Contents], class_names: ClassNames) -> Iterator[str]:
    """Yield the table of features, and the class names."""
    kinds = sum((content.kinds for content in contents), Counter[str]())
    if not kinds:
        return
    named_kinds = [f"{count:,} {kind}" if len(kinds) > 1 else kind for kind, count in kinds.most_common()]
    looked = sum(content.looked for content in contents)
    sampled = "" if looked == kinds.total() else f"; values of {words.number(looked, 'record')} are shown"
    yield from ("", f"{words.number(kinds.total(), 'record')}: {', '.join(named_kinds)}{sampled}")
    keys = sorted({key for content in contents for key in content.columns})
    rows = [["feature", "type", "steps", "length", "missing in", "values"]]
    for key in keys:
        columns = [content.columns[key] for content in contents if key in content.columns]
        missing = sum(content.parsed for content in contents) - sum(column.records for column in columns)
        steps, lengths = (
            _span([bound for column in columns for bound in getattr(column, name) or ()])
            for name in ("steps", "lengths")
        )
        values = _values(key.type, [s for column in columns for s in column.seen])
        rows.append([key.name, key.type, steps, lengths, f"{missing:,}" * (missing > 0), values])
    if keys:
        yield from ("", *(_cut(line, _WIDTH) for line in _table(rows, numbers=(2, 3, 4))))
    for key in keys:
        if key.type == "int64" and (names := _names_of(key.name, class_names)):
            classes = ", ".join(f"{label} {text}" for label, text in enumerate(names))
            yield from ("", _cut(f"{len(names):,} classes of {key.name}: {classes}", _WIDTH))


def _values(kind: str, seen: Sequence[Seen]) -> str:
    """Describe the values of a feature in a few words."""
    if not seen:
        return ""
    if are_images(seen):
        return _images(seen)
    values = list(dict.fromkeys(value for s in seen for value in s.values))
    span, nans = _span([bound for s in seen for bound in s.bounds]), sum(s.nans for s in seen)
    parts = [f"{span} bytes" if kind == "bytes" else span] * bool(values) + [f"{nans:,} NaN"] * (nans > 0)
    if kind != "float" and len(values) > 1 and all(s.complete for s in seen):
        parts.append(f"{len(values):,} distinct")
    shown = values[:_SHOWN_VALUES] if kind == "bytes" or len(values) > _SHOWN_VALUES else sorted(values)
    listed = ", ".join(map(_short, shown)) + ", …" * (len(shown) < len(values))
    return ", ".join(parts) + f": {listed}" * (kind == "bytes" or len(values) > 1)


def _images(seen: Sequence[Seen]) -> str:
    images = [image for s in seen for image in s.images]
    sizes = [image.size for image in images if image.size]
    others = sum(s.length for s in seen) - len(images)
    parts = [f"{count:,} {kind}" for kind, count in Counter(image.type for image in images).most_common()]
    parts += [f"{others:,} not images"] * (others > 0)
    parts += ["all can be decoded" if len(sizes) == len(images) else f"{len(sizes):,} can be decoded"]
    parts += [" x ".join(map(_span, zip(*sizes))) + " px"] * bool(sizes)  # Width x height.
    return ", ".join(parts)


def _decisions(shown: Place, damage: Callable[[str], object]) -> Iterator[str]:
    """Yield the number of decisions in the shown dataset, if there are any."""
    name = dataset_files.CONVERT_JSON
    if not shown.is_directory or name not in shown.names:
        return
    try:
        stored = decisions.of_text(shown.read(name), shown.title)
        counts = Counter(one.decision for one in stored.values())
    except UserError as error:
        damage(str(error))
        return
    if counts:
        parts = ", ".join(f"{counts[word]:,} {word}" for word in decisions.WORDS if counts[word])
        yield from ("", f"{words.number(counts.total(), 'decision')} about single images in convert.json: {parts}")


def _code(shown: Place, contents: Sequence[Contents]) -> Iterator[str]:
    """Yield TensorFlow code that reads the largest group. Records without features are not parsed."""
    main = max(contents, key=lambda content: (bool(content.kinds), sum(facts.records for facts in content.files)))
    group = main.group
    parsed = bool(_specifications(main)) and not main.kinds[OTHER]
    yield from ("", "To read them:", "", "import tensorflow as tf", "")
    if shown.is_remote:
        yield from _copying(shown)
    if parsed:
        yield from _parser(main)
    pattern, paths = _pattern(shown, group), _quoted([str(shown.directory / path.name) for path in group.paths])
    yield "files = " + (f"tf.data.Dataset.list_files({_quoted(pattern)}, shuffle=False)" if pattern else paths)
    same = (_specifications(main), group.compression)
    alike = [
        content.group.name for content in contents if (_specifications(content), content.group.compression) == same
    ]
    if len(alike) > 1:
        yield f"# The same code reads: {', '.join(name for name in alike if name != group.name)}"
    option = f', compression_type="{group.compression}"' if group.compression else ""
    mapped = ".map(parse)" if parsed else "  # Serialized records."
    yield f"data = tf.data.TFRecordDataset(files{option}){mapped}"
    if parsed and not all(main.images().values()):
        yield f"# Skip images that do not decode. {main.looked:,} of {main.parsed:,} records were tried."
        yield "data = data.ignore_errors(log_warning=True)"


def _copying(shown: Place) -> Iterator[str]:
    """Yield comments on how to copy files in a bucket to the directory that the code reads."""
    first = "# TensorFlow reads files on this machine."
    if not shown.is_directory:
        yield f"{first} Copy {shown.title} to the working directory first."
    elif dataset_files.CONVERT_JSON in shown.names:
        yield f"{first} Copy the dataset first:"
        yield f"# python -m tfrecord_tools.transfer {shlex.join([shown.title, str(shown.directory)])}"
    else:
        yield f"{first} Copy the files of {shown.title} to the directory {shown.directory}/ first."


def _specifications(content: Contents) -> dict[str, dict[str, str]]:
    """Return variable of the printed code -> feature -> its `tf.io` object.

    Variables without features are left out.
    """
    parts = {"context" if content.kinds[SEQUENCE] else "features": FEATURES, "lists": LISTS}
    return {name: readers for name, part in parts.items() if (readers := content.specifications(part))}


def _parser(main: Contents) -> Iterator[str]:
    specifications = _specifications(main)
    for name, readers in specifications.items():
        part = LISTS if name == "lists" else FEATURES
        others = sorted({key.name for key in main.columns if key.part == part} - readers.keys())
        yield from (f"{name} = {{", *(f"    {_quoted(feature)}: {reader}," for feature, reader in readers.items()))
        yield from (f"    # {_quoted(feature)} has several types." for feature in others)
        yield "}"
    yield from ("", "", "def parse(serialized):")
    if main.kinds[SEQUENCE]:
        arguments = {"context": "context_features=context", "lists": "sequence_features=lists"}
        passed = ", ".join(arguments[name] for name in specifications)
        yield f"    example, steps = tf.io.parse_single_sequence_example(serialized, {passed})"
    else:
        yield "    example = tf.io.parse_single_example(serialized, features)"
    for key in map(_quoted, main.images()):
        yield f"    example[{key}] = tf.io.decode_image(example[{key}], channels=3, expand_animations=False)"
    for key in map(_quoted, main.images(LISTS)):
        yield f"    # Encoded images: tf.io.decode_image(steps[{key}][0], channels=3, expand_animations=False)"
    yield "    return example, steps" if main.kinds[SEQUENCE] else "    return example"
    yield from ("", "")


def _pattern(shown: Place, group: Group[Any]) -> str | None:
    """Return a pattern that matches the files of a group and no others, or None."""
    matching = sum(fnmatch.fnmatchcase(name, group.name) for name in shown.names)
    alike = 1 < matching == len(group.paths)
    return str(Path(glob.escape(str(shown.directory)), group.name)) if alike else None


def _pictures(example: Mapping[str, Feature], class_names: ClassNames) -> Iterator[tuple[Image.Image, str]]:
    """Yield the first image of an example, if there is one, with the values of its label features."""
    values = (value for feature in example.values() if feature.type == "bytes" for value in feature.values)
    image = example_parser.decode(next(filter(example_parser.image_type, values), b""))
    if image is None:
        return
    parts = []
    for name, feature in example.items():
        known = dict(enumerate(_names_of(name, class_names)))
        for value in feature.values[:_SHOWN_VALUES] if "label" in name or "class" in name else ():
            plain = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
            parts.append(f"{plain} {known.get(value, '')}".strip())
    width, height = (max(1, round(side * _CELL / max(image.size))) for side in image.size)
    yield image.convert("RGB").resize((width, height)), ", ".join(parts)


def _contact_sheet(title: str, pictures: Sequence[tuple[Image.Image, str]]) -> Image.Image:
    """Draw images, at most `_CELL` pixels wide and high, with their labels below."""
    font = ImageFont.load_default(_TEXT)
    down = math.ceil(len(pictures) / _ACROSS)
    pitch, step, top = _CELL + _GAP, _CELL + 2 * _TEXT + _GAP, 2 * _GAP + _TEXT
    sheet = Image.new("RGB", (_ACROSS * pitch + _GAP, top + down * step), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, _GAP), _fit(title, font, sheet.width - 2 * _GAP), "black", font)
    for number, (image, label) in enumerate(pictures):
        x, y = _GAP + number % _ACROSS * pitch, top + number // _ACROSS * step
        draw.rectangle((x, y, x + _CELL - 1, y + _CELL - 1), "#eeeeee")
        sheet.paste(image, (x + (_CELL - image.width) // 2, y + (_CELL - image.height) // 2))
        draw.text((x + _CELL / 2, y + _CELL + _TEXT / 3), _fit(label, font, _CELL), "black", font, "ma")
    return sheet


def _fit(text: str, font: Any, pixels: int) -> str:
    """Join the lines of a text, and cut it to at most `pixels` of width."""
    text = _cut(" ".join(text.split()), pixels)
    while font.getlength(text) > pixels:
        text = text.removesuffix("…")[:-1] + "…"
    return text


def _save(sheet: Image.Image, path: str) -> None:
    try:
        with atomic(Path(path)) as file:
            sheet.save(file, "PNG")
    except OSError as error:
        raise UserError(f"--grid={path}: {error.strerror}. Choose a file that can be written.") from error


def _names_of(feature: str, class_names: ClassNames) -> Sequence[str]:
    """Return the class names of a feature, or an empty sequence."""
    # In file names, TensorFlow Datasets writes `-` before a nested feature, and `.` for a slash in a name.
    return class_names.get(feature.replace("/", "-")) or class_names.get(feature.replace("/", "."), ())


def _table(rows: Sequence[Sequence[str]], numbers: Sequence[int]) -> Iterator[str]:
    """Align a table with a heading. Columns `numbers` are right-aligned, empty columns are left out."""
    columns = [column for column in range(len(rows[0])) if any(row[column] for row in rows[1:])]
    left = [position for position, column in enumerate(columns) if column not in numbers]
    lines = tabular.aligned([[row[column] for column in columns] for row in rows], left)
    yield from (f"  {line}".rstrip() for line in lines)


def _span(values: Sequence[float]) -> str:
    """Return the smallest and the largest number as text, or "" if there are no numbers."""
    if not values:
        return ""
    low, high = (f"{bound:.4g}" if isinstance(bound, float) else f"{bound:,}" for bound in (min(values), max(values)))
    return low if low == high else f"{low}..{high}"


def _short(value: Any) -> str:
    """Return a value as a short text."""
    if isinstance(value, str):
        return _quoted(_cut(value, _SHOWN_CHARACTERS))
    if isinstance(value, bytes):
        return repr(value[:_SHOWN_BYTES]) + "…" * (len(value) > _SHOWN_BYTES)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _quoted(value: str | list[str]) -> str:
    """Return a Python literal in double quotes."""
    return json.dumps(value, ensure_ascii=False)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def define_flags() -> None:
    flags.DEFINE_integer(
        "records",
        ShowConfig.records,
        "Number of records to examine: the command shows the values and decodes the images of this number of records."
        " It always counts all records.",
    )
    usage.define_path("grid", ShowConfig.grid, "PNG file to write. It shows the first images with their labels.")


def main(argv: Sequence[str]) -> None:
    if len(argv) != 2:
        raise UserError(
            f"{len(argv) - 1} arguments were given. Give one TFRecord file, one directory or one URL, for example:"
            " python -m tfrecord_tools.show out"
        )
    show(command.from_flags(ShowConfig, path=argv[1]))


if __name__ == "__main__":
    define_flags()
    command.run(main)
