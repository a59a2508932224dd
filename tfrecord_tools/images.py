"""Whether the bytes of a file are a sound image that every TensorFlow decoder reads."""

from __future__ import annotations

import dataclasses
import io
import re
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image, UnidentifiedImageError

MAX_IMAGE_BYTES = 1 << 30  # A serialized protobuf must stay below 2 GiB.
MAX_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 0) or 178_956_970  # Where Pillow itself raises.
READ_TYPES = "JPEG and PNG"
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # By colour type.
_PNG_PALETTE = 3
_PNG_LAST_FILTER = 4
_PNG_EXCESS_BYTES = 1 << 16
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))  # x y dx dy
_JPEG_SIGNATURE = b"\xff\xd8\xff"
_JPEG_MARKER = re.compile(rb"\xff([\x01-\xfe])")  # In coded data, 0xff is followed by 0x00 or a restart marker.
_JPEG_END = 0xD9
_JPEG_MARKERS_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # All others are followed by a length and content.


class BadImage(Exception):
    """Why a file cannot be a record, in words that follow `path: `."""


@dataclasses.dataclass(frozen=True)
class ImageFacts:
    """What was found in an image's bytes: its true type, and height and width in stored pixels."""

    type: str
    height: int
    width: int


def inspect(data: bytes) -> ImageFacts:
    """Proves an image sound by decoding it.

    A JPEG is decoded at 1/8 scale, which runs all of the entropy decoding and almost none of the
    inverse DCT; of a PNG all pixels are inflated and every chunk's checksum is checked.

    Raises:
        BadImage: It is no image, of a type that is not read, damaged, or too large.
    """
    if not data:
        raise BadImage("empty file")
    if len(data) > MAX_IMAGE_BYTES:
        raise BadImage(f"{len(data):,} bytes; an example holds at most {MAX_IMAGE_BYTES:,}")
    if data.startswith(_JPEG_SIGNATURE):
        kind = "JPEG"  # Not `image.format`: Pillow calls a JPEG with a second picture behind it MPO.
        _check_jpeg_end(data)
    elif data.startswith(_PNG_SIGNATURE):
        kind = "PNG"
        _check_png(data)
    else:
        raise BadImage(f"{_true_type(data)}; {READ_TYPES} are read")
    try:
        with Image.open(io.BytesIO(data), formats=(kind,)) as image:
            width, height = image.size
            if kind == "JPEG":
                image.draft("L", (1, 1))
                image.load()
            return ImageFacts(type=kind, height=height, width=width)
    except Image.DecompressionBombError as error:
        raise BadImage(f"more than {MAX_PIXELS:,} pixels") from error
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, OverflowError, zlib.error) as error:
        # Pillow's parsers let these through on damaged files, depending on where the damage is.
        raise BadImage(f"damaged image: {error}") from error


def _true_type(data: bytes) -> str:
    """Names what the bytes are, of content alone."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return f"a {image.format} image"
    except UnidentifiedImageError:
        return f"not an image (starts with {data[:16]!r})"
    except Exception as error:  # noqa: BLE001  Any of 40 parsers, on bytes of any origin.
        return f"not a readable image ({type(error).__name__}: {error})"


def _check_jpeg_end(data: bytes) -> None:
    """Checks that the markers lead to the end marker.

    Pillow stops at the last row. TensorFlow insists on the end marker, which is gone from a file whose end
    was overwritten, as by the zeros of a download that was broken off.
    """
    position = len(_JPEG_SIGNATURE) - 1
    while marker := _JPEG_MARKER.search(data, position):
        code, position = marker[1][0], marker.end()
        if code == _JPEG_END:
            return
        if code not in _JPEG_MARKERS_ALONE:
            position += int.from_bytes(data[position : position + 2], "big")
    raise BadImage(f"damaged image: the JPEG ends at byte {len(data):,}, before its end marker")


def _check_png(data: bytes) -> None:
    """Inflates all pixels, and checks what libpng insists on and Pillow lets pass.

    That is every chunk's checksum, all rows in full, known filters, and a palette where colours are of one.
    """
    chunks = list(_png_chunks(data))
    if chunks[0][0] != b"IHDR" or len(chunks[0][1]) != 13:
        raise BadImage("damaged image: the PNG does not start with its header")
    width, height, bits, color, compression, filtering, interlace = struct.unpack(">IIBBBBB", chunks[0][1])
    if not (width and height and color in _PNG_CHANNELS) or compression or filtering or interlace > 1:
        raise BadImage("damaged image: the PNG's header has values that its standard does not know")
    if width * height > MAX_PIXELS:
        raise BadImage(f"more than {MAX_PIXELS:,} pixels")
    kinds = [kind for kind, _ in chunks]
    if color == _PNG_PALETTE and b"PLTE" not in kinds[: kinds.index(b"IDAT") if b"IDAT" in kinds else None]:
        raise BadImage("damaged image: the PNG lacks its palette")
    passes = _ADAM7 if interlace else ((0, 0, 1, 1),)
    sizes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in passes]
    shapes = [
        (rows, 1 + -(-columns * bits * _PNG_CHANNELS[color] // 8)) for columns, rows in sizes if columns > 0 < rows
    ]
    expected = sum(rows * stride for rows, stride in shapes)
    packed = b"".join(content for kind, content in chunks if kind == b"IDAT")
    inflater = zlib.decompressobj()
    try:  # To the end, where the pixels' own checksum lies; libpng puts up with some bytes too many.
        pixels = np.frombuffer(inflater.decompress(packed, expected + _PNG_EXCESS_BYTES), np.uint8)
    except zlib.error as error:
        raise BadImage(f"damaged image: {error}") from error
    if len(pixels) < expected or not inflater.eof:
        found = f"{len(pixels):,} bytes of pixels" + ("" if inflater.eof else " without an end")
        raise BadImage(f"damaged image: the PNG has {found} and should have {expected:,}")
    for rows, stride in shapes:
        if (pixels[: rows * stride : stride] > _PNG_LAST_FILTER).any():
            raise BadImage("damaged image: unknown filter of a row of the PNG")
        pixels = pixels[rows * stride :]


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yields type and content of the chunks up to IEND, their checksums proven.

    A chunk is: length u32, type, content, CRC-32 of type and content (PNG specification, section 5.3).
    """
    view, position = memoryview(data), len(_PNG_SIGNATURE)
    while position + 12 <= len(data):
        length = int.from_bytes(view[position : position + 4], "big")
        end = position + 12 + length
        if end > len(data):
            break
        kind = bytes(view[position + 4 : position + 8])
        if zlib.crc32(view[position + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            raise BadImage(f"damaged image: wrong checksum of the PNG chunk {kind!r} at byte {position:,}")
        yield kind, view[position + 8 : end - 4]
        if kind == b"IEND":
            return
        position = end
    raise BadImage(f"damaged image: the PNG ends at byte {len(data):,}, before its end chunk")
