"""Make a dataset of this tool from TFRecords that somebody else wrote.

    python -m tfrecord_tools.adopt --records='flowers/tfrecords-jpeg-224x224/*/*.tfrec' --out=out

reads every record once, verifies checksum, keys, label and image, and writes out/ with the index, the metadata and
links to the files, which stay where they are. Every trainer and reader then takes out/. With --rewrite, the records are
written anew as convert would write them: labels that are text, one-hot or floats become classes, raw pixels become PNG,
and compressed files can be read.
"""

from __future__ import annotations

import dataclasses
import glob
import itertools
import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

from tfrecord_tools.base import command, files, tabular, usage, words, workers
from tfrecord_tools.base.progress import Progress
from tfrecord_tools.conversion.plan_config import PlanConfig
from tfrecord_tools.conversion.rejected import listed
from tfrecord_tools.conversion.workspace import Workspace, check_out, fresh
from tfrecord_tools.errors import UserError, named, refusal
from tfrecord_tools.foreign import classes, example_parser, forms, guess_keys, indexing, tfrecord_files
from tfrecord_tools.foreign.forms import Form
from tfrecord_tools.foreign.indexing import Found, Job, Rewriting, Shard, refuse
from tfrecord_tools.images.preparation import VERIFY, ImageConfig
from tfrecord_tools.layout import dataset_files, digest, index, metadata
from tfrecord_tools.layout.dataset_files import ConvertJson, shard_name
from tfrecord_tools.layout.schema import OURS, Keys
from tfrecord_tools.layout.split_names import SPLITS, split_named

if TYPE_CHECKING:
    import pyarrow as pa

