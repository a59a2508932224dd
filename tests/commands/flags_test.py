"""Tests that every flag of every command has an effect, in the runs of `flag_runs.py`."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_list import COMMANDS, Flag, defined, unknown
from flag_runs import RUNS, Ended, Run, stock
from image_sources import REPOSITORY, run

# Values of flags that need more than one process, with the test that runs them as commands.
ELSEWHERE = {("strategy", "multi_worker"): "trainers/devices/multi_worker_test.py"}
# Commands with their quick run in another test, because a training takes 20 seconds.
QUICK_ELSEWHERE = {
    "tfrecord_tools.bench": "commands/bench_test.py",
    "trainers.scratch": "trainers/commands/trainers_test.py",
    "trainers.finetune": "trainers/commands/finetune_test.py",
    "trainers.evaluate": "trainers/commands/evaluate_test.py",
    "trainers.predict": "trainers/commands/predict_test.py",
    "trainers.doctor": "trainers/commands/doctor_test.py",
    "trainers.export": "trainers/exporting/export_test.py",
}


@pytest.fixture(scope="session")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stock(tmp_path_factory.mktemp("stock"))


@pytest.mark.parametrize(
    ("command", "chosen"),
    [
        pytest.param(command, one, id=f"{command}-{one.name}", marks=one.marks)
        for command, runs in RUNS.items()
        for one in runs
    ],
)
def test_run(command: str, chosen: Run, stocked: Path, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    shutil.copytree(stocked, directory)
    chosen.before(directory)
    pages = set(directory.rglob("*.html"))
    arguments = [one.replace("PLACE", str(directory)) for one in (*chosen.arguments, *chosen.flags)]
    done = run(command, *arguments, cwd=directory)
    assert done.returncode == chosen.code, done.stdout + done.stderr
    ended = Ended(directory, done.returncode, done.stdout, done.stderr)
    effects = {check: check(ended) for check in chosen.flags.values()}  # Several flags may share a check.
    idle = [argument for argument, check in chosen.flags.items() if not effects[check]]
    assert idle == [], done.stdout + done.stderr
    assert list(unknown(ended.out + ended.err, [command])) == []
    for page in set(directory.rglob("*.html")) - pages:
        # A card and a review show flags of `convert`, whichever command wrote them. A report shows settings of its
        # training.
        text = re.sub("<style>.*?</style>|<pre>.*?</pre>|<[^>]*>", "", page.read_text(), flags=re.DOTALL)
        assert (
            list(unknown(text, ["tfrecord_tools.convert" if page.name in ("card.html", "review.html") else command]))
            == []
        )


# --- No flag is left out ---------------------------------------------------------------------------------------------


def given(command: str) -> Iterator[tuple[str, str]]:
    """Yield name and value of each flag in the runs of a command; switches are `true` or `false`."""
    for one in RUNS[command]:
        for argument in one.flags:
            name, equals, value = argument.removeprefix("--").partition("=")
            flags = defined()[command]
            if not equals and name not in flags and name.startswith("no"):
                yield name.removeprefix("no"), "false"
            else:
                yield name, value if equals else "true"


def default_of(flag: Flag) -> str:
    values = flag.default if isinstance(flag.default, list) else [flag.default]
    return ",".join("" if value is None else str(value) for value in values).lower()


def test_every_command_has_a_quick_run_here_or_elsewhere() -> None:
    assert RUNS.keys() == set(COMMANDS)
    assert {command for command, runs in RUNS.items() if all(one.marks for one in runs)} == QUICK_ELSEWHERE.keys()
    for command, test in QUICK_ELSEWHERE.items():
        assert re.search(rf'(run|start)\("{re.escape(command)}"', (REPOSITORY / "tests" / test).read_text()), command


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_has_a_run(command: str) -> None:
    flags, runs = defined()[command], list(given(command))
    assert [f"--{name}" for name in {name for name, _ in runs} - flags.keys()] == [], "there are no such flags"
    assert [f"--{name}" for name in flags.keys() - {name for name, _ in runs}] == [], "these flags have no run"
    # A run with the default value proves nothing.
    changed = {name for name, value in runs if value.lower() != default_of(flags[name])}
    assert [f"--{name}" for name in flags.keys() - changed] == [], "these flags are only run with their defaults"


def test_every_value_of_a_choice_has_a_run() -> None:
    """Some command has a run with the value. Runs without the flag use its default."""
    every = [(name, flag) for flags in defined().values() for name, flag in flags.items()]
    missing: list[Any] = []
    for name, values in sorted({(name, tuple(flag.values)) for name, flag in every if flag.values}):
        having = [command for command, flags in defined().items() if name in flags and flags[name].values == [*values]]
        ran = {value for command in having for one, value in given(command) if one == name}
        ran |= {default_of(defined()[command][name]) for command in having}
        missing += [(name, value) for value in values if value not in ran and (name, value) not in ELSEWHERE]
    assert missing == []
    for (name, value), test in ELSEWHERE.items():
        assert f"--{name}={value}" in (REPOSITORY / "tests" / test).read_text()
