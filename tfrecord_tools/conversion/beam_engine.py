"""Run the jobs of a conversion on Apache Beam, as a `workers.Pool`.

The options of Beam choose the runner, the program that distributes the jobs. The driver is the process of the command.
The driver and the workers share a directory with the jobs and the results. The pipeline itself carries only job
numbers.

beam/RUN/0000000.job     pickled: the driver's package versions, then function and argument
beam/RUN/0000000.result  the returned value or the raised exception, pickled

A worker runs a job only while it holds the lock of the job's file. To cancel a job, the driver takes this lock and
removes the file. After that, no worker runs the job. This holds even if the runner starts the job again, or if the
driver was killed and a worker is still running.
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
from tfrecord_tools.conversion import dask_cluster
from tfrecord_tools.errors import UserError, one_line

_POLL_SECONDS = 0.05
_LATE_SECONDS = 60.0  # NFS may show files of other machines half a minute late.
_GONE_SECONDS = 1.0  # After the driver ends, workers on this machine end within this time.
_CLOSE_SECONDS = 60.0  # The limit exists because some jobs take minutes, and an error is reported after the wait.
_END_SECONDS = 600.0
_WORKER_THREAD = "run_worker"  # Beam's thread that waits for a worker process and raises if the process fails.
_OUTPUT_PACKAGES = ("pillow", "pyarrow", "simplejpeg")  # The output's bytes depend on their versions.
_JOB_LOCK = threading.Lock()  # Runners use threads, but Pillow's switch for incomplete images is global.
_LOGGERS = ("apache_beam", "grpc", "distributed", "distributed.client")
_MAX_PARTS = 10_000  # Dask keeps a task per part in memory, and slows down beyond about 100,000 tasks.
_LOCAL_RUNNERS = ("directrunner", "direct", "switchingdirectrunner", "bundlebaseddirectrunner", "fnapirunner", "fnapi")


@dataclasses.dataclass(frozen=True)
class _Outcome:
    value: Any = None
    error: Exception | None = None


class BeamPool(workers.Pool):
    """A pool that runs each `map` as a Beam pipeline."""

    def __init__(self, options: list[str], directory: Path, log: Callable[[str], object] = print):
        super().__init__(None, 1)
        self._options = options
        self._log = log
        self._directory = directory
        self._run: _Run | None = None
        self.died = threading.Event()

    def map(self, function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """Yield `function(job)` in the order of `jobs`. All jobs are written to files first.

        Args:
            function: The function. It must be picklable.
            jobs: The argument of each call. It must be picklable.

        Raises:
            UserError: The pipeline failed.
            Exception: The exception that `function` raised in a worker.
        """
        self.died.clear()
        job_directory = self._directory / uuid.uuid4().hex[:12]
        count = _write_jobs(job_directory, function, jobs)
        if not count:
            job_directory.rmdir()
            return
        self._run = run = _Run(self._options, job_directory, count, self._log)
        try:
            for number in range(count):
                yield self._pop_result(run, number)
        finally:
            self.close()

    def _pop_result(self, run: _Run, number: int) -> Any:
        """Wait for a result, remove its files and return it."""
        path = _result(run.job_directory, number)
        while not path.exists():
            self._check(run, path)
            time.sleep(_POLL_SECONDS)
        with open(path, "rb") as file:
            outcome: _Outcome = pickle.load(file)
        _job(run.job_directory, number).unlink()  # The result is removed later: without it, a retry runs the job again.
        path.unlink()
        if outcome.error is not None:
            raise outcome.error
        return outcome.value

    def _check(self, run: _Run, path: Path) -> None:
        """Raise UserError if this result will never come."""
        if self.died.is_set():  # Beam's own runner would wait for it forever.
            raise UserError(
                "a worker process of Beam died (killed, out of memory, or crashed in an image decoder)."
                " Run the same command again to continue."
            )
        if not run.job_directory.is_dir():
            raise UserError(
                f"{run.job_directory}: the directory was removed while Beam was running."
                " Run the same command again to continue."
            )
        if run.is_alive() or path.name in os.listdir(path.parent):  # On NFS, exists() may be out of date.
            return
        if run.error is None:
            if time.monotonic() < run.ended + _LATE_SECONDS:
                return
            raise UserError(
                f"Beam's pipeline ended ({run.state}), but its workers left no results in {path.parent}. All workers"
                " and this machine must be able to use this directory under the same path."
            )
        raise UserError(
            f"Beam's pipeline failed: {type(run.error).__name__}: {one_line(run.error, 'last')}. Fix the cause, then"
            " run the same command again to continue."
        ) from run.error

    def close(self) -> None:
        """Cancel the jobs that have not begun and wait for the others.

        This method never raises an exception, because it could hide an earlier error. If a job takes too long, its
        directory is renamed, and the workers on this machine end. Workers on other machines may still run; the next
        run waits for them in `end_earlier`.
        """
        run, self._run = self._run, None
        if run is None:
            return
        run.stop.set()
        if _cancel_jobs(run.job_directory, _CLOSE_SECONDS):
            run.job_directory.rename(run.job_directory.with_suffix(".left"))
            run.join(_GONE_SECONDS)  # Beam's log is still off here. Otherwise, it would print that the workers end.
            return
        if not self.died.is_set():
            run.join(_CLOSE_SECONDS)
        shutil.rmtree(run.job_directory, ignore_errors=True)  # Workers end when the directory is gone.


class _Run(threading.Thread):
    """A thread that runs a pipeline, so that results can be read while it runs."""

    def __init__(self, options: list[str], job_directory: Path, count: int, log: Callable[[str], object]):
        super().__init__(name="beam", daemon=True)
        self._options = options
        self._count = count
        self._log = log
        self.job_directory = job_directory
        self.stop = threading.Event()
        self.error: BaseException | None = None
        self.state = "UNKNOWN"
        self.ended = 0.0
        self.start()

    def run(self) -> None:
        import apache_beam as beam

        try:
            options, runner = _options_and_runner(self._options, self.job_directory)
            pipeline = beam.Pipeline(runner=runner, options=options)
            size = -(-self._count // _MAX_PARTS)
            parts = pipeline | beam.Create(range(0, self._count, size))
            numbers = parts | beam.FlatMap(functools.partial(_numbers, size, self._count)) | beam.Reshuffle()
            numbers | beam.Map(functools.partial(work, str(self.job_directory)))
            result = pipeline.run()
            on_dask = dask_cluster.is_runner(_runner_name(options))
            self.state = dask_cluster.wait(result, self.stop, self._log) if on_dask else str(result.wait_until_finish())
        except BaseException as error:  # noqa: BLE001  The driver reports it, whatever a runner raises.
            self.error = error
        self.ended = time.monotonic()


@contextlib.contextmanager
def pool(
    beam_options: str, directory: Path, dask: str = "", log: Callable[[str], object] = print
) -> Iterator[workers.Pool]:
    """Open a pool on Beam, and close it at the end.

    Args:
        beam_options: Beam's own options, as a command line.
        directory: Directory for jobs and results. Driver and workers must see it under the same path.
        dask: Address of a Dask scheduler, used in place of `beam_options`.
        log: Called with each line about the workers of Dask.

    Raises:
        UserError: Beam is not installed, Beam refuses the options, or no Dask scheduler answers.
    """
    with _without_warnings():
        if dask:
            dask_cluster.check(dask, log)
        options = _split(dask_cluster.options(dask) if dask else beam_options)
        runner = _check(options)
    beam_pool = BeamPool(options, directory, log)
    with _quiet(beam_pool.died) if _is_local(runner) else _level(_level_of(runner)):
        try:
            yield beam_pool
        finally:
            beam_pool.close()
            with contextlib.suppress(OSError):
                directory.rmdir()


@contextlib.contextmanager
def _quiet(died: threading.Event) -> Iterator[None]:
    """Hide Beam's tracebacks, and set `died` when a worker process dies.

    The tracebacks are not needed, because the driver reports each error in one line.
    """

    def on_exception(failed: threading.ExceptHookArgs) -> None:
        if failed.thread is not None and failed.thread.name == _WORKER_THREAD:
            died.set()
        names = {frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(failed.exc_traceback)}
        if not {name.partition(".")[0] for name in names} & set(_LOGGERS):
            hook(failed)

    hook, threading.excepthook = threading.excepthook, on_exception
    try:
        with _level(logging.CRITICAL):
            yield
    finally:
        threading.excepthook = hook


def _level_of(runner: str) -> int:
    """Return INFO for remote runners, because they log the id and address of the job. Dask does not."""
    return logging.CRITICAL if dask_cluster.is_runner(runner) else logging.INFO


@contextlib.contextmanager
def _level(level: int) -> Iterator[None]:
    """Set the level of Beam's loggers."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


