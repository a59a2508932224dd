"""The page of a review in headless Chromium: keys, files, storage, attacks, narrow and dark screens."""

from __future__ import annotations

import base64
import csv
import functools
import hashlib
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Dialog, Frame, Page, sync_playwright

from tfrecord_tools.errors import UndecodableImage, UserError
from tfrecord_tools.layout import decisions
from tfrecord_tools.layout.decisions import Decision
from trainers.results import review_page
from trainers.results.review_page import Item, Picture

# Files of earlier releases have these columns, and no decisions about pairs.
HEADER = ["sha256", "decision", "label", "path", "given_label"]
COLUMNS = [*HEADER, "twin_sha256"]
CLASSES = ["cat", "dog", "fox"]
# Each would do harm as markup, as the end of a data block, as a line of CSV, as a formula, or by its direction.
EVIL = [
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(2)</script>",
    "\"><b>'&amp;`${alert(3)}`{{ 7 * 7 }}",
    '=HYPERLINK("http://x.invalid","a, b")',
    "first\nsecond\r\nthird",
    " leading, and trailing ",
    "photo\u202egpj.exe",
    "\u2028line\u2029",
    "<!--<script>",
]


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def drawn(name: str, width: int = 64, height: int = 48) -> bytes:
    """Return a small JPEG with colors that depend on the name."""
    rng = np.random.default_rng(int(digest(name)[:8], 16))
    blocks = rng.integers(0, 256, (3, 4, 3), np.uint8)
    image = Image.fromarray(blocks).resize((width, height), Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    image.save(stream, "JPEG")
    return stream.getvalue()


def picture(path: str, label: str = "cat", split: str = "train") -> Picture:
    return Picture(sha256=digest(path), path=path, label=label, split=split, jpeg=drawn(path))


def label_error(rank: int, path: str, label: str = "cat", proposed: str = "dog", twins: Sequence[Picture] = ()) -> Item:
    return Item(
        kind="label", rank=rank, score=1 / rank, picture=picture(path, label), proposed=proposed, twins=twins,
        reason=f"The model expects {proposed}.",
    )  # fmt: skip


def pair(rank: int, path: str, *twins: str, label: str = "dog") -> Item:
    return Item(
        kind="near_duplicate", rank=rank, score=0.9, picture=picture(path), reason="The hashes differ in 3 bits.",
        twins=[picture(twin, label, "validation") for twin in twins],
    )  # fmt: skip


# Five label errors, two strangers, three pairs. a/1.jpg is both a label error and half of a pair.
ITEMS = [
    label_error(1, "a/1.jpg", twins=[picture("t/1.jpg", "dog"), picture("t/2.jpg", "cat")]),
    label_error(2, "a/2.jpg"),
    label_error(3, "a/3.jpg", "dog", "cat"),
    label_error(4, "a/4.jpg"),
    label_error(5, "a/5.jpg", "dog", "fox"),
    Item(kind="off_topic", rank=1, score=0.9, picture=picture("o/1.jpg"), reason="It is far from all others."),
    Item(kind="off_topic", rank=2, score=0.8, picture=picture("o/2.jpg", "dog"), reason="It is far from all others."),
    pair(1, "n/1.jpg", "n/2.jpg"),
    pair(2, "n/3.jpg", "n/4.jpg", "n/5.jpg"),
    pair(3, "a/1.jpg", "n/6.jpg"),
]
PATHS = {side.sha256: side.path for item in ITEMS for side in (item.picture, *item.twins)}


class Review:
    """The page in a browser, as a user sees it."""

    def __init__(self, page: Page, frame: Page | Frame | None = None) -> None:
        self.page = page
        self.frame = frame or page

    def text(self, selector: str) -> str:
        return " ".join(self.frame.locator(selector).inner_text().split())

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def click(self, selector: str, **options: Any) -> None:
        self.frame.locator(selector).click(**options)

    @property
    def path(self) -> str:
        """The path of the current image."""
        return self.text("figure.main .path").partition(" · ")[0]

    @property
    def progress(self) -> str:
        return self.text("#progress")

    def content(self) -> bytes:
        """Return the downloaded file."""
        with self.page.expect_download() as download:
            self.click("#download")
        assert download.value.suggested_filename == "decisions.csv"
        return Path(download.value.path()).read_bytes()

    def rows(self) -> list[list[str]]:
        """Return the rows of the downloaded file. Only rows about pairs have the last column."""
        header, *rows = csv.reader(io.StringIO(self.content().decode(), newline=""))
        assert header == COLUMNS
        return [row if row[-1] else row[:-1] for row in rows]

    def decisions(self) -> dict[str, str]:
        """Return path -> decision, with the label behind a colon. A pair has both paths."""
        return {
            " + ".join(sorted(PATHS[sha256] for sha256 in (row[0], *row[5:]))) if row[5:] else row[3]: row[1]
            + (f":{row[2]}" if row[2] else "")
            for row in self.rows()
        }

    def upload(self, file: Path) -> str:
        """Load a file and return what the page says."""
        self.frame.locator("#loaded").evaluate("node => node.replaceChildren()")
        self.frame.locator("#upload").set_input_files(file)
        self.frame.locator("#loaded:not(:empty)").wait_for(state="visible")
        return self.text("#loaded")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    program = next((found for name in names if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"No Chromium is installed: none of the programs {', '.join(names)} is on PATH.")
    with sync_playwright() as driver:
        # As root, and in most containers, Chromium cannot make its own sandbox.
        opened = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


Open = Callable[..., Review]
STORED = "() => JSON.stringify(Object.entries(localStorage).sort())"


def contents(items: Sequence[Item] = ITEMS, **values: Any) -> review_page.Review:
    given = {"name": "pets", "digest": "d1", "class_names": CLASSES, "items": items, "total": len(items)}
    return review_page.Review(**{**given, "apply_command": "python -m tfrecord_tools.convert FLAGS", **values})


@pytest.fixture
def open_page(browser: Browser, tmp_path: Path) -> Iterator[Open]:
    """Return a function that writes a page and opens it.

    Requests, dialogs, errors and messages of the console fail the test.
    """
    contexts: dict[str, BrowserContext] = {}
    problems: list[str] = []
    allowed: list[str] = []  # Beginnings of messages of the console that a test expects.

    def watched(context: BrowserContext) -> Page:
        page = context.new_page()
        page.on("console", lambda message: None if message.text.startswith(tuple(allowed)) else note(message.text))
        page.on("pageerror", lambda error: problems.append(f"error: {error}"))
        page.on("dialog", dismiss)
        page.on("request", lambda request: problems.append(request.url) if is_foreign(request.url) else None)
        page.on("popup", lambda popup: problems.append(f"popup: {popup.url}"))
        return page

    def note(text: str) -> None:
        problems.append(f"console: {text}")

    def dismiss(dialog: Dialog) -> None:
        problems.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def is_foreign(url: str) -> bool:
        return not url.startswith(("data:", "blob:", tmp_path.as_uri()))

    def wait_for_storage(page: Page) -> None:
        """Wait until a new page sees what a page has stored: it arrives there a little later."""
        (tmp_path / "empty.html").write_text("")
        stored = page.evaluate(STORED)
        for _ in range(300):
            other = page.context.new_page()
            other.goto((tmp_path / "empty.html").as_uri())
            seen = other.evaluate(STORED)
            other.close()
            if seen == stored:
                return
            page.wait_for_timeout(100)
        raise AssertionError("the storage of a page does not arrive in another one")

    def open_(items: Sequence[Item] = ITEMS, *, again: bool = False, outer: str = "", width: int = 1280, **values: Any):
        scheme = values.pop("scheme", "light")
        context = contexts.get("last") if again else None
        if context is None:
            context = contexts["last"] = browser.new_context(
                viewport={"width": width, "height": 800}, color_scheme=scheme
            )
        file = tmp_path / "review.html"
        allowed.extend(values.pop("allowed", ()))
        review_page.write(file, contents(items, **values))
        page = watched(context)
        if outer:
            (tmp_path / "outer.html").write_text(outer)
            page.goto((tmp_path / "outer.html").as_uri())
            return Review(page, page.frames[1])
        if others := context.pages[:-1]:
            wait_for_storage(others[-1])
        page.goto(file.as_uri())
        return Review(page)

    yield open_
    for context in contexts.values():
        context.close()
    assert problems == []


def test_keys_decide_and_go_on(open_page: Open) -> None:
    review = open_page()
    assert (review.path, review.progress) == ("a/1.jpg", "0 of 10 decided")
    assert review.text("figure.main figcaption") == "Given label: cat Proposed: dog a/1.jpg · train"
    assert review.text("#labels") == "1 cat given 2 dog proposed 3 fox"
    review.press("2")
    assert (review.path, review.progress) == ("a/2.jpg", "1 of 10 decided, not downloaded yet")
    review.press("x", " ", "p", "3")
    assert (review.path, review.text("#title")) == ("o/1.jpg", "Off-topic rank 1 · score 0.900")
    assert review.rows() == [
        [digest("a/1.jpg"), "label", "dog", "a/1.jpg", "cat"],
        [digest("a/2.jpg"), "drop", "", "a/2.jpg", "cat"],
        [digest("a/3.jpg"), "keep", "", "a/3.jpg", "dog"],
        [digest("a/4.jpg"), "label", "dog", "a/4.jpg", "cat"],
        [digest("a/5.jpg"), "label", "fox", "a/5.jpg", "dog"],
    ]
    assert review.progress == "5 of 10 decided"
    review.press("p", "9", "t")  # Nothing is proposed, no class has this number, and there is no twin.
    assert review.path == "o/1.jpg"


def test_buttons_do_the_same(open_page: Open) -> None:
    review = open_page()
    review.click("#labels button:nth-child(3)")
    review.click("#drop")
    review.click("#keep")
    review.click("#next")
    review.click("#back")
    review.click("#drop")
    review.click("#undo")
    assert review.path == "a/4.jpg"
    assert review.decisions() == {"a/1.jpg": "label:fox", "a/2.jpg": "drop", "a/3.jpg": "keep"}


def test_the_page_says_when_to_stop(open_page: Open) -> None:
    scores = [0.98, 0.9, 0.6, 0.3, 0.1]
    wrong = [
        Item(kind="label", rank=i + 1, score=score, picture=picture(f"w/{i}.jpg"), proposed="dog")
        for i, score in enumerate(scores)
    ]
    review = open_page([*wrong, *ITEMS[5:7]])
    assert review.text("#left") == "Label errors: Probably, about 3 of 5 undecided labels on this page are wrong."
    review.press("2", "2")
    assert review.text("#left") == "Label errors: Probably, about 1 of 3 undecided labels on this page is wrong."
    review.press(" ")  # 0.3 + 0.1 wrong labels are left.
    assert review.text("#left") == (
        "Label errors: Probably, none of 2 undecided labels on this page is wrong."
        " You can stop, or choose another kind."
    )
    review.click("#kinds button:has-text('Off-topic')")
    assert review.text("#left") == "Off-topic: 2 of 2 undecided issues on this page have a score of 0.5 or more."
    review.press(" ")
    assert review.text("#left") == "Off-topic: 1 of 1 undecided issue on this page has a score of 0.5 or more."
    review.press(" ")
    assert review.text("#left") == "Off-topic: all decided."
    review.press("u", "u")
    review = open_page([Item(kind="rare", rank=1, score=0.4, picture=picture("r.jpg"))])
    assert review.text("#left") == (
        "Rare conditions: None of 1 undecided issue on this page has a score of 0.5 or more."
        " You can stop, or choose another kind."
    )


def test_a_label_that_is_probably_right_has_only_a_second_choice(open_page: Open) -> None:
    doubtful, right = (
        Item(kind="label", rank=rank, score=score, picture=picture(f"{rank}.jpg"), proposed="dog")
        for rank, score in ((1, 0.5), (2, 0.49))
    )
    stranger = Item(kind="off_topic", rank=1, score=0.9, picture=right.picture)
    review = open_page([doubtful, right, stranger])
    assert "Proposed: dog" in review.text("figure.main figcaption")
    assert review.text("#labels .proposed") == "2 dog proposed"
    for key in ("ArrowRight", "ArrowRight"):
        review.press(key)
        assert "Second choice: dog" in review.text("figure.main figcaption")
        assert review.text("#labels") == "1 cat given 2 dog second choice 3 fox"
        assert review.frame.locator("#labels .proposed").count() == 0
    review.press("p")
    assert review.decisions() == {"2.jpg": "label:dog"}


def test_arrows_move_without_a_decision(open_page: Open) -> None:
    review = open_page()
    review.press("ArrowLeft", "ArrowRight", "ArrowRight", "ArrowLeft")
    assert (review.path, review.progress) == ("a/2.jpg", "0 of 10 decided")
    review.press(*["ArrowRight"] * 20)
    assert review.path == "a/1.jpg"  # The last item shows the first image as a half of a pair.
    assert review.text("#title").startswith("Near-duplicates rank 3")


def test_undo_takes_back_step_by_step_also_after_reloading(open_page: Open) -> None:
    review = open_page()
    review.press("2", "x", "ArrowLeft", "3")  # The second decision is corrected.
    assert review.decisions() == {"a/1.jpg": "label:dog", "a/2.jpg": "label:fox"}
    review = open_page(again=True)
    review.press("u")
    assert (review.path, review.decisions()) == ("a/2.jpg", {"a/1.jpg": "label:dog", "a/2.jpg": "drop"})
    review.press("u", "u")
    assert (review.path, review.rows()) == ("a/1.jpg", [])
    assert review.frame.locator("#undo").is_disabled()
    review.press("u")
    assert review.rows() == []


def test_a_corrected_decision_goes_to_the_next_image(open_page: Open) -> None:
    review = open_page()
    review.press("x", "x", "x", "ArrowLeft", "ArrowLeft", "ArrowLeft", " ")
    assert review.path == "a/2.jpg"
    review.press("n")
    assert review.path == "a/4.jpg"


def test_a_key_that_is_held_down_decides_once(open_page: Open) -> None:
    review = open_page()
    for _ in range(5):
        review.page.keyboard.down("x")
    review.page.keyboard.up("x")
    assert (review.path, review.progress) == (
        "a/2.jpg",
        "2 of 10 decided, not downloaded yet",
    )  # a/1.jpg has two items.
    review.press("Control+x", "Alt+2", "Meta+u")  # Shortcuts of the browser.
    other = {"key": "»", "code": "KeyX", "modifierAltGraph": True, "bubbles": True}  # Another letter.
    review.frame.evaluate("options => document.dispatchEvent(new KeyboardEvent('keydown', options))", other)
    assert (review.path, review.progress) == ("a/2.jpg", "2 of 10 decided, not downloaded yet")
    review.frame.locator("#drop").focus()  # Enter presses a button at once and again, but not when it is held down.
    for _ in range(5):
        review.page.keyboard.down("Enter")
    review.page.keyboard.up("Enter")
    assert review.decisions() == {"a/1.jpg": "drop", "a/2.jpg": "drop"}


def test_keys_that_compose_a_letter_do_not_decide(open_page: Open) -> None:
    review = open_page([label_error(1, "a/1.jpg")], class_names=[f"c{i}" for i in range(20)])
    press = (
        "([selector, options]) => document.querySelector(selector).dispatchEvent(new KeyboardEvent('keydown', options))"
    )
    review.frame.evaluate(press, ["body", {"key": "x", "code": "KeyX", "bubbles": True, "isComposing": True}])
    assert review.rows() == []
    review.press("l")
    review.page.keyboard.type("c7")
    for how in ({"isComposing": True}, {"keyCode": 229}):
        review.frame.evaluate(press, ["#find", {"key": "Enter", "bubbles": True, **how}])
        assert review.progress == "0 of 1 decided"
    review.press("Enter")
    assert review.decisions() == {"a/1.jpg": "label:c7"}


def test_space_keeps_after_a_click_and_presses_a_button_that_was_reached_by_tab(open_page: Open) -> None:
    review = open_page()
    review.click("#drop")
    review.press(" ")
    assert review.decisions() == {"a/1.jpg": "drop", "a/2.jpg": "keep"}
    review.frame.locator("#labels button").last.focus()
    review.press("Tab", "Tab", " ")  # Keep, drop.
    assert review.decisions()["a/3.jpg"] == "drop"


def test_keys_of_other_keyboards(open_page: Open) -> None:
    review = open_page()
    for key, code in (
        ("ч", "KeyX"),
        ("ㅌ", "KeyX"),
        ("é", "Digit2"),
        ("X", "KeyX"),
    ):  # Russian, Korean, French, capitals.
        review.frame.evaluate(
            "([key, code]) => document.dispatchEvent(new KeyboardEvent('keydown', {key, code, bubbles: true}))",
            [key, code],
        )
    assert list(review.decisions().values()) == ["drop", "drop", "label:dog", "drop"]


@pytest.mark.parametrize(
    ("press", "expected"),
    [
        ("x", {"n/1.jpg": "drop"}),
        ("t", {"n/2.jpg": "drop"}),
        (" ", {"n/1.jpg + n/2.jpg": "both"}),  # This says nothing about the labels.
        ("2", {"n/1.jpg": "label:dog", "n/1.jpg + n/2.jpg": "both"}),
    ],
)
def test_a_pair_shows_both_pictures_and_either_can_be_dropped(
    open_page: Open, press: str, expected: dict[str, str]
) -> None:
    review = open_page()
    review.click("#kinds button:has-text('Near-duplicates')")
    assert review.path == "n/1.jpg"
    assert review.text("figure.twin figcaption") == "Label: dog n/2.jpg · validation t Drop this one"
    assert review.text("#keep") == "space Keep both"
    boxes = [box for figure in review.frame.locator("figure .frame").all() if (box := figure.bounding_box())]
    assert [boxes[0][key] for key in ("y", "width", "height")] == [boxes[1][key] for key in ("y", "width", "height")]
    review.press(press)
    assert review.path == "n/3.jpg"
    assert review.decisions() == expected
    assert "1 of 3 decided" in review.text("#kinds [aria-pressed=true]")


def test_every_twin_of_a_group_can_be_dropped(open_page: Open) -> None:
    review = open_page()
    review.click("#kinds button:has-text('Near-duplicates')")
    review.press("ArrowRight")
    review.click("figure.twin >> nth=1 >> .drop-one")
    assert review.path == "n/3.jpg"  # Another twin is left.
    assert review.text("figure.twin >> nth=1 >> .state") == "Dropped"
    assert review.text("#keep") == "space Keep all"
    review.press("t")
    assert review.path == "a/1.jpg"
    assert review.decisions() == {"n/4.jpg": "drop", "n/5.jpg": "drop"}


@pytest.mark.parametrize(
    ("label", "hint"),
    [("cat", "keep them here"), ("dog", "set the right label here")],  # --duplicates=drop needs equal labels.
)
def test_files_with_equal_bytes_share_a_decision(open_page: Open, label: str, hint: str) -> None:
    same = Picture(sha256=digest("n/1.jpg"), path="copy.jpg", label=label, split="test", jpeg=drawn("n/1.jpg"))
    review = open_page([Item(kind="near_duplicate", rank=1, score=1.0, picture=picture("n/1.jpg"), twins=[same])])
    assert review.text("#question") == (
        f"A decision applies to both files. To store only one of the files, {hint}, and convert with --duplicates=drop."
    )
    assert review.text("figure.twin") == f"Label: {label} copy.jpg · test The same bytes"
    assert "copy.jpg" in review.text("figure.twin .path")
    assert review.frame.locator(".drop-one").all_inner_texts() == ["x Drop both files"]
    assert review.text("#drop") == "x Drop both"
    review.press("t")  # The twin cannot be dropped alone.
    assert review.rows() == []
    review.press("x")
    assert review.decisions() == {"n/1.jpg": "drop"}
    assert review.frame.locator("figure.drop").count() == 2
    review.press("u", " ")
    assert review.decisions() == {"n/1.jpg + n/1.jpg": "both"}
    assert review.frame.locator("script[type='text/plain']").count() == 1


def counts(review: Review) -> dict[str, str]:
    """Return kind -> number of decided items, such as "1 of 5"."""
    texts = review.frame.locator("#kinds button").all_inner_texts()
    return dict(text.removesuffix(" decided").split("\n", 1) for text in texts)


def test_kinds_about_one_image_share_its_decision(open_page: Open) -> None:
    ambiguous = Item(kind="ambiguous", rank=4, score=0.9, picture=picture("a/1.jpg"), reason="Two classes are likely.")
    review = open_page([*ITEMS, ambiguous])
    assert "Also near-duplicates, rank 3: The hashes differ in 3 bits." in review.text("#issues")
    assert "Also ambiguous, rank 4: Two classes are likely." in review.text("#issues")
    review.press("2")
    assert (counts(review)["All"], counts(review)["Ambiguous"]) == ("2 of 11", "1 of 1")
    assert review.progress == "2 of 11 decided, not downloaded yet"


@pytest.mark.parametrize(
    ("presses", "decided", "rows"),
    [
        # A new label does not answer whether the pair is one picture twice, and a pair does not answer for a label.
        (["2"], ("1 of 5", "0 of 3"), {"a/1.jpg": "label:dog"}),
        ([" "], ("1 of 5", "0 of 3"), {"a/1.jpg": "keep"}),
        (["pair", " "], ("0 of 5", "1 of 3"), {"a/1.jpg + n/6.jpg": "both"}),
        (["pair", "t"], ("0 of 5", "1 of 3"), {"n/6.jpg": "drop"}),
        # A dropped image has no questions left.
        (["x"], ("1 of 5", "1 of 3"), {"a/1.jpg": "drop"}),
        (["pair", "x"], ("1 of 5", "1 of 3"), {"a/1.jpg": "drop"}),
        # A pair that is kept keeps the label that was set before, and a label may be set later.
        (["2", "pair", " "], ("1 of 5", "1 of 3"), {"a/1.jpg": "label:dog", "a/1.jpg + n/6.jpg": "both"}),
        (["pair", " ", "first", "2"], ("1 of 5", "1 of 3"), {"a/1.jpg": "label:dog", "a/1.jpg + n/6.jpg": "both"}),
        # A label that is set on the pair answers both.
        (["pair", "3"], ("1 of 5", "1 of 3"), {"a/1.jpg": "label:fox", "a/1.jpg + n/6.jpg": "both"}),
        # A later decision on the pair replaces the one before.
        (["pair", " ", "pair", "t"], ("0 of 5", "1 of 3"), {"n/6.jpg": "drop"}),
        (["pair", "t", "pair", " "], ("0 of 5", "1 of 3"), {"a/1.jpg + n/6.jpg": "both"}),
        # A picture that comes back has the label that was set before it was dropped.
        (["2", "pair", "x", "pair", " "], ("1 of 5", "1 of 3"), {"a/1.jpg": "label:dog", "a/1.jpg + n/6.jpg": "both"}),
        (["pair", "x", "pair", "x", "pair", " "], ("0 of 5", "1 of 3"), {"a/1.jpg + n/6.jpg": "both"}),
        (["pair", " ", "u"], ("0 of 5", "0 of 3"), {}),
    ],
)
def test_a_pair_is_decided_by_a_drop_or_on_itself(
    open_page: Open, presses: list[str], decided: tuple[str, str], rows: dict[str, str]
) -> None:
    review = open_page()
    for key in presses:
        review.press(*["ArrowRight"] * 10) if key == "pair" else None
        review.press(*["ArrowLeft"] * 10) if key == "first" else None
        review.press(key) if len(key) == 1 else None
    for opened in (review, open_page(again=True)):
        assert (counts(opened)["Label errors"], counts(opened)["Near-duplicates"]) == decided
        assert opened.decisions() == rows


def test_both_is_about_the_pair_where_it_is_loaded(open_page: Open, tmp_path: Path) -> None:
    review = open_page()
    review.press(*["ArrowRight"] * 10, " ")
    assert (counts(review)["Label errors"], counts(review)["Near-duplicates"]) == ("0 of 5", "1 of 3")
    (row,) = review.rows()
    sides = sorted([digest("a/1.jpg"), digest("n/6.jpg")])
    assert (row[0], row[1], row[5]) == (sides[0], "both", sides[1])
    file = tmp_path / "decisions.csv"
    file.write_bytes(review.content())
    other = open_page()
    assert other.upload(file) == "decisions.csv: 1 decision, 1 new or changed."
    assert (counts(other)["Label errors"], counts(other)["Near-duplicates"]) == ("0 of 5", "1 of 3")
    # A label of one of the images from another person contradicts nothing.
    label = write_table(tmp_path / "label.csv", table([digest("a/1.jpg"), "label", "dog", "", ""]))
    assert other.upload(label) == "label.csv: 1 decision, 1 new or changed."
    assert other.decisions() == {"a/1.jpg": "label:dog", "a/1.jpg + n/6.jpg": "both"}
    swapped = write_table(tmp_path / "none.csv", table([sides[1], "none", "", "", "", sides[0]], header=COLUMNS))
    assert (
        other.upload(swapped)
        == "none.csv: 1 decision differs from the decisions on this page. Keep the decisions of this page Use the"
        " decisions of the file"
    )
    other.click("#loaded button:has-text('Use')")
    assert other.decisions() == {"a/1.jpg": "label:dog", "a/1.jpg + n/6.jpg": "none"}


@pytest.mark.parametrize(("header", "decided"), [(HEADER, "1 of 3"), (COLUMNS, "0 of 3")], ids=["old", "new"])
def test_decisions_on_both_images_answer_for_the_pair_only_in_old_files(
    open_page: Open, tmp_path: Path, header: list[str], decided: str
) -> None:
    rows = [[digest(path), "keep", "", path, "cat", ""][: len(header)] for path in ("n/1.jpg", "n/2.jpg")]
    review = open_page()
    review.upload(write_table(tmp_path / "decisions.csv", table(*rows, header=header)))
    assert counts(review)["Near-duplicates"] == decided


def test_decisions_of_the_dataset_decide_pairs(open_page: Open) -> None:
    assert counts(open_page(decided=stored(("n/1.jpg", "keep", ""))))["Near-duplicates"] == "0 of 3"
    both = stored(("n/1.jpg", "keep", ""), ("n/2.jpg", "label", "cat"))  # The audit does not list them again.
    assert counts(open_page(decided=both))["Near-duplicates"] == "1 of 3"
    pairs = [
        Decision(digest(one), "both", "", one, digest(other)) for one, other in (("n/2.jpg", "n/1.jpg"), ("x", "y"))
    ]
    review = open_page(decided={one.key: one for one in pairs})
    assert counts(review)["Near-duplicates"] == "1 of 3"
    assert digest("x") not in rendered(decided={one.key: one for one in pairs})
    review.click("#kinds button:has-text('Near-duplicates')")
    review.press("ArrowLeft", "ArrowLeft")
    assert review.text("figure.main .state") == "Kept earlier"
    assert review.frame.locator("#keep").get_attribute("aria-pressed") == "true"
    review.press("u")
    assert review.decisions() == {"n/1.jpg + n/2.jpg": "none"}
    review.press("x")  # The pair need not be kept any more.
    assert review.decisions() == {"n/1.jpg": "drop", "n/1.jpg + n/2.jpg": "none"}


@pytest.mark.parametrize("is_uploaded", [False, True], ids=["stored", "uploaded"])
def test_a_dropped_twin_gets_its_earlier_label_back(open_page: Open, tmp_path: Path, is_uploaded: bool) -> None:
    review = open_page(decided={} if is_uploaded else stored(("n/2.jpg", "label", "fox"), ("n/6.jpg", "drop", "")))
    if is_uploaded:
        rows = [[digest("n/2.jpg"), "label", "fox", "n/2.jpg", ""], [digest("n/6.jpg"), "drop", "", "n/6.jpg", ""]]
        review.upload(write_table(tmp_path / "decisions.csv", table(*rows)))
    review.click("#kinds button:has-text('Near-duplicates')")
    review.press("t", "ArrowLeft", " ", "ArrowRight", "ArrowRight", " ")
    assert review.decisions() == {
        "n/1.jpg + n/2.jpg": "both",
        "n/2.jpg": "label:fox",
        "a/1.jpg + n/6.jpg": "both",
        **({} if is_uploaded else {"n/6.jpg": "none"}),  # Only an earlier drop is taken back.
    }


def test_filters_and_jump(open_page: Open) -> None:
    review = open_page()
    assert review.text("#count") == "of 10"
    review.frame.locator("#label").select_option("dog")
    assert (review.path, review.text("#count")) == ("a/3.jpg", "of 3")
    review.press("x")  # The list has lost the focus: keys decide again.
    assert review.path == "a/5.jpg"
    review.click("#kinds button:has-text('Off-topic')")
    assert (review.path, review.text("#count")) == ("o/2.jpg", "of 1")
    review.frame.locator("#label").select_option("")
    review.click("#kinds button:has-text('Label errors')")
    review.frame.locator("#undecided").check()
    assert review.text("#count") == "of 4"
    review.press("ArrowRight", " ")
    assert review.text("#count") == "of 3"
    review.frame.locator("#undecided").uncheck()
    for typed, path in (("2", "a/2.jpg"), ("99", "a/5.jpg"), ("-1", "a/1.jpg"), ("", "a/1.jpg")):
        review.frame.locator("#position").fill(typed)
        review.press("Enter")
        assert review.path == path
    review.click("#strip button >> nth=3")
    assert review.path == "a/4.jpg"


def test_finished_lists_say_so_and_lead_on(open_page: Open) -> None:
    review = open_page()
    review.click("#kinds button:has-text('Label errors')")
    review.frame.locator("#undecided").check()
    review.press(*"xxxxx")
    assert review.text("#banner") == "Nothing is left in this list. Go on: Off-topic, 2 undecided"
    assert not review.frame.locator("#stage").is_visible()
    review.press("x", "1", " ", "t")  # Nothing is shown, so that nothing is decided.
    assert review.progress == "6 of 10 decided, not downloaded yet"
    review.click("#onward")
    assert review.path == "o/1.jpg"
    review.click("#kinds button:has-text('All')")
    review.press(*"xxxx")
    assert review.text("#banner").startswith("Everything is decided. Download decisions.csv and apply it.")
    review.press("u")
    assert (review.path, review.frame.locator("#banner").is_visible()) == ("n/3.jpg", False)


@pytest.mark.parametrize(
    ("items", "total", "partial", "ending"),
    [
        (ITEMS[5:7], 2, "", "Everything is decided. Download decisions.csv and apply it. How to apply"),
        (
            ITEMS[5:7],
            1_240,
            "2 of 1,240 issues are on this page.",
            "Everything on this page is decided. Download decisions.csv and apply it. The other 1,238 issues of the"
            " audit are not on this page. To review them, run python -m trainers.audit again, with --pictures for more"
            " on one page. How to apply",
        ),
        (
            [],
            7,
            "0 of 7 issues are on this page.",
            "To review them, run python -m trainers.audit again with --pictures=7.",
        ),
        ([], 0, "", "There are no doubtful images."),
    ],
)
def test_a_part_of_the_issues_says_so(
    open_page: Open, items: list[Item], total: int, partial: str, ending: str
) -> None:
    review = open_page(items, total=total)
    shown = review.frame.locator("#partial").is_visible()
    assert (review.text("#partial") if shown else "") == partial
    review.press("x", "x")
    assert review.text("#banner") == ending


def test_the_page_shows_the_command_that_applies_the_decisions(open_page: Open) -> None:
    command = "python -m tfrecord_tools.adopt YOUR_FLAGS --overwrite --decisions=decisions.csv"
    assert open_page(apply_command=command).text("#save pre") == command


def stored(*rows: tuple[str, str, str]) -> dict[str, Decision]:
    """Return the decisions of a dataset from (path, decision, label)."""
    made = (Decision(digest(path), decision, label, path) for path, decision, label in rows)  # type: ignore[arg-type]
    return {decision.sha256: decision for decision in made}


def test_earlier_decisions_are_shown_and_can_be_changed(open_page: Open) -> None:
    earlier = stored(("a/1.jpg", "label", "fox"), ("a/2.jpg", "keep", ""), ("not/here.jpg", "drop", ""))
    review = open_page(decided=earlier)
    assert (review.path, review.progress) == ("a/3.jpg", "2 of 10 decided")
    assert digest("not/here.jpg") not in rendered(decided=earlier)  # A page of a large dataset stays small.
    review.press("ArrowLeft", "ArrowLeft")
    assert review.text("figure.main .state") == "Label: fox earlier"
    review.press("x")
    assert review.decisions() == {"a/1.jpg": "drop", "a/2.jpg": "keep"}
    review.press("u")
    assert review.decisions() == {"a/1.jpg": "label:fox", "a/2.jpg": "keep"}


def test_undo_reaches_earlier_decisions(open_page: Open, tmp_path: Path) -> None:
    review = open_page(decided=stored(("a/1.jpg", "label", "fox"), ("n/1.jpg", "keep", ""), ("n/2.jpg", "keep", "")))
    review.press("x")  # On a/2.jpg.
    review.upload(write_table(tmp_path / "decisions.csv", table([digest("a/4.jpg"), "drop", "", "", ""])))
    review.press("ArrowRight", "u")
    assert review.path == "a/4.jpg"  # The decision of the file is taken back, and not the last key or the whole file.
    assert review.decisions() == {"a/1.jpg": "label:fox", "a/2.jpg": "drop", "n/1.jpg": "keep", "n/2.jpg": "keep"}
    review.press(*["ArrowLeft"] * 3, "u")
    assert (review.path, review.text("#live")) == ("a/1.jpg", "The decision on this image is taken back.")
    assert not review.frame.locator("figure.main .state").is_visible()
    assert review.decisions() == {"a/1.jpg": "none", "a/2.jpg": "drop", "n/1.jpg": "keep", "n/2.jpg": "keep"}
    review.click("#kinds button:has-text('Near-duplicates')")
    review.press("u")
    assert review.decisions() == {"a/1.jpg": "none", "a/2.jpg": "drop", "n/1.jpg": "none", "n/2.jpg": "none"}
    review.press("u")  # Nothing is left to take back on this pair: the last decision.
    assert review.path == "a/2.jpg"
    assert review.decisions() == {"a/1.jpg": "none", "n/1.jpg": "none", "n/2.jpg": "none"}
    assert review.frame.locator("#undo").is_disabled()
    other = open_page(decided=stored(("a/1.jpg", "label", "fox")))
    file = tmp_path / "none.csv"
    file.write_bytes(review.content())
    assert (
        other.upload(file)
        == "none.csv: 1 decision differs from the decisions on this page. Keep the decisions of this page Use the"
        " decisions of the file"
    )
    other.click("#loaded button:has-text('Use')")
    assert other.decisions() == {"a/1.jpg": "none", "n/1.jpg": "none", "n/2.jpg": "none"}
    assert other.progress == "0 of 10 decided"


def test_undo_after_moving_takes_back_what_is_shown(open_page: Open) -> None:
    review = open_page()
    review.press("x", "2", " ", "ArrowLeft", "ArrowLeft", "u")
    assert (review.path, review.decisions()) == ("a/2.jpg", {"a/1.jpg": "drop", "a/3.jpg": "keep"})
    review.press("u")  # The image has no decision any more: the last one.
    assert (review.path, review.decisions()) == ("a/3.jpg", {"a/1.jpg": "drop"})
    review.press("u")
    assert (review.path, review.decisions()) == ("a/1.jpg", {})
    assert review.frame.locator("#undo").is_disabled()


def test_another_audit_of_the_dataset_keeps_decisions_and_undo(open_page: Open) -> None:
    review = open_page()
    review.press("x", "2", " ", "ArrowRight")
    other = open_page([ITEMS[7], ITEMS[4], ITEMS[1], ITEMS[2]], again=True)
    assert other.path == "a/5.jpg"  # The current image, by its hash.
    assert other.decisions() == {"a/2.jpg": "label:dog", "a/3.jpg": "keep", "a/1.jpg": "drop"}
    other.press("u", "u", "u")
    assert (other.path, other.decisions()) == ("a/2.jpg", {"a/1.jpg": "drop"})


def test_decisions_are_stored_by_dataset(open_page: Open) -> None:
    review = open_page()
    review.press("x", "2")
    review = open_page(again=True)
    assert (review.path, list(review.decisions().values())) == ("a/3.jpg", ["drop", "label:dog"])
    assert open_page(again=True, digest="d2").rows() == []
    assert open_page(again=True, name="others").rows() == []
    assert len(open_page(again=True).rows()) == 2
    # A second tab of the same page shows the new decision.
    open_page(again=True).press("x")
    review.frame.locator("#progress:has-text('4 of 10')").wait_for()


@pytest.mark.parametrize(
    "text", ["null", "7", "{", '{"decisions": 3}', '{"decisions": [["x"]], "history": [{}]}', "[]"]
)
def test_foreign_text_in_the_storage_is_left_out(open_page: Open, text: str) -> None:
    open_page().frame.evaluate("text => localStorage.setItem('tfrecord_tools.review:d1:pets', text)", text)
    review = open_page(again=True)
    review.press("x")
    assert review.decisions() == {"a/1.jpg": "drop"}


def test_without_storage_decisions_stay_in_memory(open_page: Open) -> None:
    outer = '<!DOCTYPE html><iframe src="review.html" sandbox="allow-scripts allow-downloads" width=1200 height=700>'
    review = open_page(outer=outer)
    assert "This browser does not store decisions for this page" in review.text("#storage")
    assert review.text("#focus") == "Click on the page once. Then the keys work."
    review.click("#title")
    assert not review.frame.locator("#focus").is_visible()
    review.press("2", "x")
    assert review.decisions() == {"a/1.jpg": "label:dog", "a/2.jpg": "drop"}
    review.press("u")
    review.frame.locator("#copy").evaluate("node => node.open = true")
    review.frame.locator("#copy[open]").wait_for()
    text = f"{','.join(COLUMNS)}\n{digest('a/1.jpg')},label,dog,a/1.jpg,cat,\n"
    review.frame.wait_for_function(
        "text => document.getElementById('text').value.replaceAll('\\r', '') === text", arg=text
    )
    assert open_page(again=True, outer=outer).rows() == []


def test_a_blocked_download_does_not_count_as_saved(open_page: Open) -> None:
    outer = '<!DOCTYPE html><iframe src="review.html" sandbox="allow-scripts" width=1200 height=700>'
    review = open_page(outer=outer, allowed=["Download is disallowed."])
    unload = "() => !dispatchEvent(new Event('beforeunload', {cancelable: true}))"
    assert (review.frame.evaluate(unload), review.frame.locator("#arrived").is_visible()) == (False, False)
    review.click("#drop")
    review.click("#download")
    assert review.progress == "2 of 10 decided, not downloaded yet"
    assert review.text("#arrived") == "Did decisions.csv arrive? Yes No, show the text"
    assert review.frame.evaluate(unload)
    review.click("#show")
    text = f"{','.join(COLUMNS)}\n{digest('a/1.jpg')},drop,,a/1.jpg,cat,\n"
    assert review.frame.locator("#text").input_value().replace("\r", "") == text
    assert review.frame.evaluate("getSelection().toString().length") > 100  # Ready to be copied.
    review.click("#saved")
    assert (review.progress, review.frame.evaluate(unload)) == ("2 of 10 decided", False)
    assert not review.frame.locator("#arrived").is_visible()
    review.click("#drop")
    assert review.progress == "3 of 10 decided, not downloaded yet"
    assert review.frame.evaluate(unload)


def test_a_full_storage_is_reported(open_page: Open) -> None:
    review = open_page()
    review.press("x")
    review.frame.evaluate(
        "() => { for (let size = 2 ** 22; size >= 1; size /= 2) try { for (let i = 0; ; i++)"
        " localStorage.setItem(`x${size}.${i}`, 'x'.repeat(size)); } catch {} }"
    )
    assert not review.frame.locator("#storage").is_visible()
    review.press("x")
    assert review.text("#failure") == (
        "The storage of this browser is full, so new decisions are lost when the page closes. Download decisions.csv"
        " now. If you open the page again, load this file."
    )
    assert review.decisions() == {"a/1.jpg": "drop", "a/2.jpg": "drop"}
    assert review.progress == "3 of 10 decided, not downloaded yet"
    review.frame.evaluate(
        "Object.keys(localStorage).filter(key => key[0] === 'x').forEach(key => localStorage.removeItem(key))"
    )
    review.press("x")  # There is room again.
    assert not review.frame.locator("#storage").is_visible()
    assert list(open_page(again=True).decisions().values()) == ["drop"] * 3


def test_in_a_frame_as_notebooks_show_it(open_page: Open) -> None:
    outer = '<!DOCTYPE html><iframe src="review.html" width=1000 height=700>'
    review = open_page(outer=outer)
    assert not review.frame.locator("#storage").is_visible()
    review.click("#keep")
    review.press("x")
    assert list(open_page(again=True, outer=outer).decisions().values()) == ["keep", "drop"]


def table(*rows: Sequence[str], header: Sequence[str] = HEADER) -> str:
    stream = io.StringIO(newline="")
    csv.writer(stream).writerows([header, *rows])
    return stream.getvalue()


def write_table(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_a_file_without_contradictions_is_loaded_and_taken_back_by_undo(open_page: Open, tmp_path: Path) -> None:
    review = open_page()
    review.press("x", "x")
    foreign = [digest("elsewhere"), "label", "fox", "else,where\n.jpg", "dog"]
    same = [digest("a/1.jpg"), "drop", "", "a/1.jpg", "cat"]
    file = write_table(tmp_path / "decisions.csv", table(same, [digest("a/3.jpg"), "label", "fox", "", ""], foreign))
    assert review.upload(file) == (
        "decisions.csv: 3 decisions, 2 new or changed. 1 image of the file is not on this page; the decisions are kept"
        " for the next download."
    )
    assert review.rows() == [
        same,
        [digest("a/2.jpg"), "drop", "", "a/2.jpg", "cat"],
        [digest("a/3.jpg"), "label", "fox", "a/3.jpg", "dog"],
        foreign,
    ]
    review.press("u")
    assert review.decisions() == {"a/1.jpg": "drop", "a/2.jpg": "drop"}


@pytest.mark.parametrize(
    ("answer", "changed", "expected"),
    [
        ("Keep the decisions of this page", 1, {"a/1.jpg": "drop", "a/2.jpg": "label:dog", "a/3.jpg": "drop"}),
        ("Use the decisions of the file", 3, {"a/1.jpg": "keep", "a/2.jpg": "label:fox", "a/3.jpg": "drop"}),
    ],
)
def test_contradictions_are_asked(
    open_page: Open, tmp_path: Path, answer: str, changed: int, expected: dict[str, str]
) -> None:
    review = open_page()
    review.press("x", "2")
    rows = [["a/1.jpg", "keep", ""], ["a/2.jpg", "label", "fox"], ["a/3.jpg", "drop", ""]]
    file = write_table(
        tmp_path / "mail.csv", table(*([digest(path), word, label, path, ""] for path, word, label in rows))
    )
    question = (
        "mail.csv: 2 decisions differ from the decisions on this page. Keep the decisions of this page Use the"
        " decisions of the file"
    )
    assert review.upload(file) == question
    assert review.decisions() == {"a/1.jpg": "drop", "a/2.jpg": "label:dog"}  # Until an answer, nothing changes.
    review.click(f"#loaded button:has-text({json.dumps(answer)})")
    assert review.text("#loaded") == f"mail.csv: 3 decisions, {changed} new or changed."
    assert review.decisions() == expected
    review.press("u")
    assert review.decisions() == {"a/1.jpg": "drop", "a/2.jpg": "label:dog"}


def test_rows_with_an_unknown_class_are_left_out(open_page: Open, tmp_path: Path) -> None:
    review = open_page(class_names=[f"class {i}" for i in range(12)])
    rows = [[digest(str(i)), "label", f"klass {i}", "", ""] for i in range(7)]
    good = [digest("a/1.jpg"), "label", "class 7", "a/1.jpg", "cat"]
    assert review.upload(write_table(tmp_path / "bad.csv", table(rows[0], good, *rows[1:]))) == (
        "bad.csv: 1 decision, 1 new or changed."
        + "".join(f' Row {row} is not loaded: "klass {i}" is not a class.' for i, row in enumerate((1, 3, 4, 5, 6)))
        + f" 2 other rows are not loaded. Classes are {', '.join(f'class {i}' for i in range(10))} and 2 more."
        + " Correct the label and load the file again."
    )
    assert review.rows() == [good]


def test_the_downloaded_file_can_be_loaded_elsewhere(open_page: Open, tmp_path: Path) -> None:
    review = open_page()
    review.press("2", "x", " ")
    content = review.content()
    other = open_page(digest="d2")
    file = tmp_path / "decisions (1).csv"
    file.write_bytes(b"\xef\xbb\xbf" + content)  # Spreadsheets add a byte order mark.
    assert other.upload(file) == "decisions (1).csv: 3 decisions, 3 new or changed."
    assert other.content() == content


ONE, TWO, THREE = (digest(f"a/{i}.jpg") for i in (1, 2, 3))
PAIR = " ".join(sorted((ONE, TWO)))
HEAD = "sha256,decision,label\n"


def lacking(column: str) -> tuple[str, str]:
    return (
        f"is not a decisions file: there is no column '{column}'.",
        f'is not a decisions file: there is no column "{column}".',
    )


# Name -> content of a file, and its decisions, or a text of both errors, or of each. Row 1 is the first one after the
# header.
TABLES: dict[str, tuple[str | bytes, dict[str, str] | str | tuple[str, str]]] = {
    "plain": (f"{HEAD}{ONE},label,dog\n{TWO},drop,\n{THREE},keep,\n", {ONE: "label:dog", TWO: "drop", THREE: "keep"}),
    "rows without a decision": (f"{HEAD}{ONE},,dog\nno hash,,\n{TWO},drop,\n", {TWO: "drop"}),
    "capitals": (f"{HEAD}{ONE.upper()},Label,dog\n{TWO},DROP,\n", {ONE: "label:dog", TWO: "drop"}),
    "spaces": (f" sha256 , decision ,label\n {ONE} , label , dog \n", {ONE: "label:dog"}),
    "semicolons": (f"sha256;decision;label;path\n{ONE};label;dog;a,b.jpg\n", {ONE: "label:dog"}),
    "tabs": (f"sha256\tdecision\tlabel\n{ONE}\tlabel\tdog\n", {ONE: "label:dog"}),
    "bars": (f"sha256|decision|label\n{ONE}|label|dog\n", {ONE: "label:dog"}),
    "a named separator": (f"sep=:\r\nsha256:decision\r\n{ONE}:drop\r\n", {ONE: "drop"}),
    "a byte order mark": (f"\ufeff{HEAD}{ONE},drop,\n", {ONE: "drop"}),
    "UTF-16": (f"sha256\tdecision\tlabel\n{ONE}\tlabel\tdog\n".encode("utf-16"), {ONE: "label:dog"}),
    "suspects.csv": (f"sha256,decision,given_label,predicted_label\n{ONE},label,cat,dog\n", {ONE: "label:dog"}),
    "issues.csv": (f"kind,sha256,decision,proposed_label\nlabel,{ONE},label,fox\n", {ONE: "label:fox"}),
    "the first label": (f"sha256,decision,predicted_label,label\n{ONE},label,cat,dog\n", {ONE: "label:dog"}),
    "a label that is not used": (f"{HEAD}{ONE},keep,cat\n{TWO},drop,no class\n", {ONE: "keep", TWO: "drop"}),
    "composed and decomposed letters": (f"{HEAD}{ONE},label,a\u0308rmel\n", {ONE: "label:\u00e4rmel"}),
    "none": (f"{HEAD}{ONE},none,\n{TWO},drop,\n", {ONE: "none", TWO: "drop"}),
    "a row twice": (f"{HEAD}{ONE},drop,\n{ONE},drop,\n", {ONE: "drop"}),
    "quotes": (f'sha256,path,decision\n"{ONE}","a ""b"", \n c",drop\n{TWO},5" x,keep\n', {ONE: "drop", TWO: "keep"}),
    "empty lines": (f"\n{HEAD}\n{ONE},drop,\n\n{TWO},keep,\n\n", {ONE: "drop", TWO: "keep"}),
    "no end of the last line": (f"{HEAD}{ONE},drop,", {ONE: "drop"}),
    "old line ends": (f"{HEAD}{ONE},drop,\n".replace("\n", "\r"), {ONE: "drop"}),
    "both": (f"sha256,decision,twin_sha256\n{TWO},both,{ONE.upper()}\n{ONE},keep,\n", {PAIR: "both", ONE: "keep"}),
    "both in any order": (f"sha256,decision,twin_sha256\n{TWO},both,{ONE}\n{ONE},both,{TWO}\n", {PAIR: "both"}),
    "both is taken back": (
        f"sha256,decision,twin_sha256\n{TWO},none,{ONE}\n{ONE},none,\n",
        {PAIR: "none", ONE: "none"},
    ),
    "issues.csv with twins": (
        f"kind,sha256,decision,twin_sha256\nlabel,{ONE},none,{TWO}\nnear_duplicate,{ONE},both,{TWO}\n",
        {ONE: "none", PAIR: "both"},
    ),
    "another word with a twin": (f"sha256,decision,twin_sha256\n{ONE},drop,no hash\n", {ONE: "drop"}),
    "both without a twin": (
        f"{HEAD}{ONE},both,\n",
        ("is not a SHA-256 hash. The column decision has", "is not a SHA-256 hash. With the word"),
    ),
    "none with a wrong twin": (f"sha256,decision,twin_sha256\n{ONE},none,x\n", "the column twin_sha256 must have the"),
    "hash": (f"{HEAD}{ONE},,\n\nx,drop,\n", ("row 2: 'x' is not a SHA-256 hash.", 'row 2: "x" is not a SHA-256 hash.')),
    "word": (f"{HEAD}{ONE},keep,\n{TWO},remove,\n", ("row 2: 'remove' is not a", 'row 2: "remove" is not a decision.')),
    "word and hash": (f"{HEAD}x,remove,\n", "is not a decision. The column decision must be"),
    "label": (f"{HEAD}{ONE},label,\n", ("row 1: the column 'decision' has", 'row 1: the column "decision" has')),
    "contradiction": (
        f"{HEAD}{ONE},drop,\n{TWO},,\n{ONE},keep,\n",
        ("rows 1 (drop) and 3 (keep) are different", "rows 1 and 3 contradict each other"),
    ),
    "undecided": (f"{HEAD}{ONE},,dog\n", "no row has a decision. The column decision must have"),
    "no decision column": (f"sha256,label\n{ONE},dog\n", lacking("decision")),
    "no hash column": (f"path,decision\n{ONE},drop\n", lacking("sha256")),
    "another case of a column": (f"SHA256,decision\n{ONE},drop\n", lacking("sha256")),
    "a column twice": (
        f"sha256,decision,decision\n{ONE},drop,keep\n",
        ("several columns are named 'decision'.", 'several columns are named "decision".'),
    ),
    "too few values": (
        f"{HEAD}{ONE},drop\n",
        ("Expected 3 columns, got 2: ", "row 1: has 2 values. The table has 3 c"),
    ),
    "too many values": (
        f"{HEAD}{ONE},drop,,\n",
        ("Expected 3 columns, got 4: ", "row 1: has 4 values. The table has 3 c"),
    ),
    "an open quote at the end": (f'sha256,decision\n{ONE},"drop\n', {ONE: "drop"}),
    "an open quote before": (
        f'{HEAD}{ONE},"drop,\n{TWO},keep,\n',
        ("Expected 3 columns, got 2: ", "row 1: has 2 values. The table has 3 columns."),
    ),
    "nothing": ("", ("Empty CSV file.", 'there is no column "sha256" and no column "decision".')),
    "a workbook": (b"PK\x03\x04 sheet", "Save the sheet with the table as a CSV file in UTF-8."),
    "Parquet": (b"PAR1 columns", "is a Parquet file"),
    "Latin-1": (
        f"{HEAD}{ONE},label,\xe4rmel\n".encode("latin-1"),
        ("line 2 is not in utf-8: the bytes b'\\xe4rme' are not valid.", "is not a text in UTF-8."),
    ),
}


def test_the_page_reads_what_convert_reads(open_page: Open, tmp_path: Path) -> None:
    for name, (content, expected) in TABLES.items():
        file = write_table(tmp_path / "table.csv", content)
        # Another digest: the browser keeps the decisions of each dataset.
        review = open_page(class_names=[*CLASSES, "\u00e4rmel"], again=True, digest=f"of {name}")
        said = review.upload(file)
        if isinstance(expected, dict):
            read = decisions.read(str(file)).values()
            assert {row.key: row.decision + (f":{row.label}" if row.label else "") for row in read} == expected, name
            assert (
                said
                == f"table.csv: {len(expected)} decision{'s'[len(expected) == 1 :]}, {len(expected)} new or changed."
            )
            rows = {" ".join([row[0], *row[5:]]): row[1] + (f":{row[2]}" if row[2] else "") for row in review.rows()}
            assert rows == expected, name
        else:
            of_convert, of_page = (expected, expected) if isinstance(expected, str) else expected
            assert min(len(of_convert), len(of_page)) > 14, name  # An empty text is in each message.
            with pytest.raises(UserError) as error:
                decisions.read(str(file))
            assert of_convert in str(error.value), name
            assert of_page in said, name
            assert (said.startswith("table.csv: "), said.endswith(" Nothing was loaded.")) == (True, True), name
            assert review.rows() == [], name
        review.page.close()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 'is not a decisions file: there is no column "sha256" and no column "decision". The columns must be'
             " sha256, decision, label, path, given_label, twin_sha256."),
        ("sha256,label\n", 'is not a decisions file: there is no column "decision". The columns must be sha256,'
                           " decision, label, path, given_label, twin_sha256."),
        ("sha256,decision,sha256\n", 'several columns are named "sha256". Keep one of them.'),
        (table([ONE, "drop", "", "", ""], ["x", "drop", "", "", ""]),
         'row 2: "x" is not a SHA-256 hash. The column sha256 must have 64 hexadecimal digits.'),
        (table([ONE, "remove", "", "", ""]),
         'row 1: "remove" is not a decision. The column decision must be label, drop, keep, both or none.'),
        (table([ONE, "label", "", "", ""]),
         "row 1: the column \"decision\" has the word \"label\", but the column \"label\" is empty."
         " Write the name of a class."),
        (table([ONE, "drop"]), "row 1: has 2 values. The table has 5 columns."),
        (table([digest("b"), "drop", "", "two\nlines", ""], [ONE, "drop", "", "", ""], [ONE, "keep", "", "", ""]),
         "rows 2 and 3 contradict each other about the same image. Delete one of the rows."),
        (table([ONE, "", "", "", ""]),
         "no row has a decision. The column decision must have label, drop, keep, both or none."),
        (b"PK\x03\x04", "is a workbook or a zip archive. Save the sheet with the table as a CSV file in UTF-8."),
        (b"PAR1", "is a Parquet file. Load a CSV."),
        (b"sha256,\xe4", "is not a text in UTF-8. Save the table as CSV in UTF-8."),
    ],
)  # fmt: skip
def test_mistakes_in_an_uploaded_file(open_page: Open, tmp_path: Path, text: str | bytes, message: str) -> None:
    review = open_page()
    review.press("x")
    assert review.upload(write_table(tmp_path / "bad.csv", text)) == f"bad.csv: {message} Nothing was loaded."
    assert review.decisions() == {"a/1.jpg": "drop"}
    # A correct file can follow.
    file = write_table(tmp_path / "good.csv", table([TWO, "keep", "", "", ""]))
    assert review.upload(file) == "good.csv: 1 decision, 1 new or changed."


