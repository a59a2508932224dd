"""English for messages and pages: numbers with their nouns, plurals, articles, sizes."""

from __future__ import annotations

_SAID_AS_WORDS = frozenset({"FITS", "HEIC", "HEIF", "RAW", "SUN"})
_UNITS = {"GB": 1e9, "MB": 1e6, "kB": 1e3, "B": 1}


def number(count: int, one: str, many: str | None = None) -> str:
    """Writes a number with what it counts: `1 image`, `1,234 images`, `2 classes`, `3 copies`.

    Args:
        count: How many.
        one: Of a single one, a noun at its end: "image", or "image is" with `many`.
        many: Of several. None: the plural of `one`.
    """
    return f"{count:,} {one if count == 1 else many or _plural(one)}"


def _plural(noun: str) -> str:
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies"
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")


def with_article(name: str) -> str:
    """A name with `a` or `an`, as it is spoken: `an AVIF`, `a JPEG`, `an MPO`, `a WebP`."""
    spelled = name.isupper() and name not in _SAID_AS_WORDS  # Letter by letter: "em-pee-oh".
    return f"{'an' if name[:1] in ('AEIOFHLMNRSX' if spelled else 'AEIOaeio') else 'a'} {name}"


def sentence(advice: str) -> str:
    """Advice as a sentence, without a full stop, so that a flag at its end can be copied."""
    return advice if advice.startswith("--") else advice[:1].upper() + advice[1:]


def size(count: float, smallest: str = "B") -> str:
    """Write a number of bytes: `1.5 GB`, `45.9 MB`, `999 B`.

    Args:
        count: Number of bytes.
        smallest: Unit of the numbers that are too small for any larger unit: "B", "kB" or "MB".
    """
    unit = next(unit for unit, scale in _UNITS.items() if count >= scale or unit == smallest)
    return f"{count / _UNITS[unit]:,.{0 if unit == 'B' else 1}f} {unit}"
