"""Report what any TFRecord holds, and print code that reads it.

    python -m tfrecord_tools.show FILE_OR_DIRECTORY [--grid=out.png] [--records=1000]

prints the files with their records and bytes, the features with types, lengths and some values, the names of the
classes where they are known, and Python code that reads it all; --grid draws the first images with their labels.
All records are read, their checksums are verified, and types and numbers of values are those of all records, in the
memory of the largest one. Of --records of them, values are listed and images are decoded. TensorFlow is not needed.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import glob
import itertools
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from tfrecord_tools.base import command, tabular, usage, words
from tfrecord_tools.base.files import atomic
from tfrecord_tools.errors import UserError
from tfrecord_tools.foreign import example_parser, tfrecord_files
from tfrecord_tools.foreign.contents import FEATURES, LISTS, OTHER, SEQUENCE, Contents, FileFacts, are_images
from tfrecord_tools.foreign.example_parser import Feature, Seen
from tfrecord_tools.foreign.tfrecord_files import Group

ClassNames = Mapping[str, Sequence[str]]  # Feature -> name by label.
_WIDTH = 100  # Of a line that can be cut, in characters.
_SHOWN_FILES, _SHOWN_VALUES, _SHOWN_DAMAGE = 8, 4, 10
_SHOWN_CHARACTERS, _SHOWN_BYTES = 24, 8  # Of a value.
_ACROSS, _MAX_PICTURES = 6, 24  # Of the contact sheet.
_CELL, _GAP, _TEXT = 160, 14, 15  # Pixels.


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShowConfig:
    """What to look at.

    Attributes:
        path: A TFRecord file, or a directory of such files.
        records: Number of records whose values are listed and whose images are decoded: equally many of each file, its
            first ones. Types and numbers of values are those of all records.
        grid: The PNG file to write with the first images. None: no such file.
    """

    path: str
    records: int = 1000
    grid: str | None = None

    def __post_init__(self) -> None:
        if self.records < 1:
            raise UserError(f"--records={self.records}: at least 1.")
        if self.grid is not None and not self.grid.lower().endswith(".png"):
            raise UserError(f"--grid={self.grid}: the name of a PNG file is expected, such as grid.png.")


def show(config: ShowConfig, log: Callable[[str], object] = print) -> None:
    """Reports what is in `config.path`.

    Args:
        config: What to look at.
        log: Takes each line of the report.

    Raises:
        UserError: It is no TFRecord; or, when all that can be read is reported: some of it is damaged, or there is
            no image for `grid`.
    """
    path = Path(config.path)
    damage: list[str] = []
    contents = [Contents(group=group) for group in tfrecord_files.find(path, damage.append)]
    class_names = _class_names(path if path.is_dir() else path.parent)
    pictures: list[tuple[Image.Image, str]] = []
    for example in _read(contents, config.records, damage.append):
        if config.grid and len(pictures) < _MAX_PICTURES:
            pictures.extend(_pictures(example, class_names))
    for line in itertools.chain(_files(path, contents), _features(contents, class_names), _code(contents)):
        log(line)
    if config.grid and pictures:
        title = f"{path}: the first {words.number(len(pictures), 'image')}"
        _save(_contact_sheet(title, pictures), config.grid)
        log(f"\n{config.grid}: {words.number(len(pictures), 'image')}")
    if damage:
        more = [f"and {len(damage) - _SHOWN_DAMAGE:,} more"] if len(damage) > _SHOWN_DAMAGE else []
        raise UserError(
            "\n  ".join([f"{path} is damaged:", *damage[:_SHOWN_DAMAGE], *more])
            + "\nAll that can be read is shown above. Copy it again from where it is sound, or write it again."
        )
    if config.grid and not pictures:
        raise UserError(f"--grid={config.grid}: no image in the records looked at. Leave it out, or raise --records.")


def _read(contents: Sequence[Contents], records: int, damage: Callable[[str], object]) -> Iterator[dict[str, Feature]]:
    """Read all records of all files into `contents`; yield the features of those looked at, `records` in all."""
    files = [(one, path) for one in contents for path in one.group.paths]
    for i, (one, path) in enumerate(tqdm(files, "read", unit=" files", delay=1, leave=False, disable=None)):
        share = records * (i + 1) // len(files) - records * i // len(files)
        count = 0
        for count, data in enumerate(tfrecord_files.read(path, one.group.compression, damage), 1):
            if count <= share:
                yield one.look(data)
            else:
                one.count(data)
        one.files.append(FileFacts(count, path.stat().st_size))


def _class_names(directory: Path) -> ClassNames:
    """Reads the files in which TensorFlow Datasets keeps class names: label.labels.txt for the feature label."""
    ending = ".labels.txt"
    paths = sorted(directory.glob(f"*{ending}"))
    return {
        path.name.removesuffix(ending): path.read_text("utf-8", "replace").removesuffix("\n").split("\n")
        for path in paths
    }


def _files(path: Path, contents: Sequence[Contents]) -> Iterator[str]:
    """The table of files: a line a group; below it its files or, if they are many, their range."""
    files = [facts for one in contents for facts in one.files]
    records, size = map(sum, zip(*files))
    yield f"{path}: {words.number(records, 'record')} in {words.number(len(files), 'file')}, {size:,} bytes"
    rows = [["files", "records", "bytes", "compression"]]
    for one in contents:
        group, columns = one.group, list(zip(*one.files))
        missing = f"  ({group.missing:,} missing)" if group.missing > 0 and path.is_dir() else ""
        rows.append([group.name + missing, *(f"{sum(column):,}" for column in columns), group.compression or "none"])
        if 1 < len(group.paths) <= _SHOWN_FILES:
            rows += [[f"  {p.name}", f"{f.records:,}", f"{f.bytes:,}", ""] for p, f in zip(group.paths, one.files)]
        elif len(group.paths) > 1:
            rows.append([f"  each of {len(group.paths):,} files", *map(_span, columns), ""])
    yield from ("", *_table(rows, numbers=(1, 2)))


def _features(contents: Sequence[Contents], class_names: ClassNames) -> Iterator[str]:
    """The table of features, and the names of classes."""
    kinds = sum((one.kinds for one in contents), Counter[str]())
    if not kinds:
        return
    found = [f"{count:,} {kind}" if len(kinds) > 1 else kind for kind, count in kinds.most_common()]
    looked = sum(one.looked for one in contents)
    some = "" if looked == kinds.total() else f"; values are those of {looked:,}"
    yield from ("", f"{words.number(kinds.total(), 'record')}: {', '.join(found)}{some}")
    keys = sorted({key for one in contents for key in one.columns})
    rows = [["feature", "type", "steps", "length", "missing in", "values"]]
    for key in keys:
        columns = [one.columns[key] for one in contents if key in one.columns]
        missing = sum(one.parsed for one in contents) - sum(column.records for column in columns)
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
            named = ", ".join(f"{label} {text}" for label, text in enumerate(names))
            yield from ("", _cut(f"{len(names):,} classes of {key.name}: {named}", _WIDTH))


def _values(kind: str, seen: Sequence[Seen]) -> str:
    """A few words on the values of a feature."""
    if not seen:
        return ""
    if are_images(seen):
        return _images(seen)
    values = list(dict.fromkeys(value for s in seen for value in s.values))
    span, nans = _span([bound for s in seen for bound in s.bounds]), sum(s.nans for s in seen)
    parts = [f"{span} bytes" if kind == "bytes" else span] * bool(values) + [f"{nans:,} NaN"] * (nans > 0)
    if kind != "float" and len(values) > 1 and all(s.complete for s in seen):
        parts.append(f"{len(values):,} distinct")
    few = values[:_SHOWN_VALUES] if kind == "bytes" or len(values) > _SHOWN_VALUES else sorted(values)
    listed = ", ".join(map(_short, few)) + ", …" * (len(few) < len(values))
    return ", ".join(parts) + f": {listed}" * (kind == "bytes" or len(values) > 1)


def _images(seen: Sequence[Seen]) -> str:
    images = [image for s in seen for image in s.images]
    sizes = [image.size for image in images if image.size]
    others = sum(s.length for s in seen) - len(images)
    parts = [f"{count:,} {kind}" for kind, count in Counter(image.type for image in images).most_common()]
    parts += [f"{others:,} no images"] * (others > 0)
    parts += ["all decode" if len(sizes) == len(images) else f"{len(sizes):,} decode"]
    parts += [" x ".join(map(_span, zip(*sizes))) + " px"] * bool(sizes)  # Width x height.
    return ", ".join(parts)


def _code(contents: Sequence[Contents]) -> Iterator[str]:
    """Python code that reads the largest group with TensorFlow; records as they are if not all have features."""
    main = max(contents, key=lambda one: (bool(one.kinds), sum(facts.records for facts in one.files)))
    group = main.group
    parsed = bool(_specifications(main)) and not main.kinds[OTHER]
    yield from ("", "To read them:", "", "import tensorflow as tf", "")
    if parsed:
        yield from _parser(main)
    pattern, paths = _pattern(group), _quoted([str(path) for path in group.paths])
    yield "files = " + (f"tf.data.Dataset.list_files({_quoted(pattern)}, shuffle=False)" if pattern else paths)
    same = (_specifications(main), group.compression)
    alike = [one.group.name for one in contents if (_specifications(one), one.group.compression) == same]
    if len(alike) > 1:
        yield f"# Likewise: {', '.join(name for name in alike if name != group.name)}"
    option = f', compression_type="{group.compression}"' if group.compression else ""
    mapped = ".map(parse)" if parsed else "  # Serialized, as they are."
    yield f"data = tf.data.TFRecordDataset(files{option}){mapped}"
    if parsed and not all(main.images().values()):
        yield f"# Leaves out images that do not decode; {main.looked:,} of {main.parsed:,} records were tried."
        yield "data = data.ignore_errors(log_warning=True)"


def _specifications(one: Contents) -> dict[str, dict[str, str]]:
    """Name in the code -> how `tf.io` reads the features of that part; without parts that have none."""
    parts = {"context" if one.kinds[SEQUENCE] else "features": FEATURES, "lists": LISTS}
    return {name: found for name, part in parts.items() if (found := one.specifications(part))}


def _parser(main: Contents) -> Iterator[str]:
    specifications = _specifications(main)
    for name, found in specifications.items():
        part = LISTS if name == "lists" else FEATURES
        others = sorted({key.name for key in main.columns if key.part == part} - found.keys())
        yield from (f"{name} = {{", *(f"    {_quoted(feature)}: {how}," for feature, how in found.items()))
        yield from (f"    # {_quoted(feature)} has several types." for feature in others)
        yield "}"
    yield from ("", "", "def parse(serialized):")
    if main.kinds[SEQUENCE]:
        arguments = {"context": "context_features=context", "lists": "sequence_features=lists"}
        given = ", ".join(arguments[name] for name in specifications)
        yield f"    example, steps = tf.io.parse_single_sequence_example(serialized, {given})"
    else:
        yield "    example = tf.io.parse_single_example(serialized, features)"
    for key in map(_quoted, main.images()):
        yield f"    example[{key}] = tf.io.decode_image(example[{key}], channels=3, expand_animations=False)"
    for key in map(_quoted, main.images(LISTS)):
        yield f"    # Encoded images: tf.io.decode_image(steps[{key}][0], channels=3, expand_animations=False)"
    yield "    return example, steps" if main.kinds[SEQUENCE] else "    return example"
    yield from ("", "")


def _pattern(group: Group) -> str | None:
    """What exactly the files of a group match, if they are several."""
    directory = group.paths[0].parent
    matching = sum(fnmatch.fnmatchcase(name, group.name) for name in os.listdir(directory))
    return os.path.join(glob.escape(str(directory)), group.name) if 1 < matching == len(group.paths) else None


def _pictures(example: Mapping[str, Feature], class_names: ClassNames) -> Iterator[tuple[Image.Image, str]]:
    """Yields the first image of an example, if it has one, and what its features named like a label hold."""
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
    """Draws images, at most `_CELL` pixels wide and high, with their labels below."""
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
    """Makes one line of a text and cuts it so that it is at most `pixels` wide."""
    text = _cut(" ".join(text.split()), pixels)
    while font.getlength(text) > pixels:
        text = text.removesuffix("…")[:-1] + "…"
    return text


def _save(sheet: Image.Image, path: str) -> None:
    try:
        with atomic(Path(path)) as file:
            sheet.save(file, "PNG")
    except OSError as error:
        raise UserError(f"--grid={path}: {error.strerror}. Give a file that can be written.") from error


def _names_of(feature: str, class_names: ClassNames) -> Sequence[str]:
    """TensorFlow Datasets writes `-` between a feature and one in it, `.` for a slash in a name."""
    return class_names.get(feature.replace("/", "-")) or class_names.get(feature.replace("/", "."), ())


def _table(rows: Sequence[Sequence[str]], numbers: Sequence[int]) -> Iterator[str]:
    """Aligns the columns, `numbers` to the right, under a heading; leaves out those that are empty below it."""
    kept = [column for column in range(len(rows[0])) if any(row[column] for row in rows[1:])]
    left = [place for place, column in enumerate(kept) if column not in numbers]
    lines = tabular.aligned([[row[column] for column in kept] for row in rows], left)
    yield from (f"  {line}".rstrip() for line in lines)


def _span(values: Sequence[float]) -> str:
    """The least and the greatest of some numbers; nothing of none."""
    if not values:
        return ""
    low, high = (f"{bound:.4g}" if isinstance(bound, float) else f"{bound:,}" for bound in (min(values), max(values)))
    return low if low == high else f"{low}..{high}"


def _short(value: Any) -> str:
    """A value in a list of some."""
    if isinstance(value, str):
        return _quoted(_cut(value, _SHOWN_CHARACTERS))
    if isinstance(value, bytes):
        return repr(value[:_SHOWN_BYTES]) + "…" * (len(value) > _SHOWN_BYTES)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _quoted(value: str | list[str]) -> str:
    """A literal of Python, in double quotes."""
    return json.dumps(value, ensure_ascii=False)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def define_flags() -> None:
    flags.DEFINE_integer(
        "records", ShowConfig.records, "Number of records whose values are listed and whose images are decoded."
    )
    usage.define_path("grid", ShowConfig.grid, "PNG file to write with the first images and their labels.")


def main(argv: Sequence[str]) -> None:
    if len(argv) != 2:
        raise UserError(
            f"{len(argv) - 1} arguments: one TFRecord file, or a directory of such, is expected,"
            " as in: python -m tfrecord_tools.show out"
        )
    show(command.from_flags(ShowConfig, path=argv[1]))


if __name__ == "__main__":
    define_flags()
    command.run(main)
