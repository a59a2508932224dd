"""Tests of formats: supported ones become records, others are named, and cut JPEGs are recognized."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import wave
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pillow_jxl
import pytest
import tensorflow as tf
from odd_files import JPEG, ORIENTATION, PNG_START, chunk, encoded, smooth, translucent, turned
from PIL import Image, features

from tfrecord_tools.images import formats, jpeg, jxl, tiff
from tfrecord_tools.images.preparation import BadImage, ImageConfig, prepare
from tfrecord_tools.layout import schema

REPAIR = ImageConfig(on_bad_image="repair")


def pixels(data: bytes) -> np.ndarray:
    """Decode to u8[h w 3] with TensorFlow."""
    return tf.io.decode_image(data, channels=3, expand_animations=False).numpy()


def rgb(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("RGB"))


def heic(picture: Image.Image, **save: Any) -> bytes:
    stream = io.BytesIO()
    pillow_heif.from_pillow(picture).save(stream, **save)
    return stream.getvalue()


def packed(data: bytes) -> bytes:
    """Return a JPEG XL with a JPEG packed into it without losses."""
    with Image.open(io.BytesIO(data)) as opened:
        encoder = pillow_jxl.Encoder(
            mode="RGB", lossless=True, quality=100, decoding_speed=0, effort=3, use_container=True,
            use_original_profile=False, num_threads=0,
        )  # fmt: skip
        return encoder(data, opened.width, opened.height, jpeg_encode=True)


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags.tobytes()


DEEP = Image.fromarray((np.arange(40 * 30, dtype=np.uint32).reshape(30, 40) * 54).astype(np.uint16))
GRAY, UPRIGHT = smooth().convert("L"), smooth().rotate(-90, expand=True)
OTHERS = [Image.new("RGB", (40, 30))]
DOTS = Image.fromarray(np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8))
LOSSLESS: dict[str, Any] = {"lossless": True, "use_original_profile": True}
RECORDS: dict[str, tuple[bytes, str, Image.Image | None]] = {  # File, stored type, and the picture if it is known.
    "avif": (encoded(smooth(), "AVIF"), "JPEG", smooth()),
    "avif with alpha": (encoded(translucent(), "AVIF"), "JPEG", None),
    "avif turned": (encoded(smooth(), "AVIF", exif=exif(6)), "JPEG", UPRIGHT),
    "avif animated": (encoded(smooth(), "AVIF", save_all=True, append_images=OTHERS), "JPEG", smooth()),
    "jpeg 2000 lossless": (encoded(smooth(), "JPEG2000"), "PNG", smooth()),
    "jpeg 2000 codestream": (encoded(smooth(), "JPEG2000", no_jp2=True), "PNG", smooth()),
    "jpeg 2000 lossy": (encoded(smooth(), "JPEG2000", irreversible=True, quality_layers=[3]), "JPEG", smooth()),
    "jpeg 2000 16 bits": (encoded(DEEP, "JPEG2000"), "PNG", None),
    "ppm": (encoded(smooth(), "PPM"), "PNG", smooth()),
    "pgm": (encoded(GRAY, "PPM"), "PNG", GRAY),
    "pgm 16 bits": (encoded(DEEP, "PPM"), "PNG", Image.fromarray((np.asarray(DEEP) >> 8).astype(np.uint8))),
    "pbm": (encoded(smooth().convert("1"), "PPM"), "PNG", smooth().convert("1")),
    "pnm as text": (b"P3 # a comment\n2 1\n255\n255 0 0 0 0 255\n", "PNG", DOTS),
    "heic": (heic(smooth(), quality=95), "JPEG", smooth()),
    "heic turned": (
        heic(smooth(), quality=95, exif=exif(6)),
        "JPEG",
        UPRIGHT,
    ),  # Turned only once, by the file's boxes.
    "jpeg xl": (encoded(smooth(), "JXL", quality=95), "JPEG", smooth()),
    "jpeg xl with exif": (encoded(smooth(), "JXL", quality=95, exif=exif(6)), "JPEG", smooth()),  # EXIF does not count.
    "jpeg xl gray": (encoded(GRAY, "JXL", quality=95), "JPEG", GRAY),
    "jpeg xl with alpha": (encoded(translucent(), "JXL", **LOSSLESS), "PNG", None),
    "jpeg xl lossless": (encoded(smooth(), "JXL", **LOSSLESS), "PNG", smooth()),
}


@pytest.mark.parametrize("name", RECORDS)
def test_other_formats_become_records(name: str) -> None:
    data, kind, picture = RECORDS[name]
    prepared = prepare(data)
    assert (prepared.type, prepared.changes[-1]) == (kind, "converted")
    stored = pixels(prepared.data)
    assert stored.shape == (prepared.height, prepared.width, 3)
    assert prepare(data) == prepared  # Same bytes every time.
    if picture is not None:
        assert np.abs(stored.astype(int) - rgb(picture)).mean() < (4 if kind == "JPEG" else 0.01)
    else:
        assert stored.std() > 10


def test_a_jpeg_packed_into_jpeg_xl_is_restored_byte_for_byte() -> None:
    prepared = prepare(packed(JPEG))
    assert (prepared.data, prepared.source_type, prepared.changes) == (JPEG, "JXL", ("converted",))
    upright = prepare(packed(turned(6)))
    assert upright.changes == ("turned", "converted")
    assert (upright.width, upright.height) == (30, 40)
    assert upright.data == prepare(turned(6)).data


@pytest.mark.parametrize("name", ["avif", "jpeg 2000 lossless", "ppm", "heic", "jpeg xl", "jpeg xl lossless"])
def test_size_is_checked_before_pixels_are_decoded(name: str) -> None:
    with pytest.raises(BadImage, match=r"40 x 30 pixels, more than convert's --max_pixels=1,000$"):
        prepare(RECORDS[name][0], ImageConfig(max_pixels=1000))


def test_a_small_file_with_a_huge_size_in_its_header() -> None:
    """A decoder would allocate 400 GB for a size of 30 bits."""
    bits = 0 | 3 << 1 | 299_999 << 3 | 0 << 33 | 3 << 36 | 299_999 << 38
    data = jxl.CODESTREAM + bits.to_bytes(16, "little")
    assert jxl.read_header(data).size == (300_000, 300_000)
    with pytest.raises(BadImage, match=r"^a JPEG XL image of 300,000 x 300,000 pixels, more than"):
        prepare(data)


@pytest.mark.parametrize(
    ("data", "module", "extra"),
    [
        (RECORDS["heic"][0], "pillow_heif", "heif"),
        (RECORDS["jpeg xl"][0], "pillow_jxl", "jxl"),
        (packed(JPEG), "pillow_jxl", "jxl"),
    ],
)
def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, data: bytes, module: str, extra: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # As if it were not installed.
    with pytest.raises(
        BadImage, match=rf"^an? (HEIC or HEIF|JPEG XL) image\. .*pip install 'tfrecord-tools\[{extra}\]'"
    ):
        prepare(data)
    assert prepare(JPEG).data == JPEG


@pytest.mark.parametrize(("name", "feature"), [("avif", "avif"), ("jpeg 2000 lossless", "jpg_2000")])
def test_a_build_of_pillow_without_a_decoder(monkeypatch: pytest.MonkeyPatch, name: str, feature: str) -> None:
    check = features.check
    monkeypatch.setattr(features, "check", lambda asked: asked != feature and check(asked))
    with pytest.raises(
        BadImage,
        match=r"^an? (AVIF|JPEG 2000) image, which this build of Pillow does not read\. Install another build: pip",
    ):
        prepare(RECORDS[name][0])


def test_readers_of_extras_are_not_imported_for_other_images() -> None:
    code = (
        "import sys; from tfrecord_tools.images.preparation import prepare; prepare(open(0, 'rb').read());"
        "print({'pillow_heif', 'pillow_jxl', 'tensorflow'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], input=JPEG, capture_output=True, check=True)
    assert run.stdout.strip() == b"set()"


# Names ---------------------------------------------------------------------------------------------------------------


def wav(middle: bytes) -> bytes:
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(2000) + middle + bytes(3000))
    return stream.getvalue()


def zipped(name: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, JPEG)
    return stream.getvalue()


def directory(
    *, bits: int = 8, samples: int = 1, photometric: int = 1, form: int = 1, compression: int = 1, **more: int
) -> bytes:
    """Return a TIFF of 8 x 8 pixels with these tags."""
    tags = {
        256: 8,
        257: 8,
        258: bits,
        259: compression,
        262: photometric,
        273: 8,
        277: samples,
        278: 8,
        279: 64 * samples,
    }
    tags |= {339: form} | {int(tag[1:]): value for tag, value in more.items()}
    start = 8 + 64 * samples * max(1, bits // 8)
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, tags[tag]) for tag in sorted(tags))
    return struct.pack("<2sHI", b"II", 42, start) + bytes(start - 8) + struct.pack("<H", len(tags)) + entries + bytes(4)


def sof(marker: int, bits: int = 8, components: int = 3) -> bytes:
    """Return `JPEG` with another frame header."""
    at = JPEG.index(b"\xff\xc0")
    data = bytearray(JPEG)
    data[at + 1], data[at + 4], data[at + 9] = marker, bits, components
    return bytes(data)


FOREIGN: dict[bytes, str] = {
    bytes(128) + b"DICM" + bytes(50): "a DICOM file",
    b"8BPS\0\1" + bytes(50): "a Photoshop document",
    b"\0\0\1\0\1\0\x10\x10\0\0": "a Windows icon",
    b"qoif" + bytes(20): "a QOI image",
    b"#define x_width 16\n#define x_height 7\nstatic char x_bits[] = {": "an XBM image",
    b"II*\0\x10\0\0\0CR\2\0" + bytes(40): "a raw photograph",
    b"FUJIFILMCCD-RAW 0201": "a raw photograph",
    directory(t50706=1): "a raw photograph",  # DNG.
    directory(photometric=32803): "a raw photograph",
    b"\0\0\0\x18ftypcrx \0\0\0\1": "a raw photograph",
    b"%PDF-1.7 ...": "not an image (starts with b'%PDF-1.7 ...'); a PDF document",
    b"%!PS-Adobe-3.0 EPSF": "not an image (starts with b'%!PS-Adobe-3.0 E'); a PostScript",
    b"<html>404": "not an image (starts with b'<html>404'); an HTML page",
    b"\xef\xbb\xbf\n<!DOCTYPE HTML>": "an HTML page",
    b"<?xml version='1.0'?>\n<svg/>": "an SVG drawing",
    b'{"a": 1}': "a JSON file",
    b"#include <stdio.h>\n#define W 3\n": "a text file",  # Not an XBM image.
    "Stra\xdfe\n".encode() * 200: "a text file",
    b"x" * 1023 + "ß".encode(): "a text file",  # The inspected bytes end within a letter.
    b"version https://git-lfs.github.com/spec/v1\noid": "a Git LFS pointer",
    wav(b""): "a WAV recording",
    b"ID3\3\0": "an MP3 recording",
    b"OggS\0\2": "an Ogg recording",
    b"\0\0\0\x18ftypisom\0\0\2\0": "a video (MP4",
    b"\0\0\0\x14ftypqt  \0\0\2\0": "a video (MP4",
    b"\x1a\x45\xdf\xa3\1": "a Matroska or WebM video",
    zipped("a.txt"): "a ZIP archive: unpack it first",
    zipped("word/document.xml"): "an Office document",
    zipped("arr_0.npy"): "an archive of NumPy arrays",
    b"\x1f\x8b\x08" + bytes(20): "a gzip archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    bytes(257) + b"ustar" + bytes(250): "a tar archive",
    b"\x93NUMPY\1\0": "a NumPy array",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file",
    b"PAR1" + bytes(9): "a Parquet file",
    schema.frame(b"x" * 30): "a TFRecord file",
    b"MZ\x90\0": "a program",
    bytes(5000): "it holds only zeros",
    encoded(smooth(), "TGA"): "a TGA image",
    b"\x8f\x11\x93": "JPEG, PNG, GIF, BMP, WebP, TIFF, AVIF, JPEG 2000 and PNM are read",
    sof(0xC1, bits=12): "a JPEG with 12 bits per sample",
    sof(0xC0, components=2): "a JPEG with 2 components",
    sof(0xF7): "a JPEG-LS image",
    sof(0xC3): "a lossless JPEG",
    directory(bits=64, form=3): "the file does not say which of its floating-point values is black ",
    directory(bits=16, form=2, samples=5): "a TIFF with 5 bands and 16-bit signed pixels",
    directory(samples=5, photometric=5): "a TIFF with 5 bands (CMYK and others)",
    directory(compression=50001): "a TIFF with WebP compression",
    directory(bits=14): "a TIFF with 14-bit pixels",
    encoded(smooth(), "BMP").replace(b"\x18\0\0\0\0\0", b"\x18\0\x09\0\0\0", 1): "a BMP of an unsupported kind",
    jxl.CODESTREAM + b"\x08\x08" + bytes(40): "JPEG XL",
    heic(smooth())[:400]: "an HEIC or HEIF image that does not decode",
    encoded(smooth(), "AVIF")[:-200]: "an AVIF image that does not decode",
}


@pytest.mark.parametrize("data", FOREIGN, ids=[f"{n}-{name[:30]}" for n, name in enumerate(FOREIGN.values())])
@pytest.mark.parametrize("mode", ["skip", "repair"])
def test_unsupported_files_are_named(data: bytes, mode: str) -> None:
    with pytest.raises(BadImage) as caught:
        prepare(data, ImageConfig(on_bad_image=mode))
    assert FOREIGN[data] in str(caught.value)
    assert " at 0x" not in str(caught.value)  # The address of an object.
    assert not any(f" a {vowel}" in f" {caught.value}" for vowel in ("AVIF", "HEIC", "ICO", "MP3", "SVG", "XBM"))


def damaged_before_pixels() -> bytes:
    """Return a PNG with a valid header and a wrong checksum before its pixels."""
    valid = encoded(smooth(), "PNG", dpi=(72, 72))
    at = valid.index(b"pHYs")
    return valid[: at + 5] + bytes([valid[at + 5] ^ 1]) + valid[at + 6 :]


def test_a_bad_checksum_before_the_pixels_is_named() -> None:
    with pytest.raises(BadImage, match=r"^damaged image: wrong checksum of the PNG chunk b'pHYs' at byte 33$"):
        prepare(damaged_before_pixels())


def with_chunk(kind: bytes, content: bytes) -> bytes:
    valid = encoded(smooth(), "PNG")
    return valid[:33] + chunk(kind, content) + valid[33:]


@pytest.mark.parametrize(
    "data",
    [
        with_chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(3 << 20))),
        with_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(3 << 20))),
        with_chunk(b"zTXt", b"Comment\0\7" + zlib.compress(b"x")),  # Unknown compression.
        with_chunk(b"sRGB", b""),  # Too short.
        with_chunk(b"acTL", struct.pack(">II", 2, 0)),  # The frames are missing.
    ],
)
def test_chunks_without_pixels_do_not_make_a_png_bad(data: bytes) -> None:
    prepared = prepare(data)
    assert prepared.data == data
    assert np.array_equal(pixels(data), rgb(smooth()))
    assert prepare(data, ImageConfig(resize=16)).height == 16


def test_an_orientation_next_to_a_large_profile_is_used() -> None:
    plain = turned(6, "PNG")
    data = plain[:33] + chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(3 << 20))) + plain[33:]
    assert prepare(data).changes == ("turned",)
    assert np.array_equal(pixels(prepare(data).data), pixels(prepare(plain).data))


@pytest.mark.parametrize(
    "data",
    [
        encoded(smooth(), "TIFF", icc_profile=b"x" * (2 << 20)),
        encoded(smooth(), "BMP"),
        encoded(Image.merge("LAB", smooth().split()), "TIFF"),
        encoded(translucent(), "PNG", icc_profile=b"x" * 5000),
    ],
)
def test_encoded_pngs_have_no_color_profile(data: bytes) -> None:
    stored = prepare(data).data
    assert stored.startswith(PNG_START)
    assert b"iCCP" not in stored
    with Image.open(io.BytesIO(stored)) as opened:
        assert opened.mode == "RGB"


# Repair --------------------------------------------------------------------------------------------------------------

CLAIMED = [
    b"8BPS\0\1", b"BLP1", b"%PDF-1.4 ", b"ID3\3", b"II\x1a\0\0\0HEAPCCDR", b"FUJIFILMCCD-RAW", b"\0\0\0\x18ftypisom",
    b"\0\0\0\x18ftypM4A ", b"RIFF\0\0\1\0AVI ", b"\x1a\x45\xdf\xa3", b"PK\3\4", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
    b"fLaC", b"gimp xcf v011\0", b"SQLite format 3\0", b"\0\5\x16\7", b"FLV\1", b"\x93NUMPY\1\0",
    schema.frame(JPEG)[:12],
]  # fmt: skip


@pytest.mark.parametrize("start", CLAIMED)
@pytest.mark.parametrize("end", [b"", b"and what the file is about"])
def test_a_jpeg_within_another_format_is_not_used(start: bytes, end: bytes) -> None:
    with pytest.raises(BadImage, match=r"not an image|not a supported format"):
        prepare(start + bytes(300) + JPEG + end, REPAIR)


JUNK = [
    bytes(300),
    b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\n",
    b"<br />\n<b>Warning</b>: in line 3<br />\n",  # Output of a script that should send only the image.
    b"\x8f\x11\x93\xaa",
    JPEG[-200:-2],
]


@pytest.mark.parametrize("junk", JUNK)
def test_junk_before_a_jpeg_is_removed(junk: bytes) -> None:
    prepared = prepare(junk + JPEG, REPAIR)
    assert (prepared.data, prepared.changes) == (JPEG, ("repaired",))
    assert prepared.repaired == f"{len(junk):,} bytes before the JPEG"


@pytest.mark.parametrize("start", [b"\xff\xd8\xff\xc3", b"\xff\xd8\xff\xe0", b"\xff\xd8\xff\xdb\0\x43"])
def test_bytes_that_look_like_a_jpeg(start: bytes) -> None:
    data = b"\x8f\x11\x93" + bytes(500) + start + bytes(500)
    with pytest.raises(BadImage, match=r"^not an image"):
        prepare(data, REPAIR)


# JPEGs with missing data ---------------------------------------------------------------------------------------------

LARGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)).resize((320, 240))
KINDS: dict[str, bytes] = {
    "baseline": encoded(LARGE, "JPEG"),
    "progressive": encoded(LARGE, "JPEG", progressive=True),
    "restarts": encoded(LARGE, "JPEG", restart_marker_blocks=4),
    "progressive restarts": encoded(LARGE, "JPEG", progressive=True, restart_marker_rows=1),
    "gray": encoded(LARGE.convert("L"), "JPEG"),
    "cmyk": encoded(LARGE.convert("CMYK"), "JPEG"),
    "odd size": encoded(LARGE.crop((0, 0, 301, 217)), "JPEG", restart_marker_blocks=3),
    "turned": encoded(LARGE, "JPEG", exif=exif(6)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("percent", [20, 45, 70, 90])
@pytest.mark.parametrize("config", [ImageConfig(), ImageConfig(resize=100)], ids=["plain", "resized"])
def test_a_cut_jpeg_with_an_end_marker_is_rejected(kind: str, percent: int, config: ImageConfig) -> None:
    whole = KINDS[kind]
    data = whole[: len(whole) * percent // 100] + jpeg.END
    with pytest.raises(
        BadImage, match=r"^damaged image: the JPEG's image data ends early, \d+\.\d% of its pixels are missing"
    ):
        prepare(data, config)


@pytest.mark.parametrize("kind", ["baseline", "restarts", "gray", "cmyk"])
def test_a_jpeg_is_repaired_only_if_half_of_it_is_left(kind: str) -> None:
    whole = KINDS[kind]
    prepared = prepare(whole[: len(whole) * 70 // 100] + jpeg.END, REPAIR)
    assert prepared.repaired.startswith("its image data ends early, the last ")
    assert prepared.changes[0] == "repaired"
    with pytest.raises(BadImage, match=r"^the last \d+% of its rows are lost, too many to repair it$"):
        prepare(whole[: len(whole) * 40 // 100] + jpeg.END, REPAIR)


def test_lost_restart_intervals_are_detected() -> None:
    whole = KINDS["restarts"]
    first, last = (whole.index(bytes((0xFF, code))) for code in (0xD1, 0xD5))
    with pytest.raises(BadImage, match="image data ends early"):
        prepare(whole[:first] + whole[last:])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("junk", [bytes(40), b"\0" * 70_000, b"\xff" * 9, b"\x12\x34"])
def test_junk_before_the_end_marker_is_harmless(kind: str, junk: bytes) -> None:
    """libjpeg warns, but no pixel is missing."""
    data = KINDS[kind][:-2] + junk + jpeg.END
    prepared = prepare(data)
    assert kind in ("cmyk", "turned") or prepared.data == data  # These two are encoded again.
    assert np.array_equal(pixels(prepared.data), pixels(prepare(KINDS[kind]).data))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "marker", [b"\xff\xd8", b"\xff\xdf\0\2", b"\xff\2", b"\xff\xc0\0\x0b\x08\0\x10\0\x10\1\1\x11\0"]
)
@pytest.mark.parametrize("zeros", [0, 70_000, 200_000])
def test_markers_that_tensorflow_cannot_decode(kind: str, marker: bytes, zeros: int) -> None:
    """Pillow reads 64 KiB at once and does not see what follows."""
    data = KINDS[kind][:-2] + bytes(zeros) + marker + jpeg.END
    for mode in ("skip", "repair"):
        try:
            prepared = prepare(data, ImageConfig(on_bad_image=mode))
        except BadImage:
            continue
        assert pixels(prepared.data).shape[-1] == 3


# TIFF ----------------------------------------------------------------------------------------------------------------


def test_libtiff_prints_nothing(tmp_path: Path) -> None:
    """libtiff's messages do not name the file. They are part of the reason instead."""
    whole = encoded(smooth(), "TIFF", compression="tiff_lzw")
    at = whole.index(struct.pack("<HH", 278, 4)) if struct.pack("<HH", 278, 4) in whole else 0
    broken = whole[:8] + bytes(100) + whole[108:] if at == 0 else whole[:8] + b"\xff" * 60 + whole[68:]
    (tmp_path / "a.tif").write_bytes(broken)
    code = (
        "import sys; from tfrecord_tools.images import preparation\n"
        "for data in (open(sys.argv[1], 'rb').read(), bytes.fromhex(sys.argv[2])):\n"
        "    try: preparation.prepare(data)\n"
        "    except preparation.BadImage as error: print(error)\n"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path / "a.tif"), directory(samples=300).hex()]
    run = subprocess.run(arguments, capture_output=True, text=True, check=True, env={**os.environ})
    assert run.stderr == ""
    assert len(run.stdout.splitlines()) == 2


