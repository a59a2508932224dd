"""Find class names, such as left and right, that change their meaning when an image is mirrored."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

# Pairs of words that a mirror exchanges. A name counts if it has one word and another name has the other.
_PAIRS = """
left right; leftward rightward; leftwards rightwards; lefthand righthand; lefthanded righthanded; leftmost rightmost;
leftarrow rightarrow; arrowleft arrowright; turnleft turnright; leftturn rightturn; leftside rightside;
upleft upright; downleft downright; topleft topright; bottomleft bottomright; upperleft upperright;
lowerleft lowerright; east west; eastbound westbound; eastward westward; northeast northwest; southeast southwest;
ne nw; se sw; clockwise counterclockwise; clockwise anticlockwise; clockwise counter; clockwise anti; cw ccw; cw acw;
port starboard; lh rh; links rechts; linker rechter; linksabbiegen rechtsabbiegen;
gauche droite; gauche droit; izquierda derecha; izquierdo derecho; sinistra destra; sinistro destro; esquerda direita;
esquerdo direito; vänster höger; venstre højre; venstre høyre; vasen oikea; lewo prawo; lewa prawa; lewy prawy;
vlevo vpravo; levý pravý; stânga dreapta; bal jobb; sol sağ; kiri kanan; trái phải; лево право; левый правый;
левая правая; левое правое; налево направо; влево вправо; слева справа
"""
# Letters that a mirror exchanges. They count only if two names differ in nothing else.
_LETTERS = "l r; b d; p q"
# Pairs for scripts without spaces between words, and signs. They count only if two names differ in nothing else.
_INNER = """
왼 오른; 좌 우; 시계 반시계; 동쪽 서쪽; 左 右; 顺时针 逆时针; 順時針 逆時針; 時計 反時計; 東 西; 东 西; ซ้าย ขวา;
← →; ⇐ ⇒; ⬅ ➡; ↖ ↗; ↙ ↘; ↰ ↱; ↶ ↷; ↺ ↻; ◀ ▶
"""
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_BEFORE_DIGITS = frozenset({"digit", "number", "numeral", "figure"})
_SAME_DIGITS = frozenset("018")  # A mirror changes these digits little.
_SAME_LETTERS = frozenset("AHIMOTUVWXYilmotuvwx")
_MANY_DIGITS, _MANY_LETTERS = 9, 12  # Classes with fewer of them may just be numbered, as in 0 to 4 or a to d.
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_A-Za-z]+")
_WITHOUT_ACCENTS = str.maketrans("øØıŁł", "oOiLl")  # Unicode has no separate accent for these letters.


def change_when_mirrored(class_names: Sequence[str]) -> list[str]:
    """Return the class names that suggest that a mirrored image of the class belongs to another class.

    Only the names are compared, so the result can be wrong in both ways: a class with such a name may look the same in
    a mirror, and a mirror may exchange two classes without such names.

    * A name has a word such as left, east or clockwise, and another name has its opposite. The letters l, r, b, d, p
      and q count only if two names differ in nothing else.
    * The names are the digits, in figures or in words, or many letters of the alphabet. Digits and letters that look
      much the same in a mirror are left out.

    Args:
        class_names: The names of all classes.

    Returns:
        The names in their order. Empty if no name suggests it.
    """
    words = {name: _words(name) for name in class_names}
    changed = {*_opposed(words), *_exchanged(words), *_digits(words), *_alphabet(class_names)}
    return [name for name in class_names if name in changed]


def _words(name: str) -> tuple[str, ...]:
    """Return the words of a name in lower case, without accents: `turnLeft_02` has turn, left and 02."""
    letters = unicodedata.normalize("NFD", name)
    plain = "".join(letter for letter in letters if not unicodedata.combining(letter))
    found = _WORD.findall(unicodedata.normalize("NFC", plain).translate(_WITHOUT_ACCENTS))
    return tuple(word.lower() for word in found)


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    """Yield the pairs of a text in both directions."""
    for pair in text.split(";"):
        one, other = pair.split()
        yield one, other
        yield other, one


def _opposed(words: dict[str, tuple[str, ...]]) -> Iterator[str]:
    """Yield the names with a word of `_PAIRS`, if any name has its opposite."""
    present = {word for own in words.values() for word in own}
    for pair in _pairs(_PAIRS):
        (word,), (opposite,) = map(_words, pair)
        if word in present and opposite in present:
            yield from (name for name, own in words.items() if word in own)


def _exchanged(words: dict[str, tuple[str, ...]]) -> Iterator[str]:
    """Yield the names that become another name if a letter or a sign is exchanged."""
    sequences, texts = set(words.values()), {name: unicodedata.normalize("NFC", name) for name in words}
    lettered = {("a",), ("c",)} <= sequences  # The classes are numbered with letters: a, b, c, d.
    for letter, other in () if lettered else _pairs(_LETTERS):
        for name, own in words.items():
            if letter in own and tuple(other if word == letter else word for word in own) in sequences:
                yield name
    names = set(texts.values())
    for sign, other in _pairs(_INNER):
        yield from (name for name, text in texts.items() if sign in text and text.replace(sign, other) in names)


def _digits(words: dict[str, tuple[str, ...]]) -> Iterator[str]:
    """Yield the names of digits, if nearly all digits are there and no longer number is."""
    digit_of = {name: _digit(own) for name, own in words.items()}
    many = len(set(digit_of.values()) - {""}) >= _MANY_DIGITS
    if many and not any(name.isdecimal() and int(name) > 9 for name in words):
        yield from (name for name, digit in digit_of.items() if digit and digit not in _SAME_DIGITS)


def _digit(words: tuple[str, ...]) -> str:
    """Return the digit that a name such as `3`, `three` or `digit 3` means; "" if it means none."""
    if not words or not _BEFORE_DIGITS.issuperset(words[:-1]):
        return ""
    last = words[-1]
    if last in _DIGITS:
        return str(_DIGITS.index(last))
    return str(int(last)) if last.isdecimal() and int(last) <= 9 else ""


def _alphabet(class_names: Sequence[str]) -> Iterator[str]:
    """Yield the names that are letters, if many letters are there."""
    letters = [name for name in class_names if len(name) == 1 and name.isascii() and name.isalpha()]
    if len({letter.lower() for letter in letters}) >= _MANY_LETTERS:
        yield from (name for name in letters if name not in _SAME_LETTERS)
