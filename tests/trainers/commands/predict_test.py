"""Tests of the command `python -m trainers.predict`: files are classified exactly as their records."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from foreign_records import example, write
from image_sources import converted, run
from judged_runs import odd_photos, photo, photos, read_csv, run_of
from PIL import Image

from tfrecord_tools import dataset
from tfrecord_tools.adopt import AdoptConfig, adopt
from tfrecord_tools.images import preparation
from trainers.models import model_file
from trainers.predict import PredictConfig, print_answers
from trainers.results import image_files, predictions, sources, views


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    """Return a directory with a dataset `out` of `src`, which has images of all kinds, and a `run` on it."""
    workspace = tmp_path_factory.mktemp("workspace")
    photos(workspace / "src", {"train/greens": 4, "train/reds": 4, "test/greens": 20})
    odd_photos(workspace / "src/test/reds")
    converted(workspace / "src", workspace / "out")
    run_of(workspace / "run", workspace / "out")
    return workspace


def by_record(workspace: Path, out: Path) -> dict[str, np.ndarray]:
    model, info = model_file.load(workspace / "model.keras")
    predicted = predictions.of_records(views.predictor(model), info, dataset.open(out).records("test"))
    return dict(zip(predicted.paths, predicted.probabilities))


def by_file(workspace: Path, source: Path) -> dict[str, np.ndarray]:
    model, info = model_file.load(workspace / "model.keras")
    files = sources.find([str(source)])
    batches = list(image_files.judge(views.predictor(model), info, files.sources))
    assert [files.unreadable, *(batch.unreadable for batch in batches)] == [{}] * (1 + len(batches))
    paths = [os.path.relpath(path, source.parent) for batch in batches for path in batch.predictions.paths]
    return dict(zip(paths, np.concatenate([batch.predictions.probabilities for batch in batches])))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"resize": 20, "store": "jpeg", "quality": 60},  # `predict` must lose the same details.
        {"resize": 18, "resize_mode": "exact", "store": "raw", "upscale": True},
    ],
    ids=["unchanged", "resized", "raw"],
)
def test_file_gets_the_probabilities_of_its_record(settings, workspace, tmp_path):
    converted(workspace / "src", tmp_path / "out", **settings)
    run_of(tmp_path / "run", tmp_path / "out")
    records = by_record(tmp_path / "run", tmp_path / "out")
    files = by_file(tmp_path / "run", workspace / "src/test")
    assert len(files) == 33
    assert files.keys() == records.keys()
    for path, probabilities in files.items():
        np.testing.assert_allclose(probabilities, records[path], atol=1e-5, err_msg=path)


def test_rotated_photograph_is_turned_upright(workspace):
    """The halves of the photograph differ, so that its probability depends on the orientation."""
    files = by_file(workspace / "run", workspace / "src/test")
    model, _ = model_file.load(workspace / "run/model.keras")
    with Image.open(workspace / "src/test/reds/turned3.jpg") as image:
        upright = image.transpose(Image.Transpose.ROTATE_180)
    side = round(24 * 0.875)
    left, top = (60 - side) // 2, (24 - side) // 2
    square = upright.crop((left, top, left + side, top + side)).resize((16, 16), Image.Resampling.BOX)
    (p,) = np.asarray(model(np.asarray(square)[None]))[0]
    assert files["test/reds/turned3.jpg"][1] == pytest.approx(p, abs=0.02)


@pytest.fixture(scope="module")
def mixed(workspace) -> Path:
    """Return a directory with readable images, unreadable ones and a hidden file."""
    directory = workspace / "mixed"
    shutil.copytree(workspace / "src/test/greens", directory / "a/deep")
    (directory / "text.jpg").write_text("<html>")
    (directory / "cut.jpg").write_bytes(photo("reds", 1)[:400])
    (directory / "empty.png").write_bytes(b"")
    (directory / ".hidden").write_text("x")
    return directory


def test_table_and_unreadable_files(workspace, mixed):
    one = workspace / "src/train/reds/000.jpg"
    done = run("trainers.predict", "--run=run", "mixed", str(one), "--csv=all.csv", cwd=workspace)
    assert done.returncode == 1
    rows = read_csv(workspace / "all.csv")
    assert list(rows[0]) == ["record", "path", "label", "prediction", "p_greens", "p_reds"]
    assert [row["path"] for row in rows] == [*(f"mixed/a/deep/{i:03d}.jpg" for i in range(20)), str(one)]
    assert done.stdout.splitlines() == [
        f"{row['prediction']:<6}  {float(row['p_' + row['prediction']]):.4f}  {row['path']}" for row in rows
    ]
    errors = [line for line in done.stderr.splitlines() if line.startswith(("unreadable", "error"))]
    assert errors[0].startswith("unreadable: mixed/cut.jpg: damaged image: ")
    assert errors[1:] == [
        "unreadable: mixed/empty.png: empty file",
        "unreadable: mixed/text.jpg: not an image (starts with b'<html>'); an HTML page: download the file again",
        "error: 3 files cannot be read (see the list above). All other images were classified.",
    ]


def test_json(workspace, mixed):
    lines: list[str] = []
    outcome = print_answers(PredictConfig(run=str(workspace / "run"), images=[str(mixed)], json=True), lines.append)
    answer = json.loads("".join(lines))
    assert len(answer["predictions"]) == 20
    first = answer["predictions"][0]
    assert first["path"] == f"{mixed}/a/deep/000.jpg"
    assert first["probabilities"].keys() == {"greens", "reds"}
    assert first["prediction"] == max(first["probabilities"], key=first["probabilities"].get)
    assert answer["unreadable"] == outcome.unreadable
    assert len(outcome.unreadable) == 3


def test_exit_code_is_0_without_unreadable_files(workspace):
    done = run("trainers.predict", f"--run={workspace}/run/model.keras", "src/train/reds/000.jpg", cwd=workspace)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 1)


def test_other_files_in_a_directory_are_skipped(workspace, tmp_path):
    """In a directory, only files that look like images can fail. A file that the user named can fail, too."""
    shutil.copytree(workspace / "src/train/reds", tmp_path / "photos")
    for name, data in {"notes.txt": b"hello", "table.csv": b"a,b", "README": b"read me", "empty.md": b""}.items():
        (tmp_path / "photos" / name).write_bytes(data)
    done = run("trainers.predict", f"--run={workspace}/run", "photos", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "note: skipped 4 files that are not images, for example photos/README\n" in done.stderr
    answer = json.loads(done.stdout)
    assert (len(answer["predictions"]), answer["unreadable"]) == (4, {})
    assert list(answer["skipped"]) == [f"photos/{name}" for name in ("README", "empty.md", "notes.txt", "table.csv")]
    named = run("trainers.predict", f"--run={workspace}/run", "photos/notes.txt", cwd=tmp_path)
    assert named.returncode == 1
    assert "unreadable: photos/notes.txt: not an image (starts with b'hello')" in named.stderr
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/notes.txt").write_bytes(b"hello")
    none = run("trainers.predict", f"--run={workspace}/run", "texts", cwd=tmp_path)
    assert none.returncode == 1
    assert none.stderr.endswith("error: no images found. Pass image files, or directories of images.\n")


def test_only_unreadable_files(workspace, mixed, tmp_path):
    lines: list[str] = []
    (tmp_path / "none.csv").write_text("of an earlier run")
    config = PredictConfig(run=str(workspace / "run"), images=[str(mixed / "text.jpg")], csv=str(tmp_path / "none.csv"))
    assert list(print_answers(config, lines.append).unreadable) == [str(mixed / "text.jpg")]
    assert lines == []
    assert (tmp_path / "none.csv").read_text() == "record,path,label,prediction,p_greens,p_reds\n"
    done = run("trainers.predict", "--run=run", "mixed/text.jpg", cwd=workspace)
    assert done.stderr.splitlines()[-1] == "error: 1 file cannot be read (see the list above). No image was classified."


def test_repeated_file_is_classified_once(workspace):
    directory = workspace / "src/train/reds"
    files = sources.find([str(directory), str(directory / "000.jpg"), f"{directory}/../reds/./001.jpg"])
    assert [source.path for source in files.sources] == [f"{directory}/{i:03d}.jpg" for i in range(4)]


def test_names_that_are_not_utf8_are_written(workspace, tmp_path):
    directory = os.fsencode(tmp_path) + b"/\xff"
    os.mkdir(directory)
    shutil.copy(workspace / "src/train/reds/000.jpg", os.fsdecode(directory))
    config = PredictConfig(run=str(workspace / "run"), images=[os.fsdecode(directory)], csv=str(tmp_path / "a.csv"))
    print_answers(config, lambda line: None)
    assert read_csv(tmp_path / "a.csv")[0]["path"] == f"{tmp_path}/\\xff/000.jpg"


def test_threshold(workspace, tmp_path):
    table = tmp_path / "a.csv"
    config = PredictConfig(
        run=str(workspace / "run"), images=[str(workspace / "src/test")], csv=str(table), threshold=0.9
    )
    print_answers(config, lambda line: None)
    rows = read_csv(table)
    for row in rows:
        assert row["prediction"] == ("reds" if float(row["p_reds"]) >= 0.9 else "greens")
    assert any(0.5 <= float(row["p_reds"]) < 0.9 for row in rows)  # The threshold changes some predictions.


def test_unexpected_error_is_reported_for_its_file_only(workspace, monkeypatch):
    prepare = preparation.prepare

    def failing(data: bytes, config: preparation.ImageConfig) -> preparation.Prepared:
        if data == bad:
            raise RuntimeError("a bug")
        return prepare(data, config)

    bad = (workspace / "src/train/reds/001.jpg").read_bytes()
    monkeypatch.setattr(preparation, "prepare", failing)
    model, info = model_file.load(workspace / "run/model.keras")
    files = sources.find([str(workspace / "src/train/reds")])
    (batch,) = image_files.judge(views.predictor(model), info, files.sources)
    assert len(batch.predictions) == 3
    assert batch.unreadable == {f"{workspace}/src/train/reds/001.jpg": "RuntimeError: a bug"}


def test_directory_that_cannot_be_read_is_reported(workspace, tmp_path, monkeypatch):
    for name in ("a/one.jpg", "b/two.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(photo("reds", 1))
    scandir = os.scandir

    def refusing(path: str):
        if str(path).endswith("/a"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    files = sources.find([str(tmp_path)])
    assert [source.path for source in files.sources] == [f"{tmp_path}/b/two.jpg"]
    assert files.unreadable == {f"{tmp_path}/a": "cannot be listed: Permission denied"}


def test_model_of_adopted_records_gets_files_unchanged(workspace, tmp_path):
    """Adopted images keep their EXIF orientation, so the files must not be turned upright."""
    data = [(workspace / f"src/test/reds/turned{i}.jpg").read_bytes() for i in range(2, 9)]
    write(tmp_path / "theirs/train-00000-of-00001", [example({"jpeg": d, "class": i % 2}) for i, d in enumerate(data)])
    names = ["greens", "reds"]
    config = AdoptConfig(records=str(tmp_path / "theirs"), out=str(tmp_path / "out"), classes=names, workers=1)
    adopt(config, lambda line: None)
    run_of(tmp_path / "run", tmp_path / "out")
    model, info = model_file.load(tmp_path / "run/model.keras")
    assert info.images == {}
    records = predictions.of_records(views.predictor(model), info, dataset.open(tmp_path / "out").records("train"))
    files = sources.find([str(workspace / f"src/test/reds/turned{i}.jpg") for i in range(2, 9)])
    batches = image_files.judge(views.predictor(model), info, files.sources)
    probabilities = np.concatenate([batch.predictions.probabilities for batch in batches])
    np.testing.assert_allclose(probabilities, records.probabilities, atol=1e-5)


def test_deleted_file_is_reported(workspace, tmp_path):
    (tmp_path / "gone.jpg").write_bytes(photo("reds", 1))
    files = sources.find([str(tmp_path)])
    (tmp_path / "gone.jpg").unlink()
    model, info = model_file.load(workspace / "run/model.keras")
    (batch,) = image_files.judge(views.predictor(model), info, files.sources)
    assert len(batch.predictions) == 0
    assert batch.unreadable == {f"{tmp_path}/gone.jpg": "No such file or directory"}


def test_batches_are_full_with_other_files_between_images(workspace, tmp_path):
    """The model is traced for few batch sizes, and results do not depend on unreadable files nearby."""
    for i in range(40):
        (tmp_path / f"{i:02}.jpg").write_bytes(photo("reds", i))
        (tmp_path / f"{i:02}.txt").write_bytes(b"hello")
        (tmp_path / f"{i:02}a.jpg").write_bytes(photo("reds", i)[:400])
    model, info = model_file.load(workspace / "run/model.keras")
    batches = list(image_files.judge(views.predictor(model), info, sources.find([str(tmp_path)]).sources))
    assert [len(batch.predictions) for batch in batches] == [32, 8]
    paths = [path for batch in batches for path in batch.predictions.paths]
    assert paths == [f"{tmp_path}/{i:02}.jpg" for i in range(40)]
    assert sum(len(batch.skipped) for batch in batches) == sum(len(batch.unreadable) for batch in batches) == 40


def test_decode_file_returns_pixels_or_the_reason(workspace):
    _, info = model_file.load(workspace / "run/model.keras")
    pixels = image_files.decode_file(photo("reds", 1), info)
    assert isinstance(pixels, np.ndarray)
    assert (pixels.shape, pixels.dtype) == ((16, 16, 3), np.dtype(np.uint8))
    text = image_files.decode_file(b"<html>", info)
    assert isinstance(text, image_files.Unreadable)
    assert text.reason.startswith("not an image (starts with b'<html>')")
    assert not text.may_be_image
    cut = image_files.decode_file(photo("reds", 1)[:400], info)
    assert isinstance(cut, image_files.Unreadable)
    assert cut.reason.startswith("damaged image: ")
    assert cut.may_be_image


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--run is missing. Pass the run directory of a trainer, or its model.keras."),
        (("--run=run",), "no images given. Pass image files, or directories of images."),
        (("--run=run", "nowhere.jpg"), "nowhere.jpg: does not exist. Pass images, or"),
        (("--run=nowhere", "src"), "--run=nowhere: does not exist."),
        (("--run=run", "src", "--csv=nowhere/a.csv"), "--csv=nowhere/a.csv: its directory does not exist."),
        (("--run=run", "src", "--csv=src"), "--csv=src: is a directory. Pass the name of a file."),
        (("--run=run", "src", "--threshold=1"), "--threshold=1: must be above 0 and below 1."),
        (("--run=run", "nothing"), "nothing: contains no files."),
    ],
)
def test_errors_are_reported_before_tensorflow_is_imported(workspace, arguments, message):
    (workspace / "nothing").mkdir(exist_ok=True)
    done = run("trainers.predict", *arguments, cwd=workspace, env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: {message}")
    assert " tensorflow" not in done.stderr


def test_commands_are_listed(tmp_path):
    done: subprocess.CompletedProcess[str] = run("trainers", cwd=tmp_path)
    for name in ("predict", "evaluate"):
        assert f"python -m trainers.{name} " in done.stdout
