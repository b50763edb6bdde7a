"""Writing: a batch is merged into its table by key, in one commit; nothing is lost or doubled.

Only the range of the batch is read again; DuckDB compares it with the batch, and what differs
is committed against the state that was read. If another writer was faster, the comparison is made
again from the new state. A batch that changes nothing makes no snapshot.

Texts repeat, so each is kept once while rows are sorted, compared and cut into months; they become
plain where a file is written.
"""

from __future__ import annotations

import datetime as dt
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.exceptions import (
    CommitFailedException,
    CommitStateUnknownException,
)
from pyiceberg.expressions import (
    And,
    BooleanExpression,
    GreaterThanOrEqual,
    In,
    LessThanOrEqual,
)
from pyiceberg.expressions.visitors import bind
from pyiceberg.io.pyarrow import expression_to_pyarrow
from pyiceberg.table import Table

from thalweg import record
from thalweg.codes import key_codes, last_of_each, once_each
from thalweg.errors import InvalidInput, NotFound, Unavailable, nearest
from thalweg.settings import Settings
from thalweg.warehouse import files
from thalweg.warehouse.access import catalog, definition, reachable, read, state, table, texts_of
from thalweg.warehouse.schema import (
    PROVENANCE,
    TABLES,
    TableDefinition,
)

__all__ = ["Written", "conform", "replacing", "write", "write_all"]

ATTEMPTS = 40
_SEEN: dict[tuple[str, str], set[str]] = {}
# Above this many values a range says as much as a list, and is cheaper to test.
LONGEST_LIST = 200


@dataclass(frozen=True)
class Written:
    """What a write did: rows added, changed and found unchanged, and the snapshot after it."""

    table: str
    added: int
    changed: int
    unchanged: int
    snapshot_id: int | None

    def __str__(self) -> str:
        counts = f"{self.added:,} rows added, {self.changed:,} changed"
        return f"{self.table}: {counts}, {self.unchanged:,} unchanged"


def write(
    name: str,
    rows: pa.Table,
    settings: Settings | None = None,
    *,
    replace: bool | Literal["older"] = True,
) -> Written:
    """Merge rows into a table by its key: add what is new, replace what has another value.

    Within the batch the last row of a key wins. A row whose values are those of the table stays
    as it is, with the raw file and run that first brought it. Of a column that the batch does not
    have, a row keeps the value that it has; null replaces it.

    Parameters
    ----------
    rows
        The table's columns in any order; nullable ones may be missing. Times carry a time zone.
    replace
        Whether these values replace those of the table; else only new keys are added. `"older"`:
        they replace none of a later raw file, whose id sorts after theirs, and none of a table
        whose rows name no file.

    Raises
    ------
    InvalidInput
        Unknown, missing or ill-typed columns; null or NaN where a value is needed; a unit or
        variable that is not in its table.
    Unavailable
        The catalogue does not answer, or other writers were faster again and again.
    """
    declared = definition(name)
    unsaid = _unsaid(rows, declared)
    batch = _last_of_each_key(_complete(name, conform(name, rows), declared), declared)
    _check_references(name, batch, declared, settings)
    if replace == "older":
        replace = "raw_file_id" in declared.columns and "older"
    if record.pinned():
        return _compared(name, batch, declared, replace, unsaid, settings)
    unsure = None
    for attempt in range(ATTEMPTS):
        found = table(name, settings)
        merge = _merged(found, batch, declared, replace, unsaid)
        try:
            with reachable(found.catalog.name):
                _commit(found, merge, declared)
        except (CommitFailedException, CommitStateUnknownException) as error:
            if isinstance(error, CommitStateUnknownException):
                unsure = merge
            # Others write too: wait a little longer each time, never in step with them.
            time.sleep(random.uniform(0, min(2.0, 0.05 * 2**attempt)))  # noqa: S311
            continue
        if unsure and not merge.added.num_rows + merge.changed.num_rows:
            merge = unsure  # it did arrive
        return _written(name, found, merge, batch.num_rows)
    raise Unavailable(f"{name}: {ATTEMPTS} commits in a row lost to other writers; write again")


def write_all(
    tables: Mapping[str, pa.Table], settings: Settings | None = None, *, replace: bool = True
) -> list[Written]:
    """Write several tables, those first that others refer to."""
    for name in tables:
        definition(name)
    return [write(n, tables[n], settings, replace=replace) for n in TABLES if n in tables]


