"""The rules of the project's English that a program can check, over Python files and Markdown.

    python tests/helpers/prose.py [FILE ...]

prints each violation as FILE:LINE: RULE: TEXT; without files, those of the whole project.
"""

from __future__ import annotations

import ast
import dataclasses
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
LONGEST_SUMMARY = 100  # Characters of the first line of a docstring.

# A sentence opens with its subject or with an imperative verb. "What" and "Which" may open a question.
OPENINGS = re.compile(
    r"^(?:Of|What|Which|Its|Their|Whose|Likewise|Else|Otherwise than|Whoever|Whatever|None of|Thereof|So many)\b"
    r"(?![^.!?]*\?$)"
)
# Phrase -> what to write instead.
PHRASES = {
    r"\b(?:is|are|was|were|be|been) told\b": "is reported, is printed",
    r"\btold (?:of|to|that)\b": "reported",
    r"\bthereof\b": "repeat the noun",
    r"\blikewise\b": "repeat the rule",
    r"\bwhose\b": "repeat the noun, or 'with'",
    r"\bof which\b": "repeat the noun",
    r"\bso many\b": "name the number",
    r"\b(?:images|records|files|batches|bytes) a second\b": "images/s",
    r"\b(?:ms|MB|KB|%|images|records|bytes|times|seconds) an? (?:class|split|shard|epoch|step|worker|batch|image)\b": (
        "per class"
    ),
    r"(?<!there )\b(?:is|are) no (?!longer|more|reason|need|such|better)\w+\b": "is not a, does not exist",
    r"\bproven sound\b": "valid",
    r"\bmade (?:split|division)\b": "automatic split",
    r"\bbe it\b": "whether",
    r"\blest\b": "so that ... not",
    r"\bbeforehand\b": "before",
    r"\bof theirs\b": "their",
    r"\bthe notes\b": "the reference recipe",
    r"\bmeanwhile\b": "in the meantime, since then",
}
_PHRASES = [(re.compile(phrase, re.IGNORECASE), instead) for phrase, instead in PHRASES.items()]
# A flag's help is printed in alphabetical order, and must not lean on that of another flag.
LEANING = re.compile(
    r"\b(?:above|below|these|likewise|former|latter|as all that follows|the same for)\b", re.IGNORECASE
)
# A period ends a sentence unless it belongs to an abbreviation, a number or a name with dots.
_ENDS = re.compile(r"(?<=[.!?])(?<!e\.g\.)(?<!i\.e\.)(?<!etc\.)(?<!vs\.)\s+(?=[A-Z])")
_CODE = re.compile(r"`[^`]*`|\"[^\"]*\"|“[^”]*”")


@dataclasses.dataclass(frozen=True)
class Text:
    """A piece of prose: `kind` is docstring, summary, comment, help, error, or markdown."""

    path: Path
    line: int
    kind: str
    content: str


@dataclasses.dataclass(frozen=True)
class Violation:
    """A sentence that breaks a rule."""

    text: Text
    rule: str
    sentence: str

    def __str__(self) -> str:
        path = self.text.path.relative_to(REPOSITORY) if self.text.path.is_absolute() else self.text.path
        return f"{path}:{self.text.line}: {self.rule}: {self.sentence[:160]}"


def violations(text: Text) -> Iterator[Violation]:
    """Yields what a piece of prose does that it must not do."""
    if text.kind == "summary" and len(text.content) > LONGEST_SUMMARY:
        yield Violation(text, f"a summary longer than {LONGEST_SUMMARY} characters", text.content)
    if text.kind == "help":
        if not text.content.rstrip().endswith((".", "?")):
            yield Violation(text, "a flag's help ends with a period", text.content)
        if found := LEANING.search(_CODE.sub("x", text.content)):
            yield Violation(text, f"a flag's help stands alone: '{found[0]}'", text.content)
    for sentence in sentences(text.content):
        plain = _CODE.sub("x", sentence)
        if OPENINGS.search(plain):
            yield Violation(text, "opening", sentence)
        for phrase, instead in _PHRASES:
            if found := phrase.search(plain):
                yield Violation(text, f"'{found[0]}' (say: {instead})", sentence)


def sentences(content: str) -> list[str]:
    """The sentences of some paragraphs, each on one line."""
    paragraphs = re.split(r"\n\s*\n", content)
    return [sentence.strip() for each in paragraphs for sentence in _ENDS.split(" ".join(each.split())) if sentence]