def test_premultiplied_alpha() -> None:
    data = directory(samples=2, t338=1)
    assert prepare(data).type == "PNG"


def test_directories_with_wrong_offsets() -> None:
    for offset in (0, 1, 8, 2**31, 2**32 - 1):
        data = struct.pack("<2sHI", b"II", 42, offset) + bytes(50)
        assert not tiff.is_raw(data)
    big = struct.pack("<2sHHHQ", b"II", 43, 8, 0, 2**64 - 1) + bytes(50)
    assert tiff.read_directory(big) == {}


# All files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [RecursionError("deep"), MemoryError(), RuntimeError("a at 0x7f0000"), KeyError(3)])
def test_every_exception_of_a_parser_is_a_bad_image(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*arguments: Any, **options: Any) -> Any:
        raise error

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(BadImage) as caught:
        prepare(encoded(smooth(), "GIF"))
    assert " at 0x" not in str(caught.value)  # The address of an object.


def test_each_format_is_detected_by_its_content() -> None:
    assert {formats.detect(data) for data, *_ in RECORDS.values()} == {"AVIF", "JPEG2000", "PPM", "HEIF", "JXL"}
    assert formats.detect(b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf") == "AVIF"
    assert formats.detect(b"\0\0\0\x1cftypmif1\0\0\0\0mif1heic") == "HEIF"
    assert formats.detect(b"\0\0\0\x1cftypisom\0\0\0\0isommp42") is None
    assert formats.detect(b"P6x") is None
