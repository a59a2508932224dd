"""Find the device of a training, and choose its precision, compilation and distribution strategy."""

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
    """The device or devices on which training steps are computed.

    Attributes:
        name: "CPU", or the product name of the GPU.
        precision: Name of a Keras dtype policy.
        jit_compile: Whether steps are compiled with XLA.
        replicas: Number of devices that share each batch, over all workers.
        strategy: Strategy of TensorFlow that distributes models over the devices. If None, one device is used.
        cluster: The workers of the training.
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
        """Whether this process is worker 0, which writes all files."""
        return self.cluster.worker == 0

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context in which models and optimizers must be made."""
        return self.strategy.scope() if self.strategy else contextlib.nullcontext()

    def distributed(self, data: tf.data.Dataset, batch_size: int) -> Any:
        """Prepare this worker's part of a dataset for `fit`. On one machine, `fit` does this itself.

        The number of batches may differ between workers, so it is hidden from Keras. Then every worker continues until
        no worker has batches left.

        Args:
            data: Batches of this worker.
            batch_size: Images per step, over all devices.
        """
        if self.strategy is None or self.cluster.workers == 1:
            return data
        own = data.rebatch(batch_size // self.replicas).filter(lambda *parts: True)
        return self.strategy.distribute_datasets_from_function(lambda context: own)

    def averager(self, variables: Sequence[keras.Variable]) -> Callable[[], None]:
        """Return a function that sets variables to the mean of their values on all devices.

        All workers must call the function at the same time. The same is true for `all_gather` and `barrier`.
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
        """Return the numbers that all workers pass to this method. The number of the chief is the first."""
        strategy = self.strategy
        if strategy is None or self.cluster.workers == 1:
            return [number]

        def own() -> tf.Tensor:
            return tf.constant([number], tf.int64)

        def gather() -> tf.Tensor:
            return strategy.gather(strategy.run(own), axis=0)

        return np.asarray(tf.function(gather)()).tolist()

    def barrier(self) -> None:
        """Wait until all workers have called this method."""
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
    """Find the device and configure Keras for it.

    This sets memory growth, the dtype policy, seeds and deterministic operations. Call this function once, before any
    model or tensor is made.

    Args:
        precision: One of `recipes.PRECISIONS`. "auto": mixed precision on GPUs that support it, else float32.
        seed: Seed of Python's, NumPy's and Keras's random numbers.
        deterministic: Whether only operations with reproducible results are used. Slower on GPUs.
        strategy: As in `recipes.TrainConfig`.
        cluster: The workers of the training, for strategy "multi_worker".
        log: Receives a line if this process has to wait for other workers.

    Raises:
        UserError: Keras does not run on TensorFlow, or the workers cannot connect to each other.
    """
    if keras.backend.backend() != "tensorflow":
        raise UserError(f"KERAS_BACKEND={keras.backend.backend()}: must be tensorflow. Set KERAS_BACKEND=tensorflow.")
    device = _find(precision, strategy, cluster, log)
    keras.config.set_dtype_policy(device.precision)
    keras.utils.set_random_seed(seed)
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    return device


def precision_for(compute_capability: tuple[int, int] | None) -> str:
    """Return the fastest reliable precision for a device.

    It is bfloat16 on Ampere and newer GPUs, float16 on Volta and Turing, and float32 on all other devices.

    Args:
        compute_capability: Compute capability of the GPU, such as (8, 0). None for a CPU, because CPUs emulate half
            precision, which is ten times slower.
    """
    if compute_capability is None or compute_capability < (7, 0):
        return "float32"
    return "mixed_bfloat16" if compute_capability >= (8, 0) else "mixed_float16"


def _find(precision: str, strategy: str, cluster: Cluster, log: Callable[[str], object]) -> Device:
    gpus = tf.config.list_physical_devices("GPU")
    # TensorFlow raises RuntimeError if the GPU is in use already, as in a notebook. Memory growth then stays unchanged.
    with contextlib.suppress(RuntimeError):
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
        # On CPUs, XLA makes convolutions 2 to 8 times slower. XLA cannot compile steps over several devices.
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
        # TensorFlow prints nothing while it waits.
        log(f"waiting for {words.number(len(others), 'other worker')}: {', '.join(others)}")
        try:
            return tf.distribute.MultiWorkerMirroredStrategy()
        except (tf.errors.OpError, RuntimeError, ValueError) as error:
            raise UserError(
                f"TF_CONFIG: the workers cannot connect to each other: {one_line(error)}. This is worker"
                f" {cluster.worker}, at {cluster.addresses[cluster.worker]}. Start all workers. The port of each worker"
                " must be free."
            ) from error
    # A strategy is used even for one GPU, because it copies batches to the GPU ahead of time. `fit` alone does not.
    if strategy == "mirrored" or (strategy == "auto" and kind == "GPU"):
        return tf.distribute.MirroredStrategy([device.name for device in tf.config.list_logical_devices(kind)])
    return None
