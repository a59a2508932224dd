"""Options: flags of commands and keyword arguments of functions, checked by the same code."""

from __future__ import annotations

import functools
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfrecord_tools.base import options
from tfrecord_tools.base.options import Option
from tfrecord_tools.errors import UserError

EXAMPLE = "alpha=0.25,minimalistic=True"
OPTIONS = {
    "switch": Option("fast", "switch", "Be fast.", default=False),
    "integer": Option("count", "integer", "Number of images."),
    "number": Option("rate", "number", "Rate of learning."),
    "text": Option("optimizer", "text", "Name."),
    "choice": Option("order", "text", "Order.", default="shuffled", choices=("shuffled", "blocks")),
    "path": Option("out", "path", "Directory."),
    "size": Option("image_size", "size", "Height and width."),
    "augmentation": Option("augment", "augmentation", "Random changes."),
    "integers": Option("epochs", "integers", "Epochs of each phase."),
    "numbers": Option("learning_rate", "numbers", "Rate of each phase."),
    "names": Option("drop", "names", "Kinds."),
    "mapping": Option("class_map", "mapping", "Classes.", example="Cat=cats,Dog=dogs"),
    "weights": Option("class_weights", "weights", "W.", choices=("none", "balanced"), example="cats:1,dogs:3"),
    "chosen names": Option("tta", "names", "Views.", choices=("mirror", "crops")),
    "function": Option("backbone", "function", "Network.", hint="Save it."),
    "arguments": Option("backbone_kwargs", "arguments", "Arguments.", example=EXAMPLE),
}


