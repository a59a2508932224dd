"""From the bytes of a file to the bytes of a record: what is sound and plain passes as it is, the rest is made so.

| found | stored (`--store=original`) |
|---|---|
| JPEG, grey or colour | as it is |
| JPEG in CMYK | RGB, JPEG |
| anything with an EXIF orientation | turned upright, and encoded anew |
| PNG of up to 8 bits, grey, RGB or palette, opaque | as it is |
| PNG with transparent pixels | on white, PNG |
| PNG of 16 bits | the high byte, PNG |
| GIF, animated PNG or WebP, several pages | the first picture |
| GIF, BMP, TIFF, lossless WebP | PNG |
| WebP with losses | JPEG |
"""

from __future__ import annotations

import dataclasses
import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from PIL import Image, UnidentifiedImageError

from tfrecord_tools import jpeg, page, png, recode, repair, webp
from tfrecord_tools.errors import UserError

MAX_IMAGE_BYTES = 1 << 30  # A serialized protobuf must stay below 2 GiB.
READ_TYPES = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")
STORES = ("original", "jpeg", "png", "raw")
VERIFY = ("full", "header")
ON_BAD_IMAGE = ("skip", "repair", "fail")
CHANGES = ("repaired", "turned", "converted", "resized")
_EXIF_ORIENTATION = 0x0112
_ON_THEIR_SIDE = range(5, 9)  # Orientations that swap width and height.
_METADATA = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"}  # Where Pillow looks for an orientation.
_LONGEST_SIDE = {"JPEG": 65_500, "PNG": 1_000_000, "RAW": 1_000_000}  # Limits of libjpeg and libpng.
_SIGNATURES = {
    "JPEG": (jpeg.SIGNATURE,),
    "PNG": (png.SIGNATURE,),
    "GIF": (b"GIF87a", b"GIF89a"),
    "BMP": (b"BM",),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
}
_RAISED_BY_PILLOW = (  # Depending on where the damage is.
    OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, EOFError,
    struct.error, Image.DecompressionBombError,
)  # fmt: skip
_SIZES_ALLOWED = range(1, 65_501)  # libjpeg's limit.

# Of half of its limit of pixels, of broken EXIF and the like: our verdict is the one answer.
warnings.filterwarnings("ignore", module="PIL")
# Nor is its limit of pixels: `max_pixels` is ours. Set once, since it is of the process: a thread that lifted it for a
# call would restore it under another one.
Image.MAX_IMAGE_PIXELS = None


class BadImage(Exception):
    """Why a file cannot be a record, in words that follow `path: `."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """How images are proven and what is stored of them.

    Attributes:
        on_bad_image: "skip" lists bad files in rejected.csv, "repair" mends what can be (see `repair`) and lists
            that too, "fail" stops at the first.
        verify: "full" decodes every image, "header" only looks at the header and for the end of what passes as it is.
        max_pixels: An image of more is refused before it is decoded.
        store: "original" keeps the bytes of JPEG and PNG, "jpeg" and "png" store all as that, "raw" as pixels.
        resize: Length in pixels of the side that `resize_mode` names. None: as it is.
        resize_mode: See `recode.target_size`.
        upscale: Enlarge too what is smaller than `resize`.
        quality: Of each JPEG that is encoded, 1..100.
    """

    on_bad_image: str = "skip"
    verify: str = "full"
    max_pixels: int = 178_956_970  # Where Pillow itself raises: 2 * 1 GiB / 4 / 3.
    store: str = "original"
    resize: int | None = None
    resize_mode: str = "shorter"
    upscale: bool = False
    quality: int = 95

    def __post_init__(self) -> None:
        allowed = {"on_bad_image": ON_BAD_IMAGE, "verify": VERIFY, "store": STORES, "resize_mode": recode.RESIZE_MODES}
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise UserError(f"--{name}={getattr(self, name)}: one of {', '.join(values)} is expected.")
        if self.resize is not None and self.resize not in _SIZES_ALLOWED:
            raise UserError(f"--resize={self.resize}: a length of 1 to 65,500 pixels is expected.")
        if not 1 <= self.quality <= 100:
            raise UserError(f"--quality={self.quality}: 1 to 100 is expected.")
        if self.max_pixels < 1:
            raise UserError(f"--max_pixels={self.max_pixels}: at least 1.")
        if self.store == "raw" and (self.resize is None or self.resize_mode not in ("exact", "center_crop")):
            raise UserError(
                "--store=raw needs one size for all images, as readers of raw pixels do:"
                " give --resize=N with --resize_mode=exact or center_crop."
            )

    def image_settings(self) -> dict[str, Any]:
        """What the stored bytes depend on; how images are proven decides only which there are."""
        settings = {field.name: getattr(self, field.name) for field in dataclasses.fields(ImageConfig)}
        settings["repair"] = settings.pop("on_bad_image") == "repair"
        del settings["verify"]
        return settings


def config_of(config: ImageConfig) -> ImageConfig:
    """The part of a larger config that is this: workers may not know the class of the whole, a command's own."""
    return ImageConfig(**{field.name: getattr(config, field.name) for field in dataclasses.fields(ImageConfig)})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """What is stored of an image.

    Attributes:
        data: The bytes.
        type: What they are: JPEG, PNG or RAW.
        source_type: What the file was, one of `READ_TYPES`.
        height: In pixels, as stored.
        width: Likewise.
        changes: Of `CHANGES`, in that order; empty if the file's bytes are stored as they are.
        repaired: What was wrong with it and is mended; "" else.
    """

    data: bytes
    type: str
    source_type: str
    height: int
    width: int
    changes: tuple[str, ...] = ()
    repaired: str = ""


