"""Command-line flags: paths with `~`, the help of a command, and suggestions for mistyped flags."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

from absl import flags

import tfrecord_tools
from tfrecord_tools.base import files, sizes
from tfrecord_tools.base.sizes import Size
from tfrecord_tools.errors import UserError, named

flags.disclaim_key_flags()  # Flags defined here belong to the command that calls, and are listed in its --help.

# If a flag does not exist, the commands of these packages are searched for it.
PACKAGES = ("tfrecord_tools", "trainers")
VERSION = f"tfrecord-tools {tfrecord_tools.__version__}"
_HELP = frozenset({"-h", "-?", "-help", "--help", "--helpshort", "--helpfull"})
_NEAR = 0.66  # Cutoff for difflib: `scr` matches src; in longer words, one or two letters may differ.
_HOMES_SHOWN = 4
_REPEATED = ";\n    repeat this option to specify a list of values"  # absl appends this to the help.
_HARD_SPACE = "\N{NO-BREAK SPACE}"
_TRUTH_VALUES = frozenset({"true", "false", "yes", "no", "on", "off", "0", "1"})

# Flags of this project -> the names that other tools use for them. The first flag that the command has is suggested.
_SOURCE = ("src", "tfrecords", "records", "run")
_OTHER_NAMES: Mapping[tuple[str, ...], str] = {
    _SOURCE: "input i in data d dataset data_dir datadir data_path dataset_dir dataset_path source source_dir input_dir"
    " input_path dir directory folder path image_dir images images_dir img_dir imgs root train_dir file src",
    ("tfrecords", "records", "src"): "tfrecords records tfrecord tfrecord_dir tfrecords_dir tf_records",
    ("out", "run", "csv"): "out output o output_dir output_path outdir out_dir dest destination save save_dir save_path"
    " target dst export_dir to_dir",
    ("run", "out"): "run log_dir logdir model_dir work_dir run_dir runs project",
    ("backbone", "run"): "model m",
    ("run", "weights"): "model_path model_file checkpoint ckpt load",
    ("backbone",): "arch architecture network net base_model model_name encoder",
    ("weights",): "pretrained weight weights_path init_weights",
    ("learning_rate",): "lr lr_rate learningrate learn_rate rate base_lr lr0 init_lr",
    ("epochs",): "epoch e num_epochs n_epochs nb_epoch max_epochs",
    ("batch_size",): "batch b bs batchsize mini_batch_size",
    ("validation_fraction",): "validation_split val_split valid_split val_fraction val_size validation_size val_ratio",
    ("test_fraction",): "test_split test_size test_ratio",
    ("image_size", "resize"): "image_size img_size imgsz imgsize img_sz size target_size input_size resolution height"
    " width img_height img_width image_height image_width",
    ("resize", "image_size"): "resize resize_to scale",
    ("fit",): "keep_aspect_ratio aspect_ratio padding pad letterbox",
    ("workers",): "num_workers n_workers jobs j n_jobs num_jobs processes threads",
    ("seed", "seeds"): "random_seed random_state rng_seed seed",
    ("augment",): "augmentation augmentations aug data_augmentation transforms",
    ("optimizer",): "opt optim",
    ("schedule",): "scheduler lr_schedule lr_scheduler lr_policy",
    ("warmup_steps",): "warmup num_warmup_steps",
    ("early_stopping",): "earlystopping early_stop",
    ("label_smoothing",): "smoothing ls",
    ("class_weights",): "class_weight balance balanced",
    ("class_map",): "label_map class_mapping label_mapping",
    ("tta",): "test_time_augmentation augment_test",
    ("precision", "quantize"): "mixed_precision fp16 bf16 amp half dtype",
    ("strategy",): "distribute distribution_strategy multi_gpu",
    ("unfreeze",): "fine_tune_at unfreeze_layers trainable finetune_layers freeze",
    ("overwrite",): "force f replace exist_ok y",
    ("shards",): "num_shards n_shards",
    ("shard_bytes",): "shard_size max_shard_size maxsize",
    ("classes",): "labels class_names classnames categories label_names",
    ("manifest",): "annotations annotation annotation_file labels_csv metadata table",
    ("csv", "manifest"): "csv csv_file csv_path",
    ("threshold",): "conf confidence thresh cutoff",
    ("quantize",): "quantization quant",
    ("deterministic",): "deterministic_ops determinism",
    ("dry_run",): "dryrun plan n",
    ("image",): "image_path img photo",
    ("exclude", "on_bad_image"): "ignore skip",
    ("split",): "subset",
    ("tensorboard",): "tb",
}
_MEANINGS = {word: meanings for meanings, words in _OTHER_NAMES.items() for word in words.split()}
_GIVEN_AS_ARGUMENTS = frozenset({"src", "tfrecords", "records", "image"})
_OPTIMIZER_ARGUMENTS = ("weight_decay", "momentum", "nesterov", "clipnorm", "clipvalue", "global_clipnorm", "use_ema")
_ADVICE = {  # Advice for flags that do not exist because commands do not need them.
    **dict.fromkeys(
        ("resume", "continue", "restore"),
        "To continue an interrupted run, run the same command again. No flag is needed.",
    ),
    "shuffle": "Records are always shuffled; --seed sets the order.",
    **dict.fromkeys(
        ("gpu", "gpus", "device", "cuda"),
        "All GPUs are used. To choose some, set the environment variable CUDA_VISIBLE_DEVICES.",
    ),
}


class PathParser(flags.ArgumentParser[str]):
    """Parse a path, a pattern or a URL, and expand `~`. With `named`, the value is NAME=PATH."""

    syntactic_help = "a path"

    def __init__(self, flag: str, named: bool = False):
        super().__init__()
        self._flag = flag
        self._named = named

    def parse(self, argument: str) -> str:
        name, equals, path = argument.rpartition("=") if self._named else ("", "", argument)
        return f"{name}{equals}{files.expand_user(path, f'--{self._flag}={name}{equals}')}"

    def flag_type(self) -> str:
        return "path"


class SizeParser(flags.ArgumentParser[Size]):
    """Parse the size of an image: one number of pixels, or HEIGHTxWIDTH."""

    syntactic_help = sizes.WHAT

    def parse(self, argument: str | int) -> Size:
        return sizes.parse(argument)

    def flag_type(self) -> str:
        return "size"


class _SizeSerializer(flags.ArgumentSerializer[Size]):
    def serialize(self, value: Size) -> str:
        return sizes.text(value)


def define_size(name: str, default: Size | None, help: str, **how: Any) -> None:
    """Define a flag with the size of an image as value."""
    flags.DEFINE(SizeParser(), name, default, help, serializer=_SizeSerializer(), **how)


def define_path(name: str, default: Any, help: str, **how: Any) -> None:
    """Define a flag with a path as value; `~` in the path is expanded."""
    flags.DEFINE(PathParser(name), name, default, help, serializer=flags.ArgumentSerializer(), **how)


def define_named_paths(name: str, help: str) -> None:
    """Define a repeatable flag with values NAME=PATH; `~` in the path is expanded."""
    flags.DEFINE_multi(PathParser(name, named=True), flags.ArgumentSerializer(), name, [], help)


def parse(argv: Sequence[str], arguments: str = "") -> list[str]:
    """Parse the command line, or print the help or the version.

    Args:
        argv: Program, flags and arguments.
        arguments: Names of the positional arguments in the help, such as "DIRECTORY". "": there are none.

    Returns:
        The program and the arguments that are not flags, with `~` expanded. Empty if the help or the version was
        printed.

    Raises:
        UserError: A flag does not exist, has no value, or has a value that is not allowed.
    """
    words = argv[1 : argv.index("--")] if "--" in argv else argv[1:]
    if _HELP & set(words):
        print(help_text(arguments))
        return []
    if "--version" in words:
        print(VERSION)
        return []
    try:
        program, *rest = flags.FLAGS(list(argv))
    except flags.UnrecognizedFlagError as error:
        value = error.flagvalue.partition("=")[2]  # `flagvalue` is "--name=value".
        raise UserError(_unknown(error.flagname, value, arguments)) from error
    except flags.Error as error:
        raise UserError(wrong(error)) from error
    return [program, *map(files.expand_user, rest)]


# --- Help ----------------------------------------------------------------------------------------------------------


def command_name() -> str:
    """Return the name of the running command, such as `python -m tfrecord_tools.convert`."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {spec.name.removesuffix('.__main__')}" if spec else os.path.basename(sys.argv[0])


