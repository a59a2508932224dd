"""Show a page of this package in a notebook."""

from __future__ import annotations

import html
from pathlib import Path

HEIGHT = 600  # Pixels.


def of_file(page: Path, title: str) -> str:
    """Return HTML that shows a page in a frame below a title, for `_repr_html_`.

    The page is part of the HTML, because notebooks do not let a page load files. The frame has its own origin, so
    the page and the notebook cannot change each other.

    Args:
        page: The page. If it does not exist, only the title is shown.
        title: Title, as HTML.
    """
    if not page.is_file():
        return title
    text = html.escape(page.read_text("utf-8"))
    frame = f'<iframe srcdoc="{text}" sandbox="allow-scripts allow-downloads" style="{_STYLE}"></iframe>'
    return f"<div>{title}</div>{frame}"


_STYLE = f"width: 100%; height: {HEIGHT}px; border: 1px solid #8888; background: white"
