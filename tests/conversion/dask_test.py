"""Tests of conversion on Dask: the same bytes as locally, after kills too; one-line errors."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from image_sources import contents, converted, run, start, with_splits
from killed_runs import in_survey, in_write, many_images, without_bars
from local_dask import Cluster, until

from tfrecord_tools.conversion import beam_engine, dask_cluster
from tfrecord_tools.convert import ConvertConfig
from tfrecord_tools.errors import UserError

MODULE = "tfrecord_tools.convert"
NOBODY = "tcp://127.0.0.1:9"  # The port of the service `discard`, which does not run.
TESTS = Path(__file__).parents[1]
IMPORTABLE = (TESTS / "conversion", TESTS / "helpers")  # PYTHONPATH of workers.

with_dask = pytest.mark.interop


# --- Refused settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "name"),
    [({"beam_options": "--x"}, "beam_options"), ({"workers": 2}, "workers"), ({"dry_run": True}, "dry_run")],
)
def test_contradicting_settings_are_refused(settings: dict[str, Any], name: str) -> None:
    message = rf"^--dask=tcp://x:1: cannot be combined with --{name}\. Remove one of the two flags\.$"
    with pytest.raises(UserError, match=message):
        ConvertConfig(src="pets", dask="tcp://x:1", **settings)


def test_error_without_a_package_names_the_extra(
    split_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "dask", None)
    with pytest.raises(UserError, match=r"--dask=x:1: a package is missing .*: pip install 'tfrecord-tools\[dask\]'\."):
        converted(split_source, tmp_path / "out", workers=None, dask="x:1")
    assert os.listdir(tmp_path) == []


@with_dask
@pytest.mark.parametrize("address", [NOBODY, "strange://127.0.0.1:1", "no.json"])
def test_nothing_is_written_if_no_scheduler_answers(split_source: Path, tmp_path: Path, address: str) -> None:
    done = run(MODULE, f"--src={split_source}", f"--dask={address}", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        f"error: --dask={address}: no Dask scheduler answers. --dask must be the address that `dask scheduler` prints,"
        " for example tcp://10.0.0.1:8786, or the file that `dask scheduler --scheduler-file=FILE` writes. Start a"
        " scheduler, or correct --dask.\n"
    )
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("threads", "line"),
    [
        (
            {},
            "Dask at x:1: there are no workers. The conversion waits for a worker. To start a worker, run: dask worker"
            " x:1 --nthreads=1",
        ),
        ({"a": 1}, "Dask at x:1: 1 worker"),
        ({"a": 1, "b": 1}, "Dask at x:1: 2 workers"),
        (
            {"a": 4, "b": 4},
            "Dask at x:1: 2 workers with 8 threads. The conversion uses only one thread of each worker. Start the"
            " workers with --nthreads=1, and with --nworkers=N on a machine with N processors.",
        ),
    ],
)
def test_line_about_the_workers(threads: dict[str, int], line: str) -> None:
    assert dask_cluster._line("x:1", threads) == line


# --- On a cluster --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Return a cluster that tests may enlarge but not harm."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"), importable=IMPORTABLE)
    yield cluster
    cluster.close()


@with_dask
def test_bytes_equal_those_of_the_local_engine(cluster: Cluster, tmp_path: Path) -> None:
    source = with_splits(tmp_path / "pets", train=30, validation=20)
    (source / "train/cats/bad.jpg").write_bytes(b"<html>")
    hashes = [hashlib.sha256((source / f"train/cats/{name}.jpg").read_bytes()).hexdigest() for name in ("000", "001")]
    (tmp_path / "d.csv").write_text(f"sha256,decision,label\n{hashes[0]},label,dogs\n{hashes[1]},drop,\n")
    settings = {"shards": 12, "near_duplicates": "drop", "near_distance": 16, "decisions": str(tmp_path / "d.csv")}
    converted(source, tmp_path / "local", **settings)
    flags = [f"--{name}={value}" for name, value in settings.items()]
    for count in (1, 2, 4):
        cluster.grow(count)
        done = run(MODULE, "--src=pets", *flags, f"--out=out{count}", f"--dask={cluster.file}", cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert re.match(rf"Dask at tcp://127\.0\.0\.1:\d+: {count} workers?\n", done.stdout)
        assert contents(tmp_path / f"out{count}") == contents(tmp_path / "local")
    assert sorted(os.listdir(tmp_path)) == ["d.csv", "local", "out1", "out2", "out4", "pets"]


@with_dask
def test_update_equals_a_local_update(cluster: Cluster, tmp_path: Path) -> None:
    cluster.grow(1)
    source = with_splits(tmp_path / "pets", train=8, validation=4)
    for out in ("local", "dask"):
        converted(source, tmp_path / out, shards=4)
    (source / "train/cats/000.jpg").unlink()
    converted(source, tmp_path / "local", update=True)
    converted(source, tmp_path / "dask", update=True, workers=None, dask=str(cluster.file))
    assert contents(tmp_path / "dask") == contents(tmp_path / "local")


def process_of(value: int) -> int:
    time.sleep(0.2)
    if value < 0:
        raise UserError(f"job {value} fails")
    return os.getpid()


@with_dask
def test_jobs_are_spread_and_errors_are_raised_unchanged(cluster: Cluster, tmp_path: Path) -> None:
    cluster.grow(2)
    lines: list[str] = []
    with beam_engine.pool("", tmp_path / "beam", str(cluster.file), lines.append) as pool:
        assert {worker.pid for worker in cluster.workers[:2]} <= set(pool.map(process_of, range(40)))
        assert list(pool.map(abs, range(-20, 0))) == list(range(20, 0, -1))
        with pytest.raises(UserError, match=r"^job -1 fails$"):
            list(pool.map(process_of, [0, -1]))
    assert os.listdir(tmp_path) == []
    assert len(lines) == 1


@with_dask
def test_beams_own_options_work_too(cluster: Cluster, tmp_path: Path) -> None:
    cluster.grow(2)
    options = dask_cluster.options(str(cluster.file))
    with beam_engine.pool(f"{options} --dask_client_name=me", tmp_path / "beam") as pool:
        assert len(set(pool.map(process_of, range(20)))) > 1


# --- Killed --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return many_images(tmp_path_factory.mktemp("many"), 2_000)


@pytest.fixture
def frail(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Return a cluster of two workers that a test may kill."""
    cluster = Cluster(tmp_path_factory.mktemp("frail"), 2, IMPORTABLE)
    yield cluster
    cluster.close()