def replacing(name: str, rows: pa.Table, settings: Settings | None = None) -> np.ndarray[Any, Any]:
    """Which rows `write` would put in place of others of the same or an earlier raw file."""
    batch = conform(name, rows)
    batch = batch.append_column("at", pa.array(np.arange(batch.num_rows)))
    declared = definition(name)
    merge = _compare(table(name, settings), batch, declared, True, _unsaid(rows, declared))
    return np.isin(batch["at"], merge.changed["at"])


@dataclass(frozen=True)
class _Merge:
    added: pa.Table  # rows of the batch whose key is new
    changed: pa.Table  # rows of the batch whose key is there with other values
    stays: pa.Table  # rows of the table, in the batch's range, that are not replaced


def _merged(
    found: Table,
    batch: pa.Table,
    declared: TableDefinition,
    replace: bool | Literal["older"],
    unsaid: Sequence[str],
    snapshot_id: int | None = None,
) -> _Merge:
    merge = _compare(found, batch, declared, replace == "older", unsaid, snapshot_id)
    return merge if replace else _Merge(merge.added, batch.slice(0, 0), merge.stays)


def _compared(
    name: str,
    batch: pa.Table,
    declared: TableDefinition,
    replace: bool | Literal["older"],
    unsaid: Sequence[str],
    settings: Settings | None,
) -> Written:
    """What a write did in the run that is repeated, if these rows are those; nothing is written.

    They are if they change as many rows of the state before it, and none of the state after it.
    """
    found = table(name, settings)
    wrote = record.pinned_write("table", name)
    after = found.snapshot_by_id(int(wrote.version)) if wrote else None
    if wrote and after is None:
        raise NotFound(
            f"upkeep has ended snapshot {wrote.version} of {name!r}, which run {record.pinned()} "
            f"wrote, so nothing can be compared with it: run it anew with `thalweg run`"
        )
    now = None if after else state(found, "same")
    before = after.parent_snapshot_id if after else now.snapshot_id if now else None
    merge = _Merge(batch, batch.slice(0, 0), batch.slice(0, 0))
    if before is not None:
        merge = _merged(found, batch, declared, replace, unsaid, before)
    rows = pa.concat_tables([merge.added, merge.changed]).unify_dictionaries()
    if rows.num_rows and after is None:
        record.compared("table", name, "", rows.num_rows, is_same=False)
    elif after is not None and rows.num_rows:
        left = _compare(found, rows, declared, snapshot_id=after.snapshot_id)
        differ = left.added.num_rows + left.changed.num_rows
        differ = max(differ, abs(rows.num_rows - wrote.rows))
        version, same = wrote.version, not differ
        record.compared("table", name, version, differ or wrote.rows, is_same=same)
        before = after.snapshot_id
    elif before is not None and batch.num_rows:
        record.note("same", "table", name, str(before), batch.num_rows)
    unchanged = batch.num_rows - rows.num_rows
    return Written(name, merge.added.num_rows, merge.changed.num_rows, unchanged, before)


def _compare(
    found: Table,
    batch: pa.Table,
    declared: TableDefinition,
    only_older: bool = False,
    unsaid: Sequence[str] = (),
    snapshot_id: int | None = None,
) -> _Merge:
    """A batch beside the rows of a state of the table, the newest by default."""
    if found.current_snapshot() is None or not batch.num_rows:
        return _Merge(batch, batch.slice(0, 0), batch.slice(0, 0))
    with reachable(found.catalog.name):
        scan = found.scan(_span(batch, declared.range), snapshot_id=snapshot_id)
        existing = scan.to_arrow(texts_of(found))
    values = [c for c in declared.columns if c not in {*declared.key, *PROVENANCE, *unsaid}]
    same_key = " AND ".join(f'b."{c}" IS NOT DISTINCT FROM e."{c}"' for c in declared.key)
    differs = " OR ".join(f'b."{c}" IS DISTINCT FROM e."{c}"' for c in values) or "false"
    if only_older:
        differs = f"({differs}) AND coalesce(e.raw_file_id <= b.raw_file_id, true)"
    # Names only, all of them declared by us; no value is put into the text.
    pairs = _query(
        f"SELECT b.row AS batch_row, e.row AS existing_row, ({differs}) AS differs "  # noqa: S608
        f"FROM batch b LEFT JOIN existing e ON {same_key} ORDER BY b.row",
        batch=_numbered(batch),
        existing=_numbered(existing),
    )
    added = pairs.filter(pc.field("existing_row").is_null())
    changed = pairs.filter(pc.field("existing_row").is_valid() & pc.field("differs"))
    stays = np.ones(existing.num_rows, bool)
    stays[changed["existing_row"].to_numpy()] = False
    after = files.take(batch, changed["batch_row"])
    if unsaid:
        before = files.take(existing.select(unsaid), changed["existing_row"])
        kept = once_each(declared.plain(before))
        after = pa.table({c: (kept if c in unsaid else after)[c] for c in batch.column_names})
    return _Merge(
        files.take(batch, added["batch_row"]),
        after,
        files.take(existing, pa.array(np.flatnonzero(stays))),
    )


