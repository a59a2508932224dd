"""Check the settings of a training and build its model, before anything slow is done."""

from __future__ import annotations

import dataclasses

from tfrecord_tools.base import sizes, words
from tfrecord_tools.errors import UserError, named
from tfrecord_tools.order import steps_per_epoch
from tfrecord_tools.records import Dataset
from trainers import recipes
from trainers.checkpoint import State
from trainers.devices import multi_worker
from trainers.devices.device import Device
from trainers.fit import try_optimizer
from trainers.fitting import bucket, inputs
from trainers.fitting.parents import Parent
from trainers.models import inheritance, model_file, networks
from trainers.models.networks import Classifier
from trainers.models.own_networks import Compiled
from trainers.recipes import Recipe, TrainConfig

_CLIPPING = ("clipnorm", "clipvalue", "global_clipnorm")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """The parts of a training.

    Attributes:
        trainer: Name of the trainer.
        data: The dataset.
        splits: The records to train and to validate on.
        recipe: The model and its phases.
        config: Settings that are not part of the recipe.
        device: The device or devices that compute the steps.
        classifier: The model.
        info: The description that is saved with the model.
        steps: Batches per epoch, for phases that do not set this number. They contain each training image about once.
        weights: Description of the weights with which the training starts.
        start: The final state of another run, from which this training continues. None: it starts at step 0.
    """

    trainer: str
    data: Dataset
    splits: inputs.Splits
    recipe: Recipe
    config: TrainConfig
    device: Device
    classifier: Classifier
    info: model_file.ModelInfo
    steps: int
    weights: str
    start: State | None = None

    @property
    def class_count(self) -> int:
        """Number of classes."""
        return len(self.data.class_names)


def prepare(
    trainer: str,
    data: Dataset,
    splits: inputs.Splits,
    recipe: Recipe,
    config: TrainConfig,
    device: Device,
    parent: Parent | None = None,
) -> Training:
    """Build the model and try out each phase.

    Raises:
        UserError: Keras rejects the model, its weights or an optimizer. Or a phase trains no layer, or the parent run
            has another network.
    """
    with device.scope():
        if parent is None:
            classifier, weights = networks.build(recipe.model, len(data.class_names)), recipe.model.weights
        else:
            classifier, weights = _inherited(parent, data, recipe)
        if device.strategy is not None:
            multi_worker.share_global_random()  # After the network, so that the network gets the same weights.
    steps = steps_per_epoch(len(splits.train), recipe.batch_size)
    if classifier.compiled:
        _check_compiled(recipe, classifier.compiled, device)
    for phase in recipe.phases:
        classifier.set_trainable(phase.trainable)
        try_optimizer(phase, phase.epochs * (phase.steps_per_epoch or steps))
    return Training(
        trainer=trainer,
        data=data,
        splits=splits,
        recipe=recipe,
        config=config,
        device=device,
        classifier=classifier,
        info=model_file.describe(data, image_size=recipe.geometry, trainer=trainer),
        steps=steps,
        weights=weights,
        start=parent.state if parent else None,
    )


def _inherited(parent: Parent, data: Dataset, recipe: Recipe) -> tuple[Classifier, str]:
    """Build the model with the weights of another run, and describe these weights."""
    classifier = networks.build(recipe.model.without_weights(), len(data.class_names))
    try:
        new_head = inheritance.take(classifier, parent.model, parent.info.classes == tuple(data.class_names))
    except inheritance.OtherNetworkError as error:
        sides = [sizes.text(size) for size in (parent.info.image_size, recipe.model.size)]
        raise UserError(
            f"--init_from={parent.name}: the network of this run is {parent.network} for images of {sides[0]} px, but"
            f" this training builds {networks.describe(recipe.model)} for {sides[1]} px. Difference: {error}. Both"
            " networks must be the same. Remove the flags that set the network, or train without --init_from."
        ) from error
    return classifier, f"of {parent.name}" + (f", but with a new head, because {new_head}" if new_head else "")


