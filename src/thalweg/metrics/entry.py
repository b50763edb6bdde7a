"""What one metric is, and what one statistic is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["INFINITY", "KINDS", "Metric", "Statistic"]

INFINITY = float("inf")
#: The kinds of metrics, as readers see them.
KINDS = {
    "deterministic": "Of single values",
    "categorical": "Of events",
    "probabilistic": "Of ensembles",
    "signature": "Signatures of a series",
}


@dataclass(frozen=True)
class Statistic:
    """An aggregate in SQL over the rows of a relation that are in a group."""

    sql: str
    over: str = "pairs"


@dataclass(frozen=True)
class Metric:
    """One metric.

    `range` and `perfect` are in the metric's own unit. `perfect` is None where there is nothing to
    be perfect in, as for the mean of the observations. `sql` is an expression over the names of
    `STATISTICS`.
    """

    name: str
    title: str
    formula: str
    range: tuple[float, float]
    perfect: float | None
    reference: str
    doi: str
    sql: str
    #: The unit of its value; `{unit}` stands for that of the variable.
    in_unit: str = "1"
    kind: Literal["deterministic", "categorical", "probabilistic", "signature"] = "deterministic"

    @property
    def has_unit(self) -> bool:
        """Whether the value changes with the unit of the variable."""
        return "{unit}" in self.in_unit

    def unit(self, variable_unit: str) -> str:
        """Unit of the metric's value, for a variable in `variable_unit`.

        >>> from thalweg.metrics import METRICS
        >>> METRICS["rmse"].unit("m^3/s"), METRICS["kge"].unit("m^3/s")
        ('m^3/s', '1')
        """
        return self.in_unit.format(unit=variable_unit)
