"""The image formats that are read: how they are detected, what opens them, and why one cannot be read."""

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
    """A format that is read.

    Attributes:
        name: With its article, as in "an AVIF image".
        starts: What its files begin with; empty if `detect` looks closer.
        feature: What Pillow must be built with to read it, as in `PIL.features`; "" if it always is.
        extra: The extra of this package that reads it; "" if Pillow does.
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
_PACKAGES = {"heif": "pillow-heif", "jxl": "pillow-jxl-plugin"}  # By extra.
_IDENTITY_MATRIX = b"nclx", 4  # Of an AVIF or HEIF image whose values are RGB: where it says so in a `colr` box.
_UNREAD = re.compile(
    r"unsupported(?!.*palette)|not supported|not implemented|unimplemented|not configured"
    r"|unknown (pixel|data organization)",
    re.IGNORECASE,
)
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_FALLBACK_PIXELS = 20_000_000  # What is decoded to find out whether a file without a signature is an image.
_FALLBACKS = ("TGA", "DIB", "IM", "MSP", "SPIDER", "PCD", "PIXAR", "GBR", "IPTC", "IMT", "MCIDAS", "XVTHUMB", "DCX")


class UnreadError(Exception):
    """Why an image is not read though it may be whole, in words that follow `path: `."""


def detect(data: bytes) -> str | None:
    """Returns which of `FORMATS` it is, by its first bytes."""
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        return _detect_heif(data)
    if _PNM.match(data):
        return "PPM"
    return next((kind for kind, form in FORMATS.items() if form.starts and data.startswith(form.starts)), None)


def _detect_heif(data: bytes) -> str | None:
    """The brands: the main one, four bytes of a version, and those that a reader may know as well."""
    size = min(int.from_bytes(data[:4], "big"), 256)
    main = data[8:12]
    brands = {main, *(data[at : at + 4] for at in range(16, size, 4))}
    if main not in _AVIF_BRANDS | _HEIF_BRANDS:
        return None
    return "AVIF" if brands & _AVIF_BRANDS else "HEIF"


def is_claimed(data: bytes) -> bool:
    """Whether the file is of a known format, text aside, so that a JPEG in it is a part of something else."""
    return detect(data) is not None or signatures.binary(data) is not None


def name(data: bytes) -> str:
    """Names a file that is none of `FORMATS`, by its content alone, with what can be done."""
    start = f"not an image (starts with {data[:16]!r})"
    kind = signatures.binary(data) or signatures.text(data)
    if kind is not None:
        known = f"{kind.name}, not a format that is read" if kind.is_image else f"{start}; {kind.name}"
        return f"{known}: {kind.advice}"
    if (found := _fallback(data)) is not None:
        return f"{signatures.article(found)} {found} image, not a format that is read: export it as PNG or JPEG"
    if not any(data):
        return f"{start}; it holds only zeros, as an interrupted download does"
    return f"{start}; {READ}"


def _fallback(data: bytes) -> str | None:
    """The format by which Pillow decodes it: some have no signature, so that only decoding tells."""
    try:
        with Image.open(io.BytesIO(data), formats=_FALLBACKS) as image:
            if image.width * image.height > _FALLBACK_PIXELS:
                return None
            image.load()
            return image.format
    except Exception:  # noqa: BLE001  Any of these parsers, on bytes of any origin.
        return None


def opened(data: bytes, kind: str, check_size: Callable[[Size], object]) -> Image.Image:
    """Opens an image of one of `FORMATS` whose size passes.

    Args:
        data: The file.
        kind: Its format.
        check_size: Called with width and height before pixels are decoded; may raise to stop.

    Raises:
        UnreadError: What reads it is not installed, or does not read this kind of it.
    """
    form = FORMATS[kind]
    if form.feature and not features.check(form.feature):
        upgrade = "pip install --upgrade --force-reinstall pillow"
        raise UnreadError(f"{form.name}, which this build of Pillow does not read: {upgrade} installs one that does")
    if kind == "TIFF":
        tiff.listen()
        if tiff.is_raw(data):
            raise UnreadError(
                "a raw photograph (DNG, NEF, ARW or the like), not a format that is read: " + signatures.DEVELOP
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
    return _usual(image)


def _usual(image: Image.Image) -> Image.Image:
    """Makes rare modes of Pillow common ones of the same values."""
    if image.format == "PPM" and image.mode == "I":  # 16 bits: Pillow scales them to 0..65535.
        return Image.fromarray(np.asarray(image).astype(np.uint16))
    return image.convert("LA") if image.mode == "La" else image


def _opened_heif(data: bytes, check_size: Callable[[Size], object]) -> Image.Image:
    """The reader turns the image as the file's own boxes say; a copy of that in EXIF must not turn it again."""
    try:
        import pillow_heif  # Here: an extra, of 26 MB.
    except ImportError as error:
        raise UnreadError(_missing("HEIF")) from error
    file = pillow_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=True)
    check_size(file.size)
    image: Image.Image = file.to_pillow()
    image.info.clear()
    return image


