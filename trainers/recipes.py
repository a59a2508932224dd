"""Define the recipes of the trainers: the model, and the phases in which it is trained.

All values of all recipes are in this module. It does not need TensorFlow. The section numbers in docstrings refer to
docs/tutorial.md.
"""

from __future__ import annotations

import dataclasses
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tfrecord_tools import augment_config
from tfrecord_tools.augmentation import named
from tfrecord_tools.augmentation.named import Augment
from tfrecord_tools.base import options, sizes, user_code, words
from tfrecord_tools.base.sizes import Size
from tfrecord_tools.decoding import geometry
from tfrecord_tools.decoding.geometry import Geometry
from tfrecord_tools.errors import UserError
from trainers import backbones
from trainers.auditing.issues import KINDS
from trainers.tracking import logbook

CACHES = ("auto", "memory", "off")
CLASS_WEIGHTS = ("none", "balanced")
ORDERS = ("shuffled", "balanced", "blocks")
PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")  # Keras dtype policies.
SCHEDULES = ("constant", "cosine", "plateau")
STRATEGIES = ("auto", "none", "mirrored", "multi_worker")
# Flags that only trainers have that read images in every epoch. `trainers.features` does not have these flags.
IMAGE_FLAGS = ("augment", "mixup", "cutmix", "cache", "cache_mb", "order", "block", "probe")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A classifier: pixels -> scaling -> backbone -> head.

    Attributes:
        backbone: "CNN", the name of a network in `keras.applications`, or one of the forms in `backbones.FORMS`.
        backbone_kwargs: Further arguments of the backbone's constructor, such as alpha.
        weights: "imagenet" (downloaded by Keras), "none" (random), "own" (the weights that a network of the user
            already has), or the path of a weights file of the backbone without its classification layers. If "",
            "imagenet" for a backbone of Keras, and "own" for all others.
        image_size: Height and width of the input in pixels: one number for a square, or a pair. If None, the image size
            for which the backbone's ImageNet weights were trained, or 150 for "CNN". For the networks of
            `backbones.FORMS`, the size in the Keras file, or 224.
        scaling: Scaling of pixels 0..255 before the backbone: "tf", "torch", "caffe" (see `backbones.Backbone`) or
            "unit" (x / 255). "own": pixels are not scaled, because the backbone scales them. If None, the scaling that
            the backbone needs.
        pooling: How the output of the backbone becomes a vector: "average" over all positions, or "flatten".
        hidden: Units of a hidden layer in the head. 0: no hidden layer; the head is a logistic regression.
        dropout: Dropout rate before the last layer, in [0, 1).
        batch_norm_momentum: Momentum of the moving statistics of the backbone's BatchNormalization, in [0, 1).
            If None, the value in the backbone is used.
        model: Name of a function `(input_shape, classes) -> keras.Model` that makes the whole classifier, as
            `module:function` or `file.py:function`. `backbone` is then not used, and no head is added. The function
            also gets `backbone_kwargs`. If None, the classifier is made of `backbone` and a head.
        custom_objects: Modules and files with the custom layers of a Keras file. They are imported before the file is
            loaded. None: there are none.
    """

    backbone: str = "MobileNetV2"
    backbone_kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    weights: str = ""
    image_size: Size | None = None
    scaling: str | None = None
    pooling: str = "average"
    hidden: int = 0
    dropout: float = 0.2
    batch_norm_momentum: float | None = None
    model: str | None = None
    custom_objects: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        backbones.find(*self.network)
        if not self.weights:
            object.__setattr__(self, "weights", backbones.IMAGENET if self.is_known else backbones.OWN)
        self._check_weights()
        if self.image_size is not None:
            object.__setattr__(self, "image_size", _checked_size(self.image_size))
        if self.scaling is not None and self.scaling not in backbones.SCALINGS:
            raise UserError(f"--scaling={self.scaling}: must be one of {', '.join(backbones.SCALINGS)}.")

    def _check_weights(self) -> None:
        if self.weights == backbones.OWN and self.is_known:
            raise UserError(
                f"--weights=own: is only for your own network with weights. {self.backbone} is created without"
                " weights. Pass --weights=imagenet, --weights=none, or the path of a weights file."
            )
        if self.model is not None:
            self._check_model_weights()
        if self.weights == backbones.IMAGENET and (self.backbone == backbones.CNN or not self.is_known):
            others = "none" if self.is_known else "own (the weights that the network already has), none"
            raise UserError(
                f"--weights=imagenet: {self.backbone} has no ImageNet weights. Pass --weights={others} or the path of a"
                " weights file."
            )

    def _check_model_weights(self) -> None:
        if self.weights != backbones.OWN:
            raise UserError(
                f"--weights={self.weights} with --model={self.model}: the function of --model sets the weights. Remove"
                " --weights."
            )

    @property
    def network(self) -> tuple[str, str]:
        """The name of the network, and the flag that sets this name: "backbone" or "model"."""
        return (self.backbone, "backbone") if self.model is None else (self.model, "model")

    def without_weights(self) -> ModelConfig:
        """Return these settings for a network that gets its weights later, for example from another run.

        If the user's function makes the whole model, it also makes the weights. The settings then stay as they are.
        """
        return dataclasses.replace(self, weights=backbones.NONE) if self.model is None else self

    @property
    def is_known(self) -> bool:
        """Whether the network is one of `backbones.BACKBONES`."""
        return backbones.is_known(self.network[0])

    @property
    def codes(self) -> tuple[str, ...]:
        """The modules and files of the user that may hold the code of custom layers."""
        name, _ = self.network
        is_function = user_code.is_named(name) and not self.is_known and not name.startswith(backbones.KERAS_HUB)
        return (*([user_code.code_of(name)] if is_function else []), *(self.custom_objects or ()))

    @property
    def libraries(self) -> tuple[str, ...]:
        """The modules and files that must be imported before Keras can load a saved model."""
        return (*(["keras_hub"] if self.network[0].startswith(backbones.KERAS_HUB) else []), *self.codes)

    @property
    def size(self) -> Size:
        """Height and width of the input in pixels: one number for a square, else a pair."""
        return self.image_size or backbones.find(*self.network).image_size

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of the input: height, width, 3."""
        return (*sizes.pair(self.size), 3)


