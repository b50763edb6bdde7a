"""Pair primary with secondary series and compute metrics by group, in DuckDB on Arrow."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from thalweg.errors import InvalidInput, NotFound, nearest
from thalweg.metrics.table import METRICS, STATISTICS

__all__ = ["evaluate", "joined", "to_long"]

PRIMARY = ("value_time", "value", "unit_name", "location_id", "variable_name")
SECONDARY = (*PRIMARY, "reference_time", "configuration_name")
CROSSWALK = ("primary_location_id", "secondary_location_id")
#: What a result can be grouped by, besides variable and unit, which always are.
GROUPS = (
    "primary_location_id",
    "secondary_location_id",
    "configuration_name",
    "member",
    "reference_time",
)

_JOINED = """
    SELECT s.reference_time, s.value_time, c.primary_location_id, c.secondary_location_id,
        p.value::DOUBLE AS primary_value, s.value::DOUBLE AS secondary_value,
        s.configuration_name, s.unit_name, s.variable_name, s.member,
        (epoch(s.value_time) - epoch(s.reference_time)) / 3600 AS lead_time
    FROM secondary s
    JOIN crosswalk c ON c.secondary_location_id = s.location_id
    JOIN "primary" p ON p.location_id = c.primary_location_id AND p.value_time = s.value_time
        AND p.variable_name = s.variable_name AND p.unit_name = s.unit_name
    WHERE isfinite(p.value) AND isfinite(s.value)