@pytest.mark.parametrize(
    ("kind", "given", "value"),
    [
        ("switch", True, True),
        ("switch", np.bool_(False), False),
        ("integer", 3, 3),
        ("integer", np.int64(3), 3),
        ("number", 3, 3.0),
        ("number", np.float32(0.5), 0.5),
        ("text", "adam", "adam"),
        ("choice", "blocks", "blocks"),
        ("path", Path("a/b"), "a/b"),
        ("size", 160, 160),
        ("size", "160", 160),
        ("size", "96x256", (96, 256)),
        ("size", " 96 X 256 ", (96, 256)),
        ("size", [96, np.int64(256)], (96, 256)),
        ("size", "64x64", 64),  # A square has one form.
        ("size", (64, 64), 64),
        ("augmentation", "standard", "standard"),
        ("augmentation", len, len),  # `augmentation.named` checks it.
        ("integers", 5, [5]),  # A single number is a list of one.
        ("integers", (5, 8), [5, 8]),
        ("integers", "5,8", [5, 8]),  # As in a flag.
        ("integers", ["5", "8"], [5, 8]),  # As absl splits a flag.
        ("numbers", "3e-3,3e-4", [3e-3, 3e-4]),
        ("numbers", np.array([0.5, 0.25]), [0.5, 0.25]),
        ("names", "label,rare", ["label", "rare"]),
        ("names", ("label",), ["label"]),
        ("chosen names", "mirror,crops", ["mirror", "crops"]),
        ("chosen names", ["crops"], ["crops"]),
        ("mapping", "Cat=cats,Dog=dogs", {"Cat": "cats", "Dog": "dogs"}),
        ("mapping", " Cat = cats , Bird=", {"Cat": "cats", "Bird": ""}),
        ("mapping", '"a, b=c",d=e', {"a, b": "c", "d": "e"}),  # A part with a comma is in quotes.
        ("mapping", "a=b=c", {"a=b": "c"}),
        ("mapping", "", {}),
        ("mapping", {"Cat": "cats"}, {"Cat": "cats"}),
        ("weights", "balanced", "balanced"),
        ("weights", "cats:1,dogs:2.5", {"cats": 1.0, "dogs": 2.5}),
        ("weights", "a:b:1e-3", {"a:b": 1e-3}),
        ("weights", {"cats": 1, "dogs": np.float32(0.5)}, {"cats": 1.0, "dogs": 0.5}),
        ("arguments", {"alpha": 0.25}, {"alpha": 0.25}),
        ("arguments", "", {}),
        ("arguments", "alpha=0.25", {"alpha": 0.25}),
        ("arguments", "alpha=0.25, minimalistic=True", {"alpha": 0.25, "minimalistic": True}),
        ("arguments", "shape=(1, 2),name='a,b'", {"shape": (1, 2), "name": "a,b"}),  # Commas within values.
    ],
)
def test_values_are_converted(kind: str, given: Any, value: Any) -> None:
    converted = OPTIONS[kind].value(given)
    assert (converted, type(converted)) == (value, type(value))


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("switch", 1, "--fast=1: must be True or False."),
        ("switch", "yes", "--fast=yes: must be True or False."),
        ("integer", 1.5, "--count=1.5: must be a whole number."),
        ("integer", True, "--count=True: must be a whole number."),
        ("number", "fast", "--rate=fast: must be a number."),
        ("text", 5, "--optimizer=5: must be a text."),
        ("choice", True, "--order=True: must be one of shuffled, blocks."),
        ("choice", "block", "--order=block: must be one of shuffled, blocks. Did you mean blocks?"),
        ("path", 5, "--out=5: must be a path."),
        ("path", np.zeros((9, 9)), "--out=<ndarray>: must be a path."),
        ("path", "~nobody-here/x", "--out=~nobody-here/x: user 'nobody-here' does not exist."),
        ("size", 1.5, "--image_size=1.5: must be a whole number of pixels, or HEIGHTxWIDTH, as in 96x256."),
        ("size", "96*256", "--image_size=96*256: must be a whole number of pixels, or HEIGHTxWIDTH, as in 96x256."),
        ("size", (1, 2, 3), "--image_size=1,2,3: must be a whole number of pixels, or HEIGHTxWIDTH, as in 96x256."),
        ("size", True, "--image_size=True: must be a whole number of pixels, or HEIGHTxWIDTH, as in 96x256."),
        ("augmentation", 5, "--augment=5: must be a text, an AugmentConfig or a function."),
        ("function", 5, "--backbone=5: must be a text, a path or a function."),
        (
            "function",
            functools.partial(print),
            "backbone=functools.partial(<built-in function print>): must be a function at the top level of a module,"
            " so that it can be imported by name."
            " Define it with def, outside of other functions, or pass its name as a text: MODULE:FUNCTION or"
            " FILE.py:FUNCTION. Save it.",
        ),
        ("integers", [1.5], "--epochs=1.5: must be whole numbers, as in 5,8."),
        ("integers", "5,a", "--epochs=5,a: must be whole numbers, as in 5,8."),
        ("numbers", "a", "--learning_rate=a: must be numbers, as in 3e-3,3e-4."),
        ("names", [1], "--drop=1: must be names, separated by commas."),
        ("chosen names", "mirror,flip", "--tta=mirror,flip: must be one of mirror, crops."),
        (
            "mapping",
            "Cat",
            "--class_map=Cat: must be NAME=NAME pairs with different names before the =, separated by commas, as in"
            " Cat=cats,Dog=dogs.",
        ),
        ("mapping", "a=b,a=c", "--class_map=a=b,a=c: must be NAME=NAME pairs"),  # The same name twice.
        ("mapping", "=b", "--class_map==b: must be NAME=NAME pairs"),
        ("mapping", 'a=b,"c', '--class_map=a=b,"c: must be NAME=NAME pairs'),  # The quote is not closed.
        ("mapping", {"a": 1}, "--class_map=a=1: must be NAME=NAME pairs"),
        (
            "weights",
            "balance",
            "--class_weights=balance: must be none, balanced, or NAME:NUMBER pairs with different names, separated by"
            " commas, as in cats:1,dogs:3.",
        ),
        ("weights", "cats:much", "--class_weights=cats:much: must be none, balanced, or NAME:NUMBER pairs"),
        ("weights", {"cats": "x"}, "--class_weights=cats:x: must be none, balanced, or NAME:NUMBER pairs"),
        ("arguments", 5, "--backbone_kwargs=5: must be name=value pairs, separated by commas, with values as in"),
    ],
)
def test_wrong_values_are_refused(kind: str, given: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        OPTIONS[kind].value(given)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    "text",
    [
        "alpha",  # No value.
        "alpha=",  # Empty value.
        "alpha=a",  # Not a literal.
        "alpha=print(1)",  # A call.
        "0.25",  # No name.
        "**{'alpha': 1}",  # No name.
        "alpha=1,alpha=2",  # The same name twice.
        "alpha=1) or (1",  # Not a single call.
    ],
)
def test_wrong_arguments_are_refused(text: str) -> None:
    with pytest.raises(UserError) as error:
        OPTIONS["arguments"].value(text)
    message = f"--backbone_kwargs={text}: must be name=value pairs, separated by commas, with values as in"
    message += " Python (0.25, True, 'text')"
    assert str(error.value) == f"{message}, as in {EXAMPLE}."


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("epoch", "there is no option 'epoch'. Did you mean 'epochs'?"),
        ("lr", "there is no option 'lr'. Did you mean 'learning_rate'?"),  # The name in other tools.
        ("xyz", "there is no option 'xyz'."),
    ],
)
def test_unknown_options_are_refused(name: str, message: str) -> None:
    with pytest.raises(TypeError) as error:
        options.checked(list(OPTIONS.values()), {name: 1})
    assert str(error.value) == message


