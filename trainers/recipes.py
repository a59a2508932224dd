"""What is trained, and how: models, phases and recipes as plain values, without TensorFlow.

The numbers of every recipe are here, and nowhere else.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tfrecord_tools.decoding import geometry
from tfrecord_tools.errors import UserError
from trainers import backbones

CACHES = ("auto", "memory", "off")
CLASS_WEIGHTS = ("none", "balanced")
ORDERS = ("shuffled", "balanced", "blocks")
PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")  # Keras dtype policies.
SCHEDULES = ("constant", "cosine", "plateau")
STRATEGIES = ("auto", "none", "mirrored", "multi_worker")
# Flags of trainers that read images in every epoch; a trainer that reads features has none of them.
IMAGE_FLAGS = ("augment", "mixup", "cutmix", "cache", "cache_mb", "order", "block", "probe")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A classifier: pixels -> scaling -> backbone -> head.

    Attributes:
        backbone: Name in `keras.applications`.
        backbone_kwargs: Further arguments of its constructor, such as alpha.
        weights: "imagenet" (downloaded by Keras), "none" (random), or the path of a weights file without top.
        image_size: Height and width of its input in pixels; None: what the backbone's ImageNet weights had.
        scaling: "tf", "torch", "caffe", "unit" (x / 255) or "own" (none: the backbone scales by itself);
            None: the backbone's.
        pooling: "average" over positions, or "flatten": all of them one after the other.
        hidden: Units of a hidden layer behind it; 0: none, which makes the head a logistic regression.
        dropout: Share of the last layer's inputs dropped in training, in [0, 1).
        batch_norm_momentum: Of the moving statistics of the backbone's BatchNormalization; None: as built.
    """

    backbone: str = "MobileNetV2"
    backbone_kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    weights: str = "imagenet"
    image_size: int | None = None
    scaling: str | None = None
    pooling: str = "average"
    hidden: int = 0
    dropout: float = 0.2
    batch_norm_momentum: float | None = None

    def __post_init__(self) -> None:
        backbones.find(self.backbone)
        if self.image_size is not None and self.image_size < 1:
            raise UserError(f"--image_size={self.image_size}: a number of pixels is expected.")
        if self.backbone == backbones.CNN and self.weights == "imagenet":
            raise UserError("--weights=imagenet: there are none for CNN. Pass --weights=none, or a file.")

    @property
    def size(self) -> int:
        """Height and width of the input in pixels."""
        return self.image_size or backbones.find(self.backbone).image_size


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phase:
    """One stretch of training with its own trainable layers, optimizer and learning rate.

    Attributes:
        name: As it is shown and stands in history.csv.
        trainable: "head" (the backbone frozen); "last_stage", "all", a number or a pattern: that much of the backbone
            too, but not its BatchNormalization (see `networks.chosen_layers`); "scratch": everything, with its
            BatchNormalization.
        learning_rate: At the start of the phase, or after the warm-up.
        optimizer: Name of a Keras optimizer.
        optimizer_kwargs: Its further arguments, such as momentum, weight_decay, global_clipnorm, use_ema or
            gradient_accumulation_steps; what is not here is Keras's default.
        schedule: "constant"; "cosine": falls to 0 at the end of the phase; "plateau": a tenth whenever the validation
            loss has not improved for `patience` epochs.
        warmup_steps: Steps in which the rate grows from 0, in front of a cosine.
        patience: Epochs without an improvement, for "plateau".
        epochs: How many, at least 1.
        steps_per_epoch: Batches an epoch; None: as many as hold the training images once.
    """

    name: str
    trainable: str
    learning_rate: float
    optimizer: str = "adam"
    optimizer_kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    schedule: str = "constant"
    warmup_steps: int = 0
    patience: int = 3
    epochs: int
    steps_per_epoch: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < math.inf:
            raise UserError(f"--learning_rate={self.learning_rate:g}: above 0 is expected.")
        if self.patience < 1:
            raise UserError(f"--patience={self.patience}: a number of epochs from 1 on is expected.")
        if self.warmup_steps < 0 or (self.warmup_steps and self.schedule != "cosine"):
            raise UserError(
                f"--warmup_steps={self.warmup_steps} with --schedule={self.schedule}: a number of steps in front of"
                " --schedule=cosine is expected."
            )

    @property
    def accumulated_steps(self) -> int:
        """Steps whose gradients are averaged before the weights change."""
        given = self.optimizer_kwargs.get("gradient_accumulation_steps")
        return given if isinstance(given, int) else 1  # What is no number, Keras refuses.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """A model and the phases it is trained in.

    Attributes:
        batch_size: Images a step.
        crop: 0: images are stretched to the square; above 0: their central square is taken, with sides of this share
            of the shorter side. 0.875 is what ImageNet networks are evaluated with.
        augment: Name in `tfrecord_tools.augment_config.PRESETS`.
        from_features: Whether what the backbone makes of each image is computed once, and the head is trained on that.
        label_smoothing: Share of each target that is spread over all classes, in [0, 1).
        mixup: Share of the images that are blended with another one of their batch, in [0, 1].
        cutmix: Share of the images that get a piece of another one of their batch, in [0, 1].
        class_weights: "none", or "balanced": errors on rare classes count as much more as these are rarer.
        early_stopping: A phase ends, with the weights of its best epoch, when the validation loss has not improved for
            so many epochs; 0: never.
    """

    model: ModelConfig
    phases: tuple[Phase, ...]
    batch_size: int = 32
    crop: float = 0.875
    augment: str = "standard"
    from_features: bool = False
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    class_weights: str = "none"
    early_stopping: int = 0

    @property
    def blended(self) -> bool:
        """Whether targets may lie between classes, because of MixUp, CutMix or label smoothing."""
        return bool(self.mixup or self.cutmix or self.label_smoothing)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"--batch_size={self.batch_size}: at least 1 image is needed.")
        geometry.check_crop(self.crop, "--crop=")
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"--label_smoothing={self.label_smoothing}: a share from 0 to below 1 is expected.")
        for name in ("mixup", "cutmix"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"--{name}={getattr(self, name)}: a share of the images within 0..1 is expected.")
        if self.from_features and (self.mixup or self.cutmix or self.augment != "none"):
            raise UserError(
                f"augment={self.augment}, mixup={self.mixup}, cutmix={self.cutmix}: features are computed once, of"
                " images as they are: none, 0 and 0 are expected."
            )
        if self.early_stopping < 0:
            raise UserError(f"--early_stopping={self.early_stopping}: a number of epochs, or 0, is expected.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training, apart from its recipe.

    Attributes:
        tfrecords: The dataset directory.
        run: The run directory; None: an unfinished one of the same settings below runs/, else a fresh one there.
        seed: Of everything random.
        deterministic: Whether operations that are fast but not reproducible are given up.
        checkpoint_every: Steps from one checkpoint to the next; 0: at the end of epochs alone.
        precision: Name of a Keras dtype policy, or "auto": what suits the device.
        cache: "memory" decodes every image once, "off" in every epoch; "auto": memory, if there are several epochs and
            `cache_mb` are enough. The results are the same.
        cache_mb: The most that decoded training images may take, in MB.
        order: "shuffled"; "balanced": every class equally often; "blocks": neighbours together, for slow storage.
        block: Records in a block.
        records: A file with the numbers of the training records to use, see `records.read_numbers`.
        probe: Measure the input and the model alone before training, and say which of them binds.
        strategy: "none": one device; "mirrored": all GPUs, each with its share of every batch; "auto": mirrored if
            there are GPUs, one of them too, since the batches then go to it ahead of time; "multi_worker": those of all
            processes that the environment variable TF_CONFIG names.
        features: Where features are kept, for recipes that train from them.
        tensorboard: Whether to write the history for TensorBoard too.
    """

    tfrecords: str
    run: str | None = None
    seed: int = 0
    deterministic: bool = False
    checkpoint_every: int = 100
    precision: str = "auto"
    cache: str = "auto"
    cache_mb: int = 2048
    order: str = "shuffled"
    block: int = 256
    records: str | None = None
    probe: bool = False
    strategy: str = "auto"
    features: str = "features"
    tensorboard: bool = False

    def __post_init__(self) -> None:
        check_seed("seed", self.seed)
        if self.cache_mb < 0 or self.block < 1:
            raise UserError(f"--cache_mb={self.cache_mb}, --block={self.block}: at least 0, and at least 1.")
        if self.strategy == "multi_worker" and self.run is None:
            raise UserError("--strategy=multi_worker: pass --run, a directory that all workers see.")
        if self.checkpoint_every < 0:
            raise UserError(f"--checkpoint_every={self.checkpoint_every}: a number of steps, or 0, is expected.")


