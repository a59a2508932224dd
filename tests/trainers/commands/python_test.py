"""Trainings from Python are those of the command line, and a `Run` does what the commands do."""

from __future__ import annotations

import importlib
import inspect
import json
import pickle
import shutil
import typing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tiny_backbone
from image_sources import converted, run, tree
from PIL import Image

import tfrecord_tools
import trainers
from tfrecord_tools.errors import UserError
from trainers import predict, training_options
from trainers.auditing.issues import KINDS
from trainers.models import inference
from trainers.predict import PredictOptions
from trainers.results import image_files
from trainers.run import Run

TYPES = {
    "scratch": training_options.ScratchOptions,
    "features": training_options.FeaturesOptions,
    "frozen": training_options.ImageOptions,
    "finetune": training_options.FinetuneOptions,
}
SHORT = {"batch_size": 8, "epochs": 1, "seed": 3}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a dataset of two classes, and weights."""
    workspace = tmp_path_factory.mktemp("python")
    tiny_backbone.save_weights(workspace / "w.weights.h5")
    converted(tree(workspace / "src", {"cats": 12, "dogs": 12}), workspace / "out")
    return workspace


def options(trainer: str, workspace: Path) -> dict[str, Any]:
    if trainer == "scratch":
        return {"image_size": 24, **SHORT}
    epochs = [1, 1] if trainer == "finetune" else 1
    return tiny_backbone.MODEL | {"weights": workspace / "w.weights.h5"} | SHORT | {"epochs": epochs}


def as_flags(given: dict[str, Any]) -> list[str]:
    def text(value: Any) -> str:
        if isinstance(value, dict):
            return ",".join(f"{name}={one!r}" for name, one in value.items())
        return ",".join(map(str, value)) if isinstance(value, list) else str(value)

    return [f"--{name}={text(value)}" for name, value in given.items()]


@pytest.mark.parametrize("trainer", list(TYPES))
def test_python_and_the_command_give_the_same_weights(
    trainer: str, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = options(trainer, workspace)
    here = getattr(trainers, trainer)(tfrecords=workspace / "out", run="here", **given)
    done = run(f"trainers.{trainer}", f"--tfrecords={workspace / 'out'}", "--run=there", *as_flags(given), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    there = trainers.load("there")
    for left, right in zip(here.model.get_weights(), there.model.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)
    assert here.settings["flags"] == there.settings["flags"]
    assert here.history["loss"] == there.history["loss"]


def test_options_have_types_for_editors() -> None:
    for trainer, types in TYPES.items():
        declared = typing.get_type_hints(types)
        table = {option.name: option for option in training_options.OPTIONS[trainer]}
        assert declared.keys() == table.keys()
        listed = inspect.signature(getattr(trainers, trainer)).parameters
        assert listed.keys() == table.keys()
        for name, option in table.items():
            assert f"{name} (" in (getattr(trainers, trainer).__call__.__doc__ or ""), name
            expected = {"switch": bool, "integer": int, "number": float, "text": str}.get(option.kind)
            assert expected is None or declared[name] is expected, name


@pytest.fixture(scope="module")
def trained(workspace: Path) -> Run:
    return trainers.features(
        tfrecords=workspace / "out",
        run=workspace / "run",
        features=workspace / "features",
        log=lambda line: None,
        **options("features", workspace) | {"epochs": 3},
    )


def test_weights_by_hand_of_classes(trained: Run, workspace: Path, tmp_path: Path) -> None:
    given = options("features", workspace) | {"features": workspace / "features", "log": lambda line: None}

    def train(name: str, weights: Any) -> Run:
        return trainers.features(tfrecords=workspace / "out", run=tmp_path / name, class_weights=weights, **given)

    one, other, none = train("one", {"cats": 1, "dogs": 3}), train("other", "dogs:3,cats:1"), train("none", "none")
    assert one.settings["flags"]["class_weights"] == {"cats": 1.0, "dogs": 3.0}
    assert one.settings["recipe"]["class_weights"] == {"cats": 1.0, "dogs": 3.0}
    assert "--class_weights=cats:1,dogs:3" in (one.path / "report.html").read_text()
    for left, right in zip(one.model.get_weights(), other.model.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)
    assert one.history["loss"] != none.history["loss"]
    assert train("one", "cats:1,dogs:3").path == one.path  # The run is finished, so nothing is trained.
    with pytest.raises(UserError) as error:
        train("one", {"cats": 1, "dogs": 2})
    assert str(error.value).startswith(
        f"--run={tmp_path}/one: was started with other settings: --class_weights.dogs was 3.0, is now 2.0."
    )
    with pytest.raises(UserError, match=r"^--class_weights=cats:1: there is no weight for dogs\. "):
        train("another", {"cats": 1})
    assert not (tmp_path / "another").exists()


def test_a_run_judges_folders_and_records(trained: Run, workspace: Path, tmp_path: Path) -> None:
    evaluation = trained.evaluate(images=workspace / "src", out=tmp_path / "to", tta="mirror", log=lambda line: None)
    assert (evaluation.metrics["count"], evaluation.metrics["tta"]) == (24, ["mirror"])
    answers = trained.predict(tfrecords=workspace / "out", split="validation", tta=["mirror"])
    by_path = dict(zip(evaluation.predictions.paths, evaluation.predictions.probabilities))
    for path, probabilities in zip(answers.paths, answers.probabilities):
        np.testing.assert_allclose(by_path[path], probabilities, atol=1e-5)


def test_a_run_shows_its_results(trained: Run) -> None:
    assert trained.metrics["count"] == 4
    assert set(trained.history) >= {"phase", "loss", "val_loss"}
    assert trained.history["phase"] == ["head"] * 3
    assert all(isinstance(value, float) for value in trained.history["loss"])
    assert trained.classes == ("cats", "dogs")
    assert repr(trained).startswith(f"Run('{trained.path}'): accuracy {trained.metrics['accuracy']:.4f} on the ")
    page = trained._repr_html_()
    assert page.startswith("<div>Run(")
    assert '<iframe srcdoc="&lt;!DOCTYPE html&gt;' in page


def test_predictions_are_the_same_from_paths_pixels_and_images(trained: Run, workspace: Path) -> None:
    paths = sorted((workspace / "src/cats").iterdir())[:3]
    of_paths = trained.predict(paths)
    assert of_paths.paths == [str(path) for path in paths]
    assert of_paths.probabilities.shape == (3, 2)
    assert of_paths.names == [trained.classes[label] for label in of_paths.probabilities.argmax(1)]
    images = [Image.open(path).convert("RGB") for path in paths]
    pixels = [np.asarray(image) for image in images]
    for other in (images, pixels, np.stack(pixels)):
        answers = trained.predict(other)
        assert answers.paths == ["image 0", "image 1", "image 2"]
        np.testing.assert_allclose(answers.probabilities, of_paths.probabilities, atol=0.02)  # JPEG is decoded twice.
    np.testing.assert_array_equal(trained.predict(images).probabilities, trained.predict(pixels).probabilities)
    assert len(trained.predict(paths[0])) == len(trained.predict(pixels[0])) == 1
    whole = trainers.predict(run=trained.path, images=workspace / "src/cats")
    np.testing.assert_array_equal(whole.probabilities[:3], of_paths.probabilities)
    assert trained.predict(paths, threshold=0.999).names == ["cats"] * 3


def test_files_without_prediction_are_listed(trained: Run, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    answers = trained.predict(tmp_path)
    assert (len(answers), list(answers.skipped), answers.probabilities.shape) == (0, [f"{tmp_path}/notes.txt"], (0, 2))
    named = trained.predict(tmp_path / "notes.txt")
    assert list(named.unreadable) == [f"{tmp_path}/notes.txt"]


def test_a_run_is_found_after_a_change_of_the_working_directory(
    trained: Run, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace)
    run = trainers.load(trained.path.name)
    assert run.path == trained.path
    monkeypatch.chdir(tmp_path)
    assert (run.metrics, run.settings, run.history) == (trained.metrics, trained.settings, trained.history)
    assert repr(run) == repr(trained)


def test_a_run_that_was_deleted_is_an_error(trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trainers.load(shutil.copytree(trained.path, tmp_path / "run"))
    shutil.rmtree(tmp_path / "run")
    for name in ("metrics.json", "settings.json", "history.csv"):
        with pytest.raises(UserError) as error:
            getattr(run, name.partition(".")[0])
        assert str(error.value).startswith(f"{tmp_path}/run/{name}: does not exist. The run was moved or deleted, or ")
    assert repr(run) == f"Run('{tmp_path}/run')"
    hosts = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(hosts))
    with pytest.raises(UserError):
        _ = run.metrics
    monkeypatch.setenv("TF_CONFIG", json.dumps(hosts | {"task": {"type": "worker", "index": 1}}))
    assert (run.metrics, run.settings, run.history) == ({}, {}, {})  # Shared storage may show the files late.


def test_the_model_is_compiled_once(trained: Run, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, photo, calls = trainers.load(trained.path), workspace / "src/cats/000.jpg", []
    compiled = inference.compiled
    monkeypatch.setattr(inference, "compiled", lambda model: calls.append(model) or compiled(model))
    first = run.predict(photo).probabilities
    np.testing.assert_array_equal(run.predict(photo).probabilities, first)
    run.predict(photo, tta="mirror")
    assert len(calls) == 1
    run.model.set_weights([values + 0.1 for values in run.model.get_weights()])
    pixels = np.asarray(image_files.decode_file(photo.read_bytes(), run.info))[None]
    np.testing.assert_allclose(run.predict(photo).probabilities[:, 1:], run.model(pixels), atol=1e-5)
    assert np.abs(run.predict(photo).probabilities - first).max() > 1e-3
    assert len(calls) == 2
    copy = pickle.loads(pickle.dumps(run))  # The compiled model stays here.
    assert (copy, copy.metrics) == (run, run.metrics)


def test_options_that_a_run_sets_itself_are_refused(trained: Run, workspace: Path) -> None:
    photo = workspace / "src/cats/000.jpg"
    wrong: dict[str, Any] = {"run": "nowhere", "custom_objects": ["no.py"], "engine": "openvino"}
    for name, value in wrong.items():
        with pytest.raises(TypeError, match=f"^there is no option '{name}'"):
            trained.predict(photo, **{name: value})
    twice: dict[str, Any] = {"init_from": "nowhere", "more_epochs": 2}
    for name, value in twice.items():
        with pytest.raises(TypeError, match=f"multiple values for keyword argument '{name}'"):
            trained.train_more(1, **{name: value})
    listed = typing.get_type_hints(PredictOptions).keys()
    assert listed == {option.name for option in predict._OF_IMAGES}
    assert listed | {"run", "custom_objects", "engine"} == {option.name for option in predict._SHARED}


def test_answers_have_the_positions_of_their_images(trained: Run, workspace: Path, tmp_path: Path) -> None:
    good = [workspace / "src/cats/000.jpg", workspace / "src/dogs/001.jpg"]
    (tmp_path / "cut.png").write_bytes((workspace / "src/cats/002.png").read_bytes()[:200])
    (tmp_path / "notes.txt").write_text("hello")
    cut, lines = Image.open(tmp_path / "cut.png"), list[str]()
    images: list[Any] = [tmp_path / "cut.png", good[0], cut, workspace / "src/dogs", tmp_path, good[1]]
    answers = trained.predict(images, log=lines.append)
    assert answers.numbers.tolist() == [1, *[3] * 12, 5]
    assert len(answers) == 14
    assert answers.paths[0] == str(good[0])
    assert answers.paths[-1] == str(good[1])
    assert list(answers.unreadable) == [f"{tmp_path}/cut.png", "image 2"]
    assert lines == [
        f"note: 2 images cannot be read, for example {tmp_path}/cut.png: {answers.unreadable[f'{tmp_path}/cut.png']}."
        " The result lists all of them in `unreadable`",
        f"note: skipped 1 file that is not an image, for example {tmp_path}/notes.txt",
    ]
    of_records = trained.predict(tfrecords=workspace / "out", split="validation", log=lines.append)
    assert of_records.numbers.tolist() == list(range(len(of_records)))
    assert trained.predict(cut, log=lines.append).numbers.tolist() == []
    assert lines[2].startswith("note: 1 image cannot be read, for example image 0: damaged image: ")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            np.zeros((4, 4, 3), np.float32),
            "image 0: is float32 of shape (4, 4, 3), but pixels must be uint8 of shape (height, width, 3), with values"
            " from 0",
        ),
        (
            [np.zeros((4, 4, 4), np.uint8)],
            "image 0: is uint8 of shape (4, 4, 4), but pixels must be uint8 of shape (height, width, 3)",
        ),
        (
            [],
            "no images given. Pass paths of images, the bytes of image files, uint8 arrays of shape (height, width, 3)",
        ),
        ("nowhere.jpg", "nowhere.jpg: does not exist. Pass images, or directories of images."),
    ],
)
def test_images_that_cannot_be_used(images: Any, message: str, trained: Run) -> None:
    with pytest.raises(UserError) as error:
        trained.predict(images)
    assert str(error.value).startswith(message)


def test_evaluate_and_export_of_a_run(trained: Run, workspace: Path, tmp_path: Path) -> None:
    evaluation = trained.evaluate(workspace / "out", split="validation", out=tmp_path / "to", log=lambda line: None)
    assert evaluation.metrics["accuracy"] == trained.metrics["accuracy"]
    assert len(evaluation.predictions) == evaluation.metrics["count"]
    assert evaluation._repr_html_().startswith("<div>Evaluation(")
    exported = trained.export(out=tmp_path / "saved")
    assert exported.check.passed
    assert (exported.directory / "export.json").exists()
    assert Path(exported) == exported.directory
    assert tf.saved_model.load(exported).signatures
    assert repr(exported) == f"Exported({str(tmp_path / 'saved')!r}): {exported.check}"


def test_a_dataset_can_be_passed_as_its_path(trained: Run, workspace: Path, tmp_path: Path) -> None:
    data = tfrecord_tools.open(workspace / "out")
    answers = trained.predict(tfrecords=data, split="validation")
    assert len(answers) == data.splits["validation"]
    with pytest.raises(
        UserError, match=r"/out: is a dataset, not a directory of images\. Pass it as --tfrecords=\S+/out"
    ):
        trained.predict(data)
    evaluation = trained.evaluate(data, split="validation", out=tmp_path / "to", log=lambda line: None)
    assert evaluation.metrics["accuracy"] == trained.metrics["accuracy"]
    assert Path(evaluation) == tmp_path / "to"
    again = trainers.features(
        tfrecords=data,
        run=trained,
        features=workspace / "features",
        log=lambda line: None,
        **options("features", workspace) | {"epochs": 3},
    )
    assert again == trained


def test_answers_as_text_show_the_first_images(trained: Run, workspace: Path) -> None:
    photos = sorted((workspace / "src/cats").iterdir())
    answers = trained.predict([*photos, b"no image"], log=lambda line: None)
    title, *lines, last = repr(answers).splitlines()
    assert (title, len(lines), last) == ("Answers: 12 images, 1 unreadable", 10, "and 2 more")
    assert lines[0] == f"{answers.names[0]}  {answers.confidence[0]:.4f}  {photos[0]}"
    assert repr(trained.predict(photos[0])).splitlines() == ["Answers: 1 image", lines[0]]


def test_load_refuses_what_is_not_finished(trained: Run, tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text("{}")
    with pytest.raises(UserError) as error:
        trainers.load(tmp_path)
    assert "the training is unfinished, so there is no model.keras yet." in str(error.value)
    run = shutil.copytree(trained.path, tmp_path / "run")
    (run / "metrics.json").unlink()  # As after a kill between model.keras and metrics.json.
    with pytest.raises(UserError) as error:
        trainers.load(run)
    assert str(error.value) == (
        f"--run={run}: the training is unfinished. Run the command of the training again to finish it. Then repeat this"
        " command."
    )
    (run / "settings.json").unlink()
    assert trainers.load(run).classes == ("cats", "dogs")  # A model alone, without a run.
    with pytest.raises(UserError) as error:
        trainers.load(tmp_path / "nowhere")
    assert str(error.value).startswith(f"--run={tmp_path}/nowhere: does not exist.")


def test_audit_from_python(workspace: Path, tmp_path: Path) -> None:
    found = trainers.audit(
        tfrecords=workspace / "out",
        features_from="CNN",
        backbone_kwargs=tiny_backbone.MODEL["backbone_kwargs"],
        image_size=32,
        weights=workspace / "w.weights.h5",
        out=tmp_path / "audit",
        features=tmp_path / "features",
        pictures=0,
        log=lambda line: None,
    )
    assert found.probabilities.shape == (24, 2)
    assert {issue.kind for issue in found.issues} <= set(KINDS)
    assert (found.path / "issues.csv").read_text().count("\n") == len(found.issues) + 1
    assert found.estimate.sentence(("cats", "dogs")) in found._repr_html_()


def test_the_same_names_with_and_without_the_modules() -> None:
    """A module that was imported replaces the attribute of the package, so both must be callable."""
    for name in ("scratch", "features", "frozen", "finetune", "compare", "evaluate", "predict", "export", "audit"):
        before = getattr(trainers, name)
        importlib.import_module(f"trainers.{name}")
        assert getattr(trainers, name) is before
        assert callable(before)
