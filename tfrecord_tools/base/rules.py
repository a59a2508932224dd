"""How rules judge a dataset or a run. The rules are `card.card_page._RULES` and `trainers.results.report._RULES`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

from tfrecord_tools.base import page

LEVELS = ("problem", "check", "note")  # The worst first.
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
    """

    name: str
    level: str
    section: str
    condition: Callable[[Facts], Mapping[str, Any] | None]
    title: str
    text: str
    advice: str = ""


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
        )
        for rule, values in judged
        if values is not None
    ]


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings by their levels, otherwise in the order given."""
    return sorted(findings, key=lambda finding: LEVELS.index(finding.level))