def _checked_size(image_size: Any) -> Size:
    try:
        size = sizes.parse(image_size)
    except (TypeError, ValueError):
        raise UserError(f"--image_size={image_size}: must be {sizes.WHAT}.") from None
    if min(sizes.pair(size)) < 1:
        raise UserError(f"--image_size={sizes.text(size)}: must be at least 1 pixel.")
    return size


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phase:
    """A part of a training, with its own trainable layers, optimizer and learning rate.

    Attributes:
        name: Name on the console and in history.csv.
        trainable: Layers that are trained. "head": only the head. "last_stage", "all", a number or a regular
            expression: the head and this part of the backbone, except BatchNormalization (see
            `layers.chosen_layers`). "scratch": all layers, also BatchNormalization.
        learning_rate: Learning rate at the start of the phase or, with `warmup_steps`, after the warm-up. Above 0.
        optimizer: Name of a Keras optimizer.
        optimizer_kwargs: Further arguments of the optimizer, such as momentum, weight_decay, global_clipnorm, use_ema
            or gradient_accumulation_steps. Arguments that are not given have the defaults of Keras.
        schedule: "constant": the learning rate stays the same. "cosine": it falls to 0 by the end of the phase.
            "plateau": it is divided by 10 if the validation loss does not fall for `patience` epochs.
        warmup_steps: Steps over which the learning rate rises from 0. Needs schedule "cosine".
        patience: Number of epochs without a lower validation loss after which schedule "plateau" acts, at least 1.
        epochs: Number of epochs, at least 1.
        steps_per_epoch: Batches per epoch. If None, an epoch uses each training image about once.
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
            raise UserError(f"--learning_rate={self.learning_rate:g}: must be a number above 0.")
        if self.patience < 1:
            raise UserError(f"--patience={self.patience}: must be at least 1 epoch.")
        if self.warmup_steps < 0:
            raise UserError(f"--warmup_steps={self.warmup_steps}: must be 0 or more.")
        if self.warmup_steps and self.schedule != "cosine":
            raise UserError(
                f"--warmup_steps={self.warmup_steps} with --schedule={self.schedule}: only --schedule=cosine has a"
                " warm-up. Pass --schedule=cosine, or remove --warmup_steps."
            )

    @property
    def accumulated_steps(self) -> int:
        """Number of steps between two changes of the weights. A change uses the mean gradient of these steps."""
        steps = self.optimizer_kwargs.get("gradient_accumulation_steps")
        return steps if isinstance(steps, int) else 1  # For other values, Keras reports an error.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """A model, and all settings of its training that are known to work well together.

    Attributes:
        model: The classifier.
        phases: Phases in the order in which they are run.
        batch_size: Images per step, over all devices.
        crop: Size of the central part of each image that is used, 0..1. The part has the aspect ratio of the input. 1:
            the largest such part. 0.875, the usual value for ImageNet networks: a part with sides that are 0.875 times
            as long. 0: the whole image is stretched. Not used if `fit` is "pad" or "stretch".
        fit: "crop", "pad" or "stretch", as in `Geometry`. "crop" with a `crop` of 0 uses the largest central part. If
            None, "crop" if `crop` is above 0, else "stretch".
        augment: Random changes of the training images: a text as in `augmentation.named.FORMS`, an `AugmentConfig`, or
            a function. A text or an `AugmentConfig` is stored as its name (see `named.name_of`).
        from_features: Whether the backbone is computed once for each image, and the head is trained on the outputs of
            the backbone (features).
        label_smoothing: Share of each target that is spread evenly over all classes, in [0, 1).
        mixup: Share of the images that are blended with another image of the same batch, in [0, 1].
        cutmix: Share of the images that get a piece of another image of the same batch, in [0, 1].
        class_weights: Weights of the images in the loss. "none": all images count the same. "balanced": the inverse
            frequency of the class. Or a mapping: class name -> weight, for every class.
        early_stopping: If the validation loss does not fall for this many epochs, the phase ends, and the weights of
            the best epoch of the phase are restored. 0: never.
    """

    model: ModelConfig
    phases: tuple[Phase, ...]
    batch_size: int = 32
    crop: float = 0.875
    fit: str | None = None
    augment: Augment = "standard"
    from_features: bool = False
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    class_weights: str | Mapping[str, float] = "none"
    early_stopping: int = 0

    @property
    def blended(self) -> bool:
        """Whether targets may lie between classes because of MixUp, CutMix or label smoothing."""
        return bool(self.mixup or self.cutmix or self.label_smoothing)

    @property
    def geometry(self) -> Geometry:
        """How images are cropped, padded or stretched to the size of the input."""
        crop = self.crop if self.fit in (None, "crop") else 0.0
        return Geometry.of(self.model.size, crop, self.fit, "--")

    def __post_init__(self) -> None:
        name = named.name_of(self.augment, "--augment=")
        if isinstance(self.augment, (str, augment_config.AugmentConfig)):
            object.__setattr__(self, "augment", name)
        else:
            named.settings_of(self.augment, "augment=")  # Runs with different values must have different settings.
        if self.batch_size < 1:
            raise UserError(f"--batch_size={self.batch_size}: must be at least 1 image.")
        geometry.check_crop(self.crop, "--crop=")
        geometry.check_fit(self.fit, "--fit=")
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"--label_smoothing={self.label_smoothing}: must be at least 0 and below 1.")
        for name in ("mixup", "cutmix"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"--{name}={getattr(self, name)}: must be a proportion of the images, from 0 to 1.")
        if self.from_features and (self.mixup or self.cutmix or self.augment != "none"):
            raise UserError(
                f"augment={self.augment}, mixup={self.mixup}, cutmix={self.cutmix}: a training on features allows no"
                " augmentation, because features are computed once, from unchanged images. Use augment=none, mixup=0"
                " and cutmix=0."
            )
        if self.early_stopping < 0:
            raise UserError(f"--early_stopping={self.early_stopping}: must be 0 or more.")
        self._check_class_weights()

    def _check_class_weights(self) -> None:
        """Check class weights that are given as numbers. The names are checked later, with the dataset."""
        if isinstance(self.class_weights, str):
            return
        given = f"--class_weights={options.pairs_text(self.class_weights, ':')}"
        for name, weight in self.class_weights.items():
            if not 0 <= weight < math.inf:
                raise UserError(f"{given}: the weight of {name} is {weight:g}. A weight must be 0 or a number above 0.")
        if not any(self.class_weights.values()):
            raise UserError(f"{given}: no weight is above 0, so the model would learn nothing. Pass a weight above 0.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of a training that are not part of its recipe.

    Attributes:
        tfrecords: Dataset directory, or the URL of a dataset in a bucket.
        cache_dir: As in `records.open_dataset`.
        cache_bytes: As in `records.open_dataset`.
        run: Run directory. If None, an unfinished run in runs/ with the same settings is continued. If there is none, a
            new run is started in runs/.
        seed: Seed of all random numbers, 0 to 2**32 - 1.
        deterministic: Whether only operations with reproducible results are used. Slower on GPUs.
        checkpoint_every: Steps between checkpoints. 0: checkpoints are saved only at the end of each epoch.
        precision: Name of a Keras dtype policy. "auto": mixed precision on GPUs that support it, else float32.
        cache: "memory": images are decoded once and kept in memory. "off": images are decoded in every epoch. "auto":
            "memory" if there are several epochs and the images fit into `cache_mb`, else "off". The results are the
            same.
        cache_mb: Memory limit for decoded training images, in MB.
        order: Order of the training images. "shuffled": random. "balanced": random, all classes equally often.
            "blocks": blocks of neighboring records in random order, for slow storage.
        block: Records per block, for order "blocks".
        init_from: Run directory or model file with the weights at the start. If None, `ModelConfig.weights` are used.
        more_epochs: Number of further epochs for the last phase of the finished run `init_from`. The training uses the
            recipe of that run, and continues with its optimizer state, position in the data and history. If None, only
            the weights of `init_from` are used.
        records: A file with the numbers of the training records to use, see `records.read_numbers`. With `fold`, a file
            of folds, see `fitting.folds`. If None, all training records are used.
        fold: Number of the fold to validate on. All other records in the file are trained on. If None, the splits of
            the dataset are used.
        audit: Directory of the dataset's audit. If None, `audits/NAME-DIGEST`, if it exists.
        drop_issues: Kinds of issues. Training records with such an issue in the audit are left out.
        probe: Whether to measure the speed of the input and the speed of the model before training, and print which is
            slower.
        strategy: "none": one device. "mirrored": all GPUs of this machine; each GPU gets a part of each batch. (It also
            helps with one GPU, because the next batch is copied while the GPU computes.) "auto": "mirrored" if there
            is a GPU, else "none". "multi_worker": all devices of the processes listed in the environment variable
            TF_CONFIG.
        features: Directory for saved features. Only recipes that train on features use it.
        engine: One of `engines.ENGINES`, which computes the saved features. Only recipes that train on features use it.
        log: Names of experiment trackers to which the training is logged: "tensorboard", "mlflow", "wandb".
        log_group: Name of the group of runs to which the training belongs in the trackers. None: no group.
        tensorboard: The same as "tensorboard" in `log`.
    """

    tfrecords: str
    cache_dir: str | None = None
    cache_bytes: int | None = None
    run: str | None = None
    seed: int = 0
    deterministic: bool = False
    checkpoint_every: int = 100
    precision: str = "auto"
    cache: str = "auto"
    cache_mb: int = 2048
    order: str = "shuffled"
    block: int = 256
    init_from: str | None = None
    more_epochs: int | None = None
    records: str | None = None
    fold: int | None = None
    audit: str | None = None
    drop_issues: Sequence[str] = ()
    probe: bool = False
    strategy: str = "auto"
    features: str = "features"
    engine: str = "auto"
    log: Sequence[str] = ()
    log_group: str | None = None
    tensorboard: bool = False

    @property
    def trackers(self) -> list[str]:
        """Names of the experiment trackers, each once."""
        return list(dict.fromkeys((*self.log, *(["tensorboard"] if self.tensorboard else []))))

    def __post_init__(self) -> None:
        check_seed("seed", self.seed)
        if self.more_epochs is not None and self.more_epochs < 1:
            raise UserError(f"--more_epochs={self.more_epochs}: must be at least 1 epoch.")
        if self.more_epochs and self.init_from is None:
            raise UserError(
                f"--more_epochs={self.more_epochs}: --run is missing. Pass the run directory of the finished run that"
                " you want to train further."
            )
        if self.init_from and self.run and _in_run(self.init_from, self.run):
            raise UserError(
                f"--init_from={self.init_from}: is also the run directory of the new training (--run={self.run}). Pass"
                " another --run. To train a finished run further, pass --more_epochs=N without --init_from."
            )
        if self.cache_mb < 0:
            raise UserError(f"--cache_mb={self.cache_mb}: must be at least 0.")
        if self.block < 1:
            raise UserError(f"--block={self.block}: must be at least 1 record.")
        wrong = [kind for kind in self.drop_issues if kind not in KINDS]
        if wrong:
            raise UserError(
                f"--drop_issues={','.join(self.drop_issues)}: {wrong[0]} is not a kind of issue. The kinds are"
                f" {', '.join(KINDS)}."
            )
        if self.fold is not None and not self.records:
            raise UserError(
                f"--fold={self.fold}: --records is missing. Pass the file of folds, such as the folds.csv that"
                " python -m trainers.compare --folds=5 writes."
            )
        if self.strategy == "multi_worker" and self.run is None:
            raise UserError("--strategy=multi_worker: --run is missing. Pass a directory that all workers can access.")
        if self.checkpoint_every < 0:
            raise UserError(f"--checkpoint_every={self.checkpoint_every}: must be 0 or more.")
        logbook.check_names(self.log)
        if self.log_group is not None and not self.trackers:
            raise UserError(
                f"--log_group={self.log_group}: only experiment trackers use it. Add --log, for example --log=mlflow,"
                " or remove --log_group."
            )


