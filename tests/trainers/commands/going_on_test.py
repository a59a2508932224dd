"""Trainings that start from another run: with its weights only, or from the end of its training."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_backbone
from image_sources import converted, history, tree, with_splits
from image_sources import run as command

import trainers
from tfrecord_tools import dataset
from tfrecord_tools.errors import UserError
from trainers import checkpoint, recipes, run_directory, training, training_options
from trainers.fitting import folds, parents
from trainers.fitting.setup import Training
from trainers.fitting.throughput import Throughput
from trainers.models import networks
from trainers.recipes import ModelConfig, TrainConfig
from trainers.run import Run

# A network with BatchNormalization and dropout, since both have state besides the weights that are trained.
SMALL: dict[str, Any] = {"backbone_kwargs": {"filters": (4, 8)}, "image_size": 24, "batch_size": 8}
SCRATCH: dict[str, Any] = SMALL | {"epochs": 2, "schedule": "constant", "checkpoint_every": 1}
STEPS = 3  # Per epoch of the 24 training images.


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with datasets of two and of three classes, and with weights."""
    workspace = tmp_path_factory.mktemp("going_on")
    converted(with_splits(workspace / "src", train=12, validation=6), workspace / "out")
    converted(tree(workspace / "src3", {f"train/{name}": 6 for name in ("ants", "bees", "cats")}), workspace / "out3")
    tiny_backbone.save_weights(workspace / "w.weights.h5")
    return workspace


def train(trainer: str, workspace: Path, run: str, **given: Any) -> Run:
    """Train in a directory of the workspace, without output."""
    given = {"tfrecords": workspace / "out", "run": workspace / run, "log": lambda line: None} | given
    if trainer == "features":
        given = {"features": workspace / "features"} | given
    result: Run = getattr(trainers, trainer)(**given)
    return result


@pytest.fixture(scope="module")
def parent(workspace: Path) -> Run:
    return train("scratch", workspace, "parent", **SCRATCH)


def check_equal(one: Run, other: Run) -> None:
    """Check that two runs have the same weights, history and end, bit for bit."""
    for left, right in zip(one.model.get_weights(), other.model.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)
    assert history(one.path) == history(other.path)
    ends = [checkpoint.load(run.path / "optimizer.npz") for run in (one, other)]
    np.testing.assert_equal(ends[0].arrays, ends[1].arrays)
    assert ends[0].position == ends[1].position


