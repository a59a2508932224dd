"""Whether the bytes of a file are a sound image that every TensorFlow decoder reads."""

from __future__ import annotations

import dataclasses
import io
import zlib

from PIL import Image, UnidentifiedImageError

MAX_IMAGE_BYTES = 1 << 30  # A serialized protobuf must stay below 2 GiB.
MAX_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 0) or 178_956_970  # Where Pillow itself raises.
READ_TYPES = "JPEG and PNG"
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG_SIGNATURE = b"\xff\xd8\xff"


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
    inverse DCT; of a PNG every chunk's checksum is checked, and all pixels are inflated.

    Raises:
        BadImage: It is no image, of a type that is not read, damaged, or too large.
    """
    if not data:
        raise BadImage("empty file")
    if len(data) > MAX_IMAGE_BYTES:
        raise BadImage(f"{len(data):,} bytes; an example holds at most {MAX_IMAGE_BYTES:,}")
    if data.startswith(_JPEG_SIGNATURE):
        kind = "JPEG"  # Not `image.format`: Pillow calls a JPEG with a second picture behind it MPO.
    elif data.startswith(_PNG_SIGNATURE):
        kind = "PNG"
        _check_png_chunks(data)
    else:
        raise BadImage(f"{_true_type(data)}; {READ_TYPES} are read")
    try:
        with Image.open(io.BytesIO(data), formats=(kind,)) as image:
            width, height = image.size
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


def _check_png_chunks(data: bytes) -> None:
    """Checks the checksum of every chunk up to IEND, which Pillow does for some and libpng for all.

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
        if kind == b"IEND":
            return
        position = end
    raise BadImage(f"damaged image: the PNG ends at byte {len(data):,}, before its end chunk")
