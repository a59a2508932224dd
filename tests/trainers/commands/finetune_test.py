"""The command `python -m trainers.finetune`, as a user types it, on a tiny dataset."""

from __future__ import annotations

import csv
import dataclasses
import json
import signal
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from image_sources import converted, history, run, save_weights, start, tree, with_splits

from tfrecord_tools import dataset
from tfrecord_tools.errors import UserError
from trainers import checkpoint, recipes, training
from trainers.fitting import bottleneck

TINY = ("--backbone=MobileNet", "--backbone_kwargs=alpha=0.25", "--image_size=32", "--batch_size=8")
TINY_MODEL = {"backbone": "MobileNet", "backbone_kwargs": {"alpha": 0.25}, "image_size": 32}
WRITTEN = ["history.csv", "metrics.json", "model.keras", "plots", "predictions.csv"] + [
    "report.html",
    "settings.json",
    "suspects.csv",
]
TWO_PHASES = (*TINY, "--weights=w.weights.h5", "--epochs=1,2")  # Of 4 steps an epoch.


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Holds a dataset of two classes, one of three without validation, and weights."""
    place = tmp_path_factory.mktemp("place")
    converted(with_splits(place / "src", train=16, validation=6), place / "out")
    converted(tree(place / "src3", {"ants": 12, "bees": 12, "cats": 12}), place / "out3", validation_fraction=0.0)
    save_weights(place / "w.weights.h5")
    return place


def finetune(place: Path, *flags: str, succeeds: bool = True) -> str:
    """Runs the command in `place`; returns what it prints, on a mistake what it complains of."""
    with start("trainers.finetune", *flags, cwd=place) as process:
        out, err = process.communicate(timeout=900)  # Importing, tracing and saving take long on a busy machine.
    assert (process.returncode == 0) == succeeds, err
    if not succeeds:
        assert "Traceback" not in err
    return out if succeeds else err.splitlines()[-1]


def weights_of(run_directory: Path) -> list[np.ndarray]:
    return keras.models.load_model(run_directory / "model.keras").get_weights()


@pytest.fixture(scope="module")
def whole(place) -> list[str]:
    """What an uninterrupted training in place / "two" printed."""
    return finetune(place, "--tfrecords=out", "--run=two", *TWO_PHASES).splitlines()


def test_two_phases_end_in_a_run_directory(place, whole):
    out = whole
    assert out[:5] == [
        "data: out (src), 2 classes: cats, dogs",
        "      32 to train on, 12 to validate: the validation split",
        "device: CPU, precision float32, XLA off",
        "model: MobileNet(alpha=0.25), 32 px, weights w.weights.h5, 218,801 parameters; "
        "an epoch is 4 steps of 8 images, each of the 32 once",
        "run: two",
    ]
    phases = [line.split(",")[0] for line in out if line.startswith("phase ")]
    assert phases == ["phase head: trains the head", "phase finetune: trains the head and the backbone's last stage"]
    assert out[-1] == f"results: two/ with {', '.join(WRITTEN)}"
    assert sorted(path.name for path in (place / "two").iterdir()) == out[-1].split(" with ")[1].split(", ")

    metrics = json.loads((place / "two/metrics.json").read_text())
    assert {"accuracy", "loss", "auc"} < metrics.keys()
    assert (metrics["split"], metrics["count"], metrics["steps"]) == ("the validation split", 12, 12)
    with open(place / "two/history.csv") as file:
        rows = list(csv.DictReader(file))
    assert all(float(row["images_per_second"]) > 0 and 0 <= float(row["data_wait"]) <= 1 for row in rows)
    assert [(row["phase"], row["epoch"], row["step"]) for row in rows] == [
        ("head", "1", "4"),
        ("finetune", "1", "8"),
        ("finetune", "2", "12"),
    ]
    settings = json.loads((place / "two/settings.json").read_text())
    assert settings["dataset"]["digest"] == dataset.open(place / "out").digest
    assert settings["environment"]["tensorflow"] == tf.__version__
    assert settings["flags"]["image_size"] == 32

    # The file judges as metrics.json says, on bytes, and only the last stage was trained, never BatchNormalization.
    model = keras.models.load_model(place / "two/model.keras")
    validation = dataset.open(place / "out").records("validation")
    batches = list(dataset.eval_batches(validation, batch_size=5, image_size=32, crop=recipes.Recipe.crop))
    right = [np.array(model(x))[:, 0].round() == y for x, y in batches]
    assert np.concatenate(right).mean() == pytest.approx(metrics["accuracy"])
    start_weights = keras.applications.MobileNet(alpha=0.25, weights=None, include_top=False, input_shape=(32, 32, 3))
    start_weights.load_weights(place / "w.weights.h5")
    before = {layer.name: layer.get_weights() for layer in start_weights.layers}
    base = next(layer for layer in model.layers if isinstance(layer, keras.Model))
    changed = [
        layer.name
        for layer in base.layers
        if any(not np.array_equal(a, b) for a, b in zip(layer.get_weights(), before.get(layer.name, [])))
    ]
    assert changed == ["conv_dw_12", "conv_pw_12", "conv_dw_13", "conv_pw_13"]


@pytest.mark.slow
def test_cache_and_probe_change_nothing(place, whole, monkeypatch, capsys):
    """`whole` was trained from the cache, which is the default."""
    assert "cache: 32 decoded images, 0 MB" in whole
    monkeypatch.setattr(bottleneck, "_SECONDS", 0.2)
    recipe = recipes.finetune(**TINY_MODEL, weights=str(place / "w.weights.h5"))
    recipe = recipes.override(recipe, batch_size=8, epochs=[1, 2])
    run_directory = place / "uncached"
    config = recipes.TrainConfig(tfrecords=str(place / "out"), run=str(run_directory), cache="off", probe=True)
    training.train("finetune", dataset.open(place / "out"), recipe, config, {})
    out = capsys.readouterr().out.splitlines()
    assert not any(line.startswith("cache:") for line in out)
    (line,) = [line for line in out if line.startswith("probe: ")]
    assert "bottleneck: " in line
    for one, other in zip(weights_of(run_directory), weights_of(place / "two")):
        np.testing.assert_array_equal(one, other)
    assert history(run_directory) == history(place / "two")


def test_a_cache_that_does_not_fit_leaves_nothing(place):
    flags = ("--tfrecords=out", *TINY, "--weights=none", "--image_size=224", "--cache=memory", "--cache_mb=1")
    message = finetune(place, *flags, "--run=large", succeeds=False)
    assert message.startswith("error: --cache=memory: 32 images of 224 px take 5 MB, more than --cache_mb=1.")
    assert not (place / "large").exists()


@pytest.mark.slow
def test_some_records_in_another_order(place):
    (place / "some.txt").write_text("\n".join(map(str, range(20))))
    flags = ("--tfrecords=out", "--run=some", *TINY, "--weights=none", "--epochs=1", "--records=some.txt")
    out = finetune(place, *flags, "--order=balanced", "--augment=strong")
    assert "--records=some.txt: 20 of 32 training records" in out
    settings = json.loads((place / "some/settings.json").read_text())
    assert settings["flags"]["order"] == "balanced"
    (place / "some.txt").write_text("\n".join(map(str, range(19))))
    message = finetune(place, *flags, "--order=balanced", "--augment=strong", succeeds=False)
    assert "records_sha256" in message  # Another list is another training.


def test_a_finished_run_is_not_run_again(place, whole):
    again = finetune(place, "--tfrecords=out", "--run=two", *TWO_PHASES).splitlines()
    assert again == ["run: two is finished already; pass another --run to train once more", *whole[-2:]]


def test_a_run_of_other_flags_is_refused(place, whole):
    error = finetune(place, "--tfrecords=out", "--run=two", *TWO_PHASES, "--seed=7", "--batch_size=4", succeeds=False)
    assert error == (
        "error: --run=two: begun with other settings: --batch_size was 8, is 4; --seed was 0, is 7. "
        "Repeat the command it was begun with, or pass another --run."
    )


@pytest.mark.slow
def test_killed_twice_the_same_command_continues_and_ends_with_the_same_weights(place, whole, tmp_path):
    flags = (f"--tfrecords={place / 'out'}", *TWO_PHASES, f"--weights={place / 'w.weights.h5'}", "--checkpoint_every=1")
    for step in (2, 6):  # In the first phase, as a rule, and in the second.
        kill_at(tmp_path, flags, step)
    (unfinished,) = tmp_path.glob("runs/finetune-*")
    out = finetune(tmp_path, *flags)
    assert f"run: continues runs/{unfinished.name}, unfinished and of the same settings\n" in out
    assert "\nresumed: " in out
    check_same(unfinished, place / "two")


def test_three_classes_without_validation_from_scratch(place, tmp_path, capsys):
    recipe = recipes.override(recipes.finetune(**TINY_MODEL, weights="none"), batch_size=8, epochs=[1])
    config = recipes.TrainConfig(tfrecords=str(place / "out3"), run=str(tmp_path / "three"))
    metrics = training.train("finetune", dataset.open(place / "out3"), recipe, config, {})
    out = capsys.readouterr().out
    assert "no validation split: 6 of 36 training images are held out, by their content\n" in out
    assert "phase scratch: trains everything, " in out
    assert metrics["split"] == "held out of the train split"
    assert 0 < metrics["count"] < 36
    assert "auc" not in metrics
    assert metrics == json.loads((tmp_path / "three/metrics.json").read_text())
    assert keras.models.load_model(tmp_path / "three/model.keras").output_shape == (None, 3)


def kill_at(place: Path, flags: tuple[str, ...], step: int) -> None:
    """Starts the command and kills it as soon as the checkpoint of its run has reached a step."""
    with start("trainers.finetune", *flags, cwd=place) as process:
        while process.poll() is None:
            reached = [checkpoint.load(path).position.global_step for path in place.glob("runs/*/checkpoint.npz")]
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
def test_killed_five_times_in_each_phase(steps, place, tmp_path):
    out, weights = f"--tfrecords={place / 'out'}", f"--weights={place / 'w.weights.h5'}"
    flags = (out, *TINY, weights, "--epochs=10,10", "--checkpoint_every=1")  # 40 steps a phase.
    finetune(tmp_path, *flags, "--run=whole")
    for step in steps:
        kill_at(tmp_path, flags, step)
    finetune(tmp_path, *flags)
    (resumed,) = tmp_path.glob("runs/*")
    check_same(resumed, tmp_path / "whole")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "--tfrecords is missing: the dataset to train on. Pass the --out of python -m tfrecord_tools.convert."),
        (("--tfrecords=nowhere",), "nowhere: does not exist. "),
        (("--tfrecords=src",), "src: is not a dataset (it has no convert.json)"),
        (("--tfrecords=out", "--backbone=mobilenet"), "--backbone=mobilenet: unknown; did you mean MobileNet or "),
        (("--tfrecords=out", "--backbone_kwargs=0.25"), "--backbone_kwargs=0.25: not understood; "),
        (("--tfrecords=out", "--weights=nowhere.h5"), "--weights=nowhere.h5: there is no such file."),
        (
            ("--tfrecords=out", "--epochs=3"),
            "--epochs=3: one number for each phase of the recipe is expected",
        ),
        (("--tfrecords=out", "--epochs=a,b"), "--epochs=a,b: whole numbers, as in 5,8, are expected."),
        (("--tfrecords=out", "--checkpoint_every=-1"), "--checkpoint_every=-1: a number of steps, or 0, is expected."),
        (("--tfrecords=out", "--image_size=0"), "--image_size=0: a number of pixels is expected."),
        (("--tfrecords=out", "out"), "unexpected argument 'out': "),
    ],
)
def test_mistakes_are_told_before_tensorflow_is_imported(place, flags, message):
    done = run("trainers.finetune", *flags, cwd=place, env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: {message}")
    assert " tensorflow" not in done.stderr


@pytest.mark.parametrize(
    ("model", "classes", "message"),
    [
        (
            TINY_MODEL,
            ("cats",),
            "out: one class, 'cats': a training has nothing to learn.",
        ),  # The converter refuses it too.
        (
            {"backbone": "VGG16", "image_size": 20},
            ("cats", "dogs"),
            "VGG16 at --image_size=20: refused by Keras: Input size must be at least 32x32; ",
        ),
        (
            {"backbone": "MobileNetV2", "image_size": 32, "weights": "w.weights.h5"},
            ("cats", "dogs"),
            "--weights=w.weights.h5: not the weights of MobileNetV2 without its top: the file holds 135 arrays, ",
        ),
    ],
    ids=["one class", "image size", "other weights"],
)
def test_what_does_not_fit_is_told_and_nothing_is_left(model, classes, message, place, monkeypatch):
    monkeypatch.chdir(place)
    data = dataclasses.replace(dataset.open("out"), class_names=classes)
    config = recipes.TrainConfig(tfrecords="out", run="refused")
    with pytest.raises(UserError) as error:
        training.train("finetune", data, recipes.finetune(**({"weights": "none"} | model)), config, {})
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
def test_on_a_gpu(place, precision):
    if not tf.config.list_physical_devices("GPU"):
        pytest.skip("no GPU: tf.config.list_physical_devices('GPU') is empty")
    run_directory = f"gpu-{precision}"
    flags = ("--tfrecords=out", f"--run={run_directory}", *TWO_PHASES, f"--precision={precision}")
    assert "XLA on" in finetune(place, *flags)
    model = keras.models.load_model(place / run_directory / "model.keras")
    assert {layer.compute_dtype for layer in model.layers if layer.weights} == {"float32"}
