"""Check that the functions that take most of the time did not become slower.

    python -m benchmarks.check            # exit code 1 if one is slower than its tolerance allows
    python -m benchmarks.check --update   # write the costs of the current code to benchmarks/expected.json

With Valgrind, the cost is a number of instructions. It is nearly the same in each run, also beside other programs.
Without Valgrind, it is the shortest time, divided by the time of a fixed computation.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from benchmarks import counting, expectations, hot_paths
from tfrecord_tools.base import command
from tfrecord_tools.errors import UserError


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    method = flags.FLAGS.method or ("instructions" if counting.has_callgrind() else "time")
    if method == "instructions" and not counting.has_callgrind():
        raise UserError(
            "--method=instructions: needs Valgrind. Install it (apt install valgrind), or use --method=time."
        )
    environment = counting.environment(of_time=method == "time")
    expected = {} if flags.FLAGS.update else expectations.load(method, environment)
    with tempfile.TemporaryDirectory() as directory:
        hot_paths.prepare(Path(directory))
        costs = {"instructions": counting.instructions, "time": counting.times}[method](Path(directory))
    if flags.FLAGS.update:
        expectations.save(method, environment, costs)
        print(f"wrote {len(costs)} costs by {method} to {expectations.PATH.name}")
        return
    findings = expectations.compare(costs, expected)
    print("\n".join(finding.line() for finding in findings))
    if slower := [finding.name for finding in findings if finding.is_slower]:
        print(f"slower than expected: {', '.join(slower)}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    flags.DEFINE_bool("update", False, "Write the costs of the current code to benchmarks/expected.json.")
    flags.DEFINE_enum(
        "method",
        None,
        list(expectations.TOLERANCES),
        "How costs are measured. Default: instructions with Valgrind, else time.",
    )
    command.run(main)
