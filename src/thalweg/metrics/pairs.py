"""The pairs: every secondary value beside the primary value of the same place and time."""

from __future__ import annotations

import atexit
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TypeAlias

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from thalweg.codes import key_codes, last_of_each
from thalweg.errors import InvalidInput, nearest
from thalweg.metrics.fields import EVENT, FIELDS, OF_THRESHOLDS, Field

__all__ = [
    "ATTRIBUTES", "PAIRED", "Thresholds", "Transform", "check_attributes", "check_condition",
    "check_configuration", "check_once", "check_thresholds", "check_units", "columns_of", "connect",
    "database", "limits", "quoted", "selected",
]  # fmt: skip

PRIMARY = ("value_time", "value", "unit_name", "location_id", "variable_name")
SECONDARY = (*PRIMARY, "reference_time", "configuration_name")
CROSSWALK = ("primary_location_id", "secondary_location_id")
TEXT = pa.string()
SERIES = ("location_id", "variable_name", "unit_name")
ATTRIBUTES = ("location_id", "attribute_name", "value")
LIMITS = ("primary_location_id", "threshold", "value")
#: By name: a value in the unit of the variable, or a percentile of the observations as `"90%"`; or
#: a table with primary_location_id, threshold (its name) and value.
Thresholds: TypeAlias = Mapping[str, float | str] | pa.Table
CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": False,
    "python_enable_replacements": False,
    "autoinstall_known_extensions": False,
    # Two threads would add in an order of their own each time, and the last digit would change; so
    # would it if the sides of a join were chosen by the number of rows.
    "threads": 1,
    "disabled_optimizers": "join_order,build_side_probe_side",
}
#: Every pair, with the columns that `joined` gives.
PAIRED = """
    SELECT s.reference_time, s.value_time, l.primary_location_id, l.secondary_location_id,
        p.value::DOUBLE AS primary_value, s.value::DOUBLE AS secondary_value,
        s.configuration_name, l.unit_name, l.variable_name, s.member,
        (epoch(s.value_time) - epoch(s.reference_time)) / 3600 AS lead_time
    FROM secondary s
    JOIN links l ON l.secondary_series = s.series
    JOIN "primary" p ON p.series = l.primary_series AND p.value_time = s.value_time
    WHERE isfinite(p.value) AND isfinite(s.value)
"""
# Which series belong together: rows are joined by two numbers, and not by their texts.
_LINKS = """
    CREATE TEMP TABLE links AS
    SELECT s.series AS secondary_series, p.series AS primary_series, c.primary_location_id,
        c.secondary_location_id, p.variable_name, p.unit_name
    FROM (SELECT DISTINCT * FROM crosswalk) c
    JOIN series_of_secondary s ON s.location_id = c.secondary_location_id
    JOIN series_of_primary p ON p.location_id = c.primary_location_id
        AND p.variable_name = s.variable_name AND p.unit_name = s.unit_name
    ORDER BY ALL
"""
# When the observations reached each threshold, for every time at which they are there.
_EVENTS = """
    SELECT DISTINCT location_id, variable_name, unit_name, threshold, value_time,
        max(CASE WHEN begins THEN value_time END) OVER past AS event
    FROM (
        SELECT *, is_there AND NOT coalesce(lag(is_there) OVER series, false) AS begins
        FROM (
            SELECT p.*, l.threshold, p.value >= l.threshold_value AS is_there
            FROM "primary" p JOIN limits l ON l.primary_location_id = p.location_id
                AND l.variable_name = p.variable_name AND l.unit_name = p.unit_name
            WHERE isfinite(p.value)
        ) WINDOW series AS (
            PARTITION BY location_id, variable_name, unit_name, threshold ORDER BY value_time
        )
    ) WHERE is_there WINDOW past AS (
        PARTITION BY location_id, variable_name, unit_name, threshold ORDER BY value_time
    )
"""