def test_names_and_paths_are_text_only(open_page: Open, tmp_path: Path) -> None:
    items = [
        Item(
            kind=f"kind {name}", rank=1, score=float("nan"), picture=picture(f"{name}/{name}", name, name), reason=name,
            proposed=EVIL[i - 1], twins=[picture(f"twin {name}", name)],
        )
        for i, name in enumerate(EVIL)
    ]  # fmt: skip
    earlier = stored(*((f"twin {name}", "label", name) for name in EVIL))
    review = open_page(items, name=EVIL[1], class_names=EVIL, facts=EVIL, decided=earlier, digest=EVIL[1])
    review.press(*"123456789")
    content = review.content()
    rows = list(csv.reader(io.StringIO(content.decode(), newline="")))
    assert rows[1::2] == [[digest(f"{name}/{name}"), "label", name, f"{name}/{name}", name, ""] for name in EVIL]
    assert rows[2::2] == [[digest(f"twin {name}"), "label", name, f"twin {name}", name, ""] for name in EVIL]
    elements = (
        "['img[onerror]', 'section b', 'script:not([type]):not([id])'].map(s => document.querySelectorAll(s).length)"
    )
    assert review.frame.evaluate(elements) == [0, 0, 1]  # The only script is the page's own.
    for position, name in enumerate(EVIL):
        review.frame.locator("#position").fill(str(position + 1))
        review.press("Enter")
        shown = review.frame.locator("figure.main .chip").first.inner_text()
        assert shown == written_out(name).strip()
    file = write_table(tmp_path / "decisions.csv", content.decode())
    assert review.upload(file).startswith(f"decisions.csv: {2 * len(EVIL)} decisions, 0 new or changed.")
    announced = f"<b>{EVIL[0]}</b>.csv".replace("/", "")
    assert review.upload(write_table(tmp_path / announced, "x")).startswith(announced)


