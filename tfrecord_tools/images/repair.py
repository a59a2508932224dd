"""What is left of a broken image: JPEGs that lack their tail or carry junk, GIFs whose pixels break off, WebPs with
wrong sizes."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageFile

from tfrecord_tools.images import jpeg, webp

_BLOCK = 8  # Pixels along the side of a block.
MAX_LOST_ROWS = 0.5  # Of the height; with less than half of it, an image may not show what its label says.


class TooMuchLostError(Exception):
    """Less than half of the image is there."""


def repaired(
    data: bytes, kind: str | None, check_size: Callable[[tuple[int, int]], object] = lambda size: None
) -> tuple[bytes, str]:
    """Repairs what can be.

    Args:
        data: The file.
        kind: JPEG, GIF, WEBP, or None if its first bytes are of no type.
        check_size: Called with width and height before anything is decoded; may raise to stop.

    Returns:
        Bytes of a sound image (of a GIF, as PNG) and what was wrong with it; the same bytes and "" if nothing
        was, or nothing can be done.

    Raises:
        TooMuchLostError: With how much.
        OSError: What is left does not decode either.
    """
    if kind in ("JPEG", None):
        data, wrong = jpeg.repair(data)
        if "end" in wrong:
            lost = _lost_rows(data, "JPEG", check_size)
        elif (cut := _lost_by_cut(data, check_size)) is not None:
            lost, wrong = cut, " and ".join(filter(None, (wrong, "its coded data end early")))
        else:
            lost = 0.0
    elif kind == "GIF":
        whole = data
        data, lost = _repaired_gif(data, check_size)
        wrong = "its pixels break off" if data is not whole else ""
    elif kind == "WEBP" and not _decodes_webp(data, check_size):
        return webp.rebuilt(data), "its chunks are damaged"
    else:
        return data, ""
    if lost > MAX_LOST_ROWS:
        raise TooMuchLostError(f"its last {lost:.0%} of rows are lost, too much to be repaired")
    return data, f"{wrong}, the last {lost:.1%} of rows lost" if lost else wrong


def is_cut(lost: float, height: int) -> bool:
    """Whether a share of pixels makes up a row of blocks: one that lacks fewer shows what it showed."""
    return lost * height >= _BLOCK


def _lost_by_cut(data: bytes, check_size: Callable[[tuple[int, int]], object]) -> float | None:
    """Returns the share of pixels that a JPEG with an end marker lacks; None if it is whole."""
    if jpeg.decodes_cleanly(data):
        return None
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        check_size(image.size)
    if not is_cut(jpeg.lost_share(data, details=True), image.height):
        return None
    return jpeg.lost_share(data, details=False)


def _repaired_gif(data: bytes, check_size: Callable[[tuple[int, int]], object]) -> tuple[bytes, float]:
    """Returns the GIF and 0, or, if its first picture does not decode whole, a PNG of it and what share is lost.

    Raises:
        OSError: It is interlaced: what it lacks are rows all over the picture.
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
    """The share of the height, from the bottom, that is of one colour, as decoders fill in what they did not find."""
    with Image.open(io.BytesIO(data), formats=(kind,)) as image:
        check_size(image.size)
        image.draft("L", (1, 1))
        pixels = np.asarray(image.convert("L"))
    filled = (pixels == pixels[-1, -1]).all(axis=1)
    return 1.0 if filled.all() else float(np.argmin(filled[::-1])) / len(filled)


@contextmanager
def _incomplete() -> Iterator[None]:
    """Lets Pillow give what it decoded before an error."""
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False
