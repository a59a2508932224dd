"""The example notebooks run without a network, and are what `tools.notebooks` writes."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from tools import notebooks


@pytest.mark.parametrize("language", list(notebooks.FILES))
def test_files_are_written_by_the_tool_without_outputs(language: str) -> None:
    stored = (notebooks.DIRECTORY / notebooks.FILES[language]).read_text("utf-8")
    assert stored == notebooks.text(language), "run python -m tools.notebooks"
    assert all(not cell.get("outputs") for cell in json.loads(stored)["cells"])


def test_languages_have_the_same_cells() -> None:
    english, korean = (notebooks.notebook(language)["cells"] for language in ("en", "ko"))
    assert [cell["cell_type"] for cell in english] == [cell["cell_type"] for cell in korean]
    assert [c["source"] for c in english if c["cell_type"] == "code"] == [
        c["source"] for c in korean if c["cell_type"] == "code"
    ]
    for cells in (english, korean):
        numbers = re.findall(r"^## (\d)\. ", "\n".join(cell["source"] for cell in cells), re.M)
        assert numbers == ["1", "2", "3", "4", "5"]  # The sections of the article.


@pytest.mark.slow
@pytest.mark.parametrize("language", list(notebooks.FILES))
def test_notebooks_run(language: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run all cells in a kernel, with random weights, in a new directory."""
    import nbclient
    import nbformat

    monkeypatch.setenv("WEIGHTS", "none")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(notebooks.__file__).parents[1])]))
    read = nbformat.reads(notebooks.text(language), as_version=4)
    nbformat.validate(read)
    nbclient.NotebookClient(read, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in read.cells for output in cell.get("outputs", [])]
    assert [output for output in outputs if output.output_type == "error"] == []
    streams = [output for output in outputs if output.output_type == "stream"]
    assert [output.text for output in streams if output.name == "stderr"] == []  # Warnings and TensorFlow's remarks.
    # Pages made from notebooks show a backspace as a box, and do not go back to the start of a line.
    assert [output.text for output in streams if re.search("[\b\r\x1b]|Warning", output.text)] == []
    pictures = [cell for cell in read.cells if any("image/png" in o.get("data", {}) for o in cell.get("outputs", []))]
    assert len(pictures) == 11  # Images three times, the curves of seven trainings, and the accuracy of all.
    assert read.cells[-1] is pictures[-1]
    pages = [output.data["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    assert any("card" in page or "class" in page for page in pages)
    assert any(page.startswith("<div>Run(") for page in pages)
    tables = [page for page in pages if page.startswith("<table>")]
    assert len(tables) == 6  # One per training.
    assert not any("<progress" in table for table in tables)
    (tmp_path / "executed.ipynb").write_text(nbformat.writes(read), "utf-8")
