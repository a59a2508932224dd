"""Tests of conversion on Apache Beam: the same bytes as locally, after kills too; one-line errors."""

from __future__ import annotations

import fcntl
import functools
import logging
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from image_sources import REPOSITORY, contents, converted, image, run, start, with_splits
from killed_runs import in_survey, in_write, many_images, without_bars
from local_dask import until
from s3_bucket import Bucket

from tfrecord_tools.conversion import beam_engine
from tfrecord_tools.convert import ConvertConfig, convert
from tfrecord_tools.errors import UserError

MODULE = "tfrecord_tools.convert"
WORK = beam_engine.work
TESTS = Path(__file__).parents[1]
IMPORTABLE = os.pathsep.join(map(str, (REPOSITORY, TESTS / "conversion", TESTS / "helpers")))  # PYTHONPATH of workers.

with_beam = pytest.mark.interop


def processes(count: int) -> str:
    return f"--runner=DirectRunner --direct_running_mode=multi_processing --direct_num_workers={count}"


def on_beam(count: int = 2) -> list[str]:
    return ["--engine=beam", f"--beam_options={processes(count)}"]


# --- Refused settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"engine": "spark"}, r"--engine=spark: must be one of local, beam\."),
        (
            {"beam_options": "--x"},
            r"--beam_options=--x: only --engine=beam uses these options\. Add --engine=beam, or remove",
        ),
        (
            {"engine": "beam", "workers": 2},
            r"--workers=2: cannot be combined with --engine=beam\. Set .* in --beam_options, for example",
        ),
        (
            {"engine": "beam", "dry_run": True},
            r"with --dry_run, because a dry run always uses this machine\. Remove --engine\.",
        ),
    ],
)
def test_contradicting_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ConvertConfig(src="pets", **settings)


def test_error_without_beam_names_the_extra(
    split_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "apache_beam.options.pipeline_options", None)
    with pytest.raises(UserError, match=r"needs Apache Beam .*: pip install 'tfrecord-tools\[beam\]'\. Or remove"):
        converted(split_source, tmp_path / "out", workers=None, engine="beam")
    assert os.listdir(tmp_path) == []


