"""Tests of all trainers, end to end, on a tiny dataset: as commands, and through `training.train`."""

from __future__ import annotations

import csv
import json
import signal
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import spread_training
import tensorflow as tf
import tiny_backbone
from image_sources import converted, history, run, start, tree, with_splits

from tfrecord_tools import dataset
from tfrecord_tools.errors import UserError
from trainers import checkpoint, recipes, run_directory, training
from trainers.models import networks
from trainers.run_directory import Metrics

TRAINERS = {
    "scratch": ("--image_size=24", "--augment=standard"),
    "features": (*tiny_backbone.FLAGS, "--head=dense"),
    "frozen": tiny_backbone.FLAGS,
    "finetune": (*tiny_backbone.FLAGS, "--augment=reference"),
}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    """Return a directory with a dataset of two classes, one of five classes, and weights."""
    workspace = tmp_path_factory.mktemp("trainers")
    tiny_backbone.save_weights(workspace / "w.weights.h5")
    converted(with_splits(workspace / "src", train=16, validation=6), workspace / "out")
    five = {f"{split}/{name}": 5 for split in ("train", "validation") for name in ("a", "b", "c", "d", "e")}
    converted(tree(workspace / "src5", five), workspace / "out5")
    return workspace


def train(trainer: str, out: Path, run: Path, recipe: recipes.Recipe, **config: Any) -> Metrics:
    settings = recipes.TrainConfig(tfrecords=str(out), run=str(run), features=str(run.parent / "features"), **config)
    metrics = run_directory.read_metrics(training.train(trainer, dataset.open(out), recipe, settings))
    assert metrics is not None
    return metrics


def small(trainer: str, workspace: Path, **values: Any) -> recipes.Recipe:
    model = (
        {"image_size": 24}
        if trainer == "scratch"
        else tiny_backbone.MODEL | {"weights": str(workspace / "w.weights.h5")}
    )
    recipe = recipes.RECIPES[trainer]["default"](**model)
    replaced: dict[str, Any] = {"batch_size": 8, "epochs": [1] * len(recipe.phases)}
    return recipes.override(recipe, **replaced | values)


@pytest.mark.parametrize(
    "trainer",
    [pytest.param(name, marks=pytest.mark.slow if name != "finetune" else ()) for name in TRAINERS],
)
def test_five_classes_need_no_flag(trainer, workspace, tmp_path):
    metrics = train(trainer, workspace / "out5", tmp_path / "run", small(trainer, workspace))
    assert metrics["count"] == 25
    assert keras.models.load_model(tmp_path / "run/model.keras").output_shape == (None, 5)


def test_features_give_the_whole_model(workspace, tmp_path, capsys):
    metrics = train("features", workspace / "out", tmp_path / "one", small("features", workspace))
    assert "features: 32 computed in " in capsys.readouterr().out
    model = keras.models.load_model(tmp_path / "one/model.keras")
    validation = dataset.open(workspace / "out").records("validation")
    batches = list(dataset.eval_batches(validation, batch_size=6, image_size=32, crop=0.875))
    right = [np.array(model(images))[:, 0].round() == labels for images, labels in batches]
    assert np.concatenate(right).mean() == pytest.approx(metrics["accuracy"])
    rows = history(tmp_path / "one")
    # One loss is computed from features, the other from pixels.
    assert float(rows[-1]["val_loss"]) == pytest.approx(metrics["loss"], rel=1e-4)

    extractor, head = networks.split(model)
    assert np.ptp(extractor(batches[0][0]), axis=0).max() > 0.1  # Records have different features.
    np.testing.assert_allclose(head(extractor(batches[0][0])), model(batches[0][0]), rtol=1e-5)

    abouts = {path: json.loads(path.read_text()) for path in (tmp_path / "features").glob("*/about.json")}
    assert len(abouts) == 2
    assert metrics["seconds"] > sum(about["seconds"] for about in abouts.values()) > 0
    for path, about in abouts.items():
        path.write_text(json.dumps(about | {"seconds": 1000}))
    other = recipes.override(
        recipes.features(head="linear", **tiny_backbone.MODEL, weights=str(workspace / "w.weights.h5")),
        batch_size=8,
        epochs=[2],
    )
    again = train("features", workspace / "out", tmp_path / "two", other)
    assert "computed" not in capsys.readouterr().out  # Another head uses the same features.
    # The time of the features is counted again, so that runs with several seeds can be compared.
    assert 2000 < again["seconds"] < 3000


