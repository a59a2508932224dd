"""Remove EXIF, XMP and other metadata about place and author from JPEG and PNG, without decoding."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tfrecord_tools.images import jpeg, png

_MARKER = re.compile(rb"\xff([\x01-\xfe])")
_END = 0xD9
_WITHOUT_LENGTH = frozenset({1, *range(0xD0, 0xDA)})  # TEM, restarts, start and end.
_SEGMENTS = {  # Marker -> starts of the content of segments to remove.
    0xE1: (b"Exif\0", b"http://ns.adobe.com/xap/1.0/\0", b"http://ns.adobe.com/xmp/extension/\0"),
    0xE2: (b"MPF\0",),  # Positions of the other pictures, which follow the end marker.
    0xED: (b"Photoshop 3.0\0",),  # IPTC: place, author, caption; also previews and copies of EXIF.
}
_CHUNKS = (b"eXIf", b"zxIf")
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_KEYWORD = re.compile(rb"XML:com\.adobe\.xmp|raw profile type (exif|app1|xmp|iptc|8bim)", re.IGNORECASE)
_PADDING = b"\0\r\n\t "


def stripped(data: bytes, kind: str) -> bytes:
    """Return a valid JPEG or PNG without its metadata; the same object if there is no metadata.

    EXIF, XMP and Photoshop's block with IPTC fields are removed. Everything after the end of the image is removed, too:
    it may be another picture or a video with its own metadata. Color profiles, comments and pixels stay unchanged.
    """
    parts = {"JPEG": _jpeg_parts, "PNG": _png_parts}[kind](data)
    rest = b"".join(parts)
    return rest if rest != data else data


def _jpeg_parts(data: bytes) -> Iterator[bytes]:
    """Yield the parts to keep."""
    begin, position, end = 0, len(jpeg.SIGNATURE) - 1, len(data)
    while marker := _MARKER.search(data, position):
        code, position = marker[1][0], marker.end()
        if code == _END:
            end = _end(data, position)
            break
        if code in _WITHOUT_LENGTH:
            continue
        content = position + 2
        position += int.from_bytes(data[position:content], "big")
        if data.startswith(_SEGMENTS.get(code, ()), content):
            yield data[begin : marker.start()]
            begin = position
    yield data[begin:end]


def _png_parts(data: bytes) -> Iterator[bytes]:
    position = len(png.SIGNATURE)
    yield data[:position]
    while position + 12 <= len(data):
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        kind = data[position + 4 : position + 8]
        is_text = kind in _TEXTS and _KEYWORD.fullmatch(data[position + 8 : end - 4].partition(b"\0")[0])
        if kind not in _CHUNKS and not is_text:
            yield data[position:end]
        position = end
        if kind == b"IEND":
            break
    yield data[position : _end(data, position)]


def _end(data: bytes, position: int) -> int:
    """Return the end of the bytes to keep: the end of the image, or of the file if only padding follows."""
    return position if data[position:].strip(_PADDING) else len(data)
