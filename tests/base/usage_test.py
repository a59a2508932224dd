"""Tests of the command line of all commands: paths with `~`, help, versions, mistakes."""

from __future__ import annotations

import functools
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from absl import flags
from image_sources import REPOSITORY, converted, run, with_splits

from tfrecord_tools.__main__ import COMMANDS as TOOLS
from tfrecord_tools.base import usage
from trainers.__main__ import COMMANDS as TRAINERS

COMMANDS = [f"tfrecord_tools.{name}" for name in TOOLS] + [f"trainers.{name}" for name in TRAINERS]

# Flags with a text that is not a path. Every new flag with a text must be listed here or use `usage.define_path`.
TEXTS = frozenset(
    {
        "label_regex",
        "group_regex",
        "path_column",
        "label_column",
        "split_column",
        "group_column",
        "image_key",
        "label_key",
        "split",
        "beam_options",
        "exclude",
        "zip_encoding",
        "manifest_encoding",
        "label_columns",
        "label_encoding",
        "depth_range",
        "optimizer",
        "optimizer_kwargs",
        "backbone",
        "backbone_kwargs",
        "model",
        "custom_objects",
        "unfreeze",
        "augment",
        "classes",
        "drop_issues",
        "class_map",
        "class_weights",
        "tta",
        "epochs",
        "learning_rate",
        "log",
        "log_group",
        "search",
        "seeds",
        "variant",
    }
)
# `--grid` is a file in `show` and a size in `preview`.
ALSO_TEXTS = {"tfrecord_tools.preview": {"grid"}}
ALSO_PATHS = {"tfrecord_tools.show": {"grid"}, "tfrecord_tools.adopt": {"split"}}

FLAGS_OF = """
import importlib, json, sys
from absl import flags
from tfrecord_tools.base import usage
module = importlib.import_module(sys.argv[1])
before = set(flags.FLAGS)
getattr(module, "define_flags", lambda: None)()
own = [flags.FLAGS[name] for name in flags.FLAGS if name not in before]
kinds = {
    flag.name: "path" if isinstance(flag.parser, usage.PathParser) else flag.flag_type() for flag in own
}
named = {flag.name for flag in own if getattr(flag.parser, "_named", False)}
given = [f"--{name}={'x=' * (name in named)}~/{name}" for name, kind in kinds.items() if kind == "path"]
flags.FLAGS(["program", *given])
values = {name: flags.FLAGS[name].value for name, kind in kinds.items() if kind == "path"}
print(json.dumps([kinds, values]))
"""


HOME = "/home/of nobody"


@functools.cache
def flags_of(module: str) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the types of a command's flags, and the values of its path flags, given as ~/NAME."""
    done = subprocess.run(
        [sys.executable, "-c", FLAGS_OF, module],
        cwd=REPOSITORY,
        env=os.environ | {"HOME": HOME},
        capture_output=True,
        text=True,
        check=True,
    )
    kinds, values = json.loads(done.stdout)
    return kinds, values


