"""In a notebook, a training shows a table of its epochs. Elsewhere, Keras shows them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import IPython.display
import pytest
import tiny_training

from tfrecord_tools.base import console
from trainers.checkpoint import Checkpointer
from trainers.fit import fit
from trainers.tracking import epoch_table


class Output:
    """An output of a cell: the pages that were shown in it, one after the other."""

    def __init__(self, page: Any) -> None:
        self.pages = [page]

    def update(self, page: Any) -> None:
        self.pages.append(page)


@pytest.fixture
def outputs(monkeypatch: pytest.MonkeyPatch) -> list[Output]:
    """Make this process a notebook. Return the outputs of its cell."""
    shown: list[Output] = []

    def display(page: Any, *, display_id: bool) -> Output:
        assert display_id
        shown.append(Output(page))
        return shown[-1]

    monkeypatch.setattr(console, "in_notebook", lambda: True)
    monkeypatch.setattr(IPython.display, "display", display)
    monkeypatch.setattr(epoch_table, "_SECONDS_BETWEEN_UPDATES", 0)
    return shown


def train(directory: Path, verbose: int) -> list[dict[str, Any]]:
    checkpointer = Checkpointer(directory / "checkpoint.npz", every=0)
    fit(tiny_training.make_task(), tiny_training.PHASES, checkpointer, verbose=verbose)
    return checkpointer.rows


def test_each_phase_has_a_table(outputs: list[Output], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = train(tmp_path, verbose=1)
    printed = capsys.readouterr().out
    assert len(re.findall("^phase .*\n", printed, re.M)) == printed.count("\n") == 2  # Keras prints nothing.
    assert len(outputs) == 2
    for output, phase in zip(outputs, ("first", "second")):
        _, *lines = repr(output.pages[-1]).splitlines()
        expected = [row for row in rows if row["phase"] == phase]
        assert [line.split()[0] for line in lines] == ["1", "2", "3"]
        for line, row in zip(lines, expected):
            assert f"{row['val_loss']:.4f}" in line.split()
    final = outputs[0].pages[-1]._repr_html_()
    assert "<th>val accuracy</th>" in final
    assert final.count("<tr>") == 4
    assert "<progress" not in final


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-5, "1e-05"),
        (-2.344e-6, "-2.34e-06"),
        (0.00099, "0.00099"),
        (0.001, "0.0010"),
        (0.0, "0.0000"),
        (9.87654, "9.8765"),
        (1234.56, "1,234.6"),
        (float("nan"), "nan"),
    ],
)
def test_small_values_are_not_shown_as_zero(value: float, text: str) -> None:
    page = epoch_table._Page([{"epoch": 1, "learning_rate": value}])
    assert repr(page).splitlines()[-1].split() == ["1", text]


def test_the_current_step_is_shown_below_the_finished_epochs(outputs: list[Output], tmp_path: Path) -> None:
    train(tmp_path, verbose=1)
    pages = [page for page in outputs[0].pages if repr(page).endswith("epoch 2 of 3, step 5 of 7")]
    assert len(pages) == 1
    html = pages[0]._repr_html_()
    assert html.endswith('<div><progress value="5" max="7"></progress> epoch 2 of 3, step 5 of 7</div>')
    assert html.count("<tr>") == 2  # The names of the columns, and the first epoch.
    assert repr(outputs[0].pages[1]) == "epoch 1 of 3, step 0 of 7"


@pytest.mark.parametrize("verbose", [0, 2])
def test_other_values_of_verbose_show_no_table(
    verbose: int, outputs: list[Output], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path, verbose)
    assert outputs == []
    assert ("Epoch 3/3" in capsys.readouterr().out) == (verbose == 2)


def test_a_program_that_imports_ipykernel_is_not_a_notebook() -> None:
    import ipykernel  # noqa: F401

    assert not console.in_notebook()


@pytest.mark.parametrize(
    ("value", "text"), [(0.98889, "0.9889"), (1.0, "1.0000"), (861.04, "861.0"), (12345.6, "12,345.6")]
)
def test_numbers(value: float, text: str) -> None:
    assert epoch_table._text("loss", value) == text