@with_beam
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "--direct_num_workers=two",
            "Beam does not accept these options: argument --direct_num_workers: invalid int value: 'two'.",
        ),
        ("--direct_num_wokers=2", "Beam has no option --direct_num_wokers."),
        ("--runner=NoRunner", "Unexpected pipeline runner: NoRunner. Valid values are DataflowRunner, "),
        ("'--runner", "No closing quotation. The options must be quoted as on a command line. Correct the quotes."),
    ],
)
def test_options_that_beam_refuses_are_named(split_source: Path, tmp_path: Path, options: str, message: str) -> None:
    done = run(MODULE, f"--src={split_source}", "--engine=beam", f"--beam_options={options}", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: --beam_options=")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert os.listdir(tmp_path) == []


# --- Jobs: a lock and a file ---------------------------------------------------------------------------------------


def note(path: str) -> int:
    """Count a run of this job in a file."""
    with open(path, "a") as file:
        return file.write("x")


@pytest.fixture
def job_directory(tmp_path: Path) -> Path:
    """Return a directory of two jobs that call `note` with the files `0` and `1`."""
    job_directory = tmp_path / "beam/run"
    beam_engine._write_jobs(job_directory, note, [str(tmp_path / "0"), str(tmp_path / "1")])
    return job_directory


def test_a_retried_job_runs_once(job_directory: Path, tmp_path: Path) -> None:
    beam_engine.work(str(job_directory), 0)
    beam_engine.work(str(job_directory), 0)
    assert (tmp_path / "0").read_text() == "x"
    assert not (tmp_path / "1").exists()


def test_jobs_of_an_earlier_run_do_not_start(job_directory: Path, tmp_path: Path) -> None:
    beam_engine.end_earlier(tmp_path / "beam", print)
    beam_engine.work(str(job_directory), 0)  # As a worker does that outlives its driver.
    assert os.listdir(tmp_path) == []


def test_running_job_of_an_earlier_run_is_awaited(job_directory: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    waiting = (
        "a worker of Beam is still running this job of an earlier run. This command waits up to ten minutes until that"
        " worker ends."
    )
    with open(job_directory / "0000000.job", "r+b") as busy:
        fcntl.flock(busy, fcntl.LOCK_EX)
        ending = threading.Thread(target=beam_engine.end_earlier, args=(tmp_path / "beam", lines.append))
        ending.start()
        until(lambda: lines, 10)
        assert ending.is_alive()
        assert os.listdir(job_directory) == ["0000000.job"]  # The other job is canceled at once.
    ending.join(10)
    assert not ending.is_alive()
    assert lines == [f"{job_directory}/0000000.job: {waiting}"]
    assert os.listdir(tmp_path) == []


def test_error_names_a_job_that_does_not_end(
    job_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beam_engine, "_GONE_SECONDS", 0.1)
    monkeypatch.setattr(beam_engine, "_END_SECONDS", 0.1)
    with open(job_directory / "0000001.job", "r+b") as busy:
        fcntl.flock(busy, fcntl.LOCK_EX)
        with pytest.raises(
            UserError, match=r"0000001\.job: a worker of Beam is still running this job\. Wait until the worker ends"
        ):
            beam_engine.end_earlier(tmp_path / "beam", print)


def test_close_hides_no_error_while_a_job_is_running(
    job_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beam_engine, "_CLOSE_SECONDS", 0.1)
    monkeypatch.setattr(beam_engine, "_GONE_SECONDS", 0.1)
    monkeypatch.setattr(beam_engine, "_END_SECONDS", 0.1)
    pool = beam_engine.BeamPool([], tmp_path / "beam")
    pool._run = SimpleNamespace(job_directory=job_directory, join=time.sleep, stop=threading.Event())  # type: ignore[assignment]
    with open(job_directory / "0000001.job", "r+b") as busy:
        fcntl.flock(busy, fcntl.LOCK_EX)
        pool.close()
        assert not job_directory.exists()  # Local workers end when it is gone.
        with pytest.raises(UserError, match=r"0000001\.job: a worker of Beam is still running this job\."):
            beam_engine.end_earlier(tmp_path / "beam", print)
    beam_engine.end_earlier(tmp_path / "beam", print)
    assert os.listdir(tmp_path) == []


def test_worker_exits_with_0_when_its_jobs_are_removed(tmp_path: Path) -> None:
    """Beam treats any other code as a crash."""
    program = (
        "import os; from tfrecord_tools.conversion import beam_worker;"
        f" beam_worker._end_without({str(tmp_path / 'x')!r}, os.getppid())"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY).returncode == 0


def test_worker_with_other_versions_is_refused(
    job_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beam_engine.tfrecord_tools, "__version__", "0")
    beam_engine.work(str(job_directory), 0)
    outcome = pickle.loads((job_directory / "0000000.result").read_bytes())
    assert str(outcome.error).startswith("a worker of Beam has tfrecord_tools 0, but this command has ")
    assert not (tmp_path / "0").exists()


def test_waiting_retry_finds_the_job_finished(job_directory: Path, tmp_path: Path) -> None:
    with open(job_directory / "0000000.job", "r+b") as busy:
        fcntl.flock(busy, fcntl.LOCK_EX)
        second = threading.Thread(target=beam_engine.work, args=(str(job_directory), 0))
        second.start()
        second.join(0.2)
        os.unlink(job_directory / "0000000.job")  # As the driver does after it has read the result.
    second.join(10)
    assert sorted(os.listdir(tmp_path)) == ["beam"]


# --- On Beam -------------------------------------------------------------------------------------------------------


def fail(value: int) -> int:
    if value == 2:
        raise UserError(f"job {value} fails")
    return value


@with_beam
@pytest.mark.parametrize("options", ["", processes(2)], ids=["here", "processes"])
def test_results_are_in_order_and_errors_are_raised_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    monkeypatch.setenv("PYTHONPATH", IMPORTABLE)  # Workers import `fail` from there.
    hook = threading.excepthook
    with beam_engine.pool(options, tmp_path / "beam") as pool:
        assert list(pool.map(abs, range(-20, 0))) == list(range(20, 0, -1))
        assert list(pool.map(abs, [])) == []
        with pytest.raises(UserError, match=r"^job 2 fails$"):
            list(pool.map(fail, range(4)))
        with pytest.raises(FileNotFoundError, match="no such job_directory"):
            list(pool.map(os.listdir, ["no such job_directory"]))
    assert os.listdir(tmp_path) == []
    assert threading.excepthook is hook


@with_beam
def test_error_if_workers_see_another_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beam_engine, "work", lambda job_directory, number: None)  # As if the path did not exist there.
    monkeypatch.setattr(beam_engine, "_LATE_SECONDS", 0.2)
    with (
        pytest.raises(
            UserError,
            match=r"left no results in .*All workers and this machine must be able to use this directory under",
        ),
        beam_engine.pool("", tmp_path / "beam") as pool,
    ):
        list(pool.map(abs, [1]))


def later(job_directory: str, number: int) -> None:
    """Write the result after the pipeline has ended, like a file on another machine that NFS shows late."""
    threading.Timer(3, WORK, (job_directory, number)).start()


@with_beam
def test_late_results_are_awaited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beam_engine, "work", later)
    with beam_engine.pool("", tmp_path / "beam") as pool:
        assert list(pool.map(abs, [-1, -2])) == [1, 2]


