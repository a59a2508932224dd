"""What a training would meet on this machine: each check says what it found, and what would change it.

TensorFlow is imported by the checks, not by this module: that it cannot be is one of the findings.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import glob
import importlib.metadata
import os
import platform
import re
import shutil
import statistics
import sysconfig
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tfrecord_tools.base import workers
from tfrecord_tools.errors import one_line

FINE, NOTE, BROKEN = "fine", "note", "BROKEN"
_NVIDIA, _DISPLAY = "0x10de", "0x03"  # PCI's vendor, and the first byte of a class.
_GPU_EXTRA = "pip install 'tfrecord-tools[gpu]'"
_SMALL_MEMORY, _SMALL_DISK = (
    4e9,
    5e9,
)  # Bytes: TensorFlow alone takes half of one, a run with its checkpoints the other.
_STEP = (32, 56, 64)  # Images, pixels a side, channels in and out of the convolution that is timed.
_ROUNDS = 5


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """What a check found.

    Attributes:
        check: What was looked at.
        state: `FINE`, `NOTE` (it works, but could be better) or `BROKEN`.
        found: In words.
        advice: What to do about it; "" if nothing.
    """

    check: str
    state: str
    found: str
    advice: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cuda:
    """What decides whether TensorFlow sees a GPU of NVIDIA's.

    Attributes:
        cards: How many are on the PCI bus.
        driver: The version of its kernel module; "" if it is not loaded.
        driver_library: Whether the driver's libcuda can be loaded.
        built: Whether this TensorFlow was built for CUDA.
        missing: Names of libraries of CUDA that are not to be found.
        hidden: The value of CUDA_VISIBLE_DEVICES; None: not set.
    """

    cards: int = 0
    driver: str = ""
    driver_library: bool = False
    built: bool = True
    missing: Sequence[str] = ()
    hidden: str | None = None


def examine() -> Iterator[Diagnosis]:
    """Runs all checks, one after the other, as each may depend on what the one before has imported."""
    yield _guarded("packages", packages)
    checks: dict[str, Callable[[], Diagnosis]] = {
        "GPU": gpu,
        "precision": precision,
        "convolution": convolution,
        "XLA": xla,
        "memory": lambda: memory(_memory_bytes()),
        "disk": lambda: disk(shutil.disk_usage(".").free),
        "processors": processors,
    }
    for name, check in checks.items():
        yield _guarded(name, check)


def packages() -> Diagnosis:
    """The versions of what a training computes with, and whether Keras runs on TensorFlow."""
    import keras
    import tensorflow as tf

    found = f"TensorFlow {tf.__version__}, Keras {keras.__version__} on {keras.backend.backend()}, {_python()}"
    if keras.backend.backend() != "tensorflow":
        return Diagnosis("packages", BROKEN, found, "Set KERAS_BACKEND=tensorflow: only that trains here.")
    wanted = _wanted(("tensorflow", "keras"))
    wrong = [name for name, range_ in wanted.items() if not _within(importlib.metadata.version(name), range_)]
    if wrong:
        ranges = ", ".join(f"{name}{wanted[name]}" for name in wrong)
        return Diagnosis(
            "packages", BROKEN, found, f"Exact resume is tested with {ranges} alone: pip install '{ranges}'."
        )
    return Diagnosis("packages", FINE, found)


def gpu() -> Diagnosis:
    """The GPUs that TensorFlow sees, or why it sees none."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = [tf.config.experimental.get_device_details(device) for device in gpus]
        return Diagnosis("GPU", FINE, ", ".join(map(_described, details)))
    return no_gpu(_cuda(tf))


