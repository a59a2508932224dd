"""Read the chunks of a WebP file: whether it is lossy, and whether wrong sizes can be repaired.

Layout (WebP container specification): `RIFF`, size u32, `WEBP`, then chunks. A chunk is a name, size u32, content, and
one byte of padding if the size is odd. Numbers are little-endian.
"""

from __future__ import annotations

_LOSSY, _LOSSLESS = b"VP8 ", b"VP8L"
_FRAME, _FRAME_HEADER_BYTES = b"ANMF", 16  # A picture of an animation: header, then chunks.


def is_lossy(data: bytes) -> bool:
    """Return whether the first picture has lossy compression."""
    position = 12
    while position + 8 <= len(data):
        name, size = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        if name in (_LOSSY, _LOSSLESS):
            return name == _LOSSY
        position += 8 + (_FRAME_HEADER_BYTES if name == _FRAME else size + size % 2)
    return False


def rebuilt(data: bytes) -> bytes:
    """Correct the sizes in a file with one chunk. Other files and cut files are returned unchanged.

    Decoders of animations, such as Pillow's, need correct sizes. Decoders of single pictures, such as TensorFlow's,
    read until they have all pixels.
    """
    if data[12:16] not in (_LOSSY, _LOSSLESS) or int.from_bytes(data[4:8], "little") + 8 > len(data):
        return data
    content = data[20:]
    chunk = data[12:16] + len(content).to_bytes(4, "little") + content + bytes(len(content) % 2)
    return b"RIFF" + (4 + len(chunk)).to_bytes(4, "little") + b"WEBP" + chunk
