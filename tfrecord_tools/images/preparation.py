"""Verify an image file and return the bytes of its record, converted only where necessary.

| file | stored (`--store=original`) |
|---|---|
| JPEG, gray or color | unchanged |
| JPEG in CMYK | RGB, JPEG |
| image with an EXIF orientation | rotated upright and encoded again |
| PNG of up to 8 bits, gray, RGB or palette, opaque | unchanged |
| PNG with transparent pixels | drawn on white, PNG |
| PNG and TIFF of 16 bits | the high byte of each value, or mapped by `depth_range`, PNG |
| TIFF with 32-bit or floating-point levels | mapped by `depth_range`, PNG |
| several pictures (GIF, animated PNG or WebP, TIFF with pages) | the first one, stored as the row of its format says |
| GIF, BMP, TIFF, PNM | PNG |
| WebP, AVIF, HEIC, JPEG 2000, JPEG XL | JPEG; PNG if the file is lossless |
| JPEG XL with an original JPEG inside | that JPEG, byte for byte |
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image

from tfrecord_tools.errors import UserError
from tfrecord_tools.images import appearance, formats, inspection, jpeg, levels, pillow, png, recode, repair, strip
from tfrecord_tools.images.appearance import Thumbnail
from tfrecord_tools.layout import findings

MAX_IMAGE_BYTES = 1 << 30  # 1 GiB. A record is a protobuf, which must be smaller than 2 GiB.
READ_TYPES = tuple(formats.FORMATS)
STORES = ("original", "jpeg", "png", "raw")
VERIFY = ("full", "header")
ON_BAD_IMAGE = ("skip", "repair", "fail")
CHANGES = ("repaired", "turned", "converted", "resized", "stripped")
_EXIF_ORIENTATION = 0x0112
_SIDEWAYS = range(5, 9)  # Orientations that swap width and height.
_METADATA = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"}  # Pillow searches these for an orientation.
_LONGEST_SIDE = {"JPEG": 65_500, "PNG": 1_000_000, "RAW": 1_000_000}  # Limits of libjpeg and libpng.
_NEEDS_EXTRA = {kind for kind, form in formats.FORMATS.items() if form.extra}
_NO_LEVELS = (0.0, 0.0)
_SIZES_ALLOWED = range(1, 65_501)  # libjpeg's limit.


class BadImage(Exception):
    """A file that cannot be stored as a record. The message is printed after `path: `."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """How images are verified and stored.

    Attributes:
        on_bad_image: "skip": list bad files in rejected.csv. "repair": also repair files where possible (see `repair`)
            and list them. "fail": stop at the first bad file.
        verify: "full": decode every image. "header": for images that are stored unchanged, check only the header and
            the end of the file.
        max_pixels: Images with more pixels are rejected before they are decoded.
        store: "original": keep the bytes of JPEG and PNG files. "jpeg", "png": store all images as JPEG or PNG. "raw":
            store pixels.
        resize: New length of one side in pixels, 1..65,500; `resize_mode` says which side. None: keep the size.
        resize_mode: See `recode.target_size`.
        upscale: Whether images smaller than `resize` are enlarged.
        quality: Quality of JPEGs that are encoded, 1..100.
        depth_range: For PNGs and TIFFs with more than 8 bits. "LO,HI": the pixel value that becomes black and the one
            that becomes white. "auto": the lowest and highest value of each image. None: 16-bit images keep their high
            byte. Signed, 32-bit and floating-point images are rejected, because it is not known which values mean black
            and white. See `levels.reduced`.
        strip_metadata: Whether EXIF, XMP and IPTC are removed from JPEG and PNG. See `strip.stripped`.
    """

    on_bad_image: str = "skip"
    verify: str = "full"
    max_pixels: int = 178_956_970  # Pillow's own limit: 2 * 1 GiB / 4 / 3.
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
                raise UserError(f"--{name}={getattr(self, name)}: must be one of {', '.join(values)}.")
        if self.resize is not None and self.resize not in _SIZES_ALLOWED:
            raise UserError(f"--resize={self.resize}: must be a length of 1 to 65,500 pixels.")
        if not 1 <= self.quality <= 100:
            raise UserError(f"--quality={self.quality}: must be from 1 to 100.")
        if self.max_pixels < 1:
            raise UserError(f"--max_pixels={self.max_pixels}: must be at least 1.")
        if self.store == "raw" and (self.resize is None or self.resize_mode not in ("exact", "center_crop")):
            raise UserError(
                "--store=raw: all images must have the same size."
                " Add --resize=N with --resize_mode=exact or center_crop."
            )
        if self.depth_range is not None:
            object.__setattr__(self, "depth_range", _normalized_range(self.depth_range))

    def image_settings(self) -> dict[str, Any]:
        """Return the settings that the stored bytes depend on."""
        settings = {field.name: getattr(self, field.name) for field in dataclasses.fields(ImageConfig)}
        settings["repair"] = settings.pop("on_bad_image") == "repair"
        del settings["verify"]
        return settings


def _normalized_range(text: str) -> str:
    try:
        return levels.normalized_range(text)
    except ValueError as error:
        raise UserError(
            f"--depth_range={text}: must be LO,HI or auto. LO becomes black, HI becomes white. LO must be smaller than"
            " HI. With auto, they are the lowest and highest pixel value of each image. Example: --depth_range=0,4095."
        ) from error


def config_of(config: ImageConfig) -> ImageConfig:
    """Return a plain `ImageConfig`. Worker processes cannot import a subclass that `__main__` defines."""
    return ImageConfig(**{field.name: getattr(config, field.name) for field in dataclasses.fields(ImageConfig)})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """An image as it is stored.

    Attributes:
        data: Stored bytes.
        type: Type of the stored bytes: JPEG, PNG or RAW.
        source_type: Type of the file, one of `READ_TYPES`.
        height: Height of the stored image in pixels.
        width: Width of the stored image in pixels.
        changes: Changes to the file, from `CHANGES` and in that order. Empty: the bytes of the file are stored.
        repaired: Defects that were repaired. "": none.
        findings: Traits that the user should know, such as GPS positions: keys of `findings.FINDINGS`, in its order.
        levels: Lowest and highest pixel value of an image with more than 8 bits; (0, 0) for others. Without
            `depth_range`, both are scaled to 0..65,535.
        thumbnail: Small gray version of the stored image, see `appearance`. None: it was not requested, or the image
            was not decoded.
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
    thumbnail: Thumbnail | None = None


