"""Search for good settings: short trainings with many settings, then full trainings with the best.

A variant is a trainer with flags, as in `compare`. A setting is a variant together with a learning rate and an
augmentation. The search has rounds ("successive
halving"). After each round, the best settings go on to the next round, in which a training costs about three times as
much: more folds or more epochs. In the last round, a setting is trained as `compare` trains a variant: on all folds and
with all epochs.

The used time is the sum of the recorded durations of the trainings, not the time on the clock. They are added in the
order of the search. So if a search was killed and is repeated, it makes the same decisions and runs only the missing
trainings.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from tfrecord_tools.augmentation import named
from tfrecord_tools.base import words
from tfrecord_tools.errors import UserError
from trainers import recipes, run_directory
from trainers.comparing import jobs
from trainers.comparing.jobs import Job
from trainers.recipes import Recipe
from trainers.results.comparison import Variant

FACTORS = (1.0, 1 / 3, 3.0, 1 / 10, 10.0)  # The learning rates of the recipe are multiplied by these.
AUGMENTATIONS = ("none", "standard", "strong")
REDUCTION = 3  # A training costs this many times as much as in the round before.
_LEAST_SHARE = 0.1  # A training with a smaller share of the epochs says little about a full training.
_SHORT = {"learning_rate": "lr"}  # Short forms of flag names, for the names of settings.
_FEWEST = 2  # Least number of settings in the first round, even if their trainings take longer than the budget.


@dataclasses.dataclass(frozen=True)
class Budget:
    """The limits of a search.

    Attributes:
        minutes: Minutes of training. When the time is over, a training that is running is still completed. If None,
            there is no limit.
        trials: Number of settings in the first round. If None, the time decides the number.
    """

    minutes: float | None = None
    trials: int | None = None

    def __post_init__(self) -> None:
        if self.minutes is None and self.trials is None:
            raise UserError("--search: has no limit. Pass --search=minutes=20, or --search=trials=20.")
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise UserError(f"--search=minutes={self.minutes}: must be a number above 0.")
        if self.trials is not None and self.trials < 1:
            raise UserError(f"--search=trials={self.trials}: the number of settings to try must be at least 1.")


def budget(given: Mapping[str, Any]) -> Budget:
    """Return the budget from the values of --search.

    Raises:
        UserError: A name is not known, or a value is not allowed.
    """
    known: dict[str, Any] = {"minutes": (int, float), "trials": int}
    for name, value in given.items():
        if name not in known:
            raise UserError(
                f"--search={name}={value}: {name!r} is not a limit of a search. Pass minutes=20, trials=20, or both."
            )
        if isinstance(value, bool) or not isinstance(value, known[name]):
            kind = "a whole number" if name == "trials" else "a number"
            raise UserError(f"--search={name}={value}: must be {kind}.")
    return Budget(**given)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """A variant with a learning rate and an augmentation.

    Attributes:
        variant: The variant, with the flags of the setting.
        base: Name of the variant without the flags of the setting.
        origin: Name of the setting before its epochs were shortened.
        learning_rate: Learning rate of each phase.
        augment: Name of the augmentation.
        epochs: Epochs of each phase. 0: the phase is left out.
    """

    variant: Variant
    base: str
    origin: str
    learning_rate: tuple[float, ...]
    augment: str
    epochs: tuple[int, ...]

    def shortened(self, share: float) -> Setting:
        """Return the setting with a share of its epochs, but at least one epoch per phase."""
        epochs = tuple(max(1, round(share * count)) if count else 0 for count in self.epochs)
        if epochs == self.epochs:
            return self
        text = ",".join(map(str, epochs))
        return dataclasses.replace(self, variant=_changed(self.variant, {"epochs": text}), epochs=epochs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Round:
    """How settings are trained in a round of the search.

    Attributes:
        share: Share of the epochs that are trained, above 0 and at most 1.
        folds: Number of folds that are trained. 0: the splits of the dataset are used.
    """

    share: float
    folds: int

    def __str__(self) -> str:
        folds = "" if not self.folds else f" on {words.number(self.folds, 'fold')}"
        return f"{'all' if self.share == 1 else f'{self.share:.0%} of the'} epochs{folds}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """The result of a setting in a round.

    Attributes:
        round: Number of the round, from 1.
        setting: The setting, with the epochs of this round.
        folds: Number of folds; 0: the splits of the dataset.
        accuracy: Share of the validation records of all these folds that are classified correctly, 0..1. None if a
            training failed.
        loss: Mean cross-entropy for the same validation records. None if a training failed.
        images: Number of the validation records.
        seconds: Duration of the trainings. This includes trainings that were already run in an earlier round.
    """

    round: int
    setting: Setting
    folds: int
    accuracy: float | None
    loss: float | None
    images: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Return the columns of search.csv."""
        return {
            "round": self.round,
            "setting": self.setting.variant.name,
            "variant": self.setting.base,
            "learning_rate": ",".join(f"{rate:g}" for rate in self.setting.learning_rate),
            "augment": self.setting.augment,
            "epochs": ",".join(map(str, self.setting.epochs)),
            "folds": self.folds,
            "images": self.images,
            "accuracy": self.accuracy,
            "loss": self.loss,
            "seconds": round(self.seconds, 1),
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search:
    """The result of a search.

    Attributes:
        trials: All trials, in the order in which they were made.
        seconds: Duration of all trainings.
    """

    trials: tuple[Trial, ...]
    seconds: float

    @property
    def finalists(self) -> tuple[Trial, ...]:
        """The successful trials of the last round, the best first."""
        last = self.trials[-1].round
        return tuple(best_first([trial for trial in self.trials if trial.round == last]))


def best_first(trials: Sequence[Trial]) -> list[Trial]:
    """Return the successful trials by falling accuracy. For equal accuracy, the lower loss comes first."""
    successful = [trial for trial in trials if trial.accuracy is not None]
    return sorted(successful, key=lambda trial: (-(trial.accuracy or 0.0), trial.loss))


def settings(variants: Sequence[Variant], seed: int) -> list[Setting]:
    """Return all settings in the order in which they are tried.

    Variants without changes come before changed variants. In both groups, trainings on features come first, because
    they take only seconds. The search does not change flags that a variant has. For example, a variant with
    --learning_rate is only tried with this rate.

    Args:
        variants: The variants.
        seed: Another seed gives another order.

    Raises:
        UserError: A flag of a variant has a value that is not allowed.
    """
    made = [setting for variant in variants for setting in _settings_of(variant)]

    def position(setting: Setting) -> tuple[bool, bool, bytes]:
        name = setting.variant.name
        drawn = hashlib.sha256(f"{seed} {name}".encode()).digest()
        return setting.base != name, not recipes.reads_features(setting.variant.trainer), drawn

    return sorted(made, key=position)


def _settings_of(variant: Variant) -> Iterator[Setting]:
    values = jobs.values_of(variant)
    own = _recipe(variant, values)
    factors = (1.0,) if "learning_rate" in values else FACTORS
    others = () if "augment" in values or recipes.reads_features(variant.trainer) else AUGMENTATIONS
    given = named.name_of(own.augment)
    for augment in dict.fromkeys((given, *others)):
        augmented = {} if augment == given else {"augment": augment}
        recipe = _recipe(variant, values | augmented)
        for factor in factors:
            rates = tuple(float(f"{factor * phase.learning_rate:.2g}") for phase in recipe.phases)
            changes = {"learning_rate": ",".join(f"{rate:g}" for rate in rates), **augmented}
            if factor == 1:
                rates, changes = tuple(phase.learning_rate for phase in recipe.phases), augmented
            changed = _changed(variant, changes)
            yield Setting(
                variant=changed,
                base=variant.name,
                origin=changed.name,
                learning_rate=rates,
                augment=augment,
                epochs=tuple(values.get("epochs") or [phase.epochs for phase in recipe.phases]),
            )


def _recipe(variant: Variant, values: Mapping[str, Any]) -> Recipe:
    """Return the recipe with all phases, including phases that --epochs leaves out."""
    every = {name: value for name, value in values.items() if name != "epochs"}
    return jobs.recipe_of(variant, every)


def _changed(variant: Variant, changes: Mapping[str, str]) -> Variant:
    """Return a variant with additional flags. The flags are also added to its name."""
    flags = [f"--{name}={value}" for name, value in changes.items()]
    name = " ".join([variant.name, *(f"{_SHORT.get(name, name)}={value}" for name, value in changes.items())])
    return dataclasses.replace(variant, name=name, flags=(*variant.flags, *flags))


def ladder(count: int, folds: int) -> list[Round]:
    """Return the rounds. A training takes about a third of the time of a training in the next round.

    Args:
        count: Number of settings in the first round.
        folds: Number of folds. 0: the splits of the dataset are used.
    """
    rounds: list[Round] = []
    cost = float(max(1, folds))
    while cost >= _LEAST_SHARE and REDUCTION ** len(rounds) <= count:
        share = 1.0 if cost >= 0.5 else cost
        rounds.append(Round(share=share, folds=min(folds, max(1, round(cost)))))
        cost /= REDUCTION
    return rounds[::-1]


def trainings(setting: Setting, round_: Round, job: Callable[[Variant, int], Job]) -> list[Job]:
    """Return the trainings of a setting in a round.

    Args:
        setting: The setting, with all its epochs.
        round_: The round.
        job: Function of a variant and the number of a fold. Without folds, the number is 0.
    """
    variant = setting.shortened(round_.share).variant
    return [job(variant, fold) for fold in range(1, round_.folds + 1)] or [job(variant, 0)]


def search(
    ordered: Sequence[Setting],
    folds: int,
    limits: Budget,
    evaluate: Callable[[Setting, Round, int, str], tuple[Trial, float]],
    log: Callable[[str], object] = print,
) -> Search:
    """Search by successive halving.

    Each round gets the same part of the minutes. A round trains the best settings of the round before, the best one
    first, until its time is over. A training costs three times as much as in the round before. So the time is usually
    enough for a third of the settings. If a round does not need all of its time, the next rounds get the rest. Without
    a limit of minutes, exactly the best third of the settings goes on, rounded up.

    Args:
        ordered: All settings, see `settings`.
        folds: Number of folds; 0: the splits of the dataset.
        limits: The budget.
        evaluate: Function that trains a setting in a round. It takes the setting, the round, the number of the round,
            and a text with the position of the setting, such as 2/9. It returns the result, and the duration in seconds
            of the trainings that are new in this call.
        log: Receives the lines for the user.

    Raises:
        UserError: All trainings of a round failed.
    """
    chosen, trials, spent = list(ordered)[: limits.trials], [], 0.0
    rounds = ladder(len(chosen), folds)
    for number, round_ in enumerate(rounds, 1):
        log(f"round {number} of {len(rounds)}: {words.number(len(chosen), 'setting')}, {round_}")
        limit = math.inf if limits.minutes is None else 60 * limits.minutes * number / len(rounds)
        made: list[tuple[Setting, Trial]] = []
        for setting in chosen:
            if len(made) >= (_FEWEST if number == 1 else 1) and spent >= limit:
                log(f"round {number}: the time is used up after {words.number(len(made), 'setting')}")
                break
            trial, seconds = evaluate(setting, round_, number, f"{len(made) + 1}/{len(chosen)}")
            made.append((setting, trial))
            spent += seconds
        trials += [trial for _, trial in made]
        best = best_first([trial for _, trial in made])
        if not best:
            raise UserError(
                f"--search: no training of round {number} succeeded ({words.number(len(made), 'setting')}). Read the"
                " .log files of the runs, and correct the cause."
            )
        of_trial = {id(trial): setting for setting, trial in made}
        going_on = len(best) if limits.minutes else math.ceil(len(made) / REDUCTION)
        chosen = [of_trial[id(trial)] for trial in best[:going_on]]
    return Search(trials=tuple(trials), seconds=spent)


class Evaluator:
    """Train a setting as a round requires. This is the argument `evaluate` of `search`."""

    def __init__(self, trainings: Callable[[Setting, Round], Sequence[Job]], train: Callable[[Job, str], bool]) -> None:
        """Prepare the trainings.

        Args:
            trainings: Function that takes a setting and a round, and returns the trainings of the setting in the round.
            train: Function that takes a training and its position, runs the training unless it is finished, and returns
                whether it succeeded.
        """
        self._trainings, self._train = trainings, train
        self._made: dict[Job, float] = {}

    def __call__(self, setting: Setting, round_: Round, number: int, position: str) -> tuple[Trial, float]:
        """Return the result, and the duration in seconds of the trainings that are new in this call."""
        every = self._trainings(setting, round_)
        new = 0.0
        for job in every:
            if job in self._made or not self._train(job, position):
                continue
            self._made[job] = job.seconds()
            new += self._made[job]
        return self._trial(setting.shortened(round_.share), round_, number, every), new

    def _trial(self, setting: Setting, round_: Round, number: int, every: Sequence[Job]) -> Trial:
        metrics = [run_directory.read_metrics(job.run) for job in every if job in self._made]
        finished = [each for each in metrics if each is not None]
        images = sum(each["count"] for each in finished)

        def mean(name: Literal["accuracy", "loss"]) -> float | None:
            total = sum(each[name] * each["count"] for each in finished)
            return total / images if len(finished) == len(every) else None

        return Trial(
            round=number,
            setting=setting,
            folds=round_.folds,
            accuracy=mean("accuracy"),
            loss=mean("loss"),
            images=images,
            seconds=sum(self._made.get(job, 0.0) for job in every),
        )
