"""The files for engineers have valid syntax, name what exists, and stay short."""

from __future__ import annotations

import configparser
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from image_sources import REPOSITORY

PAGES = ["BUILD_NOTES.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "tests/README.md"]


def setup() -> configparser.ConfigParser:
    settings = configparser.ConfigParser()
    settings.read(REPOSITORY / "setup.cfg")
    return settings


def load(name: str) -> Any:
    return yaml.safe_load((REPOSITORY / name).read_text())


def targets() -> set[str]:
    """The targets of the Makefile."""
    return set(re.findall(r"^([a-z][a-z-]*):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))


def test_the_workflow_runs_the_tests_for_every_supported_python() -> None:
    workflow = load(".github/workflows/test.yml")
    # YAML 1.1 reads the key `on` as True.
    assert set(workflow) == {"name", True, "permissions", "jobs"}
    assert set(workflow[True]) == {"push", "pull_request"}
    (job,) = workflow["jobs"].values()
    classifiers = re.findall(r"Python :: (3\.\d+)$", setup()["metadata"]["classifiers"], re.MULTILINE)
    assert job["strategy"]["matrix"]["python"] == classifiers == ["3.10", "3.11", "3.12", "3.13"]
    steps = job["steps"]
    assert all(isinstance(step, dict) and len({"uses", "run"} & set(step)) == 1 for step in steps)
    assert [step["uses"].partition("@")[0] for step in steps[:-1]] == ["actions/checkout", "actions/setup-python"]
    assert steps[1]["with"]["python-version"] == "${{ matrix.python }}"
    assert steps[-1]["run"] == "make test PYTHON=python"


def test_contributing_says_that_the_workflow_has_not_run() -> None:
    text = " ".join((REPOSITORY / "CONTRIBUTING.md").read_text().split())
    assert "`.github/workflows/test.yml` runs `make test` for Python 3.10 to 3.13. It has not been run yet" in text


def test_the_hooks_run_the_linters_of_make_test() -> None:
    subprocess.run(
        [sys.executable, "-m", "pre_commit", "validate-config", ".pre-commit-config.yaml"], cwd=REPOSITORY, check=True
    )
    (local,) = load(".pre-commit-config.yaml")["repos"]
    hooks = {hook["id"]: shlex.split(hook["entry"]) for hook in local["hooks"]}
    assert local["repo"] == "local"
    assert set(hooks) == {"ruff-check", "ruff-format", "mypy", "prose", "architecture", "decisions"}
    assert {entry[0] for entry in hooks.values()} == {".venv/bin/python"}
    assert f"$(RUN) {shlex.join(hooks['mypy'][1:])}" in (REPOSITORY / "Makefile").read_text()
    assert (REPOSITORY / hooks["prose"][1]).exists()
    for name in ("architecture", "decisions"):
        assert hooks[name][1:] == ["-m", f"tools.{name}", "--check"]


def test_the_citation_is_complete() -> None:
    citation = load("CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= set(citation)  # The keys that version 1.2.0 requires.
    assert citation["cff-version"] == "1.2.0"
    assert citation["title"] == setup()["metadata"]["name"]
    assert citation["license"] == setup()["metadata"]["license"]
    assert all(author["name"] for author in citation["authors"])


def test_editorconfig_agrees_with_ruff_and_the_makefile() -> None:
    settings = configparser.ConfigParser()
    settings.read_string("[root]\n" + (REPOSITORY / ".editorconfig").read_text())
    assert settings["root"]["root"] == "true"
    assert f"line-length = {settings['*']['max_line_length']}\n" in (REPOSITORY / "pyproject.toml").read_text()
    assert settings["Makefile"]["indent_style"] == "tab"


def test_build_notes_have_at_most_100_lines() -> None:
    assert len((REPOSITORY / "BUILD_NOTES.md").read_text().splitlines()) <= 100


def test_build_notes_give_a_reason_for_every_dependency() -> None:
    """Every package of setup.cfg stands in the table, under its extra if it has one."""
    section = (REPOSITORY / "BUILD_NOTES.md").read_text().partition("## Dependencies")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", section, re.MULTILINE)[1:]
    listed: dict[str, set[str]] = {}
    for cell, reason in rows:
        assert len(reason.split()) >= 1
        for part in cell.split("; "):
            extra, _, names = part.rpartition(": ")
            listed.setdefault(extra, set()).update(names.split(", "))
    assert listed[""] == requirements(setup()["options"]["install_requires"])
    for extra, text in setup()["options.extras_require"].items():
        if extra == "dask":
            assert listed[extra] == {"dask", "distributed"}  # Beam's own extra brings them.
        else:
            assert listed[extra] >= requirements(text), extra


def requirements(text: str) -> set[str]:
    """The names of packages in a setting of setup.cfg, with extras if they are not Beam's or moto's."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]
    names = {re.split(r"[<>=;~]", line)[0].strip() for line in lines}
    return {re.sub(r"^(apache-beam|moto)\[.*\]$", r"\1", name) for name in names}


@pytest.mark.parametrize("page", PAGES)
def test_pages_name_targets_and_files_that_exist(page: str) -> None:
    path = REPOSITORY / page
    text = path.read_text()
    assert set(re.findall(r"\bmake ([a-z][a-z-]*)(?=[`\s)])", "\n".join(code(text)))) <= targets()
    for name, anchor in re.findall(r"\]\((?!https?:)([^)#\s]+)(?:#([^)]+))?\)", text):
        assert (path.parent / name).exists(), name
        assert not anchor or anchor in anchors(path.parent / name), f"{name}#{anchor}"
    for name in re.findall(r"\b(?:tests|tools|tfrecord_tools|trainers)/[a-z0-9_/]+\.py\b", text):
        assert (REPOSITORY / name).exists(), name


def test_build_notes_say_where_to_add_what() -> None:
    section = (REPOSITORY / "BUILD_NOTES.md").read_text().partition("## Where to add what")[2].partition("\n## ")[0]
    roots = [REPOSITORY, REPOSITORY / "tfrecord_tools", REPOSITORY / "trainers"]
    files = set(re.findall(r"[\w/]+\.(?:py|html|md|toml)\b", section)) - {"trainers/NAME.py"}
    assert len(files) > 15
    for name in files:
        assert any((root / name).exists() for root in roots) or len(list(REPOSITORY.glob(f"t*/*/{name}"))) == 1, name
    for name, names in re.findall(r"`([\w/]+\.py)` \(((?:`\w+`(?:, )?)+)\)", section):
        (path,) = (root / name for root in roots if (root / name).exists())
        assert all(re.search(rf"\b{constant}\b", path.read_text()) for constant in re.findall(r"\w+", names)), name


def code(text: str) -> list[str]:
    """The code of a page: spans in backquotes and lines that are indented by four."""
    return [*re.findall(r"`[^`]+`", text), *(line + "\n" for line in text.splitlines() if line.startswith("    "))]


def anchors(path: Path) -> list[str]:
    titles = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]


def test_every_figure_has_a_command_and_a_date() -> None:
    text = (REPOSITORY / "docs/benchmarks.md").read_text()
    tables = re.findall(
        r"^\| what \| command \| measured \| date \|\n\|---\|---\|---\|---\|\n((?:\|.*\n)+)", text, re.M
    )
    rows = [row.strip("|").split(" | ") for table in tables for row in table.splitlines()]
    assert len(rows) > 40
    for _, command, measured, date in rows:
        assert re.search(r"`.+`|three rounds in turn", command)
        assert re.search(r"\d", measured) or "identical" in measured
        assert re.fullmatch(r"2\d{3}-\d\d-\d\d", date.strip())
    modules = set(re.findall(r"python -m benchmarks\.(\w+)", text))
    assert all((REPOSITORY / f"benchmarks/{module}.py").exists() for module in modules)
