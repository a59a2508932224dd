"""Unusual files: images that must become records, and bad files with the reasons for rejecting them."""

from __future__ import annotations

import dataclasses
import io
import struct
import zlib
from typing import Any

import numpy as np
from image_sources import image
from PIL import Image

ORIENTATION = 0x0112
PNG_START = b"\x89PNG\r\n\x1a\n"
WIDTH, HEIGHT = 40, 30


@dataclasses.dataclass(frozen=True)
class Odd:
    """A file and the expected result.

    Attributes:
        data: Bytes of the file.
        stored: Type of the record. "": the file is rejected.
        changes: Changes to the image, as in the index.
        reason: Start of the reason, if the file is rejected.
    """

    data: bytes
    stored: str = ""
    changes: str = ""
    reason: str = ""


def smooth(width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """Return a color gradient with a bright corner. Every orientation differs, and JPEG changes little."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height)], -1)
    pixels[: height // 4, : width // 4] = 255
    return Image.fromarray(pixels.astype(np.uint8))


def encoded(picture: Image.Image, kind: str, **save: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **save)
    return stream.getvalue()


def turned(orientation: Any, kind: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encoded(smooth(), kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {}))


def chunk(kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def png_header(width: int, height: int) -> bytes:
    """Return a PNG with a size in its header and almost no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return PNG_START + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\x00" * 100)) + chunk(b"IEND", b"")


def jpeg_header(width: int, height: int) -> bytes:
    """Return the JPEG of `smooth` with another size in its header."""
    data = bytearray(encoded(smooth(), "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def without_adobe_marker(data: bytes) -> bytes:
    at = data.index(b"\xff\xee")
    return data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") :]


def palette(transparent: bool) -> bytes:
    picture = smooth().quantize(16)
    return encoded(picture, "PNG", **({"transparency": 3} if transparent else {}))


def deep() -> bytes:
    """Return a gray PNG of 16 bits."""
    values = (np.arange(WIDTH * HEIGHT, dtype=np.uint32).reshape(HEIGHT, WIDTH) * 54).astype(np.uint16)
    return encoded(Image.fromarray(values), "PNG")


def deep_color() -> bytes:
    """Return an RGB PNG of 16 bits, which Pillow cannot write."""
    values = np.random.default_rng(0).integers(0, 65536, (HEIGHT, WIDTH, 3), np.uint16)
    lines = b"".join(b"\x00" + line.astype(">u2").tobytes() for line in values)
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, 2, 0, 0, 0)
    return PNG_START + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def translucent(mode: str = "RGBA") -> Image.Image:
    """Return `smooth` with alpha from 0 to 255."""
    alpha = Image.fromarray(np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1)))
    picture = smooth().convert(mode[:-1])
    picture.putalpha(alpha)
    return picture


def animated(kind: str) -> bytes:
    others = [Image.new("RGB", (WIDTH, HEIGHT), color) for color in ("red", "blue")]
    return encoded(smooth().quantize(64) if kind == "GIF" else smooth(), kind, save_all=True, append_images=others)


