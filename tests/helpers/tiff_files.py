"""TIFF files with all kinds of levels, written directly, because Pillow writes few kinds."""

from __future__ import annotations

import struct
import zlib
from typing import Literal

import numpy as np

Order = Literal["<", ">"]  # Byte order.

_KINDS = {"u": 1, "i": 2, "f": 3}  # SampleFormat.


def tiff(pixels: np.ndarray, order: Order = "<", *, deflate: bool = False, bits: int = 0, **tags: int) -> bytes:
    """Return a TIFF with one strip.

    Args:
        pixels: number[h w bands].
        order: Byte order, "<" or ">".
        deflate: Whether the strip is compressed.
        bits: Bits per sample, if not those of the array's type. `pixels` must then be packed already, u8[h w 1].
        **tags: `photometric`, `extra` (kind of the bands after the colors: 0 unknown, 2 transparency).
    """
    height, width, bands = pixels.shape
    strip = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    strip = zlib.compress(strip) if deflate else strip
    size = len(strip)
    strip += bytes(size % 2)
    fields = {  # Tag -> values.
        256: [width * 8 // bits if bits else width], 257: [height], 258: [bits or 8 * pixels.itemsize] * bands,
        259: [8 if deflate else 1], 262: [tags.get("photometric", 2 if bands >= 3 else 1)], 273: [8], 277: [bands],
        278: [height], 279: [size], 339: [_KINDS[pixels.dtype.kind]] * bands,
    }  # fmt: skip
    if "extra" in tags:
        fields[338] = [tags["extra"]]
    end = 8 + len(strip) + 2 + 12 * len(fields) + 4  # Values that do not fit into the directory follow it.
    entries = more = b""
    for tag, values in sorted(fields.items()):
        packed = struct.pack(f"{order}{len(values)}I", *values)
        if len(packed) > 4:
            packed, more = struct.pack(f"{order}I", end + len(more)), more + packed
        entries += struct.pack(f"{order}HHI4s", tag, 4, len(values), packed)
    header = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 8 + len(strip))
    return header + strip + struct.pack(f"{order}H", len(fields)) + entries + bytes(4) + more
