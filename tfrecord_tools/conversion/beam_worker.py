"""A worker process of Beam's runner on this machine: Beam's own, which ends with its driver and says nothing by itself.

`beam_engine` starts it; it is no command.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time

_LOOK_SECONDS = 0.5


def _end_without(job_directory: str, driver: int) -> None:
    """Ends this process when the driver is gone, be it by SIGKILL, or has given the jobs up."""
    while os.getppid() == driver and os.path.isdir(job_directory):
        time.sleep(_LOOK_SECONDS)
    os._exit(0)  # Beam would take another code for a crash.


def main(job_directory: str, driver: int) -> None:
    """Works for a driver, whose addresses Beam has put into the environment.

    Args:
        job_directory: The directory of the jobs.
        driver: The driver's process id.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the driver ends us.
    threading.Thread(target=_end_without, args=(job_directory, driver), daemon=True).start()
    logging.getLogger().addHandler(logging.NullHandler())  # Without any, logging would print all that Beam informs of.
    from apache_beam.runners.worker import sdk_worker_main

    # When another worker or the driver is killed, Beam's threads print tracebacks until we end. Errors of jobs go to
    # the driver by other ways.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sdk_worker_main.main(sys.argv)
