"""Tests of `convert --near_duplicates` on drawn pictures and smaller or brighter copies of them."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_sources import contents, converted
from PIL import Image

from tfrecord_tools.conversion import survey
from tfrecord_tools.convert import ConvertConfig, convert
from tfrecord_tools.errors import UserError
from tfrecord_tools.images import appearance
from tfrecord_tools.layout import index
from tfrecord_tools.records import open_dataset
from tfrecord_tools.verify import VerifyConfig, verify

pytestmark = pytest.mark.usefixtures("no_fsync")
REPORTS = {"records.parquet", "convert.json", "card.html"}  # The files that show the look of the images.


def picture(seed: int, size: int = 64) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (10, 10, 3), np.uint8)
    return Image.fromarray(noise).resize((64, 64), Image.Resampling.BICUBIC).resize((size, size))


def save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def pets(root: Path, count: int = 40, copies: int = 20) -> Path:
    """Write `count` pictures in two classes, and smaller copies of the first `copies`."""
    for number in range(count):
        name = ("cats", "dogs")[number % 2]
        save(picture(number), root / name / f"{number:03d}.png")
        if number < copies:
            save(picture(number, 40), root / name / f"small{number:03d}.png")
    return root


def chain() -> tuple[list[Image.Image], int]:
    """Return three images and a distance at which only neighbors are near-duplicates."""
    for share in np.arange(0.02, 0.3, 0.01):
        images = [Image.blend(picture(77), picture(78), float(share) * step) for step in range(3)]
        hashes = appearance.facts_of([image_bytes(image) for image in images])["phash"]
        near, next_one, far = (int(hashes[i] ^ hashes[j]).bit_count() for i, j in ((0, 1), (1, 2), (0, 2)))
        if 0 < max(near, next_one) < far:
            return images, max(near, next_one)
    raise AssertionError("there is no such chain")


def image_bytes(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def rows(out: Path, *columns: str) -> dict[str, dict[str, Any]]:
    """Return path -> row of the index."""
    table = index.read(out / index.FILE_NAME, ["path", "split", *columns])
    return {row["path"]: row for row in table.to_pylist()}


def divided(out: Path) -> int:
    """Return the number of pictures with copies in several splits."""
    splits = defaultdict(set)
    for path, row in rows(out).items():
        splits[path.split("/")[1].removeprefix("small")].add(row["split"])
    return sum(len(found) > 1 for found in splits.values())


def is_valid(out: Path) -> bool:
    return verify(VerifyConfig(directory=str(out), decode=False, workers=1), log=lambda line: None) == []


def said(src: Path, out: Path, **settings: Any) -> list[str]:
    lines: list[str] = []
    convert(ConvertConfig(src=str(src), out=str(out), workers=1, **settings), lines.append)
    return lines


def decided(
    path: Path, src: Path, keep: Sequence[str] = (), drop: Sequence[str] = (), both: Sequence[tuple[str, str]] = ()
) -> str:
    """Write a decisions file about images of a source; return its path."""

    def hash_of(name: str) -> str:
        return hashlib.sha256((src / name).read_bytes()).hexdigest()

    lines = ["sha256,decision,twin_sha256"]
    for word, names in (("keep", keep), ("drop", drop)):
        lines += [f"{hash_of(name)},{word}," for name in names]
    lines += [f"{hash_of(one)},both,{hash_of(other)}" for one, other in both]
    path.write_text("\n".join(lines))
    return str(path)


def rejected(out: Path) -> dict[str, str]:
    """Return path -> reason of each row of rejected.csv."""
    with open(out / "rejected.csv", encoding="utf-8") as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file)}


def test_keep_reports_them(tmp_path: Path) -> None:
    lines = said(pets(tmp_path / "pets"), tmp_path / "out")
    split = divided(tmp_path / "out")
    assert split > 0
    (line,) = (line for line in lines if "look like another image" in line)
    assert line.startswith(
        f"  check: 40 images look like another image ({40 - 2 * split} within a split, {2 * split} in several splits),"
    )
    assert line.endswith(
        "--near_duplicates=group puts similar images into the same split. --near_duplicates=drop stores only the"
        " largest of them"
    )


def test_keep_gives_the_settings_of_earlier_versions(tmp_path: Path) -> None:
    facts = converted(pets(tmp_path / "pets"), tmp_path / "out", near_distance=3)
    assert facts["config"].keys().isdisjoint({"near_duplicates", "near_distance"})
    assert facts["near_duplicates"]["distance"] == 3
    assert facts["near_duplicates"]["groups"] == 20


def test_group_divides_no_pair(tmp_path: Path) -> None:
    src = pets(tmp_path / "pets")
    facts = converted(src, tmp_path / "out", near_duplicates="group", validation_fraction=0.3, test_fraction=0.2)
    assert {split: entry["records"] > 0 for split, entry in facts["splits"].items()} == dict.fromkeys(
        ("train", "validation", "test"), True
    )
    assert divided(tmp_path / "out") == 0
    assert facts["near_duplicates"]["leaks"] == 0
    assert is_valid(tmp_path / "out")
    groups = [row["group"] for row in rows(tmp_path / "out", "group").values()]
    assert sorted(np.unique(groups, return_counts=True)[1].tolist()) == [2] * 20 + [20]  # The last one: no group.


def test_group_works_with_given_groups(tmp_path: Path) -> None:
    src = pets(tmp_path / "pets")
    converted(
        src, tmp_path / "out", near_duplicates="group", group_regex=r"/(?:small)?\d\d(\d)", validation_fraction=0.4
    )
    splits = defaultdict(set)
    for path, row in rows(tmp_path / "out").items():
        splits[path[-5]].add(row["split"])
    assert len(splits) == 10
    assert all(len(found) == 1 for found in splits.values())


def test_an_update_keeps_copies_together(tmp_path: Path) -> None:
    src = pets(tmp_path / "pets", copies=0)
    converted(src, tmp_path / "out", near_duplicates="group", validation_fraction=0.4)
    before = {path: row["split"] for path, row in rows(tmp_path / "out").items()}
    pets(tmp_path / "pets", copies=30)
    converted(src, tmp_path / "out", update=True)
    assert divided(tmp_path / "out") == 0
    after = {path: row["split"] for path, row in rows(tmp_path / "out").items()}
    assert {path: after[path] for path in before} == before
    assert is_valid(tmp_path / "out")


def test_the_example_of_a_chain_is_a_pair_that_looks_alike(tmp_path: Path) -> None:
    images, distance = chain()
    src = pets(tmp_path / "pets", copies=0)
    for number, name in enumerate(("cats", "cats", "dogs")):
        save(images[number], src / name / f"light{number}.png")
    facts = converted(src, tmp_path / "out", near_distance=distance)
    (group,) = facts["near_duplicates"]["examples"]["conflicts"]
    # Picture 0 does not look like picture 2.
    assert [file["path"] for file in group] == ["cats/light1.png", "dogs/light2.png", "cats/light0.png"]
    assert facts["near_duplicates"]["sizes"]["conflicts"] == [3]


def test_an_update_joins_records_that_a_new_image_connects(tmp_path: Path) -> None:
    """A new image looks like two records of different splits, which do not look like each other."""
    src = pets(tmp_path / "pets", copies=0)
    images, distance = chain()
    found = {}
    for seed in range(20):
        out = tmp_path / f"out{seed}"
        for number in (0, 2):
            save(images[number], src / f"cats/light{number}.png")
        (src / "cats/light1.png").unlink(missing_ok=True)
        settings = {"near_duplicates": "group", "near_distance": distance, "seed": seed, "validation_fraction": 0.4}
        converted(src, out, **settings)
        found = {path: row["split"] for path, row in rows(out).items() if "light" in path}
        if len(set(found.values())) == 2:
            break
    assert len(set(found.values())) == 2
    hashes = [row["phash"] for path, row in sorted(rows(out, "phash").items()) if "light" in path]
    others = {path: row["split"] for path, row in rows(out).items() if "light" not in path}
    save(images[1], src / "cats/light1.png")
    converted(src, out, update=True)
    after = rows(out, "phash")
    middle = after["cats/light1.png"]["phash"]
    assert [(middle ^ other).bit_count() <= distance for other in hashes] == [True, True]
    # The record with the later path moves.
    assert {row["split"] for path, row in after.items() if "light" in path} == {found["cats/light0.png"]}
    assert {path: after[path]["split"] for path in others} == others
    assert is_valid(out)


def test_drop_keeps_the_largest(tmp_path: Path) -> None:
    src = pets(tmp_path / "pets")
    facts = converted(src, tmp_path / "out", near_duplicates="drop")
    assert set(rows(tmp_path / "out")) == {f"{('cats', 'dogs')[n % 2]}/{n:03d}.png" for n in range(40)}
    assert facts["files"]["dropped"] == 20
    with open(tmp_path / "out/rejected.csv", encoding="utf-8") as file:
        assert [row["done"] for row in csv.DictReader(file)] == ["dropped"] * 20
    assert rejected(tmp_path / "out")["cats/small000.png"].startswith("looks like cats/000.png (near-duplicate, ")
    assert is_valid(tmp_path / "out")


def test_drop_never_drops_an_image_that_a_decision_keeps(tmp_path: Path) -> None:
    """Small 0 displaces its original, and small 2 stays beside its original. Others are dropped."""
    src = pets(tmp_path / "pets", copies=6)
    kept = ("cats/small000.png", "cats/002.png", "cats/small002.png")
    made = decided(tmp_path / "d.csv", src, keep=kept)
    lines = said(src, tmp_path / "out", near_duplicates="drop", decisions=made)
    stored = set(rows(tmp_path / "out"))
    reasons = rejected(tmp_path / "out")
    small = {f"{('cats', 'dogs')[n % 2]}/small{n:03d}.png" for n in range(6)} - set(kept)
    assert reasons.keys() == {"cats/000.png"} | small
    assert reasons["cats/000.png"].startswith("looks like cats/small000.png (near-duplicate, ")
    assert stored == {p.relative_to(src).as_posix() for p in src.rglob("*.png")} - reasons.keys()
    assert "  note: 3 images kept by decisions" in lines
    note = "  note: 2 images look alike. --near_duplicates=drop does not drop these images, because decisions keep them"
    assert note in lines
    assert is_valid(tmp_path / "out")
    lines = said(src, tmp_path / "all", decisions=made)
    assert not any("in spite of" in line for line in lines)


def test_drop_keeps_both_of_a_pair(tmp_path: Path) -> None:
    """A pair is only kept if the source has both images, and no other decision leaves one of them out."""
    src = pets(tmp_path / "pets", copies=8)
    both = [(f"cats/00{n}.png", f"cats/small00{n}.png") for n in (0, 2, 4)]
    made = decided(tmp_path / "d.csv", src, drop=["cats/002.png"], both=[*both, ("dogs/001.png", "dogs/001.png")])
    (src / "cats/004.png").unlink()
    save(picture(4, 48), src / "cats/larger004.png")
    lines = said(src, tmp_path / "out", near_duplicates="drop", decisions=made)
    reasons = rejected(tmp_path / "out")
    assert reasons.keys() == {"cats/002.png", "cats/small004.png", "cats/small006.png"} | {
        f"dogs/small00{n}.png" for n in (1, 3, 5, 7)
    }
    facts = json.loads((tmp_path / "out/convert.json").read_text())
    assert facts["decided"] == {"relabeled": 0, "dropped": 1, "kept": 0, "unchanged": 0, "absent": 1, "pairs": 3}
    assert "  note: 3 pairs of images that look alike kept by decisions" in lines
    note = "  note: 2 images look alike. --near_duplicates=drop does not drop these images, because decisions keep them"
    assert note in lines
    assert is_valid(tmp_path / "out")
    before = contents(tmp_path / "out")
    converted(src, tmp_path / "out", update=True)  # The dataset has stored the decisions.
    assert contents(tmp_path / "out") == before


def test_both_says_nothing_about_the_labels_of_equal_files(tmp_path: Path) -> None:
    src = pets(tmp_path / "pets", copies=0)
    save(picture(0), src / "dogs/copy.png")
    made = decided(tmp_path / "d.csv", src, both=[("cats/000.png", "dogs/copy.png")])
    converted(src, tmp_path / "out", duplicates="drop", decisions=made)
    assert rejected(tmp_path / "out").keys() == {"cats/000.png", "dogs/copy.png"}


def test_group_keeps_both_of_a_pair_in_one_split(tmp_path: Path) -> None:
    src = pets(tmp_path / "pets")
    both = [
        (f"{name}/{n:03d}.png", f"{name}/small{n:03d}.png") for n in range(20) for name in [("cats", "dogs")[n % 2]]
    ]
    settings: dict[str, Any] = {"near_duplicates": "group", "validation_fraction": 0.3}
    facts = converted(src, tmp_path / "out", decisions=decided(tmp_path / "d.csv", src, both=both), **settings)
    assert divided(tmp_path / "out") == 0
    assert facts["digest"] == converted(src, tmp_path / "plain", **settings)["digest"]


def test_kept_images_that_look_alike_still_displace_others(tmp_path: Path) -> None:
    """The second kept image is near the first one. A third one that only looks like the second is dropped."""
    src = pets(tmp_path / "pets", copies=0)
    images, distance = chain()
    for number, image in enumerate(images):
        save(image, src / f"cats/chain{number}.png")
    made = decided(tmp_path / "d.csv", src, keep=["cats/chain0.png", "cats/chain1.png"])
    converted(src, tmp_path / "out", near_duplicates="drop", near_distance=distance, decisions=made)
    reasons = rejected(tmp_path / "out")
    assert list(reasons) == ["cats/chain2.png"]
    assert reasons["cats/chain2.png"].startswith("looks like cats/chain1.png ")


def test_drop_of_copies_and_kept_images(tmp_path: Path) -> None:
    """One of equal files stays. If their labels differ, the decision keep cannot say which."""
    src = pets(tmp_path / "pets", copies=0)
    for name in ("cats/copy0.png", "cats/copy1.png"):
        save(picture(0), src / name)
    save(picture(0, 40), src / "cats/small.png")
    made = decided(tmp_path / "d.csv", src, keep=["cats/copy0.png"])
    settings: dict[str, Any] = {"duplicates": "drop", "near_duplicates": "drop", "decisions": made}
    facts = converted(src, tmp_path / "out", **settings)
    assert rejected(tmp_path / "out").keys() == {"cats/copy0.png", "cats/copy1.png", "cats/small.png"}
    assert "cats/000.png" in rows(tmp_path / "out")
    assert facts["decided"]["kept"] == 3
    save(picture(0), src / "dogs/copy.png")
    with pytest.raises(UserError) as caught:
        converted(src, tmp_path / "conflict", **settings)
    assert str(caught.value).startswith(
        "--duplicates=drop: cats/000.png and dogs/copy.png have the same bytes and different labels. The decision"
        " 'keep' does not say which label is right. In the file of --decisions, write the decision 'label' and the"
        " right class for this image, or pass --duplicates=keep."
    )
    facts = converted(src, tmp_path / "keep", **settings | {"duplicates": "keep"})
    assert rejected(tmp_path / "keep").keys() == {"cats/small.png"}


@pytest.mark.parametrize(
    ("sizes", "stays"),
    [
        ({"train": 128, "validation": 96, "test": 40}, "test"),
        ({"train": 128, "validation": 40}, "validation"),
        ({"train": 128, "test": 40}, "test"),
    ],
)
@pytest.mark.parametrize("flag", ["duplicates", "near_duplicates"])
def test_drop_prefers_the_splits_that_score_a_model(
    tmp_path: Path, sizes: dict[str, int], stays: str, flag: str
) -> None:
    """Both flags have the same order. With --near_duplicates, the image in test is the smallest one."""
    src = tmp_path / "pets"
    for split in ("train", "validation", "test"):
        for number, name in enumerate(("cats", "dogs")):
            save(picture(100 + 10 * number + len(split)), src / f"{split}/{name}/0.png")
    for split, size in sizes.items():
        save(picture(0, 64 if flag == "duplicates" else size), src / f"{split}/cats/same.png")
    converted(src, tmp_path / "out", **{flag: "drop"})
    assert [path for path in rows(tmp_path / "out") if "same" in path] == [f"{stays}/cats/same.png"]


def test_an_update_keeps_records_rather_than_larger_images(tmp_path: Path) -> None:
    src = pets(tmp_path / "pets", copies=0)
    converted(src, tmp_path / "out", near_duplicates="drop")
    before = set(rows(tmp_path / "out"))
    save(picture(0, 128), src / "cats/large.png")
    converted(src, tmp_path / "out", update=True)
    assert set(rows(tmp_path / "out")) == before
    assert rejected(tmp_path / "out").keys() == {"cats/large.png"}


def test_a_class_that_drop_empties_is_named_with_the_flag(tmp_path: Path) -> None:
    src = tmp_path / "pets"
    for split in ("train", "test"):
        save(picture(0, 64 + 8 * len(split)), src / split / "cats/0.png")
        save(picture(1 + len(split)), src / split / "dogs/0.png")
    save(picture(3), src / "train/cats/1.png")
    made = decided(tmp_path / "d.csv", src, drop=["train/cats/1.png"])
    problem = "the class 'cats' has no valid image in the train split (1 in all splits), because "
    with pytest.raises(UserError) as caught:
        converted(src, tmp_path / "out", near_duplicates="drop", decisions=made)
    assert str(caught.value).startswith(
        f"--decisions={made}: {problem}decisions leave out 1 of its images, and --near_duplicates=drop leaves out 1 of"
        " its images. Correct these decisions, take them back with the decision 'none', or list the other"
        " classes in --classes. Pass --near_duplicates=keep."
    )
    (src / "train/cats/1.png").unlink()
    with pytest.raises(UserError) as caught:
        converted(src, tmp_path / "out", near_duplicates="drop")
    assert str(caught.value).startswith(
        f"--near_duplicates=drop: {problem}--near_duplicates=drop leaves out 1 of its images. Pass"
        " --near_duplicates=keep."
    )


def test_a_class_that_an_update_empties_is_named_with_the_flag(tmp_path: Path) -> None:
    src = tmp_path / "pets"
    for number in range(4):
        save(picture(number), src / f"train/{('cats', 'dogs')[number % 2]}/{number}.png")
    save(picture(9), src / "test/dogs/9.png")
    converted(src, tmp_path / "out", near_duplicates="drop")
    for number in (0, 2):
        (src / f"train/cats/{number}.png").unlink()
    save(picture(9, 40), src / "train/cats/9.png")
    with pytest.raises(UserError) as caught:
        converted(src, tmp_path / "out", update=True)
    assert str(caught.value).startswith(
        "--near_duplicates=drop: the class 'cats' has no valid image in the train split (0 in all splits), because"
        " --near_duplicates=drop leaves out 1 of its images. Convert again with --overwrite"
        " --near_duplicates=keep."
    )


def test_facts_and_reports_leave_the_shards_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the facts of the images, the digest and all shards have the same bytes."""
    src = pets(tmp_path / "pets")
    facts = converted(src, tmp_path / "with", near_duplicates="keep", near_distance=16)
    monkeypatch.setattr(survey, "_fill_in", lambda table, thumbnails: None)
    plain = converted(src, tmp_path / "without")
    assert (plain["near_duplicates"]["groups"], facts["near_duplicates"]["groups"]) == (0, 20)
    assert plain["digest"] == facts["digest"]
    first, second = contents(tmp_path / "with"), contents(tmp_path / "without")
    shards = [name for name in first if ".tfrecord-" in name]
    assert len(shards) == 2
    assert {name: first[name] for name in first if name not in REPORTS} == {
        name: second[name] for name in second if name not in REPORTS
    }


