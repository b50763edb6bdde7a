"""What has changed since a state that was worked on before, and which state that was.

Only the files are read that one of the two states has and the other has not, a month at a time.
Rows that were merely written anew, as upkeep does, are no change.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from typing import Any

import duckdb
import pyarrow as pa
from pyiceberg.exceptions import CommitFailedException, CommitStateUnknownException
from pyiceberg.table import FileScanTask, Table
from pyiceberg.table.update import AssertRefSnapshotId, SetPropertiesUpdate

from thalweg import record
from thalweg.errors import NotFound, nearest
from thalweg.settings import Settings
from thalweg.warehouse import files
from thalweg.warehouse.access import definition, reachable, table, table_at
from thalweg.warehouse.schema import PROVENANCE, TableDefinition

__all__ = ["changes", "mark", "marked", "rows_by_month"]


def changes(
    name: str,
    by: str,
    since: int,
    until: int,
    settings: Settings | None = None,
) -> pa.Table:
    """Which parts of a table differ between two of its snapshots.

    Parameters
    ----------
    by
        The column whose values are parts; in a table that has months, a part is of one month.

    Returns
    -------
    pyarrow.Table
        The column `by` and month (int16, since January 1970) where the table has months, each part
        once. Where a row comes from, its raw file and run, makes no difference.

    Raises
    ------
    NotFound
        An unknown table or column, or upkeep has ended one of the snapshots.
    """
    declared, found = definition(name), table(name, settings)
    if by not in declared.columns:
        raise NotFound(f"unknown column {by!r} of {name}{nearest(by, declared.columns)}")
    parts: dict[str, dict[str, list[FileScanTask]]] = defaultdict(lambda: {"was": [], "is": []})
    with reachable(found.catalog.name):
        before, after = (_files(found, each) for each in (since, until))
        for side, ours, theirs in (("was", before, after), ("is", after, before)):
            for key in ours.keys() - theirs.keys():
                task = ours[key]
                parts[f"{task.file.spec_id} {task.file.partition}"][side].append(task)
        different = [_different(found, declared, by, each) for each in parts.values()]
    names = [by, *(["month"] if declared.month_of else [])]
    types = {**{f.name: f.type for f in declared.arrow}, "month": pa.int16()}
    none = pa.schema([(column, types[column]) for column in names]).empty_table()
    return pa.concat_tables([none, *different]).group_by(names).aggregate([])


def rows_by_month(
    name: str, snapshot: int | None, settings: Settings | None = None
) -> dict[int, int]:
    """Number of rows of each month since January 1970 that a table has, without reading them."""
    declared, found = definition(name), table_at(name, snapshot, settings)
    if snapshot is None or declared.month_of is None:
        return {}
    counted = Counter[int]()
    with reachable(found.catalog.name):
        for task in _files(found, snapshot).values():
            if found.specs()[task.file.spec_id].fields == declared.partition_spec.fields:
                counted[task.file.partition[0]] += task.file.record_count
            else:  # others have laid it out anew
                rows = files.rows_of(found, [task])
                counted.update(files.months(rows[declared.month_of]).tolist())
    return dict(sorted(counted.items()))


def marked(name: str, key: str, settings: Settings | None = None) -> dict[str, Any]:
    """What `mark` has left on a table, or nothing; nothing in a rerun, which begins anew."""
    if record.pinned():
        return {}
    found: dict[str, Any] = json.loads(table(name, settings).properties.get(key, "{}"))
    return found


def mark(
    name: str,
    key: str,
    value: dict[str, Any],
    since: int | None,
    snapshot: int | None,
    settings: Settings | None = None,
) -> bool:
    """Leave a note on a table, if nobody else wrote to it since a snapshot; whether that is so.

    A rerun leaves none.

    Parameters
    ----------
    since, snapshot
        The state of the table before, and after, the one commit of who leaves the note, if any.
    """
    if record.pinned():
        return True
    found = table(name, settings)
    ours = found.snapshot_by_id(snapshot) if snapshot else None
    if since not in (snapshot, ours.parent_snapshot_id if ours else None):
        return False
    update = SetPropertiesUpdate(updates={key: json.dumps(value, sort_keys=True)})
    unchanged = AssertRefSnapshotId.model_validate({"ref": "main", "snapshot-id": snapshot})
    try:
        with reachable(found.catalog.name), found.transaction() as transaction:
            transaction._apply((update,), (unchanged,))
    except (CommitFailedException, CommitStateUnknownException):
        return False
    return True


def _files(found: Table, snapshot: int) -> dict[tuple[str, ...], FileScanTask]:
    """The files of a snapshot, by their names and those of the deletes that go with them."""
    if found.snapshot_by_id(snapshot) is None:
        raise NotFound(f"{found.name()[-1]} has no snapshot {snapshot} any more: upkeep ended it")
    tasks = found.scan(snapshot_id=snapshot).plan_files()
    return {
        (task.file.file_path, *sorted(each.file_path for each in task.delete_files)): task
        for task in tasks
    }


def _different(
    found: Table, declared: TableDefinition, by: str, tasks: dict[str, list[FileScanTask]]
) -> pa.Table:
    """The parts whose rows are others, in whatever order; no sum of hashes is the same for two."""
    parts = [f'"{by}"']
    if declared.month_of:
        number = f"(year({declared.month_of}) - 1970) * 12 + month({declared.month_of}) - 1"
        parts.append(f"({number})::SMALLINT AS month")
    content = ", ".join(f'"{column}"' for column in declared.columns if column not in PROVENANCE)
    sides = " UNION ALL BY NAME ".join(
        f"SELECT {', '.join(parts)}, {sign} AS side, hash({content})::HUGEINT * {sign} AS content"  # noqa: S608
        f' FROM "{side}"'
        for side, sign in (("was", -1), ("is", 1))
    )
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for side, each in tasks.items():
            rows = (
                declared.plain(files.rows_of(found, each)) if each else declared.arrow.empty_table()
            )
            connection.register(side, rows)
        return connection.sql(
            f"SELECT * EXCLUDE (side, content) FROM ({sides}) GROUP BY ALL"  # noqa: S608
            " HAVING sum(side) <> 0 OR sum(content) <> 0"
        ).to_arrow_table()
