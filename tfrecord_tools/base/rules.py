"""Rules that find problems in a dataset, a run or a comparison.

The rules are `card.card_page._RULES`, `trainers.results.report._RULES` and `trainers.results.comparison_page._RULES`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

from tfrecord_tools.base import page

LEVELS = ("problem", "check", "note")  # Worst first.
IMBALANCE = 10  # At this ratio of the largest to the smallest class, accuracy alone can mislead.
Facts = TypeVar("Facts")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """A result of a rule, as a page shows it. The texts are HTML from `page.marked`.

    Attributes:
        name: Name of the rule.
        level: One of `LEVELS`.
        title: The finding in a few words.
        text: Explanation and advice. "": none.
        section: Section of the page with details. "": none.
        images: Number of images with this finding. 0: the finding is not about single images.
        examples: Paths of some of these images.
    """

    name: str
    level: str
    title: str
    text: str
    section: str = ""
    images: int = 0
    examples: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule(Generic[Facts]):
    """A condition and the texts of its finding. The condition returns values for the fields in the texts.

    Attributes:
        name: Name of the rule, unique within its table.
        level: One of `LEVELS`.
        section: Section of the page with details.
        condition: Function from the facts to the values of the fields. It returns None if there is no finding.
        title: The finding in a few words.
        text: Explanation.
        advice: Advice for the user. "": none.
        examples: Function from the facts to the paths of images that show the problem.
    """

    name: str
    level: str
    section: str
    condition: Callable[[Facts], Mapping[str, Any] | None]
    title: str
    text: str
    advice: str = ""
    examples: Callable[[Facts], Sequence[str]] = lambda facts: ()


def found(rules: Iterable[Rule[Facts]], facts: Facts) -> list[Finding]:
    """Return the findings of the rules, in the order of the rules."""
    results = [(rule, rule.condition(facts)) for rule in rules]
    return [
        Finding(
            name=rule.name,
            level=rule.level,
            title=page.marked(rule.title, **values),
            text=page.marked(f"{rule.text} {rule.advice}".strip(), **values),
            section=rule.section,
            examples=tuple(rule.examples(facts)),
        )
        for rule, values in results
        if values is not None
    ]


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Sort findings by level, worst first; findings of one level keep their order."""
    return sorted(findings, key=lambda finding: LEVELS.index(finding.level))


def lines(findings: Iterable[Finding]) -> Iterator[str]:
    """Yield findings as lines for the console, without HTML. Findings of level "note" are only for pages."""
    from markupsafe import Markup

    for finding in findings:
        if finding.level == "note":
            continue
        texts = [Markup(text).striptags() for text in (finding.title, finding.text) if text]
        yield f"  {finding.level}: {'. '.join(texts)}"


def imbalance(sizes: Sequence[int]) -> str:
    """Return smallest and largest class size, as "40 to 600". If they are similar, return an empty text."""
    largest, smallest = max(sizes), min(sizes)
    return f"{smallest:,} to {largest:,}" if largest >= IMBALANCE * smallest else ""
