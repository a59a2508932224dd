"""What is trained, and how: models, phases and recipes as plain values, without TensorFlow.

The numbers of every recipe are here, and nowhere else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tfrecord_tools.errors import UserError
from trainers import backbones

CACHES = ("auto", "memory", "off")
ORDERS = ("shuffled", "balanced", "blocks")
PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")  # Keras dtype policies.


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
        head: "pooled" (average over positions, dropout, classes) or "document" (the notes' Flatten,
            Dense of 256, dropout, classes).
        dropout: Share of the head's inputs dropped in training, in [0, 1).
        batch_norm_momentum: Of the moving statistics of the backbone's BatchNormalization; None: as built.
    """

    backbone: str = "MobileNetV2"
    backbone_kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    weights: str = "imagenet"
    image_size: int | None = None
    scaling: str | None = None
    head: str = "pooled"
    dropout: float = 0.2
    batch_norm_momentum: float | None = None

    def __post_init__(self) -> None:
        backbones.find(self.backbone)
        if self.image_size is not None and self.image_size < 1:
            raise UserError(f"--image_size={self.image_size}: a number of pixels is expected.")

    @property
    def size(self) -> int:
        """Height and width of the input in pixels."""
        return self.image_size or backbones.find(self.backbone).image_size


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phase:
    """One stretch of training with its own trainable layers, optimizer and learning rate.

    Attributes:
        name: As it is shown and stands in history.csv.
        trainable: "head" (the backbone frozen), "last_stage" (its last stage too, BatchNormalization
            frozen) or "all" (everything, BatchNormalization too).
        optimizer: Name of a Keras optimizer.
        optimizer_settings: Its further arguments, such as momentum; what is not here is Keras's default.
        learning_rate: At the start of the phase.
        schedule: "constant", or "cosine" (falls to 0 at the end of the phase).
        epochs: How many, at least 1.
        steps_per_epoch: Batches an epoch; None: as many as hold the training images once.
    """

    name: str
    trainable: str
    learning_rate: float
    optimizer: str = "adam"
    optimizer_settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    schedule: str = "constant"
    epochs: int
    steps_per_epoch: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """A model and the phases it is trained in.

    Attributes:
        batch_size: Images a step.
        crop: 0: images are stretched to the square; above 0: their central square is taken, with sides of this share
            of the shorter side. 0.875 is what ImageNet networks are evaluated with.
        augment: Name in `tfrecord_tools.augment_config.PRESETS`.
    """

    model: ModelConfig
    phases: tuple[Phase, ...]
    batch_size: int = 32
    crop: float = 0.875
    augment: str = "standard"

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"--batch_size={self.batch_size}: at least 1 image is needed.")
        if not 0 <= self.crop <= 1:
            raise UserError(
                f"--crop={self.crop}: a share of the shorter side within 0..1 is expected; 0 stretches the whole image."
            )


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

    def __post_init__(self) -> None:
        if self.cache_mb < 0 or self.block < 1:
            raise UserError(f"--cache_mb={self.cache_mb}, --block={self.block}: at least 0, and at least 1.")
        if self.checkpoint_every < 0:
            raise UserError(f"--checkpoint_every={self.checkpoint_every}: a number of steps, or 0, is expected.")


def default(**model: Any) -> Recipe:
    """Transfer: a new head on a pretrained backbone, then its last stage with a far smaller rate.

    With weights="none" there is nothing to transfer: everything is trained at once, from random weights.

    Args:
        **model: Values of `ModelConfig` to use.
    """
    config = ModelConfig(**model)
    if config.weights == "none":
        scratch = Phase(
            name="scratch",
            trainable="all",
            # MobileNet on 700 drawings, 12 epochs of batches of 16: accuracy 0.96, with Adam at 0.003 0.89.
            optimizer="sgd",
            optimizer_settings={"momentum": 0.9, "nesterov": True},
            learning_rate=0.05,
            schedule="cosine",
            epochs=15,
        )
        return Recipe(
            # The usual 0.99 averages over hundreds of steps, which a small dataset does not have.
            model=dataclasses.replace(config, batch_norm_momentum=0.9),
            phases=(scratch,),
            batch_size=16,
        )
    return Recipe(
        model=config,
        phases=(
            Phase(name="head", trainable="head", learning_rate=3e-3, schedule="cosine", epochs=5),
            Phase(name="finetune", trainable="last_stage", learning_rate=3e-4, schedule="cosine", epochs=10),
        ),
    )


def document(**model: Any) -> Recipe:
    """The numbers of the notes, section 4.2.(2), "Fine Tuning": scaling by 1 / 255 too, not VGG16's own.

    Args:
        **model: Values of `ModelConfig` to use in place of the notes'.
    """
    notes: dict[str, Any] = {"backbone": "VGG16", "image_size": 150}
    notes |= {"scaling": "unit", "head": "document", "dropout": 0.6}
    head = Phase(name="head", trainable="head", optimizer="rmsprop", learning_rate=1e-2, epochs=10, steps_per_epoch=100)
    return Recipe(
        model=ModelConfig(**(notes | model)),
        phases=(head, dataclasses.replace(head, name="finetune", trainable="last_stage", learning_rate=1e-5)),
        batch_size=20,
        crop=0.0,
        augment="document_transfer",
    )


RECIPES: Mapping[str, Callable[..., Recipe]] = {"default": default, "document": document}


def override(
    recipe: Recipe,
    *,
    batch_size: int | None = None,
    crop: float | None = None,
    augment: str | None = None,
    epochs: Sequence[int] | None = None,
) -> Recipe:
    """Replaces numbers of a recipe; None leaves them.

    Args:
        recipe: The recipe.
        batch_size: Images a step.
        crop: As in `Recipe`.
        augment: Name in `tfrecord_tools.augment_config.PRESETS`.
        epochs: Of each phase; a phase of 0 epochs is left out.

    Raises:
        UserError: Another number of epochs than phases, or none left.
    """
    phases = recipe.phases
    if epochs is not None:
        shown = f"--epochs={','.join(map(str, epochs))}"
        names = ", ".join(phase.name for phase in phases)
        if len(epochs) != len(phases):
            raise UserError(f"{shown}: one number for each phase of the recipe is expected: {names}.")
        if min(epochs) < 0 or not any(epochs):
            raise UserError(f"{shown}: numbers from 0 on are expected, and not all 0.")
        pairs = zip(phases, epochs, strict=True)
        phases = tuple(dataclasses.replace(phase, epochs=count) for phase, count in pairs if count)
    return dataclasses.replace(
        recipe,
        phases=phases,
        batch_size=recipe.batch_size if batch_size is None else batch_size,
        crop=recipe.crop if crop is None else crop,
        augment=augment or recipe.augment,
    )
