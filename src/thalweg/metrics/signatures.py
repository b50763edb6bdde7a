"""Metrics of the shape of a hydrograph, of the observed and of the forecast one."""

from __future__ import annotations

from collections.abc import Iterator

from thalweg.metrics.entry import INFINITY, Metric, Statistic

__all__ = ["METRICS", "RELATIONS", "STATISTICS"]

_SIDES = {"primary": "o", "secondary": "s"}
#: A water year without a pair in one of its months has no centre of timing.
_WATER_YEARS = """
    SELECT {keys}, any_value(primary_centre) AS primary_centre,
        any_value(secondary_centre) AS secondary_centre,
        sum(primary_value * (days - primary_centre) ** 2) / sum(primary_value) AS primary_spread,
        sum(secondary_value * (days - secondary_centre) ** 2) / sum(secondary_value)
            AS secondary_spread
    FROM (
        SELECT *, sum(primary_value * days) OVER year / nullif(sum(primary_value) OVER year, 0)
                AS primary_centre,
            sum(secondary_value * days) OVER year / nullif(sum(secondary_value) OVER year, 0)
                AS secondary_centre
        FROM (
            SELECT *, (epoch(utc) - epoch(october)) / 86400 AS days FROM (
                SELECT *, date_trunc('year', utc + INTERVAL 3 MONTH) - INTERVAL 3 MONTH AS october
                FROM (SELECT *, value_time AT TIME ZONE 'UTC' AS utc FROM pairs)
            )
        ) WINDOW year AS (PARTITION BY {keys}, october)
    ) GROUP BY {keys}, october HAVING count(DISTINCT month(utc)) = 12
"""
# Smoothed minima (Gustard et al. 1992): daily means, in blocks of 5 days from the first day on; the
# lowest day of a block is a turning point if 0.9 times it is not above the lowest day of either
# neighbour, where all three blocks are whole; baseflow is the line through the turning points, and
# nowhere above the flow (Piggott et al. 2005).
_BASEFLOW = """
    SELECT *, CASE WHEN since = till THEN flow
        WHEN since < till THEN least(flow, low + (high - low) * (day - since) / (till - since))
        END AS baseflow
    FROM (
        SELECT *, max(turn) OVER past AS since, min(turn) OVER coming AS till,
            last_value(CASE WHEN turn IS NOT NULL THEN flow END IGNORE NULLS) OVER past AS low,
            first_value(CASE WHEN turn IS NOT NULL THEN flow END IGNORE NULLS) OVER coming AS high
        FROM (
            SELECT *, CASE WHEN days = 15 AND lowest = row(flow, day)
                AND 0.9 * flow <= least(before, after) THEN day END AS turn
            FROM (
                SELECT *, min(row(flow, day)) OVER here AS lowest, count(*) OVER around AS days,
                    min(flow) OVER before AS before, min(flow) OVER after AS after
                FROM (
                    SELECT *, (day - min(day) OVER (PARTITION BY {{keys}})) // 5 AS block FROM (
                        SELECT {{keys}}, (value_time AT TIME ZONE 'UTC')::DATE AS day,
                            avg({side}_value) AS flow
                        FROM pairs GROUP BY {{keys}}, day
                    )
                ) WINDOW here AS (PARTITION BY {{keys}}, block),
                    around AS (PARTITION BY {{keys}} ORDER BY block
                        RANGE BETWEEN 1 PRECEDING AND 1 FOLLOWING),
                    before AS (PARTITION BY {{keys}} ORDER BY block
                        RANGE BETWEEN 1 PRECEDING AND 1 PRECEDING),
                    after AS (PARTITION BY {{keys}} ORDER BY block
                        RANGE BETWEEN 1 FOLLOWING AND 1 FOLLOWING)
            )
        ) WINDOW past AS (PARTITION BY {{keys}} ORDER BY day ROWS UNBOUNDED PRECEDING),
            coming AS (PARTITION BY {{keys}} ORDER BY day
                ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING)
    )
"""
RELATIONS = {
    "water_years": _WATER_YEARS,
    **{f"{side}_baseflow": _BASEFLOW.format(side=side) for side in _SIDES},
}
# Means, extremes, deviations and times of the peaks are statistics of `deterministic`.
STATISTICS = {
    name.format(side=side): Statistic(sql.format(side=side), over.format(side=side))
    for side in _SIDES
    for name, sql, over in (
        ("sum_{side}", "sum({side}_value)", "pairs"),
        ("quantiles_{side}", "quantile_cont({side}_value, [0.34, 0.67])", "pairs"),
        ("centre_{side}", "avg({side}_centre)", "water_years"),
        # Where flow is negative, as that of a tide, it may have no square root.
        (
            "spread_{side}",
            "avg(CASE WHEN {side}_spread >= 0 THEN sqrt({side}_spread) END)",
            "water_years",
        ),
        # One turning point is no line.
        (
            "baseflow_{side}",
            "CASE WHEN min(since) < max(since) THEN sum(baseflow) END",
            "{side}_baseflow",
        ),
        ("flow_{side}", "sum(CASE WHEN baseflow IS NOT NULL THEN flow END)", "{side}_baseflow"),
    )
}