def _unsaid(rows: pa.Table, declared: TableDefinition) -> list[str]:
    """Columns of values of which the rows say nothing."""
    said = {*rows.column_names, *declared.key, *PROVENANCE}
    return [column for column in declared.columns if column not in said]


def _commit(found: Table, merge: _Merge, declared: TableDefinition) -> None:
    """One commit: an append where all rows are new, else the files of the changed range anew."""
    if not merge.changed.num_rows:
        if merge.added.num_rows:
            with files.append(found) as update:
                for file in files.write(found, merge.added, declared):
                    update.append_data_file(file)
        return
    span = _span(merge.changed, declared.range)
    within = expression_to_pyarrow(bind(found.schema(), span, case_sensitive=True))
    stays = once_each(declared.plain(merge.stays.filter(within)))
    rows = pa.concat_tables([stays, merge.added, merge.changed])
    with files.exchange(found) as update:
        for task in found.scan(span).plan_files():
            whole = files.rows_of(found, [task])
            beside = whole.filter(~within)  # the columns of a range are never null
            if beside.num_rows < whole.num_rows:
                update.delete_data_file(task.file)
                for file in files.write_as_read(found, beside):
                    update.append_data_file(file)
        for file in files.write(found, rows, declared):
            update.append_data_file(file)


def _written(name: str, found: Table, merge: _Merge, rows: int) -> Written:
    snapshot = found.current_snapshot()
    added, changed = merge.added.num_rows, merge.changed.num_rows
    if snapshot is not None and added + changed:
        record.note("wrote", "table", name, str(snapshot.snapshot_id), added + changed)
    elif snapshot is not None and rows:
        record.note("same", "table", name, str(snapshot.snapshot_id), rows)  # for a rerun
    unchanged = rows - added - changed
    return Written(name, added, changed, unchanged, snapshot.snapshot_id if snapshot else None)


def _span(rows: pa.Table, columns: tuple[str, ...]) -> BooleanExpression:
    """The smallest simple condition that holds for all rows: lists of values, or ranges."""
    return reduce(And, (_between(name, rows[name]) for name in columns))


def _between(name: str, values: pa.ChunkedArray | pa.Array) -> BooleanExpression:
    if pa.types.is_dictionary(values.type):
        values = distinct = values.unique().dictionary_decode()
        if len(distinct) <= LONGEST_LIST:
            return In(name, distinct.to_pylist())  # type: ignore[call-arg, arg-type]
    ends = pc.min_max(values)
    first, last = (_literal(ends[end]) for end in ("min", "max"))
    return And(
        GreaterThanOrEqual(name, first),  # type: ignore[call-arg, arg-type]
        LessThanOrEqual(name, last),  # type: ignore[call-arg, arg-type]
    )


def _literal(value: pa.Scalar) -> str:
    """PyIceberg reads a time from its ISO text."""
    python = value.as_py()
    return python.isoformat() if isinstance(python, dt.datetime) else str(python)


def conform(name: str, rows: pa.Table) -> pa.Table:
    """The rows with the declared columns, order and types; missing nullable ones are null.

    Texts are dictionaries, for they repeat; `TableDefinition.plain` makes them plain again.

    Raises
    ------
    InvalidInput
        A column that is not declared, one that is missing, or one of a type that does not fit.
    """
    declared = definition(name)
    for column in rows.column_names:
        if column not in declared.columns:
            hint = nearest(column, declared.columns)
            raise InvalidInput(f"{name} has no column {column!r}{hint}")
    # Whether null is allowed in a column is told apart from what its type is.
    return once_each(pa.table({f.name: _column(name, f, rows, declared) for f in declared.arrow}))


