"""Tests with unusual files: each becomes a correct record or is rejected with a correct reason."""

from __future__ import annotations

import csv
import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from image_sources import converted, image, tree
from odd_files import HEIGHT, JPEG, NAMES, ODD, ORIENTATION, WIDTH, Odd, chunk, encoded, smooth, translucent, turned
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from tfrecord_tools.images.preparation import BadImage, ImageConfig, Prepared, prepare
from tfrecord_tools.records import open_dataset

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60), np.uint8))
WEBP = ODD["lossless webp"].data
PROGRESSIVE = encoded(smooth(), "JPEG", progressive=True)
REPAIR = ImageConfig(on_bad_image="repair")


def pixels(data: bytes) -> np.ndarray:
    """Decode to u8[h w 3] with TensorFlow."""
    return tf.io.decode_image(data, channels=3, expand_animations=False).numpy()


def decodes(data: bytes) -> bool:
    try:
        return pixels(data).size > 0
    except tf.errors.InvalidArgumentError:
        return False


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_at_least_sixty_kinds_of_files_are_tested() -> None:
    assert len({odd.data for odd in ODD.values()}) + len(NAMES) >= 60


@pytest.mark.parametrize(
    "odd", [odd for odd in ODD.values() if odd.stored], ids=[n for n, o in ODD.items() if o.stored]
)
def test_odd_image_becomes_a_record(odd: Odd) -> None:
    prepared = prepare(odd.data)
    assert (prepared.type, ",".join(prepared.changes)) == (odd.stored, odd.changes)
    assert (prepared.data == odd.data) == (not odd.changes)
    assert pixels(prepared.data).shape == (prepared.height, prepared.width, 3)


@pytest.mark.parametrize("name", [name for name, odd in ODD.items() if odd.reason])
def test_bad_file_is_rejected_with_its_reason(name: str) -> None:
    with pytest.raises(BadImage) as caught:
        prepare(ODD[name].data)
    assert str(caught.value).startswith(ODD[name].reason)
    assert "0x" not in str(caught.value)  # Pillow's messages contain addresses, which differ between runs.
    if "60,000 x 60,000" not in name:  # TensorFlow would try to allocate the pixels.
        assert not decodes(ODD[name].data)


def test_all_kinds_of_files_in_one_directory(tmp_path: Path) -> None:
    """Files, names and links of all kinds are converted together: none is lost or stops the conversion."""
    source = tree(tmp_path / "odd", {"train/fine": 3})
    folder = source / "train" / "odd"
    for number, odd in enumerate(ODD.values()):
        (folder / "kinds").mkdir(parents=True, exist_ok=True)
        (folder / "kinds" / f"{number:03d}.jpg").write_bytes(odd.data)  # All names end with .jpg.
    for name in NAMES:
        (folder / "names" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "names" / name).write_bytes(JPEG)
    (folder / "links").mkdir()
    (folder / "links/dangling.jpg").symlink_to("nowhere")
    (folder / "links/loop.jpg").symlink_to("loop.jpg")
    (folder / "links/up").symlink_to("../..")
    (folder / "links/good.jpg").symlink_to(folder / "kinds/000.jpg")
    os.mkfifo(folder / "links/pipe.jpg")
    with open(os.fsencode(folder) + b"/links/caf\xe9.jpg", "wb") as file:
        file.write(JPEG)
    (folder / "links/unreadable.jpg").write_bytes(JPEG)
    (folder / "links/unreadable.jpg").chmod(0)
    converted(source, tmp_path / "out", max_bad=1.0)
    with open(tmp_path / "out/rejected.csv", newline="", encoding="utf-8") as file:
        rejected = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    records = open_dataset(tmp_path / "out").records("train")
    stored = {records[i]["path"]: records[i]["image"] for i in range(len(records))}
    assert not stored.keys() & rejected.keys()
    for number, odd in enumerate(ODD.values()):
        path = f"train/odd/kinds/{number:03d}.jpg"
        assert (path in stored) == bool(odd.stored), path
        assert rejected.get(path, "").startswith(odd.reason)
    assert {path.removeprefix("train/odd/names/") for path in stored if "/names/" in path} == set(NAMES)
    links = {path.removeprefix("train/odd/links/"): reason for path, reason in rejected.items() if "/links/" in path}
    assert links.pop("unreadable.jpg", "cannot be read: Permission denied") == "cannot be read: Permission denied"
    assert links == {
        "dangling.jpg": "cannot be followed: No such file or directory",
        "loop.jpg": "cannot be followed: Too many levels of symbolic links",
        "up": "a link to a directory that contains this link",
        "pipe.jpg": "neither a file nor a directory",
        r"caf\xe9.jpg": "the name is not valid UTF-8: rename it",
    }
    assert "train/odd/links/good.jpg" in stored
    assert all(decodes(image) for image in stored.values())


