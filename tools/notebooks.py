"""Write the example notebooks, in English and in Korean: `python -m tools.notebooks`.

Both come from one Python file with cells. They have the same code, and are stored without outputs. A test compares them
with that file.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

DIRECTORY = Path(__file__).resolve().parents[1] / "examples/notebooks"
SOURCE = DIRECTORY / "cats_and_dogs.py"
FILES = {"en": "cats_and_dogs.ipynb", "ko": "cats_and_dogs.ko.ipynb"}
_CELL = re.compile(r"^# %%(?: (en|ko))?\n(.*?)(?=^# %%|\Z)", re.MULTILINE | re.DOTALL)


def notebook(language: str) -> dict[str, Any]:
    """Return a notebook in the format of Jupyter (nbformat 4.5), without outputs."""
    cells: list[dict[str, Any]] = []
    for spoken, content in _CELL.findall(SOURCE.read_text("utf-8")):
        if spoken in ("", language):
            cells.append(
                {"id": f"cell-{len(cells):02d}", "metadata": {}} | (_text if spoken else _code)(content.strip())
            )
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {
        "cells": cells,
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def _text(content: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "source": re.sub("^# ?", "", content, flags=re.MULTILINE)}


def _code(content: str) -> dict[str, Any]:
    return {"cell_type": "code", "source": content, "execution_count": None, "outputs": []}


def text(language: str) -> str:
    """Return the file of a notebook."""
    return json.dumps(notebook(language), ensure_ascii=False, indent=1) + "\n"


if __name__ == "__main__":
    for language, name in FILES.items():
        (DIRECTORY / name).write_text(text(language), encoding="utf-8")