def test_drop_keeps_both_ends_of_a_chain(tmp_path: Path) -> None:
    src = pets(tmp_path / "pets", copies=0)
    images, distance = chain()
    for number, image in enumerate(images):
        save(image, src / f"cats/chain{number}.png")
    save(images[1].resize((128, 128), Image.Resampling.NEAREST), src / "dogs/large.png")
    (src / "cats/chain1.png").unlink()
    lines = said(src, tmp_path / "first", near_distance=distance)
    chain_text = (
        "1 group is a chain: A looks like B, and B looks like C, but A does not look like C. The longest chain has 3"
        " images"
    )
    assert any(chain_text in line for line in lines)
    converted(src, tmp_path / "second", near_distance=distance, near_duplicates="drop")
    assert {path for path in rows(tmp_path / "second") if "chain" in path or "large" in path} == {"dogs/large.png"}
    (src / "dogs/large.png").unlink()
    save(images[1], src / "dogs/zz.png")
    images[0].save(src / "cats/chain0.png", compress_level=0)
    images[2].save(src / "cats/chain2.png", compress_level=0)
    converted(src, tmp_path / "third", near_distance=distance, near_duplicates="drop")
    assert {path for path in rows(tmp_path / "third") if "chain" in path or "zz" in path} == {
        "cats/chain0.png", "cats/chain2.png",
    }  # fmt: skip