def texts(path: Path) -> Iterator[Text]:
    """Yields the prose of a file: docstrings, comments, help and errors, or the paragraphs of Markdown."""
    source = path.read_text()
    if path.suffix == ".md":
        yield from _of_markdown(path, source)
        return
    yield from _comments(path, source)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _of_docstring(path, node)
        elif isinstance(node, ast.Call):
            yield from _of_call(path, node)


def _of_docstring(
    path: Path, node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
) -> Iterator[Text]:
    docstring = ast.get_docstring(node)
    if docstring is None:
        return
    line = node.body[0].lineno
    yield Text(path, line, "summary", docstring.partition("\n")[0])
    # An entry of `Args:` begins with a name and a colon, which are not prose.
    prose = re.sub(r"^( {4,8})\*{0,2}[\w, *]+(?: \([^)]*\))?:\s+", r"\n\1", docstring, flags=re.MULTILINE)
    prose = re.sub(r"^(?:Args|Returns|Raises|Yields|Attributes|Example|Examples):$", "", prose, flags=re.MULTILINE)
    yield Text(path, line, "docstring", prose)


def _of_call(path: Path, node: ast.Call) -> Iterator[Text]:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name.startswith(("DEFINE_", "define_")) or name == "Option":
        for argument in [*node.args[1:], *(keyword.value for keyword in node.keywords if keyword.arg == "help")]:
            content = _literal(argument)
            if " " in content:
                yield Text(path, argument.lineno, "help", content)
    elif name.endswith("Error") and node.args:
        yield Text(path, node.lineno, "error", _literal(node.args[0]).partition(": ")[2] or _literal(node.args[0]))


def _literal(node: ast.expr) -> str:
    """The text of a string, with x for what is put into it."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_literal(part) or "x" for part in node.values)
    if isinstance(node, ast.BinOp):
        return _literal(node.left) + _literal(node.right)
    return ""


def _comments(path: Path, source: str) -> Iterator[Text]:
    """Yields comments; lines of comments that follow each other are one."""
    lines: list[str] = []
    began = last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT or re.match(r"#\s*(?:type:|noqa|fmt:|pragma|mypy:|-{3}|!)", token.string):
            continue
        row = token.start[0]
        alone = token.line.lstrip().startswith("#")
        if lines and not (alone and row == last + 1):
            yield Text(path, began, "comment", " ".join(lines))
            lines = []
        if not lines:
            began = row
        lines.append(token.string.lstrip("#: "))
        last = row if alone else -1
    if lines:
        yield Text(path, began, "comment", " ".join(lines))


def _of_markdown(path: Path, source: str) -> Iterator[Text]:
    """Yields paragraphs, items and cells, without code and addresses."""
    source = re.sub(r"^(```|~~~).*?^\1", lambda code: "\n" * code[0].count("\n"), source, flags=re.M | re.S)
    for number, block in _blocks(source):
        for cell in block.split("|") if block.startswith("|") else [block]:
            plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", cell)
            plain = re.sub(r"^(?:[-*>]|\d+\.|#+)\s+", "", plain.strip()).replace("**", "").strip()
            if plain and not set(plain) <= set("-: "):
                yield Text(path, number, "markdown", plain)


def _blocks(source: str) -> Iterator[tuple[int, str]]:
    block: list[str] = []
    began = 0
    for number, line in enumerate([*source.split("\n"), ""], 1):
        if block and (not line.strip() or re.match(r"\s*(?:[-*>]|\d+\.|#+|\|)\s", line)):
            yield began, "\n".join(block)
            block = []
        if line.strip():
            if not block:
                began = number
            block.append(line)


def readability(path: Path) -> float:
    """Return the automated readability index of a page: the years of school that a reader needs.

    Source: Senter and Smith (1967).
    """
    running = [text.content for text in texts(path) if len(text.content.split()) > 5]  # No titles, no cells of numbers.
    count = sum(len(sentences(content)) for content in running)
    words = [word for content in running for word in re.findall(r"\w[\w'-]*", _CODE.sub("code", content))]
    return 4.71 * sum(map(len, words)) / len(words) + 0.5 * len(words) / count - 21.43 if words else 0.0


def files() -> list[Path]:
    """The files of the project that are checked."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    names = sorted(filter(None, listed.stdout.split("\0")))
    return [REPOSITORY / name for name in names if re.search(r"(?<!\.ko)\.(?:py|md)$", name)]


def check(paths: Sequence[Path]) -> list[Violation]:
    """All violations in some files."""
    return [violation for path in paths for text in texts(path) for violation in violations(text)]


if __name__ == "__main__":
    found = check([Path(name).resolve() for name in sys.argv[1:]] or files())
    print(*found, f"{len(found)} violations", sep="\n")
    sys.exit(bool(found))
