"""Work on Apache Beam: the `map` of `workers.Pool`, carried out by whatever runner Beam's options name.

Jobs and results pass through a directory that driver and workers share; the pipeline itself carries numbers only:

beam/RUN/0000000.job     versions, then function and argument, pickled; locked by who is at it
beam/RUN/0000000.result  what it returned or raised, pickled

A job is started under its lock and only while its file is there. So a runner may try a job twice, or have workers that
outlive a driver that was killed: who removes a job's file under its lock knows that nobody is at it, nor ever will be.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.metadata
import io
import logging
import os
import pickle
import shlex
import shutil
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import tfrecord_tools
from tfrecord_tools.base import files, workers
from tfrecord_tools.base.workers import Job, Result
from tfrecord_tools.errors import UserError, one_line

_POLL_SECONDS = 0.05
_LATE_SECONDS = 60.0  # NFS may show files of other machines half a minute late.
_GONE_SECONDS = 1.0  # Workers on this machine end as fast as that without their driver.
_CLOSE_SECONDS = 60.0  # A job may take minutes, as a shard of objects does. Whoever waits for an error waits no longer.
_END_SECONDS = 600.0
_WORKER_THREAD = "run_worker"  # Beam's name of the thread that waits for a worker process; it raises if that one fails.
_DECIDING = ("pillow", "pyarrow", "simplejpeg")
_LOGGERS = ("apache_beam", "grpc")
_HERE = ("directrunner", "direct", "switchingdirectrunner", "bundlebaseddirectrunner", "fnapirunner", "fnapi")


@dataclasses.dataclass(frozen=True)
class _Outcome:
    value: Any = None
    error: Exception | None = None


class BeamPool(workers.Pool):
    """Maps functions over jobs by a Beam pipeline each."""

    def __init__(self, options: list[str], directory: Path):
        super().__init__(None, 1)
        self._options = options
        self._directory = directory
        self._run: _Run | None = None
        self.died = threading.Event()

    def map(self, function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """Yields `function(job)` in the order of `jobs`, which are all written to files first.

        Raises:
            UserError: The pipeline failed.
        """
        self.died.clear()
        place = self._directory / uuid.uuid4().hex[:12]
        count = _write_jobs(place, function, jobs)
        self._run = run = _Run(self._options, place, count)
        try:
            for number in range(count):
                yield self._take(run, number)
        finally:
            self.close()

    def _take(self, run: _Run, number: int) -> Any:
        """Waits for a result and removes it."""
        path = _result(run.place, number)
        while not path.exists():
            self._check(run, path)
            time.sleep(_POLL_SECONDS)
        with open(path, "rb") as file:
            outcome: _Outcome = pickle.load(file)
        _job(run.place, number).unlink()  # First: a second try must never find the job without its result.
        path.unlink()
        if outcome.error is not None:
            raise outcome.error
        return outcome.value

    def _check(self, run: _Run, path: Path) -> None:
        """Raises UserError if the pipeline is over and this result will not come any more."""
        if self.died.is_set():  # Beam's own runner would wait for it forever.
            raise UserError(
                "a worker process of Beam died (killed, out of memory, or crashed in an image decoder)."
                " The same command continues."
            )
        if not run.place.is_dir():
            raise UserError(f"{run.place}: removed while Beam was at work. The same command continues.")
        if run.is_alive() or path.name in os.listdir(path.parent):  # NFS may answer exists() as it was before.
            return
        if run.error is None:
            if time.monotonic() < run.ended + _LATE_SECONDS:
                return
            raise UserError(
                f"Beam's pipeline ended ({run.state}), but its workers left no results in {path.parent}. The directory"
                " of --out must be one that the workers share with this machine, under the same path."
            )
        raise UserError(
            f"Beam's pipeline failed: {type(run.error).__name__}: {one_line(run.error, 'last')}. Mend the cause; the"
            " same command continues."
        ) from run.error

    def close(self) -> None:
        """Calls off the jobs that have not begun, and waits for the others; never raises, lest it hide an error.

        A job that takes too long is left to `end_earlier` of the next start, with its lock, under another name: workers
        on this machine end where they do not find the old one.
        """
        run, self._run = self._run, None
        if run is None:
            return
        if _call_off(run.place, _CLOSE_SECONDS):
            run.place.rename(run.place.with_suffix(".left"))
            run.join(_GONE_SECONDS)  # Quietly: Beam complains that they end.
            return
        if not self.died.is_set():
            run.join(_CLOSE_SECONDS)
        shutil.rmtree(run.place, ignore_errors=True)  # Its workers end where they do not find it.


class _Run(threading.Thread):
    """A pipeline that runs; a thread, so that results are taken as they come."""

    def __init__(self, options: list[str], place: Path, count: int):
        super().__init__(name="beam", daemon=True)
        self._options = options
        self._count = count
        self.place = place
        self.error: BaseException | None = None
        self.state = "UNKNOWN"
        self.ended = 0.0
        self.start()

    def run(self) -> None:
        import apache_beam as beam

        try:
            options, runner = _options_and_runner(self._options, self.place)
            pipeline = beam.Pipeline(runner=runner, options=options)
            numbers = pipeline | beam.Create([self._count]) | beam.FlatMap(_numbers) | beam.Reshuffle()
            numbers | beam.Map(functools.partial(work, str(self.place)))
            self.state = str(pipeline.run().wait_until_finish())
        except BaseException as error:  # noqa: BLE001  The driver reports it, whatever a runner raises.
            self.error = error
        self.ended = time.monotonic()


@contextlib.contextmanager
def pool(beam_options: str, directory: Path) -> Iterator[workers.Pool]:
    """A pool on Beam.

    Args:
        beam_options: Beam's own options, as a command line.
        directory: For jobs and results; driver and workers must see it under the same path.

    Raises:
        UserError: Beam is not installed, or refuses the options.
    """
    options = _split(beam_options)
    with _without_warnings():
        here = _check(options)
    beam_pool = BeamPool(options, directory)
    # Of a runner elsewhere, the log has the job's id and address.
    with _quiet(beam_pool.died) if here else _level(logging.INFO):
        try:
            yield beam_pool
        finally:
            beam_pool.close()
            with contextlib.suppress(OSError):
                directory.rmdir()


@contextlib.contextmanager
def _quiet(died: threading.Event) -> Iterator[None]:
    """Keeps Beam's tracebacks off the screen, since errors say it in a line; sets `died` when a worker process dies."""

    def note(failed: threading.ExceptHookArgs) -> None:
        if failed.thread is not None and failed.thread.name == _WORKER_THREAD:
            died.set()
        names = {frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(failed.exc_traceback)}
        if not {name.partition(".")[0] for name in names} & set(_LOGGERS):
            hook(failed)

    hook, threading.excepthook = threading.excepthook, note
    try:
        with _level(logging.CRITICAL):
            yield
    finally:
        threading.excepthook = hook


