"""The report of a run: complete in one page, true to its figures, and safe whatever a class or a file is called."""

from __future__ import annotations

import base64
import dataclasses
import html.parser
import io
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_sources import converted
from judged_runs import HISTORY, color_model, judged_pair, photos, read_csv
from PIL import Image

from tfrecord_tools import dataset
from tfrecord_tools.decoding import decoder
from trainers.models import model_file
from trainers.models.model_file import ModelInfo
from trainers.results import plots, predictions, report
from trainers.results.predictions import Predictions
from trainers.results.report import Facts

EVIL = "<b>\"&'$x^2$"  # Ends an attribute, begins an element, is a formula for matplotlib.


class Page(html.parser.HTMLParser):
    """Checks that elements are closed in order, and gathers what is there."""

    VOID = ("meta", "link", "img", "br")

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attributes]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attributes]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += " " + data if self.open[-1:] != ["style"] else ""

    def values(self, name: str) -> list[str]:
        return [value for _, key, value in self.attributes if key == name]


def written(directory: Path, out: Path, run: Path, **more: object) -> Page:
    """Judges the test split and writes its report."""
    model, info = model_file.load(run / "model.keras")
    data = dataset.open(out)
    records = data.records("test")
    predicted = predictions.of_records(model, info, records, data.class_names)
    metrics = predictions.summary(predicted) | {"split": "the test split", "note": "No choice.", "corrupt": []} | more
    report.write(directory, model=model, info=info, records=records, predicted=predicted, metrics=metrics, run=run)
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
    """Of a model whose class and files have bad names."""
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


def test_everything_is_written(two):
    directory, _ = two
    names = sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
    drawn = ("accuracy", "calibration", "confusion", "loss", "precision_recall", "probabilities", "roc")
    assert names == [*(f"plots/{name}.png" for name in drawn), "predictions.csv", "report.html", "suspects.csv"]
    for name in drawn:
        with Image.open(directory / f"plots/{name}.png") as image:
            assert min(image.size) > 300
            assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def test_the_page_needs_nothing_else(two):
    directory, page = two
    assert "script" not in page.elements
    assert "http" not in (directory / "report.html").read_text().replace("http-equiv", "")
    for tag, name, value in page.attributes:
        if name in ("src", "href", "xlink:href"):
            assert value.startswith(("data:", "#")), (tag, name, value)
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in page.values("content")


def test_links_lead_somewhere_and_names_are_one(two):
    _, page = two
    ids = page.values("id")
    assert max(Counter(ids).values()) == 1
    targets = [value[1:] for value in page.values("href") if value.startswith("#")]
    targets += re.findall(r"url\(#([^)]*)\)", " ".join(value for _, _, value in page.attributes))
    assert len(targets) > 20
    assert set(targets) <= set(ids)


def test_plots_take_the_colours_of_the_page(two):
    directory, page = two
    text = (directory / "report.html").read_text()
    style = text[: text.index("</style>")]
    for figure in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        used = set(re.findall(r"(\w+): (#[0-9a-f]{3,6})\b", re.sub(r'href="[^"]*"', "", figure)))
        assert len(used) > 3
        for role, color in used:  # A color that the style does not know would stay as it is in the dark.
            name = next(name for name, value in plots.COLORS.items() if value == color)
            assert f'[style*="{role}: {color}"] {{ {role}: var(--{name}) !important; }}' in style
    for name, value in plots.COLORS.items():
        assert re.search(rf"--{name}: {value}", style)  # In the light, as in the PNG.
        assert len(re.findall(rf"--{name}:", style)) >= 2  # And in the dark.
    assert page.elements["svg"] == 7


def test_the_figures_are_those_of_the_predictions(two):
    directory, page = two
    rows = read_csv(directory / "predictions.csv")
    wrong = [row for row in rows if row["label"] != row["prediction"]]
    right = len(rows) - len(wrong)
    assert 0 < len(wrong) < 10
    assert f"{right / len(rows):.1%}" in page.text
    assert f"{len(wrong)} mistakes, the {len(wrong)} surest of them shown" in " ".join(page.text.split())
    for row in wrong:
        assert row["path"] in page.text
    assert page.elements["img"] == 2 * len(wrong)  # With heat.
    text = " ".join(page.text.split())
    assert "It took 20 s for 15 steps, validation and saving included; steps alone made 123 images a second." in text
    assert "95 % interval, Wilson" in text
    assert "--seed=0 --epochs=head=2" in text


