"""What a record lacks of its image, or should not have: one table for the console, convert.json, card and index."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterable, Sequence

from PIL import Image, TiffImagePlugin

_SAMPLES, _SUBFILE_TYPE, _REDUCED = 277, 254, 1  # TIFF tags; a bit of the second.
_MP_ENTRIES, _THUMBNAIL = 0xB002, "Large Thumbnail"  # CIPA DC-007, 5.2.3.3.
_GPS, _LATITUDE, _LONGITUDE = 0x8825, 2, 4  # EXIF.
_XMP = ("xmp", "XML:com.adobe.xmp")
_XMP_POSITION = b"GPSLatitude"
_MOST_PAGES = 100  # Looked at.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
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
    "deep": Finding(
        level="note",
        text="{have} levels of more than 8 bits, which are reduced to 8 bits",  # `report` says more.
        advice="",
        lost="levels of more than 8 bits reduced to 8 bits",
    ),
    "bands": Finding(
        level="check",
        text="{have} more bands than red, green and blue, or than gray, and the other bands are dropped",
        advice="if other bands matter, write the three that do as RGB before the conversion",
        lost="further bands dropped",
    ),
    "pages": Finding(
        level="note",
        text="{have} several pages or frames, of which only the first is used",
        advice="if the others matter, write each one to a file of its own before the conversion",
        lost="further pages or frames dropped",
    ),
    "transparent": Finding(
        level="check",
        text="{have} transparent pixels (alpha), which are laid on white",
        advice="if that hides something, or if the fourth band is not transparency, write the files as RGB before the"
        " conversion",
        lost="transparent pixels laid on white",
    ),
    "one_color": Finding(
        level="check",
        text="{are} a single color after the conversion, so nothing is left to learn from",
        advice="remove the files, or write them as RGB on another background",
        lost="became a single color",
    ),
    "gps": Finding(
        level="check",
        text="carry GPS positions",
        advice="--strip_metadata removes EXIF and XMP without touching pixels",
    ),
}


_BITS = {name: 1 << i for i, name in enumerate(FINDINGS)}


def names(bits: int) -> list[str]:
    """The kinds that bits stand for: bit i for the i-th of `FINDINGS`."""
    return [name for name, bit in _BITS.items() if bits & bit]


def bits(found: Iterable[str]) -> int:
    """The bits of kinds."""
    return sum([_BITS[name] for name in found])


def lost(found: Iterable[str]) -> str:
    """What is lost of an image, in words."""
    return "; ".join(FINDINGS[name].lost for name in found if FINDINGS[name].lost)


def left_behind(image: Image.Image, data: bytes, chunks: Sequence[tuple[bytes, memoryview]]) -> list[str]:
    """Return which of "bands" and "pages" of an opened image no record holds.

    Args:
        image: As opened.
        data: Its file.
        chunks: Of a PNG.
    """
    samples = getattr(image, "tag_v2", {}).get(_SAMPLES, 1)
    found = {"bands": samples > len(image.getbands()), "pages": _has_more_pages(image, data, chunks)}
    return [name for name, applies in found.items() if applies]


def has_position(image: Image.Image) -> bool:
    """Whether EXIF or XMP of an opened image say where it was taken."""
    texts = (image.info.get(name, b"") for name in _XMP)
    if any(_XMP_POSITION in (text.encode() if isinstance(text, str) else text) for text in texts):
        return True
    if "exif" not in image.info and not any("exif" in str(name) for name in image.info):
        return False
    try:
        exif = image.getexif()
        return _GPS in exif and {_LATITUDE, _LONGITUDE} <= exif.get_ifd(_GPS).keys()
    except Exception:  # noqa: BLE001  Whatever Pillow's parser raises on broken EXIF.
        return False


def _has_more_pages(image: Image.Image, data: bytes, chunks: Sequence[tuple[bytes, memoryview]]) -> bool:
    kinds = [kind for kind, _ in chunks]
    if b"fcTL" in kinds:  # Frames of an animated PNG, those behind the first picture.
        return b"fdAT" in kinds
    if entries := getattr(image, "mpinfo", {}).get(_MP_ENTRIES):
        return any(not entry["Attribute"]["MPType"].startswith(_THUMBNAIL) for entry in entries[1:])
    if image.format not in ("GIF", "TIFF"):
        return bool(getattr(image, "is_animated", False))
    try:
        with Image.open(io.BytesIO(data), formats=(image.format,)) as again:  # A broken page must not spoil the first.
            return _has_full_page(again) if isinstance(again, TiffImagePlugin.TiffImageFile) else again.is_animated
    except Exception:  # noqa: BLE001  Whatever Pillow's parsers raise on a broken page.
        return False


def _has_full_page(image: TiffImagePlugin.TiffImageFile) -> bool:
    """Whether a page follows that is no smaller version of another one."""
    for number in range(1, _MOST_PAGES):
        try:
            image.seek(number)
        except EOFError:
            return False
        if not image.tag_v2.get(_SUBFILE_TYPE, 0) & _REDUCED:
            return True
    return False
