"""A worker process of Beam's local runner that ends with its driver and prints nothing.

`beam_engine` starts it. It is not a command.
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
    """End this process when the driver is gone, even after SIGKILL, or has removed the jobs."""
    while os.getppid() == driver and os.path.isdir(job_directory):
        time.sleep(_LOOK_SECONDS)
    os._exit(0)  # Beam treats any other exit code as a crash.


def main(job_directory: str, driver: int) -> None:
    """Work for a driver; Beam passes the driver's addresses in the environment.

    Args:
        job_directory: The directory of the jobs.
        driver: The driver's process id.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches this process too, but the driver ends it.
    threading.Thread(target=_end_without, args=(job_directory, driver), daemon=True).start()
    logging.getLogger().addHandler(logging.NullHandler())  # Without a handler, Beam's messages would be printed.
    from apache_beam.runners.worker import sdk_worker_main

    # When another worker or the driver is killed, Beam's threads print tracebacks until this process ends. Errors of
    # jobs reach the driver through the result files.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sdk_worker_main.main(sys.argv)