# --- Conversions, compared with Pillow and NumPy -------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(orientation: int) -> None:
    """Other orientations of the gradient with its corner differ far more than JPEG's loss."""
    data = turned(orientation)
    expected = np.asarray(ImageOps.exif_transpose(opened(data)).convert("RGB"), np.int32)
    stored = pixels(prepare(data).data).astype(np.int32)
    assert stored.shape == expected.shape
    assert np.abs(stored - expected).mean() < 2
    assert opened(prepare(data).data).getexif().get(ORIENTATION, 1) == 1 or orientation == 1


def exif(tag: int, kind: int, *, orientation: int = 6) -> bytes:
    """Return a TIFF header with an orientation and another tag with a wrong type."""
    end = 8 + 2 + 2 * 12 + 4
    value = end if kind == 5 else 65  # A fraction does not fit into four bytes, so it follows the directory.
    entries = struct.pack("<HHII", tag, kind, 1, value) + struct.pack("<HHIHH", ORIENTATION, 3, 1, orientation, 0)
    return b"II*\0" + struct.pack("<IH", 8, 2) + entries + bytes(4) + struct.pack("<II", 72, 1)


@pytest.mark.parametrize("kind", [2, 3, 5, 11])  # Text, short, fraction, float.
@pytest.mark.parametrize("tag", [0x010F, 0x011A, 0x0132])  # Make, resolution, date.
def test_wrong_tags_next_to_the_orientation(tag: int, kind: int) -> None:
    data = encoded(smooth(), "JPEG", exif=b"Exif\0\0" + exif(tag, kind))
    assert prepare(data).changes == ("turned",)


def after_the_pixels(data: bytes, kind: bytes, content: bytes) -> bytes:
    end = data.index(b"IEND") - 4
    return data[:end] + chunk(kind, content) + data[end:]


def raw_profile(content: bytes) -> bytes:
    """Return EXIF as written by ImageMagick."""
    return b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n%8d\n%s\n" % (len(content), content.hex().encode()))


@pytest.mark.parametrize(
    "data",
    [
        after_the_pixels(encoded(smooth(), "PNG"), b"eXIf", exif(0x010F, 3)),
        encoded(smooth(), "PNG")[:33]  # After the header.
        + chunk(b"zTXt", raw_profile(b"Exif\0\0" + exif(0x010F, 3)))
        + encoded(smooth(), "PNG")[33:],
    ],
    ids=["eXIf after the pixels", "ImageMagick's"],
)
def test_orientation_of_png_at_any_position(data: bytes) -> None:
    prepared = prepare(data)
    assert prepared.changes == ("turned",)
    assert (prepared.width, prepared.height) == (HEIGHT, WIDTH)
    assert np.array_equal(pixels(prepared.data), np.rot90(pixels(encoded(smooth(), "PNG")), -1))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_resized_tiff_keeps_its_aspect_ratio(orientation: int) -> None:
    tags = ImageFileDirectory_v2()
    tags[ORIENTATION] = orientation
    tags[700] = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'></x:xmpmeta>"
    tags.tagtype[700] = 1
    data = encoded(smooth(), "TIFF", tiffinfo=tags)
    prepared = prepare(data, ImageConfig(resize=15))
    size = (HEIGHT, WIDTH) if orientation > 4 else (WIDTH, HEIGHT)
    assert (prepared.width, prepared.height) == tuple(round(side * 15 / min(size)) for side in size)


@pytest.mark.parametrize(
    ("picture", "config", "reason"),
    [
        (
            Image.new("L", (70_000, 1)),
            ImageConfig(store="jpeg"),
            "70,000 x 1 pixels; JPEG allows at most 65,500 per side",
        ),
        (
            Image.new("L", (1, 3000)),
            ImageConfig(resize=64, upscale=True, max_pixels=10**6),
            "64 x 192,000 pixels, more",
        ),
    ],
)
def test_images_that_would_become_too_large(picture: Image.Image, config: ImageConfig, reason: str) -> None:
    with pytest.raises(BadImage, match=reason):
        prepare(encoded(picture, "PNG"), config)


