"""The supported image formats: how they are detected and opened, and why a file cannot be read."""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Callable
from importlib import metadata

import numpy as np
import PIL
from PIL import Image, UnidentifiedImageError, features

from tfrecord_tools.images import jpeg, jxl, levels, png, signatures, tiff, webp

Size = tuple[int, int]  # Width and height in pixels.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Format:
    """A supported format.

    Attributes:
        name: Name with its article, as in "an AVIF image".
        starts: The possible first bytes of a file in this format. Empty: `detect` has its own rule for this format.
        feature: Feature that Pillow must be built with, as in `PIL.features`. "": every Pillow reads this format.
        extra: Extra of this package that must be installed, as in `tfrecord-tools[heif]`. "": none is needed.
    """

    name: str
    starts: tuple[bytes, ...] = ()
    feature: str = ""
    extra: str = ""


FORMATS = {
    "JPEG": Format(name="a JPEG", starts=(jpeg.SIGNATURE,)),
    "PNG": Format(name="a PNG", starts=(png.SIGNATURE,)),
    "GIF": Format(name="a GIF", starts=(b"GIF87a", b"GIF89a")),
    "BMP": Format(name="a BMP", starts=(b"BM",)),
    "WEBP": Format(name="a WebP image", feature="webp"),
    "TIFF": Format(name="a TIFF", starts=(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    "AVIF": Format(name="an AVIF image", feature="avif"),
    "JPEG2000": Format(
        name="a JPEG 2000 image", starts=(b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"), feature="jpg_2000"
    ),
    "PPM": Format(name="a PNM image"),
    "HEIF": Format(name="an HEIC or HEIF image", extra="heif"),
    "JXL": Format(name="a JPEG XL image", starts=(jxl.CODESTREAM, jxl.CONTAINER), extra="jxl"),
}
READ = "JPEG, PNG, GIF, BMP, WebP, TIFF, AVIF, JPEG 2000 and PNM are read"
_PNM = re.compile(rb"P[1-6f][\s#]")
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIF_BRANDS = {
    b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"mif2", b"msf1", b"miaf",
    b"jpeg", b"jpgs", b"j2ki", b"j2is", b"avci", b"avcs", b"evbi", b"vvic", b"vvis",
}  # fmt: skip
_PACKAGES = {"heif": "pillow-heif", "jxl": "pillow-jxl-plugin"}  # Extra -> package.
# Start of a `colr` box, and number of bytes between it and the number of the color matrix. Matrix 0: an AVIF or HEIF
# image is stored as RGB.
_IDENTITY_MATRIX = b"nclx", 4
_UNREAD = re.compile(
    r"unsupported(?!.*palette)|not supported|not implemented|unimplemented|not configured"
    r"|unknown (pixel|data organization)",
    re.IGNORECASE,
)
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_FALLBACK_PIXELS = 20_000_000  # Largest image that is decoded to find out the format of a file without a signature.
_FALLBACKS = ("TGA", "DIB", "IM", "MSP", "SPIDER", "PCD", "PIXAR", "GBR", "IPTC", "IMT", "MCIDAS", "XVTHUMB", "DCX")


class UnreadError(Exception):
    """An image that may be valid, but is not supported. The message is printed after `path: `."""


def detect(data: bytes) -> str | None:
    """Detect the format of a file from its first bytes. Return a key of `FORMATS`; None: unsupported."""
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        return _detect_heif(data)
    if _PNM.match(data):
        return "PPM"
    return next((kind for kind, form in FORMATS.items() if form.starts and data.startswith(form.starts)), None)


def _detect_heif(data: bytes) -> str | None:
    size = min(int.from_bytes(data[:4], "big"), 256)
    main = data[8:12]  # The main brand. A version of four bytes and the compatible brands follow.
    brands = {main, *(data[at : at + 4] for at in range(16, size, 4))}
    if main not in _AVIF_BRANDS | _HEIF_BRANDS:
        return None
    return "AVIF" if brands & _AVIF_BRANDS else "HEIF"


def is_claimed(data: bytes) -> bool:
    """Return whether a file has a known binary format. A JPEG inside such a file is only a part of it."""
    return detect(data) is not None or signatures.binary(data) is not None


def name(data: bytes) -> str:
    """Return a message for a file in an unsupported format: what the file is, and what to do."""
    start = f"not an image (starts with {data[:16]!r})"
    kind = signatures.binary(data) or signatures.text(data)
    if kind is not None:
        described = f"{kind.name}, not a supported format" if kind.is_image else f"{start}; {kind.name}"
        return f"{described}: {kind.advice}"
    if (form := _fallback(data)) is not None:
        return f"{signatures.article(form)} {form} image, not a supported format: export it as PNG or JPEG"
    if not any(data):
        return f"{start}; it holds only zeros, perhaps after an interrupted download"
    return f"{start}; {READ}"


def _fallback(data: bytes) -> str | None:
    """Return the format of a file without a signature, found by decoding it with Pillow; None if it fails."""
    try:
        with Image.open(io.BytesIO(data), formats=_FALLBACKS) as image:
            if image.width * image.height > _FALLBACK_PIXELS:
                return None
            image.load()
            return image.format
    except Exception:  # noqa: BLE001  Pillow's parsers may raise anything on such bytes.
        return None


def opened(data: bytes, kind: str, check_size: Callable[[Size], object]) -> Image.Image:
    """Open an image of one of `FORMATS`.

    Args:
        data: Bytes of the file.
        kind: Format, a key of `FORMATS`.
        check_size: Called with width and height before pixels are decoded. It may raise an exception.

    Raises:
        UnreadError: The reader of the format is not installed, or does not support this kind of image.
    """
    form = FORMATS[kind]
    if form.feature and not features.check(form.feature):
        upgrade = "pip install --upgrade --force-reinstall pillow"
        raise UnreadError(f"{form.name}, which this build of Pillow does not read. Install another build: {upgrade}")
    if kind == "TIFF":
        tiff.listen()
        if tiff.is_raw(data):
            raise UnreadError(
                "a raw photograph (DNG, NEF, ARW or similar), not a supported format: " + signatures.DEVELOP
            )
        levels.extend_pillow()
    if kind == "HEIF":
        image = _opened_heif(data, check_size)
    elif kind == "JXL":
        image = _opened_jxl(data, check_size)
    else:
        image = Image.open(io.BytesIO(data), formats=(kind,))
    check_size(image.size)
    if kind == "TIFF":
        levels.correct_tiff(image)
    return with_common_mode(image)


def with_common_mode(image: Image.Image) -> Image.Image:
    """Convert rare modes of Pillow to common modes with the same values."""
    if image.format == "PPM" and image.mode == "I":  # 16 bits: Pillow scales the values to 0..65535.
        return Image.fromarray(np.asarray(image).astype(np.uint16))
    return image.convert("LA") if image.mode == "La" else image


def _opened_heif(data: bytes, check_size: Callable[[Size], object]) -> Image.Image:
    try:
        import pillow_heif  # An extra of 26 MB.
    except ImportError as error:
        raise UnreadError(_missing("HEIF")) from error
    file = pillow_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=True)
    check_size(file.size)
    image: Image.Image = file.to_pillow()
    image.info.clear()  # The reader has rotated the image already, so EXIF must not rotate it again.
    return image


def _opened_jxl(data: bytes, check_size: Callable[[Size], object]) -> Image.Image:
    header = jxl.read_header(data)
    check_size(header.size)
    if header.animated:
        raise UnreadError("an animated JPEG XL image; save its first picture as PNG with djxl")
    try:
        return jxl.decode(data)
    except ImportError as error:
        raise UnreadError(_missing("JXL")) from error


def reconstructed_jpeg(data: bytes, check_size: Callable[[Size], object]) -> bytes | None:
    """Return the original JPEG inside a JPEG XL file, byte for byte; None if there is none.

    Raises:
        UnreadError: The extra `jxl` is not installed.
    """
    if not jxl.holds_jpeg(data):
        return None
    check_size(jxl.read_header(data).size)
    try:
        return jxl.unpack_jpeg(data)
    except ImportError as error:
        raise UnreadError(_missing("JXL")) from error


def _missing(kind: str) -> str:
    form = FORMATS[kind]
    return f"{form.name}. To read it, run pip install 'tfrecord-tools[{form.extra}]'. Or export it as JPEG or PNG"


def is_lossy(data: bytes, kind: str) -> bool:
    """Return whether a file has lossy compression. Such files are stored as JPEG, others as PNG."""
    if kind in ("AVIF", "HEIF"):
        name, gap = _IDENTITY_MATRIX
        at = data.find(name)
        return at < 0 or data[at + 4 + gap : at + 6 + gap] != b"\0\0"
    if kind == "JPEG2000":
        return _is_lossy_jpeg2000(data)
    lossy: dict[str, Callable[[bytes], bool]] = {
        "JPEG": lambda _: True, "WEBP": webp.is_lossy, "JXL": lambda data: jxl.read_header(data).lossy
    }  # fmt: skip
    return kind in lossy and lossy[kind](data)


def _is_lossy_jpeg2000(data: bytes) -> bool:
    """Read the wavelet transform, the last byte of the COD marker: 0 is lossy, 1 lossless (T.800, A.6.1)."""
    at = data.find(b"\xff\x52", data.find(b"\xff\x4f\xff\x51"))
    return data[at + 13 : at + 14] == b"\0"


def reason(error: BaseException, data: bytes = b"", kind: str | None = None) -> str:
    """Return why an image cannot be decoded: it is damaged, or its decoder does not support it."""
    if isinstance(error, MemoryError):
        return "does not fit into memory"
    message = _ADDRESS.sub("", str(error)) or type(error).__name__
    unidentified = isinstance(error, UnidentifiedImageError)
    if kind == "TIFF":
        message = tiff.last_message() or message
        if (unusual := tiff.unusual(data)) and (unidentified or _UNREAD.search(message)):
            return f"a TIFF with {unusual}, which Pillow does not read; export it with 8-bit pixels, gray or RGB"
    if not unidentified and _UNREAD.search(message):
        form = FORMATS[kind].name if kind else "an image"
        return f"{form} of an unsupported kind ({message}); save it as PNG"
    if unidentified:
        message = "its header cannot be read"
    if kind in ("AVIF", "JPEG2000", "HEIF", "JXL", "PPM"):
        tools = {"JXL": "djxl", "JPEG2000": "opj_decompress"}
        hint = f"; if other programs open it, convert it to PNG with {tools[kind]}" if kind in tools else ""
        return f"damaged image: {FORMATS[kind].name} that does not decode ({message}){hint}"
    return f"damaged image: {message}"


def versions() -> str:
    """Return the versions of the image decoders. Other versions may decode slightly different pixels."""
    parts = [f"Pillow {PIL.__version__}"]
    for package in _PACKAGES.values():
        try:
            parts.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(parts)
