"""Tests of `convert --decisions`: labels, left-out images, splits, duplicates and updates."""

from __future__ import annotations

import csv
import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from image_sources import contents, converted, draw, run, tree, with_splits
from PIL import Image

from tfrecord_tools import dataset
from tfrecord_tools.conversion.workspace import Workspace
from tfrecord_tools.convert import ConvertConfig, convert
from tfrecord_tools.errors import UserError
from tfrecord_tools.export import ExportConfig, export
from tfrecord_tools.layout import decisions
from tfrecord_tools.records import open_dataset
from tfrecord_tools.transfer import TransferConfig, transfer
from tfrecord_tools.verify import VerifyConfig, verify

pytestmark = pytest.mark.usefixtures("no_fsync")
NOTHING = {"relabeled": 0, "dropped": 0, "kept": 0, "unchanged": 0, "absent": 0}
Rows = dict[str, str]  # Path -> "drop", "keep", "none" or the new label.


@pytest.fixture
def src(tmp_path: Path) -> Path:
    """Return a source of two classes with 30 images each."""
    return tree(tmp_path / "pets", {"cats": 30, "dogs": 30})


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def table(path: Path, src: Path, rows: Rows) -> str:
    """Write a decisions file about images of a source; return its path."""
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(decisions.COLUMNS)
        for name, what in rows.items():
            word = what if what in ("drop", "keep", "none") else "label"
            writer.writerow([sha256(src / name), word, what if word == "label" else "", name, "", ""])
    return str(path)


def placed(out: Path) -> dict[str, tuple[str, str]]:
    """Return path -> split and class of each record."""
    data = open_dataset(out)
    return {
        path: (split, data.class_names[label])
        for split in data.splits
        for records in [data.records(split)]
        for path, label in zip(records.paths, records.labels.tolist())
    }


def lines_of(src: Path, out: Path, **settings: Any) -> list[str]:
    lines: list[str] = []
    convert(ConvertConfig(src=str(src), out=str(out), workers=1, **settings), lines.append)
    return lines


def is_valid(out: Path) -> bool:
    return verify(VerifyConfig(directory=str(out), decode=False, workers=1), log=lambda line: None) == []


MIXED = {
    "cats/000.jpg": "dogs",
    "cats/001.jpg": "dogs",
    "dogs/003.jpg": "cats",
    "dogs/004.jpg": "drop",
    "cats/004.jpg": "keep",
}