def work(job_directory: str, number: int) -> None:
    """Run a job in a worker. Do nothing if the job was canceled or is already finished."""
    with _JOB_LOCK:
        _work(_job(Path(job_directory), number), _result(Path(job_directory), number))


def _work(path: Path, result_path: Path) -> None:
    try:
        while (held := files.hold(path, create=False)) is None:
            time.sleep(_POLL_SECONDS)
    except FileNotFoundError:
        return
    with held:
        if result_path.exists():
            return
        outcome = _outcome(held.file)
        with files.atomic(result_path) as result:
            pickle.dump(outcome, result)


def _outcome(file: BinaryIO) -> _Outcome:
    versions = pickle.load(file)
    differing = {name: version for name, version in _versions().items() if version != versions[name]}
    if differing:
        name = next(iter(differing))
        return _Outcome(
            error=UserError(
                f"a worker of Beam has {name} {differing[name]}, but this command has {versions[name]}. The output"
                " depends on the version. Install the same version on all machines."
            )
        )
    try:
        function, job = pickle.load(file)
        return _Outcome(function(job))
    except Exception as error:  # noqa: BLE001  Raised again by the driver, as in a pool of processes.
        return _Outcome(error=error)


def end_earlier(directory: Path, log: Callable[[str], object]) -> None:
    """Wait until no worker of an earlier run is active, then remove the files of that run.

    Args:
        directory: The `directory` that was given to `pool`.
        log: Called with a line if the wait is long.

    Raises:
        UserError: A worker is still running a job after ten minutes.
    """
    if not directory.exists():
        return
    for job_directory in directory.iterdir():
        if busy := _cancel_jobs(job_directory, _GONE_SECONDS):
            log(
                f"{busy}: a worker of Beam is still running this job of an earlier run. This command waits up to ten"
                " minutes until that worker ends."
            )
            busy = _cancel_jobs(job_directory, _END_SECONDS)
        if busy:
            raise UserError(
                f"{busy}: a worker of Beam is still running this job. Wait until the worker ends, or cancel the"
                " pipeline of the job. Then run the same command again."
            )
    shutil.rmtree(directory)


