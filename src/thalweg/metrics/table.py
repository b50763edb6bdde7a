"""The metrics, as data: documentation, validation, command line and dashboards walk this table.

A metric is a SQL expression over *statistics*, and a statistic is an aggregate over the rows of a
*relation* that are in a group: the pairs themselves, or what is made of them (their ranks, the
peaks of each year, the ensembles). So any number of metrics costs one pass over each relation that
they need. In the formulas o is the primary (observed) value, s the secondary (simulated or
forecast) one, mu a mean, sigma a population standard deviation (ddof = 0), r Pearson's
correlation. A statistic that is undefined is NULL, and so is every metric that needs it.
"""

from __future__ import annotations

from thalweg.metrics import categorical, deterministic, probabilistic, signatures
from thalweg.metrics.entry import Metric, Statistic

__all__ = ["DEFAULT", "METRICS", "RELATIONS", "STATISTICS", "TEEHR"]

KINDS = (deterministic, categorical, probabilistic, signatures)
METRICS: dict[str, Metric] = {m.name: m for kind in KINDS for m in kind.METRICS}
STATISTICS: dict[str, Statistic] = {n: s for kind in KINDS for n, s in kind.STATISTICS.items()}
#: SELECTs from `pairs`, by name; `{keys}` stands for the columns by which it is grouped.
RELATIONS: dict[str, str] = {n: r for kind in KINDS for n, r in kind.RELATIONS.items()}
#: What TEEHR 0.8 calls a metric that has another name here; its name is taken for ours.
TEEHR = {
    "pearson_correlation": "pearson_r",
    "spearman_correlation": "spearman_r",
    "root_mean_square_error": "rmse",
    "root_mean_standard_deviation_ratio": "rsr",
    "nash_sutcliffe_efficiency": "nse",
    "nash_sutcliffe_efficiency_normalized": "nse_normalized",
    "kling_gupta_efficiency": "kge",
    "kling_gupta_efficiency_mod1": "kge_2012",
    "kling_gupta_efficiency_mod2": "kge_2021",
    "annual_peak_flow_bias": "annual_peak_relative_bias",
}
#: What is computed unless others are asked for.
DEFAULT = ("kge", "kge_2012", "nse", "rmse", "relative_bias", "pearson_r")