def written_out(text: str) -> str:
    return (
        re.sub(r"[\u2028\u2029\u202e]", lambda mark: f"\\u{ord(mark[0]):x}", text)
        .replace("\r", "\\r")
        .replace("\n", "\\n")
    )


def test_ten_classes_have_ten_keys(open_page: Open) -> None:
    review = open_page(
        [label_error(i, f"{i}.jpg", "c0", "c9") for i in (1, 2, 3)], class_names=[f"c{i}" for i in range(10)]
    )
    assert review.text("#labels").startswith("1 c0 given 2 c1 3 c2")
    review.press("0", "9", "p")
    assert list(review.decisions().values()) == ["label:c9", "label:c8", "label:c9"]
    assert not review.frame.locator("#search").is_visible()


def test_more_classes_are_found_by_typing(open_page: Open) -> None:
    names = [f"class {i:03d}" for i in range(200)] + ["Ärmel", "tabby cat", "cat"]
    twins = [picture("t/1", "class 007"), picture("t/2", "cat"), picture("t/3", "class 150")]
    review = open_page([label_error(i, f"{i}.jpg", "cat", "tabby cat", twins) for i in range(1, 8)], class_names=names)
    assert review.text("#labels") == "1 tabby cat proposed 2 class 007 3 class 150"
    review.press("2", "l")
    review.page.keyboard.type("CAT")
    assert review.frame.locator("#options li").all_inner_texts() == ["cat", "tabby cat"]
    review.press("ArrowDown", "Enter")
    review.press("l")
    review.page.keyboard.type("no such x")  # Letters go into the field.
    assert review.text("#options") == "No class has this name."
    review.press("Enter", "Escape", "x")
    review.press("l")
    review.page.keyboard.type("15")
    review.click("#options li:has-text('class 115')")
    review.press("l", "Enter", "Escape")  # Nothing is typed, so that nothing is chosen.
    review.press("l")
    review.page.keyboard.type("ärm")
    review.press("Enter", "p")
    assert list(review.decisions().values()) == [
        "label:class 007", "label:tabby cat", "drop", "label:class 115", "label:Ärmel", "label:tabby cat",
    ]  # fmt: skip


