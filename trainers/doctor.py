"""Check whether this machine can train, and how it could train faster.

    python -m trainers.doctor

The command prints a line for each check: versions, GPUs (or the reason why there are none), precision, speed of a
convolution, XLA, memory, disk and processors. Advice follows on the next line. The exit code is 0 if a training can run
on this machine, and 1 if something is broken.
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
        raise UserError(f"{', '.join(broken)}: broken. Follow the advice above.")


if __name__ == "__main__":
    command.run(main)
