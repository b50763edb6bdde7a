"""Metrics of single values: a forecast value beside the observed one."""

from __future__ import annotations

from thalweg.metrics.entry import INFINITY, Metric, Statistic

__all__ = ["METRICS", "RELATIONS", "STATISTICS"]

# The average rank of a value: halfway between the first and the last rank of all that equal it.
_RANK = (
    "(rank() OVER (PARTITION BY {{keys}} ORDER BY {side}_value)"
    " + count(*) OVER (PARTITION BY {{keys}} ORDER BY {side}_value)) / 2 AS {side}_rank"
)
RELATIONS = {
    "ranked": f"""
        SELECT {{keys}}, {_RANK.format(side="primary")}, {_RANK.format(side="secondary")}
        FROM pairs
    """,  # noqa: S608
    # The k-th smallest value of one side beside the k-th smallest of the other.
    "ordered": """
        SELECT {keys}, avg(primary_value) AS primary_mean, avg(secondary_value) AS secondary_mean,
            unnest(list(primary_value ORDER BY primary_value)) AS primary_value,
            unnest(list(secondary_value ORDER BY secondary_value)) AS secondary_value
        FROM pairs GROUP BY {keys}
    """,
    "logs": """
        SELECT {keys}, ln(primary_value + epsilon) AS primary_log,
            ln(secondary_value + epsilon) AS secondary_log
        FROM (SELECT *, avg(primary_value) OVER (PARTITION BY {keys}) / 100 AS epsilon FROM pairs)
        WHERE least(primary_value, secondary_value) + epsilon > 0
    """,
    "years": """
        SELECT {keys}, max(primary_value) AS primary_peak, max(secondary_value) AS secondary_peak
        FROM pairs GROUP BY {keys}, year(value_time AT TIME ZONE 'UTC')
    """,
}


def _spread(value: str) -> str:
    """Standard deviation of what varies, else NULL: min < max says so, whatever the rounding.

    NULL also where its square leaves the float64, above or below.
    """
    sd = f"stddev_pop({value})"
    return f"CASE WHEN min({value}) < max({value}) AND isfinite({sd}) THEN nullif({sd}, 0) END"


def _first(value: str) -> str:
    """The first time of the greatest value, in seconds since 1970."""
    return f"arg_max(epoch(value_time), row({value}, -epoch(value_time)))"


STATISTICS = {
    **{
        name.format(side=side): Statistic(sql.format(value=f"{side}_value"))
        for side in ("primary", "secondary")
        for name, sql in {
            "mean_{side}": "avg({value})",
            "median_{side}": "median({value})",
            "min_{side}": "min({value})",
            "max_{side}": "max({value})",
            "sd_{side}": _spread("{value}"),
            "peak_time_{side}": _first("{value}"),
        }.items()
    },
    "covariance": Statistic("covar_pop(secondary_value, primary_value)"),
    "mean_of_errors": Statistic("avg(secondary_value - primary_value)"),
    "mean_of_absolutes": Statistic("avg(abs(secondary_value - primary_value))"),
    # a product: a power takes DuckDB ten times as long
    "mean_of_squares": Statistic(
        "avg((secondary_value - primary_value) * (secondary_value - primary_value))"
    ),
    "sd_primary_rank": Statistic(_spread("primary_rank"), "ranked"),
    "sd_secondary_rank": Statistic(_spread("secondary_rank"), "ranked"),
    "covariance_of_ranks": Statistic("covar_pop(secondary_rank, primary_rank)", "ranked"),
    "distance_of_curves": Statistic(
        "avg(abs(secondary_value / nullif(secondary_mean, 0)"
        " - primary_value / nullif(primary_mean, 0)))",
        "ordered",
    ),
    "sd_primary_log": Statistic(_spread("primary_log"), "logs"),
    "mean_of_squares_of_logs": Statistic("avg((secondary_log - primary_log) ** 2)", "logs"),
    "sum_of_peaks": Statistic("sum(primary_peak)", "years"),
    "sum_of_peak_errors": Statistic("sum(secondary_peak - primary_peak)", "years"),
}


def _correlation(covariance: str, *deviations: str) -> str:
    # Rounding may lead beyond 1. greatest and least pass over NULL, so it is asked for first.
    r = f"({covariance} / {' / '.join(deviations)})"
    return f"(CASE WHEN {r} IS NOT NULL THEN greatest(-1, least(1, {r})) END)"


