"""Show the epochs of a training as a table in a notebook."""

from __future__ import annotations

import html
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras

from tfrecord_tools.base import tabular

_SECONDS_BETWEEN_UPDATES = 0.5
_SMALL = 1e-3  # Four decimals would show less than two digits of smaller values.


class EpochTable(keras.callbacks.Callback):
    """Callback that shows one row per epoch, and the step of the current epoch.

    It has one output below the cell and replaces the content of this output. So a saved notebook has the final table.
    Keras's own bar writes backspaces, and pages that are made from notebooks show each of them as a box.
    """

    def __init__(self) -> None:
        super().__init__()
        self._shown: Any = None
        self._updated = 0.0
        self._epoch = 0
        self._rows: list[Mapping[str, float]] = []

    def on_train_begin(self, logs: Any = None) -> None:
        from IPython.display import display  # Every notebook has it. Other programs do not need it.

        self._shown = display(_Page(self._rows), display_id=True)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch + 1
        self._show_step(0)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if time.monotonic() - self._updated >= _SECONDS_BETWEEN_UPDATES:
            self._show_step(batch + 1)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        self._rows.append({"epoch": epoch + 1, **(logs or {})})
        self._update(_Page(self._rows))

    def _show_step(self, step: int) -> None:
        self._update(_Page(self._rows, self._epoch, self.params["epochs"], step, self.params["steps"]))

    def _update(self, page: _Page) -> None:
        self._updated = time.monotonic()
        self._shown.update(page)


class _Page:
    """The finished epochs, and the current epoch if `epochs` is not 0.

    Notebooks show the HTML, and programs that cannot show it take the text.
    """

    def __init__(
        self, rows: Sequence[Mapping[str, float]], epoch: int = 0, epochs: int = 0, step: int = 0, steps: int = 0
    ) -> None:
        self._cells = _cells(rows)
        self._step, self._steps = step, steps
        self._now = f"epoch {epoch} of {epochs}, step {step} of {steps}" if epochs else ""

    def __repr__(self) -> str:
        return "\n".join([*tabular.aligned(self._cells, left=()), *([self._now] if self._now else [])])

    def _repr_html_(self) -> str:
        first, *others = self._cells or [[]]
        table = (
            f"<table><thead>{_row('th', first)}</thead><tbody>{''.join(_row('td', c) for c in others)}</tbody></table>"
        )
        bar = f'<div><progress value="{self._step}" max="{self._steps}"></progress> {self._now}</div>'
        return (table if others else "") + (bar if self._now else "")


def _cells(rows: Sequence[Mapping[str, float]]) -> list[list[str]]:
    """Return the texts of a table: the names of the columns, then one row per epoch."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    body = [[_text(name, row[name]) if name in row else "" for name in names] for row in rows]
    return [[name.replace("_", " ") for name in names], *body] if rows else []


def _text(name: str, value: float) -> str:
    if name == "epoch":
        return str(value)
    if 0 < abs(value) < _SMALL:  # Such as a learning rate.
        return f"{value:.3g}"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}"


def _row(tag: str, cells: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"
