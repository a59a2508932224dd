"""Tests of the command `python -m trainers.finetune`, run as a user runs it, on a tiny dataset."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import signal
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny_backbone
from image_sources import converted, history, run, save_weights, start, tree, with_splits

from tfrecord_tools import dataset
from tfrecord_tools.errors import UserError
from trainers import checkpoint, recipes, training
from trainers.fitting import bottleneck
from trainers.run_directory import read_metrics

TINY = ("--backbone=MobileNet", "--backbone_kwargs=alpha=0.25", "--image_size=32", "--batch_size=8")
TINY_MODEL = {"backbone": "MobileNet", "backbone_kwargs": {"alpha": 0.25}, "image_size": 32}
WRITTEN = ["history.csv", "metrics.json", "model.keras", "optimizer.npz", "plots", "predictions.csv"] + [
    "report.html",
    "settings.json",
    "suspects.csv",
]
TWO_PHASES = (*TINY, "--weights=w.weights.h5", "--epochs=1,2")  # An epoch has 4 steps.


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    """Return a directory with datasets of two classes and of three classes, and with weights."""
    workspace = tmp_path_factory.mktemp("workspace")
    converted(with_splits(workspace / "src", train=16, validation=6), workspace / "out")
    converted(
        tree(workspace / "src3", {"ants": 12, "bees": 12, "cats": 12}), workspace / "out3", validation_fraction=0.0
    )
    save_weights(workspace / "w.weights.h5")
    return workspace


def finetune(workspace: Path, *flags: str, succeeds: bool = True) -> str:
    """Run the command in a directory. Return its output or, for an expected failure, its error message."""
    with start("trainers.finetune", *flags, cwd=workspace) as process:
        out, err = process.communicate(timeout=900)  # Importing, tracing and saving take long on a busy machine.
    assert (process.returncode == 0) == succeeds, err
    if not succeeds:
        assert "Traceback" not in err
    return out if succeeds else err.splitlines()[-1]


def weights_of(run_directory: Path) -> list[np.ndarray]:
    return keras.models.load_model(run_directory / "model.keras").get_weights()


@pytest.fixture(scope="module")
def whole(workspace) -> list[str]:
    """Return the lines that an uninterrupted training in the run directory `two` prints."""
    return finetune(workspace, "--tfrecords=out", "--run=two", *TWO_PHASES).splitlines()


def test_two_phases_end_in_a_run_directory(workspace, whole):
    out = whole
    assert out[:5] == [
        "data: out (src), 2 classes: cats, dogs",
        "      32 images to train on, 12 to validate on: the validation split",
        "device: CPU, precision float32, XLA off",
        "model: MobileNet(alpha=0.25), 32 px, weights w.weights.h5, 218,801 parameters; "
        "an epoch is 4 steps of 8 images, each of the 32 images once",
        "run: two",
    ]
    phases = [line.split(",")[0] for line in out if line.startswith("phase ")]
    assert phases == [
        "phase head: trains the head",
        "phase finetune: trains the head and the last stage of the backbone",
    ]
    accuracy = next(i for i, line in enumerate(out) if line.startswith("accuracy "))
    assert re.fullmatch(
        r"accuracy \d\.\d{4}, auc \d\.\d{4}, loss \d+\.\d{4} on the 12 images of the validation split\."
        r" Accuracy is usually a little lower on new images\.",
        out[accuracy],
    )
    assert re.fullmatch(
        r"balanced accuracy \d\.\d{4}, macro F1 \d\.\d{4}, lowest recall \d\.\d{4} \((cats|dogs)\)\."
        r" Always guessing the largest class: accuracy 0\.5000",
        out[accuracy + 1],
    )
    # The accuracy comes first, then the findings of the report, then the results.
    results = out.index(f"results: two/ with {', '.join(WRITTEN)}")
    assert all(line.startswith(("  problem: ", "  check: ")) for line in out[accuracy + 2 : results])
    assert not any(line.startswith(("  problem: ", "  check: ")) for line in out[:accuracy])
    assert sorted(path.name for path in (workspace / "two").iterdir()) == WRITTEN
    # A program of plain Keras is the last part; `plain_keras_test.py` runs such programs.
    assert out[results + 1 :] == [
        "to classify a picture with Keras alone:",
        "  import keras; from PIL.ImageOps import exif_transpose, fit",
        "  photo = fit(exif_transpose(keras.utils.load_img('photo.jpg')), (32, 32), method=2, bleed=0.0625)",
        "  p = keras.models.load_model('two/model.keras')(keras.utils.img_to_array(photo)[None])[0]",
        "  print('dogs' if p[0] >= 0.5 else 'cats')",
    ]

    metrics = json.loads((workspace / "two/metrics.json").read_text())
    assert {"accuracy", "loss", "auc"} < metrics.keys()
    assert (metrics["split"], metrics["count"], metrics["steps"]) == ("the validation split", 12, 12)
    with open(workspace / "two/history.csv") as file:
        rows = list(csv.DictReader(file))
    assert all(float(row["images_per_second"]) > 0 and 0 <= float(row["data_wait"]) <= 1 for row in rows)
    assert [(row["phase"], row["epoch"], row["step"]) for row in rows] == [
        ("head", "1", "4"),
        ("finetune", "1", "8"),
        ("finetune", "2", "12"),
    ]
    settings = json.loads((workspace / "two/settings.json").read_text())
    assert settings["dataset"]["digest"] == dataset.open(workspace / "out").digest
    assert settings["environment"]["tensorflow"] == tf.__version__
    assert settings["flags"]["image_size"] == 32

    # The model file gives the results of metrics.json. Only the last stage was trained, without BatchNormalization.
    model = keras.models.load_model(workspace / "two/model.keras")
    validation = dataset.open(workspace / "out").records("validation")
    batches = list(dataset.eval_batches(validation, batch_size=5, image_size=32, crop=recipes.Recipe.crop))
    right = [np.array(model(x))[:, 0].round() == y for x, y in batches]
    assert np.concatenate(right).mean() == pytest.approx(metrics["accuracy"])
    start_weights = keras.applications.MobileNet(alpha=0.25, weights=None, include_top=False, input_shape=(32, 32, 3))
    start_weights.load_weights(workspace / "w.weights.h5")
    before = {layer.name: layer.get_weights() for layer in start_weights.layers}
    base = next(layer for layer in model.layers if isinstance(layer, keras.Model))
    changed = [
        layer.name
        for layer in base.layers
        if any(not np.array_equal(a, b) for a, b in zip(layer.get_weights(), before.get(layer.name, [])))
    ]
    assert changed == ["conv_dw_12", "conv_pw_12", "conv_dw_13", "conv_pw_13"]


@pytest.mark.slow
def test_cache_and_probe_do_not_change_the_result(workspace, whole, monkeypatch, capsys):
    """`whole` was trained with the default settings, which use the cache."""
    assert "cache: 32 decoded images, 0 MB" in whole
    monkeypatch.setattr(bottleneck, "_SECONDS", 0.2)
    recipe = recipes.finetune(**TINY_MODEL, weights=str(workspace / "w.weights.h5"))
    recipe = recipes.override(recipe, batch_size=8, epochs=[1, 2])
    run_directory = workspace / "uncached"
    config = recipes.TrainConfig(tfrecords=str(workspace / "out"), run=str(run_directory), cache="off", probe=True)
    training.train("finetune", dataset.open(workspace / "out"), recipe, config)
    out = capsys.readouterr().out.splitlines()
    assert not any(line.startswith("cache:") for line in out)
    (line,) = [line for line in out if line.startswith("probe: ")]
    assert "bottleneck: " in line
    for one, other in zip(weights_of(run_directory), weights_of(workspace / "two")):
        np.testing.assert_array_equal(one, other)
    assert history(run_directory) == history(workspace / "two")


def test_too_large_cache_is_reported_and_leaves_no_run(workspace):
    flags = ("--tfrecords=out", *TINY, "--weights=none", "--image_size=224", "--cache=memory", "--cache_mb=1")
    message = finetune(workspace, *flags, "--run=large", succeeds=False)
    assert message.startswith(
        "error: --cache=memory: 32 images of 224 px need 5 MB, but --cache_mb=1 allows less. Pass a larger"
    )
    assert not (workspace / "large").exists()


@pytest.mark.slow
def test_selected_records_in_another_order(workspace):
    (workspace / "some.txt").write_text("\n".join(map(str, range(20))))
    flags = ("--tfrecords=out", "--run=some", *TINY, "--weights=none", "--epochs=1", "--records=some.txt")
    out = finetune(workspace, *flags, "--order=balanced", "--augment=strong")
    assert "--records=some.txt: 20 of 32 training records" in out
    settings = json.loads((workspace / "some/settings.json").read_text())
    assert settings["flags"]["order"] == "balanced"
    (workspace / "some.txt").write_text("\n".join(map(str, range(19))))
    message = finetune(workspace, *flags, "--order=balanced", "--augment=strong", succeeds=False)
    assert (
        ": was started with other settings: the SHA-256 of --records was '" in message
    )  # Another selection is another training.


def test_finished_run_is_not_run_again(workspace, whole):
    again = finetune(workspace, "--tfrecords=out", "--run=two", *TWO_PHASES).splitlines()
    scores = [line for line in whole if line.startswith(("accuracy ", "balanced accuracy ", "results: "))]
    assert again == [
        "run: two is finished already. To train this model further, add --more_epochs=N. To train a new model, pass"
        " another --run",
        *scores,
    ]


def test_run_with_other_flags_is_rejected(workspace, whole):
    error = finetune(
        workspace, "--tfrecords=out", "--run=two", *TWO_PHASES, "--seed=7", "--batch_size=4", succeeds=False
    )
    assert error == (
        "error: --run=two: was started with other settings: --batch_size was 8, is now 4; --seed was 0, is now 7."
        " Repeat the command that started this run, or pass another --run."
    )


@pytest.mark.slow
def test_killed_twice_the_training_continues_and_ends_with_the_same_weights(workspace, whole, tmp_path):
    flags = (
        f"--tfrecords={workspace / 'out'}",
        *TWO_PHASES,
        f"--weights={workspace / 'w.weights.h5'}",
        "--checkpoint_every=1",
    )
    for step in (2, 6):  # Usually in the first phase, then in the second.
        kill_at(tmp_path, flags, step)
    (unfinished,) = tmp_path.glob("runs/finetune-*")
    out = finetune(tmp_path, *flags)
    assert f"run: continues runs/{unfinished.name}, an unfinished run with the same settings\n" in out
    assert "\nresumed: " in out
    check_same(unfinished, workspace / "two")


def test_three_classes_without_validation_from_scratch(workspace, tmp_path, capsys):
    recipe = recipes.override(recipes.finetune(**tiny_backbone.MODEL, weights="none"), batch_size=8, epochs=[1])
    config = recipes.TrainConfig(tfrecords=str(workspace / "out3"), run=str(tmp_path / "three"))
    metrics = read_metrics(training.train("finetune", dataset.open(workspace / "out3"), recipe, config))
    assert metrics is not None
    out = capsys.readouterr().out
    assert "no validation split: 6 of 36 training images are held out, chosen by the hashes of their files\n" in out
    assert "phase scratch: trains all layers, " in out
    assert metrics["split"] == "a held-out part of the train split"
    assert 0 < metrics["count"] < 36
    assert "auc" not in metrics
    assert metrics == json.loads((tmp_path / "three/metrics.json").read_text())
    assert keras.models.load_model(tmp_path / "three/model.keras").output_shape == (None, 3)


def kill_at(workspace: Path, flags: tuple[str, ...], step: int) -> None:
    """Start the command, and kill it as soon as the checkpoint of its run has reached a step."""
    with start("trainers.finetune", *flags, cwd=workspace) as process:
        while process.poll() is None:
            reached = [checkpoint.load(path).position.global_step for path in workspace.glob("runs/*/checkpoint.npz")]
            if reached and max(reached) >= step:
                break
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL


def check_same(run_directory: Path, expected: Path) -> None:
    for weight, expected_weight in zip(weights_of(run_directory), weights_of(expected), strict=True):
        np.testing.assert_array_equal(weight, expected_weight)
    assert history(run_directory) == history(expected)
    assert sorted(path.name for path in run_directory.iterdir()) == WRITTEN


@pytest.mark.slow
@pytest.mark.parametrize("steps", [[1, 12, 21, 30, 38], [41, 50, 59, 66, 75]], ids=["first phase", "second phase"])
def test_killed_five_times_in_each_phase(steps, workspace, tmp_path):
    out, weights = f"--tfrecords={workspace / 'out'}", f"--weights={workspace / 'w.weights.h5'}"
    flags = (out, *TINY, weights, "--epochs=10,10", "--checkpoint_every=1")  # A phase has 40 steps.
    finetune(tmp_path, *flags, "--run=whole")
    for step in steps:
        kill_at(tmp_path, flags, step)
    finetune(tmp_path, *flags)
    (resumed,) = tmp_path.glob("runs/*")
    check_same(resumed, tmp_path / "whole")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            (),
            "--tfrecords is missing. Pass the directory of the dataset, as written by python -m"
            " tfrecord_tools.convert.",
        ),
        (("--tfrecords=nowhere",), "nowhere: does not exist. "),
        (("--tfrecords=src",), "src: is not a dataset (it has no convert.json)"),
        (
            ("--tfrecords=out", "--backbone=mobilenet"),
            "--backbone=mobilenet: is not a known backbone. Did you mean MobileNet or ",
        ),
        (("--tfrecords=out", "--backbone_kwargs=0.25"), "--backbone_kwargs=0.25: must be name=value pairs, "),
        (("--tfrecords=out", "--weights=nowhere.h5"), "--weights=nowhere.h5: does not exist."),
        (
            ("--tfrecords=out", "--block=8"),
            "--block=8: only --order=blocks uses it. Add --order=blocks, or remove --block.",
        ),
        (
            ("--tfrecords=out", "--epochs=3"),
            "--epochs=3: the recipe has 2 phases (head, finetune). Pass one number for each phase.",
        ),
        (("--tfrecords=out", "--epochs=a,b"), "--epochs=a,b: must be whole numbers, as in 5,8."),
        (("--tfrecords=out", "--checkpoint_every=-1"), "--checkpoint_every=-1: must be 0 or more."),
        (("--tfrecords=out", "--image_size=0"), "--image_size=0: must be at least 1 pixel."),
        (("--tfrecords=out", "out"), "unexpected argument 'out': "),
    ],
)
def test_errors_are_reported_before_tensorflow_is_imported(workspace, flags, message):
    done = run("trainers.finetune", *flags, cwd=workspace, env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: {message}")
    assert " tensorflow" not in done.stderr


@pytest.mark.parametrize(
    ("model", "classes", "message"),
    [
        (
            TINY_MODEL,
            ("cats",),  # The converter rejects such a dataset, too.
            "out: has only one class, 'cats'. Training needs at least two classes.",
        ),
        (
            {"backbone": "VGG16", "image_size": 20},
            ("cats", "dogs"),
            "--image_size=20: Keras rejects this size for VGG16: Input size must be at least 32x32; ",
        ),
        (
            {"backbone": "MobileNetV2", "image_size": 32, "weights": "w.weights.h5"},
            ("cats", "dogs"),
            "--weights=w.weights.h5: does not fit MobileNetV2. The file must contain the weights of this backbone"
            " without the head (include_top=False). The file has 135 arrays, ",
        ),
    ],
    ids=["one class", "image size", "other weights"],
)
def test_unsuitable_settings_are_reported_and_leave_no_run(model, classes, message, workspace, monkeypatch):
    monkeypatch.chdir(workspace)
    data = dataclasses.replace(dataset.open("out"), class_names=classes)
    config = recipes.TrainConfig(tfrecords="out", run="refused")
    with pytest.raises(UserError) as error:
        training.train("finetune", data, recipes.finetune(**({"weights": "none"} | model)), config)
    assert message in str(error.value)
    assert not Path("refused").exists()


def test_help_lists_every_flag_and_backbone():
    out = run("trainers.finetune", "--help").stdout
    for flag in ("tfrecords", "run", "recipe", "image_size", "batch_size", "epochs", "seed", "augment", "backbone"):
        assert f"--{flag}:" in out
    assert "Xception." in out
    assert run("trainers").stdout.startswith("python -m trainers.scratch  ")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["auto", "float32"])
def test_on_a_gpu(workspace, precision):
    if not tf.config.list_physical_devices("GPU"):
        pytest.skip("no GPU: tf.config.list_physical_devices('GPU') is empty")
    run_directory = f"gpu-{precision}"
    flags = ("--tfrecords=out", f"--run={run_directory}", *TWO_PHASES, f"--precision={precision}")
    assert "XLA on" in finetune(workspace, *flags)
    model = keras.models.load_model(workspace / run_directory / "model.keras")
    assert {layer.compute_dtype for layer in model.layers if layer.weights} == {"float32"}
