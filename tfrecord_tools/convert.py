"""Convert images into verified, indexed TFRecords.

python -m tfrecord_tools.convert --src=cat_dog_img converts the directory cat_dog_img into the dataset out/. The paths
of the images show their classes and, if there are any, their splits:

    cat_dog_img/train/cats/1.jpg    split/class/image
    cat_dog_img/cats/1.jpg          class/image; a validation split is made automatically
    cat_dog_img/cat.1.jpg           the class in the name of the file

--src may also be a zip or tar archive of such a directory, a CSV or Parquet manifest, a CSV of pixels, Parquet files of
Hugging Face, or tar files of webdataset. Every image is verified. JPEG and PNG files are stored byte for byte. If the
command is stopped, run it again: it continues.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

from tfrecord_tools.base import callable_module, command, files, tabular, usage, words, workers
from tfrecord_tools.base.files import StrPath
from tfrecord_tools.base.progress import Progress
from tfrecord_tools.base.workers import Pool
from tfrecord_tools.card import card_page, statistics
from tfrecord_tools.conversion import (
    beam_engine,
    bucket_workspace,
    decide,
    describe,
    keywords,
    notes,
    source_flags,
    update,
)
from tfrecord_tools.conversion.bucket_workspace import BucketWorkspace
from tfrecord_tools.conversion.keywords import ConvertSettings
from tfrecord_tools.conversion.plan import Plan, make_plan
from tfrecord_tools.conversion.plan_config import DUPLICATES, NEAR_DUPLICATES, PlanConfig, divided
from tfrecord_tools.conversion.rejected import check_rejected, listed, rejected_files
from tfrecord_tools.conversion.survey import Facts, survey
from tfrecord_tools.conversion.upload_shards import upload_shard
from tfrecord_tools.conversion.workspace import Workspace, open_workspace
from tfrecord_tools.conversion.write_shards import shard_job, write_shard
from tfrecord_tools.errors import UserError, refusal
from tfrecord_tools.images.preparation import ON_BAD_IMAGE, STORES, VERIFY, ImageConfig
from tfrecord_tools.images.recode import RESIZE_MODES
from tfrecord_tools.layout import dataset_files, decisions, index, metadata
from tfrecord_tools.layout.dataset_files import ConvertJson, Shard, dataset_name
from tfrecord_tools.layout.decisions import Decisions
from tfrecord_tools.records import Dataset, open_dataset
from tfrecord_tools.sources import file_sets, relabel, stores
from tfrecord_tools.sources.relabel import NewLabel
from tfrecord_tools.sources.scan import ScanConfig, Sources, scan

if TYPE_CHECKING:
    from typing_extensions import Unpack

ENGINES = ("local", "beam")
_PATHS = ("src", "out", "work_dir", "manifest", "relabel", "decisions", "update_from", "dask")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvertConfig(ScanConfig, ImageConfig, PlanConfig):
    """All settings of a conversion.

    Attributes:
        out: Directory to write, or the URL of a directory in a bucket, such as s3://bucket/pets.
        work_dir: Directory on this machine for unfinished files, if `out` is a URL. None: the last part of the URL with
            the ending `.partial`, in the current directory.
        engine: "local" converts in processes of this machine, "beam" with Apache Beam. The output is the same.
        workers: Number of local processes. The output is the same for any number. None: one per processor.
        beam_options: Options of Beam, as a command line. Empty: Beam's DirectRunner, in this process.
        dask: Address or scheduler file of a Dask cluster, on which Beam then runs. It sets `engine` to "beam".
        overwrite: Replace an existing dataset at `out` when the new one is complete.
        update: Bring the dataset at `out` up to date with `src`, with the settings of that dataset. New images go into
            new shards. Other shards are rewritten only if one of their images was removed or changed.
        update_from: Like `update`, but the dataset at `update_from` (a directory or a URL) stays as it is, and the new
            dataset is written to `out`. Shards that are the same are linked or copied.
        restart: Delete the work of an unfinished conversion and start again.
        dry_run: Stop after the class table; nothing is written.
        relabel: A CSV or Parquet file with the columns `path` and `label` (or `predicted_label`). Each row becomes a
            decision: the image gets the label.
        decisions: A file of decisions about single images, or a directory of a dataset that has decisions (see
            `layout.decisions`). With `update` or `overwrite`, they are added to the decisions of the dataset at `out`.
        explicit: Used only with `update`: the names of all settings that the caller passed, also those with their
            default values. These settings must have the same values as in the existing dataset.
    """

    out: str = "out"
    work_dir: str | None = None
    engine: str = "local"
    workers: int | None = None
    beam_options: str = ""
    dask: str = ""
    overwrite: bool = False
    update: bool = False
    update_from: str | None = None
    restart: bool = False
    dry_run: bool = False
    relabel: str | None = None
    decisions: str | None = None
    explicit: Collection[str] = ()

    def __post_init__(self) -> None:
        files.expand_fields(self, *_PATHS)
        for part in (ScanConfig, ImageConfig, PlanConfig):
            part.__post_init__(self)
        workers.check_count(self.workers)
        if self.verify == "header" and self.near_duplicates != "keep":
            raise UserError(
                f"--near_duplicates={self.near_duplicates}: compares hashes of the decoded images, and --verify=header"
                " decodes no image. Remove --verify=header, or pass --near_duplicates=keep."
            )
        if self.dask:
            self._check_dask()
            object.__setattr__(self, "engine", "beam")
        self._check_engine()
        self._check_out()
        self._check_update()

    def _check_out(self) -> None:
        if not files.is_url(self.out):
            if self.work_dir is not None:
                raise UserError(
                    f"--work_dir={self.work_dir}: only a conversion into a bucket uses it. The unfinished files of a"
                    f" conversion into a directory are next to --out={self.out}. Remove --work_dir."
                )
            return
        bucket_workspace.check_url(self.out)
        if self.work_dir is not None and files.is_url(self.work_dir):
            raise UserError(f"--work_dir={self.work_dir}: must be a directory on this machine.")
        if self.overwrite:
            raise UserError(
                f"--out={self.out}: a dataset in a bucket is never replaced, because others may read it. Choose another"
                " --out and remove --overwrite, or delete all objects there with a tool for the bucket."
            )
        if self.update:
            raise UserError(
                f"--out={self.out}: a dataset in a bucket is never changed, because others may read it. To write the"
                f" updated dataset to another place, replace --update by --update_from={self.out}, and choose another"
                " --out."
            )

    def _check_update(self) -> None:
        if self.update and self.overwrite:
            raise UserError(
                "--update and --overwrite cannot be combined: --update keeps the existing dataset and --overwrite"
                " replaces it. Remove one of the two flags."
            )
        if self.update_from is None:
            return
        for name in (name for name in ("update", "overwrite") if getattr(self, name)):
            raise UserError(
                f"--update_from={self.update_from}: cannot be combined with --{name}, because it writes a new dataset."
                " Remove one of the two flags."
            )
        if _canonical(self.update_from) == _canonical(self.out):
            raise UserError(
                f"--update_from={self.update_from}: is also --out. Choose another --out, or use --update to change the"
                " dataset in a directory."
            )

    def _check_dask(self) -> None:
        others = {"beam_options": self.beam_options, "workers": self.workers, "dry_run": self.dry_run}
        for name in (name for name, value in others.items() if value):
            raise UserError(f"--dask={self.dask}: cannot be combined with --{name}. Remove one of the two flags.")

    def _check_engine(self) -> None:
        if self.engine not in ENGINES:
            raise UserError(f"--engine={self.engine}: must be one of {', '.join(ENGINES)}.")
        if self.engine == "local" and self.beam_options:
            raise UserError(
                f"--beam_options={self.beam_options}: only --engine=beam uses these options. Add --engine=beam, or"
                " remove them."
            )
        if self.engine == "beam" and self.workers is not None:
            raise UserError(
                f"--workers={self.workers}: cannot be combined with --engine=beam. Set the number of workers in"
                " --beam_options, for example --direct_running_mode=multi_processing --direct_num_workers=2."
            )
        if self.engine == "beam" and self.dry_run:
            raise UserError(
                "--engine=beam cannot be combined with --dry_run, because a dry run always uses this machine. Remove"
                " --engine."
            )

    def output_settings(self) -> dict[str, Any]:
        """Return the settings that the output depends on. convert.json and the digest use them."""
        return self.scan_settings() | self.image_settings() | self.plan_settings()

    def request(self) -> dict[str, Any]:
        """Return the settings that identify this command in a later run.

        If a later run has the same settings, and only the last step of the earlier run is missing, it does only this
        step.
        """
        return self.output_settings() | {
            "src": _canonical(self.src),
            "update": self.update,
            **({"update_from": _canonical(self.update_from)} if self.update_from else {}),
            **({"relabel": _sha256(self.relabel)} if self.relabel else {}),
            **({"decisions": decisions.entries(decisions.read(self.decisions))} if self.decisions else {}),
        }


def convert(config: ConvertConfig, log: Callable[[str], object] = print) -> ConvertJson:
    """Convert `config.src` into `config.out`, or continue an interrupted conversion.

    The same sources and settings give the same bytes, with any number of workers, on any machine, and after any
    interruption. A script that calls this function with more than one worker needs `if __name__ == "__main__":`, as for
    every process pool in Python.

    Args:
        config: All settings.
        log: Called with each line of the report.

    Returns:
        The contents of `out/convert.json`: digest, counts, class table. With `dry_run`, they are not written.

    Raises:
        UserError: Anything that the user can fix. `out` is then unchanged.

    Example:
        convert(ConvertConfig(src="cat_dog_img", out="out"))
    """
    if config.engine == "beam":  # Beam's workers may run in another directory.
        config = dataclasses.replace(
            config,
            src=_absolute(config.src),
            out=_absolute(config.out),
            work_dir=_absolute(_work_dir(config)) if files.is_url(config.out) else None,
            update_from=config.update_from and _absolute(config.update_from),
        )
    workspace = _workspace(config, log)
    workspace.check_apart(config.src)
    try:
        if config.dry_run:
            return _planned(workspace, config, log)
        if workspace.root.exists():
            with open_workspace(workspace):
                beam_engine.end_earlier(workspace.beam, log)
                if _finished_commit(workspace, config) == config.request():
                    log(
                        f"{workspace.shown}: the last step of an interrupted conversion is now finished. The dataset is"
                        " complete."
                    )
                    return workspace.result()
        workspace.check_free(config.overwrite or config.update, lambda: stores.check_exists(config.src))
        with open_workspace(workspace):
            # Checked again, because another conversion may have written `out` while we waited for the lock.
            workspace.check_free(config.overwrite or config.update)
            return _convert_in(workspace, config, log)
    except OSError as error:
        raise UserError(
            f"{refusal(error)}. The finished part is kept in {workspace.root}/. Fix the cause and run the same command"
            " again to continue."
        ) from error


def convert_images(
    *, src: StrPath, log: Callable[[str], object] = command.say, **settings: Unpack[ConvertSettings]
) -> Dataset:
    """Convert images into verified, indexed TFRecords, as `python -m tfrecord_tools.convert` does.

    A second call continues an interrupted conversion. If the dataset is finished, and the same images and settings give
    the same dataset, the images are inspected again, and the dataset is returned. So all cells of a notebook can be run
    again. A script that calls it needs `if __name__ == "__main__":`, as for every process pool in Python; a notebook
    does not.

    Args:
        src: The images: a directory, a URL, an archive, a manifest, a CSV of pixels, or a pattern of Parquet or tar
            files.
        log: Receives the lines for the user.
        **settings: The other flags of the command, with the same names. `ConvertConfig` explains them.

    Raises:
        TypeError: There is no setting of a name.
        UserError: Anything that the user can fix, such as an `out` that has another dataset. `out` is then unchanged.

    Example:
        data = tfrecord_tools.convert(src="cat_dog_img", out="out")
    """
    if "dry_run" in settings:
        raise UserError(
            "dry_run: must be left out in Python, because a dry run makes no dataset to return. Run python -m"
            f" tfrecord_tools.convert --src={os.fspath(src)} --dry_run"
        )
    given = {"src": ""} | keywords.checked({"src": src, **settings})
    config = ConvertConfig(**given, explicit=frozenset(given))
    if _is_finished(config):
        log(
            f"{_workspace(config, log).shown}: the dataset is finished already. The images and the settings are the"
            " same, so nothing was written"
        )
    else:
        convert(config, log)
    return open_dataset(config.out)


def _finished_commit(workspace: Workspace, config: ConvertConfig) -> dict[str, Any] | None:
    """Return `workspace.finish_commit()`. With `restart`, a commit that cannot be finished is discarded."""
    if workspace.bucket is None:
        return workspace.finish_commit()
    try:
        return workspace.finish_commit()
    except UserError as error:
        if not config.restart:
            raise UserError(
                f"{error}\nOnly the last step of the conversion in {workspace.root}/ is missing, and each run tries it"
                " first. To discard that conversion, pass --restart."
            ) from error
        workspace.clear()
        return None


def _absolute(path: str) -> str:
    return path if files.is_url(path) else os.path.abspath(path)


def _work_dir(config: ConvertConfig) -> str:
    return config.work_dir or f"{bucket_workspace.name_of(config.out)}.partial"


def _workspace(config: ConvertConfig, log: Callable[[str], object]) -> Workspace:
    if files.is_url(config.out):
        return BucketWorkspace(Path(_work_dir(config)), config.out.rstrip("/"), log)
    out = Path(config.out)
    if out.is_symlink() or out.name in ("", ".."):
        # The finished directory is renamed to `out`. That would replace a link instead of its target, and is
        # impossible for ".".
        out = out.resolve()
    return Workspace(out)


def _planned(workspace: Workspace, config: ConvertConfig, log: Callable[[str], object]) -> ConvertJson:
    """Print the class table, and write nothing."""
    with tempfile.TemporaryDirectory() as copies, _local_pool(config) as pool:
        plan, _, _ = _Conversion(config, workspace, Path(copies), pool, log).make_plan()
        return metadata.summary(describe.describe(plan))


def _is_finished(config: ConvertConfig) -> bool:
    """Return whether `config.out` is a dataset that this conversion would write again, byte for byte."""
    workspace = _workspace(config, lambda line: None)
    if config.overwrite or config.update or config.restart or config.update_from or config.engine != "local":
        return False
    stored = None if workspace.root.exists() else workspace.stored()
    if stored is None:
        return False
    known = stored["config"]
    given = {name: value for name, value in config.output_settings().items() if value is not None and name in known}
    if any(known[name] != json.loads(json.dumps(value)) for name, value in given.items()):
        return False  # Found out at once, without an inspection.
    return convert(dataclasses.replace(config, dry_run=True), lambda line: None)["digest"] == stored["digest"]


def _convert_in(workspace: Workspace, config: ConvertConfig, log: Callable[[str], object]) -> ConvertJson:
    try:
        if config.restart:
            workspace.clear()
        with _pool(config, workspace, log) as pool:
            return _Conversion(config, workspace, workspace.root / "previous", pool, log).run()
    except UserError as error:
        if not workspace.survey.exists():
            raise
        remedy = (
            f"The finished part is kept in {workspace.root}/ for the next run. To discard the finished part, delete"
            " that directory."
        )
        raise UserError(f"{error}\n{remedy}") from error


def _pool(
    config: ConvertConfig, workspace: Workspace, log: Callable[[str], object]
) -> contextlib.AbstractContextManager[Pool]:
    if config.engine == "beam":
        return beam_engine.pool(config.beam_options, workspace.beam, config.dask, log)
    return _local_pool(config)


def _local_pool(config: ConvertConfig) -> contextlib.AbstractContextManager[Pool]:
    # fsspec and obstore need their own threads for URLs. A forked process would not have these threads.
    urls = (config.src, config.out, config.update_from or "")
    return workers.pool(config.workers, threads=any(map(files.is_url, urls)))


class _Conversion:
    """The steps of one conversion, and the objects that they share."""

    def __init__(
        self, config: ConvertConfig, workspace: Workspace, copies: Path, pool: Pool, log: Callable[[str], object]
    ):
        """Read the dataset that is updated. `copies` is for its small files, if it is in a bucket."""
        self._previous = config.update_from or workspace.address  # The dataset before this conversion, if there is one.
        directory, self._versions = (
            update.local_copy(self._previous, copies) if config.update_from else (workspace.out, {})
        )
        flag = "--update_from" if config.update_from else "--update"
        updates = config.update or config.update_from is not None
        self._base = update.read(directory, self._previous, flag) if updates else None
        if self._base is not None and self._base.relabeled and not config.relabel:
            raise UserError(
                f"{flag}: an earlier version of the tool converted {self._previous} with a file of new labels"
                " (--relabel). Without this file, the new labels would be lost. Pass this file as --relabel in this"
                f" command (not in later ones), or {self._base.without_update}."
            )
        self._asked = config
        self._config = config if self._base is None else update.inherit_settings(config, self._base, config.explicit)
        self._stored = decisions.of_dataset(directory) if updates or config.overwrite else {}
        self._given = decisions.read(config.decisions) if config.decisions else {}
        self._workspace = workspace
        self._request: dict[str, Any] = {}
        self._pool = pool
        self._log = log

    def run(self) -> ConvertJson:
        """Run all steps from the scan to the commit, and return the contents of `convert.json`."""
        start, workspace = time.monotonic(), self._workspace
        workspace.check_settings(self._config.output_settings())
        if workspace.survey.exists() and any(workspace.survey.iterdir()):
            self._log(f"{workspace.root}/: continuing an interrupted conversion")
        plan, sources, facts = self.make_plan(workspace.survey)
        unchanged = self._config.update and self._base is not None and plan.digest == self._base.digest
        if unchanged and plan.decided.effect.decisions == self._stored:
            workspace.clear()
            self._log(f"{workspace.shown}: up to date. No image was added, changed or removed.")
            return workspace.result()
        settings = {"src": _canonical(self._config.src)} | plan.config
        shard_bytes = np.array([_bytes(plan, shard) for shard in plan.shards])
        workspace.check_sizes(shard_bytes, len(plan.rows))
        claim = {
            "settings": self._config.output_settings(),
            "versions": metadata.summary(describe.describe(plan))["versions"],
            "identity": self._identity(plan, shard_bytes),
        }
        workspace.start_writing(plan.digest, settings, claim)
        with contextlib.closing(self._write(plan, sources, facts, workspace)) as parts:
            index.join_parts(parts, workspace.data / index.FILE_NAME)
        self._describe(plan, sources, facts, workspace)
        if copied := sum(self._is_copy(shard, plan.name) for shard in plan.shards):
            shards = words.number(copied, "unchanged shard was", "unchanged shards were")
            self._log(f"  note: {shards} copied, because the file system has no hard links")
        result = dataset_files.read(workspace.data)
        workspace.commit_data(self._request, claim)
        self._log(_summary(plan, facts, workspace.shown, time.monotonic() - start))
        return result

    def _identity(self, plan: Plan, shard_bytes: np.ndarray) -> str:
        """Return a text that differs for two conversions that may write different bytes."""
        parts = (
            metadata.summary(describe.describe(plan)),
            plan.decided.effect.report(),
            [dataclasses.asdict(file) for file in plan.rejected],
            [self._config.verify, self._config.near_distance],
            [[shard.file_name(plan.name), shard.start, size] for shard, size in zip(plan.shards, shard_bytes.tolist())],
        )
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _is_copy(self, shard: Shard, name: str) -> bool:
        """Return whether a shard of a local dataset was copied into another one."""
        if not shard.link or files.is_url(self._previous) or self._workspace.bucket:
            return False
        return (self._workspace.data / shard.file_name(name)).stat().st_nlink == 1

    def make_plan(self, saved: Path | None = None) -> tuple[Plan, Sources, Facts]:
        """Scan the source, inspect its images, plan the dataset, and print the class table."""
        config, base = self._config, self._base
        sources = scan(dataclasses.replace(config, new_classes=self._new_classes()))
        sources = divided(sources, config)
        self._check_bad(sources, {})
        rows = self._new_labels(sources)
        # Computed now: the files of --relabel and --decisions may be deleted soon.
        self._request = self._asked.request()
        with Progress("inspect", len(sources)) as progress:
            facts = survey(
                sources,
                self._pool,
                config,
                known=base.known(sources.paths) if base and base.verified in ("full", config.verify) else None,
                saved=saved,
                progress=progress,
                check=lambda reasons: self._check_bad(sources, reasons),
            )
        name = dataset_name(_stem(_canonical(config.src))) if base is None else base.config["name"]
        previous = None if base is None else base.previous
        made = self._decisions(rows, sources, facts)
        plan = make_plan(sources, facts, config, name, config.output_settings(), previous, made)
        made.check_matched(plan.decided.effect.found, sources.root)
        if config.store == "raw":
            _check_raw(plan, sources, facts, config)
        for line in _class_table(plan, sources, facts):
            self._log(line)
        for text in made.notes(self._previous, base.without_update if base and config.update_from else ""):
            self._log(f"  note: {text}")
        return plan, sources, facts

    def _new_classes(self) -> set[str]:
        """Return the class names in all decisions. Such a class may be in --classes without an image."""
        config = self._config
        names = {one.label for one in (*self._stored.values(), *self._given.values())} - {""}
        if config.relabel is None or config.wanted is None:
            return names
        return names | relabel.labels(config.relabel, config.src, config.wanted)

    def _new_labels(self, sources: Sources) -> list[NewLabel]:
        """Return the rows of --relabel. They name paths, so they are checked before the files are inspected."""
        config = self._config
        classes = sources.class_names if self._base is None else self._base.previous.class_table(sources)[0]
        if config.relabel is None:
            return []
        return relabel.read(config.relabel, config.src, sources.paths, classes, self._new_class)

    @property
    def _new_class(self) -> str:
        """Advice for messages: how a user adds a class. An update cannot change --classes."""
        if self._base is None:
            return Decisions.new_class
        advice = "put an image of the class into a directory with the name of the class, or "
        if self._base.flag == "--update":
            return advice + "convert again with --overwrite and --classes"
        return advice + "convert with --classes and without --update_from"

    def _decisions(self, rows: Sequence[NewLabel], sources: Sources, facts: Facts) -> Decisions:
        """Return the decisions of the existing dataset, of --relabel and of --decisions."""
        relabel_flag = f"--relabel={self._config.relabel}"
        by_path = decide.of_paths(rows, sources, facts, relabel_flag)
        layers = [(relabel_flag, by_path), (f"--decisions={self._config.decisions}", self._given)]
        return decisions.combined(self._stored, layers, self._new_class)

    def _check_bad(self, sources: Sources, reasons: Mapping[int, str]) -> None:
        """Raise UserError if more files are bad than the settings allow."""
        config = self._config
        total = len(sources) + len(sources.rejected)
        allowed = 0 if config.on_bad_image == "fail" else config.max_bad * total
        if len(sources.rejected) + len(reasons) <= allowed:
            return
        bad = [*sources.rejected, *rejected_files(sources, reasons)]
        if config.on_bad_image == "fail":
            raise UserError(
                f"{config.src}/{bad[0].path}: {bad[0].reason}. Remove the file, or pass --on_bad_image=skip."
            )
        check_rejected(bad, total, config.max_bad)

    def _write(self, plan: Plan, sources: Sources, facts: Facts, workspace: Workspace) -> Generator[Path, None, None]:
        """Write the shards that are not complete yet, and yield the index part of each shard, in order.

        The index is joined from the parts while later shards are written.
        """
        parts = [workspace.index / f"{number:07d}.parquet" for number in range(len(plan.shards))]
        missing = [number for number, part in enumerate(parts) if not part.exists()]
        at_once = None if workspace.bucket is None else self._config.workers or workers.default_workers()
        is_local = not files.is_url(self._previous)
        links = is_local or (workspace.bucket is not None and workspace.bucket.is_beside(self._previous))
        _check_space(plan, missing, workspace, at_once, links)
        jobs = (
            shard_job(
                shard,
                plan,
                sources,
                facts,
                self._config,
                workspace.data / shard.file_name(plan.name),
                parts[number],
                previous=self._previous if self._base is not None else None,
                versions=self._versions,
            )
            for number in missing
            for shard in [plan.shards[number]]
        )
        done = len(plan.rows) - sum(plan.shards[n].stop - plan.shards[n].start for n in missing)
        with Progress("write", len(plan.rows)) as progress:
            progress.skip(done)
            yielded = 0
            bucket = workspace.bucket
            write = write_shard if bucket is None else functools.partial(upload_shard, bucket)
            for count, number in zip(self._pool.map(write, jobs), missing):
                progress(count)
                yield from parts[yielded : number + 1]
                yielded = number + 1
            yield from parts[yielded:]

    def _describe(self, plan: Plan, sources: Sources, facts: Facts, workspace: Workspace) -> None:
        """Write the metadata and the report card."""
        # At most a few hundred images are read here. Starting a Beam pipeline would take longer.
        pool = self._pool if self._config.engine == "local" else Pool(None, 1)
        plan_notes, data = notes.of(plan, sources, facts), workspace.data
        samples = statistics.sample(plan, sources, facts, workspace.shards, pool, self._config, plan_notes)
        report = statistics.describe(
            plan, sources, facts, samples.colors, self._config.verify, self._config.near_distance
        )
        report["notes"] = [note.as_json(sources) for note in plan_notes]
        report = {**report, **plan.decided.effect.report()}
        metadata.write(data, describe.describe(plan), report)
        card_page.write(data, dataset_files.read(data), samples.thumbnails, samples.pictures, self._log)


def _bytes(plan: Plan, shard: Shard) -> int:
    return int(plan.rows.frame_bytes[shard.start : shard.stop].sum())


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def _canonical(src: str) -> str:
    """Return a source's absolute path without links, or its URL without a slash at the end."""
    return src.rstrip("/") if files.is_url(src) else os.path.realpath(src)