#: What becomes of {x}; null where that is not defined.
TRANSFORMS = {
    "log": Field("CASE WHEN {x} > 0 THEN ln({x}) END", "natural logarithm"),
    "sqrt": Field("CASE WHEN {x} >= 0 THEN sqrt({x}) END", "square root"),
    "inverse": Field("1 / nullif({x}, 0)", "one divided by it"),
    "power": Field("CASE WHEN {x} > 0 THEN ({x}) ** {exponent} END", "its power of an exponent"),
}


class Transform:
    """What is done to both values of a pair before they are compared.

    Parameters
    ----------
    name
        `log` (natural), `sqrt`, `inverse` or `power`.
    epsilon
        What is added before, in the unit of the variable, so that zero has a logarithm. By default,
        for `log` and `inverse`, a hundredth of the mean observation of the group over all lead
        times (Pushpalatha et al. 2012, doi:10.1016/j.jhydrol.2011.11.055), else nothing.
    exponent
        Of `power`.

    Raises
    ------
    InvalidInput
        An unknown name; a power without an exponent; a number that is not finite.
    """

    def __init__(
        self, name: str, epsilon: float | None = None, exponent: float | None = None
    ) -> None:
        if name not in TRANSFORMS:
            raise InvalidInput(f"unknown transform {name!r}{nearest(name, TRANSFORMS)}")
        if (exponent is None) == (name == "power"):
            raise InvalidInput(
                "power needs an exponent, as 0.2, and the other transforms have none"
            )
        for number in (epsilon, exponent):
            if number is not None and not math.isfinite(number):
                raise InvalidInput(f"{name} by {number}: expected a number that is finite")
        self.name, self.epsilon, self.exponent = name, epsilon, exponent

    def sql(self, query: str, keys: Sequence[str]) -> str:
        """The pairs of a query with both values changed, those of which the new ones are finite."""
        epsilon, source = f"{float(self.epsilon or 0)!r}", f"({query})"
        if self.epsilon is None and self.name in ("log", "inverse"):
            # A join and no window, which would change the order in which is added up later.
            same = " AND ".join(f"q.{key} IS NOT DISTINCT FROM m.{key}" for key in keys)
            means = f'SELECT {", ".join(keys)}, avg(primary_value) / 100 AS "+" FROM plain'  # noqa: S608
            source = (
                f'(WITH plain AS ({query}) SELECT q.*, "+"'  # noqa: S608
                f" FROM plain q JOIN ({means} GROUP BY ALL) m ON {same})"
            )
            epsilon = '"+"'
        new = ", ".join(
            TRANSFORMS[self.name].sql.format(x=f"({name} + {epsilon})", exponent=self.exponent)
            + f" AS {name}"
            for name in ("primary_value", "secondary_value")
        )
        finite = "isfinite(primary_value) AND isfinite(secondary_value)"
        return f"SELECT * FROM (SELECT * REPLACE ({new}) FROM {source}) WHERE {finite}"  # noqa: S608


def database() -> duckdb.DuckDBPyConnection:
    """A connection of its own, whose tables no other sees; times are in UTC."""
    connection = _engine(os.getpid()).cursor()
    try:
        connection.execute("SELECT 1").fetchall()
    except duckdb.FatalException:  # an internal error, of whichever query, ends it for all
        _engine.cache_clear()
        connection = _engine(os.getpid()).cursor()
    return connection


@cache
def _engine(process: int) -> duckdb.DuckDBPyConnection:
    # One for all: to make one takes 20 ms, as long as to pair 100,000 values. A process that was
    # forked has its own, and lets that of its parent lie, whose locks others may hold.
    folder = tempfile.mkdtemp(prefix="thalweg-")  # what outgrows the memory is for us alone
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    engine = duckdb.connect(config={**CONFIG, "temp_directory": folder})
    engine.execute("SET GLOBAL TimeZone = 'UTC'")
    engine.execute("SET lock_configuration = true")
    return engine


