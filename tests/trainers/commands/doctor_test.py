"""Tests of the command `python -m trainers.doctor`."""

from __future__ import annotations

import os
from pathlib import Path

from image_sources import REPOSITORY, run

CHECKS = ["packages", "GPU", "precision", "convolution", "XLA", "memory", "disk", "processors"]


def test_this_machine_can_train(tmp_path: Path) -> None:
    done = run("trainers.doctor", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [line.split(maxsplit=2) for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert [check for _, check, _ in lines] == CHECKS
    assert {state for state, _, _ in lines} <= {"fine", "note"}
    results = {check: text for _, check, text in lines}
    assert results["packages"].startswith("TensorFlow 2.21.")
    assert "GFLOP/s" in results["convolution"]


def test_broken_installation_is_reported_with_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow/__init__.py").write_text("raise ImportError('libfoo.so: cannot open shared object file')")
    path = os.pathsep.join([str(tmp_path), str(REPOSITORY)])
    done = run("trainers.doctor", cwd=tmp_path, env={"PYTHONPATH": path})
    assert done.returncode == 1
    assert "ImportError: libfoo.so: cannot open shared object file" in done.stdout
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: packages, GPU, precision, convolution, XLA: broken.")
    assert "fine    disk" in done.stdout  # The other checks still run.
