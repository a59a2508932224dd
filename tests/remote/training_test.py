"""Tests of commands on a dataset in a bucket: the same results as from files."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_network import BadNetwork
from image_sources import flip, history
from s3_bucket import Bucket

import trainers
from tfrecord_tools.errors import UserError
from tfrecord_tools.records import open_dataset
from tfrecord_tools.remote import opening
from tfrecord_tools.remote.interface import Patience
from tfrecord_tools.verify import VerifyConfig, verify

pytestmark = pytest.mark.usefixtures("no_fsync")
OF_BUCKETS = {"fetched_mb", "fetch_requests", "cache_hits", "fetch_wait"}
TINY: dict[str, Any] = {
    "backbone": "CNN",
    "backbone_kwargs": {"filters": (4, 8)},
    "image_size": 16,
    "epochs": 2,
    "cache": "off",
    "order": "blocks",
    "block": 8,
    "batch_size": 16,
}


def test_a_training_gives_the_same_model(url: str, pets: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    trainers.scratch(tfrecords=pets, run=tmp_path / "files", log=lambda line: None, **TINY)
    cache: dict[str, Any] = {"cache_dir": tmp_path / "cache", "cache_bytes": 300_000}
    trainers.scratch(tfrecords=url, run=tmp_path / "bucket", log=lines.append, **cache, **TINY)
    local, remote = history(tmp_path / "files"), history(tmp_path / "bucket")
    assert [{name: value for name, value in row.items() if name not in OF_BUCKETS} for row in remote] == local
    assert all(row.keys() >= OF_BUCKETS and float(row["fetched_mb"]) > 0 for row in remote)
    weights = [trainers.Run(tmp_path / name).model.get_weights() for name in ("files", "bucket")]
    assert all((a == b).all() for a, b in zip(*weights, strict=True))
    text = "\n".join(map(str, lines))
    assert f"data: {url} (images)" in text
    assert f"bucket: 0.9 MB of records, at most 0.3 MB in {tmp_path / 'cache'}" in text
    assert "an epoch fetches about" in text
    assert text.count("% of the records were there in time") == 2

    found = trainers.evaluate(
        run=tmp_path / "bucket", tfrecords=url, split="validation", log=lambda line: None, **cache
    )
    assert found.metrics["count"] == 40
    classified = trainers.predict(
        run=tmp_path / "bucket", tfrecords=url, split="validation", log=lambda line: None, **cache
    )
    np.testing.assert_allclose(classified.probabilities, found.predictions.probabilities, atol=1e-6)


def test_a_training_ends_with_the_reason(
    url: str, network: BadNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "PATIENCE", Patience(connect=1, stall=1, retry=1))
    network.fault = lambda number: "down" if number > 40 else ""
    with pytest.raises(UserError, match=r"images-train\.tfrecord-.*: the store cannot be reached, or it answered with"):
        trainers.scratch(
            tfrecords=url,
            run=tmp_path / "run",
            cache_dir=tmp_path / "cache",
            cache_bytes=100_000,
            log=lambda line: None,
            **TINY,
        )


def test_an_audit_finds_the_same(url: str, pets: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "features_from": "CNN",
        "backbone_kwargs": {"filters": (4, 8)},
        "weights": "none",
        "image_size": 16,
        "pictures": 4,
    }
    audits = []
    sources: dict[str, dict[str, Any]] = {
        "files": {"tfrecords": pets},
        "bucket": {"tfrecords": url, "cache_dir": tmp_path / "c"},
    }
    for name, source in sources.items():
        out: dict[str, Any] = {"out": tmp_path / name, "features": tmp_path / f"features-{name}"}
        lines: list[str] = []
        audits.append(trainers.audit(log=lines.append, **source, **out, **settings))
        update = f"--update_from={url} --out=NEW" if name == "bucket" else "--update"  # A bucket's dataset stays.
        assert lines[-1].endswith(f"tfrecord_tools.convert YOUR_FLAGS {update} --decisions=decisions.csv")
    assert (audits[0].probabilities == audits[1].probabilities).all()
    issues = [list(csv.DictReader((tmp_path / name / "issues.csv").open())) for name in ("files", "bucket")]
    assert issues[0] == issues[1]


def test_verify_finds_damage_in_a_bucket(url: str, bucket: Bucket, pets: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    settings: dict[str, Any] = {"cache_dir": str(tmp_path / "cache"), "decode": False, "workers": 2}
    assert verify(VerifyConfig(directory=url, **settings), log=lines.append) == []
    assert lines[-1].startswith(f"{url}: 280 records in ")
    shard = next(pets.glob("*-train.tfrecord-00001-*"))
    copy = tmp_path / shard.name
    copy.write_bytes(shard.read_bytes())
    flip(copy, 5000)
    bucket.put(f"pets/{shard.name}", copy.read_bytes())
    bucket.put("pets/images-train.tfrecord-00007-of-00009", b"stray")
    bucket.remove("pets/rejected.csv")
    problems = verify(VerifyConfig(directory=url, **settings), log=lines.append)
    assert len(problems) == 3
    assert problems[0] == "rejected.csv: does not exist"
    assert problems[1].startswith("images-train.tfrecord-00007-of-00009: a shard that does not belong to this dataset")
    assert problems[2].startswith(f"{shard.name}: record ")
    assert problems[2].endswith("wrong checksum or length")
    assert open_dataset(pets).records("train")[0]