_R = _correlation("covariance", "sd_primary", "sd_secondary")
_RANK_R = _correlation("covariance_of_ranks", "sd_primary_rank", "sd_secondary_rank")
# The deviation of a flat forecast is 0; that of flat observations is nothing to divide by.
_ALPHA = "(CASE WHEN min_secondary < max_secondary THEN sd_secondary ELSE 0 END / sd_primary)"
_BETA = "(mean_secondary / nullif(mean_primary, 0))"
_GAMMA = f"({_ALPHA} / nullif({_BETA}, 0))"
_BIAS = "(mean_of_errors / sd_primary)"
_ALPHA_NP = "(1 - distance_of_curves / 2)"
_NSE = "(1 - mean_of_squares / nullif(sd_primary ** 2, 0))"


def _kge(*parts: str) -> str:
    """1 minus the distance from the ideal of three parts that should be 0."""
    return f"1 - sqrt({' + '.join(f'({part}) ** 2' for part in parts)})"


_ANY, _POSITIVE = (-INFINITY, INFINITY), (0.0, INFINITY)
_EFFICIENCY, _CORRELATION = (-INFINITY, 1.0), (-1.0, 1.0)
_WILKS = (
    "Wilks (2019), Statistical Methods in the Atmospheric Sciences, 4th edition",
    "10.1016/C2017-0-03921-6",
)
_JACKSON = (
    "Jackson et al. (2019), Environmental Modelling & Software 119, 32-48",
    "10.1016/j.envsoft.2019.05.001",
)
_MORIASI = "10.13031/2013.23153"
_GUPTA = ("Gupta et al. (2009), Journal of Hydrology 377, 80-91", "10.1016/j.jhydrol.2009.08.003")
_KLING = (
    "Kling et al. (2012), Journal of Hydrology 424-425, 264-277",
    "10.1016/j.jhydrol.2012.01.011",
)
_TANG = ("Tang et al. (2021), Journal of Climate 34, 6493-6511", "10.1175/JCLI-D-21-0067.1")
_POOL = (
    "Pool et al. (2018), Hydrological Sciences Journal 63, 1941-1953",
    "10.1080/02626667.2018.1552002",
)
_EHRET = (
    "Ehret and Zehe (2011), Hydrology and Earth System Sciences 15, 877-896",
    "10.5194/hess-15-877-2011",
)

