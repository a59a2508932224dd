"""Tests of run directories: which one is used, which are rejected, and the files in them."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys

import pytest

from tfrecord_tools.errors import UserError
from trainers import run_directory

SETTINGS: dict[str, dict[str, object]] = {
    "flags": {"backbone": "VGG16", "backbone_kwargs": {}, "epochs": {"head": 5, "finetune": 8}, "seed": 0},
    "recipe": {"phases": ({"name": "head", "learning_rate": 0.001},)},
    "weights": {},
    "dataset": {"digest": "abc", "classes": ("cats", "dogs")},
    "environment": {"keras": "3.15.1"},
    "other": {"tfrecords": "out", "checkpoint_every": 100},
}


def changed(topic: str, **values: object) -> dict[str, dict[str, object]]:
    settings = copy.deepcopy(SETTINGS)
    settings[topic] |= values
    return settings


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def begin(run: str | None = "run", settings: dict[str, dict[str, object]] = SETTINGS) -> str:
    with run_directory.opened(run, settings, "finetune") as path:
        return str(path)


def test_new_directory_holds_its_settings(tmp_path):
    assert begin("a/b") == "a/b"
    assert [path.name for path in (tmp_path / "a/b").iterdir()] == ["settings.json"]
    assert json.loads((tmp_path / "a/b/settings.json").read_text()) == json.loads(json.dumps(SETTINGS))


@pytest.mark.parametrize(
    ("flag", "old", "name", "other"),
    [
        ("recipe", "document", "reference", "default"),
        ("augment", "document", "reference", "standard"),
        ("augment", "document_transfer", "reference_transfer", "reference"),
    ],
)
def test_run_with_an_old_name_of_a_recipe_or_preset_is_continued(flag, old, name, other):
    begin(settings=changed("flags", **{flag: old}))
    assert begin(settings=changed("flags", **{flag: name})) == "run"
    with pytest.raises(UserError, match=rf"was started with other settings: --{flag} was '{name}', is now '{other}'"):
        begin(settings=changed("flags", **{flag: other}))


def test_default_is_a_new_directory_named_by_trainer_and_time():
    assert re.fullmatch(r"runs/finetune-\d{8}-\d{6}", begin(None))


def test_new_directories_of_the_same_second_are_numbered(monkeypatch):
    monkeypatch.setattr(run_directory.time, "strftime", lambda layout: "20250131-235959")
    paths = [begin(None, changed("flags", seed=seed)) for seed in range(3)]
    assert paths == [f"runs/finetune-20250131-235959{suffix}" for suffix in ("", "-2", "-3")]


def test_default_continues_an_unfinished_run_with_the_same_settings(capsys):
    others = [begin(None, changed("flags", seed=1)), begin(None, changed("environment", keras="3.16"))]
    first = begin(None)
    assert first not in others
    capsys.readouterr()
    assert begin(None, changed("other", checkpoint_every=7)) == first  # These values do not change the results.
    assert capsys.readouterr().out == f"run: continues {first}, an unfinished run with the same settings\n"
    run_directory.finish(run_directory.Path(first), {"accuracy": 1.0})
    assert begin(None) not in [*others, first]


def test_directory_in_use_is_not_opened():
    in_use = "--run=run: another process is using this directory"
    with run_directory.opened("run", SETTINGS, "finetune"), pytest.raises(UserError, match=in_use):
        begin("run")
    assert begin("run") == "run"
    with run_directory.opened(None, SETTINGS, "finetune") as path:
        assert begin(None) != str(path)


def test_lock_ends_with_its_process():
    code = (
        "import os, sys; from trainers import run_directory as r\n"
        f"with r.opened('run', {SETTINGS!r}, 'finetune'): os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code], timeout=60)
    assert begin("run") == "run"


@pytest.mark.parametrize(
    ("topic", "values", "message"),
    [
        ("flags", {"backbone": "VGG19"}, "--backbone was 'VGG16', is now 'VGG19'"),
        ("flags", {"seed": 1, "backbone": "VGG19"}, "--backbone was 'VGG16', is now 'VGG19'; --seed was 0, is now 1"),
        ("flags", {"epochs": {"head": 5}}, "--epochs.finetune was 8, is now None"),
        ("flags", {"backbone_kwargs": {"alpha": 0.5}}, "--backbone_kwargs.alpha was None, is now 0.5"),
        (
            "recipe",
            {"phases": [{"name": "head", "learning_rate": 1}]},
            "recipe.phases.0.learning_rate was 0.001, is now 1",
        ),
        ("weights", {"sha256": "00"}, "weights.sha256 was None, is now '00'"),
        ("environment", {"keras": "3.16"}, "environment.keras was '3.15.1', is now '3.16'"),
    ],
)
def test_other_settings_are_rejected_and_the_difference_is_named(topic, values, message):
    begin("run")
    for open_run in (run_directory.results, lambda run, settings: begin(run, settings)):
        with pytest.raises(UserError) as error:
            open_run("run", changed(topic, **values))
        assert str(error.value) == (
            f"--run=run: was started with other settings: {message}. Repeat the command that started this run, or"
            " pass another --run."
        )


def test_another_dataset_is_rejected():
    begin("run")
    for open_run in (run_directory.results, lambda run, settings: begin(run, settings)):
        with pytest.raises(UserError) as error:
            open_run("run", changed("dataset", digest="def"))
        assert str(error.value) == (
            "--run=run: was started on another dataset, or the dataset has changed since then. Pass another --run."
        )


def test_results_of_a_finished_run(tmp_path):
    assert run_directory.results(None, SETTINGS) is None
    assert run_directory.results("run", SETTINGS) is None
    begin("run")
    assert run_directory.results("run", SETTINGS) is None
    (tmp_path / "run/checkpoint.npz").touch()
    # A process that was killed in `finish` leaves its checkpoint next to metrics.json.
    run_directory.write_json(tmp_path / "run/metrics.json", {"accuracy": 0.5})
    assert run_directory.results("run", changed("environment", keras="3.16")) == {"accuracy": 0.5}
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["metrics.json", "settings.json"]
    with pytest.raises(UserError, match="--seed was 0, is now 1"):
        run_directory.results("run", changed("flags", seed=1))


def test_other_directories_are_rejected(tmp_path):
    (tmp_path / "photos").mkdir()
    begin("photos")  # An empty directory can be used.
    (tmp_path / "home").mkdir()
    (tmp_path / "home/letter.txt").touch()
    (tmp_path / "file").touch()
    for run in ("home", "file"):
        with pytest.raises(
            UserError,
            match=rf"--run={run}: is not a run directory, since it has no settings\.json\. Pass a new or empty ",
        ):
            begin(run)
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["letter.txt"]


def test_damaged_settings_are_reported(tmp_path):
    begin("run")
    (tmp_path / "run/settings.json").write_text("{")
    with pytest.raises(
        UserError, match=r"run/settings.json: is damaged .*Delete this run directory, or use another run directory\."
    ):
        begin("run")


def test_history_is_written_as_csv(tmp_path):
    run_directory.write_history(tmp_path, [])
    assert (tmp_path / "history.csv").read_text() == ""
    run_directory.write_history(tmp_path, [{"phase": "head", "loss": 0.1 + 0.2}, {"phase": "tail", "loss": 1.0}])
    assert (tmp_path / "history.csv").read_text() == "phase,loss\nhead,0.30000000000000004\ntail,1.0\n"


@pytest.mark.parametrize(
    ("stored", "other", "same"),
    [
        ("new", {}, True),
        ("old", {"open_issues_sha256": "old"}, True),  # An older version left out the same records.
        ("old", {}, False),  # The older version left out other records.
        ("another", {"open_issues_sha256": "old"}, False),
    ],
)
def test_runs_of_older_versions_have_the_hash_of_all_open_issues(stored, other, same, tmp_path):
    run_directory.write_json(tmp_path / run_directory.SETTINGS, {"flags": {"issues_sha256": stored}})
    settings = {"flags": {"issues_sha256": "new"}, "other": other}
    found = run_directory.differences(tmp_path, settings, ("flags",))
    assert found == ([] if same else [f"the SHA-256 of the open issues in --audit was {stored!r}, is now 'new'"])
