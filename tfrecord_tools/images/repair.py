"""Repair broken images: cut JPEGs and GIFs, JPEGs after junk bytes, WebPs with wrong sizes."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageFile

from tfrecord_tools.images import jpeg, webp

_BLOCK = 8  # Pixels along the side of a block.
MAX_LOST_ROWS = 0.5  # Fraction of the height. With less than half an image, the label may be wrong.


class TooMuchLostError(Exception):
    """More than half of the rows are lost."""


def repaired(
    data: bytes, kind: str | None, check_size: Callable[[tuple[int, int]], object] = lambda size: None
) -> tuple[bytes, str]:
    """Repair an image if possible.

    Args:
        data: Bytes of the file.
        kind: Type of the file. JPEG, GIF and WEBP can be repaired. None: the file does not start like an image, but may
            contain a JPEG after other bytes.
        check_size: Called with width and height before anything is decoded. It may raise an exception.

    Returns:
        Bytes of a valid image (a PNG, if the file was a GIF) and its defects. The same bytes and "" if the image has no
        defects or cannot be repaired.

    Raises:
        TooMuchLostError: More than half of the rows are lost.
        OSError: The repaired image does not decode.
    """
    if kind in ("JPEG", None):
        data, defects = jpeg.repair(data)
        if "end" in defects:
            lost = _lost_rows(data, "JPEG", check_size)
        elif (cut := _lost_by_cut(data, check_size)) is not None:
            lost, defects = cut, " and ".join(filter(None, (defects, "its image data ends early")))
        else:
            lost = 0.0
    elif kind == "GIF":
        original = data
        data, lost = _repaired_gif(data, check_size)
        defects = "its image data ends early" if data is not original else ""
    elif kind == "WEBP" and not _decodes_webp(data, check_size):
        return webp.rebuilt(data), "its chunks are damaged"
    else:
        return data, ""
    if lost > MAX_LOST_ROWS:
        raise TooMuchLostError(f"the last {lost:.0%} of its rows are lost, too many to repair it")
    return data, f"{defects}, the last {lost:.1%} of its rows are lost" if lost else defects


def is_cut(lost: float, height: int) -> bool:
    """Return whether the lost pixels fill at least one row of blocks; smaller losses do not matter."""
    return lost * height >= _BLOCK


def _lost_by_cut(data: bytes, check_size: Callable[[tuple[int, int]], object]) -> float | None:
    """Return the fraction of lost pixels of a JPEG with an end marker; None if the JPEG is complete."""
    if jpeg.decodes_cleanly(data):
        return None
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        check_size(image.size)
    if not is_cut(jpeg.lost_share(data, details=True), image.height):
        return None
    return jpeg.lost_share(data, details=False)


def _repaired_gif(data: bytes, check_size: Callable[[tuple[int, int]], object]) -> tuple[bytes, float]:
    """Return the GIF and 0. If its first picture is cut off, return a PNG and the fraction of lost rows.

    Raises:
        OSError: The GIF is cut off and interlaced, so rows are missing everywhere.
    """
    interlaced = False
    try:
        with Image.open(io.BytesIO(data), formats=("GIF",)) as image:
            check_size(image.size)
            interlaced = bool(image.tile) and bool(image.tile[0].args[1])
            image.load()
        return data, 0.0
    except OSError:
        if interlaced:
            raise
        with _incomplete(), Image.open(io.BytesIO(data), formats=("GIF",)) as image:
            encoded = io.BytesIO()
            image.convert("RGBA").save(encoded, "PNG")
        return encoded.getvalue(), _lost_rows(encoded.getvalue(), "PNG", check_size)


def _decodes_webp(data: bytes, check_size: Callable[[tuple[int, int]], object]) -> bool:
    try:
        with Image.open(io.BytesIO(data), formats=("WEBP",)) as image:
            check_size(image.size)
            image.load()
    except OSError:
        return False
    return True


def _lost_rows(data: bytes, kind: str, check_size: Callable[[tuple[int, int]], object]) -> float:
    """Return the fraction of bottom rows in one single color. Decoders fill missing rows in this way."""
    with Image.open(io.BytesIO(data), formats=(kind,)) as image:
        check_size(image.size)
        image.draft("L", (1, 1))
        pixels = np.asarray(image.convert("L"))
    filled = (pixels == pixels[-1, -1]).all(axis=1)
    return 1.0 if filled.all() else float(np.argmin(filled[::-1])) / len(filled)


@contextmanager
def _incomplete() -> Iterator[None]:
    """Let Pillow return the pixels that were decoded before an error."""
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False