def _column(
    name: str, field: pa.Field, rows: pa.Table, declared: TableDefinition
) -> pa.ChunkedArray | pa.Array:
    column = field.name
    if column not in rows.column_names:
        if not field.nullable:
            raise InvalidInput(f"{name} needs column {column!r}: {declared.columns[column].doc}")
        return pa.nulls(rows.num_rows, field.type)
    values = rows[column]
    if pa.types.is_string(field.type) and _is_once_each(values):
        return values
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    zoned = pa.types.is_null(values.type) or getattr(values.type, "tz", None) is not None
    if pa.types.is_timestamp(field.type) and not zoned:
        raise InvalidInput(
            f"{name}.{column} is {values.type}: expected times with a time zone; give it one "
            f'with pyarrow.compute.assume_timezone(column, "UTC")'
        )
    try:
        return values.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InvalidInput(
            f"{name}.{column} is {values.type}: expected {field.type}: {error}"
        ) from None


def _complete(name: str, rows: pa.Table, declared: TableDefinition) -> pa.Table:
    """The rows, stamped with the run, once each column has the values that it needs."""
    for column, values in zip(rows.column_names, rows.columns, strict=True):
        nullable = declared.columns[column].nullable
        if values.null_count and not nullable:
            raise InvalidInput(
                f"{name}.{column} is null in {values.null_count} of {rows.num_rows} rows: "
                f"{declared.columns[column].doc}; leave out rows that have no value"
            )
        if pa.types.is_floating(values.type) and pc.all(pc.is_finite(values)).as_py() is False:
            raise InvalidInput(
                f"{name}.{column} holds NaN or infinity; leave out rows that have no value"
                + (", or use null" if nullable else "")
            )
    if "run_id" in rows.column_names:
        run_id = pa.array([record.current_run_id()], pa.string()).dictionary_encode()
        run_ids = run_id.take(pa.array(np.zeros(rows.num_rows, np.int64)))
        rows = rows.set_column(rows.column_names.index("run_id"), "run_id", run_ids)
    return rows


def _is_once_each(values: pa.ChunkedArray) -> bool:
    if values.type != pa.dictionary(pa.int32(), pa.string()):
        return False
    texts = [chunk.dictionary for chunk in values.chunks]
    return not any(each.null_count or len(each.unique()) < len(each) for each in texts)


def _last_of_each_key(rows: pa.Table, declared: TableDefinition) -> pa.Table:
    """The last row of each key; the rows as they are where no key is there twice."""

    def last(rows: pa.Table) -> pa.Array:
        return pa.array(last_of_each(key_codes(rows, declared.key)))

    found = files.each_month(rows, declared.month_of, last)
    if sum(map(len, found)) == rows.num_rows:
        return rows
    parts = (part for _, part in files.by_month(rows, declared.month_of))
    return pa.concat_tables(map(pa.Table.take, parts, found))


def _check_references(
    name: str, batch: pa.Table, declared: TableDefinition, settings: Settings | None
) -> None:
    for column, (other, key) in declared.references.items():
        used = set(batch[column].unique().drop_null().to_pylist())
        # No name is ever taken away, so what was known once need not be looked up again.
        seen = _SEEN.setdefault((catalog(settings).properties.get("uri", ""), other), set())
        if used - seen:
            seen |= set(read(other, [key], settings=settings)[key].to_pylist())
        for value in sorted(used - seen):
            raise InvalidInput(
                f"{name}.{column}: unknown {value!r}{nearest(value, seen)}; convert to a "
                f"known one, or add it first with thalweg.warehouse.write({other!r}, …)"
            )


def _numbered(rows: pa.Table) -> pa.Table:
    return rows.append_column("row", pa.array(np.arange(rows.num_rows)))


def _query(sql: str, **tables: pa.Table) -> pa.Table:
    with duckdb.connect() as connection:
        for name, rows in tables.items():
            connection.register(name, rows)
        return connection.sql(sql).to_arrow_table()