def help_text(arguments: str = "") -> str:
    """Return the help of the running command: what it does, its usage, and its flags."""
    first, _, rest = (sys.modules["__main__"].__doc__ or "").strip().partition("\n")
    own = _own_flags()
    call = " ".join(filter(None, [command_name(), arguments, "[--flag=value ...]" if own else ""]))
    parts = [first, f"usage: {call}", rest.strip("\n")]
    if own:
        parts.append("flags:\n" + "\n".join(map(_flag_help, own)))
    return "\n\n".join(part for part in parts if part)


def _own_flags() -> list[flags.Flag[Any]]:
    """Return the flags of the running command, in the order of their definition, without those of absl."""
    return list(flags.FLAGS.get_key_flags_for_module(sys.argv[0]))


def _flag_help(flag: flags.Flag[Any]) -> str:
    """Return the wrapped help of a flag: `--name: <a|b>: what it does (default: 'a')`."""
    name = f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}"
    text = f"{name}: {_description(flag)}"
    if flag.default not in (None, "", []):
        text += f" (default:{_HARD_SPACE}{flag.default_as_str})"
    width = min(max(shutil.get_terminal_size((100, 24)).columns, 40), 120)
    wrapped = textwrap.wrap(text, width, initial_indent="  ", subsequent_indent="      ", break_on_hyphens=False)
    return "\n".join(wrapped).replace(_HARD_SPACE, " ")