def test_none_is_not_given() -> None:
    assert options.checked(list(OPTIONS.values()), {"epochs": None, "count": 3}) == {"count": 3}


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("fill_mode=reflect,zoom_range=(0.8, 1.2)", {"fill_mode": "reflect", "zoom_range": (0.8, 1.2)}),
        ("fill_mode='wrap'", {"fill_mode": "wrap"}),
        ("flip=False,range=None", {"flip": False, "range": None}),
        ("", {}),
    ],
)
def test_words_without_quotes_are_values_where_allowed(text: str, values: dict[str, Any]) -> None:
    assert options.arguments(text, words=True) == values


def test_functions_show_their_options() -> None:
    @options.document(list(OPTIONS.values()))
    def work(*, log: Any = print, **given: Any) -> None:
        """Work.

        Args:
            log: Receives lines.
            {options}
        """

    assert list(inspect.signature(work).parameters) == ["log", *(option.name for option in OPTIONS.values())]
    assert inspect.signature(work).parameters["order"].default == "shuffled"
    lines = (work.__doc__ or "").splitlines()
    assert "    count (int): Number of images." in lines
    assert "    backbone_kwargs (Mapping[str, Any]): Arguments." in lines


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ([], {}),
        (["--count=3", "--rate", "0.5", "--fast"], {"count": 3, "rate": 0.5, "fast": True}),
        (["--nofast", "--epochs=1,2", "--order=blocks"], {"fast": False, "epochs": [1, 2], "order": "blocks"}),
        (["--count=3", "--count=4"], {"count": 4}),  # The last one counts, as in a command.
    ],
)
def test_flags_of_another_command_are_parsed(words: list[str], values: dict[str, Any]) -> None:
    assert options.parsed(list(OPTIONS.values()), words, "trainers.some") == values


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cuont=3"], "--cuont: is not a flag of trainers.some. Did you mean --count?"),
        (["--xyz"], "--xyz: is not a flag of trainers.some. python -m trainers.some --help lists the flags."),
        (["--count=a"], "--count=a: must be a whole number."),
        (["--count"], "--count: a value is missing. Pass --count=VALUE."),
        (["--order=block"], "--order=block: must be one of shuffled, blocks. Use --order=blocks."),
        (["--epochs=a"], "--epochs=a: must be whole numbers, as in 5,8."),
        (["3"], "unexpected argument '3': trainers.some takes only flags, --name=value."),
    ],
)
def test_wrong_flags_of_another_command_are_reported(words: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        options.parsed(list(OPTIONS.values()), words, "trainers.some")
    assert str(error.value) == message
