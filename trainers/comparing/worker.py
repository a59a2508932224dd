"""A process that runs trainings one after the other, so that TensorFlow is imported only once.

Each line of the standard input is a `Request` as JSON. After each training, the process writes a line with the exit
code to the standard output. If the process that started this one ends, the training ends, too.
"""

from __future__ import annotations

import functools
import gc
import json
import os
import queue
import sys
import threading
from collections.abc import Sequence
from typing import Any, TypedDict

from tfrecord_tools.base import command, options
from trainers import training_options
from trainers.training_options import OPTIONS


class Request(TypedDict):
    """A training to run.

    Attributes:
        trainer: Name of the trainer.
        flags: Flags of the trainer.
        log: File to which the output is appended.
    """

    trainer: str
    flags: list[str]
    log: str


def main(argv: Sequence[str]) -> None:
    replies = os.dup(1)
    requests: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
    busy = threading.Event()
    threading.Thread(target=_receive, args=(requests, busy), daemon=True).start()
    while request := requests.get():
        busy.set()
        _redirect(request["log"])
        code = command.exit_code(functools.partial(_train, request), training_options.INTERRUPTED)
        sys.stdout.flush()
        sys.stderr.flush()
        busy.clear()
        os.write(replies, f"{code}\n".encode())


def _receive(requests: queue.SimpleQueue[Request | None], busy: threading.Event) -> None:
    """Put requests into a queue. If the sender has ended, for example by a kill, end this process."""
    for line in sys.stdin:
        requests.put(json.loads(line))
    if busy.is_set():
        os._exit(1)
    requests.put(None)


def _redirect(log: str) -> None:
    """Append all further output to a file, including the output of TensorFlow's libraries."""
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.close(file)


def _train(request: Request) -> None:
    trainer = request["trainer"]
    given: dict[str, Any] = options.parsed(OPTIONS[trainer], request["flags"], f"trainers.{trainer}")
    training_options.train(trainer, given, command.say)

    import keras  # Imported late, so that wrong flags are reported without waiting for TensorFlow.

    keras.backend.clear_session()
    gc.collect()


if __name__ == "__main__":
    command.run(main, training_options.INTERRUPTED)