def _description(flag: flags.Flag[Any]) -> str:
    """Return the help of a flag without the text that absl adds to flags which may be repeated."""
    text = (flag.help or "").removesuffix(_REPEATED)
    is_stated = "repeat" in text.lower() or not isinstance(flag, flags.MultiFlag)
    return text if is_stated else f"{text} May be repeated."


# --- Mistakes ------------------------------------------------------------------------------------------------------


def _unknown(name: str, value: str, arguments: str) -> str:
    """Return the message for a flag that does not exist, with a suggestion."""
    own = {flag.name: flag for flag in _own_flags()}
    shown = f"--{name}={value}" if value else f"--{name}"
    plain = name.replace("-", "_").lower()
    see = f"{command_name()} --help lists the flags."
    if arguments and set(_MEANINGS.get(plain, (plain,))) & _GIVEN_AS_ARGUMENTS:
        advice = f"Write {arguments} without a flag: {command_name()} {value or arguments}"
    elif meant := _meant(plain, own):
        advice = _instead(own[meant], value, off=meant != plain and plain.startswith("no"))
    elif plain in _OPTIMIZER_ARGUMENTS and "optimizer_kwargs" in own:
        advice = f"Use --optimizer_kwargs={plain}={value or 'VALUE'}."
    elif plain in _ADVICE and own.keys() >= set(re.findall(r"--(\w+)", _ADVICE[plain])):
        advice = _ADVICE[plain]
    elif hint := homes([plain, *_MEANINGS.get(plain, ())]):
        advice = f"{hint} {see}"
    else:
        near = difflib.get_close_matches(plain, own, 1, _NEAR)
        advice = _instead(own[near[0]], value) if near else see
    return f"{shown}: is not a flag of this command. {advice}"


def _meant(plain: str, own: Mapping[str, flags.Flag[Any]]) -> str | None:
    """Return the command's flag with the same meaning as `plain`, or None if there is none."""
    without = plain.removeprefix("no_") if plain.startswith("no_") else plain.removeprefix("no")
    if without in own and own[without].boolean:
        return without
    return next((name for name in (plain, *_MEANINGS.get(plain, ())) if name in own), None)


def name_meant(name: str, names: Collection[str]) -> str | None:
    """Return the option that a mistyped name, or a name from another tool, stands for, or None."""
    meanings = (name, *_MEANINGS.get(name, ()))
    near = difflib.get_close_matches(name, names, 1, _NEAR)
    return next((meaning for meaning in meanings if meaning in names), near[0] if near else None)


