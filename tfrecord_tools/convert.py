"""Converts images into verified, indexed TFRecords.

python -m tfrecord_tools.convert --src=cat_dog_img writes out/ from cat_dog_img/train/cats/1.jpg
(split/class/image), cat_dog_img/cats/1.jpg (class/image; a validation split is then made) or cat.1.jpg (named by
class). --src may also be a zip or tar archive of these, a CSV or Parquet manifest, or a CSV of pixels.
Every image is proven sound; JPEG and PNG are stored byte for byte. A command that was killed continues when repeated.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from tfrecord_tools.base import command, files, tabular, usage, words, workers
from tfrecord_tools.base.progress import Progress
from tfrecord_tools.base.workers import Pool
from tfrecord_tools.card import card_page, statistics
from tfrecord_tools.conversion import beam_engine, notes, source_flags, update, workspace
from tfrecord_tools.conversion.plan import (
    DUPLICATES,
    Plan,
    PlanConfig,
    Shard,
    check_rejected,
    dataset_name,
    divided,
    listed,
    plan,
)
from tfrecord_tools.conversion.survey import Facts, survey
from tfrecord_tools.conversion.workspace import Workspace
from tfrecord_tools.conversion.write_shards import shard_job, write_shard
from tfrecord_tools.errors import UserError, refusal
from tfrecord_tools.images.preparation import ON_BAD_IMAGE, STORES, VERIFY, ImageConfig
from tfrecord_tools.images.recode import RESIZE_MODES
from tfrecord_tools.layout import index, metadata
from tfrecord_tools.layout.schema import FRAME_BYTES
from tfrecord_tools.sources import stores
from tfrecord_tools.sources.scan import ScanConfig, Sources, scan
from tfrecord_tools.sources.stores import Rejected

ENGINES = ("local", "beam")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvertConfig(ScanConfig, ImageConfig, PlanConfig):
    """All settings of a conversion: what to read, what to store of it, how to divide it, and how it is carried out.

    Attributes:
        out: The directory to write.
        engine: Who does the work, "local" processes or a runner of "beam"; never changes the output.
        workers: Number of local processes; likewise. None: one a processor.
        beam_options: Beam's own, as a command line. Empty: its DirectRunner, in this process.
        overwrite: Replace an existing dataset at `out` when the new one is complete.
        update: Bring the dataset at `out` up to date with `src`: what is new goes into new shards, and only shards
            with a removed or changed image are written again. Its settings are taken over.
        restart: Discard what an unfinished conversion left.
        dry_run: Stop after the class table; nothing is written.
        explicit: With `update`, names of settings that must be those of then although they have their defaults now.
    """

    out: str = "out"
    engine: str = "local"
    workers: int | None = None
    beam_options: str = ""
    overwrite: bool = False
    update: bool = False
    restart: bool = False
    dry_run: bool = False
    explicit: Collection[str] = ()

    def __post_init__(self) -> None:
        files.expand_fields(self, "src", "out", "manifest", "relabel")
        for part in (ScanConfig, ImageConfig, PlanConfig):
            part.__post_init__(self)
        workers.check_count(self.workers)
        self._check_engine()
        if files.is_url(self.out):
            raise UserError(
                f"--out={self.out}: a dataset grows in a local directory, which one rename makes whole. Convert into"
                f" one, then copy it: python -m tfrecord_tools.transfer DIRECTORY {self.out}"
            )
        if self.update and self.overwrite:
            raise UserError("--update and --overwrite exclude each other: the one keeps what is there.")

    def _check_engine(self) -> None:
        if self.engine not in ENGINES:
            raise UserError(f"--engine={self.engine}: one of {', '.join(ENGINES)} is expected.")
        if self.engine == "local" and self.beam_options:
            raise UserError(f"--beam_options={self.beam_options}: nothing but --engine=beam takes them. Pass it too.")
        if self.engine == "beam" and self.workers is not None:
            raise UserError(
                f"--workers={self.workers}: Beam's runner decides. Say it in --beam_options, such as"
                " --direct_running_mode=multi_processing --direct_num_workers=2."
            )
        if self.engine == "beam" and self.dry_run:
            raise UserError("--engine=beam: --dry_run makes its plan on this machine. Leave --engine out.")

    def output_settings(self) -> dict[str, Any]:
        """The settings that the output depends on, for its record and its digest."""
        return self.scan_settings() | self.image_settings() | self.plan_settings()

    def request(self) -> dict[str, Any]:
        """What two commands must share for the second to continue the first."""
        return self.output_settings() | {
            "src": _real(self.src),
            "update": self.update,
            **({"relabel": _sha256(self.relabel)} if self.relabel else {}),
        }


def convert(config: ConvertConfig, log: Callable[[str], object] = print) -> dict[str, Any]:
    """Converts `config.src` into `config.out`, continuing what an interrupted run began.

    The output is a function of the sources and the plan's settings: the same bytes whatever the number of
    workers, the interruptions and the place. A call from a script with more than one worker needs the
    usual `if __name__ == "__main__":`, as all of Python's process pools do.

    Args:
        config: What to do.
        log: Takes each line of the report.

    Returns:
        The contents of `out/convert.json`: digest, counts, class table (with `dry_run`: of what it would be).

    Raises:
        UserError: Anything that the user can mend; `out` is then as it was before.
    """
    if config.engine == "beam":  # Its workers may be in another directory.
        source = config.src if files.is_url(config.src) else os.path.abspath(config.src)
        config = dataclasses.replace(config, src=source, out=os.path.abspath(config.out))
    out = Path(config.out)
    if out.is_symlink() or out.name in ("", ".."):
        out = out.resolve()  # What the link names is replaced, not the link; and "." is no name to rename to.
    if not files.is_url(config.src):
        workspace.check_apart(out, Path(config.src))
    try:
        if config.dry_run:
            with _local_pool(config) as pool:
                decided, _, _ = _Conversion(config, out, pool, log).decide()
                return metadata.summary(metadata.describe(decided))
        if workspace.partial_of(out).exists():
            with workspace.open_workspace(out) as space:
                beam_engine.end_earlier(space.beam, log)
                if space.finish_commit() == config.request():
                    log(f"{out}/: the interrupted commit of this conversion is finished.")
                    return metadata.read(out)
        workspace.check_out(out, config.overwrite or config.update, lambda: stores.check_exists(config.src))
        with workspace.open_workspace(out) as space:
            # Again: a conversion that we waited for may have made it.
            workspace.check_out(out, config.overwrite or config.update)
            return _convert_in(space, config, log)
    except OSError as error:
        raise UserError(
            f"{refusal(error)}. What is done is kept in {workspace.partial_of(out)}/."
            " Mend the cause and run the same command again: it continues."
        ) from error


def _convert_in(space: Workspace, config: ConvertConfig, log: Callable[[str], object]) -> dict[str, Any]:
    try:
        if config.restart:
            space.clear()
        with _pool(config, space) as pool:
            return _Conversion(config, space.out, pool, log).run(space)
    except UserError as error:
        if not space.survey.exists():
            raise
        kept = f"What is done is kept in {space.root}/ for the next try; delete it to give up."
        raise UserError(f"{error}\n{kept}") from error


def _pool(config: ConvertConfig, space: Workspace) -> contextlib.AbstractContextManager[Pool]:
    if config.engine == "beam":
        return beam_engine.pool(config.beam_options, space.beam)
    return _local_pool(config)


def _local_pool(config: ConvertConfig) -> contextlib.AbstractContextManager[Pool]:
    return workers.pool(config.workers, threads=files.is_url(config.src))  # fsspec listens for answers in a thread.


class _Conversion:
    """The steps of one conversion, and what they have in common."""

    def __init__(self, config: ConvertConfig, out: Path, pool: Pool, log: Callable[[str], object]):
        self._base = update.read(out) if config.update else None
        if self._base is not None and self._base.relabelled and not config.relabel:
            raise UserError(
                f"--update: {out} was made with --relabel. Pass that file again, for its images would get the labels of"
                " the source back; or convert anew with --overwrite."
            )
        self._config = config if self._base is None else update.adopted(config, self._base, config.explicit)
        self._pool = pool
        self._log = log

    def run(self, space: Workspace) -> dict[str, Any]:
        """Everything from the scan to the commit; returns what `convert.json` says."""
        start = time.monotonic()
        if space.survey.exists() and any(space.survey.iterdir()):
            self._log(f"{space.root}/: what an interrupted conversion has done is taken over.")
        decided, sources, facts = self.decide(space.survey)
        if self._base is not None and decided.digest == self._base.digest:
            space.clear()
            self._log(f"{space.out}/: up to date, nothing is added, changed or removed.")
            return metadata.read(space.out)
        space.start_writing(decided.digest, {"src": _real(self._config.src)} | decided.config)
        index.join_parts(self._write(decided, sources, facts, space), space.data / index.FILE_NAME)
        self._describe(decided, sources, facts, space.data)
        if copied := sum(_is_copy(shard, space.data, decided.name) for shard in decided.shards):
            what = words.number(copied, "unchanged shard")
            self._log(f"  note: {what} copied, since the file system has no hard links")
        space.commit_data(self._config.request() | {"update": self._base is not None})
        self._log(_closing(decided, facts, space.out, time.monotonic() - start))
        return metadata.read(space.out)

    def decide(self, saved: Path | None = None) -> tuple[Plan, Sources, Facts]:
        """Scans, surveys and plans; prints the class table."""
        config, base = self._config, self._base
        sources = scan(config)
        sources = divided(sources, config)
        self._check_bad(sources, {})
        with Progress("survey", len(sources)) as progress:
            facts = survey(
                sources,
                self._pool,
                config,
                known=base.known(sources.paths) if base and base.verified in ("full", config.verify) else None,
                saved=saved,
                progress=progress,
                check=lambda reasons: self._check_bad(sources, reasons),
            )
        name = dataset_name(_stem(_real(config.src))) if base is None else base.config["name"]
        previous = None if base is None else base.previous
        decided = plan(sources, facts, config, name, config.output_settings(), previous)
        if config.store == "raw":
            _check_raw(decided, sources, facts, config)
        for line in _class_table(decided, sources, facts):
            self._log(line)
        return decided, sources, facts

    def _check_bad(self, sources: Sources, reasons: Mapping[int, str]) -> None:
        """Stops where more files are bad than is allowed."""
        config = self._config
        total = len(sources) + len(sources.rejected)
        allowed = 0 if config.on_bad_image == "fail" else config.max_bad * total
        if len(sources.rejected) + len(reasons) <= allowed:
            return
        bad = [*sources.rejected, *(Rejected(path=sources.paths[i], reason=r) for i, r in reasons.items())]
        if config.on_bad_image == "fail":
            raise UserError(f"{config.src}/{bad[0].path}: {bad[0].reason}. Remove it, or pass --on_bad_image=skip.")
        check_rejected(bad, total, config.max_bad)

    def _write(self, decided: Plan, sources: Sources, facts: Facts, space: Workspace) -> list[Path]:
        """Writes the shards that are not complete yet; returns the index parts of all, in order."""
        parts = [space.index / f"{number:07d}.parquet" for number in range(len(decided.shards))]
        missing = [number for number, part in enumerate(parts) if not part.exists()]
        _check_space(decided, missing, space)
        jobs = (
            shard_job(
                shard,
                decided,
                sources,
                facts,
                self._config,
                space.data / shard.file_name(decided.name),
                parts[number],
                previous=space.out if self._base is not None else None,
            )
            for number in missing
            for shard in [decided.shards[number]]
        )
        done = len(decided.numbers) - sum(decided.shards[n].stop - decided.shards[n].start for n in missing)
        with Progress("write", len(decided.numbers)) as progress:
            progress.skip(done)
            for count in self._pool.map(write_shard, jobs):
                progress(count)
        return parts

    def _describe(self, decided: Plan, sources: Sources, facts: Facts, data: Path) -> None:
        """Writes the metadata and the report card."""
        # A few hundred images at most are looked at: not worth the seconds that a pipeline takes to start.
        pool = self._pool if self._config.engine == "local" else Pool(None, 1)
        noted = notes.of(decided, sources, facts)
        samples = statistics.sample(decided, sources, facts, data, pool, self._config, noted)
        found = statistics.describe(decided, sources, facts)
        found["notes"] = [note.as_json(sources) for note in noted]
        found["images"] |= {"colors": samples.colors, "verified": self._config.verify}
        if sources.relabelled:
            changes = ({"from": old, "to": new, "images": count} for (old, new), count in sources.relabelled.items())
            found["relabelled"] = sorted(changes, key=lambda change: (change["from"], change["to"]))
        metadata.write(data, metadata.describe(decided), found)
        card_page.write(data, metadata.read(data), samples.thumbnails, samples.pictures)


def _is_copy(shard: Shard, data: Path, name: str) -> bool:
    return bool(shard.link) and (data / shard.file_name(name)).stat().st_nlink == 1


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def _real(src: str) -> str:
    """The one name of a source that has many."""
    return src.rstrip("/") if files.is_url(src) else os.path.realpath(src)


def _stem(path: str) -> str:
    """A source's name without the ending of an archive or a table."""
    name = os.path.basename(path)
    return os.path.splitext(name)[0] if os.path.isfile(path) else name


