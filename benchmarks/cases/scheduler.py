"""The scheduler: its start, its memory when idle, a run by it; jupyter-scheduler beside it."""

from __future__ import annotations

import collections
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg

from benchmarks import known, stores
from benchmarks.report import Aim, Table, aims, spread
from benchmarks.schedulers import JupyterScheduler, Scheduler, WebServer, until
from thalweg.settings import Settings

__all__ = ["PACKAGES", "REPEATS", "Schedulers", "measure", "tables"]

REPEATS = 3
IDLE = 30  # seconds
RUNS = 3  # at each start
PACKAGES = ("dagster", "papermill", "ipykernel", "jupyter-server")
OURS, BESIDE, PAPERMILL = "Thalweg (Dagster)", "jupyter-scheduler", "`papermill`"
LAUNCH = """mutation { launchRun(executionParams: {
  runConfigData: {ops: {%(name)s: {config: {time: "%(time)s"}}}}, selector: {
  repositoryLocationName: "thalweg", repositoryName: "__repository__", jobName: "run_%(name)s"}})
  { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""


@dataclass
class Schedulers:
    """Seconds of starts and of runs, bytes of memory, by scheduler; why one was not measured."""

    starts: dict[str, list[float]] = field(default_factory=lambda: collections.defaultdict(list))
    memory: dict[str, list[int]] = field(default_factory=lambda: collections.defaultdict(list))
    runs: dict[str, list[float]] = field(default_factory=lambda: collections.defaultdict(list))
    missing: str = ""


def measure(repeats: int) -> Schedulers:
    """Both in turns, with the same notebook and the same kernel; and Papermill's own command."""
    found = Schedulers()
    with known.served(24, "hourly") as (_, settings):
        times = list(known.expected(24, "hourly"))[:RUNS]
        for turn in range(repeats):
            _ours(settings, [time.isoformat() for time in times], found)
            _papermill(settings, [time.isoformat() for time in times], found)
            if not found.missing:
                folder = settings.home.parent / f"{turn}"
                _beside(settings, folder, [t.isoformat() for t in times], found)
    return found


def tables(found: Schedulers) -> list[Table]:
    """Start and memory of both, and a run in each way."""
    idle = [
        [name, spread(found.starts[name]), spread(b / 1e6 for b in found.memory[name])]
        for name in found.starts
    ]
    runs = [[name, f"{len(each)}", spread(each)] for name, each in found.runs.items()]
    if found.missing:
        idle.append([f"{BESIDE}: not measured, {found.missing}", "", ""])
    middle = spread(found.starts[OURS]).split()[0]
    return [
        aims(Aim("scheduler, until it serves schedules", float(middle), 45, " s")),
        Table("Start and idle", ("scheduler", "seconds to serve", "idle, MB"), idle),
        Table("A short notebook, from asking to done", ("way", "runs", "seconds"), runs),
    ]


def _ours(settings: Settings, times: list[str], found: Schedulers) -> None:
    with Scheduler(settings) as scheduler:
        until(scheduler.is_serving, "the scheduler serves")
        found.starts[OURS].append(time.time() - scheduler.began)
        time.sleep(IDLE)
        found.memory[OURS].append(scheduler.memory())
        with WebServer(scheduler) as web:
            for at in times:
                with stores.seconds(found.runs[OURS]):
                    asked = LAUNCH % {"name": known.NAME, "time": at}
                    run_id = web.ask(asked)["launchRun"]["run"]["runId"]
                    until(lambda run_id=run_id: _succeeded(scheduler, run_id), "the run ends")


def _succeeded(scheduler: Scheduler, run_id: str) -> bool:
    run = scheduler.instance.get_run_by_id(run_id)
    if run and run.status == dg.DagsterRunStatus.FAILURE:
        raise RuntimeError(f"the run has failed: see {scheduler.log}")
    return bool(run and run.status == dg.DagsterRunStatus.SUCCESS)


def _papermill(settings: Settings, times: list[str], found: Schedulers) -> None:
    for at in times:
        with stores.seconds(found.runs[PAPERMILL]):
            known.papermill(settings, os.devnull, at)


def _beside(settings: Settings, folder: Path, times: list[str], found: Schedulers) -> None:
    folder.mkdir()
    notebook = folder / f"{known.NAME}.ipynb"
    original = settings.home / "pipelines" / known.NAME / "notebook.ipynb"
    notebook.write_text(original.read_text())
    try:
        beside = JupyterScheduler(folder)
    except RuntimeError as why:
        found.missing = str(why)
        return
    with beside:
        until(beside.is_serving, f"jupyter-scheduler serves, see {beside.log}")
        found.starts[BESIDE].append(time.time() - beside.began)
        time.sleep(IDLE)
        found.memory[BESIDE].append(beside.memory())
        for at in times:
            with stores.seconds(found.runs[BESIDE]):
                job = beside.submit(notebook, {"time": at})
                until(lambda job=job: beside.status(job) == "COMPLETED", "the job ends")
