"""The expected cost of each hot path, in expected.json, and the comparison with it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfrecord_tools.errors import UserError

PATH = Path(__file__).with_name("expected.json")
TOLERANCES = {"instructions": 0.05, "time": 0.15}  # Shares of the expected cost.


@dataclasses.dataclass(frozen=True)
class Finding:
    """The comparison of one hot path.

    Attributes:
        name: Name of the hot path.
        ratio: Cost divided by the expected cost.
        tolerance: By how much the ratio may be above 1.
    """

    name: str
    ratio: float
    tolerance: float

    @property
    def is_slower(self) -> bool:
        return self.ratio > 1 + self.tolerance

    @property
    def is_faster(self) -> bool:
        """Whether the expected cost is out of date."""
        return self.ratio < 1 - self.tolerance

    def line(self) -> str:
        verdict = "SLOWER" if self.is_slower else "faster" if self.is_faster else "ok"
        return f"{verdict:<7} {self.name:<28} {self.ratio:.3f} of the expected cost (at most {1 + self.tolerance:.2f})"


def compare(costs: Mapping[str, float], expected: Mapping[str, Mapping[str, float]]) -> list[Finding]:
    """Compare costs with the expected ones.

    Args:
        costs: Name of a hot path -> its cost.
        expected: Name -> {"cost": …, "tolerance": …}.

    Raises:
        UserError: A hot path is only on one side.
    """
    if different := sorted(set(costs) ^ set(expected)):
        raise UserError(f"expected.json: has other hot paths than the code: {', '.join(different)}. {_UPDATE}")
    return [Finding(name, cost / expected[name]["cost"], expected[name]["tolerance"]) for name, cost in costs.items()]


_UPDATE = "Run python -m benchmarks.check --update on the code before your change."


def load(method: str, environment: str, path: Path = PATH) -> Mapping[str, Mapping[str, float]]:
    """Return the expected costs of a method.

    Raises:
        UserError: There are none, or they were measured in another environment.
    """
    stored = _read(path).get(method)
    if stored is None:
        raise UserError(f"{path.name}: has no costs by {method}. {_UPDATE}")
    if stored["environment"] != environment:
        raise UserError(
            f"{path.name}: is for another environment ({stored['environment']}). This one is {environment}. {_UPDATE}"
        )
    paths: Mapping[str, Mapping[str, float]] = stored["paths"]
    return paths


def save(method: str, environment: str, costs: Mapping[str, float], path: Path = PATH) -> None:
    """Write the costs of a method. The other method, and tolerances that were changed by hand, stay."""
    everything = _read(path)
    old = everything.get(method, {}).get("paths", {})
    paths = {
        name: {
            "cost": float(f"{cost:.5g}"),
            "tolerance": old.get(name, {}).get("tolerance", TOLERANCES[method]),
        }
        for name, cost in costs.items()
    }
    everything[method] = {"environment": environment, "paths": paths}
    path.write_text(json.dumps(everything, indent=2) + "\n")


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    content: dict[str, Any] = json.loads(path.read_text())
    return content