def test_the_mistakes_show_what_the_model_saw(pair):
    out, run = pair
    model, info = model_file.load(run / "model.keras")
    records = dataset.open(out).records("test")
    predicted = predictions.of_records(model, info, records)
    mistakes = report._mistakes(model, info, records, predicted)
    assert len(mistakes) > 1
    assert predicted.labels is not None
    assert predicted.records is not None
    for one in mistakes:
        assert predicted.labels[one.number] != predicted.predicted[one.number]
        with Image.open(io.BytesIO(one.image)) as image:
            shown = np.asarray(image.convert("RGB"), float)
        record = records[int(predicted.records[one.number])]
        expected = decoder.decode(record["image"], info.image_size, info.crop)
        assert np.abs(shown.mean((0, 1)) - expected.mean((0, 1))).max() < 8  # JPEG.
    surest = [predicted.confidence[one.number] for one in mistakes]
    assert surest == sorted(surest, reverse=True)


def test_names_are_escaped(evil):
    text = report.render(evil)
    page = Page(text)
    assert "script" not in page.elements
    assert EVIL not in text  # As it is; escaped it is there.
    assert f"{EVIL}/3\\n.jpg" in page.text  # A line break in a name is written out.
    assert page.text.count(EVIL) > 8
    assert "<script>" not in text
    three = dataclasses.replace(
        evil.predictions, classes=(*evil.predictions.classes, f"third {EVIL}"), labels=np.array([2, 1, 0, 0]),
        probabilities=np.pad(evil.predictions.probabilities, ((0, 0), (0, 1))),
    )  # fmt: skip
    page = changed(evil, three)
    assert "Most often confused" in page.text
    assert f"third {EVIL}" in page.text


def changed(evil: Facts, predicted: Predictions, **changes: Any) -> Page:
    """The page of other predictions, without a history."""
    metrics = {**evil.metrics, **predictions.summary(predicted)}
    drawn = plots.draw(predicted, 0.5, [])
    return Page(
        report.render(dataclasses.replace(evil, predictions=predicted, plots=drawn, metrics=metrics, **changes))
    )


def test_without_history_and_mistakes(evil):
    predicted = dataclasses.replace(evil.predictions, labels=evil.predictions.predicted)
    page = changed(evil, predicted, mistakes=[], settings={})
    assert "None of 4 images was mistaken." in page.text
    assert "Training" not in page.text


def test_of_one_class_only_there_are_no_curves(evil):
    page = changed(evil, dataclasses.replace(evil.predictions, labels=np.zeros(4, int)))
    assert page.elements["svg"] == 2
    assert "Threshold" not in page.text


@pytest.mark.parametrize(("waits", "told"), [([0.6, 0.4], True), ([0.1], False), ([], False)])
def test_waiting_for_input_is_told(waits, told, evil):
    found = report.findings(dataclasses.replace(evil, history=[{"data_wait": wait} for wait in waits]))
    assert ("The model waited for its input 50% of the time" in [one.title for one in found]) == told


def test_throughput_is_drawn_where_it_is_known(evil):
    rows = [dict(row, images_per_second=100.0 + i, data_wait=0.2) for i, row in enumerate(HISTORY)]
    assert "waiting for input" in plots.draw(evil.predictions, 0.5, rows)["throughput"].svg
    alone = [{name: value for name, value in row.items() if name != "data_wait"} for row in rows]
    assert "waiting for input" not in plots.draw(evil.predictions, 0.5, alone)["throughput"].svg


def test_a_weak_class_and_bad_calibration_are_told(evil):
    labels = np.array([0] * 100 + [1] * 100)
    probabilities = np.tile(np.array([[0.98, 0.02]], np.float32), (200, 1))
    probabilities[100:150] = [0.02, 0.98]  # Half of the second class is found.
    predicted = dataclasses.replace(
        evil.predictions, labels=labels, probabilities=probabilities, predicted=probabilities.argmax(1),
        paths=["x"] * 200, records=np.arange(200),
    )  # fmt: skip
    text = changed(evil, predicted).text
    assert "<script>alert(1)</script>: 50.0% of its images are found" in text
    assert "50 labels contradicted with 90% or more" in text
    assert "The model is surer than it is right" in text


