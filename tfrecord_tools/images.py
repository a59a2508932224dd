"""Whether the bytes of a file are a sound image that every TensorFlow decoder reads."""

from __future__ import annotations

import dataclasses
import io
import re
import warnings

from PIL import Image, UnidentifiedImageError

from tfrecord_tools import png

MAX_IMAGE_BYTES = 1 << 30  # A serialized protobuf must stay below 2 GiB.
MAX_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 0) or 178_956_970  # Where Pillow itself raises.
READ_TYPES = "JPEG and PNG"
_JPEG_SIGNATURE = b"\xff\xd8\xff"
_JPEG_MARKER = re.compile(rb"\xff([\x01-\xfe])")  # In coded data, 0xff is followed by 0x00 or a restart marker.
_JPEG_END = 0xD9
_JPEG_MARKERS_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # All others are followed by a length and content.

# It comes at half of our limit, at which Pillow raises; two answers to one question confuse.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


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
    inverse DCT; of a PNG all pixels are inflated and every chunk's checksum is checked. JPEG has no
    checksums: coded data that was cut in the middle and ended properly decodes, its rest grey.

    Raises:
        BadImage: It is no image, of a type that is not read, damaged, or too large.
    """
    if not data:
        raise BadImage("empty file")
    if len(data) > MAX_IMAGE_BYTES:
        raise BadImage(f"more than {MAX_IMAGE_BYTES:,} bytes, which an example cannot hold")
    try:
        if data.startswith(_JPEG_SIGNATURE):
            return _inspect_jpeg(data)
        if data.startswith(png.SIGNATURE):
            return _inspect_png(data)
    except Image.DecompressionBombError as error:
        raise BadImage(f"more than {MAX_PIXELS:,} pixels") from error
    except png.DamagedPngError as error:
        raise BadImage(f"damaged image: {error}") from error
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, OverflowError) as error:
        # Pillow's parser lets these through on damaged files, depending on where the damage is.
        raise BadImage(f"damaged image: {error}") from error
    except MemoryError as error:
        raise BadImage("does not fit into memory") from error
    raise BadImage(f"{_true_type(data)}; {READ_TYPES} are read")


def _inspect_jpeg(data: bytes) -> ImageFacts:
    _check_jpeg_end(data)
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        width, height = image.size
        image.draft("L", (1, 1))
        image.load()
    return ImageFacts("JPEG", height, width)  # Not `image.format`: with a second picture behind it, that is MPO.


def _inspect_png(data: bytes) -> ImageFacts:
    header = png.read_header(data)
    if header.width * header.height > MAX_PIXELS:
        raise BadImage(f"more than {MAX_PIXELS:,} pixels")
    png.check(data, header)
    with Image.open(io.BytesIO(data), formats=("PNG",)):
        return ImageFacts("PNG", header.height, header.width)


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
