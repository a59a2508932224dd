"""Tests of the open issues that trainings and evaluations read from an audit."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_sources import converted, tree

from tfrecord_tools.errors import UserError
from tfrecord_tools.records import Dataset, Records, open_dataset
from trainers.auditing import audit_files, issues
from trainers.auditing.issues import ListedIssue
from trainers.fitting import inputs
from trainers.recipes import TrainConfig


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    workspace = tmp_path_factory.mktemp("audit_files")
    tree(workspace / "src", {f"{split}/{name}": 4 for split in ("train", "validation") for name in ("cats", "dogs")})
    converted(workspace / "src", workspace / "out")
    return workspace


def sha256(records: Records, number: int) -> str:
    return records.source_sha256[number].tobytes().hex()


def issue(kind: str, score: float, record: str, twin: str = "") -> ListedIssue:
    return ListedIssue(
        kind=kind, rank=1, score=score, split="train", record=0, path="", sha256=record, given_label="cats",
        proposed_label="", twin="", twin_sha256=twin, reason="",
    )  # fmt: skip


def write_audit(directory: Path, data: Dataset, rows: Sequence[ListedIssue]) -> Path:
    directory.mkdir(parents=True)
    issues.write(directory, rows)
    (directory / "audit.json").write_text(json.dumps({"digest": data.digest}))
    return directory


def test_both_images_of_an_open_near_duplicate_are_doubtful(workspace, tmp_path):
    data = open_dataset(workspace / "out")
    train, validation = data.records("train"), data.records("validation")
    rows = [
        issue("near_duplicate", 0.6, sha256(validation, 0), sha256(train, 1)),
        issue("near_duplicate", 0.4, sha256(train, 2), sha256(train, 3)),  # The same label and split.
        issue("rare", 0.9, sha256(train, 4), sha256(train, 5)),  # The twin is only shown beside it.
        issue("label", 0.49, sha256(train, 6)),
    ]
    doubts = audit_files.find(data, str(write_audit(tmp_path / "audit", data, rows)))
    assert doubts
    assert doubts.of(train).nonzero()[0].tolist() == [1, 4]
    assert doubts.of(validation).nonzero()[0].tolist() == [0]
    assert doubts.of(train, ["near_duplicate"]).nonzero()[0].tolist() == [1]
    assert doubts.kinds[sha256(train, 1)] == {"near_duplicate"}


def test_images_that_a_person_keeps_are_not_doubtful_any_more(workspace, tmp_path):
    data = open_dataset(workspace / "out")
    train = data.records("train")
    rows = [issue("label", 0.9, sha256(train, 1)), issue("label", 0.8, sha256(train, 2))]
    audit = str(write_audit(tmp_path / "audit", data, rows))
    with open(tmp_path / "decisions.csv", "w", newline="") as file:
        csv.writer(file).writerows([("sha256", "decision"), (sha256(train, 1), "keep")])
    shutil.copytree(workspace / "out", tmp_path / "out")
    converted(workspace / "src", tmp_path / "out", decisions=str(tmp_path / "decisions.csv"), update=True)
    kept = open_dataset(tmp_path / "out")
    assert kept.digest == data.digest  # The audit is still the audit of this dataset.
    before, after = audit_files.find(data, audit), audit_files.find(kept, audit)
    assert before
    assert after
    assert before.of(train).nonzero()[0].tolist() == [1, 2]
    assert after.of(kept.records("train")).nonzero()[0].tolist() == [2]
    assert before.sha256 != after.sha256  # A training that leaves out other records has other settings.


def test_only_the_records_that_are_left_out_belong_to_the_settings(workspace, tmp_path):
    """A training goes on after a decision about an image that it does not leave out anyway."""
    data = open_dataset(workspace / "out")
    train, validation = data.records("train"), data.records("validation")
    rows = [issue("label", 0.9, sha256(train, 1)), issue("label", 0.9, sha256(validation, 1))]
    rows += [issue("rare", 0.9, sha256(train, number)) for number in (1, 2)]
    audit = str(write_audit(tmp_path / "audit", data, rows))

    def decided(name: str, *kept: str) -> inputs.Splits:
        with open(tmp_path / "decisions.csv", "w", newline="") as file:
            csv.writer(file).writerows([("sha256", "decision"), *((one, "keep") for one in kept)])
        shutil.copytree(workspace / "out", tmp_path / name)
        converted(workspace / "src", tmp_path / name, decisions=str(tmp_path / "decisions.csv"), update=True)
        config = TrainConfig(tfrecords=str(tmp_path / name), audit=audit, drop_issues=["label"])
        return inputs.split(open_dataset(tmp_path / name), config, log=lambda line: None)

    before, unrelated = decided("a", sha256(train, 6)), decided("b", sha256(train, 2), sha256(validation, 1))
    related = decided("c", sha256(train, 1))
    assert before.dropped
    assert before.dropped.as_before
    assert before.dropped == unrelated.dropped != related.dropped
    assert len(related.train) == len(before.train) + 1


def test_a_pair_that_a_person_keeps_is_not_doubtful_and_its_labels_still_are(workspace, tmp_path):
    data = open_dataset(workspace / "out")
    train = data.records("train")
    one, other, third = (sha256(train, number) for number in (1, 2, 3))
    rows = [
        issue("near_duplicate", 0.9, one, other),
        issue("near_duplicate", 0.8, other, third),
        issue("label", 0.9, one),
    ]
    audit = str(write_audit(tmp_path / "audit", data, rows))
    with open(tmp_path / "decisions.csv", "w", newline="") as file:
        csv.writer(file).writerows([("sha256", "decision", "twin_sha256"), (other, "both", one)])
    shutil.copytree(workspace / "out", tmp_path / "out")
    converted(workspace / "src", tmp_path / "out", decisions=str(tmp_path / "decisions.csv"), update=True)
    doubts = audit_files.find(open_dataset(tmp_path / "out"), audit)
    assert doubts
    assert doubts.kinds == {one: {"label"}, other: {"near_duplicate"}, third: {"near_duplicate"}}


def test_an_unfinished_audit_in_the_default_directory_is_as_none(workspace, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = open_dataset(workspace / "out")
    directory = audit_files.default(data)
    directory.mkdir(parents=True)
    (directory / "audit.json").write_text(json.dumps(audit_files.UNFINISHED))
    lines: list[str] = []
    assert audit_files.find(data, None, lines.append) is None
    assert lines == [
        f"audit: the audit in {directory} is not finished, so it is not used. To finish this audit, run python -m"
        f" trainers.audit --tfrecords={workspace / 'out'}"
    ]
    with pytest.raises(UserError) as error:
        audit_files.find(data, str(directory))
    assert str(error.value) == (
        f"--audit={directory}: is not finished. Pass the directory of a finished audit. To make an audit, run python"
        f" -m trainers.audit --tfrecords={workspace / 'out'}"
    )


def cut_json(directory: Path) -> None:
    (directory / "audit.json").write_text('{"digest"')


def list_in_json(directory: Path) -> None:
    (directory / "audit.json").write_text("[1]")


def no_table(directory: Path) -> None:
    (directory / "issues.parquet").unlink()


def cut_table(directory: Path) -> None:
    (directory / "issues.parquet").write_bytes(b"PAR1")


def other_table(directory: Path) -> None:
    pq.write_table(pa.table({"kind": ["label"], "sha256": ["00"], "score": [0.9]}), directory / "issues.parquet")


def other_dataset(directory: Path) -> None:
    (directory / "audit.json").write_text(json.dumps({"digest": "0" * 64}))


@pytest.mark.parametrize("given", [True, False], ids=["--audit", "default"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_json, "is not an audit (it has no readable audit.json)"),
        (list_in_json, "is not an audit (it has no readable audit.json)"),
        (no_table, "issues.parquet cannot be read: "),
        (cut_table, "issues.parquet cannot be read: "),
        (other_table, "issues.parquet cannot be read: "),  # It has no column twin_sha256.
        (
            other_dataset,
            "is the audit of another dataset (its checksum starts with 00000000; the checksum of this dataset starts"
            " with ",
        ),
    ],
)
def test_errors_name_the_flag_only_if_it_was_passed(damage, message, given, workspace, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = open_dataset(workspace / "out")
    default = audit_files.default(data)
    damage(write_audit(default, data, [issue("label", 0.9, "00")]))
    with pytest.raises(UserError) as error:
        audit_files.find(data, str(default) if given else None)
    audit = f"python -m trainers.audit --tfrecords={workspace / 'out'}"
    where, advice = (
        (f"--audit={default}", f"Pass the directory of a finished audit. To make an audit, run {audit}")
        if given
        else (
            str(default),
            f"An audit in this directory is used by default. Run {audit} again, or delete the directory.",
        )
    )
    assert str(error.value).startswith(f"{where}: {message}")
    assert str(error.value).endswith(f". {advice}")