def test_labels_drops_and_keeps(src: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    facts = converted(src, out, decisions=table(tmp_path / "d.csv", src, MIXED))
    classes = {path: name for path, (_, name) in placed(out).items()}
    expected = {str(p.relative_to(src)): p.parent.name for p in src.rglob("*.*")}
    expected |= {"cats/000.jpg": "dogs", "cats/001.jpg": "dogs", "dogs/003.jpg": "cats"}
    del expected["dogs/004.jpg"]
    assert classes == expected
    assert facts["decided"] == NOTHING | {"relabeled": 3, "dropped": 1, "kept": 1}
    assert facts["relabelled"] == [
        {"from": "cats", "to": "dogs", "images": 2},
        {"from": "dogs", "to": "cats", "images": 1},
    ]
    assert [entry["train"] + entry["validation"] for entry in facts["classes"]] == [29, 30]
    assert [entry["validation"] for entry in facts["classes"]] == [6, 6]  # A fifth of the classes after the decisions.
    with open(out / "rejected.csv", newline="") as file:
        assert list(csv.DictReader(file)) == [
            {"path": "dogs/004.jpg", "reason": "left out by the decision drop", "done": "dropped"}
        ]
    assert decisions.of_dataset(out).keys() == {sha256(src / path) for path in MIXED}
    assert is_valid(out)
    records = open_dataset(out).records("train")
    assert [records[i]["label"] for i in range(len(records))] == records.labels.tolist()


def test_without_decisions_nothing_changes(src: Path, tmp_path: Path) -> None:
    """Decisions that change no record leave all files equal, except convert.json and the card."""
    converted(src, tmp_path / "plain")
    kept = table(tmp_path / "d.csv", src, {"cats/000.jpg": "keep", "dogs/000.jpg": "dogs"})
    facts = converted(src, tmp_path / "kept", decisions=kept)
    assert facts["decided"] == NOTHING | {"kept": 1, "unchanged": 1}
    plain, same = contents(tmp_path / "plain"), contents(tmp_path / "kept")
    assert {name for name in plain if plain[name] != same[name]} == {"convert.json", "card.html"}
    assert open_dataset(tmp_path / "plain").digest == open_dataset(tmp_path / "kept").digest


def test_console_card_and_dry_run(src: Path, tmp_path: Path) -> None:
    flags = [f"--src={src}", f"--decisions={table(tmp_path / 'd.csv', src, MIXED)}"]
    planned = run("tfrecord_tools.convert", *flags, "--dry_run", cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    notes = [line for line in planned.stdout.splitlines() if line.startswith(("  note:", "  dropped:"))]
    assert notes == [
        "  note: 3 images relabeled: 2 from cats to dogs, 1 from dogs to cats",
        "  note: 1 image left out by decisions",
        "  note: 1 image kept by decisions",
        "  dropped: dogs/004.jpg: left out by the decision drop",
    ]
    assert not (tmp_path / "out").exists()
    assert run("tfrecord_tools.convert", *flags, cwd=tmp_path).returncode == 0
    card = (tmp_path / "out/card.html").read_text()
    assert "<p>3 images relabeled, 1 dropped and 1 kept\nby decisions." in card
    assert "duplicate dropped" not in card


def test_renamed_moved_and_copied_files_keep_their_decision(src: Path, tmp_path: Path) -> None:
    made = table(tmp_path / "d.csv", src, {"cats/000.jpg": "dogs", "dogs/004.jpg": "drop"})
    shutil.copy(src / "cats/000.jpg", src / "dogs/copy.jpg")
    shutil.copy(src / "cats/000.jpg", src / "cats/copy.jpg")
    os.rename(src / "cats/000.jpg", src / "cats/renamed.jpg")
    os.rename(src / "dogs/004.jpg", src / "cats/moved.jpg")
    facts = converted(src, tmp_path / "out", decisions=made)
    where = placed(tmp_path / "out")
    copies = ("dogs/copy.jpg", "cats/copy.jpg", "cats/renamed.jpg")
    assert [where[path][1] for path in copies] == ["dogs"] * 3
    assert "cats/moved.jpg" not in where
    assert facts["duplicates"]["conflicts"] == 0
    assert {file["class"] for same in facts["duplicates"]["examples"]["copies"] for file in same} == {"dogs"}
    assert facts["decided"] == NOTHING | {"relabeled": 2, "unchanged": 1, "dropped": 1}
    dropped = converted(src, tmp_path / "one", decisions=made, duplicates="drop")
    assert dropped["records"] == facts["records"] - 2  # One of three copies stays; without a decision, none would.


def test_an_update_needs_no_file(src: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    facts = converted(src, out, decisions=table(tmp_path / "d.csv", src, MIXED), shard_bytes=4000)
    before = placed(out)
    assert lines_of(src, out, update=True)[-1] == f"{out}/: up to date. No image was added, changed or removed."
    draw(src / "cats/new.jpg")
    os.rename(src / "cats/000.jpg", src / "cats/renamed.jpg")
    (src / "cats/004.jpg").unlink()
    after = converted(src, out, update=True)
    before["cats/renamed.jpg"] = before.pop("cats/000.jpg")
    del before["cats/004.jpg"]
    assert placed(out).items() >= before.items()
    assert after["decisions"] == facts["decisions"]
    assert after["decided"] == NOTHING | {"relabeled": 3, "dropped": 1, "absent": 1}
    assert is_valid(out)


def test_two_rounds_give_the_labels_of_one_round_and_keep_splits(src: Path, tmp_path: Path) -> None:
    """An update keeps the split of every image. A new conversion computes it from the new labels."""
    first = {"cats/000.jpg": "dogs", "cats/001.jpg": "drop", "cats/004.jpg": "keep"}
    second = {"cats/000.jpg": "keep", "cats/004.jpg": "drop", "dogs/003.jpg": "cats", "dogs/004.jpg": "drop"}
    plain, out, once = tmp_path / "plain", tmp_path / "out", tmp_path / "once"
    converted(src, plain)
    converted(src, out, decisions=table(tmp_path / "1.csv", src, first))
    splits = {path: split for path, (split, _) in placed(out).items()}
    lines = lines_of(src, out, update=True, decisions=table(tmp_path / "2.csv", src, second))
    note = f"  note: 2 of 3 decisions in {out} stay in effect, and later decisions replace 1. To start"
    assert [line for line in lines if line.startswith(note)]
    assert placed(out)["cats/000.jpg"][1] == "dogs"  # "keep" says that the label is right, so it stays.
    both = table(tmp_path / "both.csv", src, first | second | {"cats/000.jpg": "dogs"})
    assert converted(src, once, decisions=both)["decisions"] == open_and_read(out)
    classes = [{path: name for path, (_, name) in placed(d).items()} for d in (out, once)]
    assert classes[0] == classes[1]
    del splits["dogs/004.jpg"], splits["cats/004.jpg"]
    assert {path: split for path, (split, _) in placed(out).items()} == splits
    assert is_valid(out)
    # A new conversion keeps the decisions too, and has the digest of one with all decisions at once.
    converted(src, out, overwrite=True)
    assert open_dataset(out).digest == open_dataset(once).digest


def test_none_takes_decisions_back(src: Path, tmp_path: Path) -> None:
    """The dataset then has the labels of one without these decisions. Old images keep their split."""
    out = tmp_path / "out"
    converted(src, tmp_path / "plain")
    converted(src, out, decisions=table(tmp_path / "1.csv", src, MIXED), shard_bytes=4000)
    splits = {path: split for path, (split, _) in placed(out).items()}
    rows = {"cats/000.jpg": "none", "dogs/004.jpg": "none", "cats/004.jpg": "none", "cats/003.jpg": "none"}
    made = table(tmp_path / "2.csv", src, rows)
    lines = lines_of(src, out, update=True, decisions=made)
    note = f"  note: 2 of 5 decisions in {out} stay in effect, and later decisions take back 3. To start without them,"
    assert [line for line in lines if line.startswith(note)]
    assert "  note: 1 decision 'none' does nothing, because there is no earlier decision to take back" in lines
    names = {one.path: one.decision for one in decisions.of_dataset(out).values()}
    assert names == {"cats/001.jpg": "label", "dogs/003.jpg": "label"}
    after = placed(out)
    expected = {path: name for path, (_, name) in placed(tmp_path / "plain").items()}
    expected |= {"cats/001.jpg": "dogs", "dogs/003.jpg": "cats"}
    assert {path: name for path, (_, name) in after.items()} == expected
    assert {path: after[path][0] for path in splits} == splits
    assert list(csv.DictReader((out / "rejected.csv").open())) == []
    assert is_valid(out)
    lines = lines_of(src, out, update=True, decisions=made)
    assert "  note: 4 decisions 'none' do nothing, because there is no earlier decision to take back" in lines
    assert lines[-1] == f"{out}/: up to date. No image was added, changed or removed."
    # A new conversion with the same decisions has the same digest.
    rest = table(tmp_path / "3.csv", src, {path: what for path, what in MIXED.items() if path in names})
    converted(src, out, overwrite=True, shard_bytes=4000)
    assert converted(src, tmp_path / "once", decisions=rest, shard_bytes=4000)["digest"] == open_dataset(out).digest


@pytest.mark.parametrize(("given", "seen"), [("dogs", ""), ("cats", "cats")])
def test_keep_leaves_an_earlier_label(src: Path, tmp_path: Path, given: str, seen: str) -> None:
    """A later audit shows the label of the dataset, and the person says that it is right."""
    out, path = tmp_path / "out", src / "cats/000.jpg"
    converted(src, out, decisions=table(tmp_path / "1.csv", src, {"cats/000.jpg": "dogs"}))
    before = contents(out)
    suspects = tmp_path / "suspects.csv"
    header = "rank,decision,path,predicted_label,given_label,sha256"
    suspects.write_text(f"{header}\n1,keep,cats/000.jpg,cats,{given},{sha256(path)}\n")
    lines = lines_of(src, out, update=True, decisions=str(suspects))
    assert (
        "  note: 1 decision 'keep' confirms the label of an earlier decision, and this label stays. To go back to the"
        " label of the source, use the decision 'none'" in lines
    )
    differs = (
        "  note: 1 image has another label than the given_label that the decision 'keep' confirms, for example"
        " 'cats/000.jpg': the label is 'dogs', and given_label is 'cats'. To change the label, use the decision 'label'"
    )
    assert (differs in lines) == bool(seen)
    assert lines[-1] == f"{out}/: up to date. No image was added, changed or removed."
    assert contents(out) == before
    assert placed(out)["cats/000.jpg"][1] == "dogs"
    converted(src, out, update=True, decisions=table(tmp_path / "2.csv", src, {"cats/000.jpg": "none"}))
    assert placed(out)["cats/000.jpg"][1] == "cats"


def test_keep_leaves_a_row_of_relabel(src: Path, tmp_path: Path) -> None:
    relabel = tmp_path / "r.csv"
    relabel.write_text("path,label\ncats/000.jpg,dogs\n")
    made = table(tmp_path / "d.csv", src, {"cats/000.jpg": "keep"})
    lines = lines_of(src, tmp_path / "out", relabel=str(relabel), decisions=made)
    assert any(line.startswith("  note: 1 decision 'keep' confirms the label of an earlier decision") for line in lines)
    assert not any("replaced by a decision" in line for line in lines)
    assert placed(tmp_path / "out")["cats/000.jpg"][1] == "dogs"


def test_none_takes_back_the_last_decision(src: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    plain = converted(src, out)
    converted(src, out, update=True, decisions=table(tmp_path / "1.csv", src, {"cats/000.jpg": "keep"}))
    after = converted(src, out, update=True, decisions=table(tmp_path / "2.csv", src, {"cats/000.jpg": "none"}))
    assert after == plain


def test_none_replaces_a_row_of_relabel(src: Path, tmp_path: Path) -> None:
    relabel = tmp_path / "r.csv"
    relabel.write_text("path,label\ncats/000.jpg,dogs\n")
    made = table(tmp_path / "d.csv", src, {"cats/000.jpg": "none"})
    lines = lines_of(src, tmp_path / "out", relabel=str(relabel), decisions=made)
    assert "  note: 1 row of --relabel was replaced by a decision of --decisions" in lines
    assert not any("do nothing" in line or "does nothing" in line for line in lines)
    assert placed(tmp_path / "out")["cats/000.jpg"][1] == "cats"
    assert decisions.of_dataset(tmp_path / "out") == {}


def test_labels_of_absent_images_need_no_class(src: Path, tmp_path: Path) -> None:
    """The images may be in another directory, or were deleted."""
    other, out = tree(tmp_path / "other", {"x": 2}), tmp_path / "out"
    rows = {"other/x/000.jpg": "zebras", "pets/cats/000.jpg": "dogs"}
    made = table(tmp_path / "d.csv", tmp_path, rows)
    lines = lines_of(src, out, decisions=made)
    assert "  note: 1 decision is about an image that the source does not have" in lines
    assert placed(out)["cats/000.jpg"][1] == "dogs"
    assert {one.label for one in decisions.of_dataset(out).values()} == {"dogs", "zebras"}
    lines = lines_of(src, out, update=True)
    assert lines[-1] == f"{out}/: up to date. No image was added, changed or removed."
    # The image appears: now its label must be a class.
    shutil.copy(other / "x/000.jpg", src / "cats/zebra.jpg")
    with pytest.raises(UserError) as caught:
        converted(src, out, update=True)
    assert str(caught.value).startswith(
        "the decisions of the dataset at --out: the label 'zebras' of 'other/x/000.jpg' is not a class. Classes are"
        " cats, dogs. To replace this decision, pass --decisions=FILE with another decision about this image. The"
        " decision 'none' takes it back. If it is a new class, put an image of the class into a directory with"
        " the name of the class, or convert again with --overwrite and --classes."
    )
    converted(src, out, update=True, decisions=table(tmp_path / "e.csv", tmp_path, {"other/x/000.jpg": "none"}))
    assert placed(out)["cats/zebra.jpg"][1] == "cats"


def open_and_read(out: Path) -> list[Any]:
    return decisions.entries(decisions.of_dataset(out))


def test_same_decisions_in_any_order_give_the_same_files(src: Path, tmp_path: Path) -> None:
    converted(src, tmp_path / "a", decisions=table(tmp_path / "a.csv", src, MIXED))
    converted(src, tmp_path / "b", decisions=table(tmp_path / "b.csv", src, dict(reversed(MIXED.items()))))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    converted(src, tmp_path / "c", decisions=str(tmp_path / "a"))  # The decisions of another dataset.
    assert contents(tmp_path / "a") == contents(tmp_path / "c")


@pytest.mark.interop
@pytest.mark.parametrize("mode", ["keep", "group", "drop"])
def test_beam_gives_the_same_files(src: Path, tmp_path: Path, mode: str) -> None:
    settings: dict[str, Any] = {"decisions": table(tmp_path / "d.csv", src, MIXED), "near_duplicates": mode}
    for name in ("cats/002.png", "dogs/005.png"):
        with Image.open(src / name) as picture:
            picture.save(src / f"{name}.bmp")  # The same pixels.
    converted(src, tmp_path / "local", **settings)
    converted(src, tmp_path / "beam", **settings, engine="beam", workers=None)
    assert contents(tmp_path / "local") == contents(tmp_path / "beam")


def test_new_keeps_alone_are_stored(src: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    before = converted(src, out)
    assert "decisions" not in before
    after = converted(src, out, update=True, decisions=table(tmp_path / "d.csv", src, {"cats/000.jpg": "keep"}))
    assert after["digest"] == before["digest"]
    assert [one.decision for one in decisions.of_dataset(out).values()] == ["keep"]


def test_splits_of_the_source_stay(tmp_path: Path) -> None:
    src = with_splits(tmp_path / "pets")
    made = table(tmp_path / "d.csv", src, {"validation/cats/000.jpg": "dogs"})
    converted(src, tmp_path / "out", decisions=made)
    assert placed(tmp_path / "out")["validation/cats/000.jpg"] == ("validation", "dogs")


def test_a_class_without_images_is_removed(tmp_path: Path) -> None:
    src = tree(tmp_path / "pets", {"birds": 1, "cats": 9, "dogs": 9, "junk": 2})
    rows = {"birds/000.jpg": "cats", "junk/000.jpg": "drop", "junk/001.jpg": "drop"}
    made = table(tmp_path / "d.csv", src, rows)
    facts = converted(src, tmp_path / "out", decisions=made)
    assert [entry["name"] for entry in facts["classes"]] == ["cats", "dogs"]
    note = "2 classes were removed, because the decisions leave no image of them: birds, junk"
    assert note in [entry["text"] for entry in facts["notes"]]
    assert is_valid(tmp_path / "out")
    with pytest.raises(UserError) as caught:
        converted(src, tmp_path / "fixed", decisions=made, classes=["birds", "cats", "dogs", "junk"])
    assert str(caught.value).startswith(
        f"--decisions={made}: the class 'birds' has no valid image in the train split (0 in all splits), because"
        " decisions relabel 1 of its images. Correct these decisions, take them back with the decision 'none', or list"
        " the other classes in --classes."
    )


def test_a_new_class_is_made_if_classes_lists_it(src: Path, tmp_path: Path) -> None:
    made = table(tmp_path / "d.csv", src, {f"cats/00{number}.jpg": "birds" for number in (0, 1, 3)})
    message = (
        f"--decisions={made}: the label 'birds' of 'cats/000.jpg' is not a class. Classes are cats, dogs. Correct the"
        " label. If it is a new class, add it to --classes."
    )
    with pytest.raises(UserError) as caught:
        converted(src, tmp_path / "out", decisions=made)
    assert str(caught.value).startswith(message)
    facts = converted(src, tmp_path / "out", decisions=made, classes=["cats", "dogs", "birds"])
    assert [(entry["name"], entry["train"] + entry["validation"]) for entry in facts["classes"]] == [
        ("cats", 27), ("dogs", 30), ("birds", 3),
    ]  # fmt: skip
    assert converted(src, tmp_path / "out", update=True)["digest"] == facts["digest"]


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        (
            {"cats/000.jpg": "dog"},
            {"overwrite": True},
            "the label 'dog' of 'cats/000.jpg' is not a class. Classes with a similar name are dogs. Correct"
            " the label.",
        ),
        (
            {"cats/000.jpg": "birds"},
            {"update": True},
            "If it is a new class, put an image of the class into a directory with the name of the class, or convert"
            " again",
        ),
        (
            {f"{c}/{n:03d}.{'png' if n % 3 == 2 else 'jpg'}": "drop" for c in ("cats", "dogs") for n in range(30)},
            {"overwrite": True},
            "the decisions leave out every image of ",
        ),
        (
            {f"cats/{n:03d}.{'png' if n % 3 == 2 else 'jpg'}": "dogs" if n else "drop" for n in range(30)},
            {"update": True},
            "d.csv: the class 'cats' has no valid image in the train split (0 in all splits), because decisions leave"
            " out 1 and relabel 29 of its images. Correct these decisions, take them back with the decision 'none', or"
            " convert again with --overwrite.",
        ),
    ],
)
def test_impossible_decisions_are_refused(
    src: Path, tmp_path: Path, rows: Rows, settings: dict[str, Any], message: str
) -> None:
    out = tmp_path / "out"
    converted(src, out)
    before = contents(out)
    with pytest.raises(UserError) as caught:
        converted(src, out, decisions=table(tmp_path / "d.csv", src, rows), **settings)
    assert message in str(caught.value)
    assert contents(out) == before


def test_stored_decisions_that_empty_a_class_are_named(src: Path, tmp_path: Path) -> None:
    """Earlier decisions took some images, and the source then loses the others."""
    out = tmp_path / "out"
    converted(src, out, decisions=table(tmp_path / "d.csv", src, {"cats/000.jpg": "dogs", "cats/001.jpg": "drop"}))
    for path in (src / "cats").iterdir():
        if path.name not in ("000.jpg", "001.jpg"):
            path.unlink()
    with pytest.raises(UserError) as caught:
        converted(src, out, update=True)
    assert str(caught.value).startswith(
        "the decisions of the dataset at --out: the class 'cats' has no valid image in the train split (0 in all"
        " splits), because decisions leave out 1 and relabel 1 of its images. Correct these decisions,"
    )


def test_decisions_about_test_images_are_not_to_blame(tmp_path: Path) -> None:
    """No image of cats is in train, with or without the decision."""
    src = tree(tmp_path / "pets", {"train/dogs": 3, "test/cats": 3, "test/dogs": 2})
    made = table(tmp_path / "d.csv", src, {"test/cats/000.jpg": "drop"})
    with pytest.raises(UserError) as caught:
        converted(src, tmp_path / "out", decisions=made)
    assert str(caught.value).startswith(
        "the class 'cats' has no valid image in the train split (2 in all splits). Add images of this class, or list"
    )


def test_decisions_about_other_images_are_refused(src: Path, tmp_path: Path) -> None:
    other = tree(tmp_path / "other", {"x": 2})
    made = table(tmp_path / "d.csv", other, {"x/000.jpg": "drop", "x/001.jpg": "keep"})
    with pytest.raises(UserError) as caught:
        converted(src, tmp_path / "out", decisions=made)
    assert (
        f"--decisions={made}: 2 decisions are not about any image in {src}, for example 'x/000.jpg'. A decision"
        " names an image by the hash of its bytes. Pass a file with decisions about the images in " in str(caught.value)
    )
    made = table(tmp_path / "d.csv", tmp_path, {"other/x/000.jpg": "drop", "pets/cats/000.jpg": "drop"})
    lines = lines_of(src, tmp_path / "out", decisions=made)
    assert "  note: 1 decision is about an image that the source does not have" in lines


def test_an_interrupted_update_continues_with_other_decisions(src: Path, tmp_path: Path) -> None:
    """Decisions that change no record may differ between the two runs."""
    out = tmp_path / "out"
    converted(src, out)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Workspace, "commit_data", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            converted(src, out, update=True, decisions=table(tmp_path / "d.csv", src, {"cats/000.jpg": "keep"}))
    converted(src, out, update=True, decisions=table(tmp_path / "d.csv", src, {"cats/001.jpg": "keep"}))
    assert decisions.of_dataset(out).keys() == {sha256(src / "cats/001.jpg")}
    assert is_valid(out)


def test_other_commands_see_the_decisions(src: Path, tmp_path: Path) -> None:
    out, files = tmp_path / "out", tmp_path / "files"
    converted(src, out, decisions=table(tmp_path / "d.csv", src, MIXED))
    export(ExportConfig(tfrecords=str(out), out=str(files), to="folder"), log=lambda line: None)
    assert [sum(path.parent.name == name for path in files.glob("*/*/*")) for name in ("cats", "dogs")] == [29, 30]
    records = dataset.open(out).records("train")
    batch = next(iter(dataset.eval_batches(records, batch_size=4, image_size=8)))
    assert batch[1].numpy().tolist() == records.labels[:4].tolist()
    transfer(TransferConfig(source=str(out), destination=str(tmp_path / "copy")), lambda line: None)
    assert decisions.of_dataset(tmp_path / "copy") == decisions.of_dataset(out)