def _stem(path: str) -> str:
    """Return the name of a source without the ending of an archive or a table.

    For a pattern of several files, return the name of their directory.
    """
    if file_sets.is_pattern(path):
        path = file_sets.root_of(path)
    name = os.path.basename(path)
    return os.path.splitext(name)[0] if os.path.isfile(path) else name


def _check_raw(plan: Plan, sources: Sources, facts: Facts, config: ConvertConfig) -> None:
    """Raise UserError if an image is smaller than `resize`, the size of all raw images."""
    table = facts.of(plan.rows.numbers)
    small = np.flatnonzero((table["height"] != config.resize) | (table["width"] != config.resize))
    if len(small):
        first = sources.paths[int(plan.rows.numbers[small[0]])]
        raise UserError(
            f"--store=raw: {words.number(len(small), 'image is', 'images are')} smaller than"
            f" --resize={config.resize}, for example {first} ({table['width'][small[0]]} x"
            f" {table['height'][small[0]]} pixels). Add --upscale to enlarge such images, or use a smaller --resize."
        )


def _check_space(
    plan: Plan, missing: Sequence[int], workspace: Workspace, at_once: int | None, links: bool = True
) -> None:
    """Raise UserError if the disk is too small for the missing shards.

    Args:
        plan: The plan.
        missing: Numbers of the shards that are not complete.
        workspace: The workspace.
        at_once: Number of shards that are on the disk at once. None: all.
        links: Whether unchanged shards of a dataset that is updated take no space, because they are linked, or copied
            within a bucket.
    """
    sizes = [_bytes(plan, plan.shards[number]) for number in missing if not (links and plan.shards[number].link)]
    needed = sum(sorted(sizes, reverse=True)[:at_once])
    free = shutil.disk_usage(workspace.root).free
    if needed > free:
        place = "an --out" if workspace.bucket is None else "a --work_dir"
        raise UserError(
            f"{workspace.root}: {words.size(needed, 'MB')} of disk space are needed, and {words.size(free, 'MB')} are"
            f" free. Delete files that you do not need and run the same command again, or choose {place} on another"
            " disk."
        )


