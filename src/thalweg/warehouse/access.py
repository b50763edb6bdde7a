"""Opening and reading the tables."""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

import pyarrow as pa
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.exceptions import CommitStateUnknownException, NoSuchTableError, RESTError
from pyiceberg.expressions import AlwaysTrue, BooleanExpression
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot, SnapshotLogEntry
from pyiceberg.utils.config import Config
from pyparsing import ParseException
from requests.exceptions import ConnectionError as NoConnection
from requests.exceptions import RequestException

from thalweg import record
from thalweg.errors import InvalidInput, NotFound, Unavailable, nearest
from thalweg.settings import Settings, load
from thalweg.warehouse.schema import NAMESPACE, TABLES, TEXT, TableDefinition

__all__ = [
    "TIMES",
    "catalog",
    "definition",
    "names",
    "now",
    "read",
    "table",
    "table_at",
    "texts_of",
]

#: Property of a table that came back from a backup: when its states were written, by their ids.
TIMES = "thalweg.times"

# It tells for each file that texts are read as what we ask for.
logging.getLogger("pyiceberg.io.pyarrow").addFilter(
    lambda said: not said.getMessage().startswith("Iceberg does not have a dictionary type")
)


def names() -> list[str]:
    """Names of the warehouse's tables, in referential order."""
    return list(TABLES)


def definition(name: str) -> TableDefinition:
    """The declaration of a table; raises `NotFound` with the nearest known name."""
    if name not in TABLES:
        raise NotFound(f"unknown table {name!r}{nearest(name, TABLES)}")
    return TABLES[name]


