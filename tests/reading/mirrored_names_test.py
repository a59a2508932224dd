"""Class names that suggest that mirroring changes the class."""

from __future__ import annotations

import string

import pytest

from tfrecord_tools.augmentation.mirrored_names import change_when_mirrored


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["cats", "dogs"], []),
        (["left", "right", "straight"], ["left", "right"]),
        (["turnLeft", "TURN-RIGHT", "go"], ["turnLeft", "TURN-RIGHT"]),
        (["turn left", "stop"], ["turn left"]),  # The mirrored image has no class here, and is still not "turn left".
        (["bright", "cleft", "wright"], []),  # The words are parts of other words.
        (["clockwise", "counter_clockwise", "CCW"], ["clockwise", "counter_clockwise", "CCW"]),
        (["eye_l", "eye_r", "nose"], ["eye_l", "eye_r"]),
        (["eye_l", "nose"], []),  # `l` alone may mean anything, for example large.
        (["east", "west"], ["east", "west"]),
        (["east_asian", "african"], []),
        (["왼쪽", "오른쪽", "직진"], ["왼쪽", "오른쪽"]),
        (["左", "右", "上"], ["左", "右"]),
        (list(string.digits), list("2345679")),
        ([str(i) for i in range(12)], []),  # Numbers of classes, not pictures of digits.
        (["0", "1"], []),
        (["A", "B", "b", "d", "o"], ["B", "b", "d"]),
        ([], []),
    ],
)
def test_names_that_change(names: list[str], expected: list[str]) -> None:
    assert change_when_mirrored(names) == expected