# Returns the words of visible texts that stand on more than one line. A separator may end a line.
BROKEN_WORDS = r"""() => {
  const broken = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const parent = node.parentElement;
    if (!parent.checkVisibility() || parent.closest("textarea, script, style, option")) continue;
    for (const word of node.textContent.matchAll(/[^\s-]+/g)) {
      const range = document.createRange();
      range.setStart(node, word.index);
      range.setEnd(node, word.index + word[0].length);
      if (new Set([...range.getClientRects()].map((box) => Math.round(box.top))).size > 1) broken.push(word[0]);
    }
  }
  return broken;
}"""
SMALL_TARGETS = """() => [...document.querySelectorAll('button, select, input, label.check, summary')]
  .filter((node) => node.type !== 'checkbox')
  .filter((node) => node.checkVisibility())
  .map((node) => [node.id || node.textContent, node.getBoundingClientRect()])
  .filter(([, box]) => box.width < 43.5 || box.height < 43.5).map(([name]) => name)"""
LONG = ["a golden retriever/with-a_long.name", "Staffordshire bull terrier, the whole of it", *CLASSES]


@pytest.mark.parametrize("classes", [CLASSES, LONG * 2, [f"{name} {i}" for i in range(9) for name in LONG]], ids=len)
def test_narrow_screens(open_page: Open, classes: list[str]) -> None:
    path = "validation/a-directory-with-a-long-name/IMG_20240131_123456_of_a_long_series.jpeg"
    items = [label_error(1, path, LONG[0], LONG[1], [picture(f"{i}/{path}", LONG[1]) for i in range(3)]), *ITEMS]
    review = open_page(items, class_names=classes, width=400, facts=["About 3.1% of the labels are wrong."])
    for kind in ("All", "Near-duplicates"):
        review.click(f"#kinds button:has-text('{kind}')")
        assert review.frame.evaluate("document.documentElement.scrollWidth") == 400
        assert review.frame.evaluate(BROKEN_WORDS) == []
        assert review.frame.evaluate(SMALL_TARGETS) == []
    review.press("x")
    # The picture and all buttons are on the screen at once.
    heights = [box for id in ("figure.main .frame", "#bar") if (box := review.frame.locator(id).bounding_box())]
    assert heights[0]["y"] >= 0
    assert heights[0]["y"] + heights[0]["height"] <= heights[1]["y"]
    assert heights[1]["y"] + heights[1]["height"] <= 800