def connect(
    primary: pa.Table, secondary: pa.Table, crosswalk: pa.Table, *, is_piece: bool = False
) -> duckdb.DuckDBPyConnection:
    """DuckDB with the three tables, checked, cut to the columns that are used.

    Of a piece it is not said that it lacks units which both sides have: another may have them.
    """
    if "member" not in secondary.column_names:
        secondary = secondary.append_column("member", pa.nulls(len(secondary), pa.string()))
    tables = {
        "primary": columns_of(primary, PRIMARY, "primary"),
        "secondary": columns_of(secondary, (*SECONDARY, "member"), "secondary"),
        "crosswalk": columns_of(crosswalk, CROSSWALK, "crosswalk"),
    }
    observed = None
    if "configuration_name" in primary.column_names:
        observed = check_configuration(primary["configuration_name"])
    if not is_piece:
        check_units(primary, secondary)
    connection = database()
    for name, table in tables.items():
        if name != "crosswalk":
            table, series = _numbered(table)
            connection.register(f"series_of_{name}", series)
        connection.register(name, table)
    connection.register("observed", pa.table({"configuration_name": pa.array([observed], TEXT)}))
    connection.execute(_LINKS)
    return connection


def _numbered(table: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The rows with the number of their series, and what each number stands for."""
    numbers = key_codes(table, SERIES)
    first = pa.array(last_of_each(numbers))
    table = table.append_column("series", pa.array(numbers))
    return table, table.select([*SERIES, "series"]).take(first)


def check_condition(where: str) -> None:
    """Raise if it is anything but one expression: what stands in WHERE ends nowhere else."""
    try:
        duckdb.SQLExpression(where)
    except duckdb.Error as error:
        raise InvalidInput(f"cannot choose pairs where {where!r}: {error}") from None


def check_attributes(attributes: pa.Table) -> None:
    """Raise if columns are missing, or an attribute of a location has several values."""
    rows = columns_of(attributes, ATTRIBUTES, "attributes")
    check_once(rows, ("location_id", "attribute_name"), "attributes")


def check_thresholds(thresholds: Thresholds) -> None:
    """Raise if there is none, one is no number, or a location has one of them twice."""
    if isinstance(thresholds, Mapping):
        for name, value in thresholds.items():
            _limit(name, value)
        if not thresholds:
            raise InvalidInput("thresholds is empty: expected some, as {'high': '90%'}")
        return
    rows = columns_of(thresholds, LIMITS, "thresholds")
    check_once(rows, LIMITS[:2], "thresholds")
    try:
        rows["value"].cast(pa.float64())
    except pa.ArrowException as error:
        raise InvalidInput(
            f"value of thresholds is a number in the unit of the variable, as 120: {error}"
        ) from None


def limits(connection: duckdb.DuckDBPyConnection, thresholds: Thresholds) -> None:
    """Make `limits`: primary_location_id, variable_name, unit_name, threshold, threshold_value."""
    names = None
    if isinstance(thresholds, Mapping):
        names = list(thresholds)
        values = [_limit(name, value) for name, value in thresholds.items()]
        select = " UNION ALL ".join(
            f"SELECT location_id AS primary_location_id, variable_name, unit_name,"  # noqa: S608
            f' ? AS threshold, {value} AS threshold_value FROM "primary"'
            f" WHERE isfinite(value) GROUP BY location_id, variable_name, unit_name"
            for value in values
        )
    else:
        connection.register("wanted", thresholds.select(LIMITS))
        select = """
            SELECT w.primary_location_id, p.variable_name, p.unit_name, w.threshold,
                w.value::DOUBLE AS threshold_value
            FROM wanted w JOIN (
                SELECT DISTINCT location_id, variable_name, unit_name FROM "primary"
            ) p ON p.location_id = w.primary_location_id
            WHERE isfinite(w.value::DOUBLE)
        """
    connection.execute(f"CREATE TEMP TABLE limits AS {select}", names)


def _limit(name: str, value: float | str) -> str:
    """The value of a threshold in SQL: of a number itself, of `90%` a percentile."""
    text = str(value).strip()
    try:
        number = float(text.removesuffix("%"))
    except ValueError:
        number = float("nan")
    if not abs(number) < float("inf") or (text.endswith("%") and not 0 <= number <= 100):
        raise InvalidInput(
            f"threshold {name!r} is {value!r}: expected a value in the unit of the variable, as "
            f"120, or a percentile of the observations, as '90%'"
        )
    return (
        f"quantile_cont(value::DOUBLE, {number / 100!r})"
        if text.endswith("%")
        else f"{number!r}::DOUBLE"
    )


def selected(
    columns: Iterable[str],
    keys: Sequence[str],
    *,
    where: str | None = None,
    has_thresholds: bool = False,
    attributes: Iterable[str] = (),
    transform: Transform | None = None,
) -> str:
    """The SELECT of the pairs, with these columns, of those that keep to `where`."""
    fields = FIELDS | (OF_THRESHOLDS if has_thresholds else {})
    said = (where or "").lower()  # as DuckDB reads names
    asked = {*columns, *(name for name in fields if name in said)}
    made = [f"{f.sql} AS {n}" for n, f in fields.items() if n in asked and f.sql != n]
    source, more = f"({PAIRED}) j", []
    if has_thresholds:
        source += (
            " JOIN limits l ON l.primary_location_id = j.primary_location_id"
            " AND l.variable_name = j.variable_name AND l.unit_name = j.unit_name"
        )
        more += ["l.threshold", "l.threshold_value"]
    if EVENT in asked and has_thresholds:
        source += (
            f" LEFT JOIN ({_EVENTS}) e ON e.location_id = j.primary_location_id"
            " AND e.variable_name = j.variable_name AND e.unit_name = j.unit_name"
            " AND e.threshold = l.threshold AND e.value_time = j.value_time"
        )
        more += [f"e.{EVENT}"]
    for i, name in enumerate(attributes):
        source += (
            f" LEFT JOIN attributes a{i} ON a{i}.location_id = j.primary_location_id"
            f" AND a{i}.attribute_name = {_text(name)}"
        )
        more += [f"a{i}.value AS {quoted(name)}"]
    query = f"SELECT {', '.join(['j.*', *more])} FROM {source}"  # noqa: S608
    query = f"SELECT {', '.join(['*', *made])} FROM ({query})"  # noqa: S608
    if where:
        query = f"FROM ({query}) WHERE ({where}\n)"  # it may end in a comment
    if transform:
        query = transform.sql(query, [quoted(key) for key in keys])
    return f"SELECT {', '.join(quoted(c) for c in dict.fromkeys(columns))} FROM ({query})"  # noqa: S608


def quoted(name: str) -> str:
    """The name of a column in SQL, whatever it is."""
    return '"' + name.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def check_once(table: pa.Table, key: Sequence[str], what: str) -> None:
    """A row that is there twice would be joined twice, and pairs would count twice."""
    counts = table.group_by(list(key)).aggregate([([], "count_all")])
    for row in counts.filter(pc.field("count_all") > 1).slice(0, 1).to_pylist():
        row.pop("count_all")
        raise InvalidInput(f"{what} has {', '.join(map(str, row.values()))} more than once")


def columns_of(table: pa.Table, names: Iterable[str], what: str) -> pa.Table:
    """These columns of a table; raises `InvalidInput` where one is missing."""
    missing = [name for name in names if name not in table.column_names]
    if missing:
        raise InvalidInput(
            f"{what} lacks {', '.join(missing)}; it has {', '.join(table.column_names)}"
        )
    return table.select(list(names))


def check_configuration(names: pa.ChunkedArray) -> str | None:
    """The one there is; two of observations would pair every forecast value twice."""
    found = sorted(str(name) for name in pc.unique(names).to_pylist() if name is not None)
    if len(found) > 1:
        raise InvalidInput(
            f"primary holds {len(found)} configurations ({', '.join(found)}): choose one by "
            f"primary_configuration"
        )
    return found[0] if found else None


def check_units(primary: pa.Table, secondary: pa.Table) -> None:
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
