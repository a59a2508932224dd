"""Tests that advice names only flags that its reader has."""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from command_list import COMMANDS, FLAG, TRAINING, defined, has, unknown
from command_list import named as named_commands
from image_sources import run
from shown_texts import Definition, definitions, reached

from tfrecord_tools import bench
from tfrecord_tools.augmentation import named
from tfrecord_tools.bench import Stage
from tfrecord_tools.card import card_page
from tfrecord_tools.decoding.geometry import Geometry
from trainers import recipes
from trainers.models.model_file import ModelInfo
from trainers.results import advice, comparison_page, predictions, report
from trainers.results.predictions import Predictions
from trainers.run_directory import Metrics

# Flags in the findings of every trainer of this package.
TRAINED = {"update", "decisions", "class_weights", "learning_rate", "early_stopping", "label_smoothing", "overwrite"}
READERS_OF_SOURCES = ("tfrecord_tools.convert", "tfrecord_tools.to_csv")
WITH_SEED = tuple(command for command in COMMANDS if has(command, "seed"))
OF_IMAGES = tuple(command for command in TRAINING if command != "trainers.features")

# Texts behind these functions are about another command, which is printed first and is named in its errors.
BORDER = frozenset(
    {
        "trainers.fitting.csv_dataset.as_dataset",
        "trainers.results.eval_sets._scanned",
        # Errors of a variant begin with --variant and its flags.
        "trainers.comparing.jobs.values_of",
        "trainers.comparing.jobs.recipe_of",
    }
)

# Definitions that make the command of a trainer, without its name.
OF_TRAINERS = frozenset(
    {
        "trainers.comparing.jobs.Job.flags",
        "trainers.comparing.jobs.Job.arguments",
        "trainers.comparing.jobs.Job._log",
    }
)

