"""Tests of conversions into a bucket: the same bytes, kills, faults, and two conversions at once."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bad_network import BadNetwork
from image_sources import REPOSITORY, contents, converted, draw, image, run, start, tree, with_splits
from killed_runs import many_images
from local_dask import until
from s3_bucket import Bucket

import tfrecord_tools
from tfrecord_tools.base import workers
from tfrecord_tools.conversion import bucket_objects, bucket_workspace, upload_shards, write_shards
from tfrecord_tools.conversion.bucket_workspace import BucketWorkspace
from tfrecord_tools.convert import ConvertConfig, convert
from tfrecord_tools.errors import UserError
from tfrecord_tools.layout.dataset_files import CLAIM, CONVERT_JSON
from tfrecord_tools.remote.by_obstore import ObjectStore
from tfrecord_tools.remote.interface import Exists, Patience
from tfrecord_tools.verify import VerifyConfig, verify

MODULE = "tfrecord_tools.convert"
TIMES = int(os.environ.get("TFRECORD_TOOLS_RACES", "4"))  # Races of each kind.

pytestmark = pytest.mark.usefixtures("no_fsync")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with the images `pets`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tree(tmp_path / "pets", {"cats": 15, "dogs": 15})
    return tmp_path


def problems(url: str, place: Path) -> list[str]:
    config = VerifyConfig(directory=url, cache_dir=str(place / "cache"), decode=False, workers=1)
    return verify(config, log=lambda line: None)


def lines_of(**settings: Any) -> list[str]:
    """Convert `pets` in this process, and return the lines of the report."""
    lines: list[str] = []
    given: dict[str, Any] = {"src": "pets", "workers": 1, "shards": 4} | settings
    convert(ConvertConfig(**given), lines.append)
    return lines


# --- The same bytes ------------------------------------------------------------------------------------------------


def with_bad_files(place: Path) -> dict[str, Any]:
    (place / "pets/cats/bad.jpg").write_bytes(b"<html>")
    (place / "pets/cats/junk.jpg").write_bytes(b"junk" * 4 + image("junk"))
    return {"on_bad_image": "repair", "max_bad": 0.2, "verify": "header"}


def with_manifest(place: Path) -> dict[str, Any]:
    rows = [f"{path.relative_to(place / 'pets')},{path.parent.name}" for path in sorted(place.glob("pets/*/*"))]
    (place / "labels.csv").write_text("path,label\n" + "\n".join(rows[::2]) + "\n")
    return {"manifest": "labels.csv", "validation_fraction": 0.3, "test_fraction": 0.2}


def with_decisions(place: Path) -> dict[str, Any]:
    shutil.copy(place / "pets/cats/000.jpg", place / "pets/cats/copy.jpg")
    (place / "relabel.csv").write_text("path,label\ncats/001.jpg,dogs\n")
    return {"relabel": "relabel.csv", "duplicates": "drop", "near_duplicates": "group"}


@pytest.mark.parametrize(
    "prepare",
    [
        lambda place: {},
        lambda place: {"src": str(with_splits(place / "splits")), "shards": None},
        lambda place: {"resize": 8, "resize_mode": "exact", "store": "jpeg", "quality": 80, "shards": 7},
        lambda place: {"resize": 8, "resize_mode": "center_crop", "store": "raw"},
        with_bad_files,
        with_manifest,
        with_decisions,
    ],
    ids=["folder", "splits", "resize", "raw", "bad files", "manifest", "decisions"],
)
def test_objects_are_the_files_of_a_local_conversion(
    prepare: Callable[[Path], dict[str, Any]], bucket: Bucket, place: Path
) -> None:
    settings = prepare(place)
    local = lines_of(out="local", **settings)
    lines = lines_of(out=f"{bucket.url}/deep/pets/", **settings)
    assert bucket.contents("deep/pets") == contents(place / "local")
    shown = [line.replace("local/:", f"{bucket.url}/deep/pets:").rpartition(";")[0] for line in local]
    assert [line.rpartition(";")[0] for line in lines] == shown
    assert not (place / "pets.partial").exists()
    assert problems(f"{bucket.url}/deep/pets", place) == []


def test_python_returns_the_dataset_in_the_bucket(place: Path) -> None:
    converted(place / "pets", place / "local", shards=4)
    data = tfrecord_tools.convert(
        src="pets", out=f"file://{place}/a%20bucket/pets", shards=4, work_dir=place / "work", log=lambda line: None
    )
    assert contents(place / "a bucket/pets") == contents(place / "local")
    assert data.location == f"file://{place}/a%20bucket/pets"
    assert sum(data.splits.values()) == 30
    assert data.records("train")[0]["image"]
    assert not (place / "work").exists()


def test_the_command_runs_workers_and_its_dry_run_writes_nothing(bucket: Bucket, place: Path) -> None:
    converted(place / "pets", place / "local", shards=4)
    flags = ["--src=pets", f"--out={bucket.url}/pets", "--workers=2", "--shards=4"]
    done = run(MODULE, *flags, "--dry_run", cwd=place)
    assert (done.returncode, done.stderr, bucket.contents("pets")) == (0, "", {})
    done = run(MODULE, *flags, cwd=place)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].startswith(f"{bucket.url}/pets: 30 records in 4 shards, ")
    assert bucket.contents("pets") == contents(place / "local")
    assert sorted(os.listdir(place)) == ["local", "pets"]


def test_no_shard_stays_on_this_machine(bucket: Bucket, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[int] = []
    original = upload_shards.complete_shard

    def complete(job: Any) -> int:
        found.append(len(list(job.shard_path.parent.glob("*.tfrecord-*"))))
        return original(job)

    monkeypatch.setattr(upload_shards, "complete_shard", complete)
    lines_of(out=f"{bucket.url}/pets", shards=10)
    assert found == [0] * 10


# --- Update --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["same store", "other store", "directory", "into a directory"])
def test_update_equals_a_local_update(kind: str, bucket: Bucket, network: BadNetwork, place: Path) -> None:
    settings = {"seed": 3, "shard_bytes": 4000, "shards": None}
    lines_of(out="local", **settings)
    shutil.copytree("local", "before")
    url = f"file://{place}/other" if kind == "other store" else f"{bucket.url}/before"
    lines_of(out=url, **settings)
    draw(place / "pets/cats/new.jpg")
    lines_of(out="local", update=True, shards=None)
    lines = lines_of(
        out="updated" if kind == "into a directory" else f"{bucket.url}/after",
        update_from="before" if kind == "directory" else url,
        shards=None,
    )
    unchanged = len(list(place.glob("before/*.tfrecord-*")))
    assert f"({unchanged:,} unchanged)" in lines[-1]
    updated = contents(place / "updated") if kind == "into a directory" else bucket.contents("after")
    assert updated == contents(place / "local")
    uploads = [(path, size) for method, path, size in network.requests if method == "PUT" and "/after/" in path]
    sent = {path.rpartition("/")[2]: size for path, size in uploads if ".tfrecord-" in path and "?" not in path}
    if kind == "same store":  # The other shards are copied by the store: only their names are sent.
        assert len(sent) == 1
        assert sum(size for path, size in uploads if "uploadId" in path) == 0
        assert sum("uploadId" in path for path, _ in uploads) == unchanged
    elif kind != "into a directory":
        assert len(sent) == unchanged + 1


def test_update_without_changes_is_a_copy(bucket: Bucket, place: Path) -> None:
    lines_of(out=f"{bucket.url}/before")
    lines_of(out=f"{bucket.url}/after", update_from=f"{bucket.url}/before", shards=None)
    assert bucket.contents("after") == bucket.contents("before")


def test_dry_run_of_an_update(bucket: Bucket, place: Path) -> None:
    lines_of(out=f"{bucket.url}/before", seed=5)
    draw(place / "pets/cats/new.jpg")
    lines = lines_of(out=f"{bucket.url}/after", update_from=f"{bucket.url}/before", shards=None, dry_run=True)
    assert "31 images" in lines[0]
    assert bucket.contents("after") == {}


def test_update_keeps_decisions(bucket: Bucket, place: Path) -> None:
    (place / "relabel.csv").write_text("path,label\ncats/001.jpg,dogs\n")
    lines_of(out=f"{bucket.url}/before", relabel="relabel.csv")
    draw(place / "pets/cats/new.jpg")
    lines = lines_of(out=f"{bucket.url}/after", update_from=f"{bucket.url}/before", shards=None)
    assert any(f"1 decision in {bucket.url}/before stay in effect" in line for line in lines)
    after = json.loads(bucket.contents("after")[CONVERT_JSON])
    assert [entry["label"] for entry in after["decisions"]] == ["dogs"]


# --- Kills and faults ----------------------------------------------------------------------------------------------


class Crash(BaseException):
    """Ends a conversion, as a kill does."""


class Operations:
    """Counts the operations on stores and removals of files, and ends the conversion after one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, removals: bool):
        self.done, self.last = 0, -1
        for name in ("head", "get", "list", "put", "copy", "delete"):
            monkeypatch.setattr(ObjectStore, name, self._counted(getattr(ObjectStore, name)))
        for owner, name in ((shutil, "rmtree"), (Path, "unlink")) if removals else ():
            monkeypatch.setattr(owner, name, self._counted(getattr(owner, name)))

    def crash_after(self, last: int) -> None:
        self.done, self.last = 0, last

    def _counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            self.done += 1
            number = self.done
            try:
                return function(*args, **options)
            finally:
                if number == self.last:
                    raise Crash

        return counted