def check_seed(flag: str, seed: int) -> None:
    """Raises UserError if a seed is not one of NumPy's."""
    if not 0 <= seed < 2**32:
        raise UserError(f"--{flag}={seed}: from 0 to {2**32 - 1} is expected.")


# Scaled by 1 / 255, which is not VGG16's own.
_REFERENCE_VGG16: dict[str, Any] = {"backbone": "VGG16", "image_size": 150, "scaling": "unit", "pooling": "flatten"}


def _reference_model(reference: Mapping[str, Any], model: Mapping[str, Any]) -> ModelConfig:
    """Return the model of a reference recipe with the given values; a backbone that scales by itself is not scaled."""
    values = {**reference, **model}
    if backbones.find(values["backbone"]).scaling == "own" and "scaling" not in model:
        values["scaling"] = None
    return ModelConfig(**values)


def scratch(**model: Any) -> Recipe:
    """Everything is trained at once, from random weights.

    Args:
        **model: Values of `ModelConfig` to use; without a backbone named, that of the notes, improved, whose
            `backbone_kwargs` are added to what it has.
    """
    own: dict[str, Any] = {"weights": "none"}
    # BatchNormalization's usual 0.99 averages over hundreds of steps, which a small dataset does not have.
    model = model | {"batch_norm_momentum": 0.9}
    if model.get("backbone", backbones.CNN) == backbones.CNN:
        # The notes' network with a stage and BatchNormalization more. On a held-out fifth of 1,400 photographs: 81 %
        # after 40 epochs at 64 px; the notes' 78 % after 80 epochs at 48 px, 76 % after 30 at 96 px.
        layers = {"filters": (32, 64, 128, 256), "batch_norm": True, "padding": "same"}
        own |= {"backbone": backbones.CNN, "image_size": 96, "pooling": "flatten", "dropout": 0.5}
        own["backbone_kwargs"] = layers | model.pop("backbone_kwargs", {})
        phase = Phase(name="scratch", trainable="scratch", learning_rate=3e-3, schedule="cosine", epochs=40)
        return Recipe(model=ModelConfig(**(own | model)), phases=(phase,))
    return Recipe(
        model=ModelConfig(**(own | model)),
        phases=(
            Phase(
                name="scratch",
                trainable="scratch",
                # MobileNet on 700 drawings, 12 epochs of batches of 16: accuracy 0.96, with Adam at 0.003 0.89.
                optimizer="sgd",
                optimizer_kwargs={"momentum": 0.9, "nesterov": True},
                learning_rate=0.05,
                schedule="cosine",
                epochs=15,
            ),
        ),
        batch_size=16,
    )