WITH_CACHE = tuple(command for command in COMMANDS if has(command, "cache_bytes"))
WITH_ENGINE = ("trainers.features", "trainers.predict", "trainers.audit")
# Definitions that fewer commands show than reach, for reasons that the references do not contain.
NARROWED = {
    # Other commands pass checked values.
    "tfrecord_tools.images.preparation.ImageConfig.__post_init__": ("tfrecord_tools.convert",),
    # to_csv checks only fractions, and has the flags of fractions.
    "tfrecord_tools.conversion.plan_config.PlanConfig.__post_init__": ("tfrecord_tools.convert",),
    # Other commands leave `depth_range` at None.
    "tfrecord_tools.images.preparation._normalized_range": ("tfrecord_tools.convert",),
    # Other commands use only names and losses.
    "tfrecord_tools.layout.findings.FINDINGS": ("tfrecord_tools.convert",),
    "tfrecord_tools.base.usage._ADVICE": WITH_SEED,  # A sentence is shown if the command has its flags.
    "tfrecord_tools.base.usage._unknown": TRAINING,  # Only trainers have optimizer arguments.
    "tfrecord_tools.sources.stores.check_exists": READERS_OF_SOURCES,  # predict passes only directories.
    "tfrecord_tools.sources.archives._decoded": READERS_OF_SOURCES,  # predict passes only directories.
    "tfrecord_tools.sources.archives._readings": READERS_OF_SOURCES,  # predict passes only directories.
    "tfrecord_tools.sources.stores.list_store": READERS_OF_SOURCES,  # predict passes only directories.
    "tfrecord_tools.sources.archives._zip_members": READERS_OF_SOURCES,  # predict passes only directories.
    "tfrecord_tools.sources.archives.members": READERS_OF_SOURCES,  # predict passes only directories.
    "tfrecord_tools.sources.file_sets._matching": READERS_OF_SOURCES,  # predict passes only directories.
    # verify keeps no records, so it has no --cache_bytes.
    "tfrecord_tools.records.open_dataset": WITH_CACHE,
    "tfrecord_tools.remote.opening.open_bucket": WITH_CACHE,
    "tfrecord_tools.remote.fetching.Fetcher._disk_failed": WITH_CACHE,
    "trainers.fitting.bucket.lines": OF_IMAGES,  # features reads each record once.
    # audit computes features as a training does, but logs nothing.
    "trainers.tracking.logbook.check_names": TRAINING,
    "trainers.tracking.mlflow_run._experiment": TRAINING,
    "trainers.tracking.wandb_run.WandbRun.check": TRAINING,
    # adopt has no table of --relabel, so no rows of it are replaced.
    "tfrecord_tools.layout.decisions.Decisions.notes": ("tfrecord_tools.convert",),
    "trainers.backbones.find": (*TRAINING, "trainers.compare"),  # evaluate asks which trainers read features.
    "trainers.recipes.ModelConfig.__post_init__": TRAINING,  # compare and evaluate use default values.
    "trainers.recipes.ModelConfig._check_weights": (*TRAINING, "trainers.audit"),  # The others use default values.
    "trainers.recipes.ModelConfig._check_model_weights": ("trainers.scratch",),  # Others have no --model.
    "trainers.training_options._check_model": ("trainers.scratch",),  # Others have no --model.
    "trainers.fitting.setup._check_compiled": ("trainers.scratch",),  # Others have no --model.
    "trainers.recipes.Phase.__post_init__": TRAINING,  # compare and evaluate use default values.
    "trainers.recipes._checked_size": TRAINING,  # compare and evaluate use default values.
    "trainers.recipes.Recipe.__post_init__": OF_IMAGES,  # compare, evaluate and features use default augmentations.
    "trainers.recipes.Recipe._check_class_weights": TRAINING,  # compare and evaluate use default values.
    "trainers.recipes.TrainConfig.__post_init__": OF_IMAGES,  # features has no such flags.
    "trainers.training_options.train": OF_IMAGES,  # features has no such flags.
    "trainers.training_options._IMAGES": OF_IMAGES,  # features has no such options.
    "trainers.training_options.recipe": OF_IMAGES,  # features has no option augment.
    "trainers.run_directory._HASHES": TRAINING,  # compare does not compare flags.
    "trainers.fitting.notes.lines": OF_IMAGES,  # features does not augment.
    "trainers.fitting.notes.may_be_mirrored": OF_IMAGES,  # Reports show the flag in the command of a trainer.
    "tfrecord_tools.bench.BenchConfig.__post_init__": ("tfrecord_tools.bench",),  # Trainers pass checked values.
    "trainers.models.engines.check": WITH_ENGINE,  # Other commands use TensorFlow.
    "trainers.models.engines._check_device": WITH_ENGINE,  # Other commands use TensorFlow.
    "trainers.models.engines._OpenVino._converted": WITH_ENGINE,  # Other commands use TensorFlow.
    "trainers.models.engines._OpenVino._check": WITH_ENGINE,  # Other commands use TensorFlow.
    "trainers.fit.describe": ("trainers.finetune",),  # Other commands leave `unfreeze` at None.
    "trainers.fitting.csv_dataset.as_dataset": ("trainers.scratch",),  # Other trainers have no option csv.
    "trainers.fitting.inputs.check_cache": OF_IMAGES,  # features has no such flags.
    "trainers.fitting.setup.check": OF_IMAGES,  # features has no such flags.
    "trainers.fitting.bottleneck.verdict": OF_IMAGES,  # features has no such flags.
    "trainers.recipes._with_unfrozen": ("trainers.finetune",),  # Other commands leave `unfreeze` at None.
    "trainers.models.layers.chosen_layers": ("trainers.finetune",),  # Other recipes train the head or all layers.
    "trainers.models.layers._matching": ("trainers.finetune",),  # Other recipes train the head or all layers.
    "trainers.models.layers.last_stage": ("trainers.finetune",),  # Other recipes train the head or all layers.
    "trainers.models.layers._instead": ("trainers.finetune",),  # Other recipes train the head or all layers.
}


@pytest.fixture(scope="module")
def shown_by() -> dict[str, list[str]]:
    """Return definition -> the commands that can reach it."""
    reach = {command: reached(command, BORDER) for command in COMMANDS}
    return {name: [command for command in COMMANDS if name in reach[command]] for name in definitions()}


def parts_of_a_command(definition: Definition) -> set[str]:
    """Return the commands that a definition builds, with arguments such as `--seed={}`."""
    texts = " ".join(text for _, text in definition.texts(every=True))
    passes_to_any = "trainers.{}" in texts or "trainers.results.advice.command" in definition.references()[0]
    return named_commands(texts) | (set(TRAINING) if passes_to_any else set())


