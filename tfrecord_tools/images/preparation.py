"""From the bytes of a file to the bytes of a record: sound and plain images pass as they are, others are converted.

| found | stored (`--store=original`) |
|---|---|
| JPEG, grey or colour | as it is |
| JPEG in CMYK | RGB, JPEG |
| anything with an EXIF orientation | turned upright, and encoded anew |
| PNG of up to 8 bits, grey, RGB or palette, opaque | as it is |
| PNG with transparent pixels | on white, PNG |
| PNG and TIFF of 16 bits | the high byte, or what `depth_range` says, PNG |
| TIFF of 32-bit or floating-point levels | what `depth_range` says, PNG |
| GIF, animated PNG or WebP, several pages | the first picture |
| GIF, BMP, TIFF, PNM | PNG |
| WebP, AVIF, HEIC, JPEG 2000, JPEG XL | JPEG; PNG if they are lossless |
| JPEG XL that packs a JPEG | that JPEG, as it was |
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from PIL import Image

from tfrecord_tools.errors import UserError
from tfrecord_tools.images import formats, inspection, jpeg, levels, pillow, png, recode, repair, strip
from tfrecord_tools.layout import findings

MAX_IMAGE_BYTES = 1 << 30  # A serialized protobuf must stay below 2 GiB.
READ_TYPES = tuple(formats.FORMATS)
STORES = ("original", "jpeg", "png", "raw")
VERIFY = ("full", "header")
ON_BAD_IMAGE = ("skip", "repair", "fail")
CHANGES = ("repaired", "turned", "converted", "resized", "stripped")
_EXIF_ORIENTATION = 0x0112
_ON_THEIR_SIDE = range(5, 9)  # Orientations that swap width and height.
_METADATA = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"}  # Where Pillow looks for an orientation.
_LONGEST_SIDE = {"JPEG": 65_500, "PNG": 1_000_000, "RAW": 1_000_000}  # Limits of libjpeg and libpng.
_NEEDS_EXTRA = {kind for kind, form in formats.FORMATS.items() if form.extra}
_NO_LEVELS = (0.0, 0.0)
_SIZES_ALLOWED = range(1, 65_501)  # libjpeg's limit.


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
        depth_range: Which levels of 16-bit, 32-bit and floating-point PNGs and TIFFs become black and white: "LO,HI",
            or "auto" for the lowest and highest level of each image. None: 16-bit levels lose their low byte, and
            images whose levels have no agreed range are rejected. See `levels.reduced`.
        strip_metadata: Remove EXIF, XMP and IPTC from JPEG and PNG. See `strip.stripped`.
    """

    on_bad_image: str = "skip"
    verify: str = "full"
    max_pixels: int = 178_956_970  # Where Pillow itself raises: 2 * 1 GiB / 4 / 3.
    store: str = "original"
    resize: int | None = None
    resize_mode: str = "shorter"
    upscale: bool = False
    quality: int = 95
    depth_range: str | None = None
    strip_metadata: bool = False

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
        if self.depth_range is not None:
            object.__setattr__(self, "depth_range", _normalized_range(self.depth_range))

    def image_settings(self) -> dict[str, Any]:
        """What the stored bytes depend on; how images are proven decides only which there are."""
        settings = {field.name: getattr(self, field.name) for field in dataclasses.fields(ImageConfig)}
        settings["repair"] = settings.pop("on_bad_image") == "repair"
        del settings["verify"]
        return settings