def scratch_reference(*, augmented: bool = False, **model: Any) -> Recipe:
    """Return the reference recipe of sections 2 and, augmented, 3: a small network at 150 px.

    Args:
        augmented: Whether images are augmented, for twice as many epochs.
        **model: Values of `ModelConfig` that replace those of the reference.
    """
    reference: dict[str, Any] = {"backbone": backbones.CNN, "image_size": 150, "weights": "none"}
    return Recipe(
        model=_reference_model(reference | {"scaling": "unit", "pooling": "flatten", "dropout": 0.5}, model),
        phases=(
            Phase(
                name="scratch",
                trainable="scratch",
                learning_rate=1e-4,
                epochs=100 if augmented else 50,
                steps_per_epoch=100,
            ),
        ),
        batch_size=20,
        crop=0.0,
        augment="document" if augmented else "none",
    )


def features(*, head: str = "dense", **model: Any) -> Recipe:
    """A head on the features of a pretrained network, which are computed once.

    Args:
        head: "dense": with a hidden layer; "linear": a logistic regression.
        **model: Values of `ModelConfig` to use.
    """
    shape: dict[str, Any] = {"dense": {"hidden": 256, "dropout": 0.5}, "linear": {"dropout": 0.0}}[head]
    return Recipe(
        model=ModelConfig(**(shape | model)),
        # On two held-out fifths of 1,400 photographs (MobileNetV2, 160 px): 97.2 and 96.9 %; without label smoothing
        # 96.5 and 96.2 %, and with thirty epochs 96.5 and 95.9 %.
        phases=(Phase(name="head", trainable="head", learning_rate=1e-3, schedule="cosine", epochs=10),),
        label_smoothing=0.1,
        augment="none",
        from_features=True,
    )


