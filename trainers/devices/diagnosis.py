"""Check whether this machine can train, and give advice.

The checks that need TensorFlow import it only when they run. So this module can be imported even if TensorFlow is
broken.
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
_NVIDIA, _DISPLAY = "0x10de", "0x03"  # PCI vendor, and first byte of the PCI class of display devices.
_GPU_EXTRA = "pip install 'tfrecord-tools[gpu]'"
# Limits in bytes. The check gives advice if less is free. TensorFlow alone needs about 2 GB of memory.
_SMALL_MEMORY, _SMALL_DISK = 4e9, 5e9
# The convolution that is timed: number of images, pixels per side, and channels of the input and of the output.
_STEP = (32, 56, 64)
_ROUNDS = 5  # Number of timed steps.


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """The result of a check.

    Attributes:
        check: Name of the check.
        state: `FINE`, `NOTE` (it works, but could be better) or `BROKEN`.
        result: Description of the result.
        advice: Advice for the user. "": none is needed.
    """

    check: str
    state: str
    result: str
    advice: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cuda:
    """The facts that decide whether TensorFlow can use an NVIDIA GPU.

    Attributes:
        cards: Number of NVIDIA cards on the PCI bus.
        driver: Version of the driver's kernel module. "" if it is not loaded.
        driver_library: Whether the driver's libcuda can be loaded.
        built: Whether this TensorFlow was built for CUDA.
        missing: Names of CUDA libraries that cannot be found.
        hidden: Value of CUDA_VISIBLE_DEVICES. None if it is not set.
    """

    cards: int = 0
    driver: str = ""
    driver_library: bool = False
    built: bool = True
    missing: Sequence[str] = ()
    hidden: str | None = None


def examine() -> Iterator[Diagnosis]:
    """Run all checks in a fixed order, because a check may need an import that an earlier check has made."""
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
    """Check the versions of TensorFlow and Keras, and that Keras runs on TensorFlow."""
    import keras
    import tensorflow as tf

    result = f"TensorFlow {tf.__version__}, Keras {keras.__version__} on {keras.backend.backend()}, {_python()}"
    if keras.backend.backend() != "tensorflow":
        return Diagnosis("packages", BROKEN, result, "Set KERAS_BACKEND=tensorflow. Trainers need TensorFlow.")
    wanted = _wanted(("tensorflow", "keras"))
    wrong = [name for name, range_ in wanted.items() if not _within(importlib.metadata.version(name), range_)]
    if wrong:
        ranges = ", ".join(f"{name}{wanted[name]}" for name in wrong)
        return Diagnosis(
            "packages",
            BROKEN,
            result,
            f"Trainers are tested with {ranges} only. With other versions, an interrupted training may continue"
            f" with other results. Run pip install '{ranges}'.",
        )
    return Diagnosis("packages", FINE, result)


def gpu() -> Diagnosis:
    """List the GPUs that TensorFlow can use, or the reason why there are none."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = [tf.config.experimental.get_device_details(device) for device in gpus]
        return Diagnosis("GPU", FINE, ", ".join(map(_described, details)))
    return no_gpu(_cuda(tf))


def no_gpu(cuda: Cuda) -> Diagnosis:
    """Find out why TensorFlow cannot use a GPU. Check the card first, then the driver, then TensorFlow."""
    if platform.system() != "Linux":
        return Diagnosis("GPU", NOTE, f"none: TensorFlow uses GPUs only on Linux, and this is {platform.system()}")
    if not cuda.cards and not cuda.driver:
        return Diagnosis(
            "GPU", NOTE, "none: there is no NVIDIA card on the PCI bus", "Small networks train on the CPU."
        )
    if cuda.hidden is not None and not re.match(r"\d|GPU|MIG", cuda.hidden):
        result = f"none: CUDA_VISIBLE_DEVICES={cuda.hidden!r} hides the GPUs"
        return Diagnosis(
            "GPU", NOTE, result, "To train on the GPU, remove the environment variable CUDA_VISIBLE_DEVICES."
        )
    if not cuda.driver or not cuda.driver_library:
        problem = "libcuda.so.1 cannot be loaded" if cuda.driver else "the kernel module is not loaded"
        advice = "Install NVIDIA's driver. In a container, start the container with --gpus=all."
        return Diagnosis("GPU", BROKEN, f"none: there is a card, but its driver does not work: {problem}", advice)
    if not cuda.built:
        advice = f"Run {_GPU_EXTRA}, and uninstall a package such as tensorflow-cpu."
        return Diagnosis("GPU", BROKEN, "none: this TensorFlow was built without CUDA", advice)
    if cuda.missing:
        result = f"none: driver {cuda.driver} was found, but CUDA libraries are missing: {', '.join(cuda.missing)}"
        return Diagnosis("GPU", BROKEN, result, f"Run {_GPU_EXTRA}.")
    result = f"none, although a card, driver {cuda.driver} and the CUDA libraries were found"
    advice = "Set TF_CPP_MAX_VLOG_LEVEL=1 to make TensorFlow print the reason. The driver may be too old."
    return Diagnosis("GPU", BROKEN, result, advice)


