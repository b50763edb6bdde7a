"""Dagster's side: what the factory makes of pipeline.yaml, and the two services as they run."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import psutil
import pytest
import yaml

from thalweg import database
from thalweg import settings as settings_module
from thalweg.pipelines import history, specification
from thalweg.pipelines.definitions import definitions
from thalweg.pipelines.scheduler import dagster_home
from thalweg.pipelines.webserver import listen
from thalweg.settings import Settings

CLONE = Path(__file__).resolve().parents[2]
RUNS = "{runsOrError{... on Runs{results{runId jobName status}}}}"
LAUNCH = """mutation { launchRun(executionParams: {runConfigData: {}, selector: {
  repositoryLocationName: "thalweg", repositoryName: "__repository__", pipelineName: "run_%s"}})
  { ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""


def write_pipeline(home: Path, name: str, code: str, more: str = "") -> None:
    folder = home / "pipelines" / name
    folder.mkdir(parents=True)
    text = f"title: T\nowner: o\ndescription: d\nretries: {{attempts: 1, delay: 1}}\n{more}"
    (folder / "pipeline.yaml").write_text(text)
    cell = {"cell_type": "code", "id": "c", "metadata": {}, "source": code, "outputs": []}
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = {"cells": [cell | {"execution_count": None}], "metadata": {"kernelspec": kernel}}
    (folder / "notebook.ipynb").write_text(
        json.dumps(notebook | {"nbformat": 4, "nbformat_minor": 5})
    )


# -- the factory -----------------------------------------------------------------------------------


@pytest.fixture
def made() -> dg.Definitions:
    return definitions(settings_module.load({}, home=CLONE))


def test_every_pipeline_is_an_asset_with_its_needs_and_a_job(made: dg.Definitions) -> None:
    graph = made.resolve_asset_graph()
    pipelines = specification.all(settings_module.load({}, home=CLONE))
    assert {key.to_user_string() for key in graph.get_all_asset_keys()} == set(pipelines)
    for name, pipeline in pipelines.items():
        parents = {key.to_user_string() for key in graph.get(dg.AssetKey(name)).parent_keys}
        assert parents == set(pipeline.needs)
        assert made.resolve_job_def(f"run_{name}")
    steps = made.resolve_job_def("first_light").graph.node_dict
    assert set(steps) == {"load_sample", "evaluate"}


def test_schedules_are_on_only_if_the_settings_say_so() -> None:
    for on, expected in ((False, "STOPPED"), (True, "RUNNING")):
        repository = definitions(
            settings_module.load({}, home=CLONE, schedules=on)
        ).get_repository_def()
        statuses = {s.job_name: s.default_status.value for s in repository.schedule_defs}
        assert statuses == {"run_ingest_usgs": expected, "run_ingest_nwm": expected}
        sensors = {s.name: s.default_status.value for s in repository.sensor_defs}
        assert sensors == {"follow_new_data": "RUNNING", "first_light_sensor": "RUNNING"}


def test_parameters_are_checked_by_dagster_too(made: dg.Definitions) -> None:
    job = made.resolve_job_def("run_evaluate")
    given = {"metrics": ["kge"], "lead_time_bin": 48}
    dg.validate_run_config(job, {"ops": {"evaluate": {"config": given}}})
    for wrong in ({"lead_time_bin": "two"}, {"metric": ["kge"]}, {"metrics": "kge"}):
        with pytest.raises(dg.DagsterInvalidConfigError):
            dg.validate_run_config(job, {"ops": {"evaluate": {"config": wrong}}})


@pytest.fixture
def home(store: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A home of its own, with a data folder of its own, that uses the running store."""
    settings = replace(store, home=tmp_path, data_dir=tmp_path / "data", database_url="")
    for name in ("home", "data_dir", "database_url", "sample"):
        monkeypatch.setenv(f"THALWEG_{name.upper()}", str(getattr(settings, name)))
    settings.data_dir.mkdir()
    database.migrate(settings)
    return settings


def materialize(settings: Settings, name: str, **config: Any) -> dg.ExecuteInProcessResult:
    job = definitions(settings).resolve_job_def(f"run_{name}")
    run_config = {"ops": {name: {"config": config}}} if config else None
    return job.execute_in_process(run_config, raise_on_error=False)


def test_a_materialization_names_our_run(home: Settings) -> None:
    write_pipeline(home.home, "work", "print(1)")
    result = materialize(home, "work")
    assert result.success
    (event,) = result.asset_materializations_for_node("work")
    run = history.get(event.metadata["run_id"].value, home)
    assert (run.state, run.trigger) == ("succeeded", "dagster")
    assert event.metadata["notebook"].value == run.notebook_uri


def test_a_failed_notebook_is_tried_again_and_a_wrong_parameter_is_not(home: Settings) -> None:
    declared = "parameters:\n  days: {type: integer, description: d, default: 1, maximum: 9}\n"
    write_pipeline(home.home, "broken", "1 / 0")
    assert not materialize(home, "broken").success
    assert [run.error for run in history.find("broken", settings=home)] == [
        "In [1]: ZeroDivisionError: division by zero"
    ] * 2
    write_pipeline(home.home, "strict", "days = 1", declared)
    path = home.home / "pipelines/strict/notebook.ipynb"
    notebook = json.loads(path.read_text())
    notebook["cells"][0]["metadata"]["tags"] = ["parameters"]
    path.write_text(json.dumps(notebook))
    result = materialize(home, "strict", days=77)
    assert not result.success
    assert "above the maximum 9" in str(result.all_events)
    assert history.find("strict", settings=home) == []


# -- the services ----------------------------------------------------------------------------------


def test_home_keeps_everything_in_the_data_folder_and_sends_nothing(home: Settings) -> None:
    folder = dagster_home(home)
    written = yaml.safe_load((folder / "dagster.yaml").read_text())
    assert written["telemetry"] == {"enabled": False}
    assert written["storage"]["sqlite"]["base_dir"].startswith(str(home.data_dir))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (server,) = yaml.safe_load((folder / "workspace.yaml").read_text())["load_from"]
    assert "port" not in server["grpc_server"]
    with dg.DagsterInstance.from_config(str(folder)) as instance:
        assert not instance.telemetry_enabled
        assert instance.run_retries_enabled


def test_the_socket_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "ui.sock"
    path.touch()  # left behind by a server that was killed
    with listen(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


@pytest.mark.hub
def test_the_scheduler_runs_follows_and_survives(home: Settings, tmp_path: Path) -> None:
    """First light by itself, chaining, kill -9 in the middle of a run, nothing on TCP."""
    gate = tmp_path / "gate"
    gate.touch()
    wait = f"import time, pathlib\nwhile not pathlib.Path('{gate}').exists(): time.sleep(0.1)"
    write_pipeline(home.home, "load_sample", wait)
    write_pipeline(home.home, "evaluate", "1", "needs: [load_sample]\n")
    with _service("webserver", "--unix-socket", str(tmp_path / "ui"), "--prefix", "/x") as (ui):
        with _service("scheduler") as scheduler:
            ask = _client(tmp_path / "ui")
            wait_for(lambda: ("first_light", "SUCCESS") in statuses(ask))
            assert _listening(ui, scheduler) == []

            gate.unlink()
            ask(LAUNCH % "load_sample")
            wait_for(lambda: history.find("load_sample", "running", settings=home) != [])
            scheduler.kill()  # -9
            wait_for(lambda: not history.find("load_sample", "running", settings=home))
            assert "stopped" in history.find("load_sample", settings=home)[0].error
        gate.touch()
        before = len(history.find("evaluate", settings=home))
        with _service("scheduler") as scheduler:
            wait_for(lambda: ("run_load_sample", "SUCCESS") in statuses(ask))  # repeated
            wait_for(lambda: len(history.find("evaluate", settings=home)) > before)  # follows
            wait_for(lambda: {s for _, s in statuses(ask)} <= {"SUCCESS", "FAILURE"})
            tree = psutil.Process(scheduler.pid).children(recursive=True)
            scheduler.send_signal(signal.SIGTERM)
            scheduler.wait(40)
    _, alive = psutil.wait_procs(tree, 20)
    assert alive == []
    names = [name for name, _ in statuses_on_disk(home)]
    assert names.count("first_light") == 1  # once, also after a restart


@contextmanager
def _service(module: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", f"thalweg.pipelines.{module}", *arguments]
    process = subprocess.Popen(command, env=os.environ)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(40)


def _client(path: Path) -> Callable[[str], Any]:
    wait_for(path.exists)
    client = httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), timeout=60)

    def ask(query: str) -> Any:
        answer = client.post("http://ui/x/graphql", json={"query": query})
        return answer.raise_for_status().json()["data"]

    return ask


def statuses(ask: Callable[[str], Any]) -> list[tuple[str, str]]:
    return [(run["jobName"], run["status"]) for run in ask(RUNS)["runsOrError"]["results"]]


def statuses_on_disk(settings: Settings) -> list[tuple[str, str]]:
    with dg.DagsterInstance.from_config(str(dagster_home(settings))) as instance:
        return [(run.job_name, run.status.value) for run in instance.get_runs()]


def _listening(*services: subprocess.Popen[bytes]) -> list[Any]:
    tree = [psutil.Process(each.pid) for each in services]
    tree += [child for each in tree for child in each.children(recursive=True)]
    sockets = [c for each in tree for c in each.net_connections("inet")]
    # A kernel's own sockets come and go with a run.
    return [c for c in sockets if c.status == psutil.CONN_LISTEN and c.family == socket.AF_INET]


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.3)