def _check_raw(decided: Plan, sources: Sources, facts: Facts, config: ConvertConfig) -> None:
    """Raw pixels are of one size: an image that is smaller and not to be enlarged cannot be among them."""
    table = facts.table[decided.numbers]
    small = np.flatnonzero((table["height"] != config.resize) | (table["width"] != config.resize))
    if len(small):
        first = sources.paths[int(decided.numbers[small[0]])]
        raise UserError(
            f"--store=raw: {words.number(len(small), 'image is', 'images are')} smaller than"
            f" --resize={config.resize}, such as {first}"
            f" ({table['width'][small[0]]} pixels). Pass --upscale to enlarge them, or a smaller --resize."
        )


def _check_space(decided: Plan, missing: Sequence[int], space: Workspace) -> None:
    shards = [decided.shards[number] for number in missing if not decided.shards[number].link]
    needed = sum(int(decided.lengths[s.start : s.stop].sum()) + FRAME_BYTES * (s.stop - s.start) for s in shards)
    free = shutil.disk_usage(space.root).free
    if needed > free:
        raise UserError(
            f"{space.root}: {words.size(needed, 'MB')} are needed and {words.size(free, 'MB')} are free."
            " Free some space and run the same command again, or choose an --out elsewhere."
        )


def _closing(decided: Plan, facts: Facts, out: Path, seconds: float) -> str:
    linked = sum(bool(shard.link) for shard in decided.shards)
    kept = f" ({words.number(linked, 'as it was', 'as they were')})" if linked else ""
    counts = Counter(r.done for r in decided.rejected)
    rejected = ", ".join(f"{count:,} {done}" for done, count in sorted(counts.items()))
    changed = np.count_nonzero(facts.table["changes"][decided.numbers])
    return (
        f"{out}/: {words.number(len(decided.numbers), 'record')} in"
        f" {words.number(len(decided.shards), 'shard')}{kept}, {words.size(decided.bytes, 'MB')},"
        f" digest {decided.digest[:12]}; {rejected or '0 skipped'} (rejected.csv), {changed:,} changed"
        f" ({metadata.CHANGED}); card.html; {seconds:.1f} s"
    )