@contextlib.contextmanager
def _level(level: int) -> Iterator[None]:
    """Sets the level of Beam's loggers."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


def work(place: str, number: int) -> None:
    """Does a job, in a worker, unless it was called off, or a try before this one did it."""
    path = _job(Path(place), number)
    try:
        while (held := files.hold(path, create=False)) is None:
            time.sleep(_POLL_SECONDS)
    except FileNotFoundError:
        return
    with held:
        if _result(path.parent, number).exists():
            return
        outcome = _outcome(held.file)
        with files.atomic(_result(path.parent, number)) as result:
            pickle.dump(outcome, result)


def _outcome(file: BinaryIO) -> _Outcome:
    versions = pickle.load(file)
    other = {name: version for name, version in _versions().items() if version != versions[name]}
    if other:
        name = next(iter(other))
        return _Outcome(
            error=UserError(
                f"a worker of Beam has {name} {other[name]}, and the driver {versions[name]}: the output depends on it."
                " Install the same on all machines."
            )
        )
    try:
        function, job = pickle.load(file)
        return _Outcome(function(job))
    except Exception as error:  # noqa: BLE001  Raised again by the driver, as in a pool of processes.
        return _Outcome(error=error)


def end_earlier(directory: Path, log: Callable[[str], object]) -> None:
    """Makes sure that no worker of an earlier run is at work or begins to; nothing of that run is left.

    Raises:
        UserError: One is, and does not end.
    """
    if not directory.exists():
        return
    for place in directory.iterdir():
        if busy := _call_off(place, _GONE_SECONDS):
            log(f"{busy}: a worker of Beam is still at this job of an earlier run: waiting for it, up to ten minutes.")
            busy = _call_off(place, _END_SECONDS)
        if busy:
            raise UserError(
                f"{busy}: a worker of Beam is still at this job. Wait until it has ended, or end it (cancel its"
                " pipeline), and run the same command again."
            )
    shutil.rmtree(directory)


def _call_off(place: Path, seconds: float) -> Path | None:
    """Removes the files of jobs as soon as nobody is at them; returns one that somebody still is at in the end."""
    deadline = time.monotonic() + seconds
    while busy := [path for path in place.glob("*.job") if not _removed(path)]:
        if time.monotonic() >= deadline:
            return busy[0]
        time.sleep(_POLL_SECONDS)
    return None


def _removed(path: Path) -> bool:
    """Removes a job's file, so that nobody ever begins it; False if somebody is at it."""
    try:
        held = files.hold(path, create=False)
    except FileNotFoundError:
        return True
    if held is None:
        return False
    with held:
        path.unlink()
    return True


