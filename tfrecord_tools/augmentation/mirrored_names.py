"""Find class names, such as left and digits, that suggest that mirroring changes the class."""

from __future__ import annotations

import re
from collections.abc import Sequence

# A word in a name -> the word after mirroring.
_WORDS = {
    "left": "right", "leftward": "rightward", "leftwards": "rightwards", "lefthand": "righthand",
    "clockwise": "counterclockwise", "anticlockwise": "clockwise", "cw": "ccw",
}  # fmt: skip
_WORDS |= {mirrored: word for word, mirrored in _WORDS.items() if mirrored not in _WORDS}
# These words have other meanings, too. They count only if the mirrored name is also a class: eye_l and eye_r.
_PAIRED_WORDS = {"l": "r", "r": "l", "east": "west", "west": "east"}
_PARTS = ("왼", "오른", "좌회전", "우회전", "좌측", "우측", "左", "右")  # Parts of words that mean left or right.
# Letters and digits that look the same in a mirror, in most fonts.
_SYMMETRIC = frozenset("018AHIMOTUVWXYilmovwx")
_TOKENS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")  # turnLeft, turn_left and TURN-LEFT have the same words.


def change_when_mirrored(class_names: Sequence[str]) -> list[str]:
    """Return the class names that suggest that mirroring an image left-right changes its class.

    They contain words such as left, right and clockwise, or they are digits or single letters that look different in a
    mirror. Names of several digits count as numbers of classes. If there are such names, digits do not count either.

    Args:
        class_names: All class names of a dataset or a model.

    Returns:
        Some of the names, in their order. It is a guess from names: the images are not seen.

    Example:
        change_when_mirrored(["turn_left", "turn_right", "straight"])  # ["turn_left", "turn_right"]
    """
    names = {_plain(name) for name in class_names}
    are_numbers = any(name.isdecimal() and len(name) > 1 for name in class_names)
    return [name for name in class_names if _changes(name, names, are_numbers)]


def _changes(name: str, names: set[str], are_numbers: bool) -> bool:
    if len(name) == 1 and name.isascii() and name.isalnum():
        return name not in _SYMMETRIC and not (name.isdecimal() and are_numbers)
    words = _words(name)
    if any(word in _WORDS for word in words) or any(part in name for part in _PARTS):
        return True
    return any(
        "_".join([*words[:i], _PAIRED_WORDS[word], *words[i + 1 :]]) in names
        for i, word in enumerate(words)
        if word in _PAIRED_WORDS
    )


def _words(name: str) -> list[str]:
    return [token.lower() for token in _TOKENS.findall(name)]


def _plain(name: str) -> str:
    return "_".join(_words(name))