@pytest.mark.parametrize("module", COMMANDS)
def test_every_flag_that_is_a_path_expands_home_directories(module: str) -> None:
    kinds, values = flags_of(module)
    texts = {name for name, kind in kinds.items() if "string" in kind and kind != "string enum"}
    assert texts <= (TEXTS | ALSO_TEXTS.get(module, set())) - ALSO_PATHS.get(module, set())
    assert not {name for name in values if name in TEXTS} - ALSO_PATHS.get(module, set())
    assert values == {
        name: [f"x={HOME}/{name}"] if isinstance(value, list) else f"{HOME}/{name}" for name, value in values.items()
    }


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a home directory with images and a dataset."""
    home = tmp_path_factory.mktemp("home")
    converted(with_splits(home / "pets"), home / "out")
    return home


def at_home(home: Path, tmp_path: Path, module: str, *flags: str) -> subprocess.CompletedProcess[str]:
    return run(module, *flags, cwd=tmp_path, env={"HOME": str(home), "COLUMNS": "100"})


@pytest.mark.parametrize(
    ("module", "flags", "written"),
    [
        ("tfrecord_tools.convert", ["--src=~/pets", "--out=~/new/out"], "new/out/convert.json"),
        ("tfrecord_tools.convert", ["--src", "~/pets", "--out", "~/new2/out"], "new2/out/convert.json"),
        ("tfrecord_tools.to_csv", ["--src=~/pets", "--image_size=8", "--out=~/csv"], "csv/train.csv"),
        ("tfrecord_tools.export", ["--to=folder", "--tfrecords=~/out", "--out=~/images"], "images/train"),
        ("tfrecord_tools.adopt", ["--split=train=~/out/*-train*", "--out=~/adopted"], "adopted/convert.json"),
        ("tfrecord_tools.show", ["~/out", "--grid=~/grid.png"], "grid.png"),
        ("tfrecord_tools.sample", ["--out=~/drawn", "--images=8"], "drawn/train"),
        ("tfrecord_tools.verify", ["~/out", "--nodecode"], "out"),
    ],
)
def test_home_directories_in_commands(module, flags, written, home, tmp_path):
    done = at_home(home, tmp_path, module, *flags)
    assert done.returncode == 0, done.stderr
    assert (home / written).exists()
    assert list(tmp_path.iterdir()) == []  # A directory named ~ was not created.


@pytest.mark.parametrize(
    ("module", "flags", "message"),
    [
        ("tfrecord_tools.convert", ["--src=~/none"], "HOME/none"),
        ("tfrecord_tools.convert", ["--src=~/pets", "--relabel=~/none.csv"], "--relabel=HOME/none.csv: does not exist"),
        ("tfrecord_tools.convert", ["--src=~/pets", "--manifest=~/none.csv"], "HOME/none.csv"),
        ("tfrecord_tools.adopt", ["--records=~/out/*-train*", "--classes=~/none.txt"], "--classes=HOME/none.txt: "),
        ("tfrecord_tools.transfer", ["~/none", "~/copy"], "HOME/none"),
        ("tfrecord_tools.bench", ["~/none"], "HOME/none: does not exist"),
        ("trainers.finetune", ["--tfrecords=~/none"], "HOME/none: does not exist"),
        ("trainers.finetune", ["--tfrecords=~/out", "--weights=~/none.h5"], "--weights=HOME/none.h5"),
        ("trainers.scratch", ["--csv=~/none"], "--csv=HOME/none: does not exist"),
        ("trainers.compare", ["--tfrecords=~/none"], "HOME/none: does not exist"),
        ("trainers.evaluate", ["--run=~/none", "--tfrecords=~/out"], "HOME/none"),
        ("trainers.predict", ["--run=~/none", "~/x.jpg"], "HOME/none"),
        ("trainers.predict", ["--run=~/r", "--csv=~/none/x.csv", "~/x.jpg"], "--csv=HOME/none/x.csv: its directory d"),
        ("trainers.export", ["--run=~/none"], "HOME/none"),
        (
            "tfrecord_tools.convert",
            ["--src=~nobody-here/x"],
            "--src=~nobody-here/x: user 'nobody-here' does not exist.",
        ),
        ("tfrecord_tools.verify", ["~nobody-here/x"], "~nobody-here/x: user 'nobody-here' does not exist."),
    ],
)
def test_home_directories_in_messages(module, flags, message, home, tmp_path):
    done = at_home(home, tmp_path, module, *flags)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert message.replace("HOME", str(home)) in done.stderr


# --- Help and versions ---------------------------------------------------------------------------------------------


@functools.cache
def help_of(module: str) -> str:
    done = run(module, "--help", cwd=REPOSITORY)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("module", COMMANDS)
def test_help_lists_the_flags_of_the_command(module: str, tmp_path: Path) -> None:
    done = run(module, "-h", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, help_of(module), "")
    lines = done.stdout.splitlines()
    documentation = importlib.import_module(module).__doc__
    assert documentation is not None
    assert lines[0] == documentation.splitlines()[0]
    assert lines[2].startswith(f"usage: python -m {module}")
    assert max(map(len, lines)) <= 120
    kinds, _ = flags_of(module)
    shown = [line.strip().removeprefix("--").removeprefix("[no]").split(":")[0] for line in lines if line[:4] == "  --"]
    assert sorted(shown) == sorted(kinds)  # All flags of the command, without those of absl.


@pytest.mark.parametrize("module", COMMANDS)
def test_help_states_choices_and_repetition_once(module: str) -> None:
    kinds, paths = flags_of(module)
    flags_help = help_of(module).partition("\nflags:\n")[2]
    texts = [" ".join(text.split()) for text in re.split(r"^  --", flags_help, flags=re.MULTILINE)[1:]]
    text_of = {text.partition(":")[0].removeprefix("[no]"): text for text in texts}
    assert text_of.keys() == kinds.keys()
    for name, kind in kinds.items():
        assert text_of[name].count(">: ") == (kind == "string enum"), text_of[name]
        assert "repeat this option" not in text_of[name]
        may_be_repeated = kind.startswith("multi ") or isinstance(paths.get(name), list)
        assert len(re.findall(r"\brepeat", text_of[name], re.IGNORECASE)) == may_be_repeated, text_of[name]


def test_help_of_a_flag_that_may_be_repeated() -> None:
    values = flags.FlagValues()
    flags.DEFINE_multi_string("a", [], "Names.", values)
    flags.DEFINE_multi_string("b", [], "Names. Repeat the flag for each.", values)
    flags.DEFINE_enum("c", None, ["x", "y"], "Kind.", values)
    shown = [usage._flag_help(values[name]) for name in "abc"]
    assert shown == ["  --a: Names. May be repeated.", "  --b: Names. Repeat the flag for each.", "  --c: <x|y>: Kind."]


@pytest.mark.parametrize("module", ["tfrecord_tools", "trainers", *COMMANDS])
def test_version(module: str, tmp_path: Path) -> None:
    from tfrecord_tools import __version__

    done = run(module, "--version", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"tfrecord-tools {__version__}\n", "")


@pytest.mark.parametrize("flag", ["-h", "--help", "help"])
@pytest.mark.parametrize(("package", "commands"), [("tfrecord_tools", TOOLS), ("trainers", TRAINERS)])
def test_help_of_a_package_lists_its_commands(package: str, commands: dict[str, str], flag: str, tmp_path) -> None:
    done = run(package, flag, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: python -m {package} COMMAND")
    assert len(done.stdout.splitlines()) == 2 + len(commands)


@pytest.mark.parametrize(
    "words",
    [
        ["tfrecord_tools"],
        ["tfrecord_tools", "--help"],
        ["tfrecord_tools.convert", "--help"],
        ["trainers.finetune", "-h"],
        ["trainers", "finetune", "-h"],
        ["tfrecord_tools.convert", "--src=pets", "--dry_run"],
        ["tfrecord_tools.show", "out"],
        ["tfrecord_tools.convert", "--src=pets", "--out=unheard", "--overwrite"],
    ],
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_is_gone_does_not_stop_the_work(words, unbuffered, home):
    """The reader is gone before anything is written, as after `| head -0`."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=home,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": unbuffered},
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")
    assert (home / "unheard/convert.json").exists() == ("--out=unheard" in words)
    shutil.rmtree(home / "unheard", ignore_errors=True)


