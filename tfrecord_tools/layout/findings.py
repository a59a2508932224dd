"""What a record lacks of its image, or should not have: one table for the console, convert.json, card and index."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trait:
    """A kind of thing to know of some images.

    Attributes:
        level: "check" where training may suffer, "note" where it is mostly right.
        text: A sentence that goes on behind the number of images; {have} and {are} are filled in by that number.
        advice: What can be done, without a full stop.
        lost: What is said of each image in changed.csv; "" if the record lacks nothing.
    """

    level: str
    text: str
    advice: str
    lost: str = ""


FINDINGS = {
    "deep": Trait(
        level="note",
        text="{have} levels of more than 8 bits, which are reduced to 8 bits",  # `conversion/notes` says more.
        advice="",
        lost="levels of more than 8 bits reduced to 8 bits",
    ),
    "bands": Trait(
        level="check",
        text="{have} more bands than red, green and blue, or than gray, and the other bands are dropped",
        advice="if other bands matter, write the three that do as RGB before the conversion",
        lost="further bands dropped",
    ),
    "pages": Trait(
        level="note",
        text="{have} several pages or frames, of which only the first is used",
        advice="if the others matter, write each one to a file of its own before the conversion",
        lost="further pages or frames dropped",
    ),
    "transparent": Trait(
        level="check",
        text="{have} transparent pixels (alpha), which are laid on white",
        advice="if that hides something, or if the fourth band is not transparency, write the files as RGB before the"
        " conversion",
        lost="transparent pixels laid on white",
    ),
    "one_color": Trait(
        level="check",
        text="{are} a single color after the conversion, so nothing is left to learn from",
        advice="remove the files, or write them as RGB on another background",
        lost="became a single color",
    ),
    "gps": Trait(
        level="check",
        text="carry GPS positions",
        advice="--strip_metadata removes EXIF and XMP without touching pixels",
    ),
}


_BITS = {name: 1 << i for i, name in enumerate(FINDINGS)}


def names(bits: int) -> list[str]:
    """The kinds that bits stand for: bit i for the i-th of `FINDINGS`."""
    return [name for name, bit in _BITS.items() if bits & bit]


def bits(kinds: Iterable[str]) -> int:
    """The bits of kinds."""
    return sum([_BITS[name] for name in kinds])


def lost(kinds: Iterable[str]) -> str:
    """What is lost of an image, in words."""
    return "; ".join(FINDINGS[name].lost for name in kinds if FINDINGS[name].lost)
