"""Tests of `adopt --decisions`: labels are corrected in the index, or in new files."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from foreign_records import example, write
from image_sources import contents, image

from tfrecord_tools import dataset
from tfrecord_tools.adopt import AdoptConfig, adopt
from tfrecord_tools.errors import UserError
from tfrecord_tools.export import ExportConfig, export
from tfrecord_tools.layout import decisions
from tfrecord_tools.records import open_dataset
from tfrecord_tools.verify import VerifyConfig, verify


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory of 12 records, cats and dogs in turn. Number 11 has the image of number 0."""
    root = tmp_path_factory.mktemp("theirs") / "pets"
    for split, numbers in (("train", range(8)), ("validation", range(8, 12))):
        values = [
            {
                "image": image(number % 11),
                "label": 1 + number % 2,
                "text": ["cats", "dogs"][number % 2].encode(),
                "filename": f"{number}.jpg".encode(),
            }
            for number in numbers
        ]
        write(root / f"{split}.tfrecord", map(example, values))
    return root


def table(path: Path, rows: dict[int, str]) -> str:
    """Write decisions about images by number: "drop", "keep", "none" or a new label."""
    lines = ["sha256,decision,label,path"]
    for number, what in rows.items():
        word, label = (what, "") if what in ("drop", "keep", "none") else ("label", what)
        lines.append(f"{hashlib.sha256(image(number)).hexdigest()},{word},{label},{number}.jpg")
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def adopted(records: Path, out: Path, **settings: Any) -> str:
    """Adopt records; return the report."""
    lines: list[str] = []
    config: dict[str, Any] = {
        "records": str(records),
        "out": str(out),
        "classes": ["cats", "dogs"],
        "workers": 1,
    } | settings
    adopt(AdoptConfig(**config), lines.append)
    return "\n".join(lines)


def classes(out: Path) -> dict[str, str]:
    """Return path -> class, from the index; the records themselves must give the same."""
    data = open_dataset(out)
    found = dict[str, str]()
    for split in data.splits:
        records = data.records(split)
        of_records = {(r := records[i])["path"]: data.class_names[r["label"]] for i in range(len(records))}
        assert of_records == dict(zip(records.paths, [data.class_names[i] for i in records.labels]))
        found |= of_records
    return found


def problems(out: Path) -> list[str]:
    return verify(VerifyConfig(directory=str(out), workers=1), log=lambda line: None)


ROWS = {0: "dogs", 1: "drop", 3: "keep", 8: "dogs"}
EXPECTED = {f"{n}.jpg": ["cats", "dogs"][n % 2] for n in range(12) if n != 1} | dict.fromkeys(
    ["0.jpg", "8.jpg", "11.jpg"], "dogs"
)


@pytest.mark.parametrize("rewrite", [False, True])
def test_labels_drops_and_keeps(theirs: Path, tmp_path: Path, rewrite: bool) -> None:
    out, before = tmp_path / "out", contents(theirs)
    lines = adopted(theirs, out, decisions=table(tmp_path / "d.csv", ROWS), rewrite=rewrite)
    assert classes(out) == EXPECTED
    assert contents(theirs) == before
    facts = json.loads((out / "convert.json").read_text())
    assert facts["decided"] == {"relabeled": 2, "dropped": 1, "kept": 1, "unchanged": 1, "absent": 0}
    assert facts["relabelled"] == [{"from": "cats", "to": "dogs", "images": 2}]
    assert facts["records"] == 11
    assert [entry["train"] + entry["validation"] for entry in facts["classes"]] == [4, 7]
    with open(out / "rejected.csv", newline="") as file:
        assert [*csv.DictReader(file)] == [
            {"path": "1.jpg", "reason": "left out by the decision drop", "done": "dropped"}
        ]
    assert problems(out) == []
    assert len(decisions.of_dataset(out)) == 4
    for note in ("2 images relabeled: 2 from cats to dogs", "1 image left out by decisions", "1 image kept"):
        assert f"  note: {note}" in lines
    old_labels = "  note: 2 records have a new label in the index, but still the old label in the files. Other"
    assert (old_labels in lines) == (not rewrite)


@pytest.mark.parametrize("rewrite", [False, True])
def test_pairs_are_counted_and_stored(theirs: Path, tmp_path: Path, rewrite: bool) -> None:
    """Numbers 1 and 9 are in different files. No record has the image of number 11."""
    one, other, absent = (hashlib.sha256(image(number)).hexdigest() for number in (1, 9, 11))
    (tmp_path / "d.csv").write_text(f"sha256,decision,twin_sha256\n{one},both,{other}\n{one},both,{absent}\n")
    adopted(theirs, tmp_path / "out", decisions=str(tmp_path / "d.csv"), rewrite=rewrite)
    facts = json.loads((tmp_path / "out/convert.json").read_text())
    assert facts["decided"] == {"relabeled": 0, "dropped": 0, "kept": 0, "unchanged": 0, "absent": 1, "pairs": 1}
    assert decisions.of_dataset(tmp_path / "out").keys() == {
        decisions.key_of(one, other), decisions.key_of(absent, one),
    }  # fmt: skip
    assert problems(tmp_path / "out") == []


