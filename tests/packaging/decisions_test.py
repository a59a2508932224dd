"""The records in docs/decisions have one form, and the index lists them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools import decisions

GOOD = """# 1. Water is wet

Date: 2026-11-24

**Context.** A reason.

**Decision.** A choice.

**Consequence.** A result.
"""


def test_records_have_no_faults_and_the_index_is_current() -> None:
    records = decisions.read_records(decisions.FOLDER)
    assert list(decisions.faults(records)) == []
    assert (decisions.FOLDER / "README.md").read_text("utf-8") == decisions.index(records), "Run `make architecture`."
    assert decisions.main(["--check"]) == 0


def test_links_of_the_records_lead_somewhere() -> None:
    for path in decisions.FOLDER.glob("*.md"):
        for name in re.findall(r"\]\(([^)#\s]+)", path.read_text()):
            assert (path.parent / name).exists(), f"{path.name}: {name}"


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("", "", None),
        ("2026-11-24", "24.11.2026", "0001-water.md: Date: 24.11.2026 is not a date. Write YYYY-MM-DD."),
        ("# 1.", "# 2.", "0001-water.md: must have the number 1 in its name and in its title."),
        (
            "**Context.** A reason.\n\n",
            "",
            "0001-water.md: must have the paragraphs Context, Decision, Consequence, once and in this order.",
        ),
        ("A result.", "A result.\n" * 7, "0001-water.md: has 16 lines. At most 15 are allowed."),
    ],
)
def test_faults_name_the_file(old: str, new: str, fault: str | None, tmp_path: Path) -> None:
    (tmp_path / "0001-water.md").write_text(GOOD.replace(old, new) if old else GOOD)
    assert list(decisions.faults(decisions.read_records(tmp_path))) == ([fault] if fault else [])


def test_a_file_without_a_head_is_refused(tmp_path: Path) -> None:
    (tmp_path / "0001-water.md").write_text("Water is wet.\n")
    with pytest.raises(ValueError, match=r"^0001-water\.md: must begin with '# NUMBER\. TITLE', an empty line and "):
        decisions.read_records(tmp_path)


def test_check_fails_without_a_current_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "0001-water.md").write_text(GOOD)
    monkeypatch.setattr(decisions, "FOLDER", tmp_path)
    assert decisions.main(["--check"]) == 1
    assert capsys.readouterr().out == (
        "docs/decisions/README.md does not list the current records. Run `make architecture`.\n"
    )
    assert decisions.main([]) == 0
    assert "| 2026-11-24 | [1. Water is wet](0001-water.md) |\n" in (tmp_path / "README.md").read_text()
    assert decisions.main(["--check"]) == 0
