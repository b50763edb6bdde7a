"""Skill metrics of paired series, out of tables of the warehouse by name or frames at hand.

Nothing is read but the tables that are named, and nothing written but by `update`, which keeps the
warehouse's `metrics` up to date and computes again what changed. `METRICS` is the table of all
metrics; `evaluate` computes them by location, configuration, lead time or what else is asked, and
with a `Bootstrap` how uncertain they are; `joined` gives the pairs themselves; `to_long` the rows
of the warehouse's `metrics`. `roc`, `reliability`, `rank_histogram` and `flow_duration` give
curves; `skill` compares with a reference, as `persistence` and `climatology` make them;
`evaluate_gridded` judges fields cell by cell.
"""

from thalweg.metrics.bootstrap import Bootstrap, block_length
from thalweg.metrics.curves import flow_duration, rank_histogram, reliability, roc
from thalweg.metrics.entry import Metric
from thalweg.metrics.evaluation import evaluate, joined, to_long
from thalweg.metrics.fields import FIELDS
from thalweg.metrics.gridded import evaluate_gridded
from thalweg.metrics.increment import Updated, update
from thalweg.metrics.pairs import Transform
from thalweg.metrics.question import requires
from thalweg.metrics.reference import climatology, persistence, skill
from thalweg.metrics.runoff import runoff_ratio
from thalweg.metrics.table import DEFAULT, METRICS

__all__ = [
    "DEFAULT", "FIELDS", "METRICS", "Bootstrap", "Metric", "Transform", "Updated", "block_length",
    "climatology", "evaluate", "evaluate_gridded", "flow_duration", "joined", "persistence",
    "rank_histogram", "reliability", "requires", "roc", "runoff_ratio", "skill", "to_long",
    "update",
]  # fmt: skip
