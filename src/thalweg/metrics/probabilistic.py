"""Metrics of ensembles: a forecast of several members beside the observed value.

A forecast is all members of one configuration and location with the same reference and value time.
Forecasts may differ in how many members they have. In the formulas x are the m members in ascending
order, y the observed value, n the number of forecasts; a bar is a mean over the forecasts.
"""

from __future__ import annotations

from thalweg.metrics.entry import INFINITY, Metric, Statistic

__all__ = ["METRICS", "QUANTILES", "RELATIONS", "STATISTICS"]

#: Levels of the pinball loss.
QUANTILES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)

_FORECAST = (
    "primary_location_id, secondary_location_id, configuration_name, reference_time, value_time"
)
RELATIONS = {
    "ensembles": f"""
        SELECT {{keys}}, first(primary_value) AS observed, count(*) AS members,
            list(secondary_value ORDER BY secondary_value) AS sorted
        FROM pairs GROUP BY {{keys}}, {_FORECAST}
    """,  # noqa: S608
    # How far the distribution stands at the probability `bin / members` below (alpha) and above
    # (beta) the observed value; first and last outside of all members. NULL counts for nothing.
    "crps_parts": """
        SELECT {keys}, members, bin,
            greatest(least(observed, upper) - lower, 0) AS alpha,
            greatest(upper - greatest(observed, lower), 0) AS beta
        FROM (
            SELECT {keys}, members, observed, unnest(generate_series(0, members)) AS bin,
                unnest(list_prepend(NULL, sorted)) AS lower,
                unnest(list_append(sorted, NULL)) AS upper
            FROM ensembles
        )
    """,
    "crps_bins": """
        SELECT {keys}, members, bin, avg(alpha) AS alpha, avg(beta) AS beta,
            avg((alpha + beta > 0)::INT) AS outside
        FROM crps_parts GROUP BY {keys}, members, bin
    """,
    "observations": """
        SELECT {keys}, count(*) OVER (PARTITION BY {keys}) AS size,
            row_number() OVER series AS place, lead(observed) OVER series - observed AS gap
        FROM ensembles WINDOW series AS (PARTITION BY {keys} ORDER BY observed)
    """,
    "exceedances": f"""
        SELECT {{keys}}, count(*) AS members,
            (first(primary_value) >= first(threshold_value))::INT AS occurred,
            count(*) FILTER (secondary_value >= threshold_value) / count(*) AS probability
        FROM pairs GROUP BY {{keys}}, {_FORECAST}
    """,  # noqa: S608
    "probabilities": """
        SELECT {keys}, probability, forecasts, events,
            sum(events) OVER (PARTITION BY {keys}) / sum(forecasts) OVER (PARTITION BY {keys})
                AS base_rate,
            coalesce(sum(forecasts - events) OVER (
                PARTITION BY {keys} ORDER BY probability
                ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            ), 0) AS quiet_below
        FROM (
            SELECT {keys}, probability, count(*)::DOUBLE AS forecasts,
                sum(occurred)::DOUBLE AS events
            FROM exceedances GROUP BY {keys}, probability
        )
    """,
}


def _crps(weight: float, divisor: str) -> str:
    """The score of a forecast as a sum of terms that are all positive: nothing cancels out."""
    return f"""2 * list_sum(list_transform(sorted, lambda x, i: abs(x - observed)
        * (CASE WHEN x > observed THEN members - i ELSE i - 1 END + {weight}))) / {divisor}"""


def _each_has_two(sql: str) -> str:
    """Undefined if any forecast has one member only, and no score of the rest of them."""
    return f"CASE WHEN min(members) > 1 THEN {sql} END"


def _pinball(level: float) -> str:
    # of the errors, so that equal members are between two of them exactly what they are
    error = f"list_aggregate({_ERRORS}, 'quantile_cont', {level})"
    return f"avg(greatest(-{level} * {error}, (1 - {level}) * {error}))"


