"""The commands of both packages, their flags, and a check of the flags that a text names."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import subprocess
import sys
from collections.abc import Collection, Iterator
from typing import Any

from image_sources import REPOSITORY

from tfrecord_tools.__main__ import COMMANDS as TOOLS
from trainers.__main__ import COMMANDS as TRAINERS
from trainers.recipes import RECIPES

COMMANDS = (*(f"tfrecord_tools.{name}" for name in TOOLS), *(f"trainers.{name}" for name in TRAINERS))
FLAG = re.compile(
    r"(?<![\w-])--(?!-)(?:\[no\])?(?![\w-]*\{)(\w[\w-]*)"
)  # `--{}` is excluded, because it is filled in later.
EVERYWHERE = frozenset(
    {"help", "helpfull", "helpshort", "version", "name", "flag"}
)  # `name` and `flag` stand for any flag, as in `--name=value`.
# Flags of other programs: docker, pip, Dask, Apache Beam's runners, servers of models, the tools of `make`.
FOREIGN = frozenset(
    {
        "gpus",
        "logdir",
        "backend-store-uri",
        "experiment-id",
        "force-reinstall",
        "no-deps",
        "upgrade",
        "direct_running_mode",
        "direct_num_workers",
        "runner",
        "dask_client_address",
        "dask_connection_timeout",
        "dask_scheduler_file",
        "host",
        "nthreads",
        "nworkers",
        "scheduler-file",
        "rest_api_port",
        "model_name",
        "model_base_path",
        "data-binary",
    }
)
_NAMED = re.compile(r"\b(tfrecord_tools|trainers)[. ](\w+)")  # Full names, with the package.
_OWNED = re.compile(r"\b(\w+)'s --")  # Owners, as in: convert's --max_pixels.
# Texts of compare that stand for the flags of a trainer.
_OF_TRAINERS = "[FLAGS]"
_QUOTED = re.compile(r"(?<=--variant=|-backbone=)'[^']*'")
TRAINING = tuple(f"trainers.{name}" for name in RECIPES)
_SENTENCES = re.compile(r"(?<=[.;!?])\s+|\n")

_DUMP = """
import importlib, json, sys
from absl import flags
defined = {}
for command in sys.argv[1:]:
    module = importlib.import_module(command)  # It may load absl's modules, which define flags too.
    before = set(flags.FLAGS)
    getattr(module, "define_flags", lambda: None)()
    own = {name: flags.FLAGS[name] for name in flags.FLAGS if name not in before}
    defined[command] = {
        name: {
            "kind": flag.flag_type(),
            "default": flag.default,
            "help": flag.help.partition(";\\n")[0],  # absl adds text about repeated flags after it.
            "values": getattr(flag.parser, "enum_values", None) or [],
        }
        for name, flag in own.items()
    }
    flags.FLAGS.remove_flag_values(own)
print(json.dumps(defined))
"""


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag as its command defines it; `values` are the values of an enum."""

    kind: str
    default: Any
    help: str
    values: list[str]


@functools.cache
def defined() -> dict[str, dict[str, Flag]]:
    """Return the flags of each command by name, from another process, since absl's flags are global."""
    done = subprocess.run(
        [sys.executable, "-c", _DUMP, *COMMANDS], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    return {
        command: {name: Flag(**flag) for name, flag in own.items()} for command, own in json.loads(done.stdout).items()
    }


def named(text: str) -> set[str]:
    """Return the commands in a text, such as `trainers.frozen`, or as owners, `convert's --resize`."""
    found = {f"{package}.{name}" for package, name in _NAMED.findall(text)} & set(COMMANDS)
    found |= {command for command in COMMANDS if command.partition(".")[2] in _OWNED.findall(text)}
    return found | (set(TRAINING) if _OF_TRAINERS in text else set())


def unknown(text: str, shown_by: Collection[str]) -> Iterator[str]:
    """Yield the flags that a text names but that its reader cannot use.

    A flag must belong to every command that shows the text, or to a command in the same sentence. In the quotes of
    `compare --variant='…'` it must belong to a trainer.
    """
    for name in FLAG.findall(" ".join(_QUOTED.findall(text))):
        if not any(has(command, name) for command in TRAINING):
            yield name
    text = _QUOTED.sub("", text)
    for sentence in filter(None, _SENTENCES.split(text)):
        others = named(sentence)
        for name in FLAG.findall(sentence):
            if name in EVERYWHERE | FOREIGN or any(has(command, name) for command in others):
                continue
            if not shown_by or not all(has(command, name) for command in shown_by):
                yield name


def has(command: str, name: str) -> bool:
    """Return whether a command has a flag. A boolean flag may also be `noNAME`."""
    flags = defined()[command]
    return name in flags or (name.startswith("no") and flags.get(name[2:], Flag("", None, "", [])).kind == "bool")
