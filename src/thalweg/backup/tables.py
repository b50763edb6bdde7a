"""The tables with all their states: their metadata, and tables made of it again.

A catalogue is told each state in turn, with its id, tags and files; not by `register`, which not
every catalogue really does. As none takes a state that is older than the table, each gets the time
at which it came back, and its own stands in the table's properties, where `at=` finds it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import TypeVar

from pyiceberg.catalog import Catalog
from pyiceberg.table import Table
from pyiceberg.table.metadata import TableMetadata, TableMetadataUtil
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.table.update import (
    AddPartitionSpecUpdate,
    AddSchemaUpdate,
    AddSnapshotUpdate,
    AddSortOrderUpdate,
    SetCurrentSchemaUpdate,
    SetDefaultSortOrderUpdate,
    SetDefaultSpecUpdate,
    SetSnapshotRefUpdate,
    TableUpdate,
)

from thalweg.errors import InvalidInput, Unavailable
from thalweg.raw import Progress
from thalweg.settings import Settings
from thalweg.warehouse.access import TIMES, catalog, reachable
from thalweg.warehouse.schema import NAMESPACE, SEEDS

__all__ = ["bring", "described", "drop", "metadata", "refuse_unless_empty", "rows"]


T = TypeVar("T")


def metadata(settings: Settings) -> dict[str, TableMetadata]:
    """Metadata of each table of the namespace, also of those that others have made there."""
    return {name: table.metadata for name, table in _tables(settings).items()}


def described(content: bytes) -> dict[str, TableMetadata]:
    """What a backup says of each table."""
    return {n: TableMetadataUtil.parse_obj(each) for n, each in json.loads(content).items()}


def rows(metadata: TableMetadata) -> int:
    """Rows of the newest state."""
    newest = metadata.snapshot_by_id(metadata.current_snapshot_id or -1)
    summary = newest.summary if newest else None
    return int(summary["total-records"] or 0) if summary else 0


def refuse_unless_empty(then: Mapping[str, TableMetadata], settings: Settings) -> None:
    """InvalidInput where a table has other rows than a new one, or lies elsewhere."""
    for name, table in _tables(settings).items():
        if (count := rows(table.metadata)) != len(SEEDS.get(name, ())):
            raise InvalidInput(
                f"the table {name} is not empty ({count} rows): restore into an empty warehouse, "
                "or leave the tables as they are, and name the other parts with --part"
            )
        if name in then and then[name].location != table.location():
            raise InvalidInput(
                f"the backup's table {name} lies at {then[name].location}, and here it would at "
                f"{table.location()}: a table's files name each other, it comes back where it was"
            )


def drop(then: Mapping[str, TableMetadata], settings: Settings) -> None:
    """Take away the empty tables in whose place those of the backup come."""
    found = catalog(settings)
    with reachable(found.name):
        for name in _tables(settings):
            if name in then:
                found.drop_table((NAMESPACE, name))


def bring(
    then: Mapping[str, TableMetadata], settings: Settings, progress: Progress
) -> dict[str, int]:
    """Make the tables again, whose files are there; rows by table."""
    found = catalog(settings)
    with reachable(found.name):
        found.create_namespace_if_not_exists(NAMESPACE)
        for done, (name, each) in enumerate(then.items(), start=1):
            _make(found, name, each)
            made = found.load_table((NAMESPACE, name)).metadata
            if _ids(made) != _ids(each) or made.refs != each.refs or made.schema() != each.schema():
                raise Unavailable(
                    f"the catalogue {found.name!r} has not taken all states of the table {name}"
                )
            progress(done, len(then))
    return {name: rows(each) for name, each in then.items()}


def _tables(settings: Settings) -> dict[str, Table]:
    found = catalog(settings)
    with reachable(found.name):
        if not found.namespace_exists(NAMESPACE):
            return {}
        names = sorted(identifier[-1] for identifier in found.list_tables(NAMESPACE))
        return {name: found.load_table((NAMESPACE, name)) for name in names}


def _ids(metadata: TableMetadata) -> set[int]:
    return {each.snapshot_id for each in metadata.snapshots}


def _make(found: Catalog, name: str, then: TableMetadata) -> None:
    """A table with these states; columns are numbered as in its first schema, and on from there."""
    times = {str(each.snapshot_id): each.timestamp_ms for each in then.snapshot_log}
    times |= json.loads(then.properties.get(TIMES, "{}"))  # it came back once before
    schema, *schemas = _by(then.schemas, "schema_id")
    spec, *specs = _by(then.partition_specs, "spec_id")
    order, *orders = _by(then.sort_orders, "order_id")
    properties = then.properties | {TIMES: json.dumps(times)}
    made = found.create_table((NAMESPACE, name), schema, then.location, spec, order, properties)
    layout: list[TableUpdate] = [
        *(AddSchemaUpdate(schema=each) for each in schemas),
        SetCurrentSchemaUpdate.model_validate({"schema-id": then.current_schema_id}),
        *(AddPartitionSpecUpdate(spec=each) for each in specs),
        SetDefaultSpecUpdate.model_validate({"spec-id": then.default_spec_id}),
        *(AddSortOrderUpdate.model_validate({"sort-order": each}) for each in orders),
        SetDefaultSortOrderUpdate.model_validate({"sort-order-id": then.default_sort_order_id}),
    ]
    for updates in (layout, *_commits(then)):
        found.commit_table(made, (), tuple(updates))


def _by(items: Iterable[T], id: str) -> list[T]:
    return sorted(items, key=attrgetter(id))


def _commits(then: TableMetadata) -> list[list[TableUpdate]]:
    """What to commit together: up to each state that was the newest, for the catalogue's log."""
    now = int(time.time() * 1000)
    waiting = [
        each.model_copy(update={"timestamp_ms": now})
        for each in sorted(then.snapshots, key=lambda each: each.sequence_number or 0)
    ]
    commits = []
    for entry in then.snapshot_log:
        ids = [each.snapshot_id for each in waiting]
        if entry.snapshot_id in ids:
            place = ids.index(entry.snapshot_id) + 1
            newest = _named("main", "branch", entry.snapshot_id)
            commits.append([*_added(waiting[:place]), newest])
            waiting = waiting[place:]
    names = [_named(n, ref.snapshot_ref_type, ref.snapshot_id) for n, ref in then.refs.items()]
    rest = [*_added(waiting), *names]
    return [*commits, rest] if rest else commits


def _added(snapshots: list[Snapshot]) -> list[TableUpdate]:
    return [AddSnapshotUpdate(snapshot=each) for each in snapshots]


def _named(name: str, kind: str, snapshot_id: int) -> TableUpdate:
    return SetSnapshotRefUpdate.model_validate(
        {"ref-name": name, "type": kind, "snapshot-id": snapshot_id}
    )
