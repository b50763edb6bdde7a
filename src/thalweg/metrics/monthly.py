"""Metrics by the month: what adds up is kept of each month, and all months together follow from it.

Means, extremes and sums of squared deviations of any pieces give those of the whole (Chan et al.
1983, doi:10.1080/00031305.1983.10483115), and nothing larger than a piece is held in memory.
Medians, ranks, logarithms, events and ensembles do not add up so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from thalweg.metrics import inputs, pairs, scale
from thalweg.metrics.inputs import Part
from thalweg.metrics.question import Question, by_name, defined, needs
from thalweg.metrics.table import METRICS, STATISTICS

__all__ = ["KEPT", "add_up", "answer", "can_answer", "merged", "run", "statistics"]

SIDES = ("primary", "secondary")
#: The configuration of the observations that a piece was compared with.
OBSERVED = "primary_configuration_name"
MEAN = tuple(f"mean_{side}" for side in SIDES)
MEANS = ("mean_of_errors", "mean_of_absolutes", "mean_of_squares")
#: What is kept of a piece: SQL over its pairs.
KEPT = {
    **{
        f"{name}_{side}": sql.format(value=f"{side}_value")
        for side in SIDES
        for name, sql in {
            "mean": "avg({value})",
            "min": "min({value})",
            "max": "max({value})",
            "squares": "count(*) * var_pop({value})",
        }.items()
    },
    **{f"peak_time_{side}": STATISTICS[f"peak_time_{side}"].sql for side in SIDES},
    "products": "count(*) * covar_pop(secondary_value, primary_value)",
    **{name: STATISTICS[name].sql for name in MEANS},
}
# What left the float64 in one piece is not known of all.
_KNOWN = "CASE WHEN count({0}) = count(*) THEN {1} END"
#: The statistics of the whole: SQL over what is kept of each piece (n pairs) and the means of all.
_WHOLE = {
    **{
        name.format(side=side): sql.format(
            side=side,
            spread=f"sqrt(sum(squares_{side} + n * (mean_{side} - all_{side}) ** 2) / sum(n))",
        )
        for side in SIDES
        for name, sql in {
            "mean_{side}": "any_value(all_{side})",
            "min_{side}": "min(min_{side})",
            "max_{side}": "max(max_{side})",
            "sd_{side}": "CASE WHEN min(min_{side}) < max(max_{side})"
            " AND count(squares_{side}) = count(*) AND isfinite({spread})"
            " THEN nullif({spread}, 0) END",
            "peak_time_{side}": "arg_max(peak_time_{side}, row(max_{side}, -peak_time_{side}))",
        }.items()
    },
    "covariance": _KNOWN.format(
        "products",
        "sum(products + n * (mean_primary - all_primary) * (mean_secondary - all_secondary))"
        " / sum(n)",
    ),
    **{name: _KNOWN.format(name, f"sum(n * {name}) / sum(n)") for name in MEANS},
}


def add_up(names: Sequence[str]) -> bool:
    """Whether all these metrics follow from what is kept of pieces."""
    return all({*needs(name)} <= _WHOLE.keys() for name in names)


def statistics(keys: Sequence[str], of_pairs: str, names: Sequence[str] = ()) -> str:
    """The SELECT of what is kept of a piece: all, or what these metrics are made of."""
    spoken = " ".join(_WHOLE[statistic] for name in names for statistic in needs(name))
    made = [
        f"CASE WHEN isfinite({sql}) THEN {sql} END AS {name}"
        for name, sql in KEPT.items()
        if not names or name in MEAN or re.search(rf"\b{name}\b", spoken)
    ]
    observed = f"(SELECT configuration_name FROM observed) AS {OBSERVED}"  # noqa: S608
    shown = ", ".join([*keys, observed, "count(*) AS count", *made])
    return f"SELECT {shown} FROM ({of_pairs}) GROUP BY ALL"  # noqa: S608


def merged(kept: pa.Table, keys: Sequence[str], names: Sequence[str], minimum: int = 1) -> pa.Table:
    """The metrics of groups: of all lead times, and of each bin; keys are names in SQL.

    Raises `InvalidInput` where pieces were compared with other configurations of observations.
    """
    pairs.check_configuration(kept[OBSERVED])
    wanted = dict.fromkeys(statistic for name in names for statistic in needs(name))
    made = ", ".join(f"{_WHOLE[statistic]} AS {statistic}" for statistic in wanted)
    means = ", ".join(
        f"CASE WHEN count(mean_{side}) OVER w = count(*) OVER w"
        f" THEN sum(n * mean_{side}) OVER w / sum(n) OVER w END AS all_{side}"
        for side in SIDES
    )
    shown = ", ".join(["count", *(f"{defined(METRICS[n].sql, minimum)} AS {n}" for n in names)])
    parts = ["SELECT NULL::BIGINT AS lead_time_bin WHERE false"]
    bins = ([*keys, "lead_time_bin"], "lead_time_bin IS NOT NULL")
    has_bins = kept["lead_time_bin"].null_count < len(kept)
    for by, where in ((keys, "true"), *([bins] if has_bins else [])):
        each = ", ".join(by)
        rows = f"SELECT * RENAME (count AS n) FROM kept WHERE {where}"  # noqa: S608
        rows = f"SELECT *, {means} FROM ({rows}) WINDOW w AS (PARTITION BY {each})"  # noqa: S608
        of = ", ".join([each, "sum(n)::BIGINT AS count", *([made] if made else [])])
        parts.append(f"SELECT {each}, {shown} FROM (SELECT {of} FROM ({rows}) GROUP BY {each})")  # noqa: S608
    with pairs.database() as connection:
        connection.register("kept", kept)
        return connection.sql(" UNION ALL BY NAME ".join(parts)).to_arrow_table()


def can_answer(question: Question) -> bool:
    """Whether all that is asked for follows from what is kept of pieces."""
    plain = question.thresholds is None and question.transform is None
    return plain and add_up(question.names)


def answer(question: Question, series: Part, cluster: Any = None) -> pa.Table:
    """The answer, from large tables of the warehouse, of which a piece is read at a time."""
    work = inputs.by_month(series, inputs.sizes(series))
    kept = pa.concat_tables(run(partial(_kept, question), [*work], cluster))
    found = merged(kept, [by_name(key) for key in question.keys], question.names, question.minimum)
    found = found.rename_columns({f"by_{key}": key for key in question.keys})
    found = found.select([*question.order, *question.shown])
    return found.sort_by([(key, "ascending", "at_start") for key in question.order])


def run(
    work: Callable[[Part], pa.Table],
    parts: Sequence[Part],
    cluster: Any = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[pa.Table]:
    """What is kept of each piece.

    In some pieces a variable may have other units on either side, but not in all.
    """
    found = scale.run(work, parts, cluster, progress)
    if parts and not any(map(len, found)):
        for part in parts:
            pairs.check_units(*part.read()[:2])
    return found


def _kept(question: Question, part: Part) -> pa.Table:
    keys = [by_name(key) for key in (*question.keys, "lead_time_bin")]
    rows = question.chosen()
    if question.lead_time_bin is None:
        rows = f"SELECT *, NULL::BIGINT AS lead_time_bin FROM ({rows})"  # noqa: S608
    sql = statistics(keys, rows, question.names)
    with question.opened(part, is_piece=True) as connection:
        return connection.sql(sql, params=question.parameters or None).to_arrow_table()
