"""TIFF files of any kind of levels, written by the letter of TIFF 6.0: Pillow writes few of them."""

from __future__ import annotations

import struct
import zlib
from typing import Literal

import numpy as np

Order = Literal["<", ">"]  # Of bytes.

_KINDS = {"u": 1, "i": 2, "f": 3}  # SampleFormat.


def tiff(pixels: np.ndarray, order: Order = "<", *, deflate: bool = False, bits: int = 0, **tags: int) -> bytes:
    """Returns a TIFF of one strip.

    Args:
        pixels: number[h w bands].
        order: Of bytes, "<" or ">".
        deflate: Compress the strip.
        bits: Of a sample, if not those of the array; the strip is then `pixels` packed by the caller, u8[h w 1].
        **tags: `photometric`, `extra` (what the bands behind the colors are: 0 unknown, 2 transparency).
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
    end = 8 + len(strip) + 2 + 12 * len(fields) + 4  # Behind the directory lies what does not fit into it.
    entries = more = b""
    for tag, values in sorted(fields.items()):
        packed = struct.pack(f"{order}{len(values)}I", *values)
        if len(packed) > 4:
            packed, more = struct.pack(f"{order}I", end + len(more)), more + packed
        entries += struct.pack(f"{order}HHI4s", tag, 4, len(values), packed)
    header = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 8 + len(strip))
    return header + strip + struct.pack(f"{order}H", len(fields)) + entries + bytes(4) + more