def features_reference(*, head: str = "dense", **model: Any) -> Recipe:
    """Return the reference recipe of section 4.1: VGG16, scaled by 1 / 255, and a head on all positions.

    Args:
        head: "dense": with a hidden layer; "linear": the last layer alone.
        **model: Values of `ModelConfig` that replace those of the reference.
    """
    shape: dict[str, Any] = {"dense": {"hidden": 256, "dropout": 0.5}, "linear": {"hidden": 0, "dropout": 0.0}}[head]
    return Recipe(
        model=_reference_model(_REFERENCE_VGG16 | shape, model),
        phases=(Phase(name="head", trainable="head", optimizer="rmsprop", learning_rate=1e-2, epochs=30),),
        batch_size=20,
        crop=0.0,
        augment="none",
        from_features=True,
    )


def frozen(**model: Any) -> Recipe:
    """A new head on a frozen pretrained network, on augmented images.

    Args:
        **model: Values of `ModelConfig` to use.
    """
    return Recipe(
        model=ModelConfig(**model),
        phases=(Phase(name="head", trainable="head", learning_rate=3e-3, schedule="cosine", epochs=8),),
    )


def frozen_reference(**model: Any) -> Recipe:
    """Return the reference recipe of section 4.2.(1).

    Args:
        **model: Values of `ModelConfig` that replace those of the reference.
    """
    head = Phase(name="head", trainable="head", optimizer="rmsprop", learning_rate=1e-2, epochs=30, steps_per_epoch=100)
    return Recipe(
        model=_reference_model(_REFERENCE_VGG16 | {"hidden": 256, "dropout": 0.6}, model),
        phases=(head,),
        batch_size=20,
        crop=0.0,
        augment="document_transfer",
    )


def finetune(**model: Any) -> Recipe:
    """Transfer: a new head on a pretrained backbone, then its last stage with a far smaller rate.

    With weights="none" there is nothing to transfer: it is `scratch` then.

    Args:
        **model: Values of `ModelConfig` to use.
    """
    config = ModelConfig(**model)
    if config.weights == "none":
        return scratch(**dataclasses.asdict(config))
    return Recipe(
        model=config,
        phases=(
            Phase(name="head", trainable="head", learning_rate=3e-3, schedule="cosine", epochs=5),
            Phase(name="finetune", trainable="last_stage", learning_rate=3e-4, schedule="cosine", epochs=10),
        ),
    )


def finetune_reference(**model: Any) -> Recipe:
    """Return the reference recipe of section 4.2.(2), "Fine Tuning": that of 4.2.(1), then the last stage.

    Args:
        **model: Values of `ModelConfig` that replace those of the reference.
    """
    recipe = frozen_reference(**model)
    head = dataclasses.replace(recipe.phases[0], epochs=10)
    second = dataclasses.replace(head, name="finetune", trainable="last_stage", learning_rate=1e-5)
    return dataclasses.replace(recipe, phases=(head, second))


# Trainer -> name of a recipe -> how it is made.
RECIPES: Mapping[str, Mapping[str, Callable[..., Recipe]]] = {
    "scratch": {"default": scratch, "reference": scratch_reference},
    "features": {"default": features, "reference": features_reference},
    "frozen": {"default": frozen, "reference": frozen_reference},
    "finetune": {"default": finetune, "reference": finetune_reference},
}


def current_name(recipe: str) -> str:
    """Return the name of a recipe in `RECIPES`: `document` is the former name of `reference`."""
    return "reference" if recipe == "document" else recipe