def command_meant(name: str, commands: Mapping[str, str]) -> str:
    """Return a suggestion for a command that does not exist."""
    for package in PACKAGES:
        with contextlib.suppress(ImportError):
            if name in importlib.import_module(f"{package}.__main__").COMMANDS:
                return f"It is a command of {package}: python -m {package} {name}"
    near = difflib.get_close_matches(name, commands, 1, 0.6)
    return f"Did you mean {near[0]}?" if near else f"The commands are {', '.join(commands)}."


def _instead(flag: flags.Flag[Any], value: str, off: bool = False) -> str:
    if flag.boolean:
        return f"Use --no{flag.name}." if off else f"Use --{flag.name} or --no{flag.name}."
    return f"Use --{flag.name}={value}." if value else f"Use --{flag.name}."


def homes(names: Sequence[str]) -> str:
    """Say which other commands have a flag: `--x is a flag of python -m trainers.scratch.` Or return ""."""
    flags_of = dict(_flags_of_commands())
    for name in names:
        commands = [f"python -m {command}" for command, own in flags_of.items() if name in own]
        if commands:
            return f"--{name} is a flag of {named(commands, _HOMES_SHOWN)}."
    return ""


def _flags_of_commands() -> Iterator[tuple[str, Collection[str]]]:
    """Yield each command and the names of its flags. This removes the flags of the running command."""
    flags.FLAGS.remove_flag_values({flag.name: flag for flag in _own_flags()})
    for package in PACKAGES:
        with contextlib.suppress(ImportError):
            commands = importlib.import_module(f"{package}.__main__").COMMANDS
            for name in commands:
                yield f"{package}.{name}", _defined_by(importlib.import_module(f"{package}.{name}"))


def _defined_by(module: ModuleType) -> Collection[str]:
    """Return the names of the flags that a command defines."""
    before = set(flags.FLAGS)
    getattr(module, "define_flags", lambda: None)()
    names = set(flags.FLAGS) - before
    flags.FLAGS.remove_flag_values({name: flags.FLAGS[name] for name in names})
    return names


def wrong(error: flags.Error, own: flags.FlagValues = flags.FLAGS) -> str:
    """Return the message for a missing or wrong value of a flag in `own`. It names the allowed values."""
    text = str(error)
    if text.startswith("Missing value for flag "):
        name = text.removeprefix("Missing value for flag ").strip().lstrip("-")
        return f"--{name}: a value is missing. Pass --{name}=VALUE."
    if match := re.fullmatch(r"flag --(\w+)=None: Flag --\w+ must have a value other than None\.", text):
        name = match.group(1)
        return f"--{name} is missing: {_description(own[name])}"
    match = re.match(r"flag --(\w+)=", text)
    if not match or match.group(1) not in own:
        return text
    # absl appends the message of Python's ValueError.
    shown = text.removeprefix("flag ").removesuffix(f": {error.__context__}")
    return f"{shown}: {_allowed(own[match.group(1)], shown.partition('=')[2])}"


def _allowed(flag: flags.Flag[Any], value: str) -> str:
    kind = flag.flag_type().removeprefix("multi ")
    if choices := getattr(flag.parser, "enum_values", None):
        near = difflib.get_close_matches(value, choices, 1)
        return f"must be one of {', '.join(choices)}." + (f" Use --{flag.name}={near[0]}." if near else "")
    if kind == "bool":
        return f"must be true or false. Use --{flag.name} or --no{flag.name}."
    what = {"int": "a whole number", "float": "a number", "size": sizes.WHAT}.get(kind, f"a value of type {kind}")
    has_example = flag.default not in (None, [], "") and kind != "size"  # The words for a size have an example.
    example = f", such as --{flag.name}={flag.default}" if has_example else ""
    return f"must be {what}{example}."


def unexpected(argument: str) -> str:
    """Return the message for an argument of a command that has only flags."""
    own = {flag.name: flag for flag in _own_flags()} if flags.FLAGS.is_parsed() else {}
    message = f"unexpected argument {argument!r}: this command takes only flags, --name=value (see --help)"
    boolean = next((flag.name for flag in own.values() if flag.boolean and flag.present), None)
    if argument.lower() in _TRUTH_VALUES and boolean:
        return f"{message}. Write = between the flag and its value: --{boolean}={argument}."
    free = next((name for name in (*_SOURCE, "csv", "out") if name in own and not own[name].present), None)
    return f"{message}. Use --{free}={argument}." if free and os.path.lexists(argument) else message
