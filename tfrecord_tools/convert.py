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
from tfrecord_tools.conversion import beam_engine, describe, notes, source_flags, update
from tfrecord_tools.conversion.plan import Plan, make_plan
from tfrecord_tools.conversion.plan_config import DUPLICATES, PlanConfig, divided
from tfrecord_tools.conversion.rejected import check_rejected, listed, rejected_files
from tfrecord_tools.conversion.survey import Facts, survey
from tfrecord_tools.conversion.workspace import Workspace, check_apart, check_out, open_workspace
from tfrecord_tools.conversion.write_shards import shard_job, write_shard
from tfrecord_tools.errors import UserError, refusal
from tfrecord_tools.images.preparation import ON_BAD_IMAGE, STORES, VERIFY, ImageConfig
from tfrecord_tools.images.recode import RESIZE_MODES
from tfrecord_tools.layout import dataset_files, index, metadata
from tfrecord_tools.layout.dataset_files import ConvertJson, Shard, dataset_name
from tfrecord_tools.sources import stores
from tfrecord_tools.sources.scan import ScanConfig, Sources, scan

ENGINES = ("local", "beam")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvertConfig(ScanConfig, ImageConfig, PlanConfig):
    """All settings of a conversion: what to read, what to store of it, how to divide it, and how it is carried out.

    Attributes:
        out: The directory to write.
        engine: Who does the work, "local" processes or a runner of "beam"; never changes the output.
        workers: Number of local processes; likewise. None: one a processor.
        beam_options: Beam's own, as a command line. Empty: its DirectRunner, in this process.
        dask: Address or scheduler file of a Dask cluster that does the work by Beam; `engine` is then "beam".
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
    dask: str = ""
    overwrite: bool = False
    update: bool = False
    restart: bool = False
    dry_run: bool = False
    explicit: Collection[str] = ()

    def __post_init__(self) -> None:
        files.expand_fields(self, "src", "out", "manifest", "relabel", "dask")
        for part in (ScanConfig, ImageConfig, PlanConfig):
            part.__post_init__(self)
        workers.check_count(self.workers)
        if self.dask:
            self._check_dask()
            object.__setattr__(self, "engine", "beam")
        self._check_engine()
        if files.is_url(self.out):
            raise UserError(
                f"--out={self.out}: a dataset grows in a local directory, which one rename makes whole. Convert into"
                f" one, then copy it: python -m tfrecord_tools.transfer DIRECTORY {self.out}"
            )
        if self.update and self.overwrite:
            raise UserError("--update and --overwrite exclude each other: the one keeps what is there.")

    def _check_dask(self) -> None:
        others = {"beam_options": self.beam_options, "workers": self.workers, "dry_run": self.dry_run}
        for name in (name for name, value in others.items() if value):
            raise UserError(f"--dask={self.dask}: cannot be combined with --{name}. Remove one of the two flags.")

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
        """Return what a command asks for: a finished commit with the same request needs no second conversion."""
        return self.output_settings() | {
            "src": _real(self.src),
            "update": self.update,
            **({"relabel": _sha256(self.relabel)} if self.relabel else {}),
        }


def convert(config: ConvertConfig, log: Callable[[str], object] = print) -> ConvertJson:
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
        check_apart(out, Path(config.src))
    try:
        if config.dry_run:
            with _local_pool(config) as pool:
                plan, _, _ = _Conversion(config, out, pool, log).decide()
                return metadata.summary(describe.describe(plan))
        if dataset_files.partial_of(out).exists():
            with open_workspace(out) as workspace:
                beam_engine.end_earlier(workspace.beam, log)
                if workspace.finish_commit() == config.request():
                    log(f"{out}/: the interrupted commit of this conversion is finished.")
                    return dataset_files.read(out)
        check_out(out, config.overwrite or config.update, lambda: stores.check_exists(config.src))
        with open_workspace(out) as workspace:
            # Again: a conversion that we waited for may have made it.
            check_out(out, config.overwrite or config.update)
            return _convert_in(workspace, config, log)
    except OSError as error:
        raise UserError(
            f"{refusal(error)}. What is done is kept in {dataset_files.partial_of(out)}/."
            " Mend the cause and run the same command again: it continues."
        ) from error


def _convert_in(workspace: Workspace, config: ConvertConfig, log: Callable[[str], object]) -> ConvertJson:
    try:
        if config.restart:
            workspace.clear()
        with _pool(config, workspace, log) as pool:
            return _Conversion(config, workspace.out, pool, log).run(workspace)
    except UserError as error:
        if not workspace.survey.exists():
            raise
        remedy = f"What is done is kept in {workspace.root}/ for the next try; delete it to give up."
        raise UserError(f"{error}\n{remedy}") from error


def _pool(
    config: ConvertConfig, workspace: Workspace, log: Callable[[str], object]
) -> contextlib.AbstractContextManager[Pool]:
    if config.engine == "beam":
        return beam_engine.pool(config.beam_options, workspace.beam, config.dask, log)
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
        self._config = config if self._base is None else update.inherit_settings(config, self._base, config.explicit)
        self._pool = pool
        self._log = log

    def run(self, workspace: Workspace) -> ConvertJson:
        """Everything from the scan to the commit; returns what `convert.json` says."""
        start = time.monotonic()
        if workspace.survey.exists() and any(workspace.survey.iterdir()):
            self._log(f"{workspace.root}/: what an interrupted conversion has done is taken over.")
        plan, sources, facts = self.decide(workspace.survey)
        if self._base is not None and plan.digest == self._base.digest:
            workspace.clear()
            self._log(f"{workspace.out}/: up to date, nothing is added, changed or removed.")
            return dataset_files.read(workspace.out)
        workspace.start_writing(plan.digest, {"src": _real(self._config.src)} | plan.config)
        index.join_parts(self._write(plan, sources, facts, workspace), workspace.data / index.FILE_NAME)
        self._describe(plan, sources, facts, workspace.data)
        if copied := sum(_is_copy(shard, workspace.data, plan.name) for shard in plan.shards):
            what = words.number(copied, "unchanged shard")
            self._log(f"  note: {what} copied, since the file system has no hard links")
        workspace.commit_data(self._config.request() | {"update": self._base is not None})
        self._log(_closing(plan, facts, workspace.out, time.monotonic() - start))
        return dataset_files.read(workspace.out)

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
        plan = make_plan(sources, facts, config, name, config.output_settings(), previous)
        if config.store == "raw":
            _check_raw(plan, sources, facts, config)
        for line in _class_table(plan, sources, facts):
            self._log(line)
        return plan, sources, facts

    def _check_bad(self, sources: Sources, reasons: Mapping[int, str]) -> None:
        """Stops where more files are bad than is allowed."""
        config = self._config
        total = len(sources) + len(sources.rejected)
        allowed = 0 if config.on_bad_image == "fail" else config.max_bad * total
        if len(sources.rejected) + len(reasons) <= allowed:
            return
        bad = [*sources.rejected, *rejected_files(sources, reasons)]
        if config.on_bad_image == "fail":
            raise UserError(f"{config.src}/{bad[0].path}: {bad[0].reason}. Remove it, or pass --on_bad_image=skip.")
        check_rejected(bad, total, config.max_bad)

    def _write(self, plan: Plan, sources: Sources, facts: Facts, workspace: Workspace) -> list[Path]:
        """Writes the shards that are not complete yet; returns the index parts of all, in order."""
        parts = [workspace.index / f"{number:07d}.parquet" for number in range(len(plan.shards))]
        missing = [number for number, part in enumerate(parts) if not part.exists()]
        _check_space(plan, missing, workspace)
        jobs = (
            shard_job(
                shard,
                plan,
                sources,
                facts,
                self._config,
                workspace.data / shard.file_name(plan.name),
                parts[number],
                previous=workspace.out if self._base is not None else None,
            )
            for number in missing
            for shard in [plan.shards[number]]
        )
        done = len(plan.rows) - sum(plan.shards[n].stop - plan.shards[n].start for n in missing)
        with Progress("write", len(plan.rows)) as progress:
            progress.skip(done)
            for count in self._pool.map(write_shard, jobs):
                progress(count)
        return parts

    def _describe(self, plan: Plan, sources: Sources, facts: Facts, data: Path) -> None:
        """Writes the metadata and the report card."""
        # A few hundred images at most are looked at: not worth the seconds that a pipeline takes to start.
        pool = self._pool if self._config.engine == "local" else Pool(None, 1)
        noted = notes.of(plan, sources, facts)
        samples = statistics.sample(plan, sources, facts, data, pool, self._config, noted)
        report = statistics.describe(plan, sources, facts, samples.colors, self._config.verify)
        report["notes"] = [note.as_json(sources) for note in noted]
        if sources.relabelled:
            changes = sorted(sources.relabelled.items())
            report["relabelled"] = [{"from": old, "to": new, "images": count} for (old, new), count in changes]
        metadata.write(data, describe.describe(plan), report)
        card_page.write(data, dataset_files.read(data), samples.thumbnails, samples.pictures, self._log)


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


def _check_raw(plan: Plan, sources: Sources, facts: Facts, config: ConvertConfig) -> None:
    """Raw pixels are of one size: an image that is smaller and not to be enlarged cannot be among them."""
    table = facts.table[plan.rows.numbers]
    small = np.flatnonzero((table["height"] != config.resize) | (table["width"] != config.resize))
    if len(small):
        first = sources.paths[int(plan.rows.numbers[small[0]])]
        raise UserError(
            f"--store=raw: {words.number(len(small), 'image is', 'images are')} smaller than"
            f" --resize={config.resize}, such as {first}"
            f" ({table['width'][small[0]]} pixels). Pass --upscale to enlarge them, or a smaller --resize."
        )


def _check_space(plan: Plan, missing: Sequence[int], workspace: Workspace) -> None:
    shards = [plan.shards[number] for number in missing if not plan.shards[number].link]
    needed = sum(int(plan.rows.frame_bytes[s.start : s.stop].sum()) for s in shards)
    free = shutil.disk_usage(workspace.root).free
    if needed > free:
        raise UserError(
            f"{workspace.root}: {words.size(needed, 'MB')} are needed and {words.size(free, 'MB')} are free."
            " Free some space and run the same command again, or choose an --out elsewhere."
        )


def _closing(plan: Plan, facts: Facts, out: Path, seconds: float) -> str:
    linked = sum(bool(shard.link) for shard in plan.shards)
    unchanged = f" ({words.number(linked, 'as it was', 'as they were')})" if linked else ""
    counts = Counter(r.done for r in plan.rejected)
    rejected = ", ".join(f"{count:,} {done}" for done, count in sorted(counts.items()))
    changed = np.count_nonzero(facts.table["changes"][plan.rows.numbers])
    return (
        f"{out}/: {words.number(len(plan.rows), 'record')} in"
        f" {words.number(len(plan.shards), 'shard')}{unchanged}, {words.size(plan.bytes, 'MB')},"
        f" digest {plan.digest[:12]}; {rejected or '0 skipped'} (rejected.csv), {changed:,} changed"
        f" ({metadata.CHANGED}); card.html; {seconds:.1f} s"
    )


def _class_table(plan: Plan, sources: Sources, facts: Facts) -> Iterator[str]:
    counts = plan.counts()
    header = ["label", "class", *counts]
    rows = [
        [str(label), name, *(f"{row[label]:,}" for row in counts.values())]
        for label, name in enumerate(plan.class_names)
    ]
    totals = ["", "all", *(f"{row.sum():,}" for row in counts.values())]
    shards = ["", "shards", *(f"{sum(s.split == split for s in plan.shards):,}" for split in counts)]
    lines = [header, *rows, totals, shards]
    made = "splits of the source" if sources.has_splits else "automatic split"
    images = words.number(len(plan.rows), "image")
    yield f"{sources.root}: {images}, {words.size(plan.bytes, 'MB')} to store, {made}"
    yield from (f"  {line}" for line in tabular.aligned(lines, left=(1,)))
    yield from (f"  note: {note.line()}" for note in notes.of(plan, sources, facts))
    for name, count in sources.left_out.items():
        yield f"  left out, not in --classes: {name} ({words.number(count, 'file')})"
    yield from listed(plan.rejected)


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
    usage.define_path(
        "dask",
        default["dask"],
        "Address of a Dask scheduler, for example tcp://10.0.0.1:8786, or its --scheduler-file: the workers of that"
        " cluster convert (extra dask). Default: this machine converts.",
    )
    flags.DEFINE_bool("dry_run", default["dry_run"], "Stop after the class table; write nothing.")


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    explicit = [name for name in flags.FLAGS if flags.FLAGS[name].present]
    convert(command.from_flags(ConvertConfig, src=flags.FLAGS.src or "", explicit=explicit))


if __name__ == "__main__":
    define_flags()
    command.run(main, "interrupted: the same command continues from here")