def prepare(data: bytes, config: ImageConfig = ImageConfig(), *, look: bool = False) -> Prepared:
    """Verify an image, and convert it for storage. Equal bytes and configs give equal results.

    A JPEG that is stored unchanged is decoded at 1/8 scale. This reads all stored data but skips most of the
    computation, so it is fast and still finds damage. For a PNG, all pixels are decompressed and all checksums are
    verified. JPEG has no checksums. A truncated JPEG may still have an end marker. Then it decodes, and the missing
    part is gray; see `jpeg.lost_share`.

    Args:
        data: Bytes of the file.
        config: How to verify and store it.
        look: Whether to make a thumbnail of the stored image, from which `appearance` computes brightness, hash and
            more. No thumbnail is made with `verify="header"`.

    Raises:
        BadImage: The file is not an image, not of a supported type, damaged, or too large.
    """
    if not data:
        raise BadImage("empty file")
    if len(data) > MAX_IMAGE_BYTES:
        raise BadImage(f"the file is larger than {MAX_IMAGE_BYTES:,} bytes, the limit of one record")
    source_type = formats.detect(data)
    with as_bad_image(data, source_type):
        if source_type == "JPEG" and (plain := _prepare_plain(data, config, look)):
            return plain
        if source_type is None:
            return _prepare_embedded_jpeg(data, config, look)
        repaired = ""
        if config.on_bad_image == "repair":
            data, repaired = repair.repaired(data, source_type, lambda size: _check_pixels(size, config))
        if source_type == "JXL" and (
            original := formats.reconstructed_jpeg(data, lambda size: _check_pixels(size, config, "JXL"))
        ):
            prepared = _prepare(original, "JPEG", source_type, "", config, look)
            changes = tuple(name for name in CHANGES if name == "converted" or name in prepared.changes)
            return dataclasses.replace(prepared, changes=changes)
        return _prepare(data, formats.detect(data) or source_type, source_type, repaired, config, look)


