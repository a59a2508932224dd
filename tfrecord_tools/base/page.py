"""What the pages for people have in common, the card of a dataset and the report of a run: style, tables, escaping."""

from __future__ import annotations

import html
import importlib.resources
from collections.abc import Iterable, Sequence
from string import Template

_STYLE = "page.css"
_CONTROLS = {code: repr(chr(code))[1:-1] for code in (*range(32), 127)}  # Such as newlines, as Python writes them.


def fill(package: str, template: str, **parts: str) -> str:
    """Fills a package's template, and the common style into its `$style`.

    Args:
        package: Where the template lies.
        template: Its file name.
        **parts: HTML by the names in it.
    """
    style = importlib.resources.files("tfrecord_tools").joinpath(_STYLE).read_text("utf-8")
    text = importlib.resources.files(package).joinpath(template).read_text("utf-8")
    return Template(text).substitute(parts, style=style)


def table(heads: Sequence[str], rows: Iterable[Iterable[str]], numbers: Sequence[int] = (), kind: str = "plain") -> str:
    """A table of HTML cells; the first of each row names it, the columns `numbers` are aligned to the right."""
    kinds = [' class="number"' if column in numbers else "" for column in range(len(heads))]
    head = "".join(f'<th scope="col"{k}>{text}</th>' for k, text in zip(kinds, heads))
    body = ""
    for name, *cells in rows:
        line = "".join(f"<td{k}>{cell}</td>" for k, cell in zip(kinds[1:], cells))
        body += f'<tr><th scope="row">{name}</th>{line}</tr>'
    return f'<table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def text(text: str) -> str:
    """Escapes for elements and attributes; control characters are written out."""
    return html.escape(text.translate(_CONTROLS))