def test_an_error_has_its_exit_code_even_if_the_reader_is_gone(home):
    words = [sys.executable, "-m", "tfrecord_tools.convert", "--src=none"]
    done = subprocess.run(
        f"{shlex.join(words)} 2>&1 | head -0; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        cwd=home,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    assert done.returncode == 1


# --- Commands of a package -----------------------------------------------------------------------------------------


def test_a_command_may_be_an_argument_of_its_package(home, tmp_path):
    done = at_home(home, tmp_path, "tfrecord_tools", "convert", "--src=~/pets", "--out=out", "--workers=2")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/convert.json").read_bytes() == (home / "out/convert.json").read_bytes()
    done = run("tfrecord_tools", "to-csv", "--help", cwd=tmp_path)
    assert done.stdout == help_of("tfrecord_tools.to_csv")
    done = run("trainers", "finetune", "--tfrecords=none", cwd=tmp_path)
    assert (done.returncode, done.stderr[:13]) == (1, "error: none: ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tfrecord_tools", "convrt"], "convrt: is not a command of tfrecord_tools. Did you mean convert?"),
        (["tfrecord_tools", "finetune"], "It is a command of trainers: python -m trainers finetune"),
        (["trainers", "convert"], "It is a command of tfrecord_tools: python -m tfrecord_tools convert"),
        (["trainers", "xyz"], "xyz: is not a command of trainers. The commands are scratch, features, "),
        (["tfrecord_tools", "--src=x"], "--src=x: the first word must be a command. The commands are convert, adopt, "),
        (["tfrecord_tools", "--src=x"], "--src is a flag of python -m tfrecord_tools.convert, "),
    ],
)
def test_unknown_commands(words, message, tmp_path):
    done = run(*words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert message in done.stderr


def test_importing_a_package_or_asking_for_help_does_not_import_tensorflow(tmp_path):
    code = (
        "import runpy, sys\nsys.argv = ['trainers', 'finetune', '--lr=1']\n"
        "try: runpy.run_module('trainers', run_name='__main__')\n"
        "except SystemExit: print('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# --- Mistakes ------------------------------------------------------------------------------------------------------

CONVERT, FINETUNE = "tfrecord_tools.convert", "trainers.finetune"


@pytest.mark.parametrize(
    ("module", "words", "message"),
    [
        (FINETUNE, ["--lr=1e-3"], "--lr=1e-3: is not a flag of this command. Use --learning_rate=1e-3."),
        (FINETUNE, ["--lr", "1e-3"], "--lr: is not a flag of this command. Use --learning_rate."),
        (FINETUNE, ["-lr=1e-3"], "--lr=1e-3: is not a flag of this command. Use --learning_rate=1e-3."),
        (FINETUNE, ["--lr_rate=1"], "Use --learning_rate=1."),
        (FINETUNE, ["--learning-rate=1"], "--learning-rate=1: is not a flag of this command. Use --learning_rate=1."),
        (FINETUNE, ["--batch-size=3"], "Use --batch_size=3."),
        (FINETUNE, ["--epoch=3"], "Use --epochs=3."),
        (FINETUNE, ["--img_size=64"], "Use --image_size=64."),
        (
            FINETUNE,
            ["--image_size=big"],
            "--image_size=big: must be a whole number of pixels, or HEIGHTxWIDTH, as in 9",
        ),
        (FINETUNE, ["--letterbox"], "--letterbox: is not a flag of this command. Use --fit."),
        (FINETUNE, ["--fit=padding"], "--fit=padding: must be one of crop, pad, stretch. Use --fit=pad."),
        (FINETUNE, ["--model=VGG16"], "Use --backbone=VGG16."),
        (FINETUNE, ["--data=out"], "Use --tfrecords=out."),
        (FINETUNE, ["--output=x"], "Use --run=x."),
        (FINETUNE, ["--weight_decay=1e-4"], "Use --optimizer_kwargs=weight_decay=1e-4."),
        (FINETUNE, ["--resume"], "To continue an interrupted run, run the same command again. No flag is needed."),
        (FINETUNE, ["--gpus=1"], "To choose some, set the environment variable CUDA_VISIBLE_DEVICES."),
        (FINETUNE, ["--no-probe"], "Use --noprobe."),
        (FINETUNE, ["--sed=1"], "Use --seed=1."),  # Similar letters.
        (FINETUNE, ["--xyzzy=1"], "is not a flag of this command. python -m trainers.finetune --help lists the flags."),
        (FINETUNE, ["--src=x"], "Use --tfrecords=x."),  # This command needs a dataset, not images.
        (FINETUNE, ["--validation_split=.1"], "--validation_fraction is a flag of python -m tfrecord_tools.convert, "),
        (CONVERT, ["--input=x"], "Use --src=x."),
        (CONVERT, ["--data_dir=x"], "Use --src=x."),
        (CONVERT, ["--output=x"], "Use --out=x."),
        (CONVERT, ["-o", "x"], "Use --out."),
        (CONVERT, ["--validation_split=0.2"], "Use --validation_fraction=0.2."),
        (CONVERT, ["--num_workers=2"], "Use --workers=2."),
        (CONVERT, ["--force"], "Use --overwrite or --nooverwrite."),
        (CONVERT, ["--img_size=64"], "Use --resize=64."),
        (CONVERT, ["--epochs=3"], "--epochs is a flag of python -m trainers.scratch, python -m trainers.features, "),
        (CONVERT, ["--lr=3"], "--learning_rate is a flag of python -m trainers.scratch, "),
        (
            "tfrecord_tools.verify",
            ["--input=out"],
            "Write DIRECTORY without a flag: python -m tfrecord_tools.verify out",
        ),
        ("trainers.predict", ["--images=x"], "without a flag: python -m trainers.predict x"),
        ("trainers.predict", ["--model=x"], "Use --run=x."),
        ("trainers.evaluate", ["--data=x"], "Use --tfrecords=x."),
        ("trainers.export", ["--output=x"], "Use --out=x."),
        ("trainers.compare", ["--seed=1"], "Use --seeds=1."),
        ("trainers.doctor", ["--epochs=1"], "--epochs is a flag of python -m trainers.scratch, "),
        (CONVERT, ["--verify=ful"], "--verify=ful: must be one of full, header. Use --verify=full."),
        (CONVERT, ["--seed=abc"], "--seed=abc: must be a whole number, such as --seed=0."),
        (CONVERT, ["--seed", "1.5"], "--seed=1.5: must be a whole number, such as --seed=0."),
        (CONVERT, ["--seed="], "--seed=: must be a whole number, such as --seed=0."),
        (CONVERT, ["--shards=many"], "--shards=many: must be a whole number."),
        (CONVERT, ["--max_bad=a:b=c"], "--max_bad=a:b=c: must be a number, such as --max_bad=0.05."),
        (CONVERT, ["--dry_run=maybe"], "--dry_run=maybe: must be true or false. Use --dry_run or --nodry_run."),
        (CONVERT, ["--seed"], "--seed: a value is missing. Pass --seed=VALUE."),
        ("tfrecord_tools.sample", [], "--out is missing: Directory to create. The directory must not exist yet."),
        (
            CONVERT,
            ["pets"],
            "unexpected argument 'pets': this command takes only flags, --name=value (see --help). Use",
        ),
        (CONVERT, ["pets"], "Use --src=pets."),
        (CONVERT, ["--src=pets", "nothing"], "--name=value (see --help)\n"),
        (CONVERT, ["--src=pets", "--dry_run", "true"], "Write = between the flag and its value: --dry_run=true."),
        (FINETUNE, ["out"], "Use --tfrecords=out."),
    ],
)
def test_mistakes_name_the_flag_that_is_meant(module, words, message, home):
    done = run(module, *words, cwd=home)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1  # One line, without a traceback or a list of flags.
    assert message in done.stderr


def test_flags_are_accepted_in_every_form(home, tmp_path):
    for words in (["--seed=3"], ["--seed", "3"], ["-seed=3"], ["-seed", "3"]):
        done = at_home(home, tmp_path, CONVERT, "--src=~/pets", "--dry_run", *words)
        assert done.returncode == 0, done.stderr


def test_suggested_flags_exist() -> None:
    known = {name for module in COMMANDS for name in flags_of(module)[0]} | {"exclude"}
    assert {name for names in usage._MEANINGS.values() for name in names} <= known