_ANY, _POSITIVE = (-INFINITY, INFINITY), (0.0, INFINITY)
_WILKS = (
    "Wilks (2019), Statistical Methods in the Atmospheric Sciences, 4th edition",
    "10.1016/C2017-0-03921-6",
)


def _of(side: str, x: str) -> Iterator[Metric]:
    """The signatures of one side, `x` in the formulas."""

    # name, title, formula, range, reference, doi, sql, in_unit
    for name, title, formula, limits, reference, doi, sql, unit in (
        ("count", "Number of values", "n", _POSITIVE, *_WILKS, "count::DOUBLE", "1"),
        ("minimum", "Minimum", rf"\min {x}", _ANY, *_WILKS, f"min_{side}", "{unit}"),
        ("maximum", "Maximum", rf"\max {x}", _ANY, *_WILKS, f"max_{side}", "{unit}"),
        ("average", "Mean", rf"\mu_{x} = \frac{{1}}{{n}} \sum {x}",
         _ANY, *_WILKS, f"mean_{side}", "{unit}"),
        ("sum", "Sum", rf"\sum {x}", _ANY, *_WILKS, f"sum_{side}", "{unit}"),
        ("variance", "Variance", rf"\sigma_{x}^2 = \frac{{1}}{{n}} \sum ({x} - \mu_{x})^2",
         _POSITIVE, *_WILKS, f"CASE WHEN min_{side} < max_{side} THEN sd_{side} ** 2 ELSE 0 END",
         "({unit})^2"),
        ("max_value_time", "Time of the greatest value",
         rf"\min \{{t : {x}(t) = \max {x}\}}", _ANY,
         "Ehret and Zehe (2011), Hydrology and Earth System Sciences 15, 877-896",
         "10.5194/hess-15-877-2011", f"peak_time_{side}", "seconds since 1970-01-01"),
        ("flow_duration_curve_slope", "Slope of the flow duration curve",
         rf"\frac{{\ln {x}_{{33\%}} - \ln {x}_{{66\%}}}}{{0.66 - 0.33}},"
         rf" \quad {x}_{{p}} \text{{ exceeded in }} p \text{{ of the time}}", _POSITIVE,
         "Sawicz et al. (2011), Hydrology and Earth System Sciences 15, 2895-2911",
         "10.5194/hess-15-2895-2011",
         f"CASE WHEN quantiles_{side}[1] > 0"
         f" THEN (ln(quantiles_{side}[2]) - ln(quantiles_{side}[1])) / 0.33 END", "1"),
        ("centre_of_timing", "Centre of timing (after 1 October)",
         rf"\text{{mean of water years of }} \frac{{\sum t \, {x}(t)}}{{\sum {x}(t)}},"
         r" \quad t \text{ days after 1 October, 00:00 UTC}", (0.0, 366.0),
         "Stewart et al. (2005), Journal of Climate 18, 1136-1155", "10.1175/JCLI3321.1",
         f"centre_{side}", "d"),
        ("standard_deviation_of_timing", "Standard deviation of timing",
         rf"\text{{mean of water years of }} \sqrt{{\frac{{\sum {x}(t) (t-c)^2}}{{\sum {x}(t)}}}},"
         r" \quad c \text{ the centre of timing}", (0.0, 183.0),
         "as the centre of timing, Stewart et al. (2005), Journal of Climate 18, 1136-1155",
         "10.1175/JCLI3321.1", f"spread_{side}", "d"),
        ("baseflow_index", "Baseflow index (smoothed minima of 5 days)",
         rf"\frac{{\sum \text{{baseflow of }} {x}}}{{\sum {x}}}", (0.0, 1.0),
         "Piggott et al. (2005), Hydrological Sciences Journal 50, 911-920,"
         " on Gustard et al. (1992), Institute of Hydrology Report 108",
         "10.1623/hysj.2005.50.5.911", f"baseflow_{side} / nullif(flow_{side}, 0)", "1"),
    ):  # fmt: skip
        what = {"primary": "observed", "secondary": "forecast"}[side]
        yield Metric(
            f"{side}_{name}", f"{title}, {what}", formula, limits, None, reference, doi, sql, unit,
            "signature",
        )  # fmt: skip


METRICS = tuple(metric for side, x in _SIDES.items() for metric in _of(side, x))
