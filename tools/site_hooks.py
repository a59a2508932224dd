"""Create pages of the documentation from the code, for MkDocs (`hooks` of mkdocs.yml).

commands/PACKAGE.COMMAND.md has the flags of a command as it defines them; commands/index.md lists the commands.
The navigation gets the decisions, and the page of the Python API the documentation of each name.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCES = (REPOSITORY, REPOSITORY / "tests/helpers")

# Prints each command with its summary and flags. It runs in a process of its own, because absl's flags are global.
_DUMP = """
import dataclasses, importlib, json
import command_list
print(json.dumps({
    command: {
        "doc": importlib.import_module(command).__doc__,
        "flags": {name: dataclasses.asdict(flag) for name, flag in flags.items()},
    }
    for command, flags in command_list.defined().items()
}))
"""


def commands() -> dict[str, dict[str, Any]]:
    """Return each command with its docstring and its flags."""
    code = f"import sys; sys.path[:0] = {[str(path) for path in SOURCES]}\n{_DUMP}"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    result: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return result


def command_page(command: str, doc: str, flags: dict[str, dict[str, Any]]) -> str:
    """Return the Markdown of a command's page."""
    summary, _, rest = doc.strip().partition("\n")
    lines = [f"# {command}", "", prose(summary), ""]
    for block in re.split(r"\n\s*\n", rest.strip("\n")):
        is_code = all(line.startswith("    ") for line in block.splitlines())
        lines += [block if is_code else prose(block), ""]
    if flags:
        lines += ["| flag | default | meaning |", "|---|---|---|"]
        lines += [flag_row(name, flag) for name, flag in flags.items()]
    return "\n".join(lines) + "\n"


def flag_row(name: str, flag: dict[str, Any]) -> str:
    """Return a flag's row of the table."""
    default = flag["default"]
    if flag["kind"] == "bool":
        default = "yes" if default else "no"
    shown = "" if default in (None, "", []) else f"`{default}`"
    text = " ".join(flag["help"].split())
    if flag["values"]:
        text = f"{', '.join(f'`{value}`' for value in flag['values'])}. {text.partition('>: ')[2] or text}"
    return f"| `--{name}` | {shown} | {prose(text)} |"


def prose(text: str) -> str:
    """Return plain text as Markdown: flags and commands as code, everything else literally."""
    parts = re.split(r"(`[^`]*`|python -m [\w.]+(?: --?[\w=./]+)*|--\w[\w-]*(?:=[^\s,;:.()|]+(?:\.\w+)*)?)", text)
    for number, part in enumerate(parts):
        if number % 2 == 0:
            parts[number] = re.sub(r"([*_\[\]|])", r"\\\1", part).replace("<", "&lt;")
        else:
            parts[number] = f"`{part.strip('`')}`".replace("|", "\\|")
    return "".join(parts)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the pages of the commands and the pages for engineers to the navigation."""
    docs = Path(config.docs_dir)
    names = list(_listed())
    nav: list[Any] = config.nav or []
    nav.insert(4, {"Commands": ["commands/index.md", *({name: f"commands/{name}.md"} for name in names)]})
    decisions = sorted(path.relative_to(docs).as_posix() for path in (docs / "decisions").glob("0*.md"))
    pages = ["architecture.md", "benchmarks.md", "limits.md", {"Decisions": ["decisions/README.md", *decisions]}]
    nav.append({"Engineers": pages})
    config.nav = nav
    return config


def _listed() -> list[str]:
    sys.path[:0] = [str(path) for path in SOURCES]
    try:
        from command_list import COMMANDS
    finally:
        del sys.path[: len(SOURCES)]
    return list(COMMANDS)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page of each command, and their list."""
    rows = ["| command | meaning |", "|---|---|"]
    for command, about in commands().items():
        page = command_page(command, about["doc"] or "", about["flags"])
        files.append(File.generated(config, f"commands/{command}.md", content=page))
        summary = prose((about["doc"] or "").strip().partition("\n")[0])
        rows.append(f"| [{command}]({command}.md) | {summary} |")
    head = "# Commands\n\nEvery command is `python -m NAME`. The tables of flags are made from the code.\n\n"
    files.append(File.generated(config, "commands/index.md", content=head + "\n".join(rows) + "\n"))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Add the documentation of every name in the table of the Python API below it."""
    if page.file.src_uri != "reference/api.md":
        return markdown
    rows = re.findall(r"^\| `([\w.]+)` \| (.+?) \| (.+) \|$", markdown, re.MULTILINE)
    for module, purpose, names in rows:
        members = re.findall(r"`(\w+)`", names)
        title = purpose[0].upper() + purpose[1:]
        markdown += f"\n## {title}\n\n::: {module}\n    options:\n      members: {members}\n"
    return markdown


def on_page_content(content: str, page: Page, **_: Any) -> str:
    """Keep short code, such as a flag, on one line, and mark the tables of flags."""
    if page.file.src_uri.startswith("commands/") and page.file.src_uri != "commands/index.md":
        content = content.replace("<table>", '<div class="flags"><table>').replace("</table>", "</table></div>")
    content = content.replace("\u200d", "")  # See `Shapes`.
    return re.sub(r"<code>([^<]{1,32})</code>", r'<code class="short">\1</code>', content)


class Shapes(griffe.Extension):
    """Keep brackets in docstrings, as in `records[3]["image"]`, from becoming links."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            # A backslash would show in code. `on_page_content` removes these invisible characters again.
            obj.docstring.value = obj.docstring.value.replace("][", "]\u200d[").replace("[, ", "\u200d[, ")