def test_drop_prefers_pixels_then_bytes_then_the_path(tmp_path: Path) -> None:
    src = pets(tmp_path / "pets", copies=0)
    save(picture(0, 128), src / "cats/z_more_pixels.png")
    large = picture(2)
    large.save(src / "cats/y_more_bytes.png", compress_level=0)
    large.save(src / "cats/x_copy.png", compress_level=0)  # The same bytes: --duplicates is about these.
    converted(src, tmp_path / "out", near_duplicates="drop")
    kept = set(rows(tmp_path / "out"))
    assert {"cats/z_more_pixels.png", "cats/y_more_bytes.png", "cats/x_copy.png"} <= kept
    assert kept.isdisjoint({"cats/000.png", "cats/002.png"})


def test_different_labels_are_a_finding(tmp_path: Path) -> None:
    src = pets(tmp_path / "pets", copies=0)
    save(picture(0, 40), src / "dogs/wrong.png")
    lines = said(src, tmp_path / "out")
    (line,) = (line for line in lines if "look like another image" in line)
    assert line.startswith("  check: 2 images look like another image (2 with different labels), such as cats/000.png")
    assert line.endswith("Look at the pictures in card.html and correct the labels that are wrong")
    page = (tmp_path / "out/card.html").read_text("utf-8")
    assert 'id="finding-near_conflicts"' in page
    assert page.count('title="dogs/wrong.png"') >= 2  # In the finding and in the section.