def _in_run(path: str, run: str) -> bool:
    """Return whether a path is a run directory, or a file in it."""
    real, directory = os.path.realpath(path), os.path.realpath(run)
    return directory in (real, os.path.dirname(real))


def check_seed(flag: str, seed: int) -> None:
    """Raise UserError if a seed is not from 0 to 2**32 - 1, the range that NumPy allows."""
    if not 0 <= seed < 2**32:
        raise UserError(f"--{flag}={seed}: must be from 0 to {2**32 - 1}.")


# "unit" scales pixels by 1 / 255. The ImageNet weights of VGG16 were trained with another scaling ("caffe").
_REFERENCE_VGG16: dict[str, Any] = {"backbone": "VGG16", "image_size": 150, "scaling": "unit", "pooling": "flatten"}


def _reference_model(reference: Mapping[str, Any], model: Mapping[str, Any]) -> ModelConfig:
    """Make the model of a reference recipe. Values in `model` replace the values of the recipe."""
    values = {**reference, **model}
    # A backbone that scales by itself keeps its own scaling.
    if backbones.find(values["backbone"]).scaling == "own" and "scaling" not in model:
        values["scaling"] = None
    return ModelConfig(**values)


def scratch(**model: Any) -> Recipe:
    """Make the recipe of `trainers.scratch`: all layers are trained from random weights.

    Args:
        **model: Values of `ModelConfig`. If `backbone` is not given or is "CNN", a larger version of the reference
            network is used. `backbone_kwargs` are added to the arguments of this network. If `model` is given, this
            function of the user makes the whole classifier.
    """
    if model.get("model") is not None:
        return _whole_model(model)
    own: dict[str, Any] = {"weights": "none"}
    # With Keras's momentum of 0.99, BatchNormalization's moving statistics need hundreds of steps to become accurate. A
    # training on a small dataset has fewer steps.
    model = {"batch_norm_momentum": 0.9} | model
    if model.get("backbone", backbones.CNN) == backbones.CNN:
        # This network is the reference network with one more stage (group of layers) and with BatchNormalization.
        # Accuracy on a held-out fifth of 1,400 photographs:
        # this network, 64 px, 40 epochs: 81 %.
        # reference network, 48 px, 80 epochs: 78 %.
        # reference network, 96 px, 30 epochs: 76 %.
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
                # Measured with MobileNet on 700 drawings, 12 epochs, batches of 16: accuracy 0.96. With Adam and a
                # learning rate of 0.003: 0.89.
                optimizer="sgd",
                optimizer_kwargs={"momentum": 0.9, "nesterov": True},
                learning_rate=0.05,
                schedule="cosine",
                epochs=15,
            ),
        ),
        batch_size=16,
    )