class Stopped(Exception):
    """The training has reached the step at which a test stops it."""


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Make the next training raise `Stopped` after a number of steps."""
    done = 0
    original = Throughput.on_train_batch_end

    def count(self: Throughput, batch: int, logs: Any = None) -> None:
        nonlocal done
        done += bool(logs)  # Skipped steps have no logs.
        if done > steps:
            raise Stopped
        original(self, batch, logs)

    monkeypatch.setattr(Throughput, "on_train_batch_end", count)


# --- Going on --------------------------------------------------------------------------------------------------------


def test_more_epochs_give_the_weights_of_a_longer_training(workspace: Path, parent: Run) -> None:
    lines: list[str] = []
    child = parent.train_more(2, log=lines.append)
    assert child.path == Path(f"{parent.path}-more2")
    assert f"continues with the weights of {parent.path}: {2 * STEPS} steps are done" in lines
    assert any(line.startswith("phase scratch: ") and line.endswith(" constant, 4 epochs") for line in lines)
    check_equal(child, train("scratch", workspace, "whole", **SCRATCH | {"epochs": 4}))
    assert child.history["epoch"] == [1, 2, 3, 4]
    assert child.metrics["steps"] == 4 * STEPS
    assert child.settings["flags"]["epochs"] == {"scratch": 4}
    assert child.settings["parent"] == {
        "weights_sha256": parents.sha256(parent.model.get_weights()),
        "optimizer_sha256": child.settings["parent"]["optimizer_sha256"],
        "more_epochs": 2,
    }
    assert child.settings["other"]["parent"] == str(parent.path)
    page = (child.path / "report.html").read_text()
    for text in (f"of {parent.path}", child.settings["parent"]["weights_sha256"], "Further epochs"):
        assert text in page

    lines.clear()
    assert parent.train_more(2, log=lines.append).path == child.path
    with pytest.raises(UserError, match=r"^epochs=None: must be a whole number\.$"):
        parent.train_more(None, tfrecords=workspace / "out")  # type: ignore[arg-type]
    assert lines[0] == (
        f"run: {child.path} is finished already. To train this model further, add --more_epochs=N. To train a new"
        " model, pass another --run"
    )
    assert child.path.with_name(f"{child.path.name}-more1") == child.train_more(1, log=lines.append).path  # And again.


def test_a_training_that_goes_on_can_be_stopped_anywhere(
    workspace: Path, parent: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = parent.train_more(1, run=workspace / "undisturbed", log=lambda line: None)
    for steps in (0, 2):  # Before the first checkpoint, and after two steps.
        with monkeypatch.context() as patch:
            stop_after(patch, steps)
            with pytest.raises(Stopped):
                parent.train_more(1, run=workspace / "stopped", checkpoint_every=1, log=lambda line: None)
    lines: list[str] = []
    done = parent.train_more(1, run=workspace / "stopped", log=lines.append)
    assert f"resumed: {2 * STEPS + 2} steps are done" in lines
    check_equal(done, whole)


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["features", "frozen", "finetune"])
def test_each_trainer_goes_on_exactly(trainer: str, workspace: Path) -> None:
    def epochs(last: int) -> Any:
        return [1, last] if trainer == "finetune" else last

    given = tiny_backbone.MODEL | {"weights": workspace / "w.weights.h5", "batch_size": 8, "schedule": "plateau"}
    first = train(trainer, workspace, f"{trainer}1", **given, epochs=epochs(2), patience=1)
    options: dict[str, Any] = {"features": workspace / "features"} if trainer == "features" else {}
    longer = first.train_more(2, **options)
    check_equal(longer, train(trainer, workspace, f"{trainer}2", **given, epochs=epochs(4), patience=1))


def test_a_cosine_is_that_of_the_longer_training(workspace: Path) -> None:
    first = train("scratch", workspace, "cosine", **SCRATCH | {"schedule": "cosine", "epochs": 1})
    assert first.history["learning_rate"] == [0.0]
    more = first.train_more(3, log=lambda line: None)
    falls = [3e-3 * (1 + np.cos(np.pi * share)) / 2 for share in (0.5, 0.75, 1)]
    np.testing.assert_allclose(more.history["learning_rate"][1:], falls, atol=1e-9)


@pytest.mark.slow
def test_early_stopping_and_averages_go_on_from_the_weights_of_the_model(workspace: Path) -> None:
    """The best loss is kept, so that more epochs never end with worse weights than the run had."""
    given = SCRATCH | {"early_stopping": 1, "epochs": 9, "learning_rate": 0.03, "seed": 1}
    first = train("scratch", workspace, "early", **given, optimizer_kwargs={"use_ema": True, "ema_momentum": 0.5})
    assert len(first.history["epoch"]) < 9
    more = first.train_more(2, log=lambda line: None)
    assert more.history["epoch"][: len(first.history["epoch"])] == first.history["epoch"]
    assert len(more.history["epoch"]) > len(first.history["epoch"])
    assert min(more.history["val_loss"]) == pytest.approx(more.metrics["loss"], abs=1e-4)
    assert more.metrics["loss"] <= first.metrics["loss"] + 1e-4


def test_the_command_that_trained_a_run_goes_on_with_more_epochs_at_its_end(workspace: Path, parent: Run) -> None:
    """All flags of the first command are accepted, and others are refused."""
    given: dict[str, Any] = {"tfrecords": workspace / "out", "run": parent.path, "more_epochs": 2} | SCRATCH
    child = trainers.scratch(**given, log=lambda line: None)
    assert child.path == Path(f"{parent.path}-more2")
    with pytest.raises(UserError) as error:
        trainers.scratch(**given | {"batch_size": 4}, log=lambda line: None)
    assert str(error.value) == (
        "--more_epochs=2: a run can only continue with the same settings, but --batch_size was 8, is now 4. Leave"
        " out all flags except --run and --more_epochs, or pass the same values. To start a new training with the"
        f" weights of this run, pass --init_from={parent.path} instead."
    )


@pytest.mark.parametrize(
    ("trainer", "given", "message"),
    [
        (
            "scratch",
            {"run": None},
            "--more_epochs=1: --run is missing. Pass the run directory of the finished run that you want to train"
            " further.",
        ),
        ("scratch", {"more_epochs": 0}, "--more_epochs=0: must be at least 1 epoch."),
        (
            "scratch",
            {"seed": 5},
            "--more_epochs=1: a run can only continue with the same settings, but --seed was 0, is now 5.",
        ),
        (
            "scratch",
            {"tfrecords": "out3"},
            "--more_epochs=1: a run can only continue with the same settings, but the run was trained on another"
            " dataset, or the dataset has changed since then.",
        ),
        (
            "finetune",
            {},
            "--run=RUN: was trained by trainers.scratch. Only that trainer can train it further. Run python -m"
            " trainers.scratch --run=RUN --more_epochs=1.",
        ),
    ],
    ids=["no run", "no epochs", "seed", "dataset", "trainer"],
)
def test_runs_that_cannot_go_on(
    trainer: str, given: dict[str, Any], message: str, workspace: Path, parent: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace)
    with pytest.raises(UserError) as error:
        training_options.train(trainer, {"run": str(parent.path), "more_epochs": 1} | given)
    assert str(error.value).startswith(message.replace("RUN", str(parent.path)))
    assert not Path(f"{parent.path}-more1").exists()


@pytest.fixture(scope="module")
def chosen(workspace: Path) -> dict[str, Any]:
    """Return options that choose records: a fold, and an audit with one doubtful image of each class."""
    data = dataset.open(workspace / "out")
    assigned, _ = folds.assign(data, 3, 0, workspace / "features")
    folds.write(workspace / "folds3.csv", assigned, data.class_names)
    train_records = assigned.divided(2)[0]
    doubtful = [int(np.flatnonzero(train_records.labels == label)[0]) for label in (0, 1)]
    hashes = [train_records.source_sha256[number].tobytes().hex() for number in doubtful]
    write_audit(workspace / "audited", data.digest, hashes)
    return {
        "records": workspace / "folds3.csv",
        "fold": 2,
        "audit": workspace / "audited",
        "drop_issues": ["label"],
    }


def write_audit(directory: Path, digest: str, hashes: list[str]) -> None:
    directory.mkdir()
    (directory / "audit.json").write_text(json.dumps({"digest": digest}))
    rows = [{"kind": "label", "score": 0.9, "sha256": name, "twin_sha256": ""} for name in hashes]
    pq.write_table(pa.Table.from_pylist(rows), directory / "issues.parquet")


def test_the_choice_of_records_goes_on(workspace: Path, chosen: dict[str, Any]) -> None:
    given = SCRATCH | {"epochs": 1} | chosen
    first = train("scratch", workspace, "chosen", **given)
    lines: list[str] = []
    more = first.train_more(1, log=lines.append)
    assert any(
        line.startswith("--drop_issues=label: leaves out 2 of 24 training records, because of their issues in ")
        for line in lines
    )
    assert more.metrics["split"] == "fold 2 of 3"
    assert more.settings["flags"] == first.settings["flags"] | {"epochs": {"scratch": 2}}
    check_equal(more, train("scratch", workspace, "chosen2", **given | {"epochs": 2}))
    more.train_more(1, log=lines.append)  # And again.

    for name, value, message in (
        ("fold", 1, "--fold was 2, is now 1; the SHA-256 of the open issues in --audit was '"),
        ("drop_issues", ["off_topic"], "--drop_issues was ['label'], is now ['off_topic']; the SHA-256 of the "),
    ):
        with pytest.raises(UserError) as error:
            first.train_more(1, run=workspace / "no", **{name: value}, log=lines.append)
        assert f"but {message}" in str(error.value)


def test_moved_or_unknown_records(workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "n.txt").write_text("\n".join(map(str, range(16))))
    first = train("scratch", workspace, "some", **SCRATCH | {"epochs": 1}, records=tmp_path / "n.txt")
    moved = (tmp_path / "n.txt").rename(tmp_path / "moved.txt")
    with pytest.raises(UserError) as error:
        first.train_more(1)
    assert str(error.value) == (
        f"--more_epochs=1: {first.path} was trained with --records, but {tmp_path}/n.txt does not exist. Pass the"
        " same file again, as --records=FILE."
    )
    settings = json.loads((first.path / "settings.json").read_text())
    del settings["other"]["records"]
    (first.path / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(UserError) as error:
        first.train_more(1)
    assert str(error.value) == (
        f"--more_epochs=1: {first.path} was trained with --records, but an earlier version of this package did not"
        " store the path of the file. Pass the same file again, as --records=FILE."
    )
    assert first.train_more(1, records=moved, log=lambda line: None).history["epoch"] == [1, 2]
    moved.write_text("\n".join(map(str, range(17))))
    with pytest.raises(UserError) as error:
        first.train_more(1, run=tmp_path / "other", records=moved, log=lambda line: None)
    assert ": a run can only continue with the same settings, but the SHA-256 of --records was '" in str(error.value)


def test_a_run_without_the_state_of_its_optimizer(parent: Run, tmp_path: Path) -> None:
    copy = Run(Path(shutil.copytree(parent.path, tmp_path / "copy")))
    advice = f"To start a new training with the weights of this run, pass --init_from={copy.path} instead."
    (copy.path / "optimizer.npz").write_bytes(b"x")
    with pytest.raises(UserError) as error:
        copy.train_more(1)
    assert str(error.value).startswith(f"{copy.path}/optimizer.npz: is damaged (")
    assert str(error.value).endswith(advice)
    (copy.path / "optimizer.npz").unlink()
    with pytest.raises(UserError) as error:
        copy.train_more(1)
    assert str(error.value) == (
        f"--more_epochs: {copy.path}/optimizer.npz does not exist, so the training cannot be continued exactly."
        f" The file was deleted, or an earlier version of this package trained the run. {advice}"
    )


def test_a_run_of_a_program_goes_on_in_a_program(workspace: Path, tmp_path: Path) -> None:
    data = dataset.open(workspace / "out")
    # Values that settings.json has in another form: a shape, a fit and an augmentation.
    model = {"backbone_kwargs": SMALL["backbone_kwargs"], "image_size": (16, 24)}
    recipe = recipes.override(recipes.scratch(**model), epochs=[1], fit="pad", augment="standard,zoom_range=(0.9,1.1)")
    first = TrainConfig(tfrecords="out", run=str(tmp_path / "one"))
    run = Run(training.train("mine", data, recipe, first, {"mine": 1}, lambda line: None))
    with pytest.raises(UserError) as error:
        run.train_more(1)
    assert str(error.value).startswith(f"{run.path}: was trained by 'mine', which is not a trainer of this package. ")
    second = TrainConfig(tfrecords="out", run=str(tmp_path / "two"), init_from=str(run.path), more_epochs=1)
    more = Run(training.train("mine", data, recipe, second, {"mine": 1}, lambda line: None))
    assert more.history["epoch"] == [1, 2]
    stored, own = (json.dumps(dataclasses.asdict(one)) for one in (parents.recipe_of(run.path), recipe))
    assert json.loads(stored) | {"crop": 0.875} == json.loads(
        own
    )  # `pad` does not use the crop, so it is 0 in the file.
    assert more.info.geometry == run.info.geometry


# --- Starting with the weights ---------------------------------------------------------------------------------------


def started(monkeypatch: pytest.MonkeyPatch, trainer: str, given: dict[str, Any]) -> tuple[Training, list[str]]:
    """Return a training just before its first step, and the lines for the user."""
    begun: list[Training] = []
    lines: list[str] = []

    def stop(run: Path, training: Training, *others: object) -> None:
        begun.append(training)
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(training, "_train_in", stop)
        with pytest.raises(Stopped):
            training_options.train(trainer, given, lines.append)
    return begun[0], lines


@pytest.mark.parametrize("trainer", ["scratch", "frozen", "finetune", "features"])
def test_a_training_starts_with_the_weights_of_a_run(
    trainer: str, workspace: Path, parent: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The network is that of the run, whatever the default of the trainer is."""
    given = {"tfrecords": workspace / "out", "init_from": parent, "run": tmp_path / "run"}
    begun, lines = started(monkeypatch, trainer, given)
    assert begun.recipe.model.backbone_kwargs["filters"] == [4, 8]
    assert any(f" 24 px, weights of {parent.path}, " in line for line in lines)
    assert [phase.trainable for phase in begun.recipe.phases] == {
        "scratch": ["scratch"],
        "finetune": ["head", "last_stage"],
    }.get(trainer, ["head"])
    for mine, theirs in zip(begun.classifier.model.get_weights(), parent.model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    settings = run_directory.read_settings(tmp_path / "run")
    assert settings["parent"] == {"weights_sha256": parents.sha256(parent.model.get_weights())}
    assert settings["other"]["parent"] == str(parent.path)
    assert settings["flags"]["weights"] == "none"


@pytest.mark.parametrize(
    ("out", "given", "reason"),
    [
        ("out3", {}, "the classes are different"),
        ("out", {"pooling": "average"}, "the layers of the head are different"),
    ],
)
def test_the_head_is_new_if_it_does_not_fit(
    out: str, given: dict[str, Any], reason: str, workspace: Path, parent: Run, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    if given:  # An option cannot choose the pooling, but a change of the run's settings can.
        parent = Run(Path(shutil.copytree(parent.path, tmp_path / "changed")))
        settings = parent.settings
        settings["recipe"]["model"] |= given
        run_directory.write_json(parent.path / "settings.json", settings)
    run = tmp_path / "run"
    begun, lines = started(
        monkeypatch, "finetune", {"tfrecords": workspace / out, "init_from": parent.path, "run": run}
    )
    text = f"weights of {parent.path}, but with a new head, because {reason}"
    assert any(f", {text}, " in line for line in lines)
    assert run_directory.read_settings(run)["other"]["weights"] == text.removeprefix("weights ")
    old = next(layer for layer in parent.model.layers if layer.name == "cnn")
    for mine, theirs in zip(begun.classifier.base.get_weights(), old.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    heads = [model.layers[-1].get_weights() for model in (begun.classifier.model, parent.model)]
    assert heads[0][0].shape != heads[1][0].shape or (heads[0][0] != heads[1][0]).any()


def test_a_larger_image_size_keeps_the_body(workspace: Path, parent: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"tfrecords": workspace / "out", "init_from": parent.path, "image_size": 32, "run": workspace / "larger"}
    begun, lines = started(monkeypatch, "scratch", given)
    assert any(
        ", 32 px, " in line and "with a new head, because the layers of the head are different" in line
        for line in lines
    )
    assert begun.classifier.model.input_shape == (None, 32, 32, 3)


def test_a_training_with_the_weights_of_a_run_can_be_stopped_anywhere(
    workspace: Path, parent: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"init_from": parent, "epochs": 1, "batch_size": 8, "checkpoint_every": 1}
    whole = train("scratch", workspace, "from_whole", **given)
    for steps in (0, 2):
        with monkeypatch.context() as patch:
            stop_after(patch, steps)
            with pytest.raises(Stopped):
                train("scratch", workspace, "from_stopped", **given)
    check_equal(train("scratch", workspace, "from_stopped", **given), whole)
    # Other weights are another training.
    with pytest.raises(UserError) as error:
        train("scratch", workspace, "from_whole", **given | {"init_from": workspace / "from_stopped"})
    assert "was started with other settings: parent.weights_sha256 was '" in str(error.value)


def test_features_are_those_of_the_weights(workspace: Path, parent: Run) -> None:
    """Another run of the same network has other features, although all settings are equal."""
    given: dict[str, Any] = {"epochs": 1, "batch_size": 8, "features": workspace / "kept"}
    train("features", workspace, "of_parent", init_from=parent, **given)
    assert len(list((workspace / "kept").iterdir())) == 2  # One for each split.
    other = train("scratch", workspace, "other_parent", **SCRATCH | {"seed": 2, "epochs": 1})
    train("features", workspace, "of_other", init_from=other, **given)
    assert len(list((workspace / "kept").iterdir())) == 4
    train("features", workspace, "again", init_from=parent, **given | {"seed": 3})
    assert len(list((workspace / "kept").iterdir())) == 4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"init_from": "nowhere"}, "--init_from=nowhere: does not exist. Pass the run directory of a trainer, or a "),
        (
            {"init_from": "unfinished"},
            "--init_from=unfinished: the training is unfinished. Run the command of the training again to"
            " finish it. Then repeat this command.",
        ),
        ({"init_from": "begun"}, "--init_from=begun: the training is unfinished, so there is no model.keras yet."),
        (
            {"init_from": "exported"},
            "--init_from=exported: is an exported model, which cannot be trained. Pass the run",
        ),
        ({"init_from": "exported/model.tflite"}, "--init_from=exported/model.tflite: is an exported model, which"),
        ({"init_from": "w.weights.h5"}, "--init_from=w.weights.h5: is not a .keras file. Pass a .keras file, or the"),
        (
            {"init_from": "parent", "weights": "imagenet"},
            "--weights=imagenet and --init_from=parent: only one of these flags is allowed. Remove the other flag.",
        ),
        (
            {"init_from": "parent", "backbone": "VGG16", "image_size": 32},
            "--init_from=parent: the network of this run is CNN(filters=[4, 8], batch_norm=True, padding='same') for"
            " images of 24 px, but this training builds VGG16 for 32 px. Difference: layer 1 is Rescaling",
        ),
        (
            {"init_from": "parent", "backbone_kwargs": {"filters": (4, 16)}},
            "--init_from=parent: the network of this run is CNN(filters=[4, 8], batch_norm=True, padding='same') for"
            " images of 24 px, but this training builds CNN(filters=(4, 16), batch_norm=True, padding='same') for 24"
            " px. Difference: layer 6 is Conv2D",
        ),
        (
            {"init_from": "alone.keras", "backbone": "MobileNet", "image_size": 32},
            "--init_from=alone.keras: the network of this run is cnn for images of 24 px, but this training builds"
            " MobileNet for 32 px. Difference: ",
        ),
    ],
)
def test_runs_that_a_training_cannot_start_from(
    given: dict[str, Any], message: str, workspace: Path, parent: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace)
    for name in ("unfinished", "begun"):
        shutil.copytree(parent.path, name, dirs_exist_ok=True)
        Path(name, "metrics.json").unlink()
    Path("begun/model.keras").unlink()
    Path("exported").mkdir(exist_ok=True)
    Path("exported/model.tflite").touch()
    shutil.copy("parent/model.keras", "alone.keras")
    with pytest.raises(UserError) as error:
        training_options.train("finetune", {"tfrecords": "out", "run": "refused"} | given)
    assert str(error.value).startswith(message)
    assert not Path("refused").exists()


