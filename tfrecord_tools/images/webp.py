"""The chunks of a WebP file: what its pixels are coded with, and what of a damaged file can be repaired.

Layout (WebP container specification): `RIFF`, size u32, `WEBP`, then chunks: name, size u32, content, and a byte of
padding after an odd size; little-endian.
"""

from __future__ import annotations

_LOSSY, _LOSSLESS = b"VP8 ", b"VP8L"
_FRAME, _FRAME_HEADER_BYTES = b"ANMF", 16  # A picture of an animation: a header, then chunks.


def is_lossy(data: bytes) -> bool:
    """Whether the first picture is coded with losses."""
    position = 12
    while position + 8 <= len(data):
        name, size = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        if name in (_LOSSY, _LOSSLESS):
            return name == _LOSSY
        position += 8 + (_FRAME_HEADER_BYTES if name == _FRAME else size + size % 2)
    return False


def rebuilt(data: bytes) -> bytes:
    """Corrects the sizes of a file that has but one chunk, of pixels, unless it was cut; returns others as they are.

    Decoders of animations, such as Pillow's, insist on the sizes. Those of single pictures, such as TensorFlow's,
    read on until they have all pixels.
    """
    if data[12:16] not in (_LOSSY, _LOSSLESS) or int.from_bytes(data[4:8], "little") + 8 > len(data):
        return data
    content = data[20:]
    chunk = data[12:16] + len(content).to_bytes(4, "little") + content + bytes(len(content) % 2)
    return b"RIFF" + (4 + len(chunk)).to_bytes(4, "little") + b"WEBP" + chunk
