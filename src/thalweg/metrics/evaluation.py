"""Pair primary with secondary series and compute metrics by group, in DuckDB on Arrow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from thalweg.errors import InvalidInput
from thalweg.metrics import inputs, monthly, pairs
from thalweg.metrics.bootstrap import Bootstrap, Sampled
from thalweg.metrics.inputs import Frame
from thalweg.metrics.narrowed import narrowed
from thalweg.metrics.pairs import Thresholds, Transform
from thalweg.metrics.question import Question, ask, asked, named
from thalweg.metrics.table import DEFAULT, METRICS
from thalweg.settings import Settings

__all__ = ["evaluate", "joined", "to_long"]


def joined(
    primary: Frame = "primary_timeseries",
    secondary: Frame = "secondary_timeseries",
    crosswalk: Frame = "location_crosswalks",
    settings: Settings | None = None,
    primary_configuration: str | None = None,
) -> pa.Table:
    """Every secondary value beside the primary value of the same place and time.

    Parameters
    ----------
    primary
        value_time, value, unit_name, location_id, variable_name; of one configuration, or with
        configuration_name and several.
    secondary
        The same, with reference_time, configuration_name and, for ensembles, member.
    crosswalk
        primary_location_id, secondary_location_id. Each is a name of a table of the warehouse, an
        Arrow table, a pandas or Polars frame, or an xarray dataset.
    primary_configuration
        The observations to compare with, where primary holds several configurations.

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
        A column is missing, the primary series come from several configurations and none is
        chosen, or a variable has no unit in common on both sides.
    """
    series = inputs.sources(primary, secondary, crosswalk, primary_configuration, settings)
    (part,) = inputs.parts(*series, whole=True)
    with pairs.connect(*part.read()) as connection:
        return connection.sql(
            f"{pairs.PAIRED} ORDER BY primary_location_id, s.configuration_name,"
            " s.reference_time, s.value_time, s.member"
        ).to_arrow_table()


def evaluate(
    primary: Frame = "primary_timeseries",
    secondary: Frame = "secondary_timeseries",
    crosswalk: Frame = "location_crosswalks",
    metrics: Sequence[str] = DEFAULT,
    by: Sequence[str] = ("primary_location_id", "configuration_name"),
    lead_time_bin: int | None = None,
    *,
    where: str | None = None,
    parameters: Sequence[Any] | Mapping[str, Any] = (),
    thresholds: Thresholds | None = None,
    attributes: Frame | None = None,
    transform: Transform | str | None = None,
    minimum: int = 1,
    bootstrap: Bootstrap | None = None,
    primary_configuration: str | None = None,
    cluster: Any = None,
    settings: Settings | None = None,
) -> pa.Table:
    """Metrics of the secondary against the primary series, a row a group.

    Parameters
    ----------
    primary, secondary, crosswalk
        With the columns that `joined` takes: names of tables of the warehouse, Arrow tables, pandas
        or Polars frames, xarray datasets.
    metrics
        Names of `METRICS`; one by which TEEHR calls a metric stands for ours.
    by
        What to group by: columns of the pairs (primary_location_id, secondary_location_id,
        configuration_name, member, reference_time, value_time), calculated `FIELDS`, with
        thresholds also `exceeds` and `event`, or names of attributes. Members that are not named
        are pooled.
    lead_time_bin
        Width in hours of lead-time bins; adds a row for each bin beside the row of all lead times.
    where
        A condition in SQL on the columns and fields of the pairs: `"season = 'JJA' AND
        primary_value > ?"`. Values from outside belong in `parameters`. What it says of
        primary_location_id, configuration_name, value_time and reference_time, compared with
        values and joined by AND, keeps rows of tables from being read.
    parameters
        Values of the `?` or `$name` of the condition.
    thresholds
        By name a value in the unit of the variable, or a percentile of all observations of the
        location, as `{"flood": 1200, "high": "90%"}`; or a table with primary_location_id,
        threshold (its name) and value. There is a row for each, with its name in `threshold`, and
        none for a location that has none.
    attributes
        location_id, attribute_name, value (one value of each), as the table `location_attributes`
        has them: what `by` and `where` may name besides.
    transform
        `log`, `sqrt`, `inverse`, or a `Transform`: what is done to both values of each pair.
    minimum
        A group of fewer pairs has its count and no metric.
    bootstrap
        How the uncertainty of the metrics is estimated; adds `<metric>_p5`, `_p50` and `_p95`.
    primary_configuration
        The observations to compare with, where primary holds several configurations.
    cluster
        Where to compute: a Dask cluster or client, or `thalweg.compute.ray()`; by default here, on
        all cores. Large tables are cut by month where the metrics are made of sums, else by primary
        location where `by` has it. The result is the same everywhere, to the last digit.

    Returns
    -------
    pyarrow.Table
        The columns of `by`, threshold (where there are thresholds), lead_time_bin (int64, the bin's
        first hour: 24 holds the lead times 24 ≤ t < 48; NULL: all lead times), variable_name,
        unit_name (of the variable), count (int64, number of pairs), then a float64 column a metric,
        NULL where it is undefined, each with its quantiles where there is a bootstrap.

    Raises
    ------
    NotFound
        An unknown metric or column; the nearest known one is named.
    InvalidInput
        As `joined`; a bin that is not at least an hour wide; metrics of thresholds without
        thresholds, or of transformed values; a condition that DuckDB does not take.

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
    options = asked(
        by, lead_time_bin=lead_time_bin, where=where, parameters=parameters, thresholds=thresholds,
        attributes=attributes, transform=transform, minimum=minimum, settings=settings,
    )  # fmt: skip
    question = Question(names=named(metrics), **options)
    question.check()
    series = inputs.sources(primary, secondary, crosswalk, primary_configuration, settings)
    series = narrowed(question, *series)
    if bootstrap is not None:
        return ask(question, *series, answer=Sampled(question, bootstrap).answer, cluster=cluster)
    large = inputs.large(*series) if monthly.can_answer(question) else None
    if large is not None:
        return monthly.answer(question, large, cluster)
    return ask(question, *series, cluster=cluster)


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
