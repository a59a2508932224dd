"""The device found, and the precision and compilation that suit it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfrecord_tools.errors import UserError
from trainers import cluster
from trainers.cluster import Cluster


@dataclasses.dataclass(frozen=True, kw_only=True)
class Device:
    """Where and how the steps are computed.

    Attributes:
        name: "CPU", or the GPU's product name.
        precision: Name of a Keras dtype policy.
        jit_compile: Whether XLA compiles the steps.
        replicas: How many devices share each batch, those of all workers together.
        strategy: What spreads models over these; None: a model lies on one device as it is.
        cluster: The place of this process in its job.
    """

    name: str
    precision: str
    jit_compile: bool
    replicas: int = 1
    strategy: tf.distribute.Strategy | None = None
    cluster: Cluster = dataclasses.field(default_factory=Cluster)

    def __str__(self) -> str:
        count = f"{self.replicas} x " if self.replicas > 1 else ""
        worker = f", worker {self.cluster.worker} of {self.cluster.workers}" if self.cluster.workers > 1 else ""
        return f"{count}{self.name}{worker}, precision {self.precision}, XLA {'on' if self.jit_compile else 'off'}"

    @property
    def chief(self) -> bool:
        """Whether this process writes what there is to write."""
        return self.cluster.worker == 0

    @property
    def shard(self) -> tuple[int, int]:
        """Which slice of each batch this process reads, of how many."""
        return self.cluster.worker, self.cluster.workers

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """The context to make models and optimizers in."""
        return self.strategy.scope() if self.strategy else contextlib.nullcontext()

    def distributed(self, data: tf.data.Dataset, batch_size: int) -> Any:
        """Turns this worker's slices of batches of so many images into what `fit` takes; on one machine, it does that.

        The number of batches is hidden: where it differs from worker to worker, all go on until the last has ended.
        """
        if self.cluster.workers == 1:
            return data
        data = data.rebatch(batch_size // self.replicas).filter(lambda *parts: True)
        return self._spread.distribute_datasets_from_function(lambda context: data)

    def averager(self, variables: Sequence[keras.Variable]) -> Callable[[], None]:
        """Makes a function that sets variables, of which each device has values of its own, to their mean everywhere.

        Every worker has to call it at the same time, as with the other methods below.
        """
        if self.strategy is None or not variables:
            return lambda: None
        values = [variable.value for variable in variables]

        def average() -> None:
            each = self._spread.run(lambda: [tf.identity(value) for value in values])
            for value, own in zip(values, each, strict=True):
                value.assign(self._spread.reduce(tf.distribute.ReduceOp.MEAN, own, axis=None))

        compiled: Callable[[], None] = tf.function(average)
        return compiled

    def gathered(self, number: int) -> list[int]:
        """A number of each device's process."""
        if self.cluster.workers == 1:
            return [number]
        spread = self._spread
        gather = tf.function(lambda: spread.gather(spread.run(lambda: tf.constant([number], tf.int64)), axis=0))
        return np.asarray(gather()).tolist()

    def barrier(self) -> None:
        """Waits until every worker has come here."""
        self.gathered(0)

    @property
    def _spread(self) -> tf.distribute.Strategy:
        assert self.strategy is not None
        return self.strategy


def set_up(*, precision: str = "auto", seed: int = 0, deterministic: bool = False, strategy: str = "auto") -> Device:
    """Finds the device and makes Keras use it so: memory growth, dtype policy, seeds, determinism of operations.

    To be called once, before any model or tensor is made.

    Args:
        precision: One of `recipes.PRECISIONS`, or "auto": what suits the device.
        seed: Of Python's, NumPy's and Keras's random numbers.
        deterministic: Whether operations that are fast but not reproducible (mostly on GPUs) are given up.
        strategy: As in `recipes.TrainConfig`.

    Raises:
        UserError: Keras does not run on TensorFlow, or TF_CONFIG does not say what a multi-worker strategy needs.
    """
    if keras.backend.backend() != "tensorflow":
        raise UserError(
            f"KERAS_BACKEND={keras.backend.backend()}: Keras must run on TensorFlow here. Set KERAS_BACKEND=tensorflow."
        )
    device = _find(precision, strategy)
    keras.config.set_dtype_policy(device.precision)
    keras.utils.set_random_seed(seed)
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    return device


def precision_for(compute_capability: tuple[int, int] | None) -> str:
    """The fastest sound precision: bfloat16 from Ampere on, float16 on Volta and Turing, else float32.

    Args:
        compute_capability: Of the GPU; None for a CPU, where half precision is emulated, ten times slower.
    """
    if compute_capability is None or compute_capability < (7, 0):
        return "float32"
    return "mixed_bfloat16" if compute_capability >= (8, 0) else "mixed_float16"


def _find(precision: str, strategy: str) -> Device:
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    details = tf.config.experimental.get_device_details(gpus[0]) if gpus else {}
    if precision == "auto":
        precision = precision_for(details.get("compute_capability"))
    spread = _spread(strategy, "GPU" if gpus else "CPU")
    replicas = spread.num_replicas_in_sync if spread else 1
    return Device(
        name=details.get("device_name", "GPU") if gpus else "CPU",
        precision=precision,
        # On CPUs, XLA makes convolutions 2 to 8 times slower; steps of several devices it cannot compile.
        jit_compile=bool(gpus) and replicas == 1,
        replicas=replicas,
        strategy=spread,
        cluster=cluster.from_environment() if strategy == "multi_worker" else Cluster(),
    )


def _spread(strategy: str, kind: str) -> tf.distribute.Strategy | None:
    if strategy == "multi_worker":
        cluster.from_environment()  # TensorFlow would wait for workers that are not there, without a word.
        return tf.distribute.MultiWorkerMirroredStrategy()
    # Also for one GPU: a distributed dataset copies its batches there ahead of time, which `fit` alone does not.
    if strategy == "mirrored" or (strategy == "auto" and kind == "GPU"):
        return tf.distribute.MirroredStrategy([device.name for device in tf.config.list_logical_devices(kind)])
    return None
