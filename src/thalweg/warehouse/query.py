"""SQL over the warehouse: DuckDB reads the tables by name, through Arrow, and changes nothing.

A query reads only the files, row groups and columns that it needs: Iceberg's statistics go along as
guarantees of each file, DuckDB pushes the conditions and columns down. It has no access to files,
to the network or to Python's variables, so that a query may come from others.
"""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce
from operator import and_, ge, le
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pyiceberg.conversions import from_bytes
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table

from thalweg import record
from thalweg.errors import InvalidInput, NotFound, Unavailable, nearest
from thalweg.settings import Settings
from thalweg.warehouse.access import as_of, catalog, reachable, state, table
from thalweg.warehouse.schema import NAMESPACE, NUMBER, TABLES, TableDefinition

__all__ = ["JOINED", "joined", "sql"]

#: Columns of the view `joined_timeseries`.
JOINED = (
    "reference_time",
    "value_time",
    "primary_location_id",
    "secondary_location_id",
    "primary_value",
    "secondary_value",
    "primary_configuration_name",
    "configuration_name",
    "unit_name",
    "variable_name",
    "member",
    "lead_time",
)
#: Which primary rows p and secondary rows s belong together, by the crosswalk c.
PAIRED = """
    c.secondary_location_id = s.location_id AND c.primary_location_id = p.location_id
    AND p.value_time = s.value_time AND p.variable_name = s.variable_name
    AND p.unit_name = s.unit_name
"""
#: Views by name: the tables that they need, and what they are.
VIEWS = {
    "joined_timeseries": (
        ("location_crosswalks", "primary_timeseries", "secondary_timeseries"),
        f"""
        SELECT s.reference_time, s.value_time, c.primary_location_id, c.secondary_location_id,
            p.value AS primary_value, s.value AS secondary_value,
            p.configuration_name AS primary_configuration_name, s.configuration_name,
            s.unit_name, s.variable_name, s.member,
            (epoch(s.value_time) - epoch(s.reference_time)) / 3600 AS lead_time
        FROM secondary_timeseries s, location_crosswalks c, primary_timeseries p
        WHERE {PAIRED}
        """,  # noqa: S608 - no value is put into the text
    )
}
CLOSED: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": False,
    "python_enable_replacements": False,
    "autoinstall_known_extensions": False,
}


def sql(
    query: str,
    parameters: Sequence[Any] | Mapping[str, Any] = (),
    settings: Settings | None = None,
    *,
    at: dt.datetime | None = None,
) -> pa.Table:
    """The rows that a query selects from the tables of the warehouse and its views.

    Parameters
    ----------
    query
        One SELECT (or DESCRIBE, SHOW TABLES) in DuckDB's SQL. Tables have the names of
        `warehouse.names()`, also with `hydro.` before them as other engines say it; beside them
        there is the view `joined_timeseries`, with the columns of `JOINED`.
    parameters
        Values of `?` or `$name` in the query. Values from outside belong here, not in the text.
    at
        Read all tables as they were at this time, as far as upkeep has kept that state.

    Returns
    -------
    pyarrow.Table
        Times are UTC. The order of rows is that of ORDER BY, or none.

    Raises
    ------
    NotFound
        An unknown table, with the nearest known one; a time whose state upkeep has ended.
    InvalidInput
        What is not one SELECT, or not SQL; an unknown column; a parameter that is missing; two
        columns of one name.
    Unavailable
        The catalogue or the store does not answer.

    Examples
    --------
    >>> sql("SELECT max(value) FROM primary_timeseries WHERE location_id = ?",
    ...     ["usgs-03171000"])  # doctest: +SKIP
    """
    with duckdb.connect(config=CLOSED) as connection:
        try:
            connection.execute("SET TimeZone = 'UTC'")
            asked = _asked(connection, query)
            views = {name: view for name, view in VIEWS.items() if name in asked}
            for name in (asked - views.keys()).union(*(needs for needs, _ in views.values())):
                connection.register(name, _rows(name, at, settings))
            for name, (_, selected) in views.items():
                connection.execute(f"CREATE TEMP VIEW {name} AS {selected}")
            connection.execute(f"CREATE SCHEMA {NAMESPACE}")
            for name in asked:
                connection.execute(f"CREATE VIEW {NAMESPACE}.{name} AS FROM {name}")
            connection.execute("SET lock_configuration = true")
            answer = connection.sql(query, params=parameters or None)
            if doubled := sorted(n for n, count in Counter(answer.columns).items() if count > 1):
                raise InvalidInput(
                    f"several columns are named {', '.join(doubled)}: give each a name of its "
                    f"own, as in {doubled[0]} AS first"
                )
            return answer.to_arrow_table()
        except duckdb.Error as error:
            raise InvalidInput(f"cannot answer the query: {error}") from None


