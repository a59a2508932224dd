"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from drawn import tree, with_splits


@pytest.fixture
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test cuts the power; without waiting for the disk they are much faster."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def split_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """split/class/image: 10 training and 6 validation images. Tests that change it copy it."""
    return with_splits(tmp_path_factory.mktemp("split") / "pets")


@pytest.fixture(scope="module")
def class_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """class/image: 60 images."""
    return tree(tmp_path_factory.mktemp("class") / "pets", {"cats": 30, "dogs": 30})