def _opened_jxl(data: bytes, check_size: Callable[[Size], object]) -> Image.Image:
    header = jxl.read_header(data)
    check_size(header.size)
    if header.animated:
        raise UnreadError("an animated JPEG XL image; write its first picture as PNG with djxl")
    try:
        return jxl.decode(data)
    except ImportError as error:
        raise UnreadError(_missing("JXL")) from error


def reconstructed_jpeg(data: bytes, check_size: Callable[[Size], object]) -> bytes | None:
    """Returns the JPEG that was packed into a JPEG XL file, byte for byte; None if its pixels were coded anew.

    Raises:
        UnreadError: The extra is not installed.
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
    return f"{form.name}, which is read after: pip install 'tfrecord-tools[{form.extra}]'. Or export it as JPEG or PNG"


def is_lossy(data: bytes, kind: str) -> bool:
    """Whether its pixels are coded with losses, so that a JPEG of high quality keeps what there is."""
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
    """The last byte of its COD marker says how pixels are transformed: 0 with losses, 1 reversibly (T.800, A.6.1)."""
    at = data.find(b"\xff\x52", data.find(b"\xff\x4f\xff\x51"))
    return data[at + 13 : at + 14] == b"\0"


def reason(error: BaseException, data: bytes = b"", kind: str | None = None) -> str:
    """Says why an image cannot be decoded: it is damaged, or of a kind that its reader does not know."""
    if isinstance(error, MemoryError):
        return "does not fit into memory"
    message = _ADDRESS.sub("", str(error)) or type(error).__name__
    unidentified = isinstance(error, UnidentifiedImageError)
    if kind == "TIFF":
        message = tiff.last_message() or message
        if (unusual := tiff.unusual(data)) and (unidentified or _UNREAD.search(message)):
            return f"a TIFF with {unusual}, which Pillow does not read; export it as 8-bit RGB or gray, TIFF or PNG"
    if not unidentified and _UNREAD.search(message):
        form = FORMATS[kind].name if kind else "an image"
        return f"{form} of a kind that is not read ({message}); save it as PNG"
    if unidentified:
        message = "its header cannot be read"
    if kind in ("AVIF", "JPEG2000", "HEIF", "JXL", "PPM"):
        tools = {"JXL": "djxl", "JPEG2000": "opj_decompress"}
        hint = f"; if other programs open it, make a PNG of it with {tools[kind]}" if kind in tools else ""
        return f"damaged image: {FORMATS[kind].name} that does not decode ({message}){hint}"
    return f"damaged image: {message}"


def versions() -> str:
    """The versions of what decodes images: others may decode to other pixels."""
    parts = [f"Pillow {PIL.__version__}"]
    for package in _PACKAGES.values():
        try:
            parts.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(parts)