def prepare(data: bytes, config: ImageConfig = ImageConfig()) -> Prepared:
    """Proves an image sound and makes of it what is stored: always the same of the same bytes and config.

    A JPEG that passes as it is is decoded at 1/8 scale, which runs all of the entropy decoding and almost none of
    the inverse DCT; of a PNG all pixels are inflated and every chunk's checksum is checked. JPEG has no
    checksums: coded data that was cut in the middle and ended properly decodes, its rest grey.

    Raises:
        BadImage: It is no image, of a type that is not read, damaged, or too large.
    """
    if not data:
        raise BadImage("empty file")
    if len(data) > MAX_IMAGE_BYTES:
        raise BadImage(f"more than {MAX_IMAGE_BYTES:,} bytes, which an example cannot hold")
    with as_bad_image():
        source_type, repaired = _type(data), ""
        if config.on_bad_image == "repair":
            data, repaired = repair.repaired(data, source_type, lambda size: _check_pixels(size, config))
        kind = _type(data)
        if kind is None:
            raise BadImage(f"{_true_type(data)}; JPEG, PNG, GIF, BMP, WebP and TIFF are read")
        return _prepare(data, kind, source_type or kind, repaired, config)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Work:
    """What has to be done to an opened image. Sizes are (width, height) in pixels."""

    stored: str
    orientation: int  # EXIF's, 1..8.
    converted: bool
    size: tuple[int, int]  # Upright.
    target: tuple[int, int]

    @property
    def turned(self) -> bool:
        return self.orientation != 1

    @property
    def resized(self) -> bool:
        return self.target != self.size

    def changes(self, repaired: str) -> tuple[str, ...]:
        done = (bool(repaired), self.turned, self.converted, self.resized)
        return tuple(name for name, applies in zip(CHANGES, done) if applies)


def _prepare(data: bytes, kind: str, source_type: str, repaired: str, config: ImageConfig) -> Prepared:
    if kind == "JPEG" and (size := _plain_size(data, config)):
        return Prepared(
            data=data, type=kind, source_type=source_type, width=size[0], height=size[1],
            changes=("repaired",) if repaired else (), repaired=repaired,
        )  # fmt: skip
    header = png.read_header(data) if kind == "PNG" else None
    if header is not None:
        _check_pixels((header.width, header.height), config)
    with Image.open(io.BytesIO(data), formats=(kind,)) as image:
        _check_pixels(image.size, config)
        if kind == "JPEG":
            jpeg.check_markers(data)
        if header is not None:
            chunks = list(png.iterate_chunks(data))
            if config.verify == "full":
                png.check(chunks, header)
            if png.has_late_metadata(chunks):
                image.load()  # Else Pillow knows of no orientation that stands behind the pixels.
        work = _work(image, data, kind, header, config)
        size = image.size
        if work.turned or work.converted or work.resized:
            _check_target(work, config)
            size, data = _made(image, work, config)
        elif kind == "JPEG" and config.verify == "full" and not jpeg.decodes_cleanly(data):
            image.draft(None, (1, 1))  # What libjpeg only warns of may pass, as it does in TensorFlow.
            image.load()
    return Prepared(
        data=data,
        type=work.stored,
        source_type=source_type,
        height=size[1],
        width=size[0],
        changes=work.changes(repaired),
        repaired=repaired,
    )


