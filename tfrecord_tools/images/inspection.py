"""What an opened image holds that its record will lack, and whether the image carries GPS positions."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image, TiffImagePlugin

_SAMPLES, _SUBFILE_TYPE, _REDUCED = 277, 254, 1  # TIFF tags; a bit of the second.
_MP_ENTRIES, _THUMBNAIL = 0xB002, "Large Thumbnail"  # CIPA DC-007, 5.2.3.3.
_GPS, _LATITUDE, _LONGITUDE = 0x8825, 2, 4  # EXIF.
_XMP = ("xmp", "XML:com.adobe.xmp")
_XMP_POSITION = b"GPSLatitude"
_MOST_PAGES = 100  # Looked at.


def left_behind(image: Image.Image, data: bytes, chunks: Sequence[tuple[bytes, memoryview]]) -> list[str]:
    """Return which of "bands" and "pages" of an opened image no record holds.

    Args:
        image: As opened.
        data: Its file.
        chunks: Of a PNG.
    """
    samples = getattr(image, "tag_v2", {}).get(_SAMPLES, 1)
    applies = {"bands": samples > len(image.getbands()), "pages": _has_more_pages(image, data, chunks)}
    return [name for name, present in applies.items() if present]


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
