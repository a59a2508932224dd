"""Run the commands of docs/tutorial.md, and write their output and accuracies into the page.

    python -m tools.tutorial DIRECTORY [--weights=FILE] [--write]

The commands run in DIRECTORY. A command that has run there is not run again: its output is in DIRECTORY/output.
--weights gives a weights file for the pretrained networks, where the download is impossible. --write changes the page.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "docs/tutorial.md"
_STEP = re.compile(r"^    python -m (\S+) ((?:[^\n\\]|\\\n)*)\n(?:\n```text\n(.*?)```\n)?", re.MULTILINE | re.DOTALL)
_PROGRESS = re.compile(r"^(Epoch \d|\d+/\d+ - )")


class Step(NamedTuple):
    """A command of the page, and the lines that the page quotes below it."""

    module: str
    arguments: list[str]
    quote: str | None


def steps(page: str) -> list[Step]:
    """Return the commands of the page in order, without the comparison at its end, which takes an hour."""
    found = [Step(module, shlex.split(rest), quote or None) for module, rest, quote in _STEP.findall(page)]
    return [step for step in found if step.module != "trainers.compare"]


def run(step: Step, directory: Path, extra: list[str]) -> str:
    """Run a command in `directory` and return its standard output."""
    command = [sys.executable, "-m", step.module, *step.arguments, *extra]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, cwd=directory, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout


def quotable(module: str, output: str) -> str:
    """Return the lines that the page quotes: a training without its findings, and `show` without its code."""
    lines = [line.rstrip() for line in output.splitlines() if not _PROGRESS.match(line)]
    if module == "tfrecord_tools.show":
        lines = "\n".join(lines).partition("\n\nTo read")[0].splitlines()
    elif module.startswith("trainers.") and module != "trainers.predict":
        results = [number for number, line in enumerate(lines) if line.startswith("accuracy ")]
        lines = lines[results[-1] if results else -2 :]
        lines = [line for line in lines if not line.startswith(("  problem: ", "  check: "))]
    return "\n".join(lines).strip("\n") + "\n"


def weights_of(step: Step, weights: str) -> list[str]:
    """Return the flag that gives a pretrained network its weights file."""
    pretrained = any(argument.startswith("--backbone=") for argument in step.arguments)
    return [f"--weights={Path(weights).resolve()}"] if weights and pretrained else []


def run_all(directory: Path, weights: str = "") -> dict[str, str]:
    """Run the commands that have not run in `directory`, and return each command's output."""
    outputs = {}
    (directory / "output").mkdir(parents=True, exist_ok=True)
    for number, step in enumerate(steps(PAGE.read_text("utf-8"))):
        path = directory / f"output/{number:02d}-{step.module}.txt"
        if not path.exists():
            print("python -m", step.module, *step.arguments, flush=True)
            path.write_text(run(step, directory, weights_of(step, weights)), "utf-8")
        outputs[shlex.join([step.module, *step.arguments])] = path.read_text("utf-8")
    return outputs


def written(page: str, outputs: dict[str, str], directory: Path) -> str:
    """Return the page with the current outputs below its commands and the accuracies in its table."""

    def with_quote(match: re.Match[str]) -> str:
        module, rest, quote = match.groups()
        output = outputs.get(shlex.join([module, *shlex.split(rest)]))
        if quote is None or output is None:
            return match[0]
        return f"    python -m {module} {rest}\n\n```text\n{quotable(module, output)}```\n"

    def with_accuracy(match: re.Match[str]) -> str:
        metrics = json.loads((directory / "runs" / match[2] / "metrics.json").read_text("utf-8"))
        return f"{match[1]}{100 * metrics['accuracy']:.1f} % |"

    page = _STEP.sub(with_quote, page)
    return re.sub(r"^(\| [^|]+ \| `(\w+)` \| )[^|]* \|", with_accuracy, page, flags=re.MULTILINE)


def write(outputs: dict[str, str], directory: Path) -> None:
    """Write the outputs and the accuracies into the page."""
    PAGE.write_text(written(PAGE.read_text("utf-8"), outputs, directory), "utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--weights", default="")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    outputs = run_all(options.directory, options.weights)
    if options.write:
        write(outputs, options.directory)