def _cancel_jobs(job_directory: Path, seconds: float) -> Path | None:
    """Remove the files of jobs that do not run; return the file of a job that still runs after `seconds`."""
    deadline = time.monotonic() + seconds
    while busy := [path for path in job_directory.glob("*.job") if not _removed(path)]:
        if time.monotonic() >= deadline:
            return busy[0]
        time.sleep(_POLL_SECONDS)
    return None


def _removed(path: Path) -> bool:
    """Remove a job's file, so that the job cannot start; return False if a worker is running the job."""
    try:
        held = files.hold(path, create=False)
    except FileNotFoundError:
        return True
    if held is None:
        return False
    with held:
        path.unlink()
    return True


def _numbers(size: int, count: int, start: int) -> Iterator[int]:
    yield from range(start, min(start + size, count))


def _write_jobs(job_directory: Path, function: Callable[[Job], Result], jobs: Iterable[Job]) -> int:
    job_directory.mkdir(parents=True)
    versions = pickle.dumps(_versions())  # A pickle of its own: workers with other versions may fail to load the job.
    count = 0
    for job in jobs:
        _job(job_directory, count).write_bytes(versions + pickle.dumps((function, job)))
        count += 1
    return count


def _versions() -> dict[str, str]:
    """Return the versions of all packages on which the output's bytes depend."""
    packages = {name: importlib.metadata.version(name) for name in _OUTPUT_PACKAGES}
    return packages | {"tfrecord_tools": tfrecord_tools.__version__}


