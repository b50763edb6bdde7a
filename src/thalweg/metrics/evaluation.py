"""Pair primary with secondary series and compute metrics by group, in DuckDB on Arrow."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from thalweg.errors import InvalidInput, NotFound, nearest
from thalweg.metrics import inputs, pairs, scale
from thalweg.metrics.entry import Statistic
from thalweg.metrics.fields import COLUMNS, FIELDS, OF_THRESHOLDS
from thalweg.metrics.inputs import Frame, Part, tabled
from thalweg.metrics.pairs import Thresholds, Transform
from thalweg.metrics.table import DEFAULT, METRICS, RELATIONS, STATISTICS
from thalweg.settings import Settings

__all__ = ["evaluate", "joined", "to_long"]

ALWAYS = ("variable_name", "unit_name")
#: Columns of the pairs of which a statistic or a relation may speak.
SPOKEN = (
    *COLUMNS, *ALWAYS, "primary_value", "secondary_value", "lead_time", "threshold_value",
)  # fmt: skip


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
    with pairs.connect(primary, secondary, crosswalk) as connection:
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
        Names of `METRICS`.
    by
        What to group by: columns of the pairs (primary_location_id, secondary_location_id,
        configuration_name, member, reference_time, value_time), calculated `FIELDS`, with
        thresholds also `exceeds` and `event`, or names of attributes. Members that are not named
        are pooled.
    lead_time_bin
        Width in hours of lead-time bins; adds a row for each bin beside the row of all lead times.
    where
        A condition in SQL on the columns and fields of the pairs: `"season = 'JJA' AND
        primary_value > ?"`. Values from outside belong in `parameters`.
    parameters
        Values of the `?` or `$name` of the condition.
    thresholds
        By name a value in the unit of the variable, or a percentile of all observations of the
        location, as `{"flood": 1200, "high": "90%"}`; or a table with primary_location_id,
        threshold (its name) and value. There is a row for each, with its name in `threshold`.
    attributes
        location_id, attribute_name, value: what `by` may name besides.
    transform
        `log`, `sqrt`, `inverse`, or a `Transform`: what is done to both values of each pair.
    minimum
        A group of fewer pairs has its count and no metric.
    cluster
        Where to compute: a Dask cluster or client, or `thalweg.compute.ray()`; by default here, on
        all cores. The work is cut by primary location where `by` has it, so the result is the same
        everywhere, to the last digit.

    Returns
    -------
    pyarrow.Table
        The columns of `by`, threshold (where there are thresholds), lead_time_bin (int64, the bin's
        first hour: 24 holds the lead times 24 ≤ t < 48; NULL: all lead times), variable_name,
        unit_name (of the variable), count (int64, number of pairs), then a float64 column a metric,
        NULL where it is undefined.

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
    attributes = None if attributes is None else tabled(attributes)
    question = Question(
        names=tuple(dict.fromkeys(metrics)), by=tuple(dict.fromkeys(by)),
        lead_time_bin=lead_time_bin, where=where, parameters=parameters, thresholds=thresholds,
        attributes=attributes, minimum=minimum,
        transform=Transform(transform) if isinstance(transform, str) else transform,
    )  # fmt: skip
    return ask(question, primary, secondary, crosswalk, cluster=cluster, settings=settings)


def ask(
    question: Question,
    primary: Frame,
    secondary: Frame,
    crosswalk: Frame,
    *,
    cluster: Any = None,
    settings: Settings | None = None,
) -> pa.Table:
    """The answer to a question, from all parts of the series, in order of its keys."""
    question.check()
    whole = "primary_location_id" not in question.by
    work = inputs.parts(primary, secondary, crosswalk, whole=whole, settings=settings)
    found = pa.concat_tables(scale.run(question.answer, work, cluster))
    return found.sort_by([(key, "ascending", "at_start") for key in question.order])


@dataclass(frozen=True)
class Question:
    """What `evaluate` was asked, to be answered from any part of the series.

    A curve is asked for in the same way: it has other columns and another SELECT of a group.
    """

    names: tuple[str, ...]
    by: tuple[str, ...]
    lead_time_bin: int | None
    where: str | None
    parameters: Sequence[Any] | Mapping[str, Any]
    thresholds: Thresholds | None
    attributes: pa.Table | None
    minimum: int
    transform: Transform | None

    def check(self) -> None:
        """Raise what is wrong with the question itself."""
        fields = FIELDS | (OF_THRESHOLDS if self.thresholds is not None else {})
        _known(self.names, METRICS, "metric")
        _known(self.by, [*COLUMNS, *fields, *self.attribute_names], "column to group by")
        if self.lead_time_bin is not None and self.lead_time_bin < 1:
            raise InvalidInput(
                f"lead_time_bin is a width of at least 1 hour, got {self.lead_time_bin}"
            )
        if _says("threshold_value", self.spoken) and (self.thresholds is None or self.transform):
            missing = "no transform" if self.transform else "thresholds={'high': '90%'}"
            raise InvalidInput(f"{', '.join(self.shown)}: metrics of events need {missing}")
        if "member" in self.by and relations(self.spoken).keys() & {"ensembles", "exceedances"}:
            raise InvalidInput(
                f"{', '.join(self.shown)}: metrics of ensembles need all members of a forecast "
                f"together, but by has member"
            )

    @property
    def attribute_names(self) -> list[str]:
        return sorted(set(self.attributes["attribute_name"].to_pylist())) if self.attributes else []

    @property
    def keys(self) -> list[str]:
        return [*self.by, *(["threshold"] if self.thresholds is not None else []), *ALWAYS]

    @property
    def order(self) -> list[str]:
        """The keys, as the result has them."""
        return [*self.keys[: -len(ALWAYS)], "lead_time_bin", *ALWAYS]

    @property
    def spoken(self) -> str:
        """All SQL of the statistics that the metrics need, and of the relations of these."""
        needed = " ".join(_made_of(STATISTICS[s]) for name in self.names for s in needs(name))
        return " ".join([needed, *relations(needed).values()])

    @property
    def shown(self) -> list[str]:
        """What the result has beside its keys."""
        return ["count", *self.names]

    def group(self, keys: Sequence[str], where: Sequence[str]) -> str:
        """The SELECT of groups: their keys and what is shown of each."""
        return _groups(keys, where, self.names, self.minimum)

    def answer(self, part: Part) -> pa.Table:
        """The metrics of the groups in a part of the series."""
        with pairs.connect(*part.read()) as connection:
            try:
                if self.attributes:
                    connection.register("attributes", self.attributes)
                if self.thresholds is not None:
                    pairs.limits(connection, self.thresholds)
                return connection.sql(self.sql, params=self.parameters or None).to_arrow_table()
            except (duckdb.BinderException, duckdb.ParserException, duckdb.ConversionException,
                    duckdb.InvalidInputException) as error:  # fmt: skip
                if not self.where:
                    raise
                raise InvalidInput(f"cannot choose pairs where {self.where!r}: {error}") from None

    @property
    def sql(self) -> str:
        """The whole query."""
        keys, spoken = self.keys, self.spoken
        columns = ["primary_value", "secondary_value", *(c for c in SPOKEN if _says(c, spoken))]
        binned = []
        if self.lead_time_bin is not None:
            columns.append("lead_time")
            width = int(self.lead_time_bin)
            binned = [f"floor(lead_time / {width})::BIGINT * {width} AS lead_time_bin"]
        chosen = pairs.selected(
            [*keys, *columns], keys, where=self.where, has_thresholds=self.thresholds is not None,
            attributes=[name for name in self.attribute_names if name in self.by],
            transform=self.transform,
        )  # fmt: skip
        groups = [self.group(keys, [])]
        if binned:
            groups.append(self.group([*keys, "lead_time_bin"], ["lead_time_bin IS NOT NULL"]))
        return f"""
            WITH all_pairs AS (SELECT {", ".join(["*", *binned])} FROM ({chosen}))
            SELECT {", ".join([*self.order, *self.shown])} FROM (
                SELECT NULL::BIGINT AS lead_time_bin WHERE false
                UNION ALL BY NAME {" UNION ALL BY NAME ".join(f"({g})" for g in groups)}
            )
        """  # noqa: S608 - names out of our own tables, checked before; values are bound


def needs(name: str) -> list[str]:
    """The statistics of which a metric is made."""
    return [s for s in STATISTICS if _says(s, METRICS[name].sql)]


def relations(sql: str) -> dict[str, str]:
    """The relations of which this SQL is made, and those of which they are made, in order."""
    found: dict[str, str] = {}
    for name, each in reversed(RELATIONS.items()):
        if _says(name, sql):
            found[name] = each
            sql += f" {each}"
    return dict(reversed(found.items()))


def common(keys: Sequence[str], where: Sequence[str], needed: Mapping[str, str]) -> list[str]:
    """What a SELECT of groups begins WITH: the pairs, and the relations that it needs."""
    shown = f"FROM all_pairs{' WHERE ' if where else ''}{' AND '.join(where)}"
    made = [f"{name} AS ({sql.format(keys=', '.join(keys))})" for name, sql in needed.items()]
    return [f"pairs AS ({shown})", *made]


def _groups(keys: Sequence[str], where: Sequence[str], names: Sequence[str], minimum: int) -> str:
    """The SELECT of groups: their keys, the number of pairs, and the metrics."""
    wanted: dict[str, dict[str, str]] = {"pairs": {}}
    needed = ""
    for statistic in dict.fromkeys(s for name in names for s in needs(name)):
        each = STATISTICS[statistic]
        wanted.setdefault(each.over, {})[statistic] = each.sql
        needed += f" {_made_of(each)}"
    listed = ", ".join(keys)
    parts = common(keys, where, relations(needed))
    source = "of_pairs"
    for over, statistics in wanted.items():
        counts = ["count(*) AS count"] if over == "pairs" else []
        counts += [f"{sql} AS {name}" for name, sql in statistics.items()]
        of = f"SELECT {', '.join([listed, *counts])} FROM {over} GROUP BY {listed}"  # noqa: S608
        parts.append(f"of_{over} AS ({of})")
        if over != "pairs":
            same = " AND ".join(f"of_pairs.{k} IS NOT DISTINCT FROM of_{over}.{k}" for k in keys)
            source += f" LEFT JOIN of_{over} ON {same}"
    chosen = [f"of_pairs.{key}" for key in keys] + ["count"]
    chosen += [f"{_defined(METRICS[name].sql, minimum)} AS {name}" for name in names]
    return f"WITH {', '.join(parts)} SELECT {', '.join(chosen)} FROM {source}"  # noqa: S608


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


def _known(names: Sequence[str], known: Iterable[str], what: str) -> None:
    known = list(known)
    for name in names:
        if name not in known:
            raise NotFound(f"unknown {what} {name!r}{nearest(name, known)}")


def _made_of(statistic: Statistic) -> str:
    return f"{statistic.sql} {statistic.over}"


def _says(word: str, text: str) -> bool:
    return re.search(rf"\b{word}\b", text) is not None


def _defined(expression: str, minimum: int) -> str:
    """NULL in place of NaN and infinity, and of a group that is too small."""
    return f"CASE WHEN count >= {int(minimum)} AND isfinite({expression}) THEN {expression} END"
