"""HTML pages: templates that escape their values, and texts in which code is marked."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Any

from tfrecord_tools.base import words

if TYPE_CHECKING:
    from markupsafe import Markup

_FLAG = re.compile(r"(--[a-z_]+(?:=[^\s;,)]*(?:,[^\s;)]+)?)?)")
_BREAKS = re.compile(r"(?<=[/_.-])(?=\w)")  # Positions where a long path may break into the next line.
_CONTROLS = {code: repr(chr(code))[1:-1] for code in (*range(32), 127)}  # Control character -> `\n`, `\x1b`.


def render(package: str, template: str, **values: Any) -> str:
    """Fill a template, which may include this package's `page.html` and `parts.html`.

    Args:
        package: Package with the template in its directory `templates`.
        template: File name of the template.
        **values: Values by their names in the template. Control characters are shown as `\\n`; HTML is escaped.
    """
    import jinja2  # Imported here: it takes 0.1 s, and only commands that write pages need it.

    loaders = [jinja2.PackageLoader(name) for name in (package, __package__)]
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        autoescape=True,
        finalize=_written_out,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        breakable=breakable,
        data_uri=_data_uri,
        form=format,
        number=words.number,
        sentence=words.sentence,
        size=words.size,
        whole_words=_whole_words,
        with_flags=with_flags,
    )
    return environment.get_template(template).render(values)


def marked(text: str, **values: Any) -> Markup:
    """Return a text as HTML with values filled in; text between backticks becomes `<code>`.

    Args:
        text: Text with fields as in `str.format`.
        **values: Values of the fields, escaped as in `render`. Backticks in values stay backticks.
    """
    from markupsafe import Markup, escape

    marks = Markup(re.sub("`(.*?)`", r"<code>\1</code>", str(escape(text))))
    return marks.format(**{name: _written_out(value) for name, value in values.items()})


def with_flags(text: str) -> Markup:
    """Return a text as HTML in which each flag is `<code>`, ready to be copied."""
    from markupsafe import Markup

    parts = enumerate(_FLAG.split(_written_out(text)))
    return Markup().join(Markup("<code>{}</code>").format(part) if i % 2 else part for i, part in parts)


def breakable(path: str) -> Markup:
    """Return a path as HTML that a narrow page breaks behind `/`, `_`, `-` or `.`, and not within a word."""
    from markupsafe import Markup

    return Markup("<wbr>").join(_BREAKS.split(_written_out(path)))


def _whole_words(text: Markup) -> Markup:
    """Return HTML in which a narrow page breaks commands between their words only."""
    from markupsafe import Markup, escape

    return Markup(
        re.sub("(?<=<code>)[^<]+(?=</code>)", lambda code: re.sub(r"\S+", r"<span>\g<0></span>", code[0]), escape(text))
    )


def _written_out(value: Any) -> Any:
    return value.translate(_CONTROLS) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _data_uri(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
