"""The device found, and the precision and compilation that suit it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfrecord_tools.base import words
from tfrecord_tools.errors import UserError, one_line
from trainers.devices.cluster import Cluster


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

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """The context to make models and optimizers in."""
        return self.strategy.scope() if self.strategy else contextlib.nullcontext()

    def distributed(self, data: tf.data.Dataset, batch_size: int) -> Any:
        """Turns this worker's part of the data into what `fit` takes; on one machine, it does that.

        The number of batches is hidden: where it differs from worker to worker, all go on until the last has ended.

        Args:
            data: What this worker reads.
            batch_size: Of all devices together.
        """
        if self.strategy is None or self.cluster.workers == 1:
            return data
        own = data.rebatch(batch_size // self.replicas).filter(lambda *parts: True)
        return self.strategy.distribute_datasets_from_function(lambda context: own)

    def averager(self, variables: Sequence[keras.Variable]) -> Callable[[], None]:
        """Makes a function that sets variables, of which each device has values of its own, to their mean everywhere.

        Every worker has to call it at the same time, as with the other methods below.
        """
        strategy = self.strategy
        if strategy is None or not variables:
            return lambda: None
        values = [variable.value for variable in variables]

        def average() -> None:
            each = strategy.run(lambda: [tf.identity(value) for value in values])
            for value, own in zip(values, each, strict=True):
                value.assign(strategy.reduce(tf.distribute.ReduceOp.MEAN, own, axis=None))

        compiled: Callable[[], None] = tf.function(average)
        return compiled

    def all_gather(self, number: int) -> list[int]:
        """A number of each device's process, the chief's first."""
        strategy = self.strategy
        if strategy is None or self.cluster.workers == 1:
            return [number]

        def own() -> tf.Tensor:
            return tf.constant([number], tf.int64)

        def gather() -> tf.Tensor:
            return strategy.gather(strategy.run(own), axis=0)

        return np.asarray(tf.function(gather)()).tolist()

    def barrier(self) -> None:
        """Waits until every worker has come here."""
        self.all_gather(0)


def set_up(
    *,
    precision: str = "auto",
    seed: int = 0,
    deterministic: bool = False,
    strategy: str = "auto",
    cluster: Cluster = Cluster(),
    log: Callable[[str], object] = print,
) -> Device:
    """Finds the device and makes Keras use it so: memory growth, dtype policy, seeds, determinism of operations.

    To be called once, before any model or tensor is made.

    Args:
        precision: One of `recipes.PRECISIONS`, or "auto": what suits the device.
        seed: Of Python's, NumPy's and Keras's random numbers.
        deterministic: Whether operations that are fast but not reproducible (mostly on GPUs) are given up.
        strategy: As in `recipes.TrainConfig`.
        cluster: The place of this process in its job, for a strategy of several.
        log: Takes a line if this process has to wait for others.

    Raises:
        UserError: Keras does not run on TensorFlow, or the workers of a job do not come together.
    """
    if keras.backend.backend() != "tensorflow":
        raise UserError(
            f"KERAS_BACKEND={keras.backend.backend()}: Keras must run on TensorFlow here. Set KERAS_BACKEND=tensorflow."
        )
    device = _find(precision, strategy, cluster, log)
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


def _find(precision: str, strategy: str, cluster: Cluster, log: Callable[[str], object]) -> Device:
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    details = tf.config.experimental.get_device_details(gpus[0]) if gpus else {}
    if precision == "auto":
        precision = precision_for(details.get("compute_capability"))
    distribution = _make_strategy(strategy, cluster, "GPU" if gpus else "CPU", log)
    replicas = distribution.num_replicas_in_sync if distribution else 1
    return Device(
        name=details.get("device_name", "GPU") if gpus else "CPU",
        precision=precision,
        # On CPUs, XLA makes convolutions 2 to 8 times slower; steps of several devices it cannot compile.
        jit_compile=bool(gpus) and replicas == 1,
        replicas=replicas,
        strategy=distribution,
        cluster=cluster,
    )


def _make_strategy(
    strategy: str, cluster: Cluster, kind: str, log: Callable[[str], object]
) -> tf.distribute.Strategy | None:
    if strategy == "multi_worker":
        others = [address for i, address in enumerate(cluster.addresses) if i != cluster.worker]
        # TensorFlow waits without a word.
        log(f"waiting for {words.number(len(others), 'other worker')}: {', '.join(others)}")
        try:
            return tf.distribute.MultiWorkerMirroredStrategy()
        except (tf.errors.OpError, RuntimeError, ValueError) as error:
            raise UserError(
                f"TF_CONFIG: the workers do not come together: {one_line(error)}. This is worker {cluster.worker}, at"
                f" {cluster.addresses[cluster.worker]}; all have to be started, each with a port that is free."
            ) from error
    # Also for one GPU: a distributed dataset copies its batches there ahead of time, which `fit` alone does not.
    if strategy == "mirrored" or (strategy == "auto" and kind == "GPU"):
        return tf.distribute.MirroredStrategy([device.name for device in tf.config.list_logical_devices(kind)])
    return None
