"""Tests of paths that commands write: a URL is refused, and does not become a directory `s3:`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import trainers
from tfrecord_tools.adopt import AdoptConfig
from tfrecord_tools.base import options
from tfrecord_tools.errors import UserError
from tfrecord_tools.export import ExportConfig
from tfrecord_tools.preview import PreviewConfig
from tfrecord_tools.sample import draw_sample
from tfrecord_tools.show import ShowConfig
from tfrecord_tools.to_csv import CsvConfig
from trainers import predict

URL = "s3://bucket/new.png"


def _predict(csv: str) -> object:
    return options.checked(predict.OPTIONS, {"csv": csv})


@pytest.mark.parametrize(
    ("command", "flag", "given"),
    [
        (ExportConfig, "out", {"tfrecords": "out"}),
        (CsvConfig, "out", {"src": "images", "image_size": 8}),
        (PreviewConfig, "out", {"image": "1.jpg"}),
        (ShowConfig, "grid", {"path": "out"}),
        (draw_sample, "out", {}),
        (trainers.features, "run", {"tfrecords": "out"}),
        (trainers.features, "features", {"tfrecords": "out"}),
        (trainers.finetune, "run", {"tfrecords": "out"}),
        (trainers.audit, "out", {"tfrecords": "out"}),
        (trainers.audit, "features", {"tfrecords": "out"}),
        (trainers.compare, "out", {"tfrecords": "out"}),
        (trainers.evaluate, "out", {"run": "run"}),
        (trainers.export, "out", {"run": "run"}),
        (_predict, "csv", {}),
    ],
)
def test_a_url_is_refused(
    command: Callable[..., object], flag: str, given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        command(**given, **{flag: URL})
    assert str(caught.value) == (
        f"--{flag}={URL}: must be a path on this machine, not a URL. Pass such a path as --{flag}={flag.upper()}, and"
        " then copy the result with a tool of the store, such as aws s3 cp or rclone."
    )
    assert os.listdir(tmp_path) == []


def test_a_dataset_is_transferred_later() -> None:
    with pytest.raises(UserError) as caught:
        AdoptConfig(records="data", out="gs://bucket/pets")
    assert str(caught.value) == (
        "--out=gs://bucket/pets: must be a path on this machine, not a URL. Pass such a path as --out=OUT, and then run"
        " python -m tfrecord_tools.transfer OUT gs://bucket/pets."
    )