def _class_table(decided: Plan, sources: Sources, facts: Facts) -> Iterator[str]:
    counts = decided.counts()
    header = ["label", "class", *counts]
    rows = [
        [str(label), name, *(f"{row[label]:,}" for row in counts.values())]
        for label, name in enumerate(decided.class_names)
    ]
    totals = ["", "all", *(f"{row.sum():,}" for row in counts.values())]
    shards = ["", "shards", *(f"{sum(s.split == split for s in decided.shards):,}" for split in counts)]
    lines = [header, *rows, totals, shards]
    made = "splits of the source" if sources.has_splits else "automatic split"
    images = words.number(len(decided.numbers), "image")
    yield f"{sources.root}: {images}, {words.size(decided.bytes, 'MB')} to store, {made}"
    yield from (f"  {line}" for line in tabular.aligned(lines, left=(1,)))
    yield from (f"  note: {note.line()}" for note in notes.of(decided, sources, facts))
    for name, count in sources.left_out.items():
        yield f"  left out, not in --classes: {name} ({words.number(count, 'file')})"
    yield from listed(decided.rejected)


def define_flags() -> None:
    default = {field.name: field.default for field in dataclasses.fields(ConvertConfig)}
    usage.define_path("src", None, "Directory, URL (s3://…), zip or tar of images, manifest, CSV or Parquet of images.")
    usage.define_path("out", default["out"], "Directory to write.")
    source_flags.define_source_flags()
    usage.define_path("relabel", None, "CSV or Parquet with path and label: images that get other labels.")
    flags.DEFINE_integer("seed", default["seed"], "Decides split and order of the records.")
    flags.DEFINE_integer("shards", None, "Number of shards over all splits. Default: by bytes.")
    flags.DEFINE_integer("shard_bytes", None, "Aimed bytes a shard. Default: total/64 within 16..150 MiB.")
    flags.DEFINE_enum("on_bad_image", default["on_bad_image"], ON_BAD_IMAGE, "List a bad file, mend it too, or stop.")
    flags.DEFINE_enum("verify", default["verify"], VERIFY, "Decode every image, or look at headers and ends only.")
    flags.DEFINE_integer("max_pixels", default["max_pixels"], "Larger images are refused before they are decoded.")
    flags.DEFINE_enum("store", default["store"], STORES, "What is stored; original: the bytes of JPEG and PNG files.")
    flags.DEFINE_integer("resize", None, "Shrink to this many pixels. Default: as they are.")
    flags.DEFINE_enum("resize_mode", default["resize_mode"], RESIZE_MODES, "Which side that is, or squares.")
    flags.DEFINE_bool("upscale", default["upscale"], "Enlarge what is smaller than --resize.")
    flags.DEFINE_integer("quality", default["quality"], "Of the JPEGs that have to be encoded, 1..100.")
    flags.DEFINE_string(
        "depth_range",
        None,
        "Levels LO,HI that become black and white, for PNG and TIFF images of 16-bit, 32-bit or floating-point levels."
        " auto: the lowest and highest level of each image, which images with different ranges no longer share."
        " Default: the high byte of 16-bit levels; images of other levels are rejected.",
    )
    flags.DEFINE_bool(
        "strip_metadata",
        default["strip_metadata"],
        "Remove EXIF (with GPS positions), XMP and IPTC from JPEG and PNG images without changing pixels.",
    )
    flags.DEFINE_enum("duplicates", default["duplicates"], DUPLICATES, "What becomes of files with the same bytes.")
    flags.DEFINE_bool("overwrite", default["overwrite"], "Replace an existing dataset when the new one is complete.")
    flags.DEFINE_bool("update", default["update"], "Bring the dataset at --out up to date; rewrite only what must be.")
    flags.DEFINE_bool("restart", default["restart"], "Discard what an unfinished conversion left.")
    flags.DEFINE_enum("engine", default["engine"], ENGINES, "Local processes, or Apache Beam (extra beam).")
    flags.DEFINE_string("beam_options", default["beam_options"], "Beam's own. Default: DirectRunner, in this process.")
    flags.DEFINE_bool("dry_run", default["dry_run"], "Stop after the class table; write nothing.")


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    explicit = [name for name in flags.FLAGS if flags.FLAGS[name].present]
    convert(command.from_flags(ConvertConfig, src=flags.FLAGS.src or "", explicit=explicit))


if __name__ == "__main__":
    define_flags()
    command.run(main, "interrupted: the same command continues from here")
