"""Says whether this machine can train, and what would make it train better.

    python -m trainers.doctor

prints a line of each check: versions, GPUs or why there is none, precision, a convolution that is timed, XLA, memory,
disk, processors; below it what to do. Exit code 0: a training runs here; 1: something is broken.
"""

from __future__ import annotations

from collections.abc import Sequence

from tfrecord_tools.base import command
from tfrecord_tools.errors import UserError
from trainers.devices import diagnosis


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    broken = []
    for finding in diagnosis.examine():
        print(f"{finding.state:<7} {finding.check:<12} {finding.result}", flush=True)
        if finding.advice:
            print(f"{'':<20} {finding.advice}")
        if finding.state == diagnosis.BROKEN:
            broken.append(finding.check)
    if broken:
        raise UserError(f"{', '.join(broken)}: broken. The advice above says what to do.")


if __name__ == "__main__":
    command.run(main)
