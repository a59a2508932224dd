"""Make a dataset of this tool from TFRecords that another program wrote.

    python -m tfrecord_tools.adopt --records='flowers/tfrecords-jpeg-224x224/*/*.tfrec' --out=out

This command reads every record once and verifies checksum, features, label and image. It writes out/ with an index,
metadata and links to the files, which stay where they are. All trainers and readers can use out/. With --rewrite, new
records are written as convert would write them. Only --rewrite accepts labels that are text, one-hot or floats, raw
pixels (they become PNG images) and compressed files.
"""

from __future__ import annotations

import dataclasses
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
from tfrecord_tools.foreign import classes, forms, guess_keys, indexing, samples, tfrecord_files
from tfrecord_tools.foreign.forms import Form
from tfrecord_tools.foreign.indexing import Found, Job, Rewriting, Shard
from tfrecord_tools.foreign.tfrecord_files import Damage
from tfrecord_tools.images.preparation import VERIFY, ImageConfig
from tfrecord_tools.layout import dataset_files, decisions, digest, index, metadata
from tfrecord_tools.layout.dataset_files import ConvertJson, Rejected, shard_name
from tfrecord_tools.layout.decisions import Decision, Decisions, Effect
from tfrecord_tools.layout.schema import OURS, Keys
from tfrecord_tools.layout.split_names import SPLITS, split_named

if TYPE_CHECKING:
    import pyarrow as pa