def _prepare_embedded_jpeg(data: bytes, config: ImageConfig, look: bool) -> Prepared:
    """Repair a file with junk before a JPEG, if repairs are enabled and no other format is recognized."""
    if config.on_bad_image == "repair" and not formats.is_claimed(data):
        embedded, defects = jpeg.repair(data)
        if defects:
            try:
                embedded, defects = repair.repaired(data, None, lambda size: _check_pixels(size, config))
                with as_bad_image(embedded, "JPEG"):
                    return _prepare(embedded, "JPEG", "JPEG", defects, config, look)
            except repair.TooMuchLostError:
                raise
            except (OSError, SyntaxError, BadImage):
                pass  # The bytes only look like the start of a JPEG.
    raise BadImage(formats.name(data))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Steps:
    """The steps from an opened image to the stored one. Sizes are (width, height) in pixels."""

    stored: str
    orientation: int  # EXIF orientation, 1..8.
    converted: bool
    size: tuple[int, int]  # Size of the upright image.
    target: tuple[int, int]

    @property
    def turned(self) -> bool:
        return self.orientation != 1

    @property
    def resized(self) -> bool:
        return self.target != self.size


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Stored:
    """The stored image. `size` is (width, height) in pixels."""

    data: bytes
    size: tuple[int, int]
    findings: list[str]
    levels: tuple[float, float] = _NO_LEVELS
    stripped: bool = False
    thumbnail: Thumbnail | None = None


def _prepare(data: bytes, kind: str, source_type: str, repaired: str, config: ImageConfig, look: bool) -> Prepared:
    look = look and config.verify == "full"
    header, chunks, small = None, [], None
    if kind == "JPEG":
        jpeg.check_markers(data)
    elif kind == "PNG":  # Checked before Pillow opens it, because Pillow's error does not name the chunk.
        header = png.read_header(data)
        _check_pixels((header.width, header.height), config)
        chunks = list(png.iterate_chunks(data))
        if config.verify == "full":
            png.check(chunks, header)
    with _opened(data, kind, chunks, config) as image:
        if kind == "JPEG" and config.verify == "full" and (small := jpeg.decoded_small(data)) is None:
            _check_jpeg(data, image.height, repaired)
            small = jpeg.decoded_small(data, strict=False) if look else None
        if png.has_late_metadata(chunks):
            image.load()  # Makes Pillow also read an orientation that is stored after the pixels.
        if header is not None:
            recode.scale_transparency(image, header.bits)
        steps = _steps(image, data, kind, header, config)
        left_behind = inspection.left_behind(image, data, chunks)
        if steps.turned or steps.converted or steps.resized:
            _check_target(steps, config)
            bits = header.bits if header is not None else 8
            stored = _converted(image, steps, config, bits, lambda: _opened(data, kind, chunks, config), look)
        else:
            stored = _unchanged(image, data, kind, config, small, look)
    changes = (bool(repaired), steps.turned, steps.converted, steps.resized, stored.stripped)
    return Prepared(
        data=stored.data,
        type=steps.stored,
        source_type=source_type,
        height=stored.size[1],
        width=stored.size[0],
        changes=tuple(name for name, applies in zip(CHANGES, changes) if applies),
        repaired=repaired,
        findings=tuple(name for name in findings.FINDINGS if name in left_behind + stored.findings),
        levels=stored.levels,
        thumbnail=stored.thumbnail,
    )


def _opened(data: bytes, kind: str, chunks: list[png.Chunk], config: ImageConfig) -> Image.Image:
    """Open an image; if Pillow rejects a PNG, try again without the chunks that its pixels do not need."""
    is_animated = any(kind == b"acTL" for kind, _ in chunks)  # If later frames are broken, Pillow rejects the file.
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
    """Check a JPEG that libjpeg warns about, since some warnings are harmless.

    Raises:
        OSError: Neither libjpeg nor TensorFlow can decode the JPEG.
        BadImage: Pixels are missing.
    """
    lost = jpeg.lost_share(data, details=True)
    if not repaired and repair.is_cut(lost, height):
        raise BadImage(f"damaged image: the JPEG's image data ends early, {lost:.1%} of its pixels are missing")


def _prepare_plain(data: bytes, config: ImageConfig, look: bool) -> Prepared | None:
    """Prepare a JPEG that can be stored unchanged; return None if Pillow must check it.

    Most JPEGs are verified here, in half of the time that Pillow takes.
    """
    if config.resize or config.store not in ("original", "jpeg") or (frame := jpeg.plain_frame(data)) is None:
        return None
    _check_pixels((frame.width, frame.height), config)
    small = jpeg.decoded_small(data) if config.verify == "full" else None
    if small is None and (config.verify == "full" or not jpeg.has_end(data)):
        return None
    stored = _stripped(data, "JPEG", config)
    return Prepared(
        data=stored,
        type="JPEG",
        source_type="JPEG",
        width=frame.width,
        height=frame.height,
        changes=("stripped",) * (stored is not data),
        thumbnail=appearance.of_jpeg(small, frame[:2], frame.components == 1) if look and small is not None else None,
    )