def test_a_model_file_without_its_run(workspace: Path, parent: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network of the file is not known, so the flags must choose the same."""
    file = shutil.copy(parent.path / "model.keras", workspace / "file.keras")
    given = {"tfrecords": workspace / "out", "run": workspace / "of_file", "init_from": file}
    begun, lines = started(
        monkeypatch, "scratch", given | {name: SMALL[name] for name in ("backbone_kwargs", "image_size")}
    )
    assert any(f"weights of {file}, " in line for line in lines)
    for mine, theirs in zip(begun.classifier.model.get_weights(), parent.model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("backbone", ["MobileNetV2", "EfficientNetB0", "ResNet50"])
@pytest.mark.slow
def test_equal_weights_with_another_scaling_are_another_network(backbone: str) -> None:
    from trainers.models import inheritance

    config = ModelConfig(backbone=backbone, weights="none", image_size=32)
    own = networks.build(config, 2)
    assert inheritance.take(networks.build(config, 2), own.model, True) == ""
    other = ModelConfig(backbone=backbone, weights="none", image_size=32, scaling="unit")
    with pytest.raises(inheritance.OtherNetworkError, match="layer 1 is Rescaling"):
        inheritance.take(networks.build(other, 2), own.model, True)


OF_SETTINGS = """
import keras


def build(input_shape, slope=0.3, most=6.0, epsilon=1e-3, factor=2.0, drop=0.1, start=-1):
    images = keras.Input(input_shape)
    x = keras.layers.Conv2D(4, 3, strides=2, name="first")(keras.layers.Rescaling(1 / 127.5, offset=start)(images))
    x = keras.layers.LeakyReLU(slope)(keras.layers.BatchNormalization(epsilon=epsilon)(x))
    x = keras.layers.Dropout(drop)(keras.layers.ReLU(max_value=most)(x))
    x = keras.ops.reshape(x, (-1, *x.shape[1:]))[..., ::-1] * factor
    return keras.Model(images, keras.ops.leaky_relu(x, negative_slope=slope / 2), name="of_settings")
"""


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            {"slope": 0.9},
            'layer 5 is LeakyReLU {"negative_slope": 0.3} in the run, and LeakyReLU {"negative_slope": 0.9}',
        ),
        (
            {"most": None},
            'layer 6 is ReLU {"max_value": 6.0} in the run, and ReLU {"max_value": null} in this training',
        ),
        ({"epsilon": 0.1}, 'layer 4 is BatchNormalization {"epsilon": 0.001} [(4,), (4,), (4,), (4,)] in the run, and'),
        ({"factor": 3.0}, "layer 10 is Multiply {"),
        ({"start": 0}, 'layer 2 is Rescaling {"offset": -1} in the run, and Rescaling {"offset": 0} in this training'),
        ({"drop": 0.5}, ""),
        ({}, ""),
    ],
)
def test_settings_that_change_what_equal_weights_compute(
    kwargs: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from trainers.models import inheritance

    (tmp_path / "settings_net.py").write_text(OF_SETTINGS)
    monkeypatch.chdir(tmp_path)
    config = ModelConfig(backbone="settings_net.py:build", image_size=24)
    networks.build(config, 2).model.save(tmp_path / "old.keras")
    old = keras.models.load_model(tmp_path / "old.keras")
    new = networks.build(dataclasses.replace(config, backbone_kwargs=kwargs, image_size=32), 2)
    if not message:
        assert inheritance.take(new, old, True) == ""
        return
    with pytest.raises(inheritance.OtherNetworkError) as error:
        inheritance.take(new, old, True)
    assert str(error.value).startswith(message)


# --- Networks of the user --------------------------------------------------------------------------------------------

NETS = """
import keras


@keras.saving.register_keras_serializable("going_on")
class Shift(keras.layers.Layer):
    def build(self, shape):
        self.vector = self.add_weight(shape=shape[-1:], initializer="random_normal", name="vector")

    def call(self, x):
        return x + self.vector


def build(input_shape):
    images = keras.Input(input_shape)
    x = keras.layers.Conv2D(4, 3, strides=2, name="first")(keras.layers.Rescaling(1 / 255)(images))
    return keras.Model(images, keras.layers.Conv2D(4, 3, strides=2, name="last")(Shift()(x)), name="mine")


def whole(input_shape, classes):
    images = keras.Input(input_shape)
    x = keras.layers.GlobalAveragePooling2D()(build(input_shape)(images))
    return keras.Model(images, keras.layers.Dense(classes, activation="softmax")(x))
"""


def test_a_network_of_the_user_is_that_of_the_run(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    own = train("scratch", workspace, "own", backbone="nets.py:build", image_size=24, epochs=1, batch_size=8)
    given = {"tfrecords": workspace / "out3", "init_from": own, "run": tmp_path / "run", "unfreeze": "last"}
    begun, _ = started(monkeypatch, "finetune", given)
    old = next(layer for layer in own.model.layers if layer.name == "mine")
    for mine, theirs in zip(begun.classifier.base.get_weights(), old.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    # Another process imports the code of the layer before it loads the model.
    done = command("trainers.scratch", f"--run={own.path}", "--more_epochs=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert trainers.load(f"{own.path}-more1").history["epoch"] == [1, 2]
    assert "  import runpy; runpy.run_path('nets.py')" in done.stdout.splitlines()
    (tmp_path / "nets.py").write_text(NETS.replace("1 / 255", "1 / 127"))
    with pytest.raises(UserError) as error:
        own.train_more(2)
    assert "a run can only continue with the same settings, but weights.sha256 of nets.py:build was '" in str(
        error.value
    )


def test_a_whole_model_in_half_precision_goes_on(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    whole: dict[str, Any] = {
        "model": "nets.py:whole",
        "image_size": 24,
        "epochs": 1,
        "batch_size": 8,
        "tfrecords": workspace / "out3",
    }
    half = train("scratch", workspace, "whole_half", **whole, precision="mixed_bfloat16")
    assert half.train_more(1, log=lambda line: None).history["epoch"] == [1, 2]
    full = train("scratch", workspace, "whole_full", **whole, precision="float32")
    for run, precision in ((full, "mixed_bfloat16"), (half, "float32")):
        given = {"tfrecords": workspace / "out3", "init_from": run, "run": f"of_{precision}", "precision": precision}
        begun, _ = started(monkeypatch, "scratch", given)
        for mine, theirs in zip(begun.classifier.model.get_weights(), run.model.get_weights(), strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_a_whole_model_of_the_user_gets_a_new_last_layer_for_other_classes(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    whole: dict[str, Any] = {"model": "nets.py:whole", "image_size": 24, "epochs": 1, "batch_size": 8}
    own = train("scratch", workspace, "whole_model", **whole | {"tfrecords": workspace / "out3"})
    same, _ = started(monkeypatch, "scratch", {"tfrecords": workspace / "out3", "init_from": own, "run": "same"})
    for mine, theirs in zip(same.classifier.model.get_weights(), own.model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    converted(tree(tmp_path / "src4", {f"train/{name}": 6 for name in "abcd"}), tmp_path / "out4")
    other, lines = started(monkeypatch, "scratch", {"tfrecords": tmp_path / "out4", "init_from": own, "run": "other"})
    assert any("with a new head, because the classes are different" in line for line in lines)
    weights = zip(other.classifier.model.get_weights(), own.model.get_weights(), strict=True)
    assert [bool(mine.shape == theirs.shape and (mine == theirs).all()) for mine, theirs in weights] == [True] * 5 + [
        False
    ] * 2


def test_settings_of_a_run_without_a_parent(parent: Run) -> None:
    assert parent.settings["parent"] == {}
    assert "parent" not in json.loads((parent.path / "settings.json").read_text())["other"]
    assert "SHA-256 of these weights" not in (parent.path / "report.html").read_text()
