"""Tests of `convert --update`: old shards keep their bytes, old images their split, and verify passes."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_sources import contents, converted, draw, image, run, scanned, tree, with_splits

from tfrecord_tools import convert as convert_module
from tfrecord_tools.base import workers
from tfrecord_tools.conversion import survey, update
from tfrecord_tools.convert import ConvertConfig, convert
from tfrecord_tools.errors import UserError
from tfrecord_tools.images import preparation
from tfrecord_tools.layout import index
from tfrecord_tools.records import open_dataset
from tfrecord_tools.verify import VerifyConfig, verify

pytestmark = pytest.mark.usefixtures("no_fsync")


@pytest.fixture
def src(tmp_path: Path) -> Path:
    """Return a source of two classes with 60 images each."""
    return tree(tmp_path / "pets", {"cats": 60, "dogs": 60})


@pytest.fixture
def out(src: Path, tmp_path: Path) -> Path:
    """Return the dataset of `src`, in many small shards."""
    converted(src, tmp_path / "out", shard_bytes=4000)
    return tmp_path / "out"


def files(out: Path) -> dict[int, str]:
    """Return inode -> name of each shard."""
    return {path.stat().st_ino: path.name for path in out.glob("*.tfrecord-*")}


def splits_and_labels(out: Path) -> dict[str, tuple[str, int]]:
    """Return path -> split and label of each record."""
    data = open_dataset(out)
    return {
        records[i]["path"]: (split, records[i]["label"])
        for split in data.splits
        for records in [data.records(split)]
        for i in range(len(records))
    }


def is_valid(out: Path) -> bool:
    return verify(VerifyConfig(directory=str(out), decode=False, workers=1), log=lambda line: None) == []


def test_added_images_do_not_change_old_shards(src: Path, out: Path) -> None:
    before, labels_before = files(out), splits_and_labels(out)
    for number in range(12):
        draw(src / "cats" / f"new{number}.jpg")
    converted(src, out, update=True)
    after, labels_after = files(out), splits_and_labels(out)
    assert before.keys() <= after.keys()
    assert len(after) > len(before) > 5
    assert {path: labels_after[path] for path in labels_before} == labels_before
    assert len(labels_after) == 132
    assert all(
        f"-of-{sum('train' in name for name in after.values()):05d}" in n for n in after.values() if "train" in n
    )
    assert is_valid(out)


def test_images_keep_their_split_and_new_images_restore_the_fractions(src: Path, out: Path) -> None:
    """The content decides: renamed images and new copies keep the split too."""
    before = splits_and_labels(out)
    tree(src, {"cats/new": 40, "dogs/new": 12, "birds": 7})
    os.rename(src / "cats/000.jpg", src / "cats/renamed.jpg")
    in_validation = next(path for path, (split, _) in before.items() if split == "validation")
    shutil.copy(src / in_validation, src / f"{in_validation}.copy.jpg")
    converted(src, out, update=True)
    after = splits_and_labels(out)
    assert after["cats/renamed.jpg"] == before["cats/000.jpg"]
    assert {path: after[path] for path in before if path != "cats/000.jpg"} == {
        path: where for path, where in before.items() if path != "cats/000.jpg"
    }
    assert after[f"{in_validation}.copy.jpg"] == before[in_validation]
    del after[f"{in_validation}.copy.jpg"]
    counts = [sum(where == ("validation", label) for where in after.values()) for label in range(3)]
    assert counts == [20, 14, 1]  # round(0.2 * 100), round(0.2 * 72), round(0.2 * 7)


@pytest.mark.parametrize("removed", [1, 3])
def test_removed_image_rewrites_at_most_one_shard(src: Path, out: Path, removed: int) -> None:
    before, labels_before = files(out), splits_and_labels(out)
    for number in range(removed):
        (src / "dogs" / f"{number * 9:03d}.jpg").unlink()
    converted(src, out, update=True)
    labels_after = splits_and_labels(out)
    assert len(before.keys() - files(out).keys()) <= removed
    assert len(labels_after) == 120 - removed
    assert labels_after.items() <= labels_before.items()
    assert is_valid(out)


def test_changed_image_is_converted_again(src: Path, out: Path) -> None:
    (src / "cats/000.jpg").write_bytes(new := image("changed"))
    before = files(out)
    converted(src, out, update=True)
    data = open_dataset(out)
    stored = {
        r[i]["path"]: r[i]["image"] for split in data.splits for r in [data.records(split)] for i in range(len(r))
    }
    assert stored["cats/000.jpg"] == new
    assert len(stored) == 120
    assert len(before.keys() - files(out).keys()) == 1
    assert is_valid(out)


def test_new_class_comes_after_the_old_classes(src: Path, out: Path) -> None:
    labels_before = splits_and_labels(out)
    tree(src, {"birds": 30})
    converted(src, out, update=True)
    assert open_dataset(out).class_names == ("cats", "dogs", "birds")
    labels_after = splits_and_labels(out)
    assert {path: labels_after[path] for path in labels_before} == labels_before
    assert {label for path, (_, label) in labels_after.items() if path.startswith("birds")} == {2}
    assert is_valid(out)


def test_empty_shard_is_removed(src: Path, out: Path) -> None:
    data = open_dataset(out)
    records = data.records("train")
    first = open_dataset(out).records("train")
    in_first = [first[i]["path"] for i in range(len(records)) if first._frame(i)[0] == 0]
    for path in in_first:
        (src / path).unlink()
    shards = data.shards["train"]
    converted(src, out, update=True)
    assert open_dataset(out).shards["train"] == shards - 1
    assert is_valid(out)


def test_image_moved_to_another_split_of_the_source(tmp_path: Path) -> None:
    src = with_splits(tmp_path / "pets", train=9, validation=4)
    converted(src, tmp_path / "out")
    shutil.move(src / "train/cats/000.jpg", src / "validation/cats/moved.jpg")
    converted(src, tmp_path / "out", update=True)
    labels_after = splits_and_labels(tmp_path / "out")
    assert labels_after["validation/cats/moved.jpg"] == ("validation", 0)
    assert "train/cats/000.jpg" not in labels_after
    assert is_valid(tmp_path / "out")


def test_update_without_changes_changes_nothing(src: Path, out: Path) -> None:
    before = contents(out)
    inode = out.stat().st_ino
    lines: list[str] = []
    convert(ConvertConfig(src=str(src), out=str(out), update=True, workers=1), log=lines.append)
    assert lines[-1] == f"{out}/: up to date. No image was added, changed or removed."
    assert contents(out) == before
    assert out.stat().st_ino == inode
    assert not (out.parent / "out.partial").exists()


def test_known_images_are_hashed_but_not_decoded(src: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[bytes] = []
    original = preparation.prepare
    monkeypatch.setattr(
        survey.preparation,
        "prepare",
        lambda data, config, **options: (decoded.append(data), original(data, config, **options))[1],
    )
    draw(src / "cats/new.jpg")
    converted(src, out, update=True)
    assert decoded == [(src / "cats/new.jpg").read_bytes()]


def test_settings_of_the_dataset_are_used(src: Path, tmp_path: Path) -> None:
    out = tmp_path / "small"
    converted(src, out, resize=8, store="png", seed=5, validation_fraction=0.4)
    draw(src / "cats/new.jpg")
    facts = converted(src, out, update=True)
    assert {name: facts["config"][name] for name in ("resize", "store", "seed", "validation_fraction")} == {
        "resize": 8, "store": "png", "seed": 5, "validation_fraction": 0.4,
    }  # fmt: skip
    data = open_dataset(out)
    assert all(
        r[i]["image"].startswith(b"\x89PNG") for s in data.splits for r in [data.records(s)] for i in range(len(r))
    )


def test_repaired_images_stay_listed(src: Path, tmp_path: Path) -> None:
    (src / "cats/cut.jpg").write_bytes(image("cut")[:-2])
    out = tmp_path / "repaired"
    converted(src, out, on_bad_image="repair")
    draw(src / "cats/new.jpg")
    converted(src, out, update=True)
    assert "cats/cut.jpg,no end marker,repaired" in (out / "rejected.csv").read_text()
    assert is_valid(out)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"resize": 8},
            r"--update: --resize was None for .* and is 8 now\. Remove --resize, or convert again",
        ),
        ({"seed": 3}, r"--seed was 0 .* and is 3 now"),
        ({"overwrite": True}, r"--update and --overwrite cannot be combined"),
    ],
)
def test_other_settings_are_refused(src: Path, out: Path, settings: dict[str, Any], message: str) -> None:
    before = contents(out)
    with pytest.raises(UserError, match=message):
        converted(src, out, update=True, **settings)
    assert contents(out) == before


def test_no_dataset_to_update(src: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--update: there is no dataset in .*/nowhere to update\. Remove --update"):
        converted(src, tmp_path / "nowhere", update=True)
    assert not (tmp_path / "nowhere.partial").exists()


def test_another_format_version_is_refused(src: Path, out: Path) -> None:
    facts = json.loads((out / "convert.json").read_text())
    facts["config"]["format_version"] = 1
    (out / "convert.json").write_text(json.dumps(facts))
    with pytest.raises(
        UserError, match=r"format version 1, .* writes format version 4\. Convert again with --overwrite"
    ):
        converted(src, out, update=True)


def test_removed_class_is_refused(src: Path, out: Path) -> None:
    tree(src, {"birds": 30})
    converted(src, out, update=True)
    shutil.rmtree(src / "birds")
    with pytest.raises(UserError, match="the class 'birds' has no valid image in the train split"):
        converted(src, out, update=True)


class Stop(BaseException):
    """Ends a conversion in this process, as a signal ends a command."""


@pytest.mark.parametrize("at", range(1, 4))
def test_interrupted_update_continues(src: Path, out: Path, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected_out = out.parent / "expected"
    shutil.copytree(out, expected_out, copy_function=os.link)
    for number in range(12):
        draw(src / "cats" / f"new{number}.jpg")
    converted(src, expected_out, update=True)
    before = contents(out)
    original: Callable[..., int] = convert_module.write_shard
    calls: list[object] = []

    def stop(job: object) -> int:
        calls.append(job)
        if len(calls) > at:
            raise Stop
        return original(job)

    with monkeypatch.context() as patched:
        patched.setattr(convert_module, "write_shard", stop)
        with pytest.raises(Stop):
            converted(src, out, update=True)
    assert contents(out) == before
    converted(src, out, update=True)
    assert contents(out) == contents(expected_out)


def test_update_on_a_file_system_without_links(src: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    draw(src / "cats/new.jpg")
    converted(src, out, update=True)
    assert len(splits_and_labels(out)) == 121
    assert is_valid(out)


def test_facts_from_the_index_equal_those_of_the_survey(src: Path, out: Path) -> None:
    """The facts that are read from the index equal those of the inspection."""
    base = update.read(out)
    sources = scanned(src)
    expected = survey.survey(sources, workers.Pool(None, 1)).table
    known = base.known(sources.paths)
    assert survey.FACT.names is not None
    for name in set(survey.FACT.names) - {"size", "mtime_ns"}:
        assert np.array_equal(known[name], expected[name]), name


def test_full_verification_after_verify_header(src: Path, tmp_path: Path) -> None:
    damaged = image(7, "JPEG", size=(64, 64))
    (src / "cats/damaged.jpg").write_bytes(damaged[: len(damaged) // 2] + b"\xff\xd9")
    bad = image(8, "PNG")
    cut = bad.index(b"IDAT") + 4
    content = bytes([9]) + bad[cut + 1 :]  # Damage to zlib's header, with a correct PNG checksum.
    length = int.from_bytes(bad[cut - 8 : cut - 4], "big")
    checksum = zlib.crc32(b"IDAT" + content[:length]).to_bytes(4, "big")
    (src / "cats/bad.png").write_bytes(bad[:cut] + content[:length] + checksum + content[length + 4 :])
    facts = converted(src, tmp_path / "out", verify="header")
    assert facts["images"]["verified"] == "header"
    assert "cats/bad.png" in splits_and_labels(tmp_path / "out")
    assert facts["images"]["colors"]["undecodable"] == 1  # The card was written nevertheless.
    draw(src / "cats/new.jpg")
    facts = converted(src, tmp_path / "out", update=True)
    assert facts["images"]["verified"] == "full"
    assert "cats/bad.png" not in splits_and_labels(tmp_path / "out")


def test_new_groups_are_an_update(tmp_path: Path, src: Path) -> None:
    def manifest(group: str) -> None:
        rows = [
            f"{kind}/{path.name},{kind},train,{group}" for kind in ("cats", "dogs") for path in (src / kind).iterdir()
        ]
        (src / "all.csv").write_text("path,label,split,group\n" + "\n".join(rows) + "\n")

    manifest("")
    converted(src / "all.csv", tmp_path / "out")
    manifest("one")
    converted(src / "all.csv", tmp_path / "out", update=True)
    groups = index.read(tmp_path / "out" / index.FILE_NAME, ["group"]).column("group").to_pylist()
    assert len(set(groups)) == 1
    assert groups[0] != 0
    assert is_valid(tmp_path / "out")


def test_explicit_default_is_compared_with_the_dataset(src: Path, tmp_path: Path) -> None:
    assert run("tfrecord_tools.convert", f"--src={src}", "--seed=7", cwd=tmp_path).returncode == 0
    draw(src / "cats/new.jpg")
    done = run("tfrecord_tools.convert", f"--src={src}", "--update", "--seed=0", cwd=tmp_path)
    assert done.returncode == 1
    assert "--update: --seed was 7 for out and is 0 now." in done.stderr
    assert run("tfrecord_tools.convert", f"--src={src}", "--update", cwd=tmp_path).returncode == 0


def test_error_on_a_removed_class_names_the_remedy(src: Path, out: Path) -> None:
    (src / "cats").rename(src / "birds")
    with pytest.raises(
        UserError, match=r"'cats' has no valid image in the train split \(0 in all splits\)\. An update keeps"
    ):
        converted(src, out, update=True)
