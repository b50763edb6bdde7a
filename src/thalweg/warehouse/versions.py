"""Bringing the tables to the version that `schema` declares: forward only, and never by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import (
    CommitFailedException,
    CommitStateUnknownException,
    NoSuchNamespaceError,
    NoSuchTableError,
)
from pyiceberg.table import Table

from thalweg.errors import InvalidInput, Unavailable
from thalweg.settings import Settings
from thalweg.warehouse.access import catalog, reachable
from thalweg.warehouse.merge import write
from thalweg.warehouse.schema import (
    CHANGES,
    NAMESPACE,
    PROPERTIES,
    SEEDS,
    TABLES,
    TableDefinition,
)

__all__ = ["migrate", "plan"]

VERSION = "thalweg.version"
ATTEMPTS = 5
Step = tuple[str, Callable[[], object]]


def plan(settings: Settings | None = None) -> list[str]:
    """What `migrate` would do, a line a step; nothing where all is up to date.

    Raises
    ------
    InvalidInput
        A table is of a later version than this Thalweg knows.
    Unavailable
        The catalogue does not answer.
    """
    return [does for does, _ in _steps(settings)]


def migrate(settings: Settings | None = None) -> list[str]:
    """Make the tables and columns that are missing, set properties, add known names.

    Rows stay as they are; a new column is null in them. Returns what was done, as `plan` says it,
    and raises what `plan` raises.
    """
    done: dict[str, None] = {}  # once each, in order
    for _ in range(ATTEMPTS):
        try:
            for does, act in _steps(settings):
                with reachable(catalog(settings).name):
                    act()
                done[does] = None
        except CommitFailedException:
            continue  # another migrates at the same time: what is left to do?
        except CommitStateUnknownException:
            done[does] = None  # if it is not, it is what is left to do
            continue
        return [*done]
    raise Unavailable("the tables change all the time: others migrate too; migrate again")


def _steps(settings: Settings | None) -> Iterator[Step]:
    """Each step is found when those before it are done, if they are."""
    found = catalog(settings)
    with reachable(found.name):
        if not found.namespace_exists(NAMESPACE):
            make = partial(found.create_namespace_if_not_exists, NAMESPACE)
            yield f"make the namespace {NAMESPACE}", make
        for name, declared in TABLES.items():
            yield from _table(found, name, declared)
        for name, rows in SEEDS.items():
            yield from _seeds(found, name, pa.Table.from_pylist(rows), settings)


def _table(found: Catalog, name: str, declared: TableDefinition) -> Iterator[Step]:
    wanted = PROPERTIES | {"comment": declared.doc, VERSION: str(max(CHANGES))}
    try:
        made = found.load_table((NAMESPACE, name))
    except (NoSuchTableError, NoSuchNamespaceError):
        yield f"make the table {name}", partial(_make, found, name, declared, wanted)
        return
    version = int(made.properties.get(VERSION, 1))
    if version > max(CHANGES):
        raise InvalidInput(
            f"table {name!r} is of version {version}, this Thalweg knows versions up to "
            f"{max(CHANGES)}: tables do not go back; use the Thalweg that made them, or a later one"
        )
    missing = [c for c in declared.columns if c not in made.schema().column_names]
    changed = sorted(k for k, v in wanted.items() if made.properties.get(k) != v)
    if missing:
        yield f"add {', '.join(missing)} to {name}", partial(_add, made, declared, missing)
    if changed:
        act = partial(_set, found, name, wanted)
        yield f"set {', '.join(changed)} of {name}", act


def _make(found: Catalog, name: str, declared: TableDefinition, wanted: dict[str, str]) -> None:
    found.create_table_if_not_exists(
        (NAMESPACE, name),
        schema=declared.iceberg,
        partition_spec=declared.partition_spec,
        sort_order=declared.sort_order,
        properties=wanted,
    )


def _add(made: Table, declared: TableDefinition, missing: list[str]) -> None:
    """Add columns where they are declared to stand; all are nullable, old rows have no value."""
    order = list(declared.columns)
    with made.update_schema() as update:
        for column in missing:
            update.add_column(
                column, declared.columns[column].type, doc=declared.columns[column].doc
            )
        for column in reversed(missing):
            if after := order[order.index(column) + 1 :]:
                update.move_before(column, after[0])


def _set(found: Catalog, name: str, wanted: dict[str, str]) -> None:
    with found.load_table((NAMESPACE, name)).transaction() as transaction:
        transaction.set_properties(wanted)


def _seeds(found: Catalog, name: str, rows: pa.Table, settings: Settings | None) -> Iterator[Step]:
    key = TABLES[name].key[0]
    try:
        known = found.load_table((NAMESPACE, name)).scan(selected_fields=(key,)).to_arrow()[key]
    except (NoSuchTableError, NoSuchNamespaceError):  # dry run: the table is still to be made
        known = pa.array([], pa.string())
    new = rows.filter(pc.invert(pc.is_in(rows[key], known.cast(pa.string()))))
    if new.num_rows:
        does = f"add {', '.join(new[key].to_pylist())} to {name}"
        yield does, partial(write, name, new, settings, replace=False)