def _whole_model(model: Mapping[str, Any]) -> Recipe:
    """Make the recipe of a whole model of the user. A compiled model keeps its loss and optimizer."""
    phase = Phase(name="model", trainable="scratch", learning_rate=1e-3, schedule="cosine", epochs=15)
    return Recipe(model=ModelConfig(**model), phases=(phase,))


def scratch_reference(*, augmented: bool = False, **model: Any) -> Recipe:
    """Make the reference recipe of section 2 or, with augmentation, section 3: a small network at 150 px.

    Args:
        augmented: Whether images are augmented. If True, the training has 100 epochs instead of 50.
        **model: Values of `ModelConfig` that replace those of the reference recipe.
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
        augment="reference" if augmented else "none",
    )


def features(*, head: str = "dense", **model: Any) -> Recipe:
    """Make the recipe of `trainers.features`: a head on the features of a pretrained network.

    Args:
        head: "dense": a hidden layer of 256 units, and the output layer. "linear": only the output layer (a logistic
            regression).
        **model: Values of `ModelConfig` that replace those of the recipe.
    """
    shape: dict[str, Any] = {"dense": {"hidden": 256, "dropout": 0.5}, "linear": {"dropout": 0.0}}[head]
    return Recipe(
        model=ModelConfig(**(shape | model)),
        # Accuracy on two held-out fifths of 1,400 photographs (MobileNetV2, 160 px): 97.2 % and 96.9 %. Without label
        # smoothing: 96.5 % and 96.2 %. With 30 epochs: 96.5 % and 95.9 %.
        phases=(Phase(name="head", trainable="head", learning_rate=1e-3, schedule="cosine", epochs=10),),
        label_smoothing=0.1,
        augment="none",
        from_features=True,
    )


def features_reference(*, head: str = "dense", **model: Any) -> Recipe:
    """Make the reference recipe of section 4.1: a head on flattened features of VGG16. Pixels are / 255.

    Args:
        head: "dense": a hidden layer of 256 units, and the output layer. "linear": only the output layer.
        **model: Values of `ModelConfig` that replace those of the reference recipe.
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
    """Make the recipe of `trainers.frozen`: a new head on a frozen pretrained network.

    Args:
        **model: Values of `ModelConfig` that replace those of the recipe.
    """
    return Recipe(
        model=ModelConfig(**model),
        phases=(Phase(name="head", trainable="head", learning_rate=3e-3, schedule="cosine", epochs=8),),
    )


