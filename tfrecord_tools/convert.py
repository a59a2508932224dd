"""Converts a directory of images into verified, indexed TFRecords.

python -m tfrecord_tools.convert --src=cat_dog_img writes out/ from cat_dog_img/train/cats/1.jpg
(split/class/image) or from cat_dog_img/cats/1.jpg (class/image; a validation split is then made).
Every image is proven sound and stored byte for byte. A command that was killed continues when repeated.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from tfrecord_tools import command, index, metadata, workers, workspace
from tfrecord_tools.errors import UserError
from tfrecord_tools.plan import (
    DEFAULT_VALIDATION_FRACTION,
    Plan,
    PlanConfig,
    check_fractions,
    check_rejected,
    dataset_name,
    plan,
)
from tfrecord_tools.progress import Progress
from tfrecord_tools.scan import LAYOUTS, Rejected, Sources, scan
from tfrecord_tools.schema import FRAME_BYTES
from tfrecord_tools.survey import Facts, survey
from tfrecord_tools.workers import Pool
from tfrecord_tools.workspace import Workspace
from tfrecord_tools.write import shard_job, write_shard

ON_BAD_IMAGE = ("skip", "fail")
_SHOWN_REJECTED = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvertConfig(PlanConfig):
    """All settings of a conversion: those of the plan, and how it is carried out.

    Attributes:
        src: The directory of images.
        out: The directory to write.
        workers: Number of processes; never changes the output. None: one a processor.
        on_bad_image: "skip" lists bad files in rejected.csv, "fail" stops at the first.
        overwrite: Replace an existing dataset at `out` when the new one is complete.
        restart: Discard what an unfinished conversion left.
        dry_run: Stop after the class table; nothing is written.
    """

    src: str
    out: str = "out"
    workers: int | None = None
    on_bad_image: str = "skip"
    overwrite: bool = False
    restart: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.src:
            raise UserError(f"--src is missing: a directory of images such as {LAYOUTS} is expected.")
        if self.on_bad_image not in ON_BAD_IMAGE:
            raise UserError(f"--on_bad_image={self.on_bad_image}: one of {', '.join(ON_BAD_IMAGE)} is expected.")
        if self.workers is not None and self.workers < 1:
            raise UserError(f"--workers={self.workers}: at least 1.")

    def request(self) -> dict[str, Any]:
        """What two commands must share for the second to continue the first."""
        return self.output_settings() | {"src": os.path.realpath(self.src)}


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
    out, source = Path(config.out), Path(config.src)
    if out.is_symlink() or out.name in ("", ".."):
        out = out.resolve()  # What the link names is replaced, not the link; and "." is no name to rename to.
    workspace.check_apart(out, source)
    try:
        if not config.dry_run and workspace.partial_of(out).exists():
            with workspace.open_workspace(out) as space:
                if space.finish_commit() == config.request():
                    log(f"{out}/: the interrupted commit of this conversion is finished.")
                    return metadata.read(out)
        if not config.dry_run:
            workspace.check_out(out, config.overwrite)
        if config.dry_run:
            with _pool(config) as pool:
                return metadata.summary(_plan(config, pool, None, log)[0])
        with workspace.open_workspace(out) as space:
            workspace.check_out(out, config.overwrite)  # Again: a conversion that we waited for may have made it.
            return _convert_in(space, config, log)
    except OSError as error:
        what = f"{error.filename}: " if error.filename else ""
        raise UserError(
            f"{what}{error.strerror or error}. What is done is kept in {workspace.partial_of(out)}/."
            " Mend the cause and run the same command again: it continues."
        ) from error


def _convert_in(space: Workspace, config: ConvertConfig, log: Callable[[str], object]) -> dict[str, Any]:
    try:
        return _convert(space, config, log)
    except UserError as error:
        if not space.survey.exists():
            raise
        kept = f"What is done is kept in {space.root}/ for the next try; delete it to give up."
        raise UserError(f"{error}\n{kept}") from error


def _convert(space: Workspace, config: ConvertConfig, log: Callable[[str], object]) -> dict[str, Any]:
    start = time.monotonic()
    if config.restart:
        space.clear()
    with _pool(config) as pool:
        decided, sources, facts = _plan(config, pool, space, log)
        space.start_writing(decided.digest, {"src": os.path.realpath(config.src)} | decided.config)
        parts = _write(decided, sources, facts, pool, space)
    index.join_parts(parts, space.data / index.FILE_NAME)
    metadata.write(space.data, decided)
    space.commit_data(config.request())
    log(
        f"{space.out}/: {len(decided.numbers):,} records in {len(decided.shards):,} shards, {_size(decided.bytes)},"
        f" digest {decided.digest[:12]}; {len(decided.rejected):,} rejected (rejected.csv);"
        f" {time.monotonic() - start:.1f} s"
    )
    return metadata.read(space.out)


def _pool(config: ConvertConfig) -> contextlib.AbstractContextManager[Pool]:
    return workers.pool(config.workers or workers.default_workers())


def _plan(
    config: ConvertConfig, pool: Pool, space: Workspace | None, log: Callable[[str], object]
) -> tuple[Plan, Sources, Facts]:
    """Scans, surveys and plans; prints the class table."""
    sources = scan(config.src, config.classes)
    total = len(sources) + len(sources.rejected)

    def check(reasons: Mapping[int, str]) -> None:
        allowed = 0 if config.on_bad_image == "fail" else config.max_bad * total
        if len(sources.rejected) + len(reasons) <= allowed:
            return
        bad = [*sources.rejected, *(Rejected(path=sources.paths[i], reason=r) for i, r in reasons.items())]
        if config.on_bad_image == "fail":
            raise UserError(f"{config.src}/{bad[0].path}: {bad[0].reason}. Remove it, or pass --on_bad_image=skip.")
        check_rejected(bad, total, config.max_bad)

    check_fractions(sources, config)
    check({})
    saved = space.survey if space else None
    with Progress("survey", len(sources)) as progress:
        facts = survey(sources, pool, saved=saved, progress=progress, check=check)
    decided = plan(sources, facts, config, dataset_name(os.path.basename(os.path.realpath(config.src))))
    for line in _class_table(decided, sources):
        log(line)
    return decided, sources, facts


def _write(decided: Plan, sources: Sources, facts: Facts, pool: Pool, space: Workspace) -> list[Path]:
    """Writes the shards that are not complete yet; returns the index parts of all, in order."""
    parts = [space.index / f"{number:07d}.parquet" for number in range(len(decided.shards))]
    missing = [number for number, part in enumerate(parts) if not part.exists()]
    _check_space(decided, missing, space)
    jobs = (
        shard_job(shard, decided, sources, facts, space.data / shard.file_name(decided.name), parts[number])
        for number in missing
        for shard in [decided.shards[number]]
    )
    with Progress("write", len(decided.numbers)) as progress:
        progress.skip(len(decided.numbers) - sum(decided.shards[n].stop - decided.shards[n].start for n in missing))
        for count in pool.map(write_shard, jobs):
            progress(count)
    return parts


def _check_space(decided: Plan, missing: Sequence[int], space: Workspace) -> None:
    shards = [decided.shards[number] for number in missing]
    needed = sum(int(decided.lengths[s.start : s.stop].sum()) + FRAME_BYTES * (s.stop - s.start) for s in shards)
    free = shutil.disk_usage(space.root).free
    if needed > free:
        raise UserError(
            f"{space.root}: {_size(needed)} are needed and {_size(free)} are free."
            " Free some space and run the same command again, or choose an --out elsewhere."
        )


def _class_table(decided: Plan, sources: Sources) -> Iterator[str]:
    counts = decided.counts()
    header = ["label", "class", *counts]
    rows = [
        [str(label), name, *(f"{row[label]:,}" for row in counts.values())]
        for label, name in enumerate(decided.class_names)
    ]
    totals = ["", "all", *(f"{row.sum():,}" for row in counts.values())]
    shards = ["", "shards", *(f"{sum(s.split == split for s in decided.shards):,}" for split in counts)]
    lines = [header, *rows, totals, shards]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    made = "splits of its own" if sources.has_splits else "splits made by content"
    yield f"{sources.root}: {len(decided.numbers):,} images, {_size(decided.bytes)}, {made}"
    for line in lines:
        cells = [line[0].rjust(widths[0]), line[1].ljust(widths[1])]
        yield "  " + "  ".join(cells + [cell.rjust(width) for cell, width in zip(line[2:], widths[2:])])
    for name, count in sources.left_out.items():
        yield f"  left out, not in --classes: {name} ({count:,} files)"
    for rejected in decided.rejected[:_SHOWN_REJECTED]:
        yield f"  rejected: {rejected.path}: {rejected.reason}"
    if len(decided.rejected) > _SHOWN_REJECTED:
        yield f"  rejected: {len(decided.rejected) - _SHOWN_REJECTED:,} more"


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def define_flags() -> None:
    default = {field.name: field.default for field in dataclasses.fields(ConvertConfig)}
    flags.DEFINE_string("src", None, "Directory of images: split/class/image or class/image.")
    flags.DEFINE_string("out", default["out"], "Directory to write.")
    flags.DEFINE_list("classes", None, "Class names in label order; others are left out. Default: all, sorted.")
    flags.DEFINE_float(
        "validation_fraction",
        None,
        f"Share for validation, if --src has no splits of its own (default {DEFAULT_VALIDATION_FRACTION}).",
    )
    flags.DEFINE_float("test_fraction", None, "Likewise for test (default 0).")
    flags.DEFINE_integer("seed", default["seed"], "Decides split and order of the records.")
    flags.DEFINE_integer("shards", None, "Number of shards over all splits. Default: by bytes.")
    flags.DEFINE_integer("shard_bytes", None, "Aimed bytes a shard. Default: total/64 within 16..150 MiB.")
    flags.DEFINE_integer("workers", None, "Processes; never changes the output. Default: one a processor.")
    flags.DEFINE_enum("on_bad_image", default["on_bad_image"], ON_BAD_IMAGE, "List a bad file and go on, or stop.")
    flags.DEFINE_float("max_bad", default["max_bad"], "Largest share of files that may be rejected.")
    flags.DEFINE_bool("overwrite", default["overwrite"], "Replace an existing dataset when the new one is complete.")
    flags.DEFINE_bool("restart", default["restart"], "Discard what an unfinished conversion left.")
    flags.DEFINE_bool("dry_run", default["dry_run"], "Stop after the class table; write nothing.")


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    convert(command.from_flags(ConvertConfig))


if __name__ == "__main__":
    define_flags()
    command.run(main, "interrupted: the same command continues from here")