def no_gpu(cuda: Cuda) -> Diagnosis:
    """Says why TensorFlow sees no GPU, the first cause on the way from the card to TensorFlow."""
    if platform.system() != "Linux":
        return Diagnosis("GPU", NOTE, f"none: TensorFlow uses GPUs on Linux alone, this is {platform.system()}")
    if not cuda.cards and not cuda.driver:
        return Diagnosis("GPU", NOTE, "none: no card of NVIDIA's is on the PCI bus", "Small networks train on the CPU.")
    if cuda.hidden is not None and not re.match(r"\d|GPU|MIG", cuda.hidden):
        found = f"none: CUDA_VISIBLE_DEVICES={cuda.hidden!r} hides them"
        return Diagnosis("GPU", NOTE, found, "Unset it to train on the GPU.")
    if not cuda.driver or not cuda.driver_library:
        what = "libcuda.so.1 cannot be loaded" if cuda.driver else "its kernel module is not loaded"
        advice = "Install NVIDIA's driver; in a container, start it with --gpus=all."
        return Diagnosis("GPU", BROKEN, f"none: there is a card, but not its driver: {what}", advice)
    if not cuda.built:
        advice = f"{_GPU_EXTRA} instead of a package such as tensorflow-cpu."
        return Diagnosis("GPU", BROKEN, "none: this TensorFlow was built without CUDA", advice)
    if cuda.missing:
        found = f"none: driver {cuda.driver}, but CUDA's libraries are missing: {', '.join(cuda.missing)}"
        return Diagnosis("GPU", BROKEN, found, _GPU_EXTRA)
    found = f"none, though card, driver {cuda.driver} and CUDA's libraries are there"
    return Diagnosis("GPU", BROKEN, found, "TF_CPP_MAX_VLOG_LEVEL=1 makes TensorFlow say why; an old driver is likely.")


def precision() -> Diagnosis:
    """The precision that trainers choose here."""
    import tensorflow as tf

    from trainers.devices import device

    gpus = tf.config.list_physical_devices("GPU")
    details = tf.config.experimental.get_device_details(gpus[0]) if gpus else {}
    name = device.precision_for(details.get("compute_capability"))
    advice = "" if gpus else "Half precision is emulated on CPUs, many times slower; trainers choose float32 here."
    return Diagnosis("precision", FINE, f"{name} for this device", advice)


def convolution() -> Diagnosis:
    """A convolution with its gradients, as a training step is made of: is it right, and how fast."""
    import tensorflow as tf

    center = float(tf.nn.conv2d(tf.ones((1, 3, 3, 8)), tf.ones((3, 3, 8, 1)), 1, "SAME")[0, 1, 1, 0])
    if center != 72:
        return Diagnosis(
            "convolution", BROKEN, f"a sum of 72 ones is {center:g}", "Reinstall TensorFlow, and the driver."
        )
    images, side, channels = _STEP
    inputs = tf.random.normal((images, side, side, channels))
    kernel = tf.Variable(tf.random.normal((3, 3, channels, channels)))

    def step() -> Any:
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = tf.reduce_sum(tf.nn.conv2d(inputs, kernel, 1, "SAME") ** 2)
        return [tf.reduce_sum(gradient) for gradient in tape.gradient(outputs, [inputs, kernel])]

    compiled = tf.function(step)
    seconds = statistics.median([_seconds(compiled) for _ in range(1 + _ROUNDS)][1:])
    operations = 3 * 2 * images * side**2 * 9 * channels**2  # Forward, and the gradients of both factors.
    where = "the GPU" if tf.config.list_physical_devices("GPU") else "the CPU"
    found = f"{seconds * 1e3:.1f} ms a step on {where}, {operations / seconds / 1e9:,.0f} GFLOP/s"
    return Diagnosis("convolution", FINE, found)


def xla() -> Diagnosis:
    """Whether XLA compiles, as the augmentation needs it on any device."""
    import tensorflow as tf

    total = float(tf.function(lambda x: tf.reduce_sum(x * 2), jit_compile=True)(tf.ones(1000)))
    if total != 2000:
        return Diagnosis("XLA", BROKEN, f"a sum of 2,000 is {total:g}", "Reinstall TensorFlow.")
    gpu = bool(tf.config.list_physical_devices("GPU"))
    use = (
        "trainers compile their steps with it" if gpu else "for the augmentation; on CPUs it makes convolutions slower"
    )
    return Diagnosis("XLA", FINE, f"compiles, {use}")


def memory(available: int) -> Diagnosis:
    """The memory that can be had."""
    found = f"{available / 1e9:.1f} GB available"
    if available < _SMALL_MEMORY:
        less = "python -m trainers.finetune --cache=off --batch_size=8"
        return Diagnosis("memory", NOTE, found, f"Little: run nothing beside a training, such as {less}")
    return Diagnosis("memory", FINE, found)