@pytest.mark.parametrize(
    ("updates", "machine"),
    [
        (False, "same"),
        pytest.param(True, "other", marks=pytest.mark.slow),
        pytest.param(False, "other", marks=pytest.mark.slow),
        pytest.param(True, "same", marks=pytest.mark.slow),
    ],
)
def test_a_conversion_continues_after_an_end_at_any_operation(
    updates: bool, machine: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines_of(out="local", shards=3)
    lines_of(out=f"file://{place}/before", shards=3)
    if updates:
        draw(place / "pets/cats/new.jpg")
        lines_of(out="local", update=True, shards=None)
    expected = contents(place / "local")
    operations = Operations(monkeypatch, removals=machine == "same")  # Another machine does not see them.
    ended = 0
    for last in range(1, 300):
        out = place / f"bucket/{last}"
        settings: dict[str, Any] = {"out": f"file://{out}", "work_dir": "work", "shards": 3}
        if updates:
            settings |= {"update_from": f"file://{place}/before", "shards": None}
        operations.crash_after(last)
        try:
            lines_of(**settings)
        except Crash:
            ended += 1
        else:
            break
        found = {name: data for name, data in contents(out).items() if name != CLAIM} if out.exists() else {}
        assert found == expected or (CONVERT_JSON not in found and found.items() <= expected.items())
        operations.crash_after(-1)
        if machine == "other":
            shutil.rmtree("work", ignore_errors=True)
        if CONVERT_JSON in found and not Path("work/commit.json").exists():
            with pytest.raises(UserError, match="the dataset exists"):
                lines_of(**settings)
            (out / CLAIM).unlink(missing_ok=True)
        else:
            lines_of(**settings)
        assert contents(out) == expected
        assert not Path("work").exists()
    assert 20 < ended < 299


def test_killed_conversions_continue(bucket: Bucket, network: BadNetwork, tmp_path: Path) -> None:
    many_images(tmp_path, files=800)
    expected = contents(tmp_path / "local")
    flags = ["--src=pets", f"--out={bucket.url}/pets", "--shards=40", "--workers=2"]
    for machine, count in (("one", 4), ("one", 9), ("two", 14)):

        def is_far(place: Path = tmp_path / machine, count: int = count) -> bool:
            return len(list(place.glob("index/*.json"))) >= count

        with start(MODULE, *flags, f"--work_dir={machine}", cwd=tmp_path) as process:
            until(is_far)
            process.kill()
        assert CONVERT_JSON not in bucket.contents("pets")
    kept = {name for name in bucket.contents("pets") if ".tfrecord-" in name}
    assert len(kept) >= 14
    network.requests.clear()
    done = run(MODULE, *flags, "--work_dir=three", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "continuing the conversion that began" in done.stdout
    assert bucket.contents("pets") == expected
    sent = {path.rpartition("/")[2] for method, path, _ in network.requests if method == "PUT"}
    assert not sent & kept  # Shards that are there are read and compared.


@pytest.mark.parametrize(
    "name", [CLAIM, "pets-train.tfrecord-00001-of-00003", "records.parquet", CONVERT_JSON, "copied shard"]
)
def test_a_write_without_an_answer_counts(name: str, bucket: Bucket, network: BadNetwork, place: Path) -> None:
    lines_of(out="local")
    lines_of(out=f"{bucket.url}/before")
    lost = set()

    def rule(method: str, path: str) -> str:
        is_it = method == "POST" and "uploadId" in path if name == "copied shard" else method == "PUT" and name in path
        if is_it and path not in lost:
            lost.add(path)
            return "lost"
        return ""

    network.rule = rule
    lines_of(out=f"{bucket.url}/pets", shards=None, update_from=f"{bucket.url}/before") if name == "copied shard" else (
        lines_of(out=f"{bucket.url}/pets")
    )
    assert lost
    assert bucket.contents("pets") == contents(place / "local")


@pytest.mark.parametrize("fault", ["busy", "closed", "lost", "cut", "wrong"])
def test_each_tenth_request_fails(fault: str, bucket: Bucket, network: BadNetwork, place: Path) -> None:
    lines_of(out="local", shards=12)
    network.rule = lambda method, path: fault if len(network.requests) % 10 == 0 else ""
    lines_of(out=f"{bucket.url}/pets", shards=12)
    network.rule = lambda method, path: ""
    assert network.faults[fault] > 3
    assert bucket.contents("pets") == contents(place / "local")


# --- Other conversions and other objects ---------------------------------------------------------------------------

WORKER = """
import json, sys, time
from tfrecord_tools.convert import ConvertConfig, convert
from tfrecord_tools.errors import UserError
for line in sys.stdin:
    settings = json.loads(line)
    time.sleep(settings.pop("delay"))
    try:
        convert(ConvertConfig(**settings), lambda line: None)
        print("finished", flush=True)
    except UserError as error:
        print(json.dumps(str(error)), flush=True)
"""


@pytest.fixture
def pair(bucket: Bucket, place: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Two processes that convert when they read settings."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    pair = [subprocess.Popen([sys.executable, "-c", WORKER], cwd=place, env=environment, **pipes) for _ in "ab"]
    yield pair
    for process in pair:
        process.send_signal(signal.SIGKILL)
        process.communicate()


def race(pair: list[subprocess.Popen[str]], settings: list[dict[str, Any]]) -> list[str]:
    """Start two conversions together. Return their outcomes."""
    for process, given in zip(pair, settings):
        assert process.stdin is not None
        process.stdin.write(json.dumps({"src": "pets", "workers": 1, "shards": 6} | given) + "\n")
        process.stdin.flush()
    return [process.stdout.readline().strip() for process in pair if process.stdout is not None]


def delays(number: int) -> list[float]:
    """Return how long both conversions wait. They take 0.5 s. In a third of the races, both begin at once."""
    late = random.Random(number)
    return [late.uniform(0, 0.6) if number % 3 == which else 0.0 for which in (1, 2)]


def test_of_two_conversions_with_different_settings_one_finishes(
    bucket: Bucket, pair: list[subprocess.Popen[str]], place: Path
) -> None:
    settings = [{"seed": 0}, {"seed": 1, "shards": 5}]
    for number, one in enumerate(settings):
        lines_of(out=f"local{number}", **({"shards": 6} | one))
    messages = []
    for number in range(TIMES):
        url = f"{bucket.url}/{number}/pets"
        given = [
            one | {"out": url, "work_dir": f"work/{number}/{which}", "delay": delay}
            for which, (one, delay) in enumerate(zip(settings, delays(number)))
        ]
        outcomes = race(pair, given)
        assert outcomes.count("finished") == 1, outcomes
        winner = outcomes.index("finished")
        assert bucket.contents(f"{number}/pets") == contents(place / f"local{winner}")
        assert problems(url, place) == []
        message = json.loads(outcomes[1 - winner])
        taken = f"--out={url}: another conversion with other settings ("
        assert message.startswith((taken, f"--out={url}: the dataset exists. "))
        messages.append(message)
    assert any("Choose another --out. If the other conversion does not run any more" in text for text in messages)


def test_two_conversions_with_equal_settings_write_one_dataset(
    bucket: Bucket, pair: list[subprocess.Popen[str]], place: Path
) -> None:
    lines_of(out="local", shards=6)
    for number in range(TIMES):
        url = f"{bucket.url}/{number}/pets"
        outcomes = race(
            pair,
            [
                {"out": url, "work_dir": f"work/{number}/{which}", "delay": delay}
                for which, delay in enumerate(delays(number))
            ],
        )
        assert "finished" in outcomes
        late = [json.loads(outcome) for outcome in outcomes if outcome != "finished"]
        assert all(message.startswith(f"--out={url}: the dataset exists. ") for message in late)
        assert bucket.contents(f"{number}/pets") == contents(place / "local")
        assert problems(url, place) == []


def claimed(place: Path, url: str, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
    """Begin a conversion, and end it when it has written a shard."""

    def stop(bucket: object, job: object) -> int:
        upload(bucket, job)
        raise Crash

    upload: Any = upload_shards.upload_shard
    with monkeypatch.context() as patch:
        patch.setattr("tfrecord_tools.convert.upload_shard", stop)
        with pytest.raises(Crash):
            lines_of(out=url, **settings)


def test_an_unfinished_conversion_with_other_settings_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"file://{place}/there"
    claimed(place, url, monkeypatch, work_dir="first")
    before = contents(place / "there")
    assert len(before) == 2
    message = (
        rf"^--out={url}: another conversion with other settings \(seed was 0 and is 7\) writes or wrote there\. It"
        r" began 2\d\d\d-\S+ on .+ \(process \d+\)\. Nothing there was changed\. Choose another --out\. If the other"
        rf" conversion does not run any more, finish it with its own command, or delete all objects below {url}\.$"
    )
    with pytest.raises(UserError, match=message):
        lines_of(out=url, work_dir="second", seed=7)
    draw(place / "pets/cats/new.jpg")
    with pytest.raises(UserError, match=rf"^--out={url}: another conversion of other files, or with other decisions "):
        lines_of(out=url, work_dir="second")
    (place / "pets/cats/new.jpg").unlink()
    monkeypatch.setattr(tfrecord_tools, "__version__", "9.9")
    with pytest.raises(UserError, match=r"conversion with other versions \(tfrecord_tools was '.*' and is '9\.9'\)"):
        lines_of(out=url, work_dir="third")
    assert contents(place / "there") == before


def test_readers_do_not_open_an_unfinished_dataset(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"file://{place}/there"
    with pytest.raises(
        UserError, match=rf"^{url}: is not a dataset .* run python -m tfrecord_tools\.transfer OUT {url}$"
    ):
        tfrecord_tools.open(url)
    claimed(place, url, monkeypatch, work_dir="work")
    with pytest.raises(
        UserError,
        match=rf"^{url}: is not a dataset yet\. A conversion is writing it \(it began 2\S+ on .+ \(process \d+\)\)\."
        r" Wait until it ends\. If it does not run any more, run its command again\.$",
    ):
        tfrecord_tools.open(url)
    for name in ("pets-train.tfrecord-00000-of-00003", "pets-train.tfrecord-00001-of-00003.tmp"):
        (place / "work/data" / name).write_bytes(b"left by a worker that was killed")
    lines_of(out=url, work_dir="work")
    lines_of(out="local")
    assert contents(place / "there") == contents(place / "local")


def test_a_damaged_claim_is_named(place: Path) -> None:
    (place / "there").mkdir()
    for content in (b"[]", b"{}", b"\xff"):
        (place / "there" / CLAIM).write_bytes(content)
        message = r"there/convert\.claim\.json: is damaged \(.*\)\. Choose another --out, or delete all objects below f"
        with pytest.raises(UserError, match=message):
            lines_of(out=f"file://{place}/there")


def test_the_workspace_of_another_place_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claimed(place, f"file://{place}/a/out", monkeypatch)
    message = (
        rf"out\.partial holds an unfinished conversion into file://{place}/a/out\. Finish that conversion first, delete"
        r" \S*out\.partial, or choose another "
    )
    with pytest.raises(UserError, match=message + "--work_dir"):
        lines_of(out=f"file://{place}/b/out")
    with pytest.raises(UserError, match=message + "--out"):
        lines_of(out="out")


def in_the_way(place: Path, name: str, data: bytes) -> str:
    (place / "there").mkdir(exist_ok=True)
    (place / "there" / name).write_bytes(data)
    return f"file://{place}/there"


def test_an_object_of_somebody_else_is_not_replaced(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, original = f"file://{place}/there", bucket_workspace.BucketWorkspace._claim
    for name, data in (("pets-train.tfrecord-00000-of-00003", b"mine"), ("features.json", b"{}")):
        shutil.rmtree("there", ignore_errors=True)
        shutil.rmtree("work", ignore_errors=True)

        def claim(*arguments: Any, name: str = name, data: bytes = data) -> bool:
            new = original(*arguments)
            in_the_way(place, name, data)  # After the look into the bucket.
            return new

        with monkeypatch.context() as patch:
            patch.setattr(bucket_workspace.BucketWorkspace, "_claim", claim)
            message = (
                rf"^{url}/{name}: exists already, with other content than this conversion writes\. Another conversion"
                r" writes or wrote there\. Nothing there was changed\. Choose another --out, or delete all objects"
                rf" below {url} if nobody needs them\."
            )
            with pytest.raises(UserError, match=message):
                lines_of(out=url, work_dir="work")
        assert (place / "there" / name).read_bytes() == data
        assert not (place / "there" / CONVERT_JSON).exists()


@pytest.mark.parametrize("change", [b"", b"other", None], ids=["empty", "changed", "deleted"])
def test_an_object_that_is_lost_before_the_end_is_found(
    change: bytes | None, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, victim = f"file://{place}/there", place / "there/pets-train.tfrecord-00001-of-00003"
    original = bucket_objects.BucketObjects.put

    def put(self: Any, name: str, data: Any) -> Any:
        if name == "records.parquet":
            victim.unlink()
            if change is not None:
                victim.write_bytes(change)
        return original(self, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(bucket_objects.BucketObjects, "put", put)
        state = "is missing" if change is None else "was changed"
        with pytest.raises(UserError, match=rf"/{victim.name}: {state} after it was uploaded\. Check that .* work"):
            lines_of(out=url, work_dir="work")
    assert not (place / "there" / CONVERT_JSON).exists()
    victim.unlink(missing_ok=True)
    shutil.rmtree("work")
    lines_of(out=url, work_dir="work")
    lines_of(out="local")
    assert contents(place / "there") == contents(place / "local")


def test_shards_that_are_there_are_compared_without_the_source(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"file://{place}/there"
    claimed(place, url, monkeypatch, work_dir="first")
    (shard,) = place.glob("there/*.tfrecord-*")
    monkeypatch.setattr(write_shards, "_READ_BYTES", 300)
    written: set[str] = set()
    original = write_shards._read_image

    def read_image(job: Any, number: int) -> bytes:
        written.add(job.shard_path.name)
        return original(job, number)

    with monkeypatch.context() as patch:
        patch.setattr(write_shards, "_read_image", read_image)
        lines_of(out=url, work_dir="second", max_bad=0.01)
    assert written == {path.name for path in place.glob("there/*.tfrecord-*")} - {shard.name}
    lines_of(out="local", max_bad=0.01)
    assert contents(place / "there") == contents(place / "local")
    # Each changed byte is found.
    data = shard.read_bytes()
    shutil.rmtree("there")
    claimed(place, url, monkeypatch, work_dir="third")
    for position in (0, 9, 30, len(data) // 2, len(data) - 2):
        changed = bytearray(data)
        changed[position] ^= 1
        shard.write_bytes(changed)
        with pytest.raises(UserError, match=rf"{shard.name}: exists already, with other content"):
            lines_of(out=url, work_dir="fourth", max_bad=0.01)


# --- Refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"out": "hf://datasets/a/b"},
            r"^--out=hf://datasets/a/b: a store hf:// cannot create objects under the condition that they do not exist,"
            r" so two conversions could mix their objects\. Allowed are s3://, gs://, az:// and file://\. Convert into"
            r" a local directory, then copy it: python -m tfrecord_tools\.transfer DIRECTORY hf://datasets/a/b$",
        ),
        ({"out": "memory://x"}, r"^--out=memory://x: a store memory:// cannot"),
        (
            {"out": "s3://bucket/"},
            r"^--out=s3://bucket/: has no path in a bucket\. All objects of the bucket would belong to the dataset,"
            r" also those of datasets that are written later\. Pass a URL such as s3://bucket/pets\.$",
        ),
        ({"out": "s3://"}, r"^--out=s3://: has no path in a bucket\."),
        (
            {"out": "s3://b/p", "overwrite": True},
            r"^--out=s3://b/p: a dataset in a bucket is never replaced, because others may read it\. Choose another"
            r" --out and remove --overwrite, or delete all objects there with a tool for the bucket\.$",
        ),
        (
            {"out": "s3://b/p", "update": True},
            r"^--out=s3://b/p: a dataset in a bucket is never changed, because others may read it\. To write the"
            r" updated dataset to another place, replace --update by --update_from=s3://b/p, and choose another"
            r" --out\.$",
        ),
        (
            {"out": "s3://b/p", "work_dir": "s3://b/w"},
            r"^--work_dir=s3://b/w: must be a directory on this machine\.$",
        ),
        (
            {"out": "out", "work_dir": "w"},
            r"^--work_dir=w: only a conversion into a bucket uses it\. The unfinished files of a conversion into a"
            r" directory are next to --out=out\. Remove --work_dir\.$",
        ),
        (
            {"update_from": "a", "overwrite": True},
            r"^--update_from=a: cannot be combined with --overwrite, because it writes a new dataset\. Remove one of",
        ),
        ({"update_from": "a", "update": True}, r"^--update_from=a: cannot be combined with --update, because"),
        (
            {"update_from": "s3://b/p/", "out": "s3://b/p"},
            r"^--update_from=s3://b/p/: is also --out\. Choose another --out, or use --update to change the dataset in"
            r" a directory\.$",
        ),
    ],
)
def test_contradicting_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ConvertConfig(src="pets", **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"src": "s3://b/p", "out": "s3://b/p/x"}, r"^--out=s3://b/p/x: is inside --src=s3://b/p, so the files of"),
        ({"src": "s3://b/p", "out": "s3://b/p"}, r"^--out=s3://b/p: is inside --src=s3://b/p, so the files of"),
        ({"out": "file://{place}/pets/x"}, r"^--out=.*/pets/x: is inside --src=pets, so the files of the dataset"),
        (
            {"out": "s3://b/p", "work_dir": "."},
            r"^--work_dir=\.: contains --src=pets, so the images would be among unfinished files\. ",
        ),
        ({"out": "s3://b/p", "work_dir": "pets/w"}, r"^--work_dir=pets/w: is inside --src=pets, so the files of the"),
    ],
)
def test_places_inside_each_other_are_refused(settings: dict[str, Any], message: str, place: Path) -> None:
    settings["out"] = settings["out"].format(place=place)
    with pytest.raises(UserError, match=message):
        lines_of(**settings)


def test_a_dataset_and_other_objects_are_refused_before_the_images_are_read(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines_of(out=f"file://{place}/there")
    before = contents(place / "there")
    monkeypatch.setattr("tfrecord_tools.convert.scan", lambda config: pytest.fail("The source was read."))
    message = (
        r"there: the dataset exists\. A dataset in a bucket is never replaced, because others may read it\. Choose"
        r" another --out, or delete all objects there first\.$"
    )
    with pytest.raises(UserError, match=message):
        lines_of(out=f"file://{place}/there")
    assert contents(place / "there") == before
    (place / "there" / CONVERT_JSON).unlink()
    message = r"there: contains card\.html, and is not a dataset of this tool\. Nothing was changed\. Choose another --"
    with pytest.raises(UserError, match=message):
        lines_of(out=f"file://{place}/there")
    assert not (place / "there.partial").exists()
    with pytest.raises(UserError, match=r"no-images"):  # A mistyped --src comes first.
        lines_of(src="no-images", out=f"file://{place}/there")


@pytest.mark.parametrize("limit", [600, None])
def test_too_large_objects_are_refused(limit: int | None, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_workspace, "LARGEST", limit or 7000)
    message = (
        r"there: a shard would have [\d.]+ k?B, but an object in a bucket may have only 600 B if it must not replace"
        r" another one\. Pass a smaller --shard_bytes, or more --shards\."
        if limit
        else r"there: the index of 30 records would be too large for an object that must not replace another one\. 28"
        r" records are allowed\. Convert into a local directory, then copy it: python -m tfrecord_tools\.transfer DIR"
    )
    with pytest.raises(UserError, match=message):
        lines_of(out=f"file://{place}/there", shards=2 if limit else 30)
    assert not (place / "there").exists()


def test_a_full_disk_is_found_before_anything_is_written(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = sum(path.stat().st_size for path in place.glob("pets/*/*")) // 2
    usage = type("Usage", (), {"free": free})()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    lines_of(out=f"file://{place}/there", shards=10)  # One shard at a time fits.
    message = r"there2\.partial: .* are free\. Delete files .* again, or choose a --work_dir on another disk\."
    with pytest.raises(UserError, match=message):
        lines_of(out=f"file://{place}/there2", shards=2)


IMPATIENT = Patience(connect=1, stall=1, retry=0.5)


@pytest.mark.parametrize(
    ("environment", "rule", "message"),
    [
        (
            {},
            lambda method, path: "denied" * (method == "PUT"),
            r"convert\.claim\.json: access is denied \(AccessDenied: Access Denied\)\. Set AWS_ACCESS_KEY_ID and",
        ),
        (
            {},
            lambda method, path: "replaced",
            r"^--out=\S+/pets: the store replaces objects although it is asked not to \(If-None-Match: \*\), so two"
            r" conversions could mix their objects\. Convert into a local directory, then copy it: python -m ",
        ),
        ({"AWS_ACCESS_KEY_ID": ""}, None, r"pets: no credentials were found\. Set AWS_ACCESS_KEY_ID and AWS_SECRET"),
        (
            {},
            lambda method, path: "closed",
            r"/pets/convert\.json: the store cannot be reached, or it answered with errors for 0 s\.",
        ),
    ],
    ids=["denied", "no condition", "no credentials", "unreachable"],
)
def test_errors_of_the_store(
    environment: dict[str, str],
    rule: Callable[[str, str], str] | None,
    message: str,
    bucket: Bucket,
    network: BadNetwork,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.setattr(bucket_workspace, "SHORT", IMPATIENT)
    monkeypatch.setattr(bucket_objects, "PATIENCE", IMPATIENT)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if rule is not None:
        network.rule = rule
    with pytest.raises(UserError, match=message):
        lines_of(out=f"{bucket.url}/pets")
    monkeypatch.undo()
    assert bucket.contents("pets") == {}


@pytest.mark.usefixtures("s3_server")
def test_a_missing_bucket_is_named(place: Path) -> None:
    with pytest.raises(UserError, match=r"^s3://no-such-bucket/pets: the bucket does not exist\. Check the URL\.$"):
        lines_of(out="s3://no-such-bucket/pets")
    with pytest.raises(UserError, match=r"^--update_from=s3://no-such-bucket/a: there is no dataset\. Pass the URL of"):
        lines_of(out="new", update_from="s3://no-such-bucket/a")
    with pytest.raises(
        UserError, match=r"^--update_from=nothing: there is no dataset\. Pass the directory or the URL of a dataset th"
    ):
        lines_of(out="new", update_from="nothing")
    lines_of(out="old", seed=1)
    message = r"^--update_from: --seed was 1 for old and is 2 now\. Remove --seed, or convert without --update_from\."
    with pytest.raises(UserError, match=message):
        lines_of(out="new", update_from="old", seed=2, shards=None)


def test_workers_are_not_forked(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The threads of obstore would not exist in a forked process."""
    lines_of(out=f"file://{place}/before")
    methods: list[str] = []
    original = workers._context

    def context(threads: bool) -> Any:
        methods.append(original(threads).get_start_method())
        raise Crash  # No process is needed.

    monkeypatch.setattr(threading, "active_count", lambda: 1)
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    monkeypatch.setattr(workers, "_context", context)
    for settings in (
        {"out": "local"},
        {"out": f"file://{place}/there"},
        {"out": "new", "update_from": f"file://{place}/before", "shards": None},
    ):
        with pytest.raises(Crash):
            lines_of(workers=2, **settings)
    assert methods == ["fork" if sys.platform == "linux" else "spawn", "spawn", "spawn"]


# --- Damage, and changes by others ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "change"),
    # A damaged shard in the same store is copied as it is. Readers find the damage later.
    [("into a directory", "damaged"), ("into a directory", "replaced"), ("same store", "replaced")],
)
def test_update_from_reads_only_the_versions_of_its_index(
    kind: str, change: str, bucket: Bucket, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines_of(out="before")
    url, name = f"{bucket.url}/before", "pets-train.tfrecord-00001-of-00003"
    bucket.upload(place / "before", "before")
    data = bytearray((place / "before" / name).read_bytes())
    data[len(data) // 2] ^= 1
    original: Any = write_shards.write_shard if kind == "into a directory" else bucket_objects.BucketObjects.copy_from

    def replace(*arguments: Any) -> Any:
        bucket.put(f"before/{name}", bytes(data))
        return original(*arguments)

    if change == "damaged":
        bucket.put(f"before/{name}", bytes(data))
    elif kind == "into a directory":
        monkeypatch.setattr("tfrecord_tools.convert.write_shard", replace)
    else:
        monkeypatch.setattr(bucket_objects.BucketObjects, "copy_from", replace)
    out = "new" if kind == "into a directory" else f"{bucket.url}/after"
    message = {
        "damaged": rf"^{url}/{name}: the records differ from those in records\.parquet\. The dataset is damaged\. ",
        "replaced": rf"before/{name}: was changed ",
    }[change]
    with pytest.raises(UserError, match=message):
        lines_of(out=out, update_from=url, shards=None)
    assert not (place / "new").exists()
    assert CONVERT_JSON not in bucket.contents("after")


def test_damaged_answers_are_asked_for_again(
    bucket: Bucket, network: BadNetwork, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines_of(out="local", shards=12)
    url = f"{bucket.url}/pets"
    claimed(place, url, monkeypatch, work_dir="first", shards=12)
    gets = 0

    def rule(method: str, path: str) -> str:
        nonlocal gets
        gets += method == "GET"
        return "wrong" if method == "GET" and gets % 6 == 0 else ""

    network.rule = rule
    lines_of(out=url, work_dir="second", shards=12)
    lines_of(out="updated", update_from=url, shards=None)
    network.rule = lambda method, path: ""
    assert network.faults["wrong"] > 5
    assert bucket.contents("pets") == contents(place / "local") == contents(place / "updated")


@pytest.mark.parametrize("step", ["commit_data", "_check_all"])
def test_a_conversion_that_wakes_up_leaves_the_place_to_its_new_owner(
    step: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"file://{place}/there"
    original = getattr(BucketWorkspace, step)

    def wake(self: Any, *arguments: Any) -> None:
        if step == "_check_all":
            original(self, *arguments)
        shutil.rmtree("there")
        patch.undo()
        claimed(place, url, monkeypatch, work_dir="new", seed=7)
        if step == "commit_data":
            original(self, *arguments)

    patch = pytest.MonkeyPatch()
    patch.setattr(BucketWorkspace, step, wake)
    with pytest.raises(UserError, match=rf"^--out={url}: another conversion with other settings \(seed was 7 and "):
        lines_of(out=url, work_dir="old")
    assert CLAIM in contents(place / "there")
    assert CONVERT_JSON not in contents(place / "there")
    lines_of(out=url, work_dir="new", seed=7)
    lines_of(out="local", seed=7)
    assert contents(place / "there") == contents(place / "local")


def test_a_deleted_claim_and_an_unknown_object_stop_the_commit(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, original = f"file://{place}/there", BucketWorkspace.commit_data

    def stop(self: Any, *arguments: Any) -> None:
        in_the_way(place, "notes.txt", b"mine")
        (place / "there" / CLAIM).rename(place / "claim")
        original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(BucketWorkspace, "commit_data", stop)
        with pytest.raises(UserError, match=rf"^{url}/{CLAIM}: is missing, so another conversion can write there "):
            lines_of(out=url, work_dir="work")
    (place / "claim").rename(place / "there" / CLAIM)
    message = (
        rf"^{url}/notes\.txt: does not belong to this dataset\. Another program has written it since the conversion"
        r" began\. Move or delete it, and run the same command again\.\nOnly the last step of the conversion in work/"
        r" is missing, and each run tries it first\. To discard that conversion, pass --restart\.$"
    )
    with pytest.raises(UserError, match=message):
        lines_of(out=url, work_dir="work")
    (place / "there/notes.txt").unlink()
    lines_of(out=url, work_dir="work")
    lines_of(out="local")
    assert contents(place / "there") == contents(place / "local")


def test_a_commit_that_fails_each_time_is_discarded_by_restart(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, original = f"file://{place}/there", BucketWorkspace.commit_data

    def stop(self: Any, *arguments: Any) -> None:
        in_the_way(place, "features.json", b"mine")
        original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(BucketWorkspace, "commit_data", stop)
        with pytest.raises(UserError, match=r"features\.json: exists already, with other content"):
            lines_of(out=url, work_dir="work")
    with pytest.raises(UserError, match=r"features\.json: exists already.*\nOnly the last step"):
        lines_of(out=url, work_dir="work")
    draw(place / "pets/cats/new.jpg")
    with pytest.raises(UserError, match=r"another conversion of other files"):  # It is after the failed commit.
        lines_of(out=url, work_dir="work", restart=True)
    shutil.rmtree("there")
    lines_of(out=url, work_dir="work")
    lines_of(out="local")
    assert contents(place / "there") == contents(place / "local")


def test_a_conversion_that_joins_finds_the_finished_dataset(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, original = f"file://{place}/there", BucketWorkspace._put_claim
    claimed(place, url, monkeypatch, work_dir="first")
    claim = (place / "there" / CLAIM).read_bytes()
    lines_of(out=url, work_dir="first")
    (place / "there").rename(place / "finished")

    def late(self: Any, data: bytes) -> Any:
        shutil.copytree(place / "finished", place / "there")
        in_the_way(place, CLAIM, claim)
        return original(self, data)

    monkeypatch.setattr(BucketWorkspace, "_put_claim", late)
    with pytest.raises(UserError, match=rf"^--out={url}: the dataset exists\. "):
        lines_of(out=url, work_dir="second")


def test_a_claim_that_is_there_and_not_there_ends_the_command(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def put(self: Any, path: str, data: Any, create: bool = False) -> Any:
        raise Exists(path)

    monkeypatch.setattr(bucket_objects, "PATIENCE", IMPATIENT)
    monkeypatch.setattr(ObjectStore, "put", put)
    with pytest.raises(UserError, match=rf"there/{CLAIM}: the store reports that this object exists, and that "):
        lines_of(out=f"file://{place}/there")


def test_without_the_right_to_delete_the_dataset_is_complete(bucket: Bucket, network: BadNetwork, place: Path) -> None:
    lines_of(out="local")
    network.rule = lambda method, path: "denied" * (method == "DELETE" or path.endswith("?delete"))
    lines = lines_of(out=f"{bucket.url}/pets")
    network.rule = lambda method, path: ""
    assert network.faults["denied"] > 0
    (note,) = [line for line in lines if "could not be deleted" in line]
    assert note.startswith(f"note: {bucket.url}/pets/{CLAIM} could not be deleted, because access is denied. The ")
    found = bucket.contents("pets")
    assert found.pop(CLAIM)
    assert found == contents(place / "local")
    assert problems(f"{bucket.url}/pets", place) == []
    assert not (place / "pets.partial").exists()


def test_a_full_disk_while_a_shard_is_written(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, original, count = f"file://{place}/there", write_shards._read_image, 0

    def read_image(job: Any, number: int) -> bytes:
        nonlocal count
        count += 1
        if count == 12:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(job.shard_path))
        return original(job, number)

    with monkeypatch.context() as patch:
        patch.setattr(write_shards, "_images", lambda job: ((n, read_image(job, n)) for n in range(len(job.rows))))
        with pytest.raises(UserError, match=r"No space left on device.*The finished part is kept in work/"):
            lines_of(out=url, work_dir="work")
    assert len(list(place.glob("there/*.tfrecord-*"))) == 1
    assert list(place.glob("work/data/*")) == []
    lines_of(out=url, work_dir="work")
    lines_of(out="local")
    assert contents(place / "there") == contents(place / "local")


def test_an_end_between_both_files_of_a_shard(bucket: Bucket, network: BadNetwork, place: Path) -> None:
    url = f"{bucket.url}/pets"

    def stop(job: Any) -> int:
        raise Crash

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upload_shards, "complete_shard", stop)
        with pytest.raises(Crash):
            lines_of(out=url)
    assert len(list(place.glob("pets.partial/index/*.json"))) == 1
    assert list(place.glob("pets.partial/index/*.parquet")) == []
    (shard,) = (name for name in bucket.contents("pets") if ".tfrecord-" in name)
    network.requests.clear()
    lines_of(out=url)
    assert not [path for method, path, _ in network.requests if method == "PUT" and shard in path]
    lines_of(out="local")
    assert bucket.contents("pets") == contents(place / "local")


def test_downloads_of_an_update_need_space(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines_of(out=f"file://{place}/before")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 100})())
    lines_of(out=f"file://{place}/after", update_from=f"file://{place}/before", shards=None)  # Copied by the store.
    with pytest.raises(UserError, match=r"new\.partial: \S+ MB of disk space are needed, and 0\.0 MB are free\."):
        lines_of(out="new", update_from=f"file://{place}/before", shards=None)


def test_all_cells_of_a_notebook_run_again(place: Path) -> None:
    url = f"file://{place}/there"
    lines: list[str] = []
    given: Any = {"src": "pets", "out": url, "workers": 1}
    tfrecord_tools.convert(**given, log=lambda line: None)
    before = contents(place / "there")
    data = tfrecord_tools.convert(**given, log=lines.append)
    assert lines == [
        f"{url}: the dataset is finished already. The images and the settings are the same, so nothing was written"
    ]
    assert data.location == url
    draw(place / "pets/cats/new.jpg")
    for change in ({"seed": 1}, {}):
        with pytest.raises(UserError, match=r"there: the dataset exists\. "):
            tfrecord_tools.convert(**(given | change), log=lambda line: None)
    assert contents(place / "there") == before
    assert not (place / "there.partial").exists()
