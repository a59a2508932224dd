"""The site builds without a warning, needs no other host, and has every flag."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command_list import defined
from image_sources import REPOSITORY

pytest.importorskip("mkdocs", reason="the extra docs is not installed")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)],
        cwd=REPOSITORY,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return site


def test_pages_load_nothing_from_other_hosts(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        text = page.read_text("utf-8")
        assert re.findall(r"<(?:script|img|link|iframe)[^>]*(?:src|href)=\"?(?:https?:)?//[^\">]+", text) == [], page
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(\W*(?:https?:)?//", style.read_text("utf-8")), style


def test_every_command_has_a_page_with_its_flags(site: Path) -> None:
    for command, flags in defined().items():
        text = (site / f"commands/{command}.html").read_text("utf-8")
        rows = re.findall(r"<td><code[^>]*>--(\w+)</code></td>", text)
        assert rows == list(flags), command


def test_the_api_is_documented(site: Path) -> None:
    text = (site / "reference/api.html").read_text("utf-8")
    for name in ("tfrecord_tools.dataset.train_batches", "tfrecord_tools.records.Records", "trainers.fit.fit"):
        assert f'id="{name}"' in text, name


def test_pictures_are_small() -> None:
    assert sum(path.stat().st_size for path in (REPOSITORY / "docs/pictures").glob("*.png")) < 600_000