def disk(free: int) -> Diagnosis:
    """The space where runs are written."""
    found = f"{free / 1e9:,.0f} GB free here, where runs/ is written"
    if free < _SMALL_DISK:
        elsewhere = "python -m trainers.finetune --run=DIRECTORY"
        return Diagnosis("disk", NOTE, found, f"Little for checkpoints: free some, or train elsewhere: {elsewhere}")
    return Diagnosis("disk", FINE, found)


def processors() -> Diagnosis:
    """How many decode images."""
    count = workers.default_workers()
    advice = "python -m tfrecord_tools.bench out/ says whether they feed the model." if count < 4 else ""
    return Diagnosis("processors", FINE, f"{count:,} may be used", advice)


def _guarded(check: str, run: Callable[[], Diagnosis]) -> Diagnosis:
    try:
        return run()
    except Exception as error:  # noqa: BLE001  Whatever a broken installation raises is the finding.
        advice = "Reinstall: pip install --force-reinstall tfrecord-tools" if isinstance(error, ImportError) else ""
        return Diagnosis(check, BROKEN, f"{type(error).__name__}: {one_line(error)}", advice)


def _cuda(tf: Any) -> Cuda:
    built = tf.sysconfig.get_build_info()
    versions = {name: str(built.get(f"{name}_version", "")).split(".")[0] for name in ("cuda", "cudnn")}
    names = {"libcudart": "cuda", "libcublas": "cuda", "libcudnn": "cudnn"}
    libraries = [f"{library}.so.{versions[package]}" for library, package in names.items() if versions[package]]
    return Cuda(
        cards=_cards(Path("/sys/bus/pci/devices")),
        driver=_driver(Path("/proc/driver/nvidia/version")),
        driver_library=_loads("libcuda.so.1"),
        built=bool(tf.test.is_built_with_cuda()),
        missing=[name for name in libraries if not _loads(name) and not _in_wheels(name)],
        hidden=os.environ.get("CUDA_VISIBLE_DEVICES"),
    )


def _cards(devices: Path) -> int:
    """Counts NVIDIA's display and 3D controllers."""
    cards = 0
    for device in devices.glob("*"):
        with contextlib.suppress(OSError):
            vendor, kind = ((device / name).read_text().strip() for name in ("vendor", "class"))
            cards += vendor == _NVIDIA and kind.startswith(_DISPLAY)
    return cards


def _driver(version: Path) -> str:
    """The version of the driver's kernel module; "" if there is none."""
    try:
        number = re.search(r"\d{3,}\.\d[\d.]*", version.read_text())
    except OSError:
        return ""
    return number[0] if number else "of unknown version"


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _in_wheels(library: str) -> bool:
    """Whether it came with one of NVIDIA's wheels, where TensorFlow looks too."""
    return bool(glob.glob(os.path.join(sysconfig.get_path("purelib"), "nvidia", "*", "lib", library)))


def _described(details: dict[str, Any]) -> str:
    capability = ".".join(map(str, details.get("compute_capability", ())))
    return f"{details.get('device_name', 'GPU')} (compute capability {capability or 'unknown'})"


def _memory_bytes() -> int:
    """What is available on this machine, or left of what its container may use."""
    text = Path("/proc/meminfo").read_text()
    available = re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)
    limits = [int(available[1]) * 1024] if available else [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with contextlib.suppress(OSError, ValueError):  # Not in a container, or "max".
        group = Path("/sys/fs/cgroup")
        limits.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return min(limits)


def _wanted(names: Sequence[str]) -> dict[str, str]:
    """The versions that this package asks for: name -> `>=1,<2`, nothing if it was not installed."""
    try:
        requirements = importlib.metadata.requires("tfrecord-tools") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    matches = [re.match(r"([\w.-]+)([<>=][^;]*)$", text.strip()) for text in requirements]
    return {match[1]: match[2] for match in matches if match and match[1] in names}


def _within(version: str, range_: str) -> bool:
    """Whether 2.21.0 is within `>=2.21,<2.22`; by the numbers alone."""
    numbers = _numbers(version)
    for operator, bound in re.findall(r"(<|>=)([\d.]+)", range_):
        if (numbers < _numbers(bound)) != (operator == "<"):
            return False
    return True


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:3]]


def _seconds(step: Callable[[], Any]) -> float:
    start = time.perf_counter()
    for result in step():
        result.numpy()  # Waits for the device.
    return time.perf_counter() - start


def _python() -> str:
    return f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
