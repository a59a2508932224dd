"""Tests of the report card: its content, and that it is a valid page that loads nothing."""

from __future__ import annotations

import base64
import copy
import csv
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_sources import converted, image, tree
from PIL import Image

from tfrecord_tools.base import words
from tfrecord_tools.card import card_page, statistics
from tfrecord_tools.card.statistics import Thumbnail
from tfrecord_tools.errors import UserError
from tfrecord_tools.images import preparation

VOID = {"meta", "link", "img", "wbr"}
HOSTILE = (
    "</span><script>alert(1)</script>",
    "\"quotes\" & 'more'",
    "$name ${digest} {0} %s",
    "🐈‍⬛ süß, Катя",
    "x" * 250,
    "\N{RIGHT-TO-LEFT OVERRIDE}txt.exe",
)
Facts = Any  # The content of convert.json, with anything changed.


class Page(HTMLParser):
    """A parsed page: all elements in their order, with their texts. Parsing fails if tags do not match."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self._open: list[int] = []
        self.feed(text)
        self.close()
        assert not self._open, f"left open: {[self.elements[i] for i in self._open]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"attribute twice: {tag} {attrs}"
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self.texts.append("")
        if tag not in VOID:
            self._open.append(len(self.elements) - 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        opened = self._open.pop()
        assert self.elements[opened][0] == tag, f"</{tag}> closes {self.elements[opened]}"

    def handle_data(self, data: str) -> None:
        for number in self._open:
            self.texts[number] += data

    def all(self, tag: str) -> list[tuple[dict[str, str], str]]:
        """Return the attributes and the text of every element with this tag."""
        return [(attrs, text) for (name, attrs), text in zip(self.elements, self.texts) if name == tag]

    @property
    def body(self) -> str:
        return self.all("body")[0][1]

    @property
    def findings(self) -> list[str]:
        """Return the names of the findings."""
        ids = [attrs.get("id", "") for attrs, _ in self.all("li")]
        return [name.removeprefix("finding-") for name in ids if name.startswith("finding-")]

    def rows(self, heading: str) -> list[list[str]]:
        """Return the cells of the table with this first heading."""
        cells: list[list[str]] = []
        inside = False
        for (tag, _), text in zip(self.elements, self.texts):
            if tag == "table":
                inside = text.startswith(heading)
            elif inside and tag == "tr":
                cells.append([])
            elif inside and tag in ("th", "td"):
                cells[-1].append(text)
        return cells


def write(path: Path, key: str, size: tuple[int, int] = (48, 40), **save: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(image(key, "PNG" if path.suffix == ".png" else "JPEG", size, **save))


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dataset without findings: 2 classes, 6 images of each in train and 3 in validation."""
    root = tmp_path_factory.mktemp("card") / "pets"
    for split, count in {"train": 6, "validation": 3}.items():
        for name in ("cats", "dogs"):
            for i in range(count):
                write(root / split / name / f"{i}.jpg", f"{split} {name} {i}", (48 + 10 * i, 40))
    converted(root, root.parent / "out")
    return root.parent / "out"


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dataset with every kind of finding."""
    root = tmp_path_factory.mktemp("card") / "odd"
    for i in range(20):
        write(root / "train" / "cats" / f"{i}.png", f"cat {i}")
    write(root / "train" / "dogs & <wolves>" / "0.jpg", "dog 0", (96, 80))
    write(root / "train" / "dogs & <wolves>" / "cat.png", "cat 7")  # A conflict.
    write(root / "validation" / "cats" / "leak.png", "cat 3")
    write(root / "train" / "cats" / "copy.png", "cat 5")
    write(root / "train" / "cats" / "tiny.png", "tiny", (9, 8))
    exif = Image.Exif()
    exif[0x0112] = 6
    write(root / "train" / "cats" / "turned.jpg", "turned", exif=exif)
    (root / "train" / "cats" / "page.jpg").write_bytes(b"<html>\n")
    (root / "train" / "cats" / "cut.jpg").write_bytes(image("cut", "JPEG", (64, 64))[:-300])
    converted(root, root.parent / "out", on_bad_image="repair", max_bad=0.5)
    return root.parent / "out"


def facts_of(out: Path) -> Facts:
    return json.loads((out / "convert.json").read_text("utf-8"))


def many(facts: Facts, counts: list[int]) -> Facts:
    """Return the facts of a dataset with these numbers of images per class, all in train."""
    classes = [{"label": i, "name": f"class {i:04d}", "train": count} for i, count in enumerate(counts)]
    return facts | {"classes": classes, "splits": {"train": {"records": sum(counts), "shards": 1}}}


def show(facts: Facts, **sets: list[list[dict[str, str]]]) -> None:
    """Put sets of identical files into the facts: kind of duplicates -> sets from `files`."""
    facts["duplicates"]["examples"].update(sets)
    facts["duplicates"]["sizes"].update({kind: [len(same) for same in of_kind] for kind, of_kind in sets.items()})


def files(*paths: str) -> list[dict[str, str]]:
    """Return identical files, as convert.json describes them."""
    return [{"path": path, "class": path.partition("/")[0], "split": "train"} for path in paths]


def thumbnail(label: int = 0, path: str = "train/cats/1.jpg") -> Thumbnail:
    return Thumbnail(label, "train", path, image(path, size=(8, 6)))


@pytest.mark.parametrize("name", ["calm", "odd"])
def test_page_is_well_formed(name: str, request: pytest.FixtureRequest) -> None:
    text = (request.getfixturevalue(name) / card_page.CARD).read_text("utf-8")
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>\n")
    assert page.all("html")[0][0]["lang"] == "en"
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert [i for i, count in Counter(ids).items() if count > 1] == []
    assert {attrs["href"] for attrs, _ in page.all("a")} <= {f"#{i}" for i in ids}
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(0 < after <= before + 1 and after > 1 for before, after in itertools.pairwise(levels))
    assert {attrs["scope"] for attrs, _ in page.all("th")} == {"col", "row"}
    assert {attrs["role"] for attrs, _ in page.all("svg")} == {"img"}


@pytest.mark.parametrize("name", ["calm", "odd"])
def test_page_loads_nothing_and_runs_nothing(name: str, request: pytest.FixtureRequest) -> None:
    text = (request.getfixturevalue(name) / card_page.CARD).read_text("utf-8")
    page = Page(text)
    assert {tag for tag, _ in page.elements} & {"script", "iframe", "object", "embed", "form", "base"} == set()
    targets = [attrs[key] for _, attrs in page.elements for key in ("src", "href", "srcset", "data") if key in attrs]
    assert len(targets) > 10
    assert [target for target in targets if not target.startswith(("data:", "#"))] == []
    assert [attrs for _, attrs in page.elements if any(key.startswith("on") for key in attrs)] == []
    assert re.search(r"https?:|//[a-z]|url\(|@import", re.sub(r'"data:[^"]*"', "", text)) is None


def test_calm_page(calm: Path) -> None:
    page = Page((calm / card_page.CARD).read_text("utf-8"))
    assert page.findings == []
    assert "Nothing to worry about" in page.body
    assert "No two files are identical." in page.body
    assert "Nothing: every file is stored byte for byte." in page.body
    assert "18 stored, 0 skipped." in " ".join(page.body.split())
    assert page.rows("Class") == [
        ["Class", "train", "validation"],
        ["0cats", "6 50.0%", "3 50.0%"],
        ["1dogs", "6 50.0%", "3 50.0%"],
        ["All", "12", "6"],
    ]


def test_odd_page_lists_findings(odd: Path) -> None:
    page = Page((odd / card_page.CARD).read_text("utf-8"))
    assert page.findings == ["conflicts", "leaks", "unrepaired", "absent", "imbalance", "repaired", "tiny"]
    assert "7 things need attention" in page.body
    assert "Nothing to worry about" not in page.body
    assert page.rows("Type") == [["Type", "In the source", "Stored"], ["JPEG", "3", "3"], ["PNG", "24", "24"]]
    assert [row[:2] for row in page.rows("Change")] == [["Change", "Images"], ["repaired", "1"], ["turned", "1"]]
    reasons = page.rows("Reason")
    assert [row[1:] for row in reasons] == [["Result", "Files"], ["repaired", "1"], ["skipped", "1"]]
    assert reasons[2][0].startswith("not an image")
    paths = [text for _, text in page.all("code")]
    for pair in (
        ["train/cats/7.png", "train/dogs & <wolves>/cat.png"],
        ["train/cats/3.png", "validation/cats/leak.png"],
        ["train/cats/5.png", "train/cats/copy.png"],
    ):
        start = paths.index(pair[0])
        assert paths[start : start + 2] == pair


def test_page_shows_the_facts(odd: Path) -> None:
    facts, page = facts_of(odd), Page((odd / card_page.CARD).read_text("utf-8"))
    assert [text for _, text in page.all("dd")] == [
        "27",
        "2",
        "26",
        "1",
        words.size(facts["bytes"]),
        facts["digest"][:12],
    ]
    assert facts["digest"] in [text for _, text in page.all("pre")]
    assert dict(page.rows("Package")[1:]) == facts["versions"]
    assert facts["images"]["verified"] == "full"
    assert "--verify=full" in page.body
    colors = facts["images"]["colors"]
    assert f"mean = {colors['mean']}\nstd = {colors['std']}" in page.body
    mean, std = ([round(value / 255, 4) for value in colors[key]] for key in ("mean", "std"))
    assert f"mean = {mean}\nstd = {std}" in page.body
    red = page.rows("Channel")[1]
    assert [float(cell) for cell in red[1:]] == pytest.approx(
        [colors[key][0] / scale for scale in (1, 255) for key in ("mean", "std")], abs=5e-5
    )
    assert "--on_bad_image=repair\n" in page.body


FINDINGS: list[tuple[str, Callable[[Facts], object], list[str]]] = [
    ("nothing", lambda f: None, []),
    ("conflict", lambda f: f["duplicates"].update(conflicts=1, files=2), ["conflicts"]),
    ("leak", lambda f: f["duplicates"].update(leaks=1, files=2), ["leaks"]),
    ("copy", lambda f: f["duplicates"].update(copies=1, files=2), []),  # A copy within a split does not change scores.
    ("near conflict", lambda f: f["near_duplicates"].update(conflicts=2, files=2), ["near_conflicts"]),
    ("near leak", lambda f: f["near_duplicates"].update(leaks=2, files=2), ["near_leaks"]),
    ("near copy", lambda f: f["near_duplicates"].update(copies=2, files=2), []),
    (
        "near leak, dropped",
        lambda f: (f["near_duplicates"].update(leaks=2, files=2), f["config"].update(near_duplicates="drop")),
        [],
    ),
    ("black", lambda f: f["images"]["look"].update(dark=1), ["faint"]),
    (
        "near conflict that was dropped",
        lambda f: (f["near_duplicates"].update(conflicts=2, files=2), f["config"].update(near_duplicates="drop")),
        ["near_conflicts_dropped"],
    ),  # The image that stays may have the wrong label.
    ("look unknown", lambda f: f["images"]["look"].update(unknown=3), []),
    (
        "not decoded",
        lambda f: (f["images"]["look"].update(unknown=3), f["images"].update(verified="header")),
        ["not_compared"],
    ),
    ("not repaired", lambda f: (f["files"].update(skipped=1), f["config"].update(repair=True)), ["unrepaired"]),
    ("group", lambda f: f["duplicates"].update(groups_in_several_splits=1), ["groups"]),
    ("skipped", lambda f: f["files"].update(skipped=1), ["skipped"]),
    ("repaired", lambda f: f["files"].update(repaired=1), ["repaired"]),
    ("dropped", lambda f: f["files"].update(dropped=1), []),  # --duplicates=drop asks for this.
    ("absent", lambda f: f["classes"][1].update(validation=0), ["absent"]),
    (
        "absent from train",
        lambda f: f["classes"][1].update(train=0),
        ["absent"],
    ),  # The ratio of the classes leaves this class out.
    ("9 : 1", lambda f: f["classes"][0].update(train=54), []),
    ("10 : 1", lambda f: f["classes"][0].update(train=60), ["imbalance"]),
    ("uneven validation", lambda f: f["classes"][0].update(validation=99), []),  # The ratio is that of train.
    ("32 pixels", lambda f: f["images"]["shorter_side"].update(min=32.0), []),
    ("31 pixels", lambda f: f["images"]["shorter_side"].update(min=31.0), ["tiny"]),
    ("two", lambda f: (f["files"].update(repaired=1), f["duplicates"].update(leaks=1, files=2)), ["leaks", "repaired"]),
]


@pytest.mark.parametrize(("change", "names"), [case[1:] for case in FINDINGS], ids=[case[0] for case in FINDINGS])
def test_findings(calm: Path, change: Callable[[Facts], object], names: list[str]) -> None:
    facts = facts_of(calm)
    show(facts, **{kind: [files("a.jpg", "b.jpg")] for kind in ("conflicts", "leaks", "copies")})
    change(facts)
    page = Page(card_page.render(facts, []))
    assert page.findings == names
    assert ("Nothing to worry about" in page.body) == (not names)


@pytest.fixture
def placeholders(tmp_path: Path) -> Path:
    """Return a source with 600 different images, and with a further image that is 400 times in each class."""
    source = tree(tmp_path / "src", {"cats": 300, "dogs": 300})
    for name in ("cats", "dogs"):
        for number in range(400):
            (source / f"{name}/copy{number:03d}.jpg").write_bytes(image("not available"))
    return source


def test_many_copies_are_decoded_once(placeholders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    original = statistics._decoded
    monkeypatch.setattr(statistics, "_decoded", lambda *frame: decoded.append(1) or original(*frame))
    facts = converted(placeholders, tmp_path / "out")
    assert len(decoded) < 350  # 256 for the colors, 16 thumbnails, at most 30 extremes: not each copy.
    (files,) = facts["duplicates"]["examples"]["conflicts"]
    assert [file["path"] for file in files[:2]] == ["cats/copy000.jpg", "dogs/copy000.jpg"]
    assert (len(files), facts["duplicates"]["sizes"]["conflicts"], facts["duplicates"]["conflicts"]) == (
        100,
        [800],
        800,
    )
    page = Page((tmp_path / "out/card.html").read_text("utf-8"))
    shown = [text for _, text in page.all("figure") if "/copy" in text]
    assert "cats/copy000.jpg" in shown[0]
    assert "dogs/copy000.jpg" in shown[1]
    assert "and 794 more" in page.body
    assert "more files" not in page.body


def test_many_copies_with_two_labels_are_dropped(placeholders: Path, tmp_path: Path) -> None:
    converted(placeholders, tmp_path / "out", duplicates="drop")
    with open(tmp_path / "out/rejected.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 800
    for row in rows:
        other = {"cats": "dogs", "dogs": "cats"}[row["path"].split("/")[0]]
        assert row["reason"] == f"the same bytes, under another label, as {other}/copy000.jpg"


def test_an_error_names_three_of_many_copies(placeholders: Path, tmp_path: Path) -> None:
    paths = "cats/copy000.jpg, dogs/copy000.jpg, cats/copy001.jpg. Remove"
    with pytest.raises(UserError, match=f"800 files .* for example {paths}"):
        converted(placeholders, tmp_path / "out", duplicates="fail")


def test_dropped_duplicates_are_not_leaks(calm: Path) -> None:
    facts = facts_of(calm)
    facts["duplicates"].update(conflicts=2, leaks=3, files=10)
    facts["config"]["duplicates"] = "drop"
    assert Page(card_page.render(facts, [])).findings == ["conflicts_dropped"]


def noted(kind: str = "bands", level: str = "check", images: int = 9, **other: Any) -> dict[str, Any]:
    """Return a note, as convert.json has it."""
    note = {"text": f"{images} images have {kind}", "advice": "pass --depth_range=0,9 or write RGB", "examples": []}
    return note | {"kind": kind, "level": level, "images": images} | other


def test_notes_on_images_are_findings_the_worst_first(calm: Path) -> None:
    facts = facts_of(calm)
    facts["files"].update(repaired=1)
    facts["duplicates"].update(leaks=1, files=2)
    facts["notes"] = [noted("pages", "note"), noted("bands", "check"), noted("splits", "note", images=0)]
    page = Page(card_page.render(facts, []))
    assert page.findings == ["leaks", "bands", "repaired", "pages"]
    assert "4 things need attention" in page.body
    assert ("code", "--depth_range=0,9") in [(tag, text) for (tag, _), text in zip(page.elements, page.texts)]


@pytest.mark.parametrize("name", HOSTILE)
def test_examples_of_a_note_are_pictures(calm: Path, name: str) -> None:
    facts = facts_of(calm)
    facts["notes"] = [noted(text=name, advice=f"--x={name}", examples=[name, "b.jpg", "gone.jpg"])]
    page = Page(card_page.render(facts, [], {name: image(1), "b.jpg": image(2)}))
    assert [attrs["title"] for attrs, _ in page.all("img")] == [name, "b.jpg"]
    assert name in [text for _, text in page.all("strong")]
    assert "2 of them:" in page.body
    assert {tag for tag, _ in page.elements}.isdisjoint({"script", "iframe"})


def test_conflicts_and_leaks_show_pictures(calm: Path) -> None:
    facts = facts_of(calm)
    facts["duplicates"].update(conflicts=2, leaks=2, files=4)
    show(facts, conflicts=[files("cats/a.jpg", "dogs/b.jpg")], leaks=[files("c.jpg", "d.jpg")])
    page = Page(card_page.render(facts, [], {name: image(1) for name in ("cats/a.jpg", "dogs/b.jpg", "c.jpg")}))
    # One of each set in the finding; then, among the duplicates, each of the conflict and one of the leak.
    titles = [attrs["title"] for attrs, _ in page.all("img")]
    assert titles == ["cats/a.jpg", "c.jpg", "cats/a.jpg", "dogs/b.jpg", "c.jpg"]


def test_findings_are_printed_without_html(calm: Path, tmp_path: Path) -> None:
    facts = facts_of(calm)
    facts["duplicates"].update(leaks=1, files=2)
    show(facts, leaks=[files("a.jpg", "b.jpg")])
    facts["classes"][0].update(train=600)
    facts["classes"][1].update(train=40)
    facts["files"].update(repaired=1)  # The page alone shows notes.
    facts["files"].update(skipped=2)
    facts["notes"] = [noted()]  # The console shows duplicates and notes on images below the class table.
    lines: list[str] = []
    card_page.write(tmp_path, facts, [], {}, lines.append)
    assert lines == [
        "  check: 2 files skipped. These files are not in the dataset. Look at the reasons in rejected.csv and replace"
        " the images that you need. --on_bad_image=repair repairs some damaged images.",
        "  check: Imbalanced classes: 40 to 600 images in train. Accuracy over all images hides mistakes in small"
        " classes. Look at the recall of each class. Add images of the small classes, or train with python -m"
        " trainers.finetune --class_weights=balanced.",
    ]


def test_labels_of_a_short_axis_differ(calm: Path) -> None:
    facts = facts_of(calm)
    edges = np.geomspace(18, 20, 17).tolist()
    facts["images"]["shorter_side"] = {"min": 18.0, "median": 19.0, "max": 20.0, "edges": edges, "counts": [1] * 16}
    (figure,) = re.findall(
        r"<figure>(?:(?!<figure>).)*Shorter side.*?</figure>", card_page.render(facts, []), re.DOTALL
    )
    labels = [text for attrs, text in Page(figure).all("span") if attrs.get("style", "").endswith("%")]
    assert labels == ["18 px", "19 px", "20 px"]


def test_notes_on_the_source_are_not_findings(calm: Path) -> None:
    facts = facts_of(calm)
    text = (
        "5 images below 'test1' have no labels & are left out; --exclude='test1/**' hides this, or --split test=test1"
    )
    facts["notes"] = [noted("source", "note", images=0, text=text, advice="")]
    page = Page(card_page.render(facts, []))
    assert page.findings == []
    assert "Nothing to worry about" in page.body
    assert text in page.body
    assert "--exclude='test1/**'" in [text for _, text in page.all("code")]
    assert "How the source was read" not in Page(card_page.render(facts_of(calm), [])).body


def test_number_of_tiny_images(calm: Path) -> None:
    facts = facts_of(calm)
    facts["images"]["shorter_side"] = {
        "min": 8.0, "median": 90.0, "max": 128.0, "edges": [8.0, 16.0, 31.0, 33.0, 128.0], "counts": [1, 2, 40, 800],
    }  # fmt: skip
    page = Page(card_page.render(facts, []))
    assert "up to 43 with a side below 32 px, the smallest 8 px" in page.body


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_escaped(calm: Path, name: str) -> None:
    facts = facts_of(calm)
    facts["classes"][0]["name"] = name
    facts["config"]["label_regex"] = name
    facts["reasons"] = [{"done": "skipped", "reason": name, "files": 1}]
    facts["duplicates"].update(files=2, leaks=1)
    show(facts, leaks=[files(f"a/{name}", f"b/{name}")])
    plain, page = (
        Page(card_page.render(facts_of(calm), [thumbnail()])),
        Page(card_page.render(facts, [thumbnail(path=name)])),
    )
    assert page.rows("Class")[1][0] == f"0{name}"
    assert page.rows("Reason")[1][0] == name
    assert {f"a/{name}", f"b/{name}"} <= {text for _, text in page.all("code")}
    assert page.all("img")[0][0]["alt"] == f"{name}, train: {name}"
    assert page.all("img")[0][0]["title"] == name
    assert {tag for tag, _ in page.elements} - {"wbr"} == {tag for tag, _ in plain.elements}


def test_control_characters_are_written_out(calm: Path) -> None:
    facts = facts_of(calm)
    facts["classes"][0]["name"] = "line\nbreak\x00\x7f"
    text = card_page.render(facts, [])
    assert Page(text).rows("Class")[1][0] == "0line\\nbreak\\x00\\x7f"
    assert set(map(ord, text)) & {*range(32), 127} == {10}


def test_same_facts_same_bytes(calm: Path, tmp_path: Path) -> None:
    converted(calm.parent / "pets", tmp_path / "again")
    assert (tmp_path / "again" / card_page.CARD).read_bytes() == (calm / card_page.CARD).read_bytes()
    facts = facts_of(calm)
    before = copy.deepcopy(facts)
    assert card_page.render(facts, [thumbnail()]) == card_page.render(facts, [thumbnail()])
    assert facts == before


def test_one_image_a_class(tmp_path: Path) -> None:
    for name in ("cats", "dogs"):
        write(tmp_path / "src" / "train" / name / "1.png", name)
    converted(tmp_path / "src", tmp_path / "out")
    page = Page((tmp_path / "out" / card_page.CARD).read_text("utf-8"))
    assert page.rows("Class")[1:] == [["0cats", "1 50.0%"], ["1dogs", "1 50.0%"], ["All", "2"]]
    assert page.body.count("40 px in every image.") == 1
    assert len(page.all("img")) == 2


def test_thousand_classes(calm: Path) -> None:
    counts = np.random.default_rng(0).permutation(np.arange(1000, 2000)).tolist()
    text = card_page.render(many(facts_of(calm), counts), [])
    assert len(text.encode()) < 1_000_000
    rows = Page(text).rows("Class")[1:]
    shown = [int(row[1].split()[0].replace(",", "")) for row in rows]
    assert shown[:20] == list(range(1999, 1979, -1))
    assert shown[21:-1] == list(range(1019, 999, -1))
    assert rows[20][0] == "960 classes between these"
    assert shown[20] == sum(range(1020, 1980))
    assert shown[-1] == sum(counts) == sum(shown[:-1])


@pytest.mark.parametrize(("classes", "rows"), [(50, 50), (51, 41)])
def test_few_classes_are_all_listed_by_label(calm: Path, classes: int, rows: int) -> None:
    table = Page(card_page.render(many(facts_of(calm), [7] * classes), [])).rows("Class")[1:-1]
    assert len(table) == rows
    assert [row[0] for row in table[:20]] == [f"{i}class {i:04d}" for i in range(20)]


def test_bars_are_full_at_the_largest_class_of_the_split(calm: Path) -> None:
    page = Page(card_page.render(many(facts_of(calm), [50, 200, 0]), []))
    assert [attrs["style"] for attrs, _ in page.all("i")] == ["width:25.0%", "width:100.0%", "width:0.0%"]


def test_tiny_share_is_not_zero(calm: Path) -> None:
    rows = Page(card_page.render(many(facts_of(calm), [1, 99_999, 0]), [])).rows("Class")
    assert [row[1] for row in rows[1:4]] == ["1 <0.1%", "99,999 100.0%", "0 0.0%"]


def test_samples_are_the_thumbnails(calm: Path) -> None:
    thumbnails = [thumbnail(0, "train/cats/a.jpg"), thumbnail(0, "train/cats/b.jpg"), thumbnail(1, "train/dogs/c.jpg")]
    shown = Page(card_page.render(facts_of(calm), thumbnails)).all("img")
    decoded = [base64.b64decode(attrs["src"].removeprefix("data:image/jpeg;base64,")) for attrs, _ in shown]
    assert decoded == [one.jpeg for one in thumbnails]
    assert [attrs["title"] for attrs, _ in shown] == [one.path for one in thumbnails]
    assert shown[2][0]["alt"] == "dogs, train: train/dogs/c.jpg"


def test_samples_of_many_classes_are_folded(calm: Path) -> None:
    facts = many(facts_of(calm), [3] * 60)
    few, more = (Page(card_page.render(facts, [thumbnail(label) for label in range(count)])) for count in (12, 40))
    assert few.all("details") == []
    assert [text for _, text in more.all("summary")] == ["28 more"]
    assert "Images of 40 of 60 classes" in more.body
    assert len(more.all("img")) == 40


def test_histogram(calm: Path) -> None:
    facts = facts_of(calm)
    facts["images"]["longer_side"] = {
        "min": 100.0, "median": 1000.0, "max": 10000.0, "edges": [100.0, 316.228, 1000.0, 3162.278, 10000.0],
        "counts": [1, 2000, 500, 0],
    }  # fmt: skip
    text = card_page.render(facts, [])
    (figure,) = re.findall(r"<figure>(?:(?!<figure>).)*Longer side.*?</figure>", text, re.DOTALL)
    page = Page(figure)
    heights = [float(attrs["height"]) for attrs, _ in page.all("rect")]
    assert heights == [1.5, 100, 25, 0]  # A bar for a single image is visible, too.
    titles = [title for _, title in page.all("title")]
    assert titles[0] == "Longer side of 2,501 images: 100 px to 10,000 px, median 1,000 px"
    assert titles[2] == "316 px to 1,000 px: 2,000 images"
    assert float(page.all("line")[0][0]["x1"]) == 50  # The middle of the logarithmic axis.
    labels = ["100 px", "316 px", "1,000 px", "3,162 px", "10,000 px"]
    lefts = [attrs["style"] for attrs, _ in page.all("span") if "style" in attrs]
    assert lefts[1:] == [f"left:{left}%" for left in ("0.00", "25.00", "50.00", "75.00", "100.00")]
    assert [label for _, label in page.all("span")] == ["median 1,000 px", "2,000", "0", *labels]


@pytest.mark.parametrize(
    ("size", "text"), [(999, "999 B"), (1500, "1.5 kB"), (45_852_822, "45.9 MB"), (15e10, "150.0 GB")]
)
def test_size(calm: Path, size: float, text: str) -> None:
    page = Page(card_page.render(facts_of(calm) | {"bytes": size}, []))
    assert text in [value for _, value in page.all("dd")]


def test_every_change_is_explained(calm: Path) -> None:
    facts = facts_of(calm)
    facts["images"]["changes"] = dict.fromkeys(preparation.CHANGES, 1234)
    rows = Page(card_page.render(facts, [])).rows("Change")[1:]
    assert [row[:2] for row in rows] == [[name, "1,234"] for name in preparation.CHANGES]
    assert all(row[2] for row in rows)


def test_long_lists_are_counted(calm: Path) -> None:
    facts = facts_of(calm)
    facts["duplicates"].update(copies=1013, files=9999)
    show(facts, copies=[files(*(f"{i}.jpg" for i in range(9))), files("x.jpg", "y.jpg"), files("z.jpg", "w.jpg")])
    facts["files"]["skipped"] = 50
    facts["reasons"] = [{"done": "skipped", "reason": "empty file", "files": 30}]
    page = Page(card_page.render(facts, []))
    assert "and 3 more" in page.body
    assert "and 1,000 more files" in page.body
    assert page.rows("Reason")[1:] == [["empty file", "skipped", "30"], ["Other reasons", "", "20"]]


def test_settings_are_flags(calm: Path) -> None:
    facts = facts_of(calm)
    facts["config"] = {
        "classes": ["cats", "dogs, big"], "label_regex": None, "upscale": False, "quality": 95, "repair": False,
        "duplicates": "keep", "name": "pets", "format_version": 3, "group_regex": r"(\d+)_",
    }  # fmt: skip
    (settings,) = (text for _, text in Page(card_page.render(facts, [])).all("pre") if text.startswith("--"))
    assert settings.splitlines() == [
        """--classes='cats,"dogs, big"'""",
        "--noupscale",
        "--quality=95",
        "--on_bad_image=skip",
        "--duplicates=keep",
        r"--group_regex='(\d+)_'",
        "--verify=full",
    ]


def test_write_writes_what_render_returns(calm: Path, tmp_path: Path) -> None:
    facts, thumbnails = facts_of(calm), [thumbnail()]
    facts["classes"][0]["name"] = "🐈"
    card_page.write(tmp_path, facts, thumbnails, {})
    assert [path.name for path in tmp_path.iterdir()] == [card_page.CARD]
    assert (tmp_path / card_page.CARD).read_text("utf-8") == card_page.render(facts, thumbnails)


def test_contrast_in_light_and_dark(calm: Path) -> None:
    style = Page((calm / card_page.CARD).read_text("utf-8")).all("style")[0][1]
    light, dark, printed = (
        dict(re.findall(r"--(\w+): *(#\w+)", block)) for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    )
    assert set(light) == set(dark) == set(printed)
    for colors in (light, dark, printed):
        grounds = [_luminance(colors[name]) for name in ("page", "card", "track")]
        for name in ("text", "muted", "link"):
            assert min(_contrast(_luminance(colors[name]), ground) for ground in grounds) >= 4.5
        for name in ("problem", "check", "note"):
            assert _contrast(_luminance(colors[name]), _luminance(colors["card"])) >= 4.5
        assert _contrast(_luminance(colors["bar"]), _luminance(colors["card"])) >= 3  # WCAG requires 3 for graphics.


def _luminance(color: str) -> float:
    """Return the relative luminance, as WCAG 2 defines it."""
    digits = color[1:] if len(color) == 7 else "".join(2 * digit for digit in color[1:])
    channels = np.array([int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def _contrast(first: float, second: float) -> float:
    return (max(first, second) + 0.05) / (min(first, second) + 0.05)
