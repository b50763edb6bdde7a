"""Skill metrics of paired series: pure functions on Arrow tables, no input or output.

`METRICS` is the table of all metrics; `evaluate` computes them by location, configuration and
lead time; `joined` gives the pairs themselves; `to_long` the rows of the warehouse's `metrics`.
"""

from thalweg.metrics.evaluation import evaluate, joined, to_long
from thalweg.metrics.table import METRICS, Metric

__all__ = ["METRICS", "Metric", "evaluate", "joined", "to_long"]
