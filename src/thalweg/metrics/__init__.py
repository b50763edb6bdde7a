"""Skill metrics of paired series: pure functions on Arrow tables, no input or output.

`METRICS` is the table of all metrics; `evaluate` computes them by location, configuration and
lead time; `joined` gives the pairs themselves; `to_long` the rows of the warehouse's `metrics`.
"""

from thalweg.metrics.entry import Metric
from thalweg.metrics.evaluation import evaluate, joined, to_long
from thalweg.metrics.fields import FIELDS
from thalweg.metrics.pairs import Transform
from thalweg.metrics.table import DEFAULT, METRICS

__all__ = ["DEFAULT", "FIELDS", "METRICS", "Metric", "Transform", "evaluate", "joined", "to_long"]