def frozen_reference(**model: Any) -> Recipe:
    """Make the reference recipe of section 4.2.(1): a new head on frozen VGG16, with augmented images.

    Args:
        **model: Values of `ModelConfig` that replace those of the reference recipe.
    """
    head = Phase(name="head", trainable="head", optimizer="rmsprop", learning_rate=1e-2, epochs=30, steps_per_epoch=100)
    return Recipe(
        model=_reference_model(_REFERENCE_VGG16 | {"hidden": 256, "dropout": 0.6}, model),
        phases=(head,),
        batch_size=20,
        crop=0.0,
        augment="reference_transfer",
    )


def finetune(**model: Any) -> Recipe:
    """Make the recipe of `trainers.finetune`: a new head first, then also the last stage of the backbone.

    If `weights` is "none", there are no pretrained weights, and this returns the recipe of `scratch`.

    Args:
        **model: Values of `ModelConfig` that replace those of the recipe.
    """
    config = ModelConfig(**model)
    if config.weights == backbones.NONE:
        return scratch(**{"backbone": config.backbone} | model)
    return Recipe(
        model=config,
        phases=(
            Phase(name="head", trainable="head", learning_rate=3e-3, schedule="cosine", epochs=5),
            Phase(name="finetune", trainable="last_stage", learning_rate=3e-4, schedule="cosine", epochs=10),
        ),
    )


