"""A dataset on an S3 server behind a network with faults."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from bad_network import BadNetwork
from image_sources import converted, image
from s3_bucket import Bucket

from tfrecord_tools.remote import opening
from tfrecord_tools.remote.interface import Patience


@pytest.fixture(scope="session")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of 240 training and 40 validation records of about 7 kB in several shards."""
    root = tmp_path_factory.mktemp("pets")
    for split, count in (("train", 120), ("validation", 20)):
        for name in ("cats", "dogs"):
            directory = root / "images" / split / name
            directory.mkdir(parents=True)
            for number in range(count):
                (directory / f"{number}.jpg").write_bytes(image(f"{split}{name}{number}", size=(72, 60 + number % 9)))
    converted(root / "images", root / "pets", shards=4)
    return root / "pets"


@pytest.fixture
def network(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[BadNetwork]:
    """The way to the server. It has no faults until a test sets `fault`."""
    proxy = BadNetwork(s3_server)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    monkeypatch.setattr(opening, "PATIENCE", Patience(connect=2, stall=0.5, retry=20))
    yield proxy
    proxy.stop()


@pytest.fixture
def url(pets: Path, bucket: Bucket, network: BadNetwork) -> str:
    """The URL of the dataset."""
    bucket.upload(pets, "pets")
    return f"{bucket.url}/pets"
