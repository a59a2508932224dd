"""Tests of the removal of metadata: place and author are gone, everything else stays byte for byte."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import pytest
from image_sources import contents, converted, image
from odd_files import chunk, encoded, smooth, translucent, turned
from PIL import Image

from tfrecord_tools.images import inspection, jpeg
from tfrecord_tools.images.preparation import ImageConfig, Prepared, prepare
from tfrecord_tools.images.strip import stripped

XMP = b"<x:xmpmeta><rdf:Description exif:GPSLatitude='37,1N' exif:GPSLongitude='5,2E'/></x:xmpmeta>"
PLACE = b"Reykjavik"  # In every kind of metadata.
KEPT = b"a comment of the user"
PROFILE = b"ICC profile"


def exif(orientation: int = 1) -> bytes:
    """Return EXIF with a GPS position."""
    data = Image.Exif()
    data[0x0112] = orientation
    data[0x010E] = PLACE.decode()
    position = data.get_ifd(0x8825)
    position[1], position[2] = "N", (64.0, 8.0, 0.0)
    position[3], position[4] = "W", (21.0, 56.0, 0.0)
    return data.tobytes()


def segment(code: int, content: bytes) -> bytes:
    return bytes([0xFF, code]) + (len(content) + 2).to_bytes(2, "big") + content


def with_segments(*segments: bytes, at: int = 2, **save: object) -> bytes:
    data = encoded(smooth(), "JPEG", **{"quality": 90, "icc_profile": PROFILE, "comment": KEPT} | save)
    return data[:at] + b"".join(segments) + data[at:]


def png_with(*chunks: bytes, after_pixels: bytes = b"") -> bytes:
    data = encoded(smooth(), "PNG", icc_profile=PROFILE)
    end = len(data) - 12
    return data[:33] + b"".join(chunks) + data[33:end] + after_pixels + data[end:]


def text(keyword: bytes, kind: bytes = b"tEXt") -> bytes:
    if kind == b"zTXt":
        return chunk(kind, keyword + b"\0\0" + zlib.compress(PLACE))
    return chunk(kind, keyword + (b"\0\0\0\0\0" if kind == b"iTXt" else b"\0") + PLACE)


EXIF = segment(0xE1, exif())
JPEGS = {
    "exif": with_segments(EXIF),
    "xmp": with_segments(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP + PLACE)),
    "extended xmp": with_segments(segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + bytes(40) + PLACE)),
    "iptc": with_segments(segment(0xED, b"Photoshop 3.0\x008BIM" + PLACE)),
    "all of it": with_segments(
        EXIF, segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP), segment(0xED, b"Photoshop 3.0\0" + PLACE)
    ),
    "fill bytes": with_segments(b"\xff\xff" + EXIF),
    "progressive": with_segments(EXIF, progressive=True),
    "after the frame": with_segments(EXIF, at=with_segments().index(b"\xff\xda")),
    "video after the end": with_segments() + b"\0\0\0\x18ftypmp42" + PLACE,
    "second picture": with_segments(segment(0xE2, b"MPF\0" + PLACE)) + with_segments(EXIF),
    "gray": encoded(smooth().convert("L"), "JPEG", exif=exif(), icc_profile=PROFILE, comment=KEPT),
}  # fmt: skip
PNGS = {
    "exif": png_with(chunk(b"eXIf", exif()[6:])),
    "exif after the pixels": png_with(after_pixels=chunk(b"eXIf", exif()[6:])),
    "xmp": png_with(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP + PLACE)),
    "raw profile": png_with(
        text(b"Raw profile type exif"), text(b"Raw profile type xmp", b"zTXt"), text(b"raw profile type iptc")
    ),
    "after the end": png_with() + PLACE,
}  # fmt: skip


def pixels(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as picture:
        return picture.tobytes()


def clean(data: bytes) -> Prepared:
    prepared = prepare(data, ImageConfig(strip_metadata=True))
    assert not inspection.has_position(Image.open(io.BytesIO(prepared.data)))
    assert "gps" not in prepared.findings
    return prepared


@pytest.mark.parametrize("data", [*JPEGS.values(), *PNGS.values()], ids=[*JPEGS, *(f"png {name}" for name in PNGS)])
def test_metadata_is_gone_and_the_rest_stays(data: bytes) -> None:
    prepared = clean(data)
    assert prepared.changes == ("stripped",)
    assert len(prepared.data) < len(data)
    assert PLACE not in prepared.data
    assert b"GPS" not in prepared.data
    assert pixels(prepared.data) == pixels(data)
    with Image.open(io.BytesIO(prepared.data)) as picture:
        assert picture.info["icc_profile"] == PROFILE
        assert picture.info.get("comment", KEPT) == KEPT
        assert not picture.getexif()
    again = clean(prepared.data)
    assert (again.changes, again.data) == ((), prepared.data)  # Without metadata, nothing changes.


@pytest.mark.parametrize("name", JPEGS)
def test_image_data_is_the_same(name: str) -> None:
    data, stripped_data = JPEGS[name], clean(JPEGS[name]).data
    end = jpeg.check_markers(data)
    assert stripped_data.endswith(data[data.rindex(b"\xff\xda", 0, end) : end])


@pytest.mark.parametrize(
    "data",
    [
        image(1),
        image(1, "PNG"),
        encoded(smooth(), "JPEG", icc_profile=PROFILE, comment=KEPT),
        encoded(smooth(), "PNG", icc_profile=PROFILE, dpi=(72, 72)),
        with_segments(segment(0xE1, b"FLIR\0" + bytes(9))),  # Another maker's segment of the same marker.
        with_segments() + b"\0\0\n",  # Padding.
        png_with(text(b"Comment"), text(b"Title", b"iTXt")),
        encoded(smooth().quantize(16), "PNG"),
    ],
)
def test_files_without_metadata_stay_byte_for_byte(data: bytes) -> None:
    prepared = clean(data)
    assert (prepared.data, prepared.changes) == (data, ())
    assert stripped(data, prepared.type) is data


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_orientation_is_applied_first(kind: str) -> None:
    data = encoded(smooth(), kind, exif=exif(6), **({"quality": 95} if kind == "JPEG" else {}))
    prepared = clean(data)
    assert prepared.changes == ("turned",)  # Encoded again, without metadata.
    assert prepared == prepare(turned(6, kind), ImageConfig(strip_metadata=True))


def test_encoded_images_never_have_metadata() -> None:
    for data in (encoded(translucent(), "PNG", exif=exif()), encoded(smooth(), "WEBP", exif=exif())):
        assert prepare(data) == clean(data)
        assert PLACE not in prepare(data).data


def test_positions_are_counted_and_removed(tmp_path: Path) -> None:
    files = {
        "cats/exif.jpg": with_segments(EXIF),
        "cats/xmp.jpg": JPEGS["xmp"],
        "cats/exif.png": PNGS["exif"],
        "cats/turned.jpg": encoded(smooth(), "JPEG", exif=exif(8)),  # The record does not have EXIF any more.
        "cats/time.jpg": encoded(smooth(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"),
        "dogs/broken.jpg": with_segments(segment(0xE1, exif()[:40])),
        **{f"dogs/{number}.jpg": image(number) for number in range(4)},
    }
    for name, data in files.items():
        (tmp_path / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "src" / name).write_bytes(data)
    facts = converted(tmp_path / "src", tmp_path / "out")
    note = next(note for note in facts["notes"] if note["kind"] == "gps")
    assert note["text"] == "3 of 10 images carry GPS positions"
    assert note["advice"] == "--strip_metadata removes EXIF and XMP without changing pixels"
    assert sorted(note["examples"]) == ["cats/exif.jpg", "cats/exif.png", "cats/xmp.jpg"]
    without = converted(tmp_path / "src", tmp_path / "without", strip_metadata=True)
    assert without["config"]["strip_metadata"] is True
    assert [note for note in without["notes"] if note["kind"] == "gps"] == []
    assert without["images"]["changes"]["stripped"] == 5
    assert not any(PLACE in data for name, data in contents(tmp_path / "without").items() if ".tfrecord-" in name)