def precision() -> Diagnosis:
    """Report the precision that trainers use on this machine."""
    import tensorflow as tf

    from trainers.devices import device

    gpus = tf.config.list_physical_devices("GPU")
    details = tf.config.experimental.get_device_details(gpus[0]) if gpus else {}
    name = device.precision_for(details.get("compute_capability"))
    advice = "" if gpus else "On CPUs, half precision is emulated, which is many times slower. So trainers use float32."
    return Diagnosis("precision", FINE, f"{name} for this device", advice)


def convolution() -> Diagnosis:
    """Check and time a convolution with its gradients, the main part of a training step."""
    import tensorflow as tf

    center = float(tf.nn.conv2d(tf.ones((1, 3, 3, 8)), tf.ones((3, 3, 8, 1)), 1, "SAME")[0, 1, 1, 0])
    if center != 72:
        return Diagnosis(
            "convolution", BROKEN, f"a sum of 72 ones is {center:g}", "Reinstall TensorFlow and the driver."
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
    operations = 3 * 2 * images * side**2 * 9 * channels**2  # The forward pass, and the gradients of both factors.
    where = "the GPU" if tf.config.list_physical_devices("GPU") else "the CPU"
    result = f"{seconds * 1e3:.1f} ms per step on {where}, {operations / seconds / 1e9:,.0f} GFLOP/s"
    return Diagnosis("convolution", FINE, result)


def xla() -> Diagnosis:
    """Check whether XLA works, because the augmentation needs it on every device."""
    import tensorflow as tf

    total = float(tf.function(lambda x: tf.reduce_sum(x * 2), jit_compile=True)(tf.ones(1000)))
    if total != 2000:
        return Diagnosis("XLA", BROKEN, f"a sum of 2,000 is {total:g}", "Reinstall TensorFlow.")
    gpu = bool(tf.config.list_physical_devices("GPU"))
    use = (
        "Trainers compile their training steps with XLA"
        if gpu
        else "Trainers use XLA for the augmentation only, because it makes convolutions slower on CPUs"
    )
    return Diagnosis("XLA", FINE, f"compiles. {use}")


def memory(available: int) -> Diagnosis:
    """Check the available memory in bytes."""
    result = f"{available / 1e9:.1f} GB available"
    if available < _SMALL_MEMORY:
        command = "python -m trainers.finetune --cache=off --batch_size=8"
        advice = f"This is little. Run no other programs during a training, and save memory: {command}"
        return Diagnosis("memory", NOTE, result, advice)
    return Diagnosis("memory", FINE, result)


def disk(free: int) -> Diagnosis:
    """Check the free disk space, in bytes, of the directory where runs are written."""
    result = f"{free / 1e9:,.0f} GB free in this directory, where runs/ is written"
    if free < _SMALL_DISK:
        command = "python -m trainers.finetune --run=DIRECTORY"
        advice = f"This is little for checkpoints. Delete some files, or train in another directory: {command}"
        return Diagnosis("disk", NOTE, result, advice)
    return Diagnosis("disk", FINE, result)


def processors() -> Diagnosis:
    """Report the number of processors that decode images."""
    count = workers.default_workers()
    advice = (
        "Run python -m tfrecord_tools.bench out/ to see whether the processors are fast enough." if count < 4 else ""
    )
    return Diagnosis("processors", FINE, f"{count:,} can be used", advice)


def _guarded(check: str, run: Callable[[], Diagnosis]) -> Diagnosis:
    try:
        return run()
    except Exception as error:  # noqa: BLE001  A broken installation may raise any error. The error is the result.
        advice = "Run pip install --force-reinstall tfrecord-tools." if isinstance(error, ImportError) else ""
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
    """Count the display and 3D controllers of NVIDIA."""
    cards = 0
    for device in devices.glob("*"):
        with contextlib.suppress(OSError):
            vendor, kind = ((device / name).read_text().strip() for name in ("vendor", "class"))
            cards += vendor == _NVIDIA and kind.startswith(_DISPLAY)
    return cards


def _driver(version: Path) -> str:
    """Return the version of the driver's kernel module, or "" if it is not loaded."""
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
    """Return whether one of NVIDIA's wheels has the library, because TensorFlow finds it there."""
    return bool(glob.glob(os.path.join(sysconfig.get_path("purelib"), "nvidia", "*", "lib", library)))


def _described(details: dict[str, Any]) -> str:
    capability = ".".join(map(str, details.get("compute_capability", ())))
    return f"{details.get('device_name', 'GPU')} (compute capability {capability or 'unknown'})"


def _memory_bytes() -> int:
    """Return the available memory of this machine, or of its container if that is less."""
    text = Path("/proc/meminfo").read_text()
    available = re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)
    limits = [int(available[1]) * 1024] if available else [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with contextlib.suppress(OSError, ValueError):  # There is no container, or its limit is "max".
        group = Path("/sys/fs/cgroup")
        limits.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return min(limits)


def _wanted(names: Sequence[str]) -> dict[str, str]:
    """Return the versions that this package requires: name -> `>=1,<2`. {}: it is not installed."""
    try:
        requirements = importlib.metadata.requires("tfrecord-tools") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    matches = [re.match(r"([\w.-]+)([<>=][^;]*)$", text.strip()) for text in requirements]
    return {match[1]: match[2] for match in matches if match and match[1] in names}


def _within(version: str, range_: str) -> bool:
    """Return whether the numbers of a version, such as 2.21.0rc1, are in a range such as `>=2.21,<2.22`."""
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