def _normalized_range(text: str) -> str:
    try:
        return levels.normalized_range(text)
    except ValueError as error:
        raise UserError(
            f"--depth_range={text}: must be LO,HI, the levels that become black and white, with LO below HI, as in"
            " --depth_range=0,4095; or auto, for the lowest and highest level of each image."
        ) from error


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
        findings: Of `findings.FINDINGS`, in that order.
        levels: The lowest and the highest level of an image with more than 8 bits, else zeros. Without `depth_range`
            they are those of 16 bits.
    """

    data: bytes
    type: str
    source_type: str
    height: int
    width: int
    changes: tuple[str, ...] = ()
    repaired: str = ""
    findings: tuple[str, ...] = ()
    levels: tuple[float, float] = _NO_LEVELS


def prepare(data: bytes, config: ImageConfig = ImageConfig()) -> Prepared:
    """Proves an image sound and makes of it what is stored: always the same of the same bytes and config.

    A JPEG that passes as it is is decoded at 1/8 scale, which runs all of the entropy decoding and almost none of
    the inverse DCT; of a PNG all pixels are inflated and every chunk's checksum is checked. JPEG has no
    checksums: coded data that was cut and ended properly decodes, its rest grey; see `jpeg.lost_share`.

    Raises:
        BadImage: It is no image, of a type that is not read, damaged, or too large.
    """
    if not data:
        raise BadImage("empty file")
    if len(data) > MAX_IMAGE_BYTES:
        raise BadImage(f"more than {MAX_IMAGE_BYTES:,} bytes, which an example cannot hold")
    source_type = formats.detect(data)
    with as_bad_image(data, source_type):
        if source_type == "JPEG" and (size := _plain_size(data, config)):
            kept = _kept(data, "JPEG", config)
            changes = ("stripped",) * (kept is not data)
            return Prepared(data=kept, type="JPEG", source_type="JPEG", width=size[0], height=size[1], changes=changes)
        if source_type is None:
            return _from_within(data, config)
        repaired = ""
        if config.on_bad_image == "repair":
            data, repaired = repair.repaired(data, source_type, lambda size: _check_pixels(size, config))
        if source_type == "JXL" and (
            packed := formats.reconstructed_jpeg(data, lambda size: _check_pixels(size, config, "JXL"))
        ):
            prepared = _prepare(packed, "JPEG", source_type, "", config)
            changes = tuple(name for name in CHANGES if name == "converted" or name in prepared.changes)
            return dataclasses.replace(prepared, changes=changes)
        return _prepare(data, formats.detect(data) or source_type, source_type, repaired, config)


def _from_within(data: bytes, config: ImageConfig) -> Prepared:
    """Repairs a JPEG behind junk, where that is wanted and no other format claims the file."""
    if config.on_bad_image == "repair" and not formats.is_claimed(data):
        within, wrong = jpeg.repair(data)
        if wrong:
            try:
                within, wrong = repair.repaired(data, None, lambda size: _check_pixels(size, config))
                with as_bad_image(within, "JPEG"):
                    return _prepare(within, "JPEG", "JPEG", wrong, config)
            except repair.TooMuchLostError:
                raise
            except (OSError, SyntaxError, BadImage):
                pass  # Bytes that look like the start of a JPEG.
    raise BadImage(formats.name(data))


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Made:
    """What is stored of an image. Size is (width, height) in pixels."""

    data: bytes
    size: tuple[int, int]
    findings: list[str]
    levels: tuple[float, float] = _NO_LEVELS
    stripped: bool = False


def _prepare(data: bytes, kind: str, source_type: str, repaired: str, config: ImageConfig) -> Prepared:
    header, chunks = None, []
    if kind == "JPEG":
        jpeg.check_markers(data)
    elif kind == "PNG":  # Before Pillow, which does not say what is wrong with which chunk.
        header = png.read_header(data)
        _check_pixels((header.width, header.height), config)
        chunks = list(png.iterate_chunks(data))
        if config.verify == "full":
            png.check(chunks, header)
    with _opened(data, kind, chunks, config) as image:
        if kind == "JPEG" and config.verify == "full" and not jpeg.decodes_cleanly(data):
            _check_jpeg(data, image.height, repaired)
        if png.has_late_metadata(chunks):
            image.load()  # Else Pillow knows of no orientation that stands behind the pixels.
        if header is not None:
            recode.scale_transparency(image, header.bits)
        work = _work(image, data, kind, header, config)
        found = inspection.left_behind(image, data, chunks)
        if work.turned or work.converted or work.resized:
            _check_target(work, config)
            bits = header.bits if header is not None else 8
            made = _made(image, work, config, bits, lambda: _opened(data, kind, chunks, config))
        else:
            made = _as_it_is(image, data, kind, config)
    done = (bool(repaired), work.turned, work.converted, work.resized, made.stripped)
    return Prepared(
        data=made.data,
        type=work.stored,
        source_type=source_type,
        height=made.size[1],
        width=made.size[0],
        changes=tuple(name for name, applies in zip(CHANGES, done) if applies),
        repaired=repaired,
        findings=tuple(name for name in findings.FINDINGS if name in found + made.findings),
        levels=made.levels,
    )


def _opened(data: bytes, kind: str, chunks: list[png.Chunk], config: ImageConfig) -> Image.Image:
    """Opens an image whose size passes, and a PNG without the chunks for which Pillow refuses it."""
    is_animated = any(kind == b"acTL" for kind, _ in chunks)  # Pillow insists on frames that nobody needs.
    candidates = [png.without_extras(chunks, orientation=True) if is_animated else data]
    for candidate in candidates:
        try:
            return formats.opened(candidate, kind, lambda size: _check_pixels(size, config, kind))
        except (BadImage, formats.UnreadError):
            raise
        except Exception:
            if not chunks or len(candidates) > 2:
                raise
            candidates.append(png.without_extras(chunks, orientation=len(candidates) == 1))
    raise AssertionError("unreachable: the last candidate is opened or raises")


def _check_jpeg(data: bytes, height: int, repaired: str) -> None:
    """Checks a JPEG with which libjpeg is not content: some of what it warns of is harmless.

    Raises:
        OSError: It does not decode, and so not in TensorFlow.
        BadImage: Pixels are missing.
    """
    lost = jpeg.lost_share(data, details=True)
    if not repaired and repair.is_cut(lost, height):
        raise BadImage(f"damaged image: the JPEG's coded data end early, for {lost:.1%} of its pixels they are missing")


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


def _as_it_is(image: Image.Image, data: bytes, kind: str, config: ImageConfig) -> _Made:
    kept = _kept(data, kind, config)
    has_position = not config.strip_metadata and inspection.has_position(image)
    return _Made(data=kept, size=image.size, findings=["gps"] * has_position, stripped=kept is not data)


def _kept(data: bytes, kind: str, config: ImageConfig) -> bytes:
    return strip.stripped(data, kind) if config.strip_metadata else data


def _made(image: Image.Image, work: _Work, config: ImageConfig, bits: int, reopen: Callable[[], Image.Image]) -> _Made:
    if work.resized:
        recode.draft(image, work.target if image.size == work.size else work.target[::-1], config.resize_mode)
    deep = levels.read(image, reopen, bits)
    if deep is not None:
        image = levels.reduced(deep, config.depth_range)
    image.load()
    made = recode.upright(recode.plain(image), work.orientation)
    if work.resized:
        made = recode.resized(made, work.target, config.resize_mode)
    found = {
        "deep": deep is not None,
        "transparent": not recode.is_opaque(image),
        "one_color": recode.has_one_color(made),
    }
    return _Made(
        data=recode.encoded(made, work.stored, config.quality),
        size=made.size,
        findings=[name for name, applies in found.items() if applies],
        levels=_NO_LEVELS if deep is None else deep.span() if config.depth_range else deep.span_of_16_bits(),
    )


def _stored_type(data: bytes, kind: str, config: ImageConfig) -> str:
    if config.store != "original":
        return config.store.upper()
    return "JPEG" if formats.is_lossy(data, kind) else "PNG"


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1..8; 1, upright, where there is none or it cannot be read."""
    if image.format == "TIFF" or not image.info.keys() & _METADATA:  # Pillow turns TIFFs itself.
        return 1
    try:
        orientation: Any = image.getexif().get(_EXIF_ORIENTATION)
    except Exception:  # noqa: BLE001  Whatever its parser raises on broken EXIF.
        return 1
    return int(orientation) if orientation in range(1, 9) else 1


