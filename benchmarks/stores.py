"""A store of its own to measure in: object store, Iceberg catalogue and database, and made-up rows.

One copy of a table is written as Thalweg writes it; another, `bare`, as PyIceberg alone does.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.table import Table

from thalweg import database, warehouse
from thalweg import settings as settings_module
from thalweg.hub import environment, object_store
from thalweg.settings import Settings
from thalweg.warehouse.access import catalog
from thalweg.warehouse.schema import NAMESPACE, TABLES

__all__ = ["NAME", "Server", "bare", "empty", "seconds", "series", "server", "store"]

NAME = "secondary_timeseries"
PATIENCE = 60  # seconds
HOURS = 2 * 365 * 24  # two years of hours at each reach


class Server:
    """An object store with its catalogue, in this folder; it may be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.settings = settings_module.load({}, data_dir=folder)
        self.folder = folder

    def start(self) -> None:
        """Start it, and wait until it answers."""
        object_store.prepare(self.settings)
        with (self.folder / "object-store.log").open("a") as log:
            self.process = subprocess.Popen(
                object_store.command(self.settings), stdout=log, stderr=subprocess.STDOUT
            )
        until = time.monotonic() + PATIENCE
        while not object_store.is_healthy(self.settings):
            if self.process.poll() is not None or time.monotonic() > until:
                raise TimeoutError("the object store did not come up")
            time.sleep(0.1)

    def kill(self) -> None:
        """End it as `kill -9` does."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE)
        object_store.remove_sockets(self.settings)


@contextlib.contextmanager
def server() -> Iterator[Server]:
    """A store that runs and has empty tables, with the environment that is needed to use it."""
    with tempfile.TemporaryDirectory(prefix="thalweg-bench-") as folder:
        made = Server(Path(folder))
        os.environ.update(environment.data_environment(made.settings))
        os.environ.pop("THALWEG_RUN_ID", None)  # of a store before this one
        try:
            made.start()
            database.migrate()
            warehouse.migrate()
            yield made
        finally:
            made.stop()


@contextlib.contextmanager
def store() -> Iterator[Settings]:
    """The settings of such a store."""
    with server() as made:
        yield made.settings


def series(rows: int, start: str = "2020-01-01T00") -> pa.Table:
    """About as many rows of hourly streamflow, in time order: two years of as many reaches.

    Values are different from hour to hour, so that they do not compress better than real ones.
    """
    reaches = max(1, round(rows / HOURS))
    rows = reaches * HOURS
    reach, hour = np.arange(rows) % reaches, np.arange(rows) // reaches
    names = pa.array([f"nwm30-{6_000_000 + i}" for i in range(reaches)])

    def same(text: str) -> pa.Array:
        return pa.array([text]).take(pa.array(np.zeros(rows, np.int8)))

    times = np.datetime64(start, "us") + hour.astype("timedelta64[h]")
    values = np.random.default_rng(1).gamma(2.0, 50.0, rows).round(2)
    return pa.table(
        {
            "value_time": pa.array(times).cast(pa.timestamp("us", "UTC")),
            "value": values,
            "unit_name": same("m^3/s"),
            "location_id": names.take(pa.array(reach)),
            "configuration_name": same("nwm30_retrospective"),
            "variable_name": same("streamflow_hourly_inst"),
        }
    )


def empty(name: str = NAME) -> None:
    """Make a table of Thalweg anew, without rows."""
    catalog().drop_table((NAMESPACE, name))
    warehouse.migrate()


def bare() -> Table:
    """The same table, made anew, for PyIceberg alone."""
    declared, found = TABLES[NAME], catalog()
    with contextlib.suppress(NoSuchTableError):
        found.drop_table((NAMESPACE, "bare"))
    return found.create_table(
        (NAMESPACE, "bare"), declared.iceberg, partition_spec=declared.partition_spec
    )


def full(rows: pa.Table) -> pa.Table:
    """The rows with all columns of the table, for PyIceberg alone."""
    declared = TABLES[NAME].arrow
    missing = {
        f.name: pa.nulls(len(rows), f.type) for f in declared if f.name not in rows.schema.names
    }
    columns = {name: rows[name] for name in rows.column_names} | missing
    return pa.table({name: columns[name] for name in declared.names}, schema=declared)


@contextlib.contextmanager
def seconds(into: list[float]) -> Iterator[None]:
    """Note how long what stands inside takes."""
    begin = time.monotonic()
    yield
    into.append(time.monotonic() - begin)