@with_beam
def test_error_if_the_directory_is_removed(tmp_path: Path) -> None:
    with (
        pytest.raises(
            UserError,
            match=r"beam/[0-9a-f]*: the directory was removed while Beam was running\. Run the same command again",
        ),
        beam_engine.pool("", tmp_path / "beam") as pool,
    ):
        list(pool.map(shutil.rmtree, [tmp_path / "beam"]))


@with_beam
def test_late_worker_does_not_take_the_next_jobs(tmp_path: Path) -> None:
    with beam_engine.pool("", tmp_path / "beam") as pool:
        assert list(pool.map(abs, [-1])) == [1]
        pool.died.set()
        assert list(pool.map(abs, [-1])) == [1]


@with_beam
@pytest.mark.parametrize(
    ("options", "level"), [("", logging.CRITICAL), ("--runner=FlinkRunner", logging.INFO)], ids=["here", "elsewhere"]
)
def test_log_level_depends_on_the_runner(tmp_path: Path, options: str, level: int) -> None:
    """Logs of remote runners have the job's id and address. At the end, the old levels are restored."""
    logger = logging.getLogger("apache_beam")
    before, hook = logger.level, threading.excepthook
    logging.disable(logging.DEBUG)
    try:
        with beam_engine.pool(options, tmp_path / "beam"):
            assert logger.getEffectiveLevel() == level
        assert logging.root.manager.disable == logging.DEBUG
    finally:
        logging.disable(logging.NOTSET)
    assert (logger.level, threading.excepthook) == (before, hook)


def wait_or_fail(begun: Path, number: int) -> None:
    """Fail in job 0. Jobs that begin later take long. Others are short, since Beam chooses the order."""
    if number == 0:
        begun.touch()
        time.sleep(2)
        raise UserError("job 0 fails")
    time.sleep(100 if begun.exists() else 0.5)


def map_in_vain(directory: str) -> None:
    beam_engine._CLOSE_SECONDS = 1.0
    with beam_engine.pool(processes(2), Path(directory)) as pool:
        list(pool.map(functools.partial(wait_or_fail, Path(f"{directory}.begun")), range(10)))


@with_beam
def test_error_is_raised_while_another_job_is_running(tmp_path: Path) -> None:
    program = f"import beam_test; beam_test.map_in_vain({str(tmp_path / 'beam')!r})"
    environment = {**os.environ, "PYTHONPATH": IMPORTABLE}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=90)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("UserError: job 0 fails")
    beam_engine.end_earlier(tmp_path / "beam", print)
    assert os.listdir(tmp_path) == ["beam.begun"]