@pytest.mark.parametrize("marker", [0xC3, 0xC7, 0xCF])
def test_lossless_jpeg(marker: int) -> None:
    with pytest.raises(BadImage, match=r"^a lossless JPEG, which few decoders support; save it as PNG$"):
        prepare(JPEG.replace(b"\xff\xc0", bytes((0xFF, marker))))


@pytest.mark.parametrize("start", [b"%PDF-1.4 ", b"8BPS\0\1", b"ID3\3", b"\0\0\0\x18ftypheic"])
def test_a_preview_is_not_repaired_into_an_image(start: bytes) -> None:
    with pytest.raises(BadImage, match=r"not a|does not decode"):
        prepare(start + bytes(500) + JPEG + b"and what the file is about", REPAIR)


def test_repair_does_not_decode_thousands_of_scans() -> None:
    scan = PROGRESSIVE.index(b"\xff\xda")
    many = PROGRESSIVE[:-2] + PROGRESSIVE[scan:-2] * 600 + PROGRESSIVE[-2:]
    with pytest.raises(BadImage, match=r"^the JPEG has more than 500 scans$"):
        prepare(many, REPAIR)


def test_the_eight_orientations_differ() -> None:
    assert len({prepare(turned(n)).data for n in range(1, 9)}) == 8


def on_white(picture: Image.Image) -> np.ndarray:
    """Composite on white, to f64[h w 3]."""
    rgba = np.asarray(picture.convert("RGBA"), np.float64)
    alpha = rgba[:, :, 3:] / 255
    return rgba[:, :, :3] * alpha + 255 * (1 - alpha)


@pytest.mark.parametrize("name", ["alpha", "gray with alpha", "palette with transparency", "webp with alpha"])
def test_transparent_pixels_are_laid_on_white(name: str) -> None:
    stored = pixels(prepare(ODD[name].data).data)
    assert np.abs(stored - on_white(opened(ODD[name].data))).max() <= 1


def test_hidden_colors_stay_hidden() -> None:
    """Fully transparent pixels become white, independent of their color."""
    picture = smooth()
    picture.putalpha(0)
    assert (pixels(prepare(encoded(picture, "PNG")).data) == 255).all()


def test_a_color_that_means_transparent() -> None:
    red = Image.new("RGB", (4, 3), "red")
    red.putpixel((1, 1), (0, 0, 255))
    stored = pixels(prepare(encoded(red, "PNG", transparency=(255, 0, 0))).data)
    assert stored[1, 1].tolist() == [0, 0, 255]
    assert (np.delete(stored.reshape(-1, 3), 5, axis=0) == 255).all()


@pytest.mark.parametrize("name", ["16-bit gray", "16-bit color", "16-bit tiff"])
def test_the_high_byte_of_16_bits_is_kept(name: str) -> None:
    """TensorFlow decodes a PNG of 16 bits in the same way."""
    original = ODD["16-bit gray" if "tiff" in name else name].data
    deep = tf.io.decode_png(original, channels=3, dtype=tf.uint16).numpy()
    assert np.array_equal(pixels(prepare(ODD[name].data).data), (deep >> 8).astype(np.uint8))


@pytest.mark.parametrize(
    "name",
    ["gif", "animated gif", "bmp", "palette bmp", "tiff", "cmyk tiff", "lossless webp", "palette", "black and white"],
)
def test_lossless_sources_stay_lossless(name: str) -> None:
    expected = np.asarray(opened(ODD[name].data).convert("RGB"))
    assert np.array_equal(pixels(prepare(ODD[name].data).data), expected)


@pytest.mark.parametrize("name", ["cmyk with adobe marker", "cmyk without", "webp", "animated webp", "turned webp"])
def test_lossy_sources_lose_almost_nothing(name: str) -> None:
    expected = ImageOps.exif_transpose(opened(ODD[name].data)).convert("RGB")
    difference = np.abs(pixels(prepare(ODD[name].data).data).astype(int) - np.asarray(expected, int))
    assert difference.mean() < 2


def test_cmyk_colors_are_not_inverted() -> None:
    """Adobe's JPEGs store inverted values, so the picture could become a negative."""
    stored = pixels(prepare(ODD["cmyk with adobe marker"].data).data).astype(int)
    assert np.abs(stored - np.asarray(smooth(), int)).mean() < 6


# --- Repair --------------------------------------------------------------------------------------------------------

