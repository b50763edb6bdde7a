"""The metrics, as data: documentation, validation, command line and dashboards walk this table.

A metric is a SQL expression over the `STATISTICS` of the pairs of a group, so that any number of
metrics costs one pass. In the formulas o is the primary (observed) value, s the secondary
(simulated or forecast) one, mu a mean, sigma a population standard deviation (ddof = 0), r
Pearson's correlation. A statistic that is undefined is NULL, and so is every metric that needs it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["METRICS", "STATISTICS", "Metric"]

#: Aggregates over the pairs of a group. A series without variance has no deviation to compare
#: with: its `sd` is NULL, by min = max, which rounding cannot upset.
STATISTICS = {
    "mean_primary": "avg(primary_value)",
    "mean_secondary": "avg(secondary_value)",
    "sd_primary": "CASE WHEN min(primary_value) < max(primary_value)"
    " THEN stddev_pop(primary_value) END",
    "sd_secondary": "CASE WHEN min(secondary_value) < max(secondary_value)"
    " THEN stddev_pop(secondary_value) END",
    "covariance": "covar_pop(secondary_value, primary_value)",
    "mean_error": "avg(secondary_value - primary_value)",
    "mean_square_error": "avg((secondary_value - primary_value) ** 2)",
}

_R = "(covariance / nullif(sd_primary, 0) / nullif(sd_secondary, 0))"
_ALPHA = "(sd_secondary / nullif(sd_primary, 0))"
_BETA = "(mean_secondary / nullif(mean_primary, 0))"


@dataclass(frozen=True)
class Metric:
    """One skill metric.

    `range` and `perfect` are in the metric's own unit, which is that of the variable when
    `has_unit`, else 1. `sql` is an expression over the names of `STATISTICS`.
    """

    name: str
    title: str
    formula: str
    range: tuple[float, float]
    perfect: float
    has_unit: bool
    reference: str
    doi: str
    sql: str

    @property
    def needs(self) -> tuple[str, ...]:
        """The statistics that the expression uses."""
        return tuple(s for s in STATISTICS if re.search(rf"\b{s}\b", self.sql))

    def unit(self, variable_unit: str) -> str:
        """Unit of the metric's value, for a variable in `variable_unit`.

        >>> METRICS["rmse"].unit("m^3/s"), METRICS["kge"].unit("m^3/s")
        ('m^3/s', '1')
        """
        return variable_unit if self.has_unit else "1"


_INFINITY = float("inf")

METRICS = {
    metric.name: metric
    for metric in (
        Metric(
            name="kge",
            title="Kling-Gupta efficiency (2009)",
            formula=r"1 - \sqrt{(r-1)^2 + (\sigma_s/\sigma_o - 1)^2 + (\mu_s/\mu_o - 1)^2}",
            range=(-_INFINITY, 1.0),
            perfect=1.0,
            has_unit=False,
            reference="Gupta et al. (2009), Journal of Hydrology 377, 80-91",
            doi="10.1016/j.jhydrol.2009.08.003",
            sql=f"1 - sqrt(({_R} - 1) ** 2 + ({_ALPHA} - 1) ** 2 + ({_BETA} - 1) ** 2)",
        ),
        Metric(
            name="kge_2012",
            title="Kling-Gupta efficiency (2012)",
            formula=r"1 - \sqrt{(r-1)^2 + \left(\frac{\sigma_s/\mu_s}{\sigma_o/\mu_o} - 1\right)^2"
            r" + (\mu_s/\mu_o - 1)^2}",
            range=(-_INFINITY, 1.0),
            perfect=1.0,
            has_unit=False,
            reference="Kling et al. (2012), Journal of Hydrology 424-425, 264-277",
            doi="10.1016/j.jhydrol.2012.01.011",
            sql=f"1 - sqrt(({_R} - 1) ** 2 + ({_ALPHA} / nullif({_BETA}, 0) - 1) ** 2"
            f" + ({_BETA} - 1) ** 2)",
        ),
        Metric(
            name="nse",
            title="Nash-Sutcliffe efficiency",
            formula=r"1 - \frac{\sum (s-o)^2}{\sum (o-\mu_o)^2}",
            range=(-_INFINITY, 1.0),
            perfect=1.0,
            has_unit=False,
            reference="Nash and Sutcliffe (1970), Journal of Hydrology 10, 282-290",
            doi="10.1016/0022-1694(70)90255-6",
            sql="1 - mean_square_error / nullif(sd_primary ** 2, 0)",
        ),
        Metric(
            name="rmse",
            title="Root mean square error",
            formula=r"\sqrt{\frac{1}{n} \sum (s-o)^2}",
            range=(0.0, _INFINITY),
            perfect=0.0,
            has_unit=True,
            reference="Hyndman and Koehler (2006), International Journal of Forecasting 22, "
            "679-688",
            doi="10.1016/j.ijforecast.2006.03.001",
            sql="sqrt(mean_square_error)",
        ),
        Metric(
            name="relative_bias",
            title="Relative bias",
            formula=r"\frac{\sum (s-o)}{\sum o}",
            range=(-_INFINITY, _INFINITY),
            perfect=0.0,
            has_unit=False,
            reference="Moriasi et al. (2007), Transactions of the ASABE 50, 885-900 "
            "(PBIAS there is -100 times this)",
            doi="10.13031/2013.23153",
            sql="mean_error / nullif(mean_primary, 0)",
        ),
        Metric(
            name="pearson_r",
            title="Pearson correlation",
            formula=r"r = \frac{\sum (s-\mu_s)(o-\mu_o)}{n \, \sigma_s \sigma_o}",
            range=(-1.0, 1.0),
            perfect=1.0,
            has_unit=False,
            reference="Rodgers and Nicewander (1988), The American Statistician 42, 59-66",
            doi="10.1080/00031305.1988.10475524",
            # greatest and least pass over NULL, so it is asked for first
            sql=f"CASE WHEN {_R} IS NOT NULL THEN greatest(-1, least(1, {_R})) END",
        ),
    )
}