_SAMPLE_RECORDS, _SAMPLE_FILES = 64, 16  # From which the features are guessed.
_TABLE_ROWS = 20  # Classes on the screen.
_INFLATE = {
    "GZIP": "gzip -dc < {} > {}",
    "ZLIB": "python -c 'import sys, zlib; sys.stdout.buffer.write(zlib.decompress(sys.stdin.buffer.read()))' < {} > {}",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdoptConfig:
    """Which files are adopted, and what is known about them.

    Attributes:
        records: A directory of TFRecord files, or a shell pattern, `**` included; names of files and directories say
            the splits.
        split: `name=pattern` for each split, instead of `records`.
        out: The directory to write.
        image_key: The feature of the image. None: it is found by its name and content.
        label_key: The feature of the label. None: it is found by its name and content.
        label_offset: The label of the first class. None: 1 if no label is 0 and some are 1, else 0.
        classes: Class names in the order of the labels, or a text file with one per line. None: those that
            TensorFlow Datasets left beside the records, or that the records hold, or the labels themselves.
        label_encoding: Character encoding of labels that are text.
        pixel_order: Order of raw pixels: "hwc" is pixel by pixel, "chw" is plane by plane. None: as the stated shape
            says, else "hwc".
        rewrite: Write the records anew, as `convert` would, instead of linking to the files.
        verify: "full" decodes every image, "header" only looks at its header.
        max_bad: Largest share of records that may be left out, in 0..1; splits without labels are not counted.
        overwrite: Replace an existing dataset at `out` when the new one is complete.
        workers: Number of processes; never changes the output. None: one per processor.
    """

    records: str = ""
    split: Sequence[str] = ()
    out: str = "out"
    image_key: str | None = None
    label_key: str | None = None
    label_offset: int | None = None
    classes: Sequence[str] | None = None
    label_encoding: str = "utf-8"
    pixel_order: str | None = None
    rewrite: bool = False
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
        if self.label_offset is not None and self.label_offset < 0 and not self.rewrite:
            raise UserError(
                f"--label_offset={self.label_offset}: the label of the first class is expected, at least 0. Add"
                " --rewrite if labels are negative."
            )
        if self.pixel_order not in (None, *guess_keys.PIXEL_ORDERS):
            raise UserError(
                f"--pixel_order={self.pixel_order}: one of {', '.join(guess_keys.PIXEL_ORDERS)} is expected."
            )
        try:
            b"a".decode(self.label_encoding, "replace")
        except (LookupError, UnicodeError) as error:
            raise UserError(
                f"--label_encoding={self.label_encoding}: not an encoding that Python knows. Examples: utf-8, latin-1,"
                " cp1252, gbk, shift_jis."
            ) from error
        if not 0 <= self.max_bad <= 1:
            raise UserError(f"--max_bad={self.max_bad}: a share between 0 and 1 is expected.")
        workers.check_count(self.workers)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Adoption:
    """The files that are read, and how.

    Attributes:
        config: What the user decided.
        shards: The files.
        form: How their records hold image and label.
        notes: What the user should know; grows.
    """

    config: AdoptConfig
    shards: Sequence[Shard]
    form: Form
    notes: list[str]


Adopted = Sequence[tuple[Job, Found]]


def adopt(config: AdoptConfig, log: Callable[[str], object] = print) -> ConvertJson:
    """Adopt TFRecords, in the memory of one file's rows in each process, and in the end of 200 bytes per record.

    Args:
        config: Which files, and how.
        log: Takes each line of the report.

    Returns:
        The contents of `out/convert.json`.

    Raises:
        UserError: Anything that the user can mend; `out` is then as it was before.
    """
    out = Path(config.out)
    check_out(out, config.overwrite, lambda: _files(config, []))  # Before the files are looked through.
    adoption = _plan(config)
    keys, what = adoption.form.keys, "raw pixels" if adoption.form.pixels else "image"
    log(f"{what} in {keys.image!r}, label in {keys.label!r}, " + (f"path in {keys.path!r}" if keys.path else "no path"))
    try:
        with fresh(out, lambda: check_out(out, config.overwrite)) as space:
            lines = (_rewrite if config.rewrite else _link)(space, adoption)
    except OSError as error:
        raise UserError(f"{refusal(error)}. Nothing was written; mend the cause and try again.") from error
    for line in lines:
        log(line)
    return dataset_files.read(out)


def _plan(config: AdoptConfig) -> _Adoption:
    """Find the files, and how their records hold image and label."""
    notes: list[str] = []
    shards = _shards(_files(config, notes), config)
    form = _form(shards, config)
    if not form.plain and not config.rewrite:
        raise UserError(f"{shards[0].path}: {_why_not_plain(form)}")
    if form.pixels:
        notes.append(_pixel_note(form.pixels))
    return _Adoption(config=config, shards=shards, form=form, notes=notes)


def _link(space: Workspace, adoption: _Adoption) -> list[str]:
    """Make the dataset of links to the files; return the lines of the report."""
    adopted = _labeled(adoption, _map("adopt", indexing.scan, _jobs(space, adoption), adoption.config))
    _check_rejected(adopted, adoption.config)
    table = _classes(adopted, adoption)
    links = [files.link(job.shard.path.resolve(), space.data / job.shard.name, os.symlink) for job, _ in adopted]
    if copied := links.count(False):
        adoption.notes.append(f"{words.number(copied, 'file')} copied, since the file system has no symbolic links")
    keys = dataclasses.replace(adoption.form.keys, label_offset=table.offset)
    return _describe(space, adoption, adopted, table, keys)


def _rewrite(space: Workspace, adoption: _Adoption) -> list[str]:
    """Make the dataset of records that are written anew; return the lines of the report."""
    config = adoption.config
    jobs = _jobs(space, adoption)
    labeled = _labeled(adoption, _map("labels", indexing.labels, jobs, config))
    _check_rejected(labeled, config)
    table = _classes(labeled, adoption)
    again = [Rewriting(**vars(job), target=space.data / job.shard.name, labels=table.labels) for job, _ in labeled]
    adopted = _map("rewrite", indexing.rewrite, again, config)
    _check_rejected(adopted, config)
    return _describe(space, adoption, adopted, table, OURS)


def _jobs(space: Workspace, adoption: _Adoption) -> list[Job]:
    parts = (space.index / f"{number:07d}.parquet" for number in itertools.count())
    return [
        Job(shard=shard, form=adoption.form, part=part, verify=adoption.config.verify)
        for shard, part in zip(adoption.shards, parts)
    ]


def _map(what: str, function: Callable[[Any], Found], jobs: Sequence[Job], config: AdoptConfig) -> Adopted:
    found = []
    with workers.pool(config.workers) as pool, Progress(what, None, "records") as progress:
        for one in pool.map(function, jobs):
            found.append(one)
            progress(one.records)
    return list(zip(jobs, found))


def _labeled(adoption: _Adoption, found: Adopted) -> Adopted:
    """Leave out the splits of which no record has a label, with a note."""
    kept = []
    for split in dict.fromkeys(job.shard.split for job, _ in found):
        of_split = [(job, one) for job, one in found if job.shard.split == split]
        records = sum(one.records for _, one in of_split)
        if records and records == sum(one.unlabeled for _, one in of_split):
            why = of_split[0][1].rejected[0].reason if of_split[0][1].rejected else "no label"
            adoption.notes.append(
                f"{split} is left out: none of its {words.number(records, 'record')} in"
                f" {words.number(len(of_split), 'file')} has a label ({why})"
            )
        else:
            kept += of_split
    if not sum(one.records for _, one in kept):
        read = words.number(len(found), "file")
        raise UserError(
            f"{adoption.shards[0].path}: no record in {read} can be used: {'; '.join(adoption.notes) or 'no record'}."
            " Pass the feature of the label with --label_key, or other files."
        )
    return kept


def _describe(space: Workspace, adoption: _Adoption, adopted: Adopted, table: classes.Classes, keys: Keys) -> list[str]:
    """Write index and metadata; return the lines of the report."""
    counts = {job.shard.split: np.zeros(len(table.names), np.int64) for job, _ in adopted}

    def final(number: int, rows: pa.Table) -> pa.Table:
        return _with_final_labels(rows, keys.label_offset, counts[adopted[number][0].shard.split])

    index_path = space.data / index.FILE_NAME
    index.join_parts([job.part for job, _ in adopted], index_path, final)
    name = _name(adoption.shards[0].path)
    settings = {"adopted": True, "name": name}
    if adoption.config.rewrite:
        settings |= {"rewritten": True, **ImageConfig().image_settings()}
    rejected = [r for _, one in adopted for r in one.rejected]
    of = Counter(job.shard.split for job, _ in adopted)
    by_split = {split: [one for job, one in adopted if job.shard.split == split] for split in counts}
    described = metadata.Description(
        name=name,
        class_names=table.names,
        config=settings,
        digest=digest.digest_of_index(settings, table.names, rejected, of, index.read(index_path, digest.DIGESTED)),
        counts=counts,
        shards={split: np.array([one.shard_records for one in found]) for split, found in by_split.items()},
        split_bytes={split: sum(one.shard_bytes for one in found) for split, found in by_split.items()},
        rejected=rejected,
        keys=keys,
    )
    metadata.write(space.data, described, {"images": {"verified": adoption.config.verify}})
    changes = sum((one.changes for _, one in adopted), Counter[str]())
    notes = [*adoption.notes, *table.notes, *_notes_on_images(changes, adoption.config.rewrite)]
    return list(_report(described, [*notes, *_notes_on_rejected(described, adoption.config)], space.out))


def _files(config: AdoptConfig, notes: list[str]) -> dict[str, list[Path]]:
    """Split -> its files, none of them empty; splits in their order."""
    if config.records:
        paths = _matching("records", config.records, notes)
        found = guess_keys.splits(paths)
        if list(found) == ["train"] and guess_keys.split_of(paths[0]) is None:
            which = f"all {len(paths):,} are" if len(paths) > 1 else "it is"
            notes.append(f"no file is named by a split: {which} of train (--split=NAME=PATTERN)")
    else:
        found = {}
        for one in config.split:
            name, _, pattern = one.partition("=")
            split = split_named(name)
            if split is None or not pattern:
                raise UserError(f"--split={one}: NAME=PATTERN is expected, NAME one of {', '.join(SPLITS)}.")
            found.setdefault(split, []).extend(_matching("split", pattern, notes))
    resolved = Counter(path.resolve() for paths in found.values() for path in paths)
    twice = next((path for path, count in resolved.items() if count > 1), None)
    if twice is not None:
        raise UserError(f"{twice}: is matched twice. Give each file once, in one split.")
    for paths in found.values():
        for group in tfrecord_files.grouped(paths, refuse):
            if group.missing > 0:
                missing = words.number(group.missing, "file is", "files are")
                notes.append(f"{group.name}: {missing} missing, as the names of the others say")
    return {split: found[split] for split in SPLITS if split in found}


def _matching(flag: str, pattern: str, notes: list[str]) -> list[Path]:
    """The TFRecord files of a directory, or that match a pattern; sorted, without empty ones."""
    if Path(pattern).is_dir():
        groups = tfrecord_files.find(Path(pattern), refuse, below=True)
        paths = sorted(path for group in groups for path in group.paths)
    else:
        paths = sorted(Path(name) for name in glob.glob(pattern, recursive=True) if not os.path.isdir(name))
    if not paths:
        raise UserError(f"--{flag}={pattern}: no file matches. A directory, or a pattern in quotes, is expected.")
    empty = [str(path) for path in paths if not path.stat().st_size]
    if len(empty) == len(paths):
        which = "the file is" if len(paths) == 1 else f"all {len(paths):,} files are"
        raise UserError(
            f"--{flag}={pattern}: there is no record: {which} empty ({named(empty, 3)}), as a program that was stopped"
            " leaves them. Write the records again, or name other files."
        )
    if empty:
        notes.append(f"{len(empty):,} of {len(paths):,} files are empty and left out: {named(empty, 3)}")
    return [path for path in paths if path.stat().st_size]


def _shards(files: Mapping[str, Sequence[Path]], config: AdoptConfig) -> list[Shard]:
    paths = [path for some in files.values() for path in some]
    name, top = _name(paths[0]), os.path.commonpath([path.absolute().parent for path in paths])
    return [
        Shard(
            path=path,
            compression=_compression(path, config),
            title=Path(os.path.relpath(path.absolute(), top)).as_posix(),
            split=split,
            number=number,
            name=shard_name(name, split, number, len(some)),
        )
        for split, some in files.items()
        for number, path in enumerate(some)
    ]


def _name(path: Path) -> str:
    """The name of the dataset, after the directory of its first file."""
    return dataset_files.dataset_name(guess_keys.dataset_name(path))


def _compression(path: Path, config: AdoptConfig) -> str:
    kind = tfrecord_files.compression(path)
    if kind and not config.rewrite:
        unpack = _INFLATE[kind].format(shlex.quote(str(path)), shlex.quote(f"{path}.unpacked"))
        raise UserError(
            f"{path}: compressed as a whole ({kind}), so that no record in it can be read alone. Add --rewrite to write"
            f" the records anew, uncompressed, or unpack such files first: {unpack}"
        )
    return kind


def _form(shards: Sequence[Shard], config: AdoptConfig) -> Form:
    """How the records hold image and label, by the first records of some files of each split."""
    samples, others = [], Counter[str]()
    splits = Counter(shard.split for shard in shards)
    chosen = [shard for shard in shards if shard.number < max(1, _SAMPLE_FILES // len(splits))]
    for shard in chosen:
        records = tfrecord_files.read(shard.path, shard.compression, refuse)
        for data in itertools.islice(records, max(1, _SAMPLE_RECORDS // len(chosen))):
            example = example_parser.parse(data)
            if example is not None:
                samples.append(example)
            else:
                others["tf.train.SequenceExample" if example_parser.parse_sequence(data) else ""] += 1
    if not samples and not others:
        raise UserError(f"{config.records or ' '.join(config.split)}: there is no record in these files.")
    first = shards[0].path
    if not samples:
        are = f"; they are {kind}, a series of values each" if (kind := others.most_common(1)[0][0]) else ""
        raise UserError(
            f"{first}: its records are no tf.train.Example{are}. See what they are with python -m tfrecord_tools.show"
            f" {first}."
        )
    where = f"{first}, first {words.number(len(samples), 'record')}"
    form = guess_keys.form(
        samples, config.image_key, config.label_key, where, config.pixel_order, config.label_encoding
    )
    if config.label_offset is not None and config.label_offset < 0:
        form = dataclasses.replace(form, unlabeled=None)
    return indexing.for_rewriting(form) if config.rewrite else form


def _why_not_plain(form: Form) -> str:
    """Why readers cannot use the records as they are, and what to do."""
    label = {
        forms.TEXT: "is text",
        forms.ONE_HOT: f"is one-hot, a 1 among {form.length:,} values",
        forms.NUMBER: "is a float",
    }
    why = [f"the label in {form.keys.label!r} {label[form.label]}"] if form.label in label else []
    why += [f"{form.keys.image!r} holds raw pixels"] * (form.pixels is not None)
    return (
        f"{' and '.join(why)}. Records can be used as they are if they hold an encoded image and one whole number. Add"
        " --rewrite to write such records anew: labels become classes, raw pixels become PNG images."
    )


def _pixel_note(pixels: forms.Pixels) -> str:
    if pixels.shape:
        size = f"the size in {pixels.shape!r}"
    elif pixels.height:
        size = f"the size in {', '.join(map(repr, filter(None, (pixels.height, pixels.width, pixels.channels))))}"
    else:
        size = "no size stated, so that they are taken for squares"
    order = "channels, height, width" if pixels.planes else "height, width, channels"
    scale = f"; values of 0..1 are multiplied by {pixels.scale}" if pixels.scale != 1 else ""
    return f"raw pixels become PNG images: {size}, in the order {order} (--pixel_order){scale}"


def _classes(adopted: Adopted, adoption: _Adoption) -> classes.Classes:
    counts = sum((one.labels for _, one in adopted), Counter[forms.Label]())
    if not counts:
        raise UserError(f"{adoption.shards[0].path} and the other files hold no record that can be used.")
    texts: dict[forms.Label, str] = {}
    for _, one in adopted:
        texts = one.texts | texts

    def where(label: forms.Label) -> str:
        path, number = next((job.shard.path, one.labels[label]) for job, one in adopted if label in one.labels)
        return f"{path}: {words.number(number, 'record')}"

    given = _given_names(adoption)
    return classes.table(counts, texts, adoption.form, given, adoption.config.label_offset, where)


def _given_names(adoption: _Adoption) -> tuple[str, ...] | None:
    """The names that the user gave, or that TensorFlow Datasets left beside the records."""
    given = adoption.config.classes
    if given is None:
        path = adoption.shards[0].path.resolve().parent / metadata.labels_file(adoption.form.keys)
        return _lines(path) if path.is_file() and adoption.form.label != forms.TEXT else None
    if len(given) == 1:
        path = Path(files.expand_user(given[0], "--classes="))
        if not path.is_file():
            raise UserError(
                f"--classes={path}: there is no such file. Names are expected, separated by commas, or a text file with"
                " one a line."
            )
        return _lines(path)
    return tuple(given)


def _lines(path: Path) -> tuple[str, ...]:
    try:
        return tuple(path.read_text("utf-8").removesuffix("\n").split("\n"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: class names in UTF-8, one per line, are expected: {error}.") from error


def _with_final_labels(table: pa.Table, offset: int, counts: np.ndarray) -> pa.Table:
    """Replace the stored labels of a part by those of classes; add to `counts`, i64[classes]."""
    import pyarrow as pa

    stored = table.column("label").to_numpy()
    used = stored != index.LEFT_OUT
    labels = np.where(used, stored - offset, index.LEFT_OUT)
    counts += np.bincount(labels[used], minlength=len(counts))
    return table.set_column(table.schema.get_field_index("label"), "label", pa.array(labels, pa.int64()))


def _check_rejected(adopted: Adopted, config: AdoptConfig) -> None:
    rejected = [r for _, one in adopted for r in one.rejected]
    total = sum(one.records for _, one in adopted)
    if len(rejected) > config.max_bad * total:
        shown = "".join(f"\n  {r.path}: {r.reason}" for r in rejected[:3])
        negative = any(r.reason == forms.NO_LABEL for r in rejected)
        a_class = f" If {forms.UNLABELED} is a class, add --label_offset={forms.UNLABELED} --rewrite." * negative
        raise UserError(
            f"{len(rejected):,} of {total:,} records cannot be used, more than --max_bad={config.max_bad:g} allows:"
            f"{shown}\nAre --image_key and --label_key right? Leave out such files, with --records or --split, or allow"
            f" more with --max_bad.{a_class}"
        )


def _notes_on_images(changes: Mapping[str, int], rewritten: bool) -> Iterator[str]:
    turned, converted = changes.get("turned", 0), changes.get("converted", 0)
    which = "CMYK, 16 bits, transparent, GIF, BMP, TIFF or WebP"
    if rewritten:
        if turned:
            yield f"turned upright by their EXIF orientation: {words.number(turned, 'image')}"
        if converted:
            yield f"encoded anew: {words.number(converted, 'image')} ({which})"
        return
    if turned:
        images = words.number(turned, "image has", "images have")
        yield f"{images} an EXIF orientation, which TensorFlow's decoders ignore; --rewrite turns them"
    if converted:
        images = words.number(converted, "image is one that", "images are such as")
        yield f"{images} `convert` would encode anew: {which}; --rewrite does so"


def _notes_on_rejected(described: metadata.Description, config: AdoptConfig) -> Iterator[str]:
    if described.rejected and not config.rewrite:
        yield (
            f"{words.number(len(described.rejected), 'record')} left out, but still in the files, where readers without"
            " the index meet them; --rewrite writes files without them"
        )


def _report(described: metadata.Description, notes: Sequence[str], out: Path) -> Iterator[str]:
    names = described.class_names
    yield f"{len(names):,} classes, the first one, {names[0]!r}, is label {described.keys.label_offset}"
    yield from _class_table(described)
    yield from (f"  note: {note}" for note in notes)
    yield from listed(described.rejected)
    total, left_out = sum(int(counts.sum()) for counts in described.counts.values()), len(described.rejected)
    yield f"{out}/: {total:,} records, {left_out:,} left out (rejected.csv), digest {described.digest[:12]}"


def _class_table(described: metadata.Description) -> Iterator[str]:
    counts, names = described.counts, described.class_names
    rows = [["label", "class", *counts]]
    for label, name in enumerate(names[:_TABLE_ROWS]):
        rows.append([str(label), name, *(f"{row[label]:,}" for row in counts.values())])
    if len(names) > _TABLE_ROWS:
        rest = (f"{row[_TABLE_ROWS:].sum():,}" for row in counts.values())
        rows.append(["…", f"{len(names) - _TABLE_ROWS:,} more classes", *rest])
    rows.append(["", "all", *(f"{row.sum():,}" for row in counts.values())])
    rows.append(["", "files", *(f"{len(described.shards[split]):,}" for split in counts)])
    yield from (f"  {line}" for line in tabular.aligned(rows, left=(1,)))


def define_flags() -> None:
    default = {field.name: field.default for field in dataclasses.fields(AdoptConfig)}
    usage.define_path("records", default["records"], "Directory of TFRecords, or a shell pattern in quotes.")
    usage.define_named_paths("split", "NAME=PATTERN, once for each split, instead of --records.")
    usage.define_path("out", default["out"], "The directory to write.")
    flags.DEFINE_string("image_key", None, "Feature of the image. Default: found by name and content.")
    flags.DEFINE_string("label_key", None, "Feature of the label. Default: found by name and content.")
    flags.DEFINE_integer("label_offset", None, "Label of the first class. Default: 1 if labels count from 1, else 0.")
    flags.DEFINE_list("classes", None, "Class names in label order, or a file with one per line.")
    flags.DEFINE_string("label_encoding", default["label_encoding"], "Character encoding of labels that are text.")
    flags.DEFINE_enum(
        "pixel_order",
        None,
        guess_keys.PIXEL_ORDERS,
        "Order of raw pixels: hwc is pixel by pixel, chw is plane by plane. Default: as a stated shape says, else hwc.",
    )
    flags.DEFINE_bool(
        "rewrite",
        default["rewrite"],
        "Write the records anew instead of linking to the files: labels that are text, one-hot or floats become"
        " classes, raw pixels become PNG, compressed files can be read, and images are stored as convert stores them.",
    )
    flags.DEFINE_enum("verify", default["verify"], VERIFY, "Decode every image, or look at its header.")
    flags.DEFINE_float("max_bad", default["max_bad"], "Largest share of records that may be left out.")
    flags.DEFINE_bool("overwrite", default["overwrite"], "Replace an existing dataset when the new one is complete.")
    flags.DEFINE_integer("workers", None, "Processes; never changes the output. Default: one per processor.")


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    adopt(command.from_flags(AdoptConfig))


if __name__ == "__main__":
    define_flags()
    command.run(main, "interrupted: nothing was written")
