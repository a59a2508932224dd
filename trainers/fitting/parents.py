"""Find the finished run that a training continues or starts with, and load its model and settings.

TensorFlow is imported when a model is loaded, so that wrong flags are reported without waiting for it.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfrecord_tools.augment_config import AugmentConfig
from tfrecord_tools.augmentation.named import Augment
from tfrecord_tools.errors import UserError
from trainers import run_directory
from trainers.models import model_file
from trainers.models.model_file import ModelInfo
from trainers.recipes import ModelConfig, Phase, Recipe, TrainConfig
from trainers.run_directory import Settings

if TYPE_CHECKING:
    import keras

    from trainers.checkpoint import State

_EXPORTED_NAMES = ("saved_model.pb", "model.tflite", "model.onnx")
_EXPORTED_SUFFIXES = (".tflite", ".onnx", ".pb")
# Names in `flags` of settings.json: `_OF_CONFIG` are fields of `TrainConfig`, and `_HASHES` are the hashes of the files
# of --records and --audit. `FILES` has the fields of `TrainConfig` that hold the paths of these files. settings.json
# has these paths in `other`, not in `flags`.
_OF_CONFIG = ("seed", "deterministic", "precision", "order", "block", "drop_issues", "fold", "engine")
_HASHES = ("records_sha256", "issues_sha256")
FILES = ("records", "audit")
_TRAIN_ANEW = "To start a new training with the weights of this run, pass --init_from={run} instead"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parent:
    """A trained model that another training starts with or continues.

    Attributes:
        path: The model file.
        model: The model.
        info: The description of the model.
        settings: The content of settings.json of its run. {} if there is no such file.
        state: The final state of its training, which --more_epochs continues. None: only the weights are used.
        more_epochs: Further epochs of the last phase. 0 if `state` is None.
    """

    path: Path
    model: keras.Model
    info: ModelInfo
    settings: Settings
    state: State | None = None
    more_epochs: int = 0

    @property
    def name(self) -> str:
        """The path in messages: the run directory, or the model file if its run has no settings.json."""
        return str(self.path.parent if self.settings else self.path)

    @property
    def network(self) -> str:
        """The network as a call, such as `MobileNet(alpha=0.25)`. Without settings, the name in the file."""
        if not (fields := _network_fields(self.settings)):
            inner = next((layer for layer in self.model.layers if hasattr(layer, "layers")), self.model)
            return str(inner.name)
        arguments = ", ".join(f"{name}={value!r}" for name, value in fields.get("backbone_kwargs", {}).items())
        name = fields.get("model") or fields["backbone"]
        return f"{name}({arguments})" if arguments else str(name)

    def facts(self) -> dict[str, Any]:
        """Return the values for settings.json that determine the start of the training."""
        facts: dict[str, Any] = {"weights_sha256": sha256(self.model.get_weights())}
        if self.state is not None:
            arrays = [*self.state.arrays["optimizer"], *self.state.arrays["seeds"]]
            facts |= {"optimizer_sha256": sha256(arrays), "more_epochs": self.more_epochs}
        return facts


def sha256(arrays: Iterable[np.ndarray]) -> str:
    """Return the SHA-256 of arrays with their types and shapes."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def find(run: str, flag: str = "init_from") -> Path:
    """Find the model file of a finished run.

    Args:
        run: A run directory, or a model file.
        flag: Name of the flag, for errors.

    Raises:
        UserError: There is no such run, it is unfinished, or it is an exported model.
    """
    path = Path(run)
    if path.suffix in _EXPORTED_SUFFIXES or any((path / name).exists() for name in _EXPORTED_NAMES):
        raise UserError(
            f"--{flag}={run}: is an exported model, which cannot be trained. Pass the run directory of a trainer, or"
            f" its {run_directory.MODEL}."
        )
    model = model_file.find(run, flag)
    check_finished(model, run, flag)
    return model


def check_finished(model: Path, run: str, flag: str) -> None:
    """Check that the training of a model file is finished.

    A training that was killed just before its end may have saved its model.

    Args:
        model: The model file.
        run: Value of the flag, for errors.
        flag: Name of the flag, for errors.

    Raises:
        UserError: It is unfinished.
    """
    if _settings_of(model) and run_directory.read_metrics(model.parent) is None:
        raise UserError(
            f"--{flag}={run}: the training is unfinished. Run the command of the training again to"
            " finish it. Then repeat this command."
        )


def _settings_of(path: Path) -> Settings:
    """Return the settings of the run of a model file; {} if the file is not in a run directory."""
    return run_directory.read_settings(path.parent) if path.name == run_directory.MODEL else Settings()


def network_of(path: Path) -> dict[str, Any]:
    """Return the fields of `ModelConfig` of a model, without its weights. {} if they are not known."""
    return _network_fields(_settings_of(path))


def _network_fields(settings: Settings) -> dict[str, Any]:
    fields = settings.get("recipe", {}).get("model", {})
    names = {field.name for field in dataclasses.fields(ModelConfig)} - {"weights", "batch_norm_momentum"}
    network = {name: value for name, value in fields.items() if name in names}
    if network.get("custom_objects"):
        network["custom_objects"] = tuple(network["custom_objects"])  # JSON has lists instead of tuples.
    return network


def trainer_of(run: Path) -> str:
    """Return the name of the trainer of a finished run."""
    return model_file.read_info(run / run_directory.MODEL).trainer


def config_of(run: Path) -> dict[str, Any]:
    """Return the values of `TrainConfig` that the settings of a run hold."""
    settings = run_directory.read_settings(run)
    flags, other = settings.get("flags", {}), settings.get("other", {})
    values = {name: flags[name] for name in _OF_CONFIG if name in flags}
    return values | {name: other[name] for name in ("tfrecords", *FILES) if other.get(name)}


