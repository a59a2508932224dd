"""Check that the current commit can be released, and build its wheel (`make release-check`).

    python -m tools.release_check

Prints one line per check, and exits with 1 if a check fails. The wheel is written to dist/.
"""

from __future__ import annotations

import configparser
import datetime
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
UNRELEASED = "Unreleased"
SECTION = re.compile(r"^## \[([^\]]+)\](?: - (\S+))?$", re.MULTILINE)
VERSION = re.compile(r"\d+\.\d+\.\d+")
# Words that stand for a text that is still missing.
PLACEHOLDER = re.compile(r"\b(?:TODO|FIXME|TBD|XXX|PLACEHOLDER|lorem ipsum|your[-_](?:name|project|organization))\b")
CHECKED_FOR_PLACEHOLDERS = ("*.md", "*.cfg", "*.toml", "*.cff", "*.yml", "*.yaml", "tfrecord_tools", "trainers")


def output(*command: str | Path, cwd: Path | None = None, **environment: str) -> str:
    """Run a command in `cwd`, by default the repository, and return what it prints.

    Raises ValueError with the last lines of its output if it fails.
    """
    done = subprocess.run(command, cwd=cwd or ROOT, env=os.environ | environment, capture_output=True, text=True)
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines()
        raise ValueError(f"`{' '.join(map(str, command))}` failed: {' '.join(lines[-3:])}")
    return done.stdout


def package_version(root: Path) -> str:
    """Return the version in tfrecord_tools/__init__.py.

    Raises ValueError if setup.cfg reads it from elsewhere.
    """
    settings = configparser.ConfigParser()
    settings.read(root / "setup.cfg")
    if settings["metadata"]["version"] != "attr: tfrecord_tools.__version__":
        raise ValueError("setup.cfg: version must be `attr: tfrecord_tools.__version__`.")
    match = re.search(r'^__version__ = "(.+)"$', (root / "tfrecord_tools/__init__.py").read_text(), re.MULTILINE)
    if match is None or not VERSION.fullmatch(match[1]):
        raise ValueError("tfrecord_tools/__init__.py: __version__ must be three numbers, such as 1.2.3.")
    return match[1]


def changelog_faults(text: str, version: str) -> Iterator[str]:
    """Yield what is wrong with the changelog for a release of this version."""
    sections = SECTION.findall(text)
    names = [name for name, _ in sections]
    if not names or names[0] != UNRELEASED:
        yield f"the first section must be `## [{UNRELEASED}]`."
        return
    begin = text.index(f"## [{UNRELEASED}]\n") + len(f"## [{UNRELEASED}]\n")
    later = SECTION.search(text, begin)
    if re.search(r"^[-*] ", text[begin : later.start() if later else len(text)], re.MULTILINE):
        yield f"{UNRELEASED} has entries. Move them into the section of the version that is released."
    if names[1:2] != [version]:
        yield f"the section below {UNRELEASED} must be `## [{version}] - YYYY-MM-DD`, as the package's version."
    numbers = [tuple(map(int, name.split("."))) for name in names[1:] if VERSION.fullmatch(name)]
    if len(numbers) != len(names) - 1 or numbers != sorted(set(numbers), reverse=True):
        yield "sections must be versions of three numbers, the newest first."
    for name, date in sections[1:]:
        if not re.fullmatch(r"\d{4}-\d\d-\d\d", date):
            yield f"[{name}] must have a date, as YYYY-MM-DD."
        elif datetime.date.fromisoformat(date) > datetime.date.today():
            yield f"[{name}] has a date in the future: {date}."


def check_changelog(version: str) -> str:
    """Check CHANGELOG.md."""
    faults = list(changelog_faults((ROOT / "CHANGELOG.md").read_text("utf-8"), version))
    if faults:
        raise ValueError(f"CHANGELOG.md: {' Also: '.join(faults)}")
    return f"CHANGELOG.md describes {version}"


def check_citation(version: str) -> str:
    """Check the version of CITATION.cff."""
    if f"\nversion: {version}\n" not in (ROOT / "CITATION.cff").read_text("utf-8"):
        raise ValueError(f"CITATION.cff: version must be {version}.")
    return f"CITATION.cff cites {version}"