def _job(job_directory: Path, number: int) -> Path:
    return job_directory / f"{number:07d}.job"


def _result(job_directory: Path, number: int) -> Path:
    return job_directory / f"{number:07d}.result"


def _split(beam_options: str) -> list[str]:
    try:
        return shlex.split(beam_options)
    except ValueError as error:
        raise UserError(
            f"--beam_options={beam_options}: {error}. The options must be quoted as on a command line. Correct the"
            " quotes."
        ) from error


def _check(options: list[str]) -> str:
    """Return the runner's name.

    Raises:
        UserError: Beam is not installed or refuses the options.
    """
    try:
        from apache_beam.options.pipeline_options import PipelineOptions
        from apache_beam.runners.runner import create_runner
    except ImportError as error:
        raise UserError(
            f"--engine=beam needs Apache Beam ({error}): pip install 'tfrecord-tools[beam]'. Or remove --engine."
        ) from error
    shown = f"--beam_options={shlex.join(options)}"
    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr):  # Beam uses argparse, which prints the problem before it exits.
            parsed = PipelineOptions(options)
            known = parsed.get_all_options().keys()
            unknown = parsed.get_all_options(retain_unknown_options=True).keys() - known
    except SystemExit as error:
        raise UserError(
            f"{shown}: Beam does not accept these options: {stderr.getvalue().strip().rpartition('error: ')[2]}."
        ) from error
    runner = _runner_name(parsed)
    try:
        create_runner(runner)
    except (ValueError, ImportError, AttributeError) as error:
        raise UserError(f"{shown}: {error}") from error
    if unknown and _is_local(runner):  # Other runners may know options that Beam for Python does not.
        raise UserError(
            f"{shown}: Beam has no option {', '.join(f'--{name}' for name in sorted(unknown))}. Correct or remove the"
            " option."
        )
    return runner


def _runner_name(parsed: Any) -> str:
    from apache_beam.options.pipeline_options import StandardOptions

    return parsed.view_as(StandardOptions).runner or "DirectRunner"


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Hide warnings about packages for Google's services, and about options that Beam does not know."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        yield
    finally:
        logging.disable(before)


def _is_local(runner: str) -> bool:
    return runner.rpartition(".")[2].lower() in _LOCAL_RUNNERS


def _options_and_runner(options: list[str], job_directory: Path) -> tuple[Any, Any]:
    """Return Beam's options and the runner. If the runner is None, Beam creates it from the options.

    `FnApiRunner` replaces `DirectRunner`, because `DirectRunner` would try to download Prism, a runner in Go, and then
    use `FnApiRunner` anyway. The worker processes run `beam_worker`, so that they end with this process.
    """
    from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner
    from apache_beam.transforms.environments import SubprocessSDKEnvironment

    parsed = PipelineOptions(options)
    if dask_cluster.is_runner(_runner_name(parsed)):
        dask_cluster.use_all_workers(parsed)
    if not _is_local(_runner_name(parsed)):
        return parsed, None
    direct = parsed.view_as(DirectOptions)
    if direct.direct_running_mode != "multi_processing":
        return parsed, FnApiRunner()
    direct.direct_running_mode = "in_memory"  # "multi_processing" would start Beam's own worker.
    program = (
        f"from tfrecord_tools.conversion import beam_worker; beam_worker.main({str(job_directory)!r}, {os.getpid()})"
    )
    command = shlex.join([sys.executable, "-c", program])
    return parsed, FnApiRunner(SubprocessSDKEnvironment.from_command_string(f"exec {command}"))