_ERRORS = "list_transform(sorted, lambda x: x - observed)"
_WRONG = "round(abs(probability - occurred) * members)"
_MEMBERS_ALIKE = "CASE WHEN min(members) = max(members) THEN sum({}) END"
_OUTER = "CASE WHEN bin IN (0, members) THEN (alpha + beta) * "
STATISTICS = {
    "crps_of_all": Statistic(f"avg({_crps(0.5, 'members ** 2')})", "ensembles"),
    "crps_of_fair": Statistic(
        _each_has_two(f"avg({_crps(0, 'nullif(members * (members - 1), 0)')})"), "ensembles"
    ),
    "crps_unreliable": Statistic(
        _MEMBERS_ALIKE.format(
            f"{_OUTER} outside ELSE coalesce((beta - (alpha + beta) * bin / members) ** 2"
            " / nullif(alpha + beta, 0), 0) END"
        ),
        "crps_bins",
    ),
    "crps_potential": Statistic(
        _MEMBERS_ALIKE.format(
            f"{_OUTER} (1 - outside) ELSE coalesce(alpha * beta / nullif(alpha + beta, 0), 0) END"
        ),
        "crps_bins",
    ),
    "crps_climate": Statistic(
        "coalesce(sum(place * (size - place) * gap), 0) / max(size) ** 2", "observations"
    ),
    "variance_of_members": Statistic(_each_has_two("avg(list_var_samp(sorted))"), "ensembles"),
    "variance_expected": Statistic(
        _each_has_two("avg(list_var_samp(sorted) * (members + 1) / members)"), "ensembles"
    ),
    "square_of_mean": Statistic(f"avg(list_avg({_ERRORS}) ** 2)", "ensembles"),
    "brier": Statistic("avg((probability - occurred) ** 2)", "exceedances"),
    "brier_of_fair": Statistic(
        _each_has_two(
            # Of w members that were wrong: nothing cancels out.
            f"avg({_WRONG} * ({_WRONG} - 1) / nullif(members * (members - 1), 0))"
        ),
        "exceedances",
    ),
    "brier_unreliable": Statistic(
        "sum(forecasts * (probability - events / forecasts) ** 2) / sum(forecasts)",
        "probabilities",
    ),
    "brier_resolved": Statistic(
        "sum(forecasts * (events / forecasts - base_rate) ** 2) / sum(forecasts)",
        "probabilities",
    ),
    "brier_climate": Statistic("first(base_rate * (1 - base_rate))", "probabilities"),
    "area": Statistic(
        "sum(events * (quiet_below + (forecasts - events) / 2))"
        " / nullif(sum(events) * sum(forecasts - events), 0)",
        "probabilities",
    ),
    **{f"pinball_{i}": Statistic(_pinball(q), "ensembles") for i, q in enumerate(QUANTILES)},
}

_HERSBACH = ("Hersbach (2000), Weather and Forecasting 15, 559-570",
             "10.1175/1520-0434(2000)015<0559:DOTCRP>2.0.CO;2")  # fmt: skip
_FERRO = (
    "Ferro (2014), Quarterly Journal of the Royal Meteorological Society 140, 1917-1923",
    "10.1002/qj.2270",
)
_MURPHY = ("Murphy (1973), Journal of Applied Meteorology 12, 595-600",
           "10.1175/1520-0450(1973)012<0595:ANVPOT>2.0.CO;2")  # fmt: skip
_FORTIN = ("Fortin et al. (2014), Journal of Hydrometeorology 15, 1708-1713",
           "10.1175/JHM-D-14-0008.1")  # fmt: skip
_SCORE, _RATE, _UNIT = (0.0, INFINITY), (0.0, 1.0), "{unit}"


def _metric(
    name: str,
    title: str,
    formula: str,
    bounds: tuple[float, float],
    perfect: float | None,
    source: tuple[str, str],
    sql: str,
    in_unit: str = "1",
) -> Metric:
    return Metric(name, title, formula, bounds, perfect, *source, sql, in_unit, "probabilistic")


