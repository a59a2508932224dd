"""The search: its settings, its rounds, its budget, and the same decisions after a kill."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from tfrecord_tools.errors import UserError
from trainers.comparing import search
from trainers.comparing.jobs import Job, Plan
from trainers.comparing.search import Budget, Evaluator, Round, Search, Setting, Trial
from trainers.results import comparison
from trainers.results.comparison import Variant


def settings(*variants: str, seed: int = 0) -> list[Setting]:
    return search.settings(comparison.variants(list(variants), []), seed)


def test_settings_are_variants_with_rates_and_augmentations() -> None:
    found = {setting.variant.name: setting for setting in settings("features --weights=none", "f=finetune")}
    assert len(found) == 5 + 5 * 3
    assert found["features lr=0.01"].variant.flags == ("--weights=none", "--learning_rate=0.01")
    assert {setting.learning_rate for setting in found.values() if setting.base == "features"} == {
        (1e-3,), (3.3e-4,), (3e-3,), (1e-4,), (1e-2,),
    }  # fmt: skip
    both = found["f lr=0.001,0.0001 augment=strong"]
    assert both.variant.flags == ("--learning_rate=0.001,0.0001", "--augment=strong")
    assert (both.learning_rate, both.augment, both.epochs) == ((1e-3, 1e-4), "strong", (5, 10))
    assert {setting.augment for setting in found.values() if setting.base == "f"} == {"standard", "none", "strong"}


def test_flags_of_a_variant_are_kept() -> None:
    (fixed,) = settings("frozen --learning_rate=0.5 --augment=none")
    assert (fixed.variant.name, fixed.learning_rate, fixed.augment) == ("frozen", (0.5,), "none")
    rates = {setting.learning_rate for setting in settings("finetune --epochs=0,3 --augment=none")}
    assert len(rates) == 5  # Each has a value for the phase that is left out.
    assert {len(rate) for rate in rates} == {2}
    reference = {setting.augment: setting for setting in settings("scratch --recipe=reference --learning_rate=1e-4")}
    assert (reference["none"].epochs, reference["strong"].epochs) == ((50,), (100,))  # As the recipe says.


def test_variants_and_cached_features_come_first() -> None:
    names = [setting.variant.name for setting in settings("scratch", "features", "frozen", seed=3)]
    assert names[0] == "features"
    assert set(names[1:3]) == {"scratch", "frozen"}
    assert all(name.startswith("features lr=") for name in names[3:7])
    others = [setting.variant.name for setting in settings("scratch", "features", "frozen", seed=4)]
    assert sorted(others) == sorted(names)
    assert others != names


@pytest.mark.parametrize(
    ("epochs", "share", "expected"),
    [((10,), 1 / 3, ",3"), ((5, 10), 1 / 9, ",1,1"), ((0, 9), 1 / 3, ",0,3"), ((1,), 1 / 3, ""), ((9,), 1.0, "")],
)
def test_settings_are_shortened(epochs: tuple[int, ...], share: float, expected: str) -> None:
    setting = Setting(
        variant=Variant(name="a", trainer="features", flags=("--x",)),
        base="a",
        origin="a",
        learning_rate=(1.0,),
        augment="none",
        epochs=epochs,
    )
    text = expected[1:]
    short = setting.shortened(share)
    assert short.variant.flags == ("--x", *([f"--epochs={text}"] if text else []))
    assert short.variant.name == ("a" + (f" epochs={text}" if text else ""))
    assert short.origin == "a"


@pytest.mark.parametrize(
    ("count", "folds", "expected"),
    [
        (1, 0, [(1.0, 0)]),
        (2, 5, [(1.0, 5)]),
        (3, 0, [(1 / 3, 0), (1.0, 0)]),
        (30, 0, [(1 / 9, 0), (1 / 3, 0), (1.0, 0)]),  # Less than a tenth of the epochs would say little.
        (10, 5, [(1.0, 1), (1.0, 2), (1.0, 5)]),
        (30, 5, [(5 / 27, 1), (1.0, 1), (1.0, 2), (1.0, 5)]),
        (10, 10, [(1.0, 1), (1.0, 3), (1.0, 10)]),
    ],
)
def test_rounds(count: int, folds: int, expected: Sequence[tuple[float, int]]) -> None:
    rounds = search.ladder(count, folds)
    assert [round_.folds for round_ in rounds] == [number for _, number in expected]
    assert [round_.share for round_ in rounds] == pytest.approx([share for share, _ in expected])


@pytest.mark.parametrize(
    ("given", "budget"),
    [
        ({"minutes": 20}, Budget(20, None)),
        ({"trials": 3}, Budget(None, 3)),
        ({"trials": 3, "minutes": 0.5}, Budget(0.5, 3)),
    ],
)
def test_budgets(given: dict[str, float], budget: Budget) -> None:
    assert search.budget(given) == budget


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "--search: has no limit. Pass --search=minutes=20, or --search=trials=20."),
        ({"hours": 2}, "--search=hours=2: 'hours' is not a limit of a search. Pass minutes=20, trials=20, or both."),
        ({"minutes": 0}, "--search=minutes=0: must be a number above 0."),
        ({"minutes": math.inf}, "--search=minutes=inf: must be a number above 0."),
        ({"minutes": "a"}, "--search=minutes=a: must be a number."),
        ({"trials": 2.5}, "--search=trials=2.5: must be a whole number."),
        ({"trials": True}, "--search=trials=True: must be a whole number."),
        ({"trials": 0}, "--search=trials=0: the number of settings to try must be at least 1."),
    ],
)
def test_wrong_budgets_are_reported(given: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as error:
        search.budget(given)
    assert str(error.value) == message


class Oracle:
    """Evaluates a setting without training: the accuracy is known, and a full training takes 100 seconds."""

    def __init__(self, accuracies: dict[str, float | None]) -> None:
        self.accuracies = accuracies
        self.calls: list[tuple[int, str]] = []

    def __call__(self, setting: Setting, round_: Round, number: int, position: str) -> tuple[Trial, float]:
        name, seconds = setting.origin, 100 * round_.share * max(1, round_.folds)
        self.calls.append((number, name))
        accuracy = self.accuracies.get(name, 0.5)
        loss = None if accuracy is None else 1.0
        own = setting.shortened(round_.share)
        trial = Trial(
            round=number, setting=own, folds=round_.folds, accuracy=accuracy, loss=loss, images=9, seconds=seconds
        )
        return trial, seconds


def test_the_best_third_goes_on() -> None:
    oracle = Oracle({"features lr=0.003": 0.9, "features lr=0.01": 0.8, "features": 0.7, "frozen augment=none": 0.95})
    ordered, lines = settings("features", "frozen"), list[str]()
    found = search.search(ordered, 0, Budget(trials=20), oracle, lines.append)
    assert [number for number, _ in oracle.calls] == [1] * 20 + [2] * 7 + [3] * 3
    # The best first: if time is over, the worst are left out.
    assert [name for number, name in oracle.calls if number == 3] == [
        "frozen augment=none", "features lr=0.003", "features lr=0.01",
    ]  # fmt: skip
    best = found.finalists[0]
    assert (best.setting.variant.name, best.setting.epochs) == ("frozen augment=none", (8,))
    assert found.seconds == pytest.approx(100 * (20 / 9 + 7 / 3 + 3))
    assert len(found.trials) == 30
    assert lines[0] == "round 1 of 3: 20 settings, 11% of the epochs"
    assert lines[2] == "round 3 of 3: 3 settings, all epochs"
    assert found.trials[0].as_dict() == {
        "round": 1, "setting": "features epochs=1", "variant": "features", "learning_rate": "0.001", "augment": "none",
        "epochs": "1", "folds": 0, "images": 9, "accuracy": 0.7, "loss": 1.0, "seconds": 11.1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("minutes", "calls"),
    [
        (9.9, [18, 6, 2]),  # 198 s per round. The third setting of the last round would begin after 600 s.
        (0.01, [2, 1, 1]),  # Two settings are tried in any case, and one is trained to the end.
        (1000, [20, 20, 20]),  # There is time for all of them.
    ],
)
def test_the_minutes_are_divided_among_the_rounds(minutes: float, calls: list[int]) -> None:
    oracle = Oracle({})
    found = search.search(settings("features", "frozen"), 0, Budget(minutes=minutes), oracle, lambda line: None)
    numbers = [number for number, _ in oracle.calls]
    assert [numbers.count(round_) for round_ in (1, 2, 3)] == calls
    assert found.finalists


def test_failed_settings_are_left_out() -> None:
    oracle = Oracle({"features": None, "features lr=0.003": 0.9})
    found = search.search(settings("features"), 0, Budget(trials=5), oracle, lambda line: None)
    assert found.trials[0].accuracy is None
    assert "features" not in [trial.setting.origin for trial in found.finalists]
    with pytest.raises(UserError) as error:
        search.search(settings("features"), 0, Budget(trials=1), Oracle({"features": None}), lambda line: None)
    assert str(error.value) == (
        "--search: no training of round 1 succeeded (1 setting). Read the .log files of the runs, and correct the"
        " cause."
    )


def trained(out: Path, is_killed: bool) -> Search:
    """Search with trainings that only write results. A killed search is killed after each of them."""

    def job(variant: Variant, fold: int) -> Job:
        return Job(tfrecords="out", out=out, variant=variant, seed=0, plan=Plan(count=5), fold=fold)

    def trainings(setting: Setting, round_: Round) -> list[Job]:
        return search.trainings(setting, round_, job)

    def train(job: Job, position: str) -> bool:
        if job.is_done():
            return True
        job.run.mkdir(parents=True)
        drawn = sum(job.variant.name.encode()) + job.fold
        accuracy = drawn % 97 / 97
        metrics = {"accuracy": accuracy, "loss": 1 - accuracy, "count": 10 + job.fold, "seconds": 1.0}
        (job.run / "metrics.json").write_text(json.dumps(metrics))
        job.finish(seconds=30 + drawn % 7)
        if is_killed:
            raise KeyboardInterrupt
        return True

    ordered = settings("features", "linear=features --head=linear")
    return search.search(ordered, 5, Budget(minutes=6), Evaluator(trainings, train), lambda line: None)


def test_a_repeated_search_makes_the_same_decisions(tmp_path: Path) -> None:
    undisturbed, kills = trained(tmp_path / "whole", is_killed=False), 0
    while True:
        try:
            again = trained(tmp_path / "killed", is_killed=True)
            break
        except KeyboardInterrupt:
            kills += 1
    assert again == undisturbed
    runs = [{path.name for path in (tmp_path / name).iterdir() if path.is_dir()} for name in ("whole", "killed")]
    assert runs[0] == runs[1]
    assert kills == len(runs[0])
    assert 360 <= again.seconds < 360 + 3 * 37  # A setting that has begun is trained on all its folds.
    # The accuracy of a setting is that of all its records.
    best = again.finalists[0]
    metrics = [
        json.loads(path.read_text()) for path in tmp_path.glob(f"whole/{best.setting.variant.run(0)}-*/metrics.json")
    ]
    assert best.images == sum(run["count"] for run in metrics) == 65
    assert best.accuracy == pytest.approx(sum(run["accuracy"] * run["count"] for run in metrics) / 65)
