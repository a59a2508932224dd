"""English for messages and pages: numbers with nouns, plurals, articles, sizes."""

from __future__ import annotations

_SPOKEN_AS_WORDS = frozenset({"FITS", "HEIC", "HEIF", "RAW", "SUN"})
_UNITS = {"GB": 1e9, "MB": 1e6, "kB": 1e3, "B": 1}


def number(count: int, one: str, many: str | None = None) -> str:
    """Write a number with its noun: `1 image`, `1,234 images`, `2 classes`, `3 copies`.

    Args:
        count: Number.
        one: Words for one: a singular noun, such as "image", or any words if `many` is given, such as "image is".
        many: Words for several. None: the plural of `one`.
    """
    return f"{count:,} {one if count == 1 else many or _plural(one)}"


def _plural(noun: str) -> str:
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies"
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")


def with_article(name: str) -> str:
    """Return a name with `a` or `an`: `an AVIF`, `a JPEG`, `an MPO`, `a WebP`."""
    spelled = name.isupper() and name not in _SPOKEN_AS_WORDS  # Spoken letter by letter: "em-pee-oh".
    return f"{'an' if name[:1] in ('AEIOFHLMNRSX' if spelled else 'AEIOaeio') else 'a'} {name}"


def sentence(advice: str) -> str:
    """Capitalize advice, unless it starts with a flag. No period, so that a last flag can be copied."""
    return advice if advice.startswith("--") else advice[:1].upper() + advice[1:]


def size(count: float, smallest: str = "B") -> str:
    """Write a number of bytes: `1.5 GB`, `45.9 MB`, `999 B`.

    Args:
        count: Number of bytes.
        smallest: Smallest unit to use: "B", "kB" or "MB".
    """
    unit = next(unit for unit, scale in _UNITS.items() if count >= scale or unit == smallest)
    return f"{count / _UNITS[unit]:,.{0 if unit == 'B' else 1}f} {unit}"
