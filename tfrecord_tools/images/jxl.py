"""JPEG XL: read the header, and decode pixels or the original JPEG with the extra `jxl`.

Layout (ISO/IEC 18181-2): a file is a bare codestream or a series of boxes. A box has a size (u32, big-endian), a name
and content. The codestream is in one box (`jxlc`) or in several boxes (`jxlp`). The header of the codestream is read
bit by bit, from the lowest bit of each byte.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from PIL import Image

CODESTREAM = b"\xff\x0a"
CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"
_RATIOS = ((0, 1), (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))  # Width to height. 0: not given.
_HEADER_BYTES = 64
_MODES = ("L", "LA", "RGB", "RGBA", "I;16")


class DamagedJxlError(Exception):
    """A damaged JPEG XL file."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Header:
    """The header of an image.

    Attributes:
        size: Width and height in pixels, before the orientation is applied.
        animated: Whether the file has several pictures.
        lossy: Whether colors are coded in XYB, as in all lossy files. False if not known.
    """

    size: tuple[int, int]
    animated: bool
    lossy: bool


class _Bits:
    def __init__(self, data: bytes):
        self._rest = int.from_bytes(data, "little")

    def __call__(self, count: int) -> int:
        value = self._rest & ((1 << count) - 1)
        self._rest >>= count
        return value


def read_header(data: bytes) -> Header:
    """Read size and metadata (18181-1, annex D).

    Raises:
        DamagedJxlError: The file has no codestream.
    """
    stream = _codestream(data)
    if not stream.startswith(CODESTREAM):
        raise DamagedJxlError("the JPEG XL file has no codestream")
    bits = _Bits(stream[2:_HEADER_BYTES])
    size = _read_size(bits)
    if bits(1):  # All defaults: 8 bits, XYB, one picture.
        return Header(size=size, animated=False, lossy=True)
    animated = False
    if bits(1):
        bits(3)  # Orientation, which the decoder applies.
        if bits(1):
            _read_size(bits)
        if bits(1):  # A preview.
            return Header(size=size, animated=False, lossy=False)
        animated = bool(bits(1))
    return Header(size=size, animated=animated, lossy=not animated and _is_xyb(bits))


def _is_xyb(bits: _Bits) -> bool:
    is_float, depth = bits(1), bits(2)
    if depth == 3:
        bits(6)
    if is_float:
        bits(4)
    bits(1)  # Whether 16 bits are enough.
    extra = bits(2)
    if extra > 1 or (extra == 1 and not bits(1)):  # Channels other than the usual alpha channel.
        return False
    return bool(bits(1))


def _read_size(bits: _Bits) -> tuple[int, int]:
    small = bits(1)
    height = _read_length(bits, small)
    wide, high = _RATIOS[bits(3)]
    return (height * wide // high if wide else _read_length(bits, small)), height


def _read_length(bits: _Bits, small: int) -> int:
    return 8 * (1 + bits(5)) if small else 1 + bits((9, 13, 18, 30)[bits(2)])


def _codestream(data: bytes) -> bytes:
    """Return the codestream, or its first piece."""
    if data.startswith(CODESTREAM):
        return data
    for box, start, end in _boxes(data):
        if box in (b"jxlc", b"jxlp"):
            return data[start + 4 * (box == b"jxlp") : end]  # A piece begins with its number.
    return b""


def _boxes(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and end of each box's content."""
    position = 0
    while position + 8 <= len(data):
        size, start = int.from_bytes(data[position : position + 4], "big"), position + 8
        if size == 1:  # A size of 64 bits follows.
            size, start = int.from_bytes(data[start : start + 8], "big"), start + 8
        end = position + size if size else len(data)
        if end < start:
            return
        yield data[position + 4 : position + 8], start, end
        position = end


def holds_jpeg(data: bytes) -> bool:
    """Return whether the file contains an original JPEG that can be restored byte for byte."""
    return data.startswith(CONTAINER) and any(box == b"jbrd" for box, _, _ in _boxes(data))


def unpack_jpeg(data: bytes) -> bytes | None:
    """Return the bytes of the original JPEG; None if they cannot be restored.

    Raises:
        ImportError: The extra is not installed.
    """
    is_jpeg, _, content = _decoded(data)
    return content if is_jpeg else None


def decode(data: bytes) -> Image.Image:
    """Decode the image and apply its orientation.

    Raises:
        ImportError: The extra is not installed.
        DamagedJxlError: The image cannot be decoded, or its pixels do not have 8 or 16 bits.
    """
    is_jpeg, info, content = _decoded(data)
    if is_jpeg or info.mode not in _MODES:
        raise DamagedJxlError(f"Unsupported pixels: {'a JPEG' if is_jpeg else info.mode}")
    return Image.frombytes(info.mode, (info.width, info.height), content)


def _decoded(data: bytes) -> tuple[bool, Any, bytes]:
    """Return whether the content is a JPEG file, a description of the pixels, and the content.

    The plugin's opener for Pillow is not used: it starts threads for all processors, and leaves the orientation in
    EXIF although the decoder has applied it.
    """
    from pillow_jxl import Decoder  # An extra.

    try:
        is_jpeg, info, content, *_ = Decoder(num_threads=0)(data)
    except Exception as error:
        raise DamagedJxlError("the decoder rejects the file") from error
    return is_jpeg, info, content