def test_csvs_are_converted(workspace, tmp_path):
    done = run("tfrecord_tools.to_csv", f"--src={workspace / 'src'}", "--image_size=24", "--out=csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    before = sorted(path.name for path in workspace.iterdir())
    flags = ("--csv=csv", "--batch_size=8", "--epochs=1")
    done = run("trainers.scratch", *flags, "--run=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "data: csv-tfrecords (csv), 2 classes: cats, dogs\n" in done.stdout
    assert "model: CNN(" in done.stdout
    assert ", 24 px, " in done.stdout  # The size of the images in the CSVs.
    assert json.loads((tmp_path / "run/metrics.json").read_text())["count"] == 12
    again = run("trainers.scratch", *flags, "--run=run", cwd=tmp_path)
    assert "csv-tfrecords/: up to date. No image was added, changed or removed.\n" in again.stdout
    assert "run: run is finished already" in again.stdout
    both = run("trainers.scratch", *flags, "--tfrecords=csv-tfrecords", cwd=tmp_path)
    assert both.stderr.splitlines()[-1] == (
        "error: --csv=csv and --tfrecords=csv-tfrecords: only one of these flags is allowed. Remove the other flag."
    )
    one = run("trainers.scratch", "--csv=csv/train.csv", cwd=tmp_path)
    assert (
        one.stderr
        == "error: --csv=csv/train.csv: is a file. Pass the directory of the CSVs, csv. It must have one CSV for"
        " each split.\n"
    )
    images = run("trainers.scratch", f"--csv={workspace / 'src'}", cwd=tmp_path)
    assert images.stderr.startswith(f"error: --csv={workspace / 'src'}: has no CSV of pixels in the format of ")
    assert sorted(path.name for path in workspace.iterdir()) == before


@pytest.mark.slow
def test_all_options_of_recipes_together(workspace, tmp_path):
    recipe = small(
        "scratch",
        workspace,
        epochs=[4],
        phase={
            "optimizer": "adamw",
            "optimizer_kwargs": {"weight_decay": 1e-3, "global_clipnorm": 1.0, "use_ema": True, "ema_momentum": 0.5},
            "schedule": "cosine",
            "warmup_steps": 5,
        },
        label_smoothing=0.1,
        mixup=0.3,
        cutmix=0.3,
        class_weights="balanced",
        early_stopping=2,
    )
    metrics = train("scratch", workspace / "out", tmp_path / "run", recipe, tensorboard=True)
    rows = history(tmp_path / "run")
    rates = [float(row["learning_rate"]) for row in rows]
    assert rates[0] == pytest.approx(3e-3 * 4 / 5)  # Four of five steps of warm-up.
    assert rates[1] > rates[2]
    # The flags and the final scores are in one file, and each phase has a directory.
    (final, phase) = sorted((tmp_path / "run/tensorboard").iterdir())
    assert final.name.startswith("events.out.tfevents.")
    assert phase.name == "scratch"
    assert len(list(phase.glob("*/events*"))) == 2  # Training and validation.
    best = min(range(len(rows)), key=lambda i: float(rows[i]["val_loss"]))
    assert metrics["accuracy"] == pytest.approx(float(rows[best]["val_accuracy"]))  # The best epoch's averaged weights.


@pytest.mark.slow
def test_killed_with_all_options_it_ends_with_the_same_weights(workspace, tmp_path):
    flags = (
        "--tfrecords", workspace / "out", "--image_size=24", "--batch_size=8", "--epochs=6", "--checkpoint_every=1",
        "--optimizer=adam", "--optimizer_kwargs=use_ema=True,ema_momentum=0.5,gradient_accumulation_steps=3",
        "--schedule=plateau", "--patience=1", "--early_stopping=3", "--mixup=0.5", "--class_weights=balanced",
    )  # fmt: skip
    check_kills("scratch", tuple(map(str, flags)), [3, 14], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("trainer", TRAINERS)
def test_killed_five_times_each_trainer_ends_with_the_same_weights(trainer, workspace, tmp_path):
    epochs = ",".join(["10"] * len(small(trainer, workspace).phases))
    flags = (f"--tfrecords={workspace / 'out'}", *TRAINERS[trainer], f"--epochs={epochs}")
    if trainer != "scratch":
        flags += (f"--weights={workspace / 'w.weights.h5'}",)
    steps = np.sort(np.random.default_rng(len(trainer)).choice(np.arange(1, 38), 5, replace=False)).tolist()
    check_kills(trainer, (*flags, "--batch_size=8", "--checkpoint_every=1"), steps, tmp_path)


def check_kills(trainer: str, flags: tuple[str, ...], steps: list[int], workspace: Path) -> None:
    """Train once without interruption, and once with a kill whenever the checkpoint has reached a step."""
    assert run(f"trainers.{trainer}", *flags, "--run=whole", cwd=workspace).returncode == 0
    for step in steps:
        with start(f"trainers.{trainer}", *flags, "--run=killed", cwd=workspace) as process:
            path = workspace / "killed/checkpoint.npz"
            while process.poll() is None and checkpoint.load(path).position.global_step < step:
                time.sleep(0.01)
            process.kill()
        assert process.returncode == -signal.SIGKILL
    done = run(f"trainers.{trainer}", *flags, "--run=killed", cwd=workspace)
    assert "\nresumed: " in done.stdout
    whole, killed = (
        keras.models.load_model(workspace / name / "model.keras").get_weights() for name in ("whole", "killed")
    )
    for one, other in zip(whole, killed, strict=True):
        np.testing.assert_array_equal(one, other)
    assert history(workspace / "killed") == history(workspace / "whole")


def test_nan_loss_stops_and_keeps_the_checkpoint(workspace, tmp_path):
    recipe = small(
        "scratch", workspace, epochs=[5], learning_rate=[1e4], phase={"optimizer": "sgd", "schedule": "constant"}
    )
    with pytest.raises(UserError) as error:
        train("scratch", workspace / "out", tmp_path / "run", recipe, checkpoint_every=1)
    message = str(error.value)
    saved = checkpoint.load(tmp_path / "run/checkpoint.npz")
    step = int(message.split("step ")[1].split(":")[0])
    assert message.startswith(
        f"--run={tmp_path / 'run'}: step {step}: the loss or a weight is NaN or infinite. Records of the last two"
        " batches: "
    )
    assert f" The checkpoint of step {saved.position.global_step} is kept." in message
    assert step - 1 <= saved.position.global_step <= step
    assert all(np.isfinite(array).all() for array in saved.arrays["model"] + saved.arrays["optimizer"])
    stream = dataset.train_batches(
        dataset.open(workspace / "out").records("train"),
        batch_size=8,
        image_size=24,
        seed=0,
        start_step=step,
        with_numbers=True,
    )
    batch = message.split(f"the batch of step {step}: ")[1].split(". The checkpoint")[0]
    paths = dataset.open(workspace / "out").records("train").paths
    assert batch == ", ".join(f"{number} ({paths[number]})" for number in next(iter(stream))[2].numpy())
    assert f"the batch of step {step - 1}: " in message  # The step that last changed the weights.


DETERMINISTIC = {
    "features": TRAINERS["features"],
    "frozen": (*TRAINERS["frozen"], "--class_weights=balanced"),
    "finetune": TRAINERS["finetune"],
    "scratch": (
        *TRAINERS["scratch"], "--mixup=0.3", "--cutmix=0.3", "--label_smoothing=0.1", "--early_stopping=3", "--probe",
        "--schedule=plateau", "--optimizer_kwargs=use_ema=True", "--cache=memory", "--order=balanced", "--tensorboard",
    ),
    "scratch, mirrored": ("--image_size=24", "--strategy=mirrored", "--order=blocks", "--cache=off"),
    "scratch, csv": ("--csv=csv",),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_deterministic_trainings_give_the_same_weights(name, workspace, tmp_path):
    """TensorFlow rejects some operations in this mode, so all options that add operations are tested."""
    trainer = name.partition(",")[0]
    epochs = ",".join(["2"] * len(small(trainer, workspace).phases))
    flags = [*DETERMINISTIC[name], "--deterministic", "--batch_size=8", f"--epochs={epochs}"]
    if "--csv=csv" in flags:
        done = run("tfrecord_tools.to_csv", f"--src={workspace / 'src'}", "--image_size=24", "--out=csv", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    else:
        flags.append(f"--tfrecords={workspace / 'out'}")
    if trainer != "scratch":
        flags.append(f"--weights={workspace / 'w.weights.h5'}")
    for out in ("one", "two"):
        own = [f"--features={out}-features"] if trainer == "features" else []
        done = run(f"trainers.{trainer}", *flags, *own, f"--run={out}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    one, two = (keras.models.load_model(tmp_path / out / "model.keras").get_weights() for out in ("one", "two"))
    for weight, other in zip(one, two, strict=True):
        np.testing.assert_array_equal(weight, other)
    assert history(tmp_path / "one") == history(tmp_path / "two")
    with open(tmp_path / "one/history.csv", newline="") as file:
        assert all(0 <= float(row["data_wait"]) <= 1 for row in csv.DictReader(file))


def test_operation_without_deterministic_version_is_reported(workspace, tmp_path, monkeypatch):
    def refuse(*given: object) -> None:
        raise tf.errors.UnimplementedError(None, None, "A deterministic GPU implementation of X is not available.")

    monkeypatch.setattr(training, "_train_in", refuse)
    monkeypatch.setattr(training.devices.tf.config.experimental, "enable_op_determinism", lambda: None)
    with pytest.raises(UserError) as error:
        train("scratch", workspace / "out", tmp_path / "run", small("scratch", workspace), deterministic=True)
    assert str(error.value) == (
        "--deterministic: TensorFlow has no reproducible version of an operation in this model: A deterministic GPU"
        " implementation of X is not available. Remove --deterministic and pass another --run, or train another model."
    )


def mirrored(workspace: Path, run: Path, devices: int, **options: Any) -> str:
    strategy = "mirrored" if devices > 1 else "none"
    with spread_training.start(workspace / "out", run, strategy, devices=devices, **options) as process:
        out, err = process.communicate(timeout=600)
    assert process.returncode == (-signal.SIGKILL if options.get("kill_at") else 0), err
    return out


def test_two_devices_give_the_result_of_one(workspace, tmp_path):
    mirrored(workspace, tmp_path / "run1", 1)
    assert "device: 2 x CPU, precision float32" in mirrored(workspace, tmp_path / "run2", 2)
    one, two = (history(tmp_path / f"run{devices}") for devices in (1, 2))
    for row, other in zip(one, two, strict=True):
        for name in ("loss", "val_loss", "accuracy"):
            # Sums are computed in another order.
            assert float(row[name]) == pytest.approx(float(other[name]), rel=1e-4), name


@pytest.mark.slow
def test_two_devices_with_their_own_moving_statistics_resume_exactly(workspace, tmp_path):
    mirrored(workspace, tmp_path / "whole", 2, batch_norm=True)
    mirrored(workspace, tmp_path / "killed", 2, batch_norm=True, kill_at=5)
    assert "resumed: " in mirrored(workspace, tmp_path / "killed", 2, batch_norm=True)
    whole, killed = (keras.models.load_model(tmp_path / name / "model.keras") for name in ("whole", "killed"))
    for weight, other in zip(whole.get_weights(), killed.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, other)
    rows = history(tmp_path / "whole")
    for row, other in zip(rows, history(tmp_path / "killed"), strict=True):
        for name in ("loss", "val_loss"):  # The resumed run has the sum of both devices in one variable.
            assert float(row[name]) == pytest.approx(float(other[name]), rel=1e-6), name
    # The validation after an epoch and the saved model use the mean of the devices' statistics.
    metrics = json.loads((tmp_path / "whole/metrics.json").read_text())
    assert metrics["accuracy"] == pytest.approx(float(rows[-1]["val_accuracy"]))
    assert metrics["loss"] == pytest.approx(float(rows[-1]["val_loss"]), rel=1e-4)


def test_batch_size_that_devices_cannot_share_is_reported(workspace, tmp_path, monkeypatch):
    device = training.devices.Device(name="GPU", precision="float32", jit_compile=False, replicas=3)
    monkeypatch.setattr(training.devices, "set_up", lambda **settings: device)
    with pytest.raises(UserError) as error:
        train("scratch", workspace / "out", tmp_path / "run", small("scratch", workspace))
    assert str(error.value) == (
        "--batch_size=8: a batch cannot be divided equally among 3 devices. Pass a multiple of 3, or --strategy=none."
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("argument", ["clipnorm", "clipvalue", "global_clipnorm"])
def test_clipping_on_several_devices_is_rejected(argument, workspace, tmp_path, monkeypatch):
    """Keras clips the gradients of each device, so the result would depend on the number of devices."""
    device = training.devices.Device(name="GPU", precision="float32", jit_compile=False, replicas=2)
    monkeypatch.setattr(training.devices, "set_up", lambda **settings: device)
    recipe = small("scratch", workspace, phase={"optimizer_kwargs": {argument: 1.0}})
    with pytest.raises(UserError) as error:
        train("scratch", workspace / "out", tmp_path / "run", recipe)
    assert str(error.value).startswith(
        f"--optimizer_kwargs={argument}: with 2 devices, Keras clips the gradients of each device before "
    )


@pytest.mark.parametrize("strategy", ["auto", pytest.param("none", marks=pytest.mark.slow), "mirrored"])
def test_gradients_are_accumulated_on_one_device(strategy, workspace, tmp_path, monkeypatch):
    """Under a strategy, even on one device, Keras would fail in the first step."""
    strategies = []
    set_up = training.devices.set_up

    def record_strategy(**settings: Any) -> Any:
        strategies.append(settings["strategy"])
        return set_up(**settings)

    monkeypatch.setattr(training.devices, "set_up", record_strategy)
    recipe = small("scratch", workspace, phase={"optimizer_kwargs": {"gradient_accumulation_steps": 2}})
    if strategy == "mirrored":
        with pytest.raises(
            UserError, match=r"^--strategy=mirrored: Keras cannot accumulate gradients with this strategy\."
        ):
            train("scratch", workspace / "out", tmp_path / "run", recipe, strategy=strategy)
    else:
        train("scratch", workspace / "out", tmp_path / "run", recipe, strategy=strategy)
        assert strategies == ["none"]


@pytest.mark.parametrize(
    ("trainer", "values", "config", "message"),
    [
        (
            "scratch",
            {"class_weights": "balanced"},
            {"order": "balanced"},
            "--order=balanced and --class_weights=balanced: both compensate for rare classes, and together they would"
            " compensate twice.",
        ),
        (
            "scratch",
            {"class_weights": {"cats": 1.0}},
            {"order": "balanced"},
            "--class_weights=cats:1: there is no weight for dogs. The classes are cats, dogs.",
        ),
        ("features", {}, {"order": "balanced"}, "--order=balanced: must be shuffled for training on features."),
    ],
)
def test_settings_that_exclude_each_other_are_reported(trainer, values, config, message, workspace, tmp_path):
    with pytest.raises(UserError) as error:
        train(trainer, workspace / "out", tmp_path / "run", small(trainer, workspace, **values), **config)
    assert str(error.value).startswith(message)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"phase": {"optimizer": "adamm"}},
            "--optimizer=adamm: is not a Keras optimizer. Pass the name of a Keras optimizer, such as adam, adamw, sgd,"
            " rmsprop or lion.",
        ),
        (
            {"phase": {"optimizer_kwargs": {"momentun": 0.9}}},
            "--optimizer_kwargs=momentun=0.9: Keras's Adam rejects these arguments: ",
        ),
        (
            {"phase": {"optimizer": "adamw", "optimizer_kwargs": {"weight_decay": "much"}}},
            "--optimizer_kwargs=weight_decay='much': Keras's AdamW rejects these arguments: ",
        ),
        ({"unfreeze": "block9"}, "--unfreeze=block9: does not match a layer of cnn that has weights."),
        ({"unfreeze": "("}, "--unfreeze=(: is not a regular expression: "),
        ({"phase": {"warmup_steps": 4}}, "--warmup_steps=4: must be fewer than the 4 steps of phase head."),
        (
            {"phase": {"optimizer_kwargs": {"gradient_accumulation_steps": 5}}},
            "--optimizer_kwargs=gradient_accumulation_steps=5: must be at most the 4 steps of phase head.",
        ),
    ],
    ids=["optimizer", "argument", "wrong type", "no such layer", "wrong pattern", "only warm-up", "no update"],
)
def test_values_that_keras_rejects_are_reported_before_a_run_is_made(values, message, workspace, tmp_path):
    recipe = small("finetune", workspace, **values)
    with pytest.raises(UserError) as error:
        train("finetune", workspace / "out", tmp_path / "run", recipe)
    assert str(error.value).startswith(message)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("trainer", TRAINERS)
def test_help_lists_the_flags_of_a_trainer(trainer):
    out = run(f"trainers.{trainer}", "--help").stdout
    shared = ("recipe", "run", "epochs", "seed", "optimizer_kwargs", "label_smoothing", "early_stopping", "strategy")
    for flag in ("tfrecords", *shared, "backbone", "weights", "image_size", "precision", "checkpoint_every"):
        assert f"--{flag}:" in out or f"--[no]{flag}:" in out, flag
    assert ("--augment:" in out) == (trainer != "features")  # Features are computed from unchanged images.
    assert ("--unfreeze:" in out) == (trainer == "finetune")
    assert ("--csv:" in out) == (trainer == "scratch")
