"""Metrics of single values: a forecast value beside the observed one."""

from __future__ import annotations

from thalweg.metrics.entry import INFINITY, Metric, Statistic

__all__ = ["METRICS", "RELATIONS", "STATISTICS"]

RELATIONS: dict[str, str] = {}
# A series without variance has no deviation to compare with: its `sd` is NULL, by min = max, which
# rounding cannot upset.
STATISTICS = {
    "mean_primary": Statistic("avg(primary_value)"),
    "mean_secondary": Statistic("avg(secondary_value)"),
    "sd_primary": Statistic(
        "CASE WHEN min(primary_value) < max(primary_value) THEN stddev_pop(primary_value) END"
    ),
    "sd_secondary": Statistic(
        "CASE WHEN min(secondary_value) < max(secondary_value) THEN stddev_pop(secondary_value) END"
    ),
    "covariance": Statistic("covar_pop(secondary_value, primary_value)"),
    "mean_of_errors": Statistic("avg(secondary_value - primary_value)"),
    "mean_of_squares": Statistic("avg((secondary_value - primary_value) ** 2)"),
}

_R = "(covariance / nullif(sd_primary, 0) / nullif(sd_secondary, 0))"
_ALPHA = "(sd_secondary / nullif(sd_primary, 0))"
_BETA = "(mean_secondary / nullif(mean_primary, 0))"

METRICS = (
    Metric(
        name="kge",
        title="Kling-Gupta efficiency (2009)",
        formula=r"1 - \sqrt{(r-1)^2 + (\sigma_s/\sigma_o - 1)^2 + (\mu_s/\mu_o - 1)^2}",
        range=(-INFINITY, 1.0),
        perfect=1.0,
        reference="Gupta et al. (2009), Journal of Hydrology 377, 80-91",
        doi="10.1016/j.jhydrol.2009.08.003",
        sql=f"1 - sqrt(({_R} - 1) ** 2 + ({_ALPHA} - 1) ** 2 + ({_BETA} - 1) ** 2)",
    ),
    Metric(
        name="kge_2012",
        title="Kling-Gupta efficiency (2012)",
        formula=r"1 - \sqrt{(r-1)^2 + \left(\frac{\sigma_s/\mu_s}{\sigma_o/\mu_o} - 1\right)^2"
        r" + (\mu_s/\mu_o - 1)^2}",
        range=(-INFINITY, 1.0),
        perfect=1.0,
        reference="Kling et al. (2012), Journal of Hydrology 424-425, 264-277",
        doi="10.1016/j.jhydrol.2012.01.011",
        sql=f"1 - sqrt(({_R} - 1) ** 2 + ({_ALPHA} / nullif({_BETA}, 0) - 1) ** 2"
        f" + ({_BETA} - 1) ** 2)",
    ),
    Metric(
        name="nse",
        title="Nash-Sutcliffe efficiency",
        formula=r"1 - \frac{\sum (s-o)^2}{\sum (o-\mu_o)^2}",
        range=(-INFINITY, 1.0),
        perfect=1.0,
        reference="Nash and Sutcliffe (1970), Journal of Hydrology 10, 282-290",
        doi="10.1016/0022-1694(70)90255-6",
        sql="1 - mean_of_squares / nullif(sd_primary ** 2, 0)",
    ),
    Metric(
        name="rmse",
        title="Root mean square error",
        formula=r"\sqrt{\frac{1}{n} \sum (s-o)^2}",
        range=(0.0, INFINITY),
        perfect=0.0,
        reference="Hyndman and Koehler (2006), International Journal of Forecasting 22, 679-688",
        doi="10.1016/j.ijforecast.2006.03.001",
        sql="sqrt(mean_of_squares)",
        in_unit="{unit}",
    ),
    Metric(
        name="relative_bias",
        title="Relative bias",
        formula=r"\frac{\sum (s-o)}{\sum o}",
        range=(-INFINITY, INFINITY),
        perfect=0.0,
        reference="Moriasi et al. (2007), Transactions of the ASABE 50, 885-900 "
        "(PBIAS there is -100 times this)",
        doi="10.13031/2013.23153",
        sql="mean_of_errors / nullif(mean_primary, 0)",
    ),
    Metric(
        name="pearson_r",
        title="Pearson correlation",
        formula=r"r = \frac{\sum (s-\mu_s)(o-\mu_o)}{n \, \sigma_s \sigma_o}",
        range=(-1.0, 1.0),
        perfect=1.0,
        reference="Rodgers and Nicewander (1988), The American Statistician 42, 59-66",
        doi="10.1080/00031305.1988.10475524",
        # greatest and least pass over NULL, so it is asked for first
        sql=f"CASE WHEN {_R} IS NOT NULL THEN greatest(-1, least(1, {_R})) END",
    ),
)
