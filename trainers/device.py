"""The device found, and the precision and compilation that suit it."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import keras
import tensorflow as tf

from tfrecord_tools.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Device:
    """Where and how the steps are computed.

    Attributes:
        name: "CPU", or the GPU's product name.
        precision: Name of a Keras dtype policy.
        jit_compile: Whether XLA compiles the steps.
        replicas: How many devices share each batch.
        strategy: What spreads models over these; None: a model lies on one device as it is.
    """

    name: str
    precision: str
    jit_compile: bool
    replicas: int = 1
    strategy: tf.distribute.Strategy | None = None

    def __str__(self) -> str:
        count = f"{self.replicas} x " if self.replicas > 1 else ""
        return f"{count}{self.name}, precision {self.precision}, XLA {'on' if self.jit_compile else 'off'}"

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """The context to make models and optimizers in."""
        return self.strategy.scope() if self.strategy else contextlib.nullcontext()


def set_up(*, precision: str = "auto", seed: int = 0, deterministic: bool = False, strategy: str = "auto") -> Device:
    """Finds the device and makes Keras use it so: memory growth, dtype policy, seeds, determinism of operations.

    To be called once, before any model or tensor is made.

    Args:
        precision: One of `recipes.PRECISIONS`, or "auto": what suits the device.
        seed: Of Python's, NumPy's and Keras's random numbers.
        deterministic: Whether operations that are fast but not reproducible (mostly on GPUs) are given up.
        strategy: As in `recipes.TrainConfig`.

    Raises:
        UserError: Keras does not run on TensorFlow.
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
    # Also for one GPU: a distributed dataset copies its batches there ahead of time, which `fit` alone does not.
    mirrored = strategy == "mirrored" or (strategy == "auto" and gpus)
    devices = [device.name for device in tf.config.list_logical_devices("GPU" if gpus else "CPU")]
    return Device(
        name=details.get("device_name", "GPU") if gpus else "CPU",
        precision=precision,
        jit_compile=bool(gpus),  # On CPUs, XLA makes convolutions 2 to 8 times slower.
        replicas=len(devices) if mirrored else 1,
        strategy=tf.distribute.MirroredStrategy(devices) if mirrored else None,
    )