@with_dask
@pytest.mark.parametrize("moment", [in_survey, in_write])
def test_killed_worker_repeats_only_its_job(
    many: Path, tmp_path: Path, frail: Cluster, moment: Callable[[Path], bool]
) -> None:
    flags = [f"--src={many / 'pets'}", "--shards=40", f"--dask={frail.file}"]
    with start(MODULE, *flags, cwd=tmp_path) as process:
        until(lambda: moment(tmp_path / "out.partial") or process.poll() is not None)
        assert process.poll() is None
        frail.workers[0].kill()
        _, err = process.communicate(timeout=120)
    assert (process.returncode, without_bars(err)) == (0, [])
    assert contents(tmp_path / "out") == contents(many / "local")
    assert os.listdir(tmp_path) == ["out"]


@with_dask
def test_conversion_without_workers_waits_for_one(many: Path, tmp_path: Path, frail: Cluster) -> None:
    flags = [f"--src={many / 'pets'}", "--shards=40", f"--dask={frail.file}"]
    with open(tmp_path / "log", "w") as log, start(MODULE, *flags, cwd=tmp_path, stdout=log) as process:
        until(lambda: in_survey(tmp_path / "out.partial"))
        for worker in frail.workers:
            worker.kill()
        warning = ": there are no workers. The conversion waits for a worker. To start a worker, run: dask"
        until(lambda: warning in (tmp_path / "log").read_text(), 60)
        assert process.poll() is None
        frail.grow(3)
        _, err = process.communicate(timeout=120)
    assert (process.returncode, without_bars(err)) == (0, [])
    assert contents(tmp_path / "out") == contents(many / "local")


@with_dask
@pytest.mark.parametrize("moment", [in_survey, in_write])
@pytest.mark.parametrize("victim", ["scheduler", "driver"])
def test_rerun_after_a_kill_writes_the_same_bytes(
    many: Path, tmp_path: Path, frail: Cluster, moment: Callable[[Path], bool], victim: str
) -> None:
    flags = [f"--src={many / 'pets'}", "--shards=40", f"--dask={frail.file}"]
    with start(MODULE, *flags, cwd=tmp_path) as process:
        until(lambda: moment(tmp_path / "out.partial") or process.poll() is not None)
        assert process.poll() is None
        (process if victim == "driver" else frail.scheduler).kill()
        _, err = process.communicate(timeout=120)
    assert not (tmp_path / "out").exists()
    if victim == "scheduler":
        assert process.returncode == 1
        assert re.match(
            r"error: Beam's pipeline failed: ConnectionError: the Dask scheduler at tcp://127\.0\.0\.1:\d+ does not"
            r" answer any more\. Fix the cause, then run the same command again to continue\.\n",
            err,
        )
        assert "Traceback" not in err
        frail.start_scheduler()
        frail.grow(3)
    rerun = run(MODULE, *flags, cwd=tmp_path)
    assert (rerun.returncode, without_bars(rerun.stderr)) == (0, [])
    assert "continuing an interrupted conversion" in rerun.stdout
    assert contents(tmp_path / "out") == contents(many / "local")
    assert os.listdir(tmp_path) == ["out"]


@with_dask
def test_interrupt_ends_it_and_leaves_the_cluster(many: Path, tmp_path: Path, frail: Cluster) -> None:
    flags = [f"--src={many / 'pets'}", "--shards=40", f"--dask={frail.file}"]
    with start(MODULE, *flags, cwd=tmp_path) as process:
        until(lambda: in_survey(tmp_path / "out.partial"))
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip() == "interrupted: run the same command again to continue"
    assert os.listdir(tmp_path / "out.partial") != []
    assert not (tmp_path / "out.partial/beam").exists()
    rerun = run(MODULE, *flags, cwd=tmp_path)
    assert (rerun.returncode, without_bars(rerun.stderr)) == (0, [])
    assert contents(tmp_path / "out") == contents(many / "local")


def die(value: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@with_dask
def test_error_if_a_job_kills_its_workers(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path / "cluster", 2, IMPORTABLE, allowed_failures=0)
    try:
        with (
            pytest.raises(
                UserError,
                match=r"Beam.s pipeline failed: KilledWorker: Attempted .*, then run"
                r" the same command again to continue\.",
            ),
            beam_engine.pool("", tmp_path / "beam", str(cluster.file), lambda line: None) as pool,
        ):
            list(pool.map(die, [0]))
    finally:
        cluster.close()
    assert os.listdir(tmp_path) == ["cluster"]
