"""Tests of the standard error of commands: TensorFlow's remarks are hidden, its errors are shown."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from image_sources import REPOSITORY, converted, with_splits

REMARKS = re.compile(
    r"oneDNN custom|absl::InitializeLog|cuda drivers|cuInit|cpu_feature_guard|^[IWE]0000 ", re.MULTILINE
)
TRAINING = ("--tfrecords=out", "--batch_size=8", "--strategy=none")
BACKBONE = ("--backbone=MobileNet", "--backbone_kwargs=alpha=0.25", "--image_size=32", "--weights=none")
COMMANDS = {
    "bench": ("tfrecord_tools.bench", "out", "--image_size=24", "--batch_size=4", "--seconds=0.1"),
    "preview": ("tfrecord_tools.preview", "--tfrecords=out", "--image_size=24"),
    "show": ("tfrecord_tools.show", "out"),
    "verify": ("tfrecord_tools.verify", "out"),  # PNGs are decoded by TensorFlow, in other processes.
    "to_csv": ("tfrecord_tools.to_csv", "--src=src", "--image_size=8", "--out=csv"),
    "export to folders": ("tfrecord_tools.export", "--tfrecords=out", "--out=folder"),
    "scratch": ("trainers.scratch", *TRAINING, "--image_size=24", "--epochs=1", "--run=other"),
    "features": ("trainers.features", *TRAINING, *BACKBONE, "--epochs=1", "--run=features"),
    "compare": ("trainers.compare", "--tfrecords=out", "--variant=scratch --image_size=24 --batch_size=8 --epochs=1"),
    "evaluate": ("trainers.evaluate", "--run=run", "--tfrecords=out", "--split=validation"),
    "predict": ("trainers.predict", "--run=run", "src/train/cats"),
    "export": ("trainers.export", "--run=run"),
    "doctor": ("trainers.doctor",),
}
QUICK = ("bench", "verify")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create src and out."""
    workspace = tmp_path_factory.mktemp("console")
    converted(with_splits(workspace / "src", train=16, validation=6), workspace / "out")
    return workspace


@pytest.fixture(scope="module")
def trained(workspace: Path) -> Path:
    """Add a run to src and out."""
    done = run(workspace, "trainers.scratch", *TRAINING, "--image_size=24", "--epochs=1", "--run=run")
    assert done.returncode == 0, done.stderr
    return workspace


def run(workspace: Path, module: str, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in an environment without settings of TensorFlow's log."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    return subprocess.run(
        [sys.executable, "-m", module, *flags],
        cwd=workspace,
        env={**inherited, "PYTHONPATH": str(REPOSITORY), **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def check(workspace: Path, name: str) -> None:
    done = run(workspace, *COMMANDS[name])
    assert done.returncode == 0, done.stderr
    assert not REMARKS.search(done.stderr + done.stdout), done.stderr


@pytest.mark.parametrize("name", QUICK)
def test_no_remarks(name: str, workspace: Path) -> None:
    check(workspace, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in QUICK])
def test_no_remarks_of_any_command(name: str, trained: Path) -> None:
    check(trained, name)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"TF_ENABLE_ONEDNN_OPTS": "abc"}, "TF_ENABLE_ONEDNN_OPTS is not set to either"),  # A warning of the import.
        ({"TF_CPP_MIN_LOG_LEVEL": "0"}, "oneDNN custom operations are on."),  # The user asks for all messages.
    ],
)
def test_other_messages_of_tensorflow_are_shown(environment: dict[str, str], expected: str, workspace: Path) -> None:
    done = run(workspace, *COMMANDS["bench"], **environment)
    assert done.returncode == 0
    assert expected in done.stderr


@pytest.mark.parametrize("redirection", ["2>/dev/null", "2>&-", "2>&1"])
def test_standard_error_may_be_anywhere(redirection: str, workspace: Path) -> None:
    command = (
        f"'{sys.executable}' -m tfrecord_tools.bench out --image_size=24 --batch_size=4 --seconds=0.1 {redirection}"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TF_CPP_MIN_LOG_LEVEL": "2"}
    done = subprocess.run(
        command, shell=True, cwd=workspace, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout.startswith("out: ")
    assert done.stdout.splitlines()[-1].startswith("bottleneck: ")


CRASH = """
import os, sys, types
sys.path.insert(0, {workspace!r})
from tfrecord_tools.base import console
console.quiet_tensorflow()
import tensorflow
"""


def test_messages_of_an_import_that_crashes_are_shown(tmp_path: Path) -> None:
    lines = [
        "I0000 00:00:1.5 1 port.cc:153] oneDNN custom operations are on. You may see",
        "F0000 00:00:1.5 1 cpu_feature_guard.cc:1] The TensorFlow library was compiled to use AVX instructions",
        "E0000 00:00:1.5 1 cuda_platform.cc:52] failed call to cuInit: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
    ]
    text = "\\n".join(lines)
    (tmp_path / "tensorflow.py").write_text(f'import os\nos.write(2, b"{text}")\nos.abort()\n')
    command = [sys.executable, "-c", CRASH.format(workspace=str(tmp_path))]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TF_CPP_MIN_LOG_LEVEL": "2"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == -6
    assert done.stderr == "\n".join(lines[1:])


@pytest.mark.parametrize("raises", ["", "raise ImportError"])
def test_objects_of_the_import_are_exempt_from_garbage_collection(raises: str, tmp_path: Path) -> None:
    module = f"""
        import gc, types
        assert not gc.isenabled()
        kept = [[] for _ in range(100_000)]
        config = types.SimpleNamespace(list_physical_devices=lambda: [])
        {raises}
    """
    (tmp_path / "tensorflow.py").write_text(textwrap.dedent(module))
    program = f"""
        import contextlib, gc, sys
        sys.path.insert(0, {str(tmp_path)!r})
        from tfrecord_tools.base import console
        console.quiet_tensorflow()
        assert gc.isenabled() and not gc.get_freeze_count()
        with contextlib.suppress(ImportError):
            import tensorflow
        assert gc.isenabled() and gc.get_freeze_count() > 100_000
    """
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TF_CPP_MIN_LOG_LEVEL": "2"}
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_import_of_the_library_changes_nothing() -> None:
    """Importing the library must not change the environment or the import hooks of a program."""
    program = (
        "import os, sys; before = dict(os.environ);"
        "import tfrecord_tools.bench, tfrecord_tools.preview, trainers, trainers.training_options, trainers.doctor;"
        "from tfrecord_tools.base import console; assert not console.is_quiet();"
        "assert before == dict(os.environ);"
        "assert 'tensorflow' not in sys.modules"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**environment, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
