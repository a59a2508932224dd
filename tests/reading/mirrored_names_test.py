"""Class names that suggest that mirroring changes the class."""

from __future__ import annotations

import string
from collections.abc import Sequence

import pytest

from tfrecord_tools.augmentation.mirrored_names import change_when_mirrored

DIGITS = [str(digit) for digit in range(10)]


@pytest.mark.parametrize(
    "names",
    [
        ["left", "right"],
        ["turnLeft", "turnRight"],
        ["TURN_LEFT_02", "TURN_RIGHT_02"],
        ["arrow-left", "arrow-right"],
        ["leftarrow", "rightarrow"],
        ["clockwise", "counter-clockwise"],
        ["anticlockwise", "clockwise"],
        ["east", "west"],
        ["northEast", "northWest"],
        ["eye_l", "eye_r"],
        ["b", "d"],
        ["p", "q"],
        ["links", "rechts"],
        ["izquierda", "derecha"],
        ["gauche", "droite"],
        ["vänster", "höger"],
        ["venstre", "højre"],
        ["sol", "sağ"],
        ["левый", "правый"],
        ["왼쪽", "오른쪽"],
        ["좌회전", "우회전"],
        ["左", "右"],
        ["顺时针", "逆时针"],
        ["←", "→"],
    ],
    ids=str,
)
def test_both_sides_of_a_pair_are_found(names: Sequence[str]) -> None:
    assert change_when_mirrored(["cats", *names, "dogs"]) == names
    assert change_when_mirrored(names[::-1]) == names[::-1]  # In their order.


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["cats", "dogs"],
        ["right", "wrong"],  # There is no left.
        ["bright", "cleft", "copyright", "leftovers"],
        ["upright", "lying"],
        ["S", "M", "L"],
        ["a", "b", "c", "d"],  # The classes are only numbered.
        ["0", "1", "2", "3", "4"],  # Grades.
        [str(number) for number in range(1, 103)],
        ["class_0", "class_1", "class_2"],
        ["eye_l", "nose_r"],  # They differ in another word, too.
        ["좋음", "나쁨"],
        ["", " "],
    ],
    ids=str,
)
def test_other_names_are_not(names: Sequence[str]) -> None:
    assert change_when_mirrored(names) == []


@pytest.mark.parametrize(
    ("names", "changed"),
    [
        (DIGITS, ["2", "3", "4", "5", "6", "7", "9"]),  # 0, 1 and 8 stay much the same.
        ([f"digit {digit}" for digit in DIGITS], [f"digit {digit}" for digit in "2345679"]),
        (
            ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"],
            ["two", "three", "four", "five", "six", "seven", "nine"],
        ),
        (list(string.ascii_uppercase), list("BCDEFGJKLNPQRSZ")),
        (list("bdpq"), list("bdpq")),
    ],
    ids=["digits", "with a word", "in words", "alphabet", "four letters"],
)
def test_digits_and_letters(names: Sequence[str], changed: Sequence[str]) -> None:
    assert change_when_mirrored(names) == changed


def test_only_the_named_classes_are_returned() -> None:
    names = ["stop", "turn_left", "turn_right", "left", "go"]
    assert change_when_mirrored(names) == ["turn_left", "turn_right", "left"]
