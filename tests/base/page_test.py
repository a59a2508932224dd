"""Tests of HTML pages: values are escaped, code and flags are marked, templates are packaged."""

from __future__ import annotations

import configparser
import fnmatch
from pathlib import Path

import pytest
from image_sources import REPOSITORY

from tfrecord_tools.base import page, rules
from tfrecord_tools.base.rules import Finding, Rule


@pytest.fixture
def filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that renders a text as a template of a new package."""
    package = tmp_path.name  # Different for each test, since a package is imported only once.
    (tmp_path / package / "templates").mkdir(parents=True)
    (tmp_path / package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)

    def fill(text: str, **values: object) -> str:
        (tmp_path / package / "templates/it.html").write_text(text)
        return page.render(package, "it.html", **values)

    return fill


def test_values_and_control_characters_are_escaped(filled) -> None:
    text = '<p title="{{ value }}">{{ value }}</p>\n'
    shown = "&lt;b&gt;&#34;&amp;&#39;\\n\\x00\\x7f"
    assert filled(text, value="<b>\"&'\n\0\x7f") == f'<p title="{shown}">{shown}</p>'


def test_a_missing_value_is_an_error(filled) -> None:
    with pytest.raises(Exception, match="'value' is undefined"):
        filled("{{ value }}")


def test_filters(filled) -> None:
    text = "{{ 1234 | number('image') }} {{ 1500 | size }} {{ 0.5 | form('.1%') }} {{ flag | with_flags }}"
    assert filled(text, flag="<--a=b") == "1,234 images 1.5 kB 50.0% &lt;<code>--a=b</code>"


def test_backticks_mark_code_but_not_in_values() -> None:
    assert page.marked("use `--a={b}` <", b="`<\n`") == "use <code>--a=`&lt;\\n`</code> &lt;"
    assert page.marked("{a}", a=page.marked("`b`")) == "<code>b</code>"


def test_flags_are_marked_as_code() -> None:
    assert page.with_flags("pass --x=1,2 or --y <b>{}") == "pass <code>--x=1,2</code> or <code>--y</code> &lt;b&gt;{}"


def rule(name: str, level: str, limit: int) -> Rule[int]:
    return Rule(
        name=name, level=level, section="there", condition=lambda facts: {"n": facts} if facts > limit else None,
        title="{n} above", text="Too many <of> them.", advice="Pass `--n={n}`.",
    )  # fmt: skip


def test_rules_with_a_true_condition_give_findings() -> None:
    table = [rule("note", "note", 1), rule("problem", "problem", 2), rule("check", "check", 3), rule("b", "note", 9)]
    findings = rules.worst_first(rules.found(table, 5))
    assert [finding.name for finding in findings] == ["problem", "check", "note"]
    text = "Too many &lt;of&gt; them. Pass <code>--n=5</code>."
    assert findings[0] == Finding(name="problem", level="problem", title="5 above", text=text, section="there")


def test_findings_as_lines_of_the_console() -> None:
    table = (rule("low", "note", 1), rule("high", "check", 3))
    lines = list(rules.lines(rules.found(table, 5)))
    assert lines == ["  check: 5 above. Too many <of> them. Pass --n=5."]  # The console shows no notes.


@pytest.mark.parametrize(("sizes", "text"), [([40, 600], "40 to 600"), ([10, 99], ""), ([100, 1000], "100 to 1,000")])
def test_imbalance(sizes: list[int], text: str) -> None:
    assert rules.imbalance(sizes) == text


@pytest.mark.parametrize(
    ("path", "html"),
    [
        ("train/cats/a_b-1.jpg", "train/<wbr>cats/<wbr>a_<wbr>b-<wbr>1.<wbr>jpg"),
        ("<b>/&\n", "&lt;b&gt;/&amp;\\n"),
        ("word", "word"),
    ],
)
def test_paths_break_behind_their_separators(path: str, html: str) -> None:
    assert page.breakable(path) == html


def test_commands_break_between_words(filled) -> None:
    text = page.marked("Run `python -m x --a=b` or `{code}` <now>.", code="rm -r <x>")
    assert filled("{{ html | whole_words }}", html=text) == (
        "Run <code><span>python</span> <span>-m</span> <span>x</span> <span>--a=b</span></code> or"
        " <code><span>rm</span> <span>-r</span> <span>&lt;x&gt;</span></code> &lt;now&gt;."
    )
    assert filled("{{ html | whole_words }}", html="<b>") == "&lt;b&gt;"


def test_templates_are_packaged() -> None:
    packaged = configparser.ConfigParser(interpolation=None)
    packaged.read(REPOSITORY / "setup.cfg")
    for package, patterns in packaged["options.package_data"].items():
        root = REPOSITORY / package
        templates = [path.relative_to(root).as_posix() for path in root.rglob("templates/*")]
        assert len(templates) >= 1
        assert [name for name in templates if not any(fnmatch.fnmatch(name, p) for p in patterns.split())] == []