def _steps(image: Image.Image, data: bytes, kind: str, header: png.Header | None, config: ImageConfig) -> _Steps:
    stored = _stored_type(data, kind, config)
    deep = header is not None and header.bits > 8
    converted = stored != kind or image.mode == "CMYK" or deep or not recode.is_opaque(image)
    orientation = orientation_of(image)
    size = image.size[::-1] if orientation in _SIDEWAYS else image.size
    target = recode.target_size(size, config.resize, config.resize_mode, config.upscale) if config.resize else size
    return _Steps(stored=stored, orientation=orientation, converted=converted, size=size, target=target)


def _unchanged(
    image: Image.Image, data: bytes, kind: str, config: ImageConfig, small: np.ndarray | None, look: bool
) -> _Stored:
    stored = _stripped(data, kind, config)
    has_position = not config.strip_metadata and inspection.has_position(image)
    return _Stored(
        data=stored,
        size=image.size,
        findings=["gps"] * has_position,
        stripped=stored is not data,
        thumbnail=_thumbnail(image, small) if look else None,
    )


def _thumbnail(image: Image.Image, small: np.ndarray | None) -> Thumbnail | None:
    """Return the thumbnail of an image that is stored unchanged.

    Args:
        image: The opened image.
        small: The pixels of a JPEG, decoded at 1/8 scale. None: `image` is decoded."""
    if small is not None:
        return appearance.of_jpeg(small, image.size, image.mode == "L")
    try:
        return appearance.of_image(image)
    except Exception:  # noqa: BLE001  Pillow may refuse a verified file. Then the facts of `appearance` are unknown.
        return None


def _stripped(data: bytes, kind: str, config: ImageConfig) -> bytes:
    return strip.stripped(data, kind) if config.strip_metadata else data


def _converted(
    image: Image.Image, steps: _Steps, config: ImageConfig, bits: int, reopen: Callable[[], Image.Image], look: bool
) -> _Stored:
    if steps.resized:
        recode.draft(image, steps.target if image.size == steps.size else steps.target[::-1], config.resize_mode)
    deep = levels.read(image, reopen, bits)
    if deep is not None:
        image = levels.reduced(deep, config.depth_range)
    image.load()
    result = recode.upright(recode.plain(image), steps.orientation)
    if steps.resized:
        result = recode.resized(result, steps.target, config.resize_mode)
    traits = {
        "deep": deep is not None,
        "transparent": not recode.is_opaque(image),
        "one_color": recode.has_one_color(result),
    }
    return _Stored(
        data=recode.encoded(result, steps.stored, config.quality),
        size=result.size,
        findings=[name for name, applies in traits.items() if applies],
        levels=_NO_LEVELS if deep is None else deep.span() if config.depth_range else deep.span_of_16_bits(),
        thumbnail=appearance.of_image(result) if look else None,
    )


def _stored_type(data: bytes, kind: str, config: ImageConfig) -> str:
    if config.store != "original":
        return config.store.upper()
    return "JPEG" if formats.is_lossy(data, kind) else "PNG"


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation, 1..8; 1 (upright) if it is missing or cannot be read."""
    if image.format == "TIFF" or not image.info.keys() & _METADATA:  # Pillow rotates TIFFs itself.
        return 1
    try:
        orientation: Any = image.getexif().get(_EXIF_ORIENTATION)
    except Exception:  # noqa: BLE001  Pillow's parser may raise anything on broken EXIF.
        return 1
    return int(orientation) if orientation in range(1, 9) else 1


def _check_pixels(size: tuple[int, int], config: ImageConfig, kind: str = "") -> None:
    if size[0] * size[1] > config.max_pixels:
        named = f"{formats.FORMATS[kind].name} of " if kind in _NEEDS_EXTRA else ""
        pixels = f"{size[0]:,} x {size[1]:,} pixels"
        raise BadImage(f"{named}{pixels}, more than convert's --max_pixels={config.max_pixels:,}")


def _check_target(steps: _Steps, config: ImageConfig) -> None:
    width, height = steps.target
    limit = _LONGEST_SIDE[steps.stored]
    if max(width, height) > limit:
        raise BadImage(
            f"would be stored with {width:,} x {height:,} pixels; {steps.stored} allows at most {limit:,} per side"
        )
    if steps.resized:
        _check_pixels(steps.target, config)


@contextmanager
def as_bad_image(data: bytes = b"", kind: str | None = None) -> Iterator[None]:
    """Turn any exception from decoding a file into `BadImage`.

    Args:
        data: Bytes of the file, if known. They make the message more exact.
        kind: Format of the file, one of `READ_TYPES`.
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
        except Exception as error:  # Pillow's parsers and their libraries may raise anything.
            raise BadImage(formats.reason(error, data, kind)) from error
