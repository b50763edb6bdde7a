"""Metrics of events: whether a threshold was reached, observed and forecast.

An event is a value that is greater than or equal to the threshold, on both sides. Every pair is one
chance; so are the members of an ensemble that are pooled.
"""

from __future__ import annotations

from thalweg.metrics.entry import INFINITY, Metric, Statistic

__all__ = ["METRICS", "RELATIONS", "STATISTICS"]

RELATIONS: dict[str, str] = {}


def _counted(observed: str, forecast: str) -> Statistic:
    both = f"primary_value {observed} threshold_value AND secondary_value {forecast}"
    # DOUBLE: products of counts outgrow an integer
    return Statistic(f"count(*) FILTER ({both} threshold_value)::DOUBLE")


STATISTICS = {
    "hits": _counted(">=", ">="),
    "misses": _counted(">=", "<"),
    "false_alarms": _counted("<", ">="),
    "correct_negatives": _counted("<", "<"),
}

_ALL = "(hits + misses + false_alarms + correct_negatives)"
#: By how much the products of right and wrong answers differ: 0 by chance.
_CROSS = "(hits * correct_negatives - misses * false_alarms)"
_TEXTBOOK = ("Wilks (2019), Statistical Methods in the Atmospheric Sciences, 4th edition, chapter 9"
             , "10.1016/C2017-0-03921-6")  # fmt: skip
_MEANING = (
    "Jolliffe and Stephenson (2011), Forecast Verification, 2nd edition, chapter 3",
    "10.1002/9781119960003",
)
_RATE = (0.0, 1.0)


def _metric(
    name: str,
    title: str,
    formula: str,
    bounds: tuple[float, float],
    perfect: float | None,
    source: tuple[str, str],
    sql: str,
) -> Metric:
    return Metric(name, title, formula, bounds, perfect, *source, sql, kind="categorical")


# In the formulas a are the hits, b the false alarms, c the misses, d the correct negatives, and n
# is their sum.
METRICS = (
    _metric(
        "true_positives", "Hits (true positives)", r"a = \#\{o \ge t, s \ge t\}",
        (0.0, INFINITY), None, _TEXTBOOK, "hits",
    ),
    _metric(
        "false_positives", "False alarms (false positives)", r"b = \#\{o < t, s \ge t\}",
        (0.0, INFINITY), 0.0, _TEXTBOOK, "false_alarms",
    ),
    _metric(
        "false_negatives", "Misses (false negatives)", r"c = \#\{o \ge t, s < t\}",
        (0.0, INFINITY), 0.0, _TEXTBOOK, "misses",
    ),
    _metric(
        "true_negatives", "Correct negatives (true negatives)", r"d = \#\{o < t, s < t\}",
        (0.0, INFINITY), None, _TEXTBOOK, "correct_negatives",
    ),
    _metric(
        "accuracy", "Accuracy (proportion correct)", r"\frac{a + d}{n}",
        _RATE, 1.0, _TEXTBOOK, f"(hits + correct_negatives) / nullif({_ALL}, 0)",
    ),
    _metric(
        "probability_of_detection", "Probability of detection (hit rate)", r"\frac{a}{a + c}",
        _RATE, 1.0, _TEXTBOOK, "hits / nullif(hits + misses, 0)",
    ),
    _metric(
        "probability_of_false_detection", "Probability of false detection (false alarm rate)",
        r"\frac{b}{b + d}", _RATE, 0.0,
        ("Barnes et al. (2009), Weather and Forecasting 24, 1452-1454", "10.1175/2009WAF2222300.1"),
        "false_alarms / nullif(false_alarms + correct_negatives, 0)",
    ),
    _metric(
        "false_alarm_ratio", "False alarm ratio", r"\frac{b}{a + b}", _RATE, 0.0,
        ("Barnes et al. (2009), Weather and Forecasting 24, 1452-1454", "10.1175/2009WAF2222300.1"),
        "false_alarms / nullif(hits + false_alarms, 0)",
    ),
    _metric(
        "success_ratio", "Success ratio", r"\frac{a}{a + b}", _RATE, 1.0,
        ("Roebber (2009), Weather and Forecasting 24, 601-608", "10.1175/2008WAF2222159.1"),
        "hits / nullif(hits + false_alarms, 0)",
    ),
    _metric(
        "critical_success_index", "Critical success index (threat score)",
        r"\frac{a}{a + b + c}", _RATE, 1.0,
        ("Schaefer (1990), Weather and Forecasting 5, 570-575",
         "10.1175/1520-0434(1990)005<0570:TCSIAA>2.0.CO;2"),
        "hits / nullif(hits + false_alarms + misses, 0)",
    ),
    _metric(
        "frequency_bias_index", "Frequency bias index", r"\frac{a + b}{a + c}",
        (0.0, INFINITY), 1.0, _TEXTBOOK, "(hits + false_alarms) / nullif(hits + misses, 0)",
    ),
    _metric(
        "heidke_skill_score", "Heidke skill score",
        r"\frac{2 (a d - b c)}{(a + c)(c + d) + (a + b)(b + d)}", (-1.0, 1.0), 1.0, _MEANING,
        f"2 * {_CROSS} / nullif((hits + misses) * (misses + correct_negatives)"
        " + (hits + false_alarms) * (false_alarms + correct_negatives), 0)",
    ),
    _metric(
        "peirce_skill_score", "Peirce skill score (true skill statistic)",
        r"\frac{a}{a + c} - \frac{b}{b + d}", (-1.0, 1.0), 1.0, _MEANING,
        f"{_CROSS} / nullif((hits + misses) * (false_alarms + correct_negatives), 0)",
    ),
    _metric(
        "equitable_threat_score", "Equitable threat score (Gilbert skill score)",
        r"\frac{a - a_r}{a + b + c - a_r}, \quad a_r = \frac{(a + b)(a + c)}{n}",
        (-1 / 3, 1.0), 1.0,
        ("Hogan et al. (2010), Weather and Forecasting 25, 710-726", "10.1175/2009WAF2222350.1"),
        # both sides times n: no difference of rounded numbers
        f"{_CROSS} / nullif({_CROSS} + {_ALL} * (false_alarms + misses), 0)",
    ),
)  # fmt: skip