def catalog(settings: Settings | None = None) -> Catalog:
    """The PyIceberg catalogue named by `Settings.warehouse`, configured as PyIceberg wants it."""
    environment = tuple(sorted(i for i in os.environ.items() if i[0].startswith("PYICEBERG_")))
    # A token does not live for ever; a process may.
    return _catalog((settings or load()).warehouse, environment, int(time.monotonic() // 300))


@lru_cache(maxsize=4)
def _catalog(name: str, environment: tuple[tuple[str, str], ...], age: int) -> Catalog:
    # Read now: PyIceberg itself reads its configuration only once, when it is imported.
    properties = Config().get_catalog_config(name)
    if not properties:
        raise Unavailable(
            f"no Iceberg catalogue named {name!r} is configured; run inside the hub, or set "
            f"PYICEBERG_HOME or PYICEBERG_CATALOG__{name.upper()}__URI"
        )
    with reachable(name):
        return load_catalog(name, **{k: v for k, v in properties.items() if isinstance(v, str)})


def table(name: str, settings: Settings | None = None) -> Table:
    """The Iceberg table, as of now."""
    definition(name)
    of = catalog(settings)
    try:
        with reachable(of.name):
            return of.load_table((NAMESPACE, name))
    except NoSuchTableError:
        raise Unavailable(
            f"table {name!r} is not in the catalogue yet; run `thalweg.warehouse.migrate()`"
        ) from None


def table_at(name: str, snapshot_id: int | None, settings: Settings | None = None) -> Table:
    """The table as it was when first asked for this snapshot, which does not change; else, now."""
    if snapshot_id is None:
        return table(name, settings)
    known = _known(name, snapshot_id, catalog(settings))
    if not known:
        known.append(table(name, settings))
    return known[0]


@lru_cache(maxsize=16)
def _known(name: str, snapshot_id: int, of: Catalog) -> list[Table]:
    return []  # to be filled by who has loaded the table


def now(name: str, settings: Settings | None = None) -> Snapshot | None:
    """What `state` gives of a table; to read it then asks the catalogue for nothing more."""
    found = table(name, settings)
    if snapshot := state(found):
        _known(name, snapshot.snapshot_id, found.catalog)[:] = [found]
    return snapshot


def read(
    name: str,
    columns: Sequence[str] | None = None,
    where: str | BooleanExpression | None = None,
    snapshot_id: int | None = None,
    settings: Settings | None = None,
    *,
    at: dt.datetime | None = None,
    encoded: bool = False,
) -> pa.Table:
    """Rows of a table.

    Parameters
    ----------
    columns
        Names of the columns wanted, all by default.
    where
        Condition on the rows: a PyIceberg expression, or its text form:
        `"location_id = 'usgs-03171000' and value_time >= '2024-09-26T00:00:00+00:00'"`.
        Put values from outside into an expression, not into text.
    snapshot_id
        The state of the table to read; the newest by default, in a rerun that of then.
    at
        Read the table as it was at this time, as far as upkeep has kept that state.
    encoded
        Leave texts as dictionaries, as the files have them: less to make where they repeat.

    Returns
    -------
    pyarrow.Table
        With the declared columns; times are UTC. The order of rows is not promised.

    Raises
    ------
    NotFound
        An unknown table, column or snapshot; a state that upkeep has ended.
    InvalidInput
        A condition that cannot be understood, or a time without a time zone.
    """
    declared = definition(name)
    for column in columns or ():
        if column not in declared.columns:
            hint = nearest(column, declared.columns)
            raise NotFound(f"unknown column {column!r} of {name}{hint}")
    found = table_at(name, snapshot_id, settings)
    snapshot = found.snapshot_by_id(snapshot_id) if snapshot_id else None
    if snapshot_id and snapshot is None:
        raise NotFound(f"table {name!r} has no snapshot {snapshot_id}")
    if snapshot_id is None and at is None:
        snapshot = state(found)
        snapshot_id = snapshot.snapshot_id if snapshot and record.pinned() else None
    if at is not None:
        snapshot = as_of(found, at)
        if snapshot is None:
            return declared.arrow.empty_table().select(list(columns or declared.columns))
        snapshot_id = snapshot.snapshot_id
    fields = tuple(columns) if columns else ("*",)
    try:
        scan = found.scan(where or AlwaysTrue(), selected_fields=fields, snapshot_id=snapshot_id)
        with reachable(found.catalog.name):
            rows = scan.to_arrow(texts_of(found) if encoded else ())
            rows = rows if encoded else declared.plain(rows)
    except (ParseException, ValueError, TypeError) as error:
        raise InvalidInput(f"cannot read {name} where {where}: {error}") from error
    if snapshot is not None:
        record.note("read", "table", name, str(snapshot.snapshot_id), rows.num_rows)
    return rows


def state(found: Table, did: record.Direction = "read") -> Snapshot | None:
    """The state that is read where none is asked for: the newest; in a rerun, that of then.

    `did="same"`: with which a write is compared. Raises `NotFound` where upkeep has ended it.
    """
    name = found.name()[-1]
    version = record.pinned_version("table", name, did) or record.pinned_version("table", name)
    if version is None:
        return found.current_snapshot()
    snapshot = found.snapshot_by_id(int(version))
    if snapshot is None:
        raise NotFound(
            f"upkeep has ended the state of {name!r} that run {record.pinned()} read (snapshot "
            f"{version}), so it cannot be repeated as it was: run it anew with `thalweg run`"
        )
    return snapshot


def texts_of(found: Table) -> tuple[str, ...]:
    """Columns of text that all files have; one that came later cannot be read as a dictionary."""
    schemas = found.schemas().values()
    kept = set[str].intersection(*({field.name for field in s.fields} for s in schemas))
    return tuple(f.name for f in found.schema().fields if f.name in kept and f.field_type == TEXT)


def as_of(found: Table, at: dt.datetime) -> Snapshot | None:
    """The state that a table had at a time; None before it was first written.

    Raises `NotFound` where upkeep has ended that state, `InvalidInput` for a time without a zone.
    """
    if at.tzinfo is None:
        raise InvalidInput(f"at is {at}: expected a time with a time zone")
    log = _log(found)
    milliseconds = (at - dt.datetime.fromtimestamp(0, dt.UTC)) // dt.timedelta(milliseconds=1)
    place = next((i for i in range(len(log), 0, -1) if log[i - 1].timestamp_ms <= milliseconds), 0)
    kept = {each.snapshot_id: each for each in found.snapshots()}
    state = kept.get(log[place - 1].snapshot_id) if place else None
    if place == len(log):
        return state
    # Some catalogues keep of the log what comes after all that has ended, others leave gaps.
    later = kept[log[place].snapshot_id]
    is_first = (later.sequence_number or 0) <= 1
    if not is_first and (state is None or later.parent_snapshot_id not in kept):
        since = dt.datetime.fromtimestamp(later.timestamp_ms / 1000, dt.UTC)
        raise NotFound(
            f"upkeep has ended the state that {found.name()[-1]} had at {at}; the oldest that is "
            f"kept after it is of {since:%Y-%m-%d %H:%M:%S} UTC"
        )
    return state


def _log(found: Table) -> list[SnapshotLogEntry]:
    """When each state became the newest; of one that came back from a backup, when it first did."""
    times = json.loads(found.properties.get(TIMES, "{}"))
    return [
        each.model_copy(
            update={"timestamp_ms": times.get(str(each.snapshot_id), each.timestamp_ms)}
        )
        for each in found.history()
    ]


@contextmanager
def reachable(name: str) -> Iterator[None]:
    """Turn a catalogue that does not answer, or a file that is gone, into one clear line."""
    try:
        yield
    except CommitStateUnknownException:
        raise
    except FileNotFoundError as error:
        raise NotFound(
            f"the Iceberg catalogue {name!r} names a file that is gone: {error}; upkeep has ended "
            f"this state of the table, or the table was made anew: read it again"
        ) from error
    except (RequestException, RESTError, OSError) as error:
        gone = isinstance(error, NoConnection) and error.request is not None
        why = f"no connection to {error.request.url}" if gone else error  # type: ignore[union-attr]
        raise Unavailable(
            f"the Iceberg catalogue {name!r} does not answer: {why}; see `thalweg status`"
        ) from error