def check_tag(version: str) -> str:
    """Check that the tag, if there is one, is the current commit."""
    if not output("git", "tag", "--list", f"v{version}").strip():
        return f"there is no tag v{version} yet. To set it after the last commit: git tag -a v{version} -m {version}"
    if output("git", "rev-list", "-n1", f"v{version}") != output("git", "rev-parse", "HEAD"):
        raise ValueError(f"tag v{version} is another commit. Check that one out, or raise the version.")
    return f"tag v{version} is the current commit"


def check_clean(version: str) -> str:
    """Check that everything is committed."""
    changed = output("git", "status", "--porcelain").splitlines()
    if changed:
        raise ValueError(f"{len(changed)} files are not committed, such as {changed[0][3:]}. Commit or remove them.")
    return "everything is committed"


def placeholders(paths: Sequence[Path]) -> Iterator[str]:
    """Yield each line with a word that stands for a missing text."""
    for path in paths:
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            if match := PLACEHOLDER.search(line):
                yield f"{path.name}:{number}: {match[0]}"


def check_placeholders(version: str) -> str:
    """Check documents, settings and both packages for placeholders."""
    names = output("git", "ls-files", "-z", "--", *CHECKED_FOR_PLACEHOLDERS).split("\0")
    found = list(placeholders([ROOT / name for name in names if name]))
    if found:
        raise ValueError(f"{len(found)} placeholders are left: {', '.join(found[:5])}. Write what is meant.")
    return "no placeholder is left"


def build_wheel(directory: Path) -> Path:
    """Build the wheel of the current commit into dist/. Other wheels there are removed."""
    for old in (ROOT / "dist").glob("*.whl"):
        old.unlink()
    archive, source = directory / "source.tar", directory / "source"
    source.mkdir()
    output("git", "archive", "--output", archive, "HEAD")
    output("tar", "-xf", archive, "-C", source)
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    output(*pip, "wheel", "--no-deps", "--wheel-dir", ROOT / "dist", source, cwd=directory)
    (wheel,) = (ROOT / "dist").glob("*.whl")
    return wheel


def check_wheel(version: str) -> str:
    """Build the wheel, check that its README renders, install it and convert drawn images with it.

    The dependencies are those of this environment. tests/packaging/wheel_test.py installs it with all of them.
    """
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        wheel = build_wheel(directory)
        output(sys.executable, "-m", "twine", "check", "--strict", wheel)
        installed = directory / "installed"
        output(sys.executable, "-m", "pip", "--quiet", "install", "--no-deps", "--target", installed, wheel)

        def run(*arguments: str) -> str:
            return output(sys.executable, *arguments, cwd=directory, PYTHONPATH=str(installed))

        if str(installed) not in run("-c", "import tfrecord_tools, trainers; print(tfrecord_tools.__file__)"):
            raise ValueError("the installed wheel is not what Python imports.")
        if version not in run("-m", "tfrecord_tools", "--version"):
            raise ValueError(f"the installed wheel does not print the version {version}.")
        run("-m", "trainers", "--help")
        run("-m", "tfrecord_tools.sample", "--out=drawn", "--images=8")
        run("-m", "tfrecord_tools.convert", "--src=drawn", "--out=out")
        run("-m", "tfrecord_tools.verify", "out")
    return f"dist/{wheel.name} builds, its README renders, it installs, and it converts drawn images"


CHECKS: tuple[Callable[[str], str], ...] = (
    check_changelog,
    check_citation,
    check_tag,
    check_clean,
    check_placeholders,
    check_wheel,
)


def main() -> int:
    version = package_version(ROOT)
    print(f"ok      the version is {version}")
    failed = 0
    for check in CHECKS:
        try:
            print(f"ok      {check(version)}", flush=True)
        except ValueError as error:
            failed += 1
            print(f"FAILED  {error}", flush=True)
    print(f"{failed} checks failed." if failed else f"{version} can be released.")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