def test_splits_of_the_source_are_kept_and_reported(tmp_path: Path) -> None:
    pets(tmp_path / "pets/train", copies=0)
    pets(tmp_path / "pets/validation", count=4, copies=4)
    for path in (tmp_path / "pets/validation").rglob("0*.png"):
        path.unlink()
    lines = said(tmp_path / "pets", tmp_path / "out", near_duplicates="group")
    (line,) = (line for line in lines if "look like another image" in line)
    assert line.startswith("  check: 8 images look like another image (8 in several splits), such as ")
    assert line.endswith(
        "Remove the copies from one split of --src, or pass --near_duplicates=drop. The flag keeps one image of"
        " each group: an image of test if the group has one, and if not, an image of validation"
    )
    assert 'id="finding-near_leaks"' in (tmp_path / "out/card.html").read_text("utf-8")


@pytest.mark.parametrize("mode", ["group", "drop"])
def test_without_hashes_nothing_can_be_compared(tmp_path: Path, mode: str) -> None:
    with pytest.raises(UserError) as caught:
        converted(tmp_path, tmp_path / "out", verify="header", near_duplicates=mode)
    assert str(caught.value) == (
        f"--near_duplicates={mode}: compares hashes of the decoded images, and --verify=header decodes no image."
        " Remove --verify=header, or pass --near_duplicates=keep."
    )


