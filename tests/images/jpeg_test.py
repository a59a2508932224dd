"""Tests of the JPEGs that are verified without Pillow."""

from __future__ import annotations

import numpy as np
import pytest
from odd_files import encoded, smooth, turned
from PIL import Image

from tfrecord_tools.images import jpeg

PLAIN = encoded(smooth(), "JPEG")
SIZE = smooth().size


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (PLAIN, SIZE),
        (encoded(smooth().convert("L"), "JPEG"), SIZE),
        (encoded(smooth(), "JPEG", restart_marker_blocks=2), SIZE),
        (encoded(smooth(), "JPEG", progressive=True), None),  # May have any number of scans.
        (encoded(smooth().convert("CMYK"), "JPEG"), None),
        (turned(6), None),  # EXIF.
        (PLAIN.replace(b"\xff\xc0", b"\xff\xc3"), None),  # Lossless.
        (PLAIN.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"), None),  # 12 bits.
        (PLAIN[:100], None),
        (PLAIN[:3], None),
        (jpeg.SIGNATURE * 30, None),
    ],
)
def test_plain_size(data: bytes, size: tuple[int, int] | None) -> None:
    assert jpeg.plain_size(data) == size


def test_a_header_cut_anywhere_is_not_plain() -> None:
    scan = PLAIN.index(b"\xff\xda")
    assert all(jpeg.plain_size(PLAIN[:end]) is None for end in range(3, scan))


def test_a_jpeg_with_more_scans_is_not_clean() -> None:
    """A file with a million scans would otherwise take a pass over the pixels for each scan."""
    scan = PLAIN.index(b"\xff\xda")
    many = PLAIN[:-2] + PLAIN[scan:-2] * 2 + jpeg.END
    assert jpeg.plain_size(many) == SIZE
    assert not jpeg.decodes_cleanly(many)


@pytest.mark.parametrize("end", [-1, -2, -3, -40, -400])
def test_a_cut_jpeg_is_not_clean(end: int) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    data = encoded(noise, "JPEG")
    for function in (jpeg.decodes_cleanly, jpeg.has_end):
        assert function(data)
        assert not function(data[:end])