def _summary(plan: Plan, facts: Facts, shown: str, seconds: float) -> str:
    linked = sum(bool(shard.link) for shard in plan.shards)
    unchanged = f" ({linked:,} unchanged)" if linked else ""
    counts = Counter(r.done for r in plan.rejected)
    rejected = ", ".join(f"{count:,} {done}" for done, count in sorted(counts.items()))
    changed = np.count_nonzero(facts.table["changes"][plan.rows.numbers])
    return (
        f"{shown}: {words.number(len(plan.rows), 'record')} in {words.number(len(plan.shards), 'shard')}{unchanged},"
        f" {words.size(plan.bytes, 'MB')}, digest (checksum of the dataset) {plan.digest[:12]};"
        f" {rejected or '0 skipped'} (rejected.csv), {changed:,} changed ({metadata.CHANGED}); card.html; {seconds:.1f}"
        " s"
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
    splits = "splits of the source" if sources.has_splits else "automatic split"
    images = words.number(len(plan.rows), "image")
    yield f"{sources.root}: {images}, {words.size(plan.bytes, 'MB')} to store, {splits}"
    yield from (f"  {line}" for line in tabular.aligned(lines, left=(1,)))
    yield from (f"  {note.heading}: {note.line()}" for note in notes.of(plan, sources, facts))
    for name, count in sources.left_out.items():
        yield f"  left out, not in --classes: {name} ({words.number(count, 'file')})"
    yield from listed(plan.rejected)


def define_flags() -> None:
    default = {field.name: field.default for field in dataclasses.fields(ConvertConfig)}
    usage.define_path(
        "src",
        None,
        "The images: a directory, a URL such as s3://bucket/images, a zip or tar archive, a CSV or Parquet file that"
        " lists images (a manifest), a CSV file with pixel values, Parquet files of Hugging Face, or tar files of"
        " webdataset. Several Parquet or tar files can be given as a directory or as a pattern such as"
        " 'data/train-*.parquet' or 'train-{000000..000012}.tar'.",
    )
    usage.define_path(
        "out",
        default["out"],
        "Directory to write, or its URL in a bucket, such as s3://bucket/pets. A dataset in a bucket is never changed"
        " or replaced later.",
    )
    usage.define_path(
        "work_dir",
        None,
        "Directory on this machine for the unfinished files of a conversion into a bucket. Default: the last part of"
        " --out with the ending .partial, in the current directory.",
    )
    source_flags.define_source_flags()
    usage.define_path("decisions", None, decisions.HELP)
    usage.define_path(
        "relabel",
        None,
        "CSV or Parquet file with new labels for some images. The columns of the file are path and label.",
    )
    flags.DEFINE_integer("seed", default["seed"], "Seed of the automatic split and of the order of the records.")
    flags.DEFINE_integer(
        "shards",
        None,
        "Number of shards (TFRecord files) of all splits together. Default: the number follows from --shard_bytes.",
    )
    flags.DEFINE_integer(
        "shard_bytes",
        None,
        "Target size of a shard (a TFRecord file) in bytes. Default: 1/64 of the size of all records, but at least 16"
        " MiB and at most 150 MiB.",
    )
    flags.DEFINE_enum(
        "on_bad_image",
        default["on_bad_image"],
        ON_BAD_IMAGE,
        "How to treat a bad image file. skip: leave the file out; repair: repair the file, or leave it out if it cannot"
        " be repaired; fail: stop. Skipped and repaired files are listed in rejected.csv.",
    )
    flags.DEFINE_enum(
        "verify",
        default["verify"],
        VERIFY,
        "full: decode every image; header: check only the start and the end of each file, which is faster.",
    )
    flags.DEFINE_integer(
        "max_pixels",
        default["max_pixels"],
        "Largest number of pixels of an image. Images with more pixels are rejected before they are decoded.",
    )
    flags.DEFINE_enum(
        "store",
        default["store"],
        STORES,
        "original: store JPEG and PNG files unchanged; jpeg: store every image as JPEG; png: store every image as PNG;"
        " raw: store decoded pixels.",
    )
    flags.DEFINE_integer(
        "resize",
        None,
        "Length of a side in pixels. Larger images are made smaller, so that a side has this length. --resize_mode"
        " chooses the side, or makes the image a square. Smaller images are enlarged only with --upscale. Default: all"
        " images keep their sizes.",
    )
    flags.DEFINE_enum(
        "resize_mode",
        default["resize_mode"],
        RESIZE_MODES,
        "How --resize=N is applied. shorter: the shorter side becomes N pixels; longer: the longer side becomes N"
        " pixels; exact: the image is stretched to N x N; center_crop: the central square is cropped and scaled to"
        " N x N.",
    )
    flags.DEFINE_bool("upscale", default["upscale"], "Enlarge images that are smaller than --resize.")
    flags.DEFINE_integer(
        "quality",
        default["quality"],
        "JPEG quality from 1 to 100. It is used only for images that are encoded again.",
    )
    flags.DEFINE_string(
        "depth_range",
        None,
        "For PNG and TIFF images with more than 8 bits per value. LO,HI: the pixel value LO becomes black, and the"
        " pixel value HI becomes white. auto: the lowest value of each image becomes black, and its highest value"
        " becomes white. Default: 16-bit images keep their upper 8 bits. Images with signed, 32-bit or floating-point"
        " values are rejected.",
    )
    flags.DEFINE_bool(
        "strip_metadata",
        default["strip_metadata"],
        "Remove EXIF data (for example GPS positions), XMP data and IPTC data from JPEG and PNG images. The pixels"
        " stay the same.",
    )
    flags.DEFINE_enum(
        "duplicates",
        default["duplicates"],
        DUPLICATES,
        "How to treat copies (files with the same bytes). keep: store all copies; drop: store one copy, or no copy if"
        " the labels of the copies differ; fail: stop. drop keeps a copy of the test split if there is one, else a"
        " copy of the validation split. With --update, drop keeps a copy that the dataset already contains.",
    )
    flags.DEFINE_enum(
        "near_duplicates",
        default["near_duplicates"],
        NEAR_DUPLICATES,
        "How to treat images that look alike but have different bytes, such as smaller copies. keep: store all images"
        " and report the similar ones; group: like keep, but an automatic split puts similar images into the same"
        " split; drop: store one of the similar images. drop keeps an image of the test split if there is one,"
        " else an image of the validation split, else the largest image. With --update, drop keeps an image that the"
        " dataset already contains.",
    )
    flags.DEFINE_integer(
        "near_distance",
        default["near_distance"],
        "Number from 0 to 16: how many bits may differ between the perceptual hashes of two near-duplicates. The"
        " perceptual hash of an image is 64 bits, computed from its look. A larger number also finds copies with"
        " stronger changes, but it finds more images that only look similar.",
    )
    flags.DEFINE_bool("overwrite", default["overwrite"], "Replace an existing dataset when the new one is complete.")
    flags.DEFINE_bool(
        "update",
        default["update"],
        "Update the dataset at --out to the present images of --src. New images are written into new shards. Shards"
        " with removed or changed images are written again. All other shards stay the same.",
    )
    usage.define_path(
        "update_from",
        None,
        "Directory or URL of a dataset. The command writes a new dataset to --out: the one that --update would make of"
        " this dataset. Shards that stay the same are linked or copied, within a bucket without a download.",
    )
    flags.DEFINE_bool("restart", default["restart"], "Delete the work of an unfinished conversion and start again.")
    flags.DEFINE_enum(
        "engine",
        default["engine"],
        ENGINES,
        "local: convert on this machine, in several processes; beam: convert with Apache Beam, which needs pip install"
        " 'tfrecord-tools[beam]'.",
    )
    flags.DEFINE_string(
        "beam_options",
        default["beam_options"],
        "Options of Apache Beam for --engine=beam, as on a command line, for example '--direct_num_workers=2'."
        " Default: Beam's DirectRunner in this process.",
    )
    usage.define_path(
        "dask",
        default["dask"],
        "Address of the scheduler of a Dask cluster, for example tcp://10.0.0.1:8786, or the scheduler file of the"
        " cluster. The cluster then converts the images. This needs pip install 'tfrecord-tools[dask]'. Default: this"
        " machine converts the images.",
    )
    flags.DEFINE_bool("dry_run", default["dry_run"], "Print the table of classes and stop. Nothing is written.")


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    explicit = [name for name in flags.FLAGS if flags.FLAGS[name].present]
    convert(command.from_flags(ConvertConfig, src=flags.FLAGS.src or "", explicit=explicit))


callable_module.make(__name__, convert_images)

if __name__ == "__main__":
    define_flags()
    command.run(main, "interrupted: run the same command again to continue")