# Returns the lowest contrast of a visible text to its background (WCAG 2.2, relative luminance), with the text.
CONTRAST = """() => {
  const luminance = (color) => {
    const levels = color.match(/[\\d.]+/g).map((value) => value / 255);
    const [r, g, b] = levels.map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const background = (node) => {
    const color = getComputedStyle(node).backgroundColor;
    return color !== 'rgba(0, 0, 0, 0)' || !node.parentElement ? color : background(node.parentElement);
  };
  return [...document.body.querySelectorAll('*')]
    .filter((node) => node.checkVisibility() && !node.disabled && !node.parentElement.disabled
      && [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim()))
    .map((node) => [luminance(getComputedStyle(node).color), luminance(background(node)), node.textContent])
    .map(([one, other, text]) => [(Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05), text])
    .sort((one, other) => one[0] - other[0])[0];
}"""


@pytest.mark.parametrize(("scheme", "is_dark"), [("light", False), ("dark", True)])
def test_light_and_dark_are_readable(open_page: Open, scheme: str, is_dark: bool) -> None:
    review = open_page(scheme=scheme, facts=["A fact."])
    review.press("x", "2", " ", *["ArrowLeft"] * 9)
    red = int(review.frame.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]"))
    assert (red < 50) == is_dark
    for _ in range(3):  # Dropped, labeled, kept.
        contrast, text = review.frame.evaluate(CONTRAST)
        assert contrast >= 4.5, text
        review.press("ArrowRight")