def check_records(run: Path, given: Mapping[str, Any]) -> None:
    """Check that a run can be continued: the file that it used for --records must still exist.

    Args:
        run: The finished run.
        given: The options that the user gives.

    Raises:
        UserError: The run was trained with --records, and the path of the file is not known or does not exist.
    """
    settings = run_directory.read_settings(run)
    if "records_sha256" not in settings.get("flags", {}) or "records" in given:
        return
    path = settings.get("other", {}).get("records")
    if path is None or not Path(path).is_file():
        problem = (
            "an earlier version of this package did not store the path of the file"
            if path is None
            else f"{path} does not exist"
        )
        raise UserError(
            f"--more_epochs={given['more_epochs']}: {run} was trained with --records, but {problem}. Pass the same"
            " file again, as --records=FILE."
        )


def flags_of(run: Path) -> dict[str, Any]:
    """Return the flags of a run that are not fields of `TrainConfig`, in the form for `training.train`."""
    flags = run_directory.read_settings(run).get("flags", {})
    return {name: value for name, value in flags.items() if name not in (*_OF_CONFIG, *_HASHES)}


def recipe_of(run: Path) -> Recipe:
    """Return the recipe of a finished run, from its settings.

    Raises:
        UserError: The settings are of another version of this package.
    """
    stored = dict(run_directory.read_settings(run).get("recipe", {}))
    try:
        augment = _augment_of(stored.pop("augment"))
        model = ModelConfig(**stored.pop("model"))
        phases = tuple(Phase(**phase) for phase in stored.pop("phases"))
        return Recipe(model=model, phases=phases, augment=augment, **stored)
    except (KeyError, TypeError) as error:
        raise UserError(
            f"--run={run}: {run_directory.SETTINGS} is from another version of this package ({error})."
            f" {_TRAIN_ANEW.format(run=run)}."
        ) from error


def _augment_of(stored: Mapping[str, Any]) -> Augment:
    """Return the augmentation for settings that `named.settings_of` has returned."""
    if "function" in stored:
        return str(stored["function"])
    values: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in stored.items()}
    return AugmentConfig(**values)


def load(config: TrainConfig, recipe: Recipe) -> Parent | None:
    """Load the model in `config.init_from`. Return None if `init_from` is None.

    Args:
        config: Settings of the training.
        recipe: The recipe of the training. It says where the code of custom layers is.

    Raises:
        UserError: There is no such run, it is unfinished, or its final state was not saved.
    """
    if config.init_from is None:
        return None
    path = find(config.init_from)
    info = model_file.read_info(path)
    state = _end_of(path.parent) if config.more_epochs else None
    model, _ = model_file.load(path, info, recipe.model.codes)
    return Parent(
        path=path,
        model=model,
        info=info,
        settings=_settings_of(path),
        state=state,
        more_epochs=config.more_epochs or 0,
    )


def _end_of(run: Path) -> State:
    """Return the final state of a finished training."""
    path = run / run_directory.OPTIMIZER
    if not path.is_file():
        raise UserError(
            f"--more_epochs: {path} does not exist, so the training cannot be continued exactly. The file was"
            f" deleted, or an earlier version of this package trained the run. {_TRAIN_ANEW.format(run=run)}."
        )
    from trainers import checkpoint  # Imported here, since it imports Keras.

    return checkpoint.load(path, advice=f"{_TRAIN_ANEW.format(run=run)}.")


def continued(
    recipe: Recipe, settings: Settings, parent: Parent, log: Callable[[str], object]
) -> tuple[Recipe, Settings]:
    """Return the recipe and the settings of a run with more epochs in its last phase.

    Args:
        recipe: The recipe of the run.
        settings: The settings that this process would record for the run.
        parent: The finished run.
        log: Receives a line if versions or the device differ. The new weights may then differ in their last bits.

    Raises:
        UserError: The run was trained with other settings.
    """
    assert parent.state is not None
    _check_same(parent, settings, log)
    *before, last = recipe.phases
    longer = dataclasses.replace(last, epochs=parent.state.position.epoch + parent.more_epochs)
    recipe = dataclasses.replace(recipe, phases=(*before, longer))
    flags, stored = dict(settings["flags"]), dict(settings["recipe"])
    if "epochs" in flags:  # A Python program may record other flags, without `epochs`.
        flags["epochs"] = {phase.name: phase.epochs for phase in recipe.phases}
    stored["phases"] = [dataclasses.asdict(phase) for phase in recipe.phases]
    return recipe, {**settings, "flags": flags, "recipe": stored}


def _check_same(parent: Parent, settings: Settings, log: Callable[[str], object]) -> None:
    """Raise UserError if a continued training has other settings than the finished one."""
    run = parent.path.parent
    changes = run_directory.differences(run, settings, ("flags", "recipe", "weights", "dataset"))
    if any(change.startswith("dataset.digest ") for change in changes):
        changes = ["the run was trained on another dataset, or the dataset has changed since then"]
    precisions = [topics.get("environment", {}).get("precision") for topics in (parent.settings, settings)]
    if not changes and precisions[0] != precisions[1]:
        changes = [f"the run was trained in {precisions[0]}, and this training would use {precisions[1]}"]
    if changes:
        raise UserError(
            f"--more_epochs={parent.more_epochs}: a run can only continue with the same settings, but"
            f" {'; '.join(changes)}. Leave out all flags except --run and --more_epochs, or pass the same values."
            f" {_TRAIN_ANEW.format(run=run)}."
        )
    if changes := run_directory.differences(run, settings, ("environment",)):
        log(
            f"note: {run} was trained in another environment ({'; '.join(changes)}). So the last digits of the new"
            " weights may differ"
        )
