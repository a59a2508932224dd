"""Verify a PNG as strictly as libpng does (Pillow is less strict), with limited memory."""

from __future__ import annotations

import dataclasses
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

Chunk = tuple[bytes, memoryview]  # Type and content.
SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # Color type -> number of channels.
_PALETTE = 3
_CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_PIXEL_CHUNKS = (*_CRITICAL, b"tRNS")
_ORIENTATION_STARTS = (b"II*\0", b"MM\0*", b"Exif\0\0", b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")
_ANCILLARY = 0x20  # Bit in the first letter of a chunk's type: decoders may ignore the chunk.
_METADATA = frozenset({b"eXIf", b"iTXt", b"zTXt", b"tEXt"})
_LONGEST_SIDE = 1_000_000  # libpng's PNG_USER_WIDTH_MAX.
_LAST_FILTER = 4
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))  # x y dx dy
_PIECE_BYTES = 1 << 20  # Number of bytes that are inflated at once.
_EXCESS_BYTES = 1 << 16  # libpng tolerates some bytes after the last row.


class DamagedPngError(Exception):
    """A damaged PNG."""


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
        """Yield (rows, bytes per row with the filter byte) of each interlacing pass, usually one."""
        for x, y, dx, dy in _ADAM7 if self.interlace else ((0, 0, 1, 1),):
            columns, rows = -(-(self.width - x) // dx), -(-(self.height - y) // dy)
            if columns > 0 < rows:
                yield rows, 1 + -(-columns * self.bits * _CHANNELS[self.color] // 8)


def read_header(data: bytes) -> Header:
    """Read the header after the signature and verify its checksum.

    Raises:
        DamagedPngError: The header is missing, or has values that the standard does not allow.
    """
    kind, content = next(iterate_chunks(data))
    if kind != b"IHDR" or len(content) != 13:
        raise DamagedPngError("the PNG does not start with its header")
    header = Header(*struct.unpack(">IIBBBBB", content))
    allowed = header.width and header.height and header.color in _CHANNELS and header.interlace <= 1
    if not allowed or header.compression or header.filtering:
        raise DamagedPngError("the PNG's header has values that the PNG standard does not allow")
    return header


def check(chunks: Sequence[Chunk], header: Header) -> None:
    """Check the order of the chunks, the palette, the size of the pixel data, and the filters of the rows.

    Raises:
        DamagedPngError: One of these checks fails.
    """
    _check_order([kind for kind, _ in chunks], header)
    palette = next((content for kind, content in chunks if kind == b"PLTE"), b"abc")
    if len(palette) % 3 or not 3 <= len(palette) <= 768:
        raise DamagedPngError(f"the PNG's palette has {len(palette):,} bytes, not a multiple of 3 from 3 to 768")
    passes = list(header.passes())
    expected = sum(rows * stride for rows, stride in passes)
    starts = _row_starts(passes)
    position = row = 0
    for piece in _inflate([content for kind, content in chunks if kind == b"IDAT"]):
        end = int(np.searchsorted(starts, position + len(piece)))
        if (piece[starts[row:end] - position] > _LAST_FILTER).any():
            raise DamagedPngError("a row of the PNG has an unknown filter")
        position, row = position + len(piece), end
        if position > expected + _EXCESS_BYTES:
            break
    if not expected <= position <= expected + _EXCESS_BYTES:
        raise DamagedPngError(f"the PNG has {position:,} bytes of pixels instead of {expected:,}")


def without_extras(chunks: Sequence[Chunk], *, orientation: bool) -> bytes:
    """Return a PNG with only the chunks that its pixels depend on.

    Pillow rejects some valid PNGs because of chunks that do not affect the pixels, such as a color profile above 1 MiB.

    Args:
        chunks: All chunks of the PNG.
        orientation: Whether chunks that may hold an orientation are kept too.
    """
    needed = [
        _chunk(kind, content)
        for kind, content in chunks
        if kind in _PIXEL_CHUNKS or (orientation and _may_hold_orientation(content))
    ]
    return SIGNATURE + b"".join(needed)


def _may_hold_orientation(content: memoryview) -> bool:
    return bytes(content[:32]).startswith(_ORIENTATION_STARTS)


def _chunk(kind: bytes, content: memoryview) -> bytes:
    checksum = zlib.crc32(content, zlib.crc32(kind))
    return b"".join((struct.pack(">I", len(content)), kind, content, struct.pack(">I", checksum)))


def has_late_metadata(chunks: Sequence[Chunk]) -> bool:
    """Return whether a chunk that may hold an orientation follows the pixels."""
    kinds = [kind for kind, _ in chunks]
    return b"IDAT" in kinds and not _METADATA.isdisjoint(kinds[kinds.index(b"IDAT") :])


def _check_order(kinds: Sequence[bytes], header: Header) -> None:
    first, pixels = (kinds.index(b"IDAT"), kinds.count(b"IDAT")) if b"IDAT" in kinds else (len(kinds), 0)
    if header.color == _PALETTE and b"PLTE" not in kinds[:first]:
        raise DamagedPngError("the PNG lacks its palette")
    if kinds.count(b"IHDR") > 1 or kinds.count(b"PLTE") > 1:
        raise DamagedPngError("the PNG has two headers or palettes")
    if kinds[first : first + pixels].count(b"IDAT") != pixels:
        raise DamagedPngError("the PNG has another chunk between its pixel chunks")
    unknown = [kind for kind in kinds if kind[0] & _ANCILLARY == 0 and kind not in _CRITICAL]
    if unknown:
        raise DamagedPngError(f"the PNG needs a decoder that supports the chunk {unknown[0]!r}")
    if max(header.width, header.height) > _LONGEST_SIDE:
        raise DamagedPngError(
            f"{header.width:,} x {header.height:,} pixels; PNG decoders allow at most {_LONGEST_SIDE:,} per side"
        )


def _row_starts(passes: Sequence[tuple[int, int]]) -> np.ndarray:
    """Return i64[rows], the position of each row's filter byte in the inflated stream."""
    strides = np.concatenate([np.full(rows, stride, np.int64) for rows, stride in passes])
    return np.cumsum(strides) - strides


def _inflate(contents: Sequence[memoryview]) -> Iterator[np.ndarray]:
    """Yield the inflated bytes in pieces, u8[up to 1 MiB], and verify zlib's checksum at the end."""
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
        raise DamagedPngError("the PNG's pixel data is incomplete")


def iterate_chunks(data: bytes) -> Iterator[Chunk]:
    """Yield type and content of the chunks up to IEND, and verify their checksums.

    A chunk is: length u32, type, content, CRC-32 of type and content (PNG specification, section 5.3).

    Raises:
        DamagedPngError: A checksum is wrong, or IEND is missing.
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
