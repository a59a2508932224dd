"""Measure how much an audit helps: accuracy with wrong labels, and after a person has corrected them.

    python -m benchmarks.audit_loop --photos=DIRECTORY --weights=FILE

DIRECTORY has the splits train and validation. A share of the training labels is made wrong. The person is simulated:
each label issue with a score of at least 0.5 gets its right label or "keep". All steps are the commands of the user.
"""

from __future__ import annotations

import csv
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import flags

from tfrecord_tools.base import command
from tfrecord_tools.errors import UserError
from tfrecord_tools.records import open_dataset

RATE = 0.1
FLAGS = flags.FLAGS


def run(module: str, *arguments: str) -> str:
    """Run a command, and return its output."""
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{module}: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout


def wrong_labels(out: Path, seed: int) -> dict[str, str]:
    """Choose training images; return path -> wrong label."""
    data = open_dataset(out)
    records = data.records("train")
    random = np.random.default_rng(seed)
    rows = random.choice(len(records), round(RATE * len(records)), replace=False)
    shift = random.integers(1, len(data.class_names), len(rows))
    labels = (records.labels[rows] + shift) % len(data.class_names)
    return {records.paths[row]: data.class_names[label] for row, label in zip(rows.tolist(), labels.tolist())}


def right_labels(out: Path) -> dict[str, str]:
    """Return path -> label of all images."""
    data = open_dataset(out)
    splits = [data.records(split) for split in data.splits]
    return {path: data.class_names[label] for records in splits for path, label in zip(records.paths, records.labels)}


def write_manifest(out: Path, labels: Mapping[str, str], path: Path) -> Path:
    """Write a table of all images with their splits and the given labels; return its path."""
    data = open_dataset(out)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split"])
        for split in data.splits:
            writer.writerows([image, labels[image], split] for image in data.records(split).paths)
    return path


def decide(audit: Path, wrong: Mapping[str, str], right: Mapping[str, str], path: Path) -> tuple[int, int]:
    """Write the decisions of a person about all doubtful labels; return their number, and the corrections."""
    with open(audit / "issues.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == "label" and float(row["score"]) >= 0.5]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["sha256", "decision", "label"])
        for row in rows:
            is_wrong = row["path"] in wrong
            writer.writerow([row["sha256"], "label" if is_wrong else "keep", right[row["path"]] if is_wrong else ""])
    return len(rows), sum(row["path"] in wrong for row in rows)


def accuracy(out: Path, seed: int, name: Path, *more: str) -> float:
    """Train a head on features in the run directory `name`; return the accuracy on the validation split."""
    network = ("--backbone=MobileNetV2", "--image_size=160", f"--weights={FLAGS.weights}")
    run("trainers.features", f"--tfrecords={out}", f"--run={name}", f"--features={name.parent / 'features'}", *network,
        f"--seed={seed}", *more)  # fmt: skip
    value: float = json.loads((name / "metrics.json").read_text())["accuracy"]
    return value


def measure(seed: int, clean: Path, root: Path) -> dict[str, float]:
    """Return the accuracies of one seed, and what the person did."""
    out, decisions = root / f"out{seed}", root / f"decisions{seed}.csv"
    right, wrong = right_labels(clean), wrong_labels(clean, seed)
    # A manifest is used, because --relabel creates decisions, and the audit does not doubt the labels of decisions.
    manifest = write_manifest(clean, right | wrong, root / f"labels{seed}.csv")
    source = (f"--src={FLAGS.photos}", f"--manifest={manifest}", f"--out={out}")
    run("tfrecord_tools.convert", *source)
    before = accuracy(out, seed, root / f"before{seed}")
    audit = root / f"audit{seed}"
    run("trainers.audit", f"--tfrecords={out}", f"--out={audit}", f"--features={root / 'features'}", "--pictures=0",
        f"--weights={FLAGS.weights}", "--image_size=160")  # fmt: skip
    dropped = accuracy(out, seed, root / f"dropped{seed}", f"--audit={audit}", "--drop_issues=label")
    looked, corrected = decide(audit, wrong, right, decisions)
    run("tfrecord_tools.convert", *source, "--update", f"--decisions={decisions}")
    after = accuracy(out, seed, root / f"after{seed}")
    return {
        "wrong labels": before,
        "doubtful images left out": dropped,
        "corrected": after,
        "right labels": accuracy(clean, seed, root / f"clean{seed}"),
        "looked at": looked,
        "corrections": corrected,
        "planted": len(wrong),
    }


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        run("tfrecord_tools.convert", f"--src={FLAGS.photos}", f"--out={root / 'clean'}")
        rows = [measure(int(seed), root / "clean", root) for seed in FLAGS.seeds]
    for name in rows[0]:
        values = [row[name] for row in rows]
        shown = ", ".join(f"{value:.1%}" if value <= 1 else f"{value:.0f}" for value in values)
        mean = statistics.mean(values)
        command.say(f"{name:<26} {f'{mean:.1%}' if mean <= 1 else f'{mean:.0f}':>7}   ({shown})")


if __name__ == "__main__":
    flags.DEFINE_string("photos", None, "Directory of photographs with the splits train and validation.", required=True)
    flags.DEFINE_string(
        "weights", None, "Weights file of MobileNetV2 without its classification layers.", required=True
    )
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of the wrong labels and of the trainings.")
    command.run(main)
