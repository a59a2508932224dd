"""Tests of threads and of the process pool: ordered results, a short queue, no process after the end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from tfrecord_tools.base import workers
from tfrecord_tools.errors import UserError


def square(value: int) -> int:
    time.sleep(0.01 * (value % 3))
    return value * value


def process_id(value: int) -> int:
    return os.getpid()


def sleep_long(value: int) -> int:
    time.sleep(60)
    return value


def die(value: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return value


def fail(value: int) -> int:
    raise UserError(f"job {value} fails")


def test_threads_give_results_in_order() -> None:
    assert list(workers.in_threads(square, range(30), threads=3, ahead=4)) == [i * i for i in range(30)]


def test_threads_read_jobs_as_the_work_proceeds() -> None:
    jobs = iter(range(1000))
    results = workers.in_threads(square, jobs, threads=2, ahead=4)
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    assert next(jobs) == 7


def test_an_error_in_a_thread_ends_the_work() -> None:
    begun: list[int] = []

    def third_fails(value: int) -> int:
        begun.append(value)
        time.sleep(0.01)
        return fail(value) if value == 2 else value

    with pytest.raises(UserError, match="job 2 fails"):
        list(workers.in_threads(third_fails, range(100), threads=1, ahead=50))
    assert len(begun) < 10


@pytest.mark.parametrize("count", [1, 2])
def test_results_come_in_order(count: int) -> None:
    with workers.pool(count) as pool:
        assert list(pool.map(square, range(30))) == [i * i for i in range(30)]


def test_one_worker_is_this_process() -> None:
    with workers.pool(1) as pool:
        assert set(pool.map(process_id, range(3))) == {os.getpid()}


def test_jobs_are_read_as_the_work_proceeds() -> None:
    jobs_read: list[int] = []

    def jobs() -> Iterator[int]:
        for number in range(1000):
            jobs_read.append(number)
            yield number

    with workers.pool(2) as pool:
        results = pool.map(square, jobs())
        assert next(results) == 0
        assert len(jobs_read) <= 10  # Not all 1000 jobs are in memory.
        results.close()


def test_processes_are_gone_after_the_block() -> None:
    with workers.pool(2) as pool:
        ids = set(pool.map(process_id, range(20)))
    assert os.getpid() not in ids
    assert not [number for number in ids if alive(number)]


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_an_interrupt_stops_busy_processes_at_once() -> None:
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt), workers.pool(2) as pool:  # noqa: PT012  The map is interrupted.
            ids = set(pool.map(process_id, range(20)))
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            started = time.monotonic()
            list(pool.map(sleep_long, range(3)))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - started < 10
    assert not [number for number in ids if alive(number)]


def test_a_user_error_of_a_worker_is_raised() -> None:
    with pytest.raises(UserError, match=r"^job 0 fails$"), workers.pool(2) as pool:
        list(pool.map(fail, range(3)))


def test_a_dead_process_is_explained() -> None:
    message = (
        r"a worker process ended unexpectedly: .* Run the same command again to continue\."
        r" A smaller --workers needs less memory\."
    )
    with pytest.raises(UserError, match=message), workers.pool(2) as pool:
        list(pool.map(die, range(3)))


def test_default_is_the_number_of_allowed_processors() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert workers.default_workers() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert workers.default_workers() == len(allowed)


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
