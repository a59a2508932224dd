"""Findings about single images: losses, such as transparency, and risks, such as stored GPS positions.

The console, convert.json, the card and the index use this table.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trait:
    """A kind of finding.

    Attributes:
        level: "check" if training may suffer, "note" if the result is usually right.
        text: Text after the number of images. The fields {have} and {are} agree with that number.
        advice: Advice for the user, without a period.
        lost: Text in changed.csv about the loss of each image. "": nothing is lost.
    """

    level: str
    text: str
    advice: str
    lost: str = ""


FINDINGS = {
    "deep": Trait(
        level="note",
        text="{have} levels of more than 8 bits, which are reduced to 8 bits",  # `conversion/notes` adds details.
        advice="",
        lost="levels of more than 8 bits reduced to 8 bits",
    ),
    "bands": Trait(
        level="check",
        text="{have} more bands (channels) than an RGB or gray image; the additional bands are left out",
        advice="if you need additional bands, save three bands as an RGB image before the conversion",
        lost="further bands dropped",
    ),
    "pages": Trait(
        level="note",
        text="{have} several pages or frames; only the first one is used",
        advice="if you need the other pages or frames, save each one as a separate file before the conversion",
        lost="further pages or frames dropped",
    ),
    "transparent": Trait(
        level="check",
        text="{have} transparent pixels (alpha), which are placed on a white background",
        advice="if the white background hides something, or if the fourth band is not transparency, save the files as"
        " RGB before the conversion",
        lost="transparent pixels placed on a white background",
    ),
    "one_color": Trait(
        level="check",
        text="{are} a single color after the conversion, so there is nothing left to learn",
        advice="remove the files, or save them as RGB on another background",
        lost="became a single color",
    ),
    "gps": Trait(
        level="check",
        text="carry GPS positions",
        advice="--strip_metadata removes EXIF and XMP without changing pixels",
    ),
}


_BITS = {name: 1 << i for i, name in enumerate(FINDINGS)}


@functools.cache
def names(bits: int) -> str:
    """Return the findings of a bit mask, joined by commas: bit i stands for the i-th of `FINDINGS`."""
    return ",".join(name for name, bit in _BITS.items() if bits & bit)


def bits(kinds: Iterable[str]) -> int:
    """Return the bit mask of findings."""
    return sum([_BITS[name] for name in kinds])


def lost(kinds: Iterable[str]) -> str:
    """Describe what is lost of an image with these findings."""
    return "; ".join(FINDINGS[name].lost for name in kinds if FINDINGS[name].lost)
