"""Pages of HTML: templates that escape what is filled in, and texts in which code stands out."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Any

from tfrecord_tools.base import words

if TYPE_CHECKING:
    from markupsafe import Markup

_FLAG = re.compile(r"(--[a-z_]+(?:=[^\s;,)]*(?:,[^\s;)]+)?)?)")
_BREAKS = re.compile(r"(?<=[/_.-])(?=\w)")  # Positions at which a long path may go on in the next line.
_CONTROLS = {code: repr(chr(code))[1:-1] for code in (*range(32), 127)}  # Such as newlines, as Python writes them.


def render(package: str, template: str, **values: Any) -> str:
    """Fill a template of a package, which may use those of this package: `page.html`, `parts.html`.

    Args:
        package: The package in whose directory `templates` the template lies.
        template: File name.
        **values: Values by their names in the template. Control characters are written out, all else is escaped.
    """
    import jinja2  # Only where a page is written: it takes a tenth of a second.

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
    """Return a text as HTML with values filled in, in which `code` between backticks stands out.

    Args:
        text: Text with fields as of `str.format`.
        **values: Values of the fields, as of `render`; backticks in them stay as they are.
    """
    from markupsafe import Markup, escape

    marks = Markup(re.sub("`(.*?)`", r"<code>\1</code>", str(escape(text))))
    return marks.format(**{name: _written_out(value) for name, value in values.items()})


def with_flags(text: str) -> Markup:
    """Return a text as HTML in which the flags, which can be copied, stand out."""
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
