"""A folder that was not converted is judged as its records would be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_sources import converted, run
from judged_runs import judged_pair, odd_photos, photo, photos, read_csv, run_of

from tfrecord_tools.errors import UserError
from trainers.evaluate import Evaluation, evaluate
from trainers.results import report


def evaluated(workspace: Path, **given: Any) -> tuple[Evaluation, list[str]]:
    """Evaluate the run in a directory, and return the result and the lines for the user."""
    lines: list[str] = []
    return evaluate(run=workspace / "run", log=lines.append, **given), lines


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    """Return a directory with `src` (train and test of two classes), a dataset `out` of it, and a `run`."""
    workspace = tmp_path_factory.mktemp("folders")
    judged_pair(workspace)
    return workspace


@pytest.mark.parametrize(
    "settings",
    [{}, {"resize": 20, "store": "jpeg", "quality": 60}],  # The images lose the same details as the records.
    ids=["unchanged", "resized"],
)
def test_a_folder_has_the_results_of_its_records(settings: dict[str, Any], tmp_path: Path) -> None:
    src = photos(tmp_path / "src", {"train/greens": 4, "train/reds": 4, "test/greens": 20})
    odd_photos(src / "test/reds")
    converted(src, tmp_path / "out", **settings)
    run_of(tmp_path / "run", tmp_path / "out")
    of_records, _ = evaluated(tmp_path, tfrecords=tmp_path / "out", out=tmp_path / "records")
    of_images, lines = evaluated(tmp_path, images=src, out=tmp_path / "images")
    one, other = of_records.metrics, of_images.metrics
    described = {"split", "note", "dataset", "digest", "unreadable"}
    assert one.keys() - described == other.keys() - described
    assert (other["split"], other["dataset"]) == (f"the test split of {src}", str(src))
    assert other["note"] == "It was not checked whether the model was trained on some of these images."
    for key in ("accuracy", "count", "recall", "precision", "balanced_accuracy", "macro_f1", "majority_accuracy"):
        assert one[key] == other[key], key
    assert one["loss"] == pytest.approx(other["loss"], abs=1e-6)
    names = ("records", "images")
    tables = [{row["path"]: row for row in read_csv(tmp_path / name / "predictions.csv")} for name in names]
    assert tables[0].keys() == tables[1].keys()
    for path, row in tables[0].items():
        assert (row["label"], row["prediction"]) == (tables[1][path]["label"], tables[1][path]["prediction"])
        assert float(row["p_reds"]) == pytest.approx(float(tables[1][path]["p_reds"]), abs=1e-5)
        assert (tables[1][path]["record"], row["record"] == "") == ("", False)
    suspects = [{(row["path"], row["sha256"]) for row in read_csv(tmp_path / n / "suspects.csv")} for n in names]
    assert suspects[0] == suspects[1]  # A decision names an image by its hash, so it also works for a folder.
    assert {path.name for path in (tmp_path / "images").iterdir()} == {p.name for p in (tmp_path / "records").iterdir()}
    assert (tmp_path / "images/report.html").read_text().count("<img") == (
        (tmp_path / "records/report.html").read_text().count("<img")
    )
    assert lines[0].startswith(f"accuracy {one['accuracy']:.4f} (")
    assert lines[0].endswith(f" on the 33 images of the test split of {src}")


def test_a_folder_without_splits_is_used_as_a_whole(workspace: Path, tmp_path: Path) -> None:
    photos(tmp_path / "new", {"greens": 3, "reds": 2})
    result, lines = evaluated(workspace, images=tmp_path / "new")
    assert result.metrics["count"] == 5
    assert result.metrics["split"] == f"the images of {tmp_path}/new"
    assert f" on the 5 images of {tmp_path}/new" in lines[0]
    assert result.path.parent == workspace / "run"
    assert result.path.name.startswith("evaluation-new-all-")
    again, _ = evaluated(workspace, images=f"{tmp_path}/../{tmp_path.name}/new")
    assert again.path == result.path  # The same folder replaces its evaluation.
    with pytest.raises(UserError) as error:
        evaluated(workspace, images=tmp_path / "new", split="test")
    assert str(error.value) == (
        f"--split=test: --images={tmp_path}/new has no splits, so all of its images are used. Remove --split."
    )


def test_an_archive_and_a_table_work_too(workspace: Path, tmp_path: Path) -> None:
    folder = photos(tmp_path / "new", {"greens": 3, "reds": 2})
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", folder)
    (folder / "labels.csv").write_text("path,label\ngreens/000.jpg,greens\nreds/001.jpg,reds\n")
    counts = [evaluated(workspace, images=images)[0].metrics["count"] for images in (archive, folder / "labels.csv")]
    assert counts == [5, 2]


def test_images_that_cannot_be_read_are_listed(workspace: Path, tmp_path: Path) -> None:
    folder = photos(tmp_path / "new", {"greens": 3, "reds": 2})
    (folder / "reds/cut.jpg").write_bytes(photo("reds", 1)[:400])
    (folder / "reds/link.jpg").symlink_to("nowhere")
    (folder / "reds/data.bin").write_bytes(b"hello")
    (folder / "reds/notes.txt").write_text("left out by the rules of convert")
    flags = (f"--run={workspace}/run", "--images=new", "--out=to", "--tta=mirror")
    done = run("trainers.evaluate", *flags, cwd=tmp_path)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith(("unreadable", "note", "error"))]
    assert errors[0].startswith("unreadable: reds/cut.jpg: damaged image: ")
    assert errors[1:] == [
        "unreadable: reds/link.jpg: cannot be followed: No such file or directory",
        "note: skipped 1 file that is not an image, for example reds/data.bin",
        "error: 2 files cannot be read (see the list above). All other images were evaluated.",
    ]
    lines = done.stdout.splitlines()
    assert lines[:3] == [
        "images: read with the rules of python -m tfrecord_tools.convert --src=new",
        "  note: 1 file is left out: text files and tables in the same directories as the images of a class",
        "tta: 2 views (mirror): the model computes each image twice",
    ]
    metrics = json.loads((tmp_path / "to/metrics.json").read_text())
    assert (metrics["count"], metrics["tta"], metrics["corrupt"]) == (5, ["mirror"], [])
    assert [text.partition(":")[0] for text in metrics["unreadable"]] == ["reds/cut.jpg", "reds/link.jpg"]
    page = (tmp_path / "to/report.html").read_text()
    assert "2 files unreadable and left out" in page
    assert "2 views (mirror)" in page


def test_unreadable_files_of_other_splits_do_not_count(workspace: Path, tmp_path: Path) -> None:
    folder = photos(tmp_path / "new", {"train/greens": 1, "train/reds": 1, "test/greens": 2, "test/reds": 2})
    for split in ("train", "test"):
        (folder / split / "reds/link.jpg").symlink_to("nowhere")
    result, lines = evaluated(workspace, images=folder, out=tmp_path / "to")
    assert list(result.unreadable) == ["test/reds/link.jpg"]
    assert lines[-1] == (
        "note: 1 image cannot be read, for example test/reds/link.jpg: cannot be followed: No such file or directory."
        " The result lists all of them in `unreadable`"
    )


def test_a_folder_without_a_readable_image_is_an_error(workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "new/reds").mkdir(parents=True)
    (tmp_path / "new/reds/cut.jpg").write_bytes(photo("reds", 1)[:400])
    with pytest.raises(UserError) as error:
        evaluated(workspace, images=tmp_path / "new", out=tmp_path / "to")
    assert str(error.value).startswith(
        f"--images={tmp_path}/new: no image can be read, for example reds/cut.jpg: damaged image: "
    )
    assert list(tmp_path.iterdir()) == [tmp_path / "new"]


def test_classes_that_are_missing_do_not_count(workspace: Path, tmp_path: Path) -> None:
    """A folder has one of two classes. The class is not a directory around everything."""
    photos(tmp_path / "new", {"reds": 6})
    result, lines = evaluated(workspace, images=tmp_path / "new", out=tmp_path / "to")
    rows = read_csv(tmp_path / "to/predictions.csv")
    found = sum(row["prediction"] == "reds" for row in rows) / 6
    assert {row["label"] for row in rows} == {"reds"}
    assert lines[0] == (
        "classes of the model without images (1 of 2): greens. Rates per class and their means use only the 1 class"
        " with images"
    )
    metrics = result.metrics
    assert metrics["recall"] == {"greens": None, "reds": found}
    assert metrics["accuracy"] == metrics["balanced_accuracy"] == found
    assert "Without images: 1 of 2 classes" in (tmp_path / "to/report.html").read_text()


def test_classes_with_other_names_are_mapped_or_left_out(workspace: Path, tmp_path: Path) -> None:
    folder = photos(tmp_path / "new", {"greens": 3, "reds": 2, "blues": 4})
    for color, name in (("greens", "Green"), ("reds", "red"), ("blues", "Sky")):
        (folder / color).rename(folder / name)
    with pytest.raises(UserError) as error:
        evaluated(workspace, images=folder)
    assert str(error.value) == (
        f"--images={folder}: the model has no class Green (3 images), Sky (4 images), red (2 images). The classes of"
        " the model are"
        " greens, reds. To leave out the images of Sky, pass --class_map=Green=greens,Sky=,red=reds. To count them as a"
        " class of the model, write the name of that class after the =."
    )
    flags = (f"--run={workspace}/run", f"--images={folder}", "--out=to", "--class_map=Green=greens,red=reds,Sky=")
    done = run("trainers.evaluate", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("--class_map=Sky=: 4 images are left out\n")
    metrics = json.loads((tmp_path / "to/metrics.json").read_text())
    assert metrics["count"] == 5
    assert metrics["class_map"] == {"Green": "greens", "red": "reds", "Sky": ""}
    assert metrics["left_out"] == {"Sky": 4}
    rows = read_csv(tmp_path / "to/predictions.csv")
    assert [row["label"] for row in rows] == ["greens"] * 3 + ["reds"] * 2
    assert "Green=greens,red=reds,Sky=" in (tmp_path / "to/report.html").read_text()


def test_classes_of_a_dataset_are_mapped_too(workspace: Path, tmp_path: Path) -> None:
    counts = {f"{split}/{color}": 3 for split in ("train", "test") for color in ("blues", "greens", "reds")}
    converted(photos(tmp_path / "src", counts), tmp_path / "out")
    result, lines = evaluated(workspace, tfrecords=tmp_path / "out", class_map={"blues": ""}, out=tmp_path / "to")
    assert lines[0] == "--class_map=blues=: 3 images are left out"
    assert result.metrics["count"] == 6
    assert {row["label"] for row in read_csv(tmp_path / "to/predictions.csv")} == {"greens", "reds"}
    assert result.predictions.records is not None
    numbers = {int(row["record"]) for row in read_csv(tmp_path / "to/predictions.csv")}
    assert numbers == set(result.predictions.records.tolist())


@pytest.mark.parametrize(("tta", "views"), [(["mirror"], 2), ("mirror,crops", 10)], ids=["a list", "as in a flag"])
def test_views_are_averaged_and_reported(tta: Any, views: int, workspace: Path, tmp_path: Path) -> None:
    plain, _ = evaluated(workspace, tfrecords=workspace / "out", out=tmp_path / "plain")
    result, lines = evaluated(workspace, tfrecords=workspace / "out", out=tmp_path / "to", tta=tta)
    assert lines[0].startswith(f"tta: {views} views (mirror")
    assert result.metrics["tta"] == list(result.predictions.tta) == ["mirror", "crops"][: 1 + (views > 2)]
    assert "tta" not in plain.metrics
    change = abs(result.predictions.probabilities - plain.predictions.probabilities).max()
    assert 0 < change < 0.5
    of_images, _ = evaluated(workspace, images=workspace / "src", out=tmp_path / "images", tta=tta)
    by_path = dict(zip(of_images.predictions.paths, of_images.predictions.probabilities))
    for path, probabilities in zip(result.predictions.paths, result.predictions.probabilities):
        np.testing.assert_allclose(by_path[path], probabilities, atol=1e-5)


def test_a_failed_report_leaves_nothing(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(facts: report.Facts) -> str:
        raise OSError(28, "No space left on device")

    evaluated(workspace, tfrecords=workspace / "out", out=tmp_path / "old")
    before = {path: path.read_bytes() for path in (tmp_path / "old").rglob("*") if path.is_file()}
    monkeypatch.setattr(report, "render", failing)
    for out in ("old", "new"):
        with pytest.raises(OSError, match="No space left"):
            evaluated(workspace, tfrecords=workspace / "out", split="train", out=tmp_path / out)
    assert {path: path.read_bytes() for path in (tmp_path / "old").rglob("*") if path.is_file()} == before
    assert list(tmp_path.iterdir()) == [tmp_path / "old"]


def test_other_files_in_the_directory_stay(workspace: Path, tmp_path: Path) -> None:
    evaluated(workspace, tfrecords=workspace / "out", out=tmp_path / "to")
    (tmp_path / "to/decisions.csv").write_text("mine")
    evaluated(workspace, tfrecords=workspace / "out", split="train", out=tmp_path / "to")
    assert (tmp_path / "to/decisions.csv").read_text() == "mine"
    assert json.loads((tmp_path / "to/metrics.json").read_text())["count"] == 4
    assert len(read_csv(tmp_path / "to/predictions.csv")) == 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("--images=src", "--tfrecords=out"),
            "--tfrecords=out and --images=src: only one of these flags is allowed. Remove",
        ),
        (("--images=src", "--audit=a"), "--audit=a: an audit belongs to a dataset, not to --images. Remove --audit."),
        (("--images=nowhere",), "--images=nowhere: does not exist. Pass a folder with a subfolder for each class."),
        (("--images=out",), "--images=out: is a dataset. Pass it as --tfrecords=out."),
        (
            ("--images=src", "--split=validation"),
            "--images=src: split 'validation' does not exist. Splits: train, test. Pass one of these splits as"
            " --split.",
        ),
        (
            ("--images=twice",),
            "--images=twice: cannot be read: twice:"
            " a and b contain directories with the same names (greens, oranges). If the upper directories are splits,",
        ),
        (("--images=src", "--tta=flip"), "--tta=flip: must be one of mirror, crops."),
        (
            ("--images=src", "--class_map=Green"),
            "--class_map=Green: must be NAME=NAME pairs with different names before the =, separated by commas, as in"
            " Cat=cats,Dog=dogs.",
        ),
    ],
)
def test_mistakes_are_reported_before_tensorflow_is_imported(workspace: Path, flags: Any, message: str) -> None:
    if not (workspace / "twice").exists():
        photos(workspace / "twice", {f"{top}/{color}": 1 for top in "ab" for color in ("greens", "reds")})
        for top in "ab":
            (workspace / f"twice/{top}/reds").rename(workspace / f"twice/{top}/oranges")
    done = run("trainers.evaluate", "--run=run", *flags, cwd=workspace, env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: {message}")
    assert " tensorflow" not in done.stderr
