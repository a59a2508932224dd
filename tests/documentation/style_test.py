"""The English of the project: rules that a program can check, spelling, readability."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import prose
import pytest
from image_sources import REPOSITORY

# The highest automated readability index of a page: the years of school that a reader needs.
HARDEST = 9.0


def text_of(path: Path, source: str) -> prose.Text:
    path.write_text(source)
    return next(iter(prose.texts(path)))


@pytest.mark.parametrize("room", sorted({str(path.relative_to(REPOSITORY).parent) for path in prose.files()}))
def test_every_sentence_follows_the_rules(room: str) -> None:
    paths = [path for path in prose.files() if str(path.relative_to(REPOSITORY).parent) == room]
    assert [str(violation) for violation in prose.check(paths)] == []


@pytest.mark.parametrize(
    ("source", "rules"),
    [
        ('def f():\n    """Of all shards, the largest."""', ["opening"]),
        ('def f():\n    """Return it. Likewise for test."""', ["opening", "Likewise"]),
        (f'def f():\n    """{"Return it" * 12}."""', ["longer than 100"]),
        ("x = 1  # Its number.", ["opening"]),
        ("# The rest is told\n# at the end.", ["is told"]),
        ('raise ValueError(f"--x={x}: is no number.")', ["is no number"]),
        ('flags.DEFINE_integer("x", 1, "The number of files")', ["ends with a period"]),
        ('flags.DEFINE_integer("x", 1, "The same as above.")', ["stands alone"]),
        ('flags.DEFINE_integer("x", 1, "A number.")\n# What is it good for?', []),
        ('def f():\n    """Return `Of`.\n\n    Args:\n        whose: A name.\n    """', []),
    ],
)
def test_the_checker_finds_what_breaks_a_rule(source: str, rules: list[str], tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text(source + "\n")
    found = [violation.rule for violation in prose.check([tmp_path / "x.py"])]
    assert len(found) >= len(rules)
    assert all(any(rule in one for one in found) for rule in rules)
    assert bool(found) == bool(rules)


@pytest.mark.parametrize(
    ("source", "sentences"),
    [
        ("# Title\n\nText one. Text two.\n", ["Title", "Text one.", "Text two."]),
        ("- an item\n  goes on\n- another\n", ["an item goes on", "another"]),
        ("| a | b |\n|---|---|\n| c. D | [e](f) |\n", ["a", "b", "c.", "D", "e"]),
        ("```python\nOf = 1\n```\n\nText, e.g. This.\n", ["Text, e.g. This."]),
    ],
)
def test_markdown_is_cut_into_sentences(source: str, sentences: list[str], tmp_path: Path) -> None:
    (tmp_path / "x.md").write_text(source)
    found = [sentence for text in prose.texts(tmp_path / "x.md") for sentence in prose.sentences(text.content)]
    assert found == sentences


def test_words_are_spelled_as_in_american_english() -> None:
    """codespell reads its list of words to be left alone from pyproject.toml."""
    names = [str(path.relative_to(REPOSITORY)) for path in prose.files()]
    command = [sys.executable, "-m", "codespell_lib", *names]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout == ""


@pytest.mark.parametrize("path", [path for path in prose.files() if path.suffix == ".md"], ids=lambda path: path.stem)
def test_pages_are_easy_to_read(path: Path) -> None:
    index = prose.readability(path)
    print(f"{path.name}: readability index {index:.1f}")
    assert index <= HARDEST