def finetune_reference(**model: Any) -> Recipe:
    """Make the reference recipe of section 4.2.(2): the head as in 4.2.(1), then also the last stage.

    Args:
        **model: Values of `ModelConfig` that replace those of the reference recipe.
    """
    recipe = frozen_reference(**model)
    head = dataclasses.replace(recipe.phases[0], epochs=10)
    second = dataclasses.replace(head, name="finetune", trainable="last_stage", learning_rate=1e-5)
    return dataclasses.replace(recipe, phases=(head, second))


# Trainer -> recipe name -> function that makes the recipe.
RECIPES: Mapping[str, Mapping[str, Callable[..., Recipe]]] = {
    "scratch": {"default": scratch, "reference": scratch_reference},
    "features": {"default": features, "reference": features_reference},
    "frozen": {"default": frozen, "reference": frozen_reference},
    "finetune": {"default": finetune, "reference": finetune_reference},
}


def current_name(recipe: str) -> str:
    """Return the current name of a recipe: "reference" for the old name "document", else the same name."""
    return augment_config.current_name(recipe)


def __getattr__(name: str) -> Callable[..., Recipe]:
    """Support old names of reference recipes, such as `scratch_document`. For one release only."""
    trainer, _, former = name.partition("_")
    if former != "document" or trainer not in RECIPES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"recipes.{name} is now recipes.{trainer}_reference.", DeprecationWarning, stacklevel=2)
    return RECIPES[trainer]["reference"]


