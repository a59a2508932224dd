"""Tests of findings: detected in each kind of file, counted in notes, listed in changed.csv."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_sources import contents, converted, image, run
from odd_files import HEIGHT, ODD, WIDTH, animated, encoded, smooth
from PIL import Image, TiffImagePlugin, features
from tiff_files import tiff

from tfrecord_tools import verify
from tfrecord_tools.convert import ConvertConfig, convert
from tfrecord_tools.images.preparation import prepare
from tfrecord_tools.layout import dataset_files, findings
from tfrecord_tools.verify import VerifyConfig


def pages(*pictures: Image.Image, kind: str = "TIFF", **save: Any) -> bytes:
    return encoded(pictures[0], kind, save_all=True, append_images=pictures[1:], **save)


def with_preview() -> bytes:
    """Return a TIFF with a small version of the first page as second page."""
    stream = io.BytesIO()
    with TiffImagePlugin.AppendingTiffWriter(stream, True) as writer:
        for picture, reduced in ((smooth(), 0), (smooth().resize((8, 6)), 1)):
            picture.save(writer, "TIFF", tiffinfo={254: reduced})
            writer.newFrame()
    return stream.getvalue()


def deep(highest: int) -> bytes:
    values = np.linspace(0, highest, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH).astype(np.uint16)
    return encoded(Image.fromarray(values), "PNG")


def logo(mode: str = "RGBA") -> Image.Image:
    """Return a white square on a transparent background."""
    picture = Image.new(mode[:-1], (WIDTH, HEIGHT), "white")
    alpha = Image.new("L", (WIDTH, HEIGHT), 0)
    alpha.paste(255, (5, 5, 20, 20))
    picture.putalpha(alpha)
    return picture


COLORS = np.asarray(smooth())
BANDS = np.concatenate([COLORS, COLORS[:, :, :1] // 2], axis=2)
CUT_PAGE = pages(smooth(), smooth().rotate(90))[:-40]
CASES = [
    ("plain jpeg", ODD["plain"].data, ""),
    ("plain png", image(1, "PNG"), ""),
    ("opaque alpha", ODD["opaque alpha"].data, ""),
    ("16 bits", deep(65535), "deep"),
    ("alpha", ODD["alpha"].data, "transparent"),
    ("palette", ODD["palette with transparency"].data, "transparent"),
    ("gray alpha", ODD["gray with alpha"].data, "transparent"),
    ("webp alpha", ODD["webp with alpha"].data, "transparent"),
    ("white on transparent", encoded(logo(), "PNG"), "transparent,one_color"),
    ("gray and white on transparent", encoded(logo("LA"), "PNG"), "transparent,one_color"),
    ("webp of white on transparent", encoded(logo(), "WEBP", lossless=True), "transparent,one_color"),
    ("gif of one color", encoded(Image.new("P", (9, 9)), "GIF"), "one_color"),
    ("16 bits with empty high bytes", deep(255), "deep,one_color"),
    ("tiff of four bands", tiff(BANDS, extra=0), "bands"),
    ("tiff of gray and another band", tiff(BANDS[:, :, 2:], extra=0), "bands"),
    ("tiff of gray and alpha", tiff(BANDS[:, :, 2:], extra=2), "transparent"),
    ("tiff with a fourth band that is marked as alpha", tiff(BANDS, extra=2), "transparent"),
    ("tiff of three bands", tiff(COLORS), ""),
    ("tiff of pages", pages(smooth(), smooth(), smooth()), "pages"),
    ("tiff with a preview", with_preview(), ""),
    ("tiff with a cut second page", CUT_PAGE, "pages"),
    ("animated gif", animated("GIF"), "pages"),
    ("gif", ODD["gif"].data, ""),
    ("animated webp", animated("WEBP"), "pages"),
    ("animated png", animated("PNG"), "pages"),  # Stored unchanged. Readers see the first picture.
    ("mpo", pages(smooth(), smooth().rotate(180), kind="MPO"), "pages"),
]
if features.check("avif"):
    CASES.append(("avif sequence", pages(smooth(), smooth().rotate(180), kind="AVIF"), "pages"))


@pytest.mark.parametrize(("data", "names"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_findings_of_each_kind_of_file(data: bytes, names: str) -> None:
    assert ",".join(prepare(data).findings) == names


def test_names_and_bits() -> None:
    for names in ([], ["deep"], ["bands", "gps"], list(findings.FINDINGS)):
        assert findings.names(findings.bits(names)) == ",".join(names)
    assert findings.lost(["bands", "gps", "one_color"]) == "further bands dropped; became a single color"


def source(root: Path, files: dict[str, bytes]) -> Path:
    plain = {f"{name}/{number}.jpg": image(f"{name}{number}") for name in ("cats", "dogs") for number in range(5)}
    for path, data in (plain | files).items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return root


MIXED = {
    "cats/deep.png": deep(4095),
    "dogs/deep.png": deep(1000),
    "cats/bands.tif": tiff(BANDS, extra=0),
    "cats/pages.tif": pages(smooth(), smooth()),
    "dogs/placeholder.gif": ODD["gif"].data,
    "dogs/logo.png": encoded(logo(), "PNG"),
    "cats/turned.jpg": ODD["orientation 6"].data,
    "cats/frames.png": animated("PNG"),
}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("findings")
    converted(source(root / "src", MIXED), root / "out")
    return root / "out"


def test_changed_csv_lists_every_changed_record(mixed: Path) -> None:
    with open(mixed / "changed.csv", newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["path", "found", "stored", "changes", "lost"]
    assert sorted(rows) == [
        ["cats/bands.tif", "TIFF", "PNG", "converted", "further bands dropped"],
        ["cats/deep.png", "PNG", "PNG", "converted", "levels of more than 8 bits reduced to 8 bits"],
        ["cats/pages.tif", "TIFF", "PNG", "converted", "further pages or frames dropped"],
        ["cats/turned.jpg", "JPEG", "JPEG", "turned", ""],
        ["dogs/deep.png", "PNG", "PNG", "converted", "levels of more than 8 bits reduced to 8 bits"],
        [
            "dogs/logo.png",
            "PNG",
            "PNG",
            "converted",
            "transparent pixels placed on a white background; became a single color",
        ],
        ["dogs/placeholder.gif", "GIF", "PNG", "converted", ""],
    ]


def text_of(page: Path) -> str:
    """Return the HTML of a page without the marks that only say where a line may break."""
    return re.sub("<wbr>|</?span>", "", page.read_text("utf-8"))


def test_notes_are_the_same_everywhere(mixed: Path, tmp_path: Path) -> None:
    notes = dataset_files.read(mixed)["notes"]
    assert [(note["kind"], note["level"], note["images"], note["text"]) for note in notes] == [
        (
            "near_duplicates", "check", 0,
            "4 images look like another image (4 with different labels), such as cats/bands.tif, dogs/placeholder.gif",
        ),
        (
            "narrow", "check", 2,
            "2 images have 16-bit gray levels but use only the levels 0 to 4,095 (6% of all levels), so the records"
            " look nearly black",
        ),
        (
            "bands", "check", 1,
            "1 image has more bands (channels) than an RGB or gray image; the additional bands are left out",
        ),
        ("pages", "note", 2, "2 images have several pages or frames; only the first one is used"),
        ("transparent", "check", 1, "1 image has transparent pixels (alpha), which are placed on a white background"),
        ("one_color", "check", 1, "1 image is a single color after the conversion, so there is nothing left to learn"),
    ]  # fmt: skip
    assert notes[0]["advice"] == "Look at the pictures in card.html and correct the labels that are wrong"
    assert notes[1]["advice"] == "pass --depth_range=0,4095 or --depth_range=auto"
    assert sorted(notes[1]["examples"]) == ["cats/deep.png", "dogs/deep.png"]
    assert dataset_files.read(mixed)["images"]["findings"] == {
        "deep": 2, "bands": 1, "pages": 2, "transparent": 1, "one_color": 1, "gps": 0,
    }  # fmt: skip
    done = run("tfrecord_tools.convert", f"--src={mixed.parent / 'src'}", f"--out={tmp_path / 'out'}", "--workers=1")
    lines = done.stdout.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("  note: "))
    assert lines[first - 2].split()[0] == "shards"  # Notes follow the class table.
    assert lines[first - 1].startswith("  check: 4 images look like another image (4 with different labels), such as ")
    assert lines[first] == (
        "  note: 2 images have 16-bit gray levels but use only the levels 0 to 4,095 (6% of all levels), so the records"
        " look nearly black. Pass --depth_range=0,4095 or --depth_range=auto"
    )
    assert sum(line.startswith("  note: ") for line in lines) == len(notes) - 1
    assert "0 skipped (rejected.csv), 7 changed (changed.csv); card.html" in lines[-1]
    page = text_of(mixed / "card.html")
    for note in notes[1:]:
        assert note["text"] in page
        assert all(f'title="{path}"' in page for path in note["examples"])
    assert "4 images with different labels look alike" in page
    assert "<code>--depth_range=0,4095</code> or <code>--depth_range=auto</code>" in page


def test_levels_that_use_the_whole_range_are_only_a_note(tmp_path: Path) -> None:
    facts = converted(source(tmp_path / "src", {"cats/deep.png": deep(60_000)}), tmp_path / "out")
    assert [(note["kind"], note["level"], note["text"]) for note in facts["notes"]] == [
        ("deep", "note", "1 image has 16-bit levels, and only the upper 8 bits of each level are kept")
    ]


def test_an_update_keeps_the_findings_of_old_records(mixed: Path, tmp_path: Path) -> None:
    src = source(tmp_path / "src", MIXED)
    converted(src, tmp_path / "out")
    (src / "cats/new.png").write_bytes(deep(50))
    facts = converted(src, tmp_path / "out", update=True)
    assert facts["images"]["findings"] == dataset_files.read(mixed)["images"]["findings"] | {"deep": 3, "one_color": 2}
    assert len((tmp_path / "out/changed.csv").read_text().splitlines()) == 1 + 8
    assert verify.verify(VerifyConfig(directory=str(tmp_path / "out"), workers=1), log=lambda line: None) == []


DIFFERS = "the files or changes differ from those in records.parquet"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda text: text.replace("GIF", "BMP"), f"changed.csv: {DIFFERS}"),
        (lambda text: "\n".join(text.splitlines()[:-1]), f"changed.csv: {DIFFERS}"),
        (lambda text: text + "a,b,c,d,e\n", f"changed.csv: {DIFFERS}"),
        (None, "changed.csv: cannot be read: No such file or directory"),
    ],
)
def test_verify_compares_changed_csv_with_the_index(mixed: Path, tmp_path: Path, change: Any, problem: str) -> None:
    for name, data in contents(mixed).items():
        (tmp_path / name).write_bytes(data)
    path = tmp_path / "changed.csv"
    if change is None:
        path.unlink()
    else:
        path.write_text(change(path.read_text()))
    config = VerifyConfig(directory=str(tmp_path), decode=False, workers=1)
    assert verify.verify(config, log=lambda line: None) == [problem]


def test_conflicts_are_shown_side_by_side_even_if_they_are_dropped(tmp_path: Path) -> None:
    same = image("same")
    src = source(tmp_path / "src", {"cats/same.jpg": same, "dogs/same.jpg": same, "dogs/again.jpg": same})
    keep = (
        "The network is trained on contradictory labels. --duplicates=drop keeps one of the equal files, or none if"
        " their labels differ"
    )
    drop = (
        "--duplicates=drop left out all equal files with different labels. Delete the files that are in the wrong class"
    )
    for duplicates, where, advice in (("keep", ("train", "validation"), keep), ("drop", ("left out",), drop)):
        out = tmp_path / duplicates
        facts = converted(src, out, duplicates=duplicates)
        assert (facts["duplicates"]["conflicts"], facts["duplicates"]["files"]) == (3, 3)
        page = text_of(out / "card.html")
        figures = page.partition('<ul class="pairs">')[2].partition("</ul>")[0].split("<figure>")[1:]
        shown = [("cats", "cats/same.jpg"), ("dogs", "dogs/again.jpg"), ("dogs", "dogs/same.jpg")]
        assert len(figures) == len(shown)
        for figure, (name, path) in zip(figures, shown):
            assert figure.startswith('<img src="data:image/jpeg;base64,')
            assert f'<strong class="name">{name}</strong>' in figure
            assert f"<code>{path}</code>" in figure
            assert any(f"<small>{split}</small>" in figure for split in where)
        files = [note for note in facts["notes"] if note["kind"] == "duplicates"]
        assert [note["text"] for note in files] == [
            "3 files have the same bytes as another file (3 with different labels), such as cats/same.jpg,"
            " dogs/again.jpg"
        ]
        assert [note["advice"] for note in files] == [advice]
        lines: list[str] = []
        convert(ConvertConfig(src=str(src), out=f"{out}2", workers=1, duplicates=duplicates), log=lines.append)
        heading = {"keep": "problem", "drop": "check"}[duplicates]
        named = [line for line in lines if line.startswith(("  problem:", "  check:")) and "labels" in line]
        assert named == [f"  {heading}: {files[0]['text']}. {advice}"]
        assert json.loads((out / "convert.json").read_text())["notes"] == facts["notes"]
