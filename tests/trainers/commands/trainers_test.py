"""Every trainer, end to end, on a tiny dataset: as commands, and through the function that they all call."""

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
from image_sources import converted, history, run, save_weights, start, tree, with_splits

from tfrecord_tools import dataset
from tfrecord_tools.errors import UserError
from trainers import checkpoint, recipes, training
from trainers.models import networks
from trainers.run_directory import Metrics

BACKBONE = {"backbone": "MobileNet", "backbone_kwargs": {"alpha": 0.25}, "image_size": 32}
BACKBONE_FLAGS = ("--backbone=MobileNet", "--backbone_kwargs=alpha=0.25", "--image_size=32")
TRAINERS = {
    "scratch": ("--image_size=24", "--augment=standard"),
    "features": (*BACKBONE_FLAGS, "--head=dense"),
    "frozen": BACKBONE_FLAGS,
    "finetune": (*BACKBONE_FLAGS, "--augment=document"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Holds a dataset of two classes, one of five, and weights."""
    place = tmp_path_factory.mktemp("trainers")
    save_weights(place / "w.weights.h5")
    converted(with_splits(place / "src", train=16, validation=6), place / "out")
    five = {f"{split}/{name}": 5 for split in ("train", "validation") for name in ("a", "b", "c", "d", "e")}
    converted(tree(place / "src5", five), place / "out5")
    return place


def train(trainer: str, out: Path, run: Path, recipe: recipes.Recipe, **config: Any) -> Metrics:
    settings = recipes.TrainConfig(tfrecords=str(out), run=str(run), features=str(run.parent / "features"), **config)
    return training.train(trainer, dataset.open(out), recipe, settings, {})


def small(trainer: str, place: Path, **values: Any) -> recipes.Recipe:
    model = {"image_size": 24} if trainer == "scratch" else BACKBONE | {"weights": str(place / "w.weights.h5")}
    recipe = recipes.RECIPES[trainer]["default"](**model)
    replaced: dict[str, Any] = {"batch_size": 8, "epochs": [1] * len(recipe.phases)}
    return recipes.override(recipe, **replaced | values)


@pytest.mark.parametrize(
    "trainer",
    [pytest.param(name, marks=pytest.mark.slow if name in ("features", "frozen") else ()) for name in TRAINERS],
)
def test_five_classes_need_no_flag(trainer, place, tmp_path):
    metrics = train(trainer, place / "out5", tmp_path / "run", small(trainer, place))
    assert metrics["count"] == 25
    assert keras.models.load_model(tmp_path / "run/model.keras").output_shape == (None, 5)


def test_features_end_in_the_whole_model(place, tmp_path, capsys):
    metrics = train("features", place / "out", tmp_path / "one", small("features", place))
    assert "features: 32 computed in " in capsys.readouterr().out
    model = keras.models.load_model(tmp_path / "one/model.keras")
    validation = dataset.open(place / "out").records("validation")
    batches = list(dataset.eval_batches(validation, batch_size=6, image_size=32, crop=0.875))
    right = [np.array(model(images))[:, 0].round() == labels for images, labels in batches]
    assert np.concatenate(right).mean() == pytest.approx(metrics["accuracy"])
    rows = history(tmp_path / "one")
    assert float(rows[-1]["val_loss"]) == pytest.approx(metrics["loss"], rel=1e-4)  # From features; from pixels.

    extractor, head = networks.split(model)
    assert np.ptp(extractor(batches[0][0]), axis=0).max() > 0.1  # Records differ in what the head sees.
    np.testing.assert_allclose(head(extractor(batches[0][0])), model(batches[0][0]), rtol=1e-5)

    kept = [json.loads(path.read_text())["seconds"] for path in (tmp_path / "features").glob("*/about.json")]
    assert metrics["seconds"] > sum(kept) > 0.1
    other = recipes.override(
        recipes.features(head="linear", **BACKBONE, weights=str(place / "w.weights.h5")), batch_size=8, epochs=[2]
    )
    again = train("features", place / "out", tmp_path / "two", other)
    assert "computed" not in capsys.readouterr().out  # Another head on the same features,
    assert again["seconds"] > sum(kept)  # whose cost is counted as if they had been computed: seeds can be compared.


def test_csvs_are_a_dataset(place, tmp_path):
    made = run("tfrecord_tools.to_csv", f"--src={place / 'src'}", "--image_size=24", "--out=csv", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    before = sorted(path.name for path in place.iterdir())
    flags = ("--csv=csv", "--batch_size=8", "--epochs=1")
    done = run("trainers.scratch", *flags, "--run=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "data: csv-tfrecords (csv), 2 classes: cats, dogs\n" in done.stdout
    assert "model: CNN(" in done.stdout
    assert ", 24 px, " in done.stdout  # Theirs.
    assert json.loads((tmp_path / "run/metrics.json").read_text())["count"] == 12
    again = run("trainers.scratch", *flags, "--run=run", cwd=tmp_path)
    assert "csv-tfrecords/: up to date. No image was added, changed or removed.\n" in again.stdout
    assert "run: run is finished already" in again.stdout
    both = run("trainers.scratch", *flags, "--tfrecords=csv-tfrecords", cwd=tmp_path)
    assert both.stderr.splitlines()[-1] == (
        "error: --csv=csv and --tfrecords=csv-tfrecords exclude each other: pass one of them."
    )
    one = run("trainers.scratch", "--csv=csv/train.csv", cwd=tmp_path)
    assert one.stderr == "error: --csv=csv/train.csv: a file. Pass csv, where there may be a CSV for each split.\n"
    images = run("trainers.scratch", f"--csv={place / 'src'}", cwd=tmp_path)
    assert images.stderr.startswith(f"error: --csv={place / 'src'}: no CSV of pixels in it, such as ")
    assert sorted(path.name for path in place.iterdir()) == before


def test_everything_that_recipes_can_ask_for_at_once(place, tmp_path):
    recipe = small(
        "scratch",
        place,
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
    metrics = train("scratch", place / "out", tmp_path / "run", recipe, tensorboard=True)
    rows = history(tmp_path / "run")
    rates = [float(row["learning_rate"]) for row in rows]
    assert rates[0] == pytest.approx(3e-3 * 4 / 5)  # Four of five steps of warm-up.
    assert rates[1] > rates[2]
    assert sorted(path.name for path in (tmp_path / "run/tensorboard").iterdir()) == ["scratch"]  # A run a phase.
    assert len(list((tmp_path / "run/tensorboard").glob("scratch/*/events*"))) == 2  # Training and validation.
    best = min(range(len(rows)), key=lambda i: float(rows[i]["val_loss"]))
    assert metrics["accuracy"] == pytest.approx(float(rows[best]["val_accuracy"]))  # The best averaged weights.


@pytest.mark.slow
def test_killed_in_the_middle_of_all_that_it_ends_the_same(place, tmp_path):
    flags = (
        "--tfrecords", place / "out", "--image_size=24", "--batch_size=8", "--epochs=6", "--checkpoint_every=1",
        "--optimizer=adam", "--optimizer_kwargs=use_ema=True,ema_momentum=0.5,gradient_accumulation_steps=3",
        "--schedule=plateau", "--patience=1", "--early_stopping=3", "--mixup=0.5", "--class_weights=balanced",
    )  # fmt: skip
    check_kills("scratch", tuple(map(str, flags)), [3, 14], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("trainer", TRAINERS)
def test_killed_five_times_each_trainer_ends_the_same(trainer, place, tmp_path):
    epochs = ",".join(["10"] * len(small(trainer, place).phases))
    flags = (f"--tfrecords={place / 'out'}", *TRAINERS[trainer], f"--epochs={epochs}")
    if trainer != "scratch":
        flags += (f"--weights={place / 'w.weights.h5'}",)
    steps = np.sort(np.random.default_rng(len(trainer)).choice(np.arange(1, 38), 5, replace=False)).tolist()
    check_kills(trainer, (*flags, "--batch_size=8", "--checkpoint_every=1"), steps, tmp_path)


def check_kills(trainer: str, flags: tuple[str, ...], steps: list[int], place: Path) -> None:
    """Trains once undisturbed and once killed as soon as its checkpoint has reached each of these steps."""
    assert run(f"trainers.{trainer}", *flags, "--run=whole", cwd=place).returncode == 0
    for step in steps:
        with start(f"trainers.{trainer}", *flags, "--run=killed", cwd=place) as process:
            path = place / "killed/checkpoint.npz"
            while process.poll() is None and checkpoint.load(path).position.global_step < step:
                time.sleep(0.01)
            process.kill()
        assert process.returncode == -signal.SIGKILL
    done = run(f"trainers.{trainer}", *flags, "--run=killed", cwd=place)
    assert "\nresumed: " in done.stdout
    whole, killed = (
        keras.models.load_model(place / name / "model.keras").get_weights() for name in ("whole", "killed")
    )
    for one, other in zip(whole, killed, strict=True):
        np.testing.assert_array_equal(one, other)
    assert history(place / "killed") == history(place / "whole")


def test_a_loss_that_is_no_number_stops_and_keeps_the_checkpoint(place, tmp_path):
    recipe = small(
        "scratch", place, epochs=[5], learning_rate=[1e4], phase={"optimizer": "sgd", "schedule": "constant"}
    )
    with pytest.raises(UserError) as error:
        train("scratch", place / "out", tmp_path / "run", recipe, checkpoint_every=1)
    message = str(error.value)
    kept = checkpoint.load(tmp_path / "run/checkpoint.npz")
    step = int(message.split("step ")[1].split(":")[0])
    assert message.startswith(f"--run={tmp_path / 'run'}: step {step}: the loss or a weight is not a number any more; ")
    assert f" The checkpoint of step {kept.position.global_step} is kept." in message
    assert step - 1 <= kept.position.global_step <= step
    assert all(np.isfinite(array).all() for array in kept.arrays["model"] + kept.arrays["optimizer"])
    stream = dataset.train_batches(
        dataset.open(place / "out").records("train"),
        batch_size=8,
        image_size=24,
        seed=0,
        start_step=step,
        with_numbers=True,
    )
    batch = message.split(f"the batch of step {step}: ")[1].split(". The checkpoint")[0]
    paths = dataset.open(place / "out").records("train").paths
    assert batch == ", ".join(f"{number} ({paths[number]})" for number in next(iter(stream))[2].numpy())
    assert f"the batch of step {step - 1}: " in message  # Whose step made the weights.


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
def test_deterministic_trainings_end_the_same(name, place, tmp_path):
    """Op determinism refuses operations, so every option that adds operations is among these."""
    trainer = name.partition(",")[0]
    epochs = ",".join(["2"] * len(small(trainer, place).phases))
    flags = [*DETERMINISTIC[name], "--deterministic", "--batch_size=8", f"--epochs={epochs}"]
    if "--csv=csv" in flags:
        made = run("tfrecord_tools.to_csv", f"--src={place / 'src'}", "--image_size=24", "--out=csv", cwd=tmp_path)
        assert made.returncode == 0, made.stderr
    else:
        flags.append(f"--tfrecords={place / 'out'}")
    if trainer != "scratch":
        flags.append(f"--weights={place / 'w.weights.h5'}")
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


def test_an_operation_that_determinism_refuses_is_told(place, tmp_path, monkeypatch):
    def refuse(*given: object) -> None:
        raise tf.errors.UnimplementedError(None, None, "A deterministic GPU implementation of X is not available.")

    monkeypatch.setattr(training, "_train_in", refuse)
    monkeypatch.setattr(training.devices.tf.config.experimental, "enable_op_determinism", lambda: None)
    with pytest.raises(UserError) as error:
        train("scratch", place / "out", tmp_path / "run", small("scratch", place), deterministic=True)
    assert str(error.value) == (
        "--deterministic: TensorFlow has no reproducible form of an operation: A deterministic GPU implementation of X"
        " is not available. Remove the flag, with another --run, or train another model."
    )


def mirrored(place: Path, run: Path, devices: int, **options: Any) -> str:
    strategy = "mirrored" if devices > 1 else "none"
    with spread_training.start(place / "out", run, strategy, devices=devices, **options) as process:
        out, err = process.communicate(timeout=600)
    assert process.returncode == (-signal.SIGKILL if options.get("kill_at") else 0), err
    return out


def test_two_devices_learn_as_one_does(place, tmp_path):
    mirrored(place, tmp_path / "run1", 1)
    assert "device: 2 x CPU, precision float32" in mirrored(place, tmp_path / "run2", 2)
    one, two = (history(tmp_path / f"run{devices}") for devices in (1, 2))
    for row, other in zip(one, two, strict=True):
        for name in ("loss", "val_loss", "accuracy"):
            assert float(row[name]) == pytest.approx(float(other[name]), rel=1e-4), name  # Other order of sums.


@pytest.mark.slow
def test_two_devices_with_moving_statistics_of_their_own_resume_exactly(place, tmp_path):
    mirrored(place, tmp_path / "whole", 2, batch_norm=True)
    mirrored(place, tmp_path / "killed", 2, batch_norm=True, kill_at=5)
    assert "resumed: " in mirrored(place, tmp_path / "killed", 2, batch_norm=True)
    whole, killed = (keras.models.load_model(tmp_path / name / "model.keras") for name in ("whole", "killed"))
    for weight, other in zip(whole.get_weights(), killed.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, other)
    rows = history(tmp_path / "whole")
    for row, other in zip(rows, history(tmp_path / "killed"), strict=True):
        for name in ("loss", "val_loss"):  # The parts of a sum that each device had are one now.
            assert float(row[name]) == pytest.approx(float(other[name]), rel=1e-6), name
    # What is judged after an epoch is what is kept: the mean of the devices' statistics.
    metrics = json.loads((tmp_path / "whole/metrics.json").read_text())
    assert metrics["accuracy"] == pytest.approx(float(rows[-1]["val_accuracy"]))
    assert metrics["loss"] == pytest.approx(float(rows[-1]["val_loss"]), rel=1e-4)


def test_a_batch_that_devices_cannot_share_is_told(place, tmp_path, monkeypatch):
    found = training.devices.Device(name="GPU", precision="float32", jit_compile=False, replicas=3)
    monkeypatch.setattr(training.devices, "set_up", lambda **settings: found)
    with pytest.raises(UserError) as error:
        train("scratch", place / "out", tmp_path / "run", small("scratch", place))
    assert str(error.value) == (
        "--batch_size=8: 3 devices cannot share it equally. Pass a multiple of 3, or --strategy=none."
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("argument", ["clipnorm", "clipvalue", "global_clipnorm"])
def test_clipping_on_several_devices_is_refused(argument, place, tmp_path, monkeypatch):
    """Keras clips on each of them, before it adds up: a clipped step would depend on how many there are."""
    found = training.devices.Device(name="GPU", precision="float32", jit_compile=False, replicas=2)
    monkeypatch.setattr(training.devices, "set_up", lambda **settings: found)
    recipe = small("scratch", place, phase={"optimizer_kwargs": {argument: 1.0}})
    with pytest.raises(UserError) as error:
        train("scratch", place / "out", tmp_path / "run", recipe)
    assert str(error.value).startswith(f"--optimizer_kwargs={argument}: Keras clips what each of 2 devices finds, ")


@pytest.mark.parametrize("strategy", ["auto", pytest.param("none", marks=pytest.mark.slow), "mirrored"])
def test_gradients_are_accumulated_on_one_device(strategy, place, tmp_path, monkeypatch):
    """Under a strategy, be it of one device, Keras fails in the first step."""
    asked = []
    set_up = training.devices.set_up
    monkeypatch.setattr(training.devices, "set_up", lambda **how: asked.append(how["strategy"]) or set_up(**how))
    recipe = small("scratch", place, phase={"optimizer_kwargs": {"gradient_accumulation_steps": 2}})
    if strategy == "mirrored":
        with pytest.raises(UserError, match=r"^--strategy=mirrored: Keras accumulates no gradients under a strategy\."):
            train("scratch", place / "out", tmp_path / "run", recipe, strategy=strategy)
    else:
        train("scratch", place / "out", tmp_path / "run", recipe, strategy=strategy)
        assert asked == ["none"]


@pytest.mark.parametrize(
    ("trainer", "values", "config", "message"),
    [
        (
            "scratch",
            {"class_weights": "balanced"},
            {"order": "balanced"},
            "--order=balanced and --class_weights=balanced: each makes up for rare classes, both would twice.",
        ),
        ("features", {}, {"order": "balanced"}, "--order=balanced: features are read shuffled."),
    ],
)
def test_settings_that_do_not_go_together_are_told(trainer, values, config, message, place, tmp_path):
    with pytest.raises(UserError) as error:
        train(trainer, place / "out", tmp_path / "run", small(trainer, place, **values), **config)
    assert str(error.value).startswith(message)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"phase": {"optimizer": "adamm"}}, "--optimizer=adamm: not one of Keras's, such as adam, adamw, sgd, "),
        (
            {"phase": {"optimizer_kwargs": {"momentun": 0.9}}},
            "--optimizer_kwargs=momentun=0.9: refused by Keras's Adam: ",
        ),
        (
            {"phase": {"optimizer": "adamw", "optimizer_kwargs": {"weight_decay": "much"}}},
            "--optimizer_kwargs=weight_decay='much': refused by Keras's AdamW: ",
        ),
        ({"unfreeze": "block9"}, "--unfreeze=block9: no layer with weights of mobilenet_0.25_32 has a name like that"),
        ({"unfreeze": "("}, "--unfreeze=(: not a regular expression: "),
        ({"phase": {"warmup_steps": 4}}, "--warmup_steps=4: phase head has 4 steps; fewer are expected."),
        (
            {"phase": {"optimizer_kwargs": {"gradient_accumulation_steps": 5}}},
            "--optimizer_kwargs=gradient_accumulation_steps=5: phase head has 4 steps, in which no weight would change",
        ),
    ],
    ids=["optimizer", "its arguments", "of a wrong type", "no such layer", "no pattern", "all of it warm-up", "never"],
)
def test_what_keras_refuses_is_told_before_a_run_is_made(values, message, place, tmp_path):
    recipe = small("finetune", place, **values)
    with pytest.raises(UserError) as error:
        train("finetune", place / "out", tmp_path / "run", recipe)
    assert str(error.value).startswith(message)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("trainer", TRAINERS)
def test_help_shows_the_flags_of_a_trainer(trainer):
    out = run(f"trainers.{trainer}", "--help").stdout
    shared = ("recipe", "run", "epochs", "seed", "optimizer_kwargs", "label_smoothing", "early_stopping", "strategy")
    for flag in ("tfrecords", *shared, "backbone", "weights", "image_size", "precision", "checkpoint_every"):
        assert f"--{flag}:" in out or f"--[no]{flag}:" in out, flag
    assert ("--augment:" in out) == (trainer != "features")  # It would be without a meaning.
    assert ("--unfreeze:" in out) == (trainer == "finetune")
    assert ("--csv:" in out) == (trainer == "scratch")
