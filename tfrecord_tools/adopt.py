"""Makes TFRecords that somebody else wrote a dataset of this tool, without writing them again.

    python -m tfrecord_tools.adopt --records='flowers/tfrecords-jpeg-224x224/*/*.tfrec' --out=out

reads every record once, proves checksum, keys, label and image, and writes out/ with the index, the metadata and links
to the files, which stay where they are. Every trainer and reader then takes out/. Compressed files cannot be adopted.
"""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import io
import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags
from PIL import Image

from tfrecord_tools import (
    command,
    examples,
    files,
    guess,
    images,
    index,
    metadata,
    page,
    plan,
    schema,
    tfrecord_files,
    usage,
    workers,
)
from tfrecord_tools.errors import UserError, refusal
from tfrecord_tools.images import VERIFY, BadImage, ImageConfig, Prepared
from tfrecord_tools.plan import PlanConfig, listed, shard_name
from tfrecord_tools.progress import Progress
from tfrecord_tools.schema import FRAME_BYTES, Keys
from tfrecord_tools.splits import SPLITS, split_named
from tfrecord_tools.stores import Rejected
from tfrecord_tools.workspace import Workspace, check_out, fresh

if TYPE_CHECKING:
    import pyarrow as pa

_UNLABELED = -1  # TensorFlow Datasets writes it where there is no label.
_MOST_CLASSES = 100_000  # A number above is no label.
_INFLATE = {
    "GZIP": "gzip -dc < {} > {}",
    "ZLIB": "python -c 'import sys, zlib; sys.stdout.buffer.write(zlib.decompress(sys.stdin.buffer.read()))' < {} > {}",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdoptConfig:
    """Which files are adopted, and what is known of them.

    Attributes:
        records: A directory of TFRecord files, or a pattern as of a shell, `**` included; their names say the splits.
        split: Instead, `name=pattern` for each split.
        out: The directory to write.
        image_key: The feature of the encoded image. None: it is found by its name and content.
        label_key: Likewise of the label.
        label_offset: The label of the first class. None: 1 if no label is 0 and some are 1, else 0.
        classes: Class names in the order of the labels, or a text file with one a line. None: those that
            TensorFlow Datasets left beside the records, or that the records hold, or the labels themselves.
        verify: "full" decodes every image, "header" only looks at its header.
        max_bad: Largest share of records that may be left out, in 0..1.
        overwrite: Replace an existing dataset at `out` when the new one is complete.
        workers: Number of processes; never changes the output. None: one a processor.
    """

    records: str = ""
    split: Sequence[str] = ()
    out: str = "out"
    image_key: str | None = None
    label_key: str | None = None
    label_offset: int | None = None
    classes: Sequence[str] | None = None
    verify: str = "full"
    max_bad: float = PlanConfig.max_bad
    overwrite: bool = False
    workers: int | None = None

    def __post_init__(self) -> None:
        if bool(self.records) == bool(self.split):
            raise UserError(
                "the records are missing, or given twice: either --records=DIRECTORY_OR_PATTERN, or"
                " --split=train=PATTERN --split=validation=PATTERN."
            )
        if self.verify not in VERIFY:
            raise UserError(f"--verify={self.verify}: one of {', '.join(VERIFY)} is expected.")
        if self.label_offset is not None and self.label_offset < 0:
            raise UserError(
                f"--label_offset={self.label_offset}: the label of the first class is expected, at least 0."
            )
        if not 0 <= self.max_bad <= 1:
            raise UserError(f"--max_bad={self.max_bad}: a share between 0 and 1 is expected.")
        workers.check_count(self.workers)


@dataclasses.dataclass(frozen=True)
class _Shard:
    """A file to be adopted, and the name of the link to it."""

    path: Path
    split: str
    number: int
    name: str


@dataclasses.dataclass(frozen=True)
class _Job:
    shard: _Shard
    part: Path
    keys: Keys
    text_key: str
    verify: str


@dataclasses.dataclass(frozen=True)
class _Scanned:
    """What was found in a file; its rows, with labels as they are stored, are in its part of the index.

    Attributes:
        records: All that are in it.
        bytes: Of their serialized examples.
        labels: Label -> records.
        texts: Label -> name of its class, if the records hold one.
        rejected: What cannot be used.
        changes: Of `images.CHANGES` -> how many images `convert` would have changed so.
    """

    records: int
    bytes: int
    labels: Counter[int]
    texts: dict[int, str]
    rejected: list[Rejected]
    changes: Counter[str]


def adopt(config: AdoptConfig, log: Callable[[str], object] = print) -> dict[str, Any]:
    """Adopts TFRecords, in the memory of one file's rows in each process, and in the end of 200 bytes a record.

    Args:
        config: Which.
        log: Takes each line of the report.

    Returns:
        The contents of `out/convert.json`.

    Raises:
        UserError: Anything that the user can mend; `out` is then as it was before.
    """
    out = Path(config.out)
    check_out(out, config.overwrite, lambda: _files(config, log))  # Before the files are looked through.
    files = _files(config, log)
    keys, text_key = _keys(files, config)
    shards = _shards(files)
    log(f"image in {keys.image!r}, label in {keys.label!r}, " + (f"path in {keys.path!r}" if keys.path else "no path"))
    try:
        with fresh(out, lambda: check_out(out, config.overwrite)) as space:
            parts = [space.index / f"{number:07d}.parquet" for number in range(len(shards))]
            jobs = [_Job(*pair, keys, text_key, config.verify) for pair in zip(shards, parts)]
            lines = _write(space, config, keys, shards, parts, _scan_all(jobs, config))
    except OSError as error:
        raise UserError(f"{refusal(error)}. Nothing was written; mend the cause and try again.") from error
    for line in lines:
        log(line)
    return metadata.read(out)


def _scan_all(jobs: Sequence[_Job], config: AdoptConfig) -> list[_Scanned]:
    scanned = []
    with workers.pool(config.workers) as pool, Progress("adopt", None) as progress:
        for one in pool.map(_scan, jobs):
            scanned.append(one)
            progress(one.records)
    return scanned


def _write(
    space: Workspace,
    config: AdoptConfig,
    keys: Keys,
    shards: Sequence[_Shard],
    parts: Sequence[Path],
    scanned: Sequence[_Scanned],
) -> list[str]:
    """Decides on classes, and writes index, links and metadata; returns the lines of the report."""
    labels = sum((one.labels for one in scanned), Counter[int]())
    rejected = [r for one in scanned for r in one.rejected]
    total = sum(one.records for one in scanned)
    _check_rejected(rejected, total, config.max_bad)
    class_names, keys = _classes(labels, scanned, shards, keys, config)
    counts = {shard.split: np.zeros(len(class_names), np.int64) for shard in shards}

    def final(number: int, table: pa.Table) -> pa.Table:
        return _with_final_labels(table, shards[number], keys, len(class_names), counts[shards[number].split])

    index_path = space.data / index.FILE_NAME
    index.join_parts(parts, index_path, final)
    copied = sum(not files.link(shard.path.resolve(), space.data / shard.name, os.symlink) for shard in shards)
    of = Counter(shard.split for shard in shards)
    name = plan.dataset_name(guess.dataset_name(shards[0].path))
    settings = {"adopted": True, "name": name}
    table = index.read(index_path, metadata.DIGESTED)
    described = metadata.Description(
        name=name,
        class_names=class_names,
        config=settings,
        digest=metadata.digest_of(settings, class_names, rejected, of, table),
        counts=counts,
        shards={split: np.array([s.records for s, t in zip(scanned, shards) if t.split == split]) for split in counts},
        split_bytes={split: sum(s.bytes for s, t in zip(scanned, shards) if t.split == split) for split in counts},
        rejected=rejected,
        keys=keys,
    )
    metadata.write(space.data, described, {"images": {"verified": config.verify}})
    note = (
        [f"  note: {page.number(copied, 'file')} copied, since the file system has no symbolic links"] if copied else []
    )
    return [*note, *_report(described, scanned, space.out)]


def _files(config: AdoptConfig, log: Callable[[str], object]) -> dict[str, list[Path]]:
    """Split -> its files, none empty or compressed; splits in their order."""
    if config.records:
        found = guess.splits(_matching("records", config.records))
        if list(found) == ["train"] and guess.split_of(found["train"][0]) is None:
            log(f"no file is named by a split: all {len(found['train']):,} are of train")
    else:
        found = {}
        for one in config.split:
            name, _, pattern = one.partition("=")
            split = split_named(name)
            if split is None or not pattern:
                raise UserError(f"--split={one}: NAME=PATTERN is expected, NAME one of {', '.join(SPLITS)}.")
            found.setdefault(split, []).extend(_matching("split", pattern))
    resolved = Counter(path.resolve() for paths in found.values() for path in paths)
    twice = next((path for path, count in resolved.items() if count > 1), None)
    if twice is not None:
        raise UserError(f"{twice}: is matched twice. Give each file once, in one split.")
    for paths in found.values():
        for group in tfrecord_files.grouped(paths, _refuse):
            if group.missing > 0:
                log(
                    f"note: {group.name}: {page.number(group.missing, 'file is', 'files are')} missing, as the"
                    f" names of the others say"
                )
    return {split: found[split] for split in SPLITS if split in found}


def _matching(flag: str, pattern: str) -> list[Path]:
    """The TFRecord files of a directory, or that match a pattern; sorted, without empty ones."""
    if Path(pattern).is_dir():
        groups = tfrecord_files.find(Path(pattern), _refuse)
        paths = sorted(path for group in groups for path in group.paths)
    else:
        paths = sorted(Path(name) for name in glob.glob(pattern, recursive=True) if not os.path.isdir(name))
    if not paths:
        raise UserError(f"--{flag}={pattern}: no file matches. A directory, or a pattern in quotes, is expected.")
    for path in paths:
        kind = tfrecord_files.compression(path)
        if kind:
            unpack = _INFLATE[kind].format(shlex.quote(str(path)), shlex.quote(f"{path}.unpacked"))
            raise UserError(
                f"{path}: compressed as a whole ({kind}), so that no record in it can be read alone."
                f" Unpack such files first: {unpack}"
            )
    return [path for path in paths if path.stat().st_size]


def _refuse(message: str) -> None:
    raise UserError(f"{message}. Copy the file again from where it is sound.")


def _keys(files: Mapping[str, Sequence[Path]], config: AdoptConfig) -> tuple[Keys, str]:
    """The keys, and that of the class's name, by the first record of the first file."""
    path = next((paths[0] for paths in files.values() if paths), None)
    first = next(tfrecord_files.read(path, "", _refuse), None) if path else None
    if path is None or first is None:
        raise UserError(f"{config.records or ' '.join(config.split)}: no record in these files.")
    example = examples.parse(first)
    if example is None:
        raise UserError(
            f"{path}: its records are no tf.train.Example. See what they are with python -m tfrecord_tools.show {path}."
        )
    where = f"{path}: the first record"
    return guess.keys(example, config.image_key, config.label_key, where), guess.text_key(example)


def _shards(files: Mapping[str, Sequence[Path]]) -> list[_Shard]:
    name = plan.dataset_name(guess.dataset_name(next(paths[0] for paths in files.values() if paths)))
    return [
        _Shard(path, split, number, shard_name(name, split, number, len(paths)))
        for split, paths in files.items()
        for number, path in enumerate(paths)
    ]


def _scan(job: _Job) -> _Scanned:
    """Reads a file; writes the rows of its part of the index, with the labels as they are stored."""
    columns: dict[str, list[Any]] = {name: [] for name in ("offset", "length", "label", "path", "sha256", "bytes")}
    columns |= {name: [] for name in ("type", "height", "width")}
    labels, texts, changes = Counter[int](), dict[int, str](), Counter[str]()
    rejected, offset = [], 0
    for number, data in enumerate(tfrecord_files.read(job.shard.path, "", _refuse)):
        record = _decoded(data, job, number, offset)
        path = record["path"] or index.place(job.shard.name, offset)
        label, kind, height, width, reason = record["label"], "", 0, 0, ""
        try:
            proven = _proven(record["image"], job.verify)
            kind, height, width = proven.source_type, proven.height, proven.width
            changes.update(proven.changes)
        except BadImage as error:
            reason = str(error)
        if label == _UNLABELED:
            reason = f"it has no label ({_UNLABELED})"
        if reason:
            rejected.append(Rejected(path=path, reason=reason))
            label = index.LEFT_OUT
        else:
            labels[label] += 1
            if job.text_key and label not in texts:
                texts[label] = _text(data, job.text_key)
        sha256 = hashlib.sha256(record["image"]).digest()
        row = (offset, len(data), label, path, sha256, len(record["image"]), kind, height, width)
        for column, value in zip(columns.values(), row):
            column.append(value)
        offset += len(data) + FRAME_BYTES
    count = len(columns["offset"])
    same = {"source_sha256": columns["sha256"], "source_type": columns["type"], "changes": [""] * count}
    constant = {"split": [job.shard.split] * count, "shard": [job.shard.number] * count, "group": [0] * count}
    index.write_part(job.part, constant | columns | same)
    return _Scanned(count, offset - count * FRAME_BYTES, labels, texts, rejected, changes)


def _decoded(data: bytes, job: _Job, number: int, offset: int) -> dict[str, Any]:
    try:
        return schema.decode_example(data, job.keys)
    except (KeyError, ValueError, IndexError) as error:
        found = examples.parse(data)
        there = f"it has {', '.join(found) or 'no features'}" if found is not None else "it is no tf.train.Example"
        raise UserError(
            f"{job.shard.path}: record {number:,} (the first is 0) at byte {offset:,} does not hold one image in"
            f" {job.keys.image!r} and one whole number in {job.keys.label!r}: {there}. Name others with --image_key and"
            " --label_key, or adopt the files that hold them, with --records or --split."
        ) from error


def _proven(data: bytes, verify: str) -> Prepared:
    """What `convert` would make of an image, but with the size in pixels that it has as it is."""
    prepared = images.prepare(data, ImageConfig(verify=verify))
    if prepared.source_type == "TIFF":
        raise BadImage("a TIFF image, which TensorFlow does not decode")
    if not prepared.changes:
        return prepared
    with images.as_bad_image(), Image.open(io.BytesIO(data)) as image:
        return dataclasses.replace(prepared, width=image.width, height=image.height)


def _text(data: bytes, key: str) -> str:
    feature = (examples.parse(data) or {}).get(key, examples.Feature("", []))
    text = feature.values[0].decode("utf-8", "replace") if feature.type == "bytes" and feature.values else ""
    return " ".join(text.split())


def _classes(
    labels: Counter[int], scanned: Sequence[_Scanned], shards: Sequence[_Shard], keys: Keys, config: AdoptConfig
) -> tuple[tuple[str, ...], Keys]:
    """Class names, and the keys with the label of the first of them."""
    if not labels:
        raise UserError(f"{shards[0].path} and the other files hold no record that can be used.")
    given = _given_names(keys, shards, config)
    twice = [name for name, times in Counter(given).items() if times > 1]
    if twice:
        raise UserError(f"the class name {twice[0]!r} is given twice. Tell the classes apart, with --classes.")
    offset = config.label_offset
    if offset is None:
        offset = guess.label_offset(labels, None if given is None else len(given))
    end = offset + (len(given) if given is not None else _MOST_CLASSES)
    outside = sorted(label for label in labels if not offset <= label < end)
    if outside:
        what = f"{_MOST_CLASSES:,} classes at most" if given is None else f"{page.number(len(given), 'class')}"
        number, shard = next((s.labels[outside[0]], t) for s, t in zip(scanned, shards) if outside[0] in s.labels)
        raise UserError(
            f"{shard.path}: {page.number(number, 'record')} with label {outside[0]:,} in {keys.label!r}; of {what},"
            f" counted from"
            f" {offset}, {offset} to {end - 1:,} are expected. Pass another --label_offset (the label of the first"
            " class), --classes or --label_key."
        )
    texts: dict[int, str] = {}
    for one in scanned:
        texts = one.texts | texts
    names = given if given is not None else guess.class_names(labels, texts, offset)
    return names, dataclasses.replace(keys, label_offset=offset)


def _given_names(keys: Keys, shards: Sequence[_Shard], config: AdoptConfig) -> tuple[str, ...] | None:
    """The names that the user gave, or that TensorFlow Datasets left beside the records."""
    if config.classes is None:
        path = shards[0].path.resolve().parent / metadata.labels_file(keys)
        return _lines(path) if path.is_file() else None
    if len(config.classes) == 1:
        path = Path(files.expand_user(config.classes[0], "--classes="))
        if not path.is_file():
            raise UserError(
                f"--classes={path}: there is no such file. Names are expected, separated by commas, or a text file with"
                " one a line."
            )
        return _lines(path)
    return tuple(config.classes)


def _lines(path: Path) -> tuple[str, ...]:
    return tuple(path.read_text("utf-8").removesuffix("\n").split("\n"))


def _with_final_labels(table: pa.Table, shard: _Shard, keys: Keys, classes: int, counts: np.ndarray) -> pa.Table:
    """Replaces the stored labels of a part by those of classes; adds to `counts`, i64[classes]."""
    import pyarrow as pa

    stored = table.column("label").to_numpy()
    used = stored != index.LEFT_OUT
    labels = np.where(used, stored - keys.label_offset, index.LEFT_OUT)
    counts += np.bincount(labels[used], minlength=classes)
    return table.set_column(table.schema.get_field_index("label"), "label", pa.array(labels, pa.int64()))


def _check_rejected(rejected: Sequence[Rejected], total: int, max_bad: float) -> None:
    if len(rejected) > max_bad * total:
        shown = "".join(f"\n  {r.path}: {r.reason}" for r in rejected[:3])
        raise UserError(
            f"{len(rejected):,} of {page.number(total, 'record')} cannot be used, more than --max_bad={max_bad:g}"
            f" allows:{shown}"
            "\nIs --image_key right? Leave out such files, with --records or --split, or allow more with --max_bad."
        )


def _report(described: metadata.Description, scanned: Sequence[_Scanned], out: Path) -> Iterator[str]:
    names = described.class_names
    yield f"{page.number(len(names), 'class')}, the first one, {names[0]!r}, is label {described.keys.label_offset}"
    for split, counts in described.counts.items():
        used = np.count_nonzero(counts)
        yield (
            f"  {split}: {page.number(int(counts.sum()), 'record')} of {page.number(int(used), 'class')} in"
            f" {page.number(len(described.shards[split]), 'file')}"
        )
    changes = sum((one.changes for one in scanned), Counter[str]())
    if changes["turned"]:
        yield (
            f"  note: {page.number(changes['turned'], 'image has', 'images have')} an EXIF orientation, which"
            f" TensorFlow's decoders ignore"
        )
    if changes["converted"]:
        which = "CMYK, 16 bits, transparent, GIF, BMP or WebP"
        yield (
            f"  note: {page.number(changes['converted'], 'image is one that', 'images are such as')} `convert`"
            f" would encode anew: {which}"
        )
    yield from listed(described.rejected)
    total, left_out = sum(int(counts.sum()) for counts in described.counts.values()), len(described.rejected)
    yield (
        f"{out}/: {page.number(total, 'record')}, {left_out:,} left out (rejected.csv), digest {described.digest[:12]}"
    )


def define_flags() -> None:
    default = {field.name: field.default for field in dataclasses.fields(AdoptConfig)}
    usage.define_path("records", default["records"], "Directory of TFRecords, or a pattern, in quotes.")
    usage.define_named_paths("split", "Instead of --records, NAME=PATTERN, once for each split.")
    usage.define_path("out", default["out"], "The directory to write.")
    flags.DEFINE_string("image_key", None, "Feature of the encoded image. Default: found by name and content.")
    flags.DEFINE_string("label_key", None, "Feature of the label. Default: likewise.")
    flags.DEFINE_integer("label_offset", None, "Label of the first class. Default: 1 if labels count from 1, else 0.")
    flags.DEFINE_list("classes", None, "Class names in label order, or a file with one a line.")
    flags.DEFINE_enum("verify", default["verify"], VERIFY, "Decode every image, or look at its header.")
    flags.DEFINE_float("max_bad", default["max_bad"], "Largest share of records that may be left out.")
    flags.DEFINE_bool("overwrite", default["overwrite"], "Replace an existing dataset when the new one is complete.")
    flags.DEFINE_integer("workers", None, "Processes; never changes the output. Default: one a processor.")


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    adopt(command.from_flags(AdoptConfig))


if __name__ == "__main__":
    define_flags()
    command.run(main, "interrupted: nothing was written")