_TABLE_ROWS = 20  # Classes in the printed table.
_INFLATE = {
    "GZIP": "gzip -dc < {} > {}",
    "ZLIB": "python -c 'import sys, zlib; sys.stdout.buffer.write(zlib.decompress(sys.stdin.buffer.read()))' < {} > {}",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdoptConfig:
    """Settings of `adopt`.

    Attributes:
        records: A directory of TFRecord files, or a shell pattern, which may contain `**`. The splits follow from the
            names of files and directories.
        split: `name=pattern` for each split, instead of `records`.
        out: Directory to write.
        image_key: Feature that holds the image. None: the feature is found by its name and its values.
        label_key: Feature that holds the label. None: the feature is found by its name and its values.
        label_offset: Label of the first class. None: 1 if the smallest label is 1, else 0. If class 0 has a name, None
            means 0.
        classes: Class names in the order of the labels, or a text file with one name per line. None: use the
            file of names that TensorFlow Datasets wrote beside the records. If there is none, use the names in the
            records. If there are no names, each class is named after its label: "0", "1".
        label_encoding: Character encoding of labels that are text.
        pixel_order: Order of raw pixels: "hwc" is pixel by pixel, "chw" is plane by plane. None: the order of the
            stored shape, or "hwc" if no shape is stored.
        rewrite: Write new records, as `convert` would, instead of links to the files.
        decisions: A file of decisions about single images, or a directory of a dataset that has decisions (see
            `layout.decisions`). With `overwrite`, they are added to the decisions of the dataset at `out`. Without
            `rewrite`, they change the index, not the files.
        verify: "full" decodes every image; "header" reads only its header.
        max_bad: Largest share of records that may be left out, in 0..1. A split in which no record has a label is left
            out as a whole. The records in it do not count here.
        overwrite: Replace an existing dataset at `out` when the new one is complete.
        workers: Number of processes. The output does not depend on it. None: one per processor.
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
    decisions: str | None = None
    verify: str = "full"
    max_bad: float = PlanConfig.max_bad
    overwrite: bool = False
    workers: int | None = None

    def __post_init__(self) -> None:
        if not self.records and not self.split:
            raise UserError(
                "no records were given. Use --records=DIRECTORY_OR_PATTERN, or --split=train=PATTERN"
                " --split=validation=PATTERN."
            )
        if self.records and self.split:
            raise UserError("both --records and --split were given. Use one of them.")
        files.check_local("out", self.out, dataset=True)
        if self.verify not in VERIFY:
            raise UserError(f"--verify={self.verify}: must be one of {', '.join(VERIFY)}.")
        if self.label_offset is not None and self.label_offset < 0 and not self.rewrite:
            raise UserError(
                f"--label_offset={self.label_offset}: a negative number needs --rewrite. Add --rewrite, or give a"
                " number of at least 0."
            )
        if self.pixel_order not in (None, *guess_keys.PIXEL_ORDERS):
            raise UserError(f"--pixel_order={self.pixel_order}: must be one of {', '.join(guess_keys.PIXEL_ORDERS)}.")
        try:
            b"a".decode(self.label_encoding, "replace")
        except (LookupError, UnicodeError) as error:
            raise UserError(
                f"--label_encoding={self.label_encoding}: is not an encoding that Python knows. Examples: utf-8,"
                " latin-1, cp1252, gbk, shift_jis."
            ) from error
        if not 0 <= self.max_bad <= 1:
            raise UserError(f"--max_bad={self.max_bad}: must be a fraction from 0 to 1.")
        workers.check_count(self.workers)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Adoption:
    """The files to read, and how to read them.

    Attributes:
        config: All settings.
        shards: The files.
        form: How the records store image and label, for example as text or raw pixels.
        made: The decisions of the dataset that is replaced, and those in `config.decisions`.
        notes: Notes for the report. Each step may add some.
    """

    config: AdoptConfig
    shards: Sequence[Shard]
    form: Form
    made: Decisions
    notes: list[str]


Adopted = Sequence[tuple[Job, Found]]


def adopt(config: AdoptConfig, log: Callable[[str], object] = print) -> ConvertJson:
    """Make a dataset from TFRecords that another program wrote.

    Each process keeps the index rows of one file in memory. At the end, the main process needs 200 bytes of memory per
    record.

    Args:
        config: All settings.
        log: Called with each line of the report.

    Returns:
        The contents of `out/convert.json`.

    Raises:
        UserError: Anything that the user can fix. `out` is then unchanged.
    """
    try:
        lines = _adopt(config, log)
    except Damage as damage:
        raise damage.advised("Nothing was written. ") from damage
    for line in lines:
        log(line)
    return dataset_files.read(Path(config.out))


def _adopt(config: AdoptConfig, log: Callable[[str], object]) -> list[str]:
    """Write the dataset, and return the lines of the report."""
    out = Path(config.out)
    check_out(out, config.overwrite, lambda: _files(config, []))  # First, because reading takes long.
    adoption = _plan(config, out)
    keys, content = adoption.form.keys, "raw pixels" if adoption.form.pixels else "image"
    path_key = f"path in {keys.path!r}" if keys.path else "no path"
    log(f"{content} in {keys.image!r}, label in {keys.label!r}, {path_key}")
    try:
        with fresh(out, lambda: check_out(out, config.overwrite)) as workspace:
            return (_rewrite if config.rewrite else _link)(workspace, adoption)
    except OSError as error:
        raise UserError(
            f"{refusal(error)}. Nothing was written. Fix the cause and run the same command again."
        ) from error


def _plan(config: AdoptConfig, out: Path) -> _Adoption:
    """Find the decisions and the files, and how the records store image and label."""
    notes: list[str] = []
    given = decisions.read(config.decisions) if config.decisions else {}
    stored = decisions.of_dataset(out) if config.overwrite else {}
    made = decisions.combined(stored, [(f"--decisions={config.decisions}", given)])
    notes += made.notes(str(out))
    shards = _shards(_files(config, notes), config)
    form = _form(shards, config)
    if not form.plain and not config.rewrite:
        raise UserError(f"{shards[0].path}: {_why_not_plain(form)}")
    if form.pixels:
        notes.append(_pixel_note(form.pixels))
    return _Adoption(config=config, shards=shards, form=form, made=made, notes=notes)


def _link(workspace: Workspace, adoption: _Adoption) -> list[str]:
    """Make a dataset of links to the files, and return the lines of the report."""
    adopted = _labeled(adoption, _map("adopt", indexing.scan, _jobs(workspace, adoption), adoption.config))
    _check_rejected(adopted, adoption.config)
    table = _classes(adopted, adoption)
    links = [files.link(job.shard.path.resolve(), workspace.data / job.shard.name, os.symlink) for job, _ in adopted]
    if copied := links.count(False):
        copies = words.number(copied, "file was", "files were")
        adoption.notes.append(f"{copies} copied, because the file system has no symbolic links")
    keys = dataclasses.replace(adoption.form.keys, label_offset=table.offset)
    return _describe(workspace, adoption, adopted, table, keys)


def _rewrite(workspace: Workspace, adoption: _Adoption) -> list[str]:
    """Make a dataset of new records, and return the lines of the report."""
    config = adoption.config
    jobs = _jobs(workspace, adoption)
    labeled = _labeled(adoption, _map("labels", indexing.labels, jobs, config))
    _check_rejected(labeled, config)
    table = _classes(labeled, adoption)
    label_of = {name: label for label, name in enumerate(table.names)}
    rewriting = [
        Rewriting(
            **vars(job),
            target=workspace.data / job.shard.name,
            labels=table.labels,
            made=adoption.made,
            label_of=label_of,
        )
        for job, _ in labeled
    ]
    adopted = _map("rewrite", indexing.rewrite, rewriting, config)
    _check_rejected(adopted, config)
    return _describe(workspace, adoption, adopted, table, OURS)


def _jobs(workspace: Workspace, adoption: _Adoption) -> list[Job]:
    parts = (workspace.index / f"{number:07d}.parquet" for number in itertools.count())
    return [
        Job(shard=shard, form=adoption.form, part=part, verify=adoption.config.verify)
        for shard, part in zip(adoption.shards, parts)
    ]


def _map(step: str, function: Callable[[Any], Found], jobs: Sequence[Job], config: AdoptConfig) -> Adopted:
    results = []
    with workers.pool(config.workers) as pool, Progress(step, None, "records") as progress:
        for facts in pool.map(function, jobs):
            results.append(facts)
            progress(facts.records)
    return list(zip(jobs, results))


def _labeled(adoption: _Adoption, scanned: Adopted) -> Adopted:
    """Leave out the files of splits that have no labels, and add a note for each such split."""
    labeled = []
    for split in dict.fromkeys(job.shard.split for job, _ in scanned):
        of_split = [(job, facts) for job, facts in scanned if job.shard.split == split]
        records = sum(facts.records for _, facts in of_split)
        if records and records == sum(facts.unlabeled for _, facts in of_split):
            reason = of_split[0][1].rejected[0].reason if of_split[0][1].rejected else "no label"
            adoption.notes.append(
                f"{split} is left out: none of its {words.number(records, 'record')} in"
                f" {words.number(len(of_split), 'file')} has a label ({reason})"
            )
        else:
            labeled += of_split
    if not sum(facts.records for _, facts in labeled):
        read = words.number(len(scanned), "file")
        reason = f"{'. '.join(adoption.notes)}." if adoption.notes else "The files are empty."
        raise UserError(
            f"{adoption.shards[0].path}: no record in {read} can be used. {reason} Pass the feature (field) that holds"
            " the label as --label_key, or choose other files."
        )
    return labeled


def _describe(
    workspace: Workspace, adoption: _Adoption, adopted: Adopted, table: classes.Classes, keys: Keys
) -> list[str]:
    """Write index and metadata, and return the lines of the report."""
    counts = {job.shard.split: np.zeros(len(table.names), np.int64) for job, _ in adopted}
    decided = [pair for _, facts in adopted for pair in facts.decided]
    rejected = [r for _, facts in adopted for r in facts.rejected]

    def final(number: int, rows: pa.Table) -> pa.Table:
        rows = _with_final_labels(rows, keys.label_offset)
        if not adoption.config.rewrite:
            rows = _with_decisions(rows, adoption.made, table.names, decided, rejected)
        labels = rows.column("label").to_numpy()
        split = counts[adopted[number][0].shard.split]
        split += np.bincount(labels[labels != index.LEFT_OUT], minlength=len(split))
        return rows

    index_path = workspace.data / index.FILE_NAME
    index.join_parts([job.part for job, _ in adopted], index_path, final)
    name = _name(adoption.shards[0].path)
    settings = {"adopted": True, "name": name}
    if adoption.config.rewrite:
        settings |= {"rewritten": True, **ImageConfig().image_settings()}
    pairs = _kept_pairs(adoption.made, index_path)
    effect = decisions.effect(adoption.made, ((decision, table.names[label]) for decision, label in decided), pairs)
    source = adoption.config.records or " ".join(adoption.config.split)
    adoption.made.check_matched(effect.found, source)
    if not any(of_split.any() for of_split in counts.values()):
        origin = adoption.made.origin(decision for decision, _ in decided)
        raise UserError(f"{origin}: the decisions leave out every record of {source}. Correct the decisions.")
    shards = Counter(job.shard.split for job, _ in adopted)
    by_split = {split: [facts for job, facts in adopted if job.shard.split == split] for split in counts}
    described = metadata.Description(
        name=name,
        class_names=table.names,
        config=settings,
        digest=digest.digest_of_index(settings, table.names, rejected, shards, index.read(index_path, digest.DIGESTED)),
        counts=counts,
        shards={split: np.array([facts.shard_records for facts in of_split]) for split, of_split in by_split.items()},
        split_bytes={split: sum(facts.shard_bytes for facts in of_split) for split, of_split in by_split.items()},
        rejected=rejected,
        keys=keys,
    )
    metadata.write(workspace.data, described, {"images": {"verified": adoption.config.verify}, **effect.report()})
    changes = sum((facts.changes for _, facts in adopted), Counter[str]())
    notes = [*adoption.notes, *table.notes, *_notes_on_images(changes, adoption.config.rewrite), *effect.notes()]
    notes += _notes_on_classes(adoption.made, decided, described)
    notes += [*_notes_on_labels(effect, adoption.config), *_notes_on_rejected(described, adoption.config)]
    return list(_report(described, notes, workspace.out))


def _kept_pairs(made: Decisions, index_path: Path) -> list[Decision]:
    """Return the decisions about pairs with both images in the records."""
    if not any(one.twin_sha256 for one in made.in_effect.values()):
        return []  # Without pairs, the hashes need not be read again.
    hashes = index.hashes(index.read(index_path, ["source_sha256"]), "source_sha256")
    return [decision for *_, decision in decisions.pairs(made.in_effect, hashes)]


def _files(config: AdoptConfig, notes: list[str]) -> dict[str, list[Path]]:
    """Return split -> its files, without empty files, in the order of `SPLITS`."""
    if config.records:
        paths = tfrecord_files.matching("records", config.records, notes, tfrecord_files.refuse)
        by_split = guess_keys.splits(paths)
        if list(by_split) == ["train"] and guess_keys.split_of(paths[0]) is None:
            which = f"all {len(paths):,} files become" if len(paths) > 1 else "the file becomes"
            notes.append(
                f"no file name contains train, val, test or a similar word, so {which} the train split. To name the"
                " splits, use --split=NAME=PATTERN"
            )
    else:
        by_split = {}
        for option in config.split:
            name, _, pattern = option.partition("=")
            split = split_named(name)
            if split is None or not pattern:
                raise UserError(f"--split={option}: must be NAME=PATTERN, with NAME one of {', '.join(SPLITS)}.")
            by_split.setdefault(split, []).extend(
                tfrecord_files.matching("split", pattern, notes, tfrecord_files.refuse)
            )
    resolved = Counter(path.resolve() for paths in by_split.values() for path in paths)
    repeated = next((path for path, count in resolved.items() if count > 1), None)
    if repeated is not None:
        raise UserError(
            f"{repeated}: two patterns match this file. Each file must be in one split and match only one pattern."
        )
    for paths in by_split.values():
        for group in tfrecord_files.grouped(paths, tfrecord_files.refuse):
            if group.missing > 0:
                missing = words.number(group.missing, "file is", "files are")
                notes.append(
                    f"{group.name}: {missing} missing, according to the numbers in the names of the other files"
                )
    return {split: by_split[split] for split in SPLITS if split in by_split}


def _shards(files: Mapping[str, Sequence[Path]], config: AdoptConfig) -> list[Shard]:
    paths = [path for of_split in files.values() for path in of_split]
    name, top = _name(paths[0]), os.path.commonpath([path.absolute().parent for path in paths])
    return [
        Shard(
            path=path,
            compression=_compression(path, config),
            title=Path(os.path.relpath(path.absolute(), top)).as_posix(),
            split=split,
            number=number,
            name=shard_name(name, split, number, len(of_split)),
        )
        for split, of_split in files.items()
        for number, path in enumerate(of_split)
    ]


def _name(path: Path) -> str:
    """Return the name of the dataset, taken from the directory of its first file."""
    return dataset_files.dataset_name(guess_keys.dataset_name(path))


def _compression(path: Path, config: AdoptConfig) -> str:
    kind = tfrecord_files.compression(path)
    if kind and not config.rewrite:
        unpack = _INFLATE[kind].format(shlex.quote(str(path)), shlex.quote(f"{path}.unpacked"))
        raise UserError(
            f"{path}: the whole file is compressed ({kind}). Single records cannot be read from it. Add --rewrite to"
            f" write new, uncompressed records, or unpack such files first: {unpack}"
        )
    return kind


def _form(shards: Sequence[Shard], config: AdoptConfig) -> Form:
    """Guess how the records store image and label, from the first records of some files of each split."""
    splits = Counter(shard.split for shard in shards)
    chosen = [shard for shard in shards if shard.number < max(1, samples.FILES // len(splits))]
    origin = config.records or " ".join(config.split)
    parsed = samples.examples([(shard.path, shard.compression) for shard in chosen], origin, tfrecord_files.read_intact)
    where = f"{shards[0].path}, first {words.number(len(parsed), 'record')}"
    form = guess_keys.form(parsed, config.image_key, config.label_key, where, config.pixel_order, config.label_encoding)
    if config.label_offset is not None and config.label_offset < 0:
        form = dataclasses.replace(form, unlabeled=None)
    return indexing.for_rewriting(form) if config.rewrite else form


def _why_not_plain(form: Form) -> str:
    """Return why readers cannot use the records without --rewrite, and what to do."""
    label = {
        forms.TEXT: "is text",
        forms.ONE_HOT: f"is one-hot (a 1 among {form.length:,} values)",
        forms.NUMBER: "is a float",
    }
    problems = [f"the label in {form.keys.label!r} {label[form.label]}"] if form.label in label else []
    problems += [f"{form.keys.image!r} holds raw pixels"] * (form.pixels is not None)
    return (
        f"{', and '.join(problems)}. Without --rewrite, records must hold an encoded image and a label that is one"
        " whole number. Add --rewrite to write new records: labels become classes, raw pixels become PNG images."
    )


def _pixel_note(pixels: forms.Pixels) -> str:
    if pixels.shape:
        size = f"Their size is in {pixels.shape!r}."
    elif pixels.height:
        sides = map(repr, filter(None, (pixels.height, pixels.width, pixels.channels)))
        size = f"Their size is in {', '.join(sides)}."
    else:
        size = "No size is stored, so the pixels are read as square images."
    order = "channels, height, width" if pixels.planes else "height, width, channels"
    scale = f". Values of 0..1 are multiplied by {pixels.scale}" if pixels.scale != 1 else ""
    return f"raw pixels become PNG images. {size} Their order is {order} (change it with --pixel_order){scale}"


def _classes(adopted: Adopted, adoption: _Adoption) -> classes.Classes:
    counts, texts = Counter[forms.Label](), dict[forms.Label, str]()
    for _, facts in adopted:
        counts.update(facts.labels)
        for label, text in facts.texts.items():
            texts.setdefault(label, text)
    if not counts:
        raise UserError(
            f"{adoption.shards[0].path}: no record in any of the files can be used. Choose other files, or pass other"
            " features (fields of the records) as --image_key and --label_key."
        )

    def where(label: forms.Label) -> str:
        path, number = next((job.shard.path, facts.labels[label]) for job, facts in adopted if label in facts.labels)
        return f"{path}: {words.number(number, 'record')}"

    names = _given_names(adoption)
    return classes.table(counts, texts, adoption.form, names, adoption.config.label_offset, where)


def _given_names(adoption: _Adoption) -> tuple[str, ...] | None:
    """Return the class names in the settings, or in the metadata of TensorFlow Datasets, or None."""
    names = adoption.config.classes
    if names is None:
        path = adoption.shards[0].path.resolve().parent / metadata.labels_file(adoption.form.keys)
        return _lines(path) if path.is_file() and adoption.form.label != forms.TEXT else None
    if len(names) == 1:
        path = Path(files.expand_user(names[0], "--classes="))
        if not path.is_file():
            raise UserError(
                f"--classes={path}: the file does not exist. --classes must be class names, separated by commas, or a"
                " text file with one name per line."
            )
        return _lines(path)
    return tuple(names)


def _lines(path: Path) -> tuple[str, ...]:
    try:
        return tuple(path.read_text("utf-8-sig").removesuffix("\n").split("\n"))
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: is not UTF-8 text: {error}. --classes must be a UTF-8 text file with one class name per line."
        ) from error


def _with_final_labels(table: pa.Table, offset: int) -> pa.Table:
    """Replace stored labels by class numbers."""
    stored = table.column("label").to_numpy()
    return _with_labels(table, np.where(stored != index.LEFT_OUT, stored - offset, index.LEFT_OUT))


def _with_decisions(
    table: pa.Table,
    made: Decisions,
    names: Sequence[str],
    matched: list[tuple[Decision, int]],
    rejected: list[Rejected],
) -> pa.Table:
    """Replace the labels of rows of the index by those of decisions.

    Args:
        table: The rows, with final labels.
        made: The decisions.
        names: Class names in the order of the labels.
        matched: Gets each decision about one of the rows, and the old label of the row.
        rejected: Gets an entry for each row that is left out.

    Returns:
        The rows. Those that are left out have the label `index.LEFT_OUT`.

    Raises:
        UserError: The label of a decision about one of the rows is not a class.
    """
    labels, label_of = table.column("label").to_numpy().copy(), {name: label for label, name in enumerate(names)}
    for row, decision in decisions.matches(made.in_effect, index.hashes(table, "source_sha256")):
        if labels[row] == index.LEFT_OUT:
            continue
        matched.append((decision, int(labels[row])))
        labels[row] = made.new_label(decision, label_of, labels[row])
        if labels[row] == index.LEFT_OUT:
            path = table.column("path")[row].as_py()
            rejected.append(Rejected(path=path, reason=decisions.DROPPED, done="dropped"))
    return _with_labels(table, labels)


def _with_labels(table: pa.Table, labels: np.ndarray) -> pa.Table:
    import pyarrow as pa

    return table.set_column(table.schema.get_field_index("label"), "label", pa.array(labels, pa.int64()))


def _check_rejected(adopted: Adopted, config: AdoptConfig) -> None:
    rejected = [r for _, facts in adopted for r in facts.rejected if r.done != "dropped"]
    total = sum(facts.records for _, facts in adopted)
    if len(rejected) > config.max_bad * total:
        shown = "".join(f"\n  {r.path}: {r.reason}" for r in rejected[:3])
        negative = any(r.reason == forms.NO_LABEL for r in rejected)
        advice = f" If {forms.UNLABELED} is a class, add --label_offset={forms.UNLABELED} --rewrite." * negative
        raise UserError(
            f"{len(rejected):,} of {total:,} records cannot be used. This is more than --max_bad={config.max_bad:g}"
            f" allows:{shown}\nCheck --image_key and --label_key. Or choose files without these records with --records"
            f" or --split. Or pass a larger --max_bad.{advice}"
        )


def _notes_on_images(changes: Mapping[str, int], rewritten: bool) -> Iterator[str]:
    turned, converted = changes.get("turned", 0), changes.get("converted", 0)
    which = "CMYK, 16 bits, transparent, GIF, BMP, TIFF or WebP"
    if rewritten:
        if turned:
            images = words.number(turned, "image was", "images were")
            yield f"{images} turned upright, according to the EXIF orientation"
        if converted:
            yield f"{words.number(converted, 'image was', 'images were')} encoded again ({which})"
        return
    if turned:
        images = words.number(turned, "image has", "images have")
        yield f"{images} an EXIF orientation, which TensorFlow's decoders ignore. --rewrite turns images upright"
    if converted:
        images = words.number(converted, "image")
        yield f"convert would encode {images} again ({which}). --rewrite does that"


def _notes_on_classes(
    made: Decisions, decided: Sequence[tuple[Decision, int]], described: metadata.Description
) -> Iterator[str]:
    """Yield a note for each file of decisions that empties classes of the train split."""
    label_of = {name: label for label, name in enumerate(described.class_names)}
    empty = set(np.flatnonzero(described.counts.get("train", np.ones(0)) == 0).tolist())
    taken = [(one, old) for one, old in decided if old in empty and one.label_in(label_of, old) != old]
    by_origin: dict[str, list[tuple[Decision, int]]] = {}
    for one, old in taken:
        by_origin.setdefault(made.origin([one]), []).append((one, old))
    for origin, of_origin in by_origin.items():
        names = [repr(described.class_names[label]) for label in sorted({old for _, old in of_origin})]
        which = f"the class {names[0]} has" if len(names) == 1 else f"{len(names):,} classes ({named(names)}) have"
        reason = decisions.taking([one for one, _ in of_origin], "its" if len(names) == 1 else "their")
        yield (
            f"{origin}: {which} no record in the train split, because {reason}. Correct these decisions, or take them"
            " back with the decision 'none'"
        )


def _notes_on_labels(effect: Effect, config: AdoptConfig) -> Iterator[str]:
    if effect.relabeled and not config.rewrite:
        records = words.number(sum(effect.relabeled.values()), "record has", "records have")
        yield (
            f"{records} a new label in the index, but still the old label in the files. Other programs read the old"
            " label. --rewrite writes files with the new labels"
        )


def _notes_on_rejected(described: metadata.Description, config: AdoptConfig) -> Iterator[str]:
    if described.rejected and not config.rewrite:
        yield (
            f"{words.number(len(described.rejected), 'record is', 'records are')} left out of the index, but still in"
            " the files. Other programs read these records too. --rewrite writes files without them"
        )


def _report(described: metadata.Description, notes: Sequence[str], out: Path) -> Iterator[str]:
    names = described.class_names
    yield f"{words.number(len(names), 'class')}; label {described.keys.label_offset} is {names[0]!r}"
    yield from _class_table(described)
    yield from (f"  note: {note}" for note in notes)
    yield from listed(described.rejected)
    total, left_out = sum(int(counts.sum()) for counts in described.counts.values()), len(described.rejected)
    records = words.number(total, "record")
    yield (
        f"{out}/: {records}, {left_out:,} left out (rejected.csv), digest (checksum of the dataset)"
        f" {described.digest[:12]}"
    )


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
    usage.define_path(
        "records",
        default["records"],
        "Directory with TFRecord files, or a pattern in quotes, such as 'data/*.tfrecord'. Pass either --records or"
        " --split.",
    )
    usage.define_named_paths(
        "split",
        "NAME=PATTERN: the TFRecord files of one split, for example 'train=data/train-*'. Repeat the flag for each"
        " split. Pass either --split or --records.",
    )
    usage.define_path("out", default["out"], "Directory to write.")
    usage.define_path("decisions", None, decisions.HELP)
    flags.DEFINE_string(
        "image_key",
        None,
        "Name of the feature (field) that holds the image in each record, for example image/encoded. Default: the"
        " command finds the feature by its name and its values.",
    )
    flags.DEFINE_string(
        "label_key",
        None,
        "Name of the feature (field) that holds the label in each record, for example image/class/label. Default: the"
        " command finds the feature by its name and its values.",
    )
    flags.DEFINE_integer(
        "label_offset",
        None,
        "Label of the first class in the records, usually 0 or 1. Default: 0. If the smallest label in the records is"
        " 1, and no class name belongs to label 0, the default is 1.",
    )
    flags.DEFINE_list(
        "classes",
        None,
        "Class names in the order of their labels, or a text file with one name per line. Default: the names in a file"
        " of TensorFlow Datasets beside the records, or the names in the records. If neither has names, the label of"
        " each class is used as its name: 0, 1.",
    )
    flags.DEFINE_string("label_encoding", default["label_encoding"], "Character encoding of labels that are text.")
    flags.DEFINE_enum(
        "pixel_order",
        None,
        guess_keys.PIXEL_ORDERS,
        "Order of the values in raw pixels. hwc: the red, green and blue values of one pixel come together; chw: all"
        " red values come first, then all green values, then all blue values. Default: the order of the image shape"
        " that is stored in the record. If the record has no shape, the default is hwc.",
    )
    flags.DEFINE_bool(
        "rewrite",
        default["rewrite"],
        "Write new TFRecord files instead of links to the old files. With this flag, the old files may be compressed,"
        " and their labels may be text, one-hot or floats. Raw pixels become PNG images. All other images are stored"
        " in the same way as by tfrecord_tools.convert.",
    )
    flags.DEFINE_enum(
        "verify",
        default["verify"],
        VERIFY,
        "full: decode every image; header: check only the header of every image, which is faster.",
    )
    flags.DEFINE_float(
        "max_bad",
        default["max_bad"],
        "A fraction from 0 to 1. The command stops if a larger fraction of the records cannot be used.",
    )
    flags.DEFINE_bool("overwrite", default["overwrite"], "Replace an existing dataset when the new one is complete.")
    flags.DEFINE_integer(
        "workers",
        None,
        "Number of worker processes. The output does not depend on this number. Default: one process per processor.",
    )


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    adopt(command.from_flags(AdoptConfig))


if __name__ == "__main__":
    define_flags()
    command.run(main, "interrupted: nothing was written")