# name, title, formula, range, perfect, reference, doi, sql, in_unit
METRICS = (
    Metric(
        "kge", "Kling-Gupta efficiency (2009)",
        r"1 - \sqrt{(r-1)^2 + (\sigma_s/\sigma_o - 1)^2 + (\mu_s/\mu_o - 1)^2}",
        _EFFICIENCY, 1.0, *_GUPTA, _kge(f"{_R} - 1", f"{_ALPHA} - 1", f"{_BETA} - 1"),
    ),
    Metric(
        "kge_2012", "Kling-Gupta efficiency (2012)",
        r"1 - \sqrt{(r-1)^2 + \left(\frac{\sigma_s/\mu_s}{\sigma_o/\mu_o} - 1\right)^2"
        r" + (\mu_s/\mu_o - 1)^2}",
        _EFFICIENCY, 1.0, *_KLING, _kge(f"{_R} - 1", f"{_GAMMA} - 1", f"{_BETA} - 1"),
    ),
    Metric(
        "kge_2021", "Kling-Gupta efficiency (2021)",
        r"1 - \sqrt{(r-1)^2 + (\sigma_s/\sigma_o - 1)^2"
        r" + \left(\frac{\mu_s - \mu_o}{\sigma_o}\right)^2}",
        _EFFICIENCY, 1.0, *_TANG, _kge(f"{_R} - 1", f"{_ALPHA} - 1", _BIAS),
    ),
    Metric(
        "kge_non_parametric", "Kling-Gupta efficiency, non-parametric",
        r"1 - \sqrt{(r_s-1)^2 + (\alpha_{np} - 1)^2 + (\mu_s/\mu_o - 1)^2}",
        _EFFICIENCY, 1.0, *_POOL, _kge(f"{_RANK_R} - 1", f"{_ALPHA_NP} - 1", f"{_BETA} - 1"),
    ),
    Metric(
        "kge_alpha", "Variability term of the KGE (2009, 2021)", r"\alpha = \sigma_s / \sigma_o",
        _POSITIVE, 1.0, *_GUPTA, _ALPHA,
    ),
    Metric(
        "kge_beta", "Bias term of the KGE (2009, 2012)", r"\beta = \mu_s / \mu_o",
        _ANY, 1.0, *_GUPTA, _BETA,
    ),
    Metric(
        "kge_gamma", "Variability term of the KGE (2012)",
        r"\gamma = \frac{\sigma_s / \mu_s}{\sigma_o / \mu_o}", _ANY, 1.0, *_KLING, _GAMMA,
    ),
    Metric(
        "kge_bias_2021", "Bias term of the KGE (2021)", r"\frac{\mu_s - \mu_o}{\sigma_o}",
        _ANY, 0.0, *_TANG, _BIAS,
    ),
    Metric(
        "kge_alpha_non_parametric", "Variability term of the non-parametric KGE",
        r"\alpha_{np} = 1 - \frac{1}{2} \sum_k \left|\frac{s_{(k)}}{n \mu_s}"
        r" - \frac{o_{(k)}}{n \mu_o}\right|, \quad k\text{-th smallest values}",
        _EFFICIENCY, 1.0, *_POOL, _ALPHA_NP,
    ),
    Metric(
        "nse", "Nash-Sutcliffe efficiency", r"1 - \frac{\sum (s-o)^2}{\sum (o-\mu_o)^2}",
        _EFFICIENCY, 1.0, "Nash and Sutcliffe (1970), Journal of Hydrology 10, 282-290",
        "10.1016/0022-1694(70)90255-6", _NSE,
    ),
    Metric(
        "nse_normalized", "Nash-Sutcliffe efficiency, normalised", r"\frac{1}{2 - NSE}",
        (0.0, 1.0), 1.0,
        "Nossent and Bauwens (2012), EGU General Assembly, on Nash and Sutcliffe (1970)",
        "10.1016/0022-1694(70)90255-6", f"1 / (2 - {_NSE})",
    ),
    Metric(
        "nse_log", "Nash-Sutcliffe efficiency of logarithms",
        r"1 - \frac{\sum (\ln(s+\epsilon) - \ln(o+\epsilon))^2}"
        r"{\sum (\ln(o+\epsilon) - \mu_{\ln(o+\epsilon)})^2}, \quad \epsilon = \mu_o / 100",
        _EFFICIENCY, 1.0, "Pushpalatha et al. (2012), Journal of Hydrology 420-421, 171-182",
        "10.1016/j.jhydrol.2011.11.055",
        "1 - mean_of_squares_of_logs / nullif(sd_primary_log ** 2, 0)",
    ),
    Metric(
        "mean_error", "Mean error", r"\frac{1}{n} \sum (s-o)",
        _ANY, 0.0, *_WILKS, "mean_of_errors", "{unit}",
    ),
    Metric(
        "mean_absolute_error", "Mean absolute error", r"\frac{1}{n} \sum |s-o|",
        _POSITIVE, 0.0, "Willmott and Matsuura (2005), Climate Research 30, 79-82",
        "10.3354/cr030079", "mean_of_absolutes", "{unit}",
    ),
    Metric(
        "mean_square_error", "Mean square error", r"\frac{1}{n} \sum (s-o)^2",
        _POSITIVE, 0.0, *_WILKS, "mean_of_squares", "({unit})^2",
    ),
    Metric(
        "rmse", "Root mean square error", r"\sqrt{\frac{1}{n} \sum (s-o)^2}",
        _POSITIVE, 0.0,
        "Hyndman and Koehler (2006), International Journal of Forecasting 22, 679-688",
        "10.1016/j.ijforecast.2006.03.001", "sqrt(mean_of_squares)", "{unit}",
    ),
    Metric(
        "rsr", "Root mean square error over standard deviation of observations",
        r"\frac{1}{\sigma_o} \sqrt{\frac{1}{n} \sum (s-o)^2}",
        _POSITIVE, 0.0, "Moriasi et al. (2007), Transactions of the ASABE 50, 885-900", _MORIASI,
        "sqrt(mean_of_squares) / sd_primary",
    ),
    Metric(
        "mean_absolute_relative_error", "Mean absolute error over mean observation",
        r"\frac{\sum |s-o|}{\sum o}",
        _ANY, 0.0, *_JACKSON, "mean_of_absolutes / nullif(mean_primary, 0)",
    ),
    Metric(
        "relative_bias", "Relative bias", r"\frac{\sum (s-o)}{\sum o}",
        _ANY, 0.0, "Moriasi et al. (2007), Transactions of the ASABE 50, 885-900 "
        "(PBIAS there is -100 times this)",
        _MORIASI, "mean_of_errors / nullif(mean_primary, 0)",
    ),
    Metric(
        "percent_bias", "Percent bias (above 0: too high)", r"100 \frac{\sum (s-o)}{\sum o}",
        _ANY, 0.0, "Moriasi et al. (2007), Transactions of the ASABE 50, 885-900 "
        "(with the opposite sign)",
        _MORIASI, "100 * mean_of_errors / nullif(mean_primary, 0)", "%",
    ),
    Metric(
        "multiplicative_bias", "Multiplicative bias", r"\mu_s / \mu_o",
        _ANY, 1.0, *_WILKS, _BETA,
    ),
    Metric(
        "variability_ratio", "Variability ratio", r"\sigma_s / \sigma_o",
        _POSITIVE, 1.0, *_GUPTA, _ALPHA,
    ),
    Metric(
        "relative_mean", "Relative mean", r"\mu_s / \mu_o", _ANY, 1.0, *_JACKSON, _BETA,
    ),
    Metric(
        "relative_median", "Relative median", r"\frac{\mathrm{median}(s)}{\mathrm{median}(o)}",
        _ANY, 1.0, *_JACKSON, "median_secondary / nullif(median_primary, 0)",
    ),
    Metric(
        "relative_minimum", "Relative minimum", r"\frac{\min s}{\min o}",
        _ANY, 1.0, *_JACKSON, "min_secondary / nullif(min_primary, 0)",
    ),
    Metric(
        "relative_maximum", "Relative maximum", r"\frac{\max s}{\max o}",
        _ANY, 1.0, *_JACKSON, "max_secondary / nullif(max_primary, 0)",
    ),
    Metric(
        "relative_standard_deviation", "Relative standard deviation", r"\sigma_s / \sigma_o",
        _POSITIVE, 1.0, *_JACKSON, _ALPHA,
    ),
    Metric(
        "pearson_r", "Pearson correlation",
        r"r = \frac{\sum (s-\mu_s)(o-\mu_o)}{n \, \sigma_s \sigma_o}",
        _CORRELATION, 1.0, "Rodgers and Nicewander (1988), The American Statistician 42, 59-66",
        "10.1080/00031305.1988.10475524", _R,
    ),
    Metric(
        "spearman_r", "Spearman rank correlation",
        r"r_s: \text{Pearson's } r \text{ of the ranks, equal values having their mean rank}",
        _CORRELATION, 1.0, "Spearman (1904), The American Journal of Psychology 15, 72-101",
        "10.2307/1412159", _RANK_R,
    ),
    Metric(
        "r_squared", "Coefficient of determination", r"r^2",
        (0.0, 1.0), 1.0, "Krause et al. (2005), Advances in Geosciences 5, 89-97",
        "10.5194/adgeo-5-89-2005", f"{_R} ** 2",
    ),
    Metric(
        "max_value_delta", "Error of the greatest value", r"\max s - \max o",
        _ANY, 0.0, *_EHRET, "max_secondary - max_primary", "{unit}",
    ),
    Metric(
        "max_value_time_delta", "Delay of the greatest value",
        r"t_s - t_o, \quad t \text{ the first time of the greatest value}",
        _ANY, 0.0, *_EHRET, "(peak_time_secondary - peak_time_primary) / 3600", "h",
    ),
    Metric(
        "annual_peak_relative_bias", "Relative bias of annual peaks",
        r"\frac{\sum_y (\max_y s - \max_y o)}{\sum_y \max_y o},"
        r" \quad y \text{ calendar years, UTC}",
        _ANY, 0.0,
        "Mizukami et al. (2019), Hydrology and Earth System Sciences 23, 2601-2614",
        "10.5194/hess-23-2601-2019", "sum_of_peak_errors / nullif(sum_of_peaks, 0)",
    ),
)  # fmt: skip