def _numbers(count: int) -> Iterator[int]:
    yield from range(count)


def _write_jobs(place: Path, function: Callable[[Job], Result], jobs: Iterable[Job]) -> int:
    place.mkdir(parents=True)
    versions = pickle.dumps(_versions())  # By itself, since another version may not be able to load the rest.
    count = 0
    for job in jobs:
        _job(place, count).write_bytes(versions + pickle.dumps((function, job)))
        count += 1
    return count


def _versions() -> dict[str, str]:
    """Of what decides the bytes that a worker writes."""
    return {name: importlib.metadata.version(name) for name in _DECIDING} | {
        "tfrecord_tools": tfrecord_tools.__version__
    }


def _job(place: Path, number: int) -> Path:
    return place / f"{number:07d}.job"


def _result(place: Path, number: int) -> Path:
    return place / f"{number:07d}.result"


def _split(beam_options: str) -> list[str]:
    try:
        return shlex.split(beam_options)
    except ValueError as error:
        raise UserError(f"--beam_options={beam_options}: {error}. It is read as a shell would read it.") from error


def _check(options: list[str]) -> bool:
    """Whether the runner is on this machine.

    Raises:
        UserError: Beam is missing, or will not take these options.
    """
    try:
        from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
        from apache_beam.runners.runner import create_runner
    except ImportError as error:
        raise UserError(
            f"--engine=beam needs Apache Beam ({error}): pip install 'tfrecord-tools[beam]'. Or leave --engine out."
        ) from error
    shown = f"--beam_options={shlex.join(options)}"
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):  # Where argparse says what is wrong, before it exits.
            parsed = PipelineOptions(options)
            known = parsed.get_all_options().keys()
            unknown = parsed.get_all_options(retain_unknown_options=True).keys() - known
    except SystemExit as error:
        raise UserError(f"{shown}: refused by Beam: {said.getvalue().strip().rpartition('error: ')[2]}.") from error
    runner = parsed.view_as(StandardOptions).runner or "DirectRunner"
    try:
        create_runner(runner)
    except (ValueError, ImportError, AttributeError) as error:
        raise UserError(f"{shown}: {error}") from error
    if unknown and _is_here(runner):  # Others may know options that Beam for Python does not.
        raise UserError(f"{shown}: Beam has no option {', '.join(f'--{name}' for name in sorted(unknown))}.")
    return _is_here(runner)


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Importing Beam warns of packages that only Google's services need, and its options of those it does not know."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        yield
    finally:
        logging.disable(before)


def _is_here(runner: str) -> bool:
    return runner.rpartition(".")[2].lower() in _HERE


def _options_and_runner(options: list[str], place: Path) -> tuple[Any, Any]:
    """Returns Beam's options and the runner, None if the options name it.

    `DirectRunner` would first try to download Prism, a runner in Go, and fall back to `FnApiRunner` where it cannot: it
    is used at once. Its worker processes are ours: they end with this one.
    """
    from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner
    from apache_beam.transforms.environments import SubprocessSDKEnvironment

    parsed = PipelineOptions(options)
    if not _is_here(parsed.view_as(StandardOptions).runner or "DirectRunner"):
        return parsed, None
    direct = parsed.view_as(DirectOptions)
    if direct.direct_running_mode != "multi_processing":
        return parsed, FnApiRunner()
    direct.direct_running_mode = "in_memory"  # Else it would start Beam's own worker instead.
    program = f"from tfrecord_tools.conversion import beam_worker; beam_worker.main({str(place)!r}, {os.getpid()})"
    command = shlex.join([sys.executable, "-c", program])
    return parsed, FnApiRunner(SubprocessSDKEnvironment.from_command_string(f"exec {command}"))