def _check_pixels(size: tuple[int, int], config: ImageConfig, kind: str = "") -> None:
    if size[0] * size[1] > config.max_pixels:
        named = f"{formats.FORMATS[kind].name} of " if kind in _NEEDS_EXTRA else ""
        pixels = f"{size[0]:,} x {size[1]:,} pixels"
        raise BadImage(f"{named}{pixels}, more than convert's --max_pixels={config.max_pixels:,}")


def _check_target(work: _Work, config: ImageConfig) -> None:
    width, height = work.target
    most = _LONGEST_SIDE[work.stored]
    if max(width, height) > most:
        raise BadImage(f"would be stored with {width:,} x {height:,} pixels; {work.stored} can have {most:,} a side")
    if work.resized:
        _check_pixels(work.target, config)


@contextmanager
def as_bad_image(data: bytes = b"", kind: str | None = None) -> Iterator[None]:
    """Turns whatever is raised on a file that cannot be decoded into `BadImage`.

    Args:
        data: The file, if its reason shall say more than what was raised.
        kind: Its format, one of `READ_TYPES`.
    """
    with pillow.unlimited():
        try:
            yield
        except (BadImage, UserError):
            raise
        except (jpeg.RefusedJpegError, levels.UnknownRangeError, repair.TooMuchLostError, formats.UnreadError) as error:
            raise BadImage(str(error)) from error
        except (jpeg.DamagedJpegError, png.DamagedPngError) as error:
            raise BadImage(f"damaged image: {error}") from error
        except Exception as error:  # Any of Pillow's parsers and their libraries, on bytes of any origin.
            raise BadImage(formats.reason(error, data, kind)) from error
