"""Proves a PNG sound, in bounded memory: all that libpng insists on, of which Pillow lets some pass."""

from __future__ import annotations

import dataclasses
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

Chunk = tuple[bytes, memoryview]  # Type and content.
SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # By colour type.
_PALETTE = 3
_CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_OF_PIXELS = (*_CRITICAL, b"tRNS")
_TURNING = (b"II*\0", b"MM\0*", b"Exif\0\0", b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")  # Of EXIF and XMP.
_ANCILLARY = 0x20  # The bit of the first letter of a chunk that a decoder may pass over.
_METADATA = frozenset({b"eXIf", b"iTXt", b"zTXt", b"tEXt"})
_LONGEST_SIDE = 1_000_000  # libpng's PNG_USER_WIDTH_MAX.
_LAST_FILTER = 4
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))  # x y dx dy
_PIECE_BYTES = 1 << 20  # Inflated at once.
_EXCESS_BYTES = 1 << 16  # libpng puts up with some bytes behind the last row.


class DamagedPngError(Exception):
    """What is wrong."""


@dataclasses.dataclass(frozen=True)
class Header:
    """The IHDR chunk (PNG specification, section 11.2.2)."""

    width: int
    height: int
    bits: int
    color: int
    compression: int
    filtering: int
    interlace: int

    def passes(self) -> Iterator[tuple[int, int]]:
        """Yields (rows, bytes a row with its filter byte) of each pass of the pixels."""
        for x, y, dx, dy in _ADAM7 if self.interlace else ((0, 0, 1, 1),):
            columns, rows = -(-(self.width - x) // dx), -(-(self.height - y) // dy)
            if columns > 0 < rows:
                yield rows, 1 + -(-columns * self.bits * _CHANNELS[self.color] // 8)


def read_header(data: bytes) -> Header:
    """Reads the header behind the signature, its checksum proven.

    Raises:
        DamagedPngError: There is none, or it has values that the standard does not know.
    """
    kind, content = next(iterate_chunks(data))
    if kind != b"IHDR" or len(content) != 13:
        raise DamagedPngError("the PNG does not start with its header")
    header = Header(*struct.unpack(">IIBBBBB", content))
    known = header.width and header.height and header.color in _CHANNELS and header.interlace <= 1
    if not known or header.compression or header.filtering:
        raise DamagedPngError("the PNG's header has values that its standard does not know")
    return header


def check(chunks: Sequence[Chunk], header: Header) -> None:
    """Checks every chunk's place, the palette where colours are of one, all rows and their filters.

    Raises:
        DamagedPngError: Something of it is wrong.
    """
    _check_order([kind for kind, _ in chunks], header)
    palette = next((content for kind, content in chunks if kind == b"PLTE"), b"abc")
    if len(palette) % 3 or not 3 <= len(palette) <= 768:
        raise DamagedPngError(f"the PNG's palette has {len(palette):,} bytes")
    passes = list(header.passes())
    expected = sum(rows * stride for rows, stride in passes)
    starts = _row_starts(passes)
    position = row = 0
    for piece in _inflate([content for kind, content in chunks if kind == b"IDAT"]):
        end = int(np.searchsorted(starts, position + len(piece)))
        if (piece[starts[row:end] - position] > _LAST_FILTER).any():
            raise DamagedPngError("unknown filter of a row of the PNG")
        position, row = position + len(piece), end
        if position > expected + _EXCESS_BYTES:
            break
    if not expected <= position <= expected + _EXCESS_BYTES:
        raise DamagedPngError(f"the PNG has {position:,} bytes of pixels and should have {expected:,}")


def without_extras(chunks: Sequence[Chunk], *, orientation: bool) -> bytes:
    """Returns a PNG of the chunks that pixels are made of.

    Pillow refuses a whole PNG for chunks that have no part in its pixels, such as a color profile above 1 MiB.

    Args:
        chunks: The chunks of the whole PNG.
        orientation: Keep the chunks that may hold an orientation too.
    """
    kept = [(kind, content) for kind, content in chunks if kind in _OF_PIXELS or (orientation and _may_turn(content))]
    return SIGNATURE + b"".join(_chunk(kind, content) for kind, content in kept)


def _may_turn(content: memoryview) -> bool:
    return bytes(content[:32]).startswith(_TURNING)


def _chunk(kind: bytes, content: memoryview) -> bytes:
    checksum = zlib.crc32(content, zlib.crc32(kind))
    return b"".join((struct.pack(">I", len(content)), kind, content, struct.pack(">I", checksum)))


def has_late_metadata(chunks: Sequence[Chunk]) -> bool:
    """Whether something that may hold an orientation stands behind the pixels."""
    kinds = [kind for kind, _ in chunks]
    return b"IDAT" in kinds and not _METADATA.isdisjoint(kinds[kinds.index(b"IDAT") :])


def _check_order(kinds: Sequence[bytes], header: Header) -> None:
    first, pixels = (kinds.index(b"IDAT"), kinds.count(b"IDAT")) if b"IDAT" in kinds else (len(kinds), 0)
    if header.color == _PALETTE and b"PLTE" not in kinds[:first]:
        raise DamagedPngError("the PNG lacks its palette")
    if kinds.count(b"IHDR") > 1 or kinds.count(b"PLTE") > 1:
        raise DamagedPngError("the PNG has two headers or palettes")
    if kinds[first : first + pixels].count(b"IDAT") != pixels:
        raise DamagedPngError("something stands between the PNG's pixels")
    unknown = [kind for kind in kinds if kind[0] & _ANCILLARY == 0 and kind not in _CRITICAL]
    if unknown:
        raise DamagedPngError(f"the PNG needs a decoder that knows the chunk {unknown[0]!r}")
    if max(header.width, header.height) > _LONGEST_SIDE:
        raise DamagedPngError(
            f"{header.width:,} x {header.height:,} pixels; PNG decoders take {_LONGEST_SIDE:,} a side"
        )


def _row_starts(passes: Sequence[tuple[int, int]]) -> np.ndarray:
    """Returns i64[rows], where each row's filter byte lies in the inflated stream."""
    strides = np.concatenate([np.full(rows, stride, np.int64) for rows, stride in passes])
    return np.cumsum(strides) - strides


def _inflate(contents: Sequence[memoryview]) -> Iterator[np.ndarray]:
    """Yields the inflated bytes, u8[up to a piece], to the end, where their own checksum lies."""
    inflater = zlib.decompressobj()
    try:
        for content in (*contents, b""):
            pending: Any = content
            while True:
                piece = inflater.decompress(pending, _PIECE_BYTES)
                pending = inflater.unconsumed_tail
                if piece:
                    yield np.frombuffer(piece, np.uint8)
                elif not pending:
                    break
    except zlib.error as error:
        raise DamagedPngError(str(error)) from error
    if not inflater.eof:
        raise DamagedPngError("the PNG's pixels have no end")


def iterate_chunks(data: bytes) -> Iterator[Chunk]:
    """Yields type and content of the chunks up to IEND, their checksums proven.

    A chunk is: length u32, type, content, CRC-32 of type and content (PNG specification, section 5.3).
    """
    view, position = memoryview(data), len(SIGNATURE)
    while position + 12 <= len(data):
        length = int.from_bytes(view[position : position + 4], "big")
        end = position + 12 + length
        if end > len(data):
            break
        kind = bytes(view[position + 4 : position + 8])
        if zlib.crc32(view[position + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            raise DamagedPngError(f"wrong checksum of the PNG chunk {kind!r} at byte {position:,}")
        yield kind, view[position + 8 : end - 4]
        if kind == b"IEND":
            return
        position = end
    raise DamagedPngError(f"the PNG ends at byte {len(data):,}, before its end chunk")