def of_counts(evil: Facts, counts: list[list[int]], confidence: float = 0.9) -> Facts:
    """Facts of predictions with this confusion matrix, each as sure."""
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
        ([[480, 20, 0], [350, 150, 0], [1, 0, 0]], 1),  # One image that is missed hides nothing.
        ([[80, 20, 0], [20, 80, 0], [1, 0, 0]], None),  # Nor does it say anything.
        ([[60, 40], [40, 60]], None),
        ([[100, 0], [60, 40]], 1),
    ],
)
def test_the_weakest_class_is_one_that_surely_is(counts, weak, evil):
    found = report._weakest(of_counts(evil, counts).predictions)
    assert (found and found[0]) == weak


@pytest.mark.parametrize(
    ("right", "confidence", "title"),
    [
        (42, 0.9, None),  # Of 50 images, 84 % may be 90 %.
        (840, 0.9, "The model is surer than it is right"),
        (970, 0.9, "The model is less sure than it is right"),
        (920, 0.9, None),  # By so little that it does not matter.
    ],
)
def test_calibration_is_blamed_where_chance_does_not_explain_it(right, confidence, title, evil):
    total = 50 if right < 50 else 1000
    half = total // 2
    wrong = total - right
    facts = of_counts(evil, [[half - wrong, wrong], [0, half]], confidence)
    titles = [one.title for one in report.findings(facts) if one.section == "calibration"]
    assert titles == ([title] if title else [])


def test_plots_say_what_they_show(two):
    _, page = two
    told = [value for tag, name, value in page.attributes if (tag, name) == ("figure", "aria-label")]
    assert len(told) == 7
    assert any(re.fullmatch(r"ROC, area \d\.\d{4}", one) for one in told)
    assert any(one.startswith("Confusion matrix: ") for one in told)
    assert "" not in [cell.strip() for cell in re.findall(r"<th[^>]*>(.*?)</th>", (two[0] / "report.html").read_text())]


def test_letters_that_no_font_has_are_one_note(evil, capsys, recwarn):
    predicted = dataclasses.replace(evil.predictions, classes=("고양이\U0001e900", "개"))  # The last, hardly any font.
    svg = plots.draw(predicted, 0.5, [])["confusion"].svg
    assert "고양이" in svg
    assert capsys.readouterr().out.count("note: no font here has all letters of the class names") == 1
    assert not [one for one in recwarn if "Glyph" in str(one.message)]


def test_three_classes(tmp_path):
    colors = ("blues", "greens", "reds")
    source = photos(tmp_path / "src", {f"{split}/{c}": n for split, n in (("train", 2), ("test", 15)) for c in colors})
    converted(source, tmp_path / "out")
    data = dataset.open(tmp_path / "out")
    (tmp_path / "run").mkdir()
    info = model_file.describe(data, image_size=16, crop=0.0, trainer="scratch")
    model_file.save(color_model(info.classes), info, tmp_path / "run/model.keras")
    page = written(tmp_path, tmp_path / "out", tmp_path / "run")
    assert "Most often confused" in page.text
    assert "Threshold" not in page.text
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == ["calibration.png", "confusion.png"]
    assert all(name in page.text for name in colors)


def test_a_thousand_classes_are_the_worst_fifty(evil):
    random = np.random.default_rng(0)
    names = tuple(f"class {i}" for i in range(1000))
    labels = random.integers(0, 1000, 3000)
    probabilities = random.dirichlet(np.full(1000, 0.01), 3000).astype(np.float32)
    predicted = Predictions(
        classes=names, probabilities=probabilities, predicted=probabilities.argmax(1), paths=["x"] * 3000,
        labels=labels, records=np.arange(3000),
    )  # fmt: skip
    page = changed(evil, predicted, info=ModelInfo(classes=names, image_size=8))
    assert "The 50 worst of 1,000 classes." in page.text
    (png,) = re.findall(r'"data:image/png;base64,([^"]*)"', plots.draw(predicted, 0.5, [])["confusion"].svg)
    with Image.open(io.BytesIO(base64.b64decode(png))) as image:
        assert min(image.size) >= 1000  # No class is left out of the matrix.
    assert page.elements["tr"] < 100


def test_the_same_predictions_give_the_same_plots(evil):
    rows = [dict(row, phase=EVIL) for row in HISTORY]
    assert plots.draw(evil.predictions, 0.5, rows) == evil.plots