def test_readers_see_the_new_labels(theirs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    adopted(theirs, out, decisions=table(tmp_path / "d.csv", ROWS))
    records = dataset.open(out).records("validation")
    batch = next(iter(dataset.eval_batches(records, batch_size=4, image_size=8)))
    assert batch[1].numpy().tolist() == [1, 1, 0, 1]
    export(ExportConfig(tfrecords=str(out), out=str(tmp_path / "files"), to="folder"), log=lambda line: None)
    files = {path.name: path.parent.name for path in (tmp_path / "files").glob("*/*/*")}
    assert files == EXPECTED


def test_verify_finds_labels_that_no_decision_explains(theirs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    adopted(theirs, out, decisions=table(tmp_path / "d.csv", ROWS))
    facts = json.loads((out / "convert.json").read_text())
    facts["decisions"] = [one for one in facts["decisions"] if one["path"] != "8.jpg"]
    (out / "convert.json").write_text(json.dumps(facts))
    assert [line.split(", ", 1)[1] for line in problems(out)] == ["8.jpg: the label is 0, but the index has 1"]


def test_decisions_stay_when_records_are_adopted_again(theirs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    adopted(theirs, out, decisions=table(tmp_path / "d.csv", ROWS))
    lines = adopted(theirs, out, overwrite=True)
    assert f"  note: 4 decisions in {out} stay in effect. To start without them, delete {out} first" in lines
    assert classes(out) == EXPECTED
    lines = adopted(theirs, out, overwrite=True, decisions=table(tmp_path / "e.csv", {0: "keep", 8: "drop", 5: "cats"}))
    assert f"3 of 4 decisions in {out} stay in effect, and later decisions replace 1." in lines
    assert "  note: 1 decision 'keep' confirms the label of an earlier decision, and this label stays." in lines
    assert classes(out) == {path: name for path, name in EXPECTED.items() if path != "8.jpg"} | {"5.jpg": "cats"}
    once = tmp_path / "once"
    adopted(theirs, once, decisions=table(tmp_path / "f.csv", ROWS | {8: "drop", 5: "cats"}))
    assert open_dataset(once).digest == open_dataset(out).digest
    adopted(theirs, tmp_path / "other", decisions=str(out))
    assert open_dataset(tmp_path / "other").digest == open_dataset(out).digest


def test_keeps_alone_leave_the_digest(theirs: Path, tmp_path: Path) -> None:
    adopted(theirs, tmp_path / "plain")
    adopted(theirs, tmp_path / "kept", decisions=table(tmp_path / "d.csv", {0: "keep"}))
    assert "decisions" not in json.loads((tmp_path / "plain/convert.json").read_text())
    plain, kept = contents(tmp_path / "plain"), contents(tmp_path / "kept")
    assert {name for name in plain if plain[name] != kept[name]} == {"convert.json"}


def test_a_class_of_its_own_needs_classes(theirs: Path, tmp_path: Path) -> None:
    made = table(tmp_path / "d.csv", {0: "birds"})
    with pytest.raises(UserError) as caught:
        adopted(theirs, tmp_path / "out", decisions=made)
    assert str(caught.value) == (
        f"--decisions={made}: the label 'birds' of '0.jpg' is not a class. Classes are cats, dogs. Correct the label."
        " If it is a new class, add it to --classes."
    )
    adopted(theirs, tmp_path / "out", decisions=made, classes=["cats", "dogs", "birds"])
    assert classes(tmp_path / "out")["0.jpg"] == "birds"
    assert problems(tmp_path / "out") == []


@pytest.mark.parametrize("where", ["file", "list", "text"])
@pytest.mark.parametrize("rewrite", [False, True])
def test_decisions_name_classes_in_any_form_of_unicode(theirs: Path, tmp_path: Path, where: str, rewrite: bool) -> None:
    """Labels of decisions are read in the form NFC without spaces at the ends, and classes have this form."""
    names = [" cats", "Cafe\u0301 "]
    (tmp_path / "names.txt").write_text("\ufeff" + "\n".join(names) + "\n", "utf-8")
    values = [{"image": image(n), "label": n % 2, "image/class/text": names[n % 2].encode()} for n in range(4)]
    write(tmp_path / "theirs/train.tfrecord", map(example, values))
    given = {"file": [str(tmp_path / "names.txt")], "list": names, "text": None}[where]
    made = table(tmp_path / "d.csv", {0: "Cafe\u0301", 1: "cats", 2: "Caf\u00e9"})
    out = tmp_path / "out"
    adopted(tmp_path / "theirs", out, classes=given, decisions=made, rewrite=rewrite)
    data = open_dataset(out)
    assert data.class_names == ("cats", "Caf\u00e9")
    assert data.records("train").labels.tolist() == [1, 0, 1, 1]
    assert problems(out) == []


@pytest.mark.parametrize("rewrite", [False, True])
def test_labels_of_absent_images_need_no_class(theirs: Path, tmp_path: Path, rewrite: bool) -> None:
    """The image of number 99 is in no record, so its label may be unknown. The label of number 0 may not."""
    out = tmp_path / "out"
    lines = adopted(theirs, out, decisions=table(tmp_path / "d.csv", {0: "dogs", 99: "zebras"}), rewrite=rewrite)
    assert "  note: 1 decision is about an image that the source does not have" in lines
    assert classes(out)["0.jpg"] == "dogs"
    settings: dict[str, Any] = {"overwrite": True, "rewrite": rewrite}
    adopted(theirs, out, **settings)
    assert {one.label for one in decisions.of_dataset(out).values()} == {"dogs", "zebras"}
    renamed = settings | {"classes": ["cats", "wolves"]}
    with pytest.raises(UserError) as caught:
        adopted(theirs, out, **renamed)
    assert str(caught.value) == (
        "the decisions of the dataset at --out: the label 'dogs' of '0.jpg' is not a class. Classes are cats, wolves."
        " To replace this decision, pass --decisions=FILE with another decision about this image. The decision"
        " 'none' takes it back. If it is a new class, add it to --classes."
    )
    lines = adopted(theirs, out, **renamed, decisions=table(tmp_path / "e.csv", {0: "none"}))
    assert f"  note: 1 of 2 decisions in {out} stay in effect, and later decisions take back 1." in lines
    assert classes(out)["0.jpg"] == "cats"
    assert problems(out) == []


@pytest.mark.parametrize("rewrite", [False, True])
def test_none_takes_decisions_back(theirs: Path, tmp_path: Path, rewrite: bool) -> None:
    plain, out = tmp_path / "plain", tmp_path / "out"
    adopted(theirs, plain, rewrite=rewrite)
    adopted(theirs, out, decisions=table(tmp_path / "d.csv", ROWS), rewrite=rewrite)
    nones = table(tmp_path / "e.csv", dict.fromkeys([*ROWS, 5], "none"))
    lines = adopted(theirs, out, overwrite=True, decisions=nones, rewrite=rewrite)
    assert f"  note: 0 of 4 decisions in {out} stay in effect, and later decisions take back 4." in lines
    assert "  note: 1 decision 'none' does nothing, because there is no earlier decision to take back" in lines
    assert contents(out) == contents(plain)


@pytest.mark.parametrize("rewrite", [False, True])
def test_an_emptied_class_is_named_with_the_decisions(theirs: Path, tmp_path: Path, rewrite: bool) -> None:
    made = table(tmp_path / "d.csv", {0: "drop", 2: "dogs", 4: "dogs", 6: "dogs"})
    lines = adopted(theirs, tmp_path / "out", decisions=made, rewrite=rewrite)
    assert (
        f"  note: --decisions={made}: the class 'cats' has no record in the train split, because decisions leave out 1"
        " and relabel 3 of its images. Correct these decisions, or take them back with the decision 'none'\n" in lines
    )
    made = table(tmp_path / "wolves.csv", dict.fromkeys(range(11), "wolves"))
    names = ["cats", "dogs", "wolves"]
    lines = adopted(theirs, tmp_path / "wolves", decisions=made, rewrite=rewrite, classes=names, label_offset=1)
    assert (
        f"  note: --decisions={made}: 2 classes ('cats', 'dogs') have no record in the train split, because decisions"
        " relabel 12 of their images. Correct these decisions, or take them back with the decision 'none'\n" in lines
    )
    made = table(tmp_path / "all.csv", dict.fromkeys(range(11), "drop"))
    with pytest.raises(UserError) as caught:
        adopted(theirs, tmp_path / "none", decisions=made, rewrite=rewrite)
    assert str(caught.value) == (
        f"--decisions={made}: the decisions leave out every record of {theirs}. Correct the decisions."
    )
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("rewrite", [False, True])
def test_decisions_about_other_images_are_refused(theirs: Path, tmp_path: Path, rewrite: bool) -> None:
    made = table(tmp_path / "d.csv", {99: "drop"})
    with pytest.raises(UserError) as caught:
        adopted(theirs, tmp_path / "out", decisions=made, rewrite=rewrite)
    assert f"--decisions={made}: 1 decision is not about any image in {theirs}, for example '99.jpg'." in str(
        caught.value
    )
    assert not (tmp_path / "out").exists()


def test_dropped_records_are_not_bad_records(theirs: Path, tmp_path: Path) -> None:
    made = table(tmp_path / "d.csv", dict.fromkeys(range(6), "drop"))
    for rewrite in (False, True):
        out = tmp_path / f"out{rewrite}"
        adopted(theirs, out, decisions=made, rewrite=rewrite, max_bad=0.0)
        assert len(classes(out)) == 5
        assert problems(out) == []
