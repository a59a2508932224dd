"""Tests of the server that plays a bucket behind a slow network."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from image_sources import tree

from benchmarks.slow_store import Line, SlowStore
from tfrecord_tools.convert import ConvertConfig, convert
from tfrecord_tools.records import open_dataset


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Serve a directory as s3://bucket."""
    with SlowStore(tmp_path / "store", Line(0.001, 50e6)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
            monkeypatch.setenv(name, "any")
        (tmp_path / "store/bucket").mkdir(parents=True)
        yield tmp_path / "store/bucket"
        server.shutdown()


def test_a_dataset_in_a_store_that_cannot_list(bucket: Path, tmp_path: Path) -> None:
    """The server answers a listing with 404, so the objects are asked for by their names."""
    tree(tmp_path / "images", {"cats": 6, "dogs": 6})
    convert(ConvertConfig(src=str(tmp_path / "images"), out=str(bucket / "pets"), validation_fraction=0.25))
    local = open_dataset(bucket / "pets")
    remote = open_dataset("s3://bucket/pets", cache_dir=str(tmp_path / "cache"))
    for split in local.splits:
        numbers = range(len(local.records(split)))
        assert remote.records(split).serialized_batch(numbers) == local.records(split).serialized_batch(numbers)