def __getattr__(name: str) -> Callable[..., Recipe]:
    """Find the reference recipes by their former names, such as `scratch_document`, for one release."""
    trainer, _, former = name.partition("_")
    if former != "document" or trainer not in RECIPES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"recipes.{name} is now recipes.{trainer}_reference.", DeprecationWarning, stacklevel=2)
    return RECIPES[trainer]["reference"]


def reads_features(trainer: str) -> bool:
    """Whether a trainer reads features of its images, which are computed once, instead of the images."""
    return RECIPES[trainer]["default"]().from_features


def override(
    recipe: Recipe,
    *,
    epochs: Sequence[int] | None = None,
    learning_rate: Sequence[float] | None = None,
    unfreeze: str | None = None,
    phase: Mapping[str, Any] | None = None,
    **values: Any,
) -> Recipe:
    """Replaces numbers of a recipe; None leaves them.

    Args:
        recipe: The recipe.
        epochs: Of each phase; a phase of 0 epochs is left out.
        learning_rate: Of each phase.
        unfreeze: What phases that train a part of the backbone train of it, as in `Phase.trainable`.
        phase: Fields of `Phase` -> their values in all phases.
        **values: Of `Recipe`.

    Raises:
        UserError: Another number of epochs or rates than phases, no epoch left, or a value that is not allowed.
    """
    phases = _with_fields(recipe.phases, {name: value for name, value in (phase or {}).items() if value is not None})
    if unfreeze is not None:
        phases = _with_unfrozen(phases, unfreeze)
    if learning_rate is not None:
        _check_count("learning_rate", learning_rate, phases)
        phases = [dataclasses.replace(old, learning_rate=rate) for old, rate in zip(phases, learning_rate, strict=True)]
    if epochs is not None:
        phases = _with_epochs(phases, epochs)
    given = {name: value for name, value in values.items() if value is not None}
    return dataclasses.replace(recipe, phases=tuple(phases), **given)


def _with_fields(phases: Sequence[Phase], fields: Mapping[str, Any]) -> list[Phase]:
    changed = [dataclasses.replace(phase, **{**fields, **_optimizer_kwargs(phase, fields)}) for phase in phases]
    if "patience" in fields and all(phase.schedule != "plateau" for phase in changed):
        raise UserError(f"--patience={fields['patience']}: it has a meaning with --schedule=plateau alone.")
    return changed


def _with_unfrozen(phases: Sequence[Phase], unfreeze: str) -> list[Phase]:
    """Replace the layers of the backbone that phases train, in phases that train some of them."""
    if unfreeze in ("", "head", "scratch"):
        raise UserError(f"--unfreeze={unfreeze}: last_stage, all, a number or a regular expression is expected.")
    if all(phase.trainable != "last_stage" for phase in phases):
        raise UserError(f"--unfreeze={unfreeze}: no phase of this recipe trains a part of a backbone.")
    return [
        dataclasses.replace(phase, trainable=unfreeze) if phase.trainable == "last_stage" else phase for phase in phases
    ]


def _with_epochs(phases: Sequence[Phase], epochs: Sequence[int]) -> list[Phase]:
    """Replace the epochs of phases; a phase of 0 epochs is left out."""
    shown = _check_count("epochs", epochs, phases)
    if min(epochs) < 0 or not any(epochs):
        raise UserError(f"{shown}: numbers from 0 on are expected, and not all 0.")
    return [dataclasses.replace(phase, epochs=count) for phase, count in zip(phases, epochs, strict=True) if count]


def _optimizer_kwargs(phase: Phase, given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the recipe stay beside those given, unless they are another optimizer's."""
    same = given.get("optimizer", phase.optimizer).lower() == phase.optimizer.lower()  # Keras knows no difference.
    inherited = phase.optimizer_kwargs if same else {}
    return {"optimizer_kwargs": {**inherited, **given.get("optimizer_kwargs", {})}}


def _check_count(name: str, values: Sequence[float], phases: Sequence[Phase]) -> str:
    """Checks that there is one value for each phase, and returns how they were given."""
    shown = f"--{name}={','.join(map(str, values))}"
    if len(values) != len(phases):
        names = ", ".join(phase.name for phase in phases)
        raise UserError(f"{shown}: one number for each phase of the recipe is expected: {names}.")
    return shown