def describe(training: Training) -> list[str]:
    """Describe the data, the device and the model in lines for the user."""
    data, recipe, splits = training.data, training.recipe, training.splits
    class_count, parameters = words.number(training.class_count, "class"), training.classifier.model.count_params()
    return [
        f"data: {data.location} ({data.name}), {class_count}: {named(data.class_names)}",
        f"      {len(splits.train):,} images to train on, {len(splits.validation):,} to validate on:"
        f" {splits.validation_name}",
        f"device: {training.device}",
        f"model: {networks.describe(recipe.model)}, {sizes.text(recipe.model.size)} px, weights {training.weights},"
        f" {parameters:,} parameters; an epoch is {_epoch(training.steps, recipe.batch_size, len(splits.train))}",
        *bucket.lines(splits, recipe, training.config),
    ]


def _epoch(steps: int, batch_size: int, images: int) -> str:
    """Describe an epoch. All its batches are full, so it may not contain each image exactly once."""
    batches = f"{words.number(steps, 'step')} of {words.number(batch_size, 'image')}"
    if steps * batch_size == images:
        return f"{batches}, each of the {images:,} images once"
    return f"{batches}, {steps * batch_size / images:.3g} times the {images:,} images"


def strategy(recipe: Recipe, config: TrainConfig) -> str:
    """Return the strategy of a training.

    With gradient accumulation, it is "none": Keras 3.15 cannot accumulate gradients under a strategy.

    Raises:
        UserError: The user asked for gradient accumulation and a strategy.
    """
    if config.strategy == "none" or all(phase.accumulated_steps == 1 for phase in recipe.phases):
        return config.strategy
    if config.strategy == "auto":
        return "none"
    raise UserError(
        f"--strategy={config.strategy}: Keras cannot accumulate gradients with this strategy. Pass --strategy=none,"
        " or a larger --batch_size instead of gradient_accumulation_steps."
    )


def check(data: Dataset, splits: inputs.Splits, recipe: Recipe, config: TrainConfig, device: Device) -> None:
    """Raise UserError if settings exclude each other, or do not fit the dataset or the device."""
    inputs.check_cache(splits.train, recipe, config)
    inputs.class_weights(splits.train, recipe, data.class_names)  # Raises UserError.
    if recipe.class_weights == config.order == "balanced":
        raise UserError(
            "--order=balanced and --class_weights=balanced: both compensate for rare classes, and together they would"
            " compensate twice. Remove one of them."
        )
    if recipe.from_features and config.order != "shuffled":
        raise UserError(f"--order={config.order}: must be shuffled for training on features.")
    if device.replicas > 1:
        _check_replicas(recipe, device.replicas)


def _check_compiled(recipe: Recipe, compiled: Compiled, device: Device) -> None:
    """Raise UserError if flags or devices do not fit the optimizer of a compiled model."""
    default, source = recipes.scratch(model=recipe.model.model), f"--model={recipe.model.model}"
    for name in ("optimizer", "optimizer_kwargs", "learning_rate", "schedule", "warmup_steps"):
        if getattr(recipe.phases[0], name) != getattr(default.phases[0], name):
            raise UserError(
                f"--{name} with {source}: the function returns a compiled model, which has its own optimizer. Remove"
                f" --{name}, or do not compile the model."
            )
    optimizer = compiled.optimizer
    if device.strategy is not None and (optimizer.gradient_accumulation_steps or 1) > 1:
        raise UserError(
            f"{source}: Keras cannot accumulate gradients with a distribution strategy. Pass --strategy=none, or"
            " compile the model without gradient_accumulation_steps."
        )
    clipping = next((name for name in _CLIPPING if getattr(optimizer, name) is not None), None)
    if device.replicas > 1 and clipping:
        raise UserError(
            f"{source}: with {device.replicas} devices, Keras clips the gradients of each device before it adds them"
            f" up. The result would differ from that of one device. Pass --strategy=none, or compile the model without"
            f" {clipping}."
        )


def _check_replicas(recipe: Recipe, replicas: int) -> None:
    clipping = sorted({name for phase in recipe.phases for name in phase.optimizer_kwargs if name in _CLIPPING})
    if clipping:
        raise UserError(
            f"--optimizer_kwargs={clipping[0]}: with {replicas} devices, Keras clips the gradients of each device"
            " before it adds them up. The result would differ from that of one device. Pass --strategy=none, or remove"
            f" {clipping[0]}."
        )
    if recipe.batch_size % replicas:
        raise UserError(
            f"--batch_size={recipe.batch_size}: a batch cannot be divided equally among {replicas} devices. Pass a"
            f" multiple of {replicas}, or --strategy=none."
        )