METRICS = (
    _metric(
        "crps_ensemble", "Continuous ranked probability score of the ensemble",
        r"\overline{\frac{1}{m} \sum_i |x_i - y| - \frac{1}{2 m^2} \sum_{i,j} |x_i - x_j|}",
        _SCORE, 0.0,
        ("Gneiting and Raftery (2007), Journal of the American Statistical Association 102, 359-378"
         , "10.1198/016214506000001437"),
        "crps_of_all", _UNIT,
    ),
    _metric(
        "crps_fair", "Fair continuous ranked probability score",
        r"\overline{\frac{1}{m} \sum_i |x_i - y| - \frac{1}{2 m (m-1)} \sum_{i,j} |x_i - x_j|}",
        _SCORE, 0.0, _FERRO, "crps_of_fair", _UNIT,
    ),
    _metric(
        "crps_reliability", "Reliability part of the CRPS",
        r"\sum_{i=0}^m \overline{g}_i (\overline{o}_i - i/m)^2",
        _SCORE, 0.0, _HERSBACH, "crps_unreliable", _UNIT,
    ),
    _metric(
        "crps_resolution", "Resolution part of the CRPS",
        r"U - \sum_{i=0}^m \overline{g}_i \overline{o}_i (1 - \overline{o}_i)",
        (-INFINITY, INFINITY), None, _HERSBACH, "crps_climate - crps_potential", _UNIT,
    ),
    _metric(
        "crps_uncertainty", "Uncertainty part of the CRPS",
        r"U = \frac{1}{2 n^2} \sum_{k,l} |y_k - y_l|",
        _SCORE, None, _HERSBACH, "crps_climate", _UNIT,
    ),
    _metric(
        "ensemble_spread", "Spread of the ensemble",
        r"\sqrt{\overline{\frac{1}{m-1} \sum_i (x_i - \mu_x)^2}}",
        _SCORE, None, _FORTIN, "sqrt(variance_of_members)", _UNIT,
    ),
    _metric(
        "ensemble_mean_rmse", "Root mean square error of the ensemble mean",
        r"\sqrt{\overline{(\mu_x - y)^2}}", _SCORE, 0.0, _FORTIN, "sqrt(square_of_mean)", _UNIT,
    ),
    _metric(
        "spread_skill_ratio", "Spread-skill ratio, for a finite ensemble",
        r"\sqrt{\overline{\frac{m+1}{m} \frac{1}{m-1} \sum_i (x_i - \mu_x)^2}}"
        r" \bigg/ \sqrt{\overline{(\mu_x - y)^2}}",
        _SCORE, 1.0, _FORTIN, "sqrt(variance_expected) / nullif(sqrt(square_of_mean), 0)",
    ),
    *(
        _metric(
            f"pinball_loss_{100 * q:g}", f"Pinball loss of the {100 * q:g} % quantile",
            rf"\overline{{\max({q:g} (y - x_q), ({q:g} - 1)(y - x_q))}}", _SCORE, 0.0,
            ("Koenker and Bassett (1978), Econometrica 46, 33-50", "10.2307/1913643"),
            f"pinball_{i}", _UNIT,
        )
        for i, q in enumerate(QUANTILES)
    ),
    _metric(
        "brier_score", "Brier score", r"\overline{(p - e)^2}", _RATE, 0.0,
        ("Brier (1950), Monthly Weather Review 78, 1-3",
         "10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2"),
        "brier",
    ),
    _metric(
        "brier_score_fair", "Fair Brier score",
        r"\overline{(p - e)^2 - \frac{p (1 - p)}{m - 1}}", _RATE, 0.0, _FERRO, "brier_of_fair",
    ),
    _metric(
        "brier_reliability", "Reliability part of the Brier score",
        r"\frac{1}{n} \sum_k n_k (p_k - \overline{e}_k)^2", _RATE, 0.0, _MURPHY,
        "brier_unreliable",
    ),
    _metric(
        "brier_resolution", "Resolution part of the Brier score",
        r"\frac{1}{n} \sum_k n_k (\overline{e}_k - \overline{e})^2", (0.0, 0.25), None, _MURPHY,
        "brier_resolved",
    ),
    _metric(
        "brier_uncertainty", "Uncertainty part of the Brier score",
        r"\overline{e} (1 - \overline{e})", (0.0, 0.25), None, _MURPHY, "brier_climate",
    ),
    _metric(
        "roc_area", "Area under the ROC curve",
        r"\frac{\#\{p_k > p_l\} + \frac{1}{2} \#\{p_k = p_l\}}{n_1 n_0}, \quad e_k = 1, e_l = 0",
        _RATE, 1.0,
        ("Mason and Graham (2002), Quarterly Journal of the Royal Meteorological Society 128, "
         "2145-2166", "10.1256/003590002320603584"),
        "area",
    ),
)  # fmt: skip