def test_every_control_has_a_name_and_shows_its_focus(open_page: Open) -> None:
    review = open_page()
    review.press("x", "ArrowLeft")
    page = review.page
    for role in ("button", "checkbox", "combobox", "spinbutton", "img"):
        assert page.get_by_role(role).count() == page.get_by_role(role, name=re.compile(r"\S")).count()
    assert page.get_by_role("img", name="cat: a/1.jpg").count() == 2  # The stage and the strip.
    assert review.text("#live") == "Dropped."
    review.press("Tab")
    outlines = set()
    for _ in range(12):
        review.press("Tab")
        outlines.add(page.evaluate("getComputedStyle(document.activeElement).outlineStyle"))
    assert outlines == {"solid"}


def test_a_thousand_pictures(open_page: Open, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    # Noise makes larger files than photographs: the quality must give way.
    jpegs = [review_page.jpeg_of(rng.integers(0, 256, (480, 640, 3), np.uint8)) for _ in range(4)]
    folder = "validation/" + 100 * "d"
    items = [
        Item(
            kind=("label", "off_topic", "rare")[i % 3], rank=i + 1, score=0.5, proposed="dog", reason=200 * "r",
            picture=Picture(
                sha256=digest(str(i)), path=f"{folder}/{i}.jpg", label="cat", split="train", jpeg=jpegs[i % 4]
            ),
        )
        for i in range(1_000)
    ]  # fmt: skip
    decided = {item.picture.sha256: Decision(item.picture.sha256, "keep", "", item.picture.path) for item in items}
    review = open_page(items, decided=decided)
    assert (tmp_path / "review.html").stat().st_size <= review_page.PAGE_BYTES
    assert review.progress == "1,000 of 1,000 decided"
    review.press(*["ArrowRight"] * 30)
    review.frame.locator("#position").fill("1000")
    review.press("Enter")
    assert review.path == f"{folder}/998.jpg"
    assert review.frame.locator("img").count() < 20  # Only pictures around the current one are decoded.
    assert review.frame.locator("figure.main img").evaluate("node => node.decode().then(() => node.naturalWidth)") > 100
    # The script stands behind the first pictures and in front of the others: it need not wait for the whole file.
    text = (tmp_path / "review.html").read_text()
    assert text.index('id="p23"') < text.index('"use strict"') < text.index('id="p24"')
    assert text.index('"use strict"') < len(text) / 8


def test_pages_without_items_or_pictures(open_page: Open) -> None:
    review = open_page([])
    assert review.text("#banner") == "There are no doubtful images."
    review.press("x", "u", "n", "1", "ArrowRight", "t", "p")
    assert review.rows() == []
    missing = Picture(sha256=digest("m"), path="m.jpg", label="", split="train", jpeg=b"")
    review = open_page([Item(kind="low_quality", rank=1, score=0.5, picture=missing)])
    assert review.text("figure.main") == "This picture cannot be shown. Given label: no label m.jpg · train"


def rendered(items: Sequence[Item] = ITEMS, **values: Any) -> str:
    return review_page.render(contents(items, **values))


def data_of(text: str) -> Mapping[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_policy_allows_only_the_script_of_the_page() -> None:
    text = rendered()
    script = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(script) == 1
    key = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    assert (
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-"
        f"{key}'; base-uri 'none'; form-action 'none'\"" in text
    )
    assert re.findall(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", text) == []
    assert re.findall(r"https?://", text) == []


def test_data_are_escaped_and_keep_the_order_of_the_kinds() -> None:
    text = rendered([Item(kind=kind, rank=1, score=0.1, picture=picture(kind)) for kind in EVIL], name=EVIL[1])
    assert [title for _, title, _ in data_of(text)["kinds"]] == [kind.capitalize() for kind in EVIL]
    assert [mark for mark in (*EVIL[:5], "\u2028", "\u202e", "<!--<") if mark in text] == []
    mixed = [ITEMS[7], ITEMS[0], ITEMS[8], ITEMS[1]]
    assert [item["kind"] for item in data_of(rendered(mixed))["items"]] == ["near_duplicate"] * 2 + ["label"] * 2


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: turn by 90 degrees.
    return encoded(Image.new("RGB", (800, 400), "red"), "JPEG", exif=exif)


@pytest.mark.parametrize(
    ("image", "size"),
    [
        (encoded(Image.new("RGB", (1600, 1200)), "JPEG"), (320, 240)),
        (turned(), (160, 320)),
        (encoded(Image.new("P", (640, 640)), "PNG"), (320, 320)),
        (encoded(Image.new("RGBA", (640, 320)), "PNG"), (320, 160)),
        (encoded(Image.new("L", (100, 50)), "PNG"), (100, 50)),  # Small images are not enlarged.
        (encoded(Image.new("CMYK", (640, 320)), "JPEG"), (320, 160)),
        (encoded(Image.new("RGB", (640, 320)), "WEBP"), (320, 160)),
        (np.zeros((640, 320, 3), np.uint8), (160, 320)),
        (np.zeros((32, 16), np.uint8), (16, 32)),
        (np.zeros((1, 1, 3), np.uint8), (1, 1)),
        (np.zeros((3, 4000, 3), np.uint8), (320, 1)),
    ],
)
def test_small_pictures(image: bytes | np.ndarray, size: tuple[int, int]) -> None:
    with Image.open(io.BytesIO(review_page.jpeg_of(image))) as small:
        assert (small.format, small.mode, small.size) == ("JPEG", "RGB", size)
        assert not small.getexif()


@pytest.mark.parametrize("pictures", [1, 100, 500, 1_000, 2_000, 100_000])
def test_pictures_fit_into_their_share(pictures: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (400, 600, 3), np.uint8)
    limit = review_page.bytes_of_each(pictures)
    jpeg = review_page.jpeg_of(noise, pictures=pictures)
    assert limit / 2 < len(jpeg) <= limit
    if pictures <= 2_000:
        assert pictures * (limit * 4 / 3 + 1_000) < review_page.PAGE_BYTES


def test_an_undecodable_picture_is_an_error() -> None:
    with pytest.raises(UndecodableImage, match="damaged image"):
        review_page.jpeg_of(b"no image")