@with_beam
def test_workers_write_into_a_bucket(bucket: Bucket, tmp_path: Path) -> None:
    source = with_splits(tmp_path / "pets", train=30, validation=20)
    converted(source, tmp_path / "local", shards=12)
    done = run(MODULE, "--src=pets", "--shards=12", f"--out={bucket.url}/pets", *on_beam(), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert bucket.contents("pets") == contents(tmp_path / "local")
    (source / "train/cats/new.jpg").write_bytes(image("new"))
    converted(source, tmp_path / "local", update=True)
    update = [f"--update_from={bucket.url}/pets", f"--out={bucket.url}/new", "--work_dir=work"]
    done = run(MODULE, "--src=pets", *update, *on_beam(), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert bucket.contents("new") == contents(tmp_path / "local")
    assert sorted(os.listdir(tmp_path)) == ["local", "pets"]


@with_beam
@pytest.mark.parametrize("count", [1, 2, 4])
def test_bytes_equal_those_of_the_local_engine(tmp_path: Path, count: int) -> None:
    source = with_splits(tmp_path / "pets", train=30, validation=20)
    (source / "train/cats/bad.jpg").write_bytes(b"<html>")
    converted(source, tmp_path / "local", shards=12)
    done = run(MODULE, "--src=pets", "--shards=12", *on_beam(count), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert contents(tmp_path / "out") == contents(tmp_path / "local")
    assert sorted(os.listdir(tmp_path)) == ["local", "out", "pets"]


@with_beam
def test_update_on_beam_equals_a_local_update(tmp_path: Path) -> None:
    source = with_splits(tmp_path / "pets", train=8, validation=4)
    for out in ("local", "beam"):
        converted(source, tmp_path / out, shards=4)
    (source / "train/cats/new.jpg").write_bytes(image("new"))
    converted(source, tmp_path / "local", update=True)
    converted(source, tmp_path / "beam", update=True, engine="beam", workers=None)
    assert contents(tmp_path / "beam") == contents(tmp_path / "local")


@with_beam
def test_bad_image_stops_beam_like_the_local_engine(split_source: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(split_source, tmp_path / "pets"))
    (source / "train/cats/bad.jpg").write_bytes(b"<html>")
    messages = []
    for settings in ({"workers": 1}, {"workers": None, "engine": "beam"}):
        config = ConvertConfig(src=str(source), out=str(tmp_path / "out"), on_bad_image="fail", **settings)
        with pytest.raises(UserError, match=r"bad\.jpg: not an image") as caught:
            convert(config, log=lambda line: None)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


# --- Killed --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return many_images(tmp_path_factory.mktemp("many"), 8_000)


def workers_of(driver: int) -> Iterator[int]:
    """Yield the process ids of Beam's workers that are children of `driver`."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:  # The process has ended.
                continue
            if any(b"beam_worker.main(" in word for word in words) and parent == driver:
                yield int(entry.name)


@with_beam
@pytest.mark.parametrize("moment", [in_survey, in_write])
@pytest.mark.parametrize("victim", ["worker", "driver"])
def test_rerun_after_a_kill_writes_the_same_bytes(
    many: Path, tmp_path: Path, moment: Callable[[Path], bool], victim: str
) -> None:
    flags = [f"--src={many / 'pets'}", "--shards=40", *on_beam()]
    out, partial = tmp_path / "out", tmp_path / "out.partial"
    with start(MODULE, *flags, cwd=tmp_path) as process:
        until(lambda: moment(partial) or process.poll() is not None)
        workers = list(workers_of(process.pid))
        assert len(workers) == 2
        os.kill(process.pid if victim == "driver" else workers[0], signal.SIGKILL)
        _, err = process.communicate(timeout=120)
    assert not out.exists()
    if victim == "worker":
        assert process.returncode == 1
        assert err.startswith("error: a worker process of Beam died (killed, out of memory, or crashed in an image")
        assert "Run the same command again to continue." in err
        assert "Traceback" not in err
    saved = len(list(partial.glob("survey/*.npz")))
    assert saved
    rerun = run(MODULE, *flags, cwd=tmp_path)  # At once, while workers of the killed driver may still run a job.
    assert (rerun.returncode, without_bars(rerun.stderr)) == (0, [])
    assert "continuing an interrupted conversion" in rerun.stdout
    assert contents(out) == contents(many / "local")
    assert os.listdir(tmp_path) == ["out"]
    until(lambda: not any(alive(worker) for worker in workers), 10)


@with_beam
def test_local_engine_continues_a_conversion_on_beam(many: Path, tmp_path: Path) -> None:
    flags = [f"--src={many / 'pets'}", "--shards=40"]
    with start(MODULE, *flags, *on_beam(), cwd=tmp_path) as process:
        until(lambda: in_write(tmp_path / "out.partial"))
        process.kill()
    rerun = run(MODULE, *flags, "--workers=2", cwd=tmp_path)
    assert (rerun.returncode, without_bars(rerun.stderr)) == (0, [])
    assert contents(tmp_path / "out") == contents(many / "local")
    assert os.listdir(tmp_path) == ["out"]


@with_beam
def test_interrupt_ends_it_within_seconds(many: Path, tmp_path: Path) -> None:
    flags = [f"--src={many / 'pets'}", *on_beam()]
    with start(MODULE, *flags, cwd=tmp_path, start_new_session=True) as process:
        until(lambda: in_survey(tmp_path / "out.partial"))
        workers = list(workers_of(process.pid))
        sent = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)  # A terminal also sends the signal to the workers.
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip() == "interrupted: run the same command again to continue"
    assert time.monotonic() - sent < 15
    until(lambda: not any(alive(worker) for worker in workers), 10)


def alive(process: int) -> bool:
    return Path(f"/proc/{process}/cmdline").exists() and bool(Path(f"/proc/{process}/cmdline").read_bytes())
