"""Classes of data are matched with classes of a model by name, or with --class_map."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from tfrecord_tools.errors import UserError
from trainers.results import class_map

MODEL = ("cats", "dogs", "foxes")


@pytest.mark.parametrize(
    ("counts", "given", "labels", "absent", "left_out"),
    [
        ({"cats": 1, "dogs": 1, "foxes": 1}, {}, [0, 1, 2], (), {}),
        ({"foxes": 1, "cats": 1, "dogs": 1}, {}, [2, 0, 1], (), {}),  # The order does not matter.
        ({"cats": 1, "dogs": 0, "foxes": 3}, {}, [0, 1, 2], ("dogs",), {}),
        ({"foxes": 3}, {}, [2], ("cats", "dogs"), {}),
        ({"Cat": 1, "cats": 2, "dogs": 1, "foxes": 1}, {"Cat": "cats"}, [0, 0, 1, 2], (), {}),  # Two become one.
        ({"cats": 1, "dogs": 1, "foxes": 1, "Bird": 4}, {"Bird": ""}, [0, 1, 2, -1], (), {"Bird": 4}),
        ({"cats": 1, "Bird": 0}, {}, [0, -1], ("dogs", "foxes"), {}),  # No image is of the unknown class.
        ({"cats": 1, "Bird": 0}, {"Bird": ""}, [0, -1], ("dogs", "foxes"), {}),
        ({"cats": 1, "dogs": 1}, {"cats": "dogs", "dogs": "cats"}, [1, 0], ("foxes",), {}),
    ],
)
def test_classes_are_matched(
    counts: Mapping[str, int],
    given: Mapping[str, str],
    labels: list[int],
    absent: tuple[str, ...],
    left_out: Mapping[str, int],
) -> None:
    match = class_map.match(MODEL, list(counts), np.array(list(counts.values())), given, "--images=photos")
    assert match.labels_of.tolist() == labels
    assert match.absent == absent
    assert match.left_out == left_out


def test_lines_say_what_is_left_out_and_what_is_missing() -> None:
    match = class_map.match(MODEL, ["cats", "Bird"], np.array([2, 1]), {"Bird": ""}, "--images=photos")
    assert list(match.lines()) == [
        "--class_map=Bird=: 1 image is left out",
        "classes of the model without images (2 of 3): dogs, foxes. Rates per class and their means use only the 1"
        " class with images",
    ]
    complete = class_map.match(MODEL, MODEL, np.array([1, 1, 1]), {}, "--images=photos")
    assert list(complete.lines()) == []


@pytest.mark.parametrize(
    ("counts", "given", "message"),
    [
        (
            {"Cat": 2, "Dogs": 1, "fox": 1},
            {},
            "--images=photos: the model has no class Cat (2 images), Dogs (1 image), fox (1 image). The classes of the"
            " model are"
            " cats, dogs, foxes. If the names mean the same classes, pass --class_map=Cat=cats,Dogs=dogs,fox=foxes.",
        ),
        (
            {"Cat": 2, "dogs": 1, "big bird": 1},
            {},
            "--images=photos: the model has no class Cat (2 images), big bird (1 image). The classes of the model are"
            " cats, dogs,"
            " foxes. To leave out the images of big bird, pass --class_map='Cat=cats,big bird='. To count them as a"
            " class of the model, write the name of that class after the =.",
        ),
        (
            {"Cat": 2, "Dog": 1},
            {"Cat": "cats"},  # A flag that was given is a part of the suggestion.
            "--images=photos: the model has no class Dog (1 image). The classes of the model are cats, dogs, foxes. If"
            " the names"
            " mean the same classes, pass --class_map=Cat=cats,Dog=dogs.",
        ),
        (
            {"cars": 2, "ships": 1},
            {},
            "--images=photos: the model has no class cars (2 images), ships (1 image). The classes of the model are"
            " cats, dogs, foxes. Pass images of the model's classes. If the model has one of the other classes under"
            " another name, pass --class_map=CLASS_OF_THE_DATA=CLASS_OF_THE_MODEL.",
        ),
        (
            {"cats": 2, "dogs": 1},
            {"cat": "cats"},
            "--class_map=cat=cats: 'cat' is not a class of --images=photos. The classes of the data are cats, dogs."
            " Did you mean cats? Write CLASS_OF_THE_DATA=CLASS_OF_THE_MODEL.",
        ),
        (
            {"Cat": 2, "dogs": 1},
            {"Cat": "cat"},
            "--class_map=Cat=cat: 'cat' is not a class of the model. The classes of the model are cats, dogs, foxes."
            " Did you mean"
            " cats? Write CLASS_OF_THE_DATA=CLASS_OF_THE_MODEL.",
        ),
        (
            {"cats": 2},
            {"cats": ""},
            "--images=photos: no image is left, because --class_map leaves out all of them. Map at least one class of"
            " the data to a class of the model: --class_map=CLASS_OF_THE_DATA=CLASS_OF_THE_MODEL.",
        ),
    ],
)
def test_other_classes_are_refused(counts: Mapping[str, int], given: Mapping[str, str], message: str) -> None:
    with pytest.raises(UserError) as error:
        class_map.match(MODEL, list(counts), np.array(list(counts.values())), given, "--images=photos")
    assert str(error.value) == message


def test_of_many_other_classes_some_are_named() -> None:
    many = tuple(f"class {i:04d}" for i in range(1000))
    with pytest.raises(UserError) as error:
        class_map.match(many, ("x", "y"), np.array([1, 1]), {}, "--tfrecords=out")
    assert "The classes of the model are class 0000, class 0001, " in str(error.value)
    assert "class 0009 and 990 more. " in str(error.value)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ["cats", "dogs", "foxes"]),
        ({"Cat": "cats"}, ["Cat", "dogs", "foxes"]),
        ({"Bird": ""}, ["Bird", "cats", "dogs", "foxes"]),
        ({"cats": "dogs"}, ["cats", "foxes"]),
    ],
)
def test_expected_classes_of_a_folder(given: Mapping[str, str], expected: list[str]) -> None:
    assert class_map.expected(MODEL, given) == expected
