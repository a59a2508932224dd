"""Tests that images are verified, and that TensorFlow decodes every image that is accepted."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
import tensorflow as tf
from image_sources import image
from PIL import Image

from tfrecord_tools.images import preparation
from tfrecord_tools.images.preparation import BadImage, prepare

PNG_START = b"\x89PNG\r\n\x1a\n"


def multi_picture() -> bytes:
    """Return a JPEG followed by a second one, as written by stereo cameras and some phones."""
    pictures = [Image.new("RGB", (12, 9), color) for color in ("red", "blue")]
    encoded = io.BytesIO()
    pictures[0].save(encoded, "MPO", save_all=True, append_images=pictures[1:])
    return encoded.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def png(
    width: int = 5,
    height: int = 5,
    rows: int | None = None,
    *,
    bits: int = 8,
    color: int = 0,
    interlace: int = 0,
    compression: int = 0,
    filter_type: int = 0,
    palette: bytes | None = None,
    cut: int = 0,
) -> bytes:
    """Return a PNG with right checksums.

    Args:
        width: Width in the header.
        height: Height in the header.
        rows: Number of rows of one channel. None: `height`.
        bits: Bits per channel in the header.
        color: Color type in the header.
        interlace: Interlace method in the header.
        compression: Compression method in the header.
        filter_type: Filter type of every row.
        palette: Content of the palette chunk. None: no palette.
        cut: Number of bytes that are missing at the end of the compressed pixels.
    """
    header = struct.pack(">IIBBBBB", width, height, bits, color, compression, 0, interlace)
    line = bytes([filter_type]) + b"\x00" * ((width * bits + 7) // 8)
    data = zlib.compress(line * (height if rows is None else rows), level=0)
    data = data[: len(data) - cut]
    middle = b"" if palette is None else chunk(b"PLTE", palette)
    return PNG_START + chunk(b"IHDR", header) + middle + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def interlaced_png() -> bytes:
    """Return 8 x 8 pixels of one gray level, in the seven passes of Adam7."""
    sizes = [(1, 1), (1, 1), (2, 1), (2, 2), (4, 2), (4, 4), (8, 4)]
    data = b"".join((b"\x00" + b"\x80" * width) * height for width, height in sizes)
    header = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 1)
    return PNG_START + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def sixteen_bit_png() -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(np.arange(108, dtype=np.uint16).reshape(9, 12) * 600).save(encoded, "PNG")
    return encoded.getvalue()


VALID = {
    "color JPEG": (image(1), "JPEG"),
    "gray JPEG": (image(2, mode="L"), "JPEG"),
    "progressive JPEG": (image(4, progressive=True), "JPEG"),
    "JPEG without chroma subsampling": (image(5, subsampling=0), "JPEG"),
    "JPEG with restart markers": (image(6, size=(70, 40), restart_marker_blocks=2), "JPEG"),
    "JPEG with a comment that looks like its end": (image(7, comment=b"\xff\xd9"), "JPEG"),
    "JPEG with bytes behind its end": (image(8) + b"\x00" * 100, "JPEG"),
    "multi-picture JPEG": (multi_picture(), "JPEG"),
    "1x1 JPEG": (image(9, size=(1, 1)), "JPEG"),
    "1x1 PNG": (image(10, "PNG", size=(1, 1)), "PNG"),
    "color PNG": (image(11, "PNG"), "PNG"),
    "gray PNG": (image(12, "PNG", mode="L"), "PNG"),
    "black-and-white PNG": (image(13, "PNG", mode="1"), "PNG"),
    "palette PNG": (image(14, "PNG", mode="P"), "PNG"),
    "PNG with alpha, opaque": (image(15, "PNG", mode="RGBA"), "PNG"),
    "gray PNG with alpha, opaque": (image(16, "PNG", mode="LA"), "PNG"),
    "PNG with a transparent color that no pixel has": (image(17, "PNG", transparency=(1, 2, 3)), "PNG"),
    "interlaced PNG": (interlaced_png(), "PNG"),
    "PNG of our own making": (png(), "PNG"),
    "PNG with bytes behind its end": (image(18, "PNG") + b"rest", "PNG"),
}


def tensorflow_decodes(data: bytes) -> bool:
    try:
        decoded = tf.io.decode_image(data, channels=3, expand_animations=False)
    except tf.errors.InvalidArgumentError:
        return False
    return decoded.shape[-1] == 3 and decoded.dtype == tf.uint8


@pytest.mark.parametrize(("data", "kind"), VALID.values(), ids=VALID)
def test_valid_images(data: bytes, kind: str) -> None:
    with Image.open(io.BytesIO(data)) as opened:
        width, height = opened.size
    prepared = prepare(data)
    assert (prepared.type, prepared.height, prepared.width, prepared.changes) == (kind, height, width, ())
    assert prepared.data == data
    assert tensorflow_decodes(data)


def test_height_and_width_are_not_swapped() -> None:
    for kind in ("JPEG", "PNG"):
        prepared = prepare(image(1, kind, size=(30, 7)))
        assert (prepared.height, prepared.width) == (7, 30)


JPEG, PNG = image(20, size=(40, 30)), image(21, "PNG", size=(40, 30))
PROGRESSIVE = image(22, size=(40, 30), progressive=True)


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 0x40]) + data[position + 1 :]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty file"),
        (
            b"<html><body>404</body></html>",
            r"not an image (starts with b'<html><body>404<'); an HTML page: download the file again",
        ),
        (b"\x00" * 1000, r"not an image (starts with b'\x00"),
        (b"\xff\xd8\xff", "damaged image: "),  # Only the signature.
        (PNG_START, "damaged image: the PNG ends at byte 8"),
        (b"%PDF-1.7 ...", "not an image (starts with b'%PDF-1.7"),
        (image(1, "TGA"), "a TGA image, not a supported format: export it as PNG or JPEG"),
        (JPEG[:-1], "damaged image: "),
        (JPEG[:-2], "damaged image: the JPEG ends at byte"),  # Viewers show it, TensorFlow does not decode it.
        (JPEG[: len(JPEG) // 2], "damaged image: "),
        (JPEG[:100], "damaged image: "),  # Cut in the tables.
        (PROGRESSIVE[: len(PROGRESSIVE) * 3 // 4], "damaged image: "),  # The whole picture, but coarse.
        (JPEG[:-40] + b"\x00" * 40, "damaged image: the JPEG ends"),  # An interrupted download in a preallocated file.
        (JPEG[:-2] + b"\xff\xd8", "damaged image: the JPEG ends"),
        (PNG[:-1], "damaged image: the PNG ends at byte"),
        (PNG[:-12], "damaged image: the PNG ends at byte"),  # Without its end chunk.
        (PNG[: len(PNG) // 2], "damaged image: the PNG ends at byte"),
        (flipped(PNG, len(PNG) // 2), "damaged image: wrong checksum of the PNG chunk b'IDAT' at byte 33"),
        (flipped(PNG, 20), "damaged image: wrong checksum of the PNG chunk b'IHDR' at byte 8"),
        (flipped(PNG, len(PNG) - 3), "damaged image: wrong checksum of the PNG chunk b'IEND'"),
        (JPEG[:2] + b"\xff\xe1\xff\xff" + JPEG[2:], "damaged image: "),  # A segment longer than the file.
        (png(30_000, 30_000, rows=1), "30,000 x 30,000 pixels, more than convert's --max_pixels=178,956,970"),
        (png(cut=4), "damaged image: the PNG's pixel data is incomplete"),
        (png(0, 5), "damaged image: the PNG's header has values"),
    ],
)
def test_bad_images(data: bytes, message: str) -> None:
    with pytest.raises(BadImage) as caught:
        prepare(data)
    assert str(caught.value).startswith(message)


# Pillow accepts such files, libpng does not. They come from wrong encoders, not from damage: all checksums are right.
def with_chunks(*kinds: bytes, palette: bytes = bytes(6)) -> bytes:
    """Return a palette PNG of 4 x 4 pixels with these chunks; IDAT chunks share the pixels."""
    pixels = zlib.compress(bytes(4 * 5))
    half = len(pixels) // kinds.count(b"IDAT")
    parts = iter([pixels[:half], pixels[half:]] if half < len(pixels) else [pixels])
    contents = {b"IHDR": struct.pack(">IIBBBBB", 4, 4, 8, 3, 0, 0, 0), b"PLTE": palette, b"tEXt": b"a\0b"}
    return PNG_START + b"".join(chunk(k, next(parts) if k == b"IDAT" else contents.get(k, b"")) for k in kinds)


def test_chunks_in_order_are_valid() -> None:
    data = with_chunks(b"IHDR", b"PLTE", b"tEXt", b"IDAT", b"IDAT", b"IEND")
    assert prepare(data).data == data
    assert tensorflow_decodes(data)


MALFORMED_PNG = {
    "fewer rows than declared": png(rows=3),
    "no rows": png(rows=0),
    "rows shorter than declared": png(5, 5, rows=4),
    "unknown compression": png(compression=1),
    "unknown filter": png(filter_type=9),
    "palette color without a palette": png(color=3),
    "interlaced with too few pixels": png(8, 8, rows=1, interlace=1),
    "unknown critical chunk": with_chunks(b"IHDR", b"ABCD", b"IDAT", b"IEND"),
    "something between the pixels": with_chunks(b"IHDR", b"IDAT", b"tEXt", b"IDAT", b"IEND"),
    "two headers": with_chunks(b"IHDR", b"IHDR", b"IDAT", b"IEND"),
    "two palettes": with_chunks(b"IHDR", b"PLTE", b"PLTE", b"IDAT", b"IEND"),
    "palette of 7 bytes": with_chunks(b"IHDR", b"PLTE", b"IDAT", b"IEND", palette=bytes(7)),
    "palette of 257 colors": with_chunks(b"IHDR", b"PLTE", b"IDAT", b"IEND", palette=bytes(771)),
    "a million and one pixels wide": png(1_000_001, 1, rows=1),
}


@pytest.mark.parametrize("data", MALFORMED_PNG.values(), ids=MALFORMED_PNG)
def test_malformed_png(data: bytes) -> None:
    assert not tensorflow_decodes(data)
    with pytest.raises(BadImage, match="damaged image"):
        prepare(data)


def test_too_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "MAX_IMAGE_BYTES", 100)
    with pytest.raises(BadImage, match=r"^the file is larger than 100 bytes, the limit of one record$"):
        prepare(JPEG)


def mutations(data: bytes, count: int, rng: np.random.Generator) -> Iterator[bytes]:
    """Yield damaged files: cut, one bit or byte changed, zeros to the end, bytes lost, a block of noise."""
    for number in range(count):
        at = int(rng.integers(2, len(data)))
        noise = rng.integers(0, 256, int(rng.integers(1, 9)), np.uint8).tobytes()
        yield (
            data[:at],
            flipped(data, at),
            data[:at] + noise[:1] + data[at + 1 :],
            data[:at] + b"\x00" * (len(data) - at),
            data[:at] + data[at + len(noise) :],
            (data[:at] + noise + data[at + len(noise) :])[: len(data)],
        )[number % 6]


def test_tensorflow_decodes_every_accepted_image() -> None:
    rng = np.random.default_rng(0)
    accepted, violations = 0, []
    for name, (data, _) in VALID.items():
        for number, damaged in enumerate(mutations(data, 36, rng)):
            try:
                prepare(damaged)
            except BadImage:
                continue
            accepted += 1
            if not tensorflow_decodes(damaged):
                violations.append((name, number))
    assert violations == []
    assert accepted > 100  # Damage that only changes colors is accepted, so the test has cases.


def test_damage_to_a_png_never_passes() -> None:
    rng = np.random.default_rng(1)
    for damaged in mutations(PNG, 60, rng):
        if damaged != PNG:
            with pytest.raises(BadImage):
                prepare(damaged)
