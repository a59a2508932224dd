"""Tests of the checks and the advice of the doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import pytest

from trainers.devices import diagnosis
from trainers.devices.diagnosis import BROKEN, FINE, NOTE, Cuda

WHOLE: dict[str, Any] = {"cards": 1, "driver": "550.54.15", "driver_library": True}


@pytest.mark.parametrize(
    ("cuda", "state", "result", "advice"),
    [
        (Cuda(), NOTE, "none: there is no NVIDIA card on the PCI bus", "Small networks train on the CPU."),
        (
            Cuda(**WHOLE, hidden="-1"),
            NOTE,
            "none: CUDA_VISIBLE_DEVICES='-1' hides the GPUs",
            "To train on the GPU, remove the environment variable CUDA_VISIBLE_DEVICES.",
        ),
        (
            Cuda(**WHOLE, hidden=""),
            NOTE,
            "none: CUDA_VISIBLE_DEVICES='' hides the GPUs",
            "To train on the GPU, remove the environment variable CUDA_VISIBLE_DEVICES.",
        ),
        (Cuda(cards=2), BROKEN, "its driver does not work: the kernel module is not loaded", "Install NVIDIA's driver"),
        (
            Cuda(cards=1, driver="550.54"),
            BROKEN,
            "its driver does not work: libcuda.so.1 cannot be loaded",
            "--gpus=all",
        ),
        (Cuda(**WHOLE, built=False), BROKEN, "this TensorFlow was built without CUDA", "tfrecord-tools[gpu]"),
        (
            Cuda(**WHOLE, missing=("libcudnn.so.9",)),
            BROKEN,
            "none: driver 550.54.15 was found, but CUDA libraries are missing: libcudnn.so.9",
            "pip install 'tfrecord-tools[gpu]'",
        ),
        (
            Cuda(**WHOLE, hidden="0"),
            BROKEN,
            "none, although a card, driver 550.54.15",
            "TF_CPP_MAX_VLOG_LEVEL=1",
        ),
        (Cuda(driver="550.54", driver_library=True, missing=("libcudart.so.12",)), BROKEN, "missing", "[gpu]"),  # WSL
    ],
)
def test_reason_why_there_is_no_gpu(
    monkeypatch: pytest.MonkeyPatch, cuda: Cuda, state: str, result: str, advice: str
) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    finding = diagnosis.no_gpu(cuda)
    assert finding.state == state
    assert result in finding.result
    assert advice in finding.advice


def test_gpus_are_used_only_on_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    assert diagnosis.no_gpu(Cuda()).result == "none: TensorFlow uses GPUs only on Linux, and this is Darwin"


def test_cards_on_the_bus(tmp_path: Path) -> None:
    bus = {"a": ("0x10de", "0x030000"), "b": ("0x10de", "0x030200"), "sound": ("0x10de", "0x040300")}
    for name, (vendor, kind) in (bus | {"other": ("0x1002", "0x030000")}).items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "vendor").write_text(f"{vendor}\n")
        (tmp_path / name / "class").write_text(f"{kind}\n")
    (tmp_path / "gone").mkdir()  # A device without files, as while it is being removed.
    assert diagnosis._cards(tmp_path) == 2
    assert diagnosis._cards(tmp_path / "none") == 0


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\nGCC", "550.54.15"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build", "570.86.15"),
        ("something else", "of unknown version"),
    ],
)
def test_driver(tmp_path: Path, text: str, version: str) -> None:
    (tmp_path / "version").write_text(text)
    assert diagnosis._driver(tmp_path / "version") == version
    assert diagnosis._driver(tmp_path / "none") == ""


def test_libraries() -> None:
    assert diagnosis._loads("libc.so.6")
    assert not diagnosis._loads("libno_such_library.so.1")
    assert not diagnosis._in_wheels("libno_such_library.so.1")


@pytest.mark.parametrize(
    ("version", "wanted", "within"),
    [
        ("2.21.0", ">=2.21,<2.22", True),
        ("2.22.0", ">=2.21,<2.22", False),
        ("2.9.1", ">=2.21", False),  # Compared by numbers, not by letters.
        ("3.15.1rc0", ">=3.15,<3.16", True),
        ("1.0", "", True),
    ],
)
def test_versions(version: str, wanted: str, within: bool) -> None:
    assert diagnosis._within(version, wanted) == within


def test_required_versions_are_those_of_the_package() -> None:
    wanted = diagnosis._wanted(("tensorflow", "keras"))
    assert {name: sorted(text.split(",")) for name, text in wanted.items()} == {
        "tensorflow": ["<2.22", ">=2.21"],
        "keras": ["<3.16", ">=3.15"],
    }


def test_another_version_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "_wanted", lambda names: {"keras": ">=4", "tensorflow": ">=2"})
    finding = diagnosis.packages()
    assert finding.state == BROKEN
    assert finding.advice == (
        "Trainers are tested with keras>=4 only. With other versions, an interrupted training may continue with other"
        " results. Run pip install 'keras>=4'."
    )


def test_another_backend_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    assert diagnosis.packages().advice.startswith("Set KERAS_BACKEND=tensorflow")


@pytest.mark.parametrize(("amount", "state"), [(64e9, FINE), (1e9, NOTE)])
def test_memory_and_disk(amount: float, state: str) -> None:
    assert diagnosis.memory(int(amount)).state == state
    assert diagnosis.disk(int(amount)).state == state
    assert bool(diagnosis.memory(int(amount)).advice) == (state == NOTE)


def test_memory_of_this_machine() -> None:
    assert 1e8 < diagnosis._memory_bytes() < 1e14


def test_a_wrong_convolution_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    right = tf.nn.conv2d
    monkeypatch.setattr(tf.nn, "conv2d", lambda *values: right(*values) * 1.01)
    finding = diagnosis.convolution()
    assert (finding.state, finding.result) == (BROKEN, "a sum of 72 ones is 72.72")


def test_error_of_a_check_is_its_result() -> None:
    def fails() -> diagnosis.Diagnosis:
        raise ImportError("libfoo.so.1: cannot open shared object file\nmore")

    finding = diagnosis._guarded("packages", fails)
    assert finding.state == BROKEN
    assert finding.result == "ImportError: libfoo.so.1: cannot open shared object file"
    assert "--force-reinstall" in finding.advice
