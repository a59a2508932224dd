"""Find what an image loses when it is stored (channels or pages), and whether it has a GPS position."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image, TiffImagePlugin

_SAMPLES, _SUBFILE_TYPE, _REDUCED = 277, 254, 1  # Two TIFF tags, and a bit of the second one.
_MP_ENTRIES, _THUMBNAIL = 0xB002, "Large Thumbnail"  # CIPA DC-007, 5.2.3.3.
_GPS, _LATITUDE, _LONGITUDE = 0x8825, 2, 4  # EXIF tags.
_XMP = ("xmp", "XML:com.adobe.xmp")
_XMP_POSITION = b"GPSLatitude"
_MAX_PAGES = 100  # Later pages are not inspected.


def left_behind(image: Image.Image, data: bytes, chunks: Sequence[tuple[bytes, memoryview]]) -> list[str]:
    """Return what the record of an image will lack: "bands" (extra channels), "pages" (more pictures).

    Args:
        image: Opened image.
        data: Bytes of the file.
        chunks: Chunks of a PNG. Empty for other formats.
    """
    samples = getattr(image, "tag_v2", {}).get(_SAMPLES, 1)
    applies = {"bands": samples > len(image.getbands()), "pages": _has_more_pages(image, data, chunks)}
    return [name for name, present in applies.items() if present]


def has_position(image: Image.Image) -> bool:
    """Return whether EXIF or XMP of an opened image hold a GPS position."""
    texts = (image.info.get(name, b"") for name in _XMP)
    if any(_XMP_POSITION in (text.encode() if isinstance(text, str) else text) for text in texts):
        return True
    if "exif" not in image.info and not any("exif" in str(name) for name in image.info):
        return False
    try:
        exif = image.getexif()
        return _GPS in exif and {_LATITUDE, _LONGITUDE} <= exif.get_ifd(_GPS).keys()
    except Exception:  # noqa: BLE001  Pillow's parser may raise anything on broken EXIF.
        return False


def _has_more_pages(image: Image.Image, data: bytes, chunks: Sequence[tuple[bytes, memoryview]]) -> bool:
    kinds = [kind for kind, _ in chunks]
    if b"fcTL" in kinds:  # An animated PNG; its frames after the first picture are fdAT chunks.
        return b"fdAT" in kinds
    if entries := getattr(image, "mpinfo", {}).get(_MP_ENTRIES):
        return any(not entry["Attribute"]["MPType"].startswith(_THUMBNAIL) for entry in entries[1:])
    if image.format not in ("GIF", "TIFF"):
        return bool(getattr(image, "is_animated", False))
    try:
        # The file is opened again, so that a broken page does not affect the first one.
        with Image.open(io.BytesIO(data), formats=(image.format,)) as again:
            return _has_full_page(again) if isinstance(again, TiffImagePlugin.TiffImageFile) else again.is_animated
    except Exception:  # noqa: BLE001  Pillow's parsers may raise anything on a broken page.
        return False


def _has_full_page(image: TiffImagePlugin.TiffImageFile) -> bool:
    """Return whether a later page is a picture of its own, not a smaller version of another page."""
    for number in range(1, _MAX_PAGES):
        try:
            image.seek(number)
        except EOFError:
            return False
        if not image.tag_v2.get(_SUBFILE_TYPE, 0) & _REDUCED:
            return True
    return False
