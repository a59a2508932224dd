"""The example notebooks run without a network, and are what `tools.notebooks` writes."""

from __future__ import annotations

import json
import os
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
    assert sum(cell["source"].startswith("## ") for cell in english) == 5  # The sections of the article.


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
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 6  # Curves and augmented images.
    pages = [output.data["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    assert any("card" in page or "class" in page for page in pages)
    assert any(page.startswith("<div>Run(") for page in pages)
    last = read.cells[-1].outputs[0].text
    assert last.count("%") == 6
    (tmp_path / "executed.ipynb").write_text(nbformat.writes(read), "utf-8")
