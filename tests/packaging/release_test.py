"""The check before a release finds what is missing, and the version is the same everywhere."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from image_sources import REPOSITORY

import tfrecord_tools
from tools import release_check

CHANGELOG = """# Changelog

## [Unreleased]

Nothing yet.

## [0.2.0] - 2026-11-28

- A feature.

## [0.1.0] - 2026-11-24

- A program.
"""
FIRST = "the first section must be `## [Unreleased]`."
BELOW = "the section below Unreleased must be `## [0.2.0] - YYYY-MM-DD`, as the package's version."
UNMOVED = "Unreleased has entries. Move them into the section of the version that is released."
ORDER = "sections must be versions of three numbers, the newest first."


def exactly(message: str) -> str:
    """The pattern that matches this message and no other."""
    return f"^{re.escape(message)}$"


def test_version_is_the_same_in_package_changelog_and_citation() -> None:
    version = release_check.package_version(REPOSITORY)
    assert version == tfrecord_tools.__version__
    text = (REPOSITORY / "CHANGELOG.md").read_text()
    names = [name for name, _ in release_check.SECTION.findall(text)]
    assert names[:2] == ["Unreleased", version]
    assert release_check.check_citation(version) == f"CITATION.cff cites {version}"


def test_sections_of_the_changelog_have_dates_and_known_parts() -> None:
    text = (REPOSITORY / "CHANGELOG.md").read_text()
    faults = set(release_check.changelog_faults(text, tfrecord_tools.__version__))
    # Between two releases, "Unreleased" may have entries.
    assert faults <= {UNMOVED}
    parts = {line[4:] for line in text.splitlines() if line.startswith("### ")}
    assert parts <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


@pytest.mark.parametrize(
    ("old", "new", "faults"),
    [
        ("", "", []),
        ("## [Unreleased]\n", "", [FIRST]),
        ("## [Unreleased]", "## Unreleased", [FIRST]),
        ("Nothing yet.", "- A change.", [UNMOVED]),
        ("Nothing yet.", "### Added\n\n* A change.", [UNMOVED]),
        ("[0.2.0]", "[0.3.0]", [BELOW]),
        ("[0.2.0]", "[0.0.9]", [BELOW, ORDER]),
        ("[0.1.0]", "[first]", [ORDER]),
        (" - 2026-11-24", "", ["[0.1.0] must have a date, as YYYY-MM-DD."]),
        ("2026-11-24", "24.11.2026", ["[0.1.0] must have a date, as YYYY-MM-DD."]),
        ("2026-11-28", "9999-11-28", ["[0.2.0] has a date in the future: 9999-11-28."]),
    ],
)
def test_faults_of_a_changelog(old: str, new: str, faults: list[str]) -> None:
    text = CHANGELOG.replace(old, new, 1) if old else CHANGELOG
    assert list(release_check.changelog_faults(text, "0.2.0")) == faults


def package(root: Path, setting: str, version: str) -> Path:
    (root / "tfrecord_tools").mkdir()
    (root / "setup.cfg").write_text(f"[metadata]\nversion = {setting}\n")
    (root / "tfrecord_tools/__init__.py").write_text(f'"""A package."""\n__version__ = "{version}"\n')
    return root


def test_version_is_read_from_the_package_only(tmp_path: Path) -> None:
    assert release_check.package_version(package(tmp_path, "attr: tfrecord_tools.__version__", "1.2.3")) == "1.2.3"


@pytest.mark.parametrize(
    ("setting", "version", "error"),
    [
        ("1.2.3", "1.2.3", "setup.cfg: version must be `attr: tfrecord_tools.__version__`."),
        (
            "attr: tfrecord_tools.__version__",
            "1.2.dev",
            "tfrecord_tools/__init__.py: __version__ must be three numbers, such as 1.2.3.",
        ),
    ],
)
def test_versions_that_are_refused(setting: str, version: str, error: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=exactly(error)):
        release_check.package_version(package(tmp_path, setting, version))


def test_no_placeholder_is_left() -> None:
    assert release_check.check_placeholders("") == "no placeholder is left"


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("Write to your-name at home.", "your-name"),
        ("# TO" + "DO: finish", "TO" + "DO"),
        ("Lines of lorem ipsum.", "lorem ipsum"),
        ("What to do with a place holder", None),
    ],
)
def test_placeholders_are_named_with_their_line(line: str, word: str | None, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(f"# Title\n\n{line}\n")
    assert list(release_check.placeholders([tmp_path / "page.md"])) == ([f"page.md:3: {word}"] if word else [])


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit, in which the checks of the release run."""
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "somebody")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "somebody@localhost")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "-m", "first")
    monkeypatch.setattr(release_check, "ROOT", tmp_path)
    return tmp_path


def git(directory: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=directory, check=True)


def test_a_tag_must_be_the_current_commit(repository: Path) -> None:
    missing = "there is no tag v1.2.3 yet. To set it after the last commit: git tag -a v1.2.3 -m 1.2.3"
    assert release_check.check_tag("1.2.3") == missing
    git(repository, "tag", "-a", "v1.2.3", "-m", "1.2.3")
    assert release_check.check_tag("1.2.3") == "tag v1.2.3 is the current commit"
    git(repository, "commit", "--quiet", "--allow-empty", "-m", "second")
    with pytest.raises(
        ValueError, match=exactly("tag v1.2.3 is another commit. Check that one out, or raise the version.")
    ):
        release_check.check_tag("1.2.3")


def test_everything_must_be_committed(repository: Path) -> None:
    assert release_check.check_clean("1.2.3") == "everything is committed"
    (repository / "new.txt").write_text("new")
    with pytest.raises(ValueError, match=exactly("1 files are not committed, such as new.txt. Commit or remove them.")):
        release_check.check_clean("1.2.3")


def test_every_failed_check_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(version: str) -> str:
        raise ValueError("a thing is missing.")

    version = tfrecord_tools.__version__
    monkeypatch.setattr(release_check, "CHECKS", (fails, lambda version: "a thing is there", fails))
    assert release_check.main() == 1
    assert capsys.readouterr().out.splitlines() == [
        f"ok      the version is {version}",
        "FAILED  a thing is missing.",
        "ok      a thing is there",
        "FAILED  a thing is missing.",
        "2 checks failed.",
    ]
    monkeypatch.setattr(release_check, "CHECKS", (lambda version: "a thing is there",))
    assert release_check.main() == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{version} can be released."


@pytest.mark.slow
def test_the_wheel_of_the_current_commit_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wheel goes into a clone, so that dist/ of the checkout stays as it is."""
    git(tmp_path, "clone", "--quiet", str(REPOSITORY), "clone")
    monkeypatch.setattr(release_check, "ROOT", tmp_path / "clone")
    version = tfrecord_tools.__version__
    assert release_check.check_wheel(version).startswith(f"dist/tfrecord_tools-{version}-py3-none-any.whl builds, ")
