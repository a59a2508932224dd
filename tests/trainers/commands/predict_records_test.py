"""Predictions for records: of a dataset, and of TFRecords of other tools without labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign_records import example, write
from image_sources import converted, flip, run
from judged_runs import judged_pair, photo, photos, read_csv, run_of

import trainers
from tfrecord_tools.errors import UserError
from trainers.evaluate import evaluate
from trainers.predict import PredictConfig, print_answers


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    """Return a directory with a dataset `out`, a `run` on it, and TFRecords of another tool."""
    workspace = tmp_path_factory.mktemp("records")
    judged_pair(workspace)
    for number in range(2):
        images = [photo("reds", 10 * number + i) for i in range(3)]
        records = [example({"image": image, "id": f"photo{number}{i}".encode()}) for i, image in enumerate(images)]
        write(workspace / f"theirs/{number:02d}-3.tfrec", records)
    return workspace


def quiet(line: object) -> None:
    pass


def test_records_have_the_predictions_of_an_evaluation(workspace: Path, tmp_path: Path) -> None:
    flags = (f"--run={workspace}/run", f"--tfrecords={workspace}/out", "--split=test", "--csv=all.csv")
    done = run("trainers.predict", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    evaluate(run=workspace / "run", tfrecords=workspace / "out", out=tmp_path / "to", log=quiet)
    assert (tmp_path / "all.csv").read_bytes() == (tmp_path / "to/predictions.csv").read_bytes()
    rows = read_csv(tmp_path / "all.csv")
    assert len(rows) == len(done.stdout.splitlines()) == 40
    assert done.stdout.splitlines()[0].endswith(rows[0]["path"])


@pytest.mark.parametrize("tta", [[], ["mirror", "crops"]])
def test_python_gives_the_same(tta: list[str], workspace: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    config = PredictConfig(run=str(workspace / "run"), tfrecords=str(workspace / "out"), json=True, tta=tta)
    print_answers(config, lines.append)
    printed = json.loads("".join(lines))
    answers = trainers.predict(run=workspace / "run", tfrecords=workspace / "out", split="test", tta=tta)
    assert printed["tta"] == list(answers.tta) == tta
    assert [row["path"] for row in printed["predictions"]] == list(answers.paths)
    assert [row["prediction"] for row in printed["predictions"]] == answers.names
    assert answers.records is not None
    assert [row["record"] for row in printed["predictions"]] == answers.records.tolist()
    assert [row["label"] for row in printed["predictions"]] == [answers.classes[i] for i in answers.truth]
    p = [[row["probabilities"][name] for name in answers.classes] for row in printed["predictions"]]
    np.testing.assert_allclose(answers.probabilities, p, atol=1e-6)


def test_classes_that_the_model_does_not_know_are_shown(workspace: Path, tmp_path: Path) -> None:
    """A prediction needs no labels, so the dataset may have any classes."""
    converted(
        photos(tmp_path / "src", {"test/blues": 3, "test/reds": 2, "train/reds": 1, "train/blues": 1}), tmp_path / "out"
    )
    table = tmp_path / "a.csv"
    config = PredictConfig(run=str(workspace / "run"), tfrecords=str(tmp_path / "out"), csv=str(table))
    assert print_answers(config, quiet).count == 5
    assert sorted(row["label"] for row in read_csv(table)) == ["blues"] * 3 + ["reds"] * 2
    answers = trainers.predict(run=workspace / "run", tfrecords=tmp_path / "out")
    assert answers.labels is None
    assert [answers.label(i) for i in range(5)] == [row["label"] for row in read_csv(table)]


def test_corrupt_records_are_listed(workspace: Path, tmp_path: Path) -> None:
    converted(
        photos(tmp_path / "src", {"test/greens": 3, "test/reds": 3, "train/reds": 1, "train/greens": 1}),
        tmp_path / "out",
    )
    (shard,) = (tmp_path / "out").glob("*-test.tfrecord-*")
    flip(shard, shard.stat().st_size // 2)
    done = run("trainers.predict", f"--run={workspace}/run", "--tfrecords=out", "--csv=a.csv", cwd=tmp_path)
    assert done.returncode == 1
    assert len(read_csv(tmp_path / "a.csv")) == 5
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("unreadable: ")]
    assert " is corrupt: test record " in line
    assert done.stderr.splitlines()[-1] == (
        "error: 1 file cannot be read (see the list above). All other images were classified."
    )


def test_records_of_other_tools_need_no_labels(workspace: Path, tmp_path: Path) -> None:
    flags = (f"--run={workspace}/run", f"--tfrecords={workspace}/theirs", "--csv=a.csv", "--json", "--tta=mirror")
    done = run("trainers.predict", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-2:] == [
        "2 files with images in 'image', path in 'id'",
        "tta: 2 views (mirror): the model computes each image twice",
    ]
    rows = read_csv(tmp_path / "a.csv")
    assert [(row["record"], row["path"], row["label"]) for row in rows] == [
        (str(3 * number + i), f"photo{number}{i}", "") for number in range(2) for i in range(3)
    ]
    files = [tmp_path / f"{row['path']}.jpg" for row in rows]
    for file, seed in zip(files, (0, 1, 2, 10, 11, 12)):
        file.write_bytes(photo("reds", seed))
    answers = trainers.predict(run=workspace / "run", images=files, tta="mirror")
    np.testing.assert_allclose([float(row["p_reds"]) for row in rows], answers.probabilities[:, 1], atol=1e-6)
    assert json.loads(done.stdout)["tta"] == ["mirror"]


def test_a_pattern_and_another_feature(workspace: Path, tmp_path: Path) -> None:
    values = {"first": photo("reds", 1), "second": photo("greens", 2)}
    write(tmp_path / "a.tfrec", [example(values)] * 2)
    given: dict[str, Any] = {"run": workspace / "run", "tfrecords": str(tmp_path / "*.tfrec")}
    for key, name in (("first", "reds"), ("second", "greens")):
        answers = trainers.predict(**given, image_key=key)
        assert answers.names == [name, name]
        assert answers.paths == ["a.tfrec:0", "a.tfrec:1"]
    with pytest.raises(UserError) as error:
        trainers.predict(**given)
    assert str(error.value) == (
        f"{tmp_path}/a.tfrec, first 2 records: several features hold an encoded image. Pass the right feature as"
        " --image_key. The features (fields) of the records: first (1 bytes, JPEG), second (1 bytes, JPEG)."
    )
    with pytest.raises(UserError) as error:
        trainers.predict(**given, image_key="third")
    assert str(error.value).startswith("--image_key=third: there is no such feature in ")


def test_records_without_an_image_and_damaged_records_are_listed(workspace: Path, tmp_path: Path) -> None:
    good = [example({"image": photo("reds", i)}) for i in range(3)]
    path = write(tmp_path / "a.tfrec", [*good, example({"image": b"text"}), example({"other": 1}), b"\xff", *good[:2]])
    flip(path, path.stat().st_size - 8)  # In the last record.
    answers = trainers.predict(run=workspace / "run", tfrecords=path)
    assert answers.paths == [f"a.tfrec:{number}" for number in (0, 1, 2, 6)]
    assert answers.records is not None
    assert answers.records.tolist() == [0, 1, 2, 6]
    reasons = dict(answers.unreadable)
    assert reasons.pop("a.tfrec:3").startswith("not an image (starts with b'text')")
    assert reasons.pop("a.tfrec:4") == "it has no image: 'image' is missing or empty"
    assert reasons.pop("a.tfrec:5") == "it is not a tf.train.Example"
    ((place, reason),) = reasons.items()
    assert place.startswith(f"{path}: record 7 (counted from 0) at byte ")
    assert reason == "the checksum of its data is wrong; the record is left out"


def test_a_model_of_adopted_records_gets_records_unchanged(workspace: Path, tmp_path: Path) -> None:
    from tfrecord_tools.adopt import AdoptConfig, adopt

    labeled = [example({"image": photo("reds", i), "label": i % 2}) for i in range(4)]
    write(tmp_path / "theirs/train.tfrec", labeled)
    names = ["greens", "reds"]
    adopt(AdoptConfig(records=str(tmp_path / "theirs"), out=str(tmp_path / "out"), classes=names, workers=1), quiet)
    run_of(tmp_path / "run", tmp_path / "out")
    of_dataset = trainers.predict(run=tmp_path / "run", tfrecords=tmp_path / "out", split="train")
    of_files = trainers.predict(run=tmp_path / "run", tfrecords=tmp_path / "theirs")
    np.testing.assert_allclose(of_dataset.probabilities, of_files.probabilities, atol=1e-6)
    assert of_dataset.truth.tolist() == [0, 1, 0, 1]
    assert of_files.labels is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--tfrecords=out", "src"),
            "--tfrecords=out: images are given, too. Remove the paths of the images from the command, or remove"
            " --tfrecords.",
        ),
        (("src", "--split=test"), "--split=test: only --tfrecords uses it. Add --tfrecords, or remove --split."),
        (("src", "--image_key=a"), "--image_key=a: only --tfrecords uses it. Add --tfrecords, or remove --image_key."),
        (
            ("--tfrecords=out", "--split=validation"),
            "out: split 'validation' does not exist. Splits: train, test. Pass one of these splits as --split. A"
            " dataset contains only images with labels. To classify other images, pass their files, or the TFRecords"
            " that contain them.",
        ),
        (
            ("--tfrecords=theirs", "--split=test"),
            "--split=test: only a dataset has splits, and --tfrecords=theirs is not a dataset. Remove --split, and pass"
            " the files of the split as --tfrecords.",
        ),
        (
            ("--tfrecords=out", "--image_key=image"),
            "--image_key=image: only TFRecords of other tools need it. Remove the flag.",
        ),
        (
            ("--tfrecords=nowhere",),
            "--tfrecords=nowhere: no file matches. Pass a directory, or a pattern in quotes, for example"
            " 'data/train-*'.",
        ),
        (
            ("--tfrecords=src/test/reds/000.jpg",),
            "src/test/reds/000.jpg: is not a TFRecord file: the file is a JPEG image.",
        ),
        (("src", "--tta=flip"), "--tta=flip: must be one of mirror, crops."),
    ],
)
def test_mistakes_are_reported_before_tensorflow_is_imported(workspace: Path, arguments: Any, message: str) -> None:
    done = run("trainers.predict", "--run=run", *arguments, cwd=workspace, env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: {message}")
    assert " tensorflow" not in done.stderr


def test_python_checks_the_same(workspace: Path) -> None:
    with pytest.raises(UserError, match=r"^no images given\. "):
        trainers.predict(run=workspace / "run")
    with pytest.raises(UserError, match=r"^--tfrecords=.*: images are given, too\. "):
        trainers.predict(workspace / "src", run=workspace / "run", tfrecords=workspace / "out")
    with pytest.raises(UserError, match=r"^--run is missing"):
        trainers.predict(workspace / "src")