JPEG = encoded(smooth(), "JPEG", quality=95)
PNG = encoded(smooth(), "PNG")
PROGRESSIVE = encoded(smooth(), "JPEG", progressive=True)
CUTS = {f"cut after {share} of 100": JPEG[: len(JPEG) * share // 100] for share in (1, 5, 20, 40, 60, 80, 95, 99)}

ODD: dict[str, Odd] = {
    "plain": Odd(JPEG, "JPEG"),
    "progressive": Odd(PROGRESSIVE, "JPEG"),
    "gray": Odd(encoded(smooth().convert("L"), "JPEG"), "JPEG"),
    "one pixel jpeg": Odd(image(1, size=(1, 1)), "JPEG"),
    "one pixel png": Odd(image(1, "PNG", size=(1, 1)), "PNG"),
    "png named jpg": Odd(PNG, "PNG"),
    "bytes behind the end": Odd(JPEG + b"junk" * 9, "JPEG"),
    **{f"orientation {n}": Odd(turned(n), "JPEG", "turned" if n != 1 else "") for n in range(1, 9)},
    "orientation 0": Odd(turned(0), "JPEG"),
    "orientation 9": Odd(turned(9), "JPEG"),
    "broken exif": Odd(turned(6).replace(b"MM\x00*", b"XX\x00*"), "JPEG"),
    "exif cut short": Odd(JPEG[:2] + b"\xff\xe1\x00\x0cExif\x00\x00MM\x00*" + JPEG[2:], "JPEG"),
    "turned png": Odd(turned(8, "PNG"), "PNG", "turned"),
    "turned webp": Odd(turned(3, "WEBP"), "JPEG", "turned,converted"),
    "turned tiff": Odd(turned(6, "TIFF"), "PNG", "converted"),  # Pillow rotates it while decoding.
    "cmyk with adobe marker": Odd(encoded(smooth().convert("CMYK"), "JPEG", quality=95), "JPEG", "converted"),
    "cmyk without": Odd(
        without_adobe_marker(encoded(smooth().convert("CMYK"), "JPEG", quality=95)), "JPEG", "converted"
    ),
    "palette": Odd(palette(transparent=False), "PNG"),
    "palette with transparency": Odd(palette(transparent=True), "PNG", "converted"),
    "black and white": Odd(encoded(smooth().convert("1"), "PNG"), "PNG"),
    "16-bit gray": Odd(deep(), "PNG", "converted"),
    "16-bit color": Odd(deep_color(), "PNG", "converted"),
    "opaque alpha": Odd(encoded(smooth().convert("RGBA"), "PNG"), "PNG"),
    "alpha": Odd(encoded(translucent(), "PNG"), "PNG", "converted"),
    "gray with alpha": Odd(encoded(translucent("LA"), "PNG"), "PNG", "converted"),
    "animated gif": Odd(animated("GIF"), "PNG", "converted"),
    "gif": Odd(encoded(smooth().quantize(64), "GIF"), "PNG", "converted"),
    "animated png": Odd(animated("PNG"), "PNG"),
    "animated webp": Odd(animated("WEBP"), "JPEG", "converted"),
    "webp": Odd(encoded(smooth(), "WEBP"), "JPEG", "converted"),
    "lossless webp": Odd(encoded(smooth(), "WEBP", lossless=True), "PNG", "converted"),
    "webp with alpha": Odd(encoded(translucent(), "WEBP", lossless=True), "PNG", "converted"),
    "bmp": Odd(encoded(smooth(), "BMP"), "PNG", "converted"),
    "palette bmp": Odd(encoded(smooth().quantize(64), "BMP"), "PNG", "converted"),
    "tiff": Odd(encoded(smooth(), "TIFF"), "PNG", "converted"),
    "cmyk tiff": Odd(encoded(smooth().convert("CMYK"), "TIFF"), "PNG", "converted"),
    "16-bit tiff": Odd(encoded(Image.open(io.BytesIO(deep())), "TIFF"), "PNG", "converted"),
    "empty": Odd(b"", reason="empty file"),
    "zeros": Odd(bytes(5000), reason="not an image (starts with b'\\x00"),
    "html": Odd(b"<html>404 Not Found</html>", reason="not an image (starts with b'<html>404 Not Fo'); an HTML page: "),
    "text": Odd(b"hello\n", reason="not an image (starts with b'hello"),
    "svg": Odd(b"<svg xmlns='http://www.w3.org/2000/svg'/>", reason='not an image (starts with b"<svg'),
    "pdf": Odd(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3", reason="not an image (starts with b'%PDF"),
    "portable pixmap": Odd(encoded(smooth(), "PPM"), "PNG", "converted"),
    "icon": Odd(encoded(smooth(), "ICO"), reason="a Windows icon (ICO), not a supported format: export it"),
    "float tiff": Odd(
        encoded(smooth().convert("F"), "TIFF"),
        reason="the file does not say which of its floating-point values is black and which is white (its values"
        " are 22.94 to 255)",
    ),
    **{name: Odd(data, reason="damaged image: ") for name, data in CUTS.items()},
    "without its last two bytes": Odd(JPEG[:-2], reason="damaged image: the JPEG ends at byte"),
    "zeros at the end": Odd(JPEG[:-300] + bytes(300), reason="damaged image: the JPEG ends at byte"),
    "cut progressive": Odd(PROGRESSIVE[: len(PROGRESSIVE) // 2], reason="damaged image: "),
    "junk before the jpeg": Odd(b"HTTP/1.1 200 OK\r\n\r\n" + JPEG, reason="not an image (starts with b'HTTP"),
    "just the jpeg signature": Odd(b"\xff\xd8\xff", reason="damaged image: "),
    "just the png signature": Odd(PNG_START, reason="damaged image: the PNG ends at byte 8"),
    "cut png": Odd(PNG[: len(PNG) // 2], reason="damaged image: the PNG ends at byte"),
    "png without its end": Odd(PNG[:-12], reason="damaged image: the PNG ends at byte"),
    "flipped png": Odd(
        PNG[:200] + bytes([PNG[200] ^ 1]) + PNG[201:], reason="damaged image: wrong checksum of the PNG chunk b'IDAT'"
    ),
    "cut gif": Odd(encoded(smooth().quantize(64), "GIF", interlace=0)[:-40], reason="damaged image: "),
    "cut webp": Odd(encoded(smooth(), "WEBP")[:-100], reason="damaged image: "),
    "cut bmp": Odd(encoded(smooth(), "BMP")[:-900], reason="damaged image: "),
    "png of 60,000 x 60,000": Odd(
        png_header(60_000, 60_000), reason="60,000 x 60,000 pixels, more than convert's --max_pixels=178,956,970"
    ),
    "jpeg of 60,000 x 60,000": Odd(
        jpeg_header(60_000, 60_000), reason="60,000 x 60,000 pixels, more than convert's --max_pixels=178,956,970"
    ),
    "jpeg without height": Odd(jpeg_header(WIDTH, 0), reason="damaged image: "),
}
NAMES = (
    "with space.jpg", "line\nbreak.jpg", "tab\t.jpg", "emoji 🐕.jpg", "süß.jpg", "quote\"'.jpg", "no ending", "a,b.jpg",
    "-dash.jpg", "x" * 246 + ".jpg", "deeper/and deeper/1.jpg", "UPPER.JPG", "jpg.png", "percent%20.jpg",
    "back\\slash.jpg",
)  # fmt: skip