LARGE = image(1, size=(160, 120))


@pytest.mark.parametrize(
    ("data", "defects"),
    [
        (JPEG[:-2], "no end marker"),  # No row is lost.
        (JPEG[:-1], "no end marker"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + JPEG, "19 bytes before the JPEG"),
        (b"junk" + JPEG[:-2], "4 bytes before the JPEG and no end marker"),
        (LARGE[: len(LARGE) * 85 // 100], "no end marker, the last "),
        (ODD["cut gif"].data, "its image data ends early, the last "),
        (encoded(NOISE, "GIF", interlace=0)[:-20], "its image data ends early"),  # Cut within the last row.
        (
            WEBP[:16] + (len(WEBP) - 24).to_bytes(4, "little") + WEBP[20:],
            "its chunks are damaged",
        ),  # The size is 4 bytes too small.
    ],
)
def test_repair(data: bytes, defects: str) -> None:
    prepared = prepare(data, REPAIR)
    assert prepared.repaired.startswith(defects)
    assert prepared.changes[0] == "repaired"
    assert decodes(prepared.data)


def test_repaired_jpeg_keeps_the_pixels_that_are_not_lost() -> None:
    whole, cut = pixels(LARGE), pixels(prepare(LARGE[: len(LARGE) * 85 // 100], REPAIR).data)
    assert np.array_equal(whole[:80], cut[:80])
    assert not np.array_equal(whole[80:], cut[80:])
    assert np.array_equal(pixels(prepare(JPEG[:-2], REPAIR).data), pixels(JPEG))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (LARGE[: len(LARGE) * 40 // 100], "the last "),  # More than half of the rows are lost.
        (JPEG[:300], "damaged image"),  # All rows are lost.
        (b"<html>", "not an image"),
        (encoded(NOISE, "GIF", interlace=1)[:-20], "damaged image"),  # Rows are missing everywhere.
        (WEBP[:-1], "damaged image"),  # With corrected sizes it would decode, but to wrong pixels.
        (ODD["cut png"].data, "damaged image"),  # The checksums show the damage.
        (b"", "empty file"),
    ],
)
def test_files_that_cannot_be_repaired(data: bytes, reason: str) -> None:
    with pytest.raises(BadImage, match=f"^{reason}"):
        prepare(data, REPAIR)


def test_repair_does_not_decode_images_that_are_too_large() -> None:
    large = bytearray(ODD["gif"].data)
    large[6:10] = b"\xff\xff\xff\xff"  # 65,535 x 65,535: Pillow would allocate 4 GB.
    with pytest.raises(BadImage, match=r"^65,535 x 65,535 pixels, more than convert's --max_pixels=178,956,970$"):
        prepare(bytes(large), REPAIR)
    with pytest.raises(BadImage, match=r"^160 x 120 pixels, more than convert's --max_pixels=100$"):
        prepare(LARGE[:-2], ImageConfig(on_bad_image="repair", max_pixels=100))


def test_repair_does_not_change_valid_images() -> None:
    for odd in ODD.values():
        if odd.stored:
            assert prepare(odd.data, REPAIR) == prepare(odd.data)


# --- Store and resize ----------------------------------------------------------------------------------------------


def prepared_with(data: bytes = JPEG, **settings: Any) -> Prepared:
    return prepare(data, ImageConfig(**settings))


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"resize": 15}, (20, 15)),  # The shorter side, by default.
        ({"resize": 20, "resize_mode": "longer"}, (20, 15)),
        ({"resize": 10, "resize_mode": "exact"}, (10, 10)),
        ({"resize": 10, "resize_mode": "center_crop"}, (10, 10)),
        ({"resize": 300}, (WIDTH, HEIGHT)),  # Images are not enlarged ...
        ({"resize": 300, "resize_mode": "longer"}, (WIDTH, HEIGHT)),
        ({"resize": 300, "resize_mode": "exact"}, (HEIGHT, HEIGHT)),
        ({"resize": 35, "resize_mode": "exact"}, (HEIGHT, HEIGHT)),  # ... in any direction ...
        ({"resize": 60, "upscale": True}, (80, 60)),  # ... unless `upscale` is set.
        ({"resize": 50, "resize_mode": "exact", "upscale": True}, (50, 50)),
        ({"resize": 1}, (1, 1)),
    ],
)
def test_resize(settings: dict[str, Any], size: tuple[int, int]) -> None:
    prepared = prepared_with(**settings)
    assert (prepared.width, prepared.height) == size
    assert pixels(prepared.data).shape == (size[1], size[0], 3)
    assert ("resized" in prepared.changes) == (size != (WIDTH, HEIGHT))


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("mode", ["shorter", "longer", "exact", "center_crop"])
@pytest.mark.parametrize("side", [300, 64, 20])
def test_shrinking_is_antialiased(orientation: int, mode: str, side: int) -> None:
    """The result is close to Pillow's resampling, even if the JPEG is decoded at a smaller scale."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = encoded(smooth(800, 600), "JPEG", quality=95, exif=exif)
    upright = ImageOps.exif_transpose(opened(data))
    short = min(upright.size)
    left, top = ((length - short) // 2 for length in upright.size)
    box = (left, top, left + short, top + short) if mode == "center_crop" else None
    reference = max(upright.size) if mode == "longer" else short
    width, height = (round(length * side / reference) for length in upright.size)
    size = (side, side) if mode in ("exact", "center_crop") else (width, height)
    expected = np.asarray(upright.resize(size, Image.Resampling.LANCZOS, box=box), int)
    stored = pixels(prepared_with(data, resize=side, resize_mode=mode, store="png").data).astype(int)
    assert stored.shape == expected.shape
    assert np.abs(stored - expected).mean() < 2


def test_fine_stripes_become_gray() -> None:
    """Using every eighth pixel would make them black or white."""
    stripes = Image.fromarray(np.tile(np.array([0, 255], np.uint8), (64, 32)))
    small = pixels(prepared_with(encoded(stripes, "PNG"), resize=8, store="png").data)
    assert np.abs(small.astype(int) - 127).max() < 12


@pytest.mark.parametrize(
    ("data", "store", "changes"),
    [
        (JPEG, "original", ()),
        (JPEG, "jpeg", ()),  # The file is a JPEG already.
        (JPEG, "png", ("converted",)),
        (ODD["png named jpg"].data, "jpeg", ("converted",)),
        (ODD["png named jpg"].data, "png", ()),
        (ODD["bmp"].data, "jpeg", ("converted",)),
    ],
)
def test_store(data: bytes, store: str, changes: tuple[str, ...]) -> None:
    prepared = prepared_with(data, store=store)
    assert prepared.changes == changes
    assert prepared.type == ("JPEG" if store == "original" else store.upper())
    assert opened(prepared.data).format == prepared.type


def test_raw_stores_the_pixels() -> None:
    prepared = prepared_with(ODD["png named jpg"].data, store="raw", resize=HEIGHT, resize_mode="center_crop")
    left = (WIDTH - HEIGHT) // 2
    expected = np.asarray(smooth())[:, left : left + HEIGHT]
    assert np.array_equal(np.frombuffer(prepared.data, np.uint8).reshape(HEIGHT, HEIGHT, 3), expected)
    assert prepared.type == "RAW"


def test_quality_changes_the_size_of_jpegs() -> None:
    sizes = [len(prepared_with(translucent_png(), store="jpeg", quality=quality).data) for quality in (10, 50, 95)]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 3


def translucent_png() -> bytes:
    return encoded(translucent(), "PNG")


@pytest.mark.parametrize(
    ("damage", "full", "header"),
    [
        (
            JPEG.replace(b"\xff\xc4\x00\x1f\x00", b"\xff\xc4\x00\x1f\x00\xff"),
            False,
            True,
        ),  # Damage in the coding tables.
        (JPEG[:-2], False, False),  # The end marker is always checked.
        (JPEG[:100], False, False),
        (ODD["flipped png"].data, False, False),  # Checksums are always verified.
    ],
)
def test_header_verification_finds_less_damage(damage: bytes, full: bool, header: bool) -> None:
    for verify, passes in (("full", full), ("header", header)):
        try:
            prepare(damage, ImageConfig(verify=verify))
        except BadImage:
            assert not passes
        else:
            assert passes


def test_max_pixels() -> None:
    assert prepared_with(max_pixels=WIDTH * HEIGHT).type == "JPEG"
    with pytest.raises(BadImage, match=r"^40 x 30 pixels, more than convert's --max_pixels=1,199$"):
        prepared_with(max_pixels=WIDTH * HEIGHT - 1)
    large = encoded(Image.new("L", (20_000, 10_000)), "JPEG")  # Above Pillow's own limit.
    assert prepared_with(large, max_pixels=200_000_000, verify="header").width == 20_000