def reads_features(trainer: str) -> bool:
    """Return whether a trainer reads features that are computed once, and not images in every epoch."""
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
    """Return a recipe with some values replaced. If an argument is None, the recipe keeps its value.

    Args:
        recipe: The recipe.
        epochs: Epochs of each phase. 0: the phase is left out.
        learning_rate: Learning rate of each phase.
        unfreeze: Part of the backbone to train, as in `Phase.trainable`. It replaces "last_stage".
        phase: Field of `Phase` -> value, the same in all phases.
        **values: Fields of `Recipe`.

    Raises:
        UserError: `epochs` or `learning_rate` does not have one value for each phase, all epochs are 0, or a value is
            not allowed.

    Example:
        recipe = override(finetune(backbone="VGG16"), epochs=[3, 5], batch_size=64, phase={"optimizer": "adamw"})
    """
    phases = _with_fields(recipe.phases, {name: value for name, value in (phase or {}).items() if value is not None})
    if unfreeze is not None:
        phases = _with_unfrozen(phases, unfreeze)
    if learning_rate is not None:
        _check_count("learning_rate", learning_rate, phases)
        phases = [dataclasses.replace(old, learning_rate=rate) for old, rate in zip(phases, learning_rate, strict=True)]
    if epochs is not None:
        phases = _with_epochs(phases, epochs)
    replaced = {name: value for name, value in values.items() if value is not None}
    return dataclasses.replace(recipe, phases=tuple(phases), **replaced)


def _with_fields(phases: Sequence[Phase], fields: Mapping[str, Any]) -> list[Phase]:
    changed = [dataclasses.replace(phase, **{**fields, **_optimizer_kwargs(phase, fields)}) for phase in phases]
    if "patience" in fields and all(phase.schedule != "plateau" for phase in changed):
        raise UserError(
            f"--patience={fields['patience']}: only --schedule=plateau uses it. Add --schedule=plateau, or remove"
            " --patience."
        )
    return changed


def _with_unfrozen(phases: Sequence[Phase], unfreeze: str) -> list[Phase]:
    """Choose the part of the backbone that is trained, in phases with trainable "last_stage"."""
    if unfreeze in ("", "head", "scratch"):
        raise UserError(f"--unfreeze={unfreeze}: must be last_stage, all, a number or a regular expression.")
    if all(phase.trainable != "last_stage" for phase in phases):
        raise UserError(
            f"--unfreeze={unfreeze}: no phase of this recipe trains a part of a backbone. Remove --unfreeze."
        )
    return [
        dataclasses.replace(phase, trainable=unfreeze) if phase.trainable == "last_stage" else phase for phase in phases
    ]


def _with_epochs(phases: Sequence[Phase], epochs: Sequence[int]) -> list[Phase]:
    """Replace the epochs of phases. A phase of 0 epochs is left out."""
    shown = _check_count("epochs", epochs, phases)
    if min(epochs) < 0 or not any(epochs):
        raise UserError(f"{shown}: each number must be 0 or more, and at least one must be above 0.")
    return [dataclasses.replace(phase, epochs=count) for phase, count in zip(phases, epochs, strict=True) if count]


def _optimizer_kwargs(phase: Phase, given: Mapping[str, Any]) -> dict[str, Any]:
    """Add the given optimizer arguments to those of the recipe.

    If another optimizer is given, the arguments of the recipe are left out.
    """
    same = given.get("optimizer", phase.optimizer).lower() == phase.optimizer.lower()  # Keras ignores case.
    inherited = phase.optimizer_kwargs if same else {}
    return {"optimizer_kwargs": {**inherited, **given.get("optimizer_kwargs", {})}}


def _check_count(name: str, values: Sequence[float], phases: Sequence[Phase]) -> str:
    """Check that there is one value for each phase. Return the flag as the user gave it."""
    shown = f"--{name}={','.join(map(str, values))}"
    if len(values) != len(phases):
        names = ", ".join(phase.name for phase in phases)
        count = words.number(len(phases), "phase")
        raise UserError(f"{shown}: the recipe has {count} ({names}). Pass one number for each phase.")
    return shown