def problems(name: str, definition: Definition, commands: list[str]) -> Iterator[str]:
    """Yield the flags in the texts of a definition that the commands do not have."""
    for line, text in definition.texts():
        alone = re.fullmatch(r"--(\w+)(=\S*)?", text)
        parts = set(TRAINING) if name in OF_TRAINERS else parts_of_a_command(definition)
        if alone and any(has(one, alone[1]) for one in parts):
            continue
        for flag in unknown(text, NARROWED.get(name, commands)):
            lacking = [command for command in NARROWED.get(name, commands) if not has(command, flag)]
            yield f"{name}, line {line}: --{flag}, shown by {', '.join(lacking) or 'no command'}: {text!r}"


def test_texts_name_flags_that_their_reader_has(shown_by: dict[str, list[str]]) -> None:
    # test_help_names_flags_of_its_command checks the texts of flags.
    of_commands = {
        n: d
        for n, d in definitions().items()
        if not re.search(r"\bdefine_|\._define_|OPTIONS|training_options\._[A-Z]|_options?$", n)
    }
    assert sum(len(list(definition.texts())) for definition in of_commands.values()) > 150
    lines = [line for name, definition in of_commands.items() for line in problems(name, definition, shown_by[name])]
    assert lines == []


def test_narrowed_definitions_exist_and_are_needed(shown_by: dict[str, list[str]]) -> None:
    for name, commands in NARROWED.items():
        assert set(commands) < set(shown_by[name]), name
    assert definitions().keys() >= BORDER


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_flags_of_its_command(command: str) -> None:
    about = importlib.import_module(command).__doc__ or ""
    assert list(unknown(about, [command])) == []
    for name, flag in defined()[command].items():
        assert list(unknown(flag.help, [command])) == [], name
        assert re.fullmatch(r"\S.*\.", flag.help), f"--{name}: {flag.help!r} does not end with a period"


@pytest.mark.parametrize(
    ("text", "commands", "flags"),
    [
        ("Pass --order=balanced.", ["trainers.frozen"], []),
        ("Pass --order=balanced.", ["trainers.frozen", "trainers.features"], ["order"]),  # One command lacks it.
        ("Pass --order=balanced.", [], ["order"]),  # No command shows it.
        ("python -m trainers.frozen --order=blocks", ["trainers.features"], []),  # The command is named.
        ("python -m trainers frozen --order=blocks", ["trainers.features"], []),
        ("Use --order of trainers.frozen.", ["trainers.features"], []),
        ("Use trainers.frozen. There is --order.", ["trainers.features"], ["order"]),  # Another sentence.
        ("convert with --resize", ["trainers.frozen"], ["resize"]),  # A verb.
        ("more than convert's --max_pixels=3", ["trainers.predict"], []),
        ("--noprobe, --[no]probe and --nocsv", ["trainers.scratch"], ["nocsv"]),
        ("see --help; --name=value", ["trainers.doctor"], []),
        ("<code>--resize</code>", ["trainers.frozen"], ["resize"]),
        ("rows of ---- and a--b", ["trainers.doctor"], []),
    ],
)
def test_unknown_flags_in_texts(text: str, commands: list[str], flags: list[str]) -> None:
    assert list(unknown(text, commands)) == flags


@pytest.mark.parametrize("command", ["trainers.scratch", "trainers.predict"])
def test_answers_to_unknown_flags_name_flags_of_the_command(command: str) -> None:
    message = run(command, "--shuffle").stderr
    assert message.startswith("error: --shuffle: is not a flag of this command. ")
    assert ("--seed" in message) == has(command, "seed")
    assert set(unknown(message, [command])) == {"shuffle"}


# --- Texts that are built at run time ---------------------------------------------------------------------------------


def test_flags_of_images_are_those_that_features_lacks() -> None:
    lacking = defined()["trainers.frozen"].keys() - defined()["trainers.features"].keys()
    assert lacking == set(recipes.IMAGE_FLAGS)