"""


def joined(primary: pa.Table, secondary: pa.Table, crosswalk: pa.Table) -> pa.Table:
    """Every secondary value beside the primary value of the same place and time.

    Parameters
    ----------
    primary
        value_time, value, unit_name, location_id, variable_name; one configuration.
    secondary
        The same, with reference_time, configuration_name and, for ensembles, member.
    crosswalk
        primary_location_id, secondary_location_id.

    Returns
    -------
    pyarrow.Table
        reference_time, value_time, primary_location_id, secondary_location_id, primary_value,
        secondary_value (float64), configuration_name, unit_name, variable_name, member, lead_time
        (hours, NULL without a reference time). Pairs of the same variable and unit only; a pair
        with a missing, NaN or infinite value is left out.

    Raises
    ------
    InvalidInput
        A column is missing, the primary series come from several configurations, or a variable
        has no unit in common on both sides.
    """
    connection = _connect(primary, secondary, crosswalk)
    return connection.sql(
        f"{_JOINED} ORDER BY primary_location_id, s.configuration_name, s.reference_time,"
        " s.value_time, s.member"
    ).to_arrow_table()


def evaluate(
    primary: pa.Table,
    secondary: pa.Table,
    crosswalk: pa.Table,
    metrics: Sequence[str] = tuple(METRICS),
    by: Sequence[str] = ("primary_location_id", "configuration_name"),
    lead_time_bin: int | None = None,
) -> pa.Table:
    """Metrics of the secondary against the primary series, a row a group.

    Parameters
    ----------
    primary, secondary, crosswalk
        As `joined` takes them.
    metrics
        Names of `METRICS`.
    by
        Columns to group by, out of primary_location_id, secondary_location_id,
        configuration_name, member, reference_time. Members that are not named are pooled.
    lead_time_bin
        Width in hours of lead-time bins; adds a row for each bin beside the row of all lead times.

    Returns
    -------
    pyarrow.Table
        The columns of `by`, lead_time_bin (int64, the bin's first hour: 24 holds the lead times
        24 ≤ t < 48; NULL: all lead times), variable_name, unit_name (of the variable), count
        (int64, number of pairs), then a float64 column a metric, NULL where it is undefined.

    Raises
    ------
    NotFound
        An unknown metric or column; the nearest known one is named.
    InvalidInput
        As `joined`, or a bin that is not at least an hour wide.

    Examples
    --------
    >>> import datetime as dt
    >>> import pyarrow as pa
    >>> times = [dt.datetime(2024, 9, 26, hour, tzinfo=dt.UTC) for hour in range(3)]
    >>> same = {"value_time": times, "unit_name": ["m^3/s"] * 3,
    ...         "variable_name": ["streamflow_hourly_inst"] * 3}
    >>> primary = pa.table(same | {"location_id": ["usgs-03171000"] * 3, "value": [1.0, 2.0, 3.0]})
    >>> secondary = pa.table(same | {"location_id": ["nwm30-6884666"] * 3,
    ...     "value": [2.0, 3.0, 4.0], "configuration_name": ["nwm30_analysis_assim"] * 3,
    ...     "reference_time": pa.nulls(3, pa.timestamp("us", "UTC"))})
    >>> crosswalk = pa.table({"primary_location_id": ["usgs-03171000"],
    ...                       "secondary_location_id": ["nwm30-6884666"]})
    >>> evaluate(primary, secondary, crosswalk, ["rmse", "kge"]).select(["rmse", "kge"]).to_pylist()
    [{'rmse': 1.0, 'kge': 0.5}]
    """
    _known(metrics, METRICS, "metric")
    _known(by, GROUPS, "column to group by")
    if lead_time_bin is not None and lead_time_bin < 1:
        raise InvalidInput(f"lead_time_bin is a width of at least 1 hour, got {lead_time_bin}")
    names = list(dict.fromkeys(metrics))
    keys = [*dict.fromkeys(by), "variable_name", "unit_name"]
    needs = dict.fromkeys(need for name in names for need in METRICS[name].needs)
    grouped, bin_column = ", ".join(keys), "NULL::BIGINT"
    if lead_time_bin is not None:
        grouped, bin_column = f"GROUPING SETS (({grouped}), ({grouped}, bin))", "bin"
    query = f"""
        WITH pairs AS (
            SELECT *, CAST(floor(lead_time / $width) * $width AS BIGINT) AS bin FROM ({_JOINED})
        ), groups AS (
            SELECT {_listed(keys)} {bin_column} AS lead_time_bin, count(*) AS count,
                {_listed(f"{STATISTICS[need]} AS {need}" for need in needs)}
            FROM pairs GROUP BY {grouped}
            {"HAVING grouping(bin) = 1 OR bin IS NOT NULL" if lead_time_bin else ""}
        )
        SELECT {_listed(keys[:-2])} lead_time_bin, variable_name, unit_name, count,
            {_listed(f"{_defined(METRICS[name].sql)} AS {name}" for name in names)}
        FROM groups ORDER BY ALL NULLS FIRST
    """  # noqa: S608 - names out of our own tables, checked above; values are bound
    connection = _connect(primary, secondary, crosswalk)
    return connection.sql(query, params={"width": lead_time_bin}).to_arrow_table()


def to_long(table: pa.Table) -> pa.Table:
    """What `evaluate` returned, as rows of the warehouse's `metrics`: a row a metric.

    Returns
    -------
    pyarrow.Table
        primary_location_id, configuration_name, variable_name, unit_name (of the variable; that
        of the value is `METRICS[metric_name].unit(unit_name)`), lead_time_bin, metric_name, value
        (float64, NULL where undefined), count (int64).

    Raises
    ------
    InvalidInput
        The table is not grouped by exactly primary_location_id and configuration_name.
    """
    keys = ["primary_location_id", "configuration_name", "variable_name", "unit_name"]
    keys.append("lead_time_bin")
    found = [name for name in table.column_names if name not in METRICS and name != "count"]
    if set(found) != set(keys):
        raise InvalidInput(f"expected the columns {', '.join(keys)}, got {', '.join(found)}")
    parts = [
        table.select(keys)
        .append_column("metric_name", pa.array([name] * len(table), pa.string()))
        .append_column("value", table[name].cast(pa.float64()))
        .append_column("count", table["count"])
        for name in table.column_names
        if name in METRICS
    ]
    return pa.concat_tables(parts)


def _connect(
    primary: pa.Table, secondary: pa.Table, crosswalk: pa.Table
) -> duckdb.DuckDBPyConnection:
    """DuckDB with the three tables, checked, cut to the columns that are used."""
    if "member" not in secondary.column_names:
        secondary = secondary.append_column("member", pa.nulls(len(secondary), pa.string()))
    tables = {
        "primary": _columns(primary, PRIMARY, "primary"),
        "secondary": _columns(secondary, (*SECONDARY, "member"), "secondary"),
        "crosswalk": _columns(crosswalk, CROSSWALK, "crosswalk"),
    }
    _check_configuration(primary)
    _check_units(primary, secondary)
    connection = duckdb.connect()
    # Two threads would add in an order of their own each time, and the last digit would change.
    connection.execute("SET TimeZone = 'UTC'; SET threads = 1")
    for name, table in tables.items():
        connection.register(name, table)
    return connection


def _columns(table: pa.Table, names: Iterable[str], what: str) -> pa.Table:
    missing = [name for name in names if name not in table.column_names]
    if missing:
        raise InvalidInput(
            f"{what} lacks {', '.join(missing)}; it has {', '.join(table.column_names)}"
        )
    return table.select(list(names))


def _check_configuration(primary: pa.Table) -> None:
    """Two configurations of observations would pair every forecast value twice."""
    if "configuration_name" not in primary.column_names:
        return
    found = sorted(str(name) for name in pc.unique(primary["configuration_name"]).to_pylist())
    if len(found) > 1:
        raise InvalidInput(
            f"primary holds {len(found)} configurations ({', '.join(found)}): filter it to one"
        )


def _check_units(primary: pa.Table, secondary: pa.Table) -> None:
    """A variable that has other units on either side would pair nothing, silently."""
    ours, theirs = _units(primary), _units(secondary)
    for variable in sorted(ours.keys() & theirs.keys()):
        if not ours[variable] & theirs[variable]:
            raise InvalidInput(
                f"{variable} is in {', '.join(ours[variable])} in primary but in "
                f"{', '.join(theirs[variable])} in secondary: convert one of them"
            )


def _units(table: pa.Table) -> dict[str, set[str]]:
    pairs = table.select(["variable_name", "unit_name"]).group_by(["variable_name", "unit_name"])
    units: dict[str, set[str]] = {}
    for row in pairs.aggregate([]).to_pylist():
        units.setdefault(row["variable_name"], set()).add(row["unit_name"])
    return units


def _known(names: Sequence[str], known: Iterable[str], what: str) -> None:
    known = list(known)
    for name in names:
        if name not in known:
            raise NotFound(f"unknown {what} {name!r}{nearest(name, known)}")


def _listed(items: Iterable[str]) -> str:
    """A list of SELECT; DuckDB takes a comma after the last one."""
    return "".join(f"{item}, " for item in items)


def _defined(expression: str) -> str:
    """NULL in place of NaN and infinity."""
    return f"CASE WHEN isfinite({expression}) THEN {expression} END"
