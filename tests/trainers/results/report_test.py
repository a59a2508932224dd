"""The report of a run: a complete page with the right figures, safe for all names."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
import types
from collections import Counter
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from image_sources import converted
from judged_runs import EVIL, HISTORY, Page, color_model, judged_pair, photos, read_csv
from matplotlib import font_manager
from PIL import Image

from tfrecord_tools import dataset
from tfrecord_tools.decoding import decoder
from trainers.models import model_file
from trainers.models.model_file import ModelInfo
from trainers.results import pictures, plots, predictions, report, views
from trainers.results.predictions import Predictions
from trainers.results.report import Facts


def written(directory: Path, out: Path, run: Path, **more: object) -> Page:
    """Evaluate the test split, write the report and return it parsed."""
    model, info = model_file.load(run / "model.keras")
    data = dataset.open(out)
    records = data.records("test")
    predicted = predictions.of_records(views.predictor(model), info, records)
    metrics = predictions.summary(predicted) | {"split": "the test split", "note": "No choice.", "corrupt": []} | more
    shown = pictures.of_records(info, records, predicted)
    report.write(directory, model=model, info=info, pictures=shown, predicted=predicted, metrics=metrics, run=run)
    return Page((directory / "report.html").read_text())


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return judged_pair(tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def two(pair, tmp_path_factory) -> tuple[Path, Page]:
    directory = tmp_path_factory.mktemp("report")
    return directory, written(directory, *pair, seconds=20.0, steps=15, images_per_second=123.4)


@pytest.fixture(scope="module")
def evil() -> Facts:
    """Return the facts of a model with hostile names of classes and files."""
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.95, 0.05]], np.float32)
    predicted = Predictions(
        classes=(EVIL, "<script>alert(1)</script>"),
        probabilities=probabilities,
        predicted=probabilities.argmax(1),
        paths=[f"{EVIL}/{i}\n.jpg" for i in range(4)],
        labels=np.array([0, 1, 0, 1]),
        records=np.arange(4),
    )
    info = ModelInfo(classes=predicted.classes, image_size=8, trainer=EVIL, dataset_name=EVIL, versions={EVIL: EVIL})
    return Facts(
        info=info,
        predictions=predicted,
        metrics=predictions.summary(predicted) | {"split": EVIL, "note": EVIL, "corrupt": [EVIL]},
        settings={"flags": {EVIL: {EVIL: EVIL}}, "environment": {EVIL: EVIL}},
        history=[],
        plots=plots.draw(predicted, 0.5, [dict(row, phase=EVIL) for row in HISTORY]),
        mistakes=[report.Mistake(number=3, image=b"jpeg", heat=b"jpeg")],
    )


def test_all_files_are_written(two):
    directory, _ = two
    names = sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
    drawn = ("accuracy", "calibration", "confusion", "loss", "precision_recall", "probabilities", "roc")
    assert names == [*(f"plots/{name}.png" for name in drawn), "predictions.csv", "report.html", "suspects.csv"]
    for name in drawn:
        with Image.open(directory / f"plots/{name}.png") as image:
            assert min(image.size) > 300
            assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def test_page_loads_nothing(two):
    directory, page = two
    assert "script" not in page.elements
    assert "http" not in (directory / "report.html").read_text().replace("http-equiv", "")
    for tag, name, value in page.attributes:
        if name in ("src", "href", "xlink:href"):
            assert value.startswith(("data:", "#")), (tag, name, value)
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in page.values("content")


def test_links_have_targets_and_ids_are_unique(two):
    _, page = two
    ids = page.values("id")
    assert max(Counter(ids).values()) == 1
    targets = [value[1:] for value in page.values("href") if value.startswith("#")]
    targets += re.findall(r"url\(#([^)]*)\)", " ".join(value for _, _, value in page.attributes))
    assert len(targets) > 20
    assert set(targets) <= set(ids)


def test_plots_take_the_colors_of_the_page(two):
    directory, page = two
    text = (directory / "report.html").read_text()
    style = text[: text.index("</style>")]
    for figure in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        used = set(re.findall(r"(\w+): (#[0-9a-f]{3,6})\b", re.sub(r'href="[^"]*"', "", figure)))
        assert len(used) > 3
        for role, color in used:  # Without a rule, a color would stay the same in dark mode.
            name = next(name for name, value in plots.COLORS.items() if value == color)
            assert f'[style*="{role}: {color}"] {{ {role}: var(--{name}) !important; }}' in style
    for name, value in plots.COLORS.items():
        assert re.search(rf"--{name}: {value}", style)  # In light mode, as in the PNG.
        assert len(re.findall(rf"--{name}:", style)) >= 2  # Light and dark mode.
    assert page.elements["svg"] == 7


def test_figures_are_those_of_the_predictions(two):
    directory, page = two
    rows = read_csv(directory / "predictions.csv")
    wrong = [row for row in rows if row["label"] != row["prediction"]]
    right = len(rows) - len(wrong)
    assert 0 < len(wrong) < 10
    assert f"{right / len(rows):.1%}" in page.text
    assert f"The list has {len(wrong)} of {len(wrong)} mistakes. The most confident mistake is first." in " ".join(
        page.text.split()
    )
    for row in wrong:
        assert row["path"] in page.text
    assert page.elements["img"] == 2 * len(wrong)  # Each with its evidence.
    text = " ".join(page.text.split())
    assert "The training took 20 s for 15 steps, including validation and saving." not in text  # There is no speed.
    assert "95% interval (Wilson)" in text
    assert not re.search(r"\d %", text)  # Percentages are written in one way.
    assert "--seed=0 --epochs=head=2" in text


def test_mistakes_show_the_input_of_the_model(pair):
    out, run = pair
    model, info = model_file.load(run / "model.keras")
    records = dataset.open(out).records("test")
    predicted = predictions.of_records(views.predictor(model), info, records)
    mistakes = report._mistakes(model, pictures.of_records(info, records, predicted), predicted)
    assert len(mistakes) > 1
    assert predicted.labels is not None
    assert predicted.records is not None
    for mistake in mistakes:
        assert predicted.labels[mistake.number] != predicted.predicted[mistake.number]
        with Image.open(io.BytesIO(mistake.image)) as image:
            shown = np.asarray(image.convert("RGB"), float)
        record = records[int(predicted.records[mistake.number])]
        expected = decoder.decode(record["image"], info.image_size, info.crop)
        assert np.abs(shown.mean((0, 1)) - expected.mean((0, 1))).max() < 8  # JPEG changes pixels a little.
    surest = [predicted.confidence[mistake.number] for mistake in mistakes]
    assert surest == sorted(surest, reverse=True)


def test_names_are_escaped(evil):
    text = report.render(evil)
    page = Page(text)
    assert "script" not in page.elements
    assert EVIL not in text  # It occurs escaped only.
    assert f"{EVIL}/3\\n.jpg" in page.text  # A line break in a name becomes \\n.
    assert page.text.count(EVIL) > 8
    assert "<script>" not in text
    three = dataclasses.replace(
        evil.predictions, classes=(*evil.predictions.classes, f"third {EVIL}"), labels=np.array([2, 1, 0, 0]),
        probabilities=np.pad(evil.predictions.probabilities, ((0, 0), (0, 1))),
    )  # fmt: skip
    page = changed(evil, three)
    assert "Most frequent confusions" in page.text
    assert f"third {EVIL}" in page.text


def changed(evil: Facts, predicted: Predictions, **changes: Any) -> Page:
    """Return the page of other predictions, without a history."""
    metrics = {**evil.metrics, **predictions.summary(predicted)}
    drawn = plots.draw(predicted, 0.5, [])
    return Page(
        report.render(dataclasses.replace(evil, predictions=predicted, plots=drawn, metrics=metrics, **changes))
    )


def test_without_history_and_mistakes(evil):
    predicted = dataclasses.replace(evil.predictions, labels=evil.predictions.predicted)
    page = changed(evil, predicted, mistakes=[], settings={})
    assert "No mistakes in 4 images." in page.text
    assert "Training" not in page.text
    assert "Speed" not in page.text


def test_images_of_one_class_have_no_roc(evil):
    page = changed(evil, dataclasses.replace(evil.predictions, labels=np.zeros(4, int)))
    assert page.elements["svg"] == 2
    assert "Threshold" not in page.text


def titles(facts: Facts) -> list[str]:
    return [finding.title for finding in report.findings(facts)]


@pytest.mark.parametrize(("waits", "reported"), [([0.6, 0.4], True), ([0.1], False), ([], False)])
def test_waiting_for_input_is_reported(waits, reported, evil):
    facts = dataclasses.replace(evil, history=[{"data_wait": wait} for wait in waits])
    assert ("The model waited for its input 50% of the time" in titles(facts)) == reported


@pytest.mark.parametrize(
    ("trainer", "advice"),
    [
        (
            "finetune",
            "python -m trainers.finetune --probe measures the input and the model. python -m tfrecord_tools.convert"
            " --resize=N makes records that decode faster. python -m trainers.finetune --cache=memory decodes each"
            " image only once.",
        ),
        (
            "features",
            "Each step on features is short, so the model often waits for the next batch. python -m"
            " trainers.features --batch_size=N with a larger N makes fewer and longer steps.",
        ),
    ],
)
def test_advice_for_slow_input_names_flags_of_the_trainer(trainer, advice, evil):
    facts = dataclasses.replace(
        evil, info=dataclasses.replace(evil.info, trainer=trainer), history=[{"data_wait": 0.5}]
    )
    (finding,) = (finding for finding in report.findings(facts) if finding.title.startswith("The model waited"))
    assert re.sub(r"<[^>]+>", "", finding.text).strip().endswith(advice)


def test_throughput_is_drawn_where_it_is_known(evil):
    rows = [dict(row, images_per_second=100.0 + i, data_wait=0.2) for i, row in enumerate(HISTORY)]
    assert "waiting for input" in plots.draw(evil.predictions, 0.5, rows)["throughput"].svg
    alone = [{name: value for name, value in row.items() if name != "data_wait"} for row in rows]
    assert "waiting for input" not in plots.draw(evil.predictions, 0.5, alone)["throughput"].svg


def test_weak_class_and_bad_calibration_are_reported(evil):
    labels = np.array([0] * 100 + [1] * 100)
    probabilities = np.tile(np.array([[0.98, 0.02]], np.float32), (200, 1))
    probabilities[100:150] = [0.02, 0.98]  # Half of the second class is predicted right.
    predicted = dataclasses.replace(
        evil.predictions, labels=labels, probabilities=probabilities, predicted=probabilities.argmax(1),
        paths=["x"] * 200, records=np.arange(200),
    )  # fmt: skip
    text = changed(evil, predicted).text
    assert "Class <script>alert(1)</script>: recall 50.0%" in text
    assert "The model disagrees with 50 labels and is at least 90% sure" in text
    assert "The model is more confident than accurate" in text


def of_counts(evil: Facts, counts: list[list[int]], confidence: float = 0.9) -> Facts:
    """Return facts of predictions with this confusion matrix, all with the same confidence."""
    table = np.array(counts)
    pairs = np.repeat(np.stack(np.unravel_index(np.arange(table.size), table.shape), 1), table.ravel(), 0)
    probabilities = np.full((len(pairs), len(table)), (1 - confidence) / (len(table) - 1), np.float32)
    probabilities[np.arange(len(pairs)), pairs[:, 1]] = confidence
    predicted = Predictions(
        classes=tuple(f"class {i}" for i in range(len(table))), probabilities=probabilities, predicted=pairs[:, 1],
        paths=["x"] * len(pairs), labels=pairs[:, 0], records=np.arange(len(pairs)),
    )  # fmt: skip
    metrics = {**evil.metrics, **predictions.summary(predicted)}
    return dataclasses.replace(evil, predictions=predicted, metrics=metrics)


@pytest.mark.parametrize(
    ("counts", "weak"),
    [
        ([[480, 20, 0], [350, 150, 0], [1, 0, 0]], 1),  # The class with one image does not hide it.
        ([[80, 20, 0], [20, 80, 0], [1, 0, 0]], None),  # One image is not enough for a finding.
        ([[60, 40], [40, 60]], None),
        ([[100, 0], [60, 40]], 1),
    ],
)
def test_weakest_class(counts, weak, evil):
    weakest = report._weakest(of_counts(evil, counts).predictions)
    assert (weakest and weakest[0]) == weak


@pytest.mark.parametrize(
    ("counts", "title"),
    [
        ([[50, 0], [40, 0]], "No better than always guessing class 0, the largest class"),
        ([[30, 20], [20, 20]], "No better than always guessing class 0, the largest class"),
        ([[35, 15], [20, 20]], "Not clearly better than always guessing class 0, the largest class"),
        ([[45, 5], [5, 35]], None),
        ([[8, 2], [0, 0]], None),  # Images of one class do not tell.
    ],
)
def test_guessing_the_largest_class_is_the_least(counts, title, evil):
    found = [each for each in titles(of_counts(evil, counts)) if "guessing" in each]
    assert found == ([title] if title else [])


@pytest.mark.parametrize(
    ("counts", "title"),
    [
        ([[570, 30], [20, 20]], "Imbalanced classes: 40 to 600 images, balanced accuracy 72.5%"),
        ([[570, 30, 0], [20, 20, 0], [0, 0, 0]], "Imbalanced classes: 40 to 600 images, balanced accuracy 72.5%"),
        ([[350, 30], [20, 20]], None),
    ],
)
def test_imbalanced_classes_are_reported(counts, title, evil):
    found = [each for each in titles(of_counts(evil, counts)) if each.startswith("Imbalanced")]
    assert found == ([title] if title else [])


@pytest.mark.parametrize(
    ("losses", "validation", "recipe", "epoch"),
    [
        ([0.7, 0.5, 0.3, 0.1], [0.6, 0.5, 0.6, 0.8], {}, 2),
        ([0.7, 0.5, 0.3, 0.1], [0.6, 0.5, 0.6, 0.8], {"early_stopping": 3}, None),  # It restores the best weights.
        ([0.7, 0.5, 0.3, 0.1], [0.6, 0.5, 0.51, 0.52], {}, None),  # So little may be chance.
        ([0.7, 0.5, 0.7, 0.9], [0.6, 0.5, 0.7, 0.9], {}, None),  # The training diverges.
        ([0.7, 0.5, 0.3, 0.1], [0.6, 0.5, 0.4, 0.3], {}, None),
    ],
)
def test_overfitting_is_reported(losses, validation, recipe, epoch, evil):
    history = [{"loss": loss, "val_loss": value} for loss, value in zip(losses, validation)]
    facts = dataclasses.replace(evil, history=history, settings={"recipe": recipe})
    found = [title for title in titles(facts) if title.startswith("Overfitted")]
    assert found == ([f"Overfitted since epoch {epoch}"] if epoch else [])


@pytest.mark.parametrize(
    ("recipe", "classes", "text"),
    [
        ({}, 2, ""),
        ({"label_smoothing": 0.0, "mixup": 0.0}, 2, ""),
        ({"mixup": 0.5}, 2, "The training loss is computed with MixUp, and the validation loss is computed without."),
        (
            {"label_smoothing": 0.1, "cutmix": 1.0},
            2,
            "The training loss is computed with label smoothing 0.1 and CutMix, and the validation loss is computed"
            " without. Even if every prediction is right, the training loss stays above 0.20.",
        ),
        ({"label_smoothing": 0.1}, 10, "stays above 0.50."),
    ],
)
def test_training_loss_under_label_smoothing_is_explained(recipe, classes, text, evil):
    info = ModelInfo(classes=tuple(map(str, range(classes))), image_size=8)
    explained = report._blending(dataclasses.replace(evil, info=info, settings={"recipe": recipe}))
    assert explained.endswith(text)
    assert bool(explained) == bool(text)


def test_least_loss_is_that_of_keras(evil):
    targets = np.full((1, 10), 0.01)
    targets[0, 0] = 0.91
    least = float(keras.losses.CategoricalCrossentropy()(targets, targets))
    info = ModelInfo(classes=tuple("abcdefghij"), image_size=8)
    assert report._least_loss(dataclasses.replace(evil, info=info), 0.1) == pytest.approx(least, rel=1e-5)


@pytest.mark.parametrize(
    ("right", "confidence", "title"),
    [
        (42, 0.9, None),  # For 50 images, the interval of 84 % includes 90 %.
        (840, 0.9, "The model is more confident than accurate"),
        (970, 0.9, "The model is less confident than accurate"),
        (920, 0.9, None),  # A difference of 2 % does not matter.
    ],
)
def test_bad_calibration_is_reported_if_chance_does_not_explain_it(right, confidence, title, evil):
    total = 50 if right < 50 else 1000
    half = total // 2
    wrong = total - right
    facts = of_counts(evil, [[half - wrong, wrong], [0, half]], confidence)
    found = [finding.title for finding in report.findings(facts) if finding.section == "calibration"]
    assert found == ([title] if title else [])


def test_plots_have_texts(two):
    _, page = two
    texts = [value for tag, name, value in page.attributes if (tag, name) == ("figure", "aria-label")]
    assert len(texts) == 7
    assert any(re.fullmatch(r"ROC, area \d\.\d{4}", text) for text in texts)
    assert any(re.fullmatch(r"Calibration, expected error \d+\.\d%", text) for text in texts)
    assert any(text.startswith("Confusion matrix: ") for text in texts)
    assert any(text.startswith("Precision over recall of reds, ") for text in texts)
    assert "" not in [cell.strip() for cell in re.findall(r"<th[^>]*>(.*?)</th>", (two[0] / "report.html").read_text())]


def test_axes_are_named_after_their_measures(evil):
    drawn = plots.draw(evil.predictions, 0.5, [])
    assert {"recall", "precision"} <= set(re.findall(r">([^<>]*)</text>", drawn["precision_recall"].svg))
    assert "recall (true positive rate)" in drawn["roc"].svg


def test_letters_that_no_font_has_are_one_note(evil, capsys, recwarn):
    lines: list[str] = []
    predicted = dataclasses.replace(evil.predictions, classes=("고양이\U0001e900", "개"))  # Few fonts have the last.
    svg = plots.draw(predicted, 0.5, [], lines.append)["confusion"].svg
    assert "고양이" in svg
    (line,) = lines
    assert line.startswith("note: no installed font has these letters of the class names: ")
    assert "\U0001e900" in line
    assert line.endswith(" report.html uses the fonts of the browser and may show them.")
    assert capsys.readouterr().out == ""
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


def test_fonts_are_chosen_by_their_letters(monkeypatch):
    entries = [
        ("Last Resort", "normal", 400),
        ("bold", "normal", 700),
        ("italic", "italic", 400),
        ("useless", "normal", 400),
        ("regular", "normal", 400),
    ]
    fonts = [types.SimpleNamespace(fname=name, name=name, style=style, weight=w) for name, style, w in entries]
    letters = {"Last Resort": "개고x", "bold": "개고", "italic": "개고", "useless": "q", "regular": "개"}
    monkeypatch.setattr(font_manager.fontManager, "ttflist", fonts)
    monkeypatch.setattr(plots, "_letters", lambda path: set(letters.get(path, "abc")))
    assert plots._fonts("abc") == (["DejaVu Sans"], [])
    assert plots._fonts("a개\n") == (["DejaVu Sans", "regular"], [])
    assert plots._fonts("개고x") == (["DejaVu Sans", "regular", "bold"], ["x"])


def test_three_classes(tmp_path):
    colors = ("blues", "greens", "reds")
    source = photos(tmp_path / "src", {f"{split}/{c}": n for split, n in (("train", 2), ("test", 15)) for c in colors})
    converted(source, tmp_path / "out")
    data = dataset.open(tmp_path / "out")
    (tmp_path / "run").mkdir()
    info = model_file.describe(data, image_size=16, crop=0.0, trainer="scratch")
    model_file.save(color_model(info.classes), info, tmp_path / "run/model.keras")
    page = written(tmp_path, tmp_path / "out", tmp_path / "run")
    assert "Most frequent confusions" in page.text
    assert "Threshold" not in page.text
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == ["calibration.png", "confusion.png"]
    assert all(name in page.text for name in colors)


def test_of_a_thousand_classes_the_worst_fifty_are_listed(evil):
    random = np.random.default_rng(0)
    names = tuple(f"class {i}" for i in range(1000))
    labels = np.concatenate([np.arange(1000), random.integers(0, 1000, 2000)])
    probabilities = random.dirichlet(np.full(1000, 0.01), 3000).astype(np.float32)
    predicted = Predictions(
        classes=names, probabilities=probabilities, predicted=probabilities.argmax(1), paths=["x"] * 3000,
        labels=labels, records=np.arange(3000),
    )  # fmt: skip
    page = changed(evil, predicted, info=ModelInfo(classes=names, image_size=8))
    assert "The table has the 50 worst of 1,000 classes." in page.text
    (png,) = re.findall(r'"data:image/png;base64,([^"]*)"', plots.draw(predicted, 0.5, [])["confusion"].svg)
    with Image.open(io.BytesIO(base64.b64decode(png))) as image:
        assert min(image.size) >= 1000  # The matrix has all classes.
    assert page.elements["tr"] < 100


def test_same_predictions_give_the_same_plots(evil):
    rows = [dict(row, phase=EVIL) for row in HISTORY]
    assert plots.draw(evil.predictions, 0.5, rows) == evil.plots
