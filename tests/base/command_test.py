"""Tests of the start and exit of commands: exit codes, wrong arguments, flags as settings."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

import pytest
from absl import flags
from image_sources import REPOSITORY

from tfrecord_tools.base import command
from tfrecord_tools.errors import UserError

MAIN = """
import sys
from tfrecord_tools.base import command
from tfrecord_tools.errors import CorruptRecord, UserError
def main(argv):
    command.no_arguments(argv)
    {body}
command.run(main)
"""


@pytest.mark.parametrize(
    ("body", "arguments", "code", "err"),
    [
        ("print('done')", [], 0, ""),
        ("raise UserError('bad value 3. Give 4.')", [], 1, "error: bad value 3. Give 4.\n"),
        ("raise CorruptRecord('shard 3')", [], 1, "error: shard 3\n"),  # A subclass of UserError.
        ("raise KeyboardInterrupt", [], 130, "\ninterrupted\n"),
        (  # Errors of the system have no traceback.
            "open('/proc/none', 'w')",
            [],
            1,
            "error: /proc/none: No such file or directory. Fix the cause and run the command again.\n",
        ),
        ("raise OSError('h5')", [], 1, "error: h5. Fix the cause and run the command again.\n"),
        ("raise BrokenPipeError(32, 'Broken')", [], 1, "error: Broken. Fix the cause and run the command again.\n"),
        (
            "pass",
            ["out"],
            1,
            "error: unexpected argument 'out': this command takes only flags, --name=value (see --help)\n",
        ),
    ],
)
def test_exit_codes(body: str, arguments: list[str], code: int, err: str) -> None:
    command_line = [sys.executable, "-c", MAIN.format(body=body), *arguments]
    done = subprocess.run(command_line, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, err)


def test_a_reader_that_stops_reading_causes_no_error() -> None:
    body = "print('line ' * 100_000); print('more')"
    command_line = [sys.executable, "-c", MAIN.format(body=body)]
    with subprocess.Popen(command_line, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(5)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_all_objects_are_exempt_from_the_last_garbage_collections() -> None:
    # Handlers run in reverse order, so this one sees what the handler of the command did.
    before = "import atexit, gc\natexit.register(lambda: print(gc.get_freeze_count() > 10_000))\n"
    command_line = [sys.executable, "-c", before + MAIN.format(body="print(gc.get_freeze_count())")]
    done = subprocess.run(command_line, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("0\nTrue\n", "")


def test_bugs_show_a_traceback() -> None:
    command_line = [sys.executable, "-c", MAIN.format(body="1 / 0")]
    done = subprocess.run(command_line, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    assert "Traceback" in done.stderr


def test_names_that_the_terminal_cannot_show_are_escaped() -> None:
    command_line = [sys.executable, "-c", MAIN.format(body="print('кошки'); raise UserError('кошки')")]
    environment = os.environ | {"PYTHONIOENCODING": "ascii:strict"}
    done = subprocess.run(command_line, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout.startswith(r"\u043a")
    assert done.stderr.startswith(r"error: \u043a")


def test_no_arguments() -> None:
    command.no_arguments(["program"])
    with pytest.raises(UserError, match="unexpected argument 'a'"):
        command.no_arguments(["program", "a", "b"])


def test_settings_from_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Config:
        size: int = 1
        name: str = "default"
        other: float = 0.5

    values = flags.FlagValues()
    flags.DEFINE_integer("size", 1, "", flag_values=values)
    flags.DEFINE_string("name", "default", "", flag_values=values)
    flags.DEFINE_bool("unrelated", False, "", flag_values=values)
    values(["program", "--size=7", "--unrelated"])
    monkeypatch.setattr(command.flags, "FLAGS", values)
    assert command.from_flags(Config) == Config(size=7)  # Fields without a flag keep their defaults.
    assert command.from_flags(Config, name="given", other=2.0) == Config(size=7, name="given", other=2.0)


def test_list_is_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    command.print_list("package", {"a": "does this", "longer": "does that"})
    assert capsys.readouterr().out == "python -m package.a       does this\npython -m package.longer  does that\n"


def test_every_command_has_a_name_in_the_list() -> None:
    """A module with a main block is a command and must be in the list."""
    from tfrecord_tools.__main__ import COMMANDS

    package = REPOSITORY / "tfrecord_tools"
    mains = {path.stem for path in package.glob("*.py") if 'if __name__ == "__main__":' in path.read_text()}
    assert mains - {"__main__"} == set(COMMANDS)