@pytest.mark.parametrize(
    ("trainer", "flags", "expected"),
    [
        ("frozen", ("--order=balanced", "--class_weights=balanced"), "python -m trainers.frozen --order=balanced"),
        ("features", ("--order=balanced", "--class_weights=balanced"), "python -m trainers.features --class_weights="),
        ("features", ("--order=balanced", "--probe"), ""),
        ("mine", ("--seed=1",), ""),  # From Python: no command.
        ("", ("--seed=1",), ""),
    ],
)
def test_advice_takes_the_first_flag_that_the_trainer_has(trainer: str, flags: tuple[str, ...], expected: str) -> None:
    command = advice.command(trainer, *flags)
    assert command.startswith(expected)
    assert bool(command) == bool(expected)


def worst_report(trainer: str) -> report.Facts:
    """Return the facts of a report with every finding except "perhaps_guessed", which excludes "guessed"."""
    truth = np.repeat([0, 1], [600, 40])
    answers = np.where(truth == 1, np.arange(640) % 2, np.arange(640) < 30)  # Half of the second class is not found.
    probabilities = np.eye(3)[answers.astype(int)] * 0.97 + 0.01
    predicted = Predictions(
        classes=("left", "right", "up"),
        paths=[f"{i}.jpg" for i in range(640)],
        labels=truth,
        predicted=answers.astype(int),
        probabilities=probabilities,
        records=np.arange(640),
    )
    metrics: Metrics = predictions.summary(predicted) | {"split": "s", "note": "n", "corrupt": ["record 3"]}
    metrics["unreadable"] = ["cut.jpg: damaged image"]
    metrics["without_issues"] = {"left_out": 3, "count": 637, "accuracy": 0.9, "accuracy_interval": [0.8, 0.95]}
    return report.Facts(
        info=ModelInfo(classes=("left", "right", "up"), image_size=8, trainer=trainer),
        predictions=predicted,
        metrics=metrics,
        settings={"recipe": {"augment": named.settings_of("standard")}},
        history=[{"data_wait": 0.9, "loss": 0.5, "val_loss": 0.5}, {"data_wait": 0.9, "loss": 0.1, "val_loss": 0.9}],
        plots={},
        mistakes=[],
    )


@pytest.mark.parametrize("trainer", [*recipes.RECIPES, "mine"])
def test_reports_name_flags_of_the_trainer(trainer: str) -> None:
    found = report.findings(worst_report(trainer))
    assert {finding.name for finding in found} == {rule.name for rule in report._RULES} - {"perhaps_guessed"}
    fewer = dataclasses.replace(worst_report(trainer), metrics={**worst_report(trainer).metrics, "accuracy": 0.94})
    found += [finding for finding in report.findings(fewer) if finding.name == "perhaps_guessed"]
    assert {finding.name for finding in found} == {rule.name for rule in report._RULES}
    text = "\n".join(finding.text for finding in found)
    for reader in {f"trainers.{trainer}", "trainers.evaluate"} & set(COMMANDS):  # Who trains, and who judges later.
        assert list(unknown(text, [reader])) == []
    assert set(FLAG.findall(text)) == {
        "features": {*TRAINED, "batch_size"},
        "mine": {"update", "decisions", "resize", "overwrite"},
    }.get(trainer, {*TRAINED, "order", "probe", "cache", "resize", "augment"})


def test_cards_and_comparisons_name_flags_of_commands() -> None:
    # Both name other commands in full. The card's own flags are those of convert.
    for rule in card_page._RULES:
        assert list(unknown(f"{rule.title} {rule.text} {rule.advice}", ["tfrecord_tools.convert"])) == []
    for compared in comparison_page._RULES:
        assert list(unknown(f"{compared.title} {compared.text} {compared.advice}", ["trainers.compare"])) == []


@pytest.mark.parametrize("binding", ["reading", "decoding", "augmenting", "reading from memory"])
@pytest.mark.parametrize(
    ("command", "given"), [("tfrecord_tools.bench", {}), *((one, {"in_memory": "--cache=memory"}) for one in OF_IMAGES)]
)
def test_verdicts_name_flags_of_their_command(command: str, given: dict[str, Any], binding: str) -> None:
    verdict = bench.verdict([Stage("start", 1e6), Stage(binding, 100.0)], 1000, Geometry.of(160, 0.875), **given)
    assert verdict.startswith(f"bottleneck: {binding} takes ")
    assert list(unknown(verdict, [command])) == []