def test_without_hashes_nothing_is_found(tmp_path: Path) -> None:
    facts = converted(pets(tmp_path / "pets"), tmp_path / "out", verify="header")
    page = (tmp_path / "out/card.html").read_text("utf-8")
    assert "The images were not compared." in page
    assert "60 images not decoded" in page
    assert facts["near_duplicates"]["files"] == facts["files"]["dropped"] == 0
    assert facts["images"]["look"]["unknown"] == facts["records"] == 60
    (row, *_) = rows(tmp_path / "out", *index.LOOK).values()
    assert row["phash"] == 0
    assert row["gray"] is None
    assert np.isnan(row["brightness"])


@pytest.mark.parametrize("mode", ["keep", "group", "drop"])
def test_a_second_run_and_an_update_change_nothing(tmp_path: Path, mode: str) -> None:
    src = pets(tmp_path / "pets")
    converted(src, tmp_path / "out", near_duplicates=mode)
    converted(src, tmp_path / "again", near_duplicates=mode, workers=2)
    first = contents(tmp_path / "out")
    assert first == contents(tmp_path / "again")
    converted(src, tmp_path / "out", update=True)
    assert first == contents(tmp_path / "out")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"near_duplicates": "merge"}, "--near_duplicates=merge: must be one of keep, group, drop."),
        ({"near_distance": 17}, "--near_distance=17: must be a number of bits from 0 to 16."),
        ({"near_distance": -1}, "--near_distance=-1: must be a number of bits from 0 to 16."),
    ],
)
def test_wrong_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        ConvertConfig(src="pets", **settings)
    assert str(caught.value) == message


def test_an_update_keeps_the_mode(tmp_path: Path) -> None:
    src = pets(tmp_path / "pets")
    converted(src, tmp_path / "out")
    with pytest.raises(UserError) as caught:
        converted(src, tmp_path / "out", update=True, near_duplicates="drop")
    assert str(caught.value).startswith("--update: --near_duplicates was 'keep' for ")


def test_a_dataset_without_these_columns_is_updated(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    src = pets(tmp_path / "pets", copies=0)
    converted(src, tmp_path / "out")
    path = tmp_path / "out" / index.FILE_NAME
    expected = {name: row["phash"] for name, row in rows(tmp_path / "out", "phash").items()}
    pq.write_table(pq.read_table(path).drop_columns(list(index.LOOK)), path)
    assert {row["phash"] for row in rows(tmp_path / "out", "phash").values()} == {0}
    save(picture(100), src / "cats/new.png")
    converted(src, tmp_path / "out", update=True)
    after = {name: row["phash"] for name, row in rows(tmp_path / "out", "phash").items()}
    assert {name: after[name] for name in expected} == expected
    assert len(open_dataset(tmp_path / "out").records("train")) > 0
