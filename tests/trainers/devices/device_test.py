"""Tests of the device, its precision and its compilation."""

from __future__ import annotations

import keras
import pytest
import tensorflow as tf

from tfrecord_tools.errors import UserError
from trainers.devices import device

DETAILS = {"device_name": "A GPU", "compute_capability": (8, 6)}


@pytest.fixture(autouse=True)
def _policy():
    yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture
def gpu(monkeypatch):
    """Make TensorFlow report two GPUs. Return the calls that set memory growth."""
    calls = []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["gpu 0", "gpu 1"])
    cpus = tf.config.list_logical_devices("CPU")
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: cpus)  # CPUs compute what the test needs.
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: DETAILS)
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", lambda gpu, on: calls.append((gpu, on)))
    return calls


@pytest.mark.parametrize(
    ("capability", "precision"),
    [
        (None, "float32"),  # CPU
        ((6, 1), "float32"),  # Pascal
        ((7, 0), "mixed_float16"),  # Volta
        ((7, 5), "mixed_float16"),  # Turing
        ((8, 0), "mixed_bfloat16"),  # Ampere
        ((12, 0), "mixed_bfloat16"),  # Blackwell
    ],
)
def test_precision_follows_the_compute_capability(capability, precision):
    assert device.precision_for(capability) == precision


def test_gpu_is_used_with_memory_growth_half_precision_and_xla(gpu):
    assert str(device.set_up()) == "A GPU, precision mixed_bfloat16, XLA on"
    assert gpu == [("gpu 0", True), ("gpu 1", True)]
    assert keras.config.dtype_policy().name == "mixed_bfloat16"


def test_steps_of_several_gpus_are_not_compiled(gpu, monkeypatch):
    class TwoGpus:  # XLA cannot reach the variables of another device.
        num_replicas_in_sync = 2

    monkeypatch.setattr(tf.distribute, "MirroredStrategy", lambda devices: TwoGpus())
    assert str(device.set_up()) == "2 x A GPU, precision mixed_bfloat16, XLA off"


def test_cpu_is_used_without_a_gpu(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    assert str(device.set_up()) == "CPU, precision float32, XLA off"


def test_precision_can_be_set(gpu):
    assert device.set_up(precision="float32").precision == "float32"


def test_seed_and_determinism_are_set(monkeypatch):
    calls = []
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: calls.append("determinism"))
    draws = []
    for deterministic in (False, True):
        device.set_up(seed=3, deterministic=deterministic)
        draws.append(float(keras.random.uniform(())))
    assert draws[0] == draws[1]
    assert calls == ["determinism"]


def test_other_keras_backend_is_rejected(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(UserError, match=r"^KERAS_BACKEND=jax: must be tensorflow\."):
        device.set_up()