def joined(
    columns: Sequence[str] | None = None,
    where: str | None = None,
    parameters: Sequence[Any] | Mapping[str, Any] = (),
    settings: Settings | None = None,
    *,
    materialise: bool = False,
) -> pa.Table:
    """Every secondary value beside the primary value of the same place, time, variable and unit.

    Parameters
    ----------
    columns
        Names of `JOINED`, all by default. `lead_time` is in hours, null without a reference time.
    where
        A condition in SQL on these columns: `"primary_location_id = ?"`.
    parameters
        Values of the `?` or `$name` of the condition.
    materialise
        Also write these rows into the table `joined_timeseries`, in place of those there, for
        engines that have no view of it. Nothing in Thalweg reads it; it is as old as its writing.

    Returns
    -------
    pyarrow.Table
        With the columns asked for; the order of rows is not promised. Where a place has primary
        series of several configurations, each makes a row.

    Raises
    ------
    NotFound
        An unknown column.
    InvalidInput, Unavailable
        As `sql`.
    """
    for column in columns or ():
        if column not in JOINED:
            raise NotFound(
                f"unknown column {column!r} of joined_timeseries{nearest(column, JOINED)}"
            )
    query = f"SELECT {', '.join(columns or JOINED)} FROM joined_timeseries"  # noqa: S608 - known names
    rows = sql(f"{query} WHERE {where}" if where else query, parameters, settings)
    if materialise and not record.pinned():
        _materialise("joined_timeseries", rows, settings)
    return rows


def _materialise(name: str, rows: pa.Table, settings: Settings | None) -> None:
    found = catalog(settings)
    with reachable(found.name):
        made = found.create_table_if_not_exists((NAMESPACE, name), rows.schema)
        try:
            made.overwrite(rows)
        except CommitFailedException:
            raise Unavailable(f"{name}: another writer was faster; write again") from None
    if snapshot := made.current_snapshot():
        record.note("wrote", "table", name, str(snapshot.snapshot_id), rows.num_rows)


def _asked(connection: duckdb.DuckDBPyConnection, query: str) -> set[str]:
    """Names of the tables and views that a query reads."""
    ((text,),) = connection.sql("SELECT json_serialize_sql(?)", params=[query]).fetchall()
    parsed = json.loads(text)
    if parsed["error"] or len(parsed["statements"]) != 1:
        raise InvalidInput(
            f"expected one SELECT, for the warehouse is only read here, got {query!r}: "
            f"{parsed.get('error_message', 'more or less than one statement')}"
        )
    nodes = list(_nodes(parsed["statements"]))
    if any(n.get("type") == "SHOW_REF" and n["table_name"] for n in nodes):
        return {*TABLES, *VIEWS}  # SHOW TABLES
    asked = {n["table_name"].lower() for n in nodes if n.get("type") == "BASE_TABLE"}
    own = {each["key"].lower() for n in nodes for each in n.get("cte_map", {}).get("map", ())}
    known = {*TABLES, *VIEWS}
    for name in sorted(asked - own - known):
        raise NotFound(f"unknown table {name!r}{nearest(name, known)}")
    return asked & known


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every node of a parsed query."""
    if isinstance(tree, dict):
        yield tree
    for each in tree.values() if isinstance(tree, dict) else tree:
        if isinstance(each, dict | list):
            yield from _nodes(each)


def _rows(name: str, at: dt.datetime | None, settings: Settings | None) -> ds.Dataset | pa.Table:
    """A table as DuckDB reads it: lazily, where every file has the columns that the table has."""
    declared, found = TABLES[name], table(name, settings)
    snapshot = as_of(found, at) if at else state(found)
    if snapshot is None:
        return declared.arrow.empty_table()
    record.note("read", "table", name, str(snapshot.snapshot_id))
    # Of a snapshot that is asked for, PyIceberg reads the columns that the table had then.
    is_newest = snapshot == found.current_snapshot()
    scan = found.scan(snapshot_id=None if is_newest else snapshot.snapshot_id)
    with reachable(found.catalog.name):
        tasks = list(scan.plan_files())
        if any(task.delete_files for task in tasks) or _has_renamed(found):
            return declared.plain(scan.to_arrow())
    return _dataset(found, [task.file for task in tasks], declared)


def _has_renamed(found: Table) -> bool:
    """Whether a name has meant another column or type once, so that files may not mean the same."""
    said = {
        (field.field_id, field.name, field.field_type)
        for schema in found.schemas().values()
        for field in schema.fields
    }
    return min(len({id for id, _, _ in said}), len({name for _, name, _ in said})) < len(said)


def _dataset(found: Table, files: Iterable[DataFile], declared: TableDefinition) -> ds.Dataset:
    io, parquet = PyArrowFileIO(found.io.properties), ds.ParquetFileFormat()
    scheme, netloc, _ = io.parse_location(found.location())
    store = io.fs_by_scheme(scheme, netloc)
    fragments = [
        parquet.make_fragment(
            io.parse_location(file.file_path)[2], store, _guarantee(found, file, declared)
        )
        for file in files
    ]
    return ds.FileSystemDataset(fragments, declared.arrow, parquet, store)


def _guarantee(found: Table, file: DataFile, declared: TableDefinition) -> pc.Expression:
    """What holds for every row of a file: least and greatest text and time, by its statistics."""
    holds = [pc.scalar(True)]
    for name, column in declared.columns.items():
        if column.nullable or column.type == NUMBER:
            continue
        id = found.schema().find_field(name).field_id
        for bounds, compare in ((file.lower_bounds, ge), (file.upper_bounds, le)):
            if (bytes_ := (bounds or {}).get(id)) is not None:
                value = pa.scalar(from_bytes(column.type, bytes_), declared.arrow.field(name).type)
                holds.append(compare(pc.field(name), value))
    return reduce(and_, holds)
