"""How rules judge a dataset, a run or a comparison.

The rules are `card.card_page._RULES`, `trainers.results.report._RULES` and `trainers.results.comparison_page._RULES`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

from tfrecord_tools.base import page

LEVELS = ("problem", "check", "note")  # The worst first.
IMBALANCE = 10  # Largest class / smallest class, from which accuracy alone says little.
Facts = TypeVar("Facts")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """A thing that needs attention, as a page shows it; its texts are HTML, as of `page.marked`.

    Attributes:
        name: Name of its rule.
        level: One of `LEVELS`.
        title: What there is.
        text: What it means and what to do; "" if nothing.
        section: Section of the page that says more; "" if none.
        images: Number of images that it is about; 0 if it is not about single images.
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
    """A condition, and what is found where it holds. Its texts take the values of the condition as fields.

    Attributes:
        name: Name of the rule, once a table.
        level: One of `LEVELS`.
        section: Section of the page that says more.
        condition: Facts -> values of the fields; None if the rule finds nothing.
        title: What there is.
        text: What it means.
        advice: What to do; "" if nothing.
        examples: Facts -> paths of images that the finding is about.
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
    """Return what the rules find, in their order."""
    judged = [(rule, rule.condition(facts)) for rule in rules]
    return [
        Finding(
            name=rule.name,
            level=rule.level,
            title=page.marked(rule.title, **values),
            text=page.marked(f"{rule.text} {rule.advice}".strip(), **values),
            section=rule.section,
            examples=tuple(rule.examples(facts)),
        )
        for rule, values in judged
        if values is not None
    ]


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings by their levels, otherwise in the order given."""
    return sorted(findings, key=lambda finding: LEVELS.index(finding.level))


def lines(findings: Iterable[Finding]) -> Iterator[str]:
    """Yield findings as the console prints them, without HTML. Pages alone show those of level "note"."""
    from markupsafe import Markup

    for finding in findings:
        if finding.level == "note":
            continue
        texts = [Markup(text).striptags() for text in (finding.title, finding.text) if text]
        yield f"  {finding.level}: {'. '.join(texts)}"


def imbalance(sizes: Sequence[int]) -> str:
    """Return the sizes of the largest and the smallest class, such as "600 : 40"; "" if they are similar."""
    largest, smallest = max(sizes), min(sizes)
    return f"{largest:,} : {smallest:,}" if largest >= IMBALANCE * smallest else ""
