"""Fixtures that several test files share."""

from __future__ import annotations

import os

# Two processes run tests on two cores. With several threads each, they would be a third slower. Set before NumPy and
# TensorFlow are imported, also for the commands that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

import gc
import signal
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from image_sources import tree, with_splits
from s3_bucket import Bucket

# A shell's background jobs ignore Ctrl-C, and so would all commands that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Exempt all imported objects from garbage collection.

    TensorFlow has half a million objects. Collections that visit all of them take a fifth of the time of the tests.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test cuts the power; without waiting for the disk they are much faster."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """A local S3 server, found by the environment as any other is; `bucket` makes a bucket in it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        yield settings["AWS_ENDPOINT_URL"]
    server.stop()


@pytest.fixture
def bucket(s3_server: str, request: pytest.FixtureRequest) -> Bucket:
    """An empty bucket of the test's own."""
    bucket = Bucket(f"test-{zlib.crc32(request.node.nodeid.encode()):08x}")
    bucket.client.create_bucket(Bucket=bucket.name)
    return bucket


@pytest.fixture(scope="module")
def split_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """split/class/image: 10 training and 6 validation images. Tests that change it copy it."""
    return with_splits(tmp_path_factory.mktemp("split") / "pets")


@pytest.fixture(scope="module")
def class_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """class/image: 60 images."""
    return tree(tmp_path_factory.mktemp("class") / "pets", {"cats": 30, "dogs": 30})