def _plain_size(data: bytes, config: ImageConfig) -> tuple[int, int] | None:
    """Width and height of a JPEG that is proven to pass as it is without Pillow: most do, in half of the time."""
    if config.resize or config.store not in ("original", "jpeg") or (size := jpeg.plain_size(data)) is None:
        return None
    _check_pixels(size, config)
    proven = jpeg.decodes_cleanly(data) if config.verify == "full" else jpeg.has_end(data)
    return size if proven else None


def _work(image: Image.Image, data: bytes, kind: str, header: png.Header | None, config: ImageConfig) -> _Work:
    stored = _stored_type(data, kind, config)
    deep = header is not None and header.bits > 8
    converted = stored != kind or image.mode == "CMYK" or deep or not recode.is_opaque(image)
    orientation = _orientation(image)
    size = image.size[::-1] if orientation in _ON_THEIR_SIDE else image.size
    target = recode.target_size(size, config.resize, config.resize_mode, config.upscale) if config.resize else size
    return _Work(stored=stored, orientation=orientation, converted=converted, size=size, target=target)


def _made(image: Image.Image, work: _Work, config: ImageConfig) -> tuple[tuple[int, int], bytes]:
    """Returns the size and the bytes of what is stored."""
    if work.resized:
        recode.draft(image, work.target if image.size == work.size else work.target[::-1], config.resize_mode)
    image.load()
    made = recode.plain(recode.upright(image, work.orientation))
    if work.resized:
        made = recode.resized(made, work.target, config.resize_mode)
    return made.size, recode.encoded(made, work.stored, config.quality)


def _stored_type(data: bytes, kind: str, config: ImageConfig) -> str:
    if config.store != "original":
        return config.store.upper()
    return "JPEG" if kind == "JPEG" or (kind == "WEBP" and webp.is_lossy(data)) else "PNG"


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1..8; 1, upright, where there is none or it cannot be read."""
    if image.format == "TIFF" or not image.info.keys() & _METADATA:  # Pillow turns TIFFs itself.
        return 1
    try:
        orientation: Any = image.getexif().get(_EXIF_ORIENTATION)
    except _RAISED_BY_PILLOW:  # By its parser, on broken EXIF.
        return 1
    return int(orientation) if orientation in range(1, 9) else 1


def _check_pixels(size: tuple[int, int], config: ImageConfig) -> None:
    if size[0] * size[1] > config.max_pixels:
        raise BadImage(f"{size[0]:,} x {size[1]:,} pixels, more than convert's --max_pixels={config.max_pixels:,}")


def _check_target(work: _Work, config: ImageConfig) -> None:
    width, height = work.target
    most = _LONGEST_SIDE[work.stored]
    if max(width, height) > most:
        raise BadImage(f"would be stored with {width:,} x {height:,} pixels; {work.stored} can have {most:,} a side")
    if work.resized:
        _check_pixels(work.target, config)


def _type(data: bytes) -> str | None:
    """Which of `READ_TYPES` it is, by its first bytes."""
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    return next((kind for kind, starts in _SIGNATURES.items() if data.startswith(starts)), None)


def kind_of(data: bytes) -> str | None:
    """Return which of `READ_TYPES` a file is, by its first bytes; None if it is none of them."""
    return _type(data)


def _true_type(data: bytes) -> str:
    """Names what the bytes are, of content alone."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return f"{page.with_article(str(image.format))} image"
    except UnidentifiedImageError:
        return f"not an image (starts with {data[:16]!r})"
    except Exception as error:  # noqa: BLE001  Any of 40 parsers, on bytes of any origin.
        return f"not a readable image ({type(error).__name__}: {error})"


@contextmanager
def as_bad_image() -> Iterator[None]:
    """What Pillow's parsers raise on damaged files becomes `BadImage`."""
    try:
        yield
    except jpeg.RefusedJpegError as error:
        raise BadImage(str(error)) from error
    except (jpeg.DamagedJpegError, png.DamagedPngError) as error:
        raise BadImage(f"damaged image: {error}") from error
    except (recode.UnknownRangeError, repair.TooMuchLostError) as error:
        raise BadImage(str(error)) from error
    except UnidentifiedImageError as error:  # Its message holds an address in memory.
        raise BadImage("damaged image: its header cannot be read") from error
    except MemoryError as error:
        raise BadImage("does not fit into memory") from error
    except _RAISED_BY_PILLOW as error:
        raise BadImage(f"damaged image: {error}") from error
