"""Run Apache Beam on a Dask cluster: set Beam's options, report the workers, and wait for a pipeline."""

from __future__ import annotations

import importlib
import itertools
import os
import shlex
import threading
from collections.abc import Callable, Iterator
from typing import Any

from tfrecord_tools.base import words
from tfrecord_tools.errors import UserError

_RUNNER = "apache_beam.runners.dask.dask_runner.DaskRunner"
_ANSWER_SECONDS = 10
_LOOK_SECONDS = 0.2
_LOOKS_FOR_WORKERS = 25  # Only every 25th look asks for the workers, because this sends the scheduler a message.


def options(address: str) -> str:
    """Return Beam's options for `--dask=ADDRESS`, as a command line."""
    name = "scheduler_file" if _is_file(address) else "client_address"
    return f"--runner={_RUNNER} --dask_{name}={shlex.quote(address)}"


def _is_file(address: str) -> bool:
    return address.endswith(".json") and "://" not in address


def is_runner(name: str) -> bool:
    """Return whether a runner's name in Beam is that of the Dask runner."""
    return name == _RUNNER


def check(address: str, log: Callable[[str], object]) -> None:
    """Report the workers of a cluster.

    Args:
        address: Address of the scheduler, or the JSON file that the scheduler wrote.
        log: Called with one line.

    Raises:
        UserError: A package is missing, or no scheduler answers within 10 s.
    """
    try:
        importlib.import_module(_RUNNER.rpartition(".")[0])
        from dask import distributed
        from distributed import comm
    except ImportError as error:
        raise UserError(
            f"--dask={address}: a package is missing ({error}): pip install 'tfrecord-tools[dask]'. Or remove --dask."
        ) from error
    try:
        if _is_file(address):
            os.stat(address)  # Raises OSError if the file is missing. Dask would wait for the file forever.
        else:
            comm.get_address_host(address)  # Raises ValueError for a protocol that Dask does not have.
        where = {"scheduler_file" if _is_file(address) else "address": address}
        with distributed.Client(**where, timeout=_ANSWER_SECONDS, set_as_default=False) as client:
            log(_line(client.scheduler.address, client.nthreads()))
    except (OSError, ValueError) as error:
        raise UserError(
            f"--dask={address}: no Dask scheduler answers. --dask must be the address that `dask scheduler` prints, for"
            " example tcp://10.0.0.1:8786, or the file that `dask scheduler --scheduler-file=FILE` writes. Start a"
            " scheduler, or correct --dask."
        ) from error


def _line(address: str, threads: dict[str, int]) -> str:
    if not threads:
        return _no_workers(address)
    number = words.number(len(threads), "worker")
    if max(threads.values()) == 1:
        return f"Dask at {address}: {number}"
    return (
        f"Dask at {address}: {number} with {sum(threads.values()):,} threads. The conversion uses only one thread of"
        " each worker. Start the workers with --nthreads=1, and with --nworkers=N on a machine with N processors."
    )


def _no_workers(address: str) -> str:
    return (
        f"Dask at {address}: there are no workers. The conversion waits for a worker. To start a worker, run: dask"
        f" worker {address} --nthreads=1"
    )


def use_all_workers(parsed: Any) -> None:
    """Make each part of the pipeline's input a task of its own.

    By default, 128 parts are one task. A small number of jobs would then run on one worker.
    """
    from apache_beam.runners.dask.dask_runner import DaskOptions

    dask_options = parsed.view_as(DaskOptions)
    if not dask_options.npartitions and not dask_options.partition_size:
        dask_options.partition_size = 1


def wait(result: Any, stop: threading.Event, log: Callable[[str], object]) -> str:
    """Wait for a pipeline on Dask, then close its connection, which Beam leaves open.

    Args:
        result: Beam's result of the pipeline's `run`.
        stop: If this event is set, the wait ends, and tasks that have not begun are canceled.
        log: Called with a line when no worker is left.

    Returns:
        The state of the pipeline.

    Raises:
        ConnectionError: The connection to the scheduler is lost. Beam itself would report a finished pipeline.
        Exception: The exception that a task raised.
    """
    client, futures = result.client, result.futures
    address = client.scheduler.address
    reports = _absences(client, log)
    try:
        while not all(future.done() for future in futures):
            if stop.wait(_LOOK_SECONDS):
                return "CANCELLED"
            next(reports)
        if any(future.cancelled() for future in futures):
            raise ConnectionError(f"the Dask scheduler at {address} does not answer any more")
        for future in futures:
            future.result()
        return "DONE"
    finally:
        client.close()


def _absences(client: Any, log: Callable[[str], object]) -> Iterator[None]:
    """Log a line each time the last worker has left; yield after each look at the cluster."""
    were_there = True
    for look in itertools.count(1):
        if look % _LOOKS_FOR_WORKERS == 0:
            are_there = _has_workers(client)
            if were_there and not are_there:
                log(_no_workers(client.scheduler.address))
            were_there = are_there
        yield


def _has_workers(client: Any) -> bool:
    try:
        return bool(client.nthreads())
    except OSError:  # The connection is lost. `wait` sees this in the futures.
        return True
